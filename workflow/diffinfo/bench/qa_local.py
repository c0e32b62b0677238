"""lm-eval's stock tasks with their data from local copies, for machines without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import UndefinedError
from lm_eval.api.task import ConfigurableTask

from diffinfo.cli import UserError
from diffinfo.config import local

_KINDS = (".parquet", ".arrow", ".jsonl")


class LocalTask(ConfigurableTask):  # type: ignore[misc]
    """A stock task but for its rows: ``dataset_path`` is a local copy, ``dataset_kwargs`` holds its key in the configuration.

    Only the split that is asked is read, and with worked examples theirs.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        asked = config.get("test_split") or config["validation_split"]
        shown = config["fewshot_split"] if config.get("num_fewshot") else asked
        splits = {"training_split": None, "validation_split": None, "test_split": asked, "fewshot_split": shown}
        super().__init__(config={key: value for key, value in config.items() if key != "class"} | splits)

    def download(self, dataset_kwargs: Any = None, **_: Any) -> None:
        """See ConfigurableTask; reads files, and asks no hub."""
        key, path = dataset_kwargs["key"], Path(self.DATASET_PATH)
        splits = (self.config.test_split, self.config.fewshot_split)
        self.dataset = {split: _rows(key, path, self.DATASET_NAME, split, splits[0]) for split in splits}


@contextmanager
def missing_columns(key: str, path: str, task: str) -> Iterator[None]:
    """Turn lm-eval's fault on a row of another schema into a sentence."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, UndefinedError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: the rows of {path} do not have the columns that lm-eval's task {task} reads ({said}); the public data"
            " have, see docs/procedures.md."
        ) from error


def _rows(key: str, path: Path, subset: str | None, split: str, asked: str) -> datasets.Dataset:
    """The rows of one split of a copy.

    A file belongs to a split whose name its own, or that of a folder around it, begins with.
    """
    if path.is_file():
        if split != asked:
            raise UserError(
                f"{key}: {path} is one file, and worked examples come from the split {split}: name the folder that holds both"
                " splits, or set qa.gsm8k_shots to 0."
            )
        return _table(key, path)
    if not path.is_dir():
        raise UserError(f"{key}: {path} does not exist.")
    folder = path / subset if subset and path.name != subset else path
    found = [Path(file) for file in local.files(str(folder))]
    begins = re.compile(rf"{re.escape(split)}(?!_?[A-Za-z])")
    files = [
        file
        for file in found
        if file.suffix in _KINDS and not file.name.startswith("cache-")
        if any(map(begins.match, file.relative_to(folder).parts))
    ]
    if not files:
        raise UserError(
            f"{key}: {folder} has no {', '.join(_KINDS)} file whose name begins with the split '{split}'; copy that split"
            " there, or name its file."
        )
    rows = datasets.concatenate_datasets([_table(key, file) for file in files])
    if not len(rows):
        raise UserError(f"{key}: the split '{split}' of {folder} has no rows.")
    return rows


def _table(key: str, file: Path) -> datasets.Dataset:
    try:
        if file.suffix == ".arrow":
            return datasets.Dataset.from_file(str(file))
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as table:
                return datasets.Dataset(table.read())
        with open(file, encoding="utf-8") as lines:
            return datasets.Dataset.from_list([json.loads(line) for line in lines if line.strip()])
    except (ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{key}: cannot read {file} ({said}): it must be a whole {', '.join(_KINDS)} file.") from error
