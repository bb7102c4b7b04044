from __future__ import annotations

import gzip

import pytest
from making import config_for, make_bam, random_bases

from titans_genomics.data.readers import check_source, detect_kind, encode_record, open_source


def read(path, **data):
    config = config_for(path, **data)
    return list(open_source(config.data.sources[0], config.data))


def encode_all(path, **data):
    config = config_for(path, **{"min_contig": 1, **data})
    source = config.data.sources[0]
    return [encode_record(record, source, config.data) for record in open_source(source, config.data)]


def genbank(path, length=240, molecule="DNA", origin=True, name="TEST001", said=None):
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    record = SeqRecord(Seq(random_bases(length)), id=name + ".1", name=name, annotations={"molecule_type": molecule})
    SeqIO.write([record], path, "genbank")
    text = path.read_text()
    if said:
        text = text.replace(f"{length} bp", f"{said} bp")
    if not origin:
        text = text[: text.index("ORIGIN")] + f"CONTIG      join(X1.1:1..{length})\n//\n"
    path.write_text(text)
    return path


def test_the_content_decides_the_kind_not_the_name(fasta, tmp_path):
    plain = fasta(name="odd.bam", chr1=random_bases(200))
    assert detect_kind(plain) == "fasta"
    assert detect_kind(make_bam(tmp_path / "reads.fa", [{}])) == "bam"
    assert detect_kind(genbank(tmp_path / "x.txt")) == "genbank"


def test_a_kind_that_the_content_contradicts(fasta):
    config = config_for({"path": str(fasta(chr1=random_bases(200))), "kind": "bam"})
    with pytest.raises(ValueError, match="says bam, the content is fasta"):
        check_source(config.data.sources[0], config.data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"@read1\nACGT\n+\nIIII\n", "FASTQ"),
        (b"@HD\tVN:1.6\n", "SAM"),
        (b"CRAM\x03\x00", "CRAM"),
        (b"##fileformat=VCFv4.2\n", "VCF"),
        (b"BZh91AY&SY", "bzip2"),
        (bytes(range(256)) * 20, "binary"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "binary"),
        (b"ACGTACGT\n", "neither FASTA"),
        (b"\x1f\x8bnot gzip at all", "gzip"),
    ],
)
def test_other_formats_are_named(tmp_path, content, message):
    path = tmp_path / "thing.fa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        detect_kind(path)
    assert str(path) in str(error.value)


def test_protein_where_dna_is_due(tmp_path):
    path = tmp_path / "p.fa"
    path.write_text(">sp|P1 protein\nMKTAYIAKQRQISFVKSHFSRQ\n")
    with pytest.raises(ValueError, match=r"p.fa: contig 'sp\|P1'.*protein"):
        encode_all(path)


def test_protein_of_letters_that_are_all_nucleotide_codes(tmp_path):
    path = tmp_path / "p.fa"
    path.write_text(">pep\nMKHAVCDDSRWYKVHMSDRK\n")
    with pytest.raises(ValueError, match="looks like a protein"):
        encode_all(path)


def test_binary_within_a_fasta(tmp_path):
    path = tmp_path / "b.fa"
    path.write_bytes(b">chr1\n" + b"ACGT" * 100 + b"\x00\x01\n")
    with pytest.raises(ValueError, match=r"b.fa: contig 'chr1', position 400: 'byte 0x00'"):
        encode_all(path)


def test_gaps_of_an_alignment(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">chr1\nACGT--ACGT\n")
    with pytest.raises(ValueError, match=r"position 4.*gaps"):
        encode_all(path)


def test_genbank_plain_and_gzip(tmp_path):
    plain = genbank(tmp_path / "x.gb")
    zipped = tmp_path / "x.gb.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    (record,), (same,) = read(plain), read(zipped)
    assert record == same
    assert (record.name, record.sequence.decode()) == ("TEST001.1", random_bases(240))


def test_genbank_without_sequence(tmp_path):
    with pytest.raises(ValueError, match=r"x.gb: record 'TEST001.1' has no sequence"):
        read(genbank(tmp_path / "x.gb", origin=False))


def test_genbank_of_a_protein(tmp_path):
    with pytest.raises(ValueError, match="is a protein"):
        read(genbank(tmp_path / "x.gb", molecule="protein"))


def test_genbank_shorter_than_it_says(tmp_path):
    with pytest.raises(ValueError, match=r"x.gb: not valid GenBank"):
        read(genbank(tmp_path / "x.gb", said=250))


def test_genbank_cut_short(tmp_path):
    path = genbank(tmp_path / "x.gb", length=2_000)
    path.write_text(path.read_text()[:1_500])
    with pytest.raises(ValueError, match=r"x.gb: not valid GenBank"):
        read(path)


def test_genbank_with_two_records_of_one_name(tmp_path):
    path = genbank(tmp_path / "x.gb")
    path.write_text(path.read_text() * 2)
    with pytest.raises(ValueError, match="two records are named"):
        read(path)


def test_genbank_remarks_that_do_not_touch_the_sequence_are_no_errors(tmp_path):
    path = genbank(tmp_path / "x.gb")
    text = path.read_text().replace("TEST001.1", ".")
    path.write_text(text.replace("FEATURES ", "FEATURES").replace("240 bp    DNA", "240 bp DNA"))
    (record,) = read(path)
    assert (record.name, len(record.sequence)) == ("TEST001", 240)


def test_a_protein_is_found_before_anything_is_read_through(tmp_path):
    path = tmp_path / "p.fa"
    path.write_text(">sp|P1 protein\nMKTAYIAKQRQISFVKSHFSRQ\n>chr1\nACGT\n")
    config = config_for(path)
    with pytest.raises(ValueError, match=r"p.fa: contig 'sp\|P1', position 4: 'Y'|'sp\|P1'.*protein"):
        check_source(config.data.sources[0], config.data)
