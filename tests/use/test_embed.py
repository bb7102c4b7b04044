"""Vectors against whole sequences read one by one, and the files that they are read from and written to."""

import json
import resource
from importlib import util
from pathlib import Path

import anndata
import h5py
import numpy as np
import pyarrow.parquet as pq
import pysam
import pytest
import torch
from made_run import made_reader

from titans_genomics.config import TokenizerConfig
from titans_genomics.data.alphabet import encode, reverse_complement
from titans_genomics.data.pieces import learn_bpe
from titans_genomics.data.tokenizers import Bytes, Kmers
from titans_genomics.progress import Progress
from titans_genomics.use import embedding
from titans_genomics.use.embed import embed, vectors
from titans_genomics.use.records import read_bed, read_sequences

LENGTHS = (1, 7, 40, 33, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="module")
def reader(folder):
    return made_reader(folder)


def sequences(lengths=LENGTHS, letters=5):
    rng = np.random.default_rng(2)
    return [rng.integers(0, letters, n).astype(np.uint8) for n in lengths]


def states(reader, codes, layer):
    """Hidden states (tokens, D) of one sequence that is read whole, as the blocks give them."""
    seen = [None] * 3
    hooks = [
        reader.model.embedding.register_forward_hook(lambda _, __, out: seen.__setitem__(0, out)),
        reader.model.blocks[0].register_forward_hook(lambda _, __, out: seen.__setitem__(1, out[0])),
    ]
    with torch.inference_mode():
        tokens = torch.from_numpy(reader.tokenizer.encode(codes).astype(np.int64))[None]
        seen[2], _ = reader.model.embed(tokens, reader.state(1))
    for hook in hooks:
        hook.remove()
    return seen[layer][0].double().numpy()


def pooled(reader, codes, layer=2, pooling="mean", stretch=None):
    """One strand: the mean of all states, or the last."""
    stretch = stretch or len(codes)
    parts = [states(reader, codes[at : at + stretch], layer) for at in range(0, len(codes), stretch)]
    return np.concatenate(parts).mean(0) if pooling == "mean" else parts[-1][-1]


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_sequence_is_the_mean_or_the_end_of_its_states(reader, layer, pooling):
    found = vectors(reader, sequences(), layers=[layer], pooling=pooling, strands="given")
    assert list(found) == [layer]
    assert found[layer].dtype == np.float32
    expected = [pooled(reader, codes, layer, pooling) for codes in sequences()]
    assert np.allclose(found[layer], expected, atol=1e-5)


