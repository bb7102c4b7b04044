"""A linear memory with the gated delta rule (Gated DeltaNet, arXiv 2412.06464): tensors in, tensors out.

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T,      o_t = S_t q_t

Written with the error u_t of each token, S_t = a_t S_{t-1} + u_t k_t^T, a chunk is a triangular system: u_t depends on the
u_i before it through k_t . k_i alone. Its inverse (the WY form) is made for all chunks at once; what is left from chunk to
chunk is two products. Decays are sums of logarithms, taken only over the tokens between two tokens: nothing is divided, and a
decay of 0 is exact.

Axes: B sequences, T tokens, H heads, d head width; N chunks, G memories (batch x heads), s tokens of a chunk.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Backend = Literal["reference", "chunked", "fla", "auto"]

FLOOR = -43.0
"""Decays below exp(FLOOR), less than the square of the precision of float32, are exactly 0: no denormal numbers come of them."""


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    chunk: int = 32,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """Write T tokens to a matrix and read it with each token's query, after the token's own write.

    Parameters
    ----------
    q, k, v : (B, T, H, d), any floating dtype; normalise q and k beforehand
    log_decay : (B, T, H), log a_t, at most 0; minus infinity forgets everything
    beta : (B, T, H), b_t in [0, 1]
    state : (B, H, d, d), S before the first token, rows belong to v and columns to k; None: zeros
    chunk : tokens of a chunk, at least 1; changes speed and rounding, not the result
    backend : "reference" (the oracle, token by token), "chunked" (matrix products, any device), "fla" (flash-linear-attention's
        kernels, where `why_not_fla` has no objection), "auto" (for one token "reference", else "fla" where it runs, else "chunked")
    check : look at the values of the gates, too (on a GPU this waits for them)

    Returns
    -------
    o : (B, T, H, d), dtype of v
    state : (B, H, d, d), S after token T, float32 (float64 for float64 input)

    Raises
    ------
    ValueError
        Naming the argument that does not fit.
    """
    _check(q, k, v, log_decay, beta, state, chunk, backend)
    if check:
        for name, gate, low, high in (("log_decay", log_decay, -torch.inf, 0.0), ("beta", beta, 0.0, 1.0)):
            least, most = (float(x) for x in torch.aminmax(gate.detach()))
            if not (least >= low and most <= high):
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], found {least:g} to {most:g}")
    if backend == "auto":
        backend = "reference" if q.shape[1] == 1 else "chunked" if why_not_fla(q) else "fla"
    elif backend == "fla" and (reason := why_not_fla(q)):
        raise ValueError(f"backend must not be 'fla' here: {reason}")
    dtype, kept = torch.float64 if q.dtype == torch.float64 else torch.float32, v.dtype
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], q.shape[3], dtype=dtype)
    log_decay, beta, state = (x.to(dtype) for x in (log_decay, beta, state))
    if backend == "fla":
        o, state = _fla(q, k, v, log_decay, beta, state)
    else:
        q, k, v = (x.to(dtype) for x in (q, k, v))
        with torch.autocast(q.device.type, enabled=False):
            if backend == "reference":
                o, state = reference_delta(q, k, v, log_decay, beta, state)
            else:
                o, state = chunked_delta(q, k, v, log_decay, beta, state, chunk)
    return o.to(kept), state


def reference_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token, as the rule is written. Arguments and results as in `gated_delta_rule`."""
    outputs = []
    for t in range(q.shape[1]):
        key, value, query = (x[:, t, :, :, None] for x in (k, v, q))
        state = state * log_decay[:, t, :, None, None].exp()
        error = beta[:, t, :, None, None] * (value - state @ key)
        state = state + error * key.mT
        outputs.append((state @ query).squeeze(-1))
    return torch.stack(outputs, dim=1), state


def chunked_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The same in matrix products. Arguments and results as in `gated_delta_rule`."""
    B, T, H, _ = q.shape
    s = min(chunk, T)
    N = -(-T // s)

    def chunks(x: Tensor) -> Tensor:
        """(B, T, H, ...) -> (G, N, s, ...); tokens of zeros fill the last chunk, and neither write nor forget."""
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, N * s - T))
        return x.transpose(1, 2).flatten(0, 1).unflatten(1, (N, s))

    q, k, v, log_decay, beta = (chunks(x) for x in (q, k, v, log_decay, beta))
    since, between = decay_products(log_decay)
    inverse = unit_lower_inverse((k * beta[..., None]) @ k.mT * between)
    own = inverse @ (v * beta[..., None])  # the errors, were the memory empty before the chunk
    answers = inverse @ (k * (beta * since)[..., None])  # times S^T: what the memory before the chunk takes from them
    written = k * between[..., -1, :, None]
    left = since[..., -1, None, None]
    S, before, errors = state.flatten(0, 1), [], []
    for of_chunk in zip(*(x.unbind(1) for x in (own, answers, written, left)), strict=True):
        own_n, answers_n, written_n, left_n = of_chunk
        before.append(S)
        errors.append(torch.baddbmm(own_n, answers_n, S.mT, alpha=-1))
        S = torch.baddbmm(S * left_n, errors[-1].mT, written_n)
    o = (q * since[..., None]) @ torch.stack(before, 1).mT + (q @ k.mT * between) @ torch.stack(errors, 1)
    return o.flatten(1, 2)[:, :T].unflatten(0, (B, H)).transpose(1, 2), S.unflatten(0, (B, H))


def decay_products(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the decays of a chunk: (..., s) -> prod_{j<=t} a_j (..., s), and prod_{i<j<=t} a_j for i <= t, else 0, (..., s, s)."""
    s = log_decay.shape[-1]
    sums = log_decay[..., :, None].expand(*log_decay.shape, s).tril(-1).cumsum(-2)
    between = sums.masked_fill(sums < FLOOR, -torch.inf).exp().tril()
    since = log_decay.cumsum(-1)
    return since.masked_fill(since < FLOOR, -torch.inf).exp(), between


