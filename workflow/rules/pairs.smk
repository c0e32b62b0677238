# Preference pairs from sampled and scored candidates (Magpie-G27, J.2).
# Needs: results/data/<dataset>/prompts.parquet, the teacher, the reward model. Gives: completions, scores, preferences.
DECODING = (
    "--n {0.n} --temperature {0.temperature} --top_p {0.top_p} --max_tokens {0.max_tokens} --seed {0.seed}".format(
        CONFIG.sampling
    )
)


rule sample_responses:
    """Sample candidate responses from the teacher (J.2)."""
    input:
        model=f"results/base/{CONFIG.sampling.model}",
        prompts="results/data/{dataset}/prompts.parquet",
    output:
        "results/data/{dataset}/completions.parquet",
    log:
        "results/logs/data/{dataset}.sample.log",
    benchmark:
        "results/benchmarks/data/{dataset}.sample.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        engine=engine_arguments(CONFIG.sampling.model),
        decoding=DECODING,
    shell:
        "python -m diffinfo.sample.complete --models {input.model} --prompts [{input.prompts}] {params.engine}"
        " {params.decoding} --out {output} 2> {log}"


rule score_responses:
    """Score every candidate with the reward model."""
    input:
        model=f"results/base/{CONFIG.reward_model}",
        completions="results/data/{dataset}/completions.parquet",
    output:
        "results/data/{dataset}/scores.parquet",
    log:
        "results/logs/data/{dataset}.score.log",
    benchmark:
        "results/benchmarks/data/{dataset}.score.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        scorer=scorer_arguments(),
    shell:
        "python -m diffinfo.reward --model {input.model} --completions {input.completions} {params.scorer}"
        " --out {output} 2> {log}"


rule pair_responses:
    """Take the best and the worst response of each prompt."""
    input:
        completions="results/data/{dataset}/completions.parquet",
        scores="results/data/{dataset}/scores.parquet",
    output:
        preferences="results/data/{dataset}/preferences.parquet",
        quarantine="results/data/{dataset}/quarantine_pairs.parquet",
    log:
        "results/logs/data/{dataset}.pairs.log",
    benchmark:
        "results/benchmarks/data/{dataset}.pairs.tsv"
    wildcard_constraints:
        dataset=one_of(SAMPLED),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    shell:
        "python -m diffinfo.data.pairs --completions {input.completions} --scores {input.scores}"
        " --preferences {output.preferences} --quarantine {output.quarantine} 2> {log}"
