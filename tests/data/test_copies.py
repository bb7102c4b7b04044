from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from making import random_bases

from titans_genomics.data.alphabet import encode
from titans_genomics.data.labelled import copies as copies_module
from titans_genomics.data.labelled.copies import distinct, find_copies, kmer_length
from titans_genomics.data.labelled.intervals import Intervals, interval_leaks, interval_overlap


def packed(sequences):
    codes = [encode(sequence) for sequence in sequences]
    return np.concatenate(codes), np.concatenate([[0], np.cumsum([len(c) for c in codes])]).astype(np.int64)


def turned(sequence):
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def search(references, queries, **options):
    """`find_copies` of letters in letters."""
    codes, offsets = packed([*references, *queries])
    rows = np.arange(len(references) + len(queries))
    return find_copies(codes, offsets, rows[: len(references)], rows[len(references) :], **options)


def canonical(sequence, k):
    """The canonical k-mer from each base on; None where it holds an N."""
    words = [sequence[i : i + k] for i in range(len(sequence) - k + 1)]
    return [None if "N" in word else min(word, turned(word)) for word in words]


def naive(references, queries, k, near):
    held = [set(canonical(reference, k)) - {None} for reference in references]
    found = []
    for query in queries:
        if query in references or turned(query) in references:
            found.append((2, 1.0))
            continue
        if len(query) < k:
            share = float(any("N" not in query and (query in r or turned(query) in r) for r in references))
            found.append((int(share >= near), share))
            continue
        covered = [set() for _ in held]
        for i, word in enumerate(canonical(query, k)):
            for own, bases in zip(held, covered, strict=True):
                if word in own:
                    bases |= set(range(i, i + k))
        share = max(map(len, covered), default=0) / len(query)
        found.append((int(share >= near), share))
    return [copy for copy, _ in found], [share for _, share in found]


# --------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("seed", range(40))
def test_copies_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    k, near = int(rng.integers(1, 9)), float(rng.choice([0.25, 0.5, 0.8]))
    sequences = [
        "".join(rng.choice(list("ACGTN"), size=rng.integers(1, 40), p=[0.3, 0.2, 0.2, 0.26, 0.04])) for _ in range(12)
    ]
    sequences += [sequences[0], turned(sequences[1]), sequences[2][3:] + "ACG"]
    order = rng.permutation(len(sequences))
    references, queries = [sequences[i] for i in order[:8]], [sequences[i] for i in order[8:]]
    found, share = search(references, queries, k=k, near=near)
    expected, expected_share = naive(references, queries, k, near)
    assert found.tolist() == expected
    assert share == pytest.approx(expected_share)
    assert (found.dtype, share.dtype) == (np.uint8, np.float32)


@pytest.mark.parametrize("strand", [str, turned], ids=["plus", "minus"])
@pytest.mark.parametrize(
    ("shift", "copy", "share"), [(0, 2, 1.0), (1, 1, 0.99), (50, 1, 0.5), (51, 0, 0.49), (79, 0, 0.21), (80, 0, 0.0)]
)
def test_shifted_window_shares_what_both_hold(shift, copy, share, strand):
    locus = random_bases(200, seed=1)
    found, shares = search([random_bases(100, seed=2), locus[:100]], [strand(locus[shift : shift + 100])])
    assert found.tolist() == [copy]
    assert shares == pytest.approx([share])


def test_halves_of_two_references_do_not_add_up():
    locus = random_bases(100, seed=3)
    found, share = search([locus[:45], locus[45:85]], [locus])
    assert found.tolist() == [0]
    assert share == pytest.approx([0.45])


def test_part_of_a_longer_reference_is_near_and_not_verbatim():
    locus = random_bases(300, seed=4)
    found, share = search([locus], [locus[100:200]])
    assert found.tolist() == [1]
    assert share.tolist() == [1.0]


