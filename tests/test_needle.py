"""Needles: planted where they should be, asked from copies of one state, and found by a model that remembers."""

import json
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import small_settings

from titans_genomics.config import NeedleConfig, parse_config
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.models.state import State
from titans_genomics.progress import Progress
from titans_genomics.report.needle_plot import heat_map
from titans_genomics.tasks import needle as task
from titans_genomics.tasks import needle_tune, recall
from titans_genomics.tasks.haystack import Background, draw_needles


class Remembers(torch.nn.Module):
    """Keeps the last `kept` bases, and goes on as the last 12 were gone on with before; uniform where they are new."""

    def __init__(self, kept=10**9):
        super().__init__()
        self.kept, self.unused = kept, torch.nn.Parameter(torch.zeros(1))

    def embed(self, tokens, state=None):
        read = tokens if state is None else torch.cat([state.blocks[0], tokens], dim=1)
        return tokens, State([read[:, -self.kept :]])

    def forward(self, tokens, state=None):
        read = tokens if state is None else torch.cat([state.blocks[0], tokens], dim=1)
        before = read.shape[1] - tokens.shape[1]
        logits = torch.zeros(*tokens.shape, 8)
        for row, text in enumerate(bytes(r.tolist()) for r in read):
            for i in range(tokens.shape[1]):
                end = before + i + 1
                found = text.rfind(text[end - 12 : end], 0, end - 1) if end >= 12 else -1
                if found >= 0:
                    logits[row, i, text[found + 12]] = 20.0
        return logits, self.embed(tokens, state)[1]


def settings_of(**changes):
    return NeedleConfig(**{"lengths": [256, 700], "motif": 12, "payload": 6, "samples": 3, "piece": 97, **changes})


def quiet():
    return Progress(None, "bases", "reading", interval=1e9)


@pytest.fixture(scope="module")
def store(small_store):
    return TokenStore(small_store)


def oracle(store, split):
    """Both strands of a split without EOS."""
    forward = np.concatenate(list(store.documents(split, "genome")))
    return np.concatenate([forward, reverse_complement(forward)])


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_background_is_the_split_on_both_strands_again_and_again(store, split):
    background, whole = Background(store, split), oracle(store, split)
    assert 2 * background.bases == len(whole)
    endless = np.concatenate([whole, whole, whole])
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, count = int(rng.integers(len(whole))), int(rng.integers(1, len(whole)))
        np.testing.assert_array_equal(background.read(start, count), endless[start : start + count])
    assert len(background.read(5, 0)) == 0


def test_blocks_are_the_segments_with_joined_ones_as_one(store):
    background = Background(store, "train")
    blocks = list(background.blocks())
    np.testing.assert_array_equal(np.concatenate(blocks), oracle(store, "train")[: background.bases])
    assert len(blocks) == len(background.run.places) - int(background.run.places[:, 3].sum())


def test_needles_stand_where_they_should_and_nothing_else_is_changed():
    rng = np.random.default_rng(1)
    places = np.array(NeedleConfig(depths=(0.0, 0.3, 0.9, 1.0), motif=12, payload=6).places(300))
    assert places.tolist() == [0, 85, 254, 282]
    needles = draw_needles(rng, places, 3, 12, 6)
    plain = rng.integers(0, 4, (3, 300), dtype=np.uint8)
    expected = plain.copy()
    for row in range(3):
        for number, place in enumerate(places):
            expected[row, place : place + 18] = [*needles.motifs[row, number], *needles.payloads[row, number]]
    for piece in (300, 50, 7):
        parts = []
        for start in range(0, 300, piece):
            part = plain[1:, start : start + piece].copy()
            needles.plant(part, start, slice(1, 3))
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected[1:])


def test_no_motif_of_a_stretch_stands_there_twice():
    needles = draw_needles(np.random.default_rng(0), np.arange(60) * 20, 4, 4, 2)
    assert all(len(np.unique(own, axis=0)) == 120 for own in needles.motifs)


