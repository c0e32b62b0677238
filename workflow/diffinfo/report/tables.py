"""Tables 1, 2 and 3, each cell with its uncertainty and the paper's own number beside it.

``python -m diffinfo.report.tables table1 --inputs '["results/entropy/..."]' --out results/tables/table1.parquet``
writes the table, and beside it a Markdown page to read and an HTML page for the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.cli import UserError, run
from diffinfo.config.benchmarks import WildBench
from diffinfo.intervals import Estimate, bracketed, number, over_seeds, student
from diffinfo.measures import NUMBERS
from diffinfo.methods import REFERENCE
from diffinfo.report import paired, paper
from diffinfo.report.cells import beta, cell, family, grid_rows, order, title, unseeded
from diffinfo.report.elo import elo_rows
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

Rows = dict[tuple[str, str, str], dict[str, Any]]
_PROXIES = {"did": "", "did_sampled": "sampled_"}  # stage: what its columns in Table 2 begin with
# counts; else means
_OVER_SEEDS = {"prompts": "min", "tasks": "min", "games": "sum", "unscored": "sum", "battles": "sum"}
_MOVED = ("kl_reference", "entropy_change")  # beside Table 2, of the table of updates
_RATED = ("win_rate", "elo", "score", "win_rate_apart")  # Table 3's numbers with an interval


def table1(*, inputs: list[Path], out: Path) -> None:
    """Table 1: entropy of the preference distribution, H(p*^{1/beta}), beside that of the reference.

    Args:
        inputs: ``entropy`` tables of the logpi policies and of the reference, .../entropy/MODEL/DATASET/METHOD/epoch-K.
        out: the table; the pages are written beside it.
    """
    measured = {cell(path): _only_row(path, "entropy") for path in inputs}
    references = {(c.model, c.dataset): row for c, row in measured.items() if c.method == REFERENCE}
    rows: Rows = {}
    for c, row in measured.items():
        if c.method != REFERENCE:
            rows[c.key] = {
                "epoch": c.epoch,
                **_interval(row, "entropy", "low", "high"),
                **row[["prompts", "truncated", "mean_tokens"]].to_dict(),
            }
    rows = _over_seeds(rows, {"entropy": ("low", "high")})
    records = []
    for model, dataset, method, ours in _beside("table1", rows, list(references)):
        reference, printed = references.get((model, dataset)), paper.printed("table1", model, dataset)
        if reference is not None:
            ours |= _interval(reference, "reference", "reference_low", "reference_high")
        records.append(
            {"model": model, "dataset": dataset, "method": method, "beta": beta(method), **ours}
            | {"paper_entropy": printed.get(method), "paper_reference": printed.get(REFERENCE)}
        )
    frame = _frame(records, "table1")
    page = Page("Table 1. Entropy of the preference distribution and of the reference")
    page.say(
        "H(p*^{1/β}), measured on the policy trained with r = β log π, against H(π_ref), in nats;",
        "in brackets the 95 % interval over prompts, as lower and upper end minus the value.",
    )
    page.say(paper.whose_numbers(list(frame.model)))
    others = {*map(family, frame.method)} - {"logpi"}
    page.say("Rows of other methods: the entropy of the trained policy itself." if others else "")
    page.say(_cut(frame, "samples"), _seeds_said(frame))

    def line(row: Any) -> dict[str, str]:
        return {
            "β": f"{row.beta:g}" if family(row.method) == "logpi" else title(row.method),
            "H(p*^{1/β})": bracketed(row.entropy, row.low, row.high, 2, absent="not in this grid"),
            "H(π_ref)": bracketed(row.reference, row.reference_low, row.reference_high, 2),
            "difference": _difference(row),
            "prompts": number(row.prompts, 0),
            "H(p*^{1/β}), paper": number(row.paper_entropy, 2),
            "H(π_ref), paper": number(row.paper_reference, 2),
            **_spread(frame, row, "entropy"),
        }

    _sections(page, frame, "table1", line)
    _write(frame, "table1", page, inputs, out)


def table2(*, inputs: list[Path], out: Path, dagger_below: float = 0.5) -> None:
    """Table 2: entropy of the Differential Information Distribution beside Arena-Hard and WildBench.

    Args:
        inputs: ``entropy`` tables of DID proxies, .../did/MODEL/DATASET/METHOD/epoch-K/entropy.parquet, those of proxies
            trained on sampled pairs, .../did_sampled/..., and Table 3.
        inputs: ``entropy`` tables of DID proxies, .../did/MODEL/DATASET/METHOD/epoch-K/entropy.parquet, Table 3, and the table
            of updates, whose last epochs are shown beside (ours).
        out: the table; the pages are written beside it.
        dagger_below: cells whose beta'-accuracy (K.1) is lower are marked as possible outliers.
    """
    rows: Rows = {}
    sorted_inputs = _by_kind(inputs)
    for path in sorted_inputs["entropy"]:
        c, row = cell(path), _only_row(path, "entropy")
        own = {"epoch": c.epoch, **_interval(row, "did_entropy", "low", "high")}
        own |= row[["prompts", "truncated", "mean_tokens", "beta_accuracy"]].to_dict()
        rows.setdefault(c.key, {}).update({_PROXIES[c.stage] + name: value for name, value in own.items()})
    rows = _over_seeds(rows, {f"{p}did_entropy": (f"{p}low", f"{p}high") for p in _PROXIES.values()})
    for found in rows.values():
        for prefix in _PROXIES.values():  # also where no prompt has a slope, but not where nothing was measured
            found[f"{prefix}dagger"] = not found.get(f"{prefix}beta_accuracy", 1.0) >= dagger_below
    bench = {
        (r["model"], r["dataset"], r["method"]): r
        for path in sorted_inputs["table3"]
        for r in artifacts.read(path, "table3").dropna(subset=["win_rate", "elo"], how="all").to_dict("records")
    }
    rows |= {key: {} for key in bench if key not in rows}
    moved = _moved(sorted_inputs["updates"])
    records = []
    for model, dataset, method, ours in _beside("table2", rows, []):
        printed = paper.printed("table2", model, dataset).get(method, {})
        judged: dict[Any, Any] = bench.get((model, dataset, method), {})
        records.append(
            {"model": model, "dataset": dataset, "method": method, "dagger": False, "sampled_dagger": False}
            | ours
            | {name: value for name, value in moved.get((model, dataset, method), {}).items() if name != "seeds"}
            | {name: judged.get(name) for name in ("win_rate", "elo")}
            | {f"paper_{name}": printed.get(name) for name in ("did_entropy", "win_rate", "elo")}
            | {"paper_dagger": bool(printed.get("dagger", False))}
        )
    frame = _frame(records, "table2")
    page = Page("Table 2. Entropy of the Differential Information Distribution and instruction following")
    page.say(
        "H(q) of the DID from π_ref to π, in nats, estimated by the entropy of a proxy policy (Appendix K), with its",
        "95 % interval; β′-accuracy: share of prompts on which the proxy orders its samples as the DID should;",
        "AH: Arena-Hard win rate, WB: WildBench Elo (intervals in Table 3).",
    )
    sampled = frame.sampled_did_entropy.notna().any()
    said = "Sampled pairs (ours): the proxy learns from samples of π and π_ref at temperature 1, as its theory asks."
    page.say(said if sampled else "")
    page.say(
        "Ours: the size of the update from π_ref to π, and what it does to the policy's entropy (results/tables/updates.md)."
        if moved
        else ""
    )
    page.say(f"† marks a possible outlier: β′-accuracy below {dagger_below:.0%} (the paper's daggers are its own).")
    page.say(paper.whose_numbers(list(frame.model)), "The paper prints no Table 2 for Gemma2-9B.")
    page.say(_cut(frame, "proxy samples"), _seeds_said(frame))

    def change(row: Any, name: str) -> str:
        value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
        return bracketed(value, low, high, NUMBERS[name].digits, "")

    def line(row: Any) -> dict[str, str]:
        absent = "not in this grid" if pd.isna(row.win_rate) and pd.isna(row.elo) else "not measured"
        stated = paper.beta_accuracy(row.model, row.dataset, row.method)
        return {
            "method": title(row.method),
            **_proxy(row, "", "", absent),
            **(_proxy(row, "sampled_", ", sampled pairs", "") if sampled else {}),
            "AH [%]": number(row.win_rate, 1),
            "WB [Elo]": number(row.elo, 1),
            "H(q), paper": number(row.paper_did_entropy, 2) + (" †" if row.paper_dagger else ""),
            "β′-accuracy, paper": "" if stated is None else f"{stated:.1f}%",
            "AH, paper": number(row.paper_win_rate, 1),
            "WB, paper": number(row.paper_elo, 1),
            **{f"{NUMBERS[name].title} (ours)": change(row, name) for name in (_MOVED if moved else ())},
            **_spread(frame, row, "did_entropy"),
        }

    _sections(page, frame, "table2", line)
    _write(frame, "table2", page, inputs, out, dagger_below=dagger_below)


def _proxy(row: Any, prefix: str, which: str, absent: str) -> dict[str, str]:
    """Entropy of a proxy, and its beta'-accuracy."""
    names = ("did_entropy", "low", "high", "beta_accuracy", "dagger")
    value, low, high, accuracy, dagger = (getattr(row, prefix + name) for name in names)
    shown = bracketed(value, low, high, 2, absent) + (" †" if dagger else "")
    return {f"H(q){which}": shown, f"β′-accuracy{which}": "" if pd.isna(accuracy) else f"{accuracy:.1%}"}


