import pytest
import torch

from diffinfo import artifacts
from diffinfo.synthetic import claim, margins, theorems
from diffinfo.synthetic.checks import Check, experiment
from diffinfo.synthetic.distributions import did, entropy

STATED = [*theorems.CHECKS, *margins.CHECKS]
HOLDING = [check for check in STATED if check.broken]
READ_LITERALLY = [check for check in STATED if not check.broken]


def measured(check: Check, broken: bool, seed: int = 5) -> float:
    return check.measure(torch.Generator().manual_seed(seed), broken)


@pytest.mark.parametrize("check", HOLDING, ids=lambda c: f"{c.statement}: {c.quantity}")
def test_a_theorem_holds_and_its_check_fails_when_the_condition_is_broken(check):
    assert all(measured(check, broken=False, seed=seed) <= check.tolerance for seed in (5, 6, 7))
    assert measured(check, broken=True) > max(10 * check.tolerance, 1e-3) or measured(check, True) > 1.4


@pytest.mark.parametrize("check", READ_LITERALLY, ids=lambda c: c.statement)
def test_a_statement_read_literally_has_counter_examples(check):
    assert measured(check, broken=False) > check.tolerance


@pytest.mark.parametrize("check", [c for c in claim.CLAIMS if c.broken], ids=lambda c: c.quantity)
def test_a_claim_fails_for_the_opposite_change(check):
    assert measured(check, broken=True) > 0.5


def test_every_statement_of_the_paper_has_a_row():
    rows = " ".join(check.statement for check in [*STATED, *claim.CLAIMS])
    for name in ("2.1", "D.1", "3.2", "3.3", "3.4 (if)", "3.4 (only if)", "3.5", "Appendix G", "L.1 (if)", "L.1 (only if)",
                 "Appendix E", "Claim 4.1 (reinforcing)", "Claim 4.1 (smoothing)"):  # fmt: skip
        assert name in rows


def test_mild_reinforcing_always_raises_the_entropy_of_the_did():
    reference = claim.normal_reference(torch.Generator().manual_seed(0))
    for tau in (0.55, 0.75, 0.95):
        policy = claim.temper(tau)(reference)
        assert (entropy(policy) < entropy(reference)).all()  # it does reinforce
        assert claim.contradictions(reference, policy, reinforcing=True) == 1.0
    strong = claim.temper(0.25)(reference)
    assert claim.contradictions(reference, strong, reinforcing=True) == 0.0
    assert torch.allclose(did(claim.temper(0.5)(reference), reference), reference)


def test_the_table_says_both_measures(tmp_path):
    rows = experiment(1, [check for check in STATED if check.statement in ("Lemma D.1", "Theorem 3.2")])
    artifacts.write(tmp_path / "theorems.parquet", rows, "theorems", seed=1)
    table = artifacts.read(tmp_path / "theorems.parquet", "theorems")
    assert table.holds.all()
    assert (table.broken_value > table.tolerance).all()
