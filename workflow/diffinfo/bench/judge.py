"""Judges that compare and grade answers: an OpenAI-compatible endpoint, or the reward model turned into verdicts.

Both give reply texts that go through one parser. A paid reply is never paid twice: see ``Cache``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from diffinfo.cli import UserError, log, progress
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation
from diffinfo.data.files import Messages
from diffinfo.tables import artifacts

Scorer = Callable[[list[Messages]], list[float]]

# The reward model as a judge. Reward models are trained on P(A > B) = sigmoid(r_A - r_B), so the reward difference is
# read as just that, and a verdict depends on its pair alone, not on what else is judged: the label is "much better"
# from P = 0.9 (a difference of 2.2 nats), "better" from P = 0.6 (0.41 nats), else a tie; a grade is
# 1 + 9 P(answer > reference), rounded: as good as the reference is 5.5.
MUCH_BETTER, BETTER = 0.9, 0.6
_GIVE_UP = 20  # failed requests, each after its retries: the endpoint is down, and waiting longer does not help


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


class Reply(str):
    """A judge's reply and why it ended ("" if unknown)."""

    finish_reason: str

    def __new__(cls, text: str, finish_reason: str = "") -> Reply:
        """``text`` with its ``finish_reason``."""
        reply = super().__new__(cls, text)
        reply.finish_reason = finish_reason
        return reply

    @property
    def cut(self) -> bool:
        """Whether the reply was cut off (length or filter), so that its text is incomplete."""
        return self.finish_reason in ("length", "max_tokens", "content_filter")


class Judge(Protocol):
    """Replies to requests, in their order."""

    def ask(self, requests: Sequence[Request], what: str) -> list[Reply]:
        """Reply to each request; ``what`` names the progress bar."""
        ...


def make_judge(
    judge: JudgeConfig,
    *,
    cache: Path,
    job: str,
    reward_model: Path | None,
    scoring: Computation,
) -> Judge:
    """The judge that the configuration names.

    Args:
        judge: its entry in ``judges``.
        cache: folder of paid replies.
        job: what tells this job's cache file from that of others that run at the same time.
        reward_model: folder of the reward model where the judge is one.
        scoring: how it computes.
    """
    if judge.kind == "openai":
        if reward_model is not None:
            raise UserError(f"judge '{judge.model}' is an endpoint: leave out --reward_model.")
        return Endpoint(judge, cache, job)
    if judge.kind == "world":
        return RewardModel(lambda conversations: _true_rewards(conversations, judge.model))
    if reward_model is None:
        raise UserError(f"judge '{judge.model}' is a reward model: --reward_model must name its folder.")

    def score(conversations: list[Messages]) -> list[float]:
        from diffinfo.reward import score as reward

        return reward(reward_model, conversations, scoring)

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
    reward_model: Path | None,
) -> dict[str, Any]:
    """What judgments are made from, as ``artifacts.write`` takes it: the inputs by name and the judge's identity."""
    inputs = {f"answers {i}": path for i, path in enumerate(answers)} | dict([table])
    inputs |= {f"select {i}": path for i, path in enumerate(select or [])}
    inputs |= {f"verdicts {i}": path for i, path in enumerate(verdicts or [])}
    inputs |= {"reward_model": reward_model} if reward_model else {}
    return {"inputs": inputs, "judge": identity(judge)}


def identity(judge: JudgeConfig) -> dict[str, Any]:
    """What decides a judge's replies: for provenance and as part of the cache's keys. It holds no secret."""
    if judge.kind != "openai":
        return {"kind": judge.kind, "model": judge.model, "much_better": MUCH_BETTER, "better": BETTER}
    return {"kind": judge.kind, **judge.model_dump(include={"model", "base_url", "max_tokens"}), "temperature": 0.0}


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


class Cache:
    """Paid replies on disk with their finish_reason: one JSON line each, written at once and synced.

    Each job appends to a file of its own, since two machines that append to one file may tear each other's lines; all jobs
    read all files of their judge. The key is made of all that is sent, texts included, so that an answer by a changed
    model of the same name never meets an old reply.
    """

    def __init__(self, folder: Path, judge: str, job: str) -> None:
        self.folder, self.judge = folder, judge
        self.file = folder / f"{judge}-{artifacts.digest(job)}.jsonl"
        self._lock = threading.Lock()

    def find(self, keys: set[str]) -> dict[str, Reply]:
        """The known replies among ``keys``; torn lines of killed jobs are skipped."""
        found: dict[str, Reply] = {}
        torn = 0
        for file in sorted(self.folder.glob(f"{self.judge}-*.jsonl")):
            with open(file, "rb") as handle:
                for line in handle:
                    try:
                        row = json.loads(line)
                        key, reply = row["key"], row["reply"]
                    except (ValueError, KeyError, TypeError):
                        torn += bool(line.strip())
                        continue
                    if key in keys and isinstance(reply, str):
                        found[key] = Reply(reply, row.get("finish_reason") or "")
        if torn:
            log.warning("%s: %d incomplete lines of killed jobs are passed over", self.folder, torn)
        return found

    def add(self, key: str, reply: Reply) -> None:
        """Store a reply, durably once this returns."""
        line = json.dumps({"key": key, "reply": reply, "finish_reason": reply.finish_reason}).encode() + b"\n"
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a+b", buffering=0) as handle:
                if handle.seek(0, os.SEEK_END):
                    handle.seek(-1, os.SEEK_END)
                    if handle.read(1) != b"\n":  # a killed job's torn line must not swallow this one
                        line = b"\n" + line
                if handle.write(line) != len(line):
                    raise UserError(f"{self.file}: a paid reply could not be written; is the disk full?")
                os.fsync(handle.fileno())


