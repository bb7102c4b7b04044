from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pysam
import pytest
from bad_files import GENOME, converted, good, sam, sam_line
from Bio import SeqIO
from hypothesis import example, given, settings
from hypothesis import strategies as st
from making import make_bam, random_bases, tokenized, write_fasta

from titans_genomics.data import dump, scan
from titans_genomics.data.alphabet import encode
from titans_genomics.data.inspect import dump_store, inspect_store, text_report
from titans_genomics.data.scan import Records, gc_spread, n_in_contigs, n_in_reads, repeats
from titans_genomics.data.shard import shard_path
from titans_genomics.data.tally import tally

WHOLE = {"validation": 0, "test": 0, "leaks": {"action": "off"}}
BLOCKS = {"block": 200, "validation": 0.2, "test": 0.2, "leaks": {"action": "off"}}
TOKENIZERS = [
    {"kind": "nucleotide"},
    {"kind": "kmer", "k": 3},
    {"kind": "kmer", "k": 3, "overlap": True},
    {"kind": "bpe", "vocab_size": 40, "sample": 1_000},
]
COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")


def other_strand(bases: str) -> str:
    return bases[::-1].translate(COMPLEMENT)


def dumped(store: Path, source: str | None = None, split: str | None = None) -> bytes:
    out = io.BytesIO()
    dump_store(store, out, source, split)
    return out.getvalue()


def fasta_records(content: bytes) -> list[tuple[str, str]]:
    """Names and sequences of a FASTA file, which must be in full lines of 60."""
    found = []
    for record in content.decode().split(">")[1:]:
        name, *lines = record.split("\n")
        assert lines.pop() == "", "the last line is ended"
        assert all(len(line) == dump.WIDTH for line in lines[:-1])
        assert not lines or 0 < len(lines[-1]) <= dump.WIDTH
        found.append((name, "".join(lines)))
    return found


def records_of(folder: Path, sequences: list[str]) -> Records:
    """A base layer of these records."""
    path = folder / "x.bases"
    path.write_bytes(b"".join(encode(sequence).tobytes() for sequence in sequences))
    return Records(path, np.array([len(sequence) for sequence in sequences], dtype=np.int64))


def write_fastq(path: Path, reads: list[str]) -> Path:
    path.write_text("".join(f"@r{i}\n{bases}\n+\n{'I' * len(bases)}\n" for i, bases in enumerate(reads)))
    return path


# ---------------------------------------------------------------------------------------------- dump


@given(
    records=st.lists(st.text("ACGTNacgtn", max_size=200), min_size=1, max_size=12).filter(any),
    piece=st.sampled_from([1, 7, 60, 64, 1 << 22]),
)
@settings(max_examples=40, deadline=None)
def test_what_was_read_is_written_back(tmp_path_factory, records, piece):
    folder = tmp_path_factory.mktemp("store")
    named = {f"r{i}": record for i, record in enumerate(records)}
    path = write_fasta(folder / "x.fa", named, width=13)
    tokenized(folder / "s", path, min_contig=1, max_n=1, split=WHOLE)
    with mock.patch.object(dump, "_PIECE", piece):
        assert fasta_records(dumped(folder / "s")) == list(named.items())


def independently(path: Path, kind: str) -> list[tuple[str, str]]:
    """Names and sequences of a file as Biopython or htslib reads them, reads as sequenced."""
    if kind in ("bam", "cram"):
        reference = path.with_name("genome.fa")
        with pysam.AlignmentFile(str(path), check_sq=False, reference_filename=str(reference)) as reads:
            return [(read.query_name, read.get_forward_sequence()) for read in reads.fetch(until_eof=True)]
    with path.open("rb" if kind == "2bit" else "r") as handle:
        form = {"2bit": "twobit"}.get(kind, kind)
        return [(record.id, str(record.seq)) for record in SeqIO.parse(handle, form)]


