"""Strings read from a cache, against plain forward passes of each by itself."""

import pytest
import torch

from diffinfo.models.decoding import Reader, batches
from diffinfo.models.folders import load_model

PROMPTS = [[1, 20, 30, 40, 50, 60, 70], [1, 60], [5], [1, 20, 30]]


def plain(network, strings):
    with torch.no_grad():
        return torch.stack([network(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in strings])


@pytest.mark.parametrize("prompts", [PROMPTS, [ids[:1] for ids in PROMPTS]])
def test_strings_leave_are_copied_and_exchanged(tiny, prompts):
    """Longer than the cache grows at a time, and than Gemma-2's window."""
    network = load_model(tiny, "eager").eval()
    reader, strings = Reader(network, prompts), [list(prompt) for prompt in prompts]
    assert torch.allclose(reader.start(), plain(network, strings), atol=1e-4)
    random = torch.Generator().manual_seed(1)
    moves = {0: [0, 0, 1, 2, 3, 3], 3: [1, 2, 5, 0], 10: [3, 1, 1, 0], 36: [0, 2], 40: [1, 1, 0]}
    for step in range(45):
        if rows := moves.get(step):
            reader.take(torch.tensor(rows))
            strings = [list(strings[row]) for row in rows]
        tokens = torch.randint(3, 60, (len(strings),), generator=random)
        for string, token in zip(strings, tokens.tolist(), strict=True):
            string.append(token)
        assert torch.allclose(reader.step(tokens), plain(network, strings), atol=1e-4)


def test_batches_hold_what_they_may():
    lengths = [3, 9, 3, 4, 30, 4, 3]
    assert batches(lengths, 2, 18, padded=True) == [
        [0, 2, 6],
        [3, 5],
        [1],
        [4],
    ]  # 5 + 5 + 5, 6 + 6 and not 11 + 11 + 11
    assert batches(lengths, 2, 18, padded=False) == [[0, 2, 6], [3, 5], [1], [4]]
    assert batches(lengths, 2, 24, padded=True) == [[0, 2, 6, 3], [5, 1], [4]]
    assert batches(lengths, 2, 24, padded=False) == [[0, 2, 6], [3, 5], [1], [4]]
    assert batches([], 2, 24, padded=True) == []
