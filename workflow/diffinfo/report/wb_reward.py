"""WB-Reward: every cell's answers to WildBench against those of each baseline, and their mean over baselines.

``python -m diffinfo.report.wb_reward --inputs '["results/wildbench/..."]' --out results/tables/wb_reward.parquet``
writes the table, and beside it the same as CSV, Markdown, LaTeX and HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.intervals import bracketed, mean, number
from diffinfo.report import paper
from diffinfo.report.cells import cell, in_order, title
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

_COUNTS = {1.0: "much_better", 0.5: "better", 0.0: "tie", -0.5: "worse", -1.0: "much_worse"}


def rewards(inputs: list[Path]) -> pd.DataFrame:
    """The ``wb_reward`` table of ``judgments`` tables of ``diffinfo.bench.wb_reward``, one a cell and baseline.

    Intervals are Student's over tasks. A task without a judgment is in no mean; in that of all baselines, one that lacks any.
    """
    cells: dict[tuple[str, str, str], list[tuple[str, pd.Series, float | None]]] = {}
    epochs = {}
    for path in inputs:
        table, key = artifacts.read(path, "judgments"), cell(path).key
        epoch, against = int(table["epoch"].iloc[0]), str(table["benchmark"].iloc[0]).partition("/")[2]
        groups = artifacts.provenance(path)["epochs"][str(epoch)]["by_group"]
        cells.setdefault(key, []).append((against, table.set_index("prompt_id")["score"], groups.get("overall")))
        epochs[key] = epoch
    records = []
    for key, found in cells.items():
        if len(found) > 1:
            weighted = [group for *_, group in found if group is not None]
            whole = sum(weighted) / len(found) if len(weighted) == len(found) else None
            together = pd.concat([scores for _, scores, _ in found], axis=1).mean(axis=1, skipna=False)
            found = [*found, ("all baselines", together, whole)]
        for place, (against, scores, group) in enumerate(found):
            reward = mean(100 * scores.dropna())
            counts = scores.map(_COUNTS).value_counts() if place < len(cells[key]) else None
            records.append(
                {
                    **dict(zip(("model", "dataset", "method"), key, strict=True)),
                    "baseline": against,
                    "epoch": epochs[key],
                    "tasks": reward.n,
                    "unjudged": int(scores.isna().sum()),
                    "reward": reward.value,
                    "low": reward.low,
                    "high": reward.high,
                    "weighted": group,
                    **{name: None if counts is None else int(counts.get(name, 0)) for name in _COUNTS.values()},
                }
            )
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["wb_reward"][1].names)
    return in_order(frame).astype({**dict.fromkeys(_COUNTS.values(), "Int64"), "weighted": float})


def main(*, inputs: list[Path], out: Path) -> None:
    """Write the table of rewards.

    Args:
        inputs: ``judgments`` tables, .../wildbench/MODEL/DATASET/METHOD/BASELINE/judgments.parquet.
        out: the table; CSV and pages are written beside it.
    """
    frame = rewards(inputs)
    page = Page("WB-Reward")
    margins = {artifacts.provenance(path)["length_margin"] for path in inputs} - {None}
    page.say(
        "Each answer to WildBench at the cell's best epoch in one game against the baseline's: 100 where it is much better, 50",
        "slightly better, 0 a tie or an empty answer, −50 and −100; in brackets the 95 % interval over tasks, lower and upper",
        "end minus the value. Weighted: the mean of task groups by WildBench's weights, without empty answers. Tasks without a",
        "judgment are counted, and are in no mean; all baselines: the mean over them of tasks that have all judgments.",
        f"A slight win by an answer that is more than {max(margins):,} characters longer is a tie." if margins else "",
    )
    for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
        page.head(f"{paper.model_title(str(model))} trained on {paper.dataset_title(str(dataset))}")
        page.table(part, _line)
    page.write(out.with_suffix(".md"), frame)
    artifacts.write(out, frame, "wb_reward", inputs={str(path): path for path in inputs})


def _line(row: Any) -> dict[str, str]:
    return {
        "method": title(row.method),
        "baseline": row.baseline,
        "epoch": str(row.epoch),
        "reward": bracketed(row.reward, row.low, row.high, 1),
        "weighted": number(row.weighted, 1),
        "tasks": f"{row.tasks:,}",
        "unjudged": f"{row.unjudged:,}",
        **{name.replace("_", " "): number(getattr(row, name), 0) for name in _COUNTS.values()},
    }


if __name__ == "__main__":
    run(main)
