"""Scores of variants are those of two whole readings per allele, cost less, and come out as a VCF or not at all."""

import csv
import gzip
import json
import os
import resource
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from titans_genomics.config import TitansConfig, TokenizerConfig
from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.tokenizers import make_tokenizer
from titans_genomics.models import Titans
from titans_genomics.models.state import map_leaves
from titans_genomics.use import score_variants as module
from titans_genomics.use.alleles import Allele, Window, score_alleles
from titans_genomics.use.reader import Reader
from titans_genomics.use.saturate import saturate
from titans_genomics.use.score_variants import evaluate_variants, score_variants

BASES = 700
WINDOW = Window(context=180, after=24, share=40)
KEYS = ("TITANS_LLR", "TITANS_DIST", "TITANS_SKIP")


def make_reader(folder, variant="lmm", dtype=torch.float64, layers=2, **tokenizer):
    torch.manual_seed(3)
    own = make_tokenizer(TokenizerConfig(**tokenizer))
    config = TitansConfig(
        variant=variant, vocab_size=own.vocab_size, d_model=16, n_layers=layers, n_heads=2, chunk=16, segment=32, window=32,
        memory_expansion=1.0, theta_max=0.05,
    )  # fmt: skip
    model = Titans(config)
    with torch.no_grad():
        model.head.weight.mul_(20)  # sharp enough for every base to matter
    (folder / "model.safetensors").write_bytes(b"weights")
    return Reader(model.to(dtype).eval(), own, folder, "titans", torch.device("cpu"))


@pytest.fixture
def genome():
    codes = np.random.default_rng(11).integers(0, 4, BASES).astype(np.uint8)
    codes[400:404] = 4
    return {"one": codes, "two": codes[:90].copy()}


@pytest.fixture
def alleles(genome):
    rng = np.random.default_rng(12)
    found = [
        Allele("one", start, start + size, rng.integers(0, 4, more).astype(np.uint8))
        for start, size, more in [
            (300, 1, 1), (301, 1, 1), (350, 0, 7), (350, 5, 0), (0, 1, 1), (0, 3, 0), (BASES - 1, 1, 1),
            (BASES - 4, 4, 0), (BASES, 0, 3), (380, 3, 3), (30, 2, 1), (556, 70, 2),
        ]
    ]  # fmt: skip
    return [*found, Allele("two", 45, 46, np.array([(genome["two"][45] + 1) % 4], dtype=np.uint8))]


@torch.inference_mode()
def two_readings(reader, genome, allele, window):
    """The oracle: both strands, each window read whole with the allele and without."""
    ratios, distances = [], []
    for turned in (False, True):
        codes, start, end, alt = genome[allele.contig], allele.start, allele.end, allele.alt
        if turned:
            codes, start, end = reverse_complement(codes), len(codes) - end, len(codes) - start
            alt = reverse_complement(alt)
        before = window.context - window.after - window.share
        begin = max(0, (start - before) // window.share * window.share)
        behind = codes[end : end + window.after]
        read = []
        for middle in (alt, codes[start:end]):
            sequence = np.concatenate([codes[begin:start], middle, behind])
            tokens = reader.tokenizer.encode(sequence).astype(np.int64)
            hidden, _ = reader.model.embed(torch.from_numpy(tokens)[None], reader.state(1))
            log_p = reader.model.head(hidden[0, :-1]).double().log_softmax(-1)
            scores = log_p[torch.arange(len(tokens) - 1), torch.from_numpy(tokens[1:])].numpy()
            scored = reader.tokenizer.scored[tokens]
            first = -np.log(4) * reader.tokenizer.bases[tokens[0]] * scored[0]
            read.append((first + (scores * scored[1:]).sum(), hidden[0].double(), tokens))
        (one, hidden_alt, tokens_alt), (other, hidden_ref, tokens_ref) = read
        shorter = min(len(tokens_alt), len(tokens_ref))
        same = start - begin
        if reader.tokenizer.kind != "nucleotide":
            differing = np.flatnonzero(tokens_alt[:shorter] != tokens_ref[:shorter])
            same = differing[0] if len(differing) else shorter
        same = max(same - 1, 0)
        ratios.append(one - other)
        distances.append(float((hidden_alt[same:].mean(0) - hidden_ref[same:].mean(0)).norm()))
    return np.mean(ratios), np.mean(distances)


def compare(reader, genome, alleles, window, asked=None, within=1e-9):
    wanted = np.array([two_readings(reader, genome, allele, window) for allele in alleles])
    found = np.stack(score_alleles(reader, genome, alleles, asked or window), axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=within)
    assert np.abs(wanted[:, 0]).min() > 1e-3  # so that a score that is left out would show
    return found


# ------------------------------------------------------------------------------------------ the scores


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "transformer", "gated_deltanet", "diagonal"])
def test_scores_are_those_of_two_whole_readings(tmp_path, genome, alleles, variant):
    few = alleles if variant == "lmm" else alleles[:4] + alleles[7:9]
    compare(make_reader(tmp_path, variant, layers=2 if variant == "lmm" else 1), genome, few, WINDOW)


