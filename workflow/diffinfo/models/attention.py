"""Attention over packed sequences: each sequence attends only to itself, without padding."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention, softmax
from transformers import AttentionInterface

PACKED = "packed"
FLEX = "packed_flex"
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
    _refuse(more)
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


@torch.compiler.disable  # type: ignore[untyped-decorator]
def flex_packed_attention(
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
    """What ``packed_attention`` computes, by FlexAttention: one fused kernel for all sequences, and no scores in memory.

    Arguments, result and errors are those of ``packed_attention``. The pack is padded to one of four sizes an octave,
    because each size is compiled; the padding is one more sequence. Tiny heads, which the kernel lacks, take the loop.
    """
    _refuse(more)
    if query.is_cuda and query.shape[-1] < 16:
        looped: tuple[Tensor, None] = packed_attention(
            module, query, key, value, None,
            scaling=scaling, lengths=lengths, softcap=softcap, sliding_window=sliding_window,
        )  # fmt: skip
        return looped
    tokens, sizes = query.shape[2], lengths.tolist()
    idle = -tokens % max(128, 2 ** (tokens.bit_length() - 3))
    window = sliding_window if sliding_window and max(sizes) > sliding_window else None
    output = _flex(query.is_cuda)(
        *(pad(part, (0, 0, 0, idle)) for part in (query, key, value)),
        score_mod=None if softcap is None else _cap(softcap),
        block_mask=_sight((*sizes, idle), window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[:, :, :tokens].transpose(1, 2).contiguous(), None


def _refuse(more: dict[str, Any]) -> None:
    if unknown := {name for name, given in more.items() if given is not None and given is not False} - HARMLESS:
        raise NotImplementedError(f"packed attention does not support {', '.join(sorted(unknown))}")


@lru_cache
def _flex(compiled: bool) -> Any:
    """torch's flex_attention; not compiled, it computes all scores, which serves tests."""
    if not compiled:
        return flex_attention
    torch._dynamo.config.recompile_limit = 64  # sizes, windows, with and without gradients; beyond it all scores exist
    return torch.compile(flex_attention, dynamic=False)


def _cap(softcap: float) -> Any:
    def capped(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@lru_cache(maxsize=4)  # the layers of a pass share one for each window
@torch.inference_mode(False)  # what scoring has made may serve training
def _sight(sizes: tuple[int, ...], window: int | None, device: torch.device) -> Any:
    """Which keys each query of a pack sees, block by block."""
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(device)

    def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (owner[q] == owner[k]) & (q >= k)
        return own & (q - k < window) if window else own

    return create_block_mask(seen, None, None, len(owner), len(owner), device=str(device))


def _window(tokens: int, width: int, device: torch.device) -> Tensor:
    """[tokens, tokens]: which keys (columns) each query sees."""
    place = torch.arange(tokens, device=device)
    behind = place[:, None] - place
    return (behind >= 0) & (behind < width)


# Names without a mask function get none built, so boundaries come from ``lengths`` alone.
AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(FLEX, flex_packed_attention)
