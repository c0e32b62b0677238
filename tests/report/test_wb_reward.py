"""The table of WB-Reward, beside means and intervals by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from diffinfo.report import wb_reward
from diffinfo.tables import artifacts
from pages import lines


def judgments(path: Path, scores: dict[str, float | None], overall: float | None, margin: int | None = None) -> Path:
    facts = {"benchmark": f"wildbench/{path.parent.name}", "epoch": 3, "game": 1, "judge": "j", "apart": True}
    facts |= {"tokens": 1, "chars": 1, "truncated": False, "reply": "r"}
    facts |= {"verdict": None, "unjudged": None, "read": None, "cached": None, "written": None, "dollars": None}
    rows = pd.DataFrame({"prompt_id": scores.keys(), "score": scores.values()}).assign(**facts)
    found = {} if overall is None else {"overall": overall}
    artifacts.write(path, rows, "judgments", epochs={"3": {"by_group": found}}, length_margin=margin)
    return path


def test_rewards_of_each_baseline_and_their_mean(tmp_path: Path) -> None:
    """A task that one judge gave nothing on is in no mean over baselines, and is counted."""
    run = tmp_path / "results/wildbench/mistral/magpie-pro/dpo-b0.1"
    inputs = [
        judgments(run / "strong/judgments.parquet", {"a": -1.0, "b": 0.5, "c": 0.0, "d": None}, -20.0, 500),
        judgments(run / "weak/judgments.parquet", {"d": 1.0, "c": 1.0, "b": 0.5, "a": -0.5}, 40.0, 500),
        judgments(
            tmp_path / "results/wildbench/mistral/magpie-pro/dpo-pg/weak/judgments.parquet", {"a": 0.5, "b": 0.5}, None
        ),
    ]
    out = tmp_path / "results/tables/wb_reward.parquet"
    wb_reward.main(inputs=inputs, out=out)
    table = artifacts.read(out, "wb_reward")
    names = ["strong", "weak", "all baselines"]
    assert [*zip(table.method, table.baseline, strict=True)] == [*(("dpo-b0.1", n) for n in names), ("dpo-pg", "weak")]
    found = table.set_index(["method", "baseline"])
    dpo = found.loc["dpo-b0.1"]
    assert dpo.reward.to_dict() == pytest.approx({"strong": -50 / 3, "weak": 50, "all baselines": (-75 + 50 + 50) / 3})
    assert dpo.tasks.to_dict() == {"strong": 3, "weak": 4, "all baselines": 3}
    assert dpo.unjudged.to_dict() == {"strong": 1, "weak": 0, "all baselines": 1}
    assert dpo.weighted.to_dict() == {"strong": -20, "weak": 40, "all baselines": 10}
    values = (-75, 50, 50)  # of tasks a, b, c over both baselines; Student's quantile for three values
    average = sum(values) / 3
    half = 4.302653 * math.sqrt(sum((v - average) ** 2 for v in values) / 2 / 3)
    assert (dpo.low[names[2]], dpo.high[names[2]]) == pytest.approx((average - half, average + half), rel=1e-6)
    counts = ["much_better", "better", "tie", "worse", "much_worse"]
    assert dpo.loc["strong", counts].tolist() == [0, 1, 1, 0, 1]
    assert dpo.loc["weak", counts].tolist() == [2, 1, 0, 1, 0]
    assert dpo.loc["all baselines", counts].isna().all()
    assert found.reward["dpo-pg", "weak"] == 50
    assert math.isnan(found.weighted["dpo-pg", "weak"])
    page = out.with_suffix(".md")
    assert "more than 500 characters longer is a tie" in page.read_text()
    line = lines(page, "method")[0]
    assert (line["baseline"], line["reward"].split()[0], line["weighted"], line["worse"]) == (
        "strong",
        "-16.7",
        "-20.0",
        "0",
    )
