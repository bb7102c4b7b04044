"""The base layer of one source: every base that its reader gave, in file order, before anything is chosen or split.

    NAME.bases           uint8, base codes (text: bytes) of all records, one after the other
    NAME.records.parquet a row per record: name, offset, length; of reads also what is known of their alignment
    NAME.softmask.npy    int64 (stretches, 2): soft-masked stretches, positions in NAME.bases, sorted, half-open
    NAME.nruns.npy       int64 (runs, 2): runs of N (contigs only)
    NAME.json            what it was made from and counts; written last, its presence says that the shard is whole

A shard depends on the file and on how letters and reads are read, not on regions, splits or tokenizer: those only
choose from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from titans_genomics.data.batch import Batch, PackedNames
from titans_genomics.data.source_file import SourceFile
from titans_genomics.data.tally import tally

BASES, RECORDS, SOFTMASK, NRUNS, FACTS = SUFFIXES = (
    ".bases",
    ".records.parquet",
    ".softmask.npy",
    ".nruns.npy",
    ".json",
)
TOKENS = ".tokens"
"""What the file of a source's tokens ends in, where a token is not a base (module ``index``)."""

_LONGEST = 160  # letters of a label in a file's name
_GROUP = 1 << 16  # rows of the table that are written together
_WRITE = 1 << 16  # bytes; larger writes are slower where the page cache has to find large pages
READ_COLUMNS = ("key", "minus", "contig", "start", "end", "mapq")


def shard_path(folder: Path, label: str, suffix: str) -> Path:
    """A file of the shard of a source; ``folder`` is the store's folder of shards."""
    stem = quote(label, safe="")
    if len(stem) > _LONGEST:  # such as of other scripts, whose letters become nine
        stem = f"{stem[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    return folder / (stem + suffix)


