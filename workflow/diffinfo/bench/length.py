"""Arena-Hard's win rate at equal lengths, an addition of ours: what it would be if answers were as long as the baseline's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SD = 5.0  # of the slope's prior: where length and outcome are one, the likelihood alone has no maximum
_STEPS = 30


def controlled(outcomes: npt.NDArray[np.float64], lead: npt.NDArray[np.float64]) -> float:
    """Win rate in per cent at a lead of 0, by logistic regression of battles on the lead in length.

    Args:
        outcomes: 1, 1/2 or 0 of each battle.
        lead: (l - l_baseline) / (l + l_baseline) in tokens of each, in [-1, 1], as in Arena-Hard's style control; it is not
            centred, since one model's own mean lead is what is to be taken out.
    """
    if not 0 < outcomes.mean() < 1:
        return float(100 * outcomes.mean())
    design = np.column_stack([np.ones(len(lead)), lead])
    # a prior as wide for the intercept keeps it finite where the lead separates wins from losses
    prior = np.diag([1e-6, 1 / _SD**2])
    weights = np.array([np.log(outcomes.mean() / (1 - outcomes.mean())), 0.0])
    for _ in range(_STEPS):
        likely = 0.5 * (1 + np.tanh(design @ weights / 2))
        gradient = design.T @ (outcomes - likely) - prior @ weights
        curvature = (design * (likely * (1 - likely))[:, None]).T @ design + prior
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step * min(1.0, 2 / np.abs(step).max(initial=1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return float(50 * (1 + np.tanh(weights[0] / 2)))