def test_n_is_in_no_shared_kmer():
    locus = random_bases(100, seed=5)
    holed = locus[:50] + "N" + locus[51:]
    found, share = search([locus, "N" * 60], [holed, "N" * 50])
    assert found.tolist() == [1, 0]
    assert share == pytest.approx([0.99, 0.0])
    _, share = search([locus], [holed[:30] + "N" + holed[31:]])
    assert share == pytest.approx([(30 + 49) / 100])  # the 19 bases between both N are shorter than a k-mer


def test_shorter_than_a_kmer_is_looked_for_as_a_whole():
    locus = random_bases(50, seed=13)
    queries = [
        "ACGTTG",
        "CAACGT",
        "ACGTTC",
        locus[7:25],
        turned(locus[30:]),
        locus[7:24] + "N",
        "N" * 5,
        locus[7:15] + locus[20:28],
    ]
    found, share = search(["ACGTTG", locus], queries)
    assert found.tolist() == [2, 2, 0, 1, 1, 0, 0, 0]
    assert share.tolist() == [1, 1, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("median", "k"),
    [(1, 17), (20, 17), (35.5, 17), (36, 15), (60, 15), (63.5, 15), (64, 16), (72, 18), (84, 21), (400, 21)],
)
def test_k_goes_by_the_median_length(median, k):
    assert kmer_length(median) == k


def test_evenly_changed_short_sequences_are_near():
    originals = [random_bases(63, seed=seed) for seed in range(50)]
    changed = [  # every 16th base another
        "".join("CGTA"["ACGT".index(b)] if i % 16 == 15 else b for i, b in enumerate(bases)) for bases in originals
    ]
    assert search(originals, changed, k=21)[0].tolist() == [0] * 50
    found, share = search(originals, [turned(one) for one in changed], k=kmer_length(63))
    assert found.tolist() == [1] * 50
    assert share == pytest.approx(60 / 63)


@pytest.mark.parametrize(("length", "most"), [(20, 10), (30, 10), (36, 10), (60, 0), (80, 0)])
def test_random_short_sequences_are_not_near(length, most):
    """5,000 against 20,000: a few by chance where half is 18 bases or fewer."""
    codes = np.random.default_rng(length).integers(4, size=25_000 * length).astype(np.uint8)
    rows = np.arange(25_001)
    found, _ = find_copies(codes, rows * length, rows[:20_000], rows[20_000:-1], k=kmer_length(length))
    assert (found == 1).sum() <= most


def test_repeats_within_a_sequence_count_once():
    found, share = search(["A" * 60], ["A" * 40 + random_bases(40, seed=6), "T" * 70])
    assert found.tolist() == [1, 1]
    assert share[1] == 1.0
    assert 0.5 <= share[0] < 0.6


def test_nothing_to_search_in_or_for():
    codes, offsets = packed([random_bases(50, seed=7), random_bases(50, seed=8)])
    none, rows = np.array([], dtype=np.int64), np.arange(2)
    found, share = find_copies(codes, offsets, none, rows)
    assert found.tolist() == [0, 0]
    assert share.tolist() == [0, 0]
    found, share = find_copies(codes, offsets, rows, none)
    assert found.shape == share.shape == (0,)


def test_batches_pieces_and_threads_change_nothing(monkeypatch):
    locus = random_bases(5_000, seed=9)
    rng = np.random.default_rng(10)
    windows = [locus[i : i + 90] for i in rng.integers(0, 4_900, size=300)]
    windows = [turned(w) if i % 3 else w for i, w in enumerate(windows)]
    whole = search(windows[:200], windows[200:])
    assert len(set(whole[0].tolist())) > 1
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda _: search(windows[:200], windows[200:]), range(4)))
    monkeypatch.setattr(copies_module, "_BATCH", 1_000)
    monkeypatch.setattr(copies_module, "_PIECE", 500)
    for found, share in [*beside, search(windows[:200], windows[200:])]:
        assert np.array_equal(found, whole[0])
        assert np.array_equal(share, whole[1])


def test_distinct_sequences_are_numbered_by_the_first_of_either_strand():
    first, other = random_bases(30, seed=11), random_bases(30, seed=12)
    sequences = [first, other, turned(first), first[:-1], first, "ACGT", "ACGT", "ANGT", "ACNT", "ANG"]
    assert distinct(*packed(sequences)).tolist() == [0, 1, 0, 3, 0, 5, 5, 7, 7, 9]


