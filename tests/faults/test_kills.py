"""Processes killed at any moment on one machine: nothing is lost, nothing is made twice, the bytes stay the same."""

import os
import signal
import sys
import time

import pandas as pd
import pytest

from faults.random_kills import processes, role, trial
from project import Project, wait_until

NANO = {
    "world": {
        "hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "teacher_steps": 2, "reward_steps": 4, "judge_steps": 4,
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
SLOWER = {**NANO, "preference": {**NANO["preference"], "learning_rate": 1e-5}}
TRAINING = "results/train/micro-mistral/ultrafeedback/dpo-b0.1/1-3"
LOG = "results/logs/train/micro-mistral/ultrafeedback/dpo-b0.1/1-3.log"


@pytest.mark.timeout(3600)
def test_tables_survive_random_kills(tmp_path, warm_server, monkeypatch):
    monkeypatch.setenv("DIFFINFO_SERVER", warm_server)  # kills hit work, and seldom an import
    targets = ["results/tables/table1.md", "results/figures/figure2.md", "--cores", "2"]
    different, hit = trial(tmp_path, targets, NANO, kills=8, seed=3)
    assert different == []
    assert hit.total() > hit["runs"], "nothing was killed; kills that fall due after the end are not made up for"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, warm_server):
    project = Project(tmp_path_factory.mktemp("prepared"))
    calm, project.environment = project.environment, {**project.environment, "DIFFINFO_SERVER": warm_server}
    project.snakemake("--cores", "2", "results/reference_logps/micro-mistral/ultrafeedback.parquet", changes=NANO)
    project.environment = calm  # a stage that is stopped or suspended here is a process of its own
    return project


@pytest.fixture
def project(prepared, tmp_path):
    return prepared.copy(tmp_path / "project")


def training(project, run):
    """The process that trains, once it has saved an epoch and the state at its end."""
    saved = project.folder / "results/.progress/train"
    wait_until(
        lambda: any(saved.glob("*/step-*")), "a state has been saved", 120,
        alive=lambda: run.poll() is None, every=0.05,
    )  # fmt: skip
    (found,) = (process for process in processes(project) if role(process) == "diffinfo.train.preference")
    return found


def left_behind(project, changes):
    """A training that ends after its Snakemake was killed."""
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=changes)
    job = training(project, run)
    run.kill()
    run.ended()
    job.wait(120)
    project.snakemake("--unlock", changes=changes)


def logged(project):
    """What the training has said; nothing while Snakemake has deleted the log and not begun it anew."""
    log = project.folder / LOG
    return log.read_text(errors="replace") if log.exists() else ""


def rate(project):
    """The learning rate with which the policy was trained."""
    return pd.read_parquet(project.folder / TRAINING / "train_log.parquet").learning_rate.max()


def test_what_ends_behind_a_killed_snakemake_counts_and_is_recorded(project):
    left_behind(project, NANO)
    said = project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    assert "Nothing to be done" in said
    assert "Took over 1 job(s) that a killed run had finished" in said
    assert not list((project.folder / "results/.progress/train").iterdir())  # recorded: its progress has gone
    assert ("preference", "dpo-b0.1") in {
        (rule, wildcards.get("method")) for rule, wildcards in project.plan(f"{TRAINING}/train_log.parquet", changes=SLOWER)
    }  # fmt: skip


def test_another_configuration_takes_over_nothing_and_is_not_held_up(project):
    left_behind(project, SLOWER)
    other = "results/data/magpie-pro/preferences.parquet"
    project.snakemake(other, "--cores", "1", changes=NANO)  # not touched by the remains of the killed run
    said = project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    assert f"from these inputs, or without a record of it: {TRAINING}/models, {TRAINING}/train_log.parquet" in said
    assert "are made again" in said
    assert "Took over" not in said
    assert rate(project) == pytest.approx(3e-5)
    assert "Nothing to be done" in project.snakemake("-n", f"{TRAINING}/train_log.parquet", changes=NANO)


def test_what_a_killed_run_finished_counts_though_an_older_record_exists(project):
    project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    left_behind(project, SLOWER)
    weights = project.folder / TRAINING / "models/epoch-1/model.safetensors"
    made = weights.stat().st_mtime
    said = project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=SLOWER)
    assert "Took over 1 job(s) that a killed run had finished" in said
    assert said.rstrip().splitlines()[-1].startswith("Nothing to be done")
    assert weights.stat().st_mtime == made
    assert rate(project) == pytest.approx(1e-5)


def test_what_was_made_from_other_inputs_is_made_again(project):
    """The reference policy is trained anew while a killed run's job still trains from the one before, by the same command."""
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    job = training(project, run)
    job.suspend()
    run.kill()
    run.ended()
    anew = {**NANO, "sft": {**NANO["sft"], "learning_rate": 1e-3}}
    project.snakemake("--unlock", changes=anew)
    project.snakemake("results/reference_logps/micro-mistral/ultrafeedback.parquet", "--cores", "1", changes=anew)
    job.resume()
    job.wait(120)
    before = (project.folder / TRAINING / "models/epoch-1/model.safetensors").read_bytes()
    said = project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=anew)
    assert "are made again" in said
    assert (project.folder / TRAINING / "models/epoch-1/model.safetensors").read_bytes() != before


def test_outputs_that_snakemake_deletes_are_published_again_without_training(project):
    """A job that dies after it has written its outputs and before they are recorded."""
    command = [sys.executable, "-m", "diffinfo.train.preference"]
    python = project.folder / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\n{sys.executable} "$@" && [ "$2" != {command[2]} ]\n')
    python.chmod(0o755)
    calm = dict(project.environment)
    project.environment = {**calm, "PATH": f"{python.parent}:{calm['PATH']}"}
    said = project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO, check=False)
    assert "Removing output files of failed job preference" in said
    assert not (project.folder / TRAINING / "models").exists()
    trained = next((project.folder / "results/.progress/train").glob("*/epoch-3/model.safetensors")).stat()
    assert not list((project.folder / "results/.progress/train").glob("*/step-*"))  # states would take disk
    project.environment = calm
    project.snakemake(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    published = (project.folder / TRAINING / "models/epoch-3/model.safetensors").stat()
    assert (published.st_ino, published.st_mtime) == (trained.st_ino, trained.st_mtime)
    assert "epochs 1-3:" not in (project.folder / LOG).read_text()  # the bar of a training
    assert not list((project.folder / "results/.progress/train").iterdir())


def test_no_output_has_two_writers(project):
    run = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    job = training(project, run)
    job.suspend()
    run.kill()
    run.ended()
    project.snakemake("--unlock", changes=NANO)
    again = project.start(f"{TRAINING}/train_log.parquet", "--cores", "1", changes=NANO)
    wait_until(
        lambda: "another process is at work on the same output" in logged(project),
        "the second job waits for the first", 120, alive=lambda: again.poll() is None,
    )  # fmt: skip
    weights = next((project.folder / "results/.progress/train").glob("*/epoch-1/model.safetensors")).stat()
    job.resume()
    assert again.ended() == 0
    assert "succeeded with the same command and inputs: nothing is left to do" in (project.folder / LOG).read_text(
        errors="replace"
    )
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
