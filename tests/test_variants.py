"""Variant scores: sets are read whole or refused with a reason, scores and figures are those of naive ones."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from small import small_settings

from titans_genomics.config import DataConfig, SourceConfig, VariantSetConfig, parse_config
from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.readers import read_records
from titans_genomics.data.store import TokenStore
from titans_genomics.tasks import variants as task
from titans_genomics.tasks.likelihood import log_likelihood
from titans_genomics.tasks.variant_sets import read_variants
from titans_genomics.training import load_model

RESOURCES = Path(__file__).parent.parent / "resources"
HEADER = ["id", "ref", "alt", "label"]
ROWS = [["one", "ACGT", "ACAT", "0"], ["two", "ggatta", "GGTTAUN", "1"], ["three", "AARA", "AACA", "0"]]


def write(folder, rows, header=HEADER, name="set.csv", between=","):
    text = "".join(between.join(map(str, row)) + "\n" for row in [header, *rows])
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


# ------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["set.csv", "set.tsv", "set.csv.gz", "set.parquet"])
def test_every_kind_of_table_gives_the_same_set(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
        columns["label"] = [int(label) for label in columns["label"]]
        pyarrow.parquet.write_table(pa.table(columns | {"note": [None] * 3}), path)
    else:
        rows = [[*row, "a note"] for row in ROWS]
        write(tmp_path, rows, [*HEADER, "note"], name, "\t" if "tsv" in name else ",")
    found = read_variants(VariantSetConfig(path=path, id="id"))
    assert found.ids == ["one", "two", "three"]
    assert [decode(ref) for ref in found.ref] == ["ACGT", "GGATTA", "AANA"]
    assert [decode(alt) for alt in found.alt] == ["ACAT", "GGTTATN", "AACA"]
    np.testing.assert_array_equal(found.label, [0, 1, 0])
    assert found.kind == "labels"
    assert read_variants(VariantSetConfig(path=path)).ids == ["1", "2", "3"]


def test_labels_other_than_0_and_1_are_numbers(tmp_path):
    rows = [[*row[:3], number] for row, number in zip(ROWS, ("-0.5", "1e-3", "1"), strict=True)]
    found = read_variants(VariantSetConfig(path=write(tmp_path, rows)))
    assert found.kind == "numbers"
    np.testing.assert_array_equal(found.label, [-0.5, 1e-3, 1])


def test_a_part_of_a_set_has_its_labels_in_their_share_and_the_order_of_the_file(tmp_path):
    rows = [[f"v{i}", "ACGT", "ACAT", str(int(i % 4 == 0))] for i in range(80)]
    path = write(tmp_path, rows)
    part = read_variants(VariantSetConfig(path=path, id="id", max_variants=20))
    assert len(part.ids) == len(part.ref) == len(part.alt) == 20
    assert part.label.sum() == 5
    assert [int(name[1:]) % 4 == 0 for name in part.ids] == (part.label == 1).tolist()
    assert part.ids == sorted(part.ids, key=lambda name: int(name[1:]))
    assert read_variants(VariantSetConfig(path=path, id="id", max_variants=20)).ids == part.ids
    assert len(read_variants(VariantSetConfig(path=path, id="id", max_variants=80)).ids) == 80


@pytest.mark.parametrize(
    ("row", "changed", "message"),
    [
        (1, {"alt": "GGATTA"}, "row 2: columns 'ref' and 'alt' are the same sequence"),
        (2, {"ref": ""}, "row 3, column 'ref' is empty"),
        (0, {"alt": "AC-T"}, "row 1, column 'alt', position 2: '-' is not a nucleotide"),
        (1, {"label": "NaN"}, "row 2, column 'label': 'NaN' is not a finite number"),
        (1, {"label": "inf"}, "row 2, column 'label': 'inf' is not a finite number"),
        (1, {"label": "benign"}, "row 2, column 'label': 'benign' is not a finite number"),
        (1, {"label": ""}, "row 2, column 'label': '' is not a finite number"),
        (1, {"label": "0"}, "column 'label' is 0 in every row"),
        (2, {"id": "one"}, "row 3, column 'id': 'one' stands in row 1 already"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_row_is_an_error_with_file_row_and_column(tmp_path, row, changed, message):
    rows = [dict(zip(HEADER, own, strict=True)) for own in ROWS]
    rows[row] |= changed
    path = write(tmp_path, [own.values() for own in rows])
    with pytest.raises(ValueError, match=r"set\.csv: ") as error:
        read_variants(VariantSetConfig(path=path, id="id"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sequence_that_is_null_is_an_error(tmp_path):
    pyarrow.parquet.write_table(
        pa.table({"ref": ["A", None], "alt": ["C", "G"], "label": [0, 1]}), tmp_path / "set.parquet"
    )
    with pytest.raises(ValueError, match=r"set\.parquet: row 2, column 'ref' is empty"):
        read_variants(VariantSetConfig(path=tmp_path / "set.parquet"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as csv"),
        ("ref,alt,label\n", "no rows"),
        ("ref,alternative,label\nA,C,1\n", r"column 'alt' is not there \(ref, alternative, label\)"),
        ("ref,alt,alt,label\nA,C,C,1\n", "column 'alt' stands there twice"),
        ("ref,alt,label\nA,C,1\nA,C\n", "cannot be read as csv"),
    ],
    ids=["empty", "no-rows", "renamed", "twice", "short-row"],
)
def test_a_table_that_is_none_is_an_error(tmp_path, content, message):
    path = tmp_path / "set.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_variants(VariantSetConfig(path=path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["set.parquet", "set.csv.gz", "set.vcf"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\x01nothing")
    with pytest.raises(ValueError, match=name):
        read_variants(VariantSetConfig(path=tmp_path / name))


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"variants\.sets, absent"):
        read_variants(VariantSetConfig(path=tmp_path / "absent.csv"))


# ------------------------------------------------------------------------------------------- the task


@pytest.fixture(scope="module")
def sets(small_folder):
    """Substitutions, and insertions and deletions with numbers, in pieces of the small genome.

    There a base often repeats the one two before: of the substitutions with label 0 the alternative does, with label 1 the reference.
    """
    lines = (small_folder / "genome.fa").read_text().split()
    genome = encode("".join(line for line in lines if not line.startswith(">")))
    rng = np.random.default_rng(3)
    labelled, numbered = [], []
    while len(labelled) < 60:
        at = int(rng.integers(30, len(genome) - 30))
        ref = genome[at - 10 : at + 11].copy()
        label = len(labelled) % 2
        repeats, other = ref[8], (ref[8] + rng.integers(1, 4)) % 4
        alt = ref.copy()
        ref[10], alt[10] = (repeats, other) if label else (other, repeats)
        if ref.max() < 4 and alt.max() < 4:
            labelled.append([f"v{len(labelled)}", decode(ref), decode(alt), label])
            cut = int(rng.integers(5, 20))
            numbered.append(
                [decode(ref), decode(np.delete(ref, cut)) if label else decode(ref) + "ACG", round(rng.normal(), 3)]
            )
    return {
        "labelled": write(small_folder, labelled, name="labelled.csv"),
        "numbered": write(small_folder, numbered, ["before", "after", "effect"], "numbered.tsv", "\t"),
    }


@pytest.fixture(scope="module")
def config(small_folder, sets):
    entries = [
        {"path": str(sets["labelled"]), "id": "id"},
        {"path": str(sets["numbered"]), "name": "indels", "ref": "before", "alt": "after", "label": "effect"},
    ]
    return parse_config({**small_settings(small_folder), "variants": {"sets": entries, "bootstrap": 100}}, "variants")


@pytest.fixture(scope="module")
def result(config, small_store, small_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("variants") / "variants.json"
    return task.variants(config, small_store, {"titans": small_model}, out), out


def test_scores_are_log_ratios_of_the_model(config, small_store, small_model, result):
    model, tokenizer = load_model(small_model), TokenStore(small_store).tokenizer
    for entry in config.variants.sets:
        own = read_variants(entry)
        saved = pyarrow.parquet.read_table(result[1].with_name(f"{entry.key}.parquet")).to_pydict()
        expected = log_likelihood(model, tokenizer, own.alt) - log_likelihood(model, tokenizer, own.ref)
        np.testing.assert_allclose(saved["score_titans"], expected, atol=1e-5)
        assert saved["id"] == own.ids
        np.testing.assert_array_equal(saved["label"], own.label)


def test_figures_are_those_of_scikit_learn_and_scipy(result):
    found, out = result
    assert json.loads(out.read_text()) == found
    for key, metrics in (
        ("labelled", {"auroc": roc_auc_score, "auprc": average_precision_score}),
        ("indels", {"spearman": lambda y, s: spearmanr(s, y)[0], "pearson": lambda y, s: pearsonr(s, y)[0]}),
    ):
        saved = pyarrow.parquet.read_table(out.with_name(f"{key}.parquet")).to_pydict()
        methods = found["sets"][key]["methods"]
        assert set(methods) == {"markov", "titans"} | ({"transitions"} if key == "labelled" else set())
        values = {}
        for name, method in methods.items():
            score = np.array(saved[f"score_{name}"]) * (-1 if key == "labelled" else 1)
            for metric, function in metrics.items():
                values[name, metric] = method[metric]["value"]
                assert values[name, metric] == pytest.approx(function(saved["label"], score), abs=1e-6)
                low, high = method[metric]["ci95"]
                assert -1 <= low < high <= 1
        headline = next(iter(metrics))
        for name in set(methods) - {"markov"}:
            difference = methods[name]["difference_to_markov"]
            assert difference["metric"] == headline
            assert difference["difference"] == pytest.approx(values[name, headline] - values["markov", headline])
            assert difference["ci95"][0] <= difference["ci95"][1]


def test_what_breaks_the_rule_of_the_genome_is_the_less_likely(result):
    """Label 1 breaks it: an AUROC above one half says so."""
    figures = result[0]["sets"]["labelled"]
    assert figures["labels"] == {"0": 30, "1": 30}
    assert figures["length"] == {"min": 21, "median": 21, "max": 21}
    markov = figures["methods"]["markov"]
    assert markov["auroc"]["value"] > 0.95
    assert markov["score"]["median_1"] < 0 < markov["score"]["median_0"]


def test_the_markov_score_is_that_of_reading_each_sequence_on_both_strands(small_store, sets, monkeypatch):
    store, own = TokenStore(small_store), read_variants(VariantSetConfig(path=sets["labelled"]))
    letters = {split: list(task._training_letters(store, split)) for split in ("train", "validation")}
    model, _ = task.markov.fit(lambda: letters["train"], lambda: letters["validation"], [3])
    sequences = [*own.ref, encode("ACNNGT"), encode("N"), encode("A")]
    expected = [
        -np.log(2) * (np.nansum(model.bits(one)) + np.nansum(model.bits(reverse_complement(one)))) / 2
        for one in sequences
    ]
    for size in (1 << 22, 50, 1):
        monkeypatch.setattr(task, "GROUP_BASES", size)
        np.testing.assert_allclose(task._markov_likelihood(model, sequences), expected, rtol=1e-10)


def test_the_baseline_is_fitted_on_the_training_bases_whatever_a_token_is(small_folder, small_store, tmp_path):
    from titans_genomics.data.store import tokenize

    settings = small_settings(small_folder)
    settings["data"]["tokenizer"] = {"kind": "bpe", "vocab_size": 64}
    tokenize(parse_config(settings, "bpe"), tmp_path / "tokens")
    counts = []
    for path in (small_store, tmp_path / "tokens"):
        pieces = list(task._training_letters(TokenStore(path), "train"))
        counts.append(task.markov.count(pieces, 2))
    np.testing.assert_array_equal(*counts)


@pytest.mark.parametrize(
    ("ref", "alt", "expected"),
    [("AAT", "AGT", 1), ("CCT", "CTT", 1), ("AAT", "ACT", 0), ("CGT", "CCT", 0), ("ANT", "AGT", None), ("AAT", "ACC", None), ("AAT", "AT", None)],
)  # fmt: skip
def test_transitions_are_told_from_transversions(tmp_path, ref, alt, expected):
    path = write(tmp_path, [["a", ref, alt, 0], ["b", "AC", "AT", 1]])
    found = task._transitions(read_variants(VariantSetConfig(path=path)))
    assert found is None if expected is None else found.tolist() == [expected, 1]


def test_the_same_config_gives_the_same_figures(config, small_store, small_model, result, tmp_path):
    again = task.variants(config, small_store, {"titans": small_model}, tmp_path / "variants.json")
    assert again["sets"] == result[0]["sets"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["indels.parquet", "labelled.parquet", "variants.json"]


def test_a_wrong_set_stops_before_anything_is_written(config, small_store, small_model, tmp_path):
    bad = write(tmp_path, [ROWS[0], ROWS[0]], name="bad.csv")
    sets = (*config.variants.sets, VariantSetConfig(path=bad))
    config = config.model_copy(update={"variants": config.variants.model_copy(update={"sets": sets})})
    with pytest.raises(ValueError, match=r"bad\.csv: column 'label' is 0 in every row"):
        task.variants(config, small_store, {"titans": small_model}, tmp_path / "out" / "variants.json")
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------- the shipped set


def test_the_shipped_set_is_matched_and_lies_where_the_default_run_holds_out():
    path = RESOURCES / "ecoli_variants.csv.gz"
    own = read_variants(VariantSetConfig(path=path, id="id"))
    with gzip.open(path, "rt") as file:
        names = file.readline().rstrip().split(",")
        rows = [dict(zip(names, line.rstrip().split(","), strict=True)) for line in file]
    source = SourceConfig(path=RESOURCES / "ecoli_k12.fa.gz")
    ((_, genome),) = read_records(source, DataConfig(sources=(source,)))
    matched: dict[str, Counter] = {"0": Counter(), "1": Counter()}
    blocks = {}
    for row, ref, alt in zip(rows, own.ref, own.alt, strict=True):
        at = int(row["position"]) - 1
        np.testing.assert_array_equal(ref, genome[at - 128 : at + 129])
        np.testing.assert_array_equal(np.flatnonzero(ref != alt), [128])
        assert row["id"] == f"{decode(ref[128:129])}{at + 1}{decode(alt[128:129])}"
        matched[row["label"]][decode(ref[127:130]), decode(alt[128:129]), row["split"]] += 1
        for end in (at - 128, at + 128):
            assert blocks.setdefault(end // 65_536, row["split"]) == row["split"]
    assert sum(matched["0"].values()) == 2000
    assert matched["0"] == matched["1"]
    held_out = {"validation": {9, 27, 43, 67}, "test": {11, 16, 31, 54}}  # of config, seed 1, blocks of 65,536 bases
    assert {split: {block for block, own in blocks.items() if own == split} for split in held_out} == held_out
