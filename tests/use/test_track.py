"""Tracks of a genome: against the model read naively, the evaluation, autograd, and an interruption."""

from __future__ import annotations

import base64
import json
import math
import re
from itertools import pairwise

import numpy as np
import pybigtools
import pytest
import torch
from small import small_settings

from titans_genomics.config import parse_config
from titans_genomics.data.alphabet import encode
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.evaluation import evaluate
from titans_genomics.ops import memory_mlp, neural_memory
from titans_genomics.training import build_model, model_config, with_vocabulary
from titans_genomics.training.export import save_model
from titans_genomics.use import surprise, track_files, track_parts
from titans_genomics.use.page import read_features
from titans_genomics.use.reader import open_run
from titans_genomics.use.surprise import listening, measured_memory
from titans_genomics.use.track import track
from titans_genomics.use.track_files import Figures, Means, surprising
from titans_genomics.use.track_parts import Column

HELD = 5300
STRETCH = 64


def make_run(folder, tokenizer=None, model="titans"):
    """A run with a token store and a model that nobody trained, but that is sure of itself; its genome, and one held out."""
    rng = np.random.default_rng(3)

    def letters(count):
        found = rng.choice(list("ACGT"), count)
        found[rng.integers(10, count, 5)] = "N"
        return "".join(found)

    (folder / "genome.fa").write_text(f">one\n{letters(6000)}\n")
    (folder / "held.fa").write_text(f">held\n{letters(HELD)}\n")
    settings = small_settings(folder)
    settings["data"]["sources"].append({"path": str(folder / "held.fa"), "name": "held", "split": "test"})
    if tokenizer:
        settings["data"]["tokenizer"] = tokenizer
    settings["model"]["n_layers"] = 2
    config = parse_config(settings, "small")
    run = folder / "run"
    tokenize(config, run / "tokens")
    store = TokenStore(run / "tokens")
    config = with_vocabulary(config, store)
    torch.manual_seed(4)
    network = build_model(model, model_config(config, model))
    with torch.no_grad():
        network.head.weight.mul_(20)
        for block in network.blocks:
            if hasattr(block.mixer, "memory"):
                block.mixer.memory.to_gates.weight.mul_(20)
    (run / "train" / model).mkdir(parents=True)
    save_model(run / "train" / model, model, model_config(config, model), network, store, 0)
    return config, run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("track"))


@pytest.fixture(scope="module")
def reader(made):
    return open_run(made[1])


@pytest.fixture(scope="module")
def held(made):
    return made[1].parent / "held.fa"


def codes_of(path, contig="held"):
    return encode(dict(part.split("\n", 1) for part in path.read_text()[1:].split("\n>"))[contig].replace("\n", ""))


def values(out, name, contig="held"):
    return pybigtools.open(str(out / f"{name}.bw")).values(contig, fillna=None)


def naive(reader, codes, stretch):
    """Bits and entropy by base, one stretch at a time in one call each, and logits of the whole."""
    tokens = torch.from_numpy(codes.astype(np.int64))[None]
    bits, entropy = np.full(len(codes), np.nan), np.full(len(codes), np.nan)
    with torch.inference_mode():
        for first in range(0, len(codes), stretch):
            logits, _ = reader.model(tokens[:, first : first + stretch])
            logs = logits[0].double().log_softmax(-1).numpy() / math.log(2)
            for i in range(len(logs)):
                after = first + i + 1
                if after < len(codes):
                    entropy[after] = -(2 ** logs[i] * logs[i]).sum()
                    bits[after] = -logs[i, codes[after]] if codes[after] < 4 else np.nan
    return bits, entropy


# ------------------------------------------------------------------------------------------------ surprise


def memory_inputs(dtype, layers, hidden=6, width=4, tokens=23, heads=2, batch=2):
    torch.manual_seed(layers)
    q, k, v = (torch.randn(batch, tokens, heads, width, dtype=dtype) for _ in range(3))
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    alpha, eta = (torch.rand(batch, tokens, heads, dtype=dtype) * scale for scale in (0.3, 0.9))
    theta = torch.rand(batch, tokens, heads, dtype=dtype) * 0.1
    sizes = [width, *[hidden] * (layers - 1), width]
    weights = [torch.randn(batch, heads, out, into, dtype=dtype) / into**0.5 for into, out in pairwise(sizes)]
    return q, k, v, alpha, eta, theta, weights


