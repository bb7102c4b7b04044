"""Saturation mutagenesis: every base of chosen loci replaced by each of the three others, scored, and drawn as a heat map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from titans_genomics.data.alphabet import N
from titans_genomics.files import replacing
from titans_genomics.progress import Progress
from titans_genomics.tasks.likelihood import Strands
from titans_genomics.use.alleles import Allele, score_alleles
from titans_genomics.use.output import check_out
from titans_genomics.use.reader import Reader
from titans_genomics.use.records import Interval, few_of, one_based_habit, read_bed
from titans_genomics.use.score_variants import score_window
from titans_genomics.use.vcf import Genome, read_genome

HEADER = ("contig", "start", "end", "name", "ref", "alt", "llr", "distance")

BLOCK = 2048
"""Bases whose substitutions are scored at a time."""

ROW = 100
"""Bases in a row of the heat map."""

MOST_ROWS = 20
"""Rows of the heat map; what does not fit stands in the table alone."""


def saturate(
    reader: Reader,
    fasta: str | Path,
    bed: str | Path,
    out: str | Path,
    heat_map: str | Path | None = None,
    context: int | None = None,
    strands: Strands = "both",
    after: int | None = None,
    share: int | None = None,
) -> dict[str, Any]:
    """Score every single-base substitution of the intervals of a BED file.

    Parameters
    ----------
    reader, fasta, context, strands, after, share
        As in `score_variants.score_variants`.
    bed : path
        The loci.
    out : path
        TSV to write, of the columns contig, start, end (0-based half-open), name (of the interval), ref, alt, llr (nats)
        and distance, in the order of the intervals; where they overlap bases come again. N is left out.
    heat_map : path, optional
        SVG to write: llr by base and substitution of the first 2,000 bases.

    Returns
    -------
    dict
        ``bases`` and ``substitutions``; ``without`` (bases that are N to the model); ``drawn`` (bases in the heat map);
        ``warnings``; ``window``; ``seconds``.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing or wrong; an interval lies on no contig of the genome, or ends beyond it. Nothing is written.
    """
    bed, out = Path(bed), Path(out)
    reader.nucleotides("saturate")
    window = score_window(reader, context, after, share)
    for path in (out, *([Path(heat_map)] if heat_map else [])):
        check_out(path, (bed, fasta))
    if heat_map is not None and Path(heat_map).absolute() == out.absolute():
        raise ValueError(f"{out}: is the table and the heat map. Give the heat map another name")
    if not bed.is_file():
        raise FileNotFoundError(f"{bed}: no such BED file")
    intervals = read_bed(bed)
    genome = read_genome(fasta, reader)
    placed = [(_contig(bed, interval, genome), interval) for interval in intervals]
    torch.set_flush_denormal(True)
    started = time.monotonic()
    sites = (
        (contig, at, interval.name)
        for contig, interval in placed
        for at in range(interval.start, interval.end)
        if genome.contigs[contig][at] != N
    )
    total = sum(int((genome.contigs[contig][i.start : i.end] != N).sum()) for contig, i in placed)
    drawn = np.full((min(total, ROW * MOST_ROWS), 4), np.nan)
    seen: list[tuple[str, int]] = []
    try:
        with replacing(out) as temporary:
            with temporary.open("w", encoding="utf-8") as file:
                file.write("\t".join(HEADER) + "\n")
                with Progress(3 * total, "alleles", f"saturating {bed.name} with {reader.name}") as progress:
                    while block := list(islice(sites, BLOCK)):
                        alleles = [
                            Allele(contig, at, at + 1, np.array([base], dtype=np.uint8))
                            for contig, at, _ in block
                            for base in range(4)
                            if base != genome.contigs[contig][at]
                        ]
                        ratio, distance = score_alleles(reader, genome.contigs, alleles, window, strands, progress)
                        for number, allele in enumerate(alleles):
                            contig, at, name = block[number // 3]
                            ref, alt = "ACGT"[genome.contigs[contig][at]], "ACGT"[allele.alt[0]]
                            file.write(
                                f"{contig}\t{at}\t{at + 1}\t{name}\t{ref}\t{alt}\t{ratio[number]:.6f}\t{distance[number]:.6g}\n"
                            )
                            if len(seen) + number // 3 < len(drawn):
                                drawn[len(seen) + number // 3, allele.alt[0]] = ratio[number]
                        seen.extend((contig, at) for contig, at, _ in block[: len(drawn) - len(seen)])
            if heat_map is not None:
                _draw(Path(heat_map), drawn, seen, f"{reader.name}, log-likelihood ratio (nats), {bed.name}")
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror or error}): is the disk full?") from error
    bases = sum(interval.end - interval.start for interval in intervals)
    habit = one_based_habit(intervals)
    return {
        "bases": total,
        "substitutions": 3 * total,
        "without": bases - total,
        "drawn": len(drawn) if heat_map is not None else 0,
        "warnings": [f"{bed}: {habit}"] if habit else [],
        "window": asdict(window) | {"strands": strands},
        "seconds": time.monotonic() - started,
    }


def _contig(bed: Path, interval: Interval, genome: Genome) -> str:
    """The genome's name of an interval's contig. Raises ValueError where it does not lie on one."""
    name = genome.name(interval.contig)
    if name is None:
        raise ValueError(
            f"{bed}: line {interval.line}: contig {interval.contig!r} is not in {genome.path}, which has {few_of(genome.contigs)}. Rename it, or give the FASTA of the same assembly"
        )
    length = len(genome.contigs[name])
    if interval.end > length:
        raise ValueError(
            f"{bed}: line {interval.line}: {interval.contig}:{interval.start}-{interval.end} (0-based) ends beyond its contig, which has {length:,} bases in {genome.path}. "
            "Were 1-based positions written, or is it made for another assembly?"
        )
    return name


def _draw(path: Path, ratio: np.ndarray, sites: Sequence[tuple[str, int]], title: str) -> None:
    """The heat map: a row for every `ROW` bases and wherever the bases do not follow one another; the reference's letter in its cell."""
    rows = _rows(sites)
    limit = float(np.nanmax(np.abs(ratio), initial=1e-6))
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(12, 0.9 + 0.85 * max(1, len(rows))), layout="constrained")
        figure.suptitle(title if sites else f"{title}: no bases", x=0.01, ha="left", size=9)
        grid = figure.subplots(max(1, len(rows)), 1, squeeze=False)[:, 0]
        for ax, (first, last) in zip(grid, rows, strict=False):
            image = ax.imshow(ratio[first:last].T, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")  # fmt: skip
            ax.set_xlim(-0.5, ROW - 0.5)
            ax.set_yticks(range(4), "ACGT")
            ticks = range(0, last - first, 20)
            ax.set_xticks(ticks, [f"{sites[first + tick][1] + 1:,}" for tick in ticks])
            ax.set_ylabel(sites[first][0][:16], size=6)
            for place in range(first, last):
                ax.text(place - first, int(np.flatnonzero(np.isnan(ratio[place]))[0]), "•", ha="center", va="center", size=5)  # fmt: skip
        if rows:
            figure.colorbar(image, ax=grid, fraction=0.015, label="nats; below 0: less likely")
            grid[len(rows) - 1].set_xlabel("position (1-based); a dot marks the base of the reference")
        else:
            grid[0].set_axis_off()
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _rows(sites: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    """Where the rows of the heat map begin and end; as many as are drawn."""
    rows: list[tuple[int, int]] = []
    first = 0
    for place in range(1, len(sites) + 1):
        contig, at = sites[place - 1]
        if place == len(sites) or place - first == ROW or sites[place] != (contig, at + 1):
            rows.append((first, place))
            first = place
    return rows[:MOST_ROWS]
