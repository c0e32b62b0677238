"""Files of the public tools: read, rated and written back; prompts; published ratings as anchors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.loopback import LoopbackJudge
from diffinfo.bench import arena_hard, exchange, prompts, questions, wildbench
from diffinfo.bench.endpoint import Endpoint
from diffinfo.bench.questions import answered
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Anchors
from diffinfo.config.benchmarks import WildBench as WildBenchConfig
from diffinfo.report.elo import rated
from diffinfo.tables import artifacts


def score_file(path: Path, model: str, scores: list[int], outputs: list[str]) -> Path:
    """As batch_results_format.py of WildBench writes it."""
    rows = [
        {
            "session_id": f"w{i}",
            "parsed_result": {"strengths": "é", "weaknesses": "w", "score": str(score)},
            "meta_data": {"batch_req_id": f"b{i}", "usage": {"prompt_tokens": 9}, "error": None},
            "model_test": model,
            "score": str(score),
            "model_output": output,
        }
        for i, (score, output) in enumerate(zip(scores, outputs, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2))
    return path


def test_a_score_file_read_rated_and_written_back_is_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = {}
    for model in ("one", "two", "three"):
        path = score_file(tmp_path / f"{model}.json", model, rng.integers(1, 11, 30).tolist(), ["text "] * 29 + [""])
        frames[model] = exchange.read_scores(path)
        exchange.write_scores(frames[model], tmp_path / "back.json")
        assert (tmp_path / "back.json").read_bytes() == path.read_bytes()
    found = wildbench.elo(pd.concat(frames.values())[["model", "prompt_id", "score", "chars"]], {}, rounds=8)
    assert found["battles"].tolist() == [2 * 29] * 3  # an empty answer does not vote
    assert found["elo"].mean() == pytest.approx(1000)


def test_published_ratings_are_anchors(tmp_path: Path) -> None:
    """Of models with a file of scores; what WildBench cut by its own limit does not vote, and anchors play not each other."""
    for model, scores in {"strong": [9, 9, 9, 9], "weak@together": [2, 2, 2, 2], "new": [9, 2, 9, 2]}.items():
        score_file(tmp_path / f"scores/{model}.json", model, scores, ["a", "b", "c", "d... (truncated)"])
    ratings = {
        "strong": {"elo": 1250},
        "weak": {"elo": "1050"},
        "new": {"elo": "-"},
        "absent": {"elo": 900},
        "other": {},
    }
    (tmp_path / "stat.json").write_text(json.dumps(ratings))
    of = Anchors(ratings=str(tmp_path / "stat.json"), key="elo", scores=str(tmp_path / "scores"))
    initial, public = exchange.anchors(of)
    assert initial == {"strong": 1250.0, "weak": 1050.0}
    assert public.groupby("model").size().to_dict() == {"new": 3, "strong": 3, "weak": 3}
    table = pd.DataFrame({"prompt_id": ["w0", "w1", "w2", "w3"], "score": [9.0, 9.0, 9.0, 9.0], "chars": 1})
    config = {"judge": "j", "rounds": 4, "win_margin": 2.0}
    alone = rated({("m", "d", "dpo-b0.1"): table}, WildBenchConfig(**config))
    assert alone.loc["m/d/dpo-b0.1", "battles"] == 0
    found = rated({("m", "d", "dpo-b0.1"): table}, WildBenchConfig(**config, anchors=of))
    assert found["battles"].to_dict() == {"m/d/dpo-b0.1": 9, "new": 9, "strong": 6, "weak": 6}
    assert found.elo["strong"] > 1200 > found.elo["m/d/dpo-b0.1"] > 1000 > 900
    with pytest.raises(UserError, match=r"no model has both a rating 'none' in .*stat.json and a score file"):
        exchange.anchors(of.model_copy(update={"key": "none"}))


def test_a_judgment_file_read_rated_and_written_back_is_the_same(tmp_path: Path) -> None:
    """Labels that are written the other way round mean the same; ``show_result.py``'s weights, by a plain loop."""
    labels = [("A>>B", "B>A"), ("A=B", "A=B"), ("B<<A", "A<B"), ("B>A", "A>>B"), (None, "A>B")]
    rows = [
        {
            "uid": f"q{i}", "category": "arena-hard-v0.1", "judge": "j", "model": "m", "baseline": "gpt-4-0314",
            "games": [{"score": label, "judgment": {"answer": f"é [[{label}]]"}, "prompt": []} for label in pair],
        }
        for i, pair in enumerate(labels)
    ]  # fmt: skip
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    games = exchange.read_games(path)
    exchange.write_games(games, tmp_path / "back.jsonl")
    assert (tmp_path / "back.jsonl").read_bytes() == path.read_bytes()
    path.write_text(json.dumps({"question_id": 0} | {k: v for k, v in rows[0].items() if k != "uid"}))
    assert set(exchange.read_games(path)["prompt_id"]) == {"0"}
    weights = {"A>>B": [1] * 3, "A>B": [1], "A=B": [0.5], "B>A": [0], "B>>A": [0] * 3, "A<B": [0], "B<<A": [1] * 3}
    won = []
    for row in rows:
        first, second = (game["score"] for game in row["games"])
        won += [1 - w for w in weights[first]] if first else []
        won += weights[second] if second else []
    assert arena_hard.win_rate(arena_hard.battles(games)) == pytest.approx(100 * np.mean(won))


