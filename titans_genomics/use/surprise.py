"""Surprise: how large the inner gradient of each token is, measured beside the forward pass (arXiv 2501.00663, section 3.1).

The surprise of a token is u_t, the gradient of ||M(k_t) - v_t||^2 at the weights at the start of its chunk: what the memory
is about to be changed by, before step size, momentum and forgetting have their say. In every layer of the memory u_t is the
outer product of an error and an input, so that its Frobenius norm is the product of their lengths, and no matrix is needed:
|u_t|^2 is the sum over the layers of (|delta_t| |a_t|)^2.

On CPUs the kernels of the forward pass leave errors and inputs of a chunk where they are read from; elsewhere the keys are
sent through the memory a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from titans_genomics.models.memory import NeuralMemory
from titans_genomics.ops import MemoryState, neural_memory
from titans_genomics.ops.threads import why_no_kernels


class Heard(NamedTuple):
    """What one call of a memory tells: (B, T, H) each; ``surprise`` None where it was not asked for."""

    alpha: Tensor
    eta: Tensor
    theta: Tensor
    surprise: Tensor | None


class Listener:
    """Stands in for `ops.neural_memory` in a `NeuralMemory`, and keeps what the calls tell.

    Parameters
    ----------
    surprise : bool
        Measure |u_t| too; without it the gates alone are kept, and the forward pass is the usual one.
    """

    def __init__(self, surprise: bool) -> None:
        self.surprise = surprise
        self.heard: list[Heard] = []

    def __call__(self, q, k, v, alpha, eta, theta, *rest: Any, **named: Any) -> tuple[Tensor, MemoryState]:
        """Arguments and results as in `ops.neural_memory`."""
        rule = measured_memory if self.surprise else neural_memory
        y, state, *norms = rule(q, k, v, alpha, eta, theta, *rest, **named)
        self.heard.append(Heard(alpha, eta, theta, norms[0] if norms else None))
        return y, state

    def take(self) -> Heard:
        """All that was heard since the last time, joined along the tokens."""
        parts, self.heard = self.heard, []
        return Heard(*(None if column[0] is None else torch.cat(column, dim=1) for column in zip(*parts, strict=True)))


def memories(model: Any) -> list[NeuralMemory]:
    """The neural memory of each layer of a model, in order; empty for models that have none."""
    return [module for module in model.modules() if isinstance(module, NeuralMemory)]


@contextmanager
def listening(model: Any, surprise: bool = True) -> Iterator[list[Listener]]:
    """Listen to the memory of every layer while the block runs; one `Listener` per layer.

    The model's results stay what they are: on a CPU to the bit. The model is not to be called without
    ``torch.no_grad()`` or ``torch.inference_mode()`` meanwhile.
    """
    found = memories(model)
    listeners = [Listener(surprise) for _ in found]
    try:
        for memory, listener in zip(found, listeners, strict=True):
            memory.rule = listener
        yield listeners
    finally:
        for memory in found:
            memory.rule = None


def measured_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    weights: list[Tensor],
    surprise: list[Tensor],
    chunk: int,
    anchor: list[Tensor] | None = None,
    offset: int = 0,
    check: bool = True,
) -> tuple[Tensor, MemoryState, Tensor]:
    """`ops.neural_memory` without gradients, and |u_t| of every token.

    Returns
    -------
    y, state : as `ops.neural_memory`
    norms : (B, T, H), Frobenius norm of the inner gradient over all layers of the memory
    """
    assert not torch.is_grad_enabled(), "surprise is measured where no gradients are wanted"
    anchor = list(weights) if anchor is None else anchor
    if q.device.type == "cpu" and q.dtype == v.dtype == torch.float32 and why_no_kernels() is None:
        from titans_genomics.use.surprise_cpu import measured_on_cpu

        return measured_on_cpu(q, k, v, alpha, eta, theta, weights, surprise, anchor, offset, chunk)
    outputs, norms, start = [], [], 0
    state = MemoryState(weights, surprise, anchor, offset)
    while start < q.shape[1]:
        span = slice(start, start + chunk - state.offset)
        at = state.anchor if state.offset else state.weights
        norms.append(inner_norms(k[:, span], v[:, span], at))
        y, state = neural_memory(
            *(x[:, span] for x in (q, k, v, alpha, eta, theta)), state.weights, state.surprise, chunk,
            anchor=state.anchor, offset=state.offset, check=check,
        )  # fmt: skip
        outputs.append(y)
        start = span.stop
    return torch.cat(outputs, dim=1), state, torch.cat(norms, dim=1)


def inner_norms(k: Tensor, v: Tensor, weights: list[Tensor]) -> Tensor:
    """|u_t| (B, T, H) of keys and values (B, T, H, d) at weights, L of (B, H, out, in)."""
    dtype = weights[0].dtype
    inputs, before = [k.to(dtype).transpose(1, 2)], []
    for layer, weight in enumerate(weights):
        before.append(inputs[-1] @ weight.mT)
        if layer < len(weights) - 1:
            inputs.append(silu(before[-1]))
    error = 2 * (before[-1] - v.to(dtype).transpose(1, 2))
    total = torch.zeros_like(error[..., 0])
    for layer in range(len(weights) - 1, -1, -1):
        total += error.square().sum(-1) * inputs[layer].square().sum(-1)
        if layer:
            gate = torch.sigmoid(before[layer - 1])
            error = (error @ weights[layer]) * gate * (1 + before[layer - 1] * (1 - gate))
    return total.sqrt().transpose(1, 2)
