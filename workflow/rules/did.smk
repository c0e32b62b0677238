# Entropy of the DID through its proxy (Table 2, Figure 13, Appendix K).
# Needs: results/sft, results/train, results/data. Gives: results/did, and with pairs that are always sampled results/did_sampled.
NAME = "{did}/{model}/{dataset}/{method}/epoch-{epoch}"
DID = f"<results>/{NAME}"


def proxy_settings(wildcards):
    """The proxy's training as a ``preference`` part: one epoch of r = log pi."""
    did = CONFIG.did
    settings = {"batch_size": did.batch_size, "learning_rate": did.learning_rate, "warmup_steps": did.warmup_steps}
    proxy = {"method": "logpi-b1", "preference": preference_part(settings), "first_epoch": 1, "last_epoch": 1}
    return arguments(settings={**proxy, **training(wildcards)})


def proxy_sampling(wildcards):
    """How the proxy is sampled, and on which prompts: those after the ones it was trained on."""
    limits = {"skip": CONFIG.did.prompts, "max_prompt_tokens": CONFIG.preference.max_prompt_tokens}
    parts = {"entropy": CONFIG.entropy, "engine": CONFIG.engine}
    return arguments(settings={**parts, **limits, **computation(wildcards)})


def did_sampling(wildcards):
    """How the proxy's pairs are decoded; pi_ref's draws are not pi's, for y_w and y_l are independent in the theory."""
    temperature = 0.0 if wildcards.did == "did" and CONFIG.did.decode == "greedy" else 1.0
    stream = {"stream": "reference"} if temperature and wildcards.method == "ref" else {}
    e = CONFIG.entropy
    decoding = {"temperature": temperature, "max_tokens": e.max_tokens, "seed": e.seed}
    return sampling(wildcards, **decoding, limit=CONFIG.did.prompts, **stream)


rule did_completions:
    """Decode the responses of a policy that the DID proxy learns from."""
    input:
        *shares(f"{NAME}/completions", CONFIG.did.jobs),
        models=policy_at,
        prompts=of_origin("<results>/data/{dataset}/prompts.parquet"),
    output:
        f"{DID}/completions.parquet",
    log:
        "<results>/logs/{did}/{model}/{dataset}/{method}/epoch-{epoch}.completions.log",
    benchmark:
        "<results>/benchmarks/{did}/{model}/{dataset}/{method}/epoch-{epoch}.completions.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        folder=epoch_folder,
        settings=did_sampling,
        prompts=listed("prompts"),
    shell:
        "python -m diffinfo.sample.complete --models {params.folder:q} {params.prompts:q} {params.settings:q}"
        f" {PARTS} --out {{output:q}} 2> {{log:q}}"


use rule did_completions as did_share with:
    input:
        models=policy_at,
        prompts=of_origin("<results>/data/{dataset}/prompts.parquet"),
    output:
        a_share(f"{NAME}/completions"),
    log:
        f"<results>/logs/{NAME}.completions-{{share}}.log",
    benchmark:
        f"<results>/benchmarks/{NAME}.completions-{{share}}.tsv"
    params:
        folder=epoch_folder,
        settings=with_share(did_sampling),
        prompts=listed("prompts"),


rule did_pairs:
    """Pair y_w of the policy with y_l of pi_ref."""
    input:
        chosen=f"{DID}/completions.parquet",
        rejected=of_origin("<results>/{did}/{model}/{dataset}/ref/epoch-0/completions.parquet"),
    output:
        f"{DID}/pairs.parquet",
    log:
        "<results>/logs/{did}/{model}/{dataset}/{method}/epoch-{epoch}.pairs.log",
    benchmark:
        "<results>/benchmarks/{did}/{model}/{dataset}/{method}/epoch-{epoch}.pairs.tsv"
    conda:
        "../../envs/base.yaml"
    resources:
        **RESOURCES,
    shell:
        "python -m diffinfo.entropy.did pairs --chosen {input.chosen:q} --rejected {input.rejected:q} --out {output:q} 2> {log:q}"


rule did_train:
    """Train the proxy with r = log pi from pi_ref."""
    input:
        model=PI_REF,
        pairs=f"{DID}/pairs.parquet",
    output:
        model=directory(f"{DID}/model"),
        log=f"{DID}/train_log.parquet",
        speed=f"{DID}/train_speed.parquet",
    log:
        "<results>/logs/{did}/{model}/{dataset}/{method}/epoch-{epoch}.proxy.log",
    benchmark:
        "<results>/benchmarks/{did}/{model}/{dataset}/{method}/epoch-{epoch}.proxy.tsv"
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
        save_minutes=CONFIG.training.save_minutes,
    params:
        launch=launcher,
        settings=proxy_settings,
        watch=watched("did"),
    shell:
        "{params.launch:q} diffinfo.train.preference --model {input.model:q} --reference {input.pairs:q}"
        " {params.settings:q} --keep_last_only true {params.watch:q}"
        " --save_minutes {resources.save_minutes:q}"
        " --models_out {output.model:q} --log_out {output.log:q} --speed_out {output.speed:q} 2> {log:q}"


rule did_entropy:
    """Sample the proxy on prompts that it was not trained on: its entropy and beta'-accuracy."""
    input:
        proxy=f"{DID}/model",
        prompts=of_origin("<results>/data/{dataset}/prompts.parquet"),
        models=policy_at,
        reference=PI_REF,
    output:
        samples=f"{DID}/samples.parquet",
        entropy=f"{DID}/entropy.parquet",
    log:
        "<results>/logs/{did}/{model}/{dataset}/{method}/epoch-{epoch}.entropy.log",
    benchmark:
        "<results>/benchmarks/{did}/{model}/{dataset}/{method}/epoch-{epoch}.entropy.tsv"
    conda:
        ENGINE_ENV
    threads: cpus
    resources:
        **RESOURCES,
    params:
        folder=epoch_folder,
        settings=proxy_sampling,
    shell:
        "python -m diffinfo.entropy.did measure --proxy {input.proxy:q} --prompts {input.prompts:q}"
        " --policy {params.folder:q} --reference {input.reference:q} {params.settings:q}"
        f" {PARTS} --samples {{output.samples:q}} --out {{output.entropy:q}} 2> {{log:q}}"
