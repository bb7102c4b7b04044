"""FASTA, plain, gzip or bgzip, contig by contig in blocks of a few megabytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from titans_genomics.data.records import Advance, Record

GZIP_MAGIC = b"\x1f\x8b"
BGZF_END = bytes.fromhex(
    "1f8b08040000000000ff0600424302001b0003000000000000000000"
)  # the empty last block of bgzip and BAM
_BLOCK = 1 << 22
SPACE = b" \t\r\n\v\f"


def is_bgzf(head: bytes) -> bool:
    """Whether a gzip file's first 18 bytes carry the BGZF extra field."""
    return head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC"


def check_bgzf_end(path: Path) -> None:
    """Raise ValueError when the empty block that ends every BGZF file (bgzip, BAM) is missing."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(size - len(BGZF_END), 0))
        if handle.read() != BGZF_END:
            raise ValueError(f"{path}: cut short: the BGZF end-of-file block is missing. Copy or create the file again")


def read_fasta(path: Path, advance: Advance) -> Iterator[Record]:
    """The contigs of a FASTA file in file order.

    Memory grows with the longest contig only. When PATH.fai stands beside the file, names and lengths are compared
    with it.

    Raises
    ------
    ValueError
        Compressed data cut short or damaged, record without a name, two records of one name, index of another
        version of the file.
    """
    index = _read_fai(path)
    seen: set[str] = set()
    with path.open("rb") as raw:
        size = max(path.stat().st_size, 1)
        compressed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if compressed else raw
        for name, sequence in _split_records(path, _blocks(path, stream, raw, size), advance):
            if name in seen:
                raise ValueError(
                    f"{path}: two records are named {name!r} (the first word after '>'). Rename one of them"
                )
            if index is not None:
                _compare_with_fai(path, index, len(seen), name, len(sequence))
            seen.add(name)
            yield Record(name, sequence)
    if not seen:
        raise ValueError(f"{path}: no FASTA record ('>' line) in the file")
    if index is not None and len(index) > len(seen):
        raise _stale(path, f"the index also lists record {index[len(seen)][0]!r}")


def _blocks(path: Path, stream: IO[bytes], raw: IO[bytes], size: int) -> Iterator[tuple[bytes, float]]:
    """Decompressed blocks and the share of the file read so far."""
    while True:
        try:
            block = stream.read(_BLOCK)
        except EOFError:
            raise ValueError(f"{path}: gzip data cut short. Copy or download the file again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip data ({error}). Copy or download the file again") from None
        if not block:
            return
        yield block, raw.tell() / size


def _split_records(path: Path, blocks: Iterator[tuple[bytes, float]], advance: Advance) -> Iterator[tuple[str, bytes]]:
    """Names and sequences. Every block is cut after whole lines, unless it ends within a line of sequence."""
    name: str | None = None
    sequence = bytearray()
    carry = b"\n"
    for block, share in blocks:
        data = carry + block
        cut = data.rfind(b"\n")
        tail = data[cut:]
        if tail == b"\n" or tail.startswith(b"\n>"):
            data, carry = data[:cut], tail
        else:
            carry = b""
        for i, part in enumerate(data.split(b"\n>")):
            if i:
                if name is not None:
                    yield name, bytes(sequence)
                header, _, part = part.partition(b"\n")
                name, sequence = _name(path, header), bytearray()
            bases = part.translate(None, SPACE)
            sequence += bases
            advance(len(bases), share)
    if carry.startswith(b"\n>"):  # a last header without a line end
        if name is not None:
            yield name, bytes(sequence)
        name, sequence = _name(path, carry[2:]), bytearray()
    if name is not None:
        yield name, bytes(sequence)


def _name(path: Path, header: bytes) -> str:
    if b"\r" in header.rstrip():
        raise ValueError(
            f"{path}: lines end in a carriage return alone (old Macintosh). Convert them with `tr '\\r' '\\n'`"
        )
    words = header.split(None, 1)
    if not words:
        raise ValueError(f"{path}: a record has no name: write one after '>'")
    return words[0].decode("utf-8", errors="replace")


def _read_fai(path: Path) -> list[tuple[str, int]] | None:
    """Names and lengths of PATH.fai, or None without one."""
    fai = path.with_name(path.name + ".fai")
    if not fai.is_file():
        return None
    entries = []
    for number, line in enumerate(fai.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 5 or not fields[1].isdigit():
            raise ValueError(
                f"{fai}: line {number} is not a FASTA index line. Run `samtools faidx {path}` again, or delete the index"
            )
        entries.append((fields[0], int(fields[1])))
    return entries


def _compare_with_fai(path: Path, index: list[tuple[str, int]], at: int, name: str, length: int) -> None:
    if at >= len(index):
        raise _stale(path, f"record {name!r} is not in the index")
    if index[at][0] != name:
        raise _stale(path, f"record {at + 1} is {name!r}, in the index {index[at][0]!r}")
    if index[at][1] != length:
        raise _stale(path, f"record {name!r} has {length:,} bases, in the index {index[at][1]:,}")


def _stale(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path}: the file was changed after its index {path.name}.fai was made: {what}. Run `samtools faidx {path}` again, or delete the index"
    )
