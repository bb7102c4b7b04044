"""BAM records to rows of `RawReads`, as the SAM specification (section 4.2) lays them out."""

from __future__ import annotations

import struct

import numpy as np

from titans_genomics.compiling import compiled
from titans_genomics.data import reads
from titans_genomics.data.reads import (
    BASES,
    CONTIG,
    END,
    FLAG,
    LEFT,
    LENGTH,
    MAPQ,
    NAME,
    NAME_END,
    QUALITY,
    RIGHT,
    START,
    UNMAPPED,
)

_kernel = compiled(calls=[reads.__file__])

SMALLEST = 36
"""Bytes of a record's fixed fields, its length included."""

_SOFT, _HARD, _SKIP, _LAST = 4, 5, 3, 8  # CIGAR operations S, H, N, and X, the last that there is
_ON_REFERENCE = 0b110001101  # bits of the operations that advance on the reference: M D N = X


def header_end(data: np.ndarray) -> int | None:
    """Where in the bytes of a BAM file the first record begins; None when there are not enough of them yet."""
    view = memoryview(data)
    try:
        at = 8 + struct.unpack_from("<i", view, 4)[0]
        contigs = struct.unpack_from("<i", view, at)[0]
        at += 4
        for _ in range(contigs):
            at += 8 + struct.unpack_from("<i", view, at)[0]
    except struct.error:
        return None
    return at if at <= len(data) else None


@_kernel
def scan_records(data, at, contigs, rows):
    """Rows of the whole records from ``at`` on.

    Parameters
    ----------
    data
        uint8, shape (bytes,): what has been read of the file.
    at
        Where the first record begins.
    contigs
        Contigs of the header.
    rows
        int64, shape (records or more, `FIELDS`): filled.

    Returns
    -------
    count, at, missing
        Records found, where the next one begins, and how many of its bytes are missing at least; -1 when it cannot be a
        record.
    """
    count = 0
    while True:
        if at + SMALLEST > len(data):
            return count, at, at + SMALLEST - len(data)
        size = _int32(data, at)
        contig, start, length = _int32(data, at + 4), _int32(data, at + 8), _int32(data, at + 20)
        name_bytes, operations = np.int64(data[at + 12]), np.int64(_uint32(data, at + 16) & 0xFFFF)
        flag, mapq = np.int64(_uint32(data, at + 16) >> 16), data[at + 13]
        name = at + SMALLEST
        cigar = name + name_bytes
        bases = cigar + 4 * operations
        quality = bases + (length + 1) // 2
        after, end = quality + length, at + 4 + size
        if name_bytes < 1 or length < 0 or after > end or not -1 <= contig < contigs or start < -1:
            return count, at, -1
        if end > len(data):
            return count, at, end - len(data)
        row = rows[count]
        count += 1
        begin, at = at, end
        row[NAME], row[NAME_END] = name, name
        while data[row[NAME_END]] != 0 and row[NAME_END] < cigar - 1:
            row[NAME_END] += 1
        row[BASES], row[LENGTH], row[QUALITY] = bases, length, quality
        row[FLAG], row[CONTIG], row[START], row[MAPQ] = flag, contig, start, mapq
        row[END], row[LEFT], row[RIGHT] = start, 0, 0
        if flag & UNMAPPED or operations == 0:
            continue
        if operations == 2 and _is(data, cigar, _SOFT, length) and data[cigar + 4] & 15 == _SKIP:
            tag, found = _long_cigar(data, after, end)
            if found > 0:
                cigar, operations = tag, found
        span = _span(data, cigar, operations)
        if span < 0:
            return count - 1, begin, -1
        row[END] = start + max(span, 1)
        row[LEFT] = _clip(data, cigar, 1, operations)
        row[RIGHT] = _clip(data, cigar + 4 * (operations - 1), -1, operations)
        if row[LEFT] + row[RIGHT] > length:
            row[LEFT], row[RIGHT] = length, 0


@_kernel
def _uint32(data, at):
    return (
        np.uint32(data[at])
        | np.uint32(data[at + 1]) << np.uint32(8)
        | np.uint32(data[at + 2]) << np.uint32(16)
        | np.uint32(data[at + 3]) << np.uint32(24)
    )


@_kernel
def _int32(data, at):
    return np.int64(np.int32(_uint32(data, at)))


@_kernel
def _is(data, at, operation, length):
    return np.int64(_uint32(data, at)) == length << 4 | operation


@_kernel
def _span(data, cigar, operations):
    """Bases of the reference that an alignment covers; -1 when one of its operations is none."""
    span = 0
    for i in range(operations):
        operation = np.int64(_uint32(data, cigar + 4 * i))
        if operation & 15 > _LAST:
            return -1
        if _ON_REFERENCE >> (operation & 15) & 1:
            span += operation >> 4
    return span


@_kernel
def _clip(data, at, step, operations):
    """Soft-clipped bases at the end of an alignment that ``at`` is the outermost operation of."""
    clipped = 0
    for i in range(operations):
        operation = np.int64(_uint32(data, at + 4 * step * i))
        if operation & 15 == _SOFT:
            clipped += operation >> 4
        elif operation & 15 != _HARD:
            break
    return clipped


@_kernel
def _long_cigar(data, at, end):
    """The CIGAR of more than 65,535 operations, which is kept in the tag CG: where it begins, and operations (0: none)."""
    while at + 3 < end:
        kind = data[at + 2]
        is_cigar = data[at] == 67 and data[at + 1] == 71
        at += 3
        if kind == 90 or kind == 72:  # Z, H
            while at < end and data[at] != 0:
                at += 1
            at += 1
        elif kind == 66:  # B
            if at + 5 > end:
                break
            width = _width(data[at])
            number = np.int64(_uint32(data, at + 1))
            at += 5
            if is_cigar and width == 4 and at + 4 * number <= end:
                return at, number
            at += width * number
        else:
            at += _width(kind)
    return 0, 0


@_kernel
def _width(kind):
    """Bytes of a value of a tag: 4 for i I f, 2 for s S, 1 for A c C."""
    if kind == 105 or kind == 73 or kind == 102:
        return 4
    return 2 if kind == 115 or kind == 83 else 1
