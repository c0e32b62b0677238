"""Figures 2, 3, 5, 6 and 8 to 13 (4 is an illustration without data; 1 and 7 are the laboratory's).

``python -m diffinfo.report.figures figure2 --inputs '["results/train/..."]' --out results/figures/figure2.parquet``
writes the plotted data, and beside it the figure as SVG and PNG and a note in Markdown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffinfo.cli import run
from diffinfo.intervals import bracketed, mean
from diffinfo.methods import METHODS
from diffinfo.report import curves, drawing, paper
from diffinfo.report.cells import beta, cell, family, rows_of, title
from diffinfo.report.drawing import panel_title, style
from diffinfo.report.mrr import RIVALS, mrr_table
from diffinfo.report.page import Page
from diffinfo.report.rewards import reward_table
from diffinfo.tables import artifacts

MISTRAL, GEMMA = "mistral-7b-v0.3", "gemma-2-9b"
MAGPIES = ("magpie-pro", "magpie-g27")
_ALL = tuple((model, dataset) for model in (MISTRAL, GEMMA) for dataset in MAGPIES)
_ON_MISTRAL = ((MISTRAL, "ultrafeedback"), (MISTRAL, "magpie-pro"))
_WORDS = {
    "chosen": "log π(y_w) − log π_ref(y_w)",
    "rejected": "log π(y_l) − log π_ref(y_l)",
    "margin": "log-margin − that of π_ref",
    "dpo_loss": "DPO loss at β = 0.1",
    "logp_chosen": "log π̃(y_w)",
    "logp_rejected": "log π̃(y_l)",
}
_SIGNS = {  # the same for the canvas
    "chosen": r"$\log\,\pi(y_w) - \log\,\pi_\mathrm{ref}(y_w)$",
    "rejected": r"$\log\,\pi(y_l) - \log\,\pi_\mathrm{ref}(y_l)$",
    "margin": r"log-margin above $\pi_\mathrm{ref}$'s",
    "dpo_loss": r"DPO loss at $\beta = 0.1$",
    "logp_chosen": r"$\log\,\tilde\pi(y_w)$",
    "logp_rejected": r"$\log\,\tilde\pi(y_l)$",
}
_TOPICS = {"chosen": "chosen", "rejected": "rejected", "margin": "margin", "logp_chosen": "$y_w$ from π",
           "logp_rejected": "$y_l$ from $\\pi_\\mathrm{ref}$"}  # fmt: skip
_REWARD = r"reward above $\pi_\mathrm{ref}$"
_RUNNING = (
    "Lines are running means over a quarter of an epoch (at most 100 steps), bands their 95 % intervals from the "
    "scatter between batches. Batches differ from step to step, so each is compared with its own log-probability "
    "under π_ref: every curve starts at 0."
)


def figure3(*, inputs: list[Path], out: Path) -> None:
    """Figure 3: mean reciprocal rank over eight QA benchmarks, Mistral.

    Args:
        inputs: ``qa`` tables of the DPO and DPO-PG runs.
        out: the plotted data; the figure and its note are written beside it.
    """
    _mrr(inputs, out, "Figure 3. Mean reciprocal rank over eight QA benchmarks", MISTRAL)


def figure6(*, inputs: list[Path], out: Path) -> None:
    """Figure 6: expected reward above the reference, DPO against r = beta log pi.

    Args:
        inputs: ``scores`` tables of the runs and of the reference, .../reward/MODEL/DATASET/METHOD/SPAN/scores.parquet.
        out: the plotted data; the figure and its note are written beside it.
    """
    data = reward_table(inputs)
    rows = rows_of(data)
    heading = "Figure 6. Expected reward above π_ref"
    note = _note(heading, "The paper: the log-ratio reward of DPO reaches higher expected rewards than r = β log π.")
    note.say(
        "Reward model score of completions of held-out prompts, minus that of π_ref's on the same prompt.",
        "Bars are the highest mean over β and epochs of each objective; intervals are 95 %, paired by prompt.",
        "A maximum over several noisy means is biased upwards, alike for both objectives where both have as many: ours,",
        "selected apart, reports each half of the prompts at the β and epoch that are best on the other half; at equal length",
        "is its intercept where a prompt's difference in reward is fitted over that in tokens.",
    )
    figure, axes = (None, []) if not rows else drawing.canvas(len(rows) + 1, width=3.7)
    for axis, (model, dataset) in zip(axes, rows, strict=False):
        part = data[(data.model == model) & (data.dataset == dataset) & (data.quantity == "epoch")]
        for method, curve in part.groupby("method", sort=False):
            look = style(str(method))
            drawing.line(axis, curve, "epoch", "value", title(str(method)), marker="o", markersize=3.5, **look)
        _axes(axis, panel_title(model, dataset), "epoch", _REWARD)
        axis.set_xticks(sorted(part.epoch.unique()))
        axis.axhline(0, color="#444444", linewidth=0.8)
    best = data[data.quantity == "best"]
    if axes:
        _bars(axes[-1], best)

    def entry(r: Any) -> dict[str, str]:
        return {
            "row": panel_title(r.model, r.dataset),
            "objective": f"DPO − log π{r.quantity[4:]}" if r.quantity.startswith("lead") else title(r.method),
            "epoch": "" if r.quantity.startswith("lead") else str(r.epoch),
            "prompts that report": r.quantity if r.quantity.startswith("half") else "all",
            "reward above π_ref": bracketed(r.value, r.low, r.high, 3),
            "prompts": str(r.prompts),
        }

    note.table(data[data.quantity != "epoch"], entry)
    _finish(figure, axes, heading, data, rows, _ON_MISTRAL, note, inputs, out)


def figure12(*, inputs: list[Path], out: Path) -> None:
    """Figure 12: mean reciprocal rank over eight QA benchmarks, Gemma.

    Args:
        inputs: ``qa`` tables of the DPO and DPO-PG runs.
        out: the plotted data; the figure and its note are written beside it.
    """
    _mrr(inputs, out, "Figure 12. Mean reciprocal rank over eight QA benchmarks, Gemma", GEMMA)


@dataclass(frozen=True)
class Training:
    """A figure of curves from training logs: a row of panels per grid row, a panel per quantity unless ``together``."""

    heading: str
    finding: str
    quantities: tuple[str, ...]
    expected: tuple[tuple[str, str], ...] = _ALL  # the models and datasets of the paper
    together: bool = False
    start: float = 0.0


TRAINING = {
    "figure2": Training(
        "Figure 2. Log-likelihood displacement under DPO",
        "The paper: under DPO the log-probability of the chosen response falls steadily on both datasets.",
        ("chosen",), _ON_MISTRAL,
    ),
    "figure5": Training(
        "Figure 5. DPO-P and Cal-DPO against DPO",
        "The paper: DPO-P optimises the log-margin less than DPO, and Cal-DPO does not hold log π(y_w) up reliably.",
        ("chosen", "rejected", "margin"), _ON_MISTRAL[1:],
    ),
    "figure8": Training(
        "Figure 8. Log-likelihood change under DPO-PG",
        "The paper: DPO-PG raises log π(y_w) and lowers or keeps log π(y_l) in every configuration.",
        ("chosen", "rejected"), together=True,
    ),
    "figure9": Training(
        "Figure 9. DPO loss (β = 0.1) under DPO-PG",
        "The paper: DPO-PG optimises the DPO loss, though it never sees it, in every configuration (Corollary H.5.1).",
        ("dpo_loss",), start=math.log(2),
    ),
    "figure10": Training(
        "Figure 10. Log-likelihood change of y_w under DPO",
        "The paper: the log-likelihood of chosen responses falls throughout training in every configuration.",
        ("chosen",),
    ),
    "figure11": Training(
        "Figure 11. Log-likelihood change of y_l under DPO",
        "The paper shows the rejected responses' log-likelihood beside Figure 10; DPO pushes it down.",
        ("rejected",),
    ),
    "figure13": Training(
        "Figure 13. Log-likelihood while the DID proxy π̃ is trained",
        "The paper: the proxy of DPO β = 0.1 fluctuates far more than DPO-PG's, so its entropy counts as an outlier.",
        ("logp_chosen", "logp_rejected"), _ON_MISTRAL[1:],
    ),
}  # fmt: skip


def training(*, inputs: list[Path], out: Path) -> None:
    """Figures 2, 5, 8 to 11 and 13: curves of training.

    Args:
        inputs: ``train_log`` tables of the runs shown, or of their DID proxies (Figure 13).
        out: the plotted data, named after the figure; the figure and its note are written beside it.
    """
    shape = TRAINING[out.stem]
    inputs = _at_shared_betas(inputs) if out.stem == "figure5" else inputs
    data = curves.read(inputs, shape.quantities)
    rows = rows_of(data)
    quantities, together, start = shape.quantities, shape.together, shape.start
    per_row = 1 if together else len(quantities)
    columns = per_row if per_row > 1 else 2 if len(rows) in (2, 4) else max(1, min(3, len(rows)))
    figure, axes = (None, []) if not rows else drawing.canvas(columns, math.ceil(len(rows) * per_row / columns))
    panels = [(r, q) for r in rows for q in ([quantities] if together else [(q,) for q in quantities])]
    raw = quantities[0].startswith("logp_")
    for axis, ((model, dataset), shown) in zip(axes, panels, strict=False):
        part = data[(data.model == model) & (data.dataset == dataset)]
        for method in part.method.unique():
            for quantity in shown:
                curve = part[(part.method == method) & (part.quantity == quantity)]
                look, label = style(method), title(method)
                if together:
                    label = f"{label}, {'chosen $y_w$' if quantity == 'chosen' else 'rejected $y_l$'}"
                    if quantity == "rejected":
                        alone = METHODS[family(method)].paper  # it trains one method here: grey is free for it alone
                        look |= {"color": "#555555", "linestyle": (0, (5, 1.5))} if alone else {"linewidth": 0.8}
                if raw:  # batches are not compared with the reference here: their scatter is part of the message
                    axis.plot(curve.step, curve.value, color=look["color"], alpha=0.3, linewidth=0.7)
                drawing.line(axis, curve, "step", "mean", label, **look)
        y = _SIGNS[shown[0]] if not together else r"$\log\,\pi(y) - \log\,\pi_\mathrm{ref}(y)$"
        topic = f": {_TOPICS[shown[0]]}" if per_row > 1 else ""
        _axes(axis, panel_title(model, dataset) + topic, "training step", f"{y} [nats]")
        drawing.epochs(axis, part)
        if not raw:
            axis.axhline(start, color="#444444", linewidth=0.8)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    note = _note(shape.heading, shape.finding)
    note.say(
        "Thin lines are single batches, thick ones running means over a quarter of an epoch (at most 100 steps)."
        if raw
        else _RUNNING if not start else "The line at ln 2 = 0.693 is the loss before the first update."
    )  # fmt: skip

    def entry(r: Any) -> dict[str, str]:
        return {
            "row": panel_title(r.model, r.dataset),
            "method": title(r.method),
            "quantity": _WORDS[r.quantity],
            "mean of the last epoch [nats]": bracketed(r.value, r.low, r.high, 3),
            "steps": str(r.n),
        }

    note.table(_last_epoch_means(data), entry)
    _finish(figure, axes, shape.heading, data, rows, shape.expected, note, inputs, out)


def _at_shared_betas(inputs: list[Path]) -> list[Path]:
    """Figure 5 draws DPO at the betas of DPO-P and Cal-DPO alone."""
    methods = [cell(path).method for path in inputs]
    betas = {beta(method) for method in methods if family(method) in ("dpop", "cal-dpo")}
    found = zip(inputs, methods, strict=True)
    return [path for path, method in found if not betas or family(method) != "dpo" or beta(method) in betas]


def _last_epoch_means(data: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of each curve's last epoch; the batches of an epoch have no pair in common."""
    keys = ["model", "dataset", "method", "quantity"]
    found = [
        dict(zip(keys, key, strict=True)) | vars(mean(curves.last_epoch(curve)))
        for key, curve in data.groupby(keys, sort=False)
    ]
    return pd.DataFrame(found, columns=[*keys, "value", "low", "high", "n"])


