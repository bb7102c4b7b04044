"""Filters and encoding, on raw reads made here; the formats have tests of their own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, random_bases
from reading import other_strand, unpack

from titans_genomics.data.alphabet import IUPAC, decode
from titans_genomics.data.iupac import LETTERS, letter_masks, random_base
from titans_genomics.data.reads import FIELDS, RawReads, ReadFilter, name_keys

QUIET = settings(max_examples=40, deadline=None)


def raw(*reads, packed=False, phred=33):
    """Raw reads of (name, sequence[, quality[, flag, contig, start, end, mapq, left, right]])."""
    data, rows = bytearray(), []
    for name, sequence, *rest in reads:
        quality = rest[0] if rest else None
        alignment = rest[1:] or (4, -1, -1, -1, -1, 0, 0)
        start = len(data)
        data += name.encode()
        bases = len(data)
        if packed:
            sets = [LETTERS.index(base) for base in sequence] + [0]
            data += bytes(16 * high + low for high, low in zip(sets[::2], sets[1::2], strict=False))
        else:
            data += sequence.encode()
        rows.append([start, bases, bases, len(sequence), -1 if quality is None else len(data), *alignment])
        data += (quality or "").encode()
    return RawReads(np.frombuffer(data, np.uint8), np.array(rows).reshape(-1, FIELDS), packed, phred)


def keep(raw_reads, seed=1, iupac="n", soft_mask="keep", **filters):
    config = config_for("x.bam", iupac=iupac, soft_mask=soft_mask, reads={"min_length": 1, **filters})
    dropped = Counter()
    return ReadFilter(config.data.sources[0], config.data, seed, dropped)(raw_reads), dropped


def bases(batch):
    return [each.bases for each in unpack(batch, ["chr1"])]


def aligned(flag=0, left=0, right=0):
    return (flag, 0, 10, 20, 60, left, right)


@given(
    st.lists(st.tuples(st.text("ACGTN", min_size=1, max_size=40), st.booleans()), min_size=1, max_size=8), st.booleans()
)
@QUIET
def test_bases_come_back_on_the_strand_that_was_sequenced(reads, packed):
    lines = [(f"r{i}", sequence, None, *aligned(16 * turned)) for i, (sequence, turned) in enumerate(reads)]
    batch, _ = keep(raw(*lines, packed=packed))
    assert bases(batch) == [other_strand(sequence) if turned else sequence for sequence, turned in reads]
    assert batch.reads.minus.tolist() == [turned for _, turned in reads]
    batch, _ = keep(raw(*lines, packed=packed), strand="reference")
    assert bases(batch) == [sequence for sequence, _ in reads]
    assert batch.reads.minus.tolist() == [turned for _, turned in reads]


@given(st.text("ACGT", min_size=1, max_size=40), st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans())
@QUIET
def test_clips_are_cut_off_where_they_are(sequence, left, right, turned, packed):
    soft = (random_bases(left, 1), random_bases(right, 2))
    read = ("r", soft[0] + sequence + soft[1], None, *aligned(16 * turned, left, right))
    for clip, whole in ((True, sequence), (False, soft[0] + sequence + soft[1])):
        batch, _ = keep(raw(read, packed=packed), clip=clip)
        assert bases(batch) == [other_strand(whole) if turned else whole]


def test_an_unaligned_read_has_no_clips_and_no_place():
    batch, _ = keep(raw(("r", "ACGTT", None, 4 | 16, 0, 10, 20, 60, 2, 1)), clip=True, strand="reference")
    (read,) = unpack(batch, ["chr1"])
    assert (read.bases, read.strand, read.aligned, read.mapq) == (other_strand("ACGTT"), "+", None, None)


def test_a_read_without_a_place_is_unmapped():
    read = ("r", "ACGT", None, 0, -1, -1, -1, 0, 0, 0)
    assert keep(raw(read), min_mapq=20)[0].reads.contig.tolist() == [-1]
    assert keep(raw(read), unmapped=False) == (None, {"unmapped": 1})


@pytest.mark.parametrize("turned", [False, True])
def test_bases_of_low_quality_become_n(turned):
    read = ("r", "ACGTACGT", "I5I4I!I6", *aligned(16 * turned, 1, 1))
    batch, _ = keep(raw(read), min_base_quality=20, clip=True)
    assert bases(batch) == [other_strand("CGNANG") if turned else "CGNANG"]
    assert batch.ambiguous == 0
    batch, _ = keep(raw(read))
    assert "N" not in bases(batch)[0]


def test_bases_without_qualities_stay():
    assert bases(keep(raw(("r", "ACGT")), min_base_quality=93)[0]) == ["ACGT"]
    missing = raw(("r", "ACGT", "    "), packed=True, phred=0)
    missing.data[missing.rows[0, 4] :] = 0xFF
    assert bases(keep(missing, min_base_quality=93)[0]) == ["ACGT"]


@pytest.mark.parametrize("packed", [False, True])
def test_iupac_codes_to_n_are_counted(packed):
    batch, _ = keep(raw(("r", "ACRYNT"), packed=packed))
    assert (bases(batch), batch.ambiguous) == (["ACNNNT"], 2)


@pytest.mark.parametrize("packed", [False, True])
def test_iupac_codes_as_errors(packed):
    with pytest.raises(
        ValueError, match=r"x.bam: read 'two/1', position 2: ambiguous base 'R' and data.iupac is 'error'"
    ):
        keep(raw(("one", "ACGT"), ("two", "ACRT", None, 4 | 64, -1, -1, -1, -1, 0, 0), packed=packed), iupac="error")
    reverse = ("r", "GGRTCA", None, *aligned(16, 1, 1))  # as sequenced TGAYCC
    for strand in ("sequenced", "reference"):
        with pytest.raises(ValueError, match=r"read 'r', position 3: ambiguous base 'Y'"):
            keep(raw(reverse, packed=packed), iupac="error", clip=True, strand=strand)
    with pytest.raises(ValueError, match="ambiguous"):
        keep(raw(("r", "ACRT", "III!")), iupac="error", min_base_quality=20)


@given(st.text("ACGTN" + "".join(IUPAC), min_size=1, max_size=60), st.integers(0, 5), st.booleans(), st.integers(0, 4))
@QUIET
def test_random_bases_are_allowed_and_those_of_the_read_as_sequenced(sequence, seed, packed, clipped):
    (as_is,) = bases(keep(raw(("r", sequence), packed=packed), seed, "random")[0])
    for letter, base in zip(sequence, as_is, strict=True):
        assert base in IUPAC.get(letter, letter)
    turned = sequence[::-1].translate(str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN"))
    read = ("r", "A" * clipped + turned, None, *aligned(16, clipped, 0))
    (sequenced,) = bases(keep(raw(read, packed=packed), seed, "random", clip=True)[0])
    assert sequenced == as_is
    (reference,) = bases(keep(raw(read, packed=packed), seed, "random", clip=True, strand="reference")[0])
    assert reference == other_strand(as_is)


def test_random_bases_follow_the_seed_and_the_read():
    drawn = {
        (seed, name): tuple(bases(keep(raw((name, "N" + "R" * 60)), seed, "random")[0]))
        for seed in (1, 2)
        for name in ("a", "b")
    }
    assert len(set(drawn.values())) == 4


def test_lower_case_as_soft_mask_says():
    read = raw(("r", "acGTrnu"))
    assert bases(keep(read)[0]) == ["ACGTNNT"]
    assert bases(keep(read, soft_mask="ignore")[0]) == ["ACGTNNT"]
    batch, _ = keep(read, soft_mask="n")
    assert (bases(batch), batch.ambiguous) == (["NNGTNNN"], 0)


@pytest.mark.parametrize(
    ("letter", "shown"), [("E", "'E'"), ("-", "'-'"), ("\x01", "'byte 0x01'"), ("é", "'byte 0xc3'")]
)
def test_a_letter_that_is_none(letter, shown):
    with pytest.raises(ValueError, match=rf"x.bam: read 'r', position 2: {shown} is not a nucleotide"):
        keep(raw(("r", f"AC{letter}GT")))


@pytest.mark.parametrize("packed", [False, True])
def test_bases_that_only_the_reference_has(packed):
    with pytest.raises(ValueError, match=r"read 'r', position 1: '=' .*samtools calmd"):
        keep(raw(("r", "A=GT"), packed=packed))


@pytest.mark.parametrize(
    ("filters", "reads", "reason"),
    [
        ({"unmapped": False}, [("r", "ACGT", None, 4 | 0x700, -1, -1, -1, -1, 0, 0)], "unmapped"),
        ({}, [("r", "ACGT", None, *aligned(0xF00))], "secondary alignment"),
        ({}, [("r", "ACGT", None, *aligned(0xE00))], "supplementary alignment"),
        ({}, [("r", "ACGT", None, *aligned(0x600))], "duplicate"),
        ({"require_flags": 3}, [("r", "ACGT", None, *aligned(0x200))], "failed quality control"),
        ({"require_flags": 3, "exclude_flags": 4}, [("r", "ACGT", None, *aligned(1))], "lacks a required flag"),
        ({"exclude_flags": 1, "min_mapq": 70}, [("r", "ACGT", None, *aligned(1))], "has an excluded flag"),
        ({"min_mapq": 70, "min_length": 9}, [("r", "ACGT", None, *aligned())], "MAPQ below 70"),
        ({"min_length": 9}, [("r", "")], "no sequence stored"),
        ({"min_length": 9}, [("r", "ACGT")], "shorter than 9 bases"),
        ({"clip": True, "min_length": 3}, [("r", "ACGT", None, *aligned(0, 1, 1))], "shorter than 3 bases"),
        ({"clip": True}, [("r", "ACGT", None, *aligned(0, 4, 0))], "shorter than 1 bases"),
        ({"max_length": 3, "fraction": 1e-9}, [("r", "ACGT")], "longer than 3 bases"),
        ({"fraction": 1e-9}, [("r", "ACGT")], "not in the sample (data.reads.fraction)"),
    ],
)
def test_the_first_reason_counts(filters, reads, reason):
    assert keep(raw(*reads), **filters) == (None, {reason: 1})


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
@settings(max_examples=10, deadline=None)
def test_a_sample_is_seeded_keeps_mates_together_and_has_about_its_size(seed, fraction):
    reads = [(f"m{i // 2}", "ACGT", None, 4 | (64, 128)[i % 2], -1, -1, -1, -1, 0, 0) for i in range(4_000)]
    batch, dropped = keep(raw(*reads), seed, fraction=fraction)
    again, _ = keep(raw(*reads), seed, fraction=fraction)
    assert batch.names == again.names
    assert all(count == 2 for count in Counter(name[:-2] for name in batch.names).values())
    assert abs(len(batch.names) / 4_000 - fraction) < 5 * (fraction * (1 - fraction) / 2_000) ** 0.5
    assert dropped == {"not in the sample (data.reads.fraction)": 4_000 - len(batch.names)}
    other, _ = keep(raw(*reads), seed + 1, fraction=fraction)
    assert other.names != batch.names


def test_a_sample_is_not_one_end_of_the_keys():
    reads = [(f"m{i}", "ACGT") for i in range(4_000)]
    batch, _ = keep(raw(*reads), fraction=0.5)
    assert 0.4 < np.mean(batch.reads.key < 2**62) < 0.6


def test_mates_share_a_key_and_no_others_do():
    reads = [(f"m{i}", "ACGT", None, 4 | flag, -1, -1, -1, -1, 0, 0) for i in range(500) for flag in (64, 128)]
    batch, _ = keep(raw(*reads))
    assert batch.names[:3] == ["m0/1", "m0/2", "m1/1"]
    assert (batch.reads.key[::2] == batch.reads.key[1::2]).all()
    assert len(set(batch.reads.key.tolist())) == 500


def test_reads_without_names_are_molecules_of_their_own():
    config = config_for("x.bam", reads={"min_length": 1})
    found = ReadFilter(config.data.sources[0], config.data, 1, Counter())
    keys = [key for _ in range(2) for key in found(raw(("*", "ACGT"), ("*", "ACGT"))).reads.key.tolist()]
    assert len(set(keys)) == 4


def keys_of(names, seed=1):
    joined = "".join(names).encode()
    ends = np.cumsum([len(name.encode()) for name in names])
    offsets = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)
    return name_keys(np.frombuffer(joined, np.uint8), offsets, seed)


def test_keys_of_names_are_those_of_the_reads():
    names = ["a", "read/2x", "A00123:45:H:1:1101:1000:2000"]
    batch, _ = keep(raw(*[(name, "ACGT") for name in names]))
    assert batch.reads.key.tolist() == keys_of(names).tolist()


@given(st.sets(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30), min_size=2, max_size=30))
@QUIET
def test_keys_tell_names_seeds_and_sources_apart(names):
    names = sorted(names)
    all_keys = [keys_of(names, seed).tolist() for seed in (1, 2, 3)]
    assert len({key for keys in all_keys for key in keys}) == 3 * len(names)
    assert all(0 <= key < 2**63 for keys in all_keys for key in keys)


def test_keys_of_names_in_a_row_are_spread_evenly():
    found = keys_of([f"A00123:45:HXXXX:1:1101:{i}:1000" for i in range(100_000)])
    assert len(np.unique(found)) == 100_000
    bits = (found[:, None] >> np.arange(63)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 100_000**0.5
    assert np.abs(np.corrcoef(bits.T) - np.eye(63)).max() < 6 / 100_000**0.5


@pytest.mark.parametrize("mask", range(16))
def test_random_base_draws_evenly_from_the_set(mask):
    drawn = [int(random_base(np.uint64(77), position, np.uint8(mask))) for position in range(4_000)]
    allowed = [base for base in range(4) if mask >> base & 1]
    counts = Counter(drawn)
    if not allowed:
        assert counts == {4: 4_000}
        return
    assert sorted(counts) == allowed
    assert all(abs(count / 4_000 - 1 / len(allowed)) < 0.04 for count in counts.values())
    assert drawn == [int(random_base(np.uint64(77), position, np.uint8(mask))) for position in range(4_000)]


def test_letters_and_sets_are_those_of_iupac():
    masks = letter_masks()
    for letter, allowed in IUPAC.items():
        for case in (letter, letter.lower()):
            assert [base for base in range(4) if masks[ord(case)] >> base & 1] == sorted(
                "ACGT".index(b) for b in allowed
            )
    assert [masks[ord(letter)] for letter in "ACGTUNn"] == [1, 2, 4, 8, 8, 15, 15]
    assert np.count_nonzero(masks) == 2 * 16
    assert decode(np.arange(5)) == "ACGTN"