@pytest.mark.parametrize("kind", ["fasta", "gzip", "bgzf", "fastq", "genbank", "embl", "2bit", "bam", "cram"])
def test_every_format_is_written_back(tmp_path, kind):
    genome = write_fasta(tmp_path / "genome.fa", GENOME)
    lines = [sam_line(f"r{i}", 16 * (i % 2), start=60 * i, bases=GENOME["chr1"][60 * i :][:120]) for i in range(12)]
    path = tmp_path / "x"
    if kind in ("bam", "cram"):
        path.write_bytes(converted(sam(*lines), f"w{kind[0]}", genome))
    else:
        path.write_bytes(good(kind))
    source = {"path": str(path)} | ({"reference": str(genome)} if kind == "cram" else {})
    tokenized(tmp_path / "tokens", source, min_contig=1, reads={"min_length": 1}, split=WHOLE)
    expected = list(GENOME.items()) if kind in ("gzip", "bgzf") else independently(path, kind)
    assert len(expected) >= 2
    assert fasta_records(dumped(tmp_path / "tokens")) == expected


def test_a_mask_that_was_not_recorded_is_not_written(fasta, tmp_path):
    tokenized(tmp_path / "s", fasta(a="acgtACGT" * 20), soft_mask="ignore", split=WHOLE)
    assert fasta_records(dumped(tmp_path / "s")) == [("a", "ACGT" * 40)]


def test_soft_masked_stretches_are_found_piece_by_piece():
    rng = np.random.default_rng(0)
    edges = np.unique(rng.integers(0, 200_000, 24_001))
    stretches = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    masked = np.zeros(200_000, dtype=bool)
    for start, end in stretches:
        masked[start:end] = True
    soft = dump._Soft(stretches)
    borders = [0, *np.unique(rng.integers(1, 200_000, 9)).tolist(), 200_000]
    for begin, end in pairwise(borders):
        found = np.zeros(end - begin, dtype=bool)
        for start, stop in soft.within(begin, end):
            found[start:stop] = True
        assert (found == masked[begin:end]).all()


def test_reads_are_written_as_they_are_stored(tmp_path):
    reads = [{"name": f"r{i}", "pos": 10 * i, "flag": 16 * (i % 2), "seq": random_bases(150 + i, i)} for i in range(30)]
    tokenized(tmp_path / "s", make_bam(tmp_path / "x.bam", reads), split=WHOLE)
    sequenced = [(r["name"], other_strand(r["seq"]) if r["flag"] else r["seq"]) for r in reads]
    assert fasta_records(dumped(tmp_path / "s")) == sequenced


@given(
    documents=st.lists(st.text("ab\n\r é", min_size=1, max_size=30), min_size=1, max_size=6).filter(
        lambda texts: "".join(texts).strip()
    ),
    piece=st.sampled_from([1, 5, 99]),
)
@settings(max_examples=30, deadline=None)
def test_text_is_written_as_it_was(tmp_path_factory, documents, piece):
    folder = tmp_path_factory.mktemp("text")
    content = "<|endoftext|>\n".join(f"{document}\n" for document in documents).encode()
    (folder / "x.txt").write_bytes(content)
    source = {"path": str(folder / "x.txt"), "kind": "text"}
    tokenized(folder / "s", source, tokenizer={"kind": "byte"}, split=WHOLE)
    with mock.patch.object(dump, "_PIECE", piece):
        assert dumped(folder / "s") == content
        assert dumped(folder / "s", split="train") == content


