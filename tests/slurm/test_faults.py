"""Every fault of the table in docs/cluster.md on a real cluster: nothing is lost, and the bytes are those of a calm run.

What happens to one job alone happens side by side, in a project each; what happens to the cluster, one after the other.
"""

import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffinfo.operations.orphans import NoAnswer, orphans
from project import wait_until
from slurm.training import Training, end


def cancelled(it: Training) -> None:
    run = it.start()
    it.wait_for_progress()
    it.cluster.run("scancel", it.number())
    assert run.ended() == 0
    assert "SLURM status is: 'CANCELLED'" in it.said()
    it.check()


def over_its_time_limit(it: Training) -> None:
    run = it.start("--set-resources", "preference:runtime=1")
    it.hold()  # it hangs, until SLURM ends it
    assert run.ended() == 0
    assert "SLURM status is: 'TIMEOUT'" in it.said()
    it.check()


def out_of_memory(it: Training) -> None:
    assumed = it.project.folder / "workflow/diffinfo/operations/assumptions.yaml"
    text = assumed.read_text()
    assert "libraries_gb: 1.5" in text
    assumed.write_text(text.replace("libraries_gb: 1.5", "libraries_gb: 0.5"))
    run = it.start()
    assert run.ended() == 0
    assert "Exceeded job memory limit" in it.jobs_said()
    logged = max((it.project.folder / ".snakemake/log").glob("*.log")).read_text()  # the latest: of this run
    asked = [int(line.split("mem_mb=")[1].split(",")[0]) for line in logged.splitlines() if " mem_mb=" in line]
    assert asked[0] < asked[1]
    it.check(kept=False)


def snakemake_is_interrupted(it: Training) -> None:
    run = it.start()
    it.hold()  # SLURM wakes what it cancels
    assert end(run, signal.SIGINT) != 0
    wait_until(lambda: not it.queue(), "SLURM has no job of it any more")
    it.finish()
    it.check()


def snakemake_is_asked_to_end(it: Training) -> None:
    run = it.start()
    job = it.hold()
    assert re.search(r"^preference +0 of \d+ done, 1 running", it.status(), re.M)
    run.send_signal(signal.SIGTERM)
    told = "Will exit after finishing currently running jobs"
    wait_until(lambda: told in it.said(), "Snakemake has heard it")
    for process in job:
        process.resume()
    run.ended()
    assert "Nothing to be done" in it.finish()
    it.check()


def snakemake_is_killed(it: Training) -> None:
    run = it.start()
    job = it.hold()
    end(run)
    assert it.start(log="refused.log").ended() != 0
    assert "--unlock" in it.said("refused.log")
    it.unlock()
    number = it.number()
    run = it.start()
    found = f"1 job(s) of a killed run are still at work here: {number} (rule_preference_"
    wait_until(lambda: found in it.said(), "the next Snakemake waits for the job")
    for process in job:
        process.resume()
    assert run.ended() == 0
    assert "Took over 1 job(s) that a killed run had finished" in it.said()
    it.check()
    assert "Nothing to be done" in it.finish()


def snakemake_is_killed_before_its_job_begins(it: Training) -> None:
    run = it.start("--set-resources", "preference:slurm_extra='--begin=now+1hour'")
    wait_until(lambda: it.queue("PENDING"), "the job is queued")
    assert re.search(r"^preference +0 of \d+ done, 1 queued", it.status(), re.M)
    end(run)
    it.unlock()
    (number,) = it.queue("PENDING")
    assert f"Cancelled 1 job(s) of a killed run that had not begun: {number} (rule_preference_" in it.finish()
    it.check(kept=False)


def snakemake_sleeps_longer_than_slurm_remembers(it: Training) -> None:
    run = it.start()
    it.wait_for_progress()
    number = it.number()
    run.send_signal(signal.SIGSTOP)
    known = ("squeue", "-h", "--states=all", "-o", "%i")
    wait_until(lambda: number not in it.cluster.run(*known).split(), "SLURM has forgotten the job", 240)
    run.send_signal(signal.SIGCONT)
    assert run.ended() == 0
    assert f"SLURM no longer lists job(s) {number}: they are judged by their outputs" in it.said()
    it.check()


def the_disk_is_full(it: Training) -> None:
    with it.disk("size=3m"):
        run = it.start("--retries", "0")
        it.wait_for_progress()
        assert run.ended() != 0
        told = (it.project.folder / it.log).read_text()
        assert "No space left on device. Nothing that was finished is lost: free some space" in told
        subprocess.run(["mount", "-o", "remount,size=60m", it.project.folder / "results"], check=True)
        it.finish()
        it.check()


