"""Kernels that Numba compiles: without Python objects, without the interpreter's lock, and kept on disk where that can be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba import config, njit


def compiled(*, calls: Sequence[str | Path] = (), **options: Any) -> Callable[[Callable], Callable]:
    """A decorator for kernels.

    Parameters
    ----------
    calls
        Files of what the kernel calls beside its own: Numba looks at the file of a function only, and would keep what was
        compiled with an older version of the others.
    options
        Of `numba.njit`, such as ``fastmath``.
    """
    options = {"nogil": True, **options}

    def decorate(function: Callable) -> Callable:
        try:
            kept = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to write to: compiled again in every process
            return njit(**options)(function)
        if calls and not config.DISABLE_JIT:
            contents = b"".join(Path(path).read_bytes() for path in calls)
            file = kept._cache._cache_file
            file._source_stamp = (file._source_stamp, hashlib.sha256(contents).hexdigest())
        return kept

    return decorate


kernel = compiled()
"""A kernel that calls nothing outside its file."""
