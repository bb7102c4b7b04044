"""The token store: a folder that holds what a run reads, and where each token came from.

``tokenize`` (module ``writer``) writes it, module ``folder`` names its files; here is what reads it. Opening one costs
milliseconds and no memory to speak of, however large it is: tokens and places are memory-mapped, the index is read
in pieces when it is asked for.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from titans_genomics.data.folder import FILES, FORMAT, INDEX, MANIFEST, PLACES, SHARDS, TOKENIZER
from titans_genomics.data.gather import gather, gather_mask
from titans_genomics.data.shard import TOKENS, Shard, load_array, shard_path
from titans_genomics.data.splits import SPLITS
from titans_genomics.data.tokenizers import Tokenizer, load_tokenizer
from titans_genomics.data.writer import tokenize

if TYPE_CHECKING:
    import pyarrow.parquet

_PIECE = 1 << 22  # tokens looked at together

__all__ = ["Locus", "Run", "Segment", "SegmentIndex", "TokenStore", "tokenize"]


class Segment(NamedTuple):
    """A stretch of one contig, or a read, in one split.

    ``start`` and ``end`` are positions in the record (contig, or read as stored), 0-based half-open; ``length`` is that
    in tokens. ``contig``, ``aligned_start``, ``aligned_end`` (0-based half-open) and ``mapq`` say where an aligned read
    lies, else they are None. Behind a ``joined`` segment there is no EOS.
    """

    source: str
    record: str
    start: int
    end: int
    strand: str
    split: str
    length: int
    joined: bool
    contig: str | None
    aligned_start: int | None
    aligned_end: int | None
    mapq: int | None


class SegmentIndex(Sequence[Segment]):
    """The rows of index.parquet, read a group of rows at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group: tuple[int, Any] = (-1, None)  # number and rows of the group that was read last

    @cached_property
    def _file(self) -> pyarrow.parquet.ParquetFile:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, memory_map=True)

    @cached_property
    def _firsts(self) -> np.ndarray:
        meta = self._file.metadata
        return np.cumsum([0, *(meta.row_group(g).num_rows for g in range(meta.num_row_groups))])

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __getitem__(self, i: int) -> Segment:  # type: ignore[override]
        if not 0 <= i < len(self):
            raise IndexError(i)
        group = int(np.searchsorted(self._firsts, i, side="right")) - 1
        if self._group[0] != group:
            self._group = (group, self._file.read_row_group(group))
        (row,) = self._group[1].slice(i - int(self._firsts[group]), 1).to_pylist()
        return Segment(**row)

    def __iter__(self) -> Iterator[Segment]:
        for group in range(self._file.metadata.num_row_groups):
            for row in self._file.read_row_group(group).to_pylist():
                yield Segment(**row)


class Locus(NamedTuple):
    """Where a token came from; ``position`` counts bases from 0 within the record, ``bases`` is how many it stands for."""

    source: str
    record: str
    position: int
    bases: int
    strand: str


class Run:
    """All tokens of one source and split, segment after segment, EOS between them: what windows are cut from.

    Attributes
    ----------
    source, split : str
    segments : range
        Its rows of the index.
    places : numpy.ndarray
        int64, (segments, 4): offset in the shard's tokens, length, place in the run, joined; memory-mapped.
    """

    def __init__(self, store: TokenStore, source: str, split: str, first: int, last: int, tokens: int) -> None:
        self.store, self.source, self.split, self._tokens = store, source, split, tokens
        self.segments = range(first, last)
        self.places = store.places[first:last]

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, places: slice) -> np.ndarray:
        start, stop, step = places.indices(len(self))
        return self.read(start, max(start, stop))[::step]

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens from each of ``starts`` (int64, (n,)) on: shape (n, length), of the store's dtype."""
        starts = self._checked(starts, length)
        out = np.empty((len(starts), length), dtype=self.store.tokenizer.dtype)
        gather(self.store.tokens(self.source), self.places, self.store.tokenizer.eos, starts, out)
        return out

    def soft_masked(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Which tokens of the same windows are soft-masked: bool, shape (n, length). One base per token only."""
        if self.store.tokenizer.kind != "nucleotide":
            raise ValueError(
                f"{self.store.path}: soft-masking is known per base; its tokens are {self.store.tokenizer.kind}"
            )
        starts = self._checked(starts, length)
        out = np.empty((len(starts), length), dtype=bool)
        gather_mask(self.store.shard(self.source).softmask, self.places, starts, out)
        return out

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens ``start`` to ``stop`` of the run: shape (stop - start,)."""
        return self.windows(np.array([start]), stop - start)[0]

    def pieces(self, size: int = 1 << 22) -> Iterator[np.ndarray]:
        """The whole run, ``size`` tokens at a time."""
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))

    def segment_at(self, place: int) -> tuple[Segment, int]:
        """The segment that holds a token (or whose EOS it is), and the token's number within it."""
        if not 0 <= place < len(self):
            raise IndexError(f"token {place} of {len(self)}")
        own = bisect(self.places, place, key=lambda row: row[2]) - 1
        return self.store.index[self.segments[own]], place - int(self.places[own, 2])

    def locate(self, place: int) -> Locus:
        """Where a token came from. EOS stands for no base, at the position after its segment.

        For a read the position is that in the read as stored; its strand is that of its alignment.
        """
        segment, number = self.segment_at(place)
        if number == segment.length:
            return Locus(segment.source, segment.record, segment.end, 0, segment.strand)
        tokenizer = self.store.tokenizer
        before = number
        if not tokenizer.one_base:
            first = place - number
            pieces = range(first, place, _PIECE)
            before = sum(int(tokenizer.bases[self.read(at, min(at + _PIECE, place))].sum()) for at in pieces)
        bases = int(tokenizer.bases[self.read(place, place + 1)[0]])
        return Locus(segment.source, segment.record, segment.start + before, bases, segment.strand)

    def _checked(self, starts: np.ndarray, length: int) -> np.ndarray:
        starts = np.ascontiguousarray(starts, dtype=np.int64)
        if len(starts) and not (starts.min() >= 0 and starts.max() + length <= len(self)):
            raise IndexError(f"window of {length} tokens outside the {len(self)} of the run")
        return starts


