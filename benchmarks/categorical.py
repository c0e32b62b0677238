"""The batched categorical program against a plain loop over configurations: same batches, same results, how much faster.

PYTHONPATH=workflow python benchmarks/categorical.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from diffinfo import methods
from diffinfo.cli import run
from diffinfo.config.types import Objectives
from diffinfo.methods import METHODS, PairLogps, Variant
from diffinfo.synthetic.categorical import GRID, Recipe, batches, policies, train
from diffinfo.synthetic.distributions import js


def one_run(name: str, setting: dict[str, float], reference: Tensor, pairs: list[Tensor], recipe: Recipe) -> Tensor:
    """Train one configuration the plain way: autograd, the language models' objectives, torch's optimiser."""
    settings = Objectives(slic_lambda=setting.get("lambda", 1.0), simpo_gamma=setting.get("gamma", 1.0))
    theta = reference.clone().requires_grad_()
    optimiser = torch.optim.RMSprop([theta], lr=recipe.learning_rate)
    for w, lost in pairs:
        logp = theta.log_softmax(-1)
        one = torch.ones(len(w))
        x = PairLogps(logp[w], logp[lost], reference[w], reference[lost], one, one)
        optimiser.zero_grad()
        methods.loss(Variant(METHODS[name], setting["beta"]), settings, x).mean().backward()
        torch.nn.utils.clip_grad_norm_([theta], recipe.max_norm)
        optimiser.step()
    return theta.detach()


def unpacked(counts: list[Tensor], recipe: Recipe) -> list[list[Tensor]]:
    """Per (seed, tau) and step the classes of the chosen and rejected responses, (2, batch)."""
    return [
        [
            torch.stack(torch.nonzero(step[group]).repeat_interleave(_times(step[group], recipe), 0).unbind(-1))
            for step in counts
        ]
        for group in range(len(counts[0]))
    ]


def _times(shares: Tensor, recipe: Recipe) -> Tensor:
    return (shares[shares > 0] * recipe.batch).round().long()


def timed(work: Iterator[Tensor]) -> tuple[Tensor, float]:
    """The last item and the seconds of CPU it took to get there."""
    start = time.process_time()
    *_, last = work
    return last, time.process_time() - start


def compare(steps: int = 200, loop_steps: int = 20, seed: int = 42) -> None:
    """Time both programs per step over all 39 configurations and 4 taus, and compare their policies.

    Args:
        steps: of the batched program, for its time.
        loop_steps: of both, for the comparison and the loop's time.
        seed: of pi_ref and of the batches.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    recipe, taus = Recipe(), [0.25, 0.5, 2.0, 4.0]
    world = policies([seed], taus, recipe.classes)
    runs = [(name, setting) for name, settings in GRID.items() for setting in settings]
    for _ in train(world, batches(world, [seed], recipe, 20), GRID, recipe):
        pass  # warm up
    _, batched = timed(train(world, batches(world, [seed], recipe, steps), GRID, recipe))

    counts = list(batches(world, [seed], recipe, loop_steps))
    pairs = unpacked(counts, recipe)
    one_run(*runs[0], world.reference[0], pairs[0], recipe)
    each: dict[torch.dtype, tuple[Tensor, Tensor, float]] = {}
    for precise in (torch.float32, torch.float64):
        start_at = policies([seed], taus, recipe.classes, precise)
        together, _ = timed(train(start_at, iter([step.to(precise) for step in counts]), GRID, recipe))
        start = time.process_time()
        alone = torch.stack([torch.stack([one_run(*one, reference, each_step, recipe) for one in runs])
                             for reference, each_step in zip(start_at.reference, pairs, strict=True)])  # fmt: skip
        each[precise] = together, alone, time.process_time() - start
    loop = each[torch.float32][2]
    each_loop, each_batched = 1e3 * loop / loop_steps, 1e3 * batched / steps
    print(f"configurations: {len(runs)} x {len(taus)} taus, K = {recipe.classes}, batch {recipe.batch}")
    print(f"loop:    {each_loop:8.2f} ms of CPU per step of all configurations")
    print(f"batched: {each_batched:8.2f} ms, sampling included ({each_loop / each_batched:.0f} times as fast)")
    steep = torch.tensor([name == "cal-dpo" and setting["beta"] < 0.01 for name, setting in runs])
    for precise, (together, alone, _) in each.items():
        gap = (together - alone).abs().amax(-1)
        far = js(together.double().log_softmax(-1), alone.double().log_softmax(-1)).max()
        print(f"{precise} after {loop_steps} steps: largest |theta difference| {gap[:, ~steep].max():.1e},")
        print(f"    Cal-DPO at beta < 0.01 {gap[:, steep].max():.1e}; largest JS of both policies {far:.1e} nats")


if __name__ == "__main__":
    run(compare)
