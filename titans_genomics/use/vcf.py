"""VCF and BCF: read, and checked against a genome, allele by allele."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pysam

from titans_genomics.data.alphabet import N, decode, encode
from titans_genomics.data.bgzf import GZIP_MAGIC, check_bgzf_end, is_bgzf, is_gzip
from titans_genomics.data.regions import without_convention
from titans_genomics.use.alleles import Allele, normalised
from titans_genomics.use.reader import Reader
from titans_genomics.use.records import few_of, read_codes

SKIPPED = {
    "SYMBOLIC": "a symbolic allele, such as <DEL>",
    "BREAKEND": "a breakend",
    "STAR": "* or another allele without bases",
    "SAME": "the reference itself",
    "MISMATCH": "REF is not what the FASTA has there",
    "AMBIGUOUS": "N in the allele, or in the reference there",
    "MASKED": "soft-masked, and this model has read lower case as N",
    "TOO_LONG": "longer than half the context",
}
"""Why an allele is not scored, as INFO/TITANS_SKIP has it."""


@dataclass
class Genome:
    """A reference genome.

    Attributes
    ----------
    path : Path
    contigs : dict
        Name to base codes as the model reads them, uint8 (bases,).
    unmasked : dict
        The same with lower case read as upper case; the very arrays of ``contigs`` where the model does so too.
    """

    path: Path
    contigs: dict[str, np.ndarray]
    unmasked: dict[str, np.ndarray]

    def name(self, other: str) -> str | None:
        """The contig that another file calls ``other``; chr1 and 1, chrM and MT are the same. None: there is none."""
        if other in self.contigs:
            return other
        alike = [name for name in self.contigs if without_convention(name) == without_convention(other)]
        return alike[0] if len(alike) == 1 else None


def read_genome(path: str | Path, reader: Reader) -> Genome:
    """All contigs of a FASTA file (plain, gzip or bgzip), one byte a base.

    Raises FileNotFoundError, ValueError: what is wrong with the file, with record and remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise _no_file(path, "FASTA")

    contigs = dict(read_codes(path, reader.soft_mask))
    return Genome(path, contigs, dict(read_codes(path)) if reader.soft_mask == "n" else contigs)


@dataclass
class Checked:
    """What there is in a VCF, and that it can be scored.

    Attributes
    ----------
    header : pysam.VariantHeader
        With all that its records use, declared there or not.
    contigs : dict
        Contig names of the records to those of the genome.
    records, alleles, scored : int
        Alternative alleles are counted.
    skipped : Counter
        Alleles by reason, a key of `SKIPPED`.
    mismatches : list of str
        The first loci whose REF is not that of the genome.
    """

    header: pysam.VariantHeader
    contigs: dict[str, str]
    records: int = 0
    alleles: int = 0
    scored: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)


def check_vcf(path: str | Path, genome: Genome, longest: int, max_mismatch: float) -> Checked:
    """Read a VCF or BCF through, before anything is scored.

    Parameters
    ----------
    path : path
        VCF (plain or bgzip) or BCF.
    genome : Genome
    longest : int
        Longer alleles are skipped, bases.
    max_mismatch : float
        Largest share of records whose REF is not what the genome has there.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or no VCF; no header; cut short; unsorted; a contig that the genome has not, a position beyond its
        end, an allele with other letters than A C G T N, or too many mismatches: with record, locus and remedy.
    """
    path = Path(path)
    with open_vcf(path) as file:
        found = Checked(file.header, {})
        last, mismatched = ("", -1), 0
        for number, record in records(path, file):
            at = f"{path}: record {number}, {record.contig}:{record.pos}"
            if record.contig != last[0]:
                if record.contig in found.contigs:
                    raise _unsorted(at, path)
                found.contigs[record.contig] = _contig(at, record.contig, genome)
            elif record.start < last[1]:
                raise _unsorted(at, path)
            last = (record.contig, record.start)
            states = alleles_of(record, genome, found.contigs[record.contig], longest, at)
            found.records += 1
            found.alleles += len(states)
            found.scored += sum(isinstance(state, Allele) for state in states)
            found.skipped.update(state for state in states if isinstance(state, str))
            if "MISMATCH" in states:
                mismatched += 1
                if len(found.mismatches) < 10:
                    own = genome.unmasked[found.contigs[record.contig]][record.start : record.start + len(record.ref)]
                    found.mismatches.append(
                        f"{record.contig}:{record.pos} {record.ref[:20]} (FASTA: {decode(own[:20])})"
                    )
        if mismatched > max_mismatch * found.records:
            raise ValueError(
                f"{path}: REF of {mismatched:,} of {found.records:,} records is not what {genome.path} has there, first {found.mismatches[0]}. "
                "Give the FASTA of the assembly that the variants were called on, or a higher --max-mismatch"
            )
        # only after its last record does the header have what records use and do not declare
        found.header = file.header.copy()
    return found


@contextmanager
def open_vcf(path: Path) -> Iterator[pysam.VariantFile]:
    """A VCF or BCF file. Raises FileNotFoundError, ValueError."""
    if not path.is_file():
        raise _no_file(path, "VCF or BCF")
    with path.open("rb") as raw:
        head = raw.read(18)
    if is_bgzf(head):
        check_bgzf_end(path)
    elif head.startswith(GZIP_MAGIC):
        raise ValueError(
            f"{path}: plain gzip, of which htslib reads no VCF. Compress it with bgzip: gunzip -c {path} | bgzip > NEW.vcf.gz"
        )
    before = pysam.set_verbosity(0)  # htslib would print beside what we raise
    try:
        try:
            file = pysam.VariantFile(str(path))
        except (OSError, ValueError, NotImplementedError):
            raise ValueError(
                f"{path}: not a VCF or BCF file, or one without a header or with a damaged one. A VCF begins with ##fileformat=VCFv4.2 and has a line #CHROM POS ID REF ALT before its records"
            ) from None
        try:
            yield file
        finally:
            with suppress(OSError):  # of a damaged file, of which more was said before
                file.close()
    finally:
        pysam.set_verbosity(before)


