"""The recipes of docs/extending.md, followed to the letter in a copy of the project."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from diffinfo.tables import artifacts
from project import ROOT, cells_of

CELL = "micro-mistral/magpie-pro/ipo-b0.1"
TINY = {
    "world": {"hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "pairs": 40, "test_prompts": 10},
    "betas": [0.1], "epochs": 1,
    "grid": [{"model": "micro-mistral", "dataset": "magpie-pro", "methods": ["dpo", "ipo"]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def with_ipo(project_factory):
    """A project with the method that the recipe adds."""
    project = project_factory()
    project.environment["DIFFINFO_WARM"] = "1"
    (recipe,) = re.findall(r"## A method\n.*?```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert len(recipe.splitlines()) <= 30
    loss, line = recipe.split("\n\n        Method(")
    path = project.folder / "workflow/diffinfo/methods.py"
    text = path.read_text()
    first, last = "\n\n@dataclass(frozen=True)\nclass Method:", "    )\n}  # fmt: skip\n"
    assert (text.count(first), text.count(last)) == (1, 1)
    text = text.replace(first, f"\n\n{loss}\n{first}").replace(last, f"        Method({line}{last}")
    path.write_text(text)
    return project


def test_a_method_is_in_grid_tables_figures_evidence_and_plan(with_ipo):
    base = yaml.safe_load((with_ipo.folder / "config.yaml").read_text())
    measures = ["expected_reward", "entropy", "did", "smc", "update", "benchmarks", "qa"]
    row = {"model": "micro-mistral", "dataset": "magpie-pro", "methods": ["ipo"], "measures": measures}
    shown = with_ipo.snakemake("-n", "-p", changes={"grid": [*base["grid"], row]})
    readers = re.findall(rf"diffinfo\.report\.\w+ (\w+) .*{CELL}/", shown)
    ours = {
        "table1",
        "table2",
        "table3",
        "updates",
        "did_smc",
        *(f"figure{n}" for n in (2, 3, 5, 6, 8, 9, 10, 11, 13)),
    }  # 12: Gemma's
    assert set(readers) == ours
    trained = re.findall(r"--settings={\"method\":\"(.*?)\"", shown)
    assert {name for name in trained if "ipo" in name} == {f"ipo-b{beta:g}" for beta in base["betas"]}
    command = [sys.executable, "-m", "diffinfo.operations.plan", "--configfile", "changes.yaml", "--json"]
    environment = {**with_ipo.environment, "PYTHONPATH": "workflow"}
    told = subprocess.run(command, cwd=with_ipo.folder, capture_output=True, text=True, env=environment, check=True)
    planned = {(row["rule"], row["model"], row["dataset"]): row["jobs"] for row in json.loads(told.stdout)}
    rules = {
        None: "preference",
        "qa": "qa",
        "did": "did_entropy",
        "smc": "smc",
        "update": "update",
        "benchmarks": "arena_hard",
    }
    for measure, rule in rules.items():
        here = [[None, *cell[3]] for cell in cells_of(base) if cell[:2] == ("micro-mistral", "magpie-pro")]
        before = sum((measure in asked) + (measure == "did" and "did_sampled" in asked) for asked in here)
        own = before + len(base["betas"]) + (measure == "qa")  # that of pi_ref too
        assert planned[rule, "micro-mistral", "magpie-pro"] == own


def test_a_method_is_trained_and_drawn(with_ipo):
    with_ipo.snakemake("--cores", "2", "results/figures/figure2.md", changes=TINY)
    log = artifacts.read(with_ipo.folder / f"results/train/{CELL}/1-1/train_log.parquet", "train_log")
    assert log.loss[0] == pytest.approx((0.5 / 0.1) ** 2, abs=1e-3)  # pi is pi_ref: both margins are equal
    data = artifacts.read(with_ipo.folder / "results/figures/figure2.parquet", "figure2")
    assert set(data.method) == {"dpo-b0.1", "ipo-b0.1"}
    drawing = with_ipo.folder / "results/figures/figure2"
    assert "IPO β = 0.1" in drawing.with_suffix(".md").read_text()
    assert "#117733" in drawing.with_suffix(".svg").read_text()