def test_both_strands_are_the_mean_of_each(reader):
    found = vectors(reader, sequences())[2]
    expected = [(pooled(reader, codes) + pooled(reader, reverse_complement(codes))) / 2 for codes in sequences()]
    assert np.allclose(found, expected, atol=1e-5)
    turned = vectors(reader, [reverse_complement(codes) for codes in sequences()])[2]
    assert np.allclose(found, turned, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_memory_begins_anew_with_every_stretch(folder, reader, pooling):
    found = vectors(made_reader(folder, stretch=10), sequences(), strands="given", pooling=pooling)[2]
    expected = [pooled(reader, codes, pooling=pooling, stretch=10) for codes in sequences()]
    assert np.allclose(found, expected, atol=1e-5)
    never = vectors(made_reader(folder, stretch=10), sequences(), strands="given", pooling=pooling, stretch=0)[2]
    assert np.allclose(never, [pooled(reader, codes, pooling=pooling) for codes in sequences()], atol=1e-5)


def test_of_the_other_strand_the_last_state_is_that_at_the_beginning(reader):
    (codes,) = sequences((25,))
    found = vectors(reader, [codes], pooling="last", stretch=10)[2][0]
    other = states(reader, reverse_complement(codes)[20:], 2)[-1]
    assert np.allclose(found, (states(reader, codes[20:], 2)[-1] + other) / 2, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("tokenizer", ["nucleotides", "k-mers", "overlapping", "bpe"])
def test_stretches_of_both_strands_give_one_vector_whichever_is_given(folder, tokenizer, pooling):
    own = {"nucleotides": None, "k-mers": Kmers(3, False), "overlapping": Kmers(3, True), "bpe": bpe()}[tokenizer]
    reader = made_reader(folder, own, stretch=7)
    given, turned = sequences((85, 33, 8), 4), [reverse_complement(codes) for codes in sequences((85, 33, 8), 4)]
    assert np.allclose(
        vectors(reader, given, pooling=pooling)[2], vectors(reader, turned, pooling=pooling)[2], atol=1e-5
    )
    expected = [
        np.mean([pooled_tokens(reader, strand, pooling, 7) for strand in (codes, reverse_complement(codes))], 0)
        for codes in given
    ]
    assert np.allclose(vectors(reader, given, pooling=pooling)[2], expected, atol=1e-5)


def bpe():
    repeats = np.tile(np.array([0, 0, 1, 2, 3, 3, 3, 1], np.uint8), 50)
    return learn_bpe([repeats], TokenizerConfig(kind="bpe", vocab_size=20), text=False)


def pooled_tokens(reader, codes, pooling, stretch):
    """One strand in stretches of tokens, each read alone."""
    tokens = torch.from_numpy(reader.tokenizer.encode(codes).astype(np.int64))[None]
    with torch.inference_mode():
        parts = [reader.model.embed(part)[0][0].double().numpy() for part in tokens.split(stretch, 1)]
    return np.concatenate(parts).mean(0) if pooling == "mean" else parts[-1][-1]


def test_a_position_has_the_states_of_both_sides(reader):
    found = vectors(reader, sequences(), per="position", layers=[1, 2], stretch=10)
    for codes, own in zip(sequences(), found, strict=True):
        for layer in (1, 2):
            parts = [codes[at : at + 10] for at in range(0, len(codes), 10)]
            expected = [
                (states(reader, part, layer) + states(reader, reverse_complement(part), layer)[::-1]) / 2
                for part in parts
            ]
            assert np.allclose(own[layer], np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlapping", "side by side"])
def test_bases_of_one_token_share_its_vector(folder, overlap):
    reader = made_reader(folder, Kmers(3, overlap))
    (codes,) = sequences((32,), 4)
    own = np.repeat(states(reader, codes, 2), 1 if overlap else [3] * 10 + [1] * 2, axis=0)
    (found,) = vectors(reader, [codes], per="position", strands="given")
    assert np.allclose(found[2], own, atol=1e-5)
    other = np.repeat(states(reader, reverse_complement(codes), 2), 1 if overlap else [3] * 10 + [1] * 2, axis=0)
    (both,) = vectors(reader, [codes], per="position")
    assert np.allclose(both[2], (own + other[::-1]) / 2, atol=1e-5)


def test_how_many_are_read_together_changes_nothing(reader, monkeypatch):
    whole = [vectors(reader, sequences(), per=per, stretch=9) for per in ("sequence", "position")]
    monkeypatch.setattr(embedding, "_GROUP", {"sequence": 12, "position": 12})
    monkeypatch.setattr(embedding, "PIECE", 4)
    monkeypatch.setattr(embedding, "token_budget", lambda device: 20)
    pieces = [vectors(reader, sequences(), per=per, stretch=9) for per in ("sequence", "position")]
    assert np.allclose(whole[0][2], pieces[0][2], atol=1e-5)
    for a, b in zip(whole[1], pieces[1], strict=True):
        assert np.allclose(a[2], b[2], atol=1e-5)


def test_a_memory_that_is_given_counts(folder, reader):
    with torch.inference_mode():
        _, state = reader.model(torch.randint(0, 4, (1, 60)))
    begun = made_reader(folder, start=state)
    found = vectors(begun, sequences(), strands="given")[2]
    assert np.allclose(found, [pooled(begun, codes) for codes in sequences()], atol=1e-5)
    assert not np.allclose(found, vectors(reader, sequences(), strands="given")[2], atol=1e-3)


# --------------------------------------------------------------------------------------------- inputs


@pytest.fixture
def genome(tmp_path):
    rng = np.random.default_rng(4)
    contigs = {name: "".join(rng.choice(list("ACGT"), n)) for name, n in (("chr1", 300), ("chr2", 90), ("chrM", 50))}
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">{name} x\n{text}\n" for name, text in contigs.items()))
    return path, contigs


def read(path):
    return pq.read_table(path).to_pydict()


def test_whole_contigs_are_rows(reader, genome, tmp_path):
    path, contigs = genome
    done = embed(reader, path, tmp_path / "out" / "v.parquet", stretch=64)
    table = read(tmp_path / "out" / "v.parquet")
    assert table["id"] == table["contig"] == list(contigs)
    assert (table["start"], table["end"], table["strand"]) == ([0, 0, 0], [300, 90, 50], ["."] * 3)
    assert np.allclose(table["gc"], [sum(letter in "GC" for letter in text) / len(text) for text in contigs.values()])
    assert np.allclose(
        table["vector"], vectors(reader, [encode(t) for t in contigs.values()], stretch=64)[2], atol=1e-6
    )
    about = json.loads(pq.read_schema(tmp_path / "out" / "v.parquet").metadata[b"titans_genomics"])
    assert (about["stretch"], about["pooling"], about["weights"]) == (64, "mean", reader.sha256)
    assert (done["rows"], done["sequences"], done["bases"], done["width"]) == (3, 3, 440, 16)


def test_intervals_are_cut_on_their_strand_and_names_may_follow_another_convention(reader, genome, tmp_path):
    path, contigs = genome
    bed = tmp_path / "some.bed"
    bed.write_text("#head\ntrack name=x\n2\t10\t30\n1\t5\t25\tone\t0\t-\nMT\t0\t50\tall\t0\t+\n1\t0\t7\n")
    embed(reader, path, tmp_path / "v.parquet", bed=bed, strands="given")
    table = read(tmp_path / "v.parquet")
    places = list(zip(table["id"], table["contig"], table["start"], table["end"], table["strand"], strict=True))
    assert places == [
        ("one", "chr1", 5, 25, "-"),
        ("1:0-7", "chr1", 0, 7, "."),
        ("2:10-30", "chr2", 10, 30, "."),
        ("all", "chrM", 0, 50, "+"),
    ]
    cut = [encode(contigs[contig][start:end]) for _, contig, start, end, _ in places]
    cut[0] = reverse_complement(cut[0])
    assert np.allclose(table["vector"], vectors(reader, cut, strands="given")[2], atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("chr1\t1\t100\nchr1\t101\t200\nchr1\t201\t300\n", "one base behind the end of the one before"),
        ("chr1\t11\t100\nchr1\t31\t200\nchr2\t1\t50\n", "ends in the digit 1"),
        ("chr1\t0\t100\nchr1\t100\t200\nchr1\t200\t300\n", None),
        ("chr1\t11\t100\nchr1\t32\t200\nchr2\t1\t50\n", None),
    ],
    ids=["tiles", "digits", "0-based tiles", "other digits"],
)
def test_a_bed_in_1_based_habit_is_warned_of(reader, genome, tmp_path, lines, said):
    (tmp_path / "some.bed").write_text(lines)
    _, _, warnings = read_sequences(reader, genome[0], tmp_path / "some.bed")
    assert [said in warning for warning in warnings] == ([True] if said else [])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("chr1\t5\t10\nchr2\t80\t91\n", "line 2: chr2:80-91 .* ends beyond its contig"),
        ("chr1\t5\t10\nchr9\t8\t9\n", "contig 'chr9' is not in .*genome.fa, which has chr1"),
        ("chr1\t5\t10\nchr1\t10\t10\n", "line 2: start 10 is not below end 10"),
        ("chr1 5 10\n\nchr1 x 10\n", "line 3: 'chr1 x 10' is no interval"),
        ("chr1\t5\t10\ta\t0\tplus\n", "line 1: strand 'plus'"),
        ("chr1\t-5\t10\n", "line 1: .* is no interval"),
    ],
    ids=["beyond", "unknown contig", "empty interval", "no number", "strand", "negative"],
)
def test_a_bed_that_does_not_fit_is_one_line_and_no_file(reader, genome, tmp_path, lines, said):
    (tmp_path / "some.bed").write_text(lines)
    with pytest.raises(ValueError, match=said) as caught:
        embed(reader, genome[0], tmp_path / "v.parquet", bed=tmp_path / "some.bed")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*parquet*"))


