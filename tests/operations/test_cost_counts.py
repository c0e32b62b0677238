"""What each rule is said to cost, against counts by hand: 2 N FLOPs a token read or written, 8 N a token trained."""

import pytest

from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.jobs import Job, critical_path
from diffinfo.operations.plan import actual, paper_check, rows, warnings
from operations.test_cost import MISTRAL, costs

A = read_assumptions()
A100, H100, EAGER = A.hardware["a100"], A.hardware["h100"], A.eager_share
MAGPIE = A.datasets["Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1"]
PROMPT, RESPONSE = MAGPIE.prompt_tokens, MAGPIE.response_tokens
PAIRS = MAGPIE.rows
BILLIONS = {"mistral-7b-v0.3": 7.25, "gemma-2-9b": 9.24, "gemma-2-27b-it": 27.2, "skywork-reward-27b": 27.2}
SAMPLED = {"dataset": "magpie-g27"}  # by gemma-2-27b-it, scored by Skywork, both eager on a GPU of the default type
EVERY = MISTRAL | {"span": "2-4"}  # three epochs


def seconds(billions: float, flops: float, tokens: float, gpu, share: str, kept: float = 1.0, gpus: int = 1) -> float:
    """Of ``flops`` a parameter and token at the share of its peak that a GPU reaches."""
    return flops * billions * 1e9 * tokens / (gpu.tflops * 1e12 * getattr(gpu, share) * kept * gpus)


def hours(rule: str, wildcards: dict, **changes) -> float:
    return costs(**changes).job(rule, wildcards).hours


def loading(gpu, models: int = 1) -> float:
    return models * gpu.start_minutes / 60


@pytest.mark.parametrize(
    ("rule", "tokens"),
    [
        ("sft", PAIRS * (PROMPT + RESPONSE)),  # chosen responses, one epoch
        ("preference", 2 * PAIRS * (PROMPT + RESPONSE)),  # chosen and rejected
        ("did_train", 2 * 40_000 * (PROMPT + RESPONSE)),
    ],
)
def test_training_is_eight_flops_a_parameter_and_token_and_six_without_checkpointing(rule, tokens):
    for checkpointing, flops in (("layers", 8), ("none", 6)):
        work = seconds(7.25, flops, tokens, A100, "train", gpus=8) / 3600
        found = hours(rule, MISTRAL, training={"activation_checkpointing": checkpointing})
        assert found == pytest.approx(work + loading(A100))


def test_further_epochs_are_counted():
    one = hours("sft", MISTRAL) - loading(A100)
    assert hours("sft", MISTRAL, sft={"epochs": 3}) == pytest.approx(3 * one + loading(A100))
    found = costs().job("preference", EVERY)
    assert found.hours - loading(A100) == pytest.approx(3 * (hours("preference", MISTRAL) - loading(A100)))
    assert found.disk_gb == pytest.approx(3 * 2 * 7.25 + 8 * 7.25)  # bfloat16 weights of each, float32 state once
    assert costs().job("sft", MISTRAL).disk_gb == pytest.approx(2 * 7.25)  # no state is left


def test_eager_attention_keeps_a_share():
    work = seconds(9.24, 8, 2 * PAIRS * (PROMPT + RESPONSE), H100, "train", EAGER, 8) / 3600
    assert hours("preference", MISTRAL | {"model": "gemma-2-9b"}) == pytest.approx(work + loading(H100))


def test_memory_is_that_of_every_process_and_of_the_model_that_one_reads():
    found, tokens = costs().job("preference", MISTRAL), 2 * PAIRS * (PROMPT + RESPONSE)
    each = A.libraries_gb + 40e-9 * tokens  # the table in Python integers
    assert found.memory_gb == pytest.approx(8 * each + (4 + 8) * 7.25)  # one reads float32 weights; all save a state


