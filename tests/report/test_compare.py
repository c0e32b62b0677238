"""Two runs: a run differs from itself in nothing, and with one beta changed in that beta's cells alone."""

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from diffinfo.cli import UserError
from diffinfo.report import claims, compare, grid

ROW = "micro-mistral/magpie-pro"


def make(tree, folder: Path, betas: list[float], chosen: float = -3.0) -> Path:
    """A results folder with a grid of trainings and QA, claims and a configuration."""
    tree.root, tree.rng = folder / "results", type(tree)(folder).rng
    methods = [f"dpo-b{beta:g}" for beta in betas] + ["dpo-pg"]
    inputs = [tree.log(f"{ROW}/{method}", chosen, -9, noise=0.3 * (method != "dpo-pg")) for method in methods]
    inputs += [tree.qa(f"{ROW}/dpo-pg", [0.5])]
    grid.main(inputs=inputs, out=folder / "tables/grid.parquet")
    claims.main(inputs=[], out=folder / "claims.parquet")
    shutil.rmtree(folder / "results")
    (folder / "config.yaml").write_text(yaml.safe_dump({"betas": betas, "epochs": 5, "grid": [{"methods": ["dpo"]}]}))
    return folder


def sections(page) -> dict[str, list]:
    found: dict[str, list] = {}
    for part in page.parts[1:]:
        if isinstance(part, str) and part.startswith("## "):
            head = part[3:]
        else:
            found.setdefault(head, []).append(part)
    return found


def test_nothing_differs_of_a_run_with_itself(tree, tmp_path):
    a = make(tree, tmp_path / "a", [0.2, 0.1])
    page, gaps = compare.comparison(a, a)
    assert gaps.empty
    found = sections(page)
    assert found["Configuration"] == found["Verdicts"] == ["Nothing differs."]
    assert found["Cells of one run alone"] == ["None."]
    assert found["Numbers"][0].startswith(
        "15 rows (cells by epoch and seed) are in both runs; 0 of their numbers differ"
    )


def test_with_another_beta_its_cells_alone_differ(tree, tmp_path):
    a, b = make(tree, tmp_path / "a", [0.2, 0.1]), make(tree, tmp_path / "b", [0.2, 0.05])
    page, gaps = compare.comparison(a, b)
    found = sections(page)
    (config,) = found["Configuration"]
    assert config.to_numpy().tolist() == [["betas", "[0.2, 0.1]", "[0.2, 0.05]"]]
    assert found["Cells of one run alone"] == [
        f"{a}: micro-mistral on Magpie-Pro, DPO β = 0.1, seed 1.",
        f"{b}: micro-mistral on Magpie-Pro, DPO β = 0.05, seed 1.",
    ]
    assert gaps.empty


def test_differences_have_the_interval_of_independent_errors(tree, tmp_path):
    a, b = make(tree, tmp_path / "a", [0.1]), make(tree, tmp_path / "b", [0.1], chosen=-4.0)
    page, gaps = compare.comparison(a, b)
    both = [
        pd.read_parquet(folder / "tables/grid.parquet").query("method == 'dpo-b0.1' and epoch == 5")
        for folder in (a, b)
    ]
    one, other = (frame.iloc[0] for frame in both)
    row = gaps[(gaps.method == "dpo-b0.1") & (gaps.epoch == 5) & (gaps.measure == "logp_chosen")].iloc[0]
    half = math.hypot(*((r.logp_chosen_high - r.logp_chosen_low) / 2 for r in (one, other)))
    assert (row.a, row.b) == (one.logp_chosen, other.logp_chosen)
    assert row.difference == pytest.approx(other.logp_chosen - one.logp_chosen)
    assert (row.low, row.high) == pytest.approx((row.difference - half, row.difference + half))
    assert set(gaps.measure) == {"logp_chosen", "margin"}  # the rest is the same in both
    assert (page.parts[-3].columns[3:] == ["A", "B", "B − A", "beyond its interval"]).all()


def test_what_cannot_be_compared_is_said(tree, tmp_path):
    a = make(tree, tmp_path / "a", [0.1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty/tables/grid\.parquet is not there"):
        compare.comparison(a, tmp_path / "empty")
    (a / "config.yaml").unlink()
    assert "config.yaml" in sections(compare.comparison(a, a)[0])["Configuration"][0]


def test_rows_of_a_list_are_named_by_their_number():
    a = {"grid": [{"model": "x"}, {"model": "y"}], "seeds": [1]}
    b = {"grid": [{"model": "x"}, {"model": "z"}, {"model": "w"}], "seeds": []}
    found = list(compare.keys(a, b))
    assert found == [("grid.1.model", "y", "z"), ("grid.2", "", "{'model': 'w'}"), ("seeds", "[1]", "[]")]


def test_pages_are_written_where_they_are_asked_for(tree, tmp_path, capsys):
    a = make(tree, tmp_path / "a", [0.1])
    compare.main(a, a, out=tmp_path / "out")
    assert capsys.readouterr().out == (tmp_path / "out/comparison.md").read_text()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".html", ".tex", ".csv"}
