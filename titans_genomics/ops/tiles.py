"""Small float32 matrix products and transpositions for CPU kernels in Numba, in vector registers of the machine at hand.

A library call for matrices of 64 x 128 spends as long in the call as in the product, and some libraries leave the widest
vectors of some processors unused. Here LLVM compiles a register tile for the processor that runs: V lanes, ROWS rows of
C and up to COLUMNS vectors stay in registers while the inner dimension goes by.

Every matrix is a two-dimensional float32 array. All sizes are multiples of PAD, and so is every lower bound of a triangle:
the callers pad with zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from titans_genomics import compiling

PAD = 16
"""Rows and columns of every matrix are a multiple of this."""


def vector_shape() -> tuple[int, int]:
    """Lanes of a vector, and vectors of a row of C that fit the registers together with ROWS rows."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 2
    if features.get("avx2"):
        return 8, 1
    return 4, 2


LANES, COLUMNS = vector_shape()
ROWS = 8
BLOCK = max(LANES, ROWS)
"""Triangles are computed, and must be masked, in blocks of so many rows and columns along the diagonal."""


def compiled(fastmath: set[str]) -> Callable[[Callable], Callable]:
    """A decorator for kernels that call what is in this file.

    Division by zero gives infinity, as in PyTorch: a check for it would keep loops from becoming vectors.
    """
    return compiling.compiled(calls=[__file__], error_model="numpy", fastmath=fastmath)


kernel = compiled({"contract", "nsz"})
reduction = compiled({"contract", "nsz", "reassoc"})
"""Sums may be added up in another order, which turns them into vectors."""

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


class Matrix:
    """A two-dimensional array inside generated code."""

    def __init__(self, context, builder, kind, value):
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.data = builder, array.data
        self.strides = [builder.sdiv(builder.extract_value(array.strides, d), LONG(4)) for d in range(2)]

    def at(self, i, j, vector: bool = False):
        """Pointer to element (i, j), or to the vector that begins there."""
        offset = self.builder.add(
            self.builder.mul(i, self.strides[0]), j if vector else self.builder.mul(j, self.strides[1])
        )
        pointer = self.builder.gep(self.data, [offset])
        return self.builder.bitcast(pointer, VECTOR.as_pointer()) if vector else pointer

    def load(self, i, j):
        """The vector at (i, j ...)."""
        return self.builder.load(self.at(i, j, True), align=4)

    def store(self, vector, i, j):
        """Write the vector to (i, j ...)."""
        self.builder.store(vector, self.at(i, j, True), align=4)


def shifted(builder, index, by: int):
    """index + by"""
    return builder.add(index, LONG(by)) if by else index


def register_tile(columns: int):
    """C[i : i + ROWS, j : j + columns * LANES] (+)= A[i ..., first:last] B[first:last, j ...] as an intrinsic."""

    @intrinsic
    def tile(_, C, A, B, i, j, first, last, add):
        signature = types.void(C, A, B, types.intp, types.intp, types.intp, types.intp, types.boolean)

        def generate(context, builder, signature, arguments):
            c, a, b = (Matrix(context, builder, signature.args[x], arguments[x]) for x in range(3))
            i, j, first, last, add = arguments[3:]
            rows, across = range(ROWS), range(columns)
            name = f"llvm.fma.v{LANES}f32"
            fma = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), name
            )

            with builder.if_else(add) as (then, otherwise):
                with then:
                    before = [
                        [c.load(shifted(builder, i, r), shifted(builder, j, n * LANES)) for n in across] for r in rows
                    ]
                    block_then = builder.block
                with otherwise:
                    block_otherwise = builder.block
            start = [[builder.phi(VECTOR) for _ in across] for _ in rows]
            for r in rows:
                for n in across:
                    start[r][n].add_incoming(before[r][n], block_then)
                    start[r][n].add_incoming(ir.Constant(VECTOR, [0.0] * LANES), block_otherwise)

            entry, loop, done = builder.block, builder.append_basic_block("inner"), builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed("<", first, last), loop, done)
            builder.position_at_end(loop)
            k = builder.phi(LONG)
            sums = [[builder.phi(VECTOR) for _ in across] for _ in rows]
            right = [b.load(k, shifted(builder, j, n * LANES)) for n in across]
            undefined, zeros = (
                ir.Constant(VECTOR, ir.Undefined),
                ir.Constant(ir.VectorType(INT, LANES), [0] * LANES),
            )
            after = []
            for r in rows:
                left = builder.insert_element(undefined, builder.load(a.at(shifted(builder, i, r), k)), INT(0))
                left = builder.shuffle_vector(left, undefined, zeros)
                after.append([builder.call(fma, [left, right[n], sums[r][n]]) for n in across])
            following = builder.add(k, LONG(1))
            k.add_incoming(first, entry)
            k.add_incoming(following, loop)
            for r in rows:
                for n in across:
                    sums[r][n].add_incoming(start[r][n], entry)
                    sums[r][n].add_incoming(after[r][n], loop)
            builder.cbranch(builder.icmp_signed("<", following, last), loop, done)

            builder.position_at_end(done)
            result = [[builder.phi(VECTOR) for _ in across] for _ in rows]
            for r in rows:
                for n in across:
                    result[r][n].add_incoming(start[r][n], entry)
                    result[r][n].add_incoming(after[r][n], loop)
            for r in rows:
                for n in across:
                    c.store(result[r][n], shifted(builder, i, r), shifted(builder, j, n * LANES))
            return context.get_dummy_value()

        return signature, generate

    return tile


