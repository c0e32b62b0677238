"""One raw row to one prompt or preference pair, or to the reason why it is neither."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from diffinfo.data.sources import BadRow, Messages, kind
from diffinfo.tables import artifacts

_MAGPIE_PAIR = ("instruction", "chosen", "rejected")
_MAGPIE_RANKED = ("instruction", "responses", "rewards_armorm")
_ULTRAFEEDBACK = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")

# columns read of each format, and the sets of which one must be there
COLUMNS: dict[str, tuple[str, ...]] = {
    "magpie": ("uuid", "instruction", "chosen", "rejected", "responses", "rewards_armorm"),
    "ultrafeedback": ("prompt_id", *_ULTRAFEEDBACK),
    "prompts": ("uuid", "instruction"),
}
REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    "magpie": (_MAGPIE_PAIR, _MAGPIE_RANKED),
    "ultrafeedback": (_ULTRAFEEDBACK,),
    "prompts": (("instruction",),),
}

# tab, line feed, vertical tab, form feed and carriage return do occur in good text
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Pair:
    """A good row; without responses where only prompts are read."""

    row: int
    prompt_id: str
    messages: Messages
    chosen: str = ""
    rejected: str = ""
    chosen_score: float | None = None
    rejected_score: float | None = None


def normalise(text: str) -> str:
    """Unicode NFKC, case folded (which may undo NFKC, hence twice), runs of white space made one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def asked(messages: Messages) -> str:
    """The user's text, normalised: equal user text counts as the same prompt, whatever the system message."""
    return "\n".join(normalise(message["content"]) for message in messages if message["role"] == "user")


def whole(messages: Messages) -> str:
    """The complete history, normalised: equal for duplicates."""
    return "\n".join(f"{message['role']}: {normalise(message['content'])}" for message in messages)


def parse(number: int, row: dict[str, Any], data_format: str) -> Pair:
    """Check one row.

    Args:
        number: its number in the source, from 1.
        row: its columns.
        data_format: "magpie", "ultrafeedback" or "prompts".

    Raises:
        BadRow: with the first thing that is wrong with it.
    """
    best: float | None
    worst: float | None
    if data_format == "ultrafeedback":
        prompt = text(row.get("prompt"), "prompt")
        messages, chosen, rejected = _pair(row, prompt)
        best, worst = (_score(row.get(f"score_{side}"), f"score_{side}") for side in ("chosen", "rejected"))
    else:
        prompt = text(row.get("instruction"), "instruction")
        messages = [{"role": "user", "content": prompt}]
        if data_format == "prompts":
            return Pair(number, _prompt_id(row.get("uuid"), messages), messages)
        if row.get("chosen") is None and row.get("rejected") is None:
            chosen, rejected, best, worst = _ranked(row)
        else:
            messages, chosen, rejected = _pair(row, prompt)
            best, worst = _scores_of(row, chosen, rejected)
    if chosen.strip() == rejected.strip():
        raise BadRow("chosen and rejected are the same text")
    if best is not None and worst is not None:
        if best == worst:
            raise BadRow("the scores of chosen and rejected tie")
        if best < worst:
            raise BadRow("chosen scores lower than rejected")
    own_id = row.get("prompt_id" if data_format == "ultrafeedback" else "uuid")
    return Pair(number, _prompt_id(own_id, messages), messages, chosen, rejected, best, worst)


def text(value: Any, what: str) -> str:
    """``value`` if it is text that can be trained on.

    Raises:
        BadRow: when it is missing, no text, empty, or holds broken or control characters.
    """
    if value is None:
        raise BadRow(f"{what} is missing or null")
    if not isinstance(value, str):
        raise BadRow(f"{what} is {kind(value)}, not text")
    if not value.strip():
        raise BadRow(f"{what} is empty")
    if _SURROGATE.search(value):
        raise BadRow(f"{what} is invalid UTF-8")
    if control := _CONTROL.search(value):
        raise BadRow(f"{what} holds the control character U+{ord(control[0]):04X}")
    return value


