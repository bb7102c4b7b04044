"""Test sequences that stand in train: verbatim, or at least half of them, on either strand.

Verbatim is letter by letter, by a digest of the sequence or its reverse complement, whichever is smaller. For the rest
the k-mers of the test sequences go into a table, the training sequences stream past it, and for every k-mer the
training sequences that hold it are noted. Then each test sequence is walked once, counting for each of those how many
bases its k-mers cover. Nothing is sampled: the shares are exact. A test sequence without room for a k-mer is looked for
as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b

import numpy as np

from titans_genomics.compiling import kernel
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.progress import Progress

VERBATIM, NEAR, NEITHER = 2, 1, 0
"""What `find_copies` says of a sequence."""

NEAR_SHARE = 0.5
"""Share of a sequence that has to stand in one other for them to be near copies."""

_BATCH = 23_900_000  # bases of test sequences whose k-mers are in the table at a time: 2**25 slots
_PIECE = 1 << 20  # bases that a thread takes at a time
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_0, _1, _2, _3 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)


def kmer_length(median: float) -> int:
    """The k for sequences of this median length: 21, less for short ones, of which few would hold a 21-mer unchanged.

    Not so little that random sequences are near. Below 36 bases one k-mer can be half of a sequence: of random ones of 30
    bases, against 20,000, 0.5% are near by 15-mers and 0.03% by 17-mers. Of longer ones several k-mers have to stand in
    the same sequence: of 60 bases none is near by 15-mers, in 20,000 against 230,000.
    """
    return min(21, max(15 if median >= 36 else 17, int(median) // 4))


def distinct(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A number for each sequence, the same for those that are the same on either strand.

    Parameters
    ----------
    codes
        uint8, shape (bases,): base codes of all sequences one after the other; N is a letter like the others.
    offsets
        int64, shape (n + 1,): where each begins, and where the last ends.

    Returns
    -------
    numpy.ndarray
        int64, shape (n,): the row of the first sequence that is the same.
    """
    forward, reverse = (memoryview(np.ascontiguousarray(c, np.uint8)) for c in (codes, reverse_complement(codes)))
    size, bounds = len(codes), offsets.tolist()
    first: dict[bytes, int] = {}
    same = np.empty(len(bounds) - 1, dtype=np.int64)
    for row in range(len(same)):
        begin, end = bounds[row], bounds[row + 1]
        smaller = min(bytes(forward[begin:end]), bytes(reverse[size - end : size - begin]))
        same[row] = first.setdefault(blake2b(smaller, digest_size=16).digest(), row)
    return same


