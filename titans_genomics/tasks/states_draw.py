"""Words of a finite group and their products: what state tracking is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Literal

import numpy as np

GROUPS = ("s5", "a5", "s4", "s3", "z60")


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group whose elements are the numbers 0 to order - 1; 0 is the identity.

    Attributes
    ----------
    name : str
    table : (order, order) int64
        ``table[a, b]`` is the product a b: of permutations first a, then b.
    generators : (count,) int64, rising
        The identity and a generating set that is closed under inverses: all swaps of two of S_n, all cycles of three of A_5, and 1, 2, 4, 8, 16 and
        their inverses of Z_60.
    """

    name: str
    table: np.ndarray
    generators: np.ndarray

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.table)

    def letters(self, inputs: Literal["generators", "elements"]) -> np.ndarray:
        """The elements that words are made of, (count,) int64, rising."""
        return self.generators if inputs == "generators" else np.arange(self.order)

    def products(self, words: np.ndarray) -> np.ndarray:
        """Products of all beginnings of words (B, T): (B, T) int64, at each place that of the letters up to and with it."""
        found = np.empty_like(words, dtype=np.int64)
        product = np.zeros(len(words), dtype=np.int64)
        for place in range(words.shape[1]):
            product = found[:, place] = self.table[product, words[:, place]]
        return found


@cache
def group(name: str) -> Group:
    """A group by its name: s5, s4, s3 (symmetric), a5 (alternating), z60 (cyclic)."""
    if name == "z60":
        numbers = np.arange(60)
        steps = [0, *(sign * 2**power % 60 for power in range(5) for sign in (1, -1))]
        return Group(name, (numbers[:, None] + numbers) % 60, np.array(sorted(steps)))
    degree = int(name[1:])
    arranged = np.array(list(permutations(range(degree))))  # in lexicographic order, the identity first
    moved = (arranged != np.arange(degree)).sum(1)
    if name[0] == "a":
        even = np.array([_even(row) for row in arranged])
        arranged, moved = arranged[even], moved[even]
    value = degree ** np.arange(degree)
    number = {code: index for index, code in enumerate((arranged @ value).tolist())}
    # row a, column b, then what stands at each place after a and then b: b[a[place]]
    after = arranged[:, arranged].transpose(1, 0, 2)
    codes = (after @ value).ravel().tolist()
    table = np.array([number[code] for code in codes]).reshape(len(arranged), -1)
    return Group(name, table, np.flatnonzero(moved <= (3 if name[0] == "a" else 2)))


def _even(arranged: np.ndarray) -> bool:
    """Whether a permutation has an even number of inversions."""
    rows, columns = np.triu_indices(len(arranged), 1)
    return bool((arranged[rows] > arranged[columns]).sum() % 2 == 0)


def draw_words(rng: np.random.Generator, letters: np.ndarray, count: int, length: int) -> np.ndarray:
    """Words (count, length) int64 of letters drawn evenly and independently."""
    return letters[rng.integers(len(letters), size=(count, length))]
