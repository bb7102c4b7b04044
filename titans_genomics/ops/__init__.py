"""Tensors in, tensors out: the neural long-term memory (arXiv 2501.00663, section 3.1), one function, several backends."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from titans_genomics.ops.chunked import chunked_memory
from titans_genomics.ops.convolution import causal_convolution
from titans_genomics.ops.decode import OwnBuffers, decode_memory
from titans_genomics.ops.reference import memory_mlp, reference_memory

__all__ = ["MemoryState", "causal_convolution", "memory_mlp", "neural_memory", "picked_backend"]

Backend = Literal["reference", "chunked", "fused", "decode", "auto"]


class MemoryState(NamedTuple):
    """The memory after a token. Its size does not depend on how much was read.

    Attributes
    ----------
    weights : L tensors (B, H, out, in), M_t
    surprise : L tensors (B, H, out, in), S_t
    anchor : L tensors (B, H, out, in), the weights at the start of the open chunk, where inner gradients are taken
    offset : int, tokens already read of the open chunk, 0 <= offset < chunk
    """

    weights: list[Tensor]
    surprise: list[Tensor]
    anchor: list[Tensor]
    offset: int = 0


def neural_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    weights: list[Tensor],
    surprise: list[Tensor] | None = None,
    chunk: int = 64,
    backend: Backend = "auto",
    anchor: list[Tensor] | None = None,
    offset: int = 0,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Write T tokens to the memory and read it with each token's query (eq. 12-18).

    With u_t the gradient of ``|| M(k_t) - v_t ||^2`` (summed over the head width, factor 2 included) at the weights
    of the last chunk boundary before t::

        S_t = eta_t S_{t-1} - theta_t u_t          (14)
        M_t = (1 - alpha_t) M_{t-1} + S_t          (13)
        y_t = M_t(q_t)                             (15)

    Every y_t uses its own M_t. Gradients of second order reach all inputs.

    Parameters
    ----------
    q, k, v : (B, T, H, d), any floating dtype; normalise q and k beforehand
    alpha, eta : (B, T, H), forgetting and surprise decay, in [0, 1]
    theta : (B, T, H), step size, at least 0
    weights : L tensors (B, H, out, in), the memory before the first token: (hidden, d), ..., (d, hidden); (d, d) for L = 1
    surprise : L tensors like weights, the surprise before the first token; None: zeros
    chunk : tokens whose inner gradients are taken at the same weights, at least 1 (1: the online rule)
    backend : "reference" (the oracle, token by token), "chunked" (matrix products, any device), "fused" (float32
        kernels: Numba on CPUs, Triton on NVIDIA GPUs with 1 or 2 layers), "decode" (token by token without gradients, for a few tokens; it
        overwrites a state that an earlier "decode" call returned, and no other tensor), "auto" (`picked_backend`;
        never writes to what it is given)
    anchor, offset : of the `MemoryState` of an earlier call whose last chunk is still open; then this call
        continues that chunk. Without them a chunk starts at the first token.
    check : look at the values of the gates, too (on a GPU this waits for them)

    Returns
    -------
    y : (B, T, H, d), dtype of v
    state : MemoryState after token T, float32 (float64 for float64 input)

    Raises
    ------
    ValueError
        Naming the argument that does not fit.
    """
    _check(q, k, v, alpha, eta, theta, weights, surprise, chunk, backend, anchor, offset)
    if check:
        _check_gates(alpha, eta, theta)
    learning = torch.is_grad_enabled() and any(
        x.requires_grad for x in (q, k, v, alpha, eta, theta, *weights, *(surprise or ()), *(anchor or ()))
    )
    if backend == "auto":
        picked = picked_backend(q, weights, learning, v)
    else:
        picked = backend
        _check_backend(backend, q, v, weights, learning)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    kept = v.dtype
    alpha, eta, theta = (x.to(dtype) for x in (alpha, eta, theta))
    if not (picked == "fused" and q.is_cuda):  # its kernels for GPUs read any floating type
        q, k, v = (x.to(dtype) for x in (q, k, v))
    surprise = [torch.zeros_like(w, dtype=dtype) for w in weights] if surprise is None else surprise
    anchor = list(weights) if anchor is None else anchor
    weights, surprise, anchor = (_as_state(xs, dtype, backend) for xs in (weights, surprise, anchor))
    arguments = (q, k, v, alpha, eta, theta, weights, surprise, anchor, offset, chunk)
    if picked == "fused":
        y, *state = _fused_kernels(q).fused_memory(*arguments)
    elif picked == "decode":
        y, *state = decode_memory(*arguments, in_place=backend == "decode")
    else:
        run = reference_memory if picked == "reference" else chunked_memory
        y, *state = run(*arguments)
    return y.to(kept), MemoryState(*state, (offset + q.shape[1]) % chunk)


