# Ours, beside the paper's Table 2: size and direction of every update, and H(q_T) of the DID without a proxy.
# Needs: results/{sft,train,data,entropy,qa,reward}.
# Gives: results/{update,path,target,smc}, results/{tables,figures}/{updates,target,did_smc}.*, results/tables/matched.*
from itertools import pairwise

from diffinfo.measures import PATH, QA_ITEMS, SCORES, SMC, TARGET, UPDATE

OURS = {
    "updates": ((PATH, UPDATE), "update"),
    "target": ((TARGET,), "target"),
    "did_smc": ((SMC,), "smc"),
}


def ours_targets():
    """The table of each measure that some cell of the grid has."""
    found = [f"<results>/tables/{name}.md" for name, (_, measure) in OURS.items() if cells(measure)]
    return found + (["<results>/tables/matched.md"] if cells("update") else [])


def along_paths():
    """QA items and scores where updates are measured, those of pi_ref too."""
    rows = {(model, dataset) for model, dataset, _ in cells("update")}
    found = paths(QA_ITEMS, "qa", datasets=ORIGINS, reference=True)
    found += paths(SCORES, "expected_reward", datasets=ORIGINS, reference=True)
    return [path for path in found if rows & set(pairwise(path.split("/")))]


def smc_settings(wildcards):
    """Particles and lengths, on prompts that the DID proxy has not seen."""
    limits = {"skip": CONFIG.did.prompts, "max_prompt_tokens": CONFIG.preference.max_prompt_tokens}
    return arguments(settings={"smc": CONFIG.smc, "engine": CONFIG.engine, **limits, **kernel(wildcards)})


def path_sampling(wildcards):
    """The first prompts of those of the entropy, sampled as they are there."""
    e = CONFIG.entropy
    limits = {"max_tokens": e.max_tokens, "limit": min(CONFIG.update.prompts, e.prompts)}
    return sampling(wildcards, n=e.samples, temperature=1.0, seed=e.seed, **limits)


def update_settings(wildcards):
    """How samples are scored."""
    return arguments(settings=computation(wildcards))


def target_settings(wildcards):
    """The reward that labels follow, and how sharply; the method's beta."""
    kind, beta = CONFIG.datasets[CONFIG.origin(wildcards.dataset)].reward, methods.parse(wildcards.method).beta
    return arguments(settings={"reward": kind, "sharpness": CONFIG.world.sharpness, "beta": beta})


rule update:
    """Measure size and direction of an update from samples of pi and of pi_ref."""
    input:
        models=policy_at,
        reference=PI_REF,
        samples="<results>/entropy/{model}/{dataset}/{method}/epoch-{epoch}.completions.parquet",
        reference_samples=of_origin("<results>/entropy/{model}/{dataset}/ref/epoch-0.completions.parquet"),
    output:
        table="<results>/update/{model}/{dataset}/{method}/epoch-{epoch}.parquet",
        samples="<results>/update/{model}/{dataset}/{method}/epoch-{epoch}.samples.parquet",
    log:
        "<results>/logs/update/{model}/{dataset}/{method}/epoch-{epoch}.log",
    benchmark:
        "<results>/benchmarks/update/{model}/{dataset}/{method}/epoch-{epoch}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        folder=epoch_folder,
        settings=update_settings,
    shell:
        "python -m diffinfo.entropy.update --policy {params.folder:q} --reference {input.reference:q}"
        " --policy_samples {input.samples:q} --reference_samples {input.reference_samples:q} {params.settings:q}"
        " --out {output.table:q} --samples {output.samples:q} 2> {log:q}"


rule target_distance:
    """Measure how far a policy is from pi* ∝ pi_ref p*^(1/beta), where p* is known."""
    input:
        scored="<results>/update/{model}/{dataset}/{method}/epoch-{epoch}.samples.parquet",
        samples="<results>/entropy/{model}/{dataset}/{method}/epoch-{epoch}.completions.parquet",
        reference_samples=of_origin("<results>/entropy/{model}/{dataset}/ref/epoch-0.completions.parquet"),
    output:
        "<results>/target/{model}/{dataset}/{method}/epoch-{epoch}.parquet",
    log:
        "<results>/logs/target/{model}/{dataset}/{method}/epoch-{epoch}.log",
    benchmark:
        "<results>/benchmarks/target/{model}/{dataset}/{method}/epoch-{epoch}.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        settings=target_settings,
    shell:
        "python -m diffinfo.entropy.target --samples {input.scored:q} --policy_samples {input.samples:q}"
        " --reference_samples {input.reference_samples:q} {params.settings:q} --out {output:q} 2> {log:q}"


