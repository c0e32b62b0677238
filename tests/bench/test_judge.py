"""Both kinds of judge have one interface; what was paid is never paid twice; keys stay secret."""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.loopback import completion
from diffinfo.bench.endpoint import Endpoint
from diffinfo.bench.judge import RewardModel, identity, make_judge
from diffinfo.bench.replies import Judge, Request
from diffinfo.bench.store import Store
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation
from diffinfo.tables import artifacts
from diffinfo.world.language import Prompt


def ask_about(*texts: str) -> list[Request]:
    return [Request("verdict", [{"role": "user", "content": text}], [], ("a", "b")) for text in texts]


def echo(body: dict[str, Any], number: int) -> str:
    return f"reply to {body['messages'][0]['content']}"


def asked(server: Any) -> list[str]:
    return [body["messages"][0]["content"] for body in server.bodies]


def test_the_worlds_judge_compares_by_the_languages_own_reward(tmp_path: Path) -> None:
    config = JudgeConfig(kind="world", model="correctness")
    judge = make_judge(config, cache=tmp_path, job="job", judge_model=None, scoring=Computation())
    task = [{"role": "user", "content": Prompt("add", ("3", "4")).text}]
    right, wrong = "7 .", "sure thing ! 8 ."
    first, tie = judge.ask(
        [Request("verdict", [], task, (wrong, right)), Request("verdict", [], task, (right, right))], "x"
    )
    assert first == (
        f"Reward of A 0.0000, of B 6.0000, P(A better) {1 / (1 + math.exp(6)):.4f}. My final verdict is [[B>>A]]."
    )
    assert tie.endswith("[[A=B]].")
    (grade,) = judge.ask([Request("grade", [], task, (right, wrong))], "x")
    assert '"score": 10' in grade
    assert identity(config)["model"] == "correctness"
    other = JudgeConfig(kind="world", model="multifaceted")
    (polite,) = make_judge(other, cache=tmp_path, job="job", judge_model=None, scoring=Computation()).ask(
        [Request("verdict", [], task, ("sure thing ! 7 .", right))], "x"
    )
    assert "of B 3.0000" in polite
    assert "of A 4.8000" in polite
    with pytest.raises(UserError, match="not a prompt of the micro world: 'x': use a judge of another kind"):
        judge.ask([Request("verdict", [], [{"role": "user", "content": "x"}], ("a", "b"))], "x")


