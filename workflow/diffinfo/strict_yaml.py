"""The only reader of YAML: a key given twice is a fault, and files merge as Snakemake merges them (config.load says which)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffinfo.cli import UserError


class ConfigError(UserError):
    """Every fault of a configuration, one line each."""


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is a fault, not a silent overwrite."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    keys = [loader.construct_object(key, deep=True) for key in own]  # type: ignore[no-untyped-call]
    for index, (key, found) in enumerate(zip(own, keys, strict=True)):
        where = f"{node.start_mark.name}, line {key.start_mark.line + 1}"
        if isinstance(found, (list, dict)):
            raise ConfigError(f"{where}: a key must be a name, not {found!r}.")
        if found in keys[:index]:
            raise ConfigError(f"{where}: the key '{found}' is given twice; remove one.")
    loader.flatten_mapping(node)  # merge keys: "<<: *anchor"
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}  # type: ignore[no-untyped-call]


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(file: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: when the file is missing, is no YAML, holds no mapping or gives a key twice.
    """
    try:
        with open(file, encoding="utf-8") as handle:
            value = yaml.load(handle, _StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{file} does not exist.") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} must hold a mapping of keys, it holds {type(value).__name__}.")
    return value


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, anything else is replaced: Snakemake's rule for several config files."""
    return base | {
        key: merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
