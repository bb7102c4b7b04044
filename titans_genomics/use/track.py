"""Whole genomes through a trained model: a bigWig for every number that it can say of a base, the most surprising intervals, a page.

Contigs are streamed: memory use does not grow with their length (tokenizers of several bases need a contig in memory). First
every contig is read, once, into a part that waits on disk (4 bytes per base and track); then the parts become bigWig files. An
interrupted run goes on where it was, because parts that are whole, or whole stretches of them, are kept.

The tracks, of every base: ``bits``, -log2 of the probability that the model gave it beforehand; ``entropy`` in bits, what that
was expected to be; per layer of the model ``surprise``, the norm of the inner gradient (module `surprise`), and the gates
``alpha`` (forgetting), ``eta`` (momentum) and ``theta`` (step). The first base of a contig has neither bits nor entropy: nothing was
read before it. N has no bits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from titans_genomics import __version__
from titans_genomics.data.regions import fit_regions, merge, read_regions
from titans_genomics.files import write_json
from titans_genomics.progress import Progress
from titans_genomics.use.page import read_features, write_page
from titans_genomics.use.reader import PIECE, Reader
from titans_genomics.use.records import few_of, one_based_habit, read_bed
from titans_genomics.use.track_files import Figures, surprising, usual, write_column, write_intervals
from titans_genomics.use.track_genome import Survey, survey
from titans_genomics.use.track_parts import OF_MEMORY, OF_NEXT, Parts, Reading, columns_of, read_contigs

TRACK = re.compile(rf"({'|'.join((*OF_NEXT, *OF_MEMORY))})(_layer\d+(_head\d+)?)?")
"""Names of tracks (`Column.name`)."""

TRACKS = ("bits", "entropy", "surprise", "alpha", "eta")
MASKS = ("n", "soft")


def track(
    reader: Reader,
    fasta: str | Path,
    out: str | Path,
    tracks: Sequence[str] = TRACKS,
    step: int = 1,
    contigs: Sequence[str] | None = None,
    mask: Sequence[str | Path] = (),
    piece: int = PIECE,
    stretch: int | Literal["run"] | None = "run",
    heads: Literal["mean", "each"] = "mean",
    flatten: bool = False,
    intervals: int = 100,
    annotation: str | Path | None = None,
) -> dict[str, Any]:
    """Read a genome and write tracks.

    Parameters
    ----------
    reader : Reader
        The model, and the memory that every contig (with ``stretch`` every stretch) begins with.
    fasta : path
        The genome: FASTA (plain, gzip, bgzip), GenBank, EMBL or 2bit.
    out : path
        Folder for TRACK.bw (TRACK_layerL.bw, TRACK_layerL_headH.bw), surprising.bed, tracks.html and tracks.json.
    tracks : sequence of str
        Of bits, entropy, surprise, alpha, eta, theta.
    step : int
        Bases of a bin of the bigWig files, from the contig's beginning on: the mean of its bases.
    contigs : sequence of str, optional
        Read these alone.
    mask : sequence of "n", "soft" or path
        What gets no value in any track, though the model reads it: N, lower case, the stretches of a BED or GFF file.
    piece : int
        Tokens of a call of the model; changes rounding only.
    stretch : int, "run" or None
        Tokens after which the memory begins anew; "run": as the run's evaluation did; None: never within a contig.
    heads : "mean" or "each"
        Surprise and gates of a layer: the mean over its heads, or a track for each.
    flatten : bool
        Divide surprise by its mean at the same place of a stretch (by chunks): a memory that has just begun is surprised by
        everything. Needs 20 stretches. The intervals are always told so.
    intervals : int
        Most intervals in surprising.bed: by surprise, without that track by bits, without both none.
    annotation : path, optional
        BED or GFF file of features that the page shows beside the tracks.

    Returns
    -------
    dict
        What tracks.json holds: model, genome, ``stretch``, ``contigs`` (name to bases, scored bases and bits per base), ``tracks``
        (name to file and mean), ``bits_per_base``, ``surprising`` (the intervals), ``bases_per_second`` of reading (None when
        nothing was left to read) and ``warnings``.

    A genome without bases gives no bigWig files, because one without contigs cannot be read, and is warned of. tracks.json is
    written last: as long as it is not there, the other files may be of an earlier run.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing or damaged; contigs, tracks or masks do not fit; a model of text. Before anything is read by the model.
    OSError
        The folder or the disk does not take what is written: bigWig files that exist are whole, and the next run goes on.
    """
    fasta, out = Path(fasta), Path(out)
    reader.nucleotides("track")
    columns = columns_of(reader, tracks, heads)
    for name, value, least in (("step", step, 1), ("piece", piece, 1), ("intervals", intervals, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}: it must be {least} or more")
    length = reader.stretch if stretch == "run" else stretch
    if length is not None and length < 1:
        raise ValueError(f"stretch is {length}: it must be 1 or more tokens; leave it out for none")
    surveyed = survey(fasta)
    lengths = _chosen(surveyed, contigs, fasta)
    masked, warnings = _masks(mask, surveyed, fasta)
    total = sum(lengths.values())
    if not total:
        asked = "" if contigs is None else " in the contigs asked for"
        warnings.append(
            f"{fasta}: no bases to read{asked}; no bigWig is written, because one without contigs cannot be read"
        )
    features = [] if annotation is None else read_features(Path(annotation), surveyed.lengths, fasta)
    features = [feature for feature in features if feature.contig in lengths]
    out.mkdir(parents=True, exist_ok=True)
    reading = Reading(reader, columns, piece, length)
    stat = fasta.stat()
    settings = {
        "version": __version__,
        "model": reader.sha256,
        "memory": None if reader.memory is None else _state_sum(reader),
        "genome": [str(fasta.resolve()), stat.st_size, stat.st_mtime_ns],
        "columns": [column.name for column in columns],
        "contigs": list(lengths.items()),
        "piece": piece,
        "stretch": length,
        "group": reading.group,
    }
    parts = Parts(out / ".parts", settings, columns, lengths)
    torch.set_flush_denormal(True)
    begun = time.monotonic()
    with Progress(total, "bases", f"reading {fasta.name} with {reader.name}") as progress:
        new = read_contigs(reading, fasta, parts, progress)
    seconds = time.monotonic() - begun
    scored = next((kind for kind in ("surprise", "bits") if any(c.kind == kind for c in columns)), None)
    for name in ("tracks.json", "tracks.html"):  # they are of all files together, which are now replaced one by one
        (out / name).unlink(missing_ok=True)
    for path in out.glob("*.bw"):  # of a run with other tracks
        if TRACK.fullmatch(path.stem) and path.stem not in settings["columns"]:
            path.unlink()
    written, levelled = [], False
    with Progress(total * len(columns), "bases", "writing tracks") as progress:
        for index, column in enumerate(columns if total else ()):
            path = out / f"{column.name}.bw"
            expected = usual(parts, index, length, reader.model.config.chunk) if column.kind == "surprise" else None
            flat = flatten and expected is not None
            levelled |= flat
            own = write_column(
                parts, index, column, path, step, masked, column.kind == scored, expected, flat, progress
            )
            written.append(own)
    if flatten and total and not levelled:
        warnings.append(
            "flatten: too few stretches to tell what is usual, or no surprise asked for: nothing was divided"
        )
    found = surprising(written, lengths, intervals)
    write_intervals(found, lengths, out / "surprising.bed")
    bits = next((made for made in written if made.column.kind == "bits"), None)
    result = {
        "task": "track",
        "version": __version__,
        "model": str(reader.folder),
        "model_sha256": reader.sha256,
        "memory": reader.memory,
        "genome": str(fasta),
        "stretch": length,
        "piece": piece,
        "step": step,
        "heads": heads,
        "flatten": levelled,
        "mask": [str(entry) for entry in mask],
        "bases": total,
        "bits_per_base": bits.mean if bits else None,
        "contigs": {name: _of_contig(name, size, bits) for name, size in lengths.items()},
        "tracks": {made.column.name: {"file": f"{made.column.name}.bw", "mean": made.mean} for made in written},
        "surprising": found,
        "bases_per_second": new / seconds if new else None,
        "warnings": warnings,
    }
    write_page(result, written, lengths, features, out / "tracks.html")
    write_json(out / "tracks.json", result)
    parts.remove()
    return result


def _of_contig(name: str, size: int, bits: Figures | None) -> dict[str, Any]:
    count = bits.counts[name] if bits else 0
    return {"bases": size, "scored": count, "bits_per_base": bits.sums[name] / count if bits and count else None}


def _chosen(surveyed: Survey, contigs: Sequence[str] | None, fasta: Path) -> dict[str, int]:
    """Name to length of the contigs to read, in file order. Raises ValueError."""
    if contigs is None:
        return dict(surveyed.lengths)
    absent = [name for name in contigs if name not in surveyed.lengths]
    if absent:
        few = few_of(surveyed.lengths) if surveyed.lengths else "none"
        raise ValueError(f"contig {absent[0]!r} is not in {fasta}, which has {few}")
    wanted = set(contigs)
    return {name: length for name, length in surveyed.lengths.items() if name in wanted}


def _masks(mask: Sequence[str | Path], surveyed: Survey, fasta: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """What gets no value, by contig, and warnings. Raises ValueError, FileNotFoundError."""
    found: dict[str, list[np.ndarray]] = {}
    warnings = []
    for entry in mask:
        if str(entry) in MASKS:
            regions = surveyed.unknown if str(entry) == "n" else surveyed.soft
        else:
            path = Path(entry)
            regions = read_regions(path)
            habit = one_based_habit(read_bed(path)) if path.name.removesuffix(".gz").endswith(".bed") else ""
            if habit:
                warnings.append(f"{path}: {habit}")
            regions = fit_regions(regions, surveyed.lengths, path, fasta, "mask")
        for name, own in regions.items():
            found.setdefault(name, []).append(own)
    return {name: merge(np.concatenate(parts)) for name, parts in found.items()}, warnings


def _state_sum(reader: Reader) -> float:
    """A number that another memory would not have."""
    assert reader.start is not None
    return sum(float(leaf.double().sum()) for _, leaf in reader.start.leaves() if isinstance(leaf, torch.Tensor))
