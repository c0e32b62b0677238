"""What a run took, from Snakemake's benchmark files, and the page of all its results.

``python -m diffinfo.operations.spent --configuration '{...}' --benchmarks '{"grid": "results/benchmarks/report/grid.tsv"}'
--tables '["results/tables/grid.md", ...]' --figures '["results/figures/figure1.svg", ...]' --claims results/claims.parquet
--out results/report.html`` writes spent.parquet with its pages, and report.html.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.config.types import Config
from diffinfo.intervals import number
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.report import results
from diffinfo.report.page import Page
from diffinfo.tables import artifacts


def jobs(pattern: str) -> Iterator[tuple[dict[str, str], float]]:
    """Wildcards and seconds of each job whose benchmark file a rule's pattern matches.

    Args:
        pattern: a path with {wildcards}, each with its limits as Snakemake writes them: {epoch,\\d+}.
    """
    literal, *parts = re.split(r"\{(\w+)(?:,([^{}]*))?\}", pattern)
    expression = re.escape(literal)
    for name, limits, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        expression += f"(?P<{name}>{limits or '[^/]+'}){re.escape(text)}"
    files = [Path(literal)] if not parts else Path(literal.rpartition("/")[0]).rglob("*.tsv")
    for file in sorted(files):
        if (found := re.fullmatch(expression, str(file))) and file.is_file():
            with open(file, encoding="utf-8") as handle:
                yield found.groupdict(), float(next(csv.DictReader(handle, delimiter="\t"))["s"])


def spent(config: Config, benchmarks: dict[str, str]) -> pd.DataFrame:
    """Jobs, hours and dollars of each rule, model and hardware, the longest first; dollars at the assumed prices.

    Args:
        config: the configuration.
        benchmarks: where each rule's benchmark files are, with {wildcards}, see ``jobs``.
    """
    costs = Costs(config, read_assumptions())
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0, 0.0])
    for rule, pattern in benchmarks.items():
        for wildcards, seconds in jobs(pattern):
            cost, hours = costs.job(rule, wildcards), seconds / 3600
            price = costs.assumed.hardware[cost.hardware].dollars_per_hour * (cost.gpus or cost.nodes * cost.cpus)
            row = sums[rule, wildcards.get("model", cost.model), cost.hardware]
            for place, value in enumerate((1, hours, hours * cost.gpus, hours * price + cost.judge_dollars)):
                row[place] += value
    names = artifacts.SCHEMAS["spent"][1].names
    frame = pd.DataFrame([(*key, *row) for key, row in sums.items()], columns=names)
    return frame.astype({"jobs": int}).sort_values("hours", ascending=False)


def _page(frame: pd.DataFrame) -> Page:
    page = Page("What it cost")
    page.say(
        f"{frame.jobs.sum():,} jobs, {frame.hours.sum():,.2f} hours if one ran after the other,",
        f"{frame.gpu_hours.sum():,.1f} hours of GPUs; {frame.dollars.sum():,.2f} dollars at the prices that",
        "operations/assumptions.yaml assumes, judges' calls as planned. Measured by Snakemake: a job that was stopped counts",
        "its last attempt alone, one whose results were copied nothing.",
    )

    def line(row: Any) -> dict[str, str]:
        words = {"rule": row.rule, "model": row.model, "on": row.hardware, "jobs": str(row.jobs)}
        words |= {"minutes": number(60 * row.hours, 1), "GPU hours": number(row.gpu_hours, 1)}
        return words | {"dollars": number(row.dollars, 3)}

    page.table(frame, line)
    return page


def main(
    *,
    configuration: dict[str, Any],
    benchmarks: dict[str, str],
    tables: list[Path],
    figures: list[Path],
    claims: Path,
    out: Path,
) -> None:
    """Write the table of what a run took, and the page of its results.

    Args:
        configuration: the checked configuration; it is written beside the page, as config.yaml.
        benchmarks: where each rule's benchmark files are, with {wildcards}, see ``jobs``.
        tables: the pages of tables in Markdown; the paper's are named table<number>.
        figures: the drawings as SVG, likewise; the note beside one, or the table of its name, has its title.
        claims: the claims table.
        out: report.html; spent.parquet and its pages are written beside it.
    """
    frame, table = spent(Config.model_validate(configuration), benchmarks), out.with_name("spent.parquet")
    _page(frame).write(table, frame)
    results.write(configuration, tables, figures, claims, frame, out)
    artifacts.write(table, frame, "spent")


if __name__ == "__main__":
    run(main)
