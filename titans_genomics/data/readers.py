"""One door to every sequence file: what it is, whether it can be read, and its bases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.config_data import TEXT_KINDS
from titans_genomics.data.bam import check_bam, read_bam
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.bgzf import check_members, is_bgzf
from titans_genomics.data.detect import HEAD, Kind, or_text, read_head, source_kind
from titans_genomics.data.documents import check_parquet, read_jsonl, read_parquet
from titans_genomics.data.fasta import read_fasta
from titans_genomics.data.fastq import read_fastq
from titans_genomics.data.flatfile import read_embl, read_genbank
from titans_genomics.data.hub import check_dataset, read_dataset
from titans_genomics.data.letters import Letters
from titans_genomics.data.regions import read_regions
from titans_genomics.data.text import read_text
from titans_genomics.data.twobit import read_2bit

Reader = Callable[[SourceConfig, DataConfig, int, "Counter[str]", Advance], Iterator[Batch]]

READERS: dict[Kind, Reader] = {
    "fasta": read_fasta,
    "fastq": read_fastq,
    "genbank": read_genbank,
    "embl": read_embl,
    "2bit": read_2bit,
    "bam": read_bam,
    "cram": read_bam,
    "text": read_text,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "hub": read_dataset,
}
READS = ("fastq", "bam", "cram")


def check_source(source: SourceConfig, data: DataConfig) -> Kind:
    """Everything about a source's files that can be judged without reading them through; returns its kind.

    Raises ValueError or FileNotFoundError, naming the file and the remedy.
    """
    head = read_head(source.path)
    kind = source_kind(source, head, data)
    try:
        source.label.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{source.path}: the file's name is not UTF-8. Rename it, or give the source a name (data.sources[].name)"
        ) from None
    if (kind in TEXT_KINDS) != (data.tokenizer.kind == "byte") and data.tokenizer.kind != "bpe":
        error = ValueError(
            f"{source.path}: {kind} does not go with data.tokenizer.kind {data.tokenizer.kind}: text is read as byte or bpe, nucleotides as nucleotide, kmer or bpe"
        )
        raise error if kind in TEXT_KINDS else or_text(error, source, data)
    for path, key in ((source.reference, "reference"), (source.regions, "regions"), (source.exclude, "exclude")):
        if path is None:
            continue
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file (data.sources[].{key} of {source.path})")
        if not path.is_file():
            raise ValueError(f"{path}: not a regular file (data.sources[].{key} of {source.path})")
        if key != "reference":
            read_regions(path)
    if kind == "parquet":
        check_parquet(source, data)
        return kind
    if kind == "hub":
        check_dataset(source, data)
        return kind
    if kind in ("bam", "cram"):
        check_bam(source, data)
        return kind
    with source.path.open("rb") as handle:
        bgzf = is_bgzf(handle.read(18))
    if bgzf:
        check_members(source.path)
    if kind == "fasta":
        try:
            _check_letters(source, data, head)
        except ValueError as error:
            raise or_text(error, source, data) from None
    return kind


def _check_letters(source: SourceConfig, data: DataConfig, head: bytes) -> None:
    """Raise ValueError for a protein, or a letter that is no nucleotide, in what ``head`` holds of the first record."""
    at = head.find(b">") + 1
    line, _, letters = head[at:].partition(b"\n")
    name = line.split(None, 1)[:1]
    if not name or b"\r" in line.rstrip():  # the reader says what is wrong
        return
    encoder = Letters(source, data, 0)
    encoder.begin(name[0].decode("utf-8", errors="replace"))
    if encoder.feed(np.frombuffer(letters, dtype=np.uint8), 0) < len(letters) or len(head) < HEAD:
        encoder.end()


def what(kind: Kind, data: DataConfig) -> str:
    """What the records of a file are: contigs, reads or documents."""
    if kind in READS:
        return "contigs" if data.reads.consensus and kind != "fastq" else "reads"
    return "documents" if kind in TEXT_KINDS else "contigs"


def open_source(
    source: SourceConfig,
    data: DataConfig,
    seed: int = 0,
    dropped: Counter[str] | None = None,
    advance: Advance | None = None,
) -> Iterator[Batch]:
    """The bases of one file, in file order, in batches of a few megabytes.

    Parameters
    ----------
    source, data
        The source and the section it stands in.
    seed
        The run's seed: of random bases, of the choice of reads, of the reads' keys.
    dropped
        Filled with the number of reads dropped, by reason.
    advance
        Called with the share of the file read so far.

    Raises
    ------
    ValueError
        Whatever is wrong with the file, or no read left of it, with file, record and remedy.
    """
    kind = source_kind(source, data=data)
    return READERS[kind](source, data, seed, Counter() if dropped is None else dropped, advance or (lambda share: None))


def read_records(source: SourceConfig, data: DataConfig, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Name and base codes (uint8) of every record of a file, one whole record in memory at a time."""
    name: str | None = None
    pieces: list[np.ndarray] = []
    for batch in open_source(source, data, seed):
        edges = [*batch.starts.tolist(), len(batch.codes)]
        pieces.append(batch.codes[: edges[0]])
        for i, following in enumerate(batch.names):
            if name is not None:
                yield name, np.concatenate(pieces)
            name, pieces = following, [batch.codes[edges[i] : edges[i + 1]]]
    if name is not None:
        yield name, np.concatenate(pieces)
