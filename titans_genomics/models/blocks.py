"""The mixers of the four variants side by side, and the block around them (arXiv 2501.00663, sections 4.1-4.4).

Every mixer has `begin(batch) -> state` and `forward(x, state) -> (y, state)` with x, y (B, T, D); any split of a
sequence into pieces gives the same y.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_genomics.config import TitansConfig
from titans_genomics.models.attention import (
    KeyValueCache,
    Projected,
    SegmentAttention,
    SegmentCache,
    SlidingWindowAttention,
    one_token,
)
from titans_genomics.models.memory import MemoryLayerState, NeuralMemory
from titans_genomics.ops.heads import rms_norm
from titans_genomics.ops.linear import Linear


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class Gate(nn.Module):
    """a (x) m = norm(a) * sigmoid(norm(m)), vector-valued norm weights (section 4.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_a, self.norm_m = RMSNorm(width), RMSNorm(width)

    def forward(self, a: Tensor, m: Tensor) -> Tensor:
        return self.norm_a(a) * torch.sigmoid(self.norm_m(m))


class LMM(nn.Module):
    """The memory alone (eq. 15)."""

    def __init__(self, config: TitansConfig):
        super().__init__()
        self.memory = NeuralMemory(config)

    def begin(self, batch: int) -> MemoryLayerState:
        return self.memory.begin(batch)

    def forward(self, x: Tensor, state: MemoryLayerState) -> tuple[Tensor, MemoryLayerState]:
        return self.memory(x, state)


class MACState(NamedTuple):
    """State of `MAC`."""

    memory: MemoryLayerState
    segment_weights: list[Tensor]  # the memory that the open segment reads from, as it stood before the segment
    query_tail: Tensor  # (B, conv - 1, D) inputs of the convolution of the segment's queries
    cache: SegmentCache
    position: int  # tokens already read of the open segment


class MAC(nn.Module):
    """Memory as context (eq. 21-25).

    Per segment S: h = M(q(S)) at the memory before the segment; y = attention over [persistent | h | S]; the memory is
    written with y; o = y (x) M_t(q(y)), where token t reads the memory after its own write, not after the whole segment.
    The memory sees norm(y), the same norm as in (x), so that its inputs keep their scale.
    """

    def __init__(self, config: TitansConfig):
        super().__init__()
        self.segment = config.segment
        self.memory = NeuralMemory(config)
        self.attention = SegmentAttention(config.d_model, config.n_heads, config.persistent)
        self.norm_a, self.norm_m = RMSNorm(config.d_model), RMSNorm(config.d_model)

    def begin(self, batch: int) -> MACState:
        memory = self.memory.begin(batch)
        empty = self.attention.begin(batch)
        tail = memory.tail[..., : memory.tail.shape[-1] // 3]
        return MACState(memory, memory.memory.weights, tail, SegmentCache(empty, empty), 0)

    def forward(self, x: Tensor, state: MACState) -> tuple[Tensor, MACState]:
        if one_token(x):
            return self.newest(x, state)
        # what depends on x alone is computed for all segments at once
        head = min(x.shape[1], self.segment - state.position)
        rest, tail = divmod(x.shape[1] - head, self.segment)
        lengths = [head, *[self.segment] * rest, *[tail] * (tail > 0)]
        q, query_tail = self.memory.queries(x, state.query_tail)
        tokens, prefix = self.attention.project(x, state.position, self.segment)
        parts = q, self.memory.to_output_gate(x), *tokens
        state = state._replace(query_tail=query_tail)
        ys, ms = [], []
        for query, gate, *segment in zip(*(part.split(lengths, dim=1) for part in parts), strict=True):
            y, m, state = self.read_segment(query, gate, Projected(*segment), prefix, state)
            ys.append(y)
            ms.append(m)
        state = state._replace(cache=SegmentCache(*(part.copy() for part in state.cache)))
        y, m = torch.cat(ys, dim=1), torch.cat(ms, dim=1)
        return y * torch.sigmoid(self.norm_m(self.memory.read_out(self.memory.to_output_gate(y), m))), state

    def read_segment(
        self, query: Tensor, gate: Tensor, tokens: Projected, prefix: tuple[Tensor | None, Tensor | None], state: MACState
    ) -> tuple[Tensor, Tensor, MACState]:  # fmt: skip
        """Tokens that all lie in the open segment: (B, T, D) the normed y of attention, (B, T, H, d) M_t(q(y)), new state."""
        h = self.memory.read_out(gate, self.memory.recall(query, state.segment_weights))
        y, cache = self.attention(tokens, h, prefix, state.cache)
        y = self.norm_a(y)
        m, memory = self.memory.remember(y, state.memory)
        return y, m, self.after(state, y, memory, cache)

    def newest(self, x: Tensor, state: MACState) -> tuple[Tensor, MACState]:
        """`forward` of one token of each sequence: with nothing to share out, the memory is one layer as in `LMM`."""
        query, query_tail = self.memory.queries(x, state.query_tail)
        h = self.memory.read_out(self.memory.to_output_gate(x), self.memory.recall(query, state.segment_weights))
        y, cache = self.attention.newest(x, h, state.cache, state.position)
        y = self.norm_a(y)
        m, memory = self.memory(y, state.memory)
        cache = SegmentCache(*(part.copy() for part in cache))
        state = self.after(state._replace(query_tail=query_tail), y, memory, cache)
        return y * torch.sigmoid(self.norm_m(m)), state

    def after(self, state: MACState, y: Tensor, memory: MemoryLayerState, cache: SegmentCache) -> MACState:
        """The state after the tokens of y (B, T, D); the next segment begins where they fill theirs."""
        position, weights = state.position + y.shape[1], state.segment_weights
        if position == self.segment:
            empty = self.attention.begin(y.shape[0])
            weights, cache, position = memory.memory.weights, SegmentCache(empty, empty), 0
        return MACState(memory, weights, state.query_tail, cache, position)


class BranchState(NamedTuple):
    """State of `MAG` and `MAL`."""

    memory: MemoryLayerState
    cache: KeyValueCache


class MAG(nn.Module):
    """Memory as gate (eq. 26-28): o = sliding-window attention (x) memory."""

    def __init__(self, config: TitansConfig):
        super().__init__()
        self.memory = NeuralMemory(config)
        self.attention = SlidingWindowAttention(config.d_model, config.n_heads, config.window, config.persistent)
        self.gate = Gate(config.d_model)

    def begin(self, batch: int) -> BranchState:
        return BranchState(self.memory.begin(batch), self.attention.begin(batch))

    def forward(self, x: Tensor, state: BranchState) -> tuple[Tensor, BranchState]:
        m, memory = self.memory(x, state.memory)
        y, cache = self.attention(x, state.cache)
        return self.gate(y, m), BranchState(memory, cache)


class MAL(nn.Module):
    """Memory as layer (eq. 29-31): sliding-window attention on the (normed) output of the memory."""

    def __init__(self, config: TitansConfig):
        super().__init__()
        self.memory = NeuralMemory(config)
        self.norm = RMSNorm(config.d_model)
        self.attention = SlidingWindowAttention(config.d_model, config.n_heads, config.window, config.persistent)

    def begin(self, batch: int) -> BranchState:
        return BranchState(self.memory.begin(batch), self.attention.begin(batch))

    def forward(self, x: Tensor, state: BranchState) -> tuple[Tensor, BranchState]:
        m, memory = self.memory(x, state.memory)
        y, cache = self.attention(self.norm(m), state.cache)
        return y, BranchState(memory, cache)


class CausalAttention(nn.Module):
    """The mixer of the Transformer baseline: sliding-window attention alone, no persistent tokens."""

    def __init__(self, config: TitansConfig):
        super().__init__()
        self.attention = SlidingWindowAttention(config.d_model, config.n_heads, config.window, persistent=0)

    def begin(self, batch: int) -> KeyValueCache:
        return self.attention.begin(batch)

    def forward(self, x: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        return self.attention(x, state)


class SwiGLU(nn.Module):
    """(SiLU(x W_1) * x W_2) W_3"""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.to_hidden = Linear(width, 2 * hidden)
        self.to_output = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.to_hidden(x).chunk(2, dim=-1)
        return self.to_output(F.silu(gate) * value)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, mixer: nn.Module, d_model: int, hidden: int):
        super().__init__()
        self.norm_1, self.mixer = RMSNorm(d_model), mixer
        self.norm_2, self.feed_forward = RMSNorm(d_model), SwiGLU(d_model, hidden)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """x (B, T, D) and the state before it; None: the beginning, made here because sharded parameters are whole only here."""
        state = self.mixer.begin(x.shape[0]) if state is None else state
        y, state = self.mixer(self.norm_1(x), state)
        x = x + y
        return x + self.feed_forward(self.norm_2(x)), state
