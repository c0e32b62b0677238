"""Rows of QA's local copies: what would be marked wrongly without a word is read rightly, or a reason."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bench.test_qa_local import PUBLIC
from diffinfo.bench import qa_rows
from diffinfo.data.files import BadRow


@pytest.mark.parametrize("benchmark", PUBLIC)
def test_public_rows_stay_as_they_are(benchmark: str) -> None:
    assert qa_rows.read(benchmark, PUBLIC[benchmark][2]) == PUBLIC[benchmark][2]


@pytest.mark.parametrize(
    ("benchmark", "given", "read"),
    [
        ("piqa", {"label": "1"}, 1),
        ("piqa", {"label": 0.0}, 0),
        ("siqa", {"label": 3}, "3"),
        ("siqa", {"label": "B"}, "2"),
        ("siqa", {"label": "1\n"}, "1"),
        ("hellaswag", {"label": 3}, "3"),
        ("mmlu", {"answer": "C"}, 2),
        ("boolq", {"label": False}, 0),
        ("boolq", {"label": "yes"}, 1),
        ("arc_easy", {"answerKey": 2, "choices": {"text": ["a", "b"], "label": ["1", "2"]}}, "2"),
        ("gsm8k", {"answer": 7}, "7"),
        ("gsm8k", {"answer": "so\n#### -1,000 \n"}, "so\n#### -1,000"),
    ],
)
def test_an_answer_that_is_clear_is_read(benchmark: str, given: dict[str, Any], read: Any) -> None:
    column = next(iter(given))
    found = qa_rows.read(benchmark, PUBLIC[benchmark][2] | given)[column]
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("benchmark", "given", "said"),
    [
        ("piqa", {"label": -1}, "label is -1, none of 0, 1"),
        ("piqa", {"label": 2}, "label is 2, none of 0, 1"),
        ("piqa", {"label": None}, "label is None, none of 0, 1"),
        ("piqa", {"label": float("nan")}, "label is nan, none"),
        ("piqa", {"label": True}, "label is True, none"),
        ("piqa", {"sol1": ""}, "sol1 is empty"),
        ("piqa", {"goal": None}, "goal is null, not text"),
        ("siqa", {"label": "0"}, "label is '0', none of 1, 2, 3"),
        ("siqa", {"label": ""}, "label is '', none of 1, 2, 3"),
        ("siqa", {"label": "D"}, "label is 'D', none"),
        ("hellaswag", {"label": "7"}, "label is '7', none of 0, 1, 2, 3"),
        ("hellaswag", {"label": ""}, "label is '', none"),
        ("hellaswag", {"endings": ["a", "b", "c", "[step]"]}, "endings has an empty one"),
        ("hellaswag", {"endings": ["a"]}, "endings has 1 texts, not 4"),
        ("hellaswag", {"endings": "abcd"}, "endings is not a list of texts"),
        ("mmlu", {"answer": "E"}, "answer is 'E', none of 0, 1, 2, 3"),
        ("mmlu", {"choices": ["a", "b", "c"]}, "choices has 3 texts, not 4"),
        ("boolq", {"label": -1}, "label is -1, none of 0, 1"),
        ("arc_easy", {"answerKey": ""}, "answerKey is '', none of A, B, C, D"),
        ("arc_easy", {"choices": {"text": ["a", ""], "label": ["A", "B"]}}, "2 texts for 2 labels, or an empty one"),
        ("arc_easy", {"choices": {"text": ["a"], "label": ["A", "B"]}}, "1 texts for 2 labels"),
        ("gsm8k", {"answer": "it is seven"}, "answer ends in 'it is seven', not in '#### ' and a number"),
        ("gsm8k", {"answer": "it is\n####7"}, "not in '#### ' and a number"),
        ("gsm8k", {"answer": None}, "answer ends in 'None'"),
    ],
)
def test_an_answer_that_is_none_is_a_reason(benchmark: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        qa_rows.read(benchmark, PUBLIC[benchmark][2] | given)


UNREAD = {"ind", "ctx", "source_id", "split", "split_type", "id", "subject", "idx"}
COLUMNS = [(name, column) for name, (_, _, row) in PUBLIC.items() for column in row if column not in UNREAD]


@pytest.mark.parametrize(
    ("benchmark", "column", "value"),
    [(*where, value) for where, value in itertools.product(COLUMNS, (None, [], {}, b"x", ...))],
)
def test_each_column_that_is_missing_or_of_another_kind_is_a_reason(benchmark: str, column: str, value: Any) -> None:
    row = PUBLIC[benchmark][2] | {column: value}
    if value is ...:
        del row[column]
    with pytest.raises(BadRow, match=column):
        qa_rows.read(benchmark, row)


def test_a_row_of_boolq_s_first_layout_lacks_its_label() -> None:
    row = {"question": "is it", "passage": "it has gold .", "answer": True}
    with pytest.raises(BadRow, match="it has no column label"):
        qa_rows.read("boolq", row)
