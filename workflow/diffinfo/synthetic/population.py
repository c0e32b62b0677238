"""The optimum of every objective without sampling noise: the expected loss over all K^2 pairs, minimised exactly.

Training mixes two things: how far an objective's optimum is from pi* (bias) and how far a finite run stays from that
optimum (noise, steps). This module measures the first alone, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from diffinfo.cli import UserError, progress, run
from diffinfo.methods import LABORATORY
from diffinfo.synthetic.categorical import GRID, describe, hyper_tensors, policies
from diffinfo.synthetic.distributions import Policies, js
from diffinfo.synthetic.losses import GRADIENTS, LOSSES
from diffinfo.tables import artifacts

Field = Callable[[Tensor], Tensor]
# a hinge (SLiC) is approached through softplus of these widths; at the last one JS is exact to some 5e-5 nats
SMOOTHING = (0.1, 1e-2, 1e-3, 1e-4)


def hessian(gradient: Field, theta: Tensor, slope: Tensor, width: float = 1e-7) -> Tensor:
    """Symmetric Hessian from differences of a batched gradient (``slope`` at theta), (..., K) -> (..., K, K)."""
    k = theta.shape[-1]
    steps = width * torch.eye(k).to(theta).view(k, *[1] * (theta.dim() - 1), k)
    columns = ((gradient(theta + steps) - slope) / width).movedim(0, -1)
    return (columns + columns.transpose(-1, -2)) / 2


def minimise(
    loss: Field, gradient: Field, start: Tensor, tolerance: float = 1e-12, rounds: int = 200
) -> tuple[Tensor, Tensor]:
    """Minimise many independent problems at once by damped Newton steps.

    Args:
        loss: theta (..., K) -> (...), invariant under adding a constant to theta.
        gradient: theta (..., K) -> (..., K).
        start: where to begin, (..., K), float64.
        tolerance: stop when every gradient's largest entry is below this, or no problem can be improved further.
        rounds: the most Newton steps.

    Returns:
        the minimisers (..., K) and the largest absolute entry of each gradient (...).
    """
    theta, damping = start.clone(), torch.full(start.shape[:-1], 1e-3).to(start)
    value, slope = loss(theta), gradient(theta)
    k = start.shape[-1]
    flat = torch.full((k, k), 1.0 / k).to(start)  # adding a constant to theta changes nothing: a direction to fix
    for _ in range(rounds):
        size = slope.abs().amax(-1)
        if bool(((size < tolerance) | (damping > 1e12)).all()):
            break
        eigenvalues, vectors = torch.linalg.eigh(hessian(gradient, theta, slope) + flat)
        lowest = torch.maximum(eigenvalues.abs(), eigenvalues.amax(-1, keepdim=True) * 1e-14)  # saddle-free
        along = (vectors.transpose(-1, -2) @ slope.unsqueeze(-1)).squeeze(-1)
        step = (vectors @ (along / (lowest + damping.unsqueeze(-1))).unsqueeze(-1)).squeeze(-1)
        trial = theta - step
        trial = trial - trial.mean(-1, keepdim=True)
        tried, tilted = loss(trial), gradient(trial)
        better = (tried < value) | ((tried <= value + 1e-12 * value.abs()) & (tilted.abs().amax(-1) < size))
        theta = torch.where(better.unsqueeze(-1), trial, theta)
        slope = torch.where(better.unsqueeze(-1), tilted, slope)
        value = torch.where(better, tried, value)
        damping = torch.where(better, damping * 0.1, (damping * 10).clamp_min(1e-8)).clamp_min(1e-16)
    return theta, slope.abs().amax(-1)


def optimum(name: str, reference: Tensor, pairs: Tensor, hyper: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (..., K) of the policy that minimises an objective's expected loss, and its gradient (...).

    Newton's method starts at pi_ref, as training does: for objectives that are not convex this is the optimum training
    can hope for. A loss with kinks (SLiC) is smoothed ever less; its gradient is the one at the last width.
    """
    theta = reference + torch.zeros_like(hyper["beta"])  # one start per setting
    slope = torch.full(theta.shape[:-1], torch.inf).to(theta)
    for width in SMOOTHING if LABORATORY[name].kinks else (0.0,):
        smooth = hyper | {"smoothing": torch.full_like(hyper["beta"], width)} if width else hyper
        loss = partial(LOSSES[name], reference=reference, pairs=pairs, hyper=smooth)
        gradient = partial(GRADIENTS[name], reference=reference, pairs=pairs, hyper=smooth)
        tolerance = 1e-12 if width in (0.0, SMOOTHING[-1]) else 1e-3
        theta, slope = minimise(loss, gradient, theta, tolerance)
    return theta.log_softmax(-1), slope


def experiment(seeds: list[int], taus: list[float], classes: int = 32) -> pd.DataFrame:
    """The rows of population.parquet: divergences (nats) of every optimum from pi* and from q, and its gradient."""
    world = policies(seeds, taus, classes, torch.float64)
    rows = []
    for group, (seed, tau) in enumerate(progress(list(product(seeds, taus)), "population")):
        one = Policies(*(part[group] for part in world))
        for name, settings in GRID.items():
            logp, slope = optimum(name, one.reference, one.pairs(), hyper_tensors(settings, torch.float64))
            values = torch.stack([js(one.target, logp), js(one.did, logp), slope], -1).tolist()
            rows += [(name, describe(s), tau, seed, *value) for s, value in zip(settings, values, strict=True)]
    frame = pd.DataFrame(
        rows, columns=["objective", "hyperparameters", "tau", "seed", "js_target", "js_did", "gradient"]
    )
    return frame.assign(js_minimum=None, minimum_step=None, js_final=None)


def main(out: Path, seeds: list[int] | None = None, taus: list[float] | None = None) -> None:
    """Minimise every objective of J.1 over all pairs at once and write how far its optimum is from pi* and from q.

    Args:
        out: the population table to write.
        seeds: each draws its own pi_ref; 42 alone when not given.
        taus: temperatures of pi*; 0.25, 0.5, 2 and 4 when not given.
    """
    seeds, taus = seeds or [42], taus or [0.25, 0.5, 2.0, 4.0]
    if min(taus) <= 0:
        raise UserError(f"--taus {taus}: a temperature must be positive.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    artifacts.write(out, experiment(seeds, taus), "population", seeds=seeds, taus=taus)


if __name__ == "__main__":
    run(main)
