"""What may be dropped from the disk, and that nothing wants it back."""

import shutil
import subprocess
import sys

import pytest

from diffinfo.operations import disk
from diffinfo.tables import artifacts


def drop(project):
    command = [sys.executable, "-m", "diffinfo.operations.disk", "--drop"]
    environment = {**project.environment, "PYTHONPATH": "workflow"}
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("dropped ")]


@pytest.fixture(scope="module")
def done(touched, tmp_path_factory):
    return touched.copy(tmp_path_factory.mktemp("done") / "project")


def test_only_checkpoints_that_no_remaining_job_reads_are_dropped(done, jobs_tools):
    for missing in ("qa/micro-mistral/magpie-pro/dpo-b0.1/1-3.parquet", "figures/figure3.md"):
        (done.folder / "results" / missing).unlink()
    progress = done.folder / "results/.progress/train/0123"
    progress.mkdir(parents=True)
    others = done.folder / "results/train/mistral-7b/magpie-pro/dpo-b0.1/1-1/models"  # of another configuration
    others.mkdir(parents=True)
    dropped = drop(done)
    assert others.is_dir()
    kept = "results/train/micro-mistral/magpie-pro/dpo-b0.1/1-3/models"
    assert kept not in dropped
    assert (done.folder / kept).is_dir()
    assert len([path for path in dropped if path.startswith("results/train/")]) == 44  # of 45 trainings
    assert len([path for path in dropped if path.startswith("results/did/")]) == 14  # all proxies
    assert not progress.exists()  # nothing is left to be trained
    assert not any((done.folder / path).exists() for path in dropped)
    rules = jobs_tools[1](done.plan())
    assert rules["qa"] == 1
    assert not {"preference", "sft", "did_train", "world_model"} & set(rules)


def test_progress_stays_while_something_is_to_be_trained(done):
    progress = done.folder / "results/.progress/train/4567"
    progress.mkdir(parents=True)
    for missing in ("train/micro-mistral/magpie-pro/dpop-b0.1/1-3/train_log.parquet", "figures/figure5.md"):
        (done.folder / "results" / missing).unlink()
    drop(done)
    assert progress.is_dir()


def test_a_linked_file_counts_once_and_what_killed_jobs_left_is_deleted(tmp_path):
    results = tmp_path / "results"
    first = results / "train/model.safetensors"
    first.parent.mkdir(parents=True)
    first.write_bytes(b"x" * 1_000_000)
    alone = disk.size(results)
    assert alone >= 1_000_000
    (results / "train/again").hardlink_to(first)
    assert disk.size(results) == alone
    assert disk.report(results).startswith(f"{results}: 0.001 GB (train 0.001 GB), ")
    (results / ".table.parquet.3f.tmp").touch()
    (results / "train/.models.3f.tmp").mkdir()
    lock = results / ".progress/locks/0123"
    lock.parent.mkdir(parents=True)
    lock.touch()
    holder = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        job.stdout.readline()
        disk.clean(results)
        assert len(list(results.rglob(".*.tmp"))) == 2  # some job is at work, and they may be its
        job.kill()
    shutil.rmtree(lock.parents[1])
    disk.clean(results)
    assert sorted(path.name for path in results.rglob("*")) == ["again", "model.safetensors", "train"]


def test_progress_goes_when_its_outputs_are_recorded_and_not_before(tmp_path):
    progress = [tmp_path / f".progress/{name}" for name in ("train/01", "parts/02", "train/03")]
    for number, folder in enumerate(progress[:2]):
        folder.mkdir(parents=True)
        artifacts.keep_until_recorded(folder, tmp_path / f"{number}/models", tmp_path / f"{number}/log.parquet")
    progress[2].mkdir()  # of a training that has not ended
    disk.forget(tmp_path, [str(tmp_path / "2/models"), str(tmp_path / "0")])
    assert all(folder.is_dir() for folder in progress)
    disk.forget(tmp_path, [str(tmp_path / "0/log.parquet"), str(tmp_path / "0/models")])
    assert [folder.is_dir() for folder in progress] == [False, True, True]
