"""Which stretches are used and what is held out, against one base at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for

from titans_genomics.data.batch import Batch, ReadColumns
from titans_genomics.data.layout import Chosen, _sharing, choose, count_n, cut
from titans_genomics.data.shard import Shard, ShardWriter

REFERENCE = {"chr1": 5_000, "chr2": 3_000}


def no_leaks(**split: Any) -> dict[str, Any]:
    return {"validation": 0.2, "test": 0.2, **split}


def shard_of(folder: Path, label: str, contigs: Sequence[np.ndarray], what: str = "contigs") -> Shard:
    """A shard of contigs (base codes) named c0, c1, ..."""
    writer = ShardWriter(folder, label, what)
    lengths = [len(codes) for codes in contigs]
    writer.add(
        Batch(
            np.concatenate([np.zeros(0, np.uint8), *contigs]),
            [f"c{i}" for i in range(len(contigs))],
            np.cumsum([0, *lengths])[:-1],
        )
    )
    writer.finish({})
    return Shard(folder, label)


def reads_shard(folder: Path, label: str, reads: Sequence[tuple[int, int, int, int]], reference=REFERENCE) -> Shard:
    """A shard of reads: length, key, contig number (-1: not aligned), start."""
    columns = [np.array([read[i] for read in reads], dtype=np.int64) for i in range(4)]
    length, key, contig, start = columns
    aligned = contig >= 0
    writer = ShardWriter(folder, label, "reads")
    writer.add(
        Batch(
            np.zeros(int(length.sum()), dtype=np.uint8),
            [f"r{i}" for i in range(len(reads))],
            np.cumsum(length) - length,
            reads=ReadColumns(
                key,
                np.zeros(len(reads), dtype=bool),
                contig.astype(np.int32),
                np.where(aligned, start, -1),
                np.where(aligned, start + length, -1),
                np.where(aligned, 60, -1).astype(np.int16),
            ),
        )
    )
    writer.finish({"contigs": reference, "reference_bases": sum(reference.values())})
    return Shard(folder, label)


def bed(path: Path, regions: Sequence[tuple[str, int, int]]) -> str:
    path.write_text("".join(f"{name}\t{start}\t{end}\n" for name, start, end in regions))
    return str(path)


def painted(shard: Shard, contigs: Sequence[np.ndarray], regions: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """bool, shape (bases of the shard,): the bases in stretches given as contig number, start, end."""
    mask = np.zeros(shard.facts["bases"], dtype=bool)
    offset = np.cumsum([0, *map(len, contigs)])
    for contig, start, end in regions:
        mask[offset[contig] + start : offset[contig] + end] = True
    return mask


# -------------------------------------------------------------------------------------------- contigs


@st.composite
def genomes(draw):
    """Contigs with runs of N, and regions on them as (contig, start, end)."""
    contigs, regions = [], []
    for i in range(draw(st.integers(1, 4))):
        parts = draw(st.lists(st.tuples(st.booleans(), st.sampled_from([1, 4, 5, 30, 100, 260])), max_size=6))
        codes = [np.full(length, 4 if unknown else i % 4, dtype=np.uint8) for unknown, length in parts]
        contigs.append(np.concatenate([np.zeros(0, dtype=np.uint8), *codes]))
        size = len(contigs[-1])
        for _ in range(draw(st.integers(0, 3)) if size else 0):
            start = draw(st.integers(0, size - 1))
            regions.append((i, start, draw(st.integers(start + 1, size))))
    return contigs, regions


@given(
    genomes(),
    st.sampled_from(["keep", "split", "drop"]),
    st.sampled_from([1, 5, 30]),
    st.sampled_from([1, 90]),
    st.sampled_from(["block", "contig"]),
    st.sampled_from(["regions", "exclude", None]),
    st.integers(0, 9),
)
@settings(max_examples=100)
def test_contigs_against_one_base_after_the_other(
    tmp_path_factory, genome, n_runs, n_run, min_contig, by, listed, seed
):
    contigs, regions = genome
    folder = tmp_path_factory.mktemp("layout")
    shard = shard_of(folder, "x", contigs)
    entry: dict[str, Any] = {"path": "x.fa"}
    if listed and regions:
        entry[listed] = bed(folder / "r.bed", [(f"c{i}", start, end) for i, start, end in regions])
    config = config_for(
        entry, seed=seed, n_runs=n_runs, n_run=n_run, min_contig=min_contig, split=no_leaks(by=by, block=100)
    )
    record = np.repeat(np.arange(len(contigs)), [len(codes) for codes in contigs])
    position = np.concatenate([np.zeros(0, int), *(np.arange(len(codes)) for codes in contigs)])
    usable = np.array([len(contigs[i]) >= min_contig for i in record], dtype=bool)
    if listed and regions:
        usable &= painted(shard, contigs, regions) == (listed == "regions")
    unknown = np.zeros(len(record), dtype=bool)
    if n_runs != "keep":
        for i, codes in enumerate(contigs):
            for run in re.finditer(b"\x04+", codes.tobytes()):
                if run.end() - run.start() >= n_run:
                    unknown |= (record == i) & (position >= run.start()) & (position < run.end())
    used = usable & ~unknown
    if not used.any():
        with pytest.raises(ValueError, match=r"^x\.fa: nothing of it is left \("):
            choose(config, [shard])
        return
    (chosen,) = choose(config, [shard])
    check_stretches(chosen, record, used)
    blocks = np.array([max(1, round(len(contigs[i]) / 100)) if by == "block" else 1 for i in record])
    block = np.minimum(position // 100, blocks - 1) if by == "block" else np.zeros(len(record), int)
    split_of = np.repeat(chosen.split, chosen.end - chosen.begin)
    units = np.stack([record, block, np.zeros_like(record)])[:, used]
    units[2] = split_of
    assert len(np.unique(units, axis=1).T) == len(np.unique(units[:2], axis=1).T), "a block in two splits"
    check_borders(chosen, record, used, usable & unknown, n_runs == "drop")
    total = sum(entry["bases"] for entry in chosen.left_out.values())
    assert total + used.sum() == len(record)
    short = sum(len(codes) < min_contig for codes in contigs)
    assert chosen.left_out.get(f"contig shorter than {min_contig} bases", {}).get("records", 0) == short


def check_stretches(chosen: Chosen, record: np.ndarray, used: np.ndarray) -> None:
    """Stretches are sorted, lie within their records, and are exactly the used bases."""
    seen = np.zeros(len(used), dtype=int)
    for begin, end, own in zip(chosen.begin, chosen.end, chosen.record, strict=True):
        assert begin < end
        assert (record[begin:end] == own).all()
        seen[begin:end] += 1
    assert seen.tolist() == used.astype(int).tolist()
    assert (chosen.begin[1:] >= chosen.end[:-1]).all()


def check_borders(chosen: Chosen, record: np.ndarray, used: np.ndarray, dropped: np.ndarray, join: bool) -> None:
    """A stretch ends only where the record, the split or what is used does; it is joined over dropped N only."""
    following = range(1, len(chosen.begin) + 1)
    for i, after in zip(range(len(chosen.begin)), following, strict=True):
        last = after == len(chosen.begin)
        same = not last and chosen.record[i] == chosen.record[after] and chosen.split[i] == chosen.split[after]
        gap = slice(chosen.end[i], None if last else chosen.begin[after])
        if same:
            assert chosen.begin[after] > chosen.end[i], "two stretches where one would do"
        assert chosen.joined[i] == (join and same and bool(dropped[gap].all()))


def test_what_lies_beside_a_dropped_run_of_whole_blocks_is_joined(tmp_path):
    """Also in the held-out splits: a block without a base belongs to no split of its own."""
    codes = np.zeros(1_000, dtype=np.uint8)
    codes[300:650] = 4
    shard = shard_of(tmp_path, "x", [codes])
    for split in ("validation", "test", "train"):
        config = config_for({"path": "x.fa", "split": split}, n_runs="drop", split=no_leaks(block=100))
        (chosen,) = choose(config, [shard])
        assert (chosen.begin.tolist(), chosen.joined.tolist()) == ([0, 650], [True, False])
    joined = 0
    for seed in range(40):
        config = config_for("x.fa", seed=seed, n_runs="drop", split={"block": 100, "validation": 0.3, "test": 0.3})
        (chosen,) = choose(config, [shard])
        (left,) = np.flatnonzero(chosen.end == 300)
        assert chosen.joined[left] == (chosen.split[left] == chosen.split[left + 1])
        joined += bool(chosen.joined[left] and chosen.split[left])
    assert joined


def test_runs_of_n_end_at_the_border_of_a_contig(tmp_path):
    unknown, bases = np.full(60, 4, dtype=np.uint8), np.zeros(200, dtype=np.uint8)
    shard = shard_of(tmp_path, "x", [np.append(bases, unknown), np.append(unknown, bases)])
    assert shard.n_runs.tolist() == [[200, 320]]
    (chosen,) = choose(config_for("x.fa", n_runs="split", n_run=100, split={"validation": 0, "test": 0}), [shard])
    assert chosen.end.tolist() == [260, 520]
    (chosen,) = choose(config_for("x.fa", n_runs="split", n_run=60, split={"validation": 0, "test": 0}), [shard])
    assert (chosen.begin.tolist(), chosen.end.tolist()) == ([0, 320], [200, 520])
    assert chosen.left_out == {"in runs of 60 N or more": {"bases": 120, "runs": 2}}


@pytest.mark.parametrize("by", ["block", "contig"])
def test_shares_are_met_and_another_seed_splits_otherwise(tmp_path, by):
    shard = shard_of(tmp_path, "x", [np.zeros(1_000, dtype=np.uint8)] * 40)
    draws = set()
    for seed in range(5):
        config = config_for("x.fa", seed=seed, split={"by": by, "block": 100, "validation": 0.05, "test": 0.1})
        (chosen,), (again,) = choose(config, [shard]), choose(config, [shard])
        assert all(
            (getattr(chosen, name) == getattr(again, name)).all() for name in ("begin", "end", "split", "record")
        )
        bases = np.bincount(chosen.split, weights=chosen.end - chosen.begin)
        assert bases.tolist() == [34_000, 2_000, 4_000]
        draws.add(str((chosen.begin.tolist(), chosen.split.tolist())))
    assert len(draws) == 5


@pytest.mark.parametrize(("length", "borders"), [(149, set()), (151, {100}), (249, {100}), (251, {100, 200})])
def test_a_rest_of_less_than_half_a_block_belongs_to_the_block_before(tmp_path, length, borders):
    shard = shard_of(tmp_path, "x", [np.zeros(length, dtype=np.uint8), np.zeros(900, dtype=np.uint8)])
    seen: set[int] = set()
    for seed in range(20):
        (chosen,) = choose(config_for("x.fa", seed=seed, split=no_leaks(block=100)), [shard])
        seen |= set(chosen.end[chosen.record == 0].tolist()) - {length}
    assert seen == borders


def test_regions_count_in_the_shares_not_the_blocks_they_lie_in(tmp_path):
    """Ten bases of every block but the last ten blocks, which are used whole: these hold most of the bases."""
    shard = shard_of(tmp_path, "x", [np.zeros(10_000, dtype=np.uint8)])
    regions = bed(tmp_path / "r.bed", [("c0", i, i + 10 if i < 9_000 else i + 100) for i in range(0, 10_000, 100)])
    for seed in range(5):
        config = config_for({"path": "x.fa", "regions": regions}, seed=seed, split=no_leaks(block=100))
        (chosen,) = choose(config, [shard])
        bases = np.bincount(chosen.split, weights=chosen.end - chosen.begin)
        assert bases.sum() == 90 * 10 + 10 * 100
        assert abs(bases[1:] - 0.2 * bases.sum()).max() <= 50


def test_regions_and_exclude_together(tmp_path):
    shard = shard_of(tmp_path, "x", [np.zeros(500, dtype=np.uint8), np.zeros(400, dtype=np.uint8)])
    entry = {
        "path": "x.fa",
        "regions": bed(tmp_path / "r.bed", [("c1", 0, 100), ("c0", 100, 300)]),
        "exclude": bed(tmp_path / "e.bed", [("c0", 150, 160), ("c0", 290, 500)]),
    }
    (chosen,) = choose(config_for(entry, split={"validation": 0, "test": 0}), [shard])
    assert np.stack([chosen.begin, chosen.end], axis=1).tolist() == [[100, 150], [160, 290], [500, 600]]
    assert chosen.left_out == {
        "outside the source's regions": {"bases": 600},
        "in the source's exclude": {"bases": 20},
    }
    entry["regions"] = bed(tmp_path / "r.bed", [("c7", 0, 100)])
    with pytest.raises(ValueError, match=r"r\.bed \(regions\): contig 'c7' is not in x\.fa"):
        choose(config_for(entry), [shard])


def test_documents_are_used_however_short_and_cut_into_blocks(tmp_path):
    documents = [np.full(length, 78, dtype=np.uint8) for length in [*range(1, 60), 1_000]]
    shard = shard_of(tmp_path, "x", documents, "documents")
    config = config_for({"path": "x.txt", "kind": "text"}, n_runs="split", n_run=1, split=no_leaks(block=100))
    (chosen,) = choose(config, [shard])
    check_stretches(chosen, np.repeat(np.arange(60), [len(document) for document in documents]), np.ones(2_770, bool))
    assert set(chosen.split.tolist()) == {0, 1, 2}
    assert (np.bincount(chosen.record)[:-1] == 1).all()
    assert (chosen.record == 59).sum() > 1


@pytest.mark.parametrize(
    ("n_runs", "expected"),
    [
        ("keep", [(0, 250, False), (250, 350, False)]),
        ("split", [(0, 60, False), (90, 250, False), (250, 350, False)]),
        ("drop", [(0, 60, True), (90, 250, False), (250, 350, False)]),
    ],
)
def test_runs_of_n(tmp_path, n_runs, expected):
    codes = np.zeros(250, dtype=np.uint8)
    codes[60:90] = codes[120:149] = 4
    shard = shard_of(tmp_path, "x", [codes, np.zeros(100, dtype=np.uint8)])
    config = config_for("x.fa", n_runs=n_runs, n_run=30, split={"validation": 0, "test": 0})
    (chosen,) = choose(config, [shard])
    assert list(zip(chosen.begin, chosen.end, chosen.joined, strict=True)) == expected


@pytest.mark.parametrize(
    ("n_runs", "listed", "expected"),
    [
        ("keep", {}, (80, 350)),
        ("drop", {}, (21, 291)),
        ("split", {"regions": [("c0", 110, 130), ("c1", 0, 50)]}, (9, 60)),
        ("keep", {"regions": [("c0", 50, 90)]}, (30, 40)),
        ("keep", {"exclude": [("c0", 60, 149)]}, (0, 261)),
    ],
)
def test_n_is_counted_in_what_is_used(tmp_path, n_runs, listed, expected):
    codes = np.zeros(250, dtype=np.uint8)
    codes[60:90] = codes[98:119] = codes[120:149] = 4
    shard = shard_of(tmp_path, "x", [codes, np.zeros(100, dtype=np.uint8)])
    entry = {"path": "x.fa"} | {key: bed(tmp_path / "r.bed", regions) for key, regions in listed.items()}
    (chosen,) = choose(config_for(entry, n_runs=n_runs, n_run=25, split=no_leaks(block=100)), [shard])
    assert count_n(shard, chosen) == expected
    used = np.concatenate([shard.codes[begin:end] for begin, end in zip(chosen.begin, chosen.end, strict=True)])
    assert ((used == 4).sum(), len(used)) == expected


# ------------------------------------------------------------------------- splits of sources as a whole


def test_a_source_with_a_split_of_its_own(tmp_path):
    shards = [shard_of(tmp_path, name, [np.zeros(2_000, dtype=np.uint8)]) for name in "ab"]
    sources = [{"path": "a.fa", "split": "test"}, {"path": "b.fa"}]
    one, two = choose(config_for(*sources, split=no_leaks(block=100)), shards)
    assert (one.begin.tolist(), one.end.tolist(), one.split.tolist()) == ([0], [2_000], [2])
    assert set(two.split.tolist()) == {0, 1, 2}


def test_species_go_to_one_split_as_a_whole(tmp_path):
    count = 12
    shards = [shard_of(tmp_path, f"s{i}", [np.zeros(1_000 + i, dtype=np.uint8)] * 2) for i in range(count)]
    draws = set()
    for seed in range(6):
        sources: list[dict[str, Any]] = [{"path": f"s{i}.fa", "species": f"species {i // 2}"} for i in range(count)]
        sources[3]["split"] = "validation"
        config = config_for(*sources, seed=seed, split={"by": "species", "validation": 0.2, "test": 0.2})
        splits = [set(own.split.tolist()) for own in choose(config, shards)]
        assert all(len(own) == 1 for own in splits)
        assert splits[3] == {1}
        assert all(splits[i] == splits[i + 1] for i in range(0, count, 2) if i != 2)
        assert set.union(*splits) == {0, 1, 2}
        draws.add(str(splits))
    assert len(draws) > 1


# --------------------------------------------------------------------------------------------- reads

reads = st.lists(
    st.tuples(st.integers(1, 400), st.integers(0, 12), st.integers(-1, 1), st.integers(0, 2_500)),
    min_size=1,
    max_size=40,
)


def split_reads(folder: Path, made: Sequence[tuple[int, int, int, int]], entry: dict[str, Any] | None = None, **data):
    shard = reads_shard(folder, "x", made)
    return choose(config_for({"path": "x.bam"} | (entry or {}), **data), [shard])[0]


@given(reads)
@settings(max_examples=40)
def test_reads_of_one_molecule_stay_together(tmp_path_factory, made):
    chosen = split_reads(tmp_path_factory.mktemp("layout"), made, split=no_leaks())
    assert chosen.record.tolist() == list(range(len(made)))
    assert (chosen.end - chosen.begin).tolist() == [length for length, *_ in made]
    assert chosen.begin.tolist() == np.cumsum([0, *(length for length, *_ in made)])[:-1].tolist()
    assert not chosen.joined.any()
    split_of: dict[int, int] = {}
    for (_, key, _, _), split in zip(made, chosen.split.tolist(), strict=True):
        assert split_of.setdefault(key, split) == split
    assert len({key for _, key, *_ in made}) < 3 or set(split_of.values()) == {0, 1, 2}


@given(reads, st.sampled_from([100, 500, 2_000]))
@settings(max_examples=100)
def test_reads_of_one_locus_stay_together_and_no_two_splits_overlap(tmp_path_factory, made, block):
    made = [*made, (10, 99, -1, 0)]  # one that is left whatever becomes of the others
    split = no_leaks(reads="locus", block=block)
    chosen = split_reads(tmp_path_factory.mktemp("layout"), made, split=split)
    split_of: dict[Any, int] = {}
    covered = np.full((2, 3_000), -1)
    for record, split in zip(chosen.record.tolist(), chosen.split.tolist(), strict=True):
        length, key, contig, start = made[record]
        unit = (contig, (start + start + length) // 2 // block) if contig >= 0 else key
        assert split_of.setdefault(unit, split) == split
        if contig >= 0:
            there = covered[contig, start : start + length]
            assert set(there.tolist()) <= {-1, split}
            there[:] = split
    left = {*range(len(made))} - {*chosen.record.tolist()}
    for length, _, contig, start in (made[i] for i in left):
        assert contig >= 0
        assert start // block < (start + length - 1) // block, "within one block and left out"
    found = chosen.left_out.get("across the border of two splits", {"records": 0, "bases": 0})
    assert found == {"records": len(left), "bases": sum(made[i][0] for i in left)}


@given(reads, reads, st.sampled_from([100, 500]), st.integers(0, 3))
@settings(max_examples=60)
def test_files_aligned_to_one_reference_have_no_locus_on_two_sides(tmp_path_factory, one, two, block, seed):
    """The contigs of the second file stand in another order; what is not aligned shares its molecules."""
    folder = tmp_path_factory.mktemp("layout")
    made = [[*one, (10, 99, -1, 0)], [*two, (12, 99, -1, 0)]]
    references = [REFERENCE, {"more": 900} | dict(reversed(REFERENCE.items()))]
    names = [list(reference) for reference in references]
    shards = [reads_shard(folder, label, *own) for label, *own in zip("ab", made, references, strict=True)]
    split = no_leaks(reads="locus", block=block)
    split_of: dict[Any, int] = {}
    covered = {name: np.full(3_000, -1) for name in ("more", *REFERENCE)}
    for own, reads_of, contigs in zip(
        choose(config_for("a.bam", "b.bam", seed=seed, split=split), shards), made, names, strict=True
    ):
        assert len(own.begin) == len(own.record) == len(own.joined) == len(own.split)
        for record, number in zip(own.record.tolist(), own.split.tolist(), strict=True):
            length, key, contig, start = reads_of[record]
            assert (
                split_of.setdefault(
                    key if contig < 0 else (contigs[contig], (2 * start + length) // 2 // block), number
                )
                == number
            )
            if contig >= 0:
                there = covered[contigs[contig]][start : start + length]
                assert set(there.tolist()) <= {-1, number}
                there[:] = number


def test_a_rest_of_less_than_half_a_block_of_a_reference_belongs_to_the_block_before(tmp_path):
    """Of a small unit at the end, reached only by reads across its border, nothing would be left."""
    made = [(80, i, 0, 10 * i) for i in range(97)]
    shard = reads_shard(tmp_path, "x", made, {"chr1": 1_040})
    for seed in range(20):
        split = {"reads": "locus", "block": 100, "validation": 0.05, "test": 0}
        (chosen,) = choose(config_for("x.bam", seed=seed, split=split), [shard])
        assert (chosen.split == 1).any()
        assert chosen.split[chosen.record == 96] == chosen.split[chosen.record == 92]


def test_contigs_of_another_length_are_another_reference(tmp_path):
    made = [(50, i, 0, 100 * i + 20) for i in range(30)]
    shards = [reads_shard(tmp_path, label, made[i:], {"chr1": 3_100 + i}) for i, label in enumerate("ab")]
    config = config_for("a.bam", "b.bam", split=no_leaks(reads="locus", block=100))
    for together, shard in zip(choose(config, shards), shards, strict=True):
        (alone,) = choose(config_for(f"{shard.label}.bam", split=no_leaks(reads="locus", block=100)), [shard])
        assert together.split.tolist() == alone.split.tolist()


@pytest.mark.parametrize("how", ["read", "locus"])
def test_mates_in_two_files_are_on_one_side(tmp_path, how):
    """Also where their lengths differ, and one file lacks some of the molecules."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(10_000)[:200].tolist()
    shards = [
        reads_shard(tmp_path, label, [(int(rng.integers(20, 300)), key, -1, 0) for key in own], {})
        for label, own in (("a", keys), ("b", keys[50:][::-1]), ("c", [key + 20_000 for key in keys]))
    ]
    chosen = choose(config_for("a.fq", "b.fq", "c.fq", split=no_leaks(reads=how)), shards)
    split_of = dict(zip(keys, chosen[0].split.tolist(), strict=True))
    assert chosen[1].split.tolist() == [split_of[key] for key in keys[50:][::-1]]
    (alone,) = choose(config_for("c.fq", split=no_leaks(reads=how)), shards[2:])
    assert chosen[2].split.tolist() == alone.split.tolist()


