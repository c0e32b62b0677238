"""Win rates and their bootstrap, against Bradley-Terry and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.test_arena_hard import OUTCOME, bradley_terry, games, percentile
from diffinfo.bench.arena_hard import battles, bootstrap, win_rate


def test_sides_and_weights() -> None:
    assert battles(games("A>>B", "A>>B")).tolist() == [0, 0, 0, 1, 1, 1]  # the baseline won as A, then the answer as A
    assert battles(games("B>A", "B>A")).tolist() == [1, 0]
    assert battles(games("A=B", None)).tolist() == [0.5]
    mixed = games("A>B", "A>>B", "B>>A", "A=B")
    assert battles(mixed).tolist() == [0, 1, 1, 1, 1, 1, 1, 0.5]
    assert battles(mixed.sample(frac=1, random_state=3)).tolist() == battles(mixed).tolist()


@settings(deadline=None, max_examples=60)
@given(st.lists(OUTCOME, min_size=2, max_size=200).filter(lambda found: 0 < sum(found) < len(found)))
def test_the_win_rate_is_what_bradley_terry_fits(outcomes: list[float]) -> None:
    array = np.array(outcomes)
    assert win_rate(array) == pytest.approx(100 / (1 + 10 ** ((1000 - bradley_terry(array)) / 400)), abs=1e-4)


def test_extremes_do_not_diverge() -> None:
    assert win_rate(np.ones(7)) == 100
    assert win_rate(np.zeros(7)) == 0
    assert bootstrap(np.ones(7), 5, 0) == (100, 100)
    almost = np.array([1.0] * 2999 + [0.5])
    assert win_rate(almost) == pytest.approx(100 * (2999.5 / 3000), abs=1e-4)
    with pytest.raises(ValueError, match="no battles"):
        win_rate(np.array([]))


def test_bootstrap_is_seeded_and_covers_the_rate() -> None:
    outcomes = np.array([1.0] * 60 + [0.5] * 20 + [0.0] * 40)
    low, high = bootstrap(outcomes, 100, 42)
    assert (low, high) == bootstrap(outcomes, 100, 42)
    assert (low, high) != bootstrap(outcomes, 100, 43)
    assert low < win_rate(outcomes) < high
    half = 1.96 * 100 * outcomes.std() / len(outcomes) ** 0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.3)


@pytest.mark.parametrize("resamples", [1, 40, 100])
def test_bootstrap_is_the_middle_95_percent_of_means_over_as_many_battles(resamples: int) -> None:
    outcomes = np.array([1.0] * 5 + [0.5] * 3 + [0.0] * 4)
    rng = np.random.default_rng(5)
    means = [100 * outcomes[rng.integers(12, size=12)].mean() for _ in range(resamples)]
    expected = percentile(means, 0.025), percentile(means, 0.975)
    assert bootstrap(outcomes, resamples, 5) == pytest.approx(expected, abs=1e-3)
