"""Conversations as people write them, and the columns beside a prompt's that are part of it, as lists of messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffinfo.data.files import BadRow, Messages, kind

# columns beside the prompt's that are read with it, the first that is there; input is that of an instruction (Alpaca)
BESIDE = {"system": ("system", "system_prompt"), "history": ("history",), "input": ("input",)}

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system",
          "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
          "model": "assistant"}  # fmt: skip
_MORE = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "images", "audio")
_TURN = re.compile(r"\n\n(Human|Assistant):")


def read(value: Any, what: str) -> Messages:
    """A conversation: text is the user's, or with "\n\nHuman:" (Anthropic) several turns; lists have either public schema.

    Raises:
        BadRow: when it is none.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _turns(value) if is_dialogue(value) else [{"role": "user", "content": value}]
    listed = items(value)
    if listed is None or not all(isinstance(item, dict) for item in listed):
        raise BadRow(f"{what} is {kind(value)}, not text or a list of messages")
    return [message(item, what) for item in listed]


def message(item: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The role and the content of a message of either public schema.

    Raises:
        BadRow: when it says more than its content.
    """
    for key in _MORE:
        if not empty(item.get(key)):
            raise BadRow(f"{what} has a message with {key}, which is not trained on")
    role = str(item.get("role", item.get("from")))
    return {"role": _ROLES.get(role.lower(), role), "content": _content(item.get("content", item.get("value")), what)}


def _content(value: Any, what: str) -> Any:
    """Content as text, where it is a list of parts that are all text."""
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        return value
    for part in value:
        if part.get("type") != "text":
            raise BadRow(f"{what} has a part of type '{part.get('type')}', not text")
    texts = [part.get("text") for part in value]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else value


def items(value: Any) -> list[Any] | None:
    """A list of mappings, which ``datasets`` may keep as a mapping of lists; one mapping is a list of one."""
    if isinstance(value, dict):
        lists = list(value.values())
        if all(isinstance(part, list) for part in lists) and len({len(part) for part in lists}) == 1:
            return [dict(zip(value, parts, strict=True)) for parts in zip(*lists, strict=True)]
        return [value]
    return value if isinstance(value, list) else None


def is_dialogue(text: str) -> bool:
    """Whether a text is Anthropic's turns."""
    return text.lstrip().startswith("Human:")


def _turns(text: str) -> Messages:
    """The turns of "\n\nHuman: ...\n\nAssistant: ..."; a last empty one is where the answer belongs."""
    _, *parts = _TURN.split("\n\n" + text.lstrip())
    turns = [
        {"role": "user" if who == "Human" else "assistant", "content": said.removeprefix(" ").rstrip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def empty(value: Any) -> bool:
    """Whether a value says nothing; pandas makes a missing text NaN, and Parquet a missing mapping one of nulls."""
    if isinstance(value, (dict, list)):
        return all(map(empty, value.values() if isinstance(value, dict) else value))
    return not value.strip() if isinstance(value, str) else not value or value != value


def joined(instruction: Any, more: Any) -> Any:
    """An instruction and its input, as LLaMA-Factory joins them.

    Raises:
        BadRow: when there is an input and both are not text.
    """
    if empty(more) or instruction is None:
        return instruction
    for name, value in (("instruction", instruction), ("input", more)):
        if not isinstance(value, str):
            raise BadRow(f"{name} is {kind(value)}, not text that input can be joined to")
    return "\n".join(value for value in (instruction, more) if not empty(value))


def around(asked: Messages, part: Mapping[str, Any]) -> Messages:
    """What is asked, after the system message and the earlier turns that ``part`` has from columns of their own.

    Raises:
        BadRow: when the earlier turns are no list of messages, nor of [question, answer].
    """
    history = None if empty(part.get("history")) else part["history"]
    earlier: Messages = []
    if isinstance(history, str) and not is_dialogue(history):
        raise BadRow("history is text, not a list of turns; write it as messages, or join it to the prompt")
    if isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        sides = [("user", question) for question, _ in history], [("assistant", answer) for _, answer in history]
        earlier = [{"role": role, "content": said} for turn in zip(*sides, strict=True) for role, said in turn]
    else:
        earlier = read(history, "history")
    system = [] if empty(part.get("system")) else [{"role": "system", "content": part["system"]}]
    leads = [message for message in (*asked[:1], *system, *earlier[:1]) if message["role"] == "system"]
    turns = [part[1:] if part[:1] and part[0]["role"] == "system" else part for part in (earlier, asked)]
    return leads[:1] + turns[0] + turns[1]
