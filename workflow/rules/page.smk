# All of it on one page, and what it took.
# Needs: results/{tables,figures}, results/claims.*, the benchmark files of all jobs. Gives: results/report.html, config.yaml, spent.*
SHOWN = [*report_targets(), *ours_targets(), *rejected_targets(), *laboratory_targets()]
SHOWN_FIGURES = [path.replace(".md", ".svg") for path in SHOWN if "/figures/" in path]
SHOWN_FIGURES += [f"<results>/figures/{name}.svg" for name, (_, measure) in OURS.items() if cells(measure)]


def timed(wildcards):
    """Where each rule's benchmark files are."""
    patterns = {made.name: str(made.benchmark) for made in workflow.rules if made.benchmark}
    return arguments(configuration=CONFIG, benchmarks=patterns)


rule page:
    """Add up what all jobs took, and write the page of all results."""
    input:
        grid_targets(),
        SHOWN,
        tables=[path for path in SHOWN if "/tables/" in path],
        figures=SHOWN_FIGURES,
        claims="<results>/claims.parquet",
    output:
        page="<results>/report.html",
        config="<results>/config.yaml",
        spent=multiext("<results>/spent", ".parquet", ".html", *WRITTEN_BESIDE),
    log:
        "<results>/logs/report/page.log",
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        lists=listed("tables", "figures"),
        settings=timed,
    shell:
        "python -m diffinfo.operations.spent {params.settings:q} {params.lists:q} --claims {input.claims:q}"
        " --out {output.page:q} 2> {log:q}"
