"""One measurement in a process of its own: `python -m benchmarks.measure '{"kind": "train", "side": ..., "tokens": ...}'`.

Prints one line of JSON. A fresh process per measurement makes its peak memory its own. Every kind verifies that what
it computed is finite.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import limits
from benchmarks.sides import BUILD, Shape, Side

LONG = 10.0  # seconds; a first step longer than this is the figure, a shorter one only warms up


def usage() -> tuple[float, int]:
    """Peak resident memory of this process so far (MB) and its page faults so far."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3), now.ru_minflt


def finite(*tensors: torch.Tensor | None) -> bool:
    """Whether every tensor that is there is free of NaN and infinity."""
    return all(bool(x.isfinite().all()) for x in tensors if x is not None)


def train_step(side: Side, tokens: int) -> dict[str, Any]:
    """Forward and backward of one sequence: seconds of each."""
    inputs = side.inputs(tokens)
    inputs = tuple(x.requires_grad_() if x.is_floating_point() else x for x in inputs)
    cotangent = torch.randn(inputs[0].shape) if inputs[0].is_floating_point() else None
    faults = usage()[1]
    start = time.perf_counter()
    output = side.forward(*inputs)
    middle = time.perf_counter()
    output.backward(cotangent)
    end = time.perf_counter()
    faults = usage()[1] - faults
    gradients = [x.grad for x in inputs]
    if side.model is not None:
        gradients += [p.grad for p in side.model.parameters()]
        side.model.zero_grad(set_to_none=True)
    return {
        "forward_s": middle - start,
        "step_s": end - start,
        "faults": faults,
        "finite": finite(output.detach()),
        "finite_gradients": finite(*gradients),
    }


def train(side: Side, tokens: int, seconds: float) -> dict[str, Any]:
    """Forward and backward, repeated for about `seconds`, at least twice unless one takes longer than `LONG`."""
    train_step(side, min(tokens, 256))
    baseline = usage()[0]
    steps = [train_step(side, tokens)]
    if steps[0]["step_s"] < LONG:
        first, start = steps.pop(), time.perf_counter()  # the first step warms up
        while not steps or (time.perf_counter() - start + first["step_s"] < seconds and len(steps) < 9):
            steps.append(train_step(side, tokens))
    step, forward = (statistics.median(s[name] for s in steps) for name in ("step_s", "forward_s"))
    return {
        "tokens_per_s": tokens / step,
        "forward_tokens_per_s": tokens / forward,
        "steps": [round(s["step_s"], 5) for s in steps],
        "page_faults_per_token": statistics.median(s["faults"] for s in steps) / tokens,
        "baseline_mb": baseline,
        "finite": all(s["finite"] for s in steps),
        "finite_gradients": all(s["finite_gradients"] for s in steps),
    }


@torch.no_grad()
def stream(side: Side, tokens: int, piece: int) -> dict[str, Any]:
    """Forward only, in pieces, the state carried on; short lengths several times over. Inputs are drawn off the clock."""
    side.model.eval()

    def read(length: int, state: Any) -> tuple[float, bool, Any]:
        x = side.inputs(length)[0][:, :length]
        start = time.perf_counter()
        y, state = side.decode(x, state)
        return time.perf_counter() - start, finite(y), state

    read(min(piece, 256), None)
    baseline = usage()[0]
    read(min(piece, tokens), None)
    totals, sound, drift = [], True, None
    for _ in range(max(1, min(16, 65_536 // tokens))):
        state, spent = None, []
        for first in range(0, tokens, piece):
            seconds, good, state = read(min(piece, tokens - first), state)
            spent.append(seconds)
            sound &= good
        totals.append(sum(spent))
        half = len(spent) // 2
        if half:
            drift = statistics.median(spent[half:]) / statistics.median(spent[:half])
    return {
        "tokens_per_s": tokens / statistics.median(totals),
        "later_over_earlier": drift,
        "baseline_mb": baseline,
        "finite": sound,
    }


@torch.no_grad()
def decode(side: Side, after: list[int], count: int, piece: int) -> dict[str, Any]:
    """Tokens per second one token at a time, after each of the lengths in `after` (ascending)."""
    side.model.eval()
    state, read, sound = None, 0, True
    speeds: dict[str, float] = {}
    for length in after:
        while read < length:
            x = side.inputs(min(piece, length - read))[0]
            y, state = side.decode(x, state)
            read += x.shape[1]
            sound &= finite(y)
        for x in side.inputs(16)[0].split(1, dim=1):
            y, state = side.decode(x, state)
        singles = side.inputs(count)[0].split(1, dim=1)
        outputs = []
        start = time.perf_counter()
        for x in singles:
            y, state = side.decode(x, state)
            outputs.append(y)
        speeds[str(length)] = count / (time.perf_counter() - start)
        sound &= finite(*outputs)
        read += count + 16
    return {"tokens_per_s": speeds[str(after[0])], "speeds": speeds, "finite": sound}


def rates(shape: Shape, chunk: int) -> dict[str, Any]:
    """What this machine multiplies, Gmultiply-adds per second: by shape, with one thread and with all.

    The large product also with oneDNN, where the package prefers it (`titans_genomics.ops.linear`).
    """
    from titans_genomics.ops.linear import onednn, prefer_onednn

    threads = torch.get_num_threads()
    sizes = limits.shapes(shape, chunk)
    large = next(iter(sizes))
    found = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        found[str(count)] = {name: limits.rate(*of) for name, of in sizes.items()}
        if prefer_onednn():
            with onednn():
                found[str(count)][f"{large}, oneDNN"] = limits.rate(*sizes[large])
    torch.set_num_threads(threads)
    return {"gmadd_per_s": found, "chunk": chunk, "finite": True}


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure what the spec asks for."""
    torch.manual_seed(0)
    shape = Shape(spec.get("width", 256), spec.get("heads", 4))
    if spec["kind"] == "rates":
        from benchmarks.sides import our_config

        return rates(shape, our_config(shape).chunk)
    side = BUILD[spec["side"]](shape)
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "train": lambda: train(side, spec["tokens"], spec.get("seconds", 6.0)),
        "stream": lambda: stream(side, spec["tokens"], spec.get("piece", 4096)),
        "decode": lambda: decode(side, spec["after"], spec.get("count", 256), spec.get("piece", 4096)),
    }
    result = kinds[spec["kind"]]()
    result["peak_mb"] = usage()[0]
    if side.model is not None:
        result["parameters"] = sum(p.numel() for p in side.model.parameters())
    return result


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
