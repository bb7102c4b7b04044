"""Tracks of genomes and annotations as users have them: empty, odd, in part; and runs that were stopped or had no room."""

from __future__ import annotations

import errno
import json
import re
import resource

import numpy as np
import pybigtools
import pytest
from made_run import make_run, random_bases, write_fasta

from titans_genomics.use import track_parts
from titans_genomics.use.page import read_features
from titans_genomics.use.reader import open_run
from titans_genomics.use.track import track


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def reader(run):
    return open_run(run)


def values(out, name, contig):
    return pybigtools.open(str(out / f"{name}.bw")).values(contig, fillna=None)


def page_data(out):
    text = (out / "tracks.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# ----------------------------------------------------------------------------------------------- genomes


@pytest.mark.parametrize("text", ["", ">a\n>b\n"], ids=["an empty file", "contigs without bases"])
def test_a_genome_without_bases_gives_valid_empty_output(reader, tmp_path, text):
    (tmp_path / "g.fa").write_text(text)
    out = tmp_path / "out"
    result = track(reader, tmp_path / "g.fa", out)
    assert sorted(path.name for path in out.iterdir()) == ["surprising.bed", "tracks.html", "tracks.json"]
    assert (out / "surprising.bed").read_text() == ""
    assert json.loads((out / "tracks.json").read_text()) == result
    assert (result["bases"], result["tracks"], result["bits_per_base"]) == (0, {}, None)
    assert len(result["warnings"]) == 1
    assert "g.fa: no bases to read; no bigWig is written" in result["warnings"][0]
    assert [own["length"] for own in page_data(out)["contigs"]] == [0] * text.count(">")


def test_contigs_of_one_base_and_bins_longer_than_contigs(reader, tmp_path):
    long = random_bases(90)
    write_fasta(tmp_path / "g.fa", "A", "N", long, "N" * 50)
    result = track(reader, tmp_path / "g.fa", tmp_path / "bins", tracks=["bits", "alpha"], step=1000, mask=["n"])
    track(reader, tmp_path / "g.fa", tmp_path / "bases", tracks=["bits", "alpha"])
    assert [own["scored"] for own in result["contigs"].values()] == [0, 0, 89, 0]
    found = pybigtools.open(str(tmp_path / "bins" / "bits.bw"))
    (only,) = found.records("record2")
    assert only[:2] == (0, 90)
    assert only[2] == pytest.approx(np.nanmean(values(tmp_path / "bases", "bits", "record2")), rel=1e-6)
    assert found.chroms() == {"record2": 90}  # contigs without a value are not in the file
    assert pybigtools.open(str(tmp_path / "bins" / "alpha_layer0.bw")).chroms() == {"record0": 1, "record2": 90}


def test_zoom_levels_summarise_the_bases(reader, tmp_path):
    write_fasta(tmp_path / "g.fa", random_bases(20_000))
    result = track(reader, tmp_path / "g.fa", tmp_path, tracks=["bits"])
    own = values(tmp_path, "bits", "record0").astype(np.float64)
    with pybigtools.open(str(tmp_path / "bits.bw")) as made:
        assert made.zooms()
        for zoom in made.zooms():
            for start, end, summary in made.zoom_records(zoom, "record0"):
                inside = own[start:end][np.isfinite(own[start:end])]
                assert summary["bases_covered"] == len(inside)
                assert summary["sum"] == pytest.approx(inside.sum(), rel=1e-4)
                assert summary["min_val"] == pytest.approx(inside.min(), rel=1e-6)
                assert summary["max_val"] == pytest.approx(inside.max(), rel=1e-6)
        assert made.info()["summary"]["basesCovered"] == 19_999
    assert result["bits_per_base"] == pytest.approx(np.nanmean(own), rel=1e-9)


def test_names_of_contigs_are_data_everywhere(reader, tmp_path):
    name = "c|1;<b>&\"'%</script>é"
    (tmp_path / "g.fa").write_text(f">{name} more words\n{random_bases(900)}\n", encoding="utf-8")
    (tmp_path / "g.gff").write_text(
        f"##gff-version 3\n{name}\tx\tgene\t1\t9\t.\t+\t.\tName=%3Cimg src=x onerror=alert(1)>\n##FASTA\n>{name}\nACGT\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    track(reader, tmp_path / "g.fa", out, tracks=["surprise"], annotation=tmp_path / "g.gff")
    data = page_data(out)
    assert data["contigs"] == [{"name": name, "length": 900}]
    assert data["features"] == [[0, 0, 9, "+", "gene", "<img src=x onerror=alert(1)>"]]
    assert (out / "tracks.html").read_text().count("<img") == 0
    assert (out / "surprising.bed").read_text(encoding="utf-8").startswith(f"{name}\t")
    assert list(pybigtools.open(str(out / "surprise_layer0.bw")).chroms()) == [name]


# -------------------------------------------------------------------------------------------- annotations


def test_features_of_contigs_that_are_not_read_are_left_out(reader, tmp_path):
    write_fasta(tmp_path / "g.fa", random_bases(60), random_bases(70))
    (tmp_path / "f.bed").write_text("record0\t1\t5\tone\nrecord1\t2\t6\ttwo\n")
    track(
        reader, tmp_path / "g.fa", tmp_path / "out", tracks=["bits"], contigs=["record1"], annotation=tmp_path / "f.bed"
    )
    assert page_data(tmp_path / "out")["features"] == [[0, 2, 6, ".", "", "two"]]


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["CDS 1 30 ID=c1;product=kinase", "tRNA 40 50 ID=t1"], ["kinase", "t1"]),  # as Prokka and Bakta write
        (["region 1 90 ID=r", "gene 1 30 ID=g1;gene=abc", "CDS 1 30 Parent=g1", "region 5 9 ID=inner"], ["abc", "inner"]),
        (['gene 1 30 gene_id "g"', 'transcript 1 30 gene_id "g"; transcript_id "t"', 'exon 1 9 transcript_id "t"'], ["g"]),
        (['transcript 1 30 transcript_id "t"; gene_id "u"', 'exon 1 9 transcript_id "t"'], ["u"]),
    ],
    ids=["CDS alone", "genes with CDS", "GTF with genes", "GTF without genes"],
)  # fmt: skip
def test_genes_are_shown_once(tmp_path, lines, shown):
    rows = (line.split(" ", 3) for line in lines)
    made = [f"c\t1\t{kind}\t{start}\t{end}\t.\t+\t.\t{told}\n" for kind, start, end, told in rows]  # source "1"
    (tmp_path / "a.gff").write_text("##gff-version 3\n" + "".join(made))
    assert [own.name for own in read_features(tmp_path / "a.gff", {"c": 90}, tmp_path / "g.fa")] == shown


