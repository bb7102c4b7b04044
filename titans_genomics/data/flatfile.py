"""GenBank and EMBL flat files, through Biopython."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.bgzf import Block, read_blocks
from titans_genomics.data.letters import letters_batch

if TYPE_CHECKING:
    from Bio.SeqRecord import SeqRecord

# Beginnings of the Biopython warnings that mean that bases are missing.
_LOSSES = ("Premature end of file", "Expected sequence length")
_WARNINGS = threading.Lock()  # what is done with warnings is one setting for all threads


class _Format(NamedTuple):
    name: str
    scanner: str  # in Bio.GenBank.Scanner
    first: str  # what the first line of a record begins with
    protein: re.Pattern[str]  # first lines of proteins, whose length is in amino acids
    whole: str  # how the record is had with its sequence


_FORMATS = {
    "genbank": _Format("GenBank", "GenBankScanner", "LOCUS ", re.compile(r"\d aa "), "GenBank (full)"),
    "embl": _Format("EMBL", "EmblScanner", "ID   ", re.compile(r" AA\.?\s*$", re.IGNORECASE), "EMBL, with sequence"),
}


def read_genbank(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The records of a GenBank file (plain or gzip), named by accession and version (LOCUS name without).

    One record is in memory at a time. Features are not looked at.

    Raises
    ------
    ValueError
        Damaged file, record without sequence or of protein, two records of one name, sequence of another length
        than the record's first line says, a letter that is no nucleotide.
    """
    return _read(source, data, seed, advance, "genbank")


def read_embl(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The records of an EMBL file; all else as `read_genbank`."""
    return _read(source, data, seed, advance, "embl")


def _read(
    source: SourceConfig, data: DataConfig, seed: int, advance: Advance, kind: Literal["genbank", "embl"]
) -> Iterator[Batch]:
    from Bio.GenBank import Scanner
    from Bio.Seq import UndefinedSequenceError

    path, form = source.path, _FORMATS[kind]
    remedy = f"Download the record again with its sequence ({form.whole}), or use FASTA"
    seen: set[str] = set()
    stream = _Stream(read_blocks(path))
    lines = _Lines(io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", errors="replace"), form.first)
    # Features are passed over: a fault in them is none of the sequence.
    records = getattr(Scanner, form.scanner)().parse_records(lines, do_features=False)
    while True:
        try:
            record = _next(records)
        except Exception as error:  # a parser meets damage with whatever exception comes first
            if error is stream.error:
                raise
            why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise ValueError(f"{path}: not valid {form.name}, {lines.where}: {why}. {remedy}") from None
        if lines.ends > (record is not None) or (record is None and lines.open):
            raise ValueError(
                f"{path}: not valid {form.name}: what stands in front of line {lines.number} is no record that begins with {form.first.strip()}, or only a part of one. {remedy}"
            )
        if record is None:
            break
        name = record.id if record.id not in ("", ".", "<unknown id>") else record.name
        if form.protein.search(lines.first) or "protein" in str(record.annotations.get("molecule_type", "")).lower():
            raise ValueError(f"{path}: record {name!r} is a protein; nucleotide records are needed")
        if name in seen:
            raise ValueError(f"{path}: two records are named {name!r}. Remove or rename one of them")
        seen.add(name)
        try:
            letters = bytes(record.seq)
        except UndefinedSequenceError:
            raise ValueError(f"{path}: record {name!r} has no sequence{_instead(record)}. {remedy}") from None
        batch = letters_batch(source, data, seed, name, letters)
        if len(batch.codes) < len(letters):
            raise ValueError(f"{path}: record {name!r} has tabs or other white space in its sequence. {remedy}")
        yield batch
        advance(stream.share)
        lines.ends, lines.open = 0, False
    if not seen:
        raise ValueError(f"{path}: no {form.name} record in the file")


def _next(records: Iterator[SeqRecord]) -> SeqRecord | None:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Biopython also remarks on what does not touch the sequence
        for loss in _LOSSES:
            warnings.filterwarnings("error", message=loss)
        return next(records, None)


def _instead(record: SeqRecord) -> str:
    """What a record without sequence has instead of it."""
    if "contig" in record.annotations:
        return ", only a CONTIG line that names the records that it is put together from"
    if {"wgs", "tsa", "tls"} & record.annotations.keys():
        return ", it only lists the records of a project"
    return ""


class _Stream(io.RawIOBase):
    """Blocks of a file as a stream; ``share`` is the part of the file read so far, ``error`` what ended the blocks early."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")
        self.share = 0.0
        self.error: ValueError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:
        if not self._block:
            try:
                block, self.share = next(self._blocks, (None, 1.0))
            except ValueError as error:
                self.error = error
                raise
            self._block = memoryview(b"" if block is None else block)
        count = min(len(into), len(self._block))
        into[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


class _Lines:
    """The lines of a flat file; keeps account of where the parser is and of records that it passed over.

    Attributes
    ----------
    number
        Lines read so far.
    first
        The last line read that begins a record.
    ends
        Ends of records ('//' after anything else) since this was set to 0.
    open
        Whether anything stands behind the last end.
    """

    def __init__(self, handle: io.TextIOWrapper, first: str) -> None:
        self._handle, self._first = handle, first
        self.number = self.ends = 0
        self.first = ""
        self.open = False

    @property
    def where(self) -> str:
        words = self.first.split()
        record = f"record {words[1].rstrip(';')!r}, " if len(words) > 1 else ""
        return f"{record}line {self.number}"

    def readline(self) -> str:
        line = self._handle.readline()
        self.number += 1
        if line.startswith(self._first):
            self.first = line
        text = line.rstrip()
        if text == "//":
            self.ends += self.open
            self.open = False
        elif text:
            self.open = True
        return line
