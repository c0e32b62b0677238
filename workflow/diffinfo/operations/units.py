"""Numbers and jobs as people name them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import suppress


def duration(hours: float) -> str:
    """Hours in the unit that suits them: 0.4 s, 34 s, 12 min, 3.5 h, 6 days."""
    if hours < 1 / 360:
        return f"{3600 * hours:.1f} s"
    if hours < 1 / 40:
        return f"{3600 * hours:.0f} s"
    if hours < 1.5:
        return f"{60 * hours:.0f} min"
    return f"{hours:,.1f} h" if hours < 10 else f"{hours:,.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def count(value: float) -> str:
    """A number in plain digits, with no more of them than an estimate has: 13,700, 850, 3.7."""
    if 0 < value < 0.01:
        return "<0.01"
    if value >= 1000:
        digits = 10 ** (len(str(int(value))) - 3)
        return f"{round(value / digits) * digits:,}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def name(rule: str, wildcards: Mapping[str, object]) -> str:
    """A job by its rule and the values of its wildcards."""
    return " ".join([rule, *map(str, dict(wildcards.items()).values())])


def measured(benchmark: str | None) -> float | None:
    """Seconds that a job took, from Snakemake's benchmark file; None where there is none."""
    with suppress(OSError, StopIteration, KeyError, ValueError), open(benchmark or "", encoding="utf-8") as handle:
        return float(next(csv.DictReader(handle, delimiter="\t"))["s"])
    return None
