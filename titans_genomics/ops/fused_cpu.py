"""The dual form on CPUs: one pass over a chunk in the caches of one core, forward and backward, compiled by Numba.

The same lines as `chunked`, for one memory (one sequence, one head) at a time; memories are shared out over threads.
What differs is where the time goes: no call per product, activations and decays in the same pass, little computed above
the diagonal of a b x b matrix, and nothing kept for the backward pass but the memory at every K-th chunk border.

Letters: s tokens of a chunk, m inputs and n outputs of a layer, each padded with zeros to a multiple of `tiles.PAD`.
A layer's matrix R (2m + s, n) holds W^T, S^T and the errors D of the chunk, one below the other, so that the weights
after token t applied to a query are one row of X R with X = [A q | B q | (q k^T) * C] (s, 2m + s). The errors are those
of half the inner loss; its factor 2 and the sign of the descent stand in C.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from titans_genomics.ops.threads import array, share_out, why_no_kernels
from titans_genomics.ops.tiles import (
    BLOCK,
    ONE,
    PAD,
    TWO,
    dot,
    kernel,
    multiply,
    multiply_into_lower,
    multiply_lower,
    multiply_upper,
    reduction,
    sigmoid,
    slope,
    transpose,
)

KEEP_BYTES = 256 << 20  # what one call may keep of memories at chunk borders for its backward pass
FEWEST = 8  # chunks between borders that are kept: their intermediates stay in the cache
TINY = np.float32(1e-25)  # products of gates below this are zero: no product of two of them is a denormal number
NONE = np.float32(0)


class Work(NamedTuple):
    """What one thread works in. Tuples hold an array per layer; arrays with `i` in front hold one matrix per chunk of a group."""

    iR: tuple  # (K + 1, 2m + s, n) W^T, S^T before the chunk and its errors
    iK: tuple  # (K, s, m) layer inputs of the keys
    iz: tuple  # (K, s, n) pre-activations of the keys
    iE: tuple  # (K, s, n) errors before the activation's derivative
    at: tuple  # (m, n) W^T where the gradients are taken
    WT: tuple  # (n, m) the same transposed
    Q: tuple  # (s, m) layer inputs of the queries
    Z: tuple  # (s, n) pre-activations of the queries; the output in the last layer
    KT: tuple  # (m, s)
    att: tuple  # (s, s) q k^T, up to the diagonal
    X: tuple  # (s, 2m + s)
    Y: tuple  # (s, 2m) [c K | r K]: minus the weights of the errors in the memory handed on
    dR: tuple  # (2m + s, n) gradient of R
    dnext: tuple  # (2m, n) gradient of the memory handed on
    dnextT: tuple  # (n, 2m)
    dat: tuple  # (m, n) gradient of `at`
    RT: tuple  # (n, 2m + s)
    dX: tuple  # (s, 2m + s)
    dY: tuple  # (s, 2m)
    dK: tuple  # (s, m)
    dQ: tuple  # (s, m)
    dZ: tuple  # (s, n)
    dz: tuple  # (s, n)
    v: np.ndarray  # (s, d)
    A: np.ndarray  # (s,) what is left of W after token t
    B: np.ndarray  # (s,) what is left of S in the weights after token t
    p: np.ndarray  # (s,) what is left of S in the surprise after token t
    P: np.ndarray  # (s, s) what is left of gradient i in the surprise after token t
    E: np.ndarray  # (s, s) what of gradient i stands in the weights after token t, for a step of 1
    C: np.ndarray  # (s, s) the same for the step of token i, times -2
    dA: np.ndarray
    dB: np.ndarray
    dC: np.ndarray
    dr: np.ndarray  # (s,) gradient of the weight of error i in the surprise handed on
    ends: np.ndarray  # (3,) gradients of A, B and p in the memory handed on
    gP: np.ndarray
    gE: np.ndarray


def padded(size: int) -> int:
    """The next multiple of PAD."""
    return -(-size // PAD) * PAD


def make_work(widths: tuple[int, ...], chunk: int, every: int, learning: bool) -> Work:
    """Zeroed memory for one thread. What is zero beyond a matrix or above a diagonal stays zero."""
    s = padded(chunk)
    layers = [(padded(m), padded(n)) for m, n in pairwise(widths)]
    some = every if learning else 1

    def each(shape, needed: bool = True) -> tuple:
        return tuple(np.zeros([x if needed else PAD for x in shape(m, n)], np.float32) for m, n in layers)

    def table() -> np.ndarray:
        return np.zeros((s, s), np.float32)

    def row() -> np.ndarray:
        return np.zeros(s, np.float32)

    return Work(
        iR=each(lambda m, n: (some + 1, 2 * m + s, n)),
        iK=each(lambda m, n: (some, s, m)),
        iz=each(lambda m, n: (some, s, n)),
        iE=each(lambda m, n: (some, s, n)),
        at=each(lambda m, n: (m, n)),
        WT=each(lambda m, n: (n, m)),
        Q=each(lambda m, n: (s, m)),
        Z=each(lambda m, n: (s, n)),
        KT=each(lambda m, n: (m, s)),
        att=each(lambda m, n: (s, s)),
        X=each(lambda m, n: (s, 2 * m + s)),
        Y=each(lambda m, n: (s, 2 * m)),
        dR=each(lambda m, n: (2 * m + s, n), learning),
        dnext=each(lambda m, n: (2 * m, n), learning),
        dnextT=each(lambda m, n: (n, 2 * m), learning),
        dat=each(lambda m, n: (m, n), learning),
        RT=each(lambda m, n: (n, 2 * m + s), learning),
        dX=each(lambda m, n: (s, 2 * m + s), learning),
        dY=each(lambda m, n: (s, 2 * m), learning),
        dK=each(lambda m, n: (s, m), learning),
        dQ=each(lambda m, n: (s, m), learning),
        dZ=each(lambda m, n: (s, n), learning),
        dz=each(lambda m, n: (s, n), learning),
        v=np.zeros((s, padded(widths[0])), np.float32),
        A=row(), B=row(), p=row(), P=table(), E=table(), C=table(),
        dA=row(), dB=row(), dC=table(), dr=row(), ends=np.zeros(3, np.float32), gP=row(), gE=row(),
    )  # fmt: skip


class Spare:
    """Work that earlier calls have left: fresh memory would cost a page fault every 4 KB."""

    BYTES = 64 << 20  # most that is kept

    def __init__(self) -> None:
        self.lock, self.kept = threading.Lock(), []

    def take(self, *shape) -> Work:
        """`make_work(*shape)`, for one thread at a time."""
        with self.lock:
            for index, (of, _, _) in enumerate(self.kept):
                if of == shape:
                    return self.kept.pop(index)[2]
        return make_work(*shape)

    def leave(self, work: Work, *shape) -> None:
        """Give it back; what was left longest ago is dropped where it becomes too much."""
        size = sum(x.nbytes for part in work for x in (part if isinstance(part, tuple) else (part,)))
        with self.lock:
            self.kept.append((shape, size, work))
            while sum(size for _, size, _ in self.kept) > self.BYTES:
                self.kept.pop(0)


spare = Spare()


# ------------------------------------------------------------------------------------------- one chunk, forward


@kernel
def load(target, source, h):
    """The first rows and columns of target are head h of source (n, H, d); the other rows are zero."""
    n, _, width = source.shape
    target[n:] = 0
    for t in range(n):
        for x in range(width):
            target[t, x] = source[t, h, x]


@kernel
def store(target, h, source):
    """Head h of target (n, H, d) is the first rows and columns of source."""
    n, _, width = target.shape
    for t in range(n):
        for x in range(width):
            target[t, h, x] = source[t, x]


@kernel
def make_decays(w, alpha, eta, theta):
    """The products of the gates of a chunk (n,), as recurrences over its tokens: only factors up to 1 are multiplied."""
    n, s = alpha.shape[0], w.A.shape[0]
    a, b, p = ONE, np.float32(0), ONE
    for t in range(s):
        if t >= n:
            w.A[t] = w.B[t] = w.p[t] = 0
            w.C[t] = 0
            continue
        keep, decay = ONE - alpha[t], eta[t]
        a = keep * a
        a = NONE if a <= TINY else a
        p = decay * p
        p = NONE if p <= TINY else p
        b = keep * b
        b = (NONE if b <= TINY else b) + p
        w.A[t], w.B[t], w.p[t] = a, b, p
        for i in range(t):
            left = decay * w.P[t - 1, i]
            left = NONE if left <= TINY else left
            kept = keep * w.E[t - 1, i]
            w.P[t, i] = left
            w.E[t, i] = (NONE if kept <= TINY else kept) + left
        w.P[t, t] = w.E[t, t] = ONE
        for i in range(t + 1):
            w.C[t, i] = -TWO * theta[i] * w.E[t, i]


@kernel
def activate(y, z):
    """y = SiLU(z)"""
    for t in range(z.shape[0]):
        for x in range(z.shape[1]):
            y[t, x] = z[t, x] * sigmoid(z[t, x])


@kernel
def times_slope_into(y, e, z):
    """y = e SiLU'(z)"""
    for t in range(z.shape[0]):
        for x in range(z.shape[1]):
            y[t, x] = e[t, x] * slope(z[t, x])


