"""MMseqs2 as the search of the leak gate: with a program of the same manners anywhere, and with the real one where it is."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from making import config_for, random_bases, tokenized, write_fasta
from test_leaks import TEST, TRAIN, VALIDATION, bases, make, mutated, tiled, whole

from titans_genomics.config import LeaksConfig
from titans_genomics.data import leak_mmseqs, leak_search
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.leak_mmseqs import find_leaks, resolve
from titans_genomics.data.store import tokenize

CONFIG = LeaksConfig(max_share=0.3, tool="mmseqs2")

# Finds exact copies. Of a copy on the minus strand it turns the side round that TURNED names.
PROGRAM = r"""#!PYTHON
import functools, os, sys

def fasta(path):
    records = open(path).read().split(">")[1:]
    return [record.split("\n")[:2] for record in records]

@functools.cache
def firsts(target, k):
    return {target[i : i + k]: i for i in reversed(range(len(target) - k + 1))}

def copies(query, target, k=32):
    places, found, i = firsts(target, k), [], 0
    while i <= len(query) - k:
        j = places.get(query[i : i + k])
        if j is None or "N" in query[i : i + k]:
            i += 1
            continue
        n = k
        while i + n < len(query) and j + n < len(target) and query[i + n] == target[j + n]:
            n += 1
        found.append((i, j, n))
        i += n
    return found

if sys.argv[1] == "version":
    print("99-fake")
    sys.exit()
with open(os.environ["CALLS"], "a") as calls:
    calls.write(os.getcwd() + "\n")
assert sys.argv[1] == "easy-search"
held, train, out = sys.argv[2:5]
options = dict(zip(sys.argv[6::2], sys.argv[7::2]))
assert options["--search-type"] == "3" and options["--strand"] == "2"
assert options["--format-output"] == "query,target,qstart,qend,tstart,tend,fident,alnlen"
if os.environ.get("FAIL"):
    print("Error: Search died")
    print("Cannot allocate memory", file=sys.stderr)
    sys.exit(1)
