"""Claims: the verdict follows the numbers, and flips with them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import Estimate, mean, over_seeds
from diffinfo.report import claims
from diffinfo.report.evidence import by_seed
from diffinfo.report.figures import FIGURES
from diffinfo.tables import artifacts

ROW = "micro-mistral/magpie-pro"
CORRECT = "micro-mistral/correctness"
CLAIMS = {claim.name: claim for claim in claims._claims(0.5)}


@pytest.mark.parametrize(
    ("intervals", "sign", "expected"),
    [
        ([(1, 2)], 1, "holds"),
        ([(1, 2)], -1, "does not hold"),
        ([(-1, 2)], 1, "undecided"),
        ([(1, 2), (-1, 2)], 1, "undecided"),
        ([(1, 2), (-2, -1)], 1, "does not hold"),
        ([(-3, -1), (-2, -1)], -1, "holds"),
        ([(float("-inf"), float("inf"))], 1, "undecided"),
        ([], 1, "undecided"),
        ([(0, 2)], 1, "undecided"),
        ([(-2, 0)], 1, "undecided"),
        ([(0, 2)], -1, "undecided"),
    ],
)
def test_verdict(intervals, sign, expected):
    estimates = [Estimate("", (low + high) / 2, low, high, 9) for low, high in intervals]
    assert claims.verdict(estimates, sign) == expected


@pytest.mark.parametrize(
    ("interval", "beyond", "sign", "expected"),
    [
        ((1, 2), [(1, 2), (3, 4)], 1, "holds"),
        ((1, 2), [(1, 2), (-1, 4)], 1, "as with permuted labels"),
        ((1, 2), [(-3, -2), (3, 4)], 1, "as with permuted labels"),
        ((1, 2), [(0, 4)], 1, "as with permuted labels"),
        ((-2, -1), [(-3, -1)], -1, "holds"),
        ((-2, -1), [(-3, 1)], -1, "as with permuted labels"),
        ((-1, 2), [(1, 2)], 1, "undecided"),
        ((-2, -1), [(1, 2)], 1, "does not hold"),
        ((1, 2), [(float("nan"), float("nan"))], 1, "as with permuted labels"),
    ],
)
def test_verdict_beside_a_placebo(interval, beyond, sign, expected):
    estimates = [[Estimate("", (low + high) / 2, low, high, 9) for low, high in each] for each in ([interval], beyond)]
    assert claims.verdict(estimates[0], sign, estimates[1]) == expected


def test_holm_is_closed_testing():
    """A hypothesis is rejected if every set of hypotheses that holds it is, each by Bonferroni."""
    rng = np.random.default_rng(12)
    for _ in range(200):
        p = list(rng.choice([0.001, 0.01, 0.012, 0.02, 0.04, 0.3], rng.integers(1, 7)))
        sets = [each for size in range(1, len(p) + 1) for each in combinations(range(len(p)), size)]
        alone = [all(min(p[j] for j in s) <= 0.05 / len(s) for s in sets if i in s) for i in range(len(p))]
        assert claims.holm(p) == alone
    assert claims.holm([]) == []


def measured(tree, out: Path, sign: int, dagger: bool = False, further: str | None = None) -> pd.DataFrame:
    """Claims of a grid row where everything goes the paper's way (sign 1) or the other (-1); a further method always does."""
    s, rng = sign, np.random.default_rng(13)

    def about(value: float, n: int = 60) -> np.ndarray:
        return value + rng.normal(0, 0.3, n)

    def pairs(run: str, chosen: float, rejected: float) -> Path:
        return tree.heldout(run, {4: about(0), 5: about(chosen)}, {4: about(0), 5: about(rejected)})

    def proxy(run: str, value: float, accuracy: float) -> list[Path]:
        path = f"did/{ROW}/{run}/epoch-5/entropy"
        return [tree.entropy(path, value, accuracy=accuracy), tree.samples(f"{ROW}/{run}", about(value))]

    cells = [tree.update(f"{ROW}/logpi-b0.1", about(10 * s)), tree.update(f"{CORRECT}/logpi-b0.1", about(-10 * s))]
    cells += [pairs(f"{ROW}/dpo-b0.1", -5 * s, -9 * s), pairs(f"{CORRECT}/dpo-b0.1", 4 * s, -9)]
    cells += [pairs(f"{ROW}/dpo-pg", 4 * s, -2 * s), pairs(f"{ROW}/dpop-b0.1", -5 * s, -9 * s + 3 * s)]
    cells += [tree.heldout(f"{ROW}/cal-dpo-b0.1", {1: about(-3 * s), 2: about(9)})]
    cells += proxy("dpo-b0.1", 30 + 5 * s, 0.2 if dagger else 0.8) + proxy("dpo-pg", 30 - 5 * s, 0.8)
    cells += proxy("cal-dpo-b0.1", 30, 0.5 + 0.3 * s)
    cells += [
        tree.scores(f"{ROW}/dpo-b0.1", "1-1", [0.6 + 0.4 * s]),
        tree.scores(f"{ROW}/logpi-b0.1", "1-1", [0.6 - 0.4 * s]),
        tree.judgments(f"{ROW}/dpo-b0.1", [6.0 + 2 * s, 6.5 + 2 * s] * 15),
        tree.judgments(f"{ROW}/dpo-pg", [6.0 - 2 * s, 6.5 - 2 * s] * 15),
        tree.games(f"{ROW}/dpo-b0.1", [0.5 + s / 2, 0.5] * 9),
        tree.games(f"{ROW}/dpo-pg", [0.5 - s / 2, 0.5] * 9),
        tree.items(f"{ROW}/dpo-b0.1", {1: {"piqa": [0.5 - s / 2, 0.0, 1.0] * 9}}),
        tree.items(f"{ROW}/dpo-pg", {1: {"piqa": [0.5 + s / 2, 0.0, 1.0] * 9}}),
    ]
    if further:
        cells += [tree.update(f"{ROW}/{further}", about(-20)), pairs(f"{ROW}/{further}", 9, 9)]
        cells += proxy(further, 90, 0.3)
        cells += [tree.games(f"{ROW}/{further}", [1.0, 0.5, 0.5, 0.0, 1.0] * 4)]
        cells += [tree.items(f"{ROW}/{further}", {1: {"piqa": [1.0, 1.0, 0.0] * 9}})]
    log = [tree.log(f"{ROW}/dpo-b0.1", 5, 5)]
    FIGURES["figure10"](inputs=log, out=out / "figure10.parquet")
    claims.main(
        inputs=[out / "figure10.parquet", *cells],
        out=out.parent / "claims.parquet",
        wildbench=WildBench(judge="x", rounds=16),
        correctness=["correctness"],
        dagger_below=0.5,
    )
    return artifacts.read(out.parent / "claims.parquet", "claims")


