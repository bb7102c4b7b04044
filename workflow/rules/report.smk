rule report:
    input:
        settings=f"{RUN}/settings/report.json",
        store=f"{RUN}/tokens.done" if CONFIG.data else [],
        training=expand(f"{RUN}/train/{{model}}/train.json", model=MODELS) if CONFIG.trained else [],
        evaluate=f"{RUN}/evaluate/evaluate.json" if CONFIG.trained else [],
        species=[f"{RUN}/species/species.json"] if CONFIG.species.classes else [],
        downstream=expand(f"{RUN}/downstream/{{dataset}}/table.json", dataset=CONFIG.datasets),
        needle=[f"{RUN}/needle/needle.json"] if CONFIG.needle.lengths else [],
        variants=[f"{RUN}/variants/variants.json"] if CONFIG.variants.sets else [],
        lm_eval=[f"{RUN}/lm_eval/lm_eval.json"] if CONFIG.lm_eval.tasks else [],
        niah=[f"{RUN}/niah/niah.json"] if CONFIG.niah.asked else [],
        tasks=expand(f"{RUN}/{{task}}/{{task}}.json", task=CONFIG.tasks),
        ablations=[f"{RUN}/ablations.json"] if CONFIG.ablated else [],
    output:
        html=report(f"{RUN}/report.html", caption="../report/report.rst", category="Report"),
        metrics=report(f"{RUN}/metrics.json", caption="../report/metrics.rst", category="Numbers"),
    log:
        f"{RUN}/logs/report.log",
    benchmark:
        f"{RUN}/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "titans-genomics report --config {input.settings:q} 2>&1 | tee -i {log:q}"
