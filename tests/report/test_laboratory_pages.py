"""The numbers on the laboratory's pages, against scipy's intervals and counts by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.report import laboratory, language_models
from diffinfo.tables import artifacts
from pages import lines

NAMES = list(laboratory.TITLES)


def half(values) -> float:
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def spread(values) -> str:
    return f"{np.mean(values):.2g} ± {half(values):.1g}"


def ends(values, form: str = ".2f") -> str:
    middle, reach = np.mean(values), half(values)
    return f"{middle:{form}} [{middle - reach:{form}}, {middle + reach:{form}}]"


# JS by setting at steps 0, 10 and 20: one setting passes near the target and leaves, the other stays farther off
CURVES = {"beta=1": (0.5, 0.01, 0.3), "beta=2": (0.5, 0.02, 0.02)}
OPTIMA = {"beta=1": 0.05, "beta=2": 0.07}


def runs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Objectives and population, each objective a little worse than the one before; optima the other way round."""
    rows, optima = [], []
    for place, name in enumerate(NAMES, 1):
        for setting, values in CURVES.items():
            for seed in (1, 2, 3):
                scale = 1 + 0.1 * seed**2
                rows += [
                    (name, setting, 4.0, seed, s, v * place * scale, 0.2)
                    for s, v in zip((0, 10, 20), values, strict=True)
                ]
                optima.append((name, setting, 4.0, seed, OPTIMA[setting] * (7 - place) * scale, 0.1, 1e-13))
    columns = ["objective", "hyperparameters", "tau", "seed"]
    population = pd.DataFrame(optima, columns=[*columns, "js_target", "js_did", "gradient"])
    return (
        pd.DataFrame(rows, columns=[*columns, "step", "js_target", "js_did"]),
        population.assign(js_minimum=None, minimum_step=None, js_final=None),
    )


def test_the_laboratorys_table_shows_minima_ends_and_optima_of_the_right_settings(tmp_path):
    trained, population = runs()
    both = laboratory.training_against_optimum(trained, population)
    laboratory.laboratory_table(both, trained, tmp_path / "t", tmp_path)
    scales = np.array([1.1, 1.4, 1.9])
    for place, row in enumerate(lines(tmp_path / "t.md", "τ"), 1):
        assert row == {
            "τ": "4", "objective": laboratory.TITLES[NAMES[place - 1]], "hyper-parameters": "beta=1",
            "minimum": spread(0.01 * place * scales), "at step": "10", "final": spread(0.3 * place * scales),
            "optimum": spread(0.05 * (7 - place) * scales),
            "lowest final of the grid": f"{spread(0.02 * place * scales)} (beta=2)",
            "nearest optimum of the grid": f"{spread(0.05 * (7 - place) * scales)} (beta=1)",
        }  # fmt: skip
    text = (tmp_path / "t.md").read_text()
    assert "lowest of the whole grid at the end of training SLiC, at the optimum log π." in text
    assert "DPO is not the lowest at the end." in text


def test_the_notes_of_the_figures_show_minima_and_ends_as_geometric_means(tmp_path):
    trained, _ = runs()
    artifacts.write(tmp_path / "objectives.parquet", trained, "objectives")
    laboratory.curves(objectives=tmp_path / "objectives.parquet", out=tmp_path)
    rows = {row["objective"]: row for row in lines(tmp_path / "figure7.md", "τ")}
    for place, name in enumerate(NAMES, 1):
        if name in laboratory.COMPARED:
            row = rows[laboratory.TITLES[name]]
            assert (row["τ"], row["best"]) == ("4", "beta=1")
            for column, value in (("minimum", 0.01), ("final", 0.3)):
                logs = np.log(value * place * np.array([1.1, 1.4, 1.9]))
                low, high = np.exp([logs.mean() - half(logs), logs.mean() + half(logs)])
                assert row[column] == f"{np.exp(logs.mean()):.2g} [{low:.2g}, {high:.2g}]"


