"""The configuration: every key, its type, its default and its limits; ``diffinfo.config.reading`` reads files of it.

The defaults are the paper's (those of ``World`` apart). config.yaml, the micro world, states every value of its own, and a
preset that says ``base: defaults`` takes none of them.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from diffinfo.config.benchmarks import Answers, ArenaHard, Judge, Qa, WildBench
from diffinfo.config.estimates import Did, Entropy, ExpectedReward, Smc, Update
from diffinfo.config.samples import Candidates, Magpie, Sampling
from diffinfo.config.values import (
    Attention,
    Count,
    Dtype,
    Line,
    Name,
    Positive,
    Revision,
    Section,
    Share,
    Variable,
    matches,
)
from diffinfo.measures import MEASURES
from diffinfo.methods import METHODS

RESULTS = "results"  # folder of all runs
TEMPLATE_DATE = date(2024, 7, 26)  # what Llama 3's templates fall back to where they cannot ask for today's date


class RunName(Section):
    """Keeps the results of this configuration apart from those of others."""

    name: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9.-]*)?$", max_length=64)] = Field(
        "", description="Results go to `results/runs/<name>/`; empty: to `results/`."
    )
    shared: Literal["all", "none"] = Field(
        "all",
        description="all: base models, the micro world's benchmarks and, where `synthetic` is that of config.yaml, the"
        " laboratory's experiments are those of `results/` (refused where this configuration would make one otherwise);"
        " none: this run makes its own.",
    )


class World(Section):
    """The micro world: a small language, its models and its benchmarks, all made from one seed."""

    seed: int = Field(42, description="Everything in the micro world follows from it.")
    corpus: Count = Field(40_000, description="Texts that the base models are pre-trained on.")
    pairs: Count = Field(1024, description="Preference pairs, or prompts to sample from, per dataset.")
    test_prompts: Count = Field(1000, description="Held-out prompts per dataset.")
    sharpness: Positive = Field(
        1.0,
        description="Nats per unit of reward: of two responses, y1 is chosen with probability σ(sharpness (R(y1) − R(y2))).",
    )
    hidden: Annotated[int, Field(ge=16, multiple_of=16)] = Field(96, description="Width of the models.")
    layers: Count = Field(2, description="Decoder layers of the models.")
    base_steps: Count = Field(400, description="Pre-training steps of each base model.")
    teacher_steps: Count = Field(700, description="Training steps of the teacher, from which responses are sampled.")
    reward_steps: Count = Field(300, description="Training steps of the reward model.")
    arena_prompts: Count = Field(100, description="Questions in the style of Arena-Hard.")
    wildbench_tasks: Count = Field(64, description="Tasks in the style of WildBench.")
    qa_items: Count = Field(50, description="Items per QA benchmark.")


class Model(Section):
    """A Hugging Face folder to start from."""

    source: Line = Field(description="`world`, a hub id such as mistralai/Mistral-7B-v0.3, or a local folder.")
    revision: Revision | None = Field(None, description="Branch, tag or commit of a hub id; null: the hub's main.")
    architecture: Literal["mistral", "gemma2", "reward"] | None = Field(
        None, description="What the micro world builds; given exactly where source is `world`."
    )
    chat_template: Line | None = Field(
        None, description="Hub id or folder whose chat template and stop tokens are used; null: the model's own."
    )
    chat_template_revision: Revision | None = Field(None, description="Branch, tag or commit of chat_template.")
    chat_template_kwargs: dict[Variable, bool | int | float | str | None] = Field(
        {}, description="Variables of the template, such as {enable_thinking: false}."
    )
    chat_template_date: date = Field(TEMPLATE_DATE, description="Date given to a template that asks for today's.")
    attention: Attention = Field(
        "sdpa",
        description="Attention kernel. Gemma-2's soft-capping needs eager or flash_attention_2. Where sequences pass packed "
        "together (training, log-probabilities), eager and sdpa are FlexAttention on a GPU.",
    )
    dtype: Dtype = Field(
        "bfloat16", description="Precision of computation; that of the trained weights is training.master_weights."
    )
    billions: Positive = Field(description="Parameters in units of 1e9, for resources and the plan.")
    gpu: Line = Field("h100", description="GPU type: (part of) a row's name in assumptions.yaml; the profile's wins.")


_PARTS = "prompt, system, chosen, rejected, chosen_score, rejected_score, responses, scores, preferred, id"
Part = Annotated[str, matches(_PARTS.replace(", ", "|"), f"one of {_PARTS}")]


class Dataset(Section):
    """Where prompts or pairs come from: a source, or ``of`` another dataset, whose prompts and pi_ref it shares."""

    format: Literal["magpie", "ultrafeedback", "preference", "prompts"] | None = Field(
        None,
        description="Schema of ready pairs; `preference`: TRL's conventions and those of public sets (docs/formats.md);"
        " `prompts`: responses are sampled and scored here. Required, unless `of` is given.",
    )
    source: Line | None = Field(
        None,
        description="`world`, `magpie` (prompts that `sampling.model` writes), a hub id or hf:// address, or a local .parquet,"
        " .json, .jsonl, .csv or .arrow file, a folder of such files or a pattern such as data/*.jsonl. Required, unless `of`"
        " is given.",
    )
    revision: Revision | None = Field(None, description="Branch, tag or commit of a hub id; null: the hub's main.")
    subset: Line | None = Field(None, description="Subset (configuration) of a hub dataset; null: its default.")
    columns: dict[Part, Line | list[Line]] = Field(
        {},
        description="Columns by what they hold, where their names are others than docs/formats.md says; only where format is"
        " `preference`. `a.b` is b of each item of the list a; `-a`: less is better.",
    )
    repeats: Literal["first", "all", "widest"] = Field(
        "first",
        description="Of several pairs of one prompt: the first is kept, all are, or the one whose scores differ most.",
    )
    split: Line = Field("train", description="Split that holds the training rows.")
    test_split: Line | None = Field(
        None, description="Split that holds the held-out prompts; null: they are taken from the end of `split`."
    )
    test_prompts: Count = Field(1000, description="Held-out prompts; they never enter training.")
    limit: Count | None = Field(None, description="Read at most this many rows; null: all.")
    disjoint_from: list[str] = Field(
        [],
        description="Datasets whose prompts are dropped here, whatever their case and white space.",
    )
    reward: Literal["multifaceted", "correctness"] = Field(
        "multifaceted", description="What the micro world ranks responses by; only where source is `world`."
    )
    of: str | None = Field(
        None,
        description="A key of `datasets`: this one's pairs are made from that one, as `labels` or `rejected` says. Prompts, SFT"
        " model and samples of pi_ref are that one's.",
    )
    labels: Literal["permuted"] | None = Field(
        None, description="permuted: a placebo, the pairs of `of` with each one's labels swapped with probability 1/2."
    )
    labels_seed: int = Field(1, description="Which labels are swapped; a further draw is a further dataset.")
    rejected: Literal["ideal", "worst", "reference"] | None = Field(
        None,
        description="y_w is a sample of pi_ref on a prompt of `of`, and y_l another: ideal: drawn by Equation 1's weights;"
        " worst: the one with the least reward; reference: any.",
    )
    model: str | None = Field(
        None, description="The model whose pi_ref is sampled, a key of `models`; given with `rejected`."
    )


class Engine(Section):
    """What generates text."""

    name: Literal["transformers", "vllm"] = Field(
        "transformers", description="transformers runs anywhere; the paper's preset says vllm, which needs a GPU."
    )
    batch_tokens: Count = Field(
        32_768,
        description="Prompt and completion tokens held at once (transformers); changes results by rounding alone.",
    )
    tensor_parallel: Count = Field(1, description="GPUs that sample from one model (vllm).")

    @property
    def environment(self) -> str:
        """The file of envs/ that holds it: its own, unless it is part of every stage's."""
        return "base" if self.name == "transformers" else self.name


