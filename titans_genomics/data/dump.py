"""A store back to sequence: FASTA of its base layer, or of the segments of a split, a few megabytes at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from titans_genomics.compiling import kernel
from titans_genomics.data.scan import rows, stretch
from titans_genomics.data.shard import BASES, RECORDS, Shard, shard_path
from titans_genomics.data.store import Run, TokenStore
from titans_genomics.data.tally import LANES
from titans_genomics.data.text import SEPARATOR
from titans_genomics.data.vocabulary import frozen

WIDTH = 60
"""Bases on a line."""

_PIECE = 1 << 22  # bases, or tokens, of a piece
_NONE = np.zeros((0, 2), dtype=np.int64)

Pieces = Iterable[tuple[np.ndarray, np.ndarray]]  # codes, and which stretches of them are soft-masked


def dump_store(store: Path, out: BinaryIO, source: str | None = None, split: str | None = None) -> None:
    """Write the sequence that a store holds.

    Parameters
    ----------
    store
        The folder of the token store.
    out
        Where to write: FASTA in lines of `WIDTH` bases. Of text the documents as they were, lines of ``<|endoftext|>``
        between them.
    source
        Only this source; None: all.
    split
        None: every record that was read, soft-masked bases in lower case. ``train``, ``validation`` or ``test``: the
        segments of this split, decoded from their tokens and named ``record:start-end`` (0-based half-open).

    Raises
    ------
    FileNotFoundError, ValueError
        No such store, source or split, or the store is damaged.
    """
    opened = TokenStore(store)
    runs = opened.runs(split or "train", source)  # names a source that is not there
    writer: _Writer = _Text(out) if opened.tokenizer.text else _Fasta(out)
    if split is None:
        for name in opened.sources:
            if source in (None, name):
                _records(opened.shard(name), writer)
    else:
        for run in runs:
            _segments(run, writer)
    writer.finish()


class _Writer(Protocol):
    """Writes pieces of codes; a record begins at each of ``starts``, what comes before belongs to the one before."""

    def write(self, codes: np.ndarray, soft: np.ndarray, starts: np.ndarray, names: Any) -> None: ...

    def finish(self) -> None: ...


# ------------------------------------------------------------------------------------ what is written


def _records(shard: Shard, writer: _Writer) -> None:
    """Every record of a source as it was read."""
    path = shard_path(shard.folder, shard.label, BASES)
    soft = _Soft(shard.softmask)
    for _, batch in rows(shard_path(shard.folder, shard.label, RECORDS), ("name", "offset", "length")):
        starts, lengths = (batch.column(name).to_numpy() for name in ("offset", "length"))
        begin, end = int(starts[0]), int(starts[-1] + lengths[-1])
        pieces = (
            (stretch(path, at, min(at + _PIECE, end)), soft.within(at, min(at + _PIECE, end)))
            for at in range(begin, end, _PIECE)
        )
        _write(writer, pieces, starts - begin, batch.column("name"))


def _segments(run: Run, writer: _Writer) -> None:
    """The segments of a run, from its tokens."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = run.segments.start
    for row, batch in rows(run.store.index.path, ("record", "start", "end"), first, run.segments.stop):
        record, start, end = (batch.column(name) for name in ("record", "start", "end"))
        stretches = pc.binary_join_element_wise(start.cast(pa.string()), end.cast(pa.string()), "-")
        names = pc.binary_join_element_wise(record, stretches, ":")
        lengths = end.to_numpy() - start.to_numpy()
        low = int(run.places[row - first, 2])
        behind = row + len(batch) - first
        high = int(run.places[behind, 2]) if behind < len(run.places) else len(run)
        _write(writer, _decoded(run, low, high), np.cumsum(lengths) - lengths, names)


