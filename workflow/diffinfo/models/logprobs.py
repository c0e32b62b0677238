"""Log-probabilities of completions, in nats: sequences packed without padding, the vocabulary never whole."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Logits that exist at once, and logits kept for the backward pass (those of further positions are computed again). A
# CPU likes chunks that its cache holds; a GPU reads the whole head for each.
MEMORY = {"cpu": (2**23, 2**26), "cuda": (2**27, 2**28)}


def packs(lengths: list[int], micro_batch_tokens: int, multiple: int = 1) -> list[list[int]]:
    """Indices spread over packs of about equal length, none over ``micro_batch_tokens`` unless it holds a single one.

    Longest first, each into the shortest pack. The number of packs is a multiple of ``multiple``; only where there are
    fewer sequences than that are some of them empty.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    filled = max(1, sum(min(length, micro_batch_tokens) for length in lengths))
    count = -(-filled // (micro_batch_tokens * multiple)) * multiple
    while True:
        heap: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(count)]
        for index in order:
            tokens, number, pack = heap[0]
            pack.append(index)
            heapq.heapreplace(heap, (tokens + lengths[index], number, pack))
        if all(tokens <= micro_batch_tokens or len(pack) == 1 for tokens, _, pack in heap):
            return [sorted(pack) for _, _, pack in sorted(heap, key=lambda item: item[1])]
        count += multiple


