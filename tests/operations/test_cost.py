"""Costs of jobs: FLOP counts by hand, the paper's two printed figures, and what is said of wrong assumptions."""

from pathlib import Path

import pytest
import yaml

from diffinfo.cli import UserError
from diffinfo.config.reading import load
from diffinfo.operations.assumptions import ASSUMPTIONS, read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.operations.jobs import Job
from diffinfo.operations.plan import paper_check, warnings

ROOT = Path(__file__).resolve().parents[2]
MISTRAL = {"model": "mistral-7b-v0.3", "dataset": "magpie-pro", "method": "dpo-b0.1", "span": "2-2", "epoch": "2"}


def costs(preset="paper", gpu_type=None, **changes):
    file = ROOT / ("workflow/presets/paper.yaml" if preset == "paper" else "config.yaml")
    for part, key in (("sampling", "jobs"), ("preference", "reference_jobs"), ("did", "jobs")):
        changes[part] = {key: 1, **changes.get(part, {})}  # the preset's share the work
    return Costs(load(file, values=changes), read_assumptions(), gpu_type)


def test_a_training_epoch_is_eight_flops_a_parameter_and_token_with_checkpointing():
    found = costs().job("preference", MISTRAL)
    assumed = read_assumptions()
    data, gpu = assumed.datasets["Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1"], assumed.hardware["a100"]
    tokens = 2 * data.rows * (data.prompt_tokens + data.response_tokens)  # chosen and rejected
    flops = 8 * 7.25e9 * tokens  # layers are computed again
    seconds = flops / (8 * gpu.tflops * 1e12 * gpu.train)
    assert found.hours == pytest.approx(seconds / 3600 + gpu.start_minutes / 60)
    assert (found.gpus, found.nodes, found.cpus, found.hardware) == (8, 1, 8 * gpu.cpus, "a100")
    assert found.disk_gb == pytest.approx(2 * 7.25 + 8 * 7.25)  # bf16 weights; float32 weights and RMSprop's average


def test_the_papers_two_figures_are_met_within_a_factor_of_one_and_a_half():
    found = {model: planned / printed for model, _, planned, printed in paper_check(costs().config)}
    assert set(found) == {"mistral-7b-v0.3", "gemma-2-9b"}
    assert all(1 / 1.5 < ratio < 1.5 for ratio in found.values()), found


def test_more_epochs_more_rows_and_fewer_gpus_take_longer():
    one = costs().job("preference", MISTRAL)
    start = read_assumptions().hardware["a100"].start_minutes / 60
    work = one.hours - start
    assert costs().job("preference", MISTRAL | {"span": "1-5"}).hours == pytest.approx(5 * work + start)
    assert costs(preference={"processes": 2}).job("preference", MISTRAL).hours == pytest.approx(4 * work + start)
    half = {"magpie-pro": {"limit": 49_000}}
    assert costs(datasets=half).job("preference", MISTRAL).hours == pytest.approx(work / 2 + start)
    assert costs(gpu_type="h100").job("preference", MISTRAL).hours < one.hours


def test_a_placebo_costs_what_its_origin_costs():
    placebo = {"draw": {"of": "magpie-pro", "labels": "permuted"}}
    for changes in ({}, {"magpie-pro": {"limit": 49_000, "test_prompts": 500}}):
        found = costs(datasets=placebo | changes)
        for rule in ("preference", "reward_completions", "update", "permuted_logps"):
            assert found.job(rule, MISTRAL | {"dataset": "draw"}) == found.job(rule, MISTRAL)
    assert found.job("permuted_logps", MISTRAL).gpus == 0


def test_candidates_are_written_and_scored_and_give_as_many_pairs():
    made = {"own": {"of": "magpie-pro", "rejected": "ideal", "model": "mistral-7b-v0.3"}}
    few, many = (costs(datasets=made, candidates={"prompts": 1000, "n": n}) for n in (4, 8))
    start = read_assumptions().hardware["a100"].start_minutes / 60
    one, two = (found.job("candidates", MISTRAL).hours - start for found in (few, many))
    assert two == pytest.approx(2 * one, rel=0.02)  # the prompts are read once
    data = read_assumptions().datasets["Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1"]
    whole = costs().job("preference", MISTRAL).hours - start
    pairs = few.job("preference", MISTRAL | {"dataset": "own"}).hours - start
    assert pairs == pytest.approx(whole * 1000 / data.rows)
    scored = many.job("candidate_scores", MISTRAL)
    assert (scored.model, scored.hours > few.job("candidate_scores", MISTRAL).hours) == ("skywork-reward-27b", True)