def _decoded(run: Run, low: int, high: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes of the tokens ``low`` to ``high`` of a run; EOS is none."""
    for at in range(low, high, _PIECE):
        yield run.store.tokenizer.decode(run.read(at, min(at + _PIECE, high))), _NONE
        _give_back(run.store.tokens(run.source))
        _give_back(run.places)


def _give_back(array: Any) -> None:
    """What was read of a memory-mapped array does not stay in this process's memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap):
        array.madvise(mmap.MADV_DONTNEED)


def _write(writer: _Writer, pieces: Pieces, starts: np.ndarray, names: Any) -> None:
    """Hand the pieces to the writer, each with the records that begin in it."""
    at = record = 0
    for codes, soft in pieces:
        behind = int(np.searchsorted(starts, at + len(codes)))
        writer.write(codes, soft, starts[record:behind] - at, names.slice(record, behind - record))
        record, at = behind, at + len(codes)
    if record < len(starts):  # records without bases
        nothing = np.zeros(0, dtype=np.uint8)
        writer.write(nothing, _NONE, starts[record:] - at, names.slice(record))


class _Soft:
    """Soft-masked stretches of a source (int64, (n, 2), sorted), asked for from its beginning to its end."""

    def __init__(self, stretches: np.ndarray) -> None:
        self.stretches, self.at = stretches, 0

    def within(self, begin: int, end: int) -> np.ndarray:
        """Those of the bases ``begin`` to ``end``, counted from there: int64, (n, 2)."""
        behind = self.at
        ahead = 1 << 12
        while behind < len(self.stretches):
            own = np.array(self.stretches[behind : behind + ahead, 0])
            inside = int(np.searchsorted(own, end))
            behind += inside
            if inside < len(own):
                break
        found = np.clip(np.array(self.stretches[self.at : behind]) - begin, 0, end - begin)
        self.at = max(self.at, behind - 1) if behind else 0  # the last may go on
        return found


# ----------------------------------------------------------------------------------------- how it is


class _Fasta:
    def __init__(self, out: BinaryIO) -> None:
        self.out, self.column = out, 0

    def write(self, codes: np.ndarray, soft: np.ndarray, starts: np.ndarray, names: Any) -> None:
        import pyarrow as pa

        text = names.cast(pa.large_string())
        _, ends, data = text.buffers()
        name_ends = np.frombuffer(ends, np.int64)[text.offset : text.offset + len(text) + 1]
        letters = np.empty(len(codes) + LANES, dtype=np.uint8)
        _letters(frozen(codes), soft, letters)
        room = len(codes) + len(codes) // WIDTH + 3 * len(starts) + int(name_ends[-1] - name_ends[0]) + LANES
        lines = np.empty(room, dtype=np.uint8)
        known = np.frombuffer(data or b"", dtype=np.uint8)
        filled, self.column = _lines(letters, len(codes), starts, known, name_ends, self.column, WIDTH, lines)
        self.out.write(memoryview(lines[:filled]))

    def finish(self) -> None:
        if self.column:
            self.out.write(b"\n")


class _Text:
    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.last = b""  # byte of the document before

    def write(self, codes: np.ndarray, soft: np.ndarray, starts: np.ndarray, names: Any) -> None:
        data, at, parts = codes.tobytes(), 0, []
        for start in starts.tolist():
            before = data[at:start] or self.last
            parts.append(data[at:start])
            if before:
                parts.append((b"" if before.endswith(b"\n") else b"\n") + SEPARATOR + b"\n")
            at = start
        parts.append(data[at:])
        self.out.write(b"".join(parts))
        self.last = data[-1:] or self.last

    def finish(self) -> None:
        pass


@intrinsic
def _copy(_, source, at, target, to):
    """`LANES` bytes from ``source[at]`` on to ``target[to]`` on."""
    signature = types.void(source, types.intp, target, types.intp)

    def generate(context, builder, signature, arguments):
        ends = []
        for number in (0, 2):
            array = context.make_array(signature.args[number])(context, builder, arguments[number])
            pointer = builder.gep(array.data, [arguments[number + 1]])
            ends.append(builder.bitcast(pointer, ir.VectorType(ir.IntType(8), LANES).as_pointer()))
        builder.store(builder.load(ends[0], align=1), ends[1], align=1)
        return context.get_dummy_value()

    return signature, generate


@kernel
def _letters(codes, soft, letters):
    """A C G T N of ``codes``; lower case in the stretches ``soft`` (int64, (n, 2))."""
    for i in range(len(codes)):
        code = codes[i]
        letters[i] = 65 + 2 * (code == 1) + 6 * (code == 2) + 19 * (code == 3) + 13 * (code > 3)
    for i in range(len(soft)):
        for at in range(soft[i, 0], soft[i, 1]):
            letters[at] |= 32


@kernel
def _lines(letters, length, starts, names, name_ends, column, width, out):
    """FASTA lines of the first ``length`` of ``letters``; returns how many bytes of ``out`` were written, and how long the last line is.

    The line that ``letters`` go on with has ``column`` letters already. A record begins at each of ``starts``; its name
    is ``names[name_ends[i]:name_ends[i + 1]]``. ``width`` is at most `LANES`, and as many bytes follow both ``letters``
    and what is filled of ``out``.
    """
    filled, at = 0, 0
    for record in range(len(starts) + 1):
        stop = starts[record] if record < len(starts) else length
        while at < stop:
            count = min(width - column, stop - at)
            _copy(letters, at, out, filled)  # more than count; what follows is written over it
            filled, at, column = filled + count, at + count, column + count
            if column == width:
                out[filled] = 10
                filled, column = filled + 1, 0
        if record < len(starts):
            if column:
                out[filled] = 10
                filled, column = filled + 1, 0
            out[filled] = 62
            filled += 1
            for i in range(name_ends[record], name_ends[record + 1]):
                out[filled] = names[i]
                filled += 1
            out[filled] = 10
            filled += 1
    return filled, column
