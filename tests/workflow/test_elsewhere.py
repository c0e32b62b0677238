"""The workflow in a working directory that is not its own."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from project import ROOT

SNAKEMAKE = [sys.executable, "-m", "snakemake"]


@pytest.mark.parametrize("how", [["-s", f"{ROOT}/Snakefile"], ["--directory", "."]], ids=["snakefile", "directory"])
def test_it_runs_in_any_working_directory(tmp_path, how):
    """With the project's configuration where there is none, else with that of the directory."""
    cwd = tmp_path if how[0] == "-s" else ROOT
    words = [word if word != "." else str(tmp_path) for word in how]
    run = [*SNAKEMAKE, "--cores", "1", *words]
    made = subprocess.run([*run, "results/world/data/magpie-pro.jsonl"], cwd=cwd, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "results/world/data/magpie-pro.jsonl").stat().st_size > 1000
    (tmp_path / "config.yaml").write_text(
        (ROOT / "config.yaml").read_text().replace("betas: [0.2, 0.1, 0.05, 0.02]", "betas: [0.1]")
    )
    shown = subprocess.run([*run, "-n"], cwd=cwd, capture_output=True, text=True).stdout
    assert re.search(r"^preference +30$", shown, re.M)  # of 45


def test_another_directory_is_judged_by_its_own_results(project_factory, tmp_path):
    """Also where there is nothing to be done, and after a kill, whatever lies in the folder that it is started from."""
    project = project_factory()
    made = "results/world/data/magpie-pro.jsonl"
    project.snakemake("--cores", "1", made)
    here, there = project.folder, tmp_path / "there"
    timing = here / "results/benchmarks/world/data/magpie-pro.tsv"
    before = timing.read_bytes()
    run = [*SNAKEMAKE, "--cores", "1", "--directory", os.path.relpath(there, here)]

    def ended(*targets: str) -> str:
        done = subprocess.run([*run, *targets], cwd=here, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    there.mkdir()
    shutil.copy(here / "config.yaml", there)
    ended(made)
    assert "Nothing to be done" in (said := ended(made))
    assert not re.search("Took over|Not made by", said)
    for record in (there / ".snakemake/metadata").iterdir():  # as a kill leaves it
        record.unlink()
    assert "Took over 1 job(s)" in ended(made, "results/world/data/ultrafeedback.jsonl")
    assert timing.read_bytes() == before
    assert "Nothing to be done" in project.snakemake("--cores", "1", made)


@pytest.mark.parametrize("how", ["-s", "--directory"])
def test_a_path_with_braces_is_refused(tmp_path, how):
    """Snakemake takes them for wildcards, and ends in a traceback."""
    there = tmp_path / "a {folder}"
    there.mkdir()
    if how == "-s":
        (there / "Snakefile").write_text((ROOT / "Snakefile").read_text())
    words = ["-s", str(there / "Snakefile")] if how == "-s" else ["-s", f"{ROOT}/Snakefile", "--directory", str(there)]
    done = subprocess.run([*SNAKEMAKE, "-n", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    said = f"error: {there}: Snakemake takes braces in a path for wildcards; rename the folder."
    assert done.stderr.splitlines()[-1] == said


@pytest.mark.parametrize(
    "text",
    [
        'module diffinfo:\n    snakefile: "{file}"\n\nuse rule * from diffinfo as diffinfo_*\n',
        'configfile: "{config}"\n\nmodule diffinfo:\n    snakefile: "{file}"\n    config: config\n\nuse rule * from diffinfo\n',
        'include: "{file}"\n',
    ],
    ids=["module", "module with its configuration", "include"],
)
def test_it_is_refused_as_a_part_of_another_workflow(tmp_path, text):
    (tmp_path / "Snakefile").write_text(text.format(file=ROOT / "Snakefile", config=ROOT / "config.yaml"))
    done = subprocess.run([*SNAKEMAKE, "-n"], cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "diffinfo cannot be part of another workflow (module or include): run it by itself" in said
    assert f"snakemake -s {ROOT}/Snakefile" in said
    assert len(said.splitlines()) <= 4
