"""UCSC 2bit genomes, of either byte order and of version 0 and 1, in pieces of a few megabytes.

A file is a header (signature, version, number of sequences), an index of names and offsets, and per sequence its
length, stretches of N, soft-masked stretches, and four bases a byte, the first one in the highest bits. Version 1 has
64-bit offsets in its index, for files beyond 4 GB. Format: https://genome.ucsc.edu/FAQ/FAQformat.html#format7
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.alphabet import A, C, G, N, T
from titans_genomics.data.batch import BATCH, Advance, Batch

SIGNATURE = 0x1A412743

_AGAIN = "Copy or download the file again"
# A packed byte to the codes of its four bases, in one 32-bit word. 2bit says T=0 C=1 A=2 G=3.
_UNPACKED = np.array(
    [[(T, C, A, G)[byte >> shift & 3] for shift in (6, 4, 2, 0)] for byte in range(256)], dtype=np.uint8
).view(np.uint32)[:, 0]


class _Sequence(NamedTuple):
    """One sequence of the file: name, bases, stretches of N and of lower case (int64, shape (stretches, 2)), place of its packed bases."""

    name: str
    length: int
    unknown: np.ndarray
    masked: np.ndarray
    packed: int


def read_2bit(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The sequences of a 2bit file in the order of its index; masked blocks are treated as lower case.

    Memory does not grow with the length of a sequence, only with the number of its N and mask blocks.

    Raises
    ------
    ValueError
        Not a 2bit file, cut short, an index that points outside the file or twice to one place, a name that is not
        ASCII or stands there twice, N or mask blocks that overlap or lie outside their sequence.
    """
    with source.path.open("rb") as handle:
        file = _File(source.path, handle)
        codes, names, starts, soft = np.empty(BATCH, dtype=np.uint8), [], [], []
        filled = masked = 0
        for sequence in file.sequences():
            names.append(sequence.name)
            starts.append(filled)
            at = 0
            while at < sequence.length:
                piece = codes[filled : filled + sequence.length - at]
                file.unpack(sequence, at, piece)
                for start, end in _within(sequence.unknown, at, len(piece)):
                    piece[start:end] = N
                lower = _within(sequence.masked, at, len(piece))
                masked += int((lower[:, 1] - lower[:, 0]).sum())
                if data.soft_mask == "n":
                    for start, end in lower:
                        piece[start:end] = N
                elif data.soft_mask == "keep" and len(lower):
                    soft.append(lower + filled)
                filled += len(piece)
                at += len(piece)
                if filled == BATCH:
                    yield _batch(codes, names, starts, soft, masked)
                    advance(handle.tell() / file.size)
                    codes, names, starts, soft = np.empty(BATCH, dtype=np.uint8), [], [], []
                    filled = masked = 0
        if names or filled:
            yield _batch(codes[:filled], names, starts, soft, masked)
            advance(1.0)


def _batch(codes: np.ndarray, names: list[str], starts: list[int], soft: list[np.ndarray], masked: int) -> Batch:
    intervals = np.concatenate([np.zeros((0, 2), dtype=np.int64), *soft])
    return Batch(codes, names, np.array(starts, dtype=np.int64), intervals, masked=masked)


def _within(stretches: np.ndarray, at: int, length: int) -> np.ndarray:
    """The parts of sorted stretches that lie in [at, at + length), relative to ``at``. int64, shape (parts, 2)."""
    first = np.searchsorted(stretches[:, 1], at, side="right")
    last = np.searchsorted(stretches[:, 0], at + length, side="left")
    return np.clip(stretches[first:last] - at, 0, length)


