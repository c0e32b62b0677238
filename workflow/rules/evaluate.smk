# What policies write and know: expected reward (Figure 6), answers to the benchmarks, QA (Figures 3 and 12).
# Needs: results/train, results/sft, results/bench. Gives: results/reward, results/answers, results/qa.
from diffinfo.config import local

QA_FILES = sorted({file for path in CONFIG.qa.data.values() for file in local.files(path)})


def reward_sampling(wildcards):
    """How held-out prompts are answered for the expected reward."""
    e = CONFIG.expected_reward
    return sampling(wildcards, temperature=1.0 if e.decode == "sample" else 0.0, max_tokens=e.max_tokens, seed=e.seed)


def answer_sampling(wildcards):
    """How the benchmarks are answered: greedily."""
    return sampling(wildcards, max_tokens=CONFIG.answers.max_tokens)


def qa_tasks(wildcards):
    """The world's own QA tasks; none where lm-eval fetches the public ones."""
    return "<shared>/world/bench" if CONFIG.qa.source == "world" else []


def qa_argument(wildcards, input):
    """The same as an argument, or the files of local copies."""
    return arguments(tasks=f"{input.tasks}/qa" if input.tasks else None, data=list(input.data) or None)


def qa_settings(wildcards):
    """How questions are asked."""
    return arguments(settings={"qa": CONFIG.qa, **kernel(wildcards)})


rule reward_completions:
    """Answer the held-out prompts with every epoch of a span."""
    input:
        models=policy,
        prompts=of_origin("<results>/data/{dataset}/test_prompts.parquet"),
    output:
        "<results>/reward/{model}/{dataset}/{method}/{span}/completions.parquet",
    log:
        "<results>/logs/reward/{model}/{dataset}/{method}/{span}.completions.log",
    benchmark:
        "<results>/benchmarks/reward/{model}/{dataset}/{method}/{span}.completions.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        settings=reward_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {input.models:q} {params.epochs:q} {params.prompts:q}"
        f" {{params.settings:q}} {PARTS} --out {{output:q}} 2> {{log:q}}"


rule reward_scores:
    """Score the held-out answers with the reward model."""
    input:
        model=f"<shared>/base/{CONFIG.reward_model}",
        completions="<results>/reward/{model}/{dataset}/{method}/{span}/completions.parquet",
    output:
        "<results>/reward/{model}/{dataset}/{method}/{span}/scores.parquet",
    log:
        "<results>/logs/reward/{model}/{dataset}/{method}/{span}.scores.log",
    benchmark:
        "<results>/benchmarks/reward/{model}/{dataset}/{method}/{span}.scores.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=scoring,
    shell:
        "python -m diffinfo.reward --model {input.model:q} --completions {input.completions:q} {params.settings:q}"
        f" {PARTS} --out {{output:q}} 2> {{log:q}}"


rule answers:
    """Answer Arena-Hard and WildBench greedily with every epoch of a span."""
    input:
        models=policy,
        prompts=["<results>/bench/arena-hard.parquet", "<results>/bench/wildbench.parquet"],
    output:
        "<results>/answers/{model}/{dataset}/{method}/{span}.parquet",
    log:
        "<results>/logs/answers/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "<results>/benchmarks/answers/{model}/{dataset}/{method}/{span}.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        settings=answer_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {input.models:q} {params.epochs:q} {params.prompts:q}"
        f" {{params.settings:q}} {PARTS} --out {{output:q}} 2> {{log:q}}"


rule qa:
    """Eight QA benchmarks through lm-evaluation-harness, every epoch of a span."""
    input:
        models=policy,
        tasks=qa_tasks,
        data=QA_FILES,
    output:
        table="<results>/qa/{model}/{dataset}/{method}/{span}.parquet",
        questions="<results>/qa/{model}/{dataset}/{method}/{span}.items.parquet",
    log:
        "<results>/logs/qa/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "<results>/benchmarks/qa/{model}/{dataset}/{method}/{span}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        tasks=qa_argument,
        settings=qa_settings,
    shell:
        "python -m diffinfo.bench.qa --models {input.models:q} {params.epochs:q} {params.tasks:q} {params.settings:q}"
        f" {PARTS} --out {{output.table:q}} --items {{output.questions:q}} 2> {{log:q}}"
