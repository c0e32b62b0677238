"""What would end a run after hours, told before its first job: a missing key, an unreachable hub or SLURM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from diffinfo.cli import UserError
from diffinfo.config.types import Config
from diffinfo.models.hub import hub_fault

PLACEHOLDER = "your-account"  # of slurm/config.yaml
HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # sizes that vLLM 0.32 has kernels for on a CPU
Asked = Iterable[tuple[str, Mapping[str, str]]]  # rule and wildcards of each job


def judges_of(config: Config, jobs: Asked) -> list[str]:
    """Keys of ``judges`` that jobs ask."""
    judges = {
        "arena_hard_select": config.arena_hard.select_judge,
        "arena_hard": config.arena_hard.judge,
        "wildbench": config.wildbench.judge,
    }
    if config.wildbench.reward:
        judges["wildbench_reward"] = config.wildbench.reward.judge
    return list(dict.fromkeys(judges[rule] for rule, _ in jobs if rule in judges))


def check_keys(config: Config, jobs: Asked) -> None:
    """Refuse jobs whose judge's key is not in the environment.

    Raises:
        UserError: which names the variable.
    """
    for name in judges_of(config, jobs):
        judge = config.judges[name]
        if judge.kind == "openai" and not judge.serve and not os.environ.get(judge.api_key_env, "").strip():
            raise UserError(
                f"judges.{name}: the environment variable {judge.api_key_env} is not set: export the key of {judge.base_url} in"
                " it (any text does where every reply is paid for already)."
            )


def check_servers(config: Config, jobs: Asked) -> None:
    """Refuse jobs whose judge is served by a program that is not there, or lacks what it serves with.

    Raises:
        UserError: which names the judge and the program.
    """
    for name in judges_of(config, jobs):
        server = config.judges[name].server
        program = shutil.which(server)
        own = program and Path(program).parent == Path(sys.executable).parent
        if config.judges[name].serve and (not program or (own and not find_spec("fastapi"))):
            raise UserError(
                f"judges.{name}: `{server} serve` cannot run in this environment: add --sdm conda (slurm/config.yaml has the"
                " line), which makes one from envs/vllm.yaml, or install envs/vllm.txt and put its bin on PATH."
            )


def check_heads(config: Config) -> None:
    """Refuse to sample from the micro world's models with vLLM on a CPU where it has no kernel for their heads.

    Raises:
        UserError: which names a size that it has.
    """
    heads = config.world.hidden // 4
    if heads not in HEADS and any(model.source == "world" for model in config.models.values()):
        raise UserError(
            f"world.hidden = {config.world.hidden} makes attention heads of {heads}, for which vLLM has no kernel on a CPU:"
            " set world.hidden to 128, or engine.name to transformers."
        )


def check_slurm(account: object) -> None:
    """Refuse to submit to a SLURM that does not answer, or from a profile that nobody has edited.

    Raises:
        UserError: which says what to do.
    """
    if account == PLACEHOLDER:
        raise UserError(
            f"slurm/config.yaml: slurm_account is still '{PLACEHOLDER}': write your account (sacctmgr show associations"
            " user=$USER lists them), or delete the line where the cluster has none."
        )
    try:
        command = ["squeue", "--noheader", "--name", "diffinfo"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        fault = (" ".join(done.stderr.split()) or f"exit status {done.returncode}") if done.returncode else ""
    except FileNotFoundError:
        raise UserError(
            "squeue is not here: start Snakemake on a machine that submits to SLURM, or without --profile slurm."
        ) from None
    except subprocess.TimeoutExpired:
        fault = "no answer within 120 s"
    if fault:
        raise UserError(f"SLURM cannot be reached (squeue: {fault}): start again when squeue answers.")


def repositories(config: Config, jobs: Asked) -> Iterator[tuple[str, str, str]]:
    """Where in the configuration, kind and name of each hub repository that jobs fetch from."""
    for rule, wildcards in jobs:
        if rule == "base_model":
            model = config.models[wildcards["model"]]
            for key in ("source", "chat_template"):
                if (source := getattr(model, key)) and not Path(source).is_dir():
                    yield f"models.{wildcards['model']}.{key}", "model", source
        elif rule in ("ingest_pairs", "ingest_prompts"):
            source = str(config.datasets[wildcards["dataset"]].source)
            if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and source != "world" and not Path(source).exists():
                yield f"datasets.{wildcards['dataset']}.source", "dataset", source
        for key, address in _benchmark_files(config, rule, wildcards).items():
            if found := re.match(r"hf://datasets/([^/]+/[^/@]+)", address):
                yield key, "dataset", found[1]


def _benchmark_files(config: Config, rule: str, wildcards: Mapping[str, str]) -> dict[str, str]:
    """The files of a benchmark that a job reads, by their keys of the configuration."""
    arena, wildbench = config.arena_hard, config.wildbench
    match rule:
        case "arena_hard_questions":
            kinds = {f"categories.{name}.baseline": kind.baseline for name, kind in (arena.categories or {}).items()}
            found = {"questions": arena.questions, **(kinds or {"baseline": arena.baseline})}
            return {f"arena_hard.{key}": address for key, address in found.items()}
        case "wildbench_tasks":
            return {"wildbench.tasks": wildbench.tasks}
        case "wildbench_reward" if wildbench.reward:
            name = wildcards["baseline"]
            return {f"wildbench.reward.baselines.{name}": wildbench.reward.baselines[name]}
    return {}


def check_hub(config: Config, jobs: Asked) -> None:
    """Refuse jobs that fetch what the hub does not give: it is not reached, or the licence is not accepted.

    Raises:
        UserError: which names the key of the configuration.
    """
    asked = {(kind, name): where for where, kind, name in repositories(config, jobs)}
    for (kind, name), where in asked.items():
        from huggingface_hub import HfApi, constants

        if constants.is_offline_mode():  # everything comes from the cache
            return
        try:
            HfApi().auth_check(name, repo_type=kind)
        except Exception as error:  # the client's and the transport's share no base class
            raise UserError(f"{where}: {hub_fault(repr(name), error)}") from error
