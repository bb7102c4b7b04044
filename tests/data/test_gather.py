from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics.data.gather import LANES, gather, gather_mask

EOS = 200
UNTOUCHED = 99


@st.composite
def made(draw):
    """Tokens and soft-masked stretches of a shard, segments of it that form a run, and what the run holds one token after the other."""
    lengths = st.one_of(st.integers(1, 12), st.sampled_from([LANES - 1, LANES, LANES + 1, 3 * LANES + 5]))
    segments = draw(st.lists(st.tuples(lengths, st.integers(0, 5), st.booleans()), min_size=1, max_size=12))
    segments[-1] = (*segments[-1][:2], False)
    order = draw(st.permutations(range(len(segments)))) if draw(st.booleans()) else list(range(len(segments)))
    total = sum(length + gap for length, gap, _ in segments)
    tokens = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, total).astype(np.uint8)
    borders = sorted(draw(st.sets(st.integers(0, total), max_size=8)))
    stretches = np.array(borders[: len(borders) // 2 * 2], dtype=np.int64).reshape(-1, 2)
    masked = np.zeros(total, dtype=bool)
    for start, end in stretches:
        masked[start:end] = True
    offsets, at = [], 0
    for length, gap, _ in segments:
        offsets.append(at + gap)
        at += gap + length
    places, run, mask = [], [], []
    for i, segment in enumerate(order):
        length, joined = segments[segment][0], segments[i][2]
        places.append([offsets[segment], length, len(run), joined])
        here = slice(offsets[segment], offsets[segment] + length)
        run += tokens[here].tolist()
        mask += masked[here].tolist()
        if not joined:
            run.append(EOS)
            mask.append(False)
    return tokens, stretches, np.array(places, dtype=np.int64), np.array(run), np.array(mask)


@pytest.mark.parametrize("dtypes", [("u1", "u1"), ("u2", "u2"), ("u1", "i8"), ("u2", "i8")], ids="-".join)
@given(made=made(), data=st.data())
def test_windows_are_those_of_the_run_written_out(dtypes, made, data):
    tokens, stretches, places, run, mask = made
    tokens, wide = tokens.astype(dtypes[0]), dtypes[1]
    length = data.draw(st.integers(1, len(run)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(run) - length), max_size=6)), dtype=np.int64)
    out = np.full((len(starts), length), UNTOUCHED, dtype=wide)
    gather(tokens, places, EOS, starts, out)
    expected = np.array([run[start : start + length] for start in starts]).reshape(len(starts), length)
    assert out.tolist() == expected.tolist()
    masks = np.ones((len(starts), length), dtype=bool)
    gather_mask(stretches, places, starts, masks)
    expected = np.array([mask[start : start + length] for start in starts]).reshape(len(starts), length)
    assert masks.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tokens_of_either_width_read_only_from_disk(tmp_path, dtype):
    np.save(tmp_path / "tokens.npy", np.arange(100, dtype=dtype))
    np.save(tmp_path / "places.npy", np.array([[10, 5, 0, 1], [40, 3, 5, 0], [20, 4, 9, 0]]))
    tokens, places = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("tokens", "places"))
    out = np.empty((2, 8), dtype=dtype)
    gather(tokens, places, EOS, np.array([0, 6]), out)
    assert out.tolist() == [[10, 11, 12, 13, 14, 40, 41, 42], [41, 42, EOS, 20, 21, 22, 23, EOS]]
