"""How likely a model finds sequences: the log-probability of every base given those before it, in nats.

The first token of a sequence has none before it, and models are trained without a start token: its bases count as
uniform, so that every A, C, G and T has a probability and sequences compare whatever their tokens are. Other letters (N) are
read, and never scored. A token of several bases shares its log-probability evenly among them; that of an overlapping k-mer
stands at the base it begins with.

Every sequence is read from its beginning with an empty memory. Those longer than a batch are read in pieces with the
memory carried on, so that memory use does not grow with their length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import Strands, batches, padded, token_budget
from titans_genomics.training import next_token_nll, scored_bases

BATCH_LOGITS = 1 << 24
"""Most logits of tokens that are read together: fewer tokens where the vocabulary is large."""

GROUP_BASES = 1 << 22
"""Bases of the sequences whose values per base are kept at a time."""


def log_likelihood(
    model: Any,
    tokenizer: Tokenizer,
    sequences: Sequence[np.ndarray],
    strands: Strands = "both",
    progress: Progress | None = None,
) -> np.ndarray:
    """Log-likelihood of whole sequences.

    Parameters
    ----------
    model : LanguageModel
        In evaluation mode; sequences are read on its device.
    tokenizer : Tokenizer
        That of the tokens it was trained on.
    sequences : sequence of ndarray
        Base codes of each: uint8, shape (bases,), A=0 C=1 G=2 T=3 N=4. In which order and company they stand changes
        results by rounding only.
    strands : "both" or "given"
        "both": the mean over the sequence and its reverse complement, the same whichever is given; "given": as it stands.
    progress : Progress, optional
        Counts the bases read, of every strand.

    Returns
    -------
    ndarray of float64, shape (sequences,)
        Nats: the sum over the scored bases.

    Raises
    ------
    ValueError
        A sequence is empty; both strands are asked for of text.
    """
    _check(tokenizer, sequences, strands)
    found = np.empty(len(sequences))
    for rows in groups([len(sequence) for sequence in sequences], GROUP_BASES):
        own = base_log_likelihoods(model, tokenizer, [sequences[row] for row in rows], strands, progress)
        found[rows] = [np.nansum(values) for values in own]
    return found


def base_log_likelihoods(
    model: Any,
    tokenizer: Tokenizer,
    sequences: Sequence[np.ndarray],
    strands: Strands = "both",
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Log-probability of every base: given those before it, of both strands the mean with that given those behind it.

    Parameters and errors are those of `log_likelihood`.

    Returns
    -------
    list of ndarray of float64, shape (bases,)
        For each sequence, nats in the order of its bases as given; NaN where a base is not scored.
    """
    _check(tokenizer, sequences, strands)
    found = _one_strand(model, tokenizer, sequences, progress)
    if strands == "given":
        return found
    turned = _one_strand(model, tokenizer, [reverse_complement(sequence) for sequence in sequences], progress)
    return [(forward + backward[::-1]) / 2 for forward, backward in zip(found, turned, strict=True)]


def groups(lengths: Sequence[int], most: int) -> list[np.ndarray]:
    """Rows (int64) of neighbouring sequences, about ``most`` bases in each group, one sequence at least."""
    edges = np.flatnonzero(np.diff(np.cumsum(lengths) // most)) + 1
    return [rows for rows in np.split(np.arange(len(lengths)), edges) if len(rows)]


def _check(tokenizer: Tokenizer, sequences: Sequence[np.ndarray], strands: Strands) -> None:
    """Raise the errors of `log_likelihood`."""
    if tokenizer.text and strands == "both":
        raise ValueError("text has no other strand: take strands 'given'")
    for i, sequence in enumerate(sequences):
        if not len(sequence):
            raise ValueError(f"sequence {i} is empty")


def _one_strand(
    model: Any, tokenizer: Tokenizer, sequences: Sequence[np.ndarray], progress: Progress | None
) -> list[np.ndarray]:
    """`base_log_likelihoods` of the sequences as they stand."""
    encoded = [tokenizer.encode(sequence) for sequence in sequences]
    device = next(model.parameters()).device
    budget = min(token_budget(device), max(256, BATCH_LOGITS // tokenizer.vocab_size))
    found: dict[int, np.ndarray] = {}
    for rows in batches(np.array([len(tokens) for tokens in encoded], dtype=np.int64), budget):
        of_tokens = _of_tokens(model, tokenizer, [encoded[row] for row in rows], budget)
        for row, own in zip(rows.tolist(), of_tokens, strict=True):
            found[row] = _of_bases(tokenizer, encoded[row], own)
        if progress is not None:
            progress.update(sum(len(sequences[row]) for row in rows))
    return [found[row] for row in range(len(sequences))]


def _of_tokens(model: Any, tokenizer: Tokenizer, encoded: list[np.ndarray], budget: int) -> list[np.ndarray]:
    """Log-probability of each token of one batch but the first, float64, (tokens - 1,); 0 for tokens that are not scored."""
    device = next(model.parameters()).device
    tokens, _ = padded(encoded)
    bases = scored_bases(tokenizer).to(device)
    state, found = None, [np.zeros((len(encoded), 0))]
    with torch.inference_mode():
        for first in range(0, tokens.shape[1] - 1, budget):
            piece = tokens[:, first : first + budget + 1].to(device)
            logits, state = model(piece[:, :-1], state)
            found.append(-next_token_nll(logits, piece[:, 1:], bases).double().cpu().numpy())
    scores = np.concatenate(found, axis=1)
    return [row[: len(own) - 1] for row, own in zip(scores, encoded, strict=True)]


def _of_bases(tokenizer: Tokenizer, tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores of the tokens behind the first, shared among their bases; those of the first token are uniform."""
    count = tokenizer.bases[tokens]
    uniform = -math.log(256 if tokenizer.text else 4)
    shared = np.concatenate([[uniform], scores / np.maximum(count[1:], 1)])
    shared[~tokenizer.scored[tokens]] = np.nan
    return np.repeat(shared, count)
