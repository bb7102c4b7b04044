"""Models of the Hugging Face Hub, or of a folder, as frozen embedders beside the run's own."""

from __future__ import annotations

import hashlib
import inspect
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_genomics.config import Config
from titans_genomics.config_downstream import HubConfig
from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.data.labelled import Labelled
from titans_genomics.models.classifier import pool
from titans_genomics.progress import Progress
from titans_genomics.tasks.embeddings import Embedding, cached, file_sha256, read_all
from titans_genomics.tasks.sequences import batches, device_of, padded, token_budget


def embed_hub(config: Config, entry: HubConfig, data: Labelled, data_folder: Path, out: Path) -> Embedding:
    """Embeddings by a pre-trained model: its last hidden states, pooled over what the attention mask says is there.

    Input of more than ``entry.max_length`` tokens is cut at its end, as the model's tokenizer does it; ``details`` counts the
    sequences that were. Sequences are padded at the right for models that take an attention mask; others get sequences of one
    length at a time, so that no embedding depends on what is read beside it.

    Parameters
    ----------
    config, entry : Config, HubConfig
        The run, and the model.
    data, data_folder : Labelled, Path
        The dataset, and where it lies.
    out : Path
        The .npz to keep them in; read from there when it was made of the same.

    Raises
    ------
    FileNotFoundError
        The model is not there, or cannot be reached.
    ValueError
        It cannot be loaded, or gives no hidden states.
    """
    settings = config.downstream
    revision = _revision(entry)

    def compute() -> Embedding:
        device = device_of(config)
        tokenizer, model = _load(entry, revision)
        model.to(device).eval()
        start = time.perf_counter()
        views = [False, True] if settings.strands == "both" else [False]
        tokens: dict[bool, list[np.ndarray]] = {}
        cut = np.zeros(len(data), bool)
        for turned in views:
            with Progress(len(data), "sequences", f"tokens of {data.name} for {entry.name}") as progress:
                tokens[turned], too_long = _tokens(tokenizer, data, turned, entry, progress)
            cut |= too_long
        sizes = np.array([[len(ids) for ids in own] for own in tokens.values()])
        most = getattr(model.config, "max_position_embeddings", None)
        if isinstance(most, int) and sizes.max() > most:
            raise ValueError(
                f"downstream.hub.{entry.name}: {entry.repo} reads {most} tokens at most; set max_length to that or less "
                f"(is {entry.max_length})"
            )
        masked = "attention_mask" in inspect.signature(model.forward).parameters
        parts = _parts(sizes, token_budget(device), masked)

        def read(rows: np.ndarray, turned: bool) -> torch.Tensor:
            tokens_BT, lengths_B = padded([tokens[turned][row] for row in rows])
            tokens_BT, lengths_B = tokens_BT.to(device), lengths_B.to(device)
            inside = torch.arange(tokens_BT.shape[1], device=device) < lengths_B[:, None]
            if masked:
                tokens_BT = tokens_BT.masked_fill(~inside, tokenizer.pad_token_id or 0)
                output = model(input_ids=tokens_BT, attention_mask=inside.long())
            else:
                output = model(input_ids=tokens_BT)
            return pool(_hidden(output, entry).float(), lengths_B, settings.pooling)

        vectors = read_all(parts, read, settings.strands == "both", f"embedding {data.name} with {entry.name}")
        details = {
            "repo": entry.repo,
            "revision": revision,
            "max_length": entry.max_length,
            "cut": int(cut.sum()),
            "class": type(model).__name__,
        }
        parameters = sum(p.numel() for p in model.parameters())
        return Embedding(vectors, parameters, time.perf_counter() - start, details)

    key = {"repo": entry.repo, "revision": revision, "max_length": entry.max_length}
    return cached(out, key, data_folder, settings.pooling, settings.strands, compute)


# -------------------------------------------------------------------------------------------- tokens


