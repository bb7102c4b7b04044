"""What the tests of the data package make their input with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pysam

from titans_genomics.config import Config, parse_config

REFERENCE = 5_000


def random_bases(length: int, seed: int = 0) -> str:
    return "".join(np.array(list("ACGT"))[np.random.default_rng(seed).integers(4, size=length)])


def config_for(*sources: Any, seed: int = 1, **data: Any) -> Config:
    """A config with these sources (paths or dicts) and data settings."""
    listed = [source if isinstance(source, dict) else {"path": str(source)} for source in sources]
    return parse_config({"run": "test", "seed": seed, "data": {"sources": listed, **data}}, "test")


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
