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

from diffinfo.cli import UserError, run
from diffinfo.methods import LABORATORY, METHODS
from diffinfo.report import drawing
from diffinfo.report.language_models import EDGE, band, did_proxy_page, geometric, rejected_sampling_page, spread
from diffinfo.report.lengths import lengths_page
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

TITLES = {name: METHODS[name].title for name in LABORATORY}
COMPARED = [name for name in LABORATORY if name != "logpi"]  # which is drawn against the DID
TAU_LOOKS = (
    ("#b2182b", "-"),
    ("#ef8a62", "--"),
    ("#67a9cf", "-."),
    ("#2166ac", ":"),
)  # reinforcing in reds, smoothing in blues
RUN = ["objective", "hyperparameters", "tau", "seed"]


def best_settings(objectives: pd.DataFrame) -> pd.DataFrame:
    """Objective, tau and best hyper-parameters: the least mean over seeds of the minimum over training (J.1).

    Step 0 does not count: all settings start at pi_ref, and one that only moves away would be chosen by its place.
    """
    minima = objectives[objectives.step > 0].groupby(RUN, sort=False).js_target.min()
    scores = minima.groupby(RUN[:3], sort=False).mean().reset_index()
    return scores.loc[scores.groupby(["objective", "tau"]).js_target.idxmin(), RUN[:3]].reset_index(drop=True)


def _curve(axis: Axes, rows: pd.DataFrame, y: str, label: str, **look: Any) -> None:
    drawing.line(axis, band(rows, "step", y), "step", "value", label, **look)


def _log_axis(axis: Axes, title: str, quantity: str, x: str = "training step (512 pairs each)") -> None:
    axis.set(title=title, xlabel=x, ylabel=f"{quantity} [nats]", yscale="log")


def _compare(axis: Axes, objectives: pd.DataFrame, best: pd.DataFrame, tau: float) -> pd.DataFrame:
    """Draw JS[pi* || pi] of each objective of the paper at one tau; return the rows drawn."""
    drawn = []
    for name in COMPARED:
        rows = objectives.merge(best[(best.objective == name) & (best.tau == tau)], on=RUN[:3])
        _curve(axis, rows, "js_target", TITLES[name], **drawing.style(METHODS[name].at(METHODS[name].solid)))
        drawn.append(rows)
    kind = "reinforcing" if tau < 1 else "smoothing"
    _log_axis(axis, f"τ = {tau:g} ({kind})", r"$\mathrm{JS}[\pi^*\,\Vert\,\pi]$")
    return pd.concat(drawn)


def _settings(note: Page, drawn: pd.DataFrame) -> None:
    """Tabulate the chosen hyper-parameters of the curves drawn, with their minima and ends."""
    ends = drawn[drawn.step > 0].groupby(RUN, sort=False).js_target.agg(["min", "last"]).reset_index()
    groups = ends.groupby(RUN[:3], sort=False)

    def line(r: Any) -> dict[str, str]:
        rows = groups.get_group((r.objective, r.hyperparameters, r.tau))
        named = {"τ": f"{r.tau:g}", "objective": TITLES[r.objective], "best": r.hyperparameters}
        return named | {"minimum": geometric(rows["min"]), "final": geometric(rows["last"])}

    note.table(groups.head(1), line)


def _write_figure(
    figure: Any, heading: str, rows: pd.DataFrame, kind: str, note: Page, out: Path, **inputs: Path
) -> None:
    drawing.save(figure, heading, out)
    note.write(out, rows, page=False)
    artifacts.write(out.with_suffix(".parquet"), rows, kind, inputs=inputs)


def curves(*, objectives: Path, out: Path) -> None:
    """Draw Figures 1 and 7 from the recorded divergences of the categorical experiments.

    Args:
        objectives: the objectives table.
        out: folder for figure1 and figure7, each as .parquet, .csv, .md, .tex, .svg, .pdf and .png.
    """
    table = artifacts.read(objectives, "objectives")
    best, taus = best_settings(table), sorted(table.tau.unique())
    seeds = sorted(table.seed.unique())
    sure = f"Geometric means and 95 % intervals over {len(seeds)} seeds ({', '.join(map(str, seeds))})."

    figure, (left, right) = drawing.canvas(2, width=5.0, height=3.8)
    fitted = table[table.objective == "logpi"]
    for tau, (colour, dashes) in zip(taus, TAU_LOOKS, strict=False):
        label = f"τ = {tau:g}" + (r" ($q = \pi_\mathrm{ref}$)" if tau == 0.5 else "")
        _curve(left, fitted[fitted.tau == tau], "js_did", label, color=colour, linestyle=dashes)
    _log_axis(left, "distance from the DID under r = log π", r"$\mathrm{JS}[q_{\pi^*/\pi_\mathrm{ref}}\,\Vert\,\pi]$")
    shown = 4.0 if 4.0 in taus else taus[-1]
    compared = _compare(right, table, best, shown)
    left.set_ylim(bottom=EDGE)  # at tau = 0.5 training starts at 0
    for axis in (left, right):
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3)
    figure.supxlabel(sure, fontsize=8, color="#555555")
    heading = "Figure 1. Distance from the DID under r = log π, and from the target under each objective"
    note = Page(heading)
    last = fitted[fitted.step == fitted.step.max()].groupby("tau").js_did
    note.say(
        "Left: JS divergence between the DID and a policy trained with r = log π; the paper sees it converge to 0.",
        f"Here it ends at {'; '.join(f'{geometric(rows)} nats for τ = {tau:g}' for tau, rows in last)}.",
    )
    note.say("At τ = 0.5 the DID is π_ref itself, where training starts: that curve shows the noise of training alone.")
    note.say(f"Right: JS divergence from the target at τ = {shown:g}; the paper finds DPO (purple) lowest.", sure)
    _settings(note, compared)
    drawn = pd.concat([fitted, compared])
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
    _settings(note, drawn)
    _write_figure(figure, heading, drawn, "objectives", note, out / "figure7", objectives=objectives)