def test_verdicts_flip_when_the_numbers_flip(tree, tmp_path):
    paper_way = measured(tree, tmp_path / "a/t", 1)
    other_way = measured(tree, tmp_path / "b/t", -1)
    names = ["a", "b", "c", "d1", "d2", "e", "f", "g", "h1", "h2", "h3", "i", "j1", "j2", "k1", "k2", "l"]
    assert list(paper_way.claim) == names
    assert dict(zip(paper_way.claim, paper_way.verdict, strict=True)) == dict.fromkeys(names, "holds")
    assert dict(zip(other_way.claim, other_way.verdict, strict=True)) == dict.fromkeys(names, "does not hold")
    where = paper_way.set_index("claim").dataset
    assert (where["a"], where["b"], where["k1"], where["k2"]) == ("magpie-pro",) * 2 + ("correctness",) * 2
    gap = paper_way.set_index("claim").loc["a"]
    assert (gap.value, gap.n, gap.seeds, gap.seed_verdicts) == (pytest.approx(10, abs=0.2), 60, 1, "")
    assert "the paper's statistic: DPO β = 0.1: 4." in paper_way.set_index("claim").evidence["b"]  # and decides nothing
    text = (tmp_path / "a/claims.md").read_text()
    assert "17 holds; 0 as with permuted labels; 0 does not hold; 0 undecided" in text
    kept = (paper_way.holm == "still decided").sum()
    assert f"Holm's correction for the 17 that were measured leaves {kept} of the 17 that hold" in text
    assert "No permuted labels were run" in text


