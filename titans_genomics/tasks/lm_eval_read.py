"""How likely a model finds continuations of contexts: read in batches, in pieces with the state carried, never cut.

Rows of different lengths stand side by side, padded behind their ends: a causal model never sees the padding, and
the state of a row is used no further than its end. Several continuations of one context share its state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_genomics.models.state import State
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import advance, most_rows, padded

BATCH_LOGITS = 1 << 24
"""Most logits that are held together."""

SHARED_LEAST = 128
"""Tokens that sharing the state of a context must save, or its continuations are read with the context before each."""


@dataclass
class Scores:
    """What was asked, filled in as it is read.

    Attributes
    ----------
    log_likelihood : numpy.ndarray
        float64, (requests,): nats, summed over the tokens of the continuation.
    greedy : numpy.ndarray
        bool, (requests,): whether each token is the most likely one at its place.
    not_finite : int
        Tokens for which the model gave no numbers; all tokens count as equally likely there.
    """

    log_likelihood: np.ndarray
    greedy: np.ndarray
    not_finite: int = 0


@dataclass
class Row:
    """Tokens that are read, (T,), and what may follow: request and continuation, whose last token stands behind the row's end."""

    inputs: np.ndarray
    answers: list[tuple[int, np.ndarray]]


@dataclass
class Question:
    """A context and the rows that begin with it, by their bytes."""

    context: np.ndarray
    rows: dict[bytes, Row] = field(default_factory=dict)

    @property
    def saved(self) -> int:
        """Tokens that need not be read when the state of the context is shared."""
        return (len(self.rows) - 1) * (len(self.context) - 1)

    @property
    def spent(self) -> int:
        """Tokens that are read even so."""
        return len(self.context) + sum(len(row.inputs) - len(self.context) for row in self.rows.values())


@torch.inference_mode()
def score(
    model: Any,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    piece: int = 4096,
    batch_tokens: int = 16_384,
    share: bool = True,
    progress: Progress | None = None,
) -> Scores:
    """Log-likelihoods of continuations, each given its context and its own earlier tokens.

    Parameters
    ----------
    model : LanguageModel
        In evaluation mode; read on its device.
    pairs : sequence of (context, continuation)
        Tokens of any integer dtype, (tokens,) each. A context has one token at least; a continuation without any is certain. In
        which order and company they stand changes results by rounding only.
    piece : int
        Tokens of a row that are read at a time, the state carried on. Changes speed and memory only.
    batch_tokens : int
        Tokens of all rows that are read at a time, padding included.
    share : bool
        Read a context that several continuations follow once. Changes the speed only.
    progress : Progress, optional
        Counts the pairs.

    Returns
    -------
    Scores
        In the order of ``pairs``.

    Raises
    ------
    ValueError
        A context has no token.
    """
    scores = Scores(np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool))
    questions = list(_questions(pairs).values())
    if progress is not None:
        progress.update(sum(not len(continuation) for _, continuation in pairs))
    reader = _Reader(model, piece, batch_tokens, scores, progress)
    shared = [question for question in questions if share and question.saved >= SHARED_LEAST]
    alone = [question for question in questions if not share or question.saved < SHARED_LEAST]
    reader.read([row for question in alone for row in question.rows.values()])
    for batch in reader.alike(shared):
        reader.answer(batch)
    return scores


