"""What is in a token store: counts and distributions per source, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from titans_genomics.data.dump import dump_store
from titans_genomics.data.scan import Records, gc_spread, n_in_contigs, n_in_reads, repeats, rows
from titans_genomics.data.shard import BASES, RECORDS, Shard, shard_path
from titans_genomics.data.splits import SPLITS
from titans_genomics.data.store import TokenStore
from titans_genomics.data.store_text import text_report
from titans_genomics.data.writer import TOKENS

__all__ = ["dump_store", "inspect_store", "text_report"]

_SAID = ("name", "path", "url", "kind", "species", "assembly", "weight", "sha256", "bytes", "records")


def inspect_store(store: Path, source: str | None = None) -> dict[str, Any]:
    """What a store holds, per source and in total.

    Parameters
    ----------
    store
        The folder of the token store.
    source
        Only this source; None: all.

    Returns
    -------
    dict
        Plain values for JSON: ``sources`` (one entry each), ``totals``, ``leaks`` (of the manifest; None when they were
        not looked for), ``tokenizer``, ``versions`` and what else the manifest says of the whole. Lengths and positions
        are in bases (of text: bytes), sizes in bytes, shares from 0 to 1. Of text what is about nucleotides is None.

    Raises
    ------
    FileNotFoundError, ValueError
        No such store or source, or the store is damaged.
    """
    opened = TokenStore(store)
    opened.runs("train", source)  # names a source that is not there
    manifest = opened.manifest
    splits = _splits(opened)
    sources = [
        _source(entry, opened.shard(entry["name"]), splits[entry["name"]])
        for entry in manifest["sources"]
        if source in (None, entry["name"])
    ]
    settings = {key: manifest["config"]["data"]["tokenizer"][key] for key in ("k", "overlap")}
    return {
        "store": str(store),
        "format": manifest["format"],
        "sha256": manifest["sha256"],
        "seed": manifest["config"]["seed"],
        "tokenizer": manifest["tokenizer"] | (settings if manifest["tokenizer"]["kind"] == "kmer" else {}),
        "versions": manifest["versions"],
        "sources": sources,
        "totals": _totals(sources),
        "size": sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file()),
        "leaks": _leaks(manifest["leaks"], source),
        "warnings": manifest["warnings"],
    }


def _source(entry: dict[str, Any], shard: Shard, splits: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of one source; ``entry`` is that of the manifest."""
    facts, bases = shard.facts, entry["bases"]
    paths = {suffix: shard_path(shard.folder, shard.label, suffix) for suffix in (*facts["sizes"], TOKENS)}
    records = Records(paths[BASES], _column(paths[RECORDS], "length", facts["records"]))
    text = facts["what"] == "documents"
    n = None
    if facts["what"] == "contigs":
        n = n_in_contigs(records, shard.n_runs)
    elif not text:
        n = n_in_reads(records) if entry["n"] else {"runs": 0, "longest": 0, "records": 0}
    return {
        **{key: entry[key] for key in _SAID},
        "read": facts["records"],
        "kept": entry["kept"],
        "left_out": _left_out(entry),
        "bases": bases,
        "acgt": None if text else entry["acgt"],
        "gc": None if text or not sum(entry["acgt"].values()) else entry["gc"],
        "n": n and {"bases": entry["n"], "share": _share(entry["n"], bases), **n},
        "iupac": None if text else entry["iupac"],
        "soft_masked": None
        if text
        else {
            "bases": entry["soft_masked"],
            "share": _share(entry["soft_masked"], bases),
            "stretches": len(shard.softmask),
        },
        "not_utf8": entry.get("not_utf8", 0) if text else None,
        "lengths": _lengths(records),
        "gc_spread": None if text else gc_spread(records),
        "duplicates": repeats(records, strands=not text),
        "splits": splits,
        "size": sum(path.stat().st_size for path in paths.values() if path.is_file()),
    }


