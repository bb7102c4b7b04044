"""Order-k Markov model of nucleotides (or of the bytes of text), the baseline that a language model has to beat.

It is fitted in its strongest form: on both strands, with the order and the additive smoothing that are best on validation,
and where fewer than k bases are in sight (after N, at the start of a segment) with the longest order that fits. So it gives
every A, C, G and T a probability, exactly the targets that the neural models are scored on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PIECE = 1 << 18
"""Tokens counted or scored at a time, so that memory does not grow with the genome."""

SMOOTHINGS = np.concatenate([np.geomspace(1e-3, 100, 41), [1e3, 1e4]])
"""Pseudocounts per base that are tried."""

BASES, BYTES = 4, 256
"""Letters of nucleotides, and of text, which has no other strand."""

MOST_ORDER = {BASES: 12, BYTES: 2}
"""Longest context whose table of counts fits into memory."""

Pieces = Callable[[], Iterable[np.ndarray]]
"""Yields the stretches of letters (unsigned integers, 1-d) of one split; called once per order."""


@dataclass(frozen=True)
class Markov:
    """A fitted model.

    Attributes
    ----------
    order : int
        Bases of context, k.
    smoothing : float
        Pseudocount added to each letter at order k.
    tables : list of (counts, smoothing)
        For each order j = 0..k the counts of the (j+1)-mers (of bases on both strands), uint32 of shape (letters**j,
        letters), and their pseudocount.
    letters : int
        4 for bases, 256 for bytes.
    """

    order: int
    smoothing: float
    tables: list[tuple[np.ndarray, float]]
    letters: int = BASES

    def bits(self, tokens: np.ndarray) -> np.ndarray:
        """Bits, -log2 p(base | the k bases before it), of each token.

        Parameters
        ----------
        tokens : ndarray of uint8, shape (T,)
            Consecutive tokens; ids 0..3 are A, C, G, T, everything else breaks the context.

        Returns
        -------
        ndarray of float64, shape (T,)
            NaN where the token is not A, C, G or T.
        """
        bits = np.full(len(tokens), np.nan)
        for start in range(0, len(tokens), PIECE):
            before = min(start, self.order)
            piece = tokens[start - before : start + PIECE]
            depth = _depth(piece, self.order, self.letters)
            found = np.full(len(piece), np.nan)
            for j, (counts, smoothing) in enumerate(self.tables):
                here = np.flatnonzero(depth == j)
                if len(here):
                    n_word, n_context = _lookup(counts, _codes(piece, j, self.letters)[here - j])
                    found[here] = _bits(n_word, n_context, smoothing, self.letters)
            bits[start : start + PIECE] = found[before:]
        return bits


def count(pieces: Iterable[np.ndarray], order: int, letters: int = BASES) -> np.ndarray:
    """Counts of all (order+1)-mers: of A, C, G, T on both strands, of bytes on the one that there is.

    Returns
    -------
    ndarray of uint32, shape (letters**order, letters)
        Row: the context read as a number to the base of ``letters``, oldest letter first. Column: the next letter.
    """
    counts = np.zeros(letters ** (order + 1), np.uint32)
    for stretch in pieces:
        for start in range(0, len(stretch), PIECE):
            piece = np.asarray(stretch[max(0, start - order) : start + PIECE])
            codes = _codes(piece, order, letters)
            codes = codes[codes >= 0]
            if len(counts) < 1 << 20:
                counts += np.bincount(codes, minlength=len(counts)).astype(np.uint32)
            else:
                np.add.at(counts, codes, np.uint32(1))
    if letters != BASES:
        return counts.reshape(-1, letters)
    # The reverse complement of a word reverses the order of its axes and flips each of them (A=0 <-> T=3, C=1 <-> G=2).
    words = counts.reshape((4,) * (order + 1))
    both = words + words[(slice(None, None, -1),) * (order + 1)].transpose()
    return both.reshape(-1, 4)


def fit(
    train: Pieces, validation: Pieces, orders: Sequence[int], letters: int = BASES
) -> tuple[Markov, dict[int, dict[str, float]]]:
    """Fit every order and keep the one that is best on validation.

    Parameters
    ----------
    train, validation : callable
        Called without arguments, gives the stretches of letters of the split (each 1-d, consecutive letters).
    orders : sequence of int
        Orders to try, 0 to 12; of bytes those up to 2.
    letters : int
        4 for bases, 256 for bytes; larger ones in a stretch break the context.

    Returns
    -------
    model : Markov
        Best order and smoothing on validation.
    table : dict
        For each order tried: ``bits_per_base`` on validation and the ``smoothing`` that gave it.

    Raises
    ------
    ValueError
        When training or validation holds no A, C, G or T (no byte).
    """
    orders = sorted({min(order, MOST_ORDER[letters]) for order in orders})
    top = orders[-1]
    tables: list[tuple[np.ndarray, float]] = []
    lower_bits = {}  # sum of bits of the positions that see exactly j < top bases, each scored with its own order
    table: dict[int, dict[str, float]] = {}
    for order in range(top + 1):
        counts = count(train(), order, letters)
        if order == 0 and not counts.any():
            raise ValueError("markov: the training tokens hold no A, C, G or T")
        full, exact = _pairs(validation(), counts, order, top, letters)
        if not full[2].sum():
            if order == 0:
                raise ValueError("markov: the validation tokens hold no A, C, G or T")
            smoothing, full_bits = 1.0, 0.0
        else:
            smoothing, full_bits = _best_smoothing(full, letters)
        tables.append((counts, smoothing))
        if order in orders:
            n = int(full[2].sum()) + sum(n for n, _ in lower_bits.values())
            bits = full_bits + sum(b for _, b in lower_bits.values())
            table[order] = {"bits_per_base": bits / n, "smoothing": float(smoothing)}
        weights = exact[2]
        lower_bits[order] = (int(weights.sum()), float((_bits(exact[0], exact[1], smoothing, letters) * weights).sum()))
    best = min(table, key=lambda k: table[k]["bits_per_base"])
    model = Markov(best, table[best]["smoothing"], tables[: best + 1], letters)
    return model, table


def _codes(tokens: np.ndarray, order: int, letters: int) -> np.ndarray:
    """Numbers of the (order+1)-mers, int64 of shape (T - order,); -1 where a token is no letter."""
    n = len(tokens) - order
    if n <= 0:
        return np.empty(0, np.int64)
    codes = np.zeros(n, np.int64)
    good = np.ones(n, bool)
    for j in range(order + 1):
        column = tokens[j : j + n]
        codes = codes * letters + (column & (letters - 1))
        good &= column < letters
    codes[~good] = -1
    return codes


def _depth(tokens: np.ndarray, most: int, letters: int) -> np.ndarray:
    """Consecutive letters right before each token, at most ``most``; -1 where the token itself is none. int64, (T,)."""
    index = np.arange(len(tokens))
    breaks = np.maximum.accumulate(np.where(tokens < letters, -1, index)) if len(tokens) else index
    return np.where(tokens < letters, np.minimum(index - breaks - 1, most), -1)


def _lookup(counts: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the words and of their contexts, int64."""
    context, letter = np.divmod(codes, counts.shape[1])
    rows = counts[context]
    return np.take_along_axis(rows, letter[:, None], 1)[:, 0].astype(np.int64), rows.sum(1, dtype=np.int64)


