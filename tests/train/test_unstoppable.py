"""Real SIGKILLs, SIGTERMs and damage: whatever happens to a run, it ends with the bytes of a calm one."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from diffinfo.train import checkpoint
from project import wait_until


def ended(child) -> int:
    """Exit code of a process, negative for a signal."""
    child.join(120)
    assert child.exitcode is not None, "the job hangs"
    return child.exitcode


def saved(job, child, states: int) -> None:
    """Return once a job has saved so many states."""
    wait_until(
        lambda: len(job.states()) >= states, f"{states} states", 120, alive=lambda: child.exitcode is None, every=0.005
    )


@pytest.mark.parametrize("method", ["sft", "dpo-b0.1", "dpo-pg"])
def test_ten_random_kills_change_no_byte(job, method):
    calm = job("calm", method, epochs=4)
    calm.here()
    wild = job("wild", method, epochs=4, save_minutes=1e-9)  # a state at every step
    started = time.monotonic()
    assert ended(wild.start()) == 0
    whole = time.monotonic() - started
    rng = random.Random(method)
    kills, starts = 0, 0
    while kills < 10:
        starts += 1
        assert starts < 100, f"{kills} of 100 children lived long enough to be killed"
        child = wild.start()
        child.join(rng.uniform(0, 0.9 * whole))
        if child.exitcode is not None:
            assert child.exitcode == 0
            assert wild.bytes() == calm.bytes()  # it went through: start anew
            continue
        child.kill()
        kills += ended(child) == -signal.SIGKILL
        assert len(wild.states()) <= checkpoint.KEPT + 1  # one more while the oldest is being removed
    assert ended(wild.start()) == 0
    assert wild.bytes() == calm.bytes()
    assert not list((wild.folder / "progress").iterdir())


def test_a_kill_between_the_files_of_a_state_changes_no_byte(job):
    calm, wild = job("calm", "dpo-b0.1"), job("wild", "dpo-b0.1", save_minutes=1e-9)
    calm.here()

    def half() -> list[Path]:
        """States that have a file, and not all."""
        parts = (wild.folder / "progress").glob("*/.step-*.tmp/rank-0.safetensors")
        return [part for part in parts if not (part.parent / "state.json").exists()]

    caught, starts = 0, 0
    while caught < 3:
        starts += 1
        assert starts < 100, f"{caught} of 100 children were caught between two files"
        child = wild.start()
        wait_until(lambda: half() or child.exitcode is not None, "a file of a state", 120, every=0.0005)  # noqa: B023
        child.kill()
        assert ended(child) in (0, -signal.SIGKILL)
        caught += bool(half())
    wild.here()
    assert wild.bytes() == calm.bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_is_told_to_stop_saves_and_goes_on_later(job, number):
    calm, told = job("calm", "dpo-pg", epochs=6), job("told", "dpo-pg", epochs=6)
    calm.here()
    child = told.start()
    saved(told, child, 1)  # the first epoch's end
    os.kill(child.pid, number)
    assert ended(child) == 128 + number
    last = int(told.states()[-1].name.removeprefix("step-"))
    assert 3 <= last < 18
    told.here()
    assert told.bytes() == calm.bytes()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "no facts"])
def test_a_damaged_state_falls_back_to_the_one_before(job, damage, caplog):
    calm, hurt = job("calm", "dpo-b0.1", epochs=3), job("hurt", "dpo-b0.1", epochs=3)
    calm.here()
    child = hurt.start()
    saved(hurt, child, 2)
    child.kill()
    ended(child)
    before, last = hurt.states()[-2:]
    file = last / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    match damage:
        case "flipped":
            content[-100] ^= 1
            file.write_bytes(content)
        case "truncated":
            file.write_bytes(content[: len(content) // 2])
        case "missing":
            file.unlink()
        case "no facts":
            (last / "state.json").write_text("{")
    with caplog.at_level("INFO"):
        hurt.here()
    assert f"{last.name}" in caplog.text
    assert "Going back to the state before it" in caplog.text
    assert f"going on after step {int(before.name.removeprefix('step-'))}" in caplog.text
    assert hurt.bytes() == calm.bytes()


def test_a_run_whose_states_are_all_damaged_starts_anew(job):
    calm, hurt = job("calm", "dpo-b0.1"), job("hurt", "dpo-b0.1", save_minutes=1e-9)
    calm.here()
    child = hurt.start()
    saved(hurt, child, 1)
    child.kill()
    ended(child)
    for state in hurt.states():
        (state / "rank-0.safetensors").write_bytes(b"nothing")
    hurt.here()
    assert hurt.bytes() == calm.bytes()


def test_a_later_span_is_the_same_run(job):
    whole, early = job("whole", "dpo-pg", epochs=3), job("early", "dpo-pg", epochs=2)
    whole.here()
    early.here()
    late = job("late", "dpo-pg", epochs=3, first_epoch=3, resume=early.folder / "models")
    late.here()
    name = "models/epoch-3/model.safetensors"
    assert late.bytes()[name] == whole.bytes()[name]
    assert late.log().step.tolist() == whole.log().step.tolist()[-3:]


@pytest.mark.parametrize(("method", "before", "after"), [("sft", 2, 1), ("dpo-pg", 2, 1), ("dpo-pg", 1, 2)])
def test_another_number_of_ranks_goes_on(job, method, before, after):
    calm, moved = job("calm", method), job("moved", method, save_minutes=1e-9)
    calm.here()
    running = moved.launch(before)
    wait_until(lambda: len(moved.states()) >= 2 or running.poll() is not None, "two states", 300, every=0.01)
    for process in [*psutil.Process(running.pid).children(recursive=True), running]:  # as a node's end would
        process.kill()
    running.wait(60)
    assert len(moved.states()) >= 2, running.stderr.read()[-3000:]
    again = moved.launch(after)
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said[-3000:]
    assert "going on after step" in said, said[-3000:]
    assert moved.log().step.tolist() == calm.log().step.tolist()
    assert torch.allclose(torch.tensor(moved.log().loss), torch.tensor(calm.log().loss), atol=1e-4)
