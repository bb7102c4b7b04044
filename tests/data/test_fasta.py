from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, random_bases, spell, write_fasta

from titans_genomics.data import fasta as fasta_module
from titans_genomics.data.bgzf import BGZF_END
from titans_genomics.data.fasta import read_fasta
from titans_genomics.data.readers import check_source, open_source, read_records


def read(path, **data):
    """The records of a file, soft-masked bases in lower case."""
    config = config_for(path, **data)
    return spell(open_source(config.data.sources[0], config.data))


def in_blocks(sizes):
    """A `read_blocks` that gives blocks of these sizes in turn."""

    def blocks(path):
        raw, at, number = path.read_bytes(), 0, 0
        while at < len(raw):
            size = sizes[number % len(sizes)]
            yield np.frombuffer(raw[at : at + size], dtype=np.uint8), min(at + size, len(raw)) / len(raw)
            at, number = at + size, number + 1

    return blocks


names = st.from_regex(r"[!-=?-~]{1,8}", fullmatch=True)
sequences = st.one_of(st.text("ACGTNacgtn", max_size=40), st.integers(0, 300).map(random_bases))


@given(
    st.dictionaries(names, sequences, min_size=1, max_size=5),
    st.integers(1, 90),
    st.lists(st.integers(1, 200), min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.sampled_from(["", "\n", "\ufeff", "\ufeff\r\n"]),
    st.booleans(),
)
@settings(max_examples=200)
def test_any_layout_of_lines_and_blocks_gives_the_same_records(
    tmp_path_factory, records, width, blocks, end, before, last_end
):
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name} text > more")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    path.write_bytes((before + end.join(lines) + (end if last_end else "")).encode())
    config = config_for(path)
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_module, "read_blocks", in_blocks([len(before.encode()) + 1, *blocks]))
        found = spell(read_fasta(config.data.sources[0], config.data, 1, Counter(), shares.append))
    assert found == records
    assert list(found) == list(records)
    assert shares == sorted(shares)
    assert shares[-1] == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=3), st.sampled_from(["random", "n"]))
@settings(max_examples=30)
def test_random_bases_do_not_depend_on_blocks_or_compression(tmp_path_factory, blocks, iupac):
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    write_fasta(path, {"a": "ACGTRYSW" * 30, "b": "ACGTNKMB" * 20})
    whole = read(path, iupac=iupac)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_module, "read_blocks", in_blocks(blocks))
        assert read(path, iupac=iupac) == whole
    (path.parent / "x").write_bytes(gzip.compress(path.read_bytes()))
    config = config_for({"path": str(path.parent / "x"), "name": "x"}, iupac=iupac)
    assert spell(open_source(config.data.sources[0], config.data)) == whole


def test_plain_gzip_and_bgzip_read_the_same(fasta, tmp_path):
    plain = fasta(chr1=random_bases(5_000), chr2=random_bases(300, 1))
    zipped, blocked = tmp_path / "b.fa.gz", tmp_path / "c.fa.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    pysam.tabix_compress(str(plain), str(blocked))
    assert read(plain) == read(zipped) == read(blocked)
    assert set(read(plain)) == {"chr1", "chr2"}


def test_whole_records_one_by_one(fasta, monkeypatch):
    monkeypatch.setattr(fasta_module, "read_blocks", in_blocks([50]))
    path = fasta(a=random_bases(333), empty="", b=random_bases(7, 2))
    config = config_for(path)
    found = dict(read_records(config.data.sources[0], config.data))
    assert {name: len(codes) for name, codes in found.items()} == {"a": 333, "empty": 0, "b": 7}
    assert found["b"].tolist() == ["ACGT".index(base) for base in random_bases(7, 2)]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_no_record_at_all(tmp_path, content):
    path = tmp_path / "empty.fa"
    path.write_bytes(content)
    config = config_for(path)
    with pytest.raises(ValueError, match=r"empty.fa: (no|does not begin with a) FASTA record"):
        list(read_fasta(config.data.sources[0], config.data, 1, Counter(), lambda share: None))


def test_duplicate_names(tmp_path):
    path = tmp_path / "twice.fa"
    path.write_text(">chr1 one\nACGT\n>chr1 two\nACGT\n")
    with pytest.raises(ValueError, match=r"twice.fa: two records are named 'chr1'"):
        read(path)


