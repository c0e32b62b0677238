"""What the language models of the laboratory are made of, and the two experiments on them, at a toy size."""

import math

import numpy as np
import pytest
import torch

from diffinfo.cli import UserError
from diffinfo.synthetic import did_proxy, rejected_sampling
from diffinfo.synthetic.distributions import did, entropy, js, kl
from diffinfo.synthetic.ensemble import all_responses, copies, decode, log_probability, row_of
from diffinfo.synthetic.enumerable import POLICIES, build, dpo_loss
from diffinfo.tables import artifacts


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


def test_dpo_loss_is_that_of_its_pairs(worlds):
    prompts, listed = worlds.test_prompts.expand(2, -1, -1), all_responses()
    pairs = listed[torch.arange(8) * 400 + 3].expand(2, -1, -1)
    base = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for world in range(2):
        logp = log_probability(worlds.policies["dpo"], torch.cat([prompts, prompts], 1), pairs)[world] - base[world]
        expected += sum(-math.log(torch.sigmoid(0.7 * (logp[i] - logp[i + 4])).item()) for i in range(4)) / 4
    assert dpo_loss(worlds.policies["dpo"], base, prompts, pairs, 0.7).item() == pytest.approx(expected, rel=1e-5)


def test_rewards_end_with_the_response(worlds):
    teacher, prompt = worlds.teachers[0], worlds.test_prompts[:1]
    ended = torch.tensor([[1, 5, 2, 3, 4]])  # 5 is the end; what follows earns nothing
    liked = teacher.liked[prompt[0, 0]]
    assert teacher.reward(prompt, ended).item() == pytest.approx((liked[1] + liked[5]).item(), abs=1e-6)
    assert teacher.reward(prompt, torch.tensor([[1, 1, 2, 0, 4]])).item() == pytest.approx(
        (2 * liked[1] + liked[2] + liked[0] + liked[4]).item(), abs=1e-6
    )


def test_token_ratios_multiply_along_the_response(worlds):
    """By hand for some responses: the product of the DIDs of both models' next-token distributions."""
    from diffinfo.synthetic.ensemble import END, next_token

    chain, prompt = worlds.token_ratio(worlds.policies["dpo"]), worlds.test_prompts[2].expand(2, 1, -1)
    for number in (0, 17, 400, 3000, 3905):
        response = all_responses()[number].expand(2, 1, -1)
        both = [next_token(w, prompt, response[..., :-1]).double() for w in (worlds.policies["dpo"], worlds.reference)]
        total = torch.zeros(2, dtype=torch.float64)
        for place, token in enumerate(response[0, 0].tolist()):
            ratio = (both[0] - both[1])[:, 0, place].exp()
            total += (ratio[:, token] / ratio.sum(-1)).log()
            if token == END:
                break
        assert torch.allclose(chain[:, 2, number], total, atol=1e-5)


def by_torch(worlds, world, batches, learning_rate):
    """A member trained alone by torch's RMSprop on (prompts, pairs, base, beta) batches; its weights."""
    policy = copies(worlds.reference, [world])
    optimiser = torch.optim.RMSprop(policy.values())
    for step, (prompts, pairs, base, beta) in enumerate(batches, start=1):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step)
        optimiser.zero_grad()
        dpo_loss(policy, base, prompts[None], pairs[None], beta).backward()
        optimiser.step()
    return {name: value.detach() for name, value in policy.items()}


def test_proxies_are_trained_on_their_own_pairs_in_order(worlds):
    everyone = did_proxy.members(2)
    prompts, pairs = did_proxy.preferences(worlds, everyone, 20, torch.Generator().manual_seed(1))
    for i, member in enumerate(everyone):  # greedy responses follow from the prompt: chosen by pi, rejected by pi_ref
        if member.decode == "greedy":
            for side, weights in enumerate((worlds.policies[member.policy], worlds.reference)):
                asked = prompts[i].expand(2, -1, -1)
                answers = decode(weights, asked, torch.Generator(), torch.tensor([True, True]))[member.world]
                assert torch.equal(pairs[i, side], answers)
        else:
            assert len({tuple(row) for row in pairs[i, 0].tolist()}) > 50
    marked = did_proxy.train(worlds, everyone, prompts, pairs, 20, 2e-3, [18, 20])
    assert set(marked) == {18, 20}
    for i in (0, 3, 6, 9):
        member, batches = everyone[i], []
        for step in range(18):
            at = step % 16 if member.repeated else step
            rows = slice(32 * at, 32 * at + 32)
            batches.append((prompts[i, rows], torch.cat([pairs[i, 0, rows], pairs[i, 1, rows]]), 0.0, 1.0))
        alone = by_torch(worlds, member.world, batches, lambda step: 2e-3 * min(1, step / 20))
        for name, value in alone.items():
            assert torch.allclose(marked[18][name][i], value[0], atol=1e-3), (member, name)


