"""Preference objectives as pure functions of sequence log-probabilities (docs/procedures.md; paper sections 2, 3.5 and H).

All tensors are [pairs]; log-probabilities are sums over completion tokens, in nats; losses are per pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffinfo.cli import UserError
from diffinfo.config.types import METHOD, Objectives

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Method:
    """A method's name taken apart: "cal-dpo-b0.1" is family "cal-dpo" with beta 0.1; "dpo-pg" has no beta."""

    family: str
    beta: float

    @classmethod
    def parse(cls, name: str) -> Method:
        """Read a method's name.

        Raises:
            UserError: when the name is no method.
        """
        match = METHOD.match(name)
        if not match:
            raise UserError(f"'{name}' is no method: write a family and its beta, such as dpo-b0.1, or dpo-pg.")
        if match["family"] is None:
            return cls("dpo-pg", float("nan"))
        if float(match["beta"]) <= 0:
            raise UserError(f"'{name}': beta must be positive.")
        return cls(match["family"], float(match["beta"]))


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities [pairs] of chosen (w) and rejected (l) completions under the policy and the reference."""

    w: Tensor
    l: Tensor  # noqa: E741 - the paper's subscript
    reference_w: Tensor
    reference_l: Tensor
    tokens_w: Tensor
    tokens_l: Tensor


def dpo(x: PairLogps, beta: float) -> Tensor:
    """-log sigma(beta (Delta - Delta_ref)), Delta = log pi(y_w) - log pi(y_l)."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * ((x.w - x.l) - (x.reference_w - x.reference_l)))


def logpi(x: PairLogps, beta: float) -> Tensor:
    """-log sigma(beta Delta): the reward r = beta log pi, no reference model (section 3.5)."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (x.w - x.l))


def dpop(x: PairLogps, beta: float, penalty: float) -> Tensor:
    """-log sigma(beta (Delta - Delta_ref - lambda max(0, log pi_ref(y_w) - log pi(y_w)))), Pal et al."""
    from torch.nn.functional import logsigmoid

    margin = (x.w - x.l) - (x.reference_w - x.reference_l)
    return -logsigmoid(beta * (margin - penalty * (x.reference_w - x.w).clamp(min=0)))


def cal_dpo(x: PairLogps, beta: float, weight: float) -> Tensor:
    """-log sigma(h_w - h_l) + weight ((h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2), h = log pi/pi_ref, Xiao et al."""
    from torch.nn.functional import logsigmoid

    h_w, h_l = x.w - x.reference_w, x.l - x.reference_l
    return -logsigmoid(h_w - h_l) + weight * ((h_w - 0.5 / beta) ** 2 + (h_l + 0.5 / beta) ** 2)


def slic(x: PairLogps, beta: float, weight: float) -> Tensor:
    """max(0, beta - Delta) - lambda log pi(y_w), reference-free (Zhao et al.; not TRL's variant)."""
    return (beta - (x.w - x.l)).clamp(min=0) - weight * x.w


def below_certainty(logp: Tensor) -> Tensor:
    """``logp`` kept at or below minus the resolution of its type, where odds and their slope are finite; gradients pass."""
    import torch

    return logp + (logp.clamp(max=-torch.finfo(logp.dtype).eps) - logp).detach()


def log_odds(logp: Tensor) -> Tensor:
    """log p / (1 - p) of log p, exact also near p = 1, where 1 - exp(log p) would be 0; finite at p = 1 (nats)."""
    import torch

    logp = below_certainty(logp)
    return logp - torch.log(-torch.expm1(logp))


def orpo(x: PairLogps, beta: float) -> Tensor:
    """-log pi(y_w) - beta log sigma(log odds(y_w) - log odds(y_l)), odds of length-averaged probabilities (Hong et al.)."""
    from torch.nn.functional import logsigmoid

    return -x.w - beta * logsigmoid(log_odds(x.w / x.tokens_w) - log_odds(x.l / x.tokens_l))


def simpo(x: PairLogps, beta: float, gamma: float) -> Tensor:
    """-log sigma(beta Delta - gamma), Delta of length-averaged log-probabilities (Meng et al.)."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (x.w / x.tokens_w - x.l / x.tokens_l) - gamma)


def loss(method: Method, settings: Objectives, x: PairLogps) -> Tensor:
    """Per-pair loss of ``method``.

    Raises:
        ValueError: for "dpo-pg", which is a gradient and no scalar loss (Definition H.1).
    """
    match method.family:
        case "dpo":
            return dpo(x, method.beta)
        case "logpi":
            return logpi(x, method.beta)
        case "dpop":
            return dpop(x, method.beta, settings.dpop_lambda)
        case "cal-dpo":
            return cal_dpo(x, method.beta, settings.cal_dpo_weight)
        case "slic":
            return slic(x, method.beta, settings.slic_lambda)
        case "orpo":
            return orpo(x, method.beta)
        case "simpo":
            return simpo(x, method.beta, settings.simpo_gamma)
    raise ValueError(f"{method.family} has no scalar loss")
