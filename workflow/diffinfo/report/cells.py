"""Parts of an input path (results/<stage>/<model>/<dataset>/<method>/...), and how methods are named and ordered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from diffinfo.cli import UserError
from diffinfo.measures import RESULTS
from diffinfo.methods import PATTERN, REFERENCE, parse
from diffinfo.report import paper


@dataclass(frozen=True)
class Cell:
    """One cell of the grid as named by a path."""

    stage: str
    model: str
    dataset: str
    method: str
    epoch: int | None  # where the path names one (epoch-K)

    @property
    def key(self) -> tuple[str, str, str]:
        """Model, dataset, method."""
        return self.model, self.dataset, self.method


def cell(path: Path) -> Cell:
    """Read a path of the results folder.

    Raises:
        UserError: when no results/<stage>/<model>/<dataset>/<method> is in it.
    """
    parts, stages = path.with_suffix("").parts, list(dict.fromkeys(stage for stage, _ in RESULTS))
    for start in range(len(parts) - 4, -1, -1):
        stage, model, dataset, method = parts[start : start + 4]
        if stage in stages and re.fullmatch(f"{REFERENCE}|{PATTERN}", method):
            epochs = [int(found[1]) for part in parts[start + 4 :] if (found := re.fullmatch(r"epoch-(\d+)", part))]
            return Cell(stage, model, dataset, method, epochs[0] if epochs else None)
    raise UserError(
        f"{path} names no cell of the grid: expected .../<stage>/<model>/<dataset>/<method>/... "
        f"with a stage among {', '.join(stages)}."
    )


def grid_rows(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Distinct (model, dataset) pairs in the paper's order, others after them in the order given."""
    models, datasets = ([*paper.numbers()[kind]] for kind in ("models", "datasets"))

    def place(row: tuple[str, str]) -> tuple[int, int]:
        model = paper.counterpart(row[0])
        return (
            models.index(model) if model in models else len(models),
            datasets.index(row[1]) if row[1] in datasets else len(datasets),
        )

    return sorted(dict.fromkeys(pairs), key=place)


def rows_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """The (model, dataset) pairs of a table, in the paper's order."""
    return grid_rows(zip(frame.model, frame.dataset, strict=True))


def family(method: str) -> str:
    """The method without beta and seed."""
    return REFERENCE if method == REFERENCE else parse(method).method.name


def beta(method: str) -> float | None:
    """The beta in a method's name; None for methods without one."""
    return None if method == REFERENCE else parse(method).beta


def unseeded(method: str) -> tuple[str, int]:
    """The name without its seed, and the seed: 1 where the name has none, 0 for pi_ref."""
    if method == REFERENCE:
        return REFERENCE, 0
    policy = parse(method)
    return str(replace(policy, seed=None)), policy.seed or 1


def title(method: str) -> str:
    """A method as the paper writes it: "DPO β = 0.1"."""
    return "π_ref" if method == REFERENCE else parse(method).title()


def order(method: str) -> tuple[int, float, int]:
    """Sorting key: pi_ref, then the methods as declared, large betas first, then seeds."""
    return (-1, 0.0, 0) if method == REFERENCE else parse(method).order()


def in_order(frame: pd.DataFrame, *more: str) -> pd.DataFrame:
    """A table's rows in the paper's order of models and datasets, then of methods, then by ``more``; equals as they stood."""
    places = {row: place for place, row in enumerate(rows_of(frame))}
    keys = pd.DataFrame(
        {
            "row": [places[row] for row in zip(frame.model, frame.dataset, strict=True)],
            "method": [order(method) for method in frame.method],
            **{name: list(frame[name]) for name in more},
        }
    )
    return frame.iloc[keys.sort_values([*keys], kind="stable").index].reset_index(drop=True)
