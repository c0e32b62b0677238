"""The laboratory's pages on language models whose every response can be listed: the DID proxy and rejected sampling.

Every sentence of a page is chosen by the intervals of the tables it reads.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from diffinfo.intervals import Z95, Estimate, mean
from diffinfo.report import drawing
from diffinfo.report.page import Page

ESTIMATORS = {
    "proxy": ("proxy", "#7a3fb0"),
    "proxy-snis": ("weighted proxy", "#0072b2"),
    "policy-is": ("weighted π", "#e69f00"),
    "token-ratio-is": ("weighted token ratios", "#009e73"),
}
DECODES = {"greedy": ("greedy pairs", "#d55e00", "s"), "sample": ("sampled pairs", "#7a3fb0", "o")}
RESPONSES, TOKENS = 3906, 5  # of diffinfo.synthetic.ensemble, which would load torch
FAR = 100  # tokens: a response of an ordinary language model
FLOOR = 1e-17  # nats: below this a divergence in float64 is zero
EDGE = 1e-6  # nats: where the laboratory figure's axis starts


def band(rows: pd.DataFrame, x: str, y: str, geometric: bool = True) -> pd.DataFrame:
    """Mean over seeds with Student's 95 % interval, on the log scale if geometric; the bare curve for one seed."""
    values = np.log(rows[y].clip(lower=FLOOR)) if geometric else rows[y]
    groups = rows.assign(value=values).groupby(x).value
    estimates = [mean(group) for _, group in groups]
    keep = [e if math.isfinite(e.low) else type(e)(e.label, e.value, e.value, e.value, e.n) for e in estimates]
    back = np.exp if geometric else np.asarray
    ends = {name: back([getattr(e, name) for e in keep]) for name in ("value", "low", "high")}
    return pd.DataFrame({x: list(groups.groups), **ends})


def spread(values: pd.Series) -> str:
    """A mean over seeds with the half-width of its 95 % interval."""
    e = mean(values)
    if e.value < 1e-12:
        return "0 (< 1e-12)"
    return f"{e.value:.2g}" + (f" ± {e.high - e.value:.1g}" if math.isfinite(e.high) else "")


def geometric(values: pd.Series) -> str:
    """A geometric mean over seeds with the ends of its 95 % interval: what the curves of ``band`` show."""
    row = band(pd.DataFrame({"x": 0, "y": values}), "x", "y").iloc[0]
    if row.value < 1e-12:
        return "0 (< 1e-12)"
    return f"{row.value:.2g}" + (f" [{row.low:.2g}, {row.high:.2g}]" if len(values) > 1 else "")


def signed(values: pd.Series) -> str:
    """The same with a sign, for errors."""
    e = mean(values)
    return f"{e.value:+.2f}" + (f" ± {e.high - e.value:.2f}" if math.isfinite(e.high) else "")


def _ends(e: Estimate, form: str = ".2f") -> str:
    """Value and interval: "0.46 [0.30, 0.62]"."""
    return f"{e.value:{form}}" + (f" [{e.low:{form}}, {e.high:{form}}]" if math.isfinite(e.low) else "")


def _verdict(e: Estimate, below: str, above: str, neither: str) -> str:
    """Words for an interval below zero, above it, or on both sides."""
    return below if e.high < 0 else above if e.low > 0 else neither


def _by_world(rows: pd.DataFrame, column: str = "miss") -> pd.Series:
    """Mean over the policies of each world: what intervals over worlds are made of."""
    return rows.groupby("seed")[column].mean()


def _rank(rows: pd.DataFrame) -> Estimate:
    """Spearman's correlation of beta'-accuracy with the absolute error within a world, mean over worlds."""
    each = [w.beta_accuracy.rank().corr(w.miss.rank()) for _, w in rows.groupby("seed")]
    return mean(np.array(each)[np.isfinite(each)]) if np.isfinite(each).any() else Estimate("", 0, -1, 1, 0)


def _pooled(rows: pd.DataFrame) -> Estimate:
    """The same over all rows at once, with Fisher's interval: proxies of one training length are few in each world."""
    r, n = float(rows.beta_accuracy.rank().corr(rows.miss.rank())), len(rows)
    half = Z95 / math.sqrt(n - 3) if n > 3 else math.inf
    centre = math.atanh(min(max(r, -1 + 1e-9), 1 - 1e-9))
    return Estimate("", r, math.tanh(centre - half), math.tanh(centre + half), n)


def _in_order(rows: pd.DataFrame) -> str:
    """In how many worlds the estimates order the policies as the exact values do."""
    wide = rows.pivot_table(index="seed", columns="policy", values=["estimate", "exact"])
    one, two = wide.columns.get_level_values("policy").unique()[:2]
    agree = (wide["estimate"][one] > wide["estimate"][two]) == (wide["exact"][one] > wide["exact"][two])
    return f"{agree.sum()} of {len(agree)} worlds"


