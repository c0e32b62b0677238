"""The paper's claims, each against what this grid measured: holds, does not hold, or undecided, by the rules of docs/claims.md.

``python -m diffinfo.report.claims --inputs '["results/tables/table1.parquet", ...]' --out results/claims.parquet``
writes the table, and beside it the same as CSV and a page as Markdown, HTML and LaTeX.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from diffinfo.bench.questions import ARENA_HARD, WILDBENCH
from diffinfo.cli import run
from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import Estimate, number
from diffinfo.report import evidence, paired, paper
from diffinfo.report.cells import cell, grid_rows, order, title
from diffinfo.report.elo import rated
from diffinfo.report.evidence import Finding, Measure
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

HOLDS, ALIKE, FAILS, OPEN = "holds", "as with permuted labels", "does not hold", "undecided"
VERDICTS = (HOLDS, ALIKE, FAILS, OPEN)
LEVEL = 0.05
NOT_COMPARABLE = "permuted labels were trained on, but have no number beside one that decides"
ONE_POOL = "elo, one pool"  # ratings in a pool of all cells, placebos among them


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    name: str
    statement: str
    source: str
    prediction: str
    sign: Literal[1, -1]  # of the measured quantity, if the claim is true
    rows: str  # what it is judged by; each grid row of it is one case
    measure: Measure
    about: Literal["instructions", "correctness", "any"] = "any"  # which datasets it speaks of
    beside: tuple[tuple[str, ...], Measure] | None = (
        None  # the paper's own statistic: tables and measure; decides nothing
    )
    any_labels: str = ""  # why it need not differ from permuted labels; empty: it has to
    compared: str = ""  # what it is compared with permuted labels by; empty: as it is judged


@dataclass(frozen=True)
class Beside:
    """One number of a claim beside that of a draw of permuted labels, both of the methods that the draw has."""

    own: Estimate
    placebo: Estimate
    difference: Estimate  # of the true labels' above the draw's


@dataclass(frozen=True)
class Judged:
    """A claim on one grid row."""

    finding: Finding
    estimates: list[Estimate]
    placebo: list[list[Beside]]  # of each draw that can be compared
    note: str  # on what is compared
    verdict: str
    p: float  # the level at which the verdict would be lost; of an undecided one, at which it would be had


def verdict(estimates: list[Estimate], sign: int, beyond: list[Estimate] | None = None, tests: int = 1) -> str:
    """Holds: every interval on the predicted side. Does not hold: some interval on the other side, corrected for their number.

    Args:
        estimates: of the claim's cells.
        sign: of the predicted side.
        beyond: differences from permuted labels, which have to lie on it too.
        tests: how many each interval is already corrected for.
    """
    sides = [_side(e, sign) for e in estimates]
    if not sides or any(math.isnan(low + high) for low, high in sides):
        return OPEN
    if any(high < 0 and len(sides) * e.p(tests) <= LEVEL for e, (_, high) in zip(estimates, sides, strict=True)):
        return FAILS
    if not all(low > 0 for low, _ in sides):
        return OPEN
    return HOLDS if all(_side(e, sign)[0] > 0 for e in beyond or ()) else ALIKE


def _side(e: Estimate, sign: int) -> tuple[float, float]:
    """Both ends, as if the predicted side were above 0."""
    return (e.low, e.high) if sign > 0 else (-e.high, -e.low)


def holm(p: list[float], level: float = LEVEL) -> list[bool]:
    """Which hypotheses are rejected when the chance of any false rejection is to be at most ``level`` (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    passed = np.array(p)[order] <= level / np.arange(len(p), 0, -1)
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return [bool(r) for r in rejected]


def main(
    *,
    inputs: list[Path],
    out: Path,
    wildbench: WildBench | None = None,
    correctness: list[str] | None = None,
    placebos: dict[str, list[str]] | None = None,
    dagger_below: float = 0.5,
) -> None:
    """Write the claims table and its pages.

    Args:
        inputs: table 1, the data of figures 3, 5, 6 and 8-12, and of each cell the update, the held-out pairs, the scores, the
            DID proxy's samples and entropy, Arena-Hard's and WildBench's judgments and the QA items, in any order; what is
            absent is undecided.
        out: the table; the pages are written beside it.
        wildbench: the ``wildbench`` section of the configuration, by which Elo is played; none: Elo is not measured.
        correctness: datasets whose preferences rank by correctness alone: for them the paper predicts the opposite.
        placebos: of a dataset, those with the same pairs and permuted labels.
        dagger_below: the beta'-accuracy under which a DID entropy counts as unreliable.
    """
    draws = {name for names in (placebos or {}).values() for name in names}
    tables = _tables(inputs, wildbench, draws)
    claims = _claims(dagger_below)
    records = [record for claim in claims for record in _judge(claim, tables, set(correctness or []), placebos or {})]
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["claims"][1].names)
    told = frame.p.notna()
    kept = pd.Series(holm(frame.p[told].astype(float).tolist()), index=frame.index[told])
    decided = told & frame.verdict.isin((HOLDS, FAILS))
    frame.loc[decided, "holm"] = kept[decided[told]].map({True: "still decided", False: "not decided"})
    facts = {
        "correctness": correctness,
        "placebos": placebos,
        "dagger_below": dagger_below,
        "wildbench": wildbench and wildbench.model_dump(),
    }
    _page(frame, {claim.name: claim.any_labels for claim in claims}).write(out, frame)
    artifacts.write(out, frame, "claims", inputs={str(path): path for path in inputs}, **facts)


