"""Forecasting of many series side by side: every model at every horizon with every seed, and the table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from titans_genomics.config import Config
from titans_genomics.data.series import Series, load_series
from titans_genomics.files import read_json, write_json
from titans_genomics.tasks.forecast_fit import SHOWN, evaluate, example, fit, identity, middle
from titans_genomics.training.logs import hardware, versions

FIGURES = ("mse", "mae")


def forecast(config: Config, out: Path, model: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """Train and measure models with their seeds; of all models, write the table too.

    Parameters
    ----------
    config : Config
        With a section ``forecast``.
    out : Path
        Folder, ``results/RUN/forecast``: NAME/seedN/result.json, per horizon NAME/seedN/hH/{model.safetensors, model.json, last.pt}, and
        forecast.json, the table. A killed run that is started again goes on, and what was measured with these settings is not repeated.
    model : str
        A model of the run, ``last`` or ``dlinear``; None: all of them, and the table.
    seed : int
        One of ``forecast.seeds``; None: all of them. It seeds the weights and the order of the training windows.

    Returns
    -------
    dict
        The contents of forecast.json; with ``model``, its results by seed.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `titans_genomics.data.series.load_series`; for a model or seed that the config has not; when training is not finite.
    """
    if config.forecast.path is None:
        raise ValueError("forecast.path is not set: name a CSV with a column of times and columns of numbers")
    fits = config.fits("forecast")
    for key, value, known in (("model", model, fits), ("seed", seed, config.forecast.seeds)):
        if value is not None and value not in known:
            raise ValueError(f"forecast: {key} {value!r} is not one of this run's: {', '.join(map(str, known))}")
    series = load_series(config.forecast)
    found = {
        name: {
            str(number): measure(config, series, Path(out), name, number)
            for number in ((seed,) if seed is not None and name != "last" else own)
        }
        for name, own in fits.items()
        if model in (None, name)
    }
    return found[model] if model is not None else table(config, Path(out))


def measure(config: Config, series: Series, out: Path, name: str, seed: int) -> dict[str, Any]:
    """Train and measure one model with one seed at every horizon, and write result.json; if it is there, give it back."""
    folder = out / name / f"seed{seed}"
    expected = _identity(config, series, name)
    if (folder / "result.json").is_file():
        result = read_json(folder / "result.json", "forecast")
        if result.get("identity") == expected:
            return result
    horizons = {}
    for horizon in config.forecast.horizons:
        title = f"forecast, {name}, horizon {horizon}, seed {seed}"
        network, learned = fit(config, series, folder / f"h{horizon}", name, seed, horizon, title)
        horizons[str(horizon)] = {
            **evaluate(network, series, series.splits["test"], horizon, config.forecast.max_windows, title),
            "parameters": sum(p.numel() for p in network.parameters()),
            "training": learned,
            "example": example(network, series, horizon),
        }
    result = {
        "name": name, "seed": seed, "identity": expected, "horizons": horizons, "hardware": hardware(), "versions": versions(),
    }  # fmt: skip
    write_json(folder / "result.json", result)
    return result


def table(config: Config, out: Path) -> dict[str, Any]:
    """Gather what was measured of all models and seeds into forecast.json, and give it back.

    Raises FileNotFoundError when a model was not measured yet, ValueError when it was with other settings than the config's.
    """
    settings, series, models = config.forecast, load_series(config.forecast), {}
    for name, seeds in config.fits("forecast").items():
        results = []
        for seed in seeds:
            path = Path(out) / name / f"seed{seed}" / "result.json"
            result = read_json(path, f"forecast --model {name} --seed {seed}")
            if result.get("identity") != _identity(config, series, name):
                raise ValueError(
                    f"{path}: measured with other settings than the config's; run `titans-genomics forecast --model {name}` again"
                )
            results.append(result)
        models[name] = {
            "seeds": [result["seed"] for result in results],
            "horizons": {str(h): _together([r["horizons"][str(h)] for r in results]) for h in settings.horizons},
        }
    content = {
        "data": settings.key,
        "sha256": series.sha256,
        "columns": list(series.columns),
        "steps": {
            "all": len(series.times),
            "train": series.splits["train"].stop,  # the first lookback of them is read and never forecast
            **{name: series.splits[name].stop - series.splits[name].start for name in ("validation", "test")},
        },
        "times": [str(series.times[0]), str(series.times[-1])],
        "filled": series.filled,
        "split": settings.split,
        "lookback": settings.lookback,
        "horizons": list(settings.horizons),
        "max_windows": settings.max_windows,
        "models": models,
        "hardware": results[0]["hardware"],
        "versions": results[0]["versions"],
        "published": {name: figures.model_dump() for name, figures in settings.published.items()},
        "truth": {str(horizon): _truth(series, settings.lookback, horizon) for horizon in settings.horizons},
    }
    write_json(Path(out) / "forecast.json", content)
    return content


def _identity(config: Config, series: Series, name: str) -> dict[str, Any]:
    settings = config.forecast
    return {
        "training": identity(config, series, name),
        "horizons": list(settings.horizons),
        "max_windows": settings.max_windows,
    }


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One model at one horizon over its seeds: means, standard deviations (of two seeds or more), and the first seed's example."""
    spread = {
        f"{key}_deviation": float(np.std([own[key] for own in found], ddof=1)) if len(found) > 1 else None
        for key in FIGURES
    }
    trainings = [own["training"] for own in found if own["training"]]
    return {
        **{key: float(np.mean([own[key] for own in found])) for key in FIGURES},
        **spread,
        "columns": {
            column: {key: float(np.mean([own["columns"][column][key] for own in found])) for key in FIGURES}
            for column in found[0]["columns"]
        },
        "windows": found[0]["windows"],
        "parameters": found[0]["parameters"],
        "training_seconds": sum(training["seconds"] for training in trainings),
        "steps": trainings[0]["steps"] if trainings else None,
        "best_step": [training["best_step"] for training in trainings],
        "example": found[0]["example"],
    }


def _truth(series: Series, lookback: int, horizon: int) -> dict[str, Any]:
    """What the plotted forecasts are made from and what came then: the middle window of the test split, scaled."""
    origin = middle(series, horizon)
    return {
        "origin": str(series.times[origin]),
        "before": _rounded(series.values[origin - min(lookback, horizon) : origin, :SHOWN].T),
        "after": _rounded(series.values[origin : origin + horizon, :SHOWN].T),
    }


def _rounded(values: np.ndarray) -> list[list[float]]:
    return np.round(values.astype(np.float64), 4).tolist()
