# What the grid asks for, and what each of the paper's tables and figures is made from.
from diffinfo.measures import (
    APART,
    ENTROPY,
    JUDGED,
    LOG,
    MEASURES,
    PROXY,
    QA,
    QA_ITEMS,
    SCORES,
    TRAINING,
    WILDBENCH,
    WINRATES,
)
from diffinfo.methods import METHODS
from diffinfo.report.cells import family
from diffinfo.report.paper import counterpart

# figure: (path, measure, methods, datasets, models); None for all of them. Methods that the paper does not train are shown
# beside those named.
FIGURES = {
    "figure2": (LOG, None, ("dpo",), ("ultrafeedback", "magpie-pro"), "mistral"),
    "figure3": (QA, "qa", None, None, "mistral"),
    "figure5": (LOG, None, ("dpo", "dpop", "cal-dpo"), ("magpie-pro",), "mistral"),
    "figure6": (SCORES, "expected_reward", None, None, "mistral"),
    "figure8": (LOG, None, ("dpo-pg",), None, None),
    "figure9": (LOG, None, ("dpo-pg",), None, None),
    "figure10": (LOG, None, ("dpo",), None, None),
    "figure11": (LOG, None, ("dpo",), None, None),
    "figure12": (QA, "qa", None, None, "gemma"),
    "figure13": (f"{PROXY}/train_log.parquet", "did", ("dpo-b0.1", "dpo-pg"), ("magpie-pro",), "mistral"),
}


def grid_targets():
    """Every measure of every cell of the grid, whatever the method, and every training's log."""
    found = [
        path
        for measure, results in {None: [TRAINING], **MEASURES}.items()
        for result in results
        for path in paths(result.path, measure, reference=result.of_reference)
    ]
    return list(dict.fromkeys(found))


def paths(pattern, measure, methods=None, datasets=None, models=None, reference=False):
    """Files of the grid cells with a measure; with ``reference``, those of pi_ref too."""
    rows = [
        (model, dataset, method)
        for model, dataset, method in cells(measure)
        if (
            methods is None
            or {method.split("-seed")[0], family(method)} & set(methods)
            or not METHODS[family(method)].paper
        )
        and (datasets is None or dataset in datasets)
        and (models is None or (counterpart(model) == "gemma-2-9b") == (models == "gemma"))
    ]
    runs = ["/".join(row) for row in rows]
    found = [path for run in runs for path in expand(pattern, run=run, span=spans(run), epoch=CONFIG.epochs)]
    if reference:
        found += expand(pattern, run=[f"{model}/{dataset}/ref" for model, dataset, _ in rows], span="0-0", epoch=0)
    return list(dict.fromkeys(found))


def figure_inputs(figure):
    """What a figure is drawn from; the expected reward is drawn above that of pi_ref."""
    return paths(*FIGURES[figure], reference=FIGURES[figure][0] == SCORES)


def report_targets():
    """Every table, figure and the claims."""
    names = [f"tables/{name}" for name in ("grid", *TABLES)] + [f"figures/{name}" for name in FIGURES] + ["claims"]
    return [f"<results>/{name}.md" for name in names]


def all_inputs(wildcards, input):
    """All inputs as one argument."""
    return arguments(inputs=list(input))


TABLES = {
    "table1": paths(ENTROPY, "entropy", reference=True),
    "table2": [
        *paths(f"{PROXY}/entropy.parquet", "did"),
        "<results>/tables/table3.parquet",
        *(["<results>/tables/updates.parquet"] if cells("update") else []),
    ],
    "table3": [
        *paths(WINRATES, "benchmarks"),
        *paths(APART, "benchmarks"),
        *paths(WILDBENCH, "benchmarks"),
    ],
}
SETTINGS = {
    "table1": constant(),
    "table2": constant(dagger_below=CONFIG.did.dagger_below),
    "table3": constant(wildbench=CONFIG.wildbench),
}
BY_QUESTION = [
    *(path for pattern in (JUDGED, APART, WILDBENCH) for path in paths(pattern, "benchmarks")),
    *paths(QA_ITEMS, "qa"),
]
LONGER = len(CONFIG.results) - len("<results>")
for PAGE, INPUTS in {"grid": grid_targets(), "claims": BY_QUESTION}.items():
    # Linux takes 128 KiB, and the page is made at the very end
    if sum(len(path) + LONGER + 4 for path in INPUTS) > 120_000:
        raise WorkflowError(
            f"{PAGE}: its {len(INPUTS):,} tables are too many for the command line that puts them into the {PAGE} table:"
            " raise preference.epochs_per_job, or run a part of the grid by itself."
        )
CORRECTNESS = [name for name, dataset in CONFIG.datasets.items() if dataset.reward == "correctness"]
