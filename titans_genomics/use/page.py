"""The page of `track`: the tracks of a genome beside its annotation, in one HTML file that needs no network."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import jinja2
import numpy as np

from titans_genomics.data.bgzf import is_gzip
from titans_genomics.data.regions import fit_regions, read_regions
from titans_genomics.files import write_text
from titans_genomics.use.track_files import Figures

GAP = 255
"""What stands for no value among the levels 0 to 254 of the page."""

_NAMES = ("gene", "Name", "gene_name", "product", "ID", "gene_id", "locus_tag")
_WHOLE = {"region", "chromosome", "contig", "scaffold", "supercontig", "source", "databank_entry"}  # the contig itself
_MOST = 50_000  # features; a browser draws no more in good time


class Feature(NamedTuple):
    """A stretch of a contig, 0-based half-open."""

    contig: str
    start: int
    end: int
    strand: str
    kind: str
    name: str


def read_features(path: Path, contigs: dict[str, int], genome: Path) -> list[Feature]:
    """The features of a BED, GFF3 or GTF file, plain or gzip, by the contig names of a genome.

    Of GFF3 what has no parent is shown, of GTF what is not part of a transcript, and transcripts where no gene is listed: not the
    exons and CDS of a gene, but the CDS of bacterial annotations that list nothing else. The contig itself is left out.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, a damaged line, a contig that the genome has not, a feature beyond the end of its contig.
    """
    regions = read_regions(path)  # names damaged lines
    names = {}
    for name, intervals in regions.items():
        (own,) = fit_regions({name: intervals}, contigs, path, genome, "annotation")
        names[name] = own
    found = []
    with (gzip.open if is_gzip(path) else open)(path, "rt", errors="replace") as lines:
        for line in lines:
            if line.startswith(("##FASTA", ">")):
                break
            fields = line.rstrip("\r\n").lstrip("\ufeff").split("\t" if "\t" in line else None)
            if len(fields) < 3 or fields[0] not in names or line.startswith("#"):
                continue
            gff = len(fields) > 7 and fields[3].isdigit() and fields[4].isdigit() and fields[6] in "+-.?"
            feature = _of_gff(fields) if gff else _of_bed(fields)
            if feature is not None:
                found.append(feature._replace(contig=names[fields[0]]))
    if any(feature.kind == "gene" for feature in found):
        found = [feature for feature in found if feature.kind != "transcript"]
    order = {name: number for number, name in enumerate(contigs)}
    return sorted(found, key=lambda feature: (order[feature.contig], feature.start))


def _of_bed(fields: list[str]) -> Feature:
    name = fields[3] if len(fields) > 3 else ""
    strand = fields[5] if len(fields) > 5 and fields[5] in "+-" else "."
    return Feature(fields[0], int(fields[1]), int(fields[2]), strand, "", name)


def _of_gff(fields: list[str]) -> Feature | None:
    text = fields[8] if len(fields) > 8 else ""
    entries = (entry.strip().replace(' "', "=", 1).strip('"').partition("=") for entry in text.split(";"))
    told = {key: unquote(value) for key, _, value in entries if value}
    kind, start = fields[2], int(fields[3]) - 1
    part = "Parent" in told or ("transcript_id" in told and kind not in ("gene", "transcript"))
    if part or (kind in _WHOLE and start == 0):
        return None
    name = next((told[key] for key in _NAMES if key in told), "")
    return Feature(fields[0], start, int(fields[4]), fields[6], kind, name)


def write_page(
    result: dict[str, Any], written: list[Figures], contigs: dict[str, int], features: list[Feature], path: Path
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    result : dict
        That of `track`.
    written : list of Figures
        The tracks with their overviews.
    contigs : dict
        Name to length.
    features : list of Feature
        The annotation; of very many the longest are shown.
    path : Path
    """
    if len(features) > _MOST:
        longest = set(sorted(features, key=lambda feature: feature.start - feature.end)[:_MOST])
        features = [feature for feature in features if feature in longest]
    numbers = {name: number for number, name in enumerate(contigs)}
    data = {
        "contigs": [{"name": name, "length": length} for name, length in contigs.items()],
        "tracks": [_levels(made, contigs) for made in written],
        "features": [[numbers[f.contig], f.start, f.end, f.strand, f.kind, f.name] for f in features],
        "intervals": [
            [numbers[own["contig"]], own["start"], own["end"], round(own["score"], 3)] for own in result["surprising"]
        ],
    }
    loader = jinja2.PackageLoader("titans_genomics.use", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no name can end the script
    write_text(path, environment.get_template("page.html").render(result=result, data=text))


def _levels(made: Figures, contigs: dict[str, int]) -> dict[str, Any]:
    """A track for the page: the means of its bins as bytes between two numbers."""
    assert made.overview is not None
    means = {name: made.overview.mean(name) for name in contigs}
    known = np.concatenate([own[np.isfinite(own)] for own in means.values()])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    scale = 254 / (high - low) if high > low else 0.0
    bins = {}
    for name, own in means.items():
        level = np.where(np.isfinite(own), np.round((np.nan_to_num(own, nan=low) - low) * scale), GAP)
        bins[name] = base64.b64encode(level.astype(np.uint8).tobytes()).decode()
    return {
        "name": made.column.name,
        "bin": made.overview.width,
        "low": low,
        "high": high,
        "mean": made.mean,
        "levels": list(bins.values()),
    }
