import numpy as np
import pandas as pd
import pytest
import torch

from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.config.types import Engine
from diffinfo.models.exactness import load_scorer
from diffinfo.models.folders import load_model
from diffinfo.sample import complete
from diffinfo.sample.engine import Decoding
from diffinfo.sample.transformers import TransformersEngine
from diffinfo.tables import artifacts
from stages import stage

QUESTIONS = [
    "add 1 and 2",
    "describe the owl please",
    "sort the numbers 3 1 2 0",
    "list 2 items of tool please",
    "add 4 and 5",
]
GREEDY = Decoding(1, 0.0, 1.0, 12, 42)


@pytest.fixture(scope="module")
def setting(tiny):
    attention = "eager" if "gemma" in str(tiny) else "sdpa"
    chat = Chat(tiny)
    prompts = [chat.prompt_ids([{"role": "user", "content": question}]) for question in QUESTIONS]
    return tiny, attention, chat, prompts


def test_greedy_equals_stock_generate(setting):
    folder, attention, chat, prompts = setting
    ours = TransformersEngine(attention, "float32", 4096)(folder, prompts, chat.stop_ids, GREEDY)
    network = load_model(folder, attention).eval()
    for prompt, (generated,) in zip(prompts, ours, strict=True):
        stock = network.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=chat.stop_ids, pad_token_id=0
        )
        assert generated.token_ids == stock[0, len(prompt) :].tolist()


@pytest.mark.parametrize("decoding", [Decoding(3, 0.7, 1.0, 10, 1), Decoding(3, 1.3, 0.5, 10, 1)])
def test_logp_is_of_the_untruncated_model_at_temperature_one(setting, decoding):
    folder, attention, chat, prompts = setting
    generated = TransformersEngine(attention, "float32", 4096)(folder, prompts, chat.stop_ids, decoding)
    scorer = load_scorer(folder, attention).eval()
    with torch.no_grad():
        for prompt, samples in zip(prompts, generated, strict=True):
            for sample in samples:
                direct = scorer([prompt + sample.token_ids], [len(prompt)]).item()
                assert sample.logp == pytest.approx(direct, abs=1e-3)


def test_samples_do_not_depend_on_neighbours_batches_or_order(setting):
    folder, attention, chat, prompts = setting
    decoding = Decoding(4, 1.0, 1.0, 16, 42)
    wide = TransformersEngine(attention, "float32", 100_000)(folder, prompts, chat.stop_ids, decoding)
    narrow = TransformersEngine(attention, "float32", 1)(folder, prompts[::-1], chat.stop_ids, decoding)[::-1]
    assert [[s.token_ids for s in row] for row in wide] == [[s.token_ids for s in row] for row in narrow]
    assert len({tuple(s.token_ids) for s in wide[0]}) == 4  # n samples differ
    other = TransformersEngine(attention, "float32", 100_000)(
        folder, prompts, chat.stop_ids, Decoding(4, 1.0, 1.0, 16, 43)
    )
    assert [s.token_ids for s in other[0]] != [s.token_ids for s in wide[0]]


def test_stop_and_length(setting):
    folder, attention, chat, prompts = setting
    first = TransformersEngine(attention, "float32", 4096)(folder, prompts[:1], chat.stop_ids, GREEDY)[0][0]
    stop = first.token_ids[2]
    again = TransformersEngine(attention, "float32", 4096)(folder, prompts[:1], [stop], GREEDY)[0][0]
    assert again.token_ids == first.token_ids[: first.token_ids.index(stop) + 1]
    assert again.finish_reason == "stop"
    assert first.finish_reason == "length"
    assert len(first.token_ids) == 12


def test_frequencies_follow_the_model(setting):
    """2,000 one-token samples against the softmax: a chi-square far below its alarm level."""
    folder, attention, chat, prompts = setting
    decoding = Decoding(2000, 1.0, 1.0, 1, 7)
    samples = TransformersEngine(attention, "float32", 100_000)(folder, prompts[:1], chat.stop_ids, decoding)[0]
    with torch.no_grad():
        probabilities = load_model(folder, attention).eval()(torch.tensor(prompts[:1])).logits[0, -1].softmax(-1)
    counts = np.bincount([s.token_ids[0] for s in samples], minlength=len(probabilities))
    expected = 2000 * probabilities.numpy()
    top = np.argsort(-expected)[:40]
    rest_counts, rest = 2000 - counts[top].sum(), 2000 - expected[top].sum()
    chi_square = ((counts[top] - expected[top]) ** 2 / expected[top]).sum() + (rest_counts - rest) ** 2 / rest
    assert chi_square < 40 + 5 * (2 * 40) ** 0.5


def test_stage_writes_every_epoch_and_two_subsets_are_disjoint(tiny_mistral, pairs_table, tmp_path):
    table = artifacts.read(pairs_table, "preferences")
    prompts = pd.DataFrame({"prompt_id": table.prompt_id, "messages": table.messages, "source": "test"})
    artifacts.write(tmp_path / "prompts.parquet", prompts, "prompts")
    models = tmp_path / "models"
    for epoch in (1, 2):
        (models / f"epoch-{epoch}").parent.mkdir(exist_ok=True)
        (models / f"epoch-{epoch}").symlink_to(tiny_mistral)
    common = {
        "prompts": [tmp_path / "prompts.parquet"], "engine": Engine(), "attention": "sdpa", "dtype": "float32",
        "max_tokens": 6, "models": models, "epochs": [1, 2],
    }  # fmt: skip
    stage(complete.main, out=tmp_path / "a.parquet", limit=25, **common)
    stage(complete.main, out=tmp_path / "b.parquet", skip=25, **common)
    a, b = (artifacts.read(tmp_path / f"{name}.parquet", "completions") for name in "ab")
    assert sorted(a.epoch.unique()) == [1, 2]
    assert a.prompt_id.nunique() == 25
    assert set(a.prompt_id) | set(b.prompt_id) == set(table.prompt_id)
    assert not set(a.prompt_id) & set(b.prompt_id)
    with pytest.raises(UserError, match="none is left"):
        stage(complete.main, out=tmp_path / "c.parquet", skip=40, **common)


def test_a_stream_of_another_name_draws_independently_for_the_same_prompts(tiny_mistral, pairs_table, tmp_path):
    """As pi_ref's completions beside pi's in the DID stage: with shared draws one model would answer the same twice."""
    table = artifacts.read(pairs_table, "preferences")
    prompts = pd.DataFrame({"prompt_id": table.prompt_id, "messages": table.messages, "source": "test"})
    artifacts.write(tmp_path / "prompts.parquet", prompts, "prompts")

    def sample(name, **stream):
        stage(complete.main,
            models=tiny_mistral, prompts=[tmp_path / "prompts.parquet"], out=tmp_path / name, engine=Engine(), attention="sdpa",
            dtype="float32", max_tokens=8, temperature=1.0, limit=30, **stream,
        )  # fmt: skip
        return artifacts.read(tmp_path / name, "completions").set_index("prompt_id").token_ids

    policy, reference, again = sample("w"), sample("l", stream="reference"), sample("again", stream="reference")
    assert list(policy.index) == list(reference.index)
    assert reference.equals(again)
    same = [a == b for w, r in zip(policy, reference, strict=True) for a, b in zip(w, r, strict=False)]
    assert np.mean(same) < 0.05  # of some 700 words none is likely
    seeds = {complete.draws_seed(seed, name) for seed in range(100) for name in ("", "reference")}
    assert len(seeds) == 200
    assert max(seeds) < 2**32  # numpy's and vLLM's limit
