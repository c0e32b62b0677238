# The checked configuration, the vocabulary of wildcards, and the helpers of more than one rule file.
# Every placeholder of a shell command ends in :q, which quotes each item of a list; what comes from the configuration is
# returned by a function, for Snakemake takes braces in plain values for wildcards.
# CONFIG is read from the same files as Snakemake's ``config``, which cannot start anew where a preset says base: defaults.
import json
import re
from functools import cache
from glob import glob

from diffinfo import methods
from diffinfo.config.reading import load
from diffinfo.config.strict_yaml import ConfigError
from diffinfo.config.types import RESULTS
from diffinfo.operations import stream
from diffinfo.operations.targets import unmade

try:
    OVER = workflow.config_settings.configfiles
    REPLACED = workflow.config_settings.replace_workflow_config
    CONFIG = load(
        OWN if OWN in workflow.configfiles and not REPLACED else None,
        *OVER,
        values=dict(workflow.config_settings.config),
    )
except ConfigError as error:
    refuse(error)


def laboratory():
    """Where the laboratory's tables lie: those that all runs share are of the working directory's own settings."""
    if CONFIG.shared == CONFIG.results:
        return CONFIG.results
    try:
        return CONFIG.shared if load(OWN).synthetic == CONFIG.synthetic else CONFIG.results
    except ConfigError:
        return CONFIG.results


# In paths of rules; what is passed as an argument says CONFIG.results and CONFIG.shared.
pathvars:
    results=CONFIG.results,
    shared=CONFIG.shared,
    laboratory=laboratory(),


os.environ.update(
    DIFFINFO_LOCKS=f"{RESULTS}/.progress/locks",  # one folder: runs share outputs
    DIFFINFO_REPORT_TO=CONFIG.training.report_to,
    WANDB_DIR=os.getenv("WANDB_DIR", os.path.abspath(f"{RESULTS}/wandb")),
)


def no_rule_makes(target):
    """A sentence on a target that cannot exist, for Snakemake's stream."""
    outputs = [str(output) for rule in workflow.rules for output in rule.output]
    return unmade(target, outputs, [rule.name for rule in workflow.rules], CONFIG)


if workflow.is_main_process:
    stream.install(logger, workflow.output_settings, no_rule_makes)


def one_of(names):
    """A wildcard constraint that matches these names alone."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    model=one_of(CONFIG.models),
    dataset=one_of(CONFIG.datasets),
    method=f"{methods.PATTERN}|{methods.REFERENCE}",
    span=r"\d+-\d+",
    epoch=r"\d+",
    share=r"\d+-of-\d+",
    did="did|did_sampled",


def cells(measure=None):
    """(model, dataset, method) of every grid cell whose row asks for ``measure``; the target is known of the world's pairs alone."""
    return [
        (row.model, row.dataset, method)
        for row in CONFIG.grid
        if measure is None or measure in row.measures
        if measure != "target" or CONFIG.datasets[CONFIG.origin(row.dataset)].source == "world"
        for method in CONFIG.methods(row)
    ]


def cell_of(wildcards):
    """Model, dataset and method of a cell as its paths have them."""
    return f"{wildcards.model}/{wildcards.dataset}/{wildcards.method}"


@cache
def trained(cell):
    """Spans of a cell that are there; read once, so that a run does not change its mind."""
    logs = glob(f"{CONFIG.results}/train/{cell}/*/train_log.parquet")
    names = [os.path.basename(os.path.dirname(log)) for log in logs]
    return [name for name in names if re.fullmatch(r"\d+-\d+", name)]


def spans(cell):
    """Epoch ranges of a cell such as "1-5", one job each."""
    return CONFIG.spans(trained(cell))


def span_of(cell, epoch):
    """The span that trains ``epoch``."""
    for span in spans(cell):
        first, last = map(int, span.split("-"))
        if first <= int(epoch) <= last:
            return span
    refuse(f"epoch {epoch} is greater than epochs = {CONFIG.epochs}; raise that key.")


def arguments(**values):
    """``--name=value`` each: text as it is, anything else as JSON; None is left out.

    The equals sign keeps a value that begins with a dash from being read as an option.
    """
    return [
        f"--{name}={value if isinstance(value, str) else as_json(value)}"
        for name, value in values.items()
        if value is not None
    ]


def as_json(value):
    """Settings, parts of the configuration, a list of paths or a number as JSON."""
    return json.dumps(value, default=lambda section: section.model_dump(mode="json"), separators=(",", ":"))


