"""A trained model that is ready to read: its weights, its tokenizer, and the memory that every reading begins with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from titans_genomics.data import alphabet
from titans_genomics.data.folder import MANIFEST, TOKENIZER
from titans_genomics.data.tokenizers import load_tokenizer
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.files import file_sha256, read_json
from titans_genomics.models.state import State, load_state, map_leaves
from titans_genomics.training import load_model
from titans_genomics.training.export import describe_model

PIECE = 4096
"""Tokens that long sequences are read in at a time, the state carried from one to the next."""

MEMORY_KEY = "titans_genomics_memory"
"""The entry of a memory file's header that says what was read, and by which model."""

_MODEL = "model.json"


@dataclass(frozen=True)
class Reader:
    """A trained model, and all that it takes to read with it.

    Attributes
    ----------
    model : LanguageModel
        In evaluation mode, on ``device``.
    tokenizer : Tokenizer
        That of the tokens it was trained on.
    folder : Path
        The model's folder, results/RUN/train/NAME.
    name : str
        The model's name in the run's config.
    device : torch.device
    start : State or None
        A memory, batch 1, that every reading begins with; None: the learned beginning.
    memory : dict or None
        What the header of the memory file says: ``read`` (files), ``bases``, and so on.
    stretch : int or None
        Tokens after which the run's evaluation began its memory anew; None where the run was not evaluated.
    soft_mask : "keep", "ignore" or "n"
        What the run's tokens made of lower case; "n": N.
    """

    model: Any
    tokenizer: Tokenizer
    folder: Path
    name: str
    device: torch.device
    start: State | None = None
    memory: dict[str, Any] | None = None
    stretch: int | None = None
    soft_mask: Literal["keep", "ignore", "n"] = "keep"

    def state(self, batch: int) -> State | None:
        """What a reading of ``batch`` sequences begins with: `start` for each of them; None: the learned beginning."""
        if self.start is None:
            return None

        def expanded(_: str, leaf: Tensor | int) -> Tensor | int:
            return leaf.expand(batch, *leaf.shape[1:]).contiguous() if isinstance(leaf, Tensor) else leaf

        return map_leaves(expanded, self.start)

    def codes(self, sequence: str | bytes | np.ndarray) -> np.ndarray:
        """Base codes of a sequence, read as the run's tokens were: uint8, shape (bases,), A=0 C=1 G=2 T=3 N=4.

        IUPAC codes are N. Of a model of text: its bytes (UTF-8). An array is taken to hold codes already.

        Raises
        ------
        ValueError
            A letter is no nucleotide; an array holds something other than codes.
        """
        if isinstance(sequence, np.ndarray):
            if sequence.ndim != 1 or sequence.dtype != np.uint8:
                raise ValueError(f"codes must be uint8 (bases,), got {sequence.dtype} {sequence.shape}")
            if not self.tokenizer.text and sequence.size and sequence.max() > alphabet.N:
                raise ValueError(f"code {sequence.max()} stands for no base: A=0 C=1 G=2 T=3 N=4")
            return sequence
        if self.tokenizer.text:
            return np.frombuffer(sequence.encode() if isinstance(sequence, str) else bytes(sequence), dtype=np.uint8)
        return alphabet.encode(sequence, soft_mask=self.soft_mask)

    def nucleotides(self, what: str) -> None:
        """Raise ValueError where the model is one of text; ``what`` is the command that needs nucleotides."""
        if self.tokenizer.text:
            raise ValueError(f"{self.folder}: a model of text, and {what} needs one of nucleotides. Give another run")

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model's weights."""
        return file_sha256(self.folder / "model.safetensors")


