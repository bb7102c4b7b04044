"""Labelled datasets: every layout gives the same, draws keep together what belongs together, what is written is read back."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled_making import COLUMNS, LAYOUTS, Row, bases, config, example, of, prepared, table, write

from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.data.labelled import Labelled, draw, load_labelled, prepare
from titans_genomics.data.labelled.files import read_sheet
from titans_genomics.data.labelled.preparation import _whole

SPLITS = ("train", "validation", "test")


def listed(data: Labelled) -> list[tuple[str, str, str, str]]:
    """Id, letters, label and split of every row, in order."""
    return [
        (data.ids[i], decode(data.sequence(i)), data.classes[data.targets[i]], SPLITS[data.split[i]])
        for i in range(len(data))
    ]


def made(
    sequences: list[str], targets: list[int], groups: list[int] | None = None, split: list[int] | None = None
) -> Labelled:
    """A dataset in memory."""
    codes = [np.array(["ACGTN".index(base) for base in sequence], dtype=np.uint8) for sequence in sequences]
    classes = tuple(str(number) for number in range(max(targets) + 1))
    return Labelled(
        name="d", task="classification", classes=classes, metric="accuracy", ids=[str(i) for i in range(len(codes))],
        codes=np.concatenate(codes), offsets=np.cumsum([0, *map(len, codes)]).astype(np.int64), targets=np.array(targets),
        split=np.zeros(len(codes), np.uint8) if split is None else np.array(split, dtype=np.uint8),
        groups=None if groups is None else np.array(groups), copies=np.zeros(len(codes), np.uint8), info={},
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path, layout):
    rows = example()
    make, name = LAYOUTS[layout]
    make(tmp_path / "d", rows)
    data = prepared(tmp_path / "d" / name)
    expected = [(row.id, row.sequence, row.label, row.split) for row in rows]
    found = [(one.rsplit("/", 1)[-1], *rest) for one, *rest in listed(data)]
    assert found == expected
    assert data.task == "classification"
    assert data.classes == ("blue", "red")
    assert data.metric == "accuracy"
    assert data.info["sequences"] == {"train": 24, "validation": 0, "test": 8}
    assert data.info["per_class"]["test"] == {"blue": 4, "red": 4}
    lengths = [len(row.sequence) for row in rows]
    assert data.info["length"] == {"min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)}
    assert data.lengths.tolist() == lengths


@pytest.mark.parametrize("name", ["dev.csv", "validation.csv", "valid.csv", "val.csv"])
def test_a_validation_file_is_the_validation_set(tmp_path, name):
    rows = example(test=3)
    write(tmp_path / "d" / "train.csv", table(of(rows, "train"), COLUMNS))
    write(tmp_path / "d" / name, table(of(rows, "test")[:4], COLUMNS))
    write(tmp_path / "d" / "test.csv", table(of(rows, "test")[4:], COLUMNS))
    data = prepared(tmp_path / "d")
    assert data.info["sequences"] == {"train": 24, "validation": 4, "test": 2}
    train, validation, test = draw(data, "caduceus", 0.5, 0)
    assert [SPLITS[s] for rows in (train, validation, test) for s in np.unique(data.split[rows])] == list(SPLITS)


def test_a_second_file_is_the_test_set(tmp_path):
    rows = example()
    train = write(tmp_path / "mine.csv", table(of(rows, "train"), COLUMNS))
    test = write(tmp_path / "theirs.tsv", table(of(rows, "test"), COLUMNS, delimiter="\t"))
    data = prepared(train, test=str(test))
    assert [row[1] for row in listed(data)] == [row.sequence for row in rows]
    assert data.info["sequences"] == {"train": 24, "validation": 0, "test": 8}


def test_folders_of_classes_without_a_test_set(tmp_path):
    rows = example(train=20, test=0)
    for row in rows:
        write(tmp_path / "d" / row.label / f"{row.id}.txt", row.sequence + "\n")
    data = prepared(tmp_path / "d", test_share=0.25)
    assert data.info["per_class"] == {
        "train": {"blue": 15, "red": 15},
        "validation": {"blue": 0, "red": 0},
        "test": {"blue": 5, "red": 5},
    }
    assert "no test set was given" in data.info["warnings"][0]


@pytest.mark.parametrize(("sequence", "label"), [("seq", "labels"), ("dna", "y"), ("DNA", "target")])
def test_usual_names_of_columns(tmp_path, sequence, label):
    text = table(example(), ("sequence", "label", "split")).replace("sequence,label", f"{sequence},{label}", 1)
    assert len(prepared(write(tmp_path / "d.csv", text))) == 32


def test_named_columns(tmp_path):
    rows = example()
    text = table(rows, ("id", "sequence", "label", "split")).replace(
        "id,sequence,label,split", "gene,Bases,label,Part", 1
    )
    data = prepared(write(tmp_path / "d.csv", text), sequence="Bases", id="gene", split="Part")
    assert [row[0] for row in listed(data)] == [row.id for row in rows]
    assert data.info["sequences"]["test"] == 8


@pytest.mark.parametrize(
    ("header", "name", "label"),
    [
        ("chr1:5-9|0", "chr1:5-9", "0"),
        ("a name | red ", "a name", "red"),
        ("sp|P1|red", "sp|P1", "red"),
        ("a strand=+|red", "a", "red"),
        ("a strand=+ label=red", "a", "red"),
        ("a|label=red", "a", "red"),
        ("a|b label=red", "a", "red"),
    ],
)
def test_headers_of_fasta(tmp_path, header, name, label):
    rows = example(classes=("blue", "green"))
    text = f">{header}\nACGTACGT\n>other|{label}\nACGTAC\n>third|{label}\nGGGTAC\n" + "".join(
        f">{row.id}|{row.label}\n{row.sequence}\n" for row in rows
    )
    data = prepared(write(tmp_path / "d.fa", text))
    found = {row[0]: (row[1], row[2]) for row in listed(data)}
    assert found[name] == ("ACGTACGT", label)


def test_numbers_of_rows_are_qualified_by_their_file(tmp_path):
    rows = [dataclasses.replace(row, id=str(number % 8)) for number, row in enumerate(example(train=4, test=4))]
    for split in ("train", "test"):
        write(tmp_path / "d" / f"{split}.csv", table(of(rows, split), COLUMNS))
    assert prepared(tmp_path / "d").ids[7:10] == ["train/7", "test/0", "test/1"]


def test_hidden_files_and_others_are_left_alone(tmp_path):
    make, _ = LAYOUTS["class-folders"]
    make(tmp_path / "d", example())
    write(tmp_path / "d" / ".DS_Store", "x")
    write(tmp_path / "d" / "train" / "red" / "._0.txt", b"\0\1")
    write(tmp_path / "d" / "metadata.yaml", "version: 0")
    assert len(prepared(tmp_path / "d")) == 32


def test_links_within_the_folder_are_followed(tmp_path):
    make, _ = LAYOUTS["csv"]
    make(tmp_path / "d" / "kept", example())
    for split in ("train", "test"):
        (tmp_path / "d" / f"{split}.csv").symlink_to(Path("kept") / f"{split}.csv")
    assert len(prepared(tmp_path / "d")) == 32


def test_a_snapshot_of_the_hub_links_to_its_blobs(tmp_path):
    make, _ = LAYOUTS["csv"]
    make(tmp_path / "blobs", example())
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for split in ("train", "test"):
        (snapshot / f"{split}.csv").symlink_to(tmp_path / "blobs" / f"{split}.csv")
    assert len(prepared(snapshot)) == 32


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(FIELDS, min_size=1, max_size=6),
    delimiter=st.sampled_from([",", "\t", ";"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_labels_survive_the_quoting_of_csv(tmp_path, labels, delimiter, quoting, end, mark):
    rows = [Row(str(number), "ACGT", label) for number, label in enumerate(labels)]
    path = write(tmp_path / "d.csv", mark + table(rows, COLUMNS, delimiter, end, quoting))
    columns = read_sheet(path).columns
    assert list(columns) == list(COLUMNS)
    assert columns["label"].to_pylist() == labels
    assert columns["id"].to_pylist() == [row.id for row in rows]


# -------------------------------------------------------------------------------------------- sequences


def test_letters(tmp_path):
    rows = [Row("a", "acgun", "x"), Row("b", " ACGTRYSWKMBDHVN ", "y"), Row("c", "TTT", "x"), Row("d", "CCA", "y"), Row("e", "CG", "x"), Row("f", "TC", "y")]  # fmt: skip
    data = prepared(write(tmp_path / "d.csv", table(rows, COLUMNS)), max_ambiguous=1, test_share=0.3)
    found = {row[0]: row[1] for row in listed(data)}
    assert found == {"a": "ACGTN", "b": "ACGTNNNNNNNNNNN", "c": "TTT", "d": "CCA", "e": "CG", "f": "TC"}
    assert data.info["ambiguous_share"] == pytest.approx(12 / 30)


@pytest.mark.parametrize(
    ("longest", "kept"), [(4, "CDEF"), (5, "BCDEF"), (7, "ABCDEFG"), (8, "ABCDEFGH"), (9, "ABCDEFGH")]
)
def test_long_sequences_are_cut_to_their_middle(tmp_path, longest, kept):
    letters = dict(zip("ABCDEFGH", "ACGTTGCA", strict=True))
    rows = [Row("a", "".join(letters.values()), "x"), *example(classes=("x", "y"))]
    data = prepared(write(tmp_path / "d.csv", table(rows, (*COLUMNS, "split"))), max_length=longest)
    sequence = {row[0]: row[1] for row in listed(data)}["a"]
    assert sequence == "".join(letters[one] for one in kept)
    assert data.info["cut"] == sum(len(row.sequence) > longest for row in rows)
    assert data.lengths.max() <= longest


def test_copies_duplicates_and_contradictions_are_counted(tmp_path):
    rng = np.random.default_rng(3)
    one, two, three, four = (bases(rng, 80) for _ in range(4))
    turned = decode(reverse_complement(np.array(["ACGT".index(b) for b in one], dtype=np.uint8)))
    rows = [
        Row("a", one, "x"), Row("b", two, "x"), Row("c", two, "y"), Row("d", three, "y"), Row("e", three, "y"),
        Row("v", turned, "x", "test"), Row("n", two[:60] + bases(rng, 20), "y", "test"), Row("o", four, "y", "test"),
    ]  # fmt: skip
    data = prepared(write(tmp_path / "d.csv", table(rows, (*COLUMNS, "split"))))
    assert dict(zip(data.ids, data.copies.tolist(), strict=True)) == dict.fromkeys("abcdeo", 0) | {"v": 2, "n": 1}
    assert data.info["leaks"] == {
        "test": 3, "verbatim": 1, "near": 2, "verbatim_share": 1 / 3, "near_share": 2 / 3, "k": 20, "near_from": 0.5,
    }  # fmt: skip
    assert data.info["duplicates"] == 2
    assert data.info["contradicting"] == 1


@pytest.mark.parametrize(("length", "k", "told"), [(30, 17, True), (44, 15, True), (45, 15, False), (200, 21, False)])
def test_k_goes_by_the_median_length_and_short_sequences_are_told_of(tmp_path, length, k, told):
    rng = np.random.default_rng(0)
    rows = [Row(f"{s}{i}", bases(rng, length), "xy"[i % 2], s) for s in ("train", "test") for i in range(6)]
    info = prepared(write(tmp_path / "d.csv", table(rows, (*COLUMNS, "split")))).info
    assert info["leaks"]["k"] == k
    expected = (
        f"half of the sequences have {length} bases or fewer: near copies of short sequences in train may be missed"
    )
    assert any(expected in warning for warning in info["warnings"]) == told


def test_a_part_of_a_training_sequence_shorter_than_a_kmer_is_near(tmp_path):
    rng = np.random.default_rng(0)
    rows = [Row(str(i), bases(rng, 100), "xy"[i % 2]) for i in range(8)]
    rows += [Row("part", rows[0].sequence[50:65], "x", "test"), Row("other", bases(rng, 15), "y", "test")]
    data = prepared(write(tmp_path / "d.csv", table(rows, (*COLUMNS, "split"))))
    assert dict(zip(data.ids[-2:], data.copies[-2:].tolist(), strict=True)) == {"part": 1, "other": 0}


# --------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9"), ("9", "10")),
        (("1.0", "0.0"), ("0", "1")),
        (("-1", "1"), ("-1", "1")),
        (("b", "10"), ("10", "b")),
        (("True", "False"), ("False", "True")),
    ],
    ids=["by-number", "decimals", "signs", "text", "booleans"],
)
def test_names_of_classes(tmp_path, labels, classes):
    data = prepared(write(tmp_path / "d.csv", table(example(classes=labels), (*COLUMNS, "split"))))
    assert data.task == "classification"
    assert data.classes == classes
    assert data.targets.dtype == np.int64
    plain = {"1.0": "1", "0.0": "0"}
    assert {row[0][2:-3]: row[2] for row in listed(data)} == {label: plain.get(label, label) for label in labels}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_with_decimals_are_regression(tmp_path, kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    sequences = [bases(rng, 30) for _ in values]
    path = tmp_path / f"d.{kind}"
    if kind == "csv":
        write(path, "seq,y\n" + "".join(f"{s},{v!r}\n" for s, v in zip(sequences, values.tolist(), strict=True)))
    else:
        pq.write_table(pa.table({"seq": sequences, "y": values}), path)
    data = prepared(path)
    assert (data.task, data.classes, data.metric) == ("regression", ("label",), "r2")
    assert data.targets.shape == (20, 1)
    assert data.targets.dtype == np.float32
    found = {decode(data.sequence(i)): data.targets[i, 0] for i in range(20)}
    assert found == dict(zip(sequences, values.astype(np.float32), strict=True))


@pytest.mark.parametrize("kind", ["csv", "parquet-integers", "parquet-booleans", "fasta"])
def test_several_columns_are_multilabel(tmp_path, kind):
    rng = np.random.default_rng(0)
    wanted = rng.integers(2, size=(60, 3))
    sequences = [bases(rng, 30) for _ in wanted]
    path = tmp_path / "d"
    if kind == "csv":
        lines = [f"{s},{a},{b},{c}\n" for s, (a, b, c) in zip(sequences, wanted.tolist(), strict=True)]
        write(path, "sequence,a,b,c\n" + "".join(lines))
    elif kind == "fasta":
        write(path, "".join(f">s{i} a={a} b={b} c={c}\n{s}\n" for i, (s, (a, b, c)) in enumerate(zip(sequences, wanted.tolist(), strict=True))))  # fmt: skip
    else:
        values = wanted.astype(bool) if kind.endswith("booleans") else wanted
        pq.write_table(pa.table({"sequence": sequences, **{n: values[:, i] for i, n in enumerate("abc")}}), path)
    data = prepared(path, label=["c", "a", "b"])
    assert (data.task, data.classes, data.metric) == ("multilabel", ("c", "a", "b"), "auroc")
    found = {decode(data.sequence(i)): data.targets[i].tolist() for i in range(60)}
    assert found == dict(zip(sequences, wanted[:, [2, 0, 1]].astype(float).tolist(), strict=True))
    train = data.targets[data.split == 0]
    assert data.info["per_class"]["train"] == dict(zip("cab", train.sum(0).astype(int).tolist(), strict=True))


# ----------------------------------------------------------------------------------------------- draws


@st.composite
def datasets(draw_one):
    """Classes, repeated sequences (on either strand), and perhaps groups."""
    n = draw_one(st.integers(12, 60))
    rng = np.random.default_rng(draw_one(st.integers(0, 2**32 - 1)))
    distinct = [bases(rng, 12) for _ in range(draw_one(st.integers(8, 60)))]
    chosen = rng.integers(len(distinct), size=n)
    turned = [decode(reverse_complement(np.array(["ACGT".index(b) for b in s], dtype=np.uint8))) for s in distinct]
    sequences = [(distinct if rng.random() < 0.5 else turned)[c] for c in chosen]
    classes = rng.integers(draw_one(st.integers(2, 4)), size=n).tolist()
    groups = rng.integers(draw_one(st.integers(3, 20)), size=n).tolist() if draw_one(st.booleans()) else None
    return made(sequences, classes, groups)


@settings(max_examples=50, deadline=None)
@given(data=datasets(), share=st.sampled_from([0.1, 0.2, 0.5]), seed=st.integers(0, 3))
def test_draws_are_disjoint_seeded_and_keep_together_what_belongs_together(data, share, seed):
    train, validation, test = draw(data, "caduceus", share, seed)
    assert sorted([*train, *validation, *test]) == list(range(len(data)))
    assert len(test) == 0
    again = draw(data, "caduceus", share, seed)
    assert all(np.array_equal(a, b) for a, b in zip((train, validation, test), again, strict=True))
    if data.groups is not None:
        assert not set(data.groups[train].tolist()) & set(data.groups[validation].tolist())
    else:
        keys = [min(decode(s), decode(reverse_complement(s))) for s in map(data.sequence, range(len(data)))]
        assert not {keys[row] for row in train} & {keys[row] for row in validation}
        assert len(train)
        assert len(validation)


@pytest.mark.parametrize("groups", [None, "pure", "mixed"])
def test_draws_are_stratified(groups):
    rng = np.random.default_rng(0)
    targets = [0] * 300 + [1] * 100 + [2] * 40
    sequences = [bases(rng, 20) for _ in targets]
    group = {None: None, "pure": [i // 2 for i in range(440)], "mixed": [(i * 7) % 88 for i in range(440)]}[groups]
    data = made(sequences, targets, group)
    for seed in range(3):
        _, validation, _ = draw(data, "caduceus", 0.1, seed)
        counts = np.bincount(data.targets[validation], minlength=3)
        assert counts.tolist() == [30, 10, 4] if groups != "mixed" else (abs(counts - [30, 10, 4]) <= [8, 4, 3]).all()


def test_identical_sequences_do_not_cross_groups_where_that_can_be():
    rng = np.random.default_rng(0)
    sequences = [bases(rng, 30) for _ in range(200)]
    groups = [i // 5 for i in range(200)]
    for pair in range(0, 20, 2):  # ten pairs of groups with a sequence in common
        sequences[pair * 5] = sequences[(pair + 1) * 5]
    data = made(sequences, [i % 2 for i in range(200)], groups)
    train, validation, _ = draw(data, "caduceus", 0.3, 0)
    assert not {sequences[i] for i in train} & {sequences[i] for i in validation}
    assert not {groups[i] for i in train} & {groups[i] for i in validation}


def test_a_sequence_in_every_group_does_not_stand_in_the_way():
    rng = np.random.default_rng(0)
    sequences = [bases(rng, 30) if i % 10 else "A" * 30 for i in range(200)]
    data = made(sequences, [i % 2 for i in range(200)], [i // 10 for i in range(200)])
    train, validation, _ = draw(data, "caduceus", 0.2, 0)
    assert len(validation) == pytest.approx(40, abs=10)
    assert not {i // 10 for i in train} & {i // 10 for i in validation}


def test_another_seed_is_another_draw():
    rng = np.random.default_rng(0)
    data = made([bases(rng, 20) for _ in range(100)], [0, 1] * 50)
    assert len({tuple(draw(data, "caduceus", 0.2, seed)[1].tolist()) for seed in range(5)}) == 5


def test_hyenadna_trains_on_all_and_chooses_on_the_test_set():
    rng = np.random.default_rng(0)
    data = made([bases(rng, 20) for _ in range(9)], [0, 1, 0] * 3, split=[0, 0, 0, 1, 1, 1, 2, 2, 2])
    train, validation, test = draw(data, "hyenadna", 0.1, 0)
    assert train.tolist() == [0, 1, 2, 3, 4, 5]
    assert validation.tolist() == test.tolist() == [6, 7, 8]


def test_a_test_set_that_is_held_out_keeps_groups_and_copies_together(tmp_path):
    rows = example(train=40, test=0)
    rows += [dataclasses.replace(row, id=row.id + "again") for row in rows[::5]]
    lines = ["id,sequence,label,chromosome", *(f"{r.id},{r.sequence},{r.label},chr{len(r.sequence) % 7}" for r in rows)]
    path = write(tmp_path / "d.csv", "\n".join(lines))
    data = prepared(path, group="chromosome", test_share=0.3)
    test = data.split == 2
    assert test.any()
    assert not set(data.groups[test].tolist()) & set(data.groups[~test].tolist())
    assert data.info["leaks"]["verbatim"] == 0
    assert len(set(data.groups.tolist())) == 7


# --------------------------------------------------------------------------------------------- subsample


def test_a_quick_look_takes_of_each_class_its_share(tmp_path):
    rows = example(train=60, test=30) + [
        Row(f"rare{i}", bases(np.random.default_rng(100 + i), 30), "rare") for i in range(3)
    ]
    path = write(tmp_path / "d.csv", table(rows, (*COLUMNS, "split")))
    data = prepared(path, downstream={"max_sequences": 22})
    assert data.info["limited_to"] == 22
    assert data.info["sequences"] == {"train": 22, "validation": 0, "test": 22}
    assert data.info["per_class"]["train"] == {"blue": 10, "rare": 2, "red": 10}
    assert listed(data) == listed(prepared(path, downstream={"max_sequences": 22}))
    assert listed(data) != listed(prepared(path, seed=2, downstream={"max_sequences": 22}))
    assert prepared(path, downstream={"max_sequences": 1000}).info["limited_to"] is None


# ----------------------------------------------------------------------------------------------- on disk


def test_what_is_written_is_read_back(tmp_path):
    rows = example()
    lines = [
        "id,sequence,label,split,gene",
        *(f"{r.id},{r.sequence},{r.label},{r.split},g{len(r.sequence)}" for r in rows),
    ]
    path = write(tmp_path / "d.csv", "\n".join(lines))
    info = prepare(config({"path": str(path), "group": "gene", "metric": "mcc"}), "d", tmp_path / "out")
    first = load_labelled(tmp_path / "out")
    assert first.info == info == json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert first.metric == "mcc"
    assert first.groups is not None
    assert len(set(first.groups.tolist())) == len({len(row.sequence) for row in rows})
    assert (first.codes.dtype, first.offsets.dtype, first.split.dtype, first.copies.dtype, first.groups.dtype) == (
        np.uint8, np.int64, np.uint8, np.uint8, np.int64,
    )  # fmt: skip
    prepare(config({"path": str(path), "group": "gene", "metric": "mcc"}), "d", tmp_path / "again")
    for name in ("sequences.parquet", "dataset.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "d.csv", "out"]


def modified(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}


def test_what_is_the_same_keeps_its_time(tmp_path):
    path = write(tmp_path / "d.csv", table(example(), (*COLUMNS, "split")))
    run = config({"path": str(path)})
    prepare(run, "d", tmp_path / "out")
    before = modified(tmp_path / "out")
    prepare(run, "d", tmp_path / "out")
    assert modified(tmp_path / "out") == before
    prepare(config({"path": str(path), "metric": "mcc"}), "d", tmp_path / "out")
    after = modified(tmp_path / "out")
    assert all(after[name] > before[name] for name in before)
    assert load_labelled(tmp_path / "out").metric == "mcc"
    (tmp_path / "out" / "dataset.json").unlink()
    prepare(run, "d", tmp_path / "out")
    assert load_labelled(tmp_path / "out").metric == "accuracy"
    assert sorted(os.listdir(tmp_path)) == ["d.csv", "out"]


def test_the_old_dataset_goes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = write(tmp_path / "d.csv", table(example(), (*COLUMNS, "split")))
    prepare(config({"path": str(path)}), "d", tmp_path / "out")
    before = modified(tmp_path / "out")
    rename = Path.rename

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError("Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        prepare(config({"path": str(path), "metric": "mcc"}), "d", tmp_path / "out")
    assert modified(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["d.csv", "out"]


def test_a_dataset_that_was_set_aside_is_found_again(tmp_path):
    """A run that was killed between the two renames; the next one fails."""
    path = write(tmp_path / "d.csv", table(example(), (*COLUMNS, "split")))
    run = config({"path": str(path)})
    prepare(run, "d", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    half = write(tmp_path / ".out.partial" / "sequences.parquet", "half")
    with pytest.raises(OSError, match="full"), _whole(tmp_path / "out"):
        raise OSError("disk full")
    assert len(load_labelled(tmp_path / "out")) == 32
    assert not half.exists()
    assert sorted(os.listdir(tmp_path)) == ["d.csv", "out"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = write(tmp_path / "d.csv", table(example(), (*COLUMNS, "split")))
    run = config({"path": str(path)})
    prepare(run, "d", tmp_path / "out")
    before = (tmp_path / "out" / "sequences.parquet").read_bytes()
    write(path, "sequence,label\n")
    with pytest.raises(ValueError, match="not one row"):
        prepare(run, "d", tmp_path / "out")
    assert (tmp_path / "out" / "sequences.parquet").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["d.csv", "out"]


def test_checksums(tmp_path):
    make, name = LAYOUTS["csv-split-column"]
    make(tmp_path / "one", example())
    digest = hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest()
    assert prepared(tmp_path / "one" / name, sha256=digest).info["source"]["sha256"] == digest
    make, _ = LAYOUTS["class-folders"]
    make(tmp_path / "many", example())
    said = subprocess.run(
        "find train test -type f | LC_ALL=C sort | xargs sha256sum | sha256sum",
        shell=True, cwd=tmp_path / "many", capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    assert prepared(tmp_path / "many", sha256=said).info["source"] == {
        "path": str(tmp_path / "many"),
        "layout": "a folder per class and a file per sequence",
        "sha256": said,
    }


def test_the_checksum_covers_the_test_file(tmp_path):
    make, _ = LAYOUTS["csv"]
    make(tmp_path, example())
    said = subprocess.run(
        "sha256sum train.csv test.csv | sha256sum", shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()[0]
    files = {"test": str(tmp_path / "test.csv"), "sha256": said}
    assert prepared(tmp_path / "train.csv", **files).info["source"] == {
        "path": str(tmp_path / "train.csv"),
        "layout": "CSV, test set in a file of its own",
        "sha256": said,
        "test": str(tmp_path / "test.csv"),
    }
    text = (tmp_path / "test.csv").read_text()
    write(tmp_path / "test.csv", text.replace("red", "blue", 1))
    with pytest.raises(ValueError, match="the SHA-256 checksum is"):
        prepared(tmp_path / "train.csv", **files)


def test_a_dataset_of_a_suite(tmp_path):
    rows = example(classes=("negative", "positive"))
    make, _ = LAYOUTS["class-folders"]
    make(tmp_path / "copies" / "human_nontata_promoters", rows)
    info = prepare(config(suites=["human_nontata_promoters"], folder=str(tmp_path / "copies")), "human_nontata_promoters", tmp_path / "out")  # fmt: skip
    assert info["suite"] == "genomic_benchmarks"
    assert info["metric"] == "accuracy"
    assert Counter(load_labelled(tmp_path / "out").split.tolist()) == {0: 24, 2: 8}
