from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics.data.tally import LANES, tally

# Runs of one code, many of them as long as what is counted at once or one more or less.
runs = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 3, LANES - 1, LANES, LANES + 1, 3 * LANES])), max_size=30
)


def n_runs(codes: np.ndarray) -> list[list[int]]:
    """Maximal runs of N, one code after the other."""
    found: list[list[int]] = []
    for i, code in enumerate(codes.tolist()):
        if code == 4:
            if found and found[-1][1] == i:
                found[-1][1] = i + 1
            else:
                found.append([i, i + 1])
    return found


def check(codes: np.ndarray) -> None:
    counts = np.array([7, 0, 0, 0, 1])
    found = tally(codes, counts)
    assert found.tolist() == n_runs(codes)
    assert (found.dtype, found.shape[1]) == (np.int64, 2)
    assert (counts - [7, 0, 0, 0, 1]).tolist() == np.bincount(codes, minlength=5).tolist()


@given(runs)
def test_counts_and_runs_are_those_of_one_code_after_the_other(parts):
    check(np.concatenate([np.zeros(0, dtype=np.uint8), *(np.full(count, code, np.uint8) for code, count in parts)]))


@given(st.integers(0, 1_000), st.sampled_from([0, 0.01, 0.1, 0.5, 0.9, 1]), st.integers(0, 99))
def test_mixed_codes(length, share, seed):
    rng = np.random.default_rng(seed)
    check(np.where(rng.random(length) < share, 4, rng.integers(0, 4, length)).astype(np.uint8))


def test_more_runs_than_there_is_room_for_at_first():
    check(np.tile(np.array([4, 0], dtype=np.uint8), 6_000))
    check(np.tile(np.array([4, 1], dtype=np.uint8), 6_000)[:-1])
