"""The plan: jobs, hours, disk, judge calls and dollars of a whole run, before it starts; afterwards against what it took.

``python -m diffinfo.operations.plan --configfile workflow/presets/paper.yaml [--json | --actual]``, in the project's
folder. Jobs are those of Snakemake's own dry run, costs those of ``diffinfo.operations.cost``: estimates, from the
assumptions in diffinfo/operations/assumptions.yaml.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffinfo.cli import UserError
from diffinfo.config.reading import load
from diffinfo.config.strict_yaml import read_yaml
from diffinfo.config.types import RESULTS, Config
from diffinfo.operations import disk
from diffinfo.operations.assumptions import ASSUMPTIONS, read_assumptions
from diffinfo.operations.cost import Cost, Costs
from diffinfo.operations.jobs import Job, critical_path, expected, planned, wall_hours
from diffinfo.operations.limits import minutes
from diffinfo.operations.preflight import judges_of, repositories
from diffinfo.operations.units import count, duration, measured, name
from diffinfo.report import paper

PROFILE = Path("slurm/config.yaml")
GPUS = (8, 32, 128)  # of which the plan says the time
Key = tuple[str, str, str]  # rule, model, dataset
_COLUMNS = ("jobs", "gpu_hours", "wall_hours", "disk_gb", "judge_calls", "dollars")


def rows(jobs: Iterable[Job], costs: Costs) -> list[dict[str, str | int | float]]:
    """The table: a row per rule, model and dataset; rules in the order of the dry run.

    ``wall_hours`` adds up the jobs' own hours from start to end, as if they ran one after the other.
    """
    table: dict[Key, dict[str, float]] = defaultdict(lambda: dict.fromkeys(_COLUMNS, 0))
    for job in jobs:
        cost = costs.job(job.rule, job.wildcards)
        row = table[(job.rule, job.wildcards.get("model", cost.model), job.wildcards.get("dataset", ""))]
        for column, value in zip(_COLUMNS, (1, *_amounts(cost, costs)), strict=True):
            row[column] += value
    first = {rule: place for place, rule in reversed(list(enumerate(rule for rule, _, _ in table)))}
    return [
        dict(zip(("rule", "model", "dataset"), key, strict=True)) | {c: _rounded(v) for c, v in row.items()}
        for key, row in sorted(table.items(), key=lambda item: (first[item[0][0]], item[0]))
    ]


def _amounts(cost: Cost, costs: Costs) -> tuple[float, ...]:
    price = costs.assumed.hardware[cost.hardware].dollars_per_hour
    units = cost.gpus or cost.nodes * cost.cpus
    dollars = cost.hours * units * price + cost.judge_dollars
    return cost.hours * cost.gpus, cost.hours, cost.disk_gb, cost.judge_calls, dollars


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


def paper_check(config: Config) -> list[tuple[str, str, float, float]]:
    """(model, GPU type, planned, printed) hours of a DPO epoch on the paper's hardware, for its models that are here."""
    found = []
    for model, (gpus, kind, dataset, printed) in paper.numbers()["epoch_hours"].items():
        if model in config.models and dataset in config.datasets:
            preference = config.preference.model_copy(update={"processes": gpus})
            costs = Costs(config.model_copy(update={"preference": preference}), read_assumptions(), kind)
            planned = costs.job("preference", {"model": model, "dataset": dataset, "span": "1-1"}).hours
            found.append((model, f"{gpus} {kind.upper()}", planned, printed))
    return found


