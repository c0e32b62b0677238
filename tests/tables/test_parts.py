"""Long tables in parts: what a killed job made is not made again, and the bytes are those of one made at once."""

import pandas as pd
import pytest

from diffinfo import reward
from diffinfo.cli import UserError
from diffinfo.config.types import Engine
from diffinfo.config.values import Computation
from diffinfo.operations import disk
from diffinfo.sample import complete
from diffinfo.tables import artifacts, parts
from diffinfo.train import reference
from stages import stage

SCORE = {"benchmark": "", "epoch": 0, "prompt_id": "p", "sample": 0, "tokens": 1, "score": 0.5}


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": f"add {i} and 1"}], "source": "x"}
        for i in range(9)
    ]
    path = tmp_path / "prompts.parquet"
    artifacts.write(path, pd.DataFrame(rows), "prompts")
    return path


@pytest.fixture
def killed_at(monkeypatch):
    """Makes a function die at its n-th call; counts those that came through."""

    def at(module, name, number):
        real, calls = getattr(module, name), []

        def dying(*arguments, **named):
            if len(calls) + 1 == number:
                raise KeyboardInterrupt
            calls.append(arguments)
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, dying)
        return calls

    monkeypatch.setattr(parts, "ROWS", 6)
    return at


def test_sampling_goes_on_from_its_whole_parts(tiny_mistral, prompts, tmp_path, killed_at, monkeypatch):
    def sample(name, progress_dir=None):
        stage(complete.main,
            models=tiny_mistral, prompts=[prompts], out=tmp_path / name, engine=Engine(), attention="sdpa", dtype="float32",
            max_tokens=6, n=2, temperature=0.9, seed=7, progress_dir=progress_dir,
        )  # fmt: skip
        return (tmp_path / name).read_bytes()

    calm = sample("calm.parquet", tmp_path / "parts")  # of the same size: rounding depends on the batch
    progress = tmp_path / "progress"
    calls = killed_at(complete, "_completed", 3)
    with pytest.raises(KeyboardInterrupt):
        sample("killed.parquet", progress)
    assert len(list(progress.rglob("*.parquet"))) == 2
    calls.extend([None] * 9)  # it lives on
    assert sample("killed.parquet", progress) == calm
    assert [call[-2:] for call in calls if call] == [(0, 3), (3, 6), (6, 9)]  # each part once
    assert len(list(progress.rglob("*.parquet"))) == 3  # they stay: Snakemake may yet delete the table


def test_reference_log_probabilities_go_on_from_their_whole_parts(tiny_mistral, pairs_table, tmp_path, killed_at):
    def score(name, progress_dir):
        stage(reference.main,
            model=tiny_mistral, preferences=pairs_table, out=tmp_path / name, attention="sdpa", dtype="float32",
            micro_batch_tokens=100, max_prompt_tokens=128, max_tokens=256, limit=10, progress_dir=progress_dir,
        )  # fmt: skip
        return (tmp_path / name).read_bytes()

    calm = score("calm.parquet", tmp_path / "parts")
    calls = killed_at(reference, "reference_table", 3)
    with pytest.raises(KeyboardInterrupt):
        score("killed.parquet", tmp_path / "progress")
    calls.extend([None] * 9)
    assert score("killed.parquet", tmp_path / "progress") == calm
    assert [list(call[1].index) for call in calls if call] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]  # each once
    table = artifacts.read(tmp_path / "killed.parquet", "reference_logps")
    alone = Computation(attention="sdpa", micro_batch_tokens=1)  # one sequence at a time
    for side in ("chosen", "rejected"):
        one = reference.score_completions(tiny_mistral, list(table.prompt_ids), list(table[f"{side}_ids"]), alone)
        assert list(table[f"{side}_logp"]) == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("jobs", [3, 7])
