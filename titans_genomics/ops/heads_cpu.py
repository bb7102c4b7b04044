"""The CPU kernels of `heads`: one pass over the tokens forward and one backward, compiled by Numba.

A job is a stretch of tokens of one sequence; what it adds up for the weights is its own.

Axes: T tokens, J taps, C = P H d channels of P parts (such as q, k, v) and H heads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from titans_genomics.ops.threads import array, share_out
from titans_genomics.ops.tiles import ONE, dot, kernel, sigmoid, slope

EPS = np.float32(1e-6)
ZERO = np.float32(0)
STRETCH = 128
"""Most tokens of a job: waking threads costs as much as the work of some hundred tokens."""

LONGEST = {"one": EPS, "at most one": ONE, "any": np.float32(np.inf)}
"""Vectors longer than this are divided by their length. Shorter ones: "one" still divides by EPS."""


@kernel
def convolve(z, x, taps, t):
    """z (C,) = the convolution at token t of x (T + J - 1, C), before the SiLU; taps (J, C)."""
    for c in range(z.shape[0]):
        z[c] = x[t, c] * taps[0, c]
    for j in range(1, taps.shape[0]):
        for c in range(z.shape[0]):
            z[c] += x[t + j, c] * taps[j, c]


@kernel
def convolved_forward(ys, x, taps, longest, width, start, stop):
    """Tokens start ... stop of P of (T, H d) from x (T + J - 1, C)."""
    channels = taps.shape[1]
    each = channels // len(ys)
    z = np.empty(channels, np.float32)
    for t in range(start, stop):
        convolve(z, x, taps, t)
        for c in range(channels):
            z[c] = z[c] * sigmoid(z[c])
        for part in range(len(ys)):
            most, y = longest[part], ys[part]
            for first in range(part * each, (part + 1) * each, width):
                scale = (
                    ONE / max(np.sqrt(dot(z[first : first + width], z[first : first + width])), most)
                    if most < np.inf
                    else ONE
                )
                for c in range(width):
                    y[t, first - part * each + c] = z[first + c] * scale


@kernel
def convolved_backward(dx, d_taps, dys, x, taps, longest, width, start, stop):
    """Rows start ... stop of dx (T + J - 1, C); adds to d_taps (J, C) what the outputs start ... stop give."""
    (J, channels), T = taps.shape, dys[0].shape[0]
    each = channels // len(dys)
    z, a = np.empty(channels, np.float32), np.empty(channels, np.float32)
    before = min(J - 1, start)  # outputs before the stretch read from it, too
    dz = np.zeros((stop - start + before, channels), np.float32)
    for t in range(start - before, min(stop, T)):
        row = dz[t - start + before]
        convolve(z, x, taps, t)
        for c in range(channels):
            a[c] = z[c] * sigmoid(z[c])
        for part in range(len(dys)):
            dy, most = dys[part], longest[part]
            for first in range(part * each, (part + 1) * each, width):
                for c in range(width):
                    row[first + c] = dy[t, first - part * each + c]
                if most < np.inf:
                    length = np.sqrt(dot(a[first : first + width], a[first : first + width]))
                    scale = ONE / max(length, most)
                    along = (
                        dot(a[first : first + width], row[first : first + width]) * scale * scale * scale
                        if length > most
                        else ZERO
                    )
                    for c in range(first, first + width):
                        row[c] = row[c] * scale - a[c] * along
        for c in range(channels):
            row[c] *= slope(z[c])
        if t >= start:
            for j in range(J):
                for c in range(channels):
                    d_taps[j, c] += x[t + j, c] * row[c]
    for r in range(start, stop):
        dx[r] = 0
        for j in range(max(0, r - T + 1), min(J, r - start + before + 1)):
            for c in range(channels):
                dx[r, c] += taps[j, c] * dz[r - j - start + before, c]


class ConvolvedHeads(torch.autograd.Function):
    """`heads.convolved_heads` in float32."""

    @staticmethod
    def forward(ctx, x, weight, heads, longest):
        x, taps = x.contiguous(), weight.detach().mT.clone(memory_format=torch.contiguous_format)
        B, T, width = x.shape[0], x.shape[1] - len(taps) + 1, x.shape[2] // (heads * len(longest))
        ys = [x.new_empty(B, T, heads, width) for _ in longest]
        ctx.longest = longest
        ctx.save_for_backward(x, taps)
        into, of, by = [array(y.flatten(2)) for y in ys], array(x), array(taps)

        def run(jobs):
            for _, b, start, stop in stretches(jobs, T):
                convolved_forward(tuple(y[b] for y in into), of[b], by, longest, width, start, stop)

        share_out(B * job_count(T), run)
        return tuple(ys)

    @staticmethod
    @once_differentiable
    def backward(ctx, *dys):
        x, taps = ctx.saved_tensors
        (B, length, _), longest, width = x.shape, ctx.longest, dys[0].shape[3]
        count = B * job_count(length)
        dx, d_taps = torch.empty_like(x), x.new_zeros(count, *taps.shape)
        into, onto, of, by = array(dx), array(d_taps), array(x), array(taps)
        given = [array(dy.contiguous().flatten(2)) for dy in dys]

        def run(jobs):
            for job, b, start, stop in stretches(jobs, length):
                convolved_backward(
                    into[b], onto[job], tuple(dy[b] for dy in given), of[b], by, longest, width, start, stop
                )

        share_out(count, run)
        return dx, d_taps.sum(0).mT, None, None


def job_count(T: int) -> int:
    """Jobs of a sequence."""
    return -(-T // STRETCH)


def stretches(jobs, T: int):
    """Number of each job, its sequence, its first token and its last + 1."""
    each = job_count(T)
    for job in jobs:
        b, number = divmod(job, each)
        yield job, b, number * STRETCH, min((number + 1) * STRETCH, T)


def fused_convolved_heads(x: Tensor, weight: Tensor, heads: int, lengths: tuple[str, ...]) -> list[Tensor]:
    """Arguments and results as in `heads.convolved_heads`, float32 on a CPU."""
    return list(ConvolvedHeads.apply(x, weight, heads, tuple(LONGEST[length] for length in lengths)))


@kernel
def norm_forward(out, y, gate, weight, d):
    """out from y and gate (T, H d) and weight (H d,)."""
    T, channels = y.shape
    for t in range(T):
        row = y[t]
        for c in range(channels):
            g = gate[t, c]
            out[t, c] = row[c] * weight[c] * (g * sigmoid(g))
        for first in range(0, channels, d):
            scale = ONE / np.sqrt(dot(row[first : first + d], row[first : first + d]) / np.float32(d) + EPS)
            for c in range(first, first + d):
                out[t, c] *= scale


@kernel
def norm_backward(dy, d_gate, d_weight, d_out, y, gate, weight, d):
    """Gradients of `norm_forward`; adds to d_weight (H d,)."""
    T, channels = y.shape
    normed = np.empty(channels, np.float32)
    for t in range(T):
        row, d_row = y[t], dy[t]
        for first in range(0, channels, d):
            scale = ONE / np.sqrt(dot(row[first : first + d], row[first : first + d]) / np.float32(d) + EPS)
            for c in range(first, first + d):
                normed[c] = row[c] * scale
        for c in range(channels):
            g = gate[t, c]
            d_scaled = d_out[t, c] * (g * sigmoid(g))
            d_gate[t, c] = d_out[t, c] * normed[c] * weight[c] * slope(g)
            d_weight[c] += d_scaled * normed[c]
            d_row[c] = d_scaled * weight[c]
        for first in range(0, channels, d):
            scale = ONE / np.sqrt(dot(row[first : first + d], row[first : first + d]) / np.float32(d) + EPS)
            along = dot(normed[first : first + d], d_row[first : first + d]) / np.float32(d)
            for c in range(first, first + d):
                d_row[c] = (d_row[c] - normed[c] * along) * scale


class GatedNorm(torch.autograd.Function):
    """`heads.gated_norm` in float32."""

    @staticmethod
    def forward(ctx, y, gate, weight):
        y, gate, weight = y.contiguous(), gate.contiguous(), weight.detach().clone()  # see threads.array
        ctx.save_for_backward(y, gate, weight)
        out = torch.empty_like(gate)
        arrays, by = [array(x) for x in (out, y.flatten(2), gate)], array(weight.flatten())

        def run(jobs):
            for _, b, start, stop in stretches(jobs, y.shape[1]):
                norm_forward(*(x[b, start:stop] for x in arrays), by, y.shape[3])

        share_out(y.shape[0] * job_count(y.shape[1]), run)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        y, gate, weight = ctx.saved_tensors
        count = y.shape[0] * job_count(y.shape[1])
        dy, d_gate, d_weight = torch.empty_like(y), torch.empty_like(gate), weight.new_zeros(count, weight.numel())
        into, onto = [array(x) for x in (dy.flatten(2), d_gate)], array(d_weight)
        given, by = [array(x) for x in (d_out.contiguous(), y.flatten(2), gate)], array(weight.flatten())

        def run(jobs):
            for job, b, start, stop in stretches(jobs, y.shape[1]):
                mine, theirs = ([x[b, start:stop] for x in xs] for xs in (into, given))
                norm_backward(*mine, onto[job], *theirs, by, y.shape[3])

        share_out(count, run)
        return dy, d_gate, d_weight.sum(0).view_as(weight)


def fused_gated_norm(y: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """Arguments and results as in `heads.gated_norm`, float32 on a CPU."""
    return GatedNorm.apply(y, gate, weight)


@kernel
def rms_forward(out, x, weight):
    """out (T, C) = x / rms(x) * weight (C,)"""
    T, C = x.shape
    for t in range(T):
        scale = ONE / np.sqrt(dot(x[t], x[t]) / np.float32(C) + EPS)
        for c in range(C):
            out[t, c] = x[t, c] * scale * weight[c]


@kernel
def rms_backward(dx, d_weight, d_out, x, weight):
    """Gradients of `rms_forward`; adds to d_weight (C,)."""
    T, C = x.shape
    for t in range(T):
        row, d_row = x[t], dx[t]
        scale = ONE / np.sqrt(dot(row, row) / np.float32(C) + EPS)
        for c in range(C):
            d_weight[c] += d_out[t, c] * row[c] * scale
            d_row[c] = d_out[t, c] * weight[c]
        along = dot(row, d_row) / np.float32(C) * scale * scale * scale
        for c in range(C):
            d_row[c] = d_row[c] * scale - row[c] * along


class RMSNorm(torch.autograd.Function):
    """`heads.rms_norm` in float32, x (rows, C)."""

    @staticmethod
    def forward(ctx, x, weight):
        x, weight = x.contiguous(), weight.detach().clone()  # see threads.array
        ctx.save_for_backward(x, weight)
        out = torch.empty_like(x)
        arrays, by = [array(t) for t in (out, x)], array(weight)

        def run(jobs):
            for _, _, start, stop in stretches(jobs, len(x)):
                rms_forward(*(t[start:stop] for t in arrays), by)

        share_out(job_count(len(x)), run)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight = ctx.saved_tensors
        dx, d_weight = torch.empty_like(x), weight.new_zeros(job_count(len(x)), len(weight))
        into, onto, given, by = array(dx), array(d_weight), [array(t) for t in (d_out.contiguous(), x)], array(weight)

        def run(jobs):
            for job, _, start, stop in stretches(jobs, len(x)):
                rms_backward(into[start:stop], onto[job], *(t[start:stop] for t in given), by)

        share_out(job_count(len(x)), run)
        return dx, d_weight.sum(0)


def fused_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Arguments and results as in `heads.rms_norm`, float32 on a CPU."""
    return RMSNorm.apply(x.flatten(0, -2), weight).view_as(x)
