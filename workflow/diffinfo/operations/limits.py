"""What the SLURM profile says that a partition allows, in the notations of SLURM and of Snakemake."""

from __future__ import annotations

import math
import re

from diffinfo.cli import UserError

UNITS = {"s": 1 / 60, "m": 1, "h": 60, "d": 1440, "w": 10080}  # minutes
_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_SPAN = re.compile(r"(\d+(?:\.\d+)?) *(s|m|h|d|w)[a-z]* *")


def minutes(limit: object) -> float:
    """A partition's time limit in minutes; infinite where there is none (``None``, 0, infinite, UNLIMITED).

    Reads 1440, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]] and sums such as 24h or 2d12h.

    Raises:
        UserError: when ``limit`` is none of these.
    """
    text = str(limit or "infinite").strip().lower()
    if text in ("infinite", "unlimited"):
        return math.inf
    if re.fullmatch(r"\d+(\.\d+)?", text):
        found = float(text)
    elif clock := _CLOCK.fullmatch(text):
        parts = [int(part) for part in clock.groups()[1:] if part]
        units = [60, 1, 1 / 60] if clock["days"] or len(parts) == 3 else [1, 1 / 60]
        found = 1440 * int(clock["days"] or 0) + sum(part * unit for part, unit in zip(parts, units, strict=False))
    elif re.fullmatch(f"({_SPAN.pattern})+", text):
        found = sum(float(number) * UNITS[unit] for number, unit in _SPAN.findall(text))
    else:
        raise UserError(
            f"slurm/config.yaml: max_runtime: '{limit}' is not a time; write minutes (1440), D-HH:MM:SS, 24h or infinite."
        )
    return found or math.inf


def megabytes(limit: object) -> float:
    """A machine's memory in megabytes; infinite where nothing is said.

    Raises:
        UserError: when ``limit`` is not a whole number.
    """
    if not re.fullmatch(r"\d+", str(limit or 0)):
        raise UserError(
            f"slurm/config.yaml: max_mem_mb: '{limit}' is not a number of megabytes; write one such as 500000."
        )
    return int(str(limit or 0)) or math.inf
