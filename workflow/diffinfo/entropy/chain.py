"""Two transformers that write the same strings: one forward pass a token for all strings of all prompts, with a cache each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from diffinfo.cli import UserError
from diffinfo.models.folders import check_length, load_model, use_cpu_well

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


def _cache(network: Any) -> Any:
    cache: Any = DynamicCache(config=network.config)
    make: Any = _Layer
    cache.layers = [make() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def load_pair(policy: Path, reference: Path, attention: str, dtype: str, tokens: int) -> tuple[Any, Any]:
    """pi and pi_ref on the GPU where there is one, else on the CPU.

    Raises:
        UserError: where they have not one vocabulary, a cache whose strings cannot be exchanged, or no room for ``tokens``.
    """
    use_cpu_well()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = tuple(load_model(folder, attention, dtype).to(device).eval() for folder in (policy, reference))
    for folder, network in zip((policy, reference), pair, strict=True):
        check_length(network, tokens)
        layers = DynamicCache(config=network.config).layers
        if not all(hasattr(layer, "batch_select_indices") for layer in layers):
            raise UserError(f"{folder}: its memory of a string cannot be copied: take 'smc' out of the row's measures.")
    sizes = [network.config.get_text_config().vocab_size for network in pair]
    if sizes[0] != sizes[1]:
        raise UserError(f"{policy} has {sizes[0]} tokens and {reference} {sizes[1]}: a ratio needs one vocabulary.")
    return pair


class Transformers:
    """A ``Chain`` (see ``diffinfo.entropy.smc``) of two causal language models on one device.

    Args:
        pair: pi and pi_ref.
        prompts: token ids of each group's prompt; shorter ones are padded on the left, unseen.
        particles: strings of a group.
    """

    def __init__(self, pair: tuple[Any, Any], prompts: list[list[int]], particles: int) -> None:
        self.pair, self.particles = pair, particles
        device, width = pair[0].device, max(map(len, prompts))
        self.prompts = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
        self.seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.padded = bool((self.seen == 0).any())

    def step(self, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``Chain``."""
        if tokens is None:
            self.caches = [_cache(network) for network in self.pair]
            self.mask = self.seen
            first = [self._forward(i, self.prompts, (self.seen.cumsum(1) - 1).clamp(min=0)) for i in range(2)]
            for cache in self.caches:
                cache.batch_repeat_interleave(self.particles)
            self.mask = self.seen.repeat_interleave(self.particles, 0)
            one, two = (x[:, None].expand(-1, self.particles, -1) for x in first)
            return one, two
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        places = self.mask.sum(1, keepdim=True) - 1
        one, two = (self._forward(i, tokens.reshape(-1, 1), places).unflatten(0, tokens.shape) for i in range(2))
        return one, two

    @torch.inference_mode()
    def _forward(self, which: int, tokens: Tensor, places: Tensor) -> Tensor:
        """Log-probabilities of the next token [rows, vocabulary], in float32."""
        outputs = self.pair[which](
            input_ids=tokens, position_ids=places, attention_mask=self.mask if self.padded else None,
            past_key_values=self.caches[which], use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return outputs.logits[:, -1].float().log_softmax(-1)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def reorder(self, ancestors: Tensor) -> None:
        """See ``Chain``; copies only what moves. A string's prompt, and so its padding, is that of its ancestor."""
        own = torch.arange(ancestors.numel(), device=ancestors.device)
        source = (own - own % self.particles) + ancestors.flatten()
        rows = (source != own).nonzero()[:, 0]
        for cache in self.caches:
            for layer in cache.layers:
                for kept in (layer.keys, layer.values):
                    kept.index_copy_(0, rows, kept.index_select(0, source[rows]))
