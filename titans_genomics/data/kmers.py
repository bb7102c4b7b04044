"""k-mers as tokens, one after the other or one from every base on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from titans_genomics.compiling import kernel
from titans_genomics.data.vocabulary import (
    LETTERS,
    SPECIAL,
    UNKNOWN,
    Tokenizer,
    add_special,
    nucleotides,
    spell_letters,
    upper_case,
)

if TYPE_CHECKING:
    import tokenizers

_SEPARATOR = "|"


class Kmers(Tokenizer):
    """4^k k-mers in base-4 order (A=0 C=1 G=2 T=3, first base first), then A C G T N, then PAD BOS EOS.

    Not overlapping: every maximal stretch free of N is cut into k-mers from its left; the rest, shorter than k, and
    every N are tokens of one base. Overlapping: one token per base, the k-mer that begins there when it is complete and
    free of N, else the base alone; each token newly stands for its first base.

    The reverse complement of non-overlapping tokens is each of them complemented, in reverse order: the same k-mers,
    cut from the right instead of from the left, so not what `encode` makes of the other strand unless the
    N-free stretches are multiples of k. That of overlapping tokens is what `encode` makes of the other strand:
    exact for whole stretches, and for windows through `turned`, given the ``context`` of k - 1 tokens before them.

    Hugging Face tools read the same tokens from tokenizer.json, of overlapping k-mers too: there the normaliser writes
    out the k-mer of every base.
    """

    def __init__(self, k: int, overlap: bool) -> None:
        self.k = k
        self.overlap = overlap
        self.context = k - 1 if overlap else 0
        self._single = 4**k  # the token A
        words = ["".join(letters) for letters in itertools.product("ACGT", repeat=k)]
        spelled = [spell_letters(word) for word in [*words, *LETTERS]] + [b""] * len(SPECIAL)
        eos = len(spelled) - 1
        super().__init__(
            "kmer",
            [*words, *LETTERS, *SPECIAL],
            [codes[:1] for codes in spelled] if overlap else spelled,
            (eos - 2, eos - 1, eos),
            settings={"k": k, "overlap": overlap},
        )
        self._spans = np.array([len(codes) for codes in spelled], dtype=np.int64)
        self._turn = self._complements()
        # The base that a token begins with, on the other strand; special tokens stay.
        first = [self._single + (codes[0] if codes[0] > 3 else 3 - codes[0]) for codes in spelled if codes]
        self._turn_first = np.array([*first, *range(len(first), self.vocab_size)], dtype=self.dtype)

    def _complements(self) -> np.ndarray:
        """The reverse complement of every token: ``dtype``, shape (vocab_size,)."""
        turned = np.arange(self.vocab_size)
        turned[self._single : self._single + 4] = turned[self._single : self._single + 4][::-1]
        left = np.arange(self._single)
        words = np.zeros(self._single, dtype=np.int64)
        for _ in range(self.k):
            words = 4 * words + 3 - left % 4
            left //= 4
        turned[: self._single] = words
        return turned.astype(self.dtype)

    def encode(self, codes: np.ndarray) -> np.ndarray:
        codes = nucleotides(codes)
        tokens = np.empty(len(codes) if self.overlap else _count_cut(codes, self.k), dtype=self.dtype)
        (_slide if self.overlap else _cut)(codes, self.k, tokens)
        return tokens

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The other strand of whole stretches, any shape (..., tokens); ``dtype`` and shape stay."""
        tokens = np.asarray(tokens)
        if not self.overlap:
            return self._turn[tokens[..., ::-1]]
        before = np.full((*tokens.shape[:-1], self.context), self.pad, dtype=self.dtype)
        return self.turned(np.concatenate([before, tokens.astype(self.dtype, copy=False)], axis=-1))

    def turned(self, tokens: np.ndarray) -> np.ndarray:
        tokens = np.asarray(tokens)
        if not self.overlap:
            return self.reverse_complement(tokens)
        # The k-mer that ends with a base on this strand begins with it on the other.
        ending = tokens[..., : max(tokens.shape[-1] - self.context, 0)][..., ::-1]
        beginning = tokens[..., self.context :][..., ::-1]
        whole = (ending < self._single) & (beginning < self._single + len(LETTERS))
        return np.where(whole, self._turn[ending], self._turn_first[beginning])

    def definition(self) -> tokenizers.Tokenizer:
        import tokenizers
        from tokenizers import Regex, decoders, models, pre_tokenizers

        numbered = {word: i for i, word in enumerate(self.vocabulary)}
        definition = tokenizers.Tokenizer(models.WordLevel(vocab=numbered, unk_token=UNKNOWN))
        if self.overlap:
            definition.normalizer = self._written_out()
            definition.pre_tokenizer = pre_tokenizers.Split(_SEPARATOR, "removed")
            behind_first = decoders.Replace(Regex("(?<=[ACGT])[ACGT]+"), "")
            definition.decoder = decoders.Sequence([behind_first, decoders.Fuse()])
        else:
            definition.normalizer = upper_case()
            definition.pre_tokenizer = pre_tokenizers.Split(Regex(f"[ACGT]{{{self.k}}}|[ACGTN]"), "isolated")
            definition.decoder = decoders.Fuse()
        add_special(definition, SPECIAL)
        return definition

    def _written_out(self) -> tokenizers.normalizers.Normalizer:
        """A normaliser that writes the token of every base, with separators: ACGNA, k = 2, becomes AC|CG|G|N|A.

        Bases are upper case; those that follow one in its k-mer are put behind it in lower case, round by round: in
        round d the base d further on, which the base next to it got in the round before.
        """
        from tokenizers import Regex
        from tokenizers.normalizers import Replace

        steps = [Replace(_SEPARATOR, "?")]  # a separator in the input is no base, and must not pass for one of ours
        for d in range(1, self.k):
            behind = "[ACGT]" + "[acgt]" * (d - 1)
            for base in "ACGT":
                ahead = base if d == 1 else "[ACGT]" + "[acgt]" * (d - 2) + base.lower()
                steps.append(Replace(Regex(f"(?<={behind})(?={ahead})"), base.lower()))
        if self.k > 2:
            steps.append(Replace(Regex(f"(?<=[ACGT])[acgt]{{1,{self.k - 2}}}(?![acgt])"), ""))
        steps.append(Replace(Regex("(?<=[ACGTNacgt])(?=[ACGTN])"), _SEPARATOR))
        steps += [Replace(base.lower(), base) for base in "ACGT"]
        return upper_case(*steps)


