"""Log-probabilities of completions, in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

IGNORED = -100  # selecting rows of logits instead would make their gradient a slow scatter


def micro_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices grouped by similar length so that rows x longest row stays within ``budget`` tokens (one row at least)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def completion_logps(model: PreTrainedModel, sequences: list[list[int]], starts: list[int]) -> Tensor:
    """Sum of log pi(token | what precedes) over the tokens from ``starts[i]`` on.

    Rows are padded on the right, where causal attention never looks, so no mask is needed. Only positions that predict
    a completion token pass through the head.

    Returns:
        [sequences] float64, differentiable: float32 sums over thousands of tokens would blur the first loss of ln 2.
    """
    device = model.device
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    positions = torch.arange(1, longest)
    wanted = (positions >= torch.tensor(starts)[:, None]) & (positions < lengths[:, None])  # [rows, longest - 1]
    first = min(starts)
    ids, wanted = ids.to(device), wanted[:, first - 1 :].to(device)
    keep = torch.arange(first - 1, longest - 1, device=device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    targets = ids[:, first:].masked_fill(~wanted, IGNORED)
    nll = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return -nll.double().view(targets.shape).sum(1)
