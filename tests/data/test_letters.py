from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, random_bases, spell

from titans_genomics.data import letters as letters_module
from titans_genomics.data.alphabet import IUPAC, decode
from titans_genomics.data.letters import LANES, Letters, letters_batch

# Stretches shorter and longer than what is encoded at once, and what lies between them.
PARTS = ["A", "c", "gt", "Nn", "N" * (LANES + 1), random_bases(LANES), random_bases(3 * LANES + 5, 1)]
PARTS += [random_bases(LANES + 1, 2).lower(), random_bases(2 * LANES, 3).lower(), "Uu", "n" * 3]
CODES = ["R", "y", "SWKMBDHV", "swkm"]
ENDS = ["\n", "\r\n", "\n\n", " ", "\t"]

plain = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
coded = st.lists(st.sampled_from(PARTS + CODES), max_size=8).map("".join)
cuts = st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=8)


def encoder(iupac="n", soft_mask="keep", seed=1, name="x"):
    config = config_for({"path": "x.fa", "name": name}, iupac=iupac, soft_mask=soft_mask)
    return Letters(config.data.sources[0], config.data, seed)


def feed(own, records, layout=(), widths=(60,), ends=("\n",)):
    """All batches of records whose lines are of these widths and ends, cut at the places of ``layout``: (letters, whether a batch ends there)."""
    batches, lines = [], 0
    layout = list(layout)
    for name, sequence in records.items():
        own.begin(name)
        text, at = "", 0
        while at < len(sequence):
            width = widths[lines % len(widths)]
            text += sequence[at : at + width] + ends[lines % len(ends)]
            at, lines = at + width, lines + 1
        batches += feed_pieces(own, text.encode(), layout)
        own.end()
    return [*batches, own.batch()]


def feed_pieces(own, text, layout):
    """Feed a text in pieces and take what is used off ``layout``; the batches that end within it."""
    batches, at = [], 0
    while at < len(text):
        size, batch_ends = layout.pop(0) if layout else (len(text), False)
        piece = np.frombuffer(text[at : at + size], dtype=np.uint8)
        assert own.feed(piece, 0) == len(piece)
        at += size
        if batch_ends:
            batches.append(own.batch())
    return batches


def naive(sequence, soft_mask):
    """What becomes of letters, IUPAC codes to N; soft-masked bases in lower case."""
    found = ""
    for letter in sequence:
        base = letter.upper().replace("U", "T")
        base = "N" if base in IUPAC or (soft_mask == "n" and letter.islower()) else base
        found += base.lower() if soft_mask == "keep" and letter.islower() else base
    return found


@given(
    st.lists(coded, min_size=1, max_size=4),
    cuts,
    st.lists(st.integers(1, 150), min_size=1, max_size=4),
    st.lists(st.sampled_from(ENDS), min_size=1, max_size=4),
    st.sampled_from(["keep", "ignore", "n"]),
    st.integers(1, 5),
)
@settings(max_examples=300)
def test_any_lines_and_any_cuts_give_what_one_letter_after_the_other_gives(
    sequences, layout, widths, ends, soft_mask, edges
):
    records = {f"r{i}": sequence + random_bases(20 + len(sequence)) for i, sequence in enumerate(sequences)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters_module, "_EDGES", edges)
        batches = feed(encoder(soft_mask=soft_mask), records, layout, widths, ends)
    assert spell(batches) == {name: naive(sequence, soft_mask) for name, sequence in records.items()}
    whole = "".join(records.values())
    assert sum(batch.ambiguous for batch in batches) == sum(letter.upper() in IUPAC for letter in whole)
    assert sum(batch.masked for batch in batches) == sum(letter.islower() for letter in whole)
    assert all(batch.codes.dtype == np.uint8 and batch.reads is None for batch in batches)


@given(coded, cuts, cuts, st.integers(0, 3))
def test_random_bases_are_a_function_of_seed_record_and_position(sequence, layout, other_layout, seed):
    records = {"a": sequence + random_bases(20 + len(sequence))}
    found = spell(feed(encoder("random", seed=seed), records, layout))["a"]
    more = {"z": "ACGTR" * 30} | records
    assert spell(feed(encoder("random", seed=seed), more, other_layout, [7]))["a"] == found
    others = "".join(letter if letter.upper() in IUPAC else "A" for letter in records["a"])
    beside = spell(feed(encoder("random", seed=seed), {"a": others}))["a"]
    assert all(x == y for letter, x, y in zip(others, beside, found, strict=True) if letter != "A")
    for letter, base in zip(records["a"], found, strict=True):
        assert base.upper() in IUPAC.get(letter.upper(), letter.upper().replace("U", "T"))
        assert base.islower() == letter.islower()


