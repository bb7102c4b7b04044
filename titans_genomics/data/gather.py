"""Windows out of the segments of a run: the tokens of each, EOS between them, and which are soft-masked."""

from __future__ import annotations

import numpy as np

from titans_genomics.compiling import kernel


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
                out[row, filled : filled + count] = tokens[first : first + count]
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
