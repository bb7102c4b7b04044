"""Held-out figures against one plain pass over the same tokens."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from small import small_settings

from titans_genomics import evaluation, markov
from titans_genomics.config import parse_config
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.training import load_model, next_token_nll


@pytest.fixture(scope="module")
def result(small_config, small_store, small_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "evaluate.json"
    figures = evaluation.evaluate(small_config, small_store, {"titans": small_model}, out)
    assert json.loads(out.read_text()) == figures
    assert [path.name for path in out.parent.iterdir()] == ["evaluate.json"]
    return figures


def held_out(store):
    """The test run as tokens, and which of its successors are scored."""
    opened = TokenStore(store)
    (run,) = opened.runs("test")
    tokens = run.read(0, len(run))
    return opened, tokens, tokens[1:] < 4


def one_pass(model, tokens):
    batch = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad():
        return (next_token_nll(model(batch[:, :-1])[0], batch[:, 1:]) / math.log(2))[0].numpy()


def in_stretches(model, tokens, stretch):
    parts = [one_pass(model, tokens[i : i + stretch + 1]) for i in range(0, len(tokens) - 1, stretch)]
    return np.concatenate(parts)


def test_streamed_is_one_pass_per_stretch(result, small_store, small_model):
    _, tokens, scored = held_out(small_store)
    model = load_model(small_model)
    figures = result["sources"]["genome"]
    assert result["stretch"] == 64
    assert figures["bases"] == result["overall"]["bases"] == scored.sum()
    measured = figures["models"]["titans"]
    assert measured["bits_per_base"] == pytest.approx(in_stretches(model, tokens, 64)[scored].mean(), rel=1e-5)
    assert measured["endless"]["bits_per_base"] == pytest.approx(one_pass(model, tokens)[scored].mean(), rel=1e-5)
    assert measured["perplexity"] == pytest.approx(2 ** measured["bits_per_base"])
    assert measured["ci95"][0] < measured["bits_per_base"] < measured["ci95"][1]
    overall = result["overall"]["models"]["titans"]
    assert overall["bits_per_base"] == pytest.approx(measured["bits_per_base"])
    assert overall["endless"] == pytest.approx(measured["endless"])


@pytest.mark.parametrize("piece", [1, 17, 100_000])
def test_the_piece_changes_nothing(result, small_folder, small_store, small_model, tmp_path, piece):
    settings = small_settings(small_folder)
    settings["evaluate"] |= {"piece": piece, "max_bases": 1000, "stretch": 300}
    few = evaluation.evaluate(
        parse_config(settings, "few"), small_store, {"titans": small_model}, tmp_path / "evaluate.json"
    )
    _, tokens, scored = held_out(small_store)
    bits = in_stretches(load_model(small_model), tokens[:1001], 300)
    expected = bits[scored[:1000]].mean()
    assert few["overall"]["models"]["titans"]["bits_per_base"] == pytest.approx(expected, rel=1e-5)
    assert few["overall"]["bases"] == scored[:1000].sum()


def test_markov_is_fitted_on_train_and_scored_on_the_same_targets(result, small_store, small_config):
    store, tokens, scored = held_out(small_store)
    runs = {split: [r.read(0, len(r)) for r in store.runs(split)] for split in ("train", "validation")}
    model, _ = markov.fit(lambda: runs["train"], lambda: runs["validation"], small_config.evaluate.markov)
    figures = result["sources"]["genome"]["markov"]
    assert figures["order"] == model.order == 2
    assert figures["bits_per_base"] == pytest.approx(model.bits(tokens)[1:][scored].mean(), rel=1e-9)
    assert [row["order"] for row in figures["validation"]] == [0, 1, 2, 3]


def test_uniform_stands_beside(result):
    assert result["overall"]["uniform"] == {"bits_per_base": 2.0, "perplexity": 4.0}


def test_windows_start_with_an_empty_memory(result, small_store, small_model):
    _, tokens, scored = held_out(small_store)
    model = load_model(small_model)
    count = (len(tokens) - 1) // 64
    bits = np.stack([one_pass(model, tokens[i * 64 : i * 64 + 65]) for i in range(count)])
    kept = scored[: count * 64].reshape(count, 64)
    figures = result["sources"]["genome"]
    for row in figures["context"]:
        if row["to"] <= 64:
            here = slice(row["from"] - 1, row["to"])
            assert row["bases"] == kept[:, here].sum()
            assert row["titans"] == pytest.approx(bits[:, here][kept[:, here]].mean(), rel=1e-5)


def test_positions_cover_the_longest_context_once(result):
    rows = result["overall"]["context"]
    assert rows[0]["from"] == 1
    assert rows[-1]["to"] == 256
    assert all(a["to"] + 1 == b["from"] for a, b in itertools.pairwise(rows))
    assert all(0 < row["markov"] < 4 for row in rows)


def test_the_difference_is_paired(result):
    figures = result["overall"]
    difference = figures["models"]["titans"]["difference_to_markov"]
    expected = figures["models"]["titans"]["bits_per_base"] - figures["markov"]["bits_per_base"]
    assert difference["bits_per_base"] == pytest.approx(expected)
    low, high = difference["ci95"]
    assert low < expected < high


def test_several_sources_add_up(small_folder, tmp_path):
    from titans_genomics.training import train

    settings = small_settings(small_folder, max_steps=2)
    bases = "".join(np.random.default_rng(9).choice(list("ACGT"), size=20_000))
    (tmp_path / "unseen.fa").write_text(f">c\n{bases}\n")
    settings["data"]["sources"].insert(0, {"path": str(tmp_path / "unseen.fa"), "weight": 0})
    config = parse_config(settings, "two")
    tokenize(config, tmp_path / "tokens")
    train(config, tmp_path / "tokens", tmp_path / "model")
    figures = evaluation.evaluate(
        config, tmp_path / "tokens", {"titans": tmp_path / "model"}, tmp_path / "evaluate.json"
    )
    parts = list(figures["sources"].values())
    assert len(parts) == 2
    assert list(figures["sources"])[1] == "unseen", "what was trained on comes first"
    bases = [part["bases"] for part in parts]
    assert figures["overall"]["bases"] == sum(bases)
    for pick in (lambda part: part["markov"], lambda part: part["models"]["titans"]):
        mean = np.average([pick(part)["bits_per_base"] for part in parts], weights=bases)
        assert pick(figures["overall"])["bits_per_base"] == pytest.approx(mean)


@pytest.fixture(scope="module")
def trained(small_folder, tmp_path_factory):
    """Trains a model of seconds with other data and train settings: config, store and model."""
    from titans_genomics.training import train

    def make(data=None, **changes):
        folder = tmp_path_factory.mktemp("trained")
        settings = small_settings(small_folder, max_steps=3, **changes)
        settings["data"] |= data or {}
        config = parse_config(settings, "other")
        tokenize(config, folder / "tokens")
        train(config, folder / "tokens", folder / "model")
        return config, folder / "tokens", folder / "model"

    return make


@pytest.mark.parametrize(
    "tokenizer",
    [{"kind": "kmer", "k": 3}, {"kind": "kmer", "k": 3, "overlap": True}, {"kind": "bpe", "vocab_size": 64}],
    ids=str,
)
def test_tokens_of_several_bases_are_measured_in_bits_per_base(trained, tmp_path, tokenizer):
    config, store, model = trained({"tokenizer": tokenizer}, context=32)
    figures = evaluation.evaluate(config, store, {"titans": model}, tmp_path / "evaluate.json")
    opened = TokenStore(store)
    (run,) = opened.runs("test")
    tokens = run.read(0, len(run))
    own = opened.tokenizer
    bases = np.where(own.scored, own.bases, 0)[tokens[1:]]
    network = load_model(model)
    bits = []
    for start in range(0, len(tokens) - 1, 32):
        batch = torch.from_numpy(tokens[start : start + 33].astype(np.int64))[None]
        with torch.no_grad():
            logits = network(batch[:, :-1])[0]
        nll = torch.nn.functional.cross_entropy(logits[0], batch[0, 1:], reduction="none") / math.log(2)
        bits.append(nll.numpy())
    bits = np.concatenate(bits)
    measured = figures["overall"]["models"]["titans"]["bits_per_base"]
    assert figures["overall"]["bases"] == bases.sum()
    assert measured == pytest.approx(bits[bases > 0].sum() / bases.sum(), rel=1e-5)
    letters = own.decode(tokens)
    first = own.decode(tokens[:1])
    if tokenizer["kind"] == "kmer":
        assert bases.sum() == (letters < 4).sum() - (first < 4).sum()
    assert 1 < figures["overall"]["markov"]["bits_per_base"] < 2.1
    rows = figures["overall"]["context"]
    assert sum(row["bases"] for row in rows) > 0


def test_documents_with_a_memory_of_their_own(trained, tmp_path):
    """Each is read alone from its first token on, whatever the piece; only a stretch or a window cuts one."""
    config, store, model = trained(documents="reset")
    network = load_model(model)
    opened = TokenStore(store)
    (run,) = opened.runs("test")
    tokens = run.read(0, len(run))
    scored = tokens[1:] < 4

    def expected(stretch):
        bits = []
        for start in range(0, len(tokens) - 1, stretch):
            part = tokens[start : start + stretch + 1]
            begin = 0
            for end in [*(np.flatnonzero(part[:-1] == 7) + 1), len(part) - 1]:
                if end > begin:
                    bits.append(one_pass(network, part[begin : end + 1]))
                begin = end
        return np.concatenate(bits)[scored].mean()

    assert len(run.segments) > 1
    for piece in (4096, 100, 17):
        settings = config.model_dump(mode="json")
        settings["evaluate"] |= {"piece": piece, "stretch": 300}
        figures = evaluation.evaluate(parse_config(settings, "x"), store, {"titans": model}, tmp_path / "evaluate.json")
        measured = figures["overall"]["models"]["titans"]
        assert measured["bits_per_base"] == pytest.approx(expected(300), rel=1e-5)
        assert measured["endless"]["bits_per_base"] == pytest.approx(expected(len(tokens)), rel=1e-5)


def test_a_model_of_another_config_is_an_error(small_folder, small_store, small_model, tmp_path):
    settings = small_settings(small_folder)
    settings["model"]["chunk"] = 32
    with pytest.raises(ValueError, match=r"another config \(model\.chunk is 16 there and 32 in the config\)"):
        evaluation.evaluate(parse_config(settings, "x"), small_store, {"titans": small_model}, tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_a_model_of_another_store_is_an_error(small_folder, small_config, small_model, tmp_path):
    settings = small_settings(small_folder)
    settings["seed"] = 2
    tokenize(parse_config(settings, "x"), tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"another token store.*held-out"):
        evaluation.evaluate(small_config, tmp_path / "tokens", {"titans": small_model}, tmp_path / "e.json")


def test_no_model_is_an_error(small_config, small_store, tmp_path):
    with pytest.raises(FileNotFoundError, match="titans-genomics train"):
        evaluation.evaluate(small_config, small_store, {"titans": tmp_path / "nothing"}, tmp_path / "e.json")
