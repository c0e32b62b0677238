"""Numbers with their uncertainty: 95 % intervals of means and differences, and how they are printed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Z95 = 1.959964  # two-sided 95 % of a normal variable


@dataclass(frozen=True)
class Estimate:
    """A measured number, its 95 % interval, and how many independent values it rests on."""

    label: str
    value: float
    low: float
    high: float
    n: int

    @property
    def stderr(self) -> float:
        """Standard error, from the interval's width."""
        return (self.high - self.low) / (2 * Z95)

    def above(self, constant: float) -> Estimate:
        """Distance to an exactly known number."""
        return Estimate(self.label, self.value - constant, self.low - constant, self.high - constant, self.n)

    def __sub__(self, other: Estimate) -> Estimate:
        """Difference of two estimates with independent errors."""
        value, half = self.value - other.value, Z95 * math.hypot(self.stderr, other.stderr)
        return Estimate(self.label, value, value - half, value + half, min(self.n, other.n))


def student(n: Any) -> Any:
    """Half of the 95 % interval of a mean of ``n`` normal values (a number or an array), in standard errors."""
    from scipy.special import stdtrit  # only here: a table of entropies needs no scipy

    return stdtrit(n - 1, 0.975)


def mean(values: pd.Series | np.ndarray, label: str = "") -> Estimate:
    """The mean of independent values, with Student's interval; of one value it is infinite, of none all is NaN."""
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        return Estimate(label, math.nan, math.nan, math.nan, 0)
    if len(sample) < 2:
        return Estimate(label, float(sample.mean()), -math.inf, math.inf, len(sample))
    half = float(student(len(sample)) * sample.std(ddof=1) / math.sqrt(len(sample)))
    centre = float(sample.mean())
    return Estimate(label, centre, centre - half, centre + half, len(sample))


def average(estimates: list[Estimate], label: str) -> Estimate:
    """The plain mean of estimates with independent errors."""
    value = float(np.mean([e.value for e in estimates]))
    half = Z95 * math.sqrt(sum(e.stderr**2 for e in estimates)) / len(estimates)
    return Estimate(label, value, value - half, value + half, min(e.n for e in estimates))


def over_seeds(estimates: list[Estimate]) -> Estimate:
    """The mean over seeds, with an interval over both seeds and what each seed was measured on; one seed as it is.

    The halves add in quadrature, each side by itself: Student's of the seeds' mean (S - 1 degrees of freedom), and the root
    mean square of the seeds' own. The latter is not divided by S: all seeds are measured on the same prompts. Where their
    errors are independent after all, the seeds' scatter holds them too, and the interval is too wide rather than too narrow.
    """
    if len(estimates) == 1:
        return estimates[0]
    found = mean(np.array([e.value for e in estimates]))
    low, high = (
        math.hypot(found.high - found.value, float(np.sqrt(np.mean(np.square(halves)))))
        for halves in ([e.value - e.low for e in estimates], [e.high - e.value for e in estimates])
    )
    return Estimate("", found.value, found.value - low, found.value + high, min(e.n for e in estimates))


def share(label: str, successes: float, n: int) -> Estimate:
    """A share with Wilson's interval."""
    p, z2 = successes / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Estimate(label, p, centre - half, centre + half, n)


def correlation(xy: pd.Series, xx: pd.Series, yy: pd.Series) -> Estimate:
    """The correlation of what is pooled from independent groups, by the delta method; NaN where nothing varies.

    Args:
        xy: each group's sum of products of x and y about the group's means.
        xx: the same of x and x.
        yy: the same of y and y.
    """
    n, scale = len(xy), math.sqrt(xx.sum() * yy.sum())
    if not scale > 0:
        return Estimate("", math.nan, math.nan, math.nan, n)
    r = float(xy.sum() / scale)
    influence = xy / scale - r / 2 * (xx / xx.sum() + yy / yy.sum())
    half = float(student(n) * math.sqrt(n / (n - 1) * np.square(influence).sum())) if n > 1 else math.inf
    return Estimate("", r, r - half, r + half, n)


def slope(xy: pd.Series, xx: pd.Series) -> Estimate:
    """The slope of y on x pooled from independent groups, by the delta method; NaN where x does not vary.

    Args:
        xy: each group's sum of products of x and y about the group's means.
        xx: the same of x and x.
    """
    n, total = len(xy), xx.sum()
    if not total > 0:
        return Estimate("", math.nan, math.nan, math.nan, n)
    value = float(xy.sum() / total)
    influence = (xy - value * xx) / total
    half = float(student(n) * math.sqrt(n / (n - 1) * np.square(influence).sum())) if n > 1 else math.inf
    return Estimate("", value, value - half, value + half, n)


def number(value: Any, digits: int) -> str:
    """A number for print; "" where there is none."""
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def bracketed(value: Any, low: Any, high: Any, digits: int, absent: str = "not measured") -> str:
    """The paper's style: value (lower end minus value, upper end minus value)."""
    if value is None or pd.isna(value):
        return absent
    if pd.isna(low) or pd.isna(high):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low - value:+.{digits}f}, {high - value:+.{digits}f})"
