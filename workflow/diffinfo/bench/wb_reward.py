"""WB-Reward of WildBench v2: one game of each answer against a baseline's, under the task's checklist.

The procedure of allenai/WildBench at d6b8dca.

``python -m diffinfo.bench.wb_reward``
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.bench import prompts, replies
from diffinfo.bench.arena_hard import selected
from diffinfo.bench.judge import make_judge, provenance
from diffinfo.bench.questions import WILDBENCH, answered, answers_by_id, wildbench_answer
from diffinfo.bench.replies import COSTS, Judge, Request, ask, costs, tolerate
from diffinfo.bench.wildbench import ask_about, by_group, fields
from diffinfo.cli import UserError, log, run
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation, Section
from diffinfo.tables import artifacts

WORTH = {"A++": 1.0, "A+": 0.5, "A=B": 0.0, "B+": -0.5, "B++": -1.0}  # to A

# Not in the original, which drops what it cannot parse.
_FOLLOW_UP = 'Finish your evaluation: give the JSON object alone, with a "choice" of A++, A+, A=B, B+ or B++.'


def choices(reply: str) -> set[str]:
    """The distinct labels among the five that a reply's JSON has as its choice."""
    return {re.sub(r"[\s*_`\[\]]", "", str(value)).upper() for value in fields(reply, "choice")} & set(WORTH)


def game(task: str) -> int:
    """Which answer is A, by a coin that the task's name throws: 1, the baseline's, or 2, the model's (as in Arena-Hard)."""
    return 1 + hashlib.sha256(task.encode()).digest()[-1] % 2


def reward(label: str, played: int, lead: int, length_margin: int | None) -> float:
    """What the answer gets: 1 or 1/2 where it is much or slightly better than the baseline's, 0, -1/2 or -1.

    Args:
        label: the judge's.
        played: see ``game``.
        lead: characters by which the answer is longer.
        length_margin: a slight win by an answer that is longer by more characters is a tie; None: it never is.
    """
    worth = WORTH[label] if played == 2 else 0 - WORTH[label]
    longer = lead if worth > 0 else -lead
    return 0.0 if length_margin is not None and abs(worth) == 0.5 and longer > length_margin else worth


def judge_answers(
    answers: pd.DataFrame,
    baseline: Mapping[str, str],
    judge: Judge,
    *,
    name: str,
    against: str,
    length_margin: int | None = None,
    prompt: dict[str, str] = prompts.CHOICE,
) -> pd.DataFrame:
    """Compare every answer with the baseline's.

    Args:
        answers: what ``questions.answered`` returns.
        baseline: the baseline's answer to each task.
        judge: who compares.
        name: the judge's name in the table.
        against: the baseline's.
        length_margin: see ``reward``.
        prompt: what is asked, see ``prompts.choice``.

    Returns:
        A ``judgments`` table, sorted by epoch and task; the score is the reward, null where the reply was cut or could not be
        read. Nobody is asked where one answer is empty: the other is much better, and the reward 0, as in the original's table.
    """
    rows: list[dict[str, Any]] = []
    requests: list[Request] = []
    for row in answers.to_dict("records"):
        played, theirs = game(row["prompt_id"]), baseline[row["prompt_id"]]
        pair = (theirs, row["completion"]) if played == 1 else (row["completion"], theirs)
        full = [bool(text.strip()) for text in pair]
        rows.append({str(key): row[key] for key in ("epoch", "prompt_id", "tokens", "chars", "truncated")})
        rows[-1] |= {"game": played, "lead": row["chars"] - len(theirs.strip()), "asked": all(full)}
        rows[-1]["verdict"] = {(True, False): "A++", (False, True): "B++"}.get((full[0], full[1]), "A=B")
        if all(full):
            shown = {"{$candidate_A}": pair[0], "{$candidate_B}": pair[1]}
            requests.append(Request("choice", ask_about(row, prompt, shown), row["messages"], pair))
    said = ask(judge, requests, "comparing WildBench", lambda reply: not choices(reply), _FOLLOW_UP) if requests else []
    unjudged = [replies.unread(reply, choices(reply), "label") for reply in said]
    frame = pd.DataFrame(rows).assign(
        benchmark=f"{WILDBENCH}/{against}", judge=name, apart=False, reply="", **dict.fromkeys(["unjudged", *COSTS])
    )
    labels = [None if why else choices(reply).pop() for reply, why in zip(said, unjudged, strict=True)]
    for column, values in {"reply": said, "unjudged": unjudged, "verdict": labels, **costs(said)}.items():
        frame[column] = frame[column].astype(object)
        frame.loc[frame["asked"], column] = pd.Series(values, index=frame.index[frame["asked"]], dtype=object)
    frame["score"] = [
        None if row.verdict is None else reward(row.verdict, row.game, row.lead, length_margin) if row.asked else 0.0
        for row in frame.itertuples()
    ]
    return frame.drop(columns=["lead", "asked"]).sort_values(["epoch", "prompt_id"], ignore_index=True)


