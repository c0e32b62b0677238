# Pairs of two samples of pi_ref, y_l by Equation 1 or by common practice in its place (ours).
# Needs: results/sft, results/data, the reward model. Gives: results/candidates, preferences of datasets with "rejected", and
# results/tables/rejected.*
REJECTED = [name for name, dataset in CONFIG.datasets.items() if dataset.rejected]
KNOWN = [
    name for name in ORIGINS if CONFIG.datasets[name].source == "world" and name not in SAMPLED
]  # their true reward
CANDIDATES = "<results>/candidates/{model}/{dataset}"
REACHED = sorted(
    {dataset for _, dataset, _ in cells("target")} & set(REJECTED)
)  # where the distance from pi* is measured


def rejected_targets():
    """The table of these datasets, where pi* is known."""
    return ["<results>/tables/rejected.md"] if REACHED else []


def candidate_sampling(wildcards):
    """Samples at temperature 1, others than those that entropies are measured on."""
    c = CONFIG.candidates
    decoding = {"n": c.n, "temperature": 1.0, "max_tokens": c.max_tokens, "seed": c.seed, "limit": c.prompts}
    return sampling(wildcards, **decoding, stream="candidates")


def true_reward(wildcards):
    """What the labels of a dataset of the world follow."""
    return arguments(kind=CONFIG.datasets[wildcards.dataset].reward)


def candidates_of(table):
    """A table of the candidates that a dataset is made from."""

    def located(wildcards):
        model, origin = CONFIG.datasets[wildcards.dataset].model, CONFIG.origin(wildcards.dataset)
        return f"<results>/candidates/{model}/{origin}/{table}.parquet"

    return located


def rejected_settings(wildcards):
    """How y_l is chosen; a reward model's scores are log-odds themselves."""
    sharpness = CONFIG.world.sharpness if CONFIG.origin(wildcards.dataset) in KNOWN else 1.0
    rejected = CONFIG.datasets[wildcards.dataset].rejected
    return arguments(settings={"rejected": rejected, "sharpness": sharpness, "seed": CONFIG.candidates.seed})


rule candidates:
    """Sample pi_ref at temperature 1 on training prompts."""
    input:
        model=PI_REF,
        prompts="<results>/data/{dataset}/prompts.parquet",
    output:
        f"{CANDIDATES}/completions.parquet",
    log:
        "<results>/logs/candidates/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/candidates/{model}/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(ORIGINS),
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=candidate_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {input.model:q} {params.prompts:q} {params.settings:q}"
        f" {PARTS} --out {{output:q}} 2> {{log:q}}"


rule candidate_rewards:
    """Score the candidates by the world's true reward."""
    input:
        f"{CANDIDATES}/completions.parquet",
    output:
        f"{CANDIDATES}/scores.parquet",
    log:
        "<results>/logs/candidates/{model}/{dataset}.scores.log",
    benchmark:
        "<results>/benchmarks/candidates/{model}/{dataset}.scores.tsv"
    wildcard_constraints:
        dataset=one_of(KNOWN),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        kind=true_reward,
    shell:
        "python -m diffinfo.world.truth --completions {input:q} {params.kind:q} --out {output:q} 2> {log:q}"


rule candidate_scores:
    """Score the candidates with the reward model, where no true reward is known."""
    input:
        model=f"<shared>/base/{CONFIG.reward_model}",
        completions=f"{CANDIDATES}/completions.parquet",
    output:
        f"{CANDIDATES}/scores.parquet",
    log:
        "<results>/logs/candidates/{model}/{dataset}.scores.log",
    benchmark:
        "<results>/benchmarks/candidates/{model}/{dataset}.scores.tsv"
    wildcard_constraints:
        dataset=one_of(set(ORIGINS) - set(KNOWN)),
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


rule rejected_responses:
    """Pair two candidates of each prompt: y_w any of them, y_l by Equation 1 or in another way."""
    input:
        completions=candidates_of("completions"),
        scores=candidates_of("scores"),
    output:
        preferences="<results>/data/{dataset}/preferences.parquet",
        resampled="<results>/data/{dataset}/resampled.parquet",
    log:
        "<results>/logs/data/{dataset}/rejected.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/rejected.tsv"
    wildcard_constraints:
        dataset=one_of(REJECTED),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=rejected_settings,
    shell:
        "python -m diffinfo.data.rejected --completions {input.completions:q} --scores {input.scores:q}"
        " {params.settings:q} --preferences {output.preferences:q} --resampled {output.resampled:q} 2> {log:q}"


rule rejected:
    """How near DPO comes to pi* with each choice of y_l."""
    input:
        paths(TARGET, "target", datasets=REACHED),
        expand("<results>/data/{dataset}/{table}.parquet", dataset=REACHED, table=("preferences", "resampled")),
    output:
        data="<results>/tables/rejected.parquet",
        note="<results>/tables/rejected.md",
        page=report("<results>/tables/rejected.html", caption="../report/rejected.rst", category="Tables"),
    log:
        "<results>/logs/report/rejected.log",
    benchmark:
        "<results>/benchmarks/report/rejected.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        inputs=all_inputs,
    shell:
        "python -m diffinfo.report.rejected {params.inputs:q} --out {output.data:q} 2> {log:q}"
