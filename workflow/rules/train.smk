# SFT, reference log-probabilities and preference optimisation.
# Needs: results/base, results/data. Gives: results/sft, results/reference_logps, results/train.
# How often states are saved is a resource, for a change of it need not rerun what was trained.
WATCH = "--progress_dir results/.progress/train --events results/tensorboard"
SAVE = "--save_minutes {resources.save_minutes}"


rule sft:
    """Fine-tune a base model on the chosen responses: pi_ref."""
    input:
        model="results/base/{model}",
        preferences="results/data/{dataset}/preferences.parquet",
    output:
        model=directory("results/sft/{model}/{dataset}/model"),
        log="results/sft/{model}/{dataset}/train_log.parquet",
        speed="results/sft/{model}/{dataset}/train_speed.parquet",
        quarantine="results/sft/{model}/{dataset}/quarantine.parquet",
    log:
        "results/logs/sft/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/sft/{model}/{dataset}.tsv"
    priority: 50
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
        save_minutes=CONFIG.training.save_minutes,
    params:
        launch=launcher,
        settings=part("sft"),
        common=training_common,
        limits=f"--max_tokens {CONFIG.preference.max_tokens} --processes {CONFIG.preference.processes}",
        watch=f"{WATCH}/sft/{{model}}/{{dataset}}",
    shell:
        "{params.launch} diffinfo.train.sft --model {input.model} --preferences {input.preferences}"
        " --settings {params.settings:q} {params.common} {params.limits} {params.watch}"
        f" {SAVE}"
        " --model_out {output.model} --log_out {output.log} --speed_out {output.speed}"
        " --quarantine_out {output.quarantine} 2> {log}"


rule reference_logps:
    """Tokenise the pairs and score them under pi_ref, once for all methods."""
    input:
        model="results/sft/{model}/{dataset}/model",
        preferences="results/data/{dataset}/preferences.parquet",
    output:
        table="results/reference_logps/{model}/{dataset}.parquet",
        quarantine="results/reference_logps/{model}/{dataset}.quarantine.parquet",
    log:
        "results/logs/reference_logps/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/reference_logps/{model}/{dataset}.tsv"
    priority: 50
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
    params:
        attention=attention,
        dtype=dtype,
        limits=f"--max_prompt_tokens {CONFIG.preference.max_prompt_tokens} --max_tokens {CONFIG.preference.max_tokens}",
        budget=CONFIG.training.micro_batch_tokens,
    shell:
        "python -m diffinfo.train.reference --model {input.model} --preferences {input.preferences}"
        " --attention {params.attention} --dtype {params.dtype} {params.limits} --budget {params.budget}"
        " --out {output.table} --quarantine_out {output.quarantine} 2> {log}"


rule preference:
    """Train one method from pi_ref for the epochs of a span; a killed job goes on from its last savepoint."""
    input:
        model="results/sft/{model}/{dataset}/model",
        reference="results/reference_logps/{model}/{dataset}.parquet",
        earlier=earlier_span,
    output:
        models=directory("results/train/{model}/{dataset}/{method}/{span}/models"),
        log="results/train/{model}/{dataset}/{method}/{span}/train_log.parquet",
        speed="results/train/{model}/{dataset}/{method}/{span}/train_speed.parquet",
    log:
        "results/logs/train/{model}/{dataset}/{method}/{span}.log",
    benchmark:
        "results/benchmarks/train/{model}/{dataset}/{method}/{span}.tsv"
    priority: 40
    conda:
        "../../envs/base.yaml"
    threads: cpus
    resources:
        **RESOURCES,
        save_minutes=CONFIG.training.save_minutes,
    params:
        launch=launcher,
        common=training_common,
        settings=preference_settings(),
        objectives=objective_settings,
        epochs=training_arguments,
        watch=f"{WATCH}/train/{{model}}/{{dataset}}/{{method}}",
    shell:
        "{params.launch} diffinfo.train.preference --model {input.model} --reference {input.reference}"
        " --method {wildcards.method} --settings {params.settings:q} --objectives {params.objectives:q} {params.common}"
        " {params.epochs} {params.watch}"
        f" {SAVE}"
        " --models_out {output.models} --log_out {output.log} --speed_out {output.speed} 2> {log}"