class Sft(Section):
    """Supervised fine-tuning on the chosen responses (J.2)."""

    epochs: Count = Field(1, description="Epochs of fine-tuning.")
    batch_size: Count = Field(256, description="Sequences per optimiser step, over all processes.")
    learning_rate: Positive = Field(5e-6, description="Adam's learning rate, constant after the warm-up.")
    warmup_ratio: Share = Field(0.1, description="Fraction of the steps with a linear warm-up.")
    seed: int = Field(0, description="Seed of the order of the rows.")


class Preference(Section):
    """Preference optimisation (J.2)."""

    epochs_per_job: Count = Field(
        5, description="Epochs that one job trains, answers and judges; epochs trained before keep their jobs."
    )
    batch_size: Count = Field(64, description="Pairs per optimiser step, over all processes.")
    learning_rate: Positive = Field(1e-6, description="RMSprop's learning rate, constant after the warm-up.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(150, description="Steps with a linear warm-up.")
    max_grad_norm: Positive = Field(1.0, description="Gradients are clipped to this norm; DPO-PG's after projection.")
    max_prompt_tokens: Count = Field(2048, description="Longest prompt, tokens.")
    max_tokens: Count = Field(4096, description="Longest prompt and response together, tokens.")
    seed: int = Field(1, description="Seed of the order of the pairs.")
    held_out: Annotated[int, Field(ge=0)] = Field(
        250, description="Pairs of held-out prompts, never trained on, that every epoch scores (ours); 0: none."
    )
    processes: Count = Field(1, description="GPUs (or CPU processes) that train one model; the paper used 8.")
    reference_jobs: Count = Field(
        1,
        description="Jobs that share the scoring of a dataset's pairs under pi_ref, in parts of 10,000; changes no result"
        " and reruns nothing.",
    )


_HYPER: dict[str, Any] = {
    key: (float, limits) for method in METHODS.values() for key, limits in method.options().items()
}


class Objectives(create_model("_Declared", __base__=Section, **_HYPER)):  # type: ignore[misc] # keys of diffinfo.methods
    """Hyper-parameters beside beta, which is part of a method's name."""


class Training(Section):
    """How models are trained and scored, whatever the objective."""

    micro_batch_tokens: Count = Field(
        16_384, description="Tokens of one forward and backward pass; the effective batch does not depend on it."
    )
    master_weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of the trained weights; bfloat16 halves memory and loses small updates."
    )
    activation_checkpointing: Literal["none", "layers"] = Field(
        "none", description="layers: recompute the layers' activations in the backward pass."
    )
    compile: Literal["none", "layers"] = Field(
        "none",
        description="layers: torch.compile each decoder layer; in bfloat16 it rounds otherwise than log π_ref's pass.",
    )
    save_minutes: Count = Field(10, description="Minutes between two saved states, from which a killed job resumes.")
    report_to: Literal["tensorboard", "wandb"] = Field(
        "tensorboard",
        description="Where curves go: `results/tensorboard`; wandb: to Weights & Biases too (`pip install wandb`,"
        " `wandb login`). Changes no result and reruns nothing.",
    )


