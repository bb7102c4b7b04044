"""Training on needles in text: episodes of haystack, needle, haystack, question and answer, one after the other in a window.

Recall is learned late and at once or not at all, and the question's wording buries its signal. So training begins with nothing but values
that are told four times in a row; a small model goes from chance to all of them within some 300 steps, while it stays at chance for as long as we
looked when it sees questions only. Then questions come in short windows, and windows grow to the training context. The loss counts the tokens
of the answers. A window holds several episodes, each with a needle of its own: what was asked before has to make way for what will be asked next.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_genomics.config import Config
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.tasks.learn import Task, learn
from titans_genomics.tasks.niah_samples import NEEDLE, QUESTION, TYPES, Haystack, Kind, encode, key_and_value

COPYING = (0.13, 0.2)
"""Up to these shares of the steps there are copies alone: first one right behind the other, then with haystack between them."""

REPEATS = 4
"""How often a copied value is told."""

COPIED = (72, 144)
"""Tokens of the windows of copies, without and with haystack."""

GAP = 48
"""Tokens of haystack between copies at most: at one distance only, attention learns to count."""

SHORTEST = 192
"""Tokens of the first windows with questions."""

GROWING = (0.35, 0.8)
"""Between these shares of the steps windows grow to the training context; before them a part of the episodes is copies."""

ORDINARY = 0.05
"""Weight of the ordinary next-token loss: small, so that the memory is not written with what stands between needles."""

BEFORE = 16
"""Mean tokens of haystack before the needle of an episode."""

VALIDATION = 32
"""Windows of the training context that the best weights are picked by, of haystack that is not measured."""

BITS = 1 / math.log(2)


def tune(
    model: Any,
    config: Config,
    store: TokenStore,
    haystacks: dict[Kind, Haystack],
    held_out: dict[Kind, Haystack],
    out: Path,
    name: str,
) -> dict[str, Any]:
    """Train on needles in place, ``niah.fit.steps`` steps; see `learn.learn` for what it returns.

    Rows of the curve: ``value_bits`` and ``value_accuracy`` (of the tokens of answers), ``bits`` (of every token), ``context``.

    Raises
    ------
    ValueError
        When the training windows have no room for a needle and its question, or the steps do not stay finite.
    """
    settings, tokenizer = config.niah, store.tokenizer
    fit = settings.fit_of(name)
    context = settings.context or config.train.context
    least = max(least_room(tokenizer, haystack, kind) for kind, haystack in haystacks.items())
    if context < least:
        raise ValueError(
            f"niah.context: windows of {context} tokens have no room for a needle and its question, about {least} tokens of this tokenizer; make them longer"
        )
    device = next(model.parameters()).device

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        now = stage(step, fit.steps, context, least)
        rows = max(1, fit.batch_size * context // now.context)
        rng = np.random.default_rng([config.seed, step])
        return windows(rng, tokenizer, haystacks, now.context, rows, now.copies, now.gap)

    def losses(network: Any, made: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = torch.from_numpy(made[0]).to(device)
        asked, targets = torch.from_numpy(made[1]).to(device)[:, 1:], tokens[:, 1:]
        logits, _ = network(tokens[:, :-1])
        nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        count = asked.sum().clamp_min(1)
        right = ((logits.detach().argmax(-1) == targets) & asked).sum() / count
        return (nll * asked).sum() / count, nll.mean(), right

    def loss(network: Any, made: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, dict[str, float]]:
        own, ordinary, right = losses(network, made)
        figures = {"value_bits": own.item() * BITS, "value_accuracy": right.item(), "bits": ordinary.item() * BITS}
        return own + ORDINARY * ordinary, figures | {"context": made[0].shape[1] - 1}

    rng = np.random.default_rng([config.seed, 2**32 - 1])
    fixed = windows(rng, tokenizer, held_out, context, VALIDATION)

    def validate(network: Any) -> float:
        return losses(network, fixed)[0].item() * BITS

    identity = {
        "store": store.sha256,
        "seed": config.seed,
        "name": name,
        "fit": fit.model_dump(mode="json"),
        "kinds": list(settings.kinds),
        "context": context,
        "model": model.config.model_dump(mode="json"),
        "weights": checksum(model),
    }
    every = max(1, fit.steps // 8)
    return learn(model, Task(batch, loss, validate, every), fit, out, identity, f"needles in text, training {name}")


def checksum(model: torch.nn.Module) -> str:
    """SHA-256 of the weights that training begins with."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def least_room(tokenizer: Tokenizer, haystack: Haystack, kind: Kind) -> int:
    """Tokens of the longest of a few episodes without haystack, and an eighth more: keys and values differ in their tokens."""
    rngs = [np.random.default_rng(seed) for seed in range(8)]
    return 9 * max(sum(map(len, needle_and_question(rng, tokenizer, haystack, kind))) for rng in rngs) // 8