class _File:
    """The integers and bases of an open 2bit file; every place and count is checked against the file's size before it is used."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.path, self.handle = path, handle
        self.size = handle.seek(0, 2)
        handle.seek(0)
        signature = handle.read(4)
        for order, letter in (("little", "<"), ("big", ">")):
            if signature == SIGNATURE.to_bytes(4, order):
                self.order, self.word = order, np.dtype(f"{letter}u4")
                break
        else:
            raise ValueError(f"{path}: not a 2bit file: it does not begin with the 2bit signature. {_AGAIN}")
        version, self.count, reserved = (self._integer(4, "the header") for _ in range(3))
        if version > 1:
            raise ValueError(f"{path}: 2bit of version {version}; 0 and 1 can be read. Convert it with twoBitToFa")
        if reserved:
            raise ValueError(f"{path}: damaged 2bit header: a field that must be 0 is {reserved}. {_AGAIN}")
        if self.count == 0:
            raise ValueError(f"{path}: no sequence in the 2bit file")
        self.offset = 8 if version else 4  # bytes

    def sequences(self) -> Iterator[_Sequence]:
        """Every sequence, once the whole index has been found to be in order."""
        index = self._index()
        stretches = []
        for name, offset in index:
            length, packed = self._extent(name, offset)
            stretches.append((offset, packed + -(-length // 4), name))
        for (_, end, name), (start, _, other) in pairwise(sorted(stretches)):
            if start < end:
                raise ValueError(f"{self.path}: damaged 2bit index: sequences {name!r} and {other!r} overlap. {_AGAIN}")
        for name, offset in index:
            length, packed = self._extent(name, offset)
            self.handle.seek(offset + 4)
            unknown = self._stretches(name, length, "N block")
            masked = self._stretches(name, length, "mask block")
            yield _Sequence(name, length, unknown, masked, packed)

    def unpack(self, sequence: _Sequence, at: int, into: np.ndarray) -> None:
        """The bases of a sequence from ``at`` on, N and mask blocks aside. ``into`` is uint8, shape (bases,)."""
        first, last = at // 4, -(-(at + len(into)) // 4)
        self.handle.seek(sequence.packed + first)
        words = _UNPACKED[np.frombuffer(self._read(last - first, f"sequence {sequence.name!r}"), dtype=np.uint8)]
        into[:] = words.view(np.uint8)[at % 4 :][: len(into)]

    def _index(self) -> list[tuple[str, int]]:
        """Names (up to the first white space, as in FASTA) and offsets."""
        index, seen = [], set()
        for number in range(1, self.count + 1):
            what = f"the index, entry {number:,} of {self.count:,}"
            raw = self._read(self._integer(1, what), what)
            words = raw.split(None, 1)
            if not words or not words[0].isascii() or not words[0].decode("ascii").isprintable():
                raise ValueError(
                    f"{self.path}: {what}: {raw[:20]!r} is no ASCII name; the 2bit file is damaged. {_AGAIN}"
                )
            name = words[0].decode("ascii")
            if name in seen:
                raise ValueError(f"{self.path}: two sequences are named {name!r}. Rename one of them")
            seen.add(name)
            index.append((name, self._integer(self.offset, what)))
        end = self.handle.tell()
        for name, offset in index:
            if not end <= offset <= self.size:
                raise ValueError(
                    f"{self.path}: sequence {name!r} would begin at byte {offset:,} of {self.size:,}: the 2bit file is damaged or cut short. {_AGAIN}"
                )
        return index

    def _extent(self, name: str, offset: int) -> tuple[int, int]:
        """Bases of a sequence, and the place of its packed bases, which lie in the file."""
        what = f"sequence {name!r}"
        self.handle.seek(offset)
        length = self._integer(4, what)
        for _ in ("N blocks", "mask blocks"):
            blocks = self._integer(4, what)
            self.handle.seek(8 * blocks, 1)
        packed = self.handle.tell() + 4
        if packed + -(-length // 4) > self.size:
            raise self._short(what)
        reserved = self._integer(4, what)
        if reserved:
            raise ValueError(f"{self.path}: damaged 2bit: {what} has {reserved} in a field that must be 0. {_AGAIN}")
        return length, packed

    def _stretches(self, name: str, length: int, what: str) -> np.ndarray:
        """The N or mask blocks of a sequence, sorted. int64, shape (blocks, 2): start and end, 0-based half-open."""
        count = self._integer(4, f"sequence {name!r}")
        starts = self._integers(count, f"sequence {name!r}")
        ends = starts + self._integers(count, f"sequence {name!r}")
        outside = np.flatnonzero(ends > length)
        overlap = np.flatnonzero(starts[1:] < ends[:-1]) + 1
        for wrong, why in (
            (outside, f"outside its {length:,} bases"),
            (overlap, "before the block in front of it ends"),
        ):
            if len(wrong):
                start, end = starts[wrong[0]], ends[wrong[0]]
                raise ValueError(
                    f"{self.path}: sequence {name!r}: {what} {start:,}-{end:,} lies {why}: the 2bit file is damaged. {_AGAIN}"
                )
        return np.stack([starts, ends], axis=1)[ends > starts]

    def _integer(self, size: int, what: str) -> int:
        return int.from_bytes(self._read(size, what), self.order)

    def _integers(self, count: int, what: str) -> np.ndarray:
        """The next ``count`` 32-bit integers, as int64."""
        return np.frombuffer(self._read(4 * count, what), dtype=self.word).astype(np.int64)

    def _read(self, size: int, what: str) -> bytes:
        raw = self.handle.read(size) if size <= self.size else b""
        if len(raw) < size:
            raise self._short(what)
        return raw

    def _short(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: cut short: the 2bit file ends within {what}. {_AGAIN}")
