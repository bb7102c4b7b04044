"""The CSV of a forecasting run: found or downloaded, its cells taken apart, and what is wrong with it named by row and column.

Rows are counted from 1, the first one below the header. N: steps of the series.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Sized
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from titans_genomics.config import ForecastConfig
from titans_genomics.data.fetch import download
from titans_genomics.files import file_sha256

FORMATS = (
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y-%m",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
)  # fmt: skip
"""Times that can be read, and whole numbers; month before day cannot be told from day before month, and is not among them."""

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "-", "?")
"""Cells that hold no value."""


# ------------------------------------------------------------------------------------------------ the file


def find_file(settings: ForecastConfig) -> tuple[Path, str]:
    """The file of ``forecast.path``, downloaded if need be, and its SHA-256."""
    path = settings.path
    assert path is not None
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; forecast.path names a CSV file")
    if settings.url is not None:
        download(path, settings.url, None, "forecast.url")
    elif not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file (forecast.path, relative to the working directory); put it there, or give forecast.url"
        )
    sha256 = file_sha256(path)
    if settings.sha256 is not None and sha256 != settings.sha256.lower():
        raise ValueError(
            f"{path}: the SHA-256 checksum is {sha256}, expected {settings.sha256.lower()} (forecast.sha256). Copy or download the file again, or correct the checksum"
        )
    return path, sha256


def read_table(path: Path, settings: ForecastConfig) -> pa.Table:
    """The columns asked for, as text."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip ({error}); copy or download it again") from None
    if not content.strip():
        raise ValueError(f"{path}: is empty; forecast.path names a CSV file with a header")
    faults: list[str] = []

    def note(row: csv.InvalidRow) -> str:
        faults.append(
            f"row {row.number - 1:,} has {row.actual_columns} cells, the header {row.expected_columns}"
            if row.number is not None
            else f"a row has {row.actual_columns} cells, the header {row.expected_columns}: {row.text[:80]!r}"
        )
        return "skip"

    header = _header(path, content)
    try:
        names = csv.read_csv(io.BytesIO((header + "\n").encode())).column_names
        table = csv.read_csv(
            io.BytesIO(content),
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(invalid_row_handler=note),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: not a CSV table in UTF-8 with commas between cells ({' '.join(str(error).split())[:200]})"
        ) from None
    if faults:
        raise ValueError(f"{path}: {faults[0]}; correct that row")
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the header names column {twice[0]!r} twice; rename one of them")
    for key, name in (("time", settings.time), *(("columns", name) for name in settings.columns or ())):
        if name not in table.column_names:
            raise ValueError(
                f"{path}: has no column {name!r} (forecast.{key}); it has {', '.join(table.column_names[:20])}"
            )
    if settings.columns is not None and settings.time in settings.columns:
        raise ValueError(f"forecast.columns: {settings.time!r} is the column of the times; leave it out")
    if table.num_columns < 2:
        raise ValueError(
            f"{path}: has the column {settings.time!r} alone, and nothing to forecast; are its cells separated by commas?"
        )
    if table.num_rows < 3:
        raise ValueError(f"{path}: has {table.num_rows} rows, which make no series; give a longer one")
    return table


def _header(path: Path, content: bytes) -> str:
    """The first line. Raises ValueError when it is of another encoding, or its cells stand between other marks than commas."""
    first = content.split(b"\n", 1)[0]
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first:
        raise ValueError(f"{path}: is UTF-16, as it seems; save it as UTF-8")
    try:
        header = first.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the header is not UTF-8 (byte {error.start + 1:,}), but Latin-1 or the like; save it as UTF-8"
        ) from None
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if mark in header and "," not in header:
            raise ValueError(f"{path}: its cells stand between {name}, as it seems; save it with commas between them")
    return header


# ------------------------------------------------------------------------------------------------- times


