"""Preference optimisation (J.2): DPO and its relatives, and DPO-PG (Definition H.1).

``python -m diffinfo.train.preference`` trains the epochs of one span.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from diffinfo.cli import UserError, run
from diffinfo.config.types import Objectives, Preference, Training
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.methods import PairLogps, Variant, dpo, loss, parse
from diffinfo.models.folders import save_model
from diffinfo.tables import artifacts
from diffinfo.train.epochs import Row, Run, finish, finished, publish, take
from diffinfo.train.projection import project
from diffinfo.train.speed import Speed
from diffinfo.train.states import load_state, save_state
from diffinfo.train.trainer import Trainer

WATCHED_BETA = 0.1  # Figure 9 shows the DPO loss at this beta whatever the method


class Pairs:
    """A batch of tokenised pairs with their reference log-probabilities."""

    def __init__(self, table: pd.DataFrame) -> None:
        prompts = table.prompt_ids.tolist()
        self.chosen = [p + c for p, c in zip(prompts, table.chosen_ids, strict=True)]
        self.rejected = [p + r for p, r in zip(prompts, table.rejected_ids, strict=True)]
        self.starts = [len(prompt) for prompt in prompts]
        self.reference_w = torch.tensor(table.chosen_logp.tolist(), dtype=torch.float64)
        self.reference_l = torch.tensor(table.rejected_logp.tolist(), dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.starts)

    def lengths(self) -> list[int]:
        """Tokens of each pair."""
        return [len(w) + len(r) for w, r in zip(self.chosen, self.rejected, strict=True)]

    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self.lengths())

    def logps(self, group: list[int], w: Tensor, r: Tensor) -> PairLogps:
        """The pairs of ``group`` with log-probabilities ``w`` of chosen and ``r`` of rejected responses."""
        return PairLogps(
            w,
            r,
            self.reference_w[group].to(w.device),
            self.reference_l[group].to(w.device),
            torch.tensor([len(self.chosen[i]) - self.starts[i] for i in group], device=w.device),
            torch.tensor([len(self.rejected[i]) - self.starts[i] for i in group], device=w.device),
        )


def train_step(trainer: Trainer, speed: Speed, method: Variant, objectives: Objectives, pairs: Pairs) -> Row:
    """One optimiser step on an effective batch; returns what is logged of it (means over the batch, nats)."""
    speed.ready_with([len(sequence) for sequence in pairs.chosen + pairs.rejected])
    logps = torch.zeros(2, len(pairs), dtype=torch.float64)
    extra: Row = {}
    if method.method.loss is None:
        gradients = []
        for side, sequences in enumerate((pairs.chosen, pairs.rejected)):  # one joint forward would cost two backwards
            for pack, weight in trainer.rank_packs([len(sequence) for sequence in sequences]):
                values = trainer.scorer([sequences[i] for i in pack], [pairs.starts[i] for i in pack])
                (-weight * values.sum() / len(pairs)).backward()
                logps[side, pack] += weight * values.detach().cpu()
            gradients.append(trainer.take_gradients())
        seen = project(*gradients)
        extra = {"dot": seen.dot, "norm_chosen": seen.norm_chosen, "norm_rejected": seen.norm_rejected}
        extra["cosine"] = seen.cosine
        norm = trainer.update(gradients[0]) if seen.finite else float("nan")
    else:
        for pack, weight in trainer.rank_packs(pairs.lengths()):
            both = trainer.scorer(
                [pairs.chosen[i] for i in pack] + [pairs.rejected[i] for i in pack], [pairs.starts[i] for i in pack] * 2
            ).view(2, -1)
            (weight * loss(method, objectives, pairs.logps(pack, *both)).sum() / len(pairs)).backward()
            logps[:, pack] += weight * both.detach().cpu()
        norm = trainer.update(trainer.take_gradients())
    w, r = trainer.total(logps)
    x = pairs.logps(list(range(len(pairs))), w, r)
    values = -w if method.method.loss is None else loss(method, objectives, x)
    return {
        "step": trainer.step,
        "loss": float(values.mean()),
        "dpo_loss": float(dpo(x, WATCHED_BETA).mean()),  # NaN where no reference is known
        "logp_chosen": float(w.mean()),
        "logp_rejected": float(r.mean()),
        "reference_logp_chosen": float(pairs.reference_w.mean()),
        "reference_logp_rejected": float(pairs.reference_l.mean()),
        "margin": float((w - r).mean()),
        "grad_norm": norm,
        "learning_rate": trainer.rate(),
        "tokens": pairs.tokens(),
        **extra,
    }


class Settings(Section):
    """What decides a training beside its inputs.

    Attributes:
        method: full name, such as dpo-b0.1.
        preference: the part of the configuration.
        objectives: hyper-parameters beside beta.
        training: the part of the configuration.
        attention: attention kernel.
        dtype: precision of computation and of the saved weights.
        first_epoch: 1, or the epoch after the span to resume from.
        last_epoch: last epoch of this span.
    """

    method: str
    preference: Preference
    objectives: Objectives = Objectives()
    training: Training
    attention: Attention
    dtype: Dtype
    first_epoch: int
    last_epoch: int


def main(
    *,
    model: Path,
    reference: Path,
    settings: Settings,
    progress_dir: Path,
    models_out: Path,
    log_out: Path,
    speed_out: Path,
    save_minutes: float = 10.0,
    events: Path | None = None,
    resume: Path | None = None,
    longer: list[Path] | None = None,
    keep_last_only: bool = False,
) -> None:
    """Train one method from pi_ref for the epochs of a span.

    Args:
        model: the SFT model's folder: pi_ref and the start.
        reference: reference_logps table.
        settings: see ``Settings``.
        progress_dir: where whole epochs and states wait; they outlive a killed job, and stay until outputs are recorded.
        models_out: folder for epoch-K model folders and the trainer's state.
        log_out: train_log table of this span.
        speed_out: train_speed table of this span.
        save_minutes: between two states.
        events: folder for TensorBoard.
        resume: the models folder of the span before.
        longer: models folder, train_log and train_speed of a span with the same first epoch that goes beyond ``last_epoch``:
            the epochs are taken from it, and nothing is trained.
        keep_last_only: write the last epoch as ``models_out`` itself, without state (the DID proxy).
    """
    parsed, preference, last_epoch = parse(settings.method), settings.preference, settings.last_epoch
    table = artifacts.load(reference, "reference_logps").combine_chunks()  # a batch of several chunks would copy all
    if parsed.method.reference and any(table[name].null_count for name in ("chosen_logp", "rejected_logp")):
        raise UserError(f"{reference} holds no reference log-probabilities, which {parsed} needs.")
    decisive = settings.model_dump(exclude={"preference": {"processes"}})  # any number of processes may resume
    metadata = {"method": settings.method, "settings": decisive["preference"], "objectives": decisive["objectives"]}
    inputs = {"model": model, "reference": reference}
    if longer:
        take(
            longer,
            settings.first_epoch,
            last_epoch,
            models_out,
            log_out,
            speed_out,
            inputs,
            metadata,
            preference.processes,
        )
        return
    saved = progress_dir / artifacts.digest(decisive, model, reference)
    if not finished(saved):
        torch.manual_seed(preference.seed)
        trainer = Trainer(
            model,
            attention=settings.attention,
            dtype=settings.dtype,
            optimizer=torch.optim.RMSprop,
            learning_rate=preference.learning_rate,
            warmup_steps=preference.warmup_steps,
            max_grad_norm=preference.max_grad_norm,
            training=settings.training,
            processes=preference.processes,
        )
        speed = Speed(trainer, events)
        name = f"{parsed} epochs {settings.first_epoch}-{last_epoch}"
        if settings.first_epoch > 1:
            if resume is None:
                raise UserError(f"{name} resume from an earlier span: --resume is missing.")
            load_state(trainer, resume / "state")

        def step(batch: list[int]) -> Row:
            return train_step(trainer, speed, parsed, settings.objectives, Pairs(artifacts.frame(table.take(batch))))

        def keep(epoch: int) -> None:
            weights = trainer.weights(settings.dtype)
            if trainer.is_main:
                with artifacts.whole_folder(saved / f"epoch-{epoch}") as folder:
                    save_model(trainer.module, weights, folder, model)
            if epoch == last_epoch and not keep_last_only:
                save_state(trainer, saved / "state", {})

        rows = Run(
            trainer, name, len(table), preference.batch_size, preference.seed, settings.first_epoch, last_epoch,
            step, saved, save_minutes, speed,
        ).train(keep)  # fmt: skip
        finish(trainer, saved, rows, speed)
    if keep_last_only:
        weights = {saved / f"epoch-{last_epoch}": Path()}
    else:
        weights = {path: Path(path.name) for path in [*saved.glob("epoch-*"), saved / "state"]}
    publish(saved, weights, models_out, log_out, speed_out, inputs, metadata, preference.processes)


if __name__ == "__main__":
    run(main)
