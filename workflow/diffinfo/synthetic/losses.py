"""The objectives of Section 3.5 over all K x K pairs of classes: losses as printed, gradients by hand.

A data set enters as ``pairs`` of shape (..., K, K): the weight of every (y_w, y_l), rows are winners, summing to one.
It is a matrix of counts for a batch and the joint probability for the population, so both use the same code, and a
batch of any size costs K^2 terms. A policy is softmax(theta) over K classes; a class is a sequence of one token, so
lengths play no part (SimPO's average is the sum). Hyper-parameters are tensors that broadcast over (..., 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

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


def dpo(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """-log sigma(beta (Delta - Delta_ref)), (..., K) -> (...)."""
    return -_expect(pairs, logsigmoid(_margin(hyper["beta"] * (theta.log_softmax(-1) - reference))))


def logpi(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """-log sigma(beta Delta): no reference model, (..., K) -> (...)."""
    return -_expect(pairs, logsigmoid(_margin(hyper["beta"] * theta.log_softmax(-1))))


def slic(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """max(0, beta - Delta) - lambda log pi(y_w), (..., K) -> (...).

    With ``smoothing`` t > 0 among the hyper-parameters the hinge is t log(1 + exp((beta - Delta) / t)).
    """
    logp = theta.log_softmax(-1)
    slack = _over_pairs(hyper["beta"]) - _margin(logp)
    t = hyper.get("smoothing")
    hinge = slack.clamp_min(0.0) if t is None else _over_pairs(t) * softplus(slack / _over_pairs(t))
    return _expect(pairs, hinge) - hyper["lambda"].squeeze(-1) * (pairs.sum(-1) * logp).sum(-1)


def orpo(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """-log pi(y_w) - beta log sigma(log odds(y_w) - log odds(y_l)), (..., K) -> (...)."""
    logp = theta.log_softmax(-1)
    ratio = _expect(pairs, logsigmoid(_margin(_log_odds(theta))))
    return -(pairs.sum(-1) * logp).sum(-1) - hyper["beta"].squeeze(-1) * ratio


def simpo(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """-log sigma(beta Delta - gamma), (..., K) -> (...)."""
    return -_expect(pairs, logsigmoid(_margin(hyper["beta"] * theta.log_softmax(-1)) - _over_pairs(hyper["gamma"])))


def cal_dpo(theta: Tensor, reference: Tensor, pairs: Tensor, hyper: Hyper) -> Tensor:
    """-log sigma(h_w - h_l) + (h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2, h = log pi/pi_ref, (..., K) -> (...)."""
    h = theta.log_softmax(-1) - reference
    goal = 0.5 / hyper["beta"]
    calibration = pairs.sum(-1) * (h - goal) ** 2 + pairs.sum(-2) * (h + goal) ** 2
    return calibration.sum(-1) - _expect(pairs, logsigmoid(_margin(h)))


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
    t = hyper.get("smoothing")
    slack = _over_pairs(hyper["beta"]) - _margin(theta)
    active = pairs * (slack > 0) if t is None else pairs * (slack / _over_pairs(t)).sigmoid_()
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


LOSSES: dict[str, Loss] = {
    "slic": slic,
    "orpo": orpo,
    "simpo": simpo,
    "cal-dpo": cal_dpo,
    "dpo": dpo,
    "logpi": logpi,
}
GRADIENTS: dict[str, Loss] = {
    "slic": slic_gradient,
    "orpo": orpo_gradient,
    "simpo": simpo_gradient,
    "cal-dpo": cal_dpo_gradient,
    "dpo": dpo_gradient,
    "logpi": logpi_gradient,
}
