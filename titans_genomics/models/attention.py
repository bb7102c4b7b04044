"""Attention whose cost is linear in the length: a sliding window, or the open segment with its memory as context.

Axes: B batch, H heads, T queries, S keys, d head width. Rotary positions are relative to the piece that is read, so
that they stay exact after millions of tokens; the caches hold keys before rotation. Persistent tokens carry no position.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_genomics.ops.linear import Linear, some_outputs

KEYS = 1024
"""Keys that one query meets at a time: their rotated copy stays in the processor's cache."""


class KeyValueCache(NamedTuple):
    """Keys before rotation and values of earlier tokens, (B, H, S, d) each."""

    k: Tensor
    v: Tensor

    def followed_by(self, k: Tensor, v: Tensor) -> KeyValueCache:
        """The same and later tokens behind it."""
        if self.k.shape[2] == 0:
            return KeyValueCache(k, v)
        return KeyValueCache(torch.cat([self.k.to(k.dtype), k], dim=2), torch.cat([self.v.to(v.dtype), v], dim=2))

    def copy(self) -> KeyValueCache:
        """In memory of its own: a view would keep alive all that it was cut from. One that is most of it stays."""
        return KeyValueCache(*(x if x.untyped_storage().nbytes() <= 2 * x.nbytes else x.clone() for x in self))


