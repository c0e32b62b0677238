# What policies write and know: expected reward (Figure 6), answers to the benchmarks, QA (Figures 3 and 12).
# Needs: results/train, results/sft, results/bench. Gives: results/reward, results/answers, results/qa.


rule reward_completions:
    """Answer the held-out prompts with every epoch of a span."""
    input:
        models=policy,
        prompts="results/data/{dataset}/test_prompts.parquet",
    output:
        "results/reward/{model}/{dataset}/{method}/{span}/completions.parquet",
    log:
        "results/logs/reward/{model}/{dataset}/{method}/{span}.completions.log",
    benchmark:
        "results/benchmarks/reward/{model}/{dataset}/{method}/{span}.completions.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        engine=engine_arguments,
        decoding=reward_decoding(),
    shell:
        "python -m diffinfo.sample.complete --models {input.models} {params.epochs} --prompts [{input.prompts}]"
        f" {{params.engine}} {{params.decoding}} {PARTS} --out {{output}} 2> {{log}}"


rule reward_scores:
    """Score the held-out answers with the reward model."""
    input:
        model=f"results/base/{CONFIG.reward_model}",
        completions="results/reward/{model}/{dataset}/{method}/{span}/completions.parquet",
    output:
        "results/reward/{model}/{dataset}/{method}/{span}/scores.parquet",
    log:
        "results/logs/reward/{model}/{dataset}/{method}/{span}.scores.log",
    benchmark:
        "results/benchmarks/reward/{model}/{dataset}/{method}/{span}.scores.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        scorer=scorer_arguments(),
    shell:
        "python -m diffinfo.reward --model {input.model} --completions {input.completions} {params.scorer}"
        f" {PARTS} --out {{output}} 2> {{log}}"


rule answers:
    """Answer Arena-Hard and WildBench greedily with every epoch of a span."""
    input:
        models=policy,
        prompts=["results/bench/arena-hard.parquet", "results/bench/wildbench.parquet"],
    output:
        "results/answers/{model}/{dataset}/{method}/{span}.parquet",
    log:
        "results/logs/answers/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "results/benchmarks/answers/{model}/{dataset}/{method}/{span}.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        engine=engine_arguments,
        prompts="[results/bench/arena-hard.parquet,results/bench/wildbench.parquet]",
        max_tokens=tokens("answers"),
    shell:
        "python -m diffinfo.sample.complete --models {input.models} {params.epochs} --prompts {params.prompts}"
        f" {{params.engine}} --max_tokens {{params.max_tokens}} {PARTS} --out {{output}} 2> {{log}}"


rule qa:
    """Eight QA benchmarks through lm-evaluation-harness, every epoch of a span."""
    input:
        models=policy,
        tasks=qa_tasks,
    output:
        "results/qa/{model}/{dataset}/{method}/{span}.parquet",
    log:
        "results/logs/qa/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "results/benchmarks/qa/{model}/{dataset}/{method}/{span}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        tasks=qa_argument,
        settings=part("qa"),
        attention=attention,
        dtype=dtype,
    shell:
        "python -m diffinfo.bench.qa --models {input.models} {params.epochs} {params.tasks}"
        " --settings {params.settings:q} --attention {params.attention} --dtype {params.dtype} --out {output} 2> {log}"
