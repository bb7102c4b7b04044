"""Supervised training on a task: one network, batches that are a function of the step alone, checkpoints that a killed run goes on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from titans_genomics.config import LearnConfig
from titans_genomics.files import replacing
from titans_genomics.progress import Progress

ROWS = 100
"""Rows of the learning curve at most."""

MAX_NONFINITE = 10
"""Steps in a row that may be not finite (each is skipped and counted) before training stops."""


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes
    ----------
    batch : function of the step (0 is the first)
        A batch: the same for the same step, in any process, so that a resumed run sees what it would have seen.
    loss : function of network and batch
        The loss to minimise, and figures for the learning curve by name.
    validate : function of the network, in evaluation mode; None: the last weights are kept
        A figure of which lower is better; the weights with the lowest are kept.
    validate_every : int
        Optimiser steps between validations.
    """

    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], tuple[Tensor, dict[str, float]]]
    validate: Callable[[nn.Module], float] | None = None
    validate_every: int = 100


def learn(
    network: nn.Module, task: Task, settings: LearnConfig, out: Path, identity: dict[str, Any], title: str
) -> dict[str, Any]:
    """Train ``network`` on a task; it holds the best weights (without validation the last) afterwards, in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        With ``no_decay()``, the names of the parameters that weight decay leaves alone, if it has any.
    task : Task
    settings : LearnConfig
    out : Path
        Folder of the checkpoint, ``last.pt``. A killed run that is started again ends with the weights it would have had.
    identity : dict
        Plain values that a resumed run must share with the one that it resumes, beside the settings and the shapes of ``network``; with
        others it starts anew.
    title : str
        What the progress line says.

    Returns
    -------
    dict
        ``steps``, ``skipped`` (steps that were not finite, weights unchanged), ``seconds`` of training, ``best_step``, ``best`` (the figure
        of validation, None without) and ``curve``: rows of ``step``, ``loss`` and the task's figures, means since the row before (left out where
        no step since was finite), and ``validation`` where it was due.

    Raises
    ------
    ValueError
        After ten steps in a row that were not finite; when the checkpoint cannot be read.
    """
    optimiser = torch.optim.AdamW(decayed(network, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.95))
    progress: dict[str, Any] = {
        "step": 0, "skipped": 0, "in_a_row": 0, "seconds": 0.0, "best": None, "best_step": 0, "curve": [], "since": [],
    }  # fmt: skip
    best: dict[str, Tensor] | None = None
    last = Path(out) / "last.pt"
    identity = {
        **identity,
        "fit": settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        "validate_every": task.validate_every,
        "shapes": {name: list(value.shape) for name, value in network.state_dict().items()},
    }
    if (found := _resumable(last, identity)) is not None:
        network.load_state_dict(found["network"])
        optimiser.load_state_dict(found["optimiser"])
        progress, best = found["progress"], found["best"]
    every = -(-max(1, settings.steps) // ROWS)
    begun = time.monotonic() - progress["seconds"]
    network.train()
    with Progress(settings.steps, "steps", title) as bar:
        bar.resume_at(progress["step"])
        while progress["step"] < settings.steps:
            step = progress["step"]
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * schedule(step, settings.steps, settings.warmup)
            figures = _step(network, optimiser, task, task.batch(step), settings.clip)
            progress["step"] = step = step + 1
            _count(progress, figures, title)
            final = step == settings.steps
            due = task.validate is not None and (final or step % task.validate_every == 0)
            if final or due or step % every == 0:
                row = {"step": step} | _means(progress["since"])
                progress["since"].clear()
                if due:
                    row["validation"] = value = _validate(network, task)
                    if math.isfinite(value) and (progress["best"] is None or value < progress["best"]):
                        progress["best"], progress["best_step"] = value, step
                        best = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
                progress["curve"].append(row)
            bar.update(
                1, note=", ".join(f"{k} {v:.4g}" for k, v in (progress["curve"] or [{}])[-1].items() if k != "step")
            )
            if final or step % settings.checkpoint_every == 0:
                progress["seconds"] = time.monotonic() - begun
                _save(last, network, optimiser, progress, best, identity)
    if best is not None:
        network.load_state_dict(best)
    network.eval()
    return {
        "steps": progress["step"],
        "skipped": progress["skipped"],
        "seconds": round(progress["seconds"], 3),
        "best": progress["best"],
        "best_step": progress["best_step"] if best is not None else progress["step"],
        "curve": progress["curve"],
    }


def decayed(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of an optimiser: the parameters that decay, and those that ``no_decay()`` names, if the network has it."""
    spared = network.no_decay() if hasattr(network, "no_decay") else set()
    groups = [
        {
            "params": [p for n, p in network.named_parameters() if p.requires_grad and (n in spared) is free],
            "weight_decay": decay,
        }
        for free, decay in ((False, weight_decay), (True, 0.0))
    ]
    return [group for group in groups if group["params"]]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to a tenth."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, task: Task, batch: Any, clip: float
) -> dict[str, float] | None:
    """One optimiser step. None: loss or gradient were not finite, and the weights are what they were."""
    loss, figures = task.loss(network, batch)
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), clip))
    value = float(loss.detach())
    finite = math.isfinite(norm) and math.isfinite(value)
    if finite:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {"loss": value} | figures if finite else None


def _count(progress: dict[str, Any], figures: dict[str, float] | None, title: str) -> None:
    """Note the figures of a step, or, with None, that it was skipped; raise ValueError when too many in a row were."""
    if figures is not None:
        progress["in_a_row"] = 0
        progress["since"].append(figures)
        return
    progress["skipped"] += 1
    progress["in_a_row"] += 1
    if progress["in_a_row"] >= MAX_NONFINITE:
        raise ValueError(
            f"{title}: {MAX_NONFINITE} steps in a row were not finite, the last at step {progress['step']}; lower fit.lr or model.theta_max"
        )


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def _validate(network: nn.Module, task: Task) -> float:
    assert task.validate is not None
    network.eval()
    with torch.no_grad():  # not inference mode: what a network caches there could not be used in training
        value = task.validate(network)
    network.train()
    return float(value)


def _save(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: dict[str, Any],
    best: Any,
    identity: dict[str, Any],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(
            {
                "identity": identity,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "progress": progress,
                "best": best,
            },
            temporary,
        )


def _resumable(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint holds when it is of the same run; None to start anew."""
    if not path.is_file():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return found if found["identity"] == identity else None
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable checkpoint of this program ({type(error).__name__}); delete it to train from the start"
        ) from None
