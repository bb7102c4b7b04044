"""What the tests of reads look at them with, and a second implementation of the filters on top of pysam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pysam
from making import config_for

from titans_genomics.config import ReadsConfig
from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.bam import contigs, read_bam
from titans_genomics.data.batch import Batch
from titans_genomics.data.fastq import read_fastq

SIRV = Path(__file__).parents[2] / "resources" / "sirv_reads.bam"


class Read(NamedTuple):
    """One read of a batch, as text."""

    name: str
    bases: str
    strand: str
    aligned: str | None
    mapq: int | None


def other_strand(sequence: str) -> str:
    return decode(reverse_complement(encode(sequence)))


def batches(source: Any, seed: int = 1, **data: Any) -> tuple[list[Batch], Counter[str]]:
    """All batches of a FASTQ, BAM or CRAM file (a path, or the entry of a config), and the dropped reads."""
    config = config_for(source, seed=seed, **data)
    (entry,) = config.data.sources
    reader = read_bam if entry.path.suffix in (".bam", ".cram") else read_fastq
    dropped: Counter[str] = Counter()
    shares: list[float | None] = []
    found = list(reader(entry, config.data, seed, dropped, shares.append))
    assert len(shares) >= len(found)
    assert all(share is None or 0 <= share <= 1 for share in shares)
    return found, dropped


def read(source: Any, seed: int = 1, iupac: str = "n", **filters: Any) -> tuple[list[Read], Counter[str]]:
    """The reads of a file with these settings of ``data.reads``, and the dropped ones by reason."""
    found, dropped = batches(source, seed, iupac=iupac, reads=filters)
    path = source["path"] if isinstance(source, dict) else source
    names = []
    if Path(path).suffix in (".bam", ".cram"):
        (entry,) = config_for(source).data.sources
        names = [name for name, _ in contigs(entry)]
    return [each for batch in found for each in unpack(batch, names)], dropped


def unpack(batch: Batch, contig_names: list[str]) -> list[Read]:
    columns = batch.reads
    assert columns is not None
    assert len(batch.soft) == 0
    assert batch.starts[0] == 0
    ends = [*batch.starts[1:].tolist(), len(batch.codes)]
    reads = []
    for i, (start, end) in enumerate(zip(batch.starts.tolist(), ends, strict=True)):
        bases = decode(batch.codes[start:end])
        strand = "-" if columns.minus[i] else "+"
        if columns.contig[i] < 0:
            assert (columns.start[i], columns.end[i], columns.mapq[i]) == (-1, -1, -1)
            reads.append(Read(batch.names[i], bases, strand, None, None))
        else:
            locus = f"{contig_names[columns.contig[i]]}:{columns.start[i]}-{columns.end[i]}"
            reads.append(Read(batch.names[i], bases, strand, locus, int(columns.mapq[i])))
    return reads


def keys(found: Iterable[Batch]) -> dict[str, int]:
    """Key of each read by name."""
    return {name: int(key) for batch in found for name, key in zip(batch.names, batch.reads.key, strict=True)}


def expected(path: Path, reads: ReadsConfig) -> tuple[list[Read], Counter[str]]:
    """What `read` should give, read by read, by pysam and without fractions and regions."""
    kept, dropped = [], Counter()
    with pysam.AlignmentFile(str(path), check_sq=False) as bam:
        for line in bam.fetch(until_eof=True):
            reason = drop_reason(line, reads)
            if reason:
                dropped[reason] += 1
            else:
                kept.append(as_read(line, reads))
    return kept, dropped


def drop_reason(line: pysam.AlignedSegment, reads: ReadsConfig) -> str | None:
    if line.is_unmapped and not reads.unmapped:
        return "unmapped"
    if line.is_secondary and not reads.secondary:
        return "secondary alignment"
    if line.is_supplementary and not reads.supplementary:
        return "supplementary alignment"
    if line.is_duplicate and not reads.duplicates:
        return "duplicate"
    if line.is_qcfail and not reads.qc_fail:
        return "failed quality control"
    if line.flag & reads.require_flags != reads.require_flags:
        return "lacks a required flag"
    if line.flag & reads.exclude_flags:
        return "has an excluded flag"
    if not line.is_unmapped and line.mapping_quality < reads.min_mapq:
        return f"MAPQ below {reads.min_mapq}"
    if line.query_length == 0:
        return "no sequence stored"
    length = line.query_alignment_length if reads.clip and not line.is_unmapped else line.query_length
    if length < reads.min_length:
        return f"shorter than {reads.min_length} bases"
    if reads.max_length is not None and length > reads.max_length:
        return f"longer than {reads.max_length} bases"
    return None


def as_read(line: pysam.AlignedSegment, reads: ReadsConfig) -> Read:
    clip = reads.clip and not line.is_unmapped
    within = slice(line.query_alignment_start, line.query_alignment_end) if clip else slice(None)
    bases = np.array(list(line.query_sequence[within]))
    if line.query_qualities is not None:
        bases[np.array(line.query_qualities[within]) < reads.min_base_quality] = "N"
    sequence = decode(encode("".join(bases)))
    if line.is_reverse and (reads.strand == "sequenced" or line.is_unmapped):
        sequence = other_strand(sequence)
    mate = "/1" if line.is_read1 and not line.is_read2 else "/2" if line.is_read2 and not line.is_read1 else ""
    if line.is_unmapped:
        return Read(line.query_name + mate, sequence, "+", None, None)
    locus = f"{line.reference_name}:{line.reference_start}-{line.reference_end}"
    return Read(line.query_name + mate, sequence, "-" if line.is_reverse else "+", locus, line.mapping_quality)
