"""Windows of tokens for training and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from titans_genomics.data.store import Run, TokenStore


MASKED = 1 << 32
"""Added to soft-masked tokens of training windows when the loss weighs them otherwise."""


class TrainWindows(Dataset[torch.Tensor]):
    """Training windows at random places, or tile by tile; item i is a function of (seed, i) alone.

    With ``carry`` = n, items n j ... n j + n - 1 follow one another: they are the parts of one long stretch.

    A source is drawn with probability proportional to its weight times its training tokens to the power 1 /
    temperature, then a start anywhere in its run, then the strand. Windows may span the end of a segment (an EOS token
    stands there). When they are ``tiled``, every run is cut into windows side by side, from another first token in every
    epoch, and an epoch is all of them once in a random order, whatever their sources weigh. Because items do not depend on what was drawn before, a resumed run goes on with item number
    ``steps done x batch size``, for any number of workers and ranks.

    Parameters
    ----------
    store
        An open token store.
    context
        Tokens that the model reads; items are one longer, so that every one of them has a next token.
    seed
        Seed of places and strands.
    reverse_complement
        Probability that a window is turned to the other strand.
    count
        Length of the dataset, windows. Any number will do: windows are drawn with replacement.
    carry
        Windows that follow one another.
    temperature
        Above 1 small sources are drawn more often than their size asks for.
    mark_soft_masked
        Add `MASKED` to soft-masked tokens.
    tiled
        Tile by tile.

    Raises
    ------
    ValueError
        No training run is as long as one window, or as ``carry`` windows; soft-masked tokens are to be marked and a
        token is not a base.
    """

    def __init__(
        self,
        store: TokenStore,
        context: int,
        seed: int,
        reverse_complement: float = 0.0,
        count: int = 2**40,
        carry: int = 1,
        temperature: float = 1.0,
        mark_soft_masked: bool = False,
        tiled: bool = False,
    ) -> None:
        self.store, self.context, self.seed, self.count = store, context, seed, count
        self.reverse_complement, self.mark_soft_masked = reverse_complement, mark_soft_masked
        self.carry, self.stretch = carry, carry * context
        self.runs = _fitting(store, "train", self.stretch)
        if reverse_complement and carry > 1 and store.tokenizer.kind == "bpe":
            raise ValueError(
                f"{store.path}: bpe cuts the other strand elsewhere, so that windows do not follow one another there: set train.reverse_complement to 0, or train.carry to 1"
            )
        if reverse_complement and store.tokenizer.text:
            raise ValueError(f"{store.path}: text has no other strand. Set train.reverse_complement to 0")
        if mark_soft_masked and store.tokenizer.kind != "nucleotide":
            raise ValueError(
                f"train.soft_mask_weight needs one token per base, {store.path} has {store.tokenizer.kind} tokens. Set it to 1"
            )
        weights = np.array([store.weight(run.source) * len(run) ** (1 / temperature) for run in self.runs])
        self._cumulative = np.cumsum(weights) / weights.sum()
        self.tiled = tiled
        self._tiles = np.cumsum([0, *((len(run) - 1) // self.stretch for run in self.runs)])
        self._epoch, self._order, self._shifts = -1, np.zeros(0, dtype=np.int64), [0]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> torch.Tensor:
        """Window ``i``: int64, shape (context + 1,)."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, i // self.carry]))
        which, turn = rng.random(2)
        if self.tiled:
            run, start = self._tile(i // self.carry)
        else:
            run = self.runs[int(np.searchsorted(self._cumulative[:-1], which, side="right"))]
            start = int(rng.integers(0, len(run) - self.stretch))
        turned, part = turn < self.reverse_complement, i % self.carry
        start += self.context * (self.carry - 1 - part if turned else part)
        size = self.context + 1
        window = (_turned(run, start, size) if turned else run.read(start, start + size)).astype(np.int64)
        if self.mark_soft_masked:
            masked = run.soft_masked(np.array([start]), size)[0]
            window[masked[::-1] if turned else masked] += MASKED
        return torch.from_numpy(window)

    def _tile(self, number: int) -> tuple[Run, int]:
        """Run and first token of a tile; tiles are numbered through all epochs."""
        epoch, place = divmod(number, int(self._tiles[-1]))
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._order = rng.permutation(int(self._tiles[-1]))
            self._shifts = [int(rng.integers((len(run) - 1) % self.stretch + 1)) for run in self.runs]
            self._epoch = epoch
        tile = int(self._order[place])
        which = int(np.searchsorted(self._tiles, tile, side="right")) - 1
        return self.runs[which], self._shifts[which] + (tile - int(self._tiles[which])) * self.stretch


def _turned(run: Run, start: int, size: int) -> np.ndarray:
    """The other strand of a window of ``size`` tokens: exactly so many, also where turning changes their number."""
    tokenizer = run.store.tokenizer
    before = min(tokenizer.context, start)
    window = run.read(start - before, start + size)
    missing = np.full(tokenizer.context - before, tokenizer.pad, dtype=window.dtype)
    turned = tokenizer.turned(np.concatenate([missing, window]))
    more = size
    while len(turned) < size and start + more < len(run):  # pieces of another strand are cut elsewhere
        more = min(more + size // 8 + 8, len(run) - start)
        turned = tokenizer.turned(run.read(start, start + more))
    return turned[:size] if len(turned) >= size else window[-size:]


class HeldOutWindows(Dataset[torch.Tensor]):
    """At most ``count`` windows spread evenly over a held-out split; always the same ones.

    Evenly spaced, they overlap only where the split is short for ``count`` of them. Sources of weight 0 are left out unless ``source`` names one.

    Parameters
    ----------
    store
        An open token store.
    split
        ``validation``, ``test`` or ``train``.
    context
        Tokens that the model reads; items are int64, shape (context + 1,).
    count
        Most windows.
    source
        Only this source; default: all.

    Raises
    ------
    ValueError
        No run of the split is as long as one window.
    """

    def __init__(self, store: TokenStore, split: str, context: int, count: int, source: str | None = None) -> None:
        self.store, self.context = store, context
        self.runs = _fitting(store, split, context, source)
        places = np.array([len(run) - context for run in self.runs])
        ends = np.cumsum(places)
        total = int(ends[-1])
        size = min(count, total)
        picks = np.arange(size) * (total - 1) // max(size - 1, 1)
        which = np.searchsorted(ends, picks, side="right")
        self.which = which
        self.starts: np.ndarray = picks - (ends - places)[which]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> torch.Tensor:
        """Window ``i``: int64, shape (context + 1,)."""
        start = int(self.starts[i])
        window = self.runs[int(self.which[i])].read(start, start + self.context + 1)
        return torch.from_numpy(window.astype(np.int64))


def _fitting(store: TokenStore, split: str, context: int, source: str | None = None) -> list[Run]:
    """The runs of a split with room for one window. Raises ValueError without any."""
    runs = store.runs(split, source)
    if source is None:
        runs = [run for run in runs if store.weight(run.source) > 0]
    if not runs:
        raise ValueError(
            f"{store.path}: the {split} split is empty. Raise data.split.{split} or add sequence"
            if split != "train"
            else f"{store.path}: nothing to train on"
        )
    fitting = [run for run in runs if len(run) > context]
    if not fitting:
        longest = max(len(run) for run in runs)
        raise ValueError(
            f"{store.path}: the {split} split has at most {longest:,} tokens side by side, a window needs {context + 1:,} (train.context x train.carry, and one). Lower train.context to {longest - 1} or less, or add sequence"
        )
    return fitting
