"""Windows out of the segments of a run: the tokens of each, EOS between them, and which are soft-masked."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from titans_genomics.compiling import kernel

LANES = 64
"""Tokens that are copied at once."""


@intrinsic
def copy_lanes(_, tokens, at, out, row, column):
    """Copy LANES tokens from ``at`` on to ``out[row, column]`` and what follows."""
    signature = types.void(tokens, types.intp, out, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        def place(n, index):
            kind = signature.args[n]
            array = context.make_array(kind)(context, builder, arguments[n])
            lane = ir.VectorType(ir.IntType(kind.dtype.bitwidth), LANES)
            return builder.bitcast(builder.gep(array.data, [index]), lane.as_pointer()), lane, array

        source, narrow, _ = place(0, arguments[1])
        _, wide, array = place(2, arguments[4])
        width = builder.extract_value(array.shape, 1)
        target, _, _ = place(2, builder.add(builder.mul(arguments[3], width), arguments[4]))
        found = builder.load(source, align=1)
        builder.store(found if narrow == wide else builder.zext(found, wide), target, align=1)
        return context.get_dummy_value()

    return signature, generate


@kernel
def gather(tokens, places, eos, starts, out):
    """Fill every row of ``out`` (windows, length) with the tokens of a run from a start on.

    ``tokens``: all tokens of the source's shard. ``places`` int64 (segments, 4): offset in ``tokens``, length, place in
    the run, whether the next segment follows without EOS. ``starts`` int64 (windows,): places in the run.
    """
    length = out.shape[1]
    for row in range(len(starts)):
        at = starts[row]
        segment = np.searchsorted(places[:, 2], at, side="right") - 1
        filled = 0
        while filled < length:
            offset, size = places[segment, 0], places[segment, 1]
            within = at - places[segment, 2]
            count = min(size - within, length - filled)
            if count > 0:
                first = offset + within
                done = 0
                while done < count:
                    if filled + done + LANES <= length and first + done + LANES <= len(tokens):
                        copy_lanes(tokens, first + done, out, row, filled + done)
                        done += LANES  # what is copied beyond the segment is overwritten by what follows it
                    else:
                        out[row, filled + done] = tokens[first + done]
                        done += 1
                filled += count
                at += count
            if filled < length:
                if places[segment, 3] == 0:
                    out[row, filled] = eos
                    filled += 1
                    at += 1
                segment += 1


@kernel
def gather_mask(stretches, places, starts, out):
    """Set ``out`` (windows, length) bool where the tokens of a window lie in ``stretches`` (int64, (n, 2)) of the base layer."""
    length = out.shape[1]
    for row in range(len(starts)):
        at = starts[row]
        segment = np.searchsorted(places[:, 2], at, side="right") - 1
        filled = 0
        while filled < length:
            offset, size = places[segment, 0], places[segment, 1]
            within = at - places[segment, 2]
            count = max(0, min(size - within, length - filled))
            first = offset + within
            stretch = np.searchsorted(stretches[:, 1], first, side="right")
            out[row, filled : filled + count] = False
            while stretch < len(stretches) and stretches[stretch, 0] < first + count:
                low = max(stretches[stretch, 0] - first, 0)
                high = min(stretches[stretch, 1] - first, count)
                out[row, filled + low : filled + high] = True
                stretch += 1
            filled += count
            at += count
            if filled < length:
                if places[segment, 3] == 0:
                    out[row, filled] = False
                    filled += 1
                    at += 1
                segment += 1
