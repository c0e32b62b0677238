"""Tables made in parts that outlive a killed job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from diffinfo.cli import log
from diffinfo.tables import artifacts

ROWS = 20_000  # of a part: about an hour of a 27B model's sampling, against minutes of loading it


def in_shards(
    folder: Path | None, kind: str, items: int, make: Callable[[int, int], pd.DataFrame], rows_an_item: int = 1
) -> pd.DataFrame:
    """A table of ``kind`` over ``items`` items, such as prompts.

    Args:
        folder: where parts wait for the rest, named by a digest of all that they depend on; None: nowhere.
        make: the rows of the items from the first number up to, without it, the second.
        rows_an_item: how many rows an item gives.
    """
    step = max(1, ROWS // rows_an_item)
    if folder is None:
        return make(0, items)
    parts = []
    for first in range(0, max(1, items), step):
        file = folder / f"{first}.parquet"
        if file.exists():
            log.info("items %d to %d of %d were done before", first, min(first + step, items), items)
        else:
            artifacts.write(file, make(first, min(first + step, items)), kind)
        parts.append(artifacts.read(file, kind))
    return pd.concat(parts, ignore_index=True)