def test_a_model_that_remembers_recalls_everything_and_no_control(store):
    background = Background(store, "test")
    found = task.measure(Remembers(), settings_of(), background, 1, "x")
    assert [(c["length"], c["depth"]) for c in found["cells"]] == [
        (n, d) for n in (256, 700) for d in settings_of().depths
    ]
    for cell in found["cells"]:
        assert (cell["recall"], cell["exact"], cell["accuracy"]) == (1, 1, 1)
        assert cell["bits"] < 0.01
        assert cell["gain_bits"] == pytest.approx(cell["control_bits"] - cell["bits"])
        assert cell["control_exact"] == 0
        assert cell["ci95"]["recall"] == [1, 1]
    controls = [cell["control_recall"] for cell in found["cells"]]
    assert 0.1 < np.mean(controls) < 0.4
    assert found["cells"][0]["distance"] == 256 - 18
    assert [row["stretches"] for row in found["lengths"]] == [3, 3]


def test_a_model_that_forgets_is_at_chance(store):
    found = task.measure(Remembers(kept=30), settings_of(samples=8), Background(store, "test"), 1, "x")
    far = [cell for cell in found["cells"] if cell["distance"] > 30]
    assert 0.15 < np.mean([cell["recall"] for cell in far]) < 0.35
    assert np.mean([cell["bits"] for cell in far]) > 1.9
    assert any(low < 0.25 < high for low, high in (cell["ci95"]["recall"] for cell in far))


@pytest.mark.parametrize("name", ["titans", "mac", "transformer"])
def test_answers_are_those_of_reading_everything_again(store, name):
    """A naive oracle: one question, one sequence, from the first base on; pieces and batches change nothing."""
    from titans_genomics.config import TitansConfig
    from titans_genomics.models import Titans, Transformer

    torch.manual_seed(0)
    shape = TitansConfig(
        d_model=16, n_layers=2, chunk=16, segment=32, window=40, variant="mac" if name == "mac" else "lmm"
    )
    model = (Transformer if name == "transformer" else Titans)(shape).eval()
    for parameter in model.head.parameters():
        parameter.data.mul_(20)  # so that answers differ from one another
    settings = settings_of(lengths=[256], depths=(0.0, 0.8), samples=2)
    background, length = Background(store, "test"), 256
    needles = draw_needles(np.random.default_rng(3), np.array(settings.places(length)), 2, 12, 6)
    starts = [5, 900]
    state = task.read(model, background, needles, starts, slice(0, 2), length, 50, quiet())
    found = task.ask(model, state, needles, slice(0, 2))
    assert found.shape == (5, 2, 4)
    for row in range(2):
        window = background.read(starts[row], length)[None].copy()
        needles.plant(window, 0, slice(row, row + 1))
        for number in (row, 3 - row):
            motif, payload = needles.motifs[row, number], needles.payloads[row, number]
            with torch.no_grad():
                text = torch.from_numpy(np.concatenate([window[0], motif, payload]).astype(np.int64))
                logits = model(text[None, :-1])[0][0, -6:].double()
                bits = -logits.log_softmax(-1)[range(6), text[-6:]] / np.log(2)
                greedy = text[:-6].tolist()
                for _ in range(6):
                    greedy.append(int(model(torch.tensor([greedy]))[0][0, -1, :4].argmax()))
            right = np.array(greedy[-6:]) == payload
            accuracy = (logits[:, :4].argmax(-1).numpy() == payload).mean()
            expected = [right.mean(), right.all(), bits.mean().item(), accuracy, 1]
            np.testing.assert_allclose(found[:, row, number], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "most", "length", "expected"),
    [(16, 4_000_000, 1024, 16), (16, 4_000_000, 1_000_000, 4), (16, 1000, 10_000, 2), (1, 1000, 10_000, 1)],
)
def test_long_lengths_have_fewer_stretches(samples, most, length, expected):
    assert task.stretches(settings_of(samples=samples, max_bases=most), length) == expected


def config_of(folder, **needle):
    settings = small_settings(folder)
    settings["needle"] = {
        "lengths": [256, 4096],
        "depths": [0.0, 0.9],
        "motif": 8,
        "payload": 4,
        "samples": 2,
        **needle,
    }
    return parse_config(settings, "needle")


