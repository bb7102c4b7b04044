"""Needle in a genome: a motif with a payload behind it is planted in held-out sequence; is the payload recalled at the motif?

Per length L several stretches of real bases are read, each with one needle per depth in place of what stood there. Then every needle is
asked from a copy of the state after L bases: the motif is shown and the model goes on, once by itself (greedy) and once with the true
payload before each base (teacher-forced). Beside every needle stands a control, a motif and payload that were never planted, asked from the same state:
payloads are random, so that nothing but recall beats 25% and 2 bits.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_model as save_safetensors

from titans_genomics.config import Config, NeedleConfig
from titans_genomics.data.store import TokenStore
from titans_genomics.files import replacing, write_json
from titans_genomics.models.state import State, share
from titans_genomics.progress import Progress
from titans_genomics.tasks.haystack import Background, Needles, draw_needles
from titans_genomics.tasks.needle_tune import tune
from titans_genomics.tasks.peak import peak_mb, reset_peak
from titans_genomics.training import check_model, load_model, with_vocabulary

BATCH_TOKENS = 16_384
"""Tokens of all stretches of a batch that are read in one step."""

QUESTIONS = 64
"""Questions that are asked side by side; each needs a copy of the state."""

RESAMPLES = 2000
"""Bootstrap resamples of the stretches."""

FIGURES = ("recall", "exact", "bits", "accuracy", "finite")


def needle(config: Config, store: Path, models: dict[str, Path], out: Path) -> dict[str, Any]:
    """Plant needles in held-out sequence, ask for them, and write the figures as JSON.

    Parameters
    ----------
    config : Config
        The run; lengths, depths and sizes stand in ``config.needle``.
    store : Path
        Token store folder, nucleotide tokens.
    models : dict
        Name to the output folder of ``train``.
    out : Path
        The JSON file to write; with ``needle.tune_steps``, tuned weights go to MODEL/tuned.safetensors beside it.

    Returns
    -------
    dict
        ``motif``, ``payload`` (bases), ``lengths``, ``depths``, ``split``, ``source``, ``source_bases``, ``repeated_background``
        (the lengths for which the split is too short, so that stretches repeat it), ``seed``, ``train_context``, ``resamples``; ``models``: name to
        ``cells`` (one per length and depth, see `_cells`), ``lengths`` (per length: stretches, seconds, bases per second and
        peak memory), ``seconds``, ``bases_per_second``, ``peak_mb``; ``tuned``: the same after training on needles, with ``tuning``
        (see `needle_tune.tune`), only with ``needle.tune_steps``.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no model, or it comes from another config or token store; when tokens are not bases, the split is empty, or
        needles overlap.
    """
    settings = config.needle
    if not settings.lengths:
        raise ValueError("needle.lengths is empty: name one or more lengths, bases")
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    for folder in models.values():
        check_model(config, tokens, Path(folder))
    background = Background(tokens, "test", settings.source)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {
        "motif": settings.motif,
        "payload": settings.payload,
        "lengths": list(settings.lengths),
        "depths": list(settings.depths),
        "split": background.split,
        "source": background.source,
        "source_bases": background.bases,
        "repeated_background": [length for length in settings.lengths if length > background.bases],
        "seed": config.seed,
        "train_context": config.train.context,
        "resamples": RESAMPLES,
        "models": {},
    }
    if settings.tune_steps:
        result["tuned"] = {}
    for name, folder in models.items():
        model = load_model(folder, device)
        result["models"][name] = measure(model, settings, background, config.seed, name)
        if settings.tune_steps:
            tuning = tune(model, config, tokens, name)
            weights = Path(out).parent / name / "tuned.safetensors"
            weights.parent.mkdir(parents=True, exist_ok=True)
            with replacing(weights) as temporary:
                save_safetensors(model, str(temporary))
                share(temporary)
            measured = measure(model, settings, background, config.seed, f"{name}, tuned")
            result["tuned"][name] = {**measured, "tuning": tuning}
    write_json(Path(out), result)
    return result


def measure(model: Any, settings: NeedleConfig, background: Background, seed: int, what: str) -> dict[str, Any]:
    """Figures of one model at every length and depth; see `needle`. The same needles and stretches for every model.

    Stretches begin at equal distances on both strands of the split; where it is short for so many they overlap, with needles of their own.
    """
    counts = {length: stretches(settings, length) for length in settings.lengths}
    cells, lengths = [], []
    begun = time.monotonic()
    with Progress(sum(n * length for length, n in counts.items()), "bases", f"needles, {what}") as progress:
        for length, count in counts.items():
            started = time.monotonic()
            reset_peak(next(model.parameters()).device)
            rng = np.random.default_rng([seed, length])
            places = np.array(settings.places(length), dtype=np.int64)
            needles = draw_needles(rng, places, count, settings.motif, settings.payload)
            starts = (rng.integers(2 * background.bases) + np.arange(count) * 2 * background.bases // count).tolist()
            figures = []
            rows = max(1, BATCH_TOKENS // min(settings.piece, length))
            for first in range(0, count, rows):
                own = slice(first, min(first + rows, count))
                state = read(model, background, needles, starts, own, length, settings.piece, progress)
                figures.append(ask(model, state, needles, own))
            cells += _cells(np.concatenate(figures, axis=1), needles, length, settings.depths, rng)
            seconds = time.monotonic() - started
            lengths.append(
                {
                    "length": length,
                    "stretches": count,
                    "seconds": round(seconds, 3),
                    "bases_per_second": count * length / seconds,
                    "peak_mb": peak_mb(next(model.parameters()).device),
                }
            )
            recalled = [cell["recall"] for cell in cells[-len(settings.depths) :]]
            progress.update(0, note=f"{length:,} bases: {np.mean(recalled):.0%} recalled")
    seconds = time.monotonic() - begun
    return {
        "cells": cells,
        "lengths": lengths,
        "seconds": round(seconds, 3),
        "bases_per_second": sum(n * length for length, n in counts.items()) / seconds,
        "peak_mb": max(row["peak_mb"] for row in lengths),
    }


def stretches(settings: NeedleConfig, length: int) -> int:
    """Stretches of genome that are read at a length: ``samples``, of long ones fewer, but two where more than one is asked for."""
    return min(settings.samples, max(2, settings.max_bases // length))


@torch.inference_mode()
def read(
    model: Any, background: Background, needles: Needles, starts: list[int], rows: slice, length: int, piece: int, progress: Progress
) -> State:  # fmt: skip
    """The state after ``length`` bases of the stretches ``rows`` with their needles, read a piece at a time."""
    device = next(model.parameters()).device
    state = None
    for first in range(0, length, piece):
        size = min(piece, length - first)
        window = np.stack([background.read(start + first, size) for start in starts[rows]])
        needles.plant(window, first, rows)
        _, state = model.embed(torch.from_numpy(window.astype(np.int64)).to(device), state)
        progress.update(window.size)
    assert state is not None
    return state


@torch.inference_mode()
def ask(model: Any, state: State, needles: Needles, rows: slice) -> np.ndarray:
    """Every needle and control of the stretches ``rows`` from a copy of their state: (figures, stretches, 2 depths) float64.

    Figures: share of payload bases right when the model goes on by itself; 1 where all are; mean bits per payload base, and share of them
    right, when the true bases before them are given; share of answers that are numbers (others count as a guess: 2 bits).
    """
    device = next(model.parameters()).device
    motifs, payloads = (
        torch.from_numpy(part[rows].astype(np.int64)).to(device).flatten(0, 1)
        for part in (needles.motifs, needles.payloads)
    )
    each = needles.motifs.shape[1]
    owner = torch.arange(state.batch, device=device).repeat_interleave(each)
    figures = []
    for these in torch.arange(len(owner), device=device).split(QUESTIONS):
        figures.append(_answers(model, state.rows(owner[these]), motifs[these], payloads[these]))
    return torch.cat(figures, dim=1).double().cpu().numpy().reshape(len(FIGURES), -1, each)


def _answers(model: Any, state: State, motif: torch.Tensor, payload: torch.Tensor) -> torch.Tensor:
    """Figures of questions motif (B, bases), payload (B, bases), each from its own state: (figures, B)."""
    shown, asked = model(motif, state)
    first = shown[:, -1:]
    forced = first
    if payload.shape[1] > 1:
        forced = torch.cat([first, model(payload[:, :-1], asked)[0]], dim=1)
    finite = forced.isfinite().all(-1)
    forced = torch.where(finite[..., None], forced, _uniform(forced))
    bits = F.cross_entropy(forced.transpose(1, 2).double(), payload, reduction="none") / math.log(2)
    given = [first[..., :4].argmax(-1)]
    while len(given) < payload.shape[1]:
        logits, asked = model(given[-1], asked)
        given.append(logits[..., :4].argmax(-1))
    right = (torch.cat(given, dim=1) == payload).double()
    accuracy = (forced[..., :4].argmax(-1) == payload).double().mean(1)
    return torch.stack([right.mean(1), right.amin(1), bits.mean(1), accuracy, finite.double().mean(1)])


def _uniform(logits: torch.Tensor) -> torch.Tensor:
    """What stands in for logits that are not finite: all bases alike, nothing else."""
    return torch.where(torch.arange(logits.shape[-1], device=logits.device) < 4, 0.0, -1e4).to(logits.dtype)


def _cells(
    figures: np.ndarray, needles: Needles, length: int, depths: tuple[float, ...], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """What the heat map shows, one entry per depth.

    ``length``, ``depth``, ``stretches``, ``distance`` (bases between needle and question); ``recall`` (share of payload bases right,
    greedy), ``exact`` (share of whole payloads), ``bits`` and ``accuracy`` (teacher-forced, per payload base), ``finite`` (share of answers that are
    numbers: a memory that overshoots ends in NaN, which counts as a guess); the same of the controls as ``control_*``;
    ``gain_recall`` (above the control) and ``gain_bits`` (below it), paired; ``ci95``: the 95% bootstrap interval over stretches of each of these.
    """
    planted, control = figures[..., : len(depths)], figures[..., len(depths) :]
    values = dict(zip(FIGURES, planted, strict=True))
    values |= {f"control_{name}": value for name, value in zip(FIGURES, control, strict=True)}
    values["gain_recall"] = values["recall"] - values["control_recall"]
    values["gain_bits"] = values["control_bits"] - values["bits"]
    count = planted.shape[1]
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    ranges = {name: np.quantile(weights @ value, [0.025, 0.975], axis=0) for name, value in values.items()}
    return [
        {
            "length": length,
            "depth": depth,
            "stretches": count,
            "distance": length - int(needles.places[number]) - needles.size,
            **{name: float(value[:, number].mean()) for name, value in values.items()},
            "ci95": {name: bounds[:, number].tolist() for name, bounds in ranges.items()},
        }
        for number, depth in enumerate(depths)
    ]