def test_our_answers_and_judgments_in_the_public_files(
    loopback: LoopbackJudge, questions: Path, tasks: Path, write_answers: Any, tmp_path: Path
) -> None:
    loopback.reply = lambda body, number: (
        '{"strengths": "s", "weaknesses": "w", "score": 7}' if "expert evaluator" in str(body) else "[[A>B]]"
    )
    for module, table, texts, name in (
        (arena_hard, questions, {f"q{i}": f"answer {i}" for i in range(4)}, "arena-hard"),
        (wildbench, tasks, {"w0": "answer 0", "w1": "", "w2": "answer 2"}, "wildbench"),
    ):
        written = write_answers(f"{name}-answers", {1: texts}, name)
        judged = tmp_path / f"{name}.judgments.parquet"
        found = answered([written], artifacts.read(table, "benchmark"))
        artifacts.write(
            judged,
            module.judge_answers(found, Endpoint(loopback.config(), tmp_path / "s", "j"), "loopback"),
            "judgments",
        )
        facts = {"completions": [written], "benchmark": table, "epoch": 1, "model": "ours"}
        exchange.answers(**facts, out=tmp_path / f"{name}.answers")
        exchange.judgments(**facts, judgments=judged, out=tmp_path / f"{name}.judgments")
        with pytest.raises(UserError, match="no judgments of epoch 2"):
            exchange.judgments(**facts | {"epoch": 2}, judgments=judged, out=tmp_path / "none")
    answers = [json.loads(line) for line in (tmp_path / "arena-hard.answers").read_text().splitlines()]
    assert {row["uid"]: row["messages"][-1]["content"]["answer"] for row in answers} == {
        f"q{i}": f"answer {i}" for i in range(4)
    }
    assert answers[0]["model"] == "ours"
    games = exchange.read_games(tmp_path / "arena-hard.judgments")
    assert games["verdict"].tolist() == ["A>B"] * 8
    outputs = json.loads((tmp_path / "wildbench.answers").read_text())
    assert {row["session_id"]: row["output"] for row in outputs} == {"w0": ["answer 0"], "w1": [""], "w2": ["answer 2"]}
    scores = exchange.read_scores(tmp_path / "wildbench.judgments")
    assert scores[["prompt_id", "score", "chars"]].to_numpy().tolist() == [["w0", 7, 8], ["w1", 1, 0], ["w2", 7, 8]]
    assert scores["row"][0]["parsed_result"] == {"strengths": "s", "weaknesses": "w", "score": "7"}


