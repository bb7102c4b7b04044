rule tokenize:
    input:
        settings=f"{RUN}/settings/tokenize.json",
        sources=[source.path for source in CONFIG.data.sources],
    output:
        # The command replaces the store as a whole, so an old one outlives a failure: Snakemake must not delete it.
        update(f"{RUN}/tokens/manifest.json"),
    log:
        f"{RUN}/logs/tokenize.log",
    benchmark:
        f"{RUN}/benchmarks/tokenize.tsv"
    resources:
        mem_mb=4000,
    conda:
        ENVIRONMENT
    shell:
        "titans-genomics tokenize --config {input.settings} 2>&1 | tee {log}"
