"""Good files of every format, mangled at random: a reader gives the right bases or one line that says what is wrong."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from pathlib import Path

import bad_files as files
import naive
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_genomics.data import bgzf

INTEGERS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\1\0\0\0"]
WORDS = [b"\n", b"\r", b"\r\n", b">", b"@", b"+", b"\t", b" ", b"\0", b"//\n", b"\xc2\xb2", b"9" * 30, b'"', b"N" * 40]
MOST = 20_000  # bytes of a mangled file


@pytest.fixture(autouse=True, scope="module")
def impatient() -> Iterator[None]:
    """A reader that does not come back ends the tests with a traceback of where it is."""
    faulthandler.dump_traceback_later(1800, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@st.composite
def mangled(draw: st.DrawFn, kind: str) -> bytes:
    """A good file with one to four faults: cut short, and bytes changed, put in, taken out, doubled or moved."""
    content = bytearray(files.good(kind))
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        size = draw(st.one_of(st.integers(1, 8), st.integers(1, len(content))))
        part = content[at : at + size]
        how = draw(st.sampled_from(["cut", "flip", "set", "put", "take", "double", "move", "word", "integer"]))
        if how == "cut":
            del content[at:]
        elif how == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            content[at] = draw(st.integers(0, 255))
        elif how == "put":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif how == "take":
            del content[at : at + size]
        elif how == "double":
            content[at:at] = part
        elif how == "move":
            to = draw(st.integers(0, len(content) - 1))
            content[to : to + len(part)] = part
        else:
            word = draw(st.sampled_from(WORDS if how == "word" else INTEGERS))
            content[at : at + (len(word) if how == "integer" else 0)] = word
    return bytes(content[:MOST])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A file to write to; what a FASTA index would be of lies elsewhere."""
    folder = tmp_path_factory.mktemp("mangled")
    (folder / "a.fa").write_bytes(files.fasta())
    return folder / "x"


@pytest.fixture(scope="module", params=[200, 1 << 22], ids=["in blocks", "in one block"])
def blocks(request) -> Iterator[int]:
    """Bytes of the blocks that plain files are read in; those of BGZF are as long as they were written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bgzf, "BLOCK", request.param)
        yield request.param


@pytest.mark.parametrize("kind", ["bam", "2bit", "genbank", "embl", "bed", "gff", "sheet", "text", "gzip", "bgzf"])
def test_every_reader_reads_or_says_what_is_wrong(place, kind):
    @settings(max_examples=150, deadline=None)
    @given(mangled(kind), st.integers(20, 2_000))
    def check(content: bytes, size: int) -> None:
        place.write_bytes(files.packed(kind, content, size))
        files.refusal(place, kind)

    check()


@settings(max_examples=300, deadline=None)
@given(content=mangled("fasta"))
def test_fasta_is_read_as_the_plainest_way_reads_it(place, blocks, content):
    place.write_bytes(content)
    expected = naive.fasta(content)
    if expected is None:
        assert files.refusal(place, "fasta") is not None
    else:
        found = files.read(place, "fasta")
        assert {name.partition(":")[2]: codes.tolist() for name, codes in found.items()} == expected


@settings(max_examples=300, deadline=None)
@given(content=mangled("fastq"))
def test_fastq_is_read_as_the_plainest_way_reads_it(place, blocks, content):
    place.write_bytes(content)
    expected = naive.fastq(content)
    if not expected or not any(expected):  # reads without bases are dropped
        assert files.refusal(place, "fastq") is not None
    elif b"\0" in content:
        files.refusal(place, "fastq")  # it may be taken for a binary file
    else:
        found = files.read(place, "fastq")
        assert [codes.tolist() for codes in found.values()] == [read for read in expected if read]


@pytest.mark.parametrize("kind", ["gzip", "bgzf"])
def test_no_compressed_file_gives_other_bases(place, kind):
    """Its checksums see to it, unless no byte of the data was touched."""
    whole = naive.fasta(files.good("fasta"))

    @settings(max_examples=150, deadline=None)
    @given(mangled(kind))
    def check(content: bytes) -> None:
        place.write_bytes(content)
        if files.refusal(place, "fasta") is None and content[:2] == b"\x1f\x8b":
            found = files.read(place, "fasta")
            read = {name.partition(":")[2]: codes.tolist() for name, codes in found.items()}
            assert read == whole or content.count(b"\x1f\x8b\x08") != files.good(kind).count(b"\x1f\x8b\x08")

    check()
