# Entropy of policies (Table 1, Appendix K).
# Needs: results/sft, results/train, results/data. Gives: results/entropy.


def entropy_sampling(wildcards):
    """Samples at temperature 1, whose log-probabilities make an entropy."""
    e = CONFIG.entropy
    return sampling(wildcards, n=e.samples, temperature=1.0, max_tokens=e.max_tokens, seed=e.seed, limit=e.prompts)


rule entropy_samples:
    """Sample a policy at temperature 1 on training prompts."""
    input:
        models=policy_at,
        prompts=of_origin("<results>/data/{dataset}/prompts.parquet"),
    output:
        "<results>/entropy/{model}/{dataset}/{method}/epoch-{epoch}.completions.parquet",
    log:
        "<results>/logs/entropy/{model}/{dataset}/{method}/epoch-{epoch}.samples.log",
    benchmark:
        "<results>/benchmarks/entropy/{model}/{dataset}/{method}/epoch-{epoch}.samples.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        folder=epoch_folder,
        settings=entropy_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {params.folder:q} {params.prompts:q} {params.settings:q}"
        f" {PARTS} --out {{output:q}} 2> {{log:q}}"


rule entropy:
    """Estimate the entropy of a policy from its samples."""
    input:
        "<results>/entropy/{model}/{dataset}/{method}/epoch-{epoch}.completions.parquet",
    output:
        "<results>/entropy/{model}/{dataset}/{method}/epoch-{epoch}.parquet",
    log:
        "<results>/logs/entropy/{model}/{dataset}/{method}/epoch-{epoch}.log",
    benchmark:
        "<results>/benchmarks/entropy/{model}/{dataset}/{method}/epoch-{epoch}.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    shell:
        "python -m diffinfo.entropy.policy --completions {input:q} --out {output:q} 2> {log:q}"
