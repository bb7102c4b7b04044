"""What is said of near-duplicate sequence on both sides of a split (modules ``leak_search`` and ``leak_mmseqs`` find it)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

LARGEST = 20
"""Matches that are listed of every source and split."""

LEAST = 20_000
"""Held-out bases from which on a contig is judged by itself."""


@dataclass(frozen=True)
class Stretches:
    """Stretches of sequence and their splits, as columns; stretches of one source do not overlap.

    Attributes
    ----------
    sources
        Names of the sources.
    codes
        Of every source its bases, uint8 (A=0 C=1 G=2 T=3, above: none), shape (bases,); may be a memory map. A source
        of text has no leaks that are looked for here: give it an empty array and no stretches.
    source
        int, shape (stretches,): number of the source.
    begin, end
        int64, shape (stretches,): where in ``codes`` the stretch is.
    split
        int8, shape (stretches,): 0 train, 1 validation, 2 test.
    locus
        Record of a stretch, and position in the record of its first base (0-based).
    unit
        int64, shape (stretches,), or None: held-out stretches of equal unit (the mates of a molecule, of whatever source)
        move together.
    record
        int, shape (stretches,), or None: stretches of one contig have the same number, which those of other contigs and
        sources do not have; -1 for what is not judged contig by contig (reads).
    """

    sources: Sequence[str]
    codes: Sequence[np.ndarray]
    source: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    split: np.ndarray
    locus: Callable[[int], tuple[str, int]]
    unit: np.ndarray | None = None
    record: np.ndarray | None = None


class Locus(NamedTuple):
    """A stretch of a record, 0-based half-open."""

    source: str
    record: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.record}:{self.start}-{self.end}"


class Match(NamedTuple):
    """Held-out sequence and the train sequence that it is nearly identical to.

    ``strand`` is ``-`` when one is the reverse complement of the other; ``identity`` (0 to 1) is estimated from the
    share of k-mers that both have, or that of the alignment.
    """

    held: Locus
    train: Locus
    strand: str
    identity: float


class Pair(NamedTuple):
    """What of a source's held-out bases stands in one train source: bases, and mean identity (0 to 1)."""

    train: str
    bases: int
    identity: float


class Held(NamedTuple):
    """What was found of one source and held-out split.

    ``judged`` are its bases (of very many reads those of a sample), ``covered`` those of them that matches cover; one in
    ``scale`` of their k-mers was compared. ``pairs`` are all train sources concerned, ``matches`` the largest matches.
    """

    source: str
    split: str
    judged: int
    covered: int
    scale: int
    pairs: tuple[Pair, ...]
    matches: tuple[Match, ...]

    @property
    def share(self) -> float:
        """Share of the judged bases that is covered."""
        return self.covered / max(self.judged, 1)


class HeldRecord(NamedTuple):
    """What was found of a contig's bases in a held-out split: as in ``Held``, with its largest match."""

    source: str
    record: str
    split: str
    judged: int
    covered: int
    match: Match | None

    @property
    def share(self) -> float:
        """Share of the judged bases that is covered."""
        return self.covered / self.judged


