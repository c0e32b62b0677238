"""Figures 1 and 7 and the laboratory's own tables and figures, from the tables in results/synthetic.

``python -m diffinfo.report.laboratory curves --objectives results/synthetic/objectives.parquet --out results/figures``
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from diffinfo import artifacts
from diffinfo.cli import UserError, run
from diffinfo.report import drawing
from diffinfo.report.intervals import mean
from diffinfo.report.page import Page

# The paper draws DPO in purple, fifth of matplotlib's cycle: SLiC, ORPO, SimPO and Cal-DPO come before it.
PAPER_ORDER = ("slic", "orpo", "simpo", "cal-dpo", "dpo")
TITLES = {"slic": "SLiC", "orpo": "ORPO", "simpo": "SimPO", "cal-dpo": "Cal-DPO", "dpo": "DPO", "logpi": "log π"}
TAU_COLOURS = ("#b2182b", "#ef8a62", "#67a9cf", "#2166ac")  # reinforcing in reds, smoothing in blues
RUN = ["objective", "hyperparameters", "tau", "seed"]
ESTIMATORS = {
    "proxy": ("proxy", "#7a3fb0"),
    "proxy-snis": ("weighted proxy", "#0072b2"),
    "policy-is": ("weighted π", "#e69f00"),
    "token-ratio-is": ("weighted token ratios", "#009e73"),
}
DECODES: dict[str, Any] = {"greedy": (0, (4, 1.5)), "sample": "-"}
PAIRS = {"greedy": "greedy pairs", "sample": "sampled pairs"}
FLOOR = 1e-17  # nats: below this a divergence in float64 is zero
EDGE = 1e-6  # nats: where the laboratory figure's axis starts


def best_settings(objectives: pd.DataFrame) -> pd.DataFrame:
    """Objective, tau and best hyper-parameters: the least mean over seeds of the minimum over training (J.1)."""
    minima = objectives.groupby(RUN, sort=False).js_target.min()
    scores = minima.groupby(RUN[:3], sort=False).mean().reset_index()
    return scores.loc[scores.groupby(["objective", "tau"]).js_target.idxmin(), RUN[:3]].reset_index(drop=True)


def band(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Geometric mean over seeds with Student's 95 % interval on the log scale; the bare curve for one seed."""
    logs = rows.assign(value=np.log(rows[y].clip(lower=FLOOR))).groupby(x).value
    estimates = [mean(group) for _, group in logs]
    keep = [e if math.isfinite(e.low) else type(e)(e.label, e.value, e.value, e.value, e.n) for e in estimates]
    values = {name: np.exp([getattr(e, name) for e in keep]) for name in ("value", "low", "high")}
    return pd.DataFrame({x: list(logs.groups), **values})


def _curve(axis: Axes, rows: pd.DataFrame, y: str, label: str, **look: Any) -> None:
    drawing.line(axis, band(rows, "step", y), "step", "value", label, **look)


def _log_axis(axis: Axes, title: str, quantity: str, x: str = "training step (512 pairs each)") -> None:
    axis.set(title=title, xlabel=x, ylabel=f"{quantity} [nats]", yscale="log")


def _compare(axis: Axes, objectives: pd.DataFrame, best: pd.DataFrame, tau: float) -> pd.DataFrame:
    """Draw JS[pi* || pi] of each objective of the paper at one tau; return the rows drawn."""
    drawn = []
    for name in PAPER_ORDER:
        rows = objectives.merge(best[(best.objective == name) & (best.tau == tau)], on=RUN[:3])
        _curve(axis, rows, "js_target", TITLES[name], **drawing.style(f"{name}-b0.2"))
        drawn.append(rows)
    kind = "reinforcing" if tau < 1 else "smoothing"
    _log_axis(axis, f"τ = {tau:g} ({kind})", r"$\mathrm{JS}[\pi^*\,\Vert\,\pi]$")
    return pd.concat(drawn)


def _settings_note(best: pd.DataFrame, taus: list[float]) -> pd.DataFrame:
    chosen = best[best.objective.isin(PAPER_ORDER) & best.tau.isin(taus)]
    order = chosen.objective.map(PAPER_ORDER.index)
    return chosen.assign(order=order).sort_values(["tau", "order"])


def _write_figure(
    figure: Any, heading: str, rows: pd.DataFrame, kind: str, note: Page, out: Path, **inputs: Path
) -> None:
    artifacts.write(out.with_suffix(".parquet"), rows, kind, inputs=inputs)
    drawing.save(figure, heading, out)
    note.write(out.with_suffix(".md"))


