import math

import numpy as np
import pytest
import torch

from diffinfo.synthetic import margins, reinforcing, theorems, updates
from diffinfo.synthetic.checks import Check, experiment, optimal_policy, random_policies
from diffinfo.synthetic.distributions import did, entropy, fitted, js, kl
from diffinfo.tables import artifacts

STATED = [*theorems.CHECKS, *margins.CHECKS, *updates.CHECKS]
HOLDING = [check for check in STATED if check.broken]
READ_LITERALLY = [check for check in STATED if not check.broken]


def measured(check: Check, broken: bool, seed: int = 5) -> float:
    return check.measure(torch.Generator().manual_seed(seed), broken)


@pytest.mark.parametrize("check", HOLDING, ids=lambda c: f"{c.statement}: {c.quantity}")
def test_a_theorem_holds_and_its_check_fails_when_the_condition_is_broken(check):
    assert all(measured(check, broken=False, seed=seed) <= check.tolerance for seed in (5, 6, 7))
    assert measured(check, broken=True) > check.tolerance + 1e-3


@pytest.mark.parametrize("check", READ_LITERALLY, ids=lambda c: c.statement)
def test_a_statement_read_literally_has_counter_examples(check):
    assert measured(check, broken=False) > check.tolerance


@pytest.mark.parametrize("check", reinforcing.CLAIMS, ids=lambda c: f"{c.statement}: {c.quantity}")
def test_a_claim_fails_when_its_condition_is_broken(check):
    assert check.broken
    assert measured(check, broken=True) > 0.4


def test_counter_examples_to_the_claim_keep_its_assumptions_where_their_rows_do_not_say_otherwise():
    reference = reinforcing.normal_reference(torch.Generator().manual_seed(0))
    for change in (
        reinforcing.temper(0.8),
        reinforcing.boost_modes(2),
        reinforcing.temper(4.0),
        reinforcing.mix_uniform(0.9),
    ):
        assert reinforcing.rare_mass(reference, change(reference)) < 0.03
        assert kl(reference, change(reference)).mean() < 0.4
    tail = reinforcing.long_tailed_reference(torch.Generator().manual_seed(0))
    assert reinforcing.rare_mass(tail, reinforcing.temper(2.0)(tail)) > 0.5


def test_the_closed_form_is_dpos_optimum_whatever_the_rejected_distribution():
    world, beta = random_policies(torch.Generator().manual_seed(1), 20, 6)
    world = world._replace(rejected=world.rejected.flip(-1))
    best = optimal_policy(lambda logp: beta * (logp - world.reference), world.pairs(), world.reference)
    closed = fitted(world.reference, world.rejected, world.reference, beta)
    assert js(best, closed).max() < 1e-12
    assert js(best, world.target).min() > 1e-4


def test_every_statement_of_the_paper_has_a_row():
    rows = " ".join(check.statement for check in [*STATED, *reinforcing.CLAIMS])
    for name in ("2.1", "D.1", "3.2", "3.3", "3.4 (if)", "3.4 (only if)", "3.5", "Appendix G", "L.1 (if)", "L.1 (only if)",
                 "Appendix E", "Claim 4.1 (reinforcing)", "Claim 4.1 (smoothing)"):  # fmt: skip
        assert name in rows


def test_mild_reinforcing_always_raises_the_entropy_of_the_did():
    reference = reinforcing.normal_reference(torch.Generator().manual_seed(0))
    for tau in (0.55, 0.75, 0.95):
        policy = reinforcing.temper(tau)(reference)
        assert (entropy(policy) < entropy(reference)).all()  # it does reinforce
        assert reinforcing.contradictions(reference, policy, reinforcing=True) == 1.0
    strong = reinforcing.temper(0.25)(reference)
    assert reinforcing.contradictions(reference, strong, reinforcing=True) == 0.0
    assert torch.allclose(did(reinforcing.temper(0.5)(reference), reference), reference)


def test_the_table_says_both_measures(tmp_path):
    rows = experiment(1, [check for check in STATED if check.statement in ("Lemma D.1", "Theorem 3.2")])
    artifacts.write(tmp_path / "theorems.parquet", rows, "theorems", seed=1)
    table = artifacts.read(tmp_path / "theorems.parquet", "theorems")
    assert table.holds.all()
    assert (table.broken_value > table.tolerance).all()


def test_seeds_draw_other_policies():
    checks = [check for check in STATED if check.statement == "Lemma D.1"]
    one, again, two = (experiment(seed, checks) for seed in (1, 1, 2))
    assert one.equals(again)
    assert (one.broken_value != two.broken_value).all()  # the others can be the same rounding


def test_shares_of_appendix_e_are_counted_policy_by_policy():
    reference = reinforcing.normal_reference(torch.Generator().manual_seed(0))[:50]
    policy = reinforcing.temper(3.0)(reference)
    p_ref, p = reference.exp().tolist(), policy.exp().tolist()

    def divergence(one: list[float], two: list[float]) -> float:
        return sum(x * (math.log(x) - math.log(y)) for x, y in zip(one, two, strict=True))

    weak = far = 0
    for ref, pi in zip(p_ref, p, strict=True):
        ratio = [x / y for x, y in zip(pi, ref, strict=True)]
        q = [x / sum(ratio) for x in ratio]
        left = abs(divergence(q, pi) - divergence(q, ref))
        weak += left >= abs(divergence(ref, q) - divergence(ref, pi))
        far += divergence(ref, q) <= divergence(ref, pi)
    assert reinforcing.weak_dominance(reference, policy) == pytest.approx(weak / 50)
    assert reinforcing.nearer_did(reference, policy) == pytest.approx(far / 50)


def test_the_root_of_smoothing_is_where_the_entropies_meet():
    """By scipy, and for two classes by hand: pi_ref^-b has the entropy of pi_ref at b = 1 alone."""
    from scipy import stats
    from scipy.optimize import brentq

    reference = reinforcing.long_tailed_reference(torch.Generator().manual_seed(3))[:20]
    found = updates.threshold(reference)
    for logp, root in zip(reference.numpy(), found.tolist(), strict=True):

        def gap(b: float, logp=logp) -> float:
            return stats.entropy(np.exp(-b * (logp - logp.min()))) - stats.entropy(np.exp(logp))

        assert root == pytest.approx(brentq(gap, 1e-6, 8.0), abs=1e-6)
    assert updates.threshold(torch.tensor([[0.2, 0.8]], dtype=torch.float64).log()).item() == pytest.approx(1.0)


def test_the_third_order_law_needs_the_third_cumulant():
    """Where f is symmetric under U neither direction has the higher entropy; by the cumulants of the whole series."""
    f = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64)
    up, down = ((s * f).log_softmax(-1) for s in (0.7, -0.7))
    assert float(entropy(up) - entropy(down)) == pytest.approx(0.0, abs=1e-12)
    g = torch.tensor([-1.0, -1.0, -1.0, 3.0], dtype=torch.float64)
    up, down = ((0.02 * g).log_softmax(-1), (-0.02 * g).log_softmax(-1))
    third = float((g**3).mean())  # its mean is 0
    assert float(entropy(up) - entropy(down)) == pytest.approx(-2 / 3 * third * 0.02**3, rel=0.01)
