"""Results that were copied without .snakemake: what they hold says whether they are those of the configuration."""

import os
import shutil

import pytest

TINY = {"world": {"hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "pairs": 40, "test_prompts": 10}}
MADE = ["reference_logps/micro-mistral/magpie-pro.parquet", "bench/arena-hard.parquet", "world/bench"]
TARGETS = [f"results/{name}" for name in MADE]


@pytest.fixture(scope="module")
def made(project_factory):
    project = project_factory()
    project.environment["DIFFINFO_WARM"] = "1"
    project.snakemake("--cores", "2", *TARGETS, changes=TINY)
    return project


@pytest.fixture
def copied(made, tmp_path):
    """The copy's files are the younger the earlier they were made: by their times everything would be made again."""
    project = made.copy(tmp_path / "copy")
    shutil.rmtree(project.folder / ".snakemake")
    files = [path for path in (project.folder / "results").rglob("*") if path.is_file()]
    for age, file in enumerate(sorted(files, key=lambda path: path.stat().st_mtime_ns)):
        os.utime(file, (1e9 - age, 1e9 - age))
    return project


def contents(project):
    files = [*(project.folder / "results").rglob("*.parquet"), *(project.folder / "results").rglob("*.safetensors")]
    return {str(file.relative_to(project.folder)): file.read_bytes() for file in files}


def test_they_are_up_to_date_where_the_same_commands_made_them(made, copied):
    shown = copied.snakemake("-n", *TARGETS, changes=TINY)
    assert "rule sft" in shown  # by the times of the files
    assert "of these jobs: the same commands made their results from the same inputs" in shown
    said = copied.snakemake("--cores", "1", *TARGETS, changes=TINY)
    assert said.count("Took over 7 job(s)") == 1
    assert "  sft " not in said.partition("Took over")[2]
    assert "Nothing to be done" in copied.snakemake("-n", *TARGETS, changes=TINY)
    assert contents(copied) == contents(made)


def test_what_another_configuration_made_is_one_sentence_and_made_again(copied):
    changes = {**TINY, "sft": {"learning_rate": 1e-3}}
    said = copied.snakemake("-n", *TARGETS, changes=changes)
    sentence = "Not made by this configuration's command from these inputs, or without a record of it: results/"
    (line,) = [line for line in said.splitlines() if line.startswith(sentence)]
    assert line.endswith(" more; they are made again.")
    assert len(line) < 400
    said = copied.snakemake("--cores", "1", *TARGETS, changes=changes)
    assert line.partition(": ")[0] in said
    again = {rule for rule in ("world_model", "world_dataset", "ingest_pairs", "sft", "reference_logps")
             if f"  {rule} " in said.partition("they are made again")[2]}  # fmt: skip
    assert again == {"sft", "reference_logps"}
