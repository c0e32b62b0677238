"""Raw rows of a dataset, one at a time: from .parquet, .json or .jsonl files, or through ``datasets`` from the hub."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffinfo.cli import UserError
from diffinfo.config import local
from diffinfo.config.types import Dataset

SUFFIXES = (".parquet", ".json", ".jsonl")
_DESCRIPTIONS = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)  # of data formats, not data
_OTHER_FILES = (".csv", ".tsv", ".txt", ".gz", ".zst", ".zip", ".arrow", ".xlsx", ".yaml", ".yml")


Messages = list[dict[str, str]]  # of a conversation: role and content


class BadRow(Exception):
    """Why a row is quarantined; ``raw`` is the row where it is not a mapping."""

    def __init__(self, reason: str, raw: str = "") -> None:
        super().__init__(reason)
        self.reason, self.raw = reason, raw


class Quarantine:
    """Rows that are left out, each with its reason."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, source: str, row: int, reason: str, excerpt: Any, prompt_id: str | None = None) -> None:
        """Keep a row's number (from 1) and its beginning."""
        text = excerpt if isinstance(excerpt, str) else json.dumps(excerpt, ensure_ascii=False, default=str)
        text = text[:200].encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be stored
        self.rows.append({"source": source, "row": row, "prompt_id": prompt_id, "reason": reason, "excerpt": text})

    def counts(self) -> dict[str, int]:
        """Rows of each reason, the commonest first."""
        return dict(Counter(row["reason"] for row in self.rows).most_common())

    def frame(self) -> pd.DataFrame:
        """The quarantine table, in the order in which rows were met."""
        columns = ["source", "row", "prompt_id", "reason", "excerpt"]
        return pd.DataFrame(self.rows, columns=columns).astype({"row": "int64"})


@dataclass
class Source:
    """Where rows come from.

    Args:
        name: what messages and quarantine rows call it.
        columns: the columns a caller reads; others are not decoded.
        present: the columns the source has, known at once or, for JSON, gathered while rows are read.
    """

    name: str
    columns: tuple[str, ...]
    present: dict[str, None] = field(default_factory=dict)
    rows: Iterator[tuple[int, dict[str, Any] | BadRow]] = field(default_factory=lambda: iter(()))

    def _note(self, row: Any) -> dict[str, Any] | BadRow:
        """Keep a JSON row's wanted columns and remember which there were."""
        if not isinstance(row, dict):
            return BadRow(f"the row is {kind(row)}, not a mapping", json.dumps(row)[:200])
        self.present.update(dict.fromkeys(map(str, row)))
        return {column: row[column] for column in self.columns if column in row}


