"""Ours: DPO against the other methods at equal KL(pi_ref || pi), not at equal numbers of epochs.

A method's epochs are points of a path from pi_ref, at KL 0. Between two points a path is interpolated linearly in KL, and two
paths are compared at the largest KL that both reach, paired by question: there the shorter one stands at a measured epoch.

``python -m diffinfo.report.matched --inputs '["results/tables/updates.parquet", ...]' --out results/tables/matched.parquet``
writes the table, and beside it a Markdown page to read and an HTML page for the report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.intervals import Estimate, bracketed, number
from diffinfo.methods import REFERENCE
from diffinfo.report import paper
from diffinfo.report.cells import beta, cell, family, order, rows_of, title, unseeded
from diffinfo.report.page import Page
from diffinfo.report.paired import by_question, stratified
from diffinfo.tables import artifacts

MEASURES = {  # digits to show
    "QA accuracy": 4,
    "expected reward": 3,
    "H(π) − H(π_ref) [nats]": 2,
}
Steps = list[tuple[Estimate, pd.Series]]  # KL(pi_ref || pi) and a number each (benchmark, item), in the order of epochs


def compare(one: Steps, other: Steps) -> tuple[float, Estimate] | None:
    """KL of the match, and the mean of ``one`` minus ``other`` there; None where the paths have no KL in common.

    The interval is Student's over items, and with it the error of both KLs, by the slope of the path that is interpolated:
    the other stands at its farthest epoch.
    """
    match = min(max(kl.value for kl, _ in path) for path in (one, other))
    if match < max(path[0][0].value for path in (one, other)):
        return None
    (values, slope, half), (others, other_slope, other_half) = (_at(path, match) for path in (one, other))
    lead = stratified((values - others).dropna())
    whole = math.hypot(lead.high - lead.value, (slope + other_slope) * math.hypot(half, other_half))
    return match, replace(lead, low=lead.value - whole, high=lead.value + whole)


def _at(path: Steps, match: float) -> tuple[pd.Series, float, float]:
    """Values where a path first reaches this KL, their mean's absolute slope (0 at an epoch), and half of KL's interval."""
    before, first = path[0]
    for after, second in path:
        if after.value == match:
            return second, 0.0, after.high - after.value
        if before.value < match < after.value:
            share = (match - before.value) / (after.value - before.value)
            slope = float((second - first).groupby(level="benchmark").mean().mean()) / (after.value - before.value)
            half = (1 - share) * (before.high - before.value) + share * (after.high - after.value)
            return (1 - share) * first + share * second, abs(slope), half
        before, first = after, second
    raise ValueError(f"the path does not reach a KL of {match}")


def main(*, inputs: list[Path], out: Path) -> None:
    """Write the table.

    Args:
        inputs: the table of updates, and of its cells ``path`` tables, QA items and scores, both with those of pi_ref.
        out: the table; the pages are written beside it.
    """
    kls: dict[tuple[str, str, str], dict[int, Estimate]] = defaultdict(dict)
    values: dict[str, dict[tuple[str, str, str], dict[int, pd.Series]]] = {m: defaultdict(dict) for m in MEASURES}
    scores: dict[tuple[str, str, str], list[pd.DataFrame]] = defaultdict(list)
    for path in inputs:
        kind = artifacts.provenance(path)["kind"]
        table = artifacts.read(path, kind)
        if kind == "updates":
            for row in table.itertuples():
                ends = row.kl_reference_low, row.kl_reference_high
                kls[row.model, row.dataset, row.method][row.epoch] = Estimate("", row.kl_reference, *ends, row.prompts)
        elif kind == "qa_items":
            _add(values["QA accuracy"][cell(path).key], by_question(table, kind)[1], "won")
        elif kind == "path":
            rows = table.assign(benchmark="", item=table.prompt_id)
            _add(values["H(π) − H(π_ref) [nats]"][cell(path).key], rows, "entropy_change")
        else:
            scores[cell(path).key].append(table)
    for key, tables in scores.items():
        if key[2] != REFERENCE:
            rows = _gains(pd.concat(tables), pd.concat(scores[*key[:2], REFERENCE]))
            _add(values["expected reward"][key], rows, "score")
    for measure, found in values.items():
        references = {key[:2]: found.pop(key)[0] for key in list(found) if key[2] == REFERENCE}
        for key, epochs in found.items():
            if key[:2] in references:
                epochs[0] = references[key[:2]]
            elif measure != "QA accuracy":  # neither gain nor change
                epochs[0] = 0 * next(iter(epochs.values()))
    frame = pd.DataFrame(
        [record for measure in MEASURES for record in _records(measure, values[measure], kls)],
        columns=artifacts.SCHEMAS["matched"][1].names,
    )
    _page(frame).write(out.with_suffix(".md"), out.with_suffix(".html"))
    artifacts.write(out, frame, "matched", inputs={str(path): path for path in inputs})


def _add(epochs: dict[int, pd.Series], rows: pd.DataFrame, column: str) -> None:
    for epoch, part in rows.groupby("epoch"):
        epochs[int(str(epoch))] = part.set_index(["benchmark", "item"])[column]


def _gains(own: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each epoch and prompt above that of pi_ref."""
    gains = own.groupby(["epoch", "prompt_id"]).score.mean() - reference.groupby("prompt_id").score.mean()
    return gains.dropna().rename_axis(index={"prompt_id": "item"}).reset_index(name="score").assign(benchmark="")


