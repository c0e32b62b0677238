"""The golden check itself: what may drift, and what may not."""

import copy
import json

import pandas as pd
import pytest

import golden
from diffinfo.tables import artifacts

CLAIM = {"statement": "s", "source": "s", "prediction": "p", "model": "m", "dataset": "d", "evidence": "e", "n": 9}
CLAIM |= {"holm": "", "seed_verdicts": ""}
ROW = {"model": "m", "dataset": "d", "method": "dpo-b0.1"}


def table(kind, *rows):
    names = artifacts.SCHEMAS[kind][1].names
    flags = {name: False for name in names if "dagger" in name}
    return pd.DataFrame([flags | row for row in rows]).reindex(columns=names)


@pytest.fixture
def results(tmp_path):
    claims = [
        {**CLAIM, "claim": "a", "value": 5.0, "low": 4.0, "high": 6.0, "verdict": "holds"},
        {**CLAIM, "claim": "b", "value": 0.1, "low": -0.9, "high": 1.1, "verdict": "undecided"},
        {**CLAIM, "claim": "c", "verdict": "undecided"},  # not measured
    ]
    artifacts.write(tmp_path / "claims.parquet", table("claims", *claims), "claims")
    tables = {
        "table1": {"entropy": 30.0, "low": 29.0, "high": 31.0, "reference": 25.0, "reference_low": 24.0,
                   "reference_high": 26.0, "prompts": 500, "truncated": 0.0, "mean_tokens": 20.0},
        "table2": {"did_entropy": 40.0, "low": 39.0, "high": 41.0, "beta_accuracy": 0.7, "prompts": 192,
                   "truncated": 0.0, "mean_tokens": 20.0},
        "table3": {"win_rate": 55.0, "win_rate_low": 50.0, "win_rate_high": 60.0, "elo": 1010.0, "score": 5.5,
                   "score_low": 5.2, "score_high": 5.8, "games": 200, "tasks": 64, "mean_tokens": 20.0,
                   "wildbench_tokens": 21.0},
    }  # fmt: skip
    for kind, row in tables.items():
        artifacts.write(tmp_path / f"tables/{kind}.parquet", table(kind, ROW | row), kind)
    return tmp_path


def test_recorded_results_are_as_recorded(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    monkeypatch.setattr(golden, "PAGE", tmp_path / "findings.md")
    golden.PAGE.write_text("before\n<!-- compared by a test -->\nold\n<!-- end of claims -->\nafter\n")
    assert golden.main("record", str(results)) == 0
    before, *table, end, after = golden.PAGE.read_text().splitlines()[:1] + golden.PAGE.read_text().splitlines()[2:]
    assert (before, end, after) == ("before", "<!-- end of claims -->", "after")
    assert [line.rpartition(" | ")[2] for line in table[2:5]] == ["d: holds |", "d: undecided |", "d: undecided |"]
    assert golden.main("check", str(results)) == 0
    assert "6 rows of claims and tables are as recorded" in capsys.readouterr().out
    changed = json.loads(golden.FILE.read_text())
    changed["table1"]["m/d/dpo-b0.1"]["entropy"][0] = 90.0
    golden.FILE.write_text(json.dumps(changed))
    assert golden.main("check", str(results)) == 1
    assert "table1, m/d/dpo-b0.1: entropy is [30.0, 1.0] and was [90.0, 1.0]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "row", "quantity", "value", "fine"),
    [
        ("claims", "a/m/d", "verdict", "undecided", True),
        ("claims", "a/m/d", "verdict", "as with permuted labels", True),
        ("claims", "a/m/d", "verdict", "does not hold", False),
        ("claims", "b/m/d", "verdict", "holds", True),
        ("claims", "a/m/d", "value", [6.9, 1.0], True),
        ("claims", "a/m/d", "value", [7.1, 1.0], False),
        ("claims", "a/m/d", "value", None, False),  # no longer measured
        ("claims", "c/m/d", "value", [1.0, 1.0], False),
        ("table1", "m/d/dpo-b0.1", "entropy", [30.5, 0.6], True),
        ("table1", "m/d/dpo-b0.1", "entropy", [30.0, 0.4], False),  # a narrowed interval
        ("table1", "m/d/dpo-b0.1", "entropy", [-30.0, 1.0], False),
        ("table1", "m/d/dpo-b0.1", "prompts", [499.0, 0.0], False),
        ("table1", "m/d/dpo-b0.1", "mean_tokens", [22.0, 0.0], True),
        ("table2", "m/d/dpo-b0.1", "beta_accuracy", [0.3, 0.0], False),
        ("table3", "m/d/dpo-b0.1", "win_rate", [45.0, 5.0], True),
        ("table3", "m/d/dpo-b0.1", "win_rate", [44.0, 5.0], False),
        ("table3", "m/d/dpo-b0.1", "elo", [1060.0, 0.0], False),
    ],
)
def test_what_may_drift(results, kind, row, quantity, value, fine):
    was = golden.found(results)
    now = copy.deepcopy(was)
    now[kind][row][quantity] = value
    assert (golden.faults(now, was) == []) == fine


