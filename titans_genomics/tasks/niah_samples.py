"""Needles in text as RULER has them (S-NIAH): templates, haystacks, and prompts that are read a piece at a time.

The wording is that of RULER's niah_single_1 (pk), niah_single_2 (n) and niah_single_3 (w); the haystack of the last two is the held-out text
of the run, or a text file. Lengths are tokens of the run's tokenizer. Needle and question are encoded by themselves, so that what stands
around them does not change their tokens.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from titans_genomics.data.bgzf import read_blocks
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer

Kind = Literal["pk", "n", "w"]

KINDS: tuple[Kind, ...] = ("pk", "n", "w")

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
"""RULER's sentence that the haystack of pk repeats, one a line."""

INTRO = (
    "A special magic {type} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {type} afterwards.\n"
)
NEEDLE = "One of the special magic {type}s for {key} is: {value}."
QUESTION = (
    "\nWhat is the special magic {type} for {key} mentioned in the provided text? "
    "The special magic {type} for {key} mentioned in the provided text is"
)

TYPES = {"pk": "number", "n": "number", "w": "uuid"}


def _words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = _words(
    "abrupt ancient bitter bold brave brief bright broad calm careful cheerful clever cold costly curious damp daring dark deep "
    "dusty eager early easy empty faint famous fierce flat fond frail fresh gentle giddy golden grand happy heavy hollow honest "
    "humble icy idle jolly keen kind large late lively lonely loud lucky mellow mighty modest narrow neat nervous noisy odd pale "
    "patient plain polite proud quick quiet rapid rare rough royal rusty sharp short silent slow smooth soft steep stern strange "
    "sturdy sunny swift tall tame tender thick tidy tiny tough vast warm weary wild wise wooden worthy young"
)
NOUNS = _words(
    "anchor apple arrow badge barrel basket beacon bench bottle bridge bucket button cabin candle canoe carpet castle cellar chalk "
    "cherry circle clock cloud comet copper corner cradle dancer desk diamond drum engine fabric falcon feather fence flute forest "
    "fountain garden glove goblet hammer harbor helmet hill island ivory jacket jewel kettle ladder lantern lemon letter lumber "
    "magnet maple marble meadow mirror monkey needle oven paddle parrot pebble pencil piano pillow planet pocket quilt rabbit ribbon "
    "river saddle sailor scarf shadow shovel signal spoon stable statue table temple ticket tower tunnel valley vessel violin wagon "
    "walnut whistle window"
)

MOST = 1 << 24
"""Tokens of a haystack that are kept; longer lengths repeat them."""


