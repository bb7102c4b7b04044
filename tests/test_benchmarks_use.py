"""The benchmark of a trained model at work: at tiny size both sides of a group tell the same numbers. Nothing here looks at the clock."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "use")]

from made_run import make_run  # noqa: E402

from benchmarks import use, use_measure, use_variants  # noqa: E402
from benchmarks.use_table import AIMS, PLAIN, SUBSTITUTIONS, figure, render  # noqa: E402
from titans_genomics.use.reader import open_run  # noqa: E402

TINY = use.Sizes(
    context=300, variants=6, part=3, spread=((100_000, 2),), spread_part=2, locus=2, bases=900,
    megabases=(0.0005, 0.001), sequences=4, length=50, short=12, near=20, far=40, rounds=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", stretch=128)


@pytest.fixture(scope="module")
def codes(made):
    return use_variants.contig(open_run(made))[1]


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """Results of every group, measured in this process."""
    folder = tmp_path_factory.mktemp("whole")

    def here(module, spec, env, limit):
        assert (module, env["OMP_NUM_THREADS"]) == ("benchmarks.use_measure", "2")
        return json.loads(json.dumps(use_measure.measure(spec)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(use, "in_own_process", here)
        patch.setattr(use, "QUICK", TINY)
        options = ["--quick", "--run", str(made), "--threads", "2", "--scratch", str(folder)]
        use.main([*options, "--out", str(folder / "use.json")])
    assert [path.name for path in folder.iterdir()] == ["use.json"]
    return json.loads((folder / "use.json").read_text())


def of(results, group, side):
    return [r for r in results["runs"] if (r["group"], r["side"]) == (group, side)]


def test_every_side_of_every_group_is_measured(whole):
    plan = use.groups(TINY)
    assert {side for group in plan for side in group.sides} == set(use_measure.SIDES)
    for group in plan:
        for side in group.sides:
            rounds = of(whole, group.name, side)
            assert len(rounds) == group.rounds
            for found in rounds:
                assert "error" not in found
                assert min(found["seconds"], found["processor_s"], found["tokens"], found["amount"]) > 0
                assert found["peak_mb"] > 0.9 * found["baseline_mb"] > 0  # the system counts in steps


def test_amounts_and_tokens_are_those_of_the_work(whole):
    amounts = {(r["group"], r["side"]): (r["amount"], r["tokens"]) for r in whole["runs"]}
    assert amounts["variants, natural", "score-variants"][0] == 6
    assert amounts["variants, all of a locus", "saturate"][0] == 6
    windows = amounts["variants, natural", PLAIN]
    assert windows[0] == 3
    assert 4 * 3 * (300 - 75 - 75) < windows[1] <= 4 * 3 * 300
    assert amounts["track", "track"] == (900, 900)
    assert amounts["track", "plain forward pass"] == (900, 899)  # nothing follows the last base
    assert amounts["embed", "embed"] == amounts["embed", "one sequence at a time"] == (4, 2 * 4 * 50)
    assert amounts["generate, 8 x 12", "generate"][0] == 8 * 12
    assert amounts["generate, 1 x 40", "generate"] == (40, 40)
    assert amounts["memorize", "memorize, mean"] == (900, 2 * 900)
    assert amounts["memory of track, 0.001 Mb", "track"] == (1_000, 1_000)


@pytest.mark.parametrize("aim", [aim for aim in AIMS if aim.seconds == "seconds"], ids=lambda aim: aim.group)
def test_both_sides_tell_the_same(whole, aim):
    groups = {r["group"] for r in whole["runs"] if r["group"].startswith(aim.group)}
    assert groups
    for group in groups:
        ours, other = of(whole, group, aim.ours)[0]["scores"], of(whole, group, aim.other)[0]["scores"]
        assert ours.keys() == other.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], other[name], rtol=0, atol=1e-4)  # a sharp head, single precision
            assert np.abs(ours[name]).min() > 1e-3 or name == "vector"


def test_small_sizes_reach_no_aim(whole):
    tables = render(whole)
    assert " yes " not in tables
    assert "| variants, 1 in 100,000 bases | score-variants / two passes" in tables
    assert "`generate`, one sequence:" in tables


# ----------------------------------------------------------------------------------------- what is read


def test_natural_variants_lie_in_the_genome(codes):
    found = use_variants.changes_of({"set": "natural", "count": 1_000}, codes)
    assert found == sorted(set(found))
    assert len(found) == 1_000
    assert all(codes[c.at] == c.ref != c.alt for c in found)
    with pytest.raises(ValueError, match="2000 natural variants, 2001 are asked for"):
        use_variants.changes_of({"set": "natural", "count": 2_001}, codes)


def test_spread_variants_are_one_in_so_many_bases(codes):
    found = use_variants.changes_of({"set": "1000", "count": 50}, codes)
    first = (len(codes) - 50_000) // 2
    assert [(c.at - first) // 1_000 for c in found] == list(range(50))
    assert all(codes[c.at] == c.ref != c.alt < 4 for c in found)
    with pytest.raises(ValueError, match="no room for 50 variants in 100,000 bases"):
        use_variants.changes_of({"set": "100000", "count": 50}, codes)


def test_substitutions_are_all_of_a_locus(codes):
    found = use_variants.changes_of({"set": SUBSTITUTIONS, "count": 9}, codes)
    assert [c.at - use_variants.LOCUS for c in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(found)) == 9
    assert all(codes[c.at] == c.ref != c.alt for c in found)


def test_a_genome_goes_on_from_its_beginning(tmp_path):
    path = use_measure.write_fasta(tmp_path / "long.fa", np.array([0, 1, 2, 3, 3], dtype=np.uint8), 213)
    text = path.read_text().split("\n", 1)[1].replace("\n", "")
    assert text == ("ACGTT" * 43)[:213]
    assert max(map(len, path.read_text().splitlines())) == use_measure.LINE


def test_the_plan_of_the_whole_fits_the_genome_and_the_aims(codes):
    plan = use.groups(use.Sizes())
    for aim in AIMS:
        groups = [group for group in plan if group.name.startswith(aim.group)]
        assert groups
        assert all({aim.ours, aim.other} <= set(group.sides) for group in groups)
    for group in plan:
        if group.name.startswith("variants"):
            assert len(use_variants.changes_of(group.spec, codes)) == group.spec["count"]
            assert len(set(use_variants.part_of(group.spec))) == group.spec["part"]


# ------------------------------------------------------------------------------------------- the command


def pretended(asked, slow=4.0, apart=0.0):
    """A stand-in for a process: the plain way takes ``slow`` times as long, scores differ by ``apart``."""

    def here(module, spec, env, limit):
        asked.append((spec["side"], spec.get("set", "")))
        if spec["side"] == "embed":
            return {"error": "took longer than 1 s"}
        plain = spec["side"] in (PLAIN, "plain forward pass")
        found = {"amount": 10, "seconds": 2.0 * slow if plain else 2.0, "processor_s": 2.0, "tokens": 400}
        scores = {"LLR": [1.0, 2.0 + (apart if plain else 0)]}
        return found | {"reading_s": 1.0, "peak_mb": 300.0, "baseline_mb": 200.0, "scores": scores}

    return here


def test_a_run_is_kept_resumed_and_printed(made, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(use, "in_own_process", pretended(asked))
    page = tmp_path / "page.md"
    page.write_text("<!-- use -->\nold\n<!-- end of use -->\n")
    options = ["--run", str(made), "--out", str(tmp_path / "use.json"), "--scratch", str(tmp_path)]
    use.main([*options, "--only", "track,variants, n"])
    assert asked[:2] == [("score-variants", "natural"), (PLAIN, "natural")]
    assert asked[-6:] == [("track", ""), ("plain forward pass", "")] * 3  # in turn
    asked.clear()
    use.main([*options, "--only", "track,variants,embed", "--resume", "--into", str(page)])
    assert set(asked) == {("embed", ""), ("one sequence at a time", "")}  # only what was missing
    assert asked.count(("embed", "")) == 1  # what failed is not tried again in the same run
    tables = page.read_text()
    assert "old" not in tables
    assert "| 5.00 / 1.25 variants | 4.00x | 40.0 / 40.0 | LLR 0.0e+00 | 3x, 1e-05 nats | yes |" in tables
    assert "| track (reading) | track / plain forward pass | 10.0 / 1.25 bases | 8.00x |" in tables
    assert "- (took longer than 1 s)" in tables
    assert "436,620" not in tables
    assert "no figure: took longer than 1 s" in capsys.readouterr().out
    use.main([*options, "--table"])
    assert capsys.readouterr().out.strip() in tables


@pytest.mark.parametrize(("slow", "apart"), [(2.9, 0.0), (4.0, 1e-4)], ids=["too slow", "other scores"])
def test_aims_that_are_not_reached_are_said(made, tmp_path, monkeypatch, slow, apart):
    monkeypatch.setattr(use, "in_own_process", pretended([], slow, apart))
    use.main(
        ["--run", str(made), "--out", str(tmp_path / "use.json"), "--scratch", str(tmp_path), "--only", "variants"]
    )
    results = json.loads((tmp_path / "use.json").read_text())
    row = next(line for line in render(results).splitlines() if line.startswith("| variants, natural"))
    assert row.endswith("| 3x, 1e-05 nats | no |")


def test_figures_of_another_model_do_not_stay(made, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(use, "in_own_process", pretended(asked))
    options = ["--out", str(tmp_path / "use.json"), "--scratch", str(tmp_path), "--resume"]
    use.main([*options, "--run", str(made), "--only", "memorize"])
    other = make_run(tmp_path / "other", seed=1)
    use.main([*options, "--run", str(other), "--only", "track"])
    results = json.loads((tmp_path / "use.json").read_text())
    assert {r["group"] for r in results["runs"]} == {"track"}
    assert results["model"]["run"] == os.path.relpath(other, ROOT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run", "nowhere"], "nowhere: holds no trained model (train/titans/model.json); `make run` makes results/default"),
        (["--only", "mamba"], "no group begins so"),
        (["--table"], "no results yet"),
        (["--megabases", "1,x"], "--megabases"),
        (["--megabases", "0"], "--megabases"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line(tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stopped:
        use.main([*options, "--out", str(tmp_path / "none.json")])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_measurement_in_a_process_of_its_own(made, tmp_path):
    from benchmarks.run import in_own_process

    spec = {"side": "memorize, mean", "run": str(made), "scratch": str(tmp_path), "bases": 300, "warm": {"bases": 9}}
    found = in_own_process("benchmarks.use_measure", spec, os.environ | {"OMP_NUM_THREADS": "1"}, 300)
    assert (found["amount"], found["tokens"], found["threads"]) == (300, 600, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rate", "said"),
    [(None, "-"), (0.3512, "0.351"), (7.5, "7.50"), (64.25, "64.2"), (789.4, "789"), (41_234, "41.2k")],
)
def test_rates_have_three_digits(rate, said):
    assert figure(rate) == said
