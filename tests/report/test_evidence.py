"""What each claim measures, on tables written by hand and on stored ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.bench import wildbench
from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import Estimate, over_seeds
from diffinfo.report import claims
from diffinfo.report.evidence import by_seed
from diffinfo.report.figures import FIGURES
from diffinfo.selection import halves
from diffinfo.tables import artifacts

ROW = "micro-mistral/magpie-pro"
CLAIMS = {claim.name: claim for claim in claims._claims(0.5)}
MEASURES = {name: claim.measure for name, claim in CLAIMS.items()}


def decisive(name: str, table: pd.DataFrame) -> list[tuple[float, float, float, int]]:
    found = MEASURES[name](table)
    return [(e.value, e.low, e.high, e.n) for e in (s.estimate() for s in found.decisive)] if found else []


def student(values) -> tuple[float, float, float, int]:
    """Mean and Student's 95 % interval, by scipy."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(np.mean(values)), low, high, len(values)


def cells(values: dict[str, np.ndarray], epoch: int = 1, **columns) -> pd.DataFrame:
    """Rows of units p0, p1, ... by method."""
    frames = [
        pd.DataFrame({"method": method, "epoch": epoch, "item": [f"p{i}" for i in range(len(v))], "value": v})
        for method, v in values.items()
    ]
    return by_seed(pd.concat(frames).assign(**columns))


@pytest.mark.parametrize("name", ["a", "k1"])
def test_entropy_claims_are_paired_by_prompt_and_table_1_stands_beside(name):
    rng = np.random.default_rng(14)
    values = {method: rng.normal(3, 2, 30) for method in ("logpi-b0.1", "dpo-b0.1", "logpi-b0.02")}
    early = cells({method: v + 50 for method, v in values.items()}, epoch=1)
    table = pd.concat([early, cells(values, epoch=2)])
    assert decisive(name, table) == [pytest.approx(student(values[m])) for m in ("logpi-b0.1", "logpi-b0.02")]
    row = {"entropy": 40.0, "low": 37.0, "high": 43.0, "reference": 30.0, "reference_low": 26.0, "reference_high": 34.0}
    table = pd.DataFrame(
        [
            row | {"method": "logpi-b0.1", "beta": 0.1, "prompts": 50.0},
            row | {"method": "logpi-b0.02", "beta": 0.02, "prompts": 60.0, "entropy": np.nan},
            row | {"method": "simpo-b0.1", "beta": 0.1, "prompts": 60.0, "entropy": 99.0},
        ]
    )
    found = CLAIMS[name].beside[1](table)
    own = found.decisive[0].estimate()  # errors of 3 and 4 make 5
    assert (own.value, own.low, own.high, own.n) == pytest.approx((10, 10 - 5, 10 + 5, 50))
    assert (len(found.decisive), found.others[0].label) == (1, "SimPO β = 0.1")


@pytest.mark.parametrize(
    ("name", "method", "quantity", "start"),
    [("b", "dpo-b0.1", "chosen", 0), ("k2", "dpo-b0.1", "chosen", 0), ("c", "dpo-b0.1", "rejected", 0),
     ("d1", "dpo-pg", "chosen", 0), ("d2", "dpo-pg", "rejected", 0), ("e", "dpo-pg", "dpo_loss", np.log(2))],
)  # fmt: skip
def test_changes_are_means_of_the_last_epochs_pairs(name, method, quantity, start):
    rng, parts = np.random.default_rng(1), []
    for epoch in (1, 2):
        for kind in ("chosen", "rejected", "dpo_loss"):
            values = {other: rng.normal(size=9) for other in ("dpo-b0.1", "dpo-pg", "logpi-b0.1")}
            parts.append(cells(values, epoch, quantity=kind))
    table = pd.concat(parts)
    last = table[(table.method == method) & (table.quantity == quantity) & (table.epoch == 2)].value
    assert decisive(name, table) == [pytest.approx(student(last - start))]


def test_held_out_pairs_decide_and_the_batches_stand_beside(tree, tmp_path):
    """From the stored log-probabilities: each of b to e and j1 by its own formula; of two spans the later one."""
    rng = np.random.default_rng(15)
    w, l = ({m: rng.normal(-1, 2, 40) for m in ("dpo-b0.1", "dpo-pg", "dpop-b0.1")} for _ in range(2))  # noqa: E741
    early = [tree.heldout(f"{ROW}/{m}", {1: w[m] + 9, 2: w[m] + 8}, {1: l[m], 2: l[m]}, "1-2") for m in w]
    late = [tree.heldout(f"{ROW}/{m}", {3: w[m]}, {3: l[m]}, "3-3") for m in w]
    FIGURES["figure8"](inputs=[tree.log(f"{ROW}/dpo-pg", 4, 4)], out=tmp_path / "figure8.parquet")
    claims.main(inputs=[*late, *early, tmp_path / "figure8.parquet"], out=tmp_path / "claims.parquet")
    found = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim")
    loss = np.log1p(np.exp(-0.1 * (w["dpo-pg"] - l["dpo-pg"]))) - np.log(2)
    gap = w["dpo-b0.1"] - l["dpo-b0.1"] - w["dpop-b0.1"] + l["dpop-b0.1"]
    expected = {"b": w["dpo-b0.1"], "c": l["dpo-b0.1"], "d1": w["dpo-pg"], "d2": l["dpo-pg"], "e": loss, "j1": gap}
    for name, values in expected.items():
        row = found.loc[name]
        assert (row.value, row.low, row.high, row.n) == pytest.approx(student(values)), name
        assert row.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue), name
    assert "; the paper's statistic: DPO-PG: 3.466 [" in found.evidence["d1"]


