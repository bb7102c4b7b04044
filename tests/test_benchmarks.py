"""The benchmarks run at tiny size and count what they say they count. Nothing here looks at the clock."""

import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = {"width": 16, "heads": 2}
TITANS_PYTORCH = importlib.util.find_spec("titans_pytorch") is not None


@pytest.fixture(autouse=True)
def _checkout_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize(
    "side",
    [
        "our memory", "our memory, chunk 64", "our dual form", "our dual form, L = 1", "our LMM block", "our MAC",
        "lmm", "mag", "mal", "Transformer block",
    ],
)  # fmt: skip
def test_forward_and_backward_of_our_sides(side):
    from benchmarks.measure import main

    found = main({"kind": "train", "side": side, "tokens": 70, "seconds": 0.0, **TINY})
    assert found["finite"]
    assert found["finite_gradients"]
    assert found["tokens_per_s"] > 0
    assert found["forward_tokens_per_s"] > found["tokens_per_s"]
    assert found["peak_mb"] >= found["baseline_mb"] > 0


@pytest.mark.parametrize("side", ["our memory", "lmm", "mac", "mag", "mal"])
def test_streams_in_pieces(side):
    from benchmarks.measure import main

    found = main({"kind": "stream", "side": side, "tokens": 150, "piece": 40, **TINY})
    assert found["finite"]


def test_decodes_after_each_length():
    from benchmarks.measure import main

    found = main({"kind": "decode", "side": "our memory", "after": [50, 150], "count": 3, "piece": 30, **TINY})
    assert found["finite"]
    assert list(found["speeds"]) == ["50", "150"]


@pytest.mark.skipif(not TITANS_PYTORCH, reason="peers live in the benchmarks' own environment")
@pytest.mark.parametrize(
    "side",
    ["titans-pytorch memory, default", "titans-pytorch memory, chunk by chunk", "titans-pytorch MAC, as shipped"],
)
def test_forward_and_backward_of_peers(side):
    from benchmarks.measure import main

    assert main({"kind": "train", "side": side, "tokens": 256, "seconds": 0.0, "width": 64, "heads": 2})["finite"]


def test_every_side_of_the_plan_and_of_the_aims_can_be_built():
    from benchmarks.plan import AIMS, groups
    from benchmarks.sides import BUILD

    for quick in (False, True):
        plan = {group.name: group for group in groups(quick)}
        assert {side for group in plan.values() for side in group.sides} <= set(BUILD)
        for aim in AIMS:
            assert {aim.ours, aim.peer} <= set(plan[aim.group].sides)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("chunk", [8, 32])
