"""Real SIGKILLs, SIGTERMs and damage: whatever happens to a run, it ends with the bytes of a calm one."""

import errno
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors import safe_open

from diffinfo.cli import UserError
from diffinfo.config.types import Preference
from diffinfo.methods import loss
from diffinfo.tables import artifacts
from diffinfo.train import preference, states, trainer
from diffinfo.train.projection import Projection
from project import wait_until
from train.conftest import TRAINING


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
    shutil.rmtree(wild.folder / "progress")
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
            shutil.rmtree(wild.folder / "progress")
            continue
        child.kill()
        kills += ended(child) == -signal.SIGKILL
        assert len(wild.states()) <= states.KEPT + 1  # one more while the oldest is being removed
    assert ended(wild.start()) == 0
    assert wild.bytes() == calm.bytes()
    assert wild.states() == []  # they would take disk


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


def test_epochs_spread_over_jobs_in_any_way_are_those_of_one_job(job):
    """Weights and logged numbers, whether epochs were trained one after the other or taken from a job that trained more."""
    whole = job("whole", "dpo-b0.1", epochs=4)
    whole.here()
    rows, weights = whole.log(), whole.bytes()
    jobs, resume = [], None
    for first, last in ((1, 1), (2, 3), (4, 4)):
        jobs.append(job(f"{first}-{last}", "dpo-b0.1", epochs=last, first_epoch=first, resume=resume))
        jobs[-1].here()
        resume = jobs[-1].folder / "models"
    pd.testing.assert_frame_equal(pd.concat([part.log() for part in jobs], ignore_index=True), rows)
    longer = [whole.folder / name for name in ("models", "log.parquet", "speed.parquet")]
    short = job("short", "dpo-b0.1", epochs=2, longer=longer)
    short.here()
    pd.testing.assert_frame_equal(short.log(), rows[rows.epoch <= 2])
    assert artifacts.read(short.folder / "speed.parquet", "train_speed").step.tolist() == short.log().step.tolist()
    for part, epochs in ((jobs[0], {1}), (jobs[1], {2, 3}), (jobs[2], {4}), (short, {1, 2})):
        names = {f"models/epoch-{epoch}/model.safetensors" for epoch in epochs}
        assert {name for name in part.bytes() if "epoch-" in name} == names
        assert all(part.bytes()[name] == weights[name] for name in names)


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


def nan_gradient(real):
    """A loss that is finite and whose gradient is NaN."""
    return lambda method, settings, x: real(method, settings, x) + 0 * (x.w - x.w.detach()).sqrt()


@pytest.mark.parametrize(
    ("method", "fault"), [("dpo-b0.1", "gradient"), ("dpo-pg", "projection"), ("orpo-b0.5", "loss")]
)
def test_a_step_that_is_not_finite_leaves_the_last_good_state(job, method, fault, monkeypatch):
    calm = job("calm", method)
    calm.here()
    bad = job("bad", method, save_minutes=1e-9)
    real, steps = preference.train_step, []

    def step(trainer, *arguments):
        steps.append(trainer.step)
        if len(steps) < 5:
            return real(trainer, *arguments)
        with monkeypatch.context() as here:
            if fault == "gradient":
                here.setattr(preference, "loss", nan_gradient(preference.loss))
            elif fault == "projection":  # only g_l is bad: the sums tell, the norm of what is left would not
                nothing = Projection(float("nan"), 1.0, float("nan"), 0.0)
                here.setattr(preference, "project", lambda *_: nothing)
            else:
                here.setattr(preference, "loss", lambda *arguments: loss(*arguments) * float("nan"))
            return real(trainer, *arguments)

    monkeypatch.setattr(preference, "train_step", step)
    with pytest.raises(
        UserError, match=rf"{method} epochs 1-2, step 5 of this job: the .* is nan.*lower the learning rate"
    ):
        bad.here()
    assert bad.states()[-1].name == "step-00000004"
    with safe_open(bad.states()[-1] / "rank-0.safetensors", "pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
    assert not (bad.folder / "models").exists()
    monkeypatch.setattr(preference, "train_step", real)
    bad.here()
    assert bad.bytes() == calm.bytes()


def test_weights_that_overflow_are_neither_saved_nor_published(job):
    settings = Preference(learning_rate=3e38, batch_size=40, warmup_steps=0)
    wild = job("wild", "dpo-b0.1", epochs=1, save_minutes=1e-9, preference=settings)
    with pytest.raises(UserError, match="weights that are not finite"):
        wild.here()
    assert wild.states() == []
    assert not list((wild.folder / "progress").glob("*/epoch-*"))
    assert not (wild.folder / "models").exists()


def never(*_, **__):
    raise AssertionError("it was trained before")


@pytest.mark.parametrize("method", ["sft", "dpo-b0.1"])
def test_what_is_trained_is_published_again_until_it_is_recorded(job, method, monkeypatch):
    """Snakemake deletes the outputs of a job that dies before they are recorded."""
    done = job("done", method)
    done.here()
    before = done.bytes()
    with monkeypatch.context() as here:
        here.setattr(trainer.Trainer, "__init__", never)
        for lost in (["models"], ["log.parquet"], ["models", "log.parquet", "speed.parquet"]):
            for path in (done.folder / name for name in lost):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            done.here()
            assert done.bytes() == before
            assert (done.folder / "speed.parquet").exists()
        other = job("done", method, dtype="float32", training=TRAINING.model_copy(update={"micro_batch_tokens": 600}))
        with pytest.raises(AssertionError, match="it was trained before"):
            other.here()


@pytest.mark.parametrize("method", ["sft", "dpo-b0.1"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_gets_copies(job, method, number, monkeypatch):
    """EXDEV: results/ is another file system than the progress; EPERM: BeeGFS and AFS."""
    calm, copied = job("calm", method), job("copied", method)
    calm.here()

    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    copied.here()
    assert copied.bytes() == calm.bytes()


def test_two_file_systems(job, tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is but one file system here")
    calm, across = job("calm", "dpo-b0.1"), job("across", "dpo-b0.1")
    calm.here()
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        across.arguments["progress_dir"] = Path(folder)
        across.here()
    assert across.bytes() == calm.bytes()
