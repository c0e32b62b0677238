"""Placebo pairs: a dataset's pairs with each one's labels swapped with probability 1/2.

``python -m diffinfo.data.permuted``
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from diffinfo.cli import log, run
from diffinfo.tables import artifacts
from diffinfo.tables.cards import dataset_card


def swapped(prompt_ids: pd.Series[str], seed: int) -> np.ndarray:
    """Whether each pair's labels are swapped; depends on ``seed`` and the pair's own prompt alone, not on other rows."""
    return np.array([int(artifacts.digest(seed, prompt_id), 16) % 2 == 1 for prompt_id in prompt_ids], dtype=bool)


def _other(column: str) -> str:
    """The column that holds the same of a pair's other side; of what has no side, itself."""
    side, _, rest = column.partition("_")
    return "_".join(filter(None, ({"chosen": "rejected", "rejected": "chosen"}.get(side, side), rest)))


def main(*, pairs: Path, seed: int, out: Path) -> None:
    """Swap labels: what each column says of y_w and of y_l changes places.

    Args:
        pairs: preferences, or reference_logps, whose log-probabilities need not be computed again.
        seed: which labels are swapped: the same in both kinds of table.
        out: the table to write, of the same kind.
    """
    made = artifacts.provenance(pairs)
    swaps: list[bool] = []

    def mixed() -> Iterator[pa.Table]:
        for part in artifacts.batches(pairs, made["kind"]):
            swap = swapped(part["prompt_id"].to_pandas(), seed)
            swaps.extend(swap.tolist())
            yield pa.table(
                {name: pc.if_else(pa.array(swap), part[_other(name)], part[name]) for name in part.column_names}
            )

    facts = {name: made[name] for name in ("dtype",) if name in made}
    artifacts.write(out, mixed(), made["kind"], inputs={"pairs": pairs}, labels_seed=seed, **facts)
    log.info("%d of %d pairs have their labels swapped", sum(swaps), len(swaps))
    if made["kind"] == "preferences":
        what = f"The pairs of {pairs.parent.name}, each one's labels swapped with probability 1/2: a placebo."
        dataset_card(out.parent, out.parent.name, what)


if __name__ == "__main__":
    run(main)