turn = str.maketrans("ACGT", "TGCA")
with open(out, "w") as handle:
    for query, held_letters in fasta(held):
        for target, train_letters in fasta(train):
            for minus in (False, True):
                letters = held_letters.translate(turn)[::-1] if minus else held_letters
                for i, j, n in copies(letters, train_letters):
                    if n < int(options["--min-aln-len"]):
                        continue
                    own, other = [i + 1, i + n], [j + 1, j + n]
                    if minus:
                        own = [len(letters) - i, len(letters) - i - n + 1]
                        if os.environ["TURNED"] == "target":
                            own, other = own[::-1], other[::-1]
                    print(query, target, *own, *other, "1.000", n, sep="\t", file=handle)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The program that finds exact copies, on PATH; gives the file in which its calls are listed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "mmseqs"
    program.write_text(PROGRAM.replace("PYTHON", sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("TURNED", "query")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


@pytest.fixture
def real():
    if shutil.which("mmseqs") is None:
        pytest.skip("MMseqs2 is not on PATH")


@pytest.fixture(params=["fake", "real"])
def program(request):
    """Each of the two programs."""
    return request.getfixturevalue(request.param) and request.param


@pytest.fixture
def folder(tmp_path):
    """Where searches write, which have to leave it empty."""
    path = tmp_path / "work"
    path.mkdir()
    yield path
    assert list(path.iterdir()) == []


def loci(match):
    """A match as stretches of its records, of which ``make`` lets each begin at 1000 times its number."""
    sides = []
    for locus in (match.held, match.train):
        shift = 1_000 * int(locus.record.split("_")[1])
        sides.append((locus.source, locus.start - shift, locus.end - shift))
    return *sides, match.strand


@pytest.mark.parametrize("turned", ["query", "target"])
@pytest.mark.parametrize("strand", ["+", "-"])
def test_places_of_copies_are_exact(fake, folder, monkeypatch, strand, turned):
    monkeypatch.setenv("TURNED", turned)
    train, held = bases(130_000, 5), bases(30_000, 6)
    for begin, length, place in ((1_234, 6_000, 95_000), (12_345, 777, 49_700), (20_000, 480, 60_000)):
        copy = train[place : place + length]
        held[begin : begin + length] = copy if strand == "+" else reverse_complement(copy)
    held[[1_233, 7_234, 12_344, 13_122]] = 4
    stretches = make(
        ("z", bases(700, 7), [(0, 700, TRAIN)]), ("a", train, [(0, 130_000, TRAIN)]), whole("b", held, TEST)
    )
    found = find_leaks(stretches, CONFIG, folder)
    assert [loci(match) for match in found.held[0].matches] == [
        (("b", 1_234, 7_234), ("a", 95_000, 101_000), strand),
        (("b", 12_345, 13_122), ("a", 49_700, 50_477), strand),
    ]
    assert found.covered.tolist() == [0, 0, 6_777]
    assert [(pair.train, pair.bases, pair.identity) for pair in found.held[0].pairs] == [("a", 6_777, 1)]
    assert (found.tool, found.version) == ("mmseqs2", "99-fake")


def test_matches_stay_within_their_stretches(program, folder):
    genome = bases(60_000, 8)
    rows = [(500, 15_000, TEST), (15_000, 21_000, TRAIN), (21_000, 40_000, VALIDATION), (41_000, 60_000, TRAIN)]
    others = [(0, 16_000, TRAIN), (17_000, 30_000, TEST), (30_000, 60_000, TRAIN)]
    stretches = make(("a", genome, rows), ("b", reverse_complement(genome), others))
    found = find_leaks(stretches, CONFIG, folder)
    # Base i of one is base 59,999 - i of the other.
    assert found.covered.tolist() == pytest.approx([14_500, 0, 9_000, 0, 0, 2_000, 0], abs=20)
    named = sorted(loci(match) for held in found.held for match in held.matches)
    assert [(held[0], train[0], strand) for held, train, strand in named] == [("a", "b", "-")] * 2 + [("b", "a", "-")]
    ends = np.array([[*held[1:], *train[1:]] for held, train, _ in named])
    assert np.abs(ends - [[0, 9_000, 0, 9_000], [0, 14_500, 15_000, 29_500], [0, 2_000, 0, 2_000]]).max() <= 20


def test_what_was_read_of_many_windows_is_one_match(program, folder):
    train = bases(150_000, 9)
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", train[20_000:120_000], TEST)), CONFIG, folder)
    (match,) = found.held[0].matches
    assert loci(match) == (("b", 0, 100_000), ("a", 20_000, 120_000), "+")
    assert found.share("b", "test") == 1


def test_blocks_of_alignments_and_batches_change_nothing(fake, folder, monkeypatch):
    train = bases(60_000, 10)
    stretches = make(whole("a", train, TRAIN), tiled("b", train[:40_000], 4_000, TEST), whole("c", train[:9_000], TEST))
    at_once = find_leaks(stretches, CONFIG, folder)
    calls = len(fake.read_text().splitlines())
    monkeypatch.setattr(leak_mmseqs, "_TOGETHER", 10_000)
    monkeypatch.setattr(leak_mmseqs, "_BLOCK", 1_000)
    assert find_leaks(stretches, CONFIG, folder).held[1] == at_once.held[1]
    assert len(fake.read_text().splitlines()) - calls > calls == 1


def test_short_stretches_are_judged(program, folder):
    train = bases(40_000, 11)
    strange = tiled("c", bases(9_000, 12), 150, TEST)
    stretches = make(
        whole("a", train, TRAIN), tiled("b", train[:9_000], 150, TEST), strange, whole("d", train[:20], TEST)
    )
    found = find_leaks(stretches, CONFIG, folder)
    assert found.share("b", "test") > 0.99
    assert found.share("c", "test") == found.share("d", "test") == 0


def test_of_very_many_stretches_a_sample_is_judged(fake, folder, monkeypatch):
    monkeypatch.setattr(leak_mmseqs, "_MANY", 30)
    train = bases(40_000, 13)
    stretches = make(whole("a", train, TRAIN), tiled("b", train, 400, TEST))
    found = find_leaks(stretches, CONFIG, folder)
    assert 15 < found.judged.sum() < 45
    assert found.share("b", "test") == 1
    split, left, numbers = resolve(stretches, CONFIG, folder)
    assert (split == TRAIN).all()
    assert len(numbers) == 100
    assert left.held == ()


def test_move_reaches_a_fixpoint(program, folder):
    x, y, z = (bases(10_000, 40 + i) for i in range(3))
    stretches = make(
        whole("kept", bases(30_000, 50), TEST),
        whole("train", np.concatenate([bases(30_000, 51), x]), TRAIN),
        whole("third", reverse_complement(np.concatenate([y, z])), VALIDATION),
        whole("second", np.concatenate([x, y]), TEST),
        whole("fourth", np.concatenate([bases(5_000, 52), z]), TEST),
    )
    split, left, numbers = resolve(stretches, CONFIG, folder)
    assert numbers.tolist() == [2, 3, 4]
    assert split.tolist() == [TEST, TRAIN, TRAIN, TRAIN, TRAIN]
    assert [held.source for held in left.held] == ["kept"]
    fresh = find_leaks(replace(stretches, split=split), CONFIG, folder)
    assert (fresh.covered == left.covered).all()


@pytest.mark.parametrize("nothing", ["train", "held", "letters", "short"])
def test_nothing_to_compare_is_no_leak(program, folder, nothing):
    train, held = bases(3_000, 60), bases(3_000, 61)
    train = {"letters": np.full(3_000, 4, dtype=np.uint8), "short": train[:25]}.get(nothing, train)
    stretches = make(
        whole("a", train, TEST if nothing == "train" else TRAIN), whole("b", held, TRAIN if nothing == "held" else TEST)
    )
    seen: list[int] = []
    assert find_leaks(stretches, CONFIG, folder, seen.append).covered.sum() == 0
    assert sum(seen) == len(train) + len(held)


def test_a_missing_program_is_named(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no program mmseqs on PATH") as error:
        find_leaks(make(whole("a", bases(100, 1), TRAIN)), CONFIG, folder)
    said = str(error.value)
    assert "data.split.leaks.tool" in said
    assert "conda install -c bioconda mmseqs2" in said
    assert "apt install mmseqs2" in said


def test_a_program_that_does_not_run_is_named(folder, monkeypatch, tmp_path):
    program = tmp_path / "mmseqs"
    monkeypatch.setenv("PATH", str(tmp_path))
    for text, said in (
        ("#!/bin/sh\necho no such library >&2\nexit 127\n", "no such library"),
        ("#!/no/such\n", "No such"),
    ):
        program.write_text(text)
        program.chmod(0o755)
        with pytest.raises(ValueError, match=said):
            find_leaks(make(whole("a", bases(100, 1), TRAIN)), CONFIG, folder)


def test_what_a_failing_program_says_is_told_in_one_line(fake, folder, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    train = bases(3_000, 62)
    with pytest.raises(ValueError, match="status 1") as error:
        find_leaks(make(whole("a", train, TRAIN), whole("b", train, TEST)), CONFIG, folder)
    said = str(error.value)
    assert "Cannot allocate memory" in said
    assert "Search died" in said
    assert "\n" not in said


# -------------------------------------------------------------------------------------- in the gate


@pytest.fixture
def relatives(tmp_path):
    genome = random_bases(24_000)
    other = genome[:12_000] + random_bases(12_000, 1)
    paths = [
        write_fasta(tmp_path / f"{name}.fa", {name: letters}) for name, letters in (("k12", genome), ("dh1", other))
    ]
    return [{"path": str(path)} for path in paths]


SPLIT = {"block": 2_000, "validation": 0.1, "test": 0.1}


def test_the_gate_searches_with_it(program, relatives, tmp_path):
    leaks = {"tool": "mmseqs2", "action": "report"}
    store = tokenized(tmp_path / "tokens", *relatives, split=SPLIT | {"leaks": leaks})
    other = tokenized(tmp_path / "sketched", *relatives, split=SPLIT | {"leaks": {"action": "report"}})
    found, sketched = store.manifest["leaks"], other.manifest["leaks"]
    assert (found["tool"], sketched["tool"]) == ("mmseqs2", "sketch")
    assert found["version"]
    shares = [{(h["source"], h["split"]): h["share"] for h in one["held"]} for one in (found, sketched)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert max(shares[0].values()) > 0.3
    assert {path.name for path in store.path.iterdir()} == {path.name for path in other.path.iterdir()}
    with pytest.raises(ValueError, match="stands near-identically in train"):
        tokenize(config_for(*relatives, split=SPLIT | {"leaks": {"tool": "mmseqs2"}}), tmp_path / "error")
    moved = tokenized(tmp_path / "moved", *relatives, split=SPLIT | {"leaks": leaks | {"action": "move"}})
    assert moved.manifest["leaks"]["moved"] > 0
    assert max(held["share"] for held in moved.manifest["leaks"]["held"]) < 0.3


def test_what_a_killed_search_left_does_not_become_part_of_the_store(relatives, tmp_path):
    left = tmp_path / ".tokens.partial" / f"{leak_mmseqs.PREFIX}abc"
    left.mkdir(parents=True)
    (left / "train.fa").write_text(">0\nACGT\n")
    store = tokenized(tmp_path / "tokens", *relatives, split=SPLIT | {"leaks": {"action": "off"}})
    assert not list(store.path.glob(f"{leak_mmseqs.PREFIX}*"))


def test_without_the_program_the_gate_says_so(relatives, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.split\.leaks\.tool is mmseqs2"):
        tokenize(config_for(*relatives, split=SPLIT | {"leaks": {"tool": "mmseqs2"}}), tmp_path / "tokens")


# --------------------------------------------------------------------------------- with the real one


@pytest.mark.parametrize("turn", [lambda codes: codes, reverse_complement], ids=["forward", "reverse"])
@pytest.mark.parametrize(("rate", "least"), [(0, 0.999), (0.1, 0.98), (0.18, 0.9)])
def test_far_copies_are_found(real, folder, rate, least, turn):
    train = bases(200_000, 7)
    held = turn(mutated(train, 0.95 * rate, 8, indels=0.01 * rate))
    stretches = make(whole("a", train, TRAIN), whole("b", held, TEST))
    found = find_leaks(stretches, CONFIG, folder)
    assert found.share("b", "test") >= least
    assert found.held[0].pairs[0].identity == pytest.approx(1 - rate, abs=0.02)
    if rate == 0.18:
        assert leak_search.find_leaks(stretches, CONFIG).share("b", "test") < 0.3
        assert find_leaks(stretches, LeaksConfig(min_identity=0.9), folder).covered.sum() == 0


def test_unrelated_sequence_is_not_found(real, folder):
    stretches = make(whole("a", bases(400_000, 9), TRAIN), whole("b", bases(400_000, 10), TEST))
    assert find_leaks(stretches, CONFIG, folder).covered.sum() == 0


def test_rearranged_copies_are_found(real, folder):
    train = bases(60_000, 15)
    blocks = [train[at : at + 2_500] for at in range(0, 60_000, 2_500)]
    order = np.random.default_rng(0).permutation(len(blocks)).tolist()
    held = np.concatenate([reverse_complement(blocks[i]) if i % 2 else blocks[i] for i in order])
    found = find_leaks(make(whole("a", train, TRAIN), whole("b", held, TEST)), CONFIG, folder)
    assert found.share("b", "test") > 0.95
    assert {match.strand for match in found.held[0].matches} == {"+", "-"}
