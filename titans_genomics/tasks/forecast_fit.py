"""One forecaster: trained at one horizon with one seed, measured on every window of a split, kept and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_model as load_safetensors
from safetensors.torch import save
from torch import Tensor, nn

from titans_genomics import __version__
from titans_genomics.config import Config, TitansConfig
from titans_genomics.data.series import Part, Series
from titans_genomics.files import read_json, replacing, write_json
from titans_genomics.models.forecaster import DLinear, Forecaster, LastValue
from titans_genomics.progress import Progress
from titans_genomics.tasks.learn import Task, learn
from titans_genomics.tasks.sequences import device_of
from titans_genomics.training import build_model, model_config

VALIDATION = 128
"""Windows of a validation at most, evenly spread."""

VALIDATIONS = 10
"""Validations of a training; the weights of the best are kept."""

VALUES = 1 << 20
"""Values, read and forecast, of the windows that are measured together."""

SHOWN = 4
"""Columns whose forecasts are kept for the plot."""


def fit(
    config: Config, series: Series, folder: Path, name: str, seed: int, horizon: int, title: str
) -> tuple[nn.Module, dict[str, Any] | None]:
    """The trained network of one horizon, in evaluation mode, and what `learn` says of its training; None: there is nothing to train.

    A batch is ``batch_size`` training windows, all columns of each; the loss is the mean squared error of scaled values; the weights
    that are best on validation windows are kept. Writes model.safetensors and model.json to ``folder``.
    """
    settings, learning, device = config.forecast, config.forecast.fit_of(name), device_of(config)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    backbone = build_model(name, model_config(config, name)) if name in config.models else None
    shape = {
        "name": name,
        "lookback": settings.lookback,
        "horizon": horizon,
        **({key: getattr(settings, key) for key in ("patch", "stride", "revin")} if backbone else {}),
    }
    network = build(shape, backbone).to(device)
    if not list(network.parameters()):
        return network.eval(), None
    values = torch.from_numpy(series.values).to(device)
    first, count = series.splits["train"].start, series.splits["train"].windows(horizon)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = np.random.default_rng([seed, step]).integers(0, count, learning.batch_size)
        return windows(values, first + drawn, settings.lookback, horizon)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        x_BLC, y_BHC = batch
        return nn.functional.mse_loss(network(x_BLC), y_BHC), {}

    def validate(network: nn.Module) -> float:
        return evaluate(network, series, series.splits["validation"], horizon, VALIDATION)["mse"]

    task = Task(batch, loss, validate, max(1, learning.steps // VALIDATIONS))
    same = identity(config, series, name) | {"seed": seed, "horizon": horizon, "device": device.type}
    learned = learn(network, task, learning, folder, same, title)
    description = {
        **shape,
        "config": backbone.config.model_dump(mode="json") if backbone else None,
        "columns": list(series.columns),
        "mean": series.mean.tolist(),
        "deviation": series.deviation.tolist(),
        "version": __version__,
    }
    _save(network, folder, description)
    return network, learned


def identity(config: Config, series: Series, name: str) -> dict[str, Any]:
    """What the training of a model depends on beside horizon and seed, as plain values."""
    settings = config.forecast
    keys = ["time", "columns", "split", "lookback", "gaps"]
    keys += ["patch", "stride", "revin"] if name in config.models else []
    return {
        "data": series.sha256,
        "settings": settings.model_dump(mode="json", include=set(keys)),
        "fit": settings.fit_of(name).model_dump(mode="json", exclude={"checkpoint_every"}) if name != "last" else None,
        "model": model_config(config, name).model_dump(mode="json") if name in config.models else None,
    }


def windows(values_NC: Tensor, origins: NDArray[np.int64], lookback: int, horizon: int) -> tuple[Tensor, Tensor]:
    """What forecasts are made from, (B, lookback, C), and what came then, (B, horizon, C); ``origins`` (B,) are the first steps of the latter."""
    at_B1 = torch.from_numpy(origins).to(values_NC.device)[:, None]
    before = torch.arange(-lookback, 0, device=at_B1.device)
    after = torch.arange(horizon, device=at_B1.device)
    return values_NC[at_B1 + before], values_NC[at_B1 + after]


def evaluate(
    network: nn.Module, series: Series, part: Part, horizon: int, most: int | None = None, title: str | None = None
) -> dict[str, Any]:
    """Errors of the forecasts of all windows of a split, one from every step on, of scaled values.

    Parameters
    ----------
    network : (B, lookback, C) -> (B, horizon, C), in evaluation mode, with an attribute ``lookback``
    series : Series
    part : Part
        The split.
    horizon : int
    most : int
        Windows at most, evenly spread; None: all.
    title : str
        What the progress line says; None: no progress is shown.

    Returns
    -------
    dict
        ``mse`` and ``mae``, means over windows, steps and columns; ``columns``, the same by column; ``windows``, how many.
    """
    count = part.windows(horizon)
    origins = part.start + np.arange(count)
    if most is not None and most < count:
        origins = origins[np.linspace(0, count - 1, most).round().astype(np.int64)]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    values_NC = torch.from_numpy(series.values).to(device)
    together = max(1, VALUES // ((network.lookback + horizon) * len(series.columns)))
    squared, absolute = (torch.zeros(len(series.columns), dtype=torch.float64, device=device) for _ in range(2))
    bar = Progress(len(origins), "windows", f"{title}, measuring") if title else None
    with torch.inference_mode():
        for at in range(0, len(origins), together):
            x_BLC, y_BHC = windows(values_NC, origins[at : at + together], network.lookback, horizon)
            off_BHC = (network(x_BLC) - y_BHC).double()
            squared += off_BHC.square().sum((0, 1))
            absolute += off_BHC.abs().sum((0, 1))
            if bar:
                bar.update(len(x_BLC))
    if bar:
        bar.close()
    squared, absolute = (total.cpu() / (len(origins) * horizon) for total in (squared, absolute))
    return {
        "mse": float(squared.mean()),
        "mae": float(absolute.mean()),
        "columns": {
            name: {"mse": float(squared[c]), "mae": float(absolute[c])} for c, name in enumerate(series.columns)
        },
        "windows": len(origins),
    }


def middle(series: Series, horizon: int) -> int:
    """The first step of the middle window of the test split."""
    part = series.splits["test"]
    return part.start + part.windows(horizon) // 2


def example(network: nn.Module, series: Series, horizon: int) -> list[list[float]]:
    """The forecast of the middle window of the test split: of the first columns, ``horizon`` scaled values each."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    values_NC = torch.from_numpy(series.values).to(device)
    at = np.array([middle(series, horizon)])
    with torch.inference_mode():
        y_BHC = network(windows(values_NC, at, network.lookback, horizon)[0])
    return np.round(y_BHC[0, :, :SHOWN].T.double().cpu().numpy(), 4).tolist()


