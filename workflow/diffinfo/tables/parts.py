"""Tables made in parts that outlive a killed job, and that several jobs may share.

How a table is cut depends on its size alone: neither a kill nor the number of jobs changes a byte of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from diffinfo.cli import UserError, log
from diffinfo.tables import artifacts

ROWS = 20_000  # of a part: about an hour of a 27B model's sampling, against minutes of loading it
PARTS = "parts"  # in what a share leaves: the name of the folder of its parts
Share = tuple[int, int]  # this job's number, from 1, and how many there are


def starts(items: int, rows_an_item: int = 1, share: Share = (1, 1)) -> range:
    """Numbers of the first items of the parts of one job: of n jobs the k-th makes every n-th part from the k-th."""
    step = max(1, ROWS // rows_an_item)
    number, jobs = share
    return range((number - 1) * step, max(1, items), jobs * step)


def fraction(share: str, items: int, rows_an_item: int = 1) -> float:
    """The fraction of a table's parts that a share makes, such as "3-of-8"."""
    number, jobs = map(int, share.split("-of-"))
    return len(starts(items, rows_an_item, (number, jobs))) / len(starts(items, rows_an_item))


def in_shards(
    folder: Path | None, kind: str, items: int, make: Callable[[int, int], pd.DataFrame], rows_an_item: int = 1
) -> Iterator[pa.Table]:
    """The parts of a table of ``kind`` over ``items`` items, such as prompts: all are made, then read one after the other.

    Args:
        folder: where parts wait for the rest, named by a digest of all that they depend on; None: nowhere.
        make: the rows of the items from the first number up to, without it, the second.
        rows_an_item: how many rows an item gives.
    """
    if folder is None:
        return iter([artifacts.table(make(0, items), kind, Path(kind))])
    files = make_shards(folder, kind, items, make, rows_an_item)
    return (artifacts.load(file, kind) for file in files)


def make_shards(
    folder: Path,
    kind: str,
    items: int,
    make: Callable[[int, int], pd.DataFrame],
    rows_an_item: int = 1,
    share: Share = (1, 1),
) -> list[Path]:
    """Make the parts of this job's ``share`` that are not there yet; returns all of its share's files. See ``in_shards``."""
    step = max(1, ROWS // rows_an_item)
    files = []
    for first in starts(items, rows_an_item, share):
        file = folder / f"{first}.parquet"
        if file.exists():
            log.info("items %d to %d of %d were done before", first, min(first + step, items), items)
        else:
            artifacts.write(file, make(first, min(first + step, items)), kind)
        files.append(file)
    return files


def share_done(out: Path, saved: Path) -> None:
    """Leave a folder that says to Snakemake that the parts of a share are made, as long as ``saved`` holds them."""
    with artifacts.whole_folder(out) as folder:
        (folder / PARTS).write_text(saved.name)


def place(progress_dir: Path | None, share: Share | None, name: str) -> Path | None:
    """The folder of a table's parts; None where they wait nowhere.

    Raises:
        UserError: when a job makes a share of them and they have no place to wait.
    """
    if share and not progress_dir:
        raise UserError(
            "--share: the parts of a table need a folder to wait in for those of other jobs; give --progress_dir."
        )
    return progress_dir and progress_dir / name
