"""Variants of a VCF scored by a trained model, and how well the scores tell labelled variants apart."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import torch

from titans_genomics import __version__
from titans_genomics.files import write_json
from titans_genomics.progress import Progress
from titans_genomics.tasks.likelihood import Strands
from titans_genomics.tasks.metrics import bootstrap, metrics_of
from titans_genomics.use.alleles import Allele, Window, score_alleles
from titans_genomics.use.output import check_out
from titans_genomics.use.reader import Reader
from titans_genomics.use.variant_labels import label_of, label_table, locus
from titans_genomics.use.vcf import (
    SKIPPED,
    alleles_of,
    check_vcf,
    open_vcf,
    read_genome,
    records,
    records_and_lines,
)
from titans_genomics.use.vcf_write import annotated_header, annotated_line, indexed_vcf

CONTEXT = 8192
"""Bases that are read around an allele, unless the model's memory begins anew sooner."""

AFTER = 512
"""Bases behind an allele that are read at most: farther away the default model shows rounding, and no effect."""

KEYS = ("TITANS_LLR", "TITANS_DIST", "TITANS_SKIP", "TITANS_SKIPPED")
"""What `score_variants` writes: three INFO fields and a FILTER."""

BLOCK = 4096
"""Records whose alleles are scored at a time."""

BLOCK_BYTES = 1 << 26
"""Fewer, where their lines are longer together: those of very many samples."""


