"""The corpus of bad input: each file is refused with one message that says where and what to do, and leaves nothing behind.

And the corpus of odd but good input: each is read as what it is.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bad_files as files
import naive
import pysam
import pytest
import yaml
from bad_files import GENOME, bgzip, sam_line
from making import random_bases

from titans_genomics.config import Config, SourceConfig, parse_config
from titans_genomics.data.bam import open_alignments
from titans_genomics.data.dump import dump_store
from titans_genomics.data.folder import MANIFEST, SHARDS
from titans_genomics.data.inspect import inspect_store
from titans_genomics.data.shard import Shard
from titans_genomics.data.store import TokenStore, tokenize

FASTA = files.fasta()
PARTIAL = ".tokens.partial"
SMALL = {"block": 100, "validation": 0.1, "test": 0.1}
TEXT = b"Once upon a time there was a genome\n" * 40

Sources = list[dict[str, Any]] | str


def settings(sources: Sources, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": "test",
        "data": {"sources": sources, "split": SMALL, **data},
        "train": {"reverse_complement": 0},
    }


def config(sources: Sources, **data: Any) -> Config:
    return parse_config(settings(sources, data), "run.yaml")


def put(name: str, content: bytes | str) -> Path:
    """A file in the working directory."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def tree(folder: str | Path = ".") -> dict[str, bytes]:
    """Every path below a folder with its content; indexes that htslib puts beside a reference are left out."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_symlink() or not path.is_file():
            found[str(path)] = b"a folder" if path.is_dir() else b"something else"
        elif not path.name.endswith(".fa.fai") or path.name.startswith("x"):
            found[str(path)] = path.read_bytes()
    return found


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def old_store(tmp_path_factory) -> Path:
    """A store that was written before, of another file."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "old.fa").write_bytes(files.fasta({"old": random_bases(900, 77)}))
    tokenize(config([{"path": str(folder / "old.fa")}]), folder / "tokens")
    return folder / "tokens"


# ---------------------------------------------------------------------------------------------- bad


@dataclass(frozen=True)
class Case:
    """``make`` writes files into the working directory and gives the sources; ``says`` is all of the message (regex).

    ``read``: the fault shows only when the files are read, whose shards are kept for the next attempt.
    """

    says: str
    make: Callable[[], Sources]
    data: dict[str, Any] = field(default_factory=dict)
    read: bool = False


def of(content: bytes | str, name: str = "x.fa", **entry: Any) -> Callable[[], Sources]:
    """One source with this content."""
    return lambda: [{"path": str(put(name, content)), **entry}]


def beside(content: bytes | str, key: str = "regions", name: str = "x.bed") -> Callable[[], Sources]:
    """The genome, and a file of regions."""
    return lambda: [{"path": str(put("x.fa", FASTA)), key: str(put(name, content))}]


def sheet(content: bytes | str) -> Callable[[], Sources]:
    """A sample sheet beside the genome."""

    def make() -> Sources:
        put("x.fa", FASTA)
        return str(put("samples.tsv", content))

    return make


def two(*entries: dict[str, Any]) -> Callable[[], Sources]:
    """Two different genomes, a/x.fa and b/x.fa, as these entries."""

    def make() -> Sources:
        put("a/x.fa", FASTA)
        put("b/x.fa", files.fasta({"chr1": random_bases(900, 11), "chr2": random_bases(700, 12)}))
        return list(entries)

    return make


def linked(link: Callable[[str, str], None] | None) -> Callable[[], Sources]:
    def make() -> Sources:
        path = str(put("x.fa", FASTA))
        if link is not None:
            link(path, "y.fa")
        return [{"path": path}, {"path": "y.fa" if link else f"./{path}", "name": "again"}]

    return make


def cram(reference: str | None, there: bool = True, **records: str) -> Callable[[], Sources]:
    """A CRAM, and a reference of these records."""

    def make() -> Sources:
        genome = put("genome.fa", FASTA)
        put("x.cram", files.converted(files.sam(), "wc", genome))
        if reference is not None and there:
            put(reference, files.fasta(records))
        return [{"path": "x.cram"} | ({"reference": reference} if reference else {})]

    return make


def indexed(content: bytes, index: str | None = None) -> Callable[[], Sources]:
    """A genome with an index of its own, replaced by ``content``, or with another ``index``."""

    def make() -> Sources:
        path = put("x.fa", FASTA)
        pysam.faidx(str(path))
        path.write_bytes(content)
        if index is not None:
            put("x.fa.fai", index)
        return [{"path": "x.fa"}]

    return make


def named(old: bytes, new: bytes) -> Callable[[], Sources]:
    """A BAM with an index, in which one name is another."""

    def make() -> Sources:
        put("x.bam", bgzip(files.good("bam").replace(old, new)))
        pysam.index("x.bam")
        return [{"path": "x.bam"}]

    return make


