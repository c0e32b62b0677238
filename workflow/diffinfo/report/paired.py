"""DPO against DPO-PG question by question: both answer the same questions, so what makes a question hard is in both.

The statistic is a rate: what a method got over what it could get, ``won / weight`` summed over questions (a battle of
Arena-Hard, a WildBench score, a QA item's metric), and then the plain mean over benchmarks where there are several. The
interval is Student's over per-question differences: it needs no draws, its error at a hundred questions is far below that of
a percentile bootstrap, and it is a t-test where weights are equal. Where they are not (Arena-Hard's ``>>`` is three battles)
a question counts with its influence on the rate, which is the delta method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from diffinfo.intervals import Estimate, over_seeds, student
from diffinfo.report.cells import family, order, title, unseeded

AS_THE_PAPER = "arena-hard-paper"  # Arena-Hard at the epoch that the reported questions selected
KINDS = ("judgments", "qa_items")  # tables with a row each game, task or item


@dataclass(frozen=True)
class Comparison:
    """What DPO and DPO-PG got on the questions that both have a result for."""

    lead: Estimate  # of the one over the other; betas are averaged on each question
    compared: list[Estimate]  # the cells of both
    others: list[Estimate]  # cells of further methods, on their own questions
    left_out: int  # questions for which one of the compared cells has no result


def by_question(table: pd.DataFrame, kind: str) -> tuple[str, pd.DataFrame]:
    """A cell's results as a row each question and epoch.

    Args:
        table: ``judgments`` or ``qa_items``.
        kind: which of them.

    Returns:
        The table's name in the claims (arena-hard, the same as the paper selects epochs, wildbench or qa), and columns epoch,
        benchmark, item, won, weight.
        Both games of an Arena-Hard question are one row, in per cent; without a verdict of both it has no value (NaN).
    """
    if kind == "qa_items":
        return "qa", table.rename(columns={"value": "won"}).assign(weight=1.0)
    from diffinfo.bench.arena_hard import OUTCOMES  # only here: it loads the judges
    from diffinfo.bench.questions import ARENA_HARD, WILDBENCH

    benchmark = table.benchmark.iloc[0] if len(table) else ARENA_HARD
    frame = table.rename(columns={"prompt_id": "item"})
    if benchmark == WILDBENCH:
        return WILDBENCH, frame[["epoch", "benchmark", "item"]].assign(won=frame.score, weight=1.0)
    of_a, weight = (frame.verdict.map({label: pair[i] for label, pair in OUTCOMES.items()}) for i in (0, 1))
    won = 100 * weight * np.where(frame.game == 1, 1 - of_a, of_a)  # in game 1 the baseline is A
    games = frame.assign(won=won, weight=weight.astype(float)).groupby(["epoch", "benchmark", "item"], as_index=False)
    return ARENA_HARD if table.apart.all() else AS_THE_PAPER, games[["won", "weight"]].sum(min_count=2)


def rate(questions: pd.DataFrame) -> Estimate:
    """A cell's own rate, from what ``by_question`` gives of it: plain mean over benchmarks, Student over questions."""
    played = questions.dropna(subset=["won"]).set_index(["benchmark", "item"])
    return stratified(_influence(played.won, played.weight))


def compare(rows: pd.DataFrame, sign: int = 1) -> Comparison | None:
    """The mean of DPO's betas minus DPO-PG, paired by question; None where one of them is absent.

    A question without a result in one of these cells is left out for all of them. Epochs are averaged on each question first,
    over those that all these cells have (policies judged at a best epoch of their own have one each). With several seeds,
    DPO and DPO-PG are compared seed by seed, for those that both have, and the interval covers seeds too (``over_seeds``).

    Args:
        rows: of one model and dataset: what ``by_question`` gives, and a column ``method``.
        sign: -1 for the lead of DPO-PG.
    """
    present = sorted(rows.method.unique(), key=order)
    rivals = [method for method in present if family(method) in ("dpo", "dpo-pg")]
    of_rivals = rows[rows.method.isin(rivals)]
    if of_rivals.duplicated(["method", "benchmark", "item"]).any():  # several epochs
        count = of_rivals.groupby("epoch").method.nunique()
        rows = rows[rows.epoch.isin(count.index[count == len(rivals)])]
    wide = rows.groupby(["benchmark", "item", "method"])[["won", "weight"]].mean().unstack("method")
    seeds = [{unseeded(m)[1] for m in rivals if family(m) == name} for name in ("dpo", "dpo-pg")]
    if not seeds[0] & seeds[1]:
        return None
    whole = wide["won"][rivals].notna().all(axis=1)
    shares = pd.DataFrame({m: _influence(wide["won"][m][whole], wide["weight"][m][whole]) for m in rivals})
    leads = []
    for seed in sorted(seeds[0] & seeds[1]):
        own = {name: [m for m in rivals if family(m) == name and unseeded(m)[1] == seed] for name in ("dpo", "dpo-pg")}
        leads.append(stratified(sign * (shares[own["dpo"]].mean(axis=1) - shares[own["dpo-pg"]].mean(axis=1))))
    others = []
    for method in (m for m in present if m not in rivals):
        answered = wide["won"][method].notna()
        own_shares = _influence(wide["won"][method][answered], wide["weight"][method][answered])
        others.append(stratified(own_shares, title(method)))
    named = "mean of DPO − DPO-PG" if sign > 0 else "DPO-PG − mean of DPO"
    cells = [stratified(shares[method], title(method)) for method in rivals]
    return Comparison(replace(over_seeds(leads), label=named), cells, others, int((~whole).sum()))


def stratified(values: pd.Series, label: str = "") -> Estimate:
    """The plain mean of each benchmark's mean over its questions, with Student's interval (Welch-Satterthwaite).

    Args:
        values: a number each question, with ``benchmark`` in the index.
        label: of the estimate.
    """
    groups = values.groupby(level="benchmark")
    n, means, variances = groups.size(), groups.mean(), groups.var(ddof=1) / groups.size()
    value = float(means.mean()) if len(n) else math.nan
    if not len(n) or n.min() < 2:
        half = math.inf if len(n) else math.nan
    elif variances.sum() == 0:
        half = 0.0
    else:
        freedom = variances.sum() ** 2 / (variances**2 / (n - 1)).sum()
        half = float(student(freedom + 1) * math.sqrt(variances.sum()) / len(n))
    return Estimate(label, value, value - half, value + half, int(n.sum()))


def _influence(won: pd.Series, weight: pd.Series) -> pd.Series:
    """A number each question whose mean over a benchmark is its rate, with the rate's scatter; ``won`` for weights of 1."""
    totals = pd.DataFrame({"won": won, "weight": weight}).groupby(level="benchmark").transform("sum")
    mean_weight = weight.groupby(level="benchmark").transform("mean")
    rate = totals.won / totals.weight
    return rate + (won - rate * weight) / mean_weight
