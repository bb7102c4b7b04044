"""`titans_genomics.load`: every answer beside a naive one, and the notebook of docs runs."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_run import make_run, random_bases, write_fasta

import titans_genomics
from titans_genomics.data.alphabet import encode, reverse_complement
from titans_genomics.use.run import TrainedModel

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "using.ipynb"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return titans_genomics.load(make_run(tmp_path_factory.mktemp("results") / "run"), device="cpu")


def naive_bits(model, codes, stretch):
    """Each base from a reading of its own: of all that stands before it in the stretch of the base before it."""
    found = [2.0]
    for i in range(1, len(codes)):
        first = (i - 1) // stretch * stretch
        own = torch.from_numpy(codes[first:i].astype(np.int64))[None]
        with torch.inference_mode():
            logits, _ = model.reader.model(own, model.reader.state(1))
        found.append(-float(logits[0, -1].double().log_softmax(-1)[codes[i]]) / math.log(2))
    return np.where(codes < 4, found, np.nan)


@pytest.fixture(scope="module")
def mindful(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    return model.memorize(write_fasta(folder / "genome.fa", random_bases(100, 9)), folder / "memory")


@pytest.mark.parametrize("which", ["model", "mindful"])
@pytest.mark.parametrize(("stretch", "piece"), [(None, 4096), (0, 4096), (0, 7), (20, 9), (1, 4096)])
def test_bits_are_those_of_a_reading_for_each_base(request, which, stretch, piece):
    own = request.getfixturevalue(which)
    codes = encode(random_bases(35) + "N" + random_bases(34, 2))
    found = np.concatenate([part.bits for part in own.stream(codes, stretch, piece)])
    wanted = naive_bits(own, codes, {None: 32, 0: len(codes)}.get(stretch, stretch))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.flatnonzero(np.isnan(found)).tolist() == [35]


def test_pieces_say_where_they_stand_and_what_is_remembered(model):
    sequence = random_bases(50)
    parts = list(model.stream(sequence, stretch=0, piece=20))
    assert [part.start for part in parts] == [0, 20, 40]
    with torch.inference_mode():
        _, wanted = model.reader.model(torch.from_numpy(encode(sequence).astype(np.int64))[None])
    last = dict(parts[-1].state.leaves())
    for name, leaf in wanted.leaves():
        torch.testing.assert_close(torch.as_tensor(last[name]), torch.as_tensor(leaf), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokenizer", [{"kind": "kmer", "k": 3}, {"kind": "kmer", "k": 3, "overlap": True}], ids=str)
def test_tokens_of_several_bases_share_their_bits(tmp_path, tokenizer):
    own = titans_genomics.load(make_run(tmp_path / "run", tokenizer=tokenizer), device="cpu")
    sequence = random_bases(41)
    bits = own.bits(sequence, stretch=0)
    assert len(bits) == 41
    score = own.score([sequence], strands="given", stretch=0)[0]
    assert -np.nansum(bits) * math.log(2) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("which", ["model", "mindful"])
@pytest.mark.parametrize("strands", ["both", "given"])
def test_scores_are_sums_of_bits_and_begin_with_the_memory(request, which, strands):
    """Short sequences are read together, longer ones in stretches: no score depends on its company."""
    own = request.getfixturevalue(which)
    sequences = [random_bases(n, n) for n in (1, 32, 33, 65, 5)] + [random_bases(20) + "NN" + random_bases(3)]
    found = own.score(sequences, strands)
    for sequence, score in zip(sequences, found, strict=True):
        views = [encode(sequence), reverse_complement(encode(sequence))][: 2 if strands == "both" else 1]
        wanted = -math.log(2) * np.mean([np.nansum(naive_bits(own, view, 32)) for view in views])
        assert score == pytest.approx(wanted, abs=1e-3)


def test_both_strands_have_one_score(model):
    codes = encode(random_bases(70))
    there, back = model.score([codes, reverse_complement(codes)])
    assert there == pytest.approx(back, abs=1e-4)


def test_no_sequences_have_no_scores(model):
    assert model.score([]).shape == (0,)


def test_embedding_is_the_mean_of_hidden_states(mindful):
    codes = encode(random_bases(30))
    tokens = torch.from_numpy(codes.astype(np.int64))[None]
    with torch.inference_mode():
        hidden, _ = mindful.reader.model.embed(tokens, mindful.reader.state(1))
    wanted = {"mean": hidden[0].mean(0), "last": hidden[0, -1]}
    for pooling, vector in wanted.items():
        found = mindful.embed([codes, codes], pooling=pooling, strands="given")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack([vector.numpy()] * 2), atol=1e-4)


def test_embedding_of_the_first_layer_is_the_table(model):
    found = model.embed(["A", "G"], layer=0, strands="given")
    np.testing.assert_allclose(found, model.reader.model.embedding.weight[[0, 2]].detach().numpy(), atol=1e-6)


def test_generated_letters_follow_the_seed_and_the_prompt(model):
    made = model.generate(50, "ACGTAC", count=3, seed=4)
    assert [len(row) for row in made] == [50] * 3
    assert set("".join(made)) <= set("ACGT")
    assert len(set(made)) == 3
    assert model.generate(50, "ACGTAC", count=3, seed=4) == made
    assert model.generate(50, "ACGTAC", count=3, seed=5) != made


def test_the_likeliest_base_is_generated_at_top_1(model):
    prompt = random_bases(12)
    made = model.generate(10, prompt, top_k=1)[0]
    for i, letter in enumerate(made):
        scores = model.score([prompt + made[:i] + base for base in "ACGT"], "given", stretch=0)
        assert "ACGT"[int(np.argmax(scores))] == letter


def test_a_memorizing_model_gives_the_one_that_remembers(model, mindful):
    assert isinstance(mindful, TrainedModel)
    assert mindful.reader.memory["bases"] == 100
    assert "in the light of 100 bases" in repr(mindful)
    assert "light" not in repr(model)
    sequence = random_bases(30)
    assert model.score([sequence]) != pytest.approx(mindful.score([sequence]), abs=1e-3)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.bits(""), "empty"),
        (lambda model: model.bits("ACGX"), "position 3: 'X'"),
        (lambda model: model.bits("ACG", stretch=-1), "stretch -1"),
        (lambda model: model.stream("ACG", piece=0), "piece 0"),
        (lambda model: model.score(["ACG", ""]), "sequence 1 is empty"),
        (lambda model: model.score("ACG"), r"write \[sequence\]"),
        (lambda model: model.embed(["ACG", ""]), "sequence 1 is empty"),
        (lambda model: model.embed("ACG"), r"write \[sequence\]"),
        (lambda model: model.embed(["ACG"], layer=9), "layer"),
        (lambda model: model.generate(0), "length 0"),
        (lambda model: model.generate(5, count=0), "count 0"),
        (lambda model: model.generate(5, temperature=-1), "temperature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_answered_is_said(model, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(model)


def test_text_has_no_other_strand(tmp_path):
    own = titans_genomics.load(make_run(tmp_path / "run", tokenizer={"kind": "byte"}), device="cpu")
    bits = own.bits("In the beginning")
    assert bits[0] == 8
    assert own.score(["In the beginning"], "given")[0] == pytest.approx(-bits.sum() * math.log(2), abs=1e-3)
    with pytest.raises(ValueError, match="no other strand"):
        own.score(["In the beginning"])
    with pytest.raises(ValueError, match="model of text"):
        own.embed(["In the beginning"])


def test_importing_the_package_loads_no_torch():
    code = "import sys, titans_genomics; assert 'torch' not in sys.modules; titans_genomics.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "module 'titans_genomics' has no attribute 'nothing'" in done.stderr


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Every code cell, in order, on a made run in the place of the default run's."""
    make_run(tmp_path / "results" / "default", stretch=1024)
    (tmp_path / "resources").mkdir()
    for name in ("ecoli_k12.fa.gz", "s_aureus.fa.gz"):
        shutil.copy(ROOT / "resources" / name, tmp_path / "resources")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 6
    names: dict = {}
    for number, source in enumerate(code):
        exec(compile(source, f"cell {number}", "exec"), names)
    assert os.path.exists("memory.safetensors")
    assert len(names["bits"]) == len(names["region"])


def test_the_notebook_shows_what_it_says():
    """Cells that print have their output with them, and none of it is an error."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert bool(cell["outputs"]) == ("print(" in "".join(cell["source"]))
            assert all(output["output_type"] == "stream" for output in cell["outputs"])
