"""The distance to the limit: multiply-adds of the dual form, counted, and the rate at which this machine multiplies."""

from __future__ import annotations

import time
from itertools import pairwise

import torch

from benchmarks.sides import Shape


def dual_form(head: int, hidden: int, layers: int, chunk: int, triangular: bool = False) -> dict[str, float]:
    """Multiply-adds of matrix products per token and head, forward (titans.md, section 2; docs/benchmarks.md).

    With P the number of weights of one memory, m and n the inputs and outputs of its layers, b the chunk:

    * keys: M(k) at the chunk's start, P; the error handed down, P without the first layer
    * carried: the queries through M and through S, 2 P
    * within: q k^T and its product with the errors, b (sum m + sum n)
    * decays: D_alpha D_eta, b^2
    * handed on: the outer products of the next M and S, 2 P

    `triangular` counts only the lower triangles (which a matrix product cannot exploit at these sizes): b becomes
    (b + 1) / 2, and b^2 becomes (b + 1) (b + 2) / 6. The backward pass is twice all of it: both factors of every
    product get a gradient.
    """
    widths = [head, *[hidden] * (layers - 1), head]
    weights = [m * n for m, n in pairwise(widths)]
    seen = (chunk + 1) / 2 if triangular else chunk
    return {
        "keys": sum(weights) + sum(weights[1:]),
        "carried": 2 * sum(weights),
        "within": seen * (sum(widths[:-1]) + sum(widths[1:])),
        "decays": (chunk + 1) * (chunk + 2) / 6 if triangular else chunk**2,
        "handed on": 2 * sum(weights),
    }


def dual_form_total(shape: Shape, chunk: int, layers: int = 2, triangular: bool = False) -> float:
    """Multiply-adds per token, all heads, forward."""
    return shape.heads * sum(dual_form(shape.head, 2 * shape.head, layers, chunk, triangular).values())


def layer_total(shape: Shape, chunk: int, layers: int = 2) -> float:
    """The same with the layer's five projections and three gates."""
    return dual_form_total(shape, chunk, layers) + 5 * shape.width**2 + 3 * shape.width * shape.heads


def shapes(shape: Shape, chunk: int) -> dict[str, tuple[int, int, int, int]]:
    """(batch, rows, inner, columns) of the products whose rate is measured: a large one and those of the dual form."""
    H, d, h = shape.heads, shape.head, 2 * shape.head
    large = 16 * d
    return {
        f"large: {large} x {large} x {large}": (1, large, large, large),
        f"tokens through weights: {H} x ({chunk} x {d} x {h})": (H, chunk, d, h),
        f"tokens by tokens: {H} x ({chunk} x {d} x {chunk})": (H, chunk, d, chunk),
        f"within: {H} x ({chunk} x {chunk} x {h})": (H, chunk, chunk, h),
        f"outer products: {H} x ({h} x {chunk} x {d})": (H, h, chunk, d),
    }


def rate(batch: int, rows: int, inner: int, columns: int, seconds: float = 0.4) -> float:
    """Gmultiply-adds per second of float32 products, best of five rounds of `seconds` / 5 each."""
    a, b = torch.randn(batch, rows, inner), torch.randn(batch, inner, columns)
    out = torch.empty(batch, rows, columns)
    if batch == 1:
        a, b, out = a[0], b[0], out[0]
    multiply = torch.mm if batch == 1 else torch.bmm
    work = batch * rows * inner * columns / 1e9
    multiply(a, b, out=out)
    best = 0.0
    for _ in range(5):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 5 or count == 0:
            multiply(a, b, out=out)
            count += 1
        best = max(best, work * count / (time.perf_counter() - start))
    return best
