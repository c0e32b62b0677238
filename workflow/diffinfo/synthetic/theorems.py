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

from diffinfo.cli import run
from diffinfo.synthetic import margins, updates
from diffinfo.synthetic.checks import (
    CASES,
    CLASSES,
    EXACT,
    Check,
    experiment,
    normal,
    optimal_policy,
    pairwise,
    perturbed,
    random_policies,
    share,
    uniform,
    worst,
)
from diffinfo.synthetic.distributions import Policies, js, kl
from diffinfo.synthetic.reinforcing import CLAIMS
from diffinfo.tables import artifacts


def labelled(log_preferred: Tensor, generator: Generator) -> Tensor:
    """Pair weights with random coverage mu and labels p*(i > j) = sigma(r_i - r_j), (..., K) -> (..., K, K)."""
    mu = uniform(generator, 0.1, 1.0, *log_preferred.shape, log_preferred.shape[-1])
    mu = mu + mu.transpose(-1, -2)
    return mu / mu.sum((-2, -1), keepdim=True) * pairwise(log_preferred).sigmoid()


# Theorem 2.1 --------------------------------------------------------------------------------------------------------


def matching(generator: Generator, broken: bool) -> float:
    """KL[p* || P(Y | r)] at the reward that maximises the preference likelihood."""
    preferred = random_policies(generator, 50)[0].target
    pairs = labelled(preferred, generator)
    if broken:  # no pair joins the two halves of Y
        half = torch.arange(CLASSES) < CLASSES // 2
        pairs = pairs * (half.unsqueeze(-1) == half.unsqueeze(-2))
    start = normal(generator, 50, CLASSES)
    return worst(kl(preferred, optimal_policy(lambda logp: logp, pairs, start)))


def likelihood_is_divergence(generator: Generator, broken: bool) -> float:
    """Spread over rewards of the expected -log p(y_w > y_l | r) minus the expected KL of preferences."""
    preferred = random_policies(generator)[0].target
    mu = labelled(torch.zeros_like(preferred), generator) * 2
    labels = pairwise(perturbed(preferred, generator) if broken else preferred).sigmoid()
    truth = pairwise(preferred)
    gaps = []
    for _ in range(5):
        r = pairwise(normal(generator, *preferred.shape))
        likelihood = -(mu * labels * logsigmoid(r)).sum((-2, -1))
        divergence = (mu * truth.sigmoid() * (logsigmoid(truth) - logsigmoid(r))).sum((-2, -1))
        gaps.append(likelihood - divergence)
    spread = torch.stack(gaps)
    return worst(spread.amax(0) - spread.amin(0))


def misspecified(generator: Generator, broken: bool) -> float:
    """JS between the minimisers of both sides when rewards are linear in three features and cannot reach p*."""
    preferred = random_policies(generator, 20)[0].target
    features = normal(generator, 20, CLASSES, 3)
    mu = labelled(torch.zeros_like(preferred), generator) * 2
    pairs = mu * pairwise(preferred).sigmoid()

    def reward(w: Tensor) -> Tensor:
        return (features @ w.unsqueeze(-1)).squeeze(-1)

    def preference(w: Tensor) -> Tensor:
        return -(pairs * logsigmoid(pairwise(reward(w)))).sum((-2, -1))

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
    return worst(js(*fits))


# Theorem 3.2 and Lemma D.1 ------------------------------------------------------------------------------------------


def _event(generator: Generator, scale: float = 1.0) -> tuple[Policies, Tensor]:
    """Lemma D.1: P(X | Y = y) = P(X | pi_ref) pi(y) / pi_ref(y), P(X | pi_ref) random below scale / max ratio."""
    world, _ = random_policies(generator)
    ratio = (world.target - world.reference).exp()
    base = scale * uniform(generator, 0.0, 1.0, CASES, 1) / ratio.amax(-1, keepdim=True)
    return world, base * ratio


def event_is_probability(generator: Generator, broken: bool) -> float:
    """Largest P(X | Y = y)."""
    return worst(_event(generator, 1.5 if broken else 1.0)[1])


def bayes_update(generator: Generator, broken: bool) -> float:
    """Error of the posterior P(Y | pi_ref, X) against pi."""
    world, likelihood = _event(generator)
    if broken:  # X depends on the model that wrote y, beyond y itself
        likelihood = likelihood * uniform(generator, 0.5, 1.0, *likelihood.shape)
    joint = likelihood * world.reference.exp()
    return worst((joint / joint.sum(-1, keepdim=True) - world.target.exp()).abs())


