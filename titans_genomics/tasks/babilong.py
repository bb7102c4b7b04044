"""BABILong: the facts of a bAbI story scattered, in order, in long text; then the story's question.

The files are those of bAbI as published: numbered lines, a question with its answer and the numbers of its facts behind tabs, and number 1 at
the beginning of every story. An answer counts as found when the first line that the model writes names it and no other answer of the file;
beside it the answers of the file are weighed against one another, each given token by token.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titans_genomics.config import NiahConfig
from titans_genomics.config_tasks import BabilongConfig
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.progress import Progress
from titans_genomics.tasks.niah_read import batches, forced, generate, interval, read, repeated
from titans_genomics.tasks.niah_samples import Haystack, Prompt, answer_of, encode, text_of

QUESTION = "\nQuestion: {question}\nAnswer:"

WRITTEN = 16
"""Tokens of an answer at most."""


@dataclass(frozen=True)
class Question:
    """A question of bAbI with all that was told before it.

    Attributes
    ----------
    facts : tuple of str
        The sentences of the story up to the question, in order.
    question, answer : str
    """

    facts: tuple[str, ...]
    question: str
    answer: str


def read_babi(path: Path) -> list[Question]:
    """The questions of a bAbI file, in order.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file; a line is not of the format (its number is named), or there is no question in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (niah.babilong.files)")
    found: list[Question] = []
    facts: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start:,}); a file of bAbI is needed") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        label, _, told = line.strip().partition(" ")
        if not label.isdecimal() or not told.strip():
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} does not begin with a number and a sentence, as lines of bAbI do"
            )
        if int(label) == 1:
            facts = []
        text, *rest = told.split("\t")
        if not rest:
            facts.append(text.strip())
            continue
        if not rest[0].strip():
            raise ValueError(f"{path}, line {number}: the question has no answer behind its tab")
        found.append(Question(tuple(facts), text.strip(), rest[0].strip()))
    if not found:
        raise ValueError(f"{path}: no question in it; questions have their answer behind a tab")
    return found


def scattered(
    rng: np.random.Generator, tokenizer: Tokenizer, haystack: Haystack, asked: Question, length: int, path: Path
) -> Prompt:
    """A prompt of ``length`` tokens: the facts in order at random beginnings of sentences, then the question.

    Raises
    ------
    ValueError
        Facts and question are longer than that.
    """
    facts = [encode(tokenizer, fact.join(haystack.around)) for fact in asked.facts]
    question = encode(tokenizer, QUESTION.format(question=asked.question))
    room = length - sum(map(len, facts)) - len(question)
    if room < 0:
        raise ValueError(
            f"niah.babilong.lengths: {length} tokens have no room for a story of {path}, {length - room} tokens of this tokenizer; take longer ones"
        )
    start = haystack.start(rng)
    places = [
        max(0, haystack.cut(start + int(place), start + room) - start)
        for place in np.sort(rng.integers(room + 1, size=len(facts)))
    ]
    fixed, before = [], 0
    for place, tokens in zip(places, facts, strict=True):
        fixed.append((place + before, tokens))
        before += len(tokens)
    fixed.append((length - len(question), question))
    return Prompt(haystack, start, tuple(fixed), length, asked.answer, *answer_of(tokenizer, asked.answer))


def named(text: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether the first line of a text names the answer and no other choice, as whole words, in either case."""
    first = text.strip().partition("\n")[0].casefold()
    told = {choice for choice in choices if re.search(rf"(?<!\w){re.escape(choice.casefold())}(?!\w)", first)}
    longer = {
        choice for choice in told if any(choice != other and choice.casefold() in other.casefold() for other in told)
    }
    return told - longer == {answer}


def babilong(
    model: Any,
    settings: NiahConfig,
    tokenizer: Tokenizer,
    tasks: dict[Path, list[Question]],
    prompts: dict[tuple[Path, int], list[Prompt]],
    what: str,
) -> dict[str, Any]:
    """Figures of a model on every file and length; ``tasks`` and ``prompts``, the same for every model, as `drawn` gives them.

    Returns
    -------
    dict
        ``cells``, one per file and length: ``task`` (the file's name), ``length``, ``samples``, ``choices`` (answers of the file), ``found`` (share answered
        by greedy generation), ``found_ci95`` (Wilson), ``chosen`` (share in which the true answer is the most likely of the choices),
        ``chosen_ci95``, ``chance`` (one in the number of choices) and ``seconds``.
    """
    cells = []
    with Progress(sum(p.length for ps in prompts.values() for p in ps), "tokens", f"BABILong, {what}") as progress:
        for (path, length), asked in prompts.items():
            begun = time.monotonic()
            choices = sorted({question.answer for question in tasks[path]})
            found, chosen = np.concatenate(
                [
                    _ask(model, tokenizer, asked[rows], choices, settings.piece, progress)
                    for rows in batches(len(asked), length, settings.piece)
                ]
            ).T
            cells.append(
                {
                    "task": path.name,
                    "length": length,
                    "samples": len(asked),
                    "choices": len(choices),
                    "found": float(found.mean()),
                    "found_ci95": interval(int(found.sum()), len(asked)),
                    "chosen": float(chosen.mean()),
                    "chosen_ci95": interval(int(chosen.sum()), len(asked)),
                    "chance": 1 / len(choices),
                    "seconds": round(time.monotonic() - begun, 3),
                }
            )
            progress.update(0, note=f"{path.name} at {length:,} tokens: {found.mean():.0%} found")
    return {"cells": cells}


def drawn(
    settings: NiahConfig, store: TokenStore, seed: int
) -> tuple[dict[Path, list[Question]], dict[tuple[Path, int], list[Prompt]]]:
    """The questions of every file, and the prompts of every file and length.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_babi` and `scattered`; when there is no haystack.
    """
    own = settings.babilong
    assert own is not None
    haystack = text_of(settings.haystack, store, "test")
    tasks = {path: read_babi(path) for path in own.files}
    prompts = {
        (path, length): _prompts(path, questions, haystack, store.tokenizer, length, own, seed)
        for path, questions in tasks.items()
        for length in own.lengths
    }
    return tasks, prompts


def _prompts(
    path: Path,
    questions: list[Question],
    haystack: Haystack,
    tokenizer: Tokenizer,
    length: int,
    settings: BabilongConfig,
    seed: int,
) -> list[Prompt]:
    """As many questions as asked for, spread evenly over the file, each in text of its own."""
    count = min(settings.samples, len(questions))
    return [
        scattered(
            np.random.default_rng([seed, length, number]),
            tokenizer,
            haystack,
            questions[number * len(questions) // count],
            length,
            path,
        )
        for number in range(count)
    ]


def _ask(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[Prompt], choices: list[str], piece: int, progress: Progress
) -> np.ndarray:
    """Whether each prompt's answer is found, and chosen: (prompts, 2) float64."""
    logits, state = read(model, prompts, piece, progress.update)
    tokens = [encode(tokenizer, f" {choice}") for choice in choices]
    bits, _ = forced(model, *repeated(logits, state, len(choices)), tokens * len(prompts))
    best = bits.sum(1).reshape(len(prompts), -1).argmin(1)
    texts = generate(model, logits, state, tokenizer, WRITTEN, lambda row, text: "\n" in text.strip())
    return np.array(
        [
            (named(text, prompt.value, choices), choices[own] == prompt.value)
            for text, prompt, own in zip(texts, prompts, best, strict=True)
        ],
        dtype=np.float64,
    )
