"""Every theorem as a check over many random policies, each with a way to break its condition on purpose.

A check measures an error (or a share of policies) that is at most its tolerance where the statement holds. The same
measure is taken with the condition broken: a check that does not fail then would prove nothing. Rows
"as printed" (or "read for ...") show statements read literally, where they claim more than their proofs give: they
have no condition to break and are expected not to hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from diffinfo import artifacts
from diffinfo.cli import run
from diffinfo.synthetic.checks import Check, experiment
from diffinfo.synthetic.claim import CLAIMS
from diffinfo.synthetic.distributions import Policies, did, entropy, fitted, ideal_rejected, js, kl
from diffinfo.synthetic.population import minimise

CASES, CLASSES = 200, 12
EXACT = 1e-10


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def random_policies(generator: Generator, cases: int = CASES, classes: int = CLASSES) -> tuple[Policies, Tensor]:
    """Random pi* and pi_ref, the pi_l of Equation 1 and its beta: (cases, classes) each, beta (cases, 1)."""
    spread = _uniform(generator, 0.3, 1.5, 2, cases, 1)
    target, reference = (spread * _normal(generator, 2, cases, classes)).log_softmax(-1)
    beta = _uniform(generator, -1.0, 1.0, cases, 1).exp()
    return Policies(target, reference, ideal_rejected(target, reference, beta)), beta


def _perturbed(policy: Tensor, generator: Generator, size: float = 0.5) -> Tensor:
    return (policy + size * _normal(generator, *policy.shape)).log_softmax(-1)


def _pairwise(reward: Tensor) -> Tensor:
    """r(i) - r(j), (..., K) -> (..., K, K)."""
    return reward.unsqueeze(-1) - reward.unsqueeze(-2)


def _worst(values: Tensor) -> float:
    return float(values.max())


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def optimal_policy(reward: Callable[[Tensor], Tensor], pairs: Tensor, start: Tensor) -> Tensor:
    """Log of the policy that maximises E[log sigma(r(y_w) - r(y_l))] over theta (..., K), r = reward(log pi)."""

    def loss(theta: Tensor) -> Tensor:
        return -(pairs * logsigmoid(_pairwise(reward(theta.log_softmax(-1))))).sum((-2, -1))

    def gradient(theta: Tensor) -> Tensor:
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf).sum(), leaf)[0]

    return minimise(loss, gradient, start, tolerance=1e-11, rounds=100)[0].log_softmax(-1)


def labelled(log_preferred: Tensor, generator: Generator) -> Tensor:
    """Pair weights with random coverage mu and labels p*(i > j) = sigma(r_i - r_j), (..., K) -> (..., K, K)."""
    mu = _uniform(generator, 0.1, 1.0, *log_preferred.shape, log_preferred.shape[-1])
    mu = mu + mu.transpose(-1, -2)
    return mu / mu.sum((-2, -1), keepdim=True) * _pairwise(log_preferred).sigmoid()


# Theorem 2.1 --------------------------------------------------------------------------------------------------------


def matching(generator: Generator, broken: bool) -> float:
    """KL[p* || P(Y | r)] at the reward that maximises the preference likelihood."""
    preferred = random_policies(generator, 50)[0].target
    pairs = labelled(preferred, generator)
    if broken:  # no pair joins the two halves of Y
        half = torch.arange(CLASSES) < CLASSES // 2
        pairs = pairs * (half.unsqueeze(-1) == half.unsqueeze(-2))
    start = _normal(generator, 50, CLASSES)
    return _worst(kl(preferred, optimal_policy(lambda logp: logp, pairs, start)))


def likelihood_is_divergence(generator: Generator, broken: bool) -> float:
    """Spread over rewards of the expected -log p(y_w > y_l | r) minus the expected KL of preferences."""
    preferred = random_policies(generator)[0].target
    mu = labelled(torch.zeros_like(preferred), generator) * 2
    labels = _pairwise(_perturbed(preferred, generator) if broken else preferred).sigmoid()
    truth = _pairwise(preferred)
    gaps = []
    for _ in range(5):
        r = _pairwise(_normal(generator, *preferred.shape))
        likelihood = -(mu * labels * logsigmoid(r)).sum((-2, -1))
        divergence = (mu * truth.sigmoid() * (logsigmoid(truth) - logsigmoid(r))).sum((-2, -1))
        gaps.append(likelihood - divergence)
    spread = torch.stack(gaps)
    return _worst(spread.amax(0) - spread.amin(0))


def misspecified(generator: Generator, broken: bool) -> float:
    """JS between the minimisers of both sides when rewards are linear in three features and cannot reach p*."""
    preferred = random_policies(generator, 20)[0].target
    features = _normal(generator, 20, CLASSES, 3)
    mu = labelled(torch.zeros_like(preferred), generator) * 2
    pairs = mu * _pairwise(preferred).sigmoid()

    def reward(w: Tensor) -> Tensor:
        return (features @ w.unsqueeze(-1)).squeeze(-1)

    def preference(w: Tensor) -> Tensor:
        return -(pairs * logsigmoid(_pairwise(reward(w)))).sum((-2, -1))

    def distribution(w: Tensor) -> Tensor:
        return kl(preferred, reward(w).log_softmax(-1))

    fits = []
    for loss in (preference, distribution):
        w = torch.zeros(20, 3, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([w], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure(loss: Callable[[Tensor], Tensor] = loss, w: Tensor = w) -> Tensor:
            w.grad = None
            total = loss(w).sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        solver.step(closure)  # type: ignore[arg-type]
        fits.append(reward(w.detach()).log_softmax(-1))
    return _worst(js(*fits))


# Theorem 3.2 and Lemma D.1 ------------------------------------------------------------------------------------------


def _event(generator: Generator, scale: float = 0.5) -> tuple[Policies, Tensor, Tensor]:
    """Lemma D.1: P(X | Y = y) = P(X | pi_ref) pi(y) / pi_ref(y) with P(X | pi_ref) = scale / max ratio."""
    world, _ = random_policies(generator)
    ratio = (world.target - world.reference).exp()
    base = scale / ratio.amax(-1, keepdim=True)
    return world, base, base * ratio


def event_is_probability(generator: Generator, broken: bool) -> float:
    """Largest P(X | Y = y)."""
    return _worst(_event(generator, 1.5 if broken else 0.5)[2])


def bayes_update(generator: Generator, broken: bool) -> float:
    """Error of the posterior P(Y | pi_ref, X) against pi."""
    world, _, likelihood = _event(generator)
    if broken:  # X depends on the model that wrote y, beyond y itself
        likelihood = likelihood * _uniform(generator, 0.5, 1.0, *likelihood.shape)
    joint = likelihood * world.reference.exp()
    return _worst((joint / joint.sum(-1, keepdim=True) - world.target.exp()).abs())


def ratio_representation(generator: Generator, broken: bool) -> float:
    """Error of P(Y = y | X), by Bayes' rule from a uniform prior, against q_{pi/pi_ref}."""
    world, _, likelihood = _event(generator)
    prior = torch.full_like(likelihood, 1 / CLASSES)
    if broken:
        prior = _normal(generator, *likelihood.shape).softmax(-1)
    joint = likelihood * prior
    return _worst((joint / joint.sum(-1, keepdim=True) - world.did.exp()).abs())