def table3(*, inputs: list[Path], wildbench: WildBench, out: Path) -> None:
    """Table 3: Arena-Hard and WildBench of each cell's best epoch.

    Args:
        inputs: ``winrates`` under the final judge, .../arena_hard/MODEL/DATASET/METHOD/final/winrates.parquet, beside them
            ``judgments`` with the epochs selected apart (apart.parquet), and those of WildBench,
            .../wildbench/MODEL/DATASET/METHOD/judgments.parquet: the pool of the Elo.
        wildbench: the ``wildbench`` section of the configuration.
        out: the table; the pages are written beside it.
    """
    rows: Rows = {}
    sorted_inputs = _by_kind(inputs)
    judgments = [path for path in sorted_inputs["judgments"] if cell(path).stage == "wildbench"]
    for path in sorted_inputs["winrates"]:
        row = _only_row(path, "winrates")
        rows[cell(path).key] = {
            "best_epoch": row.epoch,
            **dict(zip(("win_rate", "win_rate_low", "win_rate_high"), row[["win_rate", "low", "high"]], strict=True)),
            **row[["games", "unscored", "mean_tokens", "baseline_mean_tokens"]].to_dict(),
        }
    for path in sorted_inputs["judgments"]:
        if path not in judgments and len(games := artifacts.read(path, "judgments")):
            apart = paired.rate(paired.by_question(games, "judgments")[1])
            rows.setdefault(cell(path).key, {}).update(
                win_rate_apart=apart.value, win_rate_apart_low=apart.low, win_rate_apart_high=apart.high,
                apart_first=games.epoch.min(), apart_last=games.epoch.max(),
            )  # fmt: skip
    for key, found in elo_rows(judgments, wildbench).items():
        rows.setdefault(key, {}).update(found)
    pool = sorted(rows)
    rows = _over_seeds(rows, {name: (f"{name}_low", f"{name}_high") for name in _RATED})
    records = []
    for model, dataset, method, ours in _beside("table3", rows, []):
        printed = paper.printed("table3", model, dataset).get(method, {})
        record = {"model": model, "dataset": dataset, "method": method, **ours}
        record["paper_best_epoch"] = printed.get("best_epoch")
        for name in ("win_rate", "elo") if printed else ():
            low, high = printed[f"{name}_bracket"]
            record |= {f"paper_{name}": printed[name], f"paper_{name}_low": printed[name] + low}
            record[f"paper_{name}_high"] = printed[name] + high
        records.append(record)
    frame = _frame(records, "table3")
    page = Page("Table 3. Instruction following at each cell's best epoch")
    page.say(
        "Arena-Hard win rate and WildBench Elo, in brackets the 95 % interval as lower and upper end minus the value;",
        "the best epoch has the highest win rate under the selecting judge, on the Arena-Hard questions that report it.",
        "Selected apart (ours): each half of the questions is reported at the epoch that is best on the other half; Student's",
        "interval over questions.",
        "Tokens are the mean length of the judged answers: judges favour long ones.",
    )
    page.say(
        f"Elo depends on its pool: here {len(judgments)} policies of this grid, each starting at 1000. Its interval",
        "covers tasks and orders of play (WildBench's own, and the paper's, orders of play alone); that of the score",
        "(1 to 10) is over tasks.",
        f"Arena-Hard's baseline answers have {frame.baseline_mean_tokens.mean():.1f} tokens on average."
        if frame.baseline_mean_tokens.notna().any()
        else "",
        paper.whose_numbers(list(frame.model)),
    )
    page.say(_seeds_said(frame))

    def line(row: Any) -> dict[str, str]:
        absent = "not in this grid" if pd.isna(row.win_rate) and pd.isna(row.elo) else "not measured"
        return {
            "method": title(row.method),
            "best epoch": number(row.best_epoch, 0),
            "AH [%]": bracketed(row.win_rate, row.win_rate_low, row.win_rate_high, 1, absent),
            "AH selected apart": bracketed(row.win_rate_apart, row.win_rate_apart_low, row.win_rate_apart_high, 1, ""),
            "epochs apart": ", ".join(dict.fromkeys(number(e, 0) for e in (row.apart_first, row.apart_last))),
            "games (unscored)": "" if pd.isna(row.games) else f"{row.games:.0f} ({row.unscored:.0f})",
            "AH tokens": number(row.mean_tokens, 1),
            "WB [Elo]": bracketed(row.elo, row.elo_low, row.elo_high, 2, absent),
            "WB score": bracketed(row.score, row.score_low, row.score_high, 2, ""),
            "WB tokens": number(row.wildbench_tokens, 1),
            "best epoch, paper": number(row.paper_best_epoch, 0),
            "AH, paper": bracketed(row.paper_win_rate, row.paper_win_rate_low, row.paper_win_rate_high, 1, ""),
            "WB, paper": bracketed(row.paper_elo, row.paper_elo_low, row.paper_elo_high, 2, ""),
            **_spread(frame, row, *_RATED),
        }

    _sections(page, frame, "table3", line)
    _write(frame, "table3", page, inputs, out, wildbench=wildbench.model_dump(), pool=pool)


