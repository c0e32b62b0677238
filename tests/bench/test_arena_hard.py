"""Arena-Hard: verdicts, Bradley-Terry, bootstrap, and the stage itself against a judge over HTTP."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from diffinfo.bench import arena_hard as module
from diffinfo.bench import questions as benchmarks
from diffinfo.bench.arena_hard import battles, best_epoch, bootstrap, verdict, win_rate
from diffinfo.bench.judge import RewardModel
from diffinfo.bench.questions import answered
from diffinfo.bench.replies import Reply
from diffinfo.cli import UserError
from diffinfo.selection import halves
from diffinfo.tables import artifacts

OUTCOME = st.sampled_from([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("My final verdict is tie: [[A=B]]", "A=B"),
        ("[[A>>B]]", "A>>B"),
        ("first [[B>A]] and again [[B>A]]", "B>A"),
        ("[[A>B]] or [[B>A]]", None),
        ("[[A>B]] or [[A>>B]]", None),
        ("[[[B>>A]]]", "B>>A"),
        ("[A>B]", None),
        ("[[A > B]]", "A>B"),
        ("[[a>b]]", "A>B"),
        ("[[ a >> b ]] so **[[A>>B]]**", "A>>B"),
        ("In R, `x[[a]]` is right. My final verdict is [[A>B]]", "A>B"),
        ("A's `x[[A]]` is wrong: [[B>A]]", "B>A"),
        ("`if [[ a = b ]]` is wrong: [[B>A]]", "B>A"),
        ("Answer A tests `[[ a > b ]]`, which compares text; B is wrong.", None),
        ("A's `x[[a>b]]` is right.", None),
        ("[[A > B]] or [[a]]", "A>B"),
        ("[[A>B]] or [[A<B]]", None),
        ("[[**B>A**]]", "B>A"),
        ("[ [A=B] ]", "A=B"),
        (r"\[\[A>B\]\]", "A>B"),
        ("[[A&gt;B]]", "A>B"),
        ("［［Ａ＞Ｂ］］", "A>B"),
        ("[[A > B]] or [[b>a]]", None),
        ("[[A>B>A]]", None),
        ("[[A<B]]", None),  # none of the five: the original gives it no weight
        ("[[A]]", None),
        ("[[]]", None),
        ("", None),
        ("**[[B>A]]**\n" * 3, "B>A"),
    ],
)
def test_verdict(reply: str, label: str | None) -> None:
    assert verdict(reply) == label


@pytest.mark.parametrize("reply", ["A's `[[ a > b ]]` compares text", "x[[A]] and y[[b]]", "[[a<b]]", "[[]]"])
def test_code_is_no_label_so_that_the_judge_is_asked_once_more(reply: str) -> None:
    assert module.labels(reply) == set()
    assert module.unread(reply) == "no label"
    assert verdict(f"{reply}\n[[B>A]]") == "B>A"


def games(*labels: str | None) -> pd.DataFrame:
    """Game 1 and 2 of one question after another."""
    return pd.DataFrame(
        {
            "prompt_id": [f"q{i // 2}" for i in range(len(labels))],
            "game": [i % 2 + 1 for i in range(len(labels))],
            "verdict": list(labels),
        }
    )


def bradley_terry(outcomes):
    """Arena-Hard's rating against the baseline, held at 1000: unpenalised logistic regression, a tie half a win each."""
    won = outcomes.sum()
    model = LogisticRegression(C=math.inf, fit_intercept=False, tol=1e-10)
    model.fit([[math.log(10)]] * 2, [1, 0], sample_weight=[won, len(outcomes) - won])
    return 400 * float(model.coef_[0, 0]) + 1000


def percentile(values: list[float], share: float) -> float:
    """By its definition: linear between the two nearest of the sorted values."""
    ordered, place = sorted(values), share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def test_lengths_count_no_special_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert module.token_ids(tmp_path, {"a": "one two three", "b": ""}) == {"a": [0, 0, 0], "b": []}