def records(path: Path, file: pysam.VariantFile) -> Iterator[tuple[int, pysam.VariantRecord]]:
    """Number (from 1) and record, in the order of the file. Raises ValueError where one cannot be read."""
    number, rows = 0, iter(file)
    while True:
        number += 1
        try:
            record = next(rows)
        except StopIteration:
            return
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path}: record {number} cannot be read ({' '.join(str(error).split())}): the line is damaged, cut short or empty, or has too few columns. Correct it, or copy the file again"
            ) from None
        yield number, record


def records_and_lines(path: Path, file: pysam.VariantFile) -> Iterator[tuple[int, pysam.VariantRecord, str]]:
    """As `records`, and the line of each: that of the file itself, as htslib's rounds numbers and drops what it does not know; of a BCF htslib's.

    What is not UTF-8 is in the line as surrogate escapes.
    """
    if file.format == "BCF":
        for number, record in records(path, file):
            yield number, record, str(record).rstrip("\n")
        return
    with (gzip.open if is_gzip(path) else open)(
        path, "rt", encoding="utf-8", errors="surrogateescape", newline="\n"
    ) as text:
        lines = (line.rstrip("\r\n") for line in text if not line.startswith("#"))
        for (number, record), line in zip(records(path, file), lines, strict=True):
            yield number, record, line


def _no_file(path: Path, kind: str) -> OSError | ValueError:
    if path.is_dir():
        return ValueError(f"{path}: is a folder; give a {kind} file")
    if path.exists():
        return ValueError(f"{path}: is read more than once, so it cannot be a pipe. Give a {kind} file")
    return FileNotFoundError(f"{path}: no such {kind} file")


def _unsorted(at: str, path: Path) -> ValueError:
    return ValueError(f"{at}: not sorted by contig and position. Sort it: bcftools sort -Oz -o SORTED.vcf.gz {path}")


def _contig(at: str, name: str, genome: Genome) -> str:
    found = genome.name(name)
    if found is None:
        raise ValueError(
            f"{at}: contig {name!r} is not in {genome.path}, which has {few_of(genome.contigs)}. Give the FASTA of the same assembly, or rename: bcftools annotate --rename-chrs"
        )
    return found


# --------------------------------------------------------------------------------------------- alleles


def alleles_of(record: pysam.VariantRecord, genome: Genome, contig: str, longest: int, at: str) -> list[Allele | str]:
    """Each alternative allele of a record, normalised, or the key of `SKIPPED` that says why it is not scored.

    ``at`` names the record in messages. Raises ValueError for what no VCF may have.
    """
    codes, ref = genome.unmasked[contig], record.ref or ""
    # a telomere, of which breakends tell, stands one base behind the last
    if record.start >= len(codes) + all(map(_no_bases, record.alts or ())):
        raise ValueError(
            f"{at}: beyond the end of {contig}, which has {len(codes):,} bases in {genome.path}. Give the FASTA of the assembly that the variants were called on"
        )
    found: list[Allele | str] = []
    for alt in record.alts or ():
        skipped = _no_bases(alt)
        if skipped:
            found.append(skipped)
            continue
        for name, allele in (("REF", ref), ("ALT", alt)):
            wrong = set(allele.upper()) - set("ACGTN")
            if wrong or not allele:
                raise ValueError(
                    f"{at}: {name} {allele[:20]!r} has a letter other than A C G T N. Correct or remove the record: bcftools norm --check-ref x removes those of REF"
                )
        start, end = record.start, record.start + len(ref)
        if start < 0 or end > len(codes):
            raise ValueError(
                f"{at}: REF of {len(ref):,} bases does not lie within {contig}, which has {len(codes):,} in {genome.path}. Give the FASTA of the assembly that the variants were called on"
            )
        found.append(_scorable(Allele(contig, start, end, encode(alt)), encode(ref), genome, longest))
    return found


def _no_bases(alt: str) -> str | None:
    if alt.startswith("<"):
        return "SYMBOLIC"
    if "[" in alt or "]" in alt or alt.startswith(".") or alt.endswith("."):
        return "BREAKEND" if len(alt) > 1 else "STAR"
    return "STAR" if alt == "*" else None


def _scorable(allele: Allele, ref: np.ndarray, genome: Genome, longest: int) -> Allele | str:
    own = genome.unmasked[allele.contig][allele.start : allele.end]
    if N in ref or N in allele.alt:
        return "AMBIGUOUS" if ((own == ref) | (ref == N) | (own == N)).all() else "MISMATCH"
    if (own != ref).any():
        return "AMBIGUOUS" if ((own == ref) | (own == N)).all() else "MISMATCH"
    if np.array_equal(ref, allele.alt):
        return "SAME"
    if max(len(ref), len(allele.alt)) > longest:
        return "TOO_LONG"
    if (genome.contigs[allele.contig][allele.start : allele.end] == N).any():
        return "MASKED"
    return normalised(allele, genome.unmasked[allele.contig])
