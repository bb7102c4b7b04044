"""The gated delta rule: the chunked form against the rule as it is written, any pieces, extremes of the gates."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from titans_genomics.ops import delta
from titans_genomics.ops.delta import gated_delta_rule, unit_lower_inverse

NAMES = ["q", "k", "v", "log_decay", "beta", "state"]


def make(B=2, T=40, H=3, d=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, T, H, d, generator=g, dtype=torch.float64) for _ in range(3))
    log_decay = -torch.rand(B, T, H, generator=g, dtype=torch.float64).pow(3)
    beta = torch.rand(B, T, H, generator=g, dtype=torch.float64)
    state = torch.randn(B, H, d, d, generator=g, dtype=torch.float64)
    q, k = (F.normalize(x, dim=-1) for x in (q, k))
    return [x.to(dtype) for x in (q, k, v, log_decay, beta, state)]


def outputs_and_gradients(inputs, **options):
    """o, the end state and the gradients of a weighted sum of both for every input."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    o, state = gated_delta_rule(*inputs, **options)
    g = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)).sum() for x in (o, state))
    return [o.detach(), state.detach(), *torch.autograd.grad(loss, inputs)]


def assert_same(found, wanted, tolerance):
    for name, a, b in zip(["o", "end", *(f"d_{n}" for n in NAMES)], found, wanted, strict=True):
        torch.testing.assert_close(
            a.double(), b.double(), atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_two_tokens_by_hand():
    """Width 1. Token 1: S = 0.5 * 0.8, error 0.5 (1 - 0.4 * 1) = 0.3, S = 0.7, o = 2 * 0.7. Token 2: S = 0.35, error 1 (0 - 0.35 * 2), S = -1.05."""

    def scalar(*values):
        return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)

    inputs = (
        scalar(2.0, 1.0),
        scalar(1.0, 2.0),
        scalar(1.0, 0.0),
        scalar(0.8, 0.5).log()[..., 0],
        scalar(0.5, 1.0)[..., 0],
    )
    for backend in ("reference", "chunked"):
        o, state = gated_delta_rule(*inputs, scalar(0.5), backend=backend)
        torch.testing.assert_close(o, scalar(1.4, -1.05))
        torch.testing.assert_close(state, scalar(-1.05))


def test_a_key_answers_with_what_was_written_last():
    """b = 1 and no forgetting: a new value takes the place of the old one, other keys keep theirs."""
    keys, values = torch.eye(4, dtype=torch.float64)[[0, 1, 0]], torch.arange(12, dtype=torch.float64).reshape(3, 4)
    k, v = (x[None, :, None] for x in (keys, values))
    _, state = gated_delta_rule(k, k, v, torch.zeros(1, 3, 1), torch.ones(1, 3, 1), backend="chunked")
    torch.testing.assert_close(state[0, 0].mT[:3], torch.stack([values[2], values[1], 0 * values[0]]))


@pytest.mark.parametrize("T", [1, 7, 32, 65])
@pytest.mark.parametrize("chunk", [1, 3, 16, 64])
def test_chunked_is_the_reference(T, chunk):
    inputs = make(T=T)
    wanted = outputs_and_gradients(inputs, backend="reference")
    assert_same(outputs_and_gradients(inputs, backend="chunked", chunk=chunk), wanted, 1e-11)


@pytest.mark.parametrize("beta", [None, 0.0, 1.0], ids=["any-beta", "beta-0", "beta-1"])
@pytest.mark.parametrize("log_decay", [0.0, -1e-7, -30.0, -1e4, -torch.inf])
@pytest.mark.parametrize("where", ["one", "all"])
def test_gates_at_their_ends(log_decay, beta, where):
    """Finite, and the reference's values and gradients, in float32 too."""
    inputs = make(T=50)
    inputs[3][:, 5 if where == "one" else slice(None)] = log_decay
    if beta is not None:
        inputs[4][:, 7 if where == "one" else slice(None)] = beta
    wanted = outputs_and_gradients(inputs, backend="reference")
    assert all(x.isfinite().all() for x in wanted)
    assert_same(outputs_and_gradients(inputs, backend="chunked", chunk=16), wanted, 1e-10)
    single = [x.float() for x in inputs]
    assert_same(outputs_and_gradients(single, backend="chunked", chunk=16), wanted, 2e-4)


def test_one_key_again_and_again_is_stable():
    """The triangular system at its worst, in float32: all off-diagonal entries near 1 in chunks of 128."""
    q, k, v, log_decay, beta, state = make(T=512, H=1, d=8)
    k = F.normalize(k[:, :1] + 1e-3 * k, dim=-1)
    inputs = [q, k, v, log_decay * 1e-3, 1 - beta * 1e-3, state]
    wanted = outputs_and_gradients(inputs, backend="reference")
    single = [x.float() for x in inputs]
    assert_same(outputs_and_gradients(single, backend="chunked", chunk=128), wanted, 2e-3)


def test_inverse_of_any_size():
    for size in (1, 2, 3, 5, 8, 13):
        x = torch.randn(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        whole = torch.eye(size, dtype=torch.float64) + x.tril(-1)
        torch.testing.assert_close(unit_lower_inverse(x) @ whole, torch.eye(size).double().expand(2, -1, -1))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_derivatives_of_first_and_second_order(backend):
    inputs = [x.requires_grad_() for x in make(B=1, T=5, H=1, d=2)]

    def run(*xs):
        return gated_delta_rule(*xs, chunk=3, backend=backend, check=False)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("backend", ["chunked", "auto"])
def test_any_pieces_give_the_whole(backend):
    *tokens, start = make(T=40)
    whole, end = gated_delta_rule(*tokens, start, chunk=8, backend="chunked")
    for cuts in ([1] * 40, [3, 17, 20], [39, 1], [8] * 5):
        state, parts = start, []
        for piece in zip(*(x.split(cuts, dim=1) for x in tokens), strict=True):
            o, state = gated_delta_rule(*piece, state, chunk=8, backend=backend)
            parts.append(o)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-12, rtol=0)
        torch.testing.assert_close(state, end, atol=1e-12, rtol=0)


