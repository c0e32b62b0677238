"""What a check is: a measure that a statement bounds, and a way to break the statement's condition on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Generator

from diffinfo.cli import progress


@dataclass(frozen=True)
class Check:
    """One row: ``measure(generator, broken)`` is at most ``tolerance`` where the statement holds."""

    statement: str
    quantity: str
    measure: Callable[[Generator, bool], float]
    tolerance: float
    broken: str | None  # how the condition is broken on purpose; None for rows "as printed"


def experiment(seed: int, checks: list[Check]) -> pd.DataFrame:
    """The rows of theorems.parquet: the measure as the statement has it, and with its condition broken on purpose."""
    rows = []
    for index, check in enumerate(progress(checks, "theorems")):
        value, broken = (
            check.measure(torch.Generator().manual_seed(1000 * seed + index), flag) for flag in (False, True)
        )
        rows.append(
            {
                "statement": check.statement,
                "quantity": check.quantity,
                "value": value,
                "tolerance": check.tolerance,
                "holds": value <= check.tolerance,
                "broken": check.broken,
                "broken_value": None if check.broken is None else broken,
            }
        )
    return pd.DataFrame(rows)
