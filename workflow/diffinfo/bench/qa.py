"""Question answering (Figures 3 and 12): eight benchmarks through lm-evaluation-harness, and the MRR over them.

``python -m diffinfo.bench.qa``
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.bench.qa_tasks import BENCHMARKS, Task, load_tasks
from diffinfo.cli import UserError, log, run
from diffinfo.config.benchmarks import Qa
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.tables import artifacts

_FEWSHOT_SEED = 1234  # lm-eval's own default
Row = dict[str, Any]


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``qa`` tables whose metric is the one a benchmark is ranked by (drops GSM8k's strict match)."""
    metric = table["benchmark"].map({name: _column(metrics[0]) for name, (_, _, metrics) in BENCHMARKS.items()})
    return table[table["metric"] == metric]


def mean_reciprocal_rank(table: pd.DataFrame) -> pd.DataFrame:
    """Mean reciprocal rank of each method at each epoch (Figures 3 and 12).

    Methods are ranked on each benchmark at each epoch, the highest value first; equal values share the mean of
    the ranks they take, so that two methods tied for the first place get 1 / 1.5 each.

    Args:
        table: columns method, epoch, benchmark, value; one row for each combination.

    Returns:
        Columns method, epoch, mrr, sorted by method and epoch.

    Raises:
        ValueError: when a combination occurs twice, is missing or has no value: the mean would be over other
            benchmarks, or the rank among other methods, than for the rest.
    """
    wide = table.pivot(index=["epoch", "benchmark"], columns="method", values="value")  # raises on duplicates
    benchmarks = table["benchmark"].nunique()
    if wide.isna().any(axis=None) or (wide.groupby("epoch").size() != benchmarks).any():
        raise ValueError("every method needs a value on every benchmark at every epoch")
    reciprocal = 1.0 / wide.rank(axis="columns", method="average", ascending=False)
    mean = reciprocal.groupby("epoch").mean().reset_index()
    long = mean.melt(id_vars="epoch", var_name="method", value_name="mrr")
    return long[["method", "epoch", "mrr"]].sort_values(["method", "epoch"], ignore_index=True)


class Settings(Section):
    """How questions are asked.

    Attributes:
        qa: the part of the configuration.
        attention: attention kernel ("eager" for Gemma-2, whose soft-capping sdpa loses).
        dtype: precision.
    """

    qa: Qa
    attention: Attention = "sdpa"
    dtype: Dtype = "float32"


