"""WB-Reward: labels, the length penalty, the published table, and the stage against both kinds of judge."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffinfo.bench import wb_reward as module
from diffinfo.bench.judge import RewardModel
from diffinfo.bench.questions import answered
from diffinfo.bench.wb_reward import choices, game, reward
from diffinfo.cli import UserError
from diffinfo.tables import artifacts


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"analysis of A": "a", "choice": "A++"}', {"A++"}),
        ('{"choice": "A=B",}', {"A=B"}),
        ('so:\n```json\n{"choice": "[b+]"}\n```', {"B+"}),
        ('{"Choice": "**B++**"}', {"B++"}),
        ('{"choice": "A = B"}', {"A=B"}),
        ('{"choice": "[A++ or A+ or A=B or B+ or B++]"}\n{"choice": "A+"}', {"A+"}),
        ('{"choice": "A+"}\n{"choice": "B+"}', {"A+", "B+"}),
        ('{"choice": "A"}', set()),
        ('{"choice": "A+++"}', set()),
        ('{"choice": 1}', set()),
        ('{"reason of A>B": "A++"}', set()),
        ("A++", set()),
    ],
)
def test_choices(reply: str, found: set[str]) -> None:
    assert choices(reply) == found


def test_reward_by_hand() -> None:
    """Rows: label, what the answer gets as A (game 2) and as B (game 1)."""
    for label, as_a, as_b in [("A++", 1, -1), ("A+", 0.5, -0.5), ("A=B", 0, 0), ("B+", -0.5, 0.5), ("B++", -1, 1)]:
        assert (reward(label, 2, 9999, None), reward(label, 1, 9999, None)) == (as_a, as_b)
    # the answer is 501 characters longer: its slight win is a tie, in either place; other labels stand
    assert [reward(label, 2, 501, 500) for label in ("A++", "A+", "A=B", "B+", "B++")] == [1, 0, 0, -0.5, -1]
    assert [reward(label, 1, 501, 500) for label in ("A++", "A+", "A=B", "B+", "B++")] == [-1, -0.5, 0, 0, 1]
    # it is shorter: its slight loss is a tie
    assert [reward(label, 2, -501, 500) for label in ("A++", "A+", "A=B", "B+", "B++")] == [1, 0.5, 0, 0, -1]
    assert reward("A+", 2, 500, 500) == 0.5
    assert reward("B+", 2, -500, 500) == -0.5
    assert reward("A+", 2, 1, 0) == 0


def test_the_published_counts_give_the_published_reward() -> None:
    """Llama-2-7b-chat-hf against Llama-2-70b-chat-hf, K = 500, of its table: 88 skipped answers count as ties."""
    counts = {"A++": 58, "A+": 148, "A=B": 256, "B+": 248, "B++": 226}
    won = [reward(label, 2, 0, 500) for label, count in counts.items() for _ in range(count)]
    assert np.mean([*won, *[0.0] * (1024 - len(won))]) == -0.212890625


def test_the_coin_is_fair_and_of_the_task_alone() -> None:
    throws = [game(f"task {i}") for i in range(2000)]
    assert set(throws) == {1, 2}
    assert abs(np.mean(throws) - 1.5) < 0.04  # 3.5 standard errors
    assert throws == [game(f"task {i}") for i in range(2000)]
    # by the last digits of sha256sum: b, b and 0 of these
    assert [game("w0"), game("w1"), game("w2")] == [2, 2, 1]


def shown(body: dict[str, Any]) -> tuple[str, str]:
    """What an endpoint saw as A and B."""
    text = body["messages"][0]["content"]
    return tuple(  # type: ignore[return-value]
        re.findall(rf"<\|begin_of_response_{side}\|>\n\n(.*)\n\n<\|end_of_response_{side}\|>", text, re.S)[0]
        for side in "AB"
    )


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "Some-Model_1.json"
    rows = [
        {"session_id": f"w{i}", "output": [text]} for i, text in enumerate(["theirs {0}", "theirs 1", "theirs 2\n\n\n"])
    ]
    path.write_text(json.dumps(rows))
    return path


def stage(judge: Any, answers: Path, tasks: Path, baseline: Path, out: Path, **more: Any) -> pd.DataFrame:
    settings = module.Settings(judge=judge, **more)
    files: dict[str, Any] = {"answers": [answers], "tasks": tasks, "baseline": str(baseline), "against": "some"}
    module.main(**files, settings=settings, cache=out.parent / "cache", out=out)
    return artifacts.read(out, "judgments").set_index("prompt_id")


def test_stage_with_an_endpoint(tasks: Path, write_answers: Any, loopback: Any, baseline: Path, tmp_path: Path) -> None:
    """The better answer is recognised on either side; labels turn with the side, what cannot be read is counted."""

    def reply(body: dict[str, Any], number: int) -> str:
        a, b = shown(body)
        if "torn" in a + b:
            return '{"choice": "A+"} {"choice": "B+"}'
        if "odd" in a + b and len(body["messages"]) == 1:
            return "let me think"
        return json.dumps({"choice": "B+" if a.startswith("theirs") else "A+"})  # ours is slightly better

    loopback.reply = reply
    answers = write_answers("a", {1: {"w0": "ours", "w1": "odd one", "w2": "torn"}}, "wildbench")
    table = stage(loopback.config(max_unjudged=0.5), answers, tasks, baseline, tmp_path / "one.parquet")
    assert table.game.to_dict() == {"w0": 2, "w1": 2, "w2": 1}
    assert table.verdict.fillna("none").to_dict() == {"w0": "A+", "w1": "A+", "w2": "none"}
    assert table.score.fillna(9).to_dict() == {"w0": 0.5, "w1": 0.5, "w2": 9}
    assert table.unjudged.fillna("").to_dict() == {"w0": "", "w1": "", "w2": "different labels"}
    assert table.benchmark.unique().tolist() == ["wildbench/some"]
    facts = artifacts.provenance(tmp_path / "one.parquet")
    assert facts["epochs"]["1"] == {
        "reward": 50.0, "by_group": {"coding": 50.0, "maths": 50.0, "overall": 50.0}, "unparseable": 1, "unanswered": 0,
    }  # fmt: skip
    assert "baseline" in facts["inputs"]
    first = {shown(body) for body in loopback.bodies}
    assert first == {("ours", "theirs {0}"), ("odd one", "theirs 1"), ("theirs 2\n\n\n", "torn")}
    assert len(loopback.bodies) == 4
    again = next(body["messages"] for body in loopback.bodies if len(body["messages"]) == 3)
    assert [again[1]["content"], '"choice"' in again[2]["content"]] == ["let me think", True]
    body = loopback.bodies[0]
    assert (body["temperature"], body["response_format"]) == (0, {"type": "json_object"})
    for part in ("USER: first\n\nASSISTANT: second", "task 0", "- is it right ?\n- is it polite ?"):
        assert any(part in body["messages"][0]["content"] for body in loopback.bodies)
    # with a penalty, from what was paid: ours in w1 has one character less than theirs, in w0 six less
    one = stage(loopback.config(max_unjudged=0.5), answers, tasks, baseline, tmp_path / "two.parquet", length_margin=0)
    assert one.score.fillna(9).to_dict() == {"w0": 0.5, "w1": 0.5, "w2": 9}
    assert len(loopback.bodies) == 4
    # "theirs {0}" has 10 characters, others 8: ours is longer by 4, 3 and, white space aside, 4
    longer = write_answers("b", {1: {"w0": "x" * 14, "w1": "x" * 11, "w2": f" {'x' * 12}\n"}}, "wildbench")
    kept = stage(loopback.config(), longer, tasks, baseline, tmp_path / "three.parquet", length_margin=3)
    assert kept.score.to_dict() == {"w0": 0, "w1": 0.5, "w2": 0}
    assert artifacts.provenance(tmp_path / "three.parquet")["length_margin"] == 3


def test_an_empty_answer_is_not_sent(
    tasks: Path, write_answers: Any, loopback: Any, baseline: Path, tmp_path: Path
) -> None:
    """As in the original: the other one is much better by its label, and the reward of the table is 0."""
    loopback.reply = lambda body, number: '{"choice": "A++"}'
    baseline.write_text(json.dumps([{"session_id": f"w{i}", "output": text} for i, text in enumerate(["x", "", " "])]))
    answers = write_answers("a", {1: {"w0": " \n", "w1": "ours", "w2": ""}}, "wildbench")
    table = stage(loopback.config(), answers, tasks, baseline, tmp_path / "o.parquet")
    assert table.verdict.to_dict() == {"w0": "B++", "w1": "A++", "w2": "A=B"}  # ours is A in w0 and w1
    assert table.score.tolist() == [0, 0, 0]
    assert table.unjudged.isna().all()
    assert loopback.bodies == []
    assert artifacts.provenance(tmp_path / "o.parquet")["epochs"]["1"]["by_group"] == {}


def test_what_ends_the_stage(tasks: Path, write_answers: Any, loopback: Any, baseline: Path, tmp_path: Path) -> None:
    loopback.reply = lambda body, number: "no"
    answers = write_answers("a", {1: {"w0": "ours"}}, "wildbench")
    with pytest.raises(UserError, match=r"no judgment on 1 of 1 answers \(1 no label\)"):
        stage(loopback.config(), answers, tasks, baseline, tmp_path / "o.parquet")
    with pytest.raises(UserError, match="no reply of the judge held a choice"):
        stage(loopback.config(max_unjudged=1), answers, tasks, baseline, tmp_path / "o.parquet")
    baseline.write_text('[{"session_id": "w1", "output": ["x"]}]')
    with pytest.raises(UserError, match=r"no answer to 1 of 3 tasks, such as 'w0'.*wildbench.reward.baselines.some"):
        stage(loopback.config(), answers, tasks, baseline, tmp_path / "o.parquet")
    for content, said in {
        "{": "is not JSON",
        "{}": "must hold a list of answers, it holds a mapping",
        '[{"session_id": "w1"}]': "row 1 holds no answer: output is null, not text",
        '[{"session_id": "w0", "output": [null]}]': "row 1 holds no answer: output is null",
        '[{"session_id": "w0", "output": []}]': "output is a list, not text",
        '[{"session_id": "w0", "output": "x"}, {"session_id": "w0", "output": "y"}]': "row 2 .*: an earlier row answers w0",
        "[3]": "row 1 holds no answer: it is a number",
    }.items():
        baseline.write_text(content)
        with pytest.raises(UserError, match=said):
            stage(loopback.config(), answers, tasks, baseline, tmp_path / "o.parquet")


def test_reward_model_chooses_through_the_same_parser(tasks: Path, write_answers: Any) -> None:
    """P(A better) of 0.9 is much better, 0.6 slightly: differences of 2.2 and 0.41 nats."""
    rewards = {"a": 3.0, "b": 0.1, "c": 0.5, "theirs": 0.0}
    answers = write_answers("x", {1: {"w0": "a", "w1": "b", "w2": "c"}}, "wildbench")
    found = answered([answers], artifacts.read(tasks, "benchmark"))
    judge = RewardModel(lambda talks: [rewards[talk[-1]["content"]] for talk in talks])
    theirs = dict.fromkeys(found.prompt_id, "theirs")
    table = module.judge_answers(found, theirs, judge, name="embedded", against="some")
    assert table.verdict.tolist() == ["A++", "A=B", "B+"]
    assert table.score.tolist() == [1, 0, 0.5]


def test_the_judge_is_asked_in_the_users_words(
    tasks: Path, write_answers: Any, loopback: Any, baseline: Path, tmp_path: Path
) -> None:
    loopback.reply = lambda body, number: '{"choice": "A=B"}'
    answers, prompt = write_answers("a", {1: {"w0": "ours"}}, "wildbench"), tmp_path / "prompt.md"
    prompt.write_text("{$history}|{$user_query}|{$candidate_A}|{$candidate_B}|{$checklist}")
    stage(loopback.config(), answers, tasks, baseline, tmp_path / "o.parquet", prompt=str(prompt))
    assert "|task 0|ours|theirs {0}|- is it right ?" in loopback.bodies[0]["messages"][0]["content"]
    prompt.write_text("{$history}|{$user_query}|{$candidate_A}|{$checklist}")
    with pytest.raises(UserError, match=r"no place for \{\$candidate_B\}"):
        stage(loopback.config(), answers, tasks, baseline, tmp_path / "o.parquet", prompt=str(prompt))