class Shard:
    """The shard of one source, opened for reading.

    Raises ValueError when a file is missing or of another size than it was written with.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.folder, self.label = folder, label
        path = shard_path(folder, label, FACTS)
        try:
            self.facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            expected = self.facts["sizes"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: missing or damaged. Run `titans-genomics tokenize` again") from None
        for suffix, size in expected.items():
            own = shard_path(folder, label, suffix)
            found = own.stat().st_size if own.is_file() else 0
            if found != size:
                raise ValueError(
                    f"{own}: {found:,} bytes, {size:,} were written: cut short or changed. Run `titans-genomics tokenize` again"
                )

    @cached_property
    def codes(self) -> np.ndarray:
        """uint8, shape (bases,), memory-mapped."""
        path = shard_path(self.folder, self.label, BASES)
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")

    @cached_property
    def softmask(self) -> np.ndarray:
        """int64, shape (stretches, 2), memory-mapped."""
        return load_array(shard_path(self.folder, self.label, SOFTMASK))

    @cached_property
    def n_runs(self) -> np.ndarray:
        """int64, shape (runs, 2), memory-mapped."""
        return load_array(shard_path(self.folder, self.label, NRUNS))

    @cached_property
    def names(self) -> Any:
        """Names of the records, a `pyarrow.StringArray`."""
        return self._read(["name"])["name"]

    @cached_property
    def _numbers(self) -> dict[str, np.ndarray]:
        reads = READ_COLUMNS if self.facts["what"] == "reads" else ()
        found = self._read(["offset", "length", *reads])
        return {name: column.to_numpy(zero_copy_only=False) for name, column in found.items()}

    def _read(self, columns: list[str]) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = shard_path(self.folder, self.label, RECORDS)
        try:
            table = pq.read_table(path, columns=columns, memory_map=True).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: damaged ({error}). Run `titans-genomics tokenize` again") from None
        return {
            name: table.column(name).chunk(0) if len(table) else pa.array([], table.schema.field(name).type)
            for name in columns
        }

    def columns(self, *names: str) -> list[np.ndarray]:
        """Columns of the table of records: ``offset``, ``length``, and of reads those of `READ_COLUMNS`."""
        return [self._numbers[name] for name in names]


class ShardWriter:
    """Writes the shard of one source from its reader's batches, in memory that does not grow with them.

    Parameters
    ----------
    folder, label
        The store's folder of shards, and the source's name.
    what
        ``contigs``, ``reads`` or ``documents`` (of text).
    """

    def __init__(self, folder: Path, label: str, what: str) -> None:
        import pyarrow as pa

        self.folder, self.label, self.what = folder, label, what
        self.bases = 0
        self.counts = np.zeros(5, dtype=np.int64)
        self.ambiguous = self.masked = 0
        self.records, self.shortest, self.longest = 0, 0, 0
        self._soft: list[np.ndarray] = []
        self._n: list[np.ndarray] = []
        self._names: list[Any] = [pa.array([], pa.string())]  # of the rows that are not yet written
        self._waiting = 0
        self._starts: list[np.ndarray] = []
        self._reads: dict[str, list[np.ndarray]] = {name: [] for name in READ_COLUMNS}
        for suffix in reversed(SUFFIXES):  # of an older attempt: facts that are no longer true; links to another store
            self._path(suffix).unlink(missing_ok=True)
        self._open = self._path(BASES).open("wb", buffering=0)
        columns = [("name", pa.string()), ("offset", pa.int64()), ("length", pa.int64())]
        if what == "reads":
            types = (pa.int64(), pa.bool_(), pa.int32(), pa.int64(), pa.int64(), pa.int16())
            columns += list(zip(READ_COLUMNS, types, strict=True))
        self._schema = pa.schema(columns)
        self._table: Any = None

    def _path(self, suffix: str) -> Path:
        return shard_path(self.folder, self.label, suffix)

    def add(self, batch: Batch) -> None:
        """Write one batch."""
        view = memoryview(batch.codes)
        for at in range(0, len(view), _WRITE):
            piece = view[at : at + _WRITE]
            while piece:
                piece = piece[self._open.write(piece) :]
        if self.what != "documents":
            runs = tally(batch.codes, self.counts)
            if self.what == "contigs" and len(runs):
                self._n.append(runs + self.bases)
        if len(batch.soft):
            self._soft.append(batch.soft + self.bases)
        self.ambiguous += batch.ambiguous
        self.masked += batch.masked
        self._names.append(_arrow(batch.names))
        self._waiting += len(batch.names)
        self._starts.append(batch.starts + self.bases)
        if batch.reads is not None:
            for name, column in self._reads.items():
                column.append(getattr(batch.reads, name))
        self.bases += len(batch.codes)
        if self._waiting > _GROUP:
            self._write_rows(last=False)

    def finish(self, facts: dict[str, Any]) -> None:
        """The source is read through: write what remains, ``facts`` with the counts last."""
        self._write_rows(last=True)
        self._table.close()
        self._open.close()
        save_array(self._path(SOFTMASK), _joined(self._soft))
        save_array(self._path(NRUNS), _joined(self._n))
        a, c, g, t, n = self.counts.tolist()
        facts = facts | {
            "what": self.what,
            "records": self.records,
            "shortest": self.shortest,
            "longest": self.longest,
            "bases": self.bases,
            "acgt": {"A": a, "C": c, "G": g, "T": t},
            "n": n,
            "iupac": self.ambiguous,
            "soft_masked": self.masked,
            "sizes": {suffix: self._path(suffix).stat().st_size for suffix in SUFFIXES if suffix != FACTS},
        }
        _write_facts(self.folder, self.label, facts)

    def abandon(self) -> None:
        """Remove what was written."""
        self._open.close()
        if self._table is not None:
            self._table.close()
        for suffix in (*SUFFIXES, ".json.tmp"):
            self._path(suffix).unlink(missing_ok=True)

    def _write_rows(self, last: bool) -> None:
        """Write the rows of all records but the one that may still go on; with ``last`` of that one too."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._table is None:
            self._table = pq.ParquetWriter(
                self._path(RECORDS), self._schema, compression="lz4", use_dictionary=["contig", "minus", "mapq"]
            )
        starts = np.concatenate([np.zeros(0, dtype=np.int64), *self._starts])
        lengths = np.diff(starts, append=self.bases)
        rows = len(starts) if last else len(starts) - 1
        names = pa.concat_arrays(self._names)
        columns: dict[str, Any] = {"name": names.slice(0, rows), "offset": starts[:rows], "length": lengths[:rows]}
        for name, pieces in self._reads.items():
            if self.what == "reads":
                column = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
                columns[name] = column[:rows]
                self._reads[name] = [column[rows:]]
        if rows > 0:
            self._table.write_table(pa.table(columns, schema=self._schema))
            self.shortest = int(min(lengths[:rows].min(), self.shortest if self.records else lengths[0]))
            self.longest = int(max(lengths[:rows].max(), self.longest))
            self.records += rows
        self._names, self._starts, self._waiting = [names.slice(rows)], [starts[rows:]], len(starts) - rows


