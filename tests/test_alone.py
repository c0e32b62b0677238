"""One process per output: who waits for whom, and what is left to do afterwards."""

import multiprocessing
import os
import queue
import signal

import pytest

from diffinfo.alone import _digest, alone, at_work

FORK = multiprocessing.get_context("fork")
COMMAND = ["python", "-m", "stage", "--log_out", "results/log.parquet", "--seed", "1"]


class Holder:
    """A process inside ``alone``; ``answer`` is what it was given, None while it waits for another."""

    def __init__(self, command: list[str] = COMMAND, rank: str = "0") -> None:
        self.answers, self.leave = FORK.Queue(), FORK.Event()
        self.process = FORK.Process(target=self.run, args=(command, rank))
        self.process.start()

    def run(self, command: list[str], rank: str) -> None:
        os.environ["RANK"] = rank
        with alone(command) as work:
            self.answers.put(work)
            self.leave.wait(60)

    def answer(self, seconds: float) -> bool | None:
        try:
            return self.answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self, how: int | None = None) -> None:
        self.leave.set() if how is None else os.kill(self.process.pid, how)
        self.process.join(60)
        assert self.process.exitcode == (0 if how is None else -how)


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFINFO_LOCKS", str(tmp_path / "locks"))
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks"


def second(first: Holder, command: list[str] = COMMAND, how: int | None = None) -> bool | None:
    """What a process is given that came while ``first`` was at work, once that has ended."""
    later = Holder(command)
    assert later.answer(0.5) is None  # it waits
    first.end(how)
    given = later.answer(60)
    later.end()
    return given


def started(command: list[str] = COMMAND, rank: str = "0") -> Holder:
    first = Holder(command, rank)
    assert first.answer(60) is True
    return first


def test_whoever_waited_for_the_same_command_has_nothing_left_to_do(locks):
    assert second(started()) is False
    assert not list(locks.iterdir())


def test_whoever_waited_for_a_killed_process_does_its_work(locks):
    assert second(started(), how=signal.SIGKILL) is True
    assert second(started(), how=signal.SIGTERM) is True


def test_whoever_waited_for_another_command_does_its_own():
    assert second(started(), [*COMMAND[:-1], "2"]) is True


def test_ranks_and_outputs_do_not_wait_for_each_other():
    first = started()
    others = [Holder(rank="1"), Holder([*COMMAND[:4], "results/other.parquet"])]
    assert [other.answer(60) for other in others] == [True, True]
    for process in (first, *others):
        process.end()


def test_an_old_note_excuses_nobody_who_did_not_wait(locks):
    first = started()
    (file,) = locks.iterdir()
    first.end(signal.SIGKILL)
    file.write_text(f"done {_digest(*COMMAND)}")  # killed between its last word and the end of its lock
    started().end()


def test_a_folder_of_locks_knows_whether_anyone_is_at_work(locks):
    assert not at_work(locks)
    first = started()
    assert at_work(locks)
    first.end(signal.SIGKILL)
    assert list(locks.iterdir())  # the file stays, the lock is gone
    assert not at_work(locks)


def test_without_a_folder_nothing_is_locked(locks, monkeypatch):
    monkeypatch.delenv("DIFFINFO_LOCKS")
    with alone(COMMAND) as one, alone(COMMAND) as two:
        assert (one, two) == (True, True)
    assert not list(locks.iterdir())
