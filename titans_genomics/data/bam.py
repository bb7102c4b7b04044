"""Reads of BAM and CRAM files.

A BAM is read by the kernel of `bam_records`. CRAM, and whatever needs an index, goes through htslib into the same rows, so
that filters and encoding (`reads`) are the same for all.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pysam

from titans_genomics.config import DataConfig, ReadsConfig, SourceConfig
from titans_genomics.data.bam_records import SMALLEST, header_end, scan_records
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.bgzf import DamagedError, check_bgzf_end, read_bgzf
from titans_genomics.data.reads import FIELDS, RawReads, ReadFilter

_PIECE = 1 << 21  # bytes of the reads that go from htslib to the filters together
_ROWS = 1 << 14  # and how many of them, where they hold few bases
_CRAM_END = b"\xe0EOF"  # in the container that ends a CRAM file, from version 2.1 on
_THREADS = 2
_LONGEST = (1 << 31) - 1  # bases of a contig, in BAM


def check_bam(source: SourceConfig, data: DataConfig) -> None:
    """Raise ValueError for a BAM or CRAM that is cut short, has no header, or cannot serve what is asked of it.

    Regions need a sorted and indexed file, CRAM the reference genome with the contigs of its header.
    """
    if _is_cram(source.path):
        _check_cram_end(source.path)
    else:
        check_bgzf_end(source.path)
    with open_alignments(source) as bam:
        if data.reads.regions:
            _regions(source.path, bam, data.reads)
        if bam.is_cram and bam.nreferences:
            _check_reference(source, bam, data.reads)


def contigs(source: SourceConfig) -> list[tuple[str, int]]:
    """Names and lengths of the contigs in the header; `ReadColumns.contig` counts in this list."""
    with open_alignments(source) as bam:
        return list(zip(bam.references, bam.lengths, strict=True))


def read_bam(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The reads that pass the filters, in file order; each of the others is counted in ``dropped`` by reason.

    Reads of the reverse strand, which BAM stores reverse complemented, are turned back unless ``data.reads.strand`` is
    ``reference``. With regions only reads that overlap one are looked at, each once.

    Raises
    ------
    ValueError
        Damaged file, header, index or reference missing, a base that is no nucleotide, or no read left (the message
        counts the reasons).
    """
    check_bam(source, data)
    keep = ReadFilter(source, data, seed, dropped)
    with open_alignments(source) as bam:
        fast = not bam.is_cram and not data.reads.regions
        try:
            for raw, share in _scan(source.path, bam.nreferences) if fast else _fetch_all(source, bam, data.reads):
                batch = keep(raw)
                advance(share)
                if batch is not None:
                    yield batch
        except (OSError, DamagedError, UnicodeDecodeError) as error:
            fault = _reference_fault(source, bam) if bam.is_cram else None
            what = error.what if isinstance(error, DamagedError) else error
            if isinstance(error, UnicodeDecodeError):
                what = "the name of the next is not UTF-8"
            stale = _stale_index(source.path, bam, keep.seen) if data.reads.regions else None
            raise ValueError(fault or stale or _damaged(source.path, keep.seen, what)) from None
        if data.reads.regions and not keep.seen and _index_is_older(source.path, bam):
            raise ValueError(_stale_index(source.path, bam, 0))
    keep.check_any()


def check_records(path: Path, contig_count: int) -> None:
    """Read a BAM through: ValueError for damage, which `samtools consensus` does not always survive."""
    seen = 0
    try:
        for raw, _ in _scan(path, contig_count):
            seen += len(raw.rows)
    except DamagedError as error:
        raise ValueError(_damaged(path, seen, error.what)) from None


def _damaged(path: Path, seen: int, what: object) -> str:
    return f"{path}: damaged after {seen:,} records ({what}). Copy or create the file again"