def norms_by_autograd(k, v, alpha, eta, theta, weights, chunk):
    """|u_t|, the memory written token by token as the paper has it."""
    momentum = [torch.zeros_like(w) for w in weights]
    found = []
    for t in range(k.shape[1]):
        if t % chunk == 0:
            anchor = weights
        at = [w.clone().requires_grad_() for w in anchor]
        with torch.enable_grad():
            loss = (memory_mlp(k[:, t : t + 1], at) - v[:, t : t + 1]).square().sum()
            gradients = torch.autograd.grad(loss, at)
        found.append(sum(u.square().sum((-1, -2)) for u in gradients).sqrt())
        step, decay, keep = (gate[:, t, :, None, None] for gate in (theta, eta, 1 - alpha))
        momentum = [decay * s - step * u for s, u in zip(momentum, gradients, strict=True)]
        weights = [keep * w + s for w, s in zip(weights, momentum, strict=True)]
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(("where", "layers"), [("kernel", 2), ("anywhere", 1), ("anywhere", 2), ("anywhere", 3)])
def test_surprise_is_the_length_of_the_inner_gradient(where, layers, monkeypatch):
    if where == "anywhere":
        monkeypatch.setattr(surprise, "why_no_kernels", lambda: "not here")
    dtype = torch.float32 if where == "kernel" else torch.float64
    q, k, v, alpha, eta, theta, weights = memory_inputs(dtype, layers)
    expected = norms_by_autograd(*(x.double() for x in (k, v, alpha, eta, theta)), [w.double() for w in weights], 8)
    momentum = [torch.zeros_like(w) for w in weights]
    with torch.inference_mode():
        y, state = neural_memory(q, k, v, alpha, eta, theta, weights, momentum, 8)
        found, parts, anchor, offset = [], [], None, 0
        for cut in (slice(0, 5), slice(5, 6), slice(6, 16), slice(16, 23)):  # chunks are left open and closed
            gates = (x[:, cut] for x in (alpha, eta, theta))
            part, after, norms = measured_memory(
                q[:, cut], k[:, cut], v[:, cut], *gates, weights, momentum, 8, anchor=anchor, offset=offset
            )
            weights, momentum, anchor, offset = after
            found.append(norms)
            parts.append(part)
    close = {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(torch.cat(found, 1).double(), expected, **close)
    torch.testing.assert_close(torch.cat(parts, 1), y, **close)
    for mine, wanted in zip(
        [*weights, *momentum, *anchor], [*state.weights, *state.surprise, *state.anchor], strict=True
    ):
        torch.testing.assert_close(mine, wanted, **close)
    assert offset == state.offset == 7


def test_listening_changes_nothing(reader):
    tokens = torch.randint(0, 5, (2, 150))
    with torch.inference_mode():
        before, state = reader.model(tokens)
        with listening(reader.model) as listeners:
            during, same = reader.model(tokens)
            reader.model(tokens[:1, :1])  # one token goes another way when nobody listens
        after, _ = reader.model(tokens)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert all(
        torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other
        for (_, mine), (_, other) in zip(state.leaves(), same.leaves(), strict=True)
    )
    assert [[part.surprise.shape for part in listener.heard] for listener in listeners] == [
        [(2, 150, 2), (1, 1, 2)]
    ] * 2


# -------------------------------------------------------------------------------------------------- tracks


@pytest.fixture(scope="module")
def tracked(reader, held, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, track(reader, held, out, stretch=STRETCH, tracks=("bits", "entropy", "surprise", "alpha", "theta"))


def test_bits_and_entropy_are_those_of_the_model(reader, held, tracked):
    bits, entropy = naive(reader, codes_of(held), STRETCH)
    for name, expected in (("bits", bits), ("entropy", entropy)):
        np.testing.assert_allclose(values(tracked[0], name), expected, atol=2e-5)
    assert np.isnan(bits).sum() == 1 + (codes_of(held) > 3).sum()
    assert tracked[1]["bits_per_base"] == pytest.approx(np.nanmean(bits), abs=1e-6)


def test_bits_average_to_those_of_the_evaluation(made, tracked, tmp_path):
    config, run = made
    figures = evaluate(config, run / "tokens", {"titans": run / "train" / "titans"}, tmp_path / "evaluate.json")
    held = figures["sources"]["held"]
    assert figures["stretch"] == STRETCH
    assert held["bases"] == tracked[1]["contigs"]["held"]["scored"]
    assert tracked[1]["bits_per_base"] == pytest.approx(held["models"]["titans"]["bits_per_base"], abs=1e-6)
    # and the run's evaluation says what the default is
    (run / "evaluate").mkdir()
    (run / "evaluate" / "evaluate.json").write_text(json.dumps(figures))
    again = track(open_run(run), run.parent / "held.fa", tmp_path / "out", tracks=["bits"])
    assert again["stretch"] == STRETCH
    assert again["bits_per_base"] == tracked[1]["bits_per_base"]


def test_surprise_and_gates_belong_to_the_base_that_is_written(reader, held, tracked):
    tokens = torch.from_numpy(codes_of(held).astype(np.int64))[None]
    with torch.inference_mode(), listening(reader.model) as listeners:
        reader.model(tokens[:, 2 * STRETCH : 3 * STRETCH])
        heard = [listener.take() for listener in listeners]
    for layer in range(2):
        for kind in ("surprise", "alpha", "theta"):
            found = values(tracked[0], f"{kind}_layer{layer}")
            assert np.isfinite(found).all()
            own = getattr(heard[layer], kind)[0].mean(-1).numpy()
            np.testing.assert_allclose(found[2 * STRETCH : 3 * STRETCH], own, rtol=1e-4)


def test_heads_are_tracks_of_their_own(reader, held, tracked, tmp_path):
    result = track(reader, held, tmp_path, tracks=["surprise"], heads="each", stretch=STRETCH)
    assert list(result["tracks"]) == [f"surprise_layer{layer}_head{head}" for layer in (0, 1) for head in (0, 1)]
    mean = (values(tmp_path, "surprise_layer1_head0") + values(tmp_path, "surprise_layer1_head1")) / 2
    np.testing.assert_allclose(mean, values(tracked[0], "surprise_layer1"), rtol=1e-5)


@pytest.mark.parametrize(("piece", "stretch"), [(7, STRETCH), (1000, None), (333, None)], ids=str)
def test_pieces_change_rounding_only(reader, held, tmp_path, piece, stretch):
    result = track(reader, held, tmp_path, tracks=["bits"], piece=piece, stretch=stretch)
    bits, _ = naive(reader, codes_of(held), stretch or HELD)
    np.testing.assert_allclose(values(tmp_path, "bits"), bits, atol=1e-4)
    assert result["stretch"] == stretch


def test_bins_and_masks(reader, held, tracked, tmp_path):
    (tmp_path / "mask.bed").write_text("chrheld\t100\t250\nchrheld\t5200\t5300\n")
    with pytest.raises(ValueError, match="chrheld"):  # chr1 and 1 are the same, chrheld and another are not
        track(reader, reader.folder.parent.parent.parent / "genome.fa", tmp_path / "a", mask=[tmp_path / "mask.bed"])
    out = tmp_path / "out"
    track(reader, held, out, tracks=["entropy"], step=30, mask=["n", tmp_path / "mask.bed"], stretch=STRETCH)
    full = values(tracked[0], "entropy").astype(np.float64)
    full[codes_of(held) == 4] = np.nan
    full[100:250] = full[5200:] = np.nan
    found = values(out, "entropy")
    for start in range(0, HELD, 30):
        own = full[start : start + 30]
        expected = np.nanmean(own) if np.isfinite(own).any() else np.nan
        np.testing.assert_allclose(found[start : start + 30], expected, rtol=1e-5)
    assert np.isnan(found[120:240]).all()


def test_soft_masked_bases_and_several_contigs(reader, tmp_path):
    (tmp_path / "g.fa").write_text(">b\nACGTacgtACGTACGT\n>empty\n>a long\nGGGGGGttGG\nCC\n")
    out = tmp_path / "out"
    result = track(reader, tmp_path / "g.fa", out, tracks=["surprise", "bits"], mask=["soft"], stretch=None)
    assert {name: own["bases"] for name, own in result["contigs"].items()} == {"b": 16, "empty": 0, "a": 12}
    assert list(np.flatnonzero(np.isnan(values(out, "surprise_layer0", "b")))) == [4, 5, 6, 7]
    assert list(np.flatnonzero(np.isnan(values(out, "bits", "a")))) == [0, 6, 7]
    alone = track(reader, tmp_path / "g.fa", tmp_path / "alone", tracks=["bits"], contigs=["a"], stretch=None)
    assert list(alone["contigs"]) == ["a"]
    own = values(tmp_path / "alone", "bits", "a")  # nothing of the contig before is remembered
    np.testing.assert_allclose(own[[1, 5, 11]], values(out, "bits", "a")[[1, 5, 11]], rtol=1e-5)


def test_a_track_without_any_value_can_be_opened(reader, tmp_path):
    (tmp_path / "n.fa").write_text(">n\nNNNNNNNN\n")
    result = track(reader, tmp_path / "n.fa", tmp_path / "out", tracks=["bits"])
    assert pybigtools.open(str(tmp_path / "out" / "bits.bw")).chroms() == {"n": 8}
    assert result["bits_per_base"] is None
    assert (tmp_path / "out" / "surprising.bed").read_text() == ""


@pytest.mark.parametrize("overlap", [True, False], ids=["overlapping", "side by side"])
def test_tokens_of_several_bases_are_spread_over_them(tmp_path, overlap):
    _, run = make_run(tmp_path, {"kind": "kmer", "k": 3, "overlap": overlap})
    reader = open_run(run)
    result = track(reader, tmp_path / "held.fa", tmp_path / "out", tracks=["bits", "surprise"], stretch=50)
    codes = codes_of(tmp_path / "held.fa")
    tokens = reader.tokenizer.encode(codes)
    bits = np.full(len(tokens), np.nan)
    with torch.inference_mode():
        for first in range(0, len(tokens) - 1, 50):
            own = torch.from_numpy(tokens[first : first + 51].astype(np.int64))[None]
            logs = reader.model(own[:, :50])[0][0].double().log_softmax(-1) / math.log(2)
            for i, token in enumerate(own[0, 1:].tolist()):
                if reader.tokenizer.scored[token]:
                    bits[first + 1 + i] = -logs[i, token] / reader.tokenizer.bases[token]
    np.testing.assert_allclose(
        values(tmp_path / "out", "bits"), np.repeat(bits, reader.tokenizer.bases[tokens]), atol=1e-4
    )
    assert result["bases"] == HELD


# ------------------------------------------------------------------------------------------- going wrong


def test_an_interrupted_run_goes_on(reader, held, tracked, tmp_path, monkeypatch):
    read = track_parts.Reading.rows
    calls = []
    monkeypatch.setattr(track_parts, "token_budget", lambda device: 1000)

    def stopping(self, tokens, following):
        calls.append(len(tokens))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read(self, tokens, following)

    wanted = {"tracks": ["bits", "surprise"], "stretch": STRETCH}
    monkeypatch.setattr(track_parts.Reading, "rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        track(reader, held, tmp_path, **wanted)
    assert [path.name for path in tmp_path.iterdir()] == [".parts"]
    with next(tmp_path.glob(".parts/*.open")).open("ab") as file:
        file.write(b"half a row")
    track(reader, held, tmp_path, **wanted)
    group = 1000 // STRETCH * STRETCH
    assert sum(calls) == HELD + group  # what was being read when it stopped is read again, and nothing else
    for name in ("bits", "surprise_layer0", "surprise_layer1"):
        np.testing.assert_allclose(values(tmp_path, name), values(tracked[0], name), rtol=1e-4)
    assert not (tmp_path / ".parts").exists()


def test_other_settings_begin_anew(reader, held, tmp_path, monkeypatch):
    read = track_parts.Reading.rows
    monkeypatch.setattr(track_files.pybigtools, "open", lambda *_: 1 / 0)
    with pytest.raises(OSError, match="could not be written"):
        track(reader, held, tmp_path, tracks=["bits"], stretch=STRETCH)
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(track_parts.Reading, "rows", lambda self, *rest: calls.append(1) or read(self, *rest))
    track(reader, held, tmp_path, tracks=["bits"], stretch=2 * STRETCH)
    assert calls
    np.testing.assert_allclose(values(tmp_path, "bits"), naive(reader, codes_of(held), 2 * STRETCH)[0], atol=2e-5)


def test_tracks_that_are_asked_for_no_more_go_and_files_of_others_stay(reader, held, tmp_path):
    track(reader, held, tmp_path, tracks=["bits", "alpha"], stretch=STRETCH)
    (tmp_path / "bits_of_mine.bw").write_bytes(b"mine")
    assert len(list(tmp_path.glob("alpha_layer*.bw"))) == 2
    track(reader, held, tmp_path, tracks=["bits"], stretch=STRETCH)
    assert sorted(path.name for path in tmp_path.glob("*.bw")) == ["bits.bw", "bits_of_mine.bw"]


class Full:
    """A writer of bigWig files on a full disk: the library prints that, and returns."""

    def write(self, contigs, values):
        list(values)


def test_a_full_disk_leaves_the_old_file(reader, held, tmp_path, monkeypatch):
    track(reader, held, tmp_path, tracks=["bits"], stretch=STRETCH)
    before = (tmp_path / "bits.bw").read_bytes()
    opened = pybigtools.open
    monkeypatch.setattr(track_files.pybigtools, "open", lambda path, mode="r": Full() if mode == "w" else opened(path))
    with pytest.raises(OSError, match=r"bits\.bw: could not be written"):
        track(reader, held, tmp_path, tracks=["bits"], stretch=None)
    assert (tmp_path / "bits.bw").read_bytes() == before
    assert not list(tmp_path.glob(".*.bw"))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"contigs": ["two"]}, r"contig 'two' is not in .*held\.fa, which has held"),
        ({"tracks": ["bit"]}, "track 'bit' is unknown"),
        ({"tracks": []}, "no tracks"),
        ({"step": 0}, "step is 0: it must be 1 or more"),
        ({"stretch": 0}, "stretch is 0"),
        ({"mask": ["beyond.bed"]}, r"line 2: held:100-6000 .*ends beyond its contig, which has 5,300 bases"),
        ({"annotation": "beyond.bed"}, "ends beyond its contig"),
        ({"mask": ["turned.bed"]}, "start 30 is not below end 20"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_what_does_not_fit_is_said_before_reading(reader, held, tmp_path, monkeypatch, wanted, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beyond.bed").write_text("held\t0\t50\nheld\t100\t6000\n")
    (tmp_path / "turned.bed").write_text("held\t30\t20\n")
    with pytest.raises(ValueError, match=message):
        track(reader, held, tmp_path / "out", **wanted)
    assert not (tmp_path / "out").exists()


def test_a_model_without_memory_has_bits_only(tmp_path):
    _, run = make_run(tmp_path, model="transformer")
    reader = open_run(run, "transformer")
    with pytest.raises(ValueError, match=r"'transformer' has no neural memory, so it has no track 'surprise'"):
        track(reader, tmp_path / "held.fa", tmp_path / "out")
    result = track(reader, tmp_path / "held.fa", tmp_path / "out", tracks=["bits", "entropy"], intervals=2)
    assert 1 <= len(result["surprising"]) <= 2  # by bits


def test_damaged_genomes(reader, tmp_path):
    (tmp_path / "bad.fa").write_text(">one\nACGTACGT\nACGZ\n")
    with pytest.raises(ValueError, match=r"bad\.fa: contig 'one', position 11: 'Z' is not a nucleotide"):
        track(reader, tmp_path / "bad.fa", tmp_path / "out")
    (tmp_path / "reads.fq").write_text("@r\nACGT\n+\nIIII\n")
    with pytest.raises(ValueError, match="tracks are of the contigs of a genome"):
        track(reader, tmp_path / "reads.fq", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"none\.fa"):
        track(reader, tmp_path / "none.fa", tmp_path / "out")


def test_a_file_in_the_way_of_the_folder(reader, held, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        track(reader, held, tmp_path / "file" / "out", tracks=["bits"])


def test_bed_that_counts_from_one_is_warned_of(reader, held, tmp_path):
    (tmp_path / "mask.bed").write_text("held\t1\t50\nheld\t101\t150\nheld\t201\t250\n")
    result = track(reader, held, tmp_path / "out", tracks=["bits"], mask=[tmp_path / "mask.bed"])
    assert len(result["warnings"]) == 1
    assert "BED is 0-based: subtract 1" in result["warnings"][0]


# ------------------------------------------------------------------------------------ intervals and the page


def test_a_planted_surprise_is_found():
    contigs = {"a": 10_000, "b": 50_000}
    rng = np.random.default_rng(0)
    figures = []
    for scale in (1.0, 50.0):
        made = Figures(Column("surprise", 0), windows=Means(contigs, track_files.WINDOW))
        for name, length in contigs.items():
            own = rng.normal(2, 0.1, length) * scale
            if name == "b":
                own[30_000:30_400] += 3 * scale
            made.windows.add(name, 0, own[:7001])
            made.windows.add(name, 7001, own[7001:])
            made.sums[name], made.counts[name] = own.sum(), length
        figures.append(made)
    first, *rest = surprising(figures, contigs, 10)
    assert (first["contig"], first["start"], first["end"]) == ("b", 30_000, 30_400)
    assert first["score"] == pytest.approx(2.5, rel=0.05)
    assert all(own["score"] < 1.1 for own in rest)
    assert len(surprising(figures, contigs, 0)) == 0


def test_the_beginning_of_a_stretch_is_no_surprise(reader, held, tmp_path):
    whole = track(reader, held, tmp_path / "a", tracks=["surprise"], stretch=STRETCH)
    flat = track(reader, held, tmp_path / "b", tracks=["surprise"], stretch=STRETCH, flatten=True)
    for mine, other in zip(whole["surprising"], flat["surprising"], strict=True):
        assert (mine["start"], mine["score"]) == (other["start"], pytest.approx(other["score"], rel=1e-5))
    rows = HELD // STRETCH * STRETCH

    def profile(out):
        by_chunk = values(out, "surprise_layer1")[:rows].reshape(-1, STRETCH // 16, 16).mean((0, 2))
        return np.ptp(by_chunk) / by_chunk.mean()

    assert profile(tmp_path / "b") < 0.02
    assert profile(tmp_path / "a") > 2 * profile(tmp_path / "b")


def test_the_page_holds_the_tracks_and_needs_nothing(reader, held, tmp_path):
    (tmp_path / "g.gff").write_text(
        "##gff-version 3\nheld\tx\tregion\t1\t5300\t.\t+\t.\tID=r\nheld\tx\tgene\t101\t200\t.\t-\t.\tID=g1;gene=abc%3B</script>\n"
        "held\tx\tCDS\t101\t200\t.\t-\t0\tParent=g1\n"
    )
    track(reader, held, tmp_path / "out", tracks=["bits"], stretch=STRETCH, annotation=tmp_path / "g.gff")
    text = (tmp_path / "out" / "tracks.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=|https?://|@import""", text)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["features"] == [[0, 100, 200, "-", "gene", "abc;</script>"]]
    (own,) = data["tracks"]
    levels = np.frombuffer(base64.b64decode(own["levels"][0]), np.uint8)
    bits = values(tmp_path / "out", "bits")
    assert own["bin"] == 1
    assert ((levels == 255) == np.isnan(bits)).all()
    shown = own["low"] + (own["high"] - own["low"]) * levels[levels < 255] / 254
    np.testing.assert_allclose(shown, bits[levels < 255], atol=(own["high"] - own["low"]) / 500)


def test_bed_features_keep_their_names(tmp_path):
    (tmp_path / "f.bed").write_text("track name=x\n1\t5\t9\tphage\t0\t+\n1\t0\t3\n")
    found = read_features(tmp_path / "f.bed", {"chr1": 10}, tmp_path / "g.fa")
    assert [tuple(own) for own in found] == [("chr1", 0, 3, ".", "", ""), ("chr1", 5, 9, "+", "", "phage")]