READ = {  # rule: (wildcards, model, tokens read, models loaded)
    "reference_logps": (MISTRAL, "mistral-7b-v0.3", 2 * PAIRS * (PROMPT + RESPONSE), 1),
    "score_responses": (SAMPLED, "skywork-reward-27b", PAIRS * 5 * (PROMPT + RESPONSE), 1),
    "heldout_reference": (MISTRAL, "mistral-7b-v0.3", 2 * 250 * (PROMPT + RESPONSE), 1),
    "heldout": (EVERY, "mistral-7b-v0.3", 3 * 2 * 250 * (PROMPT + RESPONSE), 3),
    "heldout_scores": (SAMPLED, "skywork-reward-27b", 250 * 5 * (PROMPT + RESPONSE), 1),
    "reward_scores": (EVERY, "skywork-reward-27b", 3 * 1000 * (PROMPT + RESPONSE), 1),
    "qa": (EVERY, "mistral-7b-v0.3", 3 * 16e6, 3),
    "path": (EVERY, "mistral-7b-v0.3", 2 * 3 * 100 * 4 * (PROMPT + RESPONSE), 4),  # three epochs and pi_ref
}


@pytest.mark.parametrize("rule", READ)
def test_reading_is_two_flops_a_parameter_and_token(rule):
    wildcards, model, tokens, models = READ[rule]
    cost = costs(datasets={"magpie-pro": {"test_prompts": 1000}})
    gpu = A.hardware[cost.gpu_type[model]]
    kept = EAGER if model != "mistral-7b-v0.3" else 1.0
    work = seconds(BILLIONS[model], 2, tokens, gpu, "read", kept) / 3600
    assert cost.job(rule, wildcards).hours == pytest.approx(work + loading(gpu, models))


WRITTEN = {  # rule: (wildcards, model, prompts, samples, tokens of a response, models, tokens read beside the prompts)
    "sample_responses": (SAMPLED, "gemma-2-27b-it", PAIRS, 5, RESPONSE, 1, 0),
    "heldout_responses": (SAMPLED, "gemma-2-27b-it", 250, 5, RESPONSE, 1, 0),
    "did_completions": (MISTRAL, "mistral-7b-v0.3", 40_000, 1, RESPONSE, 1, 0),
    "entropy_samples": (MISTRAL, "mistral-7b-v0.3", 1000, 4, RESPONSE, 1, 0),
    "did_entropy": (
        MISTRAL,
        "mistral-7b-v0.3",
        1000,
        4,
        RESPONSE,
        1,
        2 * 1000 * 4 * (PROMPT + RESPONSE),
    ),  # π and π_ref
    "path_samples": (EVERY, "mistral-7b-v0.3", 100, 4, RESPONSE, 3, 0),
    "reward_completions": (EVERY, "mistral-7b-v0.3", 1000, 1, RESPONSE, 3, 0),
    "answers": (EVERY, "mistral-7b-v0.3", 500 + 1024, 1, 600, 3, 0),
}


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize("rule", WRITTEN)
def test_writing_is_two_flops_a_parameter_and_token_at_another_share(rule, engine):
    wildcards, model, prompts, n, response, models, more = WRITTEN[rule]
    cost = costs(datasets={"magpie-pro": {"test_prompts": 1000}}, engine={"name": engine})
    gpu = A.hardware[cost.gpu_type[model]]
    kept = EAGER if model != "mistral-7b-v0.3" and engine == "transformers" else 1.0  # vLLM has kernels of its own
    work = seconds(BILLIONS[model], 2, models * prompts * PROMPT + more, gpu, "read", kept)
    work += seconds(BILLIONS[model], 2, models * prompts * n * response, gpu, "write", kept)
    assert cost.job(rule, wildcards).hours == pytest.approx(work / 3600 + loading(gpu, models))


