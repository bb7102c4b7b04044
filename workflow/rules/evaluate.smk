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


rule downstream:
    input:
        settings=f"{RUN}/settings/downstream.json",
        store=f"{RUN}/tokens.done",
        weights=f"{RUN}/train/titans/model.safetensors",
        species=[entry.path for entry in CONFIG.downstream.species if entry.path],
    output:
        f"{RUN}/downstream/species.json",
    log:
        f"{RUN}/logs/downstream.log",
    benchmark:
        f"{RUN}/benchmarks/downstream.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics downstream --config {input.settings:q} 2>&1 | tee -i {log:q}"
