# Labelled datasets: which there are, and what the jobs of downstream.smk need.

from titans_genomics.config_downstream import FITTED
from titans_genomics.suites import SUITES
from titans_genomics.tasks.plan import plan

OWN = {dataset.key: dataset for dataset in CONFIG.downstream.datasets}
OFFICIAL = {dataset.name for suite in SUITES.values() for dataset in suite.datasets}
DATASET = f"{RUN}/downstream/{{dataset}}"
PREPARED = [f"{DATASET}/data/sequences.parquet", f"{DATASET}/data/dataset.json"]


def own_files(wildcards):
    """The files of a dataset of one's own; of a folder what divides it: the files of the splits, and the folders of classes, whose
    times change when files come and go."""
    entry = OWN.get(wildcards.dataset)
    found = []
    for path in (entry.path, entry.test) if entry else []:
        if path and path.is_dir():
            top = [inner for inner in (path, path / "data") if inner.is_dir()]
            inside = sorted(file for folder in top for file in folder.iterdir() if not file.name.startswith("."))
            found += [file for file in inside if file.is_file()]
            found += [
                file
                for folder in inside
                if folder.is_dir()
                for file in sorted(folder.iterdir())
                if not file.name.startswith(".")
            ]
        elif path:
            found.append(path)
    return found


def trained(wildcards):
    """What a method needs of training: weights, only the tokenizer, or nothing."""
    if wildcards.model not in MODELS:
        return []
    if wildcards.method == "scratch":
        return [f"{RUN}/tokens.done"]
    return [f"{RUN}/tokens.done", f"{RUN}/train/{wildcards.model}/model.safetensors"]


def fits(wildcards):
    """All trials and seeds that a score chooses from."""
    if wildcards.method not in FITTED:
        return []
    return expand(
        f"{DATASET}/{{method}}/{{model}}/{{trial}}/seed{{seed}}/fit.json",
        dataset=wildcards.dataset,
        method=wildcards.method,
        model=wildcards.model,
        trial=CONFIG.downstream.trials(wildcards.method),
        seed=CONFIG.downstream.seeds,
    )


def scores(wildcards):
    """All rows of a dataset's table."""
    return [
        f"{RUN}/downstream/{wildcards.dataset}/{method}/{model}/score.json"
        for method, model in plan(CONFIG, wildcards.dataset)
    ]
