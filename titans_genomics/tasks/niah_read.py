"""Reading long prompts a piece at a time, and answering: greedily, and with the true answer given token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.models.state import State

BATCH_TOKENS = 16_384
"""Tokens of all prompts of a batch that are read in one step."""


class Readable(Protocol):
    """Something of ``length`` tokens of which any stretch can be read."""

    length: int

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens ``start`` to ``start + count``, int64, shape (count,)."""
        ...


def batches(count: int, length: int, piece: int) -> Iterator[slice]:
    """Which of ``count`` prompts of ``length`` tokens are read side by side."""
    rows = max(1, BATCH_TOKENS // min(piece, length))
    return (slice(first, min(first + rows, count)) for first in range(0, count, rows))


@torch.inference_mode()
def read(
    model: Any, prompts: Sequence[Readable], piece: int, seen: Callable[[int], None] = lambda tokens: None
) -> tuple[Tensor, State]:
    """Logits (B, 1, vocab_size) behind prompts of the same length, and the state there.

    Memory does not depend on the length: ``piece`` tokens are read at a time. ``seen`` is told how many.
    """
    device = next(model.parameters()).device
    (length,) = {prompt.length for prompt in prompts}
    state, logits = None, None
    for first in range(0, length, piece):
        size = min(piece, length - first)
        window = torch.from_numpy(np.stack([prompt.read(first, size) for prompt in prompts])).to(device)
        hidden, state = model.embed(window, state)
        logits = model.head(hidden[:, -1:])
        seen(window.numel())
    assert state is not None
    assert logits is not None
    return logits.float(), state


@torch.inference_mode()
def generate(
    model: Any, logits: Tensor, state: State, tokenizer: Tokenizer, limit: int, done: Callable[[int, str], bool]
) -> list[str]:
    """What the model writes by itself, greedily, behind each row: at most ``limit`` tokens, up to its end-of-text token.

    Parameters
    ----------
    logits : (B, 1, vocab_size), of the first token
    done : function of row and text so far
        Whether a row needs no more; when no row does, none is written.
    """
    written: list[list[int]] = [[] for _ in range(logits.shape[0])]
    open_rows = set(range(len(written)))
    for number in range(limit):
        # what is not a number compares with nothing: such rows write token 0
        chosen = torch.where(logits.isfinite(), logits, -torch.inf)[:, -1].argmax(-1)
        for row in sorted(open_rows):
            token = int(chosen[row])
            if token == tokenizer.eos:
                open_rows.discard(row)
                continue
            written[row].append(token)
            if done(row, text_of(tokenizer, written[row])):
                open_rows.discard(row)
        if not open_rows or number == limit - 1:
            break
        logits, state = model(chosen[:, None], state)
    return [text_of(tokenizer, tokens) for tokens in written]


def text_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Tokens as text; bytes that are not UTF-8 are shown as U+FFFD."""
    return tokenizer.decode(np.array(tokens, dtype=np.int64)).tobytes().decode(errors="replace")


@torch.inference_mode()
def forced(model: Any, logits: Tensor, state: State, answers: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The true answers given token by token.

    Parameters
    ----------
    logits, state
        As `read` gives them for B prompts.
    answers : B arrays of tokens, not empty

    Returns
    -------
    bits : (B, longest) float64, of each token of the answer; 0 behind its end. Logits that are not finite count as a uniform guess
    right : (B, longest) float64, 1 where the most likely token is the right one
    """
    device = logits.device
    sizes = torch.tensor([len(answer) for answer in answers], device=device)
    padded = np.zeros((len(answers), int(sizes.max())), np.int64)
    for row, answer in zip(padded, answers, strict=True):
        row[: len(answer)] = answer
    target = torch.from_numpy(padded).to(device)
    if target.shape[1] > 1:
        logits = torch.cat([logits, model(target[:, :-1], state)[0]], dim=1)
    finite = logits.isfinite().all(-1)
    logits = torch.where(finite[..., None], logits, 0.0).double()
    bits = F.cross_entropy(logits.transpose(1, 2), target, reduction="none") / math.log(2)
    right = (logits.argmax(-1) == target) & finite
    own = torch.arange(target.shape[1], device=device) < sizes[:, None]
    return (bits * own).cpu().numpy(), (right & own).double().cpu().numpy()


def repeated(logits: Tensor, state: State, times: int) -> tuple[Tensor, State]:
    """Every row ``times`` times, one behind the other."""
    rows = torch.arange(logits.shape[0], device=logits.device).repeat_interleave(times)
    return logits[rows], state.rows(rows)


def interval(found: int, count: int) -> list[float]:
    """Wilson's 95% interval of a share."""
    z = 1.959964
    share, spread = found / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return [max(0.0, middle - half), min(1.0, middle + half)]
