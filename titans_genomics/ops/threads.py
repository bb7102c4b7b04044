"""Work of CPU kernels shared out over threads. The kernels hold no lock while they run."""

from __future__ import annotations

import ctypes
import functools
import platform
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def why_no_kernels() -> str | None:
    """Why kernels for CPUs do not run in this process; None: they do."""
    try:
        import llvmlite.binding
        import numba
    except ImportError as error:
        return f"its kernels for CPUs need Numba ({error}): pip install numba"
    if numba.config.DISABLE_JIT:
        return "its kernels for CPUs are compiled, and NUMBA_DISABLE_JIT is set"
    if platform.machine().lower() in ("x86_64", "amd64") and not llvmlite.binding.get_host_cpu_features().get("fma"):
        return "its kernels for CPUs need a processor with fused multiply-add"
    return None


@functools.cache
def openmp() -> Callable | None:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP library that PyTorch uses; None where it is another."""
    for path in [*sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")), "libgomp.so.1"]:
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
    its operations, and would take a core from threads of ours. Always all of them: a pool whose size varies is made anew each time.
    After an error no thread takes another job.
    """
    jobs, errors, lock = iter(range(count)), [], threading.Lock()

    def numbers() -> Iterator[int]:
        while True:
            with lock:
                number = None if errors else next(jobs, None)
            if number is None:
                return
            yield number

    def work(_: object = None) -> None:
        try:
            run(numbers())
        except BaseException as error:
            errors.append(error)

    several = torch.get_num_threads()
    if several == 1 or count <= 1:
        work()
    elif parallel := openmp():
        parallel(CALLBACK(work), None, several, 0)
    else:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(count, several) - 1)]
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
