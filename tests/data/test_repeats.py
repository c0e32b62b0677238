"""When two rows ask the same."""

import json

import pandas as pd
import pytest

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
        {"uuid": str(i), "instruction": text} for i, text in enumerate(["a", "b", "a", "c", "d", "e", "f", "g", "h"])
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


def test_prompts_are_the_same_where_they_are_written_the_same(ingest):
    """Case, indentation and a raised 2 may be what is asked about."""
    asked = ["What is 2²?", "What is 22?", "print(A)", "print(a)", "if x:\n  y", "if x:\n    y", "Question?"]
    rows = [{"prompt": text, "chosen": "a", "rejected": "b"} for text in [*asked[:6], "if x:\n  y", *asked[6:]]]
    done = ingest(rows, format="preference", test_prompts=1)
    assert [messages[0]["content"] for messages in [*done.prompts.messages, *done.test.messages]] == asked
    assert list(done.quarantine.reason) == ["the prompt occurred before"]
    assert len(set(done.ids)) == 7


def test_what_is_held_out_is_not_trained_on_in_another_case(ingest):
    rows = [
        {"prompt": text, "chosen": "a", "rejected": "b"}
        for text in ("WHAT IS 22?", "What is 2²?", "Other", "what  is 22?")
    ]
    done = ingest(rows, format="preference", test_prompts=1)
    assert [messages[0]["content"] for messages in done.prompts.messages] == ["What is 2²?", "Other"]
    assert list(done.quarantine.reason) == ["also a held-out test prompt"]


PAIRS = [
    ("p", "a", "b", 3, 2), ("q", "a", "b", 1, 0), ("p", "c", "d", 9, 1), ("p", "a", "b", 3, 2), ("r", "a", "b", 1, 0),
    ("r", "e", "f", 5, 0),
]  # fmt: skip
AGAIN, LESS = "the prompt occurred before", "another pair of the prompt differs more in score"


@pytest.mark.parametrize(
    ("repeats", "train", "heldout", "reasons"),
    [
        ("first", [("p", "a"), ("q", "a")], [("r", "a")], dict.fromkeys((3, 4, 6), AGAIN)),
        ("all", [("p", "a"), ("p", "c"), ("q", "a")], [("r", "a"), ("r", "e")], {4: "the pair occurred before"}),
        ("widest", [("p", "c"), ("q", "a")], [("r", "e")], dict.fromkeys((1, 4, 5), LESS)),
    ],
)  # fmt: skip
def test_several_pairs_of_a_prompt(ingest, repeats, train, heldout, reasons):
    """All pairs of a prompt are trained on or all are held out; each has an id of its own."""
    columns = {"chosen_score": "s", "rejected_score": "t"}
    rows = [dict(zip(("prompt", "chosen", "rejected", "s", "t"), pair, strict=True)) for pair in PAIRS]
    done = ingest(rows, format="preference", columns=columns, repeats=repeats, test_prompts=1)
    for table, expected in ((done.preferences, train), (done.heldout, heldout)):
        found = [(row.messages[0]["content"], row.chosen) for row in table.itertuples()]
        assert found == expected
    assert dict(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == reasons
    ids = [*done.preferences.prompt_id, *done.heldout.prompt_id]
    assert len(set(ids)) == len(ids)
    assert len(done.prompts) == 2
    assert len(done.test) == 1
    assert set(done.prompts.prompt_id) <= set(ids)


def test_prompts_that_share_an_id_are_all_kept(ingest, caplog):
    """Ids that restart in each part: each prompt has one of its own, and a repeat is a repeat under any id."""
    rows = [{"prompt": f"q{i}", "prompt_id": i % 2, "chosen": "a", "rejected": "b"} for i in (0, 1, 2, 3, 2, 4)]
    done = ingest(rows, format="preference", test_prompts=1)
    assert list(done.quarantine.reason) == ["the prompt occurred before"]
    assert [messages[0]["content"] for messages in [*done.prompts.messages, *done.test.messages]] == [
        "q0", "q1", "q2", "q3", "q4",
    ]  # fmt: skip
    assert done.ids[:2] == ["0", "1"]
    assert len(set(done.ids)) == 5
    assert list(done.preferences.prompt_id) == list(done.prompts.prompt_id)
    assert [text for text in caplog.messages if "have the id of another" in text] == [
        f"{done.quarantine.source[0]}: 3 prompts have the id of another; theirs is a digest of the prompt"
    ]


def test_ids_that_restart_in_each_split(ingest, make, write, tmp_path):
    (tmp_path / "in").mkdir()
    for split, first in (("train", 0), ("test", 10)):
        rows = [make("prompts", first + i, uuid=str(i)) for i in range(3)]
        write(tmp_path / f"in/{split}.jsonl", rows)
    done = ingest(str(tmp_path / "in"), format="prompts", test_split="test", test_prompts=3)
    assert len(done.quarantine) == 0
    assert len(set(done.ids)) == 6
    assert list(done.test.prompt_id) == ["0", "1", "2"]


def test_ids_that_pandas_made_floats(ingest, tmp_path):
    """One missing number makes a column of floats; 1.0 is the id 1, and NaN is none."""
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "prompt_id": i if i != 3 else None} for i in range(6)]
    pd.DataFrame(rows).to_parquet(tmp_path / "float.parquet")
    (tmp_path / "nan.jsonl").write_text("".join(json.dumps(row | {"prompt_id": float("nan")}) + "\n" for row in rows))
    done = ingest(str(tmp_path / "float.parquet"), format="preference", test_prompts=1)
    none = ingest(str(tmp_path / "nan.jsonl"), name="nan", format="preference", test_prompts=1)
    assert [*done.ids[:3], *done.ids[4:]] == ["0", "1", "2", "4", "5"]
    assert len(set(none.ids)) == 6
    assert none.ids[3] == done.ids[3]
