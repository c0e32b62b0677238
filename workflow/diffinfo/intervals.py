"""Numbers with their uncertainty: 95 % intervals of means and differences, and how they are printed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    freedom: float = math.inf  # degrees of freedom of the interval: Student's where they are finite, else normal

    @property
    def stderr(self) -> float:
        """Standard error, from the interval's width."""
        return self.half / Z95

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def above(self, constant: float) -> Estimate:
        """Distance to an exactly known number."""
        return replace(self, value=self.value - constant, low=self.low - constant, high=self.high - constant)

    def p(self, tests: int = 1) -> float:
        """Two-sided p of the value being 0: the level at which the half of the interval towards 0 would touch it.

        Args:
            tests: how many the interval is corrected for (Bonferroni); so is p. 1 where there is no interval.
        """
        from scipy.special import stdtr  # only here: a table of entropies needs no scipy

        value = (
            self.value if self.low <= self.value <= self.high else (self.low + self.high) / 2
        )  # percentiles may miss it
        half = value - self.low if value > 0 else self.high - value
        if not math.isfinite(half) or value == 0:
            return 1.0
        if half == 0:
            return 0.0
        return min(1.0, tests * 2 * float(stdtr(self.freedom, -abs(value) * student(self.freedom + 1, tests) / half)))

    def __sub__(self, other: Estimate) -> Estimate:
        """Difference of two estimates with independent errors."""
        value, half = self.value - other.value, Z95 * math.hypot(self.stderr, other.stderr)
        return Estimate(self.label, value, value - half, value + half, min(self.n, other.n))


def student(n: Any, tests: int = 1) -> Any:
    """Half of the 95 % interval of a mean of ``n`` normal values (a number or an array), in standard errors.

    With several ``tests`` it is at 1 - 5 % / tests (Bonferroni).
    """
    from scipy.special import stdtrit  # only here: a table of entropies needs no scipy

    return stdtrit(n - 1, 1 - 0.025 / tests)


def mean(values: pd.Series | np.ndarray, label: str = "") -> Estimate:
    """The mean of independent values, with Student's interval; of one value it is infinite, of none all is NaN."""
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        return Estimate(label, math.nan, math.nan, math.nan, 0)
    if len(sample) < 2:
        return Estimate(label, float(sample.mean()), -math.inf, math.inf, len(sample))
    half = float(student(len(sample)) * sample.std(ddof=1) / math.sqrt(len(sample)))
    centre = float(sample.mean())
    return Estimate(label, centre, centre - half, centre + half, len(sample), len(sample) - 1)


def over_seeds(estimates: list[Estimate]) -> Estimate:
    """The mean over seeds, with an interval over both seeds and what each seed was measured on; one seed as it is.

    The halves add in quadrature, each side by itself: Student's of the seeds' mean (S - 1 degrees of freedom), and the root
    mean square of the seeds' own. The latter is not divided by S: all seeds are measured on the same prompts. Where their
    errors are independent after all, the seeds' scatter holds them too, and the interval is too wide rather than too narrow.
    Its degrees of freedom are Satterthwaite's of both parts.
    """
    if len(estimates) == 1:
        return estimates[0]
    found = mean(np.array([e.value for e in estimates]))
    own = min(e.freedom for e in estimates)
    between = (found.half / float(student(found.n))) ** 2
    within = float(np.mean([e.half**2 for e in estimates])) / float(student(own + 1)) ** 2
    scatter = between**2 / found.freedom + within**2 / own
    freedom = float((between + within) ** 2 / scatter) if scatter > 0 else found.freedom
    low, high = (
        math.hypot(found.high - found.value, float(np.sqrt(np.mean(np.square(halves)))))
        for halves in ([e.value - e.low for e in estimates], [e.high - e.value for e in estimates])
    )
    return Estimate("", found.value, found.value - low, found.value + high, min(e.n for e in estimates), freedom)


def at_zero(y: pd.Series, x: pd.Series, label: str = "") -> Estimate:
    """What y is where x is 0: the intercept of the least-squares line, with Student's interval (n - 2 degrees of freedom).

    Where x does not vary there is no line: the mean of y if x is 0 throughout, else NaN.
    """
    n, centred = len(y), x - x.mean()
    square = float((centred**2).sum())
    if not square > 0:
        return mean(y, label) if n and (x == 0).all() else Estimate(label, math.nan, math.nan, math.nan, n)
    slope = float((centred * y).sum()) / square
    value = float(y.mean() - slope * x.mean())
    if n < 3:
        return Estimate(label, value, -math.inf, math.inf, n)
    variance = float(((y - value - slope * x) ** 2).sum()) / (n - 2)
    half = float(student(n - 1)) * math.sqrt(variance * (1 / n + float(x.mean()) ** 2 / square))
    return Estimate(label, value, value - half, value + half, n)


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