def test_without_held_out_pairs_the_batches_decide_nothing(tree, tmp_path):
    FIGURES["figure8"](inputs=[tree.log(f"{ROW}/dpo-pg", 4, -4)], out=tmp_path / "figure8.parquet")
    claims.main(inputs=[tmp_path / "figure8.parquet"], out=tmp_path / "claims.parquet")
    row = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim").loc["d1"]
    assert (row.verdict, row.dataset, row.holm) == ("undecided", "magpie-pro", "")
    assert row.evidence.startswith("what decides is not measured (heldout); the paper's statistic: DPO-PG: 3.")
    assert np.isnan(row.value)
    assert np.isnan(row.p)


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
    rng = np.random.default_rng(16)
    level = rng.normal(50, 9, 30)
    values = {m: level + rng.normal(0, 1, 30) for m in ("dpo-b0.1", "dpo-b0.05", "dpo-b0.02", "dpo-pg")}
    table = cells(values, benchmark="did", weight=1.0, accuracy=0.7).rename(columns={"value": "won"})
    lead = (values["dpo-b0.05"] + values["dpo-b0.02"]) / 2 - values["dpo-pg"]
    kept = table.assign(accuracy=table.accuracy.mask(table.method == "dpo-b0.1", 0.4))
    assert decisive("g", kept) == [pytest.approx(student(lead))]
    assert "left out as unreliable (†): DPO β = 0.1" in MEASURES["g"](kept).words()
    assert decisive("g", table.assign(accuracy=table.accuracy.mask(table.method == "dpo-pg", np.nan))) == []
    assert decisive("g", table.assign(accuracy=table.accuracy.mask(table.method != "dpo-pg", 0.4))) == []


def test_a_proxys_entropy_at_a_prompt_is_the_mean_over_its_samples(tree, tmp_path):
    rng = np.random.default_rng(17)
    ours, theirs = rng.normal(50, 9, 20), rng.normal(40, 9, 20)
    inputs = [tree.samples(f"{ROW}/dpo-b0.1", ours), tree.samples(f"{ROW}/dpo-pg", theirs)]
    inputs += [tree.entropy(f"did/{ROW}/{m}/epoch-5/entropy", 0.0, accuracy=0.9) for m in ("dpo-b0.1", "dpo-pg")]
    claims.main(inputs=inputs, out=tmp_path / "claims.parquet")
    row = artifacts.read(tmp_path / "claims.parquet", "claims").set_index("claim").loc["g"]
    assert (row.value, row.low, row.high, row.n) == pytest.approx(student(ours - theirs))


def test_margins_are_compared_pair_by_pair():
    rng = np.random.default_rng(2)
    pair, gap = rng.normal(0, 9, 12), rng.normal(1, 0.1, 12)  # what a pair is like is far larger than the gap
    values = {"dpo-b0.1": pair, "dpop-b0.1": pair - gap, "dpo-b0.02": pair + 7, "cal-dpo-b0.1": pair}
    table = pd.concat(
        [cells(values, 2, quantity="margin"), cells({m: v - 99 for m, v in values.items()}, quantity="margin")]
    )
    assert decisive("j1", table.sample(frac=1, random_state=0)) == [pytest.approx(student(gap))]


def test_cal_dpo_counts_in_its_lowest_epoch_corrected_for_the_choice():
    rng = np.random.default_rng(3)
    values = {1: rng.normal(0, 1, 6), 2: rng.normal(-9, 1, 6), 3: rng.normal(5, 1, 6)}
    table = pd.concat(
        cells({"cal-dpo-b0.1": v, "dpo-b0.1": v - 20}, epoch, quantity="chosen") for epoch, v in values.items()
    )
    low, high = stats.t.interval(1 - 0.05 / 3, 5, values[2].mean(), stats.sem(values[2]))
    assert decisive("j2", table) == [pytest.approx((values[2].mean(), low, high, 6))]
    assert MEASURES["j2"](table).words().endswith("nats, epoch 2 of 3")


