"""Files of the user's that the workflow watches: what is made from them is made again when they change."""

from __future__ import annotations

from pathlib import Path

from diffinfo.config.strict_yaml import ConfigError
from diffinfo.config.values import LINE

MOST = 10_000  # files of one folder
PATTERN = "{}<>"  # Snakemake reads {name} and <name> in a file's name as its own


def files(source: str, within: bool = True) -> list[str]:
    """A local file, or the files of a local folder in order; none where ``source`` is neither.

    Hidden files and folders do not count: tools put caches there.

    Args:
        source: path, or a hub id.
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
    for file in found:
        if not LINE.fullmatch(file.name) or any(character in str(file) for character in PATTERN):
            raise ConfigError(
                f"the name of the file {str(file)!r} holds control characters, white space around it or one of"
                f" {PATTERN}, which Snakemake reads as its own; rename it"
            )
    return sorted(map(str, found))
