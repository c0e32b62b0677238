"""WildBench: parsing of grades, WB-Score, WB-Elo, and the stage against both kinds of judge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffinfo.bench import wildbench as module
from diffinfo.bench.judge import RewardModel
from diffinfo.bench.questions import answered
from diffinfo.bench.replies import Reply
from diffinfo.bench.wildbench import elo, grade, votes, wb_score
from diffinfo.cli import UserError
from diffinfo.tables import artifacts


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"strengths": "a", "weaknesses": "b", "score": 7}', 7),
        ('{"strengths": "a", "weaknesses": "b", "score": "7"}', 7),
        ('{"score": "7.5"}', 7.5),
        ('{"score": "8/10"}', 8),
        ('{"score": "[6]"}', 6),
        ('{"score": 10}', 10),
        ('{"score": 0}', None),
        ('{"score": 11}', None),
        ('{"score": -3}', None),
        ('{"score": NaN}', None),
        ('{"score": true}', None),
        ('{"score": null}', None),
        ('{"score": "7-8"}', None),
        ('{"score": "good"}', None),
        ('{"score": 8.5}', 8.5),
        ('{"Score": "8.5 / 10"}', 8.5),
        ('{"score": "8 out of 10"}', 8),
        ('{"score": "**8**"}', 8),
        ('{"score": "**8/10**"}', 8),
        ('{"score": "eight"}', 8),
        ('{"score": "Eight out of 10"}', 8),
        ('{"score": "8 (good enough)"}', 8),
        ('{"score": "8 - good enough, with issues"}', 8),
        ('{"score": "8."}', 8),
        ('{"score": "8 (or 7)"}', None),
        ('{"score": "eight or nine"}', None),
        ('{"score": "8 (nearly nine)"}', None),
        ('{"score": "80/100"}', None),
        ('{"score": "4/5"}', None),
        ('{"score": "zero"}', None),
        ('{"score": "1e400"}', None),
        ('{"score": 1e400}', None),
        ("{'strengths': 'x', 'score': '8'}", 8),
        ('{"score": 8,}', 8),
        ('{"evaluation": {"score": 7}}', 7),
        ('{"strengths": "x", "score": "[1~10]"}\n{"strengths": "x", "score": "6"}', 6),
        ('{"score": [7]}', None),
        ("", None),
        ("The score is 7.", None),
        ('Here you are:\n```json\n{"strengths": "x",\n "score": "4"}\n```\nBye {x}', 4),
        ('{"strengths": "line\nbreak", "score": "5"}', 5),
        ('{"strengths": "she said "yes"", "score": "5"}', 5),  # quotes that are not escaped
        ('{"strengths": "cut", "score": 6,', 6),
        ('{"strengths": "he wrote {\\"score\\": 2}", "score": 9}', 9),
        ('{"score": 3} or rather {"score": 4}', None),
        ('{"score": 3} that is {"score": "3"}', 3),
        ("{" * 5000, None),
        ('{"score": 1', None),  # of 10?
        ('{"strengths": "x", "score": 1.', None),
        ('{"strengths": "x", "score": "1', None),
        (Reply('{"score": 7}', "stop"), 7),
        (Reply('{"score": 7}', "length"), None),  # what follows might be another
    ],
)
def test_grade(reply: str, score: float | None) -> None:
    assert grade(reply) == score


def test_score_of_groups() -> None:
    """Without what has no grade, and without empty answers, whose grade is 1: so does the original's table."""
    frame = pd.DataFrame({"prompt_id": [*"abcde"], "score": [9.0, 5.0, 7.0, np.nan, 1.0], "chars": [9, 9, 9, 9, 0]})
    tags = {"a": "Math", "b": "Data Analysis; Math; Editing", "c": "Coding & Debugging", "d": "Math", "e": "Math"}
    found = wb_score(frame, tags)
    # maths (9 + 5)/2 -> 4, creative 5 -> 0, coding 7 -> 4; weights 1, 0.5, 1.25
    assert found == pytest.approx({"maths": 4, "creative": 0, "coding": 4, "overall": (4 + 0 + 5) / 2.75})


PUBLISHED = {
    "creative": 0.5,
    "planning": 1.25,
    "maths": 1.0,
    "information": 0.75,
    "coding": 1.25,
}  # WildBench's weights
TAGS = {  # and its groups, written out once more
    "creative": ["Creative Writing", "Editing", "Brainstorming", "Role playing", "Others"],
    "planning": ["Planning", "Reasoning"],
    "maths": ["Math", "Data Analysis"],
    "information": ["Information seeking", "Advice seeking"],
    "coding": ["Coding & Debugging"],
}


