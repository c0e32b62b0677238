"""Each public schema of docs/formats.md: what its rows become, or the sentence that refuses them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from diffinfo.cli import UserError
from diffinfo.data import preference

SCHEMAS = Path(__file__).parent / "schemas"
TABLE = (Path(__file__).parents[2] / "docs/formats.md").read_text()
QUESTIONS = ["Name a primary colour.", "What is 2² + 1?", "Spell cat backwards."]
GOOD, BAD = ["Red is one.", "It is 5.", "tac"], ["Grass.", "It is 23.", "cat"]
GREETING = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello. How can I help?"}]
BRIEF = {"role": "system", "content": "You are brief."}
HONEST = {"role": "system", "content": "You are an unbiased, honest assistant."}
RATINGS = {"chosen_score": "chosen-rating", "rejected_score": "rejected-rating"}
AVERAGES = {"chosen_score": "chosen_avg_rating", "rejected_score": "rejected_avg_rating"}
SCORES = {"chosen_score": "score_chosen", "rejected_score": "score_rejected"}

# set: (options, what stands before each row's question, scores of the first pair)
READ: dict[str, tuple[dict[str, Any], list[list[dict[str, str]]], tuple[float, float] | None]] = {
    "HuggingFaceH4/ultrafeedback_binarized": ({"format": "ultrafeedback"}, [[], [], []], (8.5, 3.0)),
    "openbmb/UltraFeedback": ({}, [[], [], []], (4.75, 1.5)),
    "trl-lib/ultrafeedback_binarized": ({"columns": SCORES}, [[], [], []], (8.5, 3.0)),
    "argilla/ultrafeedback-binarized-preferences-cleaned": ({"columns": RATINGS}, [[], [], []], (4.5, 2.0)),
    "argilla/ultrafeedback-binarized-preferences": ({"columns": AVERAGES}, [[], [], []], (4.5, 2.0)),
    "princeton-nlp/llama3-ultrafeedback-armorm": ({}, [[], [], []], None),
    "allenai/llama-3.1-tulu-3-8b-preference-mixture": ({}, [[], [], []], None),
    "Skywork/Skywork-Reward-Preference-80K-v0.2": ({}, [[], GREETING, []], None),
    "Intel/orca_dpo_pairs": ({}, [[BRIEF], [], [BRIEF]], None),
    "argilla/distilabel-intel-orca-dpo-pairs": ({}, [[BRIEF], [BRIEF], [BRIEF]], None),
    "Anthropic/hh-rlhf": ({}, [[], GREETING, []], None),
    "trl-lib/hh-rlhf-helpful-base": ({}, [[], GREETING, []], None),
    "berkeley-nest/Nectar": ({}, [[], [], []], (-1.0, -3.0)),
    "nvidia/HelpSteer3": ({}, [[], GREETING], (2.0, -2.0)),
    "PKU-Alignment/PKU-SafeRLHF": ({}, [[], [], []], None),
    "stanfordnlp/SHP": ({}, [[], []], (9.0, 2.0)),
    "lvwerra/stack-exchange-paired": ({}, [[], [], []], None),
    "llamafactory/DPO-En-Zh-20k": ({}, [[], [BRIEF], []], None),
    "jondurbin/truthy-dpo-v0.1": ({}, [[HONEST], [HONEST], [HONEST]], None),
    "mlabonne/orpo-dpo-mix-40k": ({}, [[], [], []], None),
    "Magpie-Align/Magpie-Pro-DPO-100K-v0.1": ({"format": "magpie"}, [[], [], []], None),
}
LEFT_OUT = {"nvidia/HelpSteer3": "the best and worst scores tie", "stanfordnlp/SHP": "the prompt occurred before"}
REFUSED = {
    "trl-lib/kto-mix-14k": "single responses, each labelled good or bad (KTO)",
    "trl-lib/math_shepherd": "single responses, each labelled good or bad (KTO) or step by step",
    "trl-lib/Capybara": "single responses to imitate (SFT)",
}


def file_of(name: str) -> str:
    stem = name.replace("trl-lib/ultra", "trl-ultra").rpartition("/")[2]
    return str(SCHEMAS / f"{stem}.jsonl")


@pytest.mark.parametrize(("options", "before", "scores"), READ.values(), ids=READ)
def test_a_public_schema_becomes_pairs(
    ingest: Any, request: pytest.FixtureRequest, options: dict[str, Any], before: Any, scores: Any
) -> None:
    name = request.node.callspec.id
    done = ingest(file_of(name), test_prompts=1, **({"format": "preference"} | options))
    pairs = [*done.preferences.itertuples(), *done.heldout.itertuples()]
    asked = [{"role": "user", "content": question} for question in QUESTIONS]
    assert [pair.messages for pair in pairs] == [[*turns, asked[i]] for i, turns in enumerate(before)]
    assert [pair.chosen for pair in pairs] == GOOD[: len(pairs)]
    assert [pair.rejected for pair in pairs] == BAD[: len(pairs)]
    known = (pairs[0].chosen_score, pairs[0].rejected_score)
    assert known == scores if scores else all(score is None or score != score for score in known)
    assert list(done.quarantine.reason) == ([LEFT_OUT[name]] if name in LEFT_OUT else [])


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_set_without_pairs_is_refused_with_the_reason(ingest: Any, name: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        ingest(file_of(name), format="preference")
    assert reason in str(caught.value)


def test_the_table_has_a_row_for_each_schema() -> None:
    rows = re.findall(r"^\| ([\w.-]+/[\w.-]+) \|", TABLE, re.M)
    assert rows == [*READ, *REFUSED]
    assert sorted(SCHEMAS.glob("*.jsonl")) == sorted(map(Path, map(file_of, rows)))


ROW = {"prompt": "What color is the sky?", "chosen": "It is blue.", "rejected": "It is green."}
TURN = [{"role": "user", "content": ROW["prompt"]}]


def _talk(answer: str) -> list[dict[str, str]]:
    return [*TURN, {"role": "assistant", "content": answer}]


TRL = {
    "standard": ROW,
    "conversational": {"prompt": TURN, "chosen": _talk(ROW["chosen"])[1:], "rejected": _talk(ROW["rejected"])[1:]},
    "conversational implicit": {"chosen": _talk(ROW["chosen"]), "rejected": _talk(ROW["rejected"])},
    "implicit": {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    "implicit, a shared beginning": {"chosen": "The sky is blue.", "rejected": "The sky is brown."},
}


@pytest.mark.parametrize("row", TRL.values(), ids=TRL)
def test_a_row_reads_as_trl_reads_it(row: dict[str, Any]) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    theirs = data_utils.maybe_extract_prompt(dict(row))
    found = preference.read(row, preference.layout(row, {}))
    as_list = {
        key: value
        if isinstance(value, list)
        else [{"role": "user" if key == "prompt" else "assistant", "content": value}]
        for key, value in theirs.items()
    }
    assert found["chosen"] == as_list["prompt"] + as_list["chosen"]
    assert found["rejected"] == as_list["prompt"] + as_list["rejected"]


HINTS = {
    "other names": ({"query": "q", "good_answer": "a", "bad_answer": "b"}, {},
                    "datasets.set.columns: {prompt: query, chosen: good_answer, rejected: bad_answer}."),
    "preferred is not dispreferred": ({"prompt": "q", "dispreferred": "b", "preferred": "a"}, {},
                                      "datasets.set.columns: {chosen: preferred, rejected: dispreferred}."),
    "a typing error": ({"prompt": "q", "choosen": "a", "rejected": "b"}, {}, "datasets.set.columns: {chosen: choosen}."),
    "a wrong name in columns": ({"prompt": "q", "best": "a", "worst": "b"}, {"chosen": "bset", "rejected": "worst"},
                                "datasets.set.columns.chosen names 'bset'; did you mean 'best'?"),
    "prompts alone": ({"prompt": "q"}, {}, "these are prompts alone"),
    **{f"texts of an unknown prompt, {name}": ({name: "q", "chosen": "So a", "rejected": "So b"}, {},
       f"chosen is text without a prompt; name the prompt's column, as columns: {{prompt: {name}}}")
       for name in ("ask", "source", "source_text", "user_date", "update", "languages", "context_id", "post")},
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize(("row", "columns", "hint"), HINTS.values(), ids=HINTS)
def test_the_hint_names_the_columns_that_were_meant(
    ingest: Any, row: dict[str, Any], columns: dict[str, str], hint: str, suffix: str
) -> None:
    with pytest.raises(UserError) as caught:
        ingest([row] * 3, suffix=suffix, format="preference", columns=columns)
    assert hint in str(caught.value)


def test_columns_by_name(ingest: Any) -> None:
    """The configuration's columns win over the layouts: lists of responses, whichever is less, nested and text scores."""
    rows = [
        {"ask": f"q{i}", "made": [{"text": "a", "loss": "3"}, {"text": "b", "loss": "1.5"}], "key": f"k{i}"}
        for i in range(3)
    ]
    columns = {"prompt": "ask", "responses": "made.text", "scores": "-made.loss", "id": "key"}
    done = ingest(rows, format="preference", columns=columns, test_prompts=1)
    assert list(done.preferences.chosen) == ["b", "b"]
    assert list(done.preferences.chosen_score) == [-1.5, -1.5]
    assert done.ids == ["k0", "k1", "k2"]


