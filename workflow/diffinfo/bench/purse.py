"""What judging costs: each reply's price, how fast requests may follow each other, and a budget."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, dataclass
from typing import Any

from diffinfo.bench import completions
from diffinfo.bench.replies import Reply
from diffinfo.bench.store import Store
from diffinfo.config.benchmarks import Budget
from diffinfo.config.benchmarks import Judge as JudgeConfig


@dataclass(frozen=True, eq=False)
class Fare:
    """What one request will take.

    Attributes:
        tokens: read and written, probably.
        dollars: at most; no token is shorter than a byte.
        seconds: until the rate limits allow the next.
    """

    tokens: float
    dollars: float
    seconds: float


class Purse:
    """A judge's budget, and what one round of requests has taken from it.

    Args:
        judge: who is paid.
        store: what was paid, by all jobs.

    Attributes:
        flying: requests on their way.
        priced: how many replies have a price.
    """

    def __init__(self, judge: JudgeConfig, store: Store) -> None:
        self.judge, self.store = judge, store
        self.budget = judge.budget or Budget()
        self.flying: set[Fare] = set()
        self.priced = 0
        self._unstored = 0  # attempts that failed and cost nothing
        self._replies = 0
        self._paid = [0.0, 0.0, 0.0, 0.0]  # tokens read, cached and written, dollars

    def fare(self, body: dict[str, Any]) -> Fare:
        """What a request will take."""
        sent = len(json.dumps(body["messages"], ensure_ascii=False).encode("utf-8", "replace"))
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        tokens = sent / 4 + (self._paid[2] / self._replies if self._replies else limit)
        price, judge = self.judge.charged, self.judge
        dollars = (sent * price.read + limit * price.written) / 1e6 if price else 0.0
        seconds = max(60 / (judge.requests_per_minute or math.inf), 60 * tokens / (judge.tokens_per_minute or math.inf))
        return Fare(tokens, dollars, seconds)

    def affords(self, fare: Fare) -> bool:
        """Whether one more request fits the budget, whatever those on their way will cost."""
        dollars, requests = self.left()
        return fare.dollars <= dollars and requests >= 1

    def left(self) -> tuple[float, float]:
        """Dollars and requests that the budget has left, whatever those on their way will cost."""
        budget = self.budget
        if budget.dollars is None and budget.requests is None:
            return math.inf, math.inf
        self.store.refresh()  # other jobs pay too
        dollars = self.store.dollars + sum(fare.dollars for fare in self.flying)
        requests = self.store.requests + self._unstored + len(self.flying)
        return (budget.dollars or math.inf) - dollars, (budget.requests or math.inf) - requests

    def pay(self, fare: Fare, key: str, completion: dict[str, Any]) -> tuple[Reply, float]:
        """Store a completion before anything else is done with it.

        Returns:
            It as a reply; and seconds more that the next request has to wait, because it was longer than expected.
        """
        dollars = completions.dollars(completion, self.judge.charged)
        cost = {"at_most": fare.dollars} if dollars is None else {"dollars": dollars}
        self.store.add(key=key, completion=completion, **cost)
        reply = completions.reply(completion, dollars)
        usage = astuple(reply.usages[0])
        self._paid = [total + (value or 0) for total, value in zip(self._paid, usage, strict=True)]
        self._replies += 1
        self.priced += dollars is not None
        if not self.judge.tokens_per_minute or usage[0] is None or usage[2] is None:
            return reply, 0.0
        return reply, 60 * (usage[0] + usage[2] - fare.tokens) / self.judge.tokens_per_minute

    def fail(self, fare: Fare, billed: bool) -> None:
        """Count a request without a reply: one that may be paid for all the same with what it costs at most."""
        if billed:
            self.store.add(lost=True, at_most=fare.dollars)
        self._unstored += not billed

    def paid(self) -> str:
        """What this round has cost."""
        read, cached, written, dollars = self._paid
        said = f", {dollars:.4f} dollars" if self.priced else ""
        return f"{read:.0f} tokens read ({cached:.0f} of them cached), {written:.0f} written{said}"

    def dollars(self, left: int) -> str:
        """Dollars spent in this round, and in all of it at the mean price so far."""
        spent = self._paid[3]
        return f"${spent:.4g} of about ${spent + left * spent / self.priced:.4g}"

    def empty(self, name: str, fare: Fare, left: int) -> str:
        """Why nothing more is bought."""
        budget, parts = self.budget, []
        if budget.dollars:
            parts.append(
                f"{self.store.dollars:.4f} of {budget.dollars:g} dollars (one more may cost {fare.dollars:.4f})"
            )
        if budget.requests:
            parts.append(f"{self.store.requests + self._unstored} of {budget.requests} requests")
        so_far = f", {self.dollars(left)} for this job" if self.priced else ""
        return (
            f"the budget of {name} is spent, in all runs together {' and '.join(parts)}{so_far}; {left} requests are left: "
            "raise the judge's budget"
        )
