"""The Triton kernels against the oracle and against chunked, gradients included.

Without a GPU they run in Triton's interpreter: `test_in_the_interpreter` runs this file again in a process that has
TRITON_INTERPRET=1 from the start, because that is read when Triton is imported. The interpreter computes in full
float32; what tf32 and bfloat16 products cost in digits shows on a GPU only.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from test_memory import assert_same, make, outputs_and_gradients

from titans_genomics.ops import neural_memory, picked_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'titans-genomics[gpu]'"
)
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")]
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")),
    pytest.param("cuda", marks=on_gpu),
]
TOLERANCE = {"cpu": 2e-5, "cuda": 2e-4}  # float32 against float64, relative to the largest entry


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_in_the_interpreter():
    """All tests below that need no GPU, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "cpu" not in done.stdout.partition("skipped")[2]


def single(inputs, device):
    return [[x.float().to(device) for x in xs] for xs in inputs]


def compare(inputs, device, tolerance=None, **options):
    """fused in float32 against the oracle in float64."""
    wanted = outputs_and_gradients(*inputs, backend="reference", **options)
    found = outputs_and_gradients(*single(inputs, device), backend="fused", **options)
    assert_same([x.double().cpu() for x in found], wanted, tolerance or TOLERANCE[device])


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(("chunk", "T"), [(1, 3), (7, 1), (7, 17), (16, 36), (40, 45), (64, 70), (128, 30)])
def test_fused_is_the_oracle(device, depth, chunk, T):
    """Whole chunks and an open one, chunks of one tile and of several; with a carried-in surprise."""
    compare(make(B=1, T=T, H=2, d=16, depth=depth), device, chunk=chunk)


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("depth", "d", "expansion"), [(1, 32, 1), (2, 32, 2), (2, 12, 3), (2, 16, 4), (1, 20, 1)])
def test_widths(device, depth, d, expansion):
    """Also those that are no power of two, and hidden layers of several blocks."""
    compare(make(B=2, T=20, H=1, d=d, depth=depth, expansion=expansion), device, chunk=16)


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pieces", [[3, 11, 1, 5], [16, 4]])
def test_pieces_are_the_whole(device, pieces):
    """Streams cut within a chunk, gradients through the carried state and its anchor."""
    compare(make(B=1, T=20, H=1, d=16), device, chunk=8, pieces=pieces)


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gate", [3, 4, 5])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gates_at_their_ends(device, gate, value):
    """Exactly 0 or 1, at one token and, where chunks are cut in tiles, at all."""
    for where, chunk, T in ((slice(5, 6), 8, 10), (slice(None), 20, 25)):
        inputs = make(B=1, T=T, H=1, d=16)
        inputs[0][gate][:, where] = value if gate < 5 else 0.05 * value
        compare(inputs, device, chunk=chunk, tolerance=2e-4)


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
def test_recomputation_changes_nothing(device, monkeypatch):
    from titans_genomics.ops import fused_gpu

    inputs = single(make(B=1, T=13, H=1, d=16), device)
    kept = outputs_and_gradients(*inputs, chunk=4, backend="fused")
    monkeypatch.setattr(fused_gpu, "KEEP_BYTES", 0)
    assert_same(outputs_and_gradients(*inputs, chunk=4, backend="fused"), kept, 1e-6)


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("depth", [1, 2])
def test_bfloat16(device, depth):
    """bfloat16 q, k, v: the state stays float32; outputs and gradients as far from float32 as bfloat16 products allow."""
    tokens, weights, surprise = single(make(B=1, T=40, H=2, d=16, depth=depth), device)
    half = [x.bfloat16() for x in tokens[:3]] + tokens[3:]
    y, state = neural_memory(*half, weights, surprise, chunk=16, backend="fused")
    assert y.dtype == torch.bfloat16
    assert {x.dtype for x in (*state.weights, *state.surprise)} == {torch.float32}
    found = outputs_and_gradients(half, weights, surprise, chunk=16, backend="fused")
    rounded = [x.float() for x in half]
    wanted = outputs_and_gradients(rounded, weights, surprise, chunk=16, backend="chunked")
    assert_same([x.float() for x in found], wanted, 2e-2)


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
def test_no_gradient_and_no_write_to_the_given_state(device):
    tokens, weights, surprise = single(make(B=1, T=20, H=1, d=16), device)
    before = [x.clone() for x in (*weights, *surprise)]
    with torch.no_grad():
        y, _ = neural_memory(*tokens, weights, surprise, chunk=8, backend="fused")
        wanted, _ = neural_memory(*tokens, weights, surprise, chunk=8, backend="chunked")
    torch.testing.assert_close(y, wanted, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, *surprise), strict=True))


