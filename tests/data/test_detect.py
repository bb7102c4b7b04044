from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from making import config_for, make_bam, random_bases

from titans_genomics.data.detect import detect_kind, source_kind
from titans_genomics.data.readers import check_source

RECORDS = {
    "fasta": b">chr1 a description\nACGT\n",
    "fastq": b"@read1\nACGT\n+\nIIII\n",
    "genbank": b"LOCUS       X1    4 bp    DNA\n",
    "embl": b"ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\nXX\n",
}


def archive(kind):
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("genome.fa"))
    else:
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr("[Content_Types].xml" if kind == "xlsx" else "genome.fa", "x")
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path):
    def write(content, name="thing.fa"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n \r\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_text_formats(file, kind, before, compress):
    path = file(compress(before + RECORDS[kind]), "odd.bam")
    assert detect_kind(path) == kind
    assert source_kind(config_for(path).data.sources[0]) == kind


def test_binary_formats(file, tmp_path):
    assert detect_kind(make_bam(tmp_path / "reads.fa", [{}])) == "bam"
    assert detect_kind(file(b"CRAM\x03\x00" + bytes(50))) == "cram"
    assert detect_kind(file(b"\x43\x27\x41\x1a" + bytes(12))) == "2bit"
    assert detect_kind(file(b"\x1a\x41\x27\x43" + bytes(12))) == "2bit"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b">", "fasta"),
        (b">chr1\nACGT\x00\x01\n", "fasta"),
        (b"@long\n" + b"ACGT" * 40_000 + b"\n+\n", "fastq"),
        (b"@read\r\nACGT\r\n+\r\nIIII\r\n", "fastq"),
        (b"@HD\nACGT\n+\nIIII\n", "fastq"),
        (b"GBVRL1.SEQ   Genetic Sequence Data Bank\n 1 loci\n\nLOCUS       X\n", "genbank"),
        (b"ID   SC10H5 standard; DNA; PRO; 4870 BP.\n", "embl"),
    ],
)
def test_less_usual_beginnings(file, content, kind):
    assert detect_kind(file(content)) == kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive("zip"), "zip archive. Unpack"),
        (archive("xlsx"), "Excel.*FASTA"),
        (archive("tar"), "tar archive. Unpack"),
        (gzip.compress(archive("tar")), "tar archive"),
        (b"BZh91AY&SY", "bzip2. Decompress"),
        (b"\xfd7zXZ\0\0", "with xz. Decompress"),
        (b"\x28\xb5\x2f\xfd\0", "zstd. Decompress"),
        (gzip.compress(gzip.compress(b">chr1\nACGT\n")), "gzip twice"),
        (gzip.compress(b"CRAM\x03\x00"), "CRAM and 2bit files may not be. Decompress"),
        (b"%PDF-1.7\n", "PDF"),
        (pickle.dumps({"a": 1}), "pickle"),
        (b"##fileformat=VCFv4.2\n", "VCF"),
        (gzip.compress(b"##fileformat=VCFv4.2\n"), "VCF"),
        (gzip.compress(b"BCF\x02\x02"), "BCF"),
        (b"##gff-version 3\n", "GFF"),
        (b'chr1\tHAVANA\tgene\t11\t20\t.\t+\t.\tgene_id "x"\n', "GFF or GTF"),
        (b"chr1\t10\t20\n", "intervals .BED."),
        (b"chr1\t10\t20\tname\t0\t+\n", "intervals .BED."),
        (b"track name=x\n", "track"),
        (b"chr1\t1000\t6\t60\t61\nchr2\t900\t1030\t60\t61\n", r"\.fai"),
        (b"<!DOCTYPE html>\n<title>404</title>", "web page.*Download"),
        (b"\n<HTML>", "web page"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (json.dumps({"error": "no such accession"}).encode(), "JSON"),
        (b'[{"a": 1}]', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"@HD\tVN:1.6\n", "SAM.*`samtools view -b`"),
        (b"@SQ\tSN:chr1\tLN:5\n", "SAM"),
        (b"r1\t0\tchr1\t1\t60\t4M\t*\t0\t0\tACGT\tIIII\n", "SAM text without a header"),
        (b"@read1\nACGT\nACGT\n+\nIIII\nIIII\n", "several lines"),
        (b"S\tutg1\tACGT\n", "GFA"),
        (b"CLUSTAL W (1.82)\n", "alignment"),
        (b";a comment\n>chr1\nACGT\n", "';'"),
        (b"ID   001R_FRG3G              Reviewed;         256 AA.\n", "proteins"),
        (b"ID   DI500001       STANDARD;      PRT;   111 AA.\n", "proteins"),
        (b"NCBI.sra\x05", "fasterq-dump"),
        (b"BAI\x01\0\0", "index"),
        (">chr1\nACGT\n".encode("utf-16"), "UTF-16"),
        (">chr1\nACGT\n".encode("utf-16-le"), "UTF-16"),
        ("@r\nACGT\n+\nIIII\n".encode("utf-16-be"), "UTF-16"),
        (b"ACGTACGT\nACGT\n", "without a name"),
        (bytes(1000), "zero bytes"),
        (bytes(range(256)) * 20, "binary"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "binary"),
        (b"\x01\x02\x03\x04ab", "binary"),
        (b"ID   ACTINS_2; PATTERN.\n", "neither FASTA.*'ID   ACTINS_2"),
        (b"@", "neither FASTA"),
        (b"@x\nACGT\nno plus\n", "neither FASTA"),
        ("Es war einmal ein Mädchen".encode(), "neither FASTA.*kind: text"),
        ("很久以前".encode(), "neither FASTA.*很久以前"),
        (b"x", "neither FASTA.*'x'"),
        (b"", "is empty"),
        (b" \n\t\r\n", "is empty"),
        (gzip.compress(b""), "empty inside"),
        (gzip.compress(b"\n\n"), "empty inside"),
        (b"\x1f", "binary"),
        (b"\x1f\x8b", "cut short"),
        (b"\x1f\x8bnot gzip at all", "damaged gzip"),
        (gzip.compress(random_bases(500).encode())[:-30], "cut short"),
    ],
)
def test_everything_else_is_named(file, content, message):
    path = file(content)
    with pytest.raises(ValueError, match=rf"^\S*thing.fa: .*({message})") as error:
        detect_kind(path)
    assert len(str(error.value).splitlines()) == 1