def test_texts_of_several_sources_are_kept_apart(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    paths = [{"path": str(tmp_path / f"{name}.txt"), "kind": "text"} for name in "ab"]
    tokenized(tmp_path / "s", *paths, tokenizer={"kind": "byte"}, split=WHOLE)
    assert dumped(tmp_path / "s") == b"text a\n<|endoftext|>\ntext b"


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("piece", [50, 1 << 22])
def test_the_segments_of_the_splits_are_decoded_from_their_tokens(fasta, tmp_path, tokenizer, piece):
    named = {"a": random_bases(3_000, 1) + "N" * 150, "b": "acgtN" * 300, "c": random_bases(1_005, 2)}
    store = tokenized(tmp_path / "s", fasta(**named), tokenizer=tokenizer, n_runs="drop", split=BLOCKS)
    covered = {name: np.zeros(len(sequence), dtype=int) for name, sequence in named.items()}
    with mock.patch.object(dump, "_PIECE", piece):
        written = {
            split: fasta_records(dumped(tmp_path / "s", "genome", split)) for split in ("train", "validation", "test")
        }
    for split, segments in written.items():
        assert [name for name, _ in segments] == [
            f"{own.record}:{own.start}-{own.end}" for own in store.index if own.split == split
        ]
        for name, sequence in segments:
            record, start, end = re.fullmatch(r"(\w+):(\d+)-(\d+)", name).groups()
            assert sequence == named[record][int(start) : int(end)].upper()
            covered[record][int(start) : int(end)] += 1
    assert all(written.values())
    assert {name: count.tolist() for name, count in covered.items()} == {
        name: [0 if name == "a" and i >= 3_000 else 1 for i in range(len(sequence))] for name, sequence in named.items()
    }


def test_only_one_source_is_written(fasta, tmp_path):
    tokenized(tmp_path / "s", fasta("x.fa", a="ACGT" * 30), fasta("y.fa", b="TTGCA" * 30), split=WHOLE)
    assert fasta_records(dumped(tmp_path / "s", "y")) == [("b", "TTGCA" * 30)]
    assert fasta_records(dumped(tmp_path / "s", "y", "train")) == [("b:0-150", "TTGCA" * 30)]
    assert [name for name, _ in fasta_records(dumped(tmp_path / "s"))] == ["a", "b"]


def test_a_reader_that_stops_ends_the_dump_quietly(fasta, tmp_path):
    tokenized(tmp_path / "s", fasta(a=random_bases(400_000)), split=WHOLE)
    command = f"{sys.executable} -m titans_genomics.cli inspect {tmp_path / 's'} --dump | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == (">a\n", "", 0)


# ---------------------------------------------------------------------------------------- duplicates


@given(st.lists(st.text("ACGTN", max_size=20), max_size=30), st.sampled_from([1, 16, 1 << 24]))
@example(["", "", "A", "T", "AAAACCCC", "GGGGTTTT", "AAAACCCCN"], 1 << 24)
@settings(max_examples=60, deadline=None)
def test_records_on_either_strand_are_the_same(tmp_path_factory, sequences, piece):
    first: set[str] = set()
    again = []
    for sequence in filter(None, sequences):
        kind = min(sequence, other_strand(sequence))
        again += [sequence] * (kind in first)
        first.add(kind)
    records = records_of(tmp_path_factory.mktemp("records"), sequences)
    with mock.patch.object(Records.blocks, "__defaults__", (piece,)):
        assert repeats(records, True) == {"records": len(again), "bases": sum(map(len, again))}
        plain = list(filter(None, sequences))
        assert repeats(records, False)["records"] == len(plain) - len(set(plain))


def test_records_that_are_alike_are_not_the_same(tmp_path):
    left, middle, right = (random_bases(length, seed) for seed, length in enumerate((64, 40, 64)))
    whole = left + middle + right
    other = "ACGT"["ACGT".index(whole[80]) - 1]
    sequences = [
        whole,
        left + other_strand(middle) + right,  # turned about its middle: the words of both strands are the same
        right + middle + left,
        whole[::-1],
        whole[:80] + other + whole[81:],
        whole[8:] + whole[:8],
    ]
    assert repeats(records_of(tmp_path, sequences), True) == {"records": 0, "bases": 0}
    assert repeats(records_of(tmp_path, [*sequences, other_strand(whole)]), True) == {"records": 1, "bases": len(whole)}


def test_duplicates_of_a_store(fasta, tmp_path):
    one, two = random_bases(500, 1), random_bases(500, 2)
    genome = fasta(a=one, b=two, c=other_strand(one.lower()), d=one[:-1] + "N")
    reads = write_fastq(tmp_path / "reads.fq", [one, two, one, other_strand(two), two])
    tokenized(tmp_path / "s", genome, reads, split=WHOLE)
    found = inspect_store(tmp_path / "s")
    assert [source["duplicates"] for source in found["sources"]] == [
        {"records": 1, "bases": 500},
        {"records": 3, "bases": 1_500},
    ]
    assert found["totals"]["duplicates"] == {"records": 4, "bases": 2_000}


def test_text_has_one_strand(tmp_path):
    content = "<|endoftext|>\n".join(["one text\n", "txet eno\n", "one text\n"])
    (tmp_path / "x.txt").write_text(content)
    source = {"path": str(tmp_path / "x.txt"), "kind": "text"}
    tokenized(tmp_path / "s", source, tokenizer={"kind": "byte"}, split=WHOLE)
    (source,) = inspect_store(tmp_path / "s")["sources"]
    assert source["duplicates"] == {"records": 1, "bases": 9}
    assert (source["n"], source["gc"], source["gc_spread"], source["soft_masked"]) == (None, None, None, None)


# ------------------------------------------------------------------------------------------- numbers


@given(st.lists(st.text("AN", max_size=12), min_size=1, max_size=12), st.sampled_from([1, 10, 1 << 24]))
@settings(max_examples=60, deadline=None)
def test_runs_of_n_end_with_their_record(tmp_path_factory, sequences, piece):
    runs = [len(run) for sequence in sequences for run in re.findall("N+", sequence)]
    expected = {"runs": len(runs), "longest": max(runs, default=0), "records": sum("N" in s for s in sequences)}
    records = records_of(tmp_path_factory.mktemp("records"), sequences)
    with mock.patch.object(Records.blocks, "__defaults__", (piece,)):
        assert n_in_reads(records) == expected
    whole = tally(np.fromfile(records.path, dtype=np.uint8), np.zeros(5, dtype=np.int64))
    assert n_in_contigs(records, whole) == expected


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=20).filter(any))
@settings(max_examples=60, deadline=None)
def test_lengths(tmp_path_factory, lengths):
    from titans_genomics.data.inspect import _lengths

    found = _lengths(records_of(tmp_path_factory.mktemp("records"), ["A" * length for length in lengths]))
    ordered = sorted(lengths, reverse=True)
    held = next(i for i in range(1, len(ordered) + 1) if 2 * sum(ordered[:i]) >= sum(ordered))
    assert (found["l50"], found["n50"]) == (held, ordered[held - 1])
    assert (found["shortest"], found["longest"]) == (ordered[-1], ordered[0])
    assert found["median"] == np.median(lengths)
    assert found["mean"] == pytest.approx(np.mean(lengths))
    edges, counted = found["histogram"]["edges"], found["histogram"]["records"]
    assert counted == [sum(low <= n < high for n in lengths) for low, high in pairwise(edges)]
    assert sum(counted) == len(lengths) - lengths.count(0)
    assert sum(found["histogram"]["bases"]) == sum(lengths)


