# Model folders to start from.
# Needs: the configuration. Gives: results/base/<model>.
from diffinfo.config import local

WORLD_MODELS = [name for name, model in CONFIG.models.items() if model.source == "world"]
WORLD_KEYS = ("seed", "hidden", "layers")


def world_part(*keys):
    """Some keys of ``world`` as an argument, so that the others may change without a rerun."""
    return constant(world=CONFIG.world.model_dump_json(include=set(keys)))


def world_model_kind(wildcards):
    """What a world model is; ``teacher`` where it plays the teacher."""
    teacher = wildcards.model == CONFIG.sampling.model
    kind = spec(wildcards).architecture
    further = kind == "reward" and wildcards.model != CONFIG.reward_model  # a judge of its own opinion
    return arguments(architecture=kind, teacher=True if teacher else None, name=wildcards.model if further else None)


def world_model_part(wildcards):
    """What a world model is made from."""
    if spec(wildcards).architecture == "reward":
        steps = "reward_steps" if wildcards.model == CONFIG.reward_model else "judge_steps"
        return world_part(*WORLD_KEYS, steps)(wildcards)
    steps = "teacher_steps" if wildcards.model == CONFIG.sampling.model else "base_steps"
    return world_part(*WORLD_KEYS, "corpus", steps)(wildcards)


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
    return f"<shared>/base/{CONFIG.sampling.model}" if spec(wildcards).architecture == "reward" else []


def backbone_argument(wildcards, input):
    """The same as an argument. Snakemake does not compare what a function of ``input`` returns: no setting may be in it."""
    return arguments(backbone=input.backbone or None)


rule world_model:
    """Train one of the micro world's models from random weights."""
    input:
        backbone=backbone,
    output:
        directory("<shared>/base/{model}"),
    log:
        "<shared>/logs/base/{model}.log",
    benchmark:
        "<shared>/benchmarks/base/{model}.tsv"
    wildcard_constraints:
        model=one_of(WORLD_MODELS),
    priority: 100
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        kind=world_model_kind,
        backbone=backbone_argument,
        world=world_model_part,
    shell:
        "python -m diffinfo.world.training {params.kind:q} {params.backbone:q} {params.world:q} --out {output:q} 2> {log:q}"


rule base_model:
    """Fetch a model from the hub or a local folder and give it its chat template."""
    input:
        base_files,
    output:
        directory("<shared>/base/{model}"),
    log:
        "<shared>/logs/base/{model}.log",
    benchmark:
        "<shared>/benchmarks/base/{model}.tsv"
    wildcard_constraints:
        model=one_of(set(CONFIG.models) - set(WORLD_MODELS)),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        spec=base_spec,
    shell:
        "python -m diffinfo.models.fetch {params.spec:q} --out {output:q} 2> {log:q}"
