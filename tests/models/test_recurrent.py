"""The recurrent baselines: what is theirs alone. What they share with every variant is in test_titans.py."""

import pytest
import torch
from torch.nn import functional as F

from titans_genomics.models import Titans, TitansConfig, with_parameters
from titans_genomics.ops.delta import reference_delta
from titans_genomics.ops.scan import reference_scan

SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "conv": 3}
RECURRENT = ["gated_deltanet", "diagonal"]


def build(variant, **options):
    torch.manual_seed(0)
    return Titans(TitansConfig(variant=variant, **{**SMALL, **options}))


def tokens(B=2, T=45):
    return torch.randint(0, 8, (B, T), generator=torch.Generator().manual_seed(1))


def convolved(x, taps):
    """SiLU of the causal depthwise convolution, by the library. x (B, T, c), taps (c, J) -> (B, T, c)."""
    padded = F.pad(x.mT, (taps.shape[1] - 1, 0))
    return F.silu(F.conv1d(padded, taps[:, None], groups=len(taps))).mT


def read_out(mixer, x, y):
    """Norm per head, output gate and projection, written out. x (B, T, D), y (B, T, H, d)."""
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.head_norm
    return (y.flatten(2) * F.silu(x @ mixer.to_output_gate.weight.mT)) @ mixer.to_output.weight.mT


def test_gated_deltanet_is_its_formula():
    mixer = build("gated_deltanet").double().blocks[0].mixer
    x = torch.randn(2, 40, 16, dtype=torch.float64)
    q, k, v = (
        part.unflatten(-1, (2, 8)) for part in convolved(x @ mixer.to_parts.weight.mT, mixer.conv).chunk(3, dim=-1)
    )
    decay, beta = mixer.to_gates(x).chunk(2, dim=-1)
    log_decay = -mixer.log_rate.exp() * (1 + decay.exp()).log()
    start = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
    unit = [part / part.norm(dim=-1, keepdim=True) for part in (q, k)]
    y, _ = reference_delta(*unit, v, log_decay, 1 / (1 + (-beta).exp()), start)
    torch.testing.assert_close(mixer(x, mixer.begin(2))[0], read_out(mixer, x, y), atol=1e-9, rtol=0)


def test_diagonal_recurrence_is_its_formula():
    mixer = build("diagonal").double().blocks[0].mixer
    x = torch.randn(2, 40, 16, dtype=torch.float64)
    u = convolved(x @ mixer.to_parts.weight.mT, mixer.conv)
    raw = [u[..., 8 * h : 8 * (h + 1)] @ mixer.to_gates[h] + mixer.gate_bias[h] for h in range(2)]
    r = torch.cat([part[..., :8] for part in raw], dim=-1).sigmoid()
    i = torch.cat([part[..., 8:] for part in raw], dim=-1).sigmoid()
    a = (1 + mixer.rate.exp()) ** (-8 * r)
    h = reference_scan(a.log(), (1 - a**2).sqrt() * i * u, torch.zeros(2, 16, dtype=torch.float64))
    wanted = read_out(mixer, x, h.unflatten(-1, (2, 8)))
    torch.testing.assert_close(mixer(x, mixer.begin(2))[0], wanted, atol=1e-9, rtol=0)


def test_both_start_with_the_published_decays():
    """Griffin: a between 0.9 and 0.999 where its gate is open. Gated DeltaNet: A from 1 to 16, steps from 0.001 to 0.1."""
    mixer = build("diagonal", d_model=512).blocks[0].mixer
    slowest = (-8 * F.softplus(mixer.rate)).exp()
    assert 0.9 <= slowest.min() < 0.91 < 0.99 < slowest.max() <= 0.9991
    mixer = build("gated_deltanet", d_model=512, n_heads=256).blocks[0].mixer
    rate, step = mixer.log_rate.exp(), F.softplus(mixer.to_gates.bias[:256])
    assert 1 <= rate.min() < 1.5 < 15 < rate.max() <= 16
    assert 0.00099 < step.min() < 0.0012 < 0.08 < step.max() < 0.1001


@pytest.mark.parametrize("variant", RECURRENT)
@pytest.mark.parametrize("conv", [0, 1, 4])
def test_gradients_reach_every_parameter(variant, conv):
    model, x = build(variant, conv=conv).train(), tokens()
    logits, _ = model(x[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("variant", RECURRENT)
@pytest.mark.parametrize("shift", [-1e4, -200.0, 200.0, 1e4])
def test_saturated_gates_keep_gradients_finite(variant, shift):
    """In float32: decays of exactly 1 and exactly 0, steps of 0 and 1."""
    model, x = build(variant).train(), tokens()
    with torch.no_grad():
        for block in model.blocks:
            (block.mixer.gate_bias if variant == "diagonal" else block.mixer.to_gates.bias).add_(shift)
    logits, _ = model(x[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()).backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("variant", RECURRENT)
def test_gates_decays_and_convolutions_are_spared_by_weight_decay(variant):
    model = build(variant)
    decayed = {name.removeprefix("blocks.0.") for name, _ in model.named_parameters()} - {
        name.removeprefix("blocks.0.") for name in model.no_decay()
    }
    assert {name for name in decayed if name.startswith("mixer")} == {
        f"mixer.{part}.weight" for part in ("to_parts", "to_output_gate", "to_output")
    }


@pytest.mark.parametrize("variant", RECURRENT)
def test_half_precision_keeps_the_recurrence_in_float32(variant):
    """Under autocast, and with all weights in bfloat16."""
    model, x = build(variant), tokens()
    wanted, _ = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, state = model(x)
        again, _ = model(x[:, :1], state)
    logits.sum().backward()
    half = build(variant).bfloat16()
    half_logits, half_state = half(x)
    for found, left in ((logits, state), (half_logits, half_state)):
        assert found.dtype == torch.float32
        assert {block.memory.dtype for block in left.blocks} == {torch.float32}
        assert (found - wanted).abs().max() < 0.1
    assert again.isfinite().all()
    assert half.begin(1).blocks[0].memory.dtype == torch.float32


@pytest.mark.parametrize("variant", ["transformer", *RECURRENT])
def test_baselines_can_have_the_parameters_of_titans(variant):
    titans = Titans(TitansConfig()).parameter_count()
    config = with_parameters(TitansConfig(variant=variant), titans)
    assert abs(Titans(config).parameter_count() / titans - 1) < 0.01
