"""How well a training run uses its hardware: tokens/s, model FLOP/s utilisation, peak memory, padding and data wait.

Kept apart from the step log, whose bytes must not depend on the clock.
"""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from diffinfo.cli import UserError
from diffinfo.tables import schemas
from diffinfo.train.trainer import Trainer

# Dense bfloat16 peak of the card, FLOP/s (vendors' data sheets, without sparsity).
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def flops(model: Any, lengths: list[int]) -> float:
    """FLOPs that training on sequences of these lengths needs: 6 a parameter and token, and causal attention.

    6 N T: N counts the matrices, the head among them, whose every weight multiplies and adds once forward and twice
    backward; embeddings are looked up, and of a layer's experts those count that a token passes. Attention adds 2 products
    of length x length x (heads x head size), half of which causality leaves out, again three times: 6 L heads size
    length^2. Recomputation is not counted; the head is counted for prompt tokens although it is skipped there.
    """
    config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
    experts = getattr(config, "num_experts_per_tok", None)
    dense = -embedding.numel() * (model.get_output_embeddings().weight is not embedding)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            dense += parameter.numel() * (experts / len(parameter) if experts and parameter.dim() == 3 else 1)
    heads = getattr(config, "num_attention_heads", 0)  # none in a recurrent model
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    attention = config.num_hidden_layers * heads * size * sum(length**2 for length in lengths)
    return float(6 * dense * sum(lengths) + 6 * attention)


class Speed:
    """Watches the steps of one run, and draws them in TensorBoard where it is installed, and in W&B where that is asked for.

    Args:
        trainer: what trains.
        events: folder for TensorBoard; None: none.
    """

    def __init__(self, trainer: Trainer, events: Path | None = None) -> None:
        self.trainer = trainer
        name = torch.cuda.get_device_name() if trainer.device.type == "cuda" else ""
        self.peak = next((peak for card, peak in PEAK.items() if card in name), float("nan")) * trainer.ranks
        self.rows: list[dict[str, float]] = []
        self.lengths: list[int] = []
        self.ready = 0.0
        self.wandb = (
            _wandb(events) if events and trainer.is_main and os.getenv("DIFFINFO_REPORT_TO") == "wandb" else None
        )
        self.board = _board(events) if events and trainer.is_main else None

    def ready_with(self, lengths: list[int]) -> None:
        """Say that a step's data is there, and how long its sequences are."""
        self.lengths, self.ready = lengths, time.perf_counter()

    @contextmanager
    def watching(self) -> Iterator[dict[str, float]]:
        """Time one step; what it logs goes into the mapping."""
        logged: dict[str, float] = {}
        start = self.ready = time.perf_counter()
        self.trainer.tokens, self.trainer.idle_tokens = 0, 0
        yield logged
        seconds = time.perf_counter() - start
        rate = flops(self.trainer.module, self.lengths) / seconds
        row = {
            "step": self.trainer.step,
            "seconds": seconds,
            "tokens_per_second": sum(self.lengths) / seconds,
            "tflops": rate / 1e12,
            "mfu": rate / self.peak,
            "data_wait": (self.ready - start) / seconds,
            "padding_share": self.trainer.idle_tokens / max(1, self.trainer.tokens),
            "peak_memory_mb": self._memory(),
        }
        self.rows.append(row)
        if self.board is not None:
            for group, values in (("train", logged), ("speed", row)):
                for name, value in values.items():
                    self.board.add_scalar(f"{group}/{name}", value, self.trainer.step)

    def table(self) -> pd.DataFrame:
        """Rows as a train_speed frame: the steps of this process (a resumed process does not have the earlier ones)."""
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()
        return pd.DataFrame(self.rows, columns=schemas.SCHEMAS["train_speed"][1].names)

    def _memory(self) -> float:
        """Peak memory of this process (rank 0's, of its GPU where it has one) so far, MiB."""
        if self.trainer.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _wandb(events: Path) -> Any:
    """Weights & Biases, which reads what is written for TensorBoard; a job that resumes goes on with its run there."""
    try:
        import wandb
    except ImportError:
        raise UserError(
            "training.report_to is wandb, and wandb is not in this environment: pip install wandb, or set it to tensorboard."
        ) from None
    identity = hashlib.sha256(str(events.resolve()).encode()).hexdigest()[:16]
    project, name = os.getenv("WANDB_PROJECT", "diffinfo"), " ".join(events.parts[-4:])
    folder = Path(os.getenv("WANDB_DIR", "wandb"))  # beside the events, its copies of them would be read as events too
    folder.mkdir(parents=True, exist_ok=True)
    wandb.init(project=project, name=name, id=identity, resume="allow", dir=folder, sync_tensorboard=True)
    return wandb


def _board(events: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(events)  # type: ignore[no-untyped-call]
