"""Tables on disk: what is wrong is refused in one sentence, what is right comes back, nothing is half written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffinfo.tables import artifacts
from diffinfo.tables.artifacts import ArtifactError, atomic, digest, provenance, read, write

MESSAGES = [{"role": "user", "content": "ünï ✓"}]


def prompts(rows: int = 3) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": [f"p{i}" for i in range(rows)], "messages": [MESSAGES] * rows, "source": "s"})


def completions() -> pd.DataFrame:
    row = {
        "benchmark": "", "epoch": 1, "prompt_id": "p", "sample": 0, "messages": MESSAGES, "prompt_token_ids": [1, 2],
        "completion": "", "token_ids": [], "logp": -1.5, "finish_reason": "stop",
    }  # fmt: skip
    return pd.DataFrame([row, row | {"token_ids": [7], "sample": 1}])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.parquet"
    write(path, prompts(), "prompts", seed=1)
    return path


def restored(path: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Write a changed table under the footer it had."""
    whole = pq.read_table(path)
    pq.write_table(change(whole).replace_schema_metadata(whole.schema.metadata), path)
    return path


def footer(path: Path, **changes: Any) -> Path:
    whole = pq.read_table(path)
    facts = json.dumps(provenance(path) | changes).encode()
    pq.write_table(whole.replace_schema_metadata({b"diffinfo": facts}), path)
    return path


def loose(whole: pa.Table, column: str, values: Any) -> pa.Table:
    """A column replaced, and nullable as other writers make it."""
    index = whole.schema.names.index(column)
    return whole.set_column(index, column, pa.array(values) if isinstance(values, list) else values)


def test_what_is_written_comes_back_as_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "completions.parquet"
    write(path, completions(), "completions")
    frame = read(path, "completions")
    assert frame.to_dict("records") == completions().to_dict("records")
    assert type(frame.token_ids[1]) is list
    assert type(frame.messages[0]) is list


def test_some_columns_alone(tmp_path: Path) -> None:
    path = tmp_path / "completions.parquet"
    write(path, completions(), "completions")
    frame = read(path, "completions", columns=["sample", "messages"])
    assert frame.to_dict("list") == {"sample": [0, 1], "messages": [MESSAGES, MESSAGES]}


def test_a_path_that_looks_like_partitions_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "source=x" / "prompt_id=y" / "prompts.parquet"
    write(path, prompts(), "prompts")
    assert list(read(path, "prompts").source) == ["s", "s", "s"]


def test_an_empty_table_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "t.parquet", prompts(0), "prompts")
    assert len(read(tmp_path / "t.parquet", "prompts")) == 0


def test_same_inputs_same_bytes_and_no_clock(tmp_path: Path, table: Path) -> None:
    again = tmp_path / "again.parquet"
    write(again, prompts(), "prompts", seed=1)
    assert again.read_bytes() == table.read_bytes()
    write(again, prompts(), "prompts", seed=2)
    assert again.read_bytes() != table.read_bytes()


def test_provenance_follows_its_inputs(tmp_path: Path) -> None:
    file, folder, out = tmp_path / "in.txt", tmp_path / "model", tmp_path / "t.parquet"
    folder.mkdir()
    file.write_text("one")
    (folder / "weights").write_text("w")

    def made_from() -> dict[str, str]:
        write(out, prompts(), "prompts", inputs={"file": file, "model": folder}, seed=1)
        found: dict[str, str] = provenance(out)["inputs"]
        return found

    first = made_from()
    assert made_from() == first
    file.write_text("two")
    second = made_from()
    assert second["file"] != first["file"]
    assert second["model"] == first["model"]
    (folder / "weights").rename(folder / "other")
    assert made_from()["model"] != first["model"]
    assert provenance(out) == {
        "kind": "prompts", "version": artifacts.SCHEMAS["prompts"][0], "code": artifacts.__version__,
        "seed": 1, "inputs": made_from(),
    }  # fmt: skip