def test_counted_multiply_adds_are_those_of_the_matrix_products(layers, chunk):
    """Every product of the formula, run through torch's own counter of floating point operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.limits import dual_form

    d, h, s = 8, 16, chunk
    widths = [d, *[h] * (layers - 1), d]
    W, S = ([torch.randn(1, n, m) for m, n in pairwise(widths)] for _ in range(2))
    square = torch.randn(1, s, s)
    with FlopCounterMode(display=False) as counter:
        a = [torch.randn(1, s, m) for m in widths]
        for x, w in zip(a, W, strict=False):
            x @ w.mT  # keys through M
        for e, w in zip(a[2:], W[1:], strict=True):
            e @ w  # errors handed down
        for x, e, w, v in zip(a, a[1:], W, S, strict=False):
            x @ w.mT, x @ v.mT  # queries through M and S
            x @ x.mT, square @ e  # within the chunk
            e.mT @ x, e.mT @ x  # next M and S
        square @ square  # decays
    # the counter takes one multiply-add for two operations
    assert counter.get_total_flops() / 2 / s == sum(dual_form(d, h, layers, chunk).values())


def test_triangles_are_less_than_squares():
    from benchmarks.limits import dual_form_total
    from benchmarks.sides import Shape

    shape = Shape(**TINY)
    assert dual_form_total(shape, 64, triangular=True) < dual_form_total(shape, 64)
    assert dual_form_total(shape, 1, triangular=True) == dual_form_total(shape, 1)


def test_a_run_is_kept_resumed_and_printed(tmp_path, monkeypatch):
    from benchmarks import run as runner
    from benchmarks.plan import Group
    from benchmarks.table import render

    train = {"kind": "train", "tokens": 32, "seconds": 0.0, **TINY}
    plan = [
        Group("memory, short", ("our memory", "titans-pytorch memory, default"), train, rounds=2, patience=1e9),
        Group("cost per token, 32", ("our memory",), {**train, "kind": "stream"}, ("default",), 1),
        Group("cost per token, 64", ("our memory",), {**train, "kind": "stream", "tokens": 64}, ("default",), 1),
    ]
    asked = []

    def pretend(spec, allocator, threads):
        asked.append((spec["side"], allocator))
        speed = 300.0 if spec["side"] == "our memory" else 100.0
        return {"tokens_per_s": speed, "peak_mb": 5e4 / speed, "baseline_mb": 100.0, "finite": True}

    monkeypatch.setattr(runner, "measure", pretend)
    path = tmp_path / "results" / "here.json"
    lines = []
    runner.run(plan[:1], path, 2, False, lines.append)
    one_round = ["our memory", "titans-pytorch memory, default"]
    assert [side for side, allocator in asked if allocator == "default"] == one_round * 2  # in turn
    assert len(lines) == len(asked) == 8
    results = runner.run(plan, path, 2, True, lines.append)
    assert len(asked) == 10  # only what was missing
    assert json.loads(path.read_text()) == results
    tables = render(results)
    assert "| 3.00x |" in tables
    assert "1/3.0" in tables
    assert "Growth at most 1.10: yes" in tables


def test_a_failed_measurement_is_said_and_not_repeated(tmp_path, monkeypatch):
    from benchmarks import run as runner
    from benchmarks.plan import AIMS, Group
    from benchmarks.table import render

    def pretend(spec, allocator, threads):
        if spec["side"] == "our memory":
            return {"tokens_per_s": 1.0, "peak_mb": 1.0, "baseline_mb": 1.0, "finite": True}
        return {"error": "killed by signal 9, most likely for want of memory"}

    monkeypatch.setattr(runner, "measure", pretend)
    group = Group(AIMS[0].group, (AIMS[0].ours, AIMS[0].peer), {"kind": "train", "tokens": 8}, ("default",), 3)
    results = runner.run([group], tmp_path / "here.json", 1, False, lambda line: None)
    assert sum("error" in r for r in results["runs"]) == 1
    assert "killed by signal 9" in render(results)


def test_one_measurement_in_a_fresh_process():
    from benchmarks.run import measure

    spec = {"kind": "train", "side": "our memory", "tokens": 16, "seconds": 0.0, **TINY}
    assert measure(spec, "kept", 1)["finite"]
    assert "KeyError" in measure({**spec, "side": "nobody's"}, "default", 1)["error"]


def test_without_a_gpu_the_gpu_benchmark_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "benchmarks.gpu needs an NVIDIA GPU that PyTorch can use; none was found here"


def test_tables_of_the_gpu_benchmark():
    from benchmarks.gpu import AIMS, BLOCK_SIDES, MIXER_SIDES, render

    assert {side for aim in AIMS for side in aim[:2]} <= set(MIXER_SIDES) | set(BLOCK_SIDES)
    speeds = {"LMM, L = 1, fused": 2e6, "Gated DeltaNet": 1e6, "MAG block": 1e6, "Transformer block": 4e6}
    runs = [{"side": side, "tokens": 8192, "tokens_per_s": speed} for side, speed in speeds.items()]
    machine = {"versions": {"torch": "2"}, "date": "today"}
    tables = render({"gpu": "none", "machine": machine, "runs": runs, "chunk": 64, "gmadd_per_s": 4e5})
    assert "| 2.00x |" in tables
    assert "0.25x (short)" in tables


@pytest.mark.gpu
def test_our_sides_on_a_gpu():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from benchmarks.gpu import BLOCK_SIDES, time_step

    for build in BLOCK_SIDES.values():
        module, forward = build()
        assert time_step(forward, module.cuda(), 1, 256, 1)["finite"]


def test_every_run_of_the_studies_is_a_valid_config():
    from benchmarks.titans_study import STUDIES, configure, label

    for plan in STUDIES.values():
        for changes in plan:
            configure(changes)
        assert len({label(changes) for changes in plan}) == len(plan)


def test_quick_data_benchmark_measures_what_is_right_and_cleans_up(tmp_path, monkeypatch, capsys):
    from benchmarks import data
    from benchmarks.data_files import Sizes

    tiny = Sizes(genome=400_000, slice=20_000, reads=3_000, windows=70, steps=1, rounds=1)
    monkeypatch.setattr(data, "QUICK", tiny)
    out = tmp_path / "data.json"
    data.main(["--quick", "--only", "fasta,windows", "--scratch", str(tmp_path), "--out", str(out)])
    assert list(tmp_path.iterdir()) == [out]
    runs = {(r["group"], r["side"]): r for r in json.loads(out.read_text())["runs"]}
    peers = importlib.util.find_spec("transformers") is not None
    for (group, side), found in runs.items():
        if side.startswith("Hugging Face") and not peers:
            assert "transformers" in found["error"]
        else:
            assert "error" not in found, f"{group}, {side}: {found['error']}"
            assert found["seconds"] > 0
    assert runs["fasta", "store, gate on"]["bases"] == 400_000
    assert runs["windows of reads", "Run.windows"]["amount"] == 70 * 8_192
    tables = capsys.readouterr().out
    assert "store, gate off / pysam.FastxFile" in tables
    assert "windows of a genome | Run.windows / np.array(memmap) |" in tables


def test_every_side_of_the_data_plan_and_of_its_aims_is_there(tmp_path):
    from benchmarks.data import groups
    from benchmarks.data_files import Files, Sizes
    from benchmarks.data_measure import SIDES
    from benchmarks.data_table import AIMS, STORES

    plan = {group.name: group.sides for group in groups()}
    assert {side for sides in plan.values() for side in sides} == set(SIDES)
    for aim in AIMS:
        assert {aim.ours, aim.other} <= set(plan[aim.group])
    assert {*STORES, "open"} == set(plan["large"])
    files = Files(tmp_path, Sizes(genome=50_000, slice=1_000, packed=20_000, reads=10, large=60_000))
    for name in {file for sides in plan.values() for file in sides.values()}:
        path, facts = files.get(name)
        assert path.stat().st_size > 0
        assert facts["bases"] > 0


def test_other_bases_than_in_the_file_are_no_figure(tmp_path, monkeypatch):
    from benchmarks import data
    from benchmarks.data_files import Sizes
    from benchmarks.data_table import render

    def pretend(spec, threads):
        if spec["side"] == "pysam.FastxFile":
            return {"seconds": 1.0, "processor_s": 1.0, "peak_mb": 1.0, "bases": 1}
        return {"seconds": 2.0, "processor_s": 1.0, "peak_mb": 1.0, "bases": 20_000}

    monkeypatch.setattr(data, "measure", pretend)
    path = tmp_path / "data.json"
    sizes, lines = Sizes(genome=20_000, slice=20_000, large=10**18, rounds=2), []
    plan = [group for group in data.groups() if group.name in ("fasta", "large")]
    results = data.Bench(sizes, tmp_path, 1, path, lines.append).run(plan, resume=False)
    assert json.loads(path.read_text()) == results
    found = {(r["group"], r["side"]): r.get("error") for r in results["runs"]}
    assert found["fasta", "pysam.FastxFile"] == "other bases than in the file: 1, not 20000"
    assert found["fasta", "store, gate off"] is None
    assert found["large", "open"] == "not enough disk; name another folder with --scratch"
    assert "2150000000.0 GB" in next(line for line in lines if line.startswith("large"))
    assert "| 1.00x | 20x | - |" in render(results)  # an aim is about the full sizes
    assert "| 1.00x | 20x | no |" in render(results | {"sizes": Sizes()._asdict()})
    before = len(results["runs"])
    again = data.Bench(sizes, tmp_path, 1, path, lines.append).run(plan, resume=True)
    assert len(again["runs"]) == before


TEXT = {"width": 16, "heads": 2, "layers": 2, "count": 3}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("side", ["lmm", "mac", "mag", "mal", "gated_deltanet", "diagonal", "Transformer, KV cache"])
def test_prompts_are_read_and_continued(side, batch):
    from benchmarks.text_measure import measure

    filled = [300] if side.startswith("Transformer") else []
    found = measure({"side": side, "batch": batch, "lengths": [40, 150], "filled": filled, **TEXT})
    assert found["finite"]
    assert list(found["lengths"]) == ["40", "150", *map(str, filled)]
    for length in ("40", "150"):
        figures = found["lengths"][length]
        assert figures["first_s"] > 0
        low, high = figures["token_s_quartiles"]
        assert 0 < low <= figures["token_s"] <= high
        assert found["baseline_mb"] <= figures["peak_mb"] <= found["peak_mb"]


def test_what_is_remembered_grows_for_the_transformer_alone():
    from benchmarks.text_measure import measure

    grown = {}
    for side in ("lmm", "mag", "diagonal", "Transformer, KV cache"):
        sizes = [x["state_mb"] for x in measure({"side": side, "lengths": [256, 512], **TEXT})["lengths"].values()]
        grown[side] = sizes[1] / sizes[0]
    room = 3 + 16
    assert grown.pop("Transformer, KV cache") == pytest.approx((512 + room) / (256 + room))
    assert set(grown.values()) == {1.0}


def test_the_size_of_a_state_counts_what_is_shared_once():
    import torch

    from benchmarks.text_measure import Cache, state_mb

    x = torch.zeros(1_000)
    shared = [x, x.view(10, 100), x[:1].expand(5_000)]
    assert state_mb(shared) == pytest.approx(4_000e-6)
    assert state_mb(Cache([torch.zeros(250)], [{"a": torch.zeros(250)}], 7)) == pytest.approx(2_000e-6)


def test_the_transformer_with_a_cache_is_the_variant_with_a_window_as_long(monkeypatch):
    """Prompt in one pass, then token by token: logits of the whole, and of the package's own growing cache."""
    import torch

    from benchmarks.sides import Shape
    from benchmarks.text_measure import package_model, read_with_cache
    from titans_genomics.models import attention

    torch.manual_seed(0)
    model = package_model("transformer", Shape(16, 2), 2).double().eval()
    for block in model.blocks:
        block.mixer.attention.window = 100
    ids = torch.randint(256, (2, 40))
    monkeypatch.setattr(attention, "KEYS", 7)
    with torch.no_grad():
        whole, _ = model(ids)
        logits, cache = read_with_cache(model, ids[:, :25], None, room=15)
        own, state = model(ids[:, :25])
        found, by_variant = [logits], [own[:, -1]]
        for t in range(25, 40):
            logits, cache = read_with_cache(model, ids[:, t : t + 1], cache, room=15)
            own, state = model(ids[:, t : t + 1], state)
            found.append(logits)
            by_variant.append(own[:, -1])
    assert cache.count == 40
    torch.testing.assert_close(torch.stack(found, dim=1), whole[:, 24:], atol=1e-11, rtol=0)
    torch.testing.assert_close(torch.stack(by_variant, dim=1), whole[:, 24:], atol=1e-11, rtol=0)


