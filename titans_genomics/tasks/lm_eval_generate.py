"""Text that a model goes on with: prompts of any length side by side, one state per row, until a stop string or a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.progress import Progress
from titans_genomics.tasks.lm_eval_read import select
from titans_genomics.tasks.sequences import advance, most_rows

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks have for the most tokens, in the order in which they count."""

DEFAULT_LIMIT = 256
"""Most tokens where a task names none, as the harness has it."""


@dataclass(frozen=True)
class Ways:
    """How a prompt is gone on with.

    Attributes
    ----------
    until : tuple of bytes
        The text ends before the first of these.
    limit : int
        Most tokens.
    temperature : float
        0: always the most likely token.
    top_k : int
        Only the k most likely tokens are drawn from; 0: all.
    top_p : float
        Only the fewest tokens whose probabilities add up to this are drawn from; 1: all.
    """

    until: tuple[bytes, ...] = ()
    limit: int = DEFAULT_LIMIT
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


def ways(settings: Mapping[str, Any]) -> Ways:
    """The ``generation_kwargs`` of a task.

    Raises
    ------
    ValueError
        A key that is not known here, or a value out of its range: names it.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    until = given.pop("until", ())
    stops = [until] if isinstance(until, str) else list(until)
    limits = [int(given.pop(name)) for name in LIMITS if name in given]
    sample = given.pop("do_sample", None)
    heat = float(given.pop("temperature", 1.0 if sample else 0.0))
    found = Ways(
        tuple(stop.encode("utf-8", "surrogatepass") for stop in stops if stop),
        limits[0] if limits else DEFAULT_LIMIT,
        0.0 if sample is False else heat,
        int(given.pop("top_k", 0)),
        float(given.pop("top_p", 1.0)),
    )
    if given.pop("num_beams", 1) != 1:
        raise ValueError("generation_kwargs: num_beams above 1 is not supported; set it to 1")
    if given:
        known = ", ".join(("until", *LIMITS, "do_sample", "temperature", "top_k", "top_p"))
        raise ValueError(f"generation_kwargs: {next(iter(given))!r} is not supported; known are {known}")
    if found.limit < 0 or found.temperature < 0 or found.top_k < 0 or not 0 < found.top_p <= 1:
        raise ValueError(
            f"generation_kwargs: max_gen_toks {found.limit}, temperature {found.temperature} and top_k {found.top_k} must not "
            f"be negative, and top_p {found.top_p} must be above 0, at most 1"
        )
    return found


@dataclass
class _Line:
    """A prompt and what it has been gone on with."""

    number: int
    prompt: np.ndarray
    ways: Ways
    rng: np.random.Generator
    made: bytearray = field(default_factory=bytearray)
    count: int = 0
    done: bool = False

    def add(self, token: int, spelled: bytes, eos: int) -> None:
        """A further token, and whether it is the last."""
        before = len(self.made)
        self.made += spelled
        self.count += 1
        ends = [
            place
            for stop in self.ways.until
            if (place := self.made.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]  # fmt: skip
        if ends:
            del self.made[min(ends) :]
        self.done = bool(ends) or token == eos or self.count >= self.ways.limit


def generate(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[np.ndarray],
    how: Sequence[Ways],
    seed: int = 0,
    piece: int = 4096,
    batch_tokens: int = 16_384,
    progress: Progress | None = None,
) -> list[bytes]:
    """Go on with prompts.

    Parameters
    ----------
    model : LanguageModel
        In evaluation mode; read on its device.
    tokenizer : Tokenizer
        Of text.
    prompts : sequence of ndarray
        Tokens of any integer dtype, (tokens,) each, one at least. In which order and company they stand changes logits by
        rounding only; what is drawn depends on the seed and the place of the prompt in ``prompts``.
    how : sequence of Ways
        One for each prompt.
    seed : int
    piece, batch_tokens : int
        See `lm_eval_read.score`.
    progress : Progress, optional
        Counts the prompts.

    Returns
    -------
    list of bytes
        What follows each prompt, without the stop string or the end-of-text token that ended it.
    """
    lines = [
        _Line(number, np.asarray(prompt, np.int64), way, np.random.default_rng([seed, number]))
        for number, (prompt, way) in enumerate(zip(prompts, how, strict=True))
    ]
    asked = sorted((line for line in lines if line.ways.limit), key=lambda line: (line.ways.limit, len(line.prompt)))
    if progress is not None:
        progress.update(len(lines) - len(asked))
    most = most_rows(model)
    while asked:
        # while the longer prompts are still read, the others go on: by a quarter of their tokens at most
        shortest = len(asked[0].prompt)
        rows = max(1, min(batch_tokens // min(shortest, piece), most))
        allowed = shortest + max(16, asked[0].ways.limit // 4)
        batch = [line for line in asked[:rows] if shortest <= len(line.prompt) <= allowed]
        chosen = {line.number for line in batch}
        asked = [line for line in asked if line.number not in chosen]
        _go_on(model, tokenizer, batch, piece, progress)
    return [bytes(line.made) for line in lines]


@torch.inference_mode()
def _go_on(model: Any, tokenizer: Tokenizer, lines: list[_Line], piece: int, progress: Progress | None) -> None:
    """Read what all prompts have, then token by token: of a prompt as long as it lasts, then of the model's."""
    common = min(len(line.prompt) for line in lines)
    hidden, state = advance(model, np.stack([line.prompt[:common] for line in lines]), None, piece)
    place = common
    while True:
        free = np.array([place >= len(line.prompt) for line in lines])
        tokens = np.array([line.prompt[min(place, len(line.prompt) - 1)] for line in lines])
        if free.any():
            own = [line for line, chooses in zip(lines, free, strict=True) if chooses]
            logits = model.head(hidden[torch.from_numpy(free).to(hidden.device)])
            tokens[free] = choose(logits, [line.ways for line in own], [line.rng for line in own])
            for line, token in zip(own, tokens[free], strict=True):
                line.add(int(token), tokenizer.decode(token[None]).tobytes(), tokenizer.eos)
        going = np.array([not line.done for line in lines])
        if progress is not None:
            progress.update(int((~going).sum()))
        if not going.any():
            return
        if not going.all():
            state, tokens = select(state, np.flatnonzero(going)), tokens[going]
            lines = [line for line in lines if not line.done]
        hidden, state = advance(model, tokens[:, None], state, piece)
        place += 1


def choose(logits: Tensor, how: Sequence[Ways], rngs: Sequence[np.random.Generator]) -> np.ndarray:
    """The next token of each row, int64 (B,): the most likely, or drawn. logits (B, V); all alike where they are not finite."""
    logits = torch.where(logits.isfinite().all(-1, keepdim=True), logits, 0.0).double().cpu()
    picked = logits.argmax(-1).numpy()
    for row, (way, rng) in enumerate(zip(how, rngs, strict=True)):
        if way.temperature:
            share, order = (logits[row] / way.temperature).softmax(-1).sort(descending=True, stable=True)
            share[way.top_k or len(share) :] = 0
            before = share.cumsum(0) - share
            share[before >= way.top_p * share.sum()] = 0
            sums = share.cumsum(0)
            place = int(torch.searchsorted(sums, rng.random() * sums[-1], right=True))
            picked[row] = order[min(place, int((share > 0).sum()) - 1)]
    return picked