def test_scoring_works_on_one_gpu_whatever_the_engine_shares():
    one, four = costs(), costs(engine={"tensor_parallel": 4})
    for rule, wildcards in (("qa", EVERY), ("reference_logps", MISTRAL), ("score_responses", SAMPLED)):
        assert four.job(rule, wildcards) == one.job(rule, wildcards)
    whole, shared = (cost.job("sample_responses", SAMPLED) for cost in (one, four))
    assert (whole.gpus, shared.gpus) == (1, 4)
    start = loading(A.hardware[one.gpu_type["gemma-2-27b-it"]])
    assert 4 * (shared.hours - start) == pytest.approx(whole.hours - start)
    both = four.job("did_entropy", MISTRAL)  # writes on four, then scores on one
    work = seconds(7.25, 2, 2 * 1000 * 4 * (PROMPT + RESPONSE), A100, "read")
    work += seconds(7.25, 2, 1000 * PROMPT, A100, "read", gpus=4)
    work += seconds(7.25, 2, 1000 * 4 * RESPONSE, A100, "write", gpus=4)
    assert (both.gpus, both.hours) == (4, pytest.approx(work / 3600 + loading(A100)))


def test_a_gpu_holds_its_share_of_weights_gradients_and_averages():
    held = {rule: costs().job(rule, MISTRAL).gpu_gb for rule in ("preference", "sft", "qa")}
    assert held["preference"] == pytest.approx((1 + 1 + 1) * 4 * 7.25 / 8)  # RMSprop keeps one average
    assert held["sft"] == pytest.approx((1 + 1 + 2) * 4 * 7.25 / 8)  # Adam two
    assert held["qa"] == pytest.approx(2 * 7.25)
    small = costs(training={"master_weights": "bfloat16"}).job("preference", MISTRAL)
    assert small.gpu_gb == pytest.approx(held["preference"] / 2)


def test_judging_is_counted_in_games_epochs_and_tokens():
    nano, full, omni = "gpt-4.1-nano-2025-04-14", "gpt-4.1-2025-04-14", "gpt-4o-2024-08-06"
    prices = {nano: (0.10, 0.40), full: (2, 8), omni: (2.50, 10)}  # OpenAI's list, a million tokens read and written
    dollars = {name: (1900 * read + 600 * written) / 1e6 for name, (read, written) in prices.items()}
    for rule, calls, model in (
        ("arena_hard_select", 3 * 2 * 500, nano), ("arena_hard", 2 * 2 * 500, full), ("wildbench", 1024, omni),
    ):  # fmt: skip
        found = costs().job(rule, EVERY)
        assert found.judge_calls == calls
        assert found.judge_dollars == pytest.approx(calls * dollars[model])
        concurrency = next(judge.concurrency for judge in costs().config.judges.values() if judge.model == model)
        assert found.hours == pytest.approx(1 / 60 + calls * 10 / concurrency / 3600)  # ten seconds a reply
    unpriced = costs(judges={"gpt-4.1": {"price": None}}).job("arena_hard", EVERY)
    assert unpriced.judge_dollars == pytest.approx(
        2000 * (1900 * A.judges.price.read + 600 * A.judges.price.written) / 1e6
    )
    some = costs(arena_hard={"limit": 50}, wildbench={"limit": 64})
    assert [some.job(rule, EVERY).judge_calls for rule in ("arena_hard", "wildbench")] == [200, 64]
    assert costs(epochs=1).job("arena_hard", EVERY).judge_calls == 1000  # nothing to select
    later = {
        "categories": {name: {"baseline": "hf://datasets/a/b/c.jsonl"} for name in ("hard_prompt", "creative_writing")}
    }
    assert costs(arena_hard=later).job("arena_hard", EVERY).judge_calls == 2 * 2 * 750  # v2 has 500 and 250 questions


def test_a_judge_that_is_served_reads_and_writes_on_its_gpus():
    served = {"kind": "openai", "model": "mistral-7b-v0.3", "serve": True, "tensor_parallel": 4}
    cost, read = costs(judges={"mine": served}, arena_hard={"judge": "mine"}), 2 * 2 * 500 * 1900
    found = cost.job("arena_hard", EVERY)
    assert (found.gpus, found.judge_calls, found.judge_dollars) == (4, 0, 0)
    alone = costs(judges={"mine": served | {"tensor_parallel": 1}}, arena_hard={"judge": "mine"}).job(
        "arena_hard", EVERY
    )
    started = A.hardware[found.hardware].start_minutes / 60
    assert alone.hours - started > found.hours - started > 2e9 * 7.25 * read / 3600 / 4 / 2e15


