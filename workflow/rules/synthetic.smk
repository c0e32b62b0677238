# The laboratory: categorical policies, the theorems, and tiny language models with exact probabilities.
# Needs: nothing. Gives: results/synthetic/*.parquet.


rule objectives:
    """Train every objective, hyper-parameter, tau and seed of J.1 as one tensor program."""
    output:
        "results/synthetic/objectives.parquet",
    log:
        "results/logs/synthetic/objectives.log",
    benchmark:
        "results/benchmarks/synthetic/objectives.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        steps=CONFIG.synthetic.steps,
        seeds=as_list(CONFIG.synthetic.seeds),
        taus=as_list(CONFIG.synthetic.taus),
        every=CONFIG.synthetic.record_every,
    shell:
        "python -m diffinfo.synthetic.categorical --out {output} --steps {params.steps} --seeds {params.seeds:q}"
        " --taus {params.taus:q} --record_every {params.every} 2> {log}"


rule population:
    """Minimise every objective's expected loss, without sampling noise."""
    output:
        "results/synthetic/population.parquet",
    log:
        "results/logs/synthetic/population.log",
    benchmark:
        "results/benchmarks/synthetic/population.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        seeds=as_list(CONFIG.synthetic.seeds),
        taus=as_list(CONFIG.synthetic.taus),
    shell:
        "python -m diffinfo.synthetic.population --out {output} --seeds {params.seeds:q} --taus {params.taus:q} 2> {log}"


rule theorems:
    """Check every theorem over random policies, as stated and with its condition broken."""
    output:
        "results/synthetic/theorems.parquet",
    log:
        "results/logs/synthetic/theorems.log",
    benchmark:
        "results/benchmarks/synthetic/theorems.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        seed=CONFIG.synthetic.theorem_seed,
    shell:
        "python -m diffinfo.synthetic.theorems --out {output} --seed {params.seed} 2> {log}"


rule did_proxy:
    """Estimate the entropy of the DID where its exact value is known (Appendix K)."""
    output:
        "results/synthetic/did_proxy.parquet",
    log:
        "results/logs/synthetic/did_proxy.log",
    benchmark:
        "results/benchmarks/synthetic/did_proxy.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        seeds=as_list(CONFIG.synthetic.world_seeds),
        steps=as_list(CONFIG.synthetic.proxy_steps),
        rate=CONFIG.synthetic.proxy_learning_rate,
    shell:
        "python -m diffinfo.synthetic.did_proxy --out {output} --seeds {params.seeds:q} --steps {params.steps:q}"
        " --learning_rate {params.rate} 2> {log}"


rule rejected_sampling:
    """Train DPO on rejected responses from Equation 1 and from common practice."""
    output:
        "results/synthetic/rejected_sampling.parquet",
    log:
        "results/logs/synthetic/rejected_sampling.log",
    benchmark:
        "results/benchmarks/synthetic/rejected_sampling.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        seeds=as_list(CONFIG.synthetic.world_seeds),
        pairs=as_list(CONFIG.synthetic.rejected_pairs),
        rate=CONFIG.synthetic.rejected_learning_rate,
    shell:
        "python -m diffinfo.synthetic.rejected_sampling --out {output} --seeds {params.seeds:q} --pairs {params.pairs:q}"
        " --learning_rate {params.rate} 2> {log}"
