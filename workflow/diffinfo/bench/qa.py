"""Question answering (Figures 3 and 12): eight benchmarks through lm-evaluation-harness, and the MRR over them.

``python -m diffinfo.bench.qa``
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from diffinfo.cli import UserError, run
from diffinfo.config.benchmarks import Qa
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.tables import artifacts

# benchmark: (stock lm-eval task, its folder, the metrics kept; the first is the one that is ranked)
BENCHMARKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "piqa": ("piqa", "piqa", ("acc_norm,none",)),
    "siqa": ("social_iqa", "siqa", ("acc,none",)),
    "hellaswag": ("hellaswag", "hellaswag", ("acc_norm,none",)),
    "arc_easy": ("arc_easy", "arc", ("acc_norm,none",)),
    "arc_challenge": ("arc_challenge", "arc", ("acc_norm,none",)),
    "mmlu": ("mmlu", "mmlu/default", ("acc,none",)),
    "gsm8k": ("gsm8k", "gsm8k", ("exact_match,flexible-extract", "exact_match,strict-match")),
    "boolq": ("boolq", "super_glue/boolq", ("acc,none",)),
}
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
) -> None:
    """Evaluate the checkpoints of a run on the eight benchmarks, all in one process.

    Args:
        models: one model folder, or with ``epochs`` the folder that holds epoch-K folders.
        out: qa table to write: one row per epoch, benchmark and metric; ``stderr`` is lm-eval's.
        items: qa_items table to write: each question's value of the metric that its benchmark is ranked by.
        settings: see ``Settings``.
        epochs: epochs to evaluate; none: ``models`` itself, recorded as epoch 0.
        tasks: folder that ``diffinfo.world.qa_tasks.write_tasks`` wrote; without it the stock tasks with the hub's data.

    Raises:
        UserError: when a model or task folder is missing or incomplete, or the data cannot be had.
    """
    folders = _model_folders(models, epochs)
    if tasks is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_tasks(tasks, Path(scratch), settings.qa.gsm8k_shots)
        for task in loaded["tasks"].values():
            _keep(task)
        encoded: dict[str, list[int]] = {}
        rows: list[Row] = []
        questions: list[Row] = []
        for epoch, folder in folders.items():
            found = _answer(folder, loaded, settings, encoded, local=tasks is not None)
            for table, part in zip((rows, questions), found, strict=True):
                table += [{"epoch": epoch, **row} for row in part]
    made: dict[str, Any] = {
        "inputs": {f"epoch-{epoch}": folder for epoch, folder in folders.items()} | ({"tasks": tasks} if tasks else {}),
        "settings": settings.qa.model_dump(),
        "attention": settings.attention,
        "dtype": settings.dtype,
    }
    artifacts.write(items, pd.DataFrame(questions), "qa_items", **made)
    artifacts.write(out, pd.DataFrame(rows), "qa", **made)


def load_tasks(folder: Path | None, scratch: Path, gsm8k_shots: int) -> Any:
    """lm-eval's task objects with their data, for ``lm_eval.evaluator.evaluate``.

    Only the folders of the eight tasks are indexed: a scan of all that lm-eval ships costs many seconds.

    Args:
        folder: local task files; None for the stock tasks, whose data comes from the hub.
        scratch: where to put resolved task files and the data cache.
        gsm8k_shots: worked examples in front of each GSM8k question.
    """
    import datasets
    import lm_eval.tasks

    stock = Path(lm_eval.tasks.__file__).parent
    datasets.disable_progress_bars()
    # lm-eval warns about its own YAML and about a model passed as an object; neither is ours to fix.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if folder:
        _resolve(folder, scratch, stock)
    names = {name: _task_name(name, local=folder is not None) for name in BENCHMARKS}
    where = [scratch] if folder else sorted({stock / sub for _, sub, _ in BENCHMARKS.values()})
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=where)
    try:
        loaded = manager.load(list(names.values()))
    except (
        OSError,
        RuntimeError,
        pa.ArrowInvalid,
        datasets.exceptions.DatasetsError,
    ) as error:  # RuntimeError: a script
        source = f"the data files of {folder}" if folder else "the benchmarks on the hub (local ones: --tasks)"
        raise UserError(f"cannot read {source}: {' '.join(str(error).split())}") from error
    for name, task in loaded["tasks"].items():
        task.set_config("num_fewshot", gsm8k_shots if name == names["gsm8k"] else task.config.num_fewshot or 0)
    return loaded


def _resolve(folder: Path, scratch: Path, stock: Path) -> None:
    """Copy task files to ``scratch`` with $STOCK and $HERE replaced by what they mean on this machine."""
    missing = [f"{name}.yaml" for name in BENCHMARKS if not (folder / f"{name}.yaml").is_file()]
    if missing:
        raise UserError(f"{folder}: no task file {', '.join(missing)}; there is one for each benchmark.")

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, str):
            return value.replace("$STOCK", str(stock)).replace("$HERE", str(folder.resolve()))
        return value

    for file in sorted(folder.glob("*.yaml")):
        task = filled(yaml.safe_load(file.read_text(encoding="utf-8")))
        if "dataset_kwargs" in task:  # no copy of the data is kept, and none from another run is found
            task["dataset_kwargs"]["cache_dir"] = str(scratch / "datasets")
        (scratch / file.name).write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def _keep(task: Any) -> None:
    """Read a task's questions and build its requests once.

    lm-eval does so for every model anew, at a higher cost than a small model's answers.
    """
    task.set_fewshot_seed(_FEWSHOT_SEED)
    iterate, build = task.doc_iterator, task.build_all_requests
    questions: list[Any] = []
    requests: list[Any] = []

    def doc_iterator(**selected: Any) -> Any:
        questions.extend([] if questions else iterate(**selected))
        return iter(questions)

    def build_all_requests(**how: Any) -> None:
        if not requests:
            build(**how)
            requests.extend(task.instances)
        for request in requests:
            request.resps, request.filtered_resps = [], {}

    task.doc_iterator, task.build_all_requests = doc_iterator, build_all_requests


def _answer(
    folder: Path, loaded: Any, settings: Settings, encoded: dict[str, list[int]], local: bool
) -> tuple[list[Row], list[Row]]:
    """Rows of one checkpoint: of the benchmarks, and of their questions."""
    from lm_eval.evaluator import evaluate as harness

    from diffinfo.bench.qa_model import ChatModel

    qa = settings.qa
    model = ChatModel(
        folder,
        attention=settings.attention,
        dtype=settings.dtype,
        batch_size=qa.batch_size,
        max_gen_toks=qa.max_gen_toks,
        encoded=encoded,
    )
    answered = harness(
        model,
        loaded,
        limit=qa.limit,
        bootstrap_iters=1,  # all metrics here are means, whose standard error has a closed form; 0 would switch it off
        log_samples=True,
        system_instruction=qa.system_prompt,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    found, rows, items = answered["results"], [], []
    for benchmark, (_, _, metrics) in BENCHMARKS.items():
        name = _task_name(benchmark, local)
        column, _, chosen = metrics[0].partition(",")
        for task in (task for task in answered["samples"] if task == name or task.startswith(f"{name}_")):  # of MMLU 57
            items += [
                {
                    "benchmark": benchmark,
                    "item": f"{task}/{sample['doc_id']}/{sample['doc_hash'][:12]}",
                    "value": float(sample[column]),
                }
                for sample in answered["samples"][task]
                if sample["filter"] == chosen
            ]
        for metric in metrics:
            stderr = found[name][metric.replace(",", "_stderr,")]
            rows.append(
                {
                    "benchmark": benchmark,
                    "task": name,
                    "metric": _column(metric),
                    "value": float(found[name][metric]),
                    "stderr": float(stderr) if stderr != "N/A" else None,
                    "n": int(found[name]["sample_len"]),
                }
            )
    return rows, items


def _column(metric: str) -> str:
    return metric.removesuffix(",none")


def _task_name(benchmark: str, local: bool) -> str:
    return f"micro_{benchmark}" if local else BENCHMARKS[benchmark][0]


def _model_folders(models: Path, epochs: list[int] | None) -> dict[int, Path]:
    folders = {epoch: models / f"epoch-{epoch}" for epoch in epochs} if epochs else {0: models}
    for folder in folders.values():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is not a model folder: it has no config.json.")
    return folders


if __name__ == "__main__":
    run(main)
