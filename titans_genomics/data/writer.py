"""Sequence files to a token store (``store`` says what is in it).

One source after the other is encoded into a spool file in file order; then, all lengths known, its segments are
copied split by split to their places. Memory grows with the longest contig, not with the genome. All is written in
a sibling folder that takes the store's place at the end, in one rename, so that whatever happens before leaves the old
store as it was and nothing that could be taken for a new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from titans_genomics import __version__
from titans_genomics.config import Config, DataConfig, SourceConfig
from titans_genomics.data import alphabet
from titans_genomics.data.folder import COLUMNS, FORMAT, INDEX, MANIFEST, SOFTMASK, TOKENS, replacing
from titans_genomics.data.readers import check_source, encode_record, open_source
from titans_genomics.data.splits import SPLITS, contig_segments, read_key, read_splits
from titans_genomics.progress import Progress

_PIECE = 1 << 22  # bytes copied or counted at a time


def tokenize(config: Config, out: Path) -> dict[str, Any]:
    """Read all sources of a config and write the token store folder ``out``; returns its manifest.

    Every file is looked at (format, ends, headers, indexes) before the first is read through.

    Raises
    ------
    FileNotFoundError
        A source is missing.
    ValueError
        Bad input, named by file, record and remedy; or a split that leaves validation or test empty.
    OSError
        Writing failed, such as on a full disk. An older store in ``out`` is still there and whole.
    """
    kinds = [check_source(source, config.data) for source in config.data.sources]
    try:
        with replacing(Path(out)) as folder:
            return _write(config, kinds, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"{out}: no room to write the token store ({os.strerror(error.errno)}). It needs about two bytes per base; "
            "free some space or choose another folder. An older store there is unchanged"
        ) from error


@dataclass
class _Spool:
    """What is known of one source after it was read through."""

    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    reads: list[tuple[str, str | None, int | None]] = field(default_factory=list)  # strand, aligned, mapq
    keys: list[int] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(alphabet.VOCAB_SIZE, dtype=np.int64))
    ambiguous: int = 0
    masked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def _write(config: Config, kinds: list[str], folder: Path) -> dict[str, Any]:
    data = config.data
    sources: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    masks: list[np.ndarray] = []
    digest = hashlib.sha256()
    with (folder / TOKENS).open("wb") as tokens, (folder / INDEX).open("w", encoding="utf-8") as index:
        index.write("\t".join(COLUMNS) + "\n")
        for source, kind in zip(data.sources, kinds, strict=True):
            state = source.path.stat()
            checksum = _sha256(source.path)
            spooled = folder / "spool"
            spool = _read(source, data, config.seed, spooled)
            after = source.path.stat()
            if (state.st_size, state.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ValueError(f"{source.path}: the file changed while it was read. Run again when it is complete")
            _check_n(source, data, spool)
            own = _lay_out(source, config, spool, spooled, tokens, index, masks, digest)
            spooled.unlink()
            runs += own
            sources.append(_describe(source, kind, checksum, state.st_size, spool, own))
    _check_splits(config, runs)
    np.save(folder / SOFTMASK, np.concatenate([np.zeros((0, 2), dtype=np.int64), *masks]))
    digest.update((folder / INDEX).read_bytes())
    manifest = {
        "format": FORMAT,
        "sha256": digest.hexdigest(),
        "tokens": (folder / TOKENS).stat().st_size,
        "vocabulary": list(alphabet.VOCABULARY),
        "sources": sources,
        "runs": runs,
        "totals": _totals(sources),
        "warnings": _warnings(config, sources),
        "config": {"seed": config.seed, "data": data.model_dump(mode="json")},
        "versions": _versions(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _read(source: SourceConfig, data: DataConfig, seed: int, spooled: Path) -> _Spool:
    """Encode one source into ``spooled``, in file order."""
    spool = _Spool()
    at = 0
    with spooled.open("wb") as handle, Progress(None, "bases", f"reading {source.path.name}") as progress:
        for record in open_source(
            source, data, spool.dropped, lambda bases, share: progress.update(bases, fraction=share)
        ):
            tokens = encode_record(record, source, data, seed)
            handle.write(tokens)
            for start in range(0, len(tokens), _PIECE):
                spool.counts += np.bincount(tokens[start : start + _PIECE], minlength=alphabet.VOCAB_SIZE)
            spool.ambiguous += alphabet.count_codes(record.sequence)
            mask = alphabet.soft_mask_intervals(record.sequence)
            spool.masked += int((mask[:, 1] - mask[:, 0]).sum())
            if data.soft_mask == "keep" and len(mask):
                spool.masks.append(mask + at)
            spool.names.append(record.name)
            spool.lengths.append(len(tokens))
            if record.kind == "read":
                spool.reads.append((record.strand, record.aligned, record.mapq))
                spool.keys.append(read_key(seed, source.label, record.template))
            at += len(tokens)
            del record, tokens  # so that two contigs are never held at once
    return spool


def _lay_out(
    source: SourceConfig,
    config: Config,
    spool: _Spool,
    spooled: Path,
    tokens: IO[bytes],
    index: IO[str],
    masks: list[np.ndarray],
    digest: Any,
) -> list[dict[str, Any]]:
    """Copy the segments of one source to the store, split by split; returns its runs."""
    segments = _segments(source, config, spool)  # rows: record, start, end, split, spool offset
    mask = np.concatenate([np.zeros((0, 2), dtype=np.int64), *spool.masks])
    mask_start, mask_end = mask.T.copy()
    runs = []
    eos = bytes([alphabet.EOS])
    with spooled.open("rb") as raw, Progress(sum(spool.lengths), "bases", f"storing {source.label}") as progress:
        for split, split_name in enumerate(SPLITS):
            first = offset = tokens.tell()
            for record, start, end, _, at in segments[segments[:, 3] == split].tolist():
                stop = at + end - start
                for piece in _pieces(raw, at, stop):
                    tokens.write(piece)
                    digest.update(piece)
                    progress.update(len(piece))
                tokens.write(eos)
                digest.update(eos)
                strand, aligned, mapq = spool.reads[record] if spool.reads else ("+", None, None)
                origin = (source.label, spool.names[record], start, end, strand, split_name)
                row = (*origin, offset, end - start, aligned or ".", "." if mapq is None else mapq)
                index.write("\t".join(map(str, row)) + "\n")
                low, high = np.searchsorted(mask_end, at, side="right"), np.searchsorted(mask_start, stop)
                if high > low:
                    masks.append(np.clip(mask[low:high], at, stop) - at + offset)
                offset += end - start + 1
            if offset > first:
                runs.append({"source": source.label, "split": split_name, "start": first, "stop": offset})
    return runs


def _pieces(handle: IO[bytes], start: int, stop: int) -> Iterator[bytes]:
    handle.seek(start)
    while start < stop:
        piece = handle.read(min(_PIECE, stop - start))
        assert piece, "the spool file ends too early"
        start += len(piece)
        yield piece


def _segments(source: SourceConfig, config: Config, spool: _Spool) -> np.ndarray:
    """int64, shape (segments, 5): record, start, end, split, offset in the spool."""
    offsets = np.concatenate([[0], np.cumsum(spool.lengths)])
    if spool.reads:
        lengths = np.array(spool.lengths, dtype=np.int64)
        splits = read_splits(np.array(spool.keys, dtype=np.int64), lengths, config.data.split)
        count = len(lengths)
        return np.stack(
            [np.arange(count), np.zeros(count, np.int64), lengths, splits.astype(np.int64), offsets[:-1]], axis=1
        )
    rng = np.random.default_rng(read_key(config.seed, source.label, "split"))
    rows = [
        (contig, start, end, split, offsets[contig] + start)
        for contig, own in enumerate(contig_segments(spool.lengths, config.data.split, rng))
        for start, end, split in own
    ]
    return np.array(rows, dtype=np.int64)


def _check_n(source: SourceConfig, data: DataConfig, spool: _Spool) -> None:
    share = spool.counts[alphabet.N] / max(int(spool.counts.sum()), 1)
    if share > data.max_n:
        cause = " (soft-masked bases became N: data.soft_mask)" if data.soft_mask == "n" and spool.masked else ""
        raise ValueError(
            f"{source.path}: {100 * share:.1f}% of the {spool.counts.sum():,} bases are N{cause}, more than data.max_n allows ({100 * data.max_n:.1f}%). Use an unmasked file, or raise data.max_n"
        )


def _check_splits(config: Config, runs: list[dict[str, Any]]) -> None:
    split = config.data.split
    sizes = {name: sum(run["stop"] - run["start"] for run in runs if run["split"] == name) for name in SPLITS}
    for name, share in (("train", 1.0), ("validation", split.validation), ("test", split.test)):
        if share > 0 and not sizes[name]:
            unit = (
                f"blocks of {split.block:,} bases (data.split.block)"
                if split.by == "block"
                else "whole contigs (data.split.by)"
            )
            total = sum(sizes.values())
            smaller = max(100, int(total * min(s for s in (split.validation, split.test) if s > 0)))
            files = ", ".join(str(source.path) for source in config.data.sources[:3])
            more = ", ..." if len(config.data.sources) > 3 else ""
            raise ValueError(
                f"{files}{more}: the split leaves {name} empty: {total:,} bases are too few {unit} or reads for "
                f"data.split.validation {split.validation} and data.split.test {split.test}. "
                f"Split by block with data.split.block {smaller} or less, or add sequence"
            )


def _describe(
    source: SourceConfig, kind: str, checksum: str, size: int, spool: _Spool, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    a, c, g, t, n = (int(x) for x in spool.counts[:5])
    what = "reads" if kind == "bam" else "contigs"
    return {
        "name": source.label,
        "path": str(source.path),
        "kind": kind,
        "species": source.species,
        "weight": source.weight,
        "sha256": checksum,
        "bytes": size,
        "bases": a + c + g + t + n,
        "acgt": {"A": a, "C": c, "G": g, "T": t},
        "n": n,
        "gc": (c + g) / max(a + c + g + t, 1),
        "iupac": spool.ambiguous,
        "soft_masked": spool.masked,
        "records": what,
        "kept": len(spool.lengths),
        "dropped": dict(spool.dropped.most_common()),
        "shortest": min(spool.lengths),
        "longest": max(spool.lengths),
        "tokens": {name: sum(run["stop"] - run["start"] for run in runs if run["split"] == name) for name in SPLITS},
    }


def _totals(sources: list[dict[str, Any]]) -> dict[str, Any]:
    totals: dict[str, Any] = {
        key: sum(source[key] for source in sources) for key in ("bases", "n", "iupac", "soft_masked")
    }
    strong = sum(source["acgt"]["G"] + source["acgt"]["C"] for source in sources)
    totals["gc"] = strong / max(totals["bases"] - totals["n"], 1)
    totals["tokens"] = {name: sum(source["tokens"][name] for source in sources) for name in SPLITS}
    return totals


def _warnings(config: Config, sources: list[dict[str, Any]]) -> list[str]:
    """What a reader of the report should know about the splits."""
    notes = []
    for source in sources:
        total = sum(source["tokens"].values())
        for name, share in (("validation", config.data.split.validation), ("test", config.data.split.test)):
            got = source["tokens"][name] / total
            if share and not got:
                notes.append(f"source {source['name']}: too few units to hold any out for {name}")
            elif got > 2 * share:
                notes.append(
                    f"source {source['name']}: {100 * got:.1f}% held out for {name}, {100 * share:.1f}% was asked for; a smaller data.split.block comes closer"
                )
    return notes


def _versions() -> dict[str, str]:
    import Bio
    import pysam

    return {
        "titans-genomics": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pysam": pysam.__version__,
        "htslib": pysam.version.__htslib_version__,
        "biopython": Bio.__version__,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle, Progress(path.stat().st_size, "bytes", f"checksum of {path.name}") as progress:
        while block := handle.read(_PIECE):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()
