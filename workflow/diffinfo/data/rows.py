"""One raw row to one prompt or preference pair, or to the reason why it is neither."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from diffinfo.data import preference
from diffinfo.data.files import BadRow, Messages, kind
from diffinfo.data.messages import BESIDE, around, empty, joined, message
from diffinfo.data.values import check_counts, ranked, score, text
from diffinfo.tables import artifacts

_MAGPIE_PAIR = ("instruction", "chosen", "rejected")
_MAGPIE_RANKED = ("instruction", "responses", "rewards_armorm")
_ULTRAFEEDBACK = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")

# columns read of each format, and the sets of which one must be there; of preference see there
_BESIDE = tuple(name for names in BESIDE.values() for name in names)
COLUMNS: dict[str, tuple[str, ...]] = {
    "magpie": ("uuid", "instruction", "chosen", "rejected", "responses", "rewards_armorm", *_BESIDE),
    "ultrafeedback": ("prompt_id", *_ULTRAFEEDBACK),
    "prompts": ("uuid", "instruction", *_BESIDE),
}
REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    "magpie": (_MAGPIE_PAIR, _MAGPIE_RANKED),
    "ultrafeedback": (_ULTRAFEEDBACK,),
    "prompts": (("instruction",),),
}
_RAISED = re.compile("([\u00b2\u00b3\u00b9\u2070-\u209f]+)")


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
    """Unicode NFKC (but 2\u00b2 is not 22), case folded (which may undo NFKC, hence twice), white space made one space."""
    folded = unicodedata.normalize("NFKC", _RAISED.sub(r"^\1", text)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def asked(messages: Messages) -> str:
    """The user's text, normalised: what has been trained on is not held out, whatever its case and the system message."""
    return "\n".join(normalise(message["content"]) for message in messages if message["role"] == "user")


def whole(messages: Messages) -> str:
    """The complete history as it is written: equal for repeats alone. Case and indentation may be what is asked about."""
    return json.dumps([[message["role"], message["content"]] for message in messages])


def parse(number: int, row: dict[str, Any], data_format: str, layout: preference.Columns | None = None) -> Pair:
    """Check one row.

    Args:
        number: its number in the source, from 1.
        row: its columns.
        data_format: "magpie", "ultrafeedback", "preference" or "prompts".
        layout: which column holds what, where the format is "preference".

    Raises:
        BadRow: with the first thing that is wrong with it.
    """
    best: float | None
    worst: float | None
    own_id = row.get("prompt_id" if data_format == "ultrafeedback" else "uuid")
    if data_format == "preference":
        found = preference.read(row, layout)
        messages, chosen, rejected = _pair(found, found["prompt"])
        best, worst, own_id = found["chosen_score"], found["rejected_score"], found["id"]
    elif data_format == "ultrafeedback":
        prompt = text(row.get("prompt"), "prompt")
        messages, chosen, rejected = _pair(row, prompt)
        best, worst = (score(row.get(f"score_{side}"), f"score_{side}") for side in ("chosen", "rejected"))
    else:
        prompt = text(joined(row.get("instruction"), row.get("input")), "instruction")
        messages = [{"role": "user", "content": prompt}]
        said = {part: [row[name] for name in names if not empty(row.get(name))] for part, names in BESIDE.items()}
        messages = around(messages, {part: values[0] for part, values in said.items() if values})
        messages = _checked(messages, "the prompt", "user")
        if data_format == "prompts":
            return Pair(number, _prompt_id(own_id, messages), messages)
        if row.get("chosen") is None and row.get("rejected") is None:
            chosen, rejected, best, worst = ranked(*_responses(row))
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
    return Pair(number, _prompt_id(own_id, messages), messages, chosen, rejected, best, worst)


def _pair(row: dict[str, Any], prompt: str | None) -> tuple[Messages, str, str]:
    """History, chosen and rejected response of two conversations that share all but their last message."""
    (history, chosen), (other, rejected) = (_conversation(row.get(side), side) for side in ("chosen", "rejected"))
    if history != other:
        raise BadRow("chosen and rejected answer different prompts")
    said = [normalise(message["content"]) for message in history if message["role"] == "user"]
    if prompt is not None and normalise(prompt) not in said:
        raise BadRow("chosen and rejected answer another prompt than the row's")
    return history, chosen, rejected


def _conversation(value: Any, side: str) -> tuple[Messages, str]:
    if value is None:
        raise BadRow(f"{side} is missing or null")
    if not isinstance(value, list):
        raise BadRow(f"{side} is {kind(value)}, not a list of messages")
    if not all(isinstance(item, dict) for item in value):
        raise BadRow(f"{side} holds something that is not a message")
    messages = _checked([message(item, side) for item in value], side, "assistant")
    return messages[:-1], messages[-1]["content"]


def _checked(conversation: list[dict[str, Any]], what: str, end: str) -> Messages:
    """Messages that take turns from the user, maybe after a system message, to the role ``end``."""
    roles = [said["role"] for said in conversation]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[-1:] != [end] or turns != (["user", "assistant"] * len(turns))[: len(turns)]:
        shown = ", ".join(map(str, roles)) or "none"
        raise BadRow(f"{what} must take turns from user to {end}, its roles are: {shown}"[:200])
    return [
        {"role": said["role"], "content": text(said["content"], f"{what}'s {said['role']} message")}
        for said in conversation
    ]


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
    check_counts(responses, rewards)
    for index, response in enumerate(responses, 1):
        if not isinstance(response, str):
            raise BadRow(f"response {index} is {kind(response)}, not text")
    scores = [
        score(reward.get("score") if isinstance(reward, dict) else None, f"the score of response {index}")
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


def _prompt_id(value: Any, messages: Messages) -> str:
    """The dataset's own id, else a digest of the history; where one is missing, pandas makes numbers floats, and it NaN."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return artifacts.digest(whole(messages))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        what = f"the number {value}" if isinstance(value, float) else kind(value)
        raise BadRow(f"the prompt's id is {what}, not text or a whole number")
    return text(str(value), "the prompt's id")