def training_against_optimum(objectives: pd.DataFrame, population: pd.DataFrame) -> pd.DataFrame:
    """Per run of the whole grid: minimum and final JS of training, and the JS of the optimum of the expected loss."""
    rows = objectives[objectives.step > 0]
    least = rows.loc[rows.groupby(RUN).js_target.idxmin()].set_index(RUN)
    last = rows.loc[rows.groupby(RUN).step.idxmax()].set_index(RUN)
    found = pd.DataFrame({"js_minimum": least.js_target, "minimum_step": least.step, "js_final": last.js_target})
    both = population.drop(columns=list(found)).merge(found.reset_index(), on=RUN)
    if both.empty:
        raise UserError("The population table has no seed of the objectives table: give both the same seeds and taus.")
    return both.assign(order=both.objective.map(list(TITLES).index)).sort_values(["tau", "order", "seed"])


def leads_from(objectives: pd.DataFrame, chosen: pd.DataFrame, name: str = "dpo") -> int | None:
    """First recorded step from which an objective's mean JS over seeds is the lowest to the end; None if it never is."""
    means = objectives.merge(chosen, on=RUN[:3]).pivot_table(index="step", columns="objective", values="js_target")
    behind = means[name] > means.drop(columns=name).min(axis=1)
    if behind.iloc[-1]:
        return None
    return int(means.index[0] if not behind.any() else means.index[np.flatnonzero(behind)[-1] + 1])


def _nearest(runs: pd.DataFrame, column: str) -> str:
    """The least mean over seeds among all hyper-parameters, with its interval and the hyper-parameters."""
    chosen = runs.groupby("hyperparameters")[column].mean().idxmin()
    return f"{spread(runs[runs.hyperparameters == chosen][column])} ({chosen})"


def laboratory_table(runs: pd.DataFrame, objectives: pd.DataFrame, out: Path, figures: Path) -> None:
    """The table and figure that separate an objective's bias from the noise of training it."""
    best = best_settings(objectives)
    both = runs.merge(best, on=RUN[:3])
    page = Page("The laboratory: how far each objective ends from the target")
    page.say(
        f"JS[π* ‖ π] in nats, means with 95 % intervals over {objectives.seed.nunique()} seeds,",
        f"{objectives.step.max():,} steps recorded every {objectives.step[objectives.step > 0].min()}. Hyper-parameters",
        "are those that reach the lowest minimum over training (J.1). The minimum flatters objectives that pass near π*",
        "and leave it. An optimum is that of the expected loss over all pairs of classes: what no amount of training",
        "removes. The last two columns take the best of the whole grid for each.",
    )
    groups, whole = (table.groupby(["tau", "order"], sort=True) for table in (both, runs))
    for tau, grid in runs.groupby("tau"):
        last, exact = (
            grid.groupby(["objective", "hyperparameters"])[column].mean().idxmin()[0]
            for column in ("js_final", "js_target")
        )
        since = leads_from(objectives, best[best.tau == tau])
        page.say(
            f"τ = {tau:g}: lowest of the whole grid at the end of training {TITLES[last]}, at the optimum {TITLES[exact]}.",
            "DPO is not the lowest at the end." if since is None else f"DPO is the lowest from step {since:,} on.",
        )

    def line(r: Any) -> dict[str, str]:
        rows = groups.get_group((r.tau, r.order))
        return {
            "τ": f"{r.tau:g}",
            "objective": TITLES[r.objective],
            "hyper-parameters": r.hyperparameters,
            "minimum": spread(rows.js_minimum),
            "at step": f"{rows.minimum_step.mean():.0f}",
            "final": spread(rows.js_final),
            "optimum": spread(rows.js_target),
            "lowest final of the grid": _nearest(whole.get_group((r.tau, r.order)), "js_final"),
            "nearest optimum of the grid": _nearest(whole.get_group((r.tau, r.order)), "js_target"),
        }

    page.table(groups.head(1), line)
    page.write(out, runs)

    taus = sorted(both.tau.unique())
    figure, axes = drawing.canvas(len(taus), width=3.2, height=3.4)
    marks = {
        "js_minimum": ("o", "none", 0.2, "minimum over training"),
        "js_final": ("s", None, 0.0, "end of training"),
        "js_target": ("d", None, -0.2, "optimum"),
    }
    for axis, tau in zip(axes, taus, strict=True):
        for place, name in enumerate(reversed(TITLES)):
            rows = both[(both.tau == tau) & (both.objective == name)]
            colour = METHODS[name].colours[0]
            for column, (mark, inside, lift, _) in marks.items():
                x = rows[column][rows[column] > EDGE]
                look: dict[str, Any] = {"color": colour, "markerfacecolor": inside or colour, "markersize": 4}
                axis.plot(x, [place + lift] * len(x), mark, **look)
            if (rows.js_target <= EDGE).all():
                axis.annotate("optimum: 0", (EDGE, place), (2 * EDGE, place - 0.28), fontsize=8, color=colour)
                axis.plot([1.3 * EDGE], [place - 0.2], "<", color=colour, markersize=4)
        axis.set(
            title=f"τ = {tau:g}", xscale="log", xlim=(EDGE, 0.7), xlabel=r"$\mathrm{JS}[\pi^*\,\Vert\,\pi]$ [nats]"
        )
        axis.set_yticks(range(len(TITLES)), list(reversed(TITLES.values())) if axis is axes[0] else [""] * len(TITLES))
    for mark, inside, _, label in marks.values():
        grey: dict[str, Any] = {"color": "#666666", "markerfacecolor": inside or "#666666", "markersize": 4}
        axes[0].plot([], [], mark, label=label, **grey)
    drawing.legend(figure, axes, "one mark a seed; the optimum is that of the expected loss, in float64")
    drawing.save(
        figure, "Noise and bias: where training ends and where the objective's optimum is", figures / "laboratory"
    )


