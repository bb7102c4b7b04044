from __future__ import annotations

import array
import os
from collections import Counter

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import REFERENCE, config_for, make_bam, random_bases
from reading import SIRV, batches, expected, keys, other_strand, read

from titans_genomics.config import ReadsConfig
from titans_genomics.data import bgzf
from titans_genomics.data.bam import contigs, read_bam
from titans_genomics.data.bgzf import BGZF_END

HEADER = {
    "HD": {"VN": "1.6", "SO": "coordinate"},
    "SQ": [{"SN": "chr1", "LN": REFERENCE}, {"SN": "chr2", "LN": REFERENCE}],
}


def write(path, lines, header=None, mode="wb", **options):
    """A BAM or CRAM of SAM lines: (name, flag, contig, 1-based position, MAPQ, CIGAR, bases, qualities)."""
    head = pysam.AlignmentHeader.from_dict(HEADER if header is None else header)
    with pysam.AlignmentFile(str(path), mode, header=head, **options) as out:
        for name, flag, contig, position, mapq, cigar, bases, quality in lines:
            text = f"{name}\t{flag}\t{contig}\t{position}\t{mapq}\t{cigar}\t*\t0\t0\t{bases}\t{quality}"
            out.write(pysam.AlignedSegment.fromstring(text, head))
    return path


@pytest.fixture
def genome(tmp_path):
    """A FASTA with the two contigs of HEADER."""
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1\n{random_bases(REFERENCE, 101)}\n>chr2\n{random_bases(REFERENCE, 102)}\n")
    return path


def varied_lines(count=60):
    """Reads of many kinds that lie on the genome: clipped, reverse, paired, unmapped, with N, of varied quality."""
    rng = np.random.default_rng(3)
    lines = []
    for i in range(count):
        start = 60 * i % 4_000
        bases = random_bases(REFERENCE, 101 + (i >= count // 2))[start : start + 300]
        quality = "".join(map(chr, rng.integers(33, 74, 300)))
        if i % 5 == 0:
            bases = bases[:100] + "NR" + bases[102:]
        cigar = ["300M", "10S280M10S", "100M5I195M", "100M20D200M", "7H3S297M", "150M500N150M"][i % 6]
        flag = [0, 16, 0x41, 0x81 | 16, 256, 2048, 1024, 512][i % 8]
        lines.append((f"r{i // 2}", flag, f"chr{1 + (i >= count // 2)}", start + 1, i % 61, cigar, bases, quality))
    lines.sort(key=lambda line: (line[2], line[3]))
    lines += [(f"u{i}", 4, "*", 0, 0, "*", random_bases(250, i), "I" * 250) for i in range(5)]
    return [*lines, ("q", 4, "*", 0, 0, "*", random_bases(250, 9), "*")]


def test_reads_come_as_sequenced(tmp_path):
    forward, reverse = random_bases(150, 1), random_bases(150, 2)
    path = make_bam(
        tmp_path / "x.bam", [{"seq": forward, "pos": 10}, {"seq": other_strand(reverse), "flag": 16, "pos": 20}]
    )
    (one, two), _ = read(path)
    assert (one.bases, one.strand, one.aligned, one.mapq) == (forward, "+", "chr1:10-160", 60)
    assert (two.bases, two.strand, two.aligned) == (reverse, "-", "chr1:20-170")


def test_mates_get_names_of_their_own_and_share_a_key(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"name": "pair", "flag": 0x41}, {"name": "pair", "flag": 0x81}])
    found, _ = batches(path)
    by_name = keys(found)
    assert list(by_name) == ["pair/1", "pair/2"]
    assert len(set(by_name.values())) == 1


@pytest.mark.parametrize(
    ("flag", "switch", "reason"),
    [
        (0x4, "unmapped", "unmapped"),
        (0x100, "secondary", "secondary alignment"),
        (0x800, "supplementary", "supplementary alignment"),
        (0x400, "duplicates", "duplicate"),
        (0x200, "qc_fail", "failed quality control"),
    ],
)
def test_each_flag_has_its_switch_and_its_count(tmp_path, flag, switch, reason):
    path = make_bam(tmp_path / "x.bam", [{"name": "good"}, {"name": "other", "flag": flag}])
    reads, dropped = read(path, **{switch: False})
    assert ([r.name for r in reads], dropped) == (["good"], {reason: 1})
    reads, dropped = read(path, **{switch: True})
    assert ([r.name for r in reads], dropped) == (["good", "other"], {})