def test_a_reward_model_judges_both_answers_of_a_game():
    cost = costs("micro", arena_hard={"judge": "embedded"})
    core, micro = A.hardware["cpu"], {"model": "micro-mistral", "dataset": "magpie-pro"}
    # a hundred questions, two games, two answers
    tokens = 2 * 2 * 100 * (A.datasets["world"].response_tokens + 20)
    assert cost.job("arena_hard_select", micro).hours == pytest.approx(
        seconds(0.0003, 2, tokens, core, "read") / 3600 + loading(core)
    )


def test_the_worlds_models_are_trained_for_their_own_steps():
    cost, core = costs("micro"), A.hardware["cpu"]
    for model, billions, steps in (
        ("micro-mistral", 3e-4, 300),
        ("micro-teacher", 6e-4, 260),
        ("micro-reward", 3e-4, 200),
    ):
        work = seconds(billions, 6, 128 * 30 * steps, core, "train", EAGER if model == "micro-gemma2" else 1.0)
        found = cost.job("world_model", {"model": model})
        assert found.hours == pytest.approx(work / 3600 + loading(core))
        assert found.disk_gb == pytest.approx(4 * billions)  # float32


def test_a_tables_memory_is_forty_bytes_a_token():
    tokens = 2 * PAIRS * (PROMPT + RESPONSE)
    found = costs().job("reference_logps", MISTRAL)
    assert found.memory_gb == pytest.approx(A.libraries_gb + 4.5 * 7.25 + 40e-9 * tokens)
    assert costs().job("ingest_pairs", MISTRAL).memory_gb == pytest.approx(1 + 40e-9 * tokens)


# The plan over jobs ---------------------------------------------------------------------------------------------------


def jobs(*chain: tuple[str, dict, str, str]) -> list[Job]:
    return [Job(rule, w, frozenset(made.split()), frozenset({out}), "") for rule, w, made, out in chain]


SOME = jobs(
    ("sft", MISTRAL, "", "sft"),
    ("reference_logps", MISTRAL, "sft", "logps"),
    ("preference", MISTRAL, "logps", "one"),
    ("preference", MISTRAL | {"method": "dpo-pg"}, "logps", "two"),
    ("qa", EVERY, "one two", "qa"),
    ("arena_hard", MISTRAL, "", "judged"),
)


def test_the_table_adds_up_jobs_hours_and_dollars():
    cost = costs()
    table = {row["rule"]: row for row in rows(SOME, cost)}
    assert [row["rule"] for row in rows(SOME, cost)] == ["sft", "reference_logps", "preference", "qa", "arena_hard"]
    training, judging = cost.job("preference", MISTRAL), cost.job("arena_hard", MISTRAL)
    both = table["preference"]
    assert both["jobs"] == 2
    assert both["wall_hours"] == pytest.approx(2 * training.hours, rel=1e-3)  # four digits are shown
    assert both["gpu_hours"] == pytest.approx(2 * 8 * training.hours, rel=1e-3)
    assert both["dollars"] == pytest.approx(2 * 8 * training.hours * A100.dollars_per_hour, rel=1e-3)
    assert both["disk_gb"] == pytest.approx(2 * training.disk_gb, rel=1e-3)
    machine = judging.hours * judging.cpus * A.hardware["cpu"].dollars_per_hour
    assert table["arena_hard"]["dollars"] == pytest.approx(judging.judge_dollars + machine, rel=1e-3)
    assert table["arena_hard"]["judge_calls"] == 2000


