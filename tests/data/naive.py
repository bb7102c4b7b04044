"""FASTA and FASTQ read in the plainest way, as a second opinion: no blocks, no threads, no kernels."""

from __future__ import annotations

import re

CODES = {**{letter: code for code, letter in enumerate("ACGT")}, "U": 3, **dict.fromkeys("NRYSWKMBDHV", 4)}
SPACE = b" \t\r\n\v\f"


def codes(letters: bytes) -> list[int] | None:
    """Base codes of letters without white space; None when one is no nucleotide."""
    found = [CODES.get(letter) for letter in letters.decode("latin-1").upper()]
    return None if None in found or not letters.isascii() else found  # type: ignore[return-value]


def fasta(content: bytes) -> dict[str, list[int]] | None:
    """Codes by name, None for a file that is no FASTA of nucleotides."""
    content = content.removeprefix(b"\xef\xbb\xbf").lstrip(SPACE)
    if not content.startswith(b">"):
        return None
    records: dict[str, list[int]] = {}
    # A '>' begins a record when nothing but white space stands before it on its line.
    for record in re.split(rb"(?:\A|\n)[ \t\r\v\f]*>", content)[1:]:
        header, _, sequence = record.partition(b"\n")
        words = header.split(None, 1)
        letters = sequence.translate(None, SPACE)
        found = codes(letters)
        if not words or b"\r" in header.rstrip() or found is None:
            return None
        name = words[0].decode("utf-8", errors="replace")
        ambiguous = len(letters.translate(None, b"ACGTUNacgtun"))
        if name in records or ambiguous > 0.5 * len(letters):
            return None
        records[name] = found
    return records


def fastq(content: bytes) -> list[list[int]] | None:
    """The codes of the reads, None for a file that is not made of records of four lines."""
    rows = content.split(b"\n")
    while rows and not rows[-1].strip(bytes(range(33))):  # blank lines at the end
        rows.pop()
    reads = []
    if not rows or len(rows) % 4:
        return None
    for i in range(0, len(rows), 4):
        title, bases, plus, quality = (row.removesuffix(b"\r") for row in rows[i : i + 4])
        name = re.match(rb"@([^\0- ]+)", title)
        again = re.match(rb"\+([^\0- ]*)", plus)
        found = codes(bases)
        if not name or not again or again[1] not in (b"", name[1]) or found is None:
            return None
        if len(quality) != len(bases) or not all(33 <= value <= 126 for value in quality):
            return None
        reads.append(found)
    return reads
