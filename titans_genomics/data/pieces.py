"""Pieces of varying length as tokens, learned by byte pair encoding (BPE) or read from somebody's tokenizer.json."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titans_genomics.config import TokenizerConfig
from titans_genomics.data import alphabet
from titans_genomics.data.definitions import (
    BYTE_LETTERS,
    BYTE_TOKENS,
    HIDDEN,
    PIECE,
    SPACE,
    cut_first,
    cutter_of,
    define,
    hiding,
    named_beside,
    roles_of,
    spelled_by,
    without_prefix,
)
from titans_genomics.data.vocabulary import (
    LETTERS,
    MAX_VOCABULARY,
    SPECIAL,
    Tokenizer,
    add_special,
    nucleotides,
    upper_case,
)

if TYPE_CHECKING:
    import tokenizers

_WORD = 512  # bases that the learner sees together
_BLOCK = 1 << 20  # bytes of text decoded together
_GROUP = 256  # pieces handed to the library together

_LETTER_TABLE = LETTERS.encode().ljust(256, b"?")
_SPELLED_OUT = SPACE.encode().decode("ascii", "surrogateescape")
# Bytes that are no UTF-8 (decoded to surrogates) stand alone.
_TEXT_PIECES = re.compile(f"[\ud800-\udfff]|[^\ud800-\udfff]{{1,{PIECE}}}")


class Pieces(Tokenizer):
    """Byte pair encoding of nucleotides or of the bytes of text.

    Two kinds of vocabularies of text can be read: byte-level ones, as those of GPT-2, in which letters stand for bytes; and
    those of SentencePiece with byte fallback, as that of Llama 2, in which "\u2581" stands for a space and <0x00> to <0xFF>
    for single bytes. Of the latter, the space that they put in front of a text is left out, so that all text comes back as it was.

    A learned vocabulary begins with A C G T N (text: the 256 bytes), then come the pieces in the order in which they
    were merged, then PAD BOS EOS. Learned pieces hold no N.

    A stretch is encoded in pieces of 4096 bases (text: characters, counted anew behind every byte that is no
    UTF-8, which is a token of its own), so that its tokens depend on nothing but the stretch. Sequences are taken as
    they are: a normaliser, prefix or suffix tokens, truncation, padding and added tokens in somebody's tokenizer.json are
    left out, here and in what is saved, so that Hugging Face tools make the tokens that a model was trained on. Text that
    spells a special token is text (Hugging Face tools: pad, bos and eos with ``encode_special_tokens`` only).

    The reverse complement is decoded, turned and encoded again, stretch by stretch between special tokens: it has
    another number of tokens, and turning twice gives back the bases but not always the tokens.
    """

    def __init__(self, definition: tokenizers.Tokenizer, names: Mapping[str, str] | None = None) -> None:
        """``names``: which tokens are pad, bos and eos; those not given are guessed, and added when there are none.

        Raises
        ------
        ValueError
            The definition is no BPE of nucleotides or bytes, or does not give back what it is given.
        """
        import tokenizers

        content = json.loads(definition.to_str())
        model = content["model"]
        if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise ValueError(f"a {model['type']} model; needed is BPE without marks at the ends of words")
        if model.get("dropout"):
            raise ValueError("a BPE model with dropout, which gives other tokens every time; set dropout to null")
        added = [token["content"] for token in content["added_tokens"]]
        made = {"".join(pair) for pair in model["merges"]} | {word for word in model["vocab"] if len(word) == 1}
        roles = roles_of(added, names or {})
        there = definition.get_vocab(with_added_tokens=True)
        add_special(definition, list(roles.values()))
        ids = definition.get_vocab(with_added_tokens=True)
        words = sorted(ids, key=ids.__getitem__)
        if len(words) > MAX_VOCABULARY:
            raise ValueError(f"{len(words):,} tokens are too many; at most {MAX_VOCABULARY:,} can be used")
        if [ids[word] for word in words] != list(range(len(words))):
            raise ValueError(f"{len(words):,} tokens have ids up to {max(ids.values()):,}; needed are ids without gaps")
        spaces = bool(model.get("byte_fallback")) and all(token in ids for token in BYTE_TOKENS)
        text = spaces or all(letter in ids for letter in BYTE_LETTERS)
        how = "spaces" if spaces else "bytes" if text else "letters"
        silent = ({*added} - made - BYTE_TOKENS.keys()) | {*roles.values(), model.get("unk_token")}
        spelled = [b"" if word in silent or word[0] == HIDDEN else spelled_by(word, how) for word in words]
        special = (ids[roles["pad"]], ids[roles["bos"]], ids[roles["eos"]])
        shown = [word if word in added else word.removeprefix(HIDDEN) for word in words]
        super().__init__("bpe", shown, spelled, special, text=text, settings={"text": text})
        self.added = tuple(role for role, name in roles.items() if name not in there)
        singles = {codes: token for token, codes in enumerate(spelled) if len(codes) == 1}
        if spaces:
            singles |= {bytes([byte]): ids[token] for token, byte in BYTE_TOKENS.items()}
        lacking = [letter for code, letter in enumerate(LETTERS) if bytes([code]) not in singles]
        if lacking and not text:
            raise ValueError(f"no token for {' '.join(lacking)}; needed are A C G T N")
        self._singles, self._spaces = singles, spaces
        content |= dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"), None)
        if spaces:
            content |= without_prefix(content)
        content["pre_tokenizer"] = cut_first(content["pre_tokenizer"])
        silent.discard(model.get("unk_token"))
        bare = {"added_tokens": [], "model": model | {"vocab": hiding(ids, silent)}}
        self._bare = tokenizers.Tokenizer.from_str(json.dumps(content | bare))
        if not text:
            definition.normalizer = upper_case()
            content["normalizer"] = json.loads(definition.to_str())["normalizer"]
        content["added_tokens"] = [
            {"id": ids[name], "content": name, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for name in sorted(roles.values(), key=ids.__getitem__)
        ]
        content["model"] = model | {"vocab": hiding(ids, silent - {*roles.values()})}
        self._definition = tokenizers.Tokenizer.from_str(json.dumps(content)).to_str()
        self._check()

    def encode(self, codes: np.ndarray) -> np.ndarray:
        made = [np.zeros(0, dtype=self.dtype)]
        pieces = _text_pieces(codes, self._spaces) if self.text else _letter_pieces(nucleotides(codes))
        while group := list(islice(pieces, _GROUP)):
            encodings = iter(self._bare.encode_batch_fast([piece for piece in group if not _is_stray(piece)]))
            for piece in group:
                ids = [self._singles[_stray(piece)]] if _is_stray(piece) else next(encodings).ids
                made.append(np.array(ids, dtype=self.dtype))
        return np.concatenate(made)

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The other strand, encoded anew: shape (tokens,) to (other tokens,). Raises ValueError for text."""
        if self.text:
            raise ValueError("text has no reverse complement")
        tokens = self._checked(tokens)
        special = np.flatnonzero(self.bases[tokens] == 0)
        parts = np.split(tokens, np.union1d(special, special + 1))
        turned = [
            part
            if len(part) and self.bases[part[0]] == 0
            else self.encode(alphabet.reverse_complement(self.decode(part)))
            for part in reversed(parts)
        ]
        return np.concatenate(turned)

    def definition(self) -> tokenizers.Tokenizer:
        import tokenizers

        return tokenizers.Tokenizer.from_str(self._definition)

    def _check(self) -> None:
        """Raise ValueError unless sequences with everything in them come back."""
        if self.text:
            words = "Two  words\u2581\n\t and 10\u00b5g, <pad>caf\u00e9 cafe\u0301 \U0001f9ec\r\n" + "".join(
                self.vocabulary
            )
            probes = [words.encode(), f" {words} ".encode(), bytes(range(256))]
        else:
            runs = np.repeat(np.arange(len(LETTERS)), 100)
            mixed = np.random.default_rng(0).integers(len(LETTERS), size=2 * PIECE)
            probes = [np.concatenate([runs, mixed]).astype(np.uint8).tobytes()]
        for probe in probes:
            if self.decode(self.encode(np.frombuffer(probe, dtype=np.uint8))).tobytes() != probe:
                raise ValueError(
                    "it does not give back what it is given (does it add a space in front, or drop letters?); needed is "
                    + ("a BPE of bytes, byte-level or with byte fallback" if self.text else "a BPE of A C G T N")
                )