def test_the_lowest_of_epochs_without_an_effect_is_below_zero_in_less_than_five_per_cent():
    rng, found = np.random.default_rng(18), 0
    for _ in range(300):
        table = pd.concat(
            cells({"cal-dpo-b0.1": rng.normal(0, 1, 40)}, epoch, quantity="chosen") for epoch in (1, 2, 3)
        )
        found += decisive("j2", table)[0][2] < 0
    assert found / 300 <= 0.05


def test_rewards_are_selected_apart_and_paired_by_prompt():
    """DPO's best (beta, epoch) differs between the halves; each is reported on the other one."""
    rng = np.random.default_rng(19)
    names = [f"p{i}" for i in range(40)]
    half = halves(names)
    side = np.array([half[name] for name in names])
    level = rng.normal(0, 5, 40)
    of = {("dpo-b0.1", 1): level + rng.normal(0, 1, 40) + (side == 0), ("dpo-b0.02", 2): level + (side == 1),
          ("logpi-b0.1", 1): level + rng.normal(0, 1, 40)}  # fmt: skip
    table = pd.concat(cells({m: v}, e, tokens=9.0) for (m, e), v in of.items()).rename(columns={"value": "score"})
    dpo = np.where(side == 0, of["dpo-b0.02", 2], of["dpo-b0.1", 1])  # half 1 selects for half 0
    gap = dpo - of["logpi-b0.1", 1]
    welch = stats.ttest_ind(gap[side == 0], -gap[side == 1], equal_var=False).confidence_interval(0.95)
    means = (gap[side == 0].mean() + gap[side == 1].mean()) / 2
    assert decisive("f", table) == [pytest.approx((means, welch.low / 2, welch.high / 2, 40))]
    assert f"at equal length: {gap.mean():.3f} [" in MEASURES["f"](table).words()
    assert decisive("f", table[table.method != "logpi-b0.1"]) == []


def test_leads_of_figures_are_taken_as_they_are():
    table = pd.DataFrame(
        {
            "quantity": ["best", "lead", "lead apart", "lead at equal length"], "value": [9.0, 0.5, 0.4, 0.2],
            "low": [8.0, 0.1, 0.3, -0.2], "high": [10.0, 0.7, 0.5, 0.3], "prompts": [1, 40, 40, 40],
        }
    ).assign(method="dpo-b0.1", epoch=1)  # fmt: skip
    found = CLAIMS["f"].beside[1](table.assign(seed=1))
    own = found.decisive[0].estimate()
    assert (own.value, own.low, own.high, own.n) == (0.5, 0.1, 0.7, 40)
    assert found.words() == "difference: 0.500 [0.100, 0.700] reward"


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


def test_accuracies_stand_above_the_threshold():
    table = by_seed(
        pd.DataFrame({"method": ["dpo-b0.1", "dpo-pg"], "beta_accuracy": [0.75, np.nan], "prompts": [40, 40]})
    )
    wilson = stats.binomtest(30, 40).proportion_ci(0.95, "wilson")
    assert decisive("l", table) == [pytest.approx((0.25, wilson.low - 0.5, wilson.high - 0.5, 40))]


def test_seeds_are_taken_apart():
    """Of two seeds together every claim has what each of them has alone; Cal-DPO's epoch apart, which both choose."""
    rng = np.random.default_rng(26)
    methods = ("dpo-b0.1", "dpo-b0.02", "dpo-pg", "logpi-b0.1", "dpop-b0.1")
    parts = []
    for quantity in ("chosen", "rejected", "margin", "dpo_loss"):
        values = {f"{method}{seed}": rng.normal(0, 1, 30) for method in methods for seed in ("-seed1", "-seed2")}
        parts.append(cells(values, 2, quantity=quantity, benchmark="x", weight=1.0, tokens=rng.integers(1, 9)))
    rows = pd.concat(parts)
    one = rows[rows.quantity == "chosen"].assign(accuracy=0.9, beta_accuracy=0.6, prompts=50)
    one = one.assign(won=one.value, score=one.value)
    tables = {"a": one, "f": one, "g": one, "h1": one, "i": one} | dict.fromkeys(
        ("b", "c", "d1", "d2", "e", "j1"), rows
    )
    tables["l"] = one.drop_duplicates(["method", "seed"])
    for name, table in tables.items():
        both = MEASURES[name](table).decisive
        for seed in (1, 2):
            alone = MEASURES[name](table[table.seed == seed]).decisive
            assert [s.label for s in both] == [s.label for s in alone]
            for ours, own in zip(both, alone, strict=True):
                assert sorted(ours.seeds) == [1, 2]
                assert list(own.seeds) == [seed]
                same = ours.seeds[seed] == own.seeds[seed]
                assert np.all(same), (name, ours.label)