def test_estimates_costs_and_entropies_of_the_proxys_table(monkeypatch):
    made = build([3, 4], 4, 16, 40, 20)
    monkeypatch.setattr(did_proxy, "build", lambda seeds: made)
    table = did_proxy.experiment([3, 4], [8, 24], 1e-3)
    m, everyone, generator = 4, did_proxy.members(2), torch.Generator().manual_seed(3)
    prompts, pairs = did_proxy.preferences(made, everyone, 24, generator)
    exact = {name: made.exact(weights) for name, weights in {"reference": made.reference, **made.policies}.items()}
    compared = 0
    for mark, proxies in did_proxy.train(made, everyone, prompts, pairs, 24, 1e-3, [8, 24]).items():
        asked = made.test_prompts.repeat_interleave(32, 0).expand(len(everyone), -1, -1)
        samples = decode(proxies, asked, generator)
        logp = log_probability(proxies, asked, samples).double().view(-1, m, 32)
        for i, member in enumerate(everyone):
            rows = table[
                (table.steps == mark) & (table.policy == member.policy) & (table.decode == member.decode)
                & (table.seed == 3 + member.world) & (table.pairs == 32 * min(mark, 16 if member.repeated else mark))
            ].set_index("estimator")  # fmt: skip
            if member.repeated and mark <= 16:
                continue
            row = rows.loc["proxy"]
            assert row.estimate == pytest.approx(-logp[i, :, :4].mean().item(), abs=1e-4)  # the recipe's four samples
            ratio = (exact[member.policy] - exact["reference"])[member.world].gather(-1, row_of(samples[i]).view(m, 32))
            x, y = ratio[:, :4].numpy(), logp[i, :, :4].numpy()
            if (np.ptp(x, axis=1) > 0).all():  # a prompt whose samples are all the same has no slope
                compared += 1
                assert row.beta_accuracy == np.mean([np.polyfit(*one, 1)[0] >= 0 for one in zip(x, y, strict=True)])
            assert row.cost == 6 * 32 * mark + 2 * row.pairs + 4 * m  # forward and backward, making pairs, measuring
            assert rows.loc["proxy-snis"].cost == row.cost + (3 * 32 - 4) * m  # more samples, through all three models
            seen = zip(pairs[i, 0, : row.pairs].tolist(), pairs[i, 1, : row.pairs].tolist(), strict=True)
            assert row.tied == pytest.approx(sum(w == lost for w, lost in seen) / row.pairs)
    assert compared > 4
    for row in table.itertuples():
        policy, reference = exact[row.policy][row.seed - 3], exact["reference"][row.seed - 3]
        assert row.policy_entropy == pytest.approx(-(policy.exp() * policy).sum(-1).mean().item())
        assert row.reference_entropy == pytest.approx(-(reference.exp() * reference).sum(-1).mean().item())
        assert row.exact == pytest.approx(entropy(did(policy, reference)).mean().item())
    rivals = table[table.steps == 0]
    assert set(rivals.pairs) == {(8 * 32 * mark + 4 * m) // (2 * m) * m for mark in (8, 24)}  # of the proxy's cost
    assert (rivals.cost == 2 * rivals.pairs).all()


def test_practices_are_equation_1_and_the_worst_of_four():
    generator = torch.Generator().manual_seed(5)
    target, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    found = {name: logp.exp() for name, logp in rejected_sampling.practices(target, reference).items()}
    ratio, p = (reference - target).exp(), reference.exp()
    assert torch.allclose(found["ideal (Eq. 1)"], p * ratio / (p * ratio).sum())
    assert torch.allclose(found["ideal, half beta"], p * ratio.sqrt() / (p * ratio.sqrt()).sum())
    assert torch.allclose(found["reference"], p)
    worst = torch.zeros(5, dtype=torch.float64)
    for four in torch.cartesian_prod(*[torch.arange(5)] * 4):
        worst[max(four.tolist(), key=lambda y: ratio[y])] += p[four].prod()
    assert torch.allclose(found["worst of 4"], worst)


def test_pairs_of_every_practice_are_drawn_from_its_two_distributions():
    generator = torch.Generator().manual_seed(6)
    target, reference = torch.randn(2, 1, 2, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    pairs = rejected_sampling.sample_pairs(target, reference, 40_000, generator)
    for name, rejected in rejected_sampling.practices(target, reference).items():
        for rows, logp in zip(pairs[name], (reference, rejected), strict=True):
            for prompt in range(2):
                counted = torch.bincount(rows[0, prompt], minlength=6) / 40_000
                assert torch.allclose(counted.double(), logp[0, prompt].exp(), atol=0.015), name
    reward = target - reference
    best, worst = (reward.gather(-1, rows) for rows in pairs[rejected_sampling.BEST_AND_WORST])
    assert (best >= worst).all()
    assert (best > worst).double().mean() > 0.5
    highest = reward.argmax(-1)[0, 0]
    share = (pairs[rejected_sampling.BEST_AND_WORST][0][0, 0] == highest).double().mean().item()
    assert share == pytest.approx(
        1 - (1 - reference[0, 0, highest].exp().item()) ** 4, abs=0.015
    )  # one of four is enough


def test_rejected_sampling_trains_on_its_pairs_in_order_and_measures_both_divergences():
    made = build([3], 16, 16, 40, 20)
    target, reference = made.exact(made.policies["dpo"]), made.exact(made.reference)
    frame = rejected_sampling.train(made, target, reference, [128, 384], 3e-3, torch.Generator().manual_seed(7))
    data = rejected_sampling.sample_pairs(target, reference, 24, torch.Generator().manual_seed(7))
    listed, asked = all_responses(), made.test_prompts.repeat_interleave(8, 0)
    for name, (w, lost) in data.items():
        batches = []
        for step in range(3):
            ids = [side[0, :, 8 * step : 8 * step + 8] for side in (w, lost)]  # eight pairs of each prompt
            base = torch.cat([reference[0].gather(-1, i).flatten() for i in ids])[None].float()
            batches.append((asked, torch.cat([listed[i].flatten(0, 1) for i in ids]), base, 1.0))
        policy = by_torch(made, 0, batches, lambda step: 3e-3 / math.sqrt(1 + step / 25))
        exact = made.exact(policy)[0]
        row = frame[(frame.rejected == name) & (frame.pairs == 384)].iloc[0]
        assert row.js_target == pytest.approx(js(target[0], exact).mean().item(), rel=2e-3), name
        assert row.kl_target == pytest.approx(kl(target[0], exact).mean().item(), rel=2e-3), name
