"""One process per output at a time, wherever it runs.

A Snakemake that is killed leaves its jobs running, and the next one may start the same jobs again; a lost node may come
back to life. The kernel's lock goes with its process, over NFS too, so nothing has to be cleaned up after a kill.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TextIO

log = logging.getLogger("diffinfo")


@contextmanager
def one_writer(command: list[str], made: str) -> Iterator[bool]:
    """Hold the lock of this job's outputs while the block runs; wait for it where another process does.

    The lock is named after the job's log file (its stderr) or, under srun, after its first ``*_out`` argument; each rank
    has its own. Nothing is locked without the variable DIFFINFO_LOCKS (a folder, set by the workflow) or without a name.

    Args:
        command: what the process was passed.
        made: digest of that and of what it reads (``provenance.begin``), taken before it waits.

    Yields:
        False when another process with the same digest succeeded while this one waited: nothing is left to do.
    """
    folder, output = os.environ.get("DIFFINFO_LOCKS"), os.readlink("/proc/self/fd/2")
    if not os.path.isfile(output):
        output = next((value for option, value in pairwise(command) if option.endswith("_out")), "")
    if not folder or not output:
        yield True
        return
    file = Path(folder) / _digest(output, os.environ.get("RANK", "0"))
    file.parent.mkdir(parents=True, exist_ok=True)
    done = f"done {made}"
    while True:
        with open(file, "a+", encoding="utf-8") as handle:
            waited = _lock(handle, output)
            if waited and _read(handle) == done:
                log.info("it succeeded with the same command and inputs: nothing is left to do")
                yield False
                return
            if _is(handle, file):
                _write(handle, f"{socket.gethostname()}, process {os.getpid()}, since {time.strftime('%F %T')}")
                yield True
                _write(handle, done)
                file.unlink(missing_ok=True)
                return


def at_work(folder: Path) -> bool:
    """Whether any process holds a lock in ``folder``."""
    return any(map(_held, folder.glob("*")))


def held(folder: Path, log: str) -> bool:
    """Whether a process is at work on the outputs of the job with this log file."""
    file = folder / _digest(os.path.realpath(log), "0")
    return _held(file)


def _held(file: Path) -> bool:
    try:
        with open(file, "r+", encoding="utf-8") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or another user's
        return True
    return False


def _lock(handle: TextIO, output: str) -> bool:
    """Take the lock; returns whether another process had to be waited for."""
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            log.info("%s: another process is at work on the same output (%s); waiting for it", output, _read(handle))
            fcntl.lockf(handle, fcntl.LOCK_EX)
            return True
    except OSError as error:  # outputs still appear whole or not at all
        log.warning("%s: no locks on this file system (%s); start no second Snakemake here", output, error.strerror)
    return False


def _is(handle: TextIO, file: Path) -> bool:
    """Whether the open file still has its name: the last holder of the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(file))
    except FileNotFoundError:
        return False


def _read(handle: TextIO) -> str:
    handle.seek(0)
    return handle.read()


def _write(handle: TextIO, text: str) -> None:
    handle.truncate(0)
    handle.write(text)
    handle.flush()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
