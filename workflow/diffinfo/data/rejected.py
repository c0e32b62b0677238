"""Pairs of two samples of pi_ref, y_l by Equation 1 or by what is common practice in its place.

Let s R be the log-odds by which a response is preferred, p* ∝ e^{s R}: DPO's target is pi* ∝ pi_ref e^{s R / beta}.
Equation 1 asks for y_w ~ pi_ref and y_l ~ pi_l ∝ pi_ref (pi_ref / pi*)^beta = pi_ref e^{-s R}, whatever beta is. y_w is the
first candidate. y_l is one of the others, so that the two are independent: drawn with weights e^{-s R} (importance
resampling, exact as their number grows), the one with the least reward, or the next.

``python -m diffinfo.data.rejected``
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from diffinfo.cli import UserError, log, run
from diffinfo.config.values import Section
from diffinfo.data.pairs import scored
from diffinfo.tables import artifacts
from diffinfo.tables.cards import dataset_card

Rejected = Literal["ideal", "worst", "reference"]


class Settings(Section):
    """How y_l is chosen.

    Attributes:
        rejected: see ``datasets.<name>.rejected``.
        sharpness: s, nats per unit of reward.
        seed: of the draws with weights.
    """

    rejected: Rejected
    sharpness: float
    seed: int


def weights(rewards: np.ndarray, sharpness: float) -> np.ndarray:
    """Equation 1's weights e^{-s R} of samples of pi_ref, normalised."""
    log_weights = -sharpness * rewards
    found = np.exp(log_weights - log_weights.max())
    return np.asarray(found / found.sum())


def choose(rewards: np.ndarray, settings: Settings, prompt_id: str) -> int:
    """The place of y_l among the candidates other than y_w; a draw depends on the seed and the prompt alone."""
    match settings.rejected:
        case "ideal":
            rng = np.random.default_rng(int(artifacts.digest(settings.seed, prompt_id), 16))
            return int(rng.choice(len(rewards), p=weights(rewards, settings.sharpness)))
        case "worst":
            return int(rewards.argmin())
        case _:
            return 0


def main(*, completions: Path, scores: Path, settings: Settings, preferences: Path, resampled: Path) -> None:
    """Make a pair of each prompt, in the order of the first completions.

    A pair of two equal texts stays: it is a draw like any other, and DPO's gradient of it is zero.

    Args:
        completions: several samples of pi_ref a prompt, at temperature 1.
        scores: their rewards R.
        settings: see ``Settings``.
        preferences: table to write.
        resampled: table to write: how many candidates y_l had, and how many of them count under Equation 1's weights.

    Raises:
        UserError: for samples at another temperature, or where no prompt has three.
    """
    decoding = artifacts.provenance(completions).get("decoding", {})
    if decoding.get("temperature", 1.0) != 1.0 or decoding.get("top_p", 1.0) != 1.0:
        raise UserError(f"{completions} was not sampled at temperature 1 with top_p 1: it holds no samples of pi_ref.")
    picked, counts = [], []
    for prompt_id, part in scored(completions, scores).groupby("prompt_id", sort=False):
        if len(part) < 3:
            continue
        samples = part.sort_values("sample")
        first, others = samples.iloc[0], samples.iloc[1:]
        rewards = others.score.to_numpy()
        other = others.iloc[choose(rewards, settings, str(prompt_id))]
        picked.append((prompt_id, first.row - 1, first.score, other.row - 1, other.score))
        effective = 1 / (weights(rewards, settings.sharpness) ** 2).sum()
        counts.append({"prompt_id": prompt_id, "candidates": len(others), "effective": effective / len(others)})
    if not picked:
        raise UserError(f"{completions} holds no prompt with three scored samples; raise candidates.n.")
    prompt_ids, *of_sides = zip(*picked, strict=True)
    pairs = pd.DataFrame({"prompt_id": prompt_ids})
    for side, numbers, rewards in (("chosen", *of_sides[:2]), ("rejected", *of_sides[2:])):
        texts = artifacts.frame(
            artifacts.rows(completions, "completions", numbers, ["messages", "completion", "finish_reason"])
        )
        pairs["messages"] = texts.messages
        pairs[side], pairs[f"{side}_score"] = texts.completion, rewards
        pairs[f"{side}_truncated"] = texts.finish_reason == "length"
    log.info("%d pairs", len(pairs))
    inputs, facts = {"completions": completions, "scores": scores}, {"settings": settings.model_dump()}
    artifacts.write(preferences, pairs, "preferences", inputs=inputs, **facts)
    artifacts.write(resampled, pd.DataFrame(counts), "resampled", inputs=inputs, **facts)
    dataset_card(
        preferences.parent, preferences.parent.name, f"Pairs of two samples of one model, y_l: {settings.rejected}."
    )


if __name__ == "__main__":
    run(main)
