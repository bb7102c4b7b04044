"""The CPU kernels against the oracle in float64, gradients included: memory, heads, one token, products."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_memory import assert_same, make, outputs_and_gradients
from torch.nn import functional as F

from titans_genomics.models import NeuralMemory, TitansConfig
from titans_genomics.models.pieces import in_pieces
from titans_genomics.ops import fused_cpu, neural_memory, picked_backend, threads, tiles
from titans_genomics.ops.heads import convolved_heads, gated_norm, rms_norm
from titans_genomics.ops.linear import linear, prefer_onednn


def single(inputs):
    return [[x.float() for x in xs] for xs in inputs]


def compare(inputs, tolerance=2e-5, **options):
    """fused in float32 against the oracle in float64."""
    wanted = outputs_and_gradients(*inputs, backend="reference", **options)
    found = outputs_and_gradients(*single(inputs), backend="fused", **options)
    assert_same([x.double() for x in found], wanted, tolerance)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("chunk", "T"), [(1, 1), (1, 20), (7, 1), (7, 50), (16, 48), (64, 70), (64, 150), (128, 30), (128, 150), (3, 70)]
)
def test_fused_is_the_oracle(depth, chunk, T):
    """Whole chunks and an open one, more chunks than are kept between borders; with a carried-in surprise."""
    compare(make(B=1, T=T, H=2, d=6, depth=depth), chunk=chunk)


@pytest.mark.parametrize(("d", "expansion"), [(16, 1), (20, 2), (32, 3), (64, 2), (5, 7)])
def test_widths(d, expansion):
    """Also those that are no multiple of a vector."""
    compare(make(B=2, T=40, H=1, d=d, depth=2, expansion=expansion), chunk=16)


@pytest.mark.parametrize("pieces", [[1] * 40, [3, 4, 11, 22], [39, 1], [7, 7, 26], [2, 2, 36]])
def test_pieces_are_the_whole(pieces):
    """Streams cut within a chunk, gradients through the carried state and its anchor."""
    compare(make(H=2), chunk=7, pieces=pieces)


@pytest.mark.parametrize("gate", ["alpha", "eta", "theta"])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("where", ["one", "all"])
def test_gates_at_their_ends(gate, value, where):
    inputs = make(T=30)
    index = ["alpha", "eta", "theta"].index(gate)
    inputs[0][3 + index][:, 5 if where == "one" else slice(None)] = value if index < 2 else 0.05 * value
    compare(inputs, chunk=8, tolerance=2e-4)


def test_long_chunks_with_strong_decay_have_no_nan():
    tokens, weights, surprise = make(T=1024, H=1, d=8, dtype=torch.float32)
    tokens[3].fill_(0.9)
    tokens[4].fill_(1e-6)
    for x in outputs_and_gradients(tokens, weights, surprise, chunk=512, backend="fused"):
        assert torch.isfinite(x).all()


def test_fewer_borders_change_nothing(monkeypatch):
    inputs = single(make(T=45))
    kept = outputs_and_gradients(*inputs, chunk=2, backend="fused")
    for fewest, budget in ((1, 1 << 30), (5, 1 << 30), (1, 0)):
        monkeypatch.setattr(fused_cpu, "FEWEST", fewest)
        monkeypatch.setattr(fused_cpu, "KEEP_BYTES", max(budget, 1))
        assert_same(outputs_and_gradients(*inputs, chunk=2, backend="fused"), kept, 1e-6)


def test_threads_change_nothing(monkeypatch):
    """One thread, PyTorch's threads and threads of our own give the same digits."""
    inputs = single(make(T=45))
    before = torch.get_num_threads()
    results = []
    try:
        for count, ours in ((1, False), (3, False), (3, True)):
            torch.set_num_threads(count)
            if ours:
                monkeypatch.setattr(threads, "openmp", lambda: None)
            results.append(outputs_and_gradients(*inputs, chunk=8, backend="fused"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_error_in_a_thread_is_raised():
    def run(jobs):
        for job in jobs:
            if job == 3:
                raise ValueError("job 3")

    with pytest.raises(ValueError, match="job 3"):
        threads.share_out(6, run)


def test_causal_and_batch_independent():
    tokens, weights, surprise = single(make(T=30))
    y, _ = neural_memory(*tokens, weights, surprise, chunk=8, backend="fused")
    for t in (0, 7, 8, 20):
        changed = [x.clone() for x in tokens]
        for x in changed:
            x[0, t] = x[0, t] * 0.5
        z, _ = neural_memory(*changed, weights, surprise, chunk=8, backend="fused")
        assert torch.equal(z[:, :t], y[:, :t])
        assert not torch.equal(z[0, t], y[0, t])
        assert torch.equal(z[1], y[1])


def test_nan_stays_in_its_own_memory():
    """And is seen: work that threads reuse carries none of it to the next call."""
    tokens, weights, surprise = single(make(T=30))
    clean, _ = neural_memory(*tokens, weights, surprise, chunk=8, backend="fused")
    broken = [x.clone() for x in tokens]
    broken[1][0, 10, 1] = torch.nan
    y, state = neural_memory(*broken, weights, surprise, chunk=8, backend="fused", check=False)
    assert y[0, 10:, 1].isnan().all()
    assert state.weights[0][0, 1].isnan().any()
    assert torch.equal(y[1], clean[1])
    again, _ = neural_memory(*tokens, weights, surprise, chunk=8, backend="fused")
    assert torch.equal(again, clean)


@pytest.mark.parametrize("gate", [3, 4, 5])
def test_a_nan_gate_is_not_swallowed(gate):
    tokens, weights, surprise = single(make(T=30))
    tokens[gate][0, 10, 1] = torch.nan
    y, state = neural_memory(*tokens, weights, surprise, chunk=8, backend="fused", check=False)
    assert y[0, 11:, 1].isnan().all()
    assert state.weights[0][0, 1].isnan().any()
    assert not y[:, :, 0].isnan().any()


def test_gradients_of_some_inputs_and_views():
    """Of the weights alone; and of inputs that are views of something else."""
    tokens, weights, surprise = single(make(T=20))
    leaf = weights[0].clone().requires_grad_()
    y, _ = neural_memory(*tokens, [leaf, weights[1]], surprise, chunk=8, backend="fused")
    z, _ = neural_memory(*tokens, [leaf, weights[1]], surprise, chunk=8, backend="chunked")
    c = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert_same(torch.autograd.grad(y, leaf, c), torch.autograd.grad(z, leaf, c), 1e-5)
    views = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in tokens]
    again, state = neural_memory(*views, weights, [x.mT.contiguous().mT for x in surprise], chunk=8, backend="fused")
    torch.testing.assert_close(again, y.detach())
    state.weights[0][0].zero_()  # what comes back is the caller's


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype):
    tokens, weights, surprise = single(make(T=20))
    half = [x.to(dtype) for x in tokens]
    y, state = neural_memory(*half, weights, surprise, chunk=8, backend="fused")
    wanted, _ = neural_memory(*(x.float() for x in half), weights, surprise, chunk=8, backend="chunked")
    assert y.dtype == dtype
    assert state.weights[0].dtype == torch.float32
    torch.testing.assert_close(y, wanted.to(dtype), rtol=1e-2, atol=1e-3)


