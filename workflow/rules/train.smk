rule train:
    input:
        settings=f"{RUN}/settings/train/{{model}}.json",
        store=f"{RUN}/tokens.done",
    output:
        # Not last.ckpt and metrics.csv: Snakemake deletes outputs before a job, and a killed run goes on from those.
        weights=f"{RUN}/train/{{model}}/model.safetensors",
        shape=f"{RUN}/train/{{model}}/model.json",
        summary=f"{RUN}/train/{{model}}/train.json",
    log:
        f"{RUN}/logs/train_{{model}}.log",
    benchmark:
        f"{RUN}/benchmarks/train_{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=16000,
        gpu=GPUS,
    shell:
        "titans-genomics train --config {input.settings:q} --model {wildcards.model} 2>&1 | tee -i {log:q}"
