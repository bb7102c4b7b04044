from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, make_bam, random_bases

from titans_genomics.data import writer
from titans_genomics.data.alphabet import EOS, decode, encode, reverse_complement
from titans_genomics.data.folder import FILES
from titans_genomics.data.store import TokenStore, tokenize

RESOURCES = Path(__file__).parents[2] / "resources"
BLOCKS = {"split": {"block": 100, "validation": 0.2, "test": 0.2}}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_index(store: TokenStore, sequences: dict[tuple[str, str], str]) -> None:
    """Every token is where the index says, every base is there once, EOS after each segment, runs hold one split."""
    covered = {key: np.zeros(len(sequence), dtype=int) for key, sequence in sequences.items()}
    expected = 0
    for segment in store.index:
        assert segment.offset == expected
        tokens = np.asarray(store.tokens[segment.offset : segment.offset + segment.length])
        key = (segment.source, segment.record)
        assert decode(tokens) == sequences[key][segment.start : segment.end].upper()
        assert store.tokens[segment.offset + segment.length] == EOS
        covered[key][segment.start : segment.end] += 1
        (run,) = store.runs(segment.split, segment.source)
        assert run.start <= segment.offset < segment.offset + segment.length < run.stop
        expected += segment.length + 1
    assert expected == len(store)
    assert all((count == 1).all() for count in covered.values())


