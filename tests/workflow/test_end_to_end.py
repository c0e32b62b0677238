"""Real public data through the real workflow, by changing one path each; a world too small to learn anything."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from diffinfo.measures import MEASURES, NUMBERS
from diffinfo.tables import artifacts

NANO = {
    "world": {
        "hidden": 32, "layers": 1, "corpus": 300, "base_steps": 2, "teacher_steps": 2, "reward_steps": 4,
        "pairs": 40, "test_prompts": 10,
    },
    "epochs": 1,
    "answers": {"max_tokens": 12},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(project_factory, warm_server):
    project = project_factory()
    project.environment["DIFFINFO_SERVER"] = warm_server
    project.snakemake("--cores", "2", "results/base/micro-mistral", "results/base/micro-reward", changes=NANO)
    return project


def test_a_world_dataset_has_as_many_pairs_and_held_out_prompts_as_it_says(world):
    """Not a thousand of its pairs are held out, which the public datasets' default would be."""
    own = {**NANO["world"], "pairs": 1100, "test_prompts": 30}
    folder = world.folder / "results/data/correctness"
    world.snakemake("--cores", "2", "results/data/correctness/preferences.parquet", changes={**NANO, "world": own})
    sizes = [len(artifacts.read(folder / f"{name}.parquet", kind)) for name, kind in
             (("preferences", "preferences"), ("test_prompts", "prompts"), ("heldout", "preferences"))]  # fmt: skip
    assert sizes == [1100, 30, 30]


def test_real_magpie_rows_become_pairs_and_train_a_model(world, public_data):
    source = public_data / "magpie" / "example_instructions_5res_armorm.json"
    changes = {**NANO, "datasets": {"magpie-pro": {"source": str(source)}}}
    log = "results/train/micro-mistral/magpie-pro/dpo-pg/1-1/train_log.parquet"
    world.snakemake("--cores", "2", log, changes=changes)
    pairs = artifacts.read(world.folder / "results/data/magpie-pro/preferences.parquet", "preferences")
    assert len(pairs) == 2
    assert (pairs.chosen_score > pairs.rejected_score).all()
    assert "POST request" in pairs.messages[0][0]["content"]
    table = artifacts.read(world.folder / "results/reference_logps/micro-mistral/magpie-pro.parquet", "reference_logps")
    assert table.chosen_ids.map(len).min() > 500  # real responses, in bytes
    steps = artifacts.read(world.folder / log, "train_log")
    assert steps.dpo_loss[0] == pytest.approx(0.693147, abs=1e-5)


def test_real_arena_hard_questions_are_answered_and_judged(world, public_data):
    """In the new schema; the old one gives the same table (tests/bench/test_questions.py)."""
    folder = public_data / "arena-hard"
    arena = {
        "questions": str(folder / "question.HEAD.jsonl"), "baseline": str(folder / "answer.gpt-4-0314.HEAD.jsonl"), "limit": 5,
        "judge": "embedded",
    }  # fmt: skip
    target = "results/arena_hard/micro-mistral/ultrafeedback/dpo-b0.1/final"
    world.snakemake("--cores", "2", f"{target}/winrates.parquet", changes={**NANO, "arena_hard": arena})
    benchmark = artifacts.read(world.folder / "results/bench/arena-hard.parquet", "benchmark")
    assert len(benchmark) == 5
    assert benchmark.baseline.str.len().min() > 100
    judgments = artifacts.read(world.folder / f"{target}/judgments.parquet", "judgments")
    assert len(judgments) == 10  # two games a question
    rate = artifacts.read(world.folder / f"{target}/winrates.parquet", "winrates").iloc[0]
    assert 0 <= rate.low <= rate.win_rate <= rate.high <= 100
    assert rate.baseline_mean_tokens > 100


