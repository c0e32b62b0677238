"""Placebo pairs: a dataset's pairs with each one's labels swapped with probability 1/2.

``python -m diffinfo.data.permuted``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diffinfo.cli import log, run
from diffinfo.tables import artifacts


def swapped(prompt_ids: pd.Series[str], seed: int) -> np.ndarray:
    """Whether each pair's labels are swapped; depends on ``seed`` and the pair's own prompt alone, not on other rows."""
    return np.array([int(artifacts.digest(seed, prompt_id), 16) % 2 == 1 for prompt_id in prompt_ids], dtype=bool)


def main(*, pairs: Path, seed: int, out: Path) -> None:
    """Swap labels: what each column says of y_w and of y_l changes places.

    Args:
        pairs: preferences, or reference_logps, whose log-probabilities need not be computed again.
        seed: which labels are swapped: the same in both kinds of table.
        out: the table to write, of the same kind.
    """
    made = artifacts.provenance(pairs)
    table = artifacts.read(pairs, made["kind"])
    swap = swapped(table.prompt_id, seed)
    names = {name: name.replace("chosen", "rejected", 1) for name in table if name.startswith("chosen")}
    turned = table.rename(columns=names | {rejected: chosen for chosen, rejected in names.items()})
    mixed = pd.concat([table[~swap], turned[swap]]).sort_index()
    log.info("%d of %d pairs have their labels swapped", swap.sum(), len(table))
    facts = {name: made[name] for name in ("dtype",) if name in made}
    artifacts.write(out, mixed, made["kind"], inputs={"pairs": pairs}, labels_seed=seed, **facts)


if __name__ == "__main__":
    run(main)