def test_a_bed_cut_short_is_said(tmp_path):
    (tmp_path / "some.bed.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00")
    with pytest.raises(ValueError, match="damaged gzip data"):
        read_bed(tmp_path / "some.bed.gz")


def write_bam(path, reads):
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6"}, "SQ": [{"SN": "chr1", "LN": 300}]})
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for name, flag, start, text in reads:
            read = pysam.AlignedSegment(header)
            read.query_name, read.flag, read.query_sequence = name, flag, text
            if not flag & 4:
                read.reference_id, read.reference_start = 0, start
                read.cigartuples = [(pysam.CMATCH, len(text))]
            file.write(read)


def test_reads_of_a_bam_keep_their_places(reader, tmp_path):
    texts = ["".join(np.random.default_rng(i).choice(list("ACGT"), 30 + i)) for i in range(4)]
    kinds = [("plus", 0, 40), ("minus", 16, 90), ("loose", 4, -1), ("again", 256, 50)]
    write_bam(tmp_path / "reads.bam", [(*kind, text) for kind, text in zip(kinds, texts, strict=True)])
    embed(reader, tmp_path / "reads.bam", tmp_path / "v.parquet", strands="given")
    table = read(tmp_path / "v.parquet")
    assert table["id"] == ["plus", "minus", "loose"]
    assert (table["contig"], table["strand"]) == (["chr1", "chr1", None], ["+", "-", "."])
    assert (table["start"], table["end"]) == ([40, 90, None], [70, 121, None])
    own = [encode(texts[0]), reverse_complement(encode(texts[1])), encode(texts[2])]
    assert np.allclose(table["vector"], vectors(reader, own, strands="given")[2], atol=1e-6)