def _training(page: Page, proxies: pd.DataFrame) -> None:
    """Say how the proxy's error moves with steps and pairs, and what greedy pairs cost."""
    ends = {}
    for how, rows in proxies.groupby("decode", sort=False):
        fresh = rows[~rows.repeated]
        first, last = (_by_world(fresh[fresh.steps == n]) for n in (fresh.steps.min(), fresh.steps.max()))
        again = rows[rows.repeated & (rows.steps == rows.steps.max())]
        change, ends[how] = mean(last - first), last
        worse = _verdict(change, "longer training helps", "longer training hurts", "longer training changes little")
        page.say(
            f"{DECODES[str(how)][0].capitalize()}: the proxy misses H(q) by {_ends(mean(first))} nats after",
            f"{fresh.steps.min()} steps and by {_ends(mean(last))} after {fresh.steps.max()} on fresh pairs: {worse}",
            f"({_ends(change, '+.2f')}).",
            f"As many steps on the same {again.pairs.iloc[0]:,} pairs: {_ends(mean(_by_world(again)))},"
            f" {_ends(mean(_by_world(again) - last), '+.2f')} against fresh ones."
            if len(again)
            else "",
            f"It puts the two policies in their true order in {_in_order(fresh[fresh.steps == fresh.steps.max()])}.",
        )
    if len(ends) == 2:
        gap = mean(ends["greedy"] - ends["sample"])
        farther = _verdict(
            gap, "greedy pairs are the better ones", "greedy pairs are the worse ones", "no clear winner"
        )
        page.say(f"Greedy against sampled pairs, after the longest training: {_ends(gap, '+.2f')} nats, {farther}.")


def _accuracy(page: Page, proxies: pd.DataFrame) -> None:
    """Say whether beta'-accuracy predicts the error."""
    kinds = {"all proxies": proxies} | {DECODES[str(how)][0]: rows for how, rows in proxies.groupby("decode")}
    correlations = {name: _rank(rows) for name, rows in kinds.items()}
    goes = "a higher accuracy goes with"
    words = (f"{goes} a smaller error", f"{goes} a larger error", "it does not tell")
    finished = proxies[(proxies.steps == proxies.steps.max()) & ~proxies.repeated]
    page.say(
        "Rank correlation of β′-accuracy with the absolute error, taken within each world:",
        "; ".join(f"{name} {_ends(e, '+.2f')}, {_verdict(e, *words)}" for name, e in correlations.items()) + ".",
        "That mixes lengths of training. Among the longest trained on fresh pairs alone:",
        "; ".join(
            f"{DECODES[str(how)][0]} {_ends(_pooled(rows), '+.2f')} (n = {len(rows)}), {_verdict(_pooled(rows), *words)},"
            f" with accuracy {_ends(mean(_by_world(rows, 'beta_accuracy')))} and error {_ends(mean(_by_world(rows)))} nats"
            for how, rows in finished.groupby("decode")
        )
        + ".",
    )


def _rivals(page: Page, table: pd.DataFrame) -> None:
    """Say which estimator is nearest at each cost."""
    fresh = table[~table.repeated & (table.decode == "sample")]
    proxies = fresh[fresh.estimator == "proxy"]
    for cost, steps in proxies.groupby("cost").steps.first().items():
        rivals = fresh[(fresh.cost == cost) | ((fresh.estimator == "proxy-snis") & (fresh.steps == steps))]
        missed = {str(name): mean(_by_world(rows)) for name, rows in rivals.groupby("estimator", sort=False)}
        nearest = min(missed, key=lambda name: missed[name].value)
        gain = _by_world(rivals[rivals.estimator == nearest]) - _by_world(rivals[rivals.estimator == "proxy"])
        extra = rivals[rivals.estimator == "proxy-snis"].cost.max() / cost - 1
        page.say(
            f"At a cost of {cost:,} the absolute errors are",
            "; ".join(
                f"{ESTIMATORS[name][0]} {_ends(e)}" + (f" (at {extra:.0%} more)" if name == "proxy-snis" else "")
                for name, e in missed.items()
            )
            + f". Nearest: {ESTIMATORS[nearest][0]}, {_ends(mean(gain), '+.2f')} against the proxy.",
        )
    worth = table.dropna(subset="effective").groupby("estimator", sort=False).effective.mean()
    page.say(
        "Draws from q that one weighted sample is worth, exactly:",
        "; ".join(
            f"{ESTIMATORS[str(name)][0]} {share:.2g}, {share ** (1 / TOKENS):.2f} a token and, if each further token cost"
            f" as much, {share ** (FAR / TOKENS):.0e} at {FAR} tokens"
            for name, share in worth.items()
        )
        + f". The errors above are those of responses of at most {TOKENS} tokens.",
    )