def test_leading_begins_after_the_last_step_behind():
    rows = pd.DataFrame({"step": [0, 10, 20, 30] * 2, "objective": ["dpo"] * 4 + ["simpo"] * 4, "hyperparameters": "b",
                         "tau": 2.0, "js_target": [0.5, 0.3, 0.3, 0.1, 0.4, 0.4, 0.2, 0.2]})  # fmt: skip
    assert laboratory.leads_from(rows, rows[laboratory.RUN[:3]].drop_duplicates()) == 30


def test_the_theorems_page_counts_rows_checks_and_counter_examples(tmp_path):
    table = pd.DataFrame({
        "statement": ["A", "B", "B", "B"], "quantity": ["w", "x", "y", "z"], "value": [0.0, 1.0, 0.0, 0.0],
        "tolerance": [1e-8, 0.0, 0.5, 0.3], "holds": [True, False, True, True],
        "broken": ["how", None, "else", "other"], "broken_value": [0.5, None, 0.25, 0.25],
    })  # fmt: skip
    laboratory.theorems_table(table, tmp_path / "t")
    text = (tmp_path / "t.md").read_text()
    assert "3 of 4 rows hold; 1 of 3 checks whose condition can" in text
    assert "B (1 of 3)." in text
    rows = lines(tmp_path / "t.md", "statement")
    assert [row["holds"] for row in rows] == ["yes", "no", "yes", "yes"]
    assert [row["value then"] for row in rows] == ["0.5", "", "0.25", "0.25"]


def test_bands_are_students_on_their_own_scale():
    rows = pd.DataFrame({"step": [1, 1, 1, 2, 2, 2], "y": [0.1, 0.2, 0.4, 1.0, 3.0, 9.0]})
    logs = np.log(rows.y[:3])
    found = language_models.band(rows, "step", "y").iloc[0]
    expected = [logs.mean(), logs.mean() - half(logs), logs.mean() + half(logs)]
    assert found[["value", "low", "high"]].tolist() == pytest.approx(np.exp(expected))
    rows["y"] -= 0.3
    found = language_models.band(rows, "step", "y", geometric=False).iloc[0]
    plain = rows.y[:3]
    assert found[["value", "low", "high"]].tolist() == pytest.approx(
        [plain.mean(), plain.mean() - half(plain), plain.mean() + half(plain)]
    )


def test_spreads_and_signs():
    values = pd.Series([0.1, 0.2, 0.4])
    assert language_models.spread(values) == spread(values)
    assert language_models.signed(values) == f"{values.mean():+.2f} ± {half(values):.2f}"
    assert language_models.spread(pd.Series([0.5])) == "0.5"  # one seed has no interval


def test_rank_correlations_are_spearmans_with_fishers_interval():
    rng = np.random.default_rng(2)
    rows = pd.DataFrame({"seed": np.repeat([1, 2, 3], 8), "beta_accuracy": rng.normal(size=24) ** 3})
    rows["miss"] = (rows.beta_accuracy + rng.normal(size=24)).abs()
    each = [stats.spearmanr(part.beta_accuracy, part.miss).statistic for _, part in rows.groupby("seed")]
    found = language_models._rank(rows)
    assert (found.value, found.low) == pytest.approx((np.mean(each), np.mean(each) - half(each)))
    r = stats.spearmanr(rows.beta_accuracy, rows.miss).statistic
    interval = stats.pearsonr(rows.beta_accuracy.rank(), rows.miss.rank()).confidence_interval(
        0.95
    )  # Fisher's, by scipy
    found = language_models._pooled(rows)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (r, interval.low, interval.high, 24), abs=1e-5
    )