def test_reads_of_a_fastq_have_no_place(reader, tmp_path):
    (tmp_path / "reads.fq").write_text("@a\nACGTN\n+\nIIIII\n@b\nAC\n+\nII\n")
    embed(reader, tmp_path / "reads.fq", tmp_path / "v.parquet")
    table = read(tmp_path / "v.parquet")
    assert (table["id"], table["contig"], table["start"]) == (["a", "b"], [None, None], [None, None])


@pytest.mark.parametrize("kind", ["bed", "fasta", "bam"])
@pytest.mark.parametrize("ending", ["parquet", "h5", "h5ad"])
def test_of_nothing_a_valid_file_without_rows_is_made(reader, genome, tmp_path, kind, ending):
    (tmp_path / "none.bed").write_text("# nothing\n")
    (tmp_path / "none.fasta").write_text("")
    write_bam(tmp_path / "none.bam", [])
    source, bed = (genome[0], tmp_path / "none.bed") if kind == "bed" else (tmp_path / f"none.{kind}", None)
    done = embed(reader, source, tmp_path / f"v.{ending}", bed=bed)
    assert done["rows"] == 0
    assert len(done["warnings"]) == 1
    assert len(table_of(tmp_path / f"v.{ending}")[1]) == 0


# -------------------------------------------------------------------------------------------- outputs


