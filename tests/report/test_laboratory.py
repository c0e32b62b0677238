import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.report import laboratory, language_models
from diffinfo.report.lengths import LOOKS
from diffinfo.tables import artifacts


def objectives() -> pd.DataFrame:
    rows = []
    curves = {"beta=1": (0.5, 0.01, 0.3), "beta=2": (0.5, 0.02, 0.02)}  # one passes near and leaves, the other stays
    for name in laboratory.TITLES:
        for setting, values in curves.items():
            for seed in (1, 2):
                rows += [
                    (name, setting, tau, seed, step, value * (1 + 0.1 * seed), 0.2)
                    for tau in (0.5, 4.0)
                    for step, value in zip((0, 10, 20), values, strict=True)
                ]
    return pd.DataFrame(rows, columns=["objective", "hyperparameters", "tau", "seed", "step", "js_target", "js_did"])


def population(seeds=(1, 2)) -> pd.DataFrame:
    runs = objectives().query("step == 0").drop(columns="step")
    runs = runs[runs.seed.isin(seeds)].assign(js_did=0.1, gradient=1e-13)
    runs["js_target"] = runs.js_target.where(runs.objective != "dpo", 1e-16)
    return runs.assign(js_minimum=None, minimum_step=None, js_final=None)


def test_the_best_setting_is_chosen_by_the_minimum_over_training_not_by_the_end():
    best = laboratory.best_settings(objectives())
    assert set(best.hyperparameters) == {"beta=1"}
    assert len(best) == 6 * 2


def test_the_start_of_training_chooses_no_setting():
    rows = objectives().query("objective == 'simpo'")
    away = rows.assign(js_target=rows.step / 100 + rows.hyperparameters.map({"beta=1": 0.2, "beta=2": 0.1}))
    away["js_target"] = away.js_target.where(away.step > 0, 0.01)  # all start at pi_ref and only move away
    assert set(laboratory.best_settings(away).hyperparameters) == {"beta=2"}


def test_leading_is_being_lowest_to_the_end():
    rows = pd.DataFrame({"step": [0, 10, 20] * 2, "objective": ["dpo"] * 3 + ["simpo"] * 3, "hyperparameters": "b",
                         "tau": 2.0, "js_target": [0.5, 0.3, 0.1, 0.5, 0.2, 0.4]})  # fmt: skip
    chosen = rows[laboratory.RUN[:3]].drop_duplicates()
    assert laboratory.leads_from(rows, chosen) == 20
    assert laboratory.leads_from(rows, chosen, "simpo") is None


def test_the_pages_speak_of_the_ensembles_responses():
    from diffinfo.synthetic import ensemble

    assert (len(ensemble.all_responses()), ensemble.LENGTH) == (language_models.RESPONSES, language_models.TOKENS)


def proxy_table(slope: float) -> pd.DataFrame:
    """Proxies whose error falls by ``slope`` nats for a beta'-accuracy of one, and a rival that is always right."""
    steps = (("proxy", "sample", 16), ("proxy", "sample", 64), ("proxy", "greedy", 16), ("proxy", "greedy", 64))
    rows = [
        (e, how, 32 * n, n, seed, 7.0, 6.0 + slope * (n / 100 + seed / 1000) - (how == "greedy") * n / 50,
         n / 100 + seed / 1000, policy, 100 * n, 0.1, 4.0, 4.2, None)
        for e, how, n in steps for seed in (1, 2, 3) for policy in ("dpo", "best-of-4")
    ]  # fmt: skip
    rows += [
        ("token-ratio-is", "sample", n, 0, seed, 7.0, 7.0, None, policy, 100 * n, None, 4.0, 4.2, 0.5)
        for n in (16, 64) for seed in (1, 2, 3) for policy in ("dpo", "best-of-4")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[field.name for field in artifacts.SCHEMAS["did_proxy"][1]])


@pytest.mark.parametrize(
    ("slope", "trained", "accuracy"),
    [(0.5, "longer training helps", "a smaller error"), (-0.5, "longer training hurts", "a larger error")],
)
def test_what_the_proxys_page_says_follows_from_the_data(tmp_path, slope, trained, accuracy):
    language_models.did_proxy_page(proxy_table(slope), tmp_path / "t", tmp_path / "f")
    text = (tmp_path / "t.md").read_text()
    said = {line.split(":")[0]: line for line in text.splitlines()}
    assert trained in said["Sampled pairs"]
    assert "longer training hurts" in said["Greedy pairs"]
    assert (
        accuracy
        in said["Rank correlation of β′-accuracy with the absolute error, taken within each world"].split(
            "sampled pairs"
        )[1]
    )
    assert "greedy pairs are the worse ones" in text
    assert text.count("Nearest: weighted token ratios") == 2


