"""What a model remembers: a nested structure of tensors whose size does not depend on how much was read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class State(NamedTuple):
    """Everything a model remembers of the tokens read so far, block by block."""

    blocks: list[Any]

    def detach(self) -> State:
        """The same state without its autograd history, for truncated back-propagation."""
        return map_leaves(lambda _, leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, self)

    def leaves(self) -> Iterator[tuple[str, Tensor | int]]:
        """Name and value of every tensor and every count."""
        found: list[tuple[str, Tensor | int]] = []
        map_leaves(lambda name, leaf: found.append((name, leaf)), self)
        return iter(found)

    @property
    def batch(self) -> int:
        """Sequences of the batch."""
        return first_tensor(self.blocks).shape[0]  # type: ignore[union-attr]

    def rows(self, which: Tensor | slice) -> State:
        """The state of some sequences of the batch, in that order; a tensor of indices may name one more than once."""
        return map_leaves(lambda _, leaf: leaf[which] if isinstance(leaf, Tensor) else leaf, self)


def first_tensor(state: Any) -> Tensor | None:
    """The first tensor of a nested state; asked at every token, so it looks no further."""
    if isinstance(state, Tensor):
        return state
    parts = state if isinstance(state, (list, tuple)) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def map_leaves(function: Callable[[str, Any], Any], state: Any, name: str = "") -> Any:
    """Apply `function(name, leaf)` to every tensor and count of a nested state; names are like ``blocks.0.memory.tail``."""
    if isinstance(state, tuple):
        parts = zip(state._fields, state, strict=True)  # type: ignore[attr-defined]
        return type(state)(*(map_leaves(function, part, f"{name}{field}.") for field, part in parts))
    if isinstance(state, list):
        return [map_leaves(function, part, f"{name}{index}.") for index, part in enumerate(state)]
    return function(name[:-1], state)


def save_state(state: State, path: str | Path) -> None:
    """Write a state as safetensors, atomically; the counts go to the header."""
    path = Path(path)
    tensors = {
        name: leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, leaf in state.leaves()
        if isinstance(leaf, Tensor)
    }
    counts = {name: leaf for name, leaf in state.leaves() if not isinstance(leaf, Tensor)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, {"titans_genomics_state": json.dumps(counts)})
        share(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def share(path: Path) -> None:
    """Give a file the rights that new files have; safetensors makes one that only its owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def load_state(model: Any, path: str | Path) -> State:
    """Read a state that `save_state` wrote, for a model of the same config, on the model's device.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such file; when it is no state, or the state of a model of another shape: names the tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such state file")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("titans_genomics_state")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or cut short ({error})") from None
    if header is None or not tensors:
        raise ValueError(f"{path}: a safetensors file, but not the state of a model")
    counts, device = json.loads(header), next(model.parameters()).device
    batch = next(iter(tensors.values())).shape[0]
    names = {name for name, _ in model.begin(1).leaves()}
    strange = sorted(names ^ (set(tensors) | set(counts)))
    if strange:
        raise ValueError(f"{path}: the state of a model of another config: {strange[0]} is only in one of the two")

    def fill(name: str, leaf: Tensor | int) -> Tensor | int:
        if not isinstance(leaf, Tensor):
            return int(counts[name])
        # caches begin empty and grow up to the window or segment: their third axis may differ
        wanted, found = list(leaf.shape), list(tensors[name].shape)
        if 0 in leaf.shape[2:3]:
            wanted[2:3], found[2:3] = [], []
        if wanted != found:
            raise ValueError(
                f"{path}: the state of a model of another config: {name} is {found}, this model's {wanted}"
            )
        return tensors[name].to(device)

    return map_leaves(fill, model.begin(batch))


def as_documents(tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Where the documents of packed rows stand in a right-padded batch.

    Parameters
    ----------
    tokens : (B, T) int64
    starts : (B, T) bool, True at the first token of every document (the first token of a row always is one)

    Returns
    -------
    padded : (documents, longest) int64, padded with 0; a causal model never sees the padding
    place : (B, T) int64, index of every token in ``padded.flatten()``
    """
    starts = starts.clone()
    starts[:, 0] = True
    number = starts.flatten().cumsum(0) - 1
    first = starts.flatten().nonzero().squeeze(1)
    within = torch.arange(tokens.numel(), device=tokens.device) - first[number]
    longest = int(within.max()) + 1
    place = number * longest + within
    padded = tokens.new_zeros(len(first) * longest).index_copy(0, place, tokens.flatten())
    return padded.view(len(first), longest), place.view_as(tokens)
