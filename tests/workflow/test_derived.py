"""Datasets made from others: what is planned for them, and what they share."""

import pytest


@pytest.fixture(scope="module")
def done(touched, tmp_path_factory):
    return touched.copy(tmp_path_factory.mktemp("done") / "project")


def test_a_placebo_shares_all_but_its_labels_with_its_origin(done, project_factory, jobs_tools):
    """Another draw trains and measures its cells, and makes nothing else; only our tables and the claims read them."""
    beyond_report, rules = jobs_tools
    row = {"model": "micro-mistral", "dataset": "draw", "methods": ["dpo-pg"]}
    row |= {"measures": ["expected_reward", "entropy", "did", "smc", "update", "benchmarks", "qa"]}
    changes = {"datasets": {"draw": {"of": "magpie-pro", "labels": "permuted", "labels_seed": 3}}, "grid+": [row]}
    jobs = done.plan(changes=changes)
    assert rules(beyond_report(jobs)) == dict.fromkeys(
        ("permuted_logps", "preference", "heldout", "reward_completions", "reward_scores", "entropy_samples", "entropy",
         "did_completions", "did_pairs", "did_train", "did_entropy", "smc", "update", "path_samples", "path", "answers",
         "arena_hard_select", "arena_hard", "wildbench", "qa"), 1,
    )  # fmt: skip
    assert all(wildcards["dataset"] == "draw" for _, wildcards in beyond_report(jobs))
    assert set(rules(jobs)) - set(rules(beyond_report(jobs))) == {
        "grid",
        "updates",
        "did_smc",
        "matched",
        "table2",
        "claims",
    }
    pairs = project_factory().plan("results/data/magpie-pro-permuted-1/preferences.parquet")
    assert rules(pairs) == {"world_dataset": 1, "ingest_pairs": 1, "permuted_labels": 1}


def test_samples_of_pi_ref_are_taken_once_for_all_choices_of_y_l(project_factory, jobs_tools):
    rules = jobs_tools[1]
    project = project_factory()
    jobs = project.plan("results/tables/rejected.md")
    found = rules(jobs)
    assert (found["sft"], found["candidates"], found["candidate_rewards"], found["candidate_scores"]) == (1, 1, 1, 0)
    assert {rule: count for rule, count in found.items() if count == 3} == dict.fromkeys(
        ("rejected_responses", "reference_logps", "preference", "update", "target_distance"), 3
    )
    sampled = {wildcards["dataset"] for rule, wildcards in jobs if rule in ("sft", "candidates", "candidate_rewards")}
    assert sampled == {"magpie-pro"}
    row = {"model": "micro-gemma2", "dataset": "x", "methods": ["dpo-b1"], "measures": ["update"]}
    changes = {"grid": [row], "datasets": {"x": {"of": "magpie-g27", "rejected": "worst", "model": "micro-gemma2"}}}
    found = rules(
        project.plan(changes=changes)
    )  # no true reward is known: the reward model's; and no distance from pi*
    assert (found["candidate_rewards"], found["candidate_scores"], found["rejected"]) == (0, 1, 0)


def test_another_choice_among_candidates_samples_nothing_again(done, jobs_tools):
    beyond_report, rules = jobs_tools
    changes = {"datasets": {"rejected-worst": {"rejected": "reference"}}}
    jobs = beyond_report(done.plan(changes=changes))
    assert {wildcards["dataset"] for _, wildcards in jobs} == {"rejected-worst"}
    assert rules(jobs)["rejected_responses"] == rules(jobs)["preference"] == 1
    found = rules(done.plan(changes={"world": {"sharpness": 2.0}}))
    assert "candidates" in found  # the labels, and so pi_ref, are others
