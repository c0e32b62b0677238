"""How long jobs take that share GPUs, against schedules by hand."""

import math
from types import SimpleNamespace

import pytest

from diffinfo.operations.jobs import Job, wall_hours

HOURS = {"a": (3, 1), "b": (2, 1), "c": (2, 1), "d": (4, 2), "e": (5, 0)}  # hours and GPUs
COSTS = SimpleNamespace(job=lambda rule, wildcards: SimpleNamespace(hours=HOURS[rule][0], gpus=HOURS[rule][1]))


def job(name, *after):
    return Job(name, {}, frozenset({*after, "data"}), frozenset({name}), "")


@pytest.mark.parametrize(
    ("jobs", "gpus", "hours"),
    [
        ([job("a"), job("b"), job("c")], 1, 7),
        ([job("a"), job("b"), job("c")], 2, 4),  # a beside b and c, or b beside c first: 5
        ([job("b"), job("c"), job("a")], 2, 4),
        ([job("a"), job("b"), job("c")], 3, 3),
        ([job("a"), job("b", "a"), job("c", "a")], 3, 5),
        ([job("a"), job("b"), job("d", "b")], 2, 7),  # d waits for both GPUs, b for none
        ([job("a"), job("b"), job("d", "b")], 3, 6),
        ([job("a"), job("b"), job("c", "b")], 1, 7),
        ([job("e"), job("a")], 1, 5),  # what needs no GPU takes none
        ([job("a"), job("b"), job("c", "a", "b")], 1, 7),
        ([job("d"), job("a")], 1, math.inf),
        ([job("e"), job("a", "e"), job("b")], 1, 8),
        ([], 8, 0),
    ],
)
def test_jobs_share_gpus(jobs, gpus, hours):
    assert wall_hours(jobs, COSTS, gpus) == hours
