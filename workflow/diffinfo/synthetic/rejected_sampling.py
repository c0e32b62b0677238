"""Equation 1 on language models whose every response can be listed: which y_l lets DPO recover pi*?

y_w ~ pi_ref throughout, save for the last practice. Distances are means over prompts, in nats, at the population
optimum (closed form, as if every response had its own logit) and for a transformer trained on a finite number of pairs.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Generator, Tensor

from diffinfo.cli import UserError, progress, run
from diffinfo.synthetic.distributions import fitted, ideal_rejected, js, kl
from diffinfo.synthetic.ensemble import Rmsprop, all_responses, copies
from diffinfo.synthetic.enumerable import Worlds, build, dpo_loss
from diffinfo.tables import artifacts

BETA = 1.0
CANDIDATES = 4
PROMPTS, PER_PROMPT = 16, 8  # a step takes eight pairs of each of sixteen prompts: less noise for the same pairs
BATCH = PROMPTS * PER_PROMPT
DECAY = 25  # the learning rate falls as (1 + step / DECAY)^(-1/2): at a constant one, noise hides the optimum


def worst_of(log_reference: Tensor, reward: Tensor, candidates: int) -> Tensor:
    """Log-probability that a response is the worst by reward of n independent draws from pi_ref, (..., K).

    P(worst = y) = P(reward >= r(y))^n - P(reward > r(y))^n; equal rewards are put in the order of the list.
    """
    order = reward.argsort(dim=-1, stable=True)
    sorted_p = log_reference.exp().gather(-1, order)
    above = sorted_p.flip(-1).cumsum(-1).flip(-1)  # P(this one or a better one)
    share = above**candidates - torch.cat([above[..., 1:], torch.zeros_like(above[..., :1])], -1) ** candidates
    return torch.empty_like(share).scatter_(-1, order, share).clamp_min(1e-300).log()


def practices(target: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """log pi_l of every way to choose y_l independently of y_w, each (..., K)."""
    return {
        "ideal (Eq. 1)": ideal_rejected(target, reference, BETA),
        "ideal, half beta": ideal_rejected(target, reference, BETA / 2),
        "reference": reference,
        f"worst of {CANDIDATES}": worst_of(reference, target - reference, CANDIDATES),
    }


BEST_AND_WORST = (
    f"best and worst of {CANDIDATES}"  # y_w too: the usual recipe; its labels are certain, so it has no optimum
)


def _draws(log_p: Tensor, count: int, generator: Generator) -> Tensor:
    """``count`` rows per distribution, (W, P, K) -> (W, P, count)."""
    flat = torch.multinomial(log_p.exp().flatten(0, 1), count, replacement=True, generator=generator)
    return flat.view(*log_p.shape[:2], count)


def sample_pairs(
    target: Tensor, reference: Tensor, count: int, generator: Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of y_w and y_l in the list of responses under every practice, (W, P, count) each."""
    pairs = {
        name: (_draws(reference, count, generator), _draws(rejected, count, generator))
        for name, rejected in practices(target, reference).items()
    }
    four = _draws(reference, CANDIDATES * count, generator)
    reward = (target - reference).gather(-1, four).view(*four.shape[:2], count, CANDIDATES)
    four = four.view(reward.shape)
    pairs[BEST_AND_WORST] = tuple(
        four.gather(-1, pick.unsqueeze(-1)).squeeze(-1) for pick in (reward.argmax(-1), reward.argmin(-1))
    )  # type: ignore[assignment]
    return pairs


def train(
    worlds: Worlds, target: Tensor, reference: Tensor, marks: list[int], learning_rate: float, generator: Generator
) -> pd.DataFrame:
    """Distances of policies trained by DPO from pi_ref on each practice's pairs, after the marked numbers of pairs."""
    w, steps = len(worlds.teachers), max(marks) // BATCH
    data = sample_pairs(target, reference, steps * PER_PROMPT, generator)
    everyone = list(product(data, range(w)))
    winners, losers = (torch.stack([data[name][side][world] for name, world in everyone]) for side in (0, 1))
    listed, prompts = all_responses(), worlds.test_prompts[:PROMPTS]
    asked = prompts.expand(len(everyone), -1, -1)
    base = torch.stack([reference[world] for _, world in everyone])
    policy = copies(worlds.reference, [world for _, world in everyone])
    optimiser, rows = Rmsprop(policy), []
    for step in progress(range(1, steps + 1), "rejected sampling"):
        now = slice((step - 1) * PER_PROMPT, step * PER_PROMPT)
        ids = [side[..., now] for side in (winners, losers)]
        logp = torch.cat([base.gather(-1, i).transpose(1, 2).flatten(1) for i in ids], 1).float()
        responses = torch.cat([listed[i].transpose(1, 2).flatten(1, 2) for i in ids], 1)
        loss = dpo_loss(policy, logp, asked, responses, BETA)
        optimiser.step(loss, learning_rate / (1 + step / DECAY) ** 0.5)
        if step * BATCH in marks:
            exact = Worlds(worlds.teachers, worlds.reference, {}, prompts, prompts).exact(policy)
            goal = torch.stack([target[world] for _, world in everyone])
            near, far = js(goal, exact).mean(-1), kl(goal, exact).mean(-1)
            rows += [
                (name, step * BATCH, world, float(near[i]), float(far[i])) for i, (name, world) in enumerate(everyone)
            ]
    return pd.DataFrame(rows, columns=["rejected", "pairs", "seed", "js_target", "kl_target"])


def experiment(seeds: list[int], pairs: list[int], learning_rate: float) -> pd.DataFrame:
    """The rows of rejected_sampling.parquet; 0 pairs is the population optimum."""
    worlds = build(seeds, test_prompts=PROMPTS)
    reference, target = worlds.exact(worlds.reference), worlds.exact(worlds.policies["dpo"])
    rows = []
    for name, rejected in practices(target, reference).items():
        best = fitted(reference, rejected, reference, BETA)
        near, far = js(target, best).mean(-1), kl(target, best).mean(-1)
        rows += [(name, 0, world, float(near[world]), float(far[world])) for world in range(len(seeds))]
    optimum = pd.DataFrame(rows, columns=["rejected", "pairs", "seed", "js_target", "kl_target"])
    generator = torch.Generator().manual_seed(seeds[0])
    frame = pd.concat([optimum, train(worlds, target, reference, pairs, learning_rate, generator)], ignore_index=True)
    return frame.assign(seed=[seeds[world] for world in frame.seed])


def main(
    out: Path, seeds: list[int] | None = None, pairs: list[int] | None = None, learning_rate: float = 1.5e-3
) -> None:
    """Train DPO on pairs whose rejected responses come from Equation 1 or from common practice; write distances to pi*.

    Args:
        out: the rejected_sampling table to write.
        seeds: one world each; 42 to 46 when not given.
        pairs: numbers of training pairs after which to measure, multiples of 128; 1280 to 51200 when not given.
        learning_rate: of RMSprop at the first step.
    """
    pairs = sorted(pairs or [1280, 12_800, 51_200])
    if any(count < BATCH or count % BATCH for count in pairs):
        raise UserError(f"--pairs {pairs}: a step takes {BATCH} pairs, so each number must be a multiple of {BATCH}.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    frame = experiment(seeds or [42, 43, 44, 45, 46], pairs, learning_rate)
    artifacts.write(out, frame, "rejected_sampling", beta=BETA, learning_rate=learning_rate)


if __name__ == "__main__":
    run(main)
