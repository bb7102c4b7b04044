"""What all tokenizers have in common: a vocabulary, the map between tokens and bases, and the files they are kept in."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from titans_genomics.compiling import kernel
from titans_genomics.data import alphabet

if TYPE_CHECKING:
    import tokenizers

Kind = Literal["nucleotide", "kmer", "bpe", "byte"]

LETTERS = "ACGTN"
SPECIAL = ("<pad>", "<bos>", "<eos>")
MAX_VOCABULARY = 1 << 16
OWN_KEY = "titans_genomics"  # our entry in tokenizer_config.json
UNKNOWN = "<unk>"  # in no vocabulary, so that the Hugging Face models raise an error for a letter that they lack


class Tokenizer(ABC):
    """Bases (or bytes of text) to tokens and back.

    Attributes
    ----------
    kind
        ``data.tokenizer.kind``.
    text
        The codes are bytes of text, not nucleotides.
    vocabulary
        Every token as people and Hugging Face tools see it.
    vocab_size
        Tokens in the vocabulary, special ones included.
    dtype
        uint8 for up to 256 tokens, else uint16.
    pad, bos, eos
        Ids of the special tokens.
    bases
        int64, shape (vocab_size,): how many bases (bytes) each token newly stands for; 0 for special tokens.
    scored
        bool, shape (vocab_size,): the tokens that a loss is taken of. Those of A, C, G and T only; of text all but the
        special ones.
    context
        Tokens before a window that `turned` needs, so that the other strand of the window is exact.
    added
        Which of "pad", "bos" and "eos" somebody's tokenizer lacked, so that we put them behind its vocabulary.
    settings
        What tokenizer_config.json holds, so that `tokenizers.load_tokenizer` makes the same tokenizer again.
    """

    context: int = 0
    added: tuple[str, ...] = ()

    def __init__(
        self,
        kind: Kind,
        vocabulary: Sequence[str],
        spelled: Sequence[bytes],
        special: tuple[int, int, int],
        text: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """``spelled``: the codes that each token newly stands for, none for special tokens; ``special``: pad, bos, eos."""
        assert len(vocabulary) == len(spelled) <= MAX_VOCABULARY
        assert not any(spelled[token] for token in special)
        self.kind = kind
        self.text = text
        self.vocabulary = tuple(vocabulary)
        self.vocab_size = len(self.vocabulary)
        self.dtype = np.dtype(np.uint8 if self.vocab_size <= 256 else np.uint16)
        self.pad, self.bos, self.eos = special
        self.bases = np.array([len(codes) for codes in spelled], dtype=np.int64)
        self.settings = {"kind": kind} | (settings or {})
        self._spans = self.bases
        self._codes = np.frombuffer(b"".join(spelled), dtype=np.uint8)
        self._offsets = np.concatenate([[0], np.cumsum(self.bases)])
        clean = [text or max(codes, default=alphabet.N) < alphabet.N for codes in spelled]
        self.scored = np.array(clean, dtype=bool) & (self.bases > 0)

    @property
    def plain(self) -> bool:
        """Whether tokens are the codes themselves, so that a store needs none beside its bases."""
        return self.kind in ("nucleotide", "byte")

    @property
    def one_base(self) -> bool:
        """Whether every token but the special ones newly stands for exactly one base."""
        return bool((self.bases <= 1).all())

    @abstractmethod
    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Tokens of one stretch, without special ones: ``dtype``, shape (tokens,).

        ``codes`` is uint8, shape (bases,): A=0 C=1 G=2 T=3 N=4, or bytes of text.
        """

    @abstractmethod
    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The tokens of the other strand, read in its own direction; special tokens stay what they are.

        Raises
        ------
        ValueError
            Tokens of text.
        """

    @abstractmethod
    def definition(self) -> tokenizers.Tokenizer:
        """The same tokenizer for Hugging Face tools."""

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """The codes that tokens stand for: uint8, shape (bases,). Special tokens stand for none.

        ``tokens`` are of any integer dtype, shape (tokens,). The inverse of `encode`, N included.

        Raises
        ------
        ValueError
            A token is not in the vocabulary.
        """
        tokens = self._checked(tokens)
        codes = np.empty(_count(tokens, self._offsets), dtype=np.uint8)
        _spell(tokens, self._codes, self._offsets, codes)
        return codes

    def starts(self, tokens: np.ndarray) -> np.ndarray:
        """Where each token begins: int64, shape (tokens,), 0-based bases from the beginning of the encoded stretch."""
        new = self.bases[tokens]
        starts = np.cumsum(new)
        starts -= new
        return starts

    def ends(self, tokens: np.ndarray) -> np.ndarray:
        """Where each token ends: int64, shape (tokens,), exclusive; token i spells ``codes[starts[i]:ends[i]]``."""
        ends = self.starts(tokens)
        ends += self._spans[tokens]
        return ends

    def turned(self, tokens: np.ndarray) -> np.ndarray:
        """The reverse complement of a window that was cut out of a longer row of tokens.

        Parameters
        ----------
        tokens
            The window behind the ``context`` tokens before it (PAD where there are none), shape (..., context + tokens).

        Returns
        -------
        numpy.ndarray
            What stands in the window's place when the whole row is turned; ``dtype``, shape (..., tokens). BPE: another
            number of tokens.
        """
        return self.reverse_complement(tokens)

    def save(self, path: Path) -> None:
        """Write ``path`` (a tokenizer.json that Hugging Face tools load) and tokenizer_config.json beside it."""
        content = self.definition().to_str(pretty=True).encode()
        names = (self.vocabulary[token] for token in (self.pad, self.bos, self.eos))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **dict(zip(("pad_token", "bos_token", "eos_token"), names, strict=True)),
            "clean_up_tokenization_spaces": False,
            OWN_KEY: self.settings | {"sha256": digest(content, self.settings)},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        config_path(path).write_text(json.dumps(config, indent=2) + "\n")

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        tokens = np.asarray(tokens)
        for token in (tokens.min(), tokens.max()) if tokens.size else ():
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token {token} is not in a vocabulary of {self.vocab_size:,}")
        return frozen(tokens.astype(self.dtype, copy=False))


def config_path(path: Path) -> Path:
    """The tokenizer_config.json that belongs to a tokenizer.json."""
    return path.with_name("tokenizer_config.json")


def digest(content: bytes, settings: dict[str, Any]) -> str:
    """SHA-256 of a tokenizer.json and our settings beside it."""
    return hashlib.sha256(content + json.dumps(settings, sort_keys=True).encode()).hexdigest()


def frozen(array: np.ndarray) -> np.ndarray:
    """A contiguous read-only view (or copy), so that kernels are compiled for one kind of array only."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def nucleotides(codes: np.ndarray) -> np.ndarray:
    """The codes as kernels want them; they must be nucleotides."""
    codes = np.asarray(codes)
    assert codes.dtype == np.uint8
    assert codes.ndim == 1
    assert not codes.size or codes.max() <= alphabet.N
    return frozen(codes)