def _arrow(names: Sequence[str]) -> Any:
    """Names as a `pyarrow.StringArray`."""
    import pyarrow as pa

    if isinstance(names, PackedNames):
        return pa.StringArray.from_buffers(len(names), pa.py_buffer(names.offsets), pa.py_buffer(names.text))
    return pa.array(names, pa.string())


def reusable(
    there: Path, label: str, made_with: dict[str, Any], source: SourceFile, reference: SourceFile | None
) -> Shard | None:
    """The shard of a source in a folder of shards, if it is whole and would become the same if it were made anew.

    Its facts must hold all of ``made_with``, and it must have been made from files of the same content.
    """
    try:
        found = Shard(there, label)
    except ValueError:
        return None
    facts = found.facts
    if any(facts.get(key) != value for key, value in made_with.items()):
        return None
    if reference is not None and not reference.is_that_of(facts.get("reference") or {}):
        return None
    return found if source.is_that_of(facts) else None


def take_over(shard: Shard, folder: Path, facts: dict[str, Any]) -> None:
    """Bring a shard into another folder of shards (or leave it in its own), with what is now known of its files."""
    there, label = shard.folder, shard.label
    if there != folder:
        shard_path(folder, label, FACTS).unlink(missing_ok=True)
        for suffix in SUFFIXES[:-1]:
            old, new = shard_path(there, label, suffix), shard_path(folder, label, suffix)
            new.unlink(missing_ok=True)
            try:
                os.link(old, new)
            except OSError:  # a file system without hard links
                shutil.copy2(old, new)
    if there != folder or facts != shard.facts:
        _write_facts(folder, label, facts)


def _write_facts(folder: Path, label: str, facts: dict[str, Any]) -> None:
    """Write what makes a shard whole, at once, and never into a file that another store shares."""
    temporary = shard_path(folder, label, ".json.tmp")
    temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, shard_path(folder, label, FACTS))


def load_array(path: Path) -> np.ndarray:
    """Memory-map a .npy file of `save_array`: int64, of two dimensions. Raises ValueError when it is none."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype != np.int64 or array.ndim != 2:
            raise ValueError("other numbers than were written")
    except Exception as error:  # a damaged header meets with whatever exception comes first
        why = "no NumPy array" if "pickle" in str(error) else " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: damaged ({why}). Run `titans-genomics tokenize` again") from None
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file. The error of `numpy.save` on a full disk does not say that the disk is full."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(array))
        handle.write(array.data)


def _joined(intervals: list[np.ndarray]) -> np.ndarray:
    """Sorted intervals, those that touch made one: a batch may end within one."""
    if not intervals:
        return np.zeros((0, 2), dtype=np.int64)
    joined = np.concatenate(intervals)
    apart = joined[1:, 0] > joined[:-1, 1]
    return np.stack([joined[np.append(True, apart), 0], joined[np.append(apart, True), 1]], axis=1)
