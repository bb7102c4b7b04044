"""Files of labelled sequences: CSV, TSV, Parquet and FASTA, plain or gzip. What a file is, its content says, not its name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from titans_genomics.data.bgzf import read_blocks
from titans_genomics.data.detect import detect_kind
from titans_genomics.progress import Progress

BAR = "|"
"""Column of what stands behind the last | of a FASTA header."""

_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 26  # bytes that are parsed at once; no row may be longer
_DELIMITERS = ",\t;"
_KEY = re.compile(r"(?:(?<=[\s|;])|^)([A-Za-z_][\w.-]*)=([^\s|;]+)")
_NAME = re.compile(r"[^\s|;]*")


@dataclass
class Sheet:
    """Rows as they stand in a file, or in the files of a folder.

    Attributes
    ----------
    path : Path
        The file; of one file per sequence the folder that their names are relative to.
    columns : dict of str to pyarrow array
        By name, of one length. Those of text files are text.
    unit : str
        What a row is called in messages.
    layout : str
        The format, for the record of where the data comes from.
    split : int or None
        0 train, 1 validation, 2 test, when the place of the file says so.
    label : str or None
        The class, when the place of the file says so.
    delimiter : str
        Of CSV.
    """

    path: Path
    columns: dict[str, Any]
    unit: Literal["row", "record", "file"]
    layout: str
    split: int | None = None
    label: str | None = None
    delimiter: str = ","

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int) -> str:
        """The place of a row (counted from 0) in words, rows and lines counted from 1; takes as long as reading the file."""
        if self.unit == "file":
            return str(self.path / self.columns["file"][row].as_py())
        if self.unit == "record":
            return f"{self.path}: record {row + 1} ({self.columns['id'][row].as_py()})"
        if not self.layout.startswith(("CSV", "TSV")):
            return f"{self.path}: row {row + 1}"
        content = _content(self.path)
        lines = (line for line, _ in _csv_rows(content, self.delimiter))
        next(lines)
        line = next((line for number, line in enumerate(lines) if number == row), None)
        return f"{self.path}: row {row + 1}" + (f" (line {line})" if line is not None else "")


def read_sheet(path: Path) -> Sheet:
    """The rows of a CSV, TSV, Parquet or FASTA file.

    FASTA has the columns ``id``, ``sequence``, `BAR` and one for every ``key=value`` of its headers.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is empty, damaged, not UTF-8, of another format, or has rows of different lengths or columns of one name.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file of labelled sequences (downstream.datasets[].path or test)")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file; a file of labelled sequences is needed")
    content = _content(path)
    if not content.strip():
        raise ValueError(f"{path}: the file is empty")
    if content.startswith(b"PAR1"):
        sheet = _parquet(path, content)
    elif content[:1024].removeprefix(_BOM).lstrip().startswith(b">"):
        sheet = _fasta(path, content)
    else:
        sheet = _csv(path, content)
    if len(sheet) == 0:
        refuse_foreign(path)
        raise ValueError(f"{path}: has a header but not one {sheet.unit}. Write or download the file again")
    return sheet


def refuse_foreign(path: Path) -> None:
    """Raise ValueError, saying what it is, for a file that is known to be no table: a web page, a spreadsheet, an archive."""
    try:
        kind = detect_kind(path)
    except ValueError as error:
        if ": neither FASTA" not in str(error):
            raise
        return
    if kind != "fasta":
        raise ValueError(
            f"{path}: this is a {kind.upper()} file. Labelled sequences are read from CSV, TSV, Parquet or FASTA"
        )


def _content(path: Path) -> bytes:
    """The bytes of a file, decompressed."""
    parts = []
    with Progress(None, "bytes", f"reading {path.name}") as progress:
        try:
            for block, share in read_blocks(path):
                parts.append(block.tobytes())
                progress.update(len(block), fraction=share)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    return b"".join(parts)


# ---------------------------------------------------------------------------------------------- tables


def _parquet(path: Path, content: bytes) -> Sheet:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged Parquet ({_one_line(error)}). Copy or download the file again") from None
    _check_names(path, table.column_names)
    return Sheet(path, dict(zip(table.column_names, table.columns, strict=True)), "row", "Parquet")


def _csv(path: Path, content: bytes) -> Sheet:
    content = content.removeprefix(_BOM)
    names, delimiter = _header(path, content)
    _check_names(path, names)
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(content),
            pa_csv.ReadOptions(block_size=_BLOCK),
            pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in content),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise _fault(path, content, delimiter, len(names), error) from None
    columns = [name.strip() for name in table.column_names]
    layout = "TSV" if delimiter == "\t" else "CSV"
    return Sheet(path, dict(zip(columns, table.columns, strict=True)), "row", layout, delimiter=delimiter)


