"""Definitions of BPE tokenizers as a tokenizer.json has them: how tokens are spelled, and what makes Hugging Face tools cut as we do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titans_genomics.data.vocabulary import SPECIAL, UNKNOWN, add_special, config_path, spell_letters, upper_case

if TYPE_CHECKING:
    import tokenizers

PIECE = 4096
"""Letters that are made into tokens together; no token reaches over such a border, counted from the stretch's start."""

SPACE = "\u2581"
"""Stands for a space in vocabularies of SentencePiece."""

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
BYTE_TOKENS = {f"<0x{byte:02X}>": byte for byte in range(256)}
"""The tokens of single bytes, and these bytes, in vocabularies of SentencePiece with byte fallback, such as that of Llama 2."""

_BYTES = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}
# As tokenizer.json has them.
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_CUT: dict[str, Any] = {
    "type": "Split",
    "pattern": {"Regex": rf"[\s\S]{{1,{PIECE}}}"},
    "behavior": "Isolated",
    "invert": False,
}

HIDDEN = " "
"""In front of a token that no text may become; words hold no space when the model gets them."""


def spelled_by(word: str, how: str) -> bytes:
    """Codes of a token."""
    if how == "spaces":
        return bytes([BYTE_TOKENS[word]]) if word in BYTE_TOKENS else word.replace(SPACE, " ").encode()
    try:
        return bytes(_BYTES[letter] for letter in word) if how == "bytes" else spell_letters(word)
    except (KeyError, ValueError):
        alphabet_name = "byte-level letters" if how == "bytes" else "A C G T N"
        raise ValueError(f"token {word!r} is not spelled in {alphabet_name}") from None


def without_prefix(content: dict[str, Any]) -> dict[str, Any]:
    """Parts of a tokenizer.json of SentencePiece that put no space in front of a text, and take none away."""
    cutter = content["pre_tokenizer"]
    if cutter is not None and cutter["type"] == "Metaspace":
        cutter = cutter | {"prepend_scheme": "never", "split": True} if cutter.get("split", True) else None
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "normalizer": _SPACES,
        "pre_tokenizer": cutter,
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    }


def cut_first(cutter: dict[str, Any] | None) -> dict[str, Any]:
    """A pre-tokenizer of a tokenizer.json that cuts as `Pieces.encode` does before all else."""
    steps = [] if cutter is None else cutter["pretokenizers"] if cutter["type"] == "Sequence" else [cutter]
    steps = steps if _CUT in steps[:1] else [_CUT, *steps]
    return {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]


def hiding(ids: Mapping[str, int], words: set[str | None]) -> dict[str, int]:
    """A vocabulary in which no text becomes one of ``words``."""
    return {HIDDEN + word if word in words else word: token for word, token in ids.items()}


def roles_of(added: list[str], names: Mapping[str, str]) -> dict[str, str]:
    """The tokens that are pad, bos and eos, each another one: as named, else one of the usual, else ours."""
    roles: dict[str, str] = {}
    for role, usual in _USUAL.items():
        known = [names[role]] if role in names else []
        known += [name for name in usual if name in added]
        roles[role] = next((name for name in known if name not in roles.values()), usual[0])
    return roles


def named_beside(path: Path) -> dict[str, str]:
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


def define(ids: dict[str, int], merges: list[tuple[str, str]], text: bool) -> tokenizers.Tokenizer:
    """A learned vocabulary for Hugging Face tools."""
    import tokenizers
    from tokenizers import decoders, models

    definition = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=None if text else UNKNOWN))
    if not text:
        definition.normalizer = upper_case()
    definition.pre_tokenizer = cutter_of(text)
    definition.decoder = decoders.ByteLevel() if text else decoders.Fuse()
    add_special(definition, SPECIAL)
    return definition


def cutter_of(text: bool) -> tokenizers.pre_tokenizers.PreTokenizer:
    """Cuts what Hugging Face tools are given as `Pieces.encode` does, and text into words (the rule of GPT-2)."""
    from tokenizers import Regex, pre_tokenizers

    pieces = pre_tokenizers.Split(Regex(_CUT["pattern"]["Regex"]), "isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pieces, words]) if text else pieces