def _pair(row: dict[str, Any], prompt: str) -> tuple[Messages, str, str]:
    """History, chosen and rejected response of two conversations that share all but their last message."""
    (history, chosen), (other, rejected) = (_conversation(row.get(side), side) for side in ("chosen", "rejected"))
    if history != other:
        raise BadRow("chosen and rejected answer different prompts")
    if normalise(prompt) not in [normalise(message["content"]) for message in history if message["role"] == "user"]:
        raise BadRow("chosen and rejected answer another prompt than the row's")
    return history, chosen, rejected


def _conversation(value: Any, side: str) -> tuple[Messages, str]:
    if value is None:
        raise BadRow(f"{side} is missing or null")
    if not isinstance(value, list):
        raise BadRow(f"{side} is {kind(value)}, not a list of messages")
    if not all(isinstance(message, dict) for message in value):
        raise BadRow(f"{side} holds something that is not a message")
    roles = [message.get("role") for message in value]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        shown = ", ".join(map(str, roles)) or "none"
        raise BadRow(f"{side} must take turns from user to assistant, its roles are: {shown}"[:200])
    contents = [text(message.get("content"), f"{side}'s {message['role']} message") for message in value]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return messages[:-1], contents[-1]


def _ranked(row: dict[str, Any]) -> tuple[str, str, float, float]:
    """Best and worst response by score; the first of several equals."""
    responses, scores = _responses(row)
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if scores[best] == scores[worst]:
        raise BadRow("the best and worst scores tie")
    return (
        text(responses[best], f"response {best + 1}"), text(responses[worst], f"response {worst + 1}"),
        scores[best], scores[worst],
    )  # fmt: skip


def _responses(row: dict[str, Any]) -> tuple[list[str], list[float]]:
    """Responses and their scores; an empty response is a fault only where it is picked."""
    responses, rewards = row.get("responses"), row.get("rewards_armorm")
    for name, value in (("responses", responses), ("rewards_armorm", rewards)):
        if value is None:
            raise BadRow(f"{name} is missing or null")
        if not isinstance(value, list):
            raise BadRow(f"{name} is {kind(value)}, not a list")
    assert isinstance(responses, list)
    assert isinstance(rewards, list)
    if len(responses) != len(rewards):
        raise BadRow(f"{len(responses)} responses have {len(rewards)} rewards")
    if len(responses) < 2:
        raise BadRow("there are fewer than two responses")
    for index, response in enumerate(responses, 1):
        if not isinstance(response, str):
            raise BadRow(f"response {index} is {kind(response)}, not text")
    scores = [
        _score(reward.get("score") if isinstance(reward, dict) else None, f"the score of response {index}")
        for index, reward in enumerate(rewards, 1)
    ]
    return responses, scores


def _scores_of(row: dict[str, Any], chosen: str, rejected: str) -> tuple[float | None, float | None]:
    """Scores of a ready pair, where the row holds the responses it was made from."""
    if row.get("responses") is None or row.get("rewards_armorm") is None:
        return None, None
    responses, scores = _responses(row)
    found = {response.strip(): score for response, score in zip(responses, scores, strict=True)}
    return found.get(chosen.strip()), found.get(rejected.strip())


def _score(value: Any, what: str) -> float:
    if value is None:
        raise BadRow(f"{what} is missing or null")
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise BadRow(f"{what} is {kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise BadRow(f"{what} is too large") from None
    if not math.isfinite(number):
        raise BadRow(f"{what} is {number}")
    return number


def _prompt_id(value: Any, messages: Messages) -> str:
    """The dataset's own id, else a digest of the normalised history."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return artifacts.digest(whole(messages))
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRow(f"the prompt's id is {kind(value)}, not text")
    return text(str(value), "the prompt's id")
