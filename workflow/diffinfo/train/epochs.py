"""Epochs of batches that survive a kill at any moment: order, savepoints, signals, the step log and what is watched.

A run is a number of steps whose batches follow from seed and epoch alone. Its state is saved under the progress path every
few minutes, at the end of an epoch and when the job is asked to stop (SIGTERM, SIGUSR1); a killed run that is started again
resumes from there and ends with the same bytes.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import torch

from diffinfo.cli import UserError, log, progress
from diffinfo.tables import artifacts, schemas
from diffinfo.train.speed import Speed
from diffinfo.train.states import KEPT, newest_state, save_state, states
from diffinfo.train.trainer import Trainer, epoch_order

Row = dict[str, float]
LOG, SPEED = "log.parquet", "speed.parquet"  # of a finished run, in its progress folder


@dataclass
class Run:
    """What one job trains.

    Attributes:
        trainer: the model and its optimiser.
        what: name of the progress bar.
        examples: rows of the data set.
        batch_size: examples of a step; the last batch of an epoch may be smaller.
        seed: of the order.
        first_epoch: 1, or the epoch after those of an earlier job.
        last_epoch: last epoch of this job.
        step: trains on a batch of example numbers and returns the step's row of the log; it notifies ``speed`` when its data
            is there.
        saved: folder of states, which outlives the job.
        minutes: between two states.
        speed: what watches the machine.
        limit: steps at most.
    """

    trainer: Trainer
    what: str
    examples: int
    batch_size: int
    seed: int
    first_epoch: int
    last_epoch: int
    step: Callable[[list[int]], Row]
    saved: Path
    minutes: float
    speed: Speed
    limit: int | None = None

    def train(self, epoch_done: Callable[[int], None] | None = None) -> list[Row]:
        """Train to the end; returns the rows of all steps.

        Args:
            epoch_done: called on every rank after the last step of an epoch.

        Raises:
            UserError: when the loss, the gradient's norm or a weight is not a finite number; no state of that is saved.
            SystemExit: 128 + the signal's number, after the state was saved, when the job is asked to stop.
        """
        per_epoch = math.ceil(self.examples / self.batch_size)
        rows: list[Row] = []
        done = 0
        if metadata := newest_state(self.trainer, self.saved):
            rows, done = metadata["rows"], metadata["done"]
        total = min(per_epoch * (self.last_epoch - self.first_epoch + 1), self.limit or sys.maxsize)
        with _signals() as received:
            last = time.monotonic()
            for number in progress(range(done, total), self.what, total=total, done=done):
                epoch, batch = self.first_epoch + number // per_epoch, number % per_epoch
                order = epoch_order(self.examples, self.seed, epoch)
                with self.speed.watching() as row:
                    row |= {"epoch": epoch, **self.step(order[batch * self.batch_size : (batch + 1) * self.batch_size])}
                for what, value in (("loss", row["loss"]), ("gradient's norm", row["grad_norm"])):
                    if not math.isfinite(value):
                        raise self._diverged(number + 1, f"the {what} is {value}")
                rows.append(row)
                ends = batch == per_epoch - 1 or number == total - 1
                due = time.monotonic() - last > 60 * self.minutes
                stop, due = self._agree(received, due)
                if (stop or due or ends) and not self.trainer.finite():
                    raise self._diverged(number + 1, "the update left weights that are not finite")
                if batch == per_epoch - 1 and epoch_done:
                    epoch_done(epoch)
                if stop or due or (ends and number < total - 1):
                    self._save({"rows": rows, "done": number + 1})
                    last = time.monotonic()
                if stop:
                    log.warning(
                        "stopped by a signal: saved after step %d; run again to resume from there", self.trainer.step
                    )
                    raise SystemExit(128 + stop)
        return rows

    def _diverged(self, step: int, what: str) -> UserError:
        return UserError(
            f"{self.what}, step {step} of this job: {what}. The state before it is kept and nothing was published: "
            "lower the learning rate."
        )

    def _agree(self, received: list[int], due: bool) -> tuple[int, bool]:
        """Agree over all ranks: stop on a signal that any rank received; save by rank 0's clock."""
        mine = torch.tensor([float(len(received) > 0), float(due and self.trainer.is_main)])
        stop, save = self.trainer.total(mine).tolist()
        return (received[0] if received else signal.SIGTERM) if stop else 0, bool(save)

    def _save(self, metadata: dict[str, object]) -> None:
        save_state(self.trainer, self.saved / f"step-{self.trainer.step:08d}", metadata)
        if self.trainer.is_main:
            for old in states(self.saved)[:-KEPT]:
                shutil.rmtree(old)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Record SIGTERM and SIGUSR1 instead of dying from them."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_log(rows: list[Row]) -> pd.DataFrame:
    """Rows as a train_log frame: what a stage does not measure is null."""
    return pd.DataFrame(rows).reindex(columns=schemas.SCHEMAS["train_log"][1].names)


def finish(trainer: Trainer, saved: Path, rows: list[Row], speed: Speed) -> None:
    """Write the tables of a finished run beside its weights in ``saved``, and delete its checkpoints."""
    if trainer.is_main:
        artifacts.write(saved / SPEED, speed.table(), "train_speed")
        artifacts.write(saved / LOG, train_log(rows), "train_log")  # last: it says that everything is there
        for state in states(saved):
            shutil.rmtree(state)


def finished(saved: Path) -> bool:
    """Whether an earlier job trained to the end, so that its outputs only need to be published."""
    return (saved / LOG).exists()


def publish(
    saved: Path, weights: dict[Path, Path], out: Path, log_out: Path, speed_out: Path,
    inputs: dict[str, Path], metadata: dict[str, Any], processes: int,
) -> None:  # fmt: skip
    """Put a finished run where the workflow expects it; ``weights`` maps source folders to their places in ``out``."""
    if int(os.environ.get("RANK", "0")):
        return
    with artifacts.whole_folder(out) as folder:
        for source, target in weights.items():
            artifacts.link(source, folder / target)
    artifacts.write(log_out, artifacts.read(saved / LOG, "train_log"), "train_log", inputs=inputs, **metadata)
    speed = artifacts.read(saved / SPEED, "train_speed")
    artifacts.write(speed_out, speed, "train_speed", inputs=inputs, processes=processes)
    artifacts.keep_until_recorded(saved, out, log_out, speed_out)


def take(
    longer: list[Path], first_epoch: int, last_epoch: int, out: Path, log_out: Path, speed_out: Path,
    inputs: dict[str, Path], metadata: dict[str, Any], processes: int,
) -> None:  # fmt: skip
    """Publish the first epochs of a run that trained more: ``longer`` is its models, train_log and train_speed.

    The order of an epoch follows from its number, so that they are those of a run that ended there. The state is not: it is
    that of the last epoch.
    """
    if int(os.environ.get("RANK", "0")):
        return
    with artifacts.whole_folder(out) as folder:
        for epoch in range(first_epoch, last_epoch + 1):
            artifacts.link(longer[0] / f"epoch-{epoch}", folder / f"epoch-{epoch}")
    rows = artifacts.read(longer[1], "train_log")
    rows = rows[rows.epoch <= last_epoch]
    artifacts.write(log_out, rows, "train_log", inputs=inputs, **metadata)
    speed = artifacts.read(longer[2], "train_speed")
    artifacts.write(speed_out, speed[speed.step <= rows.step.max()], "train_speed", inputs=inputs, processes=processes)
