from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics.config import SplitConfig
from titans_genomics.data.splits import assign, read_key, read_splits

shares = st.tuples(*[st.integers(0, 40).map(lambda percent: percent / 100)] * 2)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60), shares, st.integers(0, 9))
def test_assign_leaves_no_wanted_split_empty(lengths, share, seed):
    order = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    splits = assign(lengths, order, *share)
    assert set(splits.tolist()) <= {0, 1, 2}
    assert (splits == 0).any()
    for label, wanted in ((1, share[0]), (2, share[1])):
        if wanted == 0:
            assert not (splits == label).any()
        elif len(lengths) >= 3:
            assert (splits == label).any()


@given(st.integers(40, 400), st.integers(0, 99))
def test_shares_are_met_within_half_a_block(blocks, seed):
    order = np.random.default_rng(seed).permutation(blocks).tolist()
    splits = assign([1_000] * blocks, order, 0.05, 0.1)
    assert abs((splits == 1).sum() - 0.05 * blocks) <= 0.5 + 1e-9
    assert abs((splits == 2).sum() - 0.1 * blocks) <= 0.5 + 1e-9


def test_a_large_chromosome_is_not_held_out_for_a_small_share():
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(3).tolist()
        assert assign([4_600_000, 100_000, 50_000], order, 0.05, 0.05)[0] == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 500)), min_size=3, max_size=80))
def test_pieces_of_one_molecule_stay_together(reads):
    keys = np.array([read_key(1, "s", str(name)) for name, _ in reads])
    splits = read_splits(keys, np.array([length for _, length in reads]), SplitConfig(validation=0.2, test=0.2))
    by_key = {}
    for key, split in zip(keys.tolist(), splits.tolist(), strict=True):
        assert by_key.setdefault(key, split) == split


def test_read_splits_do_not_depend_on_the_order_of_reads():
    keys = np.array([read_key(3, "s", str(i)) for i in range(200)])
    lengths = np.arange(100, 300)
    splits = read_splits(keys, lengths, SplitConfig())
    order = np.random.default_rng(0).permutation(200)
    assert (read_splits(keys[order], lengths[order], SplitConfig()) == splits[order]).all()


def test_read_keys_differ_by_seed_source_and_template_and_fit_in_63_bits():
    keys = {read_key(seed, source, name) for seed in range(3) for source in "ab" for name in ("r1", "r2", "")}
    assert len(keys) == 18
    assert all(0 <= key < 1 << 63 for key in keys)


def test_no_units():
    assert assign([], [], 0.1, 0.1).tolist() == []
    empty = np.zeros(0, dtype=np.int64)
    assert read_splits(empty, empty, SplitConfig()).tolist() == []
