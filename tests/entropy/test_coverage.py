"""95 % intervals contain the exact value as often as they say."""

import numpy as np
import pytest
import torch

from diffinfo.entropy import smc
from diffinfo.intervals import mean
from entropy.test_smc import Bigrams, Prompts, bigrams, exact, streams


def test_intervals_over_prompts_contain_the_mean_of_all_prompts():
    """H(q_T) of 15 prompts, 300 times: Student's interval contains the exact mean of the prompts that they are drawn from."""
    policy, reference = bigrams(8, 5, 0.6)
    rng = np.random.default_rng(6)
    starts = [torch.from_numpy(2 * rng.normal(size=(60, 8))).log_softmax(-1) for _ in range(2)]
    truth = [
        exact(*(torch.cat([table[:-1], start[p : p + 1]]) for table, start in zip((policy, reference), starts, strict=True)),
              5, [0])[1]
        for p in range(60)
    ]  # fmt: skip
    picks = rng.integers(60, size=(300, 15))
    groups = torch.from_numpy(picks.ravel()).repeat_interleave(smc.ISLANDS)
    chain = Prompts(policy, reference, [start[groups] for start in starts], 32)
    found = smc.run(chain, streams(len(groups), 7), 32, [5], [0]).pooled(smc.ISLANDS).at(5)[1].view(300, 15)
    intervals = [mean(row) for row in found.numpy()]
    inside = np.mean([e.low <= np.mean(truth) <= e.high for e in intervals])
    assert 0.93 <= inside <= 0.97
    assert np.mean([e.value for e in intervals]) == pytest.approx(np.mean(truth), rel=0.01)


@pytest.mark.parametrize("prompts", [4, 12])
def test_the_interval_over_prompts_contains_the_exact_entropy_as_often_as_it_says(prompts):
    """400 repetitions, each with its own prompts (last tokens) and runs: Student's interval of the table of H(q_T)."""
    (policy, reference), length, repeats, stops = bigrams(24, 11, 0.7), 6, 400, [0]
    rng = np.random.default_rng(12)
    shifts = torch.from_numpy(0.4 * rng.normal(size=(24, 1)))  # contexts differ in how far they are from pi_ref
    policy = torch.cat([(policy[:-1] - reference[:-1]) * shifts.exp() + reference[:-1], policy[-1:]]).log_softmax(-1)
    after = [exact(*(torch.cat([m[:-1], m[k : k + 1]]) for m in (policy, reference)), length, stops) for k in range(24)]
    truth = np.mean([entropy for _, entropy in after])
    starts = rng.integers(24, size=repeats * prompts)

    class Behind(Bigrams):
        def step(self, tokens):
            first = torch.from_numpy(starts).repeat_interleave(smc.ISLANDS)[:, None].expand(*self.shape)
            return super().step(first if tokens is None else tokens)

    groups = len(starts) * smc.ISLANDS
    found = smc.run(Behind(policy, reference, groups, 24), streams(groups, 13), 24, [length], stops)
    entropies = found.pooled(smc.ISLANDS).at(length)[1].numpy().reshape(repeats, prompts)
    intervals = [mean(row) for row in entropies]
    covered = np.mean([e.low <= truth <= e.high for e in intervals])
    assert 0.93 <= covered <= 0.97