def test_causal_and_batch_independent():
    *tokens, start = make(T=30)
    o, _ = gated_delta_rule(*tokens, start, chunk=8, backend="chunked")
    for t in (0, 7, 8, 29):
        changed = [x.clone() for x in tokens]
        for x in changed:
            x[0, t] = x[0, t] * 0.5
        other, _ = gated_delta_rule(*changed, start, chunk=8, backend="chunked")
        assert torch.equal(other[:, :t], o[:, :t])
        assert not torch.equal(other[0, t], o[0, t])
        assert torch.equal(other[1], o[1])


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_half_precision_keeps_a_float32_state(backend):
    q, k, v, log_decay, beta, _ = make(dtype=torch.float32)
    half = [x.bfloat16() for x in (q, k, v)]
    o, state = gated_delta_rule(*half, log_decay, beta, backend=backend)
    assert o.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    wanted, _ = gated_delta_rule(*(x.float() for x in half), log_decay, beta, backend=backend)
    torch.testing.assert_close(o, wanted.bfloat16())
    inputs = make(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gated_delta_rule(*inputs, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(found, gated_delta_rule(*inputs, backend=backend), strict=True))


def test_inputs_are_left_as_they_are():
    inputs = make(T=9)
    before = [x.clone() for x in inputs]
    for backend in ("reference", "chunked"):
        gated_delta_rule(*inputs, chunk=16, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_flash_linear_attention_is_asked_as_it_wants(monkeypatch):
    """A stand-in with its documented interface: log decays, a scale, a state whose rows are keys."""
    asked = {}

    def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
        assert q.dtype != torch.float32
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        asked.update(q=q, g=g, state=initial_state)
        S, outputs = initial_state.clone(), []
        for t in range(q.shape[1]):
            S = S * g[:, t, :, None, None].exp()
            error = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", S, k[:, t].float()))
            S = S + k[:, t, :, :, None] * error[:, :, None]
            outputs.append(scale * torch.einsum("bhkv,bhk->bhv", S, q[:, t].float()))
        return torch.stack(outputs, 1).to(q.dtype), S if output_final_state else None

    module = ModuleType("fla.ops.gated_delta_rule")
    module.chunk_gated_delta_rule = chunk_gated_delta_rule
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", module)
    inputs = make(dtype=torch.float32)
    with pytest.raises(ValueError, match="needs tensors on a GPU, got cpu"):
        gated_delta_rule(*inputs, backend="fla")
    monkeypatch.setattr(delta, "why_not_fla", lambda q: None)
    half = [x.bfloat16() for x in inputs[:3]] + inputs[3:]
    (o, state), wanted = gated_delta_rule(*half), gated_delta_rule(*half, backend="reference")
    torch.testing.assert_close(o, wanted[0])
    torch.testing.assert_close(state, wanted[1], atol=1e-5, rtol=1e-5)
    assert asked["state"].is_contiguous()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, state = gated_delta_rule(*inputs)
    assert (asked["q"].dtype, asked["g"].dtype, asked["state"].dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert (o.dtype, state.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize(
    ("dtype", "autocast", "taken"),
    [
        (torch.float32, False, False),
        (torch.float32, True, True),
        (torch.bfloat16, False, True),
        (torch.float16, False, True),
        (torch.float64, True, False),
    ],
    ids=str,
)
def test_flash_linear_attention_takes_half_precision_alone(dtype, autocast, taken, monkeypatch):
    monkeypatch.setattr(delta, "_has_fla", lambda: True)
    q = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), dtype=dtype, shape=(1, 4, 2, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        reason = delta.why_not_fla(q)
    assert reason is None if taken else f"got {dtype}" in reason


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_flash_linear_attention_is_the_reference():
    pytest.importorskip("fla")
    inputs = [x.cuda() for x in make(T=200, d=32, dtype=torch.float32)]
    gated_delta_rule(*inputs)  # float32: not by flash-linear-attention, and no error
    inputs[:3] = [x.bfloat16() for x in inputs[:3]]
    wanted = outputs_and_gradients([x.double().cpu() for x in inputs], backend="reference")
    o, state = gated_delta_rule(*inputs, backend="fla")
    torch.testing.assert_close(o.cpu().double(), wanted[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state.cpu().double(), wanted[1], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 0, 3, 4)}, "^q must be"),
        ({"k": torch.zeros(2, 40, 3, 5)}, "^k must be"),
        ({"beta": torch.zeros(2, 40)}, "^beta must be"),
        ({"state": torch.zeros(2, 3, 4, 5)}, "^state must be"),
        ({"chunk": 0}, "^chunk must"),
        ({"backend": "fast"}, "^backend must"),
        ({"log_decay": torch.full((2, 40, 3), 0.1)}, r"^log_decay must lie in .* found 0.1"),
        ({"log_decay": torch.full((2, 40, 3), torch.nan)}, "^log_decay must lie in .* found nan"),
        ({"beta": torch.full((2, 40, 3), 1.5)}, r"^beta must lie in .* found 1.5"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = dict(zip(NAMES, make(dtype=torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        gated_delta_rule(**{**arguments, **change})