@kernel
def write_keys(w, i, k, v, h, anchored):
    """The errors of chunk i of a group: layer inputs and pre-activations of the keys, and D in the last rows of R."""
    depth = len(w.iR)
    load(w.iK[0][i], k, h)
    load(w.v, v, h)
    for layer in range(depth):
        m = w.at[layer].shape[0]
        at = w.at[layer] if anchored else w.iR[layer][i][:m]
        multiply(w.iz[layer][i], w.iK[layer][i], at, False)
        if layer < depth - 1:
            activate(w.iK[layer + 1][i], w.iz[layer][i])
    m = w.at[depth - 1].shape[0]
    D = w.iR[depth - 1][i][2 * m :]
    z = w.iz[depth - 1][i]
    for t in range(z.shape[0]):
        for x in range(z.shape[1]):
            D[t, x] = z[t, x] - w.v[t, x]
    for layer in range(depth - 1, 0, -1):
        m = w.at[layer].shape[0]
        at = w.at[layer] if anchored else w.iR[layer][i][:m]
        transpose(w.WT[layer], at)
        multiply(w.iE[layer - 1][i], w.iR[layer][i][2 * m :], w.WT[layer], False)
        below = w.at[layer - 1].shape[0]
        times_slope_into(w.iR[layer - 1][i][2 * below :], w.iE[layer - 1][i], w.iz[layer - 1][i])