def piped(name: str) -> Callable[[], Sources]:
    def make() -> Sources:
        os.mkfifo(name)
        if name == "x.fa":
            return [{"path": name}]
        return [{"path": str(put("x.fa", FASTA)), "regions": name}]

    return make


def folder(name: str) -> Callable[[], Sources]:
    def make() -> Sources:
        Path(name).mkdir()
        return [{"path": name}]

    return make


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.fa", FASTA)
    return buffer.getvalue()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


NO_READS = "no read left after the filters"
INVALID = r"run\.yaml: the config is not valid\n  data: "

BAD: dict[str, Case] = {
    # files that hold nothing, or something else
    "missing": Case(r"x\.fa: no such sequence file \(data\.sources\[\]\.path, .*", lambda: [{"path": "x.fa"}]),
    "directory": Case(r"x: is a folder; give the sequence file in it", folder("x")),
    "fifo": Case(r"x\.fa: not a regular file; pipes .*", piped("x.fa")),
    "zero bytes": Case(r"x\.fa: the file is empty", of("")),
    "one byte": Case(r"x\.fa: this is a sequence without a name\. Write a line '>NAME' .*", of("A")),
    "white space": Case(r"x\.fa: the file is empty", of(" \n\t\r\n\n")),
    "zero bytes only": Case(r"x\.fa: begins with zero bytes only.* Copy or download it again", of(bytes(5000))),
    "html": Case(r"x\.fa: this is a web page.* Download .*", of("<!DOCTYPE html><html><title>404</title></html>\n")),
    "zip": Case(r"x\.fa: this is a zip archive\. Unpack it .*", of(zipped())),
    "utf-16": Case(r"x\.fa: this is UTF-16 text\. Convert it with `iconv .*", of(FASTA.decode().encode("utf-16"))),
    "utf-16 without its mark": Case(r"x\.fa: this is UTF-16 .*iconv .*", of(FASTA.decode().encode("utf-16-le"))),
    "sam": Case(r"x\.bam: this is a SAM text file\. Convert it with `samtools view -b`", of(files.sam(), "x.bam")),
    "kind": Case(r"x\.bam: data\.sources\[\]\.kind says fasta, .* is bam", of(files.bam(), "x.bam", kind="fasta")),
    # compression
    "gzip cut short": Case(r"x\.fa\.gz: gzip data cut short\. Copy or .*", of(gzip.compress(FASTA)[:-99], "x.fa.gz")),
    "gzip cut in its last bytes": Case(r"x\.fa: gzip data cut short\. Copy or .*", of(gzip.compress(FASTA)[:-3])),
    "gzip damaged": Case(r"x\.fa: damaged gzip data .* Copy or .*", of(flipped(gzip.compress(FASTA), 200))),
    "gzip twice": Case(r"x\.fa: .*gzip twice\. Decompress it once", of(gzip.compress(gzip.compress(FASTA)))),
    "bgzip without its end": Case(r"x\.fa: cut short: .*end-of-file block .* again", of(bgzip(FASTA)[:-28])),
    "bgzip cut short": Case(r"x\.fa: gzip data cut short\. Copy or .*", of(bgzip(FASTA, 400)[:-99])),
    "bgzip damaged": Case(r"x\.fa: damaged .* Copy or .*", of(flipped(bgzip(FASTA), 300))),
    # FASTA
    "no name": Case(r"x\.fa: record 3 has no name: write one after '>'", of(FASTA + b">\nACGT\n", "x.fa")),
    "two of one name": Case(r"x\.fa: two records are named 'chr1' .* Rename one of them", of(FASTA + FASTA)),
    "old macintosh": Case(r"x\.fa: lines end in a carriage return alone .*`tr .*`", of(FASTA.replace(b"\n", b"\r"))),
    "header within a line": Case(
        r"x\.fa: contig 'a', position 4: '>' is not .* must begin a line", of(">a\nACGT>b\nACGT\n")
    ),
    "protein": Case(
        r"x\.fa: contig 'p', position 2: 'L' .* looks like a protein; nucleotides are needed",
        of(f">p\n{files.PROTEIN}\n"),
    ),
    "gaps": Case(r"x\.fa: contig 'a', position 4: '-' .* Remove the gaps .*", of(">a\n" + "ACGT--ACGT" * 20 + "\n")),
    "quote": Case(r"x\.fa: contig 'a', position 2: '\"' is not a nucleotide .*", of('>a\nAC"GT\n')),
    "control byte": Case(r"x\.fa: contig 'a', position 2: byte 0x1b is not a nucleotide .*", of(">a\nAC\x1bGT\n")),
    "index of another version": Case(
        r"x\.fa: the file was changed after its index x\.fa\.fai was made: record 'chr3' .*`samtools faidx x\.fa` .*",
        indexed(FASTA + b">chr3\nACGT\n"),
    ),
    "index that is none": Case(r"x\.fa\.fai: line 1 is not .*`samtools faidx x\.fa` .*", indexed(FASTA, "hello\n")),
    "index with odd digits": Case(
        r"x\.fa\.fai: line 1 is not .*`samtools faidx x\.fa` .*", indexed(FASTA, "chr1\t²\t6\t60\t61\n")
    ),
    "index with too many digits": Case(
        r"x\.fa\.fai: line 1 is not .*`samtools faidx x\.fa` .*", indexed(FASTA, f"chr1\t{'9' * 5000}\t6\t60\t61\n")
    ),
    # FASTQ
    "fewer qualities": Case(
        r"x\.fq: line 4 \(record 'r'\): 4 bases and 3 qualities\. .* damaged or cut short",
        of("@r\nACGT\n+\nIII\n", "x.fq"),
    ),
    "more qualities": Case(
        r"x\.fq: line 4 \(record 'r'\): 4 bases and 5 qualities\. .* damaged .*", of("@r\nACGT\n+\nIIIII\n", "x.fq")
    ),
    "fastq cut short": Case(
        r"x\.fq: line 22 \(record 'r5/1'\): .* cut short .* Copy or .*", of(files.fastq()[:-200], "x.fq")
    ),
    "fastq without +": Case(
        r"x\.fq: line 7 \(record 's'\): .* begins with '\+', this one with 'IIII'\. .* four lines .*",
        of("@r\nACGT\n+\nIIII\n@s\nACGT\nIIII\n", "x.fq"),
    ),
    "fastq of many lines": Case(
        r"x\.fq: .* over several lines\. .*`seqtk seq.*", of("@r\nACGT\nACGT\n+\nIIII\nIIII\n", "x.fq")
    ),
    # BAM and CRAM
    "bam cut short": Case(r"x\.bam: cut short: .* end-of-file block .*", of(files.bam()[:-28], "x.bam")),
    "bam cut within a block": Case(r"x\.bam: gzip data cut short\. .*", of(files.bam()[:-60], "x.bam")),
    "bam cut within a record": Case(
        r"x\.bam: damaged after 4 records \(the file ends within a record\)\. Copy or .*",
        of(bgzip(files.good("bam")[:-50]), "x.bam"),
    ),
    "bam without header": Case(
        r"x\.bam: the BAM has no header\. .*`samtools reheader`",
        of(bgzip(b"BAM\1\1\0\0\0\n\0\0\0\0" + files.good("bam")[-265:]), "x.bam"),
    ),
    "bam of reads without bases": Case(
        rf"x\.bam: {NO_READS} \(2 no sequence stored\)\. Loosen data\.reads",
        of(files.bam(*(sam_line(name, cigar="10M", bases="*") for name in "ab")), "x.bam"),
    ),
    "bam of supplementary alignments": Case(
        rf"x\.bam: {NO_READS} \(2 supplementary alignment\)\. Loosen data\.reads",
        of(files.bam(sam_line("a", 0x800, cigar="99H150M"), sam_line("b", 0x800, cigar="150M9H")), "x.bam"),
    ),
    "bam with an unknown operation": Case(  # `samtools consensus` would never come back from it
        r"x\.bam: damaged after 2 records .* Copy or .*",
        of(bgzip(files.good("bam").replace(bytes([0x60, 9, 0, 0]), bytes([0x6C, 9, 0, 0]), 1)), "x.bam"),
        {"reads": {"consensus": True}},
    ),
    "bam with an endless contig": Case(
        r"x\.bam: the header's text is damaged: contig 'chr1' of 2,147,484,548 bases\. .*`samtools reheader`.*",
        of(bgzip(files.good("bam").replace(b"chr1\0\x84\x03\0\0", b"chr1\0\x84\x03\0\x80")), "x.bam"),
        {"reads": {"consensus": True}},
    ),
    "bam with latin-1 in its header": Case(
        r"x\.bam: the header's text is damaged: .* position 21.*`samtools reheader`.*",
        of(bgzip(files.good("bam").replace(b"coordinate", b"coordin\xe9te")), "x.bam"),
        {"reads": {"consensus": True}},
    ),
    "bam with a read's name in latin-1": Case(
        r"x\.bam: damaged after 2 records \(the name of the next is not UTF-8\)\. Copy or .*",
        named(b"b\0", b"\xe9\0"),
        {"reads": {"regions": ["chr1"]}},
    ),
    "bam with a contig's name in latin-1": Case(
        r"x\.bam: the header's text is damaged: a contig's name is not UTF-8\. .*`samtools reheader`.*",
        named(b"chr2", b"chr\xe9"),
    ),
    "cram without its reference": Case(
        r"x\.cram: a CRAM holds only .* Give the FASTA of it: data\.sources\[\]\.reference", cram(None)
    ),
    "cram whose reference is missing": Case(
        r"other\.fa: no such file \(data\.sources\[\]\.reference of x\.cram\)", cram("other.fa", there=False)
    ),
    "cram with the genome of others": Case(
        r"x\.cram: other\.fa is not the genome .*: contig 'chr2' is not in it\. .*data\.sources\[\]\.reference",
        cram("other.fa", chr1=GENOME["chr1"]),
    ),
    "cram with other bases": Case(
        r"x\.cram: other\.fa is not .*: contig 'chr1' has other bases \(M5 .*data\.sources\[\]\.reference.*`samtools faidx other\.fa`.*",
        cram("other.fa", chr1=random_bases(900, 8), chr2=GENOME["chr2"]),
    ),
    # regions
    "region beyond its contig": Case(
        r"x\.bed \(regions\): line 2: chr1:0-901 .* which has 900 bases in x\.fa\. Is the file made for .*",
        beside("chr2\t0\t700\nchr1\t0\t901\n"),
        read=True,
    ),
    "region of no contig": Case(
        r"x\.bed \(exclude\): contig 'ctg7' is not in x\.fa, which has chr1, chr2\. Rename .*",
        beside("ctg7\t0\t10\n", "exclude"),
        read=True,
    ),
    "region from end to start": Case(r"x\.bed: line 2: start 20 is not below end 20 .*", beside("#\nchr1\t20\t20\n")),
    "region below 0": Case(r"x\.bed: line 1: '-4' is not a position .*", beside("chr1\t-4\t20\n")),
    "region of two columns": Case(r"x\.bed: line 1: 2 columns; BED has contig, start and end.*", beside("chr1\t0\n")),
    "region of too many digits": Case(
        r"x\.bed: line 1: no contig is 9+ bases long", beside(f"chr1\t0\t{'9' * 5000}\n")
    ),
    "endless circular contig": Case(
        r"x\.gff: line 2: no contig is 9+ bases long",
        beside(f"##gff-version 3\nchr1\tx\tregion\t1\t{'9' * 30}\t.\t+\t.\tIs_circular=true\n", name="x.gff"),
    ),
    "no regions": Case(r"x\.bed: the file holds no regions\. Fill it, or .*", beside("# nothing\n")),
    "regions that are missing": Case(
        r"gone\.bed: no such file \(data\.sources\[\]\.regions of x\.fa\)",
        lambda: [{"path": str(put("x.fa", FASTA)), "regions": "gone.bed"}],
    ),
    "regions in a fifo": Case(r"pipe: not a regular file \(data\.sources\[\]\.regions of x\.fa\)", piped("pipe")),
    "regions that leave nothing": Case(
        r"x\.fa: nothing of it is left \(1,600 bases: in the source's exclude\)\. Loosen .*",
        beside("chr1\t0\t900\nchr2\t0\t700\n", "exclude"),
        read=True,
    ),
    # what is asked of the files
    "too much N": Case(
        r"x\.fa: 63\.6% of the 1,100 bases are N, more than data\.max_n allows \(50\.0%\)\. .* or raise data\.max_n",
        of(">a\n" + "N" * 700 + "ACGT" * 100 + "\n"),
        read=True,
    ),
    "all contigs too short": Case(
        r"x\.fa: nothing of it is left \(1,600 bases: contig shorter than 1000 bases\)\. Loosen data\.min_contig.*",
        of(FASTA),
        {"min_contig": 1000},
        read=True,
    ),
    "no bases at all": Case(r"x\.fa: nothing of it is left \(0 bases: .*\)\. Loosen .*", of(">a\n>b\n"), read=True),
    "empty validation": Case(
        r"x\.fa: the split leaves validation empty: 900 bases are too few .*data\.split\.block 100 or less.*",
        of(FASTA),
        {"min_contig": 800, "split": {"block": 1600, "validation": 0.1, "test": 0.1}},
        read=True,
    ),
    "text as nucleotides": Case(
        r"x\.txt: text does not go with data\.tokenizer\.kind nucleotide: text is read as byte or bpe, .*",
        of(TEXT, "x.txt", kind="text"),
    ),
    "text that nobody calls text": Case(
        r"x\.page: neither FASTA .* it begins with 'Once .* text to learn from: data\.sources\[\]\.kind: text",
        of(TEXT, "x.page"),
        {"tokenizer": {"kind": "byte"}},
    ),
    "nucleotides as bytes": Case(
        r"x\.fa: fasta does not go with data\.tokenizer\.kind byte: .*", of(FASTA), {"tokenizer": {"kind": "byte"}}
    ),
    "text beside nucleotides": Case(
        r"x\.txt is text, x\.fa is fasta: .* Give each a config of its own",
        lambda: [{"path": str(put("x.fa", FASTA))}, {"path": str(put("x.txt", TEXT)), "kind": "text", "name": "t"}],
        {"tokenizer": {"kind": "bpe", "vocab_size": 300}},
    ),
    "md5": Case(
        r"x\.fa: the MD5 checksum is [0-9a-f]{32}, expected 0{32} \(data\.sources\[\]\.md5\)\. Copy or .*",
        of(FASTA, md5="0" * 32),
    ),
    # the list of files
    "pattern without a match": Case(
        rf"{INVALID}sources\.0\.path: no file matches \*\.fa \(relative to .*\)", lambda: [{"path": "*.fa"}]
    ),
    "the same file twice": Case(rf"{INVALID}the same file twice: \S*x\.fa\. Name it once, .*", linked(None)),
    "the same file through a link": Case(rf"{INVALID}the same file twice: y\.fa\. Name it once, .*", linked(os.symlink)),
    "two sources of one name": Case(
        rf"{INVALID}two sources share the name 'n' \(a/x\.fa, b/x\.fa\): give each a name .*data\.sources\[\]\.name\)",
        two({"path": "a/x.fa", "name": "n"}, {"path": "b/x.fa", "name": "n"}),
    ),
    "two sources of one name by default": Case(
        rf"{INVALID}two sources share the name 'x' .*", two({"path": "a/x.fa"}, {"path": "b/x.fa"})
    ),
    "a name that is not UTF-8": Case(
        r"x.*\.fa: the file's name is not UTF-8\. Rename it, or give .*\(data\.sources\[\]\.name\)",
        lambda: [{"path": str(put(os.fsdecode(b"x\xe9.fa"), FASTA))}],
    ),
    # sample sheets
    "sheet: no such sheet": Case(rf"{INVALID}none\.tsv: no such sample sheet .*", lambda: "none.tsv"),
    "sheet: no such file": Case(r"gone\.fa: no such sequence file .*", sheet("path\nx.fa\ngone.fa\n")),
    "sheet: unknown column": Case(
        rf"{INVALID}samples\.tsv: line 1: unknown column 'colour'; the columns are path, .*",
        sheet("path\tcolour\nx.fa\tred\n"),
    ),
    "sheet: control character in the header": Case(
        rf"{INVALID}samples\.tsv: line 1: a control character in 'p\\x1bth'\. Remove it", sheet("p\x1bth\tname\nx.fa\tx\n")
    ),
    "sheet: control character in a cell": Case(
        rf"{INVALID}samples\.tsv: line 3: a control character in 'a\\x1c\*'\. Remove it", sheet("path\nx.fa\na\x1c*\n")
    ),
    "sheet: wrong number of cells": Case(
        rf"{INVALID}samples\.tsv: line 3 has 1 cells, the header has 2 .*", sheet("path\tname\nx.fa\tx\nx.fa\n")
    ),
    "sheet: no rows": Case(rf"{INVALID}samples\.tsv: .* no rows below its header\. Give a sequence file per row.*", sheet("path\n")),
    "sheet: bad weight": Case(
        rf"{INVALID}samples\.tsv: line 2, column weight: 'heavy' is not .*", sheet("path\tweight\nx.fa\theavy\n")
    ),
    "sheet: no path": Case(rf"{INVALID}samples\.tsv: line 2, column path: the cell is empty.*", sheet("path,name\n,a\n")),
    "sheet: md5": Case(
        r"x\.fa: the MD5 checksum is .*, expected 1{32} .*Copy or .*", sheet(f"path\tmd5\nx.fa\t{'1' * 32}\n")
    ),
    "sheet: binary": Case(
        rf"{INVALID}samples\.tsv: not a sample sheet but an Excel workbook.* Save it as CSV", sheet(zipped())
    ),
}  # fmt: skip


