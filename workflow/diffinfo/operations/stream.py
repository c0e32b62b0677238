"""One line a job in what Snakemake prints while it runs; its own log in .snakemake/log says everything, as always."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from snakemake.logging import DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from diffinfo.operations.units import count, duration, measured, name

LINES = 6  # of a failed job's log
JOBS_FAILED = "At least one job did not complete successfully"
UNSAID = (LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED)


class Sentences(DefaultFormatter):  # type: ignore[misc] # Snakemake has no types
    """Snakemake's own formatter, but a target that no rule makes is one sentence."""

    def __init__(self, settings: Any, unmade: Callable[[str], str]) -> None:
        super().__init__(settings.quiet, settings.show_failed_logs)
        self.unmade = unmade

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        missing = getattr(record, "exception", "") == "MissingRuleException"
        found = re.search(r"^No rule to produce (.+?) \(if you use", str(record.msg), re.MULTILINE) if missing else None
        return f"error: {self.unmade(found[1])}" if found else super().format(record)


class Lines(Sentences):
    """Formatter and filter of Snakemake's stream handler: "12 of 618  sft micro-mistral magpie-pro: 34 s"."""

    def __init__(self, settings: Any, unmade: Callable[[str], str]) -> None:
        super().__init__(settings, unmade)
        self.begun: dict[int, tuple[str, str | None, float]] = {}  # what a job is, its benchmark file, since when
        self.finished: list[int] = []
        self.failed: dict[int, str] = {}  # the last line of its log

    def filter(self, record: logging.LogRecord) -> bool:
        """Take note of a job that begins or ends; only the count that follows is printed."""
        event, said = getattr(record, "event", None), record.__dict__
        if event == LogEvent.JOB_INFO:
            self.begun[said["jobid"]] = name(said["rule_name"], said["wildcards"]), said["benchmark"], time.time()
        elif event == LogEvent.JOB_FINISHED:
            self.finished.append(said["job_id"])
            self.failed.pop(said["job_id"], None)
        told = event == LogEvent.ERROR and "CalledProcessError" in str(record.msg)  # by the job's own error
        return event not in UNSAID and not told and record.msg != "Select jobs to execute..."

    def format(self, record: logging.LogRecord) -> str:
        """The last sentence of a run that failed is the first job's own."""
        text = super().format(record)
        if getattr(record, "event", None) == LogEvent.ERROR and self.failed and JOBS_FAILED in text:
            first = next(iter(self.failed.values()))
            return f"error: {count(len(self.failed))} job(s) failed, the first of them {first}"
        return text

    def format_progress(self, msg: dict[str, Any]) -> str:
        """A line for each job that has ended since the last one."""
        ended, self.finished = self.finished, []
        counted = range(msg["done"] - len(ended) + 1, msg["done"] + 1)
        return "\n".join(
            f"{time.strftime('%H:%M:%S')}  {count} of {msg['total']}  {self._took(number)}"
            for count, number in zip(counted, ended, strict=True)
        )

    def _took(self, number: int) -> str:
        what, benchmark, since = self.begun.pop(number, ("job", None, time.time()))
        return f"{what}: {duration((measured(benchmark) or time.time() - since) / 3600)}"

    def format_job_error(self, msg: dict[str, Any]) -> str:
        """What failed, what the executor says of it (SLURM's status), and the end of its log."""
        what, _, since = self.begun.get(msg["jobid"], (msg["rule_name"], None, time.time()))
        reason = [str(msg["rule_msg"])] if msg["rule_msg"] else []
        lines = [line for log in msg["log"][:1] for line in tail(log)]  # its own; SLURM's follows
        sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        self.failed[msg["jobid"]] = f"{what}: {(sentences or reason or lines or ['it has no log'])[-1]}"
        said = f"{time.strftime('%H:%M:%S')}  FAILED  {what} after {duration((time.time() - since) / 3600)}: "
        return "\n".join([said + "; ".join([*reason, *msg["log"]]), *(f"    {line}" for line in lines)])


def tail(log: str) -> list[str]:
    """The last lines of a log, those of a traceback's frames and of progress bars apart."""
    try:
        with open(log, encoding="utf-8", errors="replace") as handle:
            return [line.rstrip() for line in deque((line for line in handle if line.strip()), LINES)]
    except OSError:
        return ["its log was not written"]


def install(logger: logging.Logger, settings: Any, unmade: Callable[[str], str]) -> None:
    """Let the stream handler print so: not where a logger plugin writes to the stream, nor jobs where -n, -p or --verbose ask.

    Args:
        logger: Snakemake's.
        settings: its output settings.
        unmade: the sentence on a target that no rule makes.
    """
    whole = settings.dryrun or settings.printshellcmds or settings.verbose
    formatter = Sentences(settings, unmade) if whole else Lines(settings, unmade)
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.setFormatter(formatter)
            if isinstance(formatter, Lines):
                handler.addFilter(formatter)
