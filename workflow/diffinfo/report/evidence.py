"""What the claims measure: cells' tables as rows a unit (prompt, question, pair), and from these the numbers that decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffinfo.intervals import Estimate, at_zero, number, share
from diffinfo.methods import METHODS
from diffinfo.report import curves, paired, rewards
from diffinfo.report.cells import beta, cell, family, order, title, unseeded
from diffinfo.report.paired import Drawn, Sample, Statistic, by_method
from diffinfo.selection import halves
from diffinfo.tables import artifacts

LOGPS = ["logp_chosen", "logp_rejected", "reference_logp_chosen", "reference_logp_rejected"]


@dataclass(frozen=True)
class Finding:
    """What was measured of one claim on one grid row."""

    decisive: list[Statistic]  # every one of them must lie on the predicted side
    others: list[Statistic] = field(default_factory=list)  # of methods that the claim is not about
    detail: str = ""
    digits: int = 2
    unit: str = "nats"

    def words(self) -> str:
        """All of it, for print."""
        said = (_say(self.decisive, self.digits, self.unit) + self.detail).removeprefix("; ")
        return said + (f"; beside the claim: {_say(self.others, self.digits, self.unit)}" if self.others else "")


Measure = Callable[[pd.DataFrame], Finding | None]  # of the rows of one model and dataset


def _say(found: list[Statistic], digits: int, unit: str) -> str:
    each = [(s.label, s.estimate()) for s in found]
    said = (
        f"{label}: {number(e.value, digits)} [{number(e.low, digits)}, {number(e.high, digits)}]" for label, e in each
    )
    return "; ".join(said) + (f" {unit}" if unit and found else "")


# Tables as rows -------------------------------------------------------------------------------------------------------


def by_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Methods without their seeds, which become a column."""
    names = pd.DataFrame({name: unseeded(name) for name in frame.method.unique()}, index=["name", "seed"]).T
    return frame.assign(method=frame.method.map(names["name"]), seed=frame.method.map(names["seed"]).astype(int))


def read(path: Path, kind: str) -> tuple[str, pd.DataFrame]:
    """A cell's table as rows a unit.

    Returns:
        The name that claims know it by, and columns model, dataset, method, seed, epoch and those of its kind.
    """
    rows_of = _READERS.get(kind)
    name, frame = rows_of(path) if rows_of else paired.by_question(artifacts.read(path, kind), kind)
    c = cell(path)
    frame = frame if "epoch" in frame else frame.assign(epoch=c.epoch)
    return name, by_seed(frame.assign(model=c.model, dataset=c.dataset, method=c.method))


def _update(path: Path) -> tuple[str, pd.DataFrame]:
    table = artifacts.read(path, "update", ["prompt_id", "entropy_change"])
    return "update", table.rename(columns={"prompt_id": "item", "entropy_change": "value"})


def _heldout(path: Path) -> tuple[str, pd.DataFrame]:
    """The quantities of the training's curves, of pairs that are not trained on; the DPO loss at beta = 0.1, as there."""
    table = artifacts.read(path, "heldout", ["epoch", "prompt_id", *LOGPS])
    margin = curves.QUANTITIES["margin"](table)
    parts = [
        table[["epoch", "prompt_id"]].assign(quantity=name, value=value)
        for name, value in {
            **{name: curves.QUANTITIES[name](table) for name in ("chosen", "rejected")},
            "margin": margin,
            "dpo_loss": np.logaddexp(0.0, -0.1 * margin),
        }.items()
    ]
    return "heldout", pd.concat(parts).rename(columns={"prompt_id": "item"})


def _scores(path: Path) -> tuple[str, pd.DataFrame]:
    """Samples of one prompt are not independent: their mean."""
    table = artifacts.read(path, "scores", ["epoch", "prompt_id", "score", "tokens"])
    table = table.rename(columns={"prompt_id": "item"})
    return "scores", table.groupby(["epoch", "item"], as_index=False)[["score", "tokens"]].mean()


def _proxy(path: Path) -> tuple[str, pd.DataFrame]:
    """Entropy of a DID proxy at each prompt, from its samples."""
    table = artifacts.read(path, "completions", ["prompt_id", "logp"]).rename(columns={"prompt_id": "item"})
    entropies = (-table.logp).groupby(table["item"]).mean().rename("won").reset_index()
    return "proxies", entropies.assign(benchmark="did", weight=1.0)


def _accuracy_of(path: Path) -> tuple[str, pd.DataFrame]:
    return "accuracy", artifacts.read(path, "entropy", ["beta_accuracy", "prompts"])


