"""Differences on the same questions: against loops, the bootstrap, scipy, and under a null made for the purpose."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.bench.arena_hard import OUTCOMES, battles, win_rate
from diffinfo.intervals import mean, over_seeds
from diffinfo.report import claims, paired
from diffinfo.report.evidence import by_seed, read
from diffinfo.report.paired import Drawn, Statistic
from diffinfo.tables import artifacts
from report.conftest import COSTS

ROW = "micro-mistral/magpie-pro"
METHODS = ("dpo-b0.1", "dpo-b0.02", "dpo-pg")


def rows(values: dict[str, np.ndarray], benchmark="wildbench", weight=1.0, epoch: int = 1) -> pd.DataFrame:
    """What ``by_question`` gives, of each method's values on questions 0, 1, ..."""
    return pd.concat(
        pd.DataFrame(
            {"benchmark": benchmark, "item": [f"t{i}" for i in range(len(v))], "won": v, "weight": weight}
        ).assign(method=method, epoch=epoch)
        for method, v in values.items()
    ).pipe(by_seed)


def judged(rng, questions: int = 80) -> dict[str, pd.DataFrame]:
    """Arena-Hard games of three methods on the same questions, a few without a verdict."""
    level, tables = rng.normal(0, 1.5, questions), {}
    for method, shift in zip(METHODS, (0.4, 0.2, 0.0), strict=True):
        records = []
        for question in range(questions):
            for game in (1, 2):
                of_a = level[question] + shift + rng.normal(0, 0.7)
                label = list(OUTCOMES)[int(np.digitize(of_a if game == 2 else -of_a, [-1.5, -0.3, 0.3, 1.5]))]
                label = dict(zip(OUTCOMES, reversed(OUTCOMES), strict=True))[label]
                records.append({"prompt_id": f"q{question}", "game": game, "verdict": label})
        rest = {"epoch": 1, "score": np.nan, "judge": "x", "tokens": 1, "chars": 1, "truncated": False, "reply": ""}
        rest |= {"apart": True, **COSTS}
        tables[method] = pd.DataFrame(records).assign(benchmark="arena-hard", **rest)
    tables["dpo-pg"].loc[7, "verdict"] = None  # the second game of q3
    tables["dpo-b0.1"].loc[[20, 21], "verdict"] = None  # both of q10
    return tables


def test_arena_hard_is_the_difference_of_win_rates_with_the_bootstraps_interval(tmp_path):
    tables, frames = judged(np.random.default_rng(1)), []
    for method, table in tables.items():
        path = tmp_path / f"results/arena_hard/{ROW}/{method}/final/judgments.parquet"
        artifacts.write(path, table, "judgments")
        frames.append(read(path, "judgments"))
    assert {name for name, _ in frames} == {"arena-hard"}
    found = paired.compare(pd.concat(frame for _, frame in frames))
    ahead = found.lead.estimate()
    kept = [f"q{i}" for i in range(80) if i not in (3, 10)]
    won = {m: {q: battles(part) for q, part in table.groupby("prompt_id")} for m, table in tables.items()}

    def lead(questions) -> float:
        rate = {m: win_rate(np.concatenate([each[q] for q in questions])) for m, each in won.items()}
        return (rate["dpo-b0.1"] + rate["dpo-b0.02"]) / 2 - rate["dpo-pg"]

    rng = np.random.default_rng(2)
    low, high = np.quantile([lead(rng.choice(kept, len(kept))) for _ in range(1000)], [0.025, 0.975])
    assert ahead.value == pytest.approx(lead(kept))
    assert (ahead.low, ahead.high) == pytest.approx((low, high), abs=0.12 * (high - low))
    assert (ahead.n, found.left_out) == (78, 2)
    for cell, method in zip(found.compared, METHODS, strict=True):
        assert cell.estimate().value == pytest.approx(win_rate(np.concatenate([won[method][q] for q in kept])))


def test_wildbench_is_scipys_paired_t_test():
    rng = np.random.default_rng(3)
    level = rng.normal(6, 2, 50)
    scores = {method: level + rng.normal(0, 0.5, 50) for method in METHODS}
    scores["dpo-pg"][4] = scores["dpo-b0.02"][9] = np.nan
    further = level + 3
    further[:20] = np.nan
    found = paired.compare(rows(scores | {"simpo-b2.5": further}).sample(frac=1, random_state=0))
    kept = [i for i in range(50) if i not in (4, 9)]
    ahead = [(scores["dpo-b0.1"][i] + scores["dpo-b0.02"][i]) / 2 - scores["dpo-pg"][i] for i in kept]
    interval = stats.ttest_1samp(ahead, 0).confidence_interval(0.95)
    lead = found.lead.estimate()
    assert (lead.value, lead.low, lead.high) == pytest.approx((np.mean(ahead), *interval))
    assert (lead.n, found.left_out) == (48, 2)
    assert lead.p() == pytest.approx(stats.ttest_1samp(ahead, 0).pvalue)
    other = mean(further[20:])
    assert [(e.label, e.value, e.low, e.n) for e in (s.estimate() for s in found.others)] == [
        ("SimPO β = 2.5", pytest.approx(other.value), pytest.approx(other.low), 30)
    ]


