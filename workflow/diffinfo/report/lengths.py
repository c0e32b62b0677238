"""H(q_T) over T on bigram models: the exact value, and what each estimate makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.report import drawing
from diffinfo.report.page import Page

LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "smc": ("SMC", {"color": "#2166ac", "marker": "o"}),
    "token ratios": ("token ratios", {"color": "#1b7837", "marker": "v"}),
    "importance": ("importance, from π", {"color": "#b2182b", "marker": "s"}),
    "proxy": ("proxy", {"color": "#762a83", "marker": "d"}),
}


def lengths_page(table: pd.DataFrame, out: Path, figure: Path) -> None:
    """Write the table as .md and .html and the figure as .svg and .png.

    Args:
        table: the lengths table.
        out: the pages, without suffix.
        figure: the drawing, without suffix.
    """
    heading = "H(q_T) over T, where it is known"
    page = Page(heading)
    longest = table[table.length == table.length.max()]
    page.say(
        "Bigram models of 300 tokens; dynamic programming sums all strings of at most T tokens. In nats. q has no mass on",
        "finite strings without a limit T: the exact entropy grows by nearly the same for each token, at most ln 300 = 5.7.",
        "SMC: sequential Monte Carlo; token ratios: the same without resampling; importance: sampling from π; proxy: a policy",
        "trained with r = log π̃.",
    )
    misses = (longest.estimate - longest.exact).abs().groupby(longest.estimator, sort=False).max()
    page.say(
        f"Largest miss at T = {longest.length.max()}:",
        "; ".join(f"{LOOKS[str(name)][0]} {miss:.1f}" for name, miss in misses.items()) + " nats.",
        "The proxy is fitted to pairs, whose loss does not change with the mass on strings that are in no pair: it stays near",
        "where it starts.",
    )
    smc = table[table.estimator == "smc"]
    inside = ((smc.low <= smc.log_z) & (smc.log_z <= smc.high)).sum()
    page.say(
        f"The certificate's interval of ln Z holds the exact value in {inside} of {len(smc)} cases (95 % in the long run)."
    )

    def line(row: Any) -> dict[str, str]:
        own = table[(table["size"] == row.size) & (table.length == row.length)].set_index("estimator").estimate
        words = {"size": f"{row.size:g}", "T": str(row.length), "ln of all strings": f"{row.uniform:.1f}"}
        words |= {"exact": f"{row.exact:.1f}"} | {LOOKS[name][0]: f"{own[name]:.1f}" for name in LOOKS}
        return words | {"ln Z, exact": f"{row.log_z:.2f}", "its interval": f"{row.low:.2f} to {row.high:.2f}"}

    page.table(smc, line)
    page.write(out, table)
    sizes = sorted(table["size"].unique())
    drawn, axes = drawing.canvas(len(sizes))
    for size, axis in zip(sizes, axes, strict=True):
        part = table[table["size"] == size]
        true = part.drop_duplicates("length")
        axis.plot(true.length, true.uniform, ":", color="#999999", label="ln of all strings")
        axis.plot(true.length, true.exact, color="black", linewidth=4, alpha=0.3, label="exact")
        for name, (label, look) in LOOKS.items():
            rows = part[part.estimator == name]
            axis.plot(rows.length, rows.estimate, markersize=4, linewidth=1, label=label, **look)
        axis.set(title=f"log-ratios of {size:g} nats", xlabel="T [tokens]", ylabel=r"$H(q_T)$ [nats]")
    drawing.legend(drawn, axes)
    drawing.save(drawn, heading, figure)