def test_scores_in_single_precision_are_those_of_two_whole_readings(tmp_path, genome, alleles):
    compare(make_reader(tmp_path, dtype=torch.float32), genome, alleles[:4], WINDOW, within=1e-4)  # its head is sharp


@pytest.mark.parametrize("tokenizer", [{"k": 3}, {"k": 3, "overlap": True}], ids=["kmer", "overlapping"])
def test_scores_of_longer_tokens_are_those_of_two_whole_readings(tmp_path, genome, alleles, tokenizer):
    reader = make_reader(tmp_path, kind="kmer", **tokenizer)
    compare(reader, genome, alleles[1:4] + alleles[9:11], Window(180, 24, 1), asked=WINDOW)


def test_windows_begin_with_the_memory_of_the_reader(tmp_path, genome, alleles):
    bare = make_reader(tmp_path)
    with torch.inference_mode():
        _, state = bare.model(torch.from_numpy(genome["one"][:200].astype(np.int64))[None])
    start = map_leaves(lambda _, leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, state)
    reader = Reader(bare.model, bare.tokenizer, bare.folder, bare.name, bare.device, start)
    found = compare(reader, genome, alleles[:5], WINDOW)
    without, _ = score_alleles(bare, genome, alleles[:5], WINDOW)
    assert np.abs(found[:, 0] - without).max() > 1e-3


def test_order_and_company_do_not_matter(tmp_path, genome, alleles):
    reader = make_reader(tmp_path)
    whole = score_alleles(reader, genome, alleles, WINDOW)[0]
    turned = score_alleles(reader, genome, alleles[::-1], WINDOW)[0][::-1]
    alone = [score_alleles(reader, genome, [allele], WINDOW)[0][0] for allele in alleles[:3]]
    np.testing.assert_allclose(turned, whole, rtol=0, atol=1e-9)
    np.testing.assert_allclose(alone, whole[:3], rtol=0, atol=1e-9)


