# The laboratory: categorical policies, the theorems, and tiny language models with exact probabilities.
# Needs: nothing. Gives: results/synthetic/*.parquet.


rule objectives:
    """Train every objective, hyper-parameter, tau and seed of J.1 as one tensor program."""
    output:
        "<shared>/synthetic/objectives.parquet",
    log:
        "<shared>/logs/synthetic/objectives.log",
    benchmark:
        "<shared>/benchmarks/synthetic/objectives.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=constant(**CONFIG.synthetic.model_dump(include={"steps", "seeds", "taus", "record_every"})),
    shell:
        "python -m diffinfo.synthetic.categorical {params.settings:q} --out {output:q} 2> {log:q}"


rule population:
    """Minimise every objective's expected loss, without sampling noise."""
    output:
        "<shared>/synthetic/population.parquet",
    log:
        "<shared>/logs/synthetic/population.log",
    benchmark:
        "<shared>/benchmarks/synthetic/population.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=constant(seeds=CONFIG.synthetic.seeds, taus=CONFIG.synthetic.taus),
    shell:
        "python -m diffinfo.synthetic.population {params.settings:q} --out {output:q} 2> {log:q}"


rule theorems:
    """Check every theorem over random policies, as stated and with its condition broken."""
    output:
        "<shared>/synthetic/theorems.parquet",
    log:
        "<shared>/logs/synthetic/theorems.log",
    benchmark:
        "<shared>/benchmarks/synthetic/theorems.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=constant(seed=CONFIG.synthetic.theorem_seed),
    shell:
        "python -m diffinfo.synthetic.theorems {params.settings:q} --out {output:q} 2> {log:q}"


rule did_proxy:
    """Estimate the entropy of the DID where its exact value is known (Appendix K)."""
    output:
        "<shared>/synthetic/did_proxy.parquet",
    log:
        "<shared>/logs/synthetic/did_proxy.log",
    benchmark:
        "<shared>/benchmarks/synthetic/did_proxy.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=constant(
            seeds=CONFIG.synthetic.world_seeds,
            steps=CONFIG.synthetic.proxy_steps,
            learning_rate=CONFIG.synthetic.proxy_learning_rate,
        ),
    shell:
        "python -m diffinfo.synthetic.did_proxy {params.settings:q} --out {output:q} 2> {log:q}"


rule lengths:
    """Estimate the entropy of the DID at several limits of length where dynamic programming gives it."""
    output:
        "<shared>/synthetic/lengths.parquet",
    log:
        "<shared>/logs/synthetic/lengths.log",
    benchmark:
        "<shared>/benchmarks/synthetic/lengths.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=constant(seed=CONFIG.synthetic.theorem_seed),
    shell:
        "python -m diffinfo.synthetic.lengths {params.settings:q} --out {output:q} 2> {log:q}"


rule rejected_sampling:
    """Train DPO on rejected responses from Equation 1 and from common practice."""
    output:
        "<shared>/synthetic/rejected_sampling.parquet",
    log:
        "<shared>/logs/synthetic/rejected_sampling.log",
    benchmark:
        "<shared>/benchmarks/synthetic/rejected_sampling.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=constant(
            seeds=CONFIG.synthetic.world_seeds,
            pairs=CONFIG.synthetic.rejected_pairs,
            learning_rate=CONFIG.synthetic.rejected_learning_rate,
        ),
    shell:
        "python -m diffinfo.synthetic.rejected_sampling {params.settings:q} --out {output:q} 2> {log:q}"