def did_proxy_page(table: pd.DataFrame, out: Path, drawn: Path) -> None:
    """Table and figure: the error of H(q) by Appendix K's proxy and by its rivals."""
    run, worlds = ["estimator", "decode", "policy", "steps", "seed"], table.seed.nunique()
    most = table.groupby(run).pairs.transform("max")
    error = table.estimate - table.exact
    table = table.assign(error=error, miss=error.abs(), repeated=(table.steps > 0) & (table.pairs < most))
    proxies = table[table.estimator == "proxy"]
    page = Page("How far to trust the entropy of the DID: estimates against the exact value")
    page.say(
        f"Error of H(q) in nats, on language models whose {RESPONSES:,} responses can be listed: means with 95 %",
        f"intervals over {worlds} worlds. Cost counts sequences passed forward through a model",
        "(a backward pass as two). 'proxy' is Appendix K's π̃; the weighted estimators are self-normalised importance",
        "sampling from π̃, from π, or from a chain whose next token follows the ratio of both next-token distributions.",
        "'tied' is the share of training pairs with the same response twice, 'worth' the draws from q that one weighted",
        "sample is worth.",
    )
    page.say(
        f"Exact entropies: H(π_ref) {table.reference_entropy.mean():.2f}, and at most ln {RESPONSES:,} =",
        f"{math.log(RESPONSES):.2f}.",
        *(
            f"{name}: H(π) {rows.policy_entropy.mean():.2f}, H(q) {rows.exact.mean():.2f}."
            for name, rows in table.groupby("policy")
        ),
    )
    page.head("Steps and pairs, greedy and sampled")
    _training(page, proxies)
    page.head("Does β′-accuracy predict the error?")
    _accuracy(page, proxies)
    page.head("Other estimators at equal cost")
    _rivals(page, table)
    keys = ["policy", "estimator", "decode", "steps", "pairs", "cost"]
    groups = table.groupby(keys, sort=False)

    def line(r: Any) -> dict[str, str]:
        rows = groups.get_group(tuple(getattr(r, key) for key in keys))

        def optional(column: str) -> str:
            return "" if rows[column].isna().all() else f"{rows[column].mean():.2g}"

        return {
            "policy": r.policy,
            "estimator": ESTIMATORS[r.estimator][0],
            "decode": r.decode,
            "steps": str(r.steps) if r.steps else "none",
            "pairs or samples": f"{r.pairs:,}",
            "cost": f"{r.cost:,}",
            "exact": f"{rows.exact.mean():.2f}",
            "estimate − exact": signed(rows.error),
            "β′-accuracy": optional("beta_accuracy"),
            "tied": optional("tied"),
            "worth": optional("effective"),
        }

    page.table(groups.head(1).sort_values(["policy", "estimator", "decode", "cost"]), line)
    page.write(out, table)

    figure, (left, middle, right) = drawing.canvas(3, width=4.4, height=3.9)
    _draw_training(left, proxies)
    for how, rows in proxies.groupby("decode"):
        label, colour, mark = DECODES[str(how)]
        middle.scatter(rows.beta_accuracy, rows.error, marker=mark, s=20, alpha=0.6, label=label, color=colour)
    middle.axhline(0.0, color="#666666", linewidth=0.8)
    middle.set(xlabel="β′-accuracy (K.1); one mark a proxy", ylabel="estimate − exact [nats]")
    middle.set(title="does β′-accuracy tell?", ylim=left.get_ylim())
    _draw_costs(right, table[~table.repeated])
    for axis in (left, middle, right):
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.16))
    figure.supxlabel(
        f"Means (geometric at equal cost) and 95 % intervals over {worlds} worlds.", fontsize=8, color="#555555"
    )
    drawing.save(figure, "Entropy of the DID: Appendix K's proxy and its rivals against the exact value", drawn)


def _draw_training(axis: Axes, proxies: pd.DataFrame) -> None:
    """The proxy's error over steps, on fresh pairs and on the same few again and again."""
    for (how, repeated), rows in proxies.groupby(["decode", "repeated"]):
        label, colour, mark = DECODES[str(how)]
        few = f", the same {rows.pairs.iloc[0]:,}" if repeated else ", fresh"
        means = rows.groupby(["seed", "steps"], as_index=False).error.mean()
        look = {"color": colour, "marker": mark, "markersize": 3, "linestyle": (0, (3, 1.5)) if repeated else "-"}
        drawing.line(axis, band(means, "steps", "error", geometric=False), "steps", "value", label + few, **look)
    axis.axhline(0.0, color="#666666", linewidth=0.8)
    marks = sorted(proxies.steps.unique())
    axis.set(xscale="log", xlabel="training steps (32 pairs each)", ylabel="estimate − exact [nats]")
    drawing.ticks(axis, marks)
    axis.set_title("the proxy, by steps and pairs")