def _questions(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[bytes, Question]:
    """The contexts that occur, with what is read behind them: continuations that differ in their last token only share a row."""
    questions: dict[bytes, Question] = {}
    for request, (context, continuation) in enumerate(pairs):
        if not len(context):
            raise ValueError(f"request {request}: the context has no token")
        if not len(continuation):
            continue
        context, continuation = np.asarray(context, np.int32), np.asarray(continuation, np.int32)
        question = questions.setdefault(context.tobytes(), Question(context))
        row = question.rows.setdefault(
            continuation[:-1].tobytes(), Row(np.concatenate([context, continuation[:-1]]), [])
        )
        row.answers.append((request, continuation))
    return questions


class _Reader:
    """Reads rows with a model and fills in their scores."""

    def __init__(self, model: Any, piece: int, batch_tokens: int, scores: Scores, progress: Progress | None) -> None:
        self.model, self.piece, self.batch_tokens = model, piece, batch_tokens
        self.scores, self.progress = scores, progress
        self.device = next(model.parameters()).device
        self.most_rows = most_rows(model)
        self.logits = max(1, BATCH_LOGITS // model.config.vocab_size)

    def alike(self, questions: list[Question]) -> Iterator[list[Question]]:
        """Questions that are read side by side, the shortest context first.

        Their states are taken where the shortest context ends but for a token, so what is left of the others is read
        before every continuation: at most a quarter more tokens.
        """
        batch: list[Question] = []
        for question in sorted(questions, key=lambda q: len(q.context)):
            if batch:
                common = len(batch[0].context) - 1
                rest = len(question.rows) * (len(question.context) - 1 - common)
                full = (len(batch) + 1) * min(common, self.piece) > self.batch_tokens
                if full or len(batch) == self.most_rows or 4 * rest > question.spent:
                    yield batch
                    batch = []
            batch.append(question)
        if batch:
            yield batch

    def answer(self, questions: list[Question]) -> None:
        """Read the contexts once, then every continuation from a copy of the state."""
        common = len(questions[0].context) - 1
        contexts = np.stack([question.context[:common] for question in questions])
        _, state = advance(self.model, contexts, None, self.piece)
        rows, owners = [], []
        for number, question in enumerate(questions):
            rows += [Row(row.inputs[common:], row.answers) for row in question.rows.values()]
            owners += [number] * len(question.rows)
        self.read(rows, state, np.array(owners))

    def read(self, rows: list[Row], state: State | None = None, owners: np.ndarray | None = None) -> None:
        """Score the answers of rows, from the beginning or from row ``owners[i]`` of a state, the longest first."""
        lengths = np.array([len(row.inputs) for row in rows], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        first = 0
        while first < len(order):
            width = min(int(lengths[order[first]]), self.piece)
            these = order[first : first + max(1, min(self.batch_tokens // width, self.most_rows))]
            own = None if state is None or owners is None else select(state, owners[these])
            self.read_batch([rows[i] for i in these], own)
            first += len(these)

    def read_batch(self, rows: list[Row], state: State | None) -> None:
        """The same of rows that are read together, the longest first."""
        lengths = np.array([len(row.inputs) for row in rows])
        for first in range(0, int(lengths[0]), self.piece):
            active = int((lengths > first).sum())
            last = min(first + self.piece, int(lengths[0]))
            tokens, _ = padded([row.inputs[first:last] for row in rows[:active]])
            if state is not None:
                state = state.rows(slice(active))
            hidden, state = self.model.embed(tokens.to(self.device), state)
            self.fill(hidden, *_asked(rows[:active], first, last))
            if self.progress is not None:
                read = np.clip(lengths - first, 0, self.piece) / lengths  # share of each row
                self.progress.update(float(read @ [len(row.answers) for row in rows]))

    def fill(self, hidden: Tensor, row: np.ndarray, place: np.ndarray, target: np.ndarray, request: np.ndarray) -> None:
        """Add up the scores of tokens: hidden states (rows, T, D), and where in them, what follows and for whom, (tokens,) each."""
        for first in range(0, len(row), self.logits):
            part = slice(first, first + self.logits)
            logits = self.model.head(hidden[torch.from_numpy(row[part]), torch.from_numpy(place[part])]).float()
            finite = logits.isfinite().all(-1)
            logits = torch.where(finite[:, None], logits, 0.0)
            targets = torch.from_numpy(target[part]).to(logits.device)
            found = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            np.add.at(self.scores.log_likelihood, request[part], found.double().cpu().numpy())
            best = (logits.argmax(-1) == targets) & finite
            np.logical_and.at(self.scores.greedy, request[part], best.cpu().numpy())
            self.scores.not_finite += int((~finite).sum())


def _asked(rows: list[Row], first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What is asked at the places first ... last - 1 of rows: row, place from first on, the token that follows, request."""
    found: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(4)]
    for number, row in enumerate(rows):
        for request, continuation in row.answers:
            begin = len(row.inputs) - len(continuation)
            low, high = max(first, begin), min(last, len(row.inputs))
            if low >= high:
                continue
            values = number, np.arange(low, high) - first, continuation[low - begin : high - begin], request
            for column, value in zip(found, values, strict=True):
                column.append(np.broadcast_to(value, high - low))
    row_numbers, places, targets, requests = (np.concatenate(column) for column in found)
    return row_numbers, places, targets, requests


def select(state: State, rows: np.ndarray) -> State:
    """The state of a batch made of these rows, copied."""
    return state.rows(torch.from_numpy(np.asarray(rows, dtype=np.int64)))
