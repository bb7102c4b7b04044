"""Nucleotides as tokens: A=0 C=1 G=2 T=3 N=4, then the special tokens PAD, BOS and EOS.

U reads as T and lower case as upper case.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np

A, C, G, T, N, PAD, BOS, EOS = range(8)
VOCAB_SIZE = 8
VOCABULARY = ("A", "C", "G", "T", "N", "<pad>", "<bos>", "<eos>")

# The bases that each IUPAC code allows (NC-IUB 1984).
IUPAC = {
    "R": "AG",
    "Y": "CT",
    "S": "CG",
    "W": "AT",
    "K": "GT",
    "M": "AC",
    "B": "CGT",
    "D": "AGT",
    "H": "ACT",
    "V": "ACG",
}

_INVALID = 255
_CODES = {code: 16 + i for i, code in enumerate(IUPAC)}  # what the tables below give for the codes unless they become N


def _table(lower_case: int | None, codes_to_n: bool) -> bytes:
    """256 bytes: ASCII letter to token; ``lower_case`` replaces all lower-case nucleotides when given."""
    table = bytearray([_INVALID]) * 256
    tokens = {"A": A, "C": C, "G": G, "T": T, "U": T, "N": N} | (dict.fromkeys(_CODES, N) if codes_to_n else _CODES)
    for letter, token in tokens.items():
        table[ord(letter)] = token
        table[ord(letter.lower())] = token if lower_case is None else lower_case
    return bytes(table)


_TABLES = {
    (mask_to_n, codes): _table(N if mask_to_n else None, codes)
    for mask_to_n in (False, True)
    for codes in (False, True)
}
_LETTERS = np.frombuffer(b"ACGTN_^$", dtype=np.uint8)

Tokens = TypeVar("Tokens")


def encode(
    sequence: str | bytes,
    iupac: Literal["n", "random", "error"] = "n",
    soft_mask: Literal["keep", "ignore", "n"] = "keep",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Nucleotides to tokens.

    Parameters
    ----------
    sequence
        Bases in either case, without white space.
    iupac
        What becomes of R Y S W K M B D H V: N, a random base that the code allows, or an error.
    soft_mask
        Lower case: ``keep`` and ``ignore`` read it as upper case, ``n`` turns it into N.
    rng
        Source of the random bases of ``iupac="random"``.

    Returns
    -------
    numpy.ndarray
        uint8, shape (bases,), values 0 to 4.

    Raises
    ------
    ValueError
        A character is no nucleotide code (or is an IUPAC code and ``iupac`` is ``"error"``); the 0-based position
        is in the message.
    """
    raw = sequence.encode("ascii", errors="replace") if isinstance(sequence, str) else bytes(sequence)
    tokens = raw.translate(_TABLES[soft_mask == "n", iupac == "n"])
    bad = tokens.find(_INVALID)
    if bad >= 0:
        shown = chr(raw[bad]) if 32 < raw[bad] < 127 else f"byte 0x{raw[bad]:02x}"
        raise ValueError(f"position {bad}: {shown!r} is not a nucleotide (A C G T U N or an IUPAC code)")
    coded = np.frombuffer(tokens, dtype=np.uint8).copy()
    if iupac == "n":
        return coded
    positions = np.flatnonzero(coded >= 16)
    if len(positions) == 0:
        return coded
    if iupac == "error":
        first = int(positions[0])
        raise ValueError(
            f"position {first}: ambiguous base {chr(raw[first])!r} and data.iupac is 'error'; use 'n' or 'random'"
        )
    if rng is None:
        raise ValueError("iupac='random' needs a random generator")
    found = coded[positions]
    for code, allowed in IUPAC.items():
        here = positions[found == _CODES[code]]
        if len(here):
            choices = np.array(["ACGT".index(base) for base in allowed], dtype=np.uint8)
            coded[here] = choices[rng.integers(len(choices), size=len(here))]
    return coded


def decode(tokens: np.ndarray) -> str:
    """Tokens to letters: A C G T N, and ``_`` ``^`` ``$`` for PAD, BOS, EOS. Any integer dtype, shape (tokens,)."""
    return _LETTERS[np.asarray(tokens, dtype=np.int64)].tobytes().decode("ascii")


def reverse_complement(tokens: Tokens) -> Tokens:
    """The other strand, read in its own direction. Special tokens and N stay what they are.

    ``tokens`` is a numpy array or a torch tensor of integers, shape (..., tokens); the result has the same type,
    dtype and shape.
    """
    if isinstance(tokens, np.ndarray):
        turned = tokens[..., ::-1]
        return np.where(turned > T, turned, T - turned)  # type: ignore[return-value]
    turned = tokens.flip(-1)  # type: ignore[attr-defined]
    return turned.where(turned > T, T - turned)
