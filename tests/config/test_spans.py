"""Spans of epochs: each is one job."""

from pathlib import Path

import pytest

from diffinfo.config.reading import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("epochs", "per_job", "trained", "expected"),
    [
        (5, 3, [], ["1-3", "4-5"]),
        (5, 3, ["1-3", "4-4"], ["1-3", "4-4", "5-5"]),
        (2, 3, ["1-3"], ["1-2"]),
        (4, 1, ["1-3"], ["1-3", "4-4"]),
        (9, 4, ["1-1", "2-2"], ["1-1", "2-2", "3-6", "7-9"]),
        (3, 1, ["1-2", "1-3"], ["1-3"]),
        (5, 1, ["1-3", "4-6"], ["1-3", "4-5"]),
        (2, 1, ["3-1", "2-2"], ["1-1", "2-2"]),
    ],
)
def test_spans_keep_what_was_trained(epochs: int, per_job: int, trained: list[str], expected: list[str]) -> None:
    config = load(ROOT / "config.yaml", values={"epochs": epochs, "preference": {"epochs_per_job": per_job}})
    assert config.spans(trained) == expected