def test_what_is_picked_and_what_is_not_taken():
    tokens, weights, surprise = make(T=5)
    with pytest.raises(ValueError, match=r"^backend must not be 'fused' here: .*float32, got float64"):
        neural_memory(*tokens, weights, surprise, backend="fused")
    assert picked_backend(tokens[0], weights) == "chunked"
    tokens, weights, surprise = single(make(T=5))
    assert picked_backend(tokens[0], weights) == "fused"
    assert picked_backend(tokens[0][:, :1], weights, learning=False) == "decode"
    before = [x.clone() for x in (*weights, *surprise)]
    neural_memory(*tokens, weights, surprise, chunk=2)
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, *surprise), strict=True))


@pytest.mark.parametrize("taps", [1, 2, 4, 8])
def test_heads(taps):
    """Convolution, norms and gated norm against the same lines in PyTorch and float64; several jobs of tokens."""

    def run(dtype):
        g = torch.Generator().manual_seed(1)
        normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()  # noqa: E731
        x, taps_of, y, gate, weight = normal(2, 299 + taps, 72), normal(72, taps), normal(2, 300, 2, 12), normal(2, 300, 24), normal(2, 12)  # fmt: skip
        outputs = [
            *convolved_heads(x, taps_of, 2, ("one", "at most one", "any")),
            gated_norm(y, gate, weight),
            rms_norm(gate, weight.flatten()),
        ]
        loss = sum((o * torch.linspace(-1, 1, o.numel(), dtype=torch.float64).view_as(o).to(dtype)).sum() for o in outputs)  # fmt: skip
        return [*outputs, *torch.autograd.grad(loss, [x, taps_of, y, gate, weight])]

    assert_same([x.double() for x in run(torch.float32)], run(torch.float64), 2e-5)


