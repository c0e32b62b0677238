# Prompts and preference pairs.
# Needs: a source file or hub id, the teacher and the reward model. Gives: results/data/<dataset>/*.parquet.
from diffinfo.config import local

ORIGINS = [name for name, dataset in CONFIG.datasets.items() if not dataset.of]
PERMUTED = [name for name, dataset in CONFIG.datasets.items() if dataset.labels]
SAMPLED = [name for name, dataset in CONFIG.datasets.items() if dataset.format == "prompts"]


def dataset_spec(wildcards):
    """A dataset's name and entry; the micro world has no more held-out prompts than ``world`` says."""
    spec = CONFIG.datasets[wildcards.dataset]
    if spec.source == "world":
        spec = spec.model_copy(update={"test_prompts": min(spec.test_prompts, CONFIG.world.test_prompts)})
    return arguments(dataset=wildcards.dataset, spec=spec)


def world_dataset_spec(wildcards):
    """The same for the micro world, with what of it the dataset is made from."""
    made_from = world_part("seed", "pairs", "test_prompts", "sharpness")(wildcards)
    return arguments(name=wildcards.dataset, spec=CONFIG.datasets[wildcards.dataset]) + made_from


def dataset_source(wildcards):
    """The local files a dataset is read from; none where it is on the hub."""
    source = CONFIG.datasets[wildcards.dataset].source
    return f"<results>/world/data/{wildcards.dataset}.jsonl" if source == "world" else local.files(source)


def dataset_location(wildcards):
    """File, folder or hub id, and tables of prompts that must not be shared, as arguments."""
    dataset = CONFIG.datasets[wildcards.dataset]
    source = f"{CONFIG.results}/world/data/{wildcards.dataset}.jsonl" if dataset.source == "world" else dataset.source
    return arguments(source=source, disjoint_from=disjoint_tables(wildcards) or None)


def disjoint_tables(wildcards):
    """Prompts that a dataset must not share."""
    others = CONFIG.datasets[wildcards.dataset].disjoint_from
    tables = expand("{other}/{table}.parquet", other=others, table=["prompts", "test_prompts"])
    return [f"{CONFIG.results}/data/{table}" for table in tables]


def labels_seed(wildcards):
    """Which labels are swapped."""
    return arguments(seed=CONFIG.datasets[wildcards.dataset].labels_seed)


rule world_dataset:
    """Write a dataset of the micro world in its public schema."""
    output:
        "<results>/world/data/{dataset}.jsonl",
    log:
        "<results>/logs/world/data/{dataset}.log",
    benchmark:
        "<results>/benchmarks/world/data/{dataset}.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        spec=world_dataset_spec,
    shell:
        "python -m diffinfo.world.build dataset {params.spec:q} --out {output:q} 2> {log:q}"


rule world_benchmarks:
    """Write the micro world's Arena-Hard, WildBench and QA files in their public formats."""
    output:
        directory("<shared>/world/bench"),
    log:
        "<shared>/logs/world/bench.log",
    benchmark:
        "<shared>/benchmarks/world/bench.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        world=world_part("seed", "arena_prompts", "wildbench_tasks", "qa_items"),
    shell:
        "python -m diffinfo.world.build benchmarks {params.world:q} --out {output:q} 2> {log:q}"


rule ingest_pairs:
    """Read ready pairs, quarantine bad rows and hold out the test prompts."""
    input:
        source=dataset_source,
        disjoint=disjoint_tables,
    output:
        prompts="<results>/data/{dataset}/prompts.parquet",
        test="<results>/data/{dataset}/test_prompts.parquet",
        preferences="<results>/data/{dataset}/preferences.parquet",
        heldout="<results>/data/{dataset}/heldout.parquet",
        quarantine="<results>/data/{dataset}/quarantine.parquet",
    log:
        "<results>/logs/data/{dataset}/ingest.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/ingest.tsv"
    wildcard_constraints:
        dataset=one_of(set(ORIGINS) - set(SAMPLED)),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        spec=dataset_spec,
        source=dataset_location,
    shell:
        "python -m diffinfo.data.ingest {params.spec:q} {params.source:q}"
        " --prompts {output.prompts:q} --test_prompts {output.test:q}"
        " --preferences {output.preferences:q} --heldout {output.heldout:q} --quarantine {output.quarantine:q} 2> {log:q}"


rule ingest_prompts:
    """Read prompts, drop those another dataset holds and hold out the test prompts."""
    input:
        source=dataset_source,
        disjoint=disjoint_tables,
    output:
        prompts="<results>/data/{dataset}/prompts.parquet",
        test="<results>/data/{dataset}/test_prompts.parquet",
        quarantine="<results>/data/{dataset}/quarantine.parquet",
    log:
        "<results>/logs/data/{dataset}/ingest.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/ingest.tsv"
    wildcard_constraints:
        dataset=one_of(SAMPLED),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        spec=dataset_spec,
        source=dataset_location,
    shell:
        "python -m diffinfo.data.ingest {params.spec:q} {params.source:q}"
        " --prompts {output.prompts:q} --test_prompts {output.test:q}"
        " --quarantine {output.quarantine:q} 2> {log:q}"


rule permuted_labels:
    """Swap the labels of each pair with probability 1/2: a placebo."""
    input:
        of_origin("<results>/data/{dataset}/preferences.parquet"),
    output:
        "<results>/data/{dataset}/preferences.parquet",
    log:
        "<results>/logs/data/{dataset}/permuted.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/permuted.tsv"
    wildcard_constraints:
        dataset=one_of(PERMUTED),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        seed=labels_seed,
    shell:
        "python -m diffinfo.data.permuted --pairs {input:q} {params.seed:q} --out {output:q} 2> {log:q}"
