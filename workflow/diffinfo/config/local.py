"""Local files that the workflow watches: when they change, whatever depends on them is made again."""

from __future__ import annotations

import re
from glob import iglob
from pathlib import Path

from diffinfo.config.strict_yaml import ConfigError
from diffinfo.config.values import LINE

MOST = 10_000  # files of one folder
TABLES = (".parquet", ".json", ".jsonl", ".csv", ".arrow")  # files that hold rows; JSON and CSV may be compressed
SUFFIXES = (*TABLES, ".gz", ".zst", ".tsv", ".txt", ".zip", ".xlsx", ".yaml", ".yml")  # what ends so is no hub id
DATA_FILE = re.compile(r".*\.(parquet|arrow|(jsonl?|csv)(\.(gz|zst))?)")
PATTERN = "{}<>"  # Snakemake reads {name} and <name> in a file's name as its own syntax


def files(source: str, within: bool = True) -> list[str]:
    """A local file, or the files of a local folder or pattern in order; none where ``source`` is none of these.

    Hidden files and folders are ignored: tools put caches there.

    Args:
        source: path, pattern (``data/*.jsonl``; ``**`` is any folders), or a hub id.
        within: whether folders of the folder are read too.

    Raises:
        ConfigError: when a name cannot be an input of Snakemake's, or the folder holds more than ``MOST`` files.
    """
    path = Path(source)
    found = [path] if source and path.is_file() else []
    if source and path.is_dir():
        for file in path.rglob("*") if within else path.iterdir():
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
                found.append(file)
            if len(found) > MOST:
                raise ConfigError(f"{source} holds more than {MOST} files; name the folder that holds the data alone")
    if not found and is_pattern(source):
        found = [file for name in iglob(source, recursive=True) if (file := Path(name)).is_file()]
    for file in found:
        if not LINE.fullmatch(file.name) or any(character in str(file) for character in PATTERN):
            raise ConfigError(
                f"the name of the file {str(file)!r} holds control characters, white space around it or one of"
                f" {PATTERN}, which Snakemake reads as its own; rename it"
            )
    return sorted(map(str, found))


def is_pattern(source: str) -> bool:
    """Whether ``source`` stands for the local files that it matches; a path that is there is always itself."""
    return any(mark in source for mark in "*?[") and "://" not in source and not Path(source).exists()


def address(source: str) -> tuple[str, str | None, str]:
    """Repository, revision and files (or a pattern of them) of hf://datasets/owner/name@revision/files, or of a hub id."""
    found = re.fullmatch(r"(?:hf://datasets/)?([^/@]+(?:/[^/@]+)?)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?", source)
    return (found[1], found[2], found[3] or "") if found else (source, None, "")
