"""What each method says of a dataset's test rows, and how it came to that: read from its fits, or fitted here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from titans_genomics.config import Config
from titans_genomics.data.labelled import Labelled
from titans_genomics.data.store import TokenStore
from titans_genomics.progress import Progress
from titans_genomics.tasks.embeddings import Embedding, embed
from titans_genomics.tasks.finetune import BEGUN, difference, identity, load_fitted, read_fit
from titans_genomics.tasks.hub import embed_hub
from titans_genomics.tasks.probe import Fitted, Rows, kmer_features, linear, neighbours
from titans_genomics.tasks.sequences import device_of, predict
from titans_genomics.training import check_model, with_vocabulary
from titans_genomics.training.logs import hardware


@dataclass(frozen=True)
class Outcome:
    """What a method says of the test rows, seed by seed, and how it came to that.

    Attributes
    ----------
    scores : list of np.ndarray
        Of each seed, float32, (test rows, outputs): logits, log-probabilities or values.
    validation : list of float
        Of each seed, the headline metric of what was chosen on the validation rows.
    trial, trials : str or None, list of dict
        Which trial was chosen, and all of them with the metric of each seed; None and empty of methods without trials.
    hyperparameters : dict
        What else was chosen, seed by seed.
    cost : dict
        Seconds of all trials and seeds, sequences per second, parameters, hardware.
    hub : dict or None
        Of a model of the Hub, what was read.
    """

    scores: list[np.ndarray]
    validation: list[float]
    trial: str | None
    trials: list[dict[str, Any]]
    hyperparameters: dict[str, Any]
    cost: dict[str, Any]
    hub: dict[str, Any] | None = None


# --------------------------------------------------------------------------- methods that were fitted before


def from_fits(
    config: Config,
    store: Path,
    folder: Path,
    models: Path,
    data: Labelled,
    method: str,
    model: str,
    test: np.ndarray,
) -> Outcome:
    """The trial that is best on validation, mean over seeds; the first of equals."""
    settings = config.downstream
    trials = settings.trials(method)
    fits = _read_fits(config, store, folder, models, data, method, model)
    by_trial = [[_headline(fits[trial, seed], data, folder) for seed in settings.seeds] for trial in trials]
    means = [float(np.mean(values)) for values in by_trial]
    best = int(np.argmax(means))
    trial = trials[best]
    tokenizer = None
    if method != "cnn":
        tokens = TokenStore(store)
        tokenizer, config = tokens.tokenizer, with_vocabulary(config, tokens)
    torch.set_flush_denormal(True)
    device = device_of(config)
    scores = []
    with Progress(len(test) * len(settings.seeds), "sequences", f"testing {method} {model} on {data.name}") as progress:
        for seed in settings.seeds:
            network = load_fitted(config, store, folder / method / model / trial / f"seed{seed}")
            scores.append(predict(network, data, test, tokenizer, settings.strands, device, progress))
    chosen = [fits[trial, seed] for seed in settings.seeds]
    cost = {
        "seconds": float(sum(fit["seconds"] for fit in fits.values())),
        "sequences_per_second": float(np.mean([fit["sequences_per_second"] for fit in chosen])),
        "parameters": chosen[0]["parameters"],
        "trained_parameters": chosen[0]["trained_parameters"],
        "hardware": chosen[0]["hardware"],
    }
    return Outcome(
        scores,
        by_trial[best],
        trial,
        [
            {"trial": name, "validation": mean, "seeds": values}
            for name, mean, values in zip(trials, means, by_trial, strict=True)
        ],
        {"trial": trial, "best_epoch": [fit["best_epoch"] for fit in chosen]},
        cost,
    )


def _read_fits(
    config: Config, store: Path, folder: Path, models: Path, data: Labelled, method: str, model: str
) -> dict[tuple[str, int], dict[str, Any]]:
    """The fit.json of every trial and seed.

    FileNotFoundError says how to make one, ValueError that one is of other settings, data or weights than those of now.
    """
    command = f"titans-genomics downstream fit --config FILE --dataset {folder.name} --method {method} --model {model}"
    trials, seeds = config.downstream.trials(method), config.downstream.seeds
    paths = {
        (trial, seed): folder / method / model / trial / f"seed{seed}" / "fit.json"
        for trial in trials
        for seed in seeds
    }
    for (trial, seed), path in paths.items():
        if not path.is_file() or not path.with_name("model.safetensors").is_file():
            raise FileNotFoundError(f"{path}: this trial was not fitted; run `{command} --trial {trial} --seed {seed}`")
    begun = Path(models) / model if method in BEGUN else None
    if begun is not None:
        tokens = TokenStore(store)
        check_model(with_vocabulary(config, tokens), tokens, begun)
    expected = identity(config, store, data, begun, method, model, trials[0], seeds[0])
    fits = {}
    for (trial, seed), path in paths.items():
        fit = read_fit(path)
        found = difference(fit["identity"], expected | {"trial": trial, "seed": seed})
        if found:
            raise ValueError(f"{path}: {found}; run `{command} --trial {trial} --seed {seed}` again")
        fits[trial, seed] = fit
    return fits


def _headline(fit: dict[str, Any], data: Labelled, folder: Path) -> float:
    """The headline metric on validation."""
    if data.metric not in fit["validation"]:
        raise ValueError(
            f"{folder}: {data.metric} was not defined on the validation sequences of seed {fit['seed']} (one class only?); "
            "raise downstream.validation, or choose another metric"
        )
    return float(fit["validation"][data.metric])


# -------------------------------------------------------------------------------- methods that are fitted here


def from_kmers(config: Config, data: Labelled, draws: list[Rows]) -> Outcome:
    """A linear model on k-mer frequencies."""
    start = time.perf_counter()
    features = kmer_features(data, config.downstream.kmer, config.downstream.strands == "both")
    found = _each_seed(lambda rows: linear(features, data, rows), draws, f"fitting k-mers on {data.name}")
    seconds = time.perf_counter() - start
    return _fitted_here(
        found, draws, seconds, 0, sum(map(len, draws[0])) * len(draws) / seconds, {"k": config.downstream.kmer}
    )


def from_embeddings(
    config: Config,
    store: Path,
    folder: Path,
    models: Path,
    data: Labelled,
    draws: list[Rows],
    method: str,
    model: str,
) -> Outcome:
    """A linear probe, or nearest neighbours, on the embeddings of a frozen model."""
    out = folder / "embeddings" / f"{model}.npz"
    entry = next((entry for entry in config.downstream.hub if entry.name == model), None)
    embedding: Embedding = (
        embed(config, store, data, folder / "data", Path(models) / model, model, out)
        if entry is None
        else embed_hub(config, entry, data, folder / "data", out)
    )
    start = time.perf_counter()
    if method == "probe":
        found = _each_seed(lambda rows: linear(embedding.vectors, data, rows), draws, f"probing {model} on {data.name}")
    else:
        counts = config.downstream.neighbours
        found = _each_seed(
            lambda rows: neighbours(embedding.vectors, data, rows, counts),
            draws,
            f"neighbours by {model} on {data.name}",
        )
    seconds = embedding.seconds + time.perf_counter() - start
    rate = len(data) / embedding.seconds
    return _fitted_here(found, draws, seconds, embedding.parameters, rate, {}, embedding.details if entry else None)


def _each_seed(fit: Callable[[Rows], Fitted], draws: list[Rows], what: str) -> list[Fitted]:
    found = []
    with Progress(len(draws), "seeds", what) as progress:
        # one thread: those of BLAS wait for one another, a hundred times as long as they work where others use the cores too
        for rows in draws:
            with threadpool_limits(1):
                found.append(fit(rows))
            progress.update(1)
    return found


def _fitted_here(
    found: list[Fitted],
    draws: list[Rows],
    seconds: float,
    frozen: int,
    rate: float,
    chosen: dict[str, Any],
    hub: dict[str, Any] | None = None,
) -> Outcome:
    """The outcome of what has no trials: whatever is chosen is chosen for each seed."""
    validation = [entry.validation for entry in found]
    for key in found[0].chosen:
        chosen = chosen | {key: [entry.chosen[key] for entry in found]}
    cost = {
        "seconds": seconds,
        "sequences_per_second": rate,
        "parameters": frozen + found[0].parameters,
        "trained_parameters": found[0].parameters,
        "hardware": hardware(),
    }
    return Outcome([entry.scores for entry in found], validation, None, [], chosen, cost, hub)
