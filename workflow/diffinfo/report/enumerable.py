"""The laboratory's pages on language models whose every response can be listed: the DID proxy and rejected sampling."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from diffinfo.report import drawing
from diffinfo.report.intervals import mean
from diffinfo.report.page import Page

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


def band(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Geometric mean over seeds with Student's 95 % interval on the log scale; the bare curve for one seed."""
    logs = rows.assign(value=np.log(rows[y].clip(lower=FLOOR))).groupby(x).value
    estimates = [mean(group) for _, group in logs]
    keep = [e if math.isfinite(e.low) else type(e)(e.label, e.value, e.value, e.value, e.n) for e in estimates]
    values = {name: np.exp([getattr(e, name) for e in keep]) for name in ("value", "low", "high")}
    return pd.DataFrame({x: list(logs.groups), **values})


def spread(values: pd.Series) -> str:
    """A mean over seeds with the half-width of its 95 % interval."""
    e = mean(values)
    if e.value < 1e-12:
        return "0 (< 1e-12)"
    return f"{e.value:.2g}" + (f" ± {e.high - e.value:.1g}" if math.isfinite(e.high) else "")


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
            "error": signed(rows.error),
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


def signed(values: pd.Series) -> str:
    """The same with a sign, for errors."""
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
            return "none" if rows.empty else spread(rows.js_target)

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
    drawing.save(figure, "Only Equation 1's rejected responses have the target as their optimum", drawn)
