"""Small sequence files for the tests of the data package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from making import write_fasta


@pytest.fixture
def fasta(tmp_path: Path) -> Callable[..., Path]:
    """Writes a FASTA file of records given as name=sequence."""

    def write(name: str = "genome.fa", width: int = 60, **records: str) -> Path:
        return write_fasta(tmp_path / name, records, width)

    return write
