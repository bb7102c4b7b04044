"""Variants scored by `score-variants` and `saturate`, and by the plain way: two whole passes for each variant and strand."""

from __future__ import annotations

import csv
import gzip
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pysam
import torch
import torch.nn.functional as F

from benchmarks.data_task import Spec, Task
from benchmarks.machine import ROOT
from titans_genomics.data.alphabet import encode, reverse_complement
from titans_genomics.tasks.sequences import batches, padded, token_budget
from titans_genomics.use.reader import Reader
from titans_genomics.use.records import read_codes
from titans_genomics.use.saturate import saturate
from titans_genomics.use.score_variants import score_variants, score_window

GENOME = ROOT / "resources" / "ecoli_k12.fa.gz"
VARIANTS = ROOT / "resources" / "ecoli_variants.csv.gz"
LOCUS = 2_000_000  # where the bases lie whose substitutions are all scored


class Change(NamedTuple):
    """A base replaced: ``at`` is 0-based, bases are codes."""

    at: int
    ref: int
    alt: int


def contig(reader: Reader) -> tuple[str, np.ndarray]:
    """Name and base codes, uint8 (bases,), of the default run's genome."""
    return _first_contig(reader.soft_mask)


@cache
def _first_contig(soft_mask: Literal["keep", "ignore", "n"]) -> tuple[str, np.ndarray]:
    return next(iter(read_codes(GENOME, soft_mask)))