@contextmanager
def open_alignments(source: SourceConfig) -> Iterator[pysam.AlignmentFile]:
    """The file opened by htslib, which is kept from writing messages and from looking for references in the network.

    Raises ValueError when that fails.
    """
    path = source.path
    fields = b"required_fields=0x63f"  # name to CIGAR, bases, qualities; of CRAM, the rest is not even decompressed
    bam = None
    with _HTSLIB:
        try:
            try:
                bam = pysam.AlignmentFile(
                    str(path),
                    "r",
                    check_sq=False,
                    reference_filename=None if source.reference is None else str(source.reference),
                    format_options=[fields],
                )
                names, lengths = bam.references, bam.lengths
            except UnicodeDecodeError:
                raise _bad_header(path, "a contig's name is not UTF-8") from None
            except (OSError, ValueError) as error:
                if "valid header" in str(error):  # also without any @SQ, @RG or @PG line
                    raise ValueError(f"{path}: the BAM has no header. Add one with `samtools reheader`") from None
                raise ValueError(
                    f"{path}: not a readable BAM or CRAM file ({error}). Copy or create the file again"
                ) from None
            if lengths and max(lengths) > _LONGEST:
                longest = lengths.index(max(lengths))
                raise _bad_header(path, f"contig {names[longest]!r} of {lengths[longest]:,} bases")
            yield bam
        finally:
            if bam is not None:
                with suppress(OSError):  # closing repeats the error of a failed read, under a misleading name
                    bam.close()


class _Alone:
    """htslib without messages of its own, which would stand beside our errors, and without references from elsewhere.

    These are settings of the whole process, and several threads may read at once: the last to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self._verbosity = 0
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._verbosity = pysam.set_verbosity(0)
                self._before = {name: os.environ.get(name) for name in ("REF_PATH", "REF_CACHE")}
                os.environ.update(dict.fromkeys(self._before, os.devnull))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            pysam.set_verbosity(self._verbosity)


_HTSLIB = _Alone()


def header(path: Path, bam: pysam.AlignmentFile) -> dict[str, Any]:
    """The lines of the header by their type. Raises ValueError when its text is damaged."""
    try:
        if bam.nreferences:
            bam.get_tid(bam.references[0])  # htslib now looks at the text too
        return bam.header.to_dict()
    except (AssertionError, ValueError) as error:  # pysam looks at some of it with assertions
        raise _bad_header(path, ascii(" ".join(str(error).split()))) from None


def sort_order(path: Path, bam: pysam.AlignmentFile) -> str:
    """What the header says of the order of the alignments."""
    return header(path, bam).get("HD", {}).get("SO", "unknown")


def _bad_header(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path}: the header's text is damaged: {what}. Mend it with `samtools reheader`, or create the file again"
    )


def _scan(path: Path, contig_count: int) -> Iterator[tuple[RawReads, float]]:
    """Whole records of a BAM, block by block."""
    parts: list[np.ndarray] = []
    missing, in_header = 1, True
    for block, share in read_bgzf(path, _THREADS):
        parts.append(block)
        missing -= len(block)
        if missing > 0:
            continue
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        at = 0
        if in_header:
            start = header_end(data)
            if start is None:
                parts, missing = [data], 1
                continue
            at, in_header = start, False
        rows = np.empty((len(data) // SMALLEST + 1, FIELDS), dtype=np.int64)
        count, at, missing = scan_records(data, at, contig_count, rows)
        if count:
            yield RawReads(data, rows[:count], packed=True, phred=0), share
        if missing < 0:
            raise DamagedError(path, "what follows is no BAM record")
        parts = [data[at:]]
    if in_header or sum(map(len, parts)):
        raise DamagedError(path, "the file ends within a record")


def _fetch_all(
    source: SourceConfig, bam: pysam.AlignmentFile, reads: ReadsConfig
) -> Iterator[tuple[RawReads, float | None]]:
    """The reads that htslib gives, in pieces."""
    parts: list[bytes] = []
    rows: list[tuple[int, ...]] = []
    at = 0
    regions = _regions(source.path, bam, reads) if reads.regions else []
    size = max(source.path.stat().st_size, 1)
    try:
        for read in _fetch(bam, regions):
            name = (read.query_name or "*").encode("utf-8", errors="replace")
            sequence = (read.query_sequence or "").encode("ascii")
            quality = read.query_qualities if reads.min_base_quality else None
            bases = at + len(name)
            start, end = read.reference_start, read.reference_end
            fixed = (
                *(at, bases, bases, len(sequence), -1 if quality is None else bases + len(sequence)),
                *(read.flag, read.reference_id, start, start if end is None else end, read.mapping_quality),
            )
            rows.append((*fixed, *(_soft_clips(read) if reads.clip else (0, 0))))
            parts += (name, sequence) if quality is None else (name, sequence, quality.tobytes())
            at = bases + len(sequence) + (0 if quality is None else len(quality))
            if at >= _PIECE or len(rows) >= _ROWS:
                yield _raw(parts, rows), _share(regions, read) if regions else min(bam.tell() / size, 1.0)
                parts, rows, at = [], [], 0
    except (OSError, UnicodeDecodeError):
        if rows:
            yield _raw(parts, rows), None
        raise
    if rows:
        yield _raw(parts, rows), None


def _share(regions: list[tuple[int, int, int]], read: pysam.AlignedSegment) -> float:
    """The share of the regions' bases that lies in front of a read."""
    here = (read.reference_id, read.reference_start)
    before = [
        max(0, min(end, here[1]) - start) if contig == here[0] else (end - start) * (contig < here[0])
        for contig, start, end in regions
    ]
    return sum(before) / sum(end - start for _, start, end in regions)