def test_mapq_length_and_flag_filters(tmp_path):
    lines = [
        {"name": "low", "mapq": 5},
        {"name": "short", "seq": random_bases(120)},
        {"name": "long", "seq": random_bases(900)},
        {"name": "reverse", "flag": 16},
        {"name": "good"},
        {"name": "unmapped", "flag": 4},
    ]
    path = make_bam(tmp_path / "x.bam", lines)
    reads, dropped = read(path, min_mapq=20, min_length=150, max_length=500, exclude_flags=16)
    assert [each.name for each in reads] == ["good", "unmapped"]
    assert dropped == {
        "MAPQ below 20": 1,
        "shorter than 150 bases": 1,
        "longer than 500 bases": 1,
        "has an excluded flag": 1,
    }
    reads, dropped = read(path, require_flags=16)
    assert [each.name for each in reads] == ["reverse"]
    assert dropped == {"lacks a required flag": 5}


def test_alignments_without_a_sequence_are_dropped_and_counted(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"name": "good"}, {"name": "bare", "flag": 0x100, "seq": None}])
    reads, dropped = read(path, secondary=True)
    assert len(reads) == 1
    assert dropped == {"no sequence stored": 1}


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "min_mapq": st.integers(0, 60),
        "min_length": st.integers(1, 3_000),
        "max_length": st.integers(500, 3_000),
        "min_base_quality": st.integers(0, 30),
        "secondary": st.booleans(),
        "supplementary": st.booleans(),
        "unmapped": st.booleans(),
        "exclude_flags": st.sampled_from([0, 16, 4]),
        "require_flags": st.sampled_from([0, 16]),
        "clip": st.booleans(),
        "strand": st.sampled_from(["sequenced", "reference"]),
    },
).filter(
    lambda filters: (
        filters.get("min_length", 100) <= filters.get("max_length", 3_000)
        and not filters.get("require_flags", 0) & filters.get("exclude_flags", 0)
    )
)


def as_pysam_says(path, filters):
    wanted, reasons = expected(path, ReadsConfig(**filters))
    try:
        reads, dropped = read(path, **filters)
    except ValueError as error:
        assert "no read left" in str(error)  # noqa: PT017
        assert not wanted
        return
    assert reads == wanted
    assert dropped == reasons


@given(FILTERS)
@settings(max_examples=15, deadline=None)
def test_every_read_of_the_real_bam_is_as_pysam_says(filters):
    as_pysam_says(SIRV, filters)


