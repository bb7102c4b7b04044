"""Memories of genomes: equal to naive readings, saved whole or not at all, refused where there is nothing to remember."""

import json
import math

import numpy as np
import pytest
import torch
from made_run import make_run, random_bases, write_fasta
from safetensors import safe_open

from titans_genomics.data.alphabet import encode, reverse_complement
from titans_genomics.use.memorize import compare, memorize
from titans_genomics.use.reader import open_run


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("results") / "run"))


@pytest.fixture(scope="module", params=["lmm", "mac", "mag", "mal", "gated_deltanet", "diagonal"])
def any_reader(request, tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("results") / "run", variant=request.param))


def tokens_of(*sequences):
    return torch.from_numpy(np.concatenate([encode(s) for s in sequences]).astype(np.int64))[None]


def memory_leaves(state):
    """Long-term memories by name, found by the types of states rather than by their names."""
    found = {}
    for i, block in enumerate(state.blocks):
        own = block
        while hasattr(own, "memory"):
            own = own.memory
        for j, leaf in enumerate(own.weights if hasattr(own, "weights") else [own]):
            found[i, j] = leaf
    return found


def test_last_is_the_state_after_one_reading(any_reader, tmp_path):
    """Both records, an EOS behind each, in one pass; whatever pieces they are read in."""
    first, second = random_bases(50, 1), random_bases(37, 2)
    genome = write_fasta(tmp_path / "genome.fa", first, second)
    memorize(any_reader, genome, tmp_path / "memory", how="last", strands="given")
    start = open_run(any_reader.folder, memory=tmp_path / "memory").start
    eos = torch.tensor([[any_reader.tokenizer.eos]])
    with torch.inference_mode():
        _, state = any_reader.model(torch.cat([tokens_of(first), eos, tokens_of(second), eos], 1))
    wanted = dict(state.leaves())
    for name, leaf in start.leaves():
        if isinstance(leaf, torch.Tensor):
            torch.testing.assert_close(leaf, wanted[name], atol=1e-4, rtol=1e-4, msg=name)
        else:
            assert leaf == wanted[name], name


def test_mean_is_the_mean_over_stretches_by_tokens(any_reader, tmp_path):
    """Two strands of a record of two and a half stretches, against one reading for each stretch."""
    sequence = random_bases(80)
    genome = write_fasta(tmp_path / "genome.fa", sequence)
    memorize(any_reader, genome, tmp_path / "memory", stretch=32)
    start = open_run(any_reader.folder, memory=tmp_path / "memory").start
    sums, total = {}, 0
    for strand in (encode(sequence), reverse_complement(encode(sequence))):
        for first in range(0, 80, 32):
            own = torch.from_numpy(strand[first : first + 32].astype(np.int64))[None]
            with torch.inference_mode():
                _, state = any_reader.model(own)
            for name, leaf in memory_leaves(state).items():
                sums[name] = sums.get(name, 0) + leaf * own.shape[1]
            total += own.shape[1]
    assert total == 160
    for name, leaf in memory_leaves(start).items():
        torch.testing.assert_close(leaf, sums[name] / total, atol=1e-5, rtol=1e-4)


def test_a_mean_memory_is_read_from_its_first_token_on(any_reader, tmp_path):
    """The open chunk and segment look at the new memory too: reading on in pieces is reading in one go."""
    memorize(any_reader, write_fasta(tmp_path / "genome.fa", random_bases(80)), tmp_path / "memory", stretch=32)
    reader = open_run(any_reader.folder, memory=tmp_path / "memory")
    sequence = tokens_of(random_bases(23, 3))
    with torch.inference_mode():
        whole, _ = reader.model(sequence, reader.state(1))
        state, parts = reader.state(1), []
        for part in sequence.split([1, 9, 13], 1):
            logits, state = reader.model(part, state)
            parts.append(logits)
        without, _ = reader.model(sequence)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)
    assert (whole[:, 0] - without[:, 0]).abs().max() > 1e-5 or (whole - without).abs().max() > 1e-3