def curves(*, objectives: Path, out: Path) -> None:
    """Draw Figures 1 and 7 from the recorded divergences of the categorical experiments.

    Args:
        objectives: the objectives table.
        out: folder for figure1 and figure7, each as .parquet, .md, .svg and .png.
    """
    table = artifacts.read(objectives, "objectives")
    best, taus = best_settings(table), sorted(table.tau.unique())
    seeds = sorted(table.seed.unique())
    sure = f"Geometric means and 95 % intervals over {len(seeds)} seeds ({', '.join(map(str, seeds))})."

    figure, (left, right) = drawing.canvas(2, width=5.0, height=3.8)
    fitted = table[table.objective == "logpi"]
    for tau, colour in zip(taus, TAU_COLOURS, strict=False):
        _curve(left, fitted[fitted.tau == tau], "js_did", f"τ = {tau:g}", color=colour)
    _log_axis(left, "r = log π fits the DID", r"$\mathrm{JS}[q_{\pi^*/\pi_\mathrm{ref}}\,\Vert\,\pi]$")
    shown = 4.0 if 4.0 in taus else taus[-1]
    drawn = pd.concat([fitted, _compare(right, table, best, shown)])
    left.set_ylim(bottom=1e-6)  # the start at tau = 0.5 is zero but for rounding
    for axis in (left, right):
        axis.legend(loc="best", ncols=2)
    figure.supxlabel(sure, fontsize=8, color="#555555")
    heading = "Figure 1. Preferences encode the DID, and DPO recovers the target"
    note = Page(heading)
    note.say(
        "Left: JS divergence between the DID and a policy trained with r = log π; the paper sees it converge to 0."
    )
    note.say("At τ = 0.5 the DID is π_ref itself, where training starts: that curve shows the noise of training alone.")
    note.say(f"Right: JS divergence from the target at τ = {shown:g}; the paper finds DPO (purple) lowest.", sure)
    note.table(_settings_note(best, [shown]), lambda r: {"objective": TITLES[r.objective], "best": r.hyperparameters})
    _write_figure(figure, heading, drawn, "objectives", note, out / "figure1", objectives=objectives)

    figure, axes = drawing.canvas(2, math.ceil(len(taus) / 2), width=5.0, height=3.3)
    for spare in axes[len(taus) :]:
        spare.remove()
    drawn = pd.concat([_compare(axis, table, best, tau) for axis, tau in zip(axes, taus, strict=False)])
    drawing.legend(figure, axes[: len(taus)], sure)
    heading = "Figure 7. Distance from the target under each objective"
    note = Page(heading)
    note.say("JS divergence between the target and the policy, with the best hyper-parameters of each objective (J.1).")
    note.say("The paper finds DPO lowest at every τ.", sure)
    note.table(
        _settings_note(best, taus),
        lambda r: {"τ": f"{r.tau:g}", "objective": TITLES[r.objective], "best": r.hyperparameters},
    )
    _write_figure(figure, heading, drawn, "objectives", note, out / "figure7", objectives=objectives)


def training_against_optimum(objectives: pd.DataFrame, population: pd.DataFrame) -> pd.DataFrame:
    """Per objective, tau and seed with the best hyper-parameters: minimum and final JS of training, optimum's JS."""
    rows = objectives.merge(best_settings(objectives), on=RUN[:3])
    least = rows.loc[rows.groupby(RUN).js_target.idxmin()].set_index(RUN)
    last = rows.loc[rows.groupby(RUN).step.idxmax()].set_index(RUN)
    found = pd.DataFrame({"js_minimum": least.js_target, "minimum_step": least.step, "js_final": last.js_target})
    both = population.drop(columns=list(found)).merge(found.reset_index(), on=RUN)
    if both.empty:
        raise UserError("The population table has no seed of the objectives table: give both the same seeds and taus.")
    return both.assign(order=both.objective.map(list(TITLES).index)).sort_values(["tau", "order", "seed"])


def _spread(values: pd.Series) -> str:
    e = mean(values)
    if e.value < 1e-12:
        return "0 (< 1e-12)"
    return f"{e.value:.2g}" + (f" ± {e.high - e.value:.1g}" if math.isfinite(e.high) else "")


def _optima(population: pd.DataFrame, objective: str, tau: float) -> str:
    rows = population[(population.objective == objective) & (population.tau == tau)]
    means = rows.groupby("hyperparameters").js_target.mean()
    chosen = means.idxmin()
    return f"{_spread(rows[rows.hyperparameters == chosen].js_target)} ({chosen})"


