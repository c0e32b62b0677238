"""Where rows are read from: compressed files, CSV, Arrow, save_to_disk, patterns, and what is asked of the hub."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffinfo.cli import UserError
from diffinfo.config import local

ROWS = [
    {"prompt": f"What is\n  {i}²?", "chosen": f"7{i}", "rejected": f'"{i}", she said', "s": i + 1.5, "t": i}
    for i in range(4)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
SCORES = {"chosen_score": "s", "rejected_score": "t"}


def arrow(path: Path, file: bool) -> None:
    table = pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def zst(path: Path, data: bytes) -> None:
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(data)


WRITTEN: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "rows.jsonl.zst": lambda path: zst(path, LINES),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "rows.csv.gz": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "rows.arrow": lambda path: arrow(path, file=False),
    "file.arrow": lambda path: arrow(path, file=True),
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path, num_shards=2),
    "hub": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(path / "data/train-00000-of-00001.parquet"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_kind_of_file_gives_the_same_rows(ingest: Any, tmp_path: Path, name: str) -> None:
    WRITTEN[name](tmp_path / name)
    done = ingest(str(tmp_path / name), format="preference", columns=SCORES, test_prompts=1)
    pairs = [*done.preferences.itertuples(), *done.heldout.itertuples()]
    for pair, row in zip(pairs, ROWS, strict=True):
        assert pair.messages == [{"role": "user", "content": row["prompt"]}]
        assert (pair.chosen, pair.rejected) == (row["chosen"], row["rejected"])
        assert (pair.chosen_score, pair.rejected_score) == (row["s"], row["t"])


def test_splits_of_save_to_disk_without_its_caches(ingest: Any, tmp_path: Path) -> None:
    parts = {"train": datasets.Dataset.from_list(ROWS[:3]), "test": datasets.Dataset.from_list(ROWS[3:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    arrow(tmp_path / "saved/train/cache-0123.arrow", file=False)  # what map() leaves there
    done = ingest(str(tmp_path / "saved"), format="preference", test_split="test", test_prompts=1)
    assert list(done.preferences.chosen) == ["70", "71", "72"]
    assert list(done.heldout.chosen) == ["73"]


FOLDERS: dict[str, tuple[str, list[str], list[str], list[str]]] = {  # split, its files, files that a warning names, others
    "another case": ("train", ["Train"], [], ["Test"]),
    "no train": ("train", ["rows"], ["Test", "my-test", "test_prefs", "testset", "val/a"], []),
    "a word within": ("train", ["my_train"], ["my-eval-set/a", "my_test"], []),
    "words that begin alike": ("train", ["devices", "testimonials"], [], []),
    "of the hub": ("train_prefs", ["train_prefs-0"], [], ["train_gen", "test_prefs"]),
}  # fmt: skip


@pytest.mark.parametrize(("split", "read", "left", "others"), FOLDERS.values(), ids=FOLDERS)
def test_a_split_has_its_own_files_alone(
    ingest: Any, tmp_path: Path, caplog: Any, split: str, read: list[str], left: list[str], others: list[str]
) -> None:
    for name in (*read, *left, *others):
        file = tmp_path / f"in/{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([{"instruction": f"{file.stem} {i}"} for i in range(2)]).to_parquet(file)
    done = ingest(str(tmp_path / "in"), format="prompts", split=split, test_prompts=1)
    asked = [messages[0]["content"] for messages in [*done.prompts.messages, *done.test.messages]]
    assert asked == [f"{stem} {i}" for stem in read for i in range(2)]
    warned = [text.partition(" is read without ")[2] for text in caplog.messages if "is read without" in text]
    assert warned == ([", ".join(f"{name}.parquet" for name in left)] if left else [])


def test_splits_with_longer_names_are_refused_not_mixed(ingest: Any, tmp_path: Path) -> None:
    for name in ("train_prefs", "train_gen", "test_prefs"):
        pd.DataFrame(ROWS).to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    for split, named in (("train", "train_gen, train_prefs"), ("test", "test_prefs")):
        with pytest.raises(
            UserError, match=rf"begins with the split '{split}'; .*\. Name one of its splits: {named}\.$"
        ):
            ingest(str(tmp_path), format="preference", split=split)


def test_messages_that_datasets_keeps_as_a_mapping_of_lists(ingest: Any) -> None:
    rows = [{"prompt": {"role": ["user"], "content": [f"q{i}"]}, "chosen": "a", "rejected": "b"} for i in range(2)]
    assert len(ingest(rows, suffix=".parquet", format="preference").ids) == 2


def test_a_pattern(ingest: Any, tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        (tmp_path / f"in/{i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/{i % 2}/part-{i}.jsonl").write_text(json.dumps(row))
    (tmp_path / "in/0/other.jsonl").write_text("{}")
    done = ingest(f"{tmp_path}/in/**/part-[0-2].jsonl", format="preference", test_prompts=1)
    assert [*done.preferences.chosen, *done.heldout.chosen] == ["70", "72", "71"]
    assert set(local.files(f"{tmp_path}/in/**/part-*.jsonl")) == {
        f"{tmp_path}/in/{i % 2}/part-{i}.jsonl" for i in range(4)
    }


HUB = {
    "owner/name": ("owner/name", None, None),
    "hf://datasets/owner/name": ("owner/name", None, None),
    "hf://datasets/owner/name@v1": ("owner/name", "v1", None),
    "hf://datasets/owner/name@refs/convert/parquet/en/*.parquet": (
        "owner/name",
        "refs/convert/parquet",
        "en/*.parquet",
    ),
    "hf://datasets/owner/name/data/part-*.jsonl.gz": ("owner/name", None, "data/part-*.jsonl.gz"),
}


@pytest.mark.parametrize(("source", "asked"), HUB.items())
def test_what_is_asked_of_the_hub(ingest: Any, monkeypatch: pytest.MonkeyPatch, source: str, asked: Any) -> None:
    calls = []

    def load_dataset(repository: str, subset: str | None, **options: Any) -> datasets.Dataset:
        calls.append((repository, subset, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    ingest(source, format="preference", subset="en", split="train_prefs", test_prompts=1)
    files = {"data_files": {"train_prefs": asked[2]}} if asked[2] else {}
    assert calls == [(asked[0], "en", {"revision": asked[1], "split": "train_prefs"} | files)]


BROKEN = {
    "cut.jsonl.gz": (gzip.compress(LINES)[:60], "is not a complete compressed file"),
    "no.csv": (b'prompt,chosen,rejected\na,"b"x,c\n', "is not valid CSV (line 2: "),
    "semicolons.csv": (
        b"prompt;chosen;rejected\na;b;c\n",
        "has one column, 'prompt;chosen;rejected', and looks separated by ';'; separate it by commas.",
    ),
    "tabs.csv": (b"prompt\tchosen\na\tb\n", "has one column, 'prompt\\tchosen', and looks separated by '\\t'"),
    "no.arrow": (b"ARROW1 and so on", "is not a complete Arrow file"),
    "twice.csv": (b"prompt,prompt,chosen,rejected\na,b,c,d\n", "holds the column prompt twice; remove one."),
}


@pytest.mark.parametrize(("name", "content", "said"), [(name, *broken) for name, broken in BROKEN.items()], ids=BROKEN)
def test_a_broken_file_is_one_sentence(ingest: Any, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        ingest(str(tmp_path / name), format="preference")
    assert f"{tmp_path / name} {said}" in str(caught.value)


def test_a_line_with_too_few_cells_costs_itself(ingest: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfprompt,chosen,rejected\n1,a,b\n2,a\n3,a,caf\xe9\n\n4,a,b\n")
    done = ingest(str(tmp_path / "rows.csv"), format="preference", test_prompts=1)
    assert list(done.quarantine.reason) == [
        "the row has 2 cells, its header 3",
        "rejected's assistant message is invalid UTF-8",
    ]
    assert len(done.ids) == 2


def test_messages_that_arrow_keeps_as_maps(ingest: Any, tmp_path: Path) -> None:
    kind = pa.list_(pa.map_(pa.string(), pa.string()))
    sides = {
        side: pa.array([[[("role", "user"), ("content", f"q{i}")], [("role", "assistant"), ("content", side)]]
                        for i in range(3)], kind)
        for side in ("chosen", "rejected")
    }  # fmt: skip
    pq.write_table(pa.table(sides), tmp_path / "maps.parquet")
    done = ingest(str(tmp_path / "maps.parquet"), format="preference", test_prompts=1)
    assert list(done.prompts.messages) == [[{"role": "user", "content": f"q{i}"}] for i in range(2)]
    assert list(done.preferences.chosen) == ["chosen", "chosen"]
