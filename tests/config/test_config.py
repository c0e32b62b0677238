"""Bad configurations: every fault is one line with its key path and its remedy."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from diffinfo.config import reading
from diffinfo.config.reading import load, parse
from diffinfo.config.strict_yaml import ConfigError, read_yaml
from diffinfo.config.types import Config

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = read_yaml(ROOT / "config.yaml")


def changed(*edits: tuple[str, Any]) -> dict[str, Any]:
    """The default configuration with the values at dotted paths replaced; ``...`` takes a key out."""
    values = copy.deepcopy(DEFAULT)
    for path, value in edits:
        holder: Any = values
        *parents, last = path.split(".")
        for part in parents:
            holder = holder[int(part) if isinstance(holder, list) else part]
        key: Any = int(last) if isinstance(holder, list) else last
        if value is ...:
            del holder[key]
        else:
            holder[key] = value
    return values


def faults(*edits: tuple[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(changed(*edits))
    head, *lines = str(caught.value).splitlines()
    assert head == f"the configuration has {len(lines)} fault(s):"
    return [line.strip() for line in lines]


BAD = {
    "typo-top": ("epoch", 5, "epoch: unknown key; did you mean 'epochs'?"),
    "typo-section": ("sft.learningrate", 1e-3, "sft.learningrate: unknown key; did you mean 'learning_rate'?"),
    "typo-in-mapping": (
        "models.micro-mistral.architekture", "gemma2",
        "models.micro-mistral.architekture: unknown key; did you mean 'architecture'?",
    ),
    "typo-in-list": ("grid.1.metods", ["dpo"], "grid.1.metods: unknown key; did you mean 'methods'?"),
    "foreign-key": ("engine.zzz", 1, "engine.zzz: unknown key; known: batch_tokens, name, tensor_parallel"),
    "wrong-type": ("epochs", "five",
                   "epochs: Input should be a valid integer, unable to parse string as an integer, got 'five'"),
    "fraction": ("sft.batch_size", 1.5,
                 "sft.batch_size: Input should be a valid integer, got a number with a fractional part, got 1.5"),
    "truth-value": ("epochs", True, "epochs: a truth value (yes, no, true, false) does not fit here; quote it where it is text,"
                                    " got True"),
    "list-for-mapping": ("world", [1], "world: must be a mapping of keys, got [1]"),
    "list-for-names": ("datasets", ["magpie-pro"], "datasets: must be a mapping of keys, got ['magpie-pro']"),
    "mapping-for-list": ("betas", {"dpo": 0.1}, "betas: Input should be a valid list, got {'dpo': 0.1}"),
    "null": ("sampling", None, "sampling: must be a mapping of keys, got None"),
    "negative-beta": ("betas", [0.1, -0.02], "betas.1: Input should be greater than 0, got -0.02"),
    "zero-beta": ("betas", [0], "betas.0: Input should be greater than 0, got 0"),
    "infinite-beta": ("betas", [float("inf")], "betas.0: Input should be a finite number, got inf"),
    "doubled-beta": ("betas", [0.1, 0.02, 0.1], "betas: a value is listed twice; list each once"),
    "nameless-beta": ("betas", [1e-5], "betas: 1e-05 cannot be part of a name; write a number like 0.05, six digits at most"),
    "long-beta": ("betas", [0.12345678],
                  "betas: 0.12345678 cannot be part of a name; write a number like 0.05, six digits at most"),
    "no-betas": ("betas", [], "betas: List should have at least 1 item after validation, not 0, got []"),
    "zero-beta-in-name": ("grid.1.methods", ["dpo-b0"], "grid.1.methods: 'dpo-b0' has beta 0; beta must be greater than 0"),
    "beta-written-oddly": ("grid.1.methods", ["dpo-b0.10"], "grid.1.methods: 'dpo-b0.10' must be written 'dpo-b0.1'"),
    "unknown-method": ("grid.1.methods", ["dop"], "grid.1.methods: 'dop' is not a method; did you mean 'dpop'?"),
    "method-with-newline": ("grid.1.methods", ["dpo-pg\n"],
                            "grid.1.methods: 'dpo-pg\\n' is not a method; did you mean 'dpo-pg'?"),
    "beta-of-dpo-pg": ("grid.1.methods", ["dpo-pg-b0.1"],
                       "grid.1.methods: 'dpo-pg-b0.1' is not a method; did you mean 'dpo-pg'?"),
    "method-twice": ("grid.6.methods", ["dpo", "dpo-b0.1"],
                     "grid.6.methods: dpo-b0.1 is listed twice ('dpo' means every beta of betas); list each once"),
    "no-methods": ("grid.1.methods", [], "grid.1.methods: List should have at least 1 item after validation, not 0, got []"),
    "unknown-measure": (
        "grid.0.measures", ["reward"],
        "grid.0.measures.0: Input should be 'expected_reward', 'entropy', 'did', 'did_sampled', 'smc', 'update', 'target',"
        " 'benchmarks' or 'qa', got 'reward'",
    ),
    "target-unknown": (
        "grid.11", {"model": "micro-mistral", "dataset": "magpie-g27", "methods": ["dpo-b2"], "measures": ["target"]},
        "grid.11.measures: the true preferences of magpie-g27 are not known; remove 'target': it needs ready pairs of the"
        " world",
    ),
    "target-of-another-method": (
        "grid.1.measures", ["target"],
        "grid.1.measures: 'target' is the optimum of dpo, not of logpi; remove it, or list the method in another row",
    ),
    "unknown-dataset": ("grid.0.dataset", "ultrafeedbak",
                        "grid.0.dataset: 'ultrafeedbak' is not defined; did you mean 'ultrafeedback'?"),
    "unknown-model": ("grid.0.model", "micro-mistrl",
                      "grid.0.model: 'micro-mistrl' is not defined; did you mean 'micro-mistral'?"),
    "unknown-reward-model": ("reward_model", "micro-rewards",
                             "reward_model: 'micro-rewards' is not defined; did you mean 'micro-reward'?"),
    "policy-as-reward-model": (
        "reward_model", "micro-mistral",
        "reward_model: 'micro-mistral' has the architecture 'mistral'; name a model whose architecture is 'reward'",
    ),
    "reward-model-as-policy": (
        "sampling.model", "micro-reward",
        "sampling.model: 'micro-reward' has the architecture 'reward'; name a model that writes",
    ),
    "unknown-judge": ("wildbench.judge", "gpt", "wildbench.judge: 'gpt' is not defined; known: embedded, truth"),
    "judge-of-no-reward": ("judges.truth.model", "multi", "judges.truth.model: 'multi' is not defined; did you mean"
                           " 'multifaceted'?"),
    "judge-without-model": ("judges.embedded.model", "micro-rewrad",
                            "judges.embedded.model: 'micro-rewrad' is not defined; did you mean 'micro-reward'?"),
    "wrong-literal": ("did.decode", "greedily", "did.decode: Input should be 'greedy' or 'sample', got 'greedily'"),
    "wrong-format": ("datasets.magpie-pro.format", "magpy",
                     "datasets.magpie-pro.format: Input should be 'magpie', 'ultrafeedback', 'preference' or 'prompts', "
                     "got 'magpy'"),
    "share-above-one": ("sft.warmup_ratio", 1.1,
                        "sft.warmup_ratio: Input should be less than or equal to 1, got 1.1"),
    "missing-section": ("wildbench", ..., "wildbench: this key is missing; add it"),
    "missing-key": ("sampling.model", ..., "sampling.model: this key is missing; add it"),
    "empty-grid": ("grid", [], "grid: List should have at least 1 item after validation, not 0, got []"),
    "cell-twice": ("grid.1.methods", ["dpo-b0.1", "dpo-pg"],
                   "grid.1.methods: dpo-b0.1 of micro-mistral on ultrafeedback is in grid.0 too; list each method in one row"),
    "bad-name": ("datasets.Magpie Pro", {"format": "magpie", "source": "world"},
                 "datasets.Magpie Pro: 'Magpie Pro' is not a name; use lower-case letters, digits, '.' and '-'"),
    "missing-file": ("datasets.magpie-g27.source", "none/rows.jsonl",
                     "datasets.magpie-g27.source: the file 'none/rows.jsonl' does not exist"),
    "missing-baseline": ("arena_hard.baseline", "answers.jsonl",
                         "arena_hard.baseline: the file 'answers.jsonl' does not exist"),
    "copy-for-the-world": ("qa.data", {"piqa": "config.yaml"},
                           "qa.data.piqa: has no meaning where qa.source is 'world'; remove it, or set qa.source to 'hub'"),
    "missing-copy": ("qa", {"source": "hub", "data": {"piqa": "none"}}, "qa.data.piqa: 'none' does not exist"),
    "judge-of-the-worlds-questions": (
        "wildbench.tasks", "hf://datasets/a/b/c.jsonl",
        "wildbench.judge: 'truth' knows the micro world's questions alone; name a judge of another kind",
    ),
    "not-data": ("datasets.magpie-g27.source", __file__,
                 f"datasets.magpie-g27.source: '{__file__}' is not a .parquet, .json, .jsonl, .csv or .arrow file; "
                 "convert it"),
    "split-of-a-file": ("datasets.magpie-pro.test_split", "test",
                        "datasets.magpie-pro.test_split: 'test' has no meaning where source is 'world'; set it to null"),
    "ranks-a-real-set": (
        "datasets.correctness.source", "Magpie-Align/Magpie-Pro",
        "datasets.correctness.reward: ranks the writers of the micro world alone; remove it where source is not 'world'",
    ),
    "missing-source": ("datasets.magpie-g27.source", ..., "datasets.magpie-g27.source: this key is missing; add it"),
    "missing-format": ("datasets.magpie-pro.format", ..., "datasets.magpie-pro.format: this key is missing; add it"),
    "made-from-nothing": ("datasets.x", {"of": "magpie", "labels": "permuted"},
                          "datasets.x.of: 'magpie' is not defined; did you mean 'magpie-pro'?"),
    "made-from-a-made-one": (
        "datasets.x", {"of": "magpie-pro-permuted-1", "labels": "permuted"},
        "datasets.x.of: 'magpie-pro-permuted-1' is itself made from 'magpie-pro'; name a dataset that has a source",
    ),
    "made-by-no-rule": ("datasets.x", {"of": "magpie-pro"}, 
                      "datasets.x.of: either labels or rejected says how pairs are made from 'magpie-pro'; give one of them"),
    "made-by-two-rules": ("datasets.correctness-permuted-1.rejected", "worst",
                          "datasets.correctness-permuted-1.of: either labels or rejected says how pairs are made from"
                          " 'correctness'; give one of them"),
    "samples-of-no-model": ("datasets.x", {"of": "magpie-pro", "rejected": "ideal"},
                            "datasets.x.model: this key is missing; add it"),
    "samples-of-an-unknown-model": ("datasets.x", {"of": "magpie-pro", "rejected": "ideal", "model": "micro-mistrl"},
                                    "datasets.x.model: 'micro-mistrl' is not defined; did you mean 'micro-mistral'?"),
    "model-of-a-placebo": ("datasets.correctness-permuted-1.model", "micro-mistral",
                           "datasets.correctness-permuted-1.model: has no meaning without rejected; remove it"),
    "source-of-a-made-one": ("datasets.correctness-permuted-1.source", "world",
                             "datasets.correctness-permuted-1.source: is that of 'correctness'; remove it, or remove of"),
    "held-out-of-a-made-one": (
        "datasets.correctness-permuted-1.test_prompts", 10,
        "datasets.correctness-permuted-1.test_prompts: is that of 'correctness'; remove it, or remove of",
    ),
    "labels-of-nothing": (
        "datasets.magpie-pro.labels", "permuted",
        "datasets.magpie-pro.labels: has no meaning without of; name the dataset that the pairs come from, or remove it",
    ),
    "disjoint-from-a-made-one": (
        "datasets.magpie-g27.disjoint_from", ["magpie-pro-permuted-2"],
        "datasets.magpie-g27.disjoint_from: 'magpie-pro-permuted-2' has no prompts of its own; name 'magpie-pro'",
    ),
    "unknown-disjoint": ("datasets.magpie-g27.disjoint_from", ["magpie"],
                         "datasets.magpie-g27.disjoint_from: 'magpie' is not defined; did you mean 'magpie-pro'?"),
    "disjoint-from-itself": (
        "datasets.magpie-pro.disjoint_from", ["magpie-pro"],
        "datasets.magpie-pro.disjoint_from: a dataset cannot be disjoint from itself (magpie-pro -> magpie-pro); "
        "remove one of these",
    ),
    "architecture-of-a-hub-model": ("models.micro-gemma2.source", "google/gemma-2-9b",
                                    "models.micro-gemma2.architecture: is given exactly where source is 'world'"),
    "template-revision-alone": (
        "models.micro-gemma2.chat_template_revision", "main",
        "models.micro-gemma2.chat_template_revision: has no meaning without chat_template; give that key or remove this one",
    ),
    "template-variable-of-the-world": (
        "models.micro-gemma2.chat_template_kwargs", {"enable_thinking": False},
        "models.micro-gemma2.chat_template_kwargs: has no meaning where source is 'world'; remove it",
    ),
    "template-date-of-the-world": ("models.micro-gemma2.chat_template_date", "2025-01-02",
                                   "models.micro-gemma2.chat_template_date: has no meaning where source is 'world'; remove it"),
    "template-date": ("models.micro-gemma2.chat_template_date", "today",
                      "models.micro-gemma2.chat_template_date: Input should be a valid date or datetime, input is too short, "
                      "got 'today'"),
    "idle-gpus": ("engine.tensor_parallel", 4,
                  "engine.tensor_parallel: has no meaning for the transformers engine; set it to 1 or engine.name to vllm"),
    "half-masters-of-whole-models": (
        "training.master_weights", "bfloat16",
        "training.master_weights: bfloat16 has no meaning for micro-gemma2, micro-mistral, whose dtype is float32; set float32",
    ),
    "prompt-too-long": ("preference.max_prompt_tokens", 10**6,
                        "preference.max_prompt_tokens: must be smaller than preference.max_tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value", "line"), BAD.values(), ids=BAD)
def test_one_fault_is_one_line(path: str, value: Any, line: str) -> None:
    found = faults((path, value))
    assert found == [line]


def test_a_template_may_be_told_anything_but_what_the_workflow_tells_it() -> None:
    model = {"source": "Qwen/Qwen3-8B", "billions": 8.2, "chat_template_date": "2025-01-02"}
    values = {"enable_thinking": False, "level": 2, "name": "x"}
    assert faults(("models.qwen3", model | {"chat_template_kwargs": values | {"messages": "x"}})) == [
        "models.qwen3.chat_template_kwargs.messages: is what the workflow itself tells a template; remove it"
    ]
    assert faults(("models.qwen3", model | {"chat_template_kwargs": {"a b": 1}}))
    kept = parse(changed(("models.qwen3", model | {"chat_template_kwargs": values}))).models["qwen3"]
    assert kept.chat_template_kwargs == values
    assert json.loads(kept.model_dump_json())["chat_template_kwargs"]["enable_thinking"] is False


def test_all_faults_are_listed_at_once() -> None:
    found = faults(
        ("epoch", 3),
        ("betas", [0.1, -1]),
        ("sft.lr", 1),
        ("models.micro-gemma2.billions", "many"),
        ("judges.embedded.kind", ...),
        ("grid.0.dataset", "ultra"),
        ("grid.2.methods", ["dpo", "dpq"]),
        ("datasets.magpie-g27.disjoint_from", ["magpie-por"]),
    )
    assert [line.split(":")[0] for line in found] == [
        "models.micro-gemma2.billions",
        "betas.1",
        "sft.lr",
        "judges.embedded.kind",
        "epoch",
        "datasets.magpie-g27.disjoint_from",
        "grid.0.dataset",
        "grid.2.methods",
    ]


def test_one_fault_causes_no_other() -> None:
    """Comparisons with a value that is itself wrong are not reported."""
    assert len(faults(("preference.max_tokens", "many"))) == 1  # not: max_prompt_tokens must be smaller
    assert len(faults(("models.micro-reward.architecture", "rewrad"))) == 1
    assert len(faults(("grid.0.model", ...))) == 1
    assert len(faults(("reward_model", ...))) == 1
    assert len(faults(("grid.0", "micro-mistral"))) == 1


def test_a_circle_of_disjoint_datasets_is_a_fault() -> None:
    found = faults(("datasets.magpie-pro.disjoint_from", ["magpie-g27"]))
    assert [line.split(":")[0] for line in found] == [
        "datasets.magpie-pro.disjoint_from",
        "datasets.magpie-g27.disjoint_from",
    ]
    assert "(magpie-pro -> magpie-g27 -> magpie-pro); remove one of these" in found[0]


def paths(values: Any, before: str = "") -> list[str]:
    """Dotted paths of everything in a configuration."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path for key, value in items for path in (f"{before}{key}", *paths(value, f"{before}{key}."))]


