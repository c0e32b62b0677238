"""The project's own theorems: what H(q), the entropy of a policy and log-likelihood displacement tell of an update.

pi_s is proportional to pi_ref e^{s f} and q_s to e^{s f}; U is uniform on Y, l = log pi - log pi_ref. Proofs: docs/findings.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from diffinfo.synthetic.checks import Check, normal, perturbed, share, uniform, worst
from diffinfo.synthetic.distributions import did, entropy, kl
from diffinfo.synthetic.lengths import exact
from diffinfo.synthetic.reinforcing import CASES, CLASSES, long_tailed_reference, normal_reference

SMALL = 0.01  # s of the third-order law
ROUNDING = 1e-9


def _slope(family: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """dH/ds of log-probabilities family(s), at ``at``, (cases, 1) -> (cases)."""
    s = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(entropy(family(s)).sum(), s)
    return slope.squeeze(-1)


def _variance(logp: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Covariance of x and y under logp, (cases, K) -> (cases)."""
    p = logp.exp()
    return (p * x * y).sum(-1) - (p * x).sum(-1) * (p * y).sum(-1)


def size(generator: Generator, broken: bool) -> float:
    """Error of dH(q_s)/ds = -s Var(f) at random s of either sign."""
    f = normal(generator, CASES, CLASSES)
    s = uniform(generator, -3.0, 3.0, CASES, 1)
    start = normal_reference(generator) if broken else torch.zeros_like(f)
    slope = _slope(lambda t: (start + t * f).log_softmax(-1), s)
    return worst((slope + s.squeeze(-1) * _variance((start + s * f).log_softmax(-1), f, f)).abs())


def shrinking(generator: Generator, broken: bool) -> float:
    """Share of updates whose H(q) is not lower than that of half the update."""
    reference, f = normal_reference(generator), normal(generator, CASES, CLASSES)
    start = reference if broken else torch.zeros_like(f)
    half, whole = (entropy((start + s * f).log_softmax(-1)) for s in (0.5, 1.0))
    return share(whole >= half)


def third_order(generator: Generator, broken: bool) -> float:
    """Error of (H(q_s) - H(q_-s)) / s^3 = -(2/3) kappa_3 at s = 0.01, f of variance 1 under U."""
    f = normal(generator, CASES, CLASSES)
    f = (f - f.mean(-1, keepdim=True)) / f.std(-1, correction=0, keepdim=True)
    start = normal_reference(generator) if broken else torch.zeros_like(f)
    up, down = (entropy((start + s * f).log_softmax(-1)) for s in (SMALL, -SMALL))
    return worst(((up - down) / SMALL**3 + 2 / 3 * (f**3).mean(-1)).abs())


def covariance(generator: Generator, broken: bool) -> float:
    """Error of dH(pi_s)/ds = -Cov(f, log pi_ref) under pi_ref at s = 0."""
    reference, f = normal_reference(generator), normal(generator, CASES, CLASSES)
    slope = _slope(lambda s: (reference + s * f).log_softmax(-1), torch.zeros(CASES, 1, dtype=torch.float64))
    under = torch.full_like(f, -math.log(CLASSES)) if broken else reference
    return worst((slope + _variance(under, f, reference)).abs())


