"""Errors end with the sentence that matters: typing errors, impossible targets, and what would end a run after hours."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from diffinfo.cli import UserError
from diffinfo.config.reading import load
from diffinfo.operations import preflight
from project import ROOT, Project

PAPER = ROOT / "workflow/presets/paper.yaml"
CELL = "results/train/micro-mistral/magpie-pro"
TARGETS = {  # what cannot exist: what the sentence on it says
    f"{CELL}/dpo/1-3/train_log.parquet": f"(it needs a beta, such as -b0.1); did you mean {CELL}/dpo-b0.2/1-3/",
    f"{CELL}/dpo-b.1/1-3/train_log.parquet": f"did you mean {CELL}/dpo-b0.1/1-3/train_log.parquet ?",
    f"{CELL}/dpo_b0.2/1-3/train_log.parquet": f"did you mean {CELL}/dpo-b0.2/1-3/train_log.parquet ?",
    f"{CELL}/dppo-b0.2/1-3/train_log.parquet": "'dppo-b0.2' is not a method",
    "results/train/micro-mistrall/magpie-pro/dpo-pg/1-3/train_log.parquet": "'micro-mistrall' is not a model",
    "results/train/micro-mistral/magpie/dpo-pg/1-3/train_log.parquet": f"did you mean {CELL}/dpo-pg/1-3/train_log.parquet ?",
    f"{CELL}/dpo-pg/3/train_log.parquet": "'3' is not a span of epochs",
    f"{CELL}/dpo-pg/train_log.parquet": "did you mean results/train/<model>/<dataset>/<method>/<span>/train_log.parquet ?",
    "results/tabels/table1.md": "did you mean results/tables/table1.md ?",
    "results/tables/table4.md": "did you mean results/tables/table",
    "results/figures/figure2.jpg": "did you mean results/figures/figure2.",
    "results/nothing": "no rule makes results/nothing, nor anything like it",
    "syntetic": "'syntetic' is neither a rule nor a file that one makes; did you mean 'synthetic'?",
}  # fmt: skip
TYPED = {  # lines of a configuration: the sentence on them
    "epoch: 3": "epoch: unknown key; did you mean 'epochs'?",
    "epochs: three": "epochs: ",
    "betas: [0.1, -0.2]": "betas.1: ",
    "betas: 0.1": "betas: ",
    "preference: {lerning_rate: 1.0}": "preference.lerning_rate: unknown key; did you mean 'learning_rate'?",
    "reward_model: micro-rewrad": "reward_model: 'micro-rewrad' is not defined; did you mean 'micro-reward'?",
    "engine: {name: vlm}": "engine.name: ",
    "grid: [{model: micro-mistral, dataset: magpie-pro, methods: [dpo-b.1]}]": "did you mean 'dpo-b0.1'?",
    "grid: [{model: micro-mistral, dataset: magpie_pro, methods: [dpo]}]": "did you mean 'magpie-pro'?",
    "grid: [{model: micro-mistral, dataset: magpie-pro, methods: [dpo], measures: [entorpy]}]": "measures.0: ",
    "betas: [0.1": "mine.yaml, line 2 is not valid YAML: expected ',' or ']'",
    "betas: [0.1]\nepochs:\t3": "mine.yaml, line 2 is not valid YAML: found character",
    "epochs: 1\nepochs: 2": "mine.yaml, line 2: the key 'epochs' is given twice; remove one.",
}


@pytest.fixture(scope="module")
def project(project_factory):
    return project_factory()


def test_targets_that_cannot_exist_name_the_nearest_that_can(project):
    """One Snakemake is asked for one of them, and says what it would of the others."""
    snakefile = project.folder / "Snakefile"
    text = snakefile.read_text()
    snakefile.write_text(f"{text}\nprint(*map(no_rule_makes, {list(TARGETS)}), sep='\\n')\n")
    first = next(iter(TARGETS))
    said = project.snakemake("-n", first, check=False).splitlines()
    snakefile.write_text(text)
    assert said[-1].startswith(f"error: no rule makes {first}: 'dpo' is not a method")
    for target, sentence in TARGETS.items():
        assert any(target in line and sentence in line for line in said), target


def test_an_epoch_that_is_not_trained_is_the_last_line(project):
    said = project.snakemake("-n", "results/entropy/micro-mistral/magpie-pro/logpi-b0.1/epoch-9.parquet", check=False)
    assert said.splitlines()[-1] == "error: epoch 9 is greater than epochs = 3; raise that key."


@pytest.mark.parametrize("text", TYPED)
def test_typing_errors_end_with_their_sentence(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text + "\n")
    with pytest.raises(UserError) as refused:
        load(ROOT / "config.yaml", "mine.yaml")
    assert TYPED[text] in str(refused.value).splitlines()[-1]


def test_the_workflow_says_so_too(project):
    said = project.snakemake("-n", changes={"epoch": 3}, check=False)
    assert said.splitlines()[-1] == "  epoch: unknown key; did you mean 'epochs'?"
    own = project.folder / "config.yaml"
    text = own.read_text()
    own.write_text("epochs: [3\n" + text)
    said = project.snakemake("-n", check=False)
    own.write_text(text)
    assert said.splitlines()[-1].endswith("(while parsing a flow sequence of line 1)")


def paper(**changes):
    return load(None, PAPER, values=changes)


def test_a_missing_key_is_told_for_the_judges_that_are_asked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    preflight.check_keys(paper(), [("sft", {})])
    with pytest.raises(UserError, match=r"judges\.gpt-4o: the environment variable OPENAI_API_KEY is not set"):
        preflight.check_keys(paper(), [("sft", {}), ("wildbench", {})])
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    preflight.check_keys(paper(), [("wildbench", {}), ("arena_hard", {}), ("arena_hard_select", {})])
    preflight.check_keys(load(ROOT / "config.yaml"), [("wildbench", {})])


def test_heads_that_vllm_has_no_kernel_for_on_a_cpu():
    with pytest.raises(UserError, match=r"world.hidden = 96 makes attention heads of 24.* set world.hidden to 128"):
        preflight.check_heads(load(ROOT / "config.yaml"))
    preflight.check_heads(load(ROOT / "config.yaml", values={"world": {"hidden": 128}}))
    preflight.check_heads(paper())


def test_what_serves_a_judge_is_there(tmp_path, monkeypatch):
    def asked(server, rule="arena_hard"):
        judge = {"kind": "openai", "model": "gemma-2-9b", "serve": True, "server": server}
        config = paper(judges={"own": judge}, arena_hard={"judge": "own"})
        preflight.check_keys(config, [("arena_hard", {})])  # it needs none
        preflight.check_servers(config, [(rule, {})])

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    for server in ("vllm", "transformers"):  # this environment has transformers, but nothing that it serves with
        with pytest.raises(UserError, match=rf"judges.own: `{server} serve` cannot run in this environment: add --sdm"):
            asked(server)
        asked(server, "arena_hard_select")  # which another judge is asked for
        program = tmp_path / server
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked("vllm")
    asked("transformers")


def test_slurm_is_asked_first(tmp_path, monkeypatch):
    placeholder = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())["default-resources"]["slurm_account"]
    with pytest.raises(UserError, match="slurm_account is still 'your-account'"):
        preflight.check_slurm(placeholder)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue is not here"):
        preflight.check_slurm("mine")
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1\n")
    squeue.chmod(0o755)
    with pytest.raises(UserError, match=r"SLURM cannot be reached \(squeue: slurm_load_jobs error.*\): start again"):
        preflight.check_slurm("mine")
    squeue.write_text("#!/bin/sh\nexit 0\n")
    preflight.check_slurm("mine")


def test_an_executor_prints_nothing_below_the_sentence(tmp_path):
    """Its thread looks at jobs, which it can no longer do while Python shuts down: here, for five seconds."""
    project = Project(tmp_path)
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text("import threading, time\nthreading._register_atexit(time.sleep, 5)\n")
    profile = tmp_path / "slurm/config.yaml"
    profile.write_text(
        profile.read_text().replace("your-account", "mine").replace("status-checks: 40", "status-checks: 1")
    )
    project.environment.update(PATH=f"{tmp_path}:{project.environment['PATH']}", PYTHONPATH=str(tmp_path))
    said = project.snakemake("--profile", "slurm", "results/data/magpie-pro/prompts.parquet", check=False)
    assert said.splitlines()[-1].startswith("error: SLURM cannot be reached (squeue: "), said[-2000:]


def test_what_is_fetched_from_the_hub(tmp_path):
    (tmp_path / "here").mkdir()
    config = paper(models={"mistral-7b-v0.3": {"source": str(tmp_path / "here")}})
    jobs = [("base_model", {"model": name}) for name in config.models]
    jobs += [("ingest_pairs", {"dataset": "magpie-pro"}), ("arena_hard_questions", {}), ("wildbench_tasks", {})]
    found = list(preflight.repositories(config, jobs))
    assert ("models.mistral-7b-v0.3.chat_template", "model", "mistralai/Mistral-7B-Instruct-v0.3") in found
    assert not [where for where, *_ in found if where == "models.mistral-7b-v0.3.source"]
    assert {name for _, kind, name in found if kind == "dataset"} == {
        "Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1", "lmarena-ai/arena-hard-auto", "WildEval/WildBench-V2",
    }  # fmt: skip
    kinds = {name: {"baseline": f"hf://datasets/{name}/{name}/a.jsonl"} for name in ("hard", "soft")}
    (tmp_path / "two.json").write_text("[]")
    files = {"one": "hf://datasets/one/one/b.json", "two": str(tmp_path / "two.json")}
    reward = {"judge": "gpt-4o", "baselines": files}
    asked = [("arena_hard_questions", {}), *(("wildbench_reward", {"baseline": name}) for name in files)]
    found = list(preflight.repositories(paper(arena_hard={"categories": kinds}, wildbench={"reward": reward}), asked))
    assert [where for where, *_ in found] == [
        "arena_hard.questions", "arena_hard.categories.hard.baseline", "arena_hard.categories.soft.baseline",
        "wildbench.reward.baselines.one",
    ]  # fmt: skip
    assert [name for *_, name in found[1:]] == ["hard/hard", "soft/soft", "one/one"]
    micro = load(ROOT / "config.yaml")
    everything = [(rule, {"model": "micro-mistral", "dataset": "magpie-pro"}) for rule, *_ in (("ingest_pairs",),)]
    assert not list(preflight.repositories(micro, [*everything, ("arena_hard_questions", {}), ("wildbench_tasks", {})]))


ASK = """
from diffinfo.config.reading import load
from diffinfo.cli import UserError
from diffinfo.operations.preflight import check_hub
try:
    check_hub(load(None, "workflow/presets/paper.yaml"), [("base_model", {"model": "gemma-2-9b"})])
except UserError as error:
    print(error)
"""


def test_a_hub_that_is_not_reached_is_one_sentence():
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    said = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, env=environment)
    (line,) = said.stdout.splitlines()
    assert line.startswith(
        "models.gemma-2-9b.source: 'google/gemma-2-9b' cannot be fetched: http://127.0.0.1:9 is not reached"
    )
    assert "licence" not in line


def test_a_gated_repository_asks_for_its_licence():
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from diffinfo.models.hub import hub_fault

    answer = SimpleNamespace(headers={}, request=None, status_code=403)
    assert "accept its licence there, and set HF_TOKEN" in hub_fault("'a/b'", GatedRepoError("no", response=answer))
    assert "check the name" in hub_fault("'a/b'", RepositoryNotFoundError("no", response=answer))
