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
    samples: Path,
) -> None:
    """Measure an update from samples of both models, each scored by the other one.

    Args:
        policy: model folder of pi.
        reference: model folder of pi_ref.
        policy_samples: completions of pi at temperature 1.
        reference_samples: completions of pi_ref at temperature 1 on the same prompts.
        settings: attention kernel, precision and tokens of one forward pass.
        out: update table to write.
        samples: update_samples table to write: both models' log-probabilities of every sample.

    Raises:
        UserError: for samples of another temperature, of other prompts, or only one a prompt.
    """
    from diffinfo.train.reference import score_completions

    tables = {}
    for path, other in ((policy_samples, reference), (reference_samples, policy)):
        decoding = artifacts.provenance(path).get("decoding", {})
        if decoding.get("temperature") != 1.0 or decoding.get("top_p") != 1.0:
            raise UserError(f"{path} was decoded with {decoding}: a divergence needs temperature 1 and top_p 1.")
        table = artifacts.read(path, "completions")
        scores = score_completions(other, table.prompt_token_ids.tolist(), table.token_ids.tolist(), settings)
        both = (table.logp, scores) if other == reference else (scores, table.logp)
        tables[path] = pd.DataFrame(
            {
                "by_policy": path == policy_samples,
                "prompt_id": table.prompt_id,
                "sample": table["sample"],
                "policy": both[0],
                "reference": both[1],
                "tokens": table.token_ids.map(len),
            }
        )
    own, base = tables[policy_samples], tables[reference_samples]
    sizes = [table.prompt_id.value_counts().sort_index() for table in (own, base)]
    if not sizes[0].equals(sizes[1]) or np.min(sizes[0]) < 2:
        raise UserError(
            f"{policy_samples} and {reference_samples} must answer the same prompts, each at least twice and equally often: "
            "set entropy.samples to 2 or more and sample both anew."
        )
    inputs = {"policy_samples": policy_samples, "reference_samples": reference_samples}
    artifacts.write(samples, pd.concat([own, base], ignore_index=True), "update_samples", inputs=inputs)
    artifacts.write(out, by_prompt(own, base), "update", inputs=inputs)


if __name__ == "__main__":
    run(main)
