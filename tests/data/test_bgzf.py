from __future__ import annotations

import gzip
import threading

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from titans_genomics.data import bgzf
from titans_genomics.data.bgzf import BGZF_END, check_bgzf_end, check_members, is_bgzf, read_bgzf, read_blocks

anywhere = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def some_bytes(count: int, seed: int = 0) -> bytes:
    """Bytes that compress to about half."""
    return np.random.default_rng(seed).integers(0, 16, count, dtype=np.uint8).tobytes()


def write_bgzf(path, content: bytes):
    with pysam.BGZFile(str(path), "wb") as handle:
        handle.write(content)
    return path


def joined(blocks) -> bytes:
    return b"".join(block.tobytes() for block, _ in blocks)


@given(st.integers(0, 400_000), st.integers(0, 9), st.sampled_from(["plain", "gzip", "members", "bgzip"]))
@anywhere
def test_all_compressions_give_the_bytes(tmp_path, count, seed, kind):
    content = some_bytes(count, seed)
    path = tmp_path / kind
    if kind == "bgzip":
        write_bgzf(path, content)
    elif kind == "members":
        path.write_bytes(
            gzip.compress(content[: count // 3]) + gzip.compress(b"") + gzip.compress(content[count // 3 :])
        )
    else:
        path.write_bytes(content if kind == "plain" else gzip.compress(content))
    assert joined(read_blocks(path)) == content


@given(st.integers(1, 1_500_000), st.integers(1, 3))
@anywhere
def test_any_number_of_threads_gives_the_blocks_in_order(tmp_path, count, threads):
    content = some_bytes(count)
    path = write_bgzf(tmp_path / "x.gz", content)
    blocks = list(read_bgzf(path, threads))
    assert joined(blocks) == content
    shares = [share for _, share in blocks]
    assert shares == sorted(shares)
    assert shares[-1] > 0.99  # behind it only the member that ends the file


def test_blocks_are_the_callers_to_change(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"ACGT")
    for written in (path, write_bgzf(tmp_path / "x.gz", b"ACGT")):
        ((block, share),) = [(b, s) for b, s in read_blocks(written) if len(b)]
        block[0] = 7
        assert (block.dtype, share) == (np.uint8, 1)


def test_blocks_stay_small(tmp_path):
    content = bytes(3 * bgzf.BLOCK + 5)
    plain = tmp_path / "x"
    plain.write_bytes(content)
    zipped = tmp_path / "x.gz"
    zipped.write_bytes(gzip.compress(content))
    for path in (plain, zipped, write_bgzf(tmp_path / "y.gz", content)):
        assert max(len(block) for block, _ in read_blocks(path)) <= bgzf.BLOCK


def test_bgzf_is_told_from_gzip(tmp_path):
    assert is_bgzf(write_bgzf(tmp_path / "x.gz", b"ACGT").read_bytes()[:18])
    assert not is_bgzf(gzip.compress(b"ACGT")[:18])


def test_two_bgzf_files_after_each_other(tmp_path):
    path = write_bgzf(tmp_path / "x.gz", b"ACGT")
    path.write_bytes(path.read_bytes() * 2)
    assert joined(read_blocks(path)) == b"ACGTACGT"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.9999])
def test_gzip_cut_short(tmp_path, keep):
    whole = gzip.compress(some_bytes(300_000))
    path = tmp_path / "x.gz"
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ValueError, match=r"x.gz: gzip data cut short. Copy or download"):
        list(read_blocks(path))


def test_gzip_damaged(tmp_path):
    data = bytearray(gzip.compress(some_bytes(300_000)))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "x.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x.gz: damaged gzip data \(.*\). Copy or download"):
        list(read_blocks(path))


def test_something_else_behind_gzip_data(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"ACGT") + b"more" * 10)
    with pytest.raises(ValueError, match=r"x.gz: damaged gzip data"):
        list(read_blocks(path))


def test_bgzf_without_its_end(tmp_path):
    path = write_bgzf(tmp_path / "x.gz", some_bytes(300_000))
    path.write_bytes(path.read_bytes()[: -len(BGZF_END)])
    for check in (check_bgzf_end, lambda p: list(read_blocks(p))):
        with pytest.raises(ValueError, match=r"x.gz: cut short: the BGZF end-of-file block is missing"):
            check(path)


