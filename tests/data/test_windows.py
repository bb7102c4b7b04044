from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from making import config_for, random_bases

from titans_genomics.data.alphabet import EOS, reverse_complement
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.data.windows import HeldOutWindows, TrainWindows


@pytest.fixture
def store(fasta, tmp_path):
    sources = [
        {"path": str(fasta(name="big.fa", chr1=random_bases(9_000))), "weight": 1},
        {"path": str(fasta(name="small.fa", chr1=random_bases(3_000, 1))), "weight": 6},
        {"path": str(fasta(name="never.fa", chr1=random_bases(3_000, 2))), "weight": 0},
    ]
    tokenize(config_for(*sources, split={"block": 300, "validation": 0.1, "test": 0.1}), tmp_path / "tokens")
    return TokenStore(tmp_path / "tokens")


def find(store: TokenStore, window: np.ndarray) -> int:
    """Where a window stands in the store, or -1."""
    return np.asarray(store.tokens).tobytes().find(window.astype(np.uint8).tobytes())


def test_train_windows_are_training_tokens(store):
    windows = TrainWindows(store, 60, seed=3)
    runs = store.runs("train")
    for i in range(200):
        window = windows[i].numpy()
        assert window.shape == (61,)
        assert window.dtype == np.int64
        at = find(store, window)
        assert any(run.start <= at and at + 61 <= run.stop for run in runs if run.source != "never")


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


def test_sources_are_drawn_by_weight_times_tokens(store):
    windows = TrainWindows(store, 40, 1)
    (small,) = store.runs("train", "small")
    hits = sum(small.start <= find(store, windows[i].numpy()) < small.stop for i in range(600))
    assert hits / 600 == pytest.approx(6 * 3 / (6 * 3 + 9), abs=0.08)


def test_the_last_token_of_a_run_can_be_drawn(store):
    run = store.runs("train")[0]
    windows = TrainWindows(store, run.stop - run.start - 2, 1)
    assert {int(windows[i][-1] == EOS) for i in range(60)} == {0, 1}


@pytest.mark.parametrize("count", [1, 2, 7, 10_000])
def test_held_out_windows_are_even_and_the_same(store, count):
    one, two = (HeldOutWindows(store, "validation", 50, count) for _ in range(2))
    runs = [run for run in store.runs("validation") if run.source != "never"]
    assert len(one) == min(count, sum(run.stop - run.start - 50 for run in runs))
    assert len(set(one.starts.tolist())) == len(one)
    for i in range(0, len(one), 97):
        assert one[i].shape == (51,)
        assert (one[i] == two[i]).all()
        assert any(run.start <= one.starts[i] and one.starts[i] + 51 <= run.stop for run in runs)


def test_held_out_windows_do_not_overlap_while_there_is_room(store):
    for source in ("big", "small"):
        (run,) = store.runs("test", source)
        windows = HeldOutWindows(store, "test", 29, (run.stop - run.start) // 30, source)
        assert (np.diff(windows.starts) >= 30).all()


def test_a_source_of_weight_zero_is_held_out_only_on_request(store):
    (run,) = store.runs("test", "never")
    assert all(not run.start <= start < run.stop for start in HeldOutWindows(store, "test", 50, 500).starts)
    assert all(run.start <= start < run.stop for start in HeldOutWindows(store, "test", 50, 20, "never").starts)


def test_sequence_shorter_than_one_window(store):
    with pytest.raises(ValueError, match=r"train split has at most .* a window needs 20,001 .*Lower train.context to"):
        TrainWindows(store, 20_000, 1)
    with pytest.raises(ValueError, match=r"validation split has at most"):
        HeldOutWindows(store, "validation", 5_000, 4)


def test_carried_windows_follow_one_another_on_either_strand(store):
    """Items n j ... n j + n - 1 are one long window in parts: each begins with the last token of the one before."""
    whole, parts = TrainWindows(store, 120, 7, 0.5), TrainWindows(store, 40, 7, 0.5, carry=3)
    for j in range(40):
        pieces = [parts[3 * j + part].numpy() for part in range(3)]
        assert all(a[-1] == b[0] for a, b in pairwise(pieces))
        assert np.array_equal(np.concatenate([pieces[0], pieces[1][1:], pieces[2][1:]]), whole[j].numpy())


def test_an_empty_split(fasta, tmp_path):
    tokenize(config_for(fasta(chr1=random_bases(900)), split={"validation": 0, "test": 0}), tmp_path / "t")
    with pytest.raises(ValueError, match="the validation split is empty"):
        HeldOutWindows(TokenStore(tmp_path / "t"), "validation", 50, 4)


def test_items_outside_the_dataset(store):
    with pytest.raises(IndexError):
        TrainWindows(store, 40, 1, count=5)[5]
