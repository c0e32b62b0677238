"""The methods. Each is declared once; no other module names one.

A policy is named <method>[-b<beta>][-seed<k>]: "dpo-b0.1", "dpo-pg", "dpo-b0.1-seed2". A declaration in ``METHODS`` makes
a method everywhere: its hyper-parameters are keys of ``objectives``, and grid, tables, figures and plan take it.

Losses are pure functions of sequence log-probabilities (paper sections 2, 3.5 and H): all tensors are [pairs],
log-probabilities are sums over completion tokens in nats, and losses are per pair. The module imports without torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic import Field

from diffinfo.cli import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

REFERENCE = "ref"  # stands for pi_ref where a path names a policy


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


def slic(x: PairLogps, beta: float, weight: float, smoothing: float | None = None) -> Tensor:
    """max(0, beta - Delta) - lambda log pi(y_w), reference-free (Zhao et al.; not TRL's variant).

    With ``smoothing`` t > 0 the hinge is t log(1 + exp((beta - Delta) / t)).
    """
    from torch.nn.functional import softplus

    slack = beta - (x.w - x.l)
    hinge = slack.clamp(min=0) if smoothing is None else smoothing * softplus(slack / smoothing)
    return hinge - weight * x.w


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


@dataclass(frozen=True)
class Laboratory:
    """How a method is tried on categorical policies (Figures 1 and 7, J.1), with its own loss over all pairs of classes."""

    place: int  # among curves and rows
    settings: list[dict[str, float]]  # betas, and values of those of ``hyper`` that are tuned
    gradient: str = (
        ""  # a function of diffinfo.synthetic.losses, written by hand; autograd's, some times slower, without
    )
    kinks: bool = False  # whether the loss has kinks, and takes ``smoothing``


@dataclass(frozen=True)
class Method:
    """One method of preference optimisation."""

    name: str
    title: str  # as the paper writes it
    loss: (
        Callable[..., Tensor] | None
    )  # of pairs, beta and ``hyper``; None: DPO-PG's projected gradient (Definition H.1)
    colours: tuple[str, ...]  # one for all betas, or shades from a large beta to a small one
    beta: bool = True
    reference: bool = False  # whether the loss reads log pi_ref
    tilts: bool = False  # whether its optimum is pi* ∝ pi_ref p*^{1/beta} (Theorem 3.4)
    solid: float = 0.1  # the beta whose line is solid
    paper: bool = False  # trained in the paper: its figures say which of these they show, and they show all others
    hyper: Mapping[str, Any] = field(default_factory=dict)  # beside beta: keys of ``objectives``, less "<name>_"
    laboratory: Laboratory | None = None

    def options(self) -> dict[str, Any]:
        """Its hyper-parameters by their keys of the ``objectives`` section."""
        return {f"{self.name.replace('-', '_')}_{name}": limits for name, limits in self.hyper.items()}

    def at(self, beta: float) -> str:
        """Its name with this beta; the plain name where it has none."""
        return f"{self.name}-b{beta:g}" if self.beta else self.name


# In the order of tables and legends. Hues are Okabe and Ito's, safe for the colour-blind; DPO in purples.
# The laboratory's grids are J.1's; DPO and log-pi have nothing to tune: theta_l = 2 theta_ref - theta* makes beta = 1 right.
METHODS = {
    method.name: method
    for method in (
        Method(
            "dpo", "DPO", dpo, ("#3f007d", "#7a3fb0", "#a86fd0", "#cf92ea"), reference=True, tilts=True, solid=0.2, paper=True,
            laboratory=Laboratory(5, [{"beta": 1.0}], "dpo_gradient"),
        ),
        Method(
            "logpi", "log π", logpi, ("#009e73",), solid=0.2, paper=True,
            laboratory=Laboratory(6, [{"beta": 1.0}], "logpi_gradient"),
        ),
        Method("dpo-pg", "DPO-PG", None, ("#d55e00",), beta=False, paper=True),
        Method(
            "dpop", "DPO-P", dpop, ("#0072b2",), reference=True, paper=True,
            hyper={"lambda": Field(50.0, gt=0, description="Weight of the penalty on log π(y_w) below log π_ref(y_w).")},
        ),
        Method(
            "cal-dpo", "Cal-DPO", cal_dpo, ("#e69f00",), reference=True, paper=True,
            hyper={"weight": Field(1.0, gt=0, description="Weight of the calibration; its authors' code says 0.5 and 1.")},
            laboratory=Laboratory(4, [{"beta": b} for b in (0.001, 0.002, 0.003, 0.01, 0.1)], "cal_dpo_gradient"),
        ),
        Method(
            "slic", "SLiC", slic, ("#56b4e9",),
            hyper={"lambda": Field(1.0, gt=0, description="Weight of −log π(y_w).")},
            laboratory=Laboratory(
                1, [{"beta": b, "lambda": w} for b, w in product((0.1, 0.5, 1.0, 2.0), (0.1, 0.5, 1.0, 10.0))],
                "slic_gradient", kinks=True,
            ),
        ),
        Method(
            "orpo", "ORPO", orpo, ("#000000",),
            laboratory=Laboratory(2, [{"beta": b} for b in (0.1, 0.5, 1.0, 2.0)], "orpo_gradient"),
        ),
        Method(
            "simpo", "SimPO", simpo, ("#cc79a7",),
            hyper={"gamma": Field(1.0, ge=0, description="The target margin γ, not the ratio γ/β.")},
            laboratory=Laboratory(
                3, [{"beta": b, "gamma": g} for b, g in product((2.0, 2.5), (0.3, 0.5, 1.0, 1.2, 1.4, 1.6))], "simpo_gradient",
            ),
        ),
    )
}  # fmt: skip

BETA = r"\d+(?:\.\d+)?"  # as a name holds it
PATTERN = "|".join(rf"{m.name}{f'-b{BETA}' if m.beta else ''}(?:-seed\d+)?" for m in METHODS.values())

LABORATORY = {
    name: twin
    for name, twin in sorted(
        ((m.name, m.laboratory) for m in METHODS.values() if m.laboratory), key=lambda m: m[1].place
    )
}


@dataclass(frozen=True)
class Variant:
    """A method at one beta (None where it has none) and seed (None: the configuration's only one); ``str`` is its name."""

    method: Method
    beta: float | None = None
    seed: int | None = None

    def __str__(self) -> str:
        named = self.method.name if self.beta is None else self.method.at(self.beta)
        return named if self.seed is None else f"{named}-seed{self.seed}"

    def title(self) -> str:
        """As the paper writes it: "DPO β = 0.1"."""
        beta = "" if self.beta is None else f" β = {self.beta:g}"
        return self.method.title + beta + ("" if self.seed is None else f", seed {self.seed}")

    def order(self) -> tuple[int, float, int]:
        """Sorting key: methods as declared, large betas first, then seeds."""
        return [*METHODS].index(self.method.name), -(self.beta or 0.0), self.seed or 0


def parse(name: str) -> Variant:
    """Take a policy's name apart.

    Raises:
        UserError: when it is not the name of a method, or beta is 0.
    """
    found = re.fullmatch(rf"(.+?)(?:-b({BETA}))?(?:-seed(\d+))?", name)
    method = METHODS.get(found[1]) if found else None
    if not found or not method or method.beta != (found[2] is not None):
        beta = " (it needs a beta, such as -b0.1)" if method and method.beta else ""
        raise UserError(f"{name!r} is not a method{beta or nearest(name, METHODS)}")
    if found[2] and float(found[2]) == 0:
        raise UserError(f"'{name}' has beta 0; beta must be greater than 0")
    return Variant(method, float(found[2]) if found[2] else None, int(found[3]) if found[3] else None)


def loss(variant: Variant, objectives: object, x: PairLogps) -> Tensor:
    """Loss of each pair, [pairs] in nats.

    Args:
        variant: the method and its beta.
        objectives: the section of the configuration, with an attribute for each hyper-parameter.
        x: log-probabilities of the pairs.

    Raises:
        ValueError: for a method that is a gradient without a scalar loss (Definition H.1).
    """
    if variant.method.loss is None:
        raise ValueError(f"{variant.method.name} has no scalar loss")
    values = [getattr(objectives, key) for key in variant.method.options()]
    return variant.method.loss(x, *([variant.beta] if variant.method.beta else []), *values)
