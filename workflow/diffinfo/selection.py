"""Selection apart from reporting: what selects the best of several policies is never what reports it (cross-fitting)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pandas as pd


def halves(names: Iterable[str]) -> pd.Series:
    """The half, 0 or 1, that each question or prompt belongs to, by name.

    They alternate in the order of the names' digests: both halves have as many (to within one), the names alone decide, and
    what lies beside each other in a file (a topic) falls into both.
    """
    ordered = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    return pd.Series([place % 2 for place in range(len(ordered))], index=ordered, dtype=int)
