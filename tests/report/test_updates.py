"""What we measure beside Table 2, on the page and in the table, against numpy and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.report import updates
from diffinfo.tables import artifacts
from pages import lines

MP = "micro-mistral/magpie-pro"


def interval(values):
    values = np.asarray(values)
    return (values.mean(), *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)))


def test_updates_are_means_over_prompts_with_students_interval(tmp_path):
    rng, frames, paths = np.random.default_rng(1), {}, []
    for method, epoch in (("dpo-pg", 3), ("dpo-b0.1", 3), ("dpo-b0.1", 1)):  # the last epoch, and one before it
        frame = pd.DataFrame(
            rng.normal(size=(40, 4)), columns=["kl_reference", "kl_policy", "entropy_change", "covariance"]
        )
        x, y = rng.normal(size=(2, 40, 4))
        frame = frame.assign(
            prompt_id=[f"p{i}" for i in range(40)], samples=4, ratio_tokens=(x * (x + y)).sum(1),
            ratio_ratio=(x**2).sum(1), tokens_tokens=((x + y) ** 2).sum(1),
        )  # fmt: skip
        paths.append(tmp_path / f"results/update/{MP}/{method}/epoch-3.parquet")
        if epoch < 3:
            paths[-1] = tmp_path / f"results/path/{MP}/{method}/1-3.parquet"
            few = pd.concat([frame.assign(epoch=epoch), frame[:9].assign(epoch=3)])  # of the last epoch on few prompts
            artifacts.write(paths[-1], few, "path")
        else:
            artifacts.write(paths[-1], frame, "update")
        frames[method, epoch] = frame
    paths.sort()  # as the rules have them
    updates.updates(inputs=paths, out=tmp_path / "t.parquet", figure=tmp_path / "f.svg")
    table = artifacts.read(tmp_path / "t.parquet", "updates")
    assert list(zip(table.method, table.epoch, strict=True)) == [("dpo-b0.1", 1), ("dpo-b0.1", 3), ("dpo-pg", 3)]
    shown = lines(tmp_path / "t.md", "method")
    for row, words in zip(table.itertuples(), shown, strict=True):
        frame = frames[row.method, row.epoch]
        for name in ("kl_reference", "kl_policy", "entropy_change", "covariance"):
            found = tuple(getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            assert found == pytest.approx(interval(frame[name]))
        r = frame.ratio_tokens.sum() / (frame.ratio_ratio.sum() * frame.tokens_tokens.sum()) ** 0.5
        assert row.length_correlation == pytest.approx(r)
        value, low, high = interval(frame.kl_reference)
        assert words["KL(π_ref‖π)"] == f"{value:.3f} ({low - value:+.3f}, {high - value:+.3f})"
        assert (words["epoch"], words["prompts"]) == (str(row.epoch), "40")
    assert all((tmp_path / name).exists() for name in ("f.svg", "f.png", "t.html"))
    artifacts.write(paths[-1], frames["dpo-pg", 3].assign(tokens_tokens=0.0), "update")  # samples of one length
    updates.updates(inputs=paths[-1:], out=tmp_path / "t.parquet", figure=tmp_path / "f.svg")
    assert artifacts.read(tmp_path / "t.parquet", "updates").length_correlation.isna().all()
    assert lines(tmp_path / "t.md", "method")[0]["corr(ℓ, tokens)"] == "not measured"


def test_distances_from_the_target_are_means_over_prompts_and_pooled_slopes(tmp_path):
    rng, frames, paths = np.random.default_rng(3), {}, []
    for method in ("dpo-b0.02", "dpo-b0.1"):
        frame = pd.DataFrame(
            rng.normal(size=(40, 5)), columns=["log_z", "effective", "reward_gain", "nearer", "distance"]
        )
        x, y = rng.normal(size=(2, 40, 4))
        frame = frame.assign(
            prompt_id=[f"p{i}" for i in range(40)], samples=4, ratio_target=(x * (x + y)).sum(1),
            ratio_ratio=(x**2).sum(1), target_target=((x + y) ** 2).sum(1),
        )  # fmt: skip
        paths.append(tmp_path / f"results/target/{MP}/{method}/epoch-3.parquet")
        artifacts.write(paths[-1], frame, "target")
        frames[method] = frame
    updates.target(inputs=paths, out=tmp_path / "t.parquet", figure=tmp_path / "f.svg")
    table = artifacts.read(tmp_path / "t.parquet", "targets")
    assert list(zip(table.method, table.beta, strict=True)) == [("dpo-b0.1", 0.1), ("dpo-b0.02", 0.02)]
    for row, words in zip(table.itertuples(), lines(tmp_path / "t.md", "method"), strict=True):
        frame = frames[row.method]
        for name in ("reward_gain", "nearer", "distance"):
            found = tuple(getattr(row, f"target_{name}{end}") for end in ("", "_low", "_high"))
            assert found == pytest.approx(interval(frame[name]))
        assert row.target_slope == pytest.approx(frame.ratio_target.sum() / frame.target_target.sum())
        scale = (frame.ratio_ratio.sum() * frame.target_target.sum()) ** 0.5
        assert row.target_correlation == pytest.approx(frame.ratio_target.sum() / scale)
        assert (row.effective, row.prompts, words["prompts"]) == (pytest.approx(frame.effective.mean()), 40, "40")
        value, low, high = interval(frame.nearer)
        assert words["KL(π_ref‖π*) − KL(π‖π*)"] == f"{value:.2f} ({low - value:+.2f}, {high - value:+.2f})"
    assert all((tmp_path / name).exists() for name in ("f.svg", "f.png", "t.html"))


def test_h_of_q_at_each_length_is_a_mean_over_prompts(tmp_path):
    rng, frames, paths = np.random.default_rng(2), {}, []
    for method in ("dpo-pg", "dpo-b0.02"):
        frame = pd.DataFrame(
            rng.uniform(1, 9, (8, 9)),
            columns=["entropy", "entropy_n", "log_z", "log_z_n", "log_z_upper", "low", "effective", "cut", "uniform"],
        )
        frame = frame.assign(
            prompt_id=[f"p{i % 4}" for i in range(8)], length=[16] * 4 + [8] * 4, high=frame.low + [1, 2, 3, 4] * 2,
            forwards=[100] * 4 + [50] * 4, certified=[True, False, False, False, True, True, True, True],
        )  # fmt: skip
        paths.append(tmp_path / f"results/smc/{MP}/{method}/epoch-3.parquet")
        artifacts.write(paths[-1], frame, "smc")
        frames[method] = frame
    updates.did_smc(inputs=paths, out=tmp_path / "t.parquet", figure=tmp_path / "f.svg")
    table = artifacts.read(tmp_path / "t.parquet", "did_smc")
    assert list(zip(table.method, table.length, strict=True)) == [
        ("dpo-b0.02", 8), ("dpo-b0.02", 16), ("dpo-pg", 8), ("dpo-pg", 16),
    ]  # fmt: skip
    for row, words in zip(table.itertuples(), lines(tmp_path / "t.md", "method"), strict=True):
        rows = frames[row.method][frames[row.method].length == row.length]
        assert (row.entropy, row.low, row.high) == pytest.approx(interval(rows.entropy))
        for name in ("entropy_n", "log_z", "log_z_n", "log_z_upper", "effective", "cut", "uniform"):
            assert getattr(row, name) == pytest.approx(rows[name].mean())
        assert (row.prompts, row.width, row.forwards) == (4, 2.5, 4 * (100 if row.length == 16 else 50))
        assert words["certified"] == ("25%" if row.length == 16 else "100%")
        assert words["H/T"] == f"{row.entropy / row.length:.2f}"
        assert words["interval of ln Z"] == "2.5"
