"""FASTQ, plain, gzip or bgzip, with four lines to a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from titans_genomics.compiling import compiled
from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data import reads
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.bgzf import Block, read_blocks
from titans_genomics.data.iupac import letter_masks
from titans_genomics.data.reads import (
    BASES,
    CONTIG,
    FIELDS,
    FLAG,
    LENGTH,
    NAME,
    NAME_END,
    QC_FAIL,
    QUALITY,
    READ1,
    READ2,
    UNMAPPED,
    RawReads,
    ReadFilter,
)

_kernel = compiled(calls=[reads.__file__])

_SHORTEST = 6  # bytes of a record: @, a name of one letter, + and three line ends
_MORE, _AT, _BLANK, _UNNAMED, _BASE, _MANY_LINES, _PLUS, _OTHER_NAME, _SYMBOL, _SHORT, _LONG = range(11)
_LINE_FEED, _RETURN = 10, 13


def read_fastq(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The reads that pass the filters on length, quality and share, in file order; the others are counted in ``dropped``.

    A name is the first word after ``@``. Mates are told by ``/1`` and ``/2`` at its end or by ``1:N:0:...`` behind it
    (``Y`` there: failed quality control), and share the key of the name without them.

    Raises
    ------
    ValueError
        Anything that is no record of four lines, by file, line number and record; damaged compression; regions asked
        for; no read left (the message counts the reasons).
    """
    if data.reads.regions:
        raise ValueError(f"{source.path}: data.reads.regions needs aligned reads (BAM, CRAM), those of a FASTQ are not")
    keep = ReadFilter(source, data, seed, dropped, aligned=False)
    known = letter_masks()
    text = np.zeros(0, dtype=np.uint8)
    blocks = _without_mark(read_blocks(source.path))
    share, ended = 0.0, False
    while not ended:
        block, share = next(blocks, (None, share))
        if block is None:  # the last line may have no line end
            ended = True
            block = np.full(int(len(text) > 0 and text[-1] != _LINE_FEED), _LINE_FEED, dtype=np.uint8)
        text = np.concatenate([text, block])
        rows = np.empty((len(text) // _SHORTEST + 1, FIELDS), dtype=np.int64)
        count, used, problem, at = _scan(text, known, ended, rows)
        if count:
            batch = keep(RawReads(text, rows[:count], packed=False, phred=33))
            advance(share)
            if batch is not None:
                yield batch
        if problem != _MORE or (ended and used < len(text)):
            raise _error(source, text[used:], keep.seen, problem, at - used)
        text = text[used:]
    keep.check_any()


def _without_mark(blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks without the byte order mark that some editors put first."""
    for number, (block, share) in enumerate(blocks):
        yield block[3:] if number == 0 and block[:3].tobytes() == b"\xef\xbb\xbf" else block, share


def _error(source: SourceConfig, text: np.ndarray, before: int, problem: int, at: int) -> ValueError:
    """What is wrong at byte ``at`` of the record that ``text`` begins with, ``before`` records coming first."""
    record = text[: at + 1000].tobytes()
    lines = [line.rstrip(b"\r") for line in record.split(b"\n")]
    number = record.count(b"\n", 0, at)
    column = at - (record.rfind(b"\n", 0, at) + 1)
    shown = ascii(lines[number][:20].decode("latin-1"))
    byte = record[at] if at < len(record) else 0
    letter = repr(chr(byte)) if 32 < byte < 127 else f"byte 0x{byte:02x}"
    what = {
        _MORE: "the file is cut short within the record. Copy or download it again",
        _AT: f"a record begins with '@', this line with {shown}. Records must have four lines each",
        _BLANK: "an empty line within the file. Records must have four lines each",
        _UNNAMED: "a record has no name: write one after '@'",
        _BASE: f"position {column}: {letter} is not a nucleotide (A C G T U N or an IUPAC code)",
        _MANY_LINES: "the sequence goes on in a second line. Records must have four lines each: convert the file with `seqtk seq`",
        _PLUS: f"the line after the sequence begins with '+', this one with {shown}. Records must have four lines each",
        _OTHER_NAME: f"the name behind '+' is another one: {shown}. The file is damaged",
        _SYMBOL: f"position {column}: {letter} is not a quality (the characters '!' to '~')",
    }.get(problem)
    if what is None:
        what = f"{len(lines[1]):,} bases and {len(lines[3]):,} qualities. The file is damaged or cut short"
        if problem == _LONG and len(lines) == 4:  # the line is longer than what was looked at
            what = f"{len(lines[1]):,} bases and more qualities. The file is damaged"
    name = (lines[0][1:].split() or [b""])[0].decode("utf-8", errors="replace")
    named = "" if problem in (_AT, _BLANK, _UNNAMED) else f" (record {name!r})"
    return ValueError(f"{source.path}: line {4 * before + number + 1:,}{named}: {what}")


@_kernel
def _scan(text, known, ended, rows):
    """Rows of the whole records in ``text``.

    Parameters
    ----------
    text
        uint8, shape (bytes,): begins with a record; with ``ended`` it ends with a line feed.
    known
        uint8, shape (256,): above 0 for nucleotides.
    ended
        Whether the file ends here.
    rows
        int64, shape (records or more, `FIELDS`): filled.

    Returns
    -------
    count, used, problem, at
        Records found, the bytes that they take, what is wrong with the next one (`_MORE`: nothing, it is only not
        whole), and where.
    """
    count, start, size = 0, 0, len(text)
    while start < size:
        at = start
        if text[at] == _LINE_FEED or text[at] == _RETURN:
            while at < size and text[at] <= 32:
                at += 1
            if at == size:  # blank lines at the end of the file
                return count, size if ended else start, _MORE, at
            return count, start, _BLANK, start
        if text[at] != 64:  # @
            return count, start, _AT, at
        name, name_end = start + 1, start + 1
        while name_end < size and text[name_end] > 32:
            name_end += 1
        at = _line_end(text, name_end)
        if at < 0:
            return count, start, _MORE, size - 1
        if name_end == name:
            return count, start, _UNNAMED, start
        flag, template_end = _mate(text, name, name_end, at)

        bases = at = at + 1
        while at < size and known[text[at]] > 0:
            at += 1
        length = at - bases
        if at < size and text[at] == _RETURN:
            at += 1
        if at >= size:
            return count, start, _MORE, size - 1
        if text[at] != _LINE_FEED:
            return count, start, _BASE, bases + length

        at += 1
        if at >= size:
            return count, start, _MORE, size - 1
        if text[at] != 43:  # +
            return count, start, _MANY_LINES if known[text[at]] > 0 else _PLUS, at
        if at + 1 < size and text[at + 1] > 32 and not _same_word(text, name, name_end, at + 1):
            if _line_end(text, at) < 0:
                return count, start, _MORE, size - 1
            return count, start, _OTHER_NAME, at
        at = _line_end(text, at)
        if at < 0 or at + 1 == size:
            return count, start, _MORE, size - 1

        quality, end = at + 1, at + 1 + length
        bad = _no_quality(text, quality, min(end, size))
        if bad >= 0:
            line_end = text[bad] == _LINE_FEED or text[bad] == _RETURN
            return count, start, _SHORT if line_end else _SYMBOL, bad
        if end < size and text[end] == _RETURN:
            end += 1
        if end >= size:
            return count, start, _MORE, size - 1
        if text[end] != _LINE_FEED:
            return count, start, _LONG, end

        row = rows[count]
        row[:] = 0
        row[NAME], row[NAME_END], row[BASES], row[LENGTH], row[QUALITY] = name, template_end, bases, length, quality
        row[FLAG], row[CONTIG] = UNMAPPED | flag, -1
        count += 1
        start = end + 1
    return count, start, _MORE, start


@_kernel
def _line_end(text, at):
    """Where the line that ``at`` is in has its line feed; -1 when it has none."""
    for i in range(at, len(text)):
        if text[np.uint64(i)] == _LINE_FEED:
            return i
    return -1


@_kernel
def _mate(text, name, name_end, line_end):
    """SAM flag bits that the first line tells, and the end of the name without /1 or /2."""
    flag, at = 0, name_end + 1
    colons = at + 3 < line_end and text[at + 1] == 58 and text[at + 3] == 58
    if colons and text[at] in (49, 50) and text[at + 2] in (78, 89):  # 1:N: or 2:Y:
        flag = (READ1 if text[at] == 49 else READ2) | (QC_FAIL if text[at + 2] == 89 else 0)
    last = text[name_end - 1]
    if name_end - name > 2 and text[name_end - 2] == 47 and last in (49, 50):  # /1 or /2
        return flag & QC_FAIL | (READ1 if last == 49 else READ2), name_end - 2
    return flag, name_end


@_kernel
def _same_word(text, name, name_end, at):
    """Whether the name stands at ``at`` too; a text that ends within it counts as another."""
    for i in range(name, name_end):
        if at >= len(text) or text[at] != text[i]:
            return False
        at += 1
    return at < len(text) and text[at] <= 32


@_kernel
def _no_quality(text, start, end):
    """Where the first byte is that is no quality, ! to ~; -1: none."""
    bad = np.uint8(0)
    for i in range(start, end):
        bad |= np.uint8(np.uint8(text[np.uint64(i)] - np.uint8(33)) > np.uint8(93))
    if bad:
        for i in range(start, end):
            if text[i] < 33 or text[i] > 126:
                return i
    return -1
