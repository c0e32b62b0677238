"""The paper's claims, each against what this grid measured: holds, does not hold, or undecided, by the rules of docs/claims.md.

``python -m diffinfo.report.claims --inputs '["results/tables/table1.parquet", ...]' --out results/claims.parquet``
writes the table, and beside it a Markdown page to read and an HTML page for the report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from diffinfo.bench.questions import WILDBENCH
from diffinfo.cli import run
from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import Estimate, average, mean, number, over_seeds, share
from diffinfo.methods import METHODS
from diffinfo.report import curves, paired, paper
from diffinfo.report.cells import beta, cell, family, order, rows_of, title, unseeded
from diffinfo.report.elo import rated
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Finding:
    """What was measured of one claim on one grid row."""

    decisive: list[Estimate]  # every one of them must lie on the predicted side
    evidence: str


Tables = dict[str, pd.DataFrame]
Measure = Callable[[pd.DataFrame], Finding | None]  # of the rows of one model and dataset


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    name: str
    statement: str
    source: str
    prediction: str
    sign: Literal[1, -1]  # of the measured quantity, if the claim is true
    kinds: tuple[str, ...]  # the tables it is read from; each grid row of them is one case
    measure: Measure
    about: Literal["instructions", "correctness", "any"] = "any"  # which datasets it speaks of
    beside: tuple[tuple[str, ...], Measure] | None = (
        None  # the paper's own statistic: tables and measure; decides nothing
    )


def verdict(estimates: list[Estimate], sign: int) -> str:
    """Holds: every interval on the predicted side. Does not hold: some interval on the other side."""
    sides = [(e.low, e.high) if sign > 0 else (-e.high, -e.low) for e in estimates]
    if not sides or any(math.isnan(low + high) for low, high in sides):
        return OPEN
    if any(high < 0 for _, high in sides):
        return FAILS
    return HOLDS if all(low > 0 for low, _ in sides) else OPEN


def main(
    *,
    inputs: list[Path],
    out: Path,
    wildbench: WildBench | None = None,
    correctness: list[str] | None = None,
    dagger_below: float = 0.5,
) -> None:
    """Write the claims table and its pages.

    Args:
        inputs: tables 1-3, the data of figures 3, 5, 6 and 8-12, and of each cell Arena-Hard's and WildBench's judgments and
            the QA items, in any order; what is absent is undecided.
        out: the table; the pages are written beside it.
        wildbench: the ``wildbench`` section of the configuration, by which Elo is played; none: Elo is not measured.
        correctness: datasets whose preferences rank by correctness alone: for them the paper predicts the opposite.
        dagger_below: the beta'-accuracy under which a DID entropy counts as unreliable.
    """
    tables: Tables = {}
    answered: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    graded: dict[tuple[str, str, str], pd.DataFrame] = {}
    for path in inputs:
        kind = artifacts.provenance(path)["kind"]
        table = artifacts.read(path, kind)
        if kind in paired.KINDS:
            name, questions = paired.by_question(table, kind)
            model, dataset, method = cell(path).key
            answered[name].append(questions.assign(model=model, dataset=dataset, method=method))
            if name == WILDBENCH:
                graded[model, dataset, method] = table
        else:
            tables[kind] = table
    tables |= {name: pd.concat(parts, ignore_index=True) for name, parts in answered.items()}
    if graded and wildbench:
        keys = pd.DataFrame(list(graded), columns=["model", "dataset", "method"])
        ratings = rated(graded, wildbench).loc[keys.agg("/".join, axis=1)].reset_index(drop=True)
        tables["elo"] = pd.concat([keys, ratings], axis=1).dropna(subset=["elo"])
    records = [record for claim in _claims(dagger_below) for record in _judge(claim, tables, set(correctness or []))]
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["claims"][1].names)
    facts = {
        "correctness": correctness,
        "dagger_below": dagger_below,
        "wildbench": wildbench and wildbench.model_dump(),
    }
    _page(frame).write(out.with_suffix(".md"), out.with_suffix(".html"))
    artifacts.write(out, frame, "claims", inputs={str(path): path for path in inputs}, **facts)


def _judge(claim: Claim, tables: Tables, correctness: set[str]) -> Iterator[dict[str, Any]]:
    head = {"claim": claim.name, "statement": claim.statement, "source": claim.source, "prediction": claim.prediction}
    nothing: dict[str, Any] = {"model": "", "dataset": "", "value": None, "low": None, "high": None, "n": None}
    data = [tables[kind] for kind in claim.kinds if kind in tables and len(tables[kind])]
    cases = 0
    for frame in data:
        for model, dataset in rows_of(frame):
            if claim.about != "any" and (claim.about == "correctness") != (dataset in correctness):
                continue
            found = claim.measure(_rows(frame, model, dataset))
            if found is None:
                continue
            cases += 1
            evidence = [found.evidence]
            kinds, own = claim.beside or ((), claim.measure)
            for kind in kinds:
                more = own(_rows(tables[kind], model, dataset)) if kind in tables else None
                evidence += [f"the paper's statistic: {more.evidence}"] if more else []
            where = head | nothing | {"model": model, "dataset": dataset, "evidence": "; ".join(evidence)}
            if found.decisive:
                weakest = min(found.decisive, key=lambda e: claim.sign * e.value)
                where |= {"value": weakest.value, "low": weakest.low, "high": weakest.high, "n": weakest.n}
            yield where | {"verdict": verdict(found.decisive, claim.sign)}
    if not cases:
        yield head | nothing | {"evidence": "not measured in this grid", "verdict": OPEN}


def _rows(frame: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    return frame[(frame.model == model) & (frame.dataset == dataset)]


def _claims(dagger_below: float) -> list[Claim]:
    return [
        Claim("a", "Instruction-following preferences carry a high-entropy DID: H(p*^{1/β}) > H(π_ref).",
              "Section 4.3, Table 1", "difference > 0 nats for every β", 1, ("table1",), _entropy_gap, "instructions"),
        Claim("b", "Log-likelihood displacement: log π(y_w) falls under DPO.", "Section 4.3, Figures 2 and 10",
              "change < 0 nats for every β", -1, ("figure10",), _change("chosen", "dpo"), "instructions"),
        Claim("c", "The rejected responses' log-likelihood falls under DPO.", "Appendix I, Figure 11",
              "change < 0 nats for every β", -1, ("figure11",), _change("rejected", "dpo"), "instructions"),
        Claim("d1", "DPO-PG raises log π(y_w).", "Theorem H.4, Figure 8", "change > 0 nats", 1, ("figure8",),
              _change("chosen", "dpo-pg")),
        Claim("d2", "DPO-PG lowers or keeps log π(y_l).", "Theorem H.5, Figure 8",
              "change < 0 nats (not above 0; an interval over 0 stays undecided)", -1, ("figure8",),
              _change("rejected", "dpo-pg")),
        Claim("e", "DPO-PG optimises the DPO loss.", "Corollary H.5.1, Figure 9",
              "loss at β = 0.1, minus ln 2 < 0 nats", -1, ("figure9",), _change("dpo_loss", "dpo-pg", math.log(2))),
        Claim("f", "DPO's log-ratio reward reaches a higher expected reward than r = β log π.", "Section 3.5, Figure 6",
              "best DPO − best log π > 0, selected apart", 1, ("figure6",),
              _lead("reward", "best", ("dpo", "logpi"), "lead apart", "lead at equal length"), "instructions",
              beside=(("figure6",), _lead("reward", "best", ("dpo", "logpi")))),
        Claim("g", "The DID of DPO has a higher entropy than that of DPO-PG.", "Section 4.3, Table 2",
              "mean over β of DPO − DPO-PG > 0 nats", 1, ("table2",), _did_gap, "instructions"),
        Claim("h1", "DPO is ahead of DPO-PG on Arena-Hard.", "Section 4.3, Tables 2 and 3",
              "mean over β of DPO − DPO-PG > 0 %, paired by question", 1, ("arena-hard",), _paired("%", 1), "instructions",
              beside=((paired.AS_THE_PAPER,), _paired("%", 1))),
        Claim("h2", "DPO is ahead of DPO-PG on WildBench.", "Section 4.3, Tables 2 and 3",
              "mean over β of DPO − DPO-PG > 0 Elo, paired by task", 1, ("elo",), _elo_lead, "instructions"),
        Claim("h3", "DPO is ahead of DPO-PG in WildBench score.", "our check of Tables 2 and 3",
              "mean over β of DPO − DPO-PG > 0 points, paired by task", 1, ("wildbench",), _paired("points", 2),
              "instructions"),
        Claim("i", "DPO-PG is ahead of DPO on knowledge-intensive QA.", "Section 4.3, Figures 3 and 12",
              "mean accuracy of DPO-PG − mean of DPO > 0 over all epochs, paired by item", 1, ("qa",),
              _paired("", 4, -1), beside=(("figure3", "figure12"), _lead("MRR", "mrr", ("dpo", "dpo-pg")))),
        Claim("j1", "DPO-P optimises the log-margin less than DPO.", "Appendix H, Figure 5",
              "margin of DPO − DPO-P > 0 nats", 1, ("figure5",), _margin_gap),
        Claim("j2", "Cal-DPO does not reliably mitigate log-likelihood displacement.", "Appendix H, Figure 5",
              "change of log π(y_w) in its lowest epoch < 0 nats", -1, ("figure5",), _lowest_epoch),
        Claim("k1", "Preferences that rank by correctness alone carry a low-entropy DID.", "Section 4.2",
              "H(p*^{1/β}) − H(π_ref) < 0 nats for every β", -1, ("table1",), _entropy_gap, "correctness"),
        Claim("k2", "On such preferences DPO reinforces the policy: log π(y_w) rises.", "Section 4.2",
              "change > 0 nats for every β", 1, ("figure10",), _change("chosen", "dpo"), "correctness"),
        Claim("l", f"The DID proxies converged: β′-accuracy above {dagger_below:.0%}, no cell needs a dagger.",
              "Appendix K.1", f"β′-accuracy − {dagger_below:g} > 0 for every cell", 1, ("table2",),
              _accuracy(dagger_below)),
    ]  # fmt: skip


def _say(estimates: list[Estimate], digits: int = 2, unit: str = "nats") -> str:
    return "; ".join(
        f"{e.label}: {number(e.value, digits)} [{number(e.low, digits)}, {number(e.high, digits)}]" for e in estimates
    ) + (f" {unit}" if unit and estimates else "")


def _beside(others: list[Estimate], digits: int = 2, unit: str = "nats") -> str:
    """Evidence on methods that the claim is not about."""
    return f"; beside the claim: {_say(others, digits, unit)}" if others else ""


def _entropy_gap(rows: pd.DataFrame) -> Finding | None:
    """Entropies of policy and reference; their errors are taken as independent, which is on the safe side."""
    gaps: list[Estimate] = []
    others: list[Estimate] = []
    row: Any
    for row in rows.dropna(subset=["entropy", "reference"]).itertuples():
        logpi = family(row.method) == "logpi"
        label = f"β = {row.beta:g}" if logpi else title(row.method)
        own = Estimate(label, row.entropy, row.low, row.high, int(row.prompts))
        gap = own - Estimate("", row.reference, row.reference_low, row.reference_high, int(row.prompts))
        (gaps if logpi else others).append(gap)
    return Finding(gaps, _say(gaps) + _beside(others)) if gaps else None


def _change(quantity: str, of: str, start: float = 0.0) -> Measure:
    """Mean of the last epoch's batches, above ``start``."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        found: list[Estimate] = []
        others: list[Estimate] = []
        for method, curve in rows[rows.quantity == quantity].groupby("method", sort=False):
            own = mean(curves.last_epoch(curve) - start, title(str(method)))
            (found if family(str(method)) == of else others).append(own)
        return Finding(found, _say(found, 3) + ", last epoch" + _beside(others, 3)) if found else None

    return measure