def _tables(inputs: list[Path], wildbench: WildBench | None, draws: set[str]) -> dict[str, pd.DataFrame]:
    """The figures' and tables' data by kind, and the cells' rows by what they are."""
    tables: dict[str, pd.DataFrame] = {}
    cells: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    graded: dict[tuple[str, str, str], pd.DataFrame] = {}
    for path in inputs:
        kind = artifacts.provenance(path)["kind"]
        if kind in evidence.KINDS:
            name, rows = evidence.read(path, kind)
            cells[name].append(rows)
            if name == WILDBENCH:
                graded[cell(path).key] = artifacts.read(path, kind, ["prompt_id", "score", "chars"])
        else:
            tables[kind] = evidence.by_seed(artifacts.read(path, kind)).rename(columns={"step": "item"})
    tables |= {name: pd.concat(parts, ignore_index=True) for name, parts in cells.items()}
    if "proxies" in tables:
        at = ["model", "dataset", "method", "seed", "epoch"]
        accuracy = tables.get("accuracy", pd.DataFrame(columns=[*at, "beta_accuracy"]))[[*at, "beta_accuracy"]]
        tables["proxies"] = tables["proxies"].merge(accuracy.rename(columns={"beta_accuracy": "accuracy"}), "left", at)
    if graded and wildbench:
        # As in Table 3; and, for how far a rating gets depends on its pool, all in one where placebos are compared.
        pools = {"elo": {key: table for key, table in graded.items() if key[1] not in draws}, ONE_POOL: graded}
        for name, pool in pools.items():
            if pool:
                keys = pd.DataFrame(list(pool), columns=["model", "dataset", "method"])
                ratings = rated(pool, wildbench).loc[keys.agg("/".join, axis=1)].reset_index(drop=True)
                tables[name] = evidence.by_seed(pd.concat([keys, ratings], axis=1).dropna(subset=["elo"]))
    return tables


