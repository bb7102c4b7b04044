"""What every reader yields, and how it tells of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Called with the bases just read and the share of the file read so far (None: unknown).
Advance = Callable[[int, float | None], None]


@dataclass(frozen=True, slots=True)
class Record:
    """One contig or one read.

    Attributes
    ----------
    name
        Name of the contig, or of the read (mates of a pair end in /1 and /2).
    sequence
        The bases as ASCII. Reads are as sequenced: alignments to the reverse strand are turned back.
    kind
        ``contig`` or ``read``.
    strand
        ``-`` for a read aligned to the reverse strand, else ``+``.
    template
        Name shared by all pieces of one molecule (mates, supplementary pieces); they go to the same split.
    aligned
        Locus of an aligned read, ``contig:start-end``, 0-based half-open; None otherwise.
    mapq
        Mapping quality (Phred) of an aligned read; None otherwise.
    """

    name: str
    sequence: bytes
    kind: Literal["contig", "read"] = "contig"
    strand: Literal["+", "-"] = "+"
    template: str = ""
    aligned: str | None = None
    mapq: int | None = None
