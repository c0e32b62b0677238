"""The micro world's verdicts and Tables 1-3 against those recorded in golden.json.

python tests/golden.py check|record [RESULTS]; recording also writes the claims' table of docs/findings.md.

Seeds fix every number on one kind of processor, which the base models' bytes tell: there a number may move by twice its
own 95 % interval and the interval's width by a factor of two. On another kind rounding moves trainings, their samples and
the data made of these: everything may move ``ELSEWHERE`` times as far (measured: Magpie-G27's H(q) of 61 nats on one
processor was 44 on another, from the same code). A verdict may become undecided (or "as with permuted labels"), or decided
where it was not, and never the opposite; WildBench's Elo, which every policy of its pool moves, is left out elsewhere. So
are the verdicts on Magpie-G27, whose pairs are samples of a model: there they are other pairs (measured: claim h3 on Gemma,
-0.77 +- 0.46 on one processor and 0.40 +- 0.36 on another), and a number may be there that was not, or the reverse.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.report import paper
from diffinfo.report.claims import ALIKE, FAILS, OPEN, _claims
from diffinfo.tables import artifacts

FILE = Path(__file__).with_name("golden.json")
PAGE = Path(__file__).parents[1] / "docs/findings.md"
CLAIMS = re.compile("(?<=compared by a test -->\n).*(?=<!-- end of claims -->)", re.S)
CELL = ["model", "dataset", "method"]
KEYS = {"claims": ["claim", "model", "dataset"], "table1": CELL, "table2": CELL, "table3": CELL}
WITH_INTERVAL = {  # a number, and what its interval's ends are called
    "claims": [("value", "low", "high")],
    "table1": [("entropy", "low", "high"), ("reference", "reference_low", "reference_high")],
    "table2": [("did_entropy", "low", "high")],
    "table3": [(name, f"{name}_low", f"{name}_high") for name in ("win_rate", "score")],
}
ALONE = {  # a number without an interval of sampling, and how far it may move: a share of itself, and beside that
    "table1": {"mean_tokens": (0.15, 0), "truncated": (0, 0.05), "prompts": (0, 0)},
    "table2": {"beta_accuracy": (0, 0.15), "mean_tokens": (0.15, 0), "truncated": (0, 0.05), "prompts": (0, 0)},
    "table3": {"elo": (0, 40), "mean_tokens": (0.15, 0), "wildbench_tokens": (0.15, 0), "games": (0, 0), "tasks": (0, 0)},
}  # fmt: skip
ELSEWHERE = 8
Golden = dict[str, Any]


def found(results: Path) -> Golden:
    """What a results folder says: by table and row, {"name": [value, half of the interval]} and verdicts; null: nothing."""
    golden: Golden = {}
    for kind, keys in KEYS.items():
        path = results / "claims.parquet" if kind == "claims" else results / "tables" / f"{kind}.parquet"
        rows: dict[str, dict[str, Any]] = {}
        for row in artifacts.read(path, kind).to_dict("records"):
            seen: dict[str, Any] = {"verdict": row["verdict"]} if kind == "claims" else {}
            for name, low, high in WITH_INTERVAL[kind]:
                seen[name] = _numbers(row[name], (row[high] - row[low]) / 2 if pd.notna(row[name]) else None)
            for name in ALONE.get(kind, ()):
                seen[name] = _numbers(row[name], 0.0)
            rows["/".join(str(row[key]) for key in keys)] = seen
        golden[kind] = rows
    weights = sorted(results.glob("base/*/model.safetensors"))
    golden["processor"] = artifacts.digest([artifacts.digest(file) for file in weights])
    return golden


def _numbers(value: Any, half: Any) -> list[float] | None:
    """Six digits of both, or nothing where it is not a number."""
    if pd.isna(value) or pd.isna(half) or not math.isfinite(half):
        return None
    return [float(f"{value:.6g}"), float(f"{half:.6g}")]


def faults(seen: Golden, golden: Golden) -> list[str]:
    """What is not as it was, a sentence each."""
    said = []
    drift = 1 if seen["processor"] == golden["processor"] else ELSEWHERE
    for kind in KEYS:
        for name in sorted(seen[kind].keys() ^ golden[kind].keys()):
            said.append(f"{kind}: row {name} is {'new' if name in seen[kind] else 'gone'}")
        for name in sorted(seen[kind].keys() & golden[kind].keys()):
            for quantity, was in golden[kind][name].items():
                now = seen[kind][name].get(quantity)
                elo = quantity == "elo" or name.startswith("h2/")
                drawn = quantity == "verdict" and name.endswith("/magpie-g27")
                if not ((elo or drawn) and drift > 1) and not _agree(kind, quantity, now, was, drift):
                    said.append(f"{kind}, {name}: {quantity} is {now} and was {was}")
    return said


def _agree(kind: str, quantity: str, now: Any, was: Any, drift: int) -> bool:
    if quantity == "verdict":
        return now == was or bool({now, was} & {OPEN, ALIKE})
    if now is None or was is None:
        return now is was or drift > 1
    (value, half), (before, half_before) = now, was
    share, beside = ALONE.get(kind, {}).get(quantity, (0, 2 * max(half, half_before)))
    width = half_before / (2 * drift) <= half <= 2 * drift * half_before
    return width and abs(value - before) <= drift * (share * abs(before) + beside) + 1e-9


def claims_table(golden: Golden, dagger_below: float = 0.5) -> str:
    """The claims with their recorded verdicts, as Markdown."""
    cases = [(*key.split("/"), row["verdict"]) for key, row in golden["claims"].items()]
    models = list(dict.fromkeys(model for _, model, _, _ in cases if model)) or ["in the micro world"]
    lines = [f"| claim | source | {' | '.join(models)} |", f"|---|---|{'---|' * len(models)}"]
    for claim in _claims(dagger_below):
        said = []
        for model in models:
            seen = [
                (paper.dataset_title(dataset), f"**{verdict}**" if verdict == FAILS else verdict)
                for name, of, dataset, verdict in cases
                if (name, of) == (claim.name, model)
            ]
            said.append("; ".join(f"{dataset}: {verdict}" for dataset, verdict in seen))
        lines.append(f"| {claim.statement} | {claim.source} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def main(what: str, results: str = "results") -> int:
    """Record or check; returns the exit status."""
    seen = found(Path(results))
    if what == "record":
        FILE.write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(CLAIMS.sub(lambda _: claims_table(seen), PAGE.read_text()))
        return 0
    said = faults(seen, json.loads(FILE.read_text()))
    print("\n".join(said) or f"{sum(len(seen[kind]) for kind in KEYS)} rows of claims and tables are as recorded")
    if said:
        print(f"If that is meant: python tests/golden.py record, and say in {FILE.name}'s commit why.", file=sys.stderr)
    return bool(said)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
