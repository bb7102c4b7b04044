"""The sequences of the species task: regions of every class go to train or test as a whole, tiles of them are the sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from titans_genomics.config import Config, SourceConfig, SpeciesClass, SpeciesConfig
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.readers import read_records
from titans_genomics.data.store import TokenStore

MOST_N = 0.1
"""Tiles with a larger share of N are left out."""

FEWEST = 10
"""Sequences per class, train and test together, below which a length is an error."""


@dataclass
class Draw:
    """The sequences of one length and seed."""

    tokens: np.ndarray  # (sequences, length) uint8
    label: np.ndarray  # (sequences,) class number
    region: np.ndarray  # (sequences,) number of the region, counted over all classes
    test: np.ndarray  # (sequences,) bool


Tiles = dict[bool, list[tuple[int, np.ndarray]]]
"""The tiles of one class, with the number of their region: of its test regions (True), of its training regions (False)."""


def read_stretches(config: Config, store: TokenStore, entry: SpeciesClass) -> Iterator[np.ndarray]:
    """The contigs or reads of a class as base codes; those of a source are its test split."""
    if entry.source is not None:
        for tokens in store.documents("test", entry.source):
            yield store.tokenizer.decode(tokens)
        return
    assert entry.path is not None
    source = SourceConfig(path=entry.path, species=entry.species)
    for _, codes in read_records(source, config.data, config.seed):
        if len(codes) >= config.data.min_contig:
            yield codes


def cut_regions(
    settings: SpeciesConfig, entry: SpeciesClass, stretches: list[np.ndarray], length: int
) -> list[np.ndarray]:
    """Contiguous regions of a class, each long enough for one sequence."""
    size = max(settings.region, length)
    found = []
    for stretch in stretches:
        pieces = (stretch[start : start + size] for start in range(0, len(stretch), size))
        found += [piece for piece in pieces if len(piece) >= length]
    if len(found) < 2:
        where = entry.path or f"the test split of source {entry.source}"
        raise ValueError(
            f"{where}: {entry.species} has {len(found)} region(s) of at least {length} bases, and train and test need one each; "
            f"take {length} out of species.length, lower species.region, or give more sequence"
        )
    return found


def draw_sequences(settings: SpeciesConfig, regions: list[list[np.ndarray]], length: int) -> list[Draw]:
    """The sequences of every seed, of every class the same number: what is asked for, or as many as there is room for."""
    generators = [np.random.default_rng(seed) for seed in settings.seeds]
    tiles = [[_class_tiles(settings, own, length, rng) for own in regions] for rng in generators]
    per_class = _room(settings, tiles, length)
    counts = _counts(settings, per_class)
    firsts = np.cumsum([0, *map(len, regions)])
    return [_draw(own, counts, firsts, rng) for own, rng in zip(tiles, generators, strict=True)]


def _class_tiles(settings: SpeciesConfig, regions: list[np.ndarray], length: int, rng: np.random.Generator) -> Tiles:
    """Regions of a class to train or test, and their tiles."""
    order = rng.permutation(len(regions))
    held_out = min(max(1, round(len(order) * settings.test)), len(order) - 1)
    return {
        is_test: [(int(r), tile) for r in chosen for tile in tiles_of(regions[r], length, rng)]
        for is_test, chosen in ((True, order[:held_out]), (False, order[held_out:]))
    }


def _counts(settings: SpeciesConfig, per_class: int) -> dict[bool, int]:
    """Sequences of a class to test (True) and to train."""
    test = round(per_class * settings.test)
    return {True: test, False: per_class - test}


def _room(settings: SpeciesConfig, tiles: list[list[Tiles]], length: int) -> int:
    """Sequences per class that every class has in every draw, at most ``per_class``."""
    rooms = [{is_test: len(own[is_test]) for is_test in own} for of_seed in tiles for own in of_seed]
    for per_class in range(settings.per_class, FEWEST - 1, -1):
        counts = _counts(settings, per_class)
        if min(counts.values()) > 0 and all(room[is_test] >= counts[is_test] for room in rooms for is_test in room):
            return per_class
    scarce = min(
        range(len(rooms)), key=lambda i: min(rooms[i][t] / max(1, n) for t, n in _counts(settings, FEWEST).items())
    )
    label = settings.classes[scarce % len(settings.classes)].species
    raise ValueError(
        f"species: at length {length} {label} has room for {rooms[scarce][True]} test and {rooms[scarce][False]} training sequences, and "
        f"{FEWEST} are the fewest (species.test {settings.test} of them for the test); take {length} out of species.length, or give more sequence"
    )


def _draw(tiles: list[Tiles], counts: dict[bool, int], firsts: np.ndarray, rng: np.random.Generator) -> Draw:
    """Sequences of one seed: tiles of every class, then strands. ``firsts``: regions of all classes before each."""
    rows, labels, of_region, test = [], [], [], []
    for label, own in enumerate(tiles):
        for is_test, there in own.items():
            for i in rng.permutation(len(there))[: counts[is_test]]:
                region, tile = there[i]
                rows.append(reverse_complement(tile) if rng.random() < 0.5 else tile)
                labels.append(label)
                of_region.append(int(firsts[label]) + region)
                test.append(is_test)
    return Draw(np.stack(rows), np.array(labels), np.array(of_region), np.array(test))


def tiles_of(region: np.ndarray, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Pieces of a region that do not overlap, with few N, from a random start on."""
    start = int(rng.integers(0, len(region) % length + 1))
    tiles = [region[at : at + length] for at in range(start, len(region) - length + 1, length)]
    return [tile for tile in tiles if (tile >= 4).mean() <= MOST_N]