def test_a_dagger_leaves_the_did_undecided(tree, tmp_path):
    found = measured(tree, tmp_path / "t", 1, dagger=True).set_index("claim")
    assert found.verdict["g"] == "undecided"
    assert "left out as unreliable (†): DPO β = 0.1" in found.evidence["g"]
    assert found.verdict["l"] == "does not hold"


def test_the_rule_of_every_claim_is_written_down():
    page = (Path(__file__).parents[2] / "docs/claims.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row[:3] for row in rows] == [
        [claim.name, claim.statement, claim.prediction] for claim in claims._claims(0.5)
    ]
    assert all(row[3] for row in rows)


def test_nothing_measured_is_undecided_in_words(tmp_path):
    claims.main(inputs=[], out=tmp_path / "claims.parquet")
    found = artifacts.read(tmp_path / "claims.parquet", "claims")
    assert set(found.verdict) == {"undecided"}
    assert set(found.evidence) == {"not measured in this grid"}
    assert found.value.isna().all()


def test_further_methods_are_evidence_and_decide_nothing(tree, tmp_path):
    """Each claim with and without SimPO, whose numbers go the other way: the same verdicts, and SimPO's beside them."""
    plain = measured(type(tree)(tmp_path), tmp_path / "a/t", 1).set_index("claim")
    mixed = measured(tree, tmp_path / "b/t", 1, further="simpo-b2.5").set_index("claim")
    assert mixed.drop(columns="evidence").equals(plain.drop(columns="evidence"))
    assert not plain.evidence.str.contains("SimPO").any()
    without = [claim for claim in mixed.index if "beside the claim: " not in mixed.evidence[claim]]
    assert without == [
        "f",
        "h2",
        "h3",
        "k1",
        "k2",
    ]  # no scores, no battle (it would change the others' Elo), another dataset
    shown = mixed.evidence.drop(without).str.partition("beside the claim: ")[2]
    assert shown.str.contains(r"SimPO β = 2\.5(?:, epoch \d)?: -?[\d.]+ \[").all(), shown.tolist()
    assert "SimPO β = 2.5: 60.0 [" in shown["h1"]  # its own win rate


