"""The memory on an NVIDIA GPU beside flash-linear-attention and attention: `make bench-gpu`, `python -m benchmarks.gpu`.

bfloat16 autocast, width 768, 12 heads of 64, forward + backward, the same number of tokens per step at every length
(shorter sequences come in larger batches). Two tables: mixers alone (hidden states to hidden states), and whole blocks
(mixer and SwiGLU). The fraction of peak is that of the rate at which this GPU multiplies 8192 x 8192 bfloat16
matrices in the same run. Results go to benchmarks/results/gpu-<name>.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import limits
from benchmarks.machine import commit, describe
from benchmarks.sides import Shape, TransformerBlock, our_config
from benchmarks.table import number, rows

LENGTHS = (2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
SHAPE = Shape(width=768, heads=12)
CHUNKED_UP_TO = 16_384  # longer sequences through a Python loop of chunks say nothing new


def ours(variant: str, block: bool, backend: str = "auto", **changes: Any) -> tuple[nn.Module, Callable]:
    """A mixer, or the block around it, with the memory's backend fixed."""
    from titans_genomics.models import memory
    from titans_genomics.models.blocks import Block
    from titans_genomics.models.titans import MIXERS
    from titans_genomics.ops import neural_memory

    config = our_config(SHAPE, variant=variant, **changes)
    module: nn.Module = MIXERS[variant](config)
    mixer = module
    if block:
        module = Block(mixer, SHAPE.width, round(config.ff_expansion * SHAPE.width))

    def forward(x: Tensor) -> Tensor:
        memory.neural_memory = functools.partial(neural_memory, backend=backend)
        return module(x, mixer.begin(x.shape[0]))[0]

    return module, forward


def gated_delta_net() -> tuple[nn.Module, Callable]:
    """12 heads with a state of 64 x 64 each, as in our linear memory; 5 projections of D x D, as ours."""
    from fla.layers import GatedDeltaNet

    module = GatedDeltaNet(
        hidden_size=SHAPE.width, num_heads=SHAPE.heads, head_dim=SHAPE.head, expand_v=1, mode="chunk"
    )
    return module, lambda x: module(x)[0]


def mamba2() -> tuple[nn.Module, Callable]:
    """Expansion 2, heads of 64, state 128: its own defaults. Its fast path needs mamba-ssm and causal-conv1d."""
    from fla.layers import Mamba2
    from fla.layers import mamba2 as source

    if not source.is_fast_path_available:
        raise ImportError("mamba-ssm is not installed: flash-linear-attention would fall back to plain PyTorch")
    module = Mamba2(hidden_size=SHAPE.width, num_heads=2 * SHAPE.heads, head_dim=SHAPE.head)

    def forward(x: Tensor) -> Tensor:
        y = module(x)
        return y[0] if isinstance(y, tuple) else y

    return module, forward


def attention(block: bool) -> tuple[nn.Module, Callable]:
    """Causal attention over everything (PyTorch's FlashAttention), with or without SwiGLU around it."""
    module: nn.Module = TransformerBlock(SHAPE, round(our_config(SHAPE).ff_expansion * SHAPE.width))
    if not block:
        module.feed_forward = nn.Identity()
    return module, module


MIXER_SIDES: dict[str, Callable[[], tuple[nn.Module, Callable]]] = {
    "LMM, L = 1, fused": lambda: ours("lmm", False, "fused", memory_layers=1),
    "LMM, L = 2, fused": lambda: ours("lmm", False, "fused"),
    "LMM, L = 1, chunked": lambda: ours("lmm", False, "chunked", memory_layers=1),
    "LMM, L = 2, chunked": lambda: ours("lmm", False, "chunked"),
    "Gated DeltaNet": gated_delta_net,
    "Mamba2": mamba2,
    "attention": lambda: attention(False),
}
BLOCK_SIDES: dict[str, Callable[[], tuple[nn.Module, Callable]]] = {
    "LMM block": lambda: ours("lmm", True, "auto"),
    "MAC block": lambda: ours("mac", True, "auto"),
    "MAG block": lambda: ours("mag", True, "auto"),
    "MAL block": lambda: ours("mal", True, "auto"),
    "Transformer block": lambda: attention(True),
}
AIMS = (
    ("LMM, L = 1, fused", "Gated DeltaNet", 1.0, 0),
    ("LMM, L = 2, fused", "Gated DeltaNet", 0.6, 0),
    ("MAG block", "Transformer block", 1.0, 8_192),
    ("MAL block", "Transformer block", 1.0, 8_192),
)


