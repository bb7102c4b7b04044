"""Pieces of varying length as tokens, learned by byte pair encoding (BPE) or read from somebody's tokenizer.json."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from titans_genomics.config import TokenizerConfig
from titans_genomics.data import alphabet
from titans_genomics.data.vocabulary import (
    LETTERS,
    MAX_VOCABULARY,
    SPECIAL,
    UNKNOWN,
    Tokenizer,
    add_special,
    config_path,
    nucleotides,
    spell_letters,
    upper_case,
)

if TYPE_CHECKING:
    import tokenizers

PIECE = 4096
"""Letters that are made into tokens together; no token reaches over such a border, counted from the stretch's start."""

_WORD = 512  # bases that the learner sees together
_BLOCK = 1 << 20  # bytes of text decoded together
_GROUP = 256  # pieces handed to the library together

_LETTER_TABLE = LETTERS.encode().ljust(256, b"?")
_SPACE = "\u2581"  # stands for a space in vocabularies of SentencePiece
_SPELLED_OUT = _SPACE.encode().decode("ascii", "surrogateescape")
# Bytes that are no UTF-8 (decoded to surrogates) stand alone.
_TEXT_PIECES = re.compile(f"[\ud800-\udfff]|[^\ud800-\udfff]{{1,{PIECE}}}")

# The names that tokenizers in use give their special tokens, in the order of preference.
_USUAL = {
    "pad": (SPECIAL[0], "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": (SPECIAL[1], "<s>", "[BOS]", "[CLS]", "<|begin_of_text|>"),
    "eos": (SPECIAL[2], "</s>", "[EOS]", "[SEP]", "<|endoftext|>", "<|end_of_text|>"),
}


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself, or for unprintable ones one from U+0100 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


BYTE_LETTERS = _byte_letters()
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
"""Tokens of single bytes in vocabularies of SentencePiece with byte fallback, such as that of Llama 2."""
_BYTE_TOKENS = frozenset(BYTE_TOKENS)
# As tokenizer.json has them.
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_CUT: dict[str, Any] = {
    "type": "Split",
    "pattern": {"Regex": rf"[\s\S]{{1,{PIECE}}}"},
    "behavior": "Isolated",
    "invert": False,
}
_BYTES = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}
_HIDDEN = " "  # in front of a token that no text may become; words hold no space when the model gets them


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
        roles = _roles(added, names or {})
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
        silent = ({*added} - made - _BYTE_TOKENS) | {*roles.values(), model.get("unk_token")}
        spelled = [b"" if word in silent or word[0] == _HIDDEN else _spelled(word, how) for word in words]
        special = (ids[roles["pad"]], ids[roles["bos"]], ids[roles["eos"]])
        shown = [word if word in added else word.removeprefix(_HIDDEN) for word in words]
        super().__init__("bpe", shown, spelled, special, text=text, settings={"text": text})
        self.added = tuple(role for role, name in roles.items() if name not in there)
        singles = {codes: token for token, codes in enumerate(spelled) if len(codes) == 1}
        if spaces:
            singles |= {bytes([byte]): ids[token] for byte, token in enumerate(BYTE_TOKENS)}
        lacking = [letter for code, letter in enumerate(LETTERS) if bytes([code]) not in singles]
        if lacking and not text:
            raise ValueError(f"no token for {' '.join(lacking)}; needed are A C G T N")
        self._singles, self._spaces = singles, spaces
        content |= dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"), None)
        if spaces:
            content |= _without_prefix(content)
        content["pre_tokenizer"] = _in_pieces(content["pre_tokenizer"])
        silent.discard(model.get("unk_token"))
        bare = {"added_tokens": [], "model": model | {"vocab": _hiding(ids, silent)}}
        self._bare = tokenizers.Tokenizer.from_str(json.dumps(content | bare))
        if not text:
            definition.normalizer = upper_case()
            content["normalizer"] = json.loads(definition.to_str())["normalizer"]
        content["added_tokens"] = [
            {"id": ids[name], "content": name, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for name in sorted(roles.values(), key=ids.__getitem__)
        ]
        content["model"] = model | {"vocab": _hiding(ids, silent - {*roles.values()})}
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
        return Pieces(definition, _named_beside(path))
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
        learner.pre_tokenizer = _cutter(text)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(SPECIAL), min_frequency=2, show_progress=False, initial_alphabet=letters
    )
    learner.train_from_iterator(_words(pieces, config.sample, text), trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    if not merges:
        raise ValueError(f"too {'little text' if text else 'few bases'} in the training split to learn pieces from")
    words = dict.fromkeys([*letters, *("".join(pair) for pair in merges), *SPECIAL])
    return Pieces(_define({word: i for i, word in enumerate(words)}, merges, text))


def _define(ids: dict[str, int], merges: list[tuple[str, str]], text: bool) -> tokenizers.Tokenizer:
    """A learned vocabulary for Hugging Face tools."""
    import tokenizers
    from tokenizers import decoders, models

    definition = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=None if text else UNKNOWN))
    if not text:
        definition.normalizer = upper_case()
    definition.pre_tokenizer = _cutter(text)
    definition.decoder = decoders.ByteLevel() if text else decoders.Fuse()
    add_special(definition, SPECIAL)
    return definition


