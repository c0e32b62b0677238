import math

import pytest
import torch

from diffinfo.methods import METHODS
from diffinfo.synthetic import losses
from diffinfo.synthetic.categorical import GRID, hyper_tensors
from diffinfo.synthetic.losses import GRADIENTS, LOSSES

K = 7


def case(name, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    settings = GRID[name]
    theta = 2 * torch.randn(len(settings), K, generator=generator, dtype=dtype)
    reference = torch.randn(K, generator=generator, dtype=dtype).log_softmax(-1)
    pairs = torch.rand(K, K, generator=generator, dtype=dtype)
    return theta, reference, pairs / pairs.sum(), hyper_tensors(settings, dtype)


@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("name", GRID)
def test_hand_gradients_are_those_of_autograd(name, beta):
    theta, reference, pairs, hyper = case(name)
    if beta is not None:  # the grid holds DPO and log-pi at beta = 1 alone
        hyper = hyper | {"beta": torch.full_like(hyper["beta"], beta)}
    theta.requires_grad_()
    (expected,) = torch.autograd.grad(LOSSES[name](theta, reference, pairs, hyper).sum(), theta)
    got = GRADIENTS[name](theta.detach(), reference, pairs, hyper)
    assert torch.allclose(got, expected, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("name", GRID)
def test_a_gradient_need_not_be_written_by_hand(name):
    theta, reference, pairs, hyper = case(name)
    found = losses._autograd(METHODS[name], theta, reference, pairs, hyper)
    assert torch.allclose(found, GRADIENTS[name](theta, reference, pairs, hyper), atol=1e-11, rtol=1e-9)


def test_a_smoothed_hinge_has_the_gradient_of_its_loss_and_the_hinge_as_its_limit():
    theta, reference, pairs, hyper = case("slic")
    theta.requires_grad_()
    smooth = hyper | {"smoothing": torch.full_like(hyper["beta"], 0.3)}
    (expected,) = torch.autograd.grad(LOSSES["slic"](theta, reference, pairs, smooth).sum(), theta)
    assert torch.allclose(GRADIENTS["slic"](theta.detach(), reference, pairs, smooth), expected, atol=1e-12)
    sharp = hyper | {"smoothing": torch.full_like(hyper["beta"], 1e-6)}
    assert torch.allclose(
        LOSSES["slic"](theta, reference, pairs, sharp), LOSSES["slic"](theta, reference, pairs, hyper), atol=1e-6
    )


@pytest.mark.parametrize("name", GRID)
def test_losses_are_those_of_the_language_models(name):
    from diffinfo.config.types import Objectives
    from diffinfo.methods import PairLogps, Variant, loss

    theta, reference, pairs, hyper = case(name)
    w, lost = (index.flatten() for index in torch.meshgrid(torch.arange(K), torch.arange(K), indexing="ij"))
    one = torch.ones(K * K, dtype=torch.float64)  # a class is a sequence of one token
    for index, setting in enumerate(GRID[name]):
        logp = theta[index].log_softmax(-1)
        settings = Objectives(slic_lambda=setting.get("lambda", 1.0), simpo_gamma=setting.get("gamma", 1.0))
        x = PairLogps(logp[w], logp[lost], reference[w], reference[lost], one, one)
        each = loss(Variant(METHODS[name], setting["beta"]), settings, x)
        ours = LOSSES[name](theta, reference, pairs, hyper)[index]
        assert ours.item() == pytest.approx((pairs.flatten() * each).sum().item(), rel=1e-10)


def test_the_first_dpo_loss_is_ln_2():
    _, reference, pairs, hyper = case("dpo")
    assert LOSSES["dpo"](reference[None], reference, pairs, hyper).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("name", GRID)
def test_a_constant_added_to_theta_changes_nothing(name):
    theta, reference, pairs, hyper = case(name)
    moved = LOSSES[name](theta + 3.0, reference, pairs, hyper)
    assert torch.allclose(LOSSES[name](theta, reference, pairs, hyper), moved, rtol=1e-12)
    assert GRADIENTS[name](theta, reference, pairs, hyper).sum(-1).abs().max() < 1e-10


@pytest.mark.parametrize("sure", [20.0, 200.0])
@pytest.mark.parametrize("name", GRID)
def test_a_sure_policy_has_finite_losses_and_slopes(name, sure):
    """At 200 the largest log-probability is 0 in either type: its odds would be infinite."""
    _, reference, pairs, hyper = case(name, torch.float32)
    theta = torch.zeros(len(GRID[name]), K)
    theta[:, 0] = sure
    value, slope = (kind[name](theta, reference, pairs, hyper) for kind in (LOSSES, GRADIENTS))
    assert value.isfinite().all()
    assert slope.isfinite().all()
    wide = [{key: v.double() for key, v in hyper.items()}, *(t.double() for t in (theta, reference, pairs))]
    exact = GRADIENTS[name](*wide[1:], wide[0])
    assert torch.allclose(slope.double(), exact, rtol=1e-4, atol=1e-5)
