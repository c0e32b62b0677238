"""Permuted labels: which pairs are swapped, and that everything of a pair changes sides with its responses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from diffinfo.data.permuted import main, swapped
from diffinfo.tables import artifacts

ROWS = [
    {
        "prompt_id": f"p{k}", "messages": [{"role": "user", "content": f"{k} ?"}],
        "chosen": f"good {k}", "rejected": f"bad {k}",
        "chosen_score": 1.0 + k, "rejected_score": -1.0 - k, "chosen_truncated": True, "rejected_truncated": False,
    }
    for k in range(60)
]  # fmt: skip
IDS = [
    {
        "prompt_id": f"p{k}", "prompt_ids": [k], "chosen_ids": [k, 1], "rejected_ids": [k, 2, 3], "chosen_logp": -1.0 - k,
        "rejected_logp": -2.0 - k,
    }
    for k in range(0, 60, 2)
]  # fmt: skip


@pytest.fixture
def permute(tmp_path: Path):
    def run(rows: list[dict], kind: str, seed: int) -> list[dict]:
        artifacts.write(tmp_path / "in.parquet", pd.DataFrame(rows), kind, dtype="float32")
        main(pairs=tmp_path / "in.parquet", seed=seed, out=tmp_path / "out.parquet")
        assert artifacts.provenance(tmp_path / "out.parquet")["dtype"] == "float32"
        return artifacts.read(tmp_path / "out.parquet", kind).to_dict("records")

    return run


def other_way_round(row: dict) -> dict:
    """The row with every chosen_* and rejected_* exchanged, by hand."""
    sides = {"chosen": "rejected", "rejected": "chosen"}
    return {"_".join(sides.get(part, part) for part in name.split("_")): value for name, value in row.items()}


@pytest.mark.parametrize("group", [7, 100])
@pytest.mark.parametrize(("rows", "kind"), [(ROWS, "preferences"), (IDS, "reference_logps")])
def test_a_pair_is_as_it_was_or_wholly_the_other_way_round(permute, rows, kind, group, monkeypatch):
    monkeypatch.setattr(artifacts, "GROUP", group)
    found = permute(rows, kind, 3)
    turned = {row["prompt_id"] for row in found if row not in rows}
    assert found == [other_way_round(row) if row["prompt_id"] in turned else row for row in rows]
    assert len(rows) / 4 < len(turned) < 3 * len(rows) / 4


def test_the_seed_and_the_prompt_alone_decide(permute):
    """So both kinds of table swap the same pairs, whatever rows were left out between them, and seeds draw apart."""
    by_prompt = {row["prompt_id"]: row["chosen"].startswith("bad") for row in permute(ROWS, "preferences", 3)}
    ids = {row["prompt_id"]: row["chosen_ids"][1] == 2 for row in permute(IDS[::-1], "reference_logps", 3)}
    assert ids == {prompt: by_prompt[prompt] for prompt in ids}
    another = {row["prompt_id"]: row["chosen"].startswith("bad") for row in permute(ROWS, "preferences", 4)}
    assert 15 < sum(by_prompt[prompt] != another[prompt] for prompt in by_prompt) < 45


def test_half_of_the_labels_are_swapped_and_draws_are_independent():
    ids = pd.Series([f"{k:x}" for k in range(4000)])
    one, two = swapped(ids, 1), swapped(ids, 2)
    for share in (one.mean(), two.mean(), (one != two).mean(), (one[1:] != one[:-1]).mean()):
        assert abs(share - 0.5) < 4 * 0.5 / 4000**0.5
