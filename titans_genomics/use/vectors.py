"""Vectors to files as they come: Parquet, HDF5 and AnnData, each written whole or not at all; and a picture of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from titans_genomics.files import replacing

KEY = "titans_genomics"
"""What files call the description of how their vectors were made (JSON)."""

GROUP = 1 << 25
"""Bytes of vectors in a row group."""

TEXT = ("id", "contig", "strand", "base")

NEEDS = {".parquet": (), ".h5": ("h5py",), ".hdf5": ("h5py",), ".h5ad": ("h5py", "anndata")}
"""The formats by the ending of a file's name, and the packages that they need."""


@dataclass
class Block:
    """Rows: columns of one value each (text as lists, numbers as arrays), and vectors float32 (rows, D) by column."""

    columns: dict[str, Any]
    vectors: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.vectors.values())))


def check_format(out: Path) -> None:
    """Raise ValueError for a format that is not known, or a package that is not installed."""
    if out.suffix not in NEEDS:
        raise ValueError(f"{out}: the name must end in {', '.join(NEEDS)}, which says the format")
    for package in NEEDS[out.suffix]:
        if find_spec(package) is None:
            raise ValueError(
                f"{out}: needs {package}, which is not installed (pip install {package}); or write .parquet"
            )


@contextmanager
def writing(
    out: Path, columns: Sequence[str], vectors: Sequence[str], width: int, about: Mapping[str, Any]
) -> Iterator[Writer]:
    """A writer of rows; the file takes its place when the block succeeds.

    Parameters
    ----------
    out : Path
        Its ending says the format (`NEEDS`).
    columns, vectors : sequence of str
        Names of the columns of one value, and of those of ``width`` values.
    width : int
    about : mapping
        How the vectors were made; kept in the file as JSON.
    """
    kinds = {".parquet": Parquet, ".h5ad": AnnData}
    with replacing(out) as temporary:
        writer = kinds.get(out.suffix, HDF5)(temporary, out, columns, vectors, width, dict(about))
        try:
            yield writer
            with _one_line(out):
                writer.finish()
        except BaseException:
            # what could not be written cannot be closed properly either
            with suppress(OSError, RuntimeError):
                writer.close()
            raise
        with _one_line(out):
            writer.close()


