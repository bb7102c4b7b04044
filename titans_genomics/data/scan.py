"""What only the bases of a source themselves tell: records that are there twice, N in reads, the spread of GC.

A source is read in stretches of a few megabytes, each mapped into memory on its own, so that memory use does not grow
with it. Two records are the same when they are equal base for base on either strand: each is hashed in words of eight
codes, in both directions, and the two hashes are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from titans_genomics.compiling import kernel
from titans_genomics.data.layout import cut
from titans_genomics.data.tally import tally

_PIECE = 1 << 24  # bases of the records that are looked at together
_ROWS = 1 << 16
GC_WINDOW = 10_000
_WINDOWS = 5_000  # that the spread of GC is taken from

_STEP, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_LOW, _THREES = np.uint64(0x0101010101010101), np.uint64(0x0303030303030303)
_0, _1, _2, _8, _27, _30, _31 = (np.uint64(x) for x in (0, 1, 2, 8, 27, 30, 31))


def stretch(path: Path, begin: int, end: int) -> np.ndarray:
    """Bytes ``begin`` to ``end`` of a file: uint8, read-only. Their memory is given back with the array."""
    if end <= begin:
        return np.frombuffer(b"", dtype=np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=begin, shape=(end - begin,)))


def rows(path: Path, columns: Sequence[str], first: int = 0, last: int | None = None) -> Iterator[tuple[int, Any]]:
    """Rows ``first`` to ``last`` of a Parquet file: the number of the first of each piece, and a `pyarrow.RecordBatch`.

    Raises ValueError when the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            last = file.metadata.num_rows if last is None else last
            begin = 0
            for group in range(file.metadata.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                if begin < last and first < end:
                    at = begin
                    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns)):
                        low, high = max(first, at), min(last, at + len(batch))
                        if low < high:
                            yield low, batch.slice(low - at, high - low)
                        at += len(batch)
                begin = end
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}). Run `titans-genomics tokenize` again") from None


class Records:
    """Where the records of a source lie in its base layer: one after the other.

    Attributes
    ----------
    path
        The file of the base layer.
    lengths, ends
        int64, shape (records,): bases of each record, and where in the file it ends.
    """

    def __init__(self, path: Path, lengths: np.ndarray) -> None:
        self.path, self.lengths = path, lengths
        self.ends = np.cumsum(lengths)

    def begin(self, record: Any) -> Any:
        """Where a record (or several) begins."""
        return self.ends[record] - self.lengths[record]

    def blocks(self, most: int = _PIECE) -> Iterator[tuple[int, int]]:
        """Consecutive records of together at most ``most`` bases, or a longer one alone: first and last + 1."""
        first, begin = 0, 0
        while first < len(self.ends):
            last = max(first + 1, int(np.searchsorted(self.ends, begin + most, side="right")))
            yield first, last
            first, begin = last, int(self.ends[last - 1])

    def by_length(self) -> tuple[np.ndarray, np.ndarray]:
        """The lengths that there are, in order, and how many records have each (int64)."""
        if len(self.lengths) and self.lengths.max() < _PIECE:
            counts = np.bincount(self.lengths)
            values = np.flatnonzero(counts)
            return values, counts[values]
        return np.unique(self.lengths, return_counts=True)


