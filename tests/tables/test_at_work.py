"""Whether anyone is at work, as the kernel's locks say it."""

import fcntl
import multiprocessing

from diffinfo.tables.locks import at_work

FORK = multiprocessing.get_context("fork")


def hold(file, held, leave):
    with open(file, "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        held.set()
        leave.wait(60)


def test_a_lock_counts_while_its_process_lives_and_a_file_alone_never(tmp_path):
    assert not at_work(tmp_path)
    (tmp_path / "left behind").write_text("somewhere, process 1")
    assert not at_work(tmp_path)
    held, leave = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=hold, args=(tmp_path / "held", held, leave))
    holder.start()
    assert held.wait(60)
    assert at_work(tmp_path)
    holder.kill()
    holder.join(60)
    assert (tmp_path / "held").exists()
    assert not at_work(tmp_path)
