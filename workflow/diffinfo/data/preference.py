"""Preference rows as people publish them: TRL's conventions, and the layouts of well-known sets (docs/formats.md).

A layout says which column holds what (``datasets.<name>.columns``). ``a.b`` is b of each item of the list a; ``-a`` is the
negative of a number.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffinfo.data import messages
from diffinfo.data.files import BadRow, kind
from diffinfo.data.values import check_counts, ranked, score, text

Columns = Mapping[str, str | list[str]]

_PAIR: Columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
# the first of these whose columns are all there
LAYOUTS: tuple[Columns, ...] = (
    _PAIR,
    {"prompt": "context", "responses": ["response1", "response2"],
     "scores": ["-overall_preference", "overall_preference"]},  # HelpSteer3
    {"prompt": "prompt", "responses": "answers.answer", "scores": "-answers.rank"},  # Nectar
    {"prompt": "instruction", "responses": "completions.response", "scores": "completions.fine-grained_score"},  # UltraFeedback
    {"prompt": "prompt", "responses": ["response_0", "response_1"], "preferred": "better_response_id"},  # PKU-SafeRLHF
    {"prompt": "history", "responses": ["human_ref_A", "human_ref_B"], "scores": ["score_A", "score_B"]},  # SHP
    {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},  # StackExchange-paired
    {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},  # Argilla
    *({**_PAIR, "prompt": name} for name in ("question", "instruction", "input", "conversations", "conversation")),
    {"chosen": "chosen", "rejected": "rejected"},  # conversations
)  # fmt: skip
_OPTIONAL = {**messages.BESIDE, "id": ("prompt_id",)}  # where the source has these
# what may be part of the prompt: a row that has more in such a column than in its prompt is left out
_OF_PROMPTS = ("instruction", "question", "query", "input", "context", "history", "system", "system_prompt", "tools",
               "image", "images")  # fmt: skip

_SPELT = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:")
_NO_PROMPT = re.compile(
    r"score|rating|reward|margin|id$|index|model|source|subset|split|lang|category|domain|date|time"
)
_HINTS = {  # words in the names of columns that people use
    "prompt": ("prompt", "question", "query", "instruction", "input", "context", "history", "conversation", "problem"),
    "chosen": ("chosen", "prefer", "good", "accept", "better", "best", "win", "positive"),
    "rejected": ("reject", "dispref", "bad", "worse", "worst", "lose", "loser", "negative"),
}


def named(columns: Columns) -> list[str]:
    """The columns that a layout reads."""
    names = [name for value in columns.values() for name in ([value] if isinstance(value, str) else value)]
    return list(dict.fromkeys(name.removeprefix("-").partition(".")[0] for name in names))


def wanted(columns: Columns) -> tuple[str, ...]:
    """All columns that may be read, whatever the layout."""
    of_layouts = [name for layout in (*LAYOUTS, columns) for name in named(layout)]
    return tuple(dict.fromkeys([*of_layouts, *itertools.chain(*_OPTIONAL.values()), *_OF_PROMPTS]))


def layout(present: Iterable[str], columns: Columns) -> Columns | None:
    """Which column holds what: the configuration's word, the rest as the first layout of LAYOUTS that fits."""
    there = set(present)
    pairs = {"chosen", "rejected"} if "responses" in columns else set()
    for known in LAYOUTS:
        if {"chosen", "chosen_score"} & columns.keys() and "responses" in known:
            continue
        found = {part: name for part, name in known.items() if part not in pairs} | dict(columns)
        if there.issuperset(named(found)):
            others = there - set(named(found))
            for part, names in _OPTIONAL.items():
                name = next((name for name in names if name in others), None)
                if name and (part != "input" or found.get("prompt") == "instruction"):
                    found.setdefault(part, name)
            others -= set(named(found))
            unread = [name for name in _OF_PROMPTS if name in others]
            said = ("prompt" if "prompt" in found else "chosen") in columns  # the user's word for what the prompt is
            return found | {"others": sorted(others), "unread": [] if said else unread}
    return None


