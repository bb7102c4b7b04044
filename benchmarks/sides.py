"""What is measured: our modules and the peers' nearest, each with the same inputs (docs/benchmarks.md says what differs).

Peers are imported where they are built, so that one side's process never loads another's library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plan import CHUNKS
from titans_genomics.config import TitansConfig

VOCABULARY = 256  # of the whole models; titans-pytorch's own example has 256 tokens
PEER_CHUNK = 64  # titans-pytorch's own example
SEGMENT = 128  # attention segment of MAC; titans-pytorch's own example


class Shape(NamedTuple):
    """Sizes that both sides share: the memory is two layers, head width -> 2 x head width -> head width."""

    width: int = 256
    heads: int = 4

    @property
    def head(self) -> int:
        return self.width // self.heads


class Side(NamedTuple):
    """Something to measure.

    Attributes
    ----------
    model : the module, None where there is none
    inputs : tokens -> input tensors
    forward : input tensors -> output, or a scalar loss
    decode : tensor of one piece (1, T, D) or tokens (1, T), state or None -> output, state; None where it cannot
    """

    model: nn.Module | None
    inputs: Callable[[int], tuple[Tensor, ...]]
    forward: Callable[..., Tensor]
    decode: Callable[[Tensor, Any], tuple[Tensor, Any]] | None = None


def our_config(shape: Shape, **changes: Any) -> TitansConfig:
    """The package's defaults at the given sizes."""
    settings = {"d_model": shape.width, "n_heads": shape.heads, "n_layers": 1, "vocab_size": VOCABULARY}
    return TitansConfig(**{**settings, **changes})


def hidden_states(shape: Shape) -> Callable[[int], tuple[Tensor, ...]]:
    """(1, T, D), the kind of input that a layer gets."""
    return lambda tokens: (torch.randn(1, tokens, shape.width),)


def token_ids(tokens: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, ...]:
    """(1, T + 1) ids: inputs and targets."""
    return (torch.randint(vocabulary, (1, tokens + 1)),)


# ------------------------------------------------------------------------------------------------- ours


def our_memory(shape: Shape, **changes: Any) -> Side:
    """Projections, convolution, gates, memory and output."""
    from titans_genomics.models import NeuralMemory

    model = NeuralMemory(our_config(shape, **changes))

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return model(x, model.begin(x.shape[0]) if state is None else state)

    return Side(model, hidden_states(shape), lambda x: step(x, None)[0], step)


def our_dual_form(shape: Shape, layers: int = 2) -> Side:
    """`neural_memory` alone, without projections: what is counted in `limits`. Every input gets a gradient."""
    from titans_genomics.models.memory import safe_theta_max
    from titans_genomics.ops import neural_memory

    config = our_config(shape, memory_layers=layers)
    widths = [shape.head, *[2 * shape.head] * (layers - 1), shape.head]

    def inputs(tokens: int) -> tuple[Tensor, ...]:
        q, k, v = (torch.randn(1, tokens, shape.heads, shape.head) for _ in range(3))
        alpha, eta, theta = (torch.rand(1, tokens, shape.heads) for _ in range(3))
        step = theta * safe_theta_max(config.chunk) * (1 - eta)
        memory = [torch.randn(1, shape.heads, out, into) / into**0.5 for into, out in pairwise(widths)]
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, 0.01 * alpha, eta, step, *memory

    def forward(q, k, v, alpha, eta, theta, *memory):
        return neural_memory(q, k, v, alpha, eta, theta, list(memory), chunk=config.chunk)[0]

    return Side(None, inputs, forward)


def our_block(shape: Shape) -> Side:
    """LMM block: memory and SwiGLU, pre-norm, residual; read in pieces where the input is long, as in a whole model."""
    from titans_genomics.models.blocks import LMM, Block
    from titans_genomics.models.pieces import in_pieces

    config = our_config(shape)
    model = Block(LMM(config), shape.width, round(config.ff_expansion * shape.width))
    return Side(model, hidden_states(shape), lambda x: in_pieces(model, x, model.mixer.begin(1))[0])


def our_model(shape: Shape, variant: str = "mac", vocabulary: int = VOCABULARY, **changes: Any) -> Side:
    """A whole model from token ids to logits; forward gives the cross-entropy."""
    from titans_genomics.models import Titans

    changes = {"variant": variant, "segment": SEGMENT, "window": SEGMENT, **changes}
    model = Titans(our_config(shape, **changes))

    def loss(ids: Tensor) -> Tensor:
        logits, _ = model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return Side(model, lambda tokens: token_ids(tokens, vocabulary), loss, model)


def default_model(_: Shape) -> Side:
    """The model of configs/default.yaml, next-token loss."""
    return our_model(Shape(), "lmm", vocabulary=8, **{"d_model": 128, "n_heads": 2, "n_layers": 2, "vocab_size": 8})


