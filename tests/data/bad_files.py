"""Tiny good files of every format as bytes, what goes wrong with files, and what a reader may answer to it.

Nothing here lies in the repository as a file: all of it is made by code that can be read.
"""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pysam
from making import random_bases

from titans_genomics.config import DataConfig
from titans_genomics.data.batch import Batch
from titans_genomics.data.bgzf import BGZF_END
from titans_genomics.data.readers import check_source, open_source
from titans_genomics.data.regions import fit_regions, read_regions
from titans_genomics.sheet import expand_sources

GENOME = {"chr1": random_bases(900, 1), "chr2": random_bases(700, 2)}
PROTEIN = "MKLVWEQRPFFYHILKDESTMKLVWEQRPFFYHILKDEST"
BOM = b"\xef\xbb\xbf"

SAM_HEADER = "@HD\tVN:1.6\tSO:coordinate\n@SQ\tSN:chr1\tLN:900\n@SQ\tSN:chr2\tLN:700\n"


# -------------------------------------------------------------------------------------------- good files


def lines(sequence: str, width: int = 60) -> str:
    return "\n".join(sequence[i : i + width] for i in range(0, len(sequence), width))


def fasta(records: dict[str, str] = GENOME) -> bytes:
    return "".join(f">{name} a description\n{lines(sequence)}\n" for name, sequence in records.items()).encode()


def fastq(count: int = 6, length: int = 150) -> bytes:
    reads = (f"@r{i}/1 x\n{random_bases(length, i)}\n+\n{'I' * length}\n" for i in range(count))
    return "".join(reads).encode()


def sam_line(
    name: str,
    flag: int = 0,
    contig: str = "chr1",
    start: int = 0,
    cigar: str | None = None,
    bases: str | None = None,
    mapq: int = 60,
    tags: str = "",
) -> str:
    """One alignment; ``start`` is 0-based, the bases are by default those of the genome there."""
    if bases is None:
        bases = GENOME.get(contig, random_bases(900))[start : start + 150]
    cigar = cigar or (f"{len(bases)}M" if contig != "*" else "*")
    quality = "*" if bases == "*" else "I" * len(bases)
    place = start + 1 if contig != "*" else 0
    return f"{name}\t{flag}\t{contig}\t{place}\t{mapq}\t{cigar}\t*\t0\t0\t{bases}\t{quality}{tags}\n"


def sam(*alignments: str, header: str = SAM_HEADER) -> bytes:
    if not alignments:
        alignments = (
            sam_line("a", 0x41, start=10, cigar="10S130M10S"),
            sam_line("a", 0x91, start=200, cigar="70M5I70M3D5M", tags="\tNM:i:3\tXZ:Z:text\tXB:B:S,1,2\tXA:A:c"),
            sam_line("b", 16, start=300),
            sam_line("c", 0, "chr2", 20, "2H150M"),
            sam_line("d", 4, "*", cigar="*", bases=random_bases(151, 5)),
        )
    return (header + "".join(alignments)).encode()


def converted(content: bytes, mode: str, reference: Path | None = None) -> bytes:
    """SAM text as BAM (``wb``) or CRAM (``wc``)."""
    with tempfile.TemporaryDirectory() as folder:
        text, binary = Path(folder, "x.sam"), Path(folder, "x")
        text.write_bytes(content)
        given = None if reference is None else str(reference)
        with (
            pysam.AlignmentFile(str(text), check_sq=False) as records,
            pysam.AlignmentFile(str(binary), mode, template=records, reference_filename=given) as out,
        ):
            for record in records:
                out.write(record)
        return binary.read_bytes()


def bam(*alignments: str, header: str = SAM_HEADER) -> bytes:
    return converted(sam(*alignments, header=header), "wb")


def bgzip(content: bytes, size: int = 0xFF00) -> bytes:
    """BGZF (SAM specification, 4.1), ``size`` bytes to a block."""
    blocks = []
    for i in range(0, len(content), size):
        part = content[i : i + size]
        squeeze = zlib.compressobj(wbits=-15)
        packed = squeeze.compress(part) + squeeze.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(packed) + 25)
        blocks.append(head + packed + struct.pack("<II", zlib.crc32(part), len(part)))
    return b"".join(blocks) + BGZF_END


def twobit(
    records: dict[str, str] = GENOME, unknown: tuple[int, int] = (30, 7), masked: tuple[int, int] = (50, 100)
) -> bytes:
    """2bit of version 0, little endian; each sequence has one stretch of N and one of lower case (start, length)."""
    at = 16 + sum(5 + len(name) for name in records)
    index, body = b"", b""
    for name, sequence in records.items():
        index += bytes([len(name)]) + name.encode() + struct.pack("<I", at + len(body))
        body += struct.pack("<8I", len(sequence), 1, *unknown, 1, *masked, 0)
        bits = ["TCAG".index(base) for base in sequence] + [0] * (-len(sequence) % 4)
        body += bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(bits)] * 4, strict=True))
    return struct.pack("<4I", 0x1A412743, 0, len(records), 0) + index + body


