"""What a check is: a measure that a statement bounds, and a way to break the statement's condition on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from diffinfo.cli import progress
from diffinfo.synthetic.distributions import Policies, ideal_rejected
from diffinfo.synthetic.population import minimise

CASES, CLASSES = 200, 12
EXACT = 1e-10


@dataclass(frozen=True)
class Check:
    """One row: ``measure(generator, broken)`` is at most ``tolerance`` where the statement holds."""

    statement: str
    quantity: str
    measure: Callable[[Generator, bool], float]
    tolerance: float
    broken: str | None  # how the condition is broken on purpose; None for rows "as printed"


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in float64."""
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def random_policies(generator: Generator, cases: int = CASES, classes: int = CLASSES) -> tuple[Policies, Tensor]:
    """Random pi* and pi_ref, the pi_l of Equation 1 and its beta: (cases, classes) each, beta (cases, 1).

    Logits spread by one nat at most: pairs less probable than 1e-12 would leave an optimum undetermined in float64.
    """
    spread = uniform(generator, 0.3, 1.0, 2, cases, 1)
    target, reference = (spread * normal(generator, 2, cases, classes)).log_softmax(-1)
    beta = uniform(generator, -1.0, 1.0, cases, 1).exp()
    return Policies(target, reference, ideal_rejected(target, reference, beta)), beta


def perturbed(policy: Tensor, generator: Generator, size: float = 0.5) -> Tensor:
    """A policy with normal noise of ``size`` nats on its log-probabilities."""
    return (policy + size * normal(generator, *policy.shape)).log_softmax(-1)


def pairwise(reward: Tensor) -> Tensor:
    """r(i) - r(j), (..., K) -> (..., K, K)."""
    return reward.unsqueeze(-1) - reward.unsqueeze(-2)


def worst(values: Tensor) -> float:
    """The largest of all cases."""
    return float(values.max())


def share(flags: Tensor) -> float:
    """Fraction of flags that are true."""
    return float(flags.double().mean())


def optimal_policy(reward: Callable[[Tensor], Tensor], pairs: Tensor, start: Tensor) -> Tensor:
    """Log of the policy that maximises E[log sigma(r(y_w) - r(y_l))] over theta (..., K), r = reward(log pi)."""

    def loss(theta: Tensor) -> Tensor:
        return -(pairs * logsigmoid(pairwise(reward(theta.log_softmax(-1))))).sum((-2, -1))

    def gradient(theta: Tensor) -> Tensor:
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf).sum(), leaf)[0]

    return minimise(loss, gradient, start, tolerance=1e-14, rounds=200)[0].log_softmax(-1)


def experiment(seed: int, checks: list[Check]) -> pd.DataFrame:
    """The rows of theorems.parquet: the measure as the statement has it, and with its condition broken on purpose."""
    rows = []
    for index, check in enumerate(progress(checks, "theorems")):
        value, broken = (
            check.measure(torch.Generator().manual_seed(1000 * seed + index), flag) for flag in (False, True)
        )
        rows.append(
            {
                "statement": check.statement,
                "quantity": check.quantity,
                "value": value,
                "tolerance": check.tolerance,
                "holds": value <= check.tolerance,
                "broken": check.broken,
                "broken_value": None if check.broken is None else broken,
            }
        )
    return pd.DataFrame(rows)
