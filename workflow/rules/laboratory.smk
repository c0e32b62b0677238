# What the laboratory shows: Figures 1 and 7, its own tables and figures.
# Needs: results/synthetic/*.parquet. Gives: results/{tables,figures}.
DRAWN = f"{CONFIG.results}/figures"
WRITTEN = f"{CONFIG.results}/tables"
LAB_INPUTS = ["objectives", "population", "theorems", "did_proxy", "rejected_sampling", "lengths"]
LAB_TABLES = ["laboratory", "theorems", "did_proxy", "rejected_sampling", "lengths"]
LAB_FIGURES = ["laboratory", "did_proxy", "rejected_sampling", "lengths"]


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
        "<laboratory>/synthetic/objectives.parquet",
    output:
        multiext("<results>/figures/figure1", ".parquet", *WRITTEN_BESIDE, *DRAWN_BESIDE),
        multiext("<results>/figures/figure7", ".parquet", *WRITTEN_BESIDE, *DRAWN_BESIDE),
        [shown("figures", name) for name in ("figure1", "figure7")],
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
        **{name: f"<laboratory>/synthetic/{name}.parquet" for name in LAB_INPUTS},
    output:
        "<results>/tables/laboratory.parquet",
        expand("<results>/tables/{name}{kind}", name=LAB_TABLES, kind=WRITTEN_BESIDE),
        expand("<results>/figures/{name}{kind}", name=LAB_FIGURES, kind=DRAWN_BESIDE),
        [shown("tables", name) for name in LAB_TABLES],
        [shown("figures", name) for name in LAB_FIGURES],
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
