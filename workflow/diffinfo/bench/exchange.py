"""Answers, judgments and scores in the files of the public tools, so that people can move both ways.

``python -m diffinfo.bench.exchange answers`` and ``... judgments`` write what lmarena/arena-hard-auto (its ``uid`` schema) and
allenai/WildBench read; ``... completions`` reads any model's answers from there, to be judged here; the functions that read
their other files back are what anchors of WB-Elo come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.bench import wildbench
from diffinfo.bench.arena_hard import OUTCOMES, token_ids
from diffinfo.bench.questions import ARENA_HARD, answered, answers_by_id, arena_answer, row_id, wildbench_answer
from diffinfo.cli import UserError, log, run
from diffinfo.config.benchmarks import Anchors
from diffinfo.data.files import BadRow
from diffinfo.tables import artifacts

# arena-hard-auto reads labels the other way round as well
_TURNED = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}
_CATEGORIES = ("hard_prompt", "coding", "math", "creative_writing")  # of Arena-Hard v2
_MOST_UNREAD = 0.25  # as a judge's max_unjudged
_MARK = "... (truncated)"  # of WildBench's own word limit: such answers do not vote


def read_scores(path: Path) -> pd.DataFrame:
    """A score file of WildBench's.

    Returns:
        prompt_id, score (NaN where it is none from 1 to 10, as of a judge's replies), chars (stripped), model, marked (cut by
        the evaluator's word limit) and the ``row`` as it stands.

    Raises:
        UserError: when it is none, grades a task twice, or more than a quarter of its scores are none.
    """
    rows = _json(path)
    records = []
    for row in rows if isinstance(rows, list) else [rows]:
        try:
            output = row["model_output"]
            output = (output[0] if isinstance(output, list) else output).strip()
            score = wildbench.number(row["score"] if "score" in row else row["parsed_result"]["score"])
            records.append(
                {
                    "prompt_id": str(row["session_id"]),
                    "score": score,
                    "chars": len(output),
                    "model": row.get("model_test") or row.get("generator"),
                    "marked": output.endswith(_MARK),
                    "row": row,
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{path}: row {len(records)} is not one of WildBench's scores: {error!r}") from error
    if not records:
        raise UserError(f"{path} holds no scores.")
    scores = pd.DataFrame(records).astype({"score": float}).drop_duplicates(["prompt_id", "score", "chars"])
    if (twice := scores["prompt_id"].duplicated()).any():
        raise UserError(f"{path} grades {scores['prompt_id'][twice].iloc[0]} twice; remove one of its rows.")
    if (unread := scores[scores["score"].isna()]).size:
        first = unread["row"].iloc[0]
        facts = f"{path}: {len(unread)} of {len(scores)} rows have no score from 1 to 10, such as {unread['prompt_id'].iloc[0]}"
        facts += f" with {first.get('score', first.get('parsed_result'))!r}"
        if len(unread) > _MOST_UNREAD * len(scores):
            raise UserError(f"{facts}: more than a quarter, as on another scale; name a file of WildBench's scores.")
        log.warning("%s; they do not vote", facts)
    return scores


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write rows as ``read_scores`` gives them: the file that was read."""
    with artifacts.atomic(path) as temporary:
        temporary.write_text(json.dumps(scores["row"].tolist(), indent=2))


def anchors(of: Anchors) -> tuple[dict[str, float], pd.DataFrame]:
    """Published ratings, and the scores (model, prompt_id, score, chars) of all models of a folder of score files."""
    ratings = _json(Path(of.ratings))
    try:
        known = {name.replace("@together", ""): facts.get(of.key, "-") for name, facts in ratings.items()}
        initial = {name: float(rating) for name, rating in known.items() if rating != "-"}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{of.ratings} holds no ratings by model: {error}") from error
    files = sorted(Path(of.scores).glob("*.json"))
    parts = [read_scores(file).assign(model=file.stem.replace("@together", "")) for file in files]
    found = {part["model"].iloc[0] for part in parts}
    if not found & set(initial):
        raise UserError(
            f"wildbench.anchors: no model has both a rating '{of.key}' in {of.ratings} and a score file MODEL.json in "
            f"{of.scores}."
        )
    log.info("%d anchors of %d public models", len(found & set(initial)), len(found))
    scores = pd.concat(parts, ignore_index=True)
    scores = scores[~scores["marked"]][["model", "prompt_id", "score", "chars"]]
    return {name: rating for name, rating in initial.items() if name in found}, scores


def read_games(path: Path) -> pd.DataFrame:
    """A judgment file of Arena-Hard's: prompt_id, game (1: A is the baseline), verdict, reply, model, and the ``row``."""
    records = []
    for line in _lines(path):
        try:
            for game, played in enumerate(line["games"], 1):
                label = played and _TURNED.get(played["score"], played["score"])
                said = (played or {}).get("judgment")
                records.append(
                    {
                        "prompt_id": row_id(line, "uid", "question_id"),
                        "game": game,
                        "verdict": label if label in OUTCOMES else None,
                        "reply": said.get("answer", "") if isinstance(said, dict) else said or "",
                        "model": line["model"],
                        "row": line,
                    }
                )
        except (BadRow, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a judgment of Arena-Hard's: {error!r}") from error
    return pd.DataFrame(records)


def write_games(games: pd.DataFrame, path: Path) -> None:
    """Write rows as ``read_games`` gives them."""
    _write_lines(games.drop_duplicates("prompt_id")["row"].tolist(), path)


def answers(*, completions: list[Path], benchmark: Path, epoch: int, model: str, out: Path) -> None:
    """Write one epoch's answers for the public tools to judge: MODEL.jsonl of Arena-Hard's, MODEL.json of WildBench's.

    Args:
        completions: completions tables of the run's spans.
        benchmark: the questions.
        epoch: whose answers.
        model: what the model is called there.
        out: the file.
    """
    asked = artifacts.read(benchmark, "benchmark")
    rows = answered(completions, asked, only_epoch=epoch).to_dict("records")
    if asked["benchmark"].iloc[0] == ARENA_HARD:
        _write_lines([_arena_answer(row, model) for row in rows], out)
        return
    with artifacts.atomic(out) as temporary:
        temporary.write_text(json.dumps([_wildbench_answer(row, model) for row in rows], indent=2))


def _arena_answer(row: Mapping[Any, Any], model: str) -> dict[str, Any]:
    turns = [dict(turn) for turn in row["messages"]]
    said = {"role": "assistant", "content": {"answer": row["completion"]}}
    name = f"{model}-{row['epoch']}-{row['prompt_id']}"
    return {"uid": row["prompt_id"], "ans_id": name, "model": model, "messages": [*turns, said], "tstamp": 0.0}


def _wildbench_answer(row: Mapping[Any, Any], model: str) -> dict[str, Any]:
    return {
        "session_id": row["prompt_id"],
        "chat_history": [turn["content"] for turn in row["messages"]],
        "model_input": "",
        "output": [row["completion"]],
        "generator": model,
        "configs": {"temperature": 0},
        "dataset": "wild_bench",
    }


def completions(*, answers: Path, benchmark: Path, tokenizer: Path, out: Path) -> None:
    """Read answers in the public tools' files as a completions table of epoch 1, as ``answers`` writes them.

    Such files do not say which answers were cut by a limit, all count as whole, nor what their model gives them: logp is -inf.

    Args:
        answers: .jsonl of Arena-Hard's, in either schema, or .json of WildBench's.
        benchmark: the questions; answers to others are left out.
        tokenizer: a model folder, by whose tokenizer answers are measured.
        out: the table; ``diffinfo.bench.arena_hard`` and ``diffinfo.bench.wildbench`` judge it.

    Raises:
        UserError: where a row holds no answer, two differ on one question, or none of the questions is answered.
    """
    asked = artifacts.read(benchmark, "benchmark").set_index("prompt_id")
    name = asked["benchmark"].iloc[0]
    rows, parse = (_lines(answers), arena_answer) if name == ARENA_HARD else (_json(answers), wildbench_answer)
    found = answers_by_id(answers, rows, parse)
    texts = {prompt: answer for prompt, answer in found.items() if prompt in asked.index}
    if not texts:
        raise UserError(f"{answers} answers none of the {len(asked)} questions of {benchmark}.")
    ids = token_ids(tokenizer, texts)
    table = pd.DataFrame({"prompt_id": texts.keys(), "completion": texts.values()}).assign(
        benchmark=name, epoch=1, sample=0, logp=float("-inf"), finish_reason="stop",
        messages=[asked["messages"][prompt] for prompt in texts], prompt_token_ids=[[]] * len(texts),
        token_ids=[[*ids[prompt], -1] for prompt in texts],  # -1: the end of turn, which the file does not show
    )  # fmt: skip
    artifacts.write(out, table, "completions", inputs={"answers": answers, "benchmark": benchmark})
    log.info("%d of %d questions are answered", len(texts), len(asked))


def judgments(
    *,
    judgments: Path,
    completions: list[Path],
    benchmark: Path,
    epoch: int,
    model: str,
    out: Path,
    baseline: str = "gpt-4-0314",
) -> None:
    """Write one epoch's judgments for the public tools to rate.

    A question of Arena-Hard whose games have no verdict stays, with a score of null; a WildBench answer without a score has no
    row, as there.

    Args:
        judgments: the table.
        completions: completions tables of the run's spans.
        benchmark: the questions.
        epoch: whose answers.
        model: what the model is called there.
        out: the file: MODEL.jsonl of Arena-Hard's, MODEL.json of WildBench's.
        baseline: Arena-Hard's other side.
    """
    asked, found = artifacts.read(benchmark, "benchmark"), artifacts.read(judgments, "judgments")
    found = found[found["epoch"] == epoch]
    if found.empty:
        raise UserError(f"{judgments} holds no judgments of epoch {epoch}.")
    if asked["benchmark"].iloc[0] == ARENA_HARD:
        tags, lines = dict(zip(asked["prompt_id"], asked["tag"], strict=True)), []
        for name, games in found.groupby("prompt_id"):
            judge, tag = games["judge"].iloc[0], tags[name]
            category = tag if tag in _CATEGORIES else "arena-hard-v0.1"
            who = {"uid": name, "category": category, "judge": judge, "model": model, "baseline": baseline}
            played = [_game(game) for game in games.sort_values("game").to_dict("records")]
            lines.append(who | {"games": played})
        _write_lines(lines, out)
        return
    texts = answered(completions, asked, only_epoch=epoch).set_index("prompt_id")["completion"]
    rows = [
        _score(row, texts[row["prompt_id"]].strip(), model) for row in found.dropna(subset=["score"]).to_dict("records")
    ]
    write_scores(pd.DataFrame({"row": rows}), out)


def _game(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {"score": row["verdict"], "judgment": {"answer": row["reply"]}, "prompt": []}


def _score(row: Mapping[Any, Any], output: str, model: str) -> dict[str, Any]:
    said = (
        {"strengths": "N/A", "weaknesses": "The model output is empty."} if not output else wildbench.said(row["reply"])
    )
    score = f"{row['score']:g}"
    meta = {"usage": {"prompt_tokens": _whole(row["read"]), "completion_tokens": _whole(row["written"])}, "error": None}
    return {
        "session_id": row["prompt_id"],
        "parsed_result": {**said, "score": score},
        "meta_data": meta,
        "model_test": model,
        "score": score,
        "model_output": output,
    }


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in Path(path).read_bytes().splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _write_lines(rows: list[Any], path: Path) -> None:
    with artifacts.atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    run({"answers": answers, "completions": completions, "judgments": judgments})
