"""Sequences that a model makes, as FASTA: from prompts or from nothing, of any length."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pysam
import torch

from titans_genomics.data import alphabet
from titans_genomics.files import replacing
from titans_genomics.models.memory import FEW, NeuralMemory
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import most_rows
from titans_genomics.use.output import check_out
from titans_genomics.use.reader import Reader, usual_stretch
from titans_genomics.use.records import read_codes
from titans_genomics.use.sampling import Sampling, stream

BATCH = 64
"""Most sequences that are made side by side."""

LINE = 80
"""Bases in a line of FASTA."""


def generate(
    reader: Reader,
    out: str | Path,
    length: int = 10_000,
    count: int = 1,
    prompt: str | Path | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int | None = None,
    stretch: int | None = None,
    with_prompt: bool = False,
) -> dict[str, Any]:
    """Write sequences that a model makes as FASTA, whole or not at all.

    Parameters
    ----------
    reader : Reader
    out : path
        FASTA; bgzip where the name ends in .gz.
    length : int
        New bases of each sequence.
    count : int
        Sequences, for each prompt.
    prompt : str or path, optional
        Bases, or a file of them (FASTA, FASTQ, GenBank, ...), each of whose records is gone on with; None: from nothing.
    temperature, top_k, top_p, seed
        See `Sampling`.
    batch : int, optional
        Sequences that are made side by side. Default: see `usual_batch`.
    stretch : int, optional
        Tokens after which the memory begins anew; None: as the run's evaluation had it, 0: never.
    with_prompt : bool
        Write the prompt in front of what was made.

    Returns
    -------
    dict
        ``out``, ``sequences``, ``bases`` (new ones), ``stretch``, ``seconds``, ``bases_per_second``.

    Raises
    ------
    FileNotFoundError, ValueError
        A prompt that cannot be read, a setting out of its range, or a model of text. Nothing is written.
    """
    reader.nucleotides("generate")
    how = Sampling(temperature, top_k, top_p, seed)
    for name, value in (("length", length), ("count", count), ("batch", 1 if batch is None else batch)):
        if value < 1:
            raise ValueError(f"{name} {value}: must be 1 or more")
    prompts = read_prompts(reader, prompt)
    out = check_out(out, (prompt,) if prompt is not None and _is_file(str(prompt)) else (), "made.fa")
    rows = [(name, codes) for name, codes in prompts for _ in range(count)]
    most = min(batch or usual_batch(reader), most_rows(reader.model))
    start, number = time.perf_counter(), 0
    torch.set_flush_denormal(True)
    with Progress(length * len(rows), "bases", "generating") as progress, _fasta(out) as write:
        while number < len(rows):
            # only prompts of one length are read side by side
            alike = [len(codes) == len(rows[number][1]) for _, codes in rows[number : number + most]]
            size = most_alike(reader, rows[number : number + [*alike, False].index(False)])
            own = rows[number : number + size]
            numbers = list(range(number, number + size))
            pieces = stream(
                reader, [codes for _, codes in own], length, how, stretch, numbers, [name for name, _ in own]
            )
            titles = [title(reader, n, name, length, how) for n, (name, _) in zip(numbers, own, strict=True)]
            _write_rows(write, titles, [codes if with_prompt else codes[:0] for _, codes in own], pieces, progress)
            number += size
    seconds = time.perf_counter() - start
    return {
        "out": str(out),
        "sequences": len(rows),
        "bases": length * len(rows),
        "stretch": usual_stretch(reader, stretch),
        "seconds": seconds,
        "bases_per_second": length * len(rows) / seconds,
    }


def usual_batch(reader: Reader) -> int:
    """How many sequences are best made side by side: on a CPU as many as a Titans memory takes token by token, else `BATCH`.

    Beyond those a memory reads all rows together, which on one CPU thread is slower for each of them.
    """
    by_token = reader.device.type == "cpu" and any(isinstance(m, NeuralMemory) for m in reader.model.modules())
    return min(FEW if by_token else BATCH, most_rows(reader.model))


def most_alike(reader: Reader, rows: Sequence[tuple[str, np.ndarray]]) -> int:
    """How many rows at the beginning have as many tokens as the first; pieces of several bases make that differ."""
    if reader.tokenizer.one_base:
        return len(rows)
    lengths = [len(reader.tokenizer.encode(codes)) for _, codes in rows]
    return [*(n == lengths[0] for n in lengths), False].index(False)


def read_prompts(reader: Reader, prompt: str | Path | None) -> list[tuple[str, np.ndarray]]:
    """Names and base codes of prompts: those of a file, or bases as they are given; None: one that is empty.

    Raises
    ------
    FileNotFoundError, ValueError
        Neither a file nor bases; an empty prompt.
    """
    if prompt is None:
        return [("", np.zeros(0, dtype=np.uint8))]
    text = str(prompt)
    if isinstance(prompt, str) and not _is_file(text):
        try:
            codes = reader.codes(text)
        except ValueError as error:
            raise FileNotFoundError(f"{text[:80]}: neither a file nor bases ({error})") from None
        found = [("prompt", codes)]
    else:
        path = Path(prompt)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of prompts")
        found = list(read_codes(path, reader.soft_mask))
    for name, codes in found:
        if not len(codes):
            raise ValueError(f"{text[:80]}: prompt {name!r} holds no base; leave the prompt out to begin with nothing")
    return found


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a name may be
        return False


def title(reader: Reader, number: int, prompt: str, length: int, how: Sampling) -> str:
    """The header line of a made sequence, without the >."""
    facts = {"model": reader.name, "length": length, "seed": how.seed, "temperature": f"{how.temperature:g}"}
    facts |= {"top_k": how.top_k} if how.top_k else {}
    facts |= {"top_p": f"{how.top_p:g}"} if how.top_p < 1 else {}
    facts |= {"prompt": prompt} if prompt else {}
    return " ".join([f"generated_{number + 1}", *(f"{key}={value}" for key, value in facts.items())])


class _Write(Protocol):
    def __call__(self, text: bytes, /) -> Any: ...


@contextmanager
def _fasta(out: Path) -> Iterator[_Write]:
    """What writes to a new file that takes its place when all is written."""
    with (
        replacing(out) as temporary,
        pysam.BGZFile(str(temporary), "wb") if out.suffix == ".gz" else temporary.open("wb") as file,
    ):
        yield file.write


def _write_rows(
    write: _Write,
    titles: Sequence[str],
    begins: Sequence[np.ndarray],
    pieces: Iterator[list[np.ndarray]],
    progress: Progress,
) -> None:
    """Records of sequences that grow side by side: the first goes to the file as it comes, the others are kept till their end."""
    kept = [bytearray(_text(begin)) for begin in begins]
    write(b">" + titles[0].encode() + b"\n")
    for piece in pieces:
        for text, own in zip(kept, piece, strict=True):
            text += _text(own)
        whole = len(kept[0]) // LINE * LINE
        write(_lines(kept[0][:whole]))
        del kept[0][:whole]
        progress.update(sum(map(len, piece)))
    write(_lines(kept[0]))
    for name, text in zip(titles[1:], kept[1:], strict=True):
        write(b">" + name.encode() + b"\n" + _lines(text))


def _text(codes: np.ndarray) -> bytes:
    return alphabet.decode(codes).encode()


def _lines(text: bytes | bytearray) -> bytes:
    """Text in lines of `LINE` bases."""
    return b"".join(bytes(text[at : at + LINE]) + b"\n" for at in range(0, len(text), LINE))