def _lead(unit: str, quantity: str, compared: tuple[str, str], lead: str = "lead", *more: str) -> Measure:
    """The difference that the figure's own data hold; beside it ``more`` such, and the last ``quantity`` of other methods."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        leads = rows.drop_duplicates("quantity").set_index("quantity")
        if lead not in leads.index:
            return None
        n = int(leads.loc[lead, "prompts" if "prompts" in rows else "questions"])
        found = [
            Estimate(name.replace("lead", "difference"), leads.value[name], leads.low[name], leads.high[name], n)
            for name in (lead, *more)
            if name in leads.index
        ]
        last = rows[rows.quantity == quantity].drop_duplicates("method", keep="last")
        others: list[Estimate] = []
        r: Any
        for r in last[~last.method.map(family).isin(compared)].itertuples():
            others.append(Estimate(f"{title(r.method)}, epoch {r.epoch}", r.value, r.low, r.high, n))
        return Finding(found[:1], _say(found, 3, unit) + _beside(others, 3, unit))

    return measure


def _paired(unit: str, digits: int, sign: int = 1) -> Measure:
    """Mean of DPO's betas above DPO-PG (``sign`` -1: below), on the same questions."""

    def measure(rows: pd.DataFrame) -> Finding | None:
        found = paired.compare(rows, sign)
        if found is None:
            return None
        said = _say([found.lead, *found.compared], digits, unit) + f", {found.lead.n} questions"
        if found.left_out:
            said += f" ({found.left_out} left out: one of these cells has no result for them)"
        return Finding([found.lead], said + _beside(found.others, digits, unit))

    return measure


