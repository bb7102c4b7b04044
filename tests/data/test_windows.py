from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from making import random_bases, tokenized, write_fasta

from titans_genomics.data.alphabet import EOS, decode, reverse_complement
from titans_genomics.data.store import Run, TokenStore
from titans_genomics.data.windows import MASKED, HeldOutWindows, TrainWindows

SPLIT = {"block": 300, "validation": 0.1, "test": 0.1}


@pytest.fixture
def store(tmp_path):
    sources = [
        {"path": str(write_fasta(tmp_path / "big.fa", {"chr1": random_bases(9_000)})), "weight": 1},
        {"path": str(write_fasta(tmp_path / "small.fa", {"chr1": random_bases(3_000, 1)})), "weight": 6},
        {"path": str(write_fasta(tmp_path / "never.fa", {"chr1": random_bases(3_000, 2)})), "weight": 0},
    ]
    return tokenized(tmp_path / "tokens", *sources, split=SPLIT)


def whole(run: Run) -> np.ndarray:
    return run.read(0, len(run))


def find(run: Run, window: np.ndarray) -> int:
    """Where a window stands in a run, or -1."""
    dtype = run.store.tokenizer.dtype
    at = whole(run).tobytes().find(window.astype(dtype).tobytes())
    return at // dtype.itemsize if at >= 0 else -1


def test_train_windows_are_training_tokens(store):
    windows = TrainWindows(store, 60, seed=3)
    runs = [run for run in store.runs("train") if run.source != "never"]
    for i in range(200):
        window = windows[i].numpy()
        assert window.shape == (61,)
        assert window.dtype == np.int64
        assert any(find(run, window) >= 0 for run in runs)


def test_item_i_is_a_function_of_seed_and_i(store):
    one, two, other = TrainWindows(store, 40, 7, 0.5), TrainWindows(store, 40, 7, 0.5), TrainWindows(store, 40, 8, 0.5)
    backwards = [two[i].tolist() for i in reversed(range(50))][::-1]
    assert [one[i].tolist() for i in range(50)] == backwards
    assert [other[i].tolist() for i in range(50)] != backwards
    assert len({tuple(one[i].tolist()) for i in range(50)}) > 45


def test_reverse_complement_turns_the_same_windows(store):
    plain, turned, some = (TrainWindows(store, 40, 7, share) for share in (0.0, 1.0, 0.5))
    kept = 0
    for i in range(200):
        assert (reverse_complement(plain[i]) == turned[i]).all()
        assert some[i].tolist() in (plain[i].tolist(), turned[i].tolist())
        kept += some[i].tolist() == plain[i].tolist()
    assert 60 < kept < 140


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e9])
def test_sources_are_drawn_by_weight_times_tokens(store, temperature):
    windows = TrainWindows(store, 40, 1, temperature=temperature)
    (small,), (big,) = store.runs("train", "small"), store.runs("train", "big")
    hits = sum(find(small, windows[i].numpy()) >= 0 for i in range(600))
    shares = 6 * len(small) ** (1 / temperature), len(big) ** (1 / temperature)
    assert hits / 600 == pytest.approx(shares[0] / sum(shares), abs=0.06)


def test_a_high_temperature_counts_sources_not_bases(tmp_path):
    sources = [
        write_fasta(tmp_path / f"{name}.fa", {"c": random_bases(length, length)})
        for name, length in (("a", 40_000), ("b", 2_000))
    ]
    store = tokenized(tmp_path / "tokens", *sources, split=SPLIT)
    (small,) = store.runs("train", "b")
    for temperature, share in ((1.0, 1 / 21), (1e9, 1 / 2)):
        windows = TrainWindows(store, 40, 1, temperature=temperature)
        hits = sum(find(small, windows[i].numpy()) >= 0 for i in range(400))
        assert hits / 400 == pytest.approx(share, abs=0.07)


