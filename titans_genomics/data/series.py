"""Time series for forecasting: a CSV with a column of evenly spaced times and columns of numbers, its splits and its scaling.

Axes: N steps, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titans_genomics.config import ForecastConfig
from titans_genomics.data.series_file import and_more, find_file, read_numbers, read_table, read_times

DAY = 86_400

SMALLEST = 1e-150
"""Deviations below this, or above its inverse, are not used: their squares leave float64."""


@dataclass(frozen=True)
class Part:
    """Steps of a split, [start, stop): forecasts are made for them, from the steps before, those of an earlier split included."""

    start: int
    stop: int

    def windows(self, horizon: int) -> int:
        """Forecasts of ``horizon`` steps that lie wholly within the split, one from every step on."""
        return max(0, self.stop - self.start - horizon + 1)


@dataclass(frozen=True)
class Series:
    """Many series side by side.

    Attributes
    ----------
    columns : tuple of str
        The C names.
    times : (N,) datetime64[s], or int64 where the file has whole numbers
    values : (N, C) float32, scaled
    mean, deviation : (C,) float64
        Of the training steps, in the units of the file: ``values * deviation + mean`` gives them back.
    splits : dict
        ``train``, ``validation`` and ``test``.
    filled : int
        Values that were missing and interpolated.
    sha256 : str
        Of the file as it is.
    """

    columns: tuple[str, ...]
    times: NDArray[np.generic]
    values: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    splits: dict[str, Part]
    filled: int
    sha256: str


def load_series(settings: ForecastConfig) -> Series:
    """Read, check, split and scale the series of a config; the file is downloaded from ``forecast.url`` if it is not there.

    Columns are scaled by mean and deviation of the training steps. With ``gaps: interpolate``, missing rows and cells are linear
    between their neighbours, and the nearest value before the first and behind the last: a filled cell then knows of the cell after it.

    Raises
    ------
    FileNotFoundError
        When there is no file and no URL.
    ValueError
        When the file is no such table (names file, row and column, and what to do), has another checksum, a split is too
        short for a horizon, or a column is constant in training.
    OSError
        When the file cannot be downloaded.
    """
    path, sha256 = find_file(settings)
    table = read_table(path, settings)
    names = settings.columns or tuple(name for name in table.column_names if name != settings.time)
    times, rows = read_times(path, table[settings.time], settings)
    found = np.stack([read_numbers(path, name, table[name], settings) for name in names], axis=1)
    raw = np.full((len(times), len(names)), np.nan)
    raw[rows] = found
    filled = _fill(raw)
    splits = split(path, times, settings)
    train = raw[: splits["train"].stop]
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        mean, deviation, extent = train.mean(0), train.std(0), np.ptp(train, axis=0)
    constant = [name for c, name in enumerate(names) if extent[c] == 0]
    if constant:
        rest = [name for name in names if name not in constant]
        raise ValueError(
            f"{path}: column {constant[0]!r} is constant in the training steps (rows 1 to {splits['train'].stop}){and_more(constant)}, which cannot be scaled. "
            f"Leave it out: list the others under forecast.columns{f', such as {rest[:3]}' if rest else ''}"
        )
    with np.errstate(all="ignore"):
        scaled = ((raw - mean) / deviation).astype(np.float32)
    within = (deviation > SMALLEST) & (deviation < 1 / SMALLEST) & np.isfinite(scaled).all(0)
    for c in np.flatnonzero(~within)[:1]:
        raise ValueError(
            f"{path}: column {names[c]!r}: its values, from {raw[:, c].min():.3g} to {raw[:, c].max():.3g}, are too small, too large or too far apart to be "
            "scaled by mean and deviation of the training steps; change its unit, or correct those far off"
        )
    return Series(tuple(names), times, scaled, mean, deviation, splits, filled, sha256)


def split(path: Path, times: NDArray[np.generic], settings: ForecastConfig) -> dict[str, Part]:
    """Training, validation and test steps, as the field has them.

    ``share``: the first 70%, then what is left, then the last 20%. ``ett``: 12, 4 and 4 months of 30 days; later steps are not used.
    Training forecasts begin a lookback behind the first step; those of the other splits look back into the split before.

    Raises ValueError when a split has no room for the longest horizon.
    """
    steps = len(times)
    if settings.split == "share":
        train, test = int(steps * 0.7), int(steps * 0.2)
        ends = (train, steps - test, steps)
    else:
        if times.dtype.kind != "M":
            raise ValueError(
                f"{path}: forecast.split ett counts months, and column {settings.time!r} holds whole numbers. Set forecast.split to share"
            )
        spacing = int((times[1] - times[0]).astype(int))
        if DAY % spacing:
            raise ValueError(
                f"{path}: forecast.split ett needs steps that divide a day, these are {spacing:,} seconds. Set forecast.split to share"
            )
        month = 30 * DAY // spacing
        ends = (12 * month, 16 * month, 20 * month)
        if steps < ends[-1]:
            raise ValueError(
                f"{path}: has {steps:,} steps, forecast.split ett needs {ends[-1]:,} (20 months of 30 days). Set forecast.split to share"
            )
    parts = {
        "train": Part(settings.lookback, ends[0]),
        "validation": Part(ends[0], ends[1]),
        "test": Part(ends[1], ends[2]),
    }
    longest = max(settings.horizons)
    for name, part in parts.items():
        if not part.windows(longest):
            room = part.stop - part.start
            behind = f" behind a lookback of {settings.lookback:,}" if name == "train" else ""
            advice = (
                f"the longest horizon that fits is {room:,}: change forecast.horizons"
                if room > 0
                else "lower forecast.lookback"
            )
            raise ValueError(
                f"{path}: a horizon of {longest:,} steps is longer than the {name} split ({max(0, room):,} of {steps:,} steps{behind}); {advice}, or give a longer series"
            )
    return parts


def _fill(values: NDArray[np.float64]) -> int:
    """Interpolate NaN in place; returns how many there were."""
    unknown = np.isnan(values)
    steps = np.arange(len(values))
    for c in np.flatnonzero(unknown.any(0)):
        gone = unknown[:, c]
        values[gone, c] = np.interp(steps[gone], steps[~gone], values[~gone, c])
    return int(unknown.sum())
