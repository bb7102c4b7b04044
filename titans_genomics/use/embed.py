"""What a model makes of sequences as vectors: one per sequence, or one per base, of any of its layers.

Layer 0 is the embedding of the tokens, layer i what follows block i, and the last one has the final norm, as the head reads it.
A sequence is read in stretches, each from the beginning of the memory (or the memory given), as the run's evaluation did:
without end the memory drifts away from what the model was trained on. Per sequence the other strand is read as a sequence of
its own; per position the other strand of each stretch begins at the end of the stretch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_genomics.models.classifier import Pooling
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import Strands
from titans_genomics.use.embedding import Embedding, Per
from titans_genomics.use.output import check_out
from titans_genomics.use.reader import Reader
from titans_genomics.use.records import Record, read_sequences
from titans_genomics.use.vectors import Sample, check_format, check_picture, draw, writing

PICTURE = 20_000
"""Most points of a picture."""


def embed(
    reader: Reader,
    path: str | Path,
    out: str | Path,
    bed: str | Path | None = None,
    per: Per = "sequence",
    layers: Sequence[int] | None = None,
    pooling: Pooling = "mean",
    strands: Strands = "both",
    stretch: int | None = None,
    picture: str | Path | None = None,
    method: str = "pca",
    reference: str | Path | None = None,
) -> dict[str, Any]:
    """Embed the sequences of a file, and write the vectors as they come, whole or not at all.

    Parameters
    ----------
    reader : Reader
    path, bed, reference
        What is read: see `records.read_sequences`.
    out : path
        .parquet, .h5 (HDF5) or .h5ad (AnnData). Columns: id, contig, start, end (0-based half-open), strand; per sequence gc
        (share of G and C among A C G T); per position ``position`` (0-based, in the sequence as it was read) and
        ``base``; and ``vector``, or ``vector_I`` for each layer I where there are several: float32, (D,).
    per : "sequence" or "position"
        One vector per sequence, or one per base; bases of one token share its vector.
    layers : sequence of int, optional
        0 (embedding of the tokens) to the number of blocks; default: the last.
    pooling : "mean" or "last"
        Per sequence: the mean over tokens, or the state after the last.
    strands : "both" or "given"
        "both": the mean over both strands: per sequence the same whichever is given.
    stretch : int, optional
        Tokens after which the memory begins anew; None: as the run's evaluation had it, 0: never.
    picture : path, optional
        Also draw the vectors of the last of ``layers`` there (.svg, .png, .pdf), at most `PICTURE` of them.
    method : "pca" or "umap"

    Returns
    -------
    dict
        ``out``, ``rows``, ``sequences``, ``bases``, ``layers``, ``width``, ``stretch``, ``seconds``, ``bases_per_second``,
        ``warnings`` (list of str), ``picture`` (None without one).

    Raises
    ------
    FileNotFoundError, ValueError
        Input that cannot be read, layers that the model has not, a format whose package is absent, a model of text.
    """
    reader.nucleotides("embed")
    check_format(Path(out))
    if picture is not None:
        check_picture(Path(picture), method)
    how = Embedding(reader, per, layers, pooling, strands, stretch)
    records, total, warnings = read_sequences(reader, path, bed, reference)
    out = check_out(out, (path, bed, reference))
    if picture is not None:
        check_out(picture, (path, bed, reference))
    columns = ["id", "contig", "start", "end", "strand", *(("gc",) if per == "sequence" else ("position", "base"))]
    sample = Sample(PICTURE)
    start, rows, last = time.perf_counter(), 0, how.names[-1]
    torch.set_flush_denormal(True)
    with Progress(total, "bases", f"embedding {Path(path).name}") as progress:
        with writing(out, columns, how.names, how.width, how.about() | {"input": str(path)}) as writer:
            for block in how.blocks(records, progress):
                writer.add(block)
                if picture is not None:
                    gc = block.columns["gc"] if per == "sequence" else np.isin(block.columns["base"], ("G", "C"))
                    sample.add(block.vectors[last], block.columns["contig"], np.asarray(gc, dtype=np.float64))
            rows = writer.rows
        warnings += how.warnings
        seconds = time.perf_counter() - start
    drawn = None
    if picture is not None and rows < 3:
        warnings.append(f"{picture}: not drawn, {rows} vectors are too few")
    elif picture is not None:
        drawn = draw(sample, Path(picture), method, f"{Path(path).name}, one vector per {per}")
    return {
        "out": str(out),
        "rows": rows,
        "sequences": how.sequences,
        "bases": how.bases,
        "layers": list(how.layers),
        "width": how.width,
        "stretch": how.stretch,
        "seconds": seconds,
        "bases_per_second": how.bases / seconds,
        "warnings": warnings,
        "picture": drawn,
    }


def vectors(
    reader: Reader,
    sequences: Sequence[np.ndarray],
    per: Per = "sequence",
    layers: Sequence[int] | None = None,
    pooling: Pooling = "mean",
    strands: Strands = "both",
    stretch: int | None = None,
) -> dict[int, np.ndarray] | list[dict[int, np.ndarray]]:
    """Vectors of sequences in memory, (bases,) uint8 each; parameters as those of `embed`.

    Returns
    -------
    dict or list
        Per sequence: float32, shape (sequences, D), by layer. Per position: for each sequence float32 (bases, D) by layer.

    Raises
    ------
    ValueError
        An empty sequence, a layer that the model has not, a model of text.
    """
    reader.nucleotides("embed")
    how = Embedding(reader, per, layers, pooling, strands, stretch)
    for i, codes in enumerate(sequences):
        if not len(codes):
            raise ValueError(f"sequence {i} is empty")
    records = (Record(str(i), codes, None, -1, -1) for i, codes in enumerate(sequences))
    found = list(how.blocks(records))
    joined = {
        layer: np.concatenate([block.vectors[name] for block in found])
        if found
        else np.zeros((0, how.width), np.float32)
        for layer, name in zip(how.layers, how.names, strict=True)
    }
    if per == "sequence":
        return joined
    edges = np.cumsum([len(codes) for codes in sequences])[:-1]
    parts = {layer: np.split(rows, edges) for layer, rows in joined.items()}
    return [{layer: rows[i] for layer, rows in parts.items()} for i in range(len(sequences))]
