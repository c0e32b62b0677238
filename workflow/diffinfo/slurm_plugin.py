"""Two cases in which Snakemake's SLURM plugin (2.8) waits for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]


def mend(plugin: ModuleType) -> None:
    """Let every wait of the plugin end.

    It looks up MinJobAge before each look at its jobs. Where slurmctld does not answer, for it restarts, the plugin turns
    to sacct until that answers, which it never does without accounting: the last answer stands.

    It waits for a job that squeue lists no more, as where Snakemake was suspended for longer than MinJobAge. Such a job
    has ended: Snakemake looks for its outputs, which are whole where they are there.
    """
    plugin.get_min_job_age = _remembered(plugin.get_min_job_age)  # type: ignore[attr-defined]
    plugin.query_job_status = _with_forgotten(plugin.query_job_status)  # type: ignore[attr-defined]


def _remembered(ask: Callable[[], int | None]) -> Callable[[], int | None]:
    last = ask()

    def asked() -> int | None:
        nonlocal last
        last = ask() or last
        return last

    return asked


def _with_forgotten(query: Query) -> Query:
    seen: set[str] = set()
    forgotten: set[str] = set()

    async def queried(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await query(command, logger)
        if states is None or not command.startswith("squeue"):
            return states, seconds
        if gone := seen - forgotten - states.keys():
            logger.info(f"SLURM knows job(s) {', '.join(sorted(gone))} no more: what they have written counts.")
        seen.update(states)
        forgotten.update(gone)
        return {**dict.fromkeys(forgotten, "UNKNOWN"), **states}, seconds

    return queried
