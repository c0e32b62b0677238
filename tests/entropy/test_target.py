"""Distance from pi*, against exact sums over enumerable strings and numpy."""

import numpy as np
import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.entropy import target
from diffinfo.intervals import slope
from diffinfo.measures import target as read
from diffinfo.tables import artifacts
from diffinfo.world.language import Prompt, reward

PROMPTS, STRINGS, SCALE = 300, 9, 1.5


def normal(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def worlds(towards=0.6, noise=0.5, seed=1):
    """log pi, log pi_ref and R of every string of each prompt; pi goes ``towards`` the optimum, with noise."""
    rng = np.random.default_rng(seed)
    reference, rewards = normal(rng.normal(size=(PROMPTS, STRINGS))), rng.normal(size=(PROMPTS, STRINGS))
    policy = normal(reference + towards * SCALE * rewards + noise * rng.normal(size=(PROMPTS, STRINGS)))
    return policy, reference, rewards


def drawn(policy, reference, rewards, by, samples, rng):
    rows = [
        (f"p{p}", policy[p, k], reference[p, k], rewards[p, k])
        for p in range(len(policy))
        for k in rng.choice(STRINGS, samples, p=np.exp(by[p]))
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "policy", "reference", "reward"])


def exact(policy, reference, rewards):
    """Of each prompt, by sums over all strings."""
    p, r, goal = np.exp(policy), np.exp(reference), SCALE * rewards
    optimum = normal(reference + goal)
    ratio = policy - reference
    ratio = ratio - (r * ratio).sum(1, keepdims=True)
    goal = goal - (r * goal).sum(1, keepdims=True)
    return {
        "target_reward_gain": ((p - r) * rewards).sum(1),
        "target_nearer": (r * (reference - optimum)).sum(1) - (p * (policy - optimum)).sum(1),
        "target_distance": (p * (policy - optimum)).sum(1),
        "log_z": np.log((r * np.exp(SCALE * rewards)).sum(1)),
        "products": np.stack([(r * ratio * goal).sum(1), (r * ratio**2).sum(1), (r * goal**2).sum(1)]),
    }


def test_intervals_contain_the_exact_values_as_often_as_they_say():
    world = worlds()
    truth = exact(*world)
    xy, xx, yy = truth.pop("products").mean(1)
    means = {name: values.mean() for name, values in truth.items()}
    means |= {"target_slope": xy / yy, "target_correlation": xy / np.sqrt(xx * yy)}
    rng, inside, found = np.random.default_rng(2), [], []
    for _ in range(300):
        pick = rng.integers(PROMPTS, size=120)
        part = [values[pick] for values in world]
        own, base = (drawn(*part, by, 4, rng) for by in part[:2])
        e = read(target.by_prompt(own.sample(frac=1, random_state=0), base, SCALE))
        inside.append({name: e[name].low <= means[name] <= e[name].high for name in e})
        found.append({name: e[name].value for name in e})
    shares, middles = pd.DataFrame(inside).mean(), pd.DataFrame(found).mean()
    for name in ("target_reward_gain", "target_nearer", "target_slope", "target_correlation"):
        assert 0.93 <= shares[name] <= 0.97
        assert middles[name] == pytest.approx(means[name], abs=0.02)
    # a lower bound that many samples reach
    assert means["target_distance"] - 0.5 < middles["target_distance"] < means["target_distance"]
    own, base = (drawn(*world, by, 400, rng) for by in world[:2])
    rows = target.by_prompt(own, base, SCALE)
    assert rows.distance.mean() == pytest.approx(means["target_distance"], abs=0.01)
    assert rows.log_z.mean() == pytest.approx(means["log_z"], abs=0.005)


def test_the_optimum_has_slope_and_correlation_one_and_no_distance():
    policy, reference, rewards = worlds(towards=1, noise=0)
    rng = np.random.default_rng(3)
    own, base = (drawn(policy, reference, rewards, by, 8, rng) for by in (policy, reference))
    rows = target.by_prompt(own, base, SCALE)
    found = read(rows)
    for name in ("target_slope", "target_correlation"):
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((1, 1, 1))
    truth = exact(policy, reference, rewards)
    assert truth["target_distance"] == pytest.approx(0, abs=1e-12)
    assert found["target_nearer"].low < truth["target_nearer"].mean() < found["target_nearer"].high
    again = read(target.by_prompt(own, base, 2 * SCALE))
    assert again["target_slope"].value == pytest.approx(0.5)


