"""Claim 4.1 and Appendix E over many random policies: does reinforcing lower H(q), does smoothing raise it?

The claim is qualitative, so each row is the share of policies that contradict it, for one way to reinforce or smooth.
Any small change makes q almost uniform, so that H(q) exceeds H(pi_ref) whichever way pi moved: for pi proportional to
pi_ref^(1/tau), q is proportional to pi_ref^(1/tau - 1), *flatter* than pi_ref for every tau between 1/2 and 1. The
claim's assumption that q is almost 0 where pi_ref is holds for normal logits, which make no class that rare; under a
long tail smoothing breaks it, and rows say so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from diffinfo.synthetic.checks import Check, share
from diffinfo.synthetic.distributions import did, entropy, kl

Change = Callable[[Tensor], Tensor]  # log pi_ref -> log pi, both (cases, K)
CASES, CLASSES = 2000, 32


def normal_reference(generator: Generator) -> Tensor:
    """log pi_ref with logits from N(0, 1), as in Section 3.5."""
    return torch.randn(CASES, CLASSES, generator=generator, dtype=torch.float64).log_softmax(-1)


def long_tailed_reference(generator: Generator) -> Tensor:
    """log pi_ref with a few improbable classes: logits are minus twice an exponential variable."""
    uniform = torch.rand(CASES, CLASSES, generator=generator, dtype=torch.float64)
    return (2.0 * uniform.clamp_min(1e-12).log()).log_softmax(-1)


def temper(tau: float) -> Change:
    """pi proportional to pi_ref^(1/tau): reinforcing for tau < 1, smoothing for tau > 1."""
    return lambda reference: (reference / tau).log_softmax(-1)


def boost_modes(factor: float, classes: int = 4) -> Change:
    """Multiply the probability of the most probable classes and renormalise: reinforcing for a factor > 1."""

    def change(reference: Tensor) -> Tensor:
        top = torch.zeros_like(reference).scatter_(-1, reference.topk(classes).indices, 1.0)
        return (reference + top * torch.log(torch.tensor(factor))).log_softmax(-1)

    return change


def mix_uniform(weight: float) -> Change:
    """(1 - weight) pi_ref + weight uniform: smoothing."""
    return lambda reference: ((1 - weight) * reference.exp() + weight / CLASSES).log()


def contradictions(reference: Tensor, policy: Tensor, reinforcing: bool) -> float:
    """Share of policies with H(q) on the other side of H(pi_ref) than Claim 4.1 says."""
    change = entropy(did(policy, reference)) - entropy(reference)
    return share(change >= 0 if reinforcing else change <= 0)


def rare_mass(reference: Tensor, policy: Tensor) -> float:
    """Mean mass of q on classes with pi_ref below 0.001; the claim's first assumption wants it to be almost 0."""
    return float((did(policy, reference).exp() * (reference.exp() < 1e-3)).sum(-1).mean())


def weak_dominance(reference: Tensor, policy: Tensor) -> float:
    """Share of policies against Appendix E's |KL[q||pi] - KL[q||pi_ref]| < |KL[pi_ref||q] - KL[pi_ref||pi]|."""
    q = did(policy, reference)
    left = (kl(q, policy) - kl(q, reference)).abs()
    return share(left >= (kl(reference, q) - kl(reference, policy)).abs())


def nearer_did(reference: Tensor, policy: Tensor) -> float:
    """Share of policies against Appendix E's KL[pi_ref||q] > KL[pi_ref||pi] under smoothing."""
    return share(kl(reference, did(policy, reference)) <= kl(reference, policy))


def _row(
    statement: str,
    quantity: str,
    measured: Callable[[Tensor, Tensor], float],
    changes: tuple[Change, Change],
    broken: str,
    reference: Callable[[Generator], Tensor] = normal_reference,
) -> Check:
    """A check of ``measured`` on (pi_ref, pi) where pi is the first change of pi_ref, or the second when broken."""

    def measure(generator: Generator, is_broken: bool) -> float:
        start = reference(generator)
        return measured(start, changes[is_broken](start))

    return Check(statement, quantity, measure, 0.0, broken)


def _reinforcing(how: str, change: Change, opposite: Change) -> Check:
    against = partial(contradictions, reinforcing=True)
    quantity = f"share of policies that contradict it: {how}"
    return _row("Claim 4.1 (reinforcing)", quantity, against, (change, opposite), "smoothed instead")


def _smoothing(how: str, change: Change) -> Check:
    against = partial(contradictions, reinforcing=False)
    quantity = f"share of policies that contradict it: {how}"
    return _row("Claim 4.1 (smoothing)", quantity, against, (change, temper(0.25)), "reinforced instead")


def _long_tailed(tau: float) -> Check:
    return _row(
        "Claim 4.1 (smoothing), rare responses not kept rare",
        f"share of policies that contradict it: tau = {tau:g}, long tail",
        partial(contradictions, reinforcing=False),
        (temper(tau), temper(0.25)),
        "reinforced instead",
        long_tailed_reference,
    )


CLAIMS = [
    *(_reinforcing(f"tau = {t:g}", temper(t), temper(1 / t)) for t in (0.1, 0.25, 0.4, 0.6, 0.8)),
    *(_reinforcing(f"4 modes x {f:g}", boost_modes(f), boost_modes(1 / f)) for f in (100, 10, 2)),
    *(_smoothing(f"tau = {t:g}", temper(t)) for t in (1.25, 2.0, 4.0)),
    *(_smoothing(f"{w:.0%} uniform mixed in", mix_uniform(w)) for w in (0.1, 0.5, 0.9)),
    *(_long_tailed(t) for t in (1.25, 2.0, 4.0)),
    *(
        _row(
            "Appendix E, dominance of the last two terms",
            f"share of policies against it: tau = {t:g}",
            weak_dominance,
            (temper(t), temper(100.0)),
            "pi far from pi_ref (tau = 100)",
        )
        for t in (1.25, 2.0, 4.0)
    ),
    *(
        _row(
            "Appendix E, KL[pi_ref || q] > KL[pi_ref || pi]",
            f"share of policies against it: tau = {t:g}",
            nearer_did,
            (temper(t), temper(0.25)),
            "reinforced instead",
        )
        for t in (1.25, 2.0, 4.0)
    ),
]
