"""The grid table: one row a cell, epoch and seed, with every number measured there.

``python -m diffinfo.report.grid --inputs '["results/train/...", ...]' --out results/tables/grid.parquet``
writes the table, and beside it the same as CSV, a Markdown page to read and an HTML page for the report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.intervals import Estimate, bracketed, over_seeds
from diffinfo.measures import NUMBERS, RESULTS
from diffinfo.methods import REFERENCE
from diffinfo.report import paper
from diffinfo.report.cells import beta, cell, grid_rows, order, title, unseeded
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

Found = dict[str, Estimate]  # by column


def measured(inputs: list[Path], origins: dict[str, str]) -> dict[tuple[str, str, str], dict[int, Found]]:
    """What was measured of each model, dataset and policy, by epoch.

    Args:
        inputs: tables of the paths that ``diffinfo.measures`` declares; those of pi_ref are its own rows, at epoch 0.
        origins: the datasets whose pi_ref others have.

    Raises:
        UserError: when a path names no cell or a table is not what it should be.
    """
    frames: dict[tuple[str, str], dict[tuple[str, str, str], list[pd.DataFrame]]]
    frames = defaultdict(lambda: defaultdict(list))
    for path in inputs:
        c = cell(path)
        kinds, own = [kind for stage, kind in RESULTS if stage == c.stage], artifacts.provenance(path).get("kind")
        kind = str(own) if own in kinds else kinds[0]  # reading says what is wrong with another
        frame = artifacts.read(path, kind)
        named = {"beta": beta(c.method)} | ({} if "epoch" in frame else {"epoch": c.epoch})
        frames[c.stage, kind][c.key].append(frame.assign(**named))
    found: dict[tuple[str, str, str], dict[int, Found]] = defaultdict(lambda: defaultdict(dict))
    for result, tables in sorted(frames.items(), key=lambda found: list(RESULTS).index(found[0])):  # as declared
        for key, parts in tables.items():
            reference = tables.get((key[0], origins.get(key[1], key[1]), REFERENCE)) if key[2] != REFERENCE else None
            for epoch, rows in pd.concat(parts).groupby("epoch"):
                numbers = RESULTS[result].read(rows, pd.concat(reference) if reference else None)
                found[key][int(str(epoch))] |= {name: e for name, e in numbers.items() if not math.isnan(e.value)}
    return found


def table(inputs: list[Path], origins: dict[str, str] | None = None) -> pd.DataFrame:
    """The grid table of what was measured; of several seeds, also their mean, for numbers that every one of them has.

    The mean's row has no ``seed``, and in ``<column>_sd`` the standard deviation between seeds.
    """
    found = measured(inputs, origins or {})
    seeds: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for model, dataset, name in found:
        method, seed = unseeded(name)
        seeds[model, dataset, method][seed] = name
    records = []
    for model, dataset in grid_rows((m, d) for m, d, _ in found):
        for method in sorted((name for m, d, name in seeds if (m, d) == (model, dataset)), key=order):
            runs = {seed: found[model, dataset, name] for seed, name in sorted(seeds[model, dataset, method].items())}
            for epoch in sorted({epoch for policy in runs.values() for epoch in policy}):
                at = {"model": model, "dataset": dataset, "method": method, "epoch": epoch}
                own = {seed: policy.get(epoch, {}) for seed, policy in runs.items()}
                records += [at | {"seed": seed or None, "seeds": 1} | _columns(e) for seed, e in own.items() if e]
                if len(own) > 1:
                    each = {name: [e[name] for e in own.values() if name in e] for name in NUMBERS}
                    every = {name: values for name, values in each.items() if len(values) == len(own)}
                    spread = {f"{name}_sd": pd.Series([e.value for e in v]).std() for name, v in every.items()}
                    mean = _columns({name: over_seeds(values) for name, values in every.items()})
                    records.append(at | {"seed": None, "seeds": len(own)} | mean | spread)
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["grid"][1].names)
    return frame.astype({name: "Int64" for name in frame if name == "seed" or name.endswith("_n")})


def _columns(found: Found) -> dict[str, Any]:
    return {
        f"{name}{suffix}": value
        for name, e in found.items()
        for suffix, value in {"": e.value, "_low": e.low, "_high": e.high, "_n": e.n}.items()
    }


def main(*, inputs: list[Path], out: Path, origins: dict[str, str] | None = None) -> None:
    """Write the grid table.

    Args:
        inputs: every table that the grid asks for.
        out: the table; CSV and pages are written beside it.
        origins: the dataset that a derived one is made from, by the latter's name: it has that one's pi_ref.
    """
    frame = table(inputs, origins)
    page = Page("The grid: every number of every cell")
    page.say(
        "One row an epoch; in brackets the 95 % interval as lower and upper end minus the value.",
        "A training's numbers are means over the epoch's batches; a loss is its method's own and compares with no other's.",
        "Held out (ours): over pairs that are never trained on.",
        "Elo and mean reciprocal ranks depend on who else is compared: see Table 3, Figures 3 and 12.",
    )
    if (frame.seeds > 1).any():
        page.say(
            "Rows of several seeds are their mean: its interval covers the seeds and what each was measured on,",
            "sd is the standard deviation between seeds, and a number is there where every seed has it.",
        )
    for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
        page.head(f"{paper.model_title(str(model))} trained on {paper.dataset_title(str(dataset))}")
        page.table(part, _line([name for name in NUMBERS if part[name].notna().any()], (frame.seeds > 1).any()))
    page.head("Columns")
    page.say(
        "In grid.parquet and grid.csv each has its interval in <column>_low and <column>_high, its n in <column>_n."
    )
    numbers = pd.DataFrame([{"column": name, **vars(number)} for name, number in NUMBERS.items()])
    page.table(numbers, lambda n: {"here": n.title, "column": n.column, "unit": n.unit, "n, and interval over": n.over})
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))
    with artifacts.atomic(out.with_suffix(".csv")) as temporary:
        frame.to_csv(temporary, index=False)
    artifacts.write(out, frame, "grid", inputs={str(path): path for path in inputs})


def _line(names: list[str], several: bool) -> Any:
    """Words for the rows of a section: its numbers, and seeds where there are several anywhere."""

    def line(row: Any) -> dict[str, str]:
        words = {"method": title(row.method), "epoch": str(row.epoch) if row.epoch else ""}
        if several:
            words["seed"] = f"all {row.seeds}" if row.seeds > 1 else "" if pd.isna(row.seed) else str(row.seed)
        for name in names:
            digits, sd = NUMBERS[name].digits, getattr(row, f"{name}_sd")
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            spread = "" if pd.isna(sd) else f", sd {sd:.{digits}f}"
            words[NUMBERS[name].title] = bracketed(value, low, high, digits, "") + spread
        return words

    return line


if __name__ == "__main__":
    run(main)
