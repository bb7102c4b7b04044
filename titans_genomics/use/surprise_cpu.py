"""Surprise on CPUs: the kernels of the forward pass, chunk by chunk, and the lengths of what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from titans_genomics import compiling
from titans_genomics.ops import MemoryState, fused_cpu, tiles
from titans_genomics.ops.fused_cpu import forward as read_chunk
from titans_genomics.ops.fused_cpu import padded, spare
from titans_genomics.ops.threads import share_out
from titans_genomics.ops.tiles import dot

_kernel = compiling.compiled(
    calls=[fused_cpu.__file__, tiles.__file__], error_model="numpy", fastmath={"contract", "nsz"}
)


@_kernel
def forward(w, h, q, k, v, alpha, eta, theta, W, S, at, offset, chunk, y, borders, norms):
    """`fused_cpu.forward` of head h, and the inner gradient's norm of every token: norms (T,)."""
    start = 0
    while start < q.shape[0]:
        n = min(q.shape[0] - start, chunk - offset)
        stop = start + n
        read_chunk(
            w, h, q[start:stop], k[start:stop], v[start:stop], alpha[start:stop], eta[start:stop], theta[start:stop],
            W, S, at, offset, chunk, y[start:stop], borders, 1,
        )  # fmt: skip
        for t in range(n):
            total = np.float32(0)
            for layer in range(len(W)):
                inputs = w.iK[layer][0]
                errors = w.iR[layer][0][2 * inputs.shape[1] :]
                total += dot(inputs[t], inputs[t]) * dot(errors[t], errors[t])
            norms[start + t] = np.float32(2) * np.sqrt(total)  # the kernels' errors are those of half the loss
        offset = (offset + n) % chunk
        start = stop


def measured_on_cpu(
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
) -> tuple[Tensor, MemoryState, Tensor]:
    """`surprise.measured_memory` in float32 on a CPU."""
    B, T, H, d = q.shape
    inputs = [x.contiguous().numpy() for x in (q, k, v)]
    gates = [x.transpose(1, 2).contiguous().numpy() for x in (alpha, eta, theta)]
    # the kernels hold matrices as (in, out), and change them in place
    W, S, at = (
        [x.mT.clone(memory_format=torch.contiguous_format).numpy() for x in xs] for xs in (weights, surprise, anchor)
    )
    widths = d, *(x.shape[3] for x in W)
    borders = tuple(np.empty((0, 2 * padded(m), padded(n)), np.float32) for m, n in pairwise(widths))
    y, norms = np.empty_like(inputs[2]), np.empty((B, H, T), np.float32)

    def run(numbers: Iterator[int]) -> None:
        shape, work = (widths, min(chunk, T), 1, False), None
        for g in numbers:
            work = work or spare.take(*shape)
            b, h = divmod(g, H)
            rows, own = (x[b] for x in inputs), (x[b, h] for x in gates)
            state = (tuple(x[b, h] for x in xs) for xs in (W, S, at))
            forward(work, h, *rows, *own, *state, offset, chunk, y[b], borders, norms[b, h])
        if work:
            spare.leave(work, *shape)

    share_out(B * H, run)
    after = (offset + T) % chunk
    left, momentum, opened = ([torch.from_numpy(x).mT for x in xs] for xs in (W, S, at))
    state = MemoryState(left, momentum, opened if after else left, after)
    return torch.from_numpy(y), state, torch.from_numpy(norms).transpose(1, 2)
