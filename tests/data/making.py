"""What the tests of the data package make their input with."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pysam

from titans_genomics.config import Config, parse_config
from titans_genomics.data.alphabet import decode
from titans_genomics.data.batch import Batch
from titans_genomics.data.store import TokenStore, tokenize

REFERENCE = 5_000


def random_bases(length: int, seed: int = 0) -> str:
    return "".join(np.array(list("ACGT"))[np.random.default_rng(seed).integers(4, size=length)])


def mutated(bases: str, share: float, seed: int = 0) -> str:
    """The bases with a share of them drawn anew."""
    rng = np.random.default_rng(seed)
    codes = np.frombuffer(bases.encode(), dtype=np.uint8).copy()
    hit = np.flatnonzero(rng.random(len(codes)) < share)
    codes[hit] = np.frombuffer(random_bases(len(hit), seed + 1).encode(), dtype=np.uint8)
    return codes.tobytes().decode()


def write_fasta(path: Path, records: dict[str, str], width: int = 60, end: str = "\n") -> Path:
    """A FASTA file of records by name."""
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name} a description")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def spell(batches: Iterable[Batch]) -> dict[str, str]:
    """The records that batches hold as letters, soft-masked bases in lower case."""
    found: dict[str, str] = {}
    name = ""
    for batch in batches:
        letters = np.frombuffer(decode(batch.codes).encode(), dtype=np.uint8).copy()
        assert (np.diff(batch.soft.reshape(-1)) >= 0).all()
        for start, end in batch.soft:
            letters[start:end] |= 0x20
        text = letters.tobytes().decode()
        for i, (start, end) in enumerate(pairwise([0, *batch.starts.tolist(), len(text)])):
            if i:
                name = batch.names[i - 1]
                assert name not in found
            if i or end > start:
                found[name] = found.get(name, "") + text[start:end]
    return found


def tokenized(out: Path, *sources: Any, jobs: int = 1, **data: Any) -> TokenStore:
    """The token store of these sources and data settings."""
    tokenize(config_for(*sources, **data), out, jobs)
    return TokenStore(out)


def config_for(*sources: Any, seed: int = 1, **data: Any) -> Config:
    """A config with these sources (paths or dicts) and data settings."""
    listed = [source if isinstance(source, dict) else {"path": str(source)} for source in sources]
    sections = {"data": {"sources": listed, **data}, "train": {"reverse_complement": 0}}
    return parse_config({"run": "test", "seed": seed, **sections}, "test")


def make_bam(
    path: Path, reads: list[dict[str, Any]], index: bool = False, header: dict[str, Any] | None = None
) -> Path:
    """A BAM of reads given by name, flag, pos, mapq and seq (in the orientation of the reference, as BAM stores it)."""
    head = {
        "HD": {"VN": "1.6", "SO": "coordinate"},
        "SQ": [{"SN": "chr1", "LN": REFERENCE}, {"SN": "chr2", "LN": REFERENCE}],
    }
    with pysam.AlignmentFile(
        str(path), "wb", header=pysam.AlignmentHeader.from_dict(head if header is None else header)
    ) as bam:
        for i, read in enumerate(reads):
            line = pysam.AlignedSegment(bam.header)
            line.query_name = read.get("name", f"read{i}")
            line.flag = read.get("flag", 0)
            line.query_sequence = read.get("seq", random_bases(200, i))
            if not line.is_unmapped:
                line.reference_id = read.get("contig", 0)
                line.reference_start = read.get("pos", 0)
                line.mapping_quality = read.get("mapq", 60)
                line.cigartuples = [(0, len(line.query_sequence or "A" * 10))]
            bam.write(line)
    if index:
        pysam.index(str(path))
    return path
