"""How far a run is, from what Snakemake's log, locks, SLURM's queue and benchmark files say."""

import os
import subprocess
import sys

import pytest

from diffinfo.operations import status
from diffinfo.operations.jobs import Job
from diffinfo.operations.stream import Lines
from diffinfo.operations.units import count, duration
from diffinfo.tables import locks
from operations.test_cost import costs
from project import wait_until

CELL = {"model": "micro-mistral", "dataset": "magpie-pro"}
LOG = """
[Thu Nov 26 12:00:00 2026]
rule sft:
    input: results/base/micro-mistral
    output: results/a, results/b
    jobid: 1

[Thu Nov 26 12:00:01 2026]
rule qa:
    output: results/c
    jobid: 2

[Thu Nov 26 12:00:02 2026]
Error in rule sft:
    message: None
    jobid: 1
    output: results/a, results/b
    log: results/sft.log (check log file(s) for error details)

[Thu Nov 26 12:00:03 2026]
Error in rule qa:
    jobid: 2
    output: results/c

[Thu Nov 26 12:00:04 2026]
rule qa:
    output: results/c
    jobid: 2
"""


def job(name: str, rule: str = "qa", benchmark: str = "", reads: str = "") -> Job:
    return Job(rule, CELL | {"method": name}, frozenset(reads.split()), frozenset({name}), benchmark, f"{name}.log")


def test_a_job_that_was_begun_again_has_not_failed():
    assert status.failed(LOG) == {frozenset({"results/a", "results/b"})}


def test_each_job_is_in_one_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done, at_work, broken, queued, there, waits = map(job, ("done", "here", "broken", "queued", "there", "waits"))
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\necho '1|PENDING|rule_qa_wildcards_micro-mistral_magpie-pro_queued_run_mine|{tmp_path}'\n"
        f"echo '2|RUNNING|rule_qa_wildcards_micro-mistral_magpie-pro_there_run_mine|{tmp_path}'\n"
        f"echo '3|RUNNING|rule_qa_wildcards_micro-mistral_magpie-pro_waits_run_other|{tmp_path}'\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    code = "from diffinfo.tables.locks import one_writer; import sys, time\nwith one_writer([], ''): time.sleep(60)"
    environment = {**os.environ, "DIFFINFO_LOCKS": str(status.LOCKS)}
    with open("here.log", "w") as log:
        holder = subprocess.Popen([sys.executable, "-c", code], stderr=log, env=environment)
    try:
        wait_until(lambda: locks.held(status.LOCKS, "here.log"), "the job is at work")
        log = "rule qa:\n    output: broken\n    jobid: 1\n\nError in rule qa:\n    output: broken\n    jobid: 1\n"
        rest = [at_work, broken, queued, there, waits]
        found = status.states([done, *rest], rest, "mine", log)
    finally:
        holder.kill()
        holder.wait()
    words = ["done", "running", "failed", "queued", "running", "waiting"]
    assert [found[one.outputs] for one in (done, *rest)] == words
    assert not locks.held(status.LOCKS, "here.log")


def test_the_time_left_is_the_plans_times_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "done.tsv").write_text("s\th:m:s\n7200\t2:00:00\n")
    cost = costs("micro")
    everything = [job("done", benchmark="done.tsv"), job("one"), job("two"), job("three", "smc", reads="two")]
    hours = status.hours_of(everything, {frozenset({"done"})}, cost)
    planned = cost.job("qa", CELL).hours
    assert hours[frozenset({"one"})] == pytest.approx(2.0)  # as long as the one that is done
    assert hours[frozenset({"three"})] == pytest.approx(cost.job("smc", CELL).hours * 2 / planned)  # as all are longer
    assert status.hours_of(everything, set(), cost)[frozenset({"one"})] == planned
    (tmp_path / "two.log").write_text("begin\n" * 20 + "error: the sentence\n")
    found = dict(zip((one.outputs for one in everything), ("done", "running", "failed", "waiting"), strict=True))
    said = status.report(everything, found, cost)
    assert said[0] == "4 jobs: 1 done, 1 running, 1 failed, 1 waiting"
    work = 4.0 + hours[frozenset({"three"})]
    assert said[1].startswith(f"about {duration(work)} left, until ")
    assert said[2:4] == ["running  qa micro-mistral magpie-pro one, about 2.0 h in all",
                         "failed  qa micro-mistral magpie-pro two: two.log"]  # fmt: skip
    assert said[-1] == "    error: the sentence"
    assert status.stages(everything, found) == [
        "qa           1 of 3 done, 1 running, 1 failed",
        "single jobs  0 of 1 done",
    ]


def record(event, **said):
    import logging

    one = logging.LogRecord("snakemake", logging.INFO, "", 0, said.pop("msg", None), (), None)
    one.__dict__.update(event=event, **said)
    return one


def test_the_stream_has_a_line_a_job(tmp_path):
    from snakemake_interface_logger_plugins.common import LogEvent

    class Settings:
        quiet, show_failed_logs = frozenset(), True

    lines, printed = Lines(Settings, str), []
    (tmp_path / "b.tsv").write_text("s\th:m:s\n34.2\tx\n")
    (tmp_path / "qa.log").write_text("working\nerror: the sentence\n")

    def say(event, **said):
        one = record(event, **said)
        if lines.filter(one):
            printed.append(lines.format(one))

    say(LogEvent.JOB_INFO, jobid=1, rule_name="sft", wildcards=CELL, benchmark=str(tmp_path / "b.tsv"))
    say(LogEvent.JOB_INFO, jobid=2, rule_name="qa", wildcards=CELL, benchmark=None)
    say(LogEvent.JOB_STARTED, jobs=[1, 2])
    say(None, msg="Select jobs to execute...")
    say(LogEvent.JOB_FINISHED, job_id=1, msg="Finished jobid: 1 (Rule: sft)")
    say(LogEvent.PROGRESS, done=1, total=2)
    say(LogEvent.ERROR, msg="RuleException:\nCalledProcessError in file", exception="RuleException")
    status_line = "SLURM-job '1' failed, SLURM status is: 'TIMEOUT'."
    say(LogEvent.JOB_ERROR, jobid=2, rule_name="qa", rule_msg=status_line, log=[str(tmp_path / "qa.log")])
    say(
        LogEvent.ERROR, msg="WorkflowError:\nAt least one job did not complete successfully.", exception="WorkflowError"
    )
    assert [line.split("  ", 1)[-1] for line in printed[:1]] == ["1 of 2  sft micro-mistral magpie-pro: 34 s"]
    assert printed[1].splitlines()[0].split("  ")[1:2] == ["FAILED"]
    assert status_line in printed[1]
    assert printed[1].endswith("working\n    error: the sentence")
    assert printed[2:] == ["error: 1 job(s) failed, the first of them qa micro-mistral magpie-pro: the sentence"]


def test_numbers_are_plain():
    assert [duration(h) for h in (0.0001, 0.01, 0.5, 3.66, 29.2, 600)] == [
        "0.4 s",
        "36 s",
        "30 min",
        "3.7 h",
        "29 h",
        "25 days",
    ]
    assert [count(v) for v in (0, 0.001, 3.71, 853.2, 13710.0, 1690, 40120)] == [
        "0", "<0.01", "3.71", "853", "13,700", "1,690", "40,100",
    ]  # fmt: skip


def test_the_newest_log_with_jobs_is_read(tmp_path):
    (tmp_path / "2.snakemake.log").write_text("Nothing to be done\n")
    (tmp_path / "1.snakemake.log").write_text(LOG)
    assert status.latest_log(tmp_path) == LOG
    assert status.latest_log(tmp_path / "none") == ""