def picked_backend(q: Tensor, weights: list[Tensor], learning: bool | None = None, v: Tensor | None = None) -> str:
    """What ``backend="auto"`` picks: "fused" where its kernels run, "decode" for one token without gradients, else "chunked".

    Not asked for one token of one sequence on a CPU in a whole `models.NeuralMemory`: that takes `ops.token_cpu`.

    Parameters
    ----------
    q : (B, T, H, d)
    weights : L tensors (B, H, out, in)
    learning : whether gradients of anything will be asked for; None: whether autograd is on and q or weights need them
    v : (B, T, H, d), where its dtype is not that of q
    """
    if learning is None:
        learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q, *weights))
    if q.shape[1] == 1 and not learning:
        return "decode"
    return "fused" if _why_not_fused(q, q if v is None else v, weights) is None else "chunked"


def _fused_kernels(q: Tensor) -> ModuleType:
    """The module of backend "fused" for the device of q; Triton's interpreter (TRITON_INTERPRET=1) takes the CPU's place."""
    if q.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        from titans_genomics.ops import fused_cpu

        return fused_cpu
    from titans_genomics.ops import fused_gpu

    return fused_gpu


def _why_not_fused(q: Tensor, v: Tensor, weights: list[Tensor]) -> str | None:
    """Why backend "fused" does not take these tensors; None: it does."""
    try:
        return _fused_kernels(q).why_not(q, v, weights)
    except ImportError as error:
        return str(error)


def _check_backend(backend: Backend, q: Tensor, v: Tensor, weights: list[Tensor], learning: bool) -> None:
    """Raise ValueError when the backend that was asked for cannot do it."""
    if backend == "decode" and learning:
        raise ValueError("backend must not be 'decode' where gradients are wanted: call it under torch.no_grad()")
    if backend == "fused" and (reason := _why_not_fused(q, v, weights)):
        raise ValueError(f"backend must not be 'fused' here: {reason}")


def _as_state(tensors: list[Tensor], dtype: torch.dtype, backend: Backend) -> list[Tensor]:
    """The tensors in dtype; buffers that a later "decode" call will overwrite are copied for all other backends."""
    if isinstance(tensors, OwnBuffers):
        if backend == "decode" and tensors[0].dtype == dtype:
            return tensors
        tensors = [x.clone() for x in tensors]
    return [x.to(dtype) for x in tensors]


def _check_gates(alpha: Tensor, eta: Tensor, theta: Tensor) -> None:
    """Raise ValueError for a gate that is NaN or outside its range."""
    for name, gate, most in (("alpha", alpha, 1.0), ("eta", eta, 1.0), ("theta", theta, float("inf"))):
        low, high = (float(x) for x in torch.aminmax(gate.detach()))
        if not (low >= 0 and high <= most and high < float("inf")):
            raise ValueError(f"{name} must be finite and lie in [0, {most:g}], found {low:g} to {high:g}")


def _check(q, k, v, alpha, eta, theta, weights, surprise, chunk, backend, anchor, offset) -> None:
    """Raise ValueError naming the argument that does not fit."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    if q.dim() != 4 or q.shape[1] == 0 or not q.is_floating_point():
        raise ValueError(f"q must be a floating tensor (B, T, H, d) with T > 0, got {q.dtype} {tuple(q.shape)}")
    B, T, H, d = q.shape
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape or x.device != q.device:
            raise ValueError(
                f"{name} must be {tuple(q.shape)} on {q.device} like q, got {tuple(x.shape)} on {x.device}"
            )
    for name, x in (("alpha", alpha), ("eta", eta), ("theta", theta)):
        if x.shape != (B, T, H) or x.device != q.device:
            raise ValueError(f"{name} must be {(B, T, H)} on {q.device}, got {tuple(x.shape)} on {x.device}")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk must be an integer of at least 1, got {chunk!r}")
    if not 0 <= offset < chunk or (offset > 0 and anchor is None):
        raise ValueError(f"offset must be in [0, chunk) and comes with anchor, got offset {offset}, chunk {chunk}")
    if not weights:
        raise ValueError("weights must hold at least one layer")
    width = d
    for layer, w in enumerate(weights):
        if w.dim() != 4 or w.shape[:2] != (B, H) or w.shape[3] != width or w.device != q.device:
            raise ValueError(
                f"weights[{layer}] must be (B, H, out, in) = ({B}, {H}, out, {width}) on {q.device}, got {tuple(w.shape)} on {w.device}"
            )
        width = w.shape[2]
    if width != d:
        raise ValueError(f"weights[-1] must give the head width {d}, gives {width}")
    for name, xs in (("surprise", surprise), ("anchor", anchor)):
        if xs is not None and [x.shape for x in xs] != [w.shape for w in weights]:
            raise ValueError(
                f"{name} must have the shapes of weights, {[tuple(w.shape) for w in weights]}, got {[tuple(x.shape) for x in xs]}"
            )