def test_the_other_strand_of_everything_has_the_same_scores(tmp_path, genome, alleles):
    reader, window = make_reader(tmp_path), Window(180, 24, 1)
    turned = {name: reverse_complement(codes) for name, codes in genome.items()}
    others = [
        Allele(a.contig, len(genome[a.contig]) - a.end, len(genome[a.contig]) - a.start, reverse_complement(a.alt))
        for a in alleles
    ]
    for found, wanted in zip(
        score_alleles(reader, turned, others, window), score_alleles(reader, genome, alleles, window), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_three_times_fewer_tokens_are_read_than_by_two_readings(tmp_path, monkeypatch):
    reader = make_reader(tmp_path, dtype=torch.float32, layers=1)
    codes = np.random.default_rng(1).integers(0, 4, 20_000).astype(np.uint8)
    places = np.random.default_rng(2).choice(np.arange(8_000, 12_000), 8, replace=False)
    alleles = [Allele("c", at, at + 1, np.array([3 - codes[at]], dtype=np.uint8)) for at in places.tolist()]
    window = Window(8192, 512, 2048)
    read = []
    embed = reader.model.embed
    monkeypatch.setattr(
        reader.model, "embed", lambda tokens, state: read.append(tokens.numel()) or embed(tokens, state)
    )
    score_alleles(reader, {"c": codes}, alleles, window)
    ours = sum(read)
    lengths = [at - window.begin(at) + 1 + 512 for at in places.tolist()]
    lengths += [at - window.begin(at) + 1 + 512 for at in (20_000 - 1 - places).tolist()]
    assert max(lengths) <= 8192
    assert 2 * sum(lengths) > 3 * ours


@pytest.mark.parametrize("lengths", [(100, 0, 10), (100, 50, 50), (100, 10, 0)])
def test_a_window_that_does_not_fit_is_refused(lengths):
    with pytest.raises(ValueError, match="do not fit"):
        Window(*lengths)


# --------------------------------------------------------------------------------------------- the VCF


@pytest.fixture
def files(tmp_path, genome):
    """A FASTA, a VCF of it, and a reader."""
    letters = {name: decode(codes) for name, codes in genome.items()}
    (tmp_path / "genome.fa").write_text("".join(f">chr{name}\n{text}\n" for name, text in letters.items()))
    one, two = letters["one"], letters["two"]
    other = {"A": "C", "C": "G", "G": "T", "T": "A"}
    rows = [
        ("one", 101, one[100], f"{other[one[100]]},<DEL>", "1"),
        ("one", 101, one[100:103], other[one[100]] + one[101:103], "1"),  # the first allele, in more letters
        ("one", 200, one[199], f"{one[199]}ACG,{other[one[199]]}", "0"),
        ("one", 205, one[204:208], one[204], "0"),
        ("one", 300, one[299], "<DUP>", "1"),
        ("two", 46, two[45], other[two[45]], "1"),
    ]
    lines = [
        f"{contig}\t{pos}\tid{i}\t{ref}\t{alt}\t.\tPASS\tLAB={label}\tGT\t0|1\t./."
        for i, (contig, pos, ref, alt, label) in enumerate(rows)
    ]
    head = '##fileformat=VCFv4.2\n##INFO=<ID=LAB,Number=1,Type=String,Description="label">\n##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">\n'
    head += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts2\ts1\n"
    (tmp_path / "in.vcf").write_text(head + "\n".join(lines) + "\n")
    (tmp_path / "model").mkdir()
    return tmp_path, make_reader(tmp_path / "model"), head, lines


def run(files, out="out.vcf.gz", vcf="in.vcf", **options):
    folder, reader, *_ = files
    options = {"context": WINDOW.context, "after": WINDOW.after, "share": WINDOW.share} | options
    return score_variants(reader, folder / "genome.fa", folder / vcf, folder / out, **options)


def test_a_vcf_comes_back_scored_in_its_order(files, genome):
    folder, reader, _, lines = files
    facts = run(files)
    assert (facts["records"], facts["alleles"], facts["scored"]) == (6, 8, 6)
    assert facts["skipped"] == {"SYMBOLIC": 2}
    with pysam.VariantFile(str(folder / "out.vcf.gz")) as file:
        for key in KEYS:
            assert file.header.info[key].number == "A"
        found = list(file)
        assert [record.id for record in file.fetch("one", 199, 205)] == ["id2", "id3"]
    assert [str(r).split("\t")[:5] for r in found] == [line.split("\t")[:5] for line in lines]
    assert [str(r).rstrip().split("\t")[8:] for r in found] == [line.split("\t")[8:] for line in lines]
    assert [list(r.filter) for r in found] == [["PASS"]] * 4 + [["TITANS_SKIPPED"], ["PASS"]]
    assert found[0].info["TITANS_SKIP"] == (".", "SYMBOLIC")
    assert found[0].info["TITANS_LLR"][0] == found[1].info["TITANS_LLR"][0]
    assert "TITANS_LLR" not in found[4].info
    inserted, replaced = found[2].info["TITANS_LLR"]
    base = encode(found[2].alts[1])
    wanted = two_readings(reader, genome, Allele("one", 199, 200, base), WINDOW)
    assert replaced == pytest.approx(wanted[0], abs=2e-6)
    assert inserted != replaced
    assert found[2].info["TITANS_DIST"][1] == pytest.approx(wanted[1], rel=1e-5)


def test_a_scored_vcf_can_be_scored_again(files):
    folder = files[0]
    run(files)
    run(files, out="again.vcf.gz", vcf="out.vcf.gz")
    one, other = (gzip.decompress((folder / name).read_bytes()).decode() for name in ("out.vcf.gz", "again.vcf.gz"))
    assert one.replace(";TITANS_SKIPPED", "").splitlines()[-2:] == other.splitlines()[-2:]
    assert other.count("##INFO=<ID=TITANS_LLR,") == other.count("##titans_genomics=") == 1


@pytest.mark.parametrize("limit", ["BLOCK", "BLOCK_BYTES"])
def test_how_many_records_are_scored_at_a_time_does_not_matter(files, monkeypatch, limit):
    folder = files[0]
    run(files)
    whole = gzip.decompress((folder / "out.vcf.gz").read_bytes()).decode()
    monkeypatch.setattr(module, limit, 2)
    run(files)
    assert gzip.decompress((folder / "out.vcf.gz").read_bytes()).decode() == whole


def test_no_variants_make_a_valid_file_without_variants(files):
    folder, _, head, _ = files
    (folder / "empty.vcf").write_text(head)
    assert run(files, vcf="empty.vcf")["records"] == 0
    with pysam.VariantFile(str(folder / "out.vcf.gz")) as file:
        assert list(file) == []
        assert "TITANS_LLR" in file.header.info
    assert (folder / "out.vcf.gz.tbi").is_file()


def left(folder):
    return sorted(path.name for path in folder.iterdir() if "out" in path.name)


def stop(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_run_leaves_what_was_there(files, monkeypatch):
    folder = files[0]
    run(files)
    before = (folder / "out.vcf.gz").read_bytes()
    monkeypatch.setattr(module, "score_alleles", stop)
    with pytest.raises(KeyboardInterrupt):
        run(files)
    assert left(folder) == ["out.vcf.gz", "out.vcf.gz.tbi"]
    assert (folder / "out.vcf.gz").read_bytes() == before


@pytest.fixture
def full_disk():
    """No file may grow beyond 200 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_nothing_and_is_said_once(files, full_disk, capfd):
    with pytest.raises(OSError, match=r"out.vcf.gz: cannot be written.*is the disk full"):
        run(files)
    assert left(files[0]) == []
    assert "Error" not in capfd.readouterr().err


def test_a_full_disk_leaves_neither_table_nor_heat_map(files, full_disk):
    folder, reader, *_ = files
    (folder / "loci.bed").write_text("one\t20\t40\n")
    with pytest.raises(OSError, match=r"out.tsv: cannot be written.*is the disk full"):
        saturate(reader, folder / "genome.fa", folder / "loci.bed", folder / "out.tsv", folder / "out.svg", context=300)
    assert left(folder) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "out.vcf"}, "ends in .vcf.gz"),
        ({"max_mismatch": 2}, "is a share"),
        ({"context": 50, "after": 40, "share": 20}, "do not fit"),
        ({"out": "in.vcf/out.vcf.gz"}, "cannot be made"),
        ({"out": "folder.vcf.gz"}, "folder.vcf.gz: is a folder"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(files, options, message):
    (files[0] / "folder.vcf.gz").mkdir()
    with pytest.raises(ValueError, match=message):
        run(files, **options)
    assert left(files[0]) == []


def test_the_input_is_never_overwritten(files):
    folder = files[0]
    run(files)
    with pytest.raises(ValueError, match="is what is read"):
        run(files, vcf="out.vcf.gz")
    os.link(folder / "out.vcf.gz", folder / "linked.vcf.gz")
    with pytest.raises(ValueError, match="is what is read"):
        run(files, vcf="linked.vcf.gz")


def test_mismatches_are_reported_with_their_locus_and_not_scored(files, genome):
    folder, _, head, lines = files
    wrong = "ACGT"[(genome["one"][49] + 1) % 4]
    right = "ACGT"[genome["one"][49]]
    row = f"one\t50\t.\t{wrong}\t{right}\t.\t.\t.\tGT\t.\t."
    (folder / "wrong.vcf").write_text(head + "\n".join([row, *lines]) + "\n")
    with pytest.raises(ValueError, match="1 of 7 records"):
        run(files, vcf="wrong.vcf")
    assert left(folder) == []
    facts = run(files, vcf="wrong.vcf", max_mismatch=0.2)
    assert facts["mismatches"] == [f"one:50 {wrong} (FASTA: {right})"]
    with pysam.VariantFile(str(folder / "out.vcf.gz")) as file:
        first = next(iter(file))
    assert list(first.filter) == ["TITANS_SKIPPED"]
    assert first.info["TITANS_SKIP"] == ("MISMATCH",)


# ---------------------------------------------------------------------------------------------- labels


def test_evaluation_is_that_of_scikit_learn(files):
    folder = files[0]
    run(files)
    found = evaluate_variants(folder / "out.vcf.gz", folder / "labels.json", "LAB", resamples=200)
    with pysam.VariantFile(str(folder / "out.vcf.gz")) as file:
        rows = [
            (int(record.info["LAB"]), -llr, distance)
            for record in file
            for llr, distance in zip(record.info.get("TITANS_LLR", ()), record.info.get("TITANS_DIST", ()), strict=True)
            if llr is not None
        ]
    labels, *scores = zip(*rows, strict=True)
    assert found["labels"] == {"0": labels.count(0), "1": labels.count(1)}
    assert found["without_score"] == 2
    for method, score in zip(("llr", "distance"), scores, strict=True):
        own = found["methods"][method]
        assert own["auroc"]["value"] == pytest.approx(roc_auc_score(labels, score))
        assert own["auprc"]["value"] == pytest.approx(average_precision_score(labels, score))
        low, high = own["auroc"]["ci95"]
        assert low <= own["auroc"]["value"] <= high
    assert json.loads((folder / "labels.json").read_text()) == found
    table = folder / "labels.tsv"
    with pysam.VariantFile(str(folder / "out.vcf.gz")) as file:
        lines = [f"{r.contig}\t{r.pos}\t{r.ref}\t{alt}\t{r.info['LAB']}" for r in file for alt in r.alts]
    table.write_text("chrom\tpos\tref\talt\tkind\n" + "\n".join(lines) + "\n")
    other = evaluate_variants(folder / "out.vcf.gz", folder / "labels.json", "kind", table=table, resamples=200)
    assert other["methods"] == found["methods"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "CLNSIG"}, "has no INFO field 'CLNSIG'"),
        ({"label": "LAB", "positive": ("Pathogenic",)}, "0 scored alleles have the label Pathogenic|4 scored"),
    ],
)
def test_labels_that_are_not_there_are_refused(files, options, message):
    folder = files[0]
    run(files)
    with pytest.raises(ValueError, match=message):
        evaluate_variants(folder / "out.vcf.gz", folder / "labels.json", **options)
    with pytest.raises(ValueError, match="run `titans-genomics score-variants` first"):
        evaluate_variants(folder / "in.vcf", folder / "labels.json", "LAB")


def labelled(folder, number, labels):
    """A scored VCF of the label ``LAB``, one text for each of its two records of two alleles."""
    info = f"LAB,Number={number},Type=Integer"
    lines = [
        "##fileformat=VCFv4.2",
        "##contig=<ID=chr1,length=99>",
        f'##INFO=<ID={info},Description="label">',
        *(f'##INFO=<ID={key},Number=A,Type=Float,Description="score">' for key in KEYS[:2]),
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
        *(
            f"chr1\t{pos}\t.\tA\tC,g\t.\t.\tLAB={label};TITANS_LLR=-{pos},-{pos + 1};TITANS_DIST=1,2"
            for pos, label in zip((10, 20), labels, strict=True)
        ),
    ]
    path = folder / "scored.vcf"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("number", "labels", "auroc"),
    [("A", ("0,0", "1,1"), 1.0), ("R", ("1,0,0", "0,1,1"), 1.0), ("1", ("1", "0"), 0.0), ("A", ("0,1", "0,1"), 0.75)],
    ids=["by allele", "with the reference", "by record", "within records"],
)
def test_labels_are_those_of_their_alleles(tmp_path, number, labels, auroc):
    found = evaluate_variants(labelled(tmp_path, number, labels), tmp_path / "labels.json", "LAB", resamples=10)
    assert found["variants"] == 4
    assert found["methods"]["llr"]["auroc"]["value"] == auroc


TABLE = "chrom\tpos\tref\talt\tkind\n1\t10\tA\tC\t0\n1\t20\ta\tG\t1\n"


def test_labels_of_a_table_are_found_whatever_names_and_case_it_has(tmp_path):
    (tmp_path / "labels.tsv").write_text("\ufeff" + TABLE + "1\t20\tA\tG\t1\n")
    found = evaluate_variants(
        labelled(tmp_path, "1", ("0", "0")),
        tmp_path / "labels.json",
        "kind",
        table=tmp_path / "labels.tsv",
        resamples=10,
    )
    assert found["labels"] == {"0": 1, "1": 1}
    assert found["without_label"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE + "chr1\t10\tA\tC\t1\n", "row 3: chr1:10 A C has two labels, 0 and 1"),
        (TABLE + "1\tten\tA\tC\t1\n", "row 3: .*pos is not a whole number"),
        (TABLE + "1\t10\tA\n", "row 3: too few columns"),
        (TABLE.replace("kind", "sort"), "no column 'kind'"),
        ("\udcff\udcfe", "is no text"),
    ],
    ids=["two labels", "position", "columns", "no column", "binary"],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, text, message):
    (tmp_path / "labels.tsv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"labels.tsv: {message}"):
        evaluate_variants(
            labelled(tmp_path, "1", ("0", "1")), tmp_path / "labels.json", "kind", table=tmp_path / "labels.tsv"
        )


# ------------------------------------------------------------------------------------------ saturation


def test_saturation_scores_every_substitution(files, genome):
    folder, reader, *_ = files
    (folder / "loci.bed").write_text("one\t398\t407\tn\none\t20\t23\nchrtwo\t88\t90\tend\n")
    facts = saturate(
        reader,
        folder / "genome.fa",
        folder / "loci.bed",
        folder / "out.tsv",
        folder / "out.svg",
        WINDOW.context,
        after=WINDOW.after,
        share=WINDOW.share,
    )
    assert (facts["bases"], facts["substitutions"], facts["without"], facts["drawn"]) == (10, 30, 4, 10)
    with (folder / "out.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    places = [("chrone", at) for at in (398, 399, 404, 405, 406, 20, 21, 22)] + [("chrtwo", 88), ("chrtwo", 89)]
    assert [(row["contig"], int(row["start"])) for row in rows] == [place for place in places for _ in range(3)]
    for row in rows[::7]:
        codes = genome[row["contig"][3:]]
        assert row["ref"] == "ACGT"[codes[int(row["start"])]] != row["alt"]
        allele = Allele(row["contig"][3:], int(row["start"]), int(row["end"]), encode(row["alt"]))
        wanted = two_readings(reader, genome, allele, WINDOW)
        assert float(row["llr"]) == pytest.approx(wanted[0], abs=2e-6)
        assert float(row["distance"]) == pytest.approx(wanted[1], rel=1e-4)
    drawn = (folder / "out.svg").read_text()
    assert "</svg>" in drawn
    assert all(f">{label}</text>" in drawn for label in ("399", "405", "21", "89"))


def test_saturation_of_nothing_is_a_table_without_rows(files):
    folder, reader, *_ = files
    (folder / "loci.bed").write_text("# none\n")
    facts = saturate(reader, folder / "genome.fa", folder / "loci.bed", folder / "out.tsv", folder / "out.svg", 300)
    assert facts["bases"] == 0
    assert len((folder / "out.tsv").read_text().splitlines()) == 1
    assert "no bases" in (folder / "out.svg").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\t690\t701\n", "line 1: one:690-701 .0-based. ends beyond its contig.*700 bases.*1-based"),
        ("three\t1\t2\n", "line 1: contig 'three' is not in"),
        ("one\t5\n", "line 1: .*no interval"),
    ],
)
def test_loci_that_are_not_there_are_refused(files, text, message):
    folder, reader, *_ = files
    (folder / "loci.bed").write_text(text)
    with pytest.raises(ValueError, match=message):
        saturate(reader, folder / "genome.fa", folder / "loci.bed", folder / "out.tsv", context=300)
    assert left(folder) == []


def test_one_based_loci_are_warned_of(files):
    folder, reader, *_ = files
    (folder / "loci.bed").write_text("one\t1\t2\none\t11\t12\none\t101\t102\n")
    facts = saturate(reader, folder / "genome.fa", folder / "loci.bed", folder / "out.tsv", context=300)
    assert len(facts["warnings"]) == 1
    assert "1-based" in facts["warnings"][0]
    assert Path(folder / "out.tsv").is_file()


def test_table_and_heat_map_are_two_files(files):
    folder, reader, *_ = files
    (folder / "loci.bed").write_text("one\t1\t2\n")
    with pytest.raises(ValueError, match="is the table and the heat map"):
        saturate(reader, folder / "genome.fa", folder / "loci.bed", folder / "out.tsv", folder / "out.tsv", context=300)
