"""Training logs as curves: how log-likelihoods, margins and losses move, step by step (Figures 2, 5, 8-11, 13)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from diffinfo.cli import UserError
from diffinfo.intervals import student
from diffinfo.report.cells import cell, order
from diffinfo.tables import artifacts

_COLUMNS = artifacts.SCHEMAS["figure2"][1].names
# What can be drawn, all in nats. Batches differ from step to step, so the change is taken against the same batch's
# reference log-probability: it is 0 before the first update.
QUANTITIES = {
    "chosen": lambda log: log.logp_chosen - log.reference_logp_chosen,
    "rejected": lambda log: log.logp_rejected - log.reference_logp_rejected,
    "margin": lambda log: log.logp_chosen - log.reference_logp_chosen - log.logp_rejected + log.reference_logp_rejected,
    "dpo_loss": lambda log: log.dpo_loss,
    "logp_chosen": lambda log: log.logp_chosen,
    "logp_rejected": lambda log: log.logp_rejected,
}


def read(paths: list[Path], quantities: tuple[str, ...]) -> pd.DataFrame:
    """Curves of ``quantities`` from ``train_log`` tables; the spans of one run are joined.

    Returns:
        One row per run, quantity and step: ``value`` is the batch's mean, ``mean`` the running mean of the last n
        steps with its 95 % interval ``low``, ``high`` (n is a quarter of an epoch, 100 steps at most).

    Raises:
        UserError: when two logs of one run hold the same step.
    """
    runs: dict[tuple[str, str, str], list[Path]] = {}
    for path in paths:
        runs.setdefault(cell(path).key, []).append(path)
    curves = []
    for key in sorted(runs, key=lambda key: order(key[2])):
        log = pd.concat([artifacts.read(path, "train_log") for path in runs[key]]).sort_values("step")
        if log.step.duplicated().any():
            step = log.step[log.step.duplicated()].iloc[0]
            raise UserError(f"{' and '.join(map(str, runs[key]))} both hold step {step} of one run.")
        for quantity in quantities:
            curve = log[["step", "epoch"]].assign(value=QUANTITIES[quantity](log)).dropna()
            named = dict(zip(("model", "dataset", "method"), key, strict=True))
            curves.append(_smooth(curve).assign(**named, quantity=quantity))
    return pd.concat(curves)[_COLUMNS] if curves else pd.DataFrame(columns=_COLUMNS)


def _smooth(curve: pd.DataFrame) -> pd.DataFrame:
    """Running mean of the last n steps with Student's 95 % interval, from the scatter among them."""
    window = max(2, min(100, int(curve.groupby("epoch").size().max()) // 4)) if len(curve) else 2
    rolling = curve.value.rolling(window, min_periods=1)
    count, mean = rolling.count(), rolling.mean()
    half = student(count) * rolling.std() / count**0.5
    half = half.fillna(0.0)  # one value has no scatter
    return curve.assign(mean=mean, low=mean - half, high=mean + half, n=count.astype(int))


def last_epoch(curve: pd.DataFrame) -> pd.Series:
    """The batch values of the last epoch of one curve."""
    values: pd.Series = curve.value[curve.epoch == curve.epoch.max()]
    return values
