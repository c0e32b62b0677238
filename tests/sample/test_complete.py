"""Which prompts are completed, by which model and how; a stand-in takes the engine's place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffinfo import artifacts
from diffinfo.chat import Chat
from diffinfo.config import Engine
from diffinfo.sample import complete
from diffinfo.sample.engine import Generated

FRAME = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(30)]})


@pytest.mark.parametrize(("skip", "limit"), [(0, 7), (5, 7), (12, 100), (3, None), (0, 100)])
def test_a_subset_is_a_stretch_of_a_seeded_permutation(skip, limit):
    order = np.random.default_rng(11).permutation(30)[skip:].tolist()
    wanted = sorted(order if limit is None else order[:limit])
    assert complete.subset(FRAME, skip, limit, 11).prompt_id.tolist() == [f"p{i}" for i in wanted]


def test_what_one_call_skips_another_takes_and_seeds_permute_anew():
    first, rest = (set(complete.subset(FRAME, *how, 11).prompt_id) for how in ((0, 8), (8, None)))
    assert first | rest == set(FRAME.prompt_id)
    assert not first & rest
    assert first != set(complete.subset(FRAME, 0, 8, 12).prompt_id)
    assert complete.subset(FRAME, 0, None, 11) is FRAME


@pytest.fixture
def asked(monkeypatch):
    """What the engine was asked for, call by call; sample ``s`` of a prompt is the token ``s`` and the stop token."""
    calls = []

    def engine(model, prompts, stop_ids, decoding, first):
        calls.append((model, prompts, decoding))
        return [[Generated([s + 300, stop_ids[0]], -1.0 - s, "stop") for s in range(decoding.n)] for _ in prompts]

    monkeypatch.setattr(complete, "engine_for", lambda *_: engine)
    return calls


def test_each_epoch_answers_by_its_own_model_and_as_it_is_told(tiny_mistral, tmp_path, asked):
    texts = ["add 1 and 2", "sort the numbers 3 1 2 0", "describe the owl please"]
    rows = [{"prompt_id": t, "messages": [{"role": "user", "content": t}], "source": "x"} for t in texts]
    artifacts.write(tmp_path / "prompts.parquet", pd.DataFrame(rows), "prompts")
    for epoch in (1, 3):
        (tmp_path / f"epoch-{epoch}").symlink_to(tiny_mistral)
    chat = Chat(tiny_mistral)
    lengths = {t: len(chat.prompt_ids([{"role": "user", "content": t}])) for t in texts}
    longest = max(lengths.values())
    complete.main(
        models=tmp_path, prompts=[tmp_path / "prompts.parquet"], out=tmp_path / "out.parquet", engine=Engine(),
        attention="sdpa", dtype="float32", max_tokens=9, epochs=[1, 3], n=2, temperature=0.7, top_p=0.8, seed=5,
        max_prompt_tokens=longest,
    )  # fmt: skip
    assert [Path(model).name for model, _, _ in asked] == ["epoch-1", "epoch-3"]
    assert all(vars(how) == {"n": 2, "temperature": 0.7, "top_p": 0.8, "max_tokens": 9, "seed": 5} for *_, how in asked)
    table = artifacts.read(tmp_path / "out.parquet", "completions")
    assert len(table) == 2 * 3 * 2
    for row in table.itertuples():
        assert row.logp == -1.0 - row.sample
        assert row.token_ids[0] == 300 + row.sample
        assert row.prompt_token_ids == chat.prompt_ids(row.messages)
    complete.main(
        models=tiny_mistral, prompts=[tmp_path / "prompts.parquet"], out=tmp_path / "out.parquet", engine=Engine(),
        attention="sdpa", dtype="float32", max_tokens=9, max_prompt_tokens=longest - 1,
    )  # fmt: skip
    found = artifacts.read(tmp_path / "out.parquet", "completions")
    assert set(found.prompt_id) == {t for t, length in lengths.items() if length < longest}
    assert set(found.epoch) == {0}
