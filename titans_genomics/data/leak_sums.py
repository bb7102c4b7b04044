"""What the searches for near-duplicates share: places of stretches, sums over matches, and moving to train until it holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from titans_genomics.config import LeaksConfig
from titans_genomics.data.leaks import LARGEST, LEAST, Held, HeldRecord, Leaks, Locus, Match, Pair, Stretches
from titans_genomics.data.splits import SPLITS, TRAIN


def moved(stretches: Stretches, leaks: Leaks, config: LeaksConfig) -> np.ndarray:
    """Held-out stretches to move to train: those of which more than ``max_share`` stands there, with their unit.

    Where only a sample of a source's stretches was judged and the sample is above ``max_share``, the others move as well.

    Returns
    -------
    numpy.ndarray
        int64, sorted: numbers of stretches. Once they are in train, others may stand near-identically there.
    """
    above = leaks.covered > config.max_share * (stretches.end - stretches.begin)
    for held in leaks.above(config.max_share):
        own = (stretches.source == stretches.sources.index(held.source)) & (stretches.split == SPLITS.index(held.split))
        above |= own & ~leaks.judged
    if stretches.unit is not None and above.any():
        _, unit = np.unique(stretches.unit, return_inverse=True)
        concerned = np.zeros(len(unit), dtype=bool)
        concerned[unit[above]] = True
        above = concerned[unit] & (stretches.split != TRAIN)
    return np.flatnonzero(above)


class Search(ABC):
    """A search for held-out sequence in train. Inside, stretches are sorted and lie in one coordinate for all sources.

    Attributes
    ----------
    order
        int64, shape (stretches,): the stretches' numbers as they were given. All columns below are sorted by it.
    source, begin, end, length
        int64, shape (stretches,): number of the source, and place in the one coordinate.
    record
        int, shape (stretches,), or None: number of the contig, as in ``Stretches``.
    scale
        int64, shape (sources,): one in how many k-mers is compared.
    judged
        bool, shape (stretches,): held out and looked at.
    """

    scale: np.ndarray
    judged: np.ndarray

    def __init__(self, stretches: Stretches, config: LeaksConfig) -> None:
        self.stretches, self.config = stretches, config
        self.offsets = np.cumsum([0, *(len(codes) for codes in stretches.codes)])
        self.order = np.lexsort((stretches.end, stretches.begin, stretches.source))
        self.source = np.asarray(stretches.source)[self.order].astype(np.int64)
        self.begin = stretches.begin[self.order].astype(np.int64) + self.offsets[self.source]
        self.end = stretches.end[self.order].astype(np.int64) + self.offsets[self.source]
        self.length = self.end - self.begin
        self.record = None if stretches.record is None else np.asarray(stretches.record)[self.order]
        self.bounds = np.searchsorted(self.source, np.arange(len(stretches.sources) + 1))

    @abstractmethod
    def leaks(self, split: np.ndarray) -> Leaks:
        """What is found with these splits (of the stretches as they were given)."""

    @abstractmethod
    def turn_to_train(self, numbers: np.ndarray) -> None:
        """Count these held-out stretches (as they were given) as train from now on."""

    def settled(self) -> tuple[np.ndarray, Leaks, np.ndarray]:
        """Move held-out stretches to train until of none more than ``max_share`` stands there.

        Returns
        -------
        tuple
            The new splits (int8, shape (stretches,)), what is still found with them, and the sorted numbers of all
            stretches that were moved.
        """
        stretches = self.stretches
        split = np.array(stretches.split, dtype=np.int8)
        while True:
            now = Stretches(**(vars(stretches) | {"split": split}))
            leaks = self.leaks(split)
            more = moved(now, leaks, self.config)
            if not len(more):
                return split, leaks, np.flatnonzero(split != stretches.split)
            split[more] = TRAIN
            self.turn_to_train(more)

    def sorted_split(self, split: np.ndarray) -> np.ndarray:
        """Splits of the stretches as they were given, sorted. int64."""
        return np.asarray(split)[self.order].astype(np.int64)

    def needed(self, held: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Bases from which on matches of these stretches count: ``min_length``, or half the shorter one. int64."""
        return np.minimum(self.config.min_length, np.minimum(self.length[held], self.length[train]) // 2)

    def contigs(self, split: np.ndarray) -> np.ndarray | None:
        """Of every stretch what is judged together with it beside its source: its contig's bases in its (sorted) split.

        int64, shape (stretches,); -1 for train, reads, and contigs of fewer than ``LEAST`` held-out bases. None if all are.
        """
        if self.record is None:
            return None
        together = np.where((self.record >= 0) & self.judged & (split != TRAIN), self.record * len(SPLITS) + split, -1)
        bases = np.bincount(together + 1, weights=self.length)
        large = (bases[together + 1] >= LEAST) & (together >= 0)
        return np.where(large, together, -1) if large.any() else None

    def summary(self, split: np.ndarray, found: Found, tool: str, version: str, k: int) -> Leaks:
        """What was found with these (sorted) splits."""
        names = self.stretches.sources
        judged = self.judged & (split != TRAIN)
        covered, looked_at = np.zeros(len(split), dtype=np.int64), np.zeros(len(split), dtype=bool)
        covered[self.order], looked_at[self.order] = found.covered, judged
        group = self.source * len(SPLITS) + split
        bases = np.bincount(group, weights=self.length * judged).astype(np.int64)
        own = np.bincount(group, weights=found.covered).astype(np.int64)
        held = []
        for number in np.flatnonzero(bases).tolist():
            source, label = divmod(number, len(SPLITS))
            pairs = [
                Pair(names[train], int(shared), weighted / shared)
                for train, (shared, weighted) in found.pairs.get(number, {}).items()
                if shared
            ]
            pairs.sort(key=lambda pair: (-pair.bases, pair.train))
            matches = tuple(self._named(row) for row in found.largest.get(number, []))
            sums = int(bases[number]), int(own[number]), int(self.scale[source])
            held.append(Held(names[source], SPLITS[label], *sums, tuple(pairs), matches))
        return Leaks(covered, looked_at, tuple(held), k, tool, version, self._records(split, found))

    def _records(self, split: np.ndarray, found: Found) -> tuple[HeldRecord, ...]:
        contigs = self.contigs(split)
        if contigs is None:
            return ()
        rows = np.flatnonzero(contigs >= 0)
        numbers, first, inverse = np.unique(contigs[rows], return_index=True, return_inverse=True)
        judged, covered = (np.bincount(inverse, weights=column[rows]) for column in (self.length, found.covered))
        records = []
        for i in np.flatnonzero(covered).tolist():
            stretch = int(rows[first[i]])
            name, _ = self.stretches.locus(int(self.order[stretch]))
            best = found.best.get(int(numbers[i]))
            records.append(
                HeldRecord(
                    source=self.stretches.sources[self.source[stretch]],
                    record=name,
                    split=SPLITS[split[stretch]],
                    judged=int(judged[i]),
                    covered=int(covered[i]),
                    match=self._named(best) if best else None,
                )
            )
        return tuple(records)

    def _named(self, row: tuple[Any, ...]) -> Match:
        _, held, start, stop, train, train_start, train_stop, minus, identity = row
        strand = "-" if minus else "+"
        return Match(self._locus(held, start, stop), self._locus(train, train_start, train_stop), strand, identity)

    def _locus(self, stretch: int, start: int, stop: int) -> Locus:
        record, position = self.stretches.locus(int(self.order[stretch]))
        shift = position - int(self.begin[stretch])
        return Locus(self.stretches.sources[self.source[stretch]], record, start + shift, stop + shift)


class Found:
    """Sums over all matches: they are counted window by window and, but for the largest, not kept.

    Parameters
    ----------
    stretches, places
        How many there are.
    contigs
        What ``Search.contigs`` gives: the largest match of each is kept in ``best``.
    """

    def __init__(self, stretches: int, places: int, contigs: np.ndarray | None = None) -> None:
        self.covered = np.zeros(stretches, dtype=np.int64)
        self.pairs: dict[int, dict[int, list[float]]] = {}  # group, train source: bases, bases x identity
        self.largest: dict[int, list[tuple[Any, ...]]] = {}  # group: rows that begin with the negative length
        self.best: dict[int, tuple[Any, ...]] = {}  # contig: such a row
        self._places, self._contigs = places, contigs

    def add(self, *, group: np.ndarray, train_source: np.ndarray, **columns: np.ndarray) -> None:
        """Count matches of held-out sequence that no other call has matches of."""
        start, stop = columns["start"], columns["stop"]
        if not len(start):
            return
        fresh = fresh_bases(start, stop)
        np.add.at(self.covered, columns["held"], fresh)
        apart = train_source * (self._places + 1)  # every train source counted as if it were the only one
        shared = fresh_bases(start + apart, stop + apart)
        width = int(train_source.max()) + 1
        keys, inverse = np.unique(group * width + train_source, return_inverse=True)
        sums = (np.bincount(inverse, weights=weight).tolist() for weight in (shared, shared * columns["identity"]))
        for key, bases, weighted in zip(keys.tolist(), *sums, strict=True):
            own, train = divmod(key, width)
            total = self.pairs.setdefault(own, {}).setdefault(train, [0.0, 0.0])
            total[0] += bases
            total[1] += weighted
        listed = np.flatnonzero(2 * fresh > stop - start)  # of the copies of one repeat only the first is listed
        listed = listed[np.lexsort((start[listed], start[listed] - stop[listed], group[listed]))]
        own, firsts = np.unique(group[listed], return_index=True)
        for number, rows in zip(own.tolist(), np.split(listed, firsts[1:]), strict=True):
            rows = rows[:LARGEST]
            new = zip(
                (start - stop)[rows].tolist(), *(column[rows].tolist() for column in columns.values()), strict=True
            )
            self.largest[number] = sorted([*self.largest.get(number, []), *new])[:LARGEST]
        if self._contigs is not None:
            self._keep_best(self._contigs[columns["held"]], columns)

    def _keep_best(self, contig: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        start, stop = columns["start"], columns["stop"]
        rows = np.flatnonzero(contig >= 0)
        rows = rows[np.lexsort((start[rows], start[rows] - stop[rows], contig[rows]))]
        numbers, firsts = np.unique(contig[rows], return_index=True)
        for number, row in zip(numbers.tolist(), rows[firsts].tolist(), strict=True):
            new = (int(start[row] - stop[row]), *(column[row].item() for column in columns.values()))
            self.best[number] = min(new, self.best.get(number, new))


def fresh_bases(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Bases of every interval that no interval of smaller start (of equal start: no longer one) holds. int64."""
    order = np.lexsort((-stop, start))
    reached = np.maximum.accumulate(stop[order])
    before = np.concatenate([start[order[:1]], reached[:-1]])
    fresh = np.zeros(len(start), dtype=np.int64)
    fresh[order] = np.maximum(stop[order] - np.maximum(start[order], before), 0)
    return fresh
