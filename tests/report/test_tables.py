"""Tables 1-3: exact values, the paper's beside them, daggers, brackets, and plain words for what is missing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.bench import wildbench
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import WildBench
from diffinfo.report import paper, tables
from diffinfo.tables import artifacts
from pages import lines

UF, MP = "micro-mistral/ultrafeedback", "micro-mistral/magpie-pro"
ENDS = (("", 0.0), ("_low", -0.5), ("_high", 1.0))
BENCH = WildBench(judge="embedded", rounds=4)


def cell_of(frame: pd.DataFrame, dataset: str, method: str) -> pd.Series:
    found = frame[(frame.dataset == dataset) & (frame.method == method)]
    assert len(found) == 1
    return found.iloc[0]


def test_paper_numbers_are_those_printed():
    assert paper.printed("table1", "mistral-7b-v0.3", "magpie-pro")["logpi-b0.05"] == 731.28
    assert paper.printed("table1", "micro-mistral", "ultrafeedback")["ref"] == 374.65
    assert paper.printed("table2", "micro-mistral", "magpie-pro")["dpo-b0.1"] == {
        "did_entropy": 236.24, "win_rate": 23.4, "elo": 1146.9, "dagger": True,
    }  # fmt: skip
    assert paper.printed("table3", "gemma-2-9b", "magpie-pro")["dpo-b0.02"]["elo_bracket"] == [-9.87, 14.16]
    assert paper.printed("table3", "micro-gemma2", "magpie-g27")["dpo-pg"]["best_epoch"] == 5
    assert paper.beta_accuracy("mistral-7b-v0.3", "magpie-pro", "dpo-b0.1") == 28.1
    assert paper.beta_accuracy("mistral-7b-v0.3", "magpie-g27", "dpo-b0.02") == 80.4
    assert paper.numbers()["text"]["hours_per_epoch"]["gemma-2-9b"]["hours"] == pytest.approx(2 + 43 / 60)


def test_tables_2_and_3_of_the_paper_agree_with_each_other():
    for dataset in ("magpie-pro", "magpie-g27"):
        for method, row in paper.printed("table2", "mistral-7b-v0.3", dataset).items():
            fine = paper.printed("table3", "mistral-7b-v0.3", dataset)[method]
            assert row["win_rate"] == fine["win_rate"]
            assert row["elo"] == pytest.approx(fine["elo"], abs=0.0501)


def test_table1_sets_ours_beside_the_papers(tree, tmp_path):
    inputs = [
        tree.entropy(f"entropy/{UF}/logpi-b0.1/epoch-5", 40.0, 1.0),
        tree.entropy(f"entropy/{UF}/ref/epoch-0", 30.0, 0.5),
    ]
    out = tmp_path / "table1.parquet"
    tables.table1(inputs=inputs, out=out)
    frame = artifacts.read(out, "table1")
    row = cell_of(frame, "ultrafeedback", "logpi-b0.1")
    assert (row.entropy, row.reference, row.beta, row.epoch) == (40.0, 30.0, 0.1, 5)
    t = stats.t.ppf(0.975, 999)  # over 1,000 prompts
    assert (row.low, row.reference_high) == pytest.approx((40 - t, 30 + 0.5 * t))
    assert (row.paper_entropy, row.paper_reference) == (619.79, 374.65)
    assert pd.isna(cell_of(frame, "ultrafeedback", "logpi-b0.2").entropy)  # the paper's, not ours
    assert list(frame.method) == ["logpi-b0.2", "logpi-b0.1", "logpi-b0.05", "logpi-b0.02"]
    text = out.with_suffix(".md").read_text()
    assert "40.00 (-1.96, +1.96)" in text
    assert "not in this grid" in text
    assert "other models (Mistral7B-v0.3 beside micro-mistral)" in text
    assert "also printed Mistral7B-v0.3 on Magpie-Pro" in text
    assert "<table" in out.with_suffix(".html").read_text()


def test_table1_of_a_dataset_the_paper_does_not_have(tree, tmp_path):
    out = tmp_path / "table1.parquet"
    tables.table1(inputs=[tree.entropy("entropy/micro-mistral/mine/logpi-b0.1/epoch-5", 40.0)], out=out)
    row = artifacts.read(out, "table1").iloc[0]
    assert pd.isna(row.paper_entropy)
    assert pd.isna(row.reference)
    assert "not measured" in out.with_suffix(".md").read_text()


def test_the_same_work_gives_the_same_bytes(tree, tmp_path):
    inputs = [tree.entropy(f"entropy/{UF}/logpi-b0.1/epoch-5", 40.0), tree.entropy(f"entropy/{UF}/ref/epoch-0", 30.0)]
    for name in ("a", "b"):
        tables.table1(inputs=inputs, out=tmp_path / name / "table1.parquet")
    for suffix in (".parquet", ".md", ".html"):
        assert (tmp_path / f"a/table1{suffix}").read_bytes() == (tmp_path / f"b/table1{suffix}").read_bytes()


def table3(tree, tmp_path) -> Path:
    out = tmp_path / "table3.parquet"
    inputs = [
        tree.winrates(f"{MP}/dpo-b0.1", 4, 55.0),
        tree.winrates(f"{MP}/dpo-pg", 2, 45.0),
        tree.judgments(f"{MP}/dpo-b0.1", [8.0] * 10),
        tree.judgments(f"{MP}/dpo-pg", [4.0] * 10),
    ]
    tables.table3(inputs=inputs, wildbench=BENCH, out=out)
    return out


def test_table3_has_best_epochs_brackets_and_token_counts(tree, tmp_path):
    out = table3(tree, tmp_path)
    frame = artifacts.read(out, "table3")
    row = cell_of(frame, "magpie-pro", "dpo-b0.1")
    assert (row.best_epoch, row.win_rate, row.win_rate_low, row.mean_tokens) == (4, 55.0, 53.0, 31.5)
    assert row.elo > 1000 > cell_of(frame, "magpie-pro", "dpo-pg").elo
    assert row.elo_low <= row.elo <= row.elo_high
    assert row.wildbench_tokens == 30
    assert (row.paper_best_epoch, row.paper_win_rate) == (1, 23.4)
    assert row.paper_elo_low == pytest.approx(1146.95 - 13.54)
    text = out.with_suffix(".md").read_text()
    assert "55.0 (-2.0, +2.0)" in text
    assert "23.4 (-1.9, +2.0)" in text
    assert "200 (1)" in text
    assert "also printed Mistral7B-v0.3 on Magpie-G27, Gemma2-9B on Magpie-Pro, Gemma2-9B on Magpie-G27" in text


def test_table3_shows_arena_hard_selected_apart_over_questions(tree, tmp_path):
    won = [1.0] * 12 + [0.5] * 5 + [0.0] * 3
    apart = tree.games(f"{MP}/dpo-pg", won)
    frame = artifacts.read(apart, "judgments")
    frame.loc[frame.prompt_id.isin(["q3", "q4"]), "epoch"] = 2
    frame.loc[frame.prompt_id == "q19", "verdict"] = None  # unscored: left out
    artifacts.write(apart, frame, "judgments")
    inputs = [tree.winrates(f"{MP}/dpo-pg", 2, 45.0), tree.winrates(f"{MP}/dpo-b0.1", 2, 45.0), apart]
    tables.table3(inputs=inputs, wildbench=BENCH, out=tmp_path / "table3.parquet")
    row = cell_of(artifacts.read(tmp_path / "table3.parquet", "table3"), "magpie-pro", "dpo-pg")
    rates = 100 * np.array(won[:-1])  # both games of a question count once
    low, high = stats.t.interval(0.95, 18, rates.mean(), stats.sem(rates))
    found = (row.win_rate_apart, row.win_rate_apart_low, row.win_rate_apart_high)
    assert found == pytest.approx((rates.mean(), low, high))
    assert (row.win_rate, row.best_epoch, row.apart_first, row.apart_last) == (45.0, 2, 2, 4)
    shown = {line["method"]: line for line in lines(tmp_path / "table3.md", "method")}
    mean, ends = rates.mean(), (low - rates.mean(), high - rates.mean())
    assert shown["DPO-PG"]["AH selected apart"] == f"{mean:.1f} ({ends[0]:+.1f}, {ends[1]:+.1f})"
    assert (shown["DPO-PG"]["epochs apart"], shown["DPO β = 0.1"]["AH selected apart"]) == ("2, 4", "")


def test_table3_refuses_judgments_of_several_epochs(tree, tmp_path):
    path = tree.judgments(f"{MP}/dpo-pg", [4.0] * 10)
    table = artifacts.read(path, "judgments")
    artifacts.write(path, pd.concat([table, table.assign(epoch=5)]), "judgments")
    with pytest.raises(UserError, match="2 epochs"):
        tables.table3(inputs=[path], wildbench=BENCH, out=tmp_path / "table3.parquet")


def test_table3_without_one_of_the_benchmarks(tree, tmp_path):
    out = tmp_path / "table3.parquet"
    tables.table3(inputs=[tree.winrates(f"{MP}/dpo-pg", 2, 45.0)], wildbench=BENCH, out=out)
    assert pd.isna(cell_of(artifacts.read(out, "table3"), "magpie-pro", "dpo-pg").elo)
    assert "not measured" in out.with_suffix(".md").read_text()


def test_a_path_that_names_no_cell_is_refused_in_one_sentence(tree, tmp_path):
    stray = tree.entropy("somewhere/else", 1.0)
    with pytest.raises(UserError, match="names no cell of the grid"):
        tables.table1(inputs=[stray], out=tmp_path / "table1.parquet")


def test_every_column_of_table1_shows_its_number(tree, tmp_path):
    inputs = [
        tree.entropy(f"entropy/{UF}/logpi-b0.1/epoch-5", 40.0),
        tree.entropy(f"entropy/{UF}/ref/epoch-0", 30.0, 0.5),
    ]
    truncated = artifacts.read(inputs[0], "entropy").assign(truncated=0.25, prompts=77)
    artifacts.write(inputs[0], truncated, "entropy")
    inputs.append(tree.entropy(f"entropy/{UF}/logpi-b0.02/epoch-5", 50.0))  # none of its samples was cut
    tables.table1(inputs=inputs, out=tmp_path / "table1.parquet")
    absent, row = lines(tmp_path / "table1.md", "β")[:2]
    own = stats.t.ppf(0.975, 76)
    half = math.hypot(own, 0.5 * stats.t.ppf(0.975, 999))
    assert row == {
        "β": "0.1", "H(p*^{1/β})": f"40.00 (-{own:.2f}, +{own:.2f})", "H(π_ref)": "30.00 (-0.98, +0.98)",
        "difference": f"10.00 (-{half:.2f}, +{half:.2f})", "prompts": "77",
        "H(p*^{1/β}), paper": "619.79", "H(π_ref), paper": "374.65",
    }  # fmt: skip
    assert (absent["H(p*^{1/β})"], absent["difference"]) == ("not in this grid", "")
    assert "Up to 25.0% of the samples of a cell were cut" in (tmp_path / "table1.md").read_text()


def graded(tree, run: str, seed: int) -> tuple[Path, pd.DataFrame]:
    """Judgments of forty tasks of different grades and lengths, some without a grade, some cut."""
    path, rng = tree.judgments(run, [5.0] * 40), np.random.default_rng(seed)
    frame = artifacts.read(path, "judgments").assign(
        score=rng.integers(1, 11, 40).astype(float), chars=rng.integers(60, 180, 40), tokens=rng.integers(10, 60, 40)
    )
    frame.loc[seed, "score"] = np.nan
    frame.loc[seed + 1, "truncated"] = True
    artifacts.write(path, frame, "judgments")
    return path, frame


def test_table3_plays_elo_as_configured_and_takes_scores_with_students_interval(tree, tmp_path):
    runs = {
        method: graded(tree, f"{MP}/{method}", seed)
        for seed, method in enumerate(("dpo-b0.1", "dpo-b0.02", "dpo-pg"), 1)
    }
    bench = WildBench(judge="x", rounds=7, seed=11, win_margin=3.0, length_margin=50)
    rates = tree.winrates(f"{MP}/dpo-pg", 2, 45.0, half=3.0)
    artifacts.write(rates, artifacts.read(rates, "winrates").assign(high=49.5), "winrates")
    out = tmp_path / "table3.parquet"
    tables.table3(inputs=[rates, *(path for path, _ in runs.values())], wildbench=bench, out=out)
    found = artifacts.read(out, "table3").set_index("method")
    pool = pd.concat([frame.assign(model=method) for method, (_, frame) in runs.items()])
    ratings = wildbench.elo(pool, {}, rounds=7, seed=11, win_margin=3.0, length_margin=50).set_index("model")
    order = [f"micro-mistral/magpie-pro/{method}" for method in runs]
    assert sorted(order) == [f"micro-mistral/magpie-pro/{method}" for method in sorted(runs)]  # one order of play
    for method, (_, frame) in runs.items():
        row, rating, scored = found.loc[method], ratings.loc[method], frame.score.dropna()
        expected = rating.elo, rating.low, rating.high, rating.battles
        assert (row.elo, row.elo_low, row.elo_high, row.battles) == pytest.approx(expected)
        low, high = stats.t.interval(0.95, 38, scored.mean(), stats.sem(scored))
        assert (row.score, row.score_low, row.score_high, row.tasks) == pytest.approx((scored.mean(), low, high, 39))
        assert row.wildbench_tokens == pytest.approx(frame.tokens.mean())
    assert found.elo_low["dpo-pg"] < found.elo["dpo-pg"] < found.elo_high["dpo-pg"]
    row = found.loc["dpo-pg"]
    assert (row.win_rate_low, row.win_rate_high, row.games, row.unscored) == (42.0, 49.5, 200, 1)
    assert (row.mean_tokens, row.baseline_mean_tokens) == (31.5, 28.0)
    printed = paper.printed("table3", "micro-mistral", "magpie-pro")["dpo-pg"]
    for name in ("win_rate", "elo"):
        low, high = printed[f"{name}_bracket"]
        assert low < 0 < high
        assert row[f"paper_{name}"] == printed[name]
        assert (row[f"paper_{name}_low"], row[f"paper_{name}_high"]) == (printed[name] + low, printed[name] + high)
    shown = {line["method"]: line for line in lines(out.with_suffix(".md"), "method")}["DPO-PG"]
    elo, score = (
        found.loc["dpo-pg", ["elo", "elo_low", "elo_high"]],
        found.loc["dpo-pg", ["score", "score_low", "score_high"]],
    )
    bracket = [f"{v:.2f} ({low - v:+.2f}, {high - v:+.2f})" for v, low, high in (elo, score)]
    assert shown == {
        "method": "DPO-PG", "best epoch": "2", "AH [%]": "45.0 (-3.0, +4.5)", "AH selected apart": "", "epochs apart": "",
        "games (unscored)": "200 (1)",
        "AH tokens": "31.5", "WB [Elo]": bracket[0], "WB score": bracket[1],
        "WB tokens": f"{found.wildbench_tokens['dpo-pg']:.1f}", "best epoch, paper": str(printed["best_epoch"]),
        "AH, paper": "{:.1f} ({:+.1f}, {:+.1f})".format(printed["win_rate"], *printed["win_rate_bracket"]),
        "WB, paper": "{:.2f} ({:+.2f}, {:+.2f})".format(printed["elo"], *printed["elo_bracket"]),
    }  # fmt: skip


def test_rows_come_in_the_papers_order_whatever_the_order_of_files(tree, tmp_path):
    runs = ["micro-gemma2/magpie-g27/dpo-pg", f"{MP}/dpo-pg", "other/mine/dpo-pg", "micro-mistral/magpie-g27/dpo-pg"]
    tables.table3(
        inputs=[tree.winrates(run, 1, 50.0) for run in runs], wildbench=BENCH, out=tmp_path / "table3.parquet"
    )
    frame = artifacts.read(tmp_path / "table3.parquet", "table3")
    assert list(dict.fromkeys(zip(frame.model, frame.dataset, strict=True))) == [
        ("micro-mistral", "magpie-pro"), ("micro-mistral", "magpie-g27"), ("micro-gemma2", "magpie-g27"), ("other", "mine"),
    ]  # fmt: skip


def test_tables_of_several_seeds_give_means_spread_and_the_wider_interval(tree, tmp_path):
    seeds = {"dpo-b0.1": 1.0, "dpo-b0.1-seed2": 2.0, "dpo-b0.1-seed3": 6.0}
    judged = {name: graded(tree, f"{MP}/{name}", seed) for seed, name in enumerate([*seeds, "dpo-pg"], 1)}
    inputs = [tree.winrates(f"{MP}/{name}", int(value), 50 + value) for name, value in seeds.items()]
    inputs += [path for path, _ in judged.values()]
    out = tmp_path / "table3.parquet"
    tables.table3(inputs=inputs, wildbench=BENCH, out=out)
    found = artifacts.read(out, "table3")
    row = cell_of(found, "magpie-pro", "dpo-b0.1")
    half = math.hypot(stats.t.ppf(0.975, 2) * stats.sem([51, 52, 56]), 2.0)
    assert (row.win_rate, row.win_rate_low, row.win_rate_high) == pytest.approx((53, 53 - half, 53 + half))
    assert (row.seeds, row.win_rate_sd, row.games, row.tasks) == (3, pytest.approx(np.std([1, 2, 6], ddof=1)), 600, 39)
    assert pd.isna(row.best_epoch)  # each seed has its own
    scores = [frame.score.mean() for name, (_, frame) in judged.items() if name in seeds]
    assert (row.score, row.score_sd) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
    pool = pd.concat([frame.assign(model=f"micro-mistral/magpie-pro/{name}") for name, (_, frame) in judged.items()])
    ratings = wildbench.elo(pool, {}, rounds=4, seed=BENCH.seed, win_margin=2.0, length_margin=1500).set_index("model")
    assert row.elo == pytest.approx(ratings.elo[[f"micro-mistral/magpie-pro/{name}" for name in seeds]].mean())
    assert cell_of(found, "magpie-pro", "dpo-pg").seeds == 1
    assert lines(out.with_suffix(".md"), "method")[1]["seeds"] == "3"
    assert "sd is the standard deviation between seeds" in out.with_suffix(".md").read_text()

    proxies = [
        tree.entropy(f"did/{MP}/{name}/epoch-5/entropy", 30 + value, accuracy=0.35 + 0.05 * value)
        for name, value in seeds.items()
    ]
    tables.table2(inputs=[*proxies, out], out=tmp_path / "table2.parquet")
    row = cell_of(artifacts.read(tmp_path / "table2.parquet", "table2"), "magpie-pro", "dpo-b0.1")
    half = math.hypot(stats.t.ppf(0.975, 2) * stats.sem([31, 32, 36]), stats.t.ppf(0.975, 999))
    assert (row.did_entropy, row.low, row.high) == pytest.approx((33, 33 - half, 33 + half))
    assert (row.beta_accuracy, row.dagger, row.win_rate, row.seeds, row.epoch) == (pytest.approx(0.5), False, 53, 3, 5)

    entropies = [
        tree.entropy(f"entropy/{MP}/logpi-b0.1{end}/epoch-5", 40.0 + n) for n, end in enumerate(("", "-seed4"))
    ]
    tables.table1(inputs=[*entropies, tree.entropy(f"entropy/{MP}/ref/epoch-0", 30.0)], out=tmp_path / "table1.parquet")
    row = cell_of(artifacts.read(tmp_path / "table1.parquet", "table1"), "magpie-pro", "logpi-b0.1")
    half = math.hypot(stats.t.ppf(0.975, 1) * 0.5, stats.t.ppf(0.975, 999))
    assert (row.entropy, row.low, row.entropy_sd) == pytest.approx((40.5, 40.5 - half, math.sqrt(0.5)))
    assert (row.seeds, row.reference, row.beta) == (2, 30, 0.1)


def test_further_methods_are_rows_of_table_1(tree, tmp_path):
    run = "micro-mistral/magpie-pro"
    inputs = [
        tree.entropy(f"entropy/{run}/{method}", value)
        for method, value in (("ref/epoch-0", 40.0), ("logpi-b0.1/epoch-5", 50.0), ("dpo-pg/epoch-5", 30.0))
    ]
    tables.table1(inputs=inputs, out=tmp_path / "table1.parquet")
    ours = [row["β"] for row in lines(tmp_path / "table1.md", "β") if row["H(p*^{1/β})"] != "not in this grid"]
    assert ours == ["0.1", "DPO-PG"]
    assert "Rows of other methods: the entropy of the trained policy itself." in (tmp_path / "table1.md").read_text()
