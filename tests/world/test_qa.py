"""The world's benchmarks are files any lm-eval reads as it reads the stock ones."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from diffinfo.world.qa_tasks import TASKS, Item, write_tasks

ITEMS = {
    "piqa": [Item("sort 2 1", ("1 2", "2 1"), 0)],
    "siqa": [Item("which one ?", ("a", "b", "c"), 2, "b is old .")],
    "hellaswag": [Item("the cat", ("sat", "gold", "iron", "blue"), 3)],
    "arc_easy": [Item("what ?", ("a", "b", "c"), 1)],
    "arc_challenge": [Item("what ?", ("a", "b", "c", "d", "e", "f"), 5)],
    "mmlu": [Item("what ?", ("a", "b", "c", "d"), 3)],
    "gsm8k": [Item("add 3 and 4", ("7",), 0, "3 and 4 is 7 .")],
    "boolq": [Item("does it have gold ?", ("no", "yes"), 1, "it has gold .")],
}

# Fields of the stock data sets that the stock task files read.
ROWS = {
    "piqa": {"goal": "sort 2 1", "sol1": "1 2", "sol2": "2 1", "label": 0},
    "siqa": {"context": "b is old .", "question": "which one ?", "answerA": "a", "answerC": "c", "label": "3"},
    "hellaswag": {"activity_label": "Passage", "ctx_a": "the cat", "ctx_b": "", "label": "3"},
    "arc_easy": {"choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "B"},
    "arc_challenge": {"answerKey": "F"},
    "mmlu": {"question": "what ?", "subject": "facts", "choices": ["a", "b", "c", "d"], "answer": 3},
    "gsm8k": {"question": "add 3 and 4", "answer": "3 and 4 is 7 .\n#### 7"},
    "boolq": {"question": "does it have gold ", "passage": "it has gold .", "label": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", list(TASKS))
def test_rows_have_the_stock_fields(tmp_path: Path, name: str) -> None:
    write_tasks(tmp_path, ITEMS)
    (row,) = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
    assert {key: row[key] for key in ROWS[name]} == ROWS[name]


def test_gsm8k_without_a_solution_is_the_number_alone(tmp_path: Path) -> None:
    write_tasks(tmp_path, ITEMS | {"gsm8k": [Item("add 3 and 4", ("7",), 0)]})
    assert pq.read_table(tmp_path / "gsm8k.parquet")["answer"].to_pylist() == ["#### 7"]


def test_task_files_name_no_machine_and_are_the_same_everywhere(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b" / "c"
    write_tasks(first, ITEMS)
    write_tasks(second, ITEMS)
    assert sorted(file.name for file in first.iterdir()) == sorted(file.name for file in second.iterdir())
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
    for file in first.glob("*.yaml"):
        assert yaml.safe_load(file.read_text())["include"].startswith("$STOCK/")


@pytest.mark.parametrize("name", ["piqa", "siqa", "hellaswag", "mmlu", "gsm8k", "boolq", "arc_easy"])
def test_a_wrong_number_of_choices_is_refused(tmp_path: Path, name: str) -> None:
    good = ITEMS[name][0]
    bad = replace(good, choices=tuple("abcdefghijk"))
    with pytest.raises(ValueError, match=rf"{name}\[1\]: 11 choices"):
        write_tasks(tmp_path, ITEMS | {name: [good, bad]})


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"piqa": [Item("q", ("a", "b"), 2)]}, "index of no choice"),
        ({"piqa": [Item("q", ("a", "b"), -1)]}, "index of no choice"),
        ({"piqa": [Item(" ", ("a", "b"), 0)]}, "empty question"),
        ({"piqa": [Item("q", ("a", ""), 0)]}, "empty question or choice"),
        ({"boolq": [Item("q", ("yes", "no"), 0)]}, "must be"),
        ({"piqa": []}, "piqa: no items"),
        ({"winogrande": [Item("q", ("a", "b"), 0)]}, "exactly"),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, items: dict[str, list[Item]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_tasks(tmp_path, ITEMS | items)


def test_a_missing_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly"):
        write_tasks(tmp_path, {"piqa": ITEMS["piqa"]})
