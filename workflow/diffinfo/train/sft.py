"""Supervised fine-tuning on the chosen responses: cross-entropy over the full sequence (J.2).

``python -m diffinfo.train.sft`` makes the reference policy pi_ref, the start of every later stage.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch

from diffinfo.chat import Chat, tokenised
from diffinfo.cli import UserError, run
from diffinfo.config.types import Sft, Training
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.models.folders import check_length, save_model
from diffinfo.tables import artifacts
from diffinfo.train.epochs import Row, Run, finish, finished, publish
from diffinfo.train.speed import Speed
from diffinfo.train.trainer import Trainer


def sft_step(trainer: Trainer, speed: Speed, sequences: list[list[int]]) -> Callable[[list[int]], Row]:
    """A step on a batch of sequences (BOS given): the mean cross-entropy per token of the whole batch, nats."""

    def step(batch: list[int]) -> Row:
        chosen = [sequences[index] for index in batch]
        lengths = [len(sequence) for sequence in chosen]
        tokens = sum(lengths) - len(lengths)
        speed.ready_with(lengths)
        nll = torch.zeros(1, dtype=torch.float64)
        for pack, weight in trainer.rank_packs(lengths):
            logps = trainer.scorer([chosen[i] for i in pack], [1] * len(pack))
            (-weight * logps.sum() / tokens).backward()
            nll -= weight * logps.detach().sum().cpu()
        norm = trainer.update(trainer.take_gradients())
        return {
            "step": trainer.step,
            "loss": trainer.total(nll).item() / tokens,
            "grad_norm": norm,
            "learning_rate": trainer.rate(),
            "tokens": tokens,
        }

    return step


class Settings(Section):
    """What decides a fine-tuning beside its inputs.

    Attributes:
        sft: the part of the configuration.
        training: the part of the configuration.
        attention: attention kernel.
        dtype: precision of computation and of the saved weights.
        max_tokens: longer conversations are left out, with a count.
        processes: how many processes the launcher starts.
    """

    sft: Sft
    training: Training
    attention: Attention
    dtype: Dtype
    max_tokens: int
    processes: int = 1


def main(
    *,
    model: Path,
    preferences: Path,
    settings: Settings,
    progress_dir: Path,
    model_out: Path,
    log_out: Path,
    speed_out: Path,
    save_minutes: float = 10.0,
    events: Path | None = None,
    quarantine_out: Path | None = None,
) -> None:
    """Fine-tune a base model on chosen responses.

    Args:
        model: Hugging Face folder to start from.
        preferences: preferences table.
        settings: see ``Settings``.
        progress_dir: where states wait; they outlive a killed job, and stay until outputs are recorded.
        model_out: folder to write.
        log_out: train_log table to write.
        speed_out: train_speed table to write.
        save_minutes: between two states.
        events: folder for TensorBoard.
        quarantine_out: table to write of pairs that the chat template cannot hold; ``reference`` leaves out the same.
    """
    pairs = artifacts.read(preferences, "preferences")
    ids, quarantine = tokenised(Chat(model), pairs, preferences)
    sequences = [[*p.tolist(), *c.tolist()] for p, c in zip(ids.prompt_ids, ids.chosen_ids, strict=True)]
    kept = [sequence for sequence in sequences if len(sequence) <= settings.max_tokens]
    if not kept:
        raise UserError(
            f"{preferences}: none of the {len(sequences)} conversations fits into {settings.max_tokens} tokens."
        )
    sft = settings.sft
    metadata = {"settings": sft.model_dump(), "left_out": len(pairs) - len(kept)}
    saved = progress_dir / artifacts.digest(settings.model_dump(exclude={"processes"}), model, preferences)
    if not finished(saved):
        torch.manual_seed(sft.seed)
        per_epoch = math.ceil(len(kept) / sft.batch_size)
        trainer = Trainer(
            model,
            attention=settings.attention,
            dtype=settings.dtype,
            optimizer=torch.optim.Adam,
            learning_rate=sft.learning_rate,
            warmup_steps=math.ceil(sft.warmup_ratio * sft.epochs * per_epoch),
            max_grad_norm=1.0,
            training=settings.training,
            processes=settings.processes,
        )
        check_length(trainer.module, max(map(len, kept)))
        speed = Speed(trainer, events)
        rows = Run(
            trainer, "sft", len(kept), sft.batch_size, sft.seed, 1, sft.epochs,
            sft_step(trainer, speed, kept), saved, save_minutes, speed,
        ).train()  # fmt: skip
        weights = trainer.weights(settings.dtype)
        if trainer.is_main:
            with artifacts.whole_folder(saved / "model") as folder:
                save_model(trainer.module, weights, folder, model, "Fine-tuned on chosen responses (SFT).", preferences)
        finish(trainer, saved, rows, speed)
    inputs = {"model": model, "preferences": preferences}
    publish(saved, {saved / "model": Path()}, model_out, log_out, speed_out, inputs, metadata, settings.processes)
    if quarantine_out and not int(os.environ.get("RANK", "0")):
        artifacts.write(quarantine_out, quarantine, "quarantine", inputs=inputs)


if __name__ == "__main__":
    run(main)