class Endpoint:
    """An OpenAI-compatible endpoint at temperature 0, ``concurrency`` requests at a time.

    The key is read from the environment variable that the configuration names, and only when something must be paid.
    """

    def __init__(self, judge: JudgeConfig, cache: Path, job: str) -> None:
        self.judge = judge
        self.cache = Cache(cache, artifacts.digest(identity(judge)), job)

    def ask(self, requests: Sequence[Request], what: str) -> list[Reply]:
        """See Judge.

        Raises:
            UserError: when there is no key, or requests failed after all retries; what was paid stays in the cache.
        """
        sent = [self._parameters(request) for request in requests]
        keys = [artifacts.digest(self.judge.base_url, parameters) for parameters in sent]
        replies = self.cache.find(set(keys))
        unpaid = {key: parameters for key, parameters in zip(keys, sent, strict=True) if key not in replies}
        if replies:
            log.info("%s: %d of %d replies were paid before", what, len(set(keys)) - len(unpaid), len(set(keys)))
        if unpaid:
            replies |= self._pay(unpaid, what)
        if cut := sum(reply.cut for reply in replies.values()):
            log.warning(
                "%s: %d of %d replies were cut, so their verdict or score does not count: raise the judge's max_tokens "
                "(%d), which pays for all of them again",
                what, cut, len(replies), self.judge.max_tokens,
            )  # fmt: skip
        return [replies[key] for key in keys]

    def _parameters(self, request: Request) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self.judge.model,
            "messages": request.conversation,
            "temperature": 0.0,
            "max_tokens": self.judge.max_tokens,
        }
        return parameters | ({"response_format": {"type": "json_object"}} if request.form == "grade" else {})

    def _pay(self, unpaid: dict[str, dict[str, Any]], what: str) -> dict[str, Reply]:
        import openai

        # One line per request would hide the progress lines; at debug level bodies would be logged as well.
        for chatty in ("openai", "httpx2", "httpcore2", "httpx", "httpcore"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        secret = os.environ.get(self.judge.api_key_env, "").strip()
        if not secret:
            raise UserError(
                f"the environment variable {self.judge.api_key_env} is not set: it must hold the key of "
                f"{self.judge.base_url} (any word, where the endpoint asks for none)."
            )
        client = openai.OpenAI(api_key=secret, base_url=self.judge.base_url, max_retries=self.judge.retries)
        hopeless = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)

        def pay(key: str, parameters: dict[str, Any]) -> Reply:
            completion = client.chat.completions.create(**parameters)
            if not getattr(completion, "choices", None):  # a page of a proxy arrives as a string
                raise openai.OpenAIError("the reply is not a chat completion")
            choice = completion.choices[0]
            reply = Reply(choice.message.content or "", choice.finish_reason or "")
            self.cache.add(key, reply)
            return reply

        paid: dict[str, Reply] = {}
        failures: list[str] = []
        pool = ThreadPoolExecutor(self.judge.concurrency, thread_name_prefix="judge")
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as SLURM ends a job: like Ctrl-C
        try:
            futures: dict[Future[Reply], str] = {pool.submit(pay, key, sent): key for key, sent in unpaid.items()}
            for future in progress(as_completed(futures), what, total=len(futures)):
                try:
                    paid[futures[future]] = future.result()
                except openai.OpenAIError as error:
                    failures.append(" ".join(str(error).replace(secret, "***").split())[:300])
                    if isinstance(error, hopeless) or len(failures) == _GIVE_UP:
                        break
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # requests under way are paid for, so wait for their replies
            client.close()
            signal.signal(signal.SIGTERM, before)
        if failures:
            raise UserError(
                f"{len(failures)} requests to {self.judge.model} at {self.judge.base_url} failed, "
                f"after up to {self.judge.retries} retries each, the last with: {failures[-1].rstrip('.')}. What was paid "
                f"is kept in {self.cache.folder}: run again to go on from there."
            )
        return paid