def _left_out(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """What of a source is in no split, by reason: records where whole records, bases where they were read."""
    found = []
    for reason in dict.fromkeys([*entry["dropped"], *entry["left_out"]]):
        own = entry["left_out"].get(reason, {})
        found.append(
            {
                "reason": reason,
                "records": entry["dropped"].get(reason),
                "bases": own.get("bases"),
                "runs": own.get("runs"),
            }
        )
    return found


def _column(path: Path, name: str, count: int) -> np.ndarray:
    """A column of numbers of a Parquet file: int64, shape (count,)."""
    values = np.zeros(count, dtype=np.int64)
    for row, batch in rows(path, [name]):
        values[row : row + len(batch)] = batch.column(name).to_numpy()
    return values


def _splits(store: TokenStore) -> dict[str, dict[str, Any]]:
    """Tokens, bases and segments of every source and split; the numbers of the index are read through once."""
    nothing = {"segments": 0, "bases": 0, "tokens": 0}
    found = {name: {split: dict(nothing) for split in SPLITS} for name in store.sources}
    runs = store.manifest["runs"]
    firsts = np.array([run["first"] for run in runs], dtype=np.int64)
    bases = np.zeros(len(runs), dtype=np.int64)
    for row, batch in rows(store.index.path, ("start", "end")):
        length = batch.column("end").to_numpy() - batch.column("start").to_numpy()
        here = np.searchsorted(firsts, np.arange(row, row + len(length)), side="right") - 1
        bases += np.bincount(here, weights=length, minlength=len(runs)).astype(np.int64)
    for run, own in zip(runs, bases.tolist(), strict=True):
        segments = run["last"] - run["first"]
        found[run["source"]][run["split"]] = {"segments": segments, "bases": own, "tokens": run["tokens"]}
    return found


def _lengths(records: Records) -> dict[str, Any]:
    """The distribution of the lengths of records.

    ``n50``: records of this length or longer hold half of the bases, ``l50`` is how many they are. The histogram has ten
    bins to a power of ten: bin i holds lengths from ``edges[i]`` to below ``edges[i + 1]``.
    """
    values, counts = records.by_length()
    if not len(values):
        return dict.fromkeys(("shortest", "median", "mean", "n50", "l50", "longest"), 0) | {"histogram": None}
    bases = values * counts
    total, number = int(bases.sum()), int(counts.sum())
    upper = total - np.cumsum(bases)  # in longer records
    at = int(np.flatnonzero(2 * upper < total)[0]) if total else -1
    n50 = int(values[at])
    equal = -(-(total - 2 * int(upper[at])) // (2 * n50)) if total else 1  # records of this length that are needed
    middle = np.searchsorted(np.cumsum(counts), [(number - 1) // 2, number // 2], side="right")
    low, high = max(int(values[0]), 1), max(int(values[-1]), 1)
    edges = np.unique(np.rint(10 ** (np.arange(int(10 * np.log10(high)) + 3) / 10)).astype(np.int64))
    edges = edges[np.searchsorted(edges, low, side="right") - 1 : np.searchsorted(edges, high, side="right") + 1]
    return {
        "shortest": int(values[0]),
        "median": float(values[middle].mean()),
        "mean": float(total / number),
        "n50": n50,
        "l50": int(counts[at + 1 :].sum()) + equal if at >= 0 else 1,
        "longest": int(values[-1]),
        "histogram": {
            "edges": edges.tolist(),
            "records": np.histogram(values, edges, weights=counts)[0].astype(int).tolist(),
            "bases": np.histogram(values, edges, weights=bases)[0].astype(int).tolist(),
        },
    }


def _totals(sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    acgt = {base: sum((source["acgt"] or {}).get(base, 0) for source in sources) for base in "ACGT"}
    known = sum(acgt.values())
    return {
        "sources": len(sources),
        **{key: sum(source[key] for source in sources) for key in ("read", "kept", "bases")},
        "acgt": acgt,
        "gc": (acgt["C"] + acgt["G"]) / known if known else None,
        "n": sum((source["n"] or {}).get("bases", 0) for source in sources),
        "iupac": sum(source["iupac"] or 0 for source in sources),
        "soft_masked": sum((source["soft_masked"] or {}).get("bases", 0) for source in sources),
        "duplicates": {key: sum(source["duplicates"][key] for source in sources) for key in ("records", "bases")},
        "splits": {
            split: {
                key: sum(source["splits"][split][key] for source in sources) for key in ("segments", "bases", "tokens")
            }
            for split in SPLITS
        },
    }


def _leaks(leaks: dict[str, Any] | None, source: str | None) -> dict[str, Any] | None:
    """What the manifest says of leaks; with ``source`` only of what that one holds out."""
    if leaks is None or source is None:
        return leaks
    return leaks | {"held": [held for held in leaks["held"] if held["source"] == source]}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
