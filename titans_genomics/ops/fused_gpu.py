"""The dual form on NVIDIA GPUs, in Triton kernels, forward and backward (L = 1 and 2).

Tokens are worked on in tiles: a tile is a chunk or, for chunks longer than `Plan.tile`, a part of it whose inner
gradients are still taken at the weights of the chunk's start. Nothing on the chip grows with the chunk or the hidden
width, which is walked through in blocks. Four kernels:

* `advance_kernel` carries W and S from tile to tile, the only sequential part: one program per memory
* `read_kernel` lets all queries of a tile read, for all tiles of all memories at once
* `read_backward_kernel` is the derivative of the reads, again for all tiles at once
* `advance_backward_kernel` carries the gradients of W and S from the last tile to the first

W and S at the start of every tile stay in device memory while they are needed (what a program comes back to within a
tile is in the cache): for the backward pass those of all tiles when they fit in KEEP_BYTES, else those at every K-th
chunk, the rest being computed again.

Matrix products take bfloat16 operands when q or v is bfloat16, else tf32 (three products that together keep float32's
digits, unless `torch.set_float32_matmul_precision` allows less); they always add up in float32, and the state is
float32. The formulas are those of `chunked.py`, per layer. Products of gates come from `tile_decays`.

Triton comes with CUDA builds of PyTorch. Without a GPU, TRITON_INTERPRET=1 (set before the first import) runs the
kernels in Triton's interpreter, which is how they are tested.

Letters: G memories (batch x heads), s tokens of a tile, d head width, m hidden width (d for L = 1); W1 (m, d) and,
for L = 2, W2 (d, m). Packed state: (G, 2 L, m d) with W1, W2, S1, S2, each flattened. K, Q inputs of a layer for the keys
and the queries, D its errors, Z its result for the queries.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from titans_genomics.ops.chunked import DecayProducts, chunked_memory

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(
        "backend 'fused' needs Triton on GPUs, which comes with CUDA builds of PyTorch: pip install 'titans-genomics[gpu]'"
    ) from error

KEEP_BYTES = 2 << 30  # of tile states that one call may keep for its backward pass before it recomputes


class Plan(NamedTuple):
    """How a memory runs: most tokens of a tile, most hidden units worked on at once, warps of a program."""

    tile: int
    block: int
    warps: int


def plan(depth: int, d: int, bfloat16: bool) -> Plan | None:
    """The plan for a memory, or None where the kernels do not take it. Its hidden width does not matter.

    Chosen by compiling for sm_80 and sm_90, not by timing: the recurrence (`advance_kernel`) keeps everything in
    registers up to d = 64, the others spill some; tests/ops/test_fused_gpu.py holds them to that and prints what each takes.

    Parameters
    ----------
    depth : layers of the memory
    d : head width
    bfloat16 : whether products take bfloat16 operands
    """
    d = padded(d)
    if depth not in (1, 2) or d > 128:
        return None
    if bfloat16:
        return Plan(tile=32 if d < 128 else 16, block=32, warps=8)
    if d == 128 and depth == 2 and exact():
        return None  # three products for one need more registers than there are
    return Plan(tile=16, block=16, warps=4 if depth * d < 128 else 8)


def exact() -> bool:
    """Whether float32 products keep float32's digits."""
    return torch.get_float32_matmul_precision() == "highest"


def padded(width: int) -> int:
    """The next power of two, at least 16: what tensor cores take."""
    return max(16, triton.next_power_of_2(width))


# ------------------------------------------------------------------------------------------------------- device code


