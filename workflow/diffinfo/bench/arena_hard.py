"""Arena-Hard v0.1 (Tables 2 and 3): each answer against the baseline's in two games, Bradley-Terry, bootstrap.

The procedure of lmarena/arena-hard-auto at 3071ef9, whose brackets the paper prints. The paper's best epoch is selected by the
questions that report it; ours, beside it, by the other half of the questions.

``python -m diffinfo.bench.arena_hard``
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from diffinfo.bench import length, prompts, replies
from diffinfo.bench.judge import make_judge, provenance
from diffinfo.bench.questions import ARENA_HARD, answered
from diffinfo.bench.replies import Judge, Request, ask, costs, tolerate
from diffinfo.cli import UserError, log, run
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.config.values import Computation, Count, Section
from diffinfo.data.files import Messages
from diffinfo.selection import halves
from diffinfo.tables import artifacts

OUTCOMES: dict[str, tuple[float, int]] = {  # label: (what A gets, battles it counts for)
    "A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3),
}  # fmt: skip
_LABEL = re.compile(r"\[\[([AB]*[<>=][AB<>=]*)\]\]")  # the original's, but for x[[A]], which is R
# With white space, lower case or bold type, which count where nothing else does; lower case and white space are a shell's test.
_LOOSE = re.compile(r"(?<![A-Za-z0-9)\]])\[\s*\[([AB<>=\s*_`]*)\]\s*\]", re.I)

_FOLLOW_UP = "Continue your judgment and finish it with a final verdict label."

Outcomes = npt.NDArray[np.float64]


def labels(reply: str) -> set[str]:
    """The distinct labels in a reply: those written as the judge was told, else those that can mean nothing else."""
    plain = unicodedata.normalize("NFKC", html.unescape(reply).replace("\\", ""))
    if found := set(_LABEL.findall(plain)):
        return found
    loose = [text for text in _LOOSE.findall(plain) if text.isupper() or not re.search(r"\s", text)]
    return {re.sub(r"[\s*_`]", "", text).upper() for text in loose} & set(OUTCOMES)


def verdict(reply: str) -> str | None:
    """The label of a reply; None where it has none, see ``unread``."""
    return None if unread(reply) else labels(reply).pop()


def unread(reply: str) -> str | None:
    """Why a reply has no verdict: see ``replies.unread``, or its label is not among the five; None where it has one."""
    found = labels(reply)
    return replies.unread(reply, found, "label") or (None if found <= set(OUTCOMES) else "unknown label")


def judge_answers(
    answers: pd.DataFrame,
    judge: Judge,
    name: str,
    prompt: dict[str, str] = prompts.VERDICT,
    by_category: Mapping[str, dict[str, str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Play both games of every answer.

    Args:
        answers: what ``questions.answered`` returns.
        judge: who compares.
        name: the judge's name in the table.
        prompt: what it is asked, see ``prompts.verdict``.
        by_category: what it is asked on questions with such a tag.

    Returns:
        A ``judgments`` table without gaps, sorted by epoch, question and game.
    """
    rows: list[dict[str, Any]] = []
    requests: list[Request] = []
    for row in answers.to_dict("records"):
        baseline, answer = row["baseline"], row["completion"]
        for game, (a, b) in enumerate([(baseline, answer), (answer, baseline)], start=1):
            requests.append(_request(row["messages"], a, b, by_category.get(row["tag"], prompt)))
            facts = {str(key): row[key] for key in ("epoch", "prompt_id", "tokens", "chars", "truncated")}
            rows.append({"benchmark": ARENA_HARD, "game": game, "judge": name, "score": None, "apart": False, **facts})
    said = ask(judge, requests, "judging Arena-Hard", lambda reply: not labels(reply), _FOLLOW_UP)
    found = {
        "reply": said,
        "verdict": [*map(verdict, said)],
        "unjudged": [*map(unread, said)],
        **costs(said),
    }
    frame = pd.DataFrame(rows).assign(**found)
    return frame.sort_values(["epoch", "prompt_id", "game"], ignore_index=True)


def battles(judgments: pd.DataFrame) -> Outcomes:
    """What the answers got in each battle: 1, 1/2 or 0, in a fixed order; a verdict with ``>>`` is three battles."""
    scored = _scored(judgments)
    outcomes: list[float] = []
    for label, game in zip(scored["verdict"], scored["game"], strict=True):
        won, times = OUTCOMES[label]
        outcomes += [1 - won if game == 1 else won] * times  # in game 1 the baseline is A
    return np.array(outcomes)


def _scored(judgments: pd.DataFrame) -> pd.DataFrame:
    return judgments.dropna(subset=["verdict"]).sort_values(["prompt_id", "game"])


def _leads(judgments: pd.DataFrame, baseline_tokens: Mapping[str, int]) -> Outcomes:
    """Of the answer in length, for each of ``battles``."""
    scored = _scored(judgments)
    tokens, other = scored["tokens"].to_numpy(float), scored["prompt_id"].map(baseline_tokens).to_numpy(float)
    return np.repeat(
        (tokens - other) / np.maximum(tokens + other, 1), [OUTCOMES[label][1] for label in scored["verdict"]]
    )


