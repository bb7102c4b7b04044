from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from titans_genomics.config import LeaksConfig
from titans_genomics.data import leak_search, leak_sums
from titans_genomics.data import sketch as sketch_module
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.leak_search import find_leaks, resolve
from titans_genomics.data.leak_sums import moved
from titans_genomics.data.leaks import LARGEST, Stretches
from titans_genomics.data.sketch import COPIES, HeldOut, sketch

TRAIN, VALIDATION, TEST = range(3)
CONFIG = LeaksConfig(max_share=0.3)


def bases(length, seed):
    return np.random.default_rng(seed).integers(0, 4, size=length).astype(np.uint8)


def mutated(codes, rate, seed, indels=0.0):
    """Substitutions at ``rate``, and insertions and deletions of 1 to 8 bases at ``indels``."""
    rng = np.random.default_rng(seed)
    codes = codes.copy()
    hit = rng.random(len(codes)) < rate
    codes[hit] = (codes[hit] + rng.integers(1, 4, size=hit.sum())) % 4
    pieces, at = [], 0
    for place in np.flatnonzero(rng.random(len(codes)) < indels).tolist():
        pieces.append(codes[at:place])
        length = int(rng.integers(1, 9))
        if rng.random() < 0.5:
            pieces.append(rng.integers(0, 4, size=length).astype(np.uint8))
            at = place
        else:
            at = place + length
    return np.concatenate([*pieces, codes[at:]])


def make(*sources, unit=None, record=None):
    """Stretches of sources given as (name, codes, [(begin, end, split), ...]); each is a record of its own name + number."""
    rows = [(i, *stretch) for i, (_, _, own) in enumerate(sources) for stretch in own]
    source, begin, end, split = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    names = [f"{sources[i][0]}_{n}" for n, (i, *_) in enumerate(rows)]
    return Stretches(
        [name for name, _, _ in sources],
        [codes for _, codes, _ in sources],
        source,
        begin,
        end,
        split.astype(np.int8),
        lambda number: (names[number], 1_000 * number),
        unit,
        record,
    )


def whole(name, codes, split):
    return name, codes, [(0, len(codes), split)]


def tiled(name, codes, length, split):
    return name, codes, [(at, at + length, split) for at in range(0, len(codes) - length + 1, length)]


def share_of(train, held, config=CONFIG):
    return find_leaks(make(whole("a", train, TRAIN), whole("b", held, TEST)), config).share("b", "test")


def naive_sketch(codes, k, scale):
    """Hash and directed place of the kept k-mers, as the module's text has them."""
    found = []
    for i in range(len(codes) - k + 1):
        kmer = codes[i : i + k]
        if kmer.max() > 3:
            continue
        forward, reverse = (
            sum(int(code) << 2 * (k - 1 - j) for j, code in enumerate(one)) for one in (kmer, 3 - kmer[::-1])
        )
        mixed = min(forward, reverse) * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 % 2**64
        if mixed <= (2**64 - 1) // scale and mixed not in [hashed for hashed, _ in found[-2:]]:
            found.append((mixed, 2 * i + (reverse < forward)))
    return found


def sketched(codes, k=21, scale=4, offset=0):
    found = []
    for hashes, places, _ in sketch(codes, np.array([0]), np.array([len(codes)]), offset, k, scale):
        found += zip(hashes.tolist(), places.tolist(), strict=True)
    return found


@pytest.mark.parametrize(("k", "scale"), [(15, 1), (20, 3), (21, 16), (31, 7)])
def test_sketch_is_the_naive_one(k, scale):
    codes = bases(3_000, 1)
    codes[[5, 700, 701, 2_999]] = 4
    codes[1_000:1_200] = 0
    codes[1_300:1_500] = np.arange(200) % 2
    assert sketched(codes, k, scale) == naive_sketch(codes, k, scale)


@pytest.mark.parametrize("scale", [1, 16])
def test_sketch_keeps_one_in_scale(scale):
    kept = len(sketched(bases(400_000, 2), scale=scale))
    assert abs(kept * scale / 400_000 - 1) < 0.03


def test_both_strands_have_the_same_sketch():
    codes = bases(20_000, 3)
    last = 2 * (len(codes) - 21)
    here = [(hashed, place & 1, place - (place & 1)) for hashed, place in sketched(codes)]
    there = [
        (hashed, 1 - (place & 1), last - place + (place & 1)) for hashed, place in sketched(reverse_complement(codes))
    ]
    assert here == there[::-1]
    assert {strand for _, strand, _ in here} == {0, 1}


