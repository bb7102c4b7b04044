from __future__ import annotations

import numpy as np
import pysam
import pytest
from making import REFERENCE, config_for, random_bases
from test_bam import HEADER, write

from titans_genomics.data import consensus
from titans_genomics.data.consensus import consensus_fasta


def genome(contig):
    return random_bases(REFERENCE, 100 + contig)


def pile(contig, depth, first, last, name="r", flag=0, mapq=60, quality="I", change=None):
    """SAM lines of ``depth`` reads over each base of a contig from ``first`` to ``last`` (0-based half-open)."""
    bases = list(genome(contig)[first:last])
    for position, base in (change or {}).items():
        bases[position - first] = base
    cigar = f"{last - first}M"
    line = (flag, f"chr{contig}", first + 1, mapq, cigar, "".join(bases), quality * (last - first))
    return [(f"{name}{i}", *line) for i in range(depth)]


def run(path, out, reference=None, **filters):
    """The contigs of the consensus by name, and what was returned."""
    source = {"path": str(path)} | ({"reference": str(reference)} if reference else {})
    config = config_for(source, reads=filters)
    count = consensus_fasta(config.data.sources[0], config.data, out)
    with pysam.FastxFile(str(out)) as records:
        found = {record.name: record.sequence for record in records}
    assert count == len(found)
    assert sorted(p.name for p in out.parent.iterdir() if p.name.startswith(out.name)) == [out.name]
    return found


def test_bases_of_the_reads_and_n_elsewhere(tmp_path):
    path = write(tmp_path / "x.bam", pile(1, 5, 200, 600, change={300: "N", 400: "A"}) + pile(1, 5, 4_000, 4_200, "s"))
    found = run(path, tmp_path / "c.fa")
    wanted = "N" * 200 + genome(1)[200:300] + "N" + genome(1)[301:400] + "A" + genome(1)[401:600]
    wanted += "N" * 3_400 + genome(1)[4_000:4_200] + "N" * 800
    assert found == {"chr1": wanted}  # and no chr2, which has no read


def test_insertions_and_deletions_are_applied(tmp_path):
    bases = genome(1)
    insertion = ("chr1", 1, 60, "100M3I200M", bases[:100] + "ACG" + bases[100:300], "I" * 303)
    deletion = ("chr2", 1, 60, "100M5D200M", genome(2)[:100] + genome(2)[105:305], "I" * 300)
    lines = [(f"{name}{i}", 0, *line) for name, line in (("i", insertion), ("d", deletion)) for i in range(6)]
    found = run(write(tmp_path / "x.bam", lines), tmp_path / "c.fa")
    assert found["chr1"].rstrip("N") == insertion[4]
    assert found["chr2"].rstrip("N") == deletion[4]
    assert {name: len(sequence) for name, sequence in found.items()} == {"chr1": REFERENCE + 3, "chr2": REFERENCE - 5}


@pytest.mark.parametrize(("depth", "least", "covered"), [(3, 3, True), (3, 4, False), (1, 1, True)])
def test_least_depth(tmp_path, depth, least, covered):
    path = write(tmp_path / "x.bam", pile(1, 9, 0, 200) + pile(1, depth, 300, 500, "s"))
    found = run(path, tmp_path / "c.fa", min_depth=least)
    assert (found["chr1"][300:500] == genome(1)[300:500]) is covered
    assert (found["chr1"][300:500] == "N" * 200) is not covered