def test_the_task_end_to_end_and_tuned(small_folder, small_store, small_model, tmp_path):
    config = config_of(small_folder, tune_steps=3)
    out = tmp_path / "needle" / "needle.json"
    found = task.needle(config, small_store, {"titans": small_model}, out)
    assert json.loads(out.read_text()) == found
    assert found["source"] == "genome"
    assert found["source_bases"] == Background(TokenStore(small_store), "test").bases < 4096
    assert found["repeated_background"] == [4096]
    for part in ("models", "tuned"):
        measured = found[part]["titans"]
        assert len(measured["cells"]) == 4
        assert measured["peak_mb"] > 0
        assert measured["bases_per_second"] > 0
        for cell in measured["cells"]:
            assert all(low - 1e-9 <= cell[name] <= high + 1e-9 for name, (low, high) in cell["ci95"].items())
    assert len(found["tuned"]["titans"]["tuning"]["curve"]) >= 1
    from safetensors.torch import load_file

    before = load_file(small_model / "model.safetensors")
    after = load_file(tmp_path / "needle" / "titans" / "tuned.safetensors")
    assert before.keys() == after.keys()
    assert any((before[key] != after[key]).any() for key in before)
    again = task.needle(config, small_store, {"titans": small_model}, tmp_path / "again.json")
    assert again["models"]["titans"]["cells"] == found["models"]["titans"]["cells"]
    assert again["tuned"]["titans"]["cells"] == found["tuned"]["titans"]["cells"]
    assert ET.fromstring(heat_map(found)).tag.endswith("svg")


def test_windows_to_tune_on_ask_for_what_stands_in_them(store):
    rng = np.random.default_rng(2)
    window, asked = needle_tune.windows(rng, Background(store, "train"), settings_of(), 255, 5)
    assert window.shape == asked.shape == (5, 256)
    for text, given in zip(window, asked, strict=True):
        starts = np.flatnonzero(given & ~np.roll(given, 1)) - needle_tune.KNOWN
        assert len(starts) == 5
        assert given.sum() == 10 * len(starts)
        for start in starts:
            assert text[:start].tobytes().count(text[start : start + 18].tobytes()) == 1
            assert given[start + 8 : start + 18].all()


def test_tuning_learns_what_can_be_learned(store, small_folder):
    """A model whose loss falls, one step that is not finite in between, and one where none is."""
    from titans_genomics.training import build_model

    config = config_of(small_folder, tune_steps=12)
    model = build_model("titans", config.model).eval()
    found = needle_tune.tune(model, config, store, "x")
    assert not model.training
    assert (found["steps"], found["skipped"], found["stopped"]) == (12, 0, False)
    assert [row["step"] for row in found["curve"]] == list(range(1, 13))
    assert found["curve"][-1]["bits"] < found["curve"][0]["bits"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.head.weight.data[0, 0] = float("nan")
    broken = needle_tune.tune(model, config, store, "x")
    assert (broken["steps"], broken["skipped"], broken["stopped"], broken["curve"]) == (10, 10, True, [])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items() if name != "head.weight")


def test_windows_grow_to_the_context():
    lengths = [needle_tune.length_at(step, 101, 1024, 96) for step in range(101)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[50], lengths[70], lengths[90], lengths[100]) == (128, 128, 362, 1024, 1024)
    assert needle_tune.length_at(0, 1, 100, 96) == 100
    assert needle_tune.length_at(0, 9, 1024, 300) == 300
    with pytest.raises(ValueError, match=r"train\.context.*no room"):
        needle_tune.length_at(0, 9, 64, 96)


@pytest.mark.parametrize(
    ("needle", "message"),
    [
        ({"lengths": []}, "needle.lengths is empty"),
        ({"depths": [0.5, 0.51]}, r"256 bases leave no room.*0.5 and 0.51"),
        ({"motif": 250, "payload": 20, "depths": [0.5]}, "leave no room"),
        ({"motif": 4, "depths": [i / 100 for i in range(100)], "payload": 1, "lengths": [4096]}, "too few"),
    ],
    ids=["no lengths", "overlap", "needle longer than the length", "short motif"],
)
def test_what_cannot_be_measured_is_an_error_before_anything_is_written(
    small_folder, small_store, small_model, tmp_path, needle, message
):
    with pytest.raises(ValueError, match=message):
        task.needle(config_of(small_folder, **needle), small_store, {"titans": small_model}, tmp_path / "n.json")
    assert not list(tmp_path.iterdir())


def test_other_tokens_than_bases_are_refused(small_folder, tmp_path):
    settings = small_settings(small_folder)
    settings["data"]["tokenizer"] = {"kind": "kmer", "k": 3}
    tokenize(parse_config(settings, "kmer"), tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"tokens are kmer.*data\.tokenizer\.kind to nucleotide"):
        Background(TokenStore(tmp_path / "tokens"), "test")