# Theorem 3.3 --------------------------------------------------------------------------------------------------------


def preference_probability(generator: Generator, broken: bool) -> float:
    """Error of sigma(beta log q(y_w) - beta log q(y_l)) against the labels' probability (the two cases of F.2)."""
    world, beta = random_policies(generator)
    if broken:
        world = world._replace(rejected=_perturbed(world.rejected, generator))
    joint = world.pairs()
    return _worst((joint / (joint + joint.transpose(-1, -2)) - _pairwise(beta * world.did).sigmoid()).abs())


def sampled_preferences(generator: Generator, broken: bool, draws: int = 200_000) -> float:
    """Largest deviation of counted preferences from the formula, in standard errors, over pairs seen 20 times."""
    world, beta = random_policies(generator, 8, 6)
    rejected = _perturbed(world.rejected, generator) if broken else world.rejected
    w = torch.multinomial(world.reference.exp(), draws, replacement=True, generator=generator)
    lost = torch.multinomial(rejected.exp(), draws, replacement=True, generator=generator)
    counts = torch.stack([torch.bincount(row, minlength=36) for row in w * 6 + lost]).view(8, 6, 6).double()
    total = counts + counts.transpose(-1, -2)
    p = _pairwise(beta * world.did).sigmoid()
    error = (p * (1 - p) / total).sqrt()
    seen = (total * torch.minimum(p, 1 - p) > 20) & ~torch.eye(6, dtype=torch.bool)
    return _worst(((counts / total - p).abs() / error)[seen])


# Theorem 3.4 --------------------------------------------------------------------------------------------------------


def log_ratio_recovers(generator: Generator, broken: bool) -> float:
    """JS of the preference optimum under r = beta log(pi / pi_ref) from pi*."""
    world, beta = random_policies(generator, 50)
    pairs = labelled(beta * world.did, generator)
    reference = torch.zeros_like(world.reference) if broken else world.reference  # broken: r = beta log pi
    best = optimal_policy(lambda logp: beta * (logp - reference), pairs, world.reference)
    return _worst(js(world.target, best))


