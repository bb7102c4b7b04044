"""Plain, gzip and BGZF files (bgzip, BAM) in blocks, decompressed in threads ahead of the caller.

BGZF is gzip in members of at most 64 KiB that say how long they are, so that several can be decompressed at once. A plain
gzip file has to go through one thread; that it is another one than the caller's still hides most of the time.
"""

from __future__ import annotations

import gzip
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from isal import igzip, isal_zlib

GZIP_MAGIC = b"\x1f\x8b"
BGZF_END = bytes.fromhex(
    "1f8b08040000000000ff0600424302001b0003000000000000000000"
)  # the empty last member of bgzip and BAM
BLOCK = 1 << 22
"""Bytes of a block of a plain or gzip file, and about those of a large BGZF file."""

_MEMBER = 1 << 16  # most bytes of a BGZF member, compressed or not

Block = tuple[np.ndarray, float]
Job = TypeVar("Job")


class _PlainMember(Exception):  # noqa: N818
    """Behind BGZF members, at byte ``begin`` of the file, one of plain gzip begins."""

    def __init__(self, begin: int) -> None:
        super().__init__(begin)
        self.begin = begin


class DamagedError(ValueError):
    """Compressed data that cannot be read; ``what`` says why, without the file's name."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}. Copy or download the file again")
        self.what = what


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, with gzip or bgzip. Raises OSError."""
    with path.open("rb") as handle:
        return handle.read(2) == GZIP_MAGIC


def is_bgzf(head: bytes) -> bool:
    """Whether a gzip file's first 18 bytes carry the BGZF extra field (and no other)."""
    return head[:4] == b"\x1f\x8b\x08\x04" and head[10:14] == b"\x06\x00BC"