@pytest.mark.parametrize("name", ["arena-hard", "wildbench"])
def test_answers_of_any_model_are_read_and_written_back(
    questions: Path, tasks: Path, words: Path, tmp_path: Path, name: str
) -> None:
    """With the length that a plain count of words gives; what was not asked is left out."""
    arena = name == "arena-hard"
    table, ids = (questions, ["q0", "q2"]) if arena else (tasks, ["w0", "w1"])
    texts = dict(zip(ids, ("a b c", "" if not arena else "d e"), strict=True))
    file, out = tmp_path / "theirs", tmp_path / "completions.parquet"
    if arena:
        old = {"question_id": "q2", "choices": [{"index": 0, "turns": [{"content": "d e"}]}]}
        new = {"uid": "q0", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a b c"}]}
        file.write_text("\n".join(map(json.dumps, [old, new, {**new, "uid": "elsewhere"}])))
    else:
        file.write_text(json.dumps([{"session_id": k, "output": [v]} for k, v in [*texts.items(), ("elsewhere", "x")]]))
    exchange.completions(answers=file, benchmark=table, tokenizer=words, out=out)
    found = answered([out], artifacts.read(table, "benchmark")).set_index("prompt_id")
    assert found["completion"].to_dict() == texts
    assert found["tokens"].to_dict() == {key: len(said.split()) for key, said in texts.items()}
    assert not found["truncated"].any()
    exchange.answers(completions=[out], benchmark=table, epoch=1, model="theirs", out=tmp_path / "back")
    exchange.completions(answers=tmp_path / "back", benchmark=table, tokenizer=words, out=tmp_path / "again.parquet")
    again = artifacts.read(tmp_path / "again.parquet", "completions").set_index("prompt_id")["completion"]
    assert again.to_dict() == texts
    if not arena:
        file.write_text(json.dumps([{"session_id": "w0", "output": "a whole text"}]))
        exchange.completions(answers=file, benchmark=table, tokenizer=words, out=out)
        assert artifacts.read(out, "completions")["completion"].tolist() == ["a whole text"]
    for bad in ([{"session_id": "w0"}], [{"session_id": "elsewhere", "output": ["x"]}]):
        file.write_text(json.dumps(bad[0] if arena else bad))
        with pytest.raises(UserError, match=r"row 1 holds no answer|answers none of the"):
            exchange.completions(answers=file, benchmark=table, tokenizer=words, out=out)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("wildbench", [{"session_id": "w0", "output": [None]}], "row 1 holds no answer: output is null, not text"),
        ("wildbench", [{"session_id": ["w0"], "output": ["a"]}], "session_id is a list, not text"),
        ("wildbench", {"w0": "a"}, "must hold a list of answers, it holds a mapping"),
        ("wildbench", [{"session_id": "w0", "output": "a"}, {"session_id": "w0", "output": ["b"]}], "row 2 .* answers w0"),
        ("arena-hard", [["q0", "a"]], "row 1 holds no answer: it is a list, not a mapping"),
        ("arena-hard", [{"uid": "q0", "messages": [{"content": text}]} for text in "ab"], "row 2 .* answers q0 otherwise"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_answer_is_a_sentence(
    questions: Path, tasks: Path, words: Path, tmp_path: Path, name: str, rows: Any, said: str
) -> None:
    arena, file = name == "arena-hard", tmp_path / "theirs"
    file.write_text("\n".join(map(json.dumps, rows)) if arena else json.dumps(rows))
    at = {"benchmark": questions if arena else tasks, "tokenizer": words, "out": tmp_path / "completions.parquet"}
    with pytest.raises(UserError, match=said):
        exchange.completions(answers=file, **at)
    if not arena and "answers w0" in said:  # the same twice is one
        file.write_text(json.dumps(rows[:1] * 2))
        exchange.completions(answers=file, **at)
        assert artifacts.read(at["out"], "completions")["completion"].tolist() == ["a"]


ARENA = {
    "system_prompt": "Judge {both}.\nEnd with a label.",
    "prompt_template": ["<|User Prompt|>\n{question_1}\n\n<|A|>\n{answer_1}\n\n<|B|>\n{answer_2}<|The End|>"],
}
GRADE = """History:
{$history}
Query: {$user_query}
Response: {$model_output}
Checklist:
{$checklist}
{"score": "[1~10]"}"""


def test_the_published_prompts_from_the_users_copies(
    loopback: LoopbackJudge, public: tuple[Path, Path], write_answers: Any, tmp_path: Path
) -> None:
    """As the original fills them in; a text that looks like a place is a text."""
    loopback.reply = lambda body, number: '[[A>B]] {"score": 7}'
    arena, graded = public
    config = loopback.config(concurrency=1)
    for module, table, name, epoch in ((arena_hard, arena, "q0", "arena-hard"), (wildbench, graded, "w0", "wildbench")):
        ours = prompts.VERDICT if module is arena_hard else prompts.GRADE
        written = write_answers(f"{epoch}-answers", {1: {name: "my {answer_2} {$checklist}"}}, epoch)
        found = answered([written], artifacts.read(table, "benchmark"))
        module.judge_answers(found, Endpoint(config, tmp_path / "s", "j"), "loopback", prompts.of(table, ours))
    first, second, third = (body["messages"] for body in loopback.bodies)
    assert first[0] == {"role": "system", "content": ARENA["system_prompt"]}
    expected = "<|User Prompt|>\nask {x}\n\n<|A|>\nbase\n\n<|B|>\nmy {answer_2} {$checklist}<|The End|>"
    assert first[1] == {"role": "user", "content": expected}
    assert (
        second[1]["content"]
        == "<|User Prompt|>\nask {x}\n\n<|A|>\nmy {answer_2} {$checklist}\n\n<|B|>\nbase<|The End|>"
    )
    texts = {
        "{$history}": "USER: first\n\nASSISTANT: second\n\n",
        "{$user_query}": "third",
        "{$checklist}": "- is it right ?\n- is it polite ?\n",
        "{$model_output}": "my {answer_2} {$checklist}",  # last: the original replaces one after the other
    }
    filled = GRADE
    for place, text in texts.items():
        filled = filled.replace(place, text)
    assert third == [{"role": "user", "content": filled}]


@pytest.fixture
def public(tmp_path: Path) -> tuple[Path, Path]:
    """A question and a task with the user's copies of the prompts."""
    files = {
        "judge_config.yaml": json.dumps(ARENA),
        "score.md": GRADE,
        "question.jsonl": json.dumps({"uid": "q0", "category": "arena-hard-v0.1", "cluster": "c", "prompt": "ask {x}"}),
        "baseline.jsonl": json.dumps({"uid": "q0", "messages": [{"role": "assistant", "content": {"answer": "base"}}]}),
        "tasks.jsonl": json.dumps(
            {
                "session_id": "w0", "primary_tag": "Math", "secondary_tags": [],
                "checklist": ["is it right ?", "is it polite ?"],
                "conversation_input": [
                    {"role": "system", "content": "zeroth"}, {"role": "user", "content": "first"},
                    {"role": "assistant", "content": "second"}, {"role": "user", "content": "third"},
                ],
            }
        ),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    at = {"out": tmp_path / "arena.parquet", "quarantine": tmp_path / "bad.parquet"}
    questions.arena_hard(
        questions=str(tmp_path / "question.jsonl"), baseline=str(tmp_path / "baseline.jsonl"),
        prompt=str(tmp_path / "judge_config.yaml"), **at,
    )  # fmt: skip
    graded = at | {"out": tmp_path / "graded.parquet"}
    questions.wildbench(tasks=str(tmp_path / "tasks.jsonl"), prompt=str(tmp_path / "score.md"), **graded)
    return at["out"], graded["out"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("regex_pattern: x", "holds no system_prompt"),
        ("system_prompt: x\nprompt_template: ['{question_1} {answer_1}']", r"has no place for \{ANSWER_B\}"),
        ("[", "is not YAML"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_no_prompt(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "prompt.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        prompts.verdict(str(file))
    with pytest.raises(UserError, match=r"has no place for|does not exist"):
        prompts.grade(str(file))


def test_scores_that_are_none_do_not_vote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As of a judge's replies; a file of another scale ends in a sentence, before it moves a rating."""
    file = score_file(tmp_path / "m.json", "m", [85, 6, 7, 8], ["a", "b", "c", "d"])
    scores = exchange.read_scores(file)
    assert scores["score"].fillna(0).tolist() == [0, 6, 7, 8]
    assert "1 of 4 rows have no score from 1 to 10, such as w0 with '85'; they do not vote" in caplog.text
    mine = pd.DataFrame({"model": "mine", "prompt_id": [f"w{i}" for i in range(4)], "score": 1.0, "chars": 1})
    assert wildbench.elo(pd.concat([scores, mine]), {}, rounds=2)["battles"].tolist() == [3, 3]
    for bad in (0, 11, -3, "nan", "N/A"):
        rows = [row | {"score": bad} for row in json.loads(file.read_text())[:2]] + json.loads(file.read_text())[2:]
        (tmp_path / "bad.json").write_text(json.dumps(rows))
        with pytest.raises(
            UserError, match=rf"bad\.json: 2 of 4 rows have no score from 1 to 10, such as w0 with '?{bad}"
        ):
            exchange.read_scores(tmp_path / "bad.json")
    rows = json.loads(file.read_text())[1:]
    file.write_text(json.dumps([*rows, rows[0]]))
    assert len(exchange.read_scores(file)) == 3
    file.write_text(json.dumps([*rows, rows[0] | {"score": "9"}]))
    with pytest.raises(UserError, match=r"m\.json grades w1 twice"):
        exchange.read_scores(file)


@pytest.mark.parametrize("rows", ["[]", "{}", '[{"session_id": "a", "score": "x", "model_output": "b"}]', "no"])
def test_a_file_that_is_no_score_file(tmp_path: Path, rows: str) -> None:
    (tmp_path / "m.json").write_text(rows)
    with pytest.raises(UserError, match=r"m\.json"):
        exchange.read_scores(tmp_path / "m.json")
