"""How many tokens and words a text has: what perplexities are divided by."""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """Tokens and words of the text that is scored."""

    tokens: int
    words: int

    def perplexities(self, bits: float) -> dict[str, float]:
        """Of a text that takes so many bits altogether."""
        amounts = {"token": self.tokens, "word": self.words}
        # of a very bad model the number of a word is beyond what a float holds
        return {f"perplexity_per_{of}": 2 ** min(bits / max(1, count), 1023) for of, count in amounts.items()}


class Words:
    """Counts the words of text that comes in pieces: what stands between white space, as `str.split` has it."""

    def __init__(self) -> None:
        self.count = 0
        self._within = False  # the last letter was of a word
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, raw: bytes, last: bool = False) -> None:
        """The next bytes of a document (UTF-8); ``last``: no more come that could complete a letter."""
        text = self._decoder.decode(raw, last)
        if text:
            self.count += len(text.split()) - (self._within and not text[0].isspace())
            self._within = not text[-1].isspace()

    def end(self) -> None:
        """A document ends."""
        self.add(b"", last=True)
        self._decoder.reset()
        self._within = False
