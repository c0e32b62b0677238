"""Pairs by Equation 1: the law of y_l against sums over all candidates by hand, and what is written of each pair."""

from __future__ import annotations

from itertools import product
from math import exp, prod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.data.rejected import Settings, choose, main, weights
from diffinfo.tables import artifacts

REFERENCE, REWARD = (0.5, 0.3, 0.2), (1.0, 0.0, -2.0)  # of a policy with three responses


def settings(rejected: str = "ideal", sharpness: float = 1.5, seed: int = 7) -> Settings:
    return Settings(rejected=rejected, sharpness=sharpness, seed=seed)


def law(count: int, sharpness: float) -> list[float]:
    """P(y_l) under Equation 1's weights among ``count`` samples of the reference: a sum over all that may be sampled."""
    found = [0.0] * 3
    for drawn in product(range(3), repeat=count):
        chance = prod(REFERENCE[y] for y in drawn)
        total = sum(exp(-sharpness * REWARD[y]) for y in drawn)
        for y in drawn:
            found[y] += chance * exp(-sharpness * REWARD[y]) / total
    return found


def drawn(rejected: str, count: int, times: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(0)
    samples = rng.choice(3, size=(times, count), p=REFERENCE)
    chosen = [
        row[choose(np.array([REWARD[y] for y in row]), settings(rejected), f"p{k}")] for k, row in enumerate(samples)
    ]
    return np.bincount(chosen, minlength=3) / times


@pytest.mark.parametrize("count", [2, 5])
def test_y_l_is_drawn_by_equation_1s_weights(count: int) -> None:
    expected = np.array(law(count, 1.5))
    assert np.abs(drawn("ideal", count) - expected).max() < 4 * (0.25 / 6000) ** 0.5


def test_with_many_candidates_that_is_pi_l() -> None:
    tilted = np.array(REFERENCE) * np.exp(-1.5 * np.array(REWARD))
    assert np.abs(drawn("ideal", 200) - tilted / tilted.sum()).max() < 4 * (0.25 / 6000) ** 0.5 + 0.01


def test_the_worst_and_any() -> None:
    p = np.array(REFERENCE)
    assert np.abs(drawn("reference", 4) - p).max() < 4 * (0.25 / 6000) ** 0.5
    least = np.array([p[0] ** 4, (p[0] + p[1]) ** 4 - p[0] ** 4, 1 - (p[0] + p[1]) ** 4])
    assert np.abs(drawn("worst", 4) - least).max() < 4 * (0.25 / 6000) ** 0.5


def test_weights_of_large_rewards_do_not_overflow() -> None:
    assert weights(np.array([-2000.0, 0.0, -2000.0]), 1.0).tolist() == [0.5, 0.0, 0.5]


# prompt, sample, reward, finish reason
SAMPLES = [("b", 0, 0.5, "stop"), ("b", 1, 1.0, "length"), ("b", 2, -1.0, "stop"), ("b", 3, 0.0, "stop")]
SAMPLES += [
    ("a", 2, 3.0, "stop"),
    ("a", 0, 1.0, "length"),
    ("a", 1, 2.0, "stop"),
    ("c", 0, 1.0, "stop"),
    ("c", 1, 2.0, "stop"),
]


@pytest.fixture
def made(tmp_path: Path):
    def run(rejected: str, seed: int = 7, **decoding: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        files = {k: tmp_path / f"{k}.parquet" for k in ("completions", "scores", "preferences", "resampled")}
        frame = pd.DataFrame(SAMPLES, columns=["prompt_id", "sample", "score", "finish_reason"])
        frame["completion"] = [f"{p}{s}" for p, s, *_ in SAMPLES]
        frame["messages"] = [[{"role": "user", "content": f"{p} ?"}] for p, *_ in SAMPLES]
        frame = frame.assign(benchmark="", epoch=0, logp=-1.0, tokens=2)
        frame["prompt_token_ids"] = frame["token_ids"] = [[1, 2]] * len(frame)
        how = {"temperature": 1.0, "top_p": 1.0} | decoding
        artifacts.write(files["completions"], frame, "completions", decoding=how)
        artifacts.write(files["scores"], frame, "scores")
        main(**files, settings=settings(rejected, seed=seed))
        return artifacts.read(files["preferences"], "preferences"), artifacts.read(files["resampled"], "resampled")

    return run


def test_pairs_in_the_order_of_the_prompts_with_scores_and_flags(made) -> None:
    """The first sample is y_w whatever its reward, and never y_l; a prompt with two samples gives no pair."""
    pairs, resampled = made("worst")
    assert pairs.drop(columns="messages").to_dict("records") == [
        {
            "prompt_id": "b", "chosen": "b0", "rejected": "b2", "chosen_score": 0.5, "rejected_score": -1.0,
            "chosen_truncated": False, "rejected_truncated": False,
        },
        {
            "prompt_id": "a", "chosen": "a0", "rejected": "a1", "chosen_score": 1.0, "rejected_score": 2.0,
            "chosen_truncated": True, "rejected_truncated": False,
        },
    ]  # fmt: skip
    assert pairs.messages[1] == [{"role": "user", "content": "a ?"}]
    assert made("reference")[0].rejected.tolist() == ["b1", "a1"]
    assert made("reference")[0].rejected_truncated.tolist() == [True, False]
    w = [exp(-1.5 * r) for r in (1.0, -1.0, 0.0)]
    assert resampled.effective[0] == pytest.approx(sum(w) ** 2 / sum(v * v for v in w) / 3)
    assert resampled.candidates.tolist() == [3, 2]


def test_the_seed_decides_and_y_w_stays(made) -> None:
    draws = [made("ideal", seed)[0] for seed in range(30)]
    assert {tuple(pairs.chosen) for pairs in draws} == {("b0", "a0")}
    assert {pairs.rejected[0] for pairs in draws} >= {"b2", "b3"}
    assert made("ideal", 3)[0].equals(draws[3])


def test_samples_of_another_temperature_are_refused(made) -> None:
    with pytest.raises(UserError, match="not sampled at temperature 1"):
        made("ideal", temperature=0.9)
    with pytest.raises(UserError, match="not sampled at temperature 1"):
        made("ideal", top_p=0.9)
