"""Public formats into tables: order, held-out prompts, disjointness, determinism."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffinfo.cli import UserError
from diffinfo.config.types import Dataset
from diffinfo.data.ingest import held_out, main
from diffinfo.data.rows import normalise
from diffinfo.tables import artifacts

Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl"])
@pytest.mark.parametrize("kind", ["magpie", "ranked", "ultrafeedback"])
def test_pairs_of_each_format_and_file(ingest: Any, make: Make, kind: str, suffix: str) -> None:
    rows = [make(kind, index) for index in range(8)]
    done = ingest(rows, suffix=suffix, format="magpie" if kind == "ranked" else kind, test_prompts=3)
    pairs = done.preferences
    assert len(done.quarantine) == 0
    assert (
        list(pairs.prompt_id) == list(done.prompts.prompt_id) == [f"{rows[0].get('uuid', 'u')[0]}{i}" for i in range(5)]
    )
    assert list(done.test.prompt_id)[-1].endswith("7")
    assert list(pairs.chosen) == [f"good {index}" for index in range(5)]
    assert list(pairs.rejected) == [f"bad {index}" for index in range(5)]
    assert list(pairs.messages) == [[{"role": "user", "content": f"Question {index}?"}] for index in range(5)]
    assert set(pairs.chosen_score) == ({8.0} if kind == "ultrafeedback" else {0.9})
    assert set(pairs.rejected_score) == ({3.5} if kind == "ultrafeedback" else {0.1})
    assert not pairs.chosen_truncated.any()
    assert list(done.heldout.prompt_id) == list(done.test.prompt_id)
    assert list(done.heldout.messages) == list(done.test.messages)
    assert list(done.heldout.chosen) == [f"good {index}" for index in (5, 6, 7)]
    assert list(done.heldout.rejected) == [f"bad {index}" for index in (5, 6, 7)]
    assert set(done.prompts.source) == {"set"}


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl"])
def test_prompts_alone(ingest: Any, make: Make, suffix: str) -> None:
    """Of full Magpie rows only the prompt is read: what is wrong with their responses does not matter."""
    done = ingest([make("magpie", i, rejected=None) for i in range(4)], suffix=suffix, format="prompts", test_prompts=1)
    assert list(done.prompts.prompt_id) == ["m0", "m1", "m2"]
    assert list(done.test.prompt_id) == ["m3"]
    assert done.preferences is None


def test_histories_of_several_turns(ingest: Any, make: Make) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question 2?"},
        {"role": "assistant", "content": "which one?"},
        {"role": "user", "content": "the second"},
    ]
    sides = {side: [*history, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows = [make("ultrafeedback", 0), make("ultrafeedback", 2, **sides), make("ultrafeedback", 3)]
    done = ingest(rows, format="ultrafeedback", test_prompts=1)
    assert len(done.quarantine) == 0
    assert done.preferences.messages[1] == history
    assert (done.preferences.chosen[1], done.preferences.rejected[1]) == ("chosen", "rejected")


def test_a_ready_pair_needs_no_scores(ingest: Any, make: Make) -> None:
    bare = [make("magpie", index, responses=..., rewards_armorm=...) for index in range(3)]
    rewritten = make("magpie", 3, responses=["other", "texts", "here"])
    done = ingest([*bare, rewritten, make("magpie", 4)], test_prompts=1)
    assert len(done.quarantine) == 0
    assert done.preferences.chosen_score.isna().all()


def test_equal_best_scores_take_the_first(ingest: Any, make: Make) -> None:
    scores = [{"score": 1}, {"score": 2}, {"score": 2}, {"score": 1}]
    rows = [make("ranked", i, responses=["a", "b", "c", "d"], rewards_armorm=scores) for i in range(2)]
    done = ingest(rows, test_prompts=1)
    assert (done.preferences.chosen[0], done.preferences.rejected[0]) == ("b", "a")


@pytest.mark.parametrize(("good", "wanted", "held"), [(10, 3, 3), (4, 3, 3), (3, 3, 1), (2, 1000, 1), (99, 1000, 19)])
def test_how_many_are_held_out(good: int, wanted: int, held: int) -> None:
    assert held_out(good, wanted) == held


def test_limit_reads_the_first_rows(ingest: Any, make: Make) -> None:
    rows = [make("prompts", 0, instruction=""), *(make("prompts", index) for index in range(1, 9))]
    done = ingest(rows, format="prompts", limit=5, test_prompts=1)
    assert done.ids == ["p1", "p2", "p3", "p4"]


def test_missing_ids_are_digests_of_the_prompt(ingest: Any, make: Make) -> None:
    rows = [make("prompts", index, uuid=None if index % 2 else ...) for index in range(4)]
    done = ingest(rows, format="prompts", test_prompts=1)
    again = ingest(list(reversed(rows)), format="prompts", test_prompts=1, name="again")
    assert len(set(done.ids)) == 4
    assert done.ids == again.ids[::-1]


def test_disjointness_by_normalised_text(ingest: Any, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    other = ingest([make("magpie", index) for index in range(6)], name="magpie-pro", test_prompts=2)
    tables = [other.folder / "prompts.parquet", other.folder / "test_prompts.parquet"]
    asked = ["question\u00a01?", "New 1?", " ＱＵＥＳＴＩＯＮ\n5?", "New 2?", "Question 6?"]  # 5 is a test prompt there
    rows = [make("prompts", index, instruction=text) for index, text in enumerate(asked)]
    with caplog.at_level("INFO"):
        done = ingest(rows, format="prompts", disjoint=tables, test_prompts=1)
    assert done.ids == ["p1", "p3", "p4"]
    assert list(zip(done.quarantine.row, done.quarantine.reason, strict=True)) == [
        (1, "also in magpie-pro"),
        (3, "also in magpie-pro"),
    ]
    assert "set: 2 rows left out: also in magpie-pro" in caplog.messages


def test_a_training_prompt_that_a_test_prompt_repeats_is_dropped(ingest: Any, make: Make) -> None:
    """Another system message does not make a held-out question unseen."""
    system = [{"role": "system", "content": "Be brief."}]
    sides = {
        side: [*system, {"role": "user", "content": "Question 3?"}, {"role": "assistant", "content": side}]
        for side in ("chosen", "rejected")
    }
    leak = make("ultrafeedback", 9, prompt="question 3?", **sides)
    rows = [leak, *(make("ultrafeedback", index) for index in range(1, 4))]
    done = ingest(rows, format="ultrafeedback", test_prompts=1)
    assert list(done.prompts.prompt_id) == ["u1", "u2"]
    assert list(done.test.prompt_id) == list(done.heldout.prompt_id) == ["u3"]
    assert not set(done.preferences.prompt_id) & set(done.heldout.prompt_id)
    assert list(done.quarantine.reason) == ["also a held-out test prompt"]


def test_same_rows_same_bytes(ingest: Any, make: Make) -> None:
    rows = [make("magpie", 0, instruction=None), *(make("magpie", index) for index in range(20))]
    first = {file.name: file.read_bytes() for file in ingest(rows).folder.iterdir()}
    second = {file.name: file.read_bytes() for file in ingest(rows).folder.iterdir()}
    assert first == second
    assert set(first) == {
        "prompts.parquet",
        "test_prompts.parquet",
        "quarantine.parquet",
        "preferences.parquet",
        "heldout.parquet",
    }


def test_options_that_a_file_cannot_honour_fail(ingest: Any, make: Make) -> None:
    rows = [make("magpie", index) for index in range(3)]
    with pytest.raises(
        UserError, match=r"datasets\.set: split: train_prefs, test_split: test, revision: v1 has no meaning"
    ):
        ingest(rows, split="train_prefs", test_split="test", revision="v1")


def test_pairs_need_their_table_and_prompts_have_none(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("prompts", "test_prompts", "quarantine")}
    for data_format, preferences, heldout, said in (
        ("magpie", None, None, "are needed"),
        ("magpie", tmp_path / "p", None, "are needed"),
        ("prompts", tmp_path / "p", None, "cannot be written"),
        ("prompts", None, tmp_path / "h", "cannot be written"),
    ):
        spec = Dataset(format=data_format, source="x.jsonl")
        with pytest.raises(
            UserError, match=f"datasets.d.format = {data_format}: --preferences and --heldout {said} for this format."
        ):
            main(dataset="d", spec=spec, source="x.jsonl", preferences=preferences, heldout=heldout, **files)


@pytest.mark.parametrize("limit", [None, 1000, 30, 7])
@pytest.mark.parametrize("wanted", [3, 25])
def test_limit_duplicates_disjointness_and_held_out_prompts_are_those_of_a_plain_loop(
    ingest: Any, make: Make, limit: int | None, wanted: int
) -> None:
    rng = random.Random(limit or 0)
    other = ingest([make("magpie", index) for index in range(50, 56)], name="other", test_prompts=1)
    numbers = [rng.randint(20, 70) for _ in range(60)]
    rows = [
        make("magpie", number, uuid=f"r{row}", **({"chosen": None, "responses": None} if number % 7 == 0 else {}))
        for row, number in enumerate(numbers)
    ]
    done = ingest(rows, limit=limit, test_prompts=wanted, disjoint=[other.folder / "prompts.parquet"])
    kept: list[str] = []
    seen: set[int] = set()
    for row, number in enumerate(numbers[:limit]):
        if number % 7 and number not in seen and not 50 <= number < 55:  # 55 is the other's test prompt
            seen.add(number)
            kept.append(f"r{row}")
    held = wanted if len(kept) > wanted else max(1, len(kept) // 5)
    assert done.prompts.prompt_id.tolist() == kept[:-held]
    assert done.test.prompt_id.tolist() == kept[-held:]
    assert done.preferences.prompt_id.tolist() == kept[:-held]
    by_id = {f"r{row}": number for row, number in enumerate(numbers)}
    assert done.preferences.chosen.tolist() == [f"good {by_id[name]}" for name in kept[:-held]]
    assert done.preferences.rejected.tolist() == [f"bad {by_id[name]}" for name in kept[:-held]]
    assert done.heldout.prompt_id.tolist() == kept[-held:]
    assert done.heldout.chosen.tolist() == [f"good {by_id[name]}" for name in kept[-held:]]
    assert len(done.quarantine) == len(numbers[:limit]) - len(kept)


def test_the_real_magpie_sample(ingest: Any, public_data: Path) -> None:
    file = public_data / "magpie" / "example_instructions_5res_armorm.json"
    done = ingest(str(file))
    raw = json.loads(file.read_text())
    assert (len(done.prompts), len(done.test), len(done.quarantine)) == (2, 1, 0)
    assert done.ids == [row["uuid"] for row in raw]
    for row, pair in zip(raw, done.preferences.itertuples(), strict=False):
        scores = [reward["score"] for reward in row["rewards_armorm"]]
        assert (pair.chosen_score, pair.rejected_score) == (max(scores), min(scores))
        assert pair.chosen == row["responses"][scores.index(max(scores))]
        assert pair.rejected == row["responses"][scores.index(min(scores))]


@pytest.fixture
def hub_folder(tmp_path: Path, make: Make) -> Path:
    """A folder that ``load_dataset`` loads by the call it loads a hub dataset with."""
    folder = tmp_path / "hub"
    folder.mkdir()
    splits = {"train": range(10), "test": range(8, 14)}  # Questions 8 and 9 are in both
    for split, indices in splits.items():
        lines = [json.dumps(make("ultrafeedback", index) | {"prompt_id": f"{split}{index}"}) for index in indices]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def command(folder: Path, out: Path, **spec: Any) -> subprocess.CompletedProcess[str]:
    entry = {"format": "ultrafeedback", "source": str(folder), "test_split": "test", "test_prompts": 4} | spec
    arguments = ["--dataset", "uf", "--spec", json.dumps(entry), "--source", str(folder)]
    for name in ("prompts", "test_prompts", "preferences", "heldout", "quarantine"):
        arguments += [f"--{name}", str(out / f"{name}.parquet")]
    package = Path(artifacts.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(package), "HF_HOME": str(out / "cache"), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-m", "diffinfo.data.ingest", *arguments]
    return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)


def test_splits_of_a_hub_dataset_from_the_command_line(hub_folder: Path, tmp_path: Path) -> None:
    done = command(hub_folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    test = artifacts.read(tmp_path / "out/test_prompts.parquet", "prompts")
    train = artifacts.read(tmp_path / "out/preferences.parquet", "preferences")
    dropped = artifacts.read(tmp_path / "out/quarantine.parquet", "quarantine")
    heldout = artifacts.read(tmp_path / "out/heldout.parquet", "preferences")
    assert list(test.prompt_id) == list(heldout.prompt_id) == ["test8", "test9", "test10", "test11"]
    assert list(train.prompt_id) == [f"train{index}" for index in range(8)]
    assert list(zip(dropped.source, dropped.row, dropped.reason, strict=True)) == [
        (f"{hub_folder}[train]", 9, "also a held-out test prompt"),
        (f"{hub_folder}[train]", 10, "also a held-out test prompt"),
    ]
    assert "uf: 8 prompts to train on, 4 held out, 2 rows left out" in done.stderr


def test_an_unknown_split_is_one_sentence(hub_folder: Path, tmp_path: Path) -> None:
    done = command(hub_folder, tmp_path / "out", split="trian")
    assert done.returncode == 1
    said = (
        f"error: datasets.uf: {hub_folder} has no .parquet, .json or .jsonl file whose name begins with the split 'trian'; "
        "it has test.jsonl, train.jsonl."
    )
    assert done.stderr.splitlines()[-1].startswith(said)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text())
def test_normalisation_is_a_projection(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(f" \n{text}\t ") == once
    assert normalise(unicodedata.normalize("NFC", text)) == once
