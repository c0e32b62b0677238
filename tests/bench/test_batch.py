"""The Batch API: half the price, resumed where a job ended, and nothing paid twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.batches import BatchJudge
from bench.loopback import Odd, completion
from bench.test_judge import ask_about
from bench.test_payment import PRICE, TEXTS, start, stored, usage
from diffinfo.bench import batch
from diffinfo.bench.endpoint import Endpoint
from diffinfo.bench.store import Store
from diffinfo.cli import UserError
from project import wait_until


@pytest.fixture
def server(secret: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchJudge]:
    monkeypatch.setattr(batch, "_FIRST", 0.01)
    judge = BatchJudge()
    judge.reply = lambda body, number: Odd(200, completion(text(body), usage=usage(1000, 100)))
    thread = threading.Thread(target=judge.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield judge
    judge.shutdown()
    judge.server_close()
    thread.join()


def text(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def test_a_batch_is_answered_at_half_the_price(
    server: BatchJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MOST", 25)
    config = server.config(batch=True, price=PRICE)
    replies = Endpoint(config, tmp_path, "job").ask(ask_about(*TEXTS, *TEXTS), "asking")
    assert replies == [*TEXTS, *TEXTS]
    assert sum(usage.dollars for reply in replies[:40] for usage in reply.usages) == pytest.approx(
        40 * (1000 * 3 + 100 * 20) / 1e6 / 2
    )
    assert sorted(map(text, server.lines)) == sorted(TEXTS)
    assert len(server.batches) == 2
    alike = server.lines[0] | {"messages": None}  # as without a batch
    assert alike == {"model": "loopback", "messages": None, "temperature": 0.0, "max_tokens": 4096}
    assert Endpoint(config, tmp_path, "other").ask(ask_about(*TEXTS), "asking") == TEXTS
    assert len(server.lines) == 40
    known = Store(tmp_path, *_named(tmp_path))
    known.refresh()
    assert known.requests == 40
    assert known.dollars == pytest.approx(40 * 0.005 / 2)


def _named(folder: Path) -> tuple[str, str]:
    (file,) = (file for file in folder.glob("*.jsonl"))
    judge, _, job = file.stem.partition("-")
    return judge, job


def test_what_a_batch_leaves_undone_is_in_the_next_or_unjudged(server: BatchJudge, tmp_path: Path) -> None:
    """One that expires half-way; a server's fault; prompts that are refused; and one that never gets through."""

    def reply(body: dict[str, Any], number: int) -> Odd:
        server.partly, server.end = 1.0, "completed"  # of the batches after the first
        seen = Counter(map(text, server.lines))[text(body)]
        match text(body):
            case "1":
                return Odd(400, {"error": {"message": "no", "code": "content_filter"}})
            case "2" if seen == 1:
                return Odd(500, {"error": {"message": "lost"}})
            case "3":
                return Odd(503, {"error": {"message": "busy"}})
        return Odd(200, completion(text(body)))

    server.reply, server.partly, server.end = reply, 0.5, "expired"
    replies = Endpoint(server.config(batch=True), tmp_path, "job").ask(ask_about(*TEXTS), "asking")
    assert replies[0] == "0"
    assert [reply.unjudged for reply in replies[1:5]] == ["content filter", "", "HTTP 503", ""]
    assert replies[4:] == TEXTS[4:]
    assert Counter(map(text, server.lines)) == Counter(TEXTS) + Counter({"1": 1, "2": 1, "3": 2})


def test_faults_of_the_api_itself(server: BatchJudge, tmp_path: Path) -> None:
    """Each call fails once before and once after it has had its effect; a batch whose creation is not answered is one batch."""
    failed: set[tuple[str, bool]] = set()

    def fault(method: str, path: str, after: bool) -> Odd | None:
        call = f"{method} {path.split('?')[0].split('/')[2:3]} {'content' in path}"
        if (call, after) in failed:
            return None
        failed.add((call, after))
        return Odd(200, b"{}", drop=True) if after else Odd(503, {"error": {"message": "later"}})

    server.fault = fault
    assert Endpoint(server.config(batch=True), tmp_path, "job").ask(ask_about(*TEXTS), "asking") == TEXTS
    assert len(failed) == 8
    assert len(server.lines) == 40


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses every request, HTTP 401: nothing. Look at"), (500, r"gives no batch: HTTP 500: nothing")],
)
def test_an_endpoint_without_batches(server: BatchJudge, tmp_path: Path, status: int, message: str) -> None:
    server.fault = lambda method, path, after: Odd(status, {"error": {"message": "nothing"}})
    with pytest.raises(UserError, match=message):
        Endpoint(server.config(batch=True, patience=0.2), tmp_path, "job").ask(ask_about(*TEXTS), "asking")


def test_a_batch_that_fails_says_why(server: BatchJudge, tmp_path: Path) -> None:
    server.end = "failed"
    with pytest.raises(UserError, match=r"refuses batch batch_0: it does not say why"):
        Endpoint(server.config(batch=True), tmp_path, "job").ask(ask_about(*TEXTS), "asking")


@pytest.mark.parametrize("budget", [{"requests": 15}, {"dollars": 0.1}])
def test_a_budget_holds_for_batches(server: BatchJudge, tmp_path: Path, budget: dict[str, Any]) -> None:
    """A request costs 0.0041 dollars at most (400 tokens, half of 20 dollars a million), and 0.0025 in fact."""
    judge = server.config(batch=True, price=PRICE, budget=budget, max_tokens=400)
    with pytest.raises(UserError, match=r"budget of loopback .* is spent"):
        Endpoint(judge, tmp_path, "job").ask(ask_about(*TEXTS, "40", "41", "42"), "asking")
    if "requests" in budget:
        assert len(server.lines) == 15
    else:
        assert 0.1 - 0.0041 < len(server.lines) * 0.0025 <= 0.1
        assert len(server.batches) > 2


def test_killed_at_random_moments_no_batch_is_paid_twice(
    server: BatchJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MOST", 20)
    rng = random.Random(3)
    reply = server.reply
    server.reply = lambda body, number: time.sleep(0.005) or reply(body, number)
    config, kills = server.config(batch=True), 0
    calls: list[str] = []
    server.fault = lambda method, path, after: calls.append(path)
    texts = [f"{i}" for i in range(100)]
    while True:
        wanted = len(calls) + rng.randrange(1, 4)
        process = start(config, tmp_path, texts)
        wait_until(lambda: len(calls) >= wanted or not process.is_alive(), "a call", every=0.002)  # noqa: B023
        time.sleep(rng.uniform(0, 0.03))
        if kills < 12:
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode != -signal.SIGKILL:
            break
    assert process.exitcode == 0
    assert kills > 5
    assert stored(tmp_path) == set(texts)
    assert sorted(map(text, server.lines)) == sorted(texts)


def test_sigterm_leaves_the_batch_to_be_found(server: BatchJudge, tmp_path: Path) -> None:
    server.look = lambda name: server.batches[name]  # type: ignore[method-assign]  # it takes its time
    process = start(server.config(batch=True), tmp_path, TEXTS)
    wait_until(lambda: server.batches, "a batch", alive=process.is_alive)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode not in (None, 0)
    del server.look
    assert Endpoint(server.config(batch=True), tmp_path, "job").ask(ask_about(*TEXTS), "asking") == TEXTS
    assert len(server.batches) == 1
    assert len(server.lines) == 40
