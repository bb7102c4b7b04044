"""neural_memory: the chunked dual form against the oracle, gradients included; pieces; extremes; bad input."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from titans_genomics.ops import causal_convolution, chunked, neural_memory


def make(B=2, T=40, H=3, d=4, depth=2, expansion=2, dtype=torch.float64, seed=0):
    """Random inputs in the order of neural_memory: six tensors of tokens, weights, surprise."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    def uniform(top):
        return torch.rand(B, T, H, generator=g, dtype=dtype) * top

    q, k = (F.normalize(normal(B, T, H, d), dim=-1) for _ in range(2))
    tokens = [q, k, normal(B, T, H, d), uniform(0.3), uniform(1.0), uniform(0.05)]
    widths = [d, *[expansion * d] * (depth - 1), d]
    weights = [normal(B, H, o, i) / i**0.5 for i, o in pairwise(widths)]
    return tokens, weights, [0.1 * normal(*w.shape) for w in weights]


def outputs_and_gradients(tokens, weights, surprise, pieces=None, **options):
    """y, the end state and the gradients of a loss that weighs every output differently."""
    tokens, weights, surprise = ([x.clone().requires_grad_() for x in xs] for xs in (tokens, weights, surprise))
    ys, state = [], None
    for part in zip(*(x.split(pieces or [x.shape[1]], dim=1) for x in tokens), strict=True):
        if state is None:
            y, state = neural_memory(*part, weights, surprise, **options)
        else:
            y, state = neural_memory(
                *part, state.weights, state.surprise, anchor=state.anchor, offset=state.offset, **options
            )
        ys.append(y)
    y = torch.cat(ys, dim=1)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
    loss = loss + sum((w**2).sum() for w in state.weights) + sum((s**3).sum() for s in state.surprise)
    gradients = torch.autograd.grad(loss, [*tokens, *weights, *surprise])
    return [y.detach(), *(x.detach() for x in (*state.weights, *state.surprise, *state.anchor)), *gradients]


def assert_same(found, wanted, tolerance):
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert torch.isfinite(a).all(), index
        error = (a - b).abs().max() / (1 + b.abs().max())
        assert error < tolerance, (index, error)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("chunk", "T"), [(1, 1), (7, 1), (64, 1), (128, 1), (1, 70), (7, 70), (64, 70), (128, 70), (64, 150), (128, 150)]
)
def test_chunked_is_the_oracle(depth, chunk, T):
    inputs = make(T=T, depth=depth, B=1 if T == 150 else 2)
    wanted = outputs_and_gradients(*inputs, chunk=chunk, backend="reference")
    assert_same(outputs_and_gradients(*inputs, chunk=chunk, backend="chunked"), wanted, 1e-11)


@pytest.mark.parametrize("depth", [1, 2])
def test_float32_is_close_to_the_oracle(depth):
    tokens, weights, surprise = make(T=130, d=16, depth=depth)
    single = [[x.float() for x in xs] for xs in (tokens, weights, surprise)]
    wanted = outputs_and_gradients(tokens, weights, surprise, chunk=64, backend="reference")
    found = outputs_and_gradients(*single, chunk=64)
    assert_same([x.double() for x in found], wanted, 2e-4)


@pytest.mark.parametrize("pieces", [[1] * 40, [3, 4, 11, 22], [39, 1], [7, 7, 26]])
def test_pieces_are_the_whole(pieces):
    """Outputs, end state and gradients, also when a chunk is cut."""
    inputs = make()
    for backend in ("reference", "chunked"):
        whole = outputs_and_gradients(*inputs, chunk=7, backend=backend)
        assert_same(outputs_and_gradients(*inputs, pieces=pieces, chunk=7, backend=backend), whole, 1e-11)


def test_recomputation_changes_nothing(monkeypatch):
    inputs = make(T=45)
    kept = outputs_and_gradients(*inputs, chunk=4)
    for budget in (0, 40_000):
        monkeypatch.setattr(chunked, "KEEP_BYTES", budget)
        assert_same(outputs_and_gradients(*inputs, chunk=4), kept, 1e-12)


def test_gradcheck():
    tokens, weights, surprise = make(B=1, T=5, H=1, d=2, depth=2)
    flat = [x.requires_grad_() for x in (*tokens, *weights, *surprise)]

    def run(*x):
        y, state = neural_memory(*x[:6], list(x[6:8]), list(x[8:]), chunk=2, backend="chunked")
        return y, *state.weights, *state.surprise

    assert torch.autograd.gradcheck(run, flat)
    x = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(causal_convolution, (x, w))
    torch.testing.assert_close(causal_convolution(x, w), F.silu(F.conv1d(x.mT, w[:, None], groups=3)).mT)


