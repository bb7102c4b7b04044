"""One door to every sequence file: what it is, whether it can be read, and its records.

All coordinates are 0-based half-open; region strings of the config (1-based, inclusive) are converted in ``bam``.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data import alphabet
from titans_genomics.data.bam import check_bam, read_bam
from titans_genomics.data.fasta import GZIP_MAGIC, SPACE, check_bgzf_end, is_bgzf, read_fasta
from titans_genomics.data.genbank import read_genbank
from titans_genomics.data.records import Advance, Record
from titans_genomics.data.splits import read_key

Kind = Literal["fasta", "genbank", "bam"]

_HEAD = 1 << 16

_OTHER_FORMATS = (
    (b"CRAM", "a CRAM file. Convert it with `samtools view -b -T REFERENCE.fa`"),
    (b"@HD\t", "a SAM text file. Convert it with `samtools view -b`"),
    (b"@SQ\t", "a SAM text file. Convert it with `samtools view -b`"),
    (b"@RG\t", "a SAM text file. Convert it with `samtools view -b`"),
    (b"@PG\t", "a SAM text file. Convert it with `samtools view -b`"),
    (b"@", "a FASTQ file. Convert it to BAM with `samtools import`, or to FASTA with `samtools fasta`"),
    (b"##fileformat=VCF", "a VCF file; a FASTA, GenBank or BAM file is needed"),
    (b"##gff", "a GFF annotation; give the genome's FASTA instead"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd. Decompress it, or use bgzip"),
    (b"\xfd7zXZ", "compressed with xz. Decompress it, or use bgzip"),
    (b"BZh", "compressed with bzip2. Decompress it, or use bgzip"),
    (b"PK\x03\x04", "a zip archive. Unpack it"),
    (b"\x1aE\xdf\xa3", "a binary file"),
)


def detect_kind(path: Path) -> Kind:
    """The format of a file by its first bytes (those inside gzip when compressed).

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A folder, an empty file, or none of FASTA, GenBank and BAM; the message says what it looks like.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the sequence file in it")
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such sequence file (data.sources[].path, relative to the working directory)"
        )
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file; pipes and devices cannot be read twice")
    with path.open("rb") as handle:
        empty = not handle.read(1 << 16).strip()
    if empty:
        raise ValueError(f"{path}: the file is empty")
    head = _head(path)
    if not head:
        raise ValueError(f"{path}: the file is empty inside its compression")
    if head.startswith(b"BAM\x01"):
        return "bam"
    text = head.lstrip()
    if text.startswith(b">"):
        return "fasta"
    if text.startswith(b"LOCUS"):
        return "genbank"
    for magic, what in _OTHER_FORMATS:
        if text.startswith(magic):
            raise ValueError(f"{path}: this is {what}")
    if b"\0" in head or sum(byte < 9 or byte > 126 for byte in head[:512]) > 50:
        raise ValueError(f"{path}: a binary file; a FASTA, GenBank or BAM file is needed")
    start = text[:20].decode("ascii", errors="replace").splitlines()
    raise ValueError(
        f"{path}: neither FASTA (begins with '>'), GenBank (LOCUS) nor BAM; it begins with {start[0] if start else ''!r}"
    )


def _head(path: Path) -> bytes:
    """The first kilobytes of a file, decompressed. Raises ValueError for damaged gzip data."""
    with path.open("rb") as handle:
        head = handle.read(_HEAD)
    if not head.startswith(GZIP_MAGIC):
        return head
    try:
        with gzip.open(path) as stream:
            return stream.read(_HEAD)
    except EOFError:
        raise ValueError(f"{path}: gzip data cut short. Copy or download the file again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error}). Copy or download the file again") from None


def check_source(source: SourceConfig, data: DataConfig) -> Kind:
    """Everything about a file that can be judged without reading it through; returns its kind.

    Raises ValueError or FileNotFoundError, naming the file and the remedy.
    """
    kind = detect_kind(source.path)
    if source.kind not in ("auto", kind):
        raise ValueError(f"{source.path}: data.sources[].kind says {source.kind}, the content is {kind}")
    if kind == "bam":
        check_bam(source.path, data.reads)
        return kind
    with source.path.open("rb") as handle:
        bgzf = is_bgzf(handle.read(18))
    if bgzf:
        check_bgzf_end(source.path)
    if kind == "fasta":
        name, _, start = _head(source.path).lstrip()[1:].split(b"\n>")[0].partition(b"\n")
        words = name.decode("utf-8", errors="replace").split() or [""]
        encode_record(Record(words[0], start.translate(None, SPACE)), source, data)  # a protein shows at once
    return kind


def open_source(
    source: SourceConfig, data: DataConfig, dropped: Counter[str] | None = None, advance: Advance | None = None
) -> Iterator[Record]:
    """The contigs or reads of one file that the config keeps, in file order, one in memory at a time.

    Parameters
    ----------
    source, data
        The source and the section it stands in.
    dropped
        Filled with the number of records dropped, by reason.
    advance
        Called with the bases just read and the share of the file read so far (None: unknown).

    Raises
    ------
    ValueError
        Whatever is wrong with the file, or nothing left of it, with file, record and remedy.
    """
    dropped = Counter() if dropped is None else dropped
    advance = advance or (lambda bases, share: None)
    kind = check_source(source, data)
    if kind == "bam":
        yield from read_bam(source.path, data.reads, dropped, advance)
        return
    kept = 0
    for record in (read_fasta if kind == "fasta" else read_genbank)(source.path, advance):
        if len(record.sequence) < data.min_contig:
            dropped[f"shorter than {data.min_contig} bases"] += 1
            continue
        kept += 1
        yield record
    if not kept:
        raise ValueError(
            f"{source.path}: none of its {sum(dropped.values())} records has {data.min_contig} bases or more (data.min_contig)"
        )


def encode_record(record: Record, source: SourceConfig, data: DataConfig, seed: int = 0) -> np.ndarray:
    """The tokens of a record as ``data.iupac`` and ``data.soft_mask`` say: uint8, shape (bases,), values 0 to 4.

    The random bases of ``iupac: random`` are a function of seed, source name and record name. Raises ValueError
    naming file, record and 0-based position of a letter that is no nucleotide, or a record that looks like a protein.
    """
    where = f"{source.path}: {record.kind} {record.name!r}"
    rng = None
    if data.iupac == "random":
        rng = np.random.default_rng(read_key(seed, source.label, record.name))
    protein = _looks_like_protein(record.sequence)
    try:
        tokens = alphabet.encode(record.sequence, data.iupac, data.soft_mask, rng)
    except ValueError as error:
        hint = ""
        if protein:
            hint = ". This looks like a protein; nucleotides are needed"
        elif "'-'" in str(error):
            hint = ". Remove the gaps of an alignment first"
        raise ValueError(f"{where}, {error}{hint}") from None
    if protein:
        raise ValueError(f"{where} looks like a protein: most letters are not A C G T U N; nucleotides are needed")
    return tokens


def _looks_like_protein(sequence: bytes) -> bool:
    """Whether most letters are other than A C G T U N (of the first 10,000)."""
    start = sequence[:10_000]
    return len(start.translate(None, b"ACGTUNacgtun-.*")) > 0.5 * len(start)
