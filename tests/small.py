"""The settings of a run of seconds. A module of its own, because every folder of tests may have a `conftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def small_settings(folder: Path, **train: Any) -> dict[str, Any]:
    """A config of seconds, as plain values; ``train`` changes its train section."""
    return {
        "run": "small",
        "results": str(folder / "results"),
        "data": {
            "sources": [{"path": str(folder / "genome.fa"), "name": "genome"}],
            "split": {"block": 1000, "validation": 0.1, "test": 0.1},
        },
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "chunk": 16, "memory_expansion": 1.0},
        "train": {
            "context": 64,
            "batch_size": 4,
            "max_steps": 20,
            "warmup": 4,
            "validate_every": 10,
            "checkpoint_every": 10,
            "validation_windows": 6,
            "accelerator": "cpu",
            "wandb": {"mode": "disabled"},
            **train,
        },
        "evaluate": {"piece": 100, "context": 256, "markov": [0, 1, 2, 3]},
    }
