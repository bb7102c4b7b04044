"""FASTA, plain, gzip or bgzip, in blocks of a few megabytes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.bgzf import read_blocks
from titans_genomics.data.letters import Letters

_LONGEST_NAME = 255  # bytes of a file's name, on every usual file system


def read_fasta(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The contigs of a FASTA file in file order, whatever its line ends and line lengths.

    Memory does not grow with the length of a contig. When PATH.fai stands beside the file, names and lengths are
    compared with it.

    Raises
    ------
    ValueError
        Compressed data cut short or damaged, record without a name, two records of one name, a letter that is no
        nucleotide, a protein, index of another version of the file.
    """
    path = source.path
    index = _Index(path)
    seen: set[str] = set()
    encoder = Letters(source, data, seed)
    name: str | None = None
    header: bytearray | None = None  # of the record that begins, while its line is read
    for number, (letters, share) in enumerate(read_blocks(path)):
        at = 0 if number else _first_record(path, letters)
        while at < len(letters):
            if header is None:
                at = encoder.feed(letters, at)
                if at == len(letters):
                    break
                header, at = bytearray(), at + 1
                if name is not None:
                    encoder.end()
                    index.compare(name, encoder.length)
            end = _line_end(letters, at)
            header += letters[at:end].tobytes()
            at = end + 1
            if end < len(letters):
                name, header = _name(path, header, seen), None
                encoder.begin(name)
        yield encoder.batch()
        advance(share)
    if header is not None:  # a last header without a line end
        name = _name(path, header, seen)
        encoder.begin(name)
    if name is None:
        raise ValueError(f"{path}: no FASTA record ('>' line) in the file")
    encoder.end()
    index.compare(name, encoder.length)
    index.done()
    yield encoder.batch()


def _line_end(letters: np.ndarray, at: int) -> int:
    """Where the line that holds ``at`` ends, or how many letters there are."""
    for start in range(at, len(letters), 1024):
        found = letters[start : start + 1024].tobytes().find(b"\n")
        if found >= 0:
            return start + found
    return len(letters)


def _first_record(path: Path, letters: np.ndarray) -> int:
    """Where the first '>' is, behind a byte order mark and blank lines."""
    block = letters.tobytes()
    start = 3 if block.startswith(b"\xef\xbb\xbf") else 0
    at = block.find(b">", start)
    if at < 0 or block[start:at].strip():
        raise ValueError(f"{path}: does not begin with a FASTA record ('>' line)")
    return at


def _name(path: Path, header: bytearray, seen: set[str]) -> str:
    """The first word of a header line. Raises ValueError without one, or when it was seen before."""
    if b"\r" in header.rstrip():
        raise ValueError(
            f"{path}: lines end in a carriage return alone (old Macintosh). Convert them with `tr '\\r' '\\n'`"
        )
    words = header.split(None, 1)
    if not words:
        raise ValueError(f"{path}: record {len(seen) + 1} has no name: write one after '>'")
    name = words[0].decode("utf-8", errors="replace")
    if name in seen:
        raise ValueError(f"{path}: two records are named {name!r} (the first word after '>'). Rename one of them")
    seen.add(name)
    return name


class _Index:
    """PATH.fai, when there is one, to find out that the file was changed or cut short after it was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self.entries: list[tuple[str, int]] | None = None
        fai = path.with_name(path.name + ".fai")
        if len(os.fsencode(fai.name)) > _LONGEST_NAME or not fai.is_file():
            return
        self.entries = []
        for number, line in enumerate(fai.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            fields = line.split("\t")
            if len(fields) < 5 or not re.fullmatch("[0-9]{1,18}", fields[1]):
                raise ValueError(
                    f"{fai}: line {number} is not a FASTA index line. Run `samtools faidx {path}` again, or delete the index"
                )
            self.entries.append((fields[0], int(fields[1])))

    def compare(self, name: str, length: int) -> None:
        """The next record has this name and length."""
        if self.entries is None:
            return
        if self.at >= len(self.entries):
            raise self._stale(f"record {name!r} is not in the index")
        listed, bases = self.entries[self.at]
        if listed != name:
            raise self._stale(f"record {self.at + 1} is {name!r}, in the index {listed!r}")
        if bases != length:
            raise self._stale(f"record {name!r} has {length:,} bases, in the index {bases:,}")
        self.at += 1

    def done(self) -> None:
        """There are no more records."""
        if self.entries is not None and len(self.entries) > self.at:
            raise self._stale(f"the index also lists record {self.entries[self.at][0]!r}")

    def _stale(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path}: the file was changed after its index {self.path.name}.fai was made: {what}. Run `samtools faidx {self.path}` again, or delete the index"
        )
