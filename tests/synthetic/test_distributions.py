import math

import pytest
import torch

from diffinfo.synthetic.distributions import did, entropy, fitted, ideal_rejected, js, kl, tempered

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=torch.float64)


def test_divergences_by_hand():
    p, q = torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.9, 0.1]).double().log()
    assert kl(p, q).item() == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    middle = torch.tensor([0.7, 0.3]).double().log()
    assert js(p, q).item() == pytest.approx((kl(p, middle) + kl(q, middle)).item() / 2)
    assert entropy(p).item() == pytest.approx(math.log(2))


def test_js_is_ln_2_for_disjoint_and_zero_for_equal_distributions():
    p, q = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log()
    assert js(p, q).item() == pytest.approx(math.log(2))
    assert js(p, p).item() == 0.0


def test_section_35_aligns_both_dids_at_beta_1():
    world = tempered(LOGITS, 4.0)
    assert torch.allclose(did(world.reference, world.rejected), world.did)
    assert torch.allclose(world.rejected, ideal_rejected(world.target, world.reference, 1.0))
    assert not torch.allclose(world.rejected, ideal_rejected(world.target, world.reference, 0.5))


def test_the_did_of_tau_one_half_is_the_reference():
    world = tempered(LOGITS, 0.5)
    assert torch.allclose(world.did, world.reference)


def test_pairs_put_winners_in_rows():
    world = tempered(LOGITS, 2.0)
    pairs = world.pairs()
    assert torch.allclose(pairs.sum(-1), world.reference.exp())
    assert torch.allclose(pairs.sum(-2), world.rejected.exp())


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5])
def test_dpo_fits_the_target_from_ideal_rejected_responses(beta):
    world = tempered(LOGITS, 3.0)
    rejected = ideal_rejected(world.target, world.reference, beta)
    assert js(world.target, fitted(world.reference, rejected, world.reference, beta)) < 1e-15
    assert js(world.target, fitted(world.reference, rejected, world.reference, 2 * beta)) > 1e-4
