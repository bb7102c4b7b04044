"""IUPAC codes as sets of bases in four bits (A=1 C=2 G=4 T=8, as BAM stores them), and a seeded choice among them."""

from __future__ import annotations

import numpy as np

from titans_genomics.compiling import kernel

LETTERS = "=ACMGRSVTWYHKDBN"
"""Letter of each set of bases; ``=``, the empty one, is BAM's "as in the reference"."""


def letter_masks() -> np.ndarray:
    """uint8, shape (256,): the set of bases that an ASCII letter stands for, in either case (U is T); 0 for all others."""
    masks = np.zeros(256, dtype=np.uint8)
    for mask, letter in enumerate(LETTERS[1:], 1):
        masks[ord(letter)] = masks[ord(letter.lower())] = mask
    masks[ord("U")] = masks[ord("u")] = masks[ord("T")]
    return masks


@kernel
def mix(word: np.uint64) -> np.uint64:
    """A bijection of 64 bits in which every bit of the result depends on every bit of ``word`` (finaliser of SplitMix64)."""
    word = np.uint64(word)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@kernel
def random_base(key: np.uint64, position: np.int64, mask: np.uint8) -> np.uint8:
    """A base that an IUPAC code allows, each equally often over positions.

    Parameters
    ----------
    key
        Seeded number of the record.
    position
        0-based position in the record; the same key and position give the same base however the file is cut up.
    mask
        The bases allowed: the sum of A=1 C=2 G=4 T=8.

    Returns
    -------
    uint8
        A=0 C=1 G=2 T=3; N=4 when none is allowed.
    """
    allowed = 0
    for base in range(4):
        allowed += (mask >> base) & 1
    drawn = mix(np.uint64(key) + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    left = np.int64((drawn * np.uint64(allowed)) >> np.uint64(32))
    for base in range(4):
        if (mask >> base) & 1:
            if left == 0:
                return np.uint8(base)
            left -= 1
    return np.uint8(4)