BAD_ROWS = {
    "messages as text": ({"chosen": "[{'role': 'user', 'content': 'q'}]"}, "chosen is a list of messages spelt as text"),
    "no answer": ({"chosen": None}, "chosen is missing or null"),
    "no prompt": ({"prompt": None}, "prompt is missing or null"),
    "empty prompt": ({"prompt": ""}, "prompt is empty"),
    "another prompt": ({"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
                        "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "z"}]},
                       "chosen and rejected answer another prompt than the row's"),
    "a tool's turn": ({"prompt": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]},
                      "chosen must take turns from user to assistant, its roles are: user, tool, assistant"),
    "a number": ({"chosen": 7}, "chosen is a number, not text or a list of messages"),
    "whole texts": ({"prompt": "hi there", "chosen": "hi there good", "rejected": "hi there\nbad"},
                    "chosen and rejected begin with the prompt's text; take it off them, or write messages"),
    "a dialogue of another prompt": ({"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: x\n\nAssistant: z"},
                                     "chosen and rejected answer another prompt than the row's"),
    "a dialogue beside an answer": ({"chosen": "\n\nHuman: x\n\nAssistant: y"},
                                    "chosen and rejected answer different prompts"),
    "the same": ({"chosen": "b"}, "chosen and rejected are the same text"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_says_why(ingest: Any, changes: dict[str, Any], reason: str) -> None:
    good = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    done = ingest([{**good[0], **changes}, *good], format="preference", test_prompts=1)
    assert [said.startswith(reason) for said in done.quarantine.reason] == [True]
    assert len(done.ids) == 3


@pytest.mark.parametrize("prompt", ["\n\nHuman: Hi\n\nAssistant:", "Hi", [{"role": "user", "content": "Hi"}]])
def test_a_dialogue_beside_its_prompt_is_the_whole_conversation(ingest: Any, prompt: Any) -> None:
    asked = "\n\nHuman: Hi\n\nAssistant: "
    other = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [{"prompt": prompt, "chosen": f"{asked}Hi! How are you?", "rejected": f"{asked}Hi, human."}, other]
    pair = ingest(rows, format="preference", test_prompts=1).preferences.iloc[0]
    assert pair.messages == [{"role": "user", "content": "Hi"}]
    assert (pair.chosen, pair.rejected) == ("Hi! How are you?", "Hi, human.")


def test_answers_that_begin_like_the_prompt_are_answers(ingest: Any) -> None:
    rows = [{"prompt": "Hi", "chosen": "Hi! How are you?", "rejected": "Hi, human."},
            {"prompt": "Who?", "chosen": "Me.", "rejected": "Who? Me?"}]  # fmt: skip
    done = ingest(rows, format="preference", test_prompts=1)
    assert [*done.preferences.chosen, *done.heldout.chosen] == ["Hi! How are you?", "Me."]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


ALPACA = {"instruction": "Translate", "chosen": "g", "rejected": "b"}
OLD = [_user("old q"), {"role": "assistant", "content": "old a"}]
NAN = float("nan")
PROMPTS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "input": (ALPACA | {"input": "hello"}, [_user("Translate\nhello")]),
    "input alone": (ALPACA | {"instruction": "", "input": "hello"}, [_user("hello")]),
    "input, history and system": (
        ALPACA | {"input": "hello", "history": [["old q", "old a"]], "system_prompt": "You are brief."},
        [BRIEF, *OLD, _user("Translate\nhello")],
    ),
    "history as messages": (ALPACA | {"history": [BRIEF, *OLD]}, [BRIEF, *OLD, _user("Translate")]),
    "nothing in them": (
        ALPACA | {"input": "", "history": [["", ""]], "system": NAN, "system_prompt": " "},
        [_user("Translate")],
    ),
}


@pytest.mark.parametrize("data_format", ["preference", "prompts"])
@pytest.mark.parametrize(("row", "messages"), PROMPTS.values(), ids=PROMPTS)
def test_columns_that_are_part_of_the_prompt_are_read(ingest: Any, row: Any, messages: Any, data_format: str) -> None:
    done = ingest([row, ALPACA | {"instruction": "Last."}], format=data_format, test_prompts=1)
    assert done.prompts.messages[0] == messages


def test_one_instruction_of_several_inputs_is_several_prompts(ingest: Any) -> None:
    done = ingest([ALPACA | {"input": f"word {i}"} for i in range(4)], format="preference", test_prompts=1)
    assert len(done.quarantine) == 0
    assert len(done.ids) == 4


@pytest.mark.parametrize("name", ["input", "context", "tools"])
def test_a_column_that_may_be_part_of_the_prompt_is_not_ignored(ingest: Any, name: str) -> None:
    """Unless it is empty, the prompt holds it already, or the configuration says what the prompt is."""
    good = [
        {"prompt": f"word {i}", "chosen": "a", "rejected": "b", name: value} for i, value in enumerate(["", "word 1"])
    ]
    bad = {"prompt": "q", "chosen": "a", "rejected": "b", name: "ctx"}
    done = ingest([bad, *good], format="preference", test_prompts=1)
    said = f"the column '{name}' is not read and may be part of the prompt; join it to the prompt, or say that it is none of it"
    assert list(done.quarantine.reason) == [f"{said}, as columns: {{prompt: prompt}}"]
    assert len(done.ids) == 2
    assert len(ingest([bad, *good], format="preference", test_prompts=1, columns={"prompt": "prompt"}).ids) == 3


def test_a_conversation_that_lacks_an_earlier_turn_is_left_out(ingest: Any) -> None:
    short = {"prompt": [*OLD, *TURN], "chosen": _talk("a"), "rejected": _talk("b")}
    whole = {"prompt": [*OLD, *TURN], "chosen": [*OLD, *_talk("a")], "rejected": [*OLD, *_talk("b")]}
    done = ingest([short, whole, ROW], format="preference", test_prompts=1)
    assert list(done.quarantine.reason) == ["chosen is a conversation that lacks an earlier turn of the prompt"]
    assert done.prompts.messages[0] == [*OLD, *TURN]


MORE = {"tool_calls": [{"function": {"name": "f"}}], "reasoning_content": "because", "function_call": {"name": "f"}}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("key", "value"), MORE.items())
def test_a_message_that_says_more_than_its_content_is_left_out(ingest: Any, key: str, value: Any, suffix: str) -> None:
    """What is empty or null says nothing more."""
    nothing = [None, type(value)(), {"name": None} if isinstance(value, dict) else None]
    rows = [
        {"prompt": [_user(f"q{i}")], "chosen": [{"role": "assistant", "content": "g", key: more}], "rejected": "b"}
        for i, more in enumerate([value, *nothing])
    ]
    done = ingest(rows, suffix=suffix, format="preference", test_prompts=1)
    assert list(done.quarantine.reason) == [f"chosen has a message with {key}, which is not trained on"]
    assert len(done.ids) == 3