def changes_of(spec: Spec, codes: np.ndarray) -> list[Change]:
    """The variants of a group, sorted: natural ones, one in every so many bases, or all of a locus.

    Raises ValueError where there are fewer than asked for.
    """
    rng, count = np.random.default_rng(1), spec["count"]
    if spec["set"] == "natural":
        with gzip.open(VARIANTS, "rt", newline="") as file:
            names = [row["id"] for row in csv.DictReader(file) if row["label"] == "0"]
        found = [re.fullmatch(r"([ACGT])(\d+)([ACGT])", name) for name in names]
        own = sorted(Change(int(m[2]) - 1, int(encode(m[1])[0]), int(encode(m[3])[0])) for m in found if m)
        if len(own) < count:
            raise ValueError(f"{VARIANTS.name}: has {len(own)} natural variants, {count} are asked for")
        return [own[i] for i in sorted(rng.choice(len(own), count, replace=False))]
    if spec["set"] == "every substitution":
        places = range(LOCUS, LOCUS + count // 3)
        return [Change(at, int(codes[at]), alt) for at in places for alt in range(4) if alt != codes[at]]
    every = int(spec["set"])
    first = (len(codes) - every * count) // 2
    if first < 0:
        raise ValueError(f"{GENOME.name}: has no room for {count} variants in {every:,} bases each")
    places = first + every * np.arange(count) + rng.integers(0, every, count)
    return [
        Change(int(at), int(codes[at]), int(codes[at] + more) % 4)
        for at, more in zip(places, rng.integers(1, 4, count), strict=True)
    ]


def part_of(spec: Spec) -> list[int]:
    """Positions of the variants, drawn at random, that the plain way reads and both sides tell the scores of."""
    return sorted(np.random.default_rng(2).choice(spec["count"], spec["part"], replace=False).tolist())


def write_vcf(path: Path, name: str, length: int, changes: list[Change]) -> Path:
    """A VCF of changes without samples."""
    lines = ["##fileformat=VCFv4.2", f"##contig=<ID={name},length={length}>", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]  # fmt: skip
    lines += [f"{name}\t{c.at + 1}\t.\t{'ACGT'[c.ref]}\t{'ACGT'[c.alt]}\t.\t.\t." for c in changes]
    path.write_text("\n".join(lines) + "\n")
    return path


def scoring(reader: Reader, spec: Spec, folder: Path) -> Task:
    """`score_variants`, from VCF to VCF."""
    name, codes = contig(reader)
    vcf = write_vcf(folder / "in.vcf", name, len(codes), changes_of(spec, codes))
    out = folder / "out.vcf.gz"

    def check(_: object) -> dict[str, Any]:
        with pysam.VariantFile(str(out)) as file:
            scores = [(r.info["TITANS_LLR"][0], r.info["TITANS_DIST"][0]) for r in file]
        return _agree(spec, scores)

    return Task(lambda: score_variants(reader, GENOME, vcf, out, spec["context"], max_mismatch=0), check)


def saturating(reader: Reader, spec: Spec, folder: Path) -> Task:
    """`saturate`, from BED to table and heat map."""
    name, _ = contig(reader)
    bed, out = folder / "locus.bed", folder / "out.tsv"
    bed.write_text(f"{name}\t{LOCUS}\t{LOCUS + spec['count'] // 3}\n")

    def check(_: object) -> dict[str, Any]:
        with out.open(newline="") as file:
            scores = [(float(row["llr"]), float(row["distance"])) for row in csv.DictReader(file, delimiter="\t")]
        return _agree(spec, scores)

    return Task(lambda: saturate(reader, GENOME, bed, out, folder / "out.svg", spec["context"]), check)


def plain_scoring(reader: Reader, spec: Spec, folder: Path) -> Task:
    """Two whole passes per variant and strand, of a part of the variants."""
    codes = contig(reader)[1]
    changes = changes_of(spec, codes)
    own = [changes[i] for i in part_of(spec)]

    def check(scores: list[tuple[float, float]]) -> dict[str, Any]:
        return {"amount": len(own), "scores": _columns(scores)}

    return Task(lambda: two_passes(reader, codes, own, spec["context"]), check)


@torch.inference_mode()
def two_passes(reader: Reader, codes: np.ndarray, changes: list[Change], context: int) -> list[tuple[float, float]]:
    """Log-likelihood ratio and distance of changes: the window that `score_variants` has, whole with the alternative and with the reference."""
    window = score_window(reader, context, None, None)
    rows, since = [], []
    for turned in (False, True):
        strand = reverse_complement(codes) if turned else codes
        for change in changes:
            at, alt = (len(codes) - 1 - change.at, 3 - change.alt) if turned else (change.at, change.alt)
            begin = window.begin(at)
            reference = strand[begin : at + 1 + window.after]
            other = reference.copy()
            other[at - begin] = alt
            rows += [reader.tokenizer.encode(other).astype(np.int64), reader.tokenizer.encode(reference).astype(np.int64)]  # fmt: skip
            since += 2 * [max(at - begin - 1, 0)]
    found: list[tuple[float, np.ndarray]] = [(0.0, np.zeros(0))] * len(rows)
    for batch in batches(np.array([len(row) for row in rows]), token_budget(reader.device)):
        tokens, ends = padded([rows[i] for i in batch])
        tokens = tokens.to(reader.device)
        hidden, _ = reader.model.embed(tokens, reader.state(len(tokens)))
        logits = F.linear(hidden[:, :-1].double(), reader.model.head.weight.double())
        log_p = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        for row, (i, end) in enumerate(zip(batch.tolist(), ends.tolist(), strict=True)):
            found[i] = float(log_p[row, : end - 1].sum()), hidden[row, since[i] : end].double().mean(0).cpu().numpy()
    pairs = [(found[i][0] - found[i + 1][0], np.linalg.norm(found[i][1] - found[i + 1][1])) for i in range(0, len(rows), 2)]  # fmt: skip
    strands = np.array(pairs).reshape(2, len(changes), 2)
    return [(float(ratio), float(distance)) for ratio, distance in strands.mean(0)]


def _agree(spec: Spec, scores: list[tuple[float, float]]) -> dict[str, Any]:
    if len(scores) != spec["count"]:
        raise ValueError(f"{len(scores)} scores of {spec['count']} variants")
    return {"amount": len(scores), "scores": _columns([scores[i] for i in part_of(spec)])}


def _columns(scores: list[tuple[float, float]]) -> dict[str, list[float]]:
    ratio, distance = zip(*scores, strict=True)
    return {"LLR": [round(x, 7) for x in ratio], "distance": [round(x, 7) for x in distance]}
