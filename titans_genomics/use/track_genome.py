"""The genome that `track` reads: its contigs piece by piece, and what stands where in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.alphabet import N
from titans_genomics.data.batch import Batch
from titans_genomics.data.readers import READS, check_source, open_source
from titans_genomics.data.regions import merge


@dataclass
class Survey:
    """What a genome file holds: of every contig the length, and where N and lower case stand (int64, (n, 2))."""

    lengths: dict[str, int]
    unknown: dict[str, np.ndarray]
    soft: dict[str, np.ndarray]


def open_genome(path: Path, soft_mask: str) -> Iterator[Batch]:
    """The contigs of a sequence file, a few megabytes at a time. Raises ValueError for reads, text and damaged files."""
    source = SourceConfig(path=path)
    data = DataConfig(sources=(source,), soft_mask=soft_mask)
    kind = check_source(source, data)
    if kind in READS:
        raise ValueError(f"{path}: reads ({kind}); tracks are of the contigs of a genome: give a FASTA file")
    return open_source(source, data)


def pieces(batches: Iterator[Batch]) -> Iterator[tuple[str | None, np.ndarray, np.ndarray]]:
    """Stretches of contigs in order: the name where one begins, else None; codes; soft-masked intervals within."""
    for batch in batches:
        edges = np.concatenate([batch.starts, [len(batch.codes)]])
        yield None, batch.codes[: edges[0]], _within(batch.soft, 0, edges[0])
        for name, first, last in zip(batch.names, edges[:-1], edges[1:], strict=True):
            yield name, batch.codes[first:last], _within(batch.soft, first, last)


def _within(intervals: np.ndarray, first: int, last: int) -> np.ndarray:
    cut = np.clip(intervals, first, last) - first
    return cut[cut[:, 0] < cut[:, 1]]


def survey(path: Path) -> Survey:
    """Read a genome through once: errors show before the model reads for hours. An empty file has no contigs."""
    if path.is_file() and not path.stat().st_size:
        return Survey({}, {}, {})
    lengths: dict[str, int] = {}
    found: dict[str, dict[str, list[np.ndarray]]] = {"unknown": {}, "soft": {}}
    current = ""
    for name, codes, soft in pieces(open_genome(path, "keep")):
        if name is not None:
            current, lengths[name] = name, 0
        elif not len(codes):
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], codes == N, [False]]).astype(np.int8)))
        for kind, intervals in (("unknown", edges.reshape(-1, 2)), ("soft", soft)):
            found[kind].setdefault(current, []).append(intervals + lengths[current])
        lengths[current] += len(codes)
    merged = {k: {name: merge(np.concatenate(parts)) for name, parts in own.items()} for k, own in found.items()}
    return Survey(lengths, merged["unknown"], merged["soft"])