# ------------------------------------------------------------------------------------- intervals


def intervals(*rows):
    region, start, end = zip(*rows, strict=True) if rows else ((), (), ())
    return Intervals(np.array(region, dtype=str), np.array(start, dtype=np.int64), np.array(end, dtype=np.int64))


@pytest.mark.parametrize("seed", range(20))
def test_overlap_is_that_of_the_definition(seed):
    rng = np.random.default_rng(seed)

    def drawn(n):
        start = rng.integers(0, 60, size=n)
        end = start + rng.integers(1, 25, size=n)
        return list(
            zip(rng.choice(["chr1", "chr2", "chrX"], size=n).tolist(), start.tolist(), end.tolist(), strict=True)
        )

    train, test = drawn(int(rng.integers(1, 40))), drawn(40)
    covered, verbatim = interval_overlap(intervals(*train), intervals(*test))
    for i, (region, start, end) in enumerate(test):
        overlaps = [max(0, min(e, end) - max(s, start)) for r, s, e in train if r == region]
        assert covered[i] == max(overlaps, default=0) / (end - start)
        assert verbatim[i] == ((region, start, end) in train)


def test_no_intervals_overlap_nothing():
    some = intervals(("chr1", 0, 10))
    assert interval_overlap(intervals(), some)[0].tolist() == [0.0]
    assert interval_overlap(some, intervals())[1].tolist() == []


def benchmark(folder, files):
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["id,region,start,end,strand", *(f"{i},{r},{s},{e},+" for i, (r, s, e) in enumerate(rows))]
        text = "\n".join(lines) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder


def test_leaks_of_a_benchmark_by_class_and_overall(tmp_path):
    folder = benchmark(
        tmp_path,
        {
            "train/negative.csv": [("1", 0, 100), ("2", 500, 600)],
            "train/positive.csv.gz": [("X", 0, 100)],
            "test/negative.csv": [("1", 0, 100), ("1", 50, 150), ("1", 51, 151), ("3", 0, 100)],
            "test/positive.csv.gz": [("2", 520, 580), ("X", 200, 300)],
        },
    )
    assert interval_leaks(folder) == {
        "per_class": {
            "negative": {"train": 2, "test": 4, "half": 2, "verbatim": 1, "half_share": 0.5, "verbatim_share": 0.25},
            "positive": {"train": 1, "test": 2, "half": 1, "verbatim": 0, "half_share": 0.5, "verbatim_share": 0.0},
        },
        "overall": {"train": 3, "test": 6, "half": 3, "verbatim": 1, "half_share": 0.5, "verbatim_share": 1 / 6},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,chrom,start,end\n0,1,0,10\n", "columns region, start and end"),
        ("id,region,start,end\n0,1,zero,10\n", "columns region, start and end"),
        ("id,region,start,end\n0,1,0,10\n1,1,,20\n", "without region, start or end"),
        ("id,region,start,end\n0,1,0,10\n1,2,30,30\n", "row 2 is 2:30-30"),
        ("", "columns region, start and end"),
    ],
    ids=["renamed column", "no number", "missing value", "empty interval", "empty file"],
)
def test_file_that_is_no_table_of_intervals(tmp_path, text, said):
    folder = benchmark(tmp_path, {"train/a.csv": [("1", 0, 10)], "test/a.csv": []})
    (folder / "test" / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        interval_leaks(folder)
    assert "a.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_folder_without_intervals(tmp_path):
    with pytest.raises(FileNotFoundError, match="train"):
        interval_leaks(tmp_path)


def test_class_in_two_files(tmp_path):
    benchmark(tmp_path, {"train/a.csv": [("1", 0, 10)], "train/a.csv.gz": [("1", 0, 10)], "test/a.csv": [("1", 0, 9)]})
    with pytest.raises(ValueError, match=r"class a stands there twice"):
        interval_leaks(tmp_path)