@given(
    records=st.dictionaries(st.sampled_from("abcdef"), st.text("ACGTNacgt", min_size=1, max_size=900), min_size=1),
    by=st.sampled_from(["block", "contig"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=25, deadline=None)
def test_the_store_gives_back_what_was_read(tmp_path_factory, records, by, seed):
    folder = tmp_path_factory.mktemp("store")
    path = folder / "x.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))
    split = {
        "by": by,
        "block": 100,
        "validation": 0,
        "test": 0.2 if sum(map(len, records.values())) > 2_000 and by == "block" else 0,
    }
    config = config_for(path, seed=seed, min_contig=1, max_n=1, split=split)
    manifest = tokenize(config, folder / "tokens")
    store = TokenStore(folder / "tokens")
    check_index(store, {("x", name): sequence for name, sequence in records.items()})
    whole = "".join(records.values())
    counted = manifest["sources"][0]
    assert counted["bases"] == len(whole)
    assert counted["n"] == whole.count("N")
    assert counted["soft_masked"] == sum(letter.islower() for letter in whole)
    for offset in range(len(store)):
        origin = store.locate(offset)
        token = store.tokens[offset]
        if token != EOS:
            assert decode([token]) == records[origin.record][origin.position].upper()
    mask = store.soft_masked(0, len(store))
    for segment in store.index:
        letters = records[segment.record][segment.start : segment.end]
        assert mask[segment.offset : segment.offset + segment.length].tolist() == [x.islower() for x in letters]
    assert not mask[np.asarray(store.tokens) == EOS].any()
    assert (
        store.soft_masked(len(store) // 3, len(store) // 2).tolist() == mask[len(store) // 3 : len(store) // 2].tolist()
    )


def test_the_shipped_data(tmp_path):
    sources = [
        {"path": str(RESOURCES / "ecoli_k12.fa.gz"), "species": "Escherichia coli"},
        {"path": str(RESOURCES / "sirv_reads.bam"), "weight": 0.1},
    ]
    manifest = tokenize(config_for(*sources), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    genome, reads = manifest["sources"]
    assert (genome["bases"], genome["n"], genome["kept"]) == (4_639_675, 0, 1)
    assert genome["gc"] == pytest.approx(0.5079, abs=1e-4)
    assert (reads["kept"], reads["dropped"]) == (1_854, {"secondary alignment": 2_740, "supplementary alignment": 55})
    for source in (genome, reads):
        assert source["tokens"]["validation"] / source["bases"] == pytest.approx(0.05, abs=0.01)
        assert source["tokens"]["test"] / source["bases"] == pytest.approx(0.05, abs=0.01)
    assert manifest["warnings"] == []
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
    check_index(store, sequences)


def test_reverse_reads_map_back_to_their_locus(tmp_path):
    reference = random_bases(5_000)
    reads = [
        {"name": f"r{i}", "pos": 100 * i, "flag": 16 * (i % 2), "seq": reference[100 * i : 100 * i + 150]}
        for i in range(20)
    ]
    tokenize(
        config_for(make_bam(tmp_path / "x.bam", reads), split={"validation": 0.2, "test": 0.2}), tmp_path / "tokens"
    )
    store = TokenStore(tmp_path / "tokens")
    for segment in store.index:
        contig, _, span = segment.aligned.partition(":")
        start, end = map(int, span.split("-"))
        tokens = np.asarray(store.tokens[segment.offset : segment.offset + segment.length])
        if segment.strand == "-":
            tokens = reverse_complement(tokens)
        assert (contig, decode(tokens)) == ("chr1", reference[start:end])
        assert segment.mapq == 60


def test_the_same_config_gives_the_same_store_and_another_seed_another(fasta, tmp_path):
    path = fasta(chr1=random_bases(3_000) + "R" * 9, chr2=random_bases(900, 1))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tokenize(config_for(path, seed=seed, iupac="random", **BLOCKS), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert TokenStore(tmp_path / "a").sha256 != TokenStore(tmp_path / "c").sha256
    assert "N" not in decode(TokenStore(tmp_path / "a").tokens)


def test_soft_mask_settings(fasta, tmp_path):
    path = fasta(chr1=random_bases(2_000) + random_bases(500).lower())
    stores = {}
    for soft_mask in ("keep", "ignore", "n"):
        tokenize(config_for(path, soft_mask=soft_mask, **BLOCKS), tmp_path / soft_mask)
        stores[soft_mask] = TokenStore(tmp_path / soft_mask)
        assert stores[soft_mask].manifest["sources"][0]["soft_masked"] == 500
    assert stores["keep"].soft_masked(0, len(stores["keep"])).sum() == 500
    assert len(stores["ignore"].softmask) == len(stores["n"].softmask) == 0
    assert stores["n"].manifest["sources"][0]["n"] == 500


def test_weights_sources_and_unknown_names(fasta, tmp_path):
    paths = [{"path": str(fasta(name=f"{x}.fa", chr1=random_bases(900))), "weight": w} for x, w in (("a", 1), ("b", 0))]
    tokenize(config_for(*paths, **BLOCKS), tmp_path / "t")
    store = TokenStore(tmp_path / "t")
    assert (store.sources, store.weight("b")) == (["a", "b"], 0)
    assert [run.source for run in store.runs("test")] == ["a", "b"]
    with pytest.raises(ValueError, match=r"no source 'c'; there are a, b"):
        store.runs("test", "c")
    with pytest.raises(ValueError, match="split 'dev'"):
        store.runs("dev")
    with pytest.raises(IndexError):
        store.locate(len(store))


def test_an_open_store_travels_to_worker_processes_as_its_path(fasta, tmp_path):
    tokenize(config_for(fasta(chr1=random_bases(90_000)), **BLOCKS), tmp_path / "t")
    store = TokenStore(tmp_path / "t")
    data = pickle.dumps(store)
    assert len(data) < 1_000
    assert (np.asarray(pickle.loads(data).tokens) == np.asarray(store.tokens)).all()


def test_more_n_than_allowed(fasta, tmp_path):
    with pytest.raises(ValueError, match=r"genome.fa: 60.0% of the 1,000 bases are N, more than data.max_n"):
        tokenize(config_for(fasta(chr1="N" * 600 + random_bases(400)), **BLOCKS), tmp_path / "t")
    with pytest.raises(ValueError, match=r"soft-masked bases became N"):
        tokenize(config_for(fasta(chr1="acg" * 200 + random_bases(400)), soft_mask="n", **BLOCKS), tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


def test_a_split_that_leaves_validation_empty(fasta, tmp_path):
    path = fasta(chr1=random_bases(30_000))
    with pytest.raises(ValueError, match=r"leaves validation empty.*data.split.block 1500 or less"):
        tokenize(config_for(path), tmp_path / "t")
    with pytest.raises(ValueError, match=r"leaves validation empty.*whole contigs"):
        tokenize(config_for(path, split={"by": "contig"}), tmp_path / "t")
    tokenize(config_for(path, split={"block": 1_500}), tmp_path / "t")


def test_a_source_too_small_for_the_split_beside_a_large_one_is_noted(fasta, tmp_path):
    small, large = fasta(name="small.fa", p=random_bases(150)), fasta(name="large.fa", chr1=random_bases(5_000))
    manifest = tokenize(config_for(small, large, **BLOCKS), tmp_path / "t")
    assert any("small" in note for note in manifest["warnings"])


def test_all_sources_are_checked_before_the_first_is_read(fasta, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_write", lambda *_: pytest.fail("read before all sources were checked"))
    with pytest.raises(FileNotFoundError, match=r"gone.bam"):
        tokenize(config_for(fasta(chr1=random_bases(900)), tmp_path / "gone.bam"), tmp_path / "t")


def test_a_file_that_changes_while_it_is_read(fasta, tmp_path, monkeypatch):
    path = fasta(chr1=random_bases(900))
    honest = writer._read
    monkeypatch.setattr(writer, "_read", lambda *args: (honest(*args), path.write_text(">x\nACGT\n"))[0])
    with pytest.raises(ValueError, match=r"genome.fa: the file changed while it was read"):
        tokenize(config_for(path, **BLOCKS), tmp_path / "t")


def test_a_folder_of_something_else_is_left_alone(fasta, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"precious: holds something other than a token store \(thesis.txt\)"):
        tokenize(config_for(fasta(chr1=random_bases(900)), **BLOCKS), out)
    assert contents(out) == {"thesis.txt": b"years of work"}


def test_missing_and_broken_stores(fasta, tmp_path):
    with pytest.raises(FileNotFoundError, match="no token store there"):
        TokenStore(tmp_path / "none")
    out = tmp_path / "t"
    tokenize(config_for(fasta(chr1=random_bases(900)), **BLOCKS), out)
    whole = contents(out)
    for name in FILES:
        (out / name).unlink()
        with pytest.raises(ValueError, match=rf"not a whole token store \({name} missing\)"):
            TokenStore(out)
        (out / name).write_bytes(whole[name])
    (out / "tokens.bin").write_bytes(whole["tokens.bin"][:-1])
    with pytest.raises(ValueError, match=r"tokens.bin: [0-9]+ bytes, the manifest says"):
        TokenStore(out)
    (out / "tokens.bin").write_bytes(whole["tokens.bin"])
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: damaged"):
        TokenStore(out)
    (out / "manifest.json").write_text(json.dumps(json.loads(whole["manifest.json"]) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        TokenStore(out)


@pytest.fixture
def old_and_new(fasta, tmp_path):
    """A whole old store, and the config file of a new one that is to take its place."""
    out = tmp_path / "tokens"
    tokenize(config_for(fasta(name="old.fa", chr1=random_bases(900)), **BLOCKS), out)
    new = config_for(fasta(name="new.fa", chr1=random_bases(400_000, 5)), **BLOCKS)
    settings_file = tmp_path / "config.json"
    settings_file.write_text(new.model_dump_json())
    return out, settings_file


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    prelude = "import sys, os, signal, resource\nfrom pathlib import Path\nfrom titans_genomics.config import load_config\nfrom titans_genomics.data import folder, writer\n"
    call = "\nwriter.tokenize(load_config(sys.argv[2]), Path(sys.argv[1]))\n"
    command = [sys.executable, "-c", prelude + code + call, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("room", [1_000, 100_000, 400_000, 400_500])
def test_disk_full_leaves_the_old_store_and_nothing_else(old_and_new, room):
    out, settings_file = old_and_new
    before = contents(out)
    done = run_python(f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))", out, settings_file)
    assert done.returncode != 0
    assert "no room to write the token store" in done.stderr
    assert contents(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["config.json", "new.fa", "old.fa", "tokens"]


def test_disk_full_without_an_old_store_leaves_none(fasta, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(writer.np, "save", full)
    with pytest.raises(OSError, match=r"no room to write the token store \(No space left on device\)"):
        tokenize(config_for(fasta(chr1=random_bases(900)), **BLOCKS), tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


KILL = "kill = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.mark.parametrize(
    "moment", ["writer.check_source", "writer._lay_out", "writer.np.save", "writer._versions", "folder.os.fsync"]
)
def test_a_process_killed_while_writing_leaves_the_old_store(old_and_new, moment):
    out, settings_file = old_and_new
    before = contents(out)
    done = run_python(f"{KILL}{moment} = kill", out, settings_file)
    assert done.returncode == -9
    assert contents(out) == before
    assert len(TokenStore(out)) < 1_000
    assert run_python("", out, settings_file).returncode == 0
    assert len(TokenStore(out)) > 400_000
    assert sorted(path.name for path in out.parent.iterdir()) == ["config.json", "new.fa", "old.fa", "tokens"]


def test_a_process_killed_between_the_renames_loses_nothing(old_and_new, fasta):
    out, settings_file = old_and_new
    before = contents(out)
    rename = "real = Path.rename\nPath.rename = lambda self, to: kill() if self.name.endswith('.partial') else real(self, to)"
    assert run_python(KILL + rename, out, settings_file).returncode == -9
    assert not out.exists()
    with pytest.raises(ValueError, match="position"):  # a failing run after it puts the old store back
        tokenize(config_for(fasta(name="bad.fa", chr1="ACGT" * 20_000 + "?"), **BLOCKS), out)
    assert contents(out) == before


def test_two_processes_cannot_write_one_store(fasta, tmp_path, monkeypatch):
    config = config_for(fasta(chr1=random_bases(900)), **BLOCKS)

    def second(*_):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="another process is writing"):
            tokenize(config, tmp_path / "t")
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_write", second)
    with pytest.raises(KeyboardInterrupt):
        tokenize(config, tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]
