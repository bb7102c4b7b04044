"""Sketches of sequence (FracMinHash), and the colinear chains of k-mers that two of them share: kernels.

A k-mer stands for both strands: of it and its reverse complement the one of smaller code is taken (the canonical one),
mixed by a bijection of 64 bits, and kept when the result is among the smallest 1/scale. So two sequences keep the same
of the k-mers that they share, wherever they are cut, and two kept hashes are equal only if the k-mers are.

Places are positions in one coordinate for all sources. A *directed* place is twice the place of the k-mer's first
base, plus 1 where the canonical k-mer is the reverse complement of what stands there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from titans_genomics.compiling import kernel

COPIES = 4
"""Of a k-mer that occurs more often in train only the first so many places are kept."""

_PIECE = 1 << 21  # bases sketched at a time
_LAST = np.uint64(2**64 - 1)
_FIRST_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SECOND_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_0, _2, _3, _32 = np.uint64(0), np.uint64(2), np.uint64(3), np.uint64(32)


@kernel
def _sketch(codes, begins, ends, offset, k, limit, hashes, places):
    """Kept k-mers of stretches of ``codes`` (uint8; above 3 no k-mer passes); returns how many were written.

    In a tandem repeat the same few k-mers come again and again: one that is among the last two kept is not kept again.
    """
    mask, top = np.uint64((1 << (2 * k)) - 1), np.uint64(2 * (k - 1))
    kept = 0
    for stretch in range(len(begins)):
        forward, reverse, run = _0, _0, 0
        last, before = _LAST, _LAST
        for i in range(begins[stretch], ends[stretch]):
            if codes[i] > 3:
                run = 0
                continue
            code = np.uint64(codes[i])
            forward = ((forward << _2) | code) & mask
            reverse = (reverse >> _2) | ((_3 - code) << top)
            run += 1
            if run < k:
                continue
            mixed = min(forward, reverse) * _FIRST_FACTOR
            mixed = (mixed ^ (mixed >> _32)) * _SECOND_FACTOR
            if mixed <= limit and mixed != last and mixed != before:
                hashes[kept] = mixed
                places[kept] = (offset + i - k + 1) * 2 + (reverse < forward)
                kept += 1
                last, before = mixed, last
    return kept


@kernel
def _find(hashes, known, buckets, shift, ranks):
    """Where in the sorted ``known`` each hash is; -1: nowhere."""
    for i in range(len(hashes)):
        wanted = hashes[i]
        bucket = wanted >> shift
        ranks[i] = -1
        for rank in range(buckets[bucket], buckets[bucket + np.uint64(1)]):
            if known[rank] >= wanted:
                if known[rank] == wanted:
                    ranks[i] = rank
                break


@kernel
def _insert(ranks, places, slots, filled):
    """Add places to the sorted slots of their hashes; of more than fit the smallest stay."""
    for i in range(len(ranks)):
        rank, place = ranks[i], places[i]
        if rank < 0:
            continue
        at = filled[rank]
        if at == slots.shape[1]:
            if place >= slots[rank, at - 1]:
                continue
            at -= 1
        filled[rank] = at + 1
        while at > 0 and slots[rank, at - 1] > place:
            slots[rank, at] = slots[rank, at - 1]
            at -= 1
        slots[rank, at] = place


@kernel
def _chain(held, train, held_stretch, track, plain, gaps, heads, tails, hits, plain_hits):
    """Join hits to colinear chains; returns how many.

    The hits (places ``held`` and ``train`` of the same k-mer) are sorted by ``track`` (train stretch and strand: odd
    tracks run backwards in train), then by ``held``. A hit continues the chain that ends nearest to it: at most the gap
    of its held-out stretch before it there and, on the other side, at that distance up to half a gap more or less. Of
    every chain the first and last hit (``heads``, ``tails``), the hits and those of them that are ``plain`` are written.
    """
    open_chains = np.empty(len(held), dtype=np.int64)
    chains, opened = 0, 0
    for i in range(len(held)):
        if i > 0 and track[i] != track[i - 1]:
            opened = 0
        gap = gaps[held_stretch[i]]
        best, best_cost = -1, 2 * gap
        at = 0
        while at < opened:
            chain = open_chains[at]
            tail = tails[chain]
            ahead = held[i] - held[tail]
            if ahead > gap or held_stretch[i] != held_stretch[tail]:
                opened -= 1
                open_chains[at] = open_chains[opened]
                continue
            along = train[tail] - train[i] if track[i] & 1 else train[i] - train[tail]
            cost = ahead + abs(along - ahead)
            if ahead > 0 and along > 0 and 2 * abs(along - ahead) <= gap and cost < best_cost:
                best, best_cost = chain, cost
            at += 1
        if best < 0:
            best = chains
            heads[best], hits[best], plain_hits[best] = i, 0, 0
            open_chains[opened] = best
            opened += 1
            chains += 1
        tails[best] = i
        hits[best] += 1
        plain_hits[best] += plain[i]
    return chains


def sketch(
    codes: np.ndarray, begins: np.ndarray, ends: np.ndarray, offset: int, k: int, scale: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Sketch stretches of one source, piece by piece.

    Parameters
    ----------
    codes
        uint8, shape (bases of the source,): 0 to 3 for A C G T; a k-mer holds nothing else. May be a memory map.
    begins, ends
        int64, shape (stretches,): sorted, not overlapping.
    offset
        Place of the source's first base in the common coordinate.
    k, scale
        Length of the k-mers, and one in how many of them is kept.

    Yields
    ------
    tuple
        Hashes (uint64) and directed places (int64) in the order of the sequence, valid until the next are asked for,
        and the bases of this piece.
    """
    limit = np.uint64((2**64 - 1) // scale)
    hashes, places = np.empty(_PIECE + k, dtype=np.uint64), np.empty(_PIECE + k, dtype=np.int64)
    cuts = np.maximum(-(-(ends - begins - k + 1) // _PIECE), 1)
    nth = np.arange(cuts.sum()) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    starts = np.repeat(begins, cuts) + nth * _PIECE
    stops = np.minimum(starts + _PIECE + k - 1, np.repeat(ends, cuts))
    at = 0
    while at < len(starts):
        low = int(starts[at])
        after = max(at + 1, int(np.searchsorted(stops, low + _PIECE, side="right")))
        view = np.asarray(codes[low : int(stops[after - 1])])
        view.flags.writeable = False  # the kernel is compiled for one kind of array
        kept = _sketch(view, starts[at:after] - low, stops[at:after] - low, offset + low, k, limit, hashes, places)
        yield hashes[:kept], places[:kept], int((stops[at:after] - starts[at:after]).sum())
        at = after


class Chains(NamedTuple):
    """Chains of shared k-mers, arrays of one entry per chain.

    ``held`` and ``train`` are the places (int64) of the first and the last k-mer, shape (chains, 2), in ascending order;
    ``minus``: on opposite strands; ``hits``: shared k-mers; ``rate``: their share among the kept k-mers of the
    held-out stretch from the first to the last hit (the first not counted).
    """

    held: np.ndarray
    train: np.ndarray
    minus: np.ndarray
    hits: np.ndarray
    rate: np.ndarray


class HeldOut:
    """The sketch of all held-out sequence, with the places where its k-mers stand in train.

    Memory: about 55 bytes per kept k-mer.

    Parameters
    ----------
    hashes
        uint64, shape (k-mers,), in the order of the sequence.
    places
        int64, shape (k-mers,): their directed places.
    """

    def __init__(self, hashes: np.ndarray, places: np.ndarray) -> None:
        self.places = places
        self.known, ranks = np.unique(hashes, return_inverse=True)
        self.ranks = ranks.astype(np.int32)
        most = int(self.known[-1]) if len(self.known) else 0
        self._shift = np.uint64(max(0, most.bit_length() - max(1, len(self.known).bit_length())))
        counts = np.bincount((self.known >> self._shift).astype(np.int64), minlength=1)
        self._end = np.uint64(len(counts))
        self._buckets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self._slots = np.empty((len(self.known), COPIES), dtype=np.int64)
        self._filled = np.zeros(len(self.known), dtype=np.int8)

    def add(self, hashes: np.ndarray, places: np.ndarray) -> None:
        """Note where k-mers of the train split stand; their order does not matter."""
        near = (hashes >> self._shift) < self._end
        hashes, places = hashes[near], places[near]
        ranks = np.empty(len(hashes), dtype=np.int32)
        _find(hashes, self.known, self._buckets, self._shift, ranks)
        _insert(ranks, places, self._slots, self._filled)

    def chains(self, low: int, high: int, begins: np.ndarray, train_begins: np.ndarray, gaps: np.ndarray) -> Chains:
        """Chain the hits of the held-out k-mers ``low`` to ``high``.

        ``begins`` and ``train_begins`` are where all stretches and those of the train split begin (int64, sorted); no
        chain leaves its stretches. ``gaps``, one for each of all stretches, are the longest ways from hit to hit, bases.
        """
        ranks, places = self.ranks[low:high], self.places[low:high]
        copies = self._filled[ranks]
        counts = copies.astype(np.int64)
        nth = np.repeat(np.arange(len(ranks)), counts)
        copy = np.arange(len(nth)) - np.repeat(np.cumsum(counts) - counts, counts)
        directed = self._slots[ranks[nth], copy]
        train = directed >> 1
        minus = (directed ^ places[nth]) & 1
        track = 2 * np.searchsorted(train_begins, train, side="right") + minus
        order = np.argsort(track, kind="stable")
        nth, train, track = nth[order], train[order], track[order]
        held = places[nth] >> 1
        held_stretch = np.searchsorted(begins, held, side="right") - 1
        plain = copies < COPIES  # the other k-mers are missed now and then for what is only our limit
        heads, tails, hits, plain_hits = (np.empty(len(held), dtype=np.int64) for _ in range(4))
        n = _chain(held, train, held_stretch, track, plain[nth], gaps, heads, tails, hits, plain_hits)
        several = np.flatnonzero(hits[:n] > 1)
        heads, tails, hits, plain_hits = heads[several], tails[several], hits[several], plain_hits[several]
        before = np.concatenate([[0], np.cumsum(plain)])
        missed = np.maximum(before[nth[tails] + 1] - before[nth[heads]] - plain_hits, 0)
        return Chains(
            held=np.stack([held[heads], held[tails]], axis=1),
            train=np.sort(np.stack([train[heads], train[tails]], axis=1), axis=1),
            minus=(track[heads] & 1).astype(bool),
            hits=hits,
            rate=(hits - 1) / (hits + missed - 1),
        )