@pytest.mark.parametrize("value", [None, "", "x", -1, 1.5, True, [], ["x"], [[1]], {}, {"x": 1}, {1: 2}, ...], ids=repr)
def test_whatever_stands_at_any_key_is_good_or_a_listed_fault(value: Any) -> None:
    refusals = []
    for path in paths(DEFAULT):
        try:
            parse(changed((path, value)))
        except ConfigError as error:
            refusals.append(str(error))
    assert refusals
    assert all(len(refusal.splitlines()) > 1 for refusal in refusals)


BAD_FILES = {
    "twice": ("epochs: 5\nbetas: [1]\nepochs: 6\n", "{file}, line 3: the key 'epochs' is given twice; remove one."),
    "twice-below": ("sft:\n  seed: 1\n  seed: 2\n", "{file}, line 3: the key 'seed' is given twice; remove one."),
    "list": ("- epochs: 5\n", "{file} must hold a mapping of keys, it holds list."),
    "empty": ("", "{file} must hold a mapping of keys, it holds NoneType."),
    "no-yaml": ("epochs: [1,\n", "{file}, line 2 is not valid YAML: expected "),
    "tab": ("sft:\n\tseed: 1\n", "{file}, line 2 is not valid YAML: found character '\\t'"),
    "code": (
        "epochs: !!python/object/apply:os.getcwd []\n",
        "{file}, line 1 is not valid YAML: could not determine a constructor",
    ),
    "odd-key": ("? [a, b]\n: 1\n", "{file}, line 1: a key must be a name, not ['a', 'b']."),
    "not-utf8": (b"epochs: 5 # \xff\n", "{file} is not valid YAML: "),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_yaml_is_one_sentence(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(message.format(file=file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist\.$"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory\.$"):
        load(tmp_path)


@pytest.mark.parametrize(
    "over", [None, *sorted(ROOT.glob("workflow/presets/*.yaml"))], ids=lambda file: file and file.stem
)
def test_the_shipped_files_are_good(over: Path | None) -> None:
    loaded = load(ROOT / "config.yaml", *([over] if over else []))
    assert all(loaded.methods(row) for row in loaded.grid)


def test_methods_and_spans_spread() -> None:
    loaded = parse(changed(("epochs", 7), ("grid.1.methods", ["logpi", "dpo-pg", "dpop-b0.3"])))
    assert loaded.methods(loaded.grid[1]) == [
        *(f"logpi-b{beta}" for beta in ("0.2", "0.1", "0.05", "0.02")), "dpo-pg", "dpop-b0.3",
    ]  # fmt: skip
    assert loaded.spans() == ["1-3", "4-6", "7-7"]


def test_a_made_dataset_has_an_origin_and_placebos_are_listed_by_it() -> None:
    loaded = parse(DEFAULT)
    assert [loaded.origin(name) for name in ("magpie-pro-permuted-2", "magpie-pro")] == ["magpie-pro"] * 2
    assert loaded.placebos == {
        "magpie-pro": ["magpie-pro-permuted-1", "magpie-pro-permuted-2"],
        "correctness": ["correctness-permuted-1", "correctness-permuted-2"],
    }


def test_samples_of_pi_ref_train_that_model_alone() -> None:
    data = {"of": "magpie-pro", "rejected": "ideal", "model": "micro-gemma2"}
    row = {"model": "micro-mistral", "dataset": "x", "methods": ["dpo-b1"]}
    (fault,) = faults(("datasets.x", data), ("grid", [*DEFAULT["grid"], row]))
    place = len(DEFAULT["grid"])
    assert fault == f"grid.{place}.model: the pairs of 'x' are samples of micro-gemma2; name that model"
    parse(changed(("datasets.x", data), ("grid", [*DEFAULT["grid"], row | {"model": "micro-gemma2"}])))


def test_the_schema_on_disk_is_the_models() -> None:
    file = ROOT / "workflow/schemas/config.schema.json"
    command = "PYTHONPATH=workflow python -m diffinfo.config.reading schema > workflow/schemas/config.schema.json"
    assert json.loads(file.read_text()) == Config.model_json_schema(), f"make it again: {command}"


def test_check_counts_cells(capsys: pytest.CaptureFixture[str]) -> None:
    reading.check(ROOT / "config.yaml")
    assert capsys.readouterr().out.endswith("grid rows\n")


@pytest.mark.parametrize("key", [1, None, 1.5, True])
def test_a_key_that_is_not_text_is_a_fault(key: Any) -> None:
    assert any("models" in line or str(key) in line for line in faults(("models", DEFAULT["models"] | {key: {}})))
    with pytest.raises(ConfigError, match=str(key)):
        parse({**DEFAULT, key: 1})


@pytest.mark.parametrize("value", [2**53, 10**400, -(2**60)])
def test_a_number_too_large_for_a_seed_is_a_fault(value: int) -> None:
    assert "world.seed: fits no key: the number must be smaller than 2^53" in faults(("world.seed", value))[0]