def open_run(
    path: str | Path, model: str = "titans", memory: str | Path | None = None, device: str | None = None
) -> Reader:
    """A trained model of a run, ready to read.

    Parameters
    ----------
    path : path
        results/RUN; or the folder of a model itself, results/RUN/train/NAME, whose tokens are two folders up.
    model : str
        Its name in the run's config; of a model's folder it is not looked at.
    memory : path, optional
        A memory that `memorize` saved, of the same model: every reading begins with it.
    device : str, optional
        "cpu", "cuda", ...; default: the GPU where there is one.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such run, model, tokenizer or memory; what is there is damaged; the memory is another model's.
        The message names what is missing, and the command that makes it.
    """
    run, folder = _folders(Path(path), model)
    description = describe_model(folder)
    tokenizer = load_tokenizer(_tokenizer(run, folder))
    if list(tokenizer.vocabulary) != description["vocabulary"]:
        raise ValueError(
            f"{folder}: this model has another vocabulary than the tokens in {run / 'tokens'}. Run `titans-genomics train` again"
        )
    place = _device(device)
    own = load_model(folder, place)
    start, header = _memory(own, folder, Path(memory)) if memory is not None else (None, None)
    return Reader(
        own, tokenizer, folder, description["name"], place, start, header, _stretch(run), _soft_mask(run / "tokens")
    )


def usual_stretch(reader: Reader, stretch: int | None) -> int | None:
    """Tokens after which the memory begins anew: as given, of None those of the run; None: never. Raises ValueError."""
    stretch = reader.stretch if stretch is None else stretch
    if stretch is not None and stretch < 0:
        raise ValueError(f"stretch {stretch}: must be 0 (the memory never begins anew) or more tokens")
    return stretch or None


def _folders(path: Path, model: str) -> tuple[Path, Path]:
    """Folders of the run and of the model. Raises FileNotFoundError."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such run. Give the folder of a trained run, such as results/default; `titans-genomics train` makes one"
        )
    if (path / _MODEL).is_file():
        # made absolute, because "." has no folders above it
        return path.absolute().parent.parent, path
    folder = path / "train" / model
    if not (folder / _MODEL).is_file():
        found = sorted(other.parent.name for other in (path / "train").glob(f"*/{_MODEL}"))
        remedy = f"it has {', '.join(found)}" if found else "run `titans-genomics train` first"
        raise FileNotFoundError(f"{path}: no trained model {model!r} (train/{model}/{_MODEL}) in this run; {remedy}")
    return path, folder


def _tokenizer(run: Path, folder: Path) -> Path:
    """The tokenizer.json of a run, or one beside the model. Raises FileNotFoundError."""
    places = (folder / TOKENIZER, run / "tokens" / TOKENIZER)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{places[1]}: not there, and without its tokenizer the model cannot read; run `titans-genomics tokenize` first"
    )


def _stretch(run: Path) -> int | None:
    """What the run's evaluation says, if there is one."""
    path = run / "evaluate" / "evaluate.json"
    found = read_json(path, "evaluate").get("stretch") if path.is_file() else None
    return int(found) if found else None


def _soft_mask(store: Path) -> Literal["keep", "ignore", "n"]:
    """How lower case became tokens; of a model without its store: as upper case."""
    path = store / MANIFEST
    return read_json(path, "tokenize")["config"]["data"]["soft_mask"] if path.is_file() else "keep"


def _device(name: str | None) -> torch.device:
    """Raises ValueError for a device that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r}: no such device. Give cpu, or cuda where there is a GPU") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: PyTorch sees no GPU here. Give cpu")
    return device


def _memory(model: Any, folder: Path, path: Path) -> tuple[State, dict[str, Any]]:
    """A saved memory and what its header says. Raises FileNotFoundError, ValueError."""
    state = load_state(model, path)
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()[MEMORY_KEY])
        weights, maker = header["model"], header["folder"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: the state of a model, but no memory of a genome. Make one with `titans-genomics memorize`"
        ) from None
    if weights != file_sha256(folder / "model.safetensors"):
        raise ValueError(
            f"{path}: this memory is of the model {maker}, whose weights are not those of {folder}. "
            "Run `titans-genomics memorize` with this model"
        )
    return state, header
