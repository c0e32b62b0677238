"""docs/example.md, run as it stands on a tiny results folder: a table like the real one and a model with random weights."""

import re
from pathlib import Path

import pandas as pd
import pytest

from diffinfo.measures import NUMBERS
from diffinfo.world.training import start

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/example.md").read_text(), re.M | re.S)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two cells of three epochs and pi_ref; the last epoch of one as a model."""
    rows = [("ref", 0), *((method, epoch) for method in ("dpo-b0.1", "dpo-pg") for epoch in (1, 2, 3))]
    table = pd.DataFrame(rows, columns=["method", "epoch"]).assign(model="micro-mistral", dataset="magpie-pro")
    table["logp_chosen"] = -20.0 - table.epoch
    table = table.assign(logp_chosen_low=table.logp_chosen - 1, logp_chosen_high=table.logp_chosen + 1)
    (tmp_path / "results/tables").mkdir(parents=True)
    table.to_parquet(tmp_path / "results/tables/grid.parquet")
    folder = tmp_path / "results/train/micro-mistral/magpie-pro/dpo-b0.1/1-3/models/epoch-3"
    folder.parent.mkdir(parents=True)
    start(folder, "mistral", hidden=32, layers=1, seed=0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_runs(results, capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    assert len(BLOCKS) == 3
    said = capsys.readouterr().out
    assert "dpo-pg" in said
    assert (results / "logp_chosen.png").stat().st_size > 5000
    assert [line.get_xdata().tolist() for line in names["axis"].lines] == [[1, 2, 3]] * 2
    assert isinstance(names["ask"]("add 4 and 8"), str)


def test_its_columns_are_the_grids():
    assert "logp_chosen" in NUMBERS
