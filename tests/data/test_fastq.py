from __future__ import annotations

import gzip

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import random_bases
from reading import SIRV, Read, batches, keys, read

from titans_genomics.data import bgzf

RECORD = "@read1\nACGTN\n+\nIIIII\n"


def write(path, text):
    path.write_bytes(text.encode("latin-1"))
    return path


def fastq_of(bam, path, line_end="\n"):
    """The primary reads of a BAM as FASTQ, as `samtools fastq` writes them."""
    with pysam.AlignmentFile(str(bam), check_sq=False) as lines, path.open("w", newline="") as out:
        for line in lines.fetch(until_eof=True):
            if not line.is_secondary and not line.is_supplementary:
                quality = "".join(chr(33 + q) for q in line.get_forward_qualities())
                record = (f"@{line.query_name}", line.get_forward_sequence(), "+", quality)
                out.write(line_end.join(record) + line_end)
    return path


def unaligned(reads):
    return [Read(each.name, each.bases, "+", None, None) for each in reads]


@pytest.mark.parametrize(
    "filters", [{}, {"min_base_quality": 12}, {"min_length": 900, "max_length": 1_500, "fraction": 0.5}]
)
def test_a_fastq_gives_what_its_bam_gives(tmp_path, filters):
    path = fastq_of(SIRV, tmp_path / "x.fastq")
    source = {"path": str(path), "name": "x"}
    reads, dropped = read(source, **filters)
    wanted, reasons = read({"path": str(SIRV), "name": "x"}, **filters)
    assert reads == unaligned(wanted)
    assert {k: n for k, n in reasons.items() if "alignment" not in k} == dropped
    assert keys(batches(source)[0]) == keys(batches({"path": str(SIRV), "name": "x"})[0])


@pytest.mark.parametrize("kind", ["gzip", "bgzip", "crlf", "no last line end", "blank lines at the end"])
def test_ways_of_writing_give_the_same(tmp_path, kind):
    path = fastq_of(SIRV, tmp_path / "x.fastq")
    other = tmp_path / "y.fastq"
    content = path.read_bytes()
    if kind == "bgzip":
        with pysam.BGZFile(str(other), "wb") as handle:
            handle.write(content)
    else:
        other.write_bytes(
            {
                "gzip": gzip.compress(content),
                "crlf": content.replace(b"\n", b"\r\n"),
                "no last line end": content[:-1],
                "blank lines at the end": content + b"\n \r\n\n",
            }[kind]
        )
    assert read(other) == read(path)


