"""The first half of `track`: whole contigs are read once, and what the model says of each token goes to a file per contig.

A part, NUMBER.rows, holds a row of float32 per token, a column per track. The columns "bits" and "entropy" of row i are of
token i + 1, which the model was asked for there; those of surprise and gates are of token i itself. A part that is still
being written is NUMBER.open: where the memory begins anew after a stretch, reading goes on at the last whole group of stretches;
where it never does, at NUMBER.state, the memory after the last of the rows that were written every `SAVED` tokens.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.files import write_json
from titans_genomics.models.state import load_state, save_state
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import token_budget
from titans_genomics.training import next_token_nll
from titans_genomics.use.reader import Reader
from titans_genomics.use.surprise import listening, memories
from titans_genomics.use.track_genome import open_genome, pieces

SAVED = 1 << 18
"""Tokens after which the memory is saved where it never begins anew."""

OF_NEXT = ("bits", "entropy")
OF_MEMORY = ("surprise", "alpha", "eta", "theta")


@dataclass(frozen=True)
class Column:
    """One track. ``layer`` and ``head`` are 0-based; None: of the prediction; the mean over the heads."""

    kind: str
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """As in file names: surprise_layer0, surprise_layer0_head1."""
        layer = "" if self.layer is None else f"_layer{self.layer}"
        return f"{self.kind}{layer}" + ("" if self.head is None else f"_head{self.head}")


def columns_of(reader: Reader, tracks: Sequence[str], heads: str) -> list[Column]:
    """The columns that tracks stand for, in their order. Raises ValueError for tracks that the model cannot give."""
    known = (*OF_NEXT, *OF_MEMORY)
    strange = [kind for kind in tracks if kind not in known]
    if strange or not tracks:
        raise ValueError(f"track {strange[0]!r} is unknown" if strange else "no tracks are asked for")
    layers = memories(reader.model)
    found = []
    for kind in dict.fromkeys(tracks):
        if kind in OF_NEXT:
            found.append(Column(kind))
            continue
        if not layers:
            raise ValueError(
                f"{reader.folder}: the model {reader.name!r} has no neural memory, so it has no track {kind!r}; ask for bits and entropy"
            )
        for layer, memory in enumerate(layers):
            each = range(memory.heads) if heads == "each" else [None]
            found += [Column(kind, layer, head) for head in each]
    return found


# ----------------------------------------------------------------------------------------------- the model


class Reading:
    """A model that reads tokens, and says a row of numbers of each.

    Parameters
    ----------
    reader : Reader
    columns : list of Column
    piece : int
        Most tokens of a call.
    stretch : int or None
        Tokens after which the memory begins anew; several stretches are read side by side.
    """

    def __init__(self, reader: Reader, columns: list[Column], piece: int, stretch: int | None) -> None:
        self.reader, self.columns, self.piece, self.stretch = reader, columns, piece, stretch
        self.group = piece if stretch is None else stretch * max(1, token_budget(reader.device) // stretch)
        tokenizer = reader.tokenizer
        self.share = torch.from_numpy(np.where(tokenizer.scored, tokenizer.bases, 0)).float().to(reader.device)
        self.bases = torch.from_numpy(np.maximum(tokenizer.bases, 1)).float().to(reader.device)
        self.state: Any = None

    def begin(self, kept: Path | None = None) -> None:
        """A contig begins, or goes on with a memory that was kept: forget what was read."""
        self.state = self.reader.state(1) if kept is None else load_state(self.reader.model, kept)

    @torch.inference_mode()
    def rows(self, tokens: np.ndarray, following: int | None) -> np.ndarray:
        """Rows of the next tokens of the open contig, at most ``group`` of them.

        Parameters
        ----------
        tokens : (T,) integers
        following : the token behind them, None at the end of the contig

        Returns
        -------
        float32, (T, columns); NaN where nothing was predicted, or what followed is not scored
        """
        end = self.reader.tokenizer.pad if following is None else following
        both = torch.from_numpy(np.append(tokens, end).astype(np.int64)).to(self.reader.device)
        inputs, targets = both[:-1], both[1:]
        if self.stretch is None:
            found, self.state = self._read(inputs[None], targets[None], self.state)
            found = found[0]
        else:
            whole = len(inputs) // self.stretch * self.stretch
            parts = []
            for first, last, length in ((0, whole, self.stretch), (whole, len(inputs), len(inputs) - whole)):
                if last > first:
                    x, y = (of[first:last].view(-1, length) for of in (inputs, targets))
                    parts.append(self._read(x, y, self.reader.state(len(x)))[0].flatten(0, 1))
            found = torch.cat(parts)
        found = found.cpu().numpy()
        if following is None:
            found[-1, [column.kind in OF_NEXT for column in self.columns]] = np.nan
        return found

    def _read(self, tokens: torch.Tensor, targets: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """(B, T, columns) of tokens and what follows them (B, T), and the state."""
        model, parts = self.reader.model, []
        kinds = {column.kind for column in self.columns}
        with listening(model, "surprise" in kinds) if kinds & {*OF_MEMORY} else nullcontext([]) as listeners:
            for own, wanted in zip(tokens.split(self.piece, 1), targets.split(self.piece, 1), strict=True):
                logits, state = model(own, state)
                heard = [listener.take() for listener in listeners]
                made = [self._column(column, logits, wanted, heard) for column in self.columns]
                parts.append(torch.stack(made, dim=-1))
        return torch.cat(parts, dim=1), state

    def _column(self, column: Column, logits: torch.Tensor, targets: torch.Tensor, heard: list[Any]) -> torch.Tensor:
        """(B, T) float32."""
        if column.kind == "bits":
            bits = next_token_nll(logits, targets, self.share) / math.log(2) / self.bases[targets]
            return bits.masked_fill(self.share[targets] == 0, torch.nan)
        if column.kind == "entropy":
            logs = logits.float().log_softmax(-1)
            return -(logs.exp() * logs).sum(-1) / math.log(2) / self.bases[targets]
        values = getattr(heard[column.layer], column.kind)  # type: ignore[arg-type, index]
        return (values.mean(-1) if column.head is None else values[..., column.head]).float()


# ----------------------------------------------------------------------------------------------- parts


class Parts:
    """The folder of parts of one set of settings; those of others are thrown away."""

    def __init__(self, folder: Path, settings: dict[str, Any], columns: list[Column], contigs: dict[str, int]) -> None:
        self.folder, self.contigs, self.width = folder, contigs, len(columns)
        self.numbers = {name: number for number, name in enumerate(contigs)}
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        try:
            same = kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) == settings
        except ValueError:
            same = False
        if not same:
            self.remove()
            folder.mkdir(parents=True, exist_ok=True)
            write_json(kept, settings)

    def remove(self) -> None:
        """Delete the parts, and nothing else."""
        for suffix in ("rows", "open", "counts", "*.state"):
            for path in self.folder.glob(f"*.{suffix}"):
                path.unlink()
        (self.folder / "settings.json").unlink(missing_ok=True)
        self.folder.rmdir()

    def path(self, contig: str, suffix: str = "rows") -> Path:
        """Where the part of a contig is."""
        return self.folder / f"{self.numbers[contig]}.{suffix}"

    def states(self, contig: str) -> dict[int, Path]:
        """The memories that were kept of a contig that is being read, by how many rows were written before."""
        found = self.folder.glob(f"{self.numbers[contig]}.*.state")
        return {int(path.name.split(".")[1]): path for path in found}

    def values(self, contig: str, column: int, predicted: bool, at_once: int) -> Iterator[np.ndarray]:
        """The values of a column for each base in order, float32, ``at_once`` bases each time but the last.

        Tokens of several bases are spread over them; then the contig comes in one piece.
        """
        counts = self.path(contig, "counts")
        length = self.contigs[contig]
        if counts.is_file():
            own = np.fromfile(self.path(contig), np.float32).reshape(-1, self.width)[:, column]
            if predicted:
                own = np.concatenate([[np.float32(np.nan)], own[:-1]])
            yield np.repeat(own, np.fromfile(counts, np.uint16))
            return
        before = np.full(1, np.nan, np.float32)
        with self.path(contig).open("rb") as file:
            for first in range(0, length, at_once):
                count = min(at_once, length - first)
                block = np.fromfile(file, np.float32, count * self.width).reshape(-1, self.width)[:, column].copy()
                if predicted:
                    yield np.concatenate([before, block[:-1]])
                    before = block[-1:]
                else:
                    yield block


def read_contigs(reading: Reading, genome: Path, parts: Parts, progress: Progress) -> int:
    """Read all contigs of ``parts`` that have no part yet; returns how many bases that were.

    Raises OSError naming the part where it cannot be written; what was read so far stays for the next run.
    """
    wanted = {name: length for name, length in parts.contigs.items() if not parts.path(name).is_file()}
    skips = {name: 0 if name not in wanted else _rows_to_keep(reading, parts, name) for name in parts.contigs}
    left = sum(wanted.values()) - sum(skips.values())
    progress.resume_at(sum(parts.contigs.values()) - left)
    if not wanted:
        return 0
    job: _Job | None = None
    for name, codes, _ in pieces(open_genome(genome, reading.reader.soft_mask)):
        if name is not None:
            if job is not None:
                job.end()
            job = _Job(reading, parts, name, skips[name], progress) if name in wanted else None
        if job is not None and len(codes):
            job.feed(codes)
    if job is not None:
        job.end()
    return left


def _rows_to_keep(reading: Reading, parts: Parts, contig: str) -> int:
    """Rows of a part that is not whole from whose end reading can go on: the memory begins anew there."""
    path = parts.path(contig, "open")
    if not reading.reader.tokenizer.plain or not path.is_file():
        return 0
    rows = path.stat().st_size // (4 * parts.width)
    if reading.stretch is not None:
        return rows // reading.group * reading.group
    return max((count for count in parts.states(contig) if count <= rows), default=0)


class _Job:
    """The part of one contig while it is being written."""

    def __init__(self, reading: Reading, parts: Parts, contig: str, skip: int, progress: Progress) -> None:
        self.reading, self.parts, self.contig, self.skip, self.progress = reading, parts, contig, skip, progress
        self.tokenizer: Tokenizer = reading.reader.tokenizer
        self.waiting: list[np.ndarray] = []
        self.count = 0
        with parts.path(contig, "open").open("ab") as file:
            file.truncate(skip * 4 * parts.width)
        parts.path(contig, "counts").unlink(missing_ok=True)
        self.rows = self.saved = skip
        reading.begin(parts.states(contig)[skip] if skip and reading.stretch is None else None)

    def feed(self, codes: np.ndarray) -> None:
        """More bases of the contig."""
        passed = min(self.skip, len(codes))
        self.skip -= passed
        codes = codes[passed:]
        self.waiting.append(codes)
        self.count += len(codes)
        if self.tokenizer.plain and self.count > self.reading.group:
            joined = np.concatenate(self.waiting)
            tokens, first = self.tokenizer.encode(joined), 0
            while len(tokens) - first > self.reading.group:
                self._read(tokens[first : first + self.reading.group], int(tokens[first + self.reading.group]))
                first += self.reading.group
            self.waiting, self.count = [joined[first:].copy()], len(joined) - first

    def end(self) -> None:
        """The contig ends: read what is left, and call the part whole."""
        rest = np.concatenate(self.waiting) if self.waiting else np.zeros(0, np.uint8)
        tokens = self.tokenizer.encode(rest) if len(rest) else np.zeros(0, np.int64)
        group = self.reading.group
        for first in range(0, len(tokens), group):
            own = tokens[first : first + group]
            self._read(own, int(tokens[first + group]) if first + group < len(tokens) else None)
        if not self.tokenizer.plain:
            self._append(self.tokenizer.bases[tokens].astype(np.uint16), "counts")
        os.replace(self.parts.path(self.contig, "open"), self.parts.path(self.contig))
        for path in self.parts.states(self.contig).values():
            path.unlink()

    def _read(self, tokens: np.ndarray, following: int | None) -> None:
        self._append(self.reading.rows(tokens, following), "open")
        self.rows += len(tokens)
        if self.reading.stretch is None and self.tokenizer.plain and self.rows - self.saved >= SAVED:
            old, self.saved = list(self.parts.states(self.contig).values()), self.rows
            save_state(self.reading.state, self.parts.path(self.contig, f"{self.rows}.state"))
            for path in old:
                path.unlink()
        self.progress.update(int(self.tokenizer.bases[tokens].sum()), note=self.contig)

    def _append(self, values: np.ndarray, suffix: str) -> None:
        path = self.parts.path(self.contig, suffix)
        try:
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(values).tobytes())
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}; make room and run again: what was read is kept", str(path)
            ) from None
