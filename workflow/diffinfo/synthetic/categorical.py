"""Figures 1 and 7 (Section 3.5, Appendix J.1): every objective, hyper-parameter, tau and seed as one tensor program.

A policy is softmax(theta) over K classes. All runs of a (seed, tau) see the same batches, so a step reduces each batch
once to a K x K matrix of counts and updates (seeds x taus, configurations, K) logits with hand-written gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffinfo.cli import UserError, progress, run
from diffinfo.methods import LABORATORY
from diffinfo.synthetic.distributions import Policies, js, tempered
from diffinfo.synthetic.losses import GRADIENTS
from diffinfo.tables import artifacts

GRID = {name: twin.settings for name, twin in LABORATORY.items()}
CHUNK = 64  # steps whose batches are drawn at once


@dataclass(frozen=True)
class Recipe:
    """How the policies are trained: RMSprop as PyTorch has it, with gradients clipped policy by policy (J.1)."""

    classes: int = 32
    batch: int = 512
    learning_rate: float = 1e-3
    max_norm: float = 1.0
    decay: float = 0.99  # RMSprop's alpha
    epsilon: float = 1e-8


def hyper_tensors(settings: list[dict[str, float]], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Settings of one objective as tensors of shape (C, 1), one per hyper-parameter."""
    return {name: torch.tensor([[setting[name]] for setting in settings], dtype=dtype) for name in settings[0]}


def describe(setting: dict[str, float]) -> str:
    """The ``hyperparameters`` column: "beta=0.1 lambda=10"."""
    return " ".join(f"{name}={value:g}" for name, value in setting.items())


