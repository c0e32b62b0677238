"""WildBench v2 (Tables 2 and 3): checklist-guided grades of single answers, WB-Score, and WB-Elo over a pool of models.

The procedure of allenai/WildBench at d6b8dca.

``python -m diffinfo.bench.wildbench``
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffinfo.bench import prompts, replies
from diffinfo.bench.arena_hard import selected
from diffinfo.bench.judge import make_judge, provenance
from diffinfo.bench.questions import TASK_OF_TAG, WILDBENCH, answered
from diffinfo.bench.replies import COSTS, Judge, Request, ask, costs, tolerate
from diffinfo.cli import UserError, log, run
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation, Section
from diffinfo.data.files import Messages
from diffinfo.tables import artifacts

WEIGHTS = {"creative": 0.5, "planning": 1.25, "maths": 1.0, "information": 0.75, "coding": 1.25}
K, SCALE, START = 4.0, 400.0, 1000.0
PULL = 100  # an anchor is pulled half-way back to its published rating at each 100th of its votes

# Not in the original, which drops what it cannot parse.
_FOLLOW_UP = (
    'Finish your evaluation: give the JSON object with "strengths", "weaknesses" and a "score" from 1 to 10 alone.'
)
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_OF_TEN = r"(?:\s*(?:/|out of)\s*10)?"
_NUMBER = rf"[\[*\s]*(-?\d+(?:\.\d+)?)[\]*\s]*{_OF_TEN}"
# a score, and perhaps a remark without another number: 8/10, [8], **8**, "8 (good)", eight
_SCORE_TEXT = re.compile(
    rf"(?:{_NUMBER}|\s*({'|'.join(_WORDS)})\b{_OF_TEN})[\]*\s]*(?:[(:,.;-](?!.*(?:\d|\b(?:{'|'.join(_WORDS)})\b)).*)?",
    re.I | re.S,
)


def grade(reply: str) -> float | None:
    """The score of a reply; None where it has none, see ``unread``.

    JSON is looked for anywhere in the text, after prose or in a code fence; where it is broken (quotes that are not
    escaped), the score's own field is, if something follows it: a reply that ends in "score": 1 may have been cut.
    """
    return None if unread(reply) else _scores(reply).pop()


def unread(reply: str) -> str | None:
    """Why a reply has no score from 1 to 10: see ``replies.unread``; None where it has one."""
    return replies.unread(reply, _scores(reply), "score")


def said(reply: str) -> dict[str, str]:
    """The strengths and weaknesses that a reply names; as a whole it is neither."""
    try:
        found = json.loads(reply[reply.index("{") : reply.rindex("}") + 1], strict=False)
    except ValueError:
        found = {}
    return {name: str(found.get(name, "")) for name in ("strengths", "weaknesses")}


def _scores(reply: str) -> set[float]:
    """The distinct scores from 1 to 10 in a reply."""
    return {score for score in map(number, fields(reply, "score")) if score is not None}


def fields(reply: str, name: str) -> list[Any]:
    """What a field is in the JSON of a reply; where that is broken, in what looks like the field, if something follows it."""
    broken = rf"""["']{name}["']\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([^"',}}\n]+)(?=[,}}\n]))"""
    return [*_fields(reply, name)] or ["".join(values) for values in re.findall(broken, reply, re.I)]


def _fields(reply: str, name: str) -> Iterator[Any]:
    # judges put bare line breaks into strings, and a key twice
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=tuple)
    start = reply.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(reply, start)
        except (json.JSONDecodeError, RecursionError):
            end = start + 1
        else:
            yield from (item for key, item in value if key.strip().casefold() == name)
        start = reply.find("{", end)


def number(value: Any) -> float | None:
    """The score from 1 to 10 that a field holds, as a number or as text; None where it holds none."""
    if isinstance(value, str) and (match := _SCORE_TEXT.fullmatch(value)):
        value = float(match[1] or _WORDS[match[2].lower()])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 1 <= value <= 10 else None


def judge_answers(
    answers: pd.DataFrame, judge: Judge, name: str, prompt: dict[str, str] = prompts.GRADE
) -> pd.DataFrame:
    """Grade every answer; an empty one gets 1 without asking.

    Args:
        answers: what ``questions.answered`` returns.
        judge: who grades.
        name: the judge's name in the table.
        prompt: what it is asked, see ``prompts.grade``.

    Returns:
        A ``judgments`` table, sorted by epoch and task; score is null where the reply was cut or could not be read.
    """
    frame = answers[["epoch", "prompt_id", "tokens", "chars", "truncated"]].assign(
        benchmark=WILDBENCH,
        game=1,
        judge=name,
        verdict=None,
        reply="",
        score=1.0,
        apart=False,
        **dict.fromkeys(["unjudged", *COSTS]),
    )
    full = answers["chars"] > 0
    requests = [_request(row, prompt) for row in answers[full].to_dict("records")]
    given = ask(judge, requests, "grading WildBench", lambda reply: not _scores(reply), _FOLLOW_UP) if requests else []
    found = {"reply": given, "unjudged": [*map(unread, given)], **costs(given)}
    for column, values in found.items():
        frame.loc[full, column] = pd.Series(values, index=frame.index[full], dtype=object)
    frame.loc[full, "score"] = pd.Series([grade(reply) for reply in given], index=frame.index[full], dtype=float)
    return frame.sort_values(["epoch", "prompt_id"], ignore_index=True)


def _request(row: Mapping[Any, Any], prompt: dict[str, str]) -> Request:
    asked = ask_about(row, prompt, {"{$model_output}": row["completion"]})
    reference = None if pd.isna(row["baseline"]) else row["baseline"]
    return Request("grade", asked, row["messages"], (row["completion"], reference))


def ask_about(row: Mapping[Any, Any], prompt: dict[str, str], answers: dict[str, str]) -> Messages:
    """The judge's conversation on a task, by placeholders of ``answers``."""
    *before, query = row["messages"]
    texts = {
        "{$history}": "".join(
            f"{turn['role'].upper()}: {turn['content']}\n\n" for turn in before if turn["role"] != "system"
        ),
        "{$user_query}": query["content"],
        "{$checklist}": "".join(f"- {item}\n" for item in row["checklist"]),
    }
    return [{"role": "user", "content": prompts.fill(prompt["user"], texts | answers)}]


