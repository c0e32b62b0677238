# The laboratory: Figures 1 and 7, the theorems, and tiny language models with exact probabilities.
# Needs: nothing. Gives: results/synthetic/*.parquet, and its tables and figures in results/{tables,figures}.
LAB_INPUTS = ["objectives", "population", "theorems", "did_proxy", "rejected_sampling"]
LAB_TABLES = ["laboratory", "theorems", "did_proxy", "rejected_sampling"]
LAB_FIGURES = ["laboratory", "did_proxy", "rejected_sampling"]
LAB_PAGES = expand("results/tables/{name}.html", name=LAB_TABLES)
LAB_DRAWINGS = expand("results/figures/{name}.svg", name=LAB_FIGURES)


rule synthetic:
    """Everything the laboratory makes."""
    input:
        laboratory_targets(),


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
    threads: 1
    resources:
        mem_mb=1500,
        runtime=30,
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
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
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
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
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
    threads: 1
    resources:
        mem_mb=1500,
        runtime=30,
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
    threads: 1
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        seeds=as_list(CONFIG.synthetic.world_seeds),
        pairs=as_list(CONFIG.synthetic.rejected_pairs),
        rate=CONFIG.synthetic.rejected_learning_rate,
    shell:
        "python -m diffinfo.synthetic.rejected_sampling --out {output} --seeds {params.seeds:q} --pairs {params.pairs:q}"
        " --learning_rate {params.rate} 2> {log}"


rule laboratory_curves:
    """Draw Figures 1 and 7."""
    input:
        "results/synthetic/objectives.parquet",
    output:
        multiext("results/figures/figure1", ".parquet", ".md", ".png"),
        multiext("results/figures/figure7", ".parquet", ".md", ".png"),
        report("results/figures/figure1.svg", caption="../report/figure1.rst", category="Laboratory"),
        report("results/figures/figure7.svg", caption="../report/figure7.rst", category="Laboratory"),
    log:
        "results/logs/synthetic/curves.log",
    benchmark:
        "results/benchmarks/synthetic/curves.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "python -m diffinfo.report.laboratory curves --objectives {input} --out results/figures 2> {log}"


rule laboratory:
    """Write the laboratory's tables and draw its figures."""
    input:
        **{name: f"results/synthetic/{name}.parquet" for name in LAB_INPUTS},
    output:
        "results/tables/laboratory.parquet",
        expand("results/tables/{name}.md", name=LAB_TABLES),
        expand("results/figures/{name}.png", name=LAB_FIGURES),
        report(LAB_PAGES, caption="../report/laboratory_tables.rst", category="Laboratory"),
        report(LAB_DRAWINGS, caption="../report/laboratory.rst", category="Laboratory"),
    log:
        "results/logs/synthetic/laboratory.log",
    benchmark:
        "results/benchmarks/synthetic/laboratory.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        inputs=lab_arguments,
    shell:
        "python -m diffinfo.report.laboratory summary {params.inputs} --tables results/tables --figures results/figures 2> {log}"
