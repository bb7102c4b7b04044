"""What stands before and after the memory, per head: convolution, SiLU and norms of q, k, v; norm and gate of the output.

On CPUs in float32 both are one pass over the tokens each way (`heads_cpu`), elsewhere a few PyTorch operations.

Axes: B sequences, T tokens, J taps, P parts (such as q, k, v), H heads, d head width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from titans_genomics.ops.convolution import causal_convolution
from titans_genomics.ops.threads import why_no_kernels

Length = Literal["one", "at most one", "any"]


def convolved_heads(x: Tensor, weight: Tensor, heads: int, lengths: tuple[Length, ...]) -> list[Tensor]:
    """SiLU of the causal depthwise convolution of x, in heads, each shortened to the length asked for.

    Parameters
    ----------
    x : (B, T + J - 1, P H d), the first J - 1 tokens are the past
    weight : (P H d, J), the taps of each channel; y[t, c] = SiLU(sum_j weight[c, j] x[t + j, c])
    heads : int, H
    lengths : what to do with each of the P parts: "one" divides a head's vector by its length, "at most one" by the
        part of its length above 1, "any" leaves it

    Returns
    -------
    P tensors (B, T, H, d), at least float32
    """
    if _on_cpu(x):
        from titans_genomics.ops.heads_cpu import fused_convolved_heads

        return fused_convolved_heads(x.float(), weight.float(), heads, lengths)
    y = full_precision(causal_convolution(x, weight))
    parts = [part.unflatten(-1, (heads, -1)) for part in y.chunk(len(lengths), dim=-1)]
    return [_of_length(part, length) for part, length in zip(parts, lengths, strict=True)]


def convolve_on(
    x: Tensor, tail: Tensor, weight: Tensor | None, heads: int, lengths: tuple[Length, ...]
) -> tuple[list[Tensor], Tensor]:
    """`convolved_heads` of x (B, T, P H d) behind what was read before, tail (B, J - 1, P H d); weight None: no convolution.

    Returns the P tensors (B, T, H, d) and the tail of what comes next.
    """
    if weight is None:
        return convolved_heads(x, x.new_ones(x.shape[-1], 1), heads, lengths), tail
    x = torch.cat([tail.to(x.dtype), x], dim=1)
    tail = x[:, x.shape[1] - (weight.shape[1] - 1) :].clone()  # a view would keep all of x alive in the state
    return convolved_heads(x, weight, heads, lengths), tail


def _of_length(x: Tensor, length: Length) -> Tensor:
    if length == "one":
        return F.normalize(x, dim=-1, eps=1e-6)
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1) if length == "at most one" else x


def gated_norm(y: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm per head, times weight, times SiLU(gate).

    Parameters
    ----------
    y : (B, T, H, d)
    gate : (B, T, H d)
    weight : (H, d)

    Returns
    -------
    (B, T, H d), dtype of gate
    """
    if _on_cpu(y) and gate.dtype != torch.float64:
        from titans_genomics.ops.heads_cpu import fused_gated_norm

        return fused_gated_norm(y.float(), gate.float(), weight.float()).to(gate.dtype)
    y = (F.rms_norm(full_precision(y), y.shape[-1:], eps=1e-6) * weight).flatten(2)
    return y.to(gate.dtype) * F.silu(gate)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x / rms(x) * weight over the last axis: x (..., C), weight (C,) -> (..., C), dtype of x."""
    if _on_cpu(x) and x.dtype == torch.float32 and x.shape[-2] > 1:
        from titans_genomics.ops.heads_cpu import fused_rms_norm

        return fused_rms_norm(x, weight.float())
    return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps=1e-6)


def _on_cpu(x: Tensor) -> bool:
    """Whether the kernels for CPUs take x."""
    return x.device.type == "cpu" and x.dtype != torch.float64 and why_no_kernels() is None


def full_precision(x: Tensor) -> Tensor:
    """bfloat16 and float16 to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