def test_all_models_of_the_text_benchmark_have_as_many_parameters():
    import torch

    from benchmarks.sides import Shape
    from benchmarks.text import SHAPE
    from benchmarks.text_measure import VARIANTS, package_model

    with torch.device("meta"):
        shape = Shape(SHAPE["width"], SHAPE["heads"])
        counts = {v: package_model(v, shape, SHAPE["layers"]).parameter_count() for v in (*VARIANTS, "transformer")}
    assert max(counts.values()) / min(counts.values()) < 1.01, counts


@pytest.mark.skipif(not TITANS_PYTORCH, reason="peers live in the benchmarks' own environment")
def test_the_peer_reads_and_goes_on_with_its_cache():
    import torch

    from benchmarks.sides import Shape
    from benchmarks.text_measure import peer_mac

    torch.manual_seed(0)
    reader = peer_mac(Shape(64, 2), 1, 8)
    reader.model.eval()
    ids = torch.randint(256, (1, 133))
    with torch.no_grad():
        _, state = reader.read(ids[:, :130], None)
        for t in range(130, 133):
            logits, state = reader.read(ids[:, t : t + 1], state)
        whole, _ = reader.read(ids, None)
    assert logits.shape == whole.shape == (1, 256)
    assert state.ids.shape == ids.shape
    assert logits.isfinite().all()