_READERS: dict[str, Callable[[Path], tuple[str, pd.DataFrame]]] = {
    "update": _update, "heldout": _heldout, "scores": _scores,
    "completions": _proxy, "entropy": _accuracy_of,
}  # fmt: skip
KINDS = (*paired.KINDS, *_READERS)  # tables of cells


# Rows as numbers ------------------------------------------------------------------------------------------------------


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of each cell."""
    return rows[rows.epoch == rows.groupby(["method", "seed"]).epoch.transform("max")]


def _units(rows: pd.DataFrame) -> dict[tuple[str, int], pd.Series]:
    """Values of every cell by unit."""
    ordered = sorted(rows.groupby(["method", "seed"]), key=lambda part: order(part[0][0]))
    return {(str(method), int(seed)): part.groupby("item").value.mean() for (method, seed), part in ordered}


def _sides(cells: dict[tuple[str, int], Any], of: str) -> tuple[list[Statistic], list[Statistic]]:
    """Statistics of the method ``of``, and of methods that the paper does not train."""
    others = {at: values for at, values in cells.items() if not METHODS[family(at[0])].paper}
    return by_method({at: values for at, values in cells.items() if family(at[0]) == of}), by_method(others)


def entropy_change(rows: pd.DataFrame) -> Finding | None:
    """H(pi) - H(pi_ref) at each prompt."""
    found, others = _sides(_units(_last(rows)), "logpi")
    return Finding(found, others) if found else None


def entropy_gap(rows: pd.DataFrame) -> Finding | None:
    """Table 1's difference; its two errors are taken as independent, which is on the safe side."""
    gaps: dict[tuple[str, int], Sample] = {}
    row: Any
    for row in rows.dropna(subset=["entropy", "reference"]).itertuples():
        own = Estimate("", row.entropy, row.low, row.high, int(row.prompts))
        gaps[row.method, 1] = own - Estimate("", row.reference, row.reference_low, row.reference_high, int(row.prompts))
    found, others = _sides(gaps, "logpi")
    return Finding(found, others) if found else None


def change(quantity: str, of: str, start: float = 0.0) -> Measure:
    """Mean of the last epoch's pairs (or training batches), above ``start``."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        part = _last(rows[rows.quantity == quantity])
        found, others = _sides(_units(part.assign(value=part.value - start)), of)
        return Finding(found, others, ", last epoch", 3) if found else None

    return measure


def margin_gap(rows: pd.DataFrame) -> Finding | None:
    """DPO's margin above DPO-P's at the same beta: paired by pair (training batches are the same in the same order)."""
    margins = _units(_last(rows[rows.quantity == "margin"]))
    gaps = {
        (method, seed): (margins[plain] - own).dropna()
        for (method, seed), own in margins.items()
        if family(method) == "dpop" and (plain := (f"dpo-b{beta(method):g}", seed)) in margins
    }
    found = [replace(s, label=s.label.replace("DPO-P", "DPO − DPO-P")) for s in by_method(gaps)]
    return Finding(found, _sides(margins, "dpop")[1], ", last epoch", 3) if found else None


def lowest_epoch(rows: pd.DataFrame) -> Finding | None:
    """Cal-DPO in the epoch with the lowest mean over units and seeds, corrected for the choice."""
    found: list[Statistic] = []
    others: list[Statistic] = []
    chosen, said = rows[rows.quantity == "chosen"], []
    for method, part in sorted(chosen.groupby("method"), key=lambda part: order(part[0])):
        name = family(str(method))
        if name == "cal-dpo" or not METHODS[name].paper:
            means = part.groupby(["epoch", "seed"]).value.mean().groupby("epoch").mean()
            (own,) = by_method(_units(part[part.epoch == means.idxmin()]))
            (found if name == "cal-dpo" else others).append(replace(own, tests=len(means)))
            said += [f", epoch {means.idxmin()} of {len(means)}"] if name == "cal-dpo" else []
    return Finding(found, others, "".join(said), 3) if found else None


def best_lead(rows: pd.DataFrame) -> Finding | None:
    """The reward of DPO's best beta and epoch above that of log pi's, each half of the prompts at the other one's choice."""
    leads: dict[int, Sample] = {}
    equal: dict[int, Sample] = {}
    for seed, part in rows.groupby("seed"):
        own = {at: each.set_index("item")[["score", "tokens"]] for at, each in part.groupby(["method", "epoch"])}
        half = halves(part["item"])
        if {"dpo", "logpi"} <= {family(method) for method, _ in own} and len(half) > 1:
            dpo, logpi = (pd.concat([h for _, h in rewards.selected_apart(own, m, half)]) for m in ("dpo", "logpi"))
            gap = (dpo - logpi).dropna()
            leads[int(str(seed))], equal[int(str(seed))] = gap.score, at_zero(gap.score, gap.tokens)
    if not leads:
        return None
    said = f"; {_say([Statistic('at equal length', equal)], 3, 'reward')}"
    return Finding([Statistic("difference", leads)], detail=said, digits=3, unit="reward")