# --------------------------------------------------------------------------------------------- on disk


def build(shape: dict[str, Any], backbone: Any) -> nn.Module:
    """The network of a name: with ``backbone`` a `Forecaster`, else ``dlinear`` or ``last``."""
    if backbone is not None:
        return Forecaster(backbone, *(shape[key] for key in ("lookback", "horizon", "patch", "stride", "revin")))
    return LastValue(shape["horizon"]) if shape["name"] == "last" else DLinear(shape["lookback"], shape["horizon"])


def load_forecaster(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained forecaster in evaluation mode, and its description (model.json).

    It reads and forecasts scaled values: ``(x - mean) / deviation`` of each of ``columns``, in their order.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is none in ``folder``, or its weights do not belong to its description.
    """
    folder = Path(folder)
    shape = read_json(folder / "model.json", "forecast")
    try:
        backbone = build_model(shape["name"], TitansConfig.model_validate(shape["config"])) if shape["config"] else None
        network = build(shape, backbone)
        load_safetensors(network, str(folder / "model.safetensors"))
    except (KeyError, ValueError, RuntimeError, SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"{folder}: does not hold a forecaster ({' '.join(str(error).split())[:300]}); run `titans-genomics forecast` again"
        ) from None
    return network.eval(), shape


def _save(network: nn.Module, folder: Path, description: dict[str, Any]) -> None:
    with replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save({name: value.cpu().contiguous() for name, value in network.state_dict().items()}))
    write_json(folder / "model.json", description)
