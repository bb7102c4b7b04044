"""Reads of a BAM file, as sequenced, with the filters of ``data.reads``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pysam

from titans_genomics.config import ReadsConfig
from titans_genomics.data.fasta import check_bgzf_end
from titans_genomics.data.records import Advance, Record


def check_bam(path: Path, reads: ReadsConfig) -> None:
    """Raise ValueError for a BAM that is cut short, has no header, or cannot serve the regions asked for."""
    check_bgzf_end(path)
    with _open(path) as bam:
        if reads.regions:
            _regions(path, bam, reads)


def read_bam(path: Path, reads: ReadsConfig, dropped: Counter[str], advance: Advance) -> Iterator[Record]:
    """The reads that pass the filters, in file order; each of the others is counted in ``dropped`` by reason.

    Sequences are as the instrument gave them: alignments to the reverse strand, which BAM stores reverse
    complemented, are turned back. With regions only reads that overlap one are looked at, each once.

    Raises
    ------
    ValueError
        Damaged file, or no read left (the message counts the reasons).
    """
    size = max(path.stat().st_size, 1)
    kept = 0
    with _open(path) as bam:
        try:
            for read in _fetch(path, bam, reads, dropped):
                reason = drop_reason(read, reads)
                if reason is not None:
                    dropped[reason] += 1
                    continue
                kept += 1
                record = _record(read)
                advance(len(record.sequence), None if reads.regions else (bam.tell() >> 16) / size)
                yield record
        except OSError as error:
            raise ValueError(
                f"{path}: damaged after {kept + sum(dropped.values()):,} records ({error}). Copy or create the file again"
            ) from None
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common()) or "the file holds none"
        where = f" in {', '.join(reads.regions)}" if reads.regions else ""
        raise ValueError(f"{path}: no read left{where} after the filters ({reasons}). Loosen data.reads")


def drop_reason(read: pysam.AlignedSegment, reads: ReadsConfig) -> str | None:
    """Why the filters drop a read, or None. The first reason in this order counts."""
    if read.is_unmapped and not reads.unmapped:
        return "unmapped"
    if read.is_secondary and not reads.secondary:
        return "secondary alignment"
    if read.is_supplementary and not reads.supplementary:
        return "supplementary alignment"
    if read.is_duplicate and not reads.duplicates:
        return "duplicate"
    if read.is_qcfail and not reads.qc_fail:
        return "failed quality control"
    if read.flag & reads.require_flags != reads.require_flags:
        return "lacks a required flag"
    if read.flag & reads.exclude_flags:
        return "has an excluded flag"
    if not read.is_unmapped and read.mapping_quality < reads.min_mapq:
        return f"MAPQ below {reads.min_mapq}"
    length = read.query_length
    if length == 0:
        return "no sequence stored"
    if length < reads.min_length:
        return f"shorter than {reads.min_length} bases"
    if reads.max_length is not None and length > reads.max_length:
        return f"longer than {reads.max_length} bases"
    return None


@contextmanager
def _open(path: Path) -> Iterator[pysam.AlignmentFile]:
    verbosity = pysam.set_verbosity(0)  # htslib's own messages would stand beside our errors
    try:
        bam = pysam.AlignmentFile(str(path), "rb", check_sq=False)
    except (OSError, ValueError) as error:
        pysam.set_verbosity(verbosity)
        if "valid header" in str(error):  # also without any @SQ, @RG or @PG line
            raise ValueError(f"{path}: the BAM has no header. Add one with `samtools reheader`") from None
        raise ValueError(f"{path}: not a readable BAM file ({error}). Copy or create the file again") from None
    try:
        yield bam
    finally:
        with suppress(OSError):  # closing repeats the error of a failed read, under a misleading name
            bam.close()
        pysam.set_verbosity(verbosity)


def _record(read: pysam.AlignedSegment) -> Record:
    name = read.query_name or "*"
    mate = "/1" if read.is_read1 and not read.is_read2 else "/2" if read.is_read2 and not read.is_read1 else ""
    sequence = read.get_forward_sequence().encode("ascii")
    if read.is_unmapped:
        return Record(name + mate, sequence, "read", "+", name)
    start = read.reference_start
    locus = f"{read.reference_name}:{start}-{start if read.reference_end is None else read.reference_end}"
    return Record(name + mate, sequence, "read", "-" if read.is_reverse else "+", name, locus, read.mapping_quality)


def _fetch(
    path: Path, bam: pysam.AlignmentFile, reads: ReadsConfig, dropped: Counter[str]
) -> Iterator[pysam.AlignedSegment]:
    if not reads.regions:
        yield from bam.fetch(until_eof=True)
        return
    contig_before, end_before = -1, 0
    for contig, start, end in _regions(path, bam, reads):
        if contig != contig_before:
            contig_before, end_before = contig, 0
        for read in bam.fetch(tid=contig, start=start, stop=end):
            if read.reference_start < end_before:  # the region before gave it already
                continue
            if read.is_unmapped:  # placed beside its mate, without an alignment of its own
                dropped["unmapped"] += 1
                continue
            yield read
        end_before = end


def _regions(path: Path, bam: pysam.AlignmentFile, reads: ReadsConfig) -> list[tuple[int, int, int]]:
    """(contig id, start, end) of the regions, merged and sorted, 0-based half-open. Raises ValueError."""
    order = bam.header.to_dict().get("HD", {}).get("SO", "unknown")
    if order in ("unsorted", "queryname"):
        raise ValueError(
            f"{path}: data.reads.regions needs a BAM sorted by coordinate, this one is {order}. Run `samtools sort` and `samtools index`"
        )
    if not bam.has_index():
        raise ValueError(
            f"{path}: data.reads.regions needs an index ({path.name}.bai), there is none. Run `samtools index {path}`"
        )
    spans = []
    for region in reads.regions:
        spans.append(_parse_region(path, bam, region))
    merged: list[tuple[int, int, int]] = []
    for contig, start, end in sorted(spans):
        if merged and merged[-1][0] == contig and start <= merged[-1][2]:
            merged[-1] = (contig, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((contig, start, end))
    return merged


def _parse_region(path: Path, bam: pysam.AlignmentFile, region: str) -> tuple[int, int, int]:
    """``contig``, ``contig:start`` or ``contig:start-end`` (1-based, inclusive) to (contig id, start, end), 0-based half-open."""
    where = f"{path}: region {region!r} of data.reads.regions"
    match = re.fullmatch(r"(.+?):([0-9,]+)(?:-([0-9,]+))?", region)
    if region in bam.references or match is None:
        contig, first, last = region, 1, None
    else:
        contig, first, last = match[1], int(match[2].replace(",", "")), match[3] and int(match[3].replace(",", ""))
    if contig not in bam.references:
        raise ValueError(
            f"{where}: no contig {contig!r} in the header; there are {', '.join(bam.references[:5]) or 'none'}{' ...' if bam.nreferences > 5 else ''}"
        )
    length = bam.get_reference_length(contig)
    end = length if last is None else min(last, length)
    if not 1 <= first <= end:
        raise ValueError(f"{where}: empty or outside the contig's bases 1 to {length:,}")
    return bam.get_tid(contig), first - 1, end
