# Prompts and preference pairs.
# Needs: a source file or hub id, the teacher and the reward model. Gives: results/data/<dataset>/*.parquet.
SAMPLED = [name for name, dataset in CONFIG.datasets.items() if dataset.format == "prompts"]


rule world_dataset:
    """Write a dataset of the micro world in its public schema."""
    output:
        "results/world/data/{dataset}.jsonl",
    log:
        "results/logs/world/data/{dataset}.log",
    benchmark:
        "results/benchmarks/world/data/{dataset}.tsv"
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
        directory("results/world/bench"),
    log:
        "results/logs/world/bench.log",
    benchmark:
        "results/benchmarks/world/bench.tsv"
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
        prompts="results/data/{dataset}/prompts.parquet",
        test="results/data/{dataset}/test_prompts.parquet",
        preferences="results/data/{dataset}/preferences.parquet",
        quarantine="results/data/{dataset}/quarantine.parquet",
    log:
        "results/logs/data/{dataset}/ingest.log",
    benchmark:
        "results/benchmarks/data/{dataset}/ingest.tsv"
    wildcard_constraints:
        dataset=one_of(set(CONFIG.datasets) - set(SAMPLED)),
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
        " --preferences {output.preferences:q} --quarantine {output.quarantine:q} 2> {log:q}"


rule ingest_prompts:
    """Read prompts, drop those another dataset holds and hold out the test prompts."""
    input:
        source=dataset_source,
        disjoint=disjoint_tables,
    output:
        prompts="results/data/{dataset}/prompts.parquet",
        test="results/data/{dataset}/test_prompts.parquet",
        quarantine="results/data/{dataset}/quarantine.parquet",
    log:
        "results/logs/data/{dataset}/ingest.log",
    benchmark:
        "results/benchmarks/data/{dataset}/ingest.tsv"
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