def ratio_representation(generator: Generator, broken: bool) -> float:
    """Error of P(Y = y | X), by Bayes' rule from a uniform prior, against q_{pi/pi_ref}."""
    world, likelihood = _event(generator)
    prior = torch.full_like(likelihood, 1 / CLASSES)
    if broken:
        prior = normal(generator, *likelihood.shape).softmax(-1)
    joint = likelihood * prior
    return worst((joint / joint.sum(-1, keepdim=True) - world.did.exp()).abs())


# Theorem 3.3 --------------------------------------------------------------------------------------------------------


def preference_probability(generator: Generator, broken: bool) -> float:
    """Error of sigma(beta log q(y_w) - beta log q(y_l)) against the labels' probability (the two cases of F.2)."""
    world, beta = random_policies(generator)
    if broken:
        world = world._replace(rejected=perturbed(world.rejected, generator))
    joint = world.pairs()
    return worst((joint / (joint + joint.transpose(-1, -2)) - pairwise(beta * world.did).sigmoid()).abs())


def sampled_preferences(generator: Generator, broken: bool, draws: int = 200_000) -> float:
    """Largest deviation of counted preferences from the formula, in standard errors, over pairs seen 20 times."""
    world, beta = random_policies(generator, 8, 6)
    rejected = perturbed(world.rejected, generator) if broken else world.rejected
    w = torch.multinomial(world.reference.exp(), draws, replacement=True, generator=generator)
    lost = torch.multinomial(rejected.exp(), draws, replacement=True, generator=generator)
    counts = torch.stack([torch.bincount(row, minlength=36) for row in w * 6 + lost]).view(8, 6, 6).double()
    total = counts + counts.transpose(-1, -2)
    p = pairwise(beta * world.did).sigmoid()
    error = (p * (1 - p) / total).sqrt()
    seen = (total * torch.minimum(p, 1 - p) > 20) & ~torch.eye(6, dtype=torch.bool)
    return worst(((counts / total - p).abs() / error)[seen])


# Theorem 3.4 --------------------------------------------------------------------------------------------------------


def log_ratio_recovers(generator: Generator, broken: bool) -> float:
    """JS of the preference optimum under r = beta log(pi / pi_ref) from pi*."""
    world, beta = random_policies(generator, 50)
    pairs = labelled(beta * world.did, generator)
    reference = torch.zeros_like(world.reference) if broken else world.reference  # broken: r = beta log pi
    best = optimal_policy(lambda logp: beta * (logp - reference), pairs, world.reference)
    return worst(js(world.target, best))


def other_forms(generator: Generator, broken: bool) -> float:
    """Share of other reward forms (all with beta) whose preference optimum is pi* all the same."""
    world, beta = random_policies(generator, 20)
    pairs = labelled(beta * world.did, generator)
    reference, another = world.reference, perturbed(world.reference, generator)
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda logp: beta * logp,
        lambda logp: beta * (logp - reference).exp(),
        lambda logp: -beta * (reference - logp).exp(),
        lambda logp: 2 * beta * (logp - reference),
        lambda logp: beta * (logp - another),
    ]
    if broken:
        forms.append(lambda logp: beta * (logp - reference))
    found = torch.stack([js(world.target, optimal_policy(form, pairs, reference)) for form in forms])
    return share(found < 1e-8)


def other_reward_one_target(generator: Generator, broken: bool) -> float:
    """Share of policies recovered by r = beta log(pi / pi_ref) + log(pi / pi*), which is not a log-ratio reward."""
    world, beta = random_policies(generator, 20)
    pairs = labelled(beta * world.did, generator)

    def reward(logp: Tensor) -> Tensor:
        return beta * (logp - world.reference) + (logp - world.target)

    return share(js(world.target, optimal_policy(reward, pairs, world.reference)) < EXACT)


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
]


def main(out: Path, seed: int = 42) -> None:
    """Check every theorem of the paper, and our own, over random policies, once as stated and once with its condition broken.

    Args:
        out: the theorems table to write.
        seed: of the random policies.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    artifacts.write(out, experiment(seed, [*CHECKS, *margins.CHECKS, *CLAIMS, *updates.CHECKS]), "theorems", seed=seed)


if __name__ == "__main__":
    run(main)
