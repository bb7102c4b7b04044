"""Which stretches of a source are used, and which split each belongs to.

All intervals here are positions in the base layer of a source (module ``shard``), 0-based half-open, so that one
array operation serves all its contigs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from titans_genomics.config import Config, DataConfig, SourceConfig
from titans_genomics.data.regions import fit_regions, intersect, read_regions, subtract
from titans_genomics.data.shard import Shard
from titans_genomics.data.splits import SPLITS, assign, read_key, read_splits


@dataclass
class Chosen:
    """The stretches of one source that are used; arrays of one entry per stretch, in file order.

    Attributes
    ----------
    begin, end
        int64: the stretch in the base layer.
    record
        int: row of the record in the shard's table.
    split
        int8: 0 train, 1 validation, 2 test.
    joined
        bool: no EOS stands behind it, the next stretch follows directly.
    left_out
        What was not used: records and bases by reason.
    """

    begin: np.ndarray
    end: np.ndarray
    record: np.ndarray
    split: np.ndarray
    joined: np.ndarray
    left_out: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Units:
    """What is given to splits as a whole: blocks or contigs of one source, those without a base left out."""

    start: np.ndarray
    record: np.ndarray
    bases: np.ndarray
    chosen: np.ndarray  # intervals
    runs: np.ndarray  # of N that are cut out
    left_out: dict[str, Any]


def choose(config: Config, shards: Sequence[Shard]) -> list[Chosen]:
    """The stretches and splits of all sources, before leaks are looked for.

    Raises
    ------
    ValueError
        Regions that do not fit the genome; nothing left of a source; more N than ``data.max_n``.
    """
    data = config.data
    sources = data.sources
    units = {
        i: _units(source, data, shard)
        for i, (source, shard) in enumerate(zip(sources, shards, strict=True))
        if shard.facts["what"] != "reads"
    }
    by_species = _species_splits(config, {i: int(u.bases.sum()) for i, u in units.items()}, shards)
    chosen = []
    for i, (source, shard) in enumerate(zip(sources, shards, strict=True)):
        fixed = SPLITS.index(source.split) if source.split else by_species.get(i)
        if shard.facts["what"] == "reads":
            chosen.append(_reads(config, source, shard, fixed))
        else:
            chosen.append(_contigs(config, source, units[i], fixed))
        if not len(chosen[-1].begin):
            raise ValueError(
                f"{source.path}: nothing of it is left ({_reasons(chosen[-1].left_out)}). Loosen {_REMEDY}"
            )
    _split_reads(config, shards, chosen)
    for source, own in zip(sources, chosen, strict=True):
        if not len(own.begin):
            raise ValueError(
                f"{source.path}: nothing of it is left ({_reasons(own.left_out)}). Use longer blocks (data.split.block)"
            )
    return chosen


_REMEDY = "data.min_contig, the source's regions and exclude, or data.reads"


def _reasons(left_out: dict[str, Any]) -> str:
    return ", ".join(f"{entry['bases']:,} bases: {reason}" for reason, entry in left_out.items()) or "it is empty"


# ------------------------------------------------------------------------------------------- contigs


def _units(source: SourceConfig, data: DataConfig, shard: Shard) -> _Units:
    """What of the contigs (or documents) of a source may be used, and its units."""
    offset, length = shard.columns("offset", "length")
    left_out: dict[str, Any] = {}
    contigs = shard.facts["what"] == "contigs"
    kept = length >= (data.min_contig if contigs else 1)
    if not kept.all():
        _note(left_out, f"contig shorter than {data.min_contig} bases", length[~kept].sum(), (~kept).sum())
    chosen = np.stack([offset, offset + length], axis=1)[kept]
    for path, key in ((source.regions, "regions"), (source.exclude, "exclude")):
        if path is not None:
            names = shard.names.to_pylist()
            regions = fit_regions(
                read_regions(path), dict(zip(names, length.tolist(), strict=True)), path, source.path, key
            )
            at = dict(zip(names, offset.tolist(), strict=True))
            inside = np.concatenate([np.zeros((0, 2), np.int64), *(own + at[name] for name, own in regions.items())])
            inside = inside[np.argsort(inside[:, 0], kind="stable")]
            before = _bases(chosen)
            chosen = intersect(chosen, inside) if key == "regions" else subtract(chosen, inside)
            reason = "outside the source's regions" if key == "regions" else "in the source's exclude"
            _note(left_out, reason, before - _bases(chosen))
    runs = np.zeros((0, 2), np.int64)
    if contigs and data.n_runs != "keep":
        runs = cut(np.asarray(shard.n_runs), offset)
        runs = runs[runs[:, 1] - runs[:, 0] >= data.n_run]
        before = _bases(chosen)
        _note(
            left_out, f"in runs of {data.n_run} N or more", before - _bases(subtract(chosen, runs)), len(runs), "runs"
        )
    records = np.flatnonzero(kept)
    if data.split.by == "block":
        blocks = np.maximum(1, np.rint(length[kept] / data.split.block)).astype(np.int64)
    else:
        blocks = np.ones(len(records), dtype=np.int64)
    of = np.repeat(np.arange(len(records)), blocks)
    within = np.arange(len(of)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    start = offset[records][of] + within * data.split.block
    used = _Coverage(subtract(chosen, runs) if len(runs) else chosen)
    stop = np.append(start[1:], shard.facts["bases"])
    return _Units(start, records[of], used.before(stop) - used.before(start), chosen, runs, left_out)


def _contigs(config: Config, source: SourceConfig, units: _Units, fixed: int | None) -> Chosen:
    """Stretches of contigs: neighbouring units of one split are one stretch."""
    splits = np.full(len(units.start), 0 if fixed is None else fixed, dtype=np.int8)
    if fixed is None:
        rng = np.random.default_rng(read_key(config.seed, source.label, "split"))
        there = np.flatnonzero(units.bases)
        order = rng.permutation(len(there))
        split = config.data.split
        splits[there] = assign(units.bases[there], order, split.validation, split.test)
        # a unit without a base, such as a long run of N, does not part its neighbours
        splits = splits[np.maximum.accumulate(np.where(units.bases > 0, np.arange(len(splits)), 0))]
    whole = cut(units.chosen, units.start)
    unit = np.searchsorted(units.start, whole[:, 0], side="right") - 1
    record, split_of = units.record[unit], splits[unit]
    new = np.ones(len(whole), dtype=bool)
    new[1:] = (whole[1:, 0] != whole[:-1, 1]) | (record[1:] != record[:-1]) | (split_of[1:] != split_of[:-1])
    whole = np.stack([whole[new, 0], whole[np.append(new[1:], True), 1]], axis=1) if len(whole) else whole
    record, split_of = record[new], split_of[new]
    joined = np.zeros(len(whole), dtype=bool)
    if len(units.runs):
        pieces = cut(subtract(whole, units.runs), whole[:, 0])
        parent = np.searchsorted(whole[:, 0], pieces[:, 0], side="right") - 1
        joined = np.append(parent[1:] == parent[:-1], False)[: len(pieces)] & (config.data.n_runs == "drop")
        whole, record, split_of = pieces, record[parent], split_of[parent]
    return Chosen(whole[:, 0], whole[:, 1], record, split_of, joined, units.left_out)


def _species_splits(config: Config, bases: dict[int, int], shards: Sequence[Shard]) -> dict[int, int]:
    """The split of every source whose species is given to a split as a whole."""
    if config.data.split.by != "species":
        return {}
    species: dict[str, int] = {}
    own = {}
    for i, source in enumerate(config.data.sources):
        if source.split is None and source.species is not None:
            own[i] = source.species
            species[source.species] = species.get(source.species, 0) + bases.get(i, shards[i].facts["bases"])
    rng = np.random.default_rng(read_key(config.seed, "", "species"))
    order = rng.permutation(len(species)).tolist()
    splits = assign(list(species.values()), order, config.data.split.validation, config.data.split.test)
    found = dict(zip(species, splits.tolist(), strict=True))
    return {i: found[name] for i, name in own.items()}


# --------------------------------------------------------------------------------------------- reads


def _reads(config: Config, source: SourceConfig, shard: Shard, fixed: int | None) -> Chosen:
    """Every read that is used is a stretch of its own. Those without a fixed split are all in train as yet."""
    data = config.data
    offset, length, key, contig, start, end = shard.columns("offset", "length", "key", "contig", "start", "end")
    left_out: dict[str, Any] = {}
    kept = np.ones(len(offset), dtype=bool)
    for path, inside in ((source.regions, True), (source.exclude, False)):
        if path is not None:
            hit = _overlapping(path, source, shard, contig, start, end, "regions" if inside else "exclude")
            reason = "not overlapping the source's regions" if inside else "overlapping the source's exclude"
            out = kept & (hit != inside)
            _note(left_out, reason, length[out].sum(), out.sum())
            kept &= hit == inside
    if data.reads.coverage is not None:
        reference = shard.facts.get("reference_bases")
        if not reference:
            raise ValueError(
                f"{source.path}: data.reads.coverage needs aligned reads, to know the length of their reference. Use data.reads.fraction"
            )
        _, inverse = np.unique(key[kept], return_inverse=True)
        total = np.cumsum(np.bincount(inverse, weights=length[kept]))
        within = total <= data.reads.coverage * reference
        within[:1] = True
        out = kept.copy()
        out[kept] = ~within[inverse]
        _note(left_out, f"beyond a coverage of {data.reads.coverage:g}", length[out].sum(), out.sum())
        kept &= ~out
    rows = np.flatnonzero(kept)
    split = np.full(len(rows), 0 if fixed is None else fixed, dtype=np.int8)
    begin, record = offset[rows], rows.astype(np.int32)
    return Chosen(begin, begin + length[rows], record, split, np.zeros(len(rows), dtype=bool), left_out)


def _split_reads(config: Config, shards: Sequence[Shard], chosen: Sequence[Chosen]) -> None:
    """Give reads their splits, where neither their source nor its species has one.

    Sources that share molecules, as the two files of paired reads do, are divided together, and so are, by locus, sources
    aligned to one reference; each of the others by itself.
    """
    split = config.data.split
    if split.by == "species":
        return
    members = [
        i
        for i, (source, shard) in enumerate(zip(config.data.sources, shards, strict=True))
        if shard.facts["what"] == "reads" and source.split is None
    ]
    keys = [shards[i].columns("key")[0][chosen[i].record] for i in members]
    if split.reads == "read":
        for group in _sharing(keys):
            lengths = [chosen[members[one]].end - chosen[members[one]].begin for one in group]
            found = read_splits(np.concatenate([keys[one] for one in group]), np.concatenate(lengths), split)
            _hand_out(found, [chosen[members[one]] for one in group])
        return
    contigs: dict[tuple[str, int], int] = {}  # those of one name and length are one
    of = [
        np.array(
            [contigs.setdefault((name, int(bases)), len(contigs)) for name, bases in facts.items()], dtype=np.int64
        )
        for facts in (shards[i].facts.get("contigs", {}) for i in members)
    ]
    aligned = [shards[i].columns("contig")[0][chosen[i].record] >= 0 for i in members]
    alone = [own[~there] for own, there in zip(keys, aligned, strict=True)]
    for group in _sharing([np.append(own, ~numbers) for own, numbers in zip(alone, of, strict=True)]):
        columns: list[list[np.ndarray]] = []
        for one in group:
            own = chosen[members[one]]
            contig, start, end = (c[own.record] for c in shards[members[one]].columns("contig", "start", "end"))
            contig = np.where(contig >= 0, np.append(of[one], -1)[contig], -1)
            columns.append([keys[one], own.end - own.begin, contig, start, end])
        found = _locus_splits(config, list(contigs), *(np.concatenate(column) for column in zip(*columns, strict=True)))
        _hand_out(found, [chosen[members[one]] for one in group])
    for i in members:
        own = chosen[i]
        across, length = own.split < 0, own.end - own.begin
        _note(own.left_out, "across the border of two splits", length[across].sum(), across.sum())
        for column in ("begin", "end", "record", "joined", "split"):
            setattr(own, column, getattr(own, column)[~across])


def _hand_out(splits: np.ndarray, chosen: Sequence[Chosen]) -> None:
    """Splits of the reads of several sources, one source after the other, to these."""
    for own, found in zip(chosen, np.split(splits, np.cumsum([len(own.begin) for own in chosen])[:-1]), strict=True):
        own.split = found


def _sharing(values: Sequence[np.ndarray]) -> list[list[int]]:
    """Numbers of the arrays in groups, so that no two groups have a value in common."""
    group = np.arange(len(values))
    if len(values) > 1:
        distinct = [np.unique(own) for own in values]
        owner = np.repeat(np.arange(len(values), dtype=np.int32), [len(own) for own in distinct])
        joined = np.concatenate(distinct)
        order = np.argsort(joined, kind="stable")
        joined, owner = joined[order], owner[order]
        common = joined[1:] == joined[:-1]
        for pair in np.unique(owner[:-1][common].astype(np.int64) * len(values) + owner[1:][common]).tolist():
            one, other = divmod(pair, len(values))
            group[group == group[other]] = group[one]
    return [np.flatnonzero(group == number).tolist() for number in np.unique(group)]


def _locus_splits(
    config: Config,
    contigs: Sequence[tuple[str, int]],
    key: np.ndarray,
    length: np.ndarray,
    contig: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
) -> np.ndarray:
    """Splits of reads by the block of the reference that holds their middle, of unaligned ones by molecule.

    ``contig`` are rows of ``contigs``, names and lengths; a rest of less than half a block belongs to the block before.
    int8, shape (reads,); -1 for a read that reaches into a block of another split, so that no two splits overlap.
    """
    split, aligned = config.data.split, contig >= 0
    contig, start, end = contig[aligned], start[aligned], end[aligned]
    last_block = np.maximum(1, np.rint(np.array([bases for _, bases in contigs]) / split.block)).astype(np.int64) - 1
    width = int(last_block.max(initial=0)) + 1
    places = [
        contig * width + np.minimum(place // split.block, last_block[contig])
        for place in (start, (start + end) // 2, np.maximum(end - 1, start))
    ]
    loci = np.unique(np.concatenate([np.unique(place) for place in places]))
    first, middle, last = (np.searchsorted(loci, place).astype(np.int32) for place in places)
    locus_keys = [
        read_key(config.seed, "", f"{contigs[number // width][0]}:{number % width}") for number in loci.tolist()
    ]
    molecules, molecule = np.unique(key[~aligned], return_inverse=True)
    units = np.concatenate([np.array(locus_keys, dtype=np.int64), molecules])
    unit = np.empty(len(key), dtype=np.int64)
    unit[aligned], unit[~aligned] = middle, len(locus_keys) + molecule
    sizes = np.bincount(unit, weights=length, minlength=len(units)).astype(np.int64)
    there = np.flatnonzero(sizes)
    splits = np.zeros(len(units), dtype=np.int8)
    splits[there] = assign(sizes[there], np.argsort(units[there], kind="stable"), split.validation, split.test)
    found = splits[unit]
    of_loci = splits[: len(locus_keys)]  # in the order of the reference
    changes = np.cumsum(of_loci != np.append(of_loci[:1], of_loci[:-1]))
    found[aligned] = np.where(changes[first] == changes[last], splits[middle], np.int8(-1))
    return found


def _overlapping(
    path: Any, source: SourceConfig, shard: Shard, contig: np.ndarray, start: np.ndarray, end: np.ndarray, key: str
) -> np.ndarray:
    """Which reads are aligned to a place that overlaps the stretches of a BED or GFF file."""
    contigs = {name: int(bases) for name, bases in shard.facts.get("contigs", {}).items()}
    if not contigs:
        raise ValueError(
            f"{source.path}: data.sources[].{key} needs aligned reads. Remove it, or align the reads first"
        )
    regions = fit_regions(read_regions(path), contigs, path, source.path, key)
    hit = np.zeros(len(contig), dtype=bool)
    order = np.argsort(contig, kind="stable")
    bounds = np.searchsorted(contig[order], np.arange(len(contigs) + 1))
    for number, name in enumerate(contigs):
        rows = order[bounds[number] : bounds[number + 1]]
        if len(rows) and name in regions and len(regions[name]):
            first = np.searchsorted(regions[name][:, 1], start[rows], side="right")
            low = np.append(regions[name][:, 0], np.iinfo(np.int64).max)[first]
            hit[rows] = low < end[rows]
    return hit


# ----------------------------------------------------------------------------------------- intervals


class _Coverage:
    """How many bases of sorted, disjoint intervals lie before a position."""

    def __init__(self, intervals: np.ndarray) -> None:
        self.start = intervals[:, 0]
        self.length = intervals[:, 1] - intervals[:, 0]
        self.total = np.append(0, np.cumsum(self.length))

    def before(self, positions: np.ndarray) -> np.ndarray:
        """int64, one count per position."""
        if not len(self.start):
            return np.zeros(len(positions), dtype=np.int64)
        at = np.searchsorted(self.start, positions, side="right") - 1
        inside = np.minimum(positions - self.start[at], self.length[at])
        return np.where(at < 0, 0, self.total[np.maximum(at, 0)] + inside)


def count_n(shard: Shard, own: Chosen) -> tuple[int, int]:
    """Bases of a source that are N, and all of its bases: of contigs those in the chosen stretches, of others all."""
    if shard.facts["what"] != "contigs":
        return shard.facts["n"], shard.facts["bases"]
    unknown = _Coverage(np.asarray(shard.n_runs))
    return int((unknown.before(own.end) - unknown.before(own.begin)).sum()), int((own.end - own.begin).sum())


def cut(intervals: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Sorted, disjoint intervals cut at the sorted ``borders`` that lie within them: int64, shape (pieces, 2)."""
    if not len(intervals):
        return intervals
    borders = np.unique(borders)
    at = np.searchsorted(intervals[:, 0], borders, side="right") - 1
    inside = borders[(at >= 0) & (borders > intervals[at, 0]) & (borders < intervals[at, 1])]
    return np.stack([np.sort(np.append(intervals[:, 0], inside)), np.sort(np.append(intervals[:, 1], inside))], axis=1)


def _bases(intervals: np.ndarray) -> int:
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def _note(left_out: dict[str, Any], reason: str, bases: Any, count: Any = None, unit: str = "records") -> None:
    if bases or count:
        left_out[reason] = {"bases": int(bases)} | ({} if count is None else {unit: int(count)})


def merge_dropped(dropped: dict[str, int], left_out: dict[str, Any]) -> dict[str, int]:
    """Records dropped by the reader and by the choice, by reason."""
    return dropped | {r: e["records"] for r, e in left_out.items() if e.get("records")}