def test_each_row_is_numpys():
    rng = np.random.default_rng(4)
    world = [values[:5] for values in worlds()]
    own, base = (drawn(*world, by, 6, rng) for by in world[:2])
    table = target.by_prompt(own, base, SCALE).set_index("prompt_id")
    for name in table.index:
        mine, its, row = own[own.prompt_id == name], base[base.prompt_id == name], table.loc[name]
        both = pd.concat([mine, its])
        density = (np.exp(both.policy) + np.exp(both.reference)) / 2
        weights = np.exp(both.reference + SCALE * both.reward) / density
        assert row.samples == 6
        assert row.log_z == pytest.approx(np.log(weights.mean()))
        assert row.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / 12)
        assert row.reward_gain == pytest.approx(mine.reward.mean() - its.reward.mean())
        kl = (mine.policy - mine.reference).mean()
        assert row.nearer == pytest.approx(SCALE * row.reward_gain - kl)
        assert row.distance == pytest.approx(row.log_z + kl - SCALE * mine.reward.mean())
        covariance = np.cov(its.policy - its.reference, SCALE * its.reward) * 5
        assert (row.ratio_ratio, row.target_target) == pytest.approx(tuple(np.diag(covariance)))
        assert row.ratio_target == pytest.approx(covariance[0, 1])


def test_a_slope_is_least_squares_and_nan_where_nothing_varies():
    x, y = np.random.default_rng(5).normal(size=(2, 50, 4))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    found = slope(pd.Series((x * y).sum(1)), pd.Series((x**2).sum(1)))
    assert found.value == pytest.approx(np.polyfit(x.ravel(), y.ravel(), 1)[0])
    assert np.isnan(slope(pd.Series([0.0]), pd.Series([0.0])).value)
    assert np.isinf(slope(pd.Series([1.0]), pd.Series([2.0])).high)


def completions(path, texts, prompt):
    rows = [
        {
            "benchmark": "", "epoch": 0, "prompt_id": "p", "sample": s, "messages": [{"role": "user", "content": prompt}],
            "prompt_token_ids": [1], "completion": text, "token_ids": [2], "logp": -1.0, "finish_reason": "stop",
        }
        for s, text in enumerate(texts)
    ]  # fmt: skip
    artifacts.write(path, pd.DataFrame(rows), "completions")


def test_the_reward_is_the_languages_own_of_each_completion(tmp_path):
    prompt = Prompt("add", ("3", "4"))
    own, base = ["sure thing ! 7 .", "8 ."], ["7 .", "not sure , 7 ."]
    completions(tmp_path / "own", own, prompt.text)
    completions(tmp_path / "base", base, prompt.text)
    scored = pd.DataFrame(
        {"by_policy": [False, False, True, True], "prompt_id": "p", "sample": [1, 0, 1, 0], "tokens": 3}
        | {"policy": [-1.0, -2.0, -3.0, -4.0], "reference": [-2.0, -2.5, -1.0, -5.0]}
    )
    artifacts.write(tmp_path / "s", scored, "update_samples")
    files = {"samples": tmp_path / "s", "policy_samples": tmp_path / "own", "reference_samples": tmp_path / "base"}
    for kind in ("multifaceted", "correctness"):
        settings = target.Settings(reward=kind, sharpness=2.0, beta=0.5)
        target.main(**files, settings=settings, out=tmp_path / "t.parquet")
        (row,) = artifacts.read(tmp_path / "t.parquet", "target").itertuples()
        mine, its = ([reward(prompt, text, kind) for text in texts] for texts in (own, base))
        assert row.reward_gain == pytest.approx(np.mean(mine) - np.mean(its))
        assert row.nearer == pytest.approx(4 * row.reward_gain - np.mean([1.0, -2.0]))
        assert row.ratio_target == pytest.approx(
            4 * ((0.5 - 0.75) * (its[0] - its[1]) / 2 + 0.25 * (its[1] - its[0]) / 2)
        )
    completions(tmp_path / "base", base, "what is the meaning of life ?")
    with pytest.raises(UserError, match="not a prompt of the micro world: 'what is the meaning"):
        target.main(**files, settings=settings, out=tmp_path / "t.parquet")
    completions(tmp_path / "base", [*base, "9 ."], prompt.text)
    with pytest.raises(UserError, match="was made from other samples than"):
        target.main(**files, settings=settings, out=tmp_path / "t.parquet")