def test_best_epoch_is_the_first_of_equals() -> None:
    def table(**rates: float) -> pd.DataFrame:
        return pd.DataFrame({"epoch": [int(key[1:]) for key in rates], "win_rate": list(rates.values())})

    assert best_epoch([table(e4=30.0, e5=41.0), table(e1=20.0, e2=41.0, e3=40.0)]) == 2


def stage(
    loopback: Any, answers: list[Path], questions: Path, words: Path, at: Path, **more: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    ways = {"judgments": at / "judgments.parquet", "winrates": at / "winrates.parquet"}
    judge = more.pop("judge", None) or loopback.config(concurrency=4)
    settings = {key: more.pop(key) for key in ("bootstrap", "seed", "scoring") if key in more}
    module.main(
        answers=answers, questions=questions, settings=module.Settings(judge=judge, **settings), cache=at / "cache",
        tokenizer=words, **ways, **more,
    )  # fmt: skip
    return artifacts.read(ways["judgments"], "judgments"), artifacts.read(ways["winrates"], "winrates")


def sides(body: dict[str, Any]) -> tuple[str, str]:
    """What an endpoint was shown as A and B."""
    text = body["messages"][1]["content"]
    return tuple(  # type: ignore[return-value]
        text.split(f"Assistant {side}'s Answer|>\n")[1].split("\n<|The End")[0] for side in "AB"
    )


def test_stage_over_http(loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], number: int) -> str:
        a, b = sides(body)
        turns = len(body["messages"])
        if "silent" in a + b:  # no label at first; the follow-up gets one when the answer is A
            return "[[A>B]]" if turns == 4 and "silent" in a else "I would rather not say"
        if "torn" in a + b:
            return "[[A>B]] no, [[B>A]]"
        return "[[A>>B]]" if "strong" in a else "[[B>>A]]" if "strong" in b else "[[A=B]]"

    loopback.reply = reply
    answers = {"q0": "a strong answer", "q1": "torn", "q2": "silent", "q3": "{even}"}
    epochs = write_answers("1-2", {1: answers, 2: dict.fromkeys(answers, "plain")})
    judged, rates = stage(loopback, [epochs], questions, words, tmp_path)

    first = judged[judged.epoch == 1].set_index(["prompt_id", "game"])
    assert first.verdict.fillna("none").to_dict() == {
        ("q0", 1): "B>>A", ("q0", 2): "A>>B", ("q1", 1): "none", ("q1", 2): "none",
        ("q2", 1): "none", ("q2", 2): "A>B", ("q3", 1): "A=B", ("q3", 2): "A=B",
    }  # fmt: skip
    assert first.reply[("q2", 2)] == "I would rather not say\n[[A>B]]"
    assert first.judge.unique().tolist() == ["loopback"]
    rates = rates.set_index("epoch")
    assert rates.win_rate[1] == pytest.approx(100 * (6 + 1 + 2 * 0.5) / 9, abs=1e-6)
    assert rates.win_rate[2] == pytest.approx(50)
    assert rates.low[1] < rates.win_rate[1] < rates.high[1]
    assert rates.games.tolist() == [8, 8]
    assert rates.unscored.tolist() == [3, 0]
    assert rates.mean_tokens.tolist() == [(3 + 1 + 1 + 1) / 4, 1]
    assert rates.baseline_mean_tokens.tolist() == [3, 3]

    begun = [body for body in loopback.bodies if len(body["messages"]) == 2]
    assert {sides(body) for body in begun} >= {
        ("baseline answer 0", "a strong answer"),
        ("a strong answer", "baseline answer 0"),
        ("baseline answer 3", "{even}"),
    }
    assert "question 0 {x}" in "".join(body["messages"][1]["content"] for body in begun)
    assert all(body["temperature"] == 0 and body["max_tokens"] == 4096 for body in loopback.bodies)
    follow_ups = [body["messages"] for body in loopback.bodies if len(body["messages"]) == 4]
    assert len(follow_ups) == 2
    assert [turn["role"] for turn in follow_ups[0]] == ["system", "user", "assistant", "user"]
    assert follow_ups[0][2]["content"] == "I would rather not say"
    one = stage(loopback, [epochs], questions, words, tmp_path / "one", bootstrap=1)[1]
    assert (one.low == one.high).all()  # of a single resample