@pytest.mark.parametrize("gate", ["alpha", "eta"])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("where", ["one", "all"])
def test_gates_at_their_ends(gate, value, where):
    """Exactly 0 or 1, at one token or at all: finite, and the oracle's values and gradients."""
    tokens, weights, surprise = make(T=30)
    index = 3 if gate == "alpha" else 4
    tokens[index][:, 5 if where == "one" else slice(None)] = value
    wanted = outputs_and_gradients(tokens, weights, surprise, chunk=8, backend="reference")
    assert_same(outputs_and_gradients(tokens, weights, surprise, chunk=8), wanted, 1e-10)
    single = [[x.float() for x in xs] for xs in (tokens, weights, surprise)]
    assert_same([x.double() for x in outputs_and_gradients(*single, chunk=8)], wanted, 2e-4)


def test_long_chunks_with_strong_decay_have_no_nan():
    tokens, weights, surprise = make(T=1024, H=1, d=8, dtype=torch.float32)
    tokens[3].fill_(0.9)
    tokens[4].fill_(1e-6)
    for x in outputs_and_gradients(tokens, weights, surprise, chunk=512):
        assert torch.isfinite(x).all()


def test_bfloat16_input_keeps_a_float32_state():
    tokens, weights, surprise = make(dtype=torch.float32)
    half = [x.bfloat16() for x in tokens]
    y, state = neural_memory(*half, weights, surprise, chunk=8)
    assert y.dtype == torch.bfloat16
    assert {x.dtype for x in (*state.weights, *state.surprise)} == {torch.float32}
    wanted, _ = neural_memory(*(x.float() for x in half), weights, surprise, chunk=8)
    torch.testing.assert_close(y, wanted.bfloat16())


def test_causal_and_batch_independent():
    tokens, weights, surprise = make(T=30)
    y, _ = neural_memory(*tokens, weights, surprise, chunk=8)
    for t in (0, 7, 8, 20):
        changed = [x.clone() for x in tokens]
        for x in changed:
            x[0, t] = x[0, t] * 0.5
        z, _ = neural_memory(*changed, weights, surprise, chunk=8)
        assert torch.equal(z[:, :t], y[:, :t])
        assert not torch.equal(z[0, t], y[0, t])
        assert torch.equal(z[1], y[1])


@pytest.mark.parametrize("chunk", [1, 16, 128, 1024])
def test_one_repeated_key_converges(chunk):
    """10,000 times the same key and value at the largest step that the layer allows, with any momentum."""
    from titans_genomics.models.memory import safe_theta_max

    g = torch.Generator().manual_seed(3)
    T, d = 10_000, 16
    key = F.normalize(torch.randn(1, 1, 1, d, generator=g), dim=-1).expand(1, T, 1, d)
    value = torch.randn(1, 1, 1, d, generator=g).expand(1, T, 1, d)
    weights = [torch.randn(1, 1, 32, d, generator=g) / 4, torch.randn(1, 1, d, 32, generator=g) / 32**0.5]
    ones = torch.ones(1, T, 1)
    for eta in (0.0, 0.5, 0.9):
        y, _ = neural_memory(
            key, key, value, 0 * ones, eta * ones, safe_theta_max(chunk) * (1 - eta) * ones, weights, chunk=chunk
        )
        first, last = ((y[:, t] - value[:, t]).norm() for t in (0, -1))
        assert last < 0.05 * first, (eta, first, last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 40, 3, 5)}, "^k must be"),
        ({"alpha": torch.zeros(2, 40)}, "^alpha must be"),
        ({"q": torch.zeros(2, 0, 3, 4)}, "^q must be"),
        ({"weights": []}, "^weights must"),
        ({"weights": [torch.zeros(2, 3, 4, 5)]}, r"^weights\[0\] must be"),
        ({"weights": [torch.zeros(2, 3, 5, 4)]}, r"^weights\[-1\] must"),
        ({"surprise": [torch.zeros(2, 3, 4, 4)]}, "^surprise must"),
        ({"chunk": 0}, "^chunk must"),
        ({"backend": "fast"}, "^backend must"),
        ({"offset": 3}, "^offset must"),
        ({"alpha": torch.full((2, 40, 3), 1.01)}, r"^alpha must .* found 1.01"),
        ({"eta": torch.full((2, 40, 3), -0.1)}, r"^eta must .* found -0.1"),
        ({"theta": torch.full((2, 40, 3), torch.nan)}, r"^theta must .* found nan"),
        ({"theta": torch.full((2, 40, 3), torch.inf)}, r"^theta must be finite"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    tokens, weights, surprise = make(dtype=torch.float32)
    arguments = dict(zip(["q", "k", "v", "alpha", "eta", "theta"], tokens, strict=True))
    with pytest.raises(ValueError, match=message):
        neural_memory(**{**arguments, "weights": weights, "surprise": surprise, **change})
