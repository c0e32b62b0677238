"""Small raw datasets in the public formats, and a way to ingest them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffinfo.config.types import Dataset
from diffinfo.data.ingest import main
from diffinfo.tables import artifacts

Row = dict[str, Any]


def talk(prompt: str, answer: Any) -> list[Row]:
    return [{"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]


def magpie(index: int, **changes: Any) -> Row:
    """A ready Magpie pair whose scores are those of its responses."""
    prompt = f"Question {index}?"
    row = {
        "uuid": f"m{index}",
        "instruction": prompt,
        "responses": [f"fair {index}", f"good {index}", f"bad {index}"],
        "rewards_armorm": [{"score": 0.5}, {"score": 0.9}, {"score": 0.1}],
        "chosen": talk(prompt, f"good {index}"),
        "rejected": talk(prompt, f"bad {index}"),
    }
    return row | changes


def ranked(index: int, **changes: Any) -> Row:
    """A Magpie row before its pair is made."""
    return {k: v for k, v in magpie(index).items() if k not in ("chosen", "rejected")} | changes


def ultrafeedback(index: int, **changes: Any) -> Row:
    prompt = f"Question {index}?"
    row = {
        "prompt": prompt,
        "prompt_id": f"u{index}",
        "chosen": talk(prompt, f"good {index}"),
        "rejected": talk(prompt, f"bad {index}"),
        "messages": talk(prompt, f"good {index}"),
        "score_chosen": 8.0,
        "score_rejected": 3.5,
    }
    return row | changes


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as the suffix says; a row that is bytes is written as it is (.jsonl)."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_bytes(b"".join(r + b"\n" if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows))
    return path


@pytest.fixture
def write() -> Callable[[Path, list[Any]], Path]:
    return write_rows


MAKERS = {
    "magpie": magpie,
    "ranked": ranked,
    "ultrafeedback": ultrafeedback,
    "prompts": lambda index, **changes: {"uuid": f"p{index}", "instruction": f"Question {index}?"} | changes,
}


@pytest.fixture
def make() -> Callable[..., Any]:
    """``make(kind, 3, ...)`` is row 3 of a kind with some columns changed; ``...`` takes one out."""

    def one(kind: str, index: int, **changes: Any) -> Row:
        return {key: value for key, value in MAKERS[kind](index, **changes).items() if value is not ...}

    return one


@dataclass
class Ingested:
    folder: Path
    prompts: pd.DataFrame
    test: pd.DataFrame
    quarantine: pd.DataFrame
    preferences: pd.DataFrame | None
    heldout: pd.DataFrame | None

    @property
    def ids(self) -> list[str]:
        """Prompts kept, training first."""
        return [*self.prompts.prompt_id, *self.test.prompt_id]


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., Ingested]:
    """Ingest rows (written to a file first) or a source as it is."""

    def run(
        rows: list[Any] | str,
        name: str = "set",
        suffix: str = ".jsonl",
        disjoint: list[Path] | None = None,
        **spec: Any,
    ) -> Ingested:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        source = rows if isinstance(rows, str) else str(write_rows(tmp_path / f"{name}{suffix}", rows))
        entry = Dataset(**({"format": "magpie", "source": source} | spec))
        pairs = entry.format != "prompts"
        kinds = ("prompts", "test_prompts", "quarantine", "preferences", "heldout")
        files = {k: folder / f"{k}.parquet" for k in kinds}
        main(
            dataset=name, spec=entry, source=source, prompts=files["prompts"], test_prompts=files["test_prompts"],
            quarantine=files["quarantine"], preferences=files["preferences"] if pairs else None,
            heldout=files["heldout"] if pairs else None, disjoint_from=disjoint or [],
        )  # fmt: skip
        return Ingested(
            folder,
            artifacts.read(files["prompts"], "prompts"),
            artifacts.read(files["test_prompts"], "prompts"),
            artifacts.read(files["quarantine"], "quarantine"),
            *(artifacts.read(files[k], "preferences") if pairs else None for k in ("preferences", "heldout")),
        )

    return run