class Row(Section):
    """Some methods on one model and dataset: each is trained, and all of ``measures`` are taken of each."""

    model: str = Field(description="A key of `models`.")
    dataset: str = Field(description="A key of `datasets`.")
    methods: list[str] = Field(
        min_length=1, description="`dpo`: with every beta of `betas`; `dpo-b0.3`: with that one."
    )
    measures: list[Literal[tuple(MEASURES)]] = Field(  # type: ignore[valid-type] # of diffinfo.measures
        [],
        description="What is measured of each method; without any, its training log alone. `target` is measured where `source`"
        " is `world`.",
    )


class Synthetic(Section):
    """The laboratory: categorical policies (Figures 1 and 7, J.1), theorems, and enumerable language models."""

    steps: Count = Field(
        16_000, description="Batches of 512 pairs; below some 3,000 DPO does not lead yet at tau = 0.25."
    )
    seeds: list[int] = Field([42, 43, 44, 45, 46], min_length=1, description="One run each; bands need at least two.")
    taus: list[Positive] = Field(
        [0.25, 0.5, 2.0, 4.0], min_length=1, description="Targets: theta* = theta_ref / tau, so above 1 is smoother."
    )
    record_every: Count = Field(40, description="Steps between two points of a curve.")
    theorem_seed: int = Field(42, description="Seed of the checks of the theorems.")
    world_seeds: list[int] = Field([42, 43, 44, 45, 46], min_length=1, description="One enumerable model each.")
    proxy_steps: list[Count] = Field([16, 64, 256], min_length=1, description="Training steps of the DID proxy.")
    proxy_learning_rate: Positive = Field(1e-3, description="Learning rate of the DID proxy.")
    rejected_pairs: list[Count] = Field(
        [1280, 12_800, 51_200], min_length=1, description="Pairs per choice of rejected responses; multiples of 128."
    )
    rejected_learning_rate: Positive = Field(1.5e-3, description="Learning rate of the training on these pairs.")