def test_the_critical_path_waits_for_the_last_of_what_a_job_needs():
    cost = costs()
    uneven = jobs(("sft", MISTRAL, "", "a"), ("preference", EVERY, "", "b"), ("qa", MISTRAL, "a b", "c"))
    for these, path in (
        (SOME, ["sft", "reference_logps", "preference", "qa"]),
        (uneven, ["preference", "qa"]),
        ([], []),
    ):
        chain = critical_path(these, lambda job: cost.job(job.rule, job.wildcards).hours)
        assert [job.rule for job in chain] == path
    (longest,) = [job for job in SOME if job.rule == "arena_hard"]
    assert critical_path(SOME, lambda job: 100.0 if job is longest else 1.0) == [longest]


def test_the_papers_hours_are_those_of_its_eight_gpus():
    for model, where, planned, _ in paper_check(costs(preference={"processes": 2}).config):
        gpu = H100 if model == "gemma-2-9b" else A100
        kept = EAGER if model == "gemma-2-9b" else 1.0
        work = seconds(BILLIONS[model], 8, 2 * PAIRS * (PROMPT + RESPONSE), gpu, "train", kept, 8) / 3600
        assert planned == pytest.approx(work + loading(gpu)), where


def test_estimates_stand_beside_what_jobs_took(tmp_path):
    done = []
    for index, seconds_taken in enumerate((1800.0, 5400.0)):
        file = tmp_path / f"{index}.tsv"
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds_taken}\tx\t-\n")
        done.append(Job("preference", MISTRAL, frozenset(), frozenset({str(index)}), str(file)))
    missing = Job("preference", MISTRAL, frozenset(), frozenset({"x"}), str(tmp_path / "none.tsv"))
    (row,) = actual([*done, missing], costs())
    estimated = 2 * hours("preference", MISTRAL)
    assert (row["rule"], row["jobs"]) == ("preference", 2)
    assert row["estimated_s"] == pytest.approx(3600 * estimated, rel=1e-3)
    assert row["actual_s"] == pytest.approx(7200)
    assert row["ratio"] == pytest.approx(2.0 / estimated, rel=1e-3)


def test_the_longest_of_several_jobs_is_warned_of_and_disks_add_up():
    both = jobs(("preference", EVERY, "", "a"), ("preference", MISTRAL, "", "b"))
    longest, needed = hours("preference", EVERY), sum(costs().job(j.rule, j.wildcards).disk_gb for j in both)
    limit = 60 * (longest + hours("preference", MISTRAL)) / 2  # minutes: between the two
    (said,) = warnings(both, costs(), {"max_runtime": limit}, free_gb=needed + 0.1)
    assert f"an estimated {longest:.1f} h a job" in said
    (said,) = warnings(both, costs(), {}, free_gb=needed - 0.1)
    assert f"take an estimated {needed:,.0f} GB" in said


@pytest.mark.parametrize(
    ("rule", "share", "parts"),  # of 20,000 rows: five a prompt, two a pair, one a prompt
    [
        ("sample_responses", "sample_share", -(-PAIRS // 4000)),
        ("score_responses", "score_share", -(-PAIRS // 4000)),
        ("reference_logps", "reference_share", -(-PAIRS // 10_000)),
        ("did_completions", "did_share", 2),
    ],
)
def test_jobs_share_the_hours_of_a_table_in_whole_parts(rule, share, parts):
    def by(jobs):
        return costs(sampling={"jobs": jobs}, preference={"reference_jobs": jobs}, did={"jobs": jobs})

    cell = {**SAMPLED, "model": MISTRAL["model"]}
    whole, shared = by(1).job(rule, cell), by(4)
    start = loading(A.hardware[whole.hardware])
    work = [shared.job(share, {**cell, "share": f"{number}-of-4"}).hours - start for number in range(1, 5)]
    assert sum(work) == pytest.approx(whole.hours - start)
    assert max(work) == pytest.approx((whole.hours - start) * -(-parts // 4) / parts)
    table = shared.job(rule, cell)
    assert table.gpus == 0
    assert 0 < table.hours < whole.hours / 30
