"""The win rate at equal lengths, against a penalised likelihood maximised by scipy, and where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from diffinfo.bench.length import controlled


@pytest.mark.parametrize("seed", range(5))
def test_the_maximum_is_the_one_that_another_optimiser_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lead = rng.uniform(-1, 1, 400)
    outcomes = rng.choice([0, 0.5, 1], 400, p=[0.3, 0.2, 0.5]) * (rng.random(400) < 0.5 + lead / 3)

    def loss(weights: np.ndarray) -> float:
        z = weights[0] + weights[1] * lead
        return float(np.sum(np.logaddexp(0, z) - outcomes * z) + weights[1] ** 2 / 50)

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    assert controlled(outcomes, lead) == pytest.approx(100 / (1 + np.exp(-best[0])), abs=1e-3)


def test_known_rates() -> None:
    rng = np.random.default_rng(0)
    lead = rng.uniform(-1, 1, 200_000)
    won = (rng.random(len(lead)) < 1 / (1 + np.exp(-(0.4 + 2 * lead)))).astype(float)
    assert controlled(won, lead) == pytest.approx(100 / (1 + np.exp(-0.4)), abs=0.5)
    longer = lead > 0  # a policy whose answers are all longer wins more often than it would at equal lengths
    assert won[longer].mean() > 0.75
    assert controlled(won[longer], lead[longer]) == pytest.approx(100 / (1 + np.exp(-0.4)), abs=1.5)
    none = np.zeros(200_000)
    assert controlled(won, none) == pytest.approx(100 * won.mean())
    assert controlled(np.ones(4), lead[:4]) == 100
    assert controlled(np.zeros(4), lead[:4]) == 0
    assert controlled(np.array([1.0, 0.0]), np.array([0.5, -0.5])) == pytest.approx(50, abs=1e-6)  # separated
    assert 0 < controlled(np.array([1.0, 0.0]), np.array([0.5, 0.4])) < 50  # the shorter of two longer ones lost