class Config(Section):
    """The whole configuration."""

    base: Literal["defaults"] | None = Field(None, description="`defaults`: the file takes nothing from config.yaml.")
    run: RunName = RunName()
    world: World = World()
    models: dict[Name, Model] = Field(description="Models to start from, by name.")
    datasets: dict[Name, Dataset] = Field(description="Datasets, by name.")
    reward_model: str = Field(description="The model that scores completions, a key of `models`.")
    sampling: Sampling
    magpie: Magpie = Magpie()
    candidates: Candidates = Candidates()
    engine: Engine = Engine()
    betas: list[Positive] = Field(min_length=1, description="Each method that has a beta is trained with each of them.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [],
        description="Each trained cell is trained with each seed, in place of `preference.seed`, whose cells have no suffix;"
        " others are named `<method>-seed2`. Empty: `preference.seed` alone. Sampling and DID proxies keep their own seeds.",
    )
    epochs: Count = Field(5, description="Epochs of preference optimisation.")
    grid: list[Row] = Field(min_length=1, description="The cells that are trained and measured.")
    train_nodes: Count = Field(1, description="Machines that train one model (SLURM) and share preference.processes.")
    training: Training = Training()
    sft: Sft = Sft()
    preference: Preference = Preference()
    objectives: Objectives = Objectives()
    entropy: Entropy = Entropy()
    did: Did = Did()
    smc: Smc = Smc()
    update: Update = Update()
    expected_reward: ExpectedReward = ExpectedReward()
    answers: Answers = Answers()
    judges: dict[Name, Judge] = Field(description="Judges, by name.")
    arena_hard: ArenaHard
    wildbench: WildBench
    qa: Qa = Qa()
    synthetic: Synthetic = Synthetic()

    @property
    def results(self) -> str:
        """The folder of this run's results."""
        return f"{RESULTS}/runs/{self.run.name}" if self.run.name else RESULTS

    @property
    def shared(self) -> str:
        """The folder of what does not depend on datasets and training, where all runs find it."""
        return RESULTS if self.run.shared == "all" else self.results

    def origin(self, dataset: str) -> str:
        """The dataset whose prompts, held-out pairs and pi_ref a derived one shares; the others' own name."""
        return self.datasets[dataset].of or dataset

    @property
    def placebos(self) -> dict[str, list[str]]:
        """The datasets with permuted labels of each dataset that has any."""
        found: dict[str, list[str]] = {}
        for name, dataset in self.datasets.items():
            if dataset.labels == "permuted":
                found.setdefault(self.origin(name), []).append(name)
        return found

    def methods(self, row: Row) -> list[str]:
        """Full names of a grid row's cells: methods are spread over ``betas``, then over ``seeds``."""
        betas = [
            name
            for method in row.methods
            for name in (
                [METHODS[method].at(beta) for beta in self.betas]
                if method in METHODS and METHODS[method].beta
                else [method]
            )
        ]
        ends = ["" if seed == self.preference.seed else f"-seed{seed}" for seed in self.seeds] or [""]
        return [name + end for name in betas for end in ([""] if "-seed" in name else ends)]

    def spans(self, trained: Collection[str] = ()) -> list[str]:
        """Epoch ranges such as "1-5", each of one job.

        Args:
            trained: ranges of a cell that were trained before, with whatever ``epochs_per_job``: they stay as they are. One
                that goes beyond ``epochs`` has them all, so that its part is one range.
        """
        there = [(int(first), int(last)) for first, last in (span.split("-") for span in trained)]
        found: list[str] = []
        first = 1
        while first <= self.epochs:
            lasts = [last for start, last in there if start == first <= last]
            within = [last for last in lasts if last <= self.epochs]
            new = self.epochs if lasts else min(first + self.preference.epochs_per_job - 1, self.epochs)
            found.append(f"{first}-{max(within, default=new)}")
            first = max(within, default=new) + 1
        return found
