"""How far a run is: done, running, failed and waiting jobs, the time left, and the last lines of failed logs.

``python -m diffinfo.operations.status [--configfile FILE ...]``, at any time, in the folder where the run was started.
What is done is what Snakemake's dry run would not make again; what runs holds its lock, or is in SLURM's queue; what failed
is in the log of the last Snakemake here. Time left: the plan's hours, times what jobs of that rule took by the plan's.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diffinfo.cli import UserError
from diffinfo.config.reading import load
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.operations.disk import LOCKS
from diffinfo.operations.jobs import Job, critical_path, planned
from diffinfo.operations.orphans import orphans
from diffinfo.operations.slurm_plugin import comment
from diffinfo.operations.stream import tail
from diffinfo.operations.units import count, duration, measured, name
from diffinfo.tables.locks import held

STATES = ("done", "running", "queued", "failed", "waiting")
BLOCK = re.compile(r"^(?:local)?(rule|Error in rule) \w+:\n((?:    .*\n)*)", re.MULTILINE)
States = dict[frozenset[str], str]  # by outputs


def latest_log(folder: Path = Path(".snakemake/log")) -> str:
    """What the last Snakemake here that began a job has logged; empty where there is none."""
    for file in sorted(folder.glob("*.snakemake.log"), reverse=True):
        text = file.read_text(encoding="utf-8", errors="replace")
        if "\n    jobid: " in text:
            return text
    return ""


def failed(log: str) -> set[frozenset[str]]:
    """Outputs of the jobs that have failed and were not begun again since."""
    last: dict[frozenset[str], str] = {}
    for what, said in BLOCK.findall(log):
        if outputs := re.search(r"^    output: (.*)$", said, re.MULTILINE):
            last[frozenset(outputs[1].split(", "))] = what
    return {outputs for outputs, what in last.items() if what != "rule"}


def states(everything: Iterable[Job], remaining: Collection[Job], run: str, log: str) -> States:
    """What each job is: done, running, queued (in SLURM's queue), failed or waiting."""
    left, broken = {job.outputs for job in remaining}, failed(log)
    queue = {job_comment(job, run): job for job in remaining}
    at_slurm = {queue[orphan.what].outputs: orphan.state for orphan in orphans(queue)}

    def state(job: Job) -> str:
        if job.outputs not in left:
            return "done"
        if job.outputs in at_slurm:
            return "queued" if at_slurm[job.outputs] == "PENDING" else "running"
        return "running" if job.log and held(LOCKS, job.log) else "failed" if job.outputs in broken else "waiting"

    return {job.outputs: state(job) for job in everything}


def job_comment(job: Job, run: str) -> str:
    """What a job is known by in SLURM's queue."""
    values = ["wildcards", *job.wildcards.values()] if job.wildcards else []
    return comment("_".join(["rule", job.rule, *values]), run)


def hours_of(
    everything: Collection[Job], done: Collection[frozenset[str]], costs: Costs
) -> dict[frozenset[str], float]:
    """Hours that each job takes: the plan's, times what finished jobs of its rule (else of any) took by the plan's."""
    planned_hours = {job.outputs: costs.job(job.rule, job.wildcards).hours for job in everything}
    took, said = Counter[str](), Counter[str]()
    for job in everything:
        if job.outputs in done and (seconds := measured(job.benchmark)) is not None:
            for rule in (job.rule, ""):
                took[rule] += seconds / 3600  # type: ignore[assignment]
                said[rule] += planned_hours[job.outputs]  # type: ignore[assignment]
    ratio = {rule: took[rule] / said[rule] for rule in said}
    return {job.outputs: planned_hours[job.outputs] * ratio.get(job.rule, ratio.get("", 1.0)) for job in everything}


def report(everything: list[Job], found: States, costs: Costs) -> list[str]:
    """The lines of ``make status``."""
    hours = hours_of(everything, {job.outputs for job in everything if found[job.outputs] == "done"}, costs)
    left = [job for job in everything if found[job.outputs] != "done"]
    by_state = Counter(found[job.outputs] for job in everything)
    work = sum(hours[job.outputs] for job in left)
    at_once = max(1, by_state["running"])
    chain = sum(hours[job.outputs] for job in critical_path(left, lambda job: hours[job.outputs]))
    wait = max(chain, work / at_once)
    numbers = ", ".join(f"{count(by_state[state])} {state}" for state in STATES if by_state[state])
    said = [f"{len(everything)} jobs: {numbers}"]
    if left and by_state["running"] + by_state["queued"]:
        until = time.strftime("%a %H:%M", time.localtime(time.time() + 3600 * wait))
        said.append(f"about {duration(wait)} left, until {until}: {duration(work)} of jobs, {at_once} at once")
    elif left:
        said.append(f"nothing runs here; about {duration(work)} of jobs are left, one after the other")
    for state in ("running", "failed"):
        for job in everything:
            if found[job.outputs] == state:
                where = f": {job.log}" if state == "failed" else f", about {duration(hours[job.outputs])} in all"
                said.append(f"{state}  {name(job.rule, job.wildcards)}{where}")
                said += [f"    {line}" for line in tail(job.log)] if state == "failed" else []
    return said


def stages(everything: list[Job], found: States) -> list[str]:
    """A line for each rule of several jobs that is not all done, and one for the rules of one job."""
    table: dict[str, Counter[str]] = {}
    rules = Counter(job.rule for job in everything)
    for job in everything:
        table.setdefault(job.rule if rules[job.rule] > 1 else "single jobs", Counter())[found[job.outputs]] += 1
    left = {rule: numbers for rule, numbers in table.items() if numbers["done"] < numbers.total()}
    width = max(map(len, left), default=0)
    return [
        f"{rule:{width}}  {numbers['done']} of {numbers.total()} done"
        + "".join(f", {numbers[state]} {state}" for state in STATES[1:-1] if numbers[state])
        for rule, numbers in left.items()
    ]


def main() -> None:
    """Print how far the run of a configuration is."""
    parser = argparse.ArgumentParser(prog="python -m diffinfo.operations.status", description=__doc__)
    parser.add_argument("--configfile", nargs="+", type=Path, default=[], help="files merged over config.yaml")
    asked = parser.parse_args()
    config = load("config.yaml", *asked.configfile)
    with ThreadPoolExecutor() as both:
        everything, remaining = both.map(lambda whole: planned(asked.configfile, whole), (True, False))
    found = states(everything, remaining, config.run.name, latest_log())
    costs = Costs(config, read_assumptions())
    print("\n".join([*report(everything, found, costs), "", *stages(everything, found)]).rstrip())


if __name__ == "__main__":
    try:
        main()
    except UserError as fault:
        sys.exit(f"error: {fault}")
