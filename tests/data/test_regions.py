"""BED and GFF files to intervals, names of two conventions, and intervals held against masks of bases."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics.data.regions import complement, fit_regions, intersect, merge, read_regions, subtract

LENGTH = 60


def write(folder: Path, text: str | bytes, name: str = "x.bed", packed: bool = False) -> Path:
    content = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return folder / name


def listed(regions):
    return {name: intervals.tolist() for name, intervals in regions.items()}


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("between", ["\t", "  "], ids=["tabs", "spaces"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_bed(tmp_path, packed, between, end):
    lines = [
        "browser position chr1:1-100",
        "track name=x description='y z'",
        "# chrom start end",
        "",
        "chr2 5 10 name 960 +",
        "chr1 20 30",
        "chr1 0 10 High Signal Region",
        "chr2 8 12",
        "chr1 30 31",
    ]
    text = end.join(line.replace(" ", between) for line in lines)
    assert listed(read_regions(write(tmp_path, text, packed=packed))) == {
        "chr2": [[5, 12]],
        "chr1": [[0, 10], [20, 31]],
    }


def gff_line(contig, kind, start, end, attributes="ID=x", source="Ref Seq"):
    return f"{contig}\t{source}\t{kind}\t{start}\t{end}\t.\t+\t.\t{attributes}\n"


@pytest.mark.parametrize("head", ["##gff-version 3\n", "", "#!genome-build x\n"], ids=["gff3", "bare", "gtf"])
def test_gff_counts_from_1_with_the_end_included(tmp_path, head):
    text = head + gff_line("1", "gene", 1, 10) + "\n###\n" + gff_line("1", "exon", 15, 15)
    regions = read_regions(write(tmp_path, text + "##FASTA\n>1\nACGT\n", "x.gff"))
    assert listed(regions) == {"1": [[0, 10], [14, 15]]}
    assert regions["1"].dtype == np.int64


def test_features_that_are_the_contig_itself_do_not_count(tmp_path):
    text = gff_line("1", "region", 1, 500) + gff_line("1", "gene", 11, 20) + gff_line("2", "chromosome", 1, 99)
    assert listed(read_regions(write(tmp_path, text + gff_line("1", "region", 31, 40)))) == {"1": [[10, 20], [30, 40]]}
    with pytest.raises(ValueError, match="holds no regions"):
        read_regions(write(tmp_path, gff_line("1", "region", 1, 500)))


def test_a_feature_across_the_origin_of_a_circular_contig(tmp_path):
    text = gff_line("p", "region", 1, 100, "ID=p;Is_circular=true") + gff_line("p", "gene", 91, 105)
    assert listed(read_regions(write(tmp_path, text + gff_line("p", "gene", 41, 50)))) == {
        "p": [[0, 5], [40, 50], [90, 100]]
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chr1\t0\t5\nchr1\t7\t7\n", "line 2: start 7 is not below end 7"),
        ("chr1\t9\t7\n", "line 1: start 9 is not below end 7"),
        ("# x\nchr1\t-1\t7\n", "line 2: '-1' is not a position"),
        ("chrom\tstart\tend\nchr1\t0\t5\n", "line 1: 'start' is not a position .* # begins a header line"),
        ("chr1\t0\t1e6\n", "line 1: '1e6' is not a position"),
        ("chr1\t0\t1_0\n", "line 1: '1_0' is not a position"),
        ("chr1\t0\n", "line 1: 2 columns; BED has contig, start and end"),
        (f"chr1\t0\t{10**30}\n", "line 1: no contig is 10{30} bases long"),
        ("# nothing\n", "holds no regions"),
        ("", "holds no regions"),
        (">chr1\nACGT\n", "line 1: 1 columns"),
        (b"\0\1\2\3 \n", "line 1: 1 columns"),
        ("chr1 1 " + "x" * 10_000, "line 1: 'x{40}' is not"),
        (gff_line("1", "gene", 5, 9) + gff_line("1", "gene", 0, 9), "line 2: start 0 is not between 1 and end 9"),
        (gff_line("1", "gene", 9, 5), "line 1: start 9 is not between 1 and end 5"),
        (gff_line("1", "gene", "x", 5), "line 1: 'x' is not a position .* GFF has nine columns"),
        (gff_line("1", "gene", 1, 5) + "1\t2\t3\n", "line 2: 3 columns; GFF has nine columns between tabs"),
    ],
)
def test_damaged_lines(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{path}: .*{said}") as caught:
        read_regions(path)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path):
    packed = gzip.compress(b"chr1\t0\t5\n" * 1000)
    with pytest.raises(ValueError, match="gzip data cut short"):
        read_regions(write(tmp_path, packed[:-9]))
    with pytest.raises(ValueError, match="damaged gzip data"):
        read_regions(write(tmp_path, packed[:-8] + b"\xff" * 8))
    with pytest.raises(ValueError, match="is a folder"):
        read_regions(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.bed: no such BED or GFF file"):
        read_regions(tmp_path / "none.bed")


# ---------------------------------------------------------------------------------------------- names


def fit(folder: Path, text: str, **contigs: int):
    path = write(folder, text)
    return fit_regions(read_regions(path), contigs, path, Path("genome.fa"), "data.sources[].exclude")


@pytest.mark.parametrize(
    ("names", "contigs", "fitted"),
    [
        (["chr1", "chrM"], ["chr1", "chrM", "chr2"], ["chr1", "chrM"]),
        (["chr1", "chrX", "chrM"], ["1", "X", "MT"], ["1", "X", "MT"]),
        (["1", "X", "MT"], ["chr1", "chrX", "chrM"], ["chr1", "chrX", "chrM"]),
        (["chr1", "chrM"], ["1", "chrM"], ["1", "chrM"]),
        (["1", "scaffold_7"], ["chr1", "scaffold_7"], ["chr1", "scaffold_7"]),
        (["1"], ["1", "chr1"], ["1"]),
        (["Chr1"], ["1"], ["1"]),
    ],
    ids=lambda names: "+".join(names),
)
def test_names_of_two_conventions_meet(tmp_path, names, contigs, fitted):
    text = "".join(f"{name}\t{i}\t{i + 2}\n" for i, name in enumerate(names))
    found = fit(tmp_path, text, **dict.fromkeys(contigs, 100))
    assert listed(found) == {name: [[i, i + 2]] for i, name in enumerate(fitted)}


@pytest.mark.parametrize(
    ("names", "contigs", "said"),
    [
        (["chr1", "1"], ["chr1"], "'chr1' and '1' would both be contig 'chr1' of genome.fa"),
        (["chrM", "chrMT"], ["MT"], "'chrM' and 'chrMT' would both be contig 'MT'"),
        (["M"], ["chrM", "MT"], "contig 'M' may be 'chrM' or 'MT' of genome.fa"),
    ],
)
def test_names_that_could_mean_two_things(tmp_path, names, contigs, said):
    text = "".join(f"{name}\t0\t5\n" for name in names)
    with pytest.raises(
        ValueError, match=rf"\(data.sources\[\].exclude\).*{said}.*UCSC \(chr1, chrM\) and Ensembl \(1, MT\)"
    ):
        fit(tmp_path, text, **dict.fromkeys(contigs, 100))


def test_a_contig_that_the_genome_does_not_have(tmp_path):
    with pytest.raises(
        ValueError, match=r"x.bed \(data.*\): contig 'NC_1.1' is not in genome.fa, which has 1, 2\. Ren"
    ):
        fit(tmp_path, "1\t0\t5\nNC_1.1\t0\t5\n", **{"1": 9, "2": 9})
    with pytest.raises(ValueError, match=r"has 0, 1, 2, 3, \.\.\.\. Rename"):
        fit(tmp_path, "x\t0\t5\n", **{str(i): 9 for i in range(9)})


def test_a_region_beyond_its_contig_is_named_by_its_line(tmp_path):
    text = "chr1\t0\t100\n# x\nchr2\t0\t300\nchr1\t50\t101\n"
    assert fit(tmp_path, text, **{"1": 101, "2": 300}).keys() == {"1", "2"}
    with pytest.raises(
        ValueError, match=r"line 4: chr1:50-101 \(0-based\) ends beyond its contig, which has 100 bases in genome.fa"
    ):
        fit(tmp_path, text, **{"1": 100, "2": 300})
    with pytest.raises(ValueError, match=r"line 1: p:90-105 .* which has 100 bases"):
        fit(tmp_path, gff_line("p", "gene", 91, 105), p=100)


# -------------------------------------------------------------------------------------------- algebra

pairs = st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(sorted), max_size=12)


def intervals_of(mask: np.ndarray) -> list[list[int]]:
    """The maximal runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def mask_of(intervals, length: int = LENGTH) -> np.ndarray:
    mask = np.zeros(length, dtype=bool)
    for start, end in intervals:
        mask[start:end] = True
    return mask


