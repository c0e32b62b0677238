"""What judging cost, beside sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffinfo.report import costs
from diffinfo.tables import artifacts
from pages import lines


def judgments(path: Path, judge: str, rows: list[tuple[Any, ...]]) -> Path:
    """Rows of epoch, question, tokens read, cached and written, dollars, and why there is no verdict."""
    names = ["epoch", "prompt_id", "read", "cached", "written", "dollars", "unjudged"]
    facts = {"benchmark": "arena-hard", "game": 1, "judge": judge, "apart": False, "verdict": None, "score": None}
    facts |= {"tokens": 1, "chars": 1, "truncated": False, "reply": ""}
    artifacts.write(path, pd.DataFrame(rows, columns=names).assign(**facts), "judgments")
    return path


def test_costs_of_each_cell_and_judge(tmp_path: Path) -> None:
    """A game in several tables of a cell is paid once; what the endpoint did not say is no zero."""
    run = tmp_path / "results/arena_hard/mistral/magpie-pro/dpo-b0.1"
    games = [
        (1, "q0", 100, 40, 10, 0.5, None),
        (2, "q0", 200, None, 20, 0.25, None),
        (2, "q1", 300, 0, 30, 1.0, "no label"),
    ]
    other = tmp_path / "results/wildbench/mistral/magpie-pro/dpo-b0.1/judgments.parquet"
    inputs = [
        judgments(run / "1-5/judgments.parquet", "nano", games),
        judgments(run / "final/judgments.parquet", "full", [(2, "q0", 7, 0, 1, None, None)]),
        judgments(
            run / "final/apart.parquet", "full", [(2, "q0", 7, 0, 1, None, None), (1, "q1", 5, 0, 2, None, None)]
        ),
        judgments(other, "local", [(2, "w0", None, None, None, None, None)]),
    ]
    out = tmp_path / "results/tables/costs.parquet"
    costs.main(inputs=inputs, out=out)
    found = artifacts.read(out, "costs").set_index("judge")
    columns = ["judgments", "unjudged", "read", "cached", "written", "dollars"]
    assert found.loc["nano", columns].tolist() == [3, 1, 600, 40, 60, pytest.approx(1.75)]
    assert found.loc["full", columns[:5]].tolist() == [2, 0, 12, 0, 3]
    assert found.loc["full":"full", "dollars"].isna().all()
    assert found.loc["local":"local", columns[2:]].isna().all(axis=None)
    assert pd.read_csv(out.with_suffix(".csv"))["read"].sum() == 612
    page = lines(out.with_suffix(".md"), "method")
    assert [line["dollars"] for line in page if line["judge"] == "nano"] == ["1.7500"]
    assert (
        "In all 1.75 dollars, 612 tokens read (40 of them cached) and 63 written." in out.with_suffix(".md").read_text()
    )