def refusal(sources: Sources, data: dict[str, Any]) -> str:
    """What is said of these sources."""
    with pytest.raises((ValueError, OSError)) as caught:
        tokenize(config(sources, **data), Path("tokens"))
    return str(caught.value)


def check_kept(before: dict[str, bytes], read: bool) -> None:
    """Nothing is left in the working directory but, when it was ``read``, whole shards for the next attempt."""
    if read:
        shards = Path(PARTIAL, SHARDS)
        for facts in shards.glob("*.json"):
            Shard(shards, facts.stem)
        assert not (Path(PARTIAL) / MANIFEST).exists()
        shutil.rmtree(PARTIAL)
    assert tree() == before


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input_is_refused(case, old_store):
    sources = case.make()
    before = tree()
    said = refusal(sources, case.data)
    assert re.fullmatch(case.says, said), said
    check_kept(before, case.read)
    # an older store stays
    shutil.copytree(old_store, "tokens")
    before = tree()
    assert refusal(sources, case.data) == said
    check_kept(before, case.read)


@pytest.mark.parametrize(
    "name",
    [
        "protein",
        "gzip cut short",
        "cram with other bases",
        "region beyond its contig",
        "sheet: unknown column",
        "sheet: no such file",
    ],
)
def test_the_command_says_it_in_one_line_and_exits_with_2(name):
    case = BAD[name]
    put("run.yaml", yaml.safe_dump(settings(case.make(), case.data)))
    before = tree()
    done = command("tokenize", "--config", "run.yaml", "--out", "tokens")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = re.findall(r"^titans-genomics: error: ((?:.|\n)*)\n\Z", done.stderr, re.MULTILINE)
    assert len(errors) == 1
    assert done.stderr.count("error:") == 1
    assert re.fullmatch(case.says, errors[0])
    check_kept(before, case.read)


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "titans_genomics.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=600, **options)


