"""Held-out pairs in Snakemake's own plan: where they come from, and that nothing is trained on them."""

import re


def test_held_out_pairs_are_scored_and_never_trained_on(project_factory):
    """Training reads its own pairs alone; held-out ones come from test prompts, the sampled ones in draws of their own."""
    shown = project_factory().snakemake("-n", "-p")
    commands = [command for command in re.findall(r"python -m diffinfo\..*", shown) if "heldout" in command]
    kinds = {re.search(r"diffinfo\.(\S+)", command)[1]: command.split(" 2> ")[0] for command in commands}
    assert set(kinds) == {
        "data.ingest", "sample.complete", "reward", "data.pairs", "train.reference", "train.heldout", "report.grid",
        "report.claims", "operations.spent",
    }  # fmt: skip
    assert "magpie-g27/test_prompts.parquet" in kinds["sample.complete"]
    assert '"limit":250' in kinds["sample.complete"]
    assert '"stream":"held out"' in kinds["sample.complete"]
    assert '"limit":250' in kinds["train.reference"]
    scored = re.findall(r"python -m diffinfo\.train\.reference .*?--preferences (\S+) .*?--out (\S+)", shown)
    fine_tuned = len(re.findall(r"diffinfo\.train\.sft ", shown))
    assert sum("heldout" in out for _, out in scored) == fine_tuned > 4  # once for all methods
    assert all(("heldout" in pairs) == ("heldout" in out) for pairs, out in scored)


def test_a_derived_dataset_has_the_held_out_pairs_of_its_origin(project_factory):
    derived = {"mine": {"of": "magpie-pro", "labels": "permuted"}}
    row = {"model": "micro-mistral", "dataset": "mine", "methods": ["dpo-pg"]}
    shown = project_factory().snakemake("-n", "-p", changes={"datasets": derived, "grid": [row]})
    (command,) = re.findall(r"python -m diffinfo\.train\.heldout .*", shown)
    assert "--reference results/reference_logps/micro-mistral/magpie-pro/heldout.parquet" in command
    assert "--models results/train/micro-mistral/mine/dpo-pg/1-3/models" in command


def test_without_held_out_pairs_none_are_made(project_factory, jobs_tools):
    found = jobs_tools[1](project_factory().plan(changes={"preference": {"held_out": 0}}))
    assert not [rule for rule in found if rule.startswith("heldout")]
    assert found["preference"]


def test_another_number_of_held_out_pairs_trains_nothing(touched, tmp_path, jobs_tools):
    done = touched.copy(tmp_path / "project")
    found = jobs_tools[1](done.plan(changes={"preference": {"held_out": 60}}))
    assert set(found) == {
        "heldout_responses", "heldout_scores", "heldout_pairs", "heldout_reference", "heldout", "grid", "claims", "page",
    }  # fmt: skip


def test_fewer_epochs_take_their_models_and_score_the_pairs(touched, tmp_path, jobs_tools):
    """Spans that were trained stay: their part is linked, not trained, and a span that is not there is scored anew."""
    done = touched.copy(tmp_path / "project")
    jobs = [job for job in done.plan(changes={"epochs": 2}) if job[0] in ("preference", "heldout")]
    assert {wildcards["span"] for _, wildcards in jobs} == {"1-2"}
    assert len(jobs) == 2 * len({tuple(wildcards.items()) for _, wildcards in jobs})
