"""Labelled sets of sequence variants: read from a table and checked, before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from titans_genomics.config import VariantSetConfig
from titans_genomics.data.alphabet import encode


@dataclass(frozen=True)
class VariantSet:
    """A labelled set of variants that was read and checked.

    Attributes
    ----------
    ids : list of str
    ref, alt : list of ndarray of uint8, shape (bases,)
        Base codes; of one variant they differ.
    label : ndarray of float64, shape (variants,)
    kind : "labels" when all labels are 0 or 1, else "numbers"
    """

    ids: list[str]
    ref: list[np.ndarray]
    alt: list[np.ndarray]
    label: np.ndarray
    kind: str


def read_variants(entry: VariantSetConfig) -> VariantSet:
    """Read and check a labelled set.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; a column, sequence or label is missing or wrong: one line with file, row (data rows, from 1), column
        and remedy.
    """
    path = entry.path
    columns = _columns(entry)
    if not columns[entry.label]:
        raise ValueError(f"{path}: no rows. Give a file with variants")
    label = np.array([_number(path, row, entry.label, value) for row, value in enumerate(columns[entry.label], 1)])
    if len(np.unique(label)) == 1:
        raise ValueError(
            f"{path}: column {entry.label!r} is {label[0]:g} in every row; there must be variants of both labels, or different numbers"
        )
    sequences: dict[str, list[np.ndarray]] = {}
    for column in (entry.ref, entry.alt):
        sequences[column] = [_codes(path, row, column, value) for row, value in enumerate(columns[column], 1)]
    pairs = enumerate(zip(sequences[entry.ref], sequences[entry.alt], strict=True), 1)
    for row, (ref, alt) in pairs:
        if np.array_equal(ref, alt):
            raise ValueError(
                f"{path}: row {row}: columns {entry.ref!r} and {entry.alt!r} are the same sequence. Remove the row, or correct one of them"
            )
    names = columns[entry.id] if entry.id else list(range(1, len(label) + 1))
    ids = [str(name) for name in names]
    seen: dict[str, int] = {}
    for row, name in enumerate(ids, 1):
        if seen.setdefault(name, row) != row:
            raise ValueError(
                f"{path}: row {row}, column {entry.id!r}: {name!r} stands in row {seen[name]} already. Give each variant a name of its own"
            )
    kind = "labels" if set(np.unique(label)) == {0.0, 1.0} else "numbers"
    kept = _sample(label, kind, entry.max_variants)
    ref, alt = ([sequences[column][row] for row in kept] for column in (entry.ref, entry.alt))
    return VariantSet([ids[row] for row in kept], ref, alt, label[kept], kind)


def _sample(label: np.ndarray, kind: str, most: int | None) -> np.ndarray:
    """Rows of at most ``most`` variants in the order of the file, each label in its share; the same ones every time."""
    if most is None or most >= len(label):
        return np.arange(len(label))
    order = np.random.default_rng(most).permutation(len(label))
    if kind == "labels":  # the two labels in turn, in proportion
        rank = np.empty(len(label))
        for value in (0.0, 1.0):
            own = order[label[order] == value]
            rank[own] = (np.arange(len(own)) + 0.5) / len(own)
        order = np.argsort(rank, kind="stable")
    return np.sort(order[:most])


def _columns(entry: VariantSetConfig) -> dict[str, list[Any]]:
    """The columns that are needed, as Python values; those of CSV and TSV are strings."""
    path = entry.path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (variants.sets, {entry.key})")
    wanted = [entry.ref, entry.alt, entry.label] + ([entry.id] if entry.id else [])
    suffix = "".join(path.suffixes).lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if suffix in ("parquet", "pq"):
            file = pyarrow.parquet.ParquetFile(path)
            _check_columns(path, file.schema_arrow.names, wanted)
            table = file.read(wanted)
        elif suffix in ("csv", "tsv"):
            form = pyarrow.csv.ParseOptions(delimiter="," if suffix == "csv" else "\t")
            with pyarrow.csv.open_csv(path, parse_options=form) as file:
                _check_columns(path, file.schema.names, wanted)
            strings = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
            )
            table = pyarrow.csv.read_csv(path, parse_options=form, convert_options=strings)
        else:
            raise ValueError(f"{path}: not a table by its name. Give .csv, .tsv (also .gz) or .parquet")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as {suffix} ({' '.join(str(error).split())[:200]}). Write it again"
        ) from None
    return {column: table[column].to_pylist() for column in wanted}


def _check_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError for a column that is not there, or twice."""
    for column in wanted:
        if list(there).count(column) != 1:
            found = "stands there twice" if column in there else "is not there"
            raise ValueError(
                f"{path}: column {column!r} {found} ({', '.join(there)}). Rename it, or name another in variants.sets[] (ref, alt, label, id)"
            )


def _number(path: Path, row: int, column: str, value: Any) -> float:
    """A label."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(
            f"{path}: row {row}, column {column!r}: {value!r} is not a finite number. Correct or remove the row"
        )
    return number


def _codes(path: Path, row: int, column: str, value: Any) -> np.ndarray:
    """The base codes of a sequence."""
    if not isinstance(value, str) or not value:
        found = "is empty" if value in (None, "") else f"is {value!r}, not a sequence"
        raise ValueError(f"{path}: row {row}, column {column!r} {found}. Give letters of bases, flanks included")
    try:
        return encode(value)
    except ValueError as error:
        raise ValueError(f"{path}: row {row}, column {column!r}, {error}. Correct or remove the row") from None
