"""A small genome, its token store and a small model trained on it, made once for all tests that need them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from titans_genomics.config import Config, parse_config


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


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with genome.fa, 30 kb in which a base often repeats the one two before, and a few N."""
    rng = np.random.default_rng(5)
    bases = rng.integers(0, 4, 30_000)
    repeats = rng.random(30_000) < 0.5
    for i in range(2, len(bases)):
        if repeats[i]:
            bases[i] = bases[i - 2]
    letters = np.frombuffer(b"ACGT", np.uint8)[bases].copy()
    letters[rng.integers(0, 30_000, 20)] = ord("N")
    folder = tmp_path_factory.mktemp("small")
    sequence = letters.tobytes().decode()
    (folder / "genome.fa").write_text(f">one\n{sequence[:20_000]}\n>two\n{sequence[20_000:]}\n")
    return folder


@pytest.fixture(scope="session")
def small_config(small_folder: Path) -> Config:
    """The config of seconds."""
    return parse_config(small_settings(small_folder), "small")


@pytest.fixture(scope="session")
def small_store(small_folder: Path, small_config: Config) -> Path:
    """Its token store."""
    from titans_genomics.data.store import tokenize

    tokenize(small_config, small_folder / "tokens")
    return small_folder / "tokens"


@pytest.fixture(scope="session")
def small_model(small_folder: Path, small_config: Config, small_store: Path) -> Path:
    """The output folder of a short training run."""
    from titans_genomics.training import train

    train(small_config, small_store, small_folder / "model")
    return small_folder / "model"