def find_copies(
    codes: np.ndarray,
    offsets: np.ndarray,
    reference_rows: np.ndarray,
    query_rows: np.ndarray,
    k: int = 21,
    near: float = NEAR_SHARE,
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the queries stand in the reference, whole or for the most part.

    Memory beside the sequences: up to 80 bytes for each base of the queries, of which 24 million are compared at a time
    (1 GB), and 12 for each k-mer of the reference that the queries hold.

    Parameters
    ----------
    codes, offsets
        Sequences as in `distinct`.
    reference_rows, query_rows
        Integers, shapes (references,) and (queries,): which sequences are which.
    k
        Length of the k-mers, 31 at most; of a query shorter than that the whole is looked for.
    near
        Share from which on a sequence is near.

    Returns
    -------
    copies : numpy.ndarray
        uint8, shape (queries,): 2 where the same sequence is in the reference on either strand, 1 where the share is at
        least ``near``, else 0.
    share : numpy.ndarray
        float32, shape (queries,): the largest share of the bases that is covered by k-mers which one single sequence
        of the reference holds as well, on either strand; no k-mer holds an N. 1 of those that stand there verbatim, and
        of a shorter query without N that stands within a sequence there.
    """
    assert 1 <= k <= 31
    reference_rows, query_rows = np.asarray(reference_rows, np.int64), np.asarray(query_rows, np.int64)
    same = distinct(codes, offsets)
    references = np.unique(same[reference_rows])
    queries, back = np.unique(same[query_rows], return_inverse=True)
    share = np.ones(len(queries), dtype=np.float32)
    verbatim = np.isin(queries, references, assume_unique=True)
    open_rows = np.flatnonzero(~verbatim)
    codes = np.asarray(codes, np.uint8).view()
    codes.flags.writeable = False  # the kernels are compiled for one kind of array
    offsets = np.asarray(offsets, np.int64)
    room = np.minimum(offsets[queries + 1] - offsets[queries], k)[open_rows]
    for own in np.unique(room).tolist():  # the whole of a shorter one is a k-mer too
        rows = open_rows[room == own]
        share[rows] = _shares(codes, offsets, references, queries[rows], own) if own else 0.0
    copies = np.where(verbatim, VERBATIM, np.where(share >= near, NEAR, NEITHER)).astype(np.uint8)
    return copies[back], share[back]


def _cut(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Cut a row of sequences where ``most`` bases are full: pairs of first and last + 1."""
    upto = np.concatenate([[0], np.cumsum(sizes)])
    first = 0
    while first < len(sizes):
        last = max(first + 1, int(np.searchsorted(upto, upto[first] + most, side="right")) - 1)
        yield first, last
        first = last


def _shares(codes: np.ndarray, offsets: np.ndarray, references: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The largest share of each query that one reference covers: float32, shape (queries,)."""
    share = np.zeros(len(queries), dtype=np.float32)
    sizes, asked = offsets[references + 1] - offsets[references], offsets[queries + 1] - offsets[queries]
    pieces, batches = list(_cut(sizes, _PIECE)), list(_cut(asked, _BATCH))
    threads = len(os.sched_getaffinity(0))
    total = len(batches) * int(sizes.sum()) + int(asked.sum())
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(total, "bases", "looking for copies of test sequences in train") as progress,
    ):
        for low, high in batches:
            begins, bounds = offsets[queries[low:high]], np.concatenate([[0], np.cumsum(asked[low:high])])
            table = np.zeros(1 << max(4, int(1.4 * bounds[-1]).bit_length()), dtype=np.uint64)
            slots = np.empty(bounds[-1], dtype=np.int32)
            _enter(codes, begins, begins + asked[low:high], k, table, slots)
            hits = []
            look_up = partial(_look_up, codes, offsets, references, k, table)
            for (first, last), found in zip(pieces, pool.map(look_up, pieces), strict=True):
                hits.append(found)
                progress.update(int(sizes[first:last].sum()))
            holders, starts = _gather(hits, len(table))
            del table, hits
            walk = partial(_walk, slots, bounds, starts, holders, len(references), k)
            parts = list(_cut(asked[low:high], max(_PIECE, int(bounds[-1]) // (4 * threads))))
            for (first, last), found in zip(parts, pool.map(walk, parts), strict=True):
                share[low + first : low + last] = found
                progress.update(int(bounds[last] - bounds[first]))
    return share


def _look_up(
    codes: np.ndarray, offsets: np.ndarray, references: np.ndarray, k: int, table: np.ndarray, piece: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Slots of the k-mers of a piece of the reference that are in the table, and which sequence holds each (int32)."""
    rows = references[piece[0] : piece[1]]
    begins, ends = offsets[rows], offsets[rows + 1]
    slots, holders = (np.empty(int((ends - begins).sum()), dtype=np.int32) for _ in range(2))
    n = _find(codes, begins, ends, piece[0], k, table, slots, holders)
    return slots[:n].copy(), holders[:n].copy()


def _gather(hits: list[tuple[np.ndarray, np.ndarray]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The references of each slot (int32), sorted by slot, each once, and where those of a slot begin (int64)."""
    counts, last = np.zeros(size + 1, dtype=np.int64), np.full(size, -1, dtype=np.int32)
    for slots, holders in hits:
        _count(slots, holders, counts, last)
    np.cumsum(counts, out=counts)
    gathered = np.empty(counts[-1], dtype=np.int32)
    last.fill(-1)
    filled = counts[:-1].copy()
    for slots, holders in hits:
        _fill(slots, holders, filled, last, gathered)
    return gathered, counts


def _walk(
    slots: np.ndarray,
    bounds: np.ndarray,
    starts: np.ndarray,
    holders: np.ndarray,
    references: int,
    k: int,
    part: tuple[int, int],
) -> np.ndarray:
    """The shares of a part of the queries."""
    share = np.empty(part[1] - part[0], dtype=np.float32)
    _cover(slots, bounds[part[0] : part[1] + 1], starts, holders, np.zeros((references, 2), dtype=np.int64), k, share)
    return share


# -------------------------------------------------------------------------------------------- kernels
# The canonical k-mer is the smaller of the codes of both strands; in the table it stands plus 1, as 0 is an empty slot.


@kernel
def _slot(kmer, table):
    """The slot that holds a k-mer, or the empty one in which it would be."""
    mask = np.uint64(len(table) - 1)
    mixed = kmer * _FACTOR
    at = (mixed ^ (mixed >> np.uint64(29))) & mask
    while table[at] != _0 and table[at] != kmer:
        at = (at + _1) & mask
    return np.int64(at)


@kernel
def _enter(codes, begins, ends, k, table, slots):
    """Put the k-mers of stretches into the table; ``slots``: that of the k-mer that begins at each base, -1: none."""
    mask, top = np.uint64((1 << (2 * k)) - 1), np.uint64(2 * (k - 1))
    slots[:] = -1
    at = 0
    for stretch in range(len(begins)):
        forward, reverse, run = _0, _0, 0
        for i in range(begins[stretch], ends[stretch]):
            code = np.uint64(codes[i])
            run = run + 1 if code <= _3 else 0
            forward = ((forward << _2) | (code & _3)) & mask
            reverse = (reverse >> _2) | ((_3 - (code & _3)) << top)
            if run >= k:
                kmer = min(forward, reverse) + _1
                slot = _slot(kmer, table)
                table[slot] = kmer
                slots[at - k + 1] = slot
            at += 1


@kernel
def _find(codes, begins, ends, number, k, table, slots, holders):
    """Look the k-mers of stretches up; returns how many were found. ``number``: that of the first stretch."""
    mask, top = np.uint64((1 << (2 * k)) - 1), np.uint64(2 * (k - 1))
    n = 0
    for stretch in range(len(begins)):
        forward, reverse, run = _0, _0, 0
        for i in range(begins[stretch], ends[stretch]):
            code = np.uint64(codes[i])
            run = run + 1 if code <= _3 else 0
            forward = ((forward << _2) | (code & _3)) & mask
            reverse = (reverse >> _2) | ((_3 - (code & _3)) << top)
            if run >= k:
                slot = _slot(min(forward, reverse) + _1, table)
                if table[slot] != _0:
                    slots[n] = slot
                    holders[n] = number + stretch
                    n += 1
    return n


@kernel
def _count(slots, holders, counts, last):
    """Count the holders of each slot, at ``counts[slot + 1]``; those of one slot come in ascending order."""
    for i in range(len(slots)):
        if last[slots[i]] != holders[i]:
            last[slots[i]] = holders[i]
            counts[slots[i] + 1] += 1


@kernel
def _fill(slots, holders, filled, last, gathered):
    """Write the holders of each slot, from ``filled[slot]`` on."""
    for i in range(len(slots)):
        if last[slots[i]] != holders[i]:
            last[slots[i]] = holders[i]
            gathered[filled[slots[i]]] = holders[i]
            filled[slots[i]] += 1


@kernel
def _cover(slots, bounds, starts, holders, seen, k, share):
    """Largest share of each query that one holder covers; ``seen``: zeros, (references, 2): covered up to, bases covered."""
    for query in range(len(share)):
        begin, end = bounds[query], bounds[query + 1]
        best = 0
        for at in range(begin, end - k + 1):
            slot = slots[at]
            if slot < 0:
                continue
            for i in range(starts[slot], starts[slot + 1]):
                holder = holders[i]
                upto = seen[holder, 0]
                covered = k
                if upto > begin:
                    covered = seen[holder, 1] + at + k - max(upto, at)
                seen[holder, 0] = at + k
                seen[holder, 1] = covered
                best = max(best, covered)
        share[query] = best / max(end - begin, 1)