def _moved(updates: list[Path]) -> Rows:
    """Size and direction of each cell's update at its last epoch, from the table of updates."""
    rows: Rows = {}
    for path in updates:
        table = artifacts.read(path, "updates").sort_values("epoch")
        for record in table.to_dict("records"):  # the last epoch comes last
            names = [f"{name}{end}" for name in _MOVED for end in ("", "_low", "_high")]
            rows[record["model"], record["dataset"], record["method"]] = {name: record[name] for name in names}
    return _over_seeds(rows, {name: (f"{name}_low", f"{name}_high") for name in _MOVED})


def _difference(row: Any) -> str:
    """H(p*^{1/beta}) - H(pi_ref), errors taken as independent."""
    if pd.isna(row.entropy - row.reference):
        return ""
    gap = Estimate("", row.entropy, row.low, row.high, 0) - Estimate(
        "", row.reference, row.reference_low, row.reference_high, 0
    )
    return bracketed(gap.value, gap.low, gap.high, 2)


def _by_kind(paths: list[Path]) -> defaultdict[str, list[Path]]:
    kinds: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        kinds[artifacts.provenance(path)["kind"]].append(path)
    return kinds


def _only_row(path: Path, kind: str) -> Any:
    """The row of a table that holds one."""
    table = artifacts.read(path, kind)
    if len(table) != 1:
        raise UserError(f"{path} holds {len(table)} rows where one is needed.")
    return table.iloc[0]


