"""Claims: the verdict follows the numbers, and flips with them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from diffinfo import artifacts
from diffinfo.config import WildBench
from diffinfo.report import claims, figures, tables
from diffinfo.report.intervals import Estimate, average, share

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


def measured(tree, out: Path, sign: int, dagger: bool = False) -> pd.DataFrame:
    """Claims of a grid row where everything goes the paper's way (sign 1) or the other (-1)."""
    s = sign
    entropies = [
        tree.entropy(f"entropy/{ROW}/logpi-b0.1/epoch-5", 40 + 10 * s),
        tree.entropy(f"entropy/{ROW}/ref/epoch-0", 40.0),
        tree.entropy(f"entropy/{CORRECT}/logpi-b0.1/epoch-5", 40 - 10 * s),
        tree.entropy(f"entropy/{CORRECT}/ref/epoch-0", 40.0),
    ]
    tables.table1(inputs=entropies, out=out / "table1.parquet")
    bench = [
        tree.winrates(f"{ROW}/dpo-b0.1", 4, 50 + 10 * s),
        tree.winrates(f"{ROW}/dpo-pg", 2, 50 - 10 * s),
        tree.judgments(f"{ROW}/dpo-b0.1", [6.0 + 2 * s, 6.5 + 2 * s] * 15),
        tree.judgments(f"{ROW}/dpo-pg", [6.0 - 2 * s, 6.5 - 2 * s] * 15),
    ]
    tables.table3(inputs=bench, wildbench=WildBench(judge="x", rounds=16), out=out / "table3.parquet")
    proxies = [
        tree.entropy(f"did/{ROW}/dpo-b0.1/epoch-5/entropy", 30 + 5 * s, accuracy=0.2 if dagger else 0.5 + 0.3 * s),
        tree.entropy(f"did/{ROW}/dpo-pg/epoch-5/entropy", 30 - 5 * s, accuracy=0.8),
    ]
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
    for name, inputs in {
        "figure3": qa, "figure5": [dpo[0], *variants], "figure6": scores, "figure8": pg, "figure9": pg,
        "figure10": dpo, "figure11": dpo, "figure12": [],
    }.items():  # fmt: skip
        getattr(figures, name)(inputs=inputs, out=out / f"{name}.parquet")
    inputs = sorted(out.glob("*.parquet"))
    claims.main(inputs=inputs, out=out.parent / "claims.parquet", correctness=["correctness"], dagger_below=0.5)
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
    assert gap.low == pytest.approx(10 - 1.96 * 2**0.5, abs=1e-3)
    assert gap.n == 1000
    text = (tmp_path / "a/claims.md").read_text()
    assert "17 holds; 0 does not hold; 0 undecided" in text


def test_a_dagger_leaves_the_did_undecided(tree, tmp_path):
    found = measured(tree, tmp_path / "t", 1, dagger=True).set_index("claim")
    assert found.verdict["g"] == "undecided"
    assert "left out as unreliable (†): DPO β = 0.1" in found.evidence["g"]
    assert found.verdict["l"] == "does not hold"


def test_nothing_measured_is_undecided_in_words(tmp_path):
    claims.main(inputs=[], out=tmp_path / "claims.parquet")
    found = artifacts.read(tmp_path / "claims.parquet", "claims")
    assert set(found.verdict) == {"undecided"}
    assert set(found.evidence) == {"not measured in this grid"}
    assert found.value.isna().all()