wide_tile, narrow_tile = register_tile(COLUMNS), register_tile(1)


@intrinsic
def transpose_tile(_, target, source, i, j):
    """target[j : j + LANES, i : i + LANES] = source[i : i + LANES, j : j + LANES] transposed, by exchanging halves."""
    signature = types.void(target, source, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        to, of = (Matrix(context, builder, signature.args[x], arguments[x]) for x in range(2))
        i, j = arguments[2:]
        rows = [of.load(shifted(builder, i, r), j) for r in range(LANES)]
        step = LANES // 2
        while step:
            # rows r and r + step exchange their off-diagonal blocks of `step` columns
            low = [x if not x & step else LANES + x - step for x in range(LANES)]
            high = [x + step if not x & step else LANES + x for x in range(LANES)]
            masks = [ir.Constant(ir.VectorType(INT, LANES), order) for order in (low, high)]
            for r in range(LANES):
                if not r & step:
                    pair = rows[r], rows[r + step]
                    rows[r], rows[r + step] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            step //= 2
        for r in range(LANES):
            to.store(rows[r], shifted(builder, j, r), i)
        return context.get_dummy_value()

    return signature, generate


def _reinterpret(source, target, into):
    """An intrinsic that reads the bits of a number as another type."""

    @intrinsic
    def reinterpret(_, x):
        return target(source), lambda context, builder, signature, arguments: builder.bitcast(arguments[0], into)

    return reinterpret


bits_of = _reinterpret(types.float32, types.int32, INT)
float_of = _reinterpret(types.int32, types.float32, FLOAT)

WIDE, LANE = COLUMNS * LANES, LANES  # plain numbers, which compiled code takes as constants


@kernel
def multiply(C, A, B, add):
    """C = A B, or C += A B with `add`. B and C have contiguous rows; A may be a transposed view."""
    rows, columns = C.shape
    inner = A.shape[1]
    wide = columns // WIDE * WIDE
    for j in range(0, wide, WIDE):
        for i in range(0, rows, ROWS):
            wide_tile(C, A, B, i, j, 0, inner, add)
    for j in range(wide, columns, LANE):
        for i in range(0, rows, ROWS):
            narrow_tile(C, A, B, i, j, 0, inner, add)


@kernel
def multiply_lower(C, A, B, add):
    """`multiply` for a lower triangular square A: row i takes part with the first columns of A only."""
    rows, columns = C.shape
    wide = columns // WIDE * WIDE
    for j in range(0, wide, WIDE):
        for i in range(0, rows, ROWS):
            wide_tile(C, A, B, i, j, 0, i + ROWS, add)
    for j in range(wide, columns, LANE):
        for i in range(0, rows, ROWS):
            narrow_tile(C, A, B, i, j, 0, i + ROWS, add)


@kernel
def multiply_upper(C, A, B, add):
    """`multiply` for an upper triangular square A: row i takes part with the last columns of A only."""
    rows, columns = C.shape
    inner = A.shape[1]
    wide = columns // WIDE * WIDE
    for j in range(0, wide, WIDE):
        for i in range(0, rows, ROWS):
            wide_tile(C, A, B, i, j, i, inner, add)
    for j in range(wide, columns, LANE):
        for i in range(0, rows, ROWS):
            narrow_tile(C, A, B, i, j, i, inner, add)


@kernel
def multiply_into_lower(C, A, B):
    """C = A B on and below the diagonal of a square C; what is above it is left undefined."""
    rows, inner = A.shape
    for j in range(0, rows, LANE):
        for i in range(j // ROWS * ROWS, rows, ROWS):
            narrow_tile(C, A, B, i, j, 0, inner, False)


@kernel
def transpose(target, source):
    """target = source transposed; both have contiguous rows."""
    rows, columns = source.shape
    for i in range(0, rows, LANE):
        for j in range(0, columns, LANE):
            transpose_tile(target, source, i, j)


LOG2E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693145752), np.float32(1.42860677e-6)
ROUND = np.float32(12582912.0)  # 1.5 x 2^23: adding it rounds to an integer, which then stands in the last bits
LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)
C2, C3, C4, C5, C6 = (np.float32(1 / x) for x in (2, 6, 24, 120, 720))
ONE, TWO = np.float32(1), np.float32(2)


@kernel
def exponential(x):
    """exp(x) to 2 units in the last place, in operations that a loop over an array turns into vectors; NaN stays NaN."""
    bounded = LOWEST if x < LOWEST else x
    bounded = HIGHEST if bounded > HIGHEST else bounded
    turns = bounded * LOG2E + ROUND
    whole = turns - ROUND
    rest = bounded - whole * LN2_HIGH
    rest = rest - whole * LN2_LOW
    series = ONE + rest * (ONE + rest * (C2 + rest * (C3 + rest * (C4 + rest * (C5 + rest * C6)))))
    return series * float_of((bits_of(turns) << np.int32(23)) + np.int32(0x3F800000))


@kernel
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return ONE / (ONE + exponential(-x))


@kernel
def slope(z):
    """SiLU'(z)"""
    g = sigmoid(z)
    return g * (ONE + z * (ONE - g))


@reduction
def dot(a, b):
    """Sum of the products of two vectors."""
    total = np.float32(0)
    for c in range(a.shape[0]):
        total += a[c] * b[c]
    return total
