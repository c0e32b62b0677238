"""Checks of Theorem 3.5 and Appendix G (log-margin orders), Theorem L.1 and the identity of Appendix E."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from diffinfo.synthetic.checks import (
    CASES,
    CLASSES,
    EXACT,
    Check,
    normal,
    optimal_policy,
    pairwise,
    perturbed,
    random_policies,
    share,
    uniform,
    worst,
)
from diffinfo.synthetic.distributions import did, entropy, fitted, js, kl

# Theorem 3.5 and Appendix G: u = log q_{ref/l}, v = log q_{*/ref}, margins are differences over pairs ----------------


def _orders(scale_u: Tensor | float, u: Tensor, scale_v: Tensor | float, v: Tensor, threshold: float) -> Tensor:
    """Share of pairs on which "margin of u > threshold" and "margin of v > threshold" disagree, (..., K) -> (...)."""
    left, right = scale_u * pairwise(u), scale_v * pairwise(v)
    clear = ((left - threshold).abs() > 1e-9) & ((right - threshold).abs() > 1e-9)  # rounding decides no order
    return ((left > threshold) != (right > threshold)).logical_and(clear).double().mean((-2, -1))


def _margins(generator: Generator, bend: bool = False, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """u and v for random policies with u = gamma v (Eq. 1), or bent to u = gamma sinh(v), or with noise; and gamma."""
    world, gamma = random_policies(generator)
    v = world.target - world.reference
    u = gamma * (v.sinh() if bend else v) + noise * normal(generator, *v.shape)
    rejected = (world.reference - u).log_softmax(-1)  # any u is reached by some pi_l
    return did(world.reference, rejected), world.did, gamma


def _residual(u: Tensor, v: Tensor) -> Tensor:
    """Largest residual over y of the least-squares power law u = gamma v + C, (..., K) -> (...), nats."""
    u, v = u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    return (u - (u * v).sum(-1, keepdim=True) / (v * v).sum(-1, keepdim=True) * v).abs().amax(-1)


def power_law_orders(generator: Generator, broken: bool) -> float:
    """Largest share of pairs ordered differently when "sufficiently larger" is ">"."""
    u, v, _ = _margins(generator, noise=0.5 if broken else 0.0)
    return worst(_orders(1.0, u, 1.0, v, 0.0))


def scaled_orders(generator: Generator, broken: bool) -> float:
    """Largest share of pairs ordered differently at any of five thresholds, margins scaled by alpha and alpha gamma."""
    u, v, gamma = _margins(generator)
    alpha = uniform(generator, 0.5, 2.0, CASES, 1).unsqueeze(-1)
    beta = alpha * (1.0 if broken else gamma.unsqueeze(-1))
    return max(worst(_orders(alpha, u, beta, v, c)) for c in (0.0, 0.25, 0.5, 1.0, 2.0))


def thresholds_force_power_law(generator: Generator, broken: bool) -> float:
    """Share of triples without a power law whose orders agree at every threshold under some scaling of the margins."""
    u, v, _ = _margins(generator, bend=not broken)
    u, v = u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    gamma = ((u * v).sum(-1) / (v * v).sum(-1)).view(-1, 1, 1)
    thresholds = [0.02 * i for i in range(150)]
    worst_orders = [
        torch.stack([_orders(1.0, u, scale * gamma, v, c) for c in thresholds]).amax(0)
        for scale in (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0)  # around the best fit
    ]
    return share(torch.stack(worst_orders).amin(0) == 0)


def unscaled_orders(generator: Generator, broken: bool) -> float:
    """Largest share of pairs ordered differently at a threshold of one nat, without scaling."""
    u, v, _ = _margins(generator)
    return worst(_orders(1.0, u, 1.0, v, 1.0))


def orders_without_power_law(generator: Generator, broken: bool) -> float:
    """Largest residual of u against the best gamma v + C (nats), among triples whose orders agree on every pair."""
    u, v, _ = _margins(generator, bend=True)
    return worst(_residual(u, v)[_orders(1.0, u, 1.0, v, 0.0) == 0])


def saturated_preferences(generator: Generator, broken: bool) -> float:
    """Largest residual of u against the best gamma v + C (nats) where the expected KL of preferences is below 1e-6."""
    v = 20.0 * torch.arange(CLASSES, dtype=torch.float64) + normal(generator, CASES, CLASSES)
    u = v + normal(generator, CASES, CLASSES)
    gap = (pairwise(u).sigmoid() * (logsigmoid(pairwise(u)) - logsigmoid(pairwise(v)))).mean((-2, -1))
    return worst(_residual(u, v)[gap < 1e-6])


# Theorem L.1 --------------------------------------------------------------------------------------------------------


def ideal_recovers(generator: Generator, broken: bool) -> float:
    """JS from pi* of the DPO optimum on y_w ~ pi_ref and y_l ~ pi_l."""
    world, beta = random_policies(generator, 50)
    if broken:
        world = world._replace(rejected=perturbed(world.rejected, generator))
    best = optimal_policy(lambda logp: beta * (logp - world.reference), world.pairs(), world.reference)
    return worst(js(world.target, best))


def perturbation_moves_away(generator: Generator, broken: bool) -> float:
    """Share of random directions along which a larger perturbation of pi_l does not move the optimum further off."""
    world, beta = random_policies(generator, 1000)
    winners = perturbed(world.reference, generator) if broken else world.reference
    direction = normal(generator, *world.rejected.shape)
    distances = torch.stack(
        [
            js(world.target, fitted(winners, world.rejected + size * direction, world.reference, beta))
            for size in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
        ]
    )
    return share((distances.diff(dim=0) <= 0).any(0))


# Appendix E ---------------------------------------------------------------------------------------------------------


def entropy_identity(generator: Generator, broken: bool) -> float:
    """Error of H(q) - H(pi_ref) = KL[q || pi] - KL[q || pi_ref] + KL[pi_ref || q] - KL[pi_ref || pi], nats."""
    world, _ = random_policies(generator)
    q = perturbed(world.did, generator) if broken else world.did
    right = kl(q, world.target) - kl(q, world.reference) + kl(world.reference, q) - kl(world.reference, world.target)
    return worst((entropy(q) - entropy(world.reference) - right).abs())


CHECKS = [
    Check(
        "Theorem 3.5 (2 => 1)",
        "share of pairs in another order, '>' for '>>'",
        power_law_orders,
        0.0,
        "pi_l off the power law",
    ),
    Check(
        "Theorem 3.5 (2 => 1), as printed at one threshold",
        "share of pairs in another order, '> 1 nat' for '>>'",
        unscaled_orders,
        0.0,
        None,
    ),
    Check(
        "Theorem 3.5 (1 => 2), as printed with '>' for '>>'",
        "residual of the best power law where all orders agree, nats",
        orders_without_power_law,
        1e-6,
        None,
    ),
    Check(
        "Appendix F.4, as printed: preference KL of almost 0",
        "residual of the best power law at preference KL < 1e-6, nats",
        saturated_preferences,
        1e-6,
        None,
    ),
    Check(
        "Appendix G (2 => 1)",
        "share of pairs in another order, margins scaled, any threshold",
        scaled_orders,
        0.0,
        "beta not alpha gamma",
    ),
    Check(
        "Appendix G (1 => 2)",
        "share without a power law that agree at every threshold",
        thresholds_force_power_law,
        0.0,
        "triples with a power law",
    ),
    Check(
        "Theorem L.1 (if)",
        "JS of the DPO optimum from pi*, nats",
        ideal_recovers,
        1e-8,
        "pi_l perturbed by 0.5 nats",
    ),
    Check(
        "Theorem L.1 (only if)",
        "share where a larger perturbation of pi_l is no worse",
        perturbation_moves_away,
        0.0,
        "y_w not from pi_ref",
    ),
    Check("Appendix E, identity", "error, nats", entropy_identity, EXACT, "q not the ratio distribution"),
]