@given(FILTERS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reads_of_all_kinds_are_as_pysam_says(tmp_path, filters):
    path = tmp_path / "x.bam"
    if not path.exists():
        write(path, varied_lines())
    as_pysam_says(path, filters)


@pytest.mark.parametrize("length", [1, 2, 101])
def test_odd_lengths_and_clips_at_odd_places(tmp_path, length):
    bases = random_bases(length + 8, length)
    lines = [
        (f"r{i}", 16 * (i % 2), "chr1", 1, 60, f"{i}S{length}M{8 - i}S".replace("0S", ""), bases, "*") for i in range(9)
    ]
    path = write(tmp_path / "x.bam", lines)
    for clip in (True, False):
        as_pysam_says(path, {"clip": clip, "min_length": 1})


def test_reads_that_go_over_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(bgzf, "BLOCK", 1 << 16)  # one BGZF block at a time
    lines = [("long", 0, "chr1", 1, 60, "700000S", random_bases(700_000), "I" * 700_000)]
    lines = [("a", 4, "*", 0, 0, "*", random_bases(200), "*"), *lines, ("b", 4, "*", 0, 0, "*", random_bases(200), "*")]
    path = write(tmp_path / "x.bam", lines)
    as_pysam_says(path, {})
    as_pysam_says(SIRV, {})


def test_a_header_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(bgzf, "BLOCK", 1 << 16)
    header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": f"scaffold_{i}", "LN": 1_000 + i} for i in range(20_000)]}
    path = write(tmp_path / "x.bam", [("r", 0, "scaffold_19999", 8, 60, "200M", random_bases(200), "*")], header)
    (one,), _ = read(path)
    assert one.aligned == "scaffold_19999:7-207"
    config = config_for(path)
    assert contigs(config.data.sources[0])[-1] == ("scaffold_19999", 20_999)


def test_alignments_of_more_than_65535_operations(tmp_path):
    """Their CIGAR is kept in the tag CG."""
    operations = "5S" + "1M1I" * 40_000 + "1M3S"
    bases = random_bases(80_009)
    header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": "chr1", "LN": 100_000}]}
    path = write(tmp_path / "x.bam", [("r", 0, "chr1", 11, 60, operations, bases, "I" * 80_009)], header)
    (one,), _ = read(path)
    assert one.aligned == "chr1:10-40011"
    (one,), _ = read(path, clip=True)
    assert one.bases == bases[5:-3]


def test_tags_before_a_long_cigar(tmp_path):
    head = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6"}, "SQ": [{"SN": "chr1", "LN": 100_000}]})
    line = pysam.AlignedSegment(head)
    line.query_name, line.reference_id, line.reference_start = "r", 0, 10
    line.query_sequence = random_bases(80_006)
    line.cigartuples = [(4, 5), *([(0, 1), (1, 1)] * 40_000), (0, 1)]
    tags = [
        ("XA", "A", "A"),
        ("Xc", -3, "c"),
        ("XS", 700, "S"),
        ("XI", 70_000, "I"),
        ("Xf", 0.5, "f"),
        ("XZ", "some text", "Z"),
    ]
    for tag, value, kind in tags:
        line.set_tag(tag, value, kind)
    for kind in "bBhHiIf":
        line.set_tag(f"X{kind}", array.array({"h": "h", "H": "H"}.get(kind, kind), [1, 2, 3]))
    with pysam.AlignmentFile(str(tmp_path / "x.bam"), "wb", header=head) as out:
        out.write(line)
    as_pysam_says(tmp_path / "x.bam", {"clip": True})


@pytest.mark.parametrize("cigar", ["200S", "100S100S", "5H195S5S", "200I"])
def test_alignments_that_align_nothing(tmp_path, cigar):
    path = write(tmp_path / "x.bam", [("r", 0, "chr1", 11, 60, cigar, random_bases(200), "*")])
    (one,), _ = read(path)
    assert one.aligned == "chr1:10-11"
    if "S" in cigar:
        with pytest.raises(ValueError, match="1 shorter than 100 bases"):
            read(path, clip=True)


def test_a_place_without_an_alignment(tmp_path):
    head = pysam.AlignmentHeader.from_dict(HEADER)
    line = pysam.AlignedSegment(head)
    line.query_name, line.flag, line.query_sequence = "r", 0, random_bases(200)
    line.reference_id, line.reference_start, line.mapping_quality = 1, 10, 60
    path = tmp_path / "x.bam"
    with pysam.AlignmentFile(str(path), "wb", header=head) as out:
        out.write(line)
    pysam.index(str(path))
    for filters in ({}, {"regions": ["chr2"]}):
        (one,), _ = read(path, **filters)
        assert one.aligned == "chr2:10-10"


def test_iupac_codes(tmp_path):
    line = ("r", 16, "chr1", 1, 60, "102M", random_bases(100) + "RA", "*")
    path = write(tmp_path / "x.bam", [line])
    (found,), _ = batches(path)
    assert found.ambiguous == 1
    assert read(path)[0][0].bases[:2] == "TN"
    assert read(path, iupac="random")[0][0].bases[:2] in ("TC", "TT")
    with pytest.raises(ValueError, match=r"x.bam: read 'r', position 1: ambiguous base 'Y'"):
        read(path, iupac="error")


def test_no_read_left(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"mapq": 1}, {"mapq": 2}, {"flag": 0x100}])
    with pytest.raises(ValueError, match=r"x.bam: no read left.*2 MAPQ below 30, 1 secondary alignment.*data.reads"):
        read(path, min_mapq=30)


def test_empty_bam(tmp_path):
    with pytest.raises(ValueError, match="the file holds none"):
        read(make_bam(tmp_path / "x.bam", []))


def test_without_its_end_block(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{}])
    path.write_bytes(path.read_bytes()[: -len(BGZF_END)])
    with pytest.raises(ValueError, match=r"x.bam: cut short.*end-of-file block"):
        read(path)


def test_damaged_in_the_middle(tmp_path):
    data = bytearray(SIRV.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2_000] = bytes(2_000)
    path = tmp_path / "x.bam"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x.bam: damaged after [1-9][0-9,]* records \(.*\). Copy or create"):
        read(path)


def recompressed(path, change):
    """The BAM with its decompressed bytes changed."""
    with pysam.BGZFile(str(path)) as handle:
        data = bytearray(handle.read())
    with pysam.BGZFile(str(path), "wb") as handle:
        handle.write(bytes(change(data)))
    return path


