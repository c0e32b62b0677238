"""The only reader of YAML: a key given twice is a fault, and the rule by which files merge (reading.load says which)."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from diffinfo.cli import UserError


class ConfigError(UserError):
    """Every fault of a configuration, one line each."""


LARGEST = 1_000_000  # bytes of a file
MOST = 100_000  # values in it


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


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    value = int(loader.construct_yaml_int(node))  # type: ignore[no-untyped-call]
    if abs(value) >= 2**64:  # written in base 16 it may have more digits than Python prints
        raise ConfigError(f"{node.start_mark.name}, line {node.start_mark.line + 1}: the number is too large.")
    return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node expands to, aliases written out; ``known``: those of other nodes, by identity."""
    if id(node) not in known:
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        else:
            inner = node.value if isinstance(node, yaml.SequenceNode) else []
        known[id(node)] = 1 + sum(_weight(part, known) for part in inner)
    return known[id(node)]


def read_yaml(file: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: when the file is missing, is not YAML, holds no mapping, gives a key twice, or is too large, also once
            its aliases are written out (a few lines may expand to terabytes).
    """
    try:
        with open(file, "rb") as handle:
            content = handle.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{file} is larger than {LARGEST} bytes; no configuration is.")
        loader = _StrictLoader(content)
        loader.name = str(file)
        node = loader.get_single_node()
        if node is not None and _weight(node, {}) > MOST:
            raise ConfigError(f"{file} expands to more than {MOST} values; take out aliases (*name).")
        value = loader.construct_document(node) if node is not None else None  # type: ignore[no-untyped-call]
    except FileNotFoundError as error:
        raise ConfigError(f"{file} does not exist.") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deeply, or an alias refers to what contains it.") from error
    except yaml.MarkedYAMLError as error:
        mark, began = error.problem_mark, error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        around = f" ({error.context} of line {began.line + 1})" if began else ""
        raise ConfigError(f"{file}{where} is not valid YAML: {error.problem}{around}") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} must hold a mapping of keys, it holds {type(value).__name__}.")
    return value


def merge(base: dict[str, Any], over: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Merge mappings key by key; ``key+`` adds to the list ``key``; anything else is replaced, lists too.

    Args:
        base: the values so far.
        over: what is merged over them.
        where: file and path of ``over``, to be named.

    Raises:
        ConfigError: where ``key+`` is no list, or there is none that it can be added to.
    """
    merged = dict(base)
    for key, value in over.items():
        name = key.removesuffix("+") if isinstance(key, str) else key
        if isinstance(value, dict):
            inner = base[key] if isinstance(base.get(key), dict) else {}
            merged[key] = merge(inner, value, f"{where}{key}.")
        elif name == key:
            merged[key] = value
        elif name in over:
            raise ConfigError(f"{where}{key}: the same file gives '{name}' too; write all into '{name}'.")
        elif not isinstance(value, list):
            raise ConfigError(f"{where}{key}: must be a list, which is added to '{name}', got {value!r}.")
        elif not isinstance(base.get(name), list):
            lists = [str(known) for known, held in base.items() if isinstance(held, list)]
            near = difflib.get_close_matches(str(name), lists, n=1)
            remedy = f"did you mean '{near[0]}+'?" if near else f"write '{name}'."
            raise ConfigError(f"{where}{key}: no file before gives a list '{name}' to add to; {remedy}")
        else:
            merged[name] = base[name] + value
    return merged
