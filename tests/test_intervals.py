"""Every interval against scipy, closed forms or brute force."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.bench import arena_hard, wildbench
from diffinfo.intervals import Estimate, at_zero, bracketed, mean, number, over_seeds, share
from diffinfo.report import curves, laboratory, language_models, tables
from diffinfo.tables import artifacts

DATA = np.array([3.1, -2.0, 0.4, 7.7, 1.2, 5.0, -0.3])
Z = stats.norm.ppf(0.975)


def of(value: float, stderr: float, n: int = 100) -> Estimate:
    return Estimate("x", value, value - Z * stderr, value + Z * stderr, n)


def test_mean_is_students():
    got = mean(pd.Series(DATA), "x")
    low, high = stats.t.interval(0.95, len(DATA) - 1, DATA.mean(), stats.sem(DATA))
    assert (got.value, got.low, got.high) == pytest.approx((DATA.mean(), low, high), rel=1e-9)
    assert (got.label, got.n) == ("x", 7)
    two = mean(DATA[:2])
    assert (two.low, two.high) == pytest.approx(stats.t.interval(0.95, 1, DATA[:2].mean(), stats.sem(DATA[:2])))
    nothing = mean(DATA[:0])
    assert (math.isnan(nothing.value), math.isnan(nothing.low), nothing.n) == (True, True, 0)
    one = mean(DATA[:1])
    assert (one.value, one.low, one.high, one.n) == (3.1, -math.inf, math.inf, 1)


def test_over_seeds_is_one_source_of_error_where_the_other_is_none():
    assert over_seeds([of(3.0, 0.5)]) == of(3.0, 0.5)
    alike = over_seeds([of(3.0, 0.5), of(3.0, 0.5), of(3.0, 0.5)])
    assert (alike.value, alike.low, alike.high) == pytest.approx((3, 3 - Z * 0.5, 3 + Z * 0.5))
    exact = over_seeds([Estimate("", value, value, value, 9) for value in DATA])
    student = stats.t.interval(0.95, len(DATA) - 1, DATA.mean(), stats.sem(DATA))
    assert (exact.low, exact.high, exact.n) == pytest.approx((*student, 9))
    skewed = over_seeds([Estimate("", 5.0, 4.0, 7.0, 8), Estimate("", 5.0, 2.0, 6.0, 9)])
    assert (skewed.low, skewed.high) == pytest.approx((5 - math.sqrt(5), 5 + math.sqrt(2.5)))
    two = over_seeds([of(1.0, 0.3), of(2.0, 0.4)])
    assert two.high - 1.5 == pytest.approx(math.hypot(stats.t.ppf(0.975, 1) * 0.5, Z * math.sqrt(0.125)))


def test_p_is_the_level_at_which_the_interval_would_touch_zero():
    assert mean(DATA).p() == pytest.approx(stats.ttest_1samp(DATA, 0).pvalue)
    assert of(1.5, 0.5).p() == pytest.approx(2 * stats.norm.sf(3), rel=1e-5)
    skewed = Estimate("", 2.0, 1.0, 9.0, 5)  # the half towards zero counts
    assert skewed.p() == pytest.approx(2 * stats.norm.sf(2 * Z))
    assert replace(skewed, value=-2.0, low=-9.0, high=-1.0).p() == pytest.approx(2 * stats.norm.sf(2 * Z))
    # corrected for three tests, the interval is wider: an interval that touches zero has p = 5 %
    half = stats.t.ppf(1 - 0.025 / 3, 6) * stats.sem(DATA)
    assert Estimate("", half, 0.0, 2 * half, 7, 6).p(tests=3) == pytest.approx(0.05)
    assert [Estimate("", v, v - h, v + h, 1).p() for v, h in ((1.0, math.inf), (0.0, 1.0), (1.0, 0.0))] == [1, 1, 0]
    assert Estimate("", 1.0, math.nan, math.nan, 0).p() == 1
    beside = Estimate("", 5.0, 1.0, 3.0, 9)  # draws that do not reach their value: as if it were their middle
    assert beside.p() == Estimate("", 2.0, 1.0, 3.0, 9).p() < 0.05
    assert replace(beside, value=-5.0, low=-3.0, high=-1.0).p() == beside.p()


def test_degrees_of_freedom_over_seeds_are_satterthwaites():
    samples = [DATA, DATA + 1, 2 * DATA - 1]
    found = over_seeds([mean(sample) for sample in samples])
    between = np.var([s.mean() for s in samples], ddof=1) / 3
    within = np.mean([stats.sem(s) ** 2 for s in samples])
    assert found.freedom == pytest.approx((between + within) ** 2 / (between**2 / 2 + within**2 / 6))
    assert over_seeds([of(1.0, 0.1), of(2.0, 0.1)]).freedom < 1.1
    assert over_seeds([mean(DATA)] * 2).freedom == pytest.approx(6)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("between", [0.0, 0.3, 2.0])
def test_over_seeds_covers_seeds_and_prompts(shared, between):
    """Simulated: seeds differ by ``between``, and of a prompt's error (variance 1) all seeds have a part in common."""
    rng, prompts, seeds, covered = np.random.default_rng(int(10 * shared + 100 * between)), 40, 4, 0
    for _ in range(600):
        effects = rng.normal(0, between, seeds) if between else np.zeros(seeds)
        errors = math.sqrt(shared) * rng.normal(0, 1, prompts) + math.sqrt(1 - shared) * rng.normal(
            0, 1, (seeds, prompts)
        )
        found = over_seeds([mean(effect + error) for effect, error in zip(effects, errors, strict=True)])
        covered += found.low <= 0 <= found.high
    assert covered / 600 >= 0.93  # 95 % but for the simulation's own error


