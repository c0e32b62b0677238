"""Bigram models on which H(q_T) is known: sums against enumeration, estimates against the sums."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from diffinfo.report.lengths import LOOKS, lengths_page
from diffinfo.synthetic import lengths
from diffinfo.tables import artifacts
from pages import lines


def strings(vocabulary, length, stops):
    for size in range(1, length + 1):
        for string in product(range(vocabulary), repeat=size):
            ends = [token in stops for token in string]
            if not any(ends[:-1]) and (ends[-1] or size == length):
                yield string


def added(table, string):
    return sum(float(table[a, b]) for a, b in zip((-1, *string), string, strict=False))


@pytest.mark.parametrize("stops", [[0], [1, 3]])
def test_sums_are_those_of_all_strings(stops):
    policy, reference = lengths.bigrams(0.8, 5, vocabulary=5)
    assert policy.exp().sum(-1).numpy() == pytest.approx(np.ones(6))
    ratio = policy - reference
    sums, means = lengths.exact(ratio, reference, 4, stops)
    for length in (1, 2, 3, 4):
        found = list(strings(5, length, stops))
        weights = torch.tensor([added(ratio, string) for string in found])
        values = torch.tensor([added(reference, string) for string in found])
        assert float(sums[length - 1]) == pytest.approx(float(weights.logsumexp(0)))
        assert float(means[length - 1]) == pytest.approx(float((weights.softmax(0) * values).sum()))
    total, mean = lengths.exact(policy, policy, 4, stops)  # a policy sums to one, and its mean is its entropy
    assert total.numpy() == pytest.approx(np.zeros(4), abs=1e-12)
    assert float(-mean[3]) > 0


def test_samples_end_and_are_scored_up_to_their_end():
    policy, reference = lengths.bigrams(1.5, 2, vocabulary=4)
    contexts, tokens = lengths.sample(policy, 4000, 3, torch.Generator().manual_seed(1))
    found = lengths.score(reference, contexts, tokens)
    drawn = []
    for row, scores in zip(tokens.tolist(), found, strict=True):
        string = tuple(row[: row.index(0) + 1] if 0 in row else row)
        drawn.append(string)
        assert float(scores[2]) == pytest.approx(added(reference, string))
    shares = pd.Series(drawn).value_counts(normalize=True)
    for string in strings(4, 3, [0]):
        p = math.exp(added(policy, string))
        assert shares.get(string, 0) == pytest.approx(p, abs=4 * (p / 4000) ** 0.5 + 1e-3)


def test_a_proxy_learns_the_order_of_its_pairs():
    policy, reference = lengths.bigrams(1.0, 3, vocabulary=8)
    generator = torch.Generator().manual_seed(1)
    fitted = lengths.proxy(policy, reference, 4, generator)
    w, r = (lengths.sample(table, 3000, 4, generator) for table in (policy, reference))
    for before, after in ((reference, fitted),):
        right = [(lengths.score(t, *w)[:, -1] > lengths.score(t, *r)[:, -1]).double().mean() for t in (before, after)]
        assert right[1] > right[0] + 0.05


def test_every_estimate_is_of_the_entropy_that_it_names(monkeypatch):
    """At T = 2, by enumeration: three of them near H(q_T), and the proxy's own entropy."""
    for name, value in {"LENGTHS": (2,), "SAMPLES": 40_000, "PARTICLES": 400, "STEPS": 3}.items():
        monkeypatch.setattr(lengths, name, value)
    monkeypatch.setattr(lengths.bigrams, "__defaults__", (9,))
    fitted = lengths.bigrams(1.2, 8, vocabulary=9)[0]
    monkeypatch.setattr(lengths, "proxy", lambda *_: fitted)
    found = {row["estimator"]: row["estimate"] for row in lengths.experiment(0.5, 4)}
    policy, reference = lengths.bigrams(0.5, 4, vocabulary=9)
    entropies = []
    for table in (policy - reference, fitted):
        logs = torch.tensor([added(table, string) for string in strings(9, 2, [0])]).log_softmax(0)
        entropies.append(float(-(logs.exp() * logs).sum()))
    for name in ("smc", "token ratios", "importance"):
        assert found[name] == pytest.approx(entropies[0], abs=0.03), name
    assert found["proxy"] == pytest.approx(entropies[1], abs=1e-5)


def test_the_table_and_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "LENGTHS", (2, 12))
    monkeypatch.setattr(lengths, "VOCABULARY", 40)
    monkeypatch.setattr(lengths, "STEPS", 2)
    monkeypatch.setattr(lengths.bigrams, "__defaults__", (40,))
    lengths.main(tmp_path / "l.parquet", seed=3)
    table = artifacts.read(tmp_path / "l.parquet", "lengths")
    assert len(table) == 2 * 2 * 4
    for size, rows in table.groupby("size"):
        policy, reference = lengths.bigrams(size, 3, vocabulary=40)
        sums, means = lengths.exact(policy - reference, policy - reference, 12, [0])
        for length, each in rows.groupby("length"):
            assert each.exact.tolist() == pytest.approx([float(sums[length - 1] - means[length - 1])] * 4)
            own = each.set_index("estimator")
            assert own.estimate["smc"] == pytest.approx(own.exact["smc"], rel=0.04)
            assert own.log_z["smc"] == pytest.approx(float(sums[length - 1]))
            assert own.uniform["smc"] == pytest.approx(math.log(sum(39**t for t in range(length + 1))))
    lengths_page(table, tmp_path / "t", tmp_path / "f")
    shown = lines(tmp_path / "t.md", "size")
    assert [(row["size"], row["T"]) for row in shown] == [("0.3", "2"), ("0.3", "12"), ("1", "2"), ("1", "12")]
    smc = table[table.estimator == "smc"].reset_index()
    for row, words in zip(smc.itertuples(), shown, strict=True):
        assert words["exact"] == f"{row.exact:.1f}"
        assert words["its interval"] == f"{row.low:.2f} to {row.high:.2f}"
        for name, (label, _) in LOOKS.items():
            own = table[
                (table["size"] == smc["size"][row.Index]) & (table.length == row.length) & (table.estimator == name)
            ]
            assert words[label] == f"{own.estimate.item():.1f}"
    inside = ((smc.low <= smc.log_z) & (smc.log_z <= smc.high)).sum()
    assert f"in {inside} of 4 cases" in (tmp_path / "t.md").read_text()
