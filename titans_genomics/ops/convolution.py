"""The short causal depthwise convolution of the projections: a handful of shifted products.

Library convolutions treat depthwise kernels of width 4 as a general case; their backward pass on CPU takes several
times longer than this one (benchmarks/).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class CausalConvolution(torch.autograd.Function):
    """y[t, c] = sum_j weight[c, j] x[t + j, c]: x (B, T + J - 1, c), weight (c, J) -> y (B, T, c), dtype of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        taps = weight.to(x.dtype).mT.contiguous()
        ctx.save_for_backward(x, weight)
        length = x.shape[1] - len(taps) + 1
        y = x[:, :length] * taps[0]
        for j, tap in enumerate(taps[1:], start=1):
            y.addcmul_(x[:, j : j + length], tap)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        taps = weight.to(x.dtype).mT.contiguous()
        length = dy.shape[1]
        dx = torch.zeros_like(x)
        d_taps = []
        for j, tap in enumerate(taps):
            dx[:, j : j + length].addcmul_(dy, tap)
            d_taps.append((x[:, j : j + length] * dy).sum((0, 1), dtype=weight.dtype))
        return dx, torch.stack(d_taps, dim=1)


def causal_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution of x (B, T + J - 1, c), whose first J - 1 tokens are the past, with weight (c, J) -> (B, T, c)."""
    return CausalConvolution.apply(x, weight)