def test_gc_of_windows(tmp_path):
    sequences = ["G" * 10_000 + "A" * 10_000 + "C" * 5_000 + "T" * 5_000, "N" * 10_000, "AG", "N" * 10 + "GGC"]
    found = gc_spread(records_of(tmp_path, sequences))
    assert (found["windows"], found["mean"]) == (4, pytest.approx((1 + 0 + 0.5 + 0.5) / 4))
    assert found["quantiles"]["0.0"] == 0
    assert found["quantiles"]["1.0"] == 1
    assert sum(found["histogram"]["windows"]) == 4
    assert gc_spread(records_of(tmp_path, ["N" * 50, ""])) is None


def test_gc_is_looked_at_all_over_a_long_source(tmp_path):
    with mock.patch.object(scan, "_WINDOWS", 50):
        found = gc_spread(records_of(tmp_path, ["A" * 20_000] * 49 + ["G" * 1_000_000]))
    assert found["windows"] == 50
    assert found["mean"] == pytest.approx(0.5, abs=0.03)


@pytest.fixture
def mixed(fasta, tmp_path):
    """The store of a genome and of reads, of which something was left out."""
    one, two = random_bases(3_000, 1), random_bases(2_000, 2)
    genome = fasta(a=one + "N" * 150 + one[::-1].lower(), b="R" + two, short="ACGT")
    reads = [
        {"name": f"r{i}", "pos": i, "seq": random_bases(200 + i, i), "flag": 256 * (i % 3 == 0)} for i in range(90)
    ]
    bam = make_bam(tmp_path / "reads.bam", reads)
    tokenized(
        tmp_path / "s",
        {"path": str(genome), "species": "Some $pecies", "weight": 2},
        bam,
        n_runs="split",
        tokenizer={"kind": "kmer", "k": 4},
        split=BLOCKS | {"leaks": {"action": "report"}},
    )
    return tmp_path / "s"