def _draw_costs(axis: Axes, fresh: pd.DataFrame) -> None:
    """Absolute errors over cost."""
    for (name, how), rows in fresh.groupby(["estimator", "decode"], sort=False):
        if name == "proxy-snis" and how == "greedy":
            continue  # six curves would hide each other; the table has them
        label, colour = ESTIMATORS[str(name)]
        text = f"{label}, {DECODES[str(how)][0]}" if "proxy" in str(name) else label
        means = rows.groupby(["seed", "cost"], as_index=False).miss.mean()
        look = {"color": DECODES["greedy"][1] if how == "greedy" else colour, "marker": "o", "markersize": 3}
        drawing.line(axis, band(means, "cost", "miss"), "cost", "value", text, **look)
    axis.set(xscale="log", yscale="log", xlabel="cost [sequences through a model]", ylabel="|estimate − exact| [nats]")
    costs = sorted(fresh[fresh.estimator == "proxy"].cost.unique())
    drawing.ticks(axis, costs)
    axis.set_title("error at equal cost")


def rejected_sampling_page(table: pd.DataFrame, out: Path, drawn: Path) -> None:
    """Table and figure: distance from pi* by the source of rejected responses."""
    names = list(dict.fromkeys(table.rejected))
    counts = sorted(table.pairs.unique())
    most, worlds = counts[-1], table.seed.nunique()
    wide = table.pivot_table(index=["pairs", "seed"], columns="rejected", values="js_target")
    optimum, trained = wide.loc[0].reindex(columns=names), wide.loc[most]
    ideal = names[0]
    page = Page("Which rejected responses let DPO recover the target (Equation 1)")
    page.say(
        "JS[π* ‖ π] in nats on language models whose responses can be listed, y_w ~ π_ref; means with 95 % intervals",
        f"over {worlds} worlds. 'optimum' minimises the expected loss; the other columns are a transformer",
        "trained on that many pairs. Labels of 'best and worst' pairs are certain: DPO has no finite optimum there.",
    )
    recovered = [name for name in names if optimum[name].max() < 1e-12]
    page.say(
        f"The target is the optimum (JS below 1e-12 in every world) of: {', '.join(recovered) or 'none'}.",
        f"After {most:,} pairs, distance under {ideal} against each other source, and in how many worlds it is nearer:",
        "; ".join(
            f"{name} {_ends(mean(trained[ideal] - trained[name]), '+.3f')},"
            f" {(trained[ideal] < trained[name]).sum()} of {worlds}"
            for name in names[1:]
        )
        + ".",
    )
    passing = [name for name in names if (trained[name] < optimum[name]).all()]
    page.say(
        *(
            f"{name.capitalize()}: training passes at {trained[name].mean():.2g} on its way to an optimum at"
            f" {optimum[name].mean():.2g}. A wrong optimum can be a good direction for as long as few pairs are seen."
            for name in passing
        )
    )

    def line(r: Any) -> dict[str, str]:
        def cell(pairs: int) -> str:
            rows = table[(table.rejected == r.rejected) & (table.pairs == pairs)]
            return "none" if rows.empty else spread(rows.js_target)

        return {"y_l": r.rejected} | {("optimum" if n == 0 else f"{n:,} pairs"): cell(n) for n in counts}

    page.table(pd.DataFrame({"rejected": names}), line)
    page.write(out, table)

    start = table[(table.rejected == "reference") & (table.pairs == 0)].set_index("seed").js_target  # DPO stays there
    table = table.assign(share=table.js_target / table.seed.map(start))
    figure, (axis,) = drawing.canvas(1, width=7.5, height=4.2)
    colours = ("#3f007d", "#a86fd0", "#666666", "#009e73", "#d55e00")
    for name, colour, place in zip(names, colours, drawing.places(len(names)), strict=False):
        rows = table[table.rejected == name]
        curve = band(rows[rows.pairs > 0], "pairs", "share")
        drawing.points(axis, curve, "pairs", "value", name, place, color=colour)
        optima = band(rows[rows.pairs == 0], "pairs", "share").value  # one, or none
        for exact in optima[optima > EDGE]:
            axis.axhline(exact, color=colour, linestyle=(0, (1, 2)), linewidth=1.1)
    quantity = r"$\mathrm{JS}[\pi^*\,\Vert\,\pi]$ / $\mathrm{JS}[\pi^*\,\Vert\,\pi_\mathrm{ref}]$"
    axis.set(xscale="log", yscale="log", xlabel="training pairs", ylabel=quantity)
    drawing.ticks(axis, counts[1:])
    remark = f"geometric means and 95 % intervals over {worlds} worlds; dotted: the optimum (0 for Eq. 1)"
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3, title=remark, title_fontsize=8, alignment="left")
    drawing.save(figure, "Distance from the target by the source of rejected responses (Equation 1)", drawn)
