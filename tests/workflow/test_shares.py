"""Several jobs that share the sampling and the scoring of a dataset's responses."""

from collections import Counter

SHARED = {"sampling": {"jobs": 3}}
SCORES = "results/data/magpie-g27/scores.parquet"


def test_as_many_jobs_as_the_key_says_and_none_when_it_changes(touched, tmp_path):
    project = touched.copy(tmp_path / "project")
    for changes in ({"sampling": {"jobs": 1}}, SHARED, {"sampling": {"jobs": 500}}):
        assert {rule for rule, _ in project.plan(changes=changes)} <= {"page"}  # which shows the configuration
    (project.folder / SCORES).unlink()
    jobs = project.plan(SCORES, changes=SHARED)
    assert sorted(wildcards["share"] for rule, wildcards in jobs if rule == "score_share") == [
        "1-of-3",
        "2-of-3",
        "3-of-3",
    ]
    assert Counter(rule for rule, _ in jobs) == {"score_share": 3, "score_responses": 1}
    assert [rule for rule, _ in project.plan(SCORES)] == ["score_responses"]
    (project.folder / "results/data/magpie-g27/completions.parquet").unlink()
    found = Counter(rule for rule, _ in project.plan(SCORES, changes=SHARED))
    assert found == {"sample_share": 3, "sample_responses": 1, "score_share": 3, "score_responses": 1}
