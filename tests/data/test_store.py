from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, make_bam, mutated, random_bases, tokenized, write_fasta

from titans_genomics.config import load_config
from titans_genomics.data import writer
from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.folder import FILES, PLACES, SHARDS
from titans_genomics.data.shard import SUFFIXES, Shard, save_array
from titans_genomics.data.source_file import SourceFile
from titans_genomics.data.store import TokenStore, tokenize

RESOURCES = Path(__file__).parents[2] / "resources"
BLOCKS = {"split": {"block": 100, "validation": 0.2, "test": 0.2}}
NO_LEAKS = {"split": BLOCKS["split"] | {"leaks": {"action": "off"}}}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sizes(store: TokenStore) -> int:
    """Tokens of all runs."""
    return sum(len(run) for split in ("train", "validation", "test") for run in store.runs(split))


def check_store(store: TokenStore, sequences: Mapping[tuple[str, str], str], whole: bool = True) -> None:
    """Runs hold their segments one after the other, EOS between them; with ``whole`` every base is there once.

    ``sequences``: upper-case bases by source and record.
    """
    eos, spell = store.tokenizer.eos, store.tokenizer.decode
    covered = {key: np.zeros(len(sequence), dtype=int) for key, sequence in sequences.items()}
    rows, total = 0, 0
    for split in ("train", "validation", "test"):
        for run in store.runs(split):
            tokens = run.read(0, len(run))
            assert tokens.dtype == store.tokenizer.dtype
            at = 0
            for row in run.segments:
                segment = store.index[row]
                assert (segment.source, segment.split) == (run.source, run.split)
                key = (segment.source, segment.record)
                own = tokens[at : at + segment.length]
                assert decode(spell(own)) == sequences[key][segment.start : segment.end]
                covered[key][segment.start : segment.end] += 1
                assert run.segment_at(at) == (segment, 0)
                at += segment.length
                if not segment.joined:
                    assert tokens[at] == eos
                    assert run.segment_at(at) == (segment, segment.length)
                    at += 1
            assert at == len(run)
            rows, total = rows + len(run.segments), total + at
    assert rows == len(store.index) == len(store.places)
    assert total == store.manifest["tokens"]
    assert not whole or all((count == 1).all() for count in covered.values())


def check_loci(store: TokenStore, sequences: Mapping[tuple[str, str], str]) -> None:
    """`Run.locate` of every token."""
    tokenizer = store.tokenizer
    for split in ("train", "validation", "test"):
        for run in store.runs(split):
            tokens = run.read(0, len(run))
            for place, token in enumerate(tokens.tolist()):
                locus = run.locate(place)
                assert (locus.source, locus.bases) == (run.source, tokenizer.bases[token])
                letters = decode(tokenizer.decode(np.array([token])))
                there = sequences[locus.source, locus.record]
                assert there[locus.position : locus.position + locus.bases] == letters
                if token == tokenizer.eos:
                    segment, _ = run.segment_at(place)
                    assert locus.position == segment.end
            with pytest.raises(IndexError):
                run.locate(len(run))


# ------------------------------------------------------------------------------------ what was read


