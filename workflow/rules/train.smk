# SFT, reference log-probabilities and preference optimisation.
# Needs: results/base, results/data. Gives: results/sft, results/reference_logps, results/train, with log-probabilities of
# pairs that are never trained on.
# How often states are saved is a resource, for a change of it need not rerun what was trained.


SPANS = "<results>/train/{model}/{dataset}/{method}"


def earlier_span(wildcards):
    """The span that a later one resumes from."""
    first = int(wildcards.span.split("-")[0])
    if first == 1 or longer_span(wildcards):
        return []
    earlier = span_of(cell_of(wildcards), first - 1)
    if int(earlier.split("-")[1]) != first - 1:
        refuse(f"epochs {wildcards.span} of {cell_of(wildcards)} cannot resume inside of {earlier}.")
    return f"{SPANS}/{earlier}/models"


def longer_span(wildcards):
    """What a span with the same first epoch and a later last one left, where it was trained before."""
    first, last = map(int, wildcards.span.split("-"))
    there = [tuple(map(int, span.split("-"))) for span in trained(cell_of(wildcards))]
    lasts = [end for start, end in there if start == first and end > last]
    names = ("models", "train_log.parquet", "train_speed.parquet") if lasts else ()
    return [f"{SPANS}/{first}-{min(lasts)}/{name}" for name in names]


def watched(stage):
    """Where a training job keeps its state, and its curves."""

    def folders(wildcards):
        cell = [wildcards[name] for name in ("model", "dataset", "method") if name in wildcards.keys()]
        return arguments(
            progress_dir=f"{CONFIG.results}/.progress/train",
            events=os.path.join(CONFIG.results, "tensorboard", wildcards.get("did", stage), *cell),
        )

    return folders


def sft_settings(wildcards):
    """The ``sft`` part, and the limits that SFT shares with preference optimisation."""
    shared = {"max_tokens": CONFIG.preference.max_tokens, "processes": CONFIG.preference.processes}
    return arguments(settings={"sft": CONFIG.sft, **shared, **training(wildcards)})


def reference_settings(wildcards):
    """How pairs are scored, and which are too long."""
    limits = CONFIG.preference.model_dump(include={"max_prompt_tokens", "max_tokens"})
    return arguments(settings={**limits, **computation(wildcards)})


def heldout_settings(wildcards):
    """The same of the first held-out pairs."""
    limits = CONFIG.preference.model_dump(include={"max_prompt_tokens", "max_tokens"})
    return arguments(settings={**limits, "limit": CONFIG.preference.held_out, **computation(wildcards)})


def heldout_scoring(wildcards):
    """How an epoch scores them."""
    return arguments(settings=computation(wildcards))


def resumed(wildcards, input):
    """Where to resume from, or to take the epochs."""
    return arguments(resume=input.earlier or None, longer=list(input.longer) or None)


def preference_settings(wildcards):
    """The ``preference`` part without what only decides how epochs are spread over jobs.

    Of the hyper-parameters this method's alone: another method's may change without a rerun.
    """
    variant = methods.parse(wildcards.method)
    keys = set(variant.method.options())
    seed = {} if variant.seed is None else {"seed": variant.seed}
    first, last = map(int, wildcards.span.split("-"))
    settings = {
        "method": wildcards.method,
        "preference": preference_part(seed),
        "objectives": CONFIG.objectives.model_dump(include=keys),
        "first_epoch": first,
        "last_epoch": last,
    }
    return arguments(settings={**settings, **training(wildcards)})


rule sft:
    """Fine-tune a base model on the chosen responses: pi_ref."""
    input:
        model="<shared>/base/{model}",
        preferences="<results>/data/{dataset}/preferences.parquet",
    output:
        model=directory("<results>/sft/{model}/{dataset}/model"),
        log="<results>/sft/{model}/{dataset}/train_log.parquet",
        speed="<results>/sft/{model}/{dataset}/train_speed.parquet",
        quarantine="<results>/sft/{model}/{dataset}/quarantine.parquet",
    log:
        "<results>/logs/sft/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/sft/{model}/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(ORIGINS),
    priority: 50
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
        save_minutes=CONFIG.training.save_minutes,
    params:
        launch=launcher,
        settings=sft_settings,
        watch=watched("sft"),
    shell:
        "{params.launch:q} diffinfo.train.sft --model {input.model:q} --preferences {input.preferences:q}"
        " {params.settings:q} {params.watch:q}"
        " --save_minutes {resources.save_minutes:q}"
        " --model_out {output.model:q} --log_out {output.log:q} --speed_out {output.speed:q}"
        " --quarantine_out {output.quarantine:q} 2> {log:q}"


