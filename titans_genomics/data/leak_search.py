"""Near-duplicate sequence on both sides of a split: found on both strands, named, and moved to train if wanted.

The held-out side is sketched (module ``sketch``), the train side streams past it, and what both share is chained:
k-mers that follow each other in the same order and at about the same distances on both sides. A chain covers what lies
between its k-mers, so that sequence is found in which mutations leave only some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np

from titans_genomics import __version__
from titans_genomics.config import LeaksConfig
from titans_genomics.data.leak_sums import Found, Search
from titans_genomics.data.leaks import Leaks, Stretches
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
    less, so that reads are judged too. Memory beside the sequence and the stretches is about 0.6 GB at most, whatever the
    number of bases: of much held-out sequence fewer k-mers are compared, and of very many reads a (fixed) sample is. It
    grows with the number of stretches, by some 200 bytes for each.

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
    return _Search(stretches, config, advance).settled()


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by another thread while the one before it is used."""
    beside = ThreadPoolExecutor(1)
    try:
        coming = beside.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = beside.submit(next, items, None)
            yield item
    finally:
        beside.shutdown(wait=False)


class _Search(Search):
    """The sketches of both sides."""

    def __init__(self, stretches: Stretches, config: LeaksConfig, advance: Callable[[int], object]) -> None:
        super().__init__(stretches, config)
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
        split = self.sorted_split(split)
        found = Found(len(split), int(self.offsets[-1]), self.contigs(split))
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
        return self.summary(split, found, "sketch", __version__, self.config.k)

    def _match(
        self, low: int, high: int, since: int, until: int, split: np.ndarray, train: np.ndarray, found: Found
    ) -> None:
        """Count matches of the held-out k-mers ``low`` to ``high``, within the places ``since`` to ``until``."""
        k, least = self.config.k, self.config.min_length
        scale = self.scale[self.source]
        chains = self.held.chains(low, high, self.begin, self.begin[train], np.maximum(_GAP, _KMERS * scale))
        held = np.searchsorted(self.begin, chains.held[:, 0], side="right") - 1
        other = train[np.searchsorted(self.begin[train], chains.train[:, 0], side="right") - 1]
        needed = self.needed(held, other)
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