def flat(kind: str) -> bytes:
    """GenBank or EMBL with two records."""
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    records = [
        SeqRecord(Seq(sequence[:300]), id=f"{name.upper()}.1", name=name.upper(), annotations={"molecule_type": "DNA"})
        for name, sequence in GENOME.items()
    ]
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SeqIO.write(records, text, kind)
    return text.getvalue().encode()


BED = b"track name=x\nchr1\t0\t300\tone\t0\t+\n# a remark\nchr1\t400\t500\nchr2\t20\t600\n"
GFF = (
    b"##gff-version 3\nchr1\tx\tregion\t1\t900\t.\t+\t.\tID=c;Is_circular=true\n"
    b"chr1\tx\tgene\t800\t950\t.\t+\t.\tID=g\nchr2\tx\tCDS\t5\t100\t.\t-\t0\tID=h\n"
)
SHEET = b'path\tname\tspecies\tweight\n# a remark\na.fa\tone\tE. coli\t2\n"b c.fa"\t\t\t\n'


@cache
def good(kind: str) -> bytes:
    """A whole good file of a format; ``bam`` and ``fasta.bgz`` before they are compressed (see `packed`)."""
    if kind == "bam":
        return gzip.decompress(bam())
    if kind in ("genbank", "embl"):
        return flat(kind)
    made: dict[str, Callable[[], bytes]] = {
        "fasta": fasta,
        "fastq": fastq,
        "2bit": twobit,
        "bed": lambda: BED,
        "gff": lambda: GFF,
        "sheet": lambda: SHEET,
        "text": lambda: b"Once upon a time\n<|endoftext|>\nthere was\n",
        "gzip": lambda: gzip.compress(fasta()),
        "bgzf": lambda: bgzip(fasta(), 500),
    }
    return made[kind]()


def packed(kind: str, content: bytes, size: int = 0xFF00) -> bytes:
    """What of a format lies on disk: BAM is compressed, ``size`` bytes to a block; the others are what they are."""
    return bgzip(content, size) if kind == "bam" else content


# --------------------------------------------------------------------------------------- reading them


def read(path: Path, kind: str) -> dict[str, np.ndarray]:
    """Read a file of one of the formats of `good` as a run would: the checks that come first, then everything.

    Returns the codes of every record, by its number and name; nothing for regions and sheets.
    """
    if kind == "sheet":
        expand_sources(str(path), path.parent / "downloads")
        return {}
    if kind in ("bed", "gff"):
        fit_regions(read_regions(path), {"chr1": 900, "chr2": 700}, path, path, "regions")
        return {}
    data: dict[str, Any] = {"reads": {"min_length": 1}}
    if kind == "text":
        data["tokenizer"] = {"kind": "byte"}
    if kind == "bam":  # so that all of a record is looked at
        data["reads"] |= {"clip": True, "min_base_quality": 5, "secondary": True, "supplementary": True}
    return read_source({"path": path, "kind": "text" if kind == "text" else "auto", "name": "x"}, **data)


def read_source(entry: dict[str, Any], **data: Any) -> dict[str, np.ndarray]:
    """The codes of every record of one source, by its number and name."""
    settings = DataConfig.model_validate({"sources": [entry], **data})
    (source,) = settings.sources
    check_source(source, settings)
    return gathered(open_source(source, settings, seed=1))


def gathered(batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """The codes of every record, by its number and name; checks that the batches are what `Batch` says."""
    names: list[str] = []
    pieces: list[list[np.ndarray]] = []
    for batch in batches:
        assert len(batch.names) == len(batch.starts)
        edges = [0, *batch.starts.tolist(), len(batch.codes)]
        assert edges == sorted(edges)
        assert pieces or edges[1] == 0, "bases before the first record"
        borders = batch.soft.reshape(-1)
        assert (np.diff(borders) >= 0).all()
        assert not len(borders) or (borders[0] >= 0 and borders[-1] <= len(batch.codes))
        for i in range(len(edges) - 1):
            if i:
                names.append(batch.names[i - 1])
                pieces.append([])
            if pieces:
                pieces[-1].append(batch.codes[edges[i] : edges[i + 1]])
    return {f"{i}:{name}": np.concatenate(own) for i, (name, own) in enumerate(zip(names, pieces, strict=True))}


def refusal(path: Path, kind: str) -> str | None:
    """Why a file is refused, None when it is read; anything but one line that begins with the file's name fails."""
    said = None
    try:
        read(path, kind)
    except (ValueError, OSError) as error:
        said = f"{error}"
    assert said is None or (said.startswith(str(path)) and len(said.splitlines()) == 1), said
    return said