def test_what_was_read_before_a_fault_is_taken_over():
    case = BAD["region beyond its contig"]
    sources = case.make()
    refusal(sources, {})
    made = Path(PARTIAL, SHARDS, "x.bases").stat()
    put("x.bed", "chr1\t0\t900\n")
    tokenize(config(sources), Path("tokens"))
    assert Path("tokens", SHARDS, "x.bases").stat().st_ino == made.st_ino
    assert {path.name for path in Path().iterdir()} == {"x.fa", "x.bed", "tokens"}


def test_an_md5_that_comes_later_is_checked_too():
    sources = of(FASTA)()
    tokenize(config(sources), Path("tokens"))
    assert "the MD5 checksum is" in refusal([sources[0] | {"md5": "0" * 32}], {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_without_permission():
    path = put("x.fa", FASTA)
    path.chmod(0)
    before = {path.name for path in Path().iterdir()}
    assert refusal([{"path": "x.fa"}], {}) == "x.fa: cannot be read (Permission denied)"
    path.chmod(0o600)
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(
        OSError, match=r"locked/tokens: the token store cannot be written there \(Permission denied\)\. .*"
    ):
        tokenize(config([{"path": "x.fa"}]), Path("locked/tokens"))
    assert {path.name for path in Path().iterdir()} == before | {"locked"}


@pytest.mark.parametrize(
    ("make", "out", "said"),
    [
        (lambda: put("tokens", "mine"), "tokens", r"tokens: holds something other than a token store \(tokens\).* Choose .*"),
        (lambda: put("tokens/a.txt", "mine"), "tokens", r"tokens: holds something other .* \(a\.txt\).* Choose .*"),
        (lambda: put("file", "mine"), "file/tokens", r"file/tokens: the token store cannot be written there .* Choose .*"),
        (lambda: None, "/proc/tokens", r"/proc/tokens: the token store cannot be written there .* Choose another folder.*"),
    ],
    ids=["a file", "a folder of other files", "below a file", "no place to write"],
)  # fmt: skip
def test_a_place_that_cannot_be_written(make, out, said):
    put("x.fa", FASTA)
    make()
    before = tree()
    with pytest.raises((ValueError, OSError), match=rf"\A\S*{said}\Z"):
        tokenize(config([{"path": "x.fa"}]), Path(out))
    assert tree() == before


def test_alignments_open_at_the_same_time_leave_the_process_as_it_was(monkeypatch):
    monkeypatch.delenv("REF_PATH", raising=False)
    source = SourceConfig(path=put("x.bam", files.bam()))
    first, second = ExitStack(), ExitStack()
    first.enter_context(open_alignments(source))
    second.enter_context(open_alignments(source))
    first.close()
    assert os.environ["REF_PATH"] == os.devnull, "the second still reads"
    second.close()
    assert "REF_PATH" not in os.environ


def test_flat_files_read_at_the_same_time_are_all_judged():
    """Biopython only warns of missing bases, and what becomes of a warning is one setting for all threads."""
    content = files.good("genbank").replace(b"300 bp", b"310 bp", 1)

    def said(number: int) -> str:
        path = put(f"{number}.gb", content)
        with pytest.raises(ValueError, match="Expected sequence length") as caught:
            files.read(path, "genbank")
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(said, range(200)))) == 200


