"""Entropy of a policy from its own samples (Appendix K): H(pi) ~ -(1/N) sum log pi(y_i), in nats.

``python -m diffinfo.entropy.policy``
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.compute as pc

from diffinfo.cli import run
from diffinfo.tables import artifacts


def estimate(completions: pd.DataFrame) -> dict[str, float]:
    """Monte-Carlo entropy of a completions frame sampled at T = 1; ``tokens``, their number, may stand for token_ids.

    The standard error is over prompts: samples of one prompt are averaged first.
    """
    tokens = completions.tokens if "tokens" in completions else completions.token_ids.map(len)
    by_prompt = (-completions.logp).groupby(completions.prompt_id).mean()
    return {
        "entropy": float(by_prompt.mean()),
        "stderr": float(by_prompt.sem(ddof=1)) if len(by_prompt) > 1 else float("nan"),
        "prompts": len(by_prompt),
        "samples": len(completions),
        "truncated": float((completions.finish_reason == "length").mean()),
        "mean_tokens": float(tokens.mean()),
    }


def main(*, completions: Path, out: Path) -> None:
    """Estimate the entropy of the policy that wrote the completions.

    Args:
        completions: completions table sampled at temperature 1 with top_p 1.
        out: entropy table to write.
    """
    decoding = artifacts.provenance(completions).get("decoding", {})
    if decoding.get("temperature") != 1.0 or decoding.get("top_p") != 1.0:
        raise artifacts.ArtifactError(
            f"{completions} was decoded with {decoding}: an entropy needs temperature 1 and top_p 1."
        )
    samples = pd.concat(
        artifacts.frame(part.drop_columns("token_ids")).assign(tokens=pc.list_value_length(part["token_ids"]))
        for part in artifacts.batches(completions, "completions", ["prompt_id", "logp", "finish_reason", "token_ids"])
    )
    table = pd.DataFrame([estimate(samples)]).assign(beta_accuracy=None)
    artifacts.write(out, table, "entropy", inputs={"completions": completions})


if __name__ == "__main__":
    run(main)
