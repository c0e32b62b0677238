"""Judges that compare and grade answers: an OpenAI-compatible endpoint, or the reward model turned into verdicts.

Both give reply texts that go through one parser. A paid reply is never paid twice: see ``store``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd

from diffinfo.cli import UserError, log
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation
from diffinfo.data.files import Messages

Scorer = Callable[[list[Messages]], list[float]]

# The reward model as a judge. Reward models are trained on P(A > B) = sigmoid(r_A - r_B), so the reward difference is
# read as just that, and a verdict depends on its pair alone, not on what else is judged: the label is "much better"
# from P = 0.9 (a difference of 2.2 nats), "better" from P = 0.6 (0.41 nats), else a tie; a grade is
# 1 + 9 P(answer > reference), rounded: as good as the reference is 5.5.
MUCH_BETTER, BETTER = 0.9, 0.6


@dataclass(frozen=True)
class Request:
    """One thing to ask a judge.

    Attributes:
        form: "verdict" asks for a label such as [[A>B]], "grade" for JSON with a score.
        conversation: what an endpoint is sent.
        task: the conversation that the answers answer.
        answers: for a verdict A and B; for a grade the answer and the reference (None where the task has none).
    """

    form: Literal["verdict", "grade"]
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


def make_judge(
    judge: JudgeConfig,
    *,
    cache: Path,
    job: str,
    judge_model: Path | None,
    scoring: Computation,
) -> Judge:
    """The judge that the configuration names.

    Args:
        judge: its entry in ``judges``.
        cache: folder of paid replies.
        job: what tells this job's cache file from that of others that run at the same time.
        judge_model: folder of the judge's model, where that runs here.
        scoring: how a reward model computes.
    """
    if judge.runs_here and judge_model is None:
        raise UserError(f"judge '{judge.model}' runs here: --judge_model must name its folder.")
    if not judge.runs_here and judge_model is not None:
        raise UserError(f"judge '{judge.model}' is an endpoint: leave out --judge_model.")
    if judge.kind == "openai":
        from diffinfo.bench.endpoint import Endpoint

        return Endpoint(judge, cache, job, judge_model)
    if judge.kind == "world":
        return RewardModel(lambda conversations: _true_rewards(conversations, judge.model))
    assert judge_model is not None

    def score(conversations: list[Messages]) -> list[float]:
        from diffinfo.reward import score as reward

        return reward(judge_model, conversations, scoring)

    return RewardModel(score)


def _true_rewards(conversations: list[Messages], kind: str) -> list[float]:
    from diffinfo.world.language import SCALE, parse, reward

    try:
        return [
            SCALE * reward(parse(prompt["content"]), answer["content"], kind) for *_, prompt, answer in conversations
        ]
    except ValueError as error:
        raise UserError(f"{error}: use a judge of another kind than 'world'.") from None


def provenance(
    judge: JudgeConfig,
    table: tuple[str, Path],
    answers: list[Path],
    select: list[Path] | None,
    verdicts: list[Path] | None,
    judge_model: Path | None,
) -> dict[str, Any]:
    """What judgments are made from, as ``artifacts.write`` takes it: the inputs by name and the judge's identity."""
    inputs = {f"answers {i}": path for i, path in enumerate(answers)} | dict([table])
    inputs |= {f"select {i}": path for i, path in enumerate(select or [])}
    inputs |= {f"verdicts {i}": path for i, path in enumerate(verdicts or [])}
    inputs |= {"judge_model": judge_model} if judge_model else {}
    return {"inputs": inputs, "judge": identity(judge)}


def identity(judge: JudgeConfig) -> dict[str, Any]:
    """What decides a judge's replies, for provenance. It holds no secret."""
    if judge.kind != "openai":
        return {"kind": judge.kind, "model": judge.model, "much_better": MUCH_BETTER, "better": BETTER}
    where = {"serve", "server"} if judge.serve else {"base_url"}
    return judge.model_dump(include={"kind", "model", "max_tokens", "preset", "request", *where})


class RewardModel:
    """The embedded judge.

    Args:
        score: rewards of conversations that end with the assistant's answer.
    """

    def __init__(self, score: Scorer) -> None:
        self.score = score

    def ask(self, requests: Sequence[Request], what: str) -> list[Reply]:
        """See Judge.

        Raises:
            UserError: when a grade is asked of a task without a reference answer.
        """
        lacking = sum(answer is None for request in requests for answer in request.answers)
        if lacking:
            raise UserError(
                f"{lacking} tasks have no reference answer, which a reward model needs to grade: use an openai judge."
            )
        needed: dict[str, Messages] = {}  # each conversation is scored once, though two games and five epochs hold it
        for request in requests:
            for answer in request.answers:
                whole = [*request.task, {"role": "assistant", "content": str(answer)}]
                needed.setdefault(json.dumps(whole), whole)
        rewards = dict(zip(needed, self.score(list(needed.values())), strict=True))
        if not all(map(math.isfinite, rewards.values())):
            raise UserError("the reward model gave a score that is not a number.")
        replies = []
        for request in requests:
            first, second = (
                rewards[json.dumps([*request.task, {"role": "assistant", "content": str(answer)}])]
                for answer in request.answers
            )
            replies.append(Reply(_verdict(first, second) if request.form == "verdict" else _grade(first, second)))
        return replies


def _verdict(a: float, b: float) -> str:
    better = _sigmoid(a - b)
    likely, winner, loser = (better, "A", "B") if better >= 0.5 else (1 - better, "B", "A")
    sign = ">>" if likely >= MUCH_BETTER else ">" if likely >= BETTER else "="
    label = "A=B" if sign == "=" else f"{winner}{sign}{loser}"
    return f"Reward of A {a:.4f}, of B {b:.4f}, P(A better) {better:.4f}. My final verdict is [[{label}]]."


def _grade(answer: float, reference: float) -> str:
    better = _sigmoid(answer - reference)
    facts = f"reward {answer:.4f}, of the reference {reference:.4f}, P(better than the reference) {better:.4f}"
    return json.dumps({"strengths": facts, "weaknesses": "", "score": round(1 + 9 * better)})


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