def explain(present: Iterable[str], columns: Columns, here: str) -> str:
    """Why no layout fits, with the columns that were probably meant: the end of a sentence."""
    there = list(present)
    for part, value in columns.items():
        for name in named({part: value}):
            if name not in there:
                near = difflib.get_close_matches(name, there, n=1)
                return f"{here}.columns.{part} names '{name}'" + (f"; did you mean '{near[0]}'?" if near else ".")
    if {"completion", "completions", "response"} & set(there) and {"label", "labels"} & set(there):
        return (
            "these are single responses, each labelled good or bad (KTO) or step by step, and the workflow learns from pairs: "
            "join a good and a bad response of each prompt into one row with prompt, chosen and rejected."
        )
    single = {"messages", "completion", "output", "response", "conversations", "text"}
    if not any("reject" in name for name in there) and single & set(there):
        return "these are single responses to imitate (SFT); a pair is a chosen and a rejected response to one prompt."
    guess = {part: _guess(part, there) for part in _PAIR}
    if set(there) <= {guess["prompt"]}:
        return (
            f"these are prompts alone; in a column 'instruction', with {here}.format = prompts, they are answered here."
        )
    meant = ", ".join(f"{part}: {name or '...'}" for part, name in guess.items() if name != part)
    return (
        "format = preference needs prompt, chosen and rejected, or a layout of docs/formats.md; name the columns, as in "
        f"{here}.columns: {{{meant}}}."
    )


def _guess(part: str, present: list[str]) -> str | None:
    """A column that by its name holds ``part``; 'dispreferred' is none that is preferred."""
    others = _HINTS["rejected"] if part == "chosen" else ()
    for word in _HINTS[part]:
        for name in present:
            if (
                word in name.lower()
                and not any(other in name.lower() for other in others)
                and not _NO_PROMPT.search(name.lower())
            ):
                return name
    return next(iter(difflib.get_close_matches(part, present, n=1)), None)


def read(row: Mapping[str, Any], layout: Columns | None) -> dict[str, Any]:
    """One row as ``prompt`` (text or None), both ``chosen`` and ``rejected`` as whole conversations, their scores, its id.

    Raises:
        BadRow: with the first thing that is wrong with it.
    """
    if layout is None:
        raise BadRow("its columns are of no known layout")
    part = {name: _value(row, column) for name, column in layout.items()}
    if "responses" in part:
        part |= _best_and_worst(part)
    elif "chosen_score" in part:
        part |= {
            f"{side}_score": score(part[f"{side}_score"], f"the score of {side}") for side in ("chosen", "rejected")
        }
    prompt, sides = part.get("prompt"), {side: part.get(side) for side in ("chosen", "rejected")}
    for name, value in (("prompt", prompt), *sides.items()):
        if isinstance(value, str) and _SPELT.match(value):
            raise BadRow(f"{name} is a list of messages spelt as text; write the set as JSON or Parquet")
    if "prompt" in layout and prompt is None:
        raise BadRow("prompt is missing or null")
    texts = [v for v in sides.values() if isinstance(v, str) and not messages.is_dialogue(v)]
    if "prompt" not in layout and not layout["others"] and len(texts) == 2:
        prompt, sides = _implicit(*texts)
    history = messages.around(messages.read(messages.joined(prompt, part.get("input")), "prompt"), part)
    last = next((m["content"] for m in reversed(history) if m.get("role") == "user"), None)
    if isinstance(last, str) and last.strip() and all(_repeats(value, last.strip()) for value in sides.values()):
        raise BadRow("chosen and rejected begin with the prompt's text; take it off them, or write messages")
    for side, value in sides.items():
        if value is None:
            raise BadRow(f"{side} is missing or null")
        answer = isinstance(value, str) and not messages.is_dialogue(value)
        if answer and prompt is None:  # what answers begin with is not their prompt where another column may hold it
            raise BadRow(f"{side} is text without a prompt; {_remedy(layout['others'])}")
        own = [{"role": "assistant", "content": value}] if answer else messages.read(value, side)
        if own and own[0].get("role") != "assistant":  # a whole conversation
            lead = history[:1] if history and history[0]["role"] == "system" and own[0].get("role") != "system" else []
            if any(
                m["role"] != "system" and m["content"] != last and _squeezed(m) not in map(_squeezed, own)
                for m in history
            ):
                raise BadRow(f"{side} is a conversation that lacks an earlier turn of the prompt")
            sides[side] = lead + own
        else:
            sides[side] = history + own
    _all_read(row, layout, " ".join(map(_squeezed, sides["chosen"] or [])))
    return {
        "prompt": None if last is None else text(last, "prompt"),
        **sides,
        **{key: part.get(key) for key in ("chosen_score", "rejected_score", "id")},
    }


