"""Log-probabilities of pairs that are never trained on, under every epoch of a span (ours, beside the training's own log).

``python -m diffinfo.train.heldout``
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from diffinfo.cli import run
from diffinfo.config.values import Computation
from diffinfo.tables import artifacts
from diffinfo.train.reference import reference_table


def main(*, models: Path, epochs: list[int], reference: Path, settings: Computation, out: Path) -> None:
    """Score held-out pairs with each epoch.

    Args:
        models: folder that holds epoch-K model folders.
        epochs: which of them.
        reference: reference_logps table of the held-out pairs.
        settings: attention kernel, precision and tokens of one forward pass.
        out: heldout table to write, nats.
    """
    pairs = artifacts.read(reference, "reference_logps")
    frames = []
    for epoch in epochs:
        scored = reference_table(models / f"epoch-{epoch}", pairs, settings)
        frame = pd.DataFrame(
            {
                "epoch": epoch,
                "prompt_id": pairs.prompt_id,
                "logp_chosen": scored.chosen_logp,
                "logp_rejected": scored.rejected_logp,
                "reference_logp_chosen": pairs.chosen_logp,
                "reference_logp_rejected": pairs.rejected_logp,
            }
        )
        frames.append(frame)
    inputs = {"reference": reference, **{f"epoch {epoch}": models / f"epoch-{epoch}" for epoch in epochs}}
    artifacts.write(out, pd.concat(frames, ignore_index=True), "heldout", inputs=inputs)


if __name__ == "__main__":
    run(main)
