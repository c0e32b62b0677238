# Model folders to start from.
# Needs: the configuration. Gives: results/base/<model>.

WORLD_MODELS = [name for name, model in CONFIG.models.items() if model.source == "world"]
WORLD_KEYS = ("seed", "hidden", "layers")


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
    return spec(wildcards).architecture + teacher


def base_spec(wildcards):
    """A model's entry as JSON, without what only later stages read."""
    keys = {"source", "revision", "chat_template", "chat_template_revision"}
    return spec(wildcards).model_dump_json(include=keys)


def backbone(wildcards):
    """The language model that the reward model begins from."""
    return f"results/base/{CONFIG.sampling.model}" if spec(wildcards).architecture == "reward" else []


def backbone_argument(wildcards, input):
    """The same as an argument."""
    return f"--backbone {input.backbone}" if input.backbone else ""


rule world_model:
    """Train one of the micro world's models from random weights."""
    input:
        backbone=backbone,
    output:
        directory("results/base/{model}"),
    log:
        "results/logs/base/{model}.log",
    benchmark:
        "results/benchmarks/base/{model}.tsv"
    wildcard_constraints:
        model=one_of(WORLD_MODELS),
    priority: 100
    conda:
        "../../envs/base.yaml"
    resources:
        mem_mb=2500,
        runtime=30,
    params:
        kind=world_architecture,
        world=world_model_part,
        backbone=backbone_argument,
    shell:
        "python -m diffinfo.world.models --architecture {params.kind} {params.backbone} --world {params.world:q} --out {output} 2> {log}"


rule base_model:
    """Fetch a model from the hub or a local folder and give it its chat template."""
    output:
        directory("results/base/{model}"),
    log:
        "results/logs/base/{model}.log",
    benchmark:
        "results/benchmarks/base/{model}.tsv"
    wildcard_constraints:
        model=one_of(set(CONFIG.models) - set(WORLD_MODELS)),
    conda:
        "../../envs/base.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        spec=base_spec,
    shell:
        "python -m diffinfo.base --spec {params.spec:q} --out {output} 2> {log}"
