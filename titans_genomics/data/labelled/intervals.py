"""Genomic intervals of a benchmark: which of the test set lie in train?

For benchmarks that come as places in a genome; where there is sequence, `copies` tells more: repeats, the other strand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from titans_genomics.compiling import kernel

_COLUMNS = {"region": pa.string(), "start": pa.int64(), "end": pa.int64()}


class Intervals(NamedTuple):
    """Intervals, 0-based and half-open: their regions (strings or integers), starts and ends, shape (intervals,) each."""

    region: np.ndarray
    start: np.ndarray
    end: np.ndarray


def interval_overlap(train: Intervals, test: Intervals) -> tuple[np.ndarray, np.ndarray]:
    """How much of each test interval one training interval covers; the strand does not matter.

    Returns
    -------
    covered : numpy.ndarray
        float64, shape (tests,): the largest share of the interval's bases that a single training interval covers.
    verbatim : numpy.ndarray
        bool, shape (tests,): the same region, start and end stand in train.
    """
    if len(train.start) == 0 or len(test.start) == 0:
        return np.zeros(len(test.start)), np.zeros(len(test.start), dtype=bool)
    _, region = np.unique(np.concatenate([train.region, test.region]), return_inverse=True)
    numbers = [np.asarray(x, np.int64) for x in (region[: len(train.start)], train.start, train.end)]
    order = np.lexsort((-numbers[2], numbers[1], numbers[0]))
    own_region, start, end = (x[order] for x in numbers)
    # An interval within another of train covers no more than that one: without them starts and ends both ascend.
    high = np.int64(max(end.max(), test.end.max(), 0) + 1)
    outmost = np.maximum.accumulate(own_region * high + end)  # later regions are above all of the ones before
    widest = np.concatenate([[True], own_region[1:] * high + end[1:] > outmost[:-1]])
    asked = [np.asarray(x, np.int64) for x in (region[len(train.start) :], test.start, test.end)]
    covered = np.empty(len(test.start), dtype=np.int64)
    ends = own_region[widest] * high + end[widest]
    first = np.searchsorted(ends, asked[0] * high + asked[1], side="right")  # the first that ends behind the start
    _cover(own_region[widest], start[widest], end[widest], *asked, first, covered)
    known = set(zip(*(x.tolist() for x in numbers), strict=True))
    verbatim = [place in known for place in zip(*(x.tolist() for x in asked), strict=True)]
    return covered / (asked[2] - asked[1]), np.array(verbatim, dtype=bool)


@kernel
def _cover(region, start, end, test_region, test_start, test_end, first, covered):
    """Largest overlap of each test interval with one of the intervals from ``first`` on."""
    for i in range(len(covered)):
        best, at = 0, first[i]
        while at < len(start) and region[at] == test_region[i] and start[at] < test_end[i]:
            best = max(best, min(end[at], test_end[i]) - max(start[at], test_start[i]))
            at += 1
        covered[i] = best


def interval_leaks(folder: str | Path) -> dict[str, Any]:
    """Count the test intervals of a benchmark that lie in train, in the layout of GenomicBenchmarks.

    Parameters
    ----------
    folder
        Holds train/CLASS.csv and test/CLASS.csv (or .csv.gz) with the columns region, start and end.

    Returns
    -------
    dict
        ``per_class`` (by class of the test interval; train is that of all classes) and ``overall``, each with
        ``train`` and ``test`` (intervals), ``half`` (test intervals at least half covered by one training interval),
        ``verbatim``, ``half_share`` and ``verbatim_share``.

    Raises
    ------
    FileNotFoundError
        No such files.
    ValueError
        A file without those columns, or with intervals that end before they begin.
    """
    folder = Path(folder)
    train, test = _read_split(folder / "train"), _read_split(folder / "test")
    everything = Intervals(*(np.concatenate(column) for column in zip(*train.values(), strict=True)))
    found = {name: interval_overlap(everything, own) for name, own in test.items()}
    per_class = {name: _counts(len(train[name].start) if name in train else 0, [found[name]]) for name in test}
    return {"per_class": per_class, "overall": _counts(len(everything.start), list(found.values()))}


def _counts(train: int, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    covered, verbatim = (np.concatenate(column) for column in zip(*found, strict=True))
    n, half, same = len(covered), int((covered >= 0.5).sum()), int(verbatim.sum())
    shares = {"half_share": half / n if n else 0.0, "verbatim_share": same / n if n else 0.0}
    return {"train": train, "test": n, "half": half, "verbatim": same, **shares}


def _read_split(folder: Path) -> dict[str, Intervals]:
    """The intervals of each class."""
    paths = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no CLASS.csv or CLASS.csv.gz there; give the folder that holds train and test"
        )
    split = {}
    for path in paths:
        name = path.name.removesuffix(".gz").removesuffix(".csv")
        if name in split:
            raise ValueError(f"{path}: the class {name} stands there twice, as .csv and as .csv.gz; remove one")
        split[name] = _read(path)
    return split


def _read(path: Path) -> Intervals:
    try:
        table = csv.read_csv(
            path, convert_options=csv.ConvertOptions(column_types=_COLUMNS, include_columns=[*_COLUMNS])
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: no table of intervals with the columns region, start and end ({reason})") from None
    region, start, end = (table[name].combine_chunks() for name in _COLUMNS)
    if region.null_count or start.null_count or end.null_count:
        raise ValueError(f"{path}: an interval without region, start or end; complete it or remove its row")
    intervals = Intervals(np.array(region.to_pylist(), dtype=str), start.to_numpy(), end.to_numpy())
    wrong = np.flatnonzero((intervals.start < 0) | (intervals.end <= intervals.start))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{path}: row {row + 1} is {intervals.region[row]}:{intervals.start[row]}-{intervals.end[row]}; "
            "intervals are 0-based and half-open, so the end is above the start"
        )
    return intervals