def test_heads_of_zero_length_are_finite():
    x = torch.zeros(1, 9, 24, requires_grad=True)
    outputs = convolved_heads(x, torch.ones(24, 4), 2, ("one", "at most one", "any"))
    sum(o.sum() for o in outputs).backward()
    assert all(torch.isfinite(o).all() for o in (*outputs, x.grad))


@pytest.mark.parametrize(
    "changes",
    [{}, {"conv": 0}, {"momentum": False}, {"forgetting": False}, {"bound_values": False, "memory_layers": 1}],
)
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_one_token_at_a_time_is_the_whole(changes, batch):
    """Through the whole layer, output and state, across chunk borders; also after the weights have changed."""
    torch.manual_seed(0)
    settings = {"d_model": 24, "n_heads": 2, "chunk": 8, "conv": 3, "memory_expansion": 1.5, **changes}
    layer = NeuralMemory(TitansConfig(**settings)).eval()
    x = torch.randn(batch, 30, 24)
    for _ in range(2):
        with torch.no_grad():
            whole, end = layer(x, layer.begin(batch))
            state, ys = layer.begin(batch), []
            for token in x.split(1, dim=1):
                y, state = layer(token, state)
                ys.append(y)
            torch.testing.assert_close(torch.cat(ys, dim=1), whole, rtol=1e-4, atol=1e-5)
            for a, b in zip((*state.memory.weights, *state.memory.surprise, *state.memory.anchor, state.tail), (*end.memory.weights, *end.memory.surprise, *end.memory.anchor, end.tail), strict=True):  # fmt: skip
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert state.memory.offset == end.memory.offset
            for parameter in layer.parameters():
                parameter.mul_(1.1)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.to_output.weight.zero_()
        assert twin(x[:, :1], twin.begin(batch))[0].abs().max() == 0
        assert layer(x[:, :1], layer.begin(batch))[0].abs().max() > 0


def test_one_token_writes_to_nothing_given():
    layer = NeuralMemory(TitansConfig(d_model=16, n_heads=2)).eval()
    with torch.inference_mode():
        _, state = layer(torch.randn(1, 5, 16), layer.begin(1))
        kept = copy.deepcopy(state)
        y, _ = layer(torch.ones(1, 1, 16), state)
        again, _ = layer(torch.ones(1, 1, 16), state)
        assert torch.equal(y, again)
        assert all(torch.equal(a, b) for a, b in zip(state.memory.weights, kept.memory.weights, strict=True))


def test_the_state_of_another_layer_is_refused():
    layer = NeuralMemory(TitansConfig(d_model=16, n_heads=2, chunk=8)).eval()
    for changes in ({"memory_expansion": 1.0}, {"n_heads": 4}, {"conv": 2}, {"memory_layers": 1}):
        other = NeuralMemory(TitansConfig(**{"d_model": 16, "n_heads": 2, "chunk": 8, **changes}))
        with torch.no_grad(), pytest.raises(ValueError, match="another model's"):
            layer(torch.ones(1, 1, 16), other.begin(1))
    state = layer.begin(1)
    state = state._replace(memory=state.memory._replace(offset=9))
    with torch.no_grad(), pytest.raises(ValueError, match="chunk of 8"):
        layer(torch.ones(1, 1, 16), state)


