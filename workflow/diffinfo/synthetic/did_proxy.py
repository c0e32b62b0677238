"""Appendix K against the truth: the entropy of the DID by a trained proxy, and by sampling, where H(q) is exact.

The proxy is a policy trained from pi_ref with r = log pi~ on y_w ~ pi and y_l ~ pi_ref; its entropy is the estimate of H(q).
Three rivals weigh samples by w = (pi / pi_ref) / proposal and normalise the weights by their sum:
H(q) = log Z - E_q[log pi / pi_ref], Z = E[w]. Their proposals are the proxy, the policy pi (which the paper tried and
found too noisy), and a chain whose next token follows the ratio of the two next-token distributions, which needs no
training: both models' logits are known while sampling. Its weights spread with the length of responses, and so does
their loss: ``effective`` says how many draws from q a sample is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Generator, Tensor

from diffinfo.cli import UserError, progress, run
from diffinfo.entropy.did import beta_accuracy
from diffinfo.synthetic.distributions import did, entropy
from diffinfo.synthetic.ensemble import Rmsprop, Weights, copies, decode, log_probability, row_of
from diffinfo.synthetic.enumerable import POLICIES, Worlds, build, dpo_loss, draw
from diffinfo.tables import artifacts

BATCH = 32  # pairs per step
REPEATED = 16  # batches in the pool of the proxies that go through few pairs many times
WARMUP = 20  # steps
SAMPLES, EXTRA = 4, 32  # per test prompt: of the recipe, and of self-normalised importance sampling


@dataclass(frozen=True)
class Member:
    """What one proxy of the ensemble is trained on."""

    policy: str
    decode: str  # "greedy" or "sample"
    repeated: bool
    world: int


def members(worlds: int) -> list[Member]:
    """All proxies: policies x decodings x fresh or repeated pairs x worlds, worlds innermost."""
    return [Member(*one) for one in product(POLICIES, ("greedy", "sample"), (False, True), range(worlds))]


def weighted_entropy(log_ratio: Tensor, log_proposal: Tensor) -> Tensor:
    """H(q) by self-normalised importance sampling, nats.

    Args:
        log_ratio: log pi / pi_ref of n samples, (..., n).
        log_proposal: log-probability of the samples under what drew them, (..., n).
    """
    log_weights = log_ratio - log_proposal
    log_z = log_weights.logsumexp(-1) - torch.tensor(float(log_weights.shape[-1])).log()
    return log_z - (log_weights.softmax(-1) * log_ratio).sum(-1)


def effective_share(q: Tensor, proposal: Tensor) -> Tensor:
    """Draws from q that one weighted sample is worth: 1 / E_q[q / proposal], log-probabilities (..., K) -> (...)."""
    return 1 / (2 * q - proposal).exp().sum(-1)


def preferences(worlds: Worlds, everyone: list[Member], batches: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Pairs of every member: prompts (E, N, PROMPT) and chosen-then-rejected responses (E, 2, N, LENGTH)."""
    w, n = len(worlds.teachers), batches * BATCH
    prompts = draw(worlds.train_prompts, (w, n), generator)
    greedy = {"greedy": torch.ones(w, dtype=torch.bool), "sample": torch.zeros(w, dtype=torch.bool)}
    texts = {
        (name, how): decode(weights, prompts, generator, flag)
        for name, weights in (("reference", worlds.reference), *worlds.policies.items())
        for how, flag in greedy.items()
    }
    pairs = [torch.stack([texts[m.policy, m.decode][m.world], texts["reference", m.decode][m.world]]) for m in everyone]
    return prompts[[m.world for m in everyone]], torch.stack(pairs)


def train(
    worlds: Worlds,
    everyone: list[Member],
    prompts: Tensor,
    pairs: Tensor,
    steps: int,
    learning_rate: float,
    marks: list[int],
) -> dict[int, Weights]:
    """Train every member's proxy from pi_ref with r = log pi~; its weights after the marked numbers of steps."""
    proxies = copies(worlds.reference, [m.world for m in everyone])
    optimiser, kept = Rmsprop(proxies), {}
    first = torch.tensor([m.repeated for m in everyone])
    for step in progress(range(1, steps + 1), "proxies"):
        batch = torch.where(first, (step - 1) % REPEATED, step - 1)
        rows = (batch * BATCH).unsqueeze(-1) + torch.arange(BATCH)  # (E, BATCH)
        each = torch.arange(len(everyone)).unsqueeze(-1)
        chosen, rejected = pairs[each, 0, rows], pairs[each, 1, rows]
        loss = dpo_loss(proxies, 0.0, prompts[each, rows], torch.cat([chosen, rejected], 1), 1.0)
        optimiser.step(loss, learning_rate * min(1.0, step / WARMUP))
        if step in marks:
            kept[step] = {name: value.detach().clone() for name, value in proxies.items()}
    return kept


