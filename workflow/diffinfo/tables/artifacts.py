"""Tables on disk: declared, versioned schemas (``schemas``); atomic writes; provenance in the footer; checked reads.

``python -m diffinfo.tables.artifacts show FILE`` prints a table's schema, provenance and head.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffinfo import __version__
from diffinfo.cli import UserError, run
from diffinfo.tables.provenance import FOOTER, here, note
from diffinfo.tables.schemas import MESSAGES
from diffinfo.tables.schemas import SCHEMAS as SCHEMAS

OUTPUTS = "outputs.json"
CARD = "README.md"  # of a folder that is published (``cards``)
GROUP = 20_000  # rows that are written, and read where there are many, at a time
DIGESTS = ".digests.json"  # of a folder's files, so that weights are read for it once, when they are written


class ArtifactError(UserError):
    """A table that is not what its reader was promised."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a private temporary path beside ``path``; rename it over ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _private(path)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a private folder beside ``folder``; put it in place of ``folder`` when the block ends well."""
    temporary = _private(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        note(temporary)
        _keep_digests(temporary)
        for path in filter(Path.is_file, temporary.rglob("*")):  # a name that outlives a power cut, with what it names
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Put a file, or the files of a folder but hidden ones, at ``target`` too: linked where that is possible, else copied.

    Hard links do not cross file systems, and BeeGFS and AFS refuse them between folders.
    """
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if not path.name.startswith("."):
                link(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def keep_until_recorded(progress: Path, *outputs: Path) -> None:
    """Say what a progress folder has become; ``diffinfo.operations.disk.forget`` deletes it once those are recorded.

    Not before: Snakemake deletes the outputs of a job that dies after it has written them.
    """
    with atomic(progress / OUTPUTS) as temporary:
        temporary.write_text(json.dumps([str(path) for path in outputs]))


def _private(path: Path) -> Path:
    """A name beside ``path`` that no other process has, on this machine or another."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def digest(*values: Any) -> str:
    """A short, stable digest of JSON-able values and, for a Path, of the file or folder it names.

    Hidden files of a folder do not count: Snakemake puts one into each folder that it saw a job finish. Nor do cards: people
    edit them. A file whose digest
    was kept when its folder was written is not read again, unless its size or its time has changed.
    """
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, Path):
            files = [value]
            if value.is_dir():
                files = sorted(p for p in value.rglob("*") if p.is_file() and p.name[0] != "." and p.name != CARD)
            for file in files:
                sha.update(str(file.relative_to(value) if value.is_dir() else file.name).encode())
                sha.update(bytes.fromhex(_file_digest(file)))
        else:
            sha.update(json.dumps(value, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def _file_digest(file: Path) -> str:
    """Of a file's content: what was kept beside it, or else read."""
    with suppress(OSError, ValueError):
        found = json.loads((file.parent / DIGESTS).read_text())
        if found.get(file.name, [])[:2] == _state(file):
            return str(found[file.name][2])
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _keep_digests(folder: Path) -> None:
    """Keep the digests of a folder's files, but of a trainer's state, which has its own."""
    for files in (sorted(filter(Path.is_file, place.iterdir())) for place in (folder, *folder.rglob("*/"))):
        seen = [file for file in files if not file.name.startswith(".")]
        if seen and not (seen[0].parent / "state.json").exists():
            (seen[0].parent / DIGESTS).unlink(missing_ok=True)
            kept = {file.name: [*_state(file), _file_digest(file)] for file in seen}
            (seen[0].parent / DIGESTS).write_text(json.dumps(kept))


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def write(
    path: Path,
    frame: pd.DataFrame | pa.Table | Iterable[pa.Table],
    kind: str,
    *,
    inputs: dict[str, Path] | None = None,
    **metadata: Any,
) -> None:
    """Write ``frame`` as a table of ``kind``, atomically.

    Args:
        frame: the table, or parts of it, of which no more than one is in memory.
        inputs: named files or folders this table was made from; their digests go into the footer.
        metadata: whatever else made it (seed, model, params ...), JSON-able, without secrets or wall-clock times:
            the same work gives the same bytes.

    Raises:
        ArtifactError: when the frame lacks a column, has a null where none may be, or a value of another type.
    """
    version, schema = SCHEMAS[kind]
    whole = table(frame, kind, path) if isinstance(frame, (pd.DataFrame, pa.Table)) else None
    footer = {
        "kind": kind,
        "version": version,
        "code": __version__,
        "inputs": {name: digest(Path(source)) for name, source in (inputs or {}).items()},
        **metadata,
        **({"made": here()} if here() else {}),
    }
    described = schema.with_metadata({FOOTER: json.dumps(footer, sort_keys=True, default=str).encode()})
    with atomic(path) as temporary, pq.ParquetWriter(temporary, described) as file:
        for part in (table(part, kind, path) for part in frame) if whole is None else [whole]:
            file.write_table(part.replace_schema_metadata(described.metadata), row_group_size=GROUP)


def table(frame: pd.DataFrame | pa.Table, kind: str, path: Path) -> pa.Table:
    """What ``path`` is to hold, as a table of ``kind``; raises what ``write`` does."""
    schema = SCHEMAS[kind][1]
    columns = frame.column_names if isinstance(frame, pa.Table) else frame.columns
    missing = [name for name in schema.names if name not in columns]
    if missing:
        raise ArtifactError(f"{path}: cannot write a '{kind}' table without the column(s) {', '.join(missing)}.")
    try:
        if isinstance(frame, pa.Table):
            found = frame.select(schema.names).cast(schema)
        else:  # Arrow cannot make a list column of the numbers that pandas takes an empty column for
            frame = frame[schema.names] if len(frame) else frame[schema.names].astype(object)
            found = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowException, ValueError) as error:
        raise ArtifactError(f"{path}: cannot write a '{kind}' table: {error}") from error
    _check_nulls(found, schema, path)
    return found


def read(path: Path, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table of ``kind``, or only some of its columns, as ``frame`` makes it; raises what ``load`` does."""
    return frame(load(path, kind, columns))


def frame(table: pa.Table) -> pd.DataFrame:
    """What ``load`` gives, or some of its rows, for pandas: lists are plain Python values, which callers work with.

    A token id takes 40 bytes there, and 4 in the table: stages that read many take their rows batch by batch.
    """
    found: pd.DataFrame = table.to_pandas()
    for field in filter(lambda field: pa.types.is_list(field.type), table.schema):
        plain: Callable[[Any], Any] = list if field.type == MESSAGES else lambda ids: ids.tolist()
        found[field.name] = [plain(value) for value in found[field.name]]
    return found


def load(path: Path, kind: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table of ``kind``, or only some of its columns, into Arrow's memory.

    Raises:
        ArtifactError: when the file is missing, truncated, of another kind or version, or has other columns.
    """
    schema = _promised(path, kind, columns)
    with _opened(path) as file:  # ParquetFile, since read_table reads "key=value" folders of the path as columns
        return _fitting(file.read(columns=columns), schema, kind, path)


def batches(path: Path, kind: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The same, ``GROUP`` rows at a time, so that no more of a large table is in memory."""
    schema = _promised(path, kind, columns)
    with _opened(path, buffer_size=2**20) as file:
        for batch in file.iter_batches(GROUP, columns=columns):
            yield _fitting(pa.Table.from_batches([batch]), schema, kind, path)


def rows(path: Path, kind: str, numbers: Any, columns: list[str] | None = None) -> pa.Table:
    """The rows with these numbers, from 0, in the order of ``numbers``; of the file's groups only those that hold one."""
    schema, wanted = _promised(path, kind, columns), np.unique(numbers)
    found, first = [schema.empty_table()], 0
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            here = wanted[slice(*np.searchsorted(wanted, [first, end]))] - first
            if len(here):
                part = _fitting(file.read_row_group(group, columns=columns), schema, kind, path)
                found.append(part.cast(schema).take(here))
            first = end
    return pa.concat_tables(found).take(np.searchsorted(wanted, numbers))


def _promised(path: Path, kind: str, columns: list[str] | None) -> pa.Schema:
    """What a table of this kind holds, where the file's footer says that it is one."""
    version, schema = SCHEMAS[kind]
    footer = provenance(path)
    if footer.get("kind") != kind:
        raise ArtifactError(f"{path} holds a '{footer.get('kind')}' table where a '{kind}' table is needed.")
    if footer.get("version") != version:
        raise ArtifactError(
            f"{path} holds '{kind}' version {footer.get('version')}, this code reads version {version}: "
            "delete the file and let the workflow make it again."
        )
    return pa.schema([schema.field(name) for name in columns or schema.names])


@contextmanager
def _opened(path: Path, **settings: Any) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, **settings) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error


def _fitting(table: pa.Table, schema: pa.Schema, kind: str, path: Path) -> pa.Table:
    """The promised columns of a table, each of its type and without nulls where none may be."""
    wrong = [f.name for f in schema if f.name not in table.schema.names or table.schema.field(f.name).type != f.type]
    if wrong:
        raise ArtifactError(f"{path}: the '{kind}' column(s) {', '.join(wrong)} are missing or of another type.")
    _check_nulls(table, schema, path)
    return table.select(schema.names)


def provenance(path: Path) -> dict[str, Any]:
    """The footer of a table: what made it.

    Raises:
        ArtifactError: when ``path`` is not a readable table with a footer.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error
    if FOOTER not in metadata:
        raise ArtifactError(f"{path} is a Parquet file of unknown origin: it has no diffinfo footer.")
    try:
        footer: dict[str, Any] = json.loads(metadata[FOOTER])
    except ValueError as error:
        raise ArtifactError(f"{path} is a Parquet file of unknown origin: its diffinfo footer is broken.") from error
    return footer


def _check_nulls(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    """Refuse nulls, also inside lists and messages, in columns that are not optional, whatever the file says of them."""
    nulls = [f.name for f in schema if not f.nullable and any(map(_null_count, table.column(f.name).chunks))]
    if nulls:
        raise ArtifactError(f"{path}: column(s) {', '.join(nulls)} hold nulls where none may be.")


def _null_count(values: pa.Array) -> int:
    parts = [values.flatten()] if pa.types.is_list(values.type) else []
    parts += values.flatten() if pa.types.is_struct(values.type) else []
    return int(values.null_count) + sum(map(_null_count, parts))


def show(file: Path, rows: int = 5) -> None:
    """Print the schema, provenance and first rows of a table.

    Args:
        file: a Parquet table of this workflow.
        rows: how many rows to print.
    """
    footer = provenance(file)
    print(f"{file}: {footer['kind']} v{footer['version']}, {pq.read_metadata(file).num_rows} rows\n")
    print(pq.read_schema(file).remove_metadata().to_string(show_field_metadata=False), "\n")
    print(json.dumps(footer, indent=2, sort_keys=True), "\n")
    print(pq.read_table(file, partitioning=None).slice(0, rows).to_pandas().to_string(max_colwidth=60))


if __name__ == "__main__":
    run({"show": show}, positional=True)