class UnitLowerInverse(torch.autograd.Function):
    """(I + L)^-1 for the part L of x (..., s, s) below its diagonal, s a power of two.

    From blocks of 1 to blocks of s: [[A, 0], [C, D]]^-1 = [[A^-1, 0], [-D^-1 C A^-1, D^-1]]. As stable as substitution, while sums of powers of
    L would cancel: with one key again and again and b near 1 they grow like binomial coefficients.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        s = x.shape[-1]
        inverse = torch.eye(s, dtype=x.dtype, device=x.device).repeat(*x.shape[:-2], 1, 1)
        half = 1
        while half < s:
            of_x, of_inverse = (diagonal_blocks(y, 2 * half) for y in (x, inverse))
            first, second = of_inverse[..., :half, :half], of_inverse[..., half:, half:]
            of_inverse[..., half:, :half] = -(second @ of_x[..., half:, :half] @ first)
            half *= 2
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx, d_inverse: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        with torch.autocast(inverse.device.type, enabled=False):
            return -(inverse.mT @ d_inverse @ inverse.mT).tril(-1)


def diagonal_blocks(x: Tensor, size: int) -> Tensor:
    """View (..., s / size, size, size) of the blocks on the diagonal of x (..., s, s)."""
    s = x.shape[-1]
    blocks = x.unflatten(-1, (s // size, size)).unflatten(-3, (s // size, size))
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def unit_lower_inverse(x: Tensor) -> Tensor:
    """(I + L)^-1 for the part L of x (..., s, s) below its diagonal; s is any size."""
    s = x.shape[-1]
    more = (1 << (s - 1).bit_length()) - s
    return UnitLowerInverse.apply(F.pad(x, (0, more, 0, more)))[..., :s, :s]


@functools.cache
def _has_fla() -> bool:
    return importlib.util.find_spec("fla") is not None


def why_not_fla(q: Tensor) -> str | None:
    """Why flash-linear-attention does not take q (B, T, H, d) and what belongs to it; None: it does."""
    if not q.is_cuda:
        return f"it needs tensors on a GPU, got {q.device}"
    if q.dtype == torch.float64 or _fla_dtype(q) not in (torch.bfloat16, torch.float16):
        return f"it computes in bfloat16 or float16 (under torch.autocast also what is float32), got {q.dtype}"
    if not 16 <= q.shape[-1] <= 256:
        return f"it takes head widths from 16 to 256, got {q.shape[-1]}"
    return None if _has_fla() else "flash-linear-attention is not installed: pip install flash-linear-attention"


def _fla_dtype(q: Tensor) -> torch.dtype:
    """What q, k and v are turned into for flash-linear-attention: what autocast asks for, or what they are."""
    kind = q.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else q.dtype


def _fla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`gated_delta_rule` by flash-linear-attention, whose state has rows for k and columns for v."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    dtype = _fla_dtype(q)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    o, state = chunk_gated_delta_rule(
        q, k, v, log_decay, beta, scale=1.0, initial_state=state.mT.contiguous(), output_final_state=True
    )
    return o, state.mT


def _check(q, k, v, log_decay, beta, state, chunk, backend) -> None:
    """Raise ValueError naming the argument that does not fit."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    if q.dim() != 4 or q.shape[1] == 0 or not q.is_floating_point():
        raise ValueError(f"q must be a floating tensor (B, T, H, d) with T > 0, got {q.dtype} {tuple(q.shape)}")
    B, T, H, d = q.shape
    wanted = [("k", k, q.shape), ("v", v, q.shape), ("log_decay", log_decay, (B, T, H)), ("beta", beta, (B, T, H))]
    if state is not None:
        wanted.append(("state", state, (B, H, d, d)))
    for name, x, shape in wanted:
        if x.shape != shape or x.device != q.device:
            raise ValueError(f"{name} must be {tuple(shape)} on {q.device} like q, got {tuple(x.shape)} on {x.device}")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk must be an integer of at least 1, got {chunk!r}")
