"""Bad rows cost themselves and no other: each is quarantined with its number, reason and excerpt."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffinfo.cli import UserError

Make = Callable[..., dict[str, Any]]


def talk(*contents: Any, roles: str = "user assistant") -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in zip(roles.split(), contents, strict=True)]


NAN = float("nan")
ASK = "Question 2?"
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "prompt-missing": ("magpie", {"instruction": ...}, "instruction is missing or null"),
    "prompt-null": ("prompts", {"instruction": None}, "instruction is missing or null"),
    "prompt-empty": ("magpie", {"instruction": ""}, "instruction is empty"),
    "prompt-blank": ("ultrafeedback", {"prompt": " \n\t"}, "prompt is empty"),
    "prompt-number": ("prompts", {"instruction": 7}, "instruction is a number, not text"),
    "prompt-nul": ("magpie", {"instruction": "a\x00b"}, "instruction holds the control character U+0000"),
    "prompt-escape": ("prompts", {"instruction": "a\x1b[0m"}, "instruction holds the control character U+001B"),
    "prompt-surrogate": ("prompts", {"instruction": "a\ud800"}, "instruction is invalid UTF-8"),
    "response-null": ("magpie", {"chosen": talk(ASK, None)}, "chosen's assistant message is missing or null"),
    "response-empty": ("ultrafeedback", {"rejected": talk(ASK, " ")}, "rejected's assistant message is empty"),
    "response-nul": ("ultrafeedback", {"chosen": talk(ASK, "x\x00")},
                     "chosen's assistant message holds the control character U+0000"),
    "response-list": ("magpie", {"chosen": talk(ASK, ["x"])}, "chosen's assistant message is a list, not text"),
    "rejected-absent": ("magpie", {"rejected": None}, "rejected is missing or null"),
    "chosen-absent": ("ultrafeedback", {"chosen": ...}, "chosen is missing or null"),
    "identical": ("magpie", {"rejected": talk(ASK, "good 2\n")}, "chosen and rejected are the same text"),
    "messages-text": ("ultrafeedback", {"chosen": "good"}, "chosen is text, not a list of messages"),
    "messages-mapping": ("magpie", {"rejected": {"role": "user"}}, "rejected is a mapping, not a list of messages"),
    "messages-of-text": ("magpie", {"rejected": [ASK, "bad"]}, "rejected holds something that is not a message"),
    "no-messages": ("ultrafeedback", {"chosen": []},
                    "chosen must take turns from user to assistant, its roles are: none"),
    "roles-unknown": ("magpie", {"chosen": talk(ASK, "x", roles="narrator poet")},
                      "chosen must take turns from user to assistant, its roles are: narrator, poet"),
    "tool-calls": ("ultrafeedback", {"chosen": [talk(ASK, "x")[0], talk(ASK, "x")[1] | {"tool_calls": ["f"]}]},
                   "chosen has a message with tool_calls, which is not trained on"),
    "roles-without-answer": ("ultrafeedback", {"rejected": talk(ASK, roles="user")},
                             "rejected must take turns from user to assistant, its roles are: user"),
    "roles-system-late": ("magpie", {"chosen": talk(ASK, "s", "x", roles="user system assistant")},
                          "chosen must take turns from user to assistant, its roles are: user, system, assistant"),
    "two-prompts": ("magpie", {"rejected": talk("Another?", "bad")}, "chosen and rejected answer different prompts"),
    "another-prompt": ("ultrafeedback", {"prompt": "Another?"},
                       "chosen and rejected answer another prompt than the row's"),
    "score-null": ("ultrafeedback", {"score_chosen": None}, "score_chosen is missing or null"),
    "score-nan": ("ultrafeedback", {"score_rejected": NAN}, "score_rejected is nan"),
    "score-infinite": ("ultrafeedback", {"score_chosen": float("inf")}, "score_chosen is inf"),
    "score-text": ("ultrafeedback", {"score_chosen": "eight"}, "score_chosen is the text 'eight', not a number"),
    "score-truth": ("ultrafeedback", {"score_chosen": True}, "score_chosen is a truth value, not a number"),
    "score-tied": ("ultrafeedback", {"score_rejected": 8}, "the scores of chosen and rejected tie"),
    "score-reversed": ("ultrafeedback", {"score_rejected": 9}, "chosen scores lower than rejected"),
    "pair-tied": ("magpie", {"rewards_armorm": [{"score": 1}] * 3}, "the scores of chosen and rejected tie"),
    "best-and-worst-tied": ("ranked", {"rewards_armorm": [{"score": 1}] * 3}, "the best and worst scores tie"),
    "best-is-worst": ("ranked", {"responses": ["x", "y", "y "]}, "chosen and rejected are the same text"),
    "rewards-fewer": ("ranked", {"rewards_armorm": [{"score": 1}, {"score": 2}]}, "3 responses have 2 rewards"),
    "rewards-more": ("magpie", {"responses": ["good 2", "bad 2"]}, "2 responses have 3 rewards"),
    "rewards-null": ("ranked", {"rewards_armorm": None}, "rewards_armorm is missing or null"),
    "reward-nan": ("ranked", {"rewards_armorm": [{"score": 1}, {"score": NAN}, {"score": 0}]},
                   "the score of response 2 is nan"),
    "reward-without-score": ("ranked", {"rewards_armorm": [{"score": 1}, {"points": 2}, {"score": 0}]},
                             "the score of response 2 is missing or null"),
    "responses-text": ("ranked", {"responses": "x"}, "responses is text, not a list"),
    "responses-one": ("ranked", {"responses": ["x"], "rewards_armorm": [{"score": 1}]},
                      "there are fewer than two responses"),
    "responses-hold-null": ("ranked", {"responses": [None, "x", "y"]}, "response 1 is null, not text"),
    "worst-is-empty": ("ranked", {"responses": ["x", "y", ""]}, "response 3 is empty"),
    "id-is-a-list": ("prompts", {"uuid": ["p"]}, "the prompt's id is a list, not text or a whole number"),
    "id-is-a-fraction": ("prompts", {"uuid": 1.5}, "the prompt's id is the number 1.5, not text or a whole number"),
    "prompt-again": ("prompts", {"instruction": "Question 1?"}, "the prompt occurred before"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(("kind", "changes", "reason"), BAD.values(), ids=BAD)
def test_a_bad_row_is_counted_and_the_good_survive(
    ingest: Any, make: Make, kind: str, changes: dict[str, Any], reason: str, suffix: str
) -> None:
    good = [make(kind, index) for index in (0, 1, 3, 4, 5, 6)]
    rows = [*good[:2], make(kind, 2, **changes), *good[2:]]
    done = ingest(rows, suffix=suffix, format="magpie" if kind == "ranked" else kind)
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [(3, reason)]
    assert done.ids == [row.get("uuid", row.get("prompt_id")) for row in good]
    assert done.quarantine.source[0].endswith(f"set{suffix}")
    assert done.quarantine.excerpt[0]


LINES: dict[str, tuple[bytes, str, str]] = {
    "broken-byte": (b'{"uuid": "x", "instruction": "caf\xe9?"}', "invalid UTF-8", "caf\\xe9?"),
    "truncated": (b'{"uuid": "x", "instr', "invalid JSON", '{"uuid": "x", "instr'),
    "two-on-a-line": (b'{"instruction": "a"} {"instruction": "b"}', "invalid JSON", '{"instruction": "b"}'),
    "deep": (b"[" * 100_000, "invalid JSON", "[[["),
    "list": (b'["a"]', "the row is a list, not a mapping", '["a"]'),
    "null": (b"null", "the row is null, not a mapping", "null"),
    "number": (b"3", "the row is a number, not a mapping", "3"),
}


@pytest.mark.parametrize(("line", "reason", "excerpt"), LINES.values(), ids=LINES)
def test_a_broken_line_costs_itself_alone(ingest: Any, make: Make, line: bytes, reason: str, excerpt: str) -> None:
    good = [make("prompts", index) for index in range(5)]
    done = ingest([*good[:2], b"", line, *good[2:]], format="prompts")  # the blank line is no row, but has a number
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [(4, reason)]
    assert excerpt in done.quarantine.excerpt[0]
    assert done.ids == [f"p{index}" for index in range(5)]


def test_a_byte_order_mark_is_no_fault(ingest: Any, make: Make) -> None:
    first = b"\xef\xbb\xbf" + json.dumps(make("prompts", 0)).encode()
    assert len(ingest([first, make("prompts", 1)], format="prompts").quarantine) == 0


def test_a_broken_byte_in_a_json_list_costs_its_row_alone(ingest: Any, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(b'[{"instruction": "one"}, {"instruction": "caf\xe9"}, {"instruction": "three"}, 4]')
    done = ingest(str(file), format="prompts")
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [
        (2, "instruction is invalid UTF-8"),
        (4, "the row is a number, not a mapping"),
    ]
    assert [messages[0]["content"] for messages in [*done.prompts.messages, *done.test.messages]] == ["one", "three"]


def test_a_broken_byte_in_parquet_costs_its_row_alone(ingest: Any, tmp_path: Path) -> None:
    raw = pa.array([b"one", b"caf\xe9", b"three"], pa.binary())
    texts = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"instruction": texts}), tmp_path / "broken.parquet")
    done = ingest(str(tmp_path / "broken.parquet"), format="prompts")
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [(2, "invalid UTF-8")]
    assert len(done.ids) == 2


HUGE = b"1" + b"0" * 400
SCORES = {
    "1e400": (b"1e400", "score_chosen is inf"),
    "-1e400": (b"-1e400", "score_chosen is -inf"),
    "400-digits": (HUGE, "score_chosen is too large"),
    "5000-digits": (b"1" + b"0" * 5000, "invalid JSON"),
    "NaN": (b"NaN", "score_chosen is nan"),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(("score", "reason"), SCORES.values(), ids=SCORES)
def test_a_number_beyond_all_floats_costs_its_row_alone(
    ingest: Any, make: Make, tmp_path: Path, score: bytes, reason: str, suffix: str
) -> None:
    rows = [json.dumps(make("ultrafeedback", index)).encode() for index in range(4)]
    rows[1] = rows[1].replace(b"8.0", score)
    file = tmp_path / f"scores{suffix}"
    file.write_bytes(b"\n".join(rows) if suffix == ".jsonl" else b"[" + b",".join(rows) + b"]")
    if suffix == ".json" and len(score) > 4300:  # Python reads no such number: one sentence (below)
        return
    done = ingest(str(file), format="ultrafeedback")
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [(2, reason)]
    assert done.ids == ["u0", "u2", "u3"]


TIME = pa.timestamp("us")
COLUMNS: dict[str, tuple[str, Any, str | None]] = {
    "decimal": ("score_chosen", pa.array([Decimal("8.5")] * 3), None),
    "decimal-infinite": ("score_chosen", pa.array([Decimal(10) ** 70] * 3, pa.decimal256(76)), None),
    "uint64": ("score_chosen", pa.array([2**64 - 1] * 3, pa.uint64()), None),
    "dictionary": ("prompt_id", pa.array(["a", "b", "c"]).dictionary_encode(), None),
    "binary-prompt": ("prompt", pa.array([b"Question 1?"] * 3), "prompt is binary data, not text"),
    "binary-score": ("score_rejected", pa.array([b"\xff"] * 3), "score_rejected is binary data, not a number"),
    "binary-id": ("prompt_id", pa.array([b"x"] * 3), "the prompt's id is binary data, not text or a whole number"),
    "time": ("score_chosen", pa.array([0] * 3, TIME), "score_chosen is a datetime, not a number"),
    "time-of-no-calendar": ("score_chosen", pa.array([2**62] * 3, TIME), "a value cannot be read"),
    "date": ("prompt_id", pa.array([0] * 3, pa.date32()), "the prompt's id is a date, not text or a whole number"),
    "map": ("chosen", pa.array([[("a", "b")]] * 3, pa.map_(pa.string(), pa.string())),
            "chosen is a mapping, not a list of messages"),
    "map-key-twice": ("chosen", pa.array([[("a", "b"), ("a", "c")]] * 3, pa.map_(pa.string(), pa.string())),
                      "a value cannot be read"),
    "mapping": ("prompt", pa.array([{"a": b"\xff"}] * 3), "prompt is a mapping, not text"),
}  # fmt: skip


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(("column", "values", "reason"), COLUMNS.values(), ids=COLUMNS)
def test_columns_of_other_types(
    ingest: Any, make: Make, tmp_path: Path, column: str, values: Any, reason: str | None, folder: bool
) -> None:
    good = pa.Table.from_pylist([make("ultrafeedback", index) for index in range(3)])
    source = tmp_path / "columns"
    source.mkdir()
    pq.write_table(good.set_column(good.column_names.index(column), column, values), source / "a.parquet")
    path = str(source if folder else source / "a.parquet")
    if reason is None:
        assert len(ingest(path, format="ultrafeedback").ids) == 3
        return
    with pytest.raises(UserError, match=f"holds no good row for datasets.set: 3 x {reason}."):
        ingest(path, format="ultrafeedback")


def test_a_column_given_twice_is_one_sentence(ingest: Any, make: Make, tmp_path: Path) -> None:
    good = pa.Table.from_pylist([make("prompts", index) for index in range(3)])
    twice = pa.table([*good.columns, good["instruction"]], names=[*good.column_names, "instruction"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"twice\.parquet holds the column instruction twice; remove one\."):
        ingest(str(tmp_path / "twice.parquet"), format="prompts")


def test_a_bad_byte_in_a_folder_costs_its_row_alone(ingest: Any, make: Make, write: Any, tmp_path: Path) -> None:
    """So do broken lines; the name of the folder is nobody's pattern, and what describes data is not data."""
    folder = tmp_path / "$HOME [a] *"
    (folder / "train").mkdir(parents=True)
    bad = json.dumps(make("prompts", 8)).encode().replace(b"Question", b"Qu\xffstion")
    write(folder / "train/b.jsonl", [make("prompts", 0), bad, b"{", make("prompts", 1)])
    write(folder / "train-00000-of-00001.parquet", [make("prompts", index) for index in (2, 3)])
    write(folder / "train_prefs.jsonl", [make("prompts", 9)])
    write(folder / "test.jsonl", [make("prompts", 4)])
    (folder / "dataset_infos.json").write_text("{}")
    done = ingest(str(folder), format="prompts", test_split="test")
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [
        (4, "invalid UTF-8"),
        (5, "invalid JSON"),
    ]
    assert set(done.quarantine.source) == {f"{folder}[train]"}
    assert done.ids == ["p2", "p3", "p0", "p1", "p4"]
    assert ingest(str(folder), format="prompts", split="train_prefs", test_split="test").ids == ["p9", "p4"]


