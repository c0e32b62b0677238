"""What a run took, from benchmark files written by hand."""

import json
from pathlib import Path

import pytest

from diffinfo.config.reading import load
from diffinfo.config.types import Config
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.operations.spent import jobs, spent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmarks(tmp_path) -> Path:
    """Five jobs of three rules, of which two share a folder."""
    folder = tmp_path / "benchmarks"
    for name, seconds in {
        "sft/micro-mistral/magpie-pro": 36, "train/micro-mistral/magpie-pro/dpo-b0.1/1-3": 3600,
        "train/micro-gemma2/magpie-pro/dpo-pg/1-3": 1800, "train/micro-mistral/magpie-pro/dpo-pg/1-3.heldout": 7,
        "report/grid": 4, "sft/of-another-run/magpie-pro": 5, "sft/micro-mistral/magpie-pro.other": 5,
    }.items():  # fmt: skip
        file = folder / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t1\n")
    return folder


def test_a_pattern_finds_its_own_jobs_alone(benchmarks):
    cell = f"{benchmarks}/train/{{model}}/{{dataset}}/{{method}}/{{span,\\d+-\\d+}}"
    found = {wildcards["model"]: seconds for wildcards, seconds in jobs(f"{cell}.tsv")}
    assert found == {"micro-mistral": 3600, "micro-gemma2": 1800}
    (heldout,) = jobs(f"{cell}.heldout.tsv")
    assert heldout == ({"model": "micro-mistral", "dataset": "magpie-pro", "method": "dpo-pg", "span": "1-3"}, 7)
    assert [
        seconds for _, seconds in jobs(f"{benchmarks}/sft/{{model,micro-(?:a|mistral)}}/{{dataset,magpie-pro}}.tsv")
    ] == [36]
    assert list(jobs(f"{benchmarks}/report/grid.tsv")) == [({}, 4)]
    assert list(jobs(f"{benchmarks}/report/claims.tsv")) == list(jobs(f"{benchmarks}/none/{{model}}.tsv")) == []


def test_hours_are_those_measured_and_dollars_those_assumed(benchmarks):
    config = load(ROOT / "config.yaml")
    patterns = {
        "sft": f"{benchmarks}/sft/{{model,micro-mistral}}/{{dataset,magpie-pro}}.tsv",
        "preference": f"{benchmarks}/train/{{model}}/{{dataset}}/{{method}}/{{span,\\d+-\\d+}}.tsv",
        "grid": f"{benchmarks}/report/grid.tsv",
    }
    found = {(row.rule, row.model): row for row in spent(config, patterns).itertuples()}
    assert set(found) == {
        ("sft", "micro-mistral"),
        ("preference", "micro-mistral"),
        ("preference", "micro-gemma2"),
        ("grid", ""),
    }
    row = found["preference", "micro-mistral"]
    price = read_assumptions().hardware["cpu"].dollars_per_hour
    assert (row.jobs, row.hours, row.gpu_hours, row.hardware) == (1, 1.0, 0.0, "cpu")
    assert row.dollars == pytest.approx(price)
    assert found["grid", ""].hours == pytest.approx(4 / 3600)


def test_hours_of_gpus_count_each_gpu(tmp_path):
    config = load(None, ROOT / "workflow/presets/paper.yaml")
    name, dataset = config.grid[0].model, config.grid[0].dataset
    file = tmp_path / f"{name}/{dataset}/dpo-b0.1/1-1.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("s\n7200\n")
    (row,) = spent(config, {"preference": f"{tmp_path}/{{model}}/{{dataset}}/{{method}}/{{span}}.tsv"}).itertuples()
    cost = Costs(config, read_assumptions()).job("preference", {"model": name, "dataset": dataset, "span": "1-1"})
    assert cost.gpus == config.preference.processes > 1
    assert row.gpu_hours == 2 * cost.gpus
    assert row.dollars == pytest.approx(2 * cost.gpus * read_assumptions().hardware[cost.hardware].dollars_per_hour)


def test_nothing_that_ran_is_a_table_without_rows():
    assert spent(load(ROOT / "config.yaml"), {"grid": "nowhere.tsv"}).empty


def test_a_configuration_survives_the_command_line():
    config = load(ROOT / "config.yaml")
    assert (
        Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))).model_dump()
        == config.model_dump()
    )