def _raw(parts: list[bytes], rows: list[tuple[int, ...]]) -> RawReads:
    data = np.frombuffer(bytearray().join(parts), dtype=np.uint8)
    return RawReads(data, np.array(rows, dtype=np.int64), packed=False, phred=0)


def _soft_clips(read: pysam.AlignedSegment) -> tuple[int, int]:
    """Soft-clipped bases at the left and at the right end."""
    operations = [(kind, length) for kind, length in read.cigartuples or () if kind != pysam.CHARD_CLIP]
    clipped = [length if kind == pysam.CSOFT_CLIP else 0 for kind, length in operations]
    if len(clipped) < 2:
        return (clipped[0] if clipped else 0), 0
    return clipped[0], clipped[-1]


def _fetch(bam: pysam.AlignmentFile, regions: list[tuple[int, int, int]]) -> Iterator[pysam.AlignedSegment]:
    """The reads that overlap one of the sorted regions, each once; without regions all."""
    if not regions:
        yield from bam.fetch(until_eof=True)
        return
    contig_before, end_before = -1, 0
    for contig, start, end in regions:
        if contig != contig_before:
            contig_before, end_before = contig, 0
        for read in bam.fetch(tid=contig, start=start, stop=end):
            if read.reference_start >= end_before:  # else the region before gave it already
                yield read
        end_before = end


