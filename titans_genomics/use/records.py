"""Sequences that are read from files: records of FASTA and its like, reads of FASTQ, BAM and CRAM, intervals of a genome."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from titans_genomics.config import DataConfig, ReadsConfig, SourceConfig
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.bam import contigs, open_alignments
from titans_genomics.data.bgzf import is_gzip
from titans_genomics.data.readers import READS, check_source, open_source, read_records
from titans_genomics.data.regions import fit_regions, merge
from titans_genomics.use.reader import Reader

_REMARKS = ("#", "track", "browser")


@dataclass(frozen=True)
class Record:
    """A sequence and where it lies.

    Attributes
    ----------
    id : str
        Name of the contig, the read or the interval.
    codes : ndarray
        Its bases: uint8, shape (bases,), A=0 C=1 G=2 T=3 N=4.
    contig, start, end : str or None, int, int
        0-based half-open; of a read those of its alignment, None and -1 where it has none.
    strand : str
        "-": ``codes`` are those of the other strand; "." where there is none to speak of.
    """

    id: str
    codes: np.ndarray
    contig: str | None
    start: int
    end: int
    strand: str = "."


@dataclass(frozen=True)
class Interval:
    """A line of a BED file; ``start`` and ``end`` are 0-based half-open."""

    contig: str
    start: int
    end: int
    name: str
    strand: str
    line: int


def read_sequences(
    reader: Reader, path: str | Path, bed: str | Path | None = None, reference: str | Path | None = None
) -> tuple[Iterator[Record], int | None, list[str]]:
    """The sequences of a file, or those of the intervals of a BED file in it.

    Records and reads come in file order; intervals in the order of the genome's contigs, those of a contig in that of the
    BED file, each on the strand that its line names. Reads are the primary ones, as they were sequenced, unmapped ones and
    duplicates among them; mates have one name. One contig is in memory at a time, a byte a base.

    Parameters
    ----------
    reader : Reader
        Says how lower case is read.
    path : path
        FASTA, GenBank, EMBL, 2bit, FASTQ, BAM or CRAM; plain, gzip or bgzip.
    bed : path, optional
        BED of 3 to 6 columns or more: contig, start, end, name, score, strand.
    reference : path, optional
        Genome of a CRAM.

    Returns
    -------
    records, bases, warnings : iterator of Record, int or None, list of str
        ``bases``: how many there will be, None where that is not known. Nothing for files that are empty.

    Raises
    ------
    FileNotFoundError, ValueError
        Files that are not there or are damaged, contigs that the genome has not, intervals that end beyond their contig.
        Some are found while records are read.
    """
    path = Path(path)
    for file in (path, *(Path(other) for other in (bed, reference) if other is not None)):
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file")
        if file.is_dir():
            raise ValueError(f"{file}: is a folder; give a file")
    if path.stat().st_size == 0 and bed is None:
        return iter(()), 0, [f"{path}: is empty"]
    source = SourceConfig(path=path, reference=None if reference is None else Path(reference))
    # every read is wanted, whatever a training run would leave out
    reads = ReadsConfig(min_length=1, duplicates=True, qc_fail=True)
    data = DataConfig(sources=(source,), soft_mask=reader.soft_mask, reads=reads)
    try:
        kind = check_source(source, data)
    except ValueError as error:
        # which is said in the words of a run's config
        raise ValueError(str(error).replace("data.sources[].reference", "--reference")) from None
    if bed is None:
        if kind not in READS:
            return _whole(source, data), None, []
        if kind != "fastq" and _holds_no_read(source):
            return iter(()), 0, [f"{path}: holds no read"]
        return _reads(source, data, kind), None, []
    if kind in READS:
        raise ValueError(f"{path}: intervals of {bed} are cut from a genome, and this file holds reads. Give its FASTA")
    intervals = read_bed(Path(bed))
    if not intervals:
        return iter(()), 0, [f"{bed}: holds no interval"]
    by_contig = _by_contig(intervals, source, data, Path(bed))
    habit = one_based_habit(intervals)
    warnings = [f"{bed}: {habit}"] if habit else []
    return _cut(source, data, by_contig), sum(i.end - i.start for i in intervals), warnings


def read_codes(path: Path, soft_mask: Literal["keep", "ignore", "n"] = "keep") -> Iterator[tuple[str, np.ndarray]]:
    """Name and base codes of every record of a sequence file, which is checked at once. Raises ValueError."""
    source = SourceConfig(path=path)
    data = DataConfig(sources=(source,), soft_mask=soft_mask)
    check_source(source, data)
    return read_records(source, data)


def few_of(contigs: Collection[str]) -> str:
    """The names of the first contigs, for messages."""
    return ", ".join(islice(contigs, 4)) + (", ..." if len(contigs) > 4 else "")


def _whole(source: SourceConfig, data: DataConfig) -> Iterator[Record]:
    for name, codes in read_records(source, data):
        yield Record(name, codes, name, 0, len(codes))


def _holds_no_read(source: SourceConfig) -> bool:
    try:
        with open_alignments(source) as alignments:
            return next(alignments.fetch(until_eof=True), None) is None
    except OSError:
        return False  # damaged, which the reader says in its own words


def _reads(source: SourceConfig, data: DataConfig, kind: str) -> Iterator[Record]:
    names = [name for name, _ in contigs(source)] if kind != "fastq" else []
    for batch in open_source(source, data):
        columns = batch.reads
        assert columns is not None
        edges = [*batch.starts.tolist(), len(batch.codes)]
        for i, name in enumerate(batch.names):
            codes = batch.codes[edges[i] : edges[i + 1]]
            number = int(columns.contig[i])
            if number < 0:
                yield Record(name, codes, None, -1, -1)
            else:
                strand = "-" if columns.minus[i] else "+"
                yield Record(name, codes, names[number], int(columns.start[i]), int(columns.end[i]), strand)


def _cut(source: SourceConfig, data: DataConfig, by_contig: dict[str, list[Interval]]) -> Iterator[Record]:
    for contig, codes in read_records(source, data):
        for interval in by_contig.get(contig, ()):
            own = codes[interval.start : interval.end]
            own = reverse_complement(own) if interval.strand == "-" else own
            yield Record(interval.name, own, contig, interval.start, interval.end, interval.strand)


def _by_contig(
    intervals: list[Interval], source: SourceConfig, data: DataConfig, bed: Path
) -> dict[str, list[Interval]]:
    """Intervals by the contigs of the genome, whose names may differ by convention. Raises ValueError."""
    own: dict[str, list[Interval]] = {}
    for interval in intervals:
        own.setdefault(interval.contig, []).append(interval)
    regions = {name: merge(np.array([(i.start, i.end) for i in part])) for name, part in own.items()}
    lengths = {name: len(codes) for name, codes in read_records(source, data)}
    fitted = fit_regions(regions, lengths, bed, source.path, "BED")
    return dict(zip(fitted, own.values(), strict=True))


def read_bed(path: Path) -> list[Interval]:
    """The intervals of a BED file, plain or gzip, in file order; one without a name is called CONTIG:START-END (0-based).

    Raises
    ------
    ValueError
        A line that is no interval, by its number.
    """
    found = []
    with (gzip.open if is_gzip(path) else open)(path, "rb") as stream:
        try:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8", errors="replace").strip("\ufeff\r\n")
                if text.strip() and not text.startswith(_REMARKS):
                    found.append(_interval(path, number, text))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged gzip data ({error}). Copy or download the file again") from None
    return found


def _interval(path: Path, number: int, text: str) -> Interval:
    fields = text.split("\t") if "\t" in text else text.split()
    if len(fields) < 3 or not all(field.isdecimal() and len(field) < 19 for field in fields[1:3]):
        shown = text[:60]
        raise ValueError(
            f"{path}: line {number}: {shown!r} is no interval; BED has contig, start and end, between tabs"
        )
    start, end = int(fields[1]), int(fields[2])
    if start >= end:
        raise ValueError(f"{path}: line {number}: start {start} is not below end {end} (0-based, the end excluded)")
    named = len(fields) > 3 and fields[3] not in ("", ".")
    strand = fields[5].strip() if len(fields) > 5 else "."
    if strand not in ("+", "-", "."):
        raise ValueError(f"{path}: line {number}: strand {strand!r} is none of + - .")
    return Interval(fields[0], start, end, fields[3] if named else f"{fields[0]}:{start}-{end}", strand, number)


def one_based_habit(intervals: list[Interval]) -> str:
    """What tells that a BED file was written with 1-based starts; empty where nothing does.

    That is a start of 1 among starts that all end in the digit 1, or intervals of which each begins one base behind the one before.
    """
    if len(intervals) < 3:
        return ""
    steps = [(a.end, b.start) for a, b in pairwise(intervals) if a.contig == b.contig]
    if steps and all(start == end + 1 for end, start in steps):
        return "every interval begins one base behind the end of the one before, as 1-based ones do. BED is 0-based: subtract 1 from the starts if so"
    if all(i.start % 10 == 1 for i in intervals):
        return "every start ends in the digit 1, as those of 1-based intervals do. BED is 0-based: subtract 1 from the starts if so"
    return ""