def table_of(path):
    """Ids and vectors of a file of any format."""
    if path.suffix == ".parquet":
        table = pq.read_table(path).to_pydict()
        return table["id"], np.array(table["vector"]).reshape(-1, 16)
    if path.suffix == ".h5ad":
        data = anndata.read_h5ad(path)
        assert list(data.var_names) == [f"d{i}" for i in range(16)]
        return list(data.obs["id"]), data.X
    with h5py.File(path) as file:
        return [name.decode() for name in file["id"]], file["vector"][:]


@pytest.mark.parametrize("per", ["sequence", "position"])
def test_all_formats_hold_the_same(reader, genome, tmp_path, per):
    found = []
    for ending in ("parquet", "h5", "hdf5", "h5ad"):
        embed(reader, genome[0], tmp_path / f"v.{ending}", per=per, stretch=64)
        found.append(table_of(tmp_path / f"v.{ending}"))
    assert len(found[0][0]) == (3 if per == "sequence" else 440)
    for names, rows in found[1:]:
        assert names == found[0][0]
        assert np.array_equal(rows, found[0][1].astype(np.float32))


def test_several_layers_are_several_columns(reader, genome, tmp_path):
    for ending in ("parquet", "h5", "h5ad"):
        embed(reader, genome[0], tmp_path / f"v.{ending}", layers=[2, 0], stretch=64)
    table, data = read(tmp_path / "v.parquet"), anndata.read_h5ad(tmp_path / "v.h5ad")
    assert np.allclose(table["vector_0"], data.obsm["vector_0"])
    assert np.allclose(table["vector_2"], data.X)
    with h5py.File(tmp_path / "v.h5") as file:
        assert np.allclose(file["vector_2"][:], data.X)


def test_rows_of_positions_say_place_and_base(reader, genome, tmp_path):
    path, contigs = genome
    embed(reader, path, tmp_path / "v.parquet", per="position", stretch=64)
    table = read(tmp_path / "v.parquet")
    assert "".join(table["base"]) == "".join(contigs.values())
    assert table["position"] == [i for text in contigs.values() for i in range(len(text))]
    assert anndata_names(reader, path, tmp_path)[299:302] == ["chr1:299", "chr2:0", "chr2:1"]


def anndata_names(reader, path, folder):
    embed(reader, path, folder / "v.h5ad", per="position", stretch=64)
    return list(anndata.read_h5ad(folder / "v.h5ad").obs_names)


