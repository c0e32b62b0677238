"""Cards of folders that people publish: README.md with the hub's front matter; what is there, from what, how it was made.

The license is the user's to fill in. Cards do not count in a folder's digest, so that they can be edited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffinfo import __version__
from diffinfo.tables.artifacts import CARD, atomic
from diffinfo.tables.provenance import command

_LICENSE = "license: unknown # fill in: what the licenses of the base model and of the data allow"
_TABLES = {  # of a dataset's folder: subset, split, file
    "default": {"train": "preferences.parquet", "test": "heldout.parquet"},
    "prompts": {"train": "prompts.parquet", "test": "test_prompts.parquet"},
}


def model_card(folder: Path, what: str, source: str | Path | None, data: Path | None = None) -> None:
    """Write the card of a model's folder.

    Args:
        folder: that of the weights.
        what: one sentence.
        source: the hub id, or the folder, of the model that it was made from; None: it began with random weights.
        data: the table of pairs that it was trained on; None: that of ``source``, if any.
    """
    of = _front(source) if isinstance(source, Path) else {"base_model": source} if source else {}
    data_card = _front(data.parent) if data else {}
    datasets = (data_card.get("source_datasets") or [data_card.get("pretty_name", data.parent.name)]) if data else None
    front = {
        "base_model": of.get("base_model"),
        "datasets": datasets or of.get("datasets"),
        "library_name": "transformers",
        "tags": ["diffinfo"],
    }
    _write(folder, front, what)


def dataset_card(folder: Path, name: str, what: str, source: str | None = None) -> None:
    """Write the card of a dataset's folder, whose tables ``datasets.load_dataset`` then loads as splits and subsets.

    Args:
        folder: that of its tables.
        name: its key in the configuration.
        what: one sentence.
        source: hub id that it was read from.
    """
    there = {
        subset: [{"split": split, "path": file} for split, file in files.items() if (folder / file).exists()]
        for subset, files in _TABLES.items()
    }
    front = {
        "pretty_name": name,
        "source_datasets": [source] if source else None,
        "task_categories": ["text-generation"],
        "tags": ["preference", "diffinfo"],
        "configs": [{"config_name": subset, "data_files": files} for subset, files in there.items() if files],
    }
    _write(folder, front, what)


def _write(folder: Path, front: dict[str, Any], what: str) -> None:
    head = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    made = f"\nMade by:\n\n```bash\npython -m {command()}\n```\n" if command() else ""
    with atomic(folder / CARD) as temporary:
        temporary.write_text(f"---\n{_LICENSE}\n{head}---\n\n{what}\n\nMade with diffinfo {__version__}.\n{made}")


def _front(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's card; nothing where there is none, or a person has broken it."""
    try:
        found = yaml.safe_load((folder / CARD).read_text(encoding="utf-8").split("---\n")[1])
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
