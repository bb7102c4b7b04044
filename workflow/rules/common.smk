# The config, checked before anything else happens, and what the rules take from it.

import json
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from titans_genomics.config import STAGES, check_run, parse_config, stage_settings
from titans_genomics.config_use import USES
from titans_genomics.data.readers import check_source

if not config:
    raise WorkflowError("no config: name one with --configfile configs/default.yaml")
try:
    CONFIG = parse_config(config, ", ".join(map(str, workflow.configfiles)) or "--config")
    check_run(CONFIG)
    paths = [
        ("results", CONFIG.results),
        ("downstream.folder", CONFIG.downstream.folder),
        ("use.model", CONFIG.use.model),
    ]
    for key, path in [*paths, ("use.generate.prompt", CONFIG.use.generate.prompt), *CONFIG.files()]:
        if re.search("[{}]", str(path)):
            raise ValueError(f"{key}: {path}: Snakemake takes braces for wildcards. Rename it, or give a link to it")
    for source in (
        CONFIG.species.files() if CONFIG.data else ()
    ):  # those of data.sources are looked at by tokenize, which comes first
        check_source(source, CONFIG.data)
except (ValueError, OSError) as error:
    raise WorkflowError(str(error)) from None

RUN = CONFIG.folder.as_posix()
MODELS = CONFIG.models
SOURCES = CONFIG.data.sources if CONFIG.data else ()
DOWNLOADS = [source.label for source in SOURCES if source.url]
TASK_FILES = {
    task: [path for key, path in CONFIG.files() if key.split(".")[0] == task] for task in ("niah", "states", "forecast")
}
# The model of the section `use`: another run's as it is, with what is there of how it is to be read, or this run's, evaluated too.
USED = f"{RUN}/use"
USED_RUN = (CONFIG.use.model or CONFIG.folder).as_posix()
USED_MODEL = [f"{USED_RUN}/train/{CONFIG.use.name}/model.safetensors"]
if CONFIG.use.model is None:
    USED_MODEL += [f"{RUN}/tokens.done", f"{RUN}/evaluate/evaluate.json"]
else:
    beside = [
        f"{USED_RUN}/{file}" for file in ("tokens/tokenizer.json", "tokens/manifest.json", "evaluate/evaluate.json")
    ]
    USED_MODEL += [file for file in beside if Path(file).is_file()]
USED_OPTIONS = [f"--model={USED_RUN}", f"--name={CONFIG.use.name}"]
GPUS = CONFIG.train.devices if CONFIG.train.accelerator == "gpu" else 0
if CONFIG.use.device is not None:
    USED_OPTIONS.append(f"--device={CONFIG.use.device}")
USED_GPU = min(GPUS, 1) if CONFIG.use.device is None else int(CONFIG.use.device != "cpu")

# `titans-genomics` is found beside the Python that runs Snakemake, also when its environment is not activated.
shell.prefix(f'set -euo pipefail; export PATH="$PATH":{shlex.quote(str(Path(sys.executable).parent))}; ')


FITTED_NAMES = [model for task in CONFIG.tasks for model in CONFIG.fits(task)]


wildcard_constraints:
    model="|".join(map(re.escape, [*MODELS, *(entry.name for entry in CONFIG.downstream.hub), *FITTED_NAMES, "none"])),
    source="|".join(map(re.escape, DOWNLOADS)) or "(?!)",


rule settings:
    # The part of the config that a stage depends on (of train that of its model, and so on), as a config of its own. Snakemake
    # writes it again when that part changes, and only then, so that a new learning rate trains again but does not tokenise again.
    output:
        f"{RUN}/settings/{{parts}}.json",
    log:
        f"{RUN}/logs/settings/{{parts}}.log",
    wildcard_constraints:
        parts=f"({'|'.join(STAGES)})(/[^/]+)*",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: json.dumps(stage_settings(CONFIG, *wildcards.parts.split("/")), indent=2),
    shell:
        "printf '%s\\n' {params.settings:q} > {output:q} 2> {log:q}"
