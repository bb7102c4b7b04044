from __future__ import annotations

import gzip
from pathlib import Path

import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import config_for, random_bases

from titans_genomics.data import fasta as fasta_module
from titans_genomics.data.fasta import read_fasta
from titans_genomics.data.readers import open_source


def read(path, **data):
    config = config_for(path, **{"min_contig": 1, **data})
    return {record.name: record.sequence.decode() for record in open_source(config.data.sources[0], config.data)}


names = st.from_regex(r"[!-=?-~]{1,8}", fullmatch=True)
sequences = st.text("ACGTNacgtn", max_size=40)


@given(
    st.dictionaries(names, sequences, min_size=1, max_size=5),
    st.integers(1, 50),
    st.integers(1, 30),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_layout_of_lines_and_blocks_gives_the_same_records(tmp_path_factory, records, width, block, end, last_end):
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name} text > more")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    path.write_bytes((end.join(lines) + (end if last_end else "")).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_module, "_BLOCK", block)
        found = {record.name: record.sequence.decode() for record in read_fasta(path, lambda bases, share: None)}
    assert found == records


def test_plain_gzip_and_bgzip_read_the_same(fasta, tmp_path):
    plain = fasta(chr1=random_bases(5_000), chr2=random_bases(300, 1))
    zipped, blocked = tmp_path / "b.fa.gz", tmp_path / "c.fa.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    pysam.tabix_compress(str(plain), str(blocked))
    assert read(plain) == read(zipped) == read(blocked)
    assert set(read(plain)) == {"chr1", "chr2"}


def test_progress_counts_all_bases_and_reaches_the_end(fasta):
    path = fasta(chr1=random_bases(700), chr2=random_bases(300))
    seen = []
    list(read_fasta(path, lambda bases, share: seen.append((bases, share))))
    assert sum(bases for bases, _ in seen) == 1_000
    assert seen[-1][1] == 1


def test_short_contigs_are_dropped_and_counted(fasta):
    from collections import Counter

    config = config_for(fasta(long=random_bases(200), short="ACGT", empty=""), min_contig=100)
    dropped = Counter()
    kept = [record.name for record in open_source(config.data.sources[0], config.data, dropped)]
    assert kept == ["long"]
    assert dropped == {"shorter than 100 bases": 2}


def test_all_contigs_too_short(fasta):
    with pytest.raises(ValueError, match=r"genome.fa.*min_contig"):
        read(fasta(short="ACGT"), min_contig=100)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_file(tmp_path, content):
    path = tmp_path / "empty.fa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"empty.fa: the file is empty"):
        read(path)


def test_empty_inside_gzip(tmp_path):
    path = tmp_path / "empty.fa.gz"
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"empty.fa.gz: the file is empty inside"):
        read(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.fa: no such sequence file"):
        read(tmp_path / "gone.fa")
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)


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
    cut.write_bytes(whole.read_bytes()[: -len(fasta_module.BGZF_END)])
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
