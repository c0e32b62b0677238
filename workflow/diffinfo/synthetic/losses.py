"""The objectives of Section 3.5 over all K x K pairs of classes: the methods' own losses, gradients by hand.

A data set enters as ``pairs`` of shape (..., K, K): the weight of every (y_w, y_l), rows are winners, summing to one.
It is a matrix of counts for a batch and the joint probability for the population, so both use the same code, and a
batch of any size costs K^2 terms. A policy is softmax(theta) over K classes; a class is a sequence of one token, so
lengths play no part (SimPO's average is the sum). Hyper-parameters are tensors that broadcast over (..., 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from diffinfo.methods import LABORATORY, METHODS, Method, PairLogps

Hyper = Mapping[str, Tensor]


class Loss(Protocol):
    """An objective or its gradient."""

    def __call__(self, theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
        """theta and log pi_ref (..., K), pairs (..., K, K) -> a loss (...) or a gradient (..., K)."""
        ...


def _margin(reward: Tensor) -> Tensor:
    """r(i) - r(j) for all pairs, (..., K) -> (..., K, K)."""
    return reward.unsqueeze(-1) - reward.unsqueeze(-2)


def _expect(pairs: Tensor, values: Tensor) -> Tensor:
    return (pairs * values).sum((-2, -1))


def _others(theta: Tensor) -> Tensor:
    """For each class (rows) the logits of the other ones, (..., K) -> (..., K, K).

    The odds of p are those of theta against the others': exact, and finite where p rounds to 1 and 1 - p to 0.
    """
    return theta.unsqueeze(-2).masked_fill(torch.eye(theta.shape[-1], dtype=torch.bool), -torch.inf)


def _log_odds(theta: Tensor) -> Tensor:
    return theta - _others(theta).logsumexp(-1)


def _over_pairs(hyper: Tensor) -> Tensor:
    return hyper.unsqueeze(-1)


def _loss(method: Method, theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """The method's own loss of every pair of classes, weighted by ``pairs``, (..., K) -> (...)."""
    assert method.loss is not None
    logp, one = theta.log_softmax(-1), theta.new_ones(())
    w, lost, reference_w, reference_l = (
        side for part in (logp, reference) for side in (part.unsqueeze(-1), part.unsqueeze(-2))
    )
    x = PairLogps(w, lost, reference_w, reference_l, one, one)  # a class is a sequence of one token
    values = {name: _over_pairs(value) for name, value in hyper.items()}
    tuned = [values.pop(name, limits.default) for name, limits in method.hyper.items()]
    return _expect(pairs, method.loss(x, values.pop("beta"), *tuned, **values))


def _autograd(method: Method, theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """Gradient by autograd, (..., K), of a loss without one written by hand."""
    theta = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(_loss(method, theta, reference, pairs, hyper).sum(), theta)
    return slope


def _preference(reward: Tensor, pairs: Tensor) -> Tensor:
    """Gradient of -sum_ij pairs_ij log sigma(r_i - r_j) with respect to r, (..., K).

    By sigma(-x) = 1 - sigma(x) it is sum_j (pairs_ij + pairs_ji) sigma(r_i - r_j) - sum_j pairs_ij: one sum, not two.
    """
    weights = _margin(reward).sigmoid_()
    return weights.mul_(pairs + pairs.transpose(-1, -2)).sum(-1) - pairs.sum(-1)


def _through_softmax(per_logp: Tensor, theta: Tensor) -> Tensor:
    """Chain rule from d/d log pi to d/d theta, (..., K)."""
    return per_logp - theta.softmax(-1) * per_logp.sum(-1, keepdim=True)


def dpo_gradient(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """d dpo / d theta, (..., K). It sums to zero in log pi already, so the softmax drops out."""
    return hyper["beta"] * _preference(hyper["beta"] * (theta - reference), pairs)


def logpi_gradient(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """d logpi / d theta, (..., K)."""
    return hyper["beta"] * _preference(hyper["beta"] * theta, pairs)


def slic_gradient(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """d slic / d theta, (..., K); at the kink the slope is 0, as in autograd's clamp of a zero slack from above."""
    t, goal, lead = hyper.get("smoothing"), _over_pairs(hyper["beta"]), _margin(theta)
    # in place: new memory costs more than the arithmetic
    active = lead.lt_(goal) if t is None else torch.sub(goal, lead, out=lead).div_(_over_pairs(t)).sigmoid_()
    active.mul_(pairs)
    return active.sum(-2) - active.sum(-1) + hyper["lambda"] * (theta.softmax(-1) - pairs.sum(-1))


def orpo_gradient(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """d orpo / d theta, (..., K); d log odds_i / d theta is 1 for i and minus their share of 1 - pi_i for the others.

    Not by ``_preference``: 1 - sigma would round to 0 where one class is nearly sure.
    """
    wrong = (-_margin(_log_odds(theta))).sigmoid_().mul_(pairs)
    odds = hyper["beta"] * (wrong.sum(-2) - wrong.sum(-1))
    others = (odds.unsqueeze(-1) * _others(theta).softmax(-1)).sum(-2)
    return odds - others + theta.softmax(-1) - pairs.sum(-1)


def simpo_gradient(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """d simpo / d theta, (..., K)."""
    wrong = (_over_pairs(hyper["gamma"]) - _margin(hyper["beta"] * theta)).sigmoid_().mul_(pairs)
    return hyper["beta"] * (wrong.sum(-2) - wrong.sum(-1))


def cal_dpo_gradient(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """d cal_dpo / d theta, (..., K)."""
    h = theta.log_softmax(-1) - reference
    goal = 0.5 / hyper["beta"]
    calibration = 2 * (pairs.sum(-1) * (h - goal) + pairs.sum(-2) * (h + goal))
    return _through_softmax(_preference(h, pairs) + calibration, theta)


LOSSES: dict[str, Loss] = {name: partial(_loss, METHODS[name]) for name in LABORATORY}
GRADIENTS: dict[str, Loss] = {
    name: globals()[twin.gradient] if twin.gradient else partial(_autograd, METHODS[name])
    for name, twin in LABORATORY.items()
}