def test_replies_keep_their_order_and_are_paid_once(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = echo
    texts = [f"{i}" for i in range(20)]
    judge = Endpoint(loopback.config(concurrency=4), tmp_path, "job")
    replies = judge.ask(ask_about(*texts, "3"), "asking")
    assert replies == [f"reply to {text}" for text in [*texts, "3"]]
    assert sorted(asked(loopback)) == sorted(texts)  # the doubled request was sent once
    other_job = Endpoint(loopback.config(concurrency=1), tmp_path, "another job")
    assert other_job.ask(ask_about("3", "new"), "asking") == ["reply to 3", "reply to new"]
    assert asked(loopback)[20:] == ["new"]


def test_a_reply_that_was_cut_is_paid_once_and_stays_known_as_cut(
    loopback: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = {"a": "stop", "b": "length", "c": "content_filter"}
    loopback.reply = lambda body, number: (echo(body, number), ends[body["messages"][0]["content"]])
    for job in ("one", "another"):  # the second reads what the first has paid
        caplog.clear()
        replies = Endpoint(loopback.config(), tmp_path, job).ask(ask_about(*"abc"), "asking")
        assert [reply.unreadable for reply in replies] == ["", "cut by length", "content filter"]
        assert [reply.finish_reason for reply in replies] == list(ends.values())
        assert replies == [f"reply to {text}" for text in "abc"]
        assert "1 of 3 replies were cut" in caplog.text
        assert "max_tokens" in caplog.text
    assert len(loopback.bodies) == 3


def test_replies_of_older_caches_are_not_paid_again(tmp_path: Path) -> None:
    (tmp_path / "judge-old.jsonl").write_text('{"key": "k", "reply": "[[A=B]]"}\n')
    [reply] = Store(tmp_path, "judge", "job").find({"k"}).values()
    assert (reply, reply.cut) == ("[[A=B]]", False)


def test_anything_that_is_sent_makes_another_key(loopback: Any, tmp_path: Path) -> None:
    def paid(config: JudgeConfig, request: Request) -> int:
        before = len(loopback.bodies)
        Endpoint(config, tmp_path, "job").ask([request], "asking")
        return len(loopback.bodies) - before

    plain, config = ask_about("text")[0], loopback.config()
    assert paid(config, plain) == 1
    assert paid(config, plain) == 0
    assert paid(config.model_copy(update={"concurrency": 2, "retries": 9, "timeout": 5.0}), plain) == 0
    assert paid(config.model_copy(update={"max_tokens": 7}), plain) == 1
    assert loopback.bodies[-1]["max_tokens"] == 7
    assert paid(config.model_copy(update={"model": "other"}), plain) == 1
    assert paid(config.model_copy(update={"request": {"seed": 1}}), plain) == 1
    assert paid(config.model_copy(update={"preset": "reasoning"}), plain) == 1
    assert paid(config.model_copy(update={"preset": "open"}), plain) == 0  # the same body
    assert paid(config.model_copy(update={"base_url": loopback.url + "/"}), plain) == 0  # it has moved
    assert paid(config, ask_about("text ")[0]) == 1
    assert paid(config, Request("grade", plain.conversation, [], ("a", "b"))) == 1
    assert paid(config, Request("verdict", [*plain.conversation, *plain.conversation], [], ("a", "b"))) == 1


def test_a_store_of_the_version_before_is_not_paid_again(loopback: Any, tmp_path: Path) -> None:
    """Its files and keys held the endpoint's address."""
    config, [request] = loopback.config(), ask_about("x")
    facts = {"kind": "openai", "model": "loopback", "base_url": loopback.url, "max_tokens": 4096, "temperature": 0.0}
    sent = {"model": "loopback", "messages": request.conversation, "temperature": 0.0, "max_tokens": 4096}
    row = {"key": artifacts.digest(loopback.url, sent), "reply": "[[A>B]]", "finish_reason": "length"}
    (tmp_path / f"{artifacts.digest(facts)}-job.jsonl").write_text(json.dumps(row) + "\n")
    [reply] = Endpoint(config, tmp_path, "job").ask([request], "asking")
    assert (reply, reply.cut, loopback.bodies) == ("[[A>B]]", True, [])


REASONING = ["model", "messages", "max_completion_tokens"]


@pytest.mark.parametrize(
    ("changes", "form", "keys"),
    [
        ({}, "verdict", ["model", "messages", "temperature", "max_tokens"]),
        ({}, "grade", ["model", "messages", "temperature", "max_tokens", "response_format"]),
        ({"preset": "open"}, "grade", ["model", "messages", "temperature", "max_tokens"]),
        ({"preset": "reasoning"}, "grade", REASONING),
        ({"preset": "reasoning", "request": {"reasoning_effort": "low"}}, "verdict", [*REASONING, "reasoning_effort"]),
        ({"request": {"temperature": None, "response_format": None}}, "grade", ["model", "messages", "max_tokens"]),
        (
            {"request": {"max_tokens": None, "max_completion_tokens": 9}},
            "verdict",
            ["model", "messages", "temperature", "max_completion_tokens"],
        ),
        ({"request": {"temperature": 1}}, "verdict", ["model", "messages", "temperature", "max_tokens"]),
    ],
)
def test_presets_and_the_request(
    loopback: Any, tmp_path: Path, changes: dict[str, Any], form: Any, keys: list[str]
) -> None:
    [request] = ask_about("x")
    Endpoint(loopback.config(max_tokens=77, **changes), tmp_path, "job").ask([replace(request, form=form)], "asking")
    [body] = loopback.bodies
    assert sorted(body) == sorted(keys)
    known = {"model": "loopback", "messages": request.conversation, "temperature": 0, "max_tokens": 77}
    known |= {"max_completion_tokens": 77, "response_format": {"type": "json_object"}}
    assert body == {key: value for key, value in (known | changes.get("request", {})).items() if key in body}


@pytest.mark.parametrize("key", ["model", "messages", "n", "stream"])
def test_the_request_leaves_the_procedure_alone(key: str) -> None:
    with pytest.raises(ValidationError, match=f"must not have the key '{key}'"):
        JudgeConfig(kind="openai", model="m", request={key: 2})


@pytest.mark.parametrize("value", [datetime.date(2024, 1, 1), float("nan"), {"deep": [float("inf")]}, {1, 2}])
def test_a_request_that_has_no_json_ends_with_the_configuration(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"has no JSON for 'since' = .*; quote a text, and give a finite number"):
        JudgeConfig(kind="openai", model="m", request={"top_p": 0.5, "since": value})


def test_retries_then_success(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: {1: 429, 2: 500}.get(number, "fine")
    assert Endpoint(loopback.config(), tmp_path, "job").ask(ask_about("x"), "asking") == ["fine"]
    assert len(loopback.bodies) == 3


def test_failures_are_not_stored_and_the_rest_is(
    loopback: Any, tmp_path: Path, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    loopback.reply = lambda body, number: 500 if body["messages"][0]["content"] == "bad" else "fine"
    judge = Endpoint(loopback.config(retries=1, concurrency=2), tmp_path, "job")
    replies = judge.ask(ask_about("a", "bad", "b", "c"), "asking")
    assert [(str(reply), reply.unjudged) for reply in replies] == [
        ("fine", ""),
        ("", "HTTP 500"),
        ("fine", ""),
        ("fine", ""),
    ]
    assert "HTTP 500: failed for Bearer ***" in caplog.text  # the endpoint echoed the key
    assert secret not in caplog.text
    assert asked(loopback).count("bad") == 2
    loopback.reply = lambda body, number: "later"
    before = len(loopback.bodies)
    assert judge.ask(ask_about("a", "bad", "b", "c"), "asking") == ["fine", "later", "fine", "fine"]
    assert len(loopback.bodies) == before + 1


def test_too_many_failures_end_the_job_with_a_summary(loopback: Any, tmp_path: Path, secret: str) -> None:
    loopback.reply = lambda body, number: {"0": 400, "1": 500}.get(body["messages"][0]["content"], "fine")
    texts = [f"{i}" for i in range(8)]
    replies = Endpoint(loopback.config(retries=1), tmp_path, "job").ask(ask_about(*texts), "asking")
    assert [reply.unjudged for reply in replies] == ["HTTP 400", "HTTP 500", *[""] * 6]  # a quarter of them, no more
    with pytest.raises(UserError, match=r"2 requests .* max_unjudged = 0\.2 .*run again to resume") as failure:
        Endpoint(loopback.config(retries=1, max_unjudged=0.2), tmp_path, "job").ask(ask_about(*texts), "asking")
    assert "1 HTTP 400" in str(failure.value)
    assert "1 HTTP 500" in str(failure.value)
    assert secret not in str(failure.value)
    assert "***" in str(failure.value)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_hopeless_failures_stop_at_once(loopback: Any, tmp_path: Path, status: int) -> None:
    loopback.reply = lambda body, number: status
    judge = Endpoint(loopback.config(concurrency=1), tmp_path, "job")
    with pytest.raises(UserError, match=f"refuses every request, HTTP {status}: failed .* JUDGE_KEY"):
        judge.ask(ask_about(*map(str, range(50))), "asking")
    assert len(loopback.bodies) == 1


def test_an_endpoint_that_is_down_is_given_up(loopback: Any, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: 500
    judge = Endpoint(loopback.config(retries=1, concurrency=2), tmp_path, "job")
    with pytest.raises(UserError, match=r"20 requests .* have no reply"):
        judge.ask(ask_about(*map(str, range(500))), "asking")
    assert len(loopback.bodies) < 50


def test_what_is_on_its_way_when_slurm_ends_the_job_is_kept(loopback: Any, tmp_path: Path) -> None:
    def end_the_job_then_reply(body: dict[str, Any], number: int) -> str:
        if number == 1:  # once, however late this process notices
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        return echo(body, number)

    loopback.reply = end_the_job_then_reply
    with pytest.raises(KeyboardInterrupt):
        Endpoint(loopback.config(concurrency=1), tmp_path, "job").ask(ask_about("0", "1", "2", "3"), "asking")
    sent = len(loopback.bodies)
    assert sent < 4
    loopback.reply = echo
    replies = Endpoint(loopback.config(), tmp_path, "job").ask(ask_about("0", "1", "2", "3"), "asking")
    assert replies == [f"reply to {i}" for i in range(4)]
    assert len(loopback.bodies) == 4
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_key_is_needed_only_to_pay(loopback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Endpoint(loopback.config(), tmp_path, "job")
    judge.ask(ask_about("x"), "asking")
    monkeypatch.delenv("JUDGE_KEY")
    assert judge.ask(ask_about("x"), "asking") == ["My final verdict is [[A=B]]"]
    with pytest.raises(UserError, match="environment variable JUDGE_KEY is not set"):
        judge.ask(ask_about("y"), "asking")


def test_key_is_sent_but_never_written(
    loopback: Any, tmp_path: Path, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    loopback.reply = lambda body, number: {1: 500, 2: 429}.get(number, "fine")
    Endpoint(loopback.config(), tmp_path, "job").ask(ask_about("x", "y"), "asking")
    assert loopback.keys == {f"Bearer {secret}"}
    [file] = tmp_path.rglob("*.jsonl")
    assert secret not in file.read_text() + file.name + caplog.text
    assert secret not in str(identity(loopback.config()))


def test_torn_lines_are_passed_over_and_not_lengthened(tmp_path: Path) -> None:
    store = Store(tmp_path, "judge", "job")
    store.add(key="one", completion=completion("first\nreply"), dollars=0.5)
    with open(store.file, "ab") as handle:
        handle.write(b'{"key": "two", "completion": {"choi')
    assert store.find({"one", "two"}) == {"one": "first\nreply"}
    again = Store(tmp_path, "judge", "job")
    again.add(key="three", completion=completion("third"), at_most=2.0)
    again.add(lost=True, at_most=4.0)
    (tmp_path / "judge-other.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"key": "four"}\n{"key": "five", "reply": "fifth"}')
    (tmp_path / "elsewhere-job.jsonl").write_bytes(b'{"key": "six", "reply": "of another judge"}\n')
    keys = {"one", "two", "three", "four", "five", "six"}
    for known in (store, again):  # one that has read a part of it, one that has not
        assert known.find(keys) == {"one": "first\nreply", "three": "third", "five": "fifth"}
        assert known.find({"one"}) == {"one": "first\nreply"}
        assert (known.requests, known.dollars) == (4, 6.5)


def pair(a: str, b: str) -> Request:
    return Request("verdict", [], [{"role": "user", "content": "x"}], (a, b))


@pytest.mark.parametrize(
    ("difference", "label"),
    [
        (math.log(9) + 1e-6, "A>>B"),
        (math.log(9) - 1e-6, "A>B"),
        (math.log(1.5) + 1e-6, "A>B"),
        (math.log(1.5) - 1e-6, "A=B"),
        (0.0, "A=B"),
        (-math.log(1.5) + 1e-6, "A=B"),
        (-math.log(1.5) - 1e-6, "B>A"),
        (-math.log(9) - 1e-6, "B>>A"),
        (1e6, "A>>B"),
        (-1e6, "B>>A"),
    ],
)
def test_reward_difference_becomes_a_label(difference: float, label: str) -> None:
    judge: Judge = RewardModel(lambda talks: [difference if talk[-1]["content"] == "a" else 0.0 for talk in talks])
    [reply] = judge.ask([pair("a", "b")], "asking")
    assert f"[[{label}]]" in reply


def test_reward_model_scores_each_conversation_once() -> None:
    seen: list[Any] = []

    def score(talks: list[Any]) -> list[float]:
        seen.extend(talks)
        return [float(len(talk[-1]["content"])) for talk in talks]

    RewardModel(score).ask([pair("long answer", "b"), pair("b", "long answer"), pair("b", "b")], "asking")
    user = {"role": "user", "content": "x"}
    assert seen == [[user, {"role": "assistant", "content": text}] for text in ("long answer", "b")]
    with pytest.raises(UserError, match="not a number"):
        RewardModel(lambda talks: [math.nan] * len(talks)).ask([pair("a", "b")], "asking")


def test_kind_and_folder_must_agree(tmp_path: Path) -> None:
    def make(kind: str, folder: Path | None) -> Callable[[], Judge]:
        judge = JudgeConfig(kind=kind, model="m")  # type: ignore[arg-type]
        return lambda: make_judge(judge, cache=tmp_path, job="job", judge_model=folder, scoring=Computation())

    assert isinstance(make("openai", None)(), Endpoint)
    assert isinstance(make("reward-model", tmp_path)(), RewardModel)
    with pytest.raises(UserError, match="leave out --judge_model"):
        make("openai", tmp_path)()
    with pytest.raises(UserError, match="--judge_model must name its folder"):
        make("reward-model", None)()
