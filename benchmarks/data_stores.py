"""Sequence files to token stores, and the other ways to read and encode the same files.

Peers are imported where they are built, so that one side's process never loads another's library.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_task import NAME, Spec, Task, config
from titans_genomics.data.bgzf import read_blocks
from titans_genomics.data.store import TokenStore, tokenize

BLOCK = 1 << 20  # bytes asked of the decompressors at a time
HF_PIECE = 8_192  # characters; the fastest length for the Rust tokenizer, which gets slower with longer ones
LETTERS = {"A": 0, "C": 1, "G": 2, "T": 3, "N": 4, "[UNK]": 5}


def to_store(spec: Spec, action: str, threads: int = 2) -> Task:
    """A whole token store on disk, as `titans-genomics tokenize` writes it."""
    from titans_genomics.data import fasta

    fasta.read_blocks = partial(read_blocks, threads=threads)
    out = Path(spec["store"])
    shutil.rmtree(out, ignore_errors=True)
    settings = config(spec["file"], spec["block"], action)

    def check(manifest: dict[str, Any]) -> dict[str, Any]:
        store = TokenStore(out)
        codes = store.tokens(NAME)
        ends = len(store.places) - int(np.asarray(store.places)[:, 3].sum())  # an EOS behind each segment
        assert manifest["tokens"] == len(codes) + ends
        assert len(store.runs("train")[0].read(0, 1)) == 1
        return {"bases": len(codes), "sha256": hashlib.sha256(codes).hexdigest()}

    return Task(lambda: tokenize(settings, out, spec["threads"]), check)


def hugging_face(spec: Spec, tokenizer: Any, batch: int) -> Task:
    """Biopython records through a tokenizer, ids to a file of bytes."""
    from Bio import SeqIO

    out = Path(spec["store"])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()

    def work() -> None:
        with (out / "ids").open("wb") as handle:
            for record in SeqIO.parse(spec["file"], "fasta"):
                letters = str(record.seq).upper()
                pieces = [letters[at : at + HF_PIECE] for at in range(0, len(letters), HF_PIECE)]
                for at in range(0, len(pieces), batch):
                    found = tokenizer(
                        pieces[at : at + batch],
                        add_special_tokens=False,
                        return_attention_mask=False,
                        return_token_type_ids=False,
                    )
                    for ids in found["input_ids"]:
                        np.array(ids, dtype=np.uint8).tofile(handle)

    def check(_: None) -> dict[str, Any]:
        ids = np.fromfile(out / "ids", dtype=np.uint8)
        return {"bases": len(ids), "sha256": hashlib.sha256(ids).hexdigest()}

    return Task(work, check)


def rust_characters(spec: Spec) -> Task:
    """`tokenizers`: of its ways to cut text into characters the fastest, pieces without a single merge."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(models.BPE(LETTERS, [], unk_token="[UNK]"))
    return hugging_face(spec, PreTrainedTokenizerFast(tokenizer_object=characters, unk_token="[UNK]"), batch=1)


def python_characters(spec: Spec) -> Task:
    """A tokenizer in Python whose tokens are the characters of a string, as that of HyenaDNA and those made after it."""
    from transformers import PreTrainedTokenizer

    class Characters(PreTrainedTokenizer):
        @property
        def vocab_size(self) -> int:
            return len(LETTERS)

        def get_vocab(self) -> dict[str, int]:
            return dict(LETTERS)

        def _tokenize(self, text: str) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return LETTERS.get(token, LETTERS["[UNK]"])

        def _convert_id_to_token(self, index: int) -> str:
            return list(LETTERS)[index]

    return hugging_face(spec, Characters(unk_token="[UNK]"), batch=1)


def fastx(spec: Spec) -> Task:
    """Records read, nothing made of them."""
    import pysam

    def work() -> int:
        with pysam.FastxFile(spec["file"], persist=False) as records:
            return sum(len(record.sequence) for record in records)

    return Task(work, lambda bases: {"bases": bases})


def alignments(spec: Spec) -> Task:
    """Reads read, nothing made of them."""
    import pysam

    def work() -> tuple[int, int]:
        count = bases = 0
        with pysam.AlignmentFile(spec["file"], check_sq=False) as bam:
            for read in bam:
                count += 1
                bases += len(read.query_sequence or "")
        return count, bases

    return Task(work, lambda found: {"records": found[0], "query_bases": found[1]})


def decompress(blocks: Callable[[str], Iterable[Any]], spec: Spec) -> Task:
    """The bytes of a file, nothing made of them; looked at when it is read once more."""

    def check(size: int) -> dict[str, Any]:
        crc = 0
        for block in blocks(spec["file"]):
            crc = zlib.crc32(block, crc)
        return {"bytes": size, "crc32": crc}

    return Task(lambda: sum(len(block) for block in blocks(spec["file"])), check)


def gzip_blocks(path: str) -> Iterator[bytes]:
    with gzip.open(path) as handle:
        while block := handle.read(BLOCK):
            yield block


def igzip_blocks(path: str) -> Iterator[bytes]:
    from isal import igzip

    with igzip.open(path) as handle:
        while block := handle.read(BLOCK):
            yield block


def htslib_blocks(path: str) -> Iterator[bytes]:
    import pysam

    with pysam.BGZFile(path) as handle:
        while block := handle.read(BLOCK):
            yield block


def our_blocks(path: str, threads: int) -> Iterator[np.ndarray]:
    return (block for block, _ in read_blocks(Path(path), threads))