def test_sketch_does_not_depend_on_the_pieces(monkeypatch):
    codes = bases(20_000, 4)
    in_one = sketched(codes, offset=77)
    monkeypatch.setattr(sketch_module, "_PIECE", 1_000)
    assert sketched(codes, offset=77) == in_one


def test_places_of_train_do_not_depend_on_their_order():
    hashes = np.array([5, 9, 5, 12], dtype=np.uint64)
    train = np.repeat(np.array([5, 9, 11], dtype=np.uint64), 6), np.arange(18) * 2
    order = np.random.default_rng(0).permutation(18)
    slots = []
    for own in (np.arange(18), order):
        held = HeldOut(hashes, np.arange(4) * 2)
        held.add(train[0][own], train[1][own])
        slots.append((held._filled.tolist(), held._slots[:2].tolist()))
    assert slots[0] == slots[1]
    assert slots[0] == ([COPIES, COPIES, 0], [[0, 2, 4, 6], [12, 14, 16, 18]])


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_copy_is_found_and_named(strand):
    train, held = bases(50_000, 5), bases(30_000, 6)
    copy = train[20_000:26_000]
    held[10_000:16_000] = copy if strand == "+" else reverse_complement(copy)
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", held, VALIDATION)), CONFIG)
    (match,) = found.held[0].matches
    assert match.strand == strand
    assert match.identity == 1
    assert (match.held.source, match.held.record) == ("b", "b_1")
    assert (match.train.source, match.train.record) == ("a", "a_0")
    near = np.array([match.held.start - 1_000, match.held.end - 1_000, match.train.start, match.train.end])
    assert np.abs(near - [10_000, 16_000, 20_000, 26_000]).max() < 150
    assert found.share("b", "validation") == pytest.approx(0.2, abs=0.01)
    assert found.share("b", "test") == 0
    assert found.covered.tolist() == [0, found.held[0].covered]


@pytest.mark.parametrize("turn", [lambda codes: codes, reverse_complement], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("rate", "least"), [(0, 0.999), (0.01, 0.999), (0.02, 0.998), (0.05, 0.98), (0.08, 0.85), (0.10, 0.65)]
)
def test_mutated_copies_are_found(rate, least, turn):
    train = bases(200_000, 7)
    held = turn(mutated(train, 0.9 * rate, 8, indels=0.1 * rate))
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", held, TEST)), CONFIG)
    assert found.share("b", "test") >= least
    assert found.held[0].pairs[0].identity == pytest.approx(1 - rate, abs=0.004 if rate <= 0.05 else 0.02)


def test_unrelated_sequence_is_not_found():
    found = find_leaks(make(whole("a", bases(1_000_000, 9), TRAIN), whole("b", bases(1_000_000, 10), TEST)), CONFIG)
    assert found.covered.sum() == 0
    assert found.held[0].pairs == found.held[0].matches == ()
    assert found.message(0) == ""


def test_far_relatives_are_not_called_near_duplicates():
    train = bases(200_000, 11)
    assert share_of(train, mutated(train, 0.25, 12)) < 0.01


@pytest.mark.parametrize(("length", "counted"), [(350, False), (450, False), (650, True), (5_000, True)])
def test_matches_count_from_min_length_on(length, counted):
    train, held = bases(20_000, 13), bases(20_000, 14)
    held[7_000 : 7_000 + length] = train[3_000 : 3_000 + length]
    assert (share_of(train, held) > 0) == counted


@pytest.mark.parametrize(("islands", "counted"), [((0, 480), False), ((0, 240, 480), True), ((0, 240), False)])
def test_a_long_match_needs_three_shared_kmers(islands, counted):
    train, held = bases(5_000, 90), bases(5_000, 91)
    for at in islands:
        held[1_999 + at : 2_022 + at] = train[2_999 + at : 3_022 + at]
        held[[1_999 + at, 2_021 + at]] ^= 1  # 21 bases are shared, not one more
    found = share_of(train, held, LeaksConfig(scale=1))
    assert found == (pytest.approx(501 / 5_000, abs=0.02) if counted else 0)


