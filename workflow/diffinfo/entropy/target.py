"""Distance from DPO's target pi* ∝ pi_ref e^{s R / beta}: Theorem 3.4 on language models, where the true reward R is known.

The world's labels are Bradley-Terry's with log-odds s R, so p* ∝ e^{s R} and pi* ∝ pi_ref p*^{1/beta}. Its normaliser Z is
not known. What needs no Z: at the optimum l = log pi - log pi_ref is s R / beta plus a constant of the prompt, so the slope
of l on s R / beta within prompts is 1 and the correlation is 1; and KL(pi_ref || pi*) - KL(pi || pi*) = (s / beta)
(E_pi R - E_pi_ref R) - KL(pi || pi_ref) is a difference of plain means. KL(pi || pi*) itself needs log Z, whose estimate from
few samples is too low in expectation (Jensen): so is the distance, which is a lower bound.

``python -m diffinfo.entropy.target``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diffinfo.cli import UserError, run
from diffinfo.config.values import Section
from diffinfo.tables import artifacts
from diffinfo.world.truth import rewards


class Settings(Section):
    """What the target is.

    Attributes:
        reward: the language's reward that the dataset's labels follow.
        sharpness: s, nats per unit of reward.
        beta: of the method.
    """

    reward: str
    sharpness: float
    beta: float


def by_prompt(own: pd.DataFrame, reference: pd.DataFrame, scale: float) -> pd.DataFrame:
    """The rows of a target table.

    Args:
        own: samples of pi at temperature 1: prompt_id, reward (R), policy and reference (both models' log-probabilities, nats).
        reference: as many samples of pi_ref on the same prompts, with the same columns.
        scale: s / beta, nats per unit of reward.
    """
    frame = pd.concat([own.assign(by_policy=True), reference.assign(by_policy=False)], ignore_index=True)
    frame = frame.assign(ratio=frame.policy - frame.reference, target=scale * frame.reward)
    # Both models' samples are one of their even mixture: dpi_ref / dmixture = 2 / (1 + e^l).
    log_weight = frame.target + np.log(2) - np.logaddexp(0, frame.ratio)
    largest = log_weight.groupby(frame.prompt_id).transform("max")
    frame = frame.assign(
        largest=largest, weight=np.exp(log_weight - largest), weight2=np.exp(2 * (log_weight - largest))
    )
    groups = frame.groupby("prompt_id")
    total = groups.weight.sum()
    rows = pd.DataFrame(
        {"samples": groups.size() // 2, "log_z": groups.largest.first() + np.log(total / groups.size())}
    )
    rows["effective"] = total**2 / groups.weight2.sum() / groups.size()
    mine, base = (frame[frame.by_policy == side].groupby("prompt_id") for side in (True, False))
    rows["reward_gain"] = mine.reward.mean() - base.reward.mean()
    rows["nearer"] = mine.target.mean() - mine.ratio.mean() - base.target.mean()
    rows["distance"] = rows.log_z + mine.ratio.mean() - mine.target.mean()
    part = frame[~frame.by_policy]
    centred = part[["ratio", "target"]] - base[["ratio", "target"]].transform("mean")
    for name, product in (
        ("ratio_target", centred.ratio * centred.target),
        ("ratio_ratio", centred.ratio**2),
        ("target_target", centred.target**2),
    ):
        rows[name] = product.groupby(part.prompt_id).sum()
    return rows.reset_index()


def main(*, samples: Path, policy_samples: Path, reference_samples: Path, settings: Settings, out: Path) -> None:
    """Measure how far a policy is from its target.

    Args:
        samples: what ``diffinfo.entropy.update`` leaves: both models' log-probabilities of both models' samples.
        policy_samples: completions of pi, from which that was made.
        reference_samples: completions of pi_ref.
        settings: see ``Settings``.
        out: target table to write.

    Raises:
        UserError: for prompts that are not the micro world's.
    """
    scored, parts = artifacts.read(samples, "update_samples"), []
    for by_policy, path in ((True, policy_samples), (False, reference_samples)):
        table = artifacts.read(path, "completions", columns=["prompt_id", "sample"])
        table = table.assign(reward=rewards(path, settings.reward))
        one = scored[scored.by_policy == by_policy].merge(table, on=["prompt_id", "sample"], validate="1:1")
        if not len(one) == len(table) == len(scored) // 2:
            raise UserError(f"{samples} was made from other samples than {path}: delete it, it is made again.")
        parts.append(one)
    rows = by_prompt(parts[0], parts[1], settings.sharpness / settings.beta)
    inputs = {"samples": samples, "policy_samples": policy_samples, "reference_samples": reference_samples}
    artifacts.write(out, rows, "target", inputs=inputs, settings=settings.model_dump())


if __name__ == "__main__":
    run(main)
