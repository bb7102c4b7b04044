"""The dual form: the same memory as `reference`, chunk by chunk, in matrix products only.

Inside a chunk all inner gradients are taken at the same weights, so the weights after token t are

    M_t = A_t M + B_t S - sum_{i<=t} C_{t,i} u_i,      u_i = delta_i a_i^T   (outer product, per layer)

with A, B, C made of the gates alone, and M_t never exists as a matrix: layer l of the query pass is

    Z = A (x W^T) + B (x S^T) - ((x a^T) * C) delta

Weights and surprise of a layer lie side by side in one matrix, so that each of these lines is one product. The
backward pass is written out (it is the derivative of exactly these lines); training keeps the memory at every K-th
chunk border and computes the rest again, K chosen from a memory budget.

Axes: N chunks, G memories (batch x heads), s tokens of a chunk, m inputs and n outputs of a layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from titans_genomics.ops.convolution import silu_backward

KEEP_BYTES = 768 << 20  # what one call may keep of its forward pass for the backward pass before it recomputes


class Decays(NamedTuple):
    """Products of gates of N chunks; everything that mixes tokens and does not depend on the memory."""

    now_NGs2: Tensor  # A_t, B_t: what is left of W and S in the weights after token t
    C_NGss: Tensor  # weight of the gradient of token i in M_t, negative sign left out
    next_NGs2: Tensor  # weights of the gradient of token i in the W and the S handed on
    p_NG: Tensor  # what is left of S in the surprise handed on

    def chunk(self, i: int) -> Decays:
        """The decays of one chunk, without history."""
        return Decays(*(x.detach()[i] for x in self))


class Kept(NamedTuple):
    """What the backward pass needs of one chunk: lists of L tensors, one per layer, or L - 1, one per activation."""

    WS: list[Tensor]  # L, weights and surprise before the chunk (G, n, 2m)
    K: list[Tensor]  # L, layer inputs of the keys (G, s, m)
    D: list[Tensor]  # L, errors delta (G, s, n)
    Q: list[Tensor]  # L, layer inputs of the queries (G, s, m)
    att: list[Tensor]  # L, q k^T (G, s, s)
    z: list[Tensor]  # L - 1, pre-activations of the keys (G, s, n)
    E: list[Tensor]  # L - 1, errors before the activation's derivative (G, s, n)
    Z: list[Tensor]  # L - 1, pre-activations of the queries (G, s, n)

    def flat(self) -> list[Tensor]:
        """All tensors in a row."""
        return [x for part in self for x in part]

    @classmethod
    def unflat(cls, tensors: list[Tensor], depth: int) -> Kept:
        """The inverse of `flat`."""
        ends = [*range(0, 5 * depth + 1, depth), *(5 * depth + i * (depth - 1) for i in (1, 2, 3))]
        return cls(*(tensors[a:b] for a, b in pairwise(ends)))


class DecayProducts(torch.autograd.Function):
    """Products of a gate's factors: (..., s) -> prod_{j<=t} f_j (..., s) and, for i <= t, prod_{i<j<=t} f_j (..., s, s).

    Products are exponentials of differences of cumulative logarithms, masked before exp. A factor of 0 counts as a
    number below the precision of 1. Products too small to matter are exactly 0, so that no product of two of them is
    a denormal number. The derivative for f_j is the sum over the products that hold f_j, divided by f_j: a sum of
    terms that all hold f_j, and therefore exact also where the gate is closed (differences of sums would not be).
    """

    @staticmethod
    def forward(ctx, factor: Tensor) -> tuple[Tensor, Tensor]:
        single = factor.dtype == torch.float32
        floor = -43.0 if single else -300.0
        factor = factor.clamp_min(1e-9 if single else 1e-18)
        total = factor.log().cumsum(-1)
        size = factor.shape[-1]
        later = torch.ones(size, size, dtype=torch.bool, device=factor.device).triu(1)
        between = total[..., :, None] - total[..., None, :]
        between = between.masked_fill_(later | (between < floor), -torch.inf).exp_()
        total = total.masked_fill_(total < floor, -torch.inf).exp_()
        ctx.save_for_backward(factor, total, between)
        return total, between

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total: Tensor, d_between: Tensor) -> Tensor:
        factor, total, between = ctx.saved_tensors
        d_log = (d_total * total).flip(-1).cumsum(-1).flip(-1)
        crossing = (d_between * between).cumsum(-1).tril_(-1).sum(-2)
        d_log[..., 1:] += crossing[..., :-1]
        return d_log / factor


def make_decays(alpha: Tensor, eta: Tensor, theta: Tensor) -> Decays:
    """The products of the gates (N, G, s) that the chunks need."""
    A, D_alpha = DecayProducts.apply(1 - alpha)
    P, D_eta = DecayProducts.apply(eta)
    B = (D_alpha @ P[..., None]).squeeze(-1)
    C = (D_alpha @ D_eta) * theta[..., None, :]
    return Decays(torch.stack([A, B], -1), C, torch.stack([C[..., -1, :], D_eta[..., -1, :] * theta], -1), P[..., -1])


def scaled_twice(x: Tensor, scales: Tensor) -> Tensor:
    """x (G, s, m) times two numbers per token (G, s, 2), side by side: (G, s, 2m)."""
    return (x[:, :, None] * scales[..., None]).flatten(2)


def summed_twice(x: Tensor, scales: Tensor) -> Tensor:
    """The derivative of `scaled_twice`: x (G, s, 2, m) times (G, s, 2), summed over the two: (G, s, m)."""
    return (x[:, :, 0] * scales[..., :1]).addcmul_(x[:, :, 1], scales[..., 1:])


def chunk_forward(
    q: Tensor, k: Tensor, v: Tensor, decays: Decays, WS: list[Tensor], anchor: list[Tensor]
) -> tuple[Tensor, list[Tensor], Kept]:
    """One chunk. q, k, v (G, s, d); WS: L tensors (G, n, 2m), weights and surprise side by side; anchor: L of (G, n, m).

    Gradients are taken at the anchor, which is W except when a stream was cut inside this chunk.
    Returns y (G, s, d), the next WS, and what backward needs.
    """
    depth = len(WS)
    now, C, following, p = decays
    K, z = [k], []
    for layer in range(depth):
        z.append(torch.bmm(K[-1], anchor[layer].mT))
        if layer < depth - 1:
            K.append(silu(z[-1]))
    D: list[Tensor] = [(z[-1] - v).mul_(2)]
    E: list[Tensor] = []
    for layer in range(depth - 2, -1, -1):
        E.insert(0, torch.bmm(D[0], anchor[layer + 1]))
        D.insert(0, silu_backward(E[0], z[layer]))

    Q, Z, att = [q], [], []
    for layer in range(depth):
        att.append(torch.bmm(Q[-1], K[layer].mT))
        Z.append(torch.bmm(scaled_twice(Q[-1], now), WS[layer].mT).baddbmm_(att[-1] * C, D[layer], alpha=-1))
        if layer < depth - 1:
            Q.append(silu(Z[-1]))

    a_end, b_end = now[:, -1, :1, None], now[:, -1, 1:, None]
    WS_next = []
    for layer in range(depth):
        W, S = WS[layer].chunk(2, dim=-1)
        carried = torch.cat([W * a_end + S * b_end, S * p[:, None, None]], dim=-1)
        WS_next.append(carried.baddbmm_(D[layer].mT, scaled_twice(K[layer], following), alpha=-1))
    return Z[-1], WS_next, Kept(WS, K, D, Q, att, z[:-1], E, Z[:-1])


def chunk_backward(
    dy: Tensor, d_next: list[Tensor], decays: Decays, anchor: list[Tensor], kept: Kept
) -> tuple[Tensor, Tensor, Tensor, Decays, list[Tensor], list[Tensor]]:
    """Derivative of `chunk_forward` for dy (G, s, d) and d_next, L of (G, n, 2m).

    Returns the gradients of q, k, v, the decays, WS and the anchor.
    """
    now, C, following, p = decays
    WS, K, D, Q, att, z, E, Z = kept
    depth = len(WS)
    a_end, b_end = now[:, -1, :1, None], now[:, -1, 1:, None]
    d_now, dC, d_following, dp = (
        torch.zeros_like(now),
        torch.zeros_like(C),
        torch.zeros_like(following),
        torch.zeros_like(p),
    )
    d_WS, dD, dK = [], [], []

    # hand-over: W' = A_s W + B_s S - D^T (c K), S' = p S - D^T (r K)
    for layer in range(depth):
        (W, S), (dW, dS) = WS[layer].chunk(2, dim=-1), d_next[layer].chunk(2, dim=-1)
        d_now[:, -1, 0] += (dW * W).sum((-2, -1))
        d_now[:, -1, 1] += (dW * S).sum((-2, -1))
        dp += (dS * S).sum((-2, -1))
        d_WS.append(torch.cat([dW * a_end, (dW * b_end).addcmul_(dS, p[:, None, None])], dim=-1))
        dD.append(torch.bmm(scaled_twice(K[layer], following), d_next[layer].mT).neg_())
        D_next = torch.bmm(D[layer], d_next[layer]).unflatten(-1, (2, -1))
        d_following.sub_((D_next * K[layer][:, :, None]).sum(-1))
        dK.append(summed_twice(D_next, following).neg_())

    # query pass: Z = [A Q | B Q] [W | S]^T - (att C) D
    dZ = dy
    for layer in range(depth - 1, -1, -1):
        dZ_D = torch.bmm(dZ, D[layer].mT)
        dC.addcmul_(dZ_D, att[layer], value=-1)
        d_att = dZ_D.mul_(C)  # its negative sign is applied below
        dD[layer].baddbmm_((att[layer] * C).mT, dZ, alpha=-1)
        dK[layer].baddbmm_(d_att.mT, Q[layer], alpha=-1)
        d_WS[layer].baddbmm_(dZ.mT, scaled_twice(Q[layer], now))
        dZ_WS = torch.bmm(dZ, WS[layer]).unflatten(-1, (2, -1))
        d_now.add_((dZ_WS * Q[layer][:, :, None]).sum(-1))
        dQ = summed_twice(dZ_WS, now).baddbmm_(d_att, K[layer], alpha=-1)
        dZ = silu_backward(dQ, Z[layer - 1]) if layer > 0 else dQ

    # key pass, downwards through the errors, then upwards through the activations
    d_anchor: list[Tensor] = [None] * depth  # type: ignore[list-item]
    dz: list[Tensor] = [None] * depth  # type: ignore[list-item]
    for layer in range(depth - 1):
        dE = silu_backward(dD[layer], z[layer])
        dz[layer] = (dD[layer] * E[layer]).mul_(silu_second_derivative(z[layer]))
        dD[layer + 1].baddbmm_(dE, anchor[layer + 1].mT)
        d_anchor[layer + 1] = torch.bmm(D[layer + 1].mT, dE)
    dz[-1] = dD[-1].mul_(2)
    for layer in range(depth - 1, -1, -1):
        dK[layer].baddbmm_(dz[layer], anchor[layer])
        if layer == 0:
            d_anchor[0] = torch.bmm(dz[0].mT, K[0])
        else:
            d_anchor[layer].baddbmm_(dz[layer].mT, K[layer])
            dz[layer - 1] += silu_backward(dK[layer], z[layer - 1])
    return dZ, dK[0], -dz[-1], Decays(d_now, dC, d_following, dp), d_WS, d_anchor


def silu_second_derivative(z: Tensor) -> Tensor:
    """s''(z) = g (1 - g) (2 + z (1 - 2 g)), g = sigmoid(z)."""
    g = torch.sigmoid(z)
    outer = g * (1 - g)
    return g.mul_(-2).add_(1).mul_(z).add_(2).mul_(outer)


class ChunkedMemory(torch.autograd.Function):
    """N chunks of equal size, forward and backward; keeps the memory at every K-th chunk border."""

    @staticmethod
    def forward(ctx, q, k, v, alpha, eta, theta, anchored, *state):
        """q, k, v (N, G, s, d); gates (N, G, s); state: L of WS (G, n, 2m), then L anchors (G, n, m).

        `anchored`: the first chunk was opened earlier and takes its gradients at the anchors; otherwise the
        anchors are not looked at.
        """
        depth = len(state) // 2
        WS, anchor = list(state[:depth]), list(state[depth:])
        learning = any(ctx.needs_input_grad)
        every = chunks_per_group(q, WS)
        keep_all = learning and every >= q.shape[0]
        y = torch.empty_like(v)
        borders, trail = [], []
        for start in range(0, q.shape[0], every):
            borders.append(WS)
            span = slice(start, start + every)
            at = anchor if anchored and start == 0 else None
            decays = make_decays(alpha[span], eta[span], theta[span])
            WS, trail = group_forward(q[span], k[span], v[span], decays, WS, at, keep_all, y[span])
        if learning:
            # everything goes through save_for_backward, so that activation checkpointing can drop it
            ctx.sizes = depth, len(borders), len(trail)
            ctx.anchored, ctx.every = anchored, every
            kept = [x for chunk in trail for x in chunk.flat()]
            ctx.save_for_backward(q, k, v, alpha, eta, theta, *state, *(x for border in borders for x in border), *kept)
        return (y, *WS)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *d_WS):
        depth, border_count, chunk_count = ctx.sizes
        q, k, v, alpha, eta, theta, *rest = ctx.saved_tensors
        anchors, rest = rest[depth : 2 * depth], rest[2 * depth :]
        borders = [rest[i * depth : (i + 1) * depth] for i in range(border_count)]
        rest = rest[border_count * depth :]
        size = len(rest) // max(chunk_count, 1)
        kept_trail = [Kept.unflat(rest[i * size : (i + 1) * size], depth) for i in range(chunk_count)]
        d_anchor: list[Tensor | None] = [None] * depth
        grads = [torch.empty_like(x) for x in (q, k, v, alpha, eta, theta)]
        dy = dy.contiguous()
        with torch.autocast(q.device.type, enabled=False):
            for group in reversed(range(border_count)):
                start = group * ctx.every
                span = slice(start, start + ctx.every)
                anchor = anchors if ctx.anchored and start == 0 else None
                with torch.enable_grad():
                    gates = [x[span].detach().requires_grad_() for x in (alpha, eta, theta)]
                    decays = make_decays(*gates)
                trail = kept_trail
                if not trail:
                    _, trail = group_forward(q[span], k[span], v[span], decays, borders[group], anchor, True, None)
                d_decays = Decays(*(torch.empty_like(x) for x in decays))
                for i in reversed(range(len(trail))):
                    kept = trail.pop()
                    cut = anchor is not None and i == 0
                    at = anchor if cut else [x.chunk(2, dim=-1)[0] for x in kept.WS]
                    *d_rows, d_chunk, d_WS, d_at = chunk_backward(dy[start + i], d_WS, decays.chunk(i), at, kept)
                    if cut:
                        d_anchor = d_at
                    else:
                        for both, at_anchor in zip(d_WS, d_at, strict=True):
                            both[..., : at_anchor.shape[-1]] += at_anchor
                    for into, part in zip(grads, d_rows, strict=False):
                        into[start + i] = part
                    for into, part in zip(d_decays, d_chunk, strict=True):
                        into[i] = part
                for into, part in zip(grads[3:], torch.autograd.grad(decays, gates, d_decays), strict=True):
                    into[span] = part
        return (*grads, None, *d_WS, *d_anchor)


def group_forward(q, k, v, decays, WS, anchor, keep, y):
    """Some chunks in a row; writes y in place when given; returns WS and, with `keep`, a trail for backward."""
    trail = []
    for i in range(q.shape[0]):
        at = anchor if anchor is not None and i == 0 else [x.chunk(2, dim=-1)[0] for x in WS]
        out, WS, kept = chunk_forward(q[i], k[i], v[i], decays.chunk(i), WS, at)
        if y is not None:
            y[i] = out
        if keep:
            trail.append(kept)
    return WS, trail


def chunks_per_group(q: Tensor, WS: list[Tensor]) -> int:
    """K: how many chunks' intermediates fit in KEEP_BYTES."""
    count, groups, size, _ = q.shape
    per_token = sum(x.shape[-1] + 4 * x.shape[-2] + size for x in WS) + 6 * size
    per_chunk = q.element_size() * groups * (size * per_token + sum(x.shape[-1] * x.shape[-2] for x in WS))
    return max(1, min(count, KEEP_BYTES // per_chunk))


def chunked_memory(
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
    """Arguments and results as in `titans_genomics.ops.neural_memory`."""
    B, T, H, _ = q.shape
    pairs = [torch.cat([w, s], dim=-1).flatten(0, 1) for w, s in zip(weights, surprise, strict=True)]
    anchor = [x.flatten(0, 1) for x in anchor]

    # what is left of the open chunk, whole chunks, what opens the last chunk
    head = min(T, (chunk - offset) % chunk)
    whole, tail = divmod(T - head, chunk)
    spans = [(count, size) for count, size in ((1, head), (whole, chunk), (1, tail)) if count * size]

    cuts = [count * size for count, size in spans]
    parts = zip(*(x.split(cuts, dim=1) for x in (q, k, v, alpha, eta, theta)), strict=True)
    outputs = []
    for (count, size), rows in zip(spans, parts, strict=True):
        # (B, N s, H, ...) -> (N, B H, s, ...)
        rows = [x.unflatten(1, (count, size)).transpose(2, 3).transpose(0, 1).flatten(1, 2).contiguous() for x in rows]
        if offset == 0:
            anchor = [x.chunk(2, dim=-1)[0] for x in pairs]
        with torch.autocast(q.device.type, enabled=False):
            y, *pairs = ChunkedMemory.apply(*rows, offset > 0, *pairs, *anchor)
        offset = (offset + count * size) % chunk
        outputs.append(y.unflatten(1, (B, H)).transpose(0, 1).transpose(2, 3).flatten(1, 2))
    weights, surprise = zip(*(x.unflatten(0, (B, H)).chunk(2, dim=-1) for x in pairs), strict=True)
    anchor = list(weights) if offset == 0 else [x.unflatten(0, (B, H)) for x in anchor]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), list(weights), list(surprise), anchor