def test_a_folder_without_splits_is_all_train(ingest: Any, make: Make, write: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for index in range(3):
        write(tmp_path / f"data/{index}.jsonl", [make("prompts", index)])
    assert ingest(str(tmp_path / "data"), format="prompts").ids == ["p0", "p1", "p2"]


def test_rows_of_the_hub_are_read_one_by_one(ingest: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    raw = pa.array([b"one", b"caf\xe9", b"three"], pa.binary())
    texts = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    table = datasets.Dataset(pa.table({"instruction": texts, "other": [1, 2, 3]}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    done = ingest("someone/data", format="prompts")
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [(2, "invalid UTF-8")]
    assert len(done.ids) == 2


def test_nulls_in_parquet_are_quarantined(ingest: Any, make: Make) -> None:
    good = [make("ultrafeedback", index) for index in range(6)]
    bad = [make("ultrafeedback", 7, score_chosen=None), make("ultrafeedback", 8, chosen=None)]
    done = ingest([bad[0], *good, bad[1]], suffix=".parquet", format="ultrafeedback")
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [
        (1, "score_chosen is missing or null"),
        (8, "chosen is missing or null"),
    ]
    assert done.ids == [f"u{index}" for index in range(6)]


def test_many_bad_rows_are_counted_by_reason(ingest: Any, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    rows = [make("prompts", i, instruction=None if i % 3 else f"Question {i}?") for i in range(30)]
    with caplog.at_level("INFO"):
        done = ingest([*rows, b"{"], format="prompts")
    assert done.quarantine.reason.value_counts().to_dict() == {"instruction is missing or null": 20, "invalid JSON": 1}
    assert "set: 20 rows left out: instruction is missing or null" in caplog.messages
    assert len(done.ids) == 10


FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("none.jsonl", None, "datasets.set.source: the file {file} does not exist."),
    "empty": ("rows.jsonl", b"", "datasets.set.source: the file {file} is empty."),
    "text": ("rows.txt", b"a,b\n", "datasets.set.source: {file} is not a .parquet, .json, .jsonl, .csv or .arrow file;"),
    "no-suffix": ("rows", b"{}\n", "datasets.set.source: {file} is not a .parquet, .json, .jsonl, .csv or .arrow file;"),
    "key-twice": ("rows.jsonl", b'{"instruction": "a", "instruction": "b"}\n',
                  "{file} holds no good row for datasets.set: 1 x invalid JSON."),
    "key-twice-in-a-list": ("rows.json", b'[{"instruction": "a", "instruction": "b"}]',
                            "{file} is not valid JSON (a key is given twice)."),
    "number-of-5000-digits": ("rows.json", b'[{"uuid": 1' + b"0" * 5000 + b"}]", "{file} is not valid JSON (Exceeds the limit"),
    "missing-folder": ("nowhere", None, "datasets.set.source: {file} does not exist."),
    "no-parquet": ("rows.parquet", b"PAR1 and so on", "{file} is not a complete Parquet file (truncated or damaged): "),
    "no-json": ("rows.json", b'[{"instruction": "a"},', "{file} is not valid JSON (Expecting value: line 1 column 23"),
    "lines-named-json": ("rows.json", b'{"instruction": "a"}\n{"instruction": "b"}\n',
                         "{file} is not valid JSON (Extra data: line 2 column 1 (char 21)); one row per line makes a .jsonl"),
    "mapping": ("rows.json", b'{"data": []}', "{file} must hold a list of rows, it holds a mapping."),
    "no-rows": ("rows.json", b"[]", "{file} holds no good row for datasets.set: it has no rows."),
    "all-bad": ("rows.jsonl", b'{"instruction": ""}\n{"instruction": ""}\n{\n',
                "{file} holds no good row for datasets.set: 2 x instruction is empty, 1 x invalid JSON."),
    "one-good": ("rows.jsonl", b'{"instruction": "a"}\n',
                 "{file} holds one good row for datasets.set: to train and to hold out takes two."),
    "one-good-of-many": ("rows.jsonl", b'{"instruction": "a"}\n{"instruction": ""}\n{\n{"instruction": ""}\n',
                         "{file} holds one good row for datasets.set: to train and to hold out takes two. "
                         "Left out: 2 x instruction is empty."),
    "other-columns": ("rows.jsonl", b'{"instructon": "a", "answer": "b"}\n',
                      "{file} lacks the column(s) instruction; it has instructon, answer, and datasets.set.format = prompts "
                      "needs instruction (is 'instructon' meant to be 'instruction'?)."),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES)
def test_a_bad_file_is_one_sentence(
    ingest: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        ingest(str(file), format="prompts")
    assert str(caught.value).startswith(message.format(file=file))
    assert not list((tmp_path / "set").iterdir())


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_truncated_parquet_is_one_sentence(ingest: Any, make: Make, tmp_path: Path, part: float) -> None:
    ingest([make("magpie", index) for index in range(40)], suffix=".parquet")
    whole = (tmp_path / "set.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r"cut\.parquet is not a complete Parquet file \(truncated or damaged\)"):
        ingest(str(tmp_path / "cut.parquet"))


def test_damage_inside_parquet_is_one_sentence(ingest: Any, make: Make, tmp_path: Path) -> None:
    ingest([make("magpie", index) for index in range(40)], suffix=".parquet")
    whole = bytearray((tmp_path / "set.parquet").read_bytes())
    whole[4:400] = b"\xff" * 396
    (tmp_path / "hurt.parquet").write_bytes(whole)
    with pytest.raises(UserError, match=r"hurt\.parquet is not a complete Parquet file \(truncated or damaged\)"):
        ingest(str(tmp_path / "hurt.parquet"))


@pytest.mark.parametrize(
    ("data_format", "columns", "needs"),
    [
        ("magpie", ["instruction", "chosen"], "instruction, chosen, rejected or instruction, responses, rewards_armorm"),
        ("ultrafeedback", ["prompt", "chosen", "rejected", "score_chosen"],
         "prompt, chosen, rejected, score_chosen, score_rejected"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_missing_column_is_named(
    ingest: Any, make: Make, data_format: str, columns: list[str], needs: str, suffix: str
) -> None:
    rows = [{key: make(data_format, index)[key] for key in columns} for index in range(3)]
    with pytest.raises(UserError) as caught:
        ingest(rows, suffix=suffix, format=data_format)
    missing = "rejected" if data_format == "magpie" else "score_rejected"
    assert f"lacks the column(s) {missing}; it has {', '.join(columns)}, and" in str(caught.value)
    assert f"datasets.set.format = {data_format} needs {needs}" in str(caught.value)
