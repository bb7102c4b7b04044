"""Work of CPU kernels shared out over threads. The kernels hold no lock while they run."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def openmp() -> Callable | None:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP library that PyTorch brings; None where it brings none."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            run = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        run.argtypes, run.restype = [CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return run
    return None


def share_out(count: int, run: Callable[[Iterator[int]], None]) -> None:
    """run(job numbers) on as many threads as PyTorch uses; jobs are taken as threads get free.

    The threads are PyTorch's own where that is possible: they wait for work in a loop for some milliseconds after each of
    its operations, and would take a core from threads of ours.
    """
    jobs, errors, lock = iter(range(count)), [], threading.Lock()

    def numbers() -> Iterator[int]:
        while True:
            with lock:
                number = next(jobs, None)
            if number is None:
                return
            yield number

    def work(_: object = None) -> None:
        try:
            run(numbers())
        except BaseException as error:
            errors.append(error)

    several = min(count, torch.get_num_threads())
    if several == 1:
        work()
    elif parallel := openmp():
        parallel(CALLBACK(work), None, several, 0)
    else:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(several - 1)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def array(x: Tensor) -> np.ndarray:
    """The numbers of a tensor, not copied. PyTorch then never resizes its memory again: not for parameters."""
    return x.detach().numpy()


def parameter_array(x: Tensor) -> np.ndarray:
    """The same for a parameter, whose memory sharding takes away and gives back; float32, contiguous, valid while it stays where it is."""
    numbers = (ctypes.c_float * x.numel()).from_address(x.data_ptr())
    return np.ctypeslib.as_array(numbers).reshape(x.shape)
