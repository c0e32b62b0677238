"""DPO-PG: the projected gradient of Definition H.1, over all parameters and the whole effective batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Projection:
    """Statistics of the projection: g_w . g_l, both norms and their cosine."""

    dot: float
    norm_chosen: float
    norm_rejected: float
    cosine: float

    @property
    def finite(self) -> bool:
        """Whether every sum was finite; if not, nothing was projected."""
        return all(map(math.isfinite, (self.dot, self.norm_chosen, self.norm_rejected)))


def project(chosen: list[Tensor], rejected: list[Tensor]) -> Projection:
    """Turn ``chosen`` into g_w - max(0, g_w . g_l) / ||g_l||^2 g_l, in place.

    Args:
        chosen: gradients of the mean negative log-likelihood of the chosen responses, one tensor a parameter.
        rejected: the same of the rejected responses; unchanged.

    Gradients may be sharded (DTensor): local sums are then added over the ranks once, in float32.
    """
    local = [(_local(w), _local(r)) for w, r in zip(chosen, rejected, strict=True)]
    sums = torch.stack(
        [
            torch.stack([(w.float() * r.float()).sum() for w, r in local]).sum(),
            torch.stack([w.float().square().sum() for w, _ in local]).sum(),
            torch.stack([r.float().square().sum() for _, r in local]).sum(),
        ]
    )
    if any(isinstance(tensor, DTensor) for tensor in chosen):
        dist.all_reduce(sums)
    dot, square_w, square_r = (float(value) for value in sums)
    if dot > 0 and square_r > 0:  # g_l = 0: nothing to project out
        for w, r in local:
            w.sub_(r, alpha=dot / square_r)
    norm = (square_w * square_r) ** 0.5
    return Projection(dot, square_w**0.5, square_r**0.5, dot / norm if norm > 0 else 0.0)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
