# Preference pairs from sampled and scored candidates (Magpie-G27, J.2).
# Needs: results/data/<dataset>/prompts.parquet, the teacher, the reward model. Gives: completions, scores, preferences; the
# same of the first held-out prompts under heldout/, and heldout.parquet. sampling.jobs share the parts of a table.
def teacher_sampling(wildcards):
    """Settings of a job that samples the teacher."""
    return sampling(CONFIG.sampling.model, **CONFIG.sampling.model_dump(exclude={"model", "jobs"}))


def heldout_sampling(wildcards):
    """The same of some held-out prompts, in draws of their own."""
    settings = CONFIG.sampling.model_dump(exclude={"model", "jobs"})
    return sampling(CONFIG.sampling.model, **settings, limit=CONFIG.preference.held_out, stream="held out")


def magpie_settings(wildcards):
    """How the teacher writes prompts."""
    settings = {"magpie": CONFIG.magpie.model_dump(exclude={"min_reward"}), "engine": CONFIG.engine}
    return arguments(settings={**settings, **kernel(CONFIG.sampling.model), "stream": wildcards.dataset})


def least_reward(wildcards):
    """Below it a prompt is left out, where a model wrote the prompts."""
    magpie = CONFIG.datasets[wildcards.dataset].source == "magpie"
    return arguments(min_reward=CONFIG.magpie.min_reward if magpie else None)


rule magpie_prompts:
    """Let the teacher write prompts, given its pre-query template alone, and filter them (Magpie)."""
    input:
        f"<shared>/base/{CONFIG.sampling.model}",
    output:
        prompts="<results>/magpie/{dataset}.parquet",
        quarantine="<results>/magpie/{dataset}.quarantine.parquet",
    log:
        "<results>/logs/magpie/{dataset}.log",
    benchmark:
        "<results>/benchmarks/magpie/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(name for name in SAMPLED if CONFIG.datasets[name].source == "magpie"),
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=magpie_settings,
    shell:
        "python -m diffinfo.sample.magpie --model {input:q} {params.settings:q}"
        f" {PARTS} --out {{output.prompts:q}} --quarantine {{output.quarantine:q}} 2> {{log:q}}"


rule sample_responses:
    """Sample candidate responses from the teacher (J.2)."""
    input:
        *shares("data/{dataset}/sample", CONFIG.sampling.jobs),
        model=f"<shared>/base/{CONFIG.sampling.model}",
        prompts="<results>/data/{dataset}/prompts.parquet",
    output:
        "<results>/data/{dataset}/completions.parquet",
    log:
        "<results>/logs/data/{dataset}/sample.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/sample.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=teacher_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {input.model:q} {params.prompts:q} {params.settings:q}"
        f" {PARTS} --out {{output:q}} 2> {{log:q}}"


rule score_responses:
    """Score every candidate with the reward model."""
    input:
        *shares("data/{dataset}/score", CONFIG.sampling.jobs),
        model=f"<shared>/base/{CONFIG.reward_model}",
        completions="<results>/data/{dataset}/completions.parquet",
    output:
        "<results>/data/{dataset}/scores.parquet",
    log:
        "<results>/logs/data/{dataset}/score.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/score.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=scoring,
    shell:
        "python -m diffinfo.reward --model {input.model:q} --completions {input.completions:q} {params.settings:q}"
        f" {PARTS} --out {{output:q}} 2> {{log:q}}"


use rule sample_responses as sample_share with:
    input:
        model=f"<shared>/base/{CONFIG.sampling.model}",
        prompts="<results>/data/{dataset}/prompts.parquet",
    output:
        a_share("data/{dataset}/sample"),
    log:
        "<results>/logs/data/{dataset}/sample-{share}.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/sample-{share}.tsv"
    params:
        settings=with_share(teacher_sampling),
        prompts=listed("prompts"),


use rule score_responses as score_share with:
    input:
        model=f"<shared>/base/{CONFIG.reward_model}",
        completions="<results>/data/{dataset}/completions.parquet",
    output:
        a_share("data/{dataset}/score"),
    log:
        "<results>/logs/data/{dataset}/score-{share}.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/score-{share}.tsv"
    params:
        settings=with_share(scoring),


rule pair_responses:
    """Take the best and the worst response of each prompt."""
    input:
        completions="<results>/data/{dataset}/completions.parquet",
        scores="<results>/data/{dataset}/scores.parquet",
    output:
        preferences="<results>/data/{dataset}/preferences.parquet",
        quarantine="<results>/data/{dataset}/quarantine_pairs.parquet",
    log:
        "<results>/logs/data/{dataset}/pairs.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/pairs.tsv"
    wildcard_constraints:
        dataset=one_of(SAMPLED),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        least=least_reward,
    shell:
        "python -m diffinfo.data.pairs --completions {input.completions:q} --scores {input.scores:q} {params.least:q}"
        " --preferences {output.preferences:q} --quarantine {output.quarantine:q} 2> {log:q}"


use rule sample_responses as heldout_responses with:
    input:
        model=f"<shared>/base/{CONFIG.sampling.model}",
        prompts="<results>/data/{dataset}/test_prompts.parquet",
    output:
        "<results>/data/{dataset}/heldout/completions.parquet",
    log:
        "<results>/logs/data/{dataset}/heldout.sample.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/heldout.sample.tsv"
    params:
        settings=heldout_sampling,
        prompts=listed("prompts"),


use rule score_responses as heldout_scores with:
    input:
        model=f"<shared>/base/{CONFIG.reward_model}",
        completions="<results>/data/{dataset}/heldout/completions.parquet",
    output:
        "<results>/data/{dataset}/heldout/scores.parquet",
    log:
        "<results>/logs/data/{dataset}/heldout.score.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/heldout.score.tsv"


use rule pair_responses as heldout_pairs with:
    input:
        completions="<results>/data/{dataset}/heldout/completions.parquet",
        scores="<results>/data/{dataset}/heldout/scores.parquet",
    output:
        preferences="<results>/data/{dataset}/heldout.parquet",
        quarantine="<results>/data/{dataset}/heldout/quarantine_pairs.parquet",
    log:
        "<results>/logs/data/{dataset}/heldout.pairs.log",
    benchmark:
        "<results>/benchmarks/data/{dataset}/heldout.pairs.tsv"
