"""Money and time: what replies cost, a budget, rate limits, back-off, and jobs that are ended or killed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.loopback import LoopbackJudge, Odd, completion
from bench.test_judge import ask_about, asked
from diffinfo.bench import arena_hard, payment
from diffinfo.bench.completions import dollars
from diffinfo.bench.endpoint import Endpoint
from diffinfo.bench.questions import answered
from diffinfo.bench.replies import tolerate
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Judge, Price
from diffinfo.tables import artifacts
from project import wait_until

PRICE = {"read": 3.0, "cached": 0.5, "written": 20.0}
TEXTS = [f"{i}" for i in range(40)]


def usage(read: int, written: int, cached: int | None = None) -> dict[str, Any]:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written, **details}


@pytest.mark.parametrize(
    ("said", "price", "expected"),
    [
        (usage(1000, 100), PRICE, (1000 * 3 + 100 * 20) / 1e6),
        (usage(1000, 100, 400), PRICE, (600 * 3 + 400 * 0.5 + 100 * 20) / 1e6),
        (usage(1000, 100, 400), {"read": 3.0, "written": 20.0}, (1000 * 3 + 100 * 20) / 1e6),  # cached as the rest
        (usage(1000, 100) | {"prompt_cache_hit_tokens": 1000}, PRICE, (1000 * 0.5 + 100 * 20) / 1e6),  # DeepSeek's
        (usage(1000, 100, 9999), PRICE, (1000 * 0.5 + 100 * 20) / 1e6),
        (usage(0, 0), PRICE, 0.0),
        ({"prompt_tokens": 10}, PRICE, None),
        (None, PRICE, None),
        (usage(1000, 100) | {"cost": 0.25}, None, 0.25),  # OpenRouter's
        (usage(1000, 100) | {"cost": 0.25}, PRICE, (1000 * 3 + 100 * 20) / 1e6),
        (usage(1000, 100) | {"cost": "dear"}, None, None),
        (usage(1000, 100), None, None),
    ],
)
def test_price_of_a_reply(said: Any, price: dict[str, float] | None, expected: float | None) -> None:
    found = dollars(completion("x", usage=said), None if price is None else Price(**price))
    assert found == (None if expected is None else pytest.approx(expected))


def test_costs_in_the_table_are_what_the_endpoint_counted(
    loopback: Any, questions: Path, write_answers: Any, tmp_path: Path
) -> None:
    """Tokens and dollars of both turns, and of two epochs with the same answer once."""
    counted: Counter[str] = Counter()

    def reply(body: dict[str, Any], number: int) -> Odd:
        read, written = len(json.dumps(body)), 10 + number
        counted.update(read=read, cached=read // 2, written=written)
        text = "[[A>B]]" if len(body["messages"]) == 4 or "short" not in str(body) else "well"
        return Odd(200, completion(text, usage=usage(read, written, read // 2)))

    loopback.reply = reply
    answers = write_answers("a", {1: {"q0": "short", "q1": "same"}, 2: {"q0": "short", "q1": "other"}})
    table = artifacts.read(questions, "benchmark")
    for _ in range(2):
        judge = Endpoint(loopback.config(price=PRICE), tmp_path / "store", "job")
        found = arena_hard.judge_answers(answered([answers], table), judge, "loopback")
        assert {name: found[name].sum() for name in ("read", "cached", "written")} == counted
        paid = (counted["read"] - counted["cached"]) * 3 + counted["cached"] * 0.5 + counted["written"] * 20
        assert found.dollars.sum() == pytest.approx(paid / 1e6)
        assert found.dollars.notna().sum() == 6  # of eight games two had been played
        assert len(loopback.bodies) == 8  # and two were asked about once more
        artifacts.write(tmp_path / "games.parquet", found, "judgments")


def test_too_few_judgments_are_an_error() -> None:
    judge = Judge(kind="openai", model="m", max_unjudged=0.25)
    tolerate(pd.Series(["no label", None, None, None]), judge)
    with pytest.raises(UserError, match=r"2 of 4 answers \(1 no label, 1 HTTP 400\), more than .* max_unjudged = 0.25"):
        tolerate(pd.Series(["no label", None, "HTTP 400", None]), judge)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_budget_in_dollars_is_never_crossed(loopback: Any, tmp_path: Path, concurrency: int) -> None:
    """The endpoint counts; the job stops within what one more request could cost, and resumes where the budget is raised."""
    spent: list[float] = []

    def reply(body: dict[str, Any], number: int) -> Odd:
        written = random.Random(number).randrange(1, 101)  # up to max_tokens
        spent.append((20 * 3 + written * 20) / 1e6)
        return Odd(200, completion("fine", usage=usage(20, written)))

    loopback.reply = reply
    most = (len(json.dumps([{"role": "user", "content": "00"}])) * 3 + 100 * 20) / 1e6

    def judge(budget: float) -> Endpoint:
        changes = {"max_tokens": 100, "price": PRICE, "concurrency": concurrency, "budget": {"dollars": budget}}
        return Endpoint(loopback.config(**changes), tmp_path, "job")

    with pytest.raises(
        UserError, match=r"budget of loopback at .* is spent.* of 0.02 dollars .* requests are left: raise"
    ):
        judge(0.02).ask(ask_about(*TEXTS), "asking")
    assert 0.02 - most < sum(spent) <= 0.02
    sent = len(spent)
    with pytest.raises(UserError, match="is spent"):
        judge(0.02).ask(ask_about(*TEXTS), "asking")
    assert len(spent) == sent  # also a new job knows
    assert judge(1.0).ask(ask_about(*TEXTS), "asking") == ["fine"] * 40
    assert len(spent) == 40


def test_budget_in_requests_counts_those_that_fail(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: 500 if number % 3 == 0 else "fine"
    with pytest.raises(UserError, match=r"is spent, in all runs together 10 of 10 requests; .* requests are left"):
        Endpoint(loopback.config(budget={"requests": 10}), tmp_path, "job").ask(ask_about(*TEXTS), "asking")
    assert len(loopback.bodies) == 10


def test_budget_counts_what_may_have_been_paid_without_a_reply(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: Odd(200, completion("fine"), drop=True)
    changes = {"max_tokens": 100, "price": PRICE, "concurrency": 1, "retries": 9, "budget": {"dollars": 0.005}}
    for sent in (2, 2):  # of 0.0021 dollars each
        with pytest.raises(UserError, match=r"is spent, in all runs together 0.0042 of 0.005 dollars"):
            Endpoint(loopback.config(**changes), tmp_path, "job").ask(ask_about("x"), "asking")
        assert len(loopback.bodies) == sent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"dollars": 1.0}}, "needs the judge's price"),
        ({"budget": {"dollars": 1.0}, "price": PRICE, "request": {"max_tokens": None}}, "needs a limit of tokens"),
    ],
)
def test_budget_in_dollars_must_be_countable(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Judge(kind="openai", model="m", **changes)


def test_rate_of_requests(loopback: Any, tmp_path: Path) -> None:
    Endpoint(loopback.config(requests_per_minute=600), tmp_path, "job").ask(ask_about(*TEXTS[:12]), "asking")
    assert loopback.times[-1] - loopback.times[0] > 11 * 0.1 * 0.9


def test_rate_of_tokens(loopback: Any, tmp_path: Path) -> None:
    """Replies of 100 tokens at 60,000 a minute: ten a second, though the first was expected to be as long as it may be."""
    loopback.reply = lambda body, number: Odd(200, completion("fine", usage=usage(20, 80)))
    config = loopback.config(tokens_per_minute=60_000, max_tokens=400)
    Endpoint(config, tmp_path, "job").ask(ask_about(*TEXTS[:12]), "asking")
    gaps = [later - earlier for earlier, later in itertools.pairwise(loopback.times)]
    assert sum(gaps) > 11 * 0.1 * 0.8
    assert sorted(gaps)[5] < gaps[0]  # 0.1 s, 0.4 s


@pytest.mark.parametrize("header", [{}, {"retry-after": "1"}])
def test_rate_limits_of_the_endpoint(loopback: Any, tmp_path: Path, header: dict[str, str]) -> None:
    """Four requests in each two seconds; it says so, or does not. Sixteen at once get through, and no retry is used up."""
    windows: Counter[int] = Counter()
    lock = threading.Lock()

    def reply(body: dict[str, Any], number: int) -> str | Odd:
        with lock:
            window = int(time.monotonic() / 2)
            windows[window] += 1
            return (
                "fine" if windows[window] <= 4 else Odd(429, {"error": "slow down"}, {"retry-after-ms": "", **header})
            )

    loopback.reply = reply
    judge = Endpoint(loopback.config(retries=1), tmp_path, "job")
    assert judge.ask(ask_about(*TEXTS[:12]), "asking") == ["fine"] * 12
    assert len(loopback.bodies) < 120


def test_one_that_asks_to_wait_for_hours_is_not_waited_for(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: Odd(
        429, {"error": "daily limit"}, {"retry-after-ms": "", "retry-after": "7200"}
    )
    with pytest.raises(
        UserError, match=r"asks to wait 7200 s, longer than the judge's patience \(1200 s\).* daily limit"
    ):
        Endpoint(loopback.config(), tmp_path, "job").ask(ask_about("x"), "asking")


def test_waits_grow(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: "fine" if number == 3 else Odd(503, b"", {"retry-after-ms": ""})
    assert Endpoint(loopback.config(), tmp_path, "job").ask(ask_about("x"), "asking") == ["fine"]
    first, second, third = loopback.times
    assert second - first >= 1.0
    assert third - second >= 2.0


def test_an_endpoint_that_never_answers(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: Odd(200, completion("late"), hold=30)
    judge = Endpoint(loopback.config(timeout=0.3, patience=0.1, concurrency=2, max_unjudged=1), tmp_path, "job")
    with pytest.raises(
        UserError, match=r"no reply for \d s, longer than .* patience \(0.6 s\); .* time-out: no reply in 0.3 s"
    ):
        judge.ask(ask_about(*TEXTS), "asking")
    assert len(loopback.bodies) < 10  # of 40 that it would have to wait for


def test_a_connection_that_is_refused(tmp_path: Path, secret: str) -> None:
    judge = Judge(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", api_key_env="JUDGE_KEY", retries=1)
    with pytest.raises(UserError, match=r"1 requests to m at http://127.0.0.1:9/v1 have no reply \(1 connection\)"):
        Endpoint(judge, tmp_path, "job").ask(ask_about("x"), "asking")


def test_a_key_that_is_none(loopback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-“quoted”")
    with pytest.raises(UserError, match="JUDGE_KEY holds characters that no key has"):
        Endpoint(loopback.config(), tmp_path, "job").ask(ask_about("x"), "asking")


def work(config: Judge, folder: Path, texts: list[str]) -> None:
    Endpoint(config, folder, "job").ask(ask_about(*texts), "asking")


def start(config: Judge, folder: Path, texts: list[str]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=work, args=(config, folder, texts))
    process.start()
    return process


def stored(folder: Path) -> set[str]:
    """Texts whose reply is on disk, read line by line."""
    found = set()
    for file in folder.glob("*.jsonl"):
        for line in file.read_bytes().splitlines():
            with suppress(ValueError, KeyError):  # torn, or of a request without a reply
                found.add(json.loads(line)["completion"]["choices"][0]["message"]["content"])
    return found


@pytest.mark.parametrize("concurrency", [1, 4])
def test_killed_at_twenty_random_moments_nothing_that_arrived_is_paid_twice(
    loopback: LoopbackJudge, tmp_path: Path, concurrency: int
) -> None:
    """What a worker asks next says that the reply before has arrived: with one worker, all but the last of each life."""
    rng, kills, texts = random.Random(7), 0, [f"{i}" for i in range(100 * concurrency)]
    arrived: set[str] = set()

    def reply(body: dict[str, Any], number: int) -> str:
        time.sleep(0.01)
        return str(body["messages"][0]["content"])

    loopback.reply = reply
    config = loopback.config(concurrency=concurrency)
    while kills < 20:
        first = len(loopback.bodies)
        process = start(config, tmp_path, texts)
        while len(loopback.bodies) == first and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        time.sleep(0.05)  # what is on its way arrives nowhere
        here = asked(loopback)[first:]
        assert not arrived & set(here)
        arrived = stored(tmp_path)
        assert concurrency > 1 or set(here[:-1]) <= arrived
    process = start(config, tmp_path, texts)
    process.join()
    assert process.exitcode == 0
    assert stored(tmp_path) == set(texts)
    assert kills == 20
    assert len(loopback.bodies) <= len(texts) + kills * concurrency


def test_sigterm_ends_the_job_though_the_endpoint_hangs(
    loopback: LoopbackJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had arrived is kept; nothing is sent after it, and a rerun pays for none that arrived."""
    hangs = threading.Event()

    def reply(body: dict[str, Any], number: int) -> str:
        text = str(body["messages"][0]["content"])
        if int(text) >= 5:
            hangs.wait()
        return text

    loopback.reply = reply
    monkeypatch.setattr(payment, "_GRACE", 0.5)
    process = start(loopback.config(concurrency=4), tmp_path, TEXTS)
    wait_until(lambda: len(loopback.bodies) == 9 and len(stored(tmp_path)) == 5, "four hang", alive=process.is_alive)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)  # hangs is not set: it waits for none of them
    assert process.exitcode not in (None, 0, -signal.SIGTERM)
    assert len(loopback.bodies) == 9
    assert stored(tmp_path) == set(TEXTS[:5])
    hangs.set()
    process = start(loopback.config(concurrency=4), tmp_path, TEXTS)
    process.join()
    assert process.exitcode == 0
    assert len(loopback.bodies) == 9 + 35


def test_the_bar_has_dollars_spent_and_expected(
    loopback: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the questions were paid before, by another job: they are done, and cost nothing more."""
    loopback.reply = lambda body, number: Odd(200, completion("fine", usage=usage(1000, 100)))
    Endpoint(loopback.config(price=PRICE), tmp_path, "job").ask(ask_about(*TEXTS[:20]), "asking")
    capsys.readouterr()
    Endpoint(loopback.config(price=PRICE, budget={"requests": 30}), tmp_path, "other").ask(
        ask_about(*TEXTS[:30]), "asking"
    )
    first, *_, last = capsys.readouterr().err.strip().splitlines()
    assert "20/30" in first
    assert "30/30 [" in last
    assert "<" in last  # time gone < time left
    assert "$0.05 of about $0.05" in last
    with pytest.raises(UserError, match=r"30 of 30 requests, \$0 of about|30 of 30 requests; 10 requests are left"):
        Endpoint(loopback.config(price=PRICE, budget={"requests": 30}), tmp_path, "job").ask(
            ask_about(*TEXTS), "asking"
        )
