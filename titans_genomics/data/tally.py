"""How many of each base there are, and where the runs of N lie, at the speed of memory."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from titans_genomics.compiling import kernel

LANES = 64


@intrinsic
def count_equal(_, codes, at, value):
    """How many of the LANES codes from ``at`` on are ``value``."""
    signature = types.intp(codes, types.intp, types.uint8)
    vector = ir.VectorType(ir.IntType(8), LANES)

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        wanted = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        wanted = builder.shuffle_vector(wanted, ir.Constant(vector, ir.Undefined), zeros)
        equal = builder.icmp_unsigned("==", builder.load(pointer, align=1), wanted)
        return builder.ctpop(builder.bitcast(equal, ir.IntType(64)))

    return signature, generate


@kernel
def _tally(codes, counts, edges):
    """Adds to ``counts`` (5,) and fills ``edges`` with the borders of the runs of N; returns how many there are.

    Returns -1 when ``edges`` is too short; ``counts`` is then as it was.
    """
    a = c = g = t = 0
    filled, within = 0, False
    at, stop = 0, len(codes)
    while at < stop:
        if at + LANES <= stop:
            here_a = count_equal(codes, at, np.uint8(0))
            here_c = count_equal(codes, at, np.uint8(1))
            here_g = count_equal(codes, at, np.uint8(2))
            here_t = count_equal(codes, at, np.uint8(3))
            bases = here_a + here_c + here_g + here_t
            if (bases == LANES and not within) or (bases == 0 and within):
                a, c, g, t = a + here_a, c + here_c, g + here_g, t + here_t
                at += LANES
                continue
        end = min(at + LANES, stop)
        for i in range(at, end):
            code = codes[i]
            a += code == 0
            c += code == 1
            g += code == 2
            t += code == 3
            if (code == 4) != within:
                if filled == len(edges):
                    return -1
                edges[filled] = i
                filled += 1
                within = not within
        at = end
    if within:
        if filled == len(edges):
            return -1
        edges[filled] = stop
        filled += 1
    counts[0] += a
    counts[1] += c
    counts[2] += g
    counts[3] += t
    counts[4] += stop - a - c - g - t
    return filled


def tally(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Count the bases of ``codes`` (uint8, 0 to 4) into ``counts`` (int64, shape (5,)); returns the runs of N.

    int64, shape (runs, 2): start and end, half-open, in order.
    """
    edges = np.empty(1 << 12, dtype=np.int64)
    filled = _tally(codes, counts, edges)
    if filled < 0:
        edges = np.empty(len(codes) + 2, dtype=np.int64)
        filled = _tally(codes, counts, edges)
    return edges[:filled].reshape(-1, 2).copy()