def test_every_measure_of_a_cell_is_made_by_its_rules(world):
    """The rules did_*, reward_*, qa and wildbench, what is in their tables, and the grid table of it all."""
    small = {
        "entropy": {"prompts": 6, "samples": 2, "max_tokens": 8}, "did": {"prompts": 8, "batch_size": 3, "learning_rate": 1e-4},
        "expected_reward": {"max_tokens": 8}, "arena_hard": {"limit": 2}, "wildbench": {"limit": 3}, "qa": {"limit": 2},
        "smc": {"prompts": 2, "particles": 8, "lengths": [2, 4]},
    }  # fmt: skip
    cell, results = "micro-mistral/ultrafeedback/dpo-b0.1", world.folder / "results"
    made = {
        "did": f"did/{cell}/epoch-1/entropy.parquet", "reward": f"reward/{cell}/1-1/scores.parquet",
        "qa": f"qa/{cell}/1-1.parquet", "wildbench": f"wildbench/{cell}/judgments.parquet",
    }  # fmt: skip
    row = {"model": "micro-mistral", "dataset": "ultrafeedback", "methods": ["dpo-b0.1"], "measures": [*MEASURES]}
    targets = [f"results/tables/{name}.md" for name in ("grid", "updates", "target", "did_smc")]
    world.snakemake("--cores", "2", *targets, changes={**NANO, **small, "grid": [row]})

    did = results / f"did/{cell}/epoch-1"
    policy, reference = (
        artifacts.read(path / "completions.parquet", "completions").set_index("prompt_id")
        for path in (did, results / "did/micro-mistral/ultrafeedback/ref/epoch-0")
    )
    pairs = artifacts.read(did / "pairs.parquet", "reference_logps")
    assert len(pairs) == 8
    for pair in pairs.itertuples():
        assert pair.chosen_ids == policy.token_ids[pair.prompt_id]
        assert pair.rejected_ids == reference.token_ids[pair.prompt_id]
        assert pair.prompt_ids == policy.prompt_token_ids[pair.prompt_id]
    told = artifacts.provenance(did / "train_log.parquet")
    assert told["method"] == "logpi-b1"
    assert (told["settings"]["batch_size"], told["settings"]["learning_rate"]) == (3, 1e-4)
    assert len(artifacts.read(did / "train_log.parquet", "train_log")) == 3  # one epoch of eight pairs
    samples = artifacts.read(did / "samples.parquet", "completions")
    assert (samples.prompt_id.nunique(), len(samples)) == (6, 12)
    assert not set(samples.prompt_id) & set(pairs.prompt_id)
    entropy = artifacts.read(results / made["did"], "entropy").iloc[0]
    assert entropy.entropy == pytest.approx(-samples.logp.mean())
    assert 0 <= entropy.beta_accuracy <= 1

    scores = artifacts.read(results / made["reward"], "scores")
    answers = artifacts.read(results / f"reward/{cell}/1-1/completions.parquet", "completions")
    assert len(scores) == len(answers) == 10  # the test prompts, one epoch
    assert scores.tokens.tolist() == answers.token_ids.map(len).tolist()
    model = AutoModelForSequenceClassification.from_pretrained(results / "base/micro-reward", num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(results / "base/micro-reward")
    talk = [*answers.messages[0], {"role": "assistant", "content": answers.completion[0]}]
    ids = tokenizer.apply_chat_template(talk, return_dict=False)
    with torch.no_grad():
        assert scores.score[0] == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-4)

    qa = artifacts.read(results / made["qa"], "qa")
    assert qa.benchmark.nunique() == 8
    assert (qa.n > 0).all()

    reference, trained = (row for _, row in artifacts.read(results / "tables/grid.parquet", "grid").iterrows())
    assert (reference.method, reference.epoch, trained.method, trained.epoch) == ("ref", 0, "dpo-b0.1", 1)
    lacking = trained[[*NUMBERS]][trained[[*NUMBERS]].isna()].index.tolist()
    # what needs samples of several lengths, and of several rewards
    assert set(lacking) <= {"length_correlation", "target_slope", "target_correlation"}
    smc, update = (artifacts.read(results / f"{kind}/{cell}/epoch-1.parquet", kind) for kind in ("smc", "update"))
    seen = set(pairs.prompt_id)
    assert (set(smc.length), smc.prompt_id.nunique(), bool(seen & set(smc.prompt_id))) == ({2, 4}, 2, False)
    own = artifacts.read(results / f"entropy/{cell}/epoch-1.completions.parquet", "completions")
    assert set(update.prompt_id) == set(own.prompt_id)
    base = artifacts.read(
        results / "entropy/micro-mistral/ultrafeedback/ref/epoch-0.completions.parquet", "completions"
    )
    for name, kind, count in (("updates", "updates", 1), ("target", "targets", 1), ("did_smc", "did_smc", 2)):
        assert len(artifacts.read(results / f"tables/{name}.parquet", kind)) == count
        assert (results / f"figures/{name}.svg").stat().st_size > 5000
    assert trained.entropy_change == pytest.approx(base.logp.mean() - own.logp.mean())
    assert reference[[*NUMBERS]].dropna().index.tolist() == ["reward", "entropy"]
    assert (trained.did_entropy, trained.reward) == pytest.approx((entropy.entropy, scores.score.mean()))
    assert qa.value.between(0, 1).all()
    graded = artifacts.read(results / made["wildbench"], "judgments")
    assert len(graded) == 3
    assert graded.score.between(1, 10).all()
    assert (
        artifacts.provenance(results / made["wildbench"])["judge"]["model"] == "multifaceted"
    )  # the language's own reward


def test_the_plan_is_set_against_what_jobs_took(world):
    world.snakemake("-n", changes=NANO)  # writes changes.yaml
    done = subprocess.run(
        [sys.executable, "-m", "diffinfo.operations.plan", "--configfile", "changes.yaml", "--actual"],
        cwd=world.folder, capture_output=True, text=True, env={**world.environment, "PYTHONPATH": "workflow"}, check=True,
    )  # fmt: skip
    rows = {row.split()[0]: row.split()[1:] for row in done.stdout.splitlines() if row.startswith("world_model")}
    jobs, estimated, actual, ratio = map(float, rows["world_model"])
    assert jobs == 3  # base, teacher, reward
    assert float(ratio) == pytest.approx(actual / estimated, rel=1e-2)
    assert actual > 0
    assert "GB found in results/" in done.stdout
