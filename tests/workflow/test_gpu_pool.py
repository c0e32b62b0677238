"""Jobs that need a GPU, on one machine: one at a time where it has any, as many as the cores allow where it has none."""

import json
import re

import pytest

PAPER = "workflow/presets/paper.yaml"
EPOCH = "results/runs/paper/train/mistral-7b-v0.3/magpie-pro/dpo-b0.1/1-1/train_log.parquet"
# two models that count as large, in a world that is made in seconds
LARGE = {
    "world": {"corpus": 100, "base_steps": 1},
    "models": {name: {"billions": 0.06} for name in ("micro-mistral", "micro-gemma2")},
}
TARGETS = [f"results/base/{name}" for name in LARGE["models"]]


def times(project):
    """Start and end of both jobs by Snakemake's own records, the earlier first."""
    records = [json.loads(file.read_text()) for file in (project.folder / ".snakemake/metadata").iterdir()]
    return sorted({(r["starttime"], r["endtime"]) for r in records if r["rule"] == "world_model"})


@pytest.mark.parametrize(("devices", "arguments", "together"), [
    ("0", [], False),
    ("0,1", [], False),  # no job knows which of them is free
    ("", [], True),
    ("0,1", ["--resources", "gpu=2"], True),  # who says so knows better
])  # fmt: skip
def test_two_jobs_share_no_gpu_and_wait_for_none_that_is_not_there(project_factory, devices, arguments, together):
    project = project_factory()
    project.environment["CUDA_VISIBLE_DEVICES"] = devices
    project.snakemake(*TARGETS, "--cores", "16", *arguments, changes=LARGE)
    first, second = times(project)
    assert (second[0] < first[1]) == together


@pytest.mark.parametrize(("devices", "profile", "asked"), [
    ("0", [], "1"),  # the whole pool
    ("", [], "8"),
    ("0", ["--profile", "slurm"], "8"),  # a login node's GPU says nothing about the cluster's
])  # fmt: skip
def test_the_pool_is_this_machines_alone(project_factory, devices, profile, asked):
    project = project_factory()
    project.environment["CUDA_VISIBLE_DEVICES"] = devices
    output = project.snakemake("-n", EPOCH, *profile, "--configfile", PAPER)
    block = output.split("\nrule preference:")[1].split("\n\n")[0]
    assert re.search(r"\bgpu=(\d+)", block)[1] == asked
