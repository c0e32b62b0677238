"""The paper's preset, value by value beside where each comes from; and that no value of config.yaml gets into it.

J.2 and the like are the paper's sections, "procedures" is docs/procedures.md, "hub" the repository that is named, "ours" a
choice of this project that the paper leaves open and that no number of the paper depends on.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffinfo.config import reading
from diffinfo.config.reading import load
from diffinfo.config.strict_yaml import ConfigError, read_yaml
from diffinfo.config.types import Config

ROOT = Path(__file__).resolve().parents[2]
MICRO, PAPER = ROOT / "config.yaml", ROOT / "workflow/presets/paper.yaml"
PRESETS = sorted(ROOT.glob("workflow/presets/*.yaml"))

MISTRAL, GEMMA = "mistral-7b-v0.3", "gemma-2-9b"
GRID = [  # model, dataset, methods, measures; which table or figure wants them
    (MISTRAL, "ultrafeedback", ["dpo"], ["expected_reward"]),  # Figures 2, 6, 10, 11
    (MISTRAL, "ultrafeedback", ["logpi"], ["expected_reward", "entropy"]),  # Table 1, Figure 6
    # Tables 2, 3, Figures 2, 3, 6, 13
    (MISTRAL, "magpie-pro", ["dpo"], ["expected_reward", "did", "benchmarks", "qa"]),
    (MISTRAL, "magpie-pro", ["logpi"], ["expected_reward", "entropy"]),  # Table 1, Figure 6
    (MISTRAL, "magpie-pro", ["dpo-pg"], ["did", "benchmarks", "qa"]),  # Tables 2, 3, Figures 3, 8, 9, 13
    (MISTRAL, "magpie-pro", ["dpop-b0.1", "cal-dpo-b0.1"], []),  # Figure 5
    (MISTRAL, "magpie-g27", ["dpo", "dpo-pg"], ["did", "benchmarks", "qa"]),  # Tables 2, 3, Figure 3
    (GEMMA, "magpie-pro", ["dpo", "dpo-pg"], ["benchmarks", "qa"]),  # Table 3, Figure 12
    (GEMMA, "magpie-g27", ["dpo", "dpo-pg"], ["benchmarks", "qa"]),  # Table 3, Figure 12
]
# source: values
SOURCES: dict[str, dict[str, Any]] = {
    "no source of the preset is 'world', so nothing reads these": {
        "world.seed": 42,
        "world.corpus": 40_000,
        "world.pairs": 1024,
        "world.test_prompts": 1000,
        "world.sharpness": 1.0,
        "world.hidden": 96,
        "world.layers": 2,
        "world.base_steps": 400,
        "world.teacher_steps": 700,
        "world.reward_steps": 300,
        "world.arena_prompts": 100,
        "world.wildbench_tasks": 64,
        "world.qa_items": 50,
    },
    "ours, and no row of the preset asks for it": {
        "smc.prompts": 8,
        "smc.particles": 256,
        "smc.lengths": [16, 64, 256],
        "smc.gap": 0.01,
        "smc.floor": 0.0,
        "smc.seed": 42,
        "update.prompts": 100,
    },
    "ours, and the preset has no placebo and no sampled pairs": {
        "candidates.n": 16,
        "candidates.prompts": 10_000,
        "candidates.max_tokens": 4096,
        "candidates.seed": 42,
        **{
            f"datasets.{name}.{key}": 1 if key == "labels_seed" else None
            for name in ("ultrafeedback", "magpie-pro", "magpie-g27")
            for key in ("of", "labels", "labels_seed", "rejected", "model")
        },
    },
    "Magpie's own sampling; the preset's prompts are Magpie-Air's, and nothing reads these": {
        "magpie.prompts": 200_000,
        "magpie.temperature": 1.0,
        "magpie.top_p": 1.0,
        "magpie.max_tokens": 512,
        "magpie.lines": "first",
        "magpie.min_words": 3,
        "magpie.similarity": 0.8,
        "magpie.min_reward": None,
        "magpie.seed": 42,
    },
    "hub: its default subset; one pair a prompt": {
        f"datasets.{name}.{key}": value
        for name in ("ultrafeedback", "magpie-pro", "magpie-g27")
        for key, value in (("subset", None), ("repeats", "first"))
    },
    "ours: a preset takes nothing from config.yaml": {
        "base": "defaults",
    },
    "J.2: base weights with the chat template of the instruct sibling; the judge and the teacher by their names": {
        "models.mistral-7b-v0.3.source": "mistralai/Mistral-7B-v0.3",
        "models.mistral-7b-v0.3.chat_template": "mistralai/Mistral-7B-Instruct-v0.3",
        "models.gemma-2-9b.source": "google/gemma-2-9b",
        "models.gemma-2-9b.chat_template": "google/gemma-2-9b-it",
        "models.gemma-2-27b-it.source": "google/gemma-2-27b-it",
        "models.gemma-2-27b-it.chat_template": None,
        "models.skywork-reward-27b.source": "Skywork/Skywork-Reward-Gemma-2-27B-v0.2",
        "models.skywork-reward-27b.chat_template": None,
    },
    "ours: what the hub serves today; no architecture is made here": {
        "models.mistral-7b-v0.3.revision": "main",
        "models.mistral-7b-v0.3.architecture": None,
        "models.mistral-7b-v0.3.chat_template_revision": "main",
        "models.mistral-7b-v0.3.chat_template_date": datetime.date(2024, 7, 26),
        "models.gemma-2-9b.revision": "main",
        "models.gemma-2-9b.architecture": None,
        "models.gemma-2-9b.chat_template_revision": "main",
        "models.gemma-2-9b.chat_template_date": datetime.date(2024, 7, 26),
        "models.gemma-2-27b-it.revision": "main",
        "models.gemma-2-27b-it.architecture": None,
        "models.gemma-2-27b-it.chat_template_revision": None,
        "models.gemma-2-27b-it.chat_template_date": datetime.date(2024, 7, 26),
        "models.skywork-reward-27b.revision": "main",
        "models.skywork-reward-27b.architecture": None,
        "models.skywork-reward-27b.chat_template_revision": None,
        "models.skywork-reward-27b.chat_template_date": datetime.date(2024, 7, 26),
        "datasets.ultrafeedback.revision": None,
        "datasets.magpie-pro.revision": None,
        "datasets.magpie-g27.revision": None,
    },
    "J.2: bf16; procedures: soft-capping needs eager attention, Skywork-Reward not sdpa": {
        "models.mistral-7b-v0.3.attention": "sdpa",
        "models.mistral-7b-v0.3.dtype": "bfloat16",
        "models.gemma-2-9b.attention": "eager",
        "models.gemma-2-9b.dtype": "bfloat16",
        "models.gemma-2-27b-it.attention": "eager",
        "models.gemma-2-27b-it.dtype": "bfloat16",
        "models.skywork-reward-27b.attention": "eager",
        "models.skywork-reward-27b.dtype": "bfloat16",
    },
    "hub: parameters of the checkpoints; J.2: A100 for Mistral, H100 for Gemma": {
        "models.mistral-7b-v0.3.billions": 7.25,
        "models.mistral-7b-v0.3.gpu": "a100",
        "models.gemma-2-9b.billions": 9.24,
        "models.gemma-2-9b.gpu": "h100",
        "models.gemma-2-27b-it.billions": 27.2,
        "models.gemma-2-27b-it.gpu": "h100",
        "models.skywork-reward-27b.billions": 27.2,
        "models.skywork-reward-27b.gpu": "h100",
    },
    "hub: schemas and splits; procedures: 1,000 held-out prompts, Magpie-G27 disjoint from Magpie-Pro": {
        "datasets.ultrafeedback.format": "ultrafeedback",
        "datasets.ultrafeedback.source": "HuggingFaceH4/ultrafeedback_binarized",
        "datasets.ultrafeedback.split": "train_prefs",
        "datasets.ultrafeedback.test_split": "test_prefs",
        "datasets.ultrafeedback.test_prompts": 1000,
        "datasets.ultrafeedback.limit": None,
        "datasets.ultrafeedback.disjoint_from": [],
        "datasets.ultrafeedback.reward": "multifaceted",
        "datasets.magpie-pro.format": "magpie",
        "datasets.magpie-pro.source": "Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1",
        "datasets.magpie-pro.split": "train",
        "datasets.magpie-pro.test_split": "test",
        "datasets.magpie-pro.test_prompts": 1000,
        "datasets.magpie-pro.limit": None,
        "datasets.magpie-pro.disjoint_from": [],
        "datasets.magpie-pro.reward": "multifaceted",
        "datasets.magpie-g27.format": "prompts",
        "datasets.magpie-g27.source": "Magpie-Align/Magpie-Air-DPO-100K-v0.1",
        "datasets.magpie-g27.split": "train",
        "datasets.magpie-g27.test_split": "test",
        "datasets.magpie-g27.test_prompts": 1000,
        "datasets.magpie-g27.limit": None,
        "datasets.magpie-g27.disjoint_from": ["magpie-pro"],
        "datasets.magpie-g27.reward": "multifaceted",
    },
    "J.2: sampling and scoring": {
        "reward_model": "skywork-reward-27b",
        "sampling.model": "gemma-2-27b-it",
        "sampling.n": 5,
        "sampling.temperature": 0.9,
        "sampling.top_p": 1.0,
        "sampling.max_tokens": 4096,
        "sampling.seed": 42,
    },
    "J.2: vLLM": {
        "engine.name": "vllm",
    },
    "Tables 2 and 3: the grid's betas; J.2: five epochs": {
        "betas": [0.2, 0.1, 0.05, 0.02],
        "epochs": 5,
        "seeds": [],
    },
    "J.2: SFT": {
        "sft.epochs": 1,
        "sft.batch_size": 256,
        "sft.learning_rate": 5e-6,
        "sft.warmup_ratio": 0.1,
        "sft.seed": 0,
    },
    "ours: how work is spread over jobs and GPUs changes no result; J.2: 8 GPUs; procedures: float32 master weights": {
        "engine.batch_tokens": 32_768,
        "engine.tensor_parallel": 1,
        **{"sampling.jobs": 25, "preference.reference_jobs": 10, "did.jobs": 2},
        "run.name": "paper",
        "run.shared": "all",
        "train_nodes": 1,
        "training.micro_batch_tokens": 8192,
        "training.master_weights": "float32",
        "training.activation_checkpointing": "layers",
        "training.compile": "none",
        "training.save_minutes": 10,
        "training.report_to": "tensorboard",
        "preference.epochs_per_job": 1,
        "preference.processes": 8,
        **{
            f"judges.{name}.{key}": value
            for name in ("gpt-4.1-nano", "gpt-4.1", "gpt-4o")
            for key, value in {
                "kind": "openai",
                "max_tokens": 4096,
                "preset": "chat",
                "api_key_env": "OPENAI_API_KEY",
                "base_url": "https://api.openai.com/v1",
                "max_unjudged": 0.25,
                "concurrency": 16,
                "retries": 8,
                **{"timeout": 600.0, "patience": 900.0},
                **dict.fromkeys(["requests_per_minute", "tokens_per_minute", "budget"]),
                **{"batch": False, "serve": False, "server": "vllm", "tensor_parallel": 1},
            }.items()
        },
        "qa.batch_size": 16,
    },
    "J.2: preference optimisation (clipping at 1.0 as in J.1)": {
        "preference.batch_size": 64,
        "preference.learning_rate": 1e-6,
        "preference.warmup_steps": 150,
        "preference.max_grad_norm": 1.0,
        "preference.max_prompt_tokens": 2048,
        "preference.max_tokens": 4096,
        "preference.seed": 1,
    },
    "ours: DPOP's and SimPO's published values, Cal-DPO's weight (procedures), SLiC's lambda among J.1's": {
        "objectives.dpop_lambda": 50.0,
        "objectives.cal_dpo_weight": 1.0,
        "objectives.slic_lambda": 1.0,
        "objectives.simpo_gamma": 1.0,
    },
    "ours: pairs that are never trained on; they change nothing of the training": {
        "preference.held_out": 250,
    },
    "K: entropy": {
        "entropy.prompts": 1000,
        "entropy.samples": 4,
        "entropy.max_tokens": 4096,
        "entropy.seed": 42,
    },
    "K: the DID proxy, greedy by default; K.1: outliers": {
        "did.prompts": 40_000,
        "did.decode": "greedy",
        "did.batch_size": 64,
        "did.learning_rate": 1e-6,
        "did.warmup_steps": 150,
        "did.dagger_below": 0.5,
    },
    "Figure 6: an expectation over the policy; J.2: up to 4,096 tokens, seed 42 as everywhere": {
        "expected_reward.decode": "sample",
        "expected_reward.max_tokens": 4096,
        "expected_reward.seed": 42,
    },
    "J.2: greedy answers up to 4,096 tokens": {
        "answers.max_tokens": 4096,
    },
    "ours: OpenAI's prices of 2025, dollars a million tokens": {
        f"judges.{name}.price.{key}": value
        for name, prices in {
            "gpt-4.1-nano": (0.1, 0.025, 0.4),
            "gpt-4.1": (2.0, 0.5, 8.0),
            "gpt-4o": (2.5, 1.25, 10.0),
        }.items()
        for key, value in zip(("read", "cached", "written"), prices, strict=True)
    },
    "J.2: judges; procedures: up to 4,096 tokens": {
        "judges.gpt-4.1-nano.model": "gpt-4.1-nano-2025-04-14",
        "judges.gpt-4.1.model": "gpt-4.1-2025-04-14",
        "judges.gpt-4o.model": "gpt-4o-2024-08-06",
        "arena_hard.select_judge": "gpt-4.1-nano",
        "arena_hard.judge": "gpt-4.1",
        "wildbench.judge": "gpt-4o",
    },
    "procedures: Arena-Hard v0.1 against gpt-4-0314, 100 bootstrap resamples": {
        "arena_hard.questions": "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1/question.jsonl",
        "arena_hard.baseline": "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
        **dict.fromkeys(["arena_hard.limit", "arena_hard.categories"]),
        "arena_hard.prompt": "https://raw.githubusercontent.com/lmarena/arena-hard-auto/"
        "3071ef95d913bb5cd632641db336a3b6c7fe4bdd/config/judge_config.yaml",
        "arena_hard.bootstrap": 100,
        "arena_hard.seed": 42,
    },
    "procedures: WildBench v2": {
        "wildbench.tasks": "hf://datasets/WildEval/WildBench-V2@refs/convert/parquet/v2/test/0000.parquet",
        **dict.fromkeys(["wildbench.limit", "wildbench.anchors", "wildbench.reward"]),
        "wildbench.prompt": "https://raw.githubusercontent.com/allenai/WildBench/"
        "d6b8dcaf377d173d031980f97c16e1a82618c03d/evaluation/eval_template.score.v2.md",
        "wildbench.rounds": 128,
        "wildbench.win_margin": 2.0,
        "wildbench.length_margin": 1500,
        "wildbench.seed": 42,
    },
    "procedures: lm-evaluation-harness, whose own limit is 256 tokens; gsm8k with five examples": {
        "qa.source": "hub",
        "qa.limit": None,
        "qa.system_prompt": "You are a helpful assistant.",
        "qa.gsm8k_shots": 5,
        "qa.max_gen_toks": 256,
    },
    "J.1 (seed 42, and four more for bands); ours: length, taus below and above 1, and what goes beyond the paper": {
        "synthetic.steps": 16_000,
        "synthetic.seeds": [42, 43, 44, 45, 46],
        "synthetic.taus": [0.25, 0.5, 2.0, 4.0],
        "synthetic.record_every": 40,
        "synthetic.theorem_seed": 42,
        "synthetic.world_seeds": [42, 43, 44, 45, 46],
        "synthetic.proxy_steps": [16, 64, 256],
        "synthetic.proxy_learning_rate": 0.001,
        "synthetic.rejected_pairs": [1280, 12800, 51200],
        "synthetic.rejected_learning_rate": 0.0015,
    },
}


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """Every value at its dotted path; a list of mappings by number."""
    items: Any = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if items is None or (isinstance(values, list) and not any(isinstance(item, dict) for item in values)):
        return {path: values}
    return {k: v for key, item in items for k, v in flat(item, f"{path}.{key}" if path else str(key)).items()}


def test_every_value_of_the_papers_preset_is_the_papers() -> None:
    grid = [dict(zip(("model", "dataset", "methods", "measures"), row, strict=True)) for row in GRID]
    expected = flat({"grid": grid})
    for values in SOURCES.values():
        assert not expected.keys() & values.keys()
        expected |= values
    found = flat(load(MICRO, PAPER).model_dump())
    assert (found.keys() - expected.keys(), found) == (set(), expected), "a key has no row here, or another value"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_no_value_of_the_micro_world_gets_into_a_preset(tmp_path: Path, preset: Path) -> None:
    other = tmp_path / "config.yaml"
    other.write_text(yaml.safe_dump(scrambled(read_yaml(MICRO))))
    assert load(other, preset) == load(MICRO, preset) == load(preset)


def scrambled(values: Any) -> Any:
    """The same keys with other values."""
    if isinstance(values, dict):
        return {key: scrambled(value) for key, value in values.items()}
    if isinstance(values, list):
        return [scrambled(value) for value in values]
    return values + 1 if isinstance(values, int | float) else f"{values}x"


def test_config_yaml_states_every_value_of_its_own() -> None:
    """So no default of the paper's gets into the micro world either; what is unset there has no value."""
    stated = read_yaml(MICRO)
    for name, field in Config.model_fields.items():
        if field.get_default() is None and not field.is_required():
            continue
        assert name in stated
        part = getattr(load(MICRO), name)
        if hasattr(part, "model_fields_set"):
            unset = {key for key in type(part).model_fields if getattr(part, key) is None}
            assert stated[name].keys() | unset == set(type(part).model_fields), name