def test_an_empty_split_is_an_error(small_folder, tmp_path):
    settings = small_settings(small_folder)
    settings["data"]["split"]["test"] = 0
    tokenize(parse_config(settings, "none"), tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"test split is empty.*data\.split\.test"):
        Background(TokenStore(tmp_path / "tokens"), "test")


# ------------------------------------------------------------------------------------------- the plot


def result_of(**tuned):
    cells = [{"length": n, "depth": d, "recall": r} for n, d, r in ((1024, 0, 1.0), (1024, 0.5, 0.5), (65_536, 0, 0.2))]
    one = {"cells": [*cells, {"length": 65_536, "depth": 0.5, "recall": 0.31}]}
    return {"lengths": [1024, 65_536], "depths": [0, 0.5], "models": {"titans": one, "a&<b": one}, **tuned}


def test_the_heat_map_shows_every_cell_and_says_what_it_shows():
    one = result_of()["models"]["titans"]
    root = ET.fromstring(heat_map(result_of(tuned={"titans": one}), {"titans": "Titans LMM"}))
    texts = ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("}text")]
    assert [text for text in texts if text in ("100", "50", "20", "31")] == ["100", "50", "20", "31"] * 3
    assert {"1k", "64k", "0%", "50%", "Titans LMM", "Titans LMM, tuned", "a&<b", "25%, chance"} <= set(texts)
    assert "from 20% to 100%" in root.attrib["aria-label"]


# --------------------------------------------------------------------------------------- recall-bench


def test_streamed_logits_are_those_of_one_pass(small_model):
    from titans_genomics.training import load_model

    model = load_model(small_model)
    tokens = torch.randint(0, 4, (1, 300))
    with torch.no_grad():
        whole = model(tokens)[0]
    torch.testing.assert_close(recall.Streamed(model, 70, quiet())(tokens), whole, atol=1e-5, rtol=1e-5)


def test_without_the_package_the_error_says_how_to_get_it(
    small_config, small_store, small_model, tmp_path, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "recall_bench", None)
    with pytest.raises(ValueError, match="pip install recall-bench"):
        recall.recall(small_config, small_store, {"titans": small_model}, tmp_path / "recall.json")


def test_the_package_gets_the_held_out_sequence_and_the_streamed_model(
    small_config, small_store, small_model, tmp_path, monkeypatch
):
    seen = {}

    def evaluate(model, distances, **keywords):
        seen.update(keywords, distances=distances, logits=model.logits_fn(torch.tensor([model.tokenize("ACGT" * 9)])))
        return [{"dist": distances[0], "copy_advantage": 0.0}]

    package = SimpleNamespace(
        CallableModel=lambda logits_fn, tokenize, **keywords: SimpleNamespace(logits_fn=logits_fn, tokenize=tokenize),
        DNABackground=SimpleNamespace(from_strings=list),
        evaluate=evaluate,
    )
    monkeypatch.setitem(__import__("sys").modules, "recall_bench", package)
    monkeypatch.setattr(recall.importlib.metadata, "version", lambda name: "0.2.1")
    found = recall.recall(small_config, small_store, {"titans": small_model}, tmp_path / "r.json", (64,), 2, 32)
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert "".join(seen["background"]) == "".join(
        "ACGTN"[code] for code in oracle(TokenStore(small_store), "test")[: found_bases(small_store)]
    )
    assert seen["logits"].shape == (1, 36, 8)
    assert (seen["seg"], seen["trials"], seen["distances"]) == (32, 2, (64,))
    assert found["models"]["titans"][0]["dist"] == 64


def test_the_package_itself_on_a_trained_model(small_config, small_store, small_model, tmp_path):
    pytest.importorskip("recall_bench")
    found = recall.recall(small_config, small_store, {"titans": small_model}, tmp_path / "r.json", (64,), 3, 32)
    (row,) = found["models"]["titans"]
    assert row["n"] == 3
    assert row["ci_lo"] <= row["copy_advantage"] <= row["ci_hi"]
    assert abs(row["copy_advantage"]) < 1  # a model of twenty steps recalls nothing


def found_bases(path):
    return Background(TokenStore(path), "test").bases
