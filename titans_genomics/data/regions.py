"""Stretches of contigs: BED, GFF3 and GTF files to intervals, and the algebra of intervals.

Intervals are int64, shape (n, 2), start and end, 0-based half-open; those that the functions take (other than ``merge``)
and give are sorted and do not overlap.
"""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

# Features that are the contig itself, which NCBI and Ensembl list among what lies on it.
_WHOLE = {b"region", b"chromosome", b"contig", b"scaffold", b"supercontig", b"source", b"databank_entry"}
_STRANDS = {b"+", b"-", b".", b"?"}

_DIGITS = 18  # of a position, so that it is an int64

# Line number, contig, start, end.
_Line = tuple[int, bytes, int, int]


# ---------------------------------------------------------------------------------------------- files


def read_regions(path: Path) -> dict[str, np.ndarray]:
    """The regions of a BED, GFF3 or GTF file (plain or gzip; told by the content), merged.

    GFF and GTF are 1-based and inclusive, and are converted. Their features of every type count, other than those that
    are the contig itself (region, chromosome, scaffold, ... from its first base on). A feature across the origin of a
    contig that is marked ``Is_circular=true`` is cut in two there.

    Returns
    -------
    dict
        Contig name, as in the file, to intervals: int64, shape (n, 2).

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Neither BED nor GFF, a damaged line (named by its number), or no region at all.
    """
    found: dict[bytes, tuple[array[int], array[int]]] = {}
    circular: dict[bytes, int] = {}
    last = None
    for _, name, start, end in _lines(path, circular):
        if name != last:
            starts, ends = found.setdefault(name, (array("q"), array("q")))
            last = name
        starts.append(start)
        ends.append(end)
    if not found:
        raise ValueError(f"{path}: the file holds no regions. Fill it, or leave it out")
    regions = {}
    for name, columns in found.items():
        intervals = np.column_stack([np.frombuffer(column, dtype=np.int64) for column in columns])
        if name in circular:
            intervals = _cut_at_origin(intervals, circular[name])
        regions[name.decode("utf-8", errors="replace")] = merge(intervals)
    return regions


def fit_regions(
    regions: Mapping[str, np.ndarray], contigs: Mapping[str, int], path: Path, source_path: Path, what: str
) -> dict[str, np.ndarray]:
    """Regions by the contig names of a genome.

    Names may differ by convention: chr1 and chrM (UCSC) for 1 and MT (Ensembl), or the other way round.

    Parameters
    ----------
    regions
        What `read_regions` made of ``path``.
    contigs
        Name to length in bases.
    path, source_path, what
        The file of regions, that of the genome, and the key that names the former, for messages.

    Raises
    ------
    ValueError
        A contig that the genome does not have (where regions are left out, none that it has: a blacklist may be of more
        than what is read), names in both conventions, or a region (named by its line) that ends beyond its contig.
    """
    absent: list[str] = []
    alike: dict[str, list[str]] = {}
    for contig in contigs:
        alike.setdefault(without_convention(contig), []).append(contig)
    fitted: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for name, intervals in regions.items():
        candidates = [name] if name in contigs else alike.get(without_convention(name), [])
        if not candidates:
            absent.append(name)
            continue
        contig = candidates[0]
        if len(candidates) > 1:
            raise _two_conventions(
                f"{path} ({what}): contig {name!r} may be {candidates[0]!r} or {candidates[1]!r} of {source_path}"
            )
        if contig in fitted:
            raise _two_conventions(
                f"{path} ({what}): {origin[contig]!r} and {name!r} would both be contig {contig!r} of {source_path}"
            )
        if intervals[-1, 1] > contigs[contig]:
            raise _beyond(path, name, contigs[contig], source_path, what)
        fitted[contig], origin[contig] = intervals, name
    if absent and (what != "exclude" or not fitted):
        few = ", ".join(list(contigs)[:4]) + (", ..." if len(contigs) > 4 else "")
        raise ValueError(
            f"{path} ({what}): contig {absent[0]!r} is not in {source_path}, which has {few}. Rename it, or take its lines out"
        )
    return fitted


def without_convention(name: str) -> str:
    """What chr1 and 1, and chrM and MT, have in common."""
    rest = re.sub("^chr", "", name, flags=re.IGNORECASE)
    return "MT" if rest == "M" else rest


def _two_conventions(problem: str) -> ValueError:
    return ValueError(
        f"{problem}: names of two conventions, UCSC (chr1, chrM) and Ensembl (1, MT), stand side by side. Name the contigs as the genome does, such as with `sed 's/^chr//'` or `sed 's/^/chr/'`"
    )


def _beyond(path: Path, name: str, length: int, source_path: Path, what: str) -> ValueError:
    where = f"{path} ({what})"
    for number, contig, start, end in _lines(path, {}):
        if end > length and contig.decode("utf-8", errors="replace") == name:
            where = f"{path} ({what}): line {number}: {name}:{start}-{end} (0-based)"
            break
    return ValueError(
        f"{where} ends beyond its contig, which has {length:,} bases in {source_path}. Is the file made for another assembly?"
    )


def _cut_at_origin(intervals: np.ndarray, length: int) -> np.ndarray:
    """Stretches beyond the end of a circular contig go on at its start. Pieces may be empty."""
    return np.concatenate([np.minimum(intervals, length), np.maximum(intervals - length, 0)])


