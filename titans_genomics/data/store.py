"""The token store: a folder that holds every base of a run's sources as one byte, and where each came from.

    tokens.bin      uint8; the segments of one source and split lie side by side, an EOS token after each
    index.tsv       one line per segment: where it came from (0-based half-open) and where its tokens are
    softmask.npy    int64 (intervals, 2): soft-masked stretches in token coordinates, sorted
    manifest.json   config, versions, checksums and counts; its presence says that the store is whole

``tokenize`` (module ``writer``) writes it; here is what reads it.
"""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_genomics.data.folder import COLUMNS, FILES, FORMAT, INDEX, MANIFEST, SOFTMASK, TOKENS
from titans_genomics.data.splits import SPLITS
from titans_genomics.data.writer import tokenize

__all__ = ["Locus", "Run", "Segment", "SegmentIndex", "TokenStore", "tokenize"]


class Segment(NamedTuple):
    """A stretch of one contig, or a read, in one split.

    ``start`` and ``end`` are positions in the record (contig, or read as sequenced), 0-based half-open; its tokens
    are ``tokens[offset : offset + length]``, and EOS stands at ``offset + length``. ``aligned`` is the locus
    (``contig:start-end``) of an aligned read, else None, ``mapq`` its mapping quality.
    """

    source: str
    record: str
    start: int
    end: int
    strand: str
    split: str
    offset: int
    length: int
    aligned: str | None
    mapq: int | None


