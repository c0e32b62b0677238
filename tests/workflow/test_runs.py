"""Runs that have a name: results of their own, beside those of the default and of each other."""

import json
import re
import subprocess
import sys

import pytest

MINE = {
    "run": {"name": "mine"},
    "datasets": {"magpie-pro": {"source": "world", "test_prompts": 500}},
    "grid": [{"model": "micro-mistral", "dataset": "magpie-pro", "methods": ["dpo-b0.1"], "measures": ["did"]}],
}  # fmt: skip


def module(project, *words):
    environment = {**project.environment, "PYTHONPATH": "workflow"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(project_factory):
    """The default's results, recorded as there."""
    project = project_factory()
    project.touch_everything()
    return project


def test_a_named_run_plans_its_own_cells_and_leaves_the_others_alone(done, jobs_tools):
    rules = jobs_tools[1](jobs := done.plan(changes=MINE))
    assert {w["dataset"] for _, w in jobs if "dataset" in w} == {"magpie-pro"}
    assert rules["preference"] == rules["sft"] == rules["world_dataset"] == 1
    # made once, whatever runs there are: models, the world's benchmarks, the laboratory's experiments
    assert not rules.keys() & {"world_model", "world_benchmarks", "objectives", "theorems", "did_proxy"}
    shown = done.snakemake("-n", "-p", changes=MINE)
    written = [line.split(": ", 1)[1] for line in shown.splitlines() if line.startswith(("    output: ", "    log: "))]
    assert len(written) > 50
    assert all(path.startswith("results/runs/mine/") for line in written for path in line.split(", "))
    assert "--model results/base/micro-mistral" in shown
    assert "Nothing to be done" in done.snakemake("-n")


def test_a_named_run_may_not_change_what_others_read(done):
    changes = {**MINE, "world": {"hidden": 32}}
    for words in (["-n"], ["--cores", "1"]):
        said = done.snakemake(*words, changes=changes, check=False)
        assert "Run 'mine' would change what it shares with other runs (results/base/micro-" in said
        assert "set run.shared to 'none'" in said
        assert "Traceback" not in said
    assert done.start("-n", changes=changes).ended() == 1
    assert "Nothing to be done" in done.snakemake("-n")
    apart = done.snakemake("-n", changes={**changes, "run": {"name": "mine", "shared": "none"}})
    assert "output: results/runs/mine/base/micro-mistral" in apart


def test_the_papers_grid_runs_beside_the_finished_micro_world(done):
    """README's sequence: make results, then a row of the paper's grid. Its laboratory has other settings, so its own tables."""
    row = {"model": "mistral-7b-v0.3", "dataset": "magpie-pro", "methods": ["dpo-b0.1"], "measures": ["qa"]}
    (done.folder / "mine.yaml").write_text(json.dumps({"run": {"name": "mistral"}, "grid": [row]}))
    for mine, name in (["mine.yaml"], "mistral"), ([], "paper"):
        shown = done.snakemake("-n", "--configfile", "workflow/presets/paper.yaml", *mine)
        written = [path for line in re.findall(r"    (?:output|log): (.*)", shown) for path in line.split(", ")]
        assert f"results/runs/{name}/synthetic/objectives.parquet" in written
        shared = {path for path in written if not path.startswith(f"results/runs/{name}/")}
        assert {path.rsplit("/", 1)[0] for path in shared} == {"results/base", "results/logs/base"}
        assert not any((done.folder / path).exists() for path in shared)


def test_plan_disk_and_report_are_those_of_the_run(done):
    changes = done.folder / "mine.yaml"
    changes.write_text(json.dumps(MINE))
    assert module(done, "diffinfo.config.reading", "root", "--over", "mine.yaml").stdout == "results/runs/mine\n"
    assert module(done, "diffinfo.config.reading", "root").stdout == "results\n"
    rows = json.loads(module(done, "diffinfo.operations.plan", "--json", "--configfile", "mine.yaml").stdout)
    assert {row["dataset"] for row in rows} == {"", "magpie-pro"}
    said = module(done, "diffinfo.operations.disk", "--configfile", "mine.yaml").stderr
    assert "there is no folder results/runs/mine/ here" in said
    models = ["train/micro-mistral/magpie-pro/dpo-b0.1/1-3/models", "base/micro-mistral"]
    theirs, ours = done.folder / "results", done.folder / "results/runs/mine"
    (ours / models[0]).mkdir(parents=True)
    for name in ("figures/figure3.md", "claims.md"):  # all that is left to do reads no checkpoint
        (ours / name).parent.mkdir(exist_ok=True, parents=True)
    dropped = module(done, "diffinfo.operations.disk", "--drop", "--configfile", "mine.yaml").stdout
    assert "0 folders dropped" in dropped  # its jobs remain
    assert dropped.splitlines()[-1].startswith("results/runs/mine: ")
    assert all((theirs / model).is_dir() for model in models)


@pytest.mark.parametrize("name", ["..", "a/b", "A", "-x", "a b"])
def test_a_name_that_is_no_plain_word_is_refused(done, name):
    said = done.snakemake("-n", changes={"run": {"name": name}}, check=False)
    assert f"run.name: {name!r} is not a name; use lower-case letters" in said


def test_a_named_run_really_runs_beside_the_default(project_factory):
    project = project_factory()
    project.environment["DIFFINFO_WARM"] = "1"
    tiny = {"world": {"hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "pairs": 40, "test_prompts": 10}}
    sft = "sft/micro-mistral/magpie-pro"
    project.snakemake("--cores", "2", f"results/{sft}/model", changes=tiny)
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*") if path.is_file()}
    changes = {**tiny, "run": {"name": "mine"}, "datasets": {"magpie-pro": {"reward": "correctness"}}}
    said = project.snakemake("--cores", "2", f"results/runs/mine/{sft}/model", changes=changes)
    assert "  sft micro-mistral magpie-pro: " in said
    assert "  world_model " not in said
    after = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*") if path.is_file()}
    new = {path.relative_to(project.folder).parts[1] for path in after.keys() - before.keys()}
    assert new == {"runs"}
    assert before.items() <= after.items()
    pairs = [project.folder / root / "data/magpie-pro/preferences.parquet" for root in ("results", "results/runs/mine")]
    assert pairs[0].read_bytes() != pairs[1].read_bytes()
    assert not list((project.folder / "results/runs/mine/.progress").rglob("*.safetensors"))
    assert "Nothing to be done" in project.snakemake("--cores", "1", f"results/{sft}/model", changes=tiny)