def check_bgzf_end(path: Path) -> None:
    """Raise ValueError when the empty block that ends every BGZF file (bgzip, BAM) is missing."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(size - len(BGZF_END), 0))
        if handle.read() != BGZF_END:
            raise ValueError(f"{path}: cut short: the BGZF end-of-file block is missing. Copy or create the file again")


def check_members(path: Path) -> None:
    """As `check_bgzf_end`, but plain gzip may follow on BGZF, which is good gzip too; its end shows when it is read."""
    try:
        check_bgzf_end(path)
    except ValueError:
        at, size = 0, path.stat().st_size
        with path.open("rb") as handle:
            while at < size:
                handle.seek(at)
                head = handle.read(18)
                if not is_bgzf(head):
                    if head.startswith(GZIP_MAGIC):
                        return
                    break
                at += int.from_bytes(head[16:18], "little") + 1
        raise


def read_blocks(path: Path, threads: int = 2) -> Iterator[Block]:
    """The bytes of a file, whether plain, gzip or BGZF, in order.

    Parameters
    ----------
    path
        The file; its first bytes say how it is compressed.
    threads
        Threads that decompress BGZF; plain and gzip files are read by one.

    Yields
    ------
    block : numpy.ndarray
        uint8, shape (bytes,), at least 1 and at most about `BLOCK`; the caller's own, writable.
    share : float
        Part of the file read so far, 0 to 1.

    Raises
    ------
    ValueError
        Compressed data cut short or damaged; what comes before has been yielded.
    """
    with path.open("rb") as raw:
        head = raw.read(18)
        raw.seek(0)
        if is_bgzf(head):
            check_members(path)
            try:
                yield from _read_members(path, threads)
                return
            except _PlainMember as rest:
                raw.seek(rest.begin)
        size = max(path.stat().st_size, 1)
        stream = igzip.IGzipFile(fileobj=raw, mode="rb") if head.startswith(GZIP_MAGIC) else raw
        yield from _ahead(iter(lambda: stream, None), lambda job: _next_block(path, job, raw, size), 1)


def read_bgzf(path: Path, threads: int = 2) -> Iterator[Block]:
    """As `read_blocks`, of a BGZF file. Blocks end where members end."""
    check_bgzf_end(path)
    try:
        yield from _read_members(path, threads)
    except _PlainMember as rest:
        raise _no_block(path, rest.begin) from None


def _read_members(path: Path, threads: int) -> Iterator[Block]:
    for block, share in _ahead(_members(path), lambda job: _inflate(path, *job), threads):
        if len(block):  # some programs begin or end with several empty members
            yield block, share


def _no_block(path: Path, begin: int) -> DamagedError:
    return DamagedError(path, f"damaged BGZF data at byte {begin:,} (no block begins there)")


def _ahead(jobs: Iterator[Job], work: Callable[[Job], Block | None], threads: int) -> Iterator[Block]:
    """Results of ``work`` in the order of ``jobs``, computed ahead in threads, up to the first None or error."""
    waiting: deque[Future[Block | None]] = deque()
    failure: Exception | None = None
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            try:
                waiting.append(pool.submit(work, next(jobs)))
            except StopIteration:
                break
            except (ValueError, _PlainMember) as error:  # what was found before it comes first
                failure = error
                break
            if len(waiting) > threads:
                block = waiting.popleft().result()
                if block is None:
                    return
                yield block
        while waiting:
            block = waiting.popleft().result()
            if block is not None:
                yield block
    finally:
        # A generator that nobody reads to its end is closed by the garbage collector, in any thread at any moment: what
        # runs is waited for, for the sake of the file, but no thread is joined, which would lock up within another's end.
        wait([future for future in waiting if not future.cancel()])
        pool.shutdown(wait=False)
    if failure is not None:
        raise failure


def _next_block(path: Path, stream: BinaryIO, raw: BinaryIO, size: int) -> Block | None:
    block = np.empty(BLOCK, dtype=np.uint8)
    try:
        count = stream.readinto(block.data)
    except EOFError:
        raise DamagedError(path, "gzip data cut short") from None
    except (gzip.BadGzipFile, isal_zlib.error) as error:
        raise DamagedError(path, f"damaged gzip data ({error})") from None
    return (block[:count], raw.tell() / size) if count else None


def _members(path: Path) -> Iterator[tuple[bytes, list[int], int, float]]:
    """Groups of whole members: their bytes, where in them each begins, where in the file, and the share read."""
    size = path.stat().st_size
    most = min(
        BLOCK // _MEMBER, max(4, size >> 18)
    )  # members of a group; few in a small file, so that all threads work
    data, begin = b"", 0
    with path.open("rb") as handle:
        while fresh := handle.read(most * _MEMBER >> 1):
            data += fresh
            starts, at = [], 0
            while at + 18 <= len(data):
                if not is_bgzf(data[at : at + 18]):
                    if starts:
                        yield data, [*starts, at], begin, (begin + at) / size
                    if data[at:].startswith(GZIP_MAGIC):
                        raise _PlainMember(begin + at)
                    raise _no_block(path, begin + at)
                end = at + int.from_bytes(data[at + 16 : at + 18], "little") + 1
                if end > len(data):
                    break
                starts.append(at)
                at = end
                if len(starts) == most:
                    yield data, [*starts, at], begin, (begin + at) / size
                    data, begin, starts, at = data[at:], begin + at, [], 0
            if starts:
                yield data, [*starts, at], begin, (begin + at) / size
            data, begin = data[at:], begin + at
    if data:
        raise DamagedError(path, f"BGZF data cut short at byte {begin:,}")


def _inflate(path: Path, data: bytes, edges: list[int], begin: int, share: float) -> Block:
    view = memoryview(data)
    block, at = np.empty((len(edges) - 1) * _MEMBER, dtype=np.uint8), 0
    for start, end in pairwise(edges):
        try:
            checksum, length = struct.unpack_from("<II", data, end - 8)
            if length > _MEMBER:
                raise ValueError("impossible length")
            part = isal_zlib.decompress(view[start + 18 : end - 8], wbits=-15, bufsize=max(length, 1))
            if len(part) != length or isal_zlib.crc32(part) != checksum:
                raise ValueError("checksum differs")
        except (isal_zlib.error, ValueError, struct.error) as error:
            raise DamagedError(path, f"damaged BGZF block at byte {begin + start:,} ({error})") from None
        block[at : at + length] = np.frombuffer(part, dtype=np.uint8)  # NumPy lets go of the interpreter's lock
        at += length
    return block[:at], share
