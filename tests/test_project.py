"""What the tests wait with: a deadline, and a look at whoever is to bring it about."""

import subprocess
import sys
import time

import pytest

from project import wait_until


def test_waiting_ends_when_the_child_has_died():
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    before = time.monotonic()
    with pytest.raises(AssertionError, match="ended before: a file that never comes"):
        wait_until(lambda: False, "a file that never comes", 60, alive=lambda: child.poll() is None, every=0.01)
    assert time.monotonic() - before < 30
    assert child.wait(5) == 3


def test_waiting_ends_at_its_deadline():
    with pytest.raises(TimeoutError, match="not within 0 s: nothing"):
        wait_until(lambda: False, "nothing", 0.05, every=0.01)


def test_what_came_with_the_childs_end_counts():
    there = iter([False, True])
    wait_until(lambda: next(there), "its last words", alive=lambda: False)
