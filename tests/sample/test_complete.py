"""The stage: which prompts, which model, which settings."""

import numpy as np
import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.config.types import Engine
from diffinfo.sample import complete
from diffinfo.sample.engine import Decoding, Generated
from diffinfo.tables import artifacts
from diffinfo.world.training import start
from stages import stage


@pytest.fixture
def prompts(tmp_path):
    asked = ["add 1 and 2", "add 1 and 2 and 3 and 4", "sort the numbers 3 1 2 0", "add 5 and 2", "add 5 and 3"]
    rows = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": text}], "source": "t"}
        for i, text in enumerate(asked)
    ]
    artifacts.write(tmp_path / "prompts.parquet", pd.DataFrame(rows), "prompts")
    return tmp_path / "prompts.parquet"


@pytest.mark.parametrize("skip", [0, 1, 7, 19])
@pytest.mark.parametrize("limit", [None, 1, 7, 100])
@pytest.mark.parametrize("seed", [0, 42])
def test_subset_is_a_slice_of_a_seeded_permutation_in_the_tables_order(skip, limit, seed):
    frame = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(20)]})
    got = complete.subset(frame, skip, limit, seed).prompt_id.tolist()
    if skip == 0 and limit is None:
        assert got == frame.prompt_id.tolist()
        return
    rest = np.random.default_rng(seed).permutation(20).tolist()[skip:]
    assert got == [f"p{i}" for i in sorted(rest if limit is None else rest[:limit])]


def test_what_is_skipped_is_what_another_call_was_limited_to():
    frame = pd.DataFrame({"prompt_id": range(50)})
    trained = set(complete.subset(frame, 0, 30, 42).prompt_id)
    unseen = set(complete.subset(frame, 30, 15, 42).prompt_id)
    assert (len(trained), len(unseen)) == (30, 15)
    assert not trained & unseen
    assert trained != set(range(30))
    assert set(complete.subset(frame, 0, 30, 43).prompt_id) != trained
    with pytest.raises(UserError, match="none is left"):
        complete.subset(frame, 50, 1, 42)


def test_each_epoch_is_its_own_model_and_settings_arrive(tmp_path, prompts, monkeypatch):
    models = tmp_path / "models"
    for epoch in (2, 3):
        start(models / f"epoch-{epoch}", "mistral", hidden=16, layers=1, seed=epoch)
    calls = []

    def engine(settings, attention, dtype, longest):
        assert (settings.name, attention, dtype, longest) == ("transformers", "sdpa", "float32", 12 + 5)

        def generate(folder, ids, stop_ids, decoding, first):
            calls.append((folder.name, ids, stop_ids, decoding))
            end = {"epoch-2": ("stop", -1.0), "epoch-3": ("length", -2.0)}[folder.name]
            return [[Generated([i, n], end[1], end[0]) for n in range(decoding.n)] for i in range(len(ids))]

        return generate

    monkeypatch.setattr(complete, "engine_for", engine)
    out = tmp_path / "out.parquet"
    stage(complete.main,
        models=models, prompts=[prompts], out=out, engine=Engine(), attention="sdpa", dtype="float32", max_tokens=5,
        epochs=[2, 3], n=3, temperature=0.7, top_p=0.9, seed=11, max_prompt_tokens=12,
    )  # fmt: skip
    table = artifacts.read(out, "completions")
    assert [call[0] for call in calls] == ["epoch-2", "epoch-3"]
    assert all(call[3] == Decoding(3, 0.7, 0.9, 5, 11) for call in calls)
    assert max(map(len, calls[0][1])) <= 12
    asked = artifacts.read(prompts, "prompts")
    short = [len(m[0]["content"].split()) + 3 <= 12 for m in asked.messages]  # a token a word; <s> [INST] [/INST]
    assert table[table.epoch == 2].prompt_id.drop_duplicates().tolist() == asked.prompt_id[short].tolist()
    assert table["sample"].tolist() == [0, 1, 2] * (len(table) // 3)
    assert set(zip(table.epoch, table.finish_reason, table.logp, strict=True)) == {
        (2, "stop", -1.0),
        (3, "length", -2.0),
    }
    assert artifacts.provenance(out)["decoding"] == vars(Decoding(3, 0.7, 0.9, 5, 11))


def test_prompts_at_the_limit_stay_and_longer_ones_go(tmp_path, prompts, tiny_mistral):
    def kept(limit):
        out = tmp_path / f"{limit}.parquet"
        stage(complete.main,
            models=tiny_mistral, prompts=[prompts], out=out, engine=Engine(), attention="sdpa", dtype="float32",
            max_tokens=1, max_prompt_tokens=limit,
        )  # fmt: skip
        return artifacts.read(out, "completions")

    whole = kept(100)
    assert (whole.epoch == 0).all()
    lengths = whole.prompt_token_ids.map(len)
    limit = sorted(lengths)[2]
    assert kept(limit).prompt_id.tolist() == whole.prompt_id[lengths <= limit].tolist()
    assert lengths.max() > limit