def test_scattered_pieces_are_no_match():
    train = bases(200_000, 92)
    starts = np.random.default_rng(93).integers(0, len(train) - 60, size=500)
    assert share_of(train, np.concatenate([train[at : at + 60] for at in starts])) == 0


def test_every_train_source_is_counted_for_itself():
    genome = bases(40_000, 94)
    strains = [whole(f"s{i}", mutated(genome, 0.02, 95 + i), TRAIN) for i in range(6)]
    found = find_leaks(make(*strains, whole("held", strains[-1][1], TEST)), CONFIG).held[0]
    assert found.covered > 0.99 * found.judged
    assert len(found.pairs) == 6
    assert (found.pairs[0].train, found.pairs[0].bases, found.pairs[0].identity) == ("s5", found.covered, 1)
    assert all(pair.bases > 0.9 * found.judged and 0.94 < pair.identity < 0.98 for pair in found.pairs[1:])


def test_rearranged_copies_are_found():
    train = bases(60_000, 15)
    blocks = [train[at : at + 5_000] for at in range(0, 60_000, 5_000)]
    order = np.random.default_rng(0).permutation(len(blocks)).tolist()
    held = np.concatenate([reverse_complement(blocks[i]) if i % 2 else blocks[i] for i in order])
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", held, TEST)), CONFIG)
    assert found.share("b", "test") > 0.99
    assert len(found.held[0].matches) >= 10
    assert {match.strand for match in found.held[0].matches} == {"+", "-"}


def test_n_breaks_no_match_and_makes_none():
    train = bases(50_000, 16)
    held = train.copy()
    held[::150] = 4
    held[20_000:20_300] = 4
    assert share_of(train, held) > 0.99
    nothing = np.full(50_000, 4, dtype=np.uint8)
    assert share_of(nothing, nothing) == 0


def test_short_stretches_are_judged():
    train = bases(100_000, 17)
    reads, strange = mutated(train, 0.005, 18), bases(30_000, 19)
    found = find_leaks(
        make(whole("a", train, TRAIN), tiled("b", reads, 150, TEST), tiled("c", strange, 150, TEST)), CONFIG
    )
    assert (found.covered[1:667] > 45).mean() > 0.98
    assert found.share("b", "test") > 0.9
    assert found.share("c", "test") == 0


def test_reads_that_overlap_by_half_are_found():
    genome = bases(60_000, 20)
    rng = np.random.default_rng(21)
    at = rng.integers(0, len(genome) - 150, size=4_000)
    reads = genome[at[:, None] + np.arange(150)]
    turned = rng.random(4_000) < 0.5
    reads[turned] = reverse_complement(reads[turned])
    split = np.where(np.arange(4_000) < 200, TEST, TRAIN)
    rows = [(150 * i, 150 * i + 150, label) for i, label in enumerate(split.tolist())]
    found = find_leaks(make(("reads", reads.reshape(-1), rows)), CONFIG)
    assert found.share("reads", "test") > 0.9
    assert "data.split.reads locus" in found.message(0.3)


def test_a_frequent_repeat_is_covered_once():
    element = bases(1_000, 22)
    train = np.concatenate([np.concatenate([mutated(element, 0.01, i), bases(200, 100 + i)]) for i in range(600)])
    held = bases(200_000, 23)
    for i in range(60):
        held[3_000 * i : 3_000 * i + 1_000] = mutated(element, 0.01, 10_000 + i)
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", held, TEST)), CONFIG)
    assert found.share("b", "test") == pytest.approx(0.3, abs=0.03)
    assert len(found.held[0].matches) == LARGEST
    loci = sorted(match.held for match in found.held[0].matches)
    assert all(left.end <= right.start + 500 for left, right in pairwise(loci))


def test_a_tandem_repeat_is_hardly_kept():
    repeat = np.tile(bases(9, 24), 20_000)
    assert len(sketched(repeat, scale=1)) == len(repeat) - 20
    assert len(sketched(repeat, scale=6)) < len(repeat) / 4
    assert len(sketched(np.zeros(10_000, dtype=np.uint8), scale=1)) == 1


