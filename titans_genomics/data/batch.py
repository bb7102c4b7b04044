"""What every reader yields: a batch of bases, and the contigs or reads that begin in it.

A batch is a few megabytes, so that memory does not grow with the length of a contig, or with the number of reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BATCH = 1 << 22
"""Bases that readers try to put in one batch."""

# Called with the share of the file read so far (0 to 1; None: unknown) after every batch.
Advance = Callable[[float | None], None]


class PackedNames(Sequence[str]):
    """Names of very many reads, as bytes: a `str` is made of those alone that are asked for.

    Parameters
    ----------
    text
        uint8: all names, one after the other; ASCII, or other UTF-8.
    offsets
        int32, shape (names + 1,): where each begins, and where the last ends.
    """

    def __init__(self, text: np.ndarray, offsets: np.ndarray) -> None:
        self.text, self.offsets = text, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self.text[self.offsets[i] : self.offsets[i + 1]].tobytes().decode("utf-8", errors="replace")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _no_intervals() -> np.ndarray:
    return np.zeros((0, 2), dtype=np.int64)


@dataclass(slots=True)
class ReadColumns:
    """What is known of the reads of a batch beside their bases; arrays of one entry per read.

    Attributes
    ----------
    key
        int64: `splits.read_key` of the template name, shared by all pieces of one molecule.
    minus
        bool: aligned to the reverse strand.
    contig
        int32: number of the contig in ``contigs``; -1 for an unaligned read.
    start, end
        int64: aligned stretch of the contig, 0-based half-open; -1 for an unaligned read.
    mapq
        int16: mapping quality (Phred); -1 for an unaligned read.
    """

    key: np.ndarray
    minus: np.ndarray
    contig: np.ndarray
    start: np.ndarray
    end: np.ndarray
    mapq: np.ndarray


@dataclass(slots=True)
class Batch:
    """Bases in file order.

    Attributes
    ----------
    codes
        uint8, shape (bases,): A=0 C=1 G=2 T=3 N=4 (text: the bytes themselves).
    names
        Names of the records (contigs, reads) that begin in this batch.
    starts
        int64, shape (records,): where in ``codes`` each of them begins. Bases before the first belong to the record
        that was open at the end of the batch before; equal starts are records without bases.
    soft
        int64, shape (intervals, 2): soft-masked stretches of ``codes``, sorted, half-open. Readers of reads leave it empty.
    ambiguous
        Letters of ``codes`` that were IUPAC codes other than A C G T U N.
    masked
        Soft-masked (lower-case) letters, whatever became of them.
    reads
        None for contigs.
    """

    codes: np.ndarray
    names: Sequence[str]
    starts: np.ndarray
    soft: np.ndarray = field(default_factory=_no_intervals)
    ambiguous: int = 0
    masked: int = 0
    reads: ReadColumns | None = None