def test_damage_inside_gzip(file):
    raw = bytearray(gzip.compress(b">chr1\n" + random_bases(5_000).encode()))
    raw[200] ^= 255
    with pytest.raises(ValueError, match="damaged gzip data"):
        detect_kind(file(raw))


def test_no_file_a_folder_and_a_pipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x.fa: no such sequence file"):
        detect_kind(tmp_path / "x.fa")
    with pytest.raises(ValueError, match="is a folder"):
        detect_kind(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        detect_kind(tmp_path / "pipe")


def test_a_file_that_may_not_be_read(file, monkeypatch):
    path = file(b">chr1\nACGT\n")

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"thing.fa: cannot be read \(Permission denied\)"):
        detect_kind(path)


def test_a_kind_that_the_content_contradicts(file):
    source = config_for({"path": str(file(RECORDS["fasta"])), "kind": "bam"}).data.sources[0]
    with pytest.raises(ValueError, match="says bam, the content is fasta"):
        source_kind(source)


def test_text_is_what_is_said_to_be_text(file):
    for content in ("Es war einmal".encode("utf-16"), b"{}", RECORDS["fasta"], b"\xe9t\xe9"):
        assert source_kind(config_for({"path": str(file(content)), "kind": "text"}).data.sources[0]) == "text"
    for content, message in ((b"BZh91AY&SY", "bzip2"), (archive("zip"), "zip"), (b"\n", "is empty")):
        with pytest.raises(ValueError, match=message):
            source_kind(config_for({"path": str(file(content)), "kind": "text"}).data.sources[0])


LIKE_OTHERS = (
    "> A quotation\n",
    "<|endoftext|>\nx",
    "; a",
    "[ ] todo",
    "[[x]]",
    "track 1",
    "CLUSTAL",
    "{}",
    "ACGT",
    "@x\nA\n+\nI\n",
)


@pytest.mark.parametrize("content", LIKE_OTHERS)
@pytest.mark.parametrize("name", ["notes.md", "a.txt", "a.text.gz"])
def test_with_bytes_a_file_named_as_text_is_text(file, content, name):
    raw = content.encode()
    config = config_for(file(gzip.compress(raw) if name.endswith("gz") else raw, name), tokenizer={"kind": "byte"})
    assert check_source(config.data.sources[0], config.data) == "text"


@pytest.mark.parametrize(("content", "message"), [("ab".encode("utf-16"), "UTF-16"), (b"\0\1\2ab" * 20, "a binary file"), (archive("zip"), "zip archive")])  # fmt: skip
def test_a_name_makes_no_text_of_other_bytes(file, content, message):
    config = config_for(file(content, "a.txt"), tokenizer={"kind": "byte"})
    with pytest.raises(ValueError, match=message):
        source_kind(config.data.sources[0], data=config.data)


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_what_begins_with_the_separator_is_text(file, kind, before):
    config = config_for(file(before + b"<|endoftext|>\none\n", "book"), tokenizer={"kind": kind})
    assert source_kind(config.data.sources[0], data=config.data) == "text"


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@pytest.mark.parametrize("content", ["> A quotation\nof many words, of which\n", "; a", "[ ] todo", "track 1", "CLUSTAL", '[{"text": "x"}]'])  # fmt: skip
def test_text_that_looks_like_another_format_says_what_to_do(file, content, kind):
    config = config_for(file(content.encode(), "notes"), tokenizer={"kind": kind})
    with pytest.raises(ValueError, match=r"text to learn from: data\.sources\[\]\.kind: text"):
        check_source(config.data.sources[0], config.data)
    config = config_for(file(content.encode(), "notes"))
    with pytest.raises(ValueError, match="notes") as caught:
        check_source(config.data.sources[0], config.data)
    assert "to learn from" not in str(caught.value) or "neither FASTA" in str(caught.value)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_of_json_becomes_lines(file, name):
    config = config_for(file(b'[\n{"text": "x"}\n]', name), tokenizer={"kind": "bpe"})
    with pytest.raises(ValueError, match=r"kind: jsonl; an array of objects becomes such lines with `jq -c '\.\[\]'`"):
        check_source(config.data.sources[0], config.data)