# ------------------------------------------------------------------------------------- stopped, and no room


def test_a_memory_that_never_begins_anew_is_kept_for_the_next_run(reader, tmp_path, monkeypatch):
    write_fasta(tmp_path / "g.fa", random_bases(300), random_bases(1000))
    wanted = {"tracks": ["bits", "surprise"], "stretch": None, "piece": 50}
    track(reader, tmp_path / "g.fa", tmp_path / "whole", **wanted)
    monkeypatch.setattr(track_parts, "SAVED", 200)
    read, calls = track_parts.Reading.rows, []

    def stopping(self, tokens, following):
        calls.append(len(tokens))
        if len(calls) == 6 + 17:  # the first contig, and 800 bases of the second
            raise KeyboardInterrupt
        return read(self, tokens, following)

    monkeypatch.setattr(track_parts.Reading, "rows", stopping)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        track(reader, tmp_path / "g.fa", out, **wanted)
    assert [path.name for path in out.glob(".parts/*.state")] == ["1.800.state"]
    with (out / ".parts" / "1.open").open("ab") as file:
        file.write(b"half a row")
    calls.clear()
    monkeypatch.setattr(
        track_parts.Reading, "rows", lambda self, *rest: calls.append(len(rest[0])) or read(self, *rest)
    )
    track(reader, tmp_path / "g.fa", out, **wanted)
    assert sum(calls) == 200
    for name in ("bits", "surprise_layer0", "surprise_layer1"):
        np.testing.assert_allclose(values(out, name, "record1"), values(tmp_path / "whole", name, "record1"), rtol=1e-5)
    assert not (out / ".parts").exists()


def test_figures_of_an_earlier_run_do_not_stand_beside_other_tracks(reader, tmp_path, monkeypatch):
    write_fasta(tmp_path / "g.fa", random_bases(300))
    out = tmp_path / "out"
    track(reader, tmp_path / "g.fa", out, tracks=["bits", "entropy"])
    before = (out / "entropy.bw").read_bytes()
    write, calls = track_parts.Parts.values, []

    def stopping(self, *rest):
        calls.append(rest)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, *rest)

    monkeypatch.setattr(track_parts.Parts, "values", stopping)
    with pytest.raises(KeyboardInterrupt):
        track(reader, tmp_path / "g.fa", out, tracks=["bits", "entropy"], stretch=None)
    assert (out / "entropy.bw").read_bytes() == before
    assert not (out / "tracks.json").exists()
    assert not list(out.glob(".*.bw"))


@pytest.fixture
def limited():
    """Files may not grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_the_genome_is_read(reader, tmp_path, monkeypatch, limited):
    write_fasta(tmp_path / "g.fa", random_bases(6000))
    track(reader, tmp_path / "g.fa", tmp_path / "whole", tracks=["bits"])
    monkeypatch.setattr(track_parts, "token_budget", lambda device: 500)
    out = tmp_path / "out"
    limited(10_000)
    with pytest.raises(OSError, match="make room and run again: what was read is kept") as caught:
        track(reader, tmp_path / "g.fa", out, tracks=["bits"])
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in out.iterdir()] == [".parts"]
    limited(1_000_000)
    read, calls = track_parts.Reading.rows, []
    monkeypatch.setattr(
        track_parts.Reading, "rows", lambda self, *rest: calls.append(len(rest[0])) or read(self, *rest)
    )
    track(reader, tmp_path / "g.fa", out, tracks=["bits"])
    assert sum(calls) == 6000 - 10_000 // 4 // 480 * 480  # groups of 15 stretches of 32
    np.testing.assert_allclose(values(out, "bits", "record0"), values(tmp_path / "whole", "bits", "record0"), rtol=1e-5)


def test_a_disk_that_fills_up_while_tracks_are_written(reader, tmp_path, limited):
    write_fasta(tmp_path / "g.fa", random_bases(20_000))
    out = tmp_path / "out"
    limited(5 * 20_000)  # a part takes 4 bytes a base, a bigWig more
    with pytest.raises(OSError, match=r"bits\.bw: could not be written: is the disk full"):
        track(reader, tmp_path / "g.fa", out, tracks=["bits"])
    assert [path.name for path in out.iterdir()] == [".parts"]
    limited(1_000_000)
    assert track(reader, tmp_path / "g.fa", out, tracks=["bits"])["bases_per_second"] is None  # it was read before
