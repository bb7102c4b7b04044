"""One token at a time, without autograd: the update rule itself (arXiv 2501.00663, eq. 12-18), in few operations.

A token costs a pass over the memory whatever was read before. The inner gradient of layer l is delta_l a_l^T (errors
times layer inputs); the errors are linear in the last one, so the step size enters there, once, and eq. 14 is one
rank-one update per layer.

Who owns the state: with `in_place`, the state that comes back is of `OwnBuffers`, and the next call that gets it writes
into them; it is used up by that call. Tensors from anywhere else (parameters, states of other backends, checkpoints)
are copied first and never written to. Without `in_place` nothing that was passed is written to.

Axes: G memories (batch x heads), m inputs and n outputs of a layer; tokens are rows (G, 1, width).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from titans_genomics.ops.convolution import silu_backward


class OwnBuffers(list[Tensor]):
    """Tensors that a stream of in-place tokens allocated for itself and writes to."""


def decode_memory(
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
    in_place: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Arguments and results as in `titans_genomics.ops.neural_memory`, all of one dtype, plus `in_place`.

    Parameters
    ----------
    in_place : overwrite those of `weights`, `surprise` and `anchor` that are `OwnBuffers` and copy the others first;
        False: write to new tensors
    """
    B, T, H, d = q.shape
    depth = len(weights)
    if in_place:
        weights, surprise, anchor = (
            xs if isinstance(xs, OwnBuffers) and writable(xs) else OwnBuffers(x.clone(memory_format=torch.contiguous_format) for x in xs)
            for xs in (weights, surprise, anchor)
        )  # fmt: skip
    kept = [[x.reshape(B * H, *x.shape[2:]) for x in xs] for xs in (weights, surprise, anchor)]
    W, S, at = kept
    keep, decay, step = 1 - alpha, eta, -2 * theta
    y = torch.empty_like(v)
    for t in range(T):
        if (offset + t) % chunk == 0:
            at = copy(W, at) if in_place else list(W)
        queries, keys, values = (x[:, t].reshape(B * H, 1, d) for x in (q, k, v))
        keep_t, decay_t, step_t = (x[:, t].reshape(B * H, 1, 1) for x in (keep, decay, step))

        inputs, z = [keys], []
        for layer in range(depth):
            z.append(torch.bmm(inputs[-1], at[layer].mT))
            if layer < depth - 1:
                inputs.append(silu(z[-1]))
        error = (z[-1] - values).mul_(step_t)
        for layer in range(depth - 1, -1, -1):
            below = silu_backward(torch.bmm(error, at[layer]), z[layer - 1]) if layer > 0 else error
            if in_place:
                S[layer].mul_(decay_t).addcmul_(error.mT, inputs[layer])  # eq. 14
                torch.addcmul(S[layer], W[layer], keep_t, out=W[layer])  # eq. 13
            else:
                S[layer] = (S[layer] * decay_t).addcmul_(error.mT, inputs[layer])
                W[layer] = torch.addcmul(S[layer], W[layer], keep_t)
            error = below

        for layer in range(depth):
            queries = torch.bmm(silu(queries) if layer > 0 else queries, W[layer].mT)  # eq. 15
        y[:, t] = queries.view(B, H, d)
    if (offset + T) % chunk == 0:
        at = copy(W, at) if in_place else list(W)
    if in_place:
        return y, weights, surprise, anchor
    return y, *([x.view(B, H, *x.shape[1:]) for x in xs] for xs in (W, S, at))


def copy(source: list[Tensor], target: list[Tensor]) -> list[Tensor]:
    """Overwrite target."""
    for a, b in zip(source, target, strict=True):
        b.copy_(a)
    return target


def writable(tensors: list[Tensor]) -> bool:
    """Whether these may be written to here: what inference mode made cannot be written to outside of it."""
    return torch.is_inference_mode_enabled() or not any(x.is_inference() for x in tensors)
