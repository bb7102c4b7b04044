"""Small sequence files for the tests of the data package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def fasta(tmp_path: Path) -> Callable[..., Path]:
    """Writes a FASTA file of records given as name=sequence."""

    def write(name: str = "genome.fa", width: int = 60, **records: str) -> Path:
        path = tmp_path / name
        lines = []
        for record, sequence in records.items():
            lines.append(f">{record} a description")
            lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