def test_matches_stay_within_their_stretches():
    rng = np.random.default_rng(25)
    genome = bases(100_000, 26)
    edges = [0, *sorted(rng.choice(np.arange(1, 100_000), size=80, replace=False).tolist()), 100_000]
    cut = [(a, b, int(rng.integers(3))) for a, b in pairwise(edges)]
    copy = mutated(genome, 0.02, 27)
    stretches = make(("a", genome, cut), ("b", reverse_complement(copy), [(a, b, 2 - s) for a, b, s in cut]))
    found = find_leaks(stretches, LeaksConfig(min_length=100))
    length = stretches.end - stretches.begin
    assert (found.covered <= length).all()
    assert (found.covered[stretches.split == TRAIN] == 0).all()
    assert found.covered.sum() > 0
    for held in found.held:
        assert held.covered <= held.judged
        for match in held.matches:
            for locus, splits in ((match.held, (VALIDATION, TEST)), (match.train, (TRAIN,))):
                number = int(locus.record.split("_")[1])
                assert stretches.split[number] in splits
                assert 1_000 * number <= locus.start < locus.end <= 1_000 * number + length[number]


def test_the_order_of_stretches_does_not_matter():
    genome = bases(120_000, 28)
    rows = [(at, at + 6_000, int(label)) for at, label in zip(range(0, 60_000, 6_000), "0012001202", strict=True)]
    others = [(a, b, 2 - label) for a, b, label in rows]
    ordered = make(("a", genome, rows), ("b", genome[:60_000], others))
    order = np.random.default_rng(1).permutation(20)
    columns = {name: getattr(ordered, name)[order] for name in ("source", "begin", "end", "split")}
    shuffled = replace(ordered, **columns, locus=lambda number: ordered.locus(int(order[number])))
    first, again, other = find_leaks(ordered, CONFIG), find_leaks(ordered, CONFIG), find_leaks(shuffled, CONFIG)
    assert first.held == again.held == other.held
    assert (first.covered[order] == other.covered).all()
    assert first.covered.sum() > 0


def test_windows_change_next_to_nothing(monkeypatch):
    train = bases(300_000, 29)
    held = mutated(train, 0.03, 30)
    stretches = make(whole("a", train, TRAIN), ("b", held, [(0, 250_000, TEST), (250_000, len(held), VALIDATION)]))
    in_one = find_leaks(stretches, CONFIG)
    monkeypatch.setattr(leak_search, "_WINDOW", 1_000)
    cut = find_leaks(stretches, CONFIG)
    assert len(cut.held[1].matches) > len(in_one.held[1].matches)
    assert np.abs(cut.covered - in_one.covered).max() < 2_000
    assert (cut.covered <= stretches.end - stretches.begin).all()


def test_of_much_sequence_fewer_kmers_are_compared(monkeypatch):
    monkeypatch.setattr(leak_search, "_MOST", 4_000)
    train = bases(500_000, 31)
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", mutated(train, 0.02, 32), TEST)), CONFIG)
    assert found.held[0].scale > 100
    assert found.share("b", "test") > 0.98


def test_of_very_many_reads_a_sample_is_judged(monkeypatch):
    monkeypatch.setattr(leak_search, "_MOST", 3_000)
    monkeypatch.setattr(leak_search, "_MANY", 100)
    train = bases(150_000, 33)
    reads = np.concatenate([train, bases(150_000, 34)])
    stretches = make(whole("a", train, TRAIN), tiled("b", reads, 250, TEST), whole("c", train[:20_000], TEST))
    found = find_leaks(stretches, CONFIG)
    judged = found.judged[1:1_201]
    assert 100 < judged.sum() < 600
    assert found.judged[1_201]
    assert found.held[0].judged == 250 * judged.sum()
    assert found.share("b", "test") == pytest.approx(0.5, abs=0.12)
    assert found.share("c", "test") > 0.95
    assert [held.source for held in found.above(CONFIG.max_share)] == ["c", "b"]
    split, left, _ = resolve(stretches, CONFIG)
    assert (split[1:1_201][~judged] == TRAIN).all()
    assert left.above(CONFIG.max_share) == []