class Scorer(nn.Module):
    """A causal language model as a function from sequences to log-probabilities; a module, so that it can be sharded.

    Args:
        model: a causal language model; with ``packed``, one loaded with packed attention (``train.attention``).
        packed: whether sequences pass through it together, which ``train.exactness`` must have shown to be exact for it.
            Otherwise each passes through the model's own forward and head alone: exact for every model, and slower.
    """

    def __init__(self, model: Any, packed: bool) -> None:
        super().__init__()
        self.model, self.packed = model, packed

    def forward(self, sequences: list[list[int]], starts: list[int]) -> Tensor:
        """Sum of log pi(token | what precedes) over each sequence's tokens from ``starts[i]`` >= 1 on.

        Returns:
            [sequences] float64, differentiable: float32 sums over thousands of tokens would blur the first loss of ln 2.
        """
        if self.packed:
            return self._together(sequences, starts)
        return torch.stack([self._alone(*item) for item in zip(sequences, starts, strict=True)])

    def _alone(self, sequence: list[int], start: int) -> Tensor:
        ids = torch.tensor([sequence], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
        logp: Tensor = logits.float().log_softmax(-1).gather(1, ids[0, start:, None])
        return logp.double().sum()

    def _together(self, sequences: list[list[int]], starts: list[int]) -> Tensor:
        """All sequences in one pass; only positions that predict a completion token pass through the head."""
        head = self.model.get_output_embeddings().weight
        device = head.device
        lengths = [len(sequence) for sequence in sequences]
        ids = torch.tensor([token for sequence in sequences for token in sequence], device=device)
        places = torch.cat([torch.arange(length) for length in lengths]).to(device)
        owners = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
        wanted = (places >= torch.tensor(starts, device=device)[owners]).nonzero()[:, 0]
        hidden = self.model.base_model(
            input_ids=ids[None], position_ids=places[None], use_cache=False, **_boundaries(self.model, lengths)
        ).last_hidden_state[0]
        softcap = getattr(self.model.config, "final_logit_softcapping", None)
        logps = head_logps(hidden[wanted - 1], head, ids[wanted], softcap)
        sums = torch.zeros(len(lengths), dtype=torch.float64, device=device)
        return sums.index_add(0, owners[wanted], logps.double())


def _boundaries(model: Any, lengths: list[int]) -> dict[str, Any]:
    """Where sequences end, as keyword arguments of the attention kernel."""
    if not model.config._attn_implementation.startswith("flash"):
        return {"lengths": torch.tensor(lengths)}
    ends = torch.tensor([0, *lengths], dtype=torch.int32, device=model.device).cumsum(0, dtype=torch.int32)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def head_logps(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None, memory: tuple[int, int] | None = None
) -> Tensor:
    """log softmax(hidden weight^T)[target], optionally with capped logits (Gemma-2): exact, and never all logits at once.

    Args:
        hidden: [positions, width].
        weight: [vocabulary, width].
        targets: [positions] token ids.
        softcap: c of c tanh(logits / c).
        memory: logits that exist at once, and logits kept for the backward pass; the device's of ``MEMORY`` if not given.

    Returns:
        [positions], float32 (float64 for float64 inputs), differentiable.
    """
    chunk, kept = memory or MEMORY[hidden.device.type]
    logps: Tensor = _HeadLogps.apply(hidden, weight, targets, softcap, chunk, kept)  # type: ignore[no-untyped-call]
    return logps


class _HeadLogps(torch.autograd.Function):
    """Buffers are allocated once and reused for each chunk: fresh ones would fragment the C library's heap."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, chunk: int, kept: int
    ) -> Tensor:
        rows = min(len(hidden), max(1, chunk // len(weight)))
        saved = _buffer(
            weight, min(len(hidden), kept // len(weight)) // max(1, rows) * rows * any(ctx.needs_input_grad)
        )
        scratch = _buffer(weight, rows)
        chosen, norm = (hidden.new_empty(len(hidden), dtype=scratch.dtype) for _ in range(2))
        for part in _chunks(len(hidden), rows):
            work = scratch[: part.stop - part.start]
            logits = _logits(hidden[part], weight, softcap, saved[part] if part.stop <= len(saved) else work)
            chosen[part] = logits.gather(1, targets[part, None])[:, 0]
            highest = logits.amax(-1)
            norm[part] = torch.sub(logits, highest[:, None], out=work).exp_().sum(-1).log_().add_(highest)
        ctx.save_for_backward(hidden, weight, targets, norm, saved)
        ctx.softcap, ctx.rows = softcap, rows
        return chosen - norm

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden, weight, targets, norm, saved = ctx.saved_tensors
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=norm.dtype)
        scratch, slopes = _buffer(weight, ctx.rows), _buffer(weight, ctx.rows)
        for part in _chunks(len(hidden), ctx.rows):
            work, slope = scratch[: part.stop - part.start], slopes[: part.stop - part.start]
            known = part.stop <= len(saved)
            logits = saved[part] if known else _logits(hidden[part], weight, ctx.softcap, work)
            torch.sub(logits, norm[part, None], out=slope).exp_().mul_(-gradient[part, None])
            slope.scatter_add_(1, targets[part, None], gradient[part, None])
            if ctx.softcap is not None:
                slope.mul_(torch.div(logits, ctx.softcap, out=work).square_().neg_().add_(1))
            narrow = slope.to(weight.dtype)
            torch.mm(narrow, weight, out=to_hidden[part])
            if to_weight.dtype == weight.dtype:
                to_weight.addmm_(narrow.T, hidden[part])
            else:  # bfloat16: sums over chunks stay float32
                to_weight += narrow.T @ hidden[part]
        return to_hidden, to_weight.to(weight.dtype), None, None, None, None


def _chunks(length: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, length)) for start in range(0, length, max(1, rows)))


def _buffer(weight: Tensor, rows: int) -> Tensor:
    """Room for logits: [rows, vocabulary], at least float32."""
    return weight.new_empty(rows, len(weight), dtype=torch.promote_types(weight.dtype, torch.float32))


def _logits(hidden: Tensor, weight: Tensor, softcap: float | None, out: Tensor) -> Tensor:
    if out.dtype == weight.dtype:
        torch.mm(hidden, weight.T, out=out)
    else:
        out.copy_(hidden @ weight.T)
    return out if softcap is None else out.div_(softcap).tanh_().mul_(softcap)
