# SFT, reference log-probabilities and preference optimisation.
# Needs: results/base, results/data. Gives: results/sft, results/reference_logps, results/train.
# How often states are saved is a resource, for a change of it need not rerun what was trained.


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
        settings=sft_settings,
        common=training_common,
        watch=watched("sft"),
    shell:
        "{params.launch:q} diffinfo.train.sft --model {input.model:q} --preferences {input.preferences:q}"
        " {params.settings:q} {params.common:q} {params.watch:q}"
        " --save_minutes {resources.save_minutes:q}"
        " --model_out {output.model:q} --log_out {output.log:q} --speed_out {output.speed:q}"
        " --quarantine_out {output.quarantine:q} 2> {log:q}"


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
        model=kernel,
        limits=constant(
            max_prompt_tokens=CONFIG.preference.max_prompt_tokens,
            max_tokens=CONFIG.preference.max_tokens,
            budget=CONFIG.training.micro_batch_tokens,
        ),
    shell:
        "python -m diffinfo.train.reference --model {input.model:q} --preferences {input.preferences:q}"
        " {params.model:q} {params.limits:q} --out {output.table:q}"
        " --quarantine_out {output.quarantine:q} 2> {log:q}"


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
        settings=preference_settings,
        epochs=training_arguments,
        watch=watched("train"),
    shell:
        "{params.launch:q} diffinfo.train.preference --model {input.model:q} --reference {input.reference:q}"
        " {params.settings:q} {params.common:q} {params.epochs:q} {params.watch:q}"
        " --save_minutes {resources.save_minutes:q}"
        " --models_out {output.models:q} --log_out {output.log:q} --speed_out {output.speed:q} 2> {log:q}"