def test_qa_is_the_mean_of_benchmarks_over_the_epochs_that_all_have():
    rng, sizes, parts, naive = np.random.default_rng(4), {"piqa": 30, "mmlu": 90}, [], {}
    for benchmark, size in sizes.items():
        for epoch in (1, 2, 3):
            values = {method: rng.integers(0, 2, size).astype(float) for method in METHODS}
            if epoch == 3:  # which DPO-PG lacks
                del values["dpo-pg"]
            else:
                half = [(a + b) / 2 for a, b in zip(values["dpo-b0.1"], values["dpo-b0.02"], strict=True)]
                naive.setdefault(benchmark, []).append(values["dpo-pg"] - half)
            parts.append(rows(values, benchmark, epoch=epoch))
    found = paired.compare(pd.concat(parts), sign=-1).lead.estimate()
    each = {benchmark: sum(d) / 2 for benchmark, d in naive.items()}
    means, errors = [d.mean() for d in each.values()], [stats.sem(d) ** 2 for d in each.values()]
    freedom = sum(errors) ** 2 / sum(e**2 / (len(d) - 1) for e, d in zip(errors, each.values(), strict=True))
    half = stats.t.ppf(0.975, freedom) * sum(errors) ** 0.5 / 2
    assert (found.value, found.high - found.value, found.n) == pytest.approx((np.mean(means), half, 120))


def test_seeds_are_compared_with_themselves():
    rng = np.random.default_rng(5)
    level, shift = rng.normal(0, 2, 40), {"": 0.0, "-seed2": 5.0, "-seed3": -5.0}  # what a seed shares
    values = {
        f"{method}{seed}": level + by + rng.normal(0, 0.2, 40)
        for seed, by in shift.items()
        for method in ("dpo-b0.1", "dpo-pg")
    }
    values["dpo-b0.1-seed4"] = level + 99  # without a DPO-PG
    found = paired.compare(rows(values)).lead.estimate()
    each = over_seeds([mean(values[f"dpo-b0.1{seed}"] - values[f"dpo-pg{seed}"]) for seed in shift])
    assert (found.value, found.low, found.high) == pytest.approx((each.value, each.low, each.high))
    assert paired.compare(rows({"dpo-b0.1-seed2": level, "dpo-pg": level})) is None
    assert paired.compare(rows({"dpo-b0.1": level})) is None


def test_too_little_decides_nothing_and_certainty_has_no_width():
    one = paired.compare(rows({"dpo-b0.1": np.array([5.0]), "dpo-pg": np.array([4.0])})).lead.estimate()
    assert (one.value, one.low, one.high) == (1, -np.inf, np.inf)
    alike = paired.compare(rows({"dpo-b0.1": np.array([5.0, 5.0]), "dpo-pg": np.array([4.0, 4.0])})).lead.estimate()
    assert (alike.low, alike.high) == (1, 1)
    none = paired.compare(rows({"dpo-b0.1": np.array([np.nan] * 3), "dpo-pg": np.ones(3)}))
    assert claims.verdict([none.lead.estimate()], 1) == "undecided"
    assert none.left_out == 3


def scores(rng) -> pd.DataFrame:
    level = rng.normal(0, 2, 64)
    return rows({method: level + rng.normal(0, 0.7, 64) for method in METHODS})


def items(rng) -> pd.DataFrame:
    """Right or wrong, by how hard an item is; two benchmarks of unequal size."""
    parts = []
    for benchmark, size in (("piqa", 40), ("mmlu", 120)):
        hard = rng.beta(0.4, 0.4, size)
        parts.append(rows({method: (rng.random(size) < hard).astype(float) for method in METHODS}, benchmark))
    return pd.concat(parts)


def games(rng) -> pd.DataFrame:
    """Questions of two to six battles, by how decided they are."""
    chance, weight, found = rng.beta(0.4, 0.4, 64), {}, {}
    for method in METHODS:
        weight[method] = rng.choice([2, 4, 6], 64).astype(float)
        found[method] = rng.binomial(weight[method].astype(int), chance).astype(float)
    return pd.concat(rows({method: found[method]}, "arena-hard", weight[method]) for method in METHODS)


@pytest.mark.parametrize("null", [scores, items, games])
def test_a_true_null_is_rejected_at_five_per_cent_and_hardly_ever_unpaired(null):
    """The same questions, no true difference: 95 % intervals miss zero in 5 % (+- 2) of the repetitions."""
    rng, missed, unpaired = np.random.default_rng(6), [], []
    for _ in range(400):
        found = paired.compare(null(rng))
        lead, (*dpo, reinforcing) = found.lead.estimate(), [cell.estimate() for cell in found.compared]
        apart = (dpo[0].stderr ** 2 / 4 + dpo[1].stderr ** 2 / 4 + reinforcing.stderr**2) ** 0.5
        missed.append(claims.verdict([lead], 1) != "undecided")
        unpaired.append(abs(lead.value) > 1.96 * apart)
        assert lead.high - lead.value < 1.96 * apart
    assert 0.03 <= np.mean(missed) <= 0.07
    assert np.mean(unpaired) < 0.015


