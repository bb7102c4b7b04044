"""Needles and the sequence they are planted in: a random motif with a random payload behind it, within real bases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.store import Run, TokenStore


class Background:
    """The bases of one source and split as one endless sequence: first one strand, then the other, then again.

    Stretches of the source (contigs, blocks, reads) follow one another without EOS between them, so that L bases are L tokens.

    Attributes
    ----------
    source, split : str
    bases : int
        Bases of one strand: a stretch that is longer repeats itself, on the other strand first.

    Raises
    ------
    ValueError
        When a token is not a base, or the source has nothing in that split.
    """

    def __init__(self, store: TokenStore, split: str, source: str | None = None) -> None:
        kind = store.tokenizer.kind
        if kind != "nucleotide":
            raise ValueError(
                f"{store.path}: its tokens are {kind}, and a needle is planted and asked base by base (other tokens would shift "
                "with its place). Set data.tokenizer.kind to nucleotide, or empty needle.lengths"
            )
        runs = [run for run in store.runs(split, source) if len(run)]
        if not runs:
            where = f"source {source!r} has no {split} split" if source else f"the {split} split is empty"
            raise ValueError(f"{store.path}: {where}, where needles would be planted. Raise data.split.{split}")
        self.run: Run = runs[0]
        self.source, self.split, self._eos = self.run.source, split, store.tokenizer.eos
        self._places = np.asarray(self.run.places[:, 2])
        self._firsts = np.cumsum([0, *self.run.places[:, 1]])  # the first base of each segment, and the end
        self.bases = int(self._firsts[-1])

    def read(self, start: int, count: int) -> np.ndarray:
        """``count`` bases from ``start`` (any number from 0 on) as codes, uint8, shape (count,)."""
        parts = []
        while count > 0:
            turn, place = divmod(start, self.bases)
            size = min(count, self.bases - place)
            if turn % 2:
                parts.append(reverse_complement(self._forward(self.bases - place - size, size)))
            else:
                parts.append(self._forward(place, size))
            start, count = start + size, count - size
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)

    def blocks(self) -> Iterator[np.ndarray]:
        """The stretches of the source one by one, joined ones as one, as codes."""
        parts = []
        for _, length, place, joined in self.run.places.tolist():
            parts.append(self.run.read(place, place + length))
            if not joined:
                yield np.concatenate(parts)
                parts = []
        if parts:
            yield np.concatenate(parts)

    def _forward(self, start: int, count: int) -> np.ndarray:
        tokens = self.run.read(self._token(start), self._token(start + count - 1) + 1)
        return tokens[tokens != self._eos]

    def _token(self, base: int) -> int:
        """The place in the run of a base."""
        segment = int(np.searchsorted(self._firsts, base, side="right")) - 1
        return int(self._places[segment]) + base - int(self._firsts[segment])


@dataclass(frozen=True)
class Needles:
    """What is planted in several stretches, and what is asked that was never planted.

    Attributes
    ----------
    places : numpy.ndarray
        int64, (depths,): the first base of each needle, the same in every stretch.
    motifs, payloads : numpy.ndarray
        uint8 codes, (stretches, 2 depths, bases): the first half is planted, the second half are the controls of the first.
    """

    places: np.ndarray
    motifs: np.ndarray
    payloads: np.ndarray

    @property
    def size(self) -> int:
        """Bases of a needle."""
        return self.motifs.shape[2] + self.payloads.shape[2]

    def plant(self, window: np.ndarray, start: int, rows: slice) -> None:
        """Write into ``window`` (stretches, T), the bases from ``start`` on of the stretches ``rows``, what stands there of needles."""
        stop = start + window.shape[1]
        whole = np.concatenate([self.motifs[rows], self.payloads[rows]], axis=2)
        for number, place in enumerate(self.places.tolist()):
            first, last = max(start, place), min(stop, place + self.size)
            if first < last:
                window[:, first - start : last - start] = whole[:, number, first - place : last - place]


def draw_needles(rng: np.random.Generator, places: np.ndarray, stretches: int, motif: int, payload: int) -> Needles:
    """Needles and as many controls for each stretch; no motif of a stretch stands there twice.

    Raises ValueError when there are too few motifs of that length.
    """
    count = 2 * len(places)
    if 4**motif < 2 * count:
        raise ValueError(
            f"needle.motif: there are {4**motif} motifs of {motif} bases, too few for {len(places)} depths and their controls; take a longer one"
        )
    motifs = rng.integers(0, 4, (stretches, count, motif), dtype=np.uint8)
    for own in motifs:
        while len(first := np.unique(own, axis=0, return_index=True)[1]) < count:
            again = np.setdiff1d(np.arange(count), first)
            own[again] = rng.integers(0, 4, (len(again), motif), dtype=np.uint8)
    return Needles(places, motifs, rng.integers(0, 4, (stretches, count, payload), dtype=np.uint8))
