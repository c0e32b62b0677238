"""Methods at equal KL from pi_ref, against numpy and scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.intervals import Estimate
from diffinfo.report import matched
from diffinfo.tables import artifacts
from pages import lines

ROW = "micro-mistral/magpie-pro"


def step(kl: float, values, half: float = 0.0):
    index = pd.MultiIndex.from_product([[""], range(len(values))], names=["benchmark", "item"])
    return Estimate("", kl, kl - half, kl + half, 9), pd.Series(np.asarray(values, float), index=index)


def test_paths_are_compared_at_the_largest_kl_that_both_reach():
    rng = np.random.default_rng(0)
    a, b, c, d = rng.normal(size=(4, 50))
    long = [step(0, 0 * a), step(1, a, 0.2), step(3, b, 0.4), step(9, c, 3)]
    short = [step(0, 0 * a), step(1.5, d, 0.3)]
    match, lead = matched.compare(long, short)
    difference = 0.75 * a + 0.25 * b - d
    high = stats.t.interval(0.95, 49, difference.mean(), stats.sem(difference))[1]
    slope = (b.mean() - a.mean()) / 2
    # of KL: the long path's there, between two epochs, and that of the short path's end, which fixes where to look
    half = math.hypot(high - difference.mean(), slope * (0.75 * 0.2 + 0.25 * 0.4), slope * 0.3)
    assert (match, lead.value, lead.n) == (1.5, pytest.approx(difference.mean()), 50)
    assert (lead.low, lead.high) == pytest.approx((difference.mean() - half, difference.mean() + half))
    back, other = matched.compare(short, long)
    assert (back, other.value, other.low, other.high) == (
        1.5,
        *map(pytest.approx, (-lead.value, -lead.high, -lead.low)),
    )
    assert matched.compare(long[1:], short[1:])[1].value == pytest.approx(lead.value)  # without pi_ref
    assert matched.compare(long[2:], short[1:]) is None
    assert matched.compare(long[2:], [step(0, a), step(3, b)])[1].value == pytest.approx(0)  # at an epoch of both


def test_a_path_that_turns_back_counts_where_it_first_arrives():
    ahead = [step(0, [0.0, 0]), step(2, [2.0, 4]), step(1, [9.0, 9]), step(4, [9.0, 9])]
    assert matched.compare(ahead, [step(0, [0.0, 0]), step(1, [0.0, 0])])[1].value == 1.5


def test_at_equal_kl_the_same_policy_is_equal():
    """Coverage under a null: both paths have the same law by KL, and KL is measured with an error."""
    rng, covered = np.random.default_rng(3), []
    for _ in range(400):
        level = rng.normal(0, 1, 60)

        def path(*truths, level=level):
            seen = [(0.0, 0.0)] + [(kl, kl + rng.normal(0, 0.1)) for kl in truths]
            return [step(k, 0.5 * t + (t > 0) * (level + rng.normal(0, 1, 60)), 0.196 * (t > 0)) for t, k in seen]

        _, lead = matched.compare(path(1, 2, 4), path(1.5))
        covered.append(lead.low <= 0 <= lead.high)
    assert 0.93 <= np.mean(covered) <= 0.995  # interpolated values share noise with their neighbours: not below


def test_the_table_takes_each_measure_from_its_tables(tree, tmp_path):
    rng, out = np.random.default_rng(1), tmp_path / "matched.parquet"
    kls = {"dpo-b0.1": (1.0, 3.0), "dpo-pg": (0.5, 1.5), "logpi-b0.02": (1.0, 2.0), "logpi-b0.1": (0.5, 2.0)}
    records = [
        {"model": "micro-mistral", "dataset": "magpie-pro", "method": m, "epoch": e, "prompts": 8}
        | {"kl_reference": kl, "kl_reference_low": kl, "kl_reference_high": kl}
        for m, both in kls.items() for e, kl in enumerate(both, 1)
    ]  # fmt: skip
    updates = tree.root / "tables/updates.parquet"
    artifacts.write(updates, pd.DataFrame(records, columns=artifacts.SCHEMAS["updates"][1].names), "updates")
    inputs, entropy = [updates], {}
    for method in kls:
        columns = artifacts.SCHEMAS["path"][1].names
        frame = pd.DataFrame(rng.normal(size=(16, len(columns))), columns=columns)
        frame = frame.assign(epoch=[1] * 8 + [2] * 8, prompt_id=[f"p{i}" for i in range(8)] * 2, samples=4)
        inputs.append(tree.root / f"path/{ROW}/{method}/1-2.parquet")
        artifacts.write(inputs[-1], frame, "path")
        entropy[method] = [frame.entropy_change[:8].to_numpy(), frame.entropy_change[8:].to_numpy()]
    won = {"dpo-b0.1": ([1, 0, 1], [1, 1, 0]), "dpo-pg": ([1, 0, 0], [1, 0, 1])}
    for method, (one, two) in won.items():
        inputs.append(tree.items(f"{ROW}/{method}", {1: {"piqa": one, "mmlu": one}, 2: {"piqa": two, "mmlu": one}}))
    inputs.append(tree.scores(f"{ROW}/ref", "0-0", [0.0], first=0))
    inputs += [tree.scores(f"{ROW}/dpo-b0.1", "1-2", [0.4, 1.0]), tree.scores(f"{ROW}/logpi-b0.1", "1-2", [0.2, 0.8])]
    matched.main(inputs=inputs, out=out)
    table = artifacts.read(out, "matched").set_index(["measure", "method", "other"])
    assert list(table.index) == [
        ("QA accuracy", "dpo-b0.1", "dpo-pg"), ("expected reward", "dpo-b0.1", "logpi-b0.1"),
        ("H(π) − H(π_ref) [nats]", "dpo-b0.1", "logpi-b0.1"), ("H(π) − H(π_ref) [nats]", "dpo-b0.1", "dpo-pg"),
    ]  # fmt: skip
    qa, reward, _, change = (row for _, row in table.iterrows())
    # DPO a quarter of the way from KL 1 to 3: on piqa 1, .25, .75 against 1, 0, 1; on mmlu as at epoch 1
    assert (qa.kl, qa.n, qa.value) == (1.5, 6, pytest.approx((0.0 + 1 / 3) / 2))
    assert (qa["first"], qa.most, qa.other_first, qa.other_most) == (1.0, 3.0, 0.5, 1.5)
    expected = 0.75 * entropy["dpo-b0.1"][0] + 0.25 * entropy["dpo-b0.1"][1] - entropy["dpo-pg"][1]
    low, high = stats.t.interval(0.95, 7, expected.mean(), stats.sem(expected))
    assert (change.kl, change.n) == (1.5, 8)
    assert (change.value, change.low, change.high) == pytest.approx((expected.mean(), low, high))
    scores = {path.parts[-3]: artifacts.read(path, "scores") for path in inputs[-3:]}
    of = {(m, e): table.score[table.epoch == e].to_numpy() for m, table in scores.items() for e in table.epoch.unique()}
    gained = [of[m, e] - of["ref", 0] for m, e in (("dpo-b0.1", 1), ("dpo-b0.1", 2), ("logpi-b0.1", 2))]
    assert (reward.kl, reward.n, reward["first"]) == (2.0, 200, 0.0)
    assert reward.value == pytest.approx((0.5 * gained[0] + 0.5 * gained[1] - gained[2]).mean())
    shown = lines(out.with_suffix(".md"), "measure")
    assert shown[0]["methods"] == "DPO β = 0.1 − DPO-PG"
    assert (shown[0]["at KL [nats]"], shown[0]["KL reached"], shown[0]["n"]) == ("1.50", "3.00, 1.50", "6")
    reference = tree.root / f"qa/{ROW}/ref/0-0.items.parquet"
    items = artifacts.read(inputs[5], "qa_items")
    artifacts.write(reference, items[items.epoch == 1].assign(epoch=0, value=0.0), "qa_items")
    records[0:2] = [records[0] | {"kl_reference": kl} for kl in (2.0, 4.0)]
    records[1]["epoch"] = 2
    artifacts.write(updates, pd.DataFrame(records, columns=artifacts.SCHEMAS["updates"][1].names), "updates")
    matched.main(inputs=inputs, out=out)
    lacking = lines(out.with_suffix(".md"), "measure")[0]
    assert lacking["difference"] == "the paths do not overlap: KL 2.00 to 4.00 and 0.50 to 1.50"
    matched.main(inputs=[*inputs, reference], out=out)  # three quarters of the way from pi_ref, which knows nothing
    found = artifacts.read(out, "matched").iloc[0]
    assert found.value == pytest.approx(((0.75 * 2 / 3 - 2 / 3) + (0.75 * 2 / 3 - 1 / 3)) / 2)
