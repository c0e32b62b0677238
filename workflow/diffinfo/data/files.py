"""Rows of one data file, one at a time, so that a bad row costs itself alone: Parquet, Arrow, JSON, JSON lines, CSV."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffinfo.cli import UserError

csv.field_size_limit(2**31 - 1)  # a long text is no fault

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

    def add(self, names: list[str], path: Path | str) -> list[str]:
        """Remember a file's columns; returns those that are wanted.

        Raises:
            UserError: when one of these is there twice.
        """
        self.present.update(dict.fromkeys(names))
        wanted = [column for column in self.columns if column in names]
        twice = [column for column in wanted if names.count(column) > 1]
        if twice:
            raise UserError(f"{path} holds the column {twice[0]} twice; remove one.")
        return wanted

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


def open_file(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """The rows of a file of any kind that ``config.local.DATA_FILE`` knows, numbered from 1 (in JSON lines: its lines).

    Raises:
        UserError: when the file as a whole cannot be read.
    """
    kind = path.suffixes[-2] if path.suffix in (".gz", ".zst") else path.suffix
    return _READERS[kind](path, source)


def _bytes(path: Path) -> Iterator[bytes]:
    """The lines of a file; .gz and .zst are decompressed."""
    try:
        with io.BufferedReader(pa.input_stream(str(path))) as stream:  # type: ignore[arg-type] # it is a RawIOBase
            yield from stream
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a complete compressed file (truncated or damaged): {error}") from error


def _parquet(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error
    wanted = source.add(file.schema_arrow.names, path)

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
                row = batch.slice(index, 1).to_pylist(maps_as_pydicts="strict")[0]
            except UnicodeDecodeError as error:
                row = BadRow("invalid UTF-8", str(error))
            except (pa.ArrowException, ValueError, OverflowError, KeyError) as error:  # the year 10000, a key twice
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
    text = b"".join(_bytes(path)).decode("utf-8-sig", errors="surrogateescape")
    try:
        rows = json.loads(text, object_pairs_hook=_mapping)
    except (ValueError, RecursionError) as error:
        hint = "; one row per line makes a .jsonl file" if text.lstrip()[:1] == "{" else ""
        raise UserError(f"{path} is not valid JSON ({error}){hint}.") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold a list of rows, it holds {kind(rows)}.")
    return ((number, source._note(row)) for number, row in enumerate(rows, 1))


def _jsonl(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    for number, row in json_rows(_bytes(path)):
        yield number, row if isinstance(row, BadRow) else source._note(row)


def _csv(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Rows as a spreadsheet writes them: the first line names the columns, every cell is text."""
    lines = (line.decode("utf-8", errors="surrogateescape") for line in _bytes(path))
    table = csv.reader(lines, strict=True)
    try:
        names = [name.removeprefix("\ufeff") for name in next(table, [])]
        source.add(names, path)
        if mark := next((mark for mark in ";\t|" if names[1:] == [] and mark in "".join(names)), None):
            raise UserError(
                f"{path} has one column, {names[0]!r}, and looks separated by {mark!r}; separate it by commas."
            )
        for number, cells in enumerate(filter(None, table), 1):
            if len(cells) == len(names):
                yield number, source._note(dict(zip(names, cells, strict=True)))
            else:
                yield number, BadRow(f"the row has {len(cells)} cells, its header {len(names)}", ",".join(cells))
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV (line {table.line_num}: {error}); write it as Parquet.") from error


def _arrow(path: Path, source: Source) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Arrow's stream format, in which ``datasets`` keeps its tables, or its file format."""
    with pa.memory_map(str(path)) as data:
        try:
            try:
                reader = pa.ipc.open_stream(data)
                batches = iter(reader)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(data)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            wanted = source.add(reader.schema.names, path)
            yield from arrow_rows(batch.select(wanted) for batch in batches)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is not a complete Arrow file (truncated or damaged): {error}") from error


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


_READERS = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".arrow": _arrow}
