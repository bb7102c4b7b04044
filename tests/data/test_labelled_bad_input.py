"""Labelled datasets that cannot be used: refused in one line, with file, row and remedy, before anything is written."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_making import COLUMNS, LAYOUTS, Row, bases, config, example, fasta, of, table, write, write_parquet

from titans_genomics.data.labelled import load_labelled, prepare

ROWS = example()
GOOD = table(ROWS, (*COLUMNS, "split"))
LINES = GOOD.splitlines(keepends=True)


def with_line(number: int, line: str) -> str:
    """A good table with another line of this number, counted from 1."""
    return "".join([*LINES[: number - 1], line + "\n", *LINES[number:]])


def refused(tmp_path: Path, path: Path, downstream: dict | None = None, **settings) -> str:
    """The line that a dataset is refused with; nothing is left beside it."""
    run = config({"path": str(path), "name": "d", **settings}, **(downstream or {}))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        prepare(run, "d", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path) in message or "downstream" in message
    return message


TEXTS = {
    "no-sequence-column": (GOOD.replace("sequence", "letters", 1), {}, r"no column 'sequence'; there are 'id', 'letters', 'label', 'split'. Name the right one in downstream.datasets\[\].sequence"),
    "sequence-in-capitals": (GOOD.replace("sequence", "Sequence", 1), {}, r"column 'Sequence' is there: set downstream.datasets\[\].sequence"),
    "two-label-columns": (GOOD.replace("split", "target", 1).replace("label", "y", 1), {}, r"columns 'y' and 'target' are there: set downstream.datasets\[\].label"),
    "no-named-label": (GOOD, {"label": "class"}, r"no column 'class'; there are .*'label'"),
    "no-named-group": (GOOD, {"group": "gene"}, r"no column 'gene'.*downstream.datasets\[\].group"),
    "no-named-split": (GOOD, {"split": "fold"}, r"no column 'fold'.*downstream.datasets\[\].split"),
    "no-named-id": (GOOD, {"id": "name"}, r"no column 'name'.*downstream.datasets\[\].id"),
    "duplicate-columns": (GOOD.replace("id", "label", 1), {}, r"two columns are named 'label'. Rename"),
    "no-rows": ("sequence,label\n", {}, r"has a header but not one row"),
    "no-header": ("ACGTACGTAC,1\nACGTACGTAG,0\n", {}, r"line 1 is a sequence, not the names of the columns. Write a header such as sequence,label"),
    "empty": ("", {}, r"the file is empty"),
    "short-row": (with_line(4, "x,ACGT"), {}, r"row 3 \(line 4\) has 2 fields, the header has 4"),
    "long-row": (with_line(5, "x,ACGT,red,train,more"), {}, r"row 4 \(line 5\) has 5 fields"),
    "empty-sequence": (with_line(6, "x,,red,train"), {}, r"row 5 \(line 6\): an empty sequence \(1 in all\)"),
    "blank-sequence": (with_line(6, "x,  ,red,train"), {}, r"row 5 \(line 6\): an empty sequence"),
    "letter": (with_line(3, "x,ACGTJACGTZ,red,train"), {}, r"row 2 \(line 3\): letter 5 of the sequence is 'J', no nucleotide .*; 2 such letters in 1 sequences"),
    "gap": (with_line(3, "x,ACG-T,red,train"), {}, r"row 2 \(line 3\): letter 4 of the sequence is '-'"),
    "space-within": (with_line(3, "x,ACG T,red,train"), {}, r"letter 4 of the sequence is ' '"),
    "accent": (with_line(3, "x,ACGé,red,train"), {}, r"letter 4 of the sequence is 'é'"),
    "line-behind-a-quoted-one": (GOOD.replace(LINES[1], '"a\nb",ACGTAC,blue,train\n') .replace(LINES[3], "x,AXGT,red,train\n"), {}, r"row 3 \(line 5\): letter 2 .* 'X'"),
    "ambiguous": (with_line(3, f"x,{'N' * 400},red,train"), {}, r"[\d,]+ of [\d,]+ letters \(\d+\.\d%\) are not A, C, G or T, more than downstream.datasets\[\].max_ambiguous allows \(0.1\); .*row 2 \(line 3\) has most, 400"),
    "no-label": (with_line(3, "x,ACGT,,train"), {}, r"row 2 \(line 3\): no label \(column 'label'\)"),
    "nan-label": (with_line(3, "x,ACGT,NaN,train"), {}, r"row 2 \(line 3\): no label"),
    "one-class": (GOOD.replace(",red,", ",blue,"), {}, r"every label is 'blue'; two classes are needed"),
    "class-only-in-test": (with_line(27, "x,ACGT,green,test"), {}, r"row 26 \(line 27\): the label 'green' stands in test but not in train"),
    "class-of-one": (with_line(3, "x,ACGT,green,train"), {}, r"row 2 \(line 3\): class 'green' has 1 different training sequence\(s\), but train and validation need one each"),
    "class-of-one-sequence": (with_line(3, "x,ACGT,green,train") + "y,ACGT,green,train\n", {}, r"class 'green' has 1 different"),
    "duplicate-id": (with_line(4, LINES[1].strip()), {}, r"row 3 \(line 4\): the id 'trblue000' stands there for the second time, first in .*: row 1 \(line 2\)"),
    "no-id": (with_line(4, ",ACGT,red,train"), {}, r"row 3 \(line 4\): no id \(column 'id'\)"),
    "no-group": (with_line(4, ",ACGT,red,train"), {"group": "id", "id": "sequence"}, r"row 3 \(line 4\): no group \(column 'id'\)"),
    "split": (with_line(4, "x,ACGT,red,held out"), {}, r"row 3 \(line 4\): split is 'held out'; write train, validation or test"),
    "no-train": (GOOD.replace(",train", ",test"), {}, r"stands in test but not in train|no training sequences"),
    "metric": (GOOD, {"metric": "r2"}, r"metric is r2, which does not fit the task classification \(found by its labels; .*Choose one of accuracy, mcc, f1, auroc, auprc"),
    "metric-of-regression": ("seq,y\nACGT,0.5\nACGA,1.5\nACGG,2\nACCC,3\n", {"metric": "accuracy"}, r"metric is accuracy, which does not fit the task regression .*Choose one of r2, pearson, spearman"),
    "text-of-regression": (GOOD, {"task": "regression"}, r"row 1 \(line 2\): column 'label' is 'blue', but regression needs a finite number. Correct it, or set .*task: classification"),
    "infinite": (with_line(3, "x,ACGT,inf,train").replace("blue", "1.5").replace("red", "2"), {"task": "regression"}, r"row 2 \(line 3\): column 'label' is 'inf', but regression needs a finite number"),
    "same-numbers": (GOOD.replace(",blue,", ",1.5,").replace(",red,", ",1.5,"), {}, r"all training sequences have the same labels"),
    "too-large": ("seq,y\nACGT,1.5\nACGA,1e39\nACGG,2\nACCC,3\n", {}, r"row 2 \(line 3\): column 'label' is '1e39', but 32-bit numbers end before; scale the labels"),
    "multilabel": ("sequence,a,b\nACGT,0,1\nACGA,1,2\nACGC,1,0\n", {"label": ["a", "b"]}, r"row 2 \(line 3\): column 'b' is '2', but multilabel needs 0 or 1. Correct it, or set .*task: regression"),
    "multilabel-text": ("sequence,a,b\nACGT,0,1\nACGA,yes,0\nACGC,1,0\n", {"label": ["a", "b"]}, r"row 2 \(line 3\): column 'a' is 'yes', but multilabel needs a finite number. Correct it"),
    "constant-of-regression": ("sequence,a,b\nACGT,0.5,1.5\nACGA,1,1.5\nACGC,2,1.5\n", {"label": ["a", "b"], "task": "regression"}, r"d.csv: column 'b' is 1.5 for all training sequences, there is nothing to learn. Remove it from downstream.datasets\[\].label"),
    "constant-of-multilabel": ("sequence,a,b,c,split\nACGT,0,1,0,train\nACGA,1,1,0,train\nACGC,1,1,1,train\nACCC,1,0,1,test\n", {"label": ["a", "b", "c"]}, r"column 'b' is 1 for all training sequences.* Remove it"),
    "one-group": (GOOD, {"group": "split"}, r"the draw of seed 0 leaves no (validation set|training sequence)"),
    "html": ("<!DOCTYPE html>\n<html><body>404</body></html>\n", {}, r"this is a web page \(HTML\).* Download the file again"),
    "lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", {}, r"this is a Git LFS pointer"),
    "fastq": ("@r1\nACGT\n+\nIIII\n", {}, r"this is a FASTQ file. Labelled sequences are read from CSV, TSV, Parquet or FASTA"),
    "json": ('[{"sequence": "ACGT", "label": 1}]\n', {}, r"this is a JSON file"),
    "fasta-without-label": (">a\nACGT\n>b\nACGA\n", {}, r"record 1 \(a\) has no label: write it as `>name\|label` or as `>name label=...`"),
    "fasta-one-without-label": (fasta(ROWS, lambda row: f"{row.id}|{row.label}") + ">z\nACGT\n", {}, r"record 33 \(z\): no label"),
    "fasta-empty": (fasta(ROWS, lambda row: f"{row.id}|{row.label}").replace(">trblue001|blue\n", ">trblue000x|blue\n>trblue001|blue\n"), {}, r"record 2 \(trblue000x\): an empty sequence"),
    "fasta-twice": (fasta([ROWS[0], *ROWS], lambda row: f"{row.id}|{row.label}"), {}, r"record 2 \(trblue000\): the id 'trblue000' stands there for the second time"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_texts(tmp_path, case):
    text, settings, expected = TEXTS[case]
    assert re.search(expected, refused(tmp_path, write(tmp_path / "d.csv", text), **settings))


BYTES = {
    "latin-1": (GOOD.replace("red", "röd").encode("latin-1"), "d.csv", r"line 14 is not UTF-8 text \(byte 0xf6\). Convert it with `iconv -f LATIN1 -t UTF-8`"),
    "latin-1-header": (GOOD.replace("label", "röd", 1).encode("latin-1"), "d.csv", r"line 1 is not UTF-8 text"),
    "utf-16": (GOOD.encode("utf-16"), "d.csv", r"UTF-16 text. Convert it with `iconv -f UTF-16 -t UTF-8`"),
    "gzip-cut": (gzip.compress(GOOD.encode())[:-40], "d.csv", r"gzip data cut short. Copy or download the file again"),
    "gzip-damaged": (gzip.compress(GOOD.encode())[:60] + b"\0" * 80, "d.csv", r"damaged gzip data|cut short"),
    "zip": (b"PK\x03\x04" + bytes(range(200)) * 3, "d.csv", r"this is a zip archive"),
    "parquet-cut": (b"PAR1" + bytes(100), "d.parquet", r"damaged Parquet"),
    "zeros": (bytes(1000), "d.csv", r"zero bytes"),
    "fasta-latin-1": (">a|röd\nACGT\n".encode("latin-1"), "d.fa", r"line 1 is not UTF-8 text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BYTES)
def test_bytes(tmp_path, case):
    content, name, expected = BYTES[case]
    (tmp_path / name).write_bytes(content)
    assert re.search(expected, refused(tmp_path, tmp_path / name))


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_with_a_null_label(tmp_path):
    path = parquet(tmp_path / "d.parquet", sequence=["ACGT", "ACGA", "ACGC"], label=pa.array([1, None, 0]))
    assert f"{path}: row 2: no label" in refused(tmp_path, path)


def test_parquet_with_a_nan_label(tmp_path):
    path = parquet(tmp_path / "d.parquet", sequence=["ACGT", "ACGA", "ACGC"], label=np.array([0.5, 1.5, np.nan]))
    assert f"{path}: row 3: no label" in refused(tmp_path, path)


def test_parquet_with_numbers_as_sequences(tmp_path):
    path = parquet(tmp_path / "d.parquet", sequence=[1, 2, 3], label=[1, 0, 1])
    assert "column 'sequence' holds int64, not text" in refused(tmp_path, path)


def test_parquet_with_lists_as_labels(tmp_path):
    path = parquet(tmp_path / "d.parquet", sequence=["ACGT", "ACGA"], label=[[1, 0], [0, 1]])
    assert "holds lists" in refused(tmp_path, path)


def test_parquet_without_a_sequence(tmp_path):
    path = parquet(tmp_path / "d.parquet", sequence=["ACGT", None, "ACGC"], label=[1, 0, 1])
    assert f"{path}: row 2: an empty sequence" in refused(tmp_path, path)


# ------------------------------------------------------------------------- metrics that are not defined


def numbers(test: list[object], validation: list[object] = (), train: int = 40) -> str:
    """A table of numbers to predict: many in train, these in validation and test."""
    rng = np.random.default_rng(0)
    splits = {"train": rng.normal(size=train).tolist(), "validation": validation, "test": test}
    rows = [
        Row(f"{split}{i}", bases(rng, 40), str(value), split)
        for split, own in splits.items()
        for i, value in enumerate(own)
    ]
    return table(rows, (*COLUMNS, "split"))


def classes(**counts: str) -> str:
    """A table with the classes of each split, a letter each."""
    rng = np.random.default_rng(0)
    rows = [
        Row(f"{split}{i}", bases(rng, 40), label, split) for split, own in counts.items() for i, label in enumerate(own)
    ]
    return table(rows, (*COLUMNS, "split"))


def two_labels(test: str, validation: str = "") -> str:
    """A table with labels a and b; those of train differ."""
    rng = np.random.default_rng(0)
    splits = {"train": "00 01 10 11 " * 10, "validation": validation, "test": test}
    rows = [f"{bases(rng, 40)},{one[0]},{one[1]},{split}\n" for split, own in splits.items() for one in own.split()]
    return "sequence,a,b,split\n" + "".join(rows)


LABELS = {"label": ["a", "b"]}
UNDEFINED = {
    "constant-test": (numbers([1.5, 1.5, 1.5]), {}, r"d: r2 is not defined for the test set: the same value of 'label' in all of the 3 sequences. Give a test set with others too"),
    "test-of-one": (numbers([1.5]), {}, r"r2 is not defined for the test set: the same value of 'label' in all of the 1 sequences"),
    "constant-validation": (numbers([1.5, 2.5], [0.5, 0.5]), {"metric": "pearson"}, r"pearson is not defined for the validation split: the same value .* in all of the 2 sequences. Add others, or leave it out"),
    "validation-of-one": (numbers([1.5, 2.5], train=9), {}, r"r2 is not defined for the validation of seed 0: .* in all of the 1 sequences. Raise downstream.validation, or give the dataset a validation split"),
    "class-alone-in-test": (classes(train="ababab", test="aaa"), {"metric": "auroc"}, r"auroc is not defined for the test set: class 'a' alone in all of the 3 sequences"),
    "class-alone-in-validation": (classes(train="ababab", validation="bb", test="ab"), {"metric": "mcc"}, r"mcc is not defined for the validation split: class 'b' alone in all of the 2 sequences"),
    "labels-of-test": (two_labels("01 01 01"), LABELS, r"auroc is not defined for the test set: the same labels in all of the 3 sequences"),
    "labels-of-validation": (two_labels("01 10", "11 11"), LABELS | {"metric": "auprc"}, r"auprc is not defined for the validation split: the same labels in all of the 2 sequences"),
    "no-label-in-test": (two_labels("00 00"), LABELS | {"metric": "f1"}, r"f1 is not defined for the test set: no label is 1 in any of the 2 sequences"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDEFINED)
def test_metrics_that_are_not_defined(tmp_path, case):
    text, settings, expected = UNDEFINED[case]
    assert re.search(expected, refused(tmp_path, write(tmp_path / "d.csv", text), **settings))


DEFINED = {
    "accuracy-of-one-class": (classes(train="ababab", validation="bb", test="aaa"), {}),
    "classes-that-lack": (classes(train="abcabcabc", validation="bc", test="ab"), {"metric": "auroc"}),
    "labels-of-which-one-differs": (two_labels("01 11", "00 01"), LABELS),
    "f1-of-the-same-labels": (two_labels("01 01"), LABELS | {"metric": "f1"}),
}


@pytest.mark.parametrize("case", DEFINED)
def test_metrics_that_are_defined_all_the_same(tmp_path, case):
    text, settings = DEFINED[case]
    info = prepare(config({"path": str(write(tmp_path / "d.csv", text)), **settings}), "d", tmp_path / "out")
    assert any("of test" in warning for warning in info["warnings"])


def test_a_metric_that_is_not_defined_in_a_quick_look(tmp_path):
    text = numbers([2.5] + [1.5] * 200)
    downstream = {"max_sequences": 10, "validation": 0.5}
    found = refused(tmp_path, write(tmp_path / "d.csv", text), downstream)
    assert re.search(r"r2 is not defined for the test set: .* or raise downstream.max_sequences", found)


def test_a_test_set_is_all_that_the_hyenadna_protocol_chooses_by(tmp_path):
    path = write(tmp_path / "d.csv", classes(train="ababab", validation="bb", test="ab"))
    run = config({"path": str(path), "metric": "mcc"}, protocol="hyenadna")
    assert prepare(run, "d", tmp_path / "out")["sequences"]["validation"] == 2


# --------------------------------------------------------------------------------------------- folders


def folders(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        LAYOUTS["class-folders"][0](folder, ROWS)
        change(folder)

    return make


def tables(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        LAYOUTS["csv"][0](folder, ROWS)
        change(folder)

    return make


def one_file_left(folder: Path) -> None:
    for number in range(1, 12):
        (folder / "train" / "red" / f"trred{number:03}.txt").unlink()


def intervals(folder: Path) -> None:
    for label in ("red", "blue"):
        write(folder / "train" / f"{label}.csv.gz", "id,region,start,end,strand\n0,chr1,5,9,+\n")


FOLDERS = {
    "class-with-one-file": (folders(one_file_left), r"train/red/trred000.txt: class 'red' has 1 different training sequence"),
    "empty-class": (folders(lambda f: (f / "train" / "green").mkdir()), r"train/green: a class without a file. Add its sequences, or remove the folder"),
    "class-only-in-test": (folders(lambda f: write(f / "test" / "green" / "0.txt", "ACGT")), r"test/green/0.txt: the label 'green' stands in test but not in train"),
    "empty-file": (folders(lambda f: write(f / "train" / "red" / "z.txt", "\n")), r"train/red/z.txt: an empty sequence"),
    "letter": (folders(lambda f: write(f / "test" / "red" / "z.txt", "ACGT\nAC!T")), r"test/red/z.txt: letter 7 of the sequence is '!'"),
    "several-records": (folders(lambda f: write(f / "train" / "red" / "z.fa", ">a\nAC\n>b\nGT\n")), r"z.fa: has several records.*Put all into .*train/red.fa instead"),
    "two-label-columns": (folders(lambda f: None), r"the classes are folders or files, so there is one label"),
    "link-out": (folders(lambda f: (f / "train" / "red" / "z.txt").symlink_to("/etc/hostname")), r"z.txt: a link that leads out of the folder"),
    "folder-link-out": (folders(lambda f: (f / "train" / "green").symlink_to("/etc")), r"green: a link that leads out of the folder"),
    "same-split-twice": (tables(lambda f: write(f / "train.tsv", "sequence\tlabel\nACGT\t1\n")), r"train.csv, train.tsv stand for the same split. Keep one"),
    "two-validation-sets": (tables(lambda f: [write(f / n, table(ROWS, COLUMNS)) for n in ("dev.csv", "valid.csv")]), r"dev.csv, valid.csv stand for the same split"),
    "no-train": (tables(lambda f: (f / "train.csv").unlink()), r"has test.csv but no training set. Add train.csv"),
    "no-rows": (tables(lambda f: write(f / "test.csv", "id,sequence,label\n")), r"test.csv: has a header but not one row"),
    "test-column": (tables(lambda f: write(f / "test.csv", table(of(ROWS, "test"), COLUMNS).replace("label", "Label", 1))), r"test.csv: no column 'label'; column 'Label' is there"),
    "id-in-train-and-test": (tables(lambda f: write(f / "test.csv", table(ROWS[-2:] + ROWS[:1], COLUMNS))), r"test.csv: row 3 \(line 4\): the id 'trblue000' stands there for the second time, first in .*train.csv: row 1"),
    "intervals": (intervals, r"blue.csv.gz: a list of intervals \(region, start, end\) without their sequences. Get the dataset with sequences"),
    "unknown": (lambda f: write(f / "data.csv", GOOD), r"no layout of labelled sequences: train.csv and test.csv .* found data.csv. Give the file itself"),
    "nothing": (lambda f: f.mkdir(), r"found nothing"),
    "nothing-in-train": (lambda f: (f / "train").mkdir(parents=True), r"train: holds neither folders of classes nor files of sequences"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(tmp_path, case):
    make, expected = FOLDERS[case]
    make(tmp_path / "d")
    settings = {"label": ["a", "b"]} if case == "two-label-columns" else {}
    assert re.search(expected, refused(tmp_path, tmp_path / "d", **settings))


def test_folder_with_a_second_test_set(tmp_path):
    LAYOUTS["csv"][0](tmp_path / "d", ROWS)
    path = write(tmp_path / "more.csv", GOOD)
    assert "downstream.datasets[].test goes with a file" in refused(tmp_path, tmp_path / "d", test=str(path))


# ----------------------------------------------------------------------------------------------- others


@pytest.mark.parametrize("key", ["path", "test"])
def test_no_such_file(tmp_path, key):
    good = write(tmp_path / "good.csv", GOOD)
    settings = {"path": str(good)} | {key: str(tmp_path / "missing.csv")}
    with pytest.raises(FileNotFoundError, match=r"missing.csv: no such file"):
        prepare(config({"name": "d", **settings}), "d", tmp_path / "out")


def test_no_such_dataset(tmp_path):
    with pytest.raises(ValueError, match="nothing_of_that_name"):
        prepare(config(), "nothing_of_that_name", tmp_path / "out")


def test_wrong_checksum(tmp_path):
    path = write(tmp_path / "d.csv", GOOD)
    found = refused(tmp_path, path, sha256="0" * 64)
    assert re.search(r"the SHA-256 checksum is [0-9a-f]{64}, expected 0{64} \(downstream.datasets\[\].sha256\)", found)


def test_too_few_for_a_test_set(tmp_path):
    text = "sequence,label\nACGT,0\nACGA,1\nACGC,0\nACGG,1\nACCC,0\n"
    found = refused(tmp_path, write(tmp_path / "d.csv", text))
    assert re.search(r"row 2 \(line 3\): class '1' has 2 different .* train, validation and test need one each", found)


def test_numbers_taken_for_classes(tmp_path):
    rng = np.random.default_rng(0)
    text = "sequence,label\n" + "".join(f"{bases(rng, 20)},{number}\n" for number in range(30))
    assert "set downstream.datasets[].task: regression" in refused(tmp_path, write(tmp_path / "d.csv", text))


def test_too_small_a_look(tmp_path):
    rows = example(train=4, test=2, classes=tuple("abcdefgh"))
    path = write(tmp_path / "d.csv", table(rows, (*COLUMNS, "split")))
    found = refused(tmp_path, path, downstream={"max_sequences": 10})
    assert "downstream.max_sequences 10 has no room for two sequences of each of 8 classes" in found


def test_something_else_in_the_place_of_the_output(tmp_path):
    path = write(tmp_path / "d.csv", GOOD)
    write(tmp_path / "out" / "thesis.tex", "x")
    with pytest.raises(ValueError, match=r"holds something other than a prepared dataset \(thesis.tex\)"):
        prepare(config({"path": str(path)}), "d", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["dataset.json", "sequences.parquet"])
def test_damaged_when_it_is_read_back(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no prepared dataset"):
        load_labelled(tmp_path / "out")
    path = write(tmp_path / "d.csv", GOOD)
    prepare(config({"path": str(path)}), "d", tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"out: damaged dataset .* Prepare it again"):
        load_labelled(tmp_path / "out")


def test_a_published_dataset_may_repeat_names(tmp_path):
    """Of one's own they would be an error; the rows of a benchmark are what they are."""
    rows = [Row("same", row.sequence, row.label, row.split) for row in example(classes=("0", "1"))]
    for split in ("train", "test"):
        write(
            tmp_path / "copies" / "nt_H3" / f"{split}.fna", fasta(of(rows, split), lambda row: f"{row.id}|{row.label}")
        )
    run = config(suites=["nt_H3"], folder=str(tmp_path / "copies"))
    info = prepare(run, "nt_H3", tmp_path / "out")
    assert any("names of sequences repeat" in warning for warning in info["warnings"])
    assert len(set(load_labelled(tmp_path / "out").ids)) == len(rows)


def test_parquet_where_text_is_expected(tmp_path):
    """What a file is, its content says: the name does not matter."""
    rows = example()
    path = write_parquet(tmp_path / "d.csv", rows, (*COLUMNS, "split"))
    prepare(config({"path": str(path)}), "d", tmp_path / "out")
    assert len(load_labelled(tmp_path / "out")) == len(rows)
