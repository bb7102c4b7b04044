"""The columns of labelled sequences: which they are, what they hold, and everything that can be wrong with them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from titans_genomics.config import DatasetConfig
from titans_genomics.data.labelled.files import BAR, Sheet, refuse_foreign
from titans_genomics.data.labelled.layouts import LABELS, SPLIT_NAMES
from titans_genomics.data.splits import SPLITS

SEQUENCES = ("sequence", "seq", "dna", "DNA")
"""Names of a sequence column, the default first."""

_KEY = "downstream.datasets[]"


@dataclass
class Rows:
    """What the sheets of a dataset hold, one after the other.

    Attributes
    ----------
    sheets : sequence of Sheet
    ids : list of str
    sequences : pyarrow array
        large_binary, the letters without white space at the ends.
    labels : list of pyarrow array
        Per label column.
    split : numpy.ndarray
        uint8 (rows,), 0 train, 1 validation, 2 test.
    groups : numpy.ndarray or None
        int64 (rows,).
    warnings : list of str
    """

    sheets: Sequence[Sheet]
    ids: list[str]
    sequences: Any
    labels: list[Any]
    split: np.ndarray
    groups: np.ndarray | None
    warnings: list[str]

    def where(self, row: int) -> str:
        """The place of a row of all in words."""
        return _where(self.sheets, row)


def read_rows(sheets: Sequence[Sheet], settings: DatasetConfig, official: bool) -> Rows:
    """Find and check the columns of all sheets.

    ``official``: a published dataset, whose names of sequences may repeat.

    Raises ValueError for missing columns and values, repeated names, unknown splits.
    """
    warnings: list[str] = []
    sequences = [_sequence(sheet, settings) for sheet in sheets]
    labels = []
    for name in settings.label_columns:
        parts = [flat(_label(sheet, settings, name)) for sheet in sheets]
        if len({part.type for part in parts}) > 1:
            parts = [as_text(part) for part in parts]
        labels.append(pa.concat_arrays(parts))
        row = first_missing(labels[-1])
        if row is not None:
            raise ValueError(
                f"{_where(sheets, row)}: no label (column {name!r}). Fill it in, or remove the {sheets[0].unit}"
            )
    split = np.concatenate([_split(sheet, settings) for sheet in sheets])
    groups = None
    if settings.group is not None:
        column = pa.concat_arrays([as_text(_column(sheet, settings.group, "group")) for sheet in sheets])
        row = first_missing(column)
        if row is not None:
            raise ValueError(
                f"{_where(sheets, row)}: no group (column {settings.group!r}). Fill it in, or leave {_KEY}.group out"
            )
        groups = pc.dictionary_encode(column).indices.to_numpy().astype(np.int64)
        apart = [set(groups[split == part].tolist()) for part in range(3)]
        across = len((apart[0] | apart[1]) & apart[2])
        if across:
            warnings.append(
                f"{across:,} groups ({settings.group}) stand in train and in test: the given test set does not keep them whole"
            )
    ids = _ids(sheets, settings, official, warnings)
    return Rows(sheets, ids, pa.concat_arrays(sequences), labels, split, groups, warnings)


def _where(sheets: Sequence[Sheet], row: int) -> str:
    starts = [0, *accumulate(len(sheet) for sheet in sheets)]
    number = bisect_right(starts, row) - 1
    return sheets[number].where(row - starts[number])


# --------------------------------------------------------------------------------------------- columns


def _column(sheet: Sheet, wanted: str, key: str, others: Sequence[str] = ()) -> Any:
    """A column by name, or by one of ``others`` when it is not there and one of these is."""
    columns = sheet.columns
    if wanted in columns:
        return columns[wanted]
    there = [name for name in others if name in columns]
    if len(there) == 1:
        return columns[there[0]]
    refuse_foreign(sheet.path)
    alike = {name.lower() for name in (wanted, *others)}
    near = there or [name for name in columns if name.strip().lower() in alike]
    if near:
        listed = " and ".join(repr(name) for name in near)
        hint = f"column{' ' + listed + ' is' if len(near) == 1 else 's ' + listed + ' are'} there: set {_KEY}.{key}"
    else:
        shown = ", ".join(repr(name) for name in list(columns)[:10] if name != BAR)
        hint = f"there are {shown}. Name the right one in {_KEY}.{key}"
    raise ValueError(f"{sheet.path}: no column {wanted!r}; {hint}")


def _sequence(sheet: Sheet, settings: DatasetConfig) -> Any:
    """The letters of a sheet, large_binary without white space at the ends."""
    wanted = settings.sequence if sheet.unit == "row" else SEQUENCES[0]
    column = flat(_column(sheet, wanted, "sequence", SEQUENCES[1:] if wanted == SEQUENCES[0] else ()))
    if pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column).cast(pa.large_binary())
    elif pa.types.is_binary(column.type):
        column = column.cast(pa.large_binary())
    elif not pa.types.is_large_binary(column.type):
        raise ValueError(
            f"{sheet.path}: column {wanted!r} holds {column.type}, not text. Name the column of the sequences in {_KEY}.sequence"
        )
    empty = pc.fill_null(pc.equal(pc.binary_length(column), 0), True)
    row = pc.index(empty, True).as_py()
    if row >= 0:
        raise ValueError(
            f"{sheet.where(row)}: an empty sequence ({pc.sum(empty).as_py():,} in all). Fill it in, or remove the {sheet.unit}"
        )
    return column


def _label(sheet: Sheet, settings: DatasetConfig, name: str) -> Any:
    if sheet.label is not None:
        if len(settings.label_columns) > 1:
            raise ValueError(
                f"{sheet.path}: the classes are folders or files, so there is one label; {_KEY}.label names {len(settings.label_columns)}"
            )
        return pa.repeat(pa.scalar(sheet.label, pa.large_string()), len(sheet))
    if sheet.unit != "record":
        return _column(sheet, name, "label", LABELS[1:] if name == LABELS[0] else ())
    column, bar = sheet.columns.get(name), sheet.columns[BAR]
    if column is None and name == LABELS[0]:
        others = [other for other in LABELS[1:] if other in sheet.columns]
        column = sheet.columns[others[0]] if len(others) == 1 else None
    if len(settings.label_columns) == 1:
        column = bar if column is None else pc.coalesce(column, bar)
    if column is None or column.null_count == len(column):
        raise ValueError(
            f"{sheet.path}: record 1 ({sheet.columns['id'][0].as_py()}) has no label: write it as `>name|label` or as `>name {name}=...`"
        )
    return column


def flat(column: Any) -> Any:
    """One plain array of a column; of text large_string."""
    if isinstance(column, pa.ChunkedArray):
        column = column.cast(pa.large_string()) if pa.types.is_string(column.type) else column
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return (
        column.cast(pa.large_string()) if pa.types.is_string(column.type) or pa.types.is_null(column.type) else column
    )


def letters(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a column of type large_string or large_binary, uint8, and where each row begins in them, int64 (rows + 1)."""
    _, starts, raw = column.buffers()
    offsets = np.frombuffer(starts, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(raw, dtype=np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def as_text(column: Any) -> Any:
    """A column as large_string without white space at the ends."""
    plain = flat(column)
    return pc.utf8_trim_whitespace(plain if pa.types.is_large_string(plain.type) else plain.cast(pa.large_string()))


def as_numbers(column: Any) -> np.ndarray | int:
    """A column as float64, or the first row that is no finite number."""
    plain = flat(column)
    if pa.types.is_boolean(plain.type):
        plain = plain.cast(pa.uint8())
    elif not pa.types.is_floating(plain.type) and not pa.types.is_integer(plain.type):
        plain = as_text(plain)
    try:
        numbers = plain.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return next(row for row, text in enumerate(plain) if not _is_number(text))
    bad = np.flatnonzero(~np.isfinite(numbers))
    return int(bad[0]) if len(bad) else numbers


def _is_number(text: Any) -> bool:
    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def first_missing(column: Any) -> int | None:
    """The first row that is null, empty, or not a number in the sense of NaN."""
    if pa.types.is_nested(column.type):
        raise ValueError(f"{_KEY}.label: the column holds lists. Write a column for each label and name them all")
    missing = pc.is_null(column, nan_is_null=True)
    if pa.types.is_large_string(column.type):
        bare = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        missing = pc.or_(missing, pc.fill_null(pc.is_in(bare, pa.array(["", "nan"], pa.large_string())), True))
    rows = np.flatnonzero(missing.to_numpy(zero_copy_only=False))
    return int(rows[0]) if len(rows) else None


def _split(sheet: Sheet, settings: DatasetConfig) -> np.ndarray:
    """uint8, shape (rows,); 0 where nothing says which."""
    name = settings.split or "split"
    if name not in sheet.columns and settings.split is not None and sheet.split is None:
        _column(sheet, settings.split, "split")
    if name not in sheet.columns or (sheet.split is not None and settings.split is None):
        return np.full(len(sheet), sheet.split or 0, dtype=np.uint8)
    values = pc.dictionary_encode(as_text(sheet.columns[name]))
    numbers = [SPLIT_NAMES.get((value or "").lower(), 255) for value in values.dictionary.to_pylist()]
    found = np.array([*numbers, 255], dtype=np.uint8)[values.indices.fill_null(len(numbers)).to_numpy()]
    bad = np.flatnonzero(found == 255)
    if len(bad):
        value = sheet.columns[name][int(bad[0])].as_py()
        raise ValueError(f"{sheet.where(int(bad[0]))}: {name} is {value!r}; write train, validation or test")
    return found


def _ids(sheets: Sequence[Sheet], settings: DatasetConfig, official: bool, warnings: list[str]) -> list[str]:
    """A name of every row, no two the same."""
    found, numbered = [], False  # numbered: names may only be numbers of rows, which begin anew in the next file
    for sheet in sheets:
        own, numbers = _own_ids(sheet, settings)
        found.append(own)
        numbered |= numbers
    ids = [one for own in found for one in own]
    if len(set(ids)) < len(ids) and len(sheets) > 1 and numbered:
        places = [f"{SPLITS[sheet.split or 0]}/{sheet.label or ''}".rstrip("/") for sheet in sheets]
        if len(set(places)) < len(places):
            places = [f"{place}/{sheet.path.name}" for place, sheet in zip(places, sheets, strict=True)]
        ids = [f"{place}/{one}" for place, own in zip(places, found, strict=True) for one in own]
    if len(set(ids)) == len(ids):
        return ids
    first: dict[str, int] = {}
    row, again = next((row, one) for row, one in enumerate(ids) if first.setdefault(one, row) != row)
    if not official:
        raise ValueError(
            f"{_where(sheets, row)}: the id {again!r} stands there for the second time, first in {_where(sheets, first[again])}. "
            f"Rename it, remove the copy, or name another column in {_KEY}.id"
        )
    warnings.append(f"names of sequences repeat (such as {again}); the number of the row was added to all")
    return [f"{one}#{row + 1}" for row, one in enumerate(ids)]


def _own_ids(sheet: Sheet, settings: DatasetConfig) -> tuple[list[str], bool]:
    """The names in a sheet, and whether they look like numbers of rows and nobody said that they are more."""
    name = "id" if settings.id is None or sheet.unit != "row" else settings.id
    if name not in sheet.columns and settings.id is None:
        return [str(row + 1) for row in range(len(sheet))], True
    column = as_text(_column(sheet, name, "id"))
    row = first_missing(column)
    if row is not None:
        raise ValueError(f"{sheet.where(row)}: no id (column {name!r}). Give every {sheet.unit} a name of its own")
    ids = column.to_pylist()
    return ids, settings.id is None and len(set(ids)) == len(ids) and all(one.isdecimal() for one in ids)