@dataclass(frozen=True)
class Leaks:
    """What of the held-out sequence stands in train.

    Attributes
    ----------
    covered
        int64, shape (stretches,): bases of every held-out stretch that matches cover; 0 for train.
    judged
        bool, shape (stretches,): held out and looked at. False in a held-out split only where a source has more reads
        there than can be looked at together.
    held
        One entry for every source and split that has held-out bases.
    k
        Length of the k-mers that were compared; of MMseqs2, those that it looks for first.
    tool, version
        What searched: ``sketch`` (of this package) or ``mmseqs2``, and its version.
    records
        One entry for every contig and split with ``LEAST`` held-out bases or more, some of them covered.
    """

    covered: np.ndarray
    judged: np.ndarray
    held: tuple[Held, ...]
    k: int
    tool: str
    version: str
    records: tuple[HeldRecord, ...] = ()

    def share(self, source: str, split: str) -> float:
        """Share of a source's bases in ``split`` that stands in train; 0 if it has none there."""
        return next((held.share for held in self.held if (held.source, held.split) == (source, split)), 0.0)

    def above(self, max_share: float) -> list[Held]:
        """Sources and splits of which more than ``max_share`` stands in train, the largest share first."""
        return sorted((held for held in self.held if held.share > max_share), key=lambda held: -held.share)

    def records_above(self, max_share: float) -> list[HeldRecord]:
        """Contigs of which more than ``max_share`` stands in train, though of their source and split as a whole less does.

        The largest share first, of equal ones the most bases.
        """
        named = {(held.source, held.split) for held in self.above(max_share)}
        found = [one for one in self.records if one.share > max_share and (one.source, one.split) not in named]
        return sorted(found, key=lambda one: (-one.share, -one.judged))

    def as_dict(self, max_share: float) -> dict[str, Any]:
        """Plain values for JSON; loci are 0-based half-open.

        ``tool``, ``version``, ``k``; ``held``, of every entry its fields and share; ``records``, the first ``LARGEST`` of
        those above ``max_share``, in the same way, and ``records_above``, how many these are.
        """
        held = [
            one._asdict()
            | {
                "share": one.share,
                "pairs": [pair._asdict() | {"share": pair.bases / one.judged} for pair in one.pairs],
                "matches": [_plain(match) for match in one.matches],
            }
            for one in self.held
        ]
        above = self.records_above(max_share)
        records = [
            one._asdict() | {"share": one.share, "match": one.match and _plain(one.match)} for one in above[:LARGEST]
        ]
        found = {"held": held, "records": records, "records_above": len(above)}
        return {"tool": self.tool, "version": self.version, "k": self.k} | found

    def message(self, max_share: float) -> str:
        """What to tell a user of a split that leaks, with loci of both sides and remedies; empty if it does not."""
        above, records = self.above(max_share), self.records_above(max_share)
        if not above and not records:
            return ""
        lines = ["held-out sequence stands near-identically in train (loci are 0-based half-open):"]
        for held in above[:5]:
            lines.append(
                f"  {held.source} ({held.split}): {100 * held.share:.1f}% of {held.judged:,} bases, "
                f"data.split.leaks.max_share allows {100 * max_share:.1f}%"
            )
            for pair in held.pairs[:3]:
                lines.append(
                    f"    {100 * pair.bases / held.judged:.1f}% in {pair.train} (train), about {100 * pair.identity:.1f}% identical"
                )
                own = [match for match in held.matches if match.train.source == pair.train]
                lines += [_said(match) for match in own[:3]]
        if len(above) > 5:
            lines.append(f"  and {len(above) - 5} more")
        for one in records[:5]:
            lines.append(
                f"  {one.record} of {one.source} ({one.split}): {100 * one.share:.1f}% of {one.judged:,} bases, "
                f"data.split.leaks.max_share allows {100 * max_share:.1f}%"
            )
            lines += [_said(one.match)] if one.match else []
        if len(records) > 5:
            lines.append(f"  and {len(records) - 5} more contigs")
        lines.append("Remedies:")
        within = {held.source == held.pairs[0].train for held in above}
        siblings = {one.source == one.match.train.source for one in records if one.match}
        within |= siblings & {False}
        if False in within:
            lines.append(
                "  keep relatives on one side: data.split.by species, or a split (or the same species) for each of these "
                "sources in the sample sheet"
            )
        if True in siblings:
            lines.append(
                "  where one file holds several genomes: give each a file and a source of its own, with its species "
                "(data.split.by species)"
            )
        if True in within:
            lines.append(
                "  where a source repeats itself: data.split.by contig, longer blocks (data.split.block), or, for aligned "
                "reads, data.split.reads locus"
            )
        lines.append("  or data.split.leaks.action move, which puts the stretches concerned into train")
        lines.append("  or a higher data.split.leaks.max_share, if you want to measure recall of known sequence")
        return "\n".join(lines)


def _plain(match: Match) -> dict[str, Any]:
    return match._asdict() | {"held": match.held._asdict(), "train": match.train._asdict()}


def _said(match: Match) -> str:
    held, train = match.held, match.train
    return (
        f"      {held} of {held.source} is {train} of {train.source}, strand {match.strand}, "
        f"about {100 * match.identity:.1f}% identical"
    )
