# What a trained model is used for, on the samples of the section `use`. Nothing of it runs unless one of these targets is asked for.
#
#   snakemake tracks --configfile FILE     or score_variants, evaluate_variants, saturate, embed, memorize, generate; use: all but generate


localrules:
    evaluate_sample,
    use,


wildcard_constraints:
    sample="|".join(re.escape(entry.sample) for entry in CONFIG.use.samples) or "(?!)",


rule score_sample:
    input:
        model=USED_MODEL,
        fasta=lambda wildcards: CONFIG.use.sample(wildcards.sample).fasta,
        vcf=lambda wildcards: CONFIG.use.sample(wildcards.sample).vcf,
        memory=lambda wildcards: CONFIG.use.memory(wildcards.sample, USED),
    output:
        vcf=f"{USED}/{{sample}}/scored.vcf.gz",
        summary=f"{USED}/{{sample}}/scored.json",
    log:
        f"{RUN}/logs/use/{{sample}}/score_variants.log",
    benchmark:
        f"{RUN}/benchmarks/use/{{sample}}/score_variants.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=USED_GPU,
    params:
        model=USED_OPTIONS,
        memory=lambda wildcards, input: [f"--memory={file}" for file in input.memory],
        options=CONFIG.use.options("score-variants"),
    shell:
        "titans-genomics score-variants {params.model:q} {params.memory:q} {params.options:q} --fasta {input.fasta:q} --vcf {input.vcf:q} "
        "--out {output.vcf:q} 2>&1 > {output.summary:q} | tee -i {log:q}"


rule evaluate_sample:
    input:
        vcf=f"{USED}/{{sample}}/scored.vcf.gz",
        table=lambda wildcards: CONFIG.use.given(wildcards.sample, "labels"),
    output:
        report(f"{USED}/{{sample}}/variants.json", category="Variants"),
    log:
        f"{RUN}/logs/use/{{sample}}/evaluate_variants.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        table=lambda wildcards, input: [f"--table={file}" for file in input.table],
        options=CONFIG.use.options("evaluate-variants"),
    shell:
        "titans-genomics evaluate-variants --vcf {input.vcf:q} {params.table:q} {params.options:q} --out {output:q} 2>&1 | tee -i {log:q}"


rule saturate_sample:
    input:
        model=USED_MODEL,
        fasta=lambda wildcards: CONFIG.use.sample(wildcards.sample).fasta,
        loci=lambda wildcards: CONFIG.use.sample(wildcards.sample).loci,
        memory=lambda wildcards: CONFIG.use.memory(wildcards.sample, USED),
    output:
        table=f"{USED}/{{sample}}/saturation.tsv",
        picture=report(f"{USED}/{{sample}}/saturation.svg", category="Variants"),
    log:
        f"{RUN}/logs/use/{{sample}}/saturate.log",
    benchmark:
        f"{RUN}/benchmarks/use/{{sample}}/saturate.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=USED_GPU,
    params:
        model=USED_OPTIONS,
        memory=lambda wildcards, input: [f"--memory={file}" for file in input.memory],
        options=CONFIG.use.options("saturate"),
    shell:
        "titans-genomics saturate {params.model:q} {params.memory:q} {params.options:q} --fasta {input.fasta:q} --bed {input.loci:q} "
        "--out {output.table:q} --heat-map {output.picture:q} 2>&1 | tee -i {log:q}"


rule track_sample:
    input:
        model=USED_MODEL,
        fasta=lambda wildcards: CONFIG.use.sample(wildcards.sample).fasta,
        mask=lambda wildcards: CONFIG.use.given(wildcards.sample, "mask"),
        annotation=lambda wildcards: CONFIG.use.given(wildcards.sample, "annotation"),
        memory=lambda wildcards: CONFIG.use.memory(wildcards.sample, USED),
    output:
        # Only what is written last: what was read before a run was stopped lies beside it, and is gone on from.
        page=report(f"{USED}/{{sample}}/tracks/tracks.html", category="Tracks"),
        summary=f"{USED}/{{sample}}/tracks/tracks.json",
    log:
        f"{RUN}/logs/use/{{sample}}/track.log",
    benchmark:
        f"{RUN}/benchmarks/use/{{sample}}/track.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=USED_GPU,
    params:
        model=USED_OPTIONS,
        memory=lambda wildcards, input: [f"--memory={file}" for file in input.memory],
        files=lambda wildcards, input: [f"--{key}={file}" for key in ("mask", "annotation") for file in input.get(key)],
        folder=f"{USED}/{{sample}}/tracks",
        options=CONFIG.use.options("track"),
    shell:
        "titans-genomics track {params.model:q} {params.memory:q} {params.options:q} {params.files:q} --fasta {input.fasta:q} "
        "--out {params.folder:q} 2>&1 | tee -i {log:q}"


