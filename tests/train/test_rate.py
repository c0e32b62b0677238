"""The learning rate of a step: warm-up, then constant, or down to zero."""

from types import SimpleNamespace

import pytest

from diffinfo.train.loop import Loop


def rates(steps: int, warmup_steps: int, decay_until: int | None = None) -> list[float]:
    settings = {"learning_rate": 2.0, "warmup_steps": warmup_steps, "decay_until": decay_until}
    return [Loop.rate(SimpleNamespace(step=step, **settings)) for step in range(1, steps + 1)]


def test_warm_up_is_linear_and_ends():
    assert rates(6, 4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(3, 0) == [2.0, 2.0, 2.0]


def test_decay_is_linear_to_zero_and_comes_on_top_of_warm_up():
    assert rates(5, 0, decay_until=4) == [1.5, 1.0, 0.5, 0.0, 0.0]
    assert rates(2, 2, decay_until=8) == pytest.approx([1.0 * 7 / 8, 2.0 * 6 / 8])