def _squeezed(message: Mapping[str, Any]) -> str:
    return " ".join(str(message["content"]).split())


def _all_read(row: Mapping[str, Any], layout: Columns, conversation: str) -> None:
    """Refuse a row whose prompt may go on in a column that is not read.

    Raises:
        BadRow: which names the column.
    """
    for name in layout["unread"]:
        value = row.get(name)
        if messages.empty(value) or isinstance(value, (int, float)):
            continue
        if not isinstance(value, str) or " ".join(value.split()) not in conversation:
            whole = [part for part in ("prompt", "chosen", "rejected") if part == "prompt" or "prompt" not in layout]
            meant = ", ".join(f"{part}: {layout[part]}" for part in whole if part in layout)
            raise BadRow(
                f"the column '{name}' is not read and may be part of the prompt; join it to the prompt, or say that it is "
                f"none of it, as columns: {{{meant}}}"
            )


def _value(row: Mapping[str, Any], column: str | list[str]) -> Any:
    """What a column of a layout holds."""
    if isinstance(column, list):
        return [_value(row, name) for name in column]
    name, _, inner = column.removeprefix("-").partition(".")
    found = row.get(name)
    if inner:
        items = messages.items(found)
        found = [item.get(inner) if isinstance(item, dict) else None for item in items] if items is not None else None
    if not column.startswith("-"):
        return found
    listed = found if isinstance(found, list) else [found]
    negative = [-score(value, name) for value in listed]
    return negative if isinstance(found, list) else negative[0]


def _best_and_worst(part: dict[str, Any]) -> dict[str, Any]:
    responses = part["responses"]
    if not isinstance(responses, list):
        raise BadRow(f"the responses are {kind(responses)}, not a list")
    if "preferred" in part:
        place = score(part["preferred"], "the better response")
        if place not in range(len(responses)):
            raise BadRow(f"the better response is {place:g}, of {len(responses)}")
        scores: Any = [float(index == place) for index in range(len(responses))]
    else:
        scores = part["scores"]
        if not isinstance(scores, list):
            raise BadRow(f"the scores are {kind(scores)}, not a list")
        check_counts(responses, scores)
        scores = [score(value, f"the score of response {index}") for index, value in enumerate(scores, 1)]
    chosen, rejected, best, worst = ranked(responses, scores)
    known = (None, None) if "preferred" in part else (best, worst)
    return {"chosen": chosen, "rejected": rejected, "chosen_score": known[0], "rejected_score": known[1]}


def _implicit(chosen: str, rejected: str) -> tuple[str, dict[str, Any]]:
    """The prompt that two texts begin with, of a set that has no other column (TRL's ``extract_prompt``)."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    end = sum(1 for _ in alike)
    end -= bool(end and chosen[end - 1] == " ")
    return chosen[:end], {"chosen": chosen[end:], "rejected": rejected[end:]}


def _repeats(answer: Any, prompt: str) -> bool:
    """Whether a text is the prompt and more: an answer 'Hi! How are you?' does not repeat 'Hi'."""
    if not isinstance(answer, str) or not answer.lstrip().startswith(prompt):
        return False
    more = answer.lstrip().removeprefix(prompt)
    return more[:1].isspace() or not prompt[-1].isalnum()


def _remedy(others: str | list[str]) -> str:
    """Where the prompt of two texts may be."""
    if not others:
        return "add a column prompt, or write turns that begin with Human: and Assistant:"
    return f"name the prompt's column, as columns: {{prompt: {_guess('prompt', list(others)) or others[0]}}}"
