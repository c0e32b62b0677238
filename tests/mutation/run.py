"""Change one line of the code at a time and see whether the tests notice.

    python tests/mutation/run.py                    every mutation of tests/mutation/*.yaml
    python tests/mutation/run.py --only elo         those whose file or description holds "elo"
    python tests/mutation/run.py --survivors        those that were not killed in the last run, after new tests

Each file of mutations is a list of ``{file, tests, mutations: [[what, old, new], ...]}``: ``old`` occurs exactly once in
workflow/diffinfo/FILE; a fourth entry names other tests than the group's, a fifth says why no test can notice. A test that
fails, or that hangs until the timeout, kills the mutation. Results wait in ``--folder``, where the next run resumes
(``--fresh`` forgets them), and the table goes to benchmarks/mutation.md.

Mutations are made in copies of the project, one a worker, without byte code, whose time stamps could hide a change. A
worker forks from a process that has imported torch and the like, but nothing of diffinfo: that is most of the time saved.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CODE = Path("workflow/diffinfo")
KILLED, SURVIVED, LOST, WRONG, BROKEN = "killed", "SURVIVED", "does not apply", "no such test", "tests fail without it"
PRELOADED = (
    "torch", "torch.optim", "torch.distributed.tensor", "torch.distributed.fsdp", "transformers", "pandas", "hypothesis",
    "pyarrow.parquet", "scipy.special", "sklearn.linear_model", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg", "pydantic", "safetensors.torch", "tokenizers", "fsspec", "openai", "pytest",
    "transformers.models.mistral.modeling_mistral", "transformers.models.gemma2.modeling_gemma2",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "transformers.cache_utils",
)  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One change of one line, and the tests that should notice."""

    file: str
    what: str
    old: str
    new: str
    tests: str
    excuse: str = ""

    @property
    def key(self) -> str:
        """What results are kept under."""
        return hashlib.sha256("\0".join((self.file, self.old, self.new)).encode()).hexdigest()[:12]


def mutations(only: str) -> list[Mutation]:
    """All mutations whose file or description holds ``only``."""
    found = [
        Mutation(group["file"], *entry[:3], (entry[3:] or [""])[0] or group["tests"], *entry[4:])
        for path in sorted(Path(__file__).parent.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())
        for entry in group["mutations"]
    ]
    twice = [key for key, count in Counter(m.key for m in found).items() if count > 1]
    assert not twice, f"the same mutation twice: {[m.what for m in found if m.key in twice]}"
    return [m for m in found if re.search(only, f"{m.file} {m.what}", re.IGNORECASE)]


class Worker:
    """A copy of the project, and the process that tests in it."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self.folder, self.timeout = folder, timeout
        self.pid, self.task = 0, ""
        ignored = shutil.ignore_patterns("__pycache__", ".*", "results", "mutation")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT, folder, ignore=ignored)
        (folder.parent / "shared").unlink(missing_ok=True)
        if (ROOT.parent / "shared").is_dir():  # tests of public data look beside the project
            (folder.parent / "shared").symlink_to((ROOT.parent / "shared").resolve())

    def start(self, task: str, tests: str) -> None:
        """Run tests in a fork of this process."""
        self.task, self.begun = task, time.monotonic()
        self.log = self.folder.with_name(f"{task}.log")
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        os.chdir(self.folder)
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.environ |= {
            "PYTHONPATH": str(self.folder / "workflow"), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.folder.with_name(f"{self.folder.name}-tmp")),
        }  # fmt: skip
        Path(os.environ["TMPDIR"]).mkdir(exist_ok=True)
        tempfile.tempdir = None
        sys.dont_write_bytecode = True
        status = 3
        try:
            import pytest

            options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist"]
            status = int(pytest.main([*options, *_arguments(tests, self.folder)]))
        finally:
            sys.stdout.flush()
            os._exit(status)

    def ended(self) -> tuple[int | None, float] | None:
        """Exit status (None: it took too long) and seconds; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.begun
        if not pid and seconds < self.timeout:
            return None
        with contextlib.suppress(ProcessLookupError):  # whatever the tests started ends with them
            os.killpg(self.pid, signal.SIGKILL)
        if not pid:
            os.waitpid(self.pid, 0)
        self.pid = 0
        shutil.rmtree(self.folder.with_name(f"{self.folder.name}-tmp"), ignore_errors=True)
        return (os.waitstatus_to_exitcode(status) if pid else None), seconds


def _arguments(tests: str, folder: Path) -> list[str]:
    """pytest's arguments: file patterns as the files they match, and one ``-k EXPRESSION`` at the end."""
    names, _, expression = tests.partition(" -k ")
    files = dict.fromkeys(str(path) for name in names.split() for path in sorted(folder.glob(name)))
    return [*(files or ["no-such-file"]), *(["-k", expression.strip('"')] if expression else [])]


def apply(mutation: Mutation, folder: Path) -> bool:
    """Make the change; whether its old text occurs exactly once."""
    file = folder / CODE / mutation.file
    text = (ROOT / CODE / mutation.file).read_text() if (ROOT / CODE / mutation.file).is_file() else ""
    if text.count(mutation.old) != 1:
        return False
    file.write_text(text.replace(mutation.old, mutation.new))
    return True


def restore(mutation: Mutation, folder: Path) -> None:
    """Undo the change."""
    shutil.copyfile(ROOT / CODE / mutation.file, folder / CODE / mutation.file)