def _displacement(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """log pi_ref, log pi and log mu, the distribution of chosen responses."""
    reference = normal_reference(generator)
    return reference, perturbed(reference, generator, 1.0), perturbed(reference, generator, 1.0)


def displacement(generator: Generator, broken: bool) -> float:
    """Error of E_mu[l] = KL(mu || pi_ref) - KL(mu || pi)."""
    reference, policy, mu = _displacement(generator)
    found = ((perturbed(mu, generator) if broken else mu).exp() * (policy - reference)).sum(-1)
    return worst((found - kl(mu, reference) + kl(mu, policy)).abs())


def displacement_of_reference(generator: Generator, broken: bool) -> float:
    """Largest E[l] over responses of pi_ref: the mean log-likelihood of what pi_ref writes never rises."""
    reference, policy, mu = _displacement(generator)
    return worst(((mu if broken else reference).exp() * (policy - reference)).sum(-1))


def largest_rise(generator: Generator, broken: bool) -> float:
    """Largest E_mu[l] - KL(mu || pi_ref)."""
    reference, policy, mu = _displacement(generator)
    policy = torch.lerp(policy, mu, 0.98).log_softmax(-1)  # near mu the bound is nearly reached
    scale = math.log(1.5) if broken else 0.0
    return worst((mu.exp() * (policy + scale - reference)).sum(-1) - kl(mu, reference))


def tempered(generator: Generator, broken: bool) -> float:
    """Share of policies pi_ref^a, 1 < a < 4, on which "H(q) < H(pi_ref)" and "a > 2" disagree."""
    reference, a = normal_reference(generator), uniform(generator, 1.0, 4.0, CASES, 1)
    change = (a - 1) * reference + (normal(generator, CASES, CLASSES) if broken else 0.0)
    return share((entropy(did(reference + change, reference)) < entropy(reference)) != (a > 2).squeeze(-1))


def threshold(reference: Tensor) -> Tensor:
    """The b at which q, proportional to pi_ref^-b, has the entropy of pi_ref, by bisection, (cases, K) -> (cases)."""
    low, high = torch.zeros(2, len(reference), 1, dtype=torch.float64)
    high += 64.0
    for _ in range(60):
        middle = (low + high) / 2
        above = (entropy((-middle * reference).log_softmax(-1)) > entropy(reference)).unsqueeze(-1)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    root: Tensor = low.squeeze(-1)
    return root


def smoothed(generator: Generator, broken: bool) -> float:
    """Share of policies pi_ref^(1-b) on which "H(q) > H(pi_ref)" and "b is below its threshold" disagree."""
    reference, b = long_tailed_reference(generator), uniform(generator, 0.0, 1.5, CASES, 1)
    root = threshold(normal_reference(generator) if broken else reference)
    return share((entropy((-b * reference).log_softmax(-1)) > entropy(reference)) != (b.squeeze(-1) < root))


def tails(generator: Generator, broken: bool) -> float:
    """Median threshold of long-tailed policies."""
    return float(threshold((normal_reference if broken else long_tailed_reference)(generator)).median())


def oscillation(generator: Generator, broken: bool) -> float:
    """Largest KL(q || U) - min(osc, osc^2 / 8), osc = max l - min l, for updates of all sizes."""
    scale, shape = uniform(generator, -5.0, 2.0, CASES, 1).exp(), normal(generator, CASES, CLASSES)
    shape[::2] = shape[::2].sign()  # of two values: there the bound is nearly reached
    change = scale * shape
    seen = change[:, :4] if broken else change
    osc = seen.amax(-1) - seen.amin(-1)
    lost = math.log(CLASSES) - entropy(change.log_softmax(-1))
    return worst(lost - torch.minimum(osc, osc**2 / 8))


def unseen(generator: Generator, broken: bool) -> float:
    """Largest change of the loss of r = log pi on pairs of seen strings when a random share of their mass moves elsewhere."""
    logp = normal_reference(generator)
    keep = uniform(generator, 0.001, 1.0, CASES, CLASSES if broken else 1)
    moved = logp + keep.log()  # of the seen half; what it loses goes to the others, which are in no pair
    margin = [(x[:, 0] - x[:, 1]).sigmoid().log() for x in (logp, moved)]
    return worst((margin[0] - margin[1]).abs())


def without_limit(generator: Generator, broken: bool) -> float:
    """Largest T (ln(V - 1) - 2 epsilon) - H(q_T) of 40 bigram models, V = 12 and T = 30, |log-ratio of a token| <= epsilon."""
    found = []
    for _ in range(40):
        change = uniform(generator, 0.1, 1.0, 1) * normal(generator, 13, 12)
        change[:, 3] += 6  # one token that q prefers everywhere
        sums, means = exact(change, change, 30, [0])
        epsilon = change.abs().median() if broken else change.abs().max()
        found.append(30 * (math.log(11) - 2 * epsilon) - (sums[-1] - means[-1]))
    return worst(torch.stack(found))


CHECKS = [
    Check("Ours: size", "error of dH(q_s)/ds = -s Var(f)", size, ROUNDING, "from pi_ref, not from U"),
    Check("Ours: size", "share of updates with H(q) not below that of half of it", shrinking, 0.0, "H(pi) for H(q)"),
    Check(
        "Ours: direction is of third order",
        "error of (H(q_s) - H(q_-s)) / s^3 = -(2/3) kappa_3, s = 0.01",
        third_order,
        0.01,
        "H(pi) for H(q)",
    ),
    Check(
        "Ours: covariance",
        "error of dH(pi_s)/ds = -Cov(f, log pi_ref) at s = 0",
        covariance,
        ROUNDING,
        "Cov under U",
    ),
    Check(
        "Ours: displacement",
        "error of E_mu[l] = KL(mu || pi_ref) - KL(mu || pi)",
        displacement,
        ROUNDING,
        "responses not from mu",
    ),
    Check(
        "Ours: displacement", "largest E[l], responses of pi_ref", displacement_of_reference, 0.0, "responses of another mu"
    ),
    Check(
        "Ours: displacement", "largest E_mu[l] - KL(mu || pi_ref)", largest_rise, 0.0, "pi sums to 1.5"
    ),
    Check(
        "Ours: tempering",
        'share of pi_ref^a, 1 < a < 4, where "H(q) < H(pi_ref)" is not "a > 2"',
        tempered,
        0.0,
        "noise of one nat on l",
    ),
    Check(
        "Ours: tempering",
        'share of pi_ref^(1-b) where "H(q) > H(pi_ref)" is not "b below a root", long tail',
        smoothed,
        0.0,
        "the root of another pi_ref",
    ),
    Check("Ours: tempering", "median root b, long tail", tails, 0.8, "normal logits"),
    Check(
        "Ours: oscillation", "largest KL(q || U) - min(osc, osc^2 / 8)", oscillation, ROUNDING, "osc over four strings"
    ),
    Check(
        "Ours: no limit, no entropy", "largest T (ln(V - 1) - 2 epsilon) - H(q_T), T = 30", without_limit, 0.0,
        "epsilon of the median token",
    ),
    Check(
        "Ours: the proxy's loss", "its largest change when seen strings lose a share c of their mass", unseen, ROUNDING,
        "each string its own c",
    ),
]  # fmt: skip
