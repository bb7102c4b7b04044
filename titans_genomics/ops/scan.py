"""The diagonal linear recurrence h_t = a_t h_{t-1} + b_t: every channel by itself, decays a_t between 0 and 1.

Tokens are laid out in chunks. First all chunks step together from empty states, then the ends of the chunks are chained, then
what came before its chunk is added to every token: about 2 sqrt(T) steps instead of T. Products of decays are exponentials of
sums of logarithms, all at most 0; nothing is divided. The backward pass is the same recurrence from the end to the start.

Axes: B sequences, T tokens, C channels; N chunks, s tokens of a chunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def diagonal_scan(
    log_decay: Tensor, x: Tensor, state: Tensor | None = None, chunk: int | None = None, check: bool = True
) -> tuple[Tensor, Tensor]:
    """All states of h_t = exp(log_decay_t) h_{t-1} + x_t.

    Parameters
    ----------
    log_decay : (B, T, C), at most 0; minus infinity forgets everything
    x : (B, T, C)
    state : (B, C), h before the first token; None: zeros
    chunk : tokens of a chunk, at least 1; None: about sqrt(T). Changes speed and rounding, not the result
    check : look at the values of log_decay, too (on a GPU this waits for them)

    Returns
    -------
    h : (B, T, C), dtype of x
    state : (B, C), h after token T, float32 (float64 for float64 input)

    Raises
    ------
    ValueError
        Naming the argument that does not fit.
    """
    if x.dim() != 3 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be a floating tensor (B, T, C) with T > 0, got {x.dtype} {tuple(x.shape)}")
    B, T, C = x.shape
    for name, y, shape in (("log_decay", log_decay, (B, T, C)), ("state", state, (B, C))):
        if y is not None and (y.shape != shape or y.device != x.device):
            raise ValueError(f"{name} must be {shape} on {x.device} like x, got {tuple(y.shape)} on {y.device}")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be an integer of at least 1, got {chunk!r}")
    if check and not float(log_decay.detach().amax()) <= 0:
        raise ValueError(f"log_decay must be at most 0, found {float(log_decay.detach().amax()):g}")
    dtype, kept = torch.float64 if x.dtype == torch.float64 else torch.float32, x.dtype
    log_decay, x = log_decay.to(dtype), x.to(dtype)
    state = x.new_zeros(B, C) if state is None else state.to(dtype)
    if T == 1:
        h = torch.addcmul(x, log_decay.exp(), state[:, None])
    else:
        h = DiagonalScan.apply(log_decay, x, state, chunk or max(1, round(math.sqrt(T))))
    return h.to(kept), h[:, -1].clone()


def reference_scan(log_decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """The oracle: token by token. log_decay, x (B, T, C), state (B, C) -> h (B, T, C)."""
    outputs = []
    for t in range(x.shape[1]):
        state = log_decay[:, t].exp() * state + x[:, t]
        outputs.append(state)
    return torch.stack(outputs, dim=1)


class DiagonalScan(torch.autograd.Function):
    """`scan` with its derivative."""

    @staticmethod
    def forward(ctx, log_decay: Tensor, x: Tensor, state: Tensor, chunk: int) -> Tensor:
        h = scan(log_decay, x, state, chunk)
        ctx.chunk = chunk
        ctx.save_for_backward(log_decay, h, state)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, dh: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        log_decay, h, state = ctx.saved_tensors
        # what reaches h_t comes from its own output and, through a_{t+1}, from h_{t+1}
        later = F.pad(log_decay[:, 1:], (0, 0, 0, 1))
        dx = scan(later.flip(1), dh.flip(1), torch.zeros_like(state), ctx.chunk).flip(1)
        d_before = dx * log_decay.exp()
        d_log = d_before * torch.cat([state[:, None], h[:, :-1]], dim=1)
        return d_log, dx, d_before[:, 0], None


def scan(log_decay: Tensor, x: Tensor, state: Tensor, chunk: int) -> Tensor:
    """h (B, T, C) of log_decay and x (B, T, C) and the state (B, C) before them."""
    T = x.shape[1]
    s = min(chunk, T)
    N = -(-T // s)

    def chunks(y: Tensor) -> Tensor:
        """(B, T, C) -> (s, N, B, C) in memory of its own: a step of all chunks is one stretch. Zeros fill the last chunk."""
        y = F.pad(y, (0, 0, 0, N * s - T)) if N * s > T else y
        return y.unflatten(1, (N, s)).permute(2, 1, 0, 3).clone(memory_format=torch.contiguous_format)

    since, h = chunks(log_decay), chunks(x)
    decay = since.exp()
    for t in range(1, s):
        h[t].addcmul_(decay[t], h[t - 1])
        since[t].add_(since[t - 1])
    since.exp_()
    before = [state]
    for n in range(N - 1):
        before.append(torch.addcmul(h[-1, n], since[-1, n], before[-1]))
    h.addcmul_(since, torch.stack(before))
    return h.permute(2, 1, 0, 3).flatten(1, 2)[:, :T]