rule reference_logps:
    """Tokenise the pairs and score them under pi_ref, once for all methods."""
    input:
        *shares("reference_logps/{model}/{dataset}", CONFIG.preference.reference_jobs),
        model=PI_REF,
        preferences="<results>/data/{dataset}/preferences.parquet",
    output:
        table="<results>/reference_logps/{model}/{dataset}.parquet",
        quarantine="<results>/reference_logps/{model}/{dataset}.quarantine.parquet",
    log:
        "<results>/logs/reference_logps/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/reference_logps/{model}/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(set(CONFIG.datasets) - set(PERMUTED)),
    priority: 50
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=reference_settings,
    shell:
        "python -m diffinfo.train.reference --model {input.model:q} --preferences {input.preferences:q}"
        f" {{params.settings:q}} {PARTS} --out {{output.table:q}}"
        " --quarantine_out {output.quarantine:q} 2> {log:q}"


rule reference_share:
    """Score a share of the pairs, where several jobs do."""
    input:
        model=PI_REF,
        preferences="<results>/data/{dataset}/preferences.parquet",
    output:
        a_share("reference_logps/{model}/{dataset}"),
    log:
        "<results>/logs/reference_logps/{model}/{dataset}-{share}.log",
    benchmark:
        "<results>/benchmarks/reference_logps/{model}/{dataset}-{share}.tsv"
    priority: 50
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        settings=with_share(reference_settings),
    shell:
        "python -m diffinfo.train.reference --model {input.model:q} --preferences {input.preferences:q}"
        f" {{params.settings:q}} {PARTS} --out {{output:q}} 2> {{log:q}}"


rule permuted_logps:
    """The same for permuted labels: the origin's table with labels swapped, for pi_ref and the responses are the same."""
    input:
        of_origin("<results>/reference_logps/{model}/{dataset}.parquet"),
    output:
        "<results>/reference_logps/{model}/{dataset}.parquet",
    log:
        "<results>/logs/reference_logps/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/reference_logps/{model}/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(PERMUTED),
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        seed=labels_seed,
    shell:
        "python -m diffinfo.data.permuted --pairs {input:q} {params.seed:q} --out {output:q} 2> {log:q}"


rule preference:
    """Train one method from pi_ref for the epochs of a span; a killed job resumes from its last checkpoint."""
    input:
        model=PI_REF,
        reference="<results>/reference_logps/{model}/{dataset}.parquet",
        earlier=earlier_span,
        longer=longer_span,
    output:
        models=directory("<results>/train/{model}/{dataset}/{method}/{span}/models"),
        log="<results>/train/{model}/{dataset}/{method}/{span}/train_log.parquet",
        speed="<results>/train/{model}/{dataset}/{method}/{span}/train_speed.parquet",
    log:
        "<results>/logs/train/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "<results>/benchmarks/train/{model}/{dataset}/{method}/{span}.tsv"
    priority: 40
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
        save_minutes=CONFIG.training.save_minutes,
    params:
        launch=launcher,
        settings=preference_settings,
        resume=resumed,
        watch=watched("train"),
    shell:
        "{params.launch:q} diffinfo.train.preference --model {input.model:q} --reference {input.reference:q}"
        " {params.settings:q} {params.resume:q} {params.watch:q}"
        " --save_minutes {resources.save_minutes:q}"
        " --models_out {output.models:q} --log_out {output.log:q} --speed_out {output.speed:q} 2> {log:q}"


use rule reference_logps as heldout_reference with:
    input:
        model="<results>/sft/{model}/{dataset}/model",
        preferences="<results>/data/{dataset}/heldout.parquet",
    output:
        table="<results>/reference_logps/{model}/{dataset}/heldout.parquet",
        quarantine="<results>/reference_logps/{model}/{dataset}/heldout.quarantine.parquet",
    log:
        "<results>/logs/reference_logps/{model}/{dataset}/heldout.log",
    benchmark:
        "<results>/benchmarks/reference_logps/{model}/{dataset}/heldout.tsv"
    params:
        settings=heldout_settings,


rule heldout:
    """Score held-out pairs with every epoch of a span (ours)."""
    input:
        models=f"{SPANS}/{{span}}/models",
        reference=of_origin("<results>/reference_logps/{model}/{dataset}/heldout.parquet"),
    output:
        f"{SPANS}/{{span}}/heldout.parquet",
    log:
        "<results>/logs/train/{model}/{dataset}/{method}/{span}.heldout.log",
    benchmark:
        "<results>/benchmarks/train/{model}/{dataset}/{method}/{span}.heldout.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        settings=heldout_scoring,
    shell:
        "python -m diffinfo.train.heldout --models {input.models:q} {params.epochs:q} --reference {input.reference:q}"
        " {params.settings:q} --out {output:q} 2> {log:q}"
