"""Stock lm-eval tasks on local copies of their data in the public schema, without a network."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.bigrams import SAYS_SEVEN, write_model
from diffinfo.bench import qa
from diffinfo.bench.qa_tasks import load_tasks
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Qa
from diffinfo.tables import artifacts

FOUR = ["iron", "gold", "lead", "zinc"]
ARC = {"id": "a", "question": "what is it", "choices": {"text": FOUR, "label": list("ABCD")}, "answerKey": "B"}
# benchmark: folder and split of the hub's repository, and a row as it has it; gold is right
PUBLIC: dict[str, tuple[str, str, dict[str, Any]]] = {
    "piqa": ("plain_text", "validation", {"goal": "what is it", "sol1": "iron", "sol2": "gold", "label": 1}),
    "siqa": (
        "data", "validation",
        {"context": "it is", "question": "what", "answerA": "iron", "answerB": "gold", "answerC": "lead", "label": "2"},
    ),
    "hellaswag": (
        "data", "validation",
        {"ind": 4, "activity_label": "cat", "ctx_a": "it has", "ctx_b": "the", "ctx": "it has the", "endings": FOUR,
         "source_id": "x", "split": "val", "split_type": "indomain", "label": "1"},
    ),
    "arc_easy": ("ARC-Easy", "test", ARC),
    "arc_challenge": ("ARC-Challenge", "test", ARC),
    "mmlu": ("", "test", {"question": "what is it", "subject": "x", "choices": FOUR, "answer": 1}),
    "gsm8k": ("main", "test", {"question": "add 3 and 4", "answer": "it is\n#### 7"}),
    "boolq": ("boolq", "validation", {"question": "is it", "passage": "it has gold .", "idx": 0, "label": 1}),
}  # fmt: skip
SETTINGS = Qa(batch_size=16, system_prompt="be kind .", gsm8k_shots=2, max_gen_toks=6)
PREFERS = {("[/INST]", word): 5.0 for word in ("gold", "B", "yes")}


def subjects() -> list[str]:
    """MMLU's, by the task files that lm-eval ships."""
    import lm_eval.tasks

    files = Path(lm_eval.tasks.__file__).parent.glob("mmlu/default/mmlu_*.yaml")
    return sorted(re.search(r'dataset_name"?: "?(\w+)', file.read_text())[1] for file in files)  # type: ignore[index]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(file)


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three rows of each split as the hub's folders have them, a trap beside each; the network refuses."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for benchmark, (folder, split, row) in PUBLIC.items():
        for part in subjects() if benchmark == "mmlu" else [folder]:
            write(tmp_path / benchmark / part / f"{split}-00000-of-00001.parquet", [row] * 3)
            write(tmp_path / benchmark / part / "testing-00000-of-00001.parquet", [{"trap": 1}])
    write(tmp_path / "gsm8k/main/train-00000-of-00001.parquet", [PUBLIC["gsm8k"][2]] * 3)
    write(tmp_path / "gsm8k/socratic/test-00000-of-00001.parquet", [{"trap": 1}])
    (tmp_path / "arc_easy/ARC-Challenge").mkdir()
    return {benchmark: str(tmp_path / benchmark) for benchmark in PUBLIC}


def only(monkeypatch: pytest.MonkeyPatch, *benchmarks: str) -> None:
    """Load no others: MMLU alone takes seconds."""
    monkeypatch.setattr("diffinfo.bench.qa_tasks.BENCHMARKS", {name: qa.BENCHMARKS[name] for name in benchmarks})


def evaluate(tmp_path: Path, settings: Qa) -> pd.DataFrame:
    model = write_model(tmp_path / "model", SAYS_SEVEN | PREFERS)
    files = {"out": tmp_path / "qa.parquet", "items": tmp_path / "items.parquet"}
    qa.main(models=model, settings=qa.Settings(qa=settings), **files)
    return artifacts.read(tmp_path / "qa.parquet", "qa")


def test_all_eight_read_local_copies(tmp_path: Path, copies: dict[str, str]) -> None:
    table = evaluate(tmp_path, Qa(**SETTINGS.model_dump() | {"data": copies}))
    assert dict(zip(table.benchmark, table.n, strict=True)) == {**dict.fromkeys(PUBLIC, 3), "mmlu": 3 * 57}
    assert table.value.tolist() == [1.0] * 9, "the stock tasks find the right answer where the public rows have it"
    assert set(table.task) == {name for name, _, _ in qa.BENCHMARKS.values()}