def test_machines_share_the_gpus_and_the_memory():
    one, two = costs().job("preference", MISTRAL), costs(train_nodes=2).job("preference", MISTRAL)
    assert (two.gpus, two.nodes, two.cpus) == (8, 2, one.cpus // 2)
    assert two.memory_gb < one.memory_gb
    assert costs(train_nodes=2).job("qa", MISTRAL).nodes == 1


@pytest.mark.parametrize(
    ("rule", "gpus"),
    [
        *((rule, 4) for rule in ("sample_responses", "did_completions", "did_entropy", "entropy_samples", "answers")),
        ("reward_completions", 4),
        ("heldout_responses", 4),
        *((rule, 1) for rule in ("reference_logps", "score_responses", "reward_scores", "qa")),
        *((rule, 1) for rule in ("heldout_reference", "heldout", "heldout_scores")),
        *((rule, 8) for rule in ("sft", "preference", "did_train")),
        *(
            (rule, 0)
            for rule in ("base_model", "ingest_pairs", "did_pairs", "entropy", "arena_hard", "wildbench", "claims")
        ),
    ],
)
def test_gpus_are_those_that_a_stage_works_with(rule, gpus):
    wildcards = MISTRAL | ({"dataset": "magpie-g27"} if rule.endswith(("_responses", "heldout_scores")) else {})
    one, four = costs().job(rule, wildcards), costs(engine={"tensor_parallel": 4}).job(rule, wildcards)
    assert four.gpus == gpus
    if gpus != 4:
        assert four == one
    else:
        assert four.cpus == 4 * one.cpus
        assert one.hours / 4 < four.hours < one.hours


def test_a_judge_that_is_a_reward_model_has_one_gpu():
    judge = {"judges": {"own": {"kind": "reward-model", "model": "skywork-reward-27b"}}, "arena_hard": {"judge": "own"}}
    assert costs(engine={"tensor_parallel": 4}, **judge).job("arena_hard", MISTRAL).gpus == 1


def test_the_proxy_is_sampled_on_all_gpus_and_scored_on_one():
    """Hours by hand: four GPUs read the prompts and write; policy and reference read on one."""
    found = costs(engine={"tensor_parallel": 4}).job("did_entropy", MISTRAL)
    assumed = read_assumptions()
    data, gpu = assumed.datasets["Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1"], assumed.hardware["a100"]
    second = gpu.tflops * 1e12 / (2 * 7.25e9)  # tokens at the peak
    samples = 4 * 1000
    seconds = 1000 * data.prompt_tokens / (4 * second * gpu.read)
    seconds += samples * data.response_tokens / (4 * second * gpu.write)
    seconds += 2 * samples * (data.prompt_tokens + data.response_tokens) / (second * gpu.read)
    assert found.hours == pytest.approx(seconds / 3600 + gpu.start_minutes / 60)


def test_sampling_counts_every_sample_and_stops_at_the_limit():
    whole = costs().job("sample_responses", {"dataset": "magpie-g27"})
    sampling = costs().config.sampling
    short = costs(sampling={"max_tokens": 50}).job("sample_responses", {"dataset": "magpie-g27"})
    few = costs(sampling={"n": 2}).job("sample_responses", {"dataset": "magpie-g27"})
    assert whole.model == sampling.model
    assert short.hours < few.hours < whole.hours
    assert short.hours < 0.2 * whole.hours  # 50 of 500 tokens, and the prompts


def test_judging_is_calls_times_price():
    found = costs().job("arena_hard", MISTRAL)
    price, call = costs().config.judges["gpt-4.1"].price, read_assumptions().judges.call
    assert found.judge_calls == 2000  # two games of 500 questions, and at most as many of those selected apart
    assert found.judge_dollars == pytest.approx(2000 * (call.read * price.read + call.written * price.written) / 1e6)
    assert costs().job("wildbench", MISTRAL).judge_calls == 1024
    assert costs("micro").job("wildbench", {"model": "micro-mistral", "dataset": "magpie-pro"}).judge_calls == 0


def test_the_micro_world_needs_no_gpu_and_its_size_counts():
    wildcards = {"model": "micro-mistral", "dataset": "magpie-pro", "span": "1-3"}
    found = costs("micro").job("preference", wildcards)
    assert (found.gpus, found.cpus, found.hardware) == (0, 1, "cpu")
    assert found.hours < 0.05
    twice = costs("micro", world={"pairs": 2 * costs("micro").config.world.pairs}).job("preference", wildcards)
    assert twice.hours > found.hours
    assert twice.memory_gb > found.memory_gb


def test_an_unknown_gpu_type_is_named_with_its_key():
    with pytest.raises(UserError, match=r"assumptions.yaml: hardware has no row 'b200'.*models\.\S+\.gpu.*a100, cpu"):
        costs(gpu_type="b200")


def test_a_gpu_types_row_is_the_longest_whose_name_is_in_it():
    found = costs(gpu_type="nvidia_a100-sxm4-80gb").job("preference", MISTRAL)
    assert (found.hardware, found.gpu_type, found.hours) == (
        "a100",
        "nvidia_a100-sxm4-80gb",
        costs().job("preference", MISTRAL).hours,
    )
    whichever = costs(gpu_type="").job("preference", MISTRAL)  # numbers are those of models.<name>.gpu
    assert (whichever.hardware, whichever.gpu_type) == ("a100", "")
    assert costs(gpu_type="NVIDIA_H100_PCIe").job("qa", MISTRAL).hardware == "h100"
    assert costs(models={"mistral-7b-v0.3": {"gpu": "nvidia_h200"}}).job("qa", MISTRAL).hardware == "h200"
    slices = read_assumptions().model_copy(deep=True)
    slices.hardware["a100_3g.40gb"] = slices.hardware["a100"].model_copy(update={"memory_gb": 40})
    assert Costs(costs().config, slices, "nvidia_a100_3g.40gb").job("qa", MISTRAL).hardware == "a100_3g.40gb"
    with pytest.raises(UserError, match=r"'a100\$\(x\)', on which .* is not the name of a GPU type"):
        costs(gpu_type="a100$(x)")


def test_what_does_not_fit_a_gpu_is_warned_of():
    def said(job, wildcards, **changes):
        return warnings([Job(job, wildcards, frozenset(), frozenset({"a"}), "")], costs(**changes), {}, free_gb=1e6)

    assert said("preference", MISTRAL) == said("score_responses", {"dataset": "magpie-g27"}) == []
    (alone,) = said("preference", MISTRAL, preference={"processes": 1})
    assert "an estimated 87 GB on each of 1 GPU(s)" in alone  # float32 weights, gradient and average: 12 x 7.25
    large = {"models": {"skywork-reward-27b": {"billions": 70}}, "engine": {"tensor_parallel": 4}}
    (scoring,) = said(
        "score_responses", {"dataset": "magpie-g27"}, **large
    )  # tensor parallelism does not split this one
    assert scoring.startswith("score_responses skywork-reward-27b magpie-g27: an estimated 140 GB on each of 1 GPU(s)")
    assert said("sample_responses", {"dataset": "magpie-g27"}, **large) == []


def test_every_wrong_assumption_is_named(tmp_path):
    values = yaml.safe_load(ASSUMPTIONS.read_text())
    values["hardware"]["a100"]["train"] = 1.4
    del values["hardware"]["h100"]["cpus"]
    file = tmp_path / "assumptions.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(
        UserError, match=r"2 fault\(s\): .*hardware\.a100\.train: .*; hardware\.h100\.cpus: Field required"
    ):
        read_assumptions(file)


def test_long_jobs_and_a_small_disk_are_warned_of():
    jobs = [Job("sample_responses", {"dataset": "magpie-g27"}, frozenset(), frozenset({"a"}), "")]
    jobs += [Job("preference", MISTRAL, frozenset({"a"}), frozenset({"b"}), "")]
    assert warnings(jobs, costs(), {"max_runtime": 10_000}, free_gb=1e6) == []
    too_long, too_large = warnings(jobs, costs(), {"max_runtime": 1440}, free_gb=20)
    assert too_long.startswith("sample_responses gemma-2-27b-it magpie-g27: an estimated ")
    assert "longer than the partition's 24 h" in too_long
    assert "20 GB are free" in too_large
    for no_limit in ({}, {"max_runtime": "infinite"}):
        assert warnings(jobs, costs(), no_limit, free_gb=1e6) == []
    assert warnings(jobs, costs(), {"max_runtime": "1-00:00:00"}, free_gb=1e6) == [too_long]
