"""Size and direction of an update from pi_ref to pi: finite without a length limit, from stored samples of both.

KL(pi_ref || pi) and KL(pi || pi_ref) say how far pi went; -Cov(l, log pi_ref) under pi_ref, l = log pi - log pi_ref, is the
slope of H(pi_ref e^{s l} / Z) at s = 0 (docs/findings.md), so its sign says whether the update smooths or reinforces.

``python -m diffinfo.entropy.update``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diffinfo.cli import UserError, run
from diffinfo.config.values import Computation
from diffinfo.tables import artifacts


def by_prompt(own: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """The rows of an update table.

    Args:
        own: samples of pi at temperature 1 with columns prompt_id, policy and reference: both models' log-probabilities, nats.
        reference: samples of pi_ref, with the same columns and tokens, the length of each.
    """
    ratio, tokens = reference.policy - reference.reference, reference.tokens.astype(float)
    frame = pd.DataFrame(
        {"prompt_id": reference.prompt_id, "ratio": ratio, "tokens": tokens, "logp": reference.reference}
    )
    groups = frame.groupby("prompt_id")
    centred = frame.drop(columns="prompt_id") - groups.transform("mean")
    products = pd.DataFrame(
        {
            "covariance": centred.ratio * centred.logp,
            "ratio_tokens": centred.ratio * centred.tokens,
            "ratio_ratio": centred.ratio**2,
            "tokens_tokens": centred.tokens**2,
        }
    )
    rows = products.groupby(frame.prompt_id).sum()
    rows["samples"] = groups.size()
    rows["covariance"] /= rows.samples - 1
    rows["kl_reference"] = -groups.ratio.mean()
    rows["kl_policy"] = (own.policy - own.reference).groupby(own.prompt_id).mean()
    rows["entropy_change"] = groups.logp.mean() - own.policy.groupby(own.prompt_id).mean()
    return rows.reset_index()


def main(
    *,
    policy: Path,
    reference: Path,
    policy_samples: Path,
    reference_samples: Path,
    settings: Computation,
    out: Path,
    samples: Path | None = None,
    epochs: list[int] | None = None,
) -> None:
    """Measure an update from samples of both models, each scored by the other one.

    Args:
        policy: model folder of pi, or with ``epochs`` the folder that holds epoch-K folders.
        reference: model folder of pi_ref.
        policy_samples: completions of pi at temperature 1, of each epoch where there are several.
        reference_samples: completions of pi_ref at temperature 1 on the same prompts; with ``epochs`` also on others.
        settings: attention kernel, precision and tokens of one forward pass.
        out: update table to write, or path table with a row for each epoch and prompt.
        samples: update_samples table to write: both models' log-probabilities of every sample.
        epochs: epochs to measure; none: ``policy`` itself.

    Raises:
        UserError: for samples of another temperature, of other prompts, or only one a prompt.
    """
    own, base = (_sampled(path) for path in (policy_samples, reference_samples))
    own = own.assign(policy=own.logp, reference=_score(reference, own, settings))
    if epochs:
        base = base[base.prompt_id.isin(own.prompt_id)].reset_index(drop=True)
    rows, scored = [], []
    for epoch, folder in {e: policy / f"epoch-{e}" for e in epochs}.items() if epochs else [(0, policy)]:
        mine = own[own.epoch == epoch]
        sizes = [table.prompt_id.value_counts().sort_index() for table in (mine, base)]
        if not len(mine) or not sizes[0].equals(sizes[1]) or np.min(sizes[0]) < 2:
            raise UserError(
                f"{policy_samples} and {reference_samples} must answer the same prompts, each at least twice and equally "
                "often: set entropy.samples to 2 or more and sample both anew."
            )
        theirs = base.assign(policy=_score(folder, base, settings), reference=base.logp)
        rows.append(by_prompt(mine, theirs).assign(epoch=epoch))
        scored += [mine.assign(by_policy=True), theirs.assign(by_policy=False)]
    inputs = {"policy_samples": policy_samples, "reference_samples": reference_samples}
    artifacts.write(out, pd.concat(rows, ignore_index=True), "path" if epochs else "update", inputs=inputs)
    if samples:
        artifacts.write(samples, pd.concat(scored, ignore_index=True), "update_samples", inputs=inputs)


def _sampled(path: Path) -> pd.DataFrame:
    """A completions table at temperature 1, with the length of each."""
    decoding = artifacts.provenance(path).get("decoding", {})
    if decoding.get("temperature") != 1.0 or decoding.get("top_p") != 1.0:
        raise UserError(f"{path} was decoded with {decoding}: a divergence needs temperature 1 and top_p 1.")
    table = artifacts.read(path, "completions")
    return table.assign(tokens=table.token_ids.map(len))


def _score(folder: Path, table: pd.DataFrame, settings: Computation) -> list[float]:
    """Log-probabilities of completions under a model folder, nats."""
    from diffinfo.train.reference import score_completions

    return score_completions(folder, table.prompt_token_ids.tolist(), table.token_ids.tolist(), settings)


if __name__ == "__main__":
    run(main)
