"""Arena-Hard v2: a baseline, a prompt and a win rate of each category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffinfo.bench import arena_hard as module
from diffinfo.bench import prompts
from diffinfo.bench import questions as benchmarks
from diffinfo.cli import UserError
from diffinfo.tables import artifacts


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two hard questions and a creative one, in v2's schema, and each category's baseline, which answers all of them."""
    kinds = {"h0": "hard_prompt", "h1": "hard_prompt", "c0": "creative_writing"}
    rows = {"questions": [{"uid": uid, "category": kind, "prompt": f"about {uid}"} for uid, kind in kinds.items()]}
    for name in ("hard", "soft"):
        rows[name] = [{"uid": uid, "messages": [{"content": {"answer": f"{name} {uid}"}}]} for uid in kinds]
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def test_each_category_has_its_baseline_its_prompt_and_its_win_rate(
    files: dict[str, str], loopback: Any, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    table = tmp_path / "questions.parquet"
    categories = {"hard_prompt": files["hard"], "creative_writing": files["soft"]}
    benchmarks.arena_hard(
        questions=files["questions"], categories=categories, out=table, quarantine=tmp_path / "bad.parquet"
    )
    asked = artifacts.read(table, "benchmark").set_index("prompt_id")
    assert asked.baseline.to_dict() == {"h0": "hard h0", "h1": "hard h1", "c0": "soft c0"}
    assert asked.tag.to_dict() == {"h0": "hard_prompt", "h1": "hard_prompt", "c0": "creative_writing"}

    def reply(body: dict[str, Any], number: int) -> str:  # ours wins h0 by far, loses h1, and is slightly better in c0
        text = body["messages"][1]["content"]
        first = text.index("ours") < max(text.find("hard h"), text.find("soft c"))
        ours, theirs = ("A", "B") if first else ("B", "A")
        if "about h0" in text:
            return f"[[{ours}>>{theirs}]]"
        return f"[[{theirs}>{ours}]]" if "about h1" in text else f"[[{ours}>{theirs}]]"

    loopback.reply = reply
    module.main(
        answers=[write_answers("a", {1: dict.fromkeys(asked.index, "ours")})], questions=table, cache=tmp_path / "cache",
        settings=module.Settings(judge=loopback.config()), tokenizer=words, judgments=tmp_path / "judgments.parquet",
        winrates=tmp_path / "winrates.parquet", categories=tmp_path / "categories.parquet",
    )  # fmt: skip
    found = artifacts.read(tmp_path / "categories.parquet", "categories").set_index("category")
    assert found.win_rate.to_dict() == {"creative_writing": 100, "hard_prompt": 100 * 6 / 8}
    assert found.games.to_dict() == {"creative_writing": 2, "hard_prompt": 4}
    assert found.low["hard_prompt"] < 75 < found.high["hard_prompt"]
    whole = artifacts.read(tmp_path / "winrates.parquet", "winrates")
    assert whole.win_rate.tolist() == [100 * 8 / 10]
    own = {
        body["messages"][1]["content"].split("about ")[1][:2]: "write your own answer" in body["messages"][0]["content"]
        for body in loopback.bodies
    }
    assert own == {"h0": True, "h1": True, "c0": False}


def test_the_creative_prompt_lacks_the_judges_own_answer_alone() -> None:
    whole, creative = prompts.VERDICT["system"], prompts.CATEGORIES["creative_writing"]["system"]
    assert "First write your own answer" in whole
    assert "your own" not in creative
    assert "with yours" not in creative
    assert set(creative.splitlines()) - set(whole.splitlines()) == {
        "Compare both answers. Point out and correct every mistake and every inaccurate statement."
    }


def test_a_category_without_a_baseline_is_a_sentence(files: dict[str, str], tmp_path: Path) -> None:
    given: dict[str, Any] = {"questions": files["questions"], "categories": {"hard_prompt": files["hard"]}}
    with pytest.raises(
        UserError,
        match=r"category 'creative_writing' of question c0 has no baseline: add arena_hard.categories.creative_",
    ):
        benchmarks.arena_hard(**given, out=tmp_path / "q.parquet", quarantine=tmp_path / "bad.parquet")


def test_a_category_is_judged_in_the_users_words(files: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("system_prompt: as I say")
    table = tmp_path / "q.parquet"
    categories = {"hard_prompt": files["hard"], "creative_writing": files["soft"]}
    benchmarks.arena_hard(
        questions=files["questions"], categories=categories, category_prompts={"creative_writing": str(own)},
        out=table, quarantine=tmp_path / "bad.parquet",
    )  # fmt: skip
    found = prompts.by_category(table)
    assert found["creative_writing"]["system"] == "as I say"
    assert found["hard_prompt"] == prompts.VERDICT