def array_of(intervals) -> np.ndarray:
    return np.array(intervals, dtype=np.int64).reshape(-1, 2)


@given(pairs)
def test_merge_gives_the_maximal_runs(intervals):
    merged = merge(array_of(intervals))
    assert merged.tolist() == intervals_of(mask_of(intervals))
    assert merged.dtype == np.int64
    assert merge(merged).tolist() == merged.tolist()


@given(pairs, pairs)
def test_intersect_and_subtract_as_masks_do(one, two):
    a, b = merge(array_of(one)), merge(array_of(two))
    assert intersect(a, b).tolist() == intervals_of(mask_of(one) & mask_of(two))
    assert subtract(a, b).tolist() == intervals_of(mask_of(one) & ~mask_of(two))
    assert intersect(a, b).dtype == subtract(a, b).dtype == np.int64


@given(pairs, st.integers(0, LENGTH))
def test_complement_as_masks_do(intervals, length):
    gaps = complement(merge(array_of(intervals)), length)
    assert gaps.tolist() == intervals_of(~mask_of(intervals)[:length])
    assert gaps.dtype == np.int64


@given(st.sets(st.integers(0, LENGTH)), pairs)
def test_intervals_that_touch_keep_their_edges(cuts, intervals):
    edges = sorted(cuts | {0, LENGTH})
    blocks = array_of(list(pairwise(edges)))
    pieces = intersect(blocks, merge(array_of(intervals)))
    assert merge(pieces).tolist() == intervals_of(mask_of(intervals))
    assert (pieces[1:, 0] >= pieces[:-1, 1]).all()
    inner = cuts & set(np.flatnonzero(mask_of(intervals)[1:] & mask_of(intervals)[:-1]) + 1)
    assert len(pieces) == len(merge(array_of(intervals))) + len(inner)


def test_millions_of_intervals():
    edges = np.random.default_rng(0).integers(1, 100, 2_000_000).cumsum()
    a, length = edges.reshape(-1, 2), int(edges[-1]) + 10
    gaps = complement(a, length)
    assert len(intersect(a, gaps)) == 0
    assert subtract(a, gaps).tolist() == a.tolist()
    assert (np.diff(merge(np.concatenate([gaps, a])[::-1])) == length).all()
