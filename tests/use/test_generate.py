"""Generation against a loop that reads everything again for every base, and figures of sequences against plain counting."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import made_run
import numpy as np
import pysam
import pytest
import torch

from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.tokenizers import Bytes, Kmers
from titans_genomics.models.memory import FEW
from titans_genomics.progress import Progress
from titans_genomics.use.generate import generate, read_prompts
from titans_genomics.use.reader import open_run
from titans_genomics.use.sampling import Sampling, stream
from titans_genomics.use.spectrum import check, compare, distance, gc_windows, kmer_counts, orf_lengths

NOTHING = np.zeros(0, dtype=np.uint8)


made_reader = partial(made_run.made_reader, Path("model"))


@pytest.fixture(scope="module")
def reader():
    return made_reader()


def whole(pieces):
    rows = list(zip(*pieces, strict=True))
    return [np.concatenate(row) for row in rows]


def naive(reader, prompt, length, how, number, stretch=None, overlap=None):
    """The same, with every token in memory read again for each new one."""
    uniform = np.random.default_rng([how.seed, number]).random(length)
    tokens, begin = list(map(int, prompt)), 0
    for u in uniform:
        if stretch and len(tokens) - begin > stretch:
            begin = len(tokens) - overlap
        if not tokens:
            tokens.append(int(u * 4))
            continue
        with torch.inference_mode():
            logits, _ = reader.model(torch.tensor([tokens[begin:]]), reader.state(1))
        tokens.append(naive_draw(logits[0, -1, :4].double().numpy(), how, u))
    return np.array(tokens[len(prompt) :], dtype=np.uint8)


def naive_draw(logits, how, u):
    """One draw, token by token from the most likely on where few are kept."""
    if how.temperature == 0:
        return int(logits.argmax())
    p = np.exp(logits / how.temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if how.top_k:
        order = order[: how.top_k]
    total, kept = sum(p[i] for i in order), []
    for i in order:
        if sum(p[j] for j in kept) >= how.top_p * total:
            break
        kept.append(i)
    share = np.array([p[i] if i in kept else 0 for i in range(len(p))])
    return int(np.searchsorted(share.cumsum() / share.sum(), u, side="right"))


WAYS = {
    "plain": Sampling(seed=3),
    "cold": Sampling(temperature=0.5, seed=3),
    "greedy": Sampling(temperature=0),
    "top_k": Sampling(top_k=2, seed=1),
    "top_p": Sampling(top_p=0.6, temperature=1.5, seed=1),
    "both": Sampling(top_k=3, top_p=0.8, seed=9),
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_draws_are_those_of_a_plain_loop(how):
    rng = np.random.default_rng(0)
    logits, uniform = rng.normal(0, 2, (200, 7)), rng.random(200)
    expected = [naive_draw(row, how, u) for row, u in zip(logits, uniform, strict=True)]
    assert how.draw(logits, uniform).tolist() == expected


def test_draws_have_the_probabilities_of_the_model():
    logits = np.log([[0.5, 0.3, 0.15, 0.05]])
    uniform = np.random.default_rng(0).random(20_000)
    drawn = Sampling().draw(np.repeat(logits, len(uniform), 0), uniform)
    assert np.allclose(np.bincount(drawn) / len(drawn), np.exp(logits[0]), atol=0.01)


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("prompt", ["", "ACGTTGCANNACGGA"])
def test_sequences_are_those_of_reading_everything_again(reader, how, prompt):
    codes = encode(prompt)
    found = whole(stream(reader, [codes] * 2, 20, how))
    assert [decode(row) for row in found] == [decode(naive(reader, codes, 20, how, i)) for i in range(2)]


@pytest.mark.parametrize("prompt", [0, 5, 20, 21, 50])
def test_the_memory_begins_anew_with_what_was_made_last(prompt):
    reader = made_reader(stretch=20)
    codes = np.random.default_rng(1).integers(0, 4, prompt).astype(np.uint8)
    found = whole(stream(reader, [codes], 70, WAYS["plain"]))[0]
    # a prompt is read as if it had been made here: that of the loop is read so too
    begun = naive_begin(prompt, 20, 10)
    expected = naive(reader, codes[begun:], 70, WAYS["plain"], 0, 20, 10)
    assert decode(found) == decode(expected)


def naive_begin(count, stretch, overlap):
    """Where the memory begins that holds the last of so many tokens, counting one by one."""
    begin = 0
    for n in range(1, count + 1):
        if n - begin > stretch:
            begin = n - overlap
    return begin


def test_what_was_made_is_gone_on_with_as_if_it_had_not_stopped():
    reader = made_reader(stretch=32)
    once = whole(stream(reader, [NOTHING], 100, WAYS["greedy"]))[0]
    for cut in (1, 31, 32, 33, 70):
        assert decode(whole(stream(reader, [once[:cut]], 100 - cut, WAYS["greedy"]))[0]) == decode(once[cut:])


def test_a_sequence_is_the_same_alone_and_beside_others(reader):
    together = whole(stream(reader, [NOTHING] * 12, 50, WAYS["plain"]))
    alone = whole(stream(reader, [NOTHING], 50, WAYS["plain"], numbers=[7]))[0]
    assert decode(alone) == decode(together[7])
    assert len({decode(row) for row in together}) == 12


def test_a_memory_that_is_given_counts(reader):
    with torch.inference_mode():
        _, state = reader.model(torch.randint(0, 4, (1, 60)))
    other = made_reader(start=state)
    prompt = encode("ACGT")
    found = whole(stream(other, [prompt], 30, WAYS["plain"]))[0]
    assert decode(found) == decode(naive(other, prompt, 30, WAYS["plain"], 0))
    assert decode(found) != decode(whole(stream(reader, [prompt], 30, WAYS["plain"]))[0])


@pytest.mark.parametrize("tokenizer", [Kmers(3, True), Kmers(3, False)], ids=["overlapping", "side by side"])
def test_k_mers_give_bases_that_encode_to_the_tokens_drawn(tokenizer):
    reader, how = made_reader(tokenizer), Sampling(temperature=0)
    prompt = encode("ACGTAC")
    found = whole(stream(reader, [prompt], 30, how))[0]
    assert len(found) == 30
    bases = prompt
    while len(bases) < 36:
        tokens = tokenizer.encode(bases)
        tokens = tokens[: len(bases) - 2] if tokenizer.overlap else tokens
        with torch.inference_mode():
            logits = reader.model(torch.from_numpy(tokens.astype(np.int64))[None])[0][0, -1].numpy()
        if tokenizer.overlap:
            after = [tokenizer.encode(np.append(bases[-2:], base).astype(np.uint8))[0] for base in range(4)]
            bases = np.append(bases, np.uint8(np.argmax(logits[after])))
        else:
            best = max(np.flatnonzero(tokenizer.scored), key=lambda token: logits[token])
            added = tokenizer.decode(np.array([best]))
            assert len(added) == 3, "a single base would change how the rest is cut"
            bases = np.concatenate([bases, added])
    assert decode(np.concatenate([prompt, found])) == decode(bases[:36])


def test_overlapping_k_mers_begin_with_a_whole_one():
    found = whole(stream(made_reader(Kmers(3, True)), [NOTHING] * 4, 25, WAYS["plain"]))
    assert [len(row) for row in found] == [25] * 4
    assert max(map(max, found)) < 4


# -------------------------------------------------------------------------------------------- to files


def records(path):
    with pysam.FastxFile(str(path)) as file:
        return [(record.name, record.comment, record.sequence) for record in file]


def test_a_fasta_file_holds_what_was_asked_for(reader, tmp_path):
    (tmp_path / "prompts.fa").write_text(">a\nACGTA\n>b\nGGGCCCTTTA\n>c\nACGTT\n")
    out = tmp_path / "new" / "made.fa"
    done = generate(reader, out, 123, 2, tmp_path / "prompts.fa", seed=4, batch=3, with_prompt=True)
    found = records(out)
    assert [name for name, _, _ in found] == [f"generated_{i}" for i in range(1, 7)]
    assert [re.search("prompt=(.)", comment)[1] for _, comment, _ in found] == list("aabbcc")
    begins = ["ACGTA", "ACGTA", "GGGCCCTTTA", "GGGCCCTTTA", "ACGTT", "ACGTT"]
    assert all(sequence.startswith(begin) for (_, _, sequence), begin in zip(found, begins, strict=True))
    assert [len(sequence) - len(begin) for (_, _, sequence), begin in zip(found, begins, strict=True)] == [123] * 6
    assert set("".join(sequence for _, _, sequence in found)) == set("ACGT")
    assert max(map(len, out.read_text().splitlines()[1::1][:1])) == 80
    assert (done["sequences"], done["bases"]) == (6, 6 * 123)


def test_a_prompt_may_be_bases(reader, tmp_path):
    prompt = "ACGTT" * 100  # longer than the name of a file may be
    generate(reader, tmp_path / "made.fa", 10, prompt=prompt, with_prompt=True)
    ((_, comment, sequence),) = records(tmp_path / "made.fa")
    assert "prompt=prompt" in comment
    assert (sequence[:500], len(sequence)) == (prompt, 510)


@pytest.mark.parametrize("stretch", [1, 2, 3])
def test_stretches_may_be_short(stretch):
    found = whole(stream(made_reader(stretch=stretch), [NOTHING], 12, WAYS["plain"]))[0]
    overlap = max(1, stretch // 2)
    assert decode(found) == decode(naive(made_reader(), NOTHING, 12, WAYS["plain"], 0, stretch, overlap))


def test_the_seed_says_all_and_batches_nothing(reader, tmp_path):
    for name, seed, batch in (("a.fa", 1, 1), ("b.fa", 1, 5), ("c.fa", 2, 5), ("d.fa.gz", 1, 2)):
        generate(reader, tmp_path / name, 40, 5, seed=seed, batch=batch)
    found = {name: [row[2] for row in records(tmp_path / name)] for name in ("a.fa", "b.fa", "c.fa", "d.fa.gz")}
    assert found["a.fa"] == found["b.fa"] == found["d.fa.gz"]
    assert not set(found["a.fa"]) & set(found["c.fa"])


def test_long_sequences_come_in_pieces(reader):
    lengths = [len(piece) for (piece,) in stream(reader, [NOTHING], 1100, WAYS["plain"])]
    assert sum(lengths) == 1100
    assert max(lengths) <= 1024


def test_a_memory_is_not_given_more_rows_than_it_takes_token_by_token(reader, tmp_path, monkeypatch):
    sizes = []

    def seen(reader, prompts, *rest):
        sizes.append(len(prompts))
        return stream(reader, prompts, *rest)

    monkeypatch.setattr("titans_genomics.use.generate.stream", seen)
    generate(reader, tmp_path / "made.fa", 5, FEW + 3)
    attention = made_run.make_run(tmp_path / "run", name="transformer")
    generate(open_run(attention, "transformer"), tmp_path / "made.fa", 5, FEW + 3)
    assert sizes == [FEW, 3, FEW + 3]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["Ctrl-C", "full disk"]
)
def test_nothing_is_left_of_an_interrupted_file(reader, tmp_path, monkeypatch, error):
    (tmp_path / "made.fa").write_text("before")

    def stop(*_, **__):
        raise error

    monkeypatch.setattr(Progress, "update", stop)
    with pytest.raises((KeyboardInterrupt, OSError)):
        generate(reader, tmp_path / "made.fa", 100)
    assert [path.name for path in tmp_path.iterdir()] == ["made.fa"]
    assert (tmp_path / "made.fa").read_text() == "before"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 0}, "length 0: must be 1"),
        ({"count": 0}, "count 0: must be 1"),
        ({"batch": 0}, "batch 0: must be 1"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"seed": -1}, "seed -1"),
        ({"stretch": -5}, "stretch -5"),
        ({"prompt": "ACGT-"}, "neither a file nor bases .*position 4"),
        ({"prompt": ""}, "holds no base"),
        ({"prompt": Path("nowhere.fa")}, "nowhere.fa: no such file"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_one_line_and_no_file(reader, tmp_path, settings, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        generate(reader, tmp_path / "made.fa", **{"length": 10, **settings})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_prompts_are_not_overwritten(reader, tmp_path):
    (tmp_path / "made.fa").write_text(">a\nACGT\n")
    with pytest.raises(ValueError, match="would be overwritten"):
        generate(reader, tmp_path / "made.fa", 10, prompt=tmp_path / "made.fa")
    assert (tmp_path / "made.fa").read_text() == ">a\nACGT\n"


def test_letters_of_a_prompt_are_read_as_the_run_was(reader):
    masked = replace(reader, soft_mask="n")
    assert read_prompts(masked, "acGT")[0][1].tolist() == [4, 4, 2, 3]
    assert read_prompts(reader, "acGT")[0][1].tolist() == [0, 1, 2, 3]


def test_models_of_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a model of text"):
        generate(made_reader(Bytes()), tmp_path / "made.fa", 10)


def test_a_model_without_numbers_is_refused(tmp_path):
    broken = made_reader()
    with torch.no_grad():
        broken.model.head.weight[0] = float("nan")
    with pytest.raises(ValueError, match="gave no numbers"):
        generate(broken, tmp_path / "made.fa", 10)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- spectrum


def random_codes(length, seed=0, letters=4):
    return np.random.default_rng(seed).integers(0, letters, length).astype(np.uint8)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_k_mers_are_counted_on_both_strands(k):
    sequences = [random_codes(n, n, 5) for n in (0, 3, 400)]
    counts = dict.fromkeys(range(4**k), 0)
    for codes in sequences:
        for strand in (decode(codes), decode(reverse_complement(codes))):
            for at in range(len(strand) - k + 1):
                word = strand[at : at + k]
                if "N" not in word:
                    counts[sum(4**i * "ACGT".index(letter) for i, letter in enumerate(reversed(word)))] += 1
    assert kmer_counts(sequences, k).tolist() == list(counts.values())


def test_open_reading_frames_are_those_of_a_regular_expression():
    codes = random_codes(20_000, 3, 5)
    expected = []
    for strand in (decode(codes), decode(reverse_complement(codes))):
        for shift in range(3):
            codons = [strand[at : at + 3] for at in range(shift, len(strand) - 2, 3)]
            kinds = "".join(
                "N" if "N" in c else "M" if c == "ATG" else "*" if c in ("TAA", "TAG", "TGA") else "." for c in codons
            )
            # what stands before the first stop codon counts too when it begins within the sequence
            expected += [len(match[1]) for match in re.finditer(r"(M[^*]*)\*", kinds)]
    assert sorted(orf_lengths([codes])) == sorted(expected)


def test_distances_go_from_nothing_to_one():
    assert distance(np.array([1, 2, 3]), np.array([10, 20, 30])) == pytest.approx(0, abs=1e-9)
    assert distance(np.array([1, 0]), np.array([0, 5])) == pytest.approx(1)
    half = distance(np.array([1, 1]), np.array([1, 0]))
    assert half**2 == pytest.approx(
        0.5 * (0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)) + 0.5 * np.log2(1 / 0.75)
    )


def test_gc_of_windows_leaves_out_those_with_n():
    codes = np.concatenate([np.full(1000, 1), np.full(999, 1), [4], np.tile([0, 2], 500), [3] * 30]).astype(np.uint8)
    assert gc_windows([codes]).tolist() == [1.0, 0.5]


def test_made_sequences_are_compared_with_a_genome(small_folder, small_store, tmp_path):
    rng = np.random.default_rng(8)
    codes = rng.integers(0, 4, 12_000).astype(np.uint8)
    repeats = rng.random(len(codes)) < 0.5
    for i in range(2, len(codes)):  # as the genome of the fixture is made
        codes[i] = codes[i - 2] if repeats[i] else codes[i]
    (tmp_path / "like.fa").write_text(f">like\n{decode(codes)}\n")
    (tmp_path / "unlike.fa").write_text(f">unlike\n{decode(random_codes(12_000, 1))}\n")
    like = compare(tmp_path / "like.fa", small_folder / "genome.fa", tmp_path / "like.json")
    unlike = compare(tmp_path / "unlike.fa", small_store, tmp_path / "unlike.json", ks=(2, 3))
    near, far = (found["sets"] for found in (like, unlike))
    assert near["made"]["distance"]["3"] < 0.5 * near["letters"]["distance"]["3"]
    assert far["made"]["distance"]["3"] == pytest.approx(far["letters"]["distance"]["3"], rel=0.2)
    assert unlike["genome"]["bases"] < like["genome"]["bases"] == 30_000
    assert json.loads((tmp_path / "like.json").read_text()) == like
    page = (tmp_path / "like.html").read_text()
    assert "<svg" in page
    assert "like.fa" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


@pytest.mark.parametrize(
    ("genome", "out", "said"),
    [("genome.fa", "page.html", "must end in .json"), ("nowhere.fa", "out.json", "nowhere.fa: neither")],
    ids=["page", "no genome"],
)
def test_a_report_that_cannot_be_is_said_before(small_folder, tmp_path, genome, out, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        check(small_folder / genome, tmp_path / out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("made", "ks", "said"),
    [
        (">a\nACG\n", (4,), "holds no sequence of 4 bases"),
        (">a\nACGT\n", (13,), "from 1 to 12"),
        (">a\nACGT\n", (), "from 1 to 12"),
    ],
    ids=["too short", "too long k", "no k"],
)
def test_what_cannot_be_compared_is_said(small_folder, tmp_path, made, ks, said):
    (tmp_path / "made.fa").write_text(made)
    with pytest.raises(ValueError, match=said):
        compare(tmp_path / "made.fa", small_folder / "genome.fa", tmp_path / "out.json", ks=ks)
    assert not (tmp_path / "out.json").exists()