# ------------------------------------------------------------------------------------------- stores


def broken(how: str) -> str:
    """Break the store in the working directory; what is said of it."""
    manifest, bases = Path("tokens", MANIFEST), Path("tokens", SHARDS, "old.bases")
    if how == "shard cut short":
        bases.write_bytes(bases.read_bytes()[:-1])
        return (
            r"\S*old\.bases: 899 bytes, 900 were written: cut short or changed\. Run `titans-genomics tokenize` again"
        )
    if how == "shard missing":
        bases.unlink()
        return r"\S*old\.bases: 0 bytes, 900 were written: cut short or changed\. Run .*"
    if how == "facts damaged":
        bases.with_suffix(".json").write_text("{")
        return r"\S*old\.json: missing or damaged\. Run `titans-genomics tokenize` again"
    if how == "manifest is no JSON":
        manifest.write_text("{")
        return r"\S*manifest\.json: damaged\. Run `titans-genomics tokenize` again"
    if how == "manifest of another kind":
        manifest.write_text('["a list"]\n')
        return r"\S*manifest\.json: damaged\. Run `titans-genomics tokenize` again"
    assert how == "another version"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    return r"tokens: token store of format 99, this version reads [0-9]+\. Run `titans-genomics tokenize` again"


BROKEN = (
    "shard cut short",
    "shard missing",
    "facts damaged",
    "manifest is no JSON",
    "manifest of another kind",
    "another version",
)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_store_says_so(how, old_store):
    shutil.copytree(old_store, "tokens")
    said = broken(how)
    for use in (
        lambda store: next(iter(TokenStore(store).runs("train"))).read(0, 10),
        inspect_store,
        lambda store: dump_store(store, io.BytesIO()),
    ):
        with pytest.raises(ValueError, match=rf"\A{said}\Z"):
            use(Path("tokens"))


