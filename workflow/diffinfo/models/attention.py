"""Attention over packed sequences: each sequence attends only to itself, without padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface

PACKED = "packed"
# Arguments that restate what is known here (positions restart with each sequence, all is causal, nothing is dropped).
HARMLESS = {"position_ids", "dropout", "use_cache", "output_attentions", "output_hidden_states"}


@torch.compiler.disable  # type: ignore[untyped-decorator]  # every pack has other boundaries: compiled layers leave it out
def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    lengths: Tensor,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of several concatenated sequences.

    Args:
        module: the layer; unused.
        query: [1, heads, tokens, dim].
        key: [1, key heads, tokens, dim].
        value: [1, key heads, tokens, dim].
        attention_mask: must be None: ``lengths`` defines the boundaries.
        scaling: of the scores.
        lengths: tokens of each sequence, on the CPU; a tensor, for compiled code takes lists for constants.
        softcap: Gemma-2's cap of the scores, which no fused kernel of torch has.
        sliding_window: tokens that a position sees at most, itself included.
        more: further arguments of the model; only those without an effect here are accepted.

    Returns:
        [1, tokens, heads, dim], and no attention weights.

    Raises:
        NotImplementedError: for an argument that is not supported, such as attention sinks.
    """
    if unknown := {name for name, given in more.items() if given is not None and given is not False} - HARMLESS:
        raise NotImplementedError(f"packed attention does not support {', '.join(sorted(unknown))}")
    outputs = []
    sizes = lengths.tolist()
    for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True):
        tokens, groups = q.shape[2], q.shape[1] // k.shape[1]
        near = _window(tokens, sliding_window, q.device) if sliding_window and tokens > sliding_window else None
        if softcap is None:
            outputs.append(
                scaled_dot_product_attention(
                    q, k, v, attn_mask=near, is_causal=near is None, scale=scaling, enable_gqa=groups > 1
                )
            )
            continue
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = softcap * torch.tanh(q @ k.transpose(2, 3) * (scaling / softcap))
        seen = _window(tokens, tokens, q.device) if near is None else near
        weights = softmax(scores.masked_fill(~seen, -torch.inf), -1, dtype=torch.float32)
        outputs.append(weights.to(q.dtype) @ v)
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _window(tokens: int, width: int, device: torch.device) -> Tensor:
    """[tokens, tokens]: which keys (columns) each query sees."""
    place = torch.arange(tokens, device=device)
    behind = place[:, None] - place
    return (behind >= 0) & (behind < width)


# Names without a mask function get none built, so boundaries come from ``lengths`` alone.
AttentionInterface.register(PACKED, packed_attention)
