"""Real public data through the real workflow, by changing one path each; a world too small to learn anything."""

import subprocess
import sys

import pytest

from diffinfo import artifacts

NANO = {
    "world": {
        "hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "teacher_steps": 2, "reward_steps": 4,
        "pairs": 40, "test_prompts": 10,
    },
    "epochs": 1,
    "answers": {"max_tokens": 12},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(project_factory):
    project = project_factory()
    project.snakemake("--cores", "2", "results/base/micro-mistral", "results/base/micro-reward", changes=NANO)
    return project


def test_real_magpie_rows_become_pairs_and_train_a_model(world, public_data):
    source = public_data / "magpie" / "example_instructions_5res_armorm.json"
    changes = {**NANO, "datasets": {"magpie-pro": {"source": str(source)}}}
    log = "results/train/micro-mistral/magpie-pro/dpo-pg/1-1/train_log.parquet"
    world.snakemake("--cores", "2", log, changes=changes)
    pairs = artifacts.read(world.folder / "results/data/magpie-pro/preferences.parquet", "preferences")
    assert len(pairs) == 2
    assert (pairs.chosen_score > pairs.rejected_score).all()
    assert "POST request" in pairs.messages[0][0]["content"]
    table = artifacts.read(world.folder / "results/reference_logps/micro-mistral/magpie-pro.parquet", "reference_logps")
    assert table.chosen_ids.map(len).min() > 500  # real responses, in bytes
    steps = artifacts.read(world.folder / log, "train_log")
    assert steps.dpo_loss[0] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("questions", ["question.HEAD.jsonl", "question.3071ef9.jsonl"])
def test_real_arena_hard_questions_are_answered_and_judged(world, public_data, questions):
    folder = public_data / "arena-hard"
    arena = {
        "questions": str(folder / questions), "baseline": str(folder / "answer.gpt-4-0314.HEAD.jsonl"), "limit": 5,
    }  # fmt: skip
    target = "results/arena_hard/micro-mistral/ultrafeedback/dpo-b0.1/final"
    world.snakemake("--cores", "2", f"{target}/winrates.parquet", changes={**NANO, "arena_hard": arena})
    benchmark = artifacts.read(world.folder / "results/bench/arena-hard.parquet", "benchmark")
    assert len(benchmark) == 5
    assert benchmark.baseline.str.len().min() > 100
    judgments = artifacts.read(world.folder / f"{target}/judgments.parquet", "judgments")
    assert len(judgments) == 10  # two games a question
    rate = artifacts.read(world.folder / f"{target}/winrates.parquet", "winrates").iloc[0]
    assert 0 <= rate.low <= rate.win_rate <= rate.high <= 100
    assert rate.baseline_mean_tokens > 100


def test_the_plan_is_set_against_what_jobs_took(world):
    world.snakemake("-n", changes=NANO)  # writes changes.yaml
    done = subprocess.run(
        [sys.executable, "-m", "diffinfo.plan", "--configfile", "changes.yaml", "--actual"],
        cwd=world.folder, capture_output=True, text=True, env={**world.environment, "PYTHONPATH": "workflow"}, check=True,
    )  # fmt: skip
    rows = {row.split()[0]: row.split()[1:] for row in done.stdout.splitlines() if row.startswith("world_model")}
    jobs, estimated, actual, ratio = map(float, rows["world_model"])
    assert jobs == 3  # base, teacher, reward
    assert float(ratio) == pytest.approx(actual / estimated, rel=1e-2)
    assert actual > 0
    assert "GB found in results/" in done.stdout