def student(values) -> tuple[float, float, float, int]:
    """Mean and Student's 95 % interval, by scipy."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(np.mean(values)), low, high, len(values)


def test_the_weakest_estimate_of_a_claim_is_shown_and_datasets_are_kept_apart(tree, tmp_path):
    rng = np.random.default_rng(20)
    values = {
        f"{row}/logpi-b{beta}": rng.normal(centre, 3, 30)
        for row, centres in ((ROW, (20, 10)), (CORRECT, (-20, -30)))
        for beta, centre in zip((0.1, 0.02), centres, strict=True)
    }
    inputs = [tree.update(run, v) for run, v in values.items()]
    claims.main(inputs=inputs, out=tmp_path / "claims.parquet", correctness=["correctness"])
    found = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim")
    for name, run in (("a", f"{ROW}/logpi-b0.02"), ("k1", f"{CORRECT}/logpi-b0.1")):
        row = found.loc[name]
        assert (row.dataset, row.verdict) == (run.split("/")[1], "holds")
        assert (row.value, row.low, row.high, row.n) == pytest.approx(student(values[run]))
    assert (found.drop(index=["a", "k1"]).evidence == "not measured in this grid").all()


# Permuted labels, seeds and families -----------------------------------------------------------------------------------

DRAWS = [f"{ROW}-permuted-1", f"{ROW}-permuted-2"]
PLACEBOS = {"magpie-pro": ["magpie-pro-permuted-1", "magpie-pro-permuted-2"]}


def judge(inputs: list[Path], out: Path, **settings) -> pd.DataFrame:
    claims.main(inputs=inputs, out=out / "claims.parquet", placebos=PLACEBOS, **settings)
    return artifacts.read(out / "claims.parquet", "claims").set_index("claim")


def test_what_permuted_labels_do_as_well_does_not_hold(tree, tmp_path):
    """Every number of the placebo by hand; a method that the placebo lacks is compared with nothing."""
    rng = np.random.default_rng(21)
    level = rng.normal(0, 4, 50)
    own = {"logpi-b0.1": level + rng.normal(10, 1, 50), "logpi-b0.02": level + rng.normal(2, 1, 50)}
    theirs = [level + rng.normal(centre, 1, 50) for centre in (9.2, 8.0)]
    inputs = [tree.update(f"{ROW}/{method}", values) for method, values in own.items()]
    inputs += [tree.update(f"{draw}/logpi-b0.1", values) for draw, values in zip(DRAWS, theirs, strict=True)]
    row = judge(inputs, tmp_path).loc["a"]
    assert row.verdict == "holds"
    assert (row.value, row.low, row.high, row.n) == pytest.approx(student(own["logpi-b0.02"]))
    nearest = student(theirs[0])  # of both draws: the row's numbers are of one comparison
    assert (row.placebo, row.placebo_low, row.placebo_high, row.placebo_draws) == pytest.approx((*nearest[:3], 2))
    assert row.evidence.endswith("; permuted labels were trained on with log π β = 0.1 alone")
    nearest = student(own["logpi-b0.1"] - theirs[0])
    assert (row.beyond, row.beyond_low, row.beyond_high) == pytest.approx(nearest[:3])
    assert row.compared == pytest.approx(own["logpi-b0.1"].mean())
    assert row.compared - row.placebo == pytest.approx(row.beyond)
    p = [stats.ttest_1samp(v, 0).pvalue for v in (*own.values(), *(own["logpi-b0.1"] - v for v in theirs))]
    assert row.p == pytest.approx(max(p))
    alike = [tree.update(f"{draw}/logpi-b0.1", own["logpi-b0.1"] + rng.normal(0, 1, 50)) for draw in DRAWS[:1]]
    found = judge([*inputs[:2], *alike, inputs[3]], tmp_path)
    assert found.verdict["a"] == "as with permuted labels"
    assert (found.holm["a"], found.p["a"] > 0.05) == ("", True)
    assert set(found.dataset) == {"magpie-pro", ""}  # the placebos are no rows
    text = (tmp_path / "claims.md").read_text()
    assert "1 as with permuted labels; 0 does not hold" in text
    other = judge([tree.update(f"{draw}/logpi-b0.02", theirs[0]) for draw in DRAWS] + inputs[:1], tmp_path).loc["a"]
    assert (other.verdict, other.placebo_draws) == ("holds", 0)
    assert "not run" in (tmp_path / "claims.md").read_text()


def test_labels_without_effect_do_not_hold():
    """The statistic is far from zero with any labels, and the same at every prompt but for noise: both draws would have to be
    exceeded, each in 2.5 % by itself."""
    rng, verdicts = np.random.default_rng(27), []

    def run(level: np.ndarray) -> pd.DataFrame:
        names = [f"p{i}" for i in range(len(level))]
        values = {"item": names, "value": level + rng.normal(0, 1, len(level)), "epoch": 3}
        return by_seed(pd.DataFrame({"method": "logpi-b0.1", **values}))

    for _ in range(300):
        level = rng.gamma(9, 3, 40)
        verdicts.append(claims._judged(CLAIMS["a"], own := run(level), own, [run(level), run(level)]).verdict)
    assert set(verdicts) <= {"holds", "as with permuted labels"}
    assert verdicts.count("holds") / 300 <= 0.03


def test_a_lead_is_compared_over_the_methods_that_the_placebo_has(tree, tmp_path):
    rng = np.random.default_rng(22)
    level = rng.uniform(3, 7, 40)
    scores = {m: level + rng.normal(up, 0.5, 40) for m, up in (("dpo-b0.1", 2), ("dpo-b0.02", 1), ("dpo-pg", 0))}
    theirs = {m: level + rng.normal(up, 0.5, 40) for m, up in (("dpo-b0.1", 0.5), ("dpo-pg", 0))}
    inputs = [tree.judgments(f"{ROW}/{m}", list(v)) for m, v in scores.items()]
    inputs += [tree.judgments(f"{DRAWS[0]}/{m}", list(v)) for m, v in theirs.items()]
    row = judge(inputs, tmp_path).loc["h3"]
    assert (row.value, row.placebo, row.placebo_draws) == pytest.approx(
        (np.mean(scores["dpo-b0.1"] + scores["dpo-b0.02"]) / 2 - scores["dpo-pg"].mean(),
         theirs["dpo-b0.1"].mean() - theirs["dpo-pg"].mean(), 1)
    )  # fmt: skip
    assert row.compared == pytest.approx(np.mean(scores["dpo-b0.1"] - scores["dpo-pg"]))
    assert row.evidence.endswith("; permuted labels were trained on with DPO β = 0.1, DPO-PG alone")
    gain = scores["dpo-b0.1"] - scores["dpo-pg"] - theirs["dpo-b0.1"] + theirs["dpo-pg"]
    assert (row.beyond, row.beyond_low, row.beyond_high) == pytest.approx(student(gain)[:3])


def test_policies_that_permuted_labels_give_as_well_are_no_elo_apart_from_them(tree, tmp_path):
    """How far a rating gets depends on the battles of its pool: of two policies by themselves they are a fraction."""
    rng = np.random.default_rng(31)
    level = rng.uniform(3, 7, 64)
    scores = {method: level + rng.normal(up, 1, 64) for method, up in (("dpo-b0.1", 0.6), ("dpo-pg", 0))}
    others = {f"micro-gemma2/magpie-g27/dpo-b{beta}": level + rng.normal(0, 2, 64) for beta in (0.2, 0.1, 0.05, 0.02)}
    runs = {f"{row}/{method}": values for row in (ROW, DRAWS[0]) for method, values in scores.items()}
    inputs = [tree.judgments(run, list(values)) for run, values in {**runs, **others}.items()]
    row = judge(inputs, tmp_path, wildbench=WildBench(judge="x", rounds=32)).loc["h2"]
    assert row.placebo > 20
    assert row.beyond_low < 0 < row.beyond_high
    assert row.compared - row.placebo == pytest.approx(row.beyond)
    assert abs(row.beyond) < row.placebo / 4
    alone = [path for run, path in zip({**runs, **others}, inputs, strict=True) if DRAWS[0] not in run]
    assert judge(alone, tmp_path, wildbench=WildBench(judge="x", rounds=32)).value["h2"] == row.value  # that of Table 3


def test_permuted_labels_whose_true_side_is_left_out_are_not_called_not_run(tree, tmp_path):
    def proxy(run, value, accuracy):
        at = [tree.entropy(f"did/{run}/epoch-5/entropy", value, accuracy=accuracy)]
        return [*at, tree.samples(run, value + np.random.default_rng(32).normal(0, 1, 40))]

    cells = [(f"{ROW}/dpo-b0.2", 50, 0.8), (f"{ROW}/dpo-b0.1", 50, 0.2), (f"{ROW}/dpo-pg", 30, 0.8)]
    cells += [(f"{DRAWS[0]}/{method}", 40, 0.8) for method in ("dpo-b0.1", "dpo-pg")]
    row = judge([path for cell in cells for path in proxy(*cell)], tmp_path).loc["g"]
    assert (row.verdict, row.placebo_draws) == ("holds", 0)
    assert row.evidence.endswith("; permuted labels were trained on, but have no number beside one that decides")
    text = (tmp_path / "claims.md").read_text()
    assert "not comparable" in text
    assert "| not run" not in text


@pytest.mark.parametrize("cells", [1, 4])
def test_a_claim_fails_by_chance_in_five_per_cent_however_many_its_cells(cells):
    """At most 2.5 %: half of what Bonferroni allows lies on the predicted side."""
    rng = np.random.default_rng(33)
    found = [claims.verdict([mean(v) for v in rng.normal(0, 1, (cells, 40))], 1) for _ in range(1000)]
    assert 0.01 <= found.count("does not hold") / 1000 <= 0.04


def test_a_claim_on_the_optimiser_need_not_differ_from_its_placebo(tree, tmp_path):
    rng = np.random.default_rng(23)
    up = {run: tree.heldout(f"{run}/dpo-pg", {1: rng.normal(2, 1, 40)}) for run in (ROW, *DRAWS)}
    found = judge(list(up.values()), tmp_path)
    assert found.verdict["d1"] == "holds"
    assert found.placebo["d1"] == pytest.approx(2, abs=0.4)
    text = (tmp_path / "claims.md").read_text()
    assert "Permuted labels decide nothing here. The theorem holds for any labels" in text
    down = {run: tree.heldout(f"{run}/dpo-b0.1", {1: rng.normal(-2, 1, 40)}) for run in (ROW, *DRAWS)}
    assert judge(list(down.values()), tmp_path).verdict["b"] == "as with permuted labels"


def test_every_claim_differs_from_its_placebo_or_says_why_not():
    page = (Path(__file__).parents[2] / "docs/claims.md").read_text()
    lines = [line.split("|") for line in page.splitlines() if line.startswith("| ")][1:]
    assert {line[1].strip(): line[5].strip().startswith("decides") for line in lines} == {
        name: not claim.any_labels for name, claim in CLAIMS.items()
    }
    assert all(claim.any_labels.endswith(".") for claim in CLAIMS.values() if claim.any_labels)


def test_seeds_are_one_number_a_beta_and_each_has_a_verdict_of_its_own(tree, tmp_path):
    rng = np.random.default_rng(24)
    values = {
        (beta, seed): rng.normal(centre, 3, 60)
        for beta, centres in ((0.1, (4, 5, 6)), (0.02, (9, 5, 0)))
        for seed, centre in enumerate(centres, 1)
    }
    inputs = [tree.update(f"{ROW}/logpi-b{beta}-seed{seed}", v) for (beta, seed), v in values.items()]
    row = judge(inputs, tmp_path).loc["a"]
    each = {beta: over_seeds([mean(values[beta, seed]) for seed in (1, 2, 3)]) for beta in (0.1, 0.02)}
    weakest = min(each.values(), key=lambda e: e.value)
    assert (row.value, row.low, row.high, row.n, row.seeds) == pytest.approx(
        (weakest.value, weakest.low, weakest.high, 60, 3)
    )
    assert (row.verdict, row.seed_verdicts) == ("undecided", "1: holds, 2: holds, 3: undecided")
    assert row.p == pytest.approx(max(e.p() for e in each.values()))
    for seed in (1, 2, 3):
        alone = judge([p for p in inputs if f"seed{seed}" in str(p)], tmp_path).loc["a"]
        assert alone.verdict == row.seed_verdicts.split(", ")[seed - 1].split(": ")[1]


def test_the_table_is_one_family(tree, tmp_path):
    """Holm over all rows with a number; for what does not hold, the smallest p times the number of cells."""
    rng = np.random.default_rng(25)
    base = rng.normal(0, 1, 40)
    base = (base - base.mean()) / stats.sem(base)  # mean 0, standard error 1

    def at(p: float, sign: int = 1) -> np.ndarray:
        return base + sign * stats.t.isf(p / 2, 39)

    inputs = [tree.update(f"{ROW}/logpi-b0.1", at(0.0125, -1)), tree.update(f"{ROW}/logpi-b0.02", at(0.5))]
    inputs += [tree.heldout(f"{ROW}/dpo-b0.1", {1: at(0.015, -1)}, {1: at(0.03, -1)})]
    inputs += [tree.heldout(f"{ROW}/dpo-pg", {1: at(0.3)}, {1: at(0.004, -1)})]
    found = judge(inputs, tmp_path)
    p = {"a": 2 * 0.0125, "b": 0.015, "c": 0.03, "d1": 0.3, "d2": 0.004}
    assert found.p[list(p)].tolist() == pytest.approx(list(p.values()))
    assert found.verdict[["a", "d1"]].tolist() == ["does not hold", "undecided"]
    assert found.holm[[*p]].tolist() == ["not decided", "not decided", "not decided", "", "still decided"]
    assert found.holm["e"] in ("", "still decided", "not decided")  # of the same pairs as d1 and d2
