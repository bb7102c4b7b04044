"""Files to read, made once per run in a scratch folder, each with what a reader must find in it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pysam

from benchmarks.machine import ROOT

COLUMNS = 80  # letters of a line
PIECE = 50_000 * COLUMNS  # bases that are made together
LETTERS = np.frombuffer(b"ACGTNacgtn", dtype=np.uint8)
CODES = bytes(b"ACGT".find(letter) if letter in b"ACGT" else 4 for letter in range(256))
WARM = 300_000  # bases of the files that compile kernels
READ = 150  # bases of a synthetic read
REFERENCE = 4_600_000
LEFT_OUT = 0xF00  # SAM flags of the alignments that the package leaves out by default

Facts = dict[str, Any]


class Sizes(NamedTuple):
    """How much is measured."""

    genome: int = 256_000_000  # bases
    slice: int = 2_000_000  # bases, for what is too slow for more
    packed: int = 64_000_000  # bases of the compressed files
    reads: int = 1_000_000
    windows: int = 20_000
    steps: int = 30
    large: int = 3_000_000_000  # bases
    rounds: int = 3


class Files:
    """Makes a file when it is first asked for.

    Parameters
    ----------
    folder
        Where they go.
    sizes
        How large they are.
    """

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes
        self._made: dict[str, tuple[Path, Facts]] = {}
        self._make: dict[str, tuple[str, Callable[[Path], Facts]]] = {
            "warm.fa": ("warm.fa", partial(write_genome, bases=WARM, contigs=2)),
            "warm.gz": ("warm.fa.gz", partial(self._gzip, "warm.fa")),
            "warm.bgz": ("warm.fa.bgz", partial(self._bgzip, "warm.fa")),
            "warm.bam": ("warm.bam", partial(write_bam, reads=2_000)),
            "genome": ("genome.fa", partial(write_genome, bases=sizes.genome, contigs=8)),
            "slice": ("slice.fa", partial(write_genome, bases=sizes.slice, contigs=1)),
            "plain": ("plain.fa", partial(write_genome, bases=sizes.packed, contigs=8)),
            "gzip": ("plain.fa.gz", partial(self._gzip, "plain")),
            "bgzip": ("plain.fa.bgz", partial(self._bgzip, "plain")),
            "bam": ("reads.bam", partial(write_bam, reads=sizes.reads)),
            "large": ("large.fa", partial(write_genome, bases=sizes.large, contigs=24)),
        }

    def get(self, name: str) -> tuple[Path, Facts]:
        """Path and facts of a file."""
        if name not in self._made:
            if name == "sirv":
                path = ROOT / "resources" / "sirv_reads.bam"
                self._made[name] = path, bam_facts(path)
            else:
                label, make = self._make[name]
                self._made[name] = self.folder / label, make(self.folder / label)
        return self._made[name]

    def drop(self, name: str) -> None:
        """Delete a file."""
        if name in self._made:
            self._made.pop(name)[0].unlink()

    def _gzip(self, of: str, path: Path) -> Facts:
        plain, facts = self.get(of)
        with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=6) as target:
            while block := source.read(1 << 20):
                target.write(block)
        return facts

    def _bgzip(self, of: str, path: Path) -> Facts:
        plain, facts = self.get(of)
        pysam.tabix_compress(str(plain), str(path), force=True)
        return facts


# ------------------------------------------------------------------------------------------- genomes


class Repeats:
    """Families of repeats, whose diverged copies are the soft-masked half of a genome: a few common ones, many rare."""

    def __init__(self, rng: np.random.Generator, families: int = 200) -> None:
        self.length = rng.integers(300, 6_000, families)
        self.start = np.cumsum(self.length) - self.length
        self.codes = rng.integers(0, 4, self.length.sum(), dtype=np.uint8)
        self.share = 1 / np.arange(1, families + 1)
        self.share /= self.share.sum()
        self.divergence = rng.uniform(0.05, 0.3, families).astype(np.float32)

    def stretch(self, rng: np.random.Generator, bases: int) -> np.ndarray:
        """Indices into `LETTERS`, uint8, shape (bases,): unique sequence and copies in turn, of 300 bases on average."""
        lengths = rng.geometric(1 / 300, 2 * (bases // 400 + 400))
        of = np.repeat(np.arange(len(lengths)), lengths)[:bases]
        assert len(of) == bases
        family = rng.choice(len(self.length), len(lengths), p=self.share)
        begin = rng.integers(0, self.length[family]) - (np.cumsum(lengths) - lengths)
        masked = of % 2 == 1
        own = family[of]
        copied = masked & (rng.random(bases, dtype=np.float32) >= self.divergence[own])
        letters = rng.integers(0, 4, bases, dtype=np.uint8)
        place = (np.arange(bases) + begin[of]) % self.length[own] + self.start[own]
        letters[copied] = self.codes[place[copied]]
        letters[masked] += 5
        return letters


def write_genome(path: Path, bases: int, contigs: int) -> Facts:
    """A FASTA of lines of 80 letters, the last contig the shortest; N at both ends of a contig and for 1% of it within."""
    rng = np.random.default_rng(bases + contigs)
    repeats = Repeats(rng)
    weights = np.arange(contigs, 0, -1)
    lengths = bases * weights // weights.sum()
    lengths[0] += bases - lengths.sum()
    digest, crc, size = hashlib.sha256(), 0, 0
    with path.open("wb") as handle:

        def write(data: bytes) -> None:
            nonlocal crc, size
            handle.write(data)
            crc, size = zlib.crc32(data, crc), size + len(data)

        for number, length in enumerate(lengths.tolist(), 1):
            write(f">chr{number} synthetic, {length} bases\n".encode())
            for start in range(0, length, PIECE):
                letters = repeats.stretch(rng, min(PIECE, length - start))
                for first, last in _unknown(length):
                    letters[max(0, first - start) : max(0, last - start)] = 4
                digest.update(letters % 5)
                write(_lines(LETTERS[letters]))
    return {
        "amount": bases,
        "bases": bases,
        "sha256": digest.hexdigest(),
        "bytes": size,
        "crc32": crc,
        "longest": int(lengths[0]),
    }


def _unknown(length: int) -> Iterator[tuple[int, int]]:
    """The runs of N of a contig, half-open: telomeres and a centromere."""
    end = min(10_000, length // 200)
    yield 0, end
    yield length // 5 * 2, length // 5 * 2 + length // 100
    yield length - end, length


def _lines(letters: np.ndarray) -> bytes:
    """Lines of `COLUMNS` letters; the last may be shorter."""
    whole = len(letters) // COLUMNS
    lines = np.full((whole, COLUMNS + 1), ord("\n"), dtype=np.uint8)
    lines[:, :COLUMNS] = letters[: whole * COLUMNS].reshape(whole, COLUMNS)
    rest = letters[whole * COLUMNS :].tobytes()
    return lines.tobytes() + (rest + b"\n" if rest else b"")


# --------------------------------------------------------------------------------------------- reads

_RECORD = np.dtype(
    [
        *(("size", "<i4"), ("contig", "<i4"), ("start", "<i4"), ("name_length", "u1"), ("mapq", "u1"), ("bin", "<u2")),
        *(("operations", "<u2"), ("flag", "<u2"), ("length", "<i4"), ("mate_contig", "<i4"), ("mate_start", "<i4")),
        *(("template", "<i4"), ("name", "S20"), ("cigar", "<u4"), ("bases", "u1", READ // 2), ("quality", "u1", READ)),
        ("tag", "S4"),
    ]
)
"""A BAM record of a read that is aligned from end to end (SAM specification, section 4.2)."""


def write_bam(path: Path, reads: int) -> Facts:
    """Aligned reads of 150 bases, two of a name, sorted, with the four qualities of a NovaSeq; 0.5% of bases are errors, 0.1% N."""
    rng = np.random.default_rng(reads)
    reference = rng.integers(0, 4, REFERENCE, dtype=np.uint8)
    text = f"@HD\tVN:1.6\tSO:coordinate\n@SQ\tSN:chr1\tLN:{REFERENCE}\n".encode()
    header = b"BAM\1" + _int(len(text)) + text + _int(1) + _int(5) + b"chr1\0" + _int(REFERENCE)
    start = np.sort(rng.integers(0, REFERENCE - READ, reads))
    fragments = rng.permutation(reads) // 2
    with pysam.BGZFile(str(path), "wb") as handle:
        handle.write(header)
        for first in range(0, reads, 100_000):
            at = start[first : first + 100_000]
            records = np.zeros(len(at), dtype=_RECORD)
            bases = reference[at[:, None] + np.arange(READ)]
            chance = rng.random(bases.shape, dtype=np.float32)
            bases = np.where(chance < 0.005, rng.integers(0, 4, bases.shape, dtype=np.uint8), bases)
            nibbles = np.where(chance > 0.999, 15, 1 << bases).astype(np.uint8)
            minus = rng.random(len(at)) < 0.5
            records["size"] = _RECORD.itemsize - 4
            records["start"], records["name_length"], records["mapq"] = at, 20, 60
            records["bin"] = 4681 + (at >> 14)
            records["operations"], records["cigar"], records["length"] = 1, READ << 4, READ
            records["flag"] = np.where(minus, 83, 99)
            records["mate_start"] = np.where(minus, np.maximum(at - 300, 0), at + 300)
            records["template"] = np.where(minus, -450, 450)
            records["name"] = [f"run1:1101:{number:09d}" for number in fragments[first : first + 100_000]]
            records["bases"] = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
            records["quality"] = rng.choice(np.array([37, 25, 11, 2], np.uint8), bases.shape, p=[0.9, 0.06, 0.03, 0.01])
            records["tag"] = b"NMC\0"
            handle.write(records.tobytes())
    return bam_facts(path)


def bam_facts(path: Path) -> Facts:
    """What pysam reads, and the bases that the package's defaults take of it: those of each read as it was sequenced."""
    digest, found = hashlib.sha256(), {"records": 0, "query_bases": 0, "bases": 0}
    with pysam.AlignmentFile(str(path), check_sq=False) as bam:
        for read in bam.fetch(until_eof=True):
            found["records"] += 1
            found["query_bases"] += len(read.query_sequence or "")
            if not read.flag & LEFT_OUT and read.query_sequence:
                found["bases"] += len(read.query_sequence)
                digest.update(read.get_forward_sequence().encode().translate(CODES))
    return found | {"amount": found["query_bases"], "sha256": digest.hexdigest()}


def _int(number: int) -> bytes:
    return number.to_bytes(4, "little")
