# What jobs are told: the arguments of each stage, by wildcards. A job is passed only what it uses.


# models.smk ----------------------------------------------------------------------------------------------


def world_part(*keys):
    """Some keys of ``world`` as JSON, so that the others may change without a rerun."""
    return CONFIG.world.model_dump_json(include=set(keys))


def world_model_part(wildcards):
    """What a world model is made from."""
    if spec(wildcards).architecture == "reward":
        return world_part(*WORLD_KEYS, "reward_steps")
    steps = "teacher_steps" if wildcards.model == CONFIG.sampling.model else "base_steps"
    return world_part(*WORLD_KEYS, "corpus", steps)


def world_architecture(wildcards):
    """Architecture of a world model, and whether it is the teacher."""
    teacher = " --teacher true" if wildcards.model == CONFIG.sampling.model else ""
    return f"{spec(wildcards).architecture}{teacher}"


def base_spec(wildcards):
    """A model's entry as JSON, without what only later stages read."""
    keys = {"source", "revision"} | {
        key for key in type(spec(wildcards)).model_fields if key.startswith("chat_template")
    }
    return spec(wildcards).model_dump_json(include=keys)


def is_policy(wildcards):
    """Whether a model is trained and scored, as JSON."""
    return "true" if wildcards.model in {row.model for row in CONFIG.grid} else "false"


def backbone(wildcards):
    """The language model that the reward model begins from."""
    return f"results/base/{CONFIG.sampling.model}" if spec(wildcards).architecture == "reward" else []


def backbone_argument(wildcards, input):
    """The same as an argument."""
    return f"--backbone {input.backbone}" if input.backbone else ""


# data.smk ------------------------------------------------------------------------------------------------


def dataset_spec(wildcards):
    """A dataset's entry as JSON."""
    return CONFIG.datasets[wildcards.dataset].model_dump_json()


def dataset_source(wildcards):
    """The file a dataset is read from, where it is one."""
    source = CONFIG.datasets[wildcards.dataset].source
    if source == "world":
        return "results/world/data/{dataset}.jsonl"
    return source if source.endswith((".parquet", ".json", ".jsonl")) else []


def dataset_location(wildcards, input):
    """File or hub id."""
    return input.source or CONFIG.datasets[wildcards.dataset].source


def disjoint_tables(wildcards):
    """Prompts that a dataset must not share."""
    others = CONFIG.datasets[wildcards.dataset].disjoint_from
    return expand("results/data/{other}/{table}.parquet", other=others, table=["prompts", "test_prompts"])


def disjoint_argument(wildcards, input):
    """The same as an argument."""
    return f"--disjoint_from {as_list(input.disjoint)}" if input.disjoint else ""


# train.smk -----------------------------------------------------------------------------------------------


def earlier_span(wildcards):
    """The span that a later one goes on from."""
    first = int(wildcards.span.split("-")[0])
    if first == 1:
        return []
    return f"results/train/{{model}}/{{dataset}}/{{method}}/{span_of(first - 1)}/models"


def training_arguments(wildcards, input):
    """Epochs of the span and where to go on from."""
    first, last = wildcards.span.split("-")
    resume = f" --resume {input.earlier}" if input.earlier else ""
    return f"--first_epoch {first} --last_epoch {last}{resume}"


def preference_settings():
    """The ``preference`` part without what only decides how epochs are spread over jobs."""
    return CONFIG.preference.model_dump_json(exclude={"epochs_per_job"})


def objective_settings(wildcards):
    """Hyper-parameters of this method alone: another method's may change without a rerun."""
    prefix = wildcards.method.split("-b")[0].replace("-", "_") + "_"
    keys = {key for key in type(CONFIG.objectives).model_fields if key.startswith(prefix)}
    return CONFIG.objectives.model_dump_json(include=keys)


# entropy.smk ---------------------------------------------------------------------------------------------


def entropy_decoding():
    """Samples at temperature 1, whose log-probabilities make an entropy."""
    e = CONFIG.entropy
    return f"--n {e.samples} --temperature 1.0 --max_tokens {e.max_tokens} --seed {e.seed} --limit {e.prompts}"


