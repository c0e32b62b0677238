"""The table of Equation 1 on language models against plain means, pairing by prompt and by seed."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.report import rejected
from diffinfo.tables import artifacts
from pages import lines

SUMS = ["ratio_target", "ratio_ratio", "target_target"]


def interval(values):
    values = np.asarray(values)
    return (values.mean(), *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)))


@pytest.fixture
def tree(tmp_path):
    """Tables of three datasets, two seeds of the ideal one and the worst, each with its prompts in another order."""
    rng, frames, inputs = np.random.default_rng(5), {}, []
    for place, kind in enumerate(("worst", "ideal", "reference")):
        name, prompts = f"pairs-{kind}", [f"p{k}" for k in rng.permutation(30)]
        for method in ("dpo-b1", "dpo-b1-seed2")[: 1 if kind == "reference" else 2]:
            frame = pd.DataFrame(
                rng.normal(size=(30, 5)), columns=["log_z", "effective", "reward_gain", "nearer", "distance"]
            )
            frame = frame.assign(prompt_id=prompts, samples=4, **{n: rng.random(30) for n in SUMS})
            inputs.append(tmp_path / f"results/target/micro-mistral/{name}/{method}/epoch-3.parquet")
            artifacts.write(inputs[-1], frame, "target")
            frames[kind, method] = frame
        pairs = pd.DataFrame({"prompt_id": prompts, "chosen": "a", "rejected": "b", "chosen_score": rng.normal(size=30) + place,
                              "rejected_score": rng.normal(size=30)})  # fmt: skip
        pairs = pairs.assign(
            messages=[[{"role": "user", "content": "?"}]] * 30, chosen_truncated=False, rejected_truncated=False
        )
        counts = pd.DataFrame({"prompt_id": prompts, "candidates": 7, "effective": rng.random(30)})
        for table, frame in (("preferences", pairs), ("resampled", counts)):
            inputs.append(tmp_path / f"results/data/{name}/{table}.parquet")
            artifacts.write(inputs[-1], frame, table, settings={"rejected": kind})
            frames[kind, table] = frame
    rejected.main(inputs=inputs, out=tmp_path / "rejected.parquet")
    return tmp_path, frames, artifacts.read(tmp_path / "rejected.parquet", "rejected").set_index("rejected")


def ends(row, name):
    return tuple(row[f"{name}{end}"] for end in ("", "_low", "_high"))


def test_one_seed_is_means_over_prompts_and_the_difference_is_paired(tree):
    _, frames, table = tree
    row, own = table.loc["reference"], frames["reference", "dpo-b1"]
    for name, column in (
        ("target_nearer", "nearer"),
        ("target_distance", "distance"),
        ("target_reward_gain", "reward_gain"),
    ):
        assert ends(row, name) == pytest.approx(interval(own[column]))
    assert row.target_slope == pytest.approx(own.ratio_target.sum() / own.target_target.sum())
    ideal = dict(zip(frames["ideal", "dpo-b1"].prompt_id, frames["ideal", "dpo-b1"].nearer, strict=True))
    assert ends(row, "behind") == pytest.approx(
        interval([ideal[p] - v for p, v in zip(own.prompt_id, own.nearer, strict=True)])
    )
    pairs, counts = frames["reference", "preferences"], frames["reference", "resampled"]
    assert ends(row, "gap") == pytest.approx(interval(pairs.chosen_score - pairs.rejected_score))
    assert row.effective == pytest.approx(counts.effective.mean())
    assert row[["dataset", "method", "epoch", "seeds", "pairs", "prompts", "candidates"]].tolist() == [
        "pairs-reference", "dpo-b1", 3, 1, 30, 30, 7,
    ]  # fmt: skip


def test_seeds_are_pooled_and_compared_seed_by_seed(tree):
    _, frames, table = tree
    row = table.loc["worst"]
    assert (row.seeds, table.loc["ideal"].seeds) == (2, 2)
    nearer = {key: frame.set_index("prompt_id").nearer for key, frame in frames.items() if key[1].startswith("dpo")}
    means = [(nearer["ideal", m] - nearer["worst", m]).mean() for m in ("dpo-b1", "dpo-b1-seed2")]
    assert row.behind == pytest.approx(np.mean(means))
    assert row.behind_high - row.behind >= stats.t.interval(0.95, 1, 0, stats.sem(means))[1] * 0.999
    assert row.target_nearer == pytest.approx(np.mean([nearer["worst", m].mean() for m in ("dpo-b1", "dpo-b1-seed2")]))
    assert pd.isna(table.loc["ideal"].behind)


def test_the_page_says_what_the_table_holds(tree):
    folder, _, table = tree
    shown = {words["y_l"]: words for words in lines(folder / "rejected.md", "model")}
    assert set(shown) == {"by Equation 1", "the worst", "any"}
    row = table.loc["worst"]
    value, low, high = ends(row, "behind")
    assert shown["the worst"]["behind"] == f"{value:.3f} ({low - value:+.3f}, {high - value:+.3f})"
    assert shown["by Equation 1"]["behind"] == "–"
    assert shown["by Equation 1"]["ESS"] == f"{7 * table.loc['ideal'].effective:.1f} of 7"
    assert shown["any"]["seeds"] == "1"
