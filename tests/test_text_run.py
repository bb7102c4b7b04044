"""Text goes through the same stages as genomes: windows, training, figures per byte, token and word, and the report."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_genomics.config import TitansConfig, load_config, parse_config
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.data.windows import TrainWindows
from titans_genomics.data.words import Amount, Words
from titans_genomics.evaluation import evaluate
from titans_genomics.models import Titans
from titans_genomics.report import report
from titans_genomics.report.plots import looks
from titans_genomics.report.tables import large
from titans_genomics.tasks.ablations import ablations
from titans_genomics.training import load_model, train, with_vocabulary
from titans_genomics.training.module import NextToken

ROOT = Path(__file__).parent.parent
TEXTS = [
    f"Chapter {i}. The word of day {i} was {'light ' * (i % 7)}and café, said number {i * i}.\n\n" for i in range(160)
]


def settings_of(folder: Path, **train_settings):
    """A run over short documents in JSON Lines, with a learned vocabulary."""
    return {
        "run": "text",
        "results": str(folder / "results"),
        "data": {
            "sources": [{"path": str(folder / "d.jsonl"), "name": "chapters"}],
            "tokenizer": {"kind": "bpe", "vocab_size": 300},
            "split": {"block": 100, "validation": 0.1, "test": 0.15},
        },
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "chunk": 8, "memory_expansion": 1.0, "conv": 2},
        "compare": {"attention": {"variant": "transformer", "window": 32}},
        "train": {
            "context": 64,
            "batch_size": 4,
            "max_steps": 6,
            "warmup": 2,
            "validate_every": 6,
            "validation_windows": 2,
            "documents": "reset",
            "accelerator": "cpu",
            "equal_parameters": False,
            "wandb": {"mode": "disabled"},
            **train_settings,
        },
        "evaluate": {"piece": 50, "context": 128, "markov": [0, 1], "stretch": 1_000_000},
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A run from tokens to report: its config, folder, what was said, and the figures of `evaluate`."""
    folder = tmp_path_factory.mktemp("text_run")
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    config = parse_config(settings_of(folder), "test")
    out = config.folder
    tokenize(config, out / "tokens", 1)
    models = {name: out / "train" / name for name in config.models}
    for name, at in models.items():
        train(config, out / "tokens", at, name)
    figures = evaluate(config, out / "tokens", models, out / "evaluate" / "evaluate.json")
    ablations(config, out)
    report(config, out, out)
    return config, out, figures


def held_out(config, out):
    store = TokenStore(out / "tokens")
    (run,) = store.runs("test")
    return store, run.read(0, len(run))


# ---------------------------------------------------------------------------------------------- figures


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", " ", "\n", "é", "\u3000", "bc", "\u00a0", "🧬"]), max_size=8).map("".join)),
    st.integers(1, 5),
)
def test_words_are_what_white_space_parts(documents, piece):
    words = Words()
    for document in documents:
        raw = document.encode()
        for at in range(0, len(raw), piece):
            words.add(raw[at : at + piece])
        words.end()
    assert words.count == sum(len(document.split()) for document in documents)


def test_perplexities_are_those_of_the_plain_formula(told):
    """Documents read one by one, from the definition: exp of the negative log-likelihood by tokens, and by words."""
    config, out, figures = told
    store, tokens = held_out(config, out)
    part = figures["sources"]["chapters"]
    ends = np.flatnonzero(tokens == store.tokenizer.eos) + 1
    documents = [part for part in np.split(tokens, ends) if len(part)]
    text = [store.tokenizer.decode(document).tobytes() for document in documents]
    first = store.tokenizer.decode(tokens[:1]).tobytes()  # nothing has been read before it
    assert part["bases"] == sum(map(len, text)) - len(first)
    assert part["tokens"] == sum(len(document) - 1 for document in documents) - 1
    assert part["words"] == sum(len(document.decode().split()) for document in text)
    nll = 0.0
    model = load_model(out / "train" / "titans")
    with torch.inference_mode():
        for document, following in zip(documents, [*documents[1:], tokens[:0]], strict=True):
            # the EOS of a document foretells the first token of the next, which knows nothing more of it
            wanted = torch.from_numpy(np.append(document[1:], following[:1]).astype(np.int64))
            logits = model(torch.from_numpy(document.astype(np.int64))[None])[0][0, : len(wanted)]
            picked = logits.double().log_softmax(-1)[torch.arange(len(wanted)), wanted]
            nll -= float(picked[wanted != store.tokenizer.eos].sum())
    own = part["models"]["titans"]
    assert own["bits_per_base"] == pytest.approx(nll / math.log(2) / part["bases"], rel=1e-4)
    assert own["perplexity_per_token"] == pytest.approx(math.exp(nll / part["tokens"]), rel=1e-3)
    assert own["perplexity_per_word"] == pytest.approx(math.exp(nll / part["words"]), rel=1e-2)


