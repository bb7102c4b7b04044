"""Sequences as batches of tokens, read in pieces, and what a network says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from titans_genomics.config import Config
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.labelled import Labelled
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.models.classifier import CNN, Network
from titans_genomics.models.state import State
from titans_genomics.progress import Progress

Strands = Literal["both", "given"]


def device_of(config: Config) -> torch.device:
    """The GPU where there is one and ``train.accelerator`` does not say otherwise.

    Raises ValueError when the config asks for a GPU that is not there.
    """
    if config.train.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("train.accelerator is gpu, but PyTorch sees no GPU here: set train.accelerator to auto or cpu")
    return torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def token_budget(device: torch.device) -> int:
    """Tokens, padding included, that are read together: what fits the caches of a CPU, or fills a GPU."""
    return 16_384 if device.type == "cpu" else 262_144


def encoded(
    data: Labelled, rows: Sequence[int] | np.ndarray, tokenizer: Tokenizer | None, turned: bool
) -> list[np.ndarray]:
    """Tokens of the sequences ``rows`` of a dataset, (tokens,) each; without a tokenizer their base codes.

    ``turned``: of the other strand, tokenised in its own direction.
    """
    sequences = (data.sequence(int(row)) for row in rows)
    if turned:
        sequences = (reverse_complement(sequence) for sequence in sequences)
    return [sequence if tokenizer is None else tokenizer.encode(sequence) for sequence in sequences]


def padded(sequences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Sequences of different lengths in one tensor: tokens (B, T) int64, 0 behind their ends, and lengths (B,) int64."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), lengths.max()), dtype=np.int64)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


def batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Positions (int64) of sequences that are read together: of similar length, at most ``budget`` tokens with their padding.

    The longest come first, so that too little memory shows at once. A sequence that is longer than the budget is read alone.
    """
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        count = max(1, budget // max(1, int(lengths[order[first]])))
        yield order[first : first + count]
        first += count


@torch.inference_mode()
def predict(
    network: Network,
    data: Labelled,
    rows: np.ndarray,
    tokenizer: Tokenizer | None,
    strands: Strands,
    device: torch.device,
    progress: Progress | None = None,
) -> np.ndarray:
    """What a network says of sequences: logits, of a regression values in the units of the targets.

    Parameters
    ----------
    network : Network
        Is moved to ``device`` and left in evaluation mode.
    data, rows : Labelled, (n,) integers
        The sequences. In which order and company they are read changes their rows by rounding only.
    tokenizer : Tokenizer or None
        That of the network; the CNN reads base codes and needs none.
    strands : "both" or "given"
        "both": the mean of both strands, the same whichever is given. The CNN reads the strand given, as its authors do.
    device : torch.device
    progress : Progress, optional
        Counts sequences.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, outputs).
    """
    if isinstance(network, CNN):
        tokenizer, strands = None, "given"
    network.to(device).eval()
    rows = np.asarray(rows)
    result = np.empty((len(rows), len(network.scale)), dtype=np.float32)
    for batch in batches(data.lengths[rows], token_budget(device)):
        views = [False, True] if strands == "both" else [False]
        outputs = []
        for turned in views:
            tokens, lengths = padded(encoded(data, rows[batch], tokenizer, turned))
            outputs.append(network(tokens.to(device), lengths.to(device)))
        result[batch] = network.values(torch.stack(outputs).mean(0)).cpu().numpy()
        if progress is not None:
            progress.update(len(batch))
    return result


def advance(model: Any, tokens: np.ndarray, state: State | None, piece: int) -> tuple[Tensor, State]:
    """Read tokens (B, T), of any integer dtype, in pieces: the final hidden state at the last token, (B, D), and the state after it."""
    device = next(model.parameters()).device
    for first in range(0, tokens.shape[1], piece):
        part = torch.from_numpy(tokens[:, first : first + piece].astype(np.int64)).to(device)
        hidden, state = model.embed(part, state)
    assert state is not None
    return hidden[:, -1], state


def most_rows(model: Any) -> int:
    """Rows whose states fit into a quarter of a gigabyte on a CPU, 8 GB on a GPU."""
    bytes_of_one = sum(
        leaf.numel() * leaf.element_size() for _, leaf in model.begin(1).leaves() if isinstance(leaf, Tensor)
    )
    budget = 1 << (28 if next(model.parameters()).device.type == "cpu" else 33)
    return max(1, budget // max(1, bytes_of_one))