# did.smk -------------------------------------------------------------------------------------------------


def proxy_settings():
    """The proxy's training as a ``preference`` part: one epoch of r = log pi."""
    did = CONFIG.did
    settings = {"batch_size": did.batch_size, "learning_rate": did.learning_rate, "warmup_steps": did.warmup_steps}
    return CONFIG.preference.model_copy(update=settings).model_dump_json(exclude={"epochs_per_job"})


def proxy_sampling():
    """How the proxy is sampled, and on which prompts: those behind the ones it was trained on."""
    skipped = f"--skip {CONFIG.did.prompts} --budget {CONFIG.training.micro_batch_tokens}"
    return f"--settings '{part('entropy')}' {skipped}"


def did_decoding(wildcards):
    """How the proxy's pairs are decoded; pi_ref's draws are not pi's, for y_w and y_l are independent in the theory."""
    temperature = 0.0 if CONFIG.did.decode == "greedy" else 1.0
    stream = " --stream reference" if temperature and wildcards.method == "ref" else ""
    e = CONFIG.entropy
    return (
        f"--temperature {temperature} --max_tokens {e.max_tokens} --seed {e.seed} --limit {CONFIG.did.prompts}{stream}"
    )


# questions.smk -------------------------------------------------------------------------------------------


def question_files(*sources):
    """Local benchmark files, the world's folder among them: what a job waits for."""
    return ["results/world/bench" if s == "world" else s for s in sources if not s.startswith("hf://")]


def located(source, name):
    """Where a benchmark source lies."""
    return f"results/world/bench/{name}.jsonl" if source == "world" else source


def limit(part):
    """How many questions are kept, as an argument."""
    return f"--limit {part.limit}" if part.limit else ""


# judge.smk -----------------------------------------------------------------------------------------------


def judge_model(name):
    """The reward model's folder where the judge is one."""
    judge = CONFIG.judges[name]
    return [f"results/base/{judge.model}"] if judge.kind == "reward-model" else []


def judge_arguments(name):
    """A judge as arguments; the endpoint's key stays in the environment."""
    judge = CONFIG.judges[name]
    if judge.kind == "openai":
        return f"--judge '{judge.model_dump_json()}'"
    model = spec(judge.model)
    only = judge.model_dump_json(include={"kind", "model"})
    return (
        f"--judge '{only}' --reward_model results/base/{judge.model} --attention {model.attention}"
        f" --dtype {model.dtype} --batch_tokens {CONFIG.training.micro_batch_tokens}"
    )


def listed_answers(wildcards, input):
    """Answers of all spans as an argument."""
    return as_list(input.answers)


def listed_select(wildcards, input):
    """Win rates of all spans under the cheap judge as an argument."""
    return as_list(input.select)


# evaluate.smk --------------------------------------------------------------------------------------------


def reward_decoding():
    """How held-out prompts are answered for the expected reward."""
    e = CONFIG.expected_reward
    temperature = 1.0 if e.decode == "sample" else 0.0
    return f"--temperature {temperature} --max_tokens {e.max_tokens} --seed {e.seed}"


def qa_tasks(wildcards):
    """The world's own QA tasks; none where lm-eval fetches the public ones."""
    return "results/world/bench" if CONFIG.qa.source == "world" else []


def qa_argument(wildcards, input):
    """The same as an argument."""
    return f"--tasks {input.tasks}/qa" if input.tasks else ""


# synthetic.smk -------------------------------------------------------------------------------------------


def laboratory_targets():
    """Every table and figure of the laboratory."""
    figures = expand("results/figures/{name}.svg", name=["figure1", "figure7", *LAB_FIGURES])
    return figures + expand("results/tables/{name}.md", name=LAB_TABLES)


def lab_arguments(wildcards, input):
    """Every table of the laboratory as an argument by its name."""
    return " ".join(f"--{name} {path}" for name, path in input.items())
