"""The configuration: every key, its type, its default and its limits; ``diffinfo.config.reading`` reads files of it.

The defaults are the paper's (those of ``World`` apart). config.yaml, the micro world, states every value of its own, and a
preset that says ``base: defaults`` takes none of them.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, field_validator

from diffinfo.measures import MEASURES
from diffinfo.methods import METHODS

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]
LINE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff](?:[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*\S)?")


def _matches(pattern: str | re.Pattern[str], what: str) -> AfterValidator:
    """A text must match the whole of ``pattern``."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {what}")
        return value

    return AfterValidator(check)


Line = Annotated[str, _matches(LINE, "one line of text, without control characters or white space around it")]
Revision = Annotated[str, _matches(r"(?!-|.*\.\.)[\w.+@/-]+", "a branch, tag or commit")]
Variable = Annotated[str, _matches(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _")]

TEMPLATE_DATE = date(2024, 7, 26)  # what Llama 3's templates fall back to where they cannot ask for today's date
# Arena-Hard v0.1 and WildBench v2 where they are published
ARENA_HARD = "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1"
WILDBENCH = "hf://datasets/WildEval/WildBench-V2@refs/convert/parquet/v2/test/0000.parquet"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _fits_no_key(cls, value: Any) -> Any:
        """YAML reads yes and no as truth values, which pydantic would take for 1 and 0; no key is one."""
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            raise ValueError("a truth value (yes, no, true, false) fits no key; quote it where it is text")
        if any(isinstance(item, int) and abs(item) >= 2**53 for item in items):
            raise ValueError("fits no key: the number must be smaller than 2^53")
        if any(isinstance(item, str) and item.strip() == "null" for item in items):  # a stage would read it as null
            raise ValueError("the text 'null' fits no key; remove its quotes")
        return value


class World(_Model):
    """The micro world: a small language, its models and its benchmarks, all made from one seed."""

    seed: int = 42
    corpus: Count = 40_000  # training texts of the base models
    pairs: Count = 1024  # preference pairs (or prompts to sample) per dataset
    test_prompts: Count = 1000  # held-out prompts per dataset
    hidden: Annotated[int, Field(ge=16, multiple_of=16)] = 96
    layers: Count = 2
    base_steps: Count = 400
    teacher_steps: Count = 700
    reward_steps: Count = 300
    arena_prompts: Count = 100
    wildbench_tasks: Count = 64
    qa_items: Count = 50  # per benchmark


class Model(_Model):
    """A Hugging Face folder to start from."""

    source: Line  # "world", a hub id such as mistralai/Mistral-7B-v0.3, or a local folder
    revision: Revision | None = None
    architecture: Literal["mistral", "gemma2", "reward"] | None = None  # only where source is "world"
    chat_template: Line | None = None  # hub id or folder whose chat template (and stop tokens) to use
    chat_template_revision: Revision | None = None
    chat_template_kwargs: dict[Variable, bool | int | float | str | None] = {}  # such as {enable_thinking: false}
    chat_template_date: date = TEMPLATE_DATE  # what a template that asks for today's date is given
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of computation; master weights stay float32
    billions: Positive  # parameters, for resources and the plan
    gpu: Line = "h100"  # GPU type it runs on; a row of assumptions.yaml has its name or a part of it; the profile wins


class Dataset(_Model):
    """Where prompts or pairs come from."""

    format: Literal["magpie", "ultrafeedback", "prompts"]  # "prompts": pairs are sampled and scored here
    source: Line  # "world", a hub id, or a local .parquet, .json or .jsonl file or folder of them
    revision: Revision | None = None
    split: Line = "train"
    test_split: Line | None = None  # split that holds the held-out prompts; null: taken from the end of ``split``
    test_prompts: Count = 1000
    limit: Count | None = None  # read at most this many rows
    disjoint_from: list[str] = []  # drop prompts that these datasets hold too (by normalised text)
    reward: Literal["multifaceted", "correctness"] = "multifaceted"  # what the world's writers are ranked by


class Sampling(_Model):
    """Candidate responses for datasets whose format is "prompts" (J.2)."""

    model: str
    n: Annotated[int, Field(ge=2)] = 5
    temperature: Positive = 0.9
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Count = 4096
    seed: int = 42


class Engine(_Model):
    """What generates text."""

    name: Literal["transformers", "vllm"] = "transformers"  # the one that runs anywhere; the paper's preset says vllm
    batch_tokens: Count = 32_768  # prompt + completion tokens held at once (transformers)
    tensor_parallel: Count = 1  # GPUs per model (vllm)

    @property
    def environment(self) -> str:
        """The file of envs/ that holds it: its own, unless it is part of every stage's."""
        return "base" if self.name == "transformers" else self.name


class Sft(_Model):
    """Supervised fine-tuning on the chosen responses (J.2)."""

    epochs: Count = 1
    batch_size: Count = 256
    learning_rate: Positive = 5e-6
    warmup_ratio: Share = 0.1
    seed: int = 0


class Preference(_Model):
    """Preference optimisation (J.2)."""

    epochs_per_job: Count = 5  # how many epochs one job trains, answers and judges
    batch_size: Count = 64
    learning_rate: Positive = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 150
    max_grad_norm: Positive = 1.0
    max_prompt_tokens: Count = 2048
    max_tokens: Count = 4096
    seed: int = 1
    processes: Count = 1  # GPUs (or CPU processes) that train one model: what there is, so no default of the paper's


_HYPER: dict[str, Any] = {
    key: (float, limits) for method in METHODS.values() for key, limits in method.options().items()
}


class Objectives(create_model("_Declared", __base__=_Model, **_HYPER)):  # type: ignore[misc] # keys of diffinfo.methods
    """Hyper-parameters beside beta, which is part of a method's name."""


class Training(_Model):
    """How models are trained and scored, whatever is learnt."""

    micro_batch_tokens: Count = 16_384  # of one forward and backward pass; the effective batch does not depend on it
    master_weights: Literal["float32", "bfloat16"] = "float32"  # bfloat16 halves memory and swallows small updates
    activation_checkpointing: Literal["none", "layers"] = "none"  # layers: compute them again in the backward pass
    compile: Literal["none", "layers"] = "none"  # layers: torch.compile each decoder layer
    save_minutes: Count = 10  # between two states of a run under results/.progress


class Row(_Model):
    """Some methods on one model and dataset: each is trained, and all of ``measures`` are taken of each."""

    model: str
    dataset: str
    methods: list[str] = Field(min_length=1)  # "dpo" means every beta of ``betas``; "dpo-b0.3" that one alone
    measures: list[Literal[tuple(MEASURES)]] = []  # type: ignore[valid-type] # of diffinfo.measures


class Entropy(_Model):
    """Entropy of a policy (Table 1, Appendix K)."""

    prompts: Count = 1000
    samples: Annotated[int, Field(ge=2)] = 4
    max_tokens: Count = 4096
    seed: int = 42


class Did(_Model):
    """The DID proxy (Table 2, Appendix K)."""

    prompts: Count = 40_000
    decode: Literal["greedy", "sample"] = "greedy"
    batch_size: Count = 64
    learning_rate: Positive = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 150
    dagger_below: Share = 0.5  # a cell whose beta'-accuracy is lower is marked with a dagger


class ExpectedReward(_Model):
    """Reward of held-out completions at each epoch (Figure 6)."""

    decode: Literal["greedy", "sample"] = "sample"
    max_tokens: Count = 4096
    seed: int = 42


class Judge(_Model):
    """Who compares or grades answers."""

    kind: Literal["reward-model", "openai"]  # the reward model turned into verdicts, or an OpenAI-compatible endpoint
    model: Line  # a key of ``models``, or the endpoint's model name
    base_url: Annotated[str, _matches(r"https?://[!-~]+", "an http:// or https:// address")] = (
        "https://api.openai.com/v1"
    )
    api_key_env: Variable = "OPENAI_API_KEY"  # name of the environment variable that holds the key
    max_tokens: Count = 4096
    concurrency: Count = 16
    retries: Count = 6

    @property
    def runs_here(self) -> bool:
        """Whether it is a key of ``models`` that the job loads, not an endpoint that is paid."""
        return self.kind == "reward-model"


class ArenaHard(_Model):
    """Arena-Hard v0.1 (EVAL: logic of lmarena/arena-hard-auto)."""

    questions: Line = f"{ARENA_HARD}/question.jsonl"  # "world", a .jsonl in the old or new schema, or hf://datasets/...
    baseline: Line = f"{ARENA_HARD}/model_answer/gpt-4-0314.jsonl"  # "world", or a .jsonl of the baseline's answers
    limit: Count | None = None  # judge only the first questions
    select_judge: str  # picks the best epoch
    judge: str  # gives the number
    bootstrap: Count = 100
    seed: int = 42


class WildBench(_Model):
    """WildBench v2."""

    tasks: Line = WILDBENCH  # "world", or a .jsonl of allenai/WildBench
    limit: Count | None = None
    judge: str
    rounds: Count = 128
    win_margin: Positive = 2.0  # score difference that is a win
    length_margin: Count = 1500  # characters; a larger difference forces a tie
    seed: int = 42


class Qa(_Model):
    """Eight benchmarks through lm-evaluation-harness."""

    source: Literal["world", "hub"] = "hub"
    limit: Count | None = None
    batch_size: Count = 64
    system_prompt: str = "You are a helpful assistant."
    gsm8k_shots: Annotated[int, Field(ge=0)] = 5
    max_gen_toks: Count = 256  # of a generated answer (gsm8k)


class Answers(_Model):
    """Greedy answers to Arena-Hard and WildBench."""

    max_tokens: Count = 4096


class Synthetic(_Model):
    """The laboratory: categorical policies (Figures 1 and 7, J.1), theorems, and enumerable language models."""

    steps: Count = 16_000  # batches of 512 pairs; below some 3,000 DPO does not lead yet at tau = 0.25
    seeds: list[int] = Field(default=[42, 43, 44, 45, 46], min_length=1)
    taus: list[Positive] = Field(default=[0.25, 0.5, 2.0, 4.0], min_length=1)
    record_every: Count = 40
    theorem_seed: int = 42
    world_seeds: list[int] = Field(default=[42, 43, 44, 45, 46], min_length=1)  # one enumerable world each
    proxy_steps: list[Count] = Field(default=[16, 64, 256], min_length=1)
    proxy_learning_rate: Positive = 1e-3
    rejected_pairs: list[Count] = Field(default=[1280, 12_800, 51_200], min_length=1)  # multiples of 128
    rejected_learning_rate: Positive = 1.5e-3


class Config(_Model):
    """The whole configuration."""

    base: Literal["defaults"] | None = None  # "defaults": a preset that takes nothing from config.yaml
    world: World = World()
    models: dict[Name, Model]
    datasets: dict[Name, Dataset]
    reward_model: str  # a key of ``models``
    sampling: Sampling
    engine: Engine = Engine()
    betas: list[Positive] = Field(min_length=1)
    epochs: Count = 5
    grid: list[Row] = Field(min_length=1)
    train_nodes: Count = 1  # machines that train one model together; preference.processes counts those on all of them
    training: Training = Training()
    sft: Sft = Sft()
    preference: Preference = Preference()
    objectives: Objectives = Objectives()
    entropy: Entropy = Entropy()
    did: Did = Did()
    expected_reward: ExpectedReward = ExpectedReward()
    answers: Answers = Answers()
    judges: dict[Name, Judge]
    arena_hard: ArenaHard
    wildbench: WildBench
    qa: Qa = Qa()
    synthetic: Synthetic = Synthetic()

    def methods(self, row: Row) -> list[str]:
        """Full method names of a grid row: families are spread over ``betas``."""
        return [
            name
            for method in row.methods
            for name in (
                [METHODS[method].at(beta) for beta in self.betas]
                if method in METHODS and METHODS[method].beta
                else [method]
            )
        ]

    def spans(self) -> list[str]:
        """Epoch ranges such as "1-5": each is one job; a further epoch adds a further range."""
        step = self.preference.epochs_per_job
        return [f"{first}-{min(first + step - 1, self.epochs)}" for first in range(1, self.epochs + 1, step)]