def listed(*names):
    """Inputs by name, each a list in an argument of its own."""

    def lists(wildcards, input):
        found = {name: input[name] for name in names}
        return arguments(**{name: [files] if isinstance(files, str) else list(files) for name, files in found.items()})

    return lists


def constant(**values):
    """Arguments that are the same for all wildcards."""

    def same(wildcards):
        return arguments(**values)

    return same


def spec(model):
    """The configuration of a model, by wildcards or name."""
    return CONFIG.models[getattr(model, "model", model)]


def kernel(model):
    """Attention kernel and dtype of a model, given by wildcards or name."""
    return {"attention": spec(model).attention, "dtype": spec(model).dtype}


def computation(model):
    """How a model, given by wildcards or name, computes log-probabilities or scores."""
    return {**kernel(model), "micro_batch_tokens": CONFIG.training.micro_batch_tokens}


def of_origin(path):
    """A path below a dataset's name: of a derived one it is that of the dataset it is made from, with its prompts and pi_ref."""

    def located(wildcards):
        return path.replace("{dataset}", CONFIG.origin(wildcards.dataset))

    return located


PI_REF = of_origin("<results>/sft/{model}/{dataset}/model")


def epoch_argument(wildcards):
    """Epochs of a span as an argument; nothing for the reference, which has none."""
    first, last = map(int, wildcards.span.split("-"))
    return [] if wildcards.method == "ref" else arguments(epochs=list(range(first, last + 1)))


def policy(wildcards):
    """Folder of the models of a span: the SFT model for "ref"."""
    if wildcards.method == "ref":
        return PI_REF(wildcards)
    return f"<results>/train/{{model}}/{{dataset}}/{{method}}/{wildcards.span}/models"


def policy_at(wildcards):
    """Folder that holds the policy of one epoch."""
    if wildcards.method == "ref":
        return PI_REF(wildcards)
    return f"<results>/train/{{model}}/{{dataset}}/{{method}}/{span_of(cell_of(wildcards), wildcards.epoch)}/models"


def epoch_folder(wildcards, input):
    """The model folder itself of one epoch."""
    return input.models if wildcards.method == "ref" else f"{input.models}/epoch-{wildcards.epoch}"


PARTS = f"--progress_dir {CONFIG.results}/.progress/parts"  # of tables; a job that follows a killed one makes the missing ones
ENGINE_ENV = f"../../envs/{CONFIG.engine.environment}.yaml"


def sampling(model, **decoding):
    """Settings of a sampling job of a model, given by wildcards or name."""
    engine = {"engine": CONFIG.engine, "max_prompt_tokens": CONFIG.preference.max_prompt_tokens}
    return arguments(settings={**engine, **kernel(model), **decoding})


def launcher(wildcards):
    """How a training stage is started: plain Python, or processes under accelerate, on one machine or on several."""
    count, machines = CONFIG.preference.processes, CONFIG.train_nodes
    if count == 1:
        return ["python", "-m"]
    # On a CPU --multi_gpu means torchrun over gloo; accelerate's own CPU launcher wants MPI.
    group = f"--multi_gpu --num_processes {count} --num_machines {machines} --mixed_precision no --dynamo_backend no"
    if machines == 1:
        return f"accelerate launch {group} --main_process_port 0 -m".split()
    meeting = (
        "--machine_rank $SLURM_NODEID --main_process_ip $SLURM_LAUNCH_NODE_IPADDR"
        " --main_process_port $((20000 + SLURM_JOB_ID % 20000)) --rdzv_backend static"
    )
    cpus = COSTS.job("sft", wildcards).cpus
    step = f"srun --nodes {machines} --ntasks {machines} --ntasks-per-node 1 --cpus-per-task {cpus} bash -c"
    return [*step.split(), f'exec accelerate launch {group} {meeting} -m "$@"', "launcher"]


def scoring(wildcards):
    """Settings of a scoring job."""
    return arguments(settings=computation(CONFIG.reward_model))


def training(wildcards):
    """Settings that all training jobs share."""
    return {"training": CONFIG.training.model_dump(exclude={"save_minutes", "report_to"}), **kernel(wildcards)}


def preference_part(changes):
    """The ``preference`` part with ``changes``, without what only decides how work is spread over jobs."""
    spread = {"epochs_per_job", "held_out", "reference_jobs"}
    return CONFIG.preference.model_copy(update=changes).model_dump(exclude=spread)
