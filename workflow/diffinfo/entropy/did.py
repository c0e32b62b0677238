"""Entropy of the Differential Information Distribution by a proxy policy (Appendix K), and how far to trust it (K.1).

q = pi/pi_ref (normalised) is the preference distribution of pairs y_w ~ pi, y_l ~ pi_ref (Theorem 3.3 with beta = 1), and
r = log pi~ fits it (Theorem 2.1): ``pairs`` builds that table, ``diffinfo.train.preference`` trains pi~ with logpi-b1, and
``measure`` reads H(pi~) and the beta'-accuracy from pi~'s samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from diffinfo.cli import UserError, log, run
from diffinfo.config.estimates import Entropy
from diffinfo.config.types import Engine
from diffinfo.config.values import Computation
from diffinfo.entropy.policy import estimate
from diffinfo.tables import artifacts


def pairs(*, chosen: Path, rejected: Path, out: Path) -> None:
    """Join completions of pi and of pi_ref into the table the trainer reads.

    Identical pairs stay: they are draws like any other, and their gradient under r = log pi~ is zero.

    Args:
        chosen: completions of pi.
        rejected: completions of pi_ref on the same prompts.
        out: reference_logps table to write, without log-probabilities: logpi reads none.
    """
    columns = ["prompt_id", "sample", "prompt_token_ids", "token_ids"]
    w, r = (artifacts.load(path, "completions", columns) for path in (chosen, rejected))
    keys = [
        table.select(columns[:2]).to_pandas().assign(**{side: range(len(table))})
        for side, table in (("w", w), ("r", r))
    ]
    both = keys[0].merge(keys[1], on=columns[:2], how="inner", validate="one_to_one")
    if len(both) != len(w) or len(both) != len(r):
        raise UserError(
            f"{chosen} and {rejected} answer different prompts: {len(both)} of {len(w)} and {len(r)} match."
        )
    w, r = w.take(both.w.to_numpy()), r.take(both.r.to_numpy())
    same = float(np.mean([one == other for one, other in zip(w["token_ids"], r["token_ids"], strict=True)]))
    log.info("%d pairs, %.0f %% of them identical", len(both), 100 * same)
    none = pa.nulls(len(w), pa.float64())
    table = pa.table(
        {
            "prompt_id": w["prompt_id"],
            "prompt_ids": w["prompt_token_ids"],
            "chosen_ids": w["token_ids"],
            "rejected_ids": r["token_ids"],
            "chosen_logp": none,
            "rejected_logp": none,
        }
    )
    artifacts.write(out, table, "reference_logps", inputs={"chosen": chosen, "rejected": rejected}, identical=same)


def beta_accuracy(prompts: pd.Series, proxy: np.ndarray, ratio: np.ndarray) -> float:
    """Share of prompts whose slope of log pi~(y) on log pi*(y)/pi_ref(y), by least squares over its samples, is >= 0.

    Args:
        prompts: prompt of each sample [samples].
        proxy: log pi~ [samples], nats.
        ratio: log pi* - log pi_ref [samples], nats.

    A prompt whose samples all have one ratio has no slope and does not count; with no other prompt the result is NaN.
    """
    frame = pd.DataFrame({"x": ratio, "y": proxy}).groupby(prompts.to_numpy())
    centred = frame.transform(lambda column: column - column.mean())
    products = pd.DataFrame({"xy": centred.x * centred.y, "xx": centred.x**2}).groupby(prompts.to_numpy()).sum()
    products = products[products.xx > 1e-12]
    return float((products.xy >= 0).mean()) if len(products) else float("nan")


class Settings(Computation):
    """How pi~ is sampled and its samples are scored.

    Attributes:
        entropy: the part of the configuration.
        engine: the part of the configuration.
        max_prompt_tokens: longer prompts are left out.
        skip: prompts that pi~ has seen.
    """

    entropy: Entropy
    engine: Engine
    max_prompt_tokens: int
    skip: int


def measure(
    *,
    proxy: Path,
    prompts: Path,
    policy: Path,
    reference: Path,
    settings: Settings,
    samples: Path,
    out: Path,
    progress_dir: Path | None = None,
) -> None:
    """Sample pi~ on prompts it has not seen; write its entropy and its beta'-accuracy.

    Args:
        proxy: model folder of pi~.
        prompts: prompts table; pi~ was trained on the first ``skip`` of its seeded permutation.
        policy: model folder of pi.
        reference: model folder of pi_ref.
        settings: see ``Settings``.
        samples: completions table to write.
        out: entropy table to write.
        progress_dir: where parts of the samples wait; they outlive a killed job.
    """
    from diffinfo.sample import complete
    from diffinfo.train.reference import score_completions

    entropy = settings.entropy
    sampling = complete.Settings(
        **settings.model_dump(include={"engine", "attention", "dtype", "max_prompt_tokens", "skip"}),
        max_tokens=entropy.max_tokens, n=entropy.samples, temperature=1.0, seed=entropy.seed, limit=entropy.prompts,
    )  # fmt: skip
    complete.main(models=proxy, prompts=[prompts], out=samples, settings=sampling, progress_dir=progress_dir)
    table = artifacts.read(samples, "completions")
    # Each distinct sample is scored once: the rounding between two scores of one text would pass for a slope.
    sample = table.assign(text=table.token_ids.map(tuple)).groupby(["prompt_id", "text"], sort=False).ngroup()
    distinct = table[~sample.duplicated()]
    target, base = (
        np.array(score_completions(folder, distinct.prompt_token_ids.tolist(), distinct.token_ids.tolist(), settings))[
            sample.to_numpy()
        ]
        for folder in (policy, reference)
    )
    accuracy = beta_accuracy(table.prompt_id, table.logp.to_numpy(), target - base)
    row = pd.DataFrame([{**estimate(table), "beta_accuracy": accuracy}])
    artifacts.write(out, row, "entropy", inputs={"samples": samples, "policy": policy, "reference": reference})


if __name__ == "__main__":
    run({"pairs": pairs, "measure": measure})
