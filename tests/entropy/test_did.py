import numpy as np
import pandas as pd
import pytest
import torch

from diffinfo.cli import UserError
from diffinfo.config.estimates import Entropy
from diffinfo.config.types import Engine
from diffinfo.entropy import did
from diffinfo.models.folders import load_model, save_model
from diffinfo.sample import complete
from diffinfo.sample.engine import Decoding
from diffinfo.tables import artifacts
from diffinfo.world.training import start
from stages import stage


def test_beta_accuracy_is_the_share_of_prompts_with_a_rising_line():
    prompts = pd.Series(["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 4)
    ratio = np.array([0, 1, 2, 3] * 3 + [5, 5, 5, 5.0])
    proxy = np.concatenate([2 * np.arange(4.0) - 9, -np.arange(4.0), [1, -1, 1, -1.0], [3, 2, 1, 0.0]])
    slopes = [np.polyfit(ratio[i : i + 4], proxy[i : i + 4], 1)[0] for i in (0, 4, 8)]
    assert did.beta_accuracy(prompts, proxy, ratio) == pytest.approx(np.mean([s >= 0 for s in slopes]))
    assert did.beta_accuracy(prompts, proxy + 100, ratio - 7) == did.beta_accuracy(prompts, proxy, ratio)
    assert np.isnan(did.beta_accuracy(prompts[12:], proxy[12:], ratio[12:]))


def test_pairs_join_by_prompt(tmp_path, completions):
    completions(tmp_path / "w.parquet", [-1.0, -2.0, -3.0])
    completions(tmp_path / "l.parquet", [-1.0, -2.0, -3.0])
    did.pairs(chosen=tmp_path / "w.parquet", rejected=tmp_path / "l.parquet", out=tmp_path / "p.parquet")
    table = artifacts.read(tmp_path / "p.parquet", "reference_logps")
    assert table.chosen_ids.tolist() == [[2], [2, 2], [2, 2, 2]]
    assert table.chosen_logp.isna().all()
    assert artifacts.provenance(tmp_path / "p.parquet")["identical"] == 1.0
    completions(tmp_path / "l.parquet", [-1.0, -2.0])
    with pytest.raises(UserError, match="answer different prompts: 2 of 3 and 2 match"):
        did.pairs(chosen=tmp_path / "w.parquet", rejected=tmp_path / "l.parquet", out=tmp_path / "p.parquet")


def test_a_prompt_whose_samples_have_one_ratio_has_no_slope():
    """Both for a policy's DID and in the laboratory, which reads the same function."""
    from diffinfo.synthetic import did_proxy

    assert did_proxy.beta_accuracy is did.beta_accuracy
    prompts = pd.Series(["tied"] * 4 + ["down"] * 4 + ["level"] * 4)
    ratio = np.array([3.7] * 4 + [0.0, 1, 2, 3] * 2)
    proxy = np.array([0.0, 1, 2, 3, 3, 2, 1, 0, 5, 5, 5, 5])
    assert did.beta_accuracy(prompts, proxy, ratio) == 0.5  # a level line counts as rising
    assert did.beta_accuracy(prompts[:8], proxy[:8], ratio[:8]) == 0.0
    assert np.isnan(did.beta_accuracy(prompts[:4], proxy[:4], ratio[:4]))


def test_beta_accuracy_is_that_of_polyfit():
    rng = np.random.default_rng(3)
    prompts = pd.Series(rng.permutation(np.repeat(np.arange(60), 4)).astype(str))
    ratio = rng.normal(0, 3, 240)
    proxy = 0.3 * ratio + rng.normal(0, 3, 240) - 40
    slopes = [np.polyfit(ratio[prompts == p], proxy[prompts == p], 1)[0] for p in prompts.unique()]
    assert 0.5 < np.mean(np.array(slopes) >= 0) < 0.9
    assert did.beta_accuracy(prompts, proxy, ratio) == np.mean(np.array(slopes) >= 0)


def test_pairs_keep_their_sides_and_their_prompts(tmp_path, completions):
    completions(tmp_path / "w.parquet", [-1.0] * 4)
    completions(tmp_path / "l.parquet", [-1.0] * 4)
    frames = {side: artifacts.read(tmp_path / f"{side}.parquet", "completions") for side in "wl"}
    for side, frame in frames.items():
        tag = ord(side)
        rows = zip(frame.prompt_id, frame["sample"], strict=True)
        frame["token_ids"] = [[tag, int(prompt[1:]), sample] for prompt, sample in rows]
        frame["prompt_token_ids"] = [[9, int(prompt[1:])] for prompt in frame.prompt_id]
    frames["l"] = frames["l"].iloc[::-1]  # in another order
    for side, frame in frames.items():
        artifacts.write(tmp_path / f"{side}.parquet", frame, "completions")
    did.pairs(chosen=tmp_path / "w.parquet", rejected=tmp_path / "l.parquet", out=tmp_path / "p.parquet")
    table = artifacts.read(tmp_path / "p.parquet", "reference_logps")
    assert len(table) == 4
    for row in table.itertuples():
        number = int(row.prompt_id[1:])
        assert row.prompt_ids == [9, number]
        assert (row.chosen_ids[:2], row.rejected_ids[:2]) == ([ord("w"), number], [ord("l"), number])
        assert row.chosen_ids[2] == row.rejected_ids[2]
    assert artifacts.provenance(tmp_path / "p.parquet")["identical"] == 0.0


def naive_logp(network, prompt, completion):
    with torch.no_grad():
        logits = network(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum().item()


def test_the_proxy_is_measured_on_prompts_that_it_was_not_trained_on(tmp_path, monkeypatch):
    """Which prompts, how often, and both numbers, by the models' own forward passes and polyfit."""
    from diffinfo.train import reference

    folders = {}
    for seed, name in enumerate(("proxy", "policy", "reference")):
        folders[name] = tmp_path / name
        start(folders[name], "mistral", hidden=32, layers=1, seed=seed)
    sure = load_model(folders["proxy"], "sdpa")
    with torch.no_grad():
        sure.lm_head.weight *= 25  # so confident that some prompts get a text twice
    save_model(sure, sure.state_dict(), tmp_path / "sure", folders["proxy"])
    rows = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": f"add {i} and 2"}], "source": "t"}
        for i in range(10)
    ]
    artifacts.write(tmp_path / "prompts.parquet", pd.DataFrame(rows), "prompts")
    common = {"engine": Engine(), "attention": "sdpa", "dtype": "float32"}
    stage(complete.main,
        models=folders["policy"], prompts=[tmp_path / "prompts.parquet"], out=tmp_path / "seen.parquet",
        max_tokens=1, seed=11, limit=4, **common,
    )  # fmt: skip
    scored, real = [], reference.score_completions

    def score(folder, prompts, answers, settings):
        scored.append([(folder.name, *map(tuple, pair)) for pair in zip(prompts, answers, strict=True)])
        return real(folder, prompts, answers, settings)

    monkeypatch.setattr(reference, "score_completions", score)
    stage(did.measure,
        proxy=tmp_path / "sure", prompts=tmp_path / "prompts.parquet", policy=folders["policy"],
        reference=folders["reference"], entropy=Entropy(prompts=5, samples=4, max_tokens=2, seed=11), skip=4,
        max_prompt_tokens=50, micro_batch_tokens=64, samples=tmp_path / "s.parquet", out=tmp_path / "e.parquet", **common,
    )  # fmt: skip
    samples = artifacts.read(tmp_path / "s.parquet", "completions")
    seen = set(artifacts.read(tmp_path / "seen.parquet", "completions").prompt_id)
    assert (len(seen), samples.prompt_id.nunique(), len(samples)) == (4, 5, 20)
    assert not seen & set(samples.prompt_id)
    assert artifacts.provenance(tmp_path / "s.parquet")["decoding"] == vars(Decoding(4, 1.0, 1.0, 2, 11))

    networks = {name: load_model(folders.get(name, tmp_path / name), "eager").eval() for name in ("sure", *folders)}
    logps = {
        name: np.array([naive_logp(network, r.prompt_token_ids, r.token_ids) for r in samples.itertuples()])
        for name, network in networks.items()
    }
    row = artifacts.read(tmp_path / "e.parquet", "entropy").iloc[0]
    by_prompt = pd.Series(-logps["sure"]).groupby(samples.prompt_id).mean()
    assert row.entropy == pytest.approx(-logps["sure"].mean(), abs=1e-4)
    assert row.stderr == pytest.approx(by_prompt.std(ddof=1) / 5**0.5, abs=1e-4)
    assert (row.prompts, row.samples) == (5, 20)
    ratio = logps["policy"] - logps["reference"]
    rising = []
    for prompt in samples.prompt_id.unique():
        mine = (samples.prompt_id == prompt).to_numpy()
        if samples.token_ids[mine].map(tuple).nunique() > 1:
            rising.append(np.polyfit(ratio[mine], logps["sure"][mine], 1)[0] >= 0)
    assert np.mean(rising) not in (0, 0.5, 1)  # a slope of the wrong sign shows
    assert row.beta_accuracy == np.mean(rising)
    assert [len(set(one)) for one in scored] == [len(one) for one in scored]  # a text that came twice is scored once
    assert len(scored[0]) < 20
    assert [one[0][0] for one in scored] == ["policy", "reference"]