def test_a_file_of_which_every_read_lies_across_two_splits(tmp_path):
    short = [(50, i, 0, 100 * i + 20) for i in range(40)]
    shards = [reads_shard(tmp_path, "a", short), reads_shard(tmp_path, "b", [(3_900, 100, 0, 30)])]
    config = config_for("a.bam", "b.bam", split=no_leaks(reads="locus", block=100))
    with pytest.raises(ValueError, match=r"b\.bam: nothing of it is left \(3,900 bases: across .*data\.split\.block"):
        choose(config, shards)


@given(st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=8))
def test_groups_that_share_nothing(values):
    groups = _sharing([np.array(own, dtype=np.int64) for own in values])
    assert sorted(i for group in groups for i in group) == list(range(len(values)))
    expected: list[tuple[set[int], set[int]]] = []
    for i, own in enumerate(values):
        near = [one for one in expected if one[1] & set(own)]
        expected = [one for one in expected if one not in near]
        expected.append((set.union({i}, *(one[0] for one in near)), set.union(set(own), *(one[1] for one in near))))
    assert sorted(groups) == sorted(sorted(members) for members, _ in expected)


def test_a_long_read_does_not_lie_across_a_block_of_another_split(tmp_path):
    """Here the blocks of its ends and its middle are of one split, at times, and one between them is not."""
    short = [(50, i, 0, 100 * i + 20) for i in range(9)]
    long, alone = (840, 100, 0, 30), 0
    for seed in range(20):
        split = {"reads": "locus", "block": 100, "validation": 0.1, "test": 0}
        chosen = split_reads(tmp_path, [*short, long], seed=seed, split=split)
        split_of = dict(zip(chosen.record.tolist(), chosen.split.tolist(), strict=True))
        assert 9 not in split_of or set(split_of.values()) == {split_of[9]}
        alone += split_of[0] == split_of[4] == split_of[8] and len(set(split_of.values())) > 1
    assert alone


