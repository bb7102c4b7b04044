"""Which labelled sequences are held out, and which are used: seeded, by class, what belongs together on one side."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from titans_genomics.data.splits import VALIDATION, assign


def units(same: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """What has to stay on one side of a split: identical sequences, whole groups, and what these join.

    Parameters
    ----------
    same : numpy.ndarray
        int64 (n,), equal for identical sequences (`copies.distinct`).
    groups : numpy.ndarray or None
        int64 (n,).

    Returns
    -------
    unit : numpy.ndarray
        int64 (n,), 0 to the number of units - 1.
    joined : bool
        False when identical sequences would join the groups to units of more than half of the rows, none of which is a group of
        that size: then the groups alone are the units.
    """
    _, same = np.unique(same, return_inverse=True)
    if groups is None or not len(same):
        return same, True
    _, groups = np.unique(groups, return_inverse=True)
    first = int(same.max()) + 1  # nodes: the distinct sequences, then the groups
    nodes = first + int(groups.max()) + 1
    edges = coo_array((np.ones(len(same), dtype=bool), (same, first + groups)), shape=(nodes, nodes))
    _, part = connected_components(edges, directed=False)
    _, unit = np.unique(part[same], return_inverse=True)
    half = len(same) / 2
    if np.bincount(unit).max() > half >= np.bincount(groups).max():
        return groups, False
    return unit, True


def hold_out(unit: np.ndarray, classes: np.ndarray | None, share: float, rng: np.random.Generator) -> np.ndarray:
    """Rows to hold out: whole units, of each class as near to ``share`` as these allow.

    Parameters
    ----------
    unit : numpy.ndarray
        int64 (n,), as of `units`.
    classes : numpy.ndarray or None
        int64 (n,); None: not by class.
    share : float
        Of the rows.

    Returns
    -------
    numpy.ndarray
        bool (n,). Of two units or more, at least one is held out and one is not; of a class too when its units hold no other.
    """
    count = int(unit.max(initial=-1)) + 1
    sizes = np.bincount(unit, minlength=count)
    order = rng.permutation(count)
    stratum = np.zeros(count, dtype=np.int64)
    if classes is not None:
        stratum[unit] = classes
        mixed = np.bincount(unit[stratum[unit] != classes], minlength=count)
        if mixed.sum() > 0.01 * len(unit):  # groups of several classes, not one sequence with two labels
            return _balanced(unit, classes, share, order)[unit]
    held = np.zeros(count, dtype=bool)
    for one in np.unique(stratum):
        own = order[stratum[order] == one]
        held[own] = assign(sizes[own], np.arange(len(own)), share, 0.0) == VALIDATION
    return held[unit]


def _balanced(unit: np.ndarray, classes: np.ndarray, share: float, order: np.ndarray) -> np.ndarray:
    """Units held out, bool (units,): in ``order``, each that brings the shares of the classes nearer to ``share``."""
    width = int(classes.max()) + 1
    counts = np.bincount(unit * width + classes, minlength=len(order) * width).reshape(len(order), width)
    shares = counts / np.maximum(counts.sum(0), 1)
    missing = np.full(width, share) * (counts.sum(0) > 0)
    held = np.zeros(len(order), dtype=bool)
    for one in order.tolist():
        less = missing - shares[one]
        if less @ less < missing @ missing and held.sum() < len(order) - 1:
            held[one], missing = True, less
    if not held.any() and len(order) > 1:
        held[np.argmin(((missing - shares) ** 2).sum(1))] = True
    return held


def subsample(classes: np.ndarray | None, n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted row numbers of ``most`` of ``n`` rows, each class by its share and with two rows at least, if it has them.

    ``classes`` is int64 (n,), or None. Raises ValueError when ``most`` has no room for two of each.
    """
    if n <= most:
        return np.arange(n)
    if classes is None:
        return np.sort(rng.permutation(n)[:most])
    counts = np.bincount(classes)
    least = np.minimum(counts, 2)
    if least.sum() > most:
        raise ValueError(
            f"downstream.max_sequences {most} has no room for two sequences of each of {np.count_nonzero(counts)} classes"
        )
    exact = least + (counts - least) * (most - least.sum()) / max((counts - least).sum(), 1)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: most - quota.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(classes == c))[: quota[c]] for c in range(len(counts))]
    return np.sort(np.concatenate(chosen))
