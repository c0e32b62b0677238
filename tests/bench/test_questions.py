"""Benchmark files in their public schemas, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffinfo.bench import questions as module
from diffinfo.cli import UserError
from diffinfo.tables import artifacts


def lines(path: Path, rows: list[Any]) -> str:
    """Write JSON lines; bytes are written as they are."""
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return str(path)


def arena(tmp_path: Path, questions: list[Any], baseline: list[Any], **more: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    out, bad = tmp_path / "out.parquet", tmp_path / "bad.parquet"
    files = {
        "questions": lines(tmp_path / "q.jsonl", questions),
        "baseline": lines(tmp_path / "b.jsonl", baseline),
    }
    module.arena_hard(**files, out=out, quarantine=bad, **more)
    return artifacts.read(out, "benchmark"), artifacts.read(bad, "quarantine")


def answer(uid: str, text: Any = "fine") -> dict[str, Any]:
    return {"uid": uid, "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}


@pytest.mark.parametrize("file", ["question.HEAD.jsonl", "question.3071ef9.jsonl"])
def test_real_questions_in_both_schemas(tmp_path: Path, public_data: Path, file: str) -> None:
    out, bad, real = tmp_path / "out.parquet", tmp_path / "bad.parquet", public_data / "arena-hard"
    baseline = str(real / "answer.gpt-4-0314.HEAD.jsonl")
    module.arena_hard(questions=str(real / file), baseline=baseline, out=out, quarantine=bad)
    table = artifacts.read(out, "benchmark")
    assert len(table) == table.prompt_id.nunique() == 5
    assert table.baseline.str.len().min() > 0
    row = table.set_index("prompt_id").loc["328c149ed45a41c0b9d6f14659e63599"]
    assert row.messages == [
        {"role": "user", "content": "Use ABC notation to write a melody in the style of a folk tune."}
    ]
    assert artifacts.read(bad, "quarantine").empty
    assert set(artifacts.provenance(out)["inputs"]) == {"questions", "baseline"}


def test_both_schemas_may_be_mixed(tmp_path: Path) -> None:
    old = {"question_id": "b", "turns": [{"content": "old"}], "cluster": "c"}
    old_answer = {"question_id": "b", "choices": [{"turns": [{"content": "old answer"}]}]}
    table, bad = arena(
        tmp_path, [{"uid": "a", "prompt": "new"}, old], [answer("a", {"answer": "new answer"}), old_answer]
    )
    assert table.prompt_id.tolist() == ["a", "b"]
    assert table.baseline.tolist() == ["new answer", "old answer"]
    assert table.tag.tolist() == ["", "c"]
    assert bad.empty


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"uid": "x", "prompt": "cut', "invalid JSON"),
        (b'{"uid": "x", "prompt": "\xff\xfe"}', "invalid UTF-8"),
        (b"[1, 2]", "the row is a list, not a mapping"),
        (b"[" * 100_000, "invalid JSON"),
        ({"uid": "x", "prompt": "  \n"}, "the prompt is empty"),
        ({"uid": "x", "prompt": None}, "the prompt is missing or null"),
        ({"uid": "x", "prompt": "\ud800"}, "invalid UTF-8"),
        ({"prompt": "no id"}, "no uid or question_id"),
        ({"uid": 7.5, "prompt": "id is a number"}, "uid is a number, not text"),
        ({"uid": True, "prompt": "id is a truth value"}, "uid is a truth value, not text"),
        ({"uid": "x"}, "neither prompt nor turns"),
        ({"uid": "x", "turns": []}, "0 turns"),
        ({"uid": "x", "turns": [{"content": "1"}, {"content": "2"}]}, "2 turns"),
        ({"uid": "good", "prompt": "again"}, "occurred before"),
        ({"uid": "unanswered", "prompt": "?"}, "no answer to it"),
        ({"uid": "empty-answer", "prompt": "?"}, "no answer to it"),
    ],
)
def test_bad_question_is_set_aside_and_nothing_else(tmp_path: Path, row: Any, reason: str) -> None:
    good = [{"uid": "good", "prompt": "one"}, {"uid": "last", "prompt": "two"}]
    table, bad = arena(tmp_path, [good[0], row, good[1]], [answer("good"), answer("last"), answer("x")])
    assert table.prompt_id.tolist() == ["good", "last"]
    assert table.messages[0][0]["content"] == "one"
    assert len(bad) == 1
    assert reason in bad.reason[0]
    assert bad.row[0] == 2


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    asked = [{"question_id": i, "turns": [{"content": f"ask {i}"}]} for i in (0, 81)]
    replies = [{"question_id": i, "choices": [{"turns": [{"content": f"say {i}"}]}]} for i in (81, 0)]
    table, bad = arena(tmp_path, asked, replies)
    assert bad.empty
    assert table[["prompt_id", "baseline"]].to_numpy().tolist() == [["0", "say 0"], ["81", "say 81"]]
    ways = {"out": tmp_path / "w.parquet", "quarantine": tmp_path / "wbad.parquet"}
    module.wildbench(tasks=lines(tmp_path / "w.jsonl", [task(session_id=5)]), **ways)
    assert artifacts.read(ways["out"], "benchmark").prompt_id.tolist() == ["5"]
    assert module.wildbench_answer({"session_id": 5, "output": ["a"]}) == ("5", "a")


def test_texts_in_parts_and_null_beside_the_other_schema(tmp_path: Path) -> None:
    """A union of both schemas, as Parquet has it, leaves null in the columns of the other."""
    parts = [{"type": "text", "text": "say "}, "it"]
    old = {"question_id": "b", "uid": None, "prompt": None, "turns": [{"content": parts}]}
    old_answer = {"question_id": "b", "messages": None, "choices": [{"turns": [{"content": parts}]}]}
    asked = [{"uid": "a", "prompt": "new", "turns": None}, old]
    table, bad = arena(tmp_path, asked, [answer("a", {"answer": parts}), old_answer])
    assert bad.empty
    assert [messages[0]["content"] for messages in table.messages] == ["new", "say it"]
    assert table.baseline.tolist() == ["say it", "say it"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (answer("x", [{"type": "text", "text": "a"}, {"type": "image"}]), "the answer has a part that is not text"),
        (answer("x", [{"type": "reasoning", "text": "a"}]), "the answer has a part that is not text"),
        (answer("x", []), "the answer is empty"),
        (answer("x", {"answer": " "}), "answer is empty"),
        (answer("x", {"text": "?"}), "neither messages nor choices"),
        (answer("x", None), "answer is missing or null"),
        ({"uid": "x", "messages": []}, "neither messages nor choices"),
        ({"uid": "x", "messages": "text"}, "neither messages nor choices"),
        ({"uid": "x", "messages": [{"role": "user", "content": "?"}]}, "not the assistant's"),
        ({"uid": "x", "choices": [{"turns": []}]}, "neither messages nor choices"),
        (answer("good", "second"), "occurred before"),
    ],
)
def test_bad_baseline_answer(tmp_path: Path, row: Any, reason: str) -> None:
    prompts = [{"uid": "good", "prompt": "one"}, {"uid": "x", "prompt": "two"}]
    table, bad = arena(tmp_path, prompts, [answer("good"), row])
    assert table.prompt_id.tolist() == ["good"]
    assert table.baseline.tolist() == ["fine"]
    assert reason in bad.reason[0]
    assert bad.source[0].endswith("b.jsonl")
    assert bad.reason[1] == "the baseline has no answer to it"  # the question whose answer is gone


def test_limit_takes_the_first_good_questions(tmp_path: Path) -> None:
    rows = [{"uid": "bad", "prompt": ""}, *({"uid": str(i), "prompt": "?"} for i in range(9))]
    table, bad = arena(tmp_path, rows, [answer(str(i)) for i in range(9)], limit=3)
    assert table.prompt_id.tolist() == ["0", "1", "2"]
    assert len(bad) == 1


def test_files_of_no_use_fail_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no usable question; the first of 2 bad rows"):
        arena(tmp_path, [{"uid": "a", "prompt": "?"}], [answer("a", "")])
    with pytest.raises(UserError, match="no usable question"):
        arena(tmp_path, [], [])
    ways = {"out": tmp_path / "o.parquet", "quarantine": tmp_path / "q.parquet"}
    with pytest.raises(UserError, match="does not exist"):
        module.wildbench(tasks=str(tmp_path / "absent.jsonl"), **ways)
    with pytest.raises(UserError, match=r"are \.jsonl or \.parquet"):
        module.wildbench(tasks=str(tmp_path / "tasks.csv"), **ways)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="cannot be read"):
        module.wildbench(tasks=str(tmp_path / "cut.parquet"), **ways)


def task(**changes: Any) -> dict[str, Any]:
    return {
        "session_id": "s",
        "conversation_input": [
            {"role": "user", "content": "a", "language": "English"},
            {"role": "assistant", "content": "b", "language": "English"},
            {"role": "user", "content": "c", "language": "English"},
        ],
        "checklist": ["one", "two"],
        "references": {"gpt-4": "reference"},
        "primary_tag": "Math",
        "secondary_tags": ["Planning", "Math"],
    } | changes


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_wildbench_tasks(tmp_path: Path, kind: str) -> None:
    rows = [
        task(references={"empty": " ", "gpt-4": "reference", "other": "another"}),
        task(session_id="t", references={"gpt-4": None}, secondary_tags=[]),
    ]
    rows += (
        [task(session_id="u", secondary_tags="Reasoning")] if kind == "jsonl" else []
    )  # a column of Parquet has one type
    if kind == "jsonl":
        source = lines(tmp_path / "t.jsonl", rows)
    else:
        source = str(tmp_path / "t.parquet")
        pd.DataFrame(rows).to_parquet(source)
    out, bad = tmp_path / "out.parquet", tmp_path / "bad.parquet"
    module.wildbench(tasks=source, out=out, quarantine=bad)
    table = artifacts.read(out, "benchmark")
    assert table.tag.tolist() == ["Math; Planning", "Math", "Math; Reasoning"][: len(rows)]
    assert table.checklist[0] == ["one", "two"]
    assert [message["content"] for message in table.messages[0]] == ["a", "b", "c"]
    assert table.baseline[0] == "reference"
    assert pd.isna(table.baseline[1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conversation_input": []}, "no conversation_input"),
        ({"conversation_input": "text"}, "no conversation_input"),
        ({"conversation_input": [{"role": "assistant", "content": "a"}]}, "does not end with the user's turn"),
        ({"conversation_input": [{"role": "tool", "content": "a"}, {"role": "user", "content": "a"}]}, "user's turn"),
        ({"conversation_input": [{"role": "user", "content": ""}]}, "a turn is empty"),
        ({"checklist": []}, "no checklist"),
        ({"secondary_tags": 5}, "secondary_tags is a number, not a list of tags"),
        ({"secondary_tags": {"Math": 1}}, "secondary_tags is a mapping, not a list of tags"),
        ({"checklist": ["fine", None]}, "an item of the checklist is missing or null"),
        ({"primary_tag": "Maths"}, "unknown tag 'Maths'"),
        ({"primary_tag": None}, "unknown tag"),
        ({"session_id": ""}, "no session_id"),
    ],
)
def test_bad_wildbench_task(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    source = lines(tmp_path / "t.jsonl", [task(**changes), task(session_id="good")])
    out, bad = tmp_path / "out.parquet", tmp_path / "bad.parquet"
    module.wildbench(tasks=source, out=out, quarantine=bad)
    assert artifacts.read(out, "benchmark").prompt_id.tolist() == ["good"]
    assert reason in artifacts.read(bad, "quarantine").reason[0]


def test_answers_meet_their_questions(questions: Path, write_answers: Any) -> None:
    asked = artifacts.read(questions, "benchmark")
    first = write_answers("1-1", {1: {"q1": " two words ", "q0": "", "q2": "three words here"}}, cut="q2")
    second = write_answers("2-2", {2: {"q1": "x"}})
    found = module.answered([second, first], asked)
    assert found[["epoch", "prompt_id"]].values.tolist() == [[1, "q0"], [1, "q1"], [1, "q2"], [2, "q1"]]
    assert found.tokens.tolist() == [0, 2, 3, 1]  # the end of turn does not count
    assert found.chars.tolist() == [0, 9, 16, 1]
    assert found.truncated.tolist() == [False, False, True, False]
    assert found.baseline[1] == "baseline answer 1"
    assert module.answered([first, second], asked, only_epoch=2).prompt_id.tolist() == ["q1"]
    with pytest.raises(UserError, match="no answers to arena-hard of epoch 3"):
        module.answered([first, second], asked, only_epoch=3)
    with pytest.raises(UserError, match="two answers of one epoch"):
        module.answered([first, first], asked)
    with pytest.raises(UserError, match="the benchmark table lacks, such as 'q9'"):
        module.answered([write_answers("3-3", {3: {"q9": "x"}})], asked)


@pytest.mark.parametrize("name", ["it's $(touch pwned) [a,b]::c.jsonl", "*.jsonl", "-x.jsonl"])
def test_a_file_name_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text('{"uid": "1", "prompt": "a"}\n{"uid": 1' + "0" * 5000 + "}\n")
    Path("b.jsonl").write_text('{"uid": "1", "messages": [{"role": "assistant", "content": "b"}]}\n')
    module.arena_hard(questions=name, baseline="b.jsonl", out=Path("o.parquet"), quarantine=Path("q.parquet"))
    assert list(artifacts.read(Path("o.parquet"), "benchmark").prompt_id) == ["1"]
    assert list(artifacts.read(Path("q.parquet"), "quarantine").reason) == ["invalid JSON"]


def test_a_broken_byte_in_parquet_costs_its_row_alone(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"caf\xe9"], pa.binary())
    prompts = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
    pq.write_table(pa.table({"uid": ["1", "2"], "prompt": prompts}), tmp_path / "q.parquet")
    (tmp_path / "b.jsonl").write_text('{"uid": "1", "messages": [{"role": "assistant", "content": "b"}]}\n')
    files = {"questions": str(tmp_path / "q.parquet"), "baseline": str(tmp_path / "b.jsonl")}
    module.arena_hard(**files, out=tmp_path / "o.parquet", quarantine=tmp_path / "left.parquet")
    assert list(artifacts.read(tmp_path / "o.parquet", "benchmark").prompt_id) == ["1"]
    assert list(artifacts.read(tmp_path / "left.parquet", "quarantine").reason) == ["invalid UTF-8"]
