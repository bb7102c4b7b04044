"""Linear layers on CPUs, by the library that multiplies fastest there.

PyTorch multiplies float32 matrices with MKL, which leaves half of the vector width of AMD's processors with AVX-512
unused; oneDNN, which PyTorch also brings, uses all of it: 2.2 times the rate on Zen 5 (docs/benchmarks.md, distance to the limit). PyTorch asks oneDNN only
where products may be rounded to bfloat16. Processors without units for matrix tiles (AMX) are not faster with bfloat16, and there oneDNN
computes in float32 all the same; that is checked once, and tests hold every digit.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALL = 1 << 22
"""Multiply-adds of a product below which a call of oneDNN costs more than it saves."""


@functools.cache
def prefer_onednn() -> bool:
    """Whether float32 products are faster, and as exact, with oneDNN: AMD with AVX-512 and without AMX."""
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    if not (amd and torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return False
    try:
        if torch.cpu._is_amx_tile_supported() or torch.backends.mkldnn.matmul.fp32_precision is None:
            return False
    except AttributeError:  # another version of PyTorch
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    for sizes in ((256, 256, 256), (1024, 128, 384)):
        a, b = (torch.randn(s, generator=generator, device="cpu") for s in (sizes[:2], sizes[1:]))
        with onednn():
            found = a @ b
        if (found - a.double() @ b.double()).abs().max() > 1e-3:  # bfloat16 would be off by 0.1
            return False
    return True


class Switch:
    """PyTorch's setting that lets oneDNN multiply float32 matrices. It is the process's, so threads count who is within."""

    def __init__(self) -> None:
        self.lock, self.within, self.before = threading.Lock(), 0, ""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Products within go to oneDNN."""
        settings = torch.backends.mkldnn.matmul
        with self.lock:
            if self.within == 0:
                self.before = settings.fp32_precision
                settings.fp32_precision = "bf16"
            self.within += 1
        try:
            yield
        finally:
            with self.lock:
                self.within -= 1
                if self.within == 0:
                    settings.fp32_precision = self.before


onednn = Switch()


class OneDNNLinear(torch.autograd.Function):
    """x (rows, in) times weight (out, in) transposed."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        with onednn():
            return x @ weight.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        with onednn():
            return (
                dy @ weight if ctx.needs_input_grad[0] else None,
                dy.mT @ x if ctx.needs_input_grad[1] else None,
            )


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., in) times weight (out, in) transposed -> (..., out); float32 stays float32 in every digit."""
    small = x.device.type != "cpu" or x.numel() * weight.shape[0] < SMALL
    if (
        small
        or not (x.dtype == weight.dtype == torch.float32)
        or torch.is_autocast_enabled("cpu")
        or not prefer_onednn()
    ):
        return F.linear(x, weight)
    return OneDNNLinear.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """`torch.nn.Linear` without bias, through `linear`."""

    def __init__(self, into: int, out: int):
        super().__init__(into, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def some_outputs(layer: nn.Module, x: Tensor, which: slice) -> Tensor:
    """Some outputs of a linear layer without bias, x (..., in) -> (..., out). What took its place, such as an adapter, computes them all."""
    return linear(x, layer.weight[which]) if type(layer) is Linear else layer(x)[..., which]
