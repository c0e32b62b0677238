"""Preference optimisation (J.2): DPO and its relatives, and DPO-PG (Definition H.1).

``python -m diffinfo.train.preference`` trains the epochs of one span. A killed job goes on from its last whole epoch.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from diffinfo import artifacts
from diffinfo.cli import UserError, log, progress, run
from diffinfo.config import Objectives, Preference, Training
from diffinfo.objectives import Method, PairLogps, dpo, loss
from diffinfo.train.checkpoint import load_state, save_model, save_state, whole_folder
from diffinfo.train.logprobs import completion_logps
from diffinfo.train.loop import Loop, epoch_order
from diffinfo.train.projection import project
from diffinfo.train.sft import train_log

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
        """Longest sequence of each pair."""
        return [max(len(w), len(r)) for w, r in zip(self.chosen, self.rejected, strict=True)]

    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.chosen)) + sum(map(len, self.rejected))

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


def train_step(loop: Loop, method: Method, objectives: Objectives, pairs: Pairs) -> dict[str, float]:
    """One optimiser step on an effective batch; returns what SPEC wants logged (means over the batch, nats)."""
    size = len(pairs)
    watched = [torch.zeros((), dtype=torch.float64) for _ in range(4)]  # loss, dpo loss, log pi(y_w), log pi(y_l)

    def watch(x: PairLogps, values: Tensor, weight: float) -> None:
        with torch.no_grad():
            parts = (values, dpo(x, WATCHED_BETA), x.w, x.l)  # the DPO loss is NaN where no reference is known
            for total, part in zip(watched, parts, strict=True):
                total += part.detach().double().sum().cpu() * (weight > 0)

    extra: dict[str, float] = {}
    if method.family == "dpo-pg":
        gradients, sides = [], []
        for sequences in (pairs.chosen, pairs.rejected):  # two forwards of half: one joint forward costs two backwards
            values = torch.zeros(size, dtype=torch.float64)
            for group, weight in loop.share([len(sequence) for sequence in sequences]):
                with loop.autocast():
                    logps = completion_logps(
                        loop.model, [sequences[i] for i in group], [pairs.starts[i] for i in group]
                    )
                loop.backward(-weight * logps.sum() / size)
                if weight > 0:
                    values[group] = logps.detach().cpu()
            gradients.append(loop.take_gradients())
            sides.append(torch.tensor(loop.total(*values), dtype=torch.float64))
        projection = project(*gradients)
        extra = {
            "dot": projection.dot,
            "norm_chosen": projection.norm_chosen,
            "norm_rejected": projection.norm_rejected,
            "cosine": projection.cosine,
        }
        w, r = sides
        x = pairs.logps(list(range(size)), w, r)
        watch(x, -w, float(loop.accelerator.is_main_process))
        norm = loop.update(gradients[0])
    else:
        for group, weight in loop.share(pairs.lengths()):
            with loop.autocast():
                both = completion_logps(
                    loop.model,
                    [pairs.chosen[i] for i in group] + [pairs.rejected[i] for i in group],
                    [pairs.starts[i] for i in group] * 2,
                )
            x = pairs.logps(group, both[: len(group)], both[len(group) :])
            values = loss(method, objectives, x)
            loop.backward(weight * values.sum() / size)
            watch(x, values, weight)
        norm = loop.update(loop.take_gradients())
    mean_loss, dpo_loss, w_mean, l_mean = (value / size for value in loop.total(*watched))
    if not math.isfinite(mean_loss):
        raise UserError(f"step {loop.step}: the loss is {mean_loss}; lower preference.learning_rate.")
    return {
        "step": loop.step,
        "loss": mean_loss,
        "dpo_loss": dpo_loss,
        "logp_chosen": w_mean,
        "logp_rejected": l_mean,
        "reference_logp_chosen": float(pairs.reference_w.double().mean()),
        "reference_logp_rejected": float(pairs.reference_l.double().mean()),
        "margin": w_mean - l_mean,
        "grad_norm": norm,
        "learning_rate": loop.rate(),
        "tokens": pairs.tokens(),
        **extra,
    }


def main(
    *,
    model: Path,
    reference: Path,
    method: str,
    settings: Preference,
    objectives: Objectives,
    training: Training,
    attention: str,
    dtype: str,
    first_epoch: int,
    last_epoch: int,
    progress_dir: Path,
    models_out: Path,
    log_out: Path,
    resume: Path | None = None,
    keep_last_only: bool = False,
) -> None:
    """Train one method from pi_ref for the epochs ``first_epoch`` .. ``last_epoch``.

    Args:
        model: the SFT model's folder: pi_ref and the start.
        reference: reference_logps table.
        method: full name, such as dpo-b0.1.
        settings: the ``preference`` part of the configuration.
        objectives: hyper-parameters beside beta.
        training: the ``training`` part of the configuration.
        attention: attention kernel.
        dtype: precision of computation and of the saved weights.
        first_epoch: 1, or the epoch after the span in ``resume``.
        last_epoch: last epoch of this span.
        progress_dir: where whole epochs wait; it outlives a killed job.
        models_out: folder for epoch-K model folders and the trainer's state.
        log_out: train_log table of this span.
        resume: the models folder of the span before.
        keep_last_only: write the last epoch as ``models_out`` itself, without state (the DID proxy).
    """
    parsed = Method.parse(method)
    table = artifacts.read(reference, "reference_logps")
    if table[["chosen_logp", "rejected_logp"]].isna().any(axis=None) and parsed.family != "logpi":
        raise UserError(f"{reference} holds no reference log-probabilities, which {method} needs.")
    torch.manual_seed(settings.seed)
    loop = Loop(
        model,
        attention=attention,
        dtype=dtype,
        optimizer=torch.optim.RMSprop,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        micro_batch_tokens=training.micro_batch_tokens,
        processes=settings.processes,
    )
    facts = {"method": method, "settings": settings.model_dump(), "objectives": objectives.model_dump()}
    key = artifacts.digest(facts, model, reference, dtype, attention, training.model_dump(), first_epoch)
    saved = progress_dir / key
    rows: list[dict[str, float]] = []
    start = first_epoch
    done = [epoch for epoch in range(first_epoch, last_epoch + 1) if (saved / f"state-{epoch}").exists()]
    if done:
        start = max(done) + 1
        loop.step = load_state(loop.module, loop.optimizer, saved / f"state-{max(done)}")
        rows = json.loads((saved / f"state-{max(done)}" / "rows.json").read_text())
        log.info("going on after epoch %d of %s", max(done), saved)
    elif first_epoch > 1:
        if resume is None:
            raise UserError(f"epochs {first_epoch}-{last_epoch} go on from an earlier span: --resume is missing.")
        loop.step = load_state(loop.module, loop.optimizer, resume / "state")
    batches = math.ceil(len(table) / settings.batch_size)
    bar = iter(progress(range(batches * (last_epoch - start + 1)), f"{method} epochs {start}-{last_epoch}"))
    for epoch in range(start, last_epoch + 1):
        order = epoch_order(len(table), settings.seed, epoch)
        for first in range(0, len(order), settings.batch_size):
            next(bar)
            batch = Pairs(table.iloc[order[first : first + settings.batch_size]])
            rows.append({"epoch": epoch, **train_step(loop, parsed, objectives, batch)})
        if loop.accelerator.is_main_process:
            with whole_folder(saved / f"epoch-{epoch}") as folder:
                save_model(loop.module, folder, model, dtype)
            with whole_folder(saved / f"state-{epoch}") as folder:
                save_state(loop.module, loop.optimizer, folder, loop.step)
                (folder / "rows.json").write_text(json.dumps(rows))
            shutil.rmtree(saved / f"state-{epoch - 1}", ignore_errors=True)
    if loop.accelerator.is_main_process:
        artifacts.write(log_out, train_log(rows), "train_log", inputs={"model": model, "reference": reference}, **facts)
        _publish(saved, models_out, first_epoch, last_epoch, keep_last_only)


def _publish(saved: Path, out: Path, first: int, last: int, keep_last_only: bool) -> None:
    """Move whole epochs from the progress folder to where the workflow expects them."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    if keep_last_only:
        os.rename(saved / f"epoch-{last}", out)
    else:
        with whole_folder(out) as folder:
            for epoch in range(first, last + 1):
                shutil.copytree(saved / f"epoch-{epoch}", folder / f"epoch-{epoch}", copy_function=os.link)
            shutil.copytree(saved / f"state-{last}", folder / "state", copy_function=os.link)
    shutil.rmtree(saved)


if __name__ == "__main__":
    run(main)
