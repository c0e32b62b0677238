"""A slice of the grid through the profile: GPUs, world sizes, and one model on two machines.

This file is run before test_faults.py: SLURM 22.05 loses count of a node's GPUs where it places a job on it between the
controller's restart and the node's next registration.
"""

import re

import pytest

from diffinfo.tables import artifacts
from slurm.training import NANO

MODEL = {"micro-mistral": {"billions": 0.06}}  # large enough for the rules to ask for GPUs


@pytest.fixture(scope="module")
def tasks(prepared, cluster, tmp_path_factory):
    """Runs a target on the cluster; returns the project, and what SLURM gave each rule's jobs and their tasks."""

    def run(target, changes):
        project = prepared.copy(tmp_path_factory.mktemp("slice") / "project")
        (project.folder / "prolog.sh").write_text(
            'echo "$SLURM_JOB_ID $SLURM_STEP_ID $SLURM_NODEID $SLURM_NNODES $CUDA_VISIBLE_DEVICES" >> tasks\n'
            "scontrol show job $SLURM_JOB_ID > job-$SLURM_JOB_ID\n"
        )
        project.snakemake(target, "--profile", "slurm", changes={**NANO, **changes})
        said = (project.folder / "snakemake.log").read_text()
        rules = re.findall(r"/rule_(\w+)/\S*?(\d+)\.log\)", said)
        given = {rule: (project.folder / f"job-{number}").read_text() for rule, number in rules}
        rows = [line.split(" ") for line in (project.folder / "tasks").read_text().splitlines()]
        steps = {rule: [row[1:] for row in rows if row[0] == number] for rule, number in rules}
        return project, given, steps

    return run


def test_gpu_rules_get_their_gpus_and_the_right_world_size(tasks):
    target = "results/entropy/micro-mistral/magpie-pro/dpo-b0.1/epoch-1.parquet"
    changes = {"models": MODEL, "epochs": 1, "preference": {"epochs_per_job": 1, "processes": 2}}
    project, given, steps = tasks(target, changes)
    gpus = {rule: int((re.findall(r"TresPerJob=gres:gpu:h100:(\d)", job) or [0])[0]) for rule, job in given.items()}
    assert gpus == {"sft": 2, "reference_logps": 1, "preference": 2, "entropy_samples": 1, "entropy": 0}
    partitions = {rule: re.search(r"Partition=(\w+)", job)[1] for rule, job in given.items()}
    assert partitions == {**dict.fromkeys(gpus, "gpu"), "entropy": "cpu"}
    assert all("NumNodes=1 " in job for job in given.values())
    assert [devices for *_, devices in steps["preference"]][-1] == "0,1"
    assert len([devices for *_, devices in steps["reference_logps"]][-1].split(",")) == 1
    speed = project.folder / "results/train/micro-mistral/magpie-pro/dpo-b0.1/1-1/train_speed.parquet"
    assert artifacts.provenance(speed)["processes"] == 2


def test_two_machines_train_one_model(tasks, prepared):
    changes = {"models": MODEL, "preference": {**NANO["preference"], "processes": 4}, "train_nodes": 2}
    project, given, steps = tasks("results/sft/micro-mistral/magpie-pro/train_log.parquet", changes)
    assert "NumNodes=2 " in given["sft"]
    assert "TresPerNode=gres:gpu:h100:2" in given["sft"]
    machines = {(node, count, devices) for step, node, count, devices in steps["sft"] if count == "2"}
    assert {("0", "2", "0,1"), ("1", "2", "0,1")} <= machines
    one, four = (
        artifacts.read(folder / "results/sft/micro-mistral/magpie-pro/train_log.parquet", "train_log")
        for folder in (prepared.folder, project.folder)
    )
    assert four.tokens.tolist() == one.tokens.tolist()
    assert four.loss.tolist() == pytest.approx(one.loss.tolist(), rel=1e-4)
