"""Expected reward above the reference, paired by prompt (Figure 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffinfo.cli import UserError
from diffinfo.intervals import Estimate, at_zero, mean
from diffinfo.methods import REFERENCE
from diffinfo.report.cells import cell, family, order
from diffinfo.report.paired import stratified
from diffinfo.selection import halves
from diffinfo.tables import artifacts

_COLUMNS = artifacts.SCHEMAS["figure6"][1].names
Above = dict[tuple[str, int], pd.DataFrame]  # by method and epoch: each prompt's score and tokens above pi_ref's


def reward_table(paths: list[Path]) -> pd.DataFrame:
    """E[R(y)] - E[R(y_ref)] of every run and epoch, of each objective's best, and DPO's lead over log pi.

    "best" and "lead" are the paper's: the prompts that report a mean have selected its beta and epoch. Ours selects apart:
    each half of the prompts is reported ("half 1", "half 2") at the beta and epoch that are best on the other half. "lead
    apart" is DPO's lead by these, "lead at equal length" the same where both answers have the same number of tokens, by
    the least-squares line of a prompt's difference in reward over that in tokens.

    Args:
        paths: ``scores`` tables of runs and, for each model and dataset, of the reference.

    Raises:
        UserError: when a reference is missing or shares no prompt with a run.
    """
    scores: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for path in paths:
        scores.setdefault(cell(path).key, []).append(artifacts.read(path, "scores"))
    records: list[dict[str, Any]] = []
    for model, dataset in dict.fromkeys((m, d) for m, d, _ in scores):
        if (model, dataset, REFERENCE) not in scores:
            raise UserError(f"Figure 6 needs the reference's scores beside those of {model} on {dataset}.")
        reference = _by_prompt(pd.concat(scores[model, dataset, REFERENCE])).groupby("prompt_id").mean()
        above: Above = {}
        for method in sorted((m for a, b, m in scores if (a, b) == (model, dataset)), key=order):
            if method == REFERENCE:
                continue
            own = _by_prompt(pd.concat(scores[model, dataset, method]))
            for epoch, values in own.groupby("epoch"):
                gain = (values.droplevel("epoch") - reference).dropna()
                if gain.empty:
                    raise UserError(f"{method} and the reference of {model} on {dataset} share no scored prompt.")
                above[method, int(str(epoch))] = gain
        cells = {"model": model, "dataset": dataset}
        objectives = list(dict.fromkeys(family(method) for method, _ in above))
        records += [_record(cells, *where, "epoch", mean(gain.score)) for where, gain in above.items()]
        best = {name: _best(above, name, reference.index) for name in objectives}
        records += [_record(cells, *where, "best", mean(above[where].score)) for where in best.values()]
        half, apart = halves(reference.index), {}
        for name in objectives if len(half) > 1 else ():
            parts = selected_apart(above, name, half)
            records += [
                _record(cells, *where, f"half {side + 1}", mean(part.score))
                for side, (where, part) in enumerate(parts)
                if len(part)
            ]
            apart[name] = pd.concat([part for _, part in parts])
        if {"dpo", "logpi"} <= set(best):
            lead = (above[best["dpo"]].score - above[best["logpi"]].score).dropna()
            records.append(_record(cells, *best["dpo"], "lead", mean(lead)))
            if apart:
                difference = (apart["dpo"] - apart["logpi"]).dropna()
                records.append(_record(cells, *best["dpo"], "lead apart", stratified(difference.score)))
                equal = at_zero(difference.score, difference.tokens)
                records.append(_record(cells, *best["dpo"], "lead at equal length", equal))
    return pd.DataFrame(records, columns=_COLUMNS)


def selected_apart(above: Above, objective: str, half: pd.Series) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    """What each half of the prompts is reported at: the policy that the other half selects, and its rows of this half.

    Args:
        above: of each policy, rows by prompt.
        objective: whose policies.
        half: of each prompt, see ``diffinfo.selection``.

    Returns:
        Of both halves, method and epoch, and the rows, with the half as ``benchmark`` in their index.
    """
    found = []
    for side in (0, 1):
        where = _best(above, objective, half.index[half != side])
        part = above[where][above[where].index.map(half) == side]
        found.append((where, part.assign(benchmark=side).set_index("benchmark", append=True)))
    return found


def _best(above: Above, objective: str, prompts: pd.Index) -> tuple[str, int]:
    """An objective's policy with the highest mean on these prompts; the first of equals."""
    own = [where for where in above if family(where[0]) == objective]
    means = [above[where].score[above[where].index.isin(prompts)].mean() for where in own]
    return own[int(np.argmax(np.nan_to_num(means, nan=-np.inf)))]


def _by_prompt(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean score and tokens of each epoch and prompt: samples of one prompt are not independent."""
    values: pd.DataFrame = scores.groupby(["epoch", "prompt_id"])[["score", "tokens"]].mean()
    return values


def _record(cells: dict[str, str], method: str, epoch: int, quantity: str, found: Estimate) -> dict[str, Any]:
    return cells | {
        "method": method, "objective": family(method), "epoch": epoch, "quantity": quantity,
        "value": found.value, "low": found.low, "high": found.high, "prompts": found.n,
    }  # fmt: skip