def policies(seeds: list[int], taus: list[float], classes: int, dtype: torch.dtype = torch.float32) -> Policies:
    """The policies of every (seed, tau), each of shape (seeds x taus, K), seeds outermost."""
    logits = torch.stack([torch.randn(classes, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(dtype)
    parts = [tempered(row, tau) for row in logits for tau in taus]
    return Policies(*(torch.stack(part) for part in zip(*parts, strict=True)))


def batches(world: Policies, seeds: list[int], recipe: Recipe, steps: int) -> Iterator[Tensor]:
    """Per step the share of every (y_w, y_l) among ``batch`` pairs, (seeds x taus, K, K), rows are winners.

    A seed's draws depend on that seed alone; its taus share their uniform numbers (y_w is the same for all of them).
    """
    k, taus = recipe.classes, len(world.target) // len(seeds)
    generators = [torch.Generator().manual_seed(2**32 + seed) for seed in seeds]
    winners, losers = (part.exp().cumsum(-1).view(len(seeds), taus, k) for part in (world.reference, world.rejected))
    for start in range(0, steps, CHUNK):
        length = min(CHUNK, steps - start)
        cells = torch.empty(length, len(seeds), taus, recipe.batch, dtype=torch.int64)
        for s, generator in enumerate(generators):
            uniform = torch.rand(CHUNK, 2, recipe.batch, generator=generator)[:length]
            w = torch.searchsorted(winners[s, 0], uniform[:, 0].contiguous()).clamp_max_(k - 1)
            for t in range(taus):
                lost = torch.searchsorted(losers[s, t], uniform[:, 1].contiguous()).clamp_max_(k - 1)
                cells[:, s, t] = w * k + lost
        rows = cells.view(-1, recipe.batch)
        rows += torch.arange(len(rows)).unsqueeze(-1) * k * k
        counts = torch.bincount(rows.view(-1), minlength=len(rows) * k * k).to(torch.float32) / recipe.batch
        yield from counts.view(length, len(seeds) * taus, k, k)


def gradients(
    theta: Tensor,
    reference: Tensor,
    pairs: Tensor,
    grid: dict[str, list[dict[str, float]]],
    hypers: list[dict[str, Tensor]],
) -> Tensor:
    """Gradients of every configuration, (G, C, K) from theta (G, C, K), reference (G, K) and pairs (G, K, K)."""
    out, start = torch.empty_like(theta), 0
    for (name, settings), hyper in zip(grid.items(), hypers, strict=True):
        part = slice(start, start + len(settings))
        out[:, part] = GRADIENTS[name](theta[:, part], reference.unsqueeze(1), pairs.unsqueeze(1), hyper)
        start = part.stop
    return out


def train(
    world: Policies,
    data: Iterator[Tensor],
    grid: dict[str, list[dict[str, float]]],
    recipe: Recipe,
) -> Iterator[Tensor]:
    """Train all configurations from pi_ref; yield theta (G, C, K), the same tensor, at step 0 and after every batch."""
    hypers = [hyper_tensors(settings, world.reference.dtype) for settings in grid.values()]
    theta = world.reference.unsqueeze(1).repeat(1, sum(map(len, grid.values())), 1)
    square = torch.zeros_like(theta)
    yield theta
    for pairs in data:
        grad = gradients(theta, world.reference, pairs, grid, hypers)
        norm = torch.linalg.vector_norm(grad, dim=-1, keepdim=True)
        grad.mul_((recipe.max_norm / (norm + 1e-6)).clamp_max_(1.0))
        square.mul_(recipe.decay).addcmul_(grad, grad, value=1 - recipe.decay)
        theta.addcdiv_(grad, square.sqrt().add_(recipe.epsilon), value=-recipe.learning_rate)
        yield theta


def experiment(
    seeds: list[int],
    taus: list[float],
    steps: int,
    record_every: int,
    grid: dict[str, list[dict[str, float]]] | None = None,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """The rows of objectives.parquet: divergences (nats) of every run at step 0 and every ``record_every`` steps."""
    grid, recipe = grid or GRID, recipe or Recipe()
    world = policies(seeds, taus, recipe.classes)
    # in float64: float32's rounding is as large as the distances that DPO reaches
    did, target = (part.double().log_softmax(-1).unsqueeze(1) for part in (world.did, world.target))
    recorded, curves = [], []
    thetas = train(world, batches(world, seeds, recipe, steps), grid, recipe)
    for step, theta in enumerate(progress(thetas, "categorical", total=steps + 1)):
        if step % record_every == 0 or step == steps:
            logp = theta.double().log_softmax(-1)
            recorded.append(step)
            curves.append(torch.stack([js(target, logp), js(did, logp)], -1))
    runs = [
        (name, describe(setting), tau, seed)
        for seed, tau in product(seeds, taus)
        for name, settings in grid.items()
        for setting in settings
    ]
    values = torch.stack(curves, 2).reshape(len(runs) * len(recorded), 2).numpy()  # run-major, then step
    frame = pd.DataFrame(runs, columns=["objective", "hyperparameters", "tau", "seed"])
    frame = frame.loc[frame.index.repeat(len(recorded))].reset_index(drop=True)
    return frame.assign(step=np.tile(recorded, len(runs)), js_target=values[:, 0], js_did=values[:, 1])


def main(
    out: Path,
    steps: int = 16_000,
    seeds: list[int] | None = None,
    taus: list[float] | None = None,
    record_every: int = 40,
) -> None:
    """Train every objective of J.1 on synthetic preferences and write JS[pi* || pi] and JS[q || pi] over the steps.

    Args:
        out: the objectives table to write.
        steps: batches of 512 pairs; below some 3,000 DPO does not lead yet at tau = 0.25.
        seeds: each draws its own pi_ref and its own batches; 42 alone when not given.
        taus: temperatures of pi*; 0.25, 0.5, 2 and 4 when not given.
        record_every: steps between recorded divergences.
    """
    seeds, taus = seeds or [42], taus or [0.25, 0.5, 2.0, 4.0]
    if steps < 1 or record_every < 1:
        raise UserError(f"--steps {steps} and --record_every {record_every} must both be at least 1.")
    if min(taus) <= 0:
        raise UserError(f"--taus {taus}: a temperature must be positive.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    frame = experiment(seeds, taus, steps, record_every)
    artifacts.write(out, frame, "objectives", seeds=seeds, taus=taus, steps=steps)


if __name__ == "__main__":
    run(main)
