"""Likelihoods: what the model itself says base by base, whatever stands in the same batch and however long a sequence is."""

import math

import numpy as np
import pytest
import torch

from titans_genomics.config import TitansConfig, TokenizerConfig
from titans_genomics.data.alphabet import encode, reverse_complement
from titans_genomics.data.tokenizers import make_tokenizer
from titans_genomics.models import Titans, Transformer
from titans_genomics.tasks import likelihood
from titans_genomics.tasks.likelihood import base_log_likelihoods, log_likelihood

SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6, "memory_expansion": 1.0}


def model_of(vocab_size=8, variant="lmm", kind=Titans):
    torch.manual_seed(0)
    model = kind(TitansConfig(variant=variant, vocab_size=vocab_size, **SHAPE)).eval()
    with torch.no_grad():
        model.head.weight.mul_(30)  # a fresh model is nearly uniform: make it say something
    return model


def random_sequences(lengths, letters=4, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, letters, length).astype(np.uint8) for length in lengths]


def naive(model, tokenizer, sequence):
    """Token after token, each from a reading of all that stands before it; the first as four equal letters."""
    tokens = tokenizer.encode(sequence).astype(np.int64)
    found = []
    for i, token in enumerate(tokens):
        size = int(tokenizer.bases[token])
        if not tokenizer.scored[token]:
            score = math.nan
        elif i == 0:
            score = size * math.log(1 / 4)
        else:
            with torch.no_grad():
                logits, _ = model(torch.from_numpy(tokens[None, :i]))
            score = float(logits[0, -1].double().log_softmax(-1)[token])
        found += [score / size] * size
    return np.array(found)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "transformer"])
def test_every_base_has_the_probability_that_the_model_gives_it(variant):
    model = model_of(kind=Transformer) if variant == "transformer" else model_of(variant=variant)
    tokenizer = make_tokenizer(TokenizerConfig())
    sequences = random_sequences([1, 2, 23, 9, 40, 9], letters=5)
    found = base_log_likelihoods(model, tokenizer, sequences, "given")
    for own, sequence in zip(found, sequences, strict=True):
        np.testing.assert_allclose(own, naive(model, tokenizer, sequence), atol=2e-5)


@pytest.mark.parametrize(
    "settings", [{"kind": "kmer", "k": 3}, {"kind": "kmer", "k": 2, "overlap": True}], ids=["kmer", "overlapping"]
)
def test_tokens_of_several_bases_share_their_probability(settings):
    tokenizer = make_tokenizer(TokenizerConfig(**settings))
    model = model_of(tokenizer.vocab_size)
    sequences = [encode(letters) for letters in ("ACGTACGTAC", "A", "ACNGTTTACGATN", "GGATTACAGGATTACA")]
    for own, sequence in zip(base_log_likelihoods(model, tokenizer, sequences, "given"), sequences, strict=True):
        assert len(own) == len(sequence)
        np.testing.assert_allclose(own, naive(model, tokenizer, sequence), atol=2e-5)


def test_a_model_that_knows_nothing_finds_all_tokens_equally_likely():
    """Five letters and three special tokens for each base but the first."""
    model = model_of()
    with torch.no_grad():
        model.head.weight.zero_()
    found = log_likelihood(model, make_tokenizer(TokenizerConfig()), [encode("ACGTT"), encode("ACNTT"), encode("N")])
    first, others = math.log(1 / 4), math.log(1 / 8)
    np.testing.assert_allclose(found, [first + 4 * others, first + 3 * others, 0], rtol=1e-6)


@pytest.mark.parametrize("group", [1, 40, 1 << 22])
def test_together_they_are_what_they_are_one_by_one(monkeypatch, group):
    monkeypatch.setattr(likelihood, "GROUP_BASES", group)
    model, tokenizer = model_of(), make_tokenizer(TokenizerConfig())
    sequences = random_sequences([30, 7, 64, 1, 30, 65, 12], letters=5)
    together = log_likelihood(model, tokenizer, sequences)
    alone = [log_likelihood(model, tokenizer, [sequence])[0] for sequence in sequences]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert together.dtype == np.float64
    np.testing.assert_array_equal(together, log_likelihood(model, tokenizer, sequences))


@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_a_sequence_longer_than_a_batch_is_read_on_from_the_same_memory(monkeypatch, variant):
    model, tokenizer = model_of(variant=variant), make_tokenizer(TokenizerConfig())
    sequences = random_sequences([200, 61, 60, 59, 5])
    whole = log_likelihood(model, tokenizer, sequences)
    monkeypatch.setattr(likelihood, "token_budget", lambda device: 60)
    np.testing.assert_allclose(log_likelihood(model, tokenizer, sequences), whole, atol=1e-4)


def test_both_strands_give_the_same_whichever_is_given():
    model, tokenizer = model_of(), make_tokenizer(TokenizerConfig())
    sequences = random_sequences([30, 45], letters=5)
    turned = [reverse_complement(sequence) for sequence in sequences]
    np.testing.assert_allclose(
        log_likelihood(model, tokenizer, sequences), log_likelihood(model, tokenizer, turned), atol=1e-5
    )
    for one, other in zip(
        base_log_likelihoods(model, tokenizer, sequences), base_log_likelihoods(model, tokenizer, turned), strict=True
    ):
        np.testing.assert_allclose(one, other[::-1], atol=1e-6)
    given = log_likelihood(model, tokenizer, sequences, "given")
    mean = (given + log_likelihood(model, tokenizer, turned, "given")) / 2
    np.testing.assert_allclose(log_likelihood(model, tokenizer, sequences), mean, atol=1e-5)
    assert np.abs(given - mean).min() > 1e-3


def test_n_is_read_and_never_scored():
    model, tokenizer = model_of(), make_tokenizer(TokenizerConfig())
    with_n, without = encode("ACGTNACGT"), encode("ACGTGACGT")
    one, other = base_log_likelihoods(model, tokenizer, [with_n, without], "given")
    np.testing.assert_array_equal(np.isnan(one), with_n == 4)
    np.testing.assert_allclose(one[:4], other[:4], atol=1e-6)
    assert np.abs(one[5:] - other[5:]).max() > 1e-3
    assert log_likelihood(model, tokenizer, [with_n], "given")[0] == pytest.approx(np.nansum(one))


@pytest.mark.parametrize("most", [1, 10, 100])
def test_groups_are_all_rows_in_their_order(most):
    lengths = [7, 1, 1, 30, 2, 9, 9]
    found = likelihood.groups(lengths, most)
    np.testing.assert_array_equal(np.concatenate(found), range(7))
    assert all(len(rows) == 1 or sum(lengths[row] for row in rows[:-1]) <= most for rows in found)


def test_no_sequences_have_no_likelihoods():
    assert log_likelihood(model_of(), make_tokenizer(TokenizerConfig()), []).shape == (0,)


def test_an_empty_sequence_is_an_error(monkeypatch):
    monkeypatch.setattr(likelihood, "GROUP_BASES", 1)
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        log_likelihood(model_of(), make_tokenizer(TokenizerConfig()), [encode("A"), encode("")])


def test_text_has_one_strand():
    tokenizer = make_tokenizer(TokenizerConfig(kind="byte"))
    model, line = model_of(tokenizer.vocab_size), np.frombuffer(b"In the beginning", np.uint8)
    with pytest.raises(ValueError, match="no other strand"):
        log_likelihood(model, tokenizer, [line])
    found = base_log_likelihoods(model, tokenizer, [line], "given")[0]
    assert found[0] == pytest.approx(-math.log(256))
    assert np.isfinite(found).all()
