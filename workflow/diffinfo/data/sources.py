"""Raw rows of a dataset, one at a time: from local files, or through ``datasets`` from the hub."""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import Path

from diffinfo.cli import UserError, log
from diffinfo.config import local
from diffinfo.config.types import Dataset
from diffinfo.data import preference, rows
from diffinfo.data.files import Source, arrow_rows, open_file

_DESCRIPTIONS = re.compile(r"(dataset_infos?|dataset_dict|state)\.json|cache-.*\.arrow")  # beside data, not data
# a word of a file's or folder's name that says it is not to be trained on: Test.parquet, mine_test.jsonl, test_prefs, testset
_HELD_OUT = re.compile(
    r"(?i)(?<![a-z])(?:testing|test|validation|valid|val|development|dev|evaluation|eval)(?:[-_ ]?(?:set|data))?(?![a-z])"
)
_FILES = ", ".join(local.TABLES[:-1]) + f" or {local.TABLES[-1]}"


def open_source(dataset: str, spec: Dataset, source: str, split: str, columns: tuple[str, ...]) -> Source:
    """Open one split of a dataset; rows are numbered from 1 in the source's own order (in a .jsonl: its lines).

    Args:
        dataset: the dataset's key in the configuration, for messages.
        spec: its entry there.
        source: a file, a folder or pattern of files, a hub id, or an hf:// address.
        split: split to read, of a folder, pattern or hub dataset.
        columns: columns that may be read.

    Raises:
        UserError: when the source is missing, unreadable, of another kind of file, or cannot be loaded from the hub.
    """
    path, here = Path(source), f"datasets.{dataset}"
    remote = "://" in source
    if not remote and (path.is_dir() or local.is_pattern(source)):
        _refuse(here, spec, source, "revision", "subset")
        return _split(here, source, split, columns)
    if not remote and (path.suffix in local.SUFFIXES or path.is_file()):
        if not local.DATA_FILE.fullmatch(path.name):
            raise UserError(f"{here}.source: {source} is not a {_FILES} file; convert it.")
        if not path.is_file():
            raise UserError(f"{here}.source: the file {source} does not exist.")
        if path.stat().st_size == 0:
            raise UserError(f"{here}.source: the file {source} is empty.")
        _refuse(here, spec, source, "split", "test_split", "revision", "subset")
        opened = Source(source, columns)
        opened.rows = open_file(path, opened)
        return opened
    if source.startswith(("/", "./", "../", "~")):
        raise UserError(f"{here}.source: {source} does not exist.")
    return _hub(here, source, spec, split, columns)


def _refuse(here: str, spec: Dataset, source: str, *keys: str) -> None:
    """An option that does not apply to a local file or folder is refused, never ignored."""
    given = {key: getattr(spec, key) for key in keys if getattr(spec, key) != Dataset.model_fields[key].default}
    if given:
        kind = "single file" if "split" in keys else "folder"
        raise UserError(
            f"{here}: {', '.join(f'{key}: {value}' for key, value in given.items())} has no meaning for the {kind} {source}; "
            + ("leave split at 'train' and the others at null." if "split" in keys else "remove it.")
        )