def laboratory_table(both: pd.DataFrame, population: pd.DataFrame, out: Path, figures: Path) -> None:
    """The table and figure that separate an objective's bias from the noise of training it."""
    page = Page("The laboratory: how far each objective ends from the target")
    page.say(
        "JS[π* ‖ π] in nats, means with 95 % intervals over seeds, with the hyper-parameters that reach the lowest",
        "minimum over training (J.1). The minimum flatters objectives that pass near π* and leave it; the last column",
        "is the nearest of all the grid's optima of the expected loss: what no amount of training removes.",
    )
    groups = both.groupby(["tau", "order"], sort=True)
    for tau, part in both.groupby("tau"):
        last = part.groupby("objective").js_final.mean()
        exact = part.groupby("objective").js_target.mean()
        page.say(
            f"τ = {tau:g}: lowest at the end of training {TITLES[last.idxmin()]},",
            f"at the optimum {TITLES[exact.idxmin()]}.",
        )

    def line(r: Any) -> dict[str, str]:
        rows = groups.get_group((r.tau, r.order))
        return {
            "τ": f"{r.tau:g}",
            "objective": TITLES[r.objective],
            "hyper-parameters": r.hyperparameters,
            "minimum": _spread(rows.js_minimum),
            "at step": f"{rows.minimum_step.mean():.0f}",
            "final": _spread(rows.js_final),
            "optimum": _spread(rows.js_target),
            "best optimum of the grid": _optima(population, r.objective, r.tau),
        }

    page.table(groups.head(1), line)
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))

    taus = sorted(both.tau.unique())
    figure, axes = drawing.canvas(len(taus), width=3.2, height=3.4)
    marks = {
        "js_minimum": ("o", "none", 5, "minimum over training"),
        "js_final": ("s", None, 5, "end of training"),
        "js_target": ("|", None, 11, "optimum"),
    }
    for axis, tau in zip(axes, taus, strict=True):
        for place, name in enumerate(reversed(TITLES)):
            rows = both[(both.tau == tau) & (both.objective == name)]
            colour = drawing.style(f"{name}-b0.2")["color"]
            for column, (mark, inside, size, label) in marks.items():
                x = rows[column][rows[column] > EDGE]
                look = {"color": colour, "markerfacecolor": inside or colour, "markersize": size, "label": label}
                axis.plot(x, [place] * len(x), mark, **look)
            if (rows.js_target <= EDGE).all():
                axis.annotate("optimum: 0", (EDGE, place), (2.5 * EDGE, place + 0.28), fontsize=8, color=colour)
                axis.plot([1.3 * EDGE], [place], "<", color=colour)
        axis.set(
            title=f"τ = {tau:g}", xscale="log", xlim=(EDGE, 0.7), xlabel=r"$\mathrm{JS}[\pi^*\,\Vert\,\pi]$ [nats]"
        )
        axis.set_yticks(range(len(TITLES)), list(reversed(TITLES.values())))
    drawing.legend(figure, axes, "one mark a seed; the optimum is that of the expected loss, in float64")
    drawing.save(
        figure, "Noise and bias: where training ends and where the objective's optimum lies", figures / "laboratory"
    )


def theorems_table(theorems: pd.DataFrame, out: Path) -> None:
    """Every statement, whether it holds, and what its check says with the condition broken."""
    page = Page("The theorems, checked")
    page.say(
        "Each row is a quantity that is at most its tolerance where the statement holds, the worst over many random",
        "policies. The last columns break the statement's condition on purpose: the check must fail there. Rows marked",
        "'as printed' or 'read for' take a statement more literally than its proof allows.",
    )

    def line(r: Any) -> dict[str, str]:
        broken = "" if pd.isna(r.broken_value) else f"{r.broken_value:.2g}"
        return {
            "statement": r.statement,
            "quantity": r.quantity,
            "value": f"{r.value:.2g}",
            "tolerance": f"{r.tolerance:.0e}" if 0 < r.tolerance < 0.1 else f"{r.tolerance:g}",
            "holds": "yes" if r.holds else "no",
            "condition broken": "" if r.broken is None or pd.isna(r.broken) else r.broken,
            "value then": broken,
        }

    page.table(theorems, line)
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))


def _rank(x: pd.Series, y: pd.Series) -> float:
    return float(x.rank().corr(y.rank()))


