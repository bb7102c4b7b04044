"""What a sequence file is, by its content and never by its name, and what to do with one of another format."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Literal

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.bgzf import GZIP_MAGIC, is_gzip
from titans_genomics.data.text import SEPARATOR
from titans_genomics.data.utf8 import BOM

Kind = Literal["fasta", "fastq", "genbank", "embl", "2bit", "bam", "cram", "text", "jsonl", "parquet", "hub"]

HEAD = 1 << 16
"""Bytes of a file, decompressed, that are looked at before it is read."""

_TWOBIT = (b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43")  # little and big endian
_NEEDED = "a FASTA, FASTQ, GenBank, EMBL, 2bit, BAM or CRAM file is needed"
_GENOME = "give the genome's FASTA instead"
_DECOMPRESS = "Decompress it, or use gzip or bgzip"
_UNPACK = "Unpack it and give the sequence file in it"
_OFFICE = "Save the sequences as plain text in FASTA format"
_UTF16 = "this is UTF-16 text. Convert it with `iconv -f UTF-16 -t UTF-8`"
_LEARN = ". If it is text to learn from: data.sources[].kind: text"
_LINES_OF_JSON = (
    "; if it is JSON Lines: data.sources[].kind: jsonl; an array of objects becomes such lines with `jq -c '.[]'`"
)
_SIGNALS = "raw signals of a sequencer; basecall them, and give the FASTQ or BAM"

# What files that are no text begin with.
_BINARY = (
    (b"\xfd7zXZ\0", f"compressed with xz. {_DECOMPRESS}"),
    (b"\x28\xb5\x2f\xfd", f"compressed with zstd. {_DECOMPRESS}"),
    *((b"BZh%d1AY&SY" % level, f"compressed with bzip2. {_DECOMPRESS}") for level in range(1, 10)),
    (b"\x04\x22\x4d\x18", f"compressed with lz4. {_DECOMPRESS}"),
    (b"\x1f\x9d", f"compressed with compress (.Z). {_DECOMPRESS}"),
    (GZIP_MAGIC, "compressed with gzip twice. Decompress it once"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive. {_UNPACK}"),
    (b"Rar!\x1a", f"a rar archive. {_UNPACK}"),
    (b"PK\x05\x06", "a zip archive with nothing in it"),
    (b"\xd0\xcf\x11\xe0", f"an old Word or Excel file. {_OFFICE}"),
    (b"{\\rtf", f"a rich text file. {_OFFICE}"),
    (b"%PDF", f"a PDF document. {_OFFICE}"),
    (b"\t\0\0\0\x0eSnapGene", "a SnapGene file. Export it as GenBank or FASTA"),
    (b"ABIF", "a Sanger trace (ABI). Convert it to FASTQ, for example with `seqret` of EMBOSS"),
    (b"NCBI.sra", "an SRA archive. Get its reads with `fasterq-dump`"),
    (b"\x8bPOD", f"a POD5 file: {_SIGNALS}"),
    (b"\x89HDF\r\n", f"an HDF5 file. If it is FAST5, it holds {_SIGNALS}"),
    (b"BCF\x02", f"a BCF file of variants; {_GENOME}"),
    (b"BAI\x01", "the index of a BAM file; give the BAM file itself"),
    (b"CSI\x01", "an index; give the file that it belongs to"),
    (b"TBI\x01", "an index; give the file that it belongs to"),
    (b"\x26\xfc\x8f\x88", f"a bigWig file of values along a genome; {_GENOME}"),
    (b"\x88\x8f\xfc\x26", f"a bigWig file of values along a genome; {_GENOME}"),
    (b"\xeb\xf2\x89\x87", f"a bigBed file of intervals; {_GENOME}"),
    (b"\x87\x89\xf2\xeb", f"a bigBed file of intervals; {_GENOME}"),
    (b"\x93NUMPY", f"a NumPy array; {_NEEDED}"),
    (b"SQLite format 3\0", f"an SQLite database; {_NEEDED}"),
    *((bytes([0x80, protocol]), f"a Python pickle; {_NEEDED}") for protocol in range(2, 6)),
)

_READ_TEXT = ("byte", "bpe")  # kinds of tokenizers
_PARQUET = b"PAR1"
_LINES = re.compile(r"\.(jsonl|ndjson|jsonlines)(\.gz)?$", re.IGNORECASE)
_PLAIN = re.compile(r"\.(txt|text|md)(\.gz)?$", re.IGNORECASE)

# What text files of other formats begin with, byte order mark and white space aside.
_TEXT = (
    (rb"(?i)<(!doctype html|html|head|body)", "a web page (HTML), perhaps an error page in place of the file. Download the file again"),
    (rb"<", f"an XML file, perhaps the error of a server in place of the file; {_NEEDED}"),
    (rb"\{\s*[\"}]|\[\s*[\[{\"\d\]-]", f"a JSON file, perhaps the answer of a server in place of the file; {_NEEDED}"),
    (rb"version https://git-lfs", "a Git LFS pointer in place of the file. Fetch the file with `git lfs pull`"),
    (rb"@(HD|SQ|RG|PG|CO)\t", "a SAM text file. Convert it with `samtools view -b`"),
    (rb"##fileformat=VCF|#CHROM\t", f"a VCF file of variants; {_GENOME}"),
    (rb"##gff|##gtf|#gff|#gtf|#!genome-build", f"a GFF or GTF annotation; {_GENOME}"),
    (rb"##maf|CLUSTAL|MUSCLE|# STOCKHOLM|#NEXUS", "a multiple alignment; give the sequences without gaps, as FASTA"),
    (rb"H\tVN:Z:|S\t[^\t\n]+\t([ACGTNacgtn]+|\*)\s", "an assembly graph (GFA). Get its contigs with `gfatools gfa2fa`"),
    (rb"track |browser |(fixed|variable)Step ", f"a genome browser track; {_GENOME}"),
    (rb"(Seq-entry|Bioseq-set|Seq-submit) ::=", "an ASN.1 file of NCBI. Download the record as GenBank or FASTA"),
    (rb"ID   .*\bAA\.?\s*$", "a flat file of proteins (such as UniProt); nucleotide records are needed"),
    (rb"ID   .*;\s*PRT;", "a flat file of proteins; nucleotide records are needed"),
    (rb";", "an old FASTA file that begins with a comment. Remove the lines that begin with ';'"),
    (rb"@[^\n]*\n[A-Za-z.*-]+\r?\n[A-Za-z.*-]+\r?$", "a FASTQ file whose reads run over several lines. Put each on one line with `seqtk seq -l 0`"),
    (rb"\S+\t\d+\t\S+\t\d+\t\d+\t\S+\t\S+\t\d+\t-?\d+\t\S+\t", "SAM text without a header. Convert it with `samtools view -b -T REFERENCE.fa`"),
    (rb"\S+\t\S+\t\S+\t\d+\t\d+\t\S+\t[-+.?]\t", f"a GFF or GTF annotation; {_GENOME}"),
    (rb"\S+\t\d+\t\d+\t\d+\t[-+]\t", f"alignments in PAF; {_GENOME}"),
    (rb"\S+\t\d+\t\d+\t\d+\t\d+(\t\d+)?\r?$", "the index of a FASTA or FASTQ file (.fai); give the file itself"),
    (rb"\S+\t\d+\t\d+\s", f"a table of intervals (BED), which data.sources[].regions and exclude can name; {_GENOME}"),
    (rb"[ACGTUNacgtun\s]+\Z", "a sequence without a name. Write a line '>NAME' in front of it"),
)  # fmt: skip


class UnknownError(ValueError):
    """Text of none of the formats that are known."""


def detect_kind(path: Path, head: bytes | None = None, tokenizer: str = "nucleotide") -> Kind:
    """The format of a file by its first bytes (those inside gzip when compressed).

    Lines of JSON are also known by their name, as the answers of servers look like them. Text, which anything may be, is
    found only for a ``tokenizer`` (``data.tokenizer.kind``) that reads it: in a file that begins with a line
    ``<|endoftext|>``, and with byte, which reads nothing else, in one that is named as text (.txt, .text, .md).

    ``head``: these bytes (`read_head`), if they were read already.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A folder, an empty file, or none of the formats that can be read; the message says what it looks like.
    """
    head = read_head(path) if head is None else head
    if head.startswith(b"BAM\x01"):
        return "bam"
    if head.startswith((b"CRAM", *_TWOBIT)):
        if is_gzip(path):
            raise ValueError(f"{path}: compressed with gzip, which CRAM and 2bit files may not be. Decompress it")
        return "cram" if head.startswith(b"CRAM") else "2bit"
    if head.startswith(_PARQUET):
        if is_gzip(path):
            raise ValueError(f"{path}: compressed with gzip, which Parquet files may not be. Decompress it")
        return "parquet"
    _refuse_binary(path, head)
    if _is_utf16(head):
        raise ValueError(f"{path}: {_UTF16}")
    text = head.removeprefix(BOM).lstrip()
    reads_text = tokenizer in _READ_TEXT
    if not _is_binary(head) and (
        (reads_text and text.startswith(SEPARATOR)) or (tokenizer == "byte" and _PLAIN.search(path.name))
    ):
        return "text"
    if text.startswith(b">"):
        return "fasta"
    if text.startswith(b"{"):
        if re.match(rb'\{\s*"hub_dataset"', text):
            return "hub"
        if _LINES.search(path.name):
            return "jsonl"
    if re.match(rb"LOCUS\s", text) or re.search(rb"Genetic Sequence Data Bank[^>]*\nLOCUS\s", text):
        return "genbank"
    if re.match(rb"(?i)ID   .*\bBP\.?\s*$", text, re.MULTILINE):
        return "embl"
    if _is_binary(head):
        raise ValueError(f"{path}: a binary file; {_NEEDED}")
    for pattern, what in _TEXT:
        if re.match(pattern, text, re.MULTILINE):
            lines = _LINES_OF_JSON if text.startswith((b"{", b"[")) else ""
            raise ValueError(f"{path}: this is {what}{_LEARN + lines if reads_text else ''}")
    if _is_fastq(text):
        return "fastq"
    start = text[:20].decode("utf-8", errors="replace").splitlines()
    raise UnknownError(
        f"{path}: neither FASTA (begins with '>'), FASTQ ('@'), GenBank (LOCUS), EMBL (ID), 2bit, BAM, CRAM nor Parquet; it begins with {start[0] if start else ''!r}{_LEARN}"
    )


def source_kind(source: SourceConfig, head: bytes | None = None, data: DataConfig | None = None) -> Kind:
    """The format of a source: what its content is, which ``kind`` must not contradict.

    Text only when ``kind`` says so, or when the tokenizer of ``data`` can read text, the name ends as that of a text file
    and the content is of no other format.

    ``head`` as in `detect_kind`. Raises FileNotFoundError and ValueError as that, and ValueError for a contradiction.
    """
    if source.kind in ("text", "jsonl"):
        head = read_head(source.path) if head is None else head
        if head.startswith(_PARQUET):
            raise ValueError(f"{source.path}: data.sources[].kind says {source.kind}, the content is parquet")
        _refuse_binary(source.path, head)
        if (source.kind == "jsonl" or (data and data.text.encoding != "keep")) and _is_utf16(head):
            raise ValueError(f"{source.path}: {_UTF16}")
        return source.kind
    tokenizer = data.tokenizer.kind if data is not None and source.kind == "auto" else "nucleotide"
    try:
        kind = detect_kind(source.path, head, tokenizer)
    except UnknownError:
        if tokenizer not in _READ_TEXT or not _PLAIN.search(source.path.name):
            raise
        return "text"
    if source.kind not in ("auto", kind):
        raise ValueError(f"{source.path}: data.sources[].kind says {source.kind}, the content is {kind}")
    return kind


def or_text(error: ValueError, source: SourceConfig, data: DataConfig) -> ValueError:
    """The same error of a file that was taken for sequences, which says what to do if it is text."""
    readable = source.kind == "auto" and data.tokenizer.kind in _READ_TEXT
    return ValueError(f"{error}{_LEARN}") if readable else error


def read_head(path: Path) -> bytes:
    """The first kilobytes of a file, decompressed; never only white space.

    Raises FileNotFoundError for no such file, ValueError for a folder, a pipe, an empty file, damaged gzip data.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder; give the sequence file in it")
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such sequence file (data.sources[].path, relative to the working directory)"
            )
        if not path.is_file():
            raise ValueError(f"{path}: not a regular file; pipes and devices cannot be read twice")
        with path.open("rb") as handle:
            head = handle.read(HEAD)
        if not head.strip():
            raise ValueError(f"{path}: the file is empty")
        if head.startswith(GZIP_MAGIC):
            with gzip.open(path) as stream:
                head = stream.read(HEAD)
            if not head.strip():
                raise ValueError(f"{path}: the file is empty inside its compression")
    except EOFError:
        raise ValueError(f"{path}: gzip data cut short. Copy or download the file again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error}). Copy or download the file again") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    return head


