"""SLURM jobs of a killed Snakemake in this folder."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOGS = Path("results/logs/slurm")  # what SLURM kept of jobs from this folder


class NoAnswer(RuntimeError):
    """SLURM did not answer whether there are jobs."""


@dataclass(frozen=True)
class Orphan:
    """A job in SLURM's queue; ``what`` is its rule and wildcards, as the SLURM plugin of Snakemake comments its jobs."""

    number: str
    state: str
    what: str


def orphans(jobs: Collection[str]) -> list[Orphan]:
    """The queued and running jobs that were submitted from this folder for one of ``jobs``; none without SLURM.

    Raises:
        NoAnswer: if squeue fails though jobs were once submitted from here.
    """
    if not shutil.which("squeue"):
        return []
    command = ["squeue", "--user", getpass.getuser(), "--noheader", "--format", "%i|%T|%k|%Z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and LOGS.exists():
        raise NoAnswer(
            f"squeue fails ({done.stderr.strip()}), so jobs of a killed run may still be running here. "
            f"Start again when SLURM answers; if there can be none, delete {LOGS}."
        )
    rows = (line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3)
    return [
        Orphan(number, state, what.strip())
        for number, state, what, folder in rows
        if what.strip() in jobs and os.path.realpath(folder) == os.path.realpath(os.getcwd())
    ]


def settle(jobs: Collection[str], say: Callable[[str], None]) -> bool:
    """Cancel those that have not begun and wait for the others, whose results count; returns whether there were any.

    The caller must make sure that no living Snakemake waits for ``jobs``: holding Snakemake's lock on their outputs does.
    """
    found = orphans(jobs)
    if not found:
        return False
    waiting = [orphan for orphan in found if orphan.state == "PENDING"]
    running = [orphan for orphan in found if orphan.state != "PENDING"]
    if waiting:
        subprocess.run(["scancel", *(orphan.number for orphan in waiting)], check=False)  # it may have begun, and ended
        say(f"Cancelled {len(waiting)} job(s) of a killed run that had not begun: {_named(waiting)}.")
    if running:
        numbers = " ".join(orphan.number for orphan in running)
        say(
            f"{len(running)} job(s) of a killed run are still at work here: {_named(running)}. Waiting for them, their "
            f"results count; to stop them: scancel {numbers}"
        )
    pause = 1.0
    while found:
        time.sleep(pause)
        pause = min(2 * pause, 30.0)
        with suppress(NoAnswer):  # slurmctld restarts, and its jobs go on
            found = orphans(jobs)
    return True


def _named(found: list[Orphan]) -> str:
    return ", ".join(f"{orphan.number} ({orphan.what})" for orphan in found)