def test_record_without_a_name(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text("> \nACGT\n")
    with pytest.raises(ValueError, match="has no name"):
        read(path)


def test_old_macintosh_line_ends(tmp_path):
    path = tmp_path / "x.fa"
    path.write_bytes(b">chr1\rACGT\rACGT\r")
    with pytest.raises(ValueError, match="carriage return"):
        read(path)


def test_text_before_the_first_record(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text("\nACGT\n>a\nACGT\n")
    config = config_for({"path": str(path)})
    with pytest.raises(ValueError, match=r"x.fa: does not begin with a FASTA record"):
        list(read_fasta(config.data.sources[0], config.data, 1, Counter(), lambda share: None))


def test_faults_name_record_and_position(tmp_path):
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\nACGT\n>chr1\n" + b"ACGT\n" * 100 + b"\x00\x01\n")
    with pytest.raises(ValueError, match=r"x.fa: contig 'chr1', position 400: byte 0x00"):
        read(path)
    path.write_text(">sp|P1 protein\nMKTAYIAKQRQISFVKSHFSRQ\n>chr1\nACGT\n")
    with pytest.raises(ValueError, match=r"x.fa: contig 'sp\|P1', position \d+: .*protein"):
        read(path)
    path.write_text(">chr1\nACGTR\n")
    with pytest.raises(ValueError, match=r"x.fa: contig 'chr1', position 4: ambiguous base 'R'"):
        read(path, iupac="error")


def test_a_protein_and_a_missing_end_are_found_before_anything_is_read_through(tmp_path):
    path = tmp_path / "p.fa"
    path.write_text(">sp|P1 protein\nMKTAYIAKQRQISFVKSHFSRQ\n>chr1\nACGT\n")
    config = config_for(path)
    with pytest.raises(ValueError, match=r"p.fa: contig 'sp\|P1'.*protein"):
        check_source(config.data.sources[0], config.data)
    pysam.tabix_compress(str(write_fasta(tmp_path / "g.fa", {"a": random_bases(900)})), str(path), force=True)
    path.write_bytes(path.read_bytes()[: -len(BGZF_END)])
    with pytest.raises(ValueError, match=r"p.fa: cut short"):
        check_source(config.data.sources[0], config.data)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_gzip_cut_short(fasta, tmp_path, keep):
    whole = gzip.compress(fasta(chr1=random_bases(100_000)).read_bytes())
    path = tmp_path / "cut.fa.gz"
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"cut.fa.gz: gzip data cut short"):
        read(path)


def test_bgzip_cut_at_a_block_border(fasta, tmp_path):
    whole = tmp_path / "whole.fa.gz"
    pysam.tabix_compress(str(fasta(chr1=random_bases(200_000))), str(whole))
    cut = tmp_path / "cut.fa.gz"
    cut.write_bytes(whole.read_bytes()[: -len(BGZF_END)])
    with pytest.raises(ValueError, match=r"cut.fa.gz: cut short.*end-of-file block"):
        read(cut)


def test_gzip_with_a_flipped_byte(fasta, tmp_path):
    data = bytearray(gzip.compress(fasta(chr1=random_bases(50_000)).read_bytes()))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "bad.fa.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad.fa.gz: (damaged|gzip)"):
        read(path)


def index(path: Path) -> None:
    pysam.faidx(str(path))


def test_an_index_that_fits_is_accepted(fasta):
    path = fasta(chr1=random_bases(300), chr2=random_bases(200))
    index(path)
    assert len(read(path)) == 2


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({"chr1": "A" * 301, "chr2": "C" * 200}, "'chr1' has 301 bases, in the index 300"),
        ({"chr2": "C" * 200, "chr1": "A" * 300}, "record 1 is 'chr2', in the index 'chr1'"),
        ({"chr1": "A" * 300, "chr2": "C" * 200, "chr3": "G" * 9}, "'chr3' is not in the index"),
        ({"chr1": "A" * 300}, "also lists record 'chr2'"),
    ],
)
def test_fasta_edited_after_its_index(fasta, edited, message):
    path = fasta(chr1="A" * 300, chr2="C" * 200)
    index(path)
    fasta(**edited)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert "samtools faidx" in str(error.value)


def test_an_index_that_is_none(fasta):
    path = fasta(chr1="A" * 300)
    path.with_name("genome.fa.fai").write_text("hello\n")
    with pytest.raises(ValueError, match=r"genome.fa.fai: line 1"):
        read(path)
