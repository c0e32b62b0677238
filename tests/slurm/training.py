"""A training on the test cluster to which something happens."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from project import Project, Run, wait_until
from slurm.cluster import Cluster

# A world too small to learn anything, whose trainings still last some seconds.
NANO = {
    "world": {
        "hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "teacher_steps": 2, "reward_steps": 4,
        "pairs": 400, "test_prompts": 10,
    },
    "epochs": 6,
    "sft": {"batch_size": 64},
    "preference": {"epochs_per_job": 6, "batch_size": 8},
    "entropy": {"prompts": 8, "max_tokens": 8},
}  # fmt: skip
RUN = "results/train/micro-mistral/magpie-pro/dpo-b0.1/1-6"


class Training:
    """One training in a project of its own, on the cluster.

    Args:
        calm: the folder of the same training to which nothing happened.
    """

    log = "results/logs/train/micro-mistral/magpie-pro/dpo-b0.1/1-6.log"

    def __init__(self, project: Project, cluster: Cluster, calm: Path) -> None:
        self.project, self.cluster, self.calm = project, cluster, calm
        self.folder = project.folder / RUN
        self.happened = 0.0

    def start(self, *arguments: str, log: str = "snakemake.log") -> Run:
        """Start Snakemake on the cluster."""
        return self.project.start(f"{RUN}/train_log.parquet", "--profile", "slurm", *arguments, changes=NANO, log=log)

    def said(self, log: str = "snakemake.log") -> str:
        """What Snakemake printed."""
        return (self.project.folder / log).read_text()

    def jobs_said(self) -> str:
        """What SLURM kept of its jobs."""
        return "".join(log.read_text() for log in self.project.folder.glob("results/logs/slurm/**/*.log"))

    def unlock(self) -> None:
        """What Snakemake asks for after it was killed."""
        assert self.project.start("--unlock", changes=NANO, log="unlock.log").ended() == 0, self.said("unlock.log")

    def finish(self) -> str:
        """Run the same command to its end; returns what it printed."""
        status = self.start().ended()
        assert status == 0, self.said()[-4000:]
        return self.said()

    def wait_for_progress(self) -> None:
        """Return once an epoch and the state after it have been saved; what happens next is the fault."""
        saved = self.project.folder / "results/.progress/train"
        wait_until(lambda: any(saved.glob("*/step-*/state.json")), "an epoch has been saved", 180)
        self.happened = time.time()

    def status(self) -> str:
        """What ``make status`` prints."""
        command = [sys.executable, "-m", "diffinfo.operations.status", "--configfile", "changes.yaml"]
        environment = {**self.project.environment, "PYTHONPATH": "workflow"}
        done = subprocess.run(
            command, cwd=self.project.folder, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def queue(self, *states: str) -> list[str]:
        """The numbers of its jobs in SLURM's queue."""
        rows = self.cluster.run("squeue", "-h", "-o", "%i|%Z", *(["-t", ",".join(states)] if states else []))
        return [row.split("|")[0] for row in rows.splitlines() if row.split("|")[1] == str(self.project.folder)]

    def number(self) -> str:
        """The number of its running job."""
        (number,) = self.queue("RUNNING")
        return number

    def processes(self) -> list[psutil.Process]:
        """The training's own processes."""
        found = []
        for process in psutil.process_iter():
            try:
                if "diffinfo.train.preference" in process.cmdline() and process.cwd() == str(self.project.folder):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                pass
        return found

    def hold(self) -> list[psutil.Process]:
        """Suspend the training once it has saved an epoch, so that it does not end before what is to happen to it."""
        self.wait_for_progress()
        held = self.processes()
        for process in held:
            process.suspend()
        return held

    def after_each_task(self, script: str) -> None:
        """What a node does after each task of this project's jobs, in the project's folder."""
        (self.project.folder / "epilog.sh").write_text(script)

    @contextmanager
    def disk(self, options: str) -> Iterator[None]:
        """The results on a disk of their own."""
        results = self.project.folder / "results"
        disk = self.project.folder / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=False).returncode:
            pytest.skip("nothing can be mounted here")
        shutil.copytree(results, disk, dirs_exist_ok=True)
        subprocess.run(["mount", "--move", disk, results], check=True)
        try:
            subprocess.run(["mount", "-o", f"remount,{options}", results], check=True)
            yield
        finally:
            subprocess.run(["umount", "--lazy", results], check=True)

    def check(self, kept: bool = True) -> None:
        """The results are those of the calm run, byte for byte; epochs saved before the fault were not trained again."""
        files = sorted(path.relative_to(self.calm) for path in self.calm.rglob("*") if path.is_file())
        files = [
            file for file in files if file.name not in (".snakemake_timestamp", ".digests.json", "train_speed.parquet")
        ]  # clocks
        assert len(files) > 10
        assert [f for f in files if (self.folder / f).read_bytes() != (self.calm / f).read_bytes()] == []
        first = self.folder / "models/epoch-1/model.safetensors"
        assert not kept or first.stat().st_mtime < self.happened
        results = self.project.folder / "results"
        assert not list(results.rglob(".*.tmp"))
        assert not list(results.glob(".progress/train/*"))
        assert not list(results.glob(".progress/locks/*"))


def end(process: Run, number: int = signal.SIGKILL) -> int:
    """Send a signal to Snakemake alone and wait for its end."""
    process.send_signal(number)
    return process.ended(180)