def result(mutation: Mutation, status: int | None, log: str, seconds: float) -> dict[str, object]:
    """What became of a mutation, and by which test."""
    first = re.search(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
    by = first[1].replace("tests/", "", 1) if first else ""
    if status is None:
        by = f"timeout after {seconds:.0f} s"
    outcome = {0: SURVIVED, 4: WRONG, 5: WRONG}.get(status, KILLED) if status is not None else KILLED
    return {"key": mutation.key, "outcome": outcome, "by": by, "seconds": round(seconds, 1)}


def run(
    tasks: dict[str, tuple[Mutation | None, str]], workers: list[Worker], said: dict[str, dict], kept: Path
) -> None:
    """Run all tasks; ``said`` and the file ``kept`` get the results as they come, and a line is printed for each."""
    waiting, total, done = list(tasks.items()), len(tasks), 0
    while waiting or any(worker.pid for worker in workers):
        for worker in workers:
            if worker.pid:
                if (end := worker.ended()) is None:
                    continue
                mutation, tests = tasks[worker.task]
                log, done = worker.log.read_text(errors="replace"), done + 1
                if mutation is None:
                    said[worker.task] = {"outcome": end[0], "tests": tests, "log": log}
                    print(
                        f"[{done}/{total}] unmutated: {tests}: {'ok' if end[0] == 0 else end[0]} ({end[1]:.0f} s)",
                        flush=True,
                    )
                else:
                    restore(mutation, worker.folder)
                    said[mutation.key] = found = result(mutation, end[0], log, end[1])
                    with open(kept, "a") as out:
                        out.write(json.dumps(found) + "\n")
                    print(
                        f"[{done}/{total}] {found['outcome']}: {mutation.file}: {mutation.what} "
                        f"({found['by'] or tests}, {end[1]:.0f} s)", flush=True,
                    )  # fmt: skip
            while waiting and not worker.pid:
                task, (mutation, tests) = waiting.pop(0)
                if mutation is not None and not apply(mutation, worker.folder):
                    done += 1
                    said[task] = {"key": task, "outcome": LOST, "by": "", "seconds": 0.0}
                    print(f"[{done}/{total}] {LOST}: {mutation.file}: {mutation.what}", flush=True)
                    continue
                worker.start(task, tests)
        time.sleep(0.05)


def table(everything: list[Mutation], said: dict[str, dict]) -> str:
    """The results as Markdown."""
    told = [(m, said[m.key]) for m in everything if m.key in said]
    counts = Counter(found["outcome"] for _, found in told)
    excused = sum(found["outcome"] == SURVIVED and bool(m.excuse) for m, found in told)
    others = [f"{counts[kind]} {kind}" for kind in (SURVIVED, LOST, WRONG, BROKEN) if counts[kind]]
    if excused:
        others[0] += f", {excused} of them because they change no number"
    lines = [
        "# Mutations",
        "",
        "One-line changes of `workflow/diffinfo`, and the first test that noticed. `python tests/mutation/run.py` writes this.",
        "",
        f"{counts[KILLED]} of {counts[KILLED] + counts[SURVIVED]} killed"
        f" ({counts[KILLED] / max(1, counts[KILLED] + counts[SURVIVED]):.1%}); {'; '.join(others) or 'none survived'}"
        + f". One after the other they took {sum(found['seconds'] for _, found in told) / 60:.0f} minutes.",
        "",
        "| file | mutation | killed by |",
        "|---|---|---|",
    ]
    for m, found in told:
        by = found["by"] if found["outcome"] == KILLED else f"**{found['outcome']}** {m.excuse}".strip()
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (m.file, m.what, by)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression on file and description")
    parser.add_argument("--survivors", action="store_true", help="once more what was not killed")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--timeout", type=float, default=180, help="seconds of one mutation")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "diffinfo-mutation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "mutation.md")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    results = asked.folder / "results.jsonl"
    if asked.fresh:
        results.unlink(missing_ok=True)
    said = {row["key"]: row for row in map(json.loads, results.open())} if results.is_file() else {}
    again = {LOST, WRONG, BROKEN} | ({SURVIVED} if asked.survivors else set())
    due = [m for m in mutations(asked.only) if m.key not in said or said[m.key]["outcome"] in again]

    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in PRELOADED:
        importlib.import_module(name)
    assert not any(name.partition(".")[0] == "diffinfo" for name in sys.modules)
    workers = [Worker(asked.folder / f"job-{number}" / "project", asked.timeout) for number in range(asked.jobs)]
    plain = {f"unmutated-{number}": (None, tests) for number, tests in enumerate(sorted({m.tests for m in due}))}
    checked: dict[str, dict] = {}
    try:
        run(plain, workers, checked, results)
        broken = {row["tests"] for row in checked.values() if row["outcome"] not in (0, 5)}
        said |= {m.key: {"key": m.key, "outcome": BROKEN, "by": "", "seconds": 0.0} for m in due if m.tests in broken}
        run({m.key: (m, m.tests) for m in due if m.tests not in broken}, workers, said, results)
    finally:
        for worker in workers:
            if worker.pid:
                os.killpg(worker.pid, signal.SIGKILL)
    for row in (row for row in checked.values() if row["tests"] in broken):
        print(f"without a mutation these fail: {row['tests']}\n{row['log'][-2000:]}")
    asked.out.write_text(table(mutations(""), said))
    print(table(mutations(""), said).split("\n")[4])


if __name__ == "__main__":
    main()