class TokenStore:
    """A token store on disk, opened for reading.

    Parameters
    ----------
    path
        The folder written by ``tokenize``.

    Attributes
    ----------
    manifest : dict
        The contents of manifest.json.
    places : numpy.ndarray
        int64, shape (segments, 4), memory-mapped; see `Run`.

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
        if (self.path / "tokens.bin").is_file():
            raise ValueError(
                f"{self.path}: token store of format 1, this version reads {FORMAT}. Run `titans-genomics tokenize` again"
            )
        absent = [name for name in FILES if not (self.path / name).is_file()]
        if absent:
            raise ValueError(
                f"{self.path}: not a whole token store ({', '.join(absent)} missing). Run `titans-genomics tokenize` again"
            )
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            form, sizes = self.manifest["format"], self.manifest["files"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path / MANIFEST}: damaged. Run `titans-genomics tokenize` again") from None
        if form != FORMAT:
            raise ValueError(
                f"{self.path}: token store of format {form}, this version reads {FORMAT}. Run `titans-genomics tokenize` again"
            )
        for name, size in sizes.items():
            own = self.path / name
            found = own.stat().st_size if own.is_file() else 0
            if found != size:
                raise ValueError(
                    f"{own}: {found:,} bytes, the manifest says {size:,}: cut short or changed. Run `titans-genomics tokenize` again"
                )
        self._shards: dict[str, Shard] = {}
        self._tokens: dict[str, np.ndarray] = {}

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        return TokenStore, (self.path,)  # data loader workers open the files again instead of copying the tokens

    @cached_property
    def places(self) -> np.ndarray:
        """See the class."""
        return load_array(self.path / PLACES)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What a token is."""
        return load_tokenizer(self.path / TOKENIZER)

    @cached_property
    def index(self) -> SegmentIndex:
        """The segments, in the order of their runs."""
        return SegmentIndex(self.path / INDEX)

    def shard(self, source: str) -> Shard:
        """The base layer of a source."""
        if source not in self._shards:
            self._shards[source] = Shard(self.path / SHARDS, source)
        return self._shards[source]

    def tokens(self, source: str) -> np.ndarray:
        """All tokens of a source as they lie on disk, memory-mapped; ``places`` says what they are."""
        if source not in self._tokens:
            if self.tokenizer.plain:
                self._tokens[source] = self.shard(source).codes
            else:
                path = shard_path(self.path / SHARDS, source, TOKENS)
                empty = path.stat().st_size == 0
                self._tokens[source] = (
                    np.zeros(0, self.tokenizer.dtype) if empty else np.memmap(path, self.tokenizer.dtype, mode="r")
                )
        return self._tokens[source]

    @property
    def sha256(self) -> str:
        """Checksum of the inputs, the settings and the index; models keep it to say what they were trained on."""
        return self.manifest["sha256"]

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in the order of the config."""
        return [source["name"] for source in self.manifest["sources"]]

    def weight(self, source: str) -> float:
        """The weight of a source among the training windows."""
        return next(entry["weight"] for entry in self.manifest["sources"] if entry["name"] == source)

    def runs(self, split: str, source: str | None = None) -> list[Run]:
        """The run of ``split`` (``train``, ``validation``, ``test``) in each source that has one."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: one of {', '.join(SPLITS)}")
        if source is not None and source not in self.sources:
            raise ValueError(f"{self.path}: no source {source!r}; there are {', '.join(self.sources)}")
        return [
            Run(self, **entry)
            for entry in self.manifest["runs"]
            if entry["split"] == split and source in (None, entry["source"])
        ]

    def documents(self, split: str, source: str) -> Iterator[np.ndarray]:
        """The segments of a run one by one, as tokens; joined ones separately."""
        for run in self.runs(split, source):
            for _, length, place, _ in run.places:
                yield run.read(int(place), int(place + length))
