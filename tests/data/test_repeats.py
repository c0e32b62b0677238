"""When two rows ask the same."""

import json

from diffinfo.config.types import Dataset
from diffinfo.data import ingest
from diffinfo.data.rows import asked, whole
from diffinfo.tables import artifacts


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def test_all_that_the_user_said_counts_and_nothing_else():
    assert asked(talk("One  ", "answer", "TWO")) == "one\ntwo"
    assert asked(talk("one", "another answer", "two")) == asked(talk("one", "answer", "two"))
    assert asked([{"role": "system", "content": "rule"}, *talk("one")]) == "one"
    assert asked(talk("three", "answer", "two")) != asked(talk("one", "answer", "two"))
    assert whole(talk("one", "another answer", "two")) != whole(talk("one", "answer", "two"))


def test_a_prompt_under_another_id_is_a_repeat_all_the_same(tmp_path):
    rows = [
        {"uuid": str(i), "instruction": text} for i, text in enumerate(["a", "b", " A ", "c", "d", "e", "f", "g", "h"])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ingest.main(
        dataset="x", spec=Dataset(format="prompts", source=str(tmp_path / "rows.jsonl"), test_prompts=2),
        source=str(tmp_path / "rows.jsonl"), prompts=tmp_path / "p.parquet", test_prompts=tmp_path / "t.parquet",
        quarantine=tmp_path / "q.parquet",
    )  # fmt: skip
    bad = artifacts.read(tmp_path / "q.parquet", "quarantine")
    assert bad[["row", "prompt_id", "reason"]].values.tolist() == [[3, "2", "the prompt occurred before"]]
    assert artifacts.read(tmp_path / "p.parquet", "prompts").prompt_id.tolist() == ["0", "1", "3", "4", "5", "6"]
    assert artifacts.read(tmp_path / "t.parquet", "prompts").prompt_id.tolist() == ["7", "8"]
