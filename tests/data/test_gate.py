"""Near-identical strains in one run: refused with both named, moved, reported, or let be."""

from __future__ import annotations

import numpy as np
import pytest
from making import config_for, mutated, random_bases, tokenized, write_fasta

from titans_genomics.data.folder import SHARDS
from titans_genomics.data.gate import leak_gate
from titans_genomics.data.layout import choose
from titans_genomics.data.shard import Shard
from titans_genomics.data.store import TokenStore, tokenize

SPLIT = {"block": 2_000, "validation": 0.1, "test": 0.1}


@pytest.fixture
def strains(tmp_path):
    """Two strains of one genome that share their first 40 kb, but for one base in a hundred, and a third genome."""
    shared = random_bases(40_000)
    return [
        {"path": str(write_fasta(tmp_path / f"{name}.fa", {f"chr_{name}": sequence}))}
        for name, sequence in (
            ("mg1655", shared + random_bases(40_000, 1)),
            ("w3110", mutated(shared, 0.01) + random_bases(40_000, 2)),
            ("yeast", random_bases(60_000, 3)),
        )
    ]


def held_out(store: TokenStore, source: str) -> list[tuple[int, int]]:
    """Held-out stretches of a source, as stretches of its only contig."""
    return [(s.start, s.end) for s in store.index if s.source == source and s.split != "train"]


def shares(store: TokenStore) -> dict[tuple[str, str], float]:
    return {(held["source"], held["split"]): held["share"] for held in store.manifest["leaks"]["held"]}


def test_the_error_names_both_strains_and_where(strains, tmp_path):
    with pytest.raises(ValueError, match="stands near-identically in train") as error:
        tokenize(config_for(*strains, split=SPLIT), tmp_path / "tokens")
    said = str(error.value)
    assert "  mg1655 (" in said
    assert "in w3110 (train), about 9" in said
    assert "chr_mg1655:" in said
    assert "chr_w3110:" in said
    assert "yeast" not in said
    assert "data.split.leaks.action move" in said
    assert not (tmp_path / "tokens").exists()


def test_report_only(strains, tmp_path):
    plain = tokenized(tmp_path / "off", *strains, split=SPLIT | {"leaks": {"action": "off"}})
    store = tokenized(tmp_path / "tokens", *strains, split=SPLIT | {"leaks": {"action": "report"}})
    assert plain.manifest["leaks"] is None
    assert (plain.places[:] == store.places[:]).all()
    assert store.manifest["leaks"]["action"] == "report"
    found = shares(store)
    assert set(found) == {(s["path"].split("/")[-1][:-3], split) for s in strains for split in ("validation", "test")}
    for (source, split), share in found.items():
        stretches = [(s.start, s.end) for s in store.index if (s.source, s.split) == (source, split)]
        shared = sum(max(0, min(end, 40_000) - start) for start, end in stretches if source != "yeast")
        held = sum(end - start for start, end in stretches)
        elsewhere = sum(  # also held out in the other strain: no leak
            max(0, min(end, e, 40_000) - max(start, b))
            for start, end in stretches
            for b, e in held_out(store, {"mg1655": "w3110", "w3110": "mg1655"}.get(source, source))
            if source != "yeast"
        )
        assert share == pytest.approx((shared - elsewhere) / held, abs=0.05)


def test_moved_stretches_are_train_and_the_rest_stays(strains, tmp_path):
    before = tokenized(tmp_path / "report", *strains, split=SPLIT | {"leaks": {"action": "report"}})
    after = tokenized(tmp_path / "move", *strains, split=SPLIT | {"leaks": {"action": "move"}})
    leaks = after.manifest["leaks"]
    assert max(shares(before).values()) > 0.2 >= max(shares(after).values())
    moved = 0
    for source in ("mg1655", "w3110", "yeast"):
        old, new = set(held_out(before, source)), set(held_out(after, source))
        assert new <= old
        assert all(start >= 30_000 or source == "yeast" for start, _ in new)
        assert all(source != "yeast" and start < 40_000 for start, _ in old - new)
        moved += len(old - new)
        assert sum(s.end - s.start for s in after.index if s.source == source) == (
            60_000 if source == "yeast" else 80_000
        )
    assert (leaks["moved"], leaks["action"]) == (moved, "move")
    assert leaks["moved_bases"] == sum(
        sum(run["tokens"] - (run["last"] - run["first"]) for run in store.manifest["runs"] if run["split"] != "train")
        * sign
        for store, sign in ((before, 1), (after, -1))
    )