def other_forms(generator: Generator, broken: bool) -> float:
    """Share of other reward forms (all with beta) whose preference optimum is pi* all the same."""
    world, beta = random_policies(generator, 20)
    pairs = labelled(beta * world.did, generator)
    reference = world.reference
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda logp: beta * logp,
        lambda logp: beta * (logp - reference).exp(),
        lambda logp: -beta * (reference - logp).exp(),
        lambda logp: 2 * beta * (logp - reference),
    ]
    if broken:
        forms.append(lambda logp: beta * (logp - reference))
    found = torch.stack([js(world.target, optimal_policy(form, pairs, reference)) for form in forms])
    return _share(found < 1e-8)


def other_reward_one_target(generator: Generator, broken: bool) -> float:
    """Share of policies recovered by r = beta log(pi / pi_ref) + log(pi / pi*), which is no log-ratio reward."""
    world, beta = random_policies(generator, 20)
    pairs = labelled(beta * world.did, generator)

    def reward(logp: Tensor) -> Tensor:
        return beta * (logp - world.reference) + (logp - world.target)

    return _share(js(world.target, optimal_policy(reward, pairs, world.reference)) < EXACT)


# Theorem 3.5 and Appendix G: u = log q_{ref/l}, v = log q_{*/ref}, margins are differences over pairs ----------------


def _orders(scale_u: Tensor | float, u: Tensor, scale_v: Tensor | float, v: Tensor, threshold: float) -> Tensor:
    """Share of pairs on which "margin of u > threshold" and "margin of v > threshold" disagree, (..., K) -> (...)."""
    left, right = scale_u * _pairwise(u), scale_v * _pairwise(v)
    clear = ((left - threshold).abs() > 1e-9) & ((right - threshold).abs() > 1e-9)  # rounding decides no order
    return ((left > threshold) != (right > threshold)).logical_and(clear).double().mean((-2, -1))


