"""One answer per sequence: padding is never read, company in a batch changes nothing, additions reach every use of a weight."""

import numpy as np
import pytest
import torch

from titans_genomics.models import Titans, TitansConfig, Transformer
from titans_genomics.models.classifier import CNN, CNN_SHORTEST, Classifier, pool

VARIANTS = ["lmm", "mac", "mag", "mal", "transformer"]
SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}
LENGTHS = [1, 7, 8, 9, 16, 17, 31, 40]


def build(variant, pooling="mean", outputs=3):
    torch.manual_seed(0)
    kind, variant = (Transformer, "lmm") if variant == "transformer" else (Titans, variant)
    model = kind(TitansConfig(variant=variant, **SMALL))
    with torch.no_grad():  # away from the gates' starting point, so that what is written and forgotten matters
        for name, parameter in model.named_parameters():
            if "to_gates" in name:
                parameter.add_(torch.randn_like(parameter))
    return Classifier(model, outputs, pooling).eval()


def mixed(lengths=LENGTHS, padding=0):
    """Random tokens (B, T) of different lengths, the rest `padding`."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 5, (len(lengths), max(lengths)), generator=generator)
    lengths = torch.tensor(lengths)
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = padding
    return tokens, lengths


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_batch_of_mixed_lengths_gives_the_logits_of_one_by_one(variant, pooling):
    network, (tokens, lengths) = build(variant, pooling), mixed()
    together = network(tokens, lengths)
    alone = torch.cat([network(t[None, :n], n[None]) for t, n in zip(tokens, lengths, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.std(0).min() > 1e-3  # the sequences are told apart


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", [*VARIANTS, "cnn"])
def test_what_stands_in_the_padding_changes_neither_logits_nor_gradients(variant, training):
    network = (CNN(60, 3) if variant == "cnn" else build(variant)).train(training)
    found = []
    for padding in (0, 3):
        network.zero_grad()
        logits = network(*mixed(padding=padding))
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_memory_before_the_padding_is_that_of_the_sequence_alone(variant):
    network, (tokens, _) = build(variant), mixed([11, 40])
    _, in_company = network.backbone.embed(tokens[:, :11])
    _, alone = network.backbone.embed(tokens[:1, :11])
    compared = 0
    for (name, one), (_, other) in zip(in_company.leaves(), alone.leaves(), strict=True):
        if torch.is_tensor(one) and one.numel():
            torch.testing.assert_close(one[:1], other, atol=1e-6, rtol=1e-5, msg=name)
            compared += 1
    assert compared


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pool_is_that_of_each_sequence_by_itself(pooling):
    hidden = torch.randn(3, 5, 4)
    hidden[0, 2:] = torch.nan  # even so
    found = pool(hidden, torch.tensor([2, 5, 1]), pooling)
    for row, n in enumerate([2, 5, 1]):
        expected = hidden[row, :n].mean(0) if pooling == "mean" else hidden[row, n - 1]
        torch.testing.assert_close(found[row], expected)


def test_the_cnn_reads_short_and_long_sequences():
    torch.manual_seed(0)
    network = CNN(80, 2).eval()
    tokens, lengths = mixed([20, 100])
    logits = network(tokens, lengths)
    assert torch.equal(logits, network(tokens[:, :80], lengths.clamp(max=80)))  # longer ones are cut
    torch.testing.assert_close(logits[:1], network(tokens[:1, :20], lengths[:1]))
    assert network(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, dtype=torch.int64)).shape == (2, 2)


def test_the_cnn_is_that_of_the_benchmark():
    """Parameters of 251 bases, as the authors' class counts them for six symbols and two output neurons."""
    by_hand = 6 * 100 + (100 * 8 + 1) * 16 + 32 + (16 * 8 + 1) * 8 + 16 + (8 * 8 + 1) * 4 + 8
    columns = (((251 - 7) // 2 - 7) // 2 - 7) // 2
    by_hand += (4 * columns + 1) * 512 + 513 * 2
    assert sum(p.numel() for p in CNN(251, 2).parameters()) == by_hand
    assert CNN(10, 2).length == CNN_SHORTEST
    with pytest.raises(RuntimeError):  # a base less leaves nothing
        CNN(10, 2).eval().features(torch.zeros(1, 100, CNN_SHORTEST - 1))


def test_regression_targets_are_standardised_and_come_back():
    network = build("lmm", outputs=2)
    targets = torch.tensor(np.random.default_rng(0).normal([3, -100], [0.1, 30], (50, 2)), dtype=torch.float32)
    network.standardise(targets)
    standard = (targets - network.center) / network.scale
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(network.values(standard), targets)
    network.standardise(torch.ones(3, 2))  # never varies
    assert torch.equal(network.scale, torch.ones(2))


def test_weight_decay_leaves_the_head_s_bias_alone():
    network = build("mag")
    plain = network.no_decay()
    names = {name for name, _ in network.named_parameters()}
    assert plain <= names
    assert {"head.weight", "backbone.blocks.0.mixer.memory.to_qkv.weight"} <= names - plain
    assert {"head.bias", "backbone.embedding.weight", "backbone.blocks.1.mixer.memory.to_gates.weight"} <= plain


@pytest.mark.parametrize("variant", VARIANTS)
def test_low_rank_additions_are_those_of_the_weights_wherever_they_are_used(variant):
    from titans_genomics.models.lora import LowRankLinear, add_low_rank

    network, (tokens, lengths) = build(variant), mixed()
    before = network(tokens, lengths)
    linear = {name for name, m in network.backbone.named_modules() if isinstance(m, torch.nn.Linear)}
    add_low_rank(network.backbone, rank=2, alpha=6.0)
    torch.testing.assert_close(network(tokens, lengths), before)  # B is zero
    added = {name: m for name, m in network.backbone.named_modules() if isinstance(m, LowRankLinear)}
    assert set(added) == linear
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name in ("head.weight", "head.bias") for name in trained)
    with torch.no_grad():
        for layer in added.values():
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    found = network(tokens, lengths)
    found.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for _, p in network.named_parameters() if p.requires_grad)
    plain = build(variant)  # the same weights, with the products written into them
    with torch.no_grad():
        for name, layer in added.items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            plain.backbone.get_submodule(name).weight.add_(3.0 * b @ a)
        plain.head.load_state_dict(network.head.state_dict())
    torch.testing.assert_close(found, plain(tokens, lengths), atol=1e-5, rtol=1e-4)
    assert (found - before).abs().max() > 1e-2
