"""WildBench in Table 3 and the claims: Elo of all cells in one pool, and their mean scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import UserError
from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import mean
from diffinfo.report.cells import cell
from diffinfo.tables import artifacts


def elo_rows(judgments: list[Path], wildbench: WildBench) -> dict[tuple[str, str, str], dict[str, Any]]:
    """WildBench Elo of every cell, all of them in one pool."""
    if not judgments:
        return {}
    tables = {cell(path).key: artifacts.read(path, "judgments") for path in judgments}
    for path, table in zip(judgments, tables.values(), strict=True):
        if table.epoch.nunique() != 1:
            raise UserError(f"{path} holds {table.epoch.nunique()} epochs, Table 3 needs the best one alone.")
    ratings = rated(tables, wildbench)
    found = {}
    for key, table in tables.items():
        rating = ratings.loc["/".join(key)]
        found[key] = {
            "elo": rating.elo,
            "elo_low": rating.low,
            "elo_high": rating.high,
            "battles": rating.battles,
            **dict(zip(("score", "score_low", "score_high", "tasks"), _score(table), strict=True)),
            "wildbench_tokens": table.tokens.mean(),
        }
    return found


def rated(tables: dict[tuple[str, str, str], pd.DataFrame], wildbench: WildBench) -> pd.DataFrame:
    """What ``wildbench.elo`` gives of these cells' judgments, and anchors', as one pool; indexed by MODEL/DATASET/METHOD."""
    from diffinfo.bench.exchange import anchors
    from diffinfo.bench.wildbench import elo

    initial, public = anchors(wildbench.anchors) if wildbench.anchors else ({}, pd.DataFrame())
    pool = pd.concat(
        [table[["prompt_id", "score", "chars"]].assign(model="/".join(key)) for key, table in tables.items()] + [public]
    )
    return elo(
        pool, initial=initial, rounds=wildbench.rounds, seed=wildbench.seed,
        win_margin=wildbench.win_margin, length_margin=wildbench.length_margin,
    ).set_index("model")  # fmt: skip


def _score(judgments: pd.DataFrame) -> tuple[float, float, float, int]:
    """Mean judge score with its interval over tasks, and how many were scored."""
    found = mean(judgments.score.dropna())
    return found.value, found.low, found.high, found.n
