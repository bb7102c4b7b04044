"""Bases drawn from a model one after the other, in many sequences side by side, at the same speed whatever their length.

Only A, C, G and T are drawn. The first base of a sequence without a prompt has none before it, and is drawn evenly. The
memory begins anew after every ``stretch`` tokens, as it did when the model was evaluated, and then reads the last `OVERLAP`
tokens again, so that a sequence goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from titans_genomics.data.kmers import Kmers
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.models.state import State
from titans_genomics.tasks.sequences import advance
from titans_genomics.use.reader import PIECE, Reader, usual_stretch

OVERLAP = 256
"""Tokens that are read again when the memory begins anew; of short stretches half of them."""

_BLOCK = 1024  # tokens between two pieces that are handed on


@dataclass(frozen=True)
class Sampling:
    """How bases are drawn.

    Attributes
    ----------
    temperature : float
        Logits are divided by it; 0: always the most likely token.
    top_k : int
        Only the k most likely tokens are drawn from; 0: all.
    top_p : float
        Only the fewest tokens whose probabilities add up to this are drawn from; 1: all.
    seed : int
        With the number of a sequence it says all that is drawn; the model's rounding differs by what is made beside it.

    Raises
    ------
    ValueError
        A value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: must be 0 or more (1: as the model has it)")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k}: must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: must be above 0, at most 1 (all tokens)")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: must be 0 or more")

    def draw(self, logits_BC: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
        """One of C candidates for each row: int64, shape (B,).

        ``logits_BC`` float64, shape (B, C); ``uniform_B`` float64 from [0, 1), shape (B,).
        """
        if self.temperature == 0:
            return logits_BC.argmax(1)
        x_BC = (logits_BC - logits_BC.max(1, keepdims=True)) / self.temperature
        if 0 < self.top_k < x_BC.shape[1]:
            rest = np.argsort(-x_BC, axis=1, kind="stable")[:, self.top_k :]
            np.put_along_axis(x_BC, rest, -np.inf, axis=1)
        p_BC = np.exp(x_BC)
        if self.top_p < 1:
            order = np.argsort(-p_BC, axis=1, kind="stable")
            falling = np.take_along_axis(p_BC, order, 1)
            before = falling.cumsum(1) - falling
            falling[before >= self.top_p * p_BC.sum(1, keepdims=True)] = 0
            np.put_along_axis(p_BC, order, falling, 1)
        reach_BC = p_BC.cumsum(1)
        pick = (reach_BC <= (uniform_B * reach_BC[:, -1])[:, None]).sum(1)
        return np.minimum(pick, x_BC.shape[1] - 1)


class _Letters:
    """Which tokens may follow a token, and the bases that they add."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.k = tokenizer.k if isinstance(tokenizer, Kmers) and tokenizer.overlap else 0
        self.words = 4**self.k
        own = tokenizer.scored & (np.arange(tokenizer.vocab_size) < self.words if self.k else True)
        self.any = np.flatnonzero(own)
        self.first = np.flatnonzero(own & (tokenizer.bases == 1))

    def following(self, last_B: np.ndarray) -> np.ndarray:
        """Tokens that may follow ``last_B``: int64, shape (C,), or (B, C) where that depends on the row."""
        if not self.k:
            return self.any
        return (4 * last_B[:, None] + np.arange(4)) % self.words

    def spell(self, tokens: np.ndarray, beginning: bool) -> np.ndarray:
        """Bases that tokens (T,) add, uint8; ``beginning``: of a sequence that has none yet."""
        if not self.k:
            return self.tokenizer.decode(tokens)
        # a k-mer that overlaps the one before it adds its last base
        added = (tokens % 4).astype(np.uint8)
        if beginning and len(tokens):
            lead = (int(tokens[0]) // 4 ** np.arange(self.k - 1, 0, -1) % 4).astype(np.uint8)
            added = np.concatenate([lead, added])
        return added

    def prompt(self, codes: np.ndarray, name: str) -> np.ndarray:
        """Tokens of a prompt that can be gone on with. Raises ValueError."""
        tokens = self.tokenizer.encode(codes)
        if not self.k:
            return tokens
        tokens = tokens[: max(0, len(tokens) - self.k + 1)]
        if not len(tokens) or tokens[-1] >= self.words:
            raise ValueError(
                f"prompt {name!r}: must end with {self.k} or more bases A C G T, the k-mer that is gone on with"
            )
        return tokens


def stream(
    reader: Reader,
    prompts: Sequence[np.ndarray],
    length: int,
    how: Sampling | None = None,
    stretch: int | None = None,
    numbers: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[list[np.ndarray]]:
    """Make sequences side by side, about a thousand tokens at a time; memory use does not grow with their length.

    Parameters
    ----------
    reader : Reader
    prompts : sequence of ndarray
        One for each sequence: base codes, uint8, shape (bases,), all of one length; none of it: no prompt.
    length : int
        New bases of each sequence.
    how : Sampling, optional
    stretch : int, optional
        Tokens after which the memory begins anew; None: as the run's evaluation had it, 0: never.
    numbers : sequence of int, optional
        The number of each sequence, which with the seed says what is drawn; default: 0, 1, ...
    names : sequence of str, optional
        Of the prompts, for messages.

    Yields
    ------
    list of ndarray
        The bases that each sequence goes on with: uint8, A=0 C=1 G=2 T=3. Some of them may be empty.

    Raises
    ------
    ValueError
        Settings out of range, prompts that cannot be gone on with, or a model that gives no numbers.
    """
    reader.nucleotides("generate")
    how = how or Sampling()
    if length < 1:
        raise ValueError(f"length {length}: must be 1 base or more")
    stretch = usual_stretch(reader, stretch)
    letters = _Letters(reader.tokenizer)
    names = names or [f"number {i + 1}" for i in range(len(prompts))]
    tokens = [letters.prompt(codes, name) if len(codes) else codes for codes, name in zip(prompts, names, strict=True)]
    if len({len(own) for own in tokens}) != 1:
        raise ValueError("prompts that are gone on with side by side must have the same number of tokens")
    rngs = [np.random.default_rng([how.seed, n]) for n in (numbers or range(len(prompts)))]
    line = _Line(reader, np.stack(tokens).astype(np.int64), letters, how, stretch)
    made = np.zeros(len(prompts), dtype=np.int64)
    beginning = line.logits is None
    while made.min() < length:
        count = min(_BLOCK, int(length - made.min()))
        block = line.go_on(np.stack([rng.random(count) for rng in rngs], axis=1))
        pieces = [
            letters.spell(row, beginning)[: max(0, length - n)] for row, n in zip(block, made.tolist(), strict=True)
        ]
        made += [len(piece) for piece in pieces]
        beginning = False
        yield pieces


class _Line:
    """Sequences side by side: the memory of what they hold so far, and what the model says of the next token."""

    def __init__(self, reader: Reader, prompt_BT: np.ndarray, letters: _Letters, how: Sampling, stretch: int | None):
        self.reader, self.letters, self.how, self.stretch = reader, letters, how, stretch
        self.overlap = min(OVERLAP, max(1, (stretch or 2 * OVERLAP) // 2))
        self.recent = prompt_BT[:, max(0, prompt_BT.shape[1] - self.overlap) :]
        self.logits: np.ndarray | None = None
        self.state: State | None = reader.state(len(prompt_BT))
        self.since = 0
        if prompt_BT.shape[1]:
            self.begin(prompt_BT)

    @torch.inference_mode()
    def begin(self, tokens_BT: np.ndarray) -> None:
        """Read tokens from a new memory; rows that are all alike only once."""
        alike = bool((tokens_BT == tokens_BT[:1]).all())
        rows = tokens_BT[:1] if alike else tokens_BT
        if self.stretch and rows.shape[1] > self.stretch:
            # of a long prompt what would be remembered had it been made here
            since = self.overlap + (rows.shape[1] - self.stretch - 1) % (self.stretch - self.overlap + 1)
            rows = rows[:, rows.shape[1] - since :]
        hidden, state = advance(self.reader.model, rows, self.reader.state(len(rows)), PIECE)
        logits = numbers_of(self.reader.model.head(hidden))
        if alike:
            everyone = torch.zeros(len(tokens_BT), dtype=torch.int64, device=self.reader.device)
            logits, state = logits.repeat(len(tokens_BT), 0), state.rows(everyone)
        self.logits, self.state, self.since = logits, state, rows.shape[1]

    @torch.inference_mode()
    def go_on(self, uniform_TB: np.ndarray) -> np.ndarray:
        """Draw T tokens for each sequence with these numbers from [0, 1): int64, shape (B, T)."""
        kept, (T, B) = self.recent.shape[1], uniform_TB.shape
        tokens = np.concatenate([self.recent, np.empty((B, T), dtype=np.int64)], axis=1)
        for t in range(T):
            if self.logits is None:
                chosen = self.letters.first[(uniform_TB[t] * len(self.letters.first)).astype(np.int64)]
            else:
                chosen = self._choose(tokens[:, kept + t - 1], uniform_TB[t])
            tokens[:, kept + t] = chosen
            if self.stretch and self.since >= self.stretch:
                at = kept + t + 1
                self.begin(tokens[:, max(0, at - self.overlap) : at])
                continue
            logits, self.state = self.reader.model(torch.from_numpy(chosen[:, None]).to(self.reader.device), self.state)
            self.logits = numbers_of(logits[:, -1])
            self.since += 1
        self.recent = tokens[:, max(0, kept + T - self.overlap) :]
        return tokens[:, kept:]

    def _choose(self, last_B: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
        assert self.logits is not None
        candidates = self.letters.following(last_B)
        if candidates.ndim == 1:
            logits_BC = self.logits[:, candidates]
        else:
            logits_BC = np.take_along_axis(self.logits, candidates, 1)
        if not np.isfinite(logits_BC).all():
            raise ValueError(
                f"{self.reader.folder}: the model gave no numbers (NaN or infinite) {self.since:,} tokens after its memory began; "
                "take a shorter stretch, or train again"
            )
        pick = self.how.draw(logits_BC, uniform_B)
        return candidates[pick] if candidates.ndim == 1 else candidates[np.arange(len(pick)), pick]


def numbers_of(logits: Tensor) -> np.ndarray:
    """Logits as float64 on the CPU."""
    return logits.double().cpu().numpy()