def test_a_run_of_the_text_benchmark_is_kept_resumed_and_printed(tmp_path, monkeypatch, capsys):
    from benchmarks import text

    asked = []

    def pretend(module, spec, env, limit):
        asked.append((spec["side"], spec["batch"], tuple(spec["lengths"])))
        assert env["OMP_NUM_THREADS"] == "1"
        if spec["side"] == "mal":
            return {"error": "took longer than 1 s"}
        slow = 10.0 if spec["side"] == text.PEER else 1.0
        figures = {
            str(n): {"token_s": 1e-3 * slow * (1 + i), "first_s": n / 1e4, "peak_mb": 300 + i, "state_mb": 0.5}
            for i, n in enumerate([*spec["lengths"], *spec.get("filled", [])])
        }
        return {"lengths": figures, "baseline_mb": 200, "peak_mb": 400, "parameters": 7, "finite": True}

    monkeypatch.setattr(text, "in_own_process", pretend)
    path = tmp_path / "text.json"
    text.main(["--quick", "--rounds", "2", "--only", "LMM,titans-pytorch", "--out", str(path)])
    one, eight = text.QUICK.lengths, (text.QUICK.context,)
    assert asked == [
        ("lmm", 1, one), (text.PEER, 1, one[:2]), ("lmm", 1, one[:2]), (text.PEER, 1, one[:2]),
        ("lmm", 8, eight), (text.PEER, 8, eight), ("lmm", 8, eight), (text.PEER, 8, eight),
    ]  # fmt: skip
    asked.clear()
    tables = tmp_path / "tables.md"
    tables.write_text("<!-- text -->\nold\n<!-- end of text -->\n")
    options = ["--quick", "--rounds", "2", "--resume", "--out", str(path)]
    text.main([*options, "--only", "lmm,titans,mal,transformer", "--into", str(tables)])
    assert {side for side, *_ in asked} == {"mal", text.TRANSFORMER}  # only what was missing
    kept = json.loads(path.read_text())["runs"]
    assert len([r for r in kept if "error" not in r]) == 12
    printed = tables.read_text()
    assert "old" not in printed
    assert "| lmm | 1,000 | 500 | 333 | 1.50x |" in printed  # tokens/s, and the last length in units of the second
    assert "| 500 | 10.00x | 1.00x |" in printed  # after the second length, in units of the peers
    assert "| 8,000 | 10.00x | 1.00x |" in printed  # eight together, after one length
    assert "| mal | - | - | - | - |" in printed
    assert "no figure: took longer than 1 s" in capsys.readouterr().out
    text.main(["--quick", "--rounds", "1", "--only", "lmm", "--out", str(path)])
    assert {r["side"] for r in json.loads(path.read_text())["runs"]} == {"lmm"}  # other sizes are another run


def test_sides_that_are_not_there_are_named(tmp_path, capsys):
    from benchmarks import text

    for options, said in ((["--only", "mamba"], "there are lmm"), (["--table"], "no results yet")):
        with pytest.raises(SystemExit):
            text.main([*options, "--out", str(tmp_path / "none.json")])
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_name_their_machine_and_can_be_printed(path):
    results = json.loads(path.read_text())
    assert results["machine"]["versions"]["torch"]
    if path.stem.startswith("gpu-"):
        from benchmarks.gpu import render
    else:
        if path.stem == "studies":
            from benchmarks.titans_study import render
        elif path.stem.startswith("data"):
            from benchmarks.data_table import render
        elif path.stem.startswith("downstream"):
            from benchmarks.downstream import render
        elif path.stem.startswith("text"):
            from benchmarks.text import render
        elif path.stem.startswith("use"):
            from benchmarks.use_table import render
        else:
            from benchmarks.table import render

        assert results["machine"]["processor"]
    told = {
        "data": "| ratio |",
        "downstream": "sequences per second",
        "text": "Seconds to the first token",
        "use": "Beside the plain way",
    }.get(path.stem, "| tokens")
    assert told in render(results)
