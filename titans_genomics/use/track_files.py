"""The second half of `track`: the parts of all contigs become bigWig files, figures, intervals and an overview."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pybigtools

from titans_genomics.data.regions import merge
from titans_genomics.files import write_text
from titans_genomics.progress import Progress
from titans_genomics.use.track_parts import OF_NEXT, Column, Parts

AT_ONCE = 1 << 18
"""Bases that are written at a time."""

WINDOW = 200
"""Bases of the windows whose means say which intervals are the most surprising."""

SHARE = 0.005
"""Share of the windows that counts as surprising; neighbours among them make one interval."""

STRETCHES = 20
"""Stretches that it takes to tell what is usual at a place within a stretch."""

BINS = 1 << 17
"""Most bins of a track on the page, all contigs together."""


class Means:
    """Means of a track in windows of so many bases, for each contig."""

    def __init__(self, contigs: dict[str, int], width: int) -> None:
        self.width = width
        self.sums = {name: np.zeros(-(-length // width)) for name, length in contigs.items()}
        self.counts = {name: np.zeros(len(sums), np.int64) for name, sums in self.sums.items()}

    def add(self, contig: str, start: int, values: np.ndarray) -> None:
        """Values of the bases from ``start`` on; NaN does not count."""
        first, last = start // self.width, (start + len(values) - 1) // self.width
        edges = np.maximum(np.arange(first, last + 1) * self.width - start, 0)
        good = np.isfinite(values)
        span = slice(first, last + 1)
        self.sums[contig][span] += np.add.reduceat(np.where(good, values, 0), edges, dtype=np.float64)
        self.counts[contig][span] += np.add.reduceat(good, edges, dtype=np.int64)

    def mean(self, contig: str, least: int = 1) -> np.ndarray:
        """float64, (windows,); NaN where fewer than ``least`` bases have a value."""
        counts = self.counts[contig]
        return np.where(counts >= least, self.sums[contig] / np.maximum(counts, 1), np.nan)


@dataclass
class Figures:
    """What is known of a column after it was written: per contig the sum and the number of bases with a value."""

    column: Column
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    overview: Means | None = None
    windows: Means | None = None

    @property
    def mean(self) -> float | None:
        """Over all contigs, None without any value."""
        count = sum(self.counts.values())
        return sum(self.sums.values()) / count if count else None


def usual(parts: Parts, index: int, stretch: int | None, chunk: int) -> np.ndarray | None:
    """What a column usually is at each place of a stretch, relative to its mean: float32, (stretch,).

    A memory that has just begun is surprised by everything: the numbers fall from the beginning of every stretch to its
    end, and say little of the genome until that is divided out. Means are over chunks of ``chunk`` tokens. None where the memory
    does not begin anew, where there are fewer than `STRETCHES` stretches, and for tokens of several bases.
    """
    whole = 0 if stretch is None else sum(length // stretch for length in parts.contigs.values())
    if stretch is None or whole < STRETCHES or any(parts.path(name, "counts").is_file() for name in parts.contigs):
        return None
    places = np.arange(stretch) // chunk
    sums, counts = np.zeros(places[-1] + 1), np.zeros(places[-1] + 1)
    for contig in parts.contigs:
        for block in parts.values(contig, index, False, stretch * max(1, AT_ONCE // stretch)):
            where = places[np.arange(len(block)) % stretch]
            good = np.isfinite(block)
            sums += np.bincount(where[good], block[good], len(sums))
            counts += np.bincount(where[good], minlength=len(sums))
    means = sums / np.maximum(counts, 1)
    mean = sums.sum() / max(1, counts.sum())
    return np.where(means > 0, means / (mean or 1), 1).astype(np.float32)[places]


def write_column(
    parts: Parts,
    index: int,
    column: Column,
    path: Path,
    step: int,
    masked: dict[str, np.ndarray],
    scored: bool,
    expected: np.ndarray | None,
    flatten: bool,
    progress: Progress,
) -> Figures:
    """Write one track as bigWig, whole or not at all.

    Parameters
    ----------
    parts, index, column
        Where its values are.
    path : Path
    step : int
        Bases of a bin: the mean of those with a value; bins without any are left out.
    masked : dict
        Stretches of each contig that get no value: sorted int64 (n, 2).
    scored : bool
        Also keep the means of windows, divided by what is expected, from which intervals are made.
    expected : ndarray or None
        What `usual` says of the column.
    flatten : bool
        Write the values divided by what is expected.
    progress : Progress
        Counts bases.

    Raises
    ------
    OSError
        It could not be written.
    """
    whole = max(1, sum(parts.contigs.values()))
    made = Figures(column, overview=Means(parts.contigs, -(-whole // BINS)))
    if scored:
        made.windows = Means(parts.contigs, WINDOW)
    temporary = path.with_name(f".{path.name}.tmp.bw")  # the library asks for the ending
    errors: list[BaseException] = []

    def values() -> Iterator[Iterable[tuple[str, int, int, float]]]:
        try:
            yield from _values(parts, index, made, step, masked, expected, flatten, progress)
        except GeneratorExit:
            raise
        except BaseException as error:  # the library would print it and go on
            errors.append(error)
            raise

    try:
        covered, broken = -1, None
        try:
            pybigtools.open(str(temporary), "w").write(parts.contigs, chain.from_iterable(values()))
            with pybigtools.open(str(temporary)) as written:
                covered = written.info()["summary"]["basesCovered"]
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ) as error:  # on a full disk the library may panic, which is no Exception, or leave a file cut short
            broken = error
        if errors:
            raise errors[0]
        if covered < sum(made.counts.values()):
            raise OSError(f"{path}: could not be written: is the disk full, or the folder not writable?") from broken
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return made


def _values(
    parts: Parts,
    index: int,
    made: Figures,
    step: int,
    masked: dict[str, np.ndarray],
    expected: np.ndarray | None,
    flatten: bool,
    progress: Progress,
) -> Iterator[Iterable[tuple[str, int, int, float]]]:
    """The intervals of a bigWig, in order, many at a time; at least one, of no value, because a bigWig without any cannot be read."""
    empty = True
    none = np.zeros((0, 2), np.int64)
    for contig, length in parts.contigs.items():
        made.sums[contig], made.counts[contig] = 0.0, 0
        start = 0
        for block in parts.values(contig, index, made.column.kind in OF_NEXT, step * max(1, AT_ONCE // step)):
            stop = start + len(block)
            for first, last in _overlapping(masked.get(contig, none), start, stop):
                block[max(first - start, 0) : last - start] = np.nan
            flat = block if expected is None else block / expected[np.arange(start, stop) % len(expected)]
            if flatten:
                block = flat
            good = np.isfinite(block)
            made.sums[contig] += float(block[good].sum(dtype=np.float64))
            made.counts[contig] += int(good.sum())
            made.overview.add(contig, start, block)  # type: ignore[union-attr]
            if made.windows is not None:
                made.windows.add(contig, start, flat)
            if step > 1:
                edges = np.arange(0, len(block), step)
                count = np.add.reduceat(good.astype(np.int64), edges)
                block = np.add.reduceat(np.where(good, block, 0).astype(np.float64), edges) / np.maximum(count, 1)
                good = count > 0
            where = np.flatnonzero(good)
            begins = start + where * step
            if len(where):
                empty = False
                ends = np.minimum(begins + step, length)
                columns = repeat(contig, len(where)), begins.tolist(), ends.tolist(), block[where].tolist()
                yield zip(*columns, strict=True)
            progress.update(stop - start, note=made.column.name)
            start = stop
    if empty:
        name = next(name for name, length in parts.contigs.items() if length)
        yield [(name, 0, 1, math.nan)]


def _overlapping(intervals: np.ndarray, start: int, stop: int) -> np.ndarray:
    first = np.searchsorted(intervals[:, 1], start, side="right")
    last = np.searchsorted(intervals[:, 0], stop, side="left")
    return intervals[first:last]


# --------------------------------------------------------------------------------------------- intervals


def surprising(written: list[Figures], contigs: dict[str, int], most: int) -> list[dict[str, Any]]:
    """The most surprising intervals of a genome.

    A window of `WINDOW` bases scores the mean, over the tracks that were scored, of its mean divided by what is usual in the
    genome (at the same place of a stretch): 1 is what is usual, and layers count alike. The windows above the (1 - `SHARE`) quantile are taken, neighbours made one.

    Returns
    -------
    list of dict
        At most ``most``, the most surprising first: contig, start, end (0-based, half-open), ``score`` (the highest of its
        windows) and ``mean``.
    """
    scored = [(made.windows, made.mean) for made in written if made.windows is not None and made.mean]
    if not scored:
        return []
    scores = {
        name: np.mean([windows.mean(name, WINDOW // 2) / mean for windows, mean in scored], axis=0) for name in contigs
    }
    known = np.concatenate([own[np.isfinite(own)] for own in scores.values()])
    if not len(known):
        return []
    limit = np.quantile(known, 1 - SHARE)
    found = []
    for name, own in scores.items():
        taken = np.flatnonzero(np.nan_to_num(own) >= limit)
        for first, last in merge(np.column_stack([taken, taken + 1]).astype(np.int64)):
            inside = own[first:last]
            found.append(
                {
                    "contig": name,
                    "start": int(first) * WINDOW,
                    "end": min(int(last) * WINDOW, contigs[name]),
                    "score": float(inside.max()),
                    "mean": float(inside.mean()),
                }
            )
    return sorted(found, key=lambda entry: -entry["score"])[:most]


def write_intervals(found: list[dict[str, Any]], contigs: dict[str, int], path: Path) -> None:
    """Write intervals as BED in the order of the genome: name (its rank), score up to 1000, no strand; then the score itself."""
    order = {name: number for number, name in enumerate(contigs)}
    ranked = sorted(enumerate(found, 1), key=lambda entry: (order[entry[1]["contig"]], entry[1]["start"]))
    top = found[0]["score"] if found else 1.0
    lines = [
        f"{own['contig']}\t{own['start']}\t{own['end']}\tsurprising_{rank}\t{round(1000 * own['score'] / top)}\t.\t{own['score']:.4f}\n"
        for rank, own in ranked
    ]
    write_text(path, "".join(lines))
