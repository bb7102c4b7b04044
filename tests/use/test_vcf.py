"""VCF in and out: what is wrong is refused with its place, variants are normalised, and nothing but our fields changes."""

import gzip
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pysam
import pytest

from titans_genomics.data.alphabet import encode
from titans_genomics.data.bgzf import check_bgzf_end, read_bgzf
from titans_genomics.use.alleles import Allele, normalised
from titans_genomics.use.records import read_codes
from titans_genomics.use.vcf import (
    Genome,
    alleles_of,
    check_vcf,
    open_vcf,
    records_and_lines,
)
from titans_genomics.use.vcf_write import annotated_header, annotated_line, indexed_vcf

#         1234567890123456789012345678901234567890
ONE = "ACGTACGTTTTTGACACACAGGNNACGTAGGCATTACGGA"
RESOURCES = Path(__file__).parents[2] / "resources"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


@pytest.fixture
def genome(tmp_path):
    codes = {"chr1": encode(ONE), "chrM": encode("GATTACA" * 3)}
    return Genome(tmp_path / "genome.fa", codes, codes)


def vcf_text(*rows, head=("##fileformat=VCFv4.2",), samples=()):
    columns = COLUMNS + "".join(f"\t{name}" for name in (["FORMAT", *samples] if samples else []))
    return "\n".join([*head, columns, *("\t".join(map(str, row)) for row in rows)]) + "\n"


def site(contig, pos, ref, alt, *rest):
    return (contig, pos, ".", ref, alt, ".", "PASS", ".", *rest)


def written(tmp_path, text, name="in.vcf"):
    path = tmp_path / name
    path.write_text(text)
    return path


def unpacked(path):
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def changed(codes, allele):
    return np.concatenate([codes[: allele.start], allele.alt, codes[allele.end :]])


# ----------------------------------------------------------------------------------------- normalising


def test_normalised_variants_are_minimal_leftmost_and_make_the_same_sequence():
    rng = random.Random(7)
    for _ in range(200):
        codes = np.array(rng.choices(range(rng.choice([1, 2, 4])), k=14), dtype=np.uint8)
        start = rng.randrange(14)
        end = rng.randrange(start, min(14, start + 5) + 1)
        allele = Allele("c", start, end, np.array(rng.choices(range(2), k=rng.randrange(5)), dtype=np.uint8))
        wanted = changed(codes, allele)
        if np.array_equal(wanted, codes):
            continue
        found = normalised(allele, codes)
        assert np.array_equal(changed(codes, found), wanted)
        # the oracle: every way to write the change; the smallest ones, and of these the leftmost
        ways = []
        for first in range(15):
            for last in range(first, 15):
                rest = len(wanted) - first - (14 - last)
                if rest < 0 or not np.array_equal(codes[:first], wanted[:first]):
                    continue
                if np.array_equal(codes[last:], wanted[first + rest :]):
                    ways.append((last - first + rest, first, last))
        size, first, last = min(ways)
        assert found.end - found.start + len(found.alt) >= size
        if found.start == found.end or not len(found.alt):
            assert (found.start, found.end) == (first, last)


@pytest.mark.parametrize(
    ("pos", "ref", "alt"),
    [(13, "GAC", "G"), (16, "ACA", "A"), (17, "CAC", "C"), (15, "CAC", "C"), (13, "GACAC", "GAC")],
)
def test_every_way_to_write_a_deletion_in_a_repeat_is_the_same_allele(tmp_path, genome, pos, ref, alt):
    path = written(tmp_path, vcf_text(site("chr1", pos, ref, alt)))
    with open_vcf(path) as file:
        (allele,) = alleles_of(next(iter(file)), genome, "chr1", 20, "here")
    assert (allele.contig, allele.start, allele.end, len(allele.alt)) == ("chr1", 13, 15, 0)


# -------------------------------------------------------------------------------------------- checking


def test_every_allele_is_scored_or_has_its_reason(tmp_path, genome):
    rows = [
        site("1", 1, "A", "C,<DEL>,*,A"),
        site("1", 5, "A", "."),
        site("1", 6, "C", "C[chr1:9["),
        site("1", 13, "G", "N"),
        site("1", 22, "G", "GN"),
        site("1", 23, "N", "A"),
        site("1", 25, "ACGTAGG", "A"),
        site("1", 26, "g", "t"),
        site("MT", 1, "G", "T"),
    ]
    found = check_vcf(written(tmp_path, vcf_text(*rows)), genome, 6, 0.5)
    assert found.records == 9
    assert found.alleles == 11
    assert found.contigs == {"1": "chr1", "MT": "chrM"}
    assert found.scored == 2
    assert found.skipped == {
        "SYMBOLIC": 1, "STAR": 1, "SAME": 1, "BREAKEND": 1, "AMBIGUOUS": 3, "TOO_LONG": 1, "MISMATCH": 1,
    }  # fmt: skip
    assert found.mismatches == ["1:26 g (FASTA: C)"]