def _ordered(rows: pd.DataFrame) -> float:
    """Share of (world, kind of pairs) in which the estimates order the policies as the exact values do."""
    wide = rows.pivot_table(index=["seed", "pairs"], columns="policy", values=["estimate", "exact"])
    one, two = wide.columns.get_level_values("policy").unique()[:2]
    agree = (wide["estimate"][one] > wide["estimate"][two]) == (wide["exact"][one] > wide["exact"][two])
    return float(agree.mean())


def did_proxy_page(table: pd.DataFrame, out: Path, drawn: Path) -> None:
    """Table and figure: the error of H(q) by Appendix K's proxy and by its rivals."""
    table = table.assign(error=table.estimate - table.exact, repeated=table.steps * 32 > table.pairs)
    proxies = table[table.estimator == "proxy"]
    heading = "How far to trust the entropy of the DID: estimates against the exact value"
    page = Page(heading)
    page.say(
        "Error of H(q) in nats, estimate minus exact, on language models whose 3,906 responses can be listed: means",
        f"with 95 % intervals over {table.seed.nunique()} worlds. Cost counts sequences passed forward through a model",
        "(a backward pass as two). 'proxy' is Appendix K's π̃; the weighted estimators are self-normalised importance",
        "sampling from π̃, from π, or from a chain whose next token follows the ratio of both next-token distributions.",
        "'tied' is the share of training pairs with the same response twice.",
    )
    page.say(
        f"Exact entropies: H(π_ref) {table.reference_entropy.mean():.2f}, and at most ln 3,906 = {math.log(3906):.2f}.",
        *(
            f"{name}: H(π) {rows.policy_entropy.mean():.2f}, H(q) {rows.exact.mean():.2f}."
            for name, rows in table.groupby("policy")
        ),
        "Where π and π_ref agree their ratio is 1, however improbable the response: the DID is broad, and a proxy that",
        "has not moved far from π_ref reports something near H(π_ref).",
    )
    for how, rows in proxies.groupby("decode"):
        finished = rows[rows.steps == rows.steps.max()]
        page.say(
            f"Proxies on {PAIRS[str(how)]}: rank correlation of β′-accuracy with the absolute error",
            f"{_rank(rows.beta_accuracy, rows.error.abs()):+.2f} (n = {len(rows)}); after the longest training the mean",
            f"error is {finished.error.mean():+.2f} nats, and both policies are ordered as the exact values order them in",
            f"{_ordered(finished):.0%} of cases.",
        )
    keys = ["policy", "estimator", "decode", "steps", "pairs", "cost"]
    groups = table.groupby(keys, sort=False)
    first = groups.head(1)

    def line(r: Any) -> dict[str, str]:
        rows = groups.get_group(tuple(getattr(r, key) for key in keys))
        return {
            "policy": r.policy,
            "estimator": ESTIMATORS[r.estimator][0],
            "decode": r.decode,
            "steps": str(r.steps) if r.steps else "none",
            "pairs or samples": f"{r.pairs:,}",
            "cost": f"{r.cost:,}",
            "exact": f"{rows.exact.mean():.2f}",
            "error": _spread_signed(rows.error),
            "β′-accuracy": "" if rows.beta_accuracy.isna().all() else f"{rows.beta_accuracy.mean():.2f}",
            "tied": "" if rows.tied.isna().all() else f"{rows.tied.mean():.2f}",
        }

    page.table(first.sort_values(["policy", "estimator", "decode", "cost"]), line)
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))

    figure, (left, right) = drawing.canvas(2, width=5.2, height=3.9)
    for (name, how), rows in table[~table.repeated].groupby(["estimator", "decode"]):
        label, colour = ESTIMATORS[str(name)]
        text = f"{label}, {PAIRS[str(how)]}" if "proxy" in str(name) else label
        means = band(rows.assign(error=rows.error.abs()), "cost", "error")
        drawing.line(
            left, means, "cost", "value", text, color=colour, linestyle=DECODES[str(how)], marker="o", markersize=3
        )
    left.set(xscale="log", yscale="log", xlabel="cost [sequences through a model]", ylabel="|estimate − exact| [nats]")
    left.set_title("error at equal cost")
    for how, mark in (("greedy", "s"), ("sample", "o")):
        rows = proxies[proxies.decode == how]
        right.scatter(rows.beta_accuracy, rows.error, marker=mark, s=22, alpha=0.7, label=PAIRS[how],
                      color="#7a3fb0" if how == "sample" else "#d55e00")  # fmt: skip
    right.axhline(0.0, color="#666666", linewidth=0.8)
    right.set(xlabel="β′-accuracy (K.1)", ylabel="estimate − exact [nats]", title="does β′-accuracy tell?")
    for axis in (left, right):
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    right.set_xlabel("β′-accuracy (K.1); one mark a proxy")
    drawing.save(figure, "Entropy of the DID: Appendix K's proxy and its rivals", drawn)


