"""Processes killed at any moment on one machine: nothing is lost, nothing is made twice, the bytes stay the same."""

import os
import signal
import time

import pytest

from faults.random_kills import processes, role, trial
from project import Project, wait_until

NANO = {
    "world": {
        "hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "teacher_steps": 2, "reward_steps": 4,
        "pairs": 200, "test_prompts": 10,
    },
    "epochs": 3,
    "betas": [0.1],
    "grid": [
        {"model": "micro-mistral", "dataset": "ultrafeedback", "methods": ["dpo", "logpi"], "measures": ["entropy"]},
    ],
    "sft": {"batch_size": 64},
    "preference": {"batch_size": 8},
    "entropy": {"prompts": 8, "max_tokens": 8},
}  # fmt: skip
TRAINING = "results/train/micro-mistral/ultrafeedback/dpo-b0.1/1-3"
LOG = "results/logs/train/micro-mistral/ultrafeedback/dpo-b0.1/1-3.log"


@pytest.mark.timeout(3600)
def test_tables_survive_random_kills(tmp_path):
    targets = ["results/tables/table1.md", "results/figures/figure2.md", "--cores", "2"]
    different, hit = trial(tmp_path, targets, NANO, kills=8, seed=3)
    assert different == []
    assert hit.total() > hit["runs"], "nothing was killed; kills that fall due after the end are not made up for"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("prepared"))
    project.snakemake("--cores", "2", "results/reference_logps/micro-mistral/ultrafeedback.parquet", changes=NANO)
    return project


@pytest.fixture
def project(prepared, tmp_path):
    return prepared.copy(tmp_path / "project")


def training(project, run):
    """The process that trains, once it has saved an epoch."""
    saved = project.folder / "results/.progress/train"
    wait_until(
        lambda: any(saved.glob("*/epoch-1/model.safetensors")), "an epoch has been saved", 120,
        alive=lambda: run.poll() is None, every=0.05,
    )  # fmt: skip
    (found,) = (process for process in processes(project) if role(process) == "diffinfo.train.preference")
    return found


def test_what_ends_behind_a_killed_snakemake_counts_and_is_recorded(project):
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    job = training(project, run)
    run.kill()
    run.ended()
    job.wait(120)
    project.snakemake("--unlock", changes=NANO)
    said = project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    assert "Nothing to be done" in said
    assert "Took over 1 job(s) that a killed run had finished" in said
    slower = {**NANO, "preference": {**NANO["preference"], "learning_rate": 1e-5}}
    assert ("preference", "dpo-b0.1") in {
        (rule, wildcards.get("method")) for rule, wildcards in project.plan(f"{TRAINING}/train_log.parquet", changes=slower)
    }  # fmt: skip


def test_another_configuration_takes_over_nothing(project):
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    job = training(project, run)
    run.kill()
    run.ended()
    job.wait(120)
    slower = {**NANO, "preference": {**NANO["preference"], "learning_rate": 1e-5}}
    project.snakemake("--unlock", changes=slower)
    targets = [f"{TRAINING.replace('dpo', method)}/train_log.parquet" for method in ("dpo", "logpi")]
    said = project.snakemake(*targets, "--cores", "1", changes=slower, check=False)
    assert "1 job(s) were finished by a run that was killed and that had another configuration" in said
    assert f"{TRAINING}/models, {TRAINING}/train_log.parquet" in said


def test_no_output_has_two_writers(project):
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    job = training(project, run)
    job.suspend()
    run.kill()
    run.ended()
    project.snakemake("--unlock", changes=NANO)
    again = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    wait_until(
        lambda: "another process is at work on the same output" in (project.folder / LOG).read_text(errors="replace"),
        "the second job waits for the first", 120, alive=lambda: again.poll() is None,
    )  # fmt: skip
    weights = next((project.folder / "results/.progress/train").glob("*/epoch-1/model.safetensors")).stat()
    job.resume()
    assert again.ended() == 0
    assert "its command was the same: nothing is left to do" in (project.folder / LOG).read_text(errors="replace")
    published = (project.folder / TRAINING / "models/epoch-1/model.safetensors").stat()
    assert (published.st_ino, published.st_mtime) == (weights.st_ino, weights.st_mtime)  # trained once
    assert not list((project.folder / "results/.progress/locks").iterdir())


def test_a_killed_training_goes_on(project):
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    job = training(project, run)
    os.kill(job.pid, signal.SIGKILL)
    happened = time.time()
    assert run.ended() != 0
    assert "Nothing that was finished is lost" in (project.folder / "snakemake.log").read_text()
    project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    assert (project.folder / TRAINING / "models/epoch-1/model.safetensors").stat().st_mtime < happened