def test_row_groups_are_written_as_they_come(reader, genome, tmp_path, monkeypatch):
    monkeypatch.setattr("titans_genomics.use.vectors.GROUP", 64 * 16 * 4)
    monkeypatch.setattr(embedding, "_GROUP", {"sequence": 64, "position": 64})
    embed(reader, genome[0], tmp_path / "v.parquet", per="position", stretch=64)
    groups = pq.ParquetFile(tmp_path / "v.parquet").metadata
    assert groups.num_row_groups > 4
    assert groups.num_rows == 440


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_picture_is_drawn(reader, genome, tmp_path, ending):
    done = embed(
        reader, genome[0], tmp_path / "v.parquet", per="position", stretch=64, picture=tmp_path / f"p.{ending}"
    )
    assert done["picture"]["points"] == 440
    assert 0 < sum(done["picture"]["explained"]) <= 1
    assert (tmp_path / f"p.{ending}").stat().st_size > 1000


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["Ctrl-C", "full disk"]
)
@pytest.mark.parametrize("ending", ["parquet", "h5", "h5ad"])
def test_nothing_is_left_of_an_interrupted_file(reader, genome, tmp_path, monkeypatch, ending, error):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(Progress, "update", stop)
    with pytest.raises((KeyboardInterrupt, OSError)):
        embed(reader, genome[0], tmp_path / f"v.{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


# what HDF5 could not write it fails to write again when its objects go
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ending", ["parquet", "h5", "h5ad"])
def test_a_file_that_outgrows_the_disk_is_one_line_and_absent(reader, genome, tmp_path, ending):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    try:
        with pytest.raises(OSError, match=rf"v\.{ending}: cannot be written .*[Ff]ile too large") as caught:
            embed(reader, genome[0], tmp_path / f"v.{ending}", per="position", stretch=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


def test_a_cram_without_its_genome_is_said_in_the_words_of_the_command(reader, genome, tmp_path):
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6"}, "SQ": [{"SN": "chr1", "LN": 300}]})
    with pysam.AlignmentFile(
        str(tmp_path / "reads.cram"), "wc", header=header, reference_filename=str(genome[0])
    ) as file:
        read = pysam.AlignedSegment(header)
        read.query_name, read.reference_id, read.reference_start = "a", 0, 10
        read.query_sequence, read.cigarstring = genome[1]["chr1"][10:60], "50M"
        file.write(read)
    with pytest.raises(ValueError, match=r"reads\.cram: .*Give the FASTA of it: --reference"):
        read_sequences(reader, tmp_path / "reads.cram")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": [3]}, "layer 3: this model has layers 0 .* to 2"),
        ({"layers": []}, "name one or more of 0 to 2"),
        ({"pooling": "max"}, "pooling 'max': mean or last"),
        ({"strands": "one"}, "strands 'one': both or given"),
        ({"per": "token"}, "per 'token': sequence or position"),
        ({"stretch": -1}, "stretch -1"),
        ({"out": "v.csv"}, "must end in .parquet"),
        ({"out": "genome.fa/v.parquet"}, "its folder cannot be made"),
        ({"picture": "p.gif"}, "must end in .svg"),
        ({"picture": "p.svg", "method": "tsne"}, "pca or umap"),
        ({"path": "nowhere.fa"}, "nowhere.fa: no such file"),
        ({"bed": "nowhere.bed"}, "nowhere.bed: no such file"),
    ],
    ids=str,
)
def test_what_cannot_be_embedded_is_one_line_and_no_file(reader, genome, tmp_path, settings, said):
    given = {"path": genome[0], "out": "v.parquet", **settings}
    given["out"] = tmp_path / given["out"]
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        embed(reader, **given)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


@pytest.mark.parametrize(
    ("package", "settings"),
    [
        ("h5py", {"out": "v.h5"}),
        ("anndata", {"out": "v.h5ad"}),
        ("umap", {"out": "v.parquet", "picture": "p.svg", "method": "umap"}),
    ],
    ids=["h5py", "anndata", "umap"],
)
def test_an_absent_package_is_named(reader, genome, tmp_path, monkeypatch, package, settings):
    found = util.find_spec
    monkeypatch.setattr("titans_genomics.use.vectors.find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ValueError, match=f"needs {package}.* not installed"):
        embed(reader, genome[0], **settings | {"out": tmp_path / settings["out"]})


def test_positions_that_are_read_without_end_must_fit(reader, genome, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "LONGEST", 100)
    with pytest.raises(ValueError, match=r"chr1: .*take a stretch of at most 100"):
        embed(reader, genome[0], tmp_path / "v.parquet", per="position", stretch=0)
    assert not (tmp_path / "v.parquet").exists()


def test_records_without_bases_are_left_out_and_told_of(reader, tmp_path):
    (tmp_path / "some.fa").write_text(">a\nACGT\n>b\n>c\nGG\n")
    done = embed(reader, tmp_path / "some.fa", tmp_path / "v.parquet")
    assert read(tmp_path / "v.parquet")["id"] == ["a", "c"]
    assert done["warnings"] == ["b: holds no base, left out"]


def test_models_of_text_are_refused(folder, genome):
    with pytest.raises(ValueError, match="a model of text"):
        embed(made_reader(folder, Bytes()), genome[0], Path("v.parquet"))
