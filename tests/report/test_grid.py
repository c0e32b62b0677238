"""The grid table: every number against a naive computation from the same tables, its rows, its seeds and its pages."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.bench.qa import BENCHMARKS, ranked
from diffinfo.cli import UserError
from diffinfo.measures import MEASURES, NUMBERS, RESULTS
from diffinfo.report import grid
from diffinfo.tables import artifacts
from pages import lines

MP = "micro-mistral/magpie-pro"
HELD_OUT = ["logp_chosen", "logp_rejected", "reference_logp_chosen", "reference_logp_rejected"]


def student(values) -> tuple[float, float, float, int]:
    """Value, low, high, n of a mean, by scipy."""
    values = np.asarray(values, dtype=float)
    return (values.mean(), *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)), len(values))


def of(row: pd.Series, name: str) -> tuple[float, float, float, int]:
    return tuple(row[f"{name}{end}"] for end in ("", "_low", "_high", "_n"))


def everything(tree) -> dict[str, object]:
    """One table of each kind, of dpo-b0.1 (five epochs) and some of pi_ref."""
    rng = np.random.default_rng(1)
    log = tree.log(f"{MP}/dpo-b0.1", 5.0, -20.0)
    frame = artifacts.read(log, "train_log")
    artifacts.write(log, frame.assign(loss=rng.uniform(0.3, 0.7, len(frame))), "train_log")
    scores = tree.scores(f"{MP}/dpo-b0.1", "1-5", [0.1, 0.2, 0.3, 0.4, 0.5])
    frame = artifacts.read(scores, "scores")  # two samples a prompt, which are not independent
    twice = [frame, frame.assign(sample=1, score=frame.score + rng.normal(0, 1, len(frame)))]
    artifacts.write(scores, pd.concat(twice), "scores")
    judged = tree.judgments(f"{MP}/dpo-b0.1", [3.0, 8.0, 5.0, 9.0, 4.0])
    frame = artifacts.read(judged, "judgments")
    frame.loc[1, "score"] = np.nan
    artifacts.write(judged, frame, "judgments")
    qa = tree.qa(f"{MP}/dpo-b0.1", [0.2, 0.3, 0.4, 0.5, 0.6])
    frame = artifacts.read(qa, "qa")
    frame = frame.assign(value=rng.uniform(0, 1, len(frame)), stderr=rng.uniform(0.01, 0.1, len(frame)))
    artifacts.write(qa, frame, "qa")
    smc = tree.root / f"smc/{MP}/dpo-b0.1/epoch-5.parquet"
    numbers = dict.fromkeys(
        ["entropy_n", "log_z", "log_z_n", "log_z_upper", "low", "high", "effective", "cut", "uniform"], 0.5
    )
    rows = [
        numbers | {"prompt_id": f"p{i}", "length": t, "entropy": 9.0 * t + i, "forwards": 1, "certified": i < 3}
        for i in range(5) for t in (4, 8)
    ]  # fmt: skip
    artifacts.write(smc, pd.DataFrame(rows), "smc")
    update = tree.root / f"update/{MP}/dpo-b0.1/epoch-5.parquet"
    columns = [
        "kl_reference",
        "kl_policy",
        "entropy_change",
        "covariance",
        "ratio_tokens",
        "ratio_ratio",
        "tokens_tokens",
    ]
    frame = pd.DataFrame(rng.uniform(1, 2, (30, 7)), columns=columns)
    artifacts.write(update, frame.assign(prompt_id=[f"p{i}" for i in range(30)], samples=4), "update")
    heldout = tree.root / f"train/{MP}/dpo-b0.1/1-5/heldout.parquet"
    frame = pd.DataFrame(rng.uniform(-9, 0, (60, 4)), columns=HELD_OUT)
    artifacts.write(heldout, frame.assign(epoch=np.repeat(range(1, 6), 12), prompt_id="p"), "heldout")
    return {
        "heldout": heldout,
        "smc": smc,
        "update": update,
        "log": log,
        "scores": scores,
        "reference": tree.scores(f"{MP}/ref", "0-0", [0.0], first=0),
        "entropy": tree.entropy(f"entropy/{MP}/dpo-b0.1/epoch-5", 40.0, 2.0),
        "of_reference": tree.entropy(f"entropy/{MP}/ref/epoch-0", 30.0, 1.0),
        "did": tree.entropy(f"did/{MP}/dpo-b0.1/epoch-5/entropy", 33.0, 1.5, accuracy=0.3),
        "did_sampled": tree.entropy(f"did_sampled/{MP}/dpo-b0.1/epoch-5/entropy", 53.0, 2.5, accuracy=0.6),
        "winrates": tree.winrates(f"{MP}/dpo-b0.1", 4, 55.0),
        "judgments": judged,
        "qa": qa,
    }  # fmt: skip


def test_every_number_of_every_measure_is_the_naive_one(tree, tmp_path):
    paths = everything(tree)
    out = tmp_path / "grid.parquet"
    grid.main(inputs=list(paths.values()), out=out)
    frame = artifacts.read(out, "grid")
    assert [(m, e, None if pd.isna(s) else s) for m, e, s in zip(frame.method, frame.epoch, frame.seed, strict=True)] == [
        ("ref", 0, None), *(("dpo-b0.1", epoch, 1) for epoch in range(1, 6)),
    ]  # fmt: skip
    reference, last, best = frame.iloc[0], frame.iloc[5], frame.iloc[4]

    log = artifacts.read(paths["log"], "train_log")
    log = log[log.epoch == 5]
    chosen, rejected = log.logp_chosen - log.reference_logp_chosen, log.logp_rejected - log.reference_logp_rejected
    expected = {"loss": log.loss, "logp_chosen": chosen, "logp_rejected": rejected, "margin": chosen - rejected}

    scores = artifacts.read(paths["scores"], "scores")
    own = {
        prompt: np.mean([row.score for row in scores.itertuples() if (row.epoch, row.prompt_id) == (5, prompt)])
        for prompt in dict.fromkeys(scores.prompt_id)
    }
    base = artifacts.read(paths["reference"], "scores").set_index("prompt_id").score
    expected |= {"reward": [*own.values()], "reward_gain": [value - base[prompt] for prompt, value in own.items()]}
    heldout = artifacts.read(paths["heldout"], "heldout").tail(12)
    for side in ("chosen", "rejected"):
        expected[f"heldout_logp_{side}"] = heldout[f"logp_{side}"] - heldout[f"reference_logp_{side}"]
    margin = expected["heldout_logp_chosen"] - expected["heldout_logp_rejected"]
    expected["heldout_dpo_loss"] = -np.log(1 / (1 + np.exp(-0.1 * margin)))
    update = artifacts.read(paths["update"], "update")
    expected |= {name: update[name] for name in ("kl_reference", "kl_policy", "entropy_change", "covariance")}
    expected["smc_entropy"] = [72.0, 73.0, 74.0, 75.0, 76.0]  # at T = 8
    assert (last.smc_certified, last.smc_certified_n) == (0.6, 5)
    together = update.ratio_tokens.sum() / (update.ratio_ratio.sum() * update.tokens_tokens.sum()) ** 0.5
    assert last.length_correlation == pytest.approx(together)
    for name, values in expected.items():
        assert of(last, name) == pytest.approx(student(values)), name
    assert of(reference, "reward") == pytest.approx(student(base))
    assert pd.isna(reference.reward_gain)

    t = stats.t.ppf(0.975, 999)
    assert of(last, "entropy") == pytest.approx((40, 40 - 2 * t, 40 + 2 * t, 1000))
    assert of(reference, "entropy") == pytest.approx((30, 30 - t, 30 + t, 1000))
    assert of(last, "did_entropy") == pytest.approx((33, 33 - 1.5 * t, 33 + 1.5 * t, 1000))
    wilson = stats.binomtest(300, 1000).proportion_ci(0.95, method="wilson")
    assert of(last, "beta_accuracy") == pytest.approx((0.3, wilson.low, wilson.high, 1000))
    assert of(last, "did_sampled_entropy") == pytest.approx((53, 53 - 2.5 * t, 53 + 2.5 * t, 1000))
    assert last.did_sampled_accuracy == pytest.approx(0.6)
    assert of(best, "win_rate") == (55, 53, 57, 200)
    assert of(best, "wildbench_score") == pytest.approx(student([3, 5, 9, 4]))
    assert pd.isna(last.win_rate)

    qa = ranked(artifacts.read(paths["qa"], "qa"))  # by name of the metric
    qa = qa[qa.epoch == 5]
    half = stats.norm.ppf(0.975) * np.sqrt(np.sum(qa.stderr**2)) / 8
    assert of(last, "qa_accuracy") == pytest.approx(
        (qa.value.mean(), qa.value.mean() - half, qa.value.mean() + half, 400)
    )

    shown = lines(out.with_suffix(".md"), "method")
    assert [line["method"] for line in shown] == ["π_ref", *["DPO β = 0.1"] * 5]
    assert shown[5]["H(DID)"] == f"33.00 ({-1.5 * t:+.2f}, {1.5 * t:+.2f})"
    assert (shown[4]["Arena-Hard"], shown[5]["Arena-Hard"]) == ("55.0 (-2.0, +2.0)", "")
    assert "seed" not in shown[0]
    pd.testing.assert_frame_equal(pd.read_csv(out.with_suffix(".csv")), frame, check_dtype=False, check_exact=False)
    assert "<table" in out.with_suffix(".html").read_text()


@pytest.mark.parametrize(("method", "beta"), [("dpo-b0.02", 0.02), ("logpi-b2", 2.0), ("dpo-pg", 0.1)])
def test_the_held_out_loss_is_at_the_methods_beta(tree, method, beta):
    path = tree.root / f"train/{MP}/{method}/1-1/heldout.parquet"
    frame = pd.DataFrame([[-3.0, -5.0, -4.0, -4.5], [-7.0, -2.0, -6.0, -1.5]], columns=HELD_OUT)
    artifacts.write(path, frame.assign(epoch=1, prompt_id=["p", "q"]), "heldout")
    (row,) = grid.table([path]).itertuples()
    losses = [np.log(1 + np.exp(-beta * margin)) for margin in (1.5, -0.5)]
    assert (row.heldout_dpo_loss, row.heldout_logp_chosen) == (pytest.approx(np.mean(losses)), 0.0)


def test_the_ranked_metric_of_a_benchmark_stands_first():
    """What the mean accuracy takes, and what Figure 3 ranks by."""
    rows = [(b, metric.removesuffix(",none")) for b, (_, _, metrics) in BENCHMARKS.items() for metric in metrics]
    table = pd.DataFrame(rows, columns=["benchmark", "metric"])
    assert table.drop_duplicates("benchmark").equals(ranked(table))


def test_numbers_that_are_not_there_are_not_there(tree, tmp_path):
    log = tree.log(f"{MP}/slic-b0.1", 5.0, -20.0, span="1-1")
    artifacts.write(log, artifacts.read(log, "train_log").assign(logp_rejected=None), "train_log")
    qa = tree.qa(f"{MP}/slic-b0.1", [0.2])
    artifacts.write(qa, artifacts.read(qa, "qa").assign(stderr=None), "qa")
    inputs = [log, qa, tree.entropy(f"did/{MP}/slic-b0.1/epoch-1/entropy", 3.0, accuracy=float("nan"))]
    row = grid.table(inputs).iloc[0]
    assert pd.isna(row[["logp_rejected", "margin", "reward", "beta_accuracy", "qa_accuracy_low"]]).all()
    assert (row.qa_accuracy, row.did_entropy) == (pytest.approx(0.2), 3.0)


def test_seeds_are_rows_of_their_own_and_one_of_all(tree, tmp_path):
    names = ["dpo-b0.1", "dpo-b0.1-seed2", "dpo-b0.1-seed7"]
    inputs = [
        tree.entropy(f"entropy/{MP}/{name}/epoch-5", value, 2.0)
        for name, value in zip(names, (40.0, 43.0, 49.0), strict=True)
    ]
    inputs += [tree.winrates(f"{MP}/{name}", epoch, 50.0) for name, epoch in zip(names, (4, 5, 5), strict=True)]
    out = tmp_path / "grid.parquet"
    grid.main(inputs=inputs, out=out)
    frame = artifacts.read(out, "grid")
    assert set(frame.method) == {"dpo-b0.1"}
    found = list(zip(frame.epoch, frame.seed.fillna(0), frame.seeds, strict=True))
    assert found == [(4, 1, 1), (4, 0, 3), (5, 1, 1), (5, 2, 1), (5, 7, 1), (5, 0, 3)]
    every = frame.iloc[-1]
    half = np.hypot(stats.t.ppf(0.975, 2) * stats.sem([40, 43, 49]), 2 * stats.t.ppf(0.975, 999))
    assert of(every, "entropy") == pytest.approx((44, 44 - half, 44 + half, 1000))
    assert every.entropy_sd == pytest.approx(np.std([40, 43, 49], ddof=1))
    assert pd.isna(every.win_rate)  # the seeds' best epochs differ
    shown = lines(out.with_suffix(".md"), "method")
    assert [line["seed"] for line in shown] == ["1", "all 3", "1", "2", "7", "all 3"]
    assert shown[-1]["H(π)"].endswith(f"sd {every.entropy_sd:.2f}")


def test_rows_and_columns_do_not_depend_on_the_order_of_files(tree):
    measured = everything(tree)
    paths = [*measured.values(), tree.winrates("micro-gemma2/magpie-pro/dpo-pg", 1, 50.0)]
    last = artifacts.read(measured["update"], "update")[
        :20
    ]  # the path has fewer prompts of the last epoch: "update" wins
    paths.append(tree.root / f"path/{MP}/dpo-b0.1/1-5.parquet")
    artifacts.write(paths[-1], pd.concat([last.assign(epoch=4), last.assign(epoch=5)]), "path")
    frame = grid.table(paths)
    moved = frame[frame.method == "dpo-b0.1"].set_index("epoch").kl_reference_n
    assert (moved[4], moved[5]) == (20, 30)
    pd.testing.assert_frame_equal(frame, grid.table(paths[::-1]))
    assert list(frame.model)[-1] == "micro-gemma2"


def test_a_table_of_another_kind_is_refused(tree):
    stray = tree.entropy(f"qa/{MP}/dpo-b0.1/1-5", 3.0)
    with pytest.raises(UserError, match="holds a 'entropy' table where a 'qa' table is needed"):
        grid.table([stray])


def test_declarations_are_consistent():
    results = [result for found in MEASURES.values() for result in found]
    assert len({result.stage for result in results}) == len(results) == len(RESULTS) - 2  # and the training's
    one_each = {at: result.numbers for at, result in RESULTS.items() if at[0] != "path"}  # earlier epochs of "update"
    assert len(NUMBERS) == sum(map(len, one_each.values()))
    assert RESULTS["path", "path"].numbers == RESULTS["update", "update"].numbers
    assert all("{run}" in result.path and result.kind in artifacts.SCHEMAS for result in RESULTS.values())


def test_the_grid_table_starts_without_torch():
    code = "import sys, diffinfo.report.grid; raise SystemExit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