def _regions(path: Path, bam: pysam.AlignmentFile, reads: ReadsConfig) -> list[tuple[int, int, int]]:
    """(contig id, start, end) of the regions, merged and sorted, 0-based half-open. Raises ValueError."""
    kind, index = ("CRAM", "crai") if bam.is_cram else ("BAM", "bai")
    order = sort_order(path, bam)
    if order in ("unsorted", "queryname"):
        raise ValueError(
            f"{path}: data.reads.regions needs a {kind} sorted by coordinate, this one is {order}. Run `samtools sort` and `samtools index`"
        )
    if not bam.has_index():
        raise ValueError(
            f"{path}: data.reads.regions needs an index ({path.name}.{index}), there is none. Run `samtools index {path}`"
        )
    spans = [_parse_region(path, bam, region) for region in reads.regions]
    merged: list[tuple[int, int, int]] = []
    for contig, start, end in sorted(spans):
        if merged and merged[-1][0] == contig and start <= merged[-1][2]:
            merged[-1] = (contig, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((contig, start, end))
    return merged


def _index_is_older(path: Path, bam: pysam.AlignmentFile) -> bool:
    """Whether the index that htslib takes was made before the file was last changed."""
    endings = (".crai",) if bam.is_cram else (".csi", ".bai")
    beside = [place for ending in endings for place in (Path(f"{path}{ending}"), path.with_suffix(ending))]
    there = [place for place in beside if place.is_file()]
    return bool(there) and there[0].stat().st_mtime_ns < path.stat().st_mtime_ns


def _stale_index(path: Path, bam: pysam.AlignmentFile, seen: int) -> str | None:
    """What to say when reads could not be found through the index, if that may be the index's fault."""
    if _index_is_older(path, bam):
        return f"{path}: data.reads.regions needs an index of this version of the file, the one there is older than the file. Run `samtools index {path}`"
    if seen == 0:
        return f"{path}: no reads where the index says that they are: it belongs to another version of the file, or the file is damaged. Run `samtools index {path}`, or copy the file again"
    return None


def _parse_region(path: Path, bam: pysam.AlignmentFile, region: str) -> tuple[int, int, int]:
    """``contig``, ``contig:start`` or ``contig:start-end`` (1-based, inclusive) to (contig id, start, end), 0-based half-open."""
    where = f"{path}: region {region!r} of data.reads.regions"
    match = re.fullmatch(r"(.+?):([0-9,]+)(?:-([0-9,]+))?", region)
    if region in bam.references or match is None:
        contig, first, last = region, 1, None
    else:
        contig, first, last = match[1], int(match[2].replace(",", "")), match[3] and int(match[3].replace(",", ""))
    if contig not in bam.references:
        shown = [name if name.isprintable() else repr(name) for name in bam.references[:5]]
        raise ValueError(
            f"{where}: no contig {contig!r} in the header; there are {', '.join(shown) or 'none'}{' ...' if bam.nreferences > 5 else ''}"
        )
    length = bam.get_reference_length(contig)
    end = length if last is None else min(last, length)
    if not 1 <= first <= end:
        raise ValueError(f"{where}: empty or outside the contig's bases 1 to {length:,}")
    return bam.get_tid(contig), first - 1, end


def _is_cram(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) == b"CRAM"


def _check_cram_end(path: Path) -> None:
    with path.open("rb") as handle:
        version = tuple(handle.read(6)[4:])
        handle.seek(max(0, handle.seek(0, 2) - 38))
        if version >= (2, 1) and _CRAM_END not in handle.read():
            raise ValueError(
                f"{path}: cut short: the CRAM end-of-file container is missing. Copy or create the file again"
            )


def _check_reference(source: SourceConfig, bam: pysam.AlignmentFile, reads: ReadsConfig) -> None:
    """Raise ValueError unless the reference of a CRAM has the contigs that will be read, of the lengths in the header."""
    if source.reference is None:
        raise ValueError(
            f"{source.path}: a CRAM holds only where its reads differ from the genome that they were aligned to. Give the FASTA of it: data.sources[].reference"
        )
    with _open_reference(source) as reference:
        there = dict(zip(reference.references, reference.lengths, strict=True))
    needed = {contig for contig, _, _ in _regions(source.path, bam, reads)} if reads.regions else range(bam.nreferences)
    for contig in needed:
        name, length = bam.references[contig], bam.lengths[contig]
        if name not in there:
            raise _wrong_reference(source, f"contig {name!r} is not in it")
        if there[name] != length:
            raise _wrong_reference(
                source, f"contig {name!r} has {there[name]:,} bases, in the CRAM's header {length:,}"
            )


def _reference_fault(source: SourceConfig, bam: pysam.AlignmentFile) -> str | None:
    """How the reference differs from the checksums in the header of a CRAM that could not be read, if it does."""
    if source.reference is None:
        return None
    with _open_reference(source) as reference:
        for entry in header(source.path, bam).get("SQ", []):
            name, expected = entry.get("SN"), entry.get("M5")
            if expected is None or name not in reference.references:
                continue
            found = hashlib.md5(reference.fetch(name).upper().encode(), usedforsecurity=False).hexdigest()
            if found != expected:
                what = f"contig {name!r} has other bases (M5 checksum {found}, in the CRAM's header {expected})"
                stale = f", or run `samtools faidx {source.reference}` again if the file was changed after its index was made"
                return f"{_wrong_reference(source, what)}{stale}"
    return None


def _wrong_reference(source: SourceConfig, what: str) -> ValueError:
    return ValueError(
        f"{source.path}: {source.reference} is not the genome that its reads were aligned to: {what}. Give the right FASTA: data.sources[].reference"
    )


@contextmanager
def _open_reference(source: SourceConfig) -> Iterator[pysam.FastaFile]:
    path = source.reference
    assert path is not None
    if not path.is_file():
        raise ValueError(f"{source.path}: its reference {path} is missing (data.sources[].reference)")
    try:
        reference = pysam.FastaFile(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: no index of the reference can be read or made ({error}). It must be plain or bgzip, not gzip; run `samtools faidx {path}`"
        ) from None
    with reference:
        yield reference
