"""Costs of jobs: FLOP counts by hand, the paper's two printed figures, and what is said of wrong assumptions."""

from pathlib import Path

import pytest
import yaml

from diffinfo.cli import UserError
from diffinfo.config import parse
from diffinfo.cost import ASSUMPTIONS, Costs, read_assumptions
from diffinfo.jobs import Job
from diffinfo.plan import paper_check, warnings
from diffinfo.strict_yaml import merge, read_yaml

ROOT = Path(__file__).resolve().parents[1]
MISTRAL = {"model": "mistral-7b-v0.3", "dataset": "magpie-pro", "method": "dpo-b0.1", "span": "2-2", "epoch": "2"}


def costs(preset="paper", gpu_type=None, **changes):
    files = ["config.yaml"] + (["workflow/presets/paper.yaml"] if preset == "paper" else [])
    values = {}
    for part in (*(read_yaml(ROOT / file) for file in files), changes):
        values = merge(values, part)
    return Costs(parse(values), read_assumptions(), gpu_type)


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


def test_machines_share_the_gpus_and_the_memory():
    one, two = costs().job("preference", MISTRAL), costs(train_nodes=2).job("preference", MISTRAL)
    assert (two.gpus, two.nodes, two.cpus) == (8, 2, one.cpus // 2)
    assert two.memory_gb < one.memory_gb
    assert costs(train_nodes=2).job("qa", MISTRAL).nodes == 1


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
    judges = read_assumptions().judges
    price, call = judges.prices["gpt-4.1-2025-04-14"], judges.call
    assert found.judge_calls == 1000  # two games of 500 questions
    assert found.judge_dollars == pytest.approx(1000 * (call.read * price.read + call.written * price.written) / 1e6)
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
    assert warnings(jobs, costs(), {}, free_gb=1e6) == []  # no profile, no limit
