# What jobs are passed: the arguments of each stage, by wildcards. A job is passed only what it uses.
from diffinfo.config import local

# models.smk ----------------------------------------------------------------------------------------------


def world_part(*keys):
    """Some keys of ``world`` as an argument, so that the others may change without a rerun."""
    return constant(world=CONFIG.world.model_dump_json(include=set(keys)))


def world_model_part(wildcards, input):
    """What a world model is made from; ``teacher`` where it plays the teacher."""
    architecture = spec(wildcards).architecture
    if architecture == "reward":
        made = arguments(architecture=architecture, backbone=input.backbone)
        return made + world_part(*WORLD_KEYS, "reward_steps")(wildcards)
    teacher = wildcards.model == CONFIG.sampling.model
    made = arguments(architecture=architecture, teacher=True if teacher else None)
    return made + world_part(*WORLD_KEYS, "corpus", "teacher_steps" if teacher else "base_steps")(wildcards)


def base_spec(wildcards):
    """A model's entry without what only later stages read."""
    keys = {
        "source",
        "revision",
        *(key for key in type(spec(wildcards)).model_fields if key.startswith("chat_template")),
    }
    policy = wildcards.model in {row.model for row in CONFIG.grid}  # what is trained and scored
    return arguments(spec=spec(wildcards).model_dump_json(include=keys), policy=policy)


def base_files(wildcards):
    """Local files that a model is put together from; none of what the hub has."""
    model = spec(wildcards)
    return local.files(model.source, within=False) + local.files(model.chat_template or "", within=False)


def backbone(wildcards):
    """The language model that the reward model begins from."""
    return f"results/base/{CONFIG.sampling.model}" if spec(wildcards).architecture == "reward" else []


# data.smk ------------------------------------------------------------------------------------------------


def dataset_spec(wildcards):
    """A dataset's name and entry."""
    return arguments(dataset=wildcards.dataset, spec=CONFIG.datasets[wildcards.dataset])


def world_dataset_spec(wildcards):
    """The same for the micro world, with what of it the dataset is made from."""
    made_from = world_part("seed", "pairs", "test_prompts")(wildcards)
    return arguments(name=wildcards.dataset, spec=CONFIG.datasets[wildcards.dataset]) + made_from


def dataset_source(wildcards):
    """The local files a dataset is read from; none where it is on the hub."""
    source = CONFIG.datasets[wildcards.dataset].source
    return f"results/world/data/{wildcards.dataset}.jsonl" if source == "world" else local.files(source)


def dataset_location(wildcards):
    """File, folder or hub id, and tables of prompts that must not be shared, as arguments."""
    dataset = CONFIG.datasets[wildcards.dataset]
    source = f"results/world/data/{wildcards.dataset}.jsonl" if dataset.source == "world" else dataset.source
    return arguments(source=source, disjoint_from=disjoint_tables(wildcards) or None)


def disjoint_tables(wildcards):
    """Prompts that a dataset must not share."""
    others = CONFIG.datasets[wildcards.dataset].disjoint_from
    return expand("results/data/{other}/{table}.parquet", other=others, table=["prompts", "test_prompts"])


# pairs.smk -----------------------------------------------------------------------------------------------


def teacher_engine(wildcards):
    """Engine arguments of a job that samples the teacher."""
    return engine_arguments(CONFIG.sampling.model)


# train.smk -----------------------------------------------------------------------------------------------


def earlier_span(wildcards):
    """The span that a later one resumes from."""
    first = int(wildcards.span.split("-")[0])
    if first == 1:
        return []
    return f"results/train/{{model}}/{{dataset}}/{{method}}/{span_of(first - 1)}/models"


def watched(stage):
    """Where a training job keeps its state, and its curves."""

    def folders(wildcards):
        cell = [wildcards[name] for name in ("model", "dataset", "method") if name in wildcards.keys()]
        return arguments(
            progress_dir="results/.progress/train", events=os.path.join("results/tensorboard", stage, *cell)
        )

    return folders


def sft_settings(wildcards):
    """The ``sft`` part, and the limits that SFT shares with preference optimisation."""
    shared = arguments(max_tokens=CONFIG.preference.max_tokens, processes=CONFIG.preference.processes)
    return arguments(settings=CONFIG.sft) + shared


def training_arguments(wildcards, input):
    """Epochs of the span and where to resume from."""
    first, last = wildcards.span.split("-")
    return arguments(first_epoch=first, last_epoch=last, resume=input.earlier or None)