def test_threads_may_decode_with_one_layer():
    torch.manual_seed(0)
    layer = NeuralMemory(TitansConfig(d_model=16, n_heads=2, chunk=8)).eval()
    inputs = torch.randn(4, 200, 16)

    @torch.no_grad()
    def read(x):
        state, ys = layer.begin(1), []
        for token in x[None].split(1, dim=1):
            y, state = layer(token, state)
            ys.append(y)
        return torch.cat(ys, dim=1)

    alone = [read(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(read, inputs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_one_token_after_a_prefill_in_bfloat16_and_through_adapters():
    layer = NeuralMemory(TitansConfig(d_model=16, n_heads=2, chunk=8)).eval()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            _, state = layer(torch.randn(1, 5, 16), layer.begin(1))
        y, _ = layer(torch.randn(1, 1, 16), state)
        assert y.isfinite().all()
        pickle.loads(pickle.dumps(layer))
        calls = []
        layer.to_qkv.register_forward_hook(lambda *_: calls.append(1))
        layer(torch.randn(1, 1, 16), state)
        assert calls == [1]


def test_recomputed_pieces_are_the_whole(monkeypatch):
    """A layer in pieces whose activations are computed again in the backward pass, as long inputs are read."""
    from titans_genomics.models import pieces

    torch.manual_seed(0)
    layer = NeuralMemory(TitansConfig(d_model=16, n_heads=2, chunk=8))
    x = torch.randn(2, 50, 16)

    def run():
        leaf = x.clone().requires_grad_()
        y, state = in_pieces(layer.read_and_write, leaf, layer.begin(2))
        loss = y.square().sum() + sum(w.square().sum() for w in state.memory.weights)
        return [y.detach(), *torch.autograd.grad(loss, [leaf, *layer.parameters()])]

    whole = run()
    monkeypatch.setattr(pieces, "LONG", 10)
    monkeypatch.setattr(pieces, "PIECE", 13)
    assert_same(run(), whole, 1e-5)


@pytest.mark.parametrize("shape", [(64, 64, 128), (16, 16, 16), (192, 64, 48), (64, 320, 64)])
def test_products(shape):
    rng = np.random.default_rng(0)
    M, K, N = shape
    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((M, K), (K, N), (M, N)))
    for left in (a, np.ascontiguousarray(a.T).T):
        for add in (False, True):
            found = c.copy()
            tiles.multiply(found, left, b, add)
            np.testing.assert_allclose(found, a @ b + add * c, rtol=0, atol=1e-3)
    turned = np.empty((K, M), np.float32)
    tiles.transpose(turned, a)
    np.testing.assert_array_equal(turned, a.T)


def test_triangular_products():
    rng = np.random.default_rng(0)
    square, wide, b = (rng.standard_normal(s).astype(np.float32) for s in ((64, 64), (64, 32), (64, 48)))
    lower = np.tril(square)
    found = np.zeros((64, 48), np.float32)
    tiles.multiply_lower(found, lower, b, False)
    tiles.multiply_upper(found, lower.T, b, True)
    np.testing.assert_allclose(found, lower @ b + lower.T @ b, rtol=0, atol=1e-4)
    found = np.zeros((64, 64), np.float32)
    tiles.multiply_into_lower(found, wide, np.ascontiguousarray(wide.T))
    np.testing.assert_allclose(np.tril(found), np.tril(wide @ wide.T), rtol=0, atol=1e-4)


@pytest.mark.skipif("OTHER_VECTORS" in os.environ, reason="this is the process that it starts")
@pytest.mark.parametrize(("wide", "tests"), [("", "test_products or triangular or 16-48-1"), ("avx2", "test_products or triangular")])  # fmt: skip
def test_other_vectors(wide, tests, tmp_path):
    """What processors with narrower vectors run, in a process that believes to have them."""
    code = (
        "import llvmlite.binding as b, pytest; real = b.get_host_cpu_features(); fake = type(real)(real); "
        f"fake.update({{name: name == {wide!r} for name in ('avx2', 'avx512f')}}); b.get_host_cpu_features = lambda: fake; "
        f"raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', {tests!r}, {__file__!r}]))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OTHER_VECTORS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_exponential():
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    found = np.array([tiles.exponential(value) for value in x[::50]])
    np.testing.assert_allclose(found, np.exp(x[::50].astype(np.float64)), rtol=3e-7)
    assert tiles.sigmoid(np.float32(-1e30)) < 1e-37
    assert tiles.sigmoid(np.float32(1e30)) == 1


def test_linear_keeps_every_digit():
    """Large enough for oneDNN where that is preferred: float32, forward and backward."""
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 400, 128, generator=g, requires_grad=True), torch.randn(96, 128, generator=g, requires_grad=True)  # fmt: skip
    y = linear(x, weight)
    c = torch.randn(y.shape, generator=g)
    wanted = F.linear(x.double(), weight.double())
    found = [y, *torch.autograd.grad(y, [x, weight], c)]
    assert_same([t.double() for t in found], [wanted, *torch.autograd.grad(wanted, [x, weight], c.double())], 2e-6)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"
    assert ("OneDNN" in y.grad_fn.next_functions[0][0].name()) == prefer_onednn()


def test_pairwise_widths_of_work():
    """Work is sized by the padded widths of all layers."""
    work = fused_cpu.make_work((5, 35, 5), 7, 2, True)
    assert [x.shape for x in work.iR] == [(3, 2 * m + 16, n) for m, n in pairwise((16, 48, 16))]
