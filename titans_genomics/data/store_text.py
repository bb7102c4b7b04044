"""What `inspect` found in a token store, as a page of text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from titans_genomics.data.splits import SPLITS
from titans_genomics.progress import quantity

_WIDTH = 120
_LEAST = 8  # letters of a column of words
_LISTED = 3  # train sources of a leak, and matches, that are named


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
    if text:
        columns, align = ["source", "read", "left out", "used", "", unit, "not UTF-8", "on disk"], "lrrrlrrr"
    else:
        columns = [
            "source",
            "read",
            "used",
            "",
            unit,
            "GC",
            "N",
            "N runs",
            "longest",
            "soft-masked",
            "IUPAC",
            "on disk",
        ]
        align = "lrrlrrrrrrrr"
    row = _bytes_row if text else _bases_row
    lines += _table("What was read", columns, align, [row(source) for source in sources])
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
    if found["warnings"]:
        lines += ["", *(line for warning in found["warnings"] for line in _wrapped(f"warning: {warning}"))]
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


def _bytes_row(source: dict[str, Any]) -> list[str]:
    """Of text; documents that were left out while reading are not among those read."""
    left_out = sum(left["records"] or 0 for left in source["left_out"])
    return [
        source["name"],
        *(_count(number) for number in (source["read"], left_out, source["kept"])),
        source["records"],
        _count(source["bases"]),
        _count(source["not_utf8"]),
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
        f"Held-out sequence that stands near-identically in train (by {leaks['tool']}, k = {leaks['k']}, at most {_percent(leaks['max_share'])} wanted)",
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
    return textwrap.wrap(_plain(text), _WIDTH)


def _plain(text: str) -> str:
    """Text without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}%"
