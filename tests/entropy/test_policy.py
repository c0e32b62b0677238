import numpy as np
import pandas as pd
import pytest

from diffinfo.entropy import policy
from diffinfo.measures import MEASURES
from diffinfo.tables import artifacts


@pytest.mark.parametrize("group", [1, 3, 100])
def test_entropy_and_its_error_by_prompt(tmp_path, completions, monkeypatch, group):
    """Where a prompt's samples are in two groups of rows too."""
    monkeypatch.setattr(artifacts, "GROUP", group)
    completions(tmp_path / "c.parquet", [-1.0, -3.0, -5.0, -7.0])
    policy.main(completions=tmp_path / "c.parquet", out=tmp_path / "e.parquet")
    row = artifacts.read(tmp_path / "e.parquet", "entropy").iloc[0]
    assert row.entropy == 4.0
    assert row.stderr == pytest.approx(np.std([2, 6], ddof=1) / 2**0.5)
    assert (row.prompts, row.samples, row.truncated, row.mean_tokens) == (2, 4, 0.25, 2.5)


def test_entropy_of_samples_in_any_order_is_that_of_numpy(tmp_path, completions):
    logps = np.random.default_rng(1).normal(-30, 8, 40)
    completions(tmp_path / "c.parquet", logps.tolist())
    table = artifacts.read(tmp_path / "c.parquet", "completions").sample(frac=1, random_state=0)
    got = policy.estimate(table)
    assert got["entropy"] == pytest.approx(-logps.mean())
    assert got["stderr"] == pytest.approx((-logps).reshape(20, 2).mean(1).std(ddof=1) / 20**0.5)
    assert np.isnan(policy.estimate(table[table.prompt_id == "p0"])["stderr"])


def test_prompts_weigh_alike_whatever_their_samples(tmp_path, completions):
    completions(tmp_path / "c.parquet", [-1.0, -3.0, -7.0])  # two samples of one prompt, one of the other
    got = policy.estimate(artifacts.read(tmp_path / "c.parquet", "completions"))
    assert got["entropy"] == (2 + 7) / 2
    assert got["stderr"] == pytest.approx(np.std([2, 7], ddof=1) / 2**0.5)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_other_temperatures_are_no_entropy(tmp_path, completions, temperature):
    completions(tmp_path / "c.parquet", [-1.0], temperature)
    with pytest.raises(artifacts.ArtifactError, match="needs temperature 1"):
        policy.main(completions=tmp_path / "c.parquet", out=tmp_path / "e.parquet")


@pytest.mark.parametrize("prompts", [6, 100])
def test_the_interval_contains_the_exact_entropy_as_often_as_it_says(prompts):
    """600 repetitions, each with its own prompts and samples of strings that can be listed."""
    rng, repeats, samples = np.random.default_rng(4), 600, 4
    logp = rng.normal(size=(300, 9)) * rng.gamma(4, 0.4, size=(300, 1))
    logp -= np.log(np.exp(logp).sum(1, keepdims=True))
    truth = -(np.exp(logp) * logp).sum(1).mean()
    covered = []
    for _ in range(repeats):
        pick = rng.integers(300, size=prompts)
        drawn = (rng.random((prompts, samples, 1)) > np.exp(logp[pick]).cumsum(1)[:, None, :-1]).sum(-1)
        frame = pd.DataFrame({"prompt_id": np.repeat(np.arange(prompts), samples)})
        frame = frame.assign(logp=logp[pick[:, None], drawn].ravel(), finish_reason="stop", token_ids="xy")
        row = pd.DataFrame([policy.estimate(frame)]).assign(beta_accuracy=np.nan)
        found = MEASURES["entropy"][0].read(row, None)["entropy"]
        covered.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.97
