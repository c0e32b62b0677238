"""Shared plotting helpers: one palette, one page layout, the same files for every figure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from diffinfo.methods import REFERENCE, parse
from diffinfo.report import paper
from diffinfo.tables.artifacts import atomic

_BETAS = (0.2, 0.1, 0.05, 0.02)  # the paper's, at which a method's shades are given
_DASHES = {0.1: (5, 1.5), 0.05: (3, 1.2, 1, 1.2), 0.02: (1.4, 1)}
_SIGNS = {  # of headings, for the canvas
    "π_ref": r"$\pi_\mathrm{ref}$", "y_w": "$y_w$", "y_l": "$y_l$", "q_T": "$q_T$", "p*^{1/β}": r"$p^{*1/\beta}$",
}  # fmt: skip
mpl.rcParams.update({
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": False, "lines.linewidth": 1.7, "svg.hashsalt": "diffinfo", "pdf.fonttype": 42, "figure.dpi": 100,
    "axes.labelsize": 9, "legend.fontsize": 9, "axes.titlepad": 8,
})  # fmt: skip


def style(method: str) -> dict[str, Any]:
    """Colour and dashes of a method, the same in every figure: hue encodes the method, shade and dashes for beta.

    No two betas share their dashes: beside the paper's, a dash is as long as the digits of beta say, and followed by a
    dot for each place that they stand behind the point.
    """
    if method == REFERENCE:
        return {"color": "#666666", "linestyle": "-"}
    variant = parse(method)
    beta, colours = variant.beta, variant.method.colours
    if beta is None or beta == variant.method.solid:
        dashes: Any = "-"
    else:
        digits, exponent = map(float, f"{beta:e}".split("e"))
        ours = (2 + digits, 1.2 + max(0, exponent), *(0.6, 1.2) * max(0, -int(exponent)))
        dashes = (0, _DASHES.get(beta, ours))
    if beta is None or len(colours) == 1:
        return {"color": colours[0], "linestyle": dashes}
    channels = zip(*map(to_rgb, colours), strict=True)
    red, green, blue = (float(np.interp(-np.log(beta), -np.log(_BETAS), shades)) for shades in channels)
    return {"color": to_hex((red, green, blue)), "linestyle": dashes}


def canvas(columns: int, rows: int = 1, width: float = 4.2, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes, in reading order."""
    figure = Figure(figsize=(max(6.0, width * columns), height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def panel_title(model: str, dataset: str) -> str:
    """The grid row a panel shows."""
    return f"{paper.model_title(model)} on {paper.dataset_title(dataset)}"


def line(axis: Axes, data: pd.DataFrame, x: str, y: str, label: str, **look: Any) -> None:
    """A curve with its 95 % band."""
    axis.plot(data[x], data[y], label=label, **look)
    axis.fill_between(data[x], data["low"], data["high"], color=look["color"], alpha=0.18, linewidth=0)


def points(axis: Axes, data: pd.DataFrame, x: str, y: str, label: str, place: float, **look: Any) -> None:
    """A curve of few points with bars for its intervals, ``place`` points of print aside, where no other's cover them."""
    drawn = axis.plot(data[x], data[y], label=label, marker="o", markersize=3.5, **look)
    middle, half = (data["low"] + data["high"]) / 2, (data["high"] - data["low"]) / 2  # a value may lie outside
    bars = axis.errorbar(data[x], middle, half, linestyle="none", elinewidth=1, capsize=2, color=look["color"])
    aside = ScaledTranslation(place / 72, 0, axis.figure.dpi_scale_trans)
    for artist in (*drawn, *bars.get_children()):
        artist.set_transform(artist.get_transform() + aside)
    axis.margins(x=0.12)


def places(count: int) -> list[float]:
    """Where ``points`` of so many curves go: around 0, at most 4 points of print from each other."""
    return [min(4, 24 / count) * (place - (count - 1) / 2) for place in range(count)]


def share(axes: Iterable[Axes]) -> None:
    """The same y axis for panels that are compared."""
    panels = list(axes)
    ends = [end for axis in panels for end in axis.get_ylim()]
    for axis in panels:
        axis.set_ylim(min(ends), max(ends))


def ticks(axis: Axes, values: Iterable[float]) -> None:
    """Marks on a logarithmic x axis, as plain numbers, and no others."""
    found = sorted(set(values))
    axis.set_xticks(found, [f"{value:,g}" for value in found])
    axis.xaxis.set_minor_locator(NullLocator())


def epochs(axis: Axes, data: pd.DataFrame) -> None:
    """Mark where epochs end."""
    for step in data.groupby("epoch").step.max().iloc[:-1]:
        axis.axvline(step + 0.5, color="#bbbbbb", linewidth=0.7, linestyle=":", zorder=0)


def legend(figure: Figure, axes: Iterable[Axes], remark: str = "") -> None:
    """One legend below all panels, each entry once, under a remark."""
    entries: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            entries.setdefault(label, handle)
    widest = 0.65 + 0.075 * max(map(len, entries), default=0)  # inches
    box = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=max(1, min(6, len(entries), int(figure.get_figwidth() / widest))),
        handlelength=3.2,
        title=remark or None,
        title_fontsize=8,
    )
    box.get_title().set_color("#555555")


def sentence(text: str) -> Figure:
    """A figure that says in plain words why it is empty."""
    figure, (axis,) = canvas(1, width=8.0, height=1.2)
    axis.set_axis_off()
    axis.text(0.5, 0.5, textwrap.fill(text, 80), ha="center", va="center", fontsize=11)
    return figure


def save(figure: Figure, heading: str, out: Path) -> None:
    """Write ``out`` as SVG, PDF and PNG, atomically and the same bytes each time."""
    heading = textwrap.fill(heading, int(11 * figure.get_figwidth()))
    for plain, sign in _SIGNS.items():
        heading = heading.replace(plain, sign)
    figure.suptitle(heading, fontsize=11, fontweight="bold")
    for suffix, facts in ((".svg", {"Date": None}), (".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        with atomic(out.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=facts, dpi=150)