def score_window(reader: Reader, context: int | None, after: int | None, share: int | None) -> Window:
    """The window of these lengths; what is None follows from the model, and from the others.

    Raises ValueError when they do not fit together.
    """
    if context is None:
        context = min(CONTEXT, reader.stretch or CONTEXT)
    return Window(context, after or max(1, min(AFTER, context // 4)), share or max(1, context // 4))


def score_variants(
    reader: Reader,
    fasta: str | Path,
    vcf: str | Path,
    out: str | Path,
    context: int | None = None,
    strands: Strands = "both",
    max_mismatch: float = 0.01,
    after: int | None = None,
    share: int | None = None,
) -> dict[str, Any]:
    """Score the alternative alleles of a VCF in the light of a genome, and write the VCF with the scores.

    Records keep their order, their representation and their samples. INFO/TITANS_LLR is log p(alternative) -
    log p(reference) in nats, INFO/TITANS_DIST the distance of the two mean hidden states (`alleles.score_alleles`), one
    number per alternative allele; INFO/TITANS_SKIP says why one has none. A record without any score has the FILTER
    TITANS_SKIPPED. For scoring alleles are normalised, so that every way to write a variant has the same score.

    Parameters
    ----------
    reader : Reader
    fasta : path
        The reference genome; it is held in memory, a byte a base. chr1 and 1 are the same contig.
    vcf : path
        VCF (plain or bgzip) or BCF, sorted.
    out : path
        The bgzipped VCF to write, OUT.vcf.gz; its index goes beside it.
    context : int, optional
        Bases that are read at most on each strand, those before and behind the allele together. Default: 8,192, or the
        stretch of the run's evaluation where that is shorter.
    strands : "both" or "given"
        "both": the mean of both.
    max_mismatch : float
        Share of records whose REF may differ from the FASTA; they are not scored.
    after : int, optional
        Bases behind the allele among those of the context. Default: 512, or a quarter of a shorter context.
    share : int, optional
        Windows begin at multiples of so many bases (`alleles.Window`), and alleles of one window share its reading.
        Default: a quarter of the context.

    Returns
    -------
    dict
        ``records``, ``alleles``, ``scored``, ``skipped`` (by reason), ``mismatches`` (the first loci), ``window``,
        ``seconds`` and ``variants_per_second`` of the scoring.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing or wrong, in a way that the message names with record, locus and remedy; nothing is written.
    """
    vcf, out = Path(vcf), Path(out)
    reader.nucleotides("score-variants")
    window = score_window(reader, context, after, share)
    if not 0 <= max_mismatch <= 1:
        raise ValueError(f"max_mismatch {max_mismatch}: is a share, between 0 and 1")
    if not out.name.endswith(".vcf.gz"):
        raise ValueError(f"{out}: the output is a bgzipped VCF. Give a name that ends in .vcf.gz")
    check_out(out, (vcf, fasta), "scored.vcf.gz")
    with open_vcf(vcf):
        pass  # before the genome is read
    genome = read_genome(fasta, reader)
    checked = check_vcf(vcf, genome, window.context // 2, max_mismatch)
    longest = max((len(genome.contigs[name]) for name in checked.contigs.values()), default=0)
    try:
        header = annotated_header(checked, genome, _own_lines(reader, window, strands), KEYS)
    except ValueError as error:
        raise ValueError(f"{vcf}: {error}") from None
    torch.set_flush_denormal(True)
    started = time.monotonic()
    with (
        open_vcf(vcf) as file,
        indexed_vcf(out, header, longest) as write,
        Progress(checked.scored, "alleles", f"scoring {vcf.name} with {reader.name}") as progress,
    ):
        for block in _blocks(records_and_lines(vcf, file)):
            states = [
                alleles_of(
                    record, genome, checked.contigs[record.contig], window.context // 2, f"{vcf}: record {number}"
                )
                for number, record, _ in block
            ]
            own = [allele for found in states for allele in found if isinstance(allele, Allele)]
            scores = zip(*score_alleles(reader, genome.contigs, own, window, strands, progress), strict=True)
            for (_, _, line), found in zip(block, states, strict=True):
                write(_scored_line(line, found, scores))
    seconds = time.monotonic() - started
    return {
        "records": checked.records,
        "alleles": checked.alleles,
        "scored": checked.scored,
        "skipped": dict(checked.skipped),
        "mismatches": checked.mismatches,
        "window": asdict(window) | {"strands": strands},
        "seconds": seconds,
        "variants_per_second": checked.scored / seconds,
    }


def _blocks(
    rows: Iterator[tuple[int, pysam.VariantRecord, str]],
) -> Iterator[list[tuple[int, pysam.VariantRecord, str]]]:
    block, size = [], 0
    for row in rows:
        block.append(row)
        size += len(row[2])
        if len(block) == BLOCK or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _own_lines(reader: Reader, window: Window, strands: Strands) -> list[str]:
    """Header lines of what is written."""
    mean = "mean of both strands" if strands == "both" else "forward strand"
    memory = f";memory={reader.memory}" if reader.memory else ""
    reasons = "; ".join(f"{key}: {text}" for key, text in SKIPPED.items())
    return [
        f"##titans_genomics=version={__version__};model={reader.name};sha256={reader.sha256};context={window.context};"
        f"after={window.after};share={window.share};strands={strands}{memory}",
        f'##INFO=<ID=TITANS_LLR,Number=A,Type=Float,Description="log p(alternative) - log p(reference) in context, nats, {mean}; below 0: the model finds the alternative less likely">',
        f'##INFO=<ID=TITANS_DIST,Number=A,Type=Float,Description="Euclidean distance of the mean hidden states with alternative and reference, from the base before the allele to {window.after} bases behind it, {mean}">',
        f'##INFO=<ID=TITANS_SKIP,Number=A,Type=String,Description="Why an allele has no score ({reasons})">',
        '##FILTER=<ID=TITANS_SKIPPED,Description="No allele has a score; INFO/TITANS_SKIP says why">',
    ]


def _scored_line(line: str, found: Sequence[Allele | str], scores: Iterator[tuple[float, float]]) -> str:
    """The line of a record with its scores; ``scores`` gives those of its alleles that have one, in turn."""
    if not found:
        return annotated_line(line, {}, KEYS, skipped=False)
    own = [next(scores) if isinstance(allele, Allele) else None for allele in found]
    info = {}
    if any(own):
        info["TITANS_LLR"] = ",".join("." if score is None else f"{score[0]:.6f}" for score in own)
        info["TITANS_DIST"] = ",".join("." if score is None else f"{score[1]:.6g}" for score in own)
    if not all(own):
        info["TITANS_SKIP"] = ",".join(allele if isinstance(allele, str) else "." for allele in found)
    return annotated_line(line, info, KEYS, skipped=not any(own))


# ---------------------------------------------------------------------------------------------- labels


def evaluate_variants(
    vcf: str | Path,
    out: str | Path,
    label: str,
    positive: Sequence[str] = ("1",),
    negative: Sequence[str] = ("0",),
    table: str | Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How well scores tell labelled variants apart: AUROC and AUPRC with 95% bootstrap intervals, written as JSON.

    Parameters
    ----------
    vcf : path
        What `score_variants` wrote.
    out : path
        JSON to write.
    label : str
        The INFO field of the labels, one for each alternative allele or one for all; or the column of ``table``.
    positive, negative : sequence of str
        Values of label 1 (such as Pathogenic: the less likely variants) and of label 0; others are left out.
    table : path, optional
        TSV with the columns chrom, pos (1-based), ref, alt and the label, in place of the INFO field.
    resamples, seed
        Of the bootstrap, which draws records.

    Returns
    -------
    dict
        ``variants``, ``labels`` (count of 0 and 1), ``without_label`` and ``without_score`` (alleles); ``methods``:
        ``llr`` (-TITANS_LLR) and ``distance`` (TITANS_DIST), each with ``auroc`` and ``auprc``, ``value`` and ``ci95``.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, field or column; no scores; labels of one kind only.
    """
    vcf = Path(vcf)
    known = None if table is None else label_table(Path(table), label)
    values: dict[str, int] = {**dict.fromkeys(negative, 0), **dict.fromkeys(positive, 1)}
    rows, without = [], {"label": 0, "score": 0}
    with open_vcf(vcf) as file:
        for key in ("TITANS_LLR", "TITANS_DIST"):
            if key not in file.header.info:
                raise ValueError(f"{vcf}: has no INFO field {key}; run `titans-genomics score-variants` first")
        if known is None and label not in file.header.info:
            raise ValueError(f"{vcf}: has no INFO field {label!r}; it has {', '.join(file.header.info)}")
        for number, record in records(vcf, file):
            for place, alt in enumerate(record.alts or ()):
                if known is None:
                    found = label_of(record, label, place)
                else:
                    found = known.get(locus(record.contig, record.pos, record.ref, alt))
                score = [record.info.get(key, (None,) * (place + 1))[place] for key in ("TITANS_LLR", "TITANS_DIST")]
                without["label"] += found not in values
                without["score"] += None in score and found in values
                if found in values and None not in score:
                    rows.append((number, values[found], *score))
    labels = np.array([row[1] for row in rows], dtype=np.int64)
    counts = np.bincount(labels, minlength=2)
    if not counts.all():
        raise ValueError(
            f"{vcf}: {counts[1]} scored alleles have the label {', '.join(positive)} and {counts[0]} {', '.join(negative)}; both must be there. "
            "Name the values with --positive and --negative"
        )
    units = np.array([row[0] for row in rows], dtype=np.int64)
    methods = {
        "llr": -np.array([row[2] for row in rows], dtype=np.float64),
        "distance": np.array([row[3] for row in rows], dtype=np.float64),
    }
    result = {
        "vcf": str(vcf),
        "label": label,
        "direction": "label 1 is the less likely variant, or the one with more effect",
        "variants": len(rows),
        "labels": {"0": int(counts[0]), "1": int(counts[1])},
        "without_label": without["label"],
        "without_score": without["score"],
        "methods": {name: _figures(score, labels, units, resamples, seed) for name, score in methods.items()},
    }
    write_json(Path(out), result)
    return result


def _figures(score: np.ndarray, labels: np.ndarray, units: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    outputs = np.stack([-score, score], axis=1)
    value = metrics_of("classification", outputs, labels)
    spread = bootstrap("classification", [outputs], labels, resamples, seed, units)
    return {metric: {"value": value[metric], "ci95": spread.get(metric)} for metric in ("auroc", "auprc")}