def _cutter(text: bool) -> tokenizers.pre_tokenizers.PreTokenizer:
    """Cuts what Hugging Face tools are given as `Pieces.encode` does, and text into words (the rule of GPT-2)."""
    from tokenizers import Regex, pre_tokenizers

    pieces = pre_tokenizers.Split(Regex(_CUT["pattern"]["Regex"]), "isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pieces, words]) if text else pieces


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
        found = _TEXT_PIECES.findall(rest + (text.replace(_SPACE, _SPELLED_OUT) if spaces else text))
        rest = found.pop() if found and not last else ""
        yield from found


def _is_stray(piece: str) -> bool:
    return "\ud800" <= piece[0] <= "\udfff"


def _stray(piece: str) -> bytes:
    """The byte that `_text_pieces` gave as a surrogate."""
    return piece.encode("utf-8", "surrogateescape")


def _spelled(word: str, how: str) -> bytes:
    """Codes of a token."""
    if how == "spaces":
        return bytes([BYTE_TOKENS.index(word)]) if word in _BYTE_TOKENS else word.replace(_SPACE, " ").encode()
    try:
        return bytes(_BYTES[letter] for letter in word) if how == "bytes" else spell_letters(word)
    except (KeyError, ValueError):
        alphabet_name = "byte-level letters" if how == "bytes" else "A C G T N"
        raise ValueError(f"token {word!r} is not spelled in {alphabet_name}") from None


def _without_prefix(content: dict[str, Any]) -> dict[str, Any]:
    """Parts of a tokenizer.json of SentencePiece that put no space in front of a text, and take none away."""
    cutter = content["pre_tokenizer"]
    if cutter is not None and cutter["type"] == "Metaspace":
        cutter = cutter | {"prepend_scheme": "never", "split": True} if cutter.get("split", True) else None
    spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return {
        "normalizer": _SPACES,
        "pre_tokenizer": cutter,
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    }


def _in_pieces(cutter: dict[str, Any] | None) -> dict[str, Any]:
    """A pre-tokenizer of a tokenizer.json that cuts as `Pieces.encode` does before all else."""
    steps = [] if cutter is None else cutter["pretokenizers"] if cutter["type"] == "Sequence" else [cutter]
    steps = steps if _CUT in steps[:1] else [_CUT, *steps]
    return {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]


def _hiding(ids: Mapping[str, int], words: set[str | None]) -> dict[str, int]:
    """A vocabulary in which no text becomes one of ``words``."""
    return {_HIDDEN + word if word in words else word: token for word, token in ids.items()}


def _roles(added: list[str], names: Mapping[str, str]) -> dict[str, str]:
    """The tokens that are pad, bos and eos, each another one: as named, else one of the usual, else ours."""
    roles: dict[str, str] = {}
    for role, usual in _USUAL.items():
        known = [names[role]] if role in names else []
        known += [name for name in usual if name in added]
        roles[role] = next((name for name in known if name not in roles.values()), usual[0])
    return roles


def _named_beside(path: Path) -> dict[str, str]:
    """Special tokens that tokenizer_config.json names, by role."""
    beside = config_path(path)
    if not beside.exists():
        return {}
    try:
        config = json.loads(beside.read_text())
        named = {role: config.get(f"{role}_token") for role in _USUAL}
        # Older files hold a mapping with the token as its content.
        return {role: name["content"] if isinstance(name, dict) else name for role, name in named.items() if name}
    except (ValueError, AttributeError, KeyError):
        raise ValueError(f"{beside.name} beside it is damaged; repair or remove it") from None
