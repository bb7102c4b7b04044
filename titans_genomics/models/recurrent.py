"""Recurrent baselines beside the memory: a linear memory with the gated delta rule, and a diagonal recurrence.

Both stand in the surroundings of `NeuralMemory`: projections, its causal convolution and SiLU, RMSNorm per head, output gate and
projection. What differs is the recurrence alone. Mixers as in `blocks`: `begin(batch) -> state`, `forward(x, state) -> (y, state)`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_genomics.config import TitansConfig
from titans_genomics.ops.delta import gated_delta_rule
from titans_genomics.ops.heads import Length, convolve_on, full_precision, gated_norm
from titans_genomics.ops.linear import Linear
from titans_genomics.ops.scan import diagonal_scan


class RecurrentState(NamedTuple):
    """State of both mixers."""

    memory: Tensor  # GatedDeltaNet: S (B, H, d, d); DiagonalRecurrence: h (B, D); at least float32
    tail: Tensor  # (B, conv - 1, parts D), the last inputs of the convolution


class Recurrent(nn.Module):
    """What both mixers have in common: `parts` convolved projections of x before the recurrence, norm and gate behind it."""

    def __init__(self, config: TitansConfig, parts: int):
        super().__init__()
        D, H = config.d_model, config.n_heads
        self.heads, self.width, self.kernel = H, D // H, config.conv
        self.to_parts = Linear(D, parts * D)
        if config.conv:
            self.conv = nn.Parameter(torch.empty(parts * D, config.conv).uniform_(-1, 1) / math.sqrt(config.conv))
        self.head_norm = nn.Parameter(torch.ones(H, self.width))
        self.to_output_gate = Linear(D, D)
        self.to_output = Linear(D, D)

    def begin_with(self, *memory: int) -> RecurrentState:
        """Zeros of shape `memory`, whose first axis is the batch, and nothing convolved."""
        weight = self.to_parts.weight
        tail = weight.new_zeros(memory[0], max(self.kernel - 1, 0), weight.shape[0])
        return RecurrentState(full_precision(weight.new_zeros(memory)), tail)

    def convolve(self, x: Tensor, tail: Tensor, *lengths: Length) -> tuple[list[Tensor], Tensor]:
        """Projection, convolution, SiLU and norm: x (B, T, D) -> parts of (B, T, H, d), at least float32, and the new tail."""
        return convolve_on(self.to_parts(x), tail, self.conv if self.kernel else None, self.heads, lengths)

    def read_out(self, x: Tensor, y: Tensor) -> Tensor:
        """RMSNorm per head, output gate, output projection. x (B, T, D), y (B, T, H, d) -> (B, T, D)."""
        return self.to_output(gated_norm(y, self.to_output_gate(x), self.head_norm))


class GatedDeltaNet(Recurrent):
    """Gated DeltaNet (arXiv 2412.06464): a matrix per head, written with the gated delta rule.

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T, y_t = S_t q_t; q and k l2-normalised per head. Per token and head,
    b = sigmoid(.) and log a = -A softplus(.), A learned per head, with the published starting point. Heads are as wide for values
    as for keys, as everywhere in this package (the published model widens values).
    """

    def __init__(self, config: TitansConfig):
        super().__init__(config, parts=3)
        H = self.heads
        self.to_gates = nn.Linear(config.d_model, 2 * H)
        self.log_rate = nn.Parameter(torch.empty(H).uniform_(1, 16).log())
        with torch.no_grad():
            step = torch.empty(H).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.to_gates.bias.copy_(torch.cat([step.expm1().log(), torch.zeros(H)]))

    def begin(self, batch: int) -> RecurrentState:
        return self.begin_with(batch, self.heads, self.width, self.width)

    def forward(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Write every token and read the memory that already holds it. x and result (B, T, D)."""
        (q, k, v), tail = self.convolve(x, state.tail, "one", "one", "any")
        decay, beta = full_precision(self.to_gates(x)).chunk(2, dim=-1)
        log_decay = -full_precision(self.log_rate).exp() * F.softplus(decay)
        y, memory = gated_delta_rule(q, k, v, log_decay, beta.sigmoid(), state.memory, check=False)
        return self.read_out(x, y), RecurrentState(memory, tail)


class DiagonalRecurrence(Recurrent):
    """A diagonal linear recurrence whose decays depend on the input: the RG-LRU of Griffin (arXiv 2402.19427).

    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t, u the convolved projection of x. Per channel, i = sigmoid(.) and
    log a = -8 softplus(rate) r with r = sigmoid(.), so that a lies between 0 and 1; both gates are made of u, head by head. Channels
    never mix in the recurrence. Unlike Griffin's block, the convolution ends in SiLU and the output is normalised, as in the memory.
    """

    def __init__(self, config: TitansConfig):
        super().__init__(config, parts=1)
        d = self.width
        self.to_gates = nn.Parameter(torch.randn(self.heads, d, 2 * d) / math.sqrt(d))
        self.gate_bias = nn.Parameter(torch.zeros(self.heads, 2 * d))
        at_most = torch.empty(config.d_model).uniform_(0.9, 0.999)  # the decay where r = 1
        self.rate = nn.Parameter((-at_most.log() / 8).expm1().log())

    def begin(self, batch: int) -> RecurrentState:
        return self.begin_with(batch, self.heads * self.width)

    def forward(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Read every token. x and result (B, T, D)."""
        (u,), tail = self.convolve(x, state.tail, "any")
        gates = torch.einsum("bthi,hio->btho", u.to(self.to_gates.dtype), self.to_gates) + self.gate_bias
        r, i = (part.flatten(2) for part in full_precision(gates).sigmoid().chunk(2, dim=-1))
        log_decay = -8 * F.softplus(full_precision(self.rate)) * r
        # where a rounds to 1 the derivative of the root would be infinite
        scale = (-torch.expm1(2 * log_decay)).clamp_min(1e-12).sqrt()
        h, memory = diagonal_scan(log_decay, scale * i * u.flatten(2), state.memory, check=False)
        return self.read_out(x, h.unflatten(-1, (self.heads, self.width))), RecurrentState(memory, tail)