@triton.jit
def dot(a, b, ROUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """a @ b, operands rounded to ROUND and multiplied as DOT, float32 sum."""
    return tl.dot(a.to(ROUND).to(DOT), b.to(ROUND).to(DOT), input_precision=PRECISION)


@triton.jit
def dot_add(total, a, b, ROUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """total + a @ b."""
    return tl.dot(a.to(ROUND).to(DOT), b.to(ROUND).to(DOT), acc=total, input_precision=PRECISION)


@triton.jit
def silu_backward(gradient, z):
    """gradient * silu'(z)."""
    g = tl.sigmoid(z)
    return gradient * g * (1 + z * (1 - g))


@triton.jit
def silu_second(z):
    """silu''(z)."""
    g = tl.sigmoid(z)
    return g * (1 - g) * (2 + z * (1 - 2 * g))


@triton.jit
def load(ptr, row, column, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):
    """The block (ROWS, COLUMNS) at (row, column) of a (rows, columns) matrix, float32, zeros outside; WHOLE: all inside."""
    i, j = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    at = ptr + i * stride + j
    x = tl.load(at) if WHOLE else tl.load(at, (i < rows) & (j < columns), 0.0)  # masks would take registers
    return x.to(tl.float32)


@triton.jit
def store(ptr, x, row, column, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):
    """The reverse of `load`."""
    i, j = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    at = ptr + i * stride + j
    if WHOLE:
        tl.store(at, x.to(ptr.dtype.element_ty))
    else:
        tl.store(at, x.to(ptr.dtype.element_ty), (i < rows) & (j < columns))


@triton.jit
def tile_of(i, g, chunk, T, H, D: tl.constexpr, PER_CHUNK: tl.constexpr, TILE: tl.constexpr, FULL: tl.constexpr):
    """Offset of the first token of tile i of memory g in (B, T, H, d), and how many tokens it has."""
    part = i % PER_CHUNK
    left = TILE if FULL else tl.minimum(chunk - part * TILE, TILE)
    token = (i // PER_CHUNK) * chunk + part * TILE
    return ((g // H * T + token) * H + g % H) * D, left


@triton.jit
def advance_kernel(
    k_ptr, v_ptr,  # (B, T, H, d)
    error_ptr,  # (B, T, H, d) float32, written for L = 2: the last layer's errors
    A_ptr, B_ptr, C_ptr, r_ptr, p_ptr,  # (tiles, G, ...)
    trail_ptr,  # (count + 1, G, 2 L, size): the state before each tile; the first is given, the others are written
    first, count, chunk, T, H,
    DEPTH: tl.constexpr, D: tl.constexpr, D_: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, PER_CHUNK: tl.constexpr, FULL: tl.constexpr,
    ROUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W' = a W + b S - D^T (c K), S' = p S - D^T (r K), tile after tile; one program per memory."""
    g, G = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    size: tl.constexpr = D * M
    token_whole: tl.constexpr = FULL and D == D_
    whole: tl.constexpr = M % BLOCK == 0 and D == D_
    s = tl.arange(0, TILE)
    slots = G * 2 * DEPTH * size
    for i in range(first, first + count):
        slot = trail_ptr + (i - first) * slots + g * 2 * DEPTH * size
        at_slot = slot - i % PER_CHUNK * slots  # the start of the chunk, where gradients are taken
        token, left = tile_of(i, g, chunk, T, H, D, PER_CHUNK, TILE, FULL)
        K = load(k_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
        gate = (i * G + g) * TILE
        c = tl.load(C_ptr + (gate + left - 1) * TILE + s)[:, None]
        r = tl.load(r_ptr + gate + s)[:, None]
        a, b, p = tl.load(A_ptr + gate + left - 1), tl.load(B_ptr + gate + left - 1), tl.load(p_ptr + i * G + g)

        if DEPTH == 2:
            D2 = tl.zeros([TILE, D_], tl.float32)
            for j in range(0, M, BLOCK):
                z1 = dot(K, tl.trans(load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)), ROUND, DOT, PRECISION)
                at_W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
                D2 = dot_add(D2, z1 * tl.sigmoid(z1), tl.trans(at_W2), ROUND, DOT, PRECISION)
            D2 = 2 * (D2 - load(v_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole))
            store(error_ptr + token, D2, 0, 0, left, D, H * D, TILE, D_, token_whole)

        for j in range(0, M, BLOCK):
            W1 = load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)
            z1 = dot(K, tl.trans(W1), ROUND, DOT, PRECISION)
            if DEPTH == 2:
                W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
                D1 = silu_backward(dot(D2, W2, ROUND, DOT, PRECISION), z1)
            else:
                D1 = 2 * (z1 - load(v_ptr + token, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole))
            if PER_CHUNK > 1:
                W1 = load(slot, j, 0, M, D, D, BLOCK, D_, whole)
            S1 = load(slot + DEPTH * size, j, 0, M, D, D, BLOCK, D_, whole)
            D1 = tl.trans(-D1)
            W1 = dot_add(a * W1 + b * S1, D1, K * c, ROUND, DOT, PRECISION)
            S1 = dot_add(p * S1, D1, K * r, ROUND, DOT, PRECISION)
            store(slot + slots, W1, j, 0, M, D, D, BLOCK, D_, whole)
            store(slot + slots + DEPTH * size, S1, j, 0, M, D, D, BLOCK, D_, whole)
            if DEPTH == 2:
                if PER_CHUNK > 1:
                    W2 = load(slot + size, 0, j, D, M, M, D_, BLOCK, whole)
                S2 = load(slot + 3 * size, 0, j, D, M, M, D_, BLOCK, whole)
                K1 = z1 * tl.sigmoid(z1)
                W2 = dot_add(a * W2 + b * S2, tl.trans(-D2), K1 * c, ROUND, DOT, PRECISION)
                S2 = dot_add(p * S2, tl.trans(-D2), K1 * r, ROUND, DOT, PRECISION)
                store(slot + slots + size, W2, 0, j, D, M, M, D_, BLOCK, whole)
                store(slot + slots + 3 * size, S2, 0, j, D, M, M, D_, BLOCK, whole)
        tl.debug_barrier()  # the next tile reads what other threads of this program have written


@triton.jit
def read_kernel(
    q_ptr, k_ptr, v_ptr, y_ptr,  # (B, T, H, d)
    error_ptr, A_ptr, B_ptr, C_ptr, trail_ptr,  # as in advance_kernel
    first, chunk, T, H,
    DEPTH: tl.constexpr, D: tl.constexpr, D_: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, PER_CHUNK: tl.constexpr, FULL: tl.constexpr,
    ROUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Z = A (Q W^T) + B (Q S^T) - ((Q K^T) * C) D per layer; one program per tile and memory."""
    i, g, G = first + tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    size: tl.constexpr = D * M
    token_whole: tl.constexpr = FULL and D == D_
    whole: tl.constexpr = M % BLOCK == 0 and D == D_
    s = tl.arange(0, TILE)
    slots = G * 2 * DEPTH * size
    slot = trail_ptr + (i - first) * slots + g * 2 * DEPTH * size
    at_slot = slot - i % PER_CHUNK * slots
    token, left = tile_of(i, g, chunk, T, H, D, PER_CHUNK, TILE, FULL)
    K = load(k_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
    Q = load(q_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
    gate = (i * G + g) * TILE
    A, B = tl.load(A_ptr + gate + s)[:, None], tl.load(B_ptr + gate + s)[:, None]
    C = tl.load(C_ptr + gate * TILE + s[:, None] * TILE + s[None, :])
    attention1 = -dot(Q, tl.trans(K), ROUND, DOT, PRECISION) * C
    if DEPTH == 2:
        D2 = load(error_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
        attention2 = tl.zeros([TILE, TILE], tl.float32)
        y = tl.zeros([TILE, D_], tl.float32)
    for j in range(0, M, BLOCK):
        W1 = load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)
        z1 = dot(K, tl.trans(W1), ROUND, DOT, PRECISION)
        if DEPTH == 2:
            W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
            D1 = silu_backward(dot(D2, W2, ROUND, DOT, PRECISION), z1)
        else:
            D1 = 2 * (z1 - load(v_ptr + token, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole))
        if PER_CHUNK > 1:
            W1 = load(slot, j, 0, M, D, D, BLOCK, D_, whole)
        S1 = load(slot + DEPTH * size, j, 0, M, D, D, BLOCK, D_, whole)
        Z1 = dot(attention1, D1, ROUND, DOT, PRECISION)
        Z1 = dot_add(Z1, Q * A, tl.trans(W1), ROUND, DOT, PRECISION)
        Z1 = dot_add(Z1, Q * B, tl.trans(S1), ROUND, DOT, PRECISION)
        if DEPTH == 2:
            if PER_CHUNK > 1:
                W2 = load(slot + size, 0, j, D, M, M, D_, BLOCK, whole)
            S2 = load(slot + 3 * size, 0, j, D, M, M, D_, BLOCK, whole)
            Q1 = Z1 * tl.sigmoid(Z1)
            attention2 = dot_add(attention2, Q1, tl.trans(z1 * tl.sigmoid(z1)), ROUND, DOT, PRECISION)
            y = dot_add(y, Q1 * A, tl.trans(W2), ROUND, DOT, PRECISION)
            y = dot_add(y, Q1 * B, tl.trans(S2), ROUND, DOT, PRECISION)
        else:
            store(y_ptr + token, Z1, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole)
    if DEPTH == 2:
        y = dot_add(y, -attention2 * C, D2, ROUND, DOT, PRECISION)
        store(y_ptr + token, y, 0, 0, left, D, H * D, TILE, D_, token_whole)


@triton.jit
def read_backward_kernel(
    q_ptr, k_ptr, v_ptr, dy_ptr, dq_ptr,  # (B, T, H, d)
    dk_ptr, error_ptr, d_error_ptr,  # (B, T, H, d) float32; dk and d_error: this kernel's part of the gradient
    A_ptr, B_ptr, C_ptr, dA_ptr, dB_ptr, dC_ptr,  # (tiles, G, ...)
    trail_ptr, d_trail_ptr,  # (count + 1, G, 2 L, size); d_trail: this kernel's part of the gradient of trail
    dD1_ptr, dK1_ptr,  # (count, G, s, m): this kernel's part of the gradients of D1 and, for L = 2, of K1
    first, chunk, T, H,
    DEPTH: tl.constexpr, D: tl.constexpr, D_: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, PER_CHUNK: tl.constexpr, FULL: tl.constexpr,
    ROUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Derivative of `read_kernel`; one program per tile and memory."""
    i, g, G = first + tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    size: tl.constexpr = D * M
    token_whole: tl.constexpr = FULL and D == D_
    whole: tl.constexpr = M % BLOCK == 0 and D == D_
    s = tl.arange(0, TILE)
    square = s[:, None] * TILE + s[None, :]
    slots = G * 2 * DEPTH * size
    here = (i - first) * slots + g * 2 * DEPTH * size
    slot, d_slot = trail_ptr + here, d_trail_ptr + here
    at_slot = slot - i % PER_CHUNK * slots
    hidden = ((i - first) * G + g) * TILE * M
    token, left = tile_of(i, g, chunk, T, H, D, PER_CHUNK, TILE, FULL)
    K = load(k_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
    Q = load(q_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
    gate = (i * G + g) * TILE
    A, B = tl.load(A_ptr + gate + s)[:, None], tl.load(B_ptr + gate + s)[:, None]
    attention1 = dot(Q, tl.trans(K), ROUND, DOT, PRECISION)
    attention1_C = -attention1 * tl.load(C_ptr + gate * TILE + square)
    dA, dB = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)

    if DEPTH == 2:
        D2 = load(error_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
        attention2 = tl.zeros([TILE, TILE], tl.float32)
        for j in range(0, M, BLOCK):
            W1 = load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)
            z1 = dot(K, tl.trans(W1), ROUND, DOT, PRECISION)
            W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
            D1 = silu_backward(dot(D2, W2, ROUND, DOT, PRECISION), z1)
            if PER_CHUNK > 1:
                W1 = load(slot, j, 0, M, D, D, BLOCK, D_, whole)
            S1 = load(slot + DEPTH * size, j, 0, M, D, D, BLOCK, D_, whole)
            Z1 = dot(attention1_C, D1, ROUND, DOT, PRECISION)
            Z1 = dot_add(Z1, Q * A, tl.trans(W1), ROUND, DOT, PRECISION)
            Z1 = dot_add(Z1, Q * B, tl.trans(S1), ROUND, DOT, PRECISION)
            K1 = z1 * tl.sigmoid(z1)
            attention2 = dot_add(attention2, Z1 * tl.sigmoid(Z1), tl.trans(K1), ROUND, DOT, PRECISION)
        dy = load(dy_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
        C = tl.load(C_ptr + gate * TILE + square)
        d_attention2 = -dot(dy, tl.trans(D2), ROUND, DOT, PRECISION)
        tl.store(dC_ptr + gate * TILE + square, d_attention2 * attention2)
        d_attention2 *= C
        dD2 = dot(tl.trans(-attention2 * C), dy, ROUND, DOT, PRECISION)
        store(d_error_ptr + token, dD2, 0, 0, left, D, H * D, TILE, D_, token_whole)

    d_attention1 = tl.zeros([TILE, TILE], tl.float32)
    dZ_W, dZ_S = tl.zeros([TILE, D_], tl.float32), tl.zeros([TILE, D_], tl.float32)
    for j in range(0, M, BLOCK):
        W1 = load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)
        z1 = dot(K, tl.trans(W1), ROUND, DOT, PRECISION)
        if DEPTH == 2:
            W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
            D1 = silu_backward(dot(D2, W2, ROUND, DOT, PRECISION), z1)
        else:
            D1 = 2 * (z1 - load(v_ptr + token, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole))
        if PER_CHUNK > 1:
            W1 = load(slot, j, 0, M, D, D, BLOCK, D_, whole)
        S1 = load(slot + DEPTH * size, j, 0, M, D, D, BLOCK, D_, whole)
        if DEPTH == 2:
            Z1 = dot(attention1_C, D1, ROUND, DOT, PRECISION)
            Z1 = dot_add(Z1, Q * A, tl.trans(W1), ROUND, DOT, PRECISION)
            Z1 = dot_add(Z1, Q * B, tl.trans(S1), ROUND, DOT, PRECISION)
            Q1 = Z1 * tl.sigmoid(Z1)
            if PER_CHUNK > 1:
                W2 = load(slot + size, 0, j, D, M, M, D_, BLOCK, whole)
            S2 = load(slot + 3 * size, 0, j, D, M, M, D_, BLOCK, whole)
            dy_W = dot(dy, W2, ROUND, DOT, PRECISION)
            dy_S = dot(dy, S2, ROUND, DOT, PRECISION)
            dA += tl.sum(dy_W * Q1, 1)
            dB += tl.sum(dy_S * Q1, 1)
            K1 = z1 * tl.sigmoid(z1)
            dZ1 = dot_add(dy_W * A + dy_S * B, d_attention2, K1, ROUND, DOT, PRECISION)
            dZ1 = silu_backward(dZ1, Z1)
            dK1 = dot(tl.trans(d_attention2), Q1, ROUND, DOT, PRECISION)
            store(dK1_ptr + hidden, dK1, 0, j, TILE, M, M, TILE, BLOCK, whole)
            dW2 = dot(tl.trans(dy), Q1 * A, ROUND, DOT, PRECISION)
            store(d_slot + size, dW2, 0, j, D, M, M, D_, BLOCK, whole)
            dS2 = dot(tl.trans(dy), Q1 * B, ROUND, DOT, PRECISION)
            store(d_slot + 3 * size, dS2, 0, j, D, M, M, D_, BLOCK, whole)
        else:
            dZ1 = load(dy_ptr + token, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole)
        dD1 = dot(tl.trans(attention1_C), dZ1, ROUND, DOT, PRECISION)
        store(dD1_ptr + hidden, dD1, 0, j, TILE, M, M, TILE, BLOCK, whole)
        d_attention1 = dot_add(d_attention1, -dZ1, tl.trans(D1), ROUND, DOT, PRECISION)
        dZ_W = dot_add(dZ_W, dZ1, W1, ROUND, DOT, PRECISION)
        dZ_S = dot_add(dZ_S, dZ1, S1, ROUND, DOT, PRECISION)
        dW1 = dot(tl.trans(dZ1), Q * A, ROUND, DOT, PRECISION)
        store(d_slot, dW1, j, 0, M, D, D, BLOCK, D_, whole)
        dS1 = dot(tl.trans(dZ1), Q * B, ROUND, DOT, PRECISION)
        store(d_slot + DEPTH * size, dS1, j, 0, M, D, D, BLOCK, D_, whole)

    tl.store(dA_ptr + gate + s, dA + tl.sum(dZ_W * Q, 1))
    tl.store(dB_ptr + gate + s, dB + tl.sum(dZ_S * Q, 1))
    dC = d_attention1 * attention1
    if DEPTH == 2:
        dC += tl.load(dC_ptr + gate * TILE + square)
        tl.debug_barrier()  # read before it is written
    tl.store(dC_ptr + gate * TILE + square, dC)
    d_attention1 *= tl.load(C_ptr + gate * TILE + square)
    dQ = dot_add(dZ_W * A + dZ_S * B, d_attention1, K, ROUND, DOT, PRECISION)
    store(dq_ptr + token, dQ, 0, 0, left, D, H * D, TILE, D_, token_whole)
    dK = dot(tl.trans(d_attention1), Q, ROUND, DOT, PRECISION)
    store(dk_ptr + token, dK, 0, 0, left, D, H * D, TILE, D_, token_whole)


@triton.jit
def advance_backward_kernel(
    k_ptr, v_ptr, dv_ptr,  # (B, T, H, d)
    dk_ptr, error_ptr, d_error_ptr,  # (B, T, H, d) float32; dk: completed here
    A_ptr, B_ptr, C_ptr, r_ptr, p_ptr, da_ptr, db_ptr, dc_ptr, dr_ptr, dp_ptr,  # (tiles, G, ...); da, db, dc: of the last row
    trail_ptr, d_trail_ptr,  # (count + 1, G, 2 L, size); d_trail: the last is given, the others are completed
    dD1_ptr, dK1_ptr,  # (count, G, s, m)
    first, count, chunk, T, H,
    DEPTH: tl.constexpr, D: tl.constexpr, D_: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, PER_CHUNK: tl.constexpr, FULL: tl.constexpr,
    ROUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Derivative of `advance_kernel`, last tile first; one program per memory."""
    g, G = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    size: tl.constexpr = D * M
    token_whole: tl.constexpr = FULL and D == D_
    whole: tl.constexpr = M % BLOCK == 0 and D == D_
    s = tl.arange(0, TILE)
    slots = G * 2 * DEPTH * size
    for step in range(count):
        i = first + count - 1 - step
        here = (i - first) * slots + g * 2 * DEPTH * size
        slot, d_slot = trail_ptr + here, d_trail_ptr + here
        d_next = d_slot + slots
        at_slot, d_at_slot = slot - i % PER_CHUNK * slots, d_slot - i % PER_CHUNK * slots
        hidden = ((i - first) * G + g) * TILE * M
        token, left = tile_of(i, g, chunk, T, H, D, PER_CHUNK, TILE, FULL)
        K = load(k_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
        dK = load(dk_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
        gate = (i * G + g) * TILE
        c = tl.load(C_ptr + (gate + left - 1) * TILE + s)[:, None]
        r = tl.load(r_ptr + gate + s)[:, None]
        a, b, p = tl.load(A_ptr + gate + left - 1), tl.load(B_ptr + gate + left - 1), tl.load(p_ptr + i * G + g)
        da, db, dp = 0.0, 0.0, 0.0
        dc, dr = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
        if DEPTH == 2:
            D2 = load(error_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
            dD2 = load(d_error_ptr + token, 0, 0, left, D, H * D, TILE, D_, token_whole)
            K_dW2, K_dS2 = tl.zeros([TILE, D_], tl.float32), tl.zeros([TILE, D_], tl.float32)

        for j in range(0, M, BLOCK):
            # the forward pass again
            at_W1 = load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)
            z1 = dot(K, tl.trans(at_W1), ROUND, DOT, PRECISION)
            if DEPTH == 2:
                at_W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
                D1 = silu_backward(dot(D2, at_W2, ROUND, DOT, PRECISION), z1)
            else:
                D1 = 2 * (z1 - load(v_ptr + token, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole))
            # hand-over of W1, S1
            dW1 = load(d_next, j, 0, M, D, D, BLOCK, D_, whole)
            dS1 = load(d_next + DEPTH * size, j, 0, M, D, D, BLOCK, D_, whole)
            S1 = load(slot + DEPTH * size, j, 0, M, D, D, BLOCK, D_, whole)
            da += tl.sum(dW1 * load(slot, j, 0, M, D, D, BLOCK, D_, whole))
            db += tl.sum(dW1 * S1)
            dp += tl.sum(dS1 * S1)
            K_dW1 = dot(K, tl.trans(dW1), ROUND, DOT, PRECISION)
            K_dS1 = dot(K, tl.trans(dS1), ROUND, DOT, PRECISION)
            dc -= tl.sum(K_dW1 * D1, 1)
            dr -= tl.sum(K_dS1 * D1, 1)
            dK = dot_add(dK, -D1 * c, dW1, ROUND, DOT, PRECISION)
            dK = dot_add(dK, -D1 * r, dS1, ROUND, DOT, PRECISION)
            dD1 = load(dD1_ptr + hidden, 0, j, TILE, M, M, TILE, BLOCK, whole) - K_dW1 * c - K_dS1 * r
            if DEPTH == 2:
                tl.debug_barrier()  # read before it is written
                store(dD1_ptr + hidden, dD1, 0, j, TILE, M, M, TILE, BLOCK, whole)
                dD2 = dot_add(dD2, silu_backward(dD1, z1), tl.trans(at_W2), ROUND, DOT, PRECISION)
                # hand-over of W2, S2
                dW2 = load(d_next + size, 0, j, D, M, M, D_, BLOCK, whole)
                dS2 = load(d_next + 3 * size, 0, j, D, M, M, D_, BLOCK, whole)
                S2 = load(slot + 3 * size, 0, j, D, M, M, D_, BLOCK, whole)
                da += tl.sum(dW2 * load(slot + size, 0, j, D, M, M, D_, BLOCK, whole))
                db += tl.sum(dW2 * S2)
                dp += tl.sum(dS2 * S2)
                K1 = z1 * tl.sigmoid(z1)
                K_dW2 = dot_add(K_dW2, K1, tl.trans(dW2), ROUND, DOT, PRECISION)
                K_dS2 = dot_add(K_dS2, K1, tl.trans(dS2), ROUND, DOT, PRECISION)
            else:
                dz1 = 2 * dD1
                store(dv_ptr + token, -dz1, 0, j, left, D, H * D, TILE, BLOCK, FULL and whole)
                dK = dot_add(dK, dz1, at_W1, ROUND, DOT, PRECISION)
                into_W1 = dot(tl.trans(dz1), K, ROUND, DOT, PRECISION)
                give(d_slot, d_at_slot, a * dW1, into_W1, j, 0, M, D, D, BLOCK, D_, whole, PER_CHUNK)
                give_on(d_slot + size, b * dW1 + p * dS1, j, 0, M, D, D, BLOCK, D_, whole)

        if DEPTH == 2:
            dc -= tl.sum(K_dW2 * D2, 1)
            dr -= tl.sum(K_dS2 * D2, 1)
            dz2 = 2 * (dD2 - K_dW2 * c - K_dS2 * r)
            store(dv_ptr + token, -dz2, 0, 0, left, D, H * D, TILE, D_, token_whole)
            tl.debug_barrier()  # dD1 is read where other threads have written it
            for j in range(0, M, BLOCK):
                at_W1 = load(at_slot, j, 0, M, D, D, BLOCK, D_, whole)
                z1 = dot(K, tl.trans(at_W1), ROUND, DOT, PRECISION)
                at_W2 = load(at_slot + size, 0, j, D, M, M, D_, BLOCK, whole)
                dW2 = load(d_next + size, 0, j, D, M, M, D_, BLOCK, whole)
                dS2 = load(d_next + 3 * size, 0, j, D, M, M, D_, BLOCK, whole)
                dK1 = load(dK1_ptr + hidden, 0, j, TILE, M, M, TILE, BLOCK, whole)
                dK1 = dot_add(dK1, dz2, at_W2, ROUND, DOT, PRECISION)
                dK1 = dot_add(dK1, -D2 * c, dW2, ROUND, DOT, PRECISION)
                dK1 = dot_add(dK1, -D2 * r, dS2, ROUND, DOT, PRECISION)
                dD1 = load(dD1_ptr + hidden, 0, j, TILE, M, M, TILE, BLOCK, whole)
                into_W2 = dot(tl.trans(D2), silu_backward(dD1, z1), ROUND, DOT, PRECISION)
                into_W2 = dot_add(into_W2, tl.trans(dz2), z1 * tl.sigmoid(z1), ROUND, DOT, PRECISION)
                give(d_slot + size, d_at_slot + size, a * dW2, into_W2, 0, j, D, M, M, D_, BLOCK, whole, PER_CHUNK)
                give_on(d_slot + 3 * size, b * dW2 + p * dS2, 0, j, D, M, M, D_, BLOCK, whole)
                dz1 = dD1 * dot(D2, at_W2, ROUND, DOT, PRECISION) * silu_second(z1) + silu_backward(dK1, z1)
                dK = dot_add(dK, dz1, at_W1, ROUND, DOT, PRECISION)
                into_W1 = dot(tl.trans(dz1), K, ROUND, DOT, PRECISION)
                dW1 = load(d_next, j, 0, M, D, D, BLOCK, D_, whole)
                dS1 = load(d_next + 2 * size, j, 0, M, D, D, BLOCK, D_, whole)
                give(d_slot, d_at_slot, a * dW1, into_W1, j, 0, M, D, D, BLOCK, D_, whole, PER_CHUNK)
                give_on(d_slot + 2 * size, b * dW1 + p * dS1, j, 0, M, D, D, BLOCK, D_, whole)

        store(dk_ptr + token, dK, 0, 0, left, D, H * D, TILE, D_, token_whole)
        tl.store(dc_ptr + gate + s, dc)
        tl.store(dr_ptr + gate + s, dr)
        tl.store(da_ptr + i * G + g, da)
        tl.store(db_ptr + i * G + g, db)
        tl.store(dp_ptr + i * G + g, dp)
        tl.debug_barrier()  # the next tile reads what other threads of this program have written


@triton.jit
def give_on(ptr, x, row, column, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):
    """Add x to a block in memory."""
    x += load(ptr, row, column, rows, columns, stride, ROWS, COLUMNS, WHOLE)
    tl.debug_barrier()  # read before it is written
    store(ptr, x, row, column, rows, columns, stride, ROWS, COLUMNS, WHOLE)


@triton.jit
def give(
    ptr, at_ptr, x, x_at, row, column, rows, columns, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr, PER_CHUNK: tl.constexpr,
):  # fmt: skip
    """Add x to the gradient of the weights before this tile and x_at to that of the weights before its chunk."""
    if PER_CHUNK == 1:
        give_on(ptr, x + x_at, row, column, rows, columns, stride, ROWS, COLUMNS, WHOLE)
    else:
        give_on(ptr, x, row, column, rows, columns, stride, ROWS, COLUMNS, WHOLE)
        tl.debug_barrier()  # the two places are one in the first tile of a chunk
        give_on(at_ptr, x_at, row, column, rows, columns, stride, ROWS, COLUMNS, WHOLE)


# --------------------------------------------------------------------------------------------------------- host code


class Shape(NamedTuple):
    """What the kernels need to know beside tensors."""

    depth: int
    d: int
    hidden: int
    chunk: int
    plan: Plan

    @property
    def tile(self) -> int:
        """Tokens of a tile."""
        return min(self.plan.tile, padded(self.chunk))

    @property
    def per_chunk(self) -> int:
        """Tiles of a chunk."""
        return -(-self.chunk // self.tile)

    @property
    def block(self) -> int:
        """Rows of W1 (hidden units) that are worked on at once."""
        return min(self.plan.block, padded(self.hidden))

    def constants(self, bfloat16: bool) -> dict[str, object]:
        """Compile-time arguments of all kernels."""
        rounded = tl.bfloat16 if bfloat16 else tl.float32
        return {
            "DEPTH": self.depth,
            "D": self.d,
            "D_": padded(self.d),
            "M": self.hidden,
            "BLOCK": self.block,
            "TILE": self.tile,
            "PER_CHUNK": self.per_chunk,
            "FULL": self.chunk % self.tile == 0,
            "ROUND": rounded,
            "DOT": tl.float32 if interpreted() else rounded,  # the interpreter cannot multiply bfloat16
            "PRECISION": "tf32x3" if exact() else "tf32",
            "num_warps": self.plan.warps,
            "num_stages": 1,
        }


class FusedMemory(torch.autograd.Function):
    """Whole chunks, forward and backward."""

    @staticmethod
    def forward(ctx, q, k, v, A, B, C, r, p, state, shape: Shape):
        """q, k, v (B, T, H, d) contiguous, T a multiple of the chunk; decays (tiles, G, ...); packed state."""
        learning = any(ctx.needs_input_grad)
        count = A.shape[0] // shape.per_chunk
        every = chunks_per_group(count, shape, state, learning)
        constants = shape.constants(bfloat16_dots(q, v))
        y, error = torch.empty_like(v), torch.empty_like(v, dtype=torch.float32)
        trail = state.new_empty(min(every, count) * shape.per_chunk + 1, *state.shape)
        borders = []
        for start in range(0, count, every):
            borders.append(state)
            first, tiles = start * shape.per_chunk, min(every, count - start) * shape.per_chunk
            place = (first, shape.chunk, q.shape[1], q.shape[2])
            advance(k, v, error, (A, B, C, r, p), state, trail, tiles, place, constants)
            read_kernel[(tiles, state.shape[0])](q, k, v, y, error, A, B, C, trail, *place, **constants)
            state = trail[tiles].clone()
        if learning:
            ctx.save_for_backward(q, k, v, A, B, C, r, p, *borders)
            ctx.shape, ctx.every = shape, every
            ctx.kept = (trail, error) if every >= count else None
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, d_state):
        q, k, v, A, B, C, r, p, *borders = ctx.saved_tensors
        shape, every = ctx.shape, ctx.every
        count, G = A.shape[0] // shape.per_chunk, A.shape[1]
        constants = shape.constants(bfloat16_dots(q, v))
        dy = dy.contiguous()
        dq, dv = torch.empty_like(q), torch.empty_like(v)
        dk, d_error = (torch.empty_like(x, dtype=torch.float32) for x in (k, v))
        dA, dB, dC, dr, dp = (torch.empty_like(x) for x in (A, B, C, r, p))
        da, db, dc = torch.empty_like(p), torch.empty_like(p), torch.empty_like(r)
        most = min(every, count) * shape.per_chunk
        if ctx.kept is None:
            trail, error = d_state.new_empty(most + 1, *d_state.shape), torch.empty_like(d_error)
        else:
            trail, error = ctx.kept
        d_trail = torch.empty_like(trail)
        dD1 = trail.new_empty(most, G, shape.tile, shape.hidden)
        dK1 = torch.empty_like(dD1) if shape.depth == 2 else dD1
        for group in reversed(range(len(borders))):
            start = group * every
            first, tiles = start * shape.per_chunk, min(every, count - start) * shape.per_chunk
            place = (first, shape.chunk, q.shape[1], q.shape[2])
            if ctx.kept is None:
                advance(k, v, error, (A, B, C, r, p), borders[group], trail, tiles, place, constants)
            d_trail[tiles] = d_state
            read_backward_kernel[(tiles, G)](
                q, k, v, dy, dq, dk, error, d_error, A, B, C, dA, dB, dC, trail, d_trail, dD1, dK1, *place, **constants
            )
            advance_backward_kernel[(G,)](
                k, v, dv, dk, error, d_error, A, B, C, r, p, da, db, dc, dr, dp, trail, d_trail, dD1, dK1,
                first, tiles, *place[1:], **constants,
            )  # fmt: skip
            d_state = d_trail[0].clone()
        ctx.kept = None
        for total, part in ((dA, da), (dB, db), (dC, dc)):  # of the row of the last token of each tile
            total, part = (x.unflatten(0, (count, shape.per_chunk)) for x in (total, part))
            total[:, :-1, :, -1] += part[:, :-1]
            total[:, -1, :, shape.chunk - (shape.per_chunk - 1) * shape.tile - 1] += part[:, -1]
        return dq, dk.to(k.dtype), dv, dA, dB, dC, dr, dp, d_state, None


def advance(k, v, error, decays, state, trail, tiles, place, constants):
    """Fill trail, and error for L = 2, from the state before the first of some tiles."""
    trail[0] = state
    first, *rest = place
    advance_kernel[(state.shape[0],)](k, v, error, *decays, trail, first, tiles, *rest, **constants)


def bfloat16_dots(*tensors: Tensor) -> bool:
    """Whether matrix products take bfloat16 operands: when one of q, v is bfloat16 (under autocast only v may be)."""
    return any(x.dtype == torch.bfloat16 for x in tensors)


def chunks_per_group(count: int, shape: Shape, state: Tensor, learning: bool) -> int:
    """K: all chunks when the states of their tiles fit in KEEP_BYTES, else what needs the least memory."""
    fitting = KEEP_BYTES // (shape.per_chunk * state.nbytes)
    if not learning:
        return max(1, fitting // 8)
    return count if count <= fitting else max(1, round(math.sqrt(count / shape.per_chunk)))


@functools.cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return not isinstance(advance_kernel, triton.JITFunction)


def why_not(q: Tensor, v: Tensor, weights: list[Tensor]) -> str | None:
    """Why the kernels do not take these tensors, or None when they do. q, v (B, T, H, d); weights L (B, H, out, in)."""
    if not (q.is_cuda or interpreted()):
        return f"it needs tensors on an NVIDIA GPU, got {q.device}"
    if q.dtype == torch.float64:
        return "it computes in float32, got float64"
    if len(weights) > 2:
        return f"it takes 1 or 2 memory layers, got {len(weights)}"
    d = q.shape[-1]
    if plan(len(weights), d, bfloat16_dots(q, v)) is None:
        if d > 128:
            return f"a head width of {d} does not fit on the chip, at most 128 does"
        return (
            f"2 layers of head width {d} with float32 products do not fit on the chip, at most 64 does; "
            "bfloat16 inputs or torch.set_float32_matmul_precision('high') take up to 128"
        )
    return None


def fused_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    weights: list[Tensor],
    surprise: list[Tensor],
    anchor: list[Tensor],
    offset: int,
    chunk: int,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Arguments and results as in `titans_genomics.ops.neural_memory`; q, k, v may be bfloat16, the rest is float32.

    What is left of an open chunk goes through `chunked`; whole chunks and the one left open go through the kernels.
    """
    Bn, T, H, d = q.shape
    depth, hidden = len(weights), weights[0].shape[2]
    head = min(T, (chunk - offset) % chunk)
    whole = (T - head) // chunk * chunk
    sizes = [size for size in (head, whole, T - head - whole) if size]
    spans = [x.split(sizes, dim=1) for x in (q, k, v, alpha, eta, theta)]
    outputs = []
    for index, (size, *parts) in enumerate(zip(sizes, *spans, strict=True)):
        if head and index == 0:
            y, weights, surprise, anchor = chunked_memory(
                *(x.float() for x in parts), weights, surprise, anchor, offset, chunk
            )
            outputs.append(y.to(v.dtype))
            continue
        anchor = weights
        length = min(size, chunk)
        shape = Shape(depth, d, hidden, length, plan(depth, d, bfloat16_dots(q, v)))
        state = torch.cat([x.reshape(Bn * H, 1, -1) for x in (*weights, *surprise)], 1).contiguous()
        with torch.autocast(q.device.type, enabled=False):
            decays = tile_decays(*tile_gates(*parts[3:], shape))
            y, state = FusedMemory.apply(*(x.contiguous() for x in (*parts[:3], *decays)), state, shape)
        matrices = [x.view(w.shape) for x, w in zip(state.unbind(1), (*weights, *surprise), strict=True)]
        weights, surprise = matrices[:depth], matrices[depth:]
        if length == chunk:
            anchor = weights
        outputs.append(y)
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return y, weights, surprise, anchor


def tile_decays(alpha: Tensor, eta: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the kernels need of the gates (tiles, G, s): A, B (tiles, G, s), C (tiles, G, s, s), r (tiles, G, s), p (tiles, G).

    After token t of a tile the weights hold A_t of W, B_t of S and -C_{t,i} of the gradient of token i; the surprise
    handed on holds p of S and -r_i of the gradient of token i.
    """
    A, D_alpha = DecayProducts.apply(1 - alpha)
    P, D_eta = DecayProducts.apply(eta)
    B = (D_alpha @ P[..., None]).squeeze(-1)
    C = (D_alpha @ D_eta) * theta[..., None, :]
    return A, B, C, D_eta[..., -1, :] * theta, P[..., -1]


def tile_gates(alpha: Tensor, eta: Tensor, theta: Tensor, shape: Shape) -> list[Tensor]:
    """Gates (B, T, H) of whole chunks -> (tiles, G, s). The last tile of a chunk is filled up with tokens that do not
    write and keep the surprise; the kernels hand on the memory as it is after the last real token."""
    fill = shape.per_chunk * shape.tile - shape.chunk
    rows = []
    for x, value in ((alpha, 0.0), (eta, 1.0), (theta, 0.0)):
        x = x.transpose(1, 2).flatten(0, 1).unflatten(1, (-1, shape.chunk))  # (G, N, chunk)
        x = pad(x, (0, fill), value=value) if fill else x
        rows.append(x.flatten(1).unflatten(1, (-1, shape.tile)).transpose(0, 1).contiguous())
    return rows
