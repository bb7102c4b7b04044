"""Training on long sequences in little memory: pieces whose activations are computed again in the backward pass.

A recurrent module gives the same results whole and in pieces, so a long input is read piece by piece and only the
inputs and the states between pieces are kept. Pieces that fit the caches of a CPU are also faster than one long pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE = 2048
"""Tokens of a piece."""

LONG = 8192
"""Longest input, tokens, whose activations are kept unless the user asks for less memory."""


def in_pieces(
    function: Callable[[Tensor, Any], tuple[Tensor, Any]], x: Tensor, state: Any, always: bool = False
) -> tuple[Tensor, Any]:
    """`function(x, state)`, in pieces that keep no activations where x (B, T, D) is long and gradients are wanted."""
    if not torch.is_grad_enabled() or (x.shape[1] <= LONG and not always):
        return function(x, state)
    outputs = []
    for piece in x.split(PIECE, dim=1):
        y, state = checkpoint(function, piece, state, use_reentrant=False, preserve_rng_state=False)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state
