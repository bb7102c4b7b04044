"""The short causal depthwise convolution of the projections and its SiLU: a handful of shifted products.

Library convolutions treat depthwise kernels of width 4 as a general case; their backward pass on CPU takes several
times longer. Here a stretch of tokens stays in the cache from the first product to the SiLU, and only the input is kept.

Axes: B sequences, T tokens, J taps, c channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

STRETCH = 256
"""Tokens worked on at a time."""

silu_backward = torch.ops.aten.silu_backward  # (gradient, z) -> gradient * silu'(z)


def convolve(x: Tensor, taps: Tensor, start: int, stop: int) -> Tensor:
    """Outputs start ... stop of the convolution, before the SiLU. x (B, T + J - 1, c), taps (J, c)."""
    z = x[:, start:stop] * taps[0]
    for j, tap in enumerate(taps[1:], start=1):
        z.addcmul_(x[:, start + j : stop + j], tap)
    return z


class CausalConvolution(torch.autograd.Function):
    """y[t, c] = SiLU(sum_j weight[c, j] x[t + j, c])"""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        taps = weight.to(x.dtype).mT.contiguous()
        ctx.save_for_backward(x, weight)
        length = x.shape[1] - len(taps) + 1
        y = torch.empty_like(x[:, :length])
        for start in range(0, length, STRETCH):
            stop = min(start + STRETCH, length)
            y[:, start:stop] = F.silu(convolve(x, taps, start, stop), inplace=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        taps = weight.to(x.dtype).mT.contiguous()
        dx = torch.zeros_like(x)
        d_taps = torch.zeros_like(taps, dtype=weight.dtype)
        for start in range(0, dy.shape[1], STRETCH):
            stop = min(start + STRETCH, dy.shape[1])
            dz = silu_backward(dy[:, start:stop], convolve(x, taps, start, stop))
            for j, tap in enumerate(taps):
                dx[:, start + j : stop + j].addcmul_(dz, tap)
                d_taps[j] += (x[:, start + j : stop + j] * dz).sum((0, 1), dtype=weight.dtype)
        return dx, d_taps.mT


def causal_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """SiLU of the depthwise convolution of x (B, T + J - 1, c), whose first J - 1 tokens are the past -> (B, T, c).

    weight (c, J); y[t, c] = SiLU(sum_j weight[c, j] x[t + j, c]), in the dtype of x.
    """
    if x.shape[1] == weight.shape[1] and not torch.is_grad_enabled():  # one token, as in decoding: fewest operations
        return F.silu((x * weight.to(x.dtype).mT).sum(1, keepdim=True))
    return CausalConvolution.apply(x, weight)
