"""Log-probabilities of pairs that are never trained on, under every epoch of a span (ours, beside the training's own log).

``python -m diffinfo.train.heldout``
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from diffinfo.cli import run
from diffinfo.config.values import Computation
from diffinfo.methods import dpo, parse
from diffinfo.tables import artifacts
from diffinfo.train.preference import WATCHED_BETA, Pairs
from diffinfo.train.reference import reference_table


class Settings(Computation):
    """How pairs are scored.

    Attributes:
        method: full name, such as dpo-b0.1: the DPO loss is that of its beta, or of 0.1 where it has none.
    """

    method: str


def main(*, models: Path, epochs: list[int], reference: Path, settings: Settings, out: Path) -> None:
    """Score held-out pairs with each epoch.

    Args:
        models: folder that holds epoch-K model folders.
        epochs: which of them.
        reference: reference_logps table of the held-out pairs.
        settings: see ``Settings``.
        out: heldout table to write, nats.
    """
    pairs = artifacts.read(reference, "reference_logps")
    every, beta = list(range(len(pairs))), parse(settings.method).beta or WATCHED_BETA
    frames = []
    for epoch in epochs:
        scored = reference_table(models / f"epoch-{epoch}", pairs, settings)
        w, r = (torch.tensor(scored[side].tolist(), dtype=torch.float64) for side in ("chosen_logp", "rejected_logp"))
        frame = pd.DataFrame(
            {
                "epoch": epoch,
                "prompt_id": pairs.prompt_id,
                "logp_chosen": scored.chosen_logp,
                "logp_rejected": scored.rejected_logp,
                "reference_logp_chosen": pairs.chosen_logp,
                "reference_logp_rejected": pairs.rejected_logp,
                "dpo_loss": dpo(Pairs(pairs).logps(every, w, r), beta),
            }
        )
        frames.append(frame)
    inputs = {"reference": reference, **{f"epoch {epoch}": models / f"epoch-{epoch}" for epoch in epochs}}
    artifacts.write(out, pd.concat(frames, ignore_index=True), "heldout", inputs=inputs, method=settings.method)


if __name__ == "__main__":
    run(main)
