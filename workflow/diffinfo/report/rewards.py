"""Expected reward above the reference, paired by prompt (Figure 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import UserError
from diffinfo.intervals import Estimate, mean
from diffinfo.methods import REFERENCE
from diffinfo.report.cells import cell, family, order
from diffinfo.tables import artifacts

_COLUMNS = artifacts.SCHEMAS["figure6"][1].names


def reward_table(paths: list[Path]) -> pd.DataFrame:
    """E[R(y)] - E[R(y_ref)] of every run and epoch, of each objective's best, and DPO's lead over log pi.

    Args:
        paths: ``scores`` tables of runs and, for each model and dataset, of the reference.

    Raises:
        UserError: when a reference is missing or shares no prompt with a run.
    """
    scores: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for path in paths:
        scores.setdefault(cell(path).key, []).append(artifacts.read(path, "scores"))
    records: list[dict[str, Any]] = []
    for model, dataset in dict.fromkeys((m, d) for m, d, _ in scores):
        if (model, dataset, REFERENCE) not in scores:
            raise UserError(f"Figure 6 needs the reference's scores beside those of {model} on {dataset}.")
        reference = _by_prompt(pd.concat(scores[model, dataset, REFERENCE])).groupby("prompt_id").mean()
        above: dict[tuple[str, int], pd.Series] = {}
        for method in sorted((m for a, b, m in scores if (a, b) == (model, dataset)), key=order):
            if method == REFERENCE:
                continue
            own = _by_prompt(pd.concat(scores[model, dataset, method]))
            for epoch, values in own.groupby("epoch"):
                gain = (values.droplevel("epoch") - reference).dropna()
                if gain.empty:
                    raise UserError(f"{method} and the reference of {model} on {dataset} share no scored prompt.")
                above[method, int(str(epoch))] = gain
        cells = {"model": model, "dataset": dataset}
        best: dict[str, tuple[str, int]] = {}
        for (method, epoch), gain in above.items():
            records.append(_record(cells, method, epoch, "epoch", mean(gain)))
            leader = best.get(family(method))
            if leader is None or gain.mean() > above[leader].mean():
                best[family(method)] = (method, epoch)
        records += [_record(cells, *where, "best", mean(above[where])) for where in best.values()]
        if {"dpo", "logpi"} <= set(best):
            lead = (above[best["dpo"]] - above[best["logpi"]]).dropna()
            records.append(_record(cells, *best["dpo"], "lead", mean(lead)))
    return pd.DataFrame(records, columns=_COLUMNS)


def _by_prompt(scores: pd.DataFrame) -> pd.Series:
    """Mean score of each epoch and prompt: samples of one prompt are not independent."""
    values: pd.Series = scores.groupby(["epoch", "prompt_id"]).score.mean()
    return values


def _record(cells: dict[str, str], method: str, epoch: int, quantity: str, found: Estimate) -> dict[str, Any]:
    return cells | {
        "method": method, "objective": family(method), "epoch": epoch, "quantity": quantity,
        "value": found.value, "low": found.low, "high": found.high, "prompts": found.n,
    }  # fmt: skip
