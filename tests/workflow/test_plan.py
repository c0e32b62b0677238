"""The plan beside Snakemake's own dry run, and the resources that rules state."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from diffinfo.config.reading import load
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from project import ROOT

KEYS = ["rule", "model", "dataset", "jobs", "gpu_hours", "wall_hours", "disk_gb", "judge_calls", "dollars"]
PAPER = "workflow/presets/paper.yaml"
PRESETS = [PAPER, *(f"workflow/presets/{name}.yaml" for name in ("smol", "one-gpu"))]


def plan(project, *arguments):
    command = [sys.executable, "-m", "diffinfo.operations.plan", *arguments]
    environment = {**project.environment, "PYTHONPATH": str(project.folder / "workflow")}
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def project(project_factory):
    made = project_factory()
    made.environment["CUDA_VISIBLE_DEVICES"] = ""  # where there is a GPU, jobs have one at a time (test_gpu_pool.py)
    return made


@pytest.mark.parametrize("preset", [[], *(["--configfile", file] for file in PRESETS)])
def test_the_plan_counts_the_jobs_that_snakemake_would_run(project, preset):
    rows = json.loads(plan(project, *preset, "--json").stdout)
    assert all(list(row) == KEYS for row in rows)
    changes = yaml.safe_load((project.folder / preset[1]).read_text()) if preset else None
    jobs = Counter((rule, w.get("model"), w.get("dataset", "")) for rule, w in project.plan(changes=changes))
    named = {(rule, dataset) for rule, model, dataset in jobs if model is None}  # the plan names the model at work
    found = Counter()
    for row in rows:
        model = None if (row["rule"], row["dataset"]) in named else row["model"]
        found[row["rule"], model, row["dataset"]] += row["jobs"]
    assert found == jobs


def test_the_papers_plan_in_words(project):
    said = plan(project, "--configfile", PAPER).stdout
    assert said.startswith("ESTIMATE")
    epochs = re.findall(r"A DPO epoch of (\S+) on 8 (A100|H100): ([\d.]+) h here, ([\d.]+) h in the paper", said)
    assert [(model, gpu, printed) for model, gpu, _, printed in epochs] == [
        ("mistral-7b-v0.3", "A100", "3.00"), ("gemma-2-9b", "H100", "2.72"),
    ]  # fmt: skip
    assert all(1 / 1.5 < float(planned) / float(printed) < 1.5 for *_, planned, printed in epochs)
    times = re.findall(r"^         (\S+ \S+ on (?:8|32|128) GPUs)$", said, re.M)
    assert len(times) == 3
    assert ", ".join(times) in (ROOT / "docs/cluster.md").read_text()


@pytest.mark.parametrize(("preset", "hours"), [(PRESETS[1], 1), (PRESETS[2], 12)])
def test_a_step_of_the_ladder_fits_a_card_of_24_gb_and_its_time(project, preset, hours):
    rows = json.loads(plan(project, "--configfile", preset, "--json").stdout)
    assert sum(row["gpu_hours"] for row in rows) < hours
    assert sum(row["judge_calls"] for row in rows) == 0
    costs = Costs(load(None, project.folder / preset), read_assumptions())
    for model in costs.config.models:
        found = costs.job("preference", {"model": model, "dataset": "ultrafeedback", "span": "1-1"})
        assert (found.gpus, found.hardware) == (1, "rtx4090")
        assert found.gpu_gb < costs.assumed.hardware["rtx4090"].memory_gb / 2  # the rest is for activations


def test_a_bad_configuration_and_nothing_run_are_sentences(project):
    (project.folder / "bad.yaml").write_text("epoch: 3\n")
    refused = plan(project, "--configfile", "bad.yaml")
    assert refused.returncode == 1
    assert "epoch: unknown key; did you mean 'epochs'?" in refused.stderr
    early = plan(project, "--actual")
    assert early.stderr == "error: results/benchmarks holds no file of these jobs: nothing has run yet.\n"


def test_every_rule_states_memory_and_time_and_models_their_gpus(project):
    output = project.snakemake("-n", "--profile", "slurm", "--configfile", PAPER)
    found = {}
    for rule, resources in re.findall(r"\nrule (\w+):\n(?:    .*\n)*?    resources: (.*)\n", output):
        found.setdefault(rule, []).append(dict(pair.split("=") for pair in resources.split(", ")))
    assert all({"mem_mb", "runtime"} <= set(job) for rule, jobs in found.items() for job in jobs if rule != "all")
    for job in found["preference"]:
        assert (job["gpu"], job["nodes"]) == ("8", "1")
        assert job["gpu_model"] in ("a100", "h100")
        assert int(job["mem_mb"]) > 100_000
    shares = ("sample_share", "score_share", "reference_share", "did_share")
    for rule in (*shares, "sft", "answers", "qa", "did_entropy", "reward_scores"):
        assert all(int(job["gpu"]) > 0 for job in found[rule])
    for rule in (
        "sample_responses",
        "reference_logps",
        "did_completions",
        "ingest_pairs",
        "arena_hard",
        "table1",
        "claims",
    ):
        assert all("gpu" not in job for job in found[rule])


def test_the_profiles_gpu_type_and_partitions_count(project_factory):
    project = project_factory()
    profile = project.folder / "slurm/config.yaml"
    text = profile.read_text()
    assert "  # gpu_type: h100 " in text
    profile.write_text(text.replace("  # gpu_type: h100 ", "  gpu_type: h200 "))
    target = "results/runs/paper/train/mistral-7b-v0.3/magpie-pro/dpo-b0.1/1-1/train_log.parquet"
    output = project.snakemake("-n", target, "--profile", "slurm", "--configfile", PAPER)
    block = output.split("rule preference:")[1].split("\n\n")[0]
    assert "gpu_model=h200" in block
    assert "slurm_partition=gpu," in block
    assert "slurm_partition=cpu," in output.split("rule ingest_pairs:")[1].split("\n\n")[0]
    profile.write_text(text.replace("  # gpu_type: h100 ", "  gpu_type: b200 "))
    output = project.snakemake("-n", target, "--profile", "slurm", "--configfile", PAPER, check=False)
    assert "hardware has no row 'b200'" in output
    assert "Traceback" not in output


def test_several_machines_by_one_key(project):
    target = "results/runs/paper/train/mistral-7b-v0.3/magpie-pro/dpo-b0.1/1-1/train_log.parquet"
    preset = yaml.safe_load((project.folder / PAPER).read_text())
    output = project.snakemake("-n", "-p", target, "--profile", "slurm", changes={**preset, "train_nodes": 2})
    block = output.split("rule preference:")[1].split("\n\n")[0]
    stated = {
        "nodes": "2", "tasks": "2", "tasks_per_gpu": "0", "mpi": "srun", "gres": "gpu:a100:4",
        "slurm_extra": "--ntasks-per-node=1",
    }  # fmt: skip
    for key, value in stated.items():
        assert re.search(rf"\b{key}={re.escape(value)}(,|\n|$)", block), (key, block)
    assert " gpu=" not in block
    assert "srun --nodes 2 --ntasks 2 --ntasks-per-node 1" in block
    assert "--num_processes 8 --num_machines 2" in block


def test_machines_that_cannot_share_the_processes_are_refused(project):
    output = project.snakemake("-n", changes={"train_nodes": 3, "preference": {"processes": 4}}, check=False)
    assert "train_nodes: 3 machines cannot share preference.processes = 4 evenly" in output
