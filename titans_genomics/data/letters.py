"""Letters to base codes: the one table and the one kernel through which every genome goes."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from titans_genomics.compiling import compiled
from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data import iupac
from titans_genomics.data.alphabet import IUPAC
from titans_genomics.data.batch import Batch
from titans_genomics.data.iupac import random_base
from titans_genomics.data.splits import read_key

_kernel = compiled(calls=[iupac.__file__])

# What a letter is, beside the codes 0 to 4: the table's values.
_CODE = 8  # IUPAC codes: 8 + their set of bases (A=1 C=2 G=4 T=8), so 11 to 22
_LOWER = 32  # added for lower case
_SPACE, _HEADER, _INVALID = 128, 129, 255

# What `scan` does with IUPAC codes.
TO_N, RANDOM, ERROR = range(3)
_IUPAC_MODES = {"n": TO_N, "random": RANDOM, "error": ERROR}

# Why `scan` returned.
END, AT_HEADER, BAD_LETTER, AMBIGUOUS, EDGES_FULL = range(5)

_EDGES = 1 << 16
_SETS = {"A": 1, "C": 2, "G": 4, "T": 8}
_PROTEIN = 10_000  # letters of a record that are looked at before it is called a protein


def _table() -> np.ndarray:
    table = np.full(256, _INVALID, dtype=np.uint8)
    values = {"A": 0, "C": 1, "G": 2, "T": 3, "U": 3, "N": 4}
    values |= {code: _CODE + sum(_SETS[base] for base in allowed) for code, allowed in IUPAC.items()}
    for letter, value in values.items():
        table[ord(letter)] = value
        table[ord(letter.lower())] = value + _LOWER
    for space in b" \t\r\n\v\f":
        table[space] = _SPACE
    table[ord(">")] = _HEADER
    return table


TABLE = _table()


LANES = 64
"""Letters that `plain_run` looks at together."""


@intrinsic
def plain_run(_, letters, at, codes, filled, lower):
    """Encode LANES letters at once; how many of them, from the first on, were A C G T, all lower or all upper case.

    Codes beyond that many are garbage; both arrays must have room for LANES. LLVM makes of this what the processor has.
    """
    signature = types.intp(letters, types.intp, codes, types.intp, types.intp)
    byte, word = ir.IntType(8), ir.IntType(64)
    vector = ir.VectorType(byte, LANES)

    def generate(context, builder, signature, arguments):
        def place(n, index):
            array = context.make_array(signature.args[n])(context, builder, arguments[n])
            return builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())

        def all_of(value):
            return ir.Constant(vector, [value] * LANES)

        def mask(bits):
            return builder.bitcast(bits, word)

        found = builder.load(place(0, arguments[1]), align=1)
        upper = builder.and_(found, all_of(0xDF))
        twice = builder.and_(builder.lshr(upper, all_of(1)), all_of(3))  # A C G T -> 0 1 3 2
        builder.store(builder.xor(twice, builder.lshr(twice, all_of(1))), place(2, arguments[3]), align=1)
        plain = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [0] * LANES)
        for base in b"ACGT":
            plain = builder.or_(plain, builder.icmp_unsigned("==", upper, all_of(base)))
        in_lower = mask(builder.icmp_unsigned("!=", found, upper))
        expected = builder.sub(word(0), arguments[4])  # all ones within a soft-masked stretch
        other = builder.or_(builder.not_(mask(plain)), builder.xor(in_lower, expected))
        return builder.cttz(other, ir.IntType(1)(0))

    return signature, generate


@_kernel
def scan(letters, at, codes, filled, table, mode, lower_to_n, key, state, edges):
    """Letters from ``at`` on to ``codes`` from ``filled`` on; returns (why it stopped, at, filled).

    ``codes`` has room for all letters and LANES more. ``state`` int64: 0 whether a line begins, 1 whether the last
    letter was lower case, 2 ambiguous letters so far, 3 edges filled, 4 position in the record of codes[0]. ``edges``
    int64: where lower case begins and ends in ``codes``.
    """
    line_start, lower, ambiguous, count = state[0], state[1], state[2], state[3]
    offset = state[4]
    why = END
    stop = len(letters)
    while at < stop:
        if at + LANES <= stop and not (lower and lower_to_n):
            run = plain_run(letters, at, codes, filled, lower)
            if run:
                at += run
                filled += run
                line_start = 0
                if run == LANES:
                    continue
        value = table[letters[at]]
        if value >= _SPACE:
            if value == _SPACE:
                line_start = 1 if letters[at] == 10 else line_start
                at += 1
                continue
            why = AT_HEADER if value == _HEADER and line_start == 1 else BAD_LETTER
            break
        line_start = 0
        now = 1 if value & _LOWER else 0
        if now != lower:
            if count == len(edges):
                why = EDGES_FULL
                break
            edges[count] = filled
            count += 1
            lower = now
        value &= 255 - _LOWER
        if value > 4:
            if mode == ERROR:
                why = AMBIGUOUS
                break
            ambiguous += 1
            value = random_base(key, offset + filled, value - _CODE) if mode == RANDOM else 4
        codes[filled] = 4 if now and lower_to_n else value
        filled += 1
        at += 1
    state[0], state[1], state[2], state[3] = line_start, lower, ambiguous, count
    return why, at, filled


class Letters:
    """Encodes the records of one source, piece by piece, as ``data.iupac`` and ``data.soft_mask`` say.

    A piece may end anywhere: within a record, a line, or a soft-masked stretch.

    Parameters
    ----------
    source, data, seed
        The source, the section it stands in, and the run's seed (for ``iupac: random``).

    Attributes
    ----------
    length : int
        Bases of the open record so far.
    """

    def __init__(self, source: SourceConfig, data: DataConfig, seed: int) -> None:
        self.source, self.data, self.seed = source, data, seed
        self.length = 0
        self._names: list[str] = []
        self._starts: list[int] = []
        self._codes = np.empty(0, dtype=np.uint8)
        self._filled = 0
        self._state = np.array([1, 0, 0, 0, 0])  # see `scan`
        self._edges = np.empty(_EDGES, dtype=np.int64)
        self._full: list[np.ndarray] = []
        self._name, self._key, self._ambiguous, self._judged = "", 0, 0, True

    def begin(self, name: str) -> None:
        """A record begins, at the beginning of a line."""
        self._name, self._judged, self.length = name, False, 0
        self._ambiguous = int(self._state[2])
        self._key = read_key(self.seed, self.source.label, name) if self.data.iupac == "random" else 0
        self._names.append(name)
        self._starts.append(self._filled)
        self._state[0] = 1

    def end(self) -> None:
        """The open record ends. Raises ValueError for a protein."""
        self._judge()
        if self._state[1]:
            self._edge()

    def feed(self, letters: np.ndarray, at: int) -> int:
        """Encode uint8 ``letters`` from ``at`` on; returns where it stopped: their end, or a '>' at the beginning of a line.

        Raises ValueError naming file, record and 0-based position of a letter that is no nucleotide.
        """
        room = self._filled + len(letters) - at + LANES
        if len(self._codes) < room:
            grown = np.empty(room, dtype=np.uint8)
            grown[: self._filled] = self._codes[: self._filled]
            self._codes = grown
        mode, lower_to_n = _IUPAC_MODES[self.data.iupac], self.data.soft_mask == "n"
        while True:
            before = self._filled
            self._state[4] = self.length - before
            why, at, self._filled = scan(
                letters, at, self._codes, before, TABLE, mode, lower_to_n, self._key, self._state, self._edges
            )
            self.length += self._filled - before
            if why == EDGES_FULL:
                self._flush_edges()
            elif why in (BAD_LETTER, AMBIGUOUS):
                raise ValueError(self._fault(letters, at, why))
            else:
                if self.length >= _PROTEIN:
                    self._judge()
                return at

    def batch(self) -> Batch:
        """All that was fed since the last batch."""
        masked = bool(self._state[1])
        if masked:  # a stretch that goes on in the next batch
            self._edge()
        self._flush_edges()
        soft = np.concatenate([np.zeros(0, dtype=np.int64), *self._full]).reshape(-1, 2)
        batch = Batch(
            codes=self._codes[: self._filled],
            names=self._names,
            starts=np.array(self._starts, dtype=np.int64),
            soft=soft if self.data.soft_mask == "keep" else soft[:0],
            ambiguous=int(self._state[2]),
            masked=int((soft[:, 1] - soft[:, 0]).sum()),
        )
        self._ambiguous -= int(self._state[2])
        self._state[2] = 0
        self._codes, self._filled, self._names, self._starts, self._full = np.empty(0, np.uint8), 0, [], [], []
        if masked:
            self._edge()
            self._state[1] = 1
        return batch

    def _edge(self) -> None:
        """A soft-masked stretch begins or ends here."""
        if self._state[3] == len(self._edges):
            self._flush_edges()
        self._edges[self._state[3]] = self._filled
        self._state[3] += 1
        self._state[1] = 0

    def _flush_edges(self) -> None:
        if self._state[3]:
            self._full.append(self._edges[: self._state[3]].copy())
            self._state[3] = 0

    def _judge(self) -> None:
        """Raise ValueError when the record, or its beginning, is mostly letters that stand for several bases."""
        if not self._judged and int(self._state[2]) - self._ambiguous > 0.5 * self.length:
            raise ValueError(
                f"{self.source.path}: contig {self._name!r} looks like a protein: most letters are not A C G T U N; nucleotides are needed"
            )
        self._judged = True

    def _fault(self, letters: np.ndarray, at: int, why: int) -> str:
        letter = int(letters[at])
        shown = repr(chr(letter)) if 32 < letter < 127 else f"byte 0x{letter:02x}"
        where = f"{self.source.path}: contig {self._name!r}, position {self.length}"
        if why == AMBIGUOUS:
            return f"{where}: ambiguous base {shown} and data.iupac is 'error'; use 'n' or 'random'"
        hint = ""
        around = letters[max(0, at - min(self.length, _PROTEIN)) : at + _PROTEIN].tobytes().split(b">")[0]
        around = around.translate(None, b" \t\r\n")
        if letter == ord(">"):
            hint = ". A record's '>' must begin a line"
        elif len(around.translate(None, b"ACGTUNacgtun-.*")) > 0.5 * len(around):
            hint = ". This looks like a protein; nucleotides are needed"
        elif letter == ord("-"):
            hint = ". Remove the gaps of an alignment first"
        return f"{where}: {shown} is not a nucleotide (A C G T U N or an IUPAC code){hint}"


def letters_batch(source: SourceConfig, data: DataConfig, seed: int, name: str, letters: bytes) -> Batch:
    """One whole record, given as letters without line ends, as a batch. Errors as in `Letters`."""
    encoder = Letters(source, data, seed)
    encoder.begin(name)
    array = np.frombuffer(letters, dtype=np.uint8)
    encoder.feed(array, 0)
    encoder.end()
    return encoder.batch()
