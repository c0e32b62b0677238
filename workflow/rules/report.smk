# The paper's tables and figures beside its printed numbers, and the verdict on its claims.
# Needs: results/{entropy,did,arena_hard,wildbench,train,reward,qa}. Gives: results/{tables,figures}, results/claims.*.
include: "report_inputs.smk"


rule grid:
    """Every number of every cell, epoch and seed in one table."""
    input:
        grid_targets(),
    output:
        data="<results>/tables/grid.parquet",
        also=multiext("<results>/tables/grid", *WRITTEN_BESIDE),
        page=shown("tables", "grid"),
    log:
        "<results>/logs/report/grid.log",
    benchmark:
        "<results>/benchmarks/report/grid.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        inputs=all_inputs,
        origins=constant(origins={name: CONFIG.origin(name) for name in CONFIG.datasets if name not in ORIGINS}),
    shell:
        "python -m diffinfo.report.grid {params.inputs:q} {params.origins:q} --out {output.data:q} 2> {log:q}"


for TABLE in OPTIONAL:

    rule:
        """What only some configurations have: dollars of judging, WB-Reward, Arena-Hard v2 by category."""
        name:
            TABLE
        input:
            OPTIONAL[TABLE],
        output:
            data=f"<results>/tables/{TABLE}.parquet",
            also=multiext(f"<results>/tables/{TABLE}", *WRITTEN_BESIDE),
            page=shown("tables", TABLE),
        log:
            f"<results>/logs/report/{TABLE}.log",
        benchmark:
            f"<results>/benchmarks/report/{TABLE}.tsv"
        conda:
            "../../envs/base.yaml"
        resources:
            **RESOURCES,
        params:
            name=TABLE,
            inputs=all_inputs,
        shell:
            "python -m diffinfo.report.{params.name:q} {params.inputs:q} --out {output.data:q} 2> {log:q}"


for TABLE in TABLES:

    rule:
        """One of the paper's tables beside its printed numbers."""
        name:
            TABLE
        input:
            TABLES[TABLE],
            ANCHORS if TABLE == "table3" else [],
        output:
            data=f"<results>/tables/{TABLE}.parquet",
            also=multiext(f"<results>/tables/{TABLE}", *WRITTEN_BESIDE),
            page=shown("tables", TABLE),
        log:
            f"<results>/logs/report/{TABLE}.log",
        benchmark:
            f"<results>/benchmarks/report/{TABLE}.tsv"
        conda:
            "../../envs/base.yaml"
        resources:
            **RESOURCES,
        params:
            name=TABLE,
            inputs=all_inputs,
            settings=SETTINGS[TABLE],
        shell:
            "python -m diffinfo.report.tables {params.name:q} {params.inputs:q} {params.settings:q}"
            " --out {output.data:q} 2> {log:q}"


for FIGURE in FIGURES:

    rule:
        """One of the paper's figures: drawing, data and a note."""
        name:
            FIGURE
        input:
            figure_inputs(FIGURE),
        output:
            data=f"<results>/figures/{FIGURE}.parquet",
            also=multiext(f"<results>/figures/{FIGURE}", *WRITTEN_BESIDE, *DRAWN_BESIDE),
            svg=shown("figures", FIGURE),
        log:
            f"<results>/logs/report/{FIGURE}.log",
        benchmark:
            f"<results>/benchmarks/report/{FIGURE}.tsv"
        conda:
            "../../envs/base.yaml"
        resources:
            **RESOURCES,
        params:
            name=FIGURE,
            inputs=all_inputs,
        shell:
            "python -m diffinfo.report.figures {params.name:q} {params.inputs:q} --out {output.data:q} 2> {log:q}"


rule claims:
    """Judge the paper's claims by what was measured."""
    input:
        "<results>/tables/table1.parquet",
        expand("<results>/figures/figure{number}.parquet", number=(3, 5, 6, 8, 9, 10, 11, 12)),
        BY_UNIT,
        ANCHORS,
    output:
        data="<results>/claims.parquet",
        also=multiext("<results>/claims", *WRITTEN_BESIDE),
        page=report("<results>/claims.html", caption="../report/claims.rst", category="1. Claims"),
    log:
        "<results>/logs/report/claims.log",
    benchmark:
        "<results>/benchmarks/report/claims.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        inputs=all_inputs,
        settings=constant(
            wildbench=ELO,
            correctness=CORRECTNESS,
            placebos=CONFIG.placebos,
            dagger_below=CONFIG.did.dagger_below,
        ),
    shell:
        "python -m diffinfo.report.claims {params.inputs:q} {params.settings:q} --out {output.data:q} 2> {log:q}"