def _interval(row: Any, name: str, low: str, high: str) -> dict[str, float]:
    """An entropy with Student's interval over prompts."""
    half = float(student(row.prompts)) * row.stderr
    return {name: row.entropy, low: row.entropy - half, high: row.entropy + half}


def _over_seeds(rows: Rows, intervals: dict[str, tuple[str, str]]) -> Rows:
    """One row a method: of several seeds the means, with the sd between seeds of each number that has an interval.

    ``intervals``: the ends of each. An epoch that the seeds do not share is left out.
    """
    groups: defaultdict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for (model, dataset, method), row in rows.items():
        groups[model, dataset, unseeded(method)[0]].append(row)
    return {
        key: (group[0] if len(group) == 1 else _mean(group, intervals)) | {"seeds": len(group)}
        for key, group in groups.items()
    }


def _mean(group: list[dict[str, Any]], intervals: dict[str, tuple[str, str]]) -> dict[str, Any]:
    frame = pd.DataFrame(group).astype(float)
    epochs = ("epoch", "best_epoch", "apart_first", "apart_last")
    shared = [name for name in frame if name not in epochs or frame[name].nunique() == 1]
    found: dict[str, Any] = frame[shared].agg({name: _OVER_SEEDS.get(str(name), "mean") for name in shared}).to_dict()
    for name, (low, high) in intervals.items():
        if name in frame:
            seen = frame.dropna(subset=[name])
            over = over_seeds([Estimate("", row[name], row[low], row[high], 0) for _, row in seen.iterrows()])
            found |= {low: over.low, high: over.high, f"{name}_sd": seen[name].std()}
    return found


