"""Text, plain or gzip: the codes are the bytes of the file, those that are not UTF-8 as `utf8.Utf8` treats them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.utf8 import Utf8, as_codes

EMPTY = "empty document"
"""Why a document without a byte is left out."""

SEPARATOR = b"<|endoftext|>"
"""A line of this alone ends a document; the line itself is no part of any."""

_LINE = re.compile(rb"^<\|endoftext\|>\r?\n", re.MULTILINE)


def read_text(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The documents of a text file: the whole file, or what stands between lines of `SEPARATOR`.

    The first document has the file's name, further ones the name with ``.2``, ``.3``...; empty ones between others are left out and counted.

    Raises
    ------
    ValueError
        Compressed data cut short or damaged, no text in the file, or a byte that is not UTF-8 and ``data.text.encoding`` error.
    """
    documents, ended = 0, 0  # those with a byte in them, and the separators after the first of them
    begun = False  # whether a byte of the document was read
    utf8 = Utf8(source.path, data.text.encoding)
    known = 0
    for parts, share in _pieces(utf8):
        names, starts, filled = [], [], 0
        for i, part in enumerate(parts):
            if i:
                ended += documents > 0
                begun = False
            if part and not begun:
                documents += 1
                names.append(source.path.name if documents == 1 else f"{source.path.name}.{documents}")
                starts.append(filled)
                begun = True
                if empty := ended - (documents - 1):
                    dropped[EMPTY] += empty
                    ended -= empty
            filled += len(part)
        strays, known = utf8.strays - known, utf8.strays
        yield Batch(as_codes(parts), names, np.array(starts, dtype=np.int64), ambiguous=strays)
        advance(share)
    if not documents:
        raise ValueError(f"{source.path}: no text in the file")


def _pieces(utf8: Utf8) -> Iterator[tuple[list[bytes], float]]:
    """Text cut at the separators, and the share of the file read so far: the first part goes on with the document before."""
    carry = b""  # the beginning of a line that may become a separator in the next block
    line_begins = True
    share = 1.0
    for block, share in utf8.blocks():
        text = carry + block
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