def test_ends_within_a_record(tmp_path):
    path = recompressed(make_bam(tmp_path / "x.bam", [{}, {}]), lambda data: data[:-50])
    with pytest.raises(ValueError, match=r"x.bam: damaged after 1 records \(the file ends within a record\)"):
        read(path)


@pytest.mark.parametrize(("field", "value"), [(0, 20), (4, 2), (4, -2), (8, -2), (12, 0), (20, -1), (20, 1 << 30)])
def test_impossible_records(tmp_path, field, value):
    def change(data):
        at = data.rindex(b"read1\0") - 36 + field
        width = 1 if field == 12 else 4
        data[at : at + width] = value.to_bytes(width, "little", signed=True)
        return data

    path = recompressed(make_bam(tmp_path / "x.bam", [{}, {}]), change)
    with pytest.raises(ValueError, match=r"x.bam: damaged after 1 records \(what follows is no BAM record\)"):
        read(path)


def test_without_a_header(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"flag": 4}], header={})
    with pytest.raises(ValueError, match=r"x.bam: the BAM has no header.*reheader"):
        read(path)


def test_unaligned_bam_with_a_header_needs_no_contigs(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"flag": 4}], header={"HD": {"VN": "1.6", "SO": "unsorted"}})
    (one,), _ = read(path)
    assert (one.strand, one.aligned, one.mapq) == ("+", None, None)


def test_regions_need_a_sorted_bam(tmp_path):
    head = {"HD": {"VN": "1.6", "SO": "unsorted"}, "SQ": [{"SN": "chr1", "LN": 5_000}]}
    path = make_bam(tmp_path / "x.bam", [{}], header=head)
    with pytest.raises(ValueError, match=r"x.bam: .*sorted by coordinate.*samtools sort"):
        read(path, regions=["chr1"])
    assert len(read(path)[0]) == 1  # without regions the order does not matter


def test_regions_need_an_index(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{}])
    with pytest.raises(ValueError, match=r"x.bam: .*needs an index.*samtools index"):
        read(path, regions=["chr1:1-100"])


@pytest.mark.parametrize(
    "region", ["chrX", "chrX:1-10", "chr1:0-5", "chr1:9-5", "chr1:9000-9100", "chr1:a-b", "", "chr1:-5"]
)
def test_regions_that_are_none(tmp_path, region):
    path = make_bam(tmp_path / "x.bam", [{}], index=True)
    with pytest.raises(ValueError, match=r"x.bam: region .* of data.reads.regions"):
        read(path, regions=[region])


def test_regions_are_one_based_inclusive_and_each_read_comes_once(tmp_path):
    lines = [
        {"name": f"r{pos}", "pos": pos} for pos in range(0, 4_000, 200)
    ]  # r400 covers 400 to 600, 0-based half-open
    path = make_bam(tmp_path / "x.bam", lines, index=True)
    reads, _ = read(path, regions=["chr1:401-600"])
    assert [each.name for each in reads] == ["r400"]
    reads, _ = read(path, regions=["chr1:600-601", "chr1:450-470", "chr1:3,801"])
    assert [each.name for each in reads] == ["r400", "r600", "r3800"]
    with pytest.raises(ValueError, match="no read left in chr2"):
        read(path, regions=["chr2"])


def test_an_unmapped_mate_beside_its_region_is_not_aligned_there(tmp_path):
    lines = [
        ("r", 0x41, "chr1", 11, 60, "200M", random_bases(200), "*"),
        ("r", 0x85, "chr1", 11, 0, "*", random_bases(200), "*"),
    ]
    path = write(tmp_path / "x.bam", lines)
    pysam.index(str(path))
    reads, dropped = read(path, regions=["chr1"])
    assert ([each.name for each in reads], dropped) == (["r/1"], {"unmapped": 1})