def test_share_is_wilsons():
    for successes, n in ((0, 20), (13, 20), (20, 20), (281, 1000)):
        exact = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        got = share("x", successes, n)
        assert (got.value, got.low, got.high) == pytest.approx((successes / n, exact.low, exact.high), abs=1e-6)
        assert got.n == n


def test_differences_add_variances():
    a, b = of(3.0, 0.3, 50), of(1.0, 0.4, 40)
    assert a.stderr == pytest.approx(0.3, rel=1e-6)
    gap = a - b
    assert (gap.value, gap.low, gap.high) == pytest.approx((2.0, 2 - Z * 0.5, 2 + Z * 0.5), rel=1e-6)
    assert (gap.label, gap.n) == ("x", 40)


def test_entropies_have_students_intervals_over_prompts():
    got = tables._interval(pd.Series({"entropy": 50.0, "stderr": 1.5, "prompts": 6}), "entropy", "low", "high")
    half = stats.t.ppf(0.975, 5) * 1.5
    assert got == pytest.approx({"entropy": 50.0, "low": 50 - half, "high": 50 + half}, rel=1e-6)


def test_smoothed_curves_have_students_interval_of_the_last_steps():
    curve = pd.DataFrame({"step": range(1, 29), "epoch": 1, "value": np.random.default_rng(0).normal(size=28)})
    got = curves._smooth(curve)
    for step in range(28):
        last = curve.value[max(0, step - 6) : step + 1]  # a quarter of the epoch
        assert got["mean"][step] == pytest.approx(last.mean())
        assert got.n[step] == len(last)
        if len(last) > 1:
            low, high = stats.t.interval(0.95, len(last) - 1, last.mean(), stats.sem(last))
            assert (got.low[step], got.high[step]) == pytest.approx((low, high), rel=1e-6)
    assert got.low[0] == got.high[0] == got["mean"][0]
    two = curves._smooth(pd.concat([curve, curve.assign(step=curve.step + 28, epoch=2)]))
    assert two.n.max() == 7  # of one epoch, not of all
    long = pd.DataFrame({"step": range(1000), "epoch": 1, "value": 0.0})
    assert curves._smooth(long).n.max() == 100


def test_bands_over_seeds_are_geometric_where_they_say_so():
    values = np.array([0.01, 0.02, 0.08])
    rows = pd.DataFrame({"step": 5, "js": values})
    logs = np.log(values)
    low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    got = language_models.band(rows, "step", "js").iloc[0]
    assert (got.step, got.value, got.low, got.high) == pytest.approx((5, stats.gmean(values), low, high))
    plain = language_models.band(rows, "step", "js", geometric=False).iloc[0]
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (plain.value, plain.low, plain.high) == pytest.approx((values.mean(), low, high))
    assert language_models.geometric(pd.Series(values)) == f"{stats.gmean(values):.2g} [{got.low:.2g}, {got.high:.2g}]"
    assert language_models.geometric(pd.Series([0.03])) == "0.03"
    assert language_models.geometric(pd.Series([0.0, 1e-15])) == "0 (< 1e-12)"
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert language_models.spread(pd.Series(values)) == f"{values.mean():.2g} ± {half:.1g}"
    assert language_models.signed(pd.Series(10 * values)) == f"{10 * values.mean():+.2f} ± {10 * half:.2f}"


def test_pooled_rank_correlation_has_fishers_interval():
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"beta_accuracy": rng.normal(size=30)})
    rows["miss"] = -rows.beta_accuracy + rng.normal(size=30)
    got = language_models._pooled(rows)
    r = stats.spearmanr(rows.beta_accuracy, rows.miss).statistic
    low, high = np.tanh(np.arctanh(r) + np.array([-1, 1]) * Z / math.sqrt(27))
    assert (got.value, got.low, got.high) == pytest.approx((r, low, high), rel=1e-6)