def test_one_stretch_of_itself_leaves_only_the_memory(reader, tmp_path):
    """The mean over one stretch is the memory after it; surprise and convolution begin anew."""
    sequence = random_bases(32)
    memorize(reader, write_fasta(tmp_path / "genome.fa", sequence), tmp_path / "memory", stretch=32, strands="given")
    start = open_run(reader.folder, memory=tmp_path / "memory").start
    begin = reader.model.begin(1)
    with torch.inference_mode():
        _, state = reader.model(tokens_of(sequence))
    for now, after, before in zip(start.blocks, state.blocks, begin.blocks, strict=True):
        for own, wanted in zip(now.memory.weights, after.memory.weights, strict=True):
            torch.testing.assert_close(own, wanted, atol=1e-6, rtol=1e-5)
        assert all(not s.any() for s in now.memory.surprise)
        assert torch.equal(now.tail, before.tail)
        assert now.memory.offset == 0


def test_a_memory_can_be_added_to(reader, tmp_path):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(64))
    memorize(reader, genome, tmp_path / "once", how="last")
    memorize(open_run(reader.folder, memory=tmp_path / "once"), genome, tmp_path / "twice", how="last")
    both = memorize(reader, [genome, genome], tmp_path / "both", how="last")
    assert both["bases"] == 128
    twice, one_go = (dict(open_run(reader.folder, memory=tmp_path / name).start.leaves()) for name in ("twice", "both"))
    for name, leaf in one_go.items():
        torch.testing.assert_close(torch.as_tensor(twice[name]), torch.as_tensor(leaf), atol=1e-4, rtol=1e-4, msg=name)


def test_the_file_says_what_was_read(reader, tmp_path):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40), random_bases(10, 2))
    said = memorize(reader, genome, tmp_path / "memory.safetensors")
    with safe_open(tmp_path / "memory.safetensors", "pt") as file:
        header = json.loads(file.metadata()["titans_genomics_memory"])
    assert header["model"] == reader.sha256
    assert header["bases"] == said["bases"] == 50
    assert header["read"] == said["read"]
    assert said["read"][0]["path"] == str(genome)
    assert said["read"][0]["records"] == 2
    assert said["stretch"] == reader.stretch == 32
    assert all(change > 0 for change in said["change"])


def test_comparing_is_reading_twice(reader, tmp_path):
    """Stretches with and without the memory, base by base, N read and never scored."""
    memorize(reader, write_fasta(tmp_path / "genome.fa", random_bases(200)), tmp_path / "memory")
    start = open_run(reader.folder, memory=tmp_path / "memory").start
    letters = list(random_bases(77, 5))
    letters[40] = "N"
    other = write_fasta(tmp_path / "other.fa", "".join(letters), random_bases(20, 6))
    said = compare(reader, start, other)
    for key, state in (("without", None), ("with", start)):
        total = count = 0.0
        for sequence in ("".join(letters), random_bases(20, 6)):
            tokens = tokens_of(sequence)
            for first in range(0, tokens.shape[1] - 1, 32):
                window = tokens[:, first : first + 33]
                with torch.inference_mode():
                    logits, _ = reader.model(window[:, :-1], state)
                own = logits[0].double().log_softmax(-1)
                for i, target in enumerate(window[0, 1:].tolist()):
                    if target < 4:
                        total, count = total - float(own[i, target]) / math.log(2), count + 1
        assert count == said["bases"]
        assert said[key] == pytest.approx(total / count, abs=1e-5)
    assert said["gain"] == pytest.approx(said["without"] - said["with"])
    assert said["gain_ci95"][0] <= said["gain"] <= said["gain_ci95"][1]


def test_a_memory_compared_with_itself_gains_nothing(reader, tmp_path):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(200))
    memorize(reader, genome, tmp_path / "memory")
    own = open_run(reader.folder, memory=tmp_path / "memory")
    said = compare(own, own.start, genome)
    assert said["gain"] == 0
    assert said["gain_ci95"] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "first"}, "mean or last"),
        ({"strands": "one"}, "both or given"),
        ({"stretch": 0}, "1 token or more"),
    ],
    ids=["how", "strands", "stretch"],
)
def test_settings_out_of_range_are_refused(reader, tmp_path, options, message):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40))
    with pytest.raises(ValueError, match=message):
        memorize(reader, genome, tmp_path / "memory", **options)
    assert sorted(tmp_path.iterdir()) == [genome]


@pytest.mark.parametrize(
    "content",
    ["", ">a\n", "ACGT\n", ">a\nMKVLITGX!\n", f">a\n{'N' * 90}\n"],
    ids=["empty", "no-base", "no-fasta", "junk", "all-N"],
)
def test_a_file_without_bases_leaves_nothing(reader, tmp_path, content):
    (tmp_path / "genome.fa").write_text(content)
    with pytest.raises(ValueError, match=r"genome\.fa"):
        memorize(reader, tmp_path / "genome.fa", tmp_path / "memory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genome.fa"]