def test_a_file_is_merged_over_config_yaml_or_over_the_preset_before_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("qa: {gsm8k_shots: 3}\n")
    micro, paper = load(MICRO, mine), load(MICRO, PAPER, mine)
    assert (micro.qa.gsm8k_shots, micro.qa.max_gen_toks, micro.reward_model) == (3, 32, "micro-reward")
    assert (paper.qa.gsm8k_shots, paper.qa.max_gen_toks, paper.reward_model) == (3, 256, "skywork-reward-27b")
    assert load(MICRO, PAPER, mine, values={"qa": {"gsm8k_shots": 4}}).qa.gsm8k_shots == 4


def test_a_preset_that_would_discard_a_file_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("epochs: 2\n")
    for files in ([MICRO, mine, PAPER], [None, mine, PAPER]):
        with pytest.raises(ConfigError, match=r"paper\.yaml says 'base: defaults', so no file may come before it"):
            load(*files)
    with pytest.raises(ConfigError, match="--config cannot say where a file starts from"):
        load(MICRO, values={"base": "defaults"})
    mine.write_text("base: default\n")
    with pytest.raises(ConfigError, match="base: Input should be 'defaults', got 'default'"):
        load(MICRO, mine)


def test_check_reads_the_preset_alone(capsys: pytest.CaptureFixture[str]) -> None:
    reading.check(MICRO, PAPER)
    reading.check(PAPER)
    one, two = capsys.readouterr().out.splitlines()
    assert one == two == "34 cells in 9 grid rows"