@contextmanager
def _one_line(out: Path) -> Iterator[None]:
    """Raise OSError, in one line, for what pyarrow and HDF5 say of a file that cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise OSError(f"{out}: cannot be written ({' '.join(str(error).split())[:200]})") from None


@dataclass
class Writer(ABC):
    """What takes rows and writes a group of them when there are enough."""

    path: Path
    out: Path
    columns: Sequence[str]
    vectors: Sequence[str]
    width: int
    about: dict[str, Any]
    rows: int = 0
    _kept: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open()

    def add(self, block: Block) -> None:
        """Further rows."""
        self._kept.append(block)
        self.rows += len(block)
        if sum(map(len, self._kept)) * self.width * len(self.vectors) * 4 >= GROUP:
            with _one_line(self.out):
                self._flush()

    def finish(self) -> None:
        """Write what is left."""
        if self._kept:
            self._flush()

    def _flush(self) -> None:
        columns: dict[str, Any] = {}
        for name in self.columns:
            parts = [block.columns[name] for block in self._kept]
            columns[name] = list(chain.from_iterable(parts)) if name in TEXT else np.concatenate(parts)
        vectors = {name: np.concatenate([block.vectors[name] for block in self._kept]) for name in self.vectors}
        self._kept = []
        self.write(columns, vectors)

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def write(self, columns: dict[str, Any], vectors: dict[str, np.ndarray]) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Parquet(Writer):
    """A row group at a time; vectors are lists of fixed size. Places of reads that are not aligned are null."""

    def open(self) -> None:
        kinds = {"gc": pa.float32(), **dict.fromkeys(TEXT, pa.string())}
        fields = [pa.field(name, kinds.get(name, pa.int64())) for name in self.columns]
        fields += [pa.field(name, pa.list_(pa.float32(), self.width)) for name in self.vectors]
        self.schema = pa.schema(fields, {KEY: json.dumps(self.about)})
        self.file = pq.ParquetWriter(str(self.path), self.schema, compression="zstd")

    def write(self, columns: dict[str, Any], vectors: dict[str, np.ndarray]) -> None:
        arrays = []
        for name, values in columns.items():
            absent = None
            if name not in TEXT:
                absent = np.isnan(values) if name == "gc" else values < 0
            arrays.append(pa.array(values, self.schema.field(name).type, mask=absent))
        for name in self.vectors:
            flat = pa.array(np.ascontiguousarray(vectors[name], np.float32).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, self.width))
        self.file.write_table(pa.Table.from_arrays(arrays, schema=self.schema), row_group_size=1 << 30)

    def close(self) -> None:
        self.file.close()


class HDF5(Writer):
    """One data set per column, (rows,) or (rows, D). What is absent is an empty string, -1 or NaN."""

    def open(self) -> None:
        import h5py

        self.file = h5py.File(self.path, "w")
        self.file.attrs[KEY] = json.dumps(self.about)
        for name in self.columns:
            kind = h5py.string_dtype() if name in TEXT else np.float32 if name == "gc" else np.int64
            self.file.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(4096,), compression="gzip")
        self.open_vectors()

    def open_vectors(self) -> None:
        for name in self.vectors:
            self.matrix(name)

    def matrix(self, name: str) -> Any:
        """An empty data set (0, D) that grows."""
        rows = max(1, (1 << 18) // (4 * self.width))
        return self.file.create_dataset(
            name, (0, self.width), np.float32, maxshape=(None, self.width), chunks=(rows, self.width)
        )

    def write(self, columns: dict[str, Any], vectors: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            self.append(name, [value or "" for value in values] if name in TEXT else values)
        for name, rows in vectors.items():
            self.append(name, rows)

    def append(self, name: str, values: Any) -> None:
        place = self.file[name]
        before = place.shape[0]
        place.resize(before + len(values), axis=0)
        place[before:] = values

    def close(self) -> None:
        self.file.close()


class AnnData(HDF5):
    """An .h5ad file: X are the vectors of the last layer, those of others are in obsm; the columns are obs.

    Vectors are written as they come; the columns of one value are kept till the end.
    """

    def open(self) -> None:
        import h5py

        self.file = h5py.File(self.path, "w")
        self.file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self.places = {name: f"obsm/{name}" for name in self.vectors[:-1]} | {self.vectors[-1]: "X"}
        self.file.create_group("obsm").attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        for place in self.places.values():
            self.matrix(place).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self.observed: dict[str, list[Any]] = {name: [] for name in self.columns}

    def write(self, columns: dict[str, Any], vectors: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            self.observed[name].append(np.array([value or "" for value in values], object) if name in TEXT else values)
        for name, rows in vectors.items():
            self.append(self.places[name], rows)

    def finish(self) -> None:
        super().finish()
        import anndata
        import pandas as pd

        joined = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in self.observed.items()}
        # not the strings of Arrow, which anndata writes in some versions only
        table = pd.DataFrame(
            {name: pd.Series(values, dtype=object if name in TEXT else None) for name, values in joined.items()}
        )
        names = [str(name) for name in joined["id"]]
        if "position" in joined:
            names = [f"{name}:{position}" for name, position in zip(names, joined["position"], strict=True)]
        table.index = anndata.utils.make_index_unique(pd.Index(names, dtype=object)).astype(object)
        features = pd.DataFrame(index=pd.Index([f"d{i}" for i in range(self.width)], dtype=object))
        for place, value in (("obs", table), ("var", features), ("uns", {KEY: json.dumps(self.about)})):
            anndata.io.write_elem(self.file, place, value)


# --------------------------------------------------------------------------------------------- picture


class Sample:
    """Rows of a stream, each as likely as any other, at most ``most`` of them."""

    def __init__(self, most: int, seed: int = 0) -> None:
        self.most, self.rng = most, np.random.default_rng(seed)
        self.keys, self.rows, self.labels, self.gc = (
            np.zeros(0),
            np.zeros((0, 0), np.float32),
            np.zeros(0, object),
            np.zeros(0),
        )

    def add(self, rows: np.ndarray, labels: Sequence[str | None], gc: np.ndarray) -> None:
        """Further rows (n, D), what they belong to, and their GC content."""
        keys = np.concatenate([self.keys, self.rng.random(len(rows))])
        best = np.sort(np.argsort(keys, kind="stable")[: self.most])
        both = np.concatenate([self.rows, rows]) if len(self.keys) else rows
        self.rows, self.labels = both[best], np.concatenate([self.labels, np.array(labels, object)])[best]
        self.gc, self.keys = np.concatenate([self.gc, gc])[best], keys[best]


def check_picture(path: Path, method: str) -> None:
    """Raise ValueError for a picture that cannot be drawn."""
    if method not in ("pca", "umap"):
        raise ValueError(f"picture method {method!r}: pca or umap")
    if method == "umap" and find_spec("umap") is None:
        raise ValueError(
            f"{path}: a UMAP picture needs umap-learn, which is not installed (pip install umap-learn); or draw pca"
        )
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"{path}: a picture's name must end in .svg, .png or .pdf")


def draw(sample: Sample, path: Path, method: str, what: str) -> dict[str, Any]:
    """A scatter plot of vectors in two dimensions, coloured by contig where there are 2 to 10, else by GC content.

    Returns
    -------
    dict
        ``path``, ``points``, ``method``, and of PCA the ``explained`` share of the variance along both axes.
    """
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    points, explained = _flat(sample.rows, method)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    ax = figure.subplots()
    labels = np.array([str(label or "not aligned") for label in sample.labels])
    names = sorted(set(labels.tolist()))
    style = {"s": 9, "alpha": 0.7, "linewidths": 0, "rasterized": len(points) > 2000}
    if 2 <= len(names) <= 10:
        for i, name in enumerate(names):
            ax.scatter(*points[labels == name].T, color=f"C{i}", label=name[:28], **style)
        ax.legend(frameon=False, fontsize=8)
    else:
        shown = ax.scatter(*points.T, c=100 * sample.gc, cmap="viridis", **style)
        figure.colorbar(shown, ax=ax, label="GC content, %")
    axes = [f"{method.upper()} {i + 1}" + (f" ({100 * share:.0f}%)" if explained else "") for i, share in enumerate(explained or (0, 0))]  # fmt: skip
    ax.set(xlabel=axes[0], ylabel=axes[1], title=what)
    with replacing(path) as temporary:
        figure.savefig(
            temporary, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
        )
    return {"path": str(path), "points": len(points), "method": method} | (
        {"explained": explained} if explained else {}
    )


def _flat(rows: np.ndarray, method: str) -> tuple[np.ndarray, list[float]]:
    """Rows (n, D) in two dimensions (n, 2), and of PCA the share of the variance along each."""
    if method == "umap":
        import umap

        return umap.UMAP(random_state=0).fit_transform(rows), []
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0)
    points = pca.fit_transform(rows.astype(np.float64))
    return points, [float(share) for share in np.nan_to_num(pca.explained_variance_ratio_)]
