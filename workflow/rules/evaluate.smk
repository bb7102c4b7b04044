rule evaluate:
    input:
        settings=f"{RUN}/settings/evaluate.json",
        store=f"{RUN}/tokens.done",
        weights=expand(f"{RUN}/train/{{model}}/model.safetensors", model=MODELS),
    output:
        f"{RUN}/evaluate/evaluate.json",
    log:
        f"{RUN}/logs/evaluate.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics evaluate --config {input.settings:q} 2>&1 | tee -i {log:q}"


rule species:
    input:
        settings=f"{RUN}/settings/species.json",
        store=f"{RUN}/tokens.done",
        weights=f"{RUN}/train/titans/model.safetensors",
        files=[entry.path for entry in CONFIG.species.classes if entry.path],
    output:
        f"{RUN}/species/species.json",
    log:
        f"{RUN}/logs/species.log",
    benchmark:
        f"{RUN}/benchmarks/species.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics species --config {input.settings:q} 2>&1 | tee -i {log:q}"


rule needle:
    input:
        settings=f"{RUN}/settings/needle.json",
        store=f"{RUN}/tokens.done",
        weights=expand(f"{RUN}/train/{{model}}/model.safetensors", model=MODELS),
    output:
        f"{RUN}/needle/needle.json",
    log:
        f"{RUN}/logs/needle.log",
    benchmark:
        f"{RUN}/benchmarks/needle.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics needle --config {input.settings:q} 2>&1 | tee -i {log:q}"


rule variants:
    input:
        settings=f"{RUN}/settings/variants.json",
        store=f"{RUN}/tokens.done",
        weights=expand(f"{RUN}/train/{{model}}/model.safetensors", model=MODELS),
        sets=[entry.path for entry in CONFIG.variants.sets],
    output:
        f"{RUN}/variants/variants.json",
    log:
        f"{RUN}/logs/variants.log",
    benchmark:
        f"{RUN}/benchmarks/variants.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics variants --config {input.settings:q} 2>&1 | tee -i {log:q}"
