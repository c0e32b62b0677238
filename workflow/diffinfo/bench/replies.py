"""What judges are asked and reply: the follow-up turn, what replies cost, and how many may be missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import pandas as pd

from diffinfo.cli import UserError, log
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.data.files import Messages


@dataclass(frozen=True)
class Request:
    """One thing to ask a judge.

    Attributes:
        form: "verdict" asks for a label such as [[A>B]], "grade" for JSON with a score, "choice" for JSON with one such as A+.
        conversation: what an endpoint is sent.
        task: the conversation that the answers answer.
        answers: for a verdict or choice A and B; for a grade the answer and the reference (None where the task has none).
    """

    form: Literal["verdict", "grade", "choice"]
    conversation: Messages
    task: Messages
    answers: tuple[str, str | None]


@dataclass(frozen=True)
class Usage:
    """What a reply cost; None where that is not known.

    Attributes:
        read: tokens of the request.
        cached: those of them that the endpoint had in its cache.
        written: tokens of the reply, its reasoning included.
        dollars: the price of both.
    """

    read: int | None = None
    cached: int | None = None
    written: int | None = None
    dollars: float | None = None


COSTS = [field.name for field in fields(Usage)]


class Reply(str):
    """A judge's reply, why it ended ("" if unknown), why there is none to read ("" if there is), and what it cost."""

    finish_reason: str
    unjudged: str
    usages: tuple[Usage, ...]

    def __new__(cls, text: str, finish_reason: str = "", unjudged: str = "", usages: tuple[Usage, ...] = ()) -> Reply:
        """``text`` with its ``finish_reason``."""
        reply = super().__new__(cls, text)
        reply.finish_reason, reply.unjudged, reply.usages = finish_reason, unjudged, usages
        return reply

    @property
    def cut(self) -> bool:
        """Whether the reply was cut off, so that its text is incomplete."""
        return self.finish_reason.casefold() in ("length", "max_tokens", "max_output_tokens", "model_length")

    @property
    def unreadable(self) -> str:
        """Why its text does not count, whatever it says; "" where it does."""
        return self.unjudged or ("cut by length" if self.cut else "" if self.strip() else "empty reply")


class Judge(Protocol):
    """Replies to requests, in their order."""

    def ask(self, requests: Sequence[Request], what: str) -> list[Reply]:
        """Reply to each request; ``what`` names the progress bar."""
        ...


def ask(
    judge: Judge, requests: Sequence[Request], what: str, lacking: Callable[[Reply], bool], turn: str
) -> list[Reply]:
    """Reply to each request, after one more turn of the user where the first reply was cut or is ``lacking``.

    Both replies are one then, and its end is that of the second. A request that has no reply at all is not asked further.
    """
    replies = judge.ask(requests, what)
    again = [i for i, reply in enumerate(replies) if not reply.unjudged and (reply.unreadable or lacking(reply))]
    if not again:
        return replies
    log.info("%d of %d replies were cut or cannot be read: asking once more", len(again), len(replies))
    further = []
    for i in again:
        turns = [{"role": "assistant", "content": replies[i] or "(no text)"}, {"role": "user", "content": turn}]
        further.append(replace(requests[i], conversation=[*requests[i].conversation, *turns]))
    for i, reply in zip(again, judge.ask(further, f"{what}, again"), strict=True):
        whole = (f"{replies[i]}\n{reply}", reply.finish_reason, reply.unjudged)
        replies[i] = Reply(*whole, (*replies[i].usages, *reply.usages))
    return replies


def unread(reply: str, found: Collection[Any], what: str) -> str | None:
    """Why a reply that says the distinct ``found`` of ``what`` (a label, a score) has no judgment; None where it has one.

    A reply that was cut has none: what it would have said next might be another.
    """
    if isinstance(reply, Reply) and reply.unreadable:
        return reply.unreadable
    return None if len(found) == 1 else f"different {what}s" if found else f"no {what}"


def costs(replies: Iterable[Reply]) -> dict[str, list[Any]]:
    """What each reply cost, as the columns of a ``judgments`` table; what stands there twice was paid once."""
    seen: set[int] = set()
    rows = []
    for reply in replies:
        paid = [usage for usage in reply.usages if id(usage) not in seen]
        seen.update(map(id, paid))
        rows.append(paid)
    return {name: [_total(getattr(usage, name) for usage in paid) for paid in rows] for name in COSTS}


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def tolerate(reasons: pd.Series, judge: JudgeConfig) -> None:
    """Refuse a table with too few judgments.

    Args:
        reasons: why each judgment is missing; null where it is there.
        judge: who was asked.

    Raises:
        UserError: when more than ``max_unjudged`` of them are missing.
    """
    missing = Counter(reasons.dropna())
    if missing.total() > judge.max_unjudged * len(reasons):
        raise UserError(
            f"{judge.model} gave no judgment on {missing.total()} of {len(reasons)} answers ({counted(missing)}), more than "
            f"the judge's max_unjudged = {judge.max_unjudged} allows: use another judge, raise its max_tokens, or raise "
            "max_unjudged. What was paid is kept."
        )


def counted(missing: Counter[str]) -> str:
    """Reasons with their counts, as a sentence names them."""
    return ", ".join(f"{count} {reason}" for reason, count in missing.most_common())