def test_every_row_is_over_the_same_tokens_and_words(told):
    _, _, figures = told
    assert figures["unit"] == "byte"
    for part in (figures["sources"]["chapters"], figures["overall"]):
        rows = [part["uniform"], part["markov"], *part["models"].values(), part["models"]["attention"]["endless"]]
        for row in rows:
            bits = row["bits_per_base"] * part["bases"]
            assert row["perplexity_per_token"] == pytest.approx(2 ** (bits / part["tokens"]))
            assert row["perplexity_per_word"] == pytest.approx(2 ** (bits / part["words"]))
    assert part["uniform"]["bits_per_base"] == 8


def test_a_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(Amount(10, 1).perplexities(1e9)["perplexity_per_word"])


# --------------------------------------------------------------------------------------------- documents


def test_documents_of_a_training_window_know_nothing_of_one_another(told):
    """Windows as training draws them hold several documents; each one's logits are those of reading it alone."""
    config, out, _ = told
    store = TokenStore(out / "tokens")
    config = with_vocabulary(config, store)
    windows = TrainWindows(store, config.train.context, config.seed, 0.0)
    module = NextToken(config.model_dump(mode="json"), "titans").eval()
    module.read_tokens_of(store.tokenizer)
    batch = torch.stack([windows[i] for i in range(8)])
    inputs = batch[:, :-1]
    checked = 0
    with torch.no_grad():
        logits = module(inputs)
        joined, _ = module.model(inputs)
        for row in range(len(inputs)):
            ends = (inputs[row] == store.tokenizer.eos).nonzero()[:, 0] + 1
            edges = [0, *ends.tolist(), inputs.shape[1]]
            for start, end in pairwise(edges):
                if start < end:
                    alone, _ = module.model(inputs[row : row + 1, start:end])
                    torch.testing.assert_close(logits[row, start:end], alone[0], rtol=1e-4, atol=1e-4)
                    if start:
                        assert not torch.allclose(joined[row, start:end], alone[0], rtol=1e-3, atol=1e-3)
                        checked += 1
    assert checked >= 4


def test_a_vocabulary_of_another_size_is_refused(told):
    config, out, _ = told
    store = TokenStore(out / "tokens")
    assert store.tokenizer.vocab_size == 300
    for size in (256, 301):
        asked = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": size})})
        with pytest.raises(ValueError, match=rf"model\.vocab_size is {size}, the tokens of .* are 300"):
            with_vocabulary(asked, store)
    assert with_vocabulary(config, store).model.vocab_size == 300


def test_windows_of_text_are_not_turned(told, tmp_path):
    """By default; the kind of the file is not in the config, so that only the store knows that it is text."""
    config, out, _ = told
    assert config.train.reverse_complement is None
    asked = config.model_copy(update={"train": config.train.model_copy(update={"reverse_complement": 0.5})})
    with pytest.raises(ValueError, match=r"train\.reverse_complement is 0\.5, and text has no other strand"):
        train(asked, out / "tokens", tmp_path / "model")


# ------------------------------------------------------------------------------------------------ report


def test_the_report_speaks_of_text(told):
    _, out, figures = told
    page = (out / "report.html").read_text()
    shown = re.sub(r"<details>.*?</details>|<style>.*?</style>", "", page, flags=re.S)
    for said in (
        "bits per byte",
        "perplexity<br>per word",
        "Held-out text",
        "Eight bits per byte is guessing",
        "of text went in",
    ):
        assert said in shown, said
    for said in (
        "bits per base",
        "Two bits per base",
        "IUPAC",
        "soft-masked",
        "both strands",
        "Held-out sequence",
        ">GC<",
    ):
        assert said not in shown, said
    own = figures["sources"]["chapters"]["models"]["titans"]
    assert large(own["perplexity_per_token"]) in shown
    assert large(own["perplexity_per_word"]) in shown


def test_training_speaks_of_bytes(tmp_path, capsys):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    config = parse_config(settings_of(tmp_path, max_steps=1, validate_every=1), "test")
    tokenize(config, tmp_path / "tokens", 1)
    train(config, tmp_path / "tokens", tmp_path / "titans")
    said = capsys.readouterr().err
    assert "bits per byte" in said
    assert "per base" not in said


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (9.876, "9.88"), (1234.5, "1,234"), (3.2e9, "3.2e+09")])
def test_perplexities_are_short(value, shown):
    assert large(value) == shown


def test_baselines_are_named_for_what_they_are():
    changes = {"deltanet": {"variant": "gated_deltanet"}, "mac": {"variant": "mac"}, "wide": {"variant": "transformer", "window": 64}}  # fmt: skip
    config = load_config(ROOT / "configs" / "text_tiny.yaml").model_copy(update={"compare": changes})
    named = {name: look.label for name, look in looks(config).items()}
    assert named["titans"] == "Titans LMM"
    assert (named["deltanet"], named["mac"], named["wide"]) == ("Gated DeltaNet", "Titans MAC", "wide")


@pytest.mark.parametrize("name", ["text_kjv", "text_tiny"])
def test_shipped_configs_build(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.models[0] == "titans"
    assert set(config.compare) <= set(config.models)
    assert Titans(TitansConfig.model_validate(config.model.model_dump() | {"vocab_size": 300})).parameter_count() > 0
