"""Size and direction of an update, against enumeration and numpy."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from diffinfo.cli import UserError
from diffinfo.config.values import Computation
from diffinfo.entropy import update
from diffinfo.intervals import correlation
from diffinfo.measures import update as read
from diffinfo.models.folders import load_model
from diffinfo.tables import artifacts
from diffinfo.world.training import start

PROMPTS, STRINGS = 300, 9


def worlds(size, seed=1):
    """log pi_ref and log pi of every string of each prompt, and the strings' lengths; lengths and l go together."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(PROMPTS, STRINGS))
    reference -= np.log(np.exp(reference).sum(1, keepdims=True))
    tokens = rng.integers(1, 9, size=(PROMPTS, STRINGS))
    policy = reference + size * (rng.normal(size=(PROMPTS, STRINGS)) + 0.3 * tokens - 0.4 * reference)
    return policy - np.log(np.exp(policy).sum(1, keepdims=True)), reference, tokens


def drawn(policy, reference, tokens, by, samples, rng):
    rows = []
    for p in range(len(policy)):
        for k in rng.choice(STRINGS, samples, p=np.exp(by[p])):
            rows.append((f"p{p}", policy[p, k], reference[p, k], tokens[p, k]))
    return pd.DataFrame(rows, columns=["prompt_id", "policy", "reference", "tokens"])


def test_intervals_contain_the_exact_values_as_often_as_they_say():
    """KL both ways, change of entropy, covariance: 300 repetitions, each with its own samples and prompts."""
    policy, reference, tokens = worlds(0.5)
    p, r = np.exp(policy), np.exp(reference)
    ratio = policy - reference
    truth = {
        "kl_reference": -(r * ratio).sum(1),
        "kl_policy": (p * ratio).sum(1),
        "entropy_change": (r * reference).sum(1) - (p * policy).sum(1),
        "covariance": (r * ratio * reference).sum(1) - (r * ratio).sum(1) * (r * reference).sum(1),
    }
    rng, inside, middles = np.random.default_rng(2), [], []
    for _ in range(300):
        pick = rng.integers(PROMPTS, size=120)
        world = (policy[pick], reference[pick], tokens[pick])
        own, base = (drawn(*world, by, 4, rng) for by in (world[0], world[1]))
        found = read(update.by_prompt(own, base.sample(frac=1, random_state=0)))
        inside.append({name: found[name].low <= values.mean() <= found[name].high for name, values in truth.items()})
        middles.append({name: found[name].value for name in truth})
    shares, means = pd.DataFrame(inside).mean(), pd.DataFrame(middles).mean()
    for name, values in truth.items():
        assert 0.93 <= shares[name] <= 0.97
        assert means[name] == pytest.approx(values.mean(), abs=0.02)
    assert truth["covariance"].mean() < -0.1


def test_each_row_is_numpys():
    policy, reference, tokens = worlds(0.7)
    rng = np.random.default_rng(3)
    own, base = (drawn(policy[:5], reference[:5], tokens[:5], by, 6, rng) for by in (policy[:5], reference[:5]))
    table = update.by_prompt(own, base).set_index("prompt_id")
    for name, rows in base.groupby("prompt_id"):
        ratio, mine, row = (rows.policy - rows.reference).to_numpy(), own[own.prompt_id == name], table.loc[name]
        assert row.samples == 6
        assert row.kl_reference == pytest.approx(-ratio.mean())
        assert row.kl_policy == pytest.approx((mine.policy - mine.reference).mean())
        assert row.entropy_change == pytest.approx(rows.reference.mean() - mine.policy.mean())
        assert row.covariance == pytest.approx(np.cov(ratio, rows.reference)[0, 1])
        assert row.ratio_tokens == pytest.approx(5 * np.cov(ratio, rows.tokens)[0, 1])
        assert (row.ratio_ratio, row.tokens_tokens) == pytest.approx((5 * ratio.var(ddof=1), 5 * rows.tokens.var()))


def test_a_pooled_correlation_is_pearsons_and_its_interval_the_bootstraps():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 4))
    y = 0.6 * x + rng.normal(size=x.shape) * rng.uniform(0.2, 2, size=(400, 1))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    xy, xx, yy = (pd.Series((a * b).sum(1)) for a, b in ((x, y), (x, x), (y, y)))
    found = correlation(xy, xx, yy)
    assert found.value == pytest.approx(stats.pearsonr(x.ravel(), y.ravel()).statistic)
    picks = rng.integers(400, size=(2000, 400))
    again = [xy[i].sum() / math.sqrt(xx[i].sum() * yy[i].sum()) for i in picks]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=0.012)
    assert math.isnan(correlation(xy * 0, xx * 0, yy).value)
    assert math.isinf(correlation(xy[:1], xx[:1], yy[:1]).high)


def samples(path, seed, count, temperature=1.0, prompts=3, logp=-1.0):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "benchmark": "", "epoch": 0, "prompt_id": f"p{i}", "sample": s, "messages": [{"role": "user", "content": "u"}],
            "prompt_token_ids": [1, 5 + i], "completion": "x", "token_ids": rng.integers(12, 99, 1 + s).tolist(), "logp": logp,
            "finish_reason": "length",
        }
        for i in range(prompts) for s in range(count)
    ]  # fmt: skip
    artifacts.write(path, pd.DataFrame(rows), "completions", decoding={"temperature": temperature, "top_p": 1.0})
    return pd.DataFrame(rows)


