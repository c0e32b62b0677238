# What the laboratory shows: Figures 1 and 7, its own tables and figures.
# Needs: results/synthetic/*.parquet. Gives: results/{tables,figures}.
DRAWN = f"{CONFIG.results}/figures"
WRITTEN = f"{CONFIG.results}/tables"
LAB_INPUTS = ["objectives", "population", "theorems", "did_proxy", "rejected_sampling", "lengths"]
LAB_TABLES = ["laboratory", "theorems", "did_proxy", "rejected_sampling", "lengths"]
LAB_FIGURES = ["laboratory", "did_proxy", "rejected_sampling", "lengths"]
LAB_PAGES = expand("<results>/tables/{name}.html", name=LAB_TABLES)
LAB_DRAWINGS = expand("<results>/figures/{name}.svg", name=LAB_FIGURES)


def laboratory_targets():
    """Every table and figure of the laboratory."""
    figures = expand("<results>/figures/{name}.svg", name=["figure1", "figure7", *LAB_FIGURES])
    return figures + expand("<results>/tables/{name}.md", name=LAB_TABLES)


def lab_arguments(wildcards, input):
    """Every table of the laboratory as an argument by its name."""
    return arguments(**dict(input.items()))


rule synthetic:
    """Everything the laboratory makes."""
    input:
        laboratory_targets(),


rule laboratory_curves:
    """Draw Figures 1 and 7."""
    input:
        "<shared>/synthetic/objectives.parquet",
    output:
        multiext("<results>/figures/figure1", ".parquet", ".md", ".png"),
        multiext("<results>/figures/figure7", ".parquet", ".md", ".png"),
        report("<results>/figures/figure1.svg", caption="../report/figure1.rst", category="Laboratory"),
        report("<results>/figures/figure7.svg", caption="../report/figure7.rst", category="Laboratory"),
    log:
        "<results>/logs/synthetic/curves.log",
    benchmark:
        "<results>/benchmarks/synthetic/curves.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    shell:
        f"python -m diffinfo.report.laboratory curves --objectives {{input:q}} --out {DRAWN} 2> {{log:q}}"


rule laboratory:
    """Write the laboratory's tables and draw its figures."""
    input:
        **{name: f"<shared>/synthetic/{name}.parquet" for name in LAB_INPUTS},
    output:
        "<results>/tables/laboratory.parquet",
        expand("<results>/tables/{name}.md", name=LAB_TABLES),
        expand("<results>/figures/{name}.png", name=LAB_FIGURES),
        report(LAB_PAGES, caption="../report/laboratory_tables.rst", category="Laboratory"),
        report(LAB_DRAWINGS, caption="../report/laboratory.rst", category="Laboratory"),
    log:
        "<results>/logs/synthetic/laboratory.log",
    benchmark:
        "<results>/benchmarks/synthetic/laboratory.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        inputs=lab_arguments,
    shell:
        "python -m diffinfo.report.laboratory summary {params.inputs:q}"
        f" --tables {WRITTEN} --figures {DRAWN} 2> {{log:q}}"
