"""Claim 4.1 and Appendix E over many random policies: does reinforcing lower H(q), does smoothing raise it?

The claim is qualitative, so each row is the share of policies that contradict it, for one way to reinforce or smooth.
For a tempered policy, pi proportional to pi_ref^(1/tau), the DID is proportional to pi_ref^(1/tau - 1): for tau between
1/2 and 1 that is *flatter* than pi_ref, so mild reinforcing raises H(q) for every pi_ref, against the claim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from diffinfo.synthetic.checks import Check
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
    return float(((change >= 0) if reinforcing else (change <= 0)).double().mean())


def weak_dominance(reference: Tensor, policy: Tensor) -> float:
    """Share of policies against Appendix E's |KL[q||pi] - KL[q||pi_ref]| < |KL[pi_ref||q] - KL[pi_ref||pi]|."""
    q = did(policy, reference)
    left = (kl(q, policy) - kl(q, reference)).abs()
    return float((left >= (kl(reference, q) - kl(reference, policy)).abs()).double().mean())


def _claim(
    how: str, change: Change, reinforcing: bool, opposite: Change, reference: Callable[[Generator], Tensor]
) -> Check:
    def measure(generator: Generator, broken: bool) -> float:
        start = reference(generator)
        return contradictions(start, (opposite if broken else change)(start), reinforcing)

    kind = "reinforcing" if reinforcing else "smoothing"
    return Check(
        f"Claim 4.1 ({kind})",
        f"share of policies that contradict it: {how}",
        measure,
        0.0,
        "smoothed instead" if reinforcing else "reinforced instead",
    )


def _dominance(tau: float) -> Check:
    def measure(generator: Generator, broken: bool) -> float:
        start = normal_reference(generator)
        return weak_dominance(start, temper(tau)(start))

    return Check("Appendix E, dominance of the last two terms", f"share against it: tau = {tau:g}", measure, 0.0, None)


CLAIMS = [
    *(_claim(f"tau = {t:g}", temper(t), True, temper(1 / t), normal_reference) for t in (0.1, 0.25, 0.4, 0.6, 0.8)),
    *(_claim(f"4 modes x {f:g}", boost_modes(f), True, boost_modes(1 / f), normal_reference) for f in (100, 10, 2)),
    *(_claim(f"tau = {t:g}", temper(t), False, temper(0.25), normal_reference) for t in (1.25, 2.0, 4.0)),
    *(
        _claim(f"{w:.0%} uniform mixed in", mix_uniform(w), False, temper(0.25), normal_reference)
        for w in (0.1, 0.5, 0.9)
    ),
    *(
        _claim(f"tau = {t:g}, long tail", temper(t), False, temper(0.25), long_tailed_reference)
        for t in (1.25, 2.0, 4.0)
    ),
    *(_dominance(tau) for tau in (1.25, 2.0, 4.0)),
]
