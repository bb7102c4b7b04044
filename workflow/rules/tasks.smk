# What models are trained on directly: state tracking and forecasting, which need no tokens, and needles in text.


localrules:
    learned,
    niah,


rule learn:
    input:
        settings=f"{RUN}/settings/{{task}}/{{model}}.json",
        files=lambda wildcards: TASK_FILES[wildcards.task],
    output:
        f"{RUN}/{{task}}/{{model}}/seed{{seed}}/result.json",
    log:
        f"{RUN}/logs/{{task}}_{{model}}_seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/{{task}}_{{model}}_seed{{seed}}.tsv"
    wildcard_constraints:
        task="states|forecast",
        seed=r"\d+",
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics {wildcards.task} --config {input.settings:q} --model {wildcards.model} --seed {wildcards.seed} 2>&1 | tee -i {log:q}"


rule niah_model:
    input:
        settings=f"{RUN}/settings/niah/{{model}}.json",
        store=f"{RUN}/tokens.done",
        weights=f"{RUN}/train/{{model}}/model.safetensors" if CONFIG.niah.start == "trained" else [],
        files=TASK_FILES["niah"],
    output:
        f"{RUN}/niah/{{model}}/result.json",
    log:
        f"{RUN}/logs/niah_{{model}}.log",
    benchmark:
        f"{RUN}/benchmarks/niah_{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics niah --config {input.settings:q} --model {wildcards.model} 2>&1 | tee -i {log:q}"


rule lm_eval:
    input:
        settings=f"{RUN}/settings/lm_eval.json",
        store=f"{RUN}/tokens.done",
        weights=expand(f"{RUN}/train/{{model}}/model.safetensors", model=MODELS),
    output:
        f"{RUN}/lm_eval/lm_eval.json",
    log:
        f"{RUN}/logs/lm_eval.log",
    benchmark:
        f"{RUN}/benchmarks/lm_eval.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=16000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics lm-eval --config {input.settings:q} 2>&1 | tee -i {log:q}"


rule learned:
    input:
        settings=f"{RUN}/settings/{{task}}.json",
        results=lambda wildcards: [
            f"{RUN}/{wildcards.task}/{model}/seed{seed}/result.json"
            for model, seeds in CONFIG.fits(wildcards.task).items()
            for seed in seeds
        ],
    output:
        f"{RUN}/{{task}}/{{task}}.json",
    log:
        f"{RUN}/logs/{{task}}.log",
    wildcard_constraints:
        task="states|forecast",
    # One table of all models and seeds.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "titans-genomics {wildcards.task} --config {input.settings:q} --table 2>&1 | tee -i {log:q}"


rule niah:
    input:
        settings=f"{RUN}/settings/niah.json",
        results=expand(f"{RUN}/niah/{{model}}/result.json", model=MODELS),
    output:
        f"{RUN}/niah/niah.json",
    log:
        f"{RUN}/logs/niah.log",
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "titans-genomics niah --config {input.settings:q} --table 2>&1 | tee -i {log:q}"
