"""Bytes that are not UTF-8: kept, replaced or refused, and counted."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from titans_genomics.data.bgzf import read_blocks

BOM = b"\xef\xbb\xbf"
"""The byte order mark with which some programs begin a file; it is no part of the text."""

_STRAY = re.compile("[\udc80-\udcff]")  # what bytes that are no UTF-8 are decoded to


class Utf8:
    """What becomes of the text of one file.

    Parameters
    ----------
    path
        The file, for error messages.
    mode
        ``data.text.encoding``: ``keep`` the bytes as they are, ``replace`` them by U+FFFD (one for each wrong sequence, as
        Python has it), or ``error``.

    Attributes
    ----------
    strays : int
        Bytes that were not UTF-8.
    """

    def __init__(self, path: Path, mode: Literal["keep", "replace", "error"]) -> None:
        self.path, self.mode = path, mode
        self.strays = 0

    def blocks(self) -> Iterator[tuple[bytes, float]]:
        """The bytes of the file behind its byte order mark, decompressed and treated, and the share of the file read so far.

        Raises
        ------
        ValueError
            Compressed data cut short or damaged; with mode ``error`` the first byte that is not UTF-8.
        """
        rest, begin, share = b"", 0, 1.0  # the beginning of a character, and where it stands in the file
        for block, share in read_blocks(self.path):
            raw = rest + block.tobytes()
            whole = _whole(raw)
            treated = self.treat(raw[:whole], begin)
            yield treated if begin else treated.removeprefix(BOM), share
            rest, begin = raw[whole:], begin + whole
        if rest:
            yield self.treat(rest, begin), share

    def treat(self, raw: bytes, begin: int | None, where: str = "") -> bytes:
        """Text that ends where a character ends; ``begin``: where it stands in the file (``where`` in words).

        Raises ValueError in mode ``error``.
        """
        if raw.isascii():
            return raw
        try:
            codecs.utf_8_decode(raw, "strict", True)
            return raw
        except UnicodeDecodeError as error:
            if self.mode == "error":
                place = where if begin is None else f"byte {begin + error.start:,} (0x{raw[error.start]:02x})"
                raise ValueError(
                    f"{self.path}: {place} is not UTF-8. Convert the file, for example with `iconv -f LATIN1 -t UTF-8`, or set "
                    "data.text.encoding to replace or keep"
                ) from None
        self.strays += sum(1 for _ in _STRAY.finditer(raw.decode("utf-8", "surrogateescape")))
        return raw.decode("utf-8", "replace").encode() if self.mode == "replace" else raw

    def encode(self, text: str, where: str) -> bytes:
        """The bytes of a text that was read from JSON, where escapes may spell half a character (surrogates)."""
        try:
            return text.encode()
        except UnicodeEncodeError:
            pass
        try:
            raw = text.encode("utf-8", "surrogateescape")  # bytes of the file that were not UTF-8, and were kept
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "surrogatepass")
        return self.treat(raw, None, where)


def _whole(raw: bytes) -> int:
    """Length of ``raw`` without a last character of which bytes may still come."""
    for back in range(1, min(3, len(raw)) + 1):
        byte = raw[-back]
        if byte >= 0xC0:
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return len(raw) - back if length > back else len(raw)
        if byte < 0x80:
            break
    return len(raw)


def as_codes(parts: list[bytes]) -> np.ndarray:
    """Joined bytes as uint8."""
    return np.frombuffer(b"".join(parts), dtype=np.uint8)