@given(
    records=st.dictionaries(st.sampled_from("abcdef"), st.text("ACGTNacgt", min_size=1, max_size=900), min_size=1),
    by=st.sampled_from(["block", "contig"]),
    n_runs=st.sampled_from(["keep", "drop"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=25)
def test_the_store_gives_back_what_was_read(tmp_path_factory, records, by, n_runs, seed):
    folder = tmp_path_factory.mktemp("store")
    records = {name: sequence + "A" for name, sequence in records.items()}
    path = write_fasta(folder / "x.fa", records)
    whole = "".join(records.values())
    held_out = 0.2 if len(whole) > 2_000 and by == "block" else 0
    split = {"by": by, "block": 100, "validation": 0, "test": held_out, "leaks": {"action": "off"}}
    store = tokenized(folder / "tokens", path, seed=seed, min_contig=1, max_n=1, n_runs=n_runs, n_run=3, split=split)
    upper = {("x", name): sequence.upper() for name, sequence in records.items()}
    check_store(store, upper, whole=n_runs == "keep")
    check_loci(store, upper)
    counted = store.manifest["sources"][0]
    assert counted["bases"] == len(whole)
    assert counted["n"] == whole.count("N")
    assert counted["soft_masked"] == sum(letter.islower() for letter in whole)
    for split in ("train", "test"):
        for run in store.runs(split):
            (mask,) = run.soft_masked(np.array([0]), len(run))
            for place, masked in enumerate(mask.tolist()):
                locus = run.locate(place)
                assert masked == (locus.bases > 0 and records[locus.record][locus.position].islower())
            starts = np.array([len(run) // 3, 0, len(run) // 2])
            parts = run.soft_masked(starts, len(run) // 2)
            assert parts.tolist() == [mask[start : start + len(run) // 2].tolist() for start in starts]


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"kind": "kmer", "k": 3},
        {"kind": "kmer", "k": 6},
        {"kind": "kmer", "k": 3, "overlap": True},
        {"kind": "bpe", "vocab_size": 64, "sample": 2_000},
        {"kind": "bpe", "vocab_size": 400},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_tokens_of_several_bases(tmp_path, tokenizer):
    sequences = {"chr1": random_bases(1_500) + "N" * 40 + random_bases(701, 1), "chr2": "ACGTTA" * 70}
    paths = [
        write_fasta(tmp_path / "x.fa", sequences),
        write_fasta(tmp_path / "y.fa", {"p": random_bases(333, 2).lower()}),
    ]
    store = tokenized(tmp_path / "tokens", *paths, tokenizer=tokenizer, n_runs="split", n_run=30, **NO_LEAKS)
    upper = {("x", name): sequence for name, sequence in sequences.items()} | {("y", "p"): random_bases(333, 2)}
    assert store.manifest["tokenizer"]["kind"] == tokenizer["kind"]
    assert store.tokenizer.vocab_size == len(store.manifest["vocabulary"])
    check_store(store, {key: sequence.upper() for key, sequence in upper.items()}, whole=False)
    check_loci(store, upper)
    used = sum(segment.end - segment.start for segment in store.index)
    assert used == sum(len(sequence) for sequence in upper.values()) - 40
    with pytest.raises(ValueError, match="soft-masking is known per base"):
        store.runs("train")[0].soft_masked(np.array([0]), 5)


def test_pieces_are_learned_from_what_is_trained_on(tmp_path):
    """Held-out sources and those of weight 0 do not show in the vocabulary."""
    train, other = random_bases(3_000), "GATTACA" * 400
    sources: list[dict[str, Any]] = [
        {"path": str(write_fasta(tmp_path / f"{name}.fa", {"c": sequence})), "split": "train"}
        for name, sequence in (("a", train), ("b", other), ("c", "GATTACA" * 300), ("v", random_bases(500, 5)))
    ]
    sources[1]["weight"], sources[2]["split"], sources[3]["split"] = 0, "test", "validation"
    bpe = {"kind": "bpe", "vocab_size": 40}
    both = tokenized(tmp_path / "t", *sources, tokenizer=bpe, **NO_LEAKS)
    alone = tokenized(
        tmp_path / "alone",
        sources[0],
        tokenizer=bpe,
        split={"validation": 0, "test": 0},
    )
    assert both.tokenizer.vocabulary == alone.tokenizer.vocabulary


def test_text(tmp_path):
    texts = ["Grüße\n", "a b c\n" * 300, "x"]
    path = tmp_path / "x.txt"
    path.write_text("<|endoftext|>\n".join(texts))
    source = {"path": str(path), "kind": "text"}
    for tokenizer in ({"kind": "byte"}, {"kind": "bpe", "vocab_size": 300}):
        split = {"validation": 0, "test": 0}
        store = tokenized(tmp_path / tokenizer["kind"], source, tokenizer=tokenizer, split=split)
        found = [store.tokenizer.decode(tokens).tobytes().decode() for tokens in store.documents("train", "x")]
        assert found == ["Grüße\n", "a b c\n" * 300, "x"]
        assert store.manifest["sources"][0]["records"] == "documents"


def test_the_shipped_data(tmp_path):
    sources = [
        {"path": str(RESOURCES / "ecoli_k12.fa.gz"), "species": "Escherichia coli"},
        {"path": str(RESOURCES / "sirv_reads.bam"), "weight": 0.1},
    ]
    config = config_for(*sources, split={"leaks": {"action": "report"}})
    manifest = tokenize(config, tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    genome, reads = manifest["sources"]
    assert (genome["bases"], genome["n"], genome["kept"], genome["n50"]) == (4_639_675, 0, 1, 4_639_675)
    assert genome["gc"] == pytest.approx(0.5079, abs=1e-4)
    assert (reads["kept"], reads["dropped"]) == (1_854, {"secondary alignment": 2_740, "supplementary alignment": 55})
    for source in (genome, reads):
        assert source["tokens"]["validation"] / source["bases"] == pytest.approx(0.05, abs=0.01)
        assert source["tokens"]["test"] / source["bases"] == pytest.approx(0.05, abs=0.01)
    assert all("near-identically" in note for note in manifest["warnings"])  # pieces of transcripts among the reads
    assert manifest["totals"]["bases"] == genome["bases"] + reads["bases"]
    sequences = {}
    with pysam.FastxFile(str(RESOURCES / "ecoli_k12.fa.gz")) as handle:
        sequences |= {("ecoli_k12", entry.name): entry.sequence for entry in handle}
    with pysam.AlignmentFile(str(RESOURCES / "sirv_reads.bam")) as bam:
        for read in bam.fetch(until_eof=True):
            if not (read.is_secondary or read.is_supplementary):
                sequence = read.query_sequence
                if read.is_reverse:
                    sequence = decode(reverse_complement(encode(sequence)))
                sequences["sirv_reads", read.query_name] = sequence
    check_store(store, sequences)


def test_reverse_reads_map_back_to_their_locus(tmp_path):
    reference = random_bases(5_000)
    reads = [
        {"name": f"r{i}", "pos": 100 * i, "flag": 16 * (i % 2), "seq": reference[100 * i : 100 * i + 150]}
        for i in range(20)
    ]
    reads.append({"name": "loose", "flag": 4, "seq": random_bases(150, 3)})
    store = tokenized(tmp_path / "tokens", make_bam(tmp_path / "x.bam", reads), **NO_LEAKS)
    strands = []
    for split in ("train", "validation", "test"):
        for segment, tokens in zip(
            [store.index[row] for run in store.runs(split) for row in run.segments],
            store.documents(split, "x"),
            strict=True,
        ):
            if segment.record == "loose":
                assert segment[-4:] == (None, None, None, None)
                continue
            bases = tokens if segment.strand == "+" else reverse_complement(tokens)
            assert (segment.contig, segment.mapq) == ("chr1", 60)
            assert decode(bases) == reference[segment.aligned_start : segment.aligned_end]
            strands.append(segment.strand)
    assert sorted(strands) == ["+"] * 10 + ["-"] * 10


def test_reads_of_all_formats_side_by_side(tmp_path):
    genome = random_bases(4_000)
    fastq = tmp_path / "short.fq"
    fastq.write_text("".join(f"@q{i}\n{genome[i : i + 150]}\n+\n{'I' * 150}\n" for i in range(0, 3_000, 150)))
    bam = make_bam(tmp_path / "long.bam", [{"pos": 10 * i, "seq": genome[10 * i : 10 * i + 300]} for i in range(12)])
    fasta = write_fasta(tmp_path / "genome.fa", {"chr1": genome})
    store = tokenized(tmp_path / "t", fastq, bam, fasta, **NO_LEAKS)
    assert [source["records"] for source in store.manifest["sources"]] == ["reads", "reads", "contigs"]
    assert {s.contig for s in store.index} == {None, "chr1"}
    assert len(store.index) == store.manifest["runs"][-1]["last"]


def test_soft_mask_settings(fasta, tmp_path):
    path = fasta(chr1=random_bases(2_000) + random_bases(500, 1).lower())
    stores = {}
    for soft_mask in ("keep", "ignore", "n"):
        stores[soft_mask] = tokenized(tmp_path / soft_mask, path, soft_mask=soft_mask, **BLOCKS)
        assert stores[soft_mask].manifest["sources"][0]["soft_masked"] == 500
    masked = {
        name: sum(
            run.soft_masked(np.array([0]), len(run)).sum()
            for split in ("train", "validation", "test")
            for run in store.runs(split)
        )
        for name, store in stores.items()
    }
    assert masked == {"keep": 500, "ignore": 0, "n": 0}
    assert stores["n"].manifest["sources"][0]["n"] == 500
    assert stores["ignore"].manifest["sources"][0]["n"] == 0


def test_runs_are_read_anywhere(fasta, tmp_path):
    store = tokenized(tmp_path / "t", fasta(chr1=random_bases(3_000)), **BLOCKS)
    (run,) = store.runs("train")
    whole = run.read(0, len(run))
    assert np.concatenate(list(run.pieces(97))).tolist() == whole.tolist()
    for places in (slice(None), slice(10, 20), slice(-5, None), slice(20, 10), slice(0, 100, 7), slice(5, 10**9)):
        assert run[places].tolist() == whole[places].tolist()
    assert run.windows(np.array([3, 500, 0]), 40).tolist() == [whole[i : i + 40].tolist() for i in (3, 500, 0)]
    assert run.windows(np.zeros(0, dtype=np.int64), 40).shape == (0, 40)
    for start, length in ((-1, 5), (len(run) - 4, 5), (0, len(run) + 1)):
        with pytest.raises(IndexError):
            run.windows(np.array([start]), length)
    with pytest.raises(IndexError):
        run.locate(-1)
    with pytest.raises(IndexError):
        store.index[len(store.index)]


# ------------------------------------------------------------------------------------ the same again


def test_the_same_config_gives_the_same_store_and_another_seed_another(fasta, tmp_path):
    path = fasta(chr1=random_bases(3_000) + "R" * 9, chr2=random_bases(900, 1))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tokenize(config_for(path, seed=seed, iupac="random", **BLOCKS), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert TokenStore(tmp_path / "a").sha256 != TokenStore(tmp_path / "c").sha256
    for run in TokenStore(tmp_path / "a").runs("train"):
        assert "N" not in decode(run.read(0, len(run)))


def test_sources_read_side_by_side_give_the_same_bytes(tmp_path):
    paths = [
        write_fasta(tmp_path / f"s{i}.fa", {f"c{j}": random_bases(700 + 13 * i, 10 * i + j) + "RNn" for j in range(3)})
        for i in range(7)
    ]
    config = config_for(*paths, iupac="random", **BLOCKS)
    stores = []
    for jobs in (1, 2, 5):
        tokenize(config, tmp_path / f"t{jobs}", jobs)
        stores.append(contents(tmp_path / f"t{jobs}"))
    assert stores[0] == stores[1] == stores[2]


def test_the_checksum_is_of_all_that_training_sees(fasta, tmp_path):
    one, two = fasta(name="a.fa", chr1=random_bases(900)), fasta(name="b.fa", chr1=random_bases(900, 1))
    other = fasta(name="c.fa", chr1=random_bases(900, 2))
    numbers = iter(range(100))

    def checksum(*sources, **data):
        return tokenized(tmp_path / str(next(numbers)), *sources, **(NO_LEAKS | data)).sha256

    def with_splits(first, second):
        return [{"path": str(one), "split": first}, {"path": str(two), "split": second}, str(other)]

    base = checksum(one, two, other)
    assert checksum(one, two, other) == base
    assert checksum({"path": str(one), "weight": 3}, two, other, max_n=0.9) == base
    held = checksum(*with_splits("test", "train"))
    assert held != base
    assert checksum(*with_splits("train", "test")) != held
    assert checksum(one, two, other, tokenizer={"kind": "kmer", "k": 3}) != base
    assert checksum(one, two, other, soft_mask="n") != base
    two.write_text(two.read_text().replace("ACG", "AGG"))
    assert checksum(one, two, other) != base


# ------------------------------------------------------------------------------ what is read again


@pytest.fixture
def reads(monkeypatch):
    """The names of the sources that are read through, in a list that is the test's to empty."""
    names: list[str] = []
    honest = writer.open_source

    def counted(source, *arguments):
        names.append(source.label)
        return honest(source, *arguments)

    monkeypatch.setattr(writer, "open_source", counted)
    return names


@pytest.fixture
def two(tmp_path):
    return [write_fasta(tmp_path / f"{name}.fa", {"chr1": random_bases(2_000, seed)}) for seed, name in enumerate("ab")]


def test_a_changed_source_is_read_again_alone(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    assert reads == ["a", "b"]
    reads.clear()
    write_fasta(two[1], {"chr1": random_bases(2_000, 9)})
    store = tokenized(tmp_path / "t", *two, **BLOCKS)
    assert reads == ["b"]
    check_store(store, {("a", "chr1"): random_bases(2_000), ("b", "chr1"): random_bases(2_000, 9)})
    assert contents(tmp_path / "t") == contents(tokenized(tmp_path / "anew", *two, **BLOCKS).path)


@pytest.mark.parametrize(
    "changes",
    [
        {"split": {"block": 250, "validation": 0.1, "test": 0.1}},
        {"split": {"by": "contig", "validation": 0, "test": 0}},
        {"tokenizer": {"kind": "kmer", "k": 4}},
        {"tokenizer": {"kind": "bpe", "vocab_size": 100}},
        {"n_runs": "drop", "n_run": 5, "min_contig": 50, "max_n": 0.1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_is_made_of_the_bases_can_change_without_reading_them(two, tmp_path, reads, changes):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    reads.clear()
    store = tokenized(tmp_path / "t", *two, **(BLOCKS | changes))
    assert reads == []
    check_store(store, {("a", "chr1"): random_bases(2_000), ("b", "chr1"): random_bases(2_000, 1)})
    assert contents(tmp_path / "t") == contents(tokenized(tmp_path / "anew", *two, **(BLOCKS | changes)).path)


def test_how_letters_are_read_is_read_again(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    for changes in ({"iupac": "error"}, {"soft_mask": "n"}, {"iupac": "random"}, {"iupac": "random", "seed": 3}):
        reads.clear()
        tokenized(tmp_path / "t", *two, **(BLOCKS | changes))
        assert reads == ["a", "b"]


def test_a_file_that_was_touched_or_moved_is_not_read_again(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    reads.clear()
    os.utime(two[0], (1, 1))
    elsewhere = tmp_path / "folder" / "b.fa"
    elsewhere.parent.mkdir()
    two[1].rename(elsewhere)
    store = tokenized(tmp_path / "t", two[0], elsewhere, **BLOCKS)
    assert reads == []
    assert store.manifest["sources"][1]["path"] == str(elsewhere)


def test_a_file_of_the_same_size_that_was_touched_and_changed_is_read_again(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    reads.clear()
    text = two[0].read_text()
    two[0].write_text(text[:-2] + ("A" if text[-2] != "A" else "C") + "\n")
    os.utime(two[0], (1, 1))
    tokenized(tmp_path / "t", *two, **BLOCKS)
    assert reads == ["a"]


def test_sources_come_and_go(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, tokenizer={"kind": "kmer"}, **BLOCKS)
    assert (tmp_path / "t" / SHARDS / "a.tokens").exists()
    third = write_fasta(tmp_path / "c.fa", {"chr1": random_bases(1_500, 7)})
    reads.clear()
    store = tokenized(tmp_path / "t", two[1], third, **BLOCKS)
    assert reads == ["c"]
    assert store.sources == ["b", "c"]
    assert {path.name.split(".")[0] for path in (tmp_path / "t" / SHARDS).iterdir()} == {"b", "c"}
    assert not list((tmp_path / "t" / SHARDS).glob("*.tokens"))


def test_a_shard_that_was_cut_short_is_read_again(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    bases = tmp_path / "t" / SHARDS / "a.bases"
    bases.write_bytes(bases.read_bytes()[:-1])
    reads.clear()
    store = tokenized(tmp_path / "t", *two, **BLOCKS)
    assert reads == ["a"]
    check_store(store, {("a", "chr1"): random_bases(2_000), ("b", "chr1"): random_bases(2_000, 1)})


def test_after_a_failure_what_was_read_is_not_read_again(two, tmp_path, reads):
    third = tmp_path / "c.fa"
    third.write_text(">chr1\n" + "ACGT\n" * 900_000 + "AC?T\n")
    with pytest.raises(ValueError, match=r"c\.fa: contig 'chr1', position 3600002: '\?'"):
        tokenized(tmp_path / "t", *two, third, **NO_LEAKS)
    assert not (tmp_path / "t").exists()
    reads.clear()
    third.write_text(">chr1\n" + random_bases(900, 4) + "\n")
    store = tokenized(tmp_path / "t", *two, third, **NO_LEAKS)
    assert reads == ["c"]
    assert store.sources == ["a", "b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "b.fa", "c.fa", "t"]


def test_a_failed_attempt_with_other_settings_leaves_the_old_store_as_it_was(two, tmp_path):
    """What is taken over from the old store is shared with it on disk; what is read anew must not be."""
    store = tokenized(tmp_path / "t", *two, **BLOCKS)
    before = contents(store.path)
    leaky = write_fasta(tmp_path / "c.fa", {"chr1": mutated(random_bases(2_000, 1), 0.001, 3)})
    with pytest.raises(ValueError, match="near-identically"):  # after all shards were taken over or read
        tokenized(tmp_path / "t", *two, leaky, **BLOCKS)
    assert contents(store.path) == before
    write_fasta(two[0], {"chr1": random_bases(2_000, 11)})
    with pytest.raises(ValueError, match="near-identically"):
        tokenized(tmp_path / "t", *two, leaky, **BLOCKS)
    assert contents(store.path) == before
    check_store(store, {("a", "chr1"): random_bases(2_000), ("b", "chr1"): random_bases(2_000, 1)})


# --------------------------------------------------------------------------------- what goes wrong


def test_weights_sources_and_unknown_names(two, tmp_path):
    sources = [{"path": str(path), "weight": weight} for path, weight in zip(two, (1, 0), strict=True)]
    store = tokenized(tmp_path / "t", *sources, **BLOCKS)
    assert (store.sources, store.weight("b")) == (["a", "b"], 0)
    assert [run.source for run in store.runs("test")] == ["a", "b"]
    assert [run.source for run in store.runs("test", "b")] == ["b"]
    with pytest.raises(ValueError, match=r"no source 'c'; there are a, b"):
        store.runs("test", "c")
    with pytest.raises(ValueError, match="split 'dev'"):
        store.runs("dev")


def test_names_that_are_no_file_names(tmp_path):
    path = write_fasta(tmp_path / "é%ø x.fa", {"chr1": random_bases(900)})
    store = tokenized(tmp_path / "t", path, **BLOCKS)
    assert store.sources == ["é%ø x"]
    check_store(store, {("é%ø x", "chr1"): random_bases(900)})


def test_an_open_store_travels_to_worker_processes_as_its_path(fasta, tmp_path):
    store = tokenized(tmp_path / "t", fasta(chr1=random_bases(90_000)), **BLOCKS)
    (run,) = store.runs("train")
    tokens = run.read(0, len(run))
    data = pickle.dumps(store)
    assert len(data) < 1_000
    (again,) = pickle.loads(data).runs("train")
    assert (again.read(0, len(again)) == tokens).all()


def test_more_n_than_allowed(fasta, tmp_path):
    with pytest.raises(ValueError, match=r"genome.fa: 60.0% of the 1,000 bases are N, more than data.max_n"):
        tokenize(config_for(fasta(chr1="N" * 600 + random_bases(400)), **BLOCKS), tmp_path / "t")
    with pytest.raises(ValueError, match=r"soft-masked bases became N"):
        tokenize(config_for(fasta(chr1="acg" * 200 + random_bases(400)), soft_mask="n", **BLOCKS), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_contigs_that_are_all_too_short(fasta, tmp_path):
    with pytest.raises(ValueError, match=r"genome.fa: nothing of it is left \(8 bases: contig shorter than 100 bases"):
        tokenize(config_for(fasta(a="ACGT", b="ACGT"), min_contig=100), tmp_path / "t")
    path = fasta(long=random_bases(2_000), short="ACGT", empty="")
    (source,) = tokenized(tmp_path / "t", path, min_contig=100, **BLOCKS).manifest["sources"]
    assert (source["kept"], source["dropped"]) == (1, {"contig shorter than 100 bases": 2})
    assert (source["shortest"], source["longest"], source["n50"]) == (0, 2_000, 2_000)


def test_a_split_that_leaves_validation_empty(fasta, tmp_path):
    path = fasta(chr1=random_bases(30_000))
    with pytest.raises(ValueError, match=r"leaves validation empty.*data.split.block 1500 or less"):
        tokenize(config_for(path), tmp_path / "t")
    with pytest.raises(ValueError, match=r"leaves validation empty.*whole contigs"):
        tokenize(config_for(path, split={"by": "contig"}), tmp_path / "t")
    tokenize(config_for(path, split={"block": 1_500}), tmp_path / "t")
    other = fasta(name="other.fa", chr1=random_bases(500, 3))
    sources = [{"path": str(path), "split": "train"}, {"path": str(other), "split": "validation"}]
    with pytest.raises(ValueError, match=r"every source has a split of its own, and none is test"):
        tokenize(config_for(*sources), tmp_path / "t")


def test_a_source_too_small_for_the_split_beside_a_large_one_is_noted(fasta, tmp_path):
    small, large = fasta(name="small.fa", p=random_bases(150)), fasta(name="large.fa", chr1=random_bases(5_000))
    manifest = tokenize(config_for(small, large, **NO_LEAKS), tmp_path / "t")
    assert any("small" in note for note in manifest["warnings"])


def test_all_sources_are_checked_before_the_first_is_read(fasta, tmp_path, reads):
    with pytest.raises(FileNotFoundError, match=r"gone.bam"):
        tokenize(config_for(fasta(chr1=random_bases(900)), tmp_path / "gone.bam"), tmp_path / "t")
    assert reads == []
    assert not (tmp_path / "t").exists()


def test_a_file_that_changes_while_it_is_read(fasta, tmp_path, monkeypatch):
    path = fasta(chr1=random_bases(900))
    honest = writer.open_source

    def changed(*arguments):
        yield from honest(*arguments)
        path.write_text(">x\nACGT\n")

    monkeypatch.setattr(writer, "open_source", changed)
    with pytest.raises(ValueError, match=r"genome.fa: the file changed while it was read"):
        tokenize(config_for(path, **BLOCKS), tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


def test_a_folder_of_something_else_is_left_alone(fasta, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    config = config_for(fasta(chr1=random_bases(900)), **BLOCKS)
    with pytest.raises(ValueError, match=r"precious: holds something other than a token store \(thesis.txt\)"):
        tokenize(config, out)
    assert contents(out) == {"thesis.txt": b"years of work"}
    with pytest.raises(ValueError, match=r"thesis\.txt: holds something other"):
        tokenize(config, out / "thesis.txt")
    with pytest.raises(ValueError, match=r"precious: not a whole token store \(manifest\.json"):
        TokenStore(out)


def test_missing_and_broken_stores(fasta, tmp_path):
    with pytest.raises(FileNotFoundError, match="no token store there"):
        TokenStore(tmp_path / "none")
    out = tmp_path / "t"
    store = tokenized(out, fasta(chr1=random_bases(900)), tokenizer={"kind": "kmer"}, **BLOCKS)
    whole = contents(out)
    for name in FILES:
        (out / name).unlink()
        with pytest.raises(ValueError, match=rf"t: not a whole token store \({name} missing\)"):
            TokenStore(out)
        (out / name).write_bytes(whole[name])
    for name in (PLACES, "index.parquet", "tokenizer.json", f"{SHARDS}/genome.tokens"):
        (out / name).write_bytes(whole[name][:-1])
        with pytest.raises(
            ValueError, match=rf"{name}: [0-9,]+ bytes, the manifest says [0-9,]+: cut short or changed"
        ):
            TokenStore(out)
        (out / name).write_bytes(whole[name])
    for name in (f"{SHARDS}/genome.bases", f"{SHARDS}/genome.softmask.npy"):
        (out / name).write_bytes(whole[name] + b"\0")
        with pytest.raises(ValueError, match=rf"{name}: [0-9,]+ bytes, [0-9,]+ were written: cut short or changed"):
            TokenStore(out).shard("genome")
        (out / name).write_bytes(whole[name])
    (out / SHARDS / "genome.json").write_text("{")
    with pytest.raises(ValueError, match=r"genome\.json: missing or damaged"):
        TokenStore(out).shard("genome")
    (out / SHARDS / "genome.json").write_bytes(whole[f"{SHARDS}/genome.json"])
    assert TokenStore(out).sha256 == store.sha256
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: damaged"):
        TokenStore(out)
    (out / "manifest.json").write_text(json.dumps(json.loads(whole["manifest.json"]) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        TokenStore(out)


def test_a_store_of_the_first_format_is_named_and_replaced(fasta, tmp_path):
    out = tmp_path / "t"
    out.mkdir()
    for name in ("manifest.json", "tokens.bin", "index.tsv", "softmask.npy", "tokenizer.json", "tokenizer_config.json"):
        (out / name).write_text("{}")
    with pytest.raises(ValueError, match=r"t: token store of format 1, this version reads 2") as error:
        TokenStore(out)
    assert len(str(error.value).splitlines()) == 1
    store = tokenized(out, fasta(chr1=random_bases(900)), **BLOCKS)
    check_store(store, {("genome", "chr1"): random_bases(900)})
    assert not (out / "tokens.bin").exists()


# ------------------------------------------------------------------------------ full disks and kills


@pytest.fixture
def old_and_new(fasta, tmp_path):
    """A whole old store, and the config file of a new one of two sources that is to take its place."""
    out = tmp_path / "tokens"
    tokenize(config_for(fasta(name="old.fa", chr1=random_bases(900)), **BLOCKS), out)
    sources = [fasta(name=f"new{i}.fa", chr1=random_bases(100_000, 5 + i)) for i in range(2)]
    new = config_for(*sources, tokenizer={"kind": "kmer", "k": 7}, **BLOCKS)
    settings_file = tmp_path / "config.json"
    settings_file.write_text(new.model_dump_json())
    return out, settings_file


INPUT = ["config.json", "new0.fa", "new1.fa", "old.fa"]


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Write a store in a process of its own, which prints the name of every source that it begins to read."""
    prelude = """
import sys, os, signal, resource
from pathlib import Path
from titans_genomics.config import load_config
from titans_genomics.data import folder, index, shard, writer
opened = writer.open_source
def open_source(source, *arguments):
    print(source.label, flush=True)
    return opened(source, *arguments)
writer.open_source = open_source
kill = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
"""
    call = "\nwriter.tokenize(load_config(sys.argv[2]), Path(sys.argv[1]), jobs=1)\n"
    command = [sys.executable, "-c", prelude + code + call, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_killed_process_goes_on_from_the_first_of_two_sources(old_and_new, reads):
    out, settings_file = old_and_new
    before = contents(out)
    after_first = "real = shard.ShardWriter.finish\ndef finish(self, facts):\n    kill() if self.label == 'new1' else real(self, facts)\nshard.ShardWriter.finish = finish"
    killed = run_python(after_first, out, settings_file)
    assert (killed.returncode, killed.stdout.split()) == (-9, ["new0", "new1"])
    assert contents(out) == before
    reads.clear()
    tokenize(load_config(settings_file), out, 1)
    assert reads == ["new1"]
    check_store(TokenStore(out), {(f"new{i}", "chr1"): random_bases(100_000, 5 + i) for i in range(2)})
    assert sorted(path.name for path in out.parent.iterdir()) == [*INPUT, "tokens"]


@pytest.mark.parametrize("moment", ["shard.save_array", "index.save_array", "writer.versions", "folder.os.fsync"])
def test_a_process_killed_while_writing_leaves_the_old_store(old_and_new, moment):
    out, settings_file = old_and_new
    before = contents(out)
    assert run_python(f"{moment} = kill", out, settings_file).returncode == -9
    assert contents(out) == before
    assert TokenStore(out).sources == ["old"]
    tokenize(load_config(settings_file), out, 1)
    assert TokenStore(out).sources == ["new0", "new1"]
    assert sorted(path.name for path in out.parent.iterdir()) == [*INPUT, "tokens"]


def test_a_process_killed_between_the_renames_loses_nothing(old_and_new, fasta):
    out, settings_file = old_and_new
    before = contents(out)
    rename = "real = Path.rename\nPath.rename = lambda self, to: kill() if self.name.endswith('.partial') else real(self, to)"
    assert run_python(rename, out, settings_file).returncode == -9
    assert not out.exists()
    with pytest.raises(ValueError, match="are N"):  # a failing run after it puts the old store back
        tokenize(config_for(fasta(name="bad.fa", chr1="N" * 900), **BLOCKS), out)
    assert contents(out) == before


def test_killed_while_a_shard_was_read_anew_with_other_settings_nothing_old_is_believed(tmp_path):
    """Facts of the attempt before would fit the size of what the killed process has written."""
    path = write_fasta(tmp_path / "new0.fa", {"chr1": random_bases(3_000) + random_bases(300, 1).lower()})
    leaky = write_fasta(tmp_path / "new1.fa", {"chr1": random_bases(3_000)})
    out, settings_file = tmp_path / "t", tmp_path / "config.json"
    with pytest.raises(ValueError, match="near-identically"):
        tokenize(config_for(path, leaky, **BLOCKS), out)
    settings_file.write_text(config_for(path, leaky, soft_mask="n", **BLOCKS).model_dump_json())
    assert run_python("shard.save_array = kill", out, settings_file).returncode == -9
    store = tokenized(out, path, **BLOCKS)
    check_store(store, {("new0", "chr1"): random_bases(3_000) + random_bases(300, 1)})


def check_only_whole_shards_are_left(out: Path) -> None:
    """Beside a store that failed to be replaced there is nothing but whole shards for the next attempt."""
    partial = out.with_name(f".{out.name}.partial")
    left = {path.name for path in out.parent.iterdir()} - {*INPUT, out.name}
    assert left <= {partial.name}
    if left:
        facts = list((partial / SHARDS).glob("*.json"))
        assert facts
        assert set(contents(partial)) == {f"{SHARDS}/{path.stem}{suffix}" for path in facts for suffix in SUFFIXES}
        for path in facts:
            Shard(partial / SHARDS, path.stem)


@pytest.mark.parametrize(
    ("tokenizer", "room", "whole"),
    [
        ({"kind": "nucleotide"}, 60_000, 0),  # too little for the bases of a shard
        ({"kind": "kmer", "overlap": True}, 100_500, 2),  # for tokens of two bytes only
    ],
    ids=["bases", "tokens"],
)
def test_a_full_disk_leaves_the_old_store_and_whole_shards(old_and_new, tokenizer, room, whole):
    out, settings_file = old_and_new
    config = json.loads(settings_file.read_text())
    config["data"]["tokenizer"] = tokenizer
    settings_file.write_text(json.dumps(config))
    before = contents(out)
    done = run_python(f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))", out, settings_file)
    assert done.returncode == 1
    assert "no room to write the token store (File too large)" in done.stderr
    assert contents(out) == before
    check_only_whole_shards_are_left(out)
    assert len(list(out.with_name(".tokens.partial").glob(f"{SHARDS}/*.json"))) == whole


@pytest.mark.parametrize(
    "file",
    [
        "new0.bases",
        "new0.records.parquet",
        "new1.softmask.npy",
        "new1.json.tmp",
        "index.parquet",
        "places.npy",
        "new0.tokens",
        "tokenizer.json",
        "manifest.json",
    ],
)
def test_a_disk_that_fills_up_while_a_file_is_written(old_and_new, monkeypatch, file):
    out, settings_file = old_and_new
    before = contents(out)
    honest, parquet = Path.open, pyarrow.parquet.ParquetWriter

    def on_disk(path):
        return Path("/dev/full") if Path(path).name == file else path

    def opened(path, mode="r", *arguments, **options):
        return honest(on_disk(path) if "w" in mode else path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(
        pyarrow.parquet, "ParquetWriter", lambda path, *a, **options: parquet(on_disk(path), *a, **options)
    )
    with pytest.raises(OSError, match=r"no room to write the token store \(No space left on device\)"):
        tokenize(load_config(settings_file), out, 1)
    assert contents(out) == before
    check_only_whole_shards_are_left(out)


def test_an_array_that_does_not_fit_on_the_disk():
    with pytest.raises(OSError, match="No space left on device") as error:
        save_array(Path("/dev/full"), np.zeros((1_000, 4)))
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("array", [np.zeros((0, 2), dtype=np.int64), np.arange(8).reshape(4, 2), np.arange(8.0)[::-1]])
def test_an_array_is_read_back(tmp_path, array):
    save_array(tmp_path / "a.npy", array)
    again = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert (again.tolist(), again.dtype, again.shape) == (array.tolist(), array.dtype, array.shape)


def test_two_processes_cannot_write_one_store(fasta, tmp_path, monkeypatch):
    config = config_for(fasta(chr1=random_bases(900)), **BLOCKS)
    honest = writer.open_source

    def second(*arguments):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="another process is writing"):
            tokenize(config, tmp_path / "t")
        return honest(*arguments)

    monkeypatch.setattr(writer, "open_source", second)
    tokenize(config, tmp_path / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genome.fa", "t"]
    assert sizes(TokenStore(tmp_path / "t")) > 900


# --------------------------------------------------------------------------- what a shard depends on


def replaced(path: Path, content: str) -> None:
    """Put another file in a file's place, of its size and time of change."""
    before = path.stat()
    new = path.with_name("new")
    new.write_text(content)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(new, path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(two, tmp_path, reads):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    content = write_fasta(tmp_path / "other.fa", {"chr1": random_bases(2_000, 9)}).read_text()
    for count, path in enumerate(two):
        reads.clear()
        if count:  # another inode, or the same one
            replaced(path, content)
        else:
            times = path.stat()
            path.write_text(content[:-9] + content[-9:-1].translate(str.maketrans("ACGT", "CATG")) + "\n")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        tokenized(tmp_path / "t", *two, **NO_LEAKS)
        assert reads == ["ab"[count]]


def test_a_copy_is_looked_at_once(two, tmp_path, reads, monkeypatch):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    before = contents(tmp_path / "t")
    replaced(two[0], two[0].read_text())
    sums = []
    honest = SourceFile._run
    monkeypatch.setattr(SourceFile, "_run", lambda self: sums.append(self.path.name) or honest(self))
    reads.clear()
    for _ in range(2):
        store = tokenized(tmp_path / "t", *two, **BLOCKS)
    assert (reads, sums) == ([], ["a.fa"])
    facts = f"{SHARDS}/a.json"
    assert contents(store.path) | {facts: b""} == before | {facts: b""}


def test_what_is_known_of_a_copy_is_not_written_into_the_old_store(two, tmp_path):
    tokenized(tmp_path / "t", *two, **BLOCKS)
    before = contents(tmp_path / "t")
    replaced(two[0], two[0].read_text())
    with pytest.raises(ValueError, match="leaves validation empty"):
        tokenized(tmp_path / "t", *two, **NO_LEAKS | {"split": {"by": "contig", "validation": 0.1}})
    assert contents(tmp_path / "t") == before


def test_an_md5_is_looked_at_once(two, tmp_path, reads, monkeypatch):
    sums = []
    honest = writer.check_md5
    monkeypatch.setattr(writer, "check_md5", lambda path, md5: sums.append(path.name) or honest(path, md5))
    first, second = ({"path": str(path), "md5": hashlib.md5(path.read_bytes()).hexdigest()} for path in two)
    second["md5"] = second["md5"].upper()
    for _ in range(2):
        tokenized(tmp_path / "t", first, second, **BLOCKS)
    assert (reads, sorted(sums)) == (["a", "b"], ["a.fa", "b.fa"])
    sums.clear()
    os.utime(two[0], (1, 1))  # the same SHA-256
    tokenized(tmp_path / "t", first, second, **BLOCKS)
    assert sums == []
    with pytest.raises(ValueError, match=r"b\.fa: the MD5 checksum is"):
        tokenized(tmp_path / "t", first, second | {"md5": "1" * 32}, **BLOCKS)
    write_fasta(two[0], {"chr1": random_bases(2_000, 9)})
    with pytest.raises(ValueError, match=r"a\.fa: the MD5 checksum is"):
        tokenized(tmp_path / "t", first, second, **BLOCKS)


@pytest.fixture
def cram(tmp_path):
    """The entry of a CRAM whose reads match its reference, and the reference's sequence."""
    genome = random_bases(5_000, 3)
    reference = write_fasta(tmp_path / "genome.fa", {"chr1": genome, "chr2": genome})
    lines = [{"pos": 100 * i, "seq": genome[100 * i : 100 * i + 200]} for i in range(40)]
    bam = make_bam(tmp_path / "x.bam", lines)
    path = tmp_path / "x.cram"
    pysam.view("-C", "-T", str(reference), "-o", str(path), str(bam), catch_stdout=False)
    return {"path": str(path), "reference": str(reference)}


def test_a_reference_that_changes_or_moves(cram, tmp_path, reads):
    first = tokenized(tmp_path / "t", cram, **NO_LEAKS)
    reads.clear()
    moved = Path(cram["reference"]).rename(tmp_path / "moved.fa")
    store = tokenized(tmp_path / "t", cram | {"reference": str(moved)}, **NO_LEAKS)
    assert (reads, store.sha256) == ([], first.sha256)
    named = store.manifest["sources"][0]["side_files"]["reference"]
    assert named == {"path": str(moved), "sha256": hashlib.sha256(moved.read_bytes()).hexdigest()}
    replaced(moved, moved.read_text().replace("a description", "A description"))
    store = tokenized(tmp_path / "t", cram | {"reference": str(moved)}, **NO_LEAKS)
    assert reads == ["x"]
    assert store.sha256 != first.sha256


@pytest.mark.parametrize("kind", ["fasta", "bam"])
@pytest.mark.parametrize("changed", ["readers", "pysam"])
def test_other_readers_read_again(tmp_path, reads, monkeypatch, kind, changed):
    path = write_fasta(tmp_path / "x.fa", {"chr1": random_bases(2_000)})
    if kind == "bam":
        path = make_bam(tmp_path / "x.bam", [{"pos": 10 * i} for i in range(20)])
    tokenized(tmp_path / "t", path, **NO_LEAKS)
    reads.clear()
    if changed == "readers":
        monkeypatch.setattr(writer, "READERS", writer.READERS + 1)
    else:
        versions = writer.versions()
        monkeypatch.setattr(writer, "versions", lambda: versions | {"pysam": "0.0"})
    tokenized(tmp_path / "t", path, **NO_LEAKS)
    assert reads == ([] if (kind, changed) == ("fasta", "pysam") else ["x"])


def test_a_text_of_another_name_has_other_documents(tmp_path, reads):
    path = tmp_path / "x.txt"
    path.write_text("a b c\n" * 300)
    settings = {"tokenizer": {"kind": "byte"}, "split": {"validation": 0, "test": 0}}
    first = tokenized(tmp_path / "t", {"path": str(path), "kind": "text", "name": "x"}, **settings)
    path = path.rename(tmp_path / "y.txt")
    store = tokenized(tmp_path / "t", {"path": str(path), "kind": "text", "name": "x"}, **settings)
    assert reads == ["x", "x"]
    assert {segment.record for segment in store.index} == {"y.txt"}
    assert store.sha256 == first.sha256


def test_the_manifest_names_all_files_with_their_checksums(two, tmp_path):
    bed = tmp_path / "some.bed"
    bed.write_text("chr1\t0\t1500\n")
    other = tmp_path / "other.bed"
    other.write_text("chr1\t20\t30\n")
    bpe = tokenized(tmp_path / "bpe", two[0], tokenizer={"kind": "bpe", "vocab_size": 40}, **BLOCKS)
    assert set(bpe.manifest["tokenizer"]) == {"kind", "vocab_size"}
    pieces = tmp_path / "pieces.json"
    pieces.write_bytes((bpe.path / "tokenizer.json").read_bytes())
    source = {"path": str(two[0]), "regions": str(bed), "exclude": str(other)}
    manifest = tokenized(
        tmp_path / "t", source, two[1], tokenizer={"kind": "bpe", "path": str(pieces)}, **BLOCKS
    ).manifest
    named = [
        {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in (bed, other, pieces)
    ]
    assert [entry["side_files"] for entry in manifest["sources"]] == [{"regions": named[0], "exclude": named[1]}, {}]
    assert manifest["tokenizer"].items() >= named[2].items()


# ------------------------------------------------------------------------------ links, stops, damage


@pytest.mark.parametrize("relative", [False, True])
def test_a_store_behind_a_symbolic_link(two, tmp_path, relative):
    disk, home = tmp_path / "disk", tmp_path / "home"
    disk.mkdir()
    home.mkdir()
    link = home / "tokens"
    link.symlink_to("../disk/real" if relative else disk / "real")
    for by in ("block", "contig", "block"):  # a link to nothing, then one to a store
        split = BLOCKS["split"] if by == "block" else {"by": by, "validation": 0, "test": 0}
        store = tokenized(link, *two, split=split)
        assert link.is_symlink()
        assert [path.name for path in (*home.iterdir(), *disk.iterdir())] == ["tokens", "real"]
    check_store(store, {("a", "chr1"): random_bases(2_000), ("b", "chr1"): random_bases(2_000, 1)})
    leaky = write_fasta(tmp_path / "c.fa", {"chr1": mutated(random_bases(2_000, 1), 0.001, 3)})
    before = contents(disk / "real")
    with pytest.raises(ValueError, match="near-identically"):
        tokenized(link, *two, leaky, **BLOCKS)
    assert contents(disk / "real") == before
    assert {path.name for path in disk.iterdir()} == {"real", ".real.partial"}


def test_a_link_that_an_older_version_moved_aside_is_not_followed(two, tmp_path):
    precious = tokenized(tmp_path / "precious", two[0], **BLOCKS).path
    before = contents(precious)
    tokenized(tmp_path / "t", *two, **BLOCKS)
    (tmp_path / ".t.old").symlink_to(precious)
    tokenized(tmp_path / "t", *two, **BLOCKS)
    assert contents(precious) == before
    assert not (tmp_path / ".t.old").is_symlink()


def test_a_reader_that_yields_nothing_is_stopped_too(two, tmp_path, monkeypatch):
    """As one that filters out every read: it only says how far it is."""
    begun, ended = threading.Event(), []
    honest = writer.open_source

    def endless(source, data, seed, dropped, advance):
        if source.label == "a":
            begun.wait(60)
            raise ValueError("a.fa: at fault")
        begun.set()
        try:
            for _ in range(60_000):
                advance(None)
                time.sleep(0.001)
        finally:
            ended.append(source.label)
        yield from honest(source, data, seed, dropped, advance)

    monkeypatch.setattr(writer, "open_source", endless)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"a\.fa: at fault"):
        tokenize(config_for(*two, **BLOCKS), tmp_path / "t", 2)
    assert ended == ["b"]
    assert time.monotonic() - start < 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "b.fa"]


@pytest.mark.parametrize("name", [PLACES, f"{SHARDS}/genome.softmask.npy", f"{SHARDS}/genome.nruns.npy"])
@pytest.mark.parametrize("damage", ["magic", "header", "type", "shape"])
def test_arrays_damaged_at_equal_size(fasta, tmp_path, name, damage):
    path = fasta(chr1=random_bases(900) + "N" * 30 + random_bases(500, 1).lower())
    out = tokenized(tmp_path / "t", path, **NO_LEAKS).path
    array = (out / name).read_bytes()
    begin, shape = array.index(b"("), array.index(b")")
    changed = {
        "magic": bytes(8) + array[8:],
        "header": array[:20] + b"\xff{'(" * 5 + array[40:],
        "type": array.replace(b"<i8", b"<f8"),
        "shape": array[:begin] + b"(9999999" + array[begin + 8 :] if shape - begin >= 7 else array.replace(b"(", b"["),
    }[damage]
    (out / name).write_bytes(changed)
    assert len(changed) == len(array)
    assert changed != array
    store = TokenStore(out)
    with pytest.raises(ValueError, match=rf"{name}: damaged \(.+\)\. Run `titans-genomics tokenize` again"):
        _ = (store.places, store.shard("genome").softmask, store.shard("genome").n_runs)


def test_a_full_disk_keeps_what_was_read_through(two, tmp_path, reads, monkeypatch):
    honest = Path.open

    def opened(path, mode="r", *arguments, **options):
        full = path.name == "c.softmask.npy" and "w" in mode
        return honest(Path("/dev/full") if full else path, mode, *arguments, **options)

    third = write_fasta(tmp_path / "c.fa", {"chr1": random_bases(2_000, 8)})
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(
        OSError, match=r"no room .*read through are kept beside it \(\.t\.partial, which may be removed"
    ):
        tokenized(tmp_path / "t", *two, third, **BLOCKS)
    left = {path.name for path in (tmp_path / ".t.partial" / SHARDS).iterdir()}
    assert left == {label + suffix for label in "ab" for suffix in SUFFIXES}
    assert [path.name for path in (tmp_path / ".t.partial").iterdir()] == [SHARDS]
    monkeypatch.setattr(Path, "open", honest)
    reads.clear()
    assert tokenized(tmp_path / "t", *two, third, **BLOCKS).sources == ["a", "b", "c"]
    assert reads == ["c"]
    assert not (tmp_path / ".t.partial").exists()