@given(st.lists(st.tuples(st.integers(1, 2_000), st.integers(0, 900)), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_regions_give_the_reads_that_overlap_one(tmp_path, spans):
    path = tmp_path / "x.bam"
    starts = list(range(0, 3_000, 70))
    if not path.exists():
        make_bam(
            path,
            [{"name": str(pos), "pos": pos, "seq": random_bases(150 + pos % 400, pos)} for pos in starts],
            index=True,
        )
    wanted = {
        str(pos) for pos in starts for first, more in spans if pos < first + more and pos + 150 + pos % 400 > first - 1
    }
    reads, _ = read(path, regions=[f"chr1:{first}-{first + more}" for first, more in spans])
    names = [each.name for each in reads]
    assert len(names) == len(set(names))
    assert set(names) == wanted


@given(FILTERS)
@settings(max_examples=15, deadline=None)
def test_regions_of_everything_give_all_aligned_reads(filters):
    """Read by htslib, and so by another way than without regions."""
    filters |= {"unmapped": False}
    wanted, reasons = expected(SIRV, ReadsConfig(**filters))
    reasons.pop("unmapped")
    if wanted:
        everything = [name for name, _ in contigs(config_for(SIRV).data.sources[0])]
        assert read(SIRV, **filters, regions=everything) == (wanted, reasons)


def cram(path, bam, genome):
    """A CRAM of the records of a BAM."""
    with pysam.AlignmentFile(str(bam)) as lines:
        options = {"reference_filename": str(genome), "format_options": [b"store_md=0"]}
        with pysam.AlignmentFile(str(path), "wc", header=lines.header, **options) as out:
            for line in lines.fetch(until_eof=True):
                out.write(line)
    return {"path": str(path), "reference": str(genome)}


@given(FILTERS, st.sampled_from([(), ("chr1",), ("chr1:500-900", "chr2")]), st.sampled_from(["n", "random"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cram_gives_what_its_bam_gives(tmp_path, genome, filters, regions, iupac):
    bam, twin = tmp_path / "x.bam", tmp_path / "x.cram"
    if not twin.exists():
        write(bam, varied_lines())
        pysam.index(str(bam))
        cram(twin, bam, genome)
        pysam.index(str(twin))
    filters |= {
        "min_length": 1,
        "min_mapq": 0,
        "max_length": None,
        "require_flags": 0,
        "exclude_flags": 0,
        "regions": regions,
    }
    source = {"path": str(twin), "reference": str(genome), "name": "x"}
    assert read(source, iupac=iupac, **filters) == read({"path": str(bam), "name": "x"}, iupac=iupac, **filters)
    assert keys(batches(source)[0]) == keys(batches({"path": str(bam), "name": "x"})[0])


@pytest.fixture
def crammed(tmp_path, genome):
    return cram(tmp_path / "x.cram", write(tmp_path / "x.bam", varied_lines()), genome)


def test_a_cram_without_its_reference(crammed):
    with pytest.raises(ValueError, match=r"x.cram: .*Give the FASTA of it: data.sources\[\].reference"):
        read(crammed["path"])  # although its header says where the reference is
    with pytest.raises(
        ValueError, match=r"x.cram: its reference .*nowhere.fa is missing \(data.sources\[\].reference\)"
    ):
        read(crammed | {"reference": "nowhere.fa"})


def test_a_cram_of_unaligned_reads_needs_none(tmp_path):
    path = write(tmp_path / "x.cram", [("r", 4, "*", 0, 0, "*", random_bases(200), "*")], {"HD": {"VN": "1.6"}}, "wc")
    assert read(path)[0][0].bases == random_bases(200)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">chr1\nACGT\n>chr2\nACGT\n", "contig 'chr1' has 4 bases, in the CRAM's header 5,000"),
        (f">chr1\n{random_bases(REFERENCE, 101)}\n", "contig 'chr2' is not in it"),
        (
            f">chr1\n{random_bases(REFERENCE, 101)}\n>chr2\n{random_bases(REFERENCE, 9)}\n",
            "contig 'chr2' has other bases .M5 checksum",
        ),
    ],
)
def test_a_cram_with_the_wrong_reference(tmp_path, crammed, text, message):
    other = tmp_path / "other.fa"
    other.write_text(text)
    with pytest.raises(
        ValueError, match=rf"x.cram: .*other.fa is not the genome .*{message}.*data.sources\[\].reference"
    ):
        read(crammed | {"reference": str(other)})


def test_regions_need_their_own_contigs_of_the_reference_only(tmp_path, crammed):
    pysam.index(crammed["path"])
    other = tmp_path / "other.fa"
    other.write_text(f">chr1\n{random_bases(REFERENCE, 101)}\n")
    source = crammed | {"reference": str(other)}
    assert read(source, regions=["chr1"]) == read(crammed, regions=["chr1"])
    with pytest.raises(ValueError, match="contig 'chr2' is not in it"):
        read(source, regions=["chr2"])


def test_a_reference_that_cannot_be_indexed(tmp_path, crammed):
    import gzip

    zipped = tmp_path / "other.fa.gz"
    zipped.write_bytes(gzip.compress(b">chr1\nACGT\n"))
    with pytest.raises(ValueError, match=r"other.fa.gz: no index of the reference.*bgzip"):
        read(crammed | {"reference": str(zipped)})


def test_a_cram_cut_short_or_damaged(tmp_path, crammed):
    path = tmp_path / "x.cram"
    whole = path.read_bytes()
    path.write_bytes(whole[:-38])
    with pytest.raises(ValueError, match=r"x.cram: cut short: the CRAM end-of-file container is missing"):
        read(crammed)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(100) + whole[middle + 100 :])
    with pytest.raises(ValueError, match=r"x.cram: damaged after [0-9,]+ records"):
        read(crammed)


@pytest.mark.parametrize("kind", ["bam", "cram"])
@pytest.mark.parametrize("regions", [[], ["chr1:1-2000", "chr2:500-4000"]], ids=["whole", "regions"])
def test_reads_that_are_all_dropped_still_show_how_far_it_is(tmp_path, genome, monkeypatch, kind, regions):
    from titans_genomics.data import bam

    monkeypatch.setattr(bam, "_ROWS", 50)
    plain = write(tmp_path / "plain.bam", varied_lines(900))
    pysam.sort("-o", str(tmp_path / "x.bam"), str(plain))
    path = tmp_path / f"x.{kind}"
    if kind == "cram":
        pysam.view(
            *("-C", "-T", str(genome), "--output-fmt-option", "seqs_per_slice=100"),
            *("-o", str(path), str(tmp_path / "x.bam")),
            catch_stdout=False,
        )
    pysam.index(str(path))
    config = config_for({"path": str(path), "reference": str(genome)}, reads={"min_length": 10**6, "regions": regions})
    shares = []
    with pytest.raises(ValueError, match="no read"):
        list(read_bam(config.data.sources[0], config.data, 1, Counter(), shares.append))
    known = [share for share in shares if share is not None]
    assert known == sorted(known)
    assert all(0 < share <= 1 for share in known)
    if kind == "cram" or regions:
        assert len(shares) > 5
        assert len(set(known)) > 3


LONG = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "chr1", "LN": 10_000_000}]}