def test_train_says_so_too(old_store):
    shutil.copytree(old_store, "tokens")
    said = broken("shard cut short")
    put("old.fa", FASTA)
    put("run.yaml", yaml.safe_dump(settings([{"path": "old.fa"}], {}) | {"train": {"context": 16}}))
    done = command("train", "--config", "run.yaml", "--store", "tokens", "--out", "model")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(rf"^titans-genomics: error: {said}\n\Z", done.stderr, re.MULTILINE), done.stderr


def test_a_broken_store_is_written_again(old_store):
    """What remains of it is not believed."""
    for how in BROKEN:
        shutil.copytree(old_store, "tokens")
        broken(how)
        put("old.fa", files.fasta({"old": random_bases(900, 77)}))
        tokenize(config([{"path": "old.fa"}]), Path("tokens"))
        assert stored("old") == {"old": random_bases(900, 77)}
        shutil.rmtree("tokens")


# --------------------------------------------------------------------------------------------- good


def stored(source: str | None = None) -> dict[str, str]:
    """The records of the store in the working directory, in upper case."""
    out = io.BytesIO()
    dump_store(Path("tokens"), out, source)
    found = naive.fasta(out.getvalue())
    assert found is not None
    return {name: "".join("ACGTN"[code] for code in codes) for name, codes in found.items()}


