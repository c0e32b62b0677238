"""A private copy of the project in which Snakemake runs."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

import dry_runs

ROOT = Path(__file__).resolve().parents[1]


def wait_until(
    condition: Callable[[], object],
    what: str,
    seconds: float = 60,
    *,
    alive: Callable[[], object] = lambda: True,
    every: float = 0.1,
) -> None:
    """Return once ``condition`` is true; fail after ``seconds``, or when what is to bring it about is not ``alive``."""
    end = time.monotonic() + seconds
    while not condition():
        there = alive()
        if condition():
            return
        assert there, f"ended before: {what}"
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


def cells_of(values):
    """(model, dataset, method, measures) of every cell, by hand."""
    for row in values["grid"]:
        for method in row["methods"]:
            family = method in ("dpo", "logpi", "dpop", "cal-dpo", "slic", "orpo", "simpo")
            for name in [f"{method}-b{beta:g}" for beta in values["betas"]] if family else [method]:
                for seed in values.get("seeds") or [values["preference"].get("seed", 1)]:
                    own = name if seed == values["preference"].get("seed", 1) else f"{name}-seed{seed}"
                    yield row["model"], row["dataset"], own, row.get("measures", [])


class Run(subprocess.Popen):
    """Snakemake at work. Nothing that hangs holds the tests up: it is killed, and its last words are the failure."""

    log: Path

    def ended(self, seconds: float = 600) -> int:
        """Its exit status, once it has ended."""
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()
            raise AssertionError(
                f"not within {seconds:.0f} s: Snakemake ends. It said:\n{self.log.read_text()[-4000:]}"
            ) from None


class Project:
    """A private copy of the project in which Snakemake runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The tools of this Python come first.
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for name in ("Snakefile", "config.yaml", "workflow", "envs", "slurm", "profiles"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, folder / name)

    def copy(self, folder: Path) -> "Project":
        """The same with its results and Snakemake's records."""
        shutil.copytree(self.folder, folder)
        twin = copy.copy(self)
        twin.folder = folder
        return twin

    def _over(self, changes: dict | None) -> list[str]:
        if changes is None:
            return []
        (self.folder / "changes.yaml").write_text(yaml.safe_dump(changes))
        return ["--configfile", "changes.yaml"]

    def start(self, *arguments: str, changes: dict | None = None, log: str = "snakemake.log") -> Run:
        """Start Snakemake with ``changes`` merged over config.yaml; what it prints goes to ``log``."""
        command = [sys.executable, "-m", "snakemake", *arguments, *self._over(changes)]
        with open(self.folder / log, "w") as out:
            run = Run(
                command, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, env=self.environment,
                start_new_session=True,
            )  # fmt: skip
        run.log = self.folder / log
        return run

    def snakemake(self, *arguments: str, changes: dict | None = None, check: bool = True) -> str:
        """Run Snakemake with ``changes`` merged over config.yaml; returns what it printed."""
        asked, log = [*arguments, *self._over(changes)], self.folder / "snakemake.log"
        if dry_runs.answers(asked, self.environment):
            status = dry_runs.run(asked, self.folder, self.environment, log)
        else:
            status = self.start(*asked).ended()
        output = log.read_text()
        assert not check or status == 0, output[-4000:]
        return output

    def plan(self, *arguments: str, changes: dict | None = None) -> list[tuple[str, dict[str, str]]]:
        """Jobs of a dry run: rule and wildcards."""
        output = self.snakemake("-n", *arguments, changes=changes)
        jobs = []
        for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", output)[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", block)[1]
            found = re.search(r"wildcards: (.*)", block)
            wildcards = dict(pair.split("=") for pair in found[1].split(", ")) if found else {}
            if rule != "all":
                jobs.append((rule, wildcards))
        return jobs

    def touch_everything(self, changes: dict | None = None) -> None:
        """Pretend that everything has been made: empty outputs, recorded by Snakemake as done."""
        summary = self.snakemake("--summary", changes=changes)
        for line in summary.splitlines():
            name = line.split("\t")[0]
            if name.startswith("results/"):
                path = self.folder / name
                if path.suffix in (
                    ".parquet",
                    ".csv",
                    ".jsonl",
                    ".md",
                    ".tex",
                    ".svg",
                    ".png",
                    ".pdf",
                    ".html",
                    ".yaml",
                ):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                else:
                    path.mkdir(parents=True, exist_ok=True)
        self.snakemake("--touch", "--forceall", "--cores", "64", changes=changes)