LINE_ENDS = st.sampled_from(["\n", "\r\n"])
RECORDS = st.lists(
    st.tuples(
        st.integers(1, 99),
        st.integers(1, 12),
        st.sampled_from(["", "/1", "/2", " 1:N:0:A", " some words"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(RECORDS, LINE_ENDS, st.integers(1, 40), st.sampled_from(["", "end", "\n\n"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_may_be_cut_anywhere(tmp_path, monkeypatch, records, line_end, block, last):
    lines, wanted = [], []
    for number, length, behind, repeated in records:
        bases = random_bases(length, number)
        name = f"r{number}{behind}"
        lines += [f"@{name}", bases, f"+{name}" if repeated else "+", "".join(chr(33 + i % 94) for i in range(length))]
        mate = "/1" if behind == " 1:N:0:A" else behind.split(" ")[0]
        wanted.append(Read(f"r{number}{mate}", bases, "+", None, None))
    text = line_end.join(lines) + ("" if last == "end" else line_end + last)
    monkeypatch.setattr(bgzf, "BLOCK", block)
    assert read(write(tmp_path / "x.fq", text), min_length=1) == (wanted, {})


def test_mates_share_a_key(tmp_path):
    text = "".join(
        f"@{name}\nACGT\n+\nIIII\n" for name in ("a/1", "a/2", "b 1:N:0:C", "b 2:N:0:C", "c/3", "/1", "d 1:X:0:")
    )
    found, _ = batches(write(tmp_path / "x.fq", text), reads={"min_length": 1})
    key = keys(found)
    assert list(key) == ["a/1", "a/2", "b/1", "b/2", "c/3", "/1", "d"]
    assert key["a/1"] == key["a/2"]
    assert key["b/1"] == key["b/2"]
    assert len(set(key.values())) == 5


def test_reads_that_failed_quality_control(tmp_path):
    path = write(
        tmp_path / "x.fq", "@a 1:Y:0:C\nACGT\n+\nIIII\n@b/1 1:Y:0:C\nACGT\n+\nIIII\n@c 2:N:0:C\nACGT\n+\nIIII\n"
    )
    reads, dropped = read(path, min_length=1)
    assert ([each.name for each in reads], dropped) == (["c/2"], {"failed quality control": 2})
    assert len(read(path, min_length=1, qc_fail=True)[0]) == 3


def test_filters_on_alignments_do_not_concern_a_fastq(tmp_path):
    path = write(tmp_path / "x.fq", RECORD)
    reads, _ = read(
        path,
        min_length=1,
        unmapped=False,
        require_flags=16,
        exclude_flags=4,
        min_mapq=30,
        clip=True,
        strand="reference",
    )
    assert [each.bases for each in reads] == ["ACGTN"]


def test_reads_of_no_bases_are_dropped_and_counted(tmp_path):
    path = write(tmp_path / "x.fq", "@empty\n\n+\n\n" + RECORD + "@last\n\n+\n\n")
    reads, dropped = read(path, min_length=1)
    assert ([each.name for each in reads], dropped) == (["read1"], {"no sequence stored": 2})


def test_no_read_left(tmp_path):
    with pytest.raises(ValueError, match=r"x.fq: no read left after the filters \(1 shorter than 100 bases\)"):
        read(write(tmp_path / "x.fq", RECORD))


def test_regions_need_alignments(tmp_path):
    with pytest.raises(ValueError, match=r"x.fq: data.reads.regions needs aligned reads"):
        read(write(tmp_path / "x.fq", RECORD), regions=["chr1"])


@pytest.mark.parametrize(
    ("record", "line", "message"),
    [
        ("@r\nACGT\n+\nIII\n", 8, r"\(record 'r'\): 4 bases and 3 qualities"),
        ("@r\nACGT\n+\nIII", 8, r"\(record 'r'\): 4 bases and 3 qualities.*cut short"),
        ("@r\nACGT\n+\nIIIII\n", 8, r"\(record 'r'\): 4 bases and 5 qualities"),
        (f"@r\nACGT\n+\n{'I' * 5_000}\n", 8, r"\(record 'r'\): 4 bases and more qualities"),
        ("@r\nACGT\nIIII\n", 7, r"\(record 'r'\): the line after the sequence begins with '\+', this one with 'IIII'"),
        (
            "@r\nACGT\nACGT\n+\nIIIIIIII\n",
            7,
            r"\(record 'r'\): the sequence goes on in a second line.*four lines.*seqtk",
        ),
        ("@r\nACGT\n+q\nIIII\n", 7, r"\(record 'r'\): the name behind '\+' is another one: '\+q'"),
        ("@r\nACGT\n+r2\nIIII\n", 7, "is another one"),
        ("@r x\nACGE\n+\nIIII\n", 6, r"\(record 'r'\): position 3: 'E' is not a nucleotide"),
        ("@r\nAC GT\n+\nIIIII\n", 6, "position 2: byte 0x20 is not a nucleotide"),
        ("@r\nAC\xffGT\n+\nIIIII\n", 6, "position 2: byte 0xff is not a nucleotide"),
        ("@r\nACGT\n+\nII\x7fI\n", 8, r"position 2: byte 0x7f is not a quality"),
        ("@r\nACGT\n+\nI II\n", 8, r"position 1: byte 0x20 is not a quality"),
        ("@\nACGT\n+\nIIII\n", 5, "a record has no name: write one after '@'"),
        ("@ r\nACGT\n+\nIIII\n", 5, "a record has no name"),
        ("\n@r\nACGT\n+\nIIII\n", 5, "an empty line within the file"),
        (">r\nACGT\n", 5, "a record begins with '@', this line with '>r'"),
        ("ACGT\n+\nIIII\n", 5, "a record begins with '@', this line with 'ACGT'"),
        ("@r", 5, r"\(record 'r'\): the file is cut short within the record"),
        ("@r\nAC", 6, r"\(record 'r'\): the file is cut short"),
        ("@r\nACGT\n", 6, r"\(record 'r'\): the file is cut short"),
        ("@r\nACGT\n+", 7, r"\(record 'r'\): the file is cut short"),
        ("@r\nACGT\n+\n", 7, r"\(record 'r'\): the file is cut short"),
        ("@r\rACGT\r+\rIIII\r", 5, r"\(record 'r'\): the file is cut short"),
    ],
)
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_errors_name_file_line_and_record(tmp_path, monkeypatch, record, line, message, block):
    monkeypatch.setattr(bgzf, "BLOCK", block)
    path = write(tmp_path / "x.fq", RECORD + record)
    with pytest.raises(
        ValueError, match=rf"x.fq: line {line}( \(record 'r'\))?: .*" + message.replace(r"\(record 'r'\): ", "")
    ):
        read(path, min_length=1)


@pytest.mark.parametrize("block", [1, 2, 5, 21])
def test_an_empty_line_at_the_end_of_a_block_is_not_the_end_of_the_file(tmp_path, monkeypatch, block):
    monkeypatch.setattr(bgzf, "BLOCK", block)
    with pytest.raises(ValueError, match=r"x.fq: line 5: an empty line within the file"):
        read(write(tmp_path / "x.fq", RECORD + "\n" + RECORD), min_length=1)
    reads, _ = read(write(tmp_path / "x.fq", RECORD + "\n\n"), min_length=1)
    assert len(reads) == 1


def test_damaged_compression(tmp_path):
    path = tmp_path / "x.fq"
    path.write_bytes(gzip.compress(fastq_of(SIRV, tmp_path / "y.fq").read_bytes())[:-100])
    with pytest.raises(ValueError, match=r"x.fq: gzip data cut short"):
        read(path)


def test_iupac_codes_as_errors(tmp_path):
    path = write(tmp_path / "x.fq", "@r\nACRT\n+\nIIII\n")
    with pytest.raises(ValueError, match=r"x.fq: read 'r', position 2: ambiguous base 'R'"):
        read(path, iupac="error", min_length=1)
