"""The eight QA benchmarks as lm-eval's task objects: with the hub's data, local copies of it, or the micro world's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Qa
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


@dataclass(frozen=True)
class Task:
    """A benchmark, ready to be asked.

    Attributes:
        name: what lm-eval's results call it.
        loaded: what ``lm_eval.evaluator.evaluate`` takes: one task, or a group of them.
        digest: of the questions, the worked examples and the version that asks and marks them.
    """

    name: str
    loaded: Any
    digest: str


def load_tasks(folder: Path | None, scratch: Path, qa: Qa) -> dict[str, Task]:
    """The eight benchmarks with their data.

    Only the folders of the eight tasks are indexed: a scan of all that lm-eval ships costs many seconds.

    Args:
        folder: the micro world's task files; None for the stock tasks, whose data comes from the hub or ``qa.data``.
        scratch: where to put resolved task files and the data cache.
        qa: the part of the configuration.

    Raises:
        UserError: when task files are missing, or data cannot be had or lacks a split or a column.
    """
    import datasets
    import lm_eval.tasks

    stock = Path(lm_eval.tasks.__file__).parent
    datasets.disable_progress_bars()
    # lm-eval warns about its own YAML and about a model passed as an object; neither is ours to fix.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if folder:
        _resolve(folder, scratch, stock)
    where = [scratch] if folder else sorted({stock / sub for _, sub, _ in BENCHMARKS.values()})
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=where)
    return {benchmark: _task(manager, benchmark, folder, qa) for benchmark in BENCHMARKS}


def _task(manager: Any, benchmark: str, folder: Path | None, qa: Qa) -> Task:
    import datasets
    import lm_eval

    shots = qa.gsm8k_shots if benchmark == "gsm8k" else None
    name = f"micro_{benchmark}" if folder else BENCHMARKS[benchmark][0]
    copy = {str(key): path for key, path in qa.data.items()}.get(benchmark)
    if folder:
        source = f"cannot read the data files of {folder}"
    else:
        source = f"qa.data.{benchmark}: cannot read {copy}" if copy else "cannot read the benchmarks on the hub"
    try:
        loaded = _local(manager, benchmark, name, copy, shots) if copy else manager.load(name)
    except (
        OSError,
        RuntimeError,  # a script
        pa.ArrowInvalid,
        datasets.exceptions.DatasetsError,
    ) as error:
        remedy = "" if folder or copy else f" A local copy may be named by qa.data.{benchmark}."
        raise UserError(f"{source}: {' '.join(str(error).split())}{remedy}") from error
    decisive = []
    for part, task in loaded["tasks"].items():
        task.set_config("num_fewshot", task.config.num_fewshot or 0 if shots is None else shots)
        examples = list(task.fewshot_docs()) if task.config.num_fewshot else []
        decisive.append([part, _keep(task), examples])
    files = sorted(folder.glob("*.yaml")) if folder else []
    return Task(name, loaded, artifacts.digest(lm_eval.__version__, _FEWSHOT_SEED, decisive, *files))


def _local(manager: Any, benchmark: str, name: str, copy: str, shots: int | None) -> Any:
    """A stock task, or each of a group, with the rows of a local copy."""
    from diffinfo.bench.qa_local import LocalTask

    key = f"qa.data.{benchmark}"
    if benchmark == "mmlu" and Path(copy).is_file():
        raise UserError(
            f"{key}: {copy} is one file, MMLU has 57 subjects: name the folder that holds a folder of each."
        )
    changed = {"class": LocalTask, "dataset_path": copy, "dataset_kwargs": {"benchmark": benchmark}}
    changed |= {} if shots is None else {"num_fewshot": shots}
    # by lm-eval's public ways a group's tasks cannot be changed
    return manager.load(manager._factory.build(manager._index[name], overrides=changed, registry=manager._index))


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


def _keep(task: Any) -> list[Any]:
    """Read a task's questions, and build its requests, once; returns the questions.

    lm-eval does so for every model anew, and renders the choices and the target of every question twice for each, at a
    higher cost than a small model's answers.
    """
    task.set_fewshot_seed(_FEWSHOT_SEED)
    build = task.build_all_requests
    questions = list(task.eval_docs)
    requests: list[Any] = []

    def doc_iterator(limit: int | None = None, **_: Any) -> Any:
        return enumerate(questions[:limit])

    def build_all_requests(**how: Any) -> None:
        if not requests:
            build(**how)
            requests.extend(task.instances)
        for request in requests:
            request.resps, request.filtered_resps = [], {}

    task.doc_iterator, task.build_all_requests = doc_iterator, build_all_requests
    known = {id(question) for question in questions}  # they live as long as the task
    task.doc_to_choice, task.doc_to_target = _once(task.doc_to_choice, known), _once(task.doc_to_target, known)
    return questions


def _once(render: Callable[..., Any], known: set[int]) -> Callable[..., Any]:
    """``render`` that keeps what it makes of the documents whose ids are ``known``."""
    kept: dict[int, Any] = {}

    def call(doc: Any, *template: Any) -> Any:
        if template or id(doc) not in known:
            return render(doc, *template)
        if id(doc) not in kept:
            kept[id(doc)] = render(doc)
        return kept[id(doc)]

    return call