def turns(first: int, count: int, half: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (count, half) of positions first, first + 1, ..., from 0 on."""
    size = 1 << (first + count - 1).bit_length()  # a cache that grows asks for one more each time
    cos, sin = turns_from_start(size, half, dtype, device)
    return cos[first : first + count], sin[first : first + count]


@functools.lru_cache(maxsize=32)
def turns_from_start(count: int, half: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """`turns` of positions 0 ... count - 1; angles in float64."""
    with torch.inference_mode(False), torch.no_grad():  # they may serve training later
        speed = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
        angle = torch.arange(count, dtype=torch.float64, device=device)[:, None] * speed
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, first: int, period: int | None = None) -> Tensor:
    """Rotary positions first, first + 1, ... for x (B, H, T, d), d even; with a period they begin anew at its multiples."""
    half, T = x.shape[-1] // 2, x.shape[-2]
    if period is None or first + T <= period:
        cos, sin = turns(first, T, half, x.dtype, x.device)
    else:
        cos, sin = turns_in_periods(first, T, period, half, x.dtype, x.device)
    a, b = x[..., :half], x[..., half:]
    if torch.is_grad_enabled():
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    y = torch.empty_like(x)  # written where it stays: half the passes over memory
    torch.mul(a, cos, out=y[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=y[..., half:]).addcmul_(a, sin)
    return y


def turns_in_periods(
    first: int, count: int, period: int, half: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`turns` of positions modulo period."""
    rounds = -(-(first + count) // period)
    return tuple(x.repeat(rounds, 1)[first : first + count] for x in turns(0, period, half, dtype, device))


class Attention(nn.Module):
    """Projections, persistent tokens (learned, seen by every position) and output of both kinds of attention."""

    def __init__(self, d_model: int, n_heads: int, persistent: int):
        super().__init__()
        self.heads = n_heads
        self.to_qkv = Linear(d_model, 3 * d_model)
        self.to_output = Linear(d_model, d_model)
        self.persistent = nn.Parameter(torch.randn(persistent, d_model)) if persistent else None

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, d)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> KeyValueCache:
        """Keys and values of tokens x (B, T, D), heads split."""
        D = x.shape[-1]
        k, v = some_outputs(self.to_qkv, x, slice(D, None)).chunk(2, dim=-1)
        return KeyValueCache(self.split(k), self.split(v))

    def begin(self, batch: int) -> KeyValueCache:
        """An empty cache."""
        D = self.to_qkv.in_features
        empty = self.to_qkv.weight.new_zeros(batch, self.heads, 0, D // self.heads)
        return KeyValueCache(empty, empty)

    def widened(self, q: Tensor, turned: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Queries (B, H, T, d) before and after rotation, and what the persistent tokens add to keys and values.

        Persistent tokens carry no position: their keys meet the query before rotation. Those scores ride along as
        additional columns of the head width, so that one fused attention call does both. Returns the queries
        (B, H, T, d + extra), and keys and values (B, H, P, d + extra) that stand before all others; None without persistent tokens.
        """
        if self.persistent is None:
            return turned, None, None
        keys, values = self.keys_values(self.persistent[None].to(q.dtype))
        width, count = q.shape[-1], self.persistent.shape[0]
        extra = -(-count // 8) * 8  # head widths that are multiples of 8 keep the fast kernels
        turned = torch.cat([turned, F.pad(q @ keys.mT, (0, extra - count))], dim=-1)
        prefix = F.pad(torch.eye(count, extra, dtype=q.dtype, device=q.device), (width, 0)).expand(*q.shape[:2], -1, -1)
        return turned, prefix, F.pad(values.expand(q.shape[0], -1, -1, -1), (0, extra))

    def attend(
        self, q: Tensor, ks: list[Tensor], vs: list[Tensor], mask: Tensor, prefix: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        """Softmax attention of q, as `widened` gives them, with its prefix, keys ks (B, H, S, d), rotated, and values vs.

        mask (T, S), True where a query sees a key, of all ks in a row.
        """
        width = vs[0].shape[-1]
        if prefix[0] is not None:
            extra = q.shape[-1] - width
            ks, vs = ([first, *(F.pad(x, (0, extra)) for x in xs)] for first, xs in zip(prefix, (ks, vs), strict=True))
            mask = F.pad(mask, (prefix[0].shape[2], 0), value=True)
        k, v = (xs[0] if len(xs) == 1 else torch.cat(xs, dim=2) for xs in (ks, vs))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=width**-0.5)[..., :width]

    def answer(self, q: Tensor, scores: list[Tensor], vs: list[Tensor]) -> Tensor:
        """`attend` for the one query q (B, H, 1, d), not rotated, that sees the persistent tokens and every key.

        scores, (B, H, 1, S) each, are its products with rotated keys, vs (B, H, S, d) the values beside them.
        """
        if self.persistent is not None:
            keys, values = self.keys_values(self.persistent[None].to(q.dtype))
            scores, vs = [q @ keys.mT, *scores], [values, *vs]
        shares = (torch.cat(scores, dim=-1) * q.shape[-1] ** -0.5).softmax(-1)
        shares = shares.split([x.shape[-1] for x in scores], dim=-1)
        return sum((share @ v for share, v in zip(shares[1:], vs[1:], strict=True)), shares[0] @ vs[0])


def one_token(x: Tensor) -> bool:
    """Whether x (B, T, D) is one token of each sequence in a precision in which its scores can be kept as they are."""
    exact = x.shape[1] == 1 and x.dtype in (torch.float32, torch.float64)
    return exact and not torch.is_autocast_enabled(x.device.type)


class SlidingWindowAttention(Attention):
    """Token i attends to the persistent tokens and to tokens i - window + 1 ... i (MAG eq. 27, MAL eq. 31)."""

    def __init__(self, d_model: int, n_heads: int, window: int, persistent: int):
        super().__init__(d_model, n_heads, persistent)
        self.window = window

    def forward(self, x: Tensor, cache: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """x (B, T, D) -> (B, T, D) and the last window - 1 keys and values."""
        q, k, v = (self.split(part) for part in self.to_qkv(x).chunk(3, dim=-1))
        k, v = cache.followed_by(k, v)
        start = max(0, k.shape[2] - (self.window - 1))
        y = self.newest(q, k, v) if one_token(x) else self.banded(q, k, v, k.shape[2] - q.shape[2])
        return self.to_output(y.transpose(1, 2).flatten(2)), KeyValueCache(k[:, :, start:], v[:, :, start:]).copy()

    def newest(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`banded` for one query (B, H, 1, d), which sees every key that there is."""
        turned = rotate(q, k.shape[2] - 1)
        scores = [turned @ rotate(part, KEYS * i).mT for i, part in enumerate(k.split(KEYS, dim=2))]
        return self.answer(q, [torch.cat(scores, dim=-1)], [v])

    def banded(self, q: Tensor, k: Tensor, v: Tensor, cached: int) -> Tensor:
        """Blocks of `window` queries against the 2 x window keys around them: cost linear in T."""
        T, w = q.shape[2], self.window
        lead = min(T, w)  # the first block may have fewer keys before it than the others
        seen = cached + lead
        queries, *prefix = self.widened(q[:, :, :lead], rotate(q[:, :, :lead], cached))
        keys, values = rotate(k[:, :, :seen], 0), v[:, :, :seen]
        outputs = [self.attend(queries, [keys], [values], self.band(lead, seen), prefix)]
        if w < T:
            blocks = -(-(T - w) // w)
            pad = blocks * w - (T - w)
            # block j holds queries w (j + 1) ... and the keys from w before its first query on; only differences of
            # positions count, so every block turns its queries and keys by the positions of the first
            queries = F.pad(q[:, :, w:], (0, 0, 0, pad)).unflatten(2, (blocks, w))
            keys, values = (
                F.pad(x[:, :, cached:], (0, 0, 0, pad)).unfold(2, 2 * w, w).transpose(-1, -2) for x in (k, v)
            )
            queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (queries, keys, values))
            queries, *prefix = self.widened(queries, rotate(queries, w))
            y = self.attend(queries, [rotate(keys, 0)], [values], self.band(w, 2 * w), prefix)
            outputs.append(y.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3)[:, :, : T - w])
        return torch.cat(outputs, dim=2)

    def band(self, queries: int, keys: int) -> Tensor:
        """(queries, keys) bool: the last queries of `keys` tokens, each seeing itself and the window - 1 before it."""
        device = self.to_qkv.weight.device
        i = torch.arange(keys - queries, keys, device=device)[:, None]
        j = torch.arange(keys, device=device)
        return (j <= i) & (j > i - self.window)


class SegmentCache(NamedTuple):
    """Keys (rotated by their place in the segment) and values of the retrieved memory and of the tokens of the open segment."""

    retrieved: KeyValueCache
    tokens: KeyValueCache


class Projected(NamedTuple):
    """What attention needs of the tokens themselves: (B, T, ...) each, so that they split into segments like tokens."""

    q: Tensor  # (B, T, H, d + extra)
    k: Tensor  # (B, T, H, d), rotated
    v: Tensor  # (B, T, H, d)


class SegmentAttention(Attention):
    """Attention over [persistent | retrieved memory | segment]: position i sees h_j and S_j for j <= i (MAC, eq. 22-23)."""

    def project(self, x: Tensor, position: int, segment: int) -> tuple[Projected, tuple[Tensor | None, Tensor | None]]:
        """Of tokens x (B, T, D) of one or more segments, the first at `position` of its segment; and the prefix of `widened`."""
        q, k, v = (self.split(part) for part in self.to_qkv(x).chunk(3, dim=-1))
        wide, *prefix = self.widened(q, rotate(q, position, segment))
        k = rotate(k, position, segment)
        return Projected(*(part.transpose(1, 2) for part in (wide, k, v))), tuple(prefix)

    def forward(
        self, tokens: Projected, h: Tensor, prefix: tuple[Tensor | None, Tensor | None], cache: SegmentCache
    ) -> tuple[Tensor, SegmentCache]:
        """Of tokens of one segment and what the memory answered to them, h (B, T, D) -> (B, T, D)."""
        q, k, v = (part.transpose(1, 2) for part in tokens)
        past = cache.tokens.k.shape[2]
        earlier = cache.tokens.followed_by(k, v)
        k, v = self.keys_values(h)
        retrieved = cache.retrieved.followed_by(rotate(k, past), v)
        seen = both_causal(past, q.shape[2], q.device)
        y = self.attend(q, [retrieved.k, earlier.k], [retrieved.v, earlier.v], seen, prefix)
        return self.to_output(y.transpose(1, 2).flatten(2)), SegmentCache(retrieved, earlier)

    def newest(self, x: Tensor, h: Tensor, cache: SegmentCache, position: int) -> tuple[Tensor, SegmentCache]:
        """`project` and `forward` for one token (B, 1, D), at `position` of its segment."""
        q, k, v = (self.split(part) for part in self.to_qkv(x).chunk(3, dim=-1))
        tokens = cache.tokens.followed_by(rotate(k, position), v)
        k, v = self.keys_values(h)
        retrieved = cache.retrieved.followed_by(rotate(k, position), v)
        turned = rotate(q, position)
        y = self.answer(q, [turned @ part.k.mT for part in (retrieved, tokens)], [retrieved.v, tokens.v])
        return self.to_output(y.transpose(1, 2).flatten(2)), SegmentCache(retrieved, tokens)


@functools.lru_cache(maxsize=32)
def both_causal(past: int, count: int, device: torch.device) -> Tensor:
    """(count, 2 (past + count)) bool: which of the retrieved and which of the tokens' keys each query sees."""
    with torch.inference_mode(False):
        total = past + count
        return torch.ones(total, total, dtype=torch.bool, device=device).tril()[past:].repeat(1, 2)
