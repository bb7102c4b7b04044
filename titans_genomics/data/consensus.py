"""The consensus of the reads of a BAM or CRAM, one sequence per contig, by `samtools consensus`."""

from __future__ import annotations

from pathlib import Path

import pysam

from titans_genomics.config import DataConfig, ReadsConfig, SourceConfig
from titans_genomics.data.bam import check_bam, check_records, open_alignments, sort_order

_LINE = 1 << 20  # bases of a line


def consensus_fasta(source: SourceConfig, data: DataConfig, out: Path) -> int:
    """Write the consensus of a file's alignments to ``out`` as FASTA, and return the number of contigs in it.

    Sequences run from end to end of their contigs; N stands where fewer than ``data.reads.min_depth`` reads lie, or where
    less than three quarters of them, weighted by base quality, agree. Insertions and deletions are applied, so that a
    sequence may be longer or shorter than its contig.
    Contigs that would be all N are left out. The filters of ``data.reads`` apply to the reads; ``min_base_quality`` to
    their bases. Memory grows with the longest contig.

    Raises
    ------
    ValueError
        Not sorted by coordinate, damaged, no contig covered, or ``data.reads`` asks for what a consensus cannot do.
    """
    path, reads = source.path, data.reads
    for key, asked in (
        ("regions", bool(reads.regions)),
        ("fraction", reads.fraction < 1),
        ("coverage", reads.coverage is not None),
    ):
        if asked:
            raise ValueError(f"{path}: data.reads.{key} cannot go with data.reads.consensus: leave one of them out")
    check_bam(source, data)
    whole = out.with_name(out.name + ".part")
    try:
        with open_alignments(source) as bam:
            order = sort_order(path, bam)
            if order in ("unsorted", "queryname"):
                raise _unsorted(path, f"this one is {order}")
            if not bam.nreferences:
                raise ValueError(f"{path}: a consensus needs aligned reads, and the header has no contig (@SQ)")
            if not bam.is_cram:
                check_records(path, bam.nreferences)
            _run(source, reads, whole)
        count = _copy_covered(whole, out)
    finally:
        whole.unlink(missing_ok=True)
    if not count:
        out.unlink()
        raise ValueError(
            f"{path}: no base of the consensus is covered by {reads.min_depth} reads or more that pass the filters. Loosen data.reads"
        )
    return count


def _run(source: SourceConfig, reads: ReadsConfig, out: Path) -> None:
    arguments = [
        *("-a", "-f", "fasta", "-l", str(_LINE), "-o", str(out)),
        *("-m", "simple", "-q"),  # the other mode deletes bases for which all reads have N
        *("-d", str(reads.min_depth), "--min-MQ", str(reads.min_mapq), "--min-BQ", str(reads.min_base_quality)),
        *("--ff", hex(_excluded(reads)), "--input-fmt-option", f"filter={_filter(reads)}"),
        # Not as -T, which would fill what no read covers with the reference
        *(("--input-fmt-option", f"reference={source.reference}") if source.reference else ()),
        str(source.path),
    ]
    try:
        pysam.consensus(*arguments)
    except pysam.SamtoolsError as error:
        said = str(error).partition("stderr=")[2].strip().replace("\n", "; ")
        if "not sorted" in said:
            raise _unsorted(source.path, "this one is not") from None
        raise ValueError(
            f"{source.path}: no consensus could be made ({said or error}). The file may be damaged: copy or create it again"
        ) from None


def _excluded(reads: ReadsConfig) -> int:
    """SAM flag bits of which no read of the pile-up may have one."""
    kept = ((0x100, reads.secondary), (0x200, reads.qc_fail), (0x400, reads.duplicates), (0x800, reads.supplementary))
    return 0x4 | reads.exclude_flags | sum(bit for bit, keep in kept if not keep)


def _filter(reads: ReadsConfig) -> str:
    """htslib's filter expression for what `samtools consensus` has no option for."""
    terms = [f"length(seq) >= {reads.min_length}", f"(flag & {reads.require_flags}) == {reads.require_flags}"]
    if reads.max_length is not None:
        terms.append(f"length(seq) <= {reads.max_length}")
    return " && ".join(terms)


def _copy_covered(whole: Path, out: Path) -> int:
    """Copy the records that have a base other than N; returns how many."""
    count = 0
    with whole.open("rb") as lines, out.open("wb") as kept:
        header, blank = b"", 0  # the record's first line while only so many N have come
        for line in lines:
            if line.startswith(b">"):
                header, blank = line, 0
            elif not header:
                kept.write(line)
            elif line.strip(b"N\n"):
                kept.write(header)
                for start in range(0, blank, _LINE):
                    kept.write(b"N" * min(_LINE, blank - start) + b"\n")
                kept.write(line)
                header, count = b"", count + 1
            else:
                blank += len(line.rstrip(b"\n"))
    return count


def _unsorted(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path}: data.reads.consensus needs alignments sorted by coordinate, {what}. Run `samtools sort`"
    )
