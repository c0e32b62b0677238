# What the grid asks for, and what each of the paper's tables and figures is made from.
from diffinfo.measures import APART, ENTROPY, HELD_OUT, JUDGED, LOG, MEASURES, PROXY, PROXY_SAMPLED, QA, QA_ITEMS
from diffinfo.measures import SCORES, SELECTING, TRAINING, UPDATE, WILDBENCH, WINRATES
from diffinfo.methods import METHODS
from diffinfo.report.cells import family
from diffinfo.report.paper import counterpart

# figure: (path, measure, methods, datasets, models); None for all of them. Methods that the paper does not train are shown
# beside those named. Datasets made from another are in the grid's table and in ours alone.
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


WRITTEN_BESIDE = (".md", ".csv", ".tex")  # a table's Parquet
DRAWN_BESIDE = (".png", ".pdf")  # a figure's SVG


def shown(folder, name):
    """The page of a table or the SVG of a figure for Snakemake's own report, which sorts by category and labels."""
    kind, number = re.fullmatch(r"(\D+)(\d*)", name).groups()
    with open(f"{PACKAGE}/report/{name}.rst", encoding="utf-8") as caption:
        said = " ".join(re.sub(r"\\ |:\w+:|`", "", caption.read()).partition(".")[0].split())
    category = (
        {"tables": "2. Tables", "figures": "3. Figures"}[folder] if number or name == "grid" else "4. Beyond the paper"
    )
    return report(
        f"<results>/{folder}/{name}.{'html' if folder == 'tables' else 'svg'}",
        caption=f"../report/{name}.rst",
        category=category,
        labels={"result": f"{kind.title()} {number:0>2}" if number else kind.replace("_", " "), "shows": said},
    )


def grid_targets():
    """Every measure of every cell of the grid, whatever the method, and what every training leaves."""
    training = [TRAINING, HELD_OUT] if CONFIG.preference.held_out else [TRAINING]
    found = [
        path
        for measure, results in {None: training, **MEASURES}.items()
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
        refs = [f"{model}/{CONFIG.origin(dataset)}/ref" for model, dataset, _ in rows]
        found += expand(pattern, run=refs, span="0-0", epoch=0)
    return list(dict.fromkeys(found))


def figure_inputs(figure):
    """What a figure is drawn from; the expected reward is drawn above that of pi_ref."""
    path, measure, methods, datasets, models = FIGURES[figure]
    return paths(path, measure, methods, datasets or ORIGINS, models, reference=path == SCORES)


def report_targets():
    """Every table, figure and the claims."""
    names = (
        [f"tables/{name}" for name in ("grid", *TABLES, *[name for name, inputs in OPTIONAL.items() if inputs])]
        + [f"figures/{name}" for name in FIGURES]
        + ["claims"]
    )
    return [f"<results>/{name}.md" for name in names]


def all_inputs(wildcards, input):
    """All inputs as one argument, but for files that the configuration names."""
    return arguments(inputs=[path for path in input if path not in ANCHORS])


TABLES = {
    "table1": paths(ENTROPY, "entropy", datasets=ORIGINS, reference=True),
    "table2": [
        *paths(f"{PROXY}/entropy.parquet", "did", datasets=ORIGINS),
        *paths(f"{PROXY_SAMPLED}/entropy.parquet", "did_sampled", datasets=ORIGINS),
        "<results>/tables/table3.parquet",
        *(["<results>/tables/updates.parquet"] if cells("update") else []),
    ],
    "table3": [
        path for pattern in (WINRATES, APART, WILDBENCH) for path in paths(pattern, "benchmarks", datasets=ORIGINS)
    ],
}
ANCHORS = (
    [
        file
        for source in (CONFIG.wildbench.anchors.ratings, CONFIG.wildbench.anchors.scores)
        for file in local.files(source)
    ]
    if CONFIG.wildbench.anchors
    else []
)
AGAINST = [WILDBENCH.replace("judgments", f"{name}/judgments") for name in REWARD.baselines] if REWARD else []
COMPARED = [path for pattern in AGAINST for path in paths(pattern, "benchmarks")]
JUDGMENTS = [
    path
    for pattern, judge in (
        (SELECTING, CONFIG.arena_hard.select_judge),
        (JUDGED, CONFIG.arena_hard.judge),
        (APART, CONFIG.arena_hard.judge),
        (WILDBENCH, CONFIG.wildbench.judge),
        *[(pattern, REWARD.judge) for pattern in AGAINST],
    )
    if CONFIG.judges[judge].kind == "openai"
    for path in paths(pattern, "benchmarks")
]
CATEGORIES = paths(WINRATES.replace("winrates", "categories"), "benchmarks") if CONFIG.arena_hard.categories else []
OPTIONAL = {"arena_hard_v2": CATEGORIES, "wb_reward": COMPARED, "costs": JUDGMENTS}  # tables: what they are made of
ELO = CONFIG.wildbench.model_dump(mode="json", exclude={"reward"})
SETTINGS = {
    "table1": constant(),
    "table2": constant(dagger_below=CONFIG.did.dagger_below),
    "table3": constant(wildbench=ELO),
}
CLAIMED = [*ORIGINS, *(name for names in CONFIG.placebos.values() for name in names)]
BY_UNIT = [  # what claims are judged by, of datasets and their placebos
    path
    for pattern, measure, methods in (
        *([(HELD_OUT.path, None, ("dpo", "dpo-pg", "dpop", "cal-dpo"))] if CONFIG.preference.held_out else []),
        (UPDATE, "update", ("logpi",)),
        (SCORES, "expected_reward", ("dpo", "logpi")),
        (f"{PROXY}/entropy.parquet", "did", None),
        (f"{PROXY}/samples.parquet", "did", None),
        (JUDGED, "benchmarks", None),
        (APART, "benchmarks", None),
        (WILDBENCH, "benchmarks", None),
        (QA_ITEMS, "qa", None),
    )
    for path in paths(pattern, measure, methods, CLAIMED)
]
LONGER = len(CONFIG.results) - len("<results>")
for PAGE, INPUTS in {"grid": grid_targets(), "claims": BY_UNIT}.items():
    # Linux takes 128 KiB, and the page is made at the very end
    if sum(len(path) + LONGER + 4 for path in INPUTS) > 120_000:
        refuse(
            f"{PAGE}: its {len(INPUTS):,} tables are too many for the command line that puts them into the {PAGE} table:"
            " raise preference.epochs_per_job, or run a part of the grid by itself."
        )
CORRECTNESS = [name for name, dataset in CONFIG.datasets.items() if dataset.reward == "correctness"]