def _split(here: str, source: str, split: str, columns: tuple[str, ...]) -> Source:
    """The files of a split, by name one after the other; ``datasets`` would interpret brackets and $NAME in paths.

    A file belongs to a split whose name its own, or that of a folder around it, begins with in any case (Train.jsonl,
    test/a.jsonl). Where none begins with train, that split has the files that are of no other; train_prefs and train_gen are
    splits of their own, as the hub has it. What ``save_to_disk`` of ``datasets`` writes is such a folder.
    """
    root = Path(source if Path(source).is_dir() else re.split(r"[*?\[]", source)[0].rpartition("/")[0] or ".")
    paths = [Path(file) for file in local.files(source) if local.DATA_FILE.fullmatch(Path(file).name)]
    found = {file: file.relative_to(root) for file in paths if not _DESCRIPTIONS.fullmatch(file.name)}
    files = [file for file, path in found.items() if _begins(path, rf"{re.escape(split)}(?!_?[a-z])")]
    longer = {name: None for path in found.values() for name in _begins(path, rf"{re.escape(split)}_[a-z]\w*")}
    if split == "train" and not files and not longer:
        others = [str(path) for path in found.values() if any(map(_HELD_OUT.search, path.parts))]
        files = [file for file, path in found.items() if str(path) not in others]
        if files and others:
            log.warning("%s: split train of %s is read without %s", here, source, ", ".join(others[:10]))
    if not files:
        names = ", ".join(map(str, list(found.values())[:10])) or "none"
        remedy = f"Name one of its splits: {', '.join(longer)}" if longer else "Check source, split and test_split"
        raise UserError(
            f"{here}: {source} has no {_FILES} file whose name begins with the split '{split}'; it has {names}. {remedy}."
        )
    opened = Source(f"{source}[{split}]", columns)
    read = [open_file(file, opened) for file in files]
    opened.rows = ((number, row) for number, (_, row) in enumerate(itertools.chain.from_iterable(read), 1))
    return opened


def _begins(path: Path, name: str) -> list[str]:
    """What of a file's name and those of its folders ``name`` matches, from their beginnings."""
    return [found[0] for part in path.parts if (found := re.match(name, part, re.I))]


def require(source: Source, dataset: str, spec: Dataset) -> None:
    """Check that the source has the columns that its format needs.

    Raises:
        UserError: which names what is missing, what is there, and the nearest name.
    """
    here = f"datasets.{dataset}"
    has = ", ".join(source.present) or "none"
    if spec.format == "preference":
        if preference.layout(source.present, spec.columns) is None:
            raise UserError(
                f"{source.name} has the columns {has}: {preference.explain(source.present, spec.columns, here)}"
            )
        return
    alternatives = rows.REQUIRED[str(spec.format)]
    lacking = [[column for column in group if column not in source.present] for group in alternatives]
    if not all(lacking):
        return
    missing = min(lacking, key=len)
    near = [(c, difflib.get_close_matches(c, source.present, n=1)) for c in missing]
    hints = "".join(f" (is '{found[0]}' meant to be '{column}'?)" for column, found in near if found)
    if preference.layout(source.present, {}):
        hints += "; format = preference reads what it has"
    expected = " or ".join(", ".join(group) for group in alternatives)
    raise UserError(
        f"{source.name} lacks the column(s) {', '.join(missing)}; it has {has}, and "
        f"{here}.format = {spec.format} needs {expected}{hints}."
    )


def _hub(here: str, source: str, spec: Dataset, split: str, columns: tuple[str, ...]) -> Source:
    """A split of a dataset of the hub, or of the files that hf://datasets/owner/name@revision/files names."""
    from datasets import Dataset as Table
    from datasets import load_dataset

    repository, revision, files = local.address(source)
    options = {"revision": revision or spec.revision} | ({"data_files": {split: files}} if files else {})
    try:
        table = load_dataset(repository, spec.subset, split=split, **options)
    except Exception as error:  # the hub's client, datasets and Arrow raise types without a common base
        said = " ".join(str(error).split())[:300]
        subset = f"subset {spec.subset}, " if spec.subset else ""
        raise UserError(
            f"{here}: cannot load '{source}' ({subset}split {split}, revision {options['revision'] or 'latest'}): {said} "
            "Check source, subset, split and revision, or fetch the data by hand and give the file's path as source."
        ) from error
    assert isinstance(table, Table)
    opened = Source(f"{source}[{split}]", columns)
    wanted = opened.add(table.column_names, source)
    opened.rows = arrow_rows(table.select_columns(wanted).with_format("arrow").iter(batch_size=256))
    return opened