def _header(path: Path, content: bytes) -> tuple[list[str], str]:
    """The column names as they are written, and the delimiter: the one with the most columns; at a tie, that of the file's name."""
    line = next((line for line in content[:_BLOCK].splitlines() if line.strip()), b"")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        refuse_foreign(path)
        raise _not_utf8(path, content) from None
    if "\0" in text:
        refuse_foreign(path)
        raise ValueError(f"{path}: holds zero bytes; a text file of labelled sequences is needed")
    usual = "\t" if re.search(r"\.(tsv|tab)(\.|$)", path.name.lower()) else ","
    rows = {mark: next(csv.reader([text], delimiter=mark)) for mark in sorted(_DELIMITERS, key=lambda m: m != usual)}
    delimiter = max(rows, key=lambda mark: len(rows[mark]))
    names = rows[delimiter]
    if any(re.fullmatch(r"[ACGTUN]{8,}", name.strip(), re.IGNORECASE) for name in names):
        raise ValueError(
            f"{path}: line 1 is a sequence, not the names of the columns. Write a header such as sequence{delimiter}label in front of it"
        )
    return names, delimiter


def _check_names(path: Path, names: list[str]) -> None:
    stripped = [name.strip() for name in names if name.strip()]
    twice = next((name for name in stripped if stripped.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: two columns are named {twice!r}. Rename or remove one of them")


def _fault(path: Path, content: bytes, delimiter: str, columns: int, error: Exception) -> ValueError:
    """What is wrong with a CSV file that could not be parsed."""
    refuse_foreign(path)
    try:
        content.decode()
    except UnicodeDecodeError:
        return _not_utf8(path, content)
    rows = _csv_rows(content, delimiter)
    try:
        for number, (line, row) in enumerate(rows):
            if len(row) != columns:
                return ValueError(
                    f"{path}: row {number} (line {line}) has {len(row)} fields, the header has {columns}. Quote fields that hold a delimiter, or mend the row"
                )
    except csv.Error as other:
        error = other
    return ValueError(f"{path}: not a table that can be read ({_one_line(error)}). Write the file again")


def _csv_rows(content: bytes, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows of CSV text, each with the line that it begins in (from 1); lines without text are left out."""
    text = io.StringIO(content.removeprefix(_BOM).decode(errors="replace"), newline="")
    limit = csv.field_size_limit(1 << 30)
    try:
        reader = csv.reader(text, delimiter=delimiter)
        before = 0
        for row in reader:
            if row:
                yield before + 1, row
            before = reader.line_num
    finally:
        csv.field_size_limit(limit)


def _not_utf8(path: Path, content: bytes) -> ValueError:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return ValueError(
            f"{path}: line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}). Convert it with `iconv -f LATIN1 -t UTF-8`"
        )
    raise AssertionError("text that is not UTF-8 cannot be decoded")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# ---------------------------------------------------------------------------------------------- FASTA


def _fasta(path: Path, content: bytes) -> Sheet:
    text = content.replace(b"\r\n", b"\n").removeprefix(_BOM).lstrip()
    headers, sequences = [], []
    for record in text[1:].split(b"\n>"):
        header, _, body = record.partition(b"\n")
        headers.append(header)
        sequences.append(b"".join(body.split()))
    try:
        lines = b"\n".join(headers).decode().split("\n")
    except UnicodeDecodeError:
        raise _not_utf8(path, content) from None
    columns: dict[str, list[str | None]] = {"id": [], BAR: []}
    for number, line in enumerate(lines):
        keys = dict(_KEY.findall(line))
        before, bar, behind = line.rpartition("|")
        if keys or not bar:
            match = _NAME.match(line.strip())
            assert match is not None
            columns["id"].append(match.group())
        else:
            columns["id"].append(before.strip())
        columns[BAR].append(behind.strip() if bar and not _KEY.search(behind) else None)
        for key, value in keys.items():
            if key not in ("id", "sequence"):
                columns.setdefault(key, [None] * number).append(value)
        for values in columns.values():
            if len(values) <= number:
                values.append(None)
    arrays = {name: pa.array(values, pa.large_string()) for name, values in columns.items()}
    return Sheet(path, arrays | {"sequence": pa.array(sequences, pa.large_binary())}, "record", "FASTA")
