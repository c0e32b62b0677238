"""What a claim is judged by: numbers a unit (prompt, question, task, pair), so that differences can be paired by unit.

Policies answer the same prompts and questions, so what makes one hard is in all of them, and a difference unit by unit is free
of it: DPO against DPO-PG, a policy against pi_ref, preferences against the same with permuted labels.

DPO against DPO-PG is a difference of rates: what a method got over what it could get, ``won / weight`` summed over questions
(a battle of Arena-Hard, a WildBench score, a QA item's metric, a proxy's entropy), and then the plain mean over benchmarks
where there are several. The interval is Student's over per-question differences: it needs no draws, its error at a hundred
questions is far below that of a percentile bootstrap, and it is a t-test where weights are equal. Where they are not
(Arena-Hard's ``>>`` is three battles) a question counts with its influence on the rate, which is the delta method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd

from diffinfo.intervals import Estimate, over_seeds, student
from diffinfo.report.cells import family, order, title

AS_THE_PAPER = "arena-hard-paper"  # Arena-Hard at the epoch that the reported questions selected
KINDS = ("judgments", "qa_items")  # tables with a row each game, task or item


@dataclass(frozen=True)
class Drawn:
    """A number that has no value a unit, but draws over the same resampled units as others of its kind."""

    value: float
    draws: np.ndarray
    n: int


Sample: TypeAlias = pd.Series | Drawn | Estimate  # of one training seed: values a unit, draws, or an interval by itself


@dataclass(frozen=True)
class Statistic:
    """One number of a claim, by training seed."""

    label: str
    seeds: Mapping[int, Sample]
    tests: int = 1  # it is chosen among so many: their intervals are corrected (Bonferroni)

    def estimate(self) -> Estimate:
        """Its mean over seeds, with an interval that covers them."""
        each = [_estimated(sample, self.tests) for sample in self.seeds.values()]
        return replace(over_seeds(each), label=self.label)

    def minus(self, other: Statistic) -> Estimate:
        """Above another one, seed by seed, paired where both are of the same units; a seed that it lacks: above its first."""
        first = next(iter(other.seeds.values()))
        tests = max(self.tests, other.tests)
        each = [_difference(sample, other.seeds.get(seed, first), tests) for seed, sample in self.seeds.items()]
        return replace(over_seeds(each), label=self.label)


def _estimated(sample: Sample, tests: int = 1) -> Estimate:
    if isinstance(sample, pd.Series):
        return stratified(sample, tests=tests)
    if isinstance(sample, Drawn):
        low, high = np.quantile(sample.draws, [0.025, 0.975])
        return Estimate("", sample.value, float(low), float(high), sample.n)
    return sample


def _difference(one: Sample, two: Sample, tests: int) -> Estimate:
    if isinstance(one, pd.Series) and isinstance(two, pd.Series):
        both = (one - two).dropna()
        if len(both) > 1:
            return stratified(both, tests=tests)
    if isinstance(one, Drawn) and isinstance(two, Drawn):
        return _estimated(Drawn(one.value - two.value, one.draws - two.draws, min(one.n, two.n)))
    return _estimated(one, tests) - _estimated(two, tests)


@dataclass(frozen=True)
class Comparison:
    """What DPO and DPO-PG got on the questions that both have a result for."""

    lead: Statistic  # of the one over the other; betas are averaged on each question
    compared: list[Statistic]  # the cells of both
    others: list[Statistic]  # cells of further methods, on their own questions
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
    DPO and DPO-PG are compared seed by seed, for those that both have.

    Args:
        rows: of one model and dataset: columns method (without its seed), seed, epoch, benchmark, item, won, weight.
        sign: -1 for the lead of DPO-PG.
    """
    cell = ["method", "seed"]
    present = sorted(rows.groupby(cell).groups, key=lambda of: (order(of[0]), of[1]))
    rivals = [of for of in present if family(of[0]) in ("dpo", "dpo-pg")]
    of_rivals = rows[rows.method.isin([method for method, _ in rivals])]
    if of_rivals.duplicated([*cell, "benchmark", "item"]).any():  # several epochs
        count = of_rivals.drop_duplicates([*cell, "epoch"]).epoch.value_counts()
        rows = rows[rows.epoch.isin(count.index[count == len(rivals)])]
    seeds = [{seed for method, seed in rivals if family(method) == name} for name in ("dpo", "dpo-pg")]
    if not seeds[0] & seeds[1]:
        return None
    wide = rows.groupby(["benchmark", "item", *cell])[["won", "weight"]].mean().unstack(cell)
    whole = wide["won"][rivals].notna().all(axis=1)
    shares = {of: _influence(wide["won"][of][whole], wide["weight"][of][whole]) for of in rivals}
    leads: dict[int, Sample] = {}
    for seed in sorted(seeds[0] & seeds[1]):
        dpo = [values for (method, s), values in shares.items() if family(method) == "dpo" and s == seed]
        leads[seed] = sign * (pd.concat(dpo, axis=1).mean(axis=1) - shares["dpo-pg", seed])
    others = {}
    for of in (of for of in present if of not in rivals):
        answered = wide["won"][of].notna()
        others[of] = _influence(wide["won"][of][answered], wide["weight"][of][answered])
    named = "mean of DPO − DPO-PG" if sign > 0 else "DPO-PG − mean of DPO"
    return Comparison(Statistic(named, leads), by_method(shares), by_method(others), int((~whole).sum()))


def by_method(cells: Mapping[tuple[str, int], Sample]) -> list[Statistic]:
    """A statistic a method, of its values by method and seed."""
    methods = sorted({method for method, _ in cells}, key=order)
    return [Statistic(title(m), {seed: v for (name, seed), v in cells.items() if name == m}) for m in methods]


def stratified(values: pd.Series, label: str = "", tests: int = 1) -> Estimate:
    """The plain mean of each benchmark's mean over its questions, with Student's interval (Welch-Satterthwaite).

    Args:
        values: a number each question, with ``benchmark`` in the index; without it they are of one.
        label: of the estimate.
        tests: how many the interval is corrected for (Bonferroni).
    """
    strata = values.index.get_level_values("benchmark") if "benchmark" in values.index.names else np.zeros(len(values))
    groups = values.groupby(strata)
    n, means, variances = groups.size(), groups.mean(), groups.var(ddof=1) / groups.size()
    value, freedom = float(means.mean()) if len(n) else math.nan, math.inf
    if not len(n) or n.min() < 2:
        half = math.inf if len(n) else math.nan
    elif variances.sum() == 0:
        half = 0.0
    else:
        freedom = float(variances.sum() ** 2 / (variances**2 / (n - 1)).sum())
        half = float(student(freedom + 1, tests) * math.sqrt(variances.sum()) / len(n))
    return Estimate(label, value, value - half, value + half, int(n.sum()), freedom)


def _influence(won: pd.Series, weight: pd.Series) -> pd.Series:
    """A number each question whose mean over a benchmark is its rate, with the rate's scatter; ``won`` for weights of 1."""
    totals = pd.DataFrame({"won": won, "weight": weight}).groupby(level="benchmark").transform("sum")
    mean_weight = weight.groupby(level="benchmark").transform("mean")
    rate = totals.won / totals.weight
    return rate + (won - rate * weight) / mean_weight
