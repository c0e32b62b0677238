"""Endpoints as they are out there: kind of reply or fault -> what becomes of the judgment, over HTTP on loopback."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.loopback import Odd, completion
from diffinfo.bench import arena_hard, wildbench
from diffinfo.bench.endpoint import Endpoint
from diffinfo.bench.questions import answered
from diffinfo.cli import UserError
from diffinfo.tables import artifacts
from project import ROOT

LABEL, SCORE = "My verdict is [[A>B]].", '{"strengths": "s", "weaknesses": "w", "score": 8}'
THOUGHT = 'Perhaps [[B>>A]], perhaps {"score": 2}.'
HTML = "<!DOCTYPE html><html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>"
ERROR = {"message": "bad", "type": "invalid_request_error"}


def error(status: int, message: str, code: Any = None, **more: Any) -> Odd:
    return Odd(status, {"error": {"message": message, "type": "x", "code": code, **more}})


# --- replies: what each makes of a text T that holds a label or a score -------------------------------------------------
READ: dict[str, Any] = {
    "plain": lambda t: completion(t),
    "think block": lambda t: completion(f"<think>{THOUGHT}</think>\n{t}"),
    "think block in capitals": lambda t: completion(f"<THINK>\n{THOUGHT}\n</THINK>{t}"),
    "think block opened by the template": lambda t: completion(f"{THOUGHT}</think>{t}"),
    "two think blocks": lambda t: completion(f"<think>{THOUGHT}</think>so <thinking>{THOUGHT}</thinking>{t}"),
    "nested think blocks": lambda t: completion(f"<think>a<think>{THOUGHT}</think>{THOUGHT}</think>{t}"),
    "Magistral's think block": lambda t: completion(f"[THINK]{THOUGHT}[/THINK]{t}"),
    "Seed's think block": lambda t: completion(f"<seed:think>{THOUGHT}</seed:think>{t}"),
    "Sky-T1's thought": lambda t: completion(
        f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|><|begin_of_solution|>{t}<|end_of_solution|>"
    ),
    "MedGemma's thought": lambda t: completion(f"<unused94>thought\n{THOUGHT}<unused95>{t}"),
    "Command A's thinking": lambda t: completion(f"<|START_THINKING|>{THOUGHT}<|END_THINKING|>{t}"),
    "Apertus' inner thought": lambda t: completion(f"<|inner_prefix|>{THOUGHT}<|inner_suffix|>{t}"),
    "scratchpad, analysis, reflection": lambda t: completion(
        f"<scratchpad>{THOUGHT}</scratchpad><analysis>{THOUGHT}</analysis>{t}<reflection>{THOUGHT}</reflection>"
    ),
    "all of it as an analysis": lambda t: completion(f"<analysis>{t}</analysis>"),
    "end of a think block named behind it": lambda t: completion(f"{t} Note: B ends in a stray `</think>`."),
    "the same after a think block": lambda t: completion(f"{THOUGHT}\n</think>\n{t} B ends in a </think> tag."),
    "gpt-oss channels": lambda t: completion(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{t}"
    ),
    "think tag named in the text": lambda t: completion(f"A left a <think> tag. {t}"),
    "reasoning_content field": lambda t: completion(t, reasoning_content=THOUGHT),
    "reasoning field": lambda t: completion(t, reasoning=THOUGHT, reasoning_details=[{"text": THOUGHT}]),
    "list of parts": lambda t: completion([{"type": "text", "text": t[:5]}, {"type": "text", "text": t[5:]}]),
    "list with a thought": lambda t: completion(
        [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": t}]
    ),
    "list with a reasoning text": lambda t: completion(
        [{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": t}]
    ),
    "list of strings": lambda t: completion([t]),
    "one part that is no list": lambda t: completion({"type": "output_text", "text": t}),
    "list with null": lambda t: completion([None, {"type": "image"}, {"type": "text", "text": None}, t]),
    "finish_reason null": lambda t: completion(t, None),
    "finish_reason a number": lambda t: completion(t, 7),
    "finish_reason eos": lambda t: completion(t, "eos"),
    "usage null": lambda t: completion(t) | {"usage": None},
    "usage strange": lambda t: completion(t, usage={"prompt_tokens": "many", "completion_tokens": -1}),
    "usage a list": lambda t: completion(t, usage=[1]),
    "error null": lambda t: completion(t) | {"error": None},
    "more choices": lambda t: (
        completion(t) | {"choices": [*completion(t)["choices"], *completion("[[B>A]]")["choices"]]}
    ),
    "no role, no index": lambda t: {"choices": [{"message": {"content": t}}]},
    "an object, twice the same": lambda t: completion(json.loads(t) if t[0] == "{" else {"verdict": f"{t} {t}"}),
    "white space before the body": lambda t: "\n\n   " + json.dumps(completion(t)) + "\n",
    "byte order mark": lambda t: "\ufeff" + json.dumps(completion(t)),
    "half a surrogate pair": lambda t: json.dumps(completion(f"\ud83d {t}")),
    "control characters": lambda t: completion(f"\x00\x1b[1m{t}\x07"),
    "another content type": lambda t: Odd(200, completion(t), {"content-type": "text/html"}),
    "status 201": lambda t: Odd(201, completion(t)),
    "zipped": lambda t: Odd(200, gzip.compress(json.dumps(completion(t)).encode()), {"content-encoding": "gzip"}),
    "fenced": lambda t: completion(f"Sure:\n```json\n{t}\n```\nHope it helps!"),
    "long": lambda t: completion("word " * 200_000 + t),
}
# --- replies that hold none: stored, asked once more, then unjudged with a reason ---------------------------------------
UNREAD: dict[str, tuple[Any, str]] = {
    "null content": (completion(None), "empty reply"),
    "no content": ({"choices": [{"message": {"role": "assistant"}, "finish_reason": "stop"}]}, "empty reply"),
    "message null": ({"choices": [{"message": None, "finish_reason": "stop"}]}, "empty reply"),
    "message a text": ({"choices": [{"message": "[[A>B]]", "finish_reason": "stop"}]}, "empty reply"),
    "white space": (completion(" \n"), "empty reply"),
    "content a number": (completion(7), "empty reply"),
    "thoughts alone": (completion(f"<think>{THOUGHT}</think>"), "empty reply"),
    "thoughts and no judgment": (completion(f"{THOUGHT}</think>I cannot say."), "no"),
    "thoughts and no judgment, apart": (completion(f"{THOUGHT}\n</think>\n\nI cannot say."), "no"),
    "thoughts that do not end": (completion(f"<think>{THOUGHT}"), "empty reply"),
    "thoughts that do not end, cut": (completion(f"<think>{THOUGHT}", "length"), "cut by length"),
    "reasoning alone": (completion("", reasoning_content=LABEL + SCORE), "empty reply"),
    "a list of thoughts": (completion([{"type": "thinking", "text": LABEL + SCORE}]), "empty reply"),
    "cut": (completion(f"{LABEL} {SCORE}", "length"), "cut by length"),
    "cut, as Mistral says it": (completion(f"{LABEL} {SCORE}", "model_length"), "cut by length"),
    "cut, as Gemini says it": (completion(f"{LABEL} {SCORE}", "MAX_TOKENS"), "cut by length"),
    "prose": (completion("Both are fine."), "no"),
    "two of them": (completion('[[A>B]] no, [[B>A]]. {"score": 1} no, {"score": 2}'), "different"),
    "two of them under one key": (completion('[[A>B]] **[[A>>B]]** {"score": 1, "Score": "2/10"}'), "different"),
    "another scale": (completion('{"verdict": "A>B", "score": 80, "Score": "80/100"}'), "no"),
    "a call": (completion(None, tool_calls=[{"function": {"arguments": SCORE + LABEL}}]), "empty reply"),
}
# --- refused for good: unjudged at once, never stored ------------------------------------------------------------------
REFUSED: dict[str, tuple[Odd, str]] = {
    "400": (error(400, "the messages must alternate"), "HTTP 400"),
    "400 without a body": (Odd(400), "HTTP 400"),
    "413 of a proxy": (Odd(413, HTML), "HTTP 413"),
    "422, detail": (Odd(422, {"detail": [{"msg": "field required"}]}), "HTTP 422"),
    "content filter, Azure": (error(400, "The response was filtered", "content_filter"), "content filter"),
    "moderation, OpenRouter": (
        error(403, "Your input was flagged", 403, metadata={"reasons": ["x"]}),
        "content filter",
    ),
    "inspection, Qwen": (error(400, "Input may be bad", "data_inspection_failed"), "content filter"),
    "context, OpenAI": (
        error(400, "This model's maximum context length is 8192", "context_length_exceeded"),
        "context length",
    ),
    "context, vLLM": (Odd(400, {"object": "error", "message": "maximum context length is 4096"}), "context length"),
    "context, llama.cpp": (error(500, "the request exceeds the available context size"), "context length"),
    "context, in a list": (Odd(400, [{"error": {"message": "input is too long"}}]), "context length"),
    "larger than a minute's tokens": (error(429, "Request too large for gpt-4o"), "context length"),
    "200 with a refusal inside": (Odd(200, {"error": {"message": "bad prompt", "code": 400}}), "HTTP 400"),
    "filtered in the middle": (Odd(200, completion(LABEL + SCORE, "content_filter")), "content filter"),
    "filtered, as Gemini says it": (Odd(200, completion(LABEL + SCORE, "SAFETY")), "content filter"),
    "refusal in a field": (Odd(200, completion(None, refusal="I cannot")), "content filter"),
}
# --- transient: sent again, and then it is there -----------------------------------------------------------------------
TRANSIENT: dict[str, Odd] = {
    **{str(status): error(status, "later") for status in (408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529)},
    "429, soon": Odd(429, {"error": ERROR}, {"retry-after-ms": "", "retry-after": "0"}),
    "429, a date gone by": Odd(429, b"", {"retry-after-ms": "", "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "503 as a page": Odd(503, HTML),
    "200 as a page": Odd(200, HTML),
    "200 with an error": Odd(200, {"error": {"message": "overloaded", "code": 502}}),
    "200 with an error and no code": Odd(200, {"error": "overloaded"}),
    "200 with an error in the choice": Odd(200, {"choices": [{"error": {"message": "lost", "code": 502}, "message": {}}]}),
    "finish_reason error": Odd(200, completion(LABEL + SCORE, "error")),
    "finish_reason abort": Odd(200, completion(LABEL + SCORE, "abort")),
    "a legacy completion": Odd(200, {"choices": None, "text": LABEL + SCORE}),
    "a response of another API": Odd(200, {"object": "response", "output": [{"content": [{"text": LABEL}]}]}),
    "no choices": Odd(200, {"choices": []}),
    "a choice that is null": Odd(200, {"choices": [None]}),
    "choices null": Odd(200, {"choices": None}),
    "a list": Odd(200, [1, 2]),
    "a number": Odd(200, "7"),
    "null": Odd(200, "null"),
    "nothing": Odd(200, b""),
    "204": Odd(204, b""),
    "cut JSON": Odd(200, json.dumps(completion(LABEL + SCORE))[:-9]),
    "no JSON": Odd(200, b"\xff\xfe\x00"),
    "UTF-16": Odd(200, json.dumps(completion(LABEL + SCORE)).encode("utf-16")),
    "a number too long": Odd(200, '{"choices": ' + "9" * 5000 + "}"),
    "a redirection": Odd(307, b"", {"location": "/v1/chat/completions"}),
    "429, later than never": Odd(429, b"", {"retry-after-ms": "", "retry-after": "nan"}),
    "nested too deep": Odd(200, "[" * 100_000),
    "a stream": Odd(200, f"data: {json.dumps(completion(LABEL))}\n\ndata: [DONE]\n\n"),
    "a torn line": Odd(200, completion(LABEL), drop=True),
    "broken gzip": Odd(200, b"no gzip", {"content-encoding": "gzip"}),
    "slower than the time-out": Odd(200, completion(LABEL), hold=1.0),
}  # fmt: skip
HOPELESS: dict[str, Odd] = {
    "401": error(401, "Incorrect API key provided", "invalid_api_key"),
    "402": error(402, "Insufficient credits", 402),
    "403": error(403, "Country not supported"),
    "404, model": error(404, "The model `x` does not exist", "model_not_found"),
    "404, page": Odd(404, HTML),
    "no money": error(429, "You exceeded your current quota", "insufficient_quota"),
    "key, Gemini": Odd(400, [{"error": {"code": 400, "message": "API key not valid."}}]),
    "parameter": error(
        400, "Unsupported parameter: 'max_tokens' is not supported with this model.", "unsupported_parameter"
    ),
    "value": error(400, "Unsupported value: 'temperature' does not support 0.", "unsupported_value"),
    "200 with a key's fault": Odd(200, {"error": {"message": "No auth", "code": 401}}),
}


def test_every_kind_is_in_the_documentation() -> None:
    """``print(table())`` is what stands there."""
    assert table() in (ROOT / "docs/judges.md").read_text()
    assert sum(map(len, (READ, UNREAD, REFUSED, TRANSIENT, HOPELESS))) >= 40


def table() -> str:
    """Kind -> what happens, as a Markdown table."""
    once = "asked once more, then unjudged: "
    rows = {kind: "verdict and score are read" for kind in READ}
    rows |= {kind: f"{once}{reason}" for kind, (_, reason) in UNREAD.items()}
    rows |= {kind: f"{once}no label, no score" for kind, (_, reason) in UNREAD.items() if reason == "no"}
    rows |= {
        kind: "unjudged: different labels, different scores"
        for kind, (_, reason) in UNREAD.items()
        if reason == "different"
    }
    rows |= {kind: f"unjudged: {reason}" for kind, (_, reason) in REFUSED.items()}
    rows |= {kind: "sent again, later and later" for kind in TRANSIENT}
    rows |= {kind: "the job stops at once" for kind in HOPELESS}
    assert len(rows) == sum(map(len, (READ, UNREAD, REFUSED, TRANSIENT, HOPELESS)))
    return "\n".join(["| reply or fault | what happens |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def asked(judge: Callable[[], Any], questions: Path, tasks: Path, write_answers: Any, at: Path) -> tuple[Any, Any]:
    """One game pair of Arena-Hard and one task of WildBench."""
    tables = []
    for module, table, prompt, name in (
        (arena_hard, questions, "q0", "arena-hard"),
        (wildbench, tasks, "w0", "wildbench"),
    ):
        answers = answered(
            [write_answers(f"{name}-answers", {1: {prompt: "answer"}}, name)], artifacts.read(table, "benchmark")
        )
        found = module.judge_answers(answers, judge(), "loopback")
        artifacts.write(at / f"{name}.judgments.parquet", found, "judgments")
        tables.append(artifacts.read(at / f"{name}.judgments.parquet", "judgments"))
    return tuple(tables)


@pytest.mark.parametrize("kind", READ)
def test_what_is_read(
    kind: str, loopback: Any, questions: Path, tasks: Path, write_answers: Any, tmp_path: Path
) -> None:
    def reply(body: dict[str, Any], number: int) -> Odd:
        said = READ[kind](SCORE if "expert evaluator" in str(body) else LABEL)
        return said if isinstance(said, Odd) else Odd(200, said)

    loopback.reply = reply
    games, grades = asked(
        lambda: Endpoint(loopback.config(retries=2), tmp_path / "store", "job"),
        questions,
        tasks,
        write_answers,
        tmp_path,
    )
    assert games.verdict.tolist() == ["A>B", "A>B"]
    assert grades.score.tolist() == [8]
    assert games.unjudged.isna().all()
    assert grades.unjudged.isna().all()
    assert len(loopback.bodies) == 3


@pytest.mark.parametrize("kind", UNREAD)
def test_what_is_unread_is_asked_once_more(
    kind: str, loopback: Any, questions: Path, tasks: Path, write_answers: Any, tmp_path: Path
) -> None:
    body, reason = UNREAD[kind]
    loopback.reply = lambda sent, number: Odd(200, body)
    for _ in range(2):  # paid once
        judge = lambda: Endpoint(loopback.config(max_unjudged=1), tmp_path / "store", "job")  # noqa: E731
        games, grades = asked(judge, questions, tasks, write_answers, tmp_path)
        assert games.verdict.isna().all()
        assert grades.score.isna().all()
        for table, what in ((games, "label"), (grades, "score")):
            expected = f"no {what}" if reason == "no" else f"different {what}s" if reason == "different" else reason
            assert set(table.unjudged) == {expected}
        assert len(loopback.bodies) == (3 if reason == "different" else 6)
    assert all(turn["content"] for sent in loopback.bodies for turn in sent["messages"])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_does_not_block(
    kind: str, loopback: Any, questions: Path, tasks: Path, write_answers: Any, tmp_path: Path
) -> None:
    said, reason = REFUSED[kind]
    loopback.reply = lambda body, number: said
    judge = lambda: Endpoint(loopback.config(max_unjudged=1), tmp_path / "store", "job")  # noqa: E731
    games, grades = asked(judge, questions, tasks, write_answers, tmp_path)
    assert games.verdict.isna().all()
    assert games.unjudged.tolist() + grades.unjudged.tolist() == [reason] * 3
    assert grades.score.isna().all()
    assert len(loopback.bodies) == (
        6 if said.status >= 400 or "error" in said.body else 3
    )  # a second try, no follow-up


@pytest.mark.parametrize("kind", TRANSIENT)
def test_what_passes_is_tried_again(
    kind: str, loopback: Any, questions: Path, tasks: Path, write_answers: Any, tmp_path: Path
) -> None:
    said = TRANSIENT[kind]
    loopback.reply = lambda body, number: said if number <= 2 else f"{LABEL} {SCORE}"
    judge = lambda: Endpoint(loopback.config(timeout=0.5, concurrency=2), tmp_path / "store", "job")  # noqa: E731
    games, grades = asked(judge, questions, tasks, write_answers, tmp_path)
    assert games.verdict.tolist() == ["A>B", "A>B"]
    assert grades.score.tolist() == [8]
    assert len(loopback.bodies) == 5


@pytest.mark.parametrize("kind", HOPELESS)
def test_what_is_hopeless_stops_at_once(
    kind: str, loopback: Any, questions: Path, tasks: Path, write_answers: Any, tmp_path: Path, secret: str
) -> None:
    loopback.reply = lambda body, number: HOPELESS[kind]
    judge = lambda: Endpoint(loopback.config(concurrency=1), tmp_path / "store", "job")  # noqa: E731
    with pytest.raises(
        UserError, match=r"loopback at http.* refuses every request, HTTP \d+: .*base_url, preset"
    ) as failure:
        asked(judge, questions, tasks, write_answers, tmp_path)
    assert len(loopback.bodies) == 1
    assert secret not in str(failure.value)
    assert "<" not in str(failure.value)
