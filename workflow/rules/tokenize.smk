rule tokenize:
    input:
        settings=f"{RUN}/settings/tokenize.json",
        sources=[source.path for source in SOURCES if source.label not in DOWNLOADS],
        fetched=expand(f"{RUN}/fetched/{{source}}.done", source=DOWNLOADS),
        beside=[path for source in SOURCES for path in source.side_files],
        pieces=[CONFIG.data.tokenizer.path] if CONFIG.data and CONFIG.data.tokenizer.path else [],
    output:
        # A flag beside the store: Snakemake deletes outputs before a job, and an old store should outlive a failure.
        touch(f"{RUN}/tokens.done"),
    log:
        f"{RUN}/logs/tokenize.log",
    benchmark:
        f"{RUN}/benchmarks/tokenize.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=4000,
    shell:
        "titans-genomics tokenize --config {input.settings:q} --jobs {threads} 2>&1 | tee -i {log:q}"


rule inspect:
    # What is in the store, for people (a page) and for programs.
    input:
        store=f"{RUN}/tokens.done",
    output:
        page=report(f"{RUN}/data.html", caption="../report/data.rst", category="Data"),
        numbers=f"{RUN}/data.json",
    log:
        f"{RUN}/logs/inspect.log",
    benchmark:
        f"{RUN}/benchmarks/inspect.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        store=lambda wildcards, input: input.store.removesuffix(".done"),
    shell:
        "titans-genomics inspect {params.store:q} --json --page {output.page:q} > {output.numbers:q} 2> {log:q}"
