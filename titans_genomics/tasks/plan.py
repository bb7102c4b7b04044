"""Which rows a dataset's table has. Light: the workflow asks before anything heavy is imported."""

from __future__ import annotations

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
