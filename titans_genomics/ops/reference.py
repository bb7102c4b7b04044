"""The oracle: the memory token by token, its inner gradient taken by autograd (arXiv 2501.00663, eq. 12-18).

Slow and readable on purpose. It shares no formula with what it judges: no closed-form gradient, no
products of decays, no chunks of matrices. Use it in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


def memory_mlp(x: Tensor, weights: list[Tensor]) -> Tensor:
    """M(x) = W_L s(W_{L-1} ... s(W_1 x)), s = SiLU, no biases.

    Parameters
    ----------
    x : (B, T, H, d)
    weights : L tensors (B, H, out, in)

    Returns
    -------
    (B, T, H, d)
    """
    for layer, weight in enumerate(weights):
        if layer > 0:
            x = silu(x)
        x = torch.einsum("bthi,bhoi->btho", x, weight)
    return x


def reference_memory(
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
    """Token by token. Arguments and results as in `titans_genomics.ops.neural_memory`.

    Returns
    -------
    y, weights, surprise, anchor : the output and the memory, surprise and chunk-start weights after token T
    """
    learning = torch.is_grad_enabled() and any(
        x.requires_grad for x in (q, k, v, alpha, eta, theta, *weights, *surprise, *anchor)
    )
    outputs = []
    for t in range(q.shape[1]):
        if (offset + t) % chunk == 0:
            anchor = weights
        with torch.enable_grad():
            at = [w if w.requires_grad else w.detach().requires_grad_() for w in anchor]
            error = memory_mlp(k[:, t : t + 1], at) - v[:, t : t + 1]
            loss = error.square().sum()  # every batch row and head has a memory of its own: the sum keeps them apart
            gradients = torch.autograd.grad(loss, at, create_graph=learning)
        keep, decay, step = (gate[:, t, :, None, None] for gate in (1 - alpha, eta, theta))
        surprise = [decay * s - step * u for s, u in zip(surprise, gradients, strict=True)]  # eq. 14
        weights = [keep * w + s for w, s in zip(weights, surprise, strict=True)]  # eq. 13
        outputs.append(memory_mlp(q[:, t : t + 1], weights))  # eq. 15
    if (offset + q.shape[1]) % chunk == 0:
        anchor = weights
    return torch.cat(outputs, dim=1), weights, surprise, anchor
