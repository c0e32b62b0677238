"""The table of Arena-Hard v2: each cell's rows, in the paper's order, as its categories' tables have them."""

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.report import arena_hard_v2
from diffinfo.tables import artifacts
from pages import lines


def test_every_category_of_every_cell_has_a_row(tmp_path: Path) -> None:
    def categories(dataset: str, method: str, epoch: int, rates: dict[str, float]) -> Path:
        path = tmp_path / f"results/arena_hard/mistral/{dataset}/{method}/final/categories.parquet"
        rows: list[dict[str, Any]] = [
            {
                "epoch": epoch, "win_rate": rate, "low": rate - 2, "high": rate + 3, "controlled": rate + 10,
                "controlled_low": rate + 6, "controlled_high": rate + 15, "games": 1500, "unscored": 7,
                "mean_tokens": 12.0, "baseline_mean_tokens": 34.0, "category": name,
            }
            for name, rate in rates.items()
        ]  # fmt: skip
        artifacts.write(path, pd.DataFrame(rows), "categories")
        return path

    inputs = [
        categories("magpie-pro", "dpo-pg", 2, {"hard": 40.0}),
        categories("ultrafeedback", "dpo-pg", 1, {"hard": 10.0}),
        categories("magpie-pro", "dpo-b0.1", 4, {"hard": 20.0, "soft": 30.0}),
    ]
    out = tmp_path / "results/tables/arena_hard_v2.parquet"
    arena_hard_v2.main(inputs=inputs, out=out)
    table = artifacts.read(out, "arena_hard_v2")
    rows = table[["dataset", "method", "category", "epoch", "win_rate", "controlled"]].to_numpy().tolist()
    assert rows == [
        ["ultrafeedback", "dpo-pg", "hard", 1, 10.0, 20.0],
        ["magpie-pro", "dpo-b0.1", "hard", 4, 20.0, 30.0],
        ["magpie-pro", "dpo-b0.1", "soft", 4, 30.0, 40.0],
        ["magpie-pro", "dpo-pg", "hard", 2, 40.0, 50.0],
    ]
    (line,) = [line for line in lines(out.with_suffix(".md"), "method") if line["category"] == "soft"]
    assert line == {
        "method": "DPO β = 0.1", "category": "soft", "epoch": "4", "win rate": "30.0 (-2.0, +3.0)",
        "at equal lengths": "40.0 (-4.0, +5.0)", "games": "1,500", "without a verdict": "7", "tokens": "12",
        "tokens of the baseline": "34",
    }  # fmt: skip
