"""The state of a model as the cache of ``generate()``: of fixed size, row by row, whatever the lengths of the rows.

Axes: B rows of a batch, T tokens, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from titans_genomics.models.state import State, map_leaves

Read = Callable[[Tensor, State | None], tuple[Tensor, State]]
"""Read x (n, t, D) after a state: an output (n, t, ...), and the state after it."""

OFFSET, ANCHOR = ".offset", ".anchor."
"""In the names of a state's leaves: the place in the chunk, and the weights at which the gradients of the chunk are taken."""


class Part(NamedTuple):
    """Rows of a batch that one state holds.

    Their state differs in nothing but values: caches are of the same length, segments are open to the same place. Only the places in
    the memory's chunk may be several; then the state says 1, and `read_token` keeps the anchors.
    """

    rows: list[int]
    counts: list[int]  # tokens that each row has read
    state: State | None  # None: nothing was read yet


class TitansCache(Cache):
    """What a model remembers of the rows of a batch.

    Padding is never read. Rows of different lengths may end at different places of a segment, or of a window that is not full
    yet; then there are several states, which become one again as soon as they can.

    Attributes
    ----------
    parts : list of Part
        Every row is in exactly one of them; empty before the first call.
    length : int
        Tokens that were given so far, padding included.
    """

    is_compileable = False
    is_croppable = False
    is_initialized = True
    is_sliding: Any = (False,)
    is_linear: Any = (False,)  # generate() may be given all tokens again, and leaves out the `length` that were read
    is_dummy: Any = (False,)

    def __init__(self, chunk: int) -> None:
        """``chunk``: the ``model.chunk`` of the model."""
        super().__init__(layers=[])
        self.chunk = chunk
        self.parts: list[Part] = []
        self.length = 0

    def __repr__(self) -> str:
        return f"TitansCache({self.batch_size} rows after {self.length} tokens)"

    def __deepcopy__(self, memo: dict[int, Any]) -> TitansCache:
        """A copy that shares no tensor and has no autograd history, which torch would refuse to copy."""
        other = copy.copy(self)
        memo[id(self)] = other
        other.parts = [
            Part([*rows], [*counts], None if state is None else map_leaves(_copied, state))
            for rows, counts, state in self.parts
        ]
        return other

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first call."""
        return sum(len(part.rows) for part in self.parts) or -1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that were given so far, padding included."""
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Tokens that a mask would cover, and where they begin."""
        return self.length + query_length, 0

    def read(self, read: Read, x_BTD: Tensor, real_BT: Tensor | None) -> Tensor:
        """Read tokens behind what is remembered, and remember them.

        Parameters
        ----------
        read : the model
        x_BTD : (B, T, D) what stands for tokens
        real_BT : (B, T) bool, False where a token is padding; None: there is none

        Returns
        -------
        (B, T, ...) : outputs, zero at padding

        Raises
        ------
        ValueError
            When B is not the number of rows of earlier calls; when all tokens are padding.
        """
        B, T = x_BTD.shape[:2]
        if self.parts and self.batch_size != B:
            raise ValueError(f"the cache is of a batch of {self.batch_size}, the input of {B}")
        parts = self.parts or [Part(list(range(B)), [0] * B, None)]
        if real_BT is None and len(parts) == 1 and (T == 1 or not self.mixed(parts[0])):
            outputs, part = self.read_part(read, x_BTD, parts[0])
            after = [part]
        else:
            real_BT = x_BTD.new_ones(B, T, dtype=torch.bool) if real_BT is None else real_BT
            outputs, after = self.read_parts(read, x_BTD, real_BT, parts)
        self.parts = self.merged(after)
        self.length += T
        return outputs

    def read_parts(
        self, read: Read, x_BTD: Tensor, real_BT: Tensor, parts: Sequence[Part]
    ) -> tuple[Tensor, list[Part]]:
        """`read` of several parts, or with padding. All rows of a part go on together until the shortest ends, and so on."""
        places_BT, lengths = real_places(real_BT)
        after: list[Part] = []
        outputs = None
        if max(lengths) == 0:
            raise ValueError("attention_mask: every token of the input is padding")
        if max(lengths) > 1:
            parts = [one for part in parts for one in self.by_phase(part)]
        for part in parts:
            done = 0
            for length in sorted({lengths[row] for row in part.rows}):
                if length > done:
                    index = torch.tensor(part.rows, device=x_BTD.device)[:, None]
                    where = places_BT[index[:, 0], done:length]
                    out, part = self.read_part(read, x_BTD[index, where], part)
                    if outputs is None:
                        outputs = out.new_zeros(*x_BTD.shape[:2], *out.shape[2:])
                    outputs[index, where] = out
                    done = length
                after.append(self.chosen(part, [i for i, row in enumerate(part.rows) if lengths[row] == length]))
                part = self.chosen(part, [i for i, row in enumerate(part.rows) if lengths[row] > length])
        assert outputs is not None
        return outputs, after

    def read_part(self, read: Read, x: Tensor, part: Part) -> tuple[Tensor, Part]:
        """Read x (n, t, D) behind a part of n rows; t is 1 where its rows are at different places of the chunk."""
        out, state = read(x, part.state)
        counts = [count + x.shape[1] for count in part.counts]
        if not self.mixed(part):
            return out, Part(part.rows, counts, state)
        assert part.state is not None
        assert x.shape[1] == 1
        closed = torch.tensor([count % self.chunk == 0 for count in counts], device=x.device)
        before, now = dict(part.state.leaves()), dict(state.leaves())

        def kept(name: str, leaf: Any) -> Any:
            if name.endswith(OFFSET):
                return 1
            if ANCHOR not in name:
                return leaf
            # a chunk that is over hands its weights on; the others keep what their gradients are taken at
            weights = now[name.replace(ANCHOR, ".weights.")]
            return torch.where(closed.view(-1, *[1] * (weights.dim() - 1)), weights, before[name])

        return out, Part(part.rows, counts, map_leaves(kept, state))

    def mixed(self, part: Part) -> bool:
        """Whether the rows of a part are at different places of the chunk."""
        return len({count % self.chunk for count in part.counts}) > 1

    def by_phase(self, part: Part) -> list[Part]:
        """A part as parts whose rows are at one place of the chunk each."""
        phases = [count % self.chunk for count in part.counts]
        return [self.chosen(part, [i for i, own in enumerate(phases) if own == phase]) for phase in sorted({*phases})]

    def chosen(self, part: Part, indices: Sequence[int]) -> Part:
        """Some rows of a part, in that order; they may be repeated."""
        if list(indices) == list(range(len(part.rows))):
            return part
        rows, counts = ([kind[i] for i in indices] for kind in part[:2])
        state = part.state
        if state is not None and rows:
            state = state.rows(torch.tensor(indices))
        return self.placed(Part(rows, counts, state))

    def placed(self, part: Part) -> Part:
        """The part with the place in the chunk that its counts say."""
        if part.state is None or not part.rows:
            return part
        offset = 1 if self.mixed(part) else part.counts[0] % self.chunk
        return part._replace(state=map_leaves(lambda name, x: offset if name.endswith(OFFSET) else x, part.state))

    def merged(self, parts: Sequence[Part]) -> list[Part]:
        """The parts, those as one whose states differ in nothing but values and the place in the chunk."""
        if len(parts) == 1:
            return list(parts)
        alike: dict[Any, list[Part]] = {}
        for part in parts:
            leaves = part.state.leaves() if part.state is not None else ()
            kind = tuple(
                (name, leaf.shape[1:] if isinstance(leaf, Tensor) else leaf)
                for name, leaf in leaves
                if not name.endswith(OFFSET)
            )
            alike.setdefault(kind, []).append(part)
        return [self.joined(group) for group in alike.values()]

    def joined(self, parts: Sequence[Part]) -> Part:
        """One part of several, its rows in order."""
        if len(parts) == 1:
            return parts[0]
        rows, counts = ([one for part in parts for one in part[i]] for i in range(2))
        state = parts[0].state
        if state is not None:
            leaves = [dict(part.state.leaves()) for part in parts]  # type: ignore[union-attr]
            state = map_leaves(
                lambda name, x: torch.cat([one[name] for one in leaves]) if isinstance(x, Tensor) else x, state
            )
        part = self.placed(Part(rows, counts, state))
        return self.chosen(part, sorted(range(len(rows)), key=rows.__getitem__))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes what row indices[i] was; rows may be left out and repeated."""
        wanted = indices.tolist()
        found = []
        for part in self.parts:
            within = {row: i for i, row in enumerate(part.rows)}
            new = [place for place, row in enumerate(wanted) if row in within]
            if new:
                found.append(self.chosen(part, [within[wanted[place]] for place in new])._replace(rows=new))
        self.parts = found

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: row i becomes what row beam_idx[i] was."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row becomes so many."""
        self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        self.parts, self.length = [], 0

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: what was read cannot be unread."""
        raise ValueError("the state of a recurrent model cannot be taken back by some tokens: keep a copy of the cache")


def _copied(_: str, leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def real_places(real_BT: Tensor) -> tuple[Tensor, list[int]]:
    """Where the real tokens of each row stand, in order and before the padding, (B, T) int64; and how many they are."""
    return torch.argsort(~real_BT, dim=1, stable=True), real_BT.sum(1).tolist()
