"""H(q_T) over T where it is known: bigram models, on which dynamic programming over the last token sums all strings.

q, proportional to pi / pi_ref, has no mass on finite strings without a limit T. Estimates beside the exact value: sequential
Monte Carlo with its certificate, token ratios without resampling, importance sampling from pi (Appendix K's first try) and
the entropy of a proxy trained with r = log pi~ (its recipe).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffinfo.cli import run
from diffinfo.entropy import smc
from diffinfo.synthetic.did_proxy import weighted_entropy
from diffinfo.tables import artifacts

VOCABULARY, END = 300, 0
SIZES = (0.3, 1.0)  # standard deviation of a token's log-ratio, nats, and again of all contexts together
LENGTHS = (2, 5, 10, 25, 50, 100)
PARTICLES, SAMPLES = 32, 1024
PAIRS, STEPS, RATE = 64, 50, 0.05  # of the proxy: a batch, batches, RMSprop's learning rate


class Bigrams:
    """A ``Chain`` (see ``diffinfo.entropy.smc``) of two tables of log-probabilities (V + 1, V); the last row begins."""

    def __init__(self, policy: Tensor, reference: Tensor, groups: int, particles: int) -> None:
        self.tables, self.shape = (policy, reference), (groups, particles)

    def step(self, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``Chain``."""
        rows = torch.full(self.shape, self.tables[0].shape[1]) if tokens is None else tokens
        return self.tables[0][rows], self.tables[1][rows]

    def reorder(self, ancestors: Tensor) -> None:
        """The last token is all that a string remembers, and comes with the next step."""


def bigrams(size: float, seed: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    """log pi and log pi_ref, (V + 1, V): a random pi_ref, changed token by token and the same way in all contexts."""
    generator = torch.Generator().manual_seed(seed)
    reference, own, shared = (
        torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
        for rows in (vocabulary + 1, vocabulary + 1, 1)
    )
    reference = (1.5 * reference).log_softmax(-1)
    return (reference + size * (own + shared)).log_softmax(-1), reference


def exact(log_terms: Tensor, values: Tensor, length: int, stops: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sums over all strings of at most t tokens, for t = 1..length, by the last token.

    Args:
        log_terms: what a token adds to the log of a string's weight, (V + 1, V).
        values: what it adds to the quantity that is averaged, (V + 1, V).
        length: the longest limit.
        stops: tokens that end a string.

    Returns:
        log of the sum of weights, and the weighted mean of the quantity, each (length).
    """
    going = log_terms.clone()
    going[:, list(stops)] = -math.inf
    live = torch.full((len(log_terms),), -math.inf, dtype=torch.float64)
    live[-1], mean = 0.0, torch.zeros(len(log_terms), dtype=torch.float64)
    begin = torch.full((1,), -math.inf, dtype=torch.float64)
    ended, sums, means = [], [], []
    for _ in range(length):
        arrive = (live.unsqueeze(-1) + log_terms)[:, list(stops)].flatten()
        there = (mean.unsqueeze(-1) + values)[:, list(stops)].flatten()
        ended.append((arrive.logsumexp(0), (arrive.softmax(0) * there).sum()))
        onward = live.unsqueeze(-1) + going
        mean = torch.cat([(onward.softmax(0).nan_to_num(0.0) * (mean.unsqueeze(-1) + values)).sum(0), begin * 0])
        mean = mean.nan_to_num(0.0)
        live = torch.cat([onward.logsumexp(0), begin])
        parts = torch.stack([*(log for log, _ in ended), live.logsumexp(0)])
        own = torch.stack([*(value for _, value in ended), (live.softmax(0) * mean).sum()])
        sums.append(parts.logsumexp(0))
        means.append((parts.softmax(0) * own).sum())
    return torch.stack(sums), torch.stack(means)


def sample(table: Tensor, strings: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Contexts and tokens (strings, length) of a bigram model; tokens after the end have the context -1."""
    context = torch.full((strings,), len(table) - 1)
    contexts, tokens = [], []
    for _ in range(length):
        token = torch.multinomial(table[context].exp(), 1, generator=generator).squeeze(-1)
        contexts.append(context)
        tokens.append(token)
        context = torch.where((context < 0) | (token == END), -1, token)
    return torch.stack(contexts, 1), torch.stack(tokens, 1)


def score(table: Tensor, contexts: Tensor, tokens: Tensor) -> Tensor:
    """log-probability of the first t tokens of each string, t = 1..length, (strings, length)."""
    return torch.where(contexts >= 0, table[contexts, tokens], 0.0).cumsum(1)


def proxy(policy: Tensor, reference: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """log pi~ (V + 1, V), trained from pi_ref with r = log pi~ on y_w ~ pi and y_l ~ pi_ref."""
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.RMSprop([logits], RATE)
    for _ in range(STEPS):
        optimiser.zero_grad()
        w, r = (sample(table, PAIRS, length, generator) for table in (policy, reference))
        table = logits.log_softmax(-1)
        loss = -logsigmoid(score(table, *w)[:, -1] - score(table, *r)[:, -1]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return logits.detach().log_softmax(-1)


def experiment(size: float, seed: int) -> list[dict[str, Any]]:
    """The rows of one pair of models."""
    policy, reference = bigrams(size, seed)
    generator = torch.Generator().manual_seed(seed)
    ratio = policy - reference
    sums, means = exact(ratio, ratio, max(LENGTHS), [END])
    truth = sums - means
    contexts, tokens = sample(policy, SAMPLES, max(LENGTHS), generator)
    log_ratio, log_policy = (score(table, contexts, tokens) for table in (ratio, policy))
    fitted = proxy(policy, reference, max(LENGTHS), generator)
    _, proxy_mean = exact(fitted, fitted, max(LENGTHS), [END])
    streams = [np.random.default_rng((seed, island)) for island in range(smc.ISLANDS)]
    chain = Bigrams(policy, reference, smc.ISLANDS, PARTICLES)
    found = smc.certify(chain, streams, PARTICLES, LENGTHS, [END]).set_index("length")
    plain = smc.run(chain, streams, PARTICLES, LENGTHS, [END], resample_below=0.0).pooled(smc.ISLANDS)
    rows = []
    for length in LENGTHS:
        at = length - 1
        shared = {"size": size, "seed": seed, "length": length, "exact": float(truth[at]), "log_z": float(sums[at])}
        estimates = {
            "smc": float(found.entropy[length]),
            "token ratios": float(plain.at(length)[1]),
            "importance": float(weighted_entropy(log_ratio[:, at], log_policy[:, at])),
            "proxy": float(-proxy_mean[at]),
        }
        certificate = {"low": float(found.low[length]), "high": float(found.high[length])}
        rows += [
            shared | {"estimator": name, "estimate": value} | (certificate if name == "smc" else {})
            for name, value in estimates.items()
        ]
    return rows


def main(out: Path, seed: int = 42) -> None:
    """Estimate H(q_T) of bigram models at several T, beside its exact value.

    Args:
        out: the lengths table to write.
        seed: of the models and of all sampling.
    """
    torch.set_num_threads(1)
    rows = [row for size in SIZES for row in experiment(size, seed)]
    artifacts.write(out, pd.DataFrame(rows).assign(uniform=[_all(row["length"]) for row in rows]), "lengths", seed=seed)


def _all(length: int) -> float:
    return smc.strings(VOCABULARY, 1, length)


if __name__ == "__main__":
    run(main)
