"""lm-eval's stock tasks with their data from local copies, for machines without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.task import ConfigurableTask

from diffinfo.bench import qa_rows
from diffinfo.cli import UserError
from diffinfo.config import local
from diffinfo.data.files import BadRow, json_rows

_KINDS = (".parquet", ".arrow", ".jsonl")


class LocalTask(ConfigurableTask):  # type: ignore[misc]
    """A stock task but for its rows: ``dataset_path`` is a local copy, ``dataset_kwargs`` says which benchmark.

    Only the split that is asked is read, and with worked examples theirs.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        asked = config.get("test_split") or config["validation_split"]
        shown = config["fewshot_split"] if config.get("num_fewshot") else asked
        splits = {"training_split": None, "validation_split": None, "test_split": asked, "fewshot_split": shown}
        super().__init__(config={key: value for key, value in config.items() if key != "class"} | splits)

    def download(self, dataset_kwargs: Any = None, **_: Any) -> None:
        """See ConfigurableTask; reads files, and asks no hub."""
        benchmark, path = dataset_kwargs["benchmark"], Path(self.DATASET_PATH)
        splits = (self.config.test_split, self.config.fewshot_split)
        self.dataset = {split: _rows(benchmark, path, self.DATASET_NAME, split, splits[0]) for split in splits}


def _rows(benchmark: str, path: Path, subset: str | None, split: str, asked: str) -> datasets.Dataset:
    """The rows of one split of a copy."""
    key = f"qa.data.{benchmark}"
    tables = [_table(key, benchmark, file) for file in _files(key, path, subset, split, asked)]
    if not any(map(len, tables)):
        raise UserError(f"{key}: the split '{split}' of {path} has no rows.")
    return datasets.concatenate_datasets([table for table in tables if len(table)])


def _files(key: str, path: Path, subset: str | None, split: str, asked: str) -> list[Path]:
    """The files of one split: those whose name, or that of a folder around them, begins with its."""
    if path.is_file():
        if split != asked:
            raise UserError(
                f"{key}: {path} is one file, and worked examples come from the split {split}: name the folder that holds both"
                " splits, or set qa.gsm8k_shots to 0."
            )
        return [path]
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
    return files


def _table(key: str, benchmark: str, file: Path) -> datasets.Dataset:
    """A file's rows, see ``qa_rows.read``."""
    try:
        if file.suffix == ".jsonl":
            with open(file, "rb") as lines:
                found = list(json_rows(lines))
        else:
            found = list(enumerate(_stored(file).to_list(), 1))
    except (ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{key}: cannot read {file} ({said}): it must be a whole {', '.join(_KINDS)} file.") from error
    rows = []
    for number, row in found:
        try:
            if isinstance(row, BadRow):
                raise row
            rows.append(qa_rows.read(benchmark, row))
        except BadRow as reason:
            raise UserError(
                f"{key}: row {number} of {file}: {reason}; correct it, or leave it out: docs/procedures.md names the public"
                " data, whose columns these are."
            ) from reason
    try:
        return datasets.Dataset.from_list(rows)
    except (ValueError, TypeError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{key}: the rows of {file} differ in a column's type ({said}); give it one.") from error


def _stored(file: Path) -> datasets.Dataset:
    if file.suffix == ".arrow":
        return datasets.Dataset.from_file(str(file))
    with pq.ParquetFile(file) as table:
        return datasets.Dataset(table.read())
