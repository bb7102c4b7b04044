from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics.config import SplitConfig
from titans_genomics.data.splits import assign, contig_segments, read_key, read_splits

shares = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60), shares, st.integers(0, 9))
def test_assign_leaves_no_wanted_split_empty(lengths, share, seed):
    order = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    splits = assign(lengths, order, *share)
    assert set(splits.tolist()) <= {0, 1, 2}
    assert (splits == 0).any()
    for label, wanted in ((1, share[0]), (2, share[1])):
        if wanted == 0:
            assert not (splits == label).any()
        elif len(lengths) >= 3 and wanted > 1e-9:
            assert (splits == label).any()


@given(st.integers(40, 400), st.integers(0, 99))
def test_shares_are_met_within_half_a_block(blocks, seed):
    order = np.random.default_rng(seed).permutation(blocks).tolist()
    splits = assign([1_000] * blocks, order, 0.05, 0.1)
    assert abs((splits == 1).sum() - 0.05 * blocks) <= 0.5 + 1e-9
    assert abs((splits == 2).sum() - 0.1 * blocks) <= 0.5 + 1e-9


@given(
    st.lists(st.integers(1, 5_000), min_size=1, max_size=12),
    st.sampled_from(["block", "contig"]),
    st.integers(100, 2_000),
    st.integers(0, 9),
)
def test_segments_tile_every_contig_and_neighbours_differ(lengths, by, block, seed):
    split = SplitConfig(by=by, block=block, validation=0.2, test=0.2)
    segments = contig_segments(lengths, split, np.random.default_rng(seed))
    again = contig_segments(lengths, split, np.random.default_rng(seed))
    assert segments == again
    for length, own in zip(lengths, segments, strict=True):
        assert own[0][0] == 0
        assert own[-1][1] == length
        for left, right in pairwise(own):
            assert left[1] == right[0]
            assert left[2] != right[2]
            assert left[1] % block == 0
        assert by == "block" or len(own) == 1


def test_a_large_chromosome_is_not_held_out_for_a_small_share():
    for seed in range(20):
        segments = contig_segments([4_600_000, 100_000, 50_000], SplitConfig(by="contig"), np.random.default_rng(seed))
        assert segments[0][0][2] == 0


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


@pytest.mark.parametrize("by", ["block", "contig"])
def test_another_seed_gives_another_split(by):
    split = SplitConfig(by=by, block=100)
    draws = {str(contig_segments([1_000] * 20, split, np.random.default_rng(seed))) for seed in range(5)}
    assert len(draws) == 5