def _mrr(inputs: list[Path], out: Path, heading: str, model: str) -> None:
    mine = [path for path in inputs if (paper.counterpart(cell(path).model) == GEMMA) == (model == GEMMA)]
    data = mrr_table(mine)
    rows = rows_of(data)
    figure, axes = (None, []) if not rows else drawing.canvas(len(rows))
    for axis, (name, dataset) in zip(axes, rows, strict=True):
        part = data[(data.model == name) & (data.dataset == dataset) & (data.quantity == "mrr")]
        for method, curve in part.groupby("method", sort=False):
            drawing.line(
                axis, curve, "epoch", "value", title(str(method)), marker="o", markersize=4, **style(str(method))
            )
        _axes(axis, panel_title(name, dataset), "epoch", "mean reciprocal rank (1 = first on all)")
        axis.set_xticks(sorted(part.epoch.unique()))
    note = _note(heading, "The paper: the reinforcing method DPO-PG is ahead of DPO on knowledge-intensive QA.")
    note.say(
        "DPO and DPO-PG are ranked on each benchmark at each epoch; the value is the mean of 1 / rank.",
        "Bands: 95 % of the MRRs when every accuracy is redrawn within its standard error. Redrawing adds noise, which",
        "pulls a clear leader down and a clear last up: the value itself may lie at the band's edge.",
        "Any further method is ranked among them, one at a time." if {*map(family, data.method)} - {*RIVALS} else "",
    )
    last = data[(data.quantity == "lead") | (data.epoch == data.groupby(["model", "dataset"]).epoch.transform("max"))]

    def entry(r: Any) -> dict[str, str]:
        return {
            "row": panel_title(r.model, r.dataset),
            "method": "DPO-PG − mean of DPO" if r.quantity == "lead" else title(r.method),
            "epoch": "all" if r.quantity == "lead" else str(r.epoch),
            "MRR": bracketed(r.value, r.low, r.high, 3),
            "benchmarks": str(r.benchmarks),
            "questions": str(r.questions),
        }

    note.table(last, entry)
    _finish(figure, axes, heading, data, rows, tuple((model, dataset) for dataset in MAGPIES), note, mine, out)


