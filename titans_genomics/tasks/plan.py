"""Which rows a dataset's table has. Light: the workflow asks before anything heavy is imported."""

from __future__ import annotations

from typing import Any

from titans_genomics.config import Config
from titans_genomics.config_downstream import WITHOUT_MODEL, Method
from titans_genomics.suites import find


def plan(config: Config, dataset: str) -> list[tuple[Method, str]]:
    """The rows that a config asks for on one dataset: pairs of method and model, in the order of the config.

    The model of the baselines cnn and kmer is "none"; a model of the Hub is probed, under its name.

    Raises
    ------
    ValueError
        ``dataset`` is neither one of the config nor one of a benchmark suite.
    """
    settings = config.downstream
    if dataset not in [entry.key for entry in settings.datasets]:
        find(dataset)
    models = config.models if settings.models is None else settings.models
    rows: list[tuple[Method, str]] = []
    for method in settings.methods:
        rows += [(method, "none")] if method in WITHOUT_MODEL else [(method, model) for model in models]
    return rows + [("probe", entry.name) for entry in settings.hub]


def for_dataset(config: Config, info: dict[str, Any]) -> Config:
    """The config as it holds for a dataset (its dataset.json): the strands are those of its labels where it says so."""
    if info.get("strands") is None:
        return config
    return config.model_copy(update={"downstream": config.downstream.model_copy(update={"strands": info["strands"]})})