def _judge(
    claim: Claim, tables: dict[str, pd.DataFrame], correctness: set[str], placebos: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    head = {"claim": claim.name, "statement": claim.statement, "source": claim.source, "prediction": claim.prediction}
    nothing = {"model": "", "dataset": "", "verdict": OPEN, "holm": "", "seed_verdicts": ""}
    kinds, own = claim.beside or ((), claim.measure)
    data = [tables[kind] for kind in (claim.rows, *kinds) if kind in tables and len(tables[kind])]
    draws = {name for names in placebos.values() for name in names}
    cases = 0
    for model, dataset in grid_rows(row for frame in data for row in zip(frame.model, frame.dataset, strict=True)):
        if dataset in draws or (claim.about != "any" and (claim.about == "correctness") != (dataset in correctness)):
            continue
        rows = _rows(tables, claim.rows, model, dataset)
        paired_by = claim.compared or claim.rows
        own_side = _rows(tables, paired_by, model, dataset)
        permuted = [_rows(tables, paired_by, model, name) for name in placebos.get(dataset, ())]
        found = _judged(claim, rows, own_side, permuted)
        beside = [more for kind in kinds if (more := _measured(own, _rows(tables, kind, model, dataset)))]
        if not found and not beside:
            continue
        cases += 1
        said = [found.finding.words() if found else f"what decides is not measured ({claim.rows})"]
        said += [f"the paper's statistic: {more.words()}" for more in beside]
        said += [found.note] if found and found.note else []
        record = head | nothing | {"model": model, "dataset": dataset, "evidence": "; ".join(said)}
        if found:
            record |= _numbers(claim, found)
            seeds = sorted(rows.seed.unique())
            alone = [
                _judged(claim, rows[rows.seed == seed], own_side[own_side.seed == seed], permuted)
                for seed in (seeds if len(seeds) > 1 else [])
            ]
            record["seed_verdicts"] = ", ".join(
                f"{s}: {one.verdict}" for s, one in zip(seeds, alone, strict=False) if one
            )
        yield record
    if not cases:
        yield head | nothing | {"evidence": "not measured in this grid"}


def _rows(tables: dict[str, pd.DataFrame], kind: str, model: str, dataset: str) -> pd.DataFrame:
    frame = tables.get(kind, pd.DataFrame(columns=["model", "dataset"]))
    return frame[(frame.model == model) & (frame.dataset == dataset)]


def _measured(measure: Measure, rows: pd.DataFrame) -> Finding | None:
    return measure(rows) if len(rows) else None


def _judged(claim: Claim, rows: pd.DataFrame, own_side: pd.DataFrame, permuted: list[pd.DataFrame]) -> Judged | None:
    """A claim on the rows of one model and dataset; ``own_side`` are those that stand beside the draws of permuted labels."""
    found = _measured(claim.measure, rows)
    if found is None:
        return None
    methods = set(own_side.get("method", ()))
    common = [(draw, shared) for draw in permuted if (shared := methods & set(draw.get("method", ())))]
    placebo = []
    for draw, shared in common:
        own, theirs = (_measured(claim.measure, part[part.method.isin(shared)]) for part in (own_side, draw))
        sides = {s.label: s for s in theirs.decisive} if theirs else {}
        both = [(s, sides[s.label]) for s in own.decisive if s.label in sides] if own else []
        placebo += [[Beside(s.estimate(), t.estimate(), s.minus(t)) for s, t in both]] if both else []
    fewest = min((shared for _, shared in common), key=len, default=methods)
    alone = f"permuted labels were trained on with {', '.join(map(title, sorted(fewest, key=order)))} alone"
    note = NOT_COMPARABLE if common and not placebo else alone if placebo and fewest < methods else ""
    estimates = [s.estimate() for s in found.decisive]
    beyond = [] if claim.any_labels else [each.difference for draw in placebo for each in draw]
    tests = max((s.tests for s in found.decisive), default=1)
    for_it = [e.p(tests) if claim.sign * e.value > 0 else 1.0 for e in [*estimates, *beyond]]
    against = [e.p(tests) if claim.sign * e.value < 0 else 1.0 for e in estimates]
    p = min(max(for_it), min(1.0, len(against) * min(against))) if estimates else math.nan
    return Judged(found, estimates, placebo, note, verdict(estimates, claim.sign, beyond, tests), p)


def _numbers(claim: Claim, found: Judged) -> dict[str, Any]:
    """A row's numbers: of the cell nearest to the other side, and of the comparison with permuted labels nearest to it."""
    if not found.estimates:
        return {"verdict": found.verdict}
    weakest = min(found.estimates, key=lambda e: claim.sign * e.value)
    (shown,) = (s for s, e in zip(found.finding.decisive, found.estimates, strict=True) if e is weakest)
    record: dict[str, Any] = {"verdict": found.verdict, "p": found.p, "seeds": len(shown.seeds)}
    record |= {"value": weakest.value, "low": weakest.low, "high": weakest.high, "n": weakest.n}
    record["placebo_draws"] = len(found.placebo)
    if not found.placebo:
        return record
    nearest = min((each for draw in found.placebo for each in draw), key=lambda b: _side(b.difference, claim.sign)[0])
    record["compared"] = nearest.own.value
    for name, e in (("placebo", nearest.placebo), ("beyond", nearest.difference)):
        record |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
    return record


def _claims(dagger_below: float) -> list[Claim]:
    change, two_losses = evidence.change, "It compares two losses on the same pairs, whatever their labels say."
    theorem = "The theorem holds for any labels; the held-out pairs tell learning from memorising."
    return [
        Claim("a", "Instruction-following preferences carry a high-entropy DID: H(p*^{1/β}) > H(π_ref).",
              "Section 4.3, Table 1", "difference > 0 nats for every β", 1, "update", evidence.entropy_change,
              "instructions", (("table1",), evidence.entropy_gap)),
        Claim("b", "Log-likelihood displacement: log π(y_w) falls under DPO.", "Section 4.3, Figures 2 and 10",
              "change < 0 nats for every β", -1, "heldout", change("chosen", "dpo"), "instructions",
              (("figure10",), change("chosen", "dpo"))),
        Claim("c", "The rejected responses' log-likelihood falls under DPO.", "Appendix I, Figure 11",
              "change < 0 nats for every β", -1, "heldout", change("rejected", "dpo"), "instructions",
              (("figure11",), change("rejected", "dpo"))),
        Claim("d1", "DPO-PG raises log π(y_w).", "Theorem H.4, Figure 8", "change > 0 nats", 1, "heldout",
              change("chosen", "dpo-pg"), beside=(("figure8",), change("chosen", "dpo-pg")), any_labels=theorem),
        Claim("d2", "DPO-PG lowers or keeps log π(y_l).", "Theorem H.5, Figure 8",
              "change < 0 nats (not above 0; an interval over 0 stays undecided)", -1, "heldout",
              change("rejected", "dpo-pg"), beside=(("figure8",), change("rejected", "dpo-pg")), any_labels=theorem),
        Claim("e", "DPO-PG optimises the DPO loss.", "Corollary H.5.1, Figure 9",
              "loss at β = 0.1, minus ln 2 < 0 nats", -1, "heldout", change("dpo_loss", "dpo-pg", math.log(2)),
              beside=(("figure9",), change("dpo_loss", "dpo-pg", math.log(2))),
              any_labels="It speaks of the optimiser; labels without information cannot be optimised on held-out pairs."),
        Claim("f", "DPO's log-ratio reward reaches a higher expected reward than r = β log π.", "Section 3.5, Figure 6",
              "best DPO − best log π > 0, selected apart", 1, "scores", evidence.best_lead, "instructions",
              (("figure6",), evidence.lead("reward", "best", ("dpo", "logpi")))),
        Claim("g", "The DID of DPO has a higher entropy than that of DPO-PG.", "Section 4.3, Table 2",
              "mean over β of DPO − DPO-PG > 0 nats, paired by prompt", 1, "proxies", evidence.did_gap(dagger_below),
              "instructions"),
        Claim("h1", "DPO is ahead of DPO-PG on Arena-Hard.", "Section 4.3, Tables 2 and 3",
              "mean over β of DPO − DPO-PG > 0 %, paired by question", 1, ARENA_HARD, evidence.ahead("%", 1), "instructions",
              ((paired.AS_THE_PAPER,), evidence.ahead("%", 1))),
        Claim("h2", "DPO is ahead of DPO-PG on WildBench.", "Section 4.3, Tables 2 and 3",
              "mean over β of DPO − DPO-PG > 0 Elo, paired by task", 1, "elo", evidence.elo_lead, "instructions",
              compared=ONE_POOL),
        Claim("h3", "DPO is ahead of DPO-PG in WildBench score.", "our check of Tables 2 and 3",
              "mean over β of DPO − DPO-PG > 0 points, paired by task", 1, WILDBENCH, evidence.ahead("points", 2),
              "instructions"),
        Claim("i", "DPO-PG is ahead of DPO on knowledge-intensive QA.", "Section 4.3, Figures 3 and 12",
              "mean accuracy of DPO-PG − mean of DPO > 0 over all epochs, paired by item", 1, "qa",
              evidence.ahead("", 4, -1), beside=(("figure3", "figure12"), evidence.lead("MRR", "mrr", ("dpo", "dpo-pg")))),
        Claim("j1", "DPO-P optimises the log-margin less than DPO.", "Appendix H, Figure 5",
              "margin of DPO − DPO-P > 0 nats", 1, "heldout", evidence.margin_gap,
              beside=(("figure5",), evidence.margin_gap), any_labels=two_losses),
        Claim("j2", "Cal-DPO does not reliably mitigate log-likelihood displacement.", "Appendix H, Figure 5",
              "change of log π(y_w) in its lowest epoch < 0 nats", -1, "heldout", evidence.lowest_epoch,
              beside=(("figure5",), evidence.lowest_epoch),
              any_labels="It speaks of one loss: that it fails on some preferences is enough."),
        Claim("k1", "Preferences that rank by correctness alone carry a low-entropy DID.", "Section 4.2",
              "H(p*^{1/β}) − H(π_ref) < 0 nats for every β", -1, "update", evidence.entropy_change, "correctness",
              (("table1",), evidence.entropy_gap)),
        Claim("k2", "On such preferences DPO reinforces the policy: log π(y_w) rises.", "Section 4.2",
              "change > 0 nats for every β", 1, "heldout", change("chosen", "dpo"), "correctness",
              (("figure10",), change("chosen", "dpo"))),
        Claim("l", f"The DID proxies converged: β′-accuracy above {dagger_below:.0%}, no cell needs a dagger.",
              "Appendix K.1", f"β′-accuracy − {dagger_below:g} > 0 for every cell", 1, "accuracy",
              evidence.accuracy(dagger_below),
              any_labels="It speaks of the instrument, whatever the policy learnt."),
    ]  # fmt: skip


def _page(frame: pd.DataFrame, any_labels: dict[str, str]) -> Page:
    counts = frame.verdict.value_counts()
    page = Page("The paper's claims in this grid")
    page.say("; ".join(f"{counts.get(kind, 0)} {kind}" for kind in VERDICTS) + ".")
    kept = (frame.holm == "still decided").sum()
    page.say(
        f"Holm's correction for the {frame.p.notna().sum()} that were measured leaves {kept} of the"
        f" {counts.get(HOLDS, 0) + counts.get(FAILS, 0)} that hold or do not hold; it changes no verdict.",
    )
    page.say(
        "A claim holds where every 95 % interval is on the predicted side, and so is every difference from permuted labels;",
        "where such a difference is not, the verdict is as with permuted labels. It does not hold where an interval is on the",
        "other side, and is undecided otherwise (not measured included). docs/claims.md has the rules.",
    )
    if not (frame.placebo_draws > 0).any():
        page.say("No permuted labels were run in this grid: the claims' own intervals decide.")
    elif (frame.placebo_draws == 0).any():
        page.say("Where permuted labels were not run or cannot be compared, the claim's own intervals decide.")
    if not (frame.seeds > 1).any():
        page.say("One training seed: what another training would give is in no interval.")
    several = (frame.seed_verdicts != "").any()

    def line(row: Any) -> dict[str, str]:
        where = f"{paper.model_title(row.model)} on {paper.dataset_title(row.dataset)}" if row.model else ""
        words = {"row": where, "measured": row.evidence.replace("|", "/"), "permuted labels": ""}
        words |= {"true labels beside them": "", "beyond them": ""}
        if row.placebo_draws > 0:
            draws = f", nearer of {row.placebo_draws:.0f} draws" if row.placebo_draws > 1 else ""
            words["permuted labels"] = _interval(row.placebo, row.placebo_low, row.placebo_high) + draws
            words["true labels beside them"] = f"{row.compared:.3g}"
            words["beyond them"] = _interval(row.beyond, row.beyond_low, row.beyond_high)
        elif row.placebo_draws == 0:
            words["permuted labels"] = "not comparable" if NOT_COMPARABLE in row.evidence else "not run"
        words |= {"n": number(row.n, 0), "verdict": row.verdict, "after Holm": row.holm}
        return words | ({"seeds": number(row.seeds, 0), "under each seed": row.seed_verdicts} if several else {})

    for (name, statement, source, prediction), part in frame.groupby(
        ["claim", "statement", "source", "prediction"], sort=False
    ):
        page.head(f"({name}) {statement}")
        reason = any_labels[str(name)]
        page.say(
            f"{source}. Predicted: {prediction}.", f"Permuted labels decide nothing here. {reason}" if reason else ""
        )
        page.table(part, line)
    return page


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


if __name__ == "__main__":
    run(main)