# ------------------------------------------------------------------------------------------------ peers


def peer_memory(shape: Shape, chunk_by_chunk: bool = False, chunk: int = PEER_CHUNK) -> Side:
    """titans-pytorch NeuralMemory: default mode, or gradients taken chunk by chunk with a step that stays finite."""
    from titans_pytorch import MemoryMLP, NeuralMemory

    mode = {"batch_size": chunk, "default_step_transform_max_lr": 1e-2} if chunk_by_chunk else {}
    memory = MemoryMLP(shape.head, depth=2, expansion_factor=2.0)
    model = NeuralMemory(
        dim=shape.width, heads=shape.heads, dim_head=shape.head, chunk_size=chunk, model=memory, **mode
    )
    return Side(model, hidden_states(shape), lambda x: model(x)[0], lambda x, state: model(x, state=state))


def peer_mac(shape: Shape, streams: int = 4) -> Side:
    """titans-pytorch MemoryAsContextTransformer, one layer: 4 residual streams as shipped, or 1."""
    from titans_pytorch import MemoryAsContextTransformer, MemoryMLP

    model = MemoryAsContextTransformer(
        num_tokens=VOCABULARY,
        dim=shape.width,
        depth=1,
        segment_len=SEGMENT,
        num_persist_mem_tokens=4,
        num_longterm_mem_tokens=16,
        heads=shape.heads,
        dim_head=shape.head,
        num_residual_streams=streams,
        neural_memory_model=MemoryMLP(shape.head, depth=2, expansion_factor=2.0),
        neural_memory_kwargs={"heads": shape.heads, "dim_head": shape.head},
    )
    return Side(model, token_ids, lambda ids: model(ids, return_loss=True))


def unofficial_memory(shape: Shape) -> Side:
    """titans-unofficial NeuralMemoryModule: one memory of two D x D layers, read before each write."""
    from titans.utils.memory import NeuralMemoryModule

    model = NeuralMemoryModule(shape.width, memory_depth=2)
    return Side(model, hidden_states(shape), lambda x: model(x)[0], lambda x, state: model(x, state))


def mamba_layer(shape: Shape) -> Side:
    """mambapy's Mamba layer (mixer without norm and residual): expansion 2, state 16, convolution 4, parallel scan."""
    from mambapy.mamba import MambaBlock, MambaConfig

    model = MambaBlock(MambaConfig(d_model=shape.width, n_layers=1))
    return Side(model, hidden_states(shape), model)


class TransformerBlock(nn.Module):
    """Pre-norm causal attention over everything before (fused, rotary positions) and SwiGLU, as in our LMM block."""

    def __init__(self, shape: Shape, hidden: int):
        super().__init__()
        from titans_genomics.models.blocks import RMSNorm, SwiGLU

        self.heads = shape.heads
        self.norm_1, self.norm_2 = RMSNorm(shape.width), RMSNorm(shape.width)
        self.to_qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.to_output = nn.Linear(shape.width, shape.width, bias=False)
        self.feed_forward = SwiGLU(shape.width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        from titans_genomics.models.attention import rotate

        q, k, v = self.to_qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, 0), rotate(k, 0), v, is_causal=True)
        x = x + self.to_output(y.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm_2(x))


def transformer_block(shape: Shape) -> Side:
    """The block that the LMM block stands beside."""
    model = TransformerBlock(shape, round(our_config(shape).ff_expansion * shape.width))
    return Side(model, hidden_states(shape), model)


BUILD: dict[str, Callable[[Shape], Side]] = {
    "our memory": our_memory,
    **{f"our memory, chunk {b}": partial(our_memory, chunk=b) for b in CHUNKS},
    "our dual form": our_dual_form,
    "our dual form, L = 1": lambda shape: our_dual_form(shape, layers=1),
    "our LMM block": our_block,
    "our MAC": our_model,
    "default model": default_model,
    "lmm": lambda shape: our_model(shape, "lmm"),
    "mac": lambda shape: our_model(shape, "mac"),
    "mag": lambda shape: our_model(shape, "mag"),
    "mal": lambda shape: our_model(shape, "mal"),
    "titans-pytorch memory, default": peer_memory,
    "titans-pytorch memory, default, chunk 128": lambda shape: peer_memory(shape, chunk=128),
    "titans-pytorch memory, chunk by chunk": lambda shape: peer_memory(shape, chunk_by_chunk=True),
    "titans-pytorch MAC, as shipped": peer_mac,
    "titans-pytorch MAC, one stream": lambda shape: peer_mac(shape, streams=1),
    "titans-unofficial memory": unofficial_memory,
    "mambapy Mamba": mamba_layer,
    "Transformer block": transformer_block,
}
