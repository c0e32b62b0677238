"""Theorems H.4, H.5 and Corollary H.5.1 on a real model, and the projection's arithmetic."""

import pytest
import torch

from diffinfo.chat import Chat
from diffinfo.models.exactness import load_scorer
from diffinfo.train.projection import project


def test_arithmetic():
    w, r = [torch.tensor([3.0, 4.0]), torch.tensor([0.0])], [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]
    seen = project(w, r)
    assert seen.dot == 3
    assert seen.norm_chosen == 5
    assert seen.norm_rejected == pytest.approx(5**0.5)
    assert seen.cosine == pytest.approx(3 / 5**1.5)
    assert torch.allclose(w[0], torch.tensor([3 - 3 / 5, 4.0]))
    assert torch.allclose(w[1], torch.tensor([-6 / 5]))
    assert sum((a * b).sum() for a, b in zip(w, r, strict=True)).abs() < 1e-6  # orthogonal to g_l


def test_obtuse_gradients_are_left_alone():
    w, r = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    assert project(w, r).dot == -1
    assert torch.equal(w[0], torch.tensor([1.0, 0.0]))


def test_vanishing_rejected_gradient_leaves_the_chosen_one():
    w, r = [torch.tensor([1.0, 2.0])], [torch.zeros(2)]
    assert project(w, r).cosine == 0.0
    assert torch.equal(w[0], torch.tensor([1.0, 2.0]))


def test_small_steps_raise_chosen_keep_rejected_and_lower_the_dpo_loss(tiny_mistral):
    model = load_scorer(tiny_mistral, "sdpa").double()
    chat = Chat(tiny_mistral)
    user = [{"role": "user", "content": "describe the owl please"}]
    prompt, chosen = chat.pair_ids(user, "the owl is old .")
    _, rejected = chat.pair_ids(user, "the owl is a saw .")

    def nll(completion):
        return -model([prompt + completion], [len(prompt)]).sum()

    gradients = []
    before = {}
    for name, completion in (("w", chosen), ("l", rejected)):
        model.zero_grad()
        value = nll(completion)
        value.backward()
        before[name] = value.item()
        gradients.append([p.grad.clone() for p in model.parameters()])
    step, rejected_gradient = gradients
    chosen_gradient = [g.clone() for g in step]
    assert project(step, rejected_gradient).dot > 0  # the two answers share words: the interesting case

    def inner(a, b):
        return sum((x * y).sum() for x, y in zip(a, b, strict=True)).item()

    assert -inner(step, chosen_gradient) < 0  # H.4
    assert -inner(step, rejected_gradient) >= -1e-8 * inner(rejected_gradient, rejected_gradient)  # H.5
    with torch.no_grad():
        for parameter, direction in zip(model.parameters(), step, strict=True):
            parameter -= 1e-4 * direction
        after = {"w": nll(chosen).item(), "l": nll(rejected).item()}
    assert after["w"] < before["w"]
    assert after["l"] > before["l"] - 0.05 * (before["w"] - after["w"])
    assert after["w"] - after["l"] < before["w"] - before["l"]  # the margin grows: Corollary H.5.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])  # the square of 1e30 exceeds float32
@pytest.mark.parametrize("side", [0, 1])
def test_sums_that_are_not_finite_are_told(side, bad):
    gradients = [torch.tensor([1.0, 2.0])], [torch.tensor([2.0, 1.0])]
    assert project(*gradients).finite
    gradients[side][0][1] = bad
    assert not project(*gradients).finite