def time_step(forward: Callable, module: nn.Module, batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step (median), forward alone, and peak memory."""
    x = torch.randn(batch, tokens, SHAPE.width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    cotangent = torch.randn_like(x)
    torch.cuda.reset_peak_memory_stats()
    whole, ahead, sound = [], [], True
    for step in range(rounds + 3):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        marks[0].record()
        with torch.autocast("cuda", torch.bfloat16):
            y = forward(x)
        marks[1].record()
        y.backward(cotangent.to(y.dtype))
        marks[2].record()
        torch.cuda.synchronize()
        if step >= 3:
            ahead.append(marks[0].elapsed_time(marks[1]))
            whole.append(marks[0].elapsed_time(marks[2]))
        else:
            sound &= bool(y.isfinite().all() & x.grad.isfinite().all())
        x.grad = None
        module.zero_grad(set_to_none=True)
    return {
        "ms": statistics.median(whole),
        "forward_ms": statistics.median(ahead),
        "tokens_per_s": 1e3 * batch * tokens / statistics.median(whole),
        "peak_mb": torch.cuda.max_memory_allocated() / 1e6,
        "finite": sound,
    }


def multiply_rate(size: int = 8_192) -> float:
    """Gmultiply-adds per second of bfloat16 products."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end))
    return size**3 / best / 1e6


def measure(lengths: list[int], batch_tokens: int, rounds: int, only: str) -> dict[str, Any]:
    """Every side at every length; "error" where there is no figure."""
    runs = []
    for name, build in {**MIXER_SIDES, **BLOCK_SIDES}.items():
        if only not in name:
            continue
        for tokens in lengths:
            if "chunked" in name and tokens > CHUNKED_UP_TO:
                continue
            record: dict[str, Any] = {"side": name, "tokens": tokens, "batch": max(1, batch_tokens // tokens)}
            torch.manual_seed(0)
            torch.cuda.empty_cache()
            try:
                module, forward = build()
                module.cuda().train()
                record |= time_step(forward, module, record["batch"], tokens, rounds)
            except (ImportError, RuntimeError, ValueError) as error:
                record["error"] = str(error).strip().splitlines()[0][:200]
            runs.append(record)
            shown = record.get("error") or f"{record['tokens_per_s']:,.0f} tokens/s, {record['peak_mb']:,.0f} MB"
            print(f"{name}, {record['batch']} x {tokens}: {shown}", flush=True)
    return {"gmadd_per_s": multiply_rate(), "runs": runs}


def render(results: dict[str, Any]) -> str:
    """Tokens per second by length, ratios beside the aims, fractions of peak."""
    found = {(r["side"], r["tokens"]): r for r in results["runs"]}
    lengths = sorted({r["tokens"] for r in results["runs"]})
    speed = {key: r.get("tokens_per_s") for key, r in found.items()}
    parts = [f"{results['gpu']}, {results['machine']['versions']['torch']}, {results['machine']['date']}"]
    for sides in (MIXER_SIDES, BLOCK_SIDES):
        body = [
            [side, *(number(speed.get((side, tokens))) for tokens in lengths)]
            for side in sides
            if any((side, tokens) in found for tokens in lengths)
        ]
        parts.append(rows(["tokens/s", *(f"{tokens:,}" for tokens in lengths)], body))
    body = []
    for a, b, aim, since in AIMS:
        ratios = [(speed.get((a, t)), speed.get((b, t)), t) for t in lengths]
        cells = [
            f"{x / y:.2f}x" + ("" if t < since or x / y >= aim else " (short)") if x and y else "-"
            for x, y, t in ratios
        ]
        body.append([f"{a} / {b}", f"{aim:g}x" + (f" from {since:,}" if since else ""), *cells])
    parts.append(rows(["ratio", "aim", *(f"{tokens:,}" for tokens in lengths)], body))
    chunk, body = results["chunk"], []
    for side, layers in (("LMM, L = 1, fused", 1), ("LMM, L = 2, fused", 2)):
        work = 3 * limits.layer_total(SHAPE, chunk, layers)
        cells = [
            f"{100 * speed[side, t] * work / 1e9 / results['gmadd_per_s']:.1f}%" if speed.get((side, t)) else "-"
            for t in lengths
        ]
        body.append([f"{side}: {work / 1e6:.1f} M multiply-adds/token", *cells])
    parts.append(
        rows([f"of {results['gmadd_per_s'] / 1e3:,.0f} T multiply-adds/s", *(f"{t:,}" for t in lengths)], body)
    )
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--lengths", default=",".join(map(str, LENGTHS)), help="comma-separated sequence lengths, tokens"
    )
    parser.add_argument("--batch-tokens", type=int, default=131_072, help="tokens per step at every length")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps per figure")
    parser.add_argument("--only", default="", help="sides whose names contain this")
    parser.add_argument("--out", type=Path, help="results file")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs an NVIDIA GPU that PyTorch can use; none was found here")
    gpu = torch.cuda.get_device_name()
    results = measure([int(t) for t in chosen.lengths.split(",")], chosen.batch_tokens, chosen.rounds, chosen.only)
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    results |= {"gpu": f"{gpu}, {memory:.0f} GB", "machine": describe(1), "commit": commit()}
    results["chunk"] = our_config(SHAPE).chunk
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    path = chosen.out or Path(__file__).parent / "results" / f"gpu-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(render(results))


if __name__ == "__main__":
    main()