def test_other_seeds_records_and_sources_draw_other_bases():
    drawn = [
        decode(letters_batch(own.source, own.data, own.seed, record, b"RYSWKM" * 9 + b"A" * 60).codes)
        for own, record in (
            (encoder("random"), "a"),
            (encoder("random"), "b"),
            (encoder("random", seed=2), "a"),
            (encoder("random", name="y"), "a"),
        )
    ]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("code", IUPAC)
def test_every_allowed_base_is_drawn_about_equally_often(code):
    batch = letters_batch(encoder().source, encoder("random").data, 1, "r", (code + "AC").encode() * 3_000)
    counts = {base: decode(batch.codes[::3]).count(base) for base in "ACGTN"}
    for base in "ACGTN":
        share = 1 / len(IUPAC[code]) if base in IUPAC[code] else 0
        assert counts[base] / 3_000 == pytest.approx(share, abs=0.05)


@given(plain, plain, st.sampled_from("EFIJLOPQXZ*-.1?\0\x7f\xff" + ">@"), cuts)
def test_a_letter_that_is_no_nucleotide_is_named_with_its_position(before, after, letter, layout):
    own = encoder()
    text = (before + "A" + letter + after).encode("latin-1")
    own.begin("chr1")
    position = len(before) + 1
    with pytest.raises(ValueError, match=rf"^x\.fa: contig 'chr1', position {position}: ") as error:
        feed_pieces(own, text, list(layout))
    shown = repr(letter) if 32 < ord(letter) < 127 else f"byte 0x{ord(letter):02x}"
    assert f"{position}: {shown} is not a nucleotide" in str(error.value)


@given(plain, st.sampled_from("RYswKMbdHV"), cuts, st.sampled_from(["keep", "n"]))
def test_an_ambiguous_base_can_be_an_error(before, code, layout, soft_mask):
    with pytest.raises(
        ValueError, match=rf"position {len(before)}: ambiguous base '{code}' and data\.iupac is 'error'"
    ):
        feed(encoder("error", soft_mask), {"chr1": before + code + "ACGT"}, layout)
    spelt = spell(feed(encoder("error", soft_mask), {"chr1": before}, layout))
    assert spelt == {"chr1": naive(before, soft_mask)}


def test_a_header_within_a_feed_stops_it_at_the_beginning_of_a_line_only():
    own = encoder()
    own.begin("a")
    for text, expected in ((b"ACGT\n>b", 5), (b"AC\r\n>b", 4), (b">b", 0)):
        own.feed(np.frombuffer(b"\n", dtype=np.uint8), 0)
        assert own.feed(np.frombuffer(text, dtype=np.uint8), 0) == expected
    with pytest.raises(ValueError, match=r"position 8: '>'.*must begin a line"):
        own.feed(np.frombuffer(b"AC>b", dtype=np.uint8), 0)


@pytest.mark.parametrize("batch_ends", [False, True])
def test_proteins_of_nucleotide_codes(batch_ends):
    with pytest.raises(ValueError, match=r"x\.fa: contig 'pep' looks like a protein"):
        feed(encoder(), {"chr1": "ACGT" * 9, "pep": "MKHAVCDDSRWYKVHMSDRK"}, [(40, True), (12, batch_ends)])
    spelt = spell(feed(encoder(), {"primer": "ACGTRYSWAAACGTKM"}, [(8, batch_ends)]))
    assert spelt == {"primer": "ACGTNNNNAAACGTNN"}


def test_a_protein_is_told_from_the_beginning_of_a_long_record():
    own = encoder()
    own.begin("pep")
    with pytest.raises(ValueError, match="looks like a protein"):
        own.feed(np.frombuffer(b"MKHAVCDDSRWYKVHMSDRK" * 501, dtype=np.uint8), 0)
    spelt = spell(feed(encoder(), {"chr1": "ACGT" * 2_600 + "R" * 30_000}, [(12_000, True)]))
    assert spelt["chr1"].count("N") == 30_000


@pytest.mark.parametrize(
    ("letters", "message"),
    [
        ("MKTAYIAKQRQISFVKSHFSRQ", r"position 4: 'Y'|position \d+: 'I'.*protein"),
        ("ACGT--ACGT", r"position 4: '-'.*gaps"),
        ("ACGT ACGT\x00", r"position 8: byte 0x00"),
    ],
)
def test_hints(letters, message):
    with pytest.raises(ValueError, match=message) as error:
        feed(encoder(), {"r": letters})
    assert len(str(error.value).splitlines()) == 1


def test_one_record_at_once():
    own = encoder()
    batch = letters_batch(own.source, own.data, 1, "r", b"ACgtNNuR")
    assert spell([batch]) == {"r": "ACgtNNtN"}
    assert (batch.masked, batch.ambiguous, batch.starts.tolist()) == (3, 1, [0])
    empty = letters_batch(own.source, own.data, 1, "r", b"")
    assert (len(empty.codes), empty.names) == (0, ["r"])