def lead(unit: str, quantity: str, compared: tuple[str, str]) -> Measure:
    """The difference that the figure's own data hold; beside it the last ``quantity`` of methods not ``compared``."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        leads = rows[rows.quantity == "lead"]
        if leads.empty:
            return None
        row = leads.iloc[0]
        n = int(row["prompts"] if "prompts" in rows else row["questions"])
        found = Statistic("difference", {1: Estimate("", row["value"], row["low"], row["high"], n)})
        last = rows[rows.quantity == quantity].drop_duplicates(["method", "seed"], keep="last")
        last = last[~last.method.map(family).isin(compared)]
        others = [
            Statistic(
                f"{title(r['method'])}, epoch {r['epoch']}", {1: Estimate("", r["value"], r["low"], r["high"], n)}
            )
            for r in last.to_dict("records")
        ]
        return Finding([found], others, digits=3, unit=unit)

    return measure


def ahead(unit: str, digits: int, sign: int = 1) -> Measure:
    """Mean of DPO's betas above DPO-PG (``sign`` -1: below), on the same questions."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        found = paired.compare(rows, sign)
        if found is None:
            return None
        said = f"; {_say(found.compared, digits, unit)}, {found.lead.estimate().n} questions"
        if found.left_out:
            said += f" ({found.left_out} left out: one of these cells has no result for them)"
        return Finding([found.lead], found.others, said, digits, unit)

    return measure


def elo_lead(rows: pd.DataFrame) -> Finding | None:
    """Mean of DPO's betas above DPO-PG in the same pool, seed by seed, over the same drawn tasks."""
    ratings: dict[tuple[str, int], Sample] = {}
    of: dict[str, dict[int, list[Any]]] = {"dpo": {}, "dpo-pg": {}}
    for row in sorted(rows.itertuples(), key=lambda row: order(str(row.method))):
        ratings[str(row.method), row.seed] = Estimate("", row.elo, row.low, row.high, int(row.battles))
        if family(str(row.method)) in of:
            of[family(str(row.method))].setdefault(row.seed, []).append(row)
    leads: dict[int, Sample] = {}
    for seed in sorted(of["dpo"].keys() & of["dpo-pg"].keys()):
        dpo, pg = of["dpo"][seed], of["dpo-pg"][seed]
        leads[seed] = Drawn(
            float(np.mean([c.elo for c in dpo]) - np.mean([c.elo for c in pg])),
            np.mean([c.draws for c in dpo], axis=0) - np.mean([c.draws for c in pg], axis=0),
            min(int(c.battles) for c in [*dpo, *pg]),
        )
    if not leads:
        return None
    compared = by_method({at: e for at, e in ratings.items() if family(at[0]) in of})
    others = by_method({at: e for at, e in ratings.items() if family(at[0]) not in of})
    return Finding([Statistic("mean of DPO − DPO-PG", leads)], others, f"; {_say(compared, 2, 'Elo')}", 2, "Elo")


def did_gap(dagger_below: float) -> Measure:
    """Entropy of DPO's proxies above that of DPO-PG's at each prompt; proxies with a dagger decide nothing."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        found = paired.compare(rows)
        if found is None:
            return None
        accuracy = rows.drop_duplicates(["method", "seed"]).groupby("method").accuracy.mean()
        doubtful = [method for method in accuracy.index if not accuracy[method] >= dagger_below]
        said = f"; {_say(found.compared, 2, 'nats')}"
        if doubtful:
            said += f"; left out as unreliable (†): {', '.join(map(title, sorted(doubtful, key=order)))}"
        kept = paired.compare(rows[~rows.method.isin(doubtful)])
        return Finding([kept.lead] if kept else [], found.others, said)

    return measure


def accuracy(dagger_below: float) -> Measure:
    """The beta'-accuracies of the paper's methods above the dagger's."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        shares: dict[tuple[str, int], Sample] = {}
        row: Any
        for row in rows.dropna(subset=["beta_accuracy"]).itertuples():
            own = share("", row.beta_accuracy * row.prompts, int(row.prompts))
            shares[row.method, row.seed] = own.above(dagger_below)
        of_paper = by_method({at: e for at, e in shares.items() if METHODS[family(at[0])].paper})
        others = by_method({at: e for at, e in shares.items() if not METHODS[family(at[0])].paper})
        return Finding(of_paper, others, digits=3, unit="") if of_paper else None

    return measure
