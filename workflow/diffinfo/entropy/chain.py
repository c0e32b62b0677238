"""Two transformers that write the same strings: one forward pass a token for all strings of all prompts, with a cache each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffinfo.cli import UserError
from diffinfo.models.decoding import Reader, can_copy
from diffinfo.models.folders import check_length, load_model, use_cpu_well


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
        if not can_copy(network):
            raise UserError(f"{folder}: its memory of a string cannot be copied: take 'smc' out of the row's measures.")
    sizes = [network.config.get_text_config().vocab_size for network in pair]
    if sizes[0] != sizes[1]:
        raise UserError(f"{policy} has {sizes[0]} tokens and {reference} {sizes[1]}: a ratio needs one vocabulary.")
    return pair


class Transformers:
    """A ``Chain`` (see ``diffinfo.entropy.smc``) of two causal language models on one device.

    Args:
        pair: pi and pi_ref.
        prompts: token ids of each group's prompt.
        particles: strings of a group.
    """

    def __init__(self, pair: tuple[Any, Any], prompts: list[list[int]], particles: int) -> None:
        self.pair, self.prompts, self.particles = pair, prompts, particles

    def step(self, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``Chain``."""
        if tokens is None:
            self.readers = [Reader(network, self.prompts) for network in self.pair]
            one, two = (reader.start()[:, None].expand(-1, self.particles, -1) for reader in self.readers)
            groups = torch.arange(len(self.prompts), device=one.device).repeat_interleave(self.particles)
            for reader in self.readers:
                reader.take(groups)
            return one, two
        one, two = (reader.step(tokens.flatten()).unflatten(0, tokens.shape) for reader in self.readers)
        return one, two

    def reorder(self, ancestors: Tensor) -> None:
        """See ``Chain``."""
        own = torch.arange(ancestors.numel(), device=ancestors.device)
        for reader in self.readers:
            reader.take(own - own % self.particles + ancestors.flatten())