def _records(measure: str, values: dict[Any, dict[int, pd.Series]], kls: dict[Any, Any]) -> list[dict[str, Any]]:
    """DPO against each other method, of the same seed and beta where the other has one."""
    paths = {}
    for key, epochs in values.items():
        kl = {0: Estimate("", 0.0, 0.0, 0.0, 0), **kls.get(key, {})}
        both = sorted(set(kl) & set(epochs))
        if len(both) > (0 in both):
            paths[key] = [(kl[epoch], epochs[epoch]) for epoch in both]
    records = []
    for one in sorted((key for key in paths if family(key[2]) == "dpo"), key=lambda key: order(key[2])):
        for other in sorted((key for key in paths if family(key[2]) != "dpo"), key=lambda key: order(key[2])):
            same = one[:2] == other[:2] and unseeded(one[2])[1] == unseeded(other[2])[1]
            if not same or beta(other[2]) not in (None, beta(one[2])):
                continue
            found = compare(paths[one], paths[other])
            record = dict(zip(("model", "dataset", "method", "other"), (*one, other[2]), strict=True))
            for side, key in (("", one), ("other_", other)):
                reached = [kl.value for kl, _ in paths[key]]
                record |= {f"{side}first": reached[0], f"{side}most": max(reached)}
            if found:
                match, lead = found
                record |= {"kl": match, "value": lead.value, "low": lead.low, "high": lead.high, "n": lead.n}
            records.append(record | {"measure": measure})
    return records


def _page(frame: pd.DataFrame) -> Page:
    page = Page("DPO and the other methods at equal KL(π_ref‖π)")
    page.say(
        "Ours, not the paper's. A method that moves farther from π_ref changes everything more: at equal epochs size and kind",
        "of an update cannot be told apart. Here each pair is compared at the largest KL(π_ref‖π) that both reach, between",
        "epochs by linear interpolation in KL (π_ref has KL 0), paired by question or prompt. The 95 % interval covers these",
        "and the error of KL.",
    )

    def line(row: Any) -> dict[str, str]:
        ranges = (row.first, row.most, row.other_first, row.other_most)
        apart = "the paths do not overlap: KL {:.2f} to {:.2f} and {:.2f} to {:.2f}".format(*ranges)
        difference = bracketed(row.value, row.low, row.high, MEASURES[row.measure], apart)
        return {
            "measure": row.measure,
            "methods": f"{title(row.method)} − {title(row.other)}",
            "difference": difference,
            "at KL [nats]": number(row.kl, 2),
            "KL reached": f"{row.most:.2f}, {row.other_most:.2f}",
            "n": number(row.n, 0),
        }

    for model, dataset in rows_of(frame):
        page.head(f"{paper.model_title(model)} trained on {paper.dataset_title(dataset)}")
        page.table(frame[(frame.model == model) & (frame.dataset == dataset)], line)
    return page


if __name__ == "__main__":
    run(main)
