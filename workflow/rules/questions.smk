# The questions of Arena-Hard and WildBench.
# Needs: results/world/bench or the public files. Gives: results/bench.
from diffinfo.config import local

ARENA = CONFIG.arena_hard
ASKED = ARENA.categories or {"": ARENA}  # of Arena-Hard v2 by category
BASELINES = {name: part.baseline for name, part in ASKED.items()}
JUDGE_PROMPTS = {name: part.prompt for name, part in ASKED.items() if part.prompt}


def question_files(*sources):
    """Local benchmark files, the world's folder among them: what a job waits for."""

    def files(wildcards):
        waited = ["<shared>/world/bench"] if "world" in sources else []
        here = [source for source in sources if source and source != "world" and "://" not in source]
        return waited + [file for source in here for file in local.files(source)]

    return files


def located(source, name):
    """Where a benchmark source is."""
    return f"{CONFIG.shared}/world/bench/{name}.jsonl" if source == "world" else source


rule arena_hard_questions:
    """Read Arena-Hard's questions and the baseline's answers, in either public schema."""
    input:
        question_files(ARENA.questions, *BASELINES.values(), *JUDGE_PROMPTS.values()),
    output:
        table="<results>/bench/arena-hard.parquet",
        quarantine="<results>/bench/arena-hard.quarantine.parquet",
    log:
        "<results>/logs/bench/arena-hard.log",
    benchmark:
        "<results>/benchmarks/bench/arena-hard.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        files=constant(
            questions=located(ARENA.questions, "arena-hard"),
            limit=ARENA.limit,
            **(
                {"categories": BASELINES, "category_prompts": JUDGE_PROMPTS}
                if ARENA.categories
                else {"baseline": located(ARENA.baseline, "arena-hard-baseline"), "prompt": ARENA.prompt}
            ),
        ),
    shell:
        "python -m diffinfo.bench.questions arena-hard {params.files:q}"
        " --out {output.table:q} --quarantine {output.quarantine:q} 2> {log:q}"


rule wildbench_tasks:
    """Read WildBench's tasks and checklists."""
    input:
        question_files(CONFIG.wildbench.tasks, CONFIG.wildbench.prompt),
    output:
        table="<results>/bench/wildbench.parquet",
        quarantine="<results>/bench/wildbench.quarantine.parquet",
    log:
        "<results>/logs/bench/wildbench.log",
    benchmark:
        "<results>/benchmarks/bench/wildbench.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        tasks=constant(
            tasks=located(CONFIG.wildbench.tasks, "wildbench"),
            limit=CONFIG.wildbench.limit,
            prompt=CONFIG.wildbench.prompt,
        ),
    shell:
        "python -m diffinfo.bench.questions wildbench {params.tasks:q}"
        " --out {output.table:q} --quarantine {output.quarantine:q} 2> {log:q}"
