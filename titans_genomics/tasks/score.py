"""One row of a dataset's table: choose on validation, then read the test set once.

Methods that train a network (`finetune.fit`) are read from their fits; the linear probe, nearest neighbours and k-mers are
fitted here. The same config gives the same files, apart from seconds and rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from titans_genomics.config import Config
from titans_genomics.config_downstream import FITTED, WITHOUT_MODEL, Method
from titans_genomics.data.labelled import Labelled, draw, load_labelled
from titans_genomics.data.labelled.dataset import SEQUENCES
from titans_genomics.data.labelled.splits import units
from titans_genomics.files import replacing, write_json
from titans_genomics.tasks.embeddings import file_sha256
from titans_genomics.tasks.finetune import tuning
from titans_genomics.tasks.metrics import bootstrap, calibration, confusion, metrics_of, resamples_within
from titans_genomics.tasks.outcomes import from_embeddings, from_fits, from_kmers
from titans_genomics.tasks.plan import for_dataset

LABELS = {
    "caduceus": "chosen on validation sequences; test read once",
    "hyenadna": "chosen on the test set itself, as HyenaDNA does: optimistic",
}


def score(config: Config, store: Path, folder: Path, models: Path, method: str, model: str) -> dict[str, Any]:
    """Score a method with a model on one dataset; writes score.json and predictions.parquet to ``folder``/METHOD/MODEL.

    Parameters
    ----------
    config : Config
        The run.
    store : Path
        Token store folder; kmer and models of the Hub need none.
    folder : Path
        ``results/RUN/downstream/DATASET``, with the prepared dataset in ``data/``.
    models : Path
        ``results/RUN/train``, with a folder for each trained model.
    method, model : str
        A row of `plan.plan`.

    Returns
    -------
    dict
        What score.json holds: metrics on the whole test set ("test") and on the sequences of it that stand neither verbatim
        nor nearly in train ("deduplicated"; None if there are none), each with mean, standard deviation over seeds and 95% interval.

    Raises
    ------
    FileNotFoundError
        The dataset, a fit or a model is not there; the command to make it is named.
    ValueError
        Method and model do not go together, or a fit was made with another config, dataset or model.
    """
    _check_row(config, method, model)
    folder = Path(folder)
    data = load_labelled(folder / "data")
    config = for_dataset(config, data.info)
    settings = config.downstream
    draws = [draw(data, settings.protocol, settings.validation, seed) for seed in settings.seeds]
    test = draws[0][2]
    assert all(np.array_equal(rows[2], test) for rows in draws)
    if method in FITTED:
        outcome = from_fits(config, store, folder, models, data, method, model, test)
    elif method == "kmer":
        outcome = from_kmers(config, data, draws)
    else:
        outcome = from_embeddings(config, store, folder, models, data, draws, method, model)
    targets = data.targets[test]
    unit = units(data.same, data.groups)[0][test]
    clean = data.copies[test] == 0
    own_test = [metrics_of(data.task, scores, targets) for scores in outcome.scores]
    own_clean = [
        metrics_of(data.task, scores[clean], targets[clean]) if clean.any() else None for scores in outcome.scores
    ]
    result: dict[str, Any] = {
        "dataset": data.name,
        "method": method,
        "model": model,
        "sequences_sha256": file_sha256(folder / "data" / SEQUENCES),
        **row_settings(config, method),
        "selected_on": "test" if settings.protocol == "hyenadna" else "validation",
        "label": LABELS[settings.protocol],
        "task": data.task,
        "metric": data.metric,
        "resamples": resamples_within(data.task, len(outcome.scores), *outcome.scores[0].shape, settings.bootstrap),
        "test_sequences": len(test),
        "deduplicated_sequences": int(clean.sum()),
        "trial": outcome.trial,
        "trials": outcome.trials,
        "seeds": [
            {"seed": seed, "validation": validation, "test": whole, "deduplicated": part}
            for seed, validation, whole, part in zip(
                settings.seeds, outcome.validation, own_test, own_clean, strict=True
            )
        ],
        "test": _summary(config, data.task, own_test, outcome.scores, targets, unit),
        "deduplicated": None,
        "hyperparameters": outcome.hyperparameters,
        "cost": outcome.cost,
    }
    if clean.all():
        result["deduplicated"] = result["test"]
    elif clean.any():
        of_clean = [scores[clean] for scores in outcome.scores]
        result["deduplicated"] = _summary(config, data.task, own_clean, of_clean, targets[clean], unit[clean])
    if data.task == "classification":
        result["confusion"] = confusion(outcome.scores, targets, len(data.classes)).tolist()
        result["calibration"] = calibration(outcome.scores, targets)
    if outcome.hub is not None:
        result["hub"] = outcome.hub
    out = folder / method / model
    out.mkdir(parents=True, exist_ok=True)
    _write_predictions(out / "predictions.parquet", data, test, unit, settings.seeds, outcome.scores)
    write_json(out / "score.json", result)
    return result


def row_settings(config: Config, method: str) -> dict[str, Any]:
    """What a row depends on beside its dataset, model, trials and seeds, by key of the section ``downstream``."""
    settings = config.downstream
    found: dict[str, Any] = {
        "protocol": settings.protocol,
        "validation": settings.validation,
        "bootstrap": settings.bootstrap,
        "pooling": None if method in WITHOUT_MODEL else settings.pooling,
        "strands": "given" if method == "cnn" else settings.strands,
    }
    if method in FITTED:
        found |= tuning(config, method)
    used = {"kmer": {"kmer": settings.kmer}, "knn": {"neighbours": list(settings.neighbours)}}
    return found | used.get(method, {})


def _check_row(config: Config, method: str, model: str) -> None:
    """Raise ValueError for a method that there is not, or a method and a model that do not go together."""
    if method not in get_args(Method):
        raise ValueError(f"method {method!r} is not known; choose {', '.join(get_args(Method))}")
    hub = [entry.name for entry in config.downstream.hub] if method == "probe" else []
    known = ["none"] if method in WITHOUT_MODEL else config.models + hub
    if model not in known:
        raise ValueError(f"method {method} does not go with the model {model!r}; choose {', '.join(known)}")


def _summary(
    config: Config,
    task: str,
    by_seed: Sequence[dict[str, float]],
    scores: list[np.ndarray],
    targets: np.ndarray,
    unit: np.ndarray,
) -> dict[str, Any]:
    """Mean and standard deviation over seeds (0 of a single one), and the bootstrap interval, of every metric."""
    times = config.downstream.bootstrap
    intervals = bootstrap(task, scores, targets, times, config.seed, unit) if times else {}
    return {
        metric: {
            "mean": float(np.mean([own[metric] for own in by_seed])),
            "sd": float(np.std([own[metric] for own in by_seed], ddof=1)) if len(by_seed) > 1 else 0.0,
            "ci95": intervals.get(metric),
        }
        for metric in by_seed[0]
        if all(metric in own for own in by_seed)
    }


def _write_predictions(
    path: Path, data: Labelled, test: np.ndarray, unit: np.ndarray, seeds: Sequence[int], scores: list[np.ndarray]
) -> None:
    """Every seed's scores of every test sequence; ``unit``: those of one number are drawn together."""
    targets = data.targets[test].reshape(len(test), -1)
    names = ["target"] if targets.shape[1] == 1 else [f"target_{i}" for i in range(targets.shape[1])]
    columns: dict[str, Any] = {
        "seed": np.repeat(np.array(seeds, dtype=np.int64), len(test)),
        "id": [data.ids[row] for row in test] * len(seeds),
        "unit": np.tile(unit.astype(np.int64), len(seeds)),
    }
    columns |= {name: np.tile(targets[:, i], len(seeds)) for i, name in enumerate(names)}
    stacked = np.concatenate(scores)
    columns |= {f"score_{i}": stacked[:, i] for i in range(stacked.shape[1])}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