def theorems_table(theorems: pd.DataFrame, out: Path) -> None:
    """Every statement, whether it holds, and what its check says with the condition broken."""
    page = Page("The theorems, checked")
    page.say(
        "Each row is a quantity that is at most its tolerance where the statement holds, the worst over many random",
        "policies. The last columns break the statement's condition on purpose: the check must fail there. Rows marked",
        "'as printed' or 'read for' take a statement more literally than its proof allows.",
    )
    rows, tested = theorems.groupby("statement", sort=False).holds, theorems.broken.notna()
    caught = (theorems.broken_value > theorems.tolerance)[tested]
    page.say(
        f"{theorems.holds.sum()} of {len(theorems)} rows hold; {caught.sum()} of {tested.sum()} checks whose condition can",
        "be broken fail then. With counter-examples (rows that do not hold, of all rows of the statement):",
        "; ".join(f"{name} ({(~held).sum()} of {len(held)})" for name, held in rows if not held.all()) + ".",
    )

    def line(r: Any) -> dict[str, str]:
        broken = "" if pd.isna(r.broken_value) else f"{r.broken_value:.2g}"
        return {
            "statement": r.statement,
            "quantity": r.quantity.replace("||", "‖").replace("|", "∣"),  # bars would end a Markdown cell
            "value": f"{r.value:.2g}",
            "tolerance": f"{r.tolerance:.0e}" if 0 < r.tolerance < 0.1 else f"{r.tolerance:g}",
            "holds": "yes" if r.holds else "no",
            "condition broken": "" if r.broken is None or pd.isna(r.broken) else r.broken.replace("|", "∣"),
            "value then": broken,
        }

    page.table(theorems, line)
    page.write(out, theorems)


def summary(
    *,
    objectives: Path,
    population: Path,
    theorems: Path,
    did_proxy: Path,
    rejected_sampling: Path,
    lengths: Path,
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
        lengths: the lengths table.
        tables: folder for laboratory (with its .parquet), theorems, did_proxy, rejected_sampling and lengths, as .md, .html,
            .tex and .csv.
        figures: folder for laboratory, did_proxy, rejected_sampling and lengths, each as .svg, .pdf and .png.
    """
    trained = artifacts.read(objectives, "objectives")
    runs = training_against_optimum(trained, artifacts.read(population, "population"))
    sources = {"objectives": objectives, "population": population}
    laboratory_table(runs, trained, tables / "laboratory", figures)
    theorems_table(artifacts.read(theorems, "theorems"), tables / "theorems")
    did_proxy_page(artifacts.read(did_proxy, "did_proxy"), tables / "did_proxy", figures / "did_proxy")
    pairs = artifacts.read(rejected_sampling, "rejected_sampling")
    rejected_sampling_page(pairs, tables / "rejected_sampling", figures / "rejected_sampling")
    lengths_page(artifacts.read(lengths, "lengths"), tables / "lengths", figures / "lengths")
    artifacts.write(tables / "laboratory.parquet", runs, "population", inputs=sources)


if __name__ == "__main__":
    run({"curves": curves, "summary": summary})
