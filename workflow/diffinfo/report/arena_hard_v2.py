"""Arena-Hard v2: every cell's win rate in each category of the questions.

``python -m diffinfo.report.arena_hard_v2 --inputs '["results/arena_hard/..."]' --out results/tables/arena_hard_v2.parquet``
writes the table, and beside it the same as CSV, Markdown, LaTeX and HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.intervals import bracketed, number
from diffinfo.report import paper
from diffinfo.report.cells import cell, in_order, title
from diffinfo.report.page import Page
from diffinfo.tables import artifacts


def main(*, inputs: list[Path], out: Path) -> None:
    """Write the table of win rates by category.

    Args:
        inputs: ``categories`` tables, .../arena_hard/MODEL/DATASET/METHOD/final/categories.parquet.
        out: the table; CSV and pages are written beside it.
    """
    found = []
    for path in inputs:
        model, dataset, method = cell(path).key
        found.append(artifacts.read(path, "categories").assign(model=model, dataset=dataset, method=method))
    frame = in_order(pd.concat(found))[artifacts.SCHEMAS["arena_hard_v2"][1].names]
    page = Page("Arena-Hard v2 by category")
    page.say(
        "Win rate against the category's baseline at the cell's best epoch, in per cent; in brackets the 95 % interval of the",
        "bootstrap over battles, lower and upper end minus the value. At equal lengths (ours): the same where answer and",
        "baseline have as many tokens. A game without a verdict is in no win rate.",
    )
    for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
        page.head(f"{paper.model_title(str(model))} trained on {paper.dataset_title(str(dataset))}")
        page.table(part, _line)
    page.write(out.with_suffix(".md"), frame)
    artifacts.write(out, frame, "arena_hard_v2", inputs={str(path): path for path in inputs})


def _line(row: Any) -> dict[str, str]:
    return {
        "method": title(row.method),
        "category": row.category,
        "epoch": str(row.epoch),
        "win rate": bracketed(row.win_rate, row.low, row.high, 1),
        "at equal lengths": bracketed(row.controlled, row.controlled_low, row.controlled_high, 1),
        "games": f"{row.games:,}",
        "without a verdict": f"{row.unscored:,}",
        "tokens": number(row.mean_tokens, 0),
        "tokens of the baseline": number(row.baseline_mean_tokens, 0),
    }


if __name__ == "__main__":
    run(main)
