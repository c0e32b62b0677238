# The laboratory: categorical policies, the theorems, and tiny language models with exact probabilities.
# Needs: nothing. Gives: results/synthetic/*.parquet.


rule objectives:
    """Train every objective, hyper-parameter, tau and seed of J.1 as one tensor program."""
    output:
        "<laboratory>/synthetic/objectives.parquet",
    log:
        "<laboratory>/logs/synthetic/objectives.log",
    benchmark:
        "<laboratory>/benchmarks/synthetic/objectives.tsv"
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
        "<laboratory>/synthetic/population.parquet",
    log:
        "<laboratory>/logs/synthetic/population.log",
    benchmark:
        "<laboratory>/benchmarks/synthetic/population.tsv"
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
        "<laboratory>/synthetic/theorems.parquet",
    log:
        "<laboratory>/logs/synthetic/theorems.log",
    benchmark:
        "<laboratory>/benchmarks/synthetic/theorems.tsv"
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
        "<laboratory>/synthetic/did_proxy.parquet",
    log:
        "<laboratory>/logs/synthetic/did_proxy.log",
    benchmark:
        "<laboratory>/benchmarks/synthetic/did_proxy.tsv"
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
        "<laboratory>/synthetic/lengths.parquet",
    log:
        "<laboratory>/logs/synthetic/lengths.log",
    benchmark:
        "<laboratory>/benchmarks/synthetic/lengths.tsv"
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
        "<laboratory>/synthetic/rejected_sampling.parquet",
    log:
        "<laboratory>/logs/synthetic/rejected_sampling.log",
    benchmark:
        "<laboratory>/benchmarks/synthetic/rejected_sampling.tsv"
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