def _spread_signed(values: pd.Series) -> str:
    e = mean(values)
    return f"{e.value:+.2f}" + (f" ± {e.high - e.value:.2f}" if math.isfinite(e.high) else "")


def rejected_sampling_page(table: pd.DataFrame, out: Path, drawn: Path) -> None:
    """Table and figure: distance from pi* by the source of rejected responses."""
    names = list(dict.fromkeys(table.rejected))
    counts = sorted(table.pairs.unique())
    page = Page("Which rejected responses let DPO recover the target (Equation 1)")
    page.say(
        "JS[π* ‖ π] in nats on language models whose responses can be listed, y_w ~ π_ref; means with 95 % intervals",
        f"over {table.seed.nunique()} worlds. 'optimum' minimises the expected loss; the other columns are a transformer",
        "trained on that many pairs. Labels of 'best and worst' pairs are certain: DPO has no finite optimum there.",
        "A wrong optimum can still be a good direction: the worst of a few samples leads towards π* for as long as the",
        "responses it nearly never rejects are too rare to have been seen.",
    )

    def line(r: Any) -> dict[str, str]:
        def cell(pairs: int) -> str:
            rows = table[(table.rejected == r.rejected) & (table.pairs == pairs)]
            return "none" if rows.empty else _spread(rows.js_target)

        return {"y_l": r.rejected} | {("optimum" if n == 0 else f"{n:,} pairs"): cell(n) for n in counts}

    page.table(pd.DataFrame({"rejected": names}), line)
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))

    start = (
        table[(table.rejected == "reference") & (table.pairs == 0)].set_index("seed").js_target
    )  # DPO stays at pi_ref
    table = table.assign(share=table.js_target / table.seed.map(start))
    figure, (axis,) = drawing.canvas(1, width=7.5, height=4.2)
    for name, colour in zip(names, ("#3f007d", "#a86fd0", "#666666", "#009e73", "#d55e00"), strict=False):
        rows = table[table.rejected == name]
        curve = band(rows[rows.pairs > 0], "pairs", "share")
        drawing.line(axis, curve, "pairs", "value", name, color=colour, marker="o", markersize=3)
        exact = rows[rows.pairs == 0].share.mean()
        if exact > EDGE:
            axis.axhline(exact, color=colour, linestyle=(0, (1, 2)), linewidth=1.1)
    quantity = r"$\mathrm{JS}[\pi^*\,\Vert\,\pi]$ / $\mathrm{JS}[\pi^*\,\Vert\,\pi_\mathrm{ref}]$"
    axis.set(xscale="log", yscale="log", xlabel="training pairs", ylabel=quantity)
    remark = "source of rejected responses; dotted: the optimum of the expected loss (0 for Eq. 1)"
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3, title=remark, title_fontsize=8, alignment="left")
    drawing.save(figure, "Only Equation 1's rejected responses lead to the target", drawn)


def summary(
    *,
    objectives: Path,
    population: Path,
    theorems: Path,
    did_proxy: Path,
    rejected_sampling: Path,
    tables: Path,
    figures: Path,
) -> None:
    """Write the laboratory's tables and figures.

    Args:
        objectives: the objectives table.
        population: the population table.
        theorems: the theorems table.
        did_proxy: the did_proxy table.
        rejected_sampling: the rejected_sampling table.
        tables: folder for laboratory (with its .parquet), theorems, did_proxy and rejected_sampling, as .md and .html.
        figures: folder for laboratory, did_proxy and rejected_sampling, each as .svg and .png.
    """
    optima = artifacts.read(population, "population")
    both = training_against_optimum(artifacts.read(objectives, "objectives"), optima)
    sources = {"objectives": objectives, "population": population}
    artifacts.write(tables / "laboratory.parquet", both, "population", inputs=sources)
    laboratory_table(both, optima, tables / "laboratory", figures)
    theorems_table(artifacts.read(theorems, "theorems"), tables / "theorems")
    did_proxy_page(artifacts.read(did_proxy, "did_proxy"), tables / "did_proxy", figures / "did_proxy")
    pairs = artifacts.read(rejected_sampling, "rejected_sampling")
    rejected_sampling_page(pairs, tables / "rejected_sampling", figures / "rejected_sampling")


if __name__ == "__main__":
    run({"curves": curves, "summary": summary})
