"""A run as training leaves it, its model as random as it begins: made in no time, for tests of what a model is used for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from titans_genomics.config import TitansConfig, TokenizerConfig
from titans_genomics.data.tokenizers import make_tokenizer
from titans_genomics.training.export import build_model, save_model

SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6, "memory_expansion": 1.0}


def make_run(
    folder: Path,
    name: str = "titans",
    stretch: int | None = 32,
    tokenizer: dict[str, Any] | None = None,
    seed: int = 0,
    **shape: Any,
) -> Path:
    """A run folder with one model, and what its evaluation says of stretches (None: it was not evaluated)."""
    own = make_tokenizer(TokenizerConfig(**(tokenizer or {})))
    config = TitansConfig(vocab_size=own.vocab_size, **SHAPE | shape)
    torch.manual_seed(seed)
    model = build_model(name, config)
    with torch.no_grad():
        model.head.weight.mul_(30)  # a fresh model is nearly uniform: make it say something
    store: Any = SimpleNamespace(manifest={"vocabulary": list(own.vocabulary)}, sha256="0" * 64)
    (folder / "train" / name).mkdir(parents=True)
    save_model(folder / "train" / name, name, config, model, store, 1)
    own.save(folder / "tokens" / "tokenizer.json")
    if stretch is not None:
        (folder / "evaluate").mkdir()
        (folder / "evaluate" / "evaluate.json").write_text(json.dumps({"stretch": stretch}))
    return folder


def random_bases(count: int, seed: int = 1) -> str:
    return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, count)].tobytes().decode()


def write_fasta(path: Path, *sequences: str) -> Path:
    path.write_text("".join(f">record{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return path
