"""Claims: the verdict follows the numbers, and flips with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.bench import wildbench
from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import Estimate, average, over_seeds, share
from diffinfo.report import claims, tables
from diffinfo.report.figures import FIGURES
from diffinfo.tables import artifacts

ROW = "micro-mistral/magpie-pro"
CORRECT = "micro-mistral/correctness"


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


def test_errors_add_as_they_should():
    ten = [Estimate("", 10.0, 8.04, 11.96, 5)] * 4
    assert average(ten, "").stderr == pytest.approx(0.5, rel=1e-3)
    assert (ten[0] - ten[1]).stderr == pytest.approx(2**0.5, rel=1e-3)
    certain = share("", 50, 50)
    assert certain.value == 1
    assert 0.9 < certain.low < 0.95  # Wilson's interval, not a point


def measured(tree, out: Path, sign: int, dagger: bool = False, further: str | None = None) -> pd.DataFrame:
    """Claims of a grid row where everything goes the paper's way (sign 1) or the other (-1); a further method always does."""
    s, own = sign, type(tree)(tree.root.parent)  # draws apart, so that the others' numbers stay
    entropies = [
        tree.entropy(f"entropy/{ROW}/logpi-b0.1/epoch-5", 40 + 10 * s),
        tree.entropy(f"entropy/{ROW}/ref/epoch-0", 40.0),
        tree.entropy(f"entropy/{CORRECT}/logpi-b0.1/epoch-5", 40 - 10 * s),
        tree.entropy(f"entropy/{CORRECT}/ref/epoch-0", 40.0),
    ]
    if further:
        entropies.append(own.entropy(f"entropy/{ROW}/{further}/epoch-5", 20.0))
    tables.table1(inputs=entropies, out=out / "table1.parquet")
    bench = [
        tree.winrates(f"{ROW}/dpo-b0.1", 4, 50 + 10 * s),
        tree.winrates(f"{ROW}/dpo-pg", 2, 50 - 10 * s),
        tree.judgments(f"{ROW}/dpo-b0.1", [6.0 + 2 * s, 6.5 + 2 * s] * 15),
        tree.judgments(f"{ROW}/dpo-pg", [6.0 - 2 * s, 6.5 - 2 * s] * 15),
    ]
    won = [tree.games(f"{ROW}/dpo-b0.1", [0.5 + s / 2, 0.5] * 9), tree.games(f"{ROW}/dpo-pg", [0.5 - s / 2, 0.5] * 9)]
    items = [
        tree.items(f"{ROW}/dpo-b0.1", {1: {"piqa": [0.5 - s / 2, 0.0, 1.0] * 9}}),
        tree.items(f"{ROW}/dpo-pg", {1: {"piqa": [0.5 + s / 2, 0.0, 1.0] * 9}}),
    ]
    if further:
        bench.append(own.winrates(f"{ROW}/{further}", 2, 60))
        won.append(own.games(f"{ROW}/{further}", [1.0, 0.5, 0.5, 0.0, 1.0] * 4))
        items.append(own.items(f"{ROW}/{further}", {1: {"piqa": [1.0, 1.0, 0.0] * 9}}))
    tables.table3(inputs=bench, wildbench=WildBench(judge="x", rounds=16), out=out / "table3.parquet")
    proxies = [
        tree.entropy(f"did/{ROW}/dpo-b0.1/epoch-5/entropy", 30 + 5 * s, accuracy=0.2 if dagger else 0.5 + 0.3 * s),
        tree.entropy(f"did/{ROW}/dpo-pg/epoch-5/entropy", 30 - 5 * s, accuracy=0.8),
    ]
    if further:
        proxies.append(own.entropy(f"did/{ROW}/{further}/epoch-5/entropy", 90, accuracy=0.3))
    tables.table2(inputs=[*proxies, out / "table3.parquet"], out=out / "table2.parquet", dagger_below=0.1)
    if dagger:
        tables.table2(inputs=[*proxies, out / "table3.parquet"], out=out / "table2.parquet", dagger_below=0.5)
    dpo = [tree.log(f"{ROW}/dpo-b0.1", -5 * s, -9 * s), tree.log(f"{CORRECT}/dpo-b0.1", 4 * s, -9)]
    pg = [tree.log(f"{ROW}/dpo-pg", 4 * s, -2 * s, loss=0.69 - 0.1 * s)]
    variants = [
        tree.log(f"{ROW}/dpop-b0.1", 4.0, 4.0 - (4 - 3 * s)),
        tree.log(f"{ROW}/cal-dpo-b0.1", -3 * s, -5, noise=0),
    ]
    scores = [
        tree.scores(f"{ROW}/ref", "0-0", [0.0], first=0),
        tree.scores(f"{ROW}/dpo-b0.1", "1-1", [0.6 + 0.4 * s]),
        tree.scores(f"{ROW}/logpi-b0.1", "1-1", [0.6 - 0.4 * s]),
    ]
    qa = [tree.qa(f"{ROW}/dpo-b0.1", [0.5 - 0.1 * s]), tree.qa(f"{ROW}/dpo-pg", [0.5 + 0.1 * s])]
    log = [own.log(f"{ROW}/{further}", 9, 9, loss=0.9)] if further else []
    if further:
        scores.append(own.scores(f"{ROW}/{further}", "1-1", [2.0]))
        qa.append(own.qa(f"{ROW}/{further}", [0.9]))
    for name, inputs in {
        "figure3": qa, "figure5": [dpo[0], *variants, *log], "figure6": scores, "figure8": pg + log, "figure9": pg + log,
        "figure10": dpo + log, "figure11": dpo + log, "figure12": [],
    }.items():  # fmt: skip
        FIGURES[name](inputs=inputs, out=out / f"{name}.parquet")
    inputs = [*sorted(out.glob("*.parquet")), *won, *(path for path in bench if "wildbench" in str(path)), *items]
    claims.main(
        inputs=inputs,
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
    assert gap.value == 10
    assert gap.low == pytest.approx(10 - stats.t.ppf(0.975, 999) * 2**0.5)
    assert gap.n == 1000
    text = (tmp_path / "a/claims.md").read_text()
    assert "17 holds; 0 does not hold; 0 undecided" in text


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


# What each claim measures, on tables written by hand -------------------------------------------------------------------

MEASURES = {claim.name: claim.measure for claim in claims._claims(0.5)}


def decisive(name: str, table: pd.DataFrame) -> list[tuple[float, float, float, int]]:
    found = MEASURES[name](table)
    return [(e.value, e.low, e.high, e.n) for e in found.decisive] if found else []


def student(values) -> tuple[float, float, float, int]:
    """Mean and Student's 95 % interval, by scipy."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(np.mean(values)), low, high, len(values)


@pytest.mark.parametrize("name", ["a", "k1"])
def test_entropy_claims_compare_with_the_reference(name):
    row = {"entropy": 40.0, "low": 37.0, "high": 43.0, "reference": 30.0, "reference_low": 26.0, "reference_high": 34.0}
    table = pd.DataFrame(
        [
            row | {"method": "logpi-b0.1", "beta": 0.1, "prompts": 50.0},
            row | {"method": "logpi-b0.02", "beta": 0.02, "prompts": 60.0, "entropy": np.nan},
            row | {"method": "simpo-b0.1", "beta": 0.1, "prompts": 60.0, "entropy": 99.0},
        ]
    )
    assert decisive(name, table) == [pytest.approx((10, 10 - 5, 10 + 5, 50))]  # errors of 3 and 4 make 5


@pytest.mark.parametrize(
    ("name", "method", "quantity", "start"),
    [("b", "dpo-b0.1", "chosen", 0), ("k2", "dpo-b0.1", "chosen", 0), ("c", "dpo-b0.1", "rejected", 0),
     ("d1", "dpo-pg", "chosen", 0), ("d2", "dpo-pg", "rejected", 0), ("e", "dpo-pg", "dpo_loss", np.log(2))],
)  # fmt: skip
def test_changes_are_means_of_the_last_epochs_batches(name, method, quantity, start):
    rng, others = np.random.default_rng(1), []
    for other in ("dpo-b0.1", "dpo-pg", "logpi-b0.1"):
        for kind in ("chosen", "rejected", "dpo_loss"):
            curve = {"epoch": [1] * 5 + [2] * 5, "step": range(10), "value": rng.normal(size=10)}
            others.append(pd.DataFrame(curve).assign(method=other, quantity=kind))
    table = pd.concat(others)
    last = table[(table.method == method) & (table.quantity == quantity) & (table.epoch == 2)].value
    assert decisive(name, table) == [pytest.approx(student(last - start))]


def test_elo_leads_have_the_interval_of_the_same_drawn_tasks(tree, tmp_path):
    """Seed by seed, draw by draw; what one seed alone has is compared in that seed."""
    rng, names = (
        np.random.default_rng(8),
        ["dpo-b0.02", "dpo-b0.1", "dpo-b0.1-seed2", "dpo-pg", "dpo-pg-seed2", "logpi-b0.1"],
    )
    inputs = [tree.judgments(f"{ROW}/{name}", list(rng.integers(1, 11, 64).astype(float))) for name in names]
    bench = WildBench(judge="x", rounds=32)
    claims.main(inputs=inputs, out=tmp_path / "claims.parquet", wildbench=bench)
    row = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim").loc["h2"]
    pool = pd.concat(artifacts.read(path, "judgments").assign(model=path.parent.name) for path in inputs)
    elo = wildbench.elo(pool, {}, rounds=32).set_index("model")  # names in alphabetical order: the same order of play
    each = []
    for dpo, pg in ((["dpo-b0.1", "dpo-b0.02"], "dpo-pg"), (["dpo-b0.1-seed2"], "dpo-pg-seed2")):
        value = sum(elo.elo[m] for m in dpo) / len(dpo) - elo.elo[pg]
        draws = [sum(elo.draws[m][r] for m in dpo) / len(dpo) - elo.draws[pg][r] for r in range(32)]
        each.append(Estimate("", value, *np.percentile(draws, [2.5, 97.5]), 9))
    expected = over_seeds(each)
    assert (row.value, row.low, row.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert f"beside the claim: log π β = 0.1: {elo.elo['logpi-b0.1']:.2f} [" in row.evidence
    claims.main(inputs=inputs[:3], out=tmp_path / "claims.parquet", wildbench=bench)
    found = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim").loc["h2"]
    assert found.evidence == "not measured in this grid"


def test_doubtful_proxies_decide_nothing():
    def row(method: str, value: float, half: float, dagger: bool) -> dict:
        ends = {"did_entropy": value, "low": value - half, "high": value + half}
        return {"method": method, "dagger": dagger, "prompts": 100.0, **ends}

    table = pd.DataFrame([
        row("dpo-b0.1", 90, 3, True), row("dpo-b0.02", 60, 3, False), row("dpo-b0.05", 50, 3, False),
        row("dpo-pg", 40, 4, False),
    ])  # fmt: skip
    half = (2 * 3**2 / 4 + 4**2) ** 0.5
    assert decisive("g", table) == [pytest.approx((15, 15 - half, 15 + half, 100))]
    assert "left out as unreliable (†): DPO β = 0.1" in MEASURES["g"](table).evidence
    assert decisive("g", table.assign(dagger=table.method == "dpo-pg")) == []
    assert decisive("g", table.assign(dagger=table.method != "dpo-pg")) == []


def test_margins_are_compared_batch_by_batch():
    rng = np.random.default_rng(2)
    batch, gap = rng.normal(0, 9, 12), rng.normal(1, 0.1, 12)  # what a batch is like is far larger than the gap
    curves = {"dpo-b0.1": batch, "dpop-b0.1": batch - gap, "dpo-b0.02": batch + 7, "cal-dpo-b0.1": batch}
    table = pd.concat(
        pd.DataFrame(
            {"step": range(1, 13), "epoch": [1] * 6 + [2] * 6, "value": value, "method": method, "quantity": "margin"}
        )
        for method, value in curves.items()
    ).sample(frac=1, random_state=0)
    assert decisive("j1", table) == [pytest.approx(student(gap[6:]))]


def test_cal_dpo_counts_in_its_lowest_epoch():
    rng = np.random.default_rng(3)
    values = {1: rng.normal(0, 1, 6), 2: rng.normal(-9, 1, 6), 3: rng.normal(5, 1, 6)}
    table = pd.concat(
        pd.DataFrame({"epoch": epoch, "value": value, "method": method, "quantity": "chosen"})
        for epoch, value in values.items()
        for method in ("cal-dpo-b0.1", "dpo-b0.1")
    )
    assert decisive("j2", table) == [pytest.approx(student(values[2]))]


def test_leads_of_figures_are_taken_as_they_are():
    table = pd.DataFrame(
        {
            "quantity": ["best", "lead", "lead apart", "lead at equal length"], "value": [9.0, 0.5, 0.4, 0.2],
            "low": [8.0, 0.1, 0.3, -0.2], "high": [10.0, 0.7, 0.5, 0.3], "prompts": [1, 40, 40, 40],
        }
    ).assign(method="dpo-b0.1", epoch=1)  # fmt: skip
    assert decisive("f", table) == [(0.4, 0.3, 0.5, 40)]  # selected apart
    evidence = MEASURES["f"](table).evidence
    assert (
        evidence == "difference apart: 0.400 [0.300, 0.500]; difference at equal length: 0.200 [-0.200, 0.300] reward"
    )
    (own,) = (claim.beside[1](table) for claim in claims._claims(0.5) if claim.name == "f")
    assert own.evidence == "difference: 0.500 [0.100, 0.700] reward"
    assert decisive("f", table[:2]) == []


def test_mrr_is_shown_beside_accuracy_and_decides_nothing(tree, tmp_path):
    """Accuracies by item say one thing, the ranks of the aggregates another."""
    FIGURES["figure3"](
        inputs=[tree.qa(f"{ROW}/dpo-b0.1", [0.9]), tree.qa(f"{ROW}/dpo-pg", [0.1])], out=tmp_path / "figure3.parquet"
    )
    items = [
        tree.items(f"{ROW}/{method}", {1: {"piqa": [value, 0.0] * 20}})
        for method, value in (("dpo-b0.1", 0.0), ("dpo-pg", 1.0))
    ]
    claims.main(inputs=[tmp_path / "figure3.parquet", *items], out=tmp_path / "claims.parquet")
    row = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim").loc["i"]
    assert (row.value, row.verdict, row.n) == (0.5, "holds", 40)
    assert "; the paper's statistic: difference: -0.500 [-0.500, -0.500] MRR" in row.evidence


def test_further_methods_are_evidence_and_decide_nothing(tree, tmp_path):
    """Each claim with and without SimPO, whose numbers go the other way: the same verdicts, and SimPO's beside them."""
    plain = measured(type(tree)(tmp_path), tmp_path / "a/t", 1).set_index("claim")
    mixed = measured(tree, tmp_path / "b/t", 1, further="simpo-b2.5").set_index("claim")
    assert mixed.drop(columns="evidence").equals(plain.drop(columns="evidence"))
    assert not plain.evidence.str.contains("SimPO").any()
    without = [claim for claim in mixed.index if "beside the claim: " not in mixed.evidence[claim]]
    assert without == ["h2", "h3", "k1", "k2"]  # no battle (it would change the others' Elo), not on that dataset
    shown = mixed.evidence.drop(without).str.partition("beside the claim: ")[2]
    assert shown.str.contains(r"SimPO β = 2\.5(?:, epoch \d)?: -?[\d.]+ \[").all(), shown.tolist()
    assert "SimPO β = 2.5: 60.0 [" in shown["h1"]  # its own win rate


def test_accuracies_stand_above_the_threshold():
    table = pd.DataFrame({"method": ["dpo-b0.1", "dpo-pg"], "beta_accuracy": [0.75, np.nan], "prompts": [40.0, 40.0]})
    wilson = stats.binomtest(30, 40).proportion_ci(0.95, "wilson")
    assert decisive("l", table) == [pytest.approx((0.25, wilson.low - 0.5, wilson.high - 0.5, 40))]


def test_the_weakest_estimate_of_a_claim_is_shown_and_datasets_are_kept_apart(tree, tmp_path):
    values = {ROW: {"logpi-b0.1": 60.0, "logpi-b0.02": 50.0}, CORRECT: {"logpi-b0.1": 20.0, "logpi-b0.02": 10.0}}
    inputs = [tree.entropy(f"entropy/{row}/ref/epoch-0", 40.0) for row in values]
    for row, methods in values.items():
        inputs += [tree.entropy(f"entropy/{row}/{method}/epoch-5", value) for method, value in methods.items()]
    tables.table1(inputs=inputs, out=tmp_path / "table1.parquet")
    claims.main(inputs=[tmp_path / "table1.parquet"], out=tmp_path / "claims.parquet", correctness=["correctness"])
    found = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim")
    assert found.loc["a", ["dataset", "verdict", "value"]].tolist() == ["magpie-pro", "holds", 10.0]
    assert found.loc["k1", ["dataset", "verdict", "value"]].tolist() == ["correctness", "holds", -20.0]
    half = stats.t.ppf(0.975, 999) * 2**0.5
    assert found.loc["a", ["low", "high"]].tolist() == pytest.approx([10 - half, 10 + half], abs=1e-3)
    assert (found.drop(index=["a", "k1"]).evidence == "not measured in this grid").all()
