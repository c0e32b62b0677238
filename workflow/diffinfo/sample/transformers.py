"""The engine that runs anywhere: batched decoding with a key-value cache, in float32 on a CPU.

Prompts of similar length share a batch (of one length, where padding is not exact for the model), a prompt's samples read it
once, and finished rows leave. Every row draws from a random stream of its own: what a prompt gets depends on its neighbours and
on the batch size by rounding alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, TopPLogitsWarper

from diffinfo.cli import progress
from diffinfo.models.decoding import Reader, batches
from diffinfo.models.exactness import pads_exactly
from diffinfo.models.folders import check_length, load_model, use_cpu_well
from diffinfo.sample.engine import Decoding, Generated


class TransformersEngine:
    """Generates with transformers.

    Args:
        attention: attention kernel.
        dtype: precision of weights and computation.
        batch_tokens: prompt and completion tokens a batch may hold.
    """

    def __init__(self, attention: str, dtype: str, batch_tokens: int) -> None:
        self.attention, self.dtype, self.batch_tokens = attention, dtype, batch_tokens

    def __call__(
        self, model: Path, prompts: Sequence[list[int]], stop_ids: list[int], decoding: Decoding, first: int = 0
    ) -> list[list[Generated]]:
        """See ``engine.Engine``."""
        use_cpu_well()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = load_model(model, self.attention, self.dtype).to(device).eval()
        check_length(network, max(map(len, prompts), default=0) + decoding.max_tokens)
        lengths = [len(prompts[row // decoding.n]) for row in range(len(prompts) * decoding.n)]
        results: dict[int, Generated] = {}
        together = batches(lengths, decoding.max_tokens, self.batch_tokens, pads_exactly(model))
        for batch in progress(together, f"sampling {model.name}"):
            ids = [prompts[row // decoding.n] for row in batch]
            draws = [_stream(ids[i], row % decoding.n, decoding) for i, row in enumerate(batch)]
            results |= zip(batch, _decode(network, ids, draws, stop_ids, decoding), strict=True)
        return [[results[p * decoding.n + s] for s in range(decoding.n)] for p in range(len(prompts))]


def _stream(prompt: list[int], sample: int, decoding: Decoding) -> np.ndarray:
    """Uniform draws [max_tokens] that belong to this prompt and sample alone."""
    if decoding.temperature == 0:
        return np.zeros(0)
    key = hashlib.sha256(f"{decoding.seed} {sample} {prompt}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(decoding.max_tokens)


@torch.inference_mode()
def _decode(
    network: PreTrainedModel, prompts: list[list[int]], draws: list[np.ndarray], stop_ids: list[int], decoding: Decoding
) -> list[Generated]:
    """Decode prompts together, each as often as it is there."""
    device = network.device
    warp = TopPLogitsWarper(decoding.top_p) if decoding.top_p < 1 else None
    uniform = torch.tensor(np.stack(draws), device=device)
    stops = torch.tensor(stop_ids, device=device)
    active = torch.arange(len(prompts), device=device)
    tokens: list[list[int]] = [[] for _ in prompts]
    logps = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    finished = [False] * len(prompts)
    numbers = {tuple(prompt): number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    owners = torch.tensor([numbers[tuple(prompt)] for prompt in prompts], device=device)
    reader = Reader(network, [list(prompt) for prompt in numbers])
    logp = reader.start()[owners]
    for step in range(decoding.max_tokens):
        chosen = _pick(logp, uniform[active, step] if decoding.temperature else None, decoding.temperature, warp)
        logps[active] += logp.gather(1, chosen[:, None])[:, 0].double()
        for row, token in zip(active.tolist(), chosen.tolist(), strict=True):
            tokens[row].append(token)
        stopped = torch.isin(chosen, stops)
        for row in active[stopped].tolist():
            finished[row] = True
        keep = (~stopped).nonzero()[:, 0]
        if not len(keep) or step + 1 == decoding.max_tokens:
            break
        if step == 0:
            reader.take(owners[keep])
        elif len(keep) < len(active):
            reader.take(keep)
        active = active[keep]
        logp = reader.step(chosen[keep])
    reasons = ["stop" if end else "length" for end in finished]
    return [Generated(t, float(p), r) for t, p, r in zip(tokens, logps, reasons, strict=True)]


def _pick(logp: Tensor, uniform: Tensor | None, temperature: float, warp: TopPLogitsWarper | None) -> Tensor:
    """Token ids [rows]: the mode, or the inverse of the cumulative distribution at ``uniform``."""
    if uniform is None:
        return logp.argmax(-1)
    scaled = logp / temperature
    if warp is not None:
        scaled = warp(None, scaled)
    cumulative = scaled.softmax(-1).double().cumsum(-1)
    target = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logp.shape[1] - 1)