def warnings(jobs: list[Job], costs: Costs, limits: Mapping[str, object], free_gb: float) -> list[str]:
    """What would go wrong: jobs longer than the partition's limit or larger than a GPU, results larger than the disk.

    Args:
        limits: ``default-resources`` of the SLURM profile.
        free_gb: what is free where the results go.
    """
    limit = minutes(limits.get("max_runtime"))
    longest: dict[Key, float] = {}
    large: dict[Key, Cost] = {}
    for job in jobs:
        cost = costs.job(job.rule, job.wildcards)
        key = (job.rule, cost.model, job.wildcards.get("dataset", ""))
        longest[key] = max(longest.get(key, 0.0), cost.hours)
        if cost.gpus and cost.gpu_gb > costs.assumed.hardware[cost.hardware].memory_gb:
            large[key] = cost
    said = [
        f"{' '.join(filter(None, key))}: an estimated {hours:.1f} h a job, longer than the partition's {limit / 60:g} h "
        f"(max_runtime in {PROFILE}), where it will be stopped; training, sampling and scoring go on in the next "
        "attempt, any other job starts over: give it more GPUs (preference.processes for training, engine.tensor_parallel "
        "for sampling; scoring and QA use one) or less to do (preference.epochs_per_job, datasets.<name>.limit)."
        for key, hours in longest.items()
        if hours * 60 > limit
    ]
    said += [
        f"{' '.join(filter(None, key))}: an estimated {cost.gpu_gb:.0f} GB on each of {cost.gpus} GPU(s), before any "
        f"activation; a {cost.hardware} has {costs.assumed.hardware[cost.hardware].memory_gb:g} GB: take a larger one "
        "(models.<name>.gpu), or more (preference.processes for training, engine.tensor_parallel for sampling)."
        for key, cost in large.items()
    ]
    needed = sum(costs.job(job.rule, job.wildcards).disk_gb for job in jobs)
    if needed > free_gb:
        said.append(
            f"the results take an estimated {needed:,.0f} GB and {free_gb:,.0f} GB are free here: free some, put results/ "
            "on another disk (a link), or drop checkpoints on the way (make drop-checkpoints)."
        )
    return said


def actual(jobs: list[Job], costs: Costs) -> list[dict[str, str | int | float]]:
    """Estimate against what Snakemake's benchmark files say, in seconds, a row per rule, over the jobs that have one."""
    table: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for job in jobs:
        if (seconds := measured(job.benchmark)) is not None:
            row = table[job.rule]
            row[0] += 1
            row[1] += 3600 * costs.job(job.rule, job.wildcards).hours
            row[2] += seconds
    return [
        {"rule": rule, "jobs": count, "estimated_s": _rounded(e), "actual_s": _rounded(a), "ratio": a / e}
        for rule, (count, e, a) in table.items()
    ]


def _print(table: list[dict[str, str | int | float]]) -> None:
    shown = [{key: v if isinstance(v, str) else count(v) for key, v in row.items()} for row in table]
    width = {key: max(len(key), *(len(row[key]) for row in shown)) for key in shown[0]} if shown else {}
    for row in [{key: key for key in width}, *shown]:
        print("  ".join(row[k].ljust(w) if isinstance(table[0][k], str) else row[k].rjust(w) for k, w in width.items()))


def summary(jobs: list[Job], config: Config, costs: Costs, numbers: Iterable[int] = GPUS) -> list[str]:
    """What a run takes and needs, in words; its time also for each of these numbers of GPUs."""
    table = [(job, costs.job(job.rule, job.wildcards)) for job in jobs]
    total = dict(
        zip(_COLUMNS[1:], map(sum, zip(*(_amounts(cost, costs) for _, cost in table), strict=True)), strict=True)
    )
    chain = critical_path(jobs, lambda job: costs.job(job.rule, job.wildcards).hours)
    longest = sum(costs.job(job.rule, job.wildcards).hours for job in chain)
    core_hours = sum(cost.hours * cost.cpus for _, cost in table if not cost.gpus)
    judging = sum(cost.judge_dollars for _, cost in table)
    gpus: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for _, cost in table:
        if cost.gpus:
            gpus[cost.hardware][0] += cost.hours * cost.gpus
            gpus[cost.hardware][1] = max(gpus[cost.hardware][1], cost.gpus)
    cores = os.cpu_count() or 1
    here = "" if gpus else f"; {duration(expected(jobs, costs, cores))} on this machine's {cores} core(s)"
    said = [
        f"jobs     {count(len(jobs))}",
        f"time     {duration(longest)} from the first job to the last with all the machines it can use{here}",
        *(f"         {_time_on(jobs, costs, number)}" for number in numbers if gpus),
        *(f"GPUs     {count(h)} GPU hours of {kind}, up to {most:.0f} in a job" for kind, (h, most) in gpus.items()),
        f"cores    {count(core_hours)} core hours without a GPU",
        f"memory   up to {count(max(cost.memory_gb for _, cost in table))} GB on a machine",
        f"money    ${count(total['dollars'])}, of it ${count(judging)} for judges ({count(total['judge_calls'])} calls)",
        f"disk     {count(total['disk_gb'])} GB",
    ]
    asked = [(job.rule, job.wildcards) for job in jobs]
    keys = {
        config.judges[name].api_key_env: None
        for name in judges_of(config, asked)
        if config.judges[name].kind == "openai"
    }
    fetched = dict.fromkeys(name for _, _, name in repositories(config, asked))
    said += [f"keys     {', '.join(keys)} in the environment"] if keys else []
    said += [f"hub      {', '.join(fetched)}: gated ones need an accepted licence and HF_TOKEN"] if fetched else []
    return said


