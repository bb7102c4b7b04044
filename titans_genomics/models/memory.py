"""The neural long-term memory as a layer: from hidden states to hidden states (arXiv 2501.00663, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from titans_genomics.config import TitansConfig
from titans_genomics.models.pieces import in_pieces
from titans_genomics.ops import MemoryState, memory_mlp, neural_memory
from titans_genomics.ops.heads import Length, convolve_on, full_precision, gated_norm
from titans_genomics.ops.linear import Linear, some_outputs
from titans_genomics.ops.threads import why_no_kernels

FEW = 8
"""Sequences up to which a call for each is faster than products of matrices that they share."""


def safe_theta_max(chunk: int, layers: int = 2) -> float:
    """Largest inner step that is safe for a chunk: its steps add up to at most 1/2 before momentum, 1/10 for a memory of four layers or more.

    All gradients of a chunk are taken at the same weights, so ``chunk`` steps along nearly parallel keys (four letters!)
    add up before the memory is looked at again. A linear memory with unit keys diverges when they add up to more than 1; the
    loss of a deep one is more strongly curved (docs/studies.md).
    """
    return (0.5 if layers < 4 else 0.1) / chunk


class MemoryLayerState(NamedTuple):
    """State of a `NeuralMemory`: the memory and the last conv - 1 inputs of the q, k, v convolution (B, conv - 1, 3D)."""

    memory: MemoryState
    tail: Tensor


class NeuralMemory(nn.Module):
    """Projections, convolution, gates, memory and output.

    q, k, v = heads(SiLU(conv(x W))), q and k l2-normalised per head, v / max(1, |v|). The paper leaves v as it is; long values
    make a deep memory's weights grow until its descent overshoots (docs/model.md), and the output is normalised anyway. Per token and head: forgetting alpha =
    sigmoid(.), surprise decay eta = sigmoid(.), step theta = theta_max (1 - eta) sigmoid(.). The factor 1 - eta is ours:
    momentum multiplies a lasting gradient by 1 / (1 - eta), and with the factor the largest total step stays theta_max
    whatever the momentum (docs/model.md). Output: RMSNorm per head, times SiLU(x W_gate), times W_out.
    """

    def __init__(self, config: TitansConfig):
        super().__init__()
        D, H = config.d_model, config.n_heads
        self.watched: int | None = None
        # stands in for `neural_memory` while somebody listens to what it is given
        self.rule: Callable[..., tuple[Tensor, MemoryState]] | None = None
        self.token = None
        self.heads, self.width, self.chunk = H, D // H, config.chunk
        self.momentum, self.forgetting = config.momentum, config.forgetting
        self.bound_values = config.bound_values
        self.theta_max = config.theta_max or safe_theta_max(config.chunk, config.memory_layers)
        self.to_qkv = Linear(D, 3 * D)
        self.kernel = config.conv
        if config.conv:
            self.conv = nn.Parameter(torch.empty(3 * D, config.conv).uniform_(-1, 1) / math.sqrt(config.conv))
        self.to_gates = nn.Linear(D, 3 * H)
        hidden = max(1, round(config.memory_expansion * self.width))
        widths = [self.width, *[hidden] * (config.memory_layers - 1), self.width]
        self.initial = nn.ParameterList(torch.randn(H, out, into) / math.sqrt(into) for into, out in pairwise(widths))
        self.head_norm = nn.Parameter(torch.ones(H, self.width))
        self.to_output_gate = Linear(D, D)
        self.to_output = Linear(D, D)
        with torch.no_grad():
            self.to_gates.weight.mul_(0.1)
            self.to_gates.bias.copy_(torch.tensor([-6.0, 1.0, 0.0]).repeat_interleave(H))

    def begin(self, batch: int) -> MemoryLayerState:
        """The state before the first token: the learned M_0, no surprise, nothing convolved."""
        weights = [w.expand(batch, *w.shape) for w in self.initial]
        tail = self.to_qkv.weight.new_zeros(batch, max(self.kernel - 1, 0), 3 * self.heads * self.width)
        return MemoryLayerState(MemoryState(weights, [torch.zeros_like(w) for w in weights], weights), tail)

    def forward(self, x: Tensor, state: MemoryLayerState) -> tuple[Tensor, MemoryLayerState]:
        """Write every token and read the memory that already holds it. x and result (B, T, D)."""
        return in_pieces(self.read_and_write, x, state)

    def read_and_write(self, x: Tensor, state: MemoryLayerState) -> tuple[Tensor, MemoryLayerState]:
        """`forward` in one piece."""
        if x.shape[1] == 1 and x.shape[0] <= FEW and self.takes_one_token(x):
            return self.one_token(x, state)
        y, state = self.remember(x, state)
        return self.read_out(self.to_output_gate(x), y), state

    def remember(self, x: Tensor, state: MemoryLayerState) -> tuple[Tensor, MemoryLayerState]:
        """What the memory answers while it is written, before `read_out`. x (B, T, D) -> (B, T, H, d)."""
        values = "at most one" if self.bound_values else "any"
        (q, k, v), tail = self.convolve(self.to_qkv(x), state.tail, "one", "one", values)
        alpha, eta, theta = self.gates(x)
        memory = state.memory
        y, memory = (self.rule or neural_memory)(
            q, k, v, alpha, eta, theta, memory.weights, memory.surprise, self.chunk,
            anchor=memory.anchor, offset=memory.offset, check=False,
        )  # fmt: skip
        if self.watched is not None:
            self.watch(y, alpha=alpha, eta=eta, theta=theta)
        if self.training:
            self.record(alpha, eta, theta, memory)
        return y, MemoryLayerState(memory, tail)

    def takes_one_token(self, x: Tensor) -> bool:
        """Whether `one_token` does for x (B, 1, D): on a CPU, in float32, without gradients, hooks and adapters."""
        watched = self.watched is not None or self.rule is not None
        if torch.is_grad_enabled() or self.training or watched or x.device.type != "cpu":
            return False
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or why_no_kernels() is not None:
            return False
        if self.token is None:
            from titans_genomics.models.one_token import OneToken

            self.token = OneToken(self)
        return self.token.takes_layer()

    def one_token(self, x: Tensor, state: MemoryLayerState) -> tuple[Tensor, MemoryLayerState]:
        """`forward` for one token of each sequence x (B, 1, D), one call a sequence, where `takes_one_token`."""
        y, tail, weights, surprise = self.token(x.contiguous(), state)
        memory = state.memory
        offset = (memory.offset + 1) % self.chunk
        return y, MemoryLayerState(MemoryState(weights, surprise, memory.anchor if offset else weights, offset), tail)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "token": None}

    def queries(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Queries alone: x (B, T, D), tail (B, conv - 1, D) their inputs before x -> (B, T, H, d), new tail."""
        (q,), tail = self.convolve(some_outputs(self.to_qkv, x, slice(self.heads * self.width)), tail, "one")
        return q, tail

    def recall(self, q: Tensor, weights: list[Tensor]) -> Tensor:
        """Read fixed weights without writing (MAC, eq. 21), before `read_out`. q (B, T, H, d) -> (B, T, H, d)."""
        y = memory_mlp(q.to(weights[0].dtype), weights)
        if self.watched is not None:
            self.watch(y)
        return y

    def convolve(self, x: Tensor, tail: Tensor, *lengths: Length) -> tuple[list[Tensor], Tensor]:
        """Convolution, SiLU and norm. x (B, T, parts D), tail (B, conv - 1, parts D) -> parts of (B, T, H, d), new tail."""
        taps = self.conv[: x.shape[-1]] if self.kernel else None
        return convolve_on(x, tail, taps, self.heads, lengths)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, eta, theta (B, T, H) in float32 (float64 stays)."""
        alpha, eta, theta = full_precision(self.to_gates(x)).chunk(3, dim=-1)
        alpha = alpha.sigmoid() if self.forgetting else torch.zeros_like(alpha)
        rest, eta = (torch.sigmoid(-eta), eta.sigmoid()) if self.momentum else (1.0, torch.zeros_like(eta))
        return alpha, eta, self.theta_max * rest * theta.sigmoid()

    def read_out(self, gate: Tensor, y: Tensor) -> Tensor:
        """RMSNorm per head, output gate, output projection. gate (B, T, D), y (B, T, H, d) -> (B, T, D)."""
        return self.to_output(gated_norm(y, gate, self.head_norm))

    def watch(self, y: Tensor, **gates: Tensor) -> None:
        """Raise ValueError where y (B, T, H, d) is not finite for the first time; `watched` is the number of this layer."""
        bad = (~y.isfinite().all(-1)).nonzero()
        if len(bad):
            row, token, head = bad[bad[:, 1].argmin()].tolist()
            values = "".join(f", {name} {gate[row, token, head].item():.4g}" for name, gate in gates.items())
            raise ValueError(
                f"the memory became NaN or infinite in layer {self.watched}, head {head}, at token {token} of sequence {row} "
                f"of this call (or later in its chunk of {self.chunk}: tokens of a chunk share products){values}: lower the learning rate or model.theta_max"
            )

    @torch.no_grad()
    def record(self, alpha: Tensor, eta: Tensor, theta: Tensor, memory: MemoryState) -> None:
        """Keep the figures of `statistics`; no device synchronisation."""
        norms = [s.detach().flatten(2).norm(dim=-1) for s in memory.surprise]
        self.statistics = {
            "alpha": alpha.detach().mean(),
            "eta": eta.detach().mean(),
            "theta": theta.detach().mean(),
            "surprise": torch.stack(norms).square().sum(0).sqrt().mean(),
            # an upper bound of the weight that the gradients of one chunk get together
            "inner_step": (theta / (1 - eta).clamp_min(1 / self.chunk)).detach().amax() * self.chunk,
        }