@pytest.mark.parametrize(("group", "tag"), [(group, tag) for group, tags in TAGS.items() for tag in tags])
def test_every_tag_counts_in_its_group_with_the_published_weight(group: str, tag: str) -> None:
    """Ten for one task of the tag, five (a score of 0) for a task of every other group."""
    tags = {name: found[0] for name, found in TAGS.items()} | {group: tag}
    frame = pd.DataFrame(
        {"prompt_id": list(tags), "score": [10.0 if name == group else 5.0 for name in tags], "chars": 9}
    )
    found = wb_score(frame, tags)
    assert found.pop("overall") == pytest.approx(10 * PUBLISHED[group] / 4.75)
    assert found == {name: 10.0 if name == group else 0.0 for name in TAGS}


def pool(scores: dict[str, list[float]], chars: int = 100) -> pd.DataFrame:
    rows = [
        {"model": model, "prompt_id": f"t{i}", "score": score, "chars": chars}
        for model, values in scores.items()
        for i, score in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_votes_follow_margins_lengths_and_skips() -> None:
    frame = pool({"b": [7, 7, 7, 7, 7, 7, 7], "a": [5, 6, 9, 5, 5, 5, np.nan]})
    frame.loc[(frame.model == "a") & (frame.prompt_id == "t3"), "chars"] = 1600
    frame.loc[(frame.model == "a") & (frame.prompt_id == "t4"), "chars"] = 1601
    frame["truncated"] = (frame.model == "b") & (frame.prompt_id == "t5")  # cut by max_tokens: it votes
    found = votes(frame, win_margin=2, length_margin=1500)
    assert found["first"].unique().tolist() == ["a"]
    assert found["outcome"].tolist() == [0, 0.5, 1, 0, 0.5, 0]  # t3 is 1,500 longer, t4 1,501
    frame.loc[frame.prompt_id == "t0", "chars"] = 0
    assert len(votes(frame, win_margin=2, length_margin=1500)) == 5


def test_elo_by_hand() -> None:
    one = elo(pool({"a": [9], "b": [1]}), {}).set_index("model")
    assert one.elo.tolist() == [1002, 998]  # K (1 - 1/2)
    two = elo(pool({"a": [9, 8], "b": [1, 2]}), {}).set_index("model")
    expected = 1 / (1 + 10 ** ((998 - 1002) / 400))
    assert two.elo["a"] == pytest.approx(1002 + 4 * (1 - expected))
    assert two.battles.tolist() == [2, 2]
    # win then tie, or tie then win: the only two orders of two votes
    later = 1002 + 4 * (0.5 - expected)
    mixed = elo(pool({"a": [9, 5], "b": [1, 5]}), {}, rounds=64)
    assert later < mixed.elo[0] < 1002
    # of two tasks drawn with replacement: both orders, twice the tie, twice the win
    assert {round(e, 9) for e in mixed.draws[0]} == {1000.0, 1002.0, round(later, 9), round(two.elo["a"], 9)}
    assert (mixed.low[0], mixed.high[0]) == (1000, pytest.approx(two.elo["a"]))


def test_elo_with_anchors_by_hand() -> None:
    frame = pool({"anchor": [9], "new": [1], "other": [5]})
    found = elo(frame[frame.model != "other"], {"anchor": 1200.0}).set_index("model")
    gain = 4 * (1 - 1 / (1 + 10 ** ((1000 - 1200) / 400)))
    assert found.elo["new"] == pytest.approx(1000 - gain)
    assert found.elo["anchor"] == pytest.approx(1200 + gain / 2)  # pulled half-way back
    again = elo(pool({"anchor": [9, 9], "new": [1, 1]}), {"anchor": 1200.0}).set_index("model")
    more = 4 * (1 - 1 / (1 + 10 ** ((1000 - gain - 1200 - gain / 2) / 400)))
    assert again.elo["anchor"] == pytest.approx(1200 + gain / 2 + more)  # not pulled again before its 100th vote
    both = elo(frame, {"anchor": 1200.0, "other": 1100.0}).set_index("model")
    assert both.battles.to_dict() == {"anchor": 1, "new": 2, "other": 1}  # anchors do not meet


def one_by_one(
    frame: pd.DataFrame, initial: dict[str, float], rounds: int, seed: int, redraw: bool = False
) -> dict[str, list[float]]:
    """Ratings after each round, vote by vote, as the original's loop does it; ``redraw``: over tasks drawn anew."""
    grades = {(row.model, row.prompt_id): row.score for row in frame.itertuples()}
    names, tasks = sorted(set(frame.model)), sorted(set(frame.prompt_id))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if not {a, b} <= set(initial)]
    battles = [(a, b, task) for a, b in pairs for task in tasks if not math.isnan(grades[a, task] - grades[b, task])]
    after: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        rating = {name: initial.get(name, 1000.0) for name in names}
        played = dict.fromkeys(names, 0)
        rng, votes = np.random.default_rng([seed, number]), list(range(len(battles)))
        if redraw:
            rng = np.random.default_rng([seed, number, 1])
            drawn = [tasks[i] for i in rng.integers(len(tasks), size=len(tasks))]
            votes = [i for task in drawn for i, battle in enumerate(battles) if battle[2] == task]
        for index in rng.permutation(votes):
            a, b, task = battles[index]
            lead = grades[a, task] - grades[b, task]
            won = 1.0 if lead >= 2 else 0.0 if lead <= -2 else 0.5
            gain = 4 * (won - 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400)))
            rating[a] += gain
            rating[b] -= gain
            for name in (a, b):
                if name in initial and played[name] % 100 == 0:
                    rating[name] = (rating[name] + initial[name]) / 2
                played[name] += 1
        for name in names:
            after[name].append(rating[name])
    return after