def test_figures_1_and_7_print_the_statistic_that_they_name(tmp_path, monkeypatch):
    """Three seeds whose geometric and arithmetic means differ: 0.02 and 0.0367 at the end."""
    rows = [
        (name, "b", tau, seed, step, js * (1 if step else 50), js)
        for name in laboratory.TITLES for tau in (0.25, 4.0) for step in (0, 10, 20)
        for seed, js in ((1, 0.01), (2, 0.01), (3, 0.08))
    ]  # fmt: skip
    columns = ["objective", "hyperparameters", "tau", "seed", "step", "js_target", "js_did"]
    artifacts.write(tmp_path / "objectives.parquet", pd.DataFrame(rows, columns=columns), "objectives")
    monkeypatch.setattr(laboratory.drawing, "save", lambda *_: None)  # only what the pages say
    laboratory.curves(objectives=tmp_path / "objectives.parquet", out=tmp_path)
    low, high = np.exp(stats.t.interval(0.95, 2, math.log(0.02), stats.sem(np.log([0.01, 0.01, 0.08]))))
    geometric = f"0.02 [{low:.2g}, {high:.2g}]"
    for name in ("figure1", "figure7"):
        text = (tmp_path / f"{name}.md").read_text()
        assert "Geometric means and 95 % intervals over 3 seeds" in text
        assert geometric in text
        assert "0.033" not in text  # the arithmetic mean
        assert "±" not in text
    assert f"ends at {geometric} nats for τ = 0.25" in (tmp_path / "figure1.md").read_text()


def test_arena_hards_interval_is_the_bootstrap_of_its_battles():
    outcomes = np.array([1.0] * 12 + [0.5] * 5 + [0.0] * 23)
    rng = np.random.default_rng(7)
    rates = [100 * outcomes[rng.integers(40, size=40)].mean() for _ in range(50)]  # win rate: (W + T / 2) / N
    assert arena_hard.bootstrap(outcomes, 50, 7) == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])), abs=1e-3)
    assert arena_hard.win_rate(outcomes) == pytest.approx(100 * outcomes.mean(), abs=1e-3)


def test_elos_interval_is_that_of_rounds_over_drawn_tasks():
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(
        [{"model": m, "prompt_id": f"t{t}", "score": float(rng.integers(1, 11)), "chars": 10}
         for m in "ab" for t in range(15)]
    )  # fmt: skip
    wide = scores.pivot_table(index="prompt_id", columns="model", values="score").sort_index()
    lead = (wide.a - wide.b).to_numpy()
    outcomes = np.where(lead >= 2, 1.0, np.where(lead <= -2, 0.0, 0.5))

    def played(votes):
        a = b = 1000.0
        for vote in votes:
            change = 4 * (outcomes[vote] - 1 / (1 + 10 ** ((b - a) / 400)))
            a, b = a + change, b - change
        return a, b

    ratings = [played(np.random.default_rng([5, r]).permutation(15)) for r in range(40)]
    redrawn = []
    for generator in (np.random.default_rng([5, r, 1]) for r in range(40)):
        tasks = generator.integers(15, size=15)
        redrawn.append(played(generator.permutation(tasks)))
    got = wildbench.elo(scores, {}, rounds=40, seed=5).set_index("model")
    low, high = np.percentile(redrawn, [2.5, 97.5], axis=0)
    for place, name in enumerate("ab"):
        assert got.elo[name] == pytest.approx(np.mean(ratings, axis=0)[place])
        assert (got.low[name], got.high[name]) == pytest.approx((low[place], high[place]))
        assert got.battles[name] == 15


def test_brackets_are_ends_minus_value():
    assert bracketed(30.0, 28.25, 31.5, 2) == "30.00 (-1.75, +1.50)"
    assert bracketed(30.0, float("nan"), 31.5, 1) == "30.0"
    assert bracketed(None, 1, 2, 1) == "not measured"
    assert number(float("nan"), 1) == ""
    assert number(2.345, 1) == "2.3"


def test_intercept_is_scipys():
    rng = np.random.default_rng(4)
    x = pd.Series(rng.normal(3, 2, 40))
    y = 0.7 - 0.3 * x + rng.normal(0, 1, 40)
    fit = stats.linregress(x, y)
    reach = stats.t.ppf(0.975, 38) * fit.intercept_stderr
    got = at_zero(y, x, "x")
    assert (got.value, got.low, got.high) == pytest.approx(
        (fit.intercept, fit.intercept - reach, fit.intercept + reach)
    )
    solved = np.linalg.lstsq(np.stack([np.ones(40), x]).T, y, rcond=None)[0]
    assert (got.value, got.label, got.n) == (pytest.approx(solved[0]), "x", 40)
    assert at_zero(y, 0 * x) == mean(y)
    assert math.isnan(at_zero(y, 0 * x + 2).value)
    two = at_zero(y[:2], x[:2])
    assert (two.low, two.high) == (-math.inf, math.inf)