class Stage(NamedTuple):
    """What the windows of a step are like: their tokens, the share of episodes that are copies, and the most haystack between those."""

    context: int
    copies: float
    gap: int


def stage(step: int, steps: int, context: int, least: int = SHORTEST) -> Stage:
    """The windows of a step; windows with questions have ``least`` tokens or more."""
    share = step / max(1, steps - 1)
    for until, size, gap in zip(COPYING, COPIED, (0, GAP), strict=True):
        if share < until:
            return Stage(min(context, size), 1.0, gap)
    first = min(context, max(SHORTEST, least))
    grown = min(1.0, max(0.0, (share - GROWING[0]) / (GROWING[1] - GROWING[0])))
    copies = 0.0 if share >= GROWING[0] else 0.5
    return Stage(round(first * (context / first) ** grown), copies, GAP)


def windows(
    rng: np.random.Generator,
    tokenizer: Tokenizer,
    haystacks: dict[Kind, Haystack],
    context: int,
    count: int,
    copies: float = 0.0,
    gap: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of episodes, of which the share ``copies`` are no questions.

    Returns tokens (count, context + 1) int64, and which of them a value is made of that was told before, bool.
    """
    window = np.empty((count, context + 1), np.int64)
    asked = np.zeros((count, context + 1), bool)
    kinds = list(haystacks)
    for row, given in zip(window, asked, strict=True):
        at = 0
        while at <= context:
            kind, room = kinds[rng.integers(len(kinds))], context + 1 - at
            if rng.random() < copies:
                tokens, answer = copied(rng, tokenizer, haystacks[kind], kind, room, gap)
            else:
                tokens, answer = episode(rng, tokenizer, haystacks[kind], kind, room)
            row[at : at + len(tokens)] = tokens
            given[at : at + len(tokens)] = answer
            at += len(tokens)
    return window, asked


def copied(
    rng: np.random.Generator, tokenizer: Tokenizer, haystack: Haystack, kind: Kind, room: int, gap: int
) -> tuple[np.ndarray, np.ndarray]:
    """A value told `REPEATS` times with at most ``gap`` tokens of haystack behind each: as `episode`, at most ``room`` tokens.

    A number takes the place of a UUID where there is no room for so many. The tokens of a number are nearly all different, so that
    the one before says what comes next: the easiest recall there is.
    """
    stop = encode(tokenizer, ".")
    value = encode(tokenizer, f" {key_and_value(rng, kind)[1]}")
    if REPEATS * (len(value) + len(stop)) > room:
        value = encode(tokenizer, f" {key_and_value(rng, 'n')[1]}")
    parts, given = [], []
    for told in range(REPEATS):
        between = int(math.exp(rng.uniform(0, math.log(gap + 1)))) - 1
        parts += [value, stop, haystack.read(int(rng.integers(len(haystack.tokens))), between)]
        given += [np.full(len(value), told > 0), np.zeros(len(stop) + between, bool)]
    return np.concatenate(parts)[:room], np.concatenate(given)[:room]


def episode(
    rng: np.random.Generator, tokenizer: Tokenizer, haystack: Haystack, kind: Kind, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Haystack, needle, haystack, question and answer: tokens (T,), and which of them are the answer's, (T,) bool.

    At most ``room`` tokens; where that does not hold needle and question, it is haystack alone.
    """
    needle, question, answer, stop = needle_and_question(rng, tokenizer, haystack, kind)
    spare = room - len(needle) - len(question) - len(answer) - len(stop)
    start = haystack.start(rng)
    if spare < 0:
        return haystack.read(start, room), np.zeros(room, bool)
    most = start + spare
    place = haystack.cut(min(most, start + int(rng.exponential(BEFORE))), most)
    # short and long gaps alike: uniform on a logarithmic scale
    behind = haystack.cut(place + int(math.exp(rng.uniform(0, math.log(most - place + 1)))) - 1, most)
    parts = [
        haystack.read(start, place - start), needle, haystack.read(place, behind - place), question, answer, stop,
    ]  # fmt: skip
    given = np.repeat([False, True, False], [sum(map(len, parts[:4])), len(answer), len(stop)])
    return np.concatenate(parts), given


def needle_and_question(
    rng: np.random.Generator, tokenizer: Tokenizer, haystack: Haystack, kind: Kind
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of a needle, of its question, of the answer, and of what ends it."""
    key, value = key_and_value(rng, kind)
    words = {"type": TYPES[kind], "key": key, "value": value}
    needle = encode(tokenizer, NEEDLE.format(**words).join(haystack.around))
    question = encode(tokenizer, QUESTION.format(**words))
    return needle, question, encode(tokenizer, f" {value}"), encode(tokenizer, ".\n")
