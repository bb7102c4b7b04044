"""The Markov baseline against a plain count in a dictionary."""

import math

import numpy as np
import pytest

from titans_genomics import markov

COMPLEMENT = {0: 3, 1: 2, 2: 1, 3: 0}


def slow_counts(tokens, order):
    """(order+1)-mers of both strands, one at a time."""
    counts = {}
    for i in range(len(tokens) - order):
        word = tuple(int(t) for t in tokens[i : i + order + 1])
        if max(word) < 4:
            for strand in (word, tuple(COMPLEMENT[b] for b in reversed(word))):
                counts[strand] = counts.get(strand, 0) + 1
    return counts


def slow_bits(train, tokens, order, smoothings):
    bits = []
    for i, token in enumerate(tokens):
        if token >= 4:
            bits.append(math.nan)
            continue
        seen = 0
        while seen < order and i - seen - 1 >= 0 and tokens[i - seen - 1] < 4:
            seen += 1
        counts = slow_counts(train, seen)
        context = tuple(int(t) for t in tokens[i - seen : i])
        word, total = counts.get((*context, int(token)), 0), sum(counts.get((*context, b), 0) for b in range(4))
        bits.append(-math.log2((word + smoothings[seen]) / (total + 4 * smoothings[seen])))
    return np.array(bits)


@pytest.fixture
def tokens():
    rng = np.random.default_rng(3)
    sequence = rng.choice(8, size=700, p=[0.3, 0.25, 0.2, 0.2, 0.03, 0, 0, 0.02]).astype(np.uint8)
    return sequence[:500], sequence[500:600], sequence[600:]


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_counts_are_those_of_both_strands(tokens, order):
    counts = markov.count([tokens[0]], order)
    slow = slow_counts(tokens[0], order)
    assert counts.sum() == sum(slow.values())
    for word, times in slow.items():
        code = int("".join(map(str, word)), 4)
        assert counts[code >> 2, code & 3] == times


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("piece", [1 << 18, 37])
def test_bits_match_a_plain_count(tokens, order, piece, monkeypatch):
    monkeypatch.setattr(markov, "PIECE", piece)
    train, validation, test = tokens
    model, table = markov.fit(lambda: [train], lambda: [validation], [order])
    smoothings = [smoothing for _, smoothing in model.tables]
    assert model.order == order
    np.testing.assert_allclose(model.bits(test), slow_bits(train, test, order, smoothings), rtol=1e-12)
    np.testing.assert_allclose(np.nanmean(model.bits(validation)), table[order]["bits_per_base"], rtol=1e-12)


def test_every_base_is_scored_and_nothing_else(tokens):
    model, _ = markov.fit(lambda: [tokens[0]], lambda: [tokens[1]], range(5))
    np.testing.assert_array_equal(np.isfinite(model.bits(tokens[2])), tokens[2] < 4)


def test_probabilities_sum_to_one(tokens):
    model, _ = markov.fit(lambda: [tokens[0]], lambda: [tokens[1]], [2])
    context = np.array([1, 3], np.uint8)
    total = sum(2 ** -model.bits(np.append(context, np.uint8(b)))[-1] for b in range(4))
    assert total == pytest.approx(1)


def test_it_finds_the_order_of_the_process():
    """A process that repeats the base two back needs k = 2, and on random bases nothing beats 2 bits."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4, 60_000).astype(np.uint8)
    _, table = markov.fit(lambda: [tokens[:50_000]], lambda: [tokens[50_000:]], [0, 3])
    assert table[0]["bits_per_base"] == pytest.approx(2, abs=1e-3)
    for i in range(2, len(tokens)):
        if rng.random() < 0.7:
            tokens[i] = tokens[i - 2]
    model, table = markov.fit(lambda: [tokens[:50_000]], lambda: [tokens[50_000:]], range(7))
    assert model.order == 2
    assert table[2]["bits_per_base"] < 1.5 < table[1]["bits_per_base"]


def test_the_smoothing_is_the_best_of_many(tokens):
    train, validation, _ = tokens
    model, table = markov.fit(lambda: [train], lambda: [validation], [3])
    for smoothing in np.geomspace(1e-2, 100, 30):
        tables = [*model.tables[:3], (model.tables[3][0], smoothing)]
        other = markov.Markov(3, smoothing, tables)
        assert np.nanmean(other.bits(validation)) >= table[3]["bits_per_base"] - 1e-6


def test_no_bases_is_an_error():
    nothing = np.full(50, 4, np.uint8)
    some = np.zeros(50, np.uint8)
    with pytest.raises(ValueError, match="training"):
        markov.fit(lambda: [nothing], lambda: [some], [1])
    with pytest.raises(ValueError, match="validation"):
        markov.fit(lambda: [some], lambda: [nothing], [1])
