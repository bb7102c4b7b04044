"""From sequences to rows of vectors: read in stretches, many side by side, and pooled.

Axes: B rows that are read together, T tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from titans_genomics.data import alphabet
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.models.classifier import Pooling
from titans_genomics.models.pieces import in_pieces
from titans_genomics.models.state import State
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import Strands, batches, padded, token_budget
from titans_genomics.use.reader import PIECE, Reader, usual_stretch
from titans_genomics.use.records import Record
from titans_genomics.use.vectors import Block

Per = Literal["sequence", "position"]

LONGEST = 1 << 20
"""Most tokens of a stretch whose vectors per base are in memory together."""

_GROUP = {"sequence": 1 << 18, "position": 1 << 16}  # tokens whose vectors are worked out together


@dataclass
class _Part:
    """A stretch of a record: its bases from ``start`` on, its tokens, and those of the other strand.

    The latter are of the same bases per position; per sequence they are as far from the other strand's own beginning.
    """

    record: Record
    start: int
    codes: np.ndarray
    tokens: np.ndarray
    turned: np.ndarray | None
    last: bool


@dataclass
class _Sum:
    """What is known of a record whose stretches are being read: by layer, of both strands."""

    forward: list[np.ndarray] = field(default_factory=list)
    turned: list[np.ndarray] = field(default_factory=list)
    tokens: list[int] = field(default_factory=lambda: [0, 0])


class Embedding:
    """How sequences become vectors; parameters as those of `embed.embed`.

    Attributes
    ----------
    layers : tuple of int
    names : list of str
        The column of each layer.
    width : int
    sequences, bases : int
        Read so far.
    warnings : list of str
        Found so far.
    """

    def __init__(
        self,
        reader: Reader,
        per: Per = "sequence",
        layers: Sequence[int] | None = None,
        pooling: Pooling = "mean",
        strands: Strands = "both",
        stretch: int | None = None,
    ) -> None:
        depth = len(reader.model.blocks)
        self.layers = (depth,) if layers is None else tuple(sorted(set(layers)))
        if not self.layers:
            raise ValueError(f"layers: name one or more of 0 to {depth}")
        for layer in self.layers:
            if not 0 <= layer <= depth:
                raise ValueError(f"layer {layer}: this model has layers 0 (the tokens' embedding) to {depth}")
        for name, value, known in (
            ("per", per, ("sequence", "position")),
            ("pooling", pooling, ("mean", "last")),
            ("strands", strands, ("both", "given")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r}: {' or '.join(known)}")
        self.reader, self.per, self.pooling, self.both = reader, per, pooling, strands == "both"
        self.stretch = usual_stretch(reader, stretch)
        self.names = ["vector"] if len(self.layers) == 1 else [f"vector_{layer}" for layer in self.layers]
        self.width = reader.model.config.d_model
        self.sequences = self.bases = 0
        self.warnings: list[str] = []

    def about(self) -> dict[str, Any]:
        """How vectors are made, for the files that keep them."""
        return {
            "model": self.reader.name,
            "weights": self.reader.sha256,
            "per": self.per,
            "layers": list(self.layers),
            "pooling": self.pooling if self.per == "sequence" else None,
            "strands": "both" if self.both else "given",
            "stretch": self.stretch,
            "memory": self.reader.memory,
        }

    @torch.inference_mode()
    def blocks(self, records: Iterable[Record], progress: Progress | None = None) -> Iterator[Block]:
        """The rows of records in their order, some at a time."""
        sums: list[tuple[Record, _Sum]] = []
        now = _Sum()
        for group in self._groups(records):
            found = self._read([part.tokens for part in group])
            turned = self._read([part.turned for part in group if part.turned is not None])
            if self.per == "position":
                yield from (
                    self._positions(*own) for own in zip(group, found, turned or [None] * len(group), strict=True)
                )
            else:
                for part, own, other in zip(group, found, turned or [None] * len(group), strict=True):
                    self._add(now, part, own, other)
                    if part.last:
                        sums.append((part.record, now))
                        now = _Sum()
                if sums:
                    yield self._pooled(sums)
                    sums = []
            if progress is not None:
                progress.update(sum(len(part.codes) for part in group))

    def _groups(self, records: Iterable[Record]) -> Iterator[list[_Part]]:
        """Stretches of records, in order, about so many tokens together as are worked out together."""
        group: list[_Part] = []
        size = 0
        for record in records:
            if not len(record.codes):
                self.warnings.append(f"{record.id}: holds no base, left out")
                continue
            for part in self._parts(record):
                group.append(part)
                size += len(part.tokens)
                if size >= _GROUP[self.per]:
                    yield group
                    group, size = [], 0
            self.sequences += 1
            self.bases += len(record.codes)
        if group:
            yield group

    def _parts(self, record: Record) -> Iterator[_Part]:
        tokenizer = self.reader.tokenizer
        tokens = tokenizer.encode(record.codes)
        size = self.stretch or len(tokens)
        if self.per == "position" and min(size, len(tokens)) > LONGEST:
            raise ValueError(
                f"{record.id}: vectors of {len(tokens):,} tokens that are read without end do not fit into memory; take a stretch "
                f"of at most {LONGEST:,} tokens"
            )
        # per sequence the other strand has stretches of its own, so that neither strand is the first
        other = tokenizer.encode(reverse_complement(record.codes)) if self.both and self.per == "sequence" else None
        longest = max(len(tokens), 0 if other is None else len(other))
        start = 0
        for first in range(0, longest, size):
            own = tokens[first : first + size]
            end = start + int(tokenizer.bases[own].sum())
            codes = record.codes[start:end]
            turned = None
            if self.both:
                turned = tokenizer.encode(reverse_complement(codes)) if other is None else other[first : first + size]
            yield _Part(record, start, codes, own, turned, first + size >= longest)
            start = end

    def _read(self, rows: list[np.ndarray]) -> list[list[np.ndarray]]:
        """For each row of tokens, by layer: float32 (tokens, D) per position; float64 (D,) per sequence, the sum or the last."""
        found: list[list[np.ndarray]] = [[] for _ in rows]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        for numbers in batches(lengths, token_budget(self.reader.device)):
            for number in numbers:
                shape = (lengths[number], self.width) if self.per == "position" else (self.width,)
                kind = np.float32 if self.per == "position" else np.float64
                found[number] = [np.zeros(shape, kind) for _ in self.layers]
            tokens, own = padded([rows[number] for number in numbers])
            state = self.reader.state(len(numbers))
            for first in range(0, tokens.shape[1], PIECE):
                active = int((own > first).sum())  # the longest stand first
                piece = tokens[:active, first : first + PIECE].to(self.reader.device)
                if state is not None and state.batch > active:
                    state = state.rows(slice(active))
                hidden, state = hidden_states(self.reader.model, piece, state, self.layers)
                inside = (own[:active] - first).clamp(max=PIECE)
                for at, states in enumerate(hidden):
                    self._take(states.float(), inside, first, [found[number][at] for number in numbers[:active]], own)
        return found

    def _take(
        self, states_BTD: Tensor, inside_B: Tensor, first: int, targets: list[np.ndarray], lengths: Tensor
    ) -> None:
        """Put the states of a piece of tokens where they belong."""
        if self.per == "position":
            rows = states_BTD.cpu().numpy()
            for row, target, count in zip(rows, targets, inside_B.tolist(), strict=True):
                target[first : first + count] = row[:count]
        elif self.pooling == "mean":
            real = torch.arange(states_BTD.shape[1]) < inside_B[:, None]
            sums = states_BTD.masked_fill(~real[..., None].to(states_BTD.device), 0).sum(1).double().cpu().numpy()
            for row, target in zip(sums, targets, strict=True):
                target += row
        else:
            for i, (target, count) in enumerate(zip(targets, inside_B.tolist(), strict=True)):
                if first + count == int(lengths[i]):
                    target[:] = states_BTD[i, count - 1].double().cpu().numpy()

    def _add(self, now: _Sum, part: _Part, own: list[np.ndarray], other: list[np.ndarray] | None) -> None:
        """A further stretch of a record."""
        if self.pooling == "last":
            # strands of pieces of several bases need not have as many stretches
            now.forward = own if len(part.tokens) else now.forward
            now.turned = other if other and part.turned is not None and len(part.turned) else now.turned
            now.tokens = [1, 1]
            return
        now.forward = [a + b for a, b in zip(now.forward, own, strict=True)] if now.forward else own
        if other is not None and part.turned is not None:
            now.turned = [a + b for a, b in zip(now.turned, other, strict=True)] if now.turned else other
            now.tokens[1] += len(part.turned)
        now.tokens[0] += len(part.tokens)

    def _pooled(self, sums: list[tuple[Record, _Sum]]) -> Block:
        """Rows of records that are read."""
        found = {}
        for at, name in enumerate(self.names):
            rows = [own.forward[at] / own.tokens[0] for _, own in sums]
            if self.both:
                rows = [(a + own.turned[at] / own.tokens[1]) / 2 for a, (_, own) in zip(rows, sums, strict=True)]
            found[name] = np.array(rows, dtype=np.float32)
        records = [record for record, _ in sums]
        columns = _places(records, [1] * len(records))
        return Block(columns | {"gc": np.array([gc_content(r.codes) for r in records], dtype=np.float32)}, found)

    def _positions(self, part: _Part, own: list[np.ndarray], other: list[np.ndarray] | None) -> Block:
        """A row for each base of a stretch."""
        bases, count = self.reader.tokenizer.bases, len(part.codes)
        found = {}
        for at, name in enumerate(self.names):
            rows = np.repeat(own[at], bases[part.tokens], axis=0)
            if other is not None and part.turned is not None:
                rows = (rows + np.repeat(other[at], bases[part.turned], axis=0)[::-1]) / 2
            found[name] = rows
        columns = _places([part.record], [count])
        columns["position"] = np.arange(part.start, part.start + count)
        return Block(columns | {"base": list(alphabet.decode(part.codes))}, found)


def hidden_states(model: Any, tokens: Tensor, state: State | None, layers: Sequence[int]) -> tuple[list[Tensor], State]:
    """Hidden states (B, T, D) of the layers asked for, in rising order, and the state after the tokens (B, T) int64."""
    model.check(tokens, state)
    x, depth = model.embedding(tokens), len(model.blocks)
    found = [x] if 0 in layers else []
    after = []
    for number, block in enumerate(model.blocks, 1):
        x, now = in_pieces(block, x, state.blocks[number - 1] if state else None)
        after.append(now)
        if number in layers:
            found.append(model.norm(x) if number == depth else x)
    return found, State(after)


def gc_content(codes: np.ndarray) -> float:
    """Share of G and C among A C G T; NaN where there is none of them."""
    counts = np.bincount(codes, minlength=5)[:4]
    return float(counts[1:3].sum() / counts.sum()) if counts.sum() else float("nan")


def _places(records: Sequence[Record], counts: Sequence[int]) -> dict[str, Any]:
    """Columns that say where records lie, each so many times."""

    def text(values: Iterable[str | None]) -> list[str | None]:
        return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

    return {
        "id": text(r.id for r in records),
        "contig": text(r.contig for r in records),
        "start": np.repeat(np.array([r.start for r in records], dtype=np.int64), counts),
        "end": np.repeat(np.array([r.end for r in records], dtype=np.int64), counts),
        "strand": text(r.strand for r in records),
    }
