"""Several jobs that share a dataset's sampling and scoring, its log pi_ref, and the decoding of the DID's responses."""

from collections import Counter

import pytest

SHARED = {"sampling": {"jobs": 3}, "preference": {"reference_jobs": 3}, "did": {"jobs": 3}}
ALONE = {"sampling": {"jobs": 1}, "preference": {"reference_jobs": 1}, "did": {"jobs": 1}}
MANY = {"sampling": {"jobs": 500}, "preference": {"reference_jobs": 20}, "did": {"jobs": 5}}
CELL = "micro-mistral/magpie-pro"


@pytest.mark.parametrize(
    ("table", "share", "rule"),
    [
        ("data/magpie-g27/scores", "score_share", "score_responses"),
        (f"reference_logps/{CELL}", "reference_share", "reference_logps"),
        (f"did/{CELL}/dpo-b0.1/epoch-3/completions", "did_share", "did_completions"),
    ],
)
def test_as_many_jobs_as_the_key_says(touched, tmp_path, table, share, rule):
    project = touched.copy(tmp_path / "project")
    (project.folder / f"results/{table}.parquet").unlink()
    jobs = project.plan(f"results/{table}.parquet", changes=SHARED)
    assert sorted(wildcards["share"] for name, wildcards in jobs if name == share) == ["1-of-3", "2-of-3", "3-of-3"]
    assert Counter(name for name, _ in jobs) == {share: 3, rule: 1}
    assert [name for name, _ in project.plan(f"results/{table}.parquet")] == [rule]


def test_another_number_of_jobs_reruns_nothing(touched):
    for changes in (ALONE, SHARED, MANY):
        assert {rule for rule, _ in touched.plan(changes=changes)} <= {"page"}  # which shows the configuration


def test_what_is_sampled_by_shares_is_scored_by_shares(touched, tmp_path):
    project = touched.copy(tmp_path / "project")
    for table in ("scores", "completions"):
        (project.folder / f"results/data/magpie-g27/{table}.parquet").unlink()
    found = Counter(rule for rule, _ in project.plan("results/data/magpie-g27/scores.parquet", changes=SHARED))
    assert found == {"sample_share": 3, "sample_responses": 1, "score_share": 3, "score_responses": 1}