def test_lower_case_is_skipped_where_the_model_reads_it_as_n(tmp_path, genome):
    masked = genome.contigs["chr1"].copy()
    masked[4:8] = 4
    hidden = Genome(genome.path, genome.contigs | {"chr1": masked}, genome.unmasked)
    found = check_vcf(written(tmp_path, vcf_text(site("chr1", 4, "T", "A"), site("chr1", 5, "A", "T"))), hidden, 9, 0.0)
    assert found.scored == 1
    assert found.skipped == {"MASKED": 1}


BAD = {
    "mismatches": ([site("chr1", 1, "A", "C"), site("chr1", 2, "T", "C")], "1 of 2 records.*chr1:2 T .FASTA: C."),
    "unknown contig": ([site("chr7", 1, "A", "C")], "record 1, chr7:1: contig 'chr7' is not in .*chr1, chrM"),
    "beyond the end": ([site("chr1", 41, "A", "C")], "chr1:41: beyond the end of chr1, which has 40 bases"),
    "reaches over the end": ([site("chr1", 40, "AC", "A")], "chr1:40: REF of 2 bases does not lie within chr1"),
    "letter in ALT": ([site("chr1", 1, "A", "R")], "chr1:1: ALT 'R' has a letter other than A C G T N"),
    "letter in REF": ([site("chr1", 1, "AX", "A")], "chr1:1: REF 'AX' has a letter other"),
    "unsorted": ([site("chr1", 5, "A", "C"), site("chr1", 1, "A", "C")], "record 2, chr1:1: not sorted.*bcftools sort"),
    "contig comes again": (
        [site("chr1", 5, "A", "C"), site("chrM", 1, "G", "C"), site("chr1", 6, "C", "A")],
        "record 3, chr1:6: not sorted",
    ),
    "damaged record": ([site("chr1", 5, "A", "C"), ("chr1", "five", ".", "A")], "record 2 cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_refused_with_their_place(tmp_path, genome, name):
    rows, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        check_vcf(written(tmp_path, vcf_text(*rows)), genome, 20, 0.1)


@pytest.mark.parametrize("text", ["", "hello\n", "chr1\t5\t.\tA\tC\t.\t.\t.\n", ">chr1\nACGT\n"])
def test_what_is_no_vcf_is_refused(tmp_path, genome, text):
    with pytest.raises(ValueError, match="not a VCF or BCF file, or one without a header"):
        check_vcf(written(tmp_path, text), genome, 20, 0.1)
    with pytest.raises(FileNotFoundError, match="no such VCF"):
        check_vcf(tmp_path / "none.vcf", genome, 20, 0.1)


def test_a_file_that_was_cut_short_is_refused(tmp_path, genome):
    rng = random.Random(1)
    rows = [("chr1", 1, f"{rng.random()}", "A", "C", ".", ".", ".") for _ in range(3000)]
    path = tmp_path / "in.vcf.gz"
    with pysam.BGZFile(str(path), "w") as file:
        file.write(vcf_text(*rows).encode())
    assert check_vcf(path, genome, 20, 0.1).records == 3000
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ValueError, match="cut short"):
        check_vcf(path, genome, 20, 0.1)


def test_a_damaged_block_is_refused_with_its_record(tmp_path, genome):
    rng = random.Random(1)
    rows = [("chr1", 1, f"{rng.random()}", "A", "C", ".", ".", ".") for _ in range(20_000)]
    path = tmp_path / "in.vcf.gz"
    with pysam.BGZFile(str(path), "w") as file:
        file.write(vcf_text(*rows).encode())
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(raw[:middle] + bytes(64) + raw[middle + 64 :])
    with pytest.raises(ValueError, match=r"in.vcf.gz: record \d+ cannot be read"):
        check_vcf(path, genome, 20, 0.1)


def test_folders_and_pipes_are_refused_with_the_reason(tmp_path, genome):
    with pytest.raises(ValueError, match="is a folder; give a VCF"):
        check_vcf(tmp_path, genome, 20, 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is read more than once, so it cannot be a pipe"):
        check_vcf(tmp_path / "pipe", genome, 20, 0.1)


def test_a_breakend_may_stand_at_a_telomere_and_bases_may_not(tmp_path, genome):
    rows = [("chr1", 0, ".", "N", ".[chrM:3[", ".", ".", "."), ("chr1", 41, ".", "N", "]chrM:3].,<DEL>", ".", ".", ".")]
    assert check_vcf(written(tmp_path, vcf_text(*rows)), genome, 20, 0.0).skipped == {"BREAKEND": 2, "SYMBOLIC": 1}
    for row in (site("chr1", 41, "N", "<DEL>,A"), site("chr1", 42, "N", "<DEL>")):
        with pytest.raises(ValueError, match="beyond the end of chr1"):
            check_vcf(written(tmp_path, vcf_text(row)), genome, 20, 0.0)


def test_plain_gzip_is_refused_with_the_way_out(tmp_path, genome):
    path = tmp_path / "in.vcf.gz"
    path.write_bytes(gzip.compress(vcf_text(site("chr1", 1, "A", "C")).encode()))
    with pytest.raises(ValueError, match=r"plain gzip.*bgzip >"):
        check_vcf(path, genome, 20, 0.1)


# --------------------------------------------------------------------------------------------- writing


def annotated(path, genome, out, info, keys=("NEW", "SKIP"), skipped=False):
    checked = check_vcf(path, genome, 20, 1.0)
    header = annotated_header(checked, genome, ['##INFO=<ID=NEW,Number=A,Type=Float,Description="new">'], keys)
    with open_vcf(path) as file, indexed_vcf(out, header, 40) as write:
        for _, _, line in records_and_lines(path, file):
            write(annotated_line(line, info, keys, skipped))
    return out


def test_only_our_fields_change_and_undeclared_things_get_declared(tmp_path, genome):
    rows = [
        ("1", 1, "rs1", "A", "C,G", 31, "q10;PASS", "DP=7;ODD;NEW=4", "GT:XX", "0|1:7", "./.:."),
        ("1", 2, ".", "C", "T", ".", ".", ".", "GT:XX", "1/1:8", "0:9"),
    ]
    path = written(tmp_path, vcf_text(*rows, samples=("b", "a")))
    out = annotated(path, genome, tmp_path / "out.vcf.gz", {"NEW": "1.5,."})
    lines = [line.split("\t") for line in unpacked(out) if line[0] != "#"]
    for row, line in zip(rows, lines, strict=True):
        assert line[:5] == [str(field) for field in row[:5]]
        assert line[8:] == list(row[8:])
    assert [line[7] for line in lines] == ["DP=7;ODD;NEW=1.5,.", "NEW=1.5,."]
    with pysam.VariantFile(str(out)) as file:
        assert list(file.header.samples) == ["b", "a"]
        assert file.header.contigs["1"].length == 40
        assert {"NEW", "DP", "ODD"} <= set(file.header.info)
        assert [record.pos for record in file.fetch("1", 1, 2)] == [2]


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_what_htslib_would_write_in_other_words_stays(tmp_path, genome, end):
    head = (
        "##fileformat=VCFv4.2",
        '##INFO=<ID=AF,Number=A,Type=Float,Description="share">',
        '##FORMAT=<ID=GP,Number=G,Type=Float,Description="probability">',
    )
    row = ("1", 1, "é", "a", "C", "31.50", "PASS", "AF=0.123456789;DB=1", "GT:GP", "0|1:0.10,0.900000001,1e-9", "1/1/0")
    text = vcf_text(row, head=head, samples=("b", "a")).replace("\n", end)
    for encoding in ("utf-8", "latin-1"):
        path = tmp_path / "in.vcf"
        path.write_bytes(text.encode(encoding))
        out = annotated(path, genome, tmp_path / "out.vcf.gz", {"NEW": "1"})
        wanted = "\t".join(map(str, row)).replace("DB=1", "DB=1;NEW=1")
        assert gzip.decompress(out.read_bytes()).split(b"\n")[-2] == wanted.encode(encoding)


def test_a_header_that_is_not_utf8_is_refused(tmp_path, genome):
    path = tmp_path / "in.vcf"
    path.write_bytes(vcf_text(head=("##fileformat=VCFv4.2", "##by=é")).encode("latin-1"))
    with pytest.raises(ValueError, match="the header of the VCF is not UTF-8"):
        annotated(path, genome, tmp_path / "out.vcf.gz", {})


def test_a_bcf_is_read_like_the_vcf_that_it_was_made_of(tmp_path, genome):
    head = ("##fileformat=VCFv4.2", "##contig=<ID=chr1,length=40>", '##FILTER=<ID=q10,Description="low">')
    path = written(tmp_path, vcf_text(site("chr1", 1, "A", "C"), site("chr1", 9, "T", "TA,G"), head=head))
    with (
        pysam.VariantFile(str(path)) as file,
        pysam.VariantFile(str(tmp_path / "in.bcf"), "wb", header=file.header) as bcf,
    ):
        for record in file:
            bcf.write(record)
    found = [annotated(tmp_path / name, genome, tmp_path / f"{name}.gz", {"NEW": "2"}) for name in ("in.vcf", "in.bcf")]
    one, other = (unpacked(out) for out in found)
    assert one[-2:] == other[-2:]


def test_the_filter_of_skipped_records_takes_the_place_of_pass(tmp_path, genome):
    path = written(tmp_path, vcf_text(site("chr1", 1, "A", "<DEL>"), (*site("chr1", 2, "C", "<DEL>")[:6], "q10", ".")))
    out = annotated(path, genome, tmp_path / "out.vcf.gz", {"SKIP": "SYMBOLIC"}, skipped=True)
    lines = unpacked(out)
    assert [line.split("\t")[6] for line in lines[-2:]] == ["TITANS_SKIPPED", "q10;TITANS_SKIPPED"]


def test_a_file_of_many_blocks_is_bgzf_and_every_record_is_found(tmp_path):
    rng = random.Random(5)
    header = f"##fileformat=VCFv4.2\n##contig=<ID=c,length=9000>\n{COLUMNS}\n"
    lines = [f"c\t{pos}\t.\tA\tC\t.\t.\tX={rng.randbytes(rng.choice([3, 99, 60_000])).hex()}" for pos in range(1, 90)]
    with indexed_vcf(tmp_path / "out.vcf.gz", header, 9000) as write:
        for line in lines:
            write(line)
    check_bgzf_end(tmp_path / "out.vcf.gz")
    own = b"".join(block.tobytes() for block, _ in read_bgzf(tmp_path / "out.vcf.gz"))
    assert own.decode() == header + "".join(f"{line}\n" for line in lines)
    with pysam.TabixFile(str(tmp_path / "out.vcf.gz")) as file:
        for pos in (1, 44, 89):
            assert list(file.fetch("c", pos - 1, pos)) == [lines[pos - 1]]


def test_contigs_beyond_the_reach_of_tbi_get_a_csi_index(tmp_path):
    header = f"##fileformat=VCFv4.2\n##contig=<ID=c,length={1 << 30}>\n{COLUMNS}\n"
    with indexed_vcf(tmp_path / "out.vcf.gz", header, 1 << 30) as write:
        write(f"c\t{1 << 29}\t.\tA\tC\t.\t.\t.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.vcf.gz", "out.vcf.gz.csi"]
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as file:
        assert len(list(file.fetch("c", (1 << 29) - 1, 1 << 29))) == 1


# ------------------------------------------------------------------------------------ the real variants


def test_the_shipped_variants_lie_in_the_genome_normalised_and_matched():
    codes = dict(read_codes(RESOURCES / "ecoli_k12.fa.gz"))
    genome = Genome(RESOURCES / "ecoli_k12.fa.gz", codes, codes)
    found = check_vcf(RESOURCES / "ecoli_536.vcf.gz", genome, 100, 0.0)
    assert found.records == found.scored == 1548
    kinds = {0: Counter(), 1: Counter()}
    with pysam.VariantFile(str(RESOURCES / "ecoli_536.vcf.gz")) as file:
        for record in file:
            (alt,) = record.alts
            natural = record.info["NATURAL"]
            assert record.samples["536"]["GT"] == (natural,)
            (allele,) = alleles_of(record, genome, record.contig, 100, "here")
            anchored = len(record.ref) != len(alt)
            assert (allele.start, allele.end) == (record.start + anchored, record.stop)
            kinds[natural][record.info["SPLIT"], len(record.ref), len(alt), record.ref[0]] += 1
        assert len(list(file.fetch("K-12-MG1655", 589_824, 655_360))) > 100
    assert kinds[0] == kinds[1]