rule embed_sample:
    input:
        model=USED_MODEL,
        sequences=lambda wildcards: CONFIG.use.embedded(wildcards.sample),
        bed=lambda wildcards: CONFIG.use.given(wildcards.sample, "bed"),
        reference=lambda wildcards: CONFIG.use.reference(wildcards.sample),
        memory=lambda wildcards: CONFIG.use.memory(wildcards.sample, USED),
    output:
        # A picture lies beside it, where there are vectors enough for one.
        f"{USED}/{{sample}}/vectors.{CONFIG.use.embed.format}",
    log:
        f"{RUN}/logs/use/{{sample}}/embed.log",
    benchmark:
        f"{RUN}/benchmarks/use/{{sample}}/embed.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=USED_GPU,
    params:
        model=USED_OPTIONS,
        memory=lambda wildcards, input: [f"--memory={file}" for file in input.memory],
        files=lambda wildcards, input: [f"--{key}={file}" for key in ("bed", "reference") for file in input.get(key)],
        drawing=f"{USED}/{{sample}}/vectors.svg",
        picture=[f"--picture={USED}/{{sample}}/vectors.svg"] if CONFIG.use.embed.picture else [],
        options=CONFIG.use.options("embed"),
    shell:
        # of other vectors
        "rm -f {params.drawing:q}; titans-genomics embed {params.model:q} {params.memory:q} {params.options:q} {params.files:q} {params.picture:q} --out {output:q} "
        "-- {input.sequences:q} 2>&1 | tee -i {log:q}"


rule memorize_sample:
    input:
        model=USED_MODEL,
        fasta=lambda wildcards: CONFIG.use.sample(wildcards.sample).fasta,
        test=lambda wildcards: CONFIG.use.given(wildcards.sample, "test"),
    output:
        memory=f"{USED}/{{sample}}/memory.safetensors",
        summary=f"{USED}/{{sample}}/memory.json",
    log:
        f"{RUN}/logs/use/{{sample}}/memorize.log",
    benchmark:
        f"{RUN}/benchmarks/use/{{sample}}/memorize.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=USED_GPU,
    params:
        model=USED_OPTIONS,
        test=lambda wildcards, input: [f"--test={file}" for file in input.test],
        options=CONFIG.use.options("memorize"),
    shell:
        "titans-genomics memorize {params.model:q} {params.options:q} {params.test:q} --fasta {input.fasta:q} --out {output.memory:q} "
        "2>&1 > {output.summary:q} | tee -i {log:q}"


rule generate:
    input:
        model=USED_MODEL,
        files=CONFIG.use.compared,
        memory=CONFIG.use.memory(None, USED),
    output:
        fasta=f"{USED}/generated.fa",
        summary=f"{USED}/generated.json",
        page=report(f"{USED}/generated.html", category="New sequence"),
    log:
        f"{RUN}/logs/use/generate.log",
    benchmark:
        f"{RUN}/benchmarks/use/generate.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=USED_GPU,
    params:
        model=USED_OPTIONS,
        memory=lambda wildcards, input: [f"--memory={file}" for file in input.memory],
        options=CONFIG.use.options("generate"),
    shell:
        "titans-genomics generate {params.model:q} {params.memory:q} {params.options:q} --out {output.fasta:q} --report {output.summary:q} 2>&1 | tee -i {log:q}"


for target in USES:

    rule:
        name:
            target
        input:
            lambda wildcards, target=target: [f"{USED}/{file}" for file in CONFIG.use.made(target)],


rule use:
    input:
        lambda wildcards: [f"{USED}/{file}" for file in CONFIG.use.asked()],
