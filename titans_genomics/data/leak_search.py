"""Near-duplicate sequence on both sides of a split: found on both strands, named, and moved to train if wanted.

The held-out side is sketched (module ``sketch``), the train side streams past it, and what both share is chained:
k-mers that follow each other in the same order and at about the same distances on both sides. A chain covers what lies
between its k-mers, so that sequence is found in which mutations leave only some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from titans_genomics.config import LeaksConfig
from titans_genomics.data.leaks import LARGEST, Held, Leaks, Locus, Match, Pair, Stretches
from titans_genomics.data.sketch import HeldOut, sketch
from titans_genomics.data.splits import SPLITS, TRAIN

T = TypeVar("T")

_MOST = 1 << 23  # held-out k-mers that are kept; of more sequence fewer are compared
_WINDOW = 1 << 19  # held-out k-mers chained at a time
_KMERS = 32  # k-mers that a stretch should keep: of reads more are compared than one in LeaksConfig.scale
_MANY = 10_000  # a source of more held-out stretches may be judged by a sample of them
_GAP = 500  # longest way to the next hit of a chain, bases; or _KMERS kept k-mers, if that is more
_BEYOND_KMERS = 8  # how far at most a match reaches beyond its hits, in kept k-mers


def find_leaks(
    stretches: Stretches, config: LeaksConfig, advance: Callable[[int], object] = lambda bases: None
) -> Leaks:
    """What of the validation and test stretches stands near-identically in train.

    A match counts from ``config.min_length`` bases on, or from half the shorter of its two stretches where that is
    less, so that reads are judged too. Memory beside the sequence is about 0.6 GB at most, whatever its length: of much
    held-out sequence fewer k-mers are compared, and of very many reads a (fixed) sample is.

    Parameters
    ----------
    stretches
        All stretches of the run.
    config
        What is compared, and from which length on a match counts.
    advance
        Called with the bases just compared; all calls add up to about the bases of all stretches.
    """
    return _Search(stretches, config, advance).leaks(stretches.split)


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
        order = np.lexsort((stretches.unit, stretches.source))
        source, unit = stretches.source[order], stretches.unit[order]
        group = np.empty(len(order), dtype=np.int64)
        group[order] = np.cumsum(np.concatenate([[0], (source[1:] != source[:-1]) | (unit[1:] != unit[:-1])]))
        concerned = np.zeros(len(order), dtype=bool)
        concerned[group[above]] = True
        above = concerned[group] & (stretches.split != TRAIN)
    return np.flatnonzero(above)


def resolve(
    stretches: Stretches, config: LeaksConfig, advance: Callable[[int], object] = lambda bases: None
) -> tuple[np.ndarray, Leaks, np.ndarray]:
    """Move held-out stretches to train until of none more than ``max_share`` stands there.

    The sequence is read once, whatever the number of rounds. Nothing may be left to hold out.

    Returns
    -------
    tuple
        The new splits (int8, shape (stretches,)), what is still found with them, and the sorted numbers of all
        stretches that were moved.
    """
    search = _Search(stretches, config, advance)
    split = np.array(stretches.split, dtype=np.int8)
    while True:
        now = Stretches(**(vars(stretches) | {"split": split}))
        leaks = search.leaks(split)
        more = moved(now, leaks, config)
        if not len(more):
            return split, leaks, np.flatnonzero(split != stretches.split)
        split[more] = TRAIN
        search.turn_to_train(more)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = beside.submit(next, items, None)
            yield item


class _Search:
    """The sketches of both sides. Inside, stretches are sorted and lie in one coordinate for all sources."""

    def __init__(self, stretches: Stretches, config: LeaksConfig, advance: Callable[[int], object]) -> None:
        self.stretches, self.config = stretches, config
        self.offsets = np.cumsum([0, *(len(codes) for codes in stretches.codes)])
        self.order = np.lexsort((stretches.end, stretches.begin, stretches.source))
        self.source = np.asarray(stretches.source)[self.order].astype(np.int64)
        self.begin = stretches.begin[self.order].astype(np.int64) + self.offsets[self.source]
        self.end = stretches.end[self.order].astype(np.int64) + self.offsets[self.source]
        self.length = self.end - self.begin
        self.bounds = np.searchsorted(self.source, np.arange(len(stretches.sources) + 1))
        train = stretches.split[self.order] == TRAIN
        self.scale, self.judged = self._plan(~train)
        hashes, places = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
        for own_hashes, own_places in self._sketches(self.judged, self.scale, advance):
            hashes.append(own_hashes)
            places.append(own_places)
        hashes, places = [np.concatenate(hashes)], [np.concatenate(places)]  # what they were made of is free again
        self.held = HeldOut(hashes.pop(), places.pop())
        if len(self.held.places):
            self._add_train(train, advance)

    def _plan(self, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One in how many k-mers of every source is kept (int64), and which held-out stretches are judged (bool)."""
        wanted = self.config.scale
        finest, coarsest = np.full((2, len(self.bounds) - 1), wanted, dtype=np.int64)
        bases, count = np.zeros((2, len(finest)), dtype=np.int64)
        for source, (low, high) in enumerate(pairwise(self.bounds.tolist())):
            lengths = np.sort(self.length[low:high])
            total = np.cumsum(lengths)
            bases[source], count[source] = self.length[low:high][held[low:high]].sum(), held[low:high].sum()
            if len(lengths):  # half of the bases are in stretches of at least this length
                usual = int(lengths[np.searchsorted(total, total[-1] / 2)])
                finest[source] = min(wanted, max(usual // _KMERS, 1))
                coarsest[source] = max(wanted, usual // _KMERS)
        scale, factor = finest, 1.0
        while (bases / scale).sum() > _MOST and (scale < coarsest).any():  # first fewer k-mers, then fewer stretches
            factor *= 1.1
            scale = np.clip((finest * factor).astype(np.int64), None, coarsest)
        kept = bases / scale
        many = count > _MANY
        room = (_MOST - kept[~many].sum()) / max(kept[many].sum(), 1)
        share = np.where(many, np.clip(room, _MANY / np.maximum(count, 1), 1), 1.0)
        drawn = np.random.default_rng(0).random(len(held)) < share[self.source]
        return scale, held & drawn

    def _sketches(
        self, chosen: np.ndarray, scale: np.ndarray, advance: Callable[[int], object]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for source, codes in enumerate(self.stretches.codes):
            low, high = self.bounds[source : source + 2]
            own = low + np.flatnonzero(chosen[low:high])
            offset = int(self.offsets[source])
            begins, ends = self.begin[own] - offset, self.end[own] - offset
            pieces = sketch(codes, begins, ends, offset, self.config.k, int(scale[source]))
            for hashes, places, bases in _ahead((h.copy(), p.copy(), bases) for h, p, bases in pieces):
                yield hashes, places
                advance(bases)

    def turn_to_train(self, numbers: np.ndarray) -> None:
        """Count these held-out stretches as train from now on."""
        chosen = np.zeros(len(self.order), dtype=bool)
        chosen[numbers] = True
        self._add_train(chosen[self.order], lambda bases: None)

    def _add_train(self, chosen: np.ndarray, advance: Callable[[int], object]) -> None:
        for hashes, places in self._sketches(chosen, np.full(len(self.scale), self.scale.min()), advance):
            self.held.add(hashes, places)

    def leaks(self, split: np.ndarray) -> Leaks:
        """What is found with these splits (of the stretches as they were given)."""
        split = np.asarray(split)[self.order].astype(np.int64)
        found = _Found(len(split), int(self.offsets[-1]))
        train = np.flatnonzero(split == TRAIN)
        places = self.held.places >> 1
        low, since = 0, 0
        while low < len(places):
            high, until = min(low + _WINDOW, len(places)), int(self.offsets[-1])
            if high < len(places):  # better between two stretches than within one
                stretch = int(np.searchsorted(self.begin, places[high], side="right")) - 1
                border = int(np.searchsorted(places, self.begin[stretch]))
                high, until = (border, int(self.begin[stretch])) if border > low else (high, int(places[high]))
            self._match(low, high, since, until, split, train, found)
            low, since = high, until
        return self._summary(split, found)

    def _match(
        self, low: int, high: int, since: int, until: int, split: np.ndarray, train: np.ndarray, found: _Found
    ) -> None:
        """Count matches of the held-out k-mers ``low`` to ``high``, within the places ``since`` to ``until``."""
        k, least = self.config.k, self.config.min_length
        scale = self.scale[self.source]
        chains = self.held.chains(low, high, self.begin, self.begin[train], np.maximum(_GAP, _KMERS * scale))
        held = np.searchsorted(self.begin, chains.held[:, 0], side="right") - 1
        other = train[np.searchsorted(self.begin[train], chains.train[:, 0], side="right") - 1]
        needed = np.minimum(least, np.minimum(self.length[held], self.length[other]) // 2)
        span = chains.held[:, 1] + k - chains.held[:, 0]
        good = (split[held] != TRAIN) & (span >= needed) & (chains.hits >= np.where(needed < least, 2, 3))
        held, other, span = held[good], other[good], span[good]
        first, last = chains.held[good].T
        train_first, train_last = chains.train[good].T
        minus = chains.minus[good]
        # What is shared begins, on average, one distance between two hits before the first of them, and ends as far
        # behind the last; but no further than either stretch reaches.
        beyond = np.minimum((span - k) // (chains.hits[good] - 1), _BEYOND_KMERS * scale[held])
        left, right = train_first - self.begin[other], self.end[other] - train_last - k
        before = np.minimum(beyond, np.where(minus, right, left))
        behind = np.minimum(beyond, np.where(minus, left, right))
        before = np.minimum(before, first - np.maximum(self.begin[held], since))
        behind = np.minimum(behind, np.maximum(np.minimum(self.end[held], until) - last - k, 0))
        found.add(
            group=self.source[held] * len(SPLITS) + split[held],
            held=held,
            start=first - before,
            stop=np.minimum(last + k + behind, until),
            train_source=self.source[other],
            train=other,
            train_start=train_first - np.where(minus, behind, before),
            train_stop=train_last + k + np.where(minus, before, behind),
            minus=minus,
            identity=chains.rate[good] ** (1 / k),
        )

    def _summary(self, split: np.ndarray, found: _Found) -> Leaks:
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
        return Leaks(covered, looked_at, tuple(held), self.config.k)

    def _named(self, row: tuple[Any, ...]) -> Match:
        _, held, start, stop, train, train_start, train_stop, minus, identity = row
        strand = "-" if minus else "+"
        return Match(self._locus(held, start, stop), self._locus(train, train_start, train_stop), strand, identity)

    def _locus(self, stretch: int, start: int, stop: int) -> Locus:
        record, position = self.stretches.locus(int(self.order[stretch]))
        shift = position - int(self.begin[stretch])
        return Locus(self.stretches.sources[self.source[stretch]], record, start + shift, stop + shift)


class _Found:
    """Sums over all matches: they are counted window by window and, but for the largest, not kept."""

    def __init__(self, stretches: int, places: int) -> None:
        self.covered = np.zeros(stretches, dtype=np.int64)
        self.pairs: dict[int, dict[int, list[float]]] = {}  # group, train source: bases, bases x identity
        self.largest: dict[int, list[tuple[Any, ...]]] = {}  # group: rows that begin with the negative length
        self._places = places

    def add(self, *, group: np.ndarray, train_source: np.ndarray, **columns: np.ndarray) -> None:
        """Count matches of held-out sequence that no other call has matches of."""
        start, stop = columns["start"], columns["stop"]
        if not len(start):
            return
        fresh = _fresh(start, stop)
        np.add.at(self.covered, columns["held"], fresh)
        apart = train_source * (self._places + 1)  # every train source counted as if it were the only one
        shared = _fresh(start + apart, stop + apart)
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


def _fresh(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Bases of every interval that no interval of smaller start (of equal start: no longer one) holds. int64."""
    order = np.lexsort((-stop, start))
    reached = np.maximum.accumulate(stop[order])
    before = np.concatenate([start[order[:1]], reached[:-1]])
    fresh = np.zeros(len(start), dtype=np.int64)
    fresh[order] = np.maximum(stop[order] - np.maximum(start[order], before), 0)
    return fresh
