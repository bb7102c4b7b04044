"""The last checks before a store is written, and what its manifest warns of."""

from __future__ import annotations

from typing import Any

import pytest
from making import config_for, random_bases, tokenized, write_fasta

from titans_genomics.data.store import tokenize

OFF = {"leaks": {"action": "off"}}
BLOCKS = {"block": 100, "validation": 0.2, "test": 0.2, **OFF}


def test_n_that_is_cut_out_is_not_held_against_a_source(tmp_path):
    path = write_fasta(tmp_path / "y.fa", {"chrY": random_bases(2_000) + "N" * 6_000 + random_bases(2_000, 1)})
    with pytest.raises(ValueError, match=r"y\.fa: 60\.0% of the 10,000 bases are N.*data\.n_runs drop or split"):
        tokenize(config_for(path, split=BLOCKS), tmp_path / "t")
    for n_runs in ("drop", "split"):
        (source,) = tokenized(tmp_path / n_runs, path, n_runs=n_runs, split=BLOCKS).manifest["sources"]
        assert (source["n"], sum(source["tokens"].values()) >= 4_000) == (6_000, True)
    outside, inside = tmp_path / "outside.bed", tmp_path / "inside.bed"
    outside.write_text("chrY\t1900\t8100\n")
    inside.write_text("chrY\t1000\t3500\n")
    tokenize(config_for({"path": str(path), "exclude": str(outside)}, split=BLOCKS), tmp_path / "t")
    few = {"path": str(path), "regions": str(inside)}
    with pytest.raises(ValueError, match=r"60\.0% of the 2,500 bases are N"):
        tokenize(config_for(few, split=BLOCKS), tmp_path / "t")
    with pytest.raises(ValueError, match=r"Use an unmasked file, or raise data\.max_n"):
        tokenize(config_for(few, n_runs="split", n_run=7_000, split=BLOCKS), tmp_path / "t")


@pytest.mark.parametrize(
    ("given", "missing", "remedy"),
    [
        (("validation", "test"), "train", "Give one to train (data.sources[].split), or leave one without"),
        (("train", "test"), "validation", "or set data.split.validation to 0"),
    ],
)
def test_a_split_that_no_source_was_given_to(tmp_path, given, missing, remedy):
    sources: list[dict[str, Any]] = [
        {"path": str(write_fasta(tmp_path / f"{name}.fa", {"c": random_bases(500, i)})), "split": name}
        for i, name in enumerate(given)
    ]
    with pytest.raises(ValueError, match=f"and none is {missing}") as error:
        tokenize(config_for(*sources, split=BLOCKS), tmp_path / "t")
    assert remedy in str(error.value)
    assert "data.split.train" not in str(error.value)


def test_blocks_that_could_not_be_shorter_are_no_remedy(tmp_path):
    path = write_fasta(tmp_path / "x.fa", {"c": random_bases(180)})
    small = {"validation": 0.1, "test": 0.1, **OFF}
    with pytest.raises(ValueError, match=r"leaves test empty: 180 bases .*\. Add sequence, or change these shares$"):
        tokenize(config_for(path, split=small | {"block": 100}), tmp_path / "t")
    with pytest.raises(ValueError, match=r"with data\.split\.block 100 or less, or add sequence$"):
        tokenize(config_for(path, split=small | {"block": 200}), tmp_path / "t")