@given(st.floats(0, 1, allow_subnormal=False), st.integers(1, 255))
@anywhere
def test_no_damage_goes_unnoticed(tmp_path, where, flip):
    content = some_bytes(400_000)
    path = write_bgzf(tmp_path / "x.gz", content)
    data = bytearray(path.read_bytes())
    at = 18 + int(where * (len(data) - 19 - len(BGZF_END)))
    data[at] ^= flip
    path.write_bytes(data)
    got = []
    try:
        got += [block.tobytes() for block, _ in read_bgzf(path)]
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:  # a byte that no bases depend on, such as the time in a header
        assert b"".join(got) == content
    assert content.startswith(b"".join(got))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_what_comes_before_the_damage_is_given_first_and_its_place_is_named(tmp_path, part):
    content = some_bytes(4_000_000)
    path = write_bgzf(tmp_path / "x.gz", content)
    data = bytearray(path.read_bytes())
    starts = [0]
    while starts[-1] + 18 < len(data):
        starts.append(starts[-1] + int.from_bytes(data[starts[-1] + 16 : starts[-1] + 18], "little") + 1)
    broken = starts[int(part * len(starts))]
    data[broken + 1_000] ^= 1
    path.write_bytes(data)
    got = []
    with pytest.raises(ValueError, match=rf"x.gz: damaged BGZF block at byte {broken:,} "):  # noqa: PT012
        for block, share in read_bgzf(path):
            got.append(block.tobytes())
            assert share <= broken / len(data)
    assert len(b"".join(got)) > (part - 0.3) * len(content)
    assert content.startswith(b"".join(got))


def test_a_place_where_no_bgzf_block_begins(tmp_path):
    path = write_bgzf(tmp_path / "x.gz", b"ACGT")
    path.write_bytes(path.read_bytes() + gzip.compress(b"ACGT") + BGZF_END)
    with pytest.raises(ValueError, match=r"x.gz: damaged BGZF data at byte [0-9,]+ \(no block begins there\)"):
        list(read_bgzf(path))


def test_leaving_early_leaves_no_thread(tmp_path):
    path = write_bgzf(tmp_path / "x.gz", some_bytes(4_000_000))
    before = set(threading.enumerate())
    blocks = read_bgzf(path)
    next(blocks)
    others = set(threading.enumerate()) - before
    assert others
    blocks.close()
    for thread in others:  # they are not waited for, and end by themselves
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("behind", ["one", "two", "bgzf", "large"])
def test_plain_gzip_behind_bgzf(tmp_path, behind):
    first, second, third = (
        some_bytes(700_000),
        some_bytes(3_000_000 if behind == "large" else 999, 1),
        some_bytes(99, 2),
    )
    path = write_bgzf(tmp_path / "x.gz", third)
    end = {"two": gzip.compress(third), "bgzf": path.read_bytes()}.get(behind, b"")
    path = write_bgzf(tmp_path / "x.gz", first)
    path.write_bytes(path.read_bytes() + gzip.compress(second) + end)
    check_members(path)
    assert joined(read_blocks(path)) == first + second + (third if end else b"")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"x.gz: .*(cut short|damaged)"):
        list(read_blocks(path))


@pytest.mark.parametrize("keep", [0.3, 0.99, 1])
def test_bgzf_cut_short_is_not_taken_for_gzip(tmp_path, keep):
    path = write_bgzf(tmp_path / "x.gz", some_bytes(300_000))
    whole = path.read_bytes()[: -len(BGZF_END)]
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match="cut short: the BGZF end-of-file block is missing"):
        check_members(path)
    path.write_bytes(whole + b"more" * 9)
    with pytest.raises(ValueError, match="cut short: the BGZF end-of-file block is missing"):
        check_members(path)


@pytest.mark.parametrize("count", [1, 5, 200])
def test_empty_members_are_passed_over(tmp_path, count):
    path = write_bgzf(tmp_path / "x.gz", b">a\nACGT\n")
    path.write_bytes(BGZF_END * count + path.read_bytes() + BGZF_END * count + path.read_bytes() + BGZF_END * count)
    blocks = [block for block, _ in read_blocks(path)]
    assert all(len(block) for block in blocks)
    assert b"".join(block.tobytes() for block in blocks) == b">a\nACGT\n" * 2