def _lines(path: Path, circular: dict[bytes, int]) -> Iterator[_Line]:
    """The regions of a file line by line; ``circular`` is filled with the lengths of contigs marked so."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the BED or GFF file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such BED or GFF file (relative to the working directory)")
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw
            _rewind(stream)
            gff = _is_gff(stream)
            _rewind(stream)
            yield from _gff_lines(path, stream, circular) if gff else _bed_lines(path, stream)
    except EOFError:
        raise ValueError(f"{path}: gzip data cut short. Copy or download the file again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error}). Copy or download the file again") from None


def _rewind(stream: IO[bytes]) -> None:
    """To the beginning, behind a byte order mark."""
    stream.seek(0)
    if stream.read(3) != b"\xef\xbb\xbf":
        stream.seek(0)


def _is_gff(stream: IO[bytes]) -> bool:
    for line in stream:
        if line.startswith((b"##gff-version", b"#!genome-build")):
            return True
        fields = line.rstrip(b"\r\n").split(b"\t")
        if not _is_remark(line):
            return len(fields) >= 8 and fields[6] in _STRANDS and not fields[1].isdigit()
    return False


def _is_remark(line: bytes) -> bool:
    words = line.split(None, 1)
    return not words or words[0].startswith(b"#") or words[0] in (b"track", b"browser")


def _bed_lines(path: Path, stream: IO[bytes]) -> Iterator[_Line]:
    for number, line in enumerate(stream, 1):
        fields = line.split(None, 3)
        if len(fields) >= 3 and fields[1].isdigit() and fields[2].isdigit():
            start, end = _position(path, number, fields[1]), _position(path, number, fields[2])
            if start >= end:
                raise _bad(path, number, f"start {start} is not below end {end} (0-based, the end excluded)")
            yield number, fields[0], start, end
        elif not _is_remark(line):
            raise _bad_fields(path, number, fields, fields[1:3])


def _gff_lines(path: Path, stream: IO[bytes], circular: dict[bytes, int]) -> Iterator[_Line]:
    for number, line in enumerate(stream, 1):
        if line.startswith((b"##FASTA", b">")):
            return
        if _is_remark(line):
            continue
        fields = line.split(b"\t", 8)
        if len(fields) < 8 or not fields[3].isdigit() or not fields[4].isdigit():
            raise _bad_fields(path, number, fields, fields[3:5], gff=True)
        start, end = _position(path, number, fields[3]), _position(path, number, fields[4])
        if start < 1 or start > end:
            raise _bad(path, number, f"start {start} is not between 1 and end {end} (1-based, inclusive)")
        if start > 1 or fields[2] not in _WHOLE:
            yield number, fields[0], start - 1, end
        elif b"Is_circular=true" in fields[-1]:
            circular[fields[0]] = end


def _position(path: Path, number: int, digits: bytes) -> int:
    if len(digits) > _DIGITS:
        raise _bad(path, number, f"no contig is {digits[:40].decode()} bases long")
    return int(digits)


def _bad_fields(path: Path, number: int, fields: list[bytes], positions: list[bytes], gff: bool = False) -> ValueError:
    wanted = "GFF has nine columns between tabs" if gff else "BED has contig, start and end; # begins a header line"
    if len(positions) < 2 or (gff and len(fields) < 8):
        return _bad(path, number, f"{len(fields)} columns; {wanted}")
    field = next(position for position in positions if not position.isdigit())[:40].decode("utf-8", errors="replace")
    return _bad(path, number, f"{field!r} is not a position (a whole number of 0 or more); {wanted}")


def _bad(path: Path, number: int, problem: str) -> ValueError:
    return ValueError(f"{path}: line {number}: {problem}")


# -------------------------------------------------------------------------------------------- algebra


def merge(intervals: np.ndarray) -> np.ndarray:
    """Sorted, with those that overlap or touch made one and empty ones left out.

    ``intervals`` is int64, shape (n, 2), in any order; so is the result, with as many rows as there are stretches.
    """
    intervals = intervals[intervals[:, 0] < intervals[:, 1]]
    if not len(intervals):
        return np.zeros((0, 2), dtype=np.int64)
    if (intervals[1:, 0] < intervals[:-1, 0]).any():
        intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    gap = intervals[1:, 0] > reach[:-1]
    starts = intervals[np.concatenate([[True], gap]), 0]
    ends = reach[np.concatenate([gap, [True]])]
    return np.column_stack([starts, ends])


def intersect(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What lies in both ``a`` and ``b``."""
    first = np.searchsorted(b[:, 1], a[:, 0], side="right")
    behind = np.searchsorted(b[:, 0], a[:, 1], side="left")
    counts = np.maximum(behind - first, 0)
    which_a = np.repeat(np.arange(len(a)), counts)
    which_b = np.arange(len(which_a)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    starts = np.maximum(a[which_a, 0], b[which_b, 0])
    ends = np.minimum(a[which_a, 1], b[which_b, 1])
    return np.column_stack([starts, ends])


def subtract(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What lies in ``a`` but not in ``b``."""
    return intersect(a, complement(b, int(a[-1, 1]))) if len(a) else a


def complement(a: np.ndarray, length: int) -> np.ndarray:
    """What of a contig of ``length`` bases does not lie in ``a``."""
    starts = np.concatenate([[0], np.minimum(a[:, 1], length)])
    ends = np.concatenate([np.minimum(a[:, 0], length), [length]])
    gaps = np.column_stack([starts, ends]).astype(np.int64)
    return gaps[starts < ends]