def test_scores_of_a_ready_pair_are_not_those_of_its_responses(ingest: Any) -> None:
    """The layout of UltraFeedback has no place for them, that of pairs does."""
    made = [{"response": "a", "fine-grained_score": 1}, {"response": "b", "fine-grained_score": 2}]
    rows = [
        {"instruction": f"q{i}", "completions": made, "chosen": "a", "rejected": "b", "s": 3, "t": 2} for i in range(2)
    ]
    done = ingest(rows, format="preference", columns={"chosen_score": "s", "rejected_score": "t"}, test_prompts=1)
    assert done.preferences[["chosen", "chosen_score", "rejected_score"]].values.tolist() == [["a", 3, 2]]


@pytest.mark.parametrize("data_format", ["preference", "ultrafeedback"])
def test_other_spellings_of_roles_contents_and_scores(ingest: Any, data_format: str) -> None:
    """Roles in another case, developer for system, parts of text, numbers as text; a part that is not text is named."""
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]
    picture = [*parts, {"type": "image", "image": "x"}]
    rows = [
        {"prompt": asked if isinstance(asked, str) else "q?", "score_chosen": "8", "score_rejected": "3.5"}
        | {side: [{"role": "developer", "content": f"Brief {i}."}, {"role": "User", "content": asked},
                  {"role": "Assistant", "content": side}] for side in ("chosen", "rejected")}
        for i, asked in enumerate([parts, picture, "Is q?"])
    ]  # fmt: skip
    columns = {"columns": SCORES} if data_format == "preference" else {}
    done = ingest(rows, format=data_format, test_prompts=1, **columns)
    assert done.prompts.messages[0] == [{"role": "system", "content": "Brief 0."}, _user("q?")]
    assert done.preferences[["chosen", "rejected", "chosen_score", "rejected_score"]].values.tolist() == [
        ["chosen", "rejected", 8, 3.5]
    ]
    assert list(done.quarantine.reason) == ["chosen has a part of type 'image', not text"]