def wb_score(judgments: pd.DataFrame, tags: Mapping[str, str]) -> dict[str, float]:
    """WB-Score of one policy: (mean - 5) * 2 of each task group, and their weighted mean as ``overall``.

    A task counts in the group of each of its tags. Groups without a graded task (the micro world has no planning) are
    left out of the weights, which with all groups sum to 4.75.

    Args:
        judgments: graded answers of one epoch; unreadable grades are left out, and empty answers, as in the original's table.
        tags: of each task, joined by "; ".
    """
    return by_group(judgments[judgments["chars"] > 0], tags, lambda mean: (mean - 5) * 2)


def by_group(judgments: pd.DataFrame, tags: Mapping[str, str], scale: Callable[[float], float]) -> dict[str, float]:
    """The mean score of each task group, as ``scale`` makes it, and their weighted mean: see ``wb_score``."""
    grades: dict[str, list[float]] = {}
    graded = judgments.dropna(subset=["score"])
    for task, score in zip(graded["prompt_id"], graded["score"], strict=True):
        for group in {TASK_OF_TAG[tag] for tag in tags[task].split("; ")}:
            grades.setdefault(group, []).append(score)
    scores = {group: scale(float(np.mean(values))) for group, values in sorted(grades.items())}
    if scores:
        weight = sum(WEIGHTS[group] for group in scores)
        scores["overall"] = sum(WEIGHTS[group] * score for group, score in scores.items()) / weight
    return scores


