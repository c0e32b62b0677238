# Judging: Arena-Hard under a cheap judge at every epoch, then the best epoch under the final judges (Tables 2 and 3).
# Needs: results/answers, results/bench. Gives: results/arena_hard, results/wildbench.
REWARD = CONFIG.wildbench.reward
RUN = "{model}/{dataset}/{method}"
CACHE = f"--cache {RESULTS}/.progress/judgments"  # of all runs: what is paid once is paid for all


def each_span(pattern):
    """A table of every span of a cell."""

    def tables(wildcards):
        return [pattern.replace("{span}", span) for span in spans(cell_of(wildcards))]

    return tables


def judge_model(name):
    """The judge's folder where it runs here."""
    judge = CONFIG.judges[name]
    return [f"<shared>/base/{judge.model}"] if judge.runs_here else []


def judging(name, **settings):
    """A judge and what is made of its verdicts; the endpoint's key stays in the environment."""
    judge = CONFIG.judges[name]
    if not judge.runs_here:
        return constant(settings={"judge": judge, **settings})
    known = {"judge": judge}
    if judge.kind == "reward-model":
        known = {"judge": judge.model_dump(include={"kind", "model"}), "scoring": computation(judge.model)}
    return constant(settings={**known, **settings}, judge_model=f"{CONFIG.shared}/base/{judge.model}")


def categories_table(wildcards, output):
    """Where Arena-Hard's win rates by category go, if there are categories."""
    return arguments(categories=output.get("categories"))


def environment(name):
    """The file of envs/ that holds what judges."""
    return f"../../envs/{'vllm' if CONFIG.judges[name].serve else 'base'}.yaml"


rule arena_hard_select:
    """Judge every epoch of a span on Arena-Hard with the cheap judge."""
    input:
        answers=f"<results>/answers/{RUN}/{{span}}.parquet",
        questions="<results>/bench/arena-hard.parquet",
        tokenizer="<shared>/base/{model}",
        judge=judge_model(ARENA.select_judge),
    output:
        judgments=f"<results>/arena_hard/{RUN}/{{span}}/judgments.parquet",
        winrates=f"<results>/arena_hard/{RUN}/{{span}}/winrates.parquet",
    log:
        f"<results>/logs/arena_hard/{RUN}/{{span}}.log",
    benchmark:
        f"<results>/benchmarks/arena_hard/{RUN}/{{span}}.tsv"
    conda:
        environment(ARENA.select_judge)
    threads: cpus
    resources:
        **RESOURCES,
    params:
        answers=listed("answers"),
        settings=judging(ARENA.select_judge, bootstrap=ARENA.bootstrap, seed=ARENA.seed),
    shell:
        "python -m diffinfo.bench.arena_hard {params.answers:q} --questions {input.questions:q} {params.settings:q}"
        f" {CACHE}"
        " --tokenizer {input.tokenizer:q} --judgments {output.judgments:q} --winrates {output.winrates:q} 2> {log:q}"


rule arena_hard:
    """Judge the best epoch of a run on Arena-Hard with the final judge, and each half where the other half's best is another."""
    input:
        answers=each_span(f"<results>/answers/{RUN}/{{span}}.parquet"),
        select=each_span(f"<results>/arena_hard/{RUN}/{{span}}/winrates.parquet"),
        verdicts=each_span(f"<results>/arena_hard/{RUN}/{{span}}/judgments.parquet"),
        questions="<results>/bench/arena-hard.parquet",
        tokenizer="<shared>/base/{model}",
        judge=judge_model(ARENA.judge),
    output:
        **({"categories": f"<results>/arena_hard/{RUN}/final/categories.parquet"} if ARENA.categories else {}),
        judgments=f"<results>/arena_hard/{RUN}/final/judgments.parquet",
        winrates=f"<results>/arena_hard/{RUN}/final/winrates.parquet",
        apart=f"<results>/arena_hard/{RUN}/final/apart.parquet",
    log:
        f"<results>/logs/arena_hard/{RUN}/final.log",
    benchmark:
        f"<results>/benchmarks/arena_hard/{RUN}/final.tsv"
    conda:
        environment(ARENA.judge)
    threads: cpus
    resources:
        **RESOURCES,
    params:
        answers=listed("answers", "select", "verdicts"),
        categories=categories_table,
        settings=judging(ARENA.judge, bootstrap=ARENA.bootstrap, seed=ARENA.seed),
    shell:
        "python -m diffinfo.bench.arena_hard {params.answers:q} --questions {input.questions:q} {params.settings:q}"
        f" {CACHE}"
        " --tokenizer {input.tokenizer:q} --judgments {output.judgments:q} --winrates {output.winrates:q}"
        " --apart {output.apart:q} {params.categories:q} 2> {log:q}"


rule wildbench:
    """Grade the best epoch of a run on WildBench."""
    input:
        answers=each_span(f"<results>/answers/{RUN}/{{span}}.parquet"),
        select=each_span(f"<results>/arena_hard/{RUN}/{{span}}/winrates.parquet"),
        tasks="<results>/bench/wildbench.parquet",
        judge=judge_model(CONFIG.wildbench.judge),
    output:
        f"<results>/wildbench/{RUN}/judgments.parquet",
    log:
        f"<results>/logs/wildbench/{RUN}.log",
    benchmark:
        f"<results>/benchmarks/wildbench/{RUN}.tsv"
    conda:
        environment(CONFIG.wildbench.judge)
    threads: cpus
    resources:
        **RESOURCES,
    params:
        answers=listed("answers", "select"),
        settings=judging(CONFIG.wildbench.judge),
    shell:
        "python -m diffinfo.bench.wildbench {params.answers:q} --tasks {input.tasks:q}"
        f" {{params.settings:q}} {CACHE} --out {{output:q}} 2> {{log:q}}"


if REWARD:

    def baseline_file(wildcards):
        """A public model's answers, where they are a local file."""
        return question_files(REWARD.baselines[wildcards.baseline])(wildcards)

    def against(wildcards):
        """A public model and its answers."""
        return arguments(against=wildcards.baseline, baseline=REWARD.baselines[wildcards.baseline])

    rule wildbench_reward:
        """Compare the best epoch of a run on WildBench with a baseline."""
        input:
            question_files(REWARD.prompt),
            answers=each_span(f"<results>/answers/{RUN}/{{span}}.parquet"),
            select=each_span(f"<results>/arena_hard/{RUN}/{{span}}/winrates.parquet"),
            tasks="<results>/bench/wildbench.parquet",
            baseline=baseline_file,
            judge=judge_model(REWARD.judge),
        output:
            f"<results>/wildbench/{RUN}/{{baseline}}/judgments.parquet",
        log:
            f"<results>/logs/wildbench/{RUN}/{{baseline}}.log",
        benchmark:
            f"<results>/benchmarks/wildbench/{RUN}/{{baseline}}.tsv"
        wildcard_constraints:
            baseline=one_of(REWARD.baselines),
        conda:
            environment(REWARD.judge)
        threads: cpus
        resources:
            **RESOURCES,
        params:
            answers=listed("answers", "select"),
            against=against,
            settings=judging(REWARD.judge, length_margin=REWARD.length_margin, prompt=REWARD.prompt),
        shell:
            "python -m diffinfo.bench.wb_reward {params.answers:q} --tasks {input.tasks:q}"
            f" {{params.against:q}} {{params.settings:q}} {CACHE} --out {{output:q}} 2> {{log:q}}"
