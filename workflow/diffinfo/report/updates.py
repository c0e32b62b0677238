"""Ours, beside Table 2: size and direction of every update, its distance from pi*, and H(q_T) of the DID over T.

``python -m diffinfo.report.updates updates --inputs '["results/update/..."]' --out ... --figure ...`` writes the table with
its pages, and the figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.intervals import bracketed, mean
from diffinfo.measures import NUMBERS, update
from diffinfo.measures import target as against_target
from diffinfo.report import drawing, paper
from diffinfo.report.cells import beta, cell, order, rows_of, title
from diffinfo.report.page import Page
from diffinfo.tables import artifacts
from diffinfo.tables.schemas import TARGETED, UPDATED


def _sorted(records: list[dict[str, Any]], kind: str, then: str) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS[kind][1].names)
    place = [order(method) for method in frame.method]
    return (
        frame.assign(place=place).sort_values(["place", then], kind="stable", ignore_index=True).drop(columns="place")
    )


def _panels(frame: pd.DataFrame) -> tuple[Any, list[tuple[Any, str, str, pd.DataFrame]]]:
    """A figure, and of each model and dataset its axes, both names, and its rows."""
    cells = rows_of(frame)
    drawn, axes = drawing.canvas(min(2, len(cells)), -(-len(cells) // 2))
    for axis in axes[len(cells) :]:
        axis.remove()
    return drawn, [
        (axis, model, dataset, frame[(frame.model == model) & (frame.dataset == dataset)])
        for axis, (model, dataset) in zip(axes, cells, strict=False)
    ]


def _write(frame: pd.DataFrame, kind: str, page: Page, drawn: Any, inputs: list[Path], out: Path, figure: Path) -> None:
    drawing.save(drawn, page.parts[0][2:], figure.with_suffix(""))  # the page's heading
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))
    artifacts.write(out, frame, kind, inputs={str(path): path for path in inputs})


def updates(*, inputs: list[Path], out: Path, figure: Path) -> None:
    """Write the table and figure of updates' size and direction.

    Args:
        inputs: ``path`` tables, .../path/MODEL/DATASET/METHOD/SPAN, and behind them ``update`` tables, which have more prompts
            of the last epoch, .../update/MODEL/DATASET/METHOD/epoch-K. The figure is a path a method.
        out: the table; the pages are written beside it.
        figure: the drawing, .svg; a .png is written beside it.
    """
    records: dict[Any, dict[str, Any]] = {}
    for path in inputs:
        c, table = cell(path), artifacts.read(path, artifacts.provenance(path)["kind"])
        for epoch, rows in table.groupby("epoch") if "epoch" in table else [(c.epoch, table)]:
            record: dict[str, Any] = {"model": c.model, "dataset": c.dataset, "method": c.method, "epoch": epoch}
            for name, e in update(rows).items():
                record |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
            records[*c.key, epoch] = record | {"prompts": len(rows)}
    frame = _sorted(list(records.values()), "updates", "epoch")
    page = Page("Size and direction of every update, beside Table 2")
    page.say(
        "Ours, not the paper's. ℓ = log π − log π_ref, in nats; in brackets the 95 % interval over prompts.",
        "The divergences are the update's size. H(π) − H(π_ref), and −Cov(ℓ, log π_ref), which is the slope of the entropy",
        "at π_ref along the update, are its direction: positive smooths, negative reinforces. All are finite without a",
        "limit of length. Where ℓ follows the number of tokens (last column), what looks like smoothing may be length. Epochs",
        "before the last are measured on fewer prompts.",
    )
    page.say(
        "A rise or fall of log π(y_w) tells size: E_μ[ℓ] = KL(μ‖π_ref) − KL(μ‖π) for every distribution μ of chosen responses",
        "(docs/findings.md).",
    )

    def line(row: Any) -> dict[str, str]:
        words = {"method": title(row.method), "epoch": str(row.epoch)}
        for name in UPDATED:
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            words[NUMBERS[name].title] = bracketed(value, low, high, NUMBERS[name].digits)
        return words | {"prompts": str(row.prompts)}

    drawn, panels = _panels(frame)
    for axis, model, dataset, part in panels:
        page.head(f"{paper.model_title(model)} trained on {paper.dataset_title(dataset)}")
        page.table(part, line)
        for method, rows in part.groupby("method", sort=False):
            look = drawing.style(str(method))
            x, y = [0.0, *rows.kl_reference], [0.0, *rows.entropy_change]
            axis.plot(x, y, marker=".", label=title(str(method)), **look)
            axis.errorbar(
                rows.kl_reference, rows.entropy_change, color=look["color"], linestyle="none",
                yerr=(rows.entropy_change - rows.entropy_change_low, rows.entropy_change_high - rows.entropy_change),
            )  # fmt: skip
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.set(title=drawing.panel_title(model, dataset), xlabel=r"$\mathrm{KL}(\pi_\mathrm{ref}\Vert\pi)$ [nats]")
        axis.set_ylabel(r"$H(\pi) - H(\pi_\mathrm{ref})$ [nats]")
    drawing.legend(drawn, [axis for axis, *_ in panels], "from π_ref at the origin; bars: 95 % over prompts")
    _write(frame, "updates", page, drawn, inputs, out, figure)


def target(*, inputs: list[Path], out: Path, figure: Path) -> None:
    """Write the table and figure of distances from pi*.

    Args:
        inputs: ``target`` tables, .../target/MODEL/DATASET/METHOD/epoch-K.
        out: the table; the pages are written beside it.
        figure: the drawing, .svg; a .png is written beside it.
    """
    records = []
    for path in inputs:
        c, rows = cell(path), artifacts.read(path, "target")
        record: dict[str, Any] = {"model": c.model, "dataset": c.dataset, "method": c.method, "epoch": c.epoch}
        record |= {"beta": beta(c.method), "effective": rows.effective.mean(), "prompts": len(rows)}
        for name, e in against_target(rows).items():
            record |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        records.append(record)
    frame = _sorted(records, "targets", "epoch")
    page = Page("Distance from DPO's target π* ∝ π_ref p*^{1/β} (Theorem 3.4), where p* is known")
    page.say(
        "Ours, not the paper's. The micro world draws labels from Bradley-Terry with log-odds s R, R the language's own reward",
        "and s = world.sharpness, so p* ∝ e^{sR}. ℓ = log π − log π_ref; in nats, in brackets the 95 % interval over prompts.",
        "At π*, ℓ is sR/β plus a constant of the prompt: within prompts the slope of ℓ on sR/β is 1, so is the correlation.",
    )
    page.say(
        "KL(π_ref‖π*) − KL(π‖π*) = (s/β)(E_π R − E_{π_ref} R) − KL(π‖π_ref) needs no normaliser: positive is nearer to π* than",
        "π_ref. KL(π‖π*) itself needs that of π*, whose logarithm is estimated from both models' samples and too low in",
        "expectation: it is a lower bound, and a poor one where few samples count (ESS, the effective share of them).",
    )

    def line(row: Any) -> dict[str, str]:
        words = {"method": title(row.method), "epoch": str(row.epoch)}
        for name in TARGETED:
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            words[NUMBERS[name].title] = bracketed(value, low, high, NUMBERS[name].digits)
        return words | {"ESS": f"{row.effective:.2f}", "prompts": str(row.prompts)}

    drawn, panels = _panels(frame)
    for axis, model, dataset, part in panels:
        page.head(f"{paper.model_title(model)} trained on {paper.dataset_title(dataset)}")
        page.table(part, line)
        each = part.assign(low=part.target_slope_low, high=part.target_slope_high).sort_values("beta")
        drawing.line(axis, each, "beta", "target_slope", "DPO", color=drawing.style("dpo-b0.1")["color"], marker=".")
        axis.axhline(1, color="#999999", linewidth=0.8)
        ends = (part.beta.min() / 1.3, part.beta.max() * 1.3)  # given, for there may be no slope to draw
        axis.set(title=drawing.panel_title(model, dataset), xlabel=r"$\beta$", xscale="log", xlim=ends)
        axis.set_ylabel(r"slope of $\ell$ on $sR/\beta$")
    drawing.legend(drawn, [axis for axis, *_ in panels], "1: the optimum; bands: 95 % over prompts")
    _write(frame, "targets", page, drawn, inputs, out, figure)


def did_smc(*, inputs: list[Path], out: Path, figure: Path) -> None:
    """Write the table and figure of H(q_T).

    Args:
        inputs: ``smc`` tables, .../smc/MODEL/DATASET/METHOD/epoch-K.
        out: the table; the pages are written beside it.
        figure: the drawing, .svg; a .png is written beside it.
    """
    records = []
    for path in inputs:
        c = cell(path)
        for length, rows in artifacts.read(path, "smc").groupby("length"):
            e = mean(rows.entropy)
            means = rows[
                ["entropy_n", "uniform", "certified", "log_z", "log_z_n", "log_z_upper", "effective", "cut"]
            ].mean()
            records.append(
                {
                    "model": c.model,
                    "dataset": c.dataset,
                    "method": c.method,
                    "epoch": c.epoch,
                    "length": length,
                    **means,
                }
                | {"entropy": e.value, "low": e.low, "high": e.high, "prompts": e.n, "forwards": rows.forwards.sum()}
                | {"width": (rows.high - rows.low).mean()}
            )
    frame = _sorted(records, "did_smc", "length")
    page = Page("H(q_T): entropy of the DID on strings of at most T tokens, by sequential Monte Carlo")
    page.say(
        "Ours, not the paper's, whose proxy is in Table 2. Without a limit T the DID has no mass on finite strings: H(q_T)",
        "grows by about ln V a token, whatever was learnt. In nats; in brackets the 95 % interval over prompts. H at N is",
        "the mean of four runs of N particles, H(q_T) is of all four pooled.",
    )
    page.say(
        "The interval of ln Z goes from the lower end of Student's interval for the runs' mean to the upper end of that",
        "for conditional runs (particle Gibbs); the column is its width, mean over prompts. Certified: the share of prompts",
        "on which it is at most smc.gap (a share) of ln of all strings. Elsewhere contexts of high ratio are so rare that N",
        "particles miss some: there H(q_T) may be off by as much.",
    )

    def line(row: Any) -> dict[str, str]:
        return {
            "method": title(row.method),
            "T": str(row.length),
            "H(q_T)": bracketed(row.entropy, row.low, row.high, 1),
            "H at N": f"{row.entropy_n:.1f}",
            "H/T": f"{row.entropy / row.length:.2f}",
            "ln of all strings": f"{row.uniform:.1f}",
            "ln Z": f"{row.log_z:.1f}",
            "at N": f"{row.log_z_n:.1f}",
            "conditional": f"{row.log_z_upper:.1f}",
            "interval of ln Z": f"{row.width:.1f}",
            "certified": f"{row.certified:.0%}",
            "ESS/N": f"{row.effective:.2f}",
            "P(cut)": f"{row.cut:.3f}",
            "prompts": str(row.prompts),
        }

    drawn, panels = _panels(frame)
    for axis, model, dataset, part in panels:
        page.head(f"{paper.model_title(model)} trained on {paper.dataset_title(dataset)}")
        page.table(part, line)
        most = part.drop_duplicates("length")
        axis.plot(most.length, most.uniform / most.length, ":", color="#999999", label="all strings alike")
        for method, rows in part.groupby("method", sort=False):
            each = pd.DataFrame({"T": rows.length, "H": rows.entropy / rows.length})
            each = each.assign(low=rows.low / rows.length, high=rows.high / rows.length)
            drawing.line(axis, each, "T", "H", title(str(method)), **drawing.style(str(method)))
        axis.set(
            title=drawing.panel_title(model, dataset), xlabel="T [tokens]", ylabel=r"$H(q_T)/T$ [nats]", xscale="log"
        )
    drawing.legend(drawn, [axis for axis, *_ in panels], "bands: 95 % over prompts")
    _write(frame, "did_smc", page, drawn, inputs, out, figure)


if __name__ == "__main__":
    run({"updates": updates, "target": target, "did_smc": did_smc})
