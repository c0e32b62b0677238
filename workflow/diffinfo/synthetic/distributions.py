"""Distributions over K outcomes as log-probabilities, shape (..., K), in nats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Policies(NamedTuple):
    """The three policies of a synthetic experiment: log-probabilities, each of shape (..., K)."""

    target: Tensor  # log pi*
    reference: Tensor  # log pi_ref
    rejected: Tensor  # log pi_l

    @property
    def did(self) -> Tensor:
        """Log of the differential information distribution q_{pi*/pi_ref}, (..., K)."""
        return did(self.target, self.reference)

    def pairs(self) -> Tensor:
        """Joint probability of (y_w, y_l) with y_w ~ pi_ref and y_l ~ pi_l, (..., K, K): rows are winners."""
        return self.reference.exp().unsqueeze(-1) * self.rejected.exp().unsqueeze(-2)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """D_KL[p || q] in nats, (..., K) -> (...); zero where p is zero."""
    return (p.exp() * (p - q)).masked_fill(p == -torch.inf, 0.0).sum(-1)


def js(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats (0 to ln 2), (..., K) -> (...)."""
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    return ((kl(p, middle) + kl(q, middle)) / 2).clamp_min(0.0)


def entropy(p: Tensor) -> Tensor:
    """Shannon entropy H(p) in nats, (..., K) -> (...)."""
    return -(p.exp() * p).masked_fill(p == -torch.inf, 0.0).sum(-1)


def did(policy: Tensor, reference: Tensor) -> Tensor:
    """Log of q_{pi/pi_ref}, proportional to pi / pi_ref (Theorem 3.2), (..., K)."""
    return (policy - reference).log_softmax(-1)


def ideal_rejected(target: Tensor, reference: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """Log of pi_l, proportional to pi_ref (pi_ref / pi*)^beta (Equation 1), (..., K)."""
    return (reference + beta * (reference - target)).log_softmax(-1)


def tempered(reference_logits: Tensor, tau: float | Tensor) -> Policies:
    """Section 3.5: theta* = theta_ref / tau and theta_l = 2 theta_ref - theta*, so that beta = 1 in Theorem 3.3."""
    target = reference_logits / tau
    return Policies(*(logits.log_softmax(-1) for logits in (target, reference_logits, 2 * reference_logits - target)))


def fitted(winners: Tensor, losers: Tensor, reference: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """Log of the policy DPO reaches in the population when y_w ~ winners and y_l ~ losers are independent, (..., K).

    p*(y_1 > y_2) = sigma(log w/l(y_1) - log w/l(y_2)) (F.2), so r* = log w/l: pi is pi_ref (w/l)^(1/beta), normalised.
    """
    return (reference + (winners - losers) / beta).log_softmax(-1)