def proxies(errors: dict[tuple[str, int, int], tuple[float, ...]]) -> pd.DataFrame:
    """Proxies by (decoding, steps, pairs) with an error in each of three worlds; the policies differ by two nats."""
    rows = [
        ("proxy", how, pairs, steps, seed, exact, exact + error * (1.2 if policy == "dpo" else 0.8), 0.5 + 0.1 * seed, policy,
         100 * steps, 0.25, 4.0, 4.2, None)
        for (how, steps, pairs), each in errors.items() for seed, error in enumerate(each, 1)
        for policy, exact in (("dpo", 7.0), ("best-of-4", 5.0))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=artifacts.SCHEMAS["did_proxy"][1].names)


def test_the_proxys_page_says_its_errors_in_numbers(tmp_path):
    errors = {
        ("sample", 16, 512): (1.0, 1.1, 1.3), ("sample", 64, 2048): (0.4, 0.6, 0.5), ("sample", 64, 512): (2.0, 2.2, 2.3),
        ("greedy", 16, 512): (1.5, 1.4, 1.6), ("greedy", 64, 2048): (2.4, -8.0, 2.6), ("greedy", 64, 512): (3.0, 3.3, 3.1),
    }  # fmt: skip
    table = proxies(errors)
    worth = table.head(6).assign(
        estimator="token-ratio-is", steps=0, decode="sample", effective=0.5, beta_accuracy=None
    )
    language_models.did_proxy_page(pd.concat([table, worth]), tmp_path / "t", tmp_path / "f")
    text = (tmp_path / "t.md").read_text()
    for how, words in (("sample", "Sampled pairs"), ("greedy", "Greedy pairs")):
        first, last, again = (np.abs(errors[how, s, p]) for s, p in ((16, 512), (64, 2048), (64, 512)))
        assert (
            f"{words}: the proxy misses H(q) by {ends(first)} nats after 16 steps and by {ends(last)} after 64 on fresh pairs:"
        ) in text
        assert f"({ends(last - first, '+.2f')})." in text
        assert (
            f"As many steps on the same 512 pairs: {ends(again)}, {ends(again - last, '+.2f')} against fresh ones."
            in text
        )
    # greedy, world 2: 7 - 9.6 against 5 - 6.4 turns the order
    assert [line.split("true order in ")[1] for line in text.splitlines() if "true order" in line] == [
        "3 of 3 worlds.", "2 of 3 worlds.",
    ]  # fmt: skip
    gap = np.abs(errors["greedy", 64, 2048]) - np.abs(errors["sample", 64, 2048])
    assert f"after the longest training: {ends(gap, '+.2f')} nats" in text
    assert f"weighted token ratios 0.5, {0.5 ** (1 / 5):.2f} a token" in text
    assert f"{0.5 ** (100 / 5):.0e} at 100 tokens" in text
    shown = {
        (row["policy"], row["decode"], row["steps"], row["pairs or samples"]): row
        for row in lines(tmp_path / "t.md", "policy")
    }
    values = 1.2 * np.array(errors["sample", 64, 2048])
    row = shown["dpo", "sample", "64", "2,048"]
    assert row["estimate − exact"] == f"{values.mean():+.2f} ± {half(values):.2f}"
    assert (row["exact"], row["β′-accuracy"], row["tied"], row["worth"]) == ("7.00", "0.7", "0.25", "")


def test_an_optimum_counts_where_it_is_exact_in_every_world(tmp_path):
    rows = [(name, pairs, seed, js, 0.2) for name, values in (("ideal (Eq. 1)", (0.0, 0.1)), ("reference", (0.3, 0.4)))
            for pairs in (0, 64) for seed, js in zip((1, 2), values, strict=True)]  # fmt: skip
    columns = artifacts.SCHEMAS["rejected_sampling"][1].names
    language_models.rejected_sampling_page(pd.DataFrame(rows, columns=columns), tmp_path / "t", tmp_path / "f")
    text = (tmp_path / "t.md").read_text()
    assert "1e-12 in every world) of: none." in text
    assert f"reference {ends([-0.3, -0.3 + 1e-17], '+.3f').split(' ')[0]}" in text
    assert "2 of 2" in text