@kernel
def weigh_errors(w, layer, i, last, theta):
    """Y = [c K | r K], the weights of the errors of chunk i in the memory after its token `last`."""
    K, Y = w.iK[layer][i], w.Y[layer]
    m = K.shape[1]
    Y[last + 1 :] = 0
    for t in range(last + 1):
        c, r = w.C[last, t], -TWO * theta[t] * w.P[last, t]
        for x in range(m):
            Y[t, x] = c * K[t, x]
            Y[t, m + x] = r * K[t, x]


@kernel
def hand_over(w, i, last, theta):
    """The memory after token `last` of chunk i, in the first rows of R of chunk i + 1."""
    a, b, p = w.A[last], w.B[last], w.p[last]
    for layer in range(len(w.iR)):
        m = w.at[layer].shape[0]
        R, after = w.iR[layer][i], w.iR[layer][i + 1]
        for x in range(m):
            for y in range(R.shape[1]):
                after[x, y] = a * R[x, y] + b * R[m + x, y]
                after[m + x, y] = p * R[m + x, y]
        weigh_errors(w, layer, i, last, theta)
        multiply(after[: 2 * m], w.Y[layer].T, R[2 * m :], True)


@kernel
def read_queries(w, i, q, h):
    """Z of the last layer: what the memory answers to the queries of chunk i, each token with its own weights."""
    depth = len(w.iR)
    load(w.Q[0], q, h)
    for layer in range(depth):
        Q, K, X, R, att = w.Q[layer], w.iK[layer][i], w.X[layer], w.iR[layer][i], w.att[layer]
        s, m = Q.shape
        transpose(w.KT[layer], K)
        multiply_into_lower(att, Q, w.KT[layer])
        for t in range(s):
            for x in range(m):
                X[t, x] = w.A[t] * Q[t, x]
                X[t, m + x] = w.B[t] * Q[t, x]
            for x in range((t // BLOCK + 1) * BLOCK):
                X[t, 2 * m + x] = att[t, x] * w.C[t, x]
        multiply(w.Z[layer], X[:, : 2 * m], R[: 2 * m], False)
        multiply_lower(w.Z[layer], X[:, 2 * m :], R[2 * m :], True)
        if layer < depth - 1:
            activate(w.Q[layer + 1], w.Z[layer])


# ------------------------------------------------------------------------------------------ one chunk, backward


@reduction
def inner(a, b):
    """Sum of the products of two matrices."""
    total = np.float32(0)
    for x in range(a.shape[0]):
        for y in range(a.shape[1]):
            total += a[x, y] * b[x, y]
    return total


@kernel
def back_hand_over(w, i, last, theta):
    """From the gradient of the memory handed on to those of R, the keys' layer inputs and the decays."""
    a, b, p = w.A[last], w.B[last], w.p[last]
    w.dC[:] = 0
    w.dr[:] = 0
    w.ends[:] = 0
    for layer in range(len(w.iR)):
        R, K, dR, after, dK, dY = w.iR[layer][i], w.iK[layer][i], w.dR[layer], w.dnext[layer], w.dK[layer], w.dY[layer]
        m = K.shape[1]
        weigh_errors(w, layer, i, last, theta)
        multiply(dR[2 * m :], w.Y[layer], after, False)
        transpose(w.dnextT[layer], after)
        multiply(dY, R[2 * m :], w.dnextT[layer], False)
        w.ends[0] += inner(after[:m], R[:m])
        w.ends[1] += inner(after[:m], R[m : 2 * m])
        w.ends[2] += inner(after[m:], R[m : 2 * m])
        for x in range(m):
            for y in range(R.shape[1]):
                dR[x, y] = a * after[x, y]
                dR[m + x, y] = b * after[x, y] + p * after[m + x, y]
        dK[last + 1 :] = 0
        for t in range(last + 1):
            c, r = w.C[last, t], -TWO * theta[t] * w.P[last, t]
            w.dC[last, t] += dot(dY[t, :m], K[t])
            w.dr[t] += dot(dY[t, m:], K[t])
            for x in range(m):
                dK[t, x] = c * dY[t, x] + r * dY[t, m + x]


@kernel
def back_queries(w, i):
    """From dZ of the last layer to dQ of the first, and to R, the keys' layer inputs and the decays."""
    depth = len(w.iR)
    w.dA[:] = 0
    w.dB[:] = 0
    for layer in range(depth - 1, -1, -1):
        Q, K, X, R = w.Q[layer], w.iK[layer][i], w.X[layer], w.iR[layer][i]
        att, dX, dQ, dZ, dR, RT = w.att[layer], w.dX[layer], w.dQ[layer], w.dZ[layer], w.dR[layer], w.RT[layer]
        s, m = Q.shape
        transpose(RT, R)
        multiply(dX[:, : 2 * m], dZ, RT[:, : 2 * m], False)
        multiply_into_lower(dX[:, 2 * m :], dZ, RT[:, 2 * m :])
        multiply(dR[: 2 * m], X[:, : 2 * m].T, dZ, True)
        multiply_upper(dR[2 * m :], X[:, 2 * m :].T, dZ, True)
        for t in range(s):
            w.dA[t] += dot(dX[t, :m], Q[t])
            w.dB[t] += dot(dX[t, m : 2 * m], Q[t])
            for x in range((t // BLOCK + 1) * BLOCK):
                w.dC[t, x] += dX[t, 2 * m + x] * att[t, x]
                dX[t, 2 * m + x] *= w.C[t, x]
        multiply_upper(w.dK[layer], dX[:, 2 * m :].T, Q, True)
        multiply_lower(dQ, dX[:, 2 * m :], K, False)
        for t in range(s):
            for x in range(m):
                dQ[t, x] += w.A[t] * dX[t, x] + w.B[t] * dX[t, m + x]
        if layer > 0:
            times_slope_into(w.dZ[layer - 1], dQ, w.Z[layer - 1])


@kernel
def bend(dz, dD, E, z):
    """dz = dD E SiLU''(z), then dD *= SiLU'(z): the derivative of D = E SiLU'(z)."""
    for t in range(z.shape[0]):
        for x in range(z.shape[1]):
            g = sigmoid(z[t, x])
            flat = ONE - g
            dz[t, x] = dD[t, x] * E[t, x] * (g * flat * (TWO + z[t, x] * (flat - g)))
            dD[t, x] = dD[t, x] * (g * (ONE + z[t, x] * flat))


@kernel
def back_keys(w, i, anchored):
    """Down through the errors, up through the activations: to dK of the first layer, dz of the last, and the weights."""
    depth = len(w.iR)
    for layer in range(depth):
        m = w.at[layer].shape[0]
        at = w.at[layer] if anchored else w.iR[layer][i][:m]
        transpose(w.WT[layer], at)
        if anchored:
            w.dat[layer][:] = 0
        dat = w.dat[layer] if anchored else w.dR[layer][:m]
        dD = w.dR[layer][2 * m :]
        if layer > 0:
            below = w.at[layer - 1].shape[0]
            dE = w.dR[layer - 1][2 * below :]
            multiply(dD, dE, at, True)
            multiply(dat, dE.T, w.iR[layer][i][2 * m :], True)
        if layer < depth - 1:
            bend(w.dz[layer], dD, w.iE[layer][i], w.iz[layer][i])
        else:
            w.dz[layer][:] = dD
    for layer in range(depth - 1, -1, -1):
        m = w.at[layer].shape[0]
        dat = w.dat[layer] if anchored else w.dR[layer][:m]
        multiply(w.dK[layer], w.dz[layer], w.WT[layer], True)
        multiply(dat, w.iK[layer][i].T, w.dz[layer], True)
        if layer > 0:
            z, dz, dK = w.iz[layer - 1][i], w.dz[layer - 1], w.dK[layer]
            for t in range(z.shape[0]):
                for x in range(z.shape[1]):
                    dz[t, x] += dK[t, x] * slope(z[t, x])


@reduction
def back_decays(w, alpha, eta, theta, d_alpha, d_eta, d_theta):
    """The derivative of `make_decays`, its recurrences read backwards: exact also where a gate is closed."""
    n = alpha.shape[0]
    gP, gE = w.gP, w.gE
    gP[:] = 0
    gE[:] = 0
    ga, gb, gp = np.float32(0), np.float32(0), np.float32(0)
    for t in range(n - 1, -1, -1):
        keep, decay = ONE - alpha[t], eta[t]
        ga += w.dA[t]
        gb += w.dB[t]
        if t == n - 1:
            ga += w.ends[0]
            gb += w.ends[1]
            gp += w.ends[2]
            for i in range(n):
                gP[i] = -TWO * theta[i] * w.dr[i]
                d_theta[i] = -TWO * w.dr[i] * w.P[t, i]
        gp += gb
        for i in range(t + 1):
            gE[i] += -TWO * theta[i] * w.dC[t, i]
            d_theta[i] += -TWO * w.dC[t, i] * w.E[t, i]
            gP[i] += gE[i]
        d_keep, d_decay = gb * w.B[t - 1] + ga * w.A[t - 1] if t > 0 else ga, gp * w.p[t - 1] if t > 0 else gp
        for i in range(t):
            d_keep += gE[i] * w.E[t - 1, i]
            d_decay += gP[i] * w.P[t - 1, i]
            gE[i] *= keep
            gP[i] *= decay
        d_alpha[t], d_eta[t] = -d_keep, d_decay
        ga *= keep
        gb *= keep
        gp *= decay


# ------------------------------------------------------------------------------------------ all chunks of a memory


@kernel
def put(target, source):
    """The first rows and columns of target are source, the others zero: padding may hold a NaN of an earlier memory."""
    target[:] = 0
    for x in range(source.shape[0]):
        for y in range(source.shape[1]):
            target[x, y] = source[x, y]


@kernel
def get(target, source):
    """Target is the first rows and columns of source."""
    for x in range(target.shape[0]):
        for y in range(target.shape[1]):
            target[x, y] = source[x, y]


@kernel
def add(target, source):
    """The first rows and columns of target += source."""
    for x in range(source.shape[0]):
        for y in range(source.shape[1]):
            target[x, y] += source[x, y]


@kernel
def forward(w, h, q, k, v, alpha, eta, theta, W, S, at, offset, chunk, y, borders, every):
    """Read head h of a sequence: q, k, v, y (T, H, d), gates (T,); the memory, L of (m, n) each, becomes that after it.

    `at`, the weights at the start of the open chunk, is read where offset > 0 and written where a chunk stays open.
    `borders`, L of (count, 2m, n), gets the memory before every `every`-th chunk; no count, no borders.
    """
    depth, T = len(W), q.shape[0]
    here = np.int64(0)  # a bare 0 would be a type of its own, and every function be compiled twice
    for layer in range(depth):
        m = w.at[layer].shape[0]
        put(w.iR[layer][0][:m], W[layer])
        put(w.iR[layer][0][m : 2 * m], S[layer])
        put(w.at[layer], at[layer])
    start, number, anchored = 0, 0, offset > 0
    while start < T:
        n = min(T - start, chunk - offset)
        stop = start + n
        if number % every == 0 and borders[0].shape[0] > 0:
            for layer in range(depth):
                borders[layer][number // every] = w.iR[layer][0][: borders[layer].shape[1]]
        if not anchored:
            for layer in range(depth):
                w.at[layer][:] = w.iR[layer][0][: w.at[layer].shape[0]]
        write_keys(w, here, k[start:stop], v[start:stop], h, anchored)
        make_decays(w, alpha[start:stop], eta[start:stop], theta[start:stop])
        read_queries(w, here, q[start:stop], h)
        store(y[start:stop], h, w.Z[depth - 1])
        hand_over(w, here, n - 1, theta[start:stop])
        for layer in range(depth):
            rows = 2 * w.at[layer].shape[0]
            w.iR[layer][0][:rows] = w.iR[layer][1][:rows]
        offset = (offset + n) % chunk
        anchored = False
        start = stop
        number += 1
    for layer in range(depth):
        get(W[layer], w.iR[layer][0])
        get(S[layer], w.iR[layer][0][w.at[layer].shape[0] :])
        get(at[layer], w.at[layer])


@kernel
def backward(
    w, h, q, k, v, alpha, eta, theta, at, offset, chunk, dy, borders, every,
    dq, dk, dv, d_alpha, d_eta, d_theta, dW, dS, d_at,
):  # fmt: skip
    """Gradients of `forward` from dy (T, H, d) and those of the memory and of the weights of an open chunk after it.

    dW, dS and d_at, L of (m, n), hold the latter and become the gradients of what was there before.
    """
    depth, T = len(dW), q.shape[0]
    head = min(T, chunk - offset)
    count = 1 + (T - head + chunk - 1) // chunk
    for layer in range(depth):
        m = w.at[layer].shape[0]
        put(w.dnext[layer][:m], dW[layer])
        put(w.dnext[layer][m:], dS[layer])
        put(w.at[layer], at[layer])
    for group in range(borders[0].shape[0] - 1, -1, -1):
        for layer in range(depth):
            w.iR[layer][0][: borders[layer].shape[1]] = borders[layer][group]
        first = group * every
        some = min(every, count - first)
        for i in range(some):
            start, stop = place(first + i, head, chunk, T)
            anchored = offset > 0 and start == 0
            write_keys(w, i, k[start:stop], v[start:stop], h, anchored)
            if i < some - 1:
                make_decays(w, alpha[start:stop], eta[start:stop], theta[start:stop])
                hand_over(w, i, stop - start - 1, theta[start:stop])
        for i in range(some - 1, -1, -1):
            start, stop = place(first + i, head, chunk, T)
            anchored = offset > 0 and start == 0
            n = stop - start
            gates = alpha[start:stop], eta[start:stop], theta[start:stop]
            make_decays(w, gates[0], gates[1], gates[2])
            read_queries(w, i, q[start:stop], h)
            load(w.dZ[depth - 1], dy[start:stop], h)
            back_hand_over(w, i, n - 1, gates[2])
            back_queries(w, i)
            back_keys(w, i, anchored)
            back_decays(w, gates[0], gates[1], gates[2], d_alpha[start:stop], d_eta[start:stop], d_theta[start:stop])
            store(dq[start:stop], h, w.dQ[0])
            store(dk[start:stop], h, w.dK[0])
            store(dv[start:stop], h, w.dz[depth - 1])
            is_open = stop == T and (offset + T) % chunk > 0
            for layer in range(depth):
                w.dnext[layer][:] = w.dR[layer][: w.dnext[layer].shape[0]]
                if anchored:
                    if is_open:
                        add(w.dat[layer], d_at[layer])
                    get(d_at[layer], w.dat[layer])
                elif is_open:
                    add(w.dnext[layer], d_at[layer])
                    d_at[layer][:] = 0
    for layer in range(depth):
        get(dW[layer], w.dnext[layer])
        get(dS[layer], w.dnext[layer][w.at[layer].shape[0] :])


@kernel
def place(number, head, chunk, T):
    """First token and last token + 1 of a chunk, when the first chunk has `head` tokens."""
    if number == 0:
        return 0, head
    start = head + (number - 1) * chunk
    return start, min(start + chunk, T)


# --------------------------------------------------------------------------------------------------- PyTorch


class FusedMemory(torch.autograd.Function):
    """All chunks of all memories: q, k, v (B, T, H, d), gates (B, H, T); state: W, S and anchor, L of (B, H, m, n) each.

    The anchor comes and goes with an open chunk only.
    """

    @staticmethod
    def forward(ctx, q, k, v, alpha, eta, theta, offset, chunk, learning, depth, *state):
        B, T, H, d = q.shape
        inputs = [x.contiguous() for x in (q, k, v, alpha, eta, theta)]
        state = [x.clone(memory_format=torch.contiguous_format) for x in state]
        W, S, at = state[:depth], state[depth : 2 * depth], state[2 * depth :]
        widths = d, *(x.shape[3] for x in W)
        at = at or [torch.empty_like(x) for x in W]
        count = 1 + -(-(T - min(T, chunk - offset)) // chunk)
        sizes = [(2 * padded(m), padded(n)) for m, n in pairwise(widths)]
        needed = count * B * H * sum(4 * rows * columns for rows, columns in sizes)
        every = max(FEWEST, -(-needed // KEEP_BYTES))
        kept = -(-count // every) if learning else 0
        borders = [q.new_empty(B, H, kept, *size) for size in sizes]
        y = torch.empty_like(inputs[2])
        if learning:
            ctx.sizes = widths, offset, chunk, every
            ctx.set_materialize_grads(False)
            before = [x.clone() for x in at] if offset else []
            ctx.save_for_backward(*inputs, *borders, *before)
        arrays, states = [array(x) for x in (*inputs, y)], [[array(x) for x in xs] for xs in (W, S, at, borders)]

        def run(numbers):
            shape, work = (widths, min(chunk, T), 1, False), None
            for g in numbers:
                work = work or spare.take(*shape)
                b, h = divmod(g, H)
                rows, into = [x[b] for x in arrays[:3]] + [x[b, h] for x in arrays[3:6]], arrays[6][b]
                *memory, kept_here = (tuple(x[b, h] for x in xs) for xs in states)
                forward(work, h, *rows, *memory, offset, chunk, into, kept_here, every)
            if work:
                spare.leave(work, *shape)

        share_out(B * H, run)
        return (y, *W, *S, *(at if (offset + T) % chunk else ()))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *d_state):
        widths, offset, chunk, every = ctx.sizes
        depth = len(widths) - 1
        saved = ctx.saved_tensors
        inputs, borders, at = saved[:6], saved[6 : 6 + depth], saved[6 + depth :]
        B, T, H, _ = inputs[0].shape
        dy = torch.zeros_like(inputs[2]) if dy is None else dy.contiguous()
        d_inputs = [torch.empty_like(x) for x in inputs]
        shapes = [(B, H, m, n) for m, n in pairwise(widths)]
        d_state = [
            dy.new_zeros(shape) if x is None else x.clone(memory_format=torch.contiguous_format)
            for x, shape in zip(d_state + (None,) * (3 * depth - len(d_state)), shapes * 3, strict=True)
        ]
        at = at or [dy.new_empty(shape) for shape in shapes]
        arrays, d_arrays, d_out = [array(x) for x in inputs], [array(x) for x in d_inputs], array(dy)
        states = [[array(x) for x in xs] for xs in (at, borders)]
        d_states = [[array(x) for x in d_state[i * depth : (i + 1) * depth]] for i in range(3)]

        def run(numbers):
            shape, work = (widths, min(chunk, T), every, True), None
            for g in numbers:
                work = work or spare.take(*shape)
                b, h = divmod(g, H)
                rows, d_rows = ([x[b] for x in xs[:3]] + [x[b, h] for x in xs[3:]] for xs in (arrays, d_arrays))
                (anchor, kept_here), d_here = (
                    [tuple(x[b, h] for x in xs) for xs in both] for both in (states, d_states)
                )
                backward(work, h, *rows, anchor, offset, chunk, d_out[b], kept_here, every, *d_rows, *d_here)
            if work:
                spare.leave(work, *shape)

        share_out(B * H, run)
        d_inputs[2].neg_()  # of the values: the errors are M(k) - v
        d_state = d_state if offset else d_state[: 2 * depth]
        return (*d_inputs, None, None, None, None, *d_state)


def why_not(q: Tensor, v: Tensor, weights: list[Tensor]) -> str | None:
    """Why the kernels do not take these tensors, or None when they do. q, v (B, T, H, d); weights L (B, H, out, in)."""
    return "it computes in float32, got float64" if q.dtype == torch.float64 else why_no_kernels()


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
    """Arguments and results as in `titans_genomics.ops.neural_memory`, float32 on a CPU."""
    depth = len(weights)
    gates = [x.transpose(1, 2) for x in (alpha, eta, theta)]
    state = [x.mT for x in (*weights, *surprise, *(anchor if offset else ()))]
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *gates, *state))
    y, *state = FusedMemory.apply(q, k, v, *gates, offset, chunk, learning, depth, *state)
    state = [x.mT for x in state]
    weights, surprise, anchor = state[:depth], state[depth : 2 * depth], state[2 * depth :]
    return y, weights, surprise, anchor or weights