def test_the_first_and_the_last_token_of_a_run_can_be_drawn(store):
    run = store.runs("train")[0]
    windows = TrainWindows(store, len(run) - 2, 1)
    assert {find(run, windows[i].numpy()) for i in range(60)} == {0, 1}
    assert {int(windows[i][-1] == EOS) for i in range(60)} == {0, 1}


@pytest.mark.parametrize("count", [1, 2, 7, 10_000])
def test_held_out_windows_are_even_and_the_same(store, count):
    one, two = (HeldOutWindows(store, "validation", 50, count) for _ in range(2))
    runs = [run for run in store.runs("validation") if run.source != "never"]
    assert len(one) == min(count, sum(len(run) - 50 for run in runs))
    assert len(set(zip(one.which.tolist(), one.starts.tolist(), strict=True))) == len(one)
    for i in range(0, len(one), 97):
        assert one[i].shape == (51,)
        assert (one[i] == two[i]).all()
        run, start = runs[one.which[i]], one.starts[i]
        assert one[i].tolist() == whole(run)[start : start + 51].tolist()


def test_held_out_windows_do_not_overlap_while_there_is_room(store):
    for source in ("big", "small"):
        (run,) = store.runs("test", source)
        windows = HeldOutWindows(store, "test", 29, len(run) // 30, source)
        assert (np.diff(windows.starts) >= 30).all()


def test_a_source_of_weight_zero_is_held_out_only_on_request(store):
    assert {run.source for run in HeldOutWindows(store, "test", 50, 500).runs} == {"big", "small"}
    assert {run.source for run in HeldOutWindows(store, "test", 50, 20, "never").runs} == {"never"}


def test_sequence_shorter_than_one_window(store):
    with pytest.raises(ValueError, match=r"train split has at most .* a window needs 20,001 .*Lower train.context to"):
        TrainWindows(store, 20_000, 1)
    with pytest.raises(ValueError, match=r"validation split has at most"):
        HeldOutWindows(store, "validation", 5_000, 4)


@pytest.mark.parametrize("marked", [False, True])
def test_carried_windows_follow_one_another_on_either_strand(tmp_path, marked):
    """Items n j ... n j + n - 1 are one long window in parts: each begins with the last token of the one before."""
    mixed = "".join(base.lower() if i % 50 < 20 else base for i, base in enumerate(random_bases(6_000)))
    store = tokenized(tmp_path / "t", write_fasta(tmp_path / "x.fa", {"chr1": mixed}), split=SPLIT)
    long = TrainWindows(store, 120, 7, 0.5, mark_soft_masked=marked)
    parts = TrainWindows(store, 40, 7, 0.5, carry=3, mark_soft_masked=marked)
    for j in range(40):
        pieces = [parts[3 * j + part].numpy() for part in range(3)]
        assert all(a[-1] == b[0] for a, b in pairwise(pieces))
        assert np.array_equal(np.concatenate([pieces[0], pieces[1][1:], pieces[2][1:]]), long[j].numpy())


def test_soft_masked_tokens_can_be_marked(tmp_path):
    """Upper case is A and C only, lower case G and T only, so that a mark can be told from its token."""
    parts = [random_bases(37, i).translate(str.maketrans("GT", "AC")) for i in range(60)]
    parts += [random_bases(23, 100 + i).translate(str.maketrans("AC", "TG")).lower() for i in range(60)]
    sequence = "".join(parts[i % 2 * 60 + i // 2] for i in range(120))
    store = tokenized(tmp_path / "t", write_fasta(tmp_path / "x.fa", {"chr1": sequence}), split=SPLIT)
    plain, marked = TrainWindows(store, 90, 3, 0.5), TrainWindows(store, 90, 3, 0.5, mark_soft_masked=True)
    strands = 0
    for i in range(60):
        window, tokens = marked[i].numpy(), plain[i].numpy()
        assert (window % MASKED == tokens).all()
        upper, lower = (0, 1), (2, 3)
        turned = bool(np.isin(tokens[window < MASKED], (*lower, EOS)).all())
        strands += turned
        assert np.isin(tokens[window >= MASKED], upper if turned else lower).all()
        assert np.isin(tokens[window < MASKED], (*(lower if turned else upper), EOS)).all()
    assert 10 < strands < 50


@pytest.mark.parametrize(
    "tokenizer",
    [{"kind": "kmer", "k": 3}, {"kind": "kmer", "k": 3, "overlap": True}, {"kind": "bpe", "vocab_size": 100}],
    ids=str,
)
def test_windows_of_other_tokens(tmp_path, tokenizer):
    genome = random_bases(9_000)
    path = write_fasta(tmp_path / "x.fa", {"chr1": genome})
    store = tokenized(tmp_path / "t", path, tokenizer=tokenizer, split=SPLIT)
    spell, eos = store.tokenizer.decode, store.tokenizer.eos
    (run,) = store.runs("train")
    plain, turned = TrainWindows(store, 30, 7, 0.0), TrainWindows(store, 30, 7, 1.0)
    strands = b"".join(
        store.tokenizer.encode(reverse_complement(spell(tokens))).tobytes() for tokens in store.documents("train", "x")
    )
    compared = 0
    for i in range(60):
        window, other = plain[i].numpy(), turned[i].numpy()
        assert window.shape == other.shape == (31,)
        assert find(run, window) >= 0
        if eos in window or eos in other:
            continue
        compared += 1
        if tokenizer["kind"] == "kmer":
            assert (reverse_complement(spell(other)) == spell(window)).all()
            if store.tokenizer.context:
                assert other.astype(store.tokenizer.dtype).tobytes() in strands
        else:
            assert decode(reverse_complement(spell(other))) in genome
            assert decode(spell(other)) not in genome
    assert compared > 30
    with pytest.raises(ValueError, match="soft_mask_weight needs one token per base"):
        TrainWindows(store, 30, 1, mark_soft_masked=True)


def test_text_has_one_strand(tmp_path):
    (tmp_path / "x.txt").write_text("to be or not to be\n" * 40)
    source = {"path": str(tmp_path / "x.txt"), "kind": "text"}
    store = tokenized(tmp_path / "t", source, tokenizer={"kind": "byte"}, split={"validation": 0, "test": 0})
    assert bytes(TrainWindows(store, 30, 1)[0].tolist()) in b"to be or not to be\n" * 4
    with pytest.raises(ValueError, match="text has no other strand"):
        TrainWindows(store, 30, 1, reverse_complement=0.5)


def test_an_empty_split(tmp_path):
    path = write_fasta(tmp_path / "x.fa", {"chr1": random_bases(900)})
    store = tokenized(tmp_path / "t", path, split={"validation": 0, "test": 0})
    with pytest.raises(ValueError, match="the validation split is empty"):
        HeldOutWindows(store, "validation", 50, 4)


def test_items_outside_the_dataset(store: TokenStore):
    with pytest.raises(IndexError):
        TrainWindows(store, 40, 1, count=5)[5]


@pytest.mark.parametrize("carry", [1, 3])
def test_tiles_cover_every_run_once_per_epoch_in_another_order(store, carry):
    windows = TrainWindows(store, 40, 5, carry=carry, tiled=True)
    runs = [run for run in store.runs("train") if run.source != "never"]
    tiles = sum((len(run) - 1) // (40 * carry) for run in runs)
    seen = []
    for epoch in range(2):
        places = []
        for i in range(epoch * tiles * carry, (epoch + 1) * tiles * carry):
            run, start = windows._tile(i // carry)
            start += i % carry * 40
            assert windows[i].tolist() == run.read(start, start + 41).tolist()
            places.append((run.source, start))
        assert len(set(places)) == len(places) == tiles * carry
        for source in ("big", "small"):
            starts = sorted(start for name, start in places if name == source)
            assert set(np.diff(starts)) == {40}, "side by side"
        seen.append(places)
    assert seen[0] != seen[1]
    again = TrainWindows(store, 40, 5, carry=carry, tiled=True)
    assert again[tiles * carry + 3].tolist() == windows[tiles * carry + 3].tolist()
