"""Training on needles: can a model learn to use its memory for recall, and does that carry beyond the training context?

Recall is learned late and at once or not at all, so everything here makes its signal dense: most of a window is needles that stand in it
twice; the loss counts what the second time gives away, payloads and the motifs behind their first bases; and windows begin short and grow to
the training context.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from titans_genomics.config import Config, NeedleConfig
from titans_genomics.data.store import TokenStore
from titans_genomics.progress import Progress
from titans_genomics.tasks.haystack import Background
from titans_genomics.tasks.learn import decayed, schedule

LR = 3e-3
"""Peak learning rate of AdamW."""

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls (cosine)."""

SHORTEST = 128
"""Tokens of the first windows."""

GROWING = (0.5, 0.9)
"""Between these shares of the steps windows grow to the training context: recall has to be there before distances do."""

ROWS = 2048
"""Tokens of a step at least: short windows are read more side by side than `train.batch_size`."""

PLANTED = 0.75
"""Largest share of a window that is needles, questions included; the rest is genome."""

ORDINARY = 0.1
"""Weight of the ordinary next-token loss."""

KNOWN = 8
"""Bases of a motif that say which needle is asked for: the loss counts those behind them."""

KEYS = ("payload_bits", "payload_accuracy", "bits")

CURVE = 50
"""Rows of the learning curve at most."""


def tune(model: Any, config: Config, store: TokenStore, name: str) -> dict[str, Any]:
    """Train on needles in place, ``needle.tune_steps`` steps of AdamW; the model is in evaluation mode afterwards.

    Returns
    -------
    dict
        ``steps`` done; ``stopped``: whether ``train.max_nonfinite`` steps in a row were not finite, so that tuning ended with the weights before
        them; ``lr``, ``context`` (tokens of the last windows), ``tokens``, ``skipped`` (steps that were not finite), ``seconds``, and ``curve``: rows of ``step``, ``context``,
        ``payload_bits`` and ``payload_accuracy`` (of what a repeat gives away), ``bits`` (of everything), means since the row before.

    Raises
    ------
    ValueError
        When a window has no room for a needle and its question.
    """
    settings, train, steps = config.needle, config.train, config.needle.tune_steps
    background = Background(store, "train", _trained(store, settings))
    least = 2 * (settings.motif + settings.payload)
    rng = np.random.default_rng([config.seed, steps])
    optimiser = torch.optim.AdamW(decayed(model, train.weight_decay), lr=LR, betas=(train.beta1, train.beta2))
    begun, every = time.monotonic(), -(-steps // CURVE)
    done = seen = skipped = in_a_row = 0
    curve: list[dict[str, float]] = []
    since: list[tuple[float, float, float]] = []
    model.checkpoint_activations = train.checkpoint
    model.train()
    with Progress(steps, "steps", f"needles, tuning {name}") as progress:
        for step in range(steps):
            context = length_at(step, steps, train.context, least)
            rows = max(train.batch_size, ROWS // context)
            for group in optimiser.param_groups:
                group["lr"] = LR * schedule(step, steps, WARMUP)
            window, asked = windows(rng, background, settings, context, rows)
            seen += window.size
            found = _step(model, optimiser, window, asked, train.clip)
            if found is None:
                skipped, in_a_row = skipped + 1, in_a_row + 1
            else:
                in_a_row = 0
                since.append(found)
            done = step + 1
            if since and (done % every == 0 or done == steps):
                means = dict(zip(KEYS, np.mean(since, 0).tolist(), strict=True))
                curve.append({"step": done, "context": context, **means})
                since.clear()
            note = f"{curve[-1]['payload_bits']:.3f} bits per recalled base" if curve else ""
            progress.update(1, note=f"{context} tokens, {note}")
            if in_a_row >= train.max_nonfinite:
                break
    model.eval()
    seconds = round(time.monotonic() - begun, 3)
    return {
        "steps": done,
        "stopped": in_a_row >= train.max_nonfinite,
        "lr": LR,
        "context": train.context,
        "tokens": seen,
        "skipped": skipped,
        "seconds": seconds,
        "curve": curve,
    }


def _trained(store: TokenStore, settings: NeedleConfig) -> str | None:
    """The source that is measured where it has a training split, else the first that was trained on."""
    for source in (settings.source, *sorted(store.sources, key=lambda name: store.weight(name) == 0)):
        if source is not None and store.runs("train", source):
            return source
    return None


def _step(
    model: Any, optimiser: torch.optim.Optimizer, window: np.ndarray, asked: np.ndarray, clip: float
) -> tuple[float, float, float] | None:
    """One optimiser step on windows (B, T + 1): bits and accuracy of what is asked, bits of everything.

    None: loss or gradient were not finite, and the weights are what they were.
    """
    device = next(model.parameters()).device
    tokens = torch.from_numpy(window.astype(np.int64)).to(device)
    targets, recalled = tokens[:, 1:], torch.from_numpy(asked).to(device)[:, 1:]
    logits, _ = model(tokens[:, :-1])
    nll = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    own, ordinary = nll[recalled].mean(), nll[targets < 4].mean()
    (own + ORDINARY * ordinary).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    if not math.isfinite(norm):
        optimiser.zero_grad()
        return None
    optimiser.step()
    optimiser.zero_grad()
    right = (logits.detach()[..., :4].argmax(-1) == targets)[recalled].float().mean()
    bits, everything = (torch.stack([own, ordinary]).detach() / math.log(2)).tolist()
    return bits, right.item(), everything


def length_at(step: int, steps: int, context: int, least: int) -> int:
    """Tokens of the windows of a step: `SHORTEST`, or what holds ``least``, then steadily longer up to ``context``."""
    if context < least:
        raise ValueError(
            f"needle.tune_steps: windows of {context} tokens (train.context) have no room for a needle and its question, {least} bases; "
            "shorten needle.motif or needle.payload"
        )
    first = min(context, max(SHORTEST, least))
    grown = (step / max(1, steps - 1) - GROWING[0]) / (GROWING[1] - GROWING[0])
    return round(first * (context / first) ** min(1.0, max(0.0, grown)))


def windows(
    rng: np.random.Generator, background: Background, settings: NeedleConfig, context: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Windows in which every needle stands twice, at random places among real bases and among other needles.

    Returns tokens (count, context + 1) uint8, and which of them a repeat gives away, the same shape, bool: where a needle stands the second
    time, all bases behind the first `KNOWN` of the motif.
    """
    size, total = settings.motif + settings.payload, context + 1
    needles = max(1, int(PLANTED * total / (2 * size)))
    window, asked = np.empty((count, total), np.uint8), np.zeros((count, total), bool)
    for row, given in zip(window, asked, strict=True):
        row[:] = background.read(int(rng.integers(2 * background.bases)), total)
        own = rng.integers(0, 4, (needles, size), dtype=np.uint8)
        places = np.sort(rng.integers(0, total - 2 * needles * size + 1, 2 * needles)) + np.arange(2 * needles) * size
        seen: set[int] = set()
        for place, number in zip(
            places.tolist(), rng.permutation(np.repeat(np.arange(needles), 2)).tolist(), strict=True
        ):
            row[place : place + size] = own[number]
            if number in seen:
                given[place + min(KNOWN, settings.motif) : place + size] = True
            seen.add(number)
    return window, asked
