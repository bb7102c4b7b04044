"""Alleles in context: how much likelier a model finds the sequence with an allele than the reference, at the price of little reading.

A model reads forward, so all that an allele can change is what is read from it on. A window is read once: on the way the
memory is kept before every allele, and each allele goes on from there for a few hundred bases. Alleles whose windows begin
at the same place share the reading, and so do all alleles of one site. What comes out is that of two whole readings of every
allele's window, one with the allele and one without.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.models.state import State, map_leaves
from titans_genomics.progress import Progress
from titans_genomics.tasks.likelihood import BATCH_LOGITS, Strands
from titans_genomics.tasks.sequences import batches, padded, token_budget
from titans_genomics.use.reader import PIECE, Reader

STEP = 64
"""Tokens between the places of a window where the memory can be kept, so that alleles that lie close together share it."""

MOST_ROWS = 64
"""Alleles that are read together at most: each has a memory of its own."""

KEPT = 1 << 28
"""Bytes of memories that are kept at a time, about; on a GPU 16 times as many."""


@dataclass(frozen=True)
class Allele:
    """Bases ``start`` to ``end`` of a contig (0-based half-open) replaced by ``alt``, base codes uint8 (bases,)."""

    contig: str
    start: int
    end: int
    alt: np.ndarray


def normalised(allele: Allele, codes: np.ndarray) -> Allele:
    """The same change with no base that both alleles have, as far left as it goes, as `bcftools norm` has it (but without an anchor)."""
    start, end, alt = allele.start, allele.end, allele.alt
    while end > start and len(alt) and codes[end - 1] == alt[-1]:
        end, alt = end - 1, alt[:-1]
    while end > start and len(alt) and codes[start] == alt[0]:
        start, alt = start + 1, alt[1:]
    if end > start and len(alt):
        return Allele(allele.contig, start, end, alt)
    word = codes[start:end] if end > start else alt
    size, shift = len(word), 0
    # a repeat of the word to the left: the change may stand at any of its places
    while shift < start and codes[start - 1 - shift] == (
        word[size - 1 - shift] if shift < size else codes[start - 1 - shift + size]
    ):
        shift += 1
    if not shift:
        return Allele(allele.contig, start, end, alt)
    around = np.concatenate([codes[start - shift : start], word])[:size]
    start, end = start - shift, end - shift
    return Allele(allele.contig, start, end, around if len(alt) else alt)


@dataclass(frozen=True)
class Window:
    """How much is read around an allele, on each strand in its own direction.

    Windows begin at multiples of ``share`` bases, at least ``context - after - share`` bases before the allele, so that
    alleles within ``share`` bases share one; they end ``after`` bases behind the allele, or with the contig. With a
    ``share`` of 1 every allele has exactly ``context - after - 1`` bases before it.

    Raises ValueError when the parts do not fit into ``context``.
    """

    context: int
    after: int
    share: int

    def __post_init__(self) -> None:
        if self.after < 1 or self.share < 1 or self.after + self.share >= self.context:
            raise ValueError(
                f"context {self.context}, after {self.after} and share {self.share} do not fit: after and share are 1 or more, and together smaller than context"
            )

    def begin(self, start: int) -> int:
        """Where the window of an allele begins that starts at ``start`` of its strand."""
        return max(0, (start - (self.context - self.after - self.share)) // self.share * self.share)


@dataclass
class _Branch:
    """One allele on one strand: token ``keep`` of its window and all behind it are ``tail`` instead; without it they end at ``stop``."""

    allele: int
    keep: int
    tail: np.ndarray
    stop: int
    reference: float = 0.0
    pooled: Tensor | None = None

    @property
    def at(self) -> int:
        """Where the memory that it goes on from is kept: before the last token before the allele."""
        return max(self.keep - 1, 0) // STEP * STEP


@dataclass
class _Trunk:
    """A window of the reference, and the branches that leave it."""

    tokens: np.ndarray
    branches: list[_Branch] = field(default_factory=list)


@torch.inference_mode()
def score_alleles(
    reader: Reader,
    genome: Mapping[str, np.ndarray],
    alleles: Sequence[Allele],
    window: Window,
    strands: Strands = "both",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood ratio and effect on the embedding of alleles.

    Parameters
    ----------
    reader : Reader
        The model, and the memory that every window begins with.
    genome : mapping
        Contig name to base codes, uint8 (bases,).
    alleles : sequence of Allele
        In any order; in which order and company they stand changes results by rounding only.
    window : Window
        Alleles of a tokenizer other than that of single nucleotides share no windows, and their windows begin where those
        of a ``share`` of 1 do.
    strands : "both" or "given"
        "both": the mean over both strands, each read in its own direction.
    progress : Progress, optional
        Counts alleles.

    Returns
    -------
    ratio : ndarray of float64, (alleles,)
        log p(window with the allele) - log p(window of the reference), nats.
    distance : ndarray of float64, (alleles,)
        Euclidean distance of the two mean final hidden states, from the base before the allele to the window's end.
    """
    ratio, distance = np.zeros(len(alleles)), np.zeros(len(alleles))
    turns = (False, True) if strands == "both" else (False,)
    trunks = [trunk for turned in turns for trunk in _trunks(reader, genome, alleles, window, turned)]
    budget = min(token_budget(reader.device), max(256, BATCH_LOGITS // reader.tokenizer.vocab_size))
    lengths = np.array([len(trunk.tokens) for trunk in trunks], dtype=np.int64)
    most = KEPT if reader.device.type == "cpu" else 16 * KEPT
    waiting: list[tuple[_Branch, np.ndarray, State]] = []
    for rows in batches(lengths, budget):
        waiting.extend(_read_trunks(reader, [trunks[row] for row in rows]))
        if _bytes(waiting) > most:
            _read_branches(reader, waiting, budget, ratio, distance, progress, len(turns))
            waiting = []
    _read_branches(reader, waiting, budget, ratio, distance, progress, len(turns))
    return ratio / len(turns), distance / len(turns)


def _bytes(waiting: list[tuple[_Branch, np.ndarray, State]]) -> int:
    """Bytes of the kept memories; those that alleles share count once."""
    kept = {id(state): state for _, _, state in waiting}
    return sum(leaf.nbytes for state in kept.values() for _, leaf in state.leaves() if isinstance(leaf, Tensor))


def _trunks(
    reader: Reader, genome: Mapping[str, np.ndarray], alleles: Sequence[Allele], window: Window, turned: bool
) -> list[_Trunk]:
    """The windows of one strand."""
    tokenizer, single = reader.tokenizer, reader.tokenizer.kind == "nucleotide"
    own = window if single else Window(window.context, window.after, 1)
    places: dict[tuple[str, int, int], list[tuple[int, int, int, np.ndarray]]] = defaultdict(list)
    for number, allele in enumerate(alleles):
        start, end, alt = allele.start, allele.end, allele.alt
        if turned:
            length = len(genome[allele.contig])
            start, end, alt = length - end, length - start, reverse_complement(alt)
        places[allele.contig, own.begin(start), 0 if single else number].append((number, start, end, alt))
    trunks = []
    for (contig, begin, _), members in places.items():
        codes = genome[contig]
        stop = min(max(end for _, _, end, _ in members) + own.after, len(codes))
        codes = reverse_complement(codes[len(codes) - stop : len(codes) - begin]) if turned else codes[begin:stop]
        trunk = _Trunk(tokenizer.encode(codes).astype(np.int64))
        for number, start, end, alt in members:
            stop = min(end - begin + own.after, len(codes))
            tail = np.concatenate([alt, codes[end - begin : stop]])
            if single:
                trunk.branches.append(_Branch(number, start - begin, tokenizer.encode(tail).astype(np.int64), stop))
            else:  # an allele may change how the bases before it are made into tokens
                changed = tokenizer.encode(np.concatenate([codes[: start - begin], tail])).astype(np.int64)
                keep = _common(trunk.tokens, changed)
                trunk.branches.append(_Branch(number, keep, changed[keep:], len(trunk.tokens)))
        trunks.append(trunk)
    return trunks


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens at the beginning are the same."""
    shorter = min(len(a), len(b))
    differing = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _read_trunks(reader: Reader, trunks: list[_Trunk]) -> Iterator[tuple[_Branch, np.ndarray, State]]:
    """Read windows together; fill in what the reference scores, and give each branch, its tokens and the memory before them."""
    tokens = padded([trunk.tokens for trunk in trunks])[0].to(reader.device)
    branches = [(row, branch) for row, trunk in enumerate(trunks) for branch in trunk.branches]
    state = _beginning(reader, len(trunks))
    kept: dict[tuple[int, int], State] = {}
    wanted = {(row, branch.at) for row, branch in branches}
    scores = np.zeros(tokens.shape)
    scores[:, 0] = [_uniform(reader, trunk.tokens[0]) for trunk in trunks]
    cuts = {0, tokens.shape[1], *(at for _, at in wanted), *range(0, tokens.shape[1], PIECE)}
    for first, last in pairwise(sorted(cuts)):
        # rows that are named by a tensor are copied: in memory of their own
        kept |= {(row, at): state.rows(torch.tensor([row], device=tokens.device)) for row, at in wanted if at == first}
        hidden, state = reader.model.embed(tokens[:, first:last], state)
        open_ = [(row, branch) for row, branch in branches if branch.keep <= last and branch.stop > first]
        if not open_:
            continue
        behind = min(last + 1, tokens.shape[1])
        scores[:, first + 1 : behind] = _log_p(reader, hidden[:, : behind - first - 1], tokens[:, first + 1 : behind])
        for row, branch in open_:
            since = max(branch.keep - 1, 0)
            part = hidden[row, max(since - first, 0) : max(branch.stop - first, 0)].double().sum(0)
            branch.pooled = part if branch.pooled is None else branch.pooled + part
    for row, branch in branches:
        branch.reference = float(scores[row, branch.keep : branch.stop].sum())
        branch.pooled = branch.pooled / (branch.stop - max(branch.keep - 1, 0))  # type: ignore[operator]
        yield branch, np.concatenate([trunks[row].tokens[branch.at : branch.keep], branch.tail]), kept[row, branch.at]


def _read_branches(
    reader: Reader,
    waiting: list[tuple[_Branch, np.ndarray, State]],
    budget: int,
    ratio: np.ndarray,
    distance: np.ndarray,
    progress: Progress | None,
    turns: int,
) -> None:
    """Read alleles on from the memories before them, those together whose memories fit, and add up what they score."""
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, (_, _, state) in enumerate(waiting):
        shape = (leaf.shape[1:] if isinstance(leaf, Tensor) else leaf for _, leaf in state.leaves())
        alike[tuple(shape)].append(number)
    for numbers in alike.values():
        lengths = np.array([len(waiting[number][1]) for number in numbers], dtype=np.int64)
        for batch in batches(lengths, budget):
            for rows in np.array_split(batch, -(-len(batch) // MOST_ROWS)):
                group = [waiting[numbers[row]] for row in rows]
                tokens, ends = padded([own for _, own, _ in group])
                tokens = tokens.to(reader.device)
                hidden, _ = reader.model.embed(tokens, _together([state for _, _, state in group]))
                scores = np.zeros(tokens.shape)
                scores[:, 0] = [_uniform(reader, own[0]) for _, own, _ in group]
                scores[:, 1:] = _log_p(reader, hidden[:, :-1], tokens[:, 1:])
                for row, (branch, _, _) in enumerate(group):
                    keep, end = branch.keep - branch.at, int(ends[row])
                    ratio[branch.allele] += scores[row, keep:end].sum() - branch.reference
                    pooled = hidden[row, max(keep - 1, 0) : end].double().mean(0)
                    distance[branch.allele] += float((pooled - branch.pooled).norm())
                if progress is not None:
                    progress.update(len(group) / turns)


def _beginning(reader: Reader, batch: int) -> State:
    state = reader.state(batch)
    return reader.model.begin(batch) if state is None else state


def _uniform(reader: Reader, token: int) -> float:
    """Score of a window's first token, which has none before it."""
    return -math.log(4) * int(reader.tokenizer.bases[token]) * bool(reader.tokenizer.scored[token])


def _log_p(reader: Reader, hidden: Tensor, targets: Tensor) -> np.ndarray:
    """Log-probability of each token after the state before it, nats, float64 (B, T); 0 for tokens that are not scored."""
    if not hidden.shape[1]:
        return np.zeros(targets.shape)
    scored = torch.from_numpy(reader.tokenizer.scored).to(reader.device)
    # in double precision, the head too, as differences of sums over hundreds of tokens are what counts
    head = reader.model.head
    logits = F.linear(hidden.double(), head.weight.double(), None if head.bias is None else head.bias.double())
    found = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (found * scored[targets]).cpu().numpy()


def _together(states: Sequence[State]) -> State:
    """States of single sequences as one of a batch; their counts are the same."""
    leaves = [dict(state.leaves()) for state in states]

    def joined(name: str, leaf: Tensor | int) -> Tensor | int:
        return torch.cat([own[name] for own in leaves]) if isinstance(leaf, Tensor) else leaf

    return map_leaves(joined, states[0])
