"""Times as SLURM and Snakemake write them, against values by hand and the SLURM plugin's own reader."""

import math

import pytest
from snakemake_executor_plugin_slurm.utils import parse_time_to_minutes

from diffinfo.cli import UserError
from diffinfo.operations.limits import megabytes, minutes

TIMES = {
    1440: 1440, "1440": 1440, "90.5": 90.5, "1-00:00:00": 1440, "2-12": 3600, "2-12:30": 3630, "0-00:30:00": 30,
    "1:30:00": 90, "24:00:00": 1440, "30:30": 30.5, "24h": 1440, "1d": 1440, "2d12h30m": 3630, "90 min": 90,
    "2 days": 2880, "1w": 10080, "1.5h": 90, "infinite": math.inf, "UNLIMITED": math.inf, None: math.inf, 0: math.inf,
    "0": math.inf,
}  # fmt: skip


@pytest.mark.parametrize(("limit", "expected"), TIMES.items(), ids=map(repr, TIMES))
def test_a_time_in_any_notation(limit, expected):
    assert minutes(limit) == pytest.approx(expected)
    shared = limit and expected < math.inf and limit not in ("30:30", "1w")  # that it reads as hours, and not at all
    if shared:
        assert parse_time_to_minutes(limit) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize("limit", ["soon", "-5", "1-", "24x", "1:2:3:4", "12 24h x", "h"])
def test_no_time_is_a_sentence(limit):
    with pytest.raises(UserError, match=f"max_runtime: '{limit}' is not a time; write minutes"):
        minutes(limit)


def test_memory_is_a_whole_number_of_megabytes():
    assert (megabytes(500_000), megabytes("64000"), megabytes(None), megabytes(0)) == (
        500_000,
        64_000,
        math.inf,
        math.inf,
    )
    with pytest.raises(UserError, match="max_mem_mb: '500G' is not a number of megabytes"):
        megabytes("500G")
