"""Public models that the workflow's are measured against: what is planned for them, and what is watched."""

import os

import yaml

from project import ROOT, cells_of


def test_published_ratings_and_answers_are_watched(touched, tmp_path, jobs_tools):
    """WB-Reward is a job a cell and baseline, and a table; a file that changes makes what reads it again, and nothing else."""
    project = touched.copy(tmp_path / "project")
    (project.folder / "scores").mkdir()
    for name in ("ratings.json", "scores/gpt-4.json", "one.json", "two.json"):
        (project.folder / name).write_text("[]")
    anchors = {"ratings": "ratings.json", "key": "Elo", "scores": "scores"}
    reward = {"judge": "embedded", "baselines": {"One_1": "one.json", "two": "two.json"}}
    cells = cells_of(yaml.safe_load((ROOT / "config.yaml").read_text()))
    judged = sum("benchmarks" in measures for *_, measures in cells)
    found = jobs_tools[1](project.plan(changes={"wildbench": {"reward": reward}}))
    assert found == {"wildbench_reward": 2 * judged, "wb_reward": 1, "page": 1}
    changes = {"wildbench": {"reward": reward, "anchors": anchors}}
    project.touch_everything(changes=changes)
    assert project.plan(changes=changes) == []

    def changed(name):
        """What is planned while a file is another than it was."""
        file = project.folder / name
        before = file.stat().st_mtime_ns
        file.write_text("[ ]")
        jobs = project.plan(changes=changes)
        file.write_text("[]")
        os.utime(file, ns=(before, before))
        return jobs

    for name in ("ratings.json", "scores/gpt-4.json"):
        found = {rule for rule, _ in changed(name)}
        assert {"table3", "claims"} <= found <= {"table2", "table3", "claims", "page"}
    assert {w["baseline"] for rule, w in changed("two.json") if rule == "wildbench_reward"} == {"two"}


def test_arena_hard_v2_has_a_table_of_its_own(touched, tmp_path, jobs_tools):
    project = touched.copy(tmp_path / "project")
    for name in ("questions.jsonl", "hard.jsonl", "soft.jsonl"):
        (project.folder / name).write_text("{}\n")
    categories = {name: {"baseline": f"{name}.jsonl"} for name in ("hard", "soft")}
    judged_by = {"judge": "embedded", "select_judge": "embedded"}
    changes = {"arena_hard": {"questions": "questions.jsonl", "categories": categories, **judged_by}}
    found = jobs_tools[1](project.plan("results/tables/arena_hard_v2.md", changes=changes))
    cells = cells_of(yaml.safe_load((ROOT / "config.yaml").read_text()))
    judged = sum("benchmarks" in measures for *_, measures in cells)
    assert found["arena_hard"] == judged
    assert found["arena_hard_questions"] == found["arena_hard_v2"] == 1
    assert "arena_hard_v2" not in jobs_tools[1](project.plan("--forceall"))