def main(
    *,
    models: Path,
    out: Path,
    items: Path,
    settings: Settings,
    epochs: list[int] | None = None,
    tasks: Path | None = None,
    data: list[Path] | None = None,
    progress_dir: Path | None = None,
) -> None:
    """Evaluate the checkpoints of a run on the eight benchmarks, all in one process.

    Args:
        models: one model folder, or with ``epochs`` the folder that holds epoch-K folders.
        out: qa table to write: one row per epoch, benchmark and metric; ``stderr`` is lm-eval's.
        items: qa_items table to write: each question's value of the metric that its benchmark is ranked by.
        settings: see ``Settings``.
        epochs: epochs to evaluate; none: ``models`` itself, recorded as epoch 0.
        tasks: folder that ``diffinfo.world.qa_tasks.write_tasks`` wrote; without it the stock tasks.
        data: the files of the local copies that ``qa.data`` names, for the record.
        progress_dir: where each epoch's benchmarks wait for the rest; they outlive a killed job.

    Raises:
        UserError: when a model or task folder is missing or incomplete, or the data cannot be had.
    """
    folders = _model_folders(models, epochs)
    if tasks is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    asked = settings.model_dump(exclude={"qa": {"data"}})
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_tasks(tasks, Path(scratch), settings.qa)
        saved = (progress_dir or Path(scratch)) / artifacts.digest(asked, *folders.values())
        parts = {
            (epoch, benchmark): saved / f"{epoch}-{benchmark}-{task.digest}.parquet"
            for epoch in folders
            for benchmark, task in loaded.items()
        }
        encoded: dict[str, list[int]] = {}
        for epoch, folder in folders.items():
            left = [benchmark for benchmark in loaded if not parts[epoch, benchmark].exists()]
            if len(left) < len(loaded):
                log.info("epoch %d: %d of %d benchmarks were done before", epoch, len(loaded) - len(left), len(loaded))
            model = _model(folder, settings, encoded) if left else None
            for benchmark in left:
                rows, questions = _answer(model, benchmark, loaded[benchmark], settings.qa)
                part = parts[epoch, benchmark]
                artifacts.write(_items(part), pd.DataFrame(questions).assign(epoch=epoch), "qa_items")
                artifacts.write(
                    part, pd.DataFrame(rows).assign(epoch=epoch), "qa"
                )  # the last: it says that both are there
        table = pd.concat([artifacts.read(part, "qa") for part in parts.values()])
        single = pd.concat([artifacts.read(_items(part), "qa_items") for part in parts.values()])
    read = {f"epoch-{epoch}": folder for epoch, folder in folders.items()}
    read |= ({"tasks": tasks} if tasks else {}) | {str(file): file for file in data or []}
    made: dict[str, Any] = {"inputs": read, "settings": settings.qa.model_dump()}
    made |= {"attention": settings.attention, "dtype": settings.dtype}
    artifacts.write(items, single, "qa_items", **made)
    artifacts.write(out, table, "qa", **made)
    if progress_dir:
        artifacts.keep_until_recorded(saved, out, items)


def _items(part: Path) -> Path:
    """Where the questions of a part are."""
    return part.with_suffix(".items.parquet")


def _model(folder: Path, settings: Settings, encoded: dict[str, list[int]]) -> Any:
    """One checkpoint as lm-eval sees it."""
    from diffinfo.bench.qa_model import ChatModel

    qa = settings.qa
    return ChatModel(
        folder,
        attention=settings.attention,
        dtype=settings.dtype,
        batch_size=qa.batch_size,
        max_gen_toks=qa.max_gen_toks,
        encoded=encoded,
    )


def _answer(model: Any, benchmark: str, task: Task, qa: Qa) -> tuple[list[Row], list[Row]]:
    """Rows of one checkpoint and benchmark, and of its questions."""
    from lm_eval.evaluator import evaluate as harness

    answered = harness(
        model,
        task.loaded,
        limit=qa.limit,
        bootstrap_iters=1,  # all metrics here are means, whose standard error has a closed form; 0 would switch it off
        log_samples=True,
        system_instruction=qa.system_prompt,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    _, _, metrics = BENCHMARKS[benchmark]
    column, _, chosen = metrics[0].partition(",")
    items = [
        {
            "benchmark": benchmark,
            "item": f"{name}/{sample['doc_id']}/{sample['doc_hash'][:12]}",
            "value": float(sample[column]),
        }
        for name, samples in answered["samples"].items()  # of MMLU 57
        for sample in samples
        if sample["filter"] == chosen
    ]
    found = answered["results"][task.name]
    rows = []
    for metric in metrics:
        stderr = found[metric.replace(",", "_stderr,")]
        rows.append(
            {
                "benchmark": benchmark,
                "task": task.name,
                "metric": _column(metric),
                "value": float(found[metric]),
                "stderr": float(stderr) if stderr != "N/A" else None,
                "n": int(found["sample_len"]),
            }
        )
    return rows, items


def _column(metric: str) -> str:
    return metric.removesuffix(",none")


def _model_folders(models: Path, epochs: list[int] | None) -> dict[int, Path]:
    folders = {epoch: models / f"epoch-{epoch}" for epoch in epochs} if epochs else {0: models}
    for folder in folders.values():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is not a model folder: it has no config.json.")
    return folders


if __name__ == "__main__":
    run(main)