def test_moving_everything_is_an_error(tmp_path):
    genome = random_bases(40_000)
    one, two = (
        write_fasta(tmp_path / f"{name}.fa", {"c": sequence})
        for name, sequence in (("a", genome), ("b", mutated(genome, 0.005)))
    )
    sources = [{"path": str(one)}, {"path": str(two), "split": "validation"}]
    with pytest.raises(ValueError, match="leaves validation empty"):
        tokenize(config_for(*sources, split=SPLIT | {"test": 0, "leaks": {"action": "move"}}), tmp_path / "tokens")


def test_what_is_never_trained_on_is_no_leak(strains, tmp_path):
    strains[1]["weight"] = 0
    with pytest.raises(ValueError, match="near-identically") as error:  # of the second, in what the first trains on
        tokenize(config_for(*strains, split=SPLIT), tmp_path / "tokens")
    assert "  w3110 (" in str(error.value)
    assert "  mg1655 (" not in str(error.value)
    assert "in w3110 (train)" not in str(error.value)
    for source in strains[:2]:
        source["weight"] = 0
    store = tokenized(tmp_path / "tokens", *strains, split=SPLIT)
    assert set(shares(store)) == {(s, split) for s in ("mg1655", "w3110", "yeast") for split in ("validation", "test")}
    assert max(shares(store).values()) == 0


def test_the_largest_share_is_a_setting(strains, tmp_path):
    store = tokenized(tmp_path / "tokens", *strains, split=SPLIT | {"leaks": {"max_share": 1.0}})
    assert max(shares(store).values()) > 0.2
    assert store.manifest["leaks"]["max_share"] == 1


