"""Folders of labelled sequences in the layouts of the benchmarks, and the checksum of what was read.

train.csv, dev.csv, test.csv     a file per split; also .tsv, .parquet, .fna or .fasta, gzip, in parts, and below data/
train/0000.parquet               parts of a split, which have the label as a column
train/CLASS.csv, train/CLASS.fa  a file per class
train/CLASS/*.txt                a folder per class with a file per sequence; also CLASS/*.txt without a test set
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pyarrow as pa

from titans_genomics.config import DatasetConfig
from titans_genomics.data.labelled.files import Sheet, read_sheet
from titans_genomics.files import file_sha256
from titans_genomics.progress import Progress

SPLIT_NAMES = {
    "train": 0,
    "training": 0,
    "validation": 1,
    "valid": 1,
    "val": 1,
    "dev": 1,
    "test": 2,
    "testing": 2,
}
"""What the splits are called in the names of files and in columns."""

LABELS = ("label", "labels", "y", "target")
"""Names of a label column."""

_TABLE = re.compile(r"\.(csv|tsv|tab|txt|parquet|pq|fa|fna|fasta|fas)(\.(gz|bgz))?$", re.IGNORECASE)
_PART = re.compile(rf"({'|'.join(SPLIT_NAMES)})(-\d+-of-\d+(-[0-9a-f]+)?|[-_.]?\d+)?", re.IGNORECASE)
_THREADS = 16  # the file system answers several at once
_PIECE = 200  # files that a thread takes at a time


def read_sheets(settings: DatasetConfig) -> tuple[str, list[Sheet], str]:
    """Everything that a dataset consists of, in an order that does not depend on the file system.

    Returns
    -------
    layout : str
        What was found, in words.
    sheets : list of Sheet
    sha256 : str
        Of a file; of a folder, that of the lines "SHA256  NAME" of the files that were read, sorted by name; of a file
        and a test file, that of both lines, the test file's last.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_sheet`; a folder of no known layout; a link that leads out of it.
    """
    path = settings.path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder (downstream.datasets[].path)")
    if path.is_dir():
        if settings.test is not None:
            raise ValueError(
                f"{path}: downstream.datasets[].test goes with a file. Put the test set into the folder as test.csv, or give the training file"
            )
        return _Folder(path, settings).read()
    sheet = read_sheet(path)
    if settings.test is None:
        return sheet.layout, [sheet], file_sha256(path)
    if settings.test.is_dir():
        raise ValueError(f"{settings.test}: is a folder; downstream.datasets[].test names a file")
    test = read_sheet(settings.test)
    test.split = 2
    if not {"split", settings.split} & sheet.columns.keys():
        sheet.split = 0
    digest = _sha256_of_lines([(path.name, file_sha256(path)), (settings.test.name, file_sha256(settings.test))])
    return f"{sheet.layout}, test set in a file of its own", [sheet, test], digest


def _sha256_of_lines(digests: Iterable[tuple[str, str]]) -> str:
    """The checksum of what `sha256sum` prints for several files, from their names and checksums."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests).encode()).hexdigest()