rule path_samples:
    """Sample every epoch of a span at temperature 1, on few prompts."""
    input:
        models=policy,
        prompts=of_origin("<results>/data/{dataset}/prompts.parquet"),
    output:
        "<results>/path/{model}/{dataset}/{method}/{span}.completions.parquet",
    log:
        "<results>/logs/path/{model}/{dataset}/{method}/{span}.samples.log",
    benchmark:
        "<results>/benchmarks/path/{model}/{dataset}/{method}/{span}.samples.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        settings=path_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {input.models:q} {params.epochs:q} {params.prompts:q}"
        f" {{params.settings:q}} {PARTS} --out {{output:q}} 2> {{log:q}}"


rule path:
    """Measure the update at every epoch of a span."""
    input:
        models=policy,
        reference=of_origin("<results>/sft/{model}/{dataset}/model"),
        samples="<results>/path/{model}/{dataset}/{method}/{span}.completions.parquet",
        reference_samples=of_origin("<results>/entropy/{model}/{dataset}/ref/epoch-0.completions.parquet"),
    output:
        "<results>/path/{model}/{dataset}/{method}/{span}.parquet",
    log:
        "<results>/logs/path/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "<results>/benchmarks/path/{model}/{dataset}/{method}/{span}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        epochs=epoch_argument,
        settings=update_settings,
    shell:
        "python -m diffinfo.entropy.update --policy {input.models:q} --reference {input.reference:q} {params.epochs:q}"
        " --policy_samples {input.samples:q} --reference_samples {input.reference_samples:q} {params.settings:q}"
        " --out {output:q} 2> {log:q}"


rule matched:
    """Compare methods at equal KL from pi_ref."""
    input:
        "<results>/tables/updates.parquet",
        paths(PATH, "update", datasets=ORIGINS),
        along_paths(),
    output:
        data="<results>/tables/matched.parquet",
        also=multiext("<results>/tables/matched", *WRITTEN_BESIDE),
        page=shown("tables", "matched"),
    log:
        "<results>/logs/report/matched.log",
    benchmark:
        "<results>/benchmarks/report/matched.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    params:
        inputs=all_inputs,
    shell:
        "python -m diffinfo.report.matched {params.inputs:q} --out {output.data:q} 2> {log:q}"


rule smc:
    """Estimate H(q_T) of the DID by sequential Monte Carlo on both models, with its certificate."""
    input:
        models=policy_at,
        reference=PI_REF,
        prompts=of_origin("<results>/data/{dataset}/prompts.parquet"),
    output:
        "<results>/smc/{model}/{dataset}/{method}/epoch-{epoch}.parquet",
    log:
        "<results>/logs/smc/{model}/{dataset}/{method}/epoch-{epoch}.log",
    benchmark:
        "<results>/benchmarks/smc/{model}/{dataset}/{method}/epoch-{epoch}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        folder=epoch_folder,
        settings=smc_settings,
    shell:
        "python -m diffinfo.entropy.smc --policy {params.folder:q} --reference {input.reference:q}"
        " --prompts {input.prompts:q} {params.settings:q} --out {output:q} 2> {log:q}"


for NAME, (PATTERNS, MEASURE) in OURS.items():

    rule:
        """A table and a figure of what we measure beside Table 2."""
        name:
            NAME
        input:
            [path for pattern in PATTERNS for path in paths(pattern, MEASURE)],
        output:
            data=f"<results>/tables/{NAME}.parquet",
            also=multiext(f"<results>/tables/{NAME}", *WRITTEN_BESIDE),
            page=shown("tables", NAME),
            drawn=multiext(f"<results>/figures/{NAME}", *DRAWN_BESIDE),
            svg=shown("figures", NAME),
        log:
            f"<results>/logs/report/{NAME}.log",
        benchmark:
            f"<results>/benchmarks/report/{NAME}.tsv"
        conda:
            "../../envs/base.yaml"
        resources:
            **RESOURCES,
        params:
            name=NAME,
            inputs=all_inputs,
        shell:
            "python -m diffinfo.report.updates {params.name:q} {params.inputs:q} --out {output.data:q}"
            " --figure {output.svg:q} 2> {log:q}"