def win_rate(outcomes: Outcomes) -> float:
    """Win rate in per cent against the baseline, (W + T/2)/N: what Bradley-Terry fits where all battles have one opponent.

    Raises:
        ValueError: when there are no battles.
    """
    if not len(outcomes):
        raise ValueError("there are no battles")
    return float(100 * outcomes.mean())


def bootstrap(
    outcomes: Outcomes, resamples: int, seed: int, statistic: Callable[..., float] = win_rate, *more: Outcomes
) -> tuple[float, float]:
    """2.5 and 97.5 percentile of the win rate, or another ``statistic`` of battles and ``more``, over resampled battles.

    As in the original it is battles that are drawn, of which a ``>>`` makes three and an answer two or more: the
    interval is narrower than one over questions would be.
    """
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(outcomes), size=len(outcomes)) for _ in range(resamples))
    rates = [statistic(*(of_battles[draw] for of_battles in (outcomes, *more))) for draw in drawn]
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def win_rates(
    judgments: pd.DataFrame, baseline_tokens: Mapping[str, int], *, resamples: int, seed: int
) -> pd.DataFrame:
    """The ``winrates`` table: a row per epoch, with answer lengths beside each rate as a check of length bias.

    Args:
        judgments: what ``judge_answers`` returns.
        baseline_tokens: length of the baseline's answer to each question.
        resamples: bootstrap resamples.
        seed: their seed, the same for every epoch.

    Returns:
        win_rate, low and high in per cent, and the same at equal lengths (ours); games played; unscored, those of them without
        a verdict.

    Raises:
        UserError: when no game of an epoch has a verdict.
    """
    rows = []
    for epoch, games in judgments.groupby("epoch"):
        outcomes = battles(games)
        if not len(outcomes):
            raise UserError(
                f"the judge gave no verdict in any of {len(games)} games of epoch {epoch}: use another judge."
            )
        low, high = bootstrap(outcomes, resamples, seed)
        leads = _leads(games, baseline_tokens)
        controlled = bootstrap(outcomes, resamples, seed, length.controlled, leads)
        asked = games.drop_duplicates("prompt_id")
        rows.append(
            {
                "epoch": epoch,
                "win_rate": win_rate(outcomes),
                "low": low,
                "high": high,
                "controlled": length.controlled(outcomes, leads),
                "controlled_low": controlled[0],
                "controlled_high": controlled[1],
                "games": len(games),
                "unscored": int(games["verdict"].isna().sum()),
                "mean_tokens": float(asked["tokens"].mean()),
                "baseline_mean_tokens": float(asked["prompt_id"].map(baseline_tokens).mean()),
            }
        )
    return pd.DataFrame(rows)


def by_category(judgments: pd.DataFrame, category: pd.Series, *more: Any, **seeded: Any) -> pd.DataFrame:
    """``win_rates`` of each category's questions by themselves, with the category of each question given by name."""
    parts = [
        win_rates(games, *more, **seeded).assign(category=name)
        for name, games in judgments.groupby(judgments["prompt_id"].map(category))
    ]
    return pd.concat(parts, ignore_index=True)


def best_epoch(winrates: Iterable[pd.DataFrame]) -> int:
    """The epoch with the highest win rate; the first of equals."""
    table = pd.concat(list(winrates), ignore_index=True).sort_values("epoch", ignore_index=True)
    return int(table.loc[table["win_rate"].idxmax(), "epoch"])


def apart_epochs(judgments: pd.DataFrame, half: pd.Series) -> dict[int, int]:
    """The epoch at which each half of the questions is reported: the one that wins most on the other half, the first of equals.

    Args:
        judgments: the selecting judge's, of all epochs.
        half: 0 or 1 by question.

    Returns:
        Epochs by half; without one where the other half has no verdict.
    """
    found = {}
    for side in (0, 1):
        others = judgments[judgments["prompt_id"].map(half) == 1 - side].groupby("epoch")
        rates = {int(str(epoch)): win_rate(played) for epoch, games in others if len(played := battles(games))}
        if rates:
            found[side] = max(rates, key=lambda epoch: rates[epoch])
    return found


def selected(winrates: Sequence[Path] | None) -> int | None:
    """The best epoch by these tables of the selecting judge; None without tables."""
    if not winrates:
        return None
    epoch = best_epoch(artifacts.read(path, "winrates") for path in winrates)
    log.info("best epoch by the selecting judge: %d", epoch)
    return epoch