def mixed(content: bytes) -> bytes:
    """Every other line ends as on Windows."""
    return b"".join(line + (b"\r\n" if i % 2 else b"\n") for i, line in enumerate(content.split(b"\n")))


def uneven(records: dict[str, str]) -> bytes:
    """Lines of 1, 2, 3, ... bases."""
    text = ""
    for name, sequence in records.items():
        text, at, width = text + f">{name}\n", 0, 1
        while at < len(sequence):
            text, at, width = text + sequence[at : at + width] + "\n", at + width, width % 70 + 1
    return text.encode()


GOOD = {
    "mixed line ends": mixed(FASTA),
    "lines of differing length": uneven(GENOME),
    "one line": files.fasta().replace(b"\n", b"").replace(b" a description", b"\n").replace(b">chr2", b"\n>chr2"),
    "blank lines": FASTA.replace(b"\n", b"\n\n").replace(b"\n\n>", b"\n \r\n\t\n>") + b"\n\n \n",
    "tabs and spaces within lines": re.sub(rb"(?m)^([ACGT]{10})([ACGT]{10})", rb"\t\1 \t\2 ", FASTA),
    "byte order mark": files.BOM + FASTA,
    "byte order mark and blank lines": files.BOM + b"\r\n\n" + FASTA,
    "no last line end": FASTA.rstrip(),
    "lower case and uracil": FASTA.split(b"\n")[0] + b"\n" + FASTA.split(b"\n", 1)[1].replace(b"T", b"u"),
    "gzip": gzip.compress(FASTA),
    "gzip in two members": gzip.compress(FASTA[:700]) + gzip.compress(FASTA[700:]),
    "bgzip": bgzip(FASTA, 100),
    "bgzip after bgzip": bgzip(FASTA[:700]) + bgzip(FASTA[700:]),
    "a lonely > in a header": FASTA.replace(b" a description", b" > 5' end"),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_odd_but_good_fasta(content):
    tokenize(config(of(content)()), Path("tokens"))
    assert stored() == GENOME


@pytest.mark.parametrize(
    "content",
    [
        files.fastq(),
        files.BOM + files.fastq(),
        mixed(files.fastq()),
        files.fastq() + b"\n \r\n\n",
        files.fastq().rstrip(),
        bgzip(files.fastq(), 99),
    ],
    ids=["plain", "byte order mark", "mixed line ends", "blank lines at the end", "no last line end", "bgzip"],
)
def test_odd_but_good_fastq(content):
    tokenize(config(of(content, "x.fq")()), Path("tokens"))
    assert list(stored().values()) == [random_bases(150, i) for i in range(6)]


@pytest.mark.parametrize("mark", [b"", files.BOM], ids=["plain", "byte order mark"])
def test_regions_named_by_the_other_convention(mark):
    tokenize(config(beside(mark + b"1\t0\t900\n2\t0\t200\n")()), Path("tokens"))
    (source,) = TokenStore("tokens").manifest["sources"]
    assert source["left_out"] == {"outside the source's regions": {"bases": 500}}


def test_files_with_the_same_record_names_are_kept_apart():
    tokenize(config(two({"path": "a/x.fa", "name": "a"}, {"path": "b/x.fa", "name": "b"})()), Path("tokens"))
    assert stored("a") == GENOME
    assert stored("b") == {"chr1": random_bases(900, 11), "chr2": random_bases(700, 12)}


def test_a_pattern_names_files_of_one_stem_by_their_folders():
    two()()
    tokenize(config([{"path": "*/x.fa"}]), Path("tokens"))
    assert stored("a_x") == GENOME


NAMES = {
    "spaces": " a  b .fa",
    "quotes": 'it\'s "x".fa',
    "newline": "a\nb.fa",
    "unicode": "ünï 名.fa",
    "a leading dash": "-rf.fa",
    "an option": "--help.fa",
    "hidden": ".hidden.fa",
    "an ending only": ".fa",
    "no ending": "genome",
    "shell": "$(touch pwned); touch pwned & `touch pwned` | x > pwned.fa",
    "percent": "100%s.fa",
    "backslash": "a\\nb.fa",
    "braces": "x{1}{sample}.fa",
    "a pattern": "[a-c]*?.fa",
    "long": "y" * 252,
    "long in another script": "名" * 80 + ".fa",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_file_names_of_all_kinds(name):
    put(name, FASTA)
    tokenize(config([{"path": name}]), Path("tokens"))
    (label,) = TokenStore("tokens").sources
    assert label
    assert stored(label) == GENOME
    assert inspect_store(Path("tokens"))["sources"][0]["path"] == name
    assert {path.name for path in Path().iterdir()} == {name, "tokens"}


@pytest.mark.parametrize(
    "name", [NAMES["shell"], NAMES["newline"], NAMES["hidden"]], ids=["shell", "newline", "hidden"]
)
def test_bam_with_such_names(name):
    put(name, files.bam())
    pysam.index(name, f"{name}.bai")
    tokenize(config([{"path": name}], reads={"regions": ["chr1"]}, split={"validation": 0, "test": 0}), Path("tokens"))
    assert len(stored()) == 3
    assert {path.name for path in Path().iterdir()} == {name, f"{name}.bai", "tokens"}


@pytest.mark.slow
def test_no_trouble_with_the_shell_of_the_workflow():
    name = "a b; touch pwned; $(touch pwned) 'x' \"y\".fa"
    put(name, FASTA)
    done = workflow([{"path": name, "name": "x"}], results="my results; touch pwned")
    assert done.returncode == 0, done.stderr
    assert not list(Path().rglob("pwned*"))
    shutil.copytree("my results; touch pwned/test/tokens", "tokens")
    assert stored("x") == GENOME


@pytest.mark.slow
def test_braces_which_the_workflow_cannot_have():
    done = workflow([{"path": str(put("{z}.fa", FASTA)), "name": "x"}])
    assert done.returncode == 1
    assert re.search(r"^data\.sources\.0\.path: \{z\}\.fa: .* braces .* Rename it, .*$", done.stderr, re.MULTILINE)
    assert not Path("results").exists()


def workflow(sources: Sources, results: str = "results") -> subprocess.CompletedProcess[str]:
    """The workflow up to the store of these sources."""
    put("run.yaml", yaml.safe_dump(settings(sources, {}) | {"results": results}))
    snakefile = Path(__file__).parents[2] / "Snakefile"
    line = [Path(sys.executable).parent / "snakemake", "--snakefile", snakefile, "--configfile", "run.yaml"]
    line += ["--cores", "1", f"{results}/test/tokens.done"]
    environment = {key: value for key, value in os.environ.items() if key != "SNAKEMAKE_PROFILE"}
    return subprocess.run([*map(str, line)], env=environment, capture_output=True, text=True, check=False, timeout=300)
