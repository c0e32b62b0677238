"""What SLURM is asked for: the sbatch command that the plugin's own functions make of the resources that rules state."""

import re
import shlex
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm
import yaml

from diffinfo.config.reading import load
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.operations.slurm_plugin import patch

PAPER = "workflow/presets/paper.yaml"
TARGET = "results/runs/paper/train/mistral-7b-v0.3/magpie-pro/dpo-b0.1/1-1/train_log.parquet"

PLUGIN = SimpleNamespace(**vars(snakemake_executor_plugin_slurm))  # with the names that its run_job calls
PLUGIN.Executor = SimpleNamespace(_report_job_error_threadsafe=None)
patch(PLUGIN)


class Resources(dict):
    """As a job of Snakemake has them: by key and by attribute."""

    __getattr__ = dict.get


class Job:
    """What the plugin reads of a job."""

    def __init__(self, block):
        found = re.search(r"\n    resources: (.*)", block)[1]
        pairs = (pair.split("=", 1) for pair in re.split(r", (?=\w+=)", found))
        self.resources = Resources((k, int(v) if v.isdigit() else v) for k, v in pairs)
        self.threads = int((re.search(r"\n    threads: (\d+)", block) or ("", 1))[1])

    def is_group(self):
        return False


def with_profile(project, **resources):
    """Change the profile's default-resources."""
    file = project.folder / "slurm/config.yaml"
    values = yaml.safe_load(file.read_text())
    values["default-resources"] |= resources
    file.write_text(yaml.safe_dump(values))


def asked(project, rule, *arguments):
    """Arguments of sbatch for the first job of a rule."""
    output = project.snakemake("-n", TARGET, "--profile", "slurm", "--configfile", PAPER, *arguments)
    job = Job(output.split(f"\nrule {rule}:")[1].split("\n\n")[0])
    PLUGIN.validate_slurm_extra(job)
    parameters = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "workdir"), "x") | {
        "account": "",
        "partition": "",
    }
    return shlex.split(PLUGIN.get_submit_command(job, parameters) + PLUGIN.set_gres_string(job))


def gpus(command):
    return [word for word in command if word.startswith(("--gpus", "--gres"))]


def value(command, option):
    return command[command.index(option) + 1]


def test_gpus_without_a_type_and_what_the_profile_says_beside(project_factory):
    project = project_factory()
    with_profile(
        project,
        gpu_type="",
        qos="long",
        constraint="a100&ib",
        slurm_extra="'--nice=100'",
        mem_mb=0,
        max_runtime="1-00:00:00",
    )
    for rule, number in (("preference", ["--gpus=8"]), ("reference_share", ["--gpus=1"]), ("ingest_pairs", [])):
        command = asked(project, rule)
        assert gpus(command) == number
        assert {"--qos=long", "--nice=100"} <= set(command)
        assert (value(command, "-C"), value(command, "--mem")) == ("a100&ib", "0")
        assert 0 < int(value(command, "-t")) <= 1440


@pytest.mark.parametrize(
    ("kind", "row", "single", "several"),
    [
        (
            "nvidia_a100-sxm4-80gb",
            "a100",
            "--gpus-per-node=nvidia_a100-sxm4-80gb:8",
            "--gpus-per-node=nvidia_a100-sxm4-80gb:4",
        ),
        ("nvidia_h100_80gb_hbm3", "h100", "--gpus=nvidia_h100_80gb_hbm3:8", "--gres=gpu:nvidia_h100_80gb_hbm3:4"),
        ("", "a100", "--gpus=8", "--gres=gpu:4"),
    ],
)
def test_types_as_clusters_name_them(project_factory, kind, row, single, several):
    project = project_factory()
    with_profile(project, gpu_type=kind, max_runtime="infinite", max_mem_mb=100_000, slurm_extra="--nice=100")
    one = asked(project, "preference")
    assert gpus(one) == [single]
    assert value(one, "--mem") == "100000"
    wildcards = {"model": "mistral-7b-v0.3", "dataset": "magpie-pro", "span": "1-1"}
    hours = Costs(load(project.folder / PAPER), read_assumptions(), row).job("preference", wildcards).hours
    assert value(one, "-t") == str(20 + int(120 * hours))  # as long as on the GPUs of that row
    two = asked(project, "preference", "--config", "train_nodes=2")
    assert gpus(two) == [several]
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--nice=100"} <= set(two)


def test_other_resources_of_the_profile_count_beside_gpus(project_factory):
    project = project_factory()
    with_profile(project, gres="lscratch:100", gpu_type="h100", tasks_per_gpu=1, gpu_partition="''")
    one = asked(project, "preference")
    assert gpus(one) == ["--gres=lscratch:100", "--gpus=h100:8"]
    assert "--ntasks-per-gpu=1" in one
    assert gpus(asked(project, "ingest_pairs")) == ["--gres=lscratch:100"]
    two = asked(project, "preference", "--config", "train_nodes=2")
    assert gpus(two) == ["--gpus-per-node=h100:4", "--gres=lscratch:100"]
    output = project.snakemake("-n", TARGET, "--profile", "slurm", "--configfile", PAPER)
    assert "slurm_partition=gpu" not in output  # none of its own: the one for the rest
    assert "slurm_partition=cpu" in output


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("max_runtime", "soon", "max_runtime: 'soon' is not a time"),
        ("max_mem_mb", "500G", "max_mem_mb: '500G' is not a number of megabytes"),
        ("gpu_type", "a100; x", "'a100; x', on which mistral-7b-v0.3 is to run"),
        ("gpu_type", "tesla", "hardware has no row 'tesla', nor one whose name is part of it"),
        ("slurm_extra", "'--mem=4000'", "is not allowed in the 'slurm_extra' parameter"),
    ],
)
def test_what_cannot_be_asked_for_is_a_sentence_before_any_job(project_factory, key, text, message):
    project = project_factory()
    with_profile(project, **{key: text})
    said = project.snakemake("-n", "--profile", "slurm", "--configfile", PAPER, check=False)
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("run", "said"), [("", "rule_sft"), ("mine", "rule_sft_run_mine")])
def test_a_job_names_its_run(run, said):
    """Two runs in one folder have jobs of the same rule and wildcards: each leaves those of the other alone."""
    plugin = SimpleNamespace(**vars(snakemake_executor_plugin_slurm))
    plugin.Executor = SimpleNamespace(_report_job_error_threadsafe=None)
    patch(plugin, run)
    parameters = dict.fromkeys(("run_uuid", "slurm_logfile", "account", "partition", "workdir"), "x")
    job = SimpleNamespace(resources=Resources(), threads=1, is_group=lambda: False)
    command = shlex.split(plugin.get_submit_command(job, {**parameters, "comment_str": "rule_sft"}))
    assert value([part for word in command for part in word.split("=", 1)], "--comment") == said
