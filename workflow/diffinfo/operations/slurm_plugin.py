"""Where Snakemake's SLURM plugin (2.8) waits for ever or gives up too soon."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]
OUTAGE = 1800  # seconds without slurmctld before a failed submission counts


def patch(plugin: Any, run: str = "") -> None:
    """Let every wait of the plugin end, and let it wait for slurmctld.

    - squeue alone tells how jobs are. The plugin turns to sacct where MinJobAge is short or not known, as while slurmctld
      restarts; without accounting sacct never answers, and with it a job "CANCELLED by 1000" counts as running for ever.
    - A job that squeue no longer lists has ended, as where Snakemake was suspended for longer than MinJobAge: Snakemake
      looks for its outputs, which are whole where they are there.
    - A preempted job has ended, for the profile forbids SLURM to requeue it.
    - ``mem_mb: 0`` asks for all memory of a node, as it does of sbatch; the plugin drops it.
    - A failed submission is reported only after slurmctld is back, so that the retry can succeed.
    - The comment of a job names its ``run``, so that no other run takes it for one of its own that a kill left behind.
    """
    submitted: set[str] = set()
    plugin.get_min_job_age = lambda: sys.maxsize
    plugin.validate_or_get_slurm_job_id = _noted(plugin.validate_or_get_slurm_job_id, submitted)
    plugin.query_job_status = _complete(plugin.query_job_status, submitted)
    plugin.get_submit_command = _submission(plugin.get_submit_command, run)
    executor = plugin.Executor
    executor._report_job_error_threadsafe = _when_slurm_answers(executor._report_job_error_threadsafe)


def _noted(number: Callable[[str, str], str], submitted: set[str]) -> Callable[[str, str], str]:
    def noted(said: str, output: str) -> str:
        found = number(said, output)
        submitted.add(found)
        return found

    return noted


def _complete(query: Query, submitted: set[str]) -> Query:
    forgotten: set[str] = set()

    async def queried(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        before = set(submitted)
        states, seconds = await query(command, logger)
        if states is None or not command.startswith("squeue"):
            return states, seconds
        if gone := before - forgotten - states.keys():
            logger.info(f"SLURM no longer lists job(s) {', '.join(sorted(gone))}: they are judged by their outputs.")
        forgotten.update(gone)
        ended = {number: "CANCELLED" for number, state in states.items() if state == "PREEMPTED"}
        return {**dict.fromkeys(forgotten, "UNKNOWN"), **states, **ended}, seconds

    return queried


def comment(said: str, run: str) -> str:
    """What a job is known by in SLURM's queue: the plugin's own comment, and the run where it has a name."""
    return f"{said}_run_{run}" if run else said


def _submission(command: Callable[..., str], run: str) -> Callable[..., str]:
    def commanded(job: Any, params: dict[str, Any], *arguments: Any, **options: Any) -> str:
        whole = job.resources.get("mem_mb") == 0 and not job.resources.get("mem_mb_per_cpu")
        params = {**params, "comment_str": comment(params["comment_str"], run)}
        return command(job, params, *arguments, **options) + (" --mem 0" if whole else "")

    return commanded


def _when_slurm_answers(report: Callable[..., None]) -> Callable[..., None]:
    def reported(executor: Any, job: Any, message: str) -> None:
        end = time.monotonic() + OUTAGE
        if not _answers():
            executor.logger.info("SLURM does not answer: waiting for it before the job is submitted again.")
            while not _answers() and time.monotonic() < end:
                time.sleep(5)
        report(executor, job, message)

    return reported


def _answers() -> bool:
    command = ["squeue", "--noheader", "--name", "diffinfo"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