def test_a_reply_that_was_cut_is_asked_to_go_on(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    """Its label is not the last word: the follow-up must not differ from it, nor be cut itself."""
    second = {"q0": "[[A>B]]", "q1": "[[B>A]]", "q2": ("so [[A>B]] it", "length"), "q3": "[[A>B]]"}

    def reply(body: dict[str, Any], number: int) -> Any:
        question = f"q{body['messages'][1]['content'].split('question ')[1][0]}"
        if len(body["messages"]) == 4:
            return second[question]
        return ("thinking" if question == "q3" else "it seems [[A>B]], but", "length")

    loopback.reply = reply
    answers = write_answers("1-1", {1: dict.fromkeys(second, "answer")})
    for _ in range(2):
        judge = loopback.config(max_unjudged=0.5)
        judged, rates = stage(loopback, [answers], questions, words, tmp_path, judge=judge)
        got = judged.drop_duplicates("prompt_id").set_index("prompt_id").verdict.fillna("none")
        assert got.to_dict() == {"q0": "A>B", "q1": "none", "q2": "none", "q3": "A>B"}
        assert rates.unscored.tolist() == [4]
        assert judged.unjudged.value_counts().to_dict() == {"different labels": 2, "cut by length": 2}
        assert len(loopback.bodies) == 16  # each was paid once
    assert verdict(Reply("[[A>B]]", "length")) is None


def test_final_mode_judges_the_best_epoch_alone(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    loopback.reply = lambda body, number: (
        "[[A>B]]" if "good" in sides(body)[0] else "[[B>A]]" if "good" in sides(body)[1] else "[[A=B]]"
    )
    first = write_answers("1-1", {1: {"q0": "plain", "q1": "plain"}})
    second = write_answers("2-3", {2: {"q0": "good", "q1": "plain"}, 3: {"q0": "plain", "q1": "poor"}})
    select = []
    for name, table in (("one", first), ("two", second)):
        stage(loopback, [table], questions, words, tmp_path / name)
        select.append(tmp_path / name / "winrates.parquet")
    before = len(loopback.bodies)
    final = loopback.config(max_tokens=99)
    judged, rates = stage(loopback, [first, second], questions, words, tmp_path / "final", select=select, judge=final)
    assert judged.epoch.unique().tolist() == rates.epoch.tolist() == [2]
    assert len(loopback.bodies) - before == 4
    assert artifacts.provenance(tmp_path / "final" / "winrates.parquet")["unanswered"] == {"2": 2}


def test_each_half_of_the_questions_is_judged_where_the_other_half_is_best(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    half = halves(f"q{i}" for i in range(4))
    one, two = ([q for q in half.index if half[q] == side] for side in (0, 1))
    texts = {  # the first half is best at epoch 3, the second at epoch 2, all of them at epoch 2
        1: dict.fromkeys(half.index, "plain"),
        2: dict.fromkeys(two, "good") | {one[0]: "good", one[1]: "poor"},
        3: dict.fromkeys(one, "good") | dict.fromkeys(two, "poor"),
    }
    worth = {"poor": 0, "baseline": 1, "plain": 1, "good": 2}

    def reply(body: dict[str, Any], number: int) -> str:
        a, b = (worth[side.split()[0]] for side in sides(body))
        return "[[A>B]]" if a > b else "[[B>A]]" if b > a else "[[A=B]]"

    loopback.reply = reply
    spans = [write_answers("1-2", {e: texts[e] for e in (1, 2)}), write_answers("3-3", {3: texts[3]})]
    of_span = [tmp_path / name for name in ("one", "two")]
    for answers, at in zip(spans, of_span, strict=True):
        stage(loopback, [answers], questions, words, at)
    before = len(loopback.bodies)
    judged, rates = stage(
        loopback, spans, questions, words, tmp_path / "final", judge=loopback.config(max_tokens=99),
        select=[at / "winrates.parquet" for at in of_span], verdicts=[at / "judgments.parquet" for at in of_span],
        apart=tmp_path / "final" / "apart.parquet",
    )  # fmt: skip
    assert judged.epoch.tolist() == [2] * 8
    assert rates.win_rate.tolist() == [100 * 3 / 4]  # the paper's way
    assert not judged.apart.any()
    apart = artifacts.read(tmp_path / "final" / "apart.parquet", "judgments")
    at = apart.drop_duplicates("prompt_id").set_index("prompt_id").epoch.to_dict()
    assert at == dict.fromkeys(one, 2) | dict.fromkeys(two, 3)
    assert (len(apart), apart.apart.all()) == (8, True)
    assert win_rate(battles(apart)) == 25  # one question of the first half is won
    # paid: all questions at epoch 2, and of epoch 3 the second half alone
    assert len(loopback.bodies) - before == 8 + 4
    shared = judged.merge(apart, on=["epoch", "prompt_id", "game"])
    assert len(shared) == 4
    assert (shared.reply_x == shared.reply_y).all()
    made = artifacts.provenance(tmp_path / "final" / "apart.parquet")["inputs"]
    assert {"select 0", "verdicts 1"} <= set(made)


def test_epochs_apart_are_the_first_of_equals_and_need_a_verdict() -> None:
    half = pd.Series({"q0": 0, "q1": 1})
    table = pd.concat([games("B>A", "A>B", "A>B", "B>A").assign(epoch=epoch) for epoch in (2, 1)])
    assert module.apart_epochs(table, half) == {0: 1, 1: 1}
    table.loc[(table.prompt_id == "q1") & (table.epoch == 1), "verdict"] = None
    assert module.apart_epochs(table, half) == {0: 2, 1: 1}
    assert module.apart_epochs(games("A>B", "A>B").assign(epoch=1), half) == {1: 1}


def test_a_single_question_is_not_reported_apart(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    artifacts.write(questions, artifacts.read(questions, "benchmark")[:1], "benchmark")
    answers = write_answers("1-1", {1: {"q0": "a"}})
    stage(loopback, [answers], questions, words, tmp_path)
    found = {"select": [tmp_path / "winrates.parquet"], "verdicts": [tmp_path / "judgments.parquet"]}
    apart = tmp_path / "final" / "apart.parquet"
    judged, _ = stage(loopback, [answers], questions, words, tmp_path / "final", apart=apart, **found)
    assert (len(judged), len(artifacts.read(apart, "judgments"))) == (2, 0)


def test_judge_without_verdicts_is_an_error(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    loopback.reply = lambda body, number: "no idea"
    answers = [write_answers("a", {1: {"q0": "x"}})]
    with pytest.raises(
        UserError, match=r"no judgment on 2 of 2 answers \(2 no label\), more than .* max_unjudged = 0.25"
    ):
        stage(loopback, answers, questions, words, tmp_path)
    with pytest.raises(UserError, match="no verdict in any of 2 games of epoch 1"):
        stage(loopback, answers, questions, words, tmp_path, judge=loopback.config(max_unjudged=1))
    assert len(loopback.bodies) == 4  # each game was asked about once more


def test_identical_answers_and_biased_judges_give_half(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    asked = artifacts.read(questions, "benchmark")
    same = write_answers("same", {1: dict(zip(asked.prompt_id, asked.baseline, strict=True))})
    rewards = RewardModel(lambda talks: [float(len(str(talk)) % 7) for talk in talks])
    embedded = module.judge_answers(answered([same], asked), rewards, "embedded")
    assert set(embedded.verdict) == {"A=B"}
    assert win_rate(battles(embedded)) == pytest.approx(50)
    loopback.reply = lambda body, number: "[[A>>B]]"  # always the first
    _, rates = stage(loopback, [same], questions, words, tmp_path)
    assert rates.win_rate.tolist() == pytest.approx([50])


def test_real_questions_through_the_embedded_judge(tmp_path: Path, public_data: Path, write_answers: Any) -> None:
    table, real = tmp_path / "q.parquet", public_data / "arena-hard"
    benchmarks.arena_hard(
        questions=str(real / "question.3071ef9.jsonl"),
        baseline=str(real / "answer.gpt-4-0314.HEAD.jsonl"),
        out=table,
        quarantine=tmp_path / "bad.parquet",
    )
    asked = artifacts.read(table, "benchmark")
    cut = {row.prompt_id: row.baseline[:40] for row in asked.itertuples()}
    found = answered([write_answers("cut", {1: cut})], asked)
    likes_length = RewardModel(lambda talks: [float(len(talk[-1]["content"])) / 100 for talk in talks])
    judged = module.judge_answers(found, likes_length, "embedded")
    assert len(judged) == 10
    assert judged.verdict.notna().all()
    assert win_rate(battles(judged)) < 5
    itself = answered([write_answers("itself", {1: dict(zip(asked.prompt_id, asked.baseline, strict=True))})], asked)
    games = battles(module.judge_answers(itself, likes_length, "embedded"))
    assert win_rate(games) == pytest.approx(50, abs=1e-9)
    assert bootstrap(games, 100, 0) == pytest.approx((50, 50), abs=1e-9)


def test_killed_job_pays_only_for_the_rest_and_ends_with_the_same_bytes(
    loopback: Any, questions: Path, words: Path, write_answers: Any, tmp_path: Path
) -> None:
    answers = write_answers("1-1", {1: {f"q{i}": f"answer {i}" for i in range(4)}})
    held, reached, ready = 4, threading.Event(), threading.Event()

    def reply(body: dict[str, Any], number: int) -> str:
        if number == held and not ready.is_set():
            reached.set()
            ready.wait(60)
        return "[[A>B]]" if "answer 2" in sides(body)[0] else "[[A=B]]"

    loopback.reply = reply

    settings = module.Settings(judge=loopback.config(concurrency=1), bootstrap=10, seed=1)
    command = [
        sys.executable, "-m", "diffinfo.bench.arena_hard", "--answers", json.dumps([str(answers)]),
        "--questions", str(questions), "--settings", settings.model_dump_json(),
        "--cache", "cache", "--tokenizer", str(words),
        "--judgments", "judgments.parquet", "--winrates", "winrates.parquet",
    ]  # fmt: skip
    (tmp_path / "whole").mkdir()

    def run(at: Path) -> Any:
        return subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=True)

    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2])}
    killed = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    assert reached.wait(120)
    killed.kill()
    killed.communicate()
    ready.set()
    assert not (tmp_path / "winrates.parquet").exists()
    before = len(loopback.bodies)
    again = run(tmp_path)
    assert len(loopback.bodies) - before == 8 - (held - 1)  # three of eight had been paid
    whole = run(tmp_path / "whole")
    assert len(loopback.bodies) - before == 8 - (held - 1) + 8
    for name in ("judgments.parquet", "winrates.parquet"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    key = environment["JUDGE_KEY"]
    assert loopback.keys == {f"Bearer {key}"}
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert key.encode() not in file.read_bytes()
    assert key not in again.stderr + whole.stderr + again.stdout


def test_importing_the_benchmarks_needs_no_torch() -> None:
    code = "import sys, diffinfo.bench.wildbench; sys.exit('torch' in sys.modules or 'openai' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
