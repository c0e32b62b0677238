"""What an output says of how it was made, and when that is the same as what a command would make now."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from diffinfo.tables import artifacts, provenance

PAIRS = pd.DataFrame({"prompt_id": ["a"], "prompt_ids": [[1]], "chosen_ids": [[2]], "rejected_ids": [[3]],
                      "chosen_logp": [None], "rejected_logp": [None]})  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    provenance._here.clear()


def stage(*arguments: str) -> None:
    """Begin as ``python -m diffinfo.reward`` does."""
    provenance.begin(["diffinfo.reward", *arguments])


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)


def command(*arguments: str, launcher: str = "python -m") -> str:
    return f"{launcher} diffinfo.reward {shlex.join(arguments)} 2> results/some.log"


ARGUMENTS = ("--model", "results/model", "--settings", '{"text": "it\'s $(x) [a,b]"}', "--out", "results/out.parquet")
OUTPUTS = ["results/out.parquet"]


@pytest.fixture
def made():
    """A model, and a table made from it."""
    stage("--out", "results/model")
    with artifacts.whole_folder(Path("results/model")) as folder:
        (folder / "weights").write_text("1")
    stage(*ARGUMENTS)
    artifacts.write(Path(OUTPUTS[0]), PAIRS, "reference_logps")


def test_the_same_command_made_it_whatever_starts_it_and_however_fast(made):
    assert provenance.made_by(command(*ARGUMENTS), OUTPUTS)
    assert provenance.made_by(command(*ARGUMENTS, "--progress_dir", "x", "--save_minutes", "3"), OUTPUTS)
    assert provenance.made_by(command(*ARGUMENTS, "--progress_dir=x", "--events=y"), OUTPUTS)
    several = "srun --ntasks 2 bash -c 'exec accelerate launch --rank $SLURM_NODEID -m \"$@\"' launcher"
    assert provenance.made_by(command(*ARGUMENTS, launcher=several), OUTPUTS)
    assert not provenance.made_by(command(*ARGUMENTS, "--seed", "3"), OUTPUTS)
    assert not provenance.made_by(command(*ARGUMENTS).replace("reward", "sample.complete"), OUTPUTS)


def test_inputs_made_another_way_count_and_missing_ones_do_not(made):
    shutil.copytree("results/model", "results/copy")  # a copy is the same, whenever it was made
    shutil.rmtree("results/model")
    assert provenance.made_by(command(*ARGUMENTS), OUTPUTS)
    shutil.move("results/copy", "results/model")
    assert provenance.made_by(command(*ARGUMENTS), OUTPUTS)
    stage("--out", "results/model", "--seed", "2")
    with artifacts.whole_folder(Path("results/model")) as folder:
        (folder / "weights").write_text("1")
    assert not provenance.made_by(command(*ARGUMENTS), OUTPUTS)


@pytest.mark.parametrize("source", ["data.jsonl", "results/model/epoch-1", "results/model/tasks.jsonl"])
def test_files_and_parts_of_folders_are_told_apart(source):
    def make(seed: str) -> None:
        stage("--seed", seed)
        with artifacts.whole_folder(Path("results/model")) as folder:
            (folder / "epoch-1").mkdir()
            (folder / "tasks.jsonl").touch()
        Path("data.jsonl").write_text(seed)

    arguments = (f"--prompts={json.dumps([source])}", "--out", OUTPUTS[0])
    make("1")
    stage(*arguments)
    artifacts.write(Path(OUTPUTS[0]), PAIRS, "reference_logps")
    assert provenance.made_by(command(*arguments), OUTPUTS)
    make("2")
    assert not provenance.made_by(command(*arguments), OUTPUTS)


def test_what_says_nothing_of_itself_counts_by_its_table_alone(made):
    both = [*OUTPUTS, "results/out.md"]
    assert provenance.made_by(command(*ARGUMENTS), both)  # only the table is there
    Path(both[1]).touch()  # it is written before the table
    assert provenance.made_by(command(*ARGUMENTS), both)
    Path(OUTPUTS[0]).unlink()
    assert not provenance.made_by(command(*ARGUMENTS), both)  # whoever wrote it
    Path(both[1]).rename("results/lone.html")
    assert not provenance.made_by(command(*ARGUMENTS), ["results/lone.html"])  # nothing says who made it
    assert not provenance.made_by(command(*ARGUMENTS), ["results/none.parquet"])


def test_every_table_and_folder_of_a_job_must_say_the_same(made):
    both = [*OUTPUTS, "results/other"]
    Path(both[1]).mkdir()
    assert not provenance.made_by(command(*ARGUMENTS), both)
    Path(both[1]).rmdir()
    stage(*ARGUMENTS, "--seed", "3")
    with artifacts.whole_folder(Path(both[1])):
        pass
    assert not provenance.made_by(command(*ARGUMENTS), both)


def test_what_a_killed_attempt_left_changes_no_byte():
    """The job that follows writes what an undisturbed one does, though an output of its own is there already."""
    outputs = ["results/first.parquet", "results/second.parquet"]

    def write() -> list[bytes]:
        stage("--judgments", outputs[0], "--winrates", outputs[1])
        for path in outputs:
            artifacts.write(Path(path), PAIRS, "reference_logps")
        return [Path(path).read_bytes() for path in outputs]

    calm = write()
    Path(outputs[1]).unlink()
    assert write() == calm


def test_nothing_is_noted_after_a_stage_has_ended():
    stage(*ARGUMENTS)
    provenance.end()
    artifacts.write(Path(OUTPUTS[0]), PAIRS, "reference_logps")
    assert "made" not in artifacts.provenance(Path(OUTPUTS[0]))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_note_is_none(damage):
    stage("--out", "results/model")
    with artifacts.whole_folder(Path("results/model")):
        pass
    assert provenance.made_by(command("--out", "results/model"), ["results/model"])
    Path("results/model", provenance.NOTE).write_bytes(damage)
    assert not provenance.made_by(command("--out", "results/model"), ["results/model"])


def test_a_line_file_has_its_note_beside_it():
    arguments = ("dataset", "--name", "x", "--spec", "{}", "--out", "x.jsonl")
    stage(*arguments)
    Path("x.jsonl").write_text("{}\n")
    assert not provenance.made_by(command(*arguments), ["x.jsonl"])
    provenance.note_beside(Path("x.jsonl"))
    assert provenance.made_by(command(*arguments), ["x.jsonl"])
    Path("x.jsonl").write_text("{}\n{}\n")  # the note is another file's
    assert not provenance.made_by(command(*arguments), ["x.jsonl"])


def test_a_real_stage_leaves_what_its_command_tells():
    spec = json.dumps({"source": "world", "format": "magpie"})
    arguments = (
        "dataset",
        "--name",
        "x",
        "--spec",
        spec,
        "--world",
        '{"pairs": 3, "test_prompts": 1}',
        "--out",
        "x.jsonl",
    )
    shell = f"python -m diffinfo.world.build {shlex.join(arguments)} 2> log"
    environment = {**os.environ, "PYTHONPATH": str(Path(artifacts.__file__).parents[2])}
    subprocess.run(["bash", "-c", shell.replace("python", sys.executable, 1)], env=environment, check=True)
    assert provenance.made_by(shell, ["x.jsonl"])
    assert not provenance.made_by(shell.replace('"pairs": 3', '"pairs": 4'), ["x.jsonl"])
