"""Configuration files: read, merged and checked.

``python -m diffinfo.config.reading schema`` prints the JSON schema kept in workflow/schemas/config.schema.json;
``python -m diffinfo.config.reading check --file FILE --over FILE`` lists every fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffinfo.cli import run
from diffinfo.config.checks import CheckedConfig, listed
from diffinfo.config.strict_yaml import ConfigError, merge, read_yaml
from diffinfo.config.types import Config


def parse(values: dict[str, Any], files: Iterable[Path | str] = ()) -> Config:
    """Check a configuration.

    Args:
        values: the merged mapping.
        files: the files it came from, to be named.

    Raises:
        ConfigError: with one line per fault: key path, value, and the nearest valid key.
    """
    try:
        return CheckedConfig.model_validate(values)
    except ValidationError as error:
        lines = listed(error, values)
        named = f" ({', '.join(str(f) for f in files)})" if files else ""
        raise ConfigError(f"the configuration{named} has {len(lines)} fault(s):\n  " + "\n  ".join(lines)) from error


def load(file: Path | str | None, *over: Path | str, values: dict[str, Any] | None = None) -> Config:
    """Read, merge and check configuration files.

    Args:
        file: what the others are merged over (config.yaml), unless the first of them says ``base: defaults``.
        over: merged key by key, later ones over earlier ones; ``grid+`` adds to the list ``grid``.
        values: merged over all of them (Snakemake's --config).

    Raises:
        ConfigError: when a file cannot be read, a preset is not the first of ``over``, or with one line per fault.
    """
    parts = [(Path(name), read_yaml(Path(name))) for name in over]
    if late := [name for name, part in parts[1:] if part.get("base")]:
        raise ConfigError(f"{late[0]} says 'base: defaults', so no file may come before it; name it before {over[0]}.")
    if "base" in (values or {}):
        raise ConfigError("base: --config cannot say where a file starts from; write 'base: defaults' into the file.")
    if file and not (parts and parts[0][1].get("base") == "defaults"):
        parts.insert(0, (Path(file), read_yaml(Path(file))))
    merged: dict[str, Any] = {}
    for name, part in (*parts, ("--config", values or {})):
        merged = merge(merged, part, f"{name}: ")
    return parse(merged, [name for name, _ in parts])


def schema() -> None:
    """Print the JSON schema of the configuration."""
    print(json.dumps(Config.model_json_schema(), indent=2))


def check(file: Path = Path("config.yaml"), over: Path | None = None) -> None:
    """Check a configuration and print how many grid cells it names.

    Args:
        file: the configuration.
        over: a second file merged over it, or in its place where that says ``base: defaults``.
    """
    config = load(file, *([over] if over else []))
    print(f"{sum(len(config.methods(row)) for row in config.grid)} cells in {len(config.grid)} grid rows")


def root(file: Path = Path("config.yaml"), over: str = "") -> None:
    """Print the folder of the results.

    Args:
        file: the configuration.
        over: files merged over it, with spaces between them; a first one that says ``base: defaults`` takes its place.
    """
    print(load(file, *over.split()).results)


if __name__ == "__main__":
    run({"schema": schema, "check": check, "root": root}, positional=False)