@kernel
def _count_cut(codes, k):
    """Tokens that `_cut` makes."""
    total = 0
    length = 0  # of the stretch free of N
    for code in codes:
        if code > 3:
            total += length // k + length % k + 1
            length = 0
        else:
            length += 1
    return total + length // k + length % k


@kernel
def _cut(codes, k, tokens):
    """Tokens that do not overlap."""
    single = 1 << (2 * k)
    at = 0
    begin = 0  # first base that is in no token yet
    word = 0
    for i in range(len(codes)):
        code = codes[i]
        if code > 3:
            for j in range(begin, i + 1):
                tokens[at] = single + codes[j]
                at += 1
            begin = i + 1
            word = 0
        else:
            word = 4 * word + code
            if i + 1 - begin == k:
                tokens[at] = word
                at += 1
                begin = i + 1
                word = 0
    for j in range(begin, len(codes)):
        tokens[at] = single + codes[j]
        at += 1


@kernel
def _slide(codes, k, tokens):
    """One token per base."""
    single = 1 << (2 * k)
    length = 0  # of the stretch free of N, so far
    word = 0
    for i in range(len(codes)):
        code = codes[i]
        tokens[i] = single + code
        length = 0 if code > 3 else length + 1
        word = (4 * word + code) & (single - 1)
        if length >= k:
            tokens[i - k + 1] = word