LIMIT = {80: 163 << 10, 90: 227 << 10}  # bytes of shared memory that a program may have
SPILLED = {"advance": 256, "read": 512, "read_backward": 2560, "advance_backward": 768}  # bytes per thread, at most


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="compiles, which the interpreter does not")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("depth", "d", "bfloat16"),
    [
        (2, 64, True),
        (1, 64, False),
        *(
            pytest.param(depth, d, half, marks=pytest.mark.slow)
            for depth, d, half in [
                (1, 32, True),
                (1, 128, True),
                (1, 128, False),
                (2, 32, True),
                (2, 64, False),
                (2, 128, True),
            ]
        ),
    ],
)
def test_kernels_fit_on_the_chip(depth, d, bfloat16, capability, record_property):
    """Compiled without a GPU, with hidden width 2d; -rP prints shared memory, registers and spilled bytes per thread."""
    from titans_genomics.ops import fused_gpu

    hidden = 2 * d if depth == 2 else d
    shape = fused_gpu.Shape(depth, d, hidden, 64, fused_gpu.plan(depth, d, bfloat16))
    for name, most in SPILLED.items():
        shared, registers, spilled = resources(getattr(fused_gpu, f"{name}_kernel"), shape, bfloat16, capability)
        print(
            f"sm_{capability} L={depth} d={d} {name}: {shared} bytes shared, {registers} registers, {spilled} spilled"
        )
        record_property(name, (shared, registers, spilled))
        assert shared <= LIMIT[capability], name
        assert registers > 32, f"{name}: the register allocation gave up"
        assert spilled <= most, name


def resources(kernel, shape, bfloat16, capability):
    """Bytes of shared memory of a program, registers of a thread, bytes of a thread's spilled registers."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = shape.constants(bfloat16)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    tokens = {f"{name}_ptr" for name in ("q", "k", "v", "y", "dy", "dq", "dv")}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*bf16" if bfloat16 and name in tokens else "*fp32"
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        done = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, spilled = (int(re.search(rf"{what}:(\d+)", done.stdout)[1]) for what in ("REG", "STACK"))
    return compiled.metadata.shared, registers, spilled


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@needs_triton
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("d", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_shapes_on_a_gpu(depth, d, dtype):
    """The shapes that models use, against chunked on the same device."""
    if (depth, d, dtype) == (2, 128, torch.float32):
        pytest.skip("does not fit on the chip")
    tokens, weights, surprise = single(make(B=2, T=300, H=2, d=d, depth=depth), "cuda")
    tokens[:3] = (x.to(dtype) for x in tokens[:3])
    wanted = outputs_and_gradients([x.float() for x in tokens], weights, surprise, chunk=128, backend="chunked")
    found = outputs_and_gradients(tokens, weights, surprise, chunk=128, backend="fused")
    assert_same([x.float() for x in found], wanted, 1e-3 if dtype == torch.float32 else 3e-2)
    assert picked_backend(tokens[0], weights) == "fused"


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "1 or 2 memory layers, got 3"),
        ({"d": 160, "depth": 1}, "head width of 160 does not fit"),
        ({"d": 128}, "2 layers of head width 128 with float32 products do not fit"),
        ({"dtype": torch.float64}, "float32, got float64"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(device, change, message):
    inputs = make(**{"B": 1, "T": 2, "H": 1, "dtype": torch.float32, **change})
    tokens, weights, surprise = ([x.to(device) for x in xs] for xs in inputs)
    with pytest.raises(ValueError, match=f"^backend must not be 'fused' here: .*{message}"):
        neural_memory(*tokens, weights, surprise, backend="fused")
    assert picked_backend(tokens[0], weights) == "chunked"
