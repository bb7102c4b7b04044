from __future__ import annotations

import re
import struct
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, random_bases

from titans_genomics.data import alphabet, twobit

GENOME = {"chr1": "acgtNNNNACGTTTTTTTTggNNnn", "chr2": "", "chrUn_3": random_bases(1_001) + "n" * 7}


def blocks(letters, pattern):
    return [(found.start(), found.end() - found.start()) for found in re.finditer(pattern, letters)]


def write(path, genome, order="<", version=0, **changed):
    """A 2bit file of letters in either case; ``changed`` replaces what the first sequence or the header says."""
    header = {"signature": 0x1A412743, "version": version, "count": len(genome), "reserved": 0, "offset": 0} | changed
    place = "Q" if version else "I"
    names = [name if isinstance(name, bytes) else name.encode() for name in genome]
    at = 16 + sum(1 + len(name) + struct.calcsize(order + place) for name in names)
    index, records = b"", b""
    for number, (name, letters) in enumerate(zip(names, genome.values(), strict=True)):
        own = changed if number == 0 else {}
        record = struct.pack(order + "I", own.get("length", len(letters)))
        for listed in (own.get("unknown", blocks(letters, "[Nn]+")), own.get("masked", blocks(letters, "[acgtn]+"))):
            columns = [start for start, _ in listed] + [size for _, size in listed]
            record += struct.pack(f"{order}I{len(columns)}I", len(listed), *columns)
        record += struct.pack(order + "I", own.get("record_reserved", 0))
        bits = ["TCAG".find(letter) % 4 for letter in letters.upper()] + [0] * (-len(letters) % 4)
        record += bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(bits)] * 4, strict=True))
        index += bytes([len(name)]) + name + struct.pack(order + place, at + len(records) + header["offset"])
        records += record
    first = struct.pack(order + "IIII", *(header[key] for key in ("signature", "version", "count", "reserved")))
    path.write_bytes(first + index + records)
    return path


def read(path, **data):
    config = config_for(path, **data)
    shares = []
    batches = list(twobit.read_2bit(config.data.sources[0], config.data, 1, Counter(), shares.append))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return batches


def letters(batches):
    """The genome that batches spell, soft-masked stretches in lower case."""
    genome, name = {}, ""
    for batch in batches:
        spelt = np.frombuffer(alphabet.decode(batch.codes).encode(), dtype=np.uint8).copy()
        for start, end in batch.soft:
            assert 0 <= start < end <= len(spelt)
            spelt[start:end] += 32
        spelt = spelt.tobytes().decode()
        edges = [0, *batch.starts.tolist(), len(spelt)]
        for i, (start, end) in enumerate(pairwise(edges)):
            if i:
                name = batch.names[i - 1]
            if end > start or i:
                genome[name] = genome.get(name, "") + spelt[start:end]
    return genome


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [0, 1])
def test_what_was_written(tmp_path, order, version):
    batches = read(write(tmp_path / "g.2bit", GENOME, order, version))
    assert letters(batches) == GENOME
    assert sum(batch.masked for batch in batches) == sum(letter.islower() for letter in "".join(GENOME.values()))


def test_another_reader_reads_the_same(tmp_path):
    from Bio import SeqIO

    path = write(tmp_path / "g.2bit", GENOME)
    with path.open("rb") as handle:
        assert {record.id: str(record.seq) for record in SeqIO.parse(handle, "twobit")} == letters(read(path))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["A", "c", "ggg", "TTT", "NN", "nn", "acgtacgt"]), max_size=12), min_size=1, max_size=4
    ),
    st.integers(1, 40),
)
def test_pieces_of_any_length_spell_the_same(tmp_path_factory, sequences, piece):
    genome = {f"s{i}": "".join(parts) for i, parts in enumerate(sequences)}
    path = write(tmp_path_factory.mktemp("2bit") / "g.2bit", genome)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twobit, "BATCH", piece)
        batches = read(path)
    assert letters(batches) == genome
    assert all(len(batch.codes) <= piece for batch in batches)


def test_soft_mask_settings(tmp_path):
    path = write(tmp_path / "g.2bit", {"chr1": "AAccGGnnTT"})
    assert letters(read(path, soft_mask="ignore")) == {"chr1": "AACCGGNNTT"}
    assert letters(read(path, soft_mask="n")) == {"chr1": "AANNGGNNTT"}
    assert [batch.masked for batch in read(path, soft_mask="n")] == [4]


def test_names_end_at_white_space(tmp_path):
    assert list(letters(read(write(tmp_path / "g.2bit", {"chr1 of a mouse": "ACGT"})))) == ["chr1"]


@pytest.mark.parametrize("version", [0, 1])
def test_cut_short_anywhere(tmp_path, version):
    path = write(tmp_path / "g.2bit", {"chr1": "acgtNNNNACGTT", "chr2": "ACG"}, version=version)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"g\.2bit: "):
            read(path)


@pytest.mark.parametrize(
    ("genome", "changed", "message"),
    [
        (GENOME, {"signature": 0x1A412744}, "signature"),
        (GENOME, {"version": 2}, "version 2"),
        (GENOME, {"reserved": 5}, "must be 0 is 5"),
        (GENOME, {"record_reserved": 5}, "'chr1' has 5 in a field that must be 0"),
        (GENOME, {"count": 0}, "no sequence"),
        (GENOME, {"count": 4_000_000_000}, "damaged|cut short"),
        (GENOME, {"offset": -30}, r"'chr1' would begin at byte \d+ of"),
        (GENOME, {"offset": 100_000}, "'chr1' would begin at byte 100,"),
        (GENOME, {"length": 4_294_967_295}, "ends within sequence 'chr1'"),
        (GENOME, {"length": 400}, "'chr1' and 'chr2' overlap"),
        (GENOME, {"unknown": [(20, 6)]}, "'chr1': N block 20-26 lies outside its 25 bases"),
        (GENOME, {"unknown": [(20, 4_294_967_295)]}, "N block 20-4,294,967,315 lies outside"),
        (GENOME, {"unknown": [(4, 4), (7, 2)]}, "N block 7-9 lies before the block in front of it ends"),
        (GENOME, {"masked": [(8, 4), (0, 2)]}, "mask block 0-2 lies before"),
        ({"chr\u00e9": "ACGT"}, {}, "no ASCII name"),
        ({b"a\0b": "ACGT"}, {}, "no ASCII name"),
        ({"": "ACGT"}, {}, "no ASCII name"),
        ({"chr1": "ACGT", "chr1 again": "ACGT"}, {}, "two sequences are named 'chr1'"),
    ],
)
def test_damage_is_named(tmp_path, genome, changed, message):
    path = write(tmp_path / "g.2bit", genome, **changed)
    with pytest.raises(ValueError, match=rf"g\.2bit: .*({message})"):
        read(path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_an_error_or_harmless(tmp_path_factory, changes):
    path = write(tmp_path_factory.mktemp("2bit") / "g.2bit", {"chr1": "acgtNNNNACGTT", "chr2": "ACGNNNTcca" * 5})
    raw = bytearray(path.read_bytes())
    for at, value in changes:
        raw[at % len(raw)] = value
    path.write_bytes(raw)
    try:
        batches = read(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        return
    assert all(batch.codes.max(initial=0) <= 4 for batch in batches)
