"""A run as training leaves it, its model as random as it begins: made in no time, for tests of what a model is used for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from titans_genomics.config import TitansConfig, TokenizerConfig
from titans_genomics.data.tokenizers import Nucleotides, make_tokenizer
from titans_genomics.models import Titans
from titans_genomics.training.export import build_model, save_model
from titans_genomics.use.reader import Reader

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


def made_reader(folder: Path, tokenizer: Any = None, stretch: int | None = None, start: Any = None) -> Reader:
    """A reader of a small model with random weights, whose logits are far from even; nothing of it is in a file."""
    tokenizer = tokenizer or Nucleotides()
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "chunk": 8, "memory_expansion": 1.0}
    model = Titans(TitansConfig(vocab_size=tokenizer.vocab_size, **shape)).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    return Reader(model, tokenizer, folder, "titans", torch.device("cpu"), start, None, stretch)


def random_bases(count: int, seed: int = 1) -> str:
    return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, count)].tobytes().decode()


def write_fasta(path: Path, *sequences: str) -> Path:
    path.write_text("".join(f">record{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return path
