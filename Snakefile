# Titans for genomes: tokenize -> train -> evaluate -> measure downstream -> report.
#
#   snakemake --configfile configs/default.yaml
# One YAML drives a run; its schema is titans_genomics/config.py, its results go to results/RUN/.

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/downstream.smk"
include: "workflow/rules/ablations.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/use.smk"


localrules:
    all,
    settings,
    fetch,
    inspect,
    table,
    downstream,
    report,


rule all:
    default_target: True
    input:
        rules.use.input if CONFIG.only_used else [f"{RUN}/report.html", f"{RUN}/metrics.json"],
        [f"{RUN}/data.html"] if CONFIG.data else [],