def _bars(axis: Axes, best: pd.DataFrame) -> None:
    rows = rows_of(best)
    names = [name for name in METHODS if name in set(best.objective)]
    row: Any
    for row in best.itertuples():
        place = rows.index((row.model, row.dataset)) + 0.8 * ((names.index(row.objective) + 0.5) / len(names) - 0.5)
        reach = [[row.value - row.low], [row.high - row.value]]
        method = METHODS[row.objective]
        look = {"color": style(method.at(0.1))["color"], "label": f"best {method.title}"}
        axis.bar(place, row.value, 0.72 / len(names), yerr=reach, capsize=3, **look)
        at = f"β {beta(row.method):g}\n" if method.beta else ""
        axis.annotate(f"{at}epoch {row.epoch}", (place, max(row.high, 0)),
                      ha="center", va="bottom", fontsize=7, xytext=(0, 2), textcoords="offset points")  # fmt: skip
    axis.set_xticks(range(len(rows)), [panel_title(*row).replace(" on ", "\n") for row in rows])
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.grid(visible=False, axis="x")
    axis.margins(y=0.12)
    _axes(axis, "highest mean over β and epochs", "", _REWARD)


def _axes(axis: Axes, heading: str, x: str, y: str) -> None:
    axis.set_title(heading)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def _note(heading: str, finding: str) -> Page:
    page = Page(heading)
    page.say(finding)
    return page