def kind(value: Any) -> str:
    """The JSON name of a value's type, for messages; Parquet has more types."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    names |= {int: "a number", float: "a number", bytes: "binary data"}
    return names.get(type(value), f"a {type(value).__name__}")


def open_source(dataset: str, spec: Dataset, source: str, split: str, columns: tuple[str, ...]) -> Source:
    """Open one split of a dataset; rows are numbered from 1 in the source's own order (in a .jsonl: its lines).

    Args:
        dataset: the dataset's key in the configuration, for messages.
        spec: its entry there.
        source: a file, a folder of files, or a hub id.
        split: split to read, of a folder or hub dataset.
        columns: columns that may be read.

    Raises:
        UserError: when the source is missing, unreadable, of another kind of file, or cannot be loaded from the hub.
    """
    path = Path(source)
    if not source.endswith(SUFFIXES) and (path.is_file() or source.endswith(_OTHER_FILES)):
        raise UserError(
            f"datasets.{dataset}.source: {source} is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file; convert it."
        )
    if source.endswith(SUFFIXES):
        if not path.is_file():
            raise UserError(f"datasets.{dataset}.source: the file {source} does not exist.")
        if path.stat().st_size == 0:
            raise UserError(f"datasets.{dataset}.source: the file {source} is empty.")
        # an option that does not apply to a file is refused, never ignored
        useless = [f"{key}: {value}" for key, value in
                   (("split", None if spec.split == "train" else spec.split), ("test_split", spec.test_split),
                    ("revision", spec.revision)) if value is not None]  # fmt: skip
        if useless:
            raise UserError(
                f"datasets.{dataset}: {', '.join(useless)} has no meaning for the single file {source}; "
                "leave split at 'train' and the others at null."
            )
        opened = Source(source, columns)
        opened.rows = _READERS[path.suffix](path, opened)
        return opened
    if path.is_dir():
        if spec.revision is not None:
            raise UserError(
                f"datasets.{dataset}.revision: {spec.revision} has no meaning for the folder {source}; remove it."
            )
        return _folder(dataset, path, split, columns)
    if source.startswith(("/", "./", "../", "~")):
        raise UserError(f"datasets.{dataset}.source: {source} does not exist.")
    return _hub(dataset, source, spec.revision, split, columns)


def _folder(dataset: str, folder: Path, split: str, columns: tuple[str, ...]) -> Source:
    """The files of a split, by name one after the other; ``datasets`` would interpret brackets and $NAME in paths.

    A file belongs to a split whose name its own, or that of a folder around it, begins with (train-00000-of-00001.parquet,
    test/a.jsonl). Where none begins with train, that split has the files that are of no other.
    """
    found = [Path(file) for file in local.files(str(folder)) if file.endswith(SUFFIXES)]
    found = [file for file in found if file.name not in _DESCRIPTIONS]
    files = [file for file in found if _belongs(file.relative_to(folder), re.escape(split))]
    if split == "train" and not files:
        files = [file for file in found if not _belongs(file.relative_to(folder), "test|valid|validation|val|dev|eval")]
    if not files:
        names = ", ".join(str(file.relative_to(folder)) for file in found[:10]) or "none"
        raise UserError(
            f"datasets.{dataset}: {folder} has no .parquet, .json or .jsonl file whose name begins with the split '{split}'; "
            f"it has {names}. Check source, split and test_split."
        )
    source = Source(f"{folder}[{split}]", columns)
    read = [_READERS[file.suffix](file, source) for file in files]
    source.rows = ((number, row) for number, (_, row) in enumerate(itertools.chain.from_iterable(read), 1))
    return source


def _belongs(path: Path, splits: str) -> bool:
    return any(re.match(rf"(?:{splits})(?!_?[A-Za-z])", part) for part in path.parts)


def require(source: Source, dataset: str, spec: Dataset, alternatives: tuple[tuple[str, ...], ...]) -> None:
    """Check that the source has all columns of one of ``alternatives``.

    Raises:
        UserError: which names what is missing, what is there, and the nearest name.
    """
    lacking = [[column for column in group if column not in source.present] for group in alternatives]
    if not all(lacking):
        return
    missing = min(lacking, key=len)
    near = [(c, difflib.get_close_matches(c, source.present, n=1)) for c in missing]
    hints = "".join(f" (is '{found[0]}' meant to be '{column}'?)" for column, found in near if found)
    expected = " or ".join(", ".join(group) for group in alternatives)
    raise UserError(
        f"{source.name} lacks the column(s) {', '.join(missing)}; it has {', '.join(source.present) or 'none'}, and "
        f"datasets.{dataset}.format = {spec.format} needs {expected}{hints}."
    )


def _parquet(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error
    names = file.schema_arrow.names
    source.present.update(dict.fromkeys(names))
    wanted = [column for column in source.columns if column in names]
    twice = [column for column in wanted if names.count(column) > 1]
    if twice:
        raise UserError(f"{path} holds the column {twice[0]} twice; remove one.")

    def batches() -> Iterator[pa.RecordBatch]:
        batches = file.iter_batches(batch_size=256, columns=wanted)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error
            if batch is None:
                return
            yield batch

    return arrow_rows(batches())


def arrow_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Arrow's rows, one by one, so that a value that Python cannot represent costs its own row only."""
    number = itertools.count(1)
    for batch in batches:
        for index in range(batch.num_rows):
            row: dict[str, Any] | BadRow
            try:
                row = batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                row = BadRow("invalid UTF-8", str(error))
            except (pa.ArrowException, ValueError, OverflowError) as error:  # a time beyond the year 9999
                row = BadRow("a value cannot be read", str(error))
            yield next(number), row


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's reader would take the last of several equal keys."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is given twice")
    return mapping


def _json(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    # a broken byte becomes a lone surrogate, which costs its own row (diffinfo.data.rows) and no other
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    try:
        rows = json.loads(text, object_pairs_hook=_mapping)
    except (ValueError, RecursionError) as error:
        hint = "; one row per line makes a .jsonl file" if text.lstrip()[:1] == "{" else ""
        raise UserError(f"{path} is not valid JSON ({error}){hint}.") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold a list of rows, it holds {kind(rows)}.")
    return ((number, source._note(row)) for number, row in enumerate(rows, 1))


def _jsonl(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    with open(path, "rb") as lines:
        for number, row in json_rows(lines):
            yield number, row if isinstance(row, BadRow) else source._note(row)


def json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines with their line numbers from 1, or why a line has none; empty lines are skipped."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        shown = line[:200].decode("utf-8", errors="backslashreplace").rstrip()
        try:
            yield number, json.loads(line.decode("utf-8"), object_pairs_hook=_mapping)
        except UnicodeDecodeError:
            yield number, BadRow("invalid UTF-8", shown)
        except (ValueError, RecursionError):  # a number of 5,000 digits raises another error than JSONDecodeError
            yield number, BadRow("invalid JSON", shown)


def _hub(dataset: str, repository: str, revision: str | None, split: str, columns: tuple[str, ...]) -> Source:
    from datasets import Dataset as Table
    from datasets import load_dataset

    try:
        table = load_dataset(repository, revision=revision, split=split)
    except Exception as error:  # the hub's client, datasets and Arrow raise types without a common base
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"datasets.{dataset}: cannot load '{repository}' (split {split}, revision {revision or 'latest'}): {said} "
            "Check source, split and revision, or fetch the data by hand and give the file's path as source."
        ) from error
    assert isinstance(table, Table)
    source = Source(f"{repository}[{split}]", columns, dict.fromkeys(table.column_names))
    wanted = [column for column in columns if column in source.present]
    source.rows = arrow_rows(table.select_columns(wanted).with_format("arrow").iter(batch_size=256))
    return source


_READERS = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl}
