"""What judging cost: tokens and dollars of every cell, judge and benchmark.

``python -m diffinfo.report.costs --inputs '["results/wildbench/..."]' --out results/tables/costs.parquet``
writes the table, and beside it the same as CSV, Markdown, LaTeX and HTML.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from diffinfo.bench.replies import COSTS
from diffinfo.cli import run
from diffinfo.intervals import number
from diffinfo.report import paper
from diffinfo.report.cells import cell, in_order, title
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

_GAME = ["judge", "benchmark", "epoch", "prompt_id", "game"]


def costs(inputs: list[Path]) -> pd.DataFrame:
    """The ``costs`` table of ``judgments`` tables; a game that stands in several tables of a cell was paid once."""
    parts: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for path in inputs:
        parts.setdefault(cell(path).key, []).append(artifacts.read(path, "judgments"))
    records = []
    for (model, dataset, method), tables in parts.items():
        games = pd.concat(tables).sort_values(["dollars", "read"]).drop_duplicates(_GAME)
        for (judge, benchmark), rows in games.groupby(["judge", "benchmark"]):
            records.append(
                {
                    "model": model,
                    "dataset": dataset,
                    "method": method,
                    "judge": judge,
                    "benchmark": benchmark,
                    "judgments": len(rows),
                    "unjudged": int(rows["unjudged"].notna().sum()),
                    **{name: rows[name].sum(min_count=1) for name in COSTS},
                }
            )
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["costs"][1].names)
    return in_order(frame, "benchmark", "judge").astype(dict.fromkeys(COSTS[:3], "Int64"))


def main(*, inputs: list[Path], out: Path) -> None:
    """Write the table of costs.

    Args:
        inputs: every ``judgments`` table.
        out: the table; CSV and pages are written beside it.
    """
    frame = costs(inputs)
    page = Page("What judging cost")
    page.say(
        f"In all {number(frame.dollars.sum(min_count=1), 2)} dollars, {frame.read.sum():,} tokens read",
        f"({frame.cached.sum():,} of them cached) and {frame.written.sum():,} written. Empty: the judge does not say, or is",
        "not paid. What a job paid before, or another for the same answers, counts in each.",
    )
    for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
        page.head(f"{paper.model_title(str(model))} trained on {paper.dataset_title(str(dataset))}")
        page.table(
            part,
            lambda row: {
                "method": title(row.method),
                "benchmark": row.benchmark,
                "judge": row.judge,
                "judgments": f"{row.judgments:,}",
                "unjudged": f"{row.unjudged:,}",
                **{name: "" if pd.isna(getattr(row, name)) else f"{getattr(row, name):,}" for name in COSTS[:3]},
                "dollars": number(row.dollars, 4),
            },
        )
    page.write(out.with_suffix(".md"), frame)
    artifacts.write(out, frame, "costs", inputs={str(path): path for path in inputs})


if __name__ == "__main__":
    run(main)