def _finish(
    figure: Figure | None,
    axes: list[Axes],
    heading: str,
    data: pd.DataFrame,
    rows: list[tuple[str, str]],
    expected: tuple[tuple[str, str], ...],
    note: Page,
    inputs: list[Path],
    out: Path,
) -> None:
    """Say which configurations of the paper are missing, then write data, figure and note."""
    have = {(paper.counterpart(model), dataset) for model, dataset in rows}
    lacking = ", ".join(panel_title(*row) for row in expected if row not in have)
    missing = f"In the paper, not in this grid: {lacking}." if lacking else ""
    if figure is None:
        figure = drawing.sentence(f"Nothing to draw: the grid of this run has no cell for {lacking or 'this figure'}.")
    else:
        drawing.legend(figure, axes, missing)
    note.say(missing)
    others = [model for model, _ in rows if paper.counterpart(model) not in (model, None)]
    for model in dict.fromkeys(others):
        note.say(f"{model} takes the place of the paper's {paper.model_title(str(paper.counterpart(model)))}.")
    drawing.save(figure, heading, out)
    note.write(out.with_suffix(".md"))
    artifacts.write(out, data, out.stem, inputs={str(path): path for path in inputs})


FIGURES = dict.fromkeys(TRAINING, training) | {"figure3": figure3, "figure6": figure6, "figure12": figure12}


if __name__ == "__main__":
    run(FIGURES)