def token_ids(folder: Path, texts: Mapping[str, str]) -> dict[str, list[int]]:
    """Tokens of each text by a model folder's tokenizer, without special tokens."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder} has no tokenizer.json, by which answers are measured.")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    # one by one: what a batch returns has each token's text and place too, a hundred bytes a token
    return {name: tokenizer.encode(text, add_special_tokens=False).ids for name, text in texts.items()}


def _request(messages: Messages, a: str, b: str, prompt: dict[str, str]) -> Request:
    question = "\n\n".join(message["content"] for message in messages)
    game = prompts.fill(prompt["user"], {"{QUESTION}": question, "{ANSWER_A}": a, "{ANSWER_B}": b})
    conversation = [{"role": "system", "content": prompt["system"]}, {"role": "user", "content": game}]
    return Request("verdict", conversation, messages, (a, b))


class Settings(Section):
    """Who judges, and how.

    Attributes:
        judge: entry of ``judges``.
        scoring: how the reward model computes, where it is the judge.
        bootstrap: resamples.
        seed: seed of the resampling.
    """

    judge: JudgeConfig
    scoring: Computation = Computation()
    bootstrap: Count = 100
    seed: int = 42


def main(
    *,
    answers: list[Path],
    questions: Path,
    settings: Settings,
    cache: Path,
    tokenizer: Path,
    judgments: Path,
    winrates: Path,
    select: list[Path] | None = None,
    verdicts: list[Path] | None = None,
    apart: Path | None = None,
    categories: Path | None = None,
    judge_model: Path | None = None,
) -> None:
    """Judge a run's answers, all epochs or the best one; with ``apart``, each half also at the other half's best one.

    Args:
        answers: completions tables of the run's spans.
        questions: benchmark table with the baseline's answers.
        settings: see ``Settings``.
        cache: folder of paid replies, which must outlive the job.
        tokenizer: model folder whose tokenizer measures the baseline's answers.
        judgments: judgments table to write.
        winrates: winrates table to write.
        select: winrates tables of the selecting judge: only the best epoch by them is judged.
        verdicts: its judgments of all epochs, which select for each half of the questions.
        categories: categories table to write, the win rates of each category (Arena-Hard v2).
        apart: judgments table to write of each question at the epoch that the other half selects.
        judge_model: folder of the judge's model, where that runs here.
    """
    asked = artifacts.read(questions, "benchmark")
    best, half = selected(select), halves(asked["prompt_id"])
    found = answered(answers, asked, only_epoch=best)
    epochs: dict[int, int] = {}
    if verdicts:
        epochs = apart_epochs(pd.concat([artifacts.read(path, "judgments") for path in verdicts]), half)
        log.info("epochs of the two halves of the questions, each by the other half: %s", epochs)
    own = half.map(epochs)  # of each question
    further = [answered(answers, asked, only_epoch=epoch) for epoch in sorted(set(epochs.values()) - {best})]
    further = [
        part[part["epoch"] == part["prompt_id"].map(own)] for part in further
    ]  # what is not judged at the best epoch
    judge = settings.judge
    judging = make_judge(judge, cache=cache, job=str(judgments), judge_model=judge_model, scoring=settings.scoring)
    prompt = prompts.of(questions, prompts.VERDICT)
    every = judge_answers(
        pd.concat([found, *further], ignore_index=True), judging, judge.model, prompt, prompts.by_category(questions)
    )
    tolerate(every["unjudged"], judge)
    games = every if best is None else every[every["epoch"] == best].reset_index(drop=True)
    counted = token_ids(tokenizer, dict(zip(asked["prompt_id"], asked["baseline"], strict=True)))
    lengths = {name: len(ids) for name, ids in counted.items()}
    resampled: dict[str, Any] = {"resamples": settings.bootstrap, "seed": settings.seed}
    rates = win_rates(games, lengths, **resampled)
    unanswered = {str(epoch): len(asked) - count for epoch, count in found.groupby("epoch").size().items()}
    made = provenance(judge, ("questions", questions), answers, select, verdicts, judge_model)
    made |= {"unanswered": unanswered}
    artifacts.write(judgments, games, "judgments", **made)
    if apart:
        elsewhere = every[every["epoch"] == every["prompt_id"].map(own)].assign(apart=True)
        artifacts.write(apart, elsewhere.reset_index(drop=True), "judgments", **made)
    artifacts.write(winrates, rates, "winrates", **made, bootstrap=settings.bootstrap, seed=settings.seed)
    if categories:
        split = by_category(games, asked.set_index("prompt_id")["tag"], lengths, **resampled)
        artifacts.write(categories, split, "categories", **made, bootstrap=settings.bootstrap, seed=settings.seed)
        for row in split.to_dict("records"):
            log.info("%(category)s, epoch %(epoch)d: win rate %(win_rate).1f %% (%(low).1f to %(high).1f)", row)
    for row in rates.to_dict("records"):
        log.info(
            "epoch %(epoch)d: win rate %(win_rate).1f %% (%(low).1f to %(high).1f), at equal lengths %(controlled).1f, "
            "%(unscored)d of %(games)d games unscored, %(mean_tokens).1f tokens an answer against "
            "the baseline's %(baseline_mean_tokens).1f",
            row,
        )


if __name__ == "__main__":
    run(main)
