"""One update of the optimiser: its learning rate, its clipping, and gradients that are not finite."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffinfo.config.types import Training
from diffinfo.train.trainer import Trainer


def rates(steps: int, warmup_steps: int, decay_until: int | None = None) -> list[float]:
    settings = {"learning_rate": 2.0, "warmup_steps": warmup_steps, "decay_until": decay_until}
    return [Trainer.rate(SimpleNamespace(step=step, **settings)) for step in range(1, steps + 1)]


def test_warm_up_is_linear_and_ends():
    assert rates(6, 4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(3, 0) == [2.0, 2.0, 2.0]


def test_decay_is_linear_to_zero_and_comes_on_top_of_warm_up():
    assert rates(5, 0, decay_until=4) == [1.5, 1.0, 0.5, 0.0, 0.0]
    assert rates(2, 2, decay_until=8) == pytest.approx([1.0 * 7 / 8, 2.0 * 6 / 8])


@pytest.fixture
def trainer(tiny_mistral):
    return Trainer(
        tiny_mistral, attention="sdpa", dtype="float32", optimizer=torch.optim.SGD, learning_rate=0.5, warmup_steps=2,
        max_grad_norm=3.0, training=Training(),
    )  # fmt: skip


def test_a_step_is_clipped_and_the_norm_that_is_returned_is_not(trainer):
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    gradients = [torch.zeros_like(parameter) for parameter in trainer.parameters]
    gradients[0].view(-1)[:4] = 6.0  # a norm of 12, clipped to 3: a quarter of it
    assert trainer.update(gradients) == pytest.approx(12.0)
    moved = before[0] - trainer.parameters[0].detach()
    assert moved.view(-1)[:4].tolist() == pytest.approx([0.25 * 1.5] * 4, rel=1e-3)  # half the rate, in warm-up
    assert all(torch.equal(a, b) for a, b in zip(before[1:], trainer.parameters[1:], strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(trainer, bad):
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    gradients = [torch.ones_like(parameter) for parameter in trainer.parameters]
    gradients[-1].view(-1)[0] = bad
    assert not math.isfinite(trainer.update(gradients))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert trainer.step == 0
