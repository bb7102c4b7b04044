"""The dual form: the same memory as `reference`, chunk by chunk, in matrix products only.

Inside a chunk all inner gradients are taken at the same weights, so the weights after token t are

    M_t = A_t M + B_t S - sum_{i<=t} C_{t,i} u_i,      u_i = delta_i a_i^T   (outer product, per layer)

with A, B, C made of the gates alone, and M_t never exists as a matrix: layer l of the query pass is

    Z = A (x W^T) + B (x S^T) - ((x a^T) * C) delta

The backward pass is written out (it is the derivative of exactly these lines), so that training keeps only
the weights at every K-th chunk border and computes the rest again, K chosen from a memory budget.

Axes: N chunks, G memories (batch x heads), s tokens of a chunk, m inputs and n outputs of a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

silu_backward = torch.ops.aten.silu_backward  # (gradient, z) -> gradient * silu'(z), one pass

KEEP_BYTES = 768 << 20  # what one call may keep of its forward pass for the backward pass before it recomputes


class Decays(NamedTuple):
    """Products of gates of N chunks; everything that mixes tokens and does not depend on the memory."""

    A_NGs: Tensor  # prod_{j<=t} (1 - alpha_j)
    B_NGs: Tensor  # weight of the carried surprise in M_t
    C_NGss: Tensor  # weight of the gradient of token i in M_t, negative sign left out
    r_NGs: Tensor  # weight of the gradient of token i in the surprise handed on
    p_NG: Tensor  # weight of the carried surprise in the surprise handed on


class Kept(NamedTuple):
    """What the backward pass needs of one chunk, per layer (lists of L)."""

    K: list[Tensor]  # layer inputs of the keys (G, s, m)
    z: list[Tensor]  # pre-activations of the keys; the last entry is not used
    E: list[Tensor]  # errors before the activation's derivative (G, s, n); the last entry is not used
    D: list[Tensor]  # errors delta (G, s, n)
    Q: list[Tensor]  # layer inputs of the queries (G, s, m)
    Z: list[Tensor]  # pre-activations of the queries; the last entry is not used
    att: list[Tensor]  # q k^T per layer (G, s, s)


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
    """A, B, C and the hand-over weights from the gates (N, G, s)."""
    A, D_alpha = DecayProducts.apply(1 - alpha)
    P, D_eta = DecayProducts.apply(eta)
    B = (D_alpha @ P[..., None]).squeeze(-1)
    C = (D_alpha @ D_eta) * theta[..., None, :]
    return Decays(A, B, C, D_eta[..., -1, :] * theta, P[..., -1])


def chunk_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decays: Decays,
    W: list[Tensor],
    S: list[Tensor],
    W_anchor: list[Tensor],
    hand_on: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], Kept]:
    """One chunk. q, k, v (G, s, d); `decays` of this chunk (G, ...); W, S, W_anchor: L tensors (G, n, m).

    Gradients are taken at W_anchor, which is W except when a stream was cut inside this chunk.
    Returns y (G, s, d), the next W and S (those given when not `hand_on`), and what backward needs.
    """
    depth = len(W)
    A, B, C, r, p = decays
    K, z = [k], []
    for layer in range(depth):
        z.append(torch.bmm(K[-1], W_anchor[layer].mT))
        if layer < depth - 1:
            K.append(silu(z[-1]))
    D: list[Tensor] = [(z[-1] - v).mul_(2)]
    E: list[Tensor] = [D[0]]
    for layer in range(depth - 2, -1, -1):
        E.insert(0, torch.bmm(D[0], W_anchor[layer + 1]))
        D.insert(0, silu_backward(E[0], z[layer]))

    Q, Z, att = [q], [], []
    for layer in range(depth):
        att.append(torch.bmm(Q[-1], K[layer].mT))
        out = torch.bmm(Q[-1] * A[..., None], W[layer].mT)
        out.baddbmm_(Q[-1] * B[..., None], S[layer].mT)
        out.baddbmm_(att[-1] * C, D[layer], alpha=-1)
        Z.append(out)
        if layer < depth - 1:
            Q.append(silu(out))

    if hand_on:
        a_end, b_end, c = A[:, -1, None, None], B[:, -1, None, None], C[:, -1, :, None]
        W_next, S_next = [], []
        for layer in range(depth):
            W_next.append((W[layer] * a_end).addcmul_(S[layer], b_end).baddbmm_(D[layer].mT, K[layer] * c, alpha=-1))
            S_next.append((S[layer] * p[:, None, None]).baddbmm_(D[layer].mT, K[layer] * r[..., None], alpha=-1))
        W, S = W_next, S_next
    return Z[-1], W, S, Kept(K, z, E, D, Q, Z, att)


def chunk_backward(
    dy: Tensor,
    dW_next: list[Tensor],
    dS_next: list[Tensor],
    decays: Decays,
    W: list[Tensor],
    S: list[Tensor],
    W_anchor: list[Tensor],
    kept: Kept,
) -> tuple[Tensor, Tensor, Tensor, Decays, list[Tensor], list[Tensor], list[Tensor]]:
    """Derivative of `chunk_forward`: gradients of q, k, v, the decays, W, S and W_anchor."""
    depth = len(W)
    A, B, C, r, p = decays
    K, z, E, D, Q, Z, att = kept
    a_end, b_end, c = A[:, -1, None, None], B[:, -1, None, None], C[:, -1, :, None]
    dA, dB, dr = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(r)
    dp, dC = torch.zeros_like(p), torch.zeros_like(C)
    dW: list[Tensor] = [None] * depth  # type: ignore[list-item]
    dS: list[Tensor] = [None] * depth  # type: ignore[list-item]
    dD: list[Tensor] = [None] * depth  # type: ignore[list-item]
    dK: list[Tensor] = [None] * depth  # type: ignore[list-item]

    # hand-over: W' = A_s W + B_s S - D^T (c K), S' = p S - D^T (r K)
    for layer in range(depth):
        dWn, dSn = dW_next[layer], dS_next[layer]
        dA[:, -1] += (dWn * W[layer]).sum((-2, -1))
        dB[:, -1] += (dWn * S[layer]).sum((-2, -1))
        dp += (dSn * S[layer]).sum((-2, -1))
        dW[layer] = dWn * a_end
        dS[layer] = (dWn * b_end).addcmul_(dSn, p[:, None, None])
        K_dW, K_dS = torch.bmm(K[layer], dWn.mT), torch.bmm(K[layer], dSn.mT)
        dC[:, -1] -= (K_dW * D[layer]).sum(-1)
        dr -= (K_dS * D[layer]).sum(-1)
        dD[layer] = K_dW.mul_(-c).addcmul_(K_dS, r[..., None], value=-1)
        dK[layer] = torch.bmm(D[layer] * -c, dWn).baddbmm_(D[layer] * r[..., None], dSn, alpha=-1)

    # query pass: Z = A (Q W^T) + B (Q S^T) - (att C) D
    dZ = dy
    for layer in range(depth - 1, -1, -1):
        dZ_W, dZ_S = torch.bmm(dZ, W[layer]), torch.bmm(dZ, S[layer])
        dA += (dZ_W * Q[layer]).sum(-1)
        dB += (dZ_S * Q[layer]).sum(-1)
        dZ_D = torch.bmm(dZ, D[layer].mT)
        dC.addcmul_(dZ_D, att[layer], value=-1)
        d_att = dZ_D.mul_(C)  # negative sign applied below
        dD[layer].baddbmm_((att[layer] * C).mT, dZ, alpha=-1)
        dK[layer].baddbmm_(d_att.mT, Q[layer], alpha=-1)
        dW[layer].baddbmm_(dZ.mT, Q[layer] * A[..., None])
        dS[layer].baddbmm_(dZ.mT, Q[layer] * B[..., None])
        dQ = dZ_W.mul_(A[..., None]).addcmul_(dZ_S, B[..., None]).baddbmm_(d_att, K[layer], alpha=-1)
        dZ = silu_backward(dQ, Z[layer - 1]) if layer > 0 else dQ

    # key pass, downwards through the errors, then upwards through the activations
    dW_anchor: list[Tensor] = [None] * depth  # type: ignore[list-item]
    dz: list[Tensor] = [None] * depth  # type: ignore[list-item]
    for layer in range(depth - 1):
        dE = silu_backward(dD[layer], z[layer])
        dz[layer] = (dD[layer] * E[layer]).mul_(silu_second_derivative(z[layer]))
        dD[layer + 1].baddbmm_(dE, W_anchor[layer + 1].mT)
        dW_anchor[layer + 1] = torch.bmm(D[layer + 1].mT, dE)
    dz[-1] = dD[-1].mul_(2)
    for layer in range(depth - 1, -1, -1):
        dK[layer].baddbmm_(dz[layer], W_anchor[layer])
        if dW_anchor[layer] is None:
            dW_anchor[layer] = torch.bmm(dz[layer].mT, K[layer])
        else:
            dW_anchor[layer].baddbmm_(dz[layer].mT, K[layer])
        if layer > 0:
            dz[layer - 1] += silu_backward(dK[layer], z[layer - 1])
    return dZ, dK[0], -dz[-1], Decays(dA, dB, dC, dr, dp), dW, dS, dW_anchor


def silu_second_derivative(z: Tensor) -> Tensor:
    """s''(z) = g (1 - g) (2 + z (1 - 2 g)), g = sigmoid(z)."""
    g = torch.sigmoid(z)
    outer = g * (1 - g)
    return g.mul_(-2).add_(1).mul_(z).add_(2).mul_(outer)


class ChunkedMemory(torch.autograd.Function):
    """N chunks of equal size, forward and backward; keeps the memory at every K-th chunk border."""

    @staticmethod
    def forward(ctx, q, k, v, alpha, eta, theta, depth, anchored, *state):
        """q, k, v (N, G, s, d); gates (N, G, s); state: L weights, L surprises, L anchors (G, n, m).

        `anchored`: the first chunk was opened earlier and takes its gradients at the anchors; otherwise the
        anchors are not looked at.
        """
        W, S, anchor = (list(state[i * depth : (i + 1) * depth]) for i in range(3))
        learning = any(ctx.needs_input_grad)
        every = chunks_per_group(q, W)
        keep_all = learning and every >= q.shape[0]
        y = torch.empty_like(v)
        borders, trail = [], None
        for start in range(0, q.shape[0], every):
            borders.append((W, S))
            stop = min(start + every, q.shape[0])
            decays = make_decays(alpha[start:stop], eta[start:stop], theta[start:stop])
            W, S, trail = group_forward(
                q[start:stop], k[start:stop], v[start:stop], decays, W, S,
                anchor if anchored and start == 0 else None, keep_all, y[start:stop],
            )  # fmt: skip
        if learning:
            ctx.save_for_backward(q, k, v, alpha, eta, theta, *state)
            ctx.depth, ctx.anchored, ctx.every = depth, anchored, every
            ctx.borders, ctx.trail = borders, trail if keep_all else None
        return (y, *W, *S)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *d_state):
        q, k, v, alpha, eta, theta, *state = ctx.saved_tensors
        depth, every = ctx.depth, ctx.every
        dW, dS = list(d_state[:depth]), list(d_state[depth:])
        d_anchor: list[Tensor | None] = [None] * depth
        grads = [torch.empty_like(x) for x in (q, k, v, alpha, eta, theta)]
        with torch.autocast(q.device.type, enabled=False):
            for group in reversed(range(len(ctx.borders))):
                start, stop = group * every, min((group + 1) * every, q.shape[0])
                anchored = ctx.anchored and start == 0
                anchor = list(state[2 * depth :]) if anchored else None
                with torch.enable_grad():
                    gates = [x[start:stop].detach().requires_grad_() for x in (alpha, eta, theta)]
                    decays = make_decays(*gates)
                W, S = ctx.borders[group]
                trail = ctx.trail
                if trail is None:
                    detached = Decays(*(x.detach() for x in decays))
                    *_, trail = group_forward(
                        q[start:stop], k[start:stop], v[start:stop], detached, W, S, anchor, True, None
                    )
                d_decays = Decays(*(torch.empty_like(x) for x in decays))
                for i in reversed(range(stop - start)):
                    W, S, kept = trail.pop()
                    now = Decays(*(x.detach()[i] for x in decays))
                    at = anchor if anchored and i == 0 else W
                    dq, dk, dv, d_now, dW, dS, d_at = chunk_backward(
                        dy[start + i].contiguous(), dW, dS, now, W, S, at, kept
                    )
                    if anchored and i == 0:
                        d_anchor = d_at
                    else:
                        dW = [a.add_(b) for a, b in zip(dW, d_at, strict=True)]
                    for into, part in zip(grads, (dq, dk, dv), strict=False):
                        into[start + i] = part
                    for into, part in zip(d_decays, d_now, strict=True):
                        into[i] = part
                for into, part in zip(grads[3:], torch.autograd.grad(decays, gates, d_decays), strict=True):
                    into[start:stop] = part
        ctx.trail = None
        return (*grads, None, None, *dW, *dS, *d_anchor)


def group_forward(q, k, v, decays, W, S, anchor, keep, y):
    """Some chunks in a row; writes y in place when given; returns W, S and, with `keep`, a trail for backward."""
    trail = []
    for i in range(q.shape[0]):
        now = Decays(*(x[i] for x in decays))
        at = anchor if anchor is not None and i == 0 else W
        out, W_next, S_next, kept = chunk_forward(q[i], k[i], v[i], now, W, S, at, hand_on=True)
        if keep:
            trail.append((W, S, kept))
        if y is not None:
            y[i] = out
        W, S = W_next, S_next
    return W, S, trail


def chunks_per_group(q: Tensor, W: list[Tensor]) -> int:
    """K: all chunks when their intermediates fit in KEEP_BYTES, else about the square root of what N chunks would need."""
    count, groups, size, _ = q.shape
    widths = sum(2 * w.shape[-1] + 4 * w.shape[-2] + size for w in W)
    per_chunk = q.element_size() * groups * (size * (widths + 6 * size) + 2 * sum(w.shape[-1] * w.shape[-2] for w in W))
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
    depth = len(weights)
    weights, surprise, anchor = ([x.reshape(B * H, *x.shape[2:]) for x in xs] for xs in (weights, surprise, anchor))

    # what is left of the open chunk, whole chunks, what opens the last chunk
    sizes = []
    head = min(T, (chunk - offset) % chunk)
    if head:
        sizes.append((1, head))
    if (T - head) // chunk:
        sizes.append(((T - head) // chunk, chunk))
    if (T - head) % chunk:
        sizes.append((1, (T - head) % chunk))

    spans = [x.split([count * size for count, size in sizes], dim=1) for x in (q, k, v, alpha, eta, theta)]
    outputs = []
    for (count, size), *parts in zip(sizes, *spans, strict=True):
        # (B, N s, H, ...) -> (N, B H, s, ...)
        rows = [x.unflatten(1, (count, size)).transpose(2, 3).transpose(0, 1).flatten(1, 2).contiguous() for x in parts]
        if offset == 0:
            anchor = weights
        with torch.autocast(q.device.type, enabled=False):
            y, *state = ChunkedMemory.apply(*rows, depth, offset > 0, *weights, *surprise, *anchor)
        weights, surprise = state[:depth], state[depth:]
        offset = (offset + count * size) % chunk
        outputs.append(y.unflatten(1, (B, H)).transpose(0, 1).transpose(2, 3).flatten(1, 2))
        if offset == 0:
            anchor = weights
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    unflat = [[x.unflatten(0, (B, H)) for x in xs] for xs in (weights, surprise, anchor)]
    return y, *unflat
