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

from titans_genomics.ops.linear import Linear, linear


class KeyValueCache(NamedTuple):
    """Keys before rotation and values of earlier tokens, (B, H, S, d) each."""

    k: Tensor
    v: Tensor

    def followed_by(self, k: Tensor, v: Tensor) -> KeyValueCache:
        """The same and later tokens behind it."""
        if self.k.shape[2] == 0:
            return KeyValueCache(k, v)
        return KeyValueCache(torch.cat([self.k.to(k.dtype), k], dim=2), torch.cat([self.v.to(v.dtype), v], dim=2))


@functools.lru_cache(maxsize=32)
def turns(first: int, count: int, half: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (count, half) of positions first, first + 1, ...; angles in float64."""
    with torch.inference_mode(False), torch.no_grad():  # they may serve training later
        speed = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
        angle = torch.arange(first, first + count, dtype=torch.float64, device=device)[:, None] * speed
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, first: int) -> Tensor:
    """Rotary positions first, first + 1, ... for x (B, H, T, d), d even."""
    half = x.shape[-1] // 2
    cos, sin = turns(first, x.shape[-2], half, x.dtype, x.device)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


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
        k, v = linear(x, self.to_qkv.weight[D:]).chunk(2, dim=-1)
        return KeyValueCache(self.split(k), self.split(v))

    def persistent_keys_values(self, x: Tensor) -> KeyValueCache | None:
        """Keys and values (1, H, P, d) of the persistent tokens, in the dtype that x asks for; None where there are none."""
        return None if self.persistent is None else self.keys_values(self.persistent[None].to(x.dtype))

    def begin(self, batch: int) -> KeyValueCache:
        """An empty cache."""
        D = self.to_qkv.in_features
        empty = self.to_qkv.weight.new_zeros(batch, self.heads, 0, D // self.heads)
        return KeyValueCache(empty, empty)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, first: int, mask: Tensor, persistent: KeyValueCache | None
    ) -> Tensor:
        """Softmax attention with the persistent tokens as prefix.

        q (B, H, T, d) before rotation, its positions start at `first`; k (B, H, S, d) rotated; v (B, H, S, d);
        mask (T, S), True where a query sees a key; persistent (1, H, P, d). Persistent keys meet the query before rotation; their scores ride
        along as additional columns of the head width, so that one fused attention call does both.
        """
        width = q.shape[-1]
        turned = rotate(q, first)
        if persistent is None:
            return F.scaled_dot_product_attention(turned, k, v, attn_mask=mask)
        keys, values = persistent
        count = keys.shape[2]
        extra = -(-count // 8) * 8  # head widths that are multiples of 8 keep the fast kernels
        turned = torch.cat([turned, F.pad(q @ keys.mT, (0, extra - count))], dim=-1)
        prefix = F.pad(torch.eye(count, extra, dtype=k.dtype, device=k.device), (width, 0)).expand(*k.shape[:2], -1, -1)
        k = torch.cat([prefix, F.pad(k, (0, extra))], dim=2)
        v = F.pad(torch.cat([values.expand(v.shape[0], -1, -1, -1), v], dim=2), (0, extra))
        mask = F.pad(mask, (count, 0), value=True)
        return F.scaled_dot_product_attention(turned, k, v, attn_mask=mask, scale=width**-0.5)[..., :width]


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
        cached = k.shape[2] - q.shape[2]
        y = self.banded(q, k, v, cached)
        return self.to_output(y.transpose(1, 2).flatten(2)), KeyValueCache(k[:, :, start:], v[:, :, start:])

    def banded(self, q: Tensor, k: Tensor, v: Tensor, cached: int) -> Tensor:
        """Blocks of `window` queries against the 2 x window keys around them: cost linear in T."""
        T, w = q.shape[2], self.window
        lead = min(T, w)  # the first block may have fewer keys before it than the others
        seen = cached + lead
        persistent = self.persistent_keys_values(q)
        keys, values = rotate(k[:, :, :seen], 0), v[:, :, :seen]
        outputs = [self.attend(q[:, :, :lead], keys, values, cached, self.band(lead, seen), persistent)]
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
            y = self.attend(queries, rotate(keys, 0), values, w, self.band(w, 2 * w), persistent)
            outputs.append(y.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3)[:, :, : T - w])
        return torch.cat(outputs, dim=2)

    def band(self, queries: int, keys: int) -> Tensor:
        """(queries, keys) bool: the last queries of `keys` tokens, each seeing itself and the window - 1 before it."""
        device = self.to_qkv.weight.device
        i = torch.arange(keys - queries, keys, device=device)[:, None]
        j = torch.arange(keys, device=device)
        return (j <= i) & (j > i - self.window)


class SegmentCache(NamedTuple):
    """Keys and values of the retrieved memory and of the tokens of the open segment."""

    retrieved: KeyValueCache
    tokens: KeyValueCache


class SegmentAttention(Attention):
    """Attention over [persistent | retrieved memory | segment]: position i sees h_j and S_j for j <= i (MAC, eq. 22-23)."""

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of tokens x (B, T, D), (B, T, D) each."""
        return self.to_qkv(x).chunk(3, dim=-1)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, h: Tensor, persistent: KeyValueCache | None, cache: SegmentCache
    ) -> tuple[Tensor, SegmentCache]:
        """Of tokens of one segment: q, k, v of `project` and what the memory answered, h, all (B, T, D) -> (B, T, D)."""
        q, k, v = (self.split(part) for part in (q, k, v))
        past = cache.tokens.k.shape[2]
        tokens = cache.tokens.followed_by(k, v)
        retrieved = cache.retrieved.followed_by(*self.keys_values(h))
        causal = self.causal(past, q.shape[2])
        keys = torch.cat([rotate(retrieved.k, 0), rotate(tokens.k, 0)], dim=2)
        values = torch.cat([retrieved.v, tokens.v], dim=2)
        y = self.attend(q, keys, values, past, causal, persistent)
        return self.to_output(y.transpose(1, 2).flatten(2)), SegmentCache(retrieved, tokens)

    def causal(self, past: int, count: int) -> Tensor:
        """(count, 2 (past + count)) bool: which of the retrieved and which of the tokens' keys each query sees."""
        total = past + count
        seen = torch.ones(total, total, dtype=torch.bool, device=self.to_qkv.weight.device).tril()[past:]
        return seen.repeat(1, 2)
