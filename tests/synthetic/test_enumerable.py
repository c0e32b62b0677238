"""What the language models of the laboratory are made of, and the two experiments on them, at a toy size."""

import math

import pytest
import torch

from diffinfo import artifacts
from diffinfo.cli import UserError
from diffinfo.synthetic import did_proxy, rejected_sampling
from diffinfo.synthetic.distributions import did, entropy, js
from diffinfo.synthetic.ensemble import all_responses
from diffinfo.synthetic.enumerable import POLICIES, build, dpo_loss


@pytest.fixture(scope="module")
def worlds():
    return build([1, 2], test_prompts=4, batch=16, fit_steps=60, steps=30)


def test_training_moves_the_policies_towards_the_reward(worlds):
    reference = worlds.exact(worlds.reference)
    assert (entropy(reference) < math.log(3906) - 1).all()
    listed = all_responses()
    for world, teacher in enumerate(worlds.teachers):
        prompts = worlds.test_prompts[:, None].expand(-1, len(listed), -1)
        reward = teacher.reward(prompts, listed.expand(len(prompts), -1, -1))
        before = (reference[world].exp() * reward).sum(-1).mean()
        for name in POLICIES:
            policy = worlds.exact(worlds.policies[name])[world]
            assert (policy.exp() * reward).sum(-1).mean() > before, name


def test_test_prompts_are_unseen(worlds):
    train = {tuple(prompt) for prompt in worlds.train_prompts.tolist()}
    assert not train & {tuple(prompt) for prompt in worlds.test_prompts.tolist()}


def test_the_first_dpo_loss_is_ln_2(worlds):
    from diffinfo.synthetic.ensemble import log_probability

    prompts = worlds.test_prompts.expand(2, -1, -1)
    pairs = all_responses()[torch.arange(8) * 400].expand(2, -1, -1)
    base = log_probability(worlds.reference, torch.cat([prompts, prompts], 1), pairs)
    assert dpo_loss(worlds.reference, base, prompts, pairs, 0.7).item() == pytest.approx(2 * math.log(2), abs=1e-5)


def test_importance_sampling_is_exact_from_q_itself_and_consistent_from_elsewhere():
    generator = torch.Generator().manual_seed(0)
    target, reference = torch.randn(2, 50, generator=generator, dtype=torch.float64).log_softmax(-1)
    ratio, q = target - reference, did(target, reference)
    ids = torch.multinomial(q.exp(), 200_000, replacement=True, generator=generator)
    assert did_proxy.weighted_entropy(ratio[ids], q[ids]).item() == pytest.approx(entropy(q).item(), abs=0.02)
    flat = torch.full_like(q, -math.log(50))
    ids = torch.randint(50, (200_000,), generator=generator)
    assert did_proxy.weighted_entropy(ratio[ids], flat[ids]).item() == pytest.approx(entropy(q).item(), abs=0.02)
    assert abs(did_proxy.weighted_entropy(ratio[ids], q[ids]).item() - entropy(q).item()) > 0.1  # the wrong proposal


def test_the_worth_of_a_sample_is_that_of_its_weights():
    generator = torch.Generator().manual_seed(0)
    q, other = torch.randn(2, 50, generator=generator, dtype=torch.float64).log_softmax(-1)
    assert did_proxy.effective_share(q, q).item() == pytest.approx(1.0)
    ids = torch.multinomial(other.exp(), 200_000, replacement=True, generator=generator)
    weights = (q - other)[ids].exp()
    counted = (weights.sum().square() / weights.square().sum() / len(ids)).item()
    assert did_proxy.effective_share(q, other).item() == pytest.approx(counted, rel=0.05)


def test_the_token_ratio_chain_is_a_distribution_near_the_did(worlds):
    reference, policy = worlds.exact(worlds.reference), worlds.policies["dpo"]
    chain = worlds.token_ratio(policy)
    assert torch.allclose(chain.exp().sum(-1), torch.ones(2, 4, dtype=torch.float64), atol=1e-6)
    q = did(worlds.exact(policy), reference)
    assert js(q, chain).mean() < js(q, worlds.exact(policy)).mean()


def test_worst_of_n_is_what_sampling_gives():
    generator = torch.Generator().manual_seed(4)
    reference = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    reward = torch.tensor([0.3, -1.0, 0.3, 2.0, 0.0, 1.0], dtype=torch.float64)
    exact = rejected_sampling.worst_of(reference, reward, 3).exp()
    assert exact.sum().item() == pytest.approx(1.0)
    draws = torch.multinomial(reference.exp(), 300_000, replacement=True, generator=generator).view(-1, 3)
    order = reward.argsort(stable=True).argsort()
    worst = draws.gather(1, order[draws].argmin(1, keepdim=True)).flatten()
    assert torch.allclose(torch.bincount(worst, minlength=6) / 1e5, exact.float(), atol=6e-3)


def test_did_proxy_table(tmp_path, monkeypatch):
    monkeypatch.setattr(did_proxy, "build", lambda seeds: build(seeds, 4, 16, 40, 20))
    did_proxy.main(tmp_path / "did_proxy.parquet", seeds=[3], steps=[8, 24])
    table = artifacts.read(tmp_path / "did_proxy.parquet", "did_proxy")
    assert set(table.estimator) == {"proxy", "proxy-snis", "policy-is", "token-ratio-is"}
    proxies = table[table.estimator == "proxy"]
    assert len(proxies) == 2 * 2 * 3  # policies, decodings; fresh pairs at both marks, repeated ones where any repeat
    assert set(zip(proxies.steps, proxies.pairs, strict=True)) == {(8, 8 * 32), (24, 24 * 32), (24, 16 * 32)}
    assert not proxies.duplicated("estimate").any()  # nothing counted twice: intervals would be too narrow
    assert proxies.beta_accuracy.between(0, 1).all()
    chain = table[table.estimator == "token-ratio-is"]
    assert chain.tied.isna().all()
    assert chain.effective.between(0, 1).all()
    last = table[table.cost > 6000]
    errors = (last.estimate - last.exact).abs().groupby(last.estimator).mean()
    assert errors["token-ratio-is"] < 0.2 < errors["proxy"]


def test_rejected_sampling_table(tmp_path, monkeypatch):
    monkeypatch.setattr(rejected_sampling, "build", lambda seeds, test_prompts: build(seeds, test_prompts, 16, 40, 20))
    rejected_sampling.main(tmp_path / "rejected_sampling.parquet", seeds=[3], pairs=[256])
    table = artifacts.read(tmp_path / "rejected_sampling.parquet", "rejected_sampling")
    optimum = table[table.pairs == 0].set_index("rejected").js_target
    assert optimum["ideal (Eq. 1)"] < 1e-12
    assert optimum.drop("ideal (Eq. 1)").min() > 1e-4
    assert "best and worst of 4" not in optimum.index  # certain labels have no optimum
    assert len(table[table.pairs == 256]) == 5


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [(did_proxy, {"steps": [0, 5]}), (rejected_sampling, {"pairs": [50]}), (rejected_sampling, {"pairs": [0]})],
)
def test_wrong_options_are_refused(tmp_path, stage, wrong):
    with pytest.raises(UserError):
        stage.main(tmp_path / "table.parquet", **wrong)
