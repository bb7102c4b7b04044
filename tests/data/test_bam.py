from __future__ import annotations

from collections import Counter
from pathlib import Path

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import config_for, make_bam, random_bases

from titans_genomics.config import ReadsConfig
from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.fasta import BGZF_END
from titans_genomics.data.readers import open_source

REAL = Path(__file__).parents[2] / "resources" / "sirv_reads.bam"


def read(path, **filters):
    config = config_for(path, reads=filters)
    dropped = Counter()
    return list(open_source(config.data.sources[0], config.data, dropped)), dropped


def other_strand(sequence: str) -> str:
    return decode(reverse_complement(encode(sequence)))


def test_reads_come_as_sequenced(tmp_path):
    forward, reverse = random_bases(150, 1), random_bases(150, 2)
    path = make_bam(
        tmp_path / "x.bam", [{"seq": forward, "pos": 10}, {"seq": other_strand(reverse), "flag": 16, "pos": 20}]
    )
    (one, two), _ = read(path)
    assert (one.sequence.decode(), one.strand, one.aligned, one.mapq) == (forward, "+", "chr1:10-160", 60)
    assert (two.sequence.decode(), two.strand, two.aligned) == (reverse, "-", "chr1:20-170")


def test_mates_get_names_of_their_own_and_share_a_template(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"name": "pair", "flag": 0x41}, {"name": "pair", "flag": 0x81}])
    records, _ = read(path)
    assert [record.name for record in records] == ["pair/1", "pair/2"]
    assert {record.template for record in records} == {"pair"}


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
    records, dropped = read(path, **{switch: False})
    assert ([r.name for r in records], dropped) == (["good"], {reason: 1})
    records, dropped = read(path, **{switch: True})
    assert ([r.name for r in records], dropped) == (["good", "other"], {})


def test_mapq_length_and_flag_filters(tmp_path):
    reads = [
        {"name": "low", "mapq": 5},
        {"name": "short", "seq": random_bases(120)},
        {"name": "long", "seq": random_bases(900)},
        {"name": "reverse", "flag": 16},
        {"name": "good"},
        {"name": "unmapped", "flag": 4},
    ]
    records, dropped = read(
        make_bam(tmp_path / "x.bam", reads), min_mapq=20, min_length=150, max_length=500, exclude_flags=16
    )
    assert [record.name for record in records] == ["good", "unmapped"]
    assert dropped == {
        "MAPQ below 20": 1,
        "shorter than 150 bases": 1,
        "longer than 500 bases": 1,
        "has an excluded flag": 1,
    }
    records, dropped = read(tmp_path / "x.bam", require_flags=16)
    assert [record.name for record in records] == ["reverse"]
    assert dropped == {"lacks a required flag": 5}


def test_alignments_without_a_sequence_are_dropped_and_counted(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"name": "good"}, {"name": "bare", "flag": 0x100, "seq": None}])
    records, dropped = read(path, secondary=True)
    assert len(records) == 1
    assert dropped == {"no sequence stored": 1}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "min_mapq": st.integers(0, 60),
            "min_length": st.integers(1, 3_000),
            "secondary": st.booleans(),
            "supplementary": st.booleans(),
            "unmapped": st.booleans(),
            "exclude_flags": st.sampled_from([0, 16, 4]),
        },
    )
)
@settings(max_examples=15, deadline=None)
def test_every_record_of_the_real_bam_is_kept_or_counted(filters):
    total = sum(1 for _ in pysam.AlignmentFile(str(REAL)).fetch(until_eof=True))
    try:
        records, dropped = read(REAL, **filters)
    except ValueError as error:
        assert "no read left" in str(error)  # noqa: PT017
        return
    assert len(records) + sum(dropped.values()) == total
    least = filters.get("min_length", ReadsConfig().min_length)
    assert all(len(record.sequence) >= least for record in records)


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
    data = bytearray(REAL.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2_000] = bytes(2_000)
    path = tmp_path / "x.bam"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x.bam: damaged after [0-9,]+ records"):
        read(path)


def test_without_a_header(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"flag": 4}], header={})
    with pytest.raises(ValueError, match=r"x.bam: the BAM has no header.*reheader"):
        read(path)


def test_unaligned_bam_with_a_header_needs_no_contigs(tmp_path):
    path = make_bam(tmp_path / "x.bam", [{"flag": 4}], header={"HD": {"VN": "1.6", "SO": "unsorted"}})
    (record,), _ = read(path)
    assert (record.strand, record.aligned, record.mapq) == ("+", None, None)


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
    reads = [
        {"name": f"r{pos}", "pos": pos} for pos in range(0, 4_000, 200)
    ]  # r400 covers 400 to 600, 0-based half-open
    path = make_bam(tmp_path / "x.bam", reads, index=True)
    records, _ = read(path, regions=["chr1:401-600"])
    assert [record.name for record in records] == ["r400"]
    records, _ = read(path, regions=["chr1:600-601", "chr1:450-470", "chr1:3,801"])
    assert [record.name for record in records] == ["r400", "r600", "r3800"]
    with pytest.raises(ValueError, match="no read left in chr2"):
        read(path, regions=["chr2"])


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
    expected = {
        str(pos) for pos in starts for first, more in spans if pos < first + more and pos + 150 + pos % 400 > first - 1
    }
    records, _ = read(path, regions=[f"chr1:{first}-{first + more}" for first, more in spans])
    names = [record.name for record in records]
    assert len(names) == len(set(names))
    assert set(names) == expected
