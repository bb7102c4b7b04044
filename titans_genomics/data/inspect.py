"""What is in a token store: counts and distributions per source, as plain values and as text for a terminal."""

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
from titans_genomics.data.writer import TOKENS
from titans_genomics.progress import quantity

__all__ = ["dump_store", "inspect_store", "text_report"]

_SAID = ("name", "path", "url", "kind", "species", "assembly", "weight", "sha256", "bytes", "records")
_WIDTH = 120
_LEAST = 8  # letters of a column of words
_LISTED = 3  # train sources of a leak, and matches, that the text names


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


# ---------------------------------------------------------------------------------------------- text


def text_report(found: dict[str, Any]) -> str:
    """What `inspect_store` found as a page for a terminal, at most 120 columns wide."""
    sources, totals = found["sources"], found["totals"]
    tokens = sum(split["tokens"] for split in totals["splits"].values())
    kind = found["tokenizer"]["kind"]
    if kind == "kmer":
        kind = f"{'overlapping ' if found['tokenizer']['overlap'] else ''}{found['tokenizer']['k']}-mers"
    text = any(source["records"] == "documents" for source in sources)
    unit = "bytes" if text else "bases"
    lines = [
        _plain(found["store"]),
        f"{_count(len(sources))} source{'s' * (len(sources) != 1)}, {_count(totals['bases'])} {unit}, {_count(tokens)} tokens "
        f"({kind}, {_count(found['tokenizer']['vocab_size'])} in the vocabulary), {quantity(found['size'])}B on disk, seed {found['seed']}",
    ]
    lines += _table("Sources", ["source", "kind", "species", "assembly", "weight", "file"], "llllrl", _files(sources))
    lines += _table(
        "What was read",
        ["source", "read", "used", "", unit, "GC", "N", "N runs", "longest", "soft-masked", "IUPAC", "on disk"],
        "lrrlrrrrrrrr",
        [_bases_row(source) for source in sources],
    )
    lines += _table(
        f"Lengths of the records, {unit}",
        ["source", "shortest", "median", "mean", "N50", "L50", "longest"],
        "lrrrrrr",
        [
            [
                source["name"],
                *(_count(source["lengths"][key]) for key in ("shortest", "median", "mean", "n50", "l50", "longest")),
            ]
            for source in sources
        ],
    )
    spread = [source for source in sources if source["gc_spread"]]
    quantiles = ("0.05", "0.25", "0.5", "0.75", "0.95")
    lines += _table(
        f"GC over windows of about {spread[0]['gc_spread']['window']:,} bases, shorter records whole" if spread else "",
        ["source", "windows", "mean", "sd", *(f"{100 * float(q):.0f}%" for q in quantiles)],
        "lrrrrrrrr",
        [
            [
                source["name"],
                _count(source["gc_spread"]["windows"]),
                *(_percent(source["gc_spread"][key]) for key in ("mean", "sd")),
                *(_percent(source["gc_spread"]["quantiles"][q]) for q in quantiles),
            ]
            for source in spread
        ],
    )
    lines += _table(
        f"Splits: segments and {unit}",
        ["source", *(cell for split in SPLITS for cell in (split, unit, "share"))],
        "lrrrrrrrrr",
        [_split_row(source["name"], source["splits"]) for source in sources]
        + ([_split_row("all", totals["splits"])] if len(sources) > 1 else []),
    )
    lines += _table(
        "Left out",
        ["source", "records", unit, "reason"],
        "lrrl",
        [
            [source["name"], _count(left["records"]), _count(left["bases"]), left["reason"]]
            for source in sources
            for left in source["left_out"]
        ],
    )
    doubled = [source for source in sources if source["duplicates"]["records"]]
    lines += _table(
        "Records that are the same as one before them" + ("" if text else ", on either strand"),
        ["source", "records", "share", unit, "share"],
        "lrrrr",
        [
            [
                source["name"],
                _count(source["duplicates"]["records"]),
                _percent(_share(source["duplicates"]["records"], source["read"])),
                _count(source["duplicates"]["bases"]),
                _percent(_share(source["duplicates"]["bases"], source["bases"])),
            ]
            for source in doubled
        ],
    )
    if not doubled:
        lines += ["", "No record is there twice."]
    lines += _leak_lines(found["leaks"])
    lines += ["", *(line for warning in found["warnings"] for line in _wrapped(f"warning: {warning}"))] * bool(
        found["warnings"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += ["", *_wrapped(f"Made with {versions}."), f"Checksum {found['sha256']}"]
    return "\n".join(lines)


def _files(sources: Sequence[dict[str, Any]]) -> list[list[str]]:
    keys = ("name", "kind", "species", "assembly")
    return [[*(source[key] or "" for key in keys), f"{source['weight']:g}", source["path"]] for source in sources]


def _bases_row(source: dict[str, Any]) -> list[str]:
    n, soft = source["n"], source["soft_masked"]
    return [
        source["name"],
        _count(source["read"]),
        _count(source["kept"]),
        source["records"],
        _count(source["bases"]),
        _percent(source["gc"]),
        _percent(n and n["share"]),
        _count(n and n["runs"]),
        _count(n and n["longest"]),
        _percent(soft and soft["share"]),
        _count(source["iupac"]),
        quantity(source["size"]) + "B",
    ]


def _split_row(name: str, splits: dict[str, Any]) -> list[str]:
    total = sum(splits[split]["bases"] for split in SPLITS)
    cells = [name]
    for split in SPLITS:
        own = splits[split]
        cells += [_count(own["segments"]), _count(own["bases"]), _percent(_share(own["bases"], total))]
    return cells


def _leak_lines(leaks: dict[str, Any] | None) -> list[str]:
    """Held-out sequence that stands near-identically in train."""
    if leaks is None:
        return ["", "Near-duplicates between the splits were not looked for."]
    cells = []
    for held in leaks["held"]:
        own = [f"{held['source']} ({held['split']})", _count(held["judged"]), _percent(held["share"])]
        for pair in held["pairs"][:_LISTED] or [None]:
            cells.append(
                own + ([pair["train"], _percent(pair["share"]), _percent(pair["identity"])] if pair else [""] * 3)
            )
            own = [""] * 3
    lines = _table(
        f"Held-out sequence that stands near-identically in train (k = {leaks['k']}, at most {_percent(leaks['max_share'])} wanted)",
        ["held out", "bases looked at", "in train", "where", "share", "identity"],
        "lrrlrr",
        cells,
    )
    if leaks.get("moved"):
        lines.append(
            f"  {_count(leaks['moved'])} segments ({_count(leaks['moved_bases'])} bases) were moved to train for it."
        )
    matches = [match for held in leaks["held"] for match in held["matches"]]
    matches.sort(key=lambda match: match["held"]["start"] - match["held"]["end"])
    lines += _table(
        "The longest matches (0-based, half-open)",
        ["held out", "of", "train", "of", "strand", "identity"],
        "llllrr",
        [
            [
                *(part for side in ("held", "train") for part in (_locus(match[side]), match[side]["source"])),
                match["strand"],
                _percent(match["identity"]),
            ]
            for match in matches[:_LISTED]
        ],
    )
    return lines


def _locus(locus: dict[str, Any]) -> str:
    return f"{locus['record']}:{locus['start']}-{locus['end']}"


def _table(title: str, header: Sequence[str], align: str, cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, columns two blanks apart; none without rows. Columns of words give way when it is too wide."""
    if not cells:
        return []
    lines = [list(header), *([_plain(cell) for cell in row] for row in cells)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(header))]
    words = [column for column, side in enumerate(align) if side == "l"]
    while 2 + sum(widths) + 2 * (len(widths) - 1) > _WIDTH:
        widest = max(words, key=lambda column: widths[column])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    found = ["", title]
    for row in lines:
        cut = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(row, widths, strict=True)]
        found.append(
            "  "
            + "  ".join(
                cell.ljust(width) if side == "l" else cell.rjust(width)
                for cell, width, side in zip(cut, widths, align, strict=True)
            ).rstrip()
        )
    return found


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(_plain(text), _WIDTH)


def _plain(text: str) -> str:
    """Text without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}%"