def _margins(generator: Generator, bend: bool = False, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """u and v for random policies with u = gamma v (Eq. 1), or bent to u = gamma sinh(v), or with noise; and gamma."""
    world, gamma = random_policies(generator)
    v = world.target - world.reference
    u = gamma * (v.sinh() if bend else v) + noise * _normal(generator, *v.shape)
    rejected = (world.reference - u).log_softmax(-1)  # any u is reached by some pi_l
    return did(world.reference, rejected), world.did, gamma


def _residual(u: Tensor, v: Tensor) -> Tensor:
    """Largest residual over y of the least-squares power law u = gamma v + C, (..., K) -> (...), nats."""
    u, v = u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    return (u - (u * v).sum(-1, keepdim=True) / (v * v).sum(-1, keepdim=True) * v).abs().amax(-1)


def power_law_orders(generator: Generator, broken: bool) -> float:
    """Largest share of pairs ordered differently when "sufficiently larger" is ">"."""
    u, v, _ = _margins(generator, noise=0.5 if broken else 0.0)
    return _worst(_orders(1.0, u, 1.0, v, 0.0))


def scaled_orders(generator: Generator, broken: bool) -> float:
    """Largest share of pairs ordered differently at any of five thresholds, margins scaled by alpha and alpha gamma."""
    u, v, gamma = _margins(generator)
    alpha = _uniform(generator, 0.5, 2.0, CASES, 1).unsqueeze(-1)
    beta = alpha * (1.0 if broken else gamma.unsqueeze(-1))
    return max(_worst(_orders(alpha, u, beta, v, c)) for c in (0.0, 0.25, 0.5, 1.0, 2.0))


def thresholds_force_power_law(generator: Generator, broken: bool) -> float:
    """Share of triples without a power law whose orders agree at every threshold under the best gamma."""
    u, v, _ = _margins(generator, bend=not broken)
    u, v = u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    gamma = ((u * v).sum(-1) / (v * v).sum(-1)).view(-1, 1, 1)
    thresholds = [0.01 * i for i in range(300)]
    return _share(torch.stack([_orders(1.0, u, gamma, v, c) for c in thresholds]).amax(0) == 0)


def unscaled_orders(generator: Generator, broken: bool) -> float:
    """Largest share of pairs ordered differently at a threshold of one nat, without scaling."""
    u, v, _ = _margins(generator)
    return _worst(_orders(1.0, u, 1.0, v, 1.0))


def orders_without_power_law(generator: Generator, broken: bool) -> float:
    """Largest residual of u against the best gamma v + C (nats), among triples whose orders agree on every pair."""
    u, v, _ = _margins(generator, bend=True)
    return _worst(_residual(u, v)[_orders(1.0, u, 1.0, v, 0.0) == 0])


def saturated_preferences(generator: Generator, broken: bool) -> float:
    """Largest residual of u against the best gamma v + C (nats) where the expected KL of preferences is below 1e-6."""
    v = 20.0 * torch.arange(CLASSES, dtype=torch.float64) + _normal(generator, CASES, CLASSES)
    u = v + _normal(generator, CASES, CLASSES)
    gap = (_pairwise(u).sigmoid() * (logsigmoid(_pairwise(u)) - logsigmoid(_pairwise(v)))).mean((-2, -1))
    return _worst(_residual(u, v)[gap < 1e-6])


# Theorem L.1 --------------------------------------------------------------------------------------------------------


def ideal_recovers(generator: Generator, broken: bool) -> float:
    """JS from pi* of the DPO optimum on y_w ~ pi_ref and y_l ~ pi_l."""
    world, beta = random_policies(generator, 50)
    if broken:
        world = world._replace(rejected=_perturbed(world.rejected, generator))
    best = optimal_policy(lambda logp: beta * (logp - world.reference), world.pairs(), world.reference)
    return _worst(js(world.target, best))


def perturbation_moves_away(generator: Generator, broken: bool) -> float:
    """Share of random directions along which a larger perturbation of pi_l does not move the optimum further off."""
    world, beta = random_policies(generator, 1000)
    winners = _perturbed(world.reference, generator) if broken else world.reference
    direction = _normal(generator, *world.rejected.shape)
    distances = torch.stack(
        [
            js(world.target, fitted(winners, world.rejected + size * direction, world.reference, beta))
            for size in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
        ]
    )
    return _share((distances.diff(dim=0) <= 0).any(0))


# Appendix E ---------------------------------------------------------------------------------------------------------


def entropy_identity(generator: Generator, broken: bool) -> float:
    """Error of H(q) - H(pi_ref) = KL[q || pi] - KL[q || pi_ref] + KL[pi_ref || q] - KL[pi_ref || pi], nats."""
    world, _ = random_policies(generator)
    q = _perturbed(world.did, generator) if broken else world.did
    right = kl(q, world.target) - kl(q, world.reference) + kl(world.reference, q) - kl(world.reference, world.target)
    return _worst((entropy(q) - entropy(world.reference) - right).abs())


CHECKS = [
    Check("Theorem 2.1", "KL[p* || P(Y|r)] at the preference optimum, nats", matching, 1e-8, "pairs do not cover Y"),
    Check(
        "Theorem 2.1",
        "spread over r of E[-log p(w > l|r)] - E[KL of preferences], nats",
        likelihood_is_divergence,
        EXACT,
        "labels from another distribution",
    ),
    Check(
        "Theorem 2.1, read for rewards that cannot reach p*",
        "JS between the two optima when r cannot reach p*, nats",
        misspecified,
        1e-6,
        None,
    ),
    Check("Lemma D.1", "largest P(X|y) of the construction", event_is_probability, 1.0, "P(X|pi_ref) above its bound"),
    Check("Lemma D.1", "error of P(y|pi_ref, X) against pi", bayes_update, EXACT, "X depends on the model"),
    Check("Theorem 3.2", "error of P(y|X) against q", ratio_representation, EXACT, "prior over Y not uniform"),
    Check(
        "Theorem 3.3",
        "error of sigma(beta log q ratio) against p*(w > l)",
        preference_probability,
        EXACT,
        "pi_l off the power law",
    ),
    Check(
        "Theorem 3.3",
        "largest deviation of 200,000 sampled labels, standard errors",
        sampled_preferences,
        5.0,
        "pi_l off the power law",
    ),
    Check(
        "Theorem 3.4 (if)",
        "JS of the optimum from pi*, nats",
        log_ratio_recovers,
        1e-8,
        "r = beta log pi",
    ),
    Check(
        "Theorem 3.4 (only if)",
        "share of other reward forms that recover pi*",
        other_forms,
        0.0,
        "the log-ratio among them",
    ),
    Check(
        "Theorem 3.4 (only if), as printed for one pi*",
        "share of pi* recovered by another reward",
        other_reward_one_target,
        0.0,
        None,
    ),
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


def main(out: Path, seed: int = 42) -> None:
    """Check every theorem of the paper over random policies, once as stated and once with its condition broken.

    Args:
        out: the theorems table to write.
        seed: of the random policies.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    artifacts.write(out, experiment(seed, [*CHECKS, *CLAIMS]), "theorems", seed=seed)


if __name__ == "__main__":
    run(main)