def experiment(seeds: list[int], marks: list[int], learning_rate: float) -> pd.DataFrame:
    """The rows of did_proxy.parquet: every estimate beside the exact H(q), means over the test prompts of a world."""
    worlds = build(seeds)
    everyone, m = members(len(seeds)), len(worlds.test_prompts)
    generator = torch.Generator().manual_seed(seeds[0])
    prompts, pairs = preferences(worlds, everyone, max(marks), generator)
    same = (pairs[:, 0] == pairs[:, 1]).all(-1).double()
    exact_reference = worlds.exact(worlds.reference)
    exact = {name: worlds.exact(weights) for name, weights in worlds.policies.items()}
    truth = {name: entropy(did(logp, exact_reference)).mean(-1) for name, logp in exact.items()}
    rows = []
    asked_in = pd.Series(range(m)).repeat(SAMPLES)
    for step, proxies in train(worlds, everyone, prompts, pairs, max(marks), learning_rate, marks).items():
        asked = worlds.test_prompts.repeat_interleave(EXTRA, 0).expand(len(everyone), -1, -1)
        samples = decode(proxies, asked, generator)
        log_proxy = log_probability(proxies, asked, samples).detach().double().view(-1, m, EXTRA)
        ids = row_of(samples).view(-1, m, EXTRA)
        for i, member in enumerate(everyone):
            if member.repeated and step <= REPEATED:  # nothing repeated yet: the proxy on fresh pairs once more
                continue
            seen = min(step, REPEATED if member.repeated else step) * BATCH
            cost = 6 * BATCH * step + 2 * seen + SAMPLES * m
            ratio = (exact[member.policy] - exact_reference)[member.world].gather(-1, ids[i])
            few, few_ratio = log_proxy[i, :, :SAMPLES], ratio[:, :SAMPLES]
            shared = {
                "decode": member.decode,
                "pairs": seen,
                "steps": step,
                "seed": seeds[member.world],
                "exact": float(truth[member.policy][member.world]),
                "beta_accuracy": beta_accuracy(asked_in, few.numpy().ravel(), few_ratio.numpy().ravel()),
                "policy": member.policy,
                "tied": float(same[i, :seen].mean()),
                "effective": None,
            }
            weighted = float(weighted_entropy(ratio, log_proxy[i]).mean())
            rows += [
                shared | {"estimator": "proxy", "estimate": float(-few.mean()), "cost": cost},
                shared | {"estimator": "proxy-snis", "estimate": weighted, "cost": cost + (3 * EXTRA - SAMPLES) * m},
            ]
    rows += _without_training(worlds, seeds, exact_reference, exact, truth, marks, generator)
    frame = pd.DataFrame(rows)
    known = {
        (name, seed): (float(entropy(logp[world]).mean()), float(entropy(exact_reference[world]).mean()))
        for name, logp in exact.items()
        for world, seed in enumerate(seeds)
    }
    both = [known[key] for key in zip(frame.policy, frame.seed, strict=True)]
    return frame.assign(policy_entropy=[one for one, _ in both], reference_entropy=[two for _, two in both])


def _without_training(
    worlds: Worlds,
    seeds: list[int],
    exact_reference: Tensor,
    exact: dict[str, Tensor],
    truth: dict[str, Tensor],
    marks: list[int],
    generator: Generator,
) -> list[dict[str, object]]:
    """Importance sampling from pi and from the chain of token ratios, at the cost of the proxies' fresh pairs."""
    rows: list[dict[str, object]] = []
    m = len(worlds.test_prompts)
    for name, weights in worlds.policies.items():
        ratio = exact[name] - exact_reference
        q = did(exact[name], exact_reference)
        for estimator, proposal in (("policy-is", exact[name]), ("token-ratio-is", worlds.token_ratio(weights))):
            effective = effective_share(q, proposal).mean(-1)
            for mark in marks:
                cost = 8 * BATCH * mark + SAMPLES * m
                n = max(SAMPLES, cost // (2 * m))  # per prompt: each sample passes through pi and pi_ref
                flat = proposal.flatten(0, 1)
                ids = torch.multinomial(flat.exp(), n, replacement=True, generator=generator).view(*ratio.shape[:2], n)
                estimates = weighted_entropy(ratio.gather(-1, ids), proposal.gather(-1, ids)).mean(-1)
                rows += [
                    {
                        "estimator": estimator,
                        "decode": "sample",
                        "pairs": n * m,
                        "steps": 0,
                        "seed": seed,
                        "exact": float(truth[name][world]),
                        "estimate": float(estimates[world]),
                        "beta_accuracy": None,
                        "policy": name,
                        "cost": 2 * n * m,
                        "tied": None,
                        "effective": float(effective[world]),
                    }
                    for world, seed in enumerate(seeds)
                ]
    return rows


def main(
    out: Path, seeds: list[int] | None = None, steps: list[int] | None = None, learning_rate: float = 1e-3
) -> None:
    """Estimate H(q) of policies whose every response can be listed, by Appendix K's proxy and by sampling.

    Args:
        out: the did_proxy table to write.
        seeds: one world (teacher, pi_ref and policies) each; 42 to 46 when not given.
        steps: numbers of training steps of 32 pairs after which the proxy is measured; 16, 64 and 256 when not given.
        learning_rate: of RMSprop, after a warm-up of 20 steps.
    """
    steps = sorted(steps or [16, 64, 256])
    if steps[0] < 1:
        raise UserError(f"--steps {steps}: each number must be at least 1.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    frame = experiment(seeds or [42, 43, 44, 45, 46], steps, learning_rate)
    artifacts.write(out, frame, "did_proxy", learning_rate=learning_rate)


if __name__ == "__main__":
    run(main)
