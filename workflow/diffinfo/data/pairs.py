"""Preference pairs from scored samples: y_w the highest, y_l the lowest score of a prompt (J.2).

``python -m diffinfo.data.pairs``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diffinfo.cli import UserError, log, run
from diffinfo.tables import artifacts
from diffinfo.tables.cards import dataset_card

_KEY = ["epoch", "prompt_id", "sample"]
_TEXTS = ["messages", "completion", "finish_reason"]


def main(
    *, completions: Path, scores: Path, preferences: Path, quarantine: Path, min_reward: float | None = None
) -> None:
    """Pair the best and the worst completion of every prompt, prompts in the order of their first completion.

    Of several completions with one score the lowest sample number counts. A prompt is left out, with its reason and
    count, where best and worst tie, are the same text, or the best is empty: nothing but the end of turn would be
    learnt from it. An empty *rejected* response stays: it is what the model wrote, and its end-of-turn token carries a
    log-probability. Completions cut by ``max_tokens`` stay and keep their flag.
    Completions that the reward model's template could not hold have no score and do not count.

    Args:
        completions: several completions of each prompt by one policy.
        scores: their scores.
        preferences: table to write.
        quarantine: table to write of prompts left out; ``row`` is the prompt's first completion, from 1.
        min_reward: prompts whose best completion scores less are left out (Magpie's filter).

    Raises:
        UserError: when a completion has no score or a score no completion, one is given twice, a score is not finite,
            the completions come from several policies, or no pair is left.
    """
    joined = scored(completions, scores)
    by_prompt = joined.sort_values("sample", kind="stable").groupby("prompt_id").score
    best, worst = (joined.loc[index].set_index("prompt_id") for index in (by_prompt.idxmax(), by_prompt.idxmin()))
    order = joined.prompt_id.drop_duplicates()
    best, worst = (_with_texts(completions, side.loc[order]) for side in (best, worst))
    reasons = _reasons(best, worst, by_prompt.size().loc[order])
    if min_reward is not None:
        reasons[reasons.isna() & (best.score < min_reward)] = "the best completion scores less than min_reward"
    counts = reasons.value_counts().sort_index().to_dict()
    kept = reasons.isna()
    if not kept.any():
        said = ", ".join(f"{count} x {reason}" for reason, count in counts.items()) or "it has no rows"
        raise UserError(f"{completions} gives no preference pair: {said}.")
    pairs = pd.DataFrame(
        {
            "messages": best.messages,
            "chosen": best.completion,
            "rejected": worst.completion,
            "chosen_score": best.score,
            "rejected_score": worst.score,
            "chosen_truncated": best.finish_reason == "length",
            "rejected_truncated": worst.finish_reason == "length",
        }
    )[kept].reset_index()
    left_out = pd.DataFrame(
        {
            "source": str(completions),
            "row": joined.groupby("prompt_id")["row"].min().loc[order],
            "reason": reasons,
            "excerpt": best.messages.map(lambda messages: messages[-1]["content"][:200]),
        }
    )[~kept].reset_index()
    cut = (pairs.chosen_truncated | pairs.rejected_truncated).sum()
    log.info("%d pairs (%d hold a completion cut by max_tokens), %d prompts left out", len(pairs), cut, len(left_out))
    for reason, count in counts.items():
        log.info("%d prompts left out: %s", count, reason)
    inputs = {"completions": completions, "scores": scores}
    artifacts.write(preferences, pairs, "preferences", inputs=inputs, left_out=counts)
    artifacts.write(quarantine, left_out, "quarantine", inputs=inputs, left_out=counts)
    what = "Pairs of the best and the worst of several sampled responses to each prompt, by a reward model."
    dataset_card(preferences.parent, preferences.parent.name, what)


def _with_texts(completions: Path, chosen: pd.DataFrame) -> pd.DataFrame:
    """The texts of rows of a completions table, and of no others: they take gigabytes."""
    texts = artifacts.rows(completions, "completions", chosen.row.to_numpy() - 1, _TEXTS)
    return chosen.join(artifacts.frame(texts).set_index(chosen.index))


def scored(completions: Path, scores: Path) -> pd.DataFrame:
    """Keys of completions with their scores and row numbers (column ``row``, from 1), in the order of the completions.

    Raises:
        UserError: when a completion has no score or a score no completion, one is given twice, a score is not finite, or the
            completions come from several policies.
    """
    table = artifacts.read(completions, "completions", columns=["benchmark", *_KEY])
    table = table.assign(row=np.arange(1, len(table) + 1))
    unscored = {(prompt, sample) for prompt, sample, _ in artifacts.provenance(scores).get("quarantined", [])}
    table = table[[key not in unscored for key in zip(table.prompt_id, table["sample"], strict=True)]]
    found = artifacts.read(scores, "scores")
    if table[["benchmark", "epoch"]].drop_duplicates().shape[0] > 1:
        raise UserError(
            f"{completions} holds completions of several epochs or benchmarks; pairs need those of one policy."
        )
    for path, frame in ((completions, table), (scores, found)):
        twice = frame[frame.duplicated(_KEY)]
        if len(twice):
            raise UserError(f"{path} holds sample {twice['sample'].iloc[0]} of prompt {twice.prompt_id.iloc[0]} twice.")
    infinite = found[~np.isfinite(found.score)]
    if len(infinite):
        first = infinite.iloc[0]
        more = f", as have {len(infinite) - 1} more" if len(infinite) > 1 else ""
        raise UserError(
            f"{scores}: sample {first['sample']} of prompt {first.prompt_id} has the score {first.score}{more}; score again."
        )
    joined = table.merge(found[[*_KEY, "score"]], on=_KEY, how="outer", indicator="side").sort_values("row")
    for side, kind, path, other in (
        ("left_only", "completion", scores, completions), ("right_only", "score", completions, scores)
    ):  # fmt: skip
        alone = joined[joined.side == side]
        if len(alone):
            first = alone.iloc[0]
            raise UserError(
                f"{path} has nothing for {len(alone)} {kind}(s) of {other}, the first being sample {first['sample']} "
                f"of prompt {first.prompt_id}; make the scores again from these completions."
            )
    return joined


def _reasons(best: pd.DataFrame, worst: pd.DataFrame, samples: pd.Series[int]) -> pd.Series[str]:
    """Why each prompt gives no pair; null where it gives one."""
    chosen, rejected = best.completion.str.strip(), worst.completion.str.strip()
    reasons = pd.Series(None, index=best.index, dtype="str")
    for reason, applies in (  # the last that applies counts
        ("the best completion is empty", chosen == ""),
        ("the best and worst completions are the same text", chosen == rejected),
        ("the best and worst scores tie", best.score == worst.score),
        ("there is only one completion", samples < 2),
    ):
        reasons[applies] = reason
    return reasons


if __name__ == "__main__":
    run(main)