def test_what_the_page_on_rejected_responses_says_follows_from_the_data(tmp_path):
    names = ("ideal (Eq. 1)", "reference", "worst of 4")

    def said(ends: tuple[float, ...], optima: tuple[float, ...]) -> str:
        rows = [(name, n, seed, js + 1e-3 * seed * (n > 0), 0.2)
                for name, end, optimum in zip(names, ends, optima, strict=True)
                for n, js in ((0, optimum), (64, end)) for seed in (1, 2)]  # fmt: skip
        columns = [field.name for field in artifacts.SCHEMAS["rejected_sampling"][1]]
        language_models.rejected_sampling_page(pd.DataFrame(rows, columns=columns), tmp_path / "t", tmp_path / "f")
        return (tmp_path / "t.md").read_text()

    text = said((0.01, 0.2, 0.1), (0.0, 0.2, 0.6))
    assert "1e-12 in every world) of: ideal (Eq. 1)." in text
    assert "worst of 4 -0.090" in text
    assert "2 of 2" in text
    assert "Worst of 4: training passes" in text
    text = said((0.2, 0.2, 0.1), (0.1, 0.2, 0.05))
    assert "of: none." in text
    assert "worst of 4 +0.100" in text
    assert "training passes" not in text


def test_the_table_shows_minimum_step_and_final_of_the_chosen_setting():
    both = laboratory.training_against_optimum(objectives(), population())
    row = both[(both.objective == "slic") & (both.tau == 4.0) & (both.seed == 2)].iloc[0]
    assert row.js_minimum == pytest.approx(0.012)
    assert row.minimum_step == 10
    assert row.js_final == pytest.approx(0.36)


def test_tables_without_a_common_seed_are_refused():
    with pytest.raises(UserError, match="seed"):
        laboratory.training_against_optimum(objectives(), population().assign(seed=9))


def test_a_band_of_one_seed_is_its_curve():
    rows = pd.DataFrame({"step": [0, 1], "value": [0.1, 0.2]})
    band = laboratory.band(rows, "step", "value")
    assert band.value.tolist() == pytest.approx([0.1, 0.2])
    assert band.low.tolist() == band.high.tolist() == band.value.tolist()


def test_figures_and_tables_are_written_with_their_data(tmp_path):
    source = tmp_path / "in"
    artifacts.write(source / "objectives.parquet", objectives(), "objectives")
    artifacts.write(source / "population.parquet", population(), "population")
    theorems = pd.DataFrame(
        {"statement": ["A", "B"], "quantity": ["x", "y"], "value": [0.0, 1.0], "tolerance": [1e-8, 0.0],
         "holds": [True, False], "broken": ["how", None], "broken_value": [0.5, None]}
    )  # fmt: skip
    artifacts.write(source / "theorems.parquet", theorems, "theorems")
    proxies = [
        (e, d, p, s, seed, 7.0, 7.0 - 0.1 * seed - 0.01 * s, 0.5 + 0.1 * seed, policy, 100 * s + p, 0.1, 4.0, 4.2, 0.5)
        for e in language_models.ESTIMATORS
        for d in ("greedy", "sample")
        for p, s in ((32, 1), (64, 2))
        for seed in (1, 2)
        for policy in ("dpo", "best-of-4")
    ]
    columns = [field.name for field in artifacts.SCHEMAS["did_proxy"][1]]
    artifacts.write(source / "did_proxy.parquet", pd.DataFrame(proxies, columns=columns), "did_proxy")
    rejected = [(name, n, seed, 0.1 / (1 + n), 0.2) for name in ("reference", "ideal (Eq. 1)")
                for n in (0, 32, 64) for seed in (1, 2)]  # fmt: skip
    columns = [field.name for field in artifacts.SCHEMAS["rejected_sampling"][1]]
    artifacts.write(source / "rejected_sampling.parquet", pd.DataFrame(rejected, columns=columns), "rejected_sampling")

    lengths = [(name, 1, t, size, 5.0 * t, 4.9 * t, 5.1 * t, 5.2 * t, *((5.0 * t, 5.2 * t) if name == "smc" else (None, None)))
               for name in LOOKS for t in (2, 8) for size in (0.3, 1.0)]  # fmt: skip
    columns = [field.name for field in artifacts.SCHEMAS["lengths"][1]]
    artifacts.write(source / "lengths.parquet", pd.DataFrame(lengths, columns=columns), "lengths")

    names = ("objectives", "population", "theorems", "did_proxy", "rejected_sampling", "lengths")
    tables, figures = tmp_path / "tables", tmp_path / "figures"
    laboratory.summary(**{name: source / f"{name}.parquet" for name in names}, tables=tables, figures=figures)
    laboratory.curves(objectives=source / "objectives.parquet", out=figures)
    for name in ("laboratory", "theorems", "did_proxy", "rejected_sampling", "lengths"):
        assert (tables / f"{name}.md").read_text().count("|") > 10
        assert (tables / f"{name}.html").stat().st_size > 200
    for name in ("figure1", "figure7", "laboratory", "did_proxy", "rejected_sampling", "lengths"):
        assert (figures / f"{name}.svg").stat().st_size > 5000
        assert (figures / f"{name}.png").stat().st_size > 5000
    drawn = artifacts.read(figures / "figure7.parquet", "objectives")
    assert set(drawn.objective) == set(laboratory.COMPARED)
    text = (tables / "laboratory.md").read_text()
    assert "0 (< 1e-12)" in text
    assert "no" in (tables / "theorems.md").read_text()
    first = (figures / "figure1.svg").read_bytes()
    laboratory.curves(objectives=source / "objectives.parquet", out=figures)
    assert (figures / "figure1.svg").read_bytes() == first
