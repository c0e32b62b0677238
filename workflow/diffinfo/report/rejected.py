"""How near DPO comes to pi* with y_l by Equation 1, against the worst of n and any sample of pi_ref (ours).

``python -m diffinfo.report.rejected --inputs '["results/target/...", ...]' --out results/tables/rejected.parquet``
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import run
from diffinfo.intervals import Estimate, bracketed, mean, over_seeds
from diffinfo.measures import NUMBERS, target
from diffinfo.report.cells import cell, grid_rows, order, title, unseeded
from diffinfo.report.page import Page
from diffinfo.tables import artifacts
from diffinfo.tables.schemas import TARGETED

WORDS = {"ideal": "by Equation 1", "worst": "the worst", "reference": "any"}
Runs = dict[int, pd.DataFrame]  # target tables by seed


def behind(ideal: Runs, other: Runs) -> list[Estimate]:
    """KL(pi || pi*) less that of the ideal pairs' policy, by seed that both have, paired by prompt: nats."""
    gain = [
        ideal[seed].set_index("prompt_id").nearer - other[seed].set_index("prompt_id").nearer for seed in ideal if seed in other
    ]  # fmt: skip
    return [mean(difference.dropna()) for difference in gain]


def main(*, inputs: list[Path], out: Path) -> None:
    """Write the table and its pages.

    Args:
        inputs: ``target`` tables of these datasets' cells, and each dataset's preferences and resampled tables.
        out: the table; the pages are written beside it.
    """
    found: dict[tuple[str, str, str, int], Runs] = defaultdict(dict)
    data: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in inputs:
        made = artifacts.provenance(path)
        table = artifacts.read(path, made["kind"])
        if made["kind"] == "target":
            c = cell(path)
            method, seed = unseeded(c.method)
            found[c.model, c.dataset, method, c.epoch or 0][seed] = table
        elif made["kind"] == "resampled":
            counts = {"pairs": len(table), "candidates": table.candidates.max(), "effective": table.effective.mean()}
            data[path.parent.name] |= {"rejected": made["settings"]["rejected"], **counts}
        else:
            data[path.parent.name]["gap"] = mean(table.chosen_score - table.rejected_score)
    best = {(m, method, epoch): runs for (m, d, method, epoch), runs in found.items() if data[d]["rejected"] == "ideal"}
    places = grid_rows((model, dataset) for model, dataset, *_ in found)
    records = []
    for key in sorted(found, key=lambda k: (places.index(k[:2]), order(k[2]), k[3])):
        (model, dataset, method, epoch), runs = key, found[key]
        facts = data[dataset]
        by_seed = [target(rows) for rows in runs.values()]
        numbers = {"gap": facts["gap"]} | {name: over_seeds([e[name] for e in by_seed]) for name in TARGETED}
        pairs = behind(best.get((model, method, epoch), {}), runs) if facts["rejected"] != "ideal" else []
        numbers |= {"behind": over_seeds(pairs)} if pairs else {}
        at = {"model": model, "dataset": dataset, "method": method, "epoch": epoch, "seeds": len(runs)}
        ends = {
            f"{n}{end}": v
            for n, e in numbers.items()
            for end, v in zip(("", "_low", "_high"), (e.value, e.low, e.high), strict=True)
        }
        records.append(at | {"prompts": min(map(len, runs.values()))} | {**facts, "gap": None} | ends)
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["rejected"][1].names)
    _page(frame).write(out.with_suffix(".md"), out.with_suffix(".html"))
    artifacts.write(out, frame, "rejected", inputs={str(path): path for path in inputs})


def _page(frame: pd.DataFrame) -> Page:
    page = Page("Which y_l lets DPO reach π*? Equation 1 on language models")
    page.say(
        "Ours; the paper leaves it to future work. y_w is a sample of π_ref, the same in all rows. y_l is another: drawn with",
        "weights (π_ref/π*)^β = e^{−sR} (Equation 1), the one with the least reward, or any, from which nothing can be learnt.",
        "R is the micro world's true reward, so π* ∝ π_ref e^{sR/β} is known.",
    )
    page.say(
        "Behind: by how many nats KL(π‖π*) is larger than with the ideal pairs, on the same prompts. ESS: candidates that",
        "count under Equation 1's weights, mean over prompts. In brackets the 95 % interval over prompts and seeds, of",
        "R(y_w) − R(y_l) over pairs. The other columns are those of results/tables/target.md.",
    )

    def line(row: Any) -> dict[str, str]:
        def shown(name: str, digits: int) -> str:
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            return bracketed(value, low, high, digits)

        ideal = row.rejected == "ideal"
        words = {"model": row.model, "y_l": WORDS[row.rejected], "method": title(row.method), "epoch": str(row.epoch)}
        words["ESS"] = f"{row.effective * row.candidates:.1f} of {row.candidates}" if ideal else "–"
        words |= {"R(y_w) − R(y_l)": shown("gap", 2), "behind": "–" if ideal else shown("behind", 3)}
        words |= {NUMBERS[name].title: shown(name, NUMBERS[name].digits) for name in TARGETED}
        return words | {"pairs": str(row.pairs), "prompts": str(row.prompts), "seeds": str(row.seeds)}

    page.table(frame, line)
    return page


if __name__ == "__main__":
    run(main)
