"""Text, plain or gzip, byte by byte: whatever its encoding, the codes are the bytes of the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.bgzf import read_blocks

SEPARATOR = b"<|endoftext|>"
"""A line of this alone ends a document; the line itself is no part of any."""

_LINE = re.compile(rb"^<\|endoftext\|>\r?\n", re.MULTILINE)


def read_text(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The documents of a text file: the whole file, or what stands between lines of `SEPARATOR`.

    The first document has the file's name, further ones the name with ``.2``, ``.3``...; empty ones are left out.

    Raises
    ------
    ValueError
        Compressed data cut short or damaged, or no text in the file.
    """
    documents = 0
    begun = False  # whether a byte of the document was read
    for parts, share in _pieces(source):
        names, starts, filled = [], [], 0
        for i, part in enumerate(parts):
            begun = begun and i == 0
            if part and not begun:
                documents += 1
                names.append(source.path.name if documents == 1 else f"{source.path.name}.{documents}")
                starts.append(filled)
                begun = True
            filled += len(part)
        yield Batch(np.frombuffer(b"".join(parts), dtype=np.uint8), names, np.array(starts, dtype=np.int64))
        advance(share)
    if not documents:
        raise ValueError(f"{source.path}: no text in the file")


def _pieces(source: SourceConfig) -> Iterator[tuple[list[bytes], float]]:
    """Text cut at the separators, and the share of the file read so far: the first part goes on with the document before."""
    carry = b""  # the beginning of a line that may become a separator in the next block
    line_begins = True
    share = 1.0
    for block, share in read_blocks(source.path):
        text = carry + block.tobytes()
        cut = text.rfind(b"\n") + 1
        carry = b""
        if (cut or line_begins) and (SEPARATOR + b"\r").startswith(text[cut:]):
            text, carry = text[:cut], text[cut:]
        yield _split(text, line_begins), share
        if text:
            line_begins = text.endswith(b"\n")
    if carry.rstrip(b"\r") not in (b"", SEPARATOR):  # the last line has no line end
        yield [carry], share


def _split(text: bytes, line_begins: bool) -> list[bytes]:
    if SEPARATOR not in text:
        return [text]
    parts, start = [], 0
    for line in _LINE.finditer(text):
        if line.start() or line_begins:
            parts.append(text[start : line.start()])
            start = line.end()
    return [*parts, text[start:]]
