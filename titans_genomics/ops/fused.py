"""The dual form on NVIDIA GPUs: all chunks of a memory in one Triton kernel, its state on the chip (L = 1 and 2).

One program owns one memory (batch row and head) and walks over its tokens, tile by tile; W and S stay in registers, in
float32, and go to device memory only where the backward pass starts again. A tile is a chunk or, for chunks longer
than `Plan.tile`, a part of it whose inner gradients are still taken at the weights of the chunk's start; so no
quantity on the chip grows with the chunk. Matrix products take bfloat16 operands when q, k or v are bfloat16, else
tf32 (three products that together keep float32's digits, unless `torch.set_float32_matmul_precision` allows less);
they always add up in float32.

The formulas are those of `chunked.py` (`chunk_forward`, `chunk_backward`), here per layer. Products of gates come from
`tile_decays`, for all tiles at once. The backward kernel walks the tiles in reverse and computes each again from
the W and S at its start; those of all tiles are kept when they fit in KEEP_BYTES, else those at every K-th chunk.

Widths that are no power of two are padded with zeros on the chip. Which widths fit there is a table of facts,
`plan`, that the tests check by compiling every kernel for sm_80 and sm_90.

Triton comes with CUDA builds of PyTorch. Without a GPU, TRITON_INTERPRET=1 (set before the first import) runs the
kernels in Triton's interpreter, which is how they are tested.

Letters: G memories (batch x heads), s tokens of a tile, d head width, m hidden width; W1 (m, d) and W2 (d, m), or
W1 (d, d) alone. Packed state: (G, 2 L, size) with W1, W2, S1, S2, each flattened.
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
        "backend 'fused' needs Triton, which comes with CUDA builds of PyTorch: pip install 'titans-genomics[gpu]'"
    ) from error

KEEP_BYTES = 2 << 30  # of tile states that one call may keep for its backward pass before it recomputes


class Plan(NamedTuple):
    """How a shape runs: tokens of a tile and warps, forward and backward."""

    tile: int
    warps: int
    warps_backward: int


def plan(depth: int, d: int, hidden: int) -> Plan | None:
    """The plan for a memory, or None where it does not fit on the chip. Widths count padded to powers of two.

    Parameters
    ----------
    depth : layers of the memory
    d, hidden : head width and hidden width (hidden = d for depth 1)
    """
    d, hidden = padded(d), padded(hidden)
    if depth not in (1, 2):
        return None
    size = d * hidden
    if d > 128 or size > 128 * 128:
        return None
    return Plan(tile=32 if size <= 64 * 128 else 16, warps=8, warps_backward=8)


def padded(width: int) -> int:
    """The next power of two, at least 16: what tensor cores take."""
    return max(16, triton.next_power_of_2(width))


# ------------------------------------------------------------------------------------------------------- device code


@triton.jit
def dot(a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """a @ b with operands of type DOT, float32 sum."""
    return tl.dot(a.to(DOT), b.to(DOT), input_precision=PRECISION)


@triton.jit
def dot_add(total, a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """total + a @ b."""
    return tl.dot(a.to(DOT), b.to(DOT), acc=total, input_precision=PRECISION)


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
def load(ptr, rows: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A stored (rows, columns) matrix, padded with zeros to (ROWS, COLUMNS)."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    if rows == ROWS and columns == COLUMNS:  # without masks, which would take registers
        x = tl.load(ptr + i * columns + j)
    else:
        x = tl.load(ptr + i * columns + j, (i < rows) & (j < columns), 0.0)
    return x


@triton.jit
def store(ptr, x, rows: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The reverse of `load`."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    if rows == ROWS and columns == COLUMNS:
        tl.store(ptr + i * columns + j, x)
    else:
        tl.store(ptr + i * columns + j, x, (i < rows) & (j < columns))


@triton.jit
def load_tokens(ptr, stride, left, FULL: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, D_: tl.constexpr):
    """The rows of a tile, float32, zeros beyond `left` tokens (unless FULL) and beyond D."""
    s, j = tl.arange(0, TILE)[:, None], tl.arange(0, D_)[None, :]
    whole: tl.constexpr = FULL and D == D_
    x = tl.load(ptr + s * stride + j) if whole else tl.load(ptr + s * stride + j, (s < left) & (j < D), 0.0)
    return x.to(tl.float32)


@triton.jit
def store_tokens(ptr, x, stride, left, FULL: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, D_: tl.constexpr):
    """The reverse of `load_tokens`."""
    s, j = tl.arange(0, TILE)[:, None], tl.arange(0, D_)[None, :]
    if FULL and D == D_:
        tl.store(ptr + s * stride + j, x.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr + s * stride + j, x.to(ptr.dtype.element_ty), (s < left) & (j < D))


@triton.jit
def read(Q, W, S, K, D, A, B, C, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """A layer of the query pass: Z = A (Q W^T) + B (Q S^T) - ((Q K^T) * C) D."""
    Z = dot(Q * A[:, None], tl.trans(W), DOT, PRECISION)
    Z = dot_add(Z, Q * B[:, None], tl.trans(S), DOT, PRECISION)
    attention = dot(Q, tl.trans(K), DOT, PRECISION)
    return dot_add(Z, -attention * C, D, DOT, PRECISION), attention


@triton.jit
def hand_on(W, S, K, D, a, b, c, r, p, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """W' = a W + b S - D^T (c K), S' = p S - D^T (r K)."""
    D = -tl.trans(D)
    W = dot_add(a * W + b * S, D, K * c[:, None], DOT, PRECISION)
    S = dot_add(p * S, D, K * r[:, None], DOT, PRECISION)
    return W, S


@triton.jit
def read_backward(
    dZ, Q, W, S, K, D, attention, A, B, C, dW, dS, dK, dD, dA, dB, dC, DOT: tl.constexpr, PRECISION: tl.constexpr
):
    """Derivative of `read`: the gradient of Q; everything else is added to what is given."""
    dZ_W = dot(dZ, W, DOT, PRECISION)
    dZ_S = dot(dZ, S, DOT, PRECISION)
    dA += tl.sum(dZ_W * Q, 1)
    dB += tl.sum(dZ_S * Q, 1)
    dQ = dZ_W * A[:, None] + dZ_S * B[:, None]
    dZ_D = -dot(dZ, tl.trans(D), DOT, PRECISION)
    dC += dZ_D * attention
    dZ_D *= C
    dQ = dot_add(dQ, dZ_D, K, DOT, PRECISION)
    dK = dot_add(dK, tl.trans(dZ_D), Q, DOT, PRECISION)
    dD = dot_add(dD, tl.trans(-attention * C), dZ, DOT, PRECISION)
    dZ = tl.trans(dZ)
    dW = dot_add(dW, dZ, Q * A[:, None], DOT, PRECISION)
    dS = dot_add(dS, dZ, Q * B[:, None], DOT, PRECISION)
    return dQ, dW, dS, dK, dD, dA, dB, dC


@triton.jit
def hand_on_backward(dW, dS, W, S, K, D, a, b, c, r, p, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """Derivative of `hand_on`: of W, S, K, D, and of a, b, c, r, p."""
    K_dW = dot(K, tl.trans(dW), DOT, PRECISION)
    K_dS = dot(K, tl.trans(dS), DOT, PRECISION)
    dc = -tl.sum(K_dW * D, 1)
    dr = -tl.sum(K_dS * D, 1)
    dD = -(K_dW * c[:, None] + K_dS * r[:, None])
    dK = dot(-D * c[:, None], dW, DOT, PRECISION)
    dK = dot_add(dK, -D * r[:, None], dS, DOT, PRECISION)
    da, db, dp = tl.sum(dW * W), tl.sum(dW * S), tl.sum(dS * S)
    return a * dW, b * dW + p * dS, dK, dD, da, db, dc, dr, dp


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, y_ptr,  # (B, T, H, d)
    A_ptr, B_ptr, C_ptr, r_ptr, p_ptr,  # (tiles, G, ...)
    state_ptr, end_ptr,  # (G, 2 L, size)
    anchor_ptr,  # (G, L, size), the weights of the open chunk, used when a chunk is several tiles
    trail_ptr,  # (tiles, G, 2 L, size), the state at the start of each tile, with KEEP
    first, count, chunk, T, H,  # tiles first .. first + count - 1
    DEPTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, D_: tl.constexpr, M_: tl.constexpr,
    TILE: tl.constexpr, PER_CHUNK: tl.constexpr, FULL: tl.constexpr,
    KEEP: tl.constexpr, OUTPUT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    g, G = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    size: tl.constexpr = D * M
    s = tl.arange(0, TILE)
    stride = H * D
    square = s[:, None] * TILE + s[None, :]
    state_ptr += g * 2 * DEPTH * size
    end_ptr += g * 2 * DEPTH * size
    anchor_ptr += g * DEPTH * size
    W1 = load(state_ptr, M, D, M_, D_)
    S1 = load(state_ptr + DEPTH * size, M, D, M_, D_)
    if DEPTH == 2:
        W2 = load(state_ptr + size, D, M, D_, M_)
        S2 = load(state_ptr + 3 * size, D, M, D_, M_)

    for i in range(first, first + count):
        part = i % PER_CHUNK
        if KEEP:
            slot = trail_ptr + ((i - first) * G + g) * 2 * DEPTH * size
            store(slot, W1, M, D, M_, D_)
            store(slot + DEPTH * size, S1, M, D, M_, D_)
            if DEPTH == 2:
                store(slot + size, W2, D, M, D_, M_)
                store(slot + 3 * size, S2, D, M, D_, M_)
        if PER_CHUNK > 1 and part == 0:
            store(anchor_ptr, W1, M, D, M_, D_)
            if DEPTH == 2:
                store(anchor_ptr + size, W2, D, M, D_, M_)
            tl.debug_barrier()  # another thread of the block may read what this one wrote

        left = TILE if FULL else tl.minimum(chunk - part * TILE, TILE)
        at = ((g // H * T + (i // PER_CHUNK) * chunk + part * TILE) * H + g % H) * D
        K = load_tokens(k_ptr + at, stride, left, FULL, TILE, D, D_)
        v = load_tokens(v_ptr + at, stride, left, FULL, TILE, D, D_)
        gate = (i * G + g) * TILE
        c = tl.load(C_ptr + (gate + left - 1) * TILE + s)
        r = tl.load(r_ptr + gate + s)
        a, b, p = tl.load(A_ptr + gate + left - 1), tl.load(B_ptr + gate + left - 1), tl.load(p_ptr + i * G + g)

        # keys and their errors, at the weights of the chunk's start
        at_W1 = W1
        if PER_CHUNK > 1:
            at_W1 = load(anchor_ptr, M, D, M_, D_)
        z1 = dot(K, tl.trans(at_W1), DOT, PRECISION)
        if DEPTH == 2:
            at_W2 = W2
            if PER_CHUNK > 1:
                at_W2 = load(anchor_ptr + size, D, M, D_, M_)
            K1 = z1 * tl.sigmoid(z1)
            D2 = 2 * (dot(K1, tl.trans(at_W2), DOT, PRECISION) - v)
            D1 = silu_backward(dot(D2, at_W2, DOT, PRECISION), z1)
        else:
            D1 = 2 * (z1 - v)

        if OUTPUT:
            A, B = tl.load(A_ptr + gate + s), tl.load(B_ptr + gate + s)
            C = tl.load(C_ptr + gate * TILE + square)
            Q = load_tokens(q_ptr + at, stride, left, FULL, TILE, D, D_)
            Z, _ = read(Q, W1, S1, K, D1, A, B, C, DOT, PRECISION)
            if DEPTH == 2:
                Z, _ = read(Z * tl.sigmoid(Z), W2, S2, K1, D2, A, B, C, DOT, PRECISION)
            store_tokens(y_ptr + at, Z, stride, left, FULL, TILE, D, D_)

        W1, S1 = hand_on(W1, S1, K, D1, a, b, c, r, p, DOT, PRECISION)
        if DEPTH == 2:
            W2, S2 = hand_on(W2, S2, K1, D2, a, b, c, r, p, DOT, PRECISION)
        if PER_CHUNK > 1:
            tl.debug_barrier()  # all have read the weights of this chunk's start

    store(end_ptr, W1, M, D, M_, D_)
    store(end_ptr + DEPTH * size, S1, M, D, M_, D_)
    if DEPTH == 2:
        store(end_ptr + size, W2, D, M, D_, M_)
        store(end_ptr + 3 * size, S2, D, M, D_, M_)


@triton.jit
def backward_kernel(
    q_ptr, k_ptr, v_ptr, dy_ptr, dq_ptr, dk_ptr, dv_ptr,  # (B, T, H, d)
    A_ptr, B_ptr, C_ptr, r_ptr, p_ptr,  # (tiles, G, ...)
    dA_ptr, dB_ptr, dC_ptr, dr_ptr, dp_ptr,  # like these
    d_state_ptr,  # (G, 2 L, size), in place: gradient of the state after the last tile, then before the first
    d_anchor_ptr,  # (G, L, size), scratch, used when a chunk is several tiles
    trail_ptr,  # (tiles, G, 2 L, size), the state at the start of each tile
    first, count, chunk, T, H,
    DEPTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, D_: tl.constexpr, M_: tl.constexpr,
    TILE: tl.constexpr, PER_CHUNK: tl.constexpr, FULL: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    g, G = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    size: tl.constexpr = D * M
    s = tl.arange(0, TILE)
    stride = H * D
    square = s[:, None] * TILE + s[None, :]
    d_state_ptr += g * 2 * DEPTH * size
    d_anchor_ptr += g * DEPTH * size
    dW1 = load(d_state_ptr, M, D, M_, D_)
    dS1 = load(d_state_ptr + DEPTH * size, M, D, M_, D_)
    if DEPTH == 2:
        dW2 = load(d_state_ptr + size, D, M, D_, M_)
        dS2 = load(d_state_ptr + 3 * size, D, M, D_, M_)

    for step in range(count):
        i = first + count - 1 - step
        part = i % PER_CHUNK
        slot = trail_ptr + ((i - first) * G + g) * 2 * DEPTH * size
        at_slot = trail_ptr + ((i - part - first) * G + g) * 2 * DEPTH * size  # the start of the chunk
        left = TILE if FULL else tl.minimum(chunk - part * TILE, TILE)
        at = ((g // H * T + (i // PER_CHUNK) * chunk + part * TILE) * H + g % H) * D
        K = load_tokens(k_ptr + at, stride, left, FULL, TILE, D, D_)
        Q = load_tokens(q_ptr + at, stride, left, FULL, TILE, D, D_)
        v = load_tokens(v_ptr + at, stride, left, FULL, TILE, D, D_)
        dZ = load_tokens(dy_ptr + at, stride, left, FULL, TILE, D, D_)
        gate = (i * G + g) * TILE
        A, B, r = tl.load(A_ptr + gate + s), tl.load(B_ptr + gate + s), tl.load(r_ptr + gate + s)
        C = tl.load(C_ptr + gate * TILE + square)
        c = tl.load(C_ptr + (gate + left - 1) * TILE + s)
        a, b, p = tl.load(A_ptr + gate + left - 1), tl.load(B_ptr + gate + left - 1), tl.load(p_ptr + i * G + g)

        # the forward pass again
        at_W1 = load(at_slot, M, D, M_, D_)
        z1 = dot(K, tl.trans(at_W1), DOT, PRECISION)
        if DEPTH == 2:
            at_W2 = load(at_slot + size, D, M, D_, M_)
            K1 = z1 * tl.sigmoid(z1)
            D2 = 2 * (dot(K1, tl.trans(at_W2), DOT, PRECISION) - v)
            E1 = dot(D2, at_W2, DOT, PRECISION)
            D1 = silu_backward(E1, z1)
        else:
            D1 = 2 * (z1 - v)
        W1 = load(slot, M, D, M_, D_)
        S1 = load(slot + DEPTH * size, M, D, M_, D_)
        Z1, attention1 = read(Q, W1, S1, K, D1, A, B, C, DOT, PRECISION)

        dA, dB = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
        dC = tl.zeros([TILE, TILE], tl.float32)
        da, db, dp = 0.0, 0.0, 0.0
        dc, dr = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)

        # upper layer: hand-over, then the query pass
        if DEPTH == 2:
            W2 = load(slot + size, D, M, D_, M_)
            S2 = load(slot + 3 * size, D, M, D_, M_)
            dW2, dS2, dK1, dD2, da, db, dc, dr, dp = hand_on_backward(
                dW2, dS2, W2, S2, K1, D2, a, b, c, r, p, DOT, PRECISION
            )
            Q1 = Z1 * tl.sigmoid(Z1)
            attention2 = dot(Q1, tl.trans(K1), DOT, PRECISION)
            dZ, dW2, dS2, dK1, dD2, dA, dB, dC = read_backward(
                dZ, Q1, W2, S2, K1, D2, attention2, A, B, C, dW2, dS2, dK1, dD2, dA, dB, dC, DOT, PRECISION
            )
            dZ = silu_backward(dZ, Z1)
        # lower layer
        dW1, dS1, dK, dD1, da1, db1, dc1, dr1, dp1 = hand_on_backward(
            dW1, dS1, W1, S1, K, D1, a, b, c, r, p, DOT, PRECISION
        )
        dQ, dW1, dS1, dK, dD1, dA, dB, dC = read_backward(
            dZ, Q, W1, S1, K, D1, attention1, A, B, C, dW1, dS1, dK, dD1, dA, dB, dC, DOT, PRECISION
        )
        store_tokens(dq_ptr + at, dQ, stride, left, FULL, TILE, D, D_)
        end = s == left - 1
        tl.store(dA_ptr + gate + s, tl.where(end, dA + da + da1, dA))
        tl.store(dB_ptr + gate + s, tl.where(end, dB + db + db1, dB))
        tl.store(dC_ptr + gate * TILE + square, tl.where(end[:, None], dC + (dc + dc1)[None, :], dC))
        tl.store(dr_ptr + gate + s, dr + dr1)
        tl.store(dp_ptr + i * G + g, dp + dp1)

        # key pass: downwards through the errors, then upwards through the activations
        if DEPTH == 2:
            dE1 = silu_backward(dD1, z1)
            dz1 = dD1 * E1 * silu_second(z1)
            dz2 = 2 * dot_add(dD2, dE1, tl.trans(at_W2), DOT, PRECISION)
            store_tokens(dv_ptr + at, -dz2, stride, left, FULL, TILE, D, D_)
            dK1 = dot_add(dK1, dz2, at_W2, DOT, PRECISION)
            dz1 += silu_backward(dK1, z1)
            if PER_CHUNK == 1:
                dW2 = dot_add(dW2, tl.trans(D2), dE1, DOT, PRECISION)
                dW2 = dot_add(dW2, tl.trans(dz2), K1, DOT, PRECISION)
            else:
                d_at_W2 = load(d_anchor_ptr + size, D, M, D_, M_)
                d_at_W2 = tl.where(part < PER_CHUNK - 1, d_at_W2, 0.0)
                d_at_W2 = dot_add(d_at_W2, tl.trans(D2), dE1, DOT, PRECISION)
                d_at_W2 = dot_add(d_at_W2, tl.trans(dz2), K1, DOT, PRECISION)
                dW2 += tl.where(part == 0, d_at_W2, 0.0)
                store(d_anchor_ptr + size, d_at_W2, D, M, D_, M_)
        else:
            dz1 = 2 * dD1
            store_tokens(dv_ptr + at, -dz1, stride, left, FULL, TILE, D, D_)
        dK = dot_add(dK, dz1, at_W1, DOT, PRECISION)
        store_tokens(dk_ptr + at, dK, stride, left, FULL, TILE, D, D_)
        if PER_CHUNK == 1:
            dW1 = dot_add(dW1, tl.trans(dz1), K, DOT, PRECISION)
        else:
            d_at_W1 = load(d_anchor_ptr, M, D, M_, D_)
            d_at_W1 = tl.where(part < PER_CHUNK - 1, d_at_W1, 0.0)
            d_at_W1 = dot_add(d_at_W1, tl.trans(dz1), K, DOT, PRECISION)
            dW1 += tl.where(part == 0, d_at_W1, 0.0)
            store(d_anchor_ptr, d_at_W1, M, D, M_, D_)
            tl.debug_barrier()  # the next tile reads what this one wrote

    store(d_state_ptr, dW1, M, D, M_, D_)
    store(d_state_ptr + DEPTH * size, dS1, M, D, M_, D_)
    if DEPTH == 2:
        store(d_state_ptr + size, dW2, D, M, D_, M_)
        store(d_state_ptr + 3 * size, dS2, D, M, D_, M_)


# --------------------------------------------------------------------------------------------------------- host code


class Shape(NamedTuple):
    """What the kernels need to know beside tensors."""

    depth: int
    d: int
    hidden: int
    chunk: int
    tile: int
    warps: int
    warps_backward: int

    @property
    def per_chunk(self) -> int:
        """Tiles of a chunk."""
        return -(-self.chunk // self.tile)

    def constants(self, bfloat16: bool) -> dict[str, object]:
        """Compile-time arguments of both kernels."""
        exact = torch.get_float32_matmul_precision() == "highest"
        return {
            "DEPTH": self.depth,
            "D": self.d,
            "M": self.hidden,
            "D_": padded(self.d),
            "M_": padded(self.hidden),
            "TILE": self.tile,
            "PER_CHUNK": self.per_chunk,
            "FULL": self.chunk % self.tile == 0,
            "DOT": tl.bfloat16 if bfloat16 else tl.float32,
            "PRECISION": "tf32x3" if exact else "tf32",
        }


class FusedMemory(torch.autograd.Function):
    """Whole chunks, forward and backward."""

    @staticmethod
    def forward(ctx, q, k, v, A, B, C, r, p, state, shape: Shape):
        """q, k, v (B, T, H, d) contiguous, T a multiple of the chunk; decays (tiles, G, ...); packed state."""
        count = A.shape[0] // shape.per_chunk
        learning = any(ctx.needs_input_grad)
        every = chunks_per_group(count, shape.per_chunk, state) if learning else count
        y = torch.empty_like(v)
        borders, trail = [], None
        for start in range(0, count, every):
            borders.append(state)
            chunks = min(every, count - start)
            state, trail = launch_forward((q, k, v, y), (A, B, C, r, p), state, shape, start, chunks, learning and every >= count)  # fmt: skip
        if learning:
            ctx.save_for_backward(q, k, v, A, B, C, r, p, *borders)
            ctx.shape, ctx.every, ctx.trail = shape, every, trail
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, d_state):
        q, k, v, *rest = ctx.saved_tensors
        decays, borders = rest[:5], rest[5:]
        shape, every = ctx.shape, ctx.every
        count = decays[0].shape[0] // shape.per_chunk
        dy, d_state = dy.contiguous(), d_state.clone(memory_format=torch.contiguous_format)
        d_inputs = [torch.empty_like(x) for x in (q, k, v)]
        d_decays = [torch.empty_like(x) for x in decays]
        d_anchor = torch.empty_like(d_state[:, : shape.depth])
        for group in reversed(range(len(borders))):
            start = group * every
            chunks = min(every, count - start)
            trail = ctx.trail
            if trail is None:
                _, trail = launch_forward((q, k, v, None), decays, borders[group], shape, start, chunks, True)
            backward_kernel[(d_state.shape[0],)](
                q, k, v, dy, *d_inputs, *decays, *d_decays, d_state, d_anchor, trail,
                start * shape.per_chunk, chunks * shape.per_chunk, shape.chunk, q.shape[1], q.shape[2],
                **shape.constants(bfloat16_dots(q, k, v)), num_warps=shape.warps_backward, num_stages=1,
            )  # fmt: skip
        ctx.trail = None
        return (*d_inputs, *d_decays, d_state, None)


def launch_forward(tokens, decays, state, shape, start, chunks, keep):
    """Some chunks in a row: the state after them and, with `keep`, the states at the start of every tile."""
    q, k, v, y = tokens
    end = torch.empty_like(state)
    tiles = chunks * shape.per_chunk
    trail = state.new_empty(tiles, *state.shape) if keep else None
    anchor = torch.empty_like(state[:, : shape.depth]) if shape.per_chunk > 1 else None
    forward_kernel[(state.shape[0],)](
        q, k, v, y, *decays, state, end, end if anchor is None else anchor, end if trail is None else trail,
        start * shape.per_chunk, tiles, shape.chunk, q.shape[1], q.shape[2],
        KEEP=keep, OUTPUT=y is not None, **shape.constants(bfloat16_dots(q, k, v)), num_warps=shape.warps, num_stages=1,
    )  # fmt: skip
    return end, trail


def bfloat16_dots(*tensors: Tensor) -> bool:
    """Whether matrix products take bfloat16 operands."""
    return any(x.dtype == torch.bfloat16 for x in tensors)


def chunks_per_group(count: int, per_chunk: int, state: Tensor) -> int:
    """K: all chunks when the states of their tiles fit in KEEP_BYTES, else what needs the least memory."""
    if count * per_chunk * state.nbytes <= KEEP_BYTES:
        return count
    return max(1, round(math.sqrt(count / per_chunk)))


@functools.cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return not isinstance(forward_kernel, triton.JITFunction)


def why_not(q: Tensor, weights: list[Tensor]) -> str | None:
    """Why the kernels do not take these tensors, or None when they do. q (B, T, H, d); weights L (B, H, out, in)."""
    if not (q.is_cuda or interpreted()):
        return f"it needs tensors on an NVIDIA GPU, got {q.device}"
    if q.dtype == torch.float64:
        return "it computes in float32, got float64"
    if len(weights) > 2:
        return f"it takes 1 or 2 memory layers, got {len(weights)}"
    d, hidden = q.shape[-1], weights[0].shape[2]
    if plan(len(weights), d, hidden) is None:
        return f"a memory of head width {d} and hidden width {hidden} does not fit on the chip"
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
    tile, *warps = plan(depth, d, hidden)
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
        shape = Shape(depth, d, hidden, length, min(tile, padded(length)), *warps)
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