def read_pieces(path: Path) -> Pieces:
    """A BPE tokenizer from a tokenizer.json, ours or somebody else's; see `Pieces` for what is taken from it.

    A tokenizer_config.json beside it says which tokens are pad, bos and eos.

    Raises
    ------
    ValueError
        Missing or damaged, or not a BPE of nucleotides or bytes that gives back what it is given.
    """
    import tokenizers

    try:
        definition = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path}: not a tokenizer.json of Hugging Face tokenizers ({error})") from None
    try:
        return Pieces(definition, named_beside(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def learn_bpe(pieces: Iterable[np.ndarray], config: TokenizerConfig, text: bool) -> Pieces:
    """Learn a vocabulary: the most frequent pair of neighbours becomes a token, again and again.

    Parameters
    ----------
    pieces
        Codes (uint8; text: bytes) of the training split, in the order in which they are to be used; what comes after
        the first ``config.sample`` is not looked at.
    config
        ``vocab_size`` is reached unless no pair occurs twice any more.
    text
        Learn on bytes of text instead of nucleotides.

    Raises
    ------
    ValueError
        Nothing to learn from, or a vocabulary smaller than what it must hold.
    """
    import tokenizers
    from tokenizers import models, trainers

    letters = BYTE_LETTERS if text else list(LETTERS)
    least = len(letters) + len(SPECIAL)
    if config.vocab_size <= least:
        raise ValueError(f"data.tokenizer.vocab_size is {config.vocab_size}: text needs more than {least}")
    learner = tokenizers.Tokenizer(models.BPE())
    if text:
        learner.pre_tokenizer = cutter_of(text)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(SPECIAL), min_frequency=2, show_progress=False, initial_alphabet=letters
    )
    learner.train_from_iterator(_words(pieces, config.sample, text), trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    if not merges:
        raise ValueError(f"too {'little text' if text else 'few bases'} in the training split to learn pieces from")
    words = dict.fromkeys([*letters, *("".join(pair) for pair in merges), *SPECIAL])
    return Pieces(define({word: i for i, word in enumerate(words)}, merges, text))


def _words(pieces: Iterable[np.ndarray], sample: int, text: bool) -> Iterator[str]:
    """What pieces are learned from, at most ``sample`` bases or bytes: text, or short stretches free of N."""
    for piece in pieces:
        codes = piece[:sample]
        if text:
            yield from (part for part in _text_pieces(codes) if not _is_stray(part))
        else:
            for letters in _letter_pieces(codes, _WORD):
                yield from filter(None, letters.split("N"))
        sample -= len(codes)
        if sample <= 0:
            return


def _letter_pieces(codes: np.ndarray, size: int = PIECE) -> Iterator[str]:
    """Stretches of nucleotides as letters."""
    for at in range(0, len(codes), size):
        yield codes[at : at + size].tobytes().translate(_LETTER_TABLE).decode("ascii")


def _text_pieces(raw: np.ndarray, spaces: bool = False) -> Iterator[str]:
    """Stretches of text; bytes that are no UTF-8 come one by one as surrogates.

    ``spaces``: so do the bytes of the letter that stands for a space, which is no space where it is in the text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    rest = ""  # a piece that may go on in the next block
    for at in range(0, len(raw), _BLOCK):
        last = at + _BLOCK >= len(raw)
        text = decoder.decode(raw[at : at + _BLOCK].tobytes(), last)
        found = _TEXT_PIECES.findall(rest + (text.replace(SPACE, _SPELLED_OUT) if spaces else text))
        rest = found.pop() if found and not last else ""
        yield from found


def _is_stray(piece: str) -> bool:
    return "\ud800" <= piece[0] <= "\udfff"


def _stray(piece: str) -> bytes:
    """The byte that `_text_pieces` gave as a surrogate."""
    return piece.encode("utf-8", "surrogateescape")
