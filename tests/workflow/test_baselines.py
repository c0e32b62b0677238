"""Public models that the workflow's are measured against: what is planned for them, and what is watched."""

import yaml

from project import ROOT, cells_of


def test_published_ratings_are_watched(touched, tmp_path):
    project = touched.copy(tmp_path / "project")
    (project.folder / "scores").mkdir()
    files = [project.folder / "ratings.json", project.folder / "scores/gpt-4.json"]
    for file in files:
        file.write_text("{}")
    anchors = {"ratings": "ratings.json", "key": "Elo", "scores": "scores"}
    changes = {"wildbench": {"anchors": anchors}}
    project.touch_everything(changes=changes)
    assert project.plan(changes=changes) == []
    for file in files:
        file.write_text("{ }")
        assert (
            {"table3", "claims"}
            <= {rule for rule, _ in project.plan(changes=changes)}
            <= {"table2", "table3", "claims", "page"}
        )
        project.touch_everything(changes=changes)


def test_wb_reward_is_asked_for_by_its_baselines(touched, tmp_path, jobs_tools):
    """A job a cell and baseline, and a table; a baseline's answers are watched, and nothing else is made again."""
    project = touched.copy(tmp_path / "project")
    for name in ("one.json", "two.json"):
        (project.folder / name).write_text("[]")
    reward = {"judge": "embedded", "baselines": {"One_1": "one.json", "two": "two.json"}}
    changes = {"wildbench": {"reward": reward}}
    cells = cells_of(yaml.safe_load((ROOT / "config.yaml").read_text()))
    judged = sum("benchmarks" in measures for *_, measures in cells)
    found = jobs_tools[1](project.plan(changes=changes))
    assert found == {"wildbench_reward": 2 * judged, "wb_reward": 1, "page": 1}
    project.touch_everything(changes=changes)
    (project.folder / "two.json").write_text("[ ]")
    again = [wildcards["baseline"] for rule, wildcards in project.plan(changes=changes) if rule == "wildbench_reward"]
    assert set(again) == {"two"}
