from __future__ import annotations

import gzip
import warnings
from collections import Counter

import pytest
from making import config_for, random_bases

from titans_genomics.data import alphabet
from titans_genomics.data.flatfile import read_embl, read_genbank

READERS = {"genbank": read_genbank, "embl": read_embl}


def read(path, kind="genbank", **data):
    config = config_for(path, **data)
    batches = READERS[kind](config.data.sources[0], config.data, 1, Counter(), lambda share: None)
    records = []
    for batch in batches:
        assert (batch.starts.tolist(), len(batch.names)) == ([0], 1)
        records.append((batch.names[0], alphabet.decode(batch.codes)))
    return records


def write(path, kind="genbank", length=240, molecule="DNA", name="TEST001"):
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    record = SeqRecord(Seq(random_bases(length)), id=name + ".1", name=name, annotations={"molecule_type": molecule})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SeqIO.write([record], path, kind)
    return path


def change(path, *changes):
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def without_sequence(path, instead):
    text = path.read_text()
    path.write_text(text[: text.index("ORIGIN" if "ORIGIN" in text else "SQ  ")] + instead + "\n//\n")
    return path


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_plain_and_gzip(tmp_path, kind):
    plain = write(tmp_path / "x", kind)
    zipped = tmp_path / "x.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(plain, kind) == read(zipped, kind) == [("TEST001.1", random_bases(240))]


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_records_one_after_the_other(tmp_path, kind):
    first, second = write(tmp_path / "x", kind, name="ONE", length=70), write(tmp_path / "y", kind, name="TWO")
    first.write_text("\ufeff" + first.read_text() + "\n\n" + second.read_text(), encoding="utf-8")
    assert read(first, kind) == [("ONE.1", random_bases(70)), ("TWO.1", random_bases(240))]


def test_the_header_of_a_genbank_release(tmp_path):
    path = write(tmp_path / "gbvrl1.seq")
    path.write_text(f"GBVRL1.SEQ          Genetic Sequence Data Bank\n\n   3 loci\n\n{path.read_text()}")
    assert [name for name, _ in read(path)] == ["TEST001.1"]


def test_embl_as_it_was_before_2006(tmp_path):
    path = tmp_path / "old.embl"
    path.write_text(
        "ID   SC10H5 standard; DNA; PRO; 70 BP.\nXX\nAC   AL031232;\nXX\nSV   AL031232.2\nXX\nSQ   Sequence 70 BP;\n"
        f"     {random_bases(60).lower()}        60\n     {random_bases(70)[60:].lower()}        70\n//\n"
    )
    assert read(path, "embl") == [("AL031232.2", random_bases(70))]


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ("CONTIG      join(X1.1:1..240)", "only a CONTIG line"),
        ("WGS         ABCD01000001-ABCD01000009", "only lists the records of a project"),
        ("ORIGIN", "has no sequence"),
    ],
)
def test_genbank_without_sequence(tmp_path, instead, message):
    path = without_sequence(write(tmp_path / "x.gb"), instead)
    with pytest.raises(ValueError, match=r"x.gb: record 'TEST001.1' has no sequence.*GenBank \(full\)") as error:
        read(path)
    assert message in str(error.value)


def test_embl_without_sequence(tmp_path):
    path = without_sequence(write(tmp_path / "x.embl", "embl"), "CO   join(X1.1:1..240)")
    with pytest.raises(ValueError, match=r"x.embl: record 'TEST001.1' has no sequence, only a CONTIG line"):
        read(path, "embl")


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_protein(tmp_path, kind):
    with pytest.raises(ValueError, match=r"x: record 'TEST001.1' is a protein"):
        read(write(tmp_path / "x", kind, molecule="protein"), kind)


def test_protein_that_only_its_length_tells(tmp_path):
    path = change(write(tmp_path / "x.embl", "embl"), ("240 BP.", "240 AA."))
    with pytest.raises(ValueError, match="is a protein"):
        read(path, "embl")


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_another_length_than_said(tmp_path, kind):
    unit = "BP" if kind == "embl" else "bp"
    path = change(write(tmp_path / "x", kind), (f"240 {unit}", f"250 {unit}"))
    with pytest.raises(ValueError, match=r"x: not valid .*record 'TEST001', line \d+: Expected sequence length 250"):
        read(path, kind)


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_cut_short_anywhere(tmp_path, kind):
    path = write(tmp_path / "x", kind, length=130)
    text = path.read_text().rstrip()
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(ValueError, match=r"x: (not valid|no) (GenBank|EMBL)"):
            read(path, kind)


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_cut_short_within_a_further_record(tmp_path, kind):
    first, second = (
        write(tmp_path / "x", kind, name="ONE"),
        write(tmp_path / "y", kind, name="TWO").read_text().rstrip(),
    )
    whole = first.read_text()
    for length in range(1, len(second), 7):
        first.write_text(whole + second[:length])
        with pytest.raises(ValueError, match=r"x: not valid"):
            read(first, kind)


def test_a_record_without_its_first_line_is_not_passed_over(tmp_path):
    path = write(tmp_path / "x.gb", name="ONE")
    path.write_text(path.read_text() + write(tmp_path / "y.gb", name="TWO").read_text().replace("LOCUS", "L0CUS"))
    with pytest.raises(ValueError, match=r"x.gb: not valid GenBank: what stands in front of line \d+"):
        read(path)


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_two_records_of_one_name(tmp_path, kind):
    path = write(tmp_path / "x", kind)
    path.write_text(path.read_text() * 2)
    with pytest.raises(ValueError, match=r"x: two records are named 'TEST001.1'"):
        read(path, kind)


def test_gzip_cut_short(tmp_path):
    path = tmp_path / "x.gb.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "x.gb", length=5_000).read_bytes())[:-100])
    with pytest.raises(ValueError, match=r"x.gb.gz: .*cut short") as error:
        read(path)
    assert str(error.value).count("x.gb.gz") == 1


def test_remarks_that_do_not_touch_the_sequence_are_no_errors(tmp_path):
    path = change(
        write(tmp_path / "x.gb"),
        ("TEST001.1", "."),
        ("FEATURES ", "FEATURES"),
        ("240 bp    DNA", "240 bp DNA"),
    )
    assert read(path) == [("TEST001", random_bases(240))]


def test_faults_in_the_features_are_none_of_the_sequence(tmp_path):
    broken = '     CDS             1..42\n                     /note="never closed\n                     /product "x\n'
    assert len(read(change(write(tmp_path / "x.gb"), ("ORIGIN", broken + "ORIGIN")))) == 1


def test_letters_are_judged_as_in_every_reader(tmp_path):
    path = change(write(tmp_path / "x.gb"), (random_bases(10).lower(), "acgtn-acgt"))
    with pytest.raises(ValueError, match=r"x.gb: contig 'TEST001.1', position 5: '-'"):
        read(path)


@pytest.mark.parametrize("kind", ["genbank", "embl"])
def test_white_space_in_place_of_a_base(tmp_path, kind):
    bases = random_bases(10).lower()
    path = change(write(tmp_path / "x", kind), (bases, bases[:5] + "\t" + bases[6:]))
    with pytest.raises(ValueError, match=r"'TEST001\.1' has tabs or other white space"):
        read(path, kind)
