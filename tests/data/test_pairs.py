"""Pairs of the best and worst sample: ties, empty and cut completions, and joins that do not hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.data.pairs import main
from diffinfo.tables import artifacts

# prompt, sample, completion, score, finish reason
Sample = tuple[str, int, str, float, str]
GOOD: list[Sample] = [
    ("b", 0, "fair", 0.5, "stop"),
    ("b", 1, "good", 0.9, "length"),
    ("b", 2, "bad", 0.1, "stop"),
    ("a", 0, "worst", -3.0, "stop"),
    ("a", 1, "best", -1.0, "stop"),
]


def tables(
    folder: Path, samples: list[Sample], scored: list[Sample] | None = None, epochs: tuple[int, ...] = ()
) -> None:
    """Completions of ``samples`` and scores of ``scored`` (the same unless told otherwise)."""
    columns = ["prompt_id", "sample", "completion", "score", "finish_reason"]
    frame, scores = (pd.DataFrame(rows, columns=columns) for rows in (samples, samples if scored is None else scored))
    frame = frame.assign(benchmark="", epoch=list(epochs) or 0, logp=-1.0)
    frame["messages"] = [[{"role": "user", "content": f"Question {prompt}?"}] for prompt in frame.prompt_id]
    frame["prompt_token_ids"] = frame["token_ids"] = [[1, 2]] * len(frame)
    artifacts.write(folder / "completions.parquet", frame, "completions")
    artifacts.write(folder / "scores.parquet", scores.assign(epoch=0, tokens=2), "scores")


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    def run(*arguments: Any, min_reward: float | None = None, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        tables(tmp_path, *arguments, **options)
        files = {k: tmp_path / f"{k}.parquet" for k in ("completions", "scores", "preferences", "quarantine")}
        main(**files, min_reward=min_reward)
        return artifacts.read(files["preferences"], "preferences"), artifacts.read(files["quarantine"], "quarantine")

    return run


@pytest.mark.parametrize(("least", "kept"), [(None, ["b", "a"]), (-1.0, ["b", "a"]), (-0.99, ["b"])])
def test_a_prompt_without_a_good_response_is_left_out(pair: Any, least: float | None, kept: list[str]) -> None:
    pairs, left_out = pair(GOOD, min_reward=least)
    assert list(pairs.prompt_id) == kept
    assert set(left_out.reason) == ({"the best completion scores less than min_reward"} if len(kept) == 1 else set())


def test_best_and_worst_in_the_order_of_the_prompts(pair: Any) -> None:
    pairs, left_out = pair(GOOD)
    assert len(left_out) == 0
    assert pairs.drop(columns="messages").to_dict("records") == [
        {
            "prompt_id": "b", "chosen": "good", "rejected": "bad", "chosen_score": 0.9, "rejected_score": 0.1,
            "chosen_truncated": True, "rejected_truncated": False,
        },
        {
            "prompt_id": "a", "chosen": "best", "rejected": "worst", "chosen_score": -1.0, "rejected_score": -3.0,
            "chosen_truncated": False, "rejected_truncated": False,
        },
    ]  # fmt: skip
    assert pairs.messages[1] == [{"role": "user", "content": "Question a?"}]


LEFT_OUT: dict[str, tuple[list[Sample], str]] = {
    "tie": ([("x", 0, "one", 0.5, "stop"), ("x", 1, "two", 0.5, "stop")], "the best and worst scores tie"),
    "same-text": (
        [("x", 0, "one", 0.5, "stop"), ("x", 1, "one ", 0.4, "stop")],
        "the best and worst completions are the same text",
    ),
    "empty-best": ([("x", 0, " ", 0.5, "stop"), ("x", 1, "one", 0.4, "stop")], "the best completion is empty"),
    "all-empty": ([("x", 0, "", 0.5, "stop"), ("x", 1, "", 0.5, "stop")], "the best and worst scores tie"),
    "alone": ([("x", 0, "one", 0.5, "stop")], "there is only one completion"),
}


@pytest.mark.parametrize(("samples", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_prompt_without_a_pair_is_counted_and_the_others_survive(
    pair: Any, samples: list[Sample], reason: str
) -> None:
    pairs, left_out = pair([*GOOD[:3], *samples, *GOOD[3:]])
    assert list(pairs.prompt_id) == ["b", "a"]
    assert left_out[["row", "prompt_id", "reason", "excerpt"]].to_dict("records") == [
        {"row": 4, "prompt_id": "x", "reason": reason, "excerpt": "Question x?"}
    ]


def test_an_empty_rejected_response_stays(pair: Any) -> None:
    pairs, _ = pair([("x", 0, "", 0.1, "stop"), ("x", 1, "one", 0.4, "stop")])
    assert (pairs.chosen[0], pairs.rejected[0]) == ("one", "")


def test_equal_scores_take_the_lowest_sample_whatever_the_order(pair: Any) -> None:
    samples = [("x", s, f"text {s}", score, "stop") for s, score in enumerate([0.1, 0.9, 0.9, 0.1])]
    for order in (samples, samples[::-1]):
        pairs, _ = pair(order)
        assert (pairs.chosen[0], pairs.rejected[0]) == ("text 1", "text 0")


def test_the_order_of_the_scores_does_not_matter(pair: Any, tmp_path: Path) -> None:
    assert pair(GOOD, GOOD[::-1])[0].equals(pair(GOOD)[0])
    first = (tmp_path / "preferences.parquet").read_bytes()
    pair(GOOD)
    assert (tmp_path / "preferences.parquet").read_bytes() == first


FAULTS: dict[str, tuple[list[Sample], list[Sample], str]] = {
    "no-score": (
        GOOD, GOOD[:-1],
        "{dir}/scores.parquet has nothing for 1 completion(s) of {dir}/completions.parquet, the first being sample 1 of "
        "prompt a; make the scores again from these completions.",
    ),
    "no-completion": (
        GOOD[2:], GOOD,
        "{dir}/completions.parquet has nothing for 2 score(s) of {dir}/scores.parquet, the first being sample 0 of "
        "prompt b; make the scores again from these completions.",
    ),
    "no-scores-at-all": (GOOD, [("z", 0, "", 0.0, "")], "{dir}/scores.parquet has nothing for 5 completion(s) of "),
    "infinite": (
        GOOD, [*GOOD[:-1], ("a", 1, "best", float("inf"), "stop")],
        "{dir}/scores.parquet: sample 1 of prompt a has the score inf; score again.",
    ),
    "score-twice": (GOOD, [*GOOD, GOOD[0]], "{dir}/scores.parquet holds sample 0 of prompt b twice."),
    "completion-twice": ([*GOOD, GOOD[0]], GOOD, "{dir}/completions.parquet holds sample 0 of prompt b twice."),
    "no-pair": (
        [(p, s, text, 0.0, end) for p, s, text, _, end in GOOD], [(p, s, text, 0.0, end) for p, s, text, _, end in GOOD],
        "{dir}/completions.parquet gives no preference pair: 2 x the best and worst scores tie.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("samples", "scored", "message"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_join_is_one_sentence(
    pair: Any, tmp_path: Path, samples: list[Sample], scored: list[Sample], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        pair(samples, scored)
    assert str(caught.value).startswith(message.format(dir=tmp_path))
    assert not (tmp_path / "preferences.parquet").exists()


def test_completions_of_several_epochs_are_refused(pair: Any) -> None:
    with pytest.raises(
        UserError, match="holds completions of several epochs or benchmarks; pairs need those of one policy"
    ):
        pair(GOOD, epochs=(0, 0, 0, 1, 1))


@pytest.mark.parametrize("group", [7, 1000])
def test_pairs_of_random_scores_are_those_of_a_plain_loop(
    pair: Any, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ties among best and worst, equal texts, empty and cut completions, samples in any order."""
    monkeypatch.setattr(artifacts, "GROUP", group)
    rng = random.Random(4)
    samples: list[Sample] = [
        (f"p{prompt}", sample, rng.choice(["", "one", "two", f"text {sample}"]), float(rng.randint(0, 4)),
         rng.choice(["stop", "length"]))
        for prompt in range(60) for sample in range(rng.randint(1, 5))
    ]  # fmt: skip
    rng.shuffle(samples)
    expected, dropped = [], []
    for prompt in dict.fromkeys(sample[0] for sample in samples):
        mine = sorted((sample for sample in samples if sample[0] == prompt), key=lambda sample: sample[1])
        best, worst = mine[0], mine[0]
        for one in mine:
            best = one if one[3] > best[3] else best
            worst = one if one[3] < worst[3] else worst
        if best[3] == worst[3] or best[2].strip() in ("", worst[2].strip()):
            dropped.append(prompt)
        else:
            expected.append((prompt, best[2], worst[2], best[3], worst[3], best[4] == "length", worst[4] == "length"))
    assert len(expected) > 10
    assert len(dropped) > 10
    pairs, left_out = pair(samples)
    assert list(pairs.drop(columns="messages").itertuples(index=False, name=None)) == expected
    assert [m[0]["content"] for m in pairs.messages] == [f"Question {row[0]}?" for row in expected]
    assert left_out.prompt_id.tolist() == dropped