def _tokens(
    tokenizer: Any, data: Labelled, turned: bool, entry: HubConfig, progress: Progress
) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of every sequence, special tokens included, and which sequences had to be cut: (n,) bool."""
    found, cut = [], np.zeros(len(data), bool)
    for row in range(len(data)):
        codes = data.sequence(row)
        text = decode(reverse_complement(codes) if turned else codes)
        ids = tokenizer(text, verbose=False)["input_ids"]
        if len(ids) > entry.max_length:
            cut[row] = True
            ids = tokenizer(text, truncation=True, max_length=entry.max_length)["input_ids"]
        if not ids:
            raise ValueError(
                f"downstream.hub.{entry.name}: the tokenizer of {entry.repo} makes no token of {data.ids[row]!r} "
                f"({text[:20]!r}...); is it a model of DNA?"
            )
        found.append(np.asarray(ids, dtype=np.int64))
        progress.update(1)
    return found, cut


def _parts(sizes: np.ndarray, budget: int, masked: bool) -> list[np.ndarray]:
    """Which sequences are read together; ``sizes`` (strands, n): tokens of each. Without a mask only those of the same sizes."""
    if masked:
        return list(batches(sizes.max(0), budget))
    _, group = np.unique(sizes, axis=1, return_inverse=True)
    parts = []
    for number in range(group.max() + 1):
        rows = np.flatnonzero(group == number)
        parts += [rows[own] for own in batches(sizes[:, rows].max(0), budget)]
    return parts


def _hidden(output: Any, entry: HubConfig) -> torch.Tensor:
    """The last hidden states (B, T, D) in what a model returns."""
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None and isinstance(output, tuple | list) and output:
        hidden = output[0]
    if not isinstance(hidden, torch.Tensor) or hidden.dim() != 3:
        raise ValueError(
            f"downstream.hub.{entry.name}: {entry.repo} gives no hidden states of shape (batch, tokens, width); it cannot be probed"
        )
    return hidden


# ------------------------------------------------------------------------------------------- loading


def _revision(entry: HubConfig) -> str:
    """What the weights are: the commit on the Hub, or the SHA-256 of a folder's files."""
    folder = Path(entry.repo)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
        listed = "".join(f"{path.relative_to(folder)} {file_sha256(path)}\n" for path in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    if entry.revision is not None and re.fullmatch("[0-9a-f]{40}", entry.revision):
        return entry.revision
    from transformers import AutoConfig

    found = _try(entry, lambda: AutoConfig.from_pretrained(entry.repo, **_options(entry)))
    return getattr(found, "_commit_hash", None) or entry.revision or "main"


def _load(entry: HubConfig, revision: str) -> tuple[Any, Any]:
    """Tokenizer and model, float32, of the revision that `_revision` found."""
    from transformers import AutoModel, AutoTokenizer

    options = _options(entry)
    if not Path(entry.repo).is_dir():
        options["revision"] = revision
    tokenizer = _try(entry, lambda: AutoTokenizer.from_pretrained(entry.repo, **options))
    model = _try(entry, lambda: AutoModel.from_pretrained(entry.repo, dtype=torch.float32, **options))
    return tokenizer, model


def _options(entry: HubConfig) -> dict[str, Any]:
    here = Path(entry.repo).is_dir()
    return {
        "revision": None if here else entry.revision,
        "trust_remote_code": entry.trust_remote_code,
        "local_files_only": here,
    }


def _try(entry: HubConfig, load: Any) -> Any:
    """What ``load`` gives; its errors as one line that says what to do."""
    try:
        return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        at = f"downstream.hub.{entry.name}: {entry.repo}"
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{at} comes with Python code of its own. Read it, then set trust_remote_code: true and the revision that you read"
            ) from None
        if isinstance(error, ImportError):
            raise ValueError(f"{at} needs a package that is not installed ({reason})") from None
        if isinstance(error, OSError) and Path(entry.repo).is_dir():
            raise FileNotFoundError(
                f"{at}: this folder holds no whole model and tokenizer ({reason}). Copy all files of the repository there"
            ) from None
        if isinstance(error, OSError):
            raise FileNotFoundError(
                f"{at} is neither a folder nor to be had from the Hub ({reason}). Without network: download it elsewhere "
                f"(hf download {entry.repo} --local-dir FOLDER), copy the folder here, and set repo to it"
            ) from None
        raise ValueError(f"{at} cannot be loaded by transformers ({type(error).__name__}: {reason})") from None
