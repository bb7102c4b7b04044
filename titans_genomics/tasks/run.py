"""All of one labelled dataset in one process: prepare, fit, score, table. What the workflow does, without it."""

from __future__ import annotations

from pathlib import Path

from titans_genomics.config import Config
from titans_genomics.config_downstream import FITTED
from titans_genomics.data.labelled import prepare
from titans_genomics.tasks.finetune import fit
from titans_genomics.tasks.plan import plan
from titans_genomics.tasks.score import score
from titans_genomics.tasks.tables import table, text


def run(config: Config, dataset: str, store: Path) -> str:
    """Measure every method and model that the config asks for on one dataset.

    Fits that are there with the same settings are taken as they are, and interrupted ones go on.

    Parameters
    ----------
    config : Config
        The run; its models are trained.
    dataset : str
        A name of ``config.downstream.datasets``, or of a dataset of a suite.
    store : Path
        Token store folder.

    Returns
    -------
    str
        The table, to be printed.
    """
    folder, models = config.folder / "downstream" / dataset, config.folder / "train"
    prepare(config, dataset, folder / "data")
    for method, model in plan(config, dataset):
        if method in FITTED:
            weights = models / model if method in ("finetune", "lora") else None
            for trial in config.downstream.trials(method):
                for seed in config.downstream.seeds:
                    out = folder / method / model / trial / f"seed{seed}"
                    fit(config, store, folder / "data", weights, method, model, trial, seed, out)
        score(config, store, folder, models, method, model)
    return text(table(config, folder))