def _time_on(jobs: list[Job], costs: Costs, gpus: int) -> str:
    hours = wall_hours(jobs, costs, gpus)
    number = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    return f"{duration(hours)} on {number}" if hours < math.inf else f"more than {number}: a job takes more"


def _print_plan(jobs: list[Job], config: Config, costs: Costs, numbers: Iterable[int]) -> None:
    print(f"ESTIMATE from {os.path.relpath(ASSUMPTIONS)}; nothing of it is measured.\n")
    print("\n".join(summary(jobs, config, costs, numbers)))
    hours = {id(job): costs.job(job.rule, job.wildcards).hours for job in jobs}
    chain = critical_path(jobs, lambda job: hours[id(job)])
    print(
        f"\nThe critical path, {duration(sum(hours[id(job)] for job in chain))}: each of these waits for the one before."
    )
    for job in chain:
        print(f"  {duration(hours[id(job)]):>8}  {name(job.rule, job.wildcards)}")
    table = rows(jobs, costs)
    print("\nBy stage, those of a minute or more (wall_hours: one job after the other):")
    stages: dict[str, dict[str, str | int | float]] = {}
    for row in table:
        stage = stages.setdefault(str(row["rule"]), {"rule": row["rule"], **dict.fromkeys(_COLUMNS, 0)})
        stage.update({column: float(stage[column]) + float(row[column]) for column in _COLUMNS})
    large = sorted(
        (s for s in stages.values() if float(s["wall_hours"]) >= 1 / 60), key=lambda s: -float(s["wall_hours"])
    )
    _print([*large, {"rule": "all stages", **{c: sum(float(row[c]) for row in table) for c in _COLUMNS}}])
    print("\nBy stage, model and dataset:")
    _print(table)
    print()
    for model, gpus, estimated, printed in paper_check(config):
        print(f"A DPO epoch of {model} on {gpus}: {estimated:.2f} h here, {printed:.2f} h in the paper.")
    profile = read_yaml(PROFILE) if PROFILE.is_file() else {}
    free = shutil.disk_usage(RESULTS if Path(RESULTS).exists() else ".").free / 1e9
    for warning in warnings(jobs, costs, profile.get("default-resources", {}), free):
        print(f"WARNING: {warning}")


def _print_actual(jobs: list[Job], results: str, costs: Costs) -> None:
    table = actual(jobs, costs)
    if not table:
        raise UserError(f"{results}/benchmarks holds no file of these jobs: nothing has run yet.")
    _print(table)
    done = [job for job in jobs if all(map(os.path.exists, job.outputs))]
    estimated = sum(costs.job(job.rule, job.wildcards).disk_gb for job in done)
    print("\nSeconds of one job after the other; a job that was stopped counts its last attempt alone.")
    found = disk.size(Path(results)) / 1e9
    print(f"Disk: {estimated:.4g} GB estimated for what is there, {found:.4g} GB found in {results}/.")


def main() -> None:
    """Print the plan of a configuration."""
    parser = argparse.ArgumentParser(prog="python -m diffinfo.operations.plan", description=__doc__)
    parser.add_argument("--configfile", nargs="+", type=Path, default=[], help="files merged over config.yaml")
    parser.add_argument("--gpu_type", help="plan for this GPU type whatever models.<name>.gpu says")
    parser.add_argument("--gpus", nargs="+", type=int, default=GPUS, help="say the time on so many GPUs")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="the table as JSON rows")
    what.add_argument("--actual", action="store_true", help="estimate against the benchmark files of what has run")
    asked = parser.parse_args()
    config = load("config.yaml", *asked.configfile)
    costs = Costs(config, read_assumptions(), asked.gpu_type)
    jobs = planned(asked.configfile)
    if asked.json:
        print(json.dumps(rows(jobs, costs), indent=1))
    elif asked.actual:
        _print_actual(jobs, config.results, costs)
    else:
        _print_plan(jobs, config, costs, asked.gpus)


if __name__ == "__main__":
    try:
        main()
    except UserError as fault:
        sys.exit(f"error: {fault}")
