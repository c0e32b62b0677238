"""Two runs beside each other: what differs in their configurations, in what they measured, and in the verdicts.

``python -m diffinfo.report.compare results/runs/a results/runs/b [--out DIR]`` prints it as Markdown, and with --out writes
comparison.md, .html, .tex and .csv there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from diffinfo.cli import UserError, run
from diffinfo.intervals import Estimate, bracketed
from diffinfo.measures import NUMBERS
from diffinfo.report import paper
from diffinfo.report.cells import title
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

CELL = ["model", "dataset", "method", "epoch", "seed", "seeds"]
CLAIM = ["claim", "model", "dataset"]


def keys(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two configurations differ: key path, and both values; "" where there is none. Rows of a list are numbered."""
    if any(isinstance(item, dict) for part in (a, b) if isinstance(part, list) for item in part):
        a, b = (dict(enumerate(part or [])) for part in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from keys(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif a != b:
        yield path, "" if a is None else str(a), "" if b is None else str(b)


def numbers(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Differences B - A of the grid's numbers, where they are not the same.

    Returns:
        Columns of the cell, ``measure``, ``a``, ``b``, and ``difference`` with ``low`` and ``high``: its 95 % interval, as if
        both runs' errors were independent. Of runs on the same prompts it is too wide rather than too narrow.
    """
    both = a.merge(b, on=CELL, suffixes=("_a", "_b"))
    found = []
    for row in both.to_dict("records"):
        for name in NUMBERS:
            ends = [[row[f"{name}{end}_{side}"] for end in ("", "_low", "_high")] for side in "ab"]
            if ends[0] != ends[1] and not pd.isna(ends[0][0]) and not pd.isna(ends[1][0]):
                own, other = (Estimate("", value, low, high, 0) for value, low, high in ends)
                gap = other - own
                at = {key: row[key] for key in CELL} | {"measure": name, "a": own.value, "b": other.value}
                found.append(at | {"difference": gap.value, "low": gap.low, "high": gap.high})
    return pd.DataFrame(found, columns=[*CELL, "measure", "a", "b", "difference", "low", "high"])


def only(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``a`` of cells that ``b`` has not."""
    return a[CELL].merge(b[CELL], "left", CELL, indicator=True).query("_merge == 'left_only'")[CELL]


def comparison(a: Path, b: Path) -> tuple[Page, pd.DataFrame]:
    """What differs between two results folders, as a page, and the numbers of it.

    Raises:
        UserError: when one has no grid or claims table.
    """
    for file in (folder / name for folder in (a, b) for name in ("tables/grid.parquet", "claims.parquet")):
        if not file.is_file():
            raise UserError(f"{file} is not there: name the folder of a finished run, such as results.")
    grids = [artifacts.read(folder / "tables/grid.parquet", "grid") for folder in (a, b)]
    page = Page(f"{b} against {a}")
    page.head("Configuration")
    files = [folder / "config.yaml" for folder in (a, b)]
    unknown = [str(file) for file in files if not file.is_file()]
    configs = [] if unknown else [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    differ = [(key, *("none" if v == "" else v for v in values)) for key, *values in keys(*configs)] if configs else []
    if differ:
        page.table(pd.DataFrame(differ, columns=["key", "a", "b"]), lambda r: {"key": r.key, str(a): r.a, str(b): r.b})
    else:
        page.say(f"Not known: {' and '.join(unknown)} is missing." if unknown else "Nothing differs.")
    page.head("Cells of one run alone")
    alone = [(folder, only(*pair)) for folder, pair in ((a, grids), (b, grids[::-1]))]
    for folder, rows in alone:
        cells = rows.drop_duplicates(["model", "dataset", "method", "seed"])
        said = [f"{_name(row)}{'' if pd.isna(row.seed) else f', seed {row.seed:g}'}" for row in cells.itertuples()]
        page.say(f"{folder}: {'; '.join(said)}." if said else "")
    if not any(len(rows) for _, rows in alone):
        page.say("None.")
    page.head("Numbers")
    gaps = numbers(*grids)
    shared = len(grids[0].merge(grids[1], on=CELL))
    apart = gaps[(gaps.low > 0) | (gaps.high < 0)]
    page.say(
        f"{shared} rows (cells by epoch and seed) are in both runs; {len(gaps)} of their numbers differ, {len(apart)} by more",
        "than the 95 % interval of the difference, which takes the errors of both runs as independent.",
    )

    def line(row: Any) -> dict[str, str]:
        measure = NUMBERS[row.measure]
        words = {
            "cell": _name(row),
            "epoch": str(row.epoch),
            "measure": f"{measure.title} [{measure.unit.split(',')[0]}]",
        }
        words |= {"A": f"{row.a:.{measure.digits}f}", "B": f"{row.b:.{measure.digits}f}"}
        words["B − A"] = bracketed(row.difference, row.low, row.high, measure.digits)
        return words | {"beyond its interval": "yes" if row.low > 0 or row.high < 0 else ""}

    if len(gaps):
        page.table(gaps, line)
    page.head("Verdicts")
    changed = _verdicts(a, b)
    if len(changed):
        page.table(
            changed,
            lambda r: {"claim": r.claim, "row": f"{r.model} on {r.dataset}", "A": r.verdict_a, "B": r.verdict_b},
        )
    else:
        page.say("Nothing differs.")
    return page, gaps


def _name(row: Any) -> str:
    return f"{paper.model_title(row.model)} on {paper.dataset_title(row.dataset)}, {title(row.method)}"


def _verdicts(a: Path, b: Path) -> pd.DataFrame:
    """Claims on a model and dataset with another verdict, or judged in one run alone."""
    own = [artifacts.read(folder / "claims.parquet", "claims", [*CLAIM, "verdict"]) for folder in (a, b)]
    both = own[0].merge(own[1], "outer", CLAIM, suffixes=("_a", "_b")).fillna("not in this run")
    return both[both.verdict_a != both.verdict_b]


def main(a: Path, b: Path, out: Path | None = None) -> None:
    """Compare two runs.

    Args:
        a: the folder of one run's results.
        b: that of the other; differences are B - A.
        out: a folder for comparison.md, .html, .tex and .csv; none: it is only printed.
    """
    page, gaps = comparison(a, b)
    print(page.markdown(), end="")
    if out:
        page.write(out / "comparison", gaps)


if __name__ == "__main__":
    run(main, positional=True)
