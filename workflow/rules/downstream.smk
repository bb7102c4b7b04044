# Labelled datasets: prepare, fit (one job per trial and seed), score (chooses on validation, reads the test set once), table.
#
#   snakemake downstream --configfile FILE             the datasets that the config lists
#   snakemake genomic_benchmarks --configfile FILE     a suite, or one of its datasets by name, with the models of the config


include: "datasets.smk"


wildcard_constraints:
    dataset="|".join(map(re.escape, [*OFFICIAL, *OWN])),
    method="finetune|lora|scratch|probe|knn|cnn|kmer",
    seed=r"\d+",


rule prepare:
    input:
        settings=f"{RUN}/settings/prepare/{{dataset}}.json",
        files=own_files,
    output:
        PREPARED,
    log:
        f"{RUN}/logs/downstream/{{dataset}}/prepare.log",
    benchmark:
        f"{RUN}/benchmarks/downstream/{{dataset}}/prepare.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        network=1,
    shell:
        "titans-genomics downstream prepare --config {input.settings:q} --dataset {wildcards.dataset:q} 2>&1 | tee -i {log:q}"


rule fit:
    input:
        settings=f"{RUN}/settings/fit/{{dataset}}/{{model}}.json",
        data=PREPARED,
        trained=trained,
    output:
        # Not last.ckpt: a killed fit goes on from it.
        summary=f"{DATASET}/{{method}}/{{model}}/{{trial}}/seed{{seed}}/fit.json",
        weights=f"{DATASET}/{{method}}/{{model}}/{{trial}}/seed{{seed}}/model.safetensors",
    log:
        f"{RUN}/logs/downstream/{{dataset}}/{{method}}_{{model}}_{{trial}}_seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/downstream/{{dataset}}/{{method}}_{{model}}_{{trial}}_seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics downstream fit --config {input.settings:q} --dataset {wildcards.dataset:q} --method {wildcards.method} "
        "--model {wildcards.model} --trial {wildcards.trial} --seed {wildcards.seed} 2>&1 | tee -i {log:q}"


rule score:
    input:
        settings=f"{RUN}/settings/score/{{dataset}}/{{model}}.json",
        data=PREPARED,
        trained=trained,
        fits=fits,
    output:
        scores=f"{DATASET}/{{method}}/{{model}}/score.json",
        predictions=f"{DATASET}/{{method}}/{{model}}/predictions.parquet",
    log:
        f"{RUN}/logs/downstream/{{dataset}}/{{method}}_{{model}}_score.log",
    benchmark:
        f"{RUN}/benchmarks/downstream/{{dataset}}/{{method}}_{{model}}_score.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=min(GPUS, 1),
    shell:
        "titans-genomics downstream score --config {input.settings:q} --dataset {wildcards.dataset:q} --method {wildcards.method} "
        "--model {wildcards.model} 2>&1 | tee -i {log:q}"


rule table:
    input:
        settings=f"{RUN}/settings/table/{{dataset}}.json",
        data=PREPARED,
        scores=scores,
    output:
        f"{DATASET}/table.json",
    log:
        f"{RUN}/logs/downstream/{{dataset}}/table.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
    shell:
        "titans-genomics downstream table --config {input.settings:q} --dataset {wildcards.dataset:q} 2>&1 | tee -i {log:q}"


rule downstream:
    input:
        expand(f"{DATASET}/table.json", dataset=CONFIG.datasets),


for name, datasets in {
    **{suite.name: [dataset.name for dataset in suite.datasets] for suite in SUITES.values()},
    **{dataset: [dataset] for dataset in [*OFFICIAL, *OWN]},
}.items():

    rule:
        name:
            name
        input:
            expand(f"{DATASET}/table.json", dataset=datasets),