def test_a_folder_is_the_same_whether_snakemake_saw_its_job_finish(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = digest(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    assert digest(tmp_path) == before
    (tmp_path / "config.json").touch()
    assert digest(tmp_path) != before


def test_some_rows_of_a_loaded_table_are_those_of_the_whole(tmp_path: Path) -> None:
    rows = {"prompt_id": ["a", "b", "c"], "prompt_ids": [[1], [2, 3], [4]], "chosen_ids": [[5], [], [6, 7]]}
    table = pd.DataFrame(
        {**rows, "rejected_ids": [[8], [9], []], "chosen_logp": [-1.5, None, -2.0], "rejected_logp": None}
    )
    write(tmp_path / "t.parquet", table, "reference_logps")
    loaded = artifacts.load(tmp_path / "t.parquet", "reference_logps").combine_chunks()
    assert loaded["chosen_logp"].null_count == 1
    some = artifacts.frame(loaded.take([2, 0]))
    assert some.chosen_ids.tolist() == [[6, 7], [5]]
    assert some.rejected_ids.tolist() == [[], [8]]
    assert some.chosen_logp.tolist() == [-2.0, -1.5]


def test_weights_are_read_for_their_digest_once(tmp_path, monkeypatch) -> None:
    """When they are written; a file that changed is read again, and a digest never depends on what was kept."""
    read: list[str] = []
    plain = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(Path(file.name).name) or plain(file, kind)
    )
    with artifacts.whole_folder(tmp_path / "models") as folder:
        for name in (
            "epoch-1/model.safetensors",
            "epoch-1/config.json",
            "state/rank-0.safetensors",
            "state/state.json",
        ):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(name.encode())
    assert sorted(read) == ["config.json", "model.safetensors"]  # a trainer's state has a digest of its own
    before = digest(tmp_path / "models/epoch-1")
    assert len(read) == 2
    shutil.copytree(tmp_path / "models/epoch-1", tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    assert digest(tmp_path / "copy") == before
    assert len(read) == 4
    weights = tmp_path / "models/epoch-1/model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert digest(tmp_path / "models/epoch-1") != before
    (tmp_path / "models/epoch-1/.digests.json").write_text("{broken")
    assert digest(tmp_path / "models/epoch-1") != before


def test_digests_tell_values_apart() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest(1), digest("1"), digest([1]), digest(None), digest(1.5)}) == 5


REFUSED_WRITES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "missing-columns": (
        lambda frame: frame[["prompt_id"]],
        "{path}: cannot write a 'prompts' table without the column(s) messages, source.",
    ),
    "null-in-required": (lambda frame: frame.assign(source=["s", None, "s"]), "{path}: "),
    "text-for-number": (lambda frame: frame.assign(prompt_id=[1, 2, 3]), "{path}: cannot write a 'prompts' table: "),
    "text-for-list": (lambda frame: frame.assign(messages="hello"), "{path}: cannot write a 'prompts' table: "),
    "null-in-a-message": (
        lambda frame: frame.assign(messages=[MESSAGES, [{"role": "user", "content": None}], MESSAGES]),
        "{path}: column(s) messages hold nulls where none may be.",
    ),
    "broken-text": (
        lambda frame: frame.assign(source=pd.Series(["s", "\ud800", "s"], dtype=object)),
        "{path}: cannot write a 'prompts' table: ",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED_WRITES.values(), ids=REFUSED_WRITES)
def test_a_bad_frame_is_refused_and_the_old_table_stays(
    table: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    before = table.read_bytes()
    with pytest.raises(ArtifactError) as caught:
        write(table, change(prompts()), "prompts")
    assert str(caught.value).startswith(message.format(path=table))
    assert table.read_bytes() == before
    assert os.listdir(table.parent) == [table.name]


def test_a_score_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"epoch": 0, "prompt_id": "p", "sample": 0, "score": [np.nan], "tokens": 1})
    with pytest.raises(ArtifactError, match="score"):
        write(tmp_path / "scores.parquet", frame, "scores")


