# The checked configuration, the vocabulary of wildcards, and the helpers of more than one rule file.
import re

from diffinfo import config as checked

try:
    CONFIG = checked.parse(config, workflow.configfiles)
except checked.ConfigError as error:
    raise WorkflowError(str(error)) from None


def one_of(names):
    """A wildcard constraint that matches these names alone."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    model=one_of(CONFIG.models),
    dataset=one_of(CONFIG.datasets),
    method=r"[a-z-]+-b\d+(\.\d+)?|dpo-pg|ref",
    span=r"\d+-\d+",
    epoch=r"\d+",


def cells(measure=None):
    """(model, dataset, method) of every grid cell whose row asks for ``measure``."""
    return [
        (row.model, row.dataset, method)
        for row in CONFIG.grid
        if measure is None or measure in row.measures
        for method in CONFIG.methods(row)
    ]


def spans():
    """Epoch ranges such as "1-5", one job each."""
    return CONFIG.spans()


def span_of(epoch):
    """The span that trains ``epoch``."""
    for span in spans():
        first, last = map(int, span.split("-"))
        if first <= int(epoch) <= last:
            return span
    raise WorkflowError(f"epoch {epoch} lies beyond epochs = {CONFIG.epochs}; raise that key.")


def as_list(paths):
    """Paths as one command-line argument."""
    return "[" + ",".join(map(str, paths)) + "]"


def part(name):
    """A part of the configuration as JSON: a job is passed only what it uses."""
    return getattr(CONFIG, name).model_dump_json()


def spec(model):
    """The configuration of a model, by wildcards or name."""
    return CONFIG.models[getattr(model, "model", model)]


def attention(wildcards):
    """Attention kernel of the model at hand."""
    return spec(wildcards).attention


def dtype(wildcards):
    """Precision of the model at hand."""
    return spec(wildcards).dtype


def epoch_argument(wildcards):
    """Epochs of a span as an argument; nothing for the reference, which has none."""
    first, last = map(int, wildcards.span.split("-"))
    return "" if wildcards.method == "ref" else f"--epochs {as_list(range(first, last + 1))}"


def policy(wildcards):
    """Folder of the models of a span: the SFT model for "ref"."""
    if wildcards.method == "ref":
        return "results/sft/{model}/{dataset}/model"
    return f"results/train/{{model}}/{{dataset}}/{{method}}/{wildcards.span}/models"


def policy_at(wildcards):
    """Folder that holds the policy of one epoch."""
    if wildcards.method == "ref":
        return "results/sft/{model}/{dataset}/model"
    return f"results/train/{{model}}/{{dataset}}/{{method}}/{span_of(wildcards.epoch)}/models"


def epoch_folder(wildcards, input):
    """The model folder itself of one epoch."""
    return input.models if wildcards.method == "ref" else f"{input.models}/epoch-{wildcards.epoch}"


def tokens(key):
    """Longest prompt and completion that generation allows."""
    return getattr(CONFIG, key).max_tokens


PARTS = "--progress_dir results/.progress/parts"  # of tables; a job that follows a killed one makes the missing ones
ENGINE_ENV = f"../../envs/{'vllm' if CONFIG.engine.name == 'vllm' else 'base'}.yaml"


def engine_arguments(model):
    """What every sampling job is told about its engine."""
    return (
        f"--engine '{part('engine')}' --attention {spec(model).attention} --dtype {spec(model).dtype}"
        f" --max_prompt_tokens {CONFIG.preference.max_prompt_tokens}"
    )


def launcher(wildcards):
    """How a training stage is started: plain Python, or processes under accelerate, on one machine or on several."""
    count, machines = CONFIG.preference.processes, CONFIG.train_nodes
    if count == 1:
        return "python -m"
    # On a CPU --multi_gpu means torchrun over gloo; accelerate's own CPU launcher wants MPI.
    group = f"--multi_gpu --num_processes {count} --num_machines {machines} --mixed_precision no --dynamo_backend no"
    if machines == 1:
        return f"accelerate launch {group} --main_process_port 0 -m"
    meeting = (
        "--machine_rank $SLURM_NODEID --main_process_ip $SLURM_LAUNCH_NODE_IPADDR"
        " --main_process_port $((20000 + SLURM_JOB_ID % 20000)) --rdzv_backend static"
    )
    cpus = COSTS.job("sft", wildcards).cpus
    step = f"srun --nodes {machines} --ntasks {machines} --ntasks-per-node 1 --cpus-per-task {cpus}"
    return f"{step} bash -c 'exec accelerate launch {group} {meeting} -m \"$@\"' launcher"


def scorer_arguments():
    """What every scoring job is told about the reward model."""
    model = spec(CONFIG.reward_model)
    return f"--attention {model.attention} --dtype {model.dtype} --batch_tokens {CONFIG.training.micro_batch_tokens}"


def training_common(wildcards):
    """What every training job is told about the model at hand."""
    model = spec(wildcards)
    settings = CONFIG.training.model_dump_json(exclude={"save_minutes"})
    return f"--training '{settings}' --attention {model.attention} --dtype {model.dtype}"
