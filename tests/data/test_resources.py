"""The shipped data is what its README says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pysam
import pytest

RESOURCES = Path(__file__).parents[2] / "resources"
README = (RESOURCES / "README.md").read_text()
CHECKSUMS = dict(reversed(pair) for pair in re.findall(r"^([0-9a-f]{64})  (\S+)$", README, re.MULTILINE))


def test_every_file_has_a_checksum():
    assert {path.name for path in RESOURCES.iterdir()} - {"README.md"} == set(CHECKSUMS)


@pytest.mark.parametrize("name", sorted(CHECKSUMS))
def test_checksum(name):
    assert hashlib.sha256((RESOURCES / name).read_bytes()).hexdigest() == CHECKSUMS[name]
    assert f"`{name}`" in README


def test_the_reads_have_what_the_filters_are_shown_on():
    with pysam.AlignmentFile(str(RESOURCES / "sirv_reads.bam")) as bam:
        assert bam.has_index()
        flags = [(r.is_secondary, r.is_supplementary, r.is_unmapped, r.is_reverse) for r in bam.fetch(until_eof=True)]
    assert all(any(flag[i] for flag in flags) for i in range(4))


def test_the_whole_is_small():
    assert sum(path.stat().st_size for path in RESOURCES.iterdir()) < 6_500_000