@dataclass(frozen=True)
class Haystack:
    """Tokens that repeat without end, and where a needle may stand among them.

    Attributes
    ----------
    tokens : numpy.ndarray
        (tokens,), the dtype of the tokenizer.
    cuts : numpy.ndarray
        int64, ascending, at least one: the first tokens of sentences (0 where there is none).
    around : tuple of str
        What stands before and behind a needle.
    """

    tokens: np.ndarray
    cuts: np.ndarray
    around: tuple[str, str]

    def read(self, start: int, count: int) -> np.ndarray:
        """``count`` tokens from ``start`` (any number from 0 on): shape (count,)."""
        return self.tokens[np.arange(start, start + count) % len(self.tokens)]

    def start(self, rng: np.random.Generator) -> int:
        """The beginning of a random sentence."""
        return self.cut(int(rng.integers(len(self.tokens))), len(self.tokens) - 1)

    def cut(self, place: int, most: int) -> int:
        """The first beginning of a sentence at ``place`` or behind it, the last one before it when that is behind ``most``."""
        turn, within = divmod(place, len(self.tokens))
        number = int(np.searchsorted(self.cuts, within))
        found = (turn + number // len(self.cuts)) * len(self.tokens) + int(self.cuts[number % len(self.cuts)])
        if found <= most:
            return found
        turn, within = divmod(most, len(self.tokens))
        number = int(np.searchsorted(self.cuts, within, side="right")) - 1
        return (turn + number // len(self.cuts)) * len(self.tokens) + int(self.cuts[number % len(self.cuts)])


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Tokens of a text, without special ones: shape (tokens,)."""
    return tokenizer.encode(np.frombuffer(text.encode(), dtype=np.uint8))


def noise(tokenizer: Tokenizer) -> Haystack:
    """The haystack of pk: one sentence again and again."""
    return Haystack(encode(tokenizer, NOISE + "\n"), np.zeros(1, np.int64), ("", "\n"))


def text_of_store(store: TokenStore, split: str) -> Haystack:
    """The text of a split, one document behind the other.

    Raises
    ------
    ValueError
        The split is empty.
    """
    parts, size = [], 0
    for piece in (piece for run in store.runs(split) for piece in run.pieces(1 << 20)):
        parts.append(piece[store.tokenizer.bases[piece] > 0])
        size += len(parts[-1])
        if size >= MOST:
            break
    if not size:
        raise ValueError(
            f"{store.path}: the {split} split is empty, there is no haystack. Raise data.split.{split}, or give niah.haystack"
        )
    return _sentences(store.tokenizer, np.concatenate(parts)[:MOST])


def text_of_file(path: Path, tokenizer: Tokenizer) -> Haystack:
    """The text of a file, plain or gzip, as one haystack.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or nothing in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (niah.haystack)")
    parts, size = [], 0
    for block, _ in read_blocks(path):
        parts.append(tokenizer.encode(block))
        size += len(parts[-1])
        if size >= MOST:
            break
    if not size:
        raise ValueError(f"{path}: no text in the file (niah.haystack)")
    return _sentences(tokenizer, np.concatenate(parts)[:MOST])


def text_of(path: Path | None, store: TokenStore, split: str) -> Haystack:
    """The text of a file where one is given, else that of a split; see `text_of_file` and `text_of_store`."""
    return text_of_file(path, store.tokenizer) if path else text_of_store(store, split)


def _sentences(tokenizer: Tokenizer, tokens: np.ndarray) -> Haystack:
    last = [tokenizer.decode(np.array([token])).tobytes()[-1:] for token in range(tokenizer.vocab_size)]
    ends = np.array([letter in (b".", b"!", b"?") for letter in last])
    cuts = np.flatnonzero(ends[tokens]) + 1
    cuts = cuts[cuts < len(tokens)]
    return Haystack(tokens, cuts if len(cuts) else np.zeros(1, np.int64), (" ", ""))


@dataclass(frozen=True)
class Prompt:
    """One question with its haystack: ``length`` tokens, of which any stretch can be read.

    Attributes
    ----------
    haystack, start
        Where the haystack begins.
    fixed : tuple of (int, numpy.ndarray)
        What stands within it: first token and tokens, in order, without overlap.
    length : int
        Tokens up to the answer.
    value : str
        What is to be found.
    answer : numpy.ndarray
        Tokens of the value as it follows the prompt, with a space in front.
    counted : numpy.ndarray
        Which of them are more than space, bool.
    """

    haystack: Haystack
    start: int
    fixed: tuple[tuple[int, np.ndarray], ...]
    length: int
    value: str
    answer: np.ndarray
    counted: np.ndarray

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens ``start`` to ``start + count`` of the prompt, int64, shape (count,)."""
        assert start >= 0
        assert start + count <= self.length
        window = np.empty(count, np.int64)
        at, before = 0, 0  # the end of the last fixed part; tokens of fixed parts so far
        for place, tokens in (*self.fixed, (self.length, np.zeros(0, np.int64))):
            first, last = max(at, start), min(place, start + count)
            if first < last:
                window[first - start : last - start] = self.haystack.read(self.start + first - before, last - first)
            first, last = max(place, start), min(place + len(tokens), start + count)
            if first < last:
                window[first - start : last - start] = tokens[first - place : last - place]
            at, before = place + len(tokens), before + len(tokens)
        return window

    @property
    def distance(self) -> int:
        """Tokens from the end of the needle to the answer."""
        place, tokens = self.fixed[1]
        return self.length - place - len(tokens)


def key_and_value(rng: np.random.Generator, kind: Kind) -> tuple[str, str]:
    """A key of two words, and a number of 7 digits or a UUID."""
    key = f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]}-{NOUNS[rng.integers(len(NOUNS))]}"
    if kind == "w":
        return key, str(uuid.UUID(bytes=rng.bytes(16), version=4))
    return key, str(rng.integers(1_000_000, 10_000_000))


def draw(
    rng: np.random.Generator, tokenizer: Tokenizer, haystack: Haystack, kind: Kind, length: int, depth: float
) -> Prompt:
    """A prompt of ``length`` tokens whose needle stands at ``depth``, at the beginning of a sentence where there is one.

    Raises
    ------
    ValueError
        Needle and question are longer than that.
    """
    key, value = key_and_value(rng, kind)
    words = {"type": TYPES[kind], "key": key, "value": value}
    intro, question = (encode(tokenizer, text.format(**words)) for text in (INTRO, QUESTION))
    needle = encode(tokenizer, NEEDLE.format(**words).join(haystack.around))
    room = length - len(intro) - len(needle) - len(question)
    if room < 0:
        raise ValueError(
            f"niah.lengths: {length} tokens have no room for needle and question, {length - room} tokens of this tokenizer; begin with longer ones"
        )
    start = haystack.start(rng)
    place = max(0, haystack.cut(start + round(depth * room), start + room) - start)
    fixed = ((0, intro), (len(intro) + place, needle), (length - len(question), question))
    return Prompt(haystack, start, fixed, length, value, *answer_of(tokenizer, value))


def answer_of(tokenizer: Tokenizer, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a value with a space in front, and which of them are more than space."""
    tokens = encode(tokenizer, f" {value}")
    return tokens, np.array([bool(tokenizer.decode(tokens[i : i + 1]).tobytes().strip()) for i in range(len(tokens))])
