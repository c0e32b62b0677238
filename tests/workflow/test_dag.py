"""What reruns when something changes, read from Snakemake's own plan."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from project import ROOT, cells_of

PAPER = "workflow/presets/paper.yaml"
SMOL, ONE_GPU = "workflow/presets/smol.yaml", "workflow/presets/one-gpu.yaml"
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
CELLS = list(cells_of(DEFAULT))
MEASURED = {  # measure: the rules whose jobs end it, and whether there is one per span of epochs or one of the last epoch
    "expected_reward": ({"reward_scores"}, "span"),
    "entropy": ({"entropy"}, "epoch"),
    "did": ({"did_entropy did"}, "epoch"),
    "did_sampled": ({"did_entropy did_sampled"}, "epoch"),
    "smc": ({"smc"}, "epoch"),
    "update": ({"update"}, "epoch"),  # and a path of every span
    "target": ({"target_distance"}, "epoch"),
    "benchmarks": ({"arena_hard", "wildbench"}, None),
    "qa": ({"qa"}, "span"),
}


@pytest.fixture(scope="module")
def project(project_factory):
    return project_factory()


@pytest.fixture(scope="module")
def done(touched, tmp_path_factory):
    return touched.copy(tmp_path_factory.mktemp("done") / "project")


def test_second_run_has_nothing_to_do(done):
    assert "Nothing to be done" in done.snakemake("--cores", "2")


def test_one_more_beta_adds_only_its_cells(done, jobs_tools):
    beyond_report, rules = jobs_tools
    jobs = beyond_report(done.plan(changes={"betas": [*DEFAULT["betas"], 0.3]}))
    spread = [method for row in DEFAULT["grid"] for method in row["methods"] if method in ("dpo", "logpi")]
    assert rules(jobs)["preference"] == len(spread) > 4
    assert all(wildcards["method"].endswith("-b0.3") for _, wildcards in jobs)


def test_one_more_seed_adds_only_its_cells_and_reaches_the_training(done, jobs_tools):
    beyond_report, rules = jobs_tools
    changes = {"seeds": [1, 7]}
    jobs = beyond_report(done.plan(changes=changes))
    assert rules(jobs)["preference"] == len(CELLS)
    assert not rules(jobs).keys() & {"sft", "reference_logps", "world_model"}
    assert all(wildcards["method"].endswith("-seed7") for _, wildcards in jobs)
    shown = done.snakemake("-n", "-p", changes=changes)
    trained = dict(re.findall(r"train\.preference .*'--settings={\"method\":\"(.*?)\",.*?\"seed\":(\d+)", shown))
    trained.pop("logpi-b1")  # the DID proxies, whose training has the seed of all
    assert len(trained) == len({method for _, _, method, _ in CELLS})
    assert set(trained.values()) == {"7"}


def test_one_more_epoch_adds_only_its_cells(done, jobs_tools):
    beyond_report, rules = jobs_tools
    jobs = beyond_report(done.plan(changes={"epochs": 4}))
    assert rules(jobs)["preference"] == len(CELLS)
    final = {"arena_hard", "wildbench"}  # the best epoch of the run is chosen anew
    for rule, wildcards in jobs:
        assert rule in final or wildcards.get("span") == "4-4" or wildcards.get("epoch") == "4"


def test_one_more_dataset_adds_only_its_cells(done, jobs_tools):
    beyond_report, rules = jobs_tools
    row = {"model": "micro-mistral", "dataset": "extra", "methods": ["dpo-b0.1", "dpo-pg"], "measures": ["did", "qa"]}
    changes = {"datasets": {"extra": {"format": "magpie", "source": "world"}}, "grid+": [row]}
    jobs = beyond_report(done.plan(changes=changes))
    assert rules(jobs)["preference"] == 2
    assert all(wildcards["dataset"] == "extra" for _, wildcards in jobs)


def test_another_model_is_one_entry_and_one_row(done, jobs_tools):
    beyond_report, rules = jobs_tools
    row = {"model": "another", "dataset": "magpie-pro", "methods": ["dpo-pg"], "measures": ["qa"]}
    changes = {"models": {"another": DEFAULT["models"]["micro-gemma2"]}, "grid+": [row]}
    jobs = beyond_report(done.plan(changes=changes))
    assert rules(jobs) == dict.fromkeys(
        ["world_model", "sft", "reference_logps", "preference", "heldout_reference", "heldout", "qa"], 1
    )
    assert all(wildcards["model"] == "another" for _, wildcards in jobs)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arena_hard": {"judge": "paid"}}, {"arena_hard"}),
        ({"arena_hard": {"select_judge": "paid"}}, {"arena_hard_select", "arena_hard", "wildbench"}),
        ({"wildbench": {"judge": "paid"}}, {"wildbench"}),
    ],
)
def test_another_judge_reruns_judging_and_what_follows(done, jobs_tools, changes, expected):
    beyond_report, rules = jobs_tools
    endpoint = {"paid": {"kind": "openai", "model": "some-judge", "base_url": "http://127.0.0.1:9/v1"}}
    jobs = done.plan(changes={"judges": endpoint, **changes})
    assert set(rules(beyond_report(jobs))) == expected
    assert {"table2", "table3", "claims"} <= set(rules(jobs))
    assert "table1" not in rules(jobs)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"wildbench": {"rounds": 64}}, {"table3", "table2", "claims"}),
        ({"did": {"dagger_below": 0.9}}, {"table2", "claims"}),
        ({"world": {"qa_items": 60}}, None),
        ({"qa": {"gsm8k_shots": 5}}, {"qa", "grid", "matched", "figure3", "figure12", "claims"}),
        (
            {"objectives": {"dpop_lambda": 5.0}},
            {"preference", "heldout", "entropy_samples", "update", "path_samples", "path"}
            | {"updates", "table2", "matched", "grid", "figure5", "claims"},
        ),
        ({"objectives": {"simpo_gamma": 2.0}}, set()),
        ({"synthetic": {"theorem_seed": 7}}, {"theorems", "lengths", "laboratory"}),
    ],
)
def test_a_value_reruns_only_what_reads_it(done, jobs_tools, changes, expected):
    rules = jobs_tools[1]
    found = rules(done.plan(changes=changes))
    if expected is None:  # new benchmark questions: answered and judged again, nothing is trained
        asking = [cell for cell in CELLS if "qa" in cell[3]]
        assert found["qa"] == len(asking) + len(moved(DEFAULT))
        assert not {"preference", "sft", "world_model", "did_train"} & set(found)
    else:
        assert set(found) == expected | {"page"}  # which shows the configuration
    if "objectives" in changes and "preference" in expected:
        assert found["preference"] == 1


def test_another_world_makes_its_models_again(done, jobs_tools):
    found = jobs_tools[1](done.plan(changes={"world": {"hidden": 32}}))
    assert found["world_model"] == 4
    assert found["preference"] == len(CELLS)


def test_docstrings_and_comments_rerun_nothing(touched, tmp_path):
    project = touched.copy(tmp_path / "project")
    for name in ("workflow/diffinfo/train/sft.py", "workflow/diffinfo/bench/judge.py"):
        path = project.folder / name
        path.write_text(path.read_text().replace('"""', '"""Edited. ', 1) + "\n# a comment\n")
    for name in ("workflow/rules/train.smk", "config.yaml"):
        path = project.folder / name
        path.write_text(path.read_text() + "\n# a comment\n")
    assert "Nothing to be done" in project.snakemake("--cores", "1")


def test_one_table_runs_only_its_ancestors(project_factory, jobs_tools):
    rules = jobs_tools[1]
    project = project_factory()
    jobs = project.plan("results/tables/table1.md")
    assert set(rules(jobs)) == {
        "world_model", "world_dataset", "ingest_pairs", "sft", "reference_logps", "preference", "entropy_samples",
        "entropy", "table1",
    }  # fmt: skip
    assert {w["method"] for rule, w in jobs if rule == "preference"} == {
        method for *_, method, measures in CELLS if "entropy" in measures
    }


def test_any_cell_is_reachable_by_its_file(project_factory, jobs_tools):
    rules = jobs_tools[1]
    project = project_factory()
    target = "results/qa/micro-gemma2/ultrafeedback/simpo-b2.5/1-3.parquet"
    assert rules(project.plan(target))["preference"] == 1


def test_paper_preset(project_factory, jobs_tools):
    rules = jobs_tools[1]
    project = project_factory()
    preset = yaml.safe_load((project.folder / "workflow/presets/paper.yaml").read_text())
    jobs = project.plan(changes=preset)
    assert len(jobs) <= 1100
    cells = {(w["model"], w["dataset"], w["method"]) for rule, w in jobs if rule == "preference"}
    betas = ("0.2", "0.1", "0.05", "0.02")
    expected = {
        *(
            ("mistral-7b-v0.3", d, f"{m}-b{b}")
            for d in ("ultrafeedback", "magpie-pro")
            for m in ("dpo", "logpi")
            for b in betas
        ),
        *(("mistral-7b-v0.3", "magpie-g27", f"dpo-b{b}") for b in betas),
        *(("gemma-2-9b", d, f"dpo-b{b}") for d in ("magpie-pro", "magpie-g27") for b in betas),
        *((m, d, "dpo-pg") for m in ("mistral-7b-v0.3", "gemma-2-9b") for d in ("magpie-pro", "magpie-g27")),
        *(("mistral-7b-v0.3", "magpie-pro", m) for m in ("dpop-b0.1", "cal-dpo-b0.1")),
    }
    assert cells == expected
    assert rules(jobs)["preference"] == 5 * len(expected)  # an epoch a job
    assert not rules(jobs)["world_model"]


def moved(values):
    """Rows whose methods are compared at equal KL by their QA, which that of pi_ref begins."""
    cells = [cell for cell in cells_of(values) if "of" not in values["datasets"][cell[1]]]
    return {cell[:2] for cell in cells if "qa" in cell[3]} & {cell[:2] for cell in cells if "update" in cell[3]}


def planned_as_asked(project, values, changes):
    """Exactly what the grid asks for is planned: each end of each measure, each training, pi_ref where it is compared."""
    keys = ("model", "dataset", "method", "span", "epoch")
    found = {(" ".join([rule, *filter(None, [wildcards.get("did")])]), *map(wildcards.get, keys))
             for rule, wildcards in project.plan(changes=changes)}  # fmt: skip
    per_job, epochs = values["preference"]["epochs_per_job"], values["epochs"]
    spans = [f"{first}-{min(first + per_job - 1, epochs)}" for first in range(1, epochs + 1, per_job)]
    asked = set()
    for *cell, measures in cells_of(values):
        asked |= {(rule, *cell, span, None) for rule in ("preference", "heldout") for span in spans}
        for measure in measures:
            names, kind = MEASURED[measure]
            ends = [(span, None) for span in spans] if kind == "span" else [(None, str(epochs) if kind else None)]
            asked |= {(name, *cell, *end) for name in names for end in ends}
            asked |= {("path", *cell, span, None) for span in spans if measure == "update"}
            end = {"expected_reward": ("0-0", None), "entropy": (None, "0")}.get(measure)
            origin = values["datasets"][cell[1]].get("of", cell[1])
            asked |= {(name, cell[0], origin, "ref", *end) for name in names if end}
    asked |= {("qa", *row, "ref", "0-0", None) for row in moved(values)}
    ends = {"preference", "heldout", "path"}.union(*(names for names, _ in MEASURED.values()))
    assert {job for job in found if job[0] in ends} == asked
    made = {name for name, dataset in values["datasets"].items() if "labels" in dataset}
    own = {rule for rule, _, dataset, method, *_ in found if dataset in made and (method is None or method == "ref")}
    assert own <= {"permuted_logps", "rejected_responses", "reference_logps"}  # prompts and pi_ref are the origin's


@pytest.mark.parametrize("preset", [None, PAPER, SMOL, ONE_GPU])
def test_every_measure_of_every_cell_is_planned(project_factory, preset):
    project = project_factory()
    values = yaml.safe_load((project.folder / (preset or "config.yaml")).read_text())
    planned_as_asked(project, values, values if preset else None)


ROWS = st.fixed_dictionaries({
    "model": st.sampled_from(["micro-mistral", "micro-gemma2"]),
    "dataset": st.sampled_from(["ultrafeedback", "magpie-pro", "magpie-g27", "magpie-pro-permuted-2"]),
    "methods": st.lists(
        st.sampled_from(["dpo", "logpi-b0.3", "dpo-pg", "dpop", "cal-dpo-b0.1", "slic", "orpo-b1", "simpo-b2.5"]),
        min_size=1, max_size=3, unique_by=lambda name: name.split("-b")[0],
    ),
    "measures": st.sets(st.sampled_from(sorted({*MEASURED} - {"target"}))).map(sorted),  # which not all methods have
})  # fmt: skip


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    grid=st.lists(ROWS, min_size=1, max_size=6, unique_by=lambda row: (row["model"], row["dataset"])),
    betas=st.lists(st.sampled_from([0.1, 0.02, 2.0]), min_size=1, unique=True),
    epochs=st.integers(1, 4),
    per_job=st.integers(1, 3),
    seeds=st.lists(st.integers(0, 3), max_size=3, unique=True),
)
def test_any_method_with_any_measure_plans_exactly_its_cells(project, grid, betas, epochs, per_job, seeds):
    preference = {"epochs_per_job": per_job}
    changes = {"grid": grid, "betas": betas, "epochs": epochs, "seeds": seeds, "preference": preference}
    values = yaml.safe_load((project.folder / "config.yaml").read_text())
    planned_as_asked(project, {**values, **changes}, changes)


DECLARED = """
def _length(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    return {"length": mean(rows.tokens)}


MEASURES["length"] = (
    Result("<results>/length/{run}/{span}.parquet", "scores", {"length": Number("length", "tokens", "answers", 1)}, _length),
)
"""
COMPUTED = """
rule length:
    input:
        "<results>/reward/{model}/{dataset}/{method}/{span}/scores.parquet",
    output:
        "<results>/length/{model}/{dataset}/{method}/{span}.parquet",
    shell:
        "cp {input:q} {output:q}"
"""


def test_a_measure_is_its_declaration_and_its_rule(project_factory, jobs_tools):
    """Two files: then the configuration takes it, the grid and the plan hold it, and the grid table shows it."""
    project = project_factory()
    file = project.folder / "workflow/diffinfo/measures.py"
    text = file.read_text()
    file.write_text(text.replace("RESULTS = {", f"{DECLARED.strip()}\nRESULTS = {{"))
    with open(project.folder / "workflow/rules/evaluate.smk", "a") as rules:
        rules.write(COMPUTED)
    row = {"model": "micro-gemma2", "dataset": "magpie-pro", "methods": ["orpo", "dpo-pg"], "measures": ["length"]}
    jobs = project.plan(changes={"grid": [row], "betas": [0.1, 2.0], "epochs": 2})
    cells = {("micro-gemma2", "magpie-pro", name) for name in ("orpo-b0.1", "orpo-b2", "dpo-pg")}
    assert {(w["model"], w["dataset"], w["method"]) for rule, w in jobs if rule == "length"} == cells
    code = """
from pathlib import Path
import pandas as pd
from diffinfo.report import grid
from diffinfo.tables import artifacts
path = Path("results/length/micro-gemma2/magpie-pro/dpo-pg/1-2.parquet")
rows = [{"epoch": e, "prompt_id": str(k), "sample": 0, "score": 0.0, "tokens": 10 * e + k} for e in (1, 2) for k in (0, 2)]
artifacts.write(path, pd.DataFrame(rows), "scores")
print(grid.table([path])[["epoch", "length", "length_n"]].to_dict("records"))
"""
    environment = {**project.environment, "PYTHONPATH": str(project.folder / "workflow")}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, env=environment, text=True, capture_output=True, check=True
    ).stdout
    assert shown.strip() == str([{"epoch": e, "length": 10.0 * e + 1, "length_n": 2} for e in (1, 2)])


def test_nothing_of_config_yaml_gets_into_a_run_of_the_paper(project_factory):
    """Not even into what jobs are passed; and what is said over the preset counts."""
    project = project_factory()
    before = project.snakemake("-n", "-p", "--configfile", PAPER)
    file = project.folder / "config.yaml"
    file.write_text(re.sub(r"(: )(\d+)", r"\g<1>9\2", file.read_text()))
    assert yaml.safe_load(file.read_text())["qa"]["max_gen_toks"] == 932
    after = project.snakemake("-n", "-p", "--configfile", PAPER)
    assert sorted(re.findall(r"python -m .*", before)) == sorted(re.findall(r"python -m .*", after))
    (project.folder / "mine.yaml").write_text("epochs: 2\nqa: {max_gen_toks: 77}\n")
    target = "results/runs/paper/qa/gemma-2-9b/magpie-pro/dpo-pg/2-2.parquet"
    said = project.snakemake("-n", "-p", target, "--configfile", PAPER, "mine.yaml", "--config", "qa={limit: 5}")
    assert '"limit":5,"batch_size":16' in said
    assert '"max_gen_toks":77' in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "epoch=3"], "epoch: unknown key; did you mean 'epochs'?"),
        (["--configfile", PAPER, "--config", "qa={limits: 3}"], "qa.limits: unknown key; did you mean 'limit'?"),
        (["--configfile", "mine.yaml", PAPER], "paper.yaml says 'base: defaults', so no file may come before it"),
        (["--configfile", "twice.yaml"], "line 2: the key 'epochs' is given twice"),
    ],
)
def test_what_the_command_line_says_is_checked_too(project_factory, arguments, message):
    project = project_factory()
    (project.folder / "mine.yaml").write_text("epochs: 2\n")
    (project.folder / "twice.yaml").write_text("epochs: 2\nepochs: 3\n")
    said = project.snakemake("-n", *arguments, check=False)
    assert message in said
    assert "Traceback" not in said


def test_a_bad_configuration_stops_before_any_job(project_factory):
    project = project_factory()
    output = project.snakemake("-n", changes={"preference": {"learning_rat": 1.0}, "betas": [-1]}, check=False)
    assert "preference.learning_rat: unknown key; did you mean 'learning_rate'?" in output
    assert "betas.0" in output
    assert "Traceback" not in output


def test_a_grid_too_large_for_its_table_stops_before_any_job(project_factory):
    output = project_factory().snakemake(
        "-n", changes={"epochs": 150, "preference": {"epochs_per_job": 1}}, check=False
    )
    assert "tables are too many for the command line that puts them into the grid table" in output
    assert "Traceback" not in output


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is in this environment")
def test_a_run_that_needs_vllm_does_not_begin_without_it(project_factory):
    target = "results/entropy/micro-mistral/magpie-pro/dpo-b0.1/epoch-1.parquet"
    project = project_factory()
    said = project.snakemake("--cores", "1", target, changes={"engine": {"name": "vllm"}}, check=False)
    assert "vllm is not in this environment: add --sdm conda" in said
    assert not (project.folder / "results/base").exists()
