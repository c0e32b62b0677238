"""The paper's printed numbers (paper_numbers.yaml), and which of its models and datasets ours correspond to."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("paper_numbers.yaml")


@cache
def numbers() -> dict[str, Any]:
    """Everything in paper_numbers.yaml."""
    with open(_FILE, encoding="utf-8") as handle:
        values: dict[str, Any] = yaml.safe_load(handle)
    return values


def counterpart(model: str) -> str | None:
    """The paper's model whose numbers are shown beside ``model``, if any."""
    name = numbers()["stand_ins"].get(model, model)
    return name if name in numbers()["models"] else None


def model_title(model: str) -> str:
    """A model's name as the paper writes it, or its own."""
    return str(numbers()["models"].get(model, model))


def dataset_title(dataset: str) -> str:
    """A dataset's name as the paper writes it, or its own."""
    return str(numbers()["datasets"].get(dataset, dataset))


def printed(table: str, model: str, dataset: str) -> dict[str, Any]:
    """What ``table`` ("table1", ...) prints for the counterpart of ``model`` on ``dataset``, by method."""
    rows: dict[str, Any] = numbers()[table].get(counterpart(model) or "", {}).get(dataset, {})
    return rows


def beta_accuracy(model: str, dataset: str, method: str) -> float | None:
    """The beta'-accuracy [%] that Appendix K.1 gives for this cell, if any."""
    value = numbers()["text"]["beta_accuracy"].get(counterpart(model) or "", {}).get(dataset, {}).get(method)
    return None if value is None else float(value)


def whose_numbers(models: list[str]) -> str:
    """One sentence on which model the numbers in the paper's columns belong to."""
    others = {model: counterpart(model) for model in dict.fromkeys(models) if counterpart(model) != model}
    if not others:
        return "The paper's columns are its printed numbers for the same models."
    parts = [
        f"{model_title(paper)} beside {ours}" if paper else f"nothing beside {ours}" for ours, paper in others.items()
    ]
    return (
        f"The paper's columns are its printed numbers for other models ({'; '.join(parts)}): "
        "compare signs and orders, not values."
    )
