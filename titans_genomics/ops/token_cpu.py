"""One token through a whole memory layer on a CPU, in one pass: what decoding and generation cost.

Projections, convolution, norms, gates, the update of the memory and its answer, norm, output gate and output projection
of `models.memory.NeuralMemory`, for one token of each sequence, without gradients. A token reads every weight of the layer
and of the memory once, whatever was read before it; what is left besides is one call.

Axes: D width, H heads, d head width, J taps; a layer of the memory has m inputs and n outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from titans_genomics.ops.tiles import ONE, TWO, dot, kernel, reduction, sigmoid, slope

EPS, ZERO = np.float32(1e-6), np.float32(0)


class Weights(NamedTuple):
    """The parameters of a layer as arrays."""

    qkv: np.ndarray  # (3 D, D)
    taps: np.ndarray  # (3 D, J)
    gates: np.ndarray  # (3 H, D)
    bias: np.ndarray  # (3 H,)
    output_gate: np.ndarray  # (D, D)
    head_norm: np.ndarray  # (H, d)
    output: np.ndarray  # (D, D)


@reduction
def times(y, weight, x):
    """y (out,) = weight (out, in) x (in,)"""
    for o in range(y.shape[0]):
        total = ZERO
        for i in range(x.shape[0]):
            total += weight[o, i] * x[i]
        y[o] = total


@kernel
def activate(x):
    """x = SiLU(x)"""
    for c in range(x.shape[0]):
        x[c] = x[c] * sigmoid(x[c])


@kernel
def shorten(x, longest):
    """x divided by its length where that is above `longest`, else by `longest`; infinity leaves it."""
    if longest < np.inf:
        x /= max(np.sqrt(dot(x, x)), longest)


@kernel
def convolve(z, x, tail, taps, tail_after):
    """z (C,) = SiLU of the convolution of the tail (J - 1, C) and x (C,); the tail moves on."""
    J = taps.shape[1]
    for c in range(z.shape[0]):
        z[c] = x[c] * taps[c, J - 1]
    for j in range(J - 1):
        for c in range(z.shape[0]):
            z[c] += tail[j, c] * taps[c, j]
        if j > 0:
            tail_after[j - 1] = tail[j]
    if J > 1:
        tail_after[J - 2] = x
    activate(z)


@kernel
def errors(D, a, z, W, h, value):
    """Errors of half the inner loss at head h of W, L of (H, m, n), in D, L of (n,); layer inputs in a, a[0] the key."""
    depth = len(W)
    for layer in range(depth):
        out = z[layer]
        out[:] = 0
        for i in range(W[layer].shape[1]):
            for o in range(out.shape[0]):
                out[o] += a[layer][i] * W[layer][h, i, o]
        if layer < depth - 1:
            for o in range(out.shape[0]):
                a[layer + 1][o] = out[o] * sigmoid(out[o])
    for o in range(value.shape[0]):
        D[depth - 1][o] = z[depth - 1][o] - value[o]
    for layer in range(depth - 1, 0, -1):
        for i in range(W[layer].shape[1]):
            D[layer - 1][i] = dot(W[layer][h, i], D[layer]) * slope(z[layer - 1][i])


@kernel
def write_and_read(W_after, S_after, W, S, D, a, keep, decay, step, x):
    """One layer (eq. 13, 14) and what it answers to x (m,): y (n,) is left in D."""
    answer = np.zeros(D.shape[0], np.float32)
    for i in range(W.shape[0]):
        weight, query = -TWO * step * a[i], x[i]
        for o in range(D.shape[0]):
            surprise = decay * S[i, o] + weight * D[o]
            now = keep * W[i, o] + surprise
            S_after[i, o] = surprise
            W_after[i, o] = now
            answer[o] += query * now
    D[:] = answer


@kernel
def token(p, x, theta_max, forgetting, momentum, longest, tail, W, S, at, work, out, tail_after, W_after, S_after):
    """out (D,) of x (D,); W, S and at: L of (H, m, n); work: a, z, D, L of vectors each."""
    H, d = p.head_norm.shape
    width, depth = H * d, len(W)
    a, z, D = work
    projected, gates, opening = (
        np.empty(3 * width, np.float32),
        np.empty(3 * H, np.float32),
        np.empty(width, np.float32),
    )
    qkv, read = np.empty(3 * width, np.float32), np.empty(width, np.float32)
    times(projected, p.qkv, x)
    convolve(qkv, projected, tail, p.taps, tail_after)
    times(gates, p.gates, x)
    times(opening, p.output_gate, x)
    for h in range(H):
        first = h * d
        q, k = qkv[first : first + d], qkv[width + first : width + first + d]
        v = qkv[2 * width + first : 2 * width + first + d]
        shorten(q, EPS)
        shorten(k, EPS)
        shorten(v, longest)
        keep = ONE - sigmoid(gates[h] + p.bias[h]) if forgetting else ONE
        eta = gates[H + h] + p.bias[H + h]
        decay, rest = (sigmoid(eta), sigmoid(-eta)) if momentum else (ZERO, ONE)
        step = theta_max * rest * sigmoid(gates[2 * H + h] + p.bias[2 * H + h])
        a[0][:] = k
        errors(D, a, z, at, h, v)
        answer = q
        for layer in range(depth):
            if layer > 0:
                activate(answer)
            write_and_read(
                W_after[layer][h], S_after[layer][h], W[layer][h], S[layer][h], D[layer], a[layer], keep, decay, step, answer
            )  # fmt: skip
            answer = D[layer]
        scale = ONE / np.sqrt(dot(answer, answer) / np.float32(d) + EPS)
        for c in range(d):
            g = opening[h * d + c]
            read[h * d + c] = answer[c] * scale * p.head_norm[h, c] * (g * sigmoid(g))
    times(out, p.output, read)