class SegmentIndex(Sequence[Segment]):
    """The lines of index.tsv in token order, kept as columns so that millions of reads fit in memory."""

    def __init__(self, path: Path) -> None:
        self.sources: list[str] = []
        self.records: list[str] = []
        self.aligned: list[str | None] = []
        numbers = {name: array("q") for name in ("source", "start", "split", "offset", "length", "minus", "mapq")}
        known: dict[str, int] = {}
        with path.open(newline="", encoding="utf-8") as handle:
            lines = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tuple(next(lines, ())) != COLUMNS:
                raise ValueError(f"{path}: not the index of a token store of this version. Tokenise again")
            for source, record, start, _end, strand, split, offset, length, aligned, mapq in lines:
                if source not in known:
                    known[source] = len(known)
                    self.sources.append(source)
                self.records.append(record)
                self.aligned.append(None if aligned == "." else aligned)
                row = (
                    known[source],
                    int(start),
                    SPLITS.index(split),
                    int(offset),
                    int(length),
                    strand == "-",
                    -1 if mapq == "." else int(mapq),
                )
                for column, value in zip(numbers.values(), row, strict=True):
                    column.append(value)
        columns = {
            name: np.frombuffer(column, dtype=np.int64) if column else np.zeros(0, np.int64)
            for name, column in numbers.items()
        }
        self.source, self.start, self.split = columns["source"], columns["start"], columns["split"]
        self.offset, self.length, self.minus, self.mapq = (
            columns["offset"],
            columns["length"],
            columns["minus"],
            columns["mapq"],
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Segment:  # type: ignore[override]
        start, length, mapq = int(self.start[i]), int(self.length[i]), int(self.mapq[i])
        return Segment(
            source=self.sources[self.source[i]],
            record=self.records[i],
            start=start,
            end=start + length,
            strand="-" if self.minus[i] else "+",
            split=SPLITS[self.split[i]],
            offset=int(self.offset[i]),
            length=length,
            aligned=self.aligned[i],
            mapq=None if mapq < 0 else mapq,
        )

    def __iter__(self) -> Iterator[Segment]:
        return (self[i] for i in range(len(self)))


class Run(NamedTuple):
    """All tokens of one source and split: ``tokens[start:stop]``, EOS after every segment included."""

    source: str
    start: int
    stop: int


class Locus(NamedTuple):
    """Where a token came from; ``position`` counts from 0 within the record."""

    source: str
    record: str
    position: int
    strand: str


class TokenStore:
    """A token store on disk, opened for reading.

    Parameters
    ----------
    path
        The folder written by ``tokenize``.

    Attributes
    ----------
    tokens : numpy.memmap
        uint8, shape (tokens,), read-only; offsets into it are int64.
    manifest : dict
        The contents of manifest.json.

    Raises
    ------
    FileNotFoundError
        No such folder.
    ValueError
        The folder is not a whole token store of this version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: no token store there. Run `titans-genomics tokenize` first")
        absent = [name for name in FILES if not (self.path / name).is_file()]
        if absent:
            raise ValueError(
                f"{self.path}: not a whole token store ({', '.join(absent)} missing). Run `titans-genomics tokenize` again"
            )
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            form, size = self.manifest["format"], self.manifest["tokens"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{self.path / MANIFEST}: damaged. Run `titans-genomics tokenize` again") from None
        if form != FORMAT:
            raise ValueError(
                f"{self.path}: token store of format {form}, this version reads {FORMAT}. Run `titans-genomics tokenize` again"
            )
        found = (self.path / TOKENS).stat().st_size
        if found != size:
            raise ValueError(
                f"{self.path / TOKENS}: {found:,} bytes, the manifest says {size:,}. Run `titans-genomics tokenize` again"
            )
        self.tokens: np.memmap = np.memmap(self.path / TOKENS, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.tokens)

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        return TokenStore, (self.path,)  # data loader workers open the files again instead of copying the tokens

    @cached_property
    def index(self) -> SegmentIndex:
        """The segments in token order."""
        return SegmentIndex(self.path / INDEX)

    @cached_property
    def softmask(self) -> np.ndarray:
        """Soft-masked stretches: int64, shape (intervals, 2), token coordinates, sorted, half-open."""
        return np.load(self.path / SOFTMASK, mmap_mode="r")

    @property
    def sha256(self) -> str:
        """Checksum of the tokens and the index; models keep it to say what they were trained on."""
        return self.manifest["sha256"]

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in the order of the config."""
        return [source["name"] for source in self.manifest["sources"]]

    def weight(self, source: str) -> float:
        """The weight of a source among the training windows."""
        return next(entry["weight"] for entry in self.manifest["sources"] if entry["name"] == source)

    def runs(self, split: str, source: str | None = None) -> list[Run]:
        """The contiguous token range of ``split`` (``train``, ``validation``, ``test``) in each source that has one."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: one of {', '.join(SPLITS)}")
        if source is not None and source not in self.sources:
            raise ValueError(f"{self.path}: no source {source!r}; there are {', '.join(self.sources)}")
        return [
            Run(run["source"], run["start"], run["stop"])
            for run in self.manifest["runs"]
            if run["split"] == split and source in (None, run["source"])
        ]

    def segment_at(self, token_offset: int) -> Segment:
        """The segment that holds a token (or whose EOS it is). Raises IndexError outside the store."""
        if not 0 <= token_offset < len(self):
            raise IndexError(f"token {token_offset} of {len(self)}")
        return self.index[int(np.searchsorted(self.index.offset, token_offset, side="right")) - 1]

    def locate(self, token_offset: int) -> Locus:
        """Where a token came from: source, record, 0-based position in the record, strand.

        For a read the position is that in the read as sequenced; its strand is that of its alignment
        (``segment_at`` also gives the aligned locus). The EOS token gets the position after its segment.
        """
        segment = self.segment_at(token_offset)
        return Locus(segment.source, segment.record, segment.start + token_offset - segment.offset, segment.strand)

    def soft_masked(self, start: int, stop: int) -> np.ndarray:
        """Which of ``tokens[start:stop]`` are soft-masked: bool, shape (stop - start,)."""
        mask = np.zeros(stop - start, dtype=bool)
        first = int(np.searchsorted(self.softmask[:, 1], start, side="right"))
        for low, high in self.softmask[first:]:
            if low >= stop:
                break
            mask[max(low - start, 0) : high - start] = True
        return mask