def test_jobs_that_share_a_table_change_no_byte_of_it(tiny_mistral, prompts, pairs_table, tmp_path, monkeypatch, jobs):
    monkeypatch.setattr(parts, "ROWS", 4)
    monkeypatch.setattr(
        reward, "score", lambda folder, talks, *_: [float(len(talks)), *map(float, range(1, len(talks)))]
    )
    tables = {kind: tmp_path / f"{kind}.parquet" for kind in ("completions", "scores", "pairs")}
    common = {"attention": "sdpa", "dtype": "float32"}
    sampling = {**common, "models": tiny_mistral, "prompts": [prompts], "engine": Engine(), "max_tokens": 6, "n": 2}
    scoring = {**common, "model": tiny_mistral, "completions": tables["completions"], "micro_batch_tokens": 100}
    pairs = {
        **common, "model": tiny_mistral, "preferences": pairs_table, "micro_batch_tokens": 100, "max_prompt_tokens": 128,
        "max_tokens": 256, "limit": 10,
    }  # fmt: skip
    works = (  # nine prompts, their eighteen completions, and ten pairs, each in five parts: of seven jobs two have none
        ("pairs", reference, "reference_table", pairs),
        ("completions", complete, "_completed", {**sampling, "temperature": 0.9, "seed": 7}),
        ("scores", reward, "score", scoring),
    )
    for kind, module, inner, settings in works:
        stage(module.main, **settings, out=tables[kind], progress_dir=tmp_path / "alone")
        alone = tables[kind].read_bytes()
        with monkeypatch.context() as patched:
            real, calls = getattr(module, inner), []
            patched.setattr(module, inner, lambda *given, real=real, calls=calls: calls.append(given) or real(*given))
            for number in range(jobs, 0, -1):  # in any order
                before, left = len(calls), tmp_path / kind / f"{number}-of-{jobs}"
                stage(module.main, **settings, out=left, progress_dir=tmp_path / "parts", share=(number, jobs))
                assert len(calls) - before == len([part for part in range(5) if part % jobs == number - 1])
                assert (tmp_path / "parts" / (left / parts.PARTS).read_text()).is_dir() or number > 5
            stage(module.main, **settings, out=tables[kind], progress_dir=tmp_path / "parts")
        assert len(calls) == 5  # each part once
        assert tables[kind].read_bytes() == alone
    with pytest.raises(UserError, match=r"--share: .* give --progress_dir"):
        stage(reward.main, **scoring, out=tmp_path / "none", share=(1, 2))


def test_what_says_that_parts_are_there_goes_with_them(tmp_path):
    for name in ("done", "other"):
        saved = tmp_path / ".progress/parts" / name
        parts.share_done(tmp_path / f".progress/shares/data/magpie-g27/{name}-1-of-2", saved)
        artifacts.keep_until_recorded(saved, tmp_path / f"{name}.parquet")
    (tmp_path / ".progress/shares/reference_logps" / parts.PARTS).mkdir(parents=True)  # a model of this name
    disk.forget(tmp_path, [str(tmp_path / "done.parquet")])
    assert [path.name for path in (tmp_path / ".progress/parts").iterdir()] == ["other"]
    assert [path.name for path in (tmp_path / ".progress/shares/data/magpie-g27").iterdir()] == ["other-1-of-2"]


def test_scoring_goes_on_from_its_whole_parts(tiny_mistral, tmp_path, killed_at, monkeypatch):
    rows = [
        {
            "benchmark": "", "epoch": 0, "prompt_id": f"p{i}", "sample": 0, "messages": [{"role": "user", "content": "x"}],
            "prompt_token_ids": [1], "completion": "y", "token_ids": [2] * i, "logp": -1.0, "finish_reason": "stop",
        }
        for i in range(1, 15)
    ]  # fmt: skip
    artifacts.write(tmp_path / "completions.parquet", pd.DataFrame(rows), "completions")
    monkeypatch.setattr(reward, "score", lambda folder, talks, *_: [float(len(talks))] * len(talks))
    calls = killed_at(reward, "score", 2)

    def score(name):
        stage(reward.main,
            model=tiny_mistral, completions=tmp_path / "completions.parquet", out=tmp_path / name, attention="eager",
            dtype="float32", micro_batch_tokens=100, progress_dir=tmp_path / "progress",
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        score("scores.parquet")
    calls.extend([None] * 9)
    score("scores.parquet")
    table = artifacts.read(tmp_path / "scores.parquet", "scores")
    assert table.score.tolist() == [6.0] * 12 + [2.0] * 2  # parts of six
    assert table.tokens.tolist() == list(range(1, 15))
    assert len([call for call in calls if call]) == 3


def test_a_short_table_that_is_lost_before_it_is_recorded_is_not_sampled_again(
    tiny_mistral, prompts, tmp_path, monkeypatch
):
    def sample():
        stage(complete.main,
            models=tiny_mistral, prompts=[prompts], out=tmp_path / "out.parquet", engine=Engine(), attention="sdpa",
            dtype="float32", max_tokens=6, n=2, temperature=0.9, seed=7, progress_dir=tmp_path / "progress",
        )  # fmt: skip
        return (tmp_path / "out.parquet").read_bytes()

    first = sample()
    (tmp_path / "out.parquet").unlink()
    monkeypatch.setattr(complete, "_completed", lambda *_: pytest.fail("sampled again"))
    assert sample() == first


def test_a_short_table_is_one_part(tmp_path):
    calls = []

    def make(first, end):
        calls.append((first, end))
        return pd.DataFrame({"x": [1.0] * (end - first)}).assign(**SCORE)

    for _ in range(2):
        assert sum(map(len, parts.in_shards(tmp_path / "parts", "scores", 20_000, make))) == 20_000
    assert calls == [(0, 20_000)]
    for folder in (None, tmp_path / "none"):
        assert sum(map(len, parts.in_shards(folder, "scores", 0, make))) == 0
