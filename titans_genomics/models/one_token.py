"""One token through a memory layer on a CPU, without gradients, in one call: `ops.token_cpu` with the layer's parameters."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from titans_genomics.ops.linear import Linear
from titans_genomics.ops.threads import parameter_array
from titans_genomics.ops.tiles import ONE
from titans_genomics.ops.token_cpu import Weights, token

if TYPE_CHECKING:
    from titans_genomics.models.memory import MemoryLayerState, NeuralMemory

CHILDREN = ("to_qkv", "to_gates", "to_output_gate", "to_output")


class OneToken:
    """`token` for a layer. Arrays look into the parameters' own memory, so that changed weights are seen."""

    def __init__(self, layer: NeuralMemory) -> None:
        self.layer = layer
        self.own = threading.local()  # what a thread works in
        self.addresses: list[int] = []
        self.longest = ONE if layer.bound_values else np.float32(np.inf)
        self.theta_max = np.float32(layer.theta_max)
        self.widths = [layer.width, *(w.shape[1] for w in layer.initial)]
        self.shapes = [(layer.heads, out, into) for into, out in pairwise(self.widths)]
        self.tail_shape = (max(layer.kernel - 1, 0), 3 * layer.heads * layer.width)

    def takes_layer(self) -> bool:
        """Whether the layer's projections are what they were made as: float32, no adapters, parametrisations or hooks."""
        children = self.layer._modules  # attributes of modules are slow to look up
        return all(
            type(child := children[name]) in (Linear, nn.Linear)
            and (weight := child._parameters.get("weight")) is not None
            and weight.dtype == torch.float32
            and not child._forward_hooks
            and not child._forward_pre_hooks
            for name in CHILDREN
        )

    def work(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Layer inputs, pre-activations and errors of one head, L vectors each."""
        if not hasattr(self.own, "work"):
            self.own.work = tuple(
                tuple(np.empty(width, np.float32) for width in widths)
                for widths in (self.widths[:-1], self.widths[1:], self.widths[1:])
            )
        return self.own.work

    def weights(self) -> Weights:
        """The parameters; taken anew where they have moved."""
        children, own = self.layer._modules, self.layer._parameters
        found = [children[name]._parameters["weight"] for name in CHILDREN]
        found += [children["to_gates"]._parameters["bias"], own["head_norm"]]
        if self.layer.kernel:
            found.append(own["conv"])
        addresses = [x.data_ptr() for x in found]
        if addresses != self.addresses:
            qkv, gates, opening, output, bias, norm, *taps = (parameter_array(x) for x in found)
            taps = taps[0] if taps else np.ones((len(qkv), 1), np.float32)
            self.arrays, self.addresses = Weights(qkv, taps, gates, bias, opening, norm, output), addresses
        return self.arrays

    def check(self, batch: int, state: MemoryLayerState) -> None:
        """Raise ValueError for the state of another layer: compiled code would read and write beyond its end."""
        memory = state.memory
        for name, xs in (("weights", memory.weights), ("surprise", memory.surprise), ("anchor", memory.anchor)):
            if [x.shape for x in xs] != [(batch, *shape) for shape in self.shapes]:
                raise ValueError(
                    f"state: {name} must be {batch} of {self.shapes}, got {[tuple(x.shape) for x in xs]}: it is another model's"
                )
        if state.tail.shape != (batch, *self.tail_shape) or not 0 <= memory.offset < self.layer.chunk:
            raise ValueError(
                f"state: tail must be {batch} of {self.tail_shape} and offset below the chunk of {self.layer.chunk}, got "
                f"{tuple(state.tail.shape)} and {memory.offset}: it is another model's"
            )

    def __call__(self, x: Tensor, state: MemoryLayerState) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """x (B, 1, D) and the state before it -> output (B, 1, D), and tail, weights and surprise after it."""
        self.check(x.shape[0], state)
        memory = state.memory
        tail = state.tail.float()
        before = [[w.mT.float().contiguous() for w in xs] for xs in (memory.weights, memory.surprise, memory.anchor)]
        after = [[torch.empty_like(w) for w in xs] for xs in before[:2]]
        out, tail_after = torch.empty_like(x), torch.empty_like(tail)
        arrays = [x.numpy()[:, 0], tail.numpy(), out.numpy()[:, 0], tail_after.numpy()]
        memories = [[w.numpy() for w in xs] for xs in (*before, *after)]
        parameters, work = self.weights(), self.work()
        for row, (token_in, tail_in, token_out, tail_out) in enumerate(zip(*arrays, strict=True)):
            W, S, at, W_after, S_after = (tuple([w[row] for w in xs]) for xs in memories)
            token(
                parameters, token_in, self.theta_max, self.layer.forgetting, self.layer.momentum, self.longest,
                tail_in, W, S, at, work, token_out, tail_out, W_after, S_after,
            )  # fmt: skip
        return out, tail_after, *([w.mT for w in xs] for xs in after)
