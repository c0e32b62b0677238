"""The world's QA benchmarks: Parquet files in the field schemas of eight stock lm-eval tasks, with task files.

A task file includes the stock YAML, so prompts, filters and metrics are lm-eval's own; only the name and the data
change. ``$STOCK`` is lm-eval's folder of tasks and ``$HERE`` the folder of the file: ``diffinfo.bench.qa``
puts both in when it loads them, so that a results folder can move between machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SUBJECT = "facts"  # of the one MMLU subtask; stock MMLU names its subject in front of every question


@dataclass(frozen=True)
class Item:
    """One question: what is asked, the answers on offer, and which of them is right.

    ``gsm8k`` has one choice, the number, and ``passage`` is its worked solution (seen only in few-shot examples);
    the choices of ``boolq`` are "no" and "yes"; its question and SIQA's come with a ``passage``. HellaSwag's
    ``question`` is the text to go on with, its ``passage`` the activity it is filed under.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    passage: str = ""


@dataclass(frozen=True)
class _Task:
    stock: str  # YAML below lm-eval's folder of tasks
    split: str  # that the stock task evaluates
    choices: int | None  # on offer; None: any number from two
    row: Callable[[int, Item], dict[str, Any]]


def _piqa(_: int, item: Item) -> dict[str, Any]:
    return {"goal": item.question, "sol1": item.choices[0], "sol2": item.choices[1], "label": item.answer}


def _siqa(_: int, item: Item) -> dict[str, Any]:
    answers = dict(zip(("answerA", "answerB", "answerC"), item.choices, strict=True))
    return {"context": item.passage, "question": item.question, **answers, "label": str(item.answer + 1)}


def _hellaswag(index: int, item: Item) -> dict[str, Any]:
    return {
        "ind": index,
        "activity_label": item.passage or "Passage",
        "ctx_a": item.question,
        "ctx_b": "",
        "ctx": item.question,
        "endings": list(item.choices),
        "source_id": f"world~{index}",
        "split": "val",
        "split_type": "indomain",
        "label": str(item.answer),
    }


def _arc(index: int, item: Item) -> dict[str, Any]:
    labels = "ABCDEFGHIJ"[: len(item.choices)]
    return {
        "id": f"world_{index}",
        "question": item.question,
        "choices": {"text": list(item.choices), "label": list(labels)},
        "answerKey": labels[item.answer],
    }


def _mmlu(_: int, item: Item) -> dict[str, Any]:
    return {"question": item.question, "subject": SUBJECT, "choices": list(item.choices), "answer": item.answer}


def _gsm8k(_: int, item: Item) -> dict[str, Any]:
    return {"question": item.question, "answer": f"{item.passage}\n#### {item.choices[0]}".lstrip()}


def _boolq(index: int, item: Item) -> dict[str, Any]:
    # The stock prompt puts "?" right after the question; the space keeps it a word of its own, as in the language.
    question = item.question.rstrip("? ") + " "
    return {"question": question, "passage": item.passage, "idx": index, "label": item.answer}


TASKS: dict[str, _Task] = {
    "piqa": _Task("piqa/piqa.yaml", "validation", 2, _piqa),
    "siqa": _Task("siqa/siqa.yaml", "validation", 3, _siqa),
    "hellaswag": _Task("hellaswag/hellaswag.yaml", "validation", 4, _hellaswag),
    "arc_easy": _Task("arc/arc_easy.yaml", "test", None, _arc),
    "arc_challenge": _Task("arc/arc_challenge.yaml", "test", None, _arc),
    "mmlu": _Task("mmlu/default/_default_template_yaml", "test", 4, _mmlu),
    "gsm8k": _Task("gsm8k/gsm8k.yaml", "test", 1, _gsm8k),
    "boolq": _Task("super_glue/boolq/default.yaml", "validation", 2, _boolq),
}


def write_tasks(folder: Path, items: dict[str, list[Item]]) -> None:
    """Write the eight benchmarks: ``<benchmark>.parquet`` and a task file ``<benchmark>.yaml`` each.

    Args:
        folder: where to; made if absent.
        items: the questions of each of the eight benchmarks, named as in ``TASKS``.

    Raises:
        ValueError: when a benchmark is missing, unknown or empty, or an item does not fit its benchmark.
    """
    if set(items) != set(TASKS):
        raise ValueError(f"benchmarks must be exactly {', '.join(TASKS)}; got {', '.join(items)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in TASKS.items():
        if not items[name]:
            raise ValueError(f"{name}: no items")
        for index, item in enumerate(items[name]):
            _check(name, task, index, item)
        rows = [task.row(index, item) for index, item in enumerate(items[name])]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        _write_yaml(folder / f"{name}.yaml", _group() if name == "mmlu" else _task(name, task))
    subject = "The following are multiple choice questions (with answers) about {{subject}}.\n\n"
    _write_yaml(folder / "mmlu_subject.yaml", _task("mmlu", TASKS["mmlu"]) | {"task": _SUBTASK, "description": subject})


_SUBTASK = f"micro_mmlu_{SUBJECT}"


def _task(name: str, task: _Task) -> dict[str, Any]:
    splits = {
        f"{split}_split": task.split if split == task.split else None for split in ("training", "validation", "test")
    }
    return {
        "include": f"$STOCK/{task.stock}",
        "task": f"micro_{name}",
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {task.split: f"$HERE/{name}.parquet"}},
        **splits,
        # GSM8k's examples come from the evaluated questions themselves; lm-eval leaves out the one being asked.
        "fewshot_split": "test" if name == "gsm8k" else None,
    }


def _group() -> dict[str, Any]:
    """MMLU is a group, here of one subject: results go through lm-eval's size-weighted aggregation."""
    return {"include": "$STOCK/mmlu/default/_mmlu.yaml", "group": "micro_mmlu", "task": [_SUBTASK]}


def _check(name: str, task: _Task, index: int, item: Item) -> None:
    wanted = task.choices
    if not (len(item.choices) == wanted if wanted else 2 <= len(item.choices) <= 10):
        raise ValueError(f"{name}[{index}]: {len(item.choices)} choices where {wanted or '2 to 10'} are needed")
    if not 0 <= item.answer < len(item.choices):
        raise ValueError(f"{name}[{index}]: answer {item.answer} is the index of no choice")
    if not item.question.strip() or not all(choice.strip() for choice in item.choices):
        raise ValueError(f"{name}[{index}]: an empty question or choice")
    if name == "boolq" and item.choices != ("no", "yes"):
        raise ValueError(f"{name}[{index}]: the choices must be ('no', 'yes'), got {item.choices}")


def _write_yaml(path: Path, task: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