@pytest.mark.parametrize("initial", [{}, {"a": 1150.0, "b": 1060.0}], ids=["no anchors", "two anchors"])
def test_elo_is_the_original_loop(initial: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    frame = pool({name: list(rng.integers(1, 11, 60).astype(float)) for name in "abcd"})
    frame.loc[(frame.model == "c") & (frame.prompt_id == "t7"), "score"] = np.nan  # rounds of different lengths
    after = one_by_one(frame, initial, rounds=9, seed=3)
    redrawn = one_by_one(frame, initial, rounds=9, seed=3, redraw=True)
    found = elo(frame, initial, rounds=9, seed=3).set_index("model")
    for name, ratings in after.items():
        assert found.elo[name] == pytest.approx(sum(ratings) / 9, abs=1e-9)
        assert list(found.draws[name]) == pytest.approx(redrawn[name], abs=1e-9)
        ordered = sorted(redrawn[name])  # of nine: 2.5 % is a fifth of the way from the first to the second
        assert found.low[name] == pytest.approx(ordered[0] + 0.2 * (ordered[1] - ordered[0]), abs=1e-9)
        assert found.high[name] == pytest.approx(ordered[8] - 0.2 * (ordered[8] - ordered[7]), abs=1e-9)


def test_elo_interval_covers_what_other_tasks_would_change() -> None:
    """The spread of ratings over worlds of fresh tasks, which orders of play do not show."""
    rng, ratings, halves, ordered = np.random.default_rng(5), [], [], []
    for _ in range(60):
        frame = pool({name: list(rng.integers(1, 11, 64).astype(float)) for name in "ab"})
        row = elo(frame, {}, rounds=48).iloc[0]
        ratings.append(row.elo)
        halves.append((row.high - row.low) / 2)
        low, high = np.percentile(one_by_one(frame, {}, 48, 42)["a"], [2.5, 97.5])
        ordered.append((high - low) / 2)
    spread = 1.96 * np.std(ratings, ddof=1)
    assert 0.8 * spread < np.mean(halves) < 1.4 * spread
    assert np.mean(ordered) < 0.6 * spread


def test_elo_invariants() -> None:
    rng = np.random.default_rng(0)
    scores = {name: list(rng.integers(1, 11, 40).astype(float)) for name in "abcd"}
    frame = pool(scores)
    found = elo(frame, {}, rounds=16)
    assert found.elo.sum() == pytest.approx(4000)
    assert (found.low < found.elo).all()
    assert (found.elo < found.high).all()
    pd.testing.assert_frame_equal(found, elo(frame.sample(frac=1, random_state=1), {}, rounds=16))  # order of rows
    assert not found.equals(elo(frame, {}, rounds=16, seed=7))
    shifted = elo(frame, {"a": 1100.0}, rounds=16)
    assert not np.allclose(shifted.elo, found.elo)
    # what an outcome is worth depends on who else is in the pool: without d, others are rated otherwise
    assert not np.allclose(elo(frame[frame.model != "d"], {}, rounds=16).elo, found.elo[:3])
    same = elo(pool({name: scores["a"] for name in "abc"}), {}, rounds=4)
    assert same.elo.tolist() == same.low.tolist() == [1000, 1000, 1000]


def test_elo_without_battles_has_no_rating() -> None:
    found = elo(pool({"alone": [5, 6]}), {})
    assert np.isnan(found.elo[0])
    assert found.battles[0] == 0
    with pytest.raises(ValueError, match="two grades"):
        elo(pd.concat([pool({"a": [5]})] * 2), {})


def test_stage_with_an_endpoint(
    tasks: Path, write_answers: Any, loopback: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loopback.reply = lambda body, number: (
        "no score" if "task 0" in body["messages"][0]["content"] else '{"strengths": "s", "score": "8"}'
    )
    answers = write_answers("a", {1: {"w0": "zero", "w1": "one {braces}", "w2": " \n"}}, "wildbench", cut="w1")
    out = tmp_path / "judgments.parquet"
    settings = module.Settings(judge=loopback.config(max_unjudged=0.5))
    module.main(answers=[answers], tasks=tasks, settings=settings, cache=tmp_path / "cache", out=out)
    table = artifacts.read(out, "judgments").set_index("prompt_id")
    assert np.isnan(table.score["w0"])
    assert table.unjudged.fillna("").to_dict() == {"w0": "no score", "w1": "", "w2": ""}
    assert table.reply["w0"] == "no score\nno score"
    assert table.score[["w1", "w2"]].tolist() == [8, 1]
    assert table.truncated["w1"]
    facts = artifacts.provenance(out)["epochs"]["1"]
    assert {key: facts[key] for key in ("unparseable", "empty", "truncated", "unanswered")} == {
        "unparseable": 1, "empty": 1, "truncated": 1, "unanswered": 0,
    }  # fmt: skip
    assert facts["wb_score"]["coding"] == 6
    assert facts["mean_tokens"] == pytest.approx((1 + 2 + 0) / 3)
    assert len(loopback.bodies) == 3  # the empty answer was not sent, the reply without a score was asked once more
    again = next(body["messages"] for body in loopback.bodies if len(body["messages"]) == 3)
    assert again[1] == {"role": "assistant", "content": "no score"}
    assert '"score"' in again[2]["content"]
    body = next(body for body in loopback.bodies if "task 1" in body["messages"][0]["content"])
    [message] = body["messages"]
    assert message["role"] == "user"
    for part in ("USER: first\n\nASSISTANT: second", "task 1", "one {braces}", "- is it right ?\n- is it polite ?"):
        assert part in message["content"]
    assert "reference" not in message["content"]
    assert body["temperature"] == 0
    assert body["response_format"] == {"type": "json_object"}


def test_a_reply_that_was_cut_gives_no_score(tasks: Path, write_answers: Any, loopback: Any, tmp_path: Path) -> None:
    """It is asked to finish: two different scores are none, and neither is one that is cut again."""
    first = {"task 0": ('{"score": 1', "length"), "task 1": ('{"score": 9}\n{"sc', "length"), "task 2": '{"score": 4}'}
    second = {"task 0": ('{"score": 7}', "length"), "task 1": '{"score": 4}'}
    loopback.reply = lambda body, number: next(
        text
        for task, text in (first if len(body["messages"]) == 1 else second).items()
        if task in body["messages"][0]["content"]
    )
    answers = write_answers("a", {1: {"w0": "zero", "w1": "one", "w2": "two"}}, "wildbench")
    for name in ("paid", "cached"):
        out = tmp_path / f"{name}.parquet"
        settings = module.Settings(judge=loopback.config(max_unjudged=0.9))
        module.main(answers=[answers], tasks=tasks, settings=settings, cache=tmp_path / "cache", out=out)
        table = artifacts.read(out, "judgments").set_index("prompt_id")
        assert table.score.fillna(0).to_dict() == {"w0": 0, "w1": 0, "w2": 4}
        assert table.unjudged.fillna("").to_dict() == {"w0": "cut by length", "w1": "different scores", "w2": ""}
        assert artifacts.provenance(out)["epochs"]["1"]["unparseable"] == 2
    assert len(loopback.bodies) == 5


def test_no_readable_reply_at_all_is_an_error(tasks: Path, write_answers: Any, loopback: Any, tmp_path: Path) -> None:
    answers = write_answers("a", {1: {"w0": "zero"}}, "wildbench")
    with pytest.raises(UserError, match=r"no judgment on 1 of 1 answers \(1 no score\)"):
        module.main(
            answers=[answers],
            tasks=tasks,
            settings=module.Settings(judge=loopback.config()),
            cache=tmp_path / "c",
            out=tmp_path / "o.parquet",
        )


def test_reward_model_grades_through_the_same_parser(tasks: Path, write_answers: Any) -> None:
    rewards = {"worse": -9.0, "reference 0": 0.0, "equal": 1.0, "reference 1": 1.0, "better": 9.0, "reference 2": 0.0}
    answers = write_answers("a", {1: {"w0": "worse", "w1": "equal", "w2": "better"}}, "wildbench")
    found = answered([answers], artifacts.read(tasks, "benchmark"))
    judge = RewardModel(lambda conversations: [rewards[talk[-1]["content"]] for talk in conversations])
    table = module.judge_answers(found, judge, "embedded")
    assert table.score.tolist() == [1, 6, 10]  # 5.5 rounds to the even 6
    assert set(json.loads(table.reply[0])) == {"strengths", "weaknesses", "score"}
    with pytest.raises(UserError, match="1 tasks have no reference"):
        module.judge_answers(found.assign(baseline=[None, "x", "x"]), judge, "embedded")
