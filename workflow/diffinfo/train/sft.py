"""Supervised fine-tuning on the chosen responses: cross-entropy over the full sequence (J.2).

``python -m diffinfo.train.sft`` makes the reference policy pi_ref, the start of every later stage.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch

from diffinfo import artifacts
from diffinfo.chat import Chat
from diffinfo.cli import UserError, progress, run
from diffinfo.config import Sft, Training
from diffinfo.train.checkpoint import save_model, whole_folder
from diffinfo.train.logprobs import completion_logps
from diffinfo.train.loop import Loop, epoch_order


def fit(
    loop: Loop,
    sequences: list[list[int]],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    what: str,
    limit: int | None = None,
) -> list[dict[str, float]]:
    """Minimise the mean cross-entropy per token of whole sequences (BOS given); returns the rows of a train_log."""
    rows: list[dict[str, float]] = []
    steps = min(math.ceil(len(sequences) / batch_size) * epochs, limit or 10**9)
    bar = iter(progress(range(steps), what))
    for epoch in range(1, epochs + 1):
        order = epoch_order(len(sequences), seed, epoch)
        for start in range(0, len(order), batch_size):
            if next(bar, None) is None:
                break
            batch = [sequences[index] for index in order[start : start + batch_size]]
            tokens = sum(len(sequence) - 1 for sequence in batch)
            nll = torch.zeros((), dtype=torch.float64)
            for group, weight in loop.share([len(sequence) for sequence in batch]):
                with loop.autocast():
                    logps = completion_logps(loop.model, [batch[i] for i in group], [1] * len(group))
                loop.backward(-weight * logps.sum() / tokens)
                nll -= logps.detach().double().sum().cpu() * (weight > 0)
            norm = loop.update(loop.take_gradients())
            (total,) = loop.total(nll)
            rows.append(
                {
                    "step": loop.step,
                    "epoch": epoch,
                    "loss": total / tokens,
                    "grad_norm": norm,
                    "learning_rate": loop.rate(),
                    "tokens": tokens,
                }
            )
    return rows


def train_log(rows: list[dict[str, float]]) -> pd.DataFrame:
    """Rows as a train_log frame: what a stage does not measure is null."""
    return pd.DataFrame(rows).reindex(columns=artifacts.SCHEMAS["train_log"][1].names)


def main(
    *,
    model: Path,
    preferences: Path,
    settings: Sft,
    training: Training,
    attention: str,
    dtype: str,
    max_tokens: int,
    model_out: Path,
    log_out: Path,
    processes: int = 1,
) -> None:
    """Fine-tune a base model on chosen responses.

    Args:
        model: Hugging Face folder to start from.
        preferences: preferences table.
        settings: the ``sft`` part of the configuration.
        training: the ``training`` part of the configuration.
        attention: attention kernel.
        dtype: precision of computation and of the saved weights.
        max_tokens: longer conversations are left out, with a count.
        model_out: folder to write.
        log_out: train_log table to write.
        processes: how many processes the launcher starts.
    """
    chat = Chat(model)
    pairs = artifacts.read(preferences, "preferences")
    sequences = [chat.dialogue_ids(m, c) for m, c in zip(pairs.messages, pairs.chosen, strict=True)]
    kept = [sequence for sequence in sequences if len(sequence) <= max_tokens]
    if not kept:
        raise UserError(f"{preferences}: none of the {len(sequences)} conversations fits into {max_tokens} tokens.")
    torch.manual_seed(settings.seed)
    loop = Loop(
        model,
        attention=attention,
        dtype=dtype,
        optimizer=torch.optim.Adam,
        learning_rate=settings.learning_rate,
        warmup_steps=math.ceil(settings.warmup_ratio * settings.epochs * math.ceil(len(kept) / settings.batch_size)),
        max_grad_norm=1.0,
        micro_batch_tokens=training.micro_batch_tokens,
        processes=processes,
    )
    rows = fit(loop, kept, epochs=settings.epochs, batch_size=settings.batch_size, seed=settings.seed, what="sft")
    if loop.accelerator.is_main_process:
        with whole_folder(model_out) as folder:
            save_model(loop.module, folder, model, dtype)
        artifacts.write(
            log_out,
            train_log(rows),
            "train_log",
            inputs={"model": model, "preferences": preferences},
            settings=settings.model_dump(),
            left_out=len(sequences) - len(kept),
        )


if __name__ == "__main__":
    run(main)