def test_pairing_decides_what_the_cells_intervals_leave_open(tree, tmp_path):
    """Scores that differ by far more between tasks than between methods; the same values shuffled are undecided."""
    rng = np.random.default_rng(7)
    level = rng.uniform(2, 9, 64)
    ours, theirs = level + 0.4 + rng.normal(0, 0.3, 64), level + rng.normal(0, 0.3, 64)
    verdicts = []
    for theirs_in_order in (theirs, rng.permutation(theirs)):
        inputs = [
            tree.judgments(f"{ROW}/dpo-b0.1", list(ours)),
            tree.judgments(f"{ROW}/dpo-pg", list(theirs_in_order)),
        ]
        claims.main(inputs=inputs, out=tmp_path / "claims.parquet")
        row = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim").loc["h3"]
        assert row.value == pytest.approx(ours.mean() - theirs.mean())
        verdicts.append(row.verdict)
    assert verdicts == ["holds", "undecided"]


# A statistic and its placebo -------------------------------------------------------------------------------------------


def units(values: np.ndarray, first: int = 0) -> pd.Series:
    return pd.Series(values, index=pd.Index([f"p{i}" for i in range(first, first + len(values))], name="item"))


def test_a_difference_is_paired_by_unit_where_there_are_the_same_ones():
    rng = np.random.default_rng(8)
    level = rng.normal(0, 5, 40)
    ours, theirs = level + rng.normal(1, 0.5, 40), level + rng.normal(0, 0.5, 40)
    shared = Statistic("x", {1: units(ours)}).minus(Statistic("y", {1: units(theirs[:30])}))
    expected = stats.ttest_rel(ours[:30], theirs[:30])
    interval = expected.confidence_interval(0.95)
    assert (shared.label, shared.n) == ("x", 30)
    assert (shared.value, shared.low, shared.high) == pytest.approx((np.mean((ours - theirs)[:30]), *interval))
    assert shared.p() == pytest.approx(expected.pvalue)
    apart = Statistic("x", {1: units(ours)}).minus(Statistic("y", {1: units(theirs, first=100)}))
    half = (
        1.96
        * (((mean(ours).high - ours.mean()) / 1.96) ** 2 + ((mean(theirs).high - theirs.mean()) / 1.96) ** 2) ** 0.5
    )
    assert (apart.value, apart.high - apart.value) == pytest.approx((ours.mean() - theirs.mean(), half))


def test_draws_over_the_same_tasks_are_subtracted_within_each():
    rng = np.random.default_rng(9)
    order = rng.normal(0, 20, 128)
    one, two = Drawn(7.0, 7 + order + rng.normal(0, 1, 128), 64), Drawn(3.0, 3 + order, 32)
    found = Statistic("x", {1: one}).minus(Statistic("x", {1: two}))
    assert (found.value, found.low, found.high) == pytest.approx(
        (4.0, *np.quantile(one.draws - two.draws, [0.025, 0.975]))
    )
    assert found.n == 32


def test_seeds_are_subtracted_from_the_same_or_the_first():
    rng = np.random.default_rng(10)
    ours, theirs = ({seed: units(rng.normal(seed, 1, 20)) for seed in seeds} for seeds in ((1, 2, 3), (2, 3)))
    found = Statistic("x", ours).minus(Statistic("x", theirs))
    each = [mean(ours[1] - theirs[2]), mean(ours[2] - theirs[2]), mean(ours[3] - theirs[3])]
    expected = over_seeds(each)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    chosen = Statistic("x", {1: ours[1]}, tests=3).estimate()
    low, high = stats.t.interval(1 - 0.05 / 3, 19, ours[1].mean(), stats.sem(ours[1]))
    assert (chosen.low, chosen.high) == pytest.approx((low, high))
    assert chosen.p(3) == pytest.approx(min(1, 3 * stats.ttest_1samp(ours[1], 0).pvalue))


def test_a_placebo_that_is_alike_is_told_apart_in_five_per_cent():
    """Both policies answer the same prompts, with no true difference; unpaired it is hardly ever told apart."""
    rng, missed, unpaired = np.random.default_rng(11), [], []
    for _ in range(1000):
        level = rng.gamma(2, 3, 60)
        one, two = (Statistic("x", {1: units(level + rng.exponential(1, 60))}) for _ in range(2))
        found = one.minus(two)
        missed.append(found.low > 0 or found.high < 0)
        apart = one.estimate() - two.estimate()
        unpaired.append(apart.low > 0 or apart.high < 0)
    assert 0.03 <= np.mean(missed) <= 0.07
    assert np.mean(unpaired) < 0.01