def _dpo_and_pg(
    rows: pd.DataFrame, names: tuple[str, str, str], count: str
) -> tuple[list[Estimate], Estimate | None, list[Estimate]]:
    """Estimates of every DPO cell, of DPO-PG and of further methods; ``count`` names the column of n."""
    dpo, reinforcing, others = [], None, []
    for row in rows.dropna(subset=[names[0]]).to_dict("records"):
        value, low, high = (float(row[name]) for name in names)
        found = Estimate(title(row["method"]), value, low, high, int(np.nan_to_num(row[count])))
        if row["method"] == "dpo-pg":
            reinforcing = found
        elif family(row["method"]) == "dpo":
            dpo.append(found)
        else:
            others.append(found)
    return dpo, reinforcing, others


def _elo_lead(rows: pd.DataFrame) -> Finding | None:
    """Mean of DPO's betas above DPO-PG in the same pool, seed by seed, with the interval over the same drawn tasks."""
    cells = {row.method: row for row in sorted(rows.itertuples(), key=lambda row: order(row.method))}
    sides = {name: {m for m in cells if family(m) == name} for name in ("dpo", "dpo-pg")}
    leads = []
    for seed in sorted(set.intersection(*({unseeded(m)[1] for m in side} for side in sides.values()))):
        dpo, pg = ([cells[m] for m in side if unseeded(m)[1] == seed] for side in sides.values())
        value = np.mean([c.elo for c in dpo]) - np.mean([c.elo for c in pg])
        low, high = np.quantile(
            np.mean([c.draws for c in dpo], axis=0) - np.mean([c.draws for c in pg], axis=0), [0.025, 0.975]
        )
        leads.append(Estimate("", float(value), float(low), float(high), min(c.battles for c in [*dpo, *pg])))
    if not leads:
        return None
    lead = replace(over_seeds(leads), label="mean of DPO − DPO-PG")
    ratings = {m: Estimate(title(m), c.elo, c.low, c.high, int(c.battles)) for m, c in cells.items()}
    compared = [e for m, e in ratings.items() if m in sides["dpo"] | sides["dpo-pg"]]
    others = [e for m, e in ratings.items() if m not in sides["dpo"] | sides["dpo-pg"]]
    return Finding([lead], _say([lead, *compared], 2, "Elo") + _beside(others, 2, "Elo"))