@given(reads, st.sampled_from([0.01, 0.3, 1.0, 100.0]))
@settings(max_examples=40)
def test_coverage_keeps_molecules_in_the_order_of_their_keys(tmp_path_factory, made, coverage):
    chosen = split_reads(tmp_path_factory.mktemp("layout"), made, reads={"coverage": coverage}, split=no_leaks())
    sizes: dict[int, int] = {}
    for length, key, *_ in made:
        sizes[key] = sizes.get(key, 0) + length
    kept, total = set(), 0
    for key in sorted(sizes):
        total += sizes[key]
        if kept and total > coverage * sum(REFERENCE.values()):
            break
        kept.add(key)
    assert chosen.record.tolist() == [i for i, (_, key, *_) in enumerate(made) if key in kept]
    left = len(made) - len(chosen.record)
    assert chosen.left_out.get(f"beyond a coverage of {coverage:g}", {}).get("records", 0) == left


@given(
    reads,
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2_900), st.integers(1, 100)), min_size=1, max_size=6),
    st.sampled_from(["regions", "exclude"]),
)
@settings(max_examples=60)
def test_reads_are_chosen_by_what_they_are_aligned_to(tmp_path_factory, made, listed, key):
    folder = tmp_path_factory.mktemp("layout")
    covered = {name: np.zeros(length, dtype=bool) for name, length in REFERENCE.items()}
    names = list(REFERENCE)
    for contig, start, length in listed:
        covered[names[contig]][start : start + length] = True
    regions = bed(folder / "r.bed", [(names[contig], start, start + length) for contig, start, length in listed])
    hit = [contig >= 0 and covered[names[contig]][start : start + length].any() for length, _, contig, start in made]
    expected = [i for i, inside in enumerate(hit) if inside == (key == "regions")]
    if not expected:
        with pytest.raises(ValueError, match=r"x\.bam: nothing of it is left"):
            split_reads(folder, made, {key: regions})
        return
    chosen = split_reads(folder, made, {key: regions}, split=no_leaks())
    assert chosen.record.tolist() == expected
    (entry,) = chosen.left_out.values() if len(expected) < len(made) else ({"records": 0, "bases": 0},)
    left = sorted({*range(len(made))} - {*expected})
    assert entry == {"records": len(left), "bases": sum(made[i][0] for i in left)}


