"""The one door to all formats; what is particular to each stands with its reader."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest
from making import config_for, make_bam, random_bases, spell, write_fasta

from titans_genomics.data.readers import READERS, check_source, open_source, read_records, what
from titans_genomics.data.writer import tokenize

BASES = random_bases(300)


def flat_file(path: Path, kind: str) -> Path:
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    SeqIO.write([SeqRecord(Seq(BASES), id="X.1", name="X", annotations={"molecule_type": "DNA"})], path, kind)
    return path


def write(path: Path, kind: str) -> Path:
    """A file of 300 bases in one of the formats."""
    if kind == "fasta":
        return write_fasta(path, {"chr1": BASES})
    if kind == "bam":
        return make_bam(path, [{"seq": BASES}])
    if kind == "fastq":
        path.write_text(f"@r\n{BASES}\n+\n{'I' * len(BASES)}\n")
        return path
    if kind == "text":
        path.write_text(BASES)
        return path
    return flat_file(path, kind)


@pytest.mark.parametrize("kind", ["fasta", "fastq", "genbank", "embl", "bam", "text"])
def test_the_content_decides_the_reader_not_the_name(tmp_path, kind):
    source = {"path": str(write(tmp_path / "odd.xlsx", kind)), "kind": "text" if kind == "text" else "auto"}
    config = config_for(source, tokenizer={"kind": "byte" if kind == "text" else "nucleotide"})
    (entry,) = config.data.sources
    assert check_source(entry, config.data) == kind
    shares: list[float | None] = []
    batches = list(open_source(entry, config.data, 1, Counter(), shares.append))
    assert sum(len(batch.codes) for batch in batches) == 300
    assert shares
    (codes,) = (codes for _, codes in read_records(entry, config.data))
    assert codes.tobytes() == b"".join(batch.codes.tobytes() for batch in batches)
    assert kind == "text" or list(spell(batches).values()) == [BASES]


def test_every_kind_has_a_reader():
    from typing import get_args

    from titans_genomics.data.detect import Kind

    assert set(READERS) == set(get_args(Kind))


def test_what_the_records_are(tmp_path):
    plain = config_for("x").data
    found = {kind: what(kind, plain) for kind in READERS}
    assert {kind for kind, records in found.items() if records == "reads"} == {"fastq", "bam", "cram"}
    assert {kind for kind, records in found.items() if records == "documents"} == {"text", "jsonl", "parquet", "hub"}
    consensus = config_for("x", reads={"consensus": True}).data
    assert [what(kind, consensus) for kind in ("bam", "cram", "fastq")] == ["contigs", "contigs", "reads"]


@pytest.mark.parametrize(
    ("kind", "tokenizer", "fits"),
    [
        ("text", "byte", True),
        ("text", "bpe", True),
        ("text", "nucleotide", False),
        ("text", "kmer", False),
        ("fasta", "byte", False),
        ("fasta", "bpe", True),
        ("fasta", "kmer", True),
    ],
)
def test_text_and_nucleotides_have_tokenizers_of_their_own(tmp_path, kind, tokenizer, fits):
    source = {"path": str(write(tmp_path / "x", kind)), "kind": kind}
    config = config_for(source, tokenizer={"kind": tokenizer})
    if fits:
        assert check_source(config.data.sources[0], config.data) == kind
        return
    with pytest.raises(ValueError, match=rf"x: {kind} does not go with data\.tokenizer\.kind {tokenizer}"):
        check_source(config.data.sources[0], config.data)


def test_text_and_nucleotides_in_one_run(tmp_path):
    sources = [
        {"path": str(write(tmp_path / "g.fa", "fasta"))},
        {"path": str(write(tmp_path / "t.txt", "text")), "kind": "text"},
    ]
    for order in (sources, sources[::-1]):
        with pytest.raises(ValueError, match=r"t\.txt is text, \S*g\.fa is fasta: one run reads text or nucleotides"):
            tokenize(config_for(*order, tokenizer={"kind": "bpe"}), tmp_path / "tokens")


def test_files_beside_the_sequence_must_be_there(tmp_path):
    path = str(write(tmp_path / "x.fa", "fasta"))
    for key in ("regions", "exclude"):
        config = config_for({"path": path, key: str(tmp_path / "no.bed")})
        with pytest.raises(FileNotFoundError, match=rf"no\.bed: no such .*{key}.*x\.fa"):
            check_source(config.data.sources[0], config.data)


def test_faults_of_the_beginning_show_before_anything_is_read_through(tmp_path):
    for content, message in (
        (b">p\nMKTAYIAKQRQISFVKSHFSRQ\n", "protein"),
        (b"\xef\xbb\xbf\n>a\nACGT\nAC?T\n", r"contig 'a', position 6: '\?'"),
        (b">p\n" + b"MKTAYIAKQRQISFVKSHFSRQ\n" * 4_000, "contig 'p'.* protein"),
        (b">p\n" + b"RYKMSWB\n" * 20, "contig 'p' looks like a protein"),
        (gzip.compress(b">a\n" + BASES.encode())[:-20], "cut short"),
    ):
        (tmp_path / "x.fa").write_bytes(content)
        config = config_for(tmp_path / "x.fa")
        with pytest.raises(ValueError, match=message):
            check_source(config.data.sources[0], config.data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_only_the_first_kilobytes_are_looked_at_before_all_is_read(tmp_path, pack):
    path = tmp_path / "x.fa"
    path.write_bytes(pack(b">a\n" + b"ACGT" * 20_000 + b"\n>b\nAC?T\n"))
    config = config_for(path)
    assert check_source(config.data.sources[0], config.data) == "fasta"
    with pytest.raises(ValueError, match=r"contig 'b', position 2"):
        list(open_source(config.data.sources[0], config.data))


def test_a_protein_needs_its_end_or_many_letters_to_be_called_one(tmp_path):
    """A record that goes on beyond what is looked at may begin with letters that stand for several bases."""
    path = tmp_path / "x.fa"
    path.write_bytes(b"\n" * 65_000 + b">a\n" + b"R" * 600 + b"ACGT" * 1_000)
    config = config_for(path, max_n=1)
    assert check_source(config.data.sources[0], config.data) == "fasta"
    assert sum(len(batch.codes) for batch in open_source(config.data.sources[0], config.data)) == 4_600