def test_another_processor_may_drift_further_and_turn_no_verdict(results):
    was, now = golden.found(results), golden.found(results)
    now["claims"]["a/m/d"]["value"] = [15.0, 1.0]
    assert golden.faults(now, was) == ["claims, a/m/d: value is [15.0, 1.0] and was [5.0, 1.0]"]
    (results / "base/x").mkdir(parents=True)
    (results / "base/x/model.safetensors").write_bytes(b"other weights")
    now["processor"] = golden.found(results)["processor"]
    assert golden.faults(now, was) == []
    now["claims"]["a/m/d"]["verdict"] = "does not hold"
    assert golden.faults(now, was) == ["claims, a/m/d: verdict is does not hold and was holds"]


@pytest.mark.parametrize(("dataset", "fine"), [("magpie-g27", True), ("magpie-pro", False)])
def test_pairs_that_a_model_sampled_are_others_on_another_processor(results, dataset, fine):
    golden_now = golden.found(results)
    row = golden_now["claims"].pop("a/m/d")
    now, was = copy.deepcopy(golden_now), copy.deepcopy(golden_now)
    now["claims"][f"h3/m/{dataset}"] = row
    was["claims"][f"h3/m/{dataset}"] = row | {"verdict": "does not hold"}
    assert golden.faults(now, was)  # the same processor
    was["processor"] = "another"
    assert (golden.faults(now, was) == []) is fine
    now["claims"][f"h3/m/{dataset}"] = row | {"value": None}
    was["claims"][f"h3/m/{dataset}"] = row
    assert golden.faults(now, was) == []  # what was not measured there


def test_rows_neither_come_nor_go(results):
    was, now = golden.found(results), golden.found(results)
    now["table3"]["m/d/new"] = now["table3"].pop("m/d/dpo-b0.1")
    assert golden.faults(now, was) == ["table3: row m/d/dpo-b0.1 is gone", "table3: row m/d/new is new"]


def test_the_page_shows_the_recorded_verdicts():
    """Read off the page, without the code that writes it: claims and each model's cases are in the order of golden.json."""
    lines = golden.CLAIMS.search(golden.PAGE.read_text())[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    recorded = json.loads(golden.FILE.read_text())["claims"]
    for place, model in enumerate(head[2:], 2):
        shown = [case.split(": ")[1].strip("*") for row in rows for case in row[place].split("; ") if case]
        cases = [claim["verdict"] for name, claim in recorded.items() if name.split("/")[1] == model]
        assert shown == cases, "make it again: python tests/golden.py record"
    assert len(rows) == len({key.split("/")[0] for key in recorded})
    assert {key.split("/")[1] for key in recorded} == set(head[2:])
    assert golden.CLAIMS.search(golden.PAGE.read_text())[0] == golden.claims_table({"claims": recorded})