def spell_letters(word: str) -> bytes:
    """Codes of a word of A C G T N. Raises ValueError for another letter."""
    return bytes(LETTERS.index(letter) for letter in word)


def upper_case(*after: Any) -> Any:
    """The normaliser that reads letters as `alphabet.encode` does: either case, U is T, IUPAC codes are N."""
    from tokenizers import Regex, normalizers

    ambiguous = "".join(alphabet.IUPAC)
    rules = {"A": "a", "C": "c", "G": "g", "T": "tuU", "N": "n" + ambiguous + ambiguous.lower()}
    replaced = [normalizers.Replace(Regex(f"[{letters}]"), letter) for letter, letters in rules.items()]
    return normalizers.Sequence([*replaced, *after])


def add_special(definition: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    """Register special tokens; what is not in the vocabulary yet is put at its end."""
    from tokenizers import AddedToken

    definition.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


@kernel
def _count(tokens, offsets):
    """Codes that the tokens stand for."""
    total = 0
    for token in tokens:
        total += offsets[token + 1] - offsets[token]
    return total


@kernel
def _spell(tokens, letters, offsets, codes):
    """Write the codes of each token, ``letters[offsets[token]:offsets[token + 1]]``, one after the other."""
    at = 0
    for token in tokens:
        for i in range(offsets[token], offsets[token + 1]):
            codes[at] = letters[i]
            at += 1