def test_rows_are_asked_as_the_stock_task_asks_those_of_the_hub(
    tmp_path: Path, copies: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same requests as the stock class builds when the hub gives it these rows, training split and all."""
    import datasets

    def hub(path: str, name: str | None, **_: Any) -> Any:
        benchmark = next(
            b for b, line in stock_lines().items() if line[:2] == [path, name or "-"] or (b, path) == ("mmlu", line[0])
        )
        rows = datasets.Dataset.from_list([PUBLIC[benchmark][2]] * 3)
        return {split: rows for split in ("train", "validation", "test", "dev")}

    own = load_tasks(None, tmp_path, Qa(**SETTINGS.model_dump() | {"data": copies}))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    for benchmark, stock in load_tasks(None, tmp_path, SETTINGS).items():
        for name, task in stock.loaded["tasks"].items():
            asked = []
            for one in (task, own[benchmark].loaded["tasks"][name]):
                one.build_all_requests()
                asked.append([(request.request_type, request.args) for request in one.instances])
            assert asked[0] == asked[1], name
        assert stock.loaded["groups"].keys() == own[benchmark].loaded["groups"].keys()
        assert stock.digest == own[benchmark].digest


def test_one_file_is_the_split_that_is_asked(
    tmp_path: Path, copies: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "boolq", "gsm8k")
    rows = [json.dumps(PUBLIC[name][2]) + "\n" for name in ("boolq", "gsm8k")]
    for name, row in zip(("boolq", "gsm8k"), rows, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(row * 2 + "\n")
        copies[name] = str(tmp_path / f"{name}.jsonl")
    settings = SETTINGS.model_dump() | {"data": copies}
    table = evaluate(tmp_path, Qa(**settings | {"gsm8k_shots": 0})).set_index("benchmark")
    assert table.n["boolq"] == 2
    assert set(table.n["gsm8k"]) == {2}
    with pytest.raises(
        UserError, match=r"qa\.data\.gsm8k: .* is one file, and worked examples come from the split train"
    ):
        load_tasks(None, tmp_path, Qa(**settings))


def test_a_saved_dataset_is_a_copy_too(tmp_path: Path, copies: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    only(monkeypatch, "piqa")
    rows = datasets.Dataset.from_list([PUBLIC["piqa"][2]] * 2)
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/validation/cache-1.arrow").write_bytes(b"")
    task = load_tasks(
        None, tmp_path, Qa(**SETTINGS.model_dump() | {"data": copies | {"piqa": str(tmp_path / "saved")}})
    )
    assert list(task["piqa"].loaded["tasks"]["piqa"].eval_docs) == [PUBLIC["piqa"][2]] * 2


@pytest.mark.parametrize(
    ("benchmark", "break_it", "said"),
    [
        ("piqa", lambda copy: copy.rename(copy.with_name("gone")), r"qa\.data\.piqa: .*/piqa does not exist"),
        ("siqa", lambda copy: next(copy.rglob("validation*")).unlink(), "has no .* file whose name begins with the split 'val"),
        ("arc_easy", lambda copy: (copy / "ARC-Easy").rename(copy / "easy"), "arc_easy/ARC-Easy has no .* split 'test'"),
        ("mmlu", lambda copy: next(copy.glob("anatomy/test-*")).unlink(), "mmlu/anatomy has no .* split 'test'"),
        ("gsm8k", lambda copy: next(copy.rglob("train*")).unlink(), "gsm8k/main has no .* split 'train'"),
        ("boolq", lambda copy: write(next(copy.rglob("validation*")), []), "the split 'validation' of .* has no rows"),
        ("piqa", lambda copy: write(next(copy.rglob("validation*")), [{"goal": "x"}]), "row 1 of .*: it has no column sol1"),
        ("hellaswag", lambda copy: write(next(copy.rglob("validation*")), [{"ctx": "x"}]), "no column activity_label"),
        ("boolq", lambda copy: next(copy.rglob("validation*")).write_bytes(b"PAR1"), r"qa\.data\.boolq: cannot read"),
    ],
)  # fmt: skip
def test_a_copy_that_lacks_something_is_a_sentence_before_a_model_is_loaded(
    tmp_path: Path, copies: dict[str, str], monkeypatch: pytest.MonkeyPatch, benchmark: str, break_it: Any, said: str
) -> None:
    monkeypatch.setattr(qa, "_model", lambda *_: pytest.fail("a model was loaded"))
    only(monkeypatch, benchmark)
    break_it(Path(copies[benchmark]))
    with pytest.raises(UserError, match=said):
        evaluate(tmp_path, Qa(**SETTINGS.model_dump() | {"data": copies}))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "the split 'validation' of .* has no rows"),
        ([PUBLIC["piqa"][2], 5], "row 2 of .*: it is a number, not a mapping"),
        ([PUBLIC["piqa"][2], PUBLIC["piqa"][2] | {"label": -1}], r"row 2 of .*jsonl: label is -1, none of 0, 1; .*procedures"),
        ([PUBLIC["piqa"][2] | {"more": more} for more in (1, "x")], "the rows of .* differ in a column's type"),
    ],
)  # fmt: skip
def test_a_bad_row_of_a_single_file_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], said: str
) -> None:
    only(monkeypatch, "piqa")
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"qa\.data\.piqa: " + said):
        load_tasks(None, tmp_path, Qa(data={"piqa": str(tmp_path / "piqa.jsonl")}))


def test_labels_of_other_types_are_marked_as_the_public_ones(
    tmp_path: Path, copies: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "piqa", "siqa", "boolq")
    for benchmark, label in {"piqa": "1", "siqa": "B", "boolq": True}.items():
        write(next(Path(copies[benchmark]).rglob("validation*")), [PUBLIC[benchmark][2] | {"label": label}] * 2)
    assert evaluate(tmp_path, Qa(**SETTINGS.model_dump() | {"data": copies})).value.tolist() == [1.0] * 3


def test_mmlu_is_no_single_file(tmp_path: Path, copies: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "mmlu")
    copies["mmlu"] += "/anatomy/test-00000-of-00001.parquet"
    with pytest.raises(UserError, match=r"qa\.data\.mmlu: .* is one file, MMLU has 57 subjects"):
        load_tasks(None, tmp_path, Qa(**SETTINGS.model_dump() | {"data": copies}))


def test_stock_tasks_are_found_without_a_full_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All eight, MMLU with its 57 subjects; only the data would come from the hub."""
    from lm_eval.api.task import ConfigurableTask

    asked: list[str] = []

    def offline(self: Any, *_: Any, **__: Any) -> None:
        asked.append(self.config.dataset_path)
        raise ConnectionError("no network here")

    monkeypatch.setattr(ConfigurableTask, "download", offline)
    with pytest.raises(UserError, match=r"cannot read the benchmarks on the hub.*no network here.*qa\.data\.piqa"):
        load_tasks(None, tmp_path, SETTINGS)
    assert asked == ["baber/piqa"]


def stock_lines() -> dict[str, list[str]]:
    """Data path, configuration, split and split of examples of each benchmark, from docs/procedures.md."""
    text = (Path(__file__).parents[2] / "docs/procedures.md").read_text()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[2:] for row in rows if row[0] in qa.BENCHMARKS and len(row) == 6}


def test_the_documented_data_are_those_of_the_installed_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.task import ConfigurableTask

    read: dict[str, list[str]] = {}

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        config = self.config
        few = config.fewshot_split if config.num_fewshot else None
        read[config.task] = [
            config.dataset_path,
            config.dataset_name or "-",
            config.test_split or config.validation_split,
            few or "-",
        ]
        raise ConnectionError("no network here")

    monkeypatch.setattr(ConfigurableTask, "download", refuse)
    lines = stock_lines()
    assert list(lines) == list(qa.BENCHMARKS)
    for benchmark in qa.BENCHMARKS:
        only(monkeypatch, benchmark)
        with pytest.raises(UserError, match="cannot read the benchmarks on the hub"):
            load_tasks(None, tmp_path, SETTINGS)
        (found,) = read.values()
        if benchmark == "mmlu":
            found[1] = "one a subject"
        assert lines[benchmark] == found, benchmark
        read.clear()
