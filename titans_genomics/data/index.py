"""The index of a token store: a row per segment, and the tokens themselves where a token is not a base."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from titans_genomics.config import Config, SourceConfig
from titans_genomics.data.folder import INDEX, PLACES, SHARDS
from titans_genomics.data.layout import Chosen
from titans_genomics.data.pieces import learn_bpe
from titans_genomics.data.shard import TOKENS, Shard, save_array, shard_path
from titans_genomics.data.splits import SPLITS
from titans_genomics.data.tokenizers import Tokenizer, make_tokenizer
from titans_genomics.progress import Progress

_ROWS = 1 << 16  # rows of a group of the index
_FEW = ["source", "strand", "split", "contig", "mapq", "joined"]  # columns of few different values
_BPE_PIECE = 1 << 16  # bases of a stretch that pieces are learned from


def fit_tokenizer(config: Config, shards: Sequence[Shard], chosen: Sequence[Chosen]) -> Tokenizer:
    """The tokenizer that the config asks for, learned from the training split when it must be."""
    settings = config.data.tokenizer
    if settings.kind != "bpe" or settings.path is not None:
        return make_tokenizer(settings)
    rng = np.random.default_rng(config.seed)
    pieces = [
        (shard, begin, min(begin + _BPE_PIECE, int(end)))
        for source, shard, own in zip(config.data.sources, shards, chosen, strict=True)
        if source.weight > 0
        for start, end in zip(own.begin[own.split == 0], own.end[own.split == 0], strict=True)
        for begin in range(int(start), int(end), _BPE_PIECE)
    ]
    sample, bases = [], 0
    for i in rng.permutation(len(pieces)):
        if bases >= settings.sample:
            break
        shard, begin, end = pieces[int(i)]
        sample.append(np.asarray(shard.codes[begin:end]))
        bases += end - begin
    text = shards[0].facts["what"] == "documents"
    return learn_bpe(sample, settings, text)


def write_index(
    config: Config, folder: Path, shards: Sequence[Shard], chosen: Sequence[Chosen], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """index.parquet, places.npy, and the tokens of every source where a token is not a base; returns the runs."""
    import pyarrow.parquet as pq

    places: list[np.ndarray] = []
    runs: list[dict[str, Any]] = []
    row = 0
    total = sum(int((own.end - own.begin).sum()) for own in chosen)
    with (
        pq.ParquetWriter(folder / INDEX, _schema(), compression="lz4", use_dictionary=_FEW) as table,
        Progress(
            total, "bytes" if tokenizer.text else "bases", "writing the index" if tokenizer.plain else "writing tokens"
        ) as progress,
        ThreadPoolExecutor(1) as beside,  # writes while the next rows are made
    ):
        writing: list[Future[None]] = []
        for source, shard, own in zip(config.data.sources, shards, chosen, strict=True):
            order = np.argsort(own.split, kind="stable")
            begin, end, joined, split = own.begin[order], own.end[order], own.joined[order], own.split[order]
            if tokenizer.plain:
                offset, length = begin, end - begin
                progress.update(int(length.sum()))
            else:
                offset, length = _encode(folder, shard, begin, end, tokenizer, progress)
            follows = (order[1:] == order[:-1] + 1) & (split[1:] == split[:-1])  # no longer so after leaks were moved
            joined = joined & np.append(follows, False)[: len(joined)]
            occupied = length + ~joined
            place = np.cumsum(occupied) - occupied
            for number, name in enumerate(SPLITS):
                rows = np.flatnonzero(split == number)
                if len(rows):
                    first, last = int(rows[0]), int(rows[-1]) + 1
                    place[first:last] -= place[first].copy()
                    tokens = int(place[last - 1] + occupied[last - 1])
                    runs.append(
                        {
                            "source": source.label,
                            "split": name,
                            "first": row + first,
                            "last": row + last,
                            "tokens": tokens,
                        }
                    )
            places.append(np.stack([offset, length, place, joined], axis=1).astype(np.int64))
            for at in range(0, len(order), _ROWS):
                part = slice(at, at + _ROWS)
                rows_of = own.record[order[part]]
                rows = _rows(source, shard, rows_of, begin[part], end[part], length[part], split[part], joined[part])
                writing.append(beside.submit(table.write_table, rows))
                for done in writing[:-2]:
                    done.result()
                del writing[:-2]
            row += len(order)
        for done in writing:
            done.result()
    save_array(folder / PLACES, np.concatenate(places))
    return runs


def _schema() -> Any:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("source", text),
            ("record", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("strand", text),
            ("split", text),
            ("length", pa.int64()),
            ("joined", pa.bool_()),
            ("contig", text),
            ("aligned_start", pa.int64()),
            ("aligned_end", pa.int64()),
            ("mapq", pa.int16()),
        ]
    )


def _rows(
    source: SourceConfig,
    shard: Shard,
    record: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    length: np.ndarray,
    split: np.ndarray,
    joined: np.ndarray,
) -> Any:
    """Rows of the index for some stretches of a source."""
    import pyarrow as pa

    offset = shard.columns("offset")[0][record]
    count = len(record)

    def same(value: str) -> Any:
        return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [value])

    columns = {
        "source": same(source.label),
        "record": shard.names.take(pa.array(record)),
        "start": begin - offset,
        "end": end - offset,
        "strand": same("+"),
        "split": pa.DictionaryArray.from_arrays(split.astype(np.int32), list(SPLITS)),
        "length": length,
        "joined": joined,
    }
    if shard.facts["what"] == "reads":
        contig, minus, *positions = (
            column[record] for column in shard.columns("contig", "minus", "start", "end", "mapq")
        )
        unaligned = contig < 0
        contigs = list(shard.facts["contigs"]) or [""]
        columns["strand"] = pa.DictionaryArray.from_arrays(minus.astype(np.int32), ["+", "-"])
        columns["contig"] = pa.DictionaryArray.from_arrays(pa.array(contig, mask=unaligned), contigs)
        for name, column in zip(("aligned_start", "aligned_end", "mapq"), positions, strict=True):
            columns[name] = pa.array(column, mask=unaligned)
    else:
        for name in ("contig", "aligned_start", "aligned_end", "mapq"):
            columns[name] = pa.nulls(count, _schema().field(name).type)
    return pa.table(columns, schema=_schema())


def _encode(
    folder: Path, shard: Shard, begin: np.ndarray, end: np.ndarray, tokenizer: Tokenizer, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Write the tokens of the stretches of a source; returns where each begins in the file, and its length in tokens."""
    lengths = np.zeros(len(begin), dtype=np.int64)
    with shard_path(folder / SHARDS, shard.label, TOKENS).open("wb") as handle:
        for i, (start, stop) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            tokens = tokenizer.encode(np.asarray(shard.codes[start:stop]))
            handle.write(memoryview(np.ascontiguousarray(tokens)).cast("B"))
            lengths[i] = len(tokens)
            progress.update(stop - start)
    return np.cumsum(lengths) - lengths, lengths