class _Folder:
    """A folder that is read: what was found in it, and the checksums."""

    def __init__(self, root: Path, settings: DatasetConfig) -> None:
        self.root, self.settings = root, settings
        real = root.resolve()
        self._inside = [real]
        for folder in (real, *real.parents):  # the cache of the Hugging Face Hub links its snapshots to its blobs
            if folder.parent.name == "snapshots":
                self._inside.append(folder.parent.parent / "blobs")
        self._digests: dict[str, str] = {}

    def read(self) -> tuple[str, list[Sheet], str]:
        base = self.root
        splits = self._splits(base)
        if not splits and (base / "data").is_dir():
            base = base / "data"
            splits = self._splits(base)
        if splits:
            if 0 not in splits:
                raise ValueError(
                    f"{base}: has {splits[min(splits)][0].name} but no training set. Add train.csv or the folder train"
                )
            kinds, sheets = set(), []
            for split in sorted(splits):
                kind, found = self._split(splits[split])
                kinds.add(kind)
                for sheet in found:
                    sheet.split = split
                sheets += found
            layout = ", ".join(sorted(kinds))
        else:
            classes = self._entries(base, "folders")
            if len(classes) < 2 or not all(self._entries(one, "files") for one in classes):
                raise self._unknown(base)
            layout, sheets = "a folder per class", [self._class(one) for one in classes]
        return layout, sheets, _sha256_of_lines(sorted(self._digests.items()))

    def _splits(self, base: Path) -> dict[int, list[Path]]:
        """Files and folders that are named like a split."""
        found: dict[int, list[Path]] = {}
        for entry in self._entries(base):
            stem = entry.name if entry.is_dir() else _TABLE.sub("", entry.name)
            match = _PART.fullmatch(stem)
            if match and (entry.is_dir() or _TABLE.search(entry.name)) and not (entry.is_dir() and match.group(2)):
                found.setdefault(SPLIT_NAMES[match.group(1).lower()], []).append(entry)
        for entries in found.values():
            kinds = {(_TABLE.search(e.name) or [""])[0].lower() if e.is_file() else "/" for e in entries}
            whole = [e for e in entries if e.is_dir() or _TABLE.sub("", e.name).lower() in SPLIT_NAMES]
            if len(kinds) > 1 or len(whole) > 1 or (whole and len(entries) > 1):
                names = ", ".join(entry.name for entry in entries[:4])
                raise ValueError(f"{base}: {names} stand for the same split. Keep one of them")
        return found

    def _split(self, entries: list[Path]) -> tuple[str, list[Sheet]]:
        if entries[0].is_file():
            sheets = [self._file(entry) for entry in entries]
            return f"a {sheets[0].layout} file per split", sheets
        folder = entries[0]
        classes = self._entries(folder, "folders")
        if classes:
            return "a folder per class and a file per sequence", [self._class(one) for one in classes]
        files = [entry for entry in self._entries(folder, "files") if _TABLE.search(entry.name)]
        if not files:
            raise ValueError(
                f"{folder}: holds neither folders of classes nor files of sequences. Download the dataset again"
            )
        sheets = [self._file(file) for file in files]
        if all(self._labelled(sheet, len(files)) for sheet in sheets):
            return f"{sheets[0].layout} files in a folder per split", sheets
        for file, sheet in zip(files, sheets, strict=True):
            if {"region", "start", "end"} <= sheet.columns.keys() and self.settings.sequence not in sheet.columns:
                raise ValueError(
                    f"{file}: a list of intervals (region, start, end) without their sequences. Get the dataset with sequences: "
                    "`genomic_benchmarks.loc2seq.download_dataset`, or the same name on the Hugging Face Hub"
                )
            sheet.label = _TABLE.sub("", file.name)
        return f"a {sheets[0].layout} file per class", sheets

    def _labelled(self, sheet: Sheet, files: int) -> bool:
        """Whether a file says the labels itself; of FASTA, `id|label` only counts where the file can be no class."""
        wanted = self.settings.label_columns
        if wanted == ("label",):
            wanted = LABELS
        return bool(set(wanted) & sheet.columns.keys()) or (sheet.unit == "record" and files == 1)

    def _file(self, path: Path) -> Sheet:
        self._digests[self._name(path)] = file_sha256(path)
        return read_sheet(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _class(self, folder: Path) -> Sheet:
        """The sequences of a class, one file each."""
        files = self._entries(folder, "files")
        name = self._name(folder)
        if not files:
            raise ValueError(f"{folder}: a class without a file. Add its sequences, or remove the folder")
        contents: list[bytes] = []
        with ThreadPoolExecutor(_THREADS) as pool, Progress(len(files), "files", f"reading {name}") as progress:
            for piece in pool.map(_read, [files[first : first + _PIECE] for first in range(0, len(files), _PIECE)]):
                contents += piece
                progress.update(len(piece))
        sequences = []
        for file, content in zip(files, contents, strict=True):
            self._digests[f"{name}/{file.name}"] = hashlib.sha256(content).hexdigest()
            if content.startswith(b">"):
                _, _, content = content.partition(b"\n")
                if b"\n>" in content:
                    raise ValueError(
                        f"{file}: has several records, but a file per sequence is read from {folder}. Put all into {folder}.fa instead"
                    )
            sequences.append(b"".join(content.split()))
        names = [f"{name}/{file.name}" for file in files]
        columns = {
            "file": pa.array(names),
            "id": pa.array([name.rsplit(".", 1)[0] for name in names] if _distinct(files) else names),
            "sequence": pa.array(sequences, pa.large_binary()),
        }
        return Sheet(self.root, columns, "file", "text", label=folder.name)

    def _entries(self, folder: Path, kind: Literal["any", "files", "folders"] = "any") -> list[Path]:
        """What is in a folder, sorted by name, hidden files left out. Raises ValueError for a link that leads out of the dataset."""
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if entry.is_symlink() and not any(path.resolve().is_relative_to(place) for place in self._inside):
                    raise ValueError(
                        f"{path}: a link that leads out of the folder {self.root}. Put a copy of what it names there instead"
                    )
                if kind == "any" or (entry.is_dir() if kind == "folders" else entry.is_file()):
                    found.append(path)
        return sorted(found, key=lambda path: path.name)

    def _unknown(self, base: Path) -> ValueError:
        names = [entry.name for entry in self._entries(base)]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "nothing"
        return ValueError(
            f"{self.root}: no layout of labelled sequences: train.csv and test.csv (also .tsv, .parquet, .fna), train/CLASS/*.txt, or CLASS/*.txt are looked for, "
            f"found {shown}. Give the file itself as downstream.datasets[].path"
        )


def _read(paths: Sequence[Path]) -> list[bytes]:
    contents = []
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as handle:
                contents.append(handle.readall())
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    return contents


def _distinct(files: Sequence[Path]) -> bool:
    """Whether the names differ without their endings too."""
    return len({file.name.rsplit(".", 1)[0] for file in files}) == len(files)
