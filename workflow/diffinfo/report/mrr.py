"""Mean reciprocal ranks over the QA benchmarks, with the accuracies' errors (Figures 3 and 12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffinfo.bench.qa import mean_reciprocal_rank, ranked
from diffinfo.report.cells import cell, family, order
from diffinfo.tables import artifacts

RIVALS = ("dpo", "dpo-pg")
_DRAWS, _SEED = 400, 42
_COLUMNS = artifacts.SCHEMAS["figure3"][1].names


def mrr_table(paths: list[Path]) -> pd.DataFrame:
    """MRR of every method at every epoch, and DPO-PG's lead over the mean of DPO's betas, over all epochs.

    The paper ranks DPO and DPO-PG. Any further method is ranked among them, one at a time, which leaves their ranks as they
    are; where neither is there, all are ranked together. Epochs that some method lacks are left out: ranks would be among
    fewer methods.

    Args:
        paths: ``qa`` tables.
    """
    tables = []
    for path in paths:
        c = cell(path)
        table = ranked(artifacts.read(path, "qa"))
        tables.append(table.assign(model=c.model, dataset=c.dataset, method=c.method))
    records: list[dict[str, Any]] = []
    everything = pd.concat(tables) if tables else pd.DataFrame(columns=["model", "dataset"])
    for (model, dataset), values in everything.groupby(["model", "dataset"], sort=False):
        present = sorted(values.method.unique(), key=order)
        rivals = [method for method in present if family(method) in RIVALS] or present
        groups = [rivals] + [[*rivals, method] for method in present if method not in rivals]
        for group in groups:
            shown = group if group is rivals else group[-1:]
            found = _among(values[values.method.isin(group)], shown)
            records += [{"model": model, "dataset": dataset} | record for record in found]
    return pd.DataFrame(records, columns=_COLUMNS)


def _among(values: pd.DataFrame, shown: list[str]) -> list[dict[str, Any]]:
    """MRRs of the methods ``shown`` among all of ``values``, and DPO-PG's lead where it is one of them."""
    methods = values.method.nunique()
    whole = values[values.groupby("epoch").method.transform("nunique") == methods]
    if methods < 2 or whole.empty:
        return []
    found = mean_reciprocal_rank(whole).set_index(["method", "epoch"]).mrr
    draws = _redrawn(whole)
    facts = {"benchmarks": whole.benchmark.nunique(), "questions": int(whole.drop_duplicates("benchmark").n.sum())}
    records: list[dict[str, Any]] = []
    for method in shown:
        for epoch, value in found[method].items():
            low, high = np.quantile(draws.loc[(method, epoch)], [0.025, 0.975])
            records.append(
                facts | {"method": method, "quantity": "mrr", "epoch": epoch, "value": value, "low": low, "high": high}
            )
    if {family(method) for method in shown} == set(RIVALS):
        lead, spread = _lead(found.to_frame()).iloc[0], _lead(draws)
        low, high = np.quantile(spread, [0.025, 0.975])
        records.append(
            facts | {"method": "dpo-pg", "quantity": "lead", "epoch": 0, "value": lead, "low": low, "high": high}
        )
    return records


def _redrawn(table: pd.DataFrame) -> pd.DataFrame:
    """MRRs (method, epoch) x draws, each accuracy redrawn from a normal variable with its standard error.

    One deviate serves all epochs of a method and benchmark: the questions are the same, so the errors are too.
    """
    rng = np.random.default_rng(_SEED)
    pairs = table.groupby(["method", "benchmark"]).ngroup().to_numpy()
    deviates = rng.standard_normal((_DRAWS, pairs.max() + 1))[:, pairs]  # (draws, rows)
    values = table.value.to_numpy() + deviates * table.stderr.fillna(0.0).to_numpy()
    longest = table.epoch.max() + 1
    repeated = pd.concat([table.assign(value=v, epoch=table.epoch + i * longest) for i, v in enumerate(values)])
    flat = mean_reciprocal_rank(repeated[["method", "epoch", "benchmark", "value"]])
    flat = flat.assign(draw=flat.epoch // longest, epoch=flat.epoch % longest)
    return flat.pivot(index=["method", "epoch"], columns="draw", values="mrr")


def _lead(mrrs: pd.DataFrame) -> pd.Series:
    """DPO-PG minus the mean of DPO's betas, averaged over epochs; one value per column."""
    reinforcing = mrrs.index.get_level_values("method").map(family) == "dpo-pg"
    difference: pd.Series = mrrs[reinforcing].mean() - mrrs[~reinforcing].mean()
    return difference