def test_each_models_samples_are_scored_by_the_other(tmp_path):
    for seed, name in enumerate(("policy", "reference")):
        start(tmp_path / name, "mistral", hidden=32, layers=1, seed=seed)
    own, base = samples(tmp_path / "own", 1, 3, logp=-2.0), samples(tmp_path / "base", 2, 3, logp=-3.0)
    common = {"settings": Computation(attention="sdpa", micro_batch_tokens=64), "out": tmp_path / "u.parquet"}
    common["samples"] = tmp_path / "s.parquet"
    both = {"policy": tmp_path / "policy", "reference": tmp_path / "reference"}
    update.main(**both, policy_samples=tmp_path / "own", reference_samples=tmp_path / "base", **common)
    table = artifacts.read(tmp_path / "u.parquet", "update").set_index("prompt_id")
    scores = {}
    for name, rows in (("policy", base), ("reference", own)):
        network = load_model(both[name], "eager").eval()
        values = []
        for row in rows.itertuples():
            with torch.no_grad():
                logits = network(torch.tensor([row.prompt_token_ids + row.token_ids])).logits[0, 1:-1]
            logp = logits.double().log_softmax(-1).gather(1, torch.tensor(row.token_ids)[:, None])
            values.append(float(logp.sum()))
        scores[name] = pd.Series(values)
    kept = artifacts.read(tmp_path / "s.parquet", "update_samples")
    for by_policy, rows, own_logp in ((True, own, -2.0), (False, base, -3.0)):
        part = kept[kept.by_policy == by_policy].reset_index(drop=True)
        assert (part.prompt_id.tolist(), part["sample"].tolist()) == (rows.prompt_id.tolist(), rows["sample"].tolist())
        mine, other = ("policy", "reference") if by_policy else ("reference", "policy")
        assert (part[mine] == own_logp).all()
        assert part[other].tolist() == pytest.approx(scores[other].tolist(), abs=1e-4)
        assert part.tokens.tolist() == rows.token_ids.map(len).tolist()
    for prompt in ("p0", "p1", "p2"):
        at = own.prompt_id == prompt
        assert table.loc[prompt, "kl_reference"] == pytest.approx((-3.0 - scores["policy"][at]).mean(), abs=1e-4)
        assert table.loc[prompt, "kl_policy"] == pytest.approx((-2.0 - scores["reference"][at]).mean(), abs=1e-4)
        assert table.loc[prompt, "entropy_change"] == pytest.approx(-3.0 + 2.0)
    samples(tmp_path / "greedy", 1, 3, temperature=0.0)
    with pytest.raises(UserError, match="a divergence needs temperature 1"):
        update.main(**both, policy_samples=tmp_path / "greedy", reference_samples=tmp_path / "base", **common)
    for count, prompts in ((1, 3), (2, 3), (3, 2)):
        samples(tmp_path / "other", 1, count, prompts=prompts)
        second = tmp_path / ("other" if count == 1 else "base")
        with pytest.raises(UserError, match="must answer the same prompts, each at least twice"):
            update.main(**both, policy_samples=tmp_path / "other", reference_samples=second, **common)


def test_several_epochs_are_measured_on_the_first_prompts(tmp_path):
    """Each epoch's samples with its own model, pi_ref's samples of the same prompts with each; rows are those of one epoch."""
    start(tmp_path / "models/epoch-1", "mistral", hidden=32, layers=1, seed=0)
    start(tmp_path / "models/epoch-2", "mistral", hidden=32, layers=1, seed=1)
    start(tmp_path / "reference", "mistral", hidden=32, layers=1, seed=2)
    base = samples(tmp_path / "base", 3, 3, prompts=5, logp=-3.0)
    own = pd.concat(
        [samples(tmp_path / "one", 4, 3, prompts=2, logp=-2.0), samples(tmp_path / "two", 5, 3, prompts=2, logp=-4.0)]
    ).assign(epoch=[1] * 6 + [2] * 6)
    artifacts.write(tmp_path / "own", own, "completions", decoding={"temperature": 1.0, "top_p": 1.0})
    settings = Computation(attention="sdpa", micro_batch_tokens=64)
    update.main(
        policy=tmp_path / "models", reference=tmp_path / "reference", policy_samples=tmp_path / "own", epochs=[1, 2],
        reference_samples=tmp_path / "base", settings=settings, out=tmp_path / "path.parquet",
    )  # fmt: skip
    path = artifacts.read(tmp_path / "path.parquet", "path")
    assert path[["epoch", "prompt_id"]].to_numpy().tolist() == [[e, p] for e in (1, 2) for p in ("p0", "p1")]
    decoding = {"temperature": 1.0, "top_p": 1.0}
    artifacts.write(tmp_path / "base", base[base.prompt_id < "p2"], "completions", decoding=decoding)
    for epoch, name in ((1, "one"), (2, "two")):
        update.main(
            policy=tmp_path / f"models/epoch-{epoch}", reference=tmp_path / "reference", policy_samples=tmp_path / name,
            reference_samples=tmp_path / "base", settings=settings, out=tmp_path / "u.parquet",
        )  # fmt: skip
        one = artifacts.read(tmp_path / "u.parquet", "update")
        columns = list(one.columns.drop("prompt_id"))
        found = path[path.epoch == epoch][columns].to_numpy()
        assert found == pytest.approx(one[columns].to_numpy(), abs=1e-5)
    with pytest.raises(UserError, match="must answer the same prompts"):  # an epoch without samples
        update.main(
            policy=tmp_path / "models", reference=tmp_path / "reference", policy_samples=tmp_path / "own", epochs=[3],
            reference_samples=tmp_path / "base", settings=settings, out=tmp_path / "path.parquet",
        )  # fmt: skip
