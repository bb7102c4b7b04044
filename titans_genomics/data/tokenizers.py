"""Codes to tokens: which tokenizer a config asks for, and which one a file holds.

Every tokenizer is kept as a tokenizer.json that Hugging Face tools read, with a tokenizer_config.json beside it; see
`vocabulary.Tokenizer` for what they have in common.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titans_genomics.config import TokenizerConfig
from titans_genomics.data import alphabet
from titans_genomics.data.kmers import Kmers
from titans_genomics.data.pieces import BYTE_LETTERS, Pieces, learn_bpe, read_pieces
from titans_genomics.data.vocabulary import (
    LETTERS,
    OWN_KEY,
    SPECIAL,
    UNKNOWN,
    Tokenizer,
    add_special,
    config_path,
    digest,
    nucleotides,
    spell_letters,
    upper_case,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Bytes", "Kmers", "Nucleotides", "Pieces", "Tokenizer", "learn_bpe", "load_tokenizer", "make_tokenizer"]


class Nucleotides(Tokenizer):
    """One token per base, numbered as in `alphabet`."""

    def __init__(self) -> None:
        spelled = [spell_letters(letter) for letter in LETTERS] + [b""] * len(SPECIAL)
        super().__init__("nucleotide", alphabet.VOCABULARY, spelled, (alphabet.PAD, alphabet.BOS, alphabet.EOS))

    def encode(self, codes: np.ndarray) -> np.ndarray:
        return nucleotides(codes).copy()

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The other strand, any shape (..., tokens); the shape stays."""
        return alphabet.reverse_complement(np.asarray(tokens).astype(self.dtype, copy=False))

    def definition(self) -> tokenizers.Tokenizer:
        import tokenizers
        from tokenizers import Regex, decoders, models, pre_tokenizers

        numbered = {word: i for i, word in enumerate(self.vocabulary)}
        definition = tokenizers.Tokenizer(models.WordLevel(vocab=numbered, unk_token=UNKNOWN))
        definition.normalizer = upper_case()
        definition.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{LETTERS}]"), "isolated")
        definition.decoder = decoders.Fuse()
        add_special(definition, SPECIAL)
        return definition


class Bytes(Tokenizer):
    """One token per byte of text, numbered as the byte, then PAD BOS EOS. No normaliser: any bytes come back.

    Text that spells a special token is text here; Hugging Face tools read it as the special token unless told otherwise
    (``encode_special_tokens``).
    """

    def __init__(self) -> None:
        spelled = [bytes([byte]) for byte in range(256)] + [b""] * len(SPECIAL)
        super().__init__("byte", [*BYTE_LETTERS, *SPECIAL], spelled, (256, 257, 258), text=True)

    def encode(self, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        assert codes.dtype == np.uint8
        return codes.astype(self.dtype)

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        raise ValueError("text has no reverse complement")

    def definition(self) -> tokenizers.Tokenizer:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        numbered = {word: i for i, word in enumerate(self.vocabulary)}
        definition = tokenizers.Tokenizer(models.BPE(vocab=numbered, merges=[]))
        definition.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        definition.decoder = decoders.ByteLevel()
        add_special(definition, SPECIAL)
        return definition


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the config asks for.

    Raises
    ------
    ValueError
        ``bpe`` without a path: its pieces are yet to be learned (`learn_bpe`); or the file of the path is no
        tokenizer for nucleotides or bytes.
    """
    if config.kind == "nucleotide":
        return Nucleotides()
    if config.kind == "kmer":
        return Kmers(config.k, config.overlap)
    if config.kind == "byte":
        return Bytes()
    if config.path is None:
        raise ValueError("data.tokenizer.kind is bpe and data.tokenizer.path is not given: the pieces must be learned")
    return read_pieces(config.path)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote to ``path`` (a tokenizer.json).

    Raises
    ------
    ValueError
        The file is missing, was changed since, or is not one that we wrote.
    """
    beside = config_path(path)
    remedy = "Write it again (remove the folder and repeat the step that made it)"
    try:
        content = path.read_bytes()
        settings = dict(json.loads(beside.read_text())[OWN_KEY])
        if settings.pop("sha256") != digest(content, settings):
            raise ValueError(f"{path}: it and {beside.name} beside it are not as they were written. {remedy}")
        kind = settings["kind"]
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: no such file. {remedy}") from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(
            f"{beside}: not written by this program, or damaged. {remedy}; "
            "a tokenizer of others can be given as data.tokenizer.path"
        ) from None
    if kind == "bpe":
        return read_pieces(path)
    return make_tokenizer(TokenizerConfig(**settings))