def _seeds_said(frame: pd.DataFrame) -> str:
    if not frame.seeds.max() > 1:
        return ""
    return (
        "Numbers of several seeds are their means; intervals cover the seeds and what each was measured on, "
        "sd is the standard deviation between seeds."
    )


def _spread(frame: pd.DataFrame, row: Any, *names: str) -> dict[str, str]:
    """The number of seeds and the spread between them, on a page that has several."""
    if not frame.seeds.max() > 1:
        return {}
    return {
        "seeds": number(row.seeds, 0),
        "sd": ", ".join(filter(None, (number(getattr(row, f"{n}_sd"), 2) for n in names))),
    }


def _beside(table: str, rows: Rows, more: list[tuple[str, str]]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Our cells and the paper's of the same model and dataset, in the paper's order; {} where we have none."""
    for model, dataset in grid_rows([*((m, d) for m, d, _ in rows), *more]):
        ours = {method for m, d, method in rows if (m, d) == (model, dataset)}
        printed = {method for method in paper.printed(table, model, dataset) if method != REFERENCE}
        for method in sorted(ours | printed, key=order):
            yield model, dataset, method, dict(rows.get((model, dataset, method), {}))


def _frame(records: list[dict[str, Any]], kind: str) -> pd.DataFrame:
    """Records as a frame with every column of ``kind``, numbers as floats so that a missing one is NaN."""
    names = artifacts.SCHEMAS[kind][1].names
    frame = pd.DataFrame(records, columns=names)
    numeric = [n for n in names if n not in ("model", "dataset", "method") and not n.endswith("dagger")]
    return frame.astype(dict.fromkeys(numeric, float))


def _cut(frame: pd.DataFrame, what: str) -> str:
    worst = frame.truncated.max()
    if not worst > 0:
        return ""
    return f"Up to {worst:.1%} of the {what} of a cell were cut by max_tokens, which biases its entropy down."


def _sections(page: Page, frame: pd.DataFrame, table: str, line: Callable[[Any], dict[str, str]]) -> None:
    """One section per model and dataset; then, in words, what the paper printed and this grid lacks."""
    for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
        page.head(f"{paper.model_title(str(model))} trained on {paper.dataset_title(str(dataset))}")
        page.table(part, line)
    have = {(paper.counterpart(m), d) for m, d in zip(frame.model, frame.dataset, strict=True)}
    lacking = [
        f"{paper.model_title(model)} on {paper.dataset_title(dataset)}"
        for model, datasets in paper.numbers()[table].items()
        for dataset in datasets
        if (model, dataset) not in have
    ]
    if lacking:
        page.say(f"The paper also printed {', '.join(lacking)}: no such cell is in this grid.")


def _write(frame: pd.DataFrame, kind: str, page: Page, inputs: list[Path], out: Path, **facts: Any) -> None:
    page.write(out.with_suffix(".md"), out.with_suffix(".html"))
    artifacts.write(out, frame, kind, inputs={str(path): path for path in inputs}, **facts)


if __name__ == "__main__":
    run({"table1": table1, "table2": table2, "table3": table3})