def _did_gap(rows: pd.DataFrame) -> Finding | None:
    """Cells with a dagger decide nothing."""
    dpo, reinforcing, others = _dpo_and_pg(rows, ("did_entropy", "low", "high"), "prompts")
    if not dpo or reinforcing is None:
        return None
    doubtful = {title(method) for method in rows.method[rows.dagger]}
    evidence = _say([*dpo, reinforcing]) + _beside(others)
    if doubtful:
        evidence += f"; left out as unreliable (†): {', '.join(sorted(doubtful))}"
    kept = [e for e in dpo if e.label not in doubtful]
    if not kept or reinforcing.label in doubtful:
        return Finding([], evidence)
    lead = average(kept, "mean of DPO − DPO-PG") - reinforcing
    return Finding([lead], f"{_say([lead])}; {evidence}")


def _margin_gap(rows: pd.DataFrame) -> Finding | None:
    """Paired by step: both methods see the same batches in the same order."""
    margins = {
        str(method): curve.set_index("step")
        for method, curve in rows[rows.quantity == "margin"].groupby("method", sort=False)
    }
    gaps, others = [], []
    for method, curve in margins.items():
        last = curves.last_epoch(curve)
        plain = margins.get(f"dpo-b{beta(method):g}") if family(method) == "dpop" else None
        if plain is not None:
            gaps.append(mean((plain.value - last).dropna(), f"β = {beta(method):g}"))
        elif not METHODS[family(method)].paper:
            others.append(mean(last, f"margin of {title(method)}"))
    return Finding(gaps, _say(gaps, 3) + ", last epoch" + _beside(others, 3)) if gaps else None