def preference_settings(wildcards):
    """The ``preference`` part without what only decides how epochs are spread over jobs.

    Of the hyper-parameters this method's alone: another method's may change without a rerun.
    """
    prefix = wildcards.method.split("-b")[0].replace("-", "_") + "_"
    keys = {key for key in type(CONFIG.objectives).model_fields if key.startswith(prefix)}
    return arguments(
        method=wildcards.method,
        settings=CONFIG.preference.model_dump_json(exclude={"epochs_per_job"}),
        objectives=CONFIG.objectives.model_dump_json(include=keys),
    )


# entropy.smk ---------------------------------------------------------------------------------------------


def entropy_decoding(wildcards):
    """Samples at temperature 1, whose log-probabilities make an entropy."""
    e = CONFIG.entropy
    return arguments(n=e.samples, temperature=1.0, max_tokens=e.max_tokens, seed=e.seed, limit=e.prompts)


# did.smk -------------------------------------------------------------------------------------------------


def proxy_settings(wildcards):
    """The proxy's training as a ``preference`` part: one epoch of r = log pi."""
    did = CONFIG.did
    settings = {"batch_size": did.batch_size, "learning_rate": did.learning_rate, "warmup_steps": did.warmup_steps}
    preference = CONFIG.preference.model_copy(update=settings).model_dump_json(exclude={"epochs_per_job"})
    return arguments(method="logpi-b1", settings=preference, objectives={}, first_epoch=1, last_epoch=1)


def proxy_sampling(wildcards):
    """How the proxy is sampled, and on which prompts: those behind the ones it was trained on."""
    return arguments(settings=CONFIG.entropy, skip=CONFIG.did.prompts, budget=CONFIG.training.micro_batch_tokens)


def did_decoding(wildcards):
    """How the proxy's pairs are decoded; pi_ref's draws are not pi's, for y_w and y_l are independent in the theory."""
    temperature = 0.0 if CONFIG.did.decode == "greedy" else 1.0
    stream = "reference" if temperature and wildcards.method == "ref" else None
    e = CONFIG.entropy
    return arguments(
        temperature=temperature, max_tokens=e.max_tokens, seed=e.seed, limit=CONFIG.did.prompts, stream=stream
    )


# questions.smk -------------------------------------------------------------------------------------------


def question_files(*sources):
    """Local benchmark files, the world's folder among them: what a job waits for."""

    def files(wildcards):
        waited = ["results/world/bench"] if "world" in sources else []
        return waited + [file for s in sources if s != "world" and not s.startswith("hf://") for file in local.files(s)]

    return files


def located(source, name):
    """Where a benchmark source is."""
    return f"results/world/bench/{name}.jsonl" if source == "world" else source


# judge.smk -----------------------------------------------------------------------------------------------


def judge_model(name):
    """The reward model's folder where the judge is one."""
    judge = CONFIG.judges[name]
    return [f"results/base/{judge.model}"] if judge.kind == "reward-model" else []


def judge_arguments(name):
    """A judge as arguments; the endpoint's key stays in the environment."""
    judge = CONFIG.judges[name]
    if judge.kind == "openai":
        return constant(judge=judge)
    model = spec(judge.model)
    return constant(
        judge=judge.model_dump_json(include={"kind", "model"}),
        reward_model=f"results/base/{judge.model}",
        attention=model.attention,
        dtype=model.dtype,
        batch_tokens=CONFIG.training.micro_batch_tokens,
    )


# evaluate.smk --------------------------------------------------------------------------------------------


def reward_decoding(wildcards):
    """How held-out prompts are answered for the expected reward."""
    e = CONFIG.expected_reward
    return arguments(temperature=1.0 if e.decode == "sample" else 0.0, max_tokens=e.max_tokens, seed=e.seed)


def qa_tasks(wildcards):
    """The world's own QA tasks; none where lm-eval fetches the public ones."""
    return "results/world/bench" if CONFIG.qa.source == "world" else []


def qa_argument(wildcards, input):
    """The same as an argument."""
    return arguments(tasks=f"{input.tasks}/qa" if input.tasks else None, settings=CONFIG.qa)


# synthetic.smk -------------------------------------------------------------------------------------------


def laboratory_targets():
    """Every table and figure of the laboratory."""
    figures = expand("results/figures/{name}.svg", name=["figure1", "figure7", *LAB_FIGURES])
    return figures + expand("results/tables/{name}.md", name=LAB_TABLES)


def lab_arguments(wildcards, input):
    """Every table of the laboratory as an argument by its name."""
    return arguments(**dict(input.items()))