def _bits(n_word: np.ndarray, n_context: np.ndarray, smoothing: float, letters: int) -> np.ndarray:
    """-log2 of (n_word + a) / (n_context + letters a)."""
    return np.log2(n_context + letters * smoothing) - np.log2(n_word + smoothing)


Counts = tuple[np.ndarray, np.ndarray, np.ndarray]


def _pairs(
    pieces: Iterable[np.ndarray], counts: np.ndarray, order: int, top: int, letters: int
) -> tuple[Counts, Counts]:
    """Distinct (word count, context count, how often) of the positions that see >= order bases, and of those that see exactly order."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for stretch in pieces:
        for start in range(0, len(stretch), PIECE):
            before = min(start, top)
            piece = np.asarray(stretch[start - before : start + PIECE])
            depth = _depth(piece, top, letters)
            depth[:before] = -1
            codes = _codes(piece, order, letters)
            for into, here in zip(found, (depth >= order, depth == order), strict=True):
                into.append(_merge(_lookup(counts, codes[np.flatnonzero(here) - order])))
    return _join(found[0]), _join(found[1])


def _merge(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Distinct rows (word count, context count) with how often each occurs, int64 of shape (rows, 3)."""
    keys, times = np.unique((pair[1] << 32) | pair[0], return_counts=True)
    return np.stack([keys & 0xFFFFFFFF, keys >> 32, times], 1)


def _join(parts: list[np.ndarray]) -> Counts:
    rows = np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)
    return rows[:, 0], rows[:, 1], rows[:, 2]


def _best_smoothing(pairs: Counts, letters: int) -> tuple[float, float]:
    """The pseudocount with the fewest bits, refined between the neighbours of the best of the grid; and those bits."""
    n_word, n_context, times = pairs

    def total(smoothing: float) -> float:
        return float((_bits(n_word, n_context, smoothing, letters) * times).sum())

    scores = [total(a) for a in SMOOTHINGS]
    best = int(np.argmin(scores))
    low, high = SMOOTHINGS[max(best - 1, 0)], SMOOTHINGS[min(best + 1, len(SMOOTHINGS) - 1)]
    finer = [*np.geomspace(low, high, 17), SMOOTHINGS[best]]
    scores = [total(a) for a in finer]
    best = int(np.argmin(scores))
    return float(finer[best]), scores[best]
