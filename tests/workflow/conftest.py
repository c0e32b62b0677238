import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """A private copy of the project in which Snakemake runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Snakefile", "config.yaml", "workflow", "envs", "slurm"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, folder / name)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process, with the tools of its Python first."""
        return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def snakemake(self, *arguments: str, changes: dict | None = None, check: bool = True) -> str:
        """Run Snakemake with ``changes`` merged over config.yaml; returns what it printed."""
        command = [sys.executable, "-m", "snakemake", *arguments]
        if changes is not None:
            (self.folder / "changes.yaml").write_text(yaml.safe_dump(changes))
            command += ["--configfile", "changes.yaml"]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=self.environment, check=False
        )
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output[-4000:]
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
                if path.suffix in (".parquet", ".jsonl", ".md", ".svg", ".png", ".html"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                else:
                    path.mkdir(parents=True, exist_ok=True)
        self.snakemake("--touch", "--forceall", "--cores", "1", changes=changes)


REPORT = re.compile(r"table\d|figure\d+|claims|laboratory.*")


def beyond_report(jobs):
    """The jobs that are no tables or figures."""
    return [(rule, wildcards) for rule, wildcards in jobs if not REPORT.fullmatch(rule)]


def rules(jobs):
    """How often each rule runs."""
    return Counter(rule for rule, _ in jobs)


@pytest.fixture(scope="session")
def project_factory(tmp_path_factory):
    def make() -> Project:
        return Project(tmp_path_factory.mktemp("project"))

    return make


@pytest.fixture(scope="session")
def jobs_tools():
    return beyond_report, rules