def _lowest_epoch(rows: pd.DataFrame) -> Finding | None:
    found: list[Estimate] = []
    others: list[Estimate] = []
    for method, curve in rows[rows.quantity == "chosen"].groupby("method", sort=False):
        name = family(str(method))
        if name == "cal-dpo" or not METHODS[name].paper:
            epochs = [
                mean(part.value, f"{title(str(method))}, epoch {epoch}") for epoch, part in curve.groupby("epoch")
            ]
            (found if name == "cal-dpo" else others).append(min(epochs, key=lambda e: e.value))
    return Finding(found, _say(found, 3) + _beside(others, 3)) if found else None


def _accuracy(dagger_below: float) -> Measure:
    def measure(rows: pd.DataFrame) -> Finding | None:
        shares: list[Estimate] = []
        others: list[Estimate] = []
        for row in rows.dropna(subset=["beta_accuracy"]).to_dict("records"):
            own = share(title(row["method"]), row["beta_accuracy"] * row["prompts"], int(row["prompts"]))
            (shares if METHODS[family(row["method"])].paper else others).append(own)
        if not shares:
            return None
        return Finding([e.above(dagger_below) for e in shares], _say(shares, 3, "") + _beside(others, 3, ""))

    return measure


def _page(frame: pd.DataFrame) -> Page:
    counts = frame.verdict.value_counts()
    page = Page("The paper's claims in this grid")
    page.say("; ".join(f"{counts.get(kind, 0)} {kind}" for kind in (HOLDS, FAILS, OPEN)) + ".")
    page.say(
        "A claim holds where every 95 % interval is on the predicted side, does not hold where one is on the",
        "other, and is undecided otherwise (not measured included). The intervals are those of sampling: what another",
        "training seed would change is in them only where Tables 1 to 3 have several seeds.",
    )

    def line(row: Any) -> dict[str, str]:
        where = f"{paper.model_title(row.model)} on {paper.dataset_title(row.dataset)}" if row.model else ""
        evidence = row.evidence.replace("|", "/")
        return {"row": where, "measured": evidence, "n": number(row.n, 0), "verdict": row.verdict}

    for (name, statement, source, prediction), part in frame.groupby(
        ["claim", "statement", "source", "prediction"], sort=False
    ):
        page.head(f"({name}) {statement}")
        page.say(f"{source}. Predicted: {prediction}.")
        page.table(part, line)
    return page


if __name__ == "__main__":
    run(main)
