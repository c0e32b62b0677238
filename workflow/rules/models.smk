# Model folders to start from.
# Needs: the configuration. Gives: results/base/<model>.
WORLD_MODELS = [name for name, model in CONFIG.models.items() if model.source == "world"]
WORLD_KEYS = ("seed", "hidden", "layers")


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
        **RESOURCES,
    params:
        world=world_model_part,
    shell:
        "python -m diffinfo.world.training {params.world:q} --out {output:q} 2> {log:q}"


rule base_model:
    """Fetch a model from the hub or a local folder and give it its chat template."""
    input:
        base_files,
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
        **RESOURCES,
    params:
        spec=base_spec,
    shell:
        "python -m diffinfo.models.fetch {params.spec:q} --out {output:q} 2> {log:q}"
