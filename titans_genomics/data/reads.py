"""Raw reads of any format to a `Batch`: the filters of ``data.reads``, and bases to codes.

A format's reader gives `RawReads`: the bytes that it read and, in one row of numbers per read, where in them names, bases
and qualities are. Nothing is copied but what is kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from titans_genomics.compiling import compiled
from titans_genomics.config import DataConfig, ReadsConfig, SourceConfig
from titans_genomics.data import iupac
from titans_genomics.data.batch import Batch, PackedNames, ReadColumns
from titans_genomics.data.iupac import LETTERS, letter_masks, mix, random_base

_kernel = compiled(calls=[iupac.__file__])

# Columns of RawReads.rows
NAME, NAME_END, BASES, LENGTH, QUALITY, FLAG, CONTIG, START, END, MAPQ, LEFT, RIGHT = range(12)
FIELDS = 12

UNMAPPED, REVERSE, READ1, READ2, QC_FAIL = 0x4, 0x10, 0x40, 0x80, 0x200  # bits of SAM flags

# Entries of the limits that _select goes by
_FORBIDDEN, _REQUIRE, _EXCLUDE, _MAPQ, _SHORTEST, _LONGEST, _CLIP, _SAMPLE, _STATE, _SEEN = range(10)
_SWITCHES = (UNMAPPED, 0x100, 0x800, 0x400, QC_FAIL)  # in the order in which reasons to drop a read are looked for
_ODD, _INVALID = 16, 255  # codes that the tables give: 16 + set of bases for IUPAC codes, and what is no nucleotide
_IUPAC = ("n", "random", "error")
_RANDOM, _ERROR = 1, 2
_COMPLEMENTS = tuple(
    8 * (s & 1) + 4 * (s >> 1 & 1) + 2 * (s >> 2 & 1) + (s >> 3) for s in range(16)
)  # of sets of bases


@dataclass(slots=True)
class RawReads:
    """Reads as a file has them.

    Attributes
    ----------
    data
        uint8, shape (bytes,): what the rows point into.
    rows
        int64, shape (reads, `FIELDS`). NAME, NAME_END: the template's name, half-open. BASES: its first byte. LENGTH:
        bases; 0 when none are stored. QUALITY: first byte of the qualities; -1 when there are none. FLAG: SAM flag.
        CONTIG, START, END (0-based half-open), MAPQ: of the alignment. LEFT, RIGHT: soft-clipped bases at its ends.
    packed
        True: two bases a byte, as in BAM; False: letters.
    phred
        What is subtracted from a quality byte: 0 or 33.
    """

    data: np.ndarray
    rows: np.ndarray
    packed: bool
    phred: int


class ReadFilter:
    """Picks and encodes the reads of one source.

    Parameters
    ----------
    source, data, seed
        The source, the section it stands in, and the run's seed.
    dropped
        Counts dropped reads by reason.
    aligned
        False: a format without alignments, whose reads the filters on flags and mapping do not concern.

    Attributes
    ----------
    seen, kept
        Reads looked at, and reads that passed, so far.
    """

    def __init__(
        self, source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], aligned: bool = True
    ) -> None:
        self.seen = self.kept = 0
        self._path, self._dropped = source.path, dropped
        reads = self._reads = data.reads
        if not aligned:
            reads = reads.model_copy(update={"unmapped": True, "require_flags": 0, "exclude_flags": 0, "regions": ()})
        self._limits = _limits(reads, seed)
        self._reasons = _reasons(reads)
        self._iupac = _IUPAC.index(data.iupac)
        self._sequenced = reads.strand == "sequenced"
        self._quality = reads.min_base_quality
        self._letters = _code_tables(data.soft_mask == "n")
        self._sets = np.ascontiguousarray(self._letters[:, np.frombuffer(LETTERS.encode(), dtype=np.uint8)])

    def __call__(self, raw: RawReads) -> Batch | None:
        """The reads of ``raw`` that pass, or None.

        Raises
        ------
        ValueError
            A character that is no nucleotide, or an IUPAC code with ``data.iupac: error``, in a read that passes.
        """
        count = len(raw.rows)
        reasons, keys = np.empty(count, dtype=np.uint8), np.empty(count, dtype=np.int64)
        self._limits[_SEEN] = self.seen
        _select(raw.data, raw.rows, self._limits, reasons, keys)
        self.seen += count
        kept = np.flatnonzero(reasons == 0)
        if len(kept) < count:
            found = np.bincount(reasons, minlength=len(self._reasons))
            for reason in np.flatnonzero(found)[int(len(kept) > 0) :].tolist():
                self._dropped[self._reasons[reason]] += int(found[reason])
        if not len(kept):
            return None
        self.kept += len(kept)
        rows = raw.rows if len(kept) == count else raw.rows[kept]
        keys = keys if len(kept) == count else keys[kept]
        ends = np.cumsum(rows[:, LENGTH] - rows[:, LEFT] - rows[:, RIGHT])
        starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
        codes = np.empty(ends[-1], dtype=np.uint8)
        table = self._sets if raw.packed else self._letters
        how = (raw.packed, raw.phred, self._quality, self._sequenced, self._iupac)
        ambiguous, read, position, code = _encode(raw.data, rows, keys, starts, table, how, codes)
        if read >= 0:
            raise self._no_base(raw, rows[read], position, code)
        aligned = rows[:, CONTIG] >= 0
        columns = ReadColumns(
            key=keys,
            minus=aligned & (rows[:, FLAG] & REVERSE != 0),
            contig=rows[:, CONTIG].astype(np.int32),
            start=rows[:, START].copy(),
            end=rows[:, END].copy(),
            mapq=rows[:, MAPQ].astype(np.int16),
        )
        return Batch(codes, _names(raw.data, rows), starts, ambiguous=ambiguous, reads=columns)

    def check_any(self) -> None:
        """Raise ValueError, with the reasons counted, when no read has passed."""
        if self.kept:
            return
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self._dropped.most_common())
        where = f" in {', '.join(self._reads.regions)}" if self._reads.regions else ""
        raise ValueError(
            f"{self._path}: no read left{where} after the filters ({reasons or 'the file holds none'}). Loosen data.reads"
        )

    def _no_base(self, raw: RawReads, row: np.ndarray, position: int, code: int) -> ValueError:
        where = f"{self._path}: read {_names(raw.data, row[None])[0]!r}, position {position}"
        if code != _INVALID:
            return ValueError(
                f"{where}: ambiguous base {LETTERS[code - _ODD]!r} and data.iupac is 'error'; use 'n' or 'random'"
            )
        stored = row[LENGTH] - 1 - position if row[FLAG] & REVERSE else position
        byte = ord("=") if raw.packed else int(raw.data[row[BASES] + stored])
        if byte == ord("="):
            return ValueError(
                f"{where}: '=' stands for a base of the reference, which is not in the file. Fill in the bases with `samtools calmd`"
            )
        shown = chr(byte) if 32 < byte < 127 else f"byte 0x{byte:02x}"
        return ValueError(f"{where}: {shown!r} is not a nucleotide (A C G T U N or an IUPAC code)")


def name_keys(names: np.ndarray, offsets: np.ndarray, seed: int) -> np.ndarray:
    """Seeded 63-bit numbers of template names; reads of one molecule share one, and molecules are split in its order.

    Parameters
    ----------
    names
        uint8, shape (bytes,): the names.
    offsets
        int64, shape (names, 2): where in it each begins and ends.
    seed
        The run's seed. Sources do not matter: mates in two files go together.

    Returns
    -------
    numpy.ndarray
        int64, shape (names,), 0 or more.
    """
    keys = np.empty(len(offsets), dtype=np.int64)
    _hash_names(names, np.ascontiguousarray(offsets, dtype=np.int64), _state(seed), keys)
    return keys


def _state(seed: int) -> np.uint64:
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "big"))


def _limits(reads: ReadsConfig, seed: int) -> np.ndarray:
    """What `_select` goes by: int64, shape (10,)."""
    allowed = (
        reads.unmapped and not reads.regions,
        reads.secondary,
        reads.supplementary,
        reads.duplicates,
        reads.qc_fail,
    )
    limits = np.zeros(10, dtype=np.int64)
    limits[_FORBIDDEN] = sum(bit for bit, keep in zip(_SWITCHES, allowed, strict=True) if not keep)
    limits[_REQUIRE], limits[_EXCLUDE], limits[_MAPQ] = reads.require_flags, reads.exclude_flags, reads.min_mapq
    limits[_SHORTEST], limits[_LONGEST] = reads.min_length, reads.max_length or np.iinfo(np.int64).max
    limits[_CLIP] = reads.clip
    limits[_SAMPLE] = -1 if reads.fraction == 1 else int(reads.fraction * 2**63)
    limits[_STATE] = _state(seed).view(np.int64)
    return limits


def _reasons(reads: ReadsConfig) -> list[str]:
    """Why reads are dropped, by the numbers of `_select`."""
    return [
        "",
        "unmapped",
        "secondary alignment",
        "supplementary alignment",
        "duplicate",
        "failed quality control",
        "lacks a required flag",
        "has an excluded flag",
        f"MAPQ below {reads.min_mapq}",
        "no sequence stored",
        f"shorter than {reads.min_length} bases",
        f"longer than {reads.max_length} bases",
        "not in the sample (data.reads.fraction)",
    ]


def _code_tables(lower_to_n: bool) -> np.ndarray:
    """Letter to code, `_ODD` + set of bases, or `_INVALID`; in the second row of its complement. uint8, shape (2, 256)."""
    masks = letter_masks()
    if lower_to_n:
        masks[[i for i in range(ord("a"), ord("z") + 1) if masks[i]]] = 15
    codes = np.array([_INVALID, *range(_ODD + 1, _ODD + 16)], dtype=np.uint8)
    codes[[1, 2, 4, 8, 15]] = range(5)
    return np.stack([codes[masks], codes[list(_COMPLEMENTS)][masks]])


@_kernel
def _hash_name(data, start, end, state):
    key, word, shift = state, np.uint64(0), np.uint64(0)
    for i in range(start, end):
        word |= np.uint64(data[i]) << shift
        shift += np.uint64(8)
        if shift == np.uint64(64):
            key, word, shift = mix(key ^ word), np.uint64(0), np.uint64(0)
    return np.int64(mix(mix(key ^ word) + np.uint64(end - start)) >> np.uint64(1))


@_kernel
def _hash_names(data, offsets, state, keys):
    for i in range(len(offsets)):
        keys[i] = _hash_name(data, offsets[i, 0], offsets[i, 1], state)


@_kernel
def _select(data, rows, limits, reasons, keys):
    """Number in `_reasons` of why each read is dropped (0: it is kept), and the keys of those kept.

    Rows are made to agree: reads without a place are unmapped, unmapped ones have no alignment, and clips are 0 unless
    they are to be cut.
    """
    for i in range(len(rows)):
        row = rows[i]
        if row[FLAG] & UNMAPPED or row[CONTIG] < 0 or row[START] < 0:
            row[FLAG] |= UNMAPPED
            row[CONTIG] = row[START] = row[END] = row[MAPQ] = -1
            row[LEFT] = row[RIGHT] = 0
        if not limits[_CLIP]:
            row[LEFT] = row[RIGHT] = 0
        length = row[LENGTH] - row[LEFT] - row[RIGHT]
        reasons[i] = 0
        if row[FLAG] & limits[_FORBIDDEN]:
            reasons[i] = 1
            for bit in _SWITCHES:
                if row[FLAG] & limits[_FORBIDDEN] & bit:
                    break
                reasons[i] += 1
        elif row[FLAG] & limits[_REQUIRE] != limits[_REQUIRE]:
            reasons[i] = 6
        elif row[FLAG] & limits[_EXCLUDE]:
            reasons[i] = 7
        elif row[CONTIG] >= 0 and row[MAPQ] < limits[_MAPQ]:
            reasons[i] = 8
        elif row[LENGTH] == 0:
            reasons[i] = 9
        elif length < limits[_SHORTEST]:
            reasons[i] = 10
        elif length > limits[_LONGEST]:
            reasons[i] = 11
        else:
            key = _hash_name(data, row[NAME], row[NAME_END], np.uint64(limits[_STATE]))
            if row[NAME_END] == row[NAME] + 1 and data[row[NAME]] == 42:  # "*": reads without names are no one molecule
                key = np.int64(mix(np.uint64(key) + np.uint64(limits[_SEEN] + i + 1)) >> np.uint64(1))
            # Hashed again: molecules are split in the order of their keys, and a sample is not to be one end of it.
            if limits[_SAMPLE] >= 0 and np.int64(mix(np.uint64(key)) >> np.uint64(1)) >= limits[_SAMPLE]:
                reasons[i] = 12
            keys[i] = key


@_kernel
def _encode(data, rows, keys, starts, tables, how, codes):
    """Fill ``codes``; returns the ambiguous bases, and read, position and code of the first that must not be (-1: none).

    Positions, codes and random bases are those of the read as sequenced, whichever way round the file has it.
    """
    packed, phred, quality, sequenced, iupac = how
    ambiguous = 0
    for i in range(len(rows)):
        row = rows[i]
        left, count = row[LEFT], row[LENGTH] - row[LEFT] - row[RIGHT]
        reverse = row[FLAG] & REVERSE != 0
        turn = reverse and (sequenced or row[CONTIG] < 0)
        out = starts[i]
        at, step = (out + count - 1, -1) if turn else (out, 1)
        table = tables[1 if turn else 0]
        if packed:
            highest = _unpack(data, row[BASES], left, count, table, codes, at, step)
        else:
            highest = _look_up(data, row[BASES] + left, count, table, codes, at, step)
        if highest >= _ODD:
            other = reverse and not turn  # the strand of ``codes`` is not the sequenced one
            for j in range(count):
                code = codes[out + j]
                if code < _ODD:
                    continue
                position = row[LENGTH] - 1 - left - j if other else (row[RIGHT] if turn else left) + j
                if code == _INVALID:
                    return ambiguous, i, position, _INVALID
                allowed = _COMPLEMENTS[code - _ODD] if other else code - _ODD
                if iupac == _ERROR:
                    return ambiguous, i, position, _ODD + allowed
                ambiguous += 1
                codes[out + j] = 4
                if iupac == _RANDOM:
                    base = random_base(np.uint64(keys[i] ^ (row[FLAG] & (READ1 | READ2))), position, np.uint8(allowed))
                    codes[out + j] = 3 - base if other else base
        if quality > 0 and row[QUALITY] >= 0:
            _mask_low(data, row[QUALITY] + left, count, quality + phred, codes, at, step)
    return ambiguous, -1, 0, 0


# Offsets are unsigned below: for signed ones Numba looks whether they count from the end.


@_kernel
def _unpack(data, bases, first, count, table, codes, at, step):
    """Codes of ``count`` bases, two of which are in a byte, to ``at``, ``at`` + ``step``, ...; returns the highest code."""
    highest = np.uint8(0)
    for i in range(first, first + count):
        byte = data[np.uint64(bases + (i >> 1))]
        code = table[np.uint64(byte >> ((~i & 1) << 2)) & np.uint64(15)]
        codes[np.uint64(at)] = code
        highest = max(highest, code)
        at += step
    return highest


@_kernel
def _look_up(data, letters, count, table, codes, at, step):
    """As `_unpack`, of letters."""
    highest = np.uint8(0)
    for i in range(letters, letters + count):
        code = table[np.uint64(data[np.uint64(i)])]
        codes[np.uint64(at)] = code
        highest = max(highest, code)
        at += step
    return highest


@_kernel
def _mask_low(data, qualities, count, least, codes, at, step):
    """N for bases whose quality is below ``least``."""
    for i in range(qualities, qualities + count):
        if data[np.uint64(i)] < least:
            codes[np.uint64(at)] = 4
        at += step


@_kernel
def _join_names(data, rows, joined, offsets):
    """The names, mates with /1 or /2, and where each begins; returns whether all of them are ASCII."""
    at, high = 0, 0
    for i in range(len(rows)):
        row = rows[i]
        offsets[i] = at
        for j in range(row[NAME], row[NAME_END]):
            joined[at] = data[j]
            high |= data[j]
            at += 1
        mate = row[FLAG] & (READ1 | READ2)
        if mate in (READ1, READ2):
            joined[at] = 47
            joined[at + 1] = 49 if mate == READ1 else 50
            at += 2
    offsets[len(rows)] = at
    return high < 128


def _names(data: np.ndarray, rows: np.ndarray) -> Sequence[str]:
    joined = np.empty(int((rows[:, NAME_END] - rows[:, NAME]).sum()) + 2 * len(rows), dtype=np.uint8)
    offsets = np.empty(len(rows) + 1, dtype=np.int32)
    names = PackedNames(joined, offsets)
    return names if _join_names(data, rows, joined, offsets) else list(names)  # what is no UTF-8 is replaced