def test_every_number_of_a_source(mixed):
    found = inspect_store(mixed)
    genome, reads = found["sources"]
    assert (genome["read"], genome["kept"], genome["bases"]) == (3, 2, 8_155)
    assert genome["n"] == {"bases": 151, "share": 151 / 8_155, "runs": 2, "longest": 150, "records": 2}
    assert genome["iupac"] == 1
    assert genome["soft_masked"] == {"bases": 3_000, "share": 3_000 / 8_155, "stretches": 1}
    assert genome["left_out"] == [
        {"reason": "contig shorter than 100 bases", "records": 1, "bases": 4, "runs": None},
        {"reason": "in runs of 100 N or more", "records": None, "bases": 150, "runs": 1},
    ]
    assert sum(genome["acgt"].values()) == 8_155 - 151
    assert sum(split["bases"] for split in genome["splits"].values()) == 8_155 - 154
    assert (reads["records"], reads["read"], reads["kept"]) == ("reads", 60, 60)
    assert reads["left_out"] == [{"reason": "secondary alignment", "records": 30, "bases": None, "runs": None}]
    assert reads["n"] == {"bases": 0, "share": 0, "runs": 0, "longest": 0, "records": 0}
    assert found["tokenizer"] == {"kind": "kmer", "vocab_size": 264, "k": 4, "overlap": False}
    assert found["size"] > sum(source["size"] for source in found["sources"]) > 0


def test_splits_are_those_of_the_index(mixed):
    from titans_genomics.data.store import TokenStore

    store = TokenStore(mixed)
    for source in inspect_store(mixed)["sources"]:
        for split, own in source["splits"].items():
            segments = [s for s in store.index if (s.source, s.split) == (source["name"], split)]
            (run,) = store.runs(split, source["name"])
            assert own == {
                "segments": len(segments),
                "bases": sum(s.end - s.start for s in segments),
                "tokens": len(run),
            }


def test_json_holds_all_of_it(mixed):
    found = inspect_store(mixed)
    assert json.loads(json.dumps(found)) == found
    assert {split: own["bases"] for split, own in found["totals"]["splits"].items()} == {
        split: sum(source["splits"][split]["bases"] for source in found["sources"])
        for split in ("train", "validation", "test")
    }
    one = inspect_store(mixed, "reads")
    assert one["sources"] == found["sources"][1:]
    assert one["totals"]["bases"] == found["sources"][1]["bases"]
    assert {held["source"] for held in one["leaks"]["held"]} == {"reads"}


