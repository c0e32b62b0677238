"""Decoding: a model reads prompts of different lengths together, then one token of each string at a time, from a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 32  # tokens that a cache gets place for at a time


class _Layer(DynamicLayer):
    """Keys and values that grow in place: a copy of all of them at each token would take most of the time."""

    keys: Any
    values: Any

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, and return all."""
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            self.whole: list[Any] = []
            return self.keys, self.values
        old, new = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if not self.whole or self.whole[0].shape[-2] < new:
            shape = (*self.keys.shape[:-2], new + ROOM, self.keys.shape[-1])
            self.whole = [self.keys.new_empty(shape) for _ in range(2)]
            for whole, part in zip(self.whole, (self.keys, self.values), strict=True):
                whole[..., :old, :] = part
        for whole, part in zip(self.whole, (key_states, value_states), strict=True):
            whole[..., old:new, :] = part
        self.keys, self.values = (whole[..., :new, :] for whole in self.whole)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        super().batch_select_indices(indices)
        self.whole = []


def can_copy(network: Any) -> bool:
    """Whether the strings of a model's cache can leave it, be copied and be exchanged: states of some kinds cannot."""
    return all(hasattr(layer, "batch_select_indices") for layer in DynamicCache(config=network.config).layers)


class Reader:
    """Strings that a causal language model continues, one forward pass a token for all of them.

    Where the strings of its cache cannot leave it (``can_copy``), the model reads all again at each token.

    Args:
        network: the model, in evaluation mode.
        prompts: token ids of each string's beginning. Shorter ones are padded on the left, unseen, which must be exact for
            the model (``models.exactness``).
    """

    def __init__(self, network: Any, prompts: list[list[int]]) -> None:
        width = max(map(len, prompts))
        self.network = network
        self.ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=network.device)
        self.seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=network.device)
        self.padded = bool((self.seen == 0).any())
        self.cache: Any = None
        if can_copy(network):
            make: Any = _Layer
            self.cache = DynamicCache(config=network.config)
            self.cache.layers = [make() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]

    def start(self) -> Tensor:
        """log pi of the token behind each prompt [prompts, vocabulary], in float32, nats."""
        return self._read(self.ids, (self.seen.cumsum(1) - 1).clamp(min=0))

    def step(self, tokens: Tensor) -> Tensor:
        """log pi of the next token of each string [strings, vocabulary], behind ``tokens`` [strings]."""
        tokens = tokens[:, None]
        self.seen = torch.cat([self.seen, torch.ones_like(tokens)], 1)
        if self.cache is None:
            self.ids = torch.cat([self.ids, tokens], 1)
            return self.start()
        return self._read(tokens, self.seen.sum(1, keepdim=True) - 1)

    @torch.inference_mode()
    def take(self, rows: Tensor) -> None:
        """Go on with these strings [strings], each as often as it is named."""
        moved = None
        if len(rows) == len(self.seen):
            moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        self.seen, self.ids = self.seen[rows], self.ids if self.cache is not None else self.ids[rows]
        for layer in () if self.cache is None else self.cache.layers:
            if moved is None or type(layer) not in (_Layer, DynamicSlidingWindowLayer):
                layer.batch_select_indices(rows)
                continue
            for kept in (layer.keys, layer.values):  # copies only what moves
                kept.index_copy_(0, moved, kept.index_select(0, rows[moved]))

    @torch.inference_mode()
    def _read(self, tokens: Tensor, places: Tensor) -> Tensor:
        unseen = {"attention_mask": self.seen, "position_ids": places} if self.padded else {}
        memory = {"past_key_values": self.cache, "use_cache": True} if self.cache is not None else {"use_cache": False}
        outputs = self.network(input_ids=tokens, logits_to_keep=1, **unseen, **memory)
        return outputs.logits[:, -1].float().log_softmax(-1)  # type: ignore[no-any-return]


def batches(lengths: list[int], more: int, tokens: int, padded: bool) -> list[list[int]]:
    """Indices of prompts in batches, sorted by length: at most ``tokens`` each, with ``more`` behind every prompt.

    Args:
        lengths: tokens of each prompt.
        more: tokens that each may get.
        tokens: that a batch may hold, padding included; a batch has at least one prompt.
        padded: whether prompts of different lengths may share a batch.
    """
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        fits = found and (len(found[-1]) + 1) * (lengths[row] + more) <= tokens
        if fits and (padded or lengths[found[-1][0]] == lengths[row]):
            found[-1].append(row)
        else:
            found.append([row])
    return found
