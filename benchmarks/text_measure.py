"""One model read and decoded in a process of its own: `python -m benchmarks.text_measure '{"side": "lmm", ...}'`.

Prints one line of JSON: for each length of the prompt the seconds to its first new token, the time of each token after it, the
peak memory and the size of what is remembered. One thread; seconds are its processor time, which others at work on the machine do not lengthen.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import usage
from benchmarks.sides import SEGMENT, VOCABULARY, Shape, our_config

PIECE = 4_096  # tokens that a recurrent model reads at a time
BLOCK = 16  # tokens decoded in a row before another length has its turn
Read = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Reader(NamedTuple):
    """A model that reads and goes on.

    Attributes
    ----------
    model : the module
    read : tokens (B, T) and the state before them, None at the beginning -> logits after the last one (B, V), state
    streams : whether a long prompt is read in pieces, so that one reading serves all lengths
    """

    model: nn.Module
    read: Read
    streams: bool


# ------------------------------------------------------------------------------------------------- ours


def ours(variant: str, shape: Shape, layers: int, room: int) -> Reader:
    """A model of the package, at the parameter count of the LMM."""
    model = package_model(variant, shape, layers)

    def read(ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        x, state = model.embed(ids, state)
        return model.head(x[:, -1]), state

    return Reader(model, read, True)


def package_model(variant: str, shape: Shape, layers: int) -> nn.Module:
    """`Titans` of a variant; the SwiGLU makes up for what its mixer has more or less than that of the LMM."""
    from titans_genomics.models.titans import Titans, with_parameters

    changes = {"n_layers": layers, "segment": SEGMENT, "window": SEGMENT}
    with torch.device("meta"):
        wanted = Titans(our_config(shape, variant="lmm", **changes)).parameter_count()
    return Titans(with_parameters(our_config(shape, variant=variant, **changes), wanted))


# ------------------------------------------------------------------------------------------------ peers


class Cache(NamedTuple):
    """Rotated keys and values (B, H, room, d) of every layer, of which `count` are written."""

    keys: list[Tensor]
    values: list[Tensor]
    count: int


def transformer(shape: Shape, layers: int, room: int) -> Reader:
    """Attention over everything that was read: the package's Transformer with a cache that is allocated once and written to.

    The prompt is one causal pass of PyTorch's fused attention, a token attends to the cache as it lies; nothing is copied.
    """
    model = package_model("transformer", shape, layers)
    return Reader(model, partial(read_with_cache, model, room=room), False)


def read_with_cache(model: nn.Module, ids: Tensor, cache: Cache | None, room: int) -> tuple[Tensor, Cache]:
    """`Reader.read` of the Transformer: a prompt, or one token more."""
    from titans_genomics.models.attention import rotate

    x = model.embedding(ids)
    if cache is None:
        attention = model.blocks[0].mixer.attention
        sizes = ids.shape[0], attention.heads, ids.shape[1] + room, x.shape[-1] // attention.heads
        cache = Cache(*([x.new_empty(sizes) for _ in model.blocks] for _ in range(2)), 0)
    first, end = cache.count, cache.count + ids.shape[1]
    for block, keys, values in zip(model.blocks, cache.keys, cache.values, strict=True):
        attention = block.mixer.attention
        q, k, v = (attention.split(part) for part in attention.to_qkv(block.norm_1(x)).chunk(3, dim=-1))
        keys[:, :, first:end], values[:, :, first:end] = rotate(k, first), v
        q, k, v = rotate(q, first), keys[:, :, :end], values[:, :, :end]
        if ids.shape[1] > 1:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # on CPUs faster than the fused form for one query
            y = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
        x = x + attention.to_output(y.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.norm_2(x))
    return model.head(model.norm(x[:, -1:])[:, 0]), cache._replace(count=end)


def filled(reader: Reader, batch: int, count: int, room: int) -> tuple[Tensor, Cache]:
    """A cache of `count` tokens filled with random numbers, for lengths that take hours to read, and logits to begin with."""
    with torch.inference_mode():
        logits, small = reader.read(torch.zeros(batch, 2, dtype=torch.int64), None)
    wide = [
        [x.new_empty(*x.shape[:2], count + room, x.shape[3]).normal_() for x in xs] for xs in (small.keys, small.values)
    ]
    return logits, Cache(*wide, count)


class Written(NamedTuple):
    """What titans-pytorch goes on from: its cache, all tokens so far, and the positions that `sample` makes beforehand."""

    cache: Any
    ids: Tensor
    positions: Any


def peer_mac(shape: Shape, layers: int, room: int) -> Reader:
    """titans-pytorch MemoryAsContextTransformer as shipped (4 residual streams), read and continued as its `sample` does."""
    from titans_pytorch import MemoryAsContextTransformer, MemoryMLP

    model = MemoryAsContextTransformer(
        num_tokens=VOCABULARY,
        dim=shape.width,
        depth=layers,
        segment_len=SEGMENT,
        heads=shape.heads,
        dim_head=shape.head,
        neural_memory_model=MemoryMLP(shape.head, depth=2, expansion_factor=2.0),
        neural_memory_kwargs={"heads": shape.heads, "dim_head": shape.head},
    )

    def read(ids: Tensor, state: Written | None) -> tuple[Tensor, Written]:
        if state is None:
            length = model.seq_len_with_longterm_mem(ids.shape[1] + room)
            sizes = model.axial_pos_emb.maybe_derive_outer_dim(length, (model.neural_memory_segment_len,))
            state = Written(None, ids[:, :0], model.axial_pos_emb(sizes, return_factorized=True))
        ids = torch.cat([state.ids, ids], dim=1)
        logits, cache = model(
            ids, disable_flex_attn=True, cache=state.cache, return_cache=True, factorized_pos_emb=state.positions
        )
        return logits[:, -1], Written(cache, ids, state.positions)

    return Reader(model, read, False)


VARIANTS = ("lmm", "mac", "mag", "mal", "gated_deltanet", "diagonal")
TRANSFORMER, PEER = "Transformer, KV cache", "titans-pytorch MAC"
BUILD: dict[str, Callable[[Shape, int, int], Reader]] = {
    **{variant: partial(ours, variant) for variant in VARIANTS},
    TRANSFORMER: transformer,
    PEER: peer_mac,
}

# --------------------------------------------------------------------------------------------- measuring


def prompts(
    reader: Reader, lengths: list[int], batch: int, draw: Callable[[int], Tensor]
) -> Iterator[tuple[int, float, Tensor, Any]]:
    """For each length, ascending: processor seconds to its logits, the logits and the state. Tokens are drawn off the clock."""
    logits, state, done, spent = None, None, 0, 0.0
    for length in lengths:
        if not reader.streams:
            logits, state, done, spent = None, None, 0, 0.0
        while done < length:
            ids = draw(min(PIECE, length - done) if reader.streams else length)
            start = time.process_time()
            logits, state = reader.read(ids, state)
            spent += time.process_time() - start
            done += ids.shape[1]
        yield length, spent, logits, state


def state_mb(state: Any) -> float:
    """Size of all tensors of a state, MB; rows that only seem repeated count once."""
    seen: dict[int, int] = {}

    def walk(part: Any) -> None:
        if isinstance(part, Tensor):
            storage = part.untyped_storage()
            seen[part.data_ptr()] = min(storage.nbytes(), part.nbytes)
        elif isinstance(part, dict) or (hasattr(part, "values") and callable(part.values)):
            for child in part.values():
                walk(child)
        elif isinstance(part, (list, tuple)):
            for child in part:
                walk(child)

    walk(state)
    return sum(seen.values()) / 1e6


@torch.inference_mode()
def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Read prompts of ``spec["lengths"]``, then decode ``spec["count"]`` tokens after each, the lengths taking turns.

    ``spec["filled"]`` are lengths whose cache is not read but filled with random numbers (Transformer).
    """
    torch.manual_seed(0)
    batch, count = spec.get("batch", 1), spec["count"]
    room = count + BLOCK
    shape = Shape(spec["width"], spec["heads"])
    reader = BUILD[spec["side"]](shape, spec["layers"], room)
    reader.model.eval()

    def draw(tokens: int) -> Tensor:
        return torch.randint(VOCABULARY, (batch, tokens))

    logits, state = reader.read(draw(256), None)  # kernels are compiled, libraries loaded
    for _ in range(4):
        logits, state = reader.read(logits.argmax(-1, keepdim=True), state)
    baseline, found, going = usage()[0], {}, {}
    for length, seconds, logits, state in prompts(reader, spec["lengths"], batch, draw):
        found[length] = {"first_s": seconds, "peak_mb": usage()[0], "state_mb": state_mb(state)}
        going[length] = logits, state
    for length in spec.get("filled", []):
        logits, state = filled(reader, batch, length, room)
        found[length] = {"state_mb": state_mb(state)}
        going[length] = logits, state
    times: dict[int, list[float]] = {length: [] for length in going}
    sound = True
    for turn in range(-(-count // BLOCK) + 1):
        for length, (logits, state) in going.items():
            for _ in range(min(BLOCK, 4) if turn == 0 else BLOCK):
                start = time.process_time()
                logits, state = reader.read(logits.argmax(-1, keepdim=True), state)
                if turn > 0:  # the first turn warms up
                    times[length].append(time.process_time() - start)
            going[length] = logits, state
            sound &= bool(logits.isfinite().all())
    for length, taken in times.items():
        low, *_, high = statistics.quantiles(taken, n=4)
        found[length] |= {"token_s": statistics.median(taken), "token_s_quartiles": [low, high]}
    return {
        "lengths": {str(length): figures for length, figures in found.items()},
        "baseline_mb": baseline,
        "peak_mb": usage()[0],
        "parameters": sum(p.numel() for p in reader.model.parameters()),
        "finite": sound,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(json.dumps(measure(json.loads(sys.argv[1]))))