def test_a_missing_file_is_named(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.fa"):
        memorize(reader, tmp_path / "none.fa", tmp_path / "memory")
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40))
    with pytest.raises(FileNotFoundError, match=r"none\.fa"):
        memorize(reader, genome, tmp_path / "memory", test=tmp_path / "none.fa")
    assert not (tmp_path / "memory").exists()


def test_a_folder_is_not_overwritten(reader, tmp_path):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40))
    with pytest.raises(ValueError, match=r"is a folder.*memory\.safetensors"):
        memorize(reader, genome, tmp_path)


def test_what_is_read_is_not_overwritten(reader, tmp_path):
    genome, other = write_fasta(tmp_path / "genome.fa", random_bases(40)), write_fasta(tmp_path / "other.fa", "ACGT")
    before = genome.read_bytes()
    for out, test in ((genome, None), (other, other)):
        with pytest.raises(ValueError, match="would be overwritten"):
            memorize(reader, genome, out, test=test)
    assert genome.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_said(reader, tmp_path):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40))
    with pytest.raises(ValueError, match=r"memory: its folder cannot be made"):
        memorize(reader, genome, genome / "memory")


@pytest.mark.parametrize("content", ["", ">a\nA\n", f">a\nC{'N' * 9}\n"], ids=["empty", "one-base", "N"])
def test_a_test_without_anything_to_score_is_said_before_reading(reader, tmp_path, content, monkeypatch):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40))
    (tmp_path / "test.fa").write_text(content)
    monkeypatch.setattr("titans_genomics.use.memorize.advance", None)  # what would read the genome
    with pytest.raises(ValueError, match=r"test\.fa: holds no base A C G T behind its first"):
        memorize(reader, genome, tmp_path / "memory", test=tmp_path / "test.fa")
    assert not (tmp_path / "memory").exists()


def test_stretches_of_nothing_but_n_leave_the_mean_alone(reader, tmp_path):
    """Two stretches with a gap between them, against the same two as records of their own."""
    first, second = random_bases(32, 1), random_bases(32, 2)
    memorize(reader, write_fasta(tmp_path / "gap.fa", first + 64 * "N" + second), tmp_path / "gap", strands="given")
    memorize(reader, write_fasta(tmp_path / "two.fa", first, second), tmp_path / "two", strands="given")
    gap, two = (dict(open_run(reader.folder, memory=tmp_path / name).start.leaves()) for name in ("gap", "two"))
    for name, leaf in two.items():
        torch.testing.assert_close(torch.as_tensor(gap[name]), torch.as_tensor(leaf), msg=name)


def test_an_interrupted_save_leaves_the_old_memory(reader, tmp_path, monkeypatch):
    genome = write_fasta(tmp_path / "genome.fa", random_bases(40))
    memorize(reader, genome, tmp_path / "memory")
    before = (tmp_path / "memory").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("titans_genomics.use.memorize.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memorize(reader, write_fasta(tmp_path / "genome.fa", random_bases(50)), tmp_path / "memory")
    assert (tmp_path / "memory").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genome.fa", "memory"]


def test_attention_has_nothing_to_save(tmp_path):
    reader = open_run(make_run(tmp_path / "run", name="transformer"), model="transformer")
    with pytest.raises(ValueError, match="attention alone"):
        memorize(reader, write_fasta(tmp_path / "genome.fa", random_bases(40)), tmp_path / "memory")


def test_a_model_of_text_is_refused(tmp_path):
    reader = open_run(make_run(tmp_path / "run", tokenizer={"kind": "byte"}))
    with pytest.raises(ValueError, match="a model of text, and memorize needs one of nucleotides"):
        memorize(reader, write_fasta(tmp_path / "genome.fa", random_bases(40)), tmp_path / "memory")


def test_a_memory_that_ran_over_is_not_saved(tmp_path):
    run = make_run(tmp_path / "run")
    reader = open_run(run)
    with torch.no_grad():
        reader.model.blocks[0].mixer.memory.initial[0].fill_(math.inf)
    with pytest.raises(ValueError, match="NaN or infinite"):
        memorize(reader, write_fasta(tmp_path / "genome.fa", random_bases(40)), tmp_path / "memory")
    assert not (tmp_path / "memory").exists()
