"""What a token store says of itself, and the last checks before it is written."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from titans_genomics import __version__
from titans_genomics.config import Config, DataConfig, SourceConfig
from titans_genomics.data.layout import Chosen, count_n, cut, merge_dropped
from titans_genomics.data.shard import Shard
from titans_genomics.data.splits import SPLITS
from titans_genomics.data.vocabulary import Tokenizer


def check_n(source: SourceConfig, data: DataConfig, shard: Shard, own: Chosen) -> None:
    """Raise ValueError when more of what is used of a source is N than ``data.max_n`` allows."""
    unknown, bases = count_n(shard, own)
    share = unknown / max(bases, 1)
    if share > data.max_n:
        masked = data.soft_mask == "n" and shard.facts["soft_masked"]
        cause = " (soft-masked bases became N: data.soft_mask)" if masked else ""
        runs = data.n_runs == "keep" and shard.facts["what"] == "contigs"
        raise ValueError(
            f"{source.path}: {100 * share:.1f}% of the {bases:,} bases are N{cause}, more than data.max_n allows "
            f"({100 * data.max_n:.1f}%). Use an unmasked file{', leave runs of N out (data.n_runs drop or split)' if runs else ''}, or raise data.max_n"
        )


def check_splits(config: Config, chosen: Sequence[Chosen], text: bool = False) -> None:
    """Raise ValueError when train, or a held-out split that is wanted, is empty; ``text``: the sources are documents."""
    split = config.data.split
    sizes = {
        name: sum(int((own.end - own.begin)[own.split == number].sum()) for own in chosen)
        for number, name in enumerate(SPLITS)
    }
    sources = config.data.sources
    fixed = all(source.split for source in sources)
    for name, share in (("train", 1.0), ("validation", split.validation), ("test", split.test)):
        if share > 0 and not sizes[name]:
            total = sum(sizes.values())
            files = ", ".join(str(source.path) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
            if fixed:
                other = "or leave one without, to be divided" if name == "train" else f"or set data.split.{name} to 0"
                raise ValueError(
                    f"{files}: every source has a split of its own, and none is {name}. Give one to {name} "
                    f"(data.sources[].split), {other}"
                )
            unit = {
                "block": f"blocks of {split.block:,} {'bytes' if text else 'bases'} (data.split.block)",
                "contig": f"whole {'documents' if text else 'contigs'} (data.split.by)",
                "species": "whole species (data.split.by)",
            }[split.by]
            if split.by == "species" or (len(sources) > 1 and split.by == "contig"):
                raise ValueError(
                    f"{files}: the split leaves {name} empty: its units, {unit}, are too few or too large for data.split.validation "
                    f"{split.validation} and data.split.test {split.test}. Give sources to {name} by hand (data.sources[].split), or choose another data.split.by"
                )
            smaller = max(100, int(total * min(s for s in (split.validation, split.test) if s > 0)))
            add = "add text" if text else "add sequence"
            if text and total < 3 * smaller:
                remedy = "Add text, or files of their own for validation and test (data.sources[].split)"
            elif split.by != "block" or split.block > smaller:
                remedy = f"Split by block with data.split.block {smaller} or less, or {add}"
            else:  # such blocks are there already
                remedy = f"{add.capitalize()}, or change these shares"
            raise ValueError(
                f"{files}: the split leaves {name} empty: {total:,} {'bytes' if text else 'bases'} are too few {unit}{'' if text else ' or reads'} for "
                f"data.split.validation {split.validation} and data.split.test {split.test}. {remedy}"
            )


def describe(
    data: DataConfig, source: SourceConfig, shard: Shard, own: Chosen, runs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the manifest says of one source."""
    facts = shard.facts
    documents = facts["what"] == "documents"
    bases = sum(facts["acgt"].values())
    lengths = shard.columns("length")[0]
    tokens = {run["split"]: run["tokens"] for run in runs if run["source"] == source.label}
    return {
        "name": source.label,
        "path": str(source.path),
        "url": source.url,
        "kind": facts["kind"],
        "species": source.species,
        "assembly": source.assembly,
        "weight": source.weight,
        "sha256": facts["sha256"],
        "bytes": facts["bytes"],
        "bases": facts["bases"],
        "acgt": facts["acgt"],
        "n": facts["n"],
        "n_runs": len(cut(shard.n_runs, shard.columns("offset")[0])),
        "gc": (facts["acgt"]["C"] + facts["acgt"]["G"]) / max(bases, 1),
        "iupac": 0 if documents else facts["iupac"],
        "not_utf8": facts["iupac"] if documents else 0,
        "soft_masked": facts["soft_masked"],
        "records": facts["what"],
        "kept": facts["records"] - sum(entry.get("records", 0) for entry in own.left_out.values()),
        "dropped": merge_dropped(facts["dropped"], own.left_out),
        "left_out": own.left_out,
        "shortest": facts["shortest"],
        "longest": facts["longest"],
        "n50": n50(lengths),
        "split_by": _split_by(source, shard, data),
        "tokens": {name: tokens.get(name, 0) for name in SPLITS},
    }


