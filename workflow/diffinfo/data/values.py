"""Texts and numbers that can be trained on, or the reason why a row is left out."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from diffinfo.data.files import BadRow, kind

# tab, line feed, vertical tab, form feed and carriage return do occur in good text
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def text(value: Any, what: str) -> str:
    """``value`` if it is text that can be trained on.

    Raises:
        BadRow: when it is missing, no text, empty, or holds broken or control characters.
    """
    if value is None:
        raise BadRow(f"{what} is missing or null")
    if not isinstance(value, str):
        raise BadRow(f"{what} is {kind(value)}, not text")
    if not value.strip():
        raise BadRow(f"{what} is empty")
    if _SURROGATE.search(value):
        raise BadRow(f"{what} is invalid UTF-8")
    if control := _CONTROL.search(value):
        raise BadRow(f"{what} holds the control character U+{ord(control[0]):04X}")
    return value


def score(value: Any, what: str) -> float:
    """``value`` if it is a finite number; CSV files and some sets have it as text.

    Raises:
        BadRow: when it is missing, no number, or not finite.
    """
    if value is None:
        raise BadRow(f"{what} is missing or null")
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise BadRow(f"{what} is {kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise BadRow(f"{what} is too large") from None
    except ValueError:
        raise BadRow(f"{what} is the text '{str(value)[:20]}', not a number") from None
    if not math.isfinite(number):
        raise BadRow(f"{what} is {number}")
    return number


def check_counts(responses: list[Any], rewards: list[Any]) -> None:
    """Refuse responses that cannot be ranked by ``rewards``.

    Raises:
        BadRow: when there are fewer than two, or not as many rewards.
    """
    if len(responses) != len(rewards):
        raise BadRow(f"{len(responses)} responses have {len(rewards)} rewards")
    if len(responses) < 2:
        raise BadRow("there are fewer than two responses")


def ranked(responses: list[Any], scores: list[float]) -> tuple[str, str, float, float]:
    """Best and worst response by score, and their scores; the first of several equals.

    Raises:
        BadRow: when these two tie or are no texts.
    """
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if scores[best] == scores[worst]:
        raise BadRow("the best and worst scores tie")
    return (
        text(responses[best], f"response {best + 1}"), text(responses[worst], f"response {worst + 1}"),
        scores[best], scores[worst],
    )  # fmt: skip
