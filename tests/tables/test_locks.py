"""One writer an output: who waits, what a waiting job gets, and file systems without locks."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffinfo.tables import locks

HOLDER = """
import logging, sys
from diffinfo.tables.locks import one_writer
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
with one_writer(["stage", "--log_out", "x.parquet"], sys.argv[1]) as needed:
    print("needed" if needed else "done", flush=True)
    if input() == "fail":
        raise SystemExit(1)
"""


class Job(subprocess.Popen):
    """A process that holds the lock of x.parquet, or waits for it."""

    def __init__(self, folder: Path, number: int, made: str) -> None:
        self.out = folder / f"{number}.out"
        environment = {**os.environ, "DIFFINFO_LOCKS": str(folder / "locks"), "PYTHONPATH": str(CODE)}
        with open(self.out, "w") as out:
            super().__init__(
                [sys.executable, "-c", HOLDER, made], env=environment, stdin=subprocess.PIPE, stdout=out,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

    def says(self, words: str) -> bool:
        """Whether it says something within half a minute."""
        end = time.monotonic() + 30
        while words not in self.out.read_text() and time.monotonic() < end:
            time.sleep(0.02)
        return words in self.out.read_text()


CODE = Path(locks.__file__).parents[2]


@pytest.fixture
def process(tmp_path):
    """Starts jobs."""
    started = []

    def start(made: str) -> Job:
        started.append(Job(tmp_path, len(started), made))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    ("ending", "made", "told"),
    [
        ("well", "same", "nothing is left to do"),
        ("well", "other", "needed"),  # another command, or other inputs
        ("killed", "same", "needed"),  # its outputs are not there, or not whole
        ("terminated", "same", "needed"),
        ("failed", "same", "needed"),
    ],
)
def test_what_a_job_that_has_waited_is_told(process, ending, made, told):
    first = process("same")
    assert first.says("needed")
    second = process(made)
    assert second.says("another process is at work on the same output")
    if ending in ("killed", "terminated"):
        first.send_signal(signal.SIGKILL if ending == "killed" else signal.SIGTERM)
    else:
        first.stdin.write("fail\n" if ending == "failed" else "\n")
        first.stdin.flush()
    first.wait(30)
    assert second.says(told)
    assert ("needed" in second.out.read_text()) == (told == "needed")


def test_the_ranks_of_a_job_have_a_lock_each(process, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert process("same").says("needed")


def test_nothing_is_told_by_a_file_that_was_left_behind(process, tmp_path):
    first = process("same")
    assert first.says("needed")
    first.kill()
    first.wait(30)
    (left,) = (tmp_path / "locks").iterdir()
    left.write_text("done same")  # even so: nobody was waited for
    again = process("same")
    assert again.says("needed")
    again.communicate("\n", timeout=30)
    assert not list((tmp_path / "locks").iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
@pytest.mark.parametrize("at", ["at once", "while waiting"])
def test_without_locks_the_job_runs_with_a_warning(tmp_path, monkeypatch, caplog, number, at):
    def refused(handle, how):
        if at == "while waiting" and how & fcntl.LOCK_NB:
            raise BlockingIOError(errno.EAGAIN, "held")
        raise OSError(number, "No locks available")

    monkeypatch.setenv("DIFFINFO_LOCKS", str(tmp_path))
    monkeypatch.setattr(fcntl, "lockf", refused)
    with caplog.at_level(logging.WARNING), locks.one_writer(["stage", "--log_out", "x.parquet"], "same") as needed:
        assert needed
    assert "no locks on this file system (No locks available); start no second Snakemake here" in caplog.text
    assert not list(tmp_path.iterdir())