def the_results_are_read_only(it: Training) -> None:
    with it.disk("ro"):
        run = it.start()
        assert run.ended() != 0
        assert f"{it.project.folder}/results may not be written" in it.said()
        subprocess.run(["mount", "-o", "remount,rw", it.project.folder / "results"], check=True)
        it.finish()
        it.check(kept=False)


def clocks_differ(it: Training) -> None:
    """A job's files carry its node's time, ten minutes earlier than Snakemake's."""
    it.after_each_task("find results -newer snakemake.log -exec touch -d '10 minutes ago' {} +")
    reference = it.project.folder / "results/reference_logps/micro-mistral/magpie-pro.parquet"
    reference.unlink()
    it.finish()
    assert "Nothing to be done" in it.finish()
    it.check(kept=False)


def files_are_seen_late(it: Training) -> None:
    """What a job has written is seen elsewhere six seconds after it ended."""
    hidden = it.project.folder / "hidden"
    it.after_each_task(f"[ -e once ] || {{ touch once; mv {it.folder} {hidden}; }}")
    run = it.start()
    wait_until(hidden.exists, "the job has ended", 120)
    time.sleep(6)
    hidden.rename(it.folder)
    assert run.ended() == 0
    assert "Waiting at most 30 seconds for missing files" in it.said() + it.jobs_said()
    assert "Trying to restart" not in it.said()
    it.check(kept=False)


TO_ONE_JOB = (
    snakemake_sleeps_longer_than_slurm_remembers, over_its_time_limit, cancelled, out_of_memory,
    snakemake_is_interrupted, snakemake_is_asked_to_end, snakemake_is_killed, snakemake_is_killed_before_its_job_begins,
    the_disk_is_full, the_results_are_read_only, clocks_differ, files_are_seen_late,
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(training):
    """What comes of each fault, three at a time."""
    with ThreadPoolExecutor(3) as pool:
        yield {fault: pool.submit(lambda fault=fault: fault(training(fault.__name__))) for fault in TO_ONE_JOB}


@pytest.mark.parametrize("fault", TO_ONE_JOB, ids=lambda fault: fault.__name__)
def test_nothing_is_lost_when(outcomes, fault):
    outcomes[fault].result()


def test_nothing_is_lost_when_a_node_is_lost(training, cluster):
    it = training("lost")
    run = it.start()
    it.wait_for_progress()
    node = cluster.run("squeue", "-h", "-j", it.number(), "-o", "%N")
    cluster.lose(node)
    try:
        assert run.ended() == 0
    finally:
        cluster.start_node(node)
    assert "failed due to a node failure, SLURM status is: 'NODE_FAIL'" in it.said()
    it.check()


def test_nothing_is_lost_when_the_controller_is_restarted(training, cluster, monkeypatch):
    it = training("controller")
    monkeypatch.chdir(it.project.folder)
    monkeypatch.setenv("PATH", it.project.environment["PATH"])
    late = it.project.folder / "late/sbatch"  # sbatch, which waits for a file
    late.parent.mkdir()
    late.write_text(
        f'#!/bin/sh\ntouch {late}.asked\nwhile ! test -e {late}.go; do sleep .1; done\nexec {shutil.which("sbatch")} "$@"\n'
    )
    late.chmod(0o755)
    it.project.environment["PATH"] = f"{late.parent}:{it.project.environment['PATH']}"
    cluster.stop_controller()
    try:
        assert it.start(log="refused.log").ended() != 0
        assert "error: SLURM cannot be reached (squeue: " in it.said("refused.log").splitlines()[-1]
        cluster.start_controller()
        run = it.start()
        wait_until(Path(f"{late}.asked").exists, "Snakemake submits the job", 120)
        cluster.stop_controller()
        Path(f"{late}.go").touch()
        wait_until(lambda: "SLURM does not answer" in it.said(), "Snakemake has tried to submit the job", 120)
    finally:
        cluster.start_controller()
    it.wait_for_progress()
    cluster.stop_controller()
    try:
        wait_until(lambda: not it.processes(), "the training has ended, unnoticed")
        with pytest.raises(NoAnswer, match="jobs of a killed run may still be running here"):
            orphans({"rule_preference"})
    finally:
        cluster.start_controller()
    assert run.ended() == 0
    assert "FAILED" not in it.said().split("has been submitted")[-1]
    it.check()
