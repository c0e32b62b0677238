"""Rows of QA's local copies: what lm-eval would mark wrongly without a word is read rightly, or a reason to stop."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffinfo.data.files import BadRow, kind


@dataclass(frozen=True)
class _Shape:
    """The columns that a stock task reads.

    Attributes:
        texts: columns that hold text.
        choices: columns of one choice each, or the one that lists them.
        gold: the column of the right choice, or answer.
        first: the number of the first choice there.
        digits: whether the public data have that number as text.
        names: what else may stand for a choice, in lower case: its index.
        count: of the choices, where they are listed.
    """

    texts: tuple[str, ...]
    choices: tuple[str, ...] = ()
    gold: str = "label"
    first: int = 0
    digits: bool = False
    names: Mapping[str, int] = field(default_factory=dict)
    count: int = 0


_SHAPES = {
    "piqa": _Shape(("goal",), ("sol1", "sol2")),
    "siqa": _Shape(
        ("context", "question"), ("answerA", "answerB", "answerC"), first=1, digits=True, names={"a": 0, "b": 1, "c": 2}
    ),
    "hellaswag": _Shape(("activity_label", "ctx_a", "ctx_b"), ("endings",), digits=True, count=4),
    "arc_easy": _Shape(("question",), gold="answerKey"),
    "arc_challenge": _Shape(("question",), gold="answerKey"),
    "mmlu": _Shape(("question",), ("choices",), "answer", names={"a": 0, "b": 1, "c": 2, "d": 3}, count=4),
    "gsm8k": _Shape(("question",), gold="answer"),
    "boolq": _Shape(("passage", "question"), names={"no": 0, "false": 0, "yes": 1, "true": 1}, count=2),
}


def read(benchmark: str, row: Any) -> dict[str, Any]:
    """A row with its right answer as the public data have it.

    Raises:
        BadRow: where a column is missing or holds something else, or the right answer is none of the choices.
    """
    if not isinstance(row, dict):
        raise BadRow(f"it is {kind(row)}, not a mapping")
    shape = _SHAPES[benchmark]
    for column in shape.texts:
        _text(row, column)
    if benchmark == "gsm8k":
        return row | {"answer": _number(row)}
    if benchmark.startswith("arc"):
        return row | {"answerKey": _key(row)}
    count = shape.count or len(shape.choices)
    for column in shape.choices:
        if not shape.count:
            _text(row, column, full=True)
        elif len(_list(row, column)) != count:
            raise BadRow(f"{column} has {len(row[column])} texts, not {count}")
    if benchmark == "hellaswag" and not all(re.sub(r"\[.*?\]", "", ending).strip() for ending in row["endings"]):
        raise BadRow("endings has an empty one")  # lm-eval removes what is in brackets
    number = shape.first + _index(row, shape, count)
    return row | {shape.gold: str(number) if shape.digits else number}


def _text(row: Mapping[str, Any], column: str, *, full: bool = False) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise BadRow(f"{column} is {kind(value)}, not text" if column in row else f"it has no column {column}")
    if full and not value:
        raise BadRow(f"{column} is empty")
    return value


def _list(row: Mapping[str, Any], column: str) -> list[str]:
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRow(f"{column} is not a list of texts" if column in row else f"it has no column {column}")
    return value


def _index(row: Mapping[str, Any], shape: _Shape, count: int) -> int:
    """Which choice is right, from 0."""
    if shape.gold not in row:
        raise BadRow(f"it has no column {shape.gold}")
    value = str(row[shape.gold]).strip().casefold()
    number = re.fullmatch(r"(\d+)(?:\.0)?", value)
    index = int(number[1]) - shape.first if number else shape.names.get(value, -1)
    if not 0 <= index < count:
        allowed = ", ".join(str(shape.first + choice) for choice in range(count))
        raise BadRow(f"{shape.gold} is {row[shape.gold]!r}, none of {allowed}")
    return index


def _key(row: Mapping[str, Any]) -> str:
    """ARC's right choice, by its label."""
    choices = row.get("choices")
    if not isinstance(choices, dict):
        raise BadRow("choices is not a mapping of text and label" if "choices" in row else "it has no column choices")
    parts = {f"choices.{part}": value for part, value in choices.items()}
    texts, labels = _list(parts, "choices.text"), _list(parts, "choices.label")
    if len(texts) != len(labels) or not all(texts):
        raise BadRow(f"choices has {len(texts)} texts for {len(labels)} labels, or an empty one")
    if "answerKey" not in row:
        raise BadRow("it has no column answerKey")
    if str(row["answerKey"]).strip() not in labels:
        raise BadRow(f"answerKey is {row['answerKey']!r}, none of {', '.join(labels)}")
    return str(row["answerKey"]).strip()


def _number(row: Mapping[str, Any]) -> str:
    """GSM8k's answer: what follows "#### " in it, or the whole, must be a number to match one."""
    if "answer" not in row:
        raise BadRow("it has no column answer")
    value = str(row["answer"]).strip()
    if not re.fullmatch(r"[-$]*[\d.,]*\d[\d.,]*", re.sub(r"(?s).*#### ", "", value)):
        raise BadRow(f"answer ends in {value[-40:]!r}, not in '#### ' and a number")
    return value
