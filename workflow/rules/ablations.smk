# Titans without one of its parts at a time, beside the paper's Table 5: every model of the config in one table.
#
#   snakemake ablations --configfile configs/ablations.yaml


localrules:
    ablations,


rule ablations:
    input:
        settings=f"{RUN}/settings/report.json",
        training=expand(f"{RUN}/train/{{model}}/train.json", model=MODELS),
        evaluate=f"{RUN}/evaluate/evaluate.json",
        downstream=expand(f"{RUN}/downstream/{{dataset}}/table.json", dataset=CONFIG.datasets),
        needle=[f"{RUN}/needle/needle.json"] if CONFIG.needle.lengths else [],
    output:
        numbers=report(f"{RUN}/ablations.json", caption="../report/ablations.rst", category="Numbers"),
    log:
        f"{RUN}/logs/ablations.log",
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "titans-genomics ablations --config {input.settings:q} 2>&1 | tee -i {log:q}"
