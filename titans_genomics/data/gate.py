"""The leak gate: near-duplicates between train and the held-out splits of a run, reported, refused or moved."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from titans_genomics.config import Config
from titans_genomics.data import leak_mmseqs, leak_search
from titans_genomics.data.layout import Chosen
from titans_genomics.data.leaks import Stretches
from titans_genomics.data.shard import Shard
from titans_genomics.data.splits import SPLITS
from titans_genomics.progress import Progress


def leak_gate(config: Config, shards: Sequence[Shard], chosen: Sequence[Chosen]) -> dict[str, Any] | None:
    """Look for leaks as ``data.split.leaks`` says; returns what the manifest keeps of them.

    Train is what windows are drawn from: sources of weight 0 are only looked at on the held-out side. With ``move``
    the splits in ``chosen`` are changed.

    Raises
    ------
    ValueError
        Of what a source, or one of its larger contigs, holds out more than ``max_share`` stands in train and the action
        is ``error``; or moving leaves nothing; or MMseqs2 was asked for and is not installed, or fails.
    """
    settings, folder = config.data.split.leaks, shards[0].folder.parent
    for left in folder.glob(f"{leak_mmseqs.PREFIX}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    if settings.action == "off" or any(shard.facts["what"] == "documents" for shard in shards):
        return None
    parts = []  # of every source the stretches that are compared
    for source, own in zip(config.data.sources, chosen, strict=True):
        parts.append(np.flatnonzero((own.split > 0) | (source.weight > 0)))
    first = np.cumsum([0, *(len(part) for part in parts)])

    def joined(column: str) -> np.ndarray:
        return np.concatenate([getattr(own, column)[part] for own, part in zip(chosen, parts, strict=True)])

    def locus(number: int) -> tuple[str, int]:
        i = int(np.searchsorted(first, number, side="right")) - 1
        at = parts[i][number - first[i]]
        row = int(chosen[i].record[at])
        return shards[i].names[row].as_py(), int(chosen[i].begin[at] - shards[i].columns("offset")[0][row])

    unit, record = _units(shards, chosen, parts)
    stretches = Stretches(
        sources=[source.label for source in config.data.sources],
        codes=[shard.codes for shard in shards],
        source=np.repeat(np.arange(len(parts), dtype=np.int32), np.diff(first)),
        begin=joined("begin"),
        end=joined("end"),
        split=joined("split"),
        locus=locus,
        unit=unit,
        record=record,
    )
    total = int((stretches.end - stretches.begin).sum())
    what = "looking for leaks between splits"
    if settings.tool == "mmseqs2":
        find_leaks, resolve = (partial(step, folder=folder) for step in (leak_mmseqs.find_leaks, leak_mmseqs.resolve))
        what += " with MMseqs2"
    else:
        find_leaks, resolve = leak_search.find_leaks, leak_search.resolve
    with Progress(total, "bases", what) as progress:
        moved = np.zeros(0, dtype=np.int64)
        if settings.action == "move":
            splits, leaks, moved = resolve(stretches, settings, advance=progress.update)
            for i, (own, part) in enumerate(zip(chosen, parts, strict=True)):
                own.split[part] = splits[first[i] : first[i + 1]]
            for number, name in enumerate(SPLITS):
                if (stretches.split == number).any() and not any((own.split == number).any() for own in chosen):
                    raise ValueError(
                        f"data.split.leaks.action move leaves {name} empty: all of it stands in train. Hold out what has no "
                        "relatives there: data.split.by species, or a split for each source (data.sources[].split)"
                    )
        else:
            leaks = find_leaks(stretches, settings, advance=progress.update)
    if settings.action == "error" and (message := leaks.message(settings.max_share)):
        raise ValueError(message)
    moved_bases = int((stretches.end - stretches.begin)[moved].sum())
    settled = {
        "action": settings.action,
        "max_share": settings.max_share,
        "moved": len(moved),
        "moved_bases": moved_bases,
    }
    return leaks.as_dict(settings.max_share) | settled


def _units(
    shards: Sequence[Shard], chosen: Sequence[Chosen], parts: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What moves together, and what is judged by itself beside its source: see ``Stretches.unit`` and ``record``."""
    reads = [shard.facts["what"] == "reads" for shard in shards]
    units, records = [], []
    stretches = contigs = 0
    for shard, own, part, molecules in zip(shards, chosen, parts, reads, strict=True):
        if molecules:
            units.append(shard.columns("key")[0][own.record[part]])
            records.append(np.full(len(part), -1, dtype=np.int32))
        else:
            units.append(~np.arange(stretches, stretches + len(part)))  # keys of molecules are not negative
            records.append(contigs + own.record[part])
            stretches, contigs = stretches + len(part), contigs + shard.facts["records"]
    return np.concatenate(units) if any(reads) else None, None if all(reads) else np.concatenate(records)
