"""The rows of a sample sheet: TSV, CSV or semicolons with a header line, whatever spreadsheets make of them.

The config imports this module, and with it the Snakefile and ``--help``: standard library only.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONTROL = re.compile("[\0-\x08\n-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_TEXT = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive. Save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook. Save it as CSV"),
    (b"\xff\xfe", "text in UTF-16. Save it as CSV in UTF-8"),
    (b"\xfe\xff", "text in UTF-16. Save it as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed. Decompress it with gunzip, or list a sequence file as `- path: FILE`"),
)


@dataclass(frozen=True)
class Columns:
    """The columns of a kind of sheet, and what errors say of it.

    Attributes
    ----------
    names : tuple of str
        All columns there are.
    needed : str
        The one that every row must fill.
    what : str
        What stands in it ("a sequence file").
    key : str
        The key of the config that names the sheet.
    remedy : str
        What else could stand at that key; ``{sheet}`` becomes the path that was given.
    """

    names: tuple[str, ...]
    needed: str
    what: str
    key: str
    remedy: str


def read_rows(sheet: Path, columns: Columns) -> Iterator[tuple[str, dict[str, str]]]:
    """For every row of a sheet, how an error begins that is about one of its columns, and its cells that are not empty.

    TSV, CSV or semicolons, told from the header line; columns in any order; blank lines and lines that begin with # are skipped.

    Raises
    ------
    ValueError
        The sheet cannot be read, or a row or column is not as it should be: with line, column and remedy.
    """
    lines = list(io.StringIO(_read_text(sheet, columns), newline=""))
    lines = ["\n" if line.startswith("#") else line for line in lines]
    header = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=next((d for d in "\t,;" if d in header), "\t"), strict=True)
    names: list[str] = []
    found = False
    for line, row in _rows(sheet, reader):
        if not names:
            names = _header(sheet, line, row, columns)
            continue
        if len(row) != len(names):
            raise ValueError(
                f"{sheet}: line {line} has {len(row)} cells, the header has {len(names)} ({', '.join(names)}). Quote a cell that holds the delimiter, and leave cells empty rather than out"
            )
        where = f"{sheet}: line {line}, column "
        entry = {name: cell for name, cell in zip(names, row, strict=True) if cell}
        if columns.needed not in entry:
            raise ValueError(f"{where}{columns.needed}: the cell is empty; every row needs {columns.what}")
        found = True
        yield where, entry
    if not found:
        raise ValueError(f"{sheet}: the sample sheet has no rows below its header. Give {columns.what} per row")


def _rows(sheet: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped cells of every row that is not blank."""
    while True:
        line = reader.line_num + 1
        try:
            row = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{sheet}: line {line}: {error}. Look for a quotation mark without its partner") from None
        if any("\n" in cell or "\r" in cell for cell in row):
            raise ValueError(f"{sheet}: line {line}: a line break within a cell. Look for a quotation mark too many")
        odd = next((cell for cell in row if _CONTROL.search(cell)), None)
        if odd is not None:
            raise ValueError(f"{sheet}: line {line}: a control character in {odd!r}. Remove it")
        if any(row):
            yield line, row


def _header(sheet: Path, line: int, row: list[str], columns: Columns) -> list[str]:
    known = f"the columns are {', '.join(columns.names)}"
    names = [cell.lower() for cell in row]
    if columns.needed not in names:
        raise ValueError(
            f"{sheet}: line {line}: no column {columns.needed} in the header ({', '.join(row)}). The first line that is not a comment names the columns; {known}"
        )
    for i, name in enumerate(names):
        if name not in columns.names:
            said = f"unknown column {row[i]!r}" if name else f"column {i + 1} has no name"
            raise ValueError(f"{sheet}: line {line}: {said}; {known}")
        if name in names[:i]:
            raise ValueError(f"{sheet}: line {line}: two columns are named {name}. Remove or rename one of them")
    return names


def _read_text(sheet: Path, columns: Columns) -> str:
    """A sheet's text, without a byte order mark."""
    listed = columns.remedy.format(sheet=sheet)
    try:
        with sheet.open("rb") as handle:
            content = handle.read(1 << 16)
            for magic, what in _NOT_TEXT:
                if content.startswith(magic):
                    raise ValueError(f"{sheet}: not a sample sheet but {what}")
            if b"\0" in content:
                raise ValueError(f"{sheet}: not a sample sheet but a binary file. {listed}")
            if content.startswith((b">", b"@", b"LOCUS ", b"ID  ")):
                raise ValueError(f"{sheet}: not a sample sheet but a sequence file. {listed}")
            content += handle.read()
    except FileNotFoundError:
        raise ValueError(f"{sheet}: no such sample sheet ({columns.key}, relative to {Path.cwd()}). {listed}") from None
    except OSError as error:
        raise ValueError(f"{sheet}: the sample sheet cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{sheet}: line {line} is not UTF-8. Save the sheet as CSV in UTF-8") from None