def test_move_reaches_a_fixpoint():
    x, y, z = (bases(10_000, 40 + i) for i in range(3))
    stretches = make(
        whole("kept", bases(30_000, 50), TEST),
        whole("train", np.concatenate([bases(30_000, 51), x]), TRAIN),
        whole("third", reverse_complement(np.concatenate([y, z])), VALIDATION),
        whole("second", np.concatenate([x, y]), TEST),
        whole("fourth", np.concatenate([bases(5_000, 52), z]), TEST),
    )
    first = find_leaks(stretches, CONFIG)
    assert moved(stretches, first, CONFIG).tolist() == [3]
    split, left, numbers = resolve(stretches, CONFIG)
    assert numbers.tolist() == [2, 3, 4]
    assert split.tolist() == [TEST, TRAIN, TRAIN, TRAIN, TRAIN]
    assert stretches.split.tolist() == [TEST, TRAIN, VALIDATION, TEST, TEST]
    assert moved(replace(stretches, split=split), left, CONFIG).tolist() == []
    assert [held.source for held in left.held] == ["kept"]


def test_what_resolve_leaves_is_what_find_leaks_finds():
    rng = np.random.default_rng(60)
    genome = bases(400_000, 61)
    strains = [("s0", genome), ("s1", mutated(genome, 0.02, 62)), ("s2", reverse_complement(mutated(genome, 0.04, 63)))]
    sources = []
    for name, codes in strains:
        codes = codes.copy()
        codes[: len(codes) // 3] = bases(len(codes) // 3, int(name[1]))
        rows = tiled(name, codes, 5_000, TRAIN)[2]
        sources.append((name, codes, [(a, b, int(rng.choice(3, p=[0.5, 0.25, 0.25]))) for a, b, _ in rows]))
    stretches = make(*sources)
    split, left, numbers = resolve(stretches, CONFIG)
    fresh = find_leaks(replace(stretches, split=split), CONFIG)
    assert len(numbers) > 20
    assert fresh.held == left.held
    assert (fresh.covered == left.covered).all()
    assert (split[numbers] == TRAIN).all()
    assert (np.delete(split, numbers) == np.delete(stretches.split, numbers)).all()
    assert (left.covered <= CONFIG.max_share * (stretches.end - stretches.begin)).all()


def test_mates_move_together():
    train = bases(20_000, 70)
    reads = np.concatenate([train[:300], bases(300, 71), bases(600, 72)])
    stretches = make(
        whole("a", train, TRAIN),
        tiled("b", reads, 300, TEST),
        whole("c", bases(300, 73), TEST),
        unit=np.array([-1, 7, 7, 8, 8, 7]),
    )
    assert moved(stretches, find_leaks(stretches, CONFIG), CONFIG).tolist() == [1, 2, 5]


def contig_by_contig(records, genome, small=1_000):
    """Of contigs of these numbers, and 100 kb more, all that is held out: a small stretch of each, and then a large one."""
    parts, rows = [], []
    for number, (own, copied) in enumerate(records):
        codes = bases(own, 100 + number)
        codes[:copied] = mutated(genome[10_000 * number : 10_000 * number + copied], 0.01, number)
        rows += [(sum(map(len, parts)), sum(map(len, parts)) + small, TEST)]
        rows += [(rows[-1][1], rows[-1][0] + own, TEST)]
        parts.append(codes)
    start = sum(map(len, parts))
    codes = np.concatenate([*parts, bases(100_000, 99)])
    numbers = [-1, *np.repeat(np.arange(len(records)) + 5, 2).tolist(), 99]
    return make(whole("a", genome, TRAIN), ("b", codes, [*rows, (start, len(codes), TEST)]), record=np.array(numbers))


def test_contigs_are_judged_by_themselves(monkeypatch):
    monkeypatch.setattr(leak_sums, "LEAST", 5_000)
    genome = bases(60_000, 74)
    stretches = contig_by_contig([(6_000, 5_000), (6_000, 1_000), (4_900, 4_900), (9_000, 3_500), (8_000, 0)], genome)
    found = find_leaks(stretches, CONFIG)
    assert found.above(0.3) == []
    assert [one.judged for one in found.records] == [6_000, 6_000, 9_000]
    assert [one.share for one in found.records] == pytest.approx([5 / 6, 1 / 6, 3.5 / 9], abs=0.02)
    assert [(one.source, one.record, one.split) for one in found.records_above(0.3)] == [
        ("b", "b_1", "test"),
        ("b", "b_7", "test"),
    ]
    for one, number, name in zip(found.records_above(0.3), (0, 3), ("b_2", "b_8"), strict=True):
        assert one.match.held.record == name  # of the two stretches of the contig the one with the longest match
        assert one.match.train.start // 1_000 == 10 * number + 1
    message = found.message(0.3)
    assert "b_1 of b (test): 8" in message
    assert str(found.records_above(0.3)[0].match.train) in message
    assert "by species" in message
    assert "b_3" not in message
    assert found.message(0.9) == ""
    plain = json.loads(json.dumps(found.as_dict(0.3)))
    assert plain["records_above"] == len(plain["records"]) == 2
    assert plain["records"][0]["match"]["train"]["source"] == "a"


def test_of_a_source_that_is_above_no_contig_is_named():
    genome = bases(60_000, 74)
    found = find_leaks(make(whole("a", genome, TRAIN), whole("b", genome, TEST), record=np.array([0, 1])), CONFIG)
    assert len(found.records) == len(found.above(0.3)) == 1
    assert found.records_above(0.3) == []


def test_the_largest_match_of_a_contig_is_that_of_all_windows(monkeypatch):
    monkeypatch.setattr(leak_sums, "LEAST", 5_000)
    stretches = contig_by_contig([(6_000, 5_000), (9_000, 3_500)], bases(60_000, 74), small=4_500)
    in_one = find_leaks(stretches, CONFIG).records
    monkeypatch.setattr(leak_search, "_WINDOW", 50)
    cut = find_leaks(stretches, CONFIG).records
    for one, other in zip(in_one, cut, strict=True):
        assert one[:4] == other[:4]
        assert one.match.held.record == other.match.held.record


def test_the_message_names_sources_loci_and_remedies():
    train = bases(40_000, 80)
    held = np.concatenate([bases(10_000, 81), reverse_complement(train[10_000:30_000])])
    found = find_leaks(make(whole("mg1655", train, TRAIN), whole("dh1", held, TEST)), CONFIG)
    message = found.message(0.3)
    (match,) = found.held[0].matches
    assert f"{match.held} of dh1 is {match.train} of mg1655, strand -" in message
    assert str(match.train).startswith("mg1655_0:")
    assert "dh1 (test): 66." in message
    assert "max_share allows 30.0%" in message
    for remedy in (
        "data.split.by species",
        "sample sheet",
        "data.split.leaks.action move",
        "data.split.leaks.max_share",
    ):
        assert remedy in message
    assert "data.split.block" not in message
    assert found.message(0.7) == ""
    assert [held.source for held in found.above(0.3)] == ["dh1"]


def test_a_source_that_repeats_itself_gets_its_own_remedy():
    genome = np.concatenate([bases(40_000, 82)] * 2)
    found = find_leaks(make(("a", genome, [(0, 40_000, TRAIN), (40_000, 80_000, VALIDATION)])), CONFIG)
    assert "data.split.block" in found.message(0.3)
    assert "by species" not in found.message(0.3)


def test_what_the_manifest_gets():
    train = bases(40_000, 83)
    stretches = make(
        whole("a", train, TRAIN), whole("b", train[5_000:25_000], TEST), whole("c", bases(5_000, 84), TEST)
    )
    found = find_leaks(stretches, CONFIG)
    plain = json.loads(json.dumps(found.as_dict(0.3)))
    assert plain["k"] == 21
    b, c = plain["held"]
    assert (b["source"], b["split"], b["judged"], c["covered"], c["pairs"]) == ("b", "test", 20_000, 0, [])
    assert b["share"] == b["pairs"][0]["share"] == found.share("b", "test") > 0.99
    assert b["matches"][0]["train"] == {"source": "a", "record": "a_0", "start": 5_000, "end": 25_000}


def test_all_sequence_is_counted_and_memory_maps_are_read(tmp_path):
    genome = bases(100_000, 85)
    genome.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", dtype=np.uint8, mode="r")
    seen = []
    stretches = make(("a", mapped, [(0, 50_000, TRAIN), (60_000, 100_000, TEST)]))
    assert find_leaks(stretches, CONFIG, seen.append).share("a", "test") == 0
    assert sum(seen) == 90_000


def test_nothing_held_out_is_no_leak():
    train = bases(5_000, 86)
    found = find_leaks(make(whole("a", train, TRAIN)), CONFIG)
    assert found.held == ()
    assert found.share("a", "test") == 0
    tiny = find_leaks(make(whole("a", train, TRAIN), whole("b", train[:15], TEST)), CONFIG)
    assert tiny.share("b", "test") == 0
