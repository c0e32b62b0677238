"""Judges that compare and grade answers: an OpenAI-compatible endpoint, or the reward model turned into verdicts.

Both give reply texts that go through one parser. A paid reply is never paid twice: see ``store``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffinfo.bench.endpoint import Endpoint
from diffinfo.bench.replies import Judge, Reply, Request
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation
from diffinfo.data.files import Messages

Scorer = Callable[[list[Messages]], list[float]]

# The reward model as a judge. Reward models are trained on P(A > B) = sigmoid(r_A - r_B), so the reward difference is
# read as just that, and a verdict depends on its pair alone, not on what else is judged: the label is "much better"
# from P = 0.9 (a difference of 2.2 nats), "better" from P = 0.6 (0.41 nats), else a tie; a grade is
# 1 + 9 P(answer > reference), rounded: as good as the reference is 5.5.
MUCH_BETTER, BETTER = 0.9, 0.6


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
            said = {"verdict": _verdict, "grade": _grade, "choice": _choice}[request.form]
            replies.append(Reply(said(first, second)))
        return replies


def _verdict(a: float, b: float) -> str:
    label, facts = _label(a, b)
    return f"{facts}. My final verdict is [[{label}]]."


def _choice(a: float, b: float) -> str:
    label, facts = _label(a, b)
    return json.dumps({"reason": facts, "choice": label if label == "A=B" else label[0] + "+" * label.count(">")})


def _label(a: float, b: float) -> tuple[str, str]:
    better = _sigmoid(a - b)
    likely, winner, loser = (better, "A", "B") if better >= 0.5 else (1 - better, "B", "A")
    sign = ">>" if likely >= MUCH_BETTER else ">" if likely >= BETTER else "="
    label = "A=B" if sign == "=" else f"{winner}{sign}{loser}"
    return label, f"Reward of A {a:.4f}, of B {b:.4f}, P(A better) {better:.4f}"


def _grade(answer: float, reference: float) -> str:
    better = _sigmoid(answer - reference)
    facts = f"reward {answer:.4f}, of the reference {reference:.4f}, P(better than the reference) {better:.4f}"
    return json.dumps({"strengths": facts, "weaknesses": "", "score": round(1 + 9 * better)})


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
