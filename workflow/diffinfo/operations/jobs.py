"""The jobs of a run as Snakemake's own dry run lists them."""

from __future__ import annotations

import heapq
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from diffinfo.cli import UserError
from diffinfo.operations.cost import Costs


@dataclass(frozen=True)
class Job:
    """A job of the dry run."""

    rule: str
    wildcards: dict[str, str]
    inputs: frozenset[str]
    outputs: frozenset[str]
    benchmark: str
    log: str = ""


def planned(configfiles: list[Path], everything: bool = True) -> list[Job]:
    """The jobs of a run from nothing, or those that remain, by Snakemake's dry run.

    Raises:
        UserError: when Snakemake refuses, with what it said.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nocolor", *(["--forceall"] if everything else [])]
    command += ["--configfile", *map(str, configfiles)] if configfiles else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Snakemake's dry run failed:\n{(done.stderr + done.stdout).strip()}")
    return parsed(done.stdout + done.stderr)


def parsed(said: str) -> list[Job]:
    """The jobs that a dry run lists."""
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", "\n" + said)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)
        found = dict(re.findall(r"^    (input|output|wildcards|benchmark|log): (.*)$", block, re.MULTILINE))
        if rule and "output" in found:  # target rules have none
            pairs = (pair.split("=", 1) for pair in found.get("wildcards", "").split(", ") if pair)
            inputs, outputs = (frozenset(found.get(key, "").split(", ")) for key in ("input", "output"))
            jobs.append(Job(rule[1], dict(pairs), inputs, outputs, found.get("benchmark", ""), found.get("log", "")))
    return jobs


def critical_path(jobs: list[Job], hours: Callable[[Job], float]) -> list[Job]:
    """The chain of jobs that takes longest where no job ever waits for a machine, first to last."""
    maker = {output: job for job in jobs for output in job.outputs}
    ready: dict[frozenset[str], float] = {}

    def earlier(job: Job) -> list[Job]:
        return [maker[path] for path in sorted(job.inputs) if path in maker]

    def finished(job: Job) -> float:
        if job.outputs not in ready:
            ready[job.outputs] = max(map(finished, earlier(job)), default=0.0) + hours(job)
        return ready[job.outputs]

    chain = [max(jobs, key=finished)] if jobs else []
    while chain and earlier(chain[0]):
        chain.insert(0, max(earlier(chain[0]), key=finished))
    return chain


def wall_hours(jobs: list[Job], costs: Costs, gpus: int) -> float:
    """Hours from the first job to the last on so many GPUs, and as many machines without one as are of use.

    Of the jobs that may begin and that fit, the one that the longest chain of others waits for begins first. Which node a GPU
    belongs to does not count. Infinite where a job takes more GPUs than there are.
    """
    costed = {job.outputs: costs.job(job.rule, job.wildcards) for job in jobs}
    if any(cost.gpus > gpus for cost in costed.values()):
        return float("inf")
    maker = {output: job.outputs for job in jobs for output in job.outputs}
    waits = {job.outputs: {maker[path] for path in job.inputs if path in maker} for job in jobs}
    readers: dict[frozenset[str], list[frozenset[str]]] = {job: [] for job in waits}
    for job, makers in waits.items():
        for made in makers:
            readers[made].append(job)
    chains: dict[frozenset[str], float] = {}

    def chain(job: frozenset[str]) -> float:
        if job not in chains:
            chains[job] = costed[job].hours + max(map(chain, readers[job]), default=0.0)
        return chains[job]

    now, free, number = 0.0, float(gpus), count()
    ready = [job for job, makers in waits.items() if not makers]
    running: list[tuple[float, int, frozenset[str]]] = []
    while ready or running:
        for job in sorted(ready, key=chain, reverse=True):
            if costed[job].gpus <= free:
                free -= costed[job].gpus
                ready.remove(job)
                heapq.heappush(running, (now + costed[job].hours, next(number), job))
        now, _, done = heapq.heappop(running)
        free += costed[done].gpus
        for job in readers[done]:
            waits[job].remove(done)
            if not waits[job]:
                ready.append(job)
    return now


def expected(jobs: list[Job], costs: Costs, cores: int) -> float:
    """Hours that jobs without GPUs take on one machine: their work, or the longest chain of them."""
    hours = {job.outputs: costs.job(job.rule, job.wildcards).hours for job in jobs}
    chain = sum(hours[job.outputs] for job in critical_path(jobs, lambda job: hours[job.outputs]))
    return max(chain, sum(hours.values()) / cores)