def read_baseline(source: str) -> dict[str, str]:
    """Answers by task of WildBench's MODEL.json, a list of ``{session_id, output}``, here or at an hf:// address.

    Raises:
        UserError: where it is no such file.
    """
    try:
        rows = json.loads(prompts.content(source))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}.") from error
    return answers_by_id(source, rows, wildbench_answer)


class Settings(Section):
    """Who judges, and how.

    Attributes:
        judge: entry of ``judges``.
        scoring: how the reward model computes, where it is the judge.
        length_margin: see ``reward``.
        prompt: see ``prompts.choice``; None for ours.
    """

    judge: JudgeConfig
    scoring: Computation = Computation()
    length_margin: int | None = None
    prompt: str | None = None


def main(
    *,
    answers: list[Path],
    tasks: Path,
    baseline: str,
    against: str,
    settings: Settings,
    cache: Path,
    out: Path,
    select: list[Path] | None = None,
    judge_model: Path | None = None,
) -> None:
    """Compare a run's answers, all epochs or the best one by Arena-Hard. The rewards go into the table's footer, in per cent.

    Args:
        answers: completions tables of the run's spans.
        tasks: benchmark table with the checklists.
        baseline: the baseline's answers, see ``read_baseline``.
        against: its name.
        settings: see ``Settings``.
        cache: folder of paid replies, which must outlive the job.
        out: judgments table to write.
        select: Arena-Hard winrates tables of the selecting judge: only the best epoch by them is compared.
        judge_model: folder of the judge's model, where that runs here.

    Raises:
        UserError: where the baseline has no answer to a task, or too few replies can be read.
    """
    asked = artifacts.read(tasks, "benchmark")
    found, theirs, judge = (
        answered(answers, asked, only_epoch=selected(select)),
        read_baseline(baseline),
        settings.judge,
    )
    if lacking := sorted(set(found["prompt_id"]) - set(theirs)):
        raise UserError(
            f"{baseline} has no answer to {len(lacking)} of {len(asked)} tasks, such as '{lacking[0]}': name a file with an"
            f" answer to each in wildbench.reward.baselines.{against}."
        )
    compared = judge_answers(
        found, theirs, make_judge(judge, cache=cache, job=str(out), judge_model=judge_model, scoring=settings.scoring),
        name=judge.model, against=against, length_margin=settings.length_margin,
        prompt=prompts.choice(settings.prompt) if settings.prompt else prompts.CHOICE,
    )  # fmt: skip
    tolerate(compared["unjudged"], judge)
    tags = dict(zip(asked["prompt_id"], asked["tag"], strict=True))
    epochs: dict[str, dict[str, Any]] = {}
    for epoch, part in compared.groupby("epoch"):
        if part["score"].isna().all():
            raise UserError(
                f"no reply of the judge held a choice (epoch {epoch}, {len(part)} answers): use another judge."
            )
        whole = part[(part["reply"] != "")]  # as in the original, groups are without empty answers
        epochs[str(epoch)] = {
            "reward": 100 * float(part["score"].mean()),
            "by_group": by_group(whole, tags, lambda mean: 100 * mean),
            "unparseable": int(part["score"].isna().sum()),
            "unanswered": len(asked) - len(part),
        }
        facts = (epoch, against, epochs[str(epoch)]["reward"], dict(Counter(part["verdict"])))
        log.info("epoch %s against %s: WB-Reward %.1f, %s", *facts)
    made = provenance(judge, ("tasks", tasks), answers, select, None, judge_model)
    made["inputs"] |= {} if "://" in baseline else {"baseline": Path(baseline)}
    compared["apart"] = bool(select)  # by other tasks
    artifacts.write(
        out, compared, "judgments", **made, baseline=baseline, length_margin=settings.length_margin, epochs=epochs
    )


if __name__ == "__main__":
    run(main)