def _split_by(source: SourceConfig, shard: Shard, data: DataConfig) -> str:
    """How a source was divided, in words."""
    if source.split:
        return f"all in {source.split}"
    if data.split.by == "species":
        return "by species"
    return f"by {data.split.reads if shard.facts['what'] == 'reads' else data.split.by}"


def n50(lengths: np.ndarray) -> int:
    """The length such that records of this length or longer hold half of the bases."""
    ordered = np.sort(lengths)[::-1]
    total = np.cumsum(ordered)
    return int(ordered[np.searchsorted(total, total[-1] / 2)]) if len(ordered) else 0


def totals_of(sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    totals: dict[str, Any] = {
        key: sum(source[key] for source in sources) for key in ("bases", "n", "iupac", "soft_masked")
    }
    acgt = {base: sum(source["acgt"][base] for source in sources) for base in "ACGT"}
    totals["gc"] = (acgt["G"] + acgt["C"]) / max(sum(acgt.values()), 1)
    totals["tokens"] = {name: sum(source["tokens"][name] for source in sources) for name in SPLITS}
    return totals


_ROLES = {"pad": "padding", "bos": "the beginning of a text", "eos": "the end of a text"}
_WORTH_SAYING = 0.05  # share of held-out bases in train that is


def warnings_of(
    config: Config, sources: Sequence[dict[str, Any]], leaks: dict[str, Any] | None, tokenizer: Tokenizer
) -> list[str]:
    """What a reader of the report should know about the splits, and about what of them stands in train."""
    notes = []
    if tokenizer.added:
        notes.append(
            f"{config.data.tokenizer.path}: the tokenizer has no token for {' or '.join(_ROLES[role] for role in tokenizer.added)}: "
            f"{', '.join(tokenizer.vocabulary[getattr(tokenizer, role)] for role in tokenizer.added)} added behind its vocabulary"
        )
    for entry in sources:
        if strays := entry["not_utf8"]:
            done = {"keep": "kept as they are", "replace": "replaced by U+FFFD"}[config.data.text.encoding]
            notes.append(f"source {entry['name']}: {strays:,} bytes are not UTF-8 and were {done} (data.text.encoding)")
    by_unit = config.data.split.by != "species"
    for entry, source in zip(sources, config.data.sources, strict=True):
        total = sum(entry["tokens"].values())
        for name, share in (("validation", config.data.split.validation), ("test", config.data.split.test)):
            if source.split or not by_unit:
                continue
            got = entry["tokens"][name] / total
            if share and not got:
                notes.append(f"source {entry['name']}: too few units to hold any out for {name}")
            elif got > 2 * share:
                notes.append(
                    f"source {entry['name']}: {100 * got:.1f}% held out for {name}, {100 * share:.1f}% was asked for; a smaller data.split.block comes closer"
                )
    for held in leaks["held"] if leaks else ():
        if held["share"] > _WORTH_SAYING:
            notes.append(
                f"source {held['source']}: {100 * held['share']:.1f}% of what is held out for {held['split']} stands "
                f"near-identically in train, most of it in {held['pairs'][0]['train']}"
            )
    for record in leaks["records"] if leaks else ():
        notes.append(
            f"source {record['source']}: {100 * record['share']:.1f}% of what is held out of {record['record']} for "
            f"{record['split']} stands near-identically in train"
        )
    return notes


def versions() -> dict[str, str]:
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