REFUSED_READS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (lambda path: path.unlink(), "{path} does not exist."),
    "wrong-kind": (
        lambda path: footer(path, kind="scores"),
        "{path} holds a 'scores' table where a 'prompts' table is needed.",
    ),
    "wrong-version": (
        lambda path: footer(path, version=99),
        "{path} holds 'prompts' version 99, this code reads version 1: delete the file and let the workflow make it again.",
    ),
    "no-footer": (
        lambda path: prompts().to_parquet(path),
        "{path} is a Parquet file of unknown origin: it has no diffinfo footer.",
    ),
    "broken-footer": (
        lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata({b"diffinfo": b"{"}), path),
        "{path} is a Parquet file of unknown origin: its diffinfo footer is broken.",
    ),
    "no-parquet": (lambda path: path.write_text("a,b\n1,2\n"), "{path} is not a complete Parquet file (truncated or"),
    "empty": (lambda path: path.write_bytes(b""), "{path} is not a complete Parquet file (truncated or damaged): "),
    "a-folder": (lambda path: (path.unlink(), path.mkdir()), "{path} is not a complete Parquet file"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        "{path} is not a complete Parquet file (truncated or damaged): ",
    ),
    "head-lost": (
        lambda path: path.write_bytes(path.read_bytes()[100:]),
        "{path} is not a complete Parquet file (truncated or damaged): ",
    ),
    "damaged-inside": (
        lambda path: path.write_bytes(b"PAR1" + b"\xff" * 150 + path.read_bytes()[154:]),
        "{path} is not a complete Parquet file (truncated or damaged): ",
    ),
    "missing-column": (
        lambda path: restored(path, lambda whole: whole.drop_columns(["source"])),
        "{path}: the 'prompts' column(s) source are missing or of another type.",
    ),
    "wrong-type": (
        lambda path: restored(path, lambda whole: loose(whole, "prompt_id", [1, 2, 3])),
        "{path}: the 'prompts' column(s) prompt_id are missing or of another type.",
    ),
    "null-in-required": (
        lambda path: restored(path, lambda whole: loose(whole, "source", ["s", None, "s"])),
        "{path}: column(s) source hold nulls where none may be.",
    ),
    "null-beside-a-further-column": (
        lambda path: restored(
            path, lambda whole: loose(whole, "source", ["s", None, "s"]).append_column("more", pa.array([1, 2, 3]))
        ),
        "{path}: column(s) source hold nulls where none may be.",
    ),
    "null-in-a-message": (
        lambda path: restored(
            path,
            lambda whole: loose(
                whole, "messages", pa.array([[None], [], []], whole.schema.field("messages").type),
            ),
        ),
        "{path}: column(s) messages hold nulls where none may be.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), REFUSED_READS.values(), ids=REFUSED_READS)
def test_a_bad_table_is_refused_in_one_sentence(table: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(table)
    with pytest.raises(ArtifactError) as caught:
        read(table, "prompts")
    assert str(caught.value).startswith(message.format(path=table))


def test_columns_in_another_order_are_no_fault(table: Path) -> None:
    restored(table, lambda whole: whole.select(["source", "messages", "prompt_id"]))
    assert read(table, "prompts").equals(prompts())


def test_a_crash_while_writing_leaves_the_old_table_alone(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table.read_bytes()

    def crash(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", crash)
    with pytest.raises(OSError, match="No space left"):
        write(table, prompts(5), "prompts")
    assert table.read_bytes() == before
    assert os.listdir(table.parent) == [table.name]


def test_a_crash_before_the_first_table_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic(tmp_path / "t.parquet") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_show_prints_schema_provenance_and_head(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts.show(table, rows=1)
    out = capsys.readouterr().out
    assert f"{table}: prompts v1, 3 rows" in out
    assert "prompt_id: string not null" in out
    assert '"seed": 1' in out
    assert "p0" in out
    assert "p1" not in out


@pytest.mark.parametrize("group", [1, 3, 7, 100])
def test_rows_are_those_of_the_whole_table_in_any_order(tmp_path, monkeypatch, group):
    monkeypatch.setattr(artifacts, "GROUP", group)
    texts = [f"text {i}" for i in range(20)]
    frame = pd.DataFrame({"uuid": [str(i) for i in range(20)], "instruction": texts})
    write(tmp_path / "t.parquet", frame, "instructions")
    with pq.ParquetFile(tmp_path / "t.parquet") as file:
        assert file.num_row_groups == -(-20 // group)
    for numbers in ([], [19], [5, 5, 0], np.random.default_rng(group).integers(0, 20, 30).tolist()):
        found = artifacts.rows(tmp_path / "t.parquet", "instructions", np.array(numbers, dtype=int), ["instruction"])
        assert found["instruction"].to_pylist() == [texts[number] for number in numbers]
    parts = list(artifacts.batches(tmp_path / "t.parquet", "instructions"))
    assert [len(part) for part in parts] == [min(group, 20 - first) for first in range(0, 20, group)]
    with pytest.raises(ArtifactError, match="holds a 'instructions' table where a 'scores' table is needed"):
        next(artifacts.batches(tmp_path / "t.parquet", "scores"))
    with pytest.raises(ArtifactError, match="null values"):
        write(tmp_path / "n.parquet", pa.table({"uuid": ["a", None], "instruction": ["b", "c"]}), "instructions")