def test_numbers_on_the_command_line(mixed):
    command = [sys.executable, "-m", "titans_genomics.cli", "inspect", str(mixed)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == inspect_store(mixed)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == text_report(inspect_store(mixed)) + "\n"
    for wrong in (["--split", "test"], ["--dump", "--json"]):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True)
        assert done.returncode
        assert done.stderr.startswith("titans-genomics: error: --")
        assert done.stdout == ""


# ---------------------------------------------------------------------------------------------- text


def test_text_is_a_page_of_aligned_columns(mixed):
    text = text_report(inspect_store(mixed))
    assert max(map(len, text.splitlines())) <= 120
    rows = [line.split() for line in text.splitlines()]
    assert ["genome", "3", "2", "contigs", "8,155"] in [row[:5] for row in rows]
    assert ["genome", "2", "150", "in", "runs"] not in [row[:5] for row in rows]
    assert "4-mers, 264 in the vocabulary" in text
    for said in (
        "Some $pecies",
        "secondary alignment",
        "in runs of 100 N or more",
        "No record is there twice",
        "numpy",
    ):
        assert said in text


def test_text_is_cut_to_the_width_and_plain(mixed):
    found = inspect_store(mixed)
    found["sources"][0] |= {"name": "x\x1b[31m" + "y" * 200, "path": "p/" * 200, "species": "two\nlines"}
    text = text_report(found)
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    assert "two?lines" in text


def test_leaks_are_named(fasta, tmp_path):
    genome = random_bases(20_000, 1)
    tokenized(
        tmp_path / "s",
        {"path": str(fasta("held.fa", a=genome)), "split": "test"},
        {
            "path": str(fasta("seen.fa", b=other_strand(genome[5_000:15_000]), c=random_bases(10_000, 2))),
            "split": "train",
        },
        split={"validation": 0, "leaks": {"action": "report"}},
    )
    text = text_report(inspect_store(tmp_path / "s"))
    line = next(line for line in text.splitlines() if "held (test)" in line)
    assert line.split()[3] == line.split()[5]
    assert float(line.split()[3].rstrip("%")) == pytest.approx(50, abs=2)
    assert line.split()[4] == "seen"
    assert re.search(r"a:\d+-1\d{4} +held +b:\d+-\d+ +seen +- ", text)
    tokenized(tmp_path / "t", fasta(a=genome), split=WHOLE)
    assert "were not looked for" in text_report(inspect_store(tmp_path / "t"))


# -------------------------------------------------------------------------------------- what is wrong


def test_a_source_that_is_not_there(mixed):
    for look in (inspect_store, dumped):
        with pytest.raises(ValueError, match="no source 'genom'; there are genome, reads"):
            look(mixed, "genom")
    with pytest.raises(ValueError, match="split 'dev': one of train, validation, test"):
        dumped(mixed, split="dev")
    with pytest.raises(FileNotFoundError, match="no token store there"):
        inspect_store(mixed.parent / "none")


@pytest.mark.parametrize("suffix", [".bases", ".records.parquet", ".json"])
def test_a_store_that_was_cut_short_is_one_line(mixed, suffix):
    path = shard_path(mixed / "shards", "genome", suffix)
    os.truncate(path, path.stat().st_size - 1 if suffix != ".json" else 20)
    done = subprocess.run(
        [sys.executable, "-m", "titans_genomics.cli", "inspect", str(mixed)], capture_output=True, text=True
    )
    assert done.returncode
    assert done.stdout == ""
    assert re.fullmatch(rf"titans-genomics: error: {re.escape(str(path))}: .*tokenize` again\n", done.stderr)


@pytest.mark.parametrize("name", ["index.parquet", "shards/genome.records.parquet"])
def test_a_store_that_was_overwritten_is_named(mixed, name):
    path = mixed / name
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ValueError, match=re.escape(name) + r": damaged .*tokenize` again") as error:
        inspect_store(mixed)
    assert "\n" not in str(error.value)