def read_times(
    path: Path, text: pa.ChunkedArray, settings: ForecastConfig
) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """The evenly spaced times of all steps, and the step of every row of the file."""
    name = settings.time
    times = _parse(path, name, pc.utf8_trim_whitespace(text.combine_chunks()))
    ticks = times.astype(np.int64)
    unit = "s"
    if times.dtype.kind == "M":
        months = times.astype("datetime64[M]").astype(np.int64)
        if np.all(times == times.astype("datetime64[M]")) and (np.diff(months) > 0).all():
            ticks, unit = months, "M"  # calendar months are even, though not in seconds
    apart = np.diff(ticks)
    for row in np.flatnonzero(apart <= 0)[:1]:
        what = "stands twice" if apart[row] == 0 else f"comes after {_shown(times[row])}"
        remedy = "Remove one of the two rows" if apart[row] == 0 else "Sort the file by its times"
        raise ValueError(f"{path}: row {row + 2:,}: the time {_shown(times[row + 1])} {what}. {remedy}")
    step = int(np.median(apart))
    steps = (ticks - ticks[0]) // step
    uneven = np.flatnonzero((ticks - ticks[0]) % step)
    if len(uneven):
        row = int(uneven[0])
        raise ValueError(
            f"{path}: row {row + 1:,}: {_shown(times[row])} is not evenly spaced: most rows of {name!r} are {_length(step, unit, times)} apart. "
            "Resample the series to even steps"
        )
    gaps = np.flatnonzero(apart > step)
    count = int(steps[-1]) + 1
    if len(gaps) and settings.gaps == "error":
        first, lost = int(gaps[0]), int(steps[gaps[0] + 1] - steps[gaps[0]] - 1)
        raise ValueError(
            f"{path}: between row {first + 1:,} ({_shown(times[first])}) and row {first + 2:,} ({_shown(times[first + 1])}) {lost:,} rows are missing"
            f"{f'; there are {len(gaps):,} such gaps' if len(gaps) > 1 else ''}. Fill them, or set forecast.gaps to interpolate"
        )
    if count > 2 * len(ticks):
        raise ValueError(
            f"{path}: {count - len(ticks):,} of {count:,} steps are missing, more than there are. Give a series with fewer gaps"
        )
    even = ticks[0] + step * np.arange(count)
    if times.dtype.kind == "M":
        return even.astype(f"datetime64[{unit}]").astype("datetime64[s]"), steps.astype(np.intp)
    return even, steps.astype(np.intp)


def _parse(path: Path, name: str, text: pa.Array) -> NDArray[np.generic]:
    """Times as datetime64[s], or whole numbers as int64."""
    first = text[0].as_py()
    kinds = [form for form in FORMATS if pc.strptime(text[:1], form, "s", error_is_null=True).null_count == 0]
    if kinds:
        parsed = pc.strptime(text, kinds[0], "s", error_is_null=True)
        same = pc.equal(
            _without_zeros(text), _without_zeros(pc.strftime(parsed, kinds[0]))
        )  # 30 February is read as 1 March
        wrong = np.flatnonzero(~pc.fill_null(same, False).to_numpy(zero_copy_only=False))
        if not len(wrong):
            return parsed.to_numpy(zero_copy_only=False).astype("datetime64[s]")
    else:
        whole = pc.match_substring_regex(text, r"^[+-]?\d{1,17}$").to_numpy(zero_copy_only=False)
        if whole.all():
            return np.array(text.to_pylist(), dtype=np.int64)
        wrong = np.flatnonzero(~whole) if whole[0] else np.zeros(1, np.intp)
    row = int(wrong[0])
    like = f"like {first!r} in row 1" if row else "such as 2016-07-01 00:15:00, 2016-07-01 or a whole number"
    raise ValueError(
        f"{path}: row {row + 1:,}, column {name!r}: {text[row].as_py()!r} is not a time {like}{and_more(wrong)}. Write all times in one way"
    )


def _without_zeros(text: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(text, r"(^|[^0-9])0+([0-9])", r"\1\2")


def _shown(time: np.generic) -> str:
    return str(time).replace("T", " ")


def _length(step: int, unit: str, times: NDArray[np.generic]) -> str:
    if times.dtype.kind != "M":
        return f"{step:,}"
    return f"{step:,} months" if unit == "M" else f"{step:,} seconds"


# ------------------------------------------------------------------------------------------------ numbers


def read_numbers(path: Path, name: str, text: pa.ChunkedArray, settings: ForecastConfig) -> NDArray[np.float64]:
    """A column (N,) of numbers, NaN where a value is missing and may be."""
    cells = pc.utf8_trim_whitespace(text.combine_chunks())
    cells = pc.if_else(pc.is_in(cells, value_set=pa.array(MISSING)), pa.scalar("nan"), cells)
    try:
        values = pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        row = next(i for i, cell in enumerate(cells.to_pylist()) if not _is_number(cell))
        raise ValueError(
            f"{path}: row {row + 1:,}, column {name!r}: {cells[row].as_py()!r} is not a number. Correct it, or list the columns of numbers under forecast.columns"
        ) from None
    missing = np.isnan(values)  # -nan and nan(1) are numbers to the parser, too
    if missing.all():
        raise ValueError(
            f"{path}: column {name!r} has no value at all. Leave it out: list the others under forecast.columns"
        )
    if missing.any() and settings.gaps == "error":
        row = int(np.flatnonzero(missing)[0])
        raise ValueError(
            f"{path}: row {row + 1:,}, column {name!r}: the value is missing{and_more(np.flatnonzero(missing))}. Fill it, or set forecast.gaps to interpolate"
        )
    endless = np.flatnonzero(np.isinf(values))
    if len(endless):
        raise ValueError(
            f"{path}: row {endless[0] + 1:,}, column {name!r}: {cells[int(endless[0])].as_py()!r} is not finite. Correct it"
        )
    return values


def _is_number(cell: str) -> bool:
    try:
        pc.cast(pa.array([cell]), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def and_more(found: Sized) -> str:
    """How many more there are of what an error names one of."""
    count = len(found)
    return f", and {count - 1:,} more" if count > 1 else ""
