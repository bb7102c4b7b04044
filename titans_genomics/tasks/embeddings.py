"""Embeddings of labelled sequences by a frozen model: computed once per model and dataset, kept beside the dataset."""

from __future__ import annotations

import fcntl
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_genomics import __version__
from titans_genomics.config import Config
from titans_genomics.data.labelled import Labelled
from titans_genomics.data.store import TokenStore
from titans_genomics.files import file_sha256, replacing
from titans_genomics.models.classifier import pool
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import batches, device_of, encoded, padded, token_budget
from titans_genomics.training import check_model, load_model, with_vocabulary


@dataclass(frozen=True)
class Embedding:
    """One vector per sequence of a dataset, and what it took.

    Attributes
    ----------
    vectors : np.ndarray
        float32, (n, D), in the order of the dataset.
    parameters : int
        Of the frozen model.
    seconds : float
        Computing it, when it was computed.
    details : dict
        Of models of the Hub: what was read, and how many sequences were cut.
    """

    vectors: np.ndarray
    parameters: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def embed(
    config: Config, store: Path, data: Labelled, data_folder: Path, model_folder: Path, name: str, out: Path
) -> Embedding:
    """Embeddings by one of the run's trained models: its final hidden states, pooled; read from ``out`` when they are there.

    With ``downstream.strands`` "both" they are the mean over both strands, the same whichever is given.

    Parameters
    ----------
    config, store : Config, Path
        The run and its token store.
    data, data_folder : Labelled, Path
        The dataset, and where it lies.
    model_folder, name : Path, str
        Output folder of ``train``, and the model's name in the config.
    out : Path
        The .npz to keep them in.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such model, or it belongs to another config or token store.
    """
    settings = config.downstream
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    described = check_model(config, tokens, model_folder)
    if described["name"] != name:
        raise ValueError(f"{model_folder}: holds the model {described['name']!r}, not {name!r}; train {name} first")
    key = {
        "model": {"name": name, "class": described["class"], "config": described["config"]},
        "weights": file_sha256(Path(model_folder) / "model.safetensors"),
    }

    def compute() -> Embedding:
        torch.set_flush_denormal(True)
        device = device_of(config)
        model = load_model(model_folder, device)

        def read(rows: np.ndarray, turned: bool) -> torch.Tensor:
            tokens_BT, lengths_B = padded(encoded(data, rows, tokens.tokenizer, turned))
            lengths_B = lengths_B.to(device)
            hidden_BTD, _ = model.embed(tokens_BT.to(device))
            return pool(hidden_BTD.float(), lengths_B, settings.pooling)

        start = time.perf_counter()
        parts = list(batches(data.lengths, token_budget(device)))
        vectors = read_all(parts, read, settings.strands == "both", f"embedding {data.name} with {name}")
        return Embedding(vectors, described["parameters"], time.perf_counter() - start)

    return cached(out, key, data_folder, settings.pooling, settings.strands, compute)


@torch.inference_mode()
def read_all(
    parts: list[np.ndarray], read: Callable[[np.ndarray, bool], torch.Tensor], both: bool, what: str
) -> np.ndarray:
    """Vectors of all sequences, (n, D) float32; the mean over both strands if ``both``.

    ``parts``: which sequences are read together, every one of them once; ``read(rows, turned)`` gives (rows, D).
    """
    total = sum(map(len, parts))
    vectors: np.ndarray | None = None
    with Progress(total, "sequences", what) as progress:
        for rows in parts:
            own = read(rows, False)
            if both:
                own = (own + read(rows, True)) / 2
            if vectors is None:
                vectors = np.empty((total, own.shape[1]), np.float32)
            vectors[rows] = own.float().cpu().numpy()
            progress.update(len(rows))
    assert vectors is not None
    return vectors


# ------------------------------------------------------------------------------------------- keeping


def cached(
    path: Path, key: dict[str, Any], data_folder: Path, pooling: str, strands: str, compute: Callable[[], Embedding]
) -> Embedding:
    """The embedding in ``path`` if it was made of the same, else what ``compute`` gives, which is then kept there.

    Of several processes that want it at once one computes it, and the others wait. A file is written whole or not at all.
    """
    path = Path(path)
    key = key | {
        "pooling": pooling,
        "strands": strands,
        "sequences": file_sha256(Path(data_folder) / "sequences.parquet"),
        "version": __version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        found = _read(path, key)
        if found is None:
            found = compute()
            facts = {"parameters": found.parameters, "seconds": found.seconds, "details": found.details}
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, vectors=found.vectors, description=np.array(json.dumps({"key": key, "facts": facts})))
        return found


def _read(path: Path, key: dict[str, Any]) -> Embedding | None:
    """What a file holds, if it is there, whole, and was made of ``key``."""
    try:
        with np.load(path) as file:
            description = json.loads(str(file["description"]))
            if description["key"] == json.loads(json.dumps(key)):
                return Embedding(file["vectors"], **description["facts"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        pass  # none, or damaged: made again
    return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process at a time is within this block for one path; the system ends the lock of a killed one."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
