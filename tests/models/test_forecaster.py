"""Forecasters: invariances of RevIN, columns and windows that do not see one another, patches, and the baselines by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from titans_genomics.config import TitansConfig
from titans_genomics.models import Titans
from titans_genomics.models.forecaster import DLinear, Forecaster, LastValue

VARIANTS = ("lmm", "mac", "mag", "mal", "transformer")
LOOKBACK, HORIZON = 44, 7


def make(
    variant: str = "lmm", lookback: int = LOOKBACK, patch: int = 8, stride: int = 4, revin: bool = True
) -> Forecaster:
    torch.manual_seed(3)
    config = TitansConfig(
        variant=variant, d_model=16, n_layers=2, n_heads=2, memory_expansion=1.0, chunk=4, segment=4, window=4, conv=2
    )
    network = Forecaster(Titans(config), lookback, HORIZON, patch, stride, revin)
    with torch.no_grad():
        for block in network.backbone.blocks:  # a fresh model hardly uses its mixers
            block.feed_forward.to_output.weight.mul_(5)
    return network.eval()


def draw(batch: int = 3, steps: int = LOOKBACK, columns: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, steps, columns, generator=torch.Generator().manual_seed(seed)).cumsum(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forecast_moves_and_stretches_with_its_window(variant):
    network, x = make(variant).double(), draw().double()
    scale, shift = torch.tensor([3.0, 0.5]).double(), torch.tensor([100.0, -7.0]).double()
    with torch.no_grad():
        moved, still = network(x * scale + shift), network(x)
    torch.testing.assert_close(moved, still * scale + shift, rtol=1e-4, atol=1e-3)
    assert float((still - x.mean(1, keepdim=True)).abs().max()) > 1e-2  # it says more than the mean


def test_without_revin_it_does_not():
    network, x = make(revin=False), draw()
    with torch.no_grad():
        assert not torch.allclose(network(x + 100), network(x) + 100, atol=1)


def test_revin_by_hand():
    plain, scaled = make(revin=False), make(revin=True)
    x = draw(columns=1)
    mean = x.mean(1, keepdim=True)
    deviation = (((x - mean) ** 2).mean(1, keepdim=True) + 1e-5).sqrt()
    with torch.no_grad():
        torch.testing.assert_close(scaled(x), plain((x - mean) / deviation) * deviation + mean)


def test_constant_window_is_forecast_near_its_value():
    x = torch.full((1, LOOKBACK, 1), 5.0)
    with torch.no_grad():
        found = make()(x)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, torch.full_like(found, 5.0), atol=0.05, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_columns_and_windows_are_independent(variant):
    network, x = make(variant), draw()
    with torch.no_grad():
        whole = network(x)
        assert whole.shape == (3, HORIZON, 2)
        for b in range(3):
            for c in range(2):
                alone = network(x[b : b + 1, :, c : c + 1])
                torch.testing.assert_close(whole[b : b + 1, :, c : c + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("lookback", "patch", "stride"), [(44, 8, 4), (45, 8, 8), (16, 16, 16), (20, 5, 3)])
def test_patches_by_hand(lookback, patch, stride):
    network, x = make("lmm", lookback, patch, stride, revin=False), draw(2, lookback, 1)
    starts = [s for s in range(lookback) if s + patch <= lookback and (lookback - patch - s) % stride == 0]
    assert network.patches == len(starts)
    with torch.no_grad():
        tokens = torch.stack([network.embedding(x[:, s : s + patch, 0]) for s in starts], dim=1)
        states, _ = network.backbone.read(tokens)
        torch.testing.assert_close(network(x)[..., 0], network.head(states.reshape(2, -1)))


def test_the_last_step_matters_and_early_ones_too():
    network, x = make(), draw(1, columns=1).requires_grad_()
    network(x).square().sum().backward()
    assert (x.grad.abs() > 0).all()


def test_every_parameter_learns():
    network = make("mag").train()
    network(draw()).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert not any(
        "vocab" in name or p.shape[0] == network.backbone.config.vocab_size for name, p in network.named_parameters()
    )


def test_decay_spares_biases_norms_and_gates():
    network = make("mac")
    spared, names = network.no_decay(), {name for name, _ in network.named_parameters()}
    assert spared < names
    assert {"embedding.bias", "head.bias"} < spared
    assert {"embedding.weight", "head.weight"} < names - spared
    assert all(name in spared for name in names if "norm" in name)


def test_windows_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B, 44, C\), got \(3, 43, 2\)"):
        make()(draw(steps=43))


def test_dlinear_by_hand():
    torch.manual_seed(0)
    network, x = DLinear(30, 4, kernel=5).double(), draw(2, 30, 3).double()
    found = network(x).detach().numpy()
    weights = [layer.weight.detach().numpy() for layer in (network.trend, network.season)]
    biases = [layer.bias.detach().numpy() for layer in (network.trend, network.season)]
    for b in range(2):
        for c in range(3):
            row = x[b, :, c].numpy()
            trend = np.array([np.mean([row[min(max(i + d, 0), 29)] for d in range(-2, 3)]) for i in range(30)])
            wanted = weights[0] @ trend + biases[0] + weights[1] @ (row - trend) + biases[1]
            np.testing.assert_allclose(found[b, :, c], wanted, rtol=1e-9, atol=1e-9)


def test_last_value():
    x = draw(2, 9, 3)
    assert torch.equal(LastValue(5)(x), torch.stack([x[:, -1]] * 5, dim=1))