def _refuse_binary(path: Path, head: bytes) -> None:
    """Raise ValueError for formats that are neither sequences nor text."""
    if head.startswith(b"PK\x03\x04"):
        office = b"[Content_Types].xml" in head or b"mimetype" in head[:64]
        what = f"an Excel, Word or OpenDocument file. {_OFFICE}" if office else f"a zip archive. {_UNPACK}"
        raise ValueError(f"{path}: this is {what}")
    for magic, what in _BINARY:
        if head.startswith(magic):
            raise ValueError(f"{path}: this is {what}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path}: this is a tar archive. {_UNPACK}")
    if not head.strip(b"\0"):
        raise ValueError(f"{path}: begins with zero bytes only, as after a copy that failed. Copy or download it again")


def _is_utf16(head: bytes) -> bool:
    """Whether text begins with its mark, or has a zero beside every letter."""
    start = head[:64]
    halves = start[::2], start[1::2]
    wide = any(not zeros.strip(b"\0") and b"\0" not in letters for zeros, letters in (halves, halves[::-1]))
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or (
        len(start) > 3 and wide and start.replace(b"\0", b"").isascii()
    )


def _is_binary(head: bytes) -> bool:
    start = head[:512]
    return b"\0" in head or sum(byte < 9 or 13 < byte < 32 for byte in start) > 0.05 * len(start)


def _is_fastq(text: bytes) -> bool:
    """Whether a record begins with '@', and with '+' its third line, if the second ends within ``text``."""
    lines = text.split(b"\n", 3)
    if not text.startswith(b"@") or len(lines) < 2:
        return False
    if len(lines) == 2 or (len(lines) == 3 and not lines[2]):
        return re.fullmatch(rb"[A-Za-z.*-]*\r?", lines[1]) is not None
    return lines[2].startswith(b"+")
