"""Documents in rows: JSON Lines, one object a line, and Parquet, one document a row; the text is under one key."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.batch import BATCH, Advance, Batch
from titans_genomics.data.text import EMPTY
from titans_genomics.data.utf8 import Utf8, as_codes

NULL = "document without text (null)"
"""Why a row whose text is null is left out."""

_ROWS = 256  # rows of a Parquet file that are decoded together
_BUFFER = 1 << 20  # bytes of a column that are read at a time
_NAMES = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}


class _Rows:
    """Gathers documents into batches; ``column``: the key of the text."""

    def __init__(self, source: SourceConfig, data: DataConfig, dropped: Counter[str]) -> None:
        self.path, self.dropped = source.path, dropped
        self.column = source.column or data.text.column
        self.key = "data.sources[].column" if source.column else "data.text.column"
        self.utf8 = Utf8(source.path, data.text.encoding)
        self.documents = 0
        self._begin()

    def _begin(self) -> None:
        self._parts: list[bytes] = []
        self._names: list[str] = []
        self._starts: list[int] = []
        self.filled = 0
        self._strays = self.utf8.strays

    def add(self, raw: bytes | None, number: int) -> None:
        """The text of a row; None: null."""
        if not raw:
            self.dropped[NULL if raw is None else EMPTY] += 1
            return
        self.documents += 1
        self._names.append(f"{self.path.name}.{number}")
        self._starts.append(self.filled)
        self._parts.append(raw)
        self.filled += len(raw)

    def batch(self) -> Batch:
        """What was gathered since the batch before."""
        strays = self.utf8.strays - self._strays
        batch = Batch(as_codes(self._parts), self._names, np.array(self._starts, dtype=np.int64), ambiguous=strays)
        self._begin()
        return batch

    def end(self) -> None:
        """Raise ValueError when there was no document."""
        if not self.documents:
            raise ValueError(f"{self.path}: no text in the file: nothing under {self.column!r} ({self.key})")


def read_jsonl(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The documents of a JSON Lines file, plain or gzip, named by the file and their line (1-based).

    Blank lines are skipped; documents that are empty or null are left out and counted.

    Raises
    ------
    ValueError
        A line that is no JSON object, has no such key or no text under it, naming the line; no text in the file; damaged
        compression; a byte that is not UTF-8 when ``data.text.encoding`` is ``error``.
    """
    rows = _Rows(source, data, dropped)
    number, rest = 0, []  # the last line so far may go on in the next block
    share = 1.0
    for block, share in rows.utf8.blocks():
        first, newline, after = block.partition(b"\n")
        rest.append(first)
        if newline:
            *lines, last = after.split(b"\n")
            for line in (b"".join(rest), *lines):
                number += 1
                _add_line(rows, line, number)
            rest = [last]
        if rows.filled >= BATCH:
            yield rows.batch()
            advance(share)
    _add_line(rows, b"".join(rest), number + 1)
    rows.end()
    yield rows.batch()
    advance(share)


def _add_line(rows: _Rows, line: bytes, number: int) -> None:
    if not line.strip():
        return
    where = f"{rows.path}: line {number:,}"
    wanted = f"each line is one JSON object with the text under {rows.column!r} ({rows.key})"
    try:
        row = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        hint = ". An array of objects becomes lines with `jq -c '.[]'`" if line.lstrip().startswith(b"[") else ""
        raise ValueError(f"{where}: broken JSON ({why}); {wanted}{hint}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {_NAMES.get(type(row), 'a value')} and no object; {wanted}")
    if rows.column not in row:
        raise ValueError(f"{where}: no key {rows.column!r} ({rows.key}); {_there(list(row))}")
    text = row[rows.column]
    if not isinstance(text, str | None):
        raise ValueError(f"{where}: {rows.column!r} ({rows.key}) is {_NAMES[type(text)]}, not text")
    rows.add(None if text is None else rows.utf8.encode(text, f"line {number:,}"), number)


def _there(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return f"there is {shown}" if names else "there are none"


def read_parquet(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The documents of a Parquet file, named by the file and their row (1-based), in memory that does not grow with it.

    Documents that are empty or null are left out and counted.

    Raises
    ------
    ValueError
        A damaged file, no such column or one that holds no text, no text in the file, or a byte that is not UTF-8 when
        ``data.text.encoding`` is ``error``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _Rows(source, data, dropped)
    done = 0
    try:
        with pq.ParquetFile(source.path, memory_map=False, buffer_size=_BUFFER, pre_buffer=False) as file:
            _check_column(rows, file.schema_arrow)
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(_ROWS, columns=[rows.column], use_threads=False):
                column: Any = batch.column(0)
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                for value in column.cast(pa.large_binary()).to_pylist():
                    done += 1
                    rows.add(value and rows.utf8.treat(value, None, f"row {done:,}"), done)
                    if rows.filled >= BATCH:
                        yield rows.batch()
                        advance(done / total)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from None
    rows.end()
    yield rows.batch()
    advance(1.0)


def check_parquet(source: SourceConfig, data: DataConfig) -> None:
    """Raise ValueError when a Parquet file is damaged at its end, or has no such column of text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(source.path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from None
    _check_column(_Rows(source, data, Counter()), schema)


def _damaged(source: SourceConfig, error: Exception) -> ValueError:
    said = " ".join(str(error).split())[:200]
    return ValueError(f"{source.path}: damaged Parquet file ({said}). Copy or download the file again")


def _check_column(rows: _Rows, schema: Any) -> None:
    import pyarrow as pa

    if rows.column not in schema.names:
        raise ValueError(f"{rows.path}: no column {rows.column!r} ({rows.key}); {_there(schema.names)}")
    kind = schema.field(rows.column).type
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held)):
        raise ValueError(f"{rows.path}: column {rows.column!r} ({rows.key}) holds {kind}, not text")
