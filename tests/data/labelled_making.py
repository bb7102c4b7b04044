"""What the tests of labelled datasets make their input with."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from titans_genomics.config import Config, parse_config
from titans_genomics.data.labelled import Labelled, load_labelled, prepare


@dataclass(frozen=True)
class Row:
    """A labelled sequence."""

    id: str
    sequence: str
    label: str
    split: str = "train"


def bases(rng: np.random.Generator, length: int) -> str:
    return "".join("ACGT"[code] for code in rng.integers(4, size=length))


def example(train: int = 12, test: int = 4, classes: tuple[str, ...] = ("blue", "red"), seed: int = 0) -> list[Row]:
    """Rows in the order in which a folder per class has them: by split, class and name. Sequences of different lengths."""
    rng = np.random.default_rng(seed)
    return [
        Row(f"{split[:2]}{name}{number:03}", bases(rng, int(rng.integers(20, 60))), name, split)
        for split, count in (("train", train), ("test", test))
        for name in classes
        for number in range(count)
    ]


def config(*datasets: dict[str, Any], seed: int = 1, **downstream: Any) -> Config:
    """A run with these datasets of its own."""
    section = {"datasets": list(datasets), "download": False, **downstream}
    content = {"run": "x", "seed": seed, "data": {"sources": [{"path": "a.fa"}]}, "downstream": section}
    return parse_config(content, Path("config.yaml"))


def prepared(path: Path, seed: int = 1, downstream: dict[str, Any] | None = None, **settings: Any) -> Labelled:
    """What is read back of a file or folder that was prepared."""
    out = path.parent / f"prepared_{path.name}"
    prepare(config({"path": str(path), "name": "d", **settings}, seed=seed, **(downstream or {})), "d", out)
    return load_labelled(out)


# --------------------------------------------------------------------------------------------- layouts


def table(
    rows: list[Row], columns: tuple[str, ...], delimiter: str = ",", end: str = "\n", quoting: int = csv.QUOTE_MINIMAL
) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in rows)
    return text.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


def write_parquet(path: Path, rows: list[Row], columns: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: [getattr(row, column) for row in rows] for column in columns}), path)
    return path


def fasta(rows: list[Row], header: Callable[[Row], str], width: int = 17) -> str:
    lines = []
    for row in rows:
        lines.append(f">{header(row)}")
        lines += [row.sequence[at : at + width] for at in range(0, len(row.sequence), width)]
    return "\n".join(lines) + "\n"


def of(rows: list[Row], split: str, label: str | None = None) -> list[Row]:
    return [row for row in rows if row.split == split and label in (None, row.label)]


COLUMNS = ("id", "sequence", "label")


def _tables(name: str, **how: Any) -> Callable[[Path, list[Row]], None]:
    def make(folder: Path, rows: list[Row]) -> None:
        for split in ("train", "test"):
            write(folder / name.format(split=split), table(of(rows, split), COLUMNS, **how))

    return make


def _one_table(folder: Path, rows: list[Row]) -> None:
    write(folder / "all.csv", table(rows, (*COLUMNS, "split")))


def _parquets(name: str) -> Callable[[Path, list[Row]], None]:
    def make(folder: Path, rows: list[Row]) -> None:
        for split in ("train", "test"):
            write_parquet(folder / name.format(split=split), of(rows, split), COLUMNS)

    return make


def _parts(folder: Path, rows: list[Row]) -> None:
    for split in ("train", "test"):
        own = of(rows, split)
        for part, piece in enumerate((own[:3], own[3:])):
            write_parquet(folder / "data" / f"{split}-0000{part}-of-00002.parquet", piece, COLUMNS)


def _parts_below(folder: Path, rows: list[Row]) -> None:
    for split in ("train", "test"):
        own = of(rows, split)
        for part, piece in enumerate((own[:3], own[3:])):
            write_parquet(folder / split / f"000{part}.parquet", piece, COLUMNS)


def _fastas(name: str, header: Callable[[Row], str]) -> Callable[[Path, list[Row]], None]:
    def make(folder: Path, rows: list[Row]) -> None:
        for split in ("train", "test"):
            write(folder / name.format(split=split), fasta(of(rows, split), header))

    return make


def _one_fasta(folder: Path, rows: list[Row]) -> None:
    write(
        folder / "all.fa",
        fasta(rows, lambda row: f"{row.id} split={row.split} label={row.label} length={len(row.sequence)}"),
    )


def _class_folders(folder: Path, rows: list[Row]) -> None:
    for row in reversed(rows):  # the order of files on disk must not matter
        write(folder / row.split / row.label / f"{row.id}.txt", row.sequence)


def _class_fasta_folders(folder: Path, rows: list[Row]) -> None:
    for row in rows:
        write(folder / row.split / row.label / f"{row.id}.fa", fasta([row], lambda row: row.id))


def _class_tables(folder: Path, rows: list[Row]) -> None:
    for split in ("train", "test"):
        for label in {row.label for row in rows}:
            write(folder / split / f"{label}.csv.gz", table(of(rows, split, label), ("id", "sequence")))


def _class_fastas(folder: Path, rows: list[Row]) -> None:
    for split in ("train", "test"):
        for label in {row.label for row in rows}:
            write(folder / split / f"{label}.fa", fasta(of(rows, split, label), lambda row: row.id))


LAYOUTS: dict[str, tuple[Callable[[Path, list[Row]], None], str]] = {
    "csv": (_tables("{split}.csv"), ""),
    "csv-gzip": (_tables("{split}.csv.gz"), ""),
    "csv-crlf": (_tables("{split}.csv", end="\r\n"), ""),
    "csv-quoted": (_tables("{split}.csv", quoting=csv.QUOTE_ALL), ""),
    "csv-semicolons": (_tables("{split}.csv", delimiter=";"), ""),
    "tsv": (_tables("{split}.tsv", delimiter="\t"), ""),
    "tsv-named-txt": (_tables("{split}.txt", delimiter="\t"), ""),
    "csv-split-column": (_one_table, "all.csv"),
    "parquet": (_parquets("{split}.parquet"), ""),
    "parquet-parts": (_parts, ""),
    "parquet-parts-below": (_parts_below, ""),
    "fasta-bar": (_fastas("{split}.fna", lambda row: f"{row.id}|{row.label}"), ""),
    "fasta-bar-gzip": (_fastas("{split}.fasta.gz", lambda row: f"{row.id} | {row.label}"), ""),
    "fasta-keys": (_fastas("{split}.fa", lambda row: f"{row.id} of=somewhere label={row.label}"), ""),
    "fasta-split-key": (_one_fasta, "all.fa"),
    "class-folders": (_class_folders, ""),
    "class-folders-fasta": (_class_fasta_folders, ""),
    "class-tables": (_class_tables, ""),
    "class-fastas": (_class_fastas, ""),
}
"""How the same rows are written, and the file in the folder that is named then ("" for the folder itself)."""