def repeats(records: Records, strands: bool) -> dict[str, int]:
    """Records that are the same as one before them (with ``strands`` also on the other strand).

    Only records that share their length with another are read; those without a base are left out. Of n different records
    about n^2 / 2^65 are taken for the same as another. Memory: about 16 bytes per record.

    Returns
    -------
    dict
        ``records`` and ``bases`` of all but the first of each kind.
    """
    values, counts = records.by_length()
    shared = (counts > 1) & (values > 0)
    found = np.zeros(2, dtype=np.int64)
    if not shared.any():
        return {"records": 0, "bases": 0}
    table = np.zeros(1 << int(counts[shared].sum() * 4 // 3).bit_length(), dtype=np.uint64)
    for first, last in records.blocks():
        own = records.lengths[first:last]
        chosen = shared[np.searchsorted(values, own)]
        if chosen.any():
            begin = int(records.begin(first))
            stop, own = records.ends[first:last][chosen] - begin, own[chosen]
            hashes = np.empty(len(own), dtype=np.uint64)
            _hash(stretch(records.path, begin, int(records.ends[last - 1])), stop - own, stop, strands, hashes)
            _count(hashes, own, table, found)
    return {"records": int(found[0]), "bases": int(found[1])}


def n_in_contigs(records: Records, runs: np.ndarray) -> dict[str, int]:
    """How many ``runs`` of N there are, bases of the ``longest``, and the ``records`` that have any.

    ``runs``: int64, shape (runs, 2), of the base layer; one may reach from a contig into the next.
    """
    return _described(cut(np.asarray(runs), records.begin(slice(None))), records.ends)


def n_in_reads(records: Records) -> dict[str, int]:
    """As `n_in_contigs`, of reads, whose runs are looked for in their bases."""
    counts = np.zeros(5, dtype=np.int64)
    found = {"runs": 0, "longest": 0, "records": 0}
    for first, last in records.blocks():
        begin = int(records.begin(first))
        runs = tally(stretch(records.path, begin, int(records.ends[last - 1])), counts)
        own = records.ends[first:last] - begin
        here = _described(cut(runs, own), own)
        longest = max(found["longest"], here["longest"])
        found = {key: found[key] + here[key] for key in found} | {"longest": longest}
    return found


def _described(runs: np.ndarray, ends: np.ndarray) -> dict[str, int]:
    longest = int((runs[:, 1] - runs[:, 0]).max()) if len(runs) else 0
    record = np.searchsorted(ends, runs[:, 0], side="right")
    return {"runs": len(runs), "longest": longest, "records": len(np.unique(record))}


def gc_spread(records: Records) -> dict[str, Any] | None:
    """The spread of GC over windows of about `GC_WINDOW` bases, those of shorter records whole.

    At most a few thousand windows are looked at, spread evenly over the source; those of which half or more is N do
    not count. None when no window is left.

    Returns
    -------
    dict
        ``window`` (bases), ``windows`` (how many), ``mean``, ``sd``, ``quantiles`` and a ``histogram`` of windows
        in steps of one per cent.
    """
    if not len(records.lengths):
        return None
    last = (records.lengths + GC_WINDOW // 2) // GC_WINDOW
    np.cumsum(np.maximum(last, 1, out=last), out=last)  # windows up to the end of each record
    total = int(last[-1])
    picked = np.unique(np.linspace(0, total - 1, min(total, _WINDOWS)).round().astype(np.int64))
    record = np.searchsorted(last, picked, side="right")
    before = np.where(record > 0, last[record - 1], 0)
    begin, length, own = records.begin(record), records.lengths[record], last[record] - before
    edges = (begin + (picked - before + side) * length // own for side in (0, 1))
    gc = []
    for low, high in zip(*(edge.tolist() for edge in edges), strict=True):
        a, c, g, t, _ = np.bincount(stretch(records.path, low, high), minlength=5)[:5].tolist()
        if 2 * (a + c + g + t) > high - low:
            gc.append((c + g) / (a + c + g + t))
    if not gc:
        return None
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    bins = [i / 100 for i in range(101)]
    return {
        "window": GC_WINDOW,
        "windows": len(gc),
        "mean": float(np.mean(gc)),
        "sd": float(np.std(gc)),
        "quantiles": {str(q): float(x) for q, x in zip(shares, np.quantile(gc, shares), strict=True)},
        "histogram": {"edges": bins, "windows": np.histogram(gc, bins=bins)[0].tolist()},
    }


# ------------------------------------------------------------------------------------------- hashing


@intrinsic
def _word(_, codes, at):
    """The eight codes from ``at`` on as one uint64, the first in its lowest byte (of a little-endian machine)."""
    signature = types.uint64(codes, types.intp)

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return signature, generate


@intrinsic
def _swapped(_, word):
    """The eight bytes of a uint64 in reverse order."""
    return types.uint64(types.uint64), lambda context, builder, signature, arguments: builder.bswap(arguments[0])


@kernel
def _mix(word, place):
    """A bijection of words for every place (that of SplitMix64)."""
    word += place * _STEP
    word = (word ^ (word >> _30)) * _FIRST
    word = (word ^ (word >> _27)) * _SECOND
    return word ^ (word >> _31)


@kernel
def _forward(codes, first, last):
    """Hash of ``codes[first:last]``."""
    total, words = _0, (last - first) >> 3
    for i in range(words):
        total += _mix(_word(codes, first + 8 * i), np.uint64(i))
    rest = _0
    for i in range(last - 1, first + 8 * words - 1, -1):
        rest = (rest << _8) | np.uint64(codes[i])
    return _mix(total + _mix(rest, np.uint64(words)), np.uint64(last - first))


@kernel
def _reverse(codes, first, last):
    """The same of the reverse complement, in which N stays N."""
    total, words = _0, (last - first) >> 3
    for i in range(words):
        word = _swapped(_word(codes, last - 8 * i - 8))
        word ^= _THREES ^ (((word >> _2) & _LOW) * np.uint64(3))
        total += _mix(word, np.uint64(i))
    rest = _0
    for i in range(first, last - 8 * words):
        code = codes[i]
        rest = (rest << _8) | np.uint64(code if code > 3 else 3 - code)
    return _mix(total + _mix(rest, np.uint64(words)), np.uint64(last - first))


@kernel
def _hash(codes, begins, ends, strands, hashes):
    """Hash of every record, from 1 on; with ``strands`` it is that of its reverse complement too."""
    for record in range(len(begins)):
        own = _forward(codes, begins[record], ends[record])
        if strands:
            own += _reverse(codes, begins[record], ends[record])
        hashes[record] = max(own, _1)


@kernel
def _count(hashes, lengths, table, found):
    """Look up every hash in ``table`` (uint64, a power of two, 0 where empty), and add it.

    To ``found`` are added how many were there already, and the bases of their records.
    """
    mask = np.uint64(len(table) - 1)
    for record in range(len(hashes)):
        own = hashes[record]
        slot = own & mask
        while table[slot] != _0 and table[slot] != own:
            slot = (slot + _1) & mask
        if table[slot] == own:
            found[0] += 1
            found[1] += lengths[record]
        table[slot] = own
