"""Requests to an endpoint until each has a reply or a reason why not: rate limits, back-off, and a budget."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from tqdm import tqdm

from diffinfo.bench import completions
from diffinfo.bench.completions import Fault
from diffinfo.bench.purse import Fare, Purse
from diffinfo.bench.replies import Reply, counted
from diffinfo.bench.store import Store
from diffinfo.cli import bar, log
from diffinfo.config.benchmarks import Judge as JudgeConfig

_GRACE = 5.0  # seconds that a reply on its way has to arrive once the job has to end
_LONGEST = 60.0  # seconds between two attempts, unless the endpoint asks for more
_GIVE_UP = 20  # requests that fail one after the other, each after its retries: the endpoint is down


class _Stopped(Exception):
    """Nothing more is to be sent."""


class Payment:
    """One round of requests.

    Args:
        judge: who is asked.
        store: where replies are put before anything else is done with them.
        secret: the endpoint's key, which no message holds.
        allowed: how many requests may end without a reply.

    Attributes:
        replies: by key, those with a reason why there is none included.
        fault: why it stopped early; "" where it did not.
        interrupted: whether a signal stopped it.
    """

    workers: int | None = None  # None: the judge's concurrency

    def __init__(self, judge: JudgeConfig, store: Store, secret: str, allowed: int) -> None:
        self.judge, self.store, self.allowed = judge, store, allowed
        self.replies: dict[str, Reply] = {}
        self.fault, self.interrupted = "", False
        self._secret = secret
        self._missing: Counter[str] = Counter()
        self._in_a_row = 0
        self._stop, self._landed = asyncio.Event(), asyncio.Event()
        self._heard = time.monotonic()  # when the endpoint last answered, if only to refuse
        self._purse = Purse(judge, store)
        self._next = 0.0  # when the rate limits, ours or the endpoint's, let the next request go
        self._left = 0
        self._state = ""  # last on the bar

    async def pay(self, unpaid: dict[str, dict[str, Any]], what: str, done: int) -> None:
        """Send every request of ``unpaid`` by its key; see the attributes for what came of it.

        Args:
            unpaid: the bodies.
            what: name of the bar.
            done: how many had replies before.
        """
        import openai

        # one line per request would hide the progress lines; at debug level bodies would be logged as well
        for chatty in ("openai", "httpx2", "httpcore2", "httpx", "httpcore"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        queue, self._left = iter(unpaid.items()), len(unpaid)
        client = openai.AsyncOpenAI(
            api_key=self._secret, base_url=self.judge.base_url, max_retries=0, timeout=self.judge.timeout
        )
        async with client:
            shown: tqdm[str] = bar([], what, done + len(unpaid), done)
            with self._signals(), shown:
                workers = [
                    asyncio.create_task(_until_stopped(self._work(client, queue, shown)))
                    for _ in range(min(self.workers or self.judge.concurrency, len(unpaid)))
                ]
                show, halted = asyncio.create_task(self._show(shown)), asyncio.create_task(self._stop.wait())
                working: asyncio.Future[Any] = asyncio.gather(*workers)
                try:
                    either: list[asyncio.Future[Any]] = [working, halted]
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    # what is on its way is paid for; a job that has to end cannot wait long for it
                    await asyncio.wait([working], timeout=_GRACE if self.interrupted else None)
                    if working.done():
                        working.result()
                finally:
                    for task in (*workers, show, halted):
                        task.cancel()
                    await asyncio.gather(*workers, show, halted, return_exceptions=True)
                    shown.set_postfix_str(self._facts(), refresh=False)
        log.info("%s: %s", what, self._purse.paid())
        if self._missing:
            log.warning("%s: %d requests have no reply: %s", what, self._missing.total(), counted(self._missing))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SLURM ends a job by SIGTERM: that and Ctrl-C stop the sending, a second one the waiting as well."""
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None

        def end() -> None:
            if self.interrupted:
                main.cancel()
            self.interrupted = True
            self._halt()

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            loop.add_signal_handler(number, end)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    async def _work(self, client: Any, queue: Iterator[tuple[str, dict[str, Any]]], shown: tqdm[Any]) -> None:
        """Take requests from the queue until it is empty."""
        for key, body in queue:
            self.replies[key] = await self._ask(client, key, body)
            shown.n += 1
            self._left -= 1

    async def _ask(self, client: Any, key: str, body: dict[str, Any]) -> Reply:
        """A reply, or why there is none after all retries."""
        attempts: Counter[str] = Counter()
        while True:
            fare = await self._turn(body)
            try:
                found = await self._send(client, body)
                if isinstance(found, dict):
                    self._heard, self._in_a_row = time.monotonic(), 0
                    reply, more = self._purse.pay(fare, key, found)
                    self._next += more
                    return reply
                self._purse.fail(fare, found.billed)
            except asyncio.CancelledError:
                self._purse.fail(fare, billed=True)
                raise
            finally:
                self._purse.flying.discard(fare)
                self._landed.set()
            self._state = f"last fault {found.reason}"
            attempts[found.kind] += 1
            wait = min(_LONGEST, 2.0 ** (attempts.total() - 1)) * random.uniform(1, 1.3)
            # one that asks again and again for no time at all is not believed
            wait = wait if found.wait is None else max(found.wait, wait / 64)
            match found.kind:
                case "hopeless":
                    self._refuse(found)
                case "refused":
                    self._heard = time.monotonic()
                    if attempts["refused"] > 1:
                        return self._unjudged(found)
                case "transient":
                    if attempts["transient"] > self.judge.retries:
                        return self._unjudged(found)
                case "limited":
                    self._next = max(self._next, time.monotonic() + wait)
            silent, patience = time.monotonic() - self._heard, max(self.judge.patience, 2 * self.judge.timeout)
            if max(silent, found.wait or 0) > patience:
                asks = f" and asks to wait {found.wait:.0f} s" if found.wait else ""
                self._end(
                    f"{self._name} has given no reply for {silent:.0f} s{asks}, longer than the judge's patience "
                    f"({patience:g} s); the last fault was {found.reason}: {self._plain(found)}"
                )
            await self._pause(wait)

    async def _send(self, client: Any, body: dict[str, Any]) -> dict[str, Any] | Fault:
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self.judge.timeout):  # of the whole, which may drip
                response = await client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except (openai.APIError, httpx2.HTTPError, TimeoutError) as error:
            return fault(error, self.judge)
        return completions.read(response.status_code, response.headers, response.content)

    def _plain(self, fault: Fault) -> str:
        """What the endpoint said, without the key."""
        return " ".join(fault.said.replace(self._secret, "***").split())[:300].rstrip(".")

    def _refuse(self, fault: Fault) -> NoReturn:
        self._end(
            f"{self._name} refuses every request, {fault.reason}: {self._plain(fault)}. Look at the judge's model, "
            f"base_url, preset and request, and at the key in {self.judge.api_key_env}"
        )

    def _unjudged(self, fault: Fault) -> Reply:
        """Count a request that has no reply for good, unless there are too many of them."""
        said = self._plain(fault)
        if not self._missing[fault.reason]:
            log.warning("%s: a request has no reply, %s: %s", self._name, fault.reason, said)
        self._missing[fault.reason] += 1
        self._in_a_row += fault.kind == "transient"
        if self._missing.total() > self.allowed or self._in_a_row == _GIVE_UP:
            self._end(
                f"{self._missing.total()} requests to {self._name} have no reply ({counted(self._missing)}), more than the "
                f"judge's max_unjudged = {self.judge.max_unjudged} allows or {_GIVE_UP} one after the other; the last: {said}"
            )
        return Reply("", unjudged=fault.reason)

    async def _turn(self, body: dict[str, Any]) -> Fare:
        """Wait until a request may be sent."""
        while not self._stop.is_set():
            wait = self._next - time.monotonic()
            if wait > 0:
                await self._pause(wait)
                continue
            fare = self._purse.fare(body)
            if self._purse.affords(fare):
                self._next = time.monotonic() + fare.seconds
                self._purse.flying.add(fare)
                return fare
            if not self._purse.flying:
                self._end(self._purse.empty(self._name, fare, self._left))
            self._landed.clear()  # those on their way may cost less than they could
            await self._landed.wait()
        raise _Stopped

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
            raise _Stopped

    def _end(self, fault: str) -> NoReturn:
        self.fault = self.fault or fault
        self._halt()
        raise _Stopped

    def _halt(self) -> None:
        self._stop.set()
        self._landed.set()

    @property
    def _name(self) -> str:
        return f"{self.judge.model} at {self.judge.base_url}"

    async def _show(self, shown: tqdm[Any]) -> None:
        """Redraw the bar, also while nothing arrives."""
        while True:
            await asyncio.sleep(shown.mininterval)
            shown.set_postfix_str(self._facts(), refresh=True)

    def _facts(self) -> str:
        """What was paid, and what it will be."""
        parts = [self._purse.dollars(self._left)] if self._purse.priced else []
        parts += [f"no reply to {self._missing.total()}"] if self._missing else []
        return ", ".join([*parts, *filter(None, [self._state])])


async def _until_stopped(work: Awaitable[None]) -> None:
    with suppress(_Stopped):
        await work


def fault(error: Exception, judge: JudgeConfig) -> Fault:
    """What kind of fault an error of the client is."""
    import httpx2
    import openai

    if isinstance(error, openai.APIStatusError):
        response = error.response
        found = completions.read(response.status_code, response.headers, response.content)
        return found if isinstance(found, Fault) else Fault("transient", f"HTTP {response.status_code}")
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return Fault("transient", "time-out", f"no reply in {judge.timeout:g} s", billed=True)
    cause = error.__cause__ or error
    unsent = isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout))
    return Fault("transient", "connection", f"{type(cause).__name__} {cause}", billed=not unsent)