def votes(scores: pd.DataFrame, *, win_margin: float, length_margin: int) -> pd.DataFrame:
    """Virtual battles of every pair of models on every task both have a grade for.

    Args:
        scores: columns model, prompt_id, score, chars. Empty answers and those without a grade are skipped; answers that
            were cut by max_tokens vote, as in the original, which skips only what its own word limit cut.
        win_margin: a score difference of at least this is a win, a smaller one a tie.
        length_margin: a length difference of more characters forces a tie.

    Returns:
        Columns prompt_id, first, second (models in alphabetical order), outcome (1, 1/2 or 0, of the first), sorted by pair.
    """
    played = scores[(scores["chars"] > 0) & scores["score"].notna()]
    by_model = {str(model): part.set_index("prompt_id") for model, part in played.groupby("model")}
    parts = []
    for first, second in itertools.combinations(sorted(by_model), 2):
        both = by_model[first].join(by_model[second], rsuffix="_other", how="inner").sort_index()
        lead = both["score"] - both["score_other"]
        outcome = np.where(lead >= win_margin, 1.0, np.where(lead <= -win_margin, 0.0, 0.5))
        outcome[(both["chars"] - both["chars_other"]).abs() > length_margin] = 0.5
        parts.append(pd.DataFrame({"prompt_id": both.index, "first": first, "second": second, "outcome": outcome}))
    columns = ["prompt_id", "first", "second", "outcome"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def elo(
    scores: pd.DataFrame,
    initial: Mapping[str, float],
    *,
    rounds: int = 128,
    win_margin: float = 2.0,
    length_margin: int = 1500,
    seed: int = 42,
) -> pd.DataFrame:
    """WB-Elo of each model of a pool: the ratings depend on the pool, which the caller must record.

    Sequential Elo (K = 4, scale 400) over all votes, in each round over a fresh permutation with a seed of its own (in
    the original the seed has no effect in its worker processes). The original's interval covers these orders of play alone.
    Ours is that of as many further rounds, each over the votes of tasks drawn with replacement: it covers tasks and order.

    Args:
        scores: columns model, prompt_id, score, chars; one row per model and task.
        initial: published ratings of the anchors, all others start at 1000. Votes between anchors are skipped; anchors
            move too, and are pulled half-way back at every 100th of their votes, as in the published ratings.
        rounds: permutations.
        win_margin: see ``votes``.
        length_margin: see ``votes``.
        seed: see above.

    Returns:
        model, elo (mean over rounds), low, high (2.5 and 97.5 percentiles over rounds of drawn tasks), battles, draws (the
        ratings of these rounds: the same tasks for all models); sorted by model. Models without a battle have no rating (NaN).

    Raises:
        ValueError: when a model has two rows for one task.
    """
    if scores.duplicated(["model", "prompt_id"]).any():
        raise ValueError("a model has two grades for one task")
    models = sorted(map(str, scores["model"].unique()))
    played = votes(scores, win_margin=win_margin, length_margin=length_margin)
    played = played[~(played["first"].isin(list(initial)) & played["second"].isin(list(initial)))]
    place = {model: index for index, model in enumerate(models)}
    first, second = (played[side].map(place).to_numpy(dtype=np.int32) for side in ("first", "second"))
    outcome = played["outcome"].to_numpy(dtype=float)
    by_task = list(played.reset_index(drop=True).groupby("prompt_id").indices.values())

    # one more model, which plays itself to no effect where a round has fewer votes than the longest
    start = np.array([*(float(initial.get(model, START)) for model in models), START])
    anchor = np.array([*(model in initial for model in models), False])
    first, second = (np.append(side, len(models)).astype(np.int32) for side in (first, second))
    outcome = np.append(outcome, 0.5)

    def after(orders: list[np.ndarray]) -> np.ndarray:
        """Ratings (rounds, models) after the votes of each round, in its order."""
        order = np.full((len(orders), max(map(len, orders))), len(played), np.int32)
        for r, votes_of_round in enumerate(orders):
            order[r, : len(votes_of_round)] = votes_of_round
        ratings, row = np.tile(start, (len(orders), 1)), np.arange(len(orders))
        seen = np.zeros(ratings.shape, np.int64)
        for step in range(order.shape[1]):  # all rounds go forward together
            vote = order[:, step]
            a, b = first[vote], second[vote]
            expected = 1 / (1 + 10 ** ((ratings[row, b] - ratings[row, a]) / SCALE))
            change = K * (outcome[vote] - expected)
            ratings[row, a] += change
            ratings[row, b] -= change
            if initial:
                for side in (a, b):
                    due = anchor[side] & (seen[row, side] % PULL == 0)
                    ratings[row[due], side[due]] = (ratings[row[due], side[due]] + start[side[due]]) / 2
                seen[row, a] += 1
                seen[row, b] += 1
        return ratings[:, : len(models)]

    ratings = after([np.random.default_rng([seed, r]).permutation(len(played)) for r in range(rounds)])
    drawn = after([_redrawn(by_task, np.random.default_rng([seed, r, 1])) for r in range(rounds)])
    count = np.bincount(np.concatenate([first[:-1], second[:-1]]), minlength=len(models))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    table = pd.DataFrame({"model": models, "elo": ratings.mean(axis=0), "low": low, "high": high, "battles": count})
    table.loc[table["battles"] == 0, ["elo", "low", "high"]] = np.nan
    return table.assign(draws=list(drawn.T))


def _redrawn(by_task: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Votes of as many tasks as there are, drawn with replacement, in a random order."""
    if not by_task:
        return np.empty(0, np.int32)
    return rng.permutation(np.concatenate([by_task[task] for task in rng.integers(len(by_task), size=len(by_task))]))


class Settings(Section):
    """Who judges, and how.

    Attributes:
        judge: entry of ``judges``.
        scoring: how the reward model computes, where it is the judge.
    """

    judge: JudgeConfig
    scoring: Computation = Computation()


def main(
    *,
    answers: list[Path],
    tasks: Path,
    settings: Settings,
    cache: Path,
    out: Path,
    select: list[Path] | None = None,
    judge_model: Path | None = None,
) -> None:
    """Grade a run's answers, all epochs or the best one by Arena-Hard. WB-Score goes into the table's footer.

    Args:
        answers: completions tables of the run's spans.
        tasks: benchmark table with the checklists.
        settings: see ``Settings``.
        cache: folder of paid replies, which must outlive the job.
        out: judgments table to write.
        select: Arena-Hard winrates tables of the selecting judge: only the best epoch by them is graded.
        judge_model: folder of the judge's model, where that runs here.
    """
    asked = artifacts.read(tasks, "benchmark")
    found = answered(answers, asked, only_epoch=selected(select))
    judge = settings.judge
    judging = make_judge(judge, cache=cache, job=str(out), judge_model=judge_model, scoring=settings.scoring)
    graded = judge_answers(found, judging, judge.model, prompts.of(tasks, prompts.GRADE))
    tolerate(graded["unjudged"], judge)
    tags = dict(zip(asked["prompt_id"], asked["tag"], strict=True))
    epochs: dict[str, dict[str, Any]] = {}
    for epoch, part in graded.groupby("epoch"):
        counts = {
            "unparseable": int(part["score"].isna().sum()),
            "empty": int((part["chars"] == 0).sum()),
            "truncated": int(part["truncated"].sum()),
            "unanswered": len(asked) - len(part),
        }
        if part["score"].isna().all():
            raise UserError(
                f"no reply of the judge held a score (epoch {epoch}, {len(part)} answers): use another judge."
            )
        epochs[str(epoch)] = {"wb_score": wb_score(part, tags), "mean_tokens": float(part["tokens"].mean()), **counts}
        log.info("epoch %s: WB-Score %.2f, %s", epoch, epochs[str(epoch)]["wb_score"].get("overall", math.nan), counts)
    made = provenance(judge, ("tasks", tasks), answers, select, None, judge_model)
    graded["apart"] = bool(select)  # by other tasks
    artifacts.write(out, graded, "judgments", **made, epochs=epochs)


if __name__ == "__main__":
    run(main)