def test_text_is_not_looked_at(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("<|endoftext|>\n".join(["the same again\n" * 40] * 30))
    config = config_for({"path": str(path), "kind": "text"}, tokenizer={"kind": "byte"}, split=SPLIT)
    assert tokenize(config, tmp_path / "tokens")["leaks"] is None


def test_a_joined_stretch_that_is_moved_leaves_the_other_behind_it(tmp_path):
    """With its N dropped, a held-out stretch has two parts, of which one stands in train: no EOS is lost."""
    genome, copied = random_bases(30_000), random_bases(1_500, 7)
    held = copied + "N" * 200 + random_bases(1_500, 8)
    sources = [
        {"path": str(write_fasta(tmp_path / "a.fa", {"one": genome, "two": copied + random_bases(3_000, 9)}))},
        {
            "path": str(
                write_fasta(tmp_path / "b.fa", {"held": held, "rest": random_bases(4_000, 10), "copy": genome[:3_000]})
            )
        },
    ]
    sources[0]["split"], sources[1]["split"] = "train", "test"
    config = config_for(*sources, n_runs="drop", split=SPLIT | {"validation": 0, "leaks": {"action": "move"}})
    assert tokenize(config, tmp_path / "tokens")["leaks"]["moved"] == 2
    store = TokenStore(tmp_path / "tokens")
    segments = [(s.record, s.start, s.end, s.split, s.joined) for s in store.index if s.source == "b"]
    assert sorted(segments) == [
        ("copy", 0, 3_000, "train", False),
        ("held", 0, 1_500, "train", False),
        ("held", 1_700, 3_200, "test", False),
        ("rest", 0, 4_000, "test", False),
    ]


def test_reads_of_one_molecule_are_moved_together(tmp_path):
    """The mates of a held-out molecule, of which one is a copy of a training read."""
    genome = random_bases(50_000)
    lines = []
    for i in range(40):
        left, right = genome[1_000 * i : 1_000 * i + 300], genome[1_000 * i + 500 : 1_000 * i + 800]
        lines += [f"@r{i}/1", left, "+", "I" * 300, f"@r{i}/2", right, "+", "I" * 300]
    for i in range(40):  # molecules of their own that copy every first mate
        lines += [f"@copy{i}", genome[1_000 * i : 1_000 * i + 300], "+", "I" * 300]
    path = tmp_path / "x.fq"
    path.write_text("\n".join(lines) + "\n")
    split = {"validation": 0, "test": 0.2, "leaks": {"action": "move", "scale": 1}}
    config = config_for(path, split=split)
    store = tokenized(tmp_path / "tokens", path, split=split | {"leaks": {"action": "off"}})
    shard = Shard(store.path / SHARDS, "x")
    (chosen,) = choose(config, [shard])
    before = chosen.split.copy()
    found = leak_gate(config, [shard], [chosen])
    assert found is not None
    assert 0 < found["moved"] == (before != chosen.split).sum()
    names = shard.names.to_pylist()
    split_of: dict[str, set[int]] = {}
    for record, split in zip(chosen.record.tolist(), chosen.split.tolist(), strict=True):
        split_of.setdefault(names[record].split("/")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    held = [i for i in range(40) if split_of[f"r{i}"] == {2}]
    assert all(split_of[f"copy{i}"] == {2} for i in held)
    assert np.isin(before, [0, 2]).all()


def test_mates_in_two_files_are_moved_together(tmp_path):
    """The first mate is a copy of a training read, the second, in the other file, is not."""
    genome = random_bases(50_000)
    first, second = [], []
    for i in range(40):
        left, right = genome[1_000 * i : 1_000 * i + 300], genome[1_000 * i + 500 : 1_000 * i + 700]
        first += [f"@r{i}/1", left, "+", "I" * 300, f"@copy{i}", left, "+", "I" * 300]
        second += [f"@r{i}/2", right, "+", "I" * 200]
    paths = [tmp_path / "one.fq", tmp_path / "two.fq"]
    for path, lines in zip(paths, (first, second), strict=True):
        path.write_text("\n".join(lines) + "\n")
    split = {"validation": 0, "test": 0.2, "leaks": {"action": "move", "scale": 1}}
    store = tokenized(tmp_path / "tokens", *paths, split=split | {"leaks": {"action": "off"}})
    shards = [Shard(store.path / SHARDS, name) for name in ("one", "two")]
    config = config_for(*paths, split=split)
    chosen = choose(config, shards)
    before = chosen[1].split.copy()
    leak_gate(config, shards, chosen)
    split_of: dict[str, set[int]] = {}
    for shard, own in zip(shards, chosen, strict=True):
        names = shard.names.to_pylist()
        for record, number in zip(own.record.tolist(), own.split.tolist(), strict=True):
            split_of.setdefault(names[record].split("/")[0], set()).add(number)
    assert all(len(numbers) == 1 for numbers in split_of.values())
    assert (before != chosen[1].split).any()


@pytest.mark.parametrize(("length", "judged"), [(21_000, True), (14_000, False)])
def test_a_held_out_contig_that_is_a_strain_of_another_is_named(tmp_path, length, judged):
    """One file of many genomes, of which four are held out: one of these is a quarter, and alone it is above."""
    records = {f"g{i}": random_bases(length, i) for i in range(40)}
    path = write_fasta(tmp_path / "many.fa", records)
    split = {"by": "contig", "validation": 0.1, "test": 0, "leaks": {"action": "report"}}
    plain = tokenized(tmp_path / "plain", path, split=split)
    assert (plain.manifest["leaks"]["records"], plain.manifest["warnings"]) == ([], [])
    held = sorted(s.record for s in plain.index if s.split == "validation")
    other = next(s.record for s in plain.index if s.split == "train")
    assert len(held) == 4
    write_fasta(path, records | {held[1]: mutated(records[other], 0.01)})
    store = tokenized(tmp_path / "report", path, split=split)
    leaks, warnings = store.manifest["leaks"], store.manifest["warnings"]
    assert leaks["held"][0]["share"] == pytest.approx(0.25, abs=0.02)
    assert "25" in warnings[0]
    assert "near-identically in train, most of it in many" in warnings[0]
    assert [one["record"] for one in leaks["records"]] == [held[1]] * judged
    assert [held[1] in warning for warning in warnings[1:]] == [True] * judged
    strict = config_for(path, split=split | {"leaks": {"action": "error"}})
    if not judged:
        assert tokenize(strict, tmp_path / "error")["leaks"]["records"] == []
        return
    (one,) = leaks["records"]
    assert (one["match"]["held"]["record"], one["match"]["train"]["record"]) == (held[1], other)
    with pytest.raises(ValueError, match=rf"{held[1]} of many \(validation\): 9.*") as error:
        tokenize(strict, tmp_path / "error")
    assert f"of many is {other}:" in str(error.value)
    assert "give each a file and a source of its own" in str(error.value)
    moved = tokenized(tmp_path / "move", path, split=split | {"leaks": {"action": "move"}})
    assert sorted(s.record for s in moved.index if s.split == "validation") == [held[0], *held[2:]]
    assert moved.manifest["warnings"] == []
