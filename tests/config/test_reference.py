"""Every key of the configuration is described, in the schema and in docs/config.md."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from diffinfo.config import reference
from diffinfo.config.strict_yaml import read_yaml
from diffinfo.config.types import Config

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
PAGE = (ROOT / "docs/config.md").read_text()


def classes(annotation: object) -> list[type[BaseModel]]:
    """The sections that a key's annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in classes(part)]


def row(heading: str, key: str) -> list[str]:
    """A key's row of the page: type, default, value in config.yaml, meaning."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    (cells,) = re.findall(rf"^\| `{key}` \|(.*)\|$", section, re.M)
    return [cell.strip() for cell in cells.split(" | ")]


def test_every_key_has_a_description() -> None:
    for name, section in {"Config": SCHEMA, **SCHEMA["$defs"]}.items():
        assert section["description"]
        for key, value in section["properties"].items():
            described = value if "description" in value else SCHEMA["$defs"][value["$ref"].rpartition("/")[2]]
            assert len(described["description"]) > 10, f"{name}.{key}: give it Field(..., description=...)"


def test_the_page_is_what_is_generated(capsys: pytest.CaptureFixture[str]) -> None:
    reference.main(ROOT / "config.yaml")
    assert capsys.readouterr().out == PAGE, "make it again: make schema"


def test_the_page_has_every_key_of_every_section() -> None:
    sections = {section for field in Config.model_fields.values() for section in classes(field.annotation)}
    single = [key for key, field in Config.model_fields.items() if not isinstance(field.annotation, type) or
              not issubclass(field.annotation, BaseModel)]  # fmt: skip
    expected = sorted(single + [key for section in sections for key in section.model_fields])
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) == expected


def test_values_of_config_yaml_stand_beside_the_defaults() -> None:
    micro = read_yaml(ROOT / "config.yaml")
    for name, section in micro.items():
        if name in ("models", "datasets", "judges", "grid"):
            for entry in section if isinstance(section, list) else section.values():
                for key, value in entry.items():
                    shown = row(f"{name}[]" if name == "grid" else f"{name}.<name>", key)[2]
                    assert (value if isinstance(value, str) else json.dumps(value)) in re.findall("`(.*?)`", shown)
        for key, value in (
            section.items() if isinstance(section, dict) and name not in ("models", "datasets", "judges") else ()
        ):
            assert row(name, key)[2] == f"`{value if value and isinstance(value, str) else json.dumps(value)}`"


@pytest.mark.parametrize(
    ("heading", "key", "cells"),
    [
        ("Top level", "base", ["`defaults` or null", "`null`", "not set"]),
        ("Top level", "betas", ["list of number, > 0, length ≥ 1", "required", "`[0.2, 0.1, 0.05, 0.02]`"]),
        ("Top level", "models", ["mapping of Model", "required", "see below"]),
        ("world", "hidden", ["integer, ≥ 16, multiple of 16", "`96`", "`96`"]),
        ("models.<name>", "chat_template_date", ["date", "`2024-07-26`", "not set"]),
        ("sampling", "top_p", ["number, > 0, ≤ 1", "`1.0`", "`1.0`"]),
        ("qa", "limit", ["integer, ≥ 1 or null", "`null`", "not set"]),
    ],
)
def test_types_limits_and_defaults(heading: str, key: str, cells: list[str]) -> None:
    assert row(heading, key)[:3] == cells