@pytest.mark.parametrize("age", [-100, 100], ids=["older", "younger"])
def test_the_index_of_another_version_of_the_file(tmp_path, age):
    lines = [{"pos": 50_000 * i, "seq": random_bases(5_000, i)} for i in range(100)]
    path = make_bam(tmp_path / "x.bam", lines, index=True, header=LONG)
    make_bam(path, [line | {"seq": line["seq"][:4_321]} for line in lines], header=LONG)
    index = tmp_path / "x.bam.bai"
    os.utime(index, (path.stat().st_mtime + age,) * 2)
    what = "older than the file" if age < 0 else "another version of the file"
    with pytest.raises(ValueError, match=rf"x\.bam: .*{what}.*Run `samtools index \S*x\.bam`"):
        read(path, regions=["chr1:4000001-4000100"])
    pysam.index(str(path))
    assert [each.name for each in read(path, regions=["chr1:4000001-4000100"])[0]] == ["read80"]


def test_an_older_index_that_finds_nothing(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"pos": 100}], index=True, header=LONG)
    make_bam(path, [{"pos": 4_000_000}], header=LONG)
    os.utime(tmp_path / "x.bam.bai", (1, 1))
    with pytest.raises(ValueError, match=r"x\.bam: .*older than the file.*Run `samtools index"):
        read(path, regions=["chr1:4000001-4000010"])


def test_an_older_index_that_fits_is_good_enough(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"pos": 100}], index=True)
    os.utime(tmp_path / "x.bam.bai", (1, 1))
    assert len(read(path, regions=["chr1:101-110"])[0]) == 1


def test_regions_of_a_cram_need_an_index(crammed):
    with pytest.raises(ValueError, match=r"needs an index \(x.cram.crai\)"):
        read(crammed, regions=["chr1"])


def test_references_are_never_looked_for_elsewhere(crammed, monkeypatch):
    from titans_genomics.data import bam

    seen = []
    inside = bam._fetch
    monkeypatch.setattr(bam, "_fetch", lambda *a: seen.append(os.environ.get("REF_PATH")) or inside(*a))
    monkeypatch.delenv("REF_PATH", raising=False)
    monkeypatch.setenv("REF_CACHE", "somewhere")
    read(crammed)
    assert seen == [os.devnull]
    assert "REF_PATH" not in os.environ
    assert os.environ["REF_CACHE"] == "somewhere"
