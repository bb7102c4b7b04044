rule fetch:
    # A source that is named by URL or accession. The output is a flag: Snakemake deletes outputs before a job, and a
    # file that was downloaded for another run, or put there by hand, should outlive that. The command leaves a file that
    # is right as it is and goes on with an interrupted download.
    input:
        settings=f"{RUN}/settings/tokenize.json",
    output:
        touch(f"{RUN}/fetched/{{source}}.done"),
    log:
        f"{RUN}/logs/fetch/{{source}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        network=1,
    shell:
        "titans-genomics fetch --config {input.settings:q} --source {wildcards.source:q} 2>&1 | tee -i {log:q}"
