"""Which part of a source trains and which is held out. Seeded; nothing is ever split by overlapping windows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from titans_genomics.config import SplitConfig

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


_PIECE = 1 << 14  # units looked at together


def assign(lengths: ArrayLike, order: ArrayLike, validation: float, test: float) -> np.ndarray:
    """Give units (blocks, contigs, molecules) to splits so that the shares of bases come as near as they can.

    Units are looked at in ``order``; each goes to the held-out split that is furthest from its share, if that
    brings the split nearer to it, else to train. With three units or more, no split of a share above 0 stays empty.

    Parameters
    ----------
    lengths, order
        int, shape (units,).

    Returns
    -------
    numpy.ndarray
        int8, shape (units,): 0 train, 1 validation, 2 test.
    """
    lengths, order = np.asarray(lengths, dtype=np.int64), np.asarray(order, dtype=np.int64)
    total = int(lengths.sum())
    target = {VALIDATION: validation * total, TEST: test * total}
    missing_validation, missing_test = target[VALIDATION], target[TEST]
    splits = np.zeros(len(lengths), dtype=np.int8)
    for unit, length in _in_order(lengths, order):
        if missing_validation >= missing_test:
            if missing_validation <= 0:
                break
            if abs(missing_validation - length) < missing_validation:
                splits[unit] = VALIDATION
                missing_validation -= length
        elif abs(missing_test - length) < missing_test:
            splits[unit] = TEST
            missing_test -= length
    _fill_empty(splits, lengths, order, target)
    return splits


def _in_order(lengths: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """Units and their lengths; of millions only as many become Python's numbers as are looked at."""
    for at in range(0, len(order), _PIECE):
        units = order[at : at + _PIECE]
        yield from zip(units.tolist(), lengths[units].tolist(), strict=True)


def _fill_empty(splits: np.ndarray, lengths: np.ndarray, order: np.ndarray, target: dict[int, float]) -> None:
    """Give every empty split that is wanted one unit of a split with several (train: of any), the one nearest to its share."""
    wanted = [s for s in (TRAIN, VALIDATION, TEST) if s == TRAIN or target[s] > 0]
    for split in wanted:
        if (splits == split).any():
            continue
        counts = np.bincount(splits, minlength=3)
        spare = order if split == TRAIN else order[counts[splits[order]] > 1]
        if len(spare):
            share = target.get(split, float(lengths.sum()))
            splits[spare[np.argmin(np.abs(lengths[spare] - share))]] = split


def read_key(seed: int, source: str, template: str) -> int:
    """A seeded 63-bit number that all pieces of one molecule share; molecules are split in its order."""
    digest = hashlib.blake2b(f"{seed}\t{source}\t{template}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def read_splits(keys: np.ndarray, lengths: np.ndarray, split: SplitConfig) -> np.ndarray:
    """Split of every read: int8, shape (reads,). Reads of equal key go together.

    ``keys`` and ``lengths`` are int64, shape (reads,).
    """
    _, inverse = np.unique(keys, return_inverse=True)
    sizes = np.bincount(inverse, weights=lengths).astype(np.int64)
    return assign(sizes, np.arange(len(sizes)), split.validation, split.test)[inverse]