def test_a_read_that_only_touches_a_region_does_not_overlap_it(tmp_path):
    made = [(50, i, 0, start) for i, start in enumerate((50, 51, 199, 200))]
    for key, expected in (("regions", [1, 2]), ("exclude", [0, 3])):
        entry = {key: bed(tmp_path / "r.bed", [("chr1", 100, 200)])}
        assert split_reads(tmp_path, made, entry).record.tolist() == expected


def test_reads_without_alignments(tmp_path):
    made = [(100, i, -1, 0) for i in range(10)]
    regions = bed(tmp_path / "r.bed", [("chr1", 0, 10)])
    shard = reads_shard(tmp_path, "x", made, reference={})
    for entry, data, message in (
        ({"regions": regions}, {}, r"x\.fq: data\.sources\[\]\.regions needs aligned reads"),
        ({"exclude": regions}, {}, r"x\.fq: data\.sources\[\]\.exclude needs aligned reads"),
        ({}, {"reads": {"coverage": 2}}, r"x\.fq: data\.reads\.coverage needs aligned reads"),
    ):
        with pytest.raises(ValueError, match=message):
            choose(config_for({"path": "x.fq"} | entry, **data), [shard])
    (chosen,) = choose(config_for("x.fq", split=no_leaks(reads="locus")), [shard])
    assert set(chosen.split.tolist()) == {0, 1, 2}
    none = reads_shard(tmp_path, "none", [])
    with pytest.raises(ValueError, match=r"none\.fq: nothing of it is left \(it is empty\)"):
        choose(config_for("none.fq"), [none])


def test_reads_of_a_source_with_a_split_of_its_own(tmp_path):
    shard = reads_shard(tmp_path, "x", [(100, i, 0, 9 * i) for i in range(30)])
    (chosen,) = choose(config_for({"path": "x.bam", "split": "validation"}), [shard])
    assert set(chosen.split.tolist()) == {1}


# ----------------------------------------------------------------------------------------- intervals


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=10),
    st.lists(st.integers(-2, 90), max_size=10),
)
def test_cut(parts, borders):
    intervals, at = [], 0
    for gap, length in parts:
        intervals.append([at + gap, at + gap + length])
        at += gap + length
    borders = sorted(borders)
    expected = []
    for start, end in intervals:
        edges = [start, *sorted({border for border in borders if start < border < end}), end]
        expected += [list(pair) for pair in pairwise(edges)]
    found = cut(np.array(intervals, dtype=np.int64).reshape(-1, 2), np.array(borders, dtype=np.int64))
    assert found.tolist() == expected