@pytest.mark.parametrize(
    ("reads", "filters"),
    [
        ({"mapq": 5}, {"min_mapq": 20}),
        ({"quality": "+"}, {"min_base_quality": 20}),
        ({"flag": 16}, {"exclude_flags": 16}),
        ({"flag": 0}, {"require_flags": 16}),
        ({"flag": 1}, {"require_flags": 3}),
        ({"flag": 0x400}, {"duplicates": False}),
        ({"flag": 0x200}, {"qc_fail": False}),
        ({"flag": 0x100}, {"secondary": False}),
        ({"flag": 0x800}, {"supplementary": False}),
        ({}, {"min_length": 500}),
        ({}, {"max_length": 399}),
    ],
)
def test_filters_apply(tmp_path, reads, filters):
    lines = pile(1, 9, 0, 400, **reads)
    switches = [key for key, value in filters.items() if value is False]
    path = write(tmp_path / "x.bam", lines)
    assert run(path, tmp_path / "c.fa", **dict.fromkeys(switches, True))["chr1"][:400] == genome(1)[:400]
    with pytest.raises(ValueError, match=r"x.bam: no base of the consensus is covered by 1 reads.*Loosen data.reads"):
        run(path, tmp_path / "c.fa", **filters)
    assert not (tmp_path / "c.fa").exists()


def test_long_contigs_come_line_by_line(tmp_path, monkeypatch):
    monkeypatch.setattr(consensus, "_LINE", 64)
    path = write(tmp_path / "x.bam", pile(1, 5, 1_000, 1_200) + pile(2, 5, 0, 100))
    found = run(path, tmp_path / "c.fa")
    assert found["chr1"] == "N" * 1_000 + genome(1)[1_000:1_200] + "N" * 3_800
    assert found["chr2"] == genome(2)[:100] + "N" * 4_900
    assert max(map(len, (tmp_path / "c.fa").read_text().splitlines())) == 64


def test_a_cram_gives_the_same(tmp_path):
    lines = pile(1, 5, 200, 600)
    reference = tmp_path / "genome.fa"
    reference.write_text(f">chr1\n{genome(1)}\n>chr2\n{genome(2)}\n")
    bam = write(tmp_path / "x.bam", lines)
    cram = write(tmp_path / "x.cram", lines, mode="wc", reference_filename=str(reference))
    assert run(cram, tmp_path / "d.fa", reference) == run(bam, tmp_path / "c.fa")


@pytest.mark.parametrize("order", ["unsorted", "queryname", None])
def test_needs_a_sorted_file(tmp_path, order):
    header = HEADER | {"HD": {"VN": "1.6"} | ({"SO": order} if order else {})}
    path = write(tmp_path / "x.bam", pile(1, 1, 900, 1_300) + pile(1, 1, 0, 400, "s"), header)
    with pytest.raises(ValueError, match=r"x.bam: data.reads.consensus needs alignments sorted.*samtools sort"):
        run(path, tmp_path / "c.fa")
    assert [p.name for p in tmp_path.iterdir()] == ["x.bam"]


def test_needs_alignments(tmp_path):
    path = write(tmp_path / "x.bam", [("r", 4, "*", 0, 0, "*", "ACGT", "IIII")], {"HD": {"VN": "1.6"}})
    with pytest.raises(ValueError, match=r"x.bam: a consensus needs aligned reads"):
        run(path, tmp_path / "c.fa")


def test_a_damaged_file(tmp_path):
    rng = np.random.default_rng(1)
    lines = [
        (f"r{i}", 0, "chr1", 1 + i, 60, "400M", genome(1)[i : i + 400], "".join(map(chr, rng.integers(33, 74, 400))))
        for i in range(900)
    ]
    path = write(tmp_path / "x.bam", lines)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x.bam: damaged after [1-9][0-9,]* records .*Copy or create"):
        run(path, tmp_path / "c.fa")


@pytest.mark.parametrize("filters", [{"regions": ["chr1"]}, {"fraction": 0.5}])
def test_what_cannot_go_with_a_consensus(tmp_path, filters):
    path = write(tmp_path / "x.bam", pile(1, 5, 200, 600))
    with pytest.raises(
        ValueError, match=rf"x.bam: data.reads.{next(iter(filters))} cannot go with data.reads.consensus"
    ):
        run(path, tmp_path / "c.fa", **filters)
