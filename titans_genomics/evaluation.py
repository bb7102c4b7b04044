"""Held-out bits per base (of text: per byte): streamed through the whole held-out genome, by context position, and beside the baselines.

The memory begins anew after every stretch of `evaluate.stretch` tokens, as it did in training; a reading of the whole
run without end stands beside it, and shows whether a model holds beyond what it was trained on.

Every model and the Markov baseline are scored on exactly the same targets: the A, C, G and T of the held-out run of each
source (of text all bytes), the first token of the run excepted, for which nothing has been read.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from titans_genomics import markov
from titans_genomics.config import Config
from titans_genomics.data.store import Run, TokenStore
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.data.words import Amount, Words
from titans_genomics.files import write_json
from titans_genomics.progress import Progress
from titans_genomics.training import check_model, load_model, next_token_nll, scored_bases, with_vocabulary

WINDOW_TOKENS = 1_000_000
"""Tokens per source that are read again in windows, for the loss by context position; evenly spread windows beyond that."""

NO_LETTER = 999
"""What special tokens are among letters."""

RESAMPLES = 2000
"""Bootstrap resamples of the confidence intervals."""


def evaluate(config: Config, store: Path, models: dict[str, Path], out: Path) -> dict[str, Any]:
    """Measure trained models on the held-out split and write the figures as JSON.

    Parameters
    ----------
    config : Config
        The run.
    store : Path
        Token store folder.
    models : dict
        Name ("titans", "transformer") to the output folder of ``train``.
    out : Path
        The JSON file to write.

    Returns
    -------
    dict
        ``sources`` (name to figures) and ``overall`` (all sources together). Figures: ``bases`` scored, ``uniform``,
        ``markov``, ``models`` (each with ``bits_per_base``, ``perplexity``, a 95% interval ``ci95`` over blocks of genome,
        the paired ``difference_to_markov`` and, of others than "titans", ``difference_to_titans``, and ``endless``: the same without ever emptying the memory) and ``context``:
        bits by the number of tokens read before. ``unit`` is "base" or "byte": what ``bits_per_base`` and ``bases`` are of. Of text
        every figure also has ``perplexity_per_token`` and ``perplexity_per_word``, over the same ``tokens`` and ``words`` (what white
        space parts) for every model: exp of the whole negative log-likelihood divided by their number.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no model, when it comes from another config or was trained on another token store, and when the
        held-out split is empty.
    """
    started = time.monotonic()
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    runs = [run for run in tokens.runs(config.evaluate.split) if len(run) > 1]
    runs.sort(key=lambda run: tokens.weight(run.source) == 0)  # what was trained on comes first, in the report too
    if not runs:
        raise ValueError(
            f"{tokens.path}: the {config.evaluate.split} split is empty; raise data.split.{config.evaluate.split}"
        )
    descriptions = {name: check_model(config, tokens, Path(folder)) for name, folder in models.items()}
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    figures = {run.source: _Figures(run, config) for run in runs}
    fits: dict[tuple[str | None, str | None], Any] = {}
    with Progress(len(runs), "sources", "fitting Markov models") as progress:
        for run in runs:
            figures[run.source].measure_markov(tokens, config, fits)
            progress.update(1)
    stretch = config.evaluate.stretch or config.train.context * config.train.carry
    unit = "byte" if tokens.tokenizer.text else "base"
    work = sum(2 * len(f.inputs) + sum(len(w) * length for length, w in f.windows.items()) for f in figures.values())
    speed = {}
    for name, folder in models.items():
        model = load_model(folder, device)
        with Progress(work, "tokens", f"evaluating {name}") as progress, torch.inference_mode():
            seconds = 0.0
            for measured in figures.values():
                begun = time.monotonic()
                measured.stream(model, name, config.evaluate.piece, stretch, progress, unit)
                seconds += time.monotonic() - begun
                measured.by_position(model, name, progress)
            speed[name] = sum(len(measured.inputs) for measured in figures.values()) / seconds
    rng = np.random.default_rng(config.seed)
    resampled = {source: measured.resample(rng) for source, measured in figures.items()}
    result = {
        "unit": unit,
        "split": config.evaluate.split,
        "seed": config.seed,
        "train_context": config.train.context,
        "stretch": stretch,
        "sources": {source: measured.summary(resampled[source]) for source, measured in figures.items()},
        "overall": _overall(list(figures.values()), resampled),
        "models": {
            name: {"step": d["step"], "parameters": d["parameters"], "tokens_per_second": speed[name]}
            for name, d in descriptions.items()
        },
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(Path(out), result)
    return result


@dataclass
class _Tally:
    """Bits and scored bases; per block while streaming, per context position in windows."""

    bits: np.ndarray
    bases: np.ndarray

    @classmethod
    def zeros(cls, size: int) -> _Tally:
        return cls(np.zeros(size), np.zeros(size, np.int64))

    def add(self, where: np.ndarray, bits: np.ndarray, bases: np.ndarray) -> None:
        """Add ``bits`` of the targets at the places ``where``, where they stand for ``bases`` (all of one shape), 0 if not scored."""
        size, scored = len(self.bits), bases > 0
        self.bits += np.bincount(where[scored], bits[scored], size)
        self.bases += np.bincount(where[scored], bases[scored], size).astype(np.int64)

    @property
    def mean(self) -> float:
        return float(self.bits.sum() / max(1, self.bases.sum()))


@dataclass
class _Figures:
    """What is measured on the held-out run of one source."""

    run: Run
    config: Config
    markov_order: int = 0
    markov_smoothing: float = 0.0
    markov_table: dict[int, dict[str, float]] = field(default_factory=dict)
    blocks: dict[str, _Tally] = field(default_factory=dict)
    endless: dict[str, _Tally] = field(default_factory=dict)
    positions: dict[str, _Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        most = self.config.evaluate.max_bases
        length = len(self.run) - 1 if most is None else min(len(self.run) - 1, most)
        self.inputs = range(length)  # input token t is scored on its successor t + 1
        tokenizer = self.run.store.tokenizer
        self.letters = markov.BYTES if tokenizer.text else markov.BASES
        self.scores = scored_bases(tokenizer).numpy().astype(np.int64)
        # Neighbouring bases are alike: the interval is over blocks of some genes' length, at least about 20 of them.
        self.block = max(1, min(8192, length // 20), -(-length // 1000))
        short = min(self.config.train.context, length)
        long = min(self.config.evaluate.context, length)
        self.windows = {size: self._starts(size) for size in {short, max(short, long)}}
        self.short = short
        self.most = max(short, long)

    def _starts(self, size: int) -> np.ndarray:
        """First tokens of windows of ``size`` inputs that do not overlap."""
        room = len(self.inputs) // size
        count = min(room, max(1, WINDOW_TOKENS // size))
        return (np.arange(count) * room // count) * size

    @cached_property
    def amount(self) -> Amount | None:
        """How much text is scored; None of nucleotides."""
        tokenizer = self.run.store.tokenizer
        if not tokenizer.text:
            return None
        words = Words()
        tokens = 0
        for first in range(1, len(self.inputs) + 1, markov.PIECE):
            targets = self.run.read(first, min(first + markov.PIECE, len(self.inputs) + 1))
            tokens += int((self.scores[targets] > 0).sum())
            for part in np.split(targets, np.flatnonzero(targets == tokenizer.eos)):
                if len(part) and part[0] == tokenizer.eos:
                    words.end()
                words.add(tokenizer.decode(part).tobytes())
        words.end()
        return Amount(tokens, words.count)

    # ------------------------------------------------------------------------------------- measuring

    def measure_markov(self, store: TokenStore, config: Config, fits: dict[tuple[str | None, str | None], Any]) -> None:
        """Fit on this source's own training tokens, or on all where it has none, and score.

        ``fits``: what was fitted before, by the sources of training and validation.
        """
        source = self.run.source
        own = store.weight(source) > 0 and bool(store.runs("train", source))  # its species may be held out as a whole
        between = (source if own else None, source if store.runs("validation", source) else None)
        if between not in fits:
            fits.clear()  # its tables may be hundreds of megabytes
            train, validation = (
                _letters_of(store, split, of) for split, of in zip(("train", "validation"), between, strict=True)
            )
            fits[between] = markov.fit(train, validation, config.evaluate.markov, self.letters)
        fitted, self.markov_table = fits[between]
        self.markov_order, self.markov_smoothing = fitted.order, fitted.smoothing

        def bits(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            """Of the tokens from start to stop: bits, and bases where they are scored."""
            before = min(fitted.order, start)
            tokens = self.run.read(start - before, stop)
            letters, owner = _letters(store.tokenizer, tokens)
            of_letters = fitted.bits(letters)
            found = np.bincount(owner, np.nan_to_num(of_letters), len(tokens))
            return found[before:], self.scores[tokens[before:]]

        tally = self.blocks["markov"] = _Tally.zeros(self._block_of(len(self.inputs) - 1) + 1)
        for first in range(0, len(self.inputs), markov.PIECE):
            where = np.arange(first, min(first + markov.PIECE, len(self.inputs)))
            found, bases = bits(first + 1, first + 1 + len(where))
            tally.add(self._block_of(where), found, bases)
        self.positions["markov"] = _Tally.zeros(self.most)
        for size, starts in self.windows.items():
            for start in starts:
                found, bases = bits(start + 1, start + size + 1)
                self._add_positions("markov", size, found[None], bases[None])

    def stream(self, model: Any, name: str, piece: int, stretch: int, progress: Progress, unit: str) -> None:
        """Carry the state through the run, a piece at a time: memory does not grow with length.

        Once with a new state for every ``stretch`` tokens, once without end.
        """
        self.blocks[name] = _Tally.zeros(len(self.blocks["markov"].bits))
        self.endless[name] = _Tally.zeros(len(self.blocks["markov"].bits))
        for tally, renew in ((self.blocks[name], stretch), (self.endless[name], len(self.inputs))):
            for begin in range(0, len(self.inputs), renew):
                state = None
                end = min(begin + renew, len(self.inputs))
                for first in range(begin, end, piece):
                    where = np.arange(first, min(first + piece, end))
                    bits, bases, state = self._score(model, np.array([first]), len(where), state)
                    tally.add(self._block_of(where), bits[0], bases[0])
                    progress.update(len(where), note=f"{self.run.source} {tally.mean:.4f} bits per {unit}")

    def by_position(self, model: Any, name: str, progress: Progress) -> None:
        """Windows that each start with an empty memory: at the training context, and beyond it."""
        self.positions[name] = _Tally.zeros(self.most)
        for size, starts in self.windows.items():
            batch = max(1, 8192 // size)
            for first in range(0, len(starts), batch):
                bits, bases, _ = self._score(model, starts[first : first + batch], size, None)
                self._add_positions(name, size, bits, bases)
                progress.update(bits.size)

    def _add_positions(self, name: str, size: int, bits: np.ndarray, bases: np.ndarray) -> None:
        """Positions within the training context are read off the short windows, those beyond it off the long ones."""
        where = np.broadcast_to(np.arange(size), bits.shape)
        self.positions[name].add(where, bits, bases * ((where >= self.short) | (size == self.short)))

    def _score(self, model: Any, starts: np.ndarray, length: int, state: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Bits of the successors of ``length`` inputs from each start, the bases they are scored for, both (B, length), and the state."""
        device = next(model.parameters()).device
        window = self.run.windows(starts, length + 1)
        batch = torch.from_numpy(window.astype(np.int64)).to(device)
        if self.config.train.documents == "join":
            logits, state = model(batch[:, :-1], state)
        elif len(batch) == 1:
            logits, state = self._read_documents(model, batch[:, :-1], state)
        else:
            begins = F.pad(batch[:, :-2] == self.run.store.tokenizer.eos, (1, 0), value=True)
            logits = model.packed(batch[:, :-1], begins)
        nll = next_token_nll(logits, batch[:, 1:], torch.from_numpy(self.scores))
        return nll.double().cpu().numpy() / math.log(2), self.scores[window[:, 1:]], state

    def _read_documents(self, model: Any, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Logits of tokens (1, T), every document with a memory of its own: ``state`` is that of the one that goes on.

        The state that comes back is that of the last document, None when it ended.
        """
        ends = (tokens[0] == self.run.store.tokenizer.eos).nonzero()[:, 0] + 1
        if not len(ends):
            return model(tokens, state)
        first, last = int(ends[0]), int(ends[-1])
        logits = [model(tokens[:, :first], state)[0]]
        if last > first:
            within = tokens[:, first:last]
            begins = F.pad(within[:, :-1] == self.run.store.tokenizer.eos, (1, 0), value=True)
            logits.append(model.packed(within, begins))
        state = None
        if last < tokens.shape[1]:
            rest, state = model(tokens[:, last:], None)
            logits.append(rest)
        return torch.cat(logits, dim=1), state

    def _block_of(self, index: Any) -> Any:
        return index // self.block

    # --------------------------------------------------------------------------------------- results

    def resample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Bootstrap over blocks: for each model the resampled sums of bits, and of ``bases``, (RESAMPLES,) each."""
        count = len(self.blocks["markov"].bits)
        times = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
        sums = {name: times @ tally.bits for name, tally in self.blocks.items()}
        return sums | {"bases": times @ self.blocks["markov"].bases}

    def summary(self, resampled: dict[str, np.ndarray]) -> dict[str, Any]:
        """The figures of this source."""
        result = _summarise(self.blocks, self.endless, resampled, self.letters, self.amount)
        result["markov"] |= {
            "order": self.markov_order,
            "smoothing": self.markov_smoothing,
            "validation": [{"order": order, **row} for order, row in sorted(self.markov_table.items())],
        }
        return result | {"context": _by_context(self.positions)}


def _summarise(
    blocks: dict[str, _Tally],
    endless: dict[str, _Tally],
    resampled: dict[str, np.ndarray],
    letters: int,
    amount: Amount | None,
) -> dict[str, Any]:
    """Means and intervals of one source, or of all."""
    bases = int(blocks["markov"].bases.sum())
    drawn = np.maximum(resampled["bases"], 1)

    def per_unit(bits: float) -> dict[str, float]:
        return amount.perplexities(bits * bases) if amount else {}

    def figure(name: str) -> dict[str, Any]:
        bits = blocks[name].mean
        ends = {"ci95": _interval(resampled[name] / drawn)}
        return {"bits_per_base": bits, "perplexity": 2**bits} | ends | per_unit(bits)

    models = {}
    for name in blocks:
        if name != "markov":
            difference = (resampled[name] - resampled["markov"]) / drawn
            models[name] = figure(name) | {
                "difference_to_markov": {
                    "bits_per_base": blocks[name].mean - blocks["markov"].mean,
                    "ci95": _interval(difference),
                },
                "endless": {"bits_per_base": endless[name].mean} | per_unit(endless[name].mean),
            }
            if name != "titans" and "titans" in blocks:
                models[name]["difference_to_titans"] = {
                    "bits_per_base": blocks[name].mean - blocks["titans"].mean,
                    "ci95": _interval((resampled[name] - resampled["titans"]) / drawn),
                }
    return {
        "bases": bases,
        **({"tokens": amount.tokens, "words": amount.words} if amount else {}),
        "uniform": {"bits_per_base": math.log2(letters), "perplexity": float(letters)} | per_unit(math.log2(letters)),
        "markov": figure("markov"),
        "models": models,
    }


def _overall(figures: list[_Figures], resampled: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """All sources together, base by base; blocks are resampled within each source."""

    def joined(pick: Callable[[_Figures], dict[str, _Tally]]) -> dict[str, _Tally]:
        parts = [pick(f) for f in figures]
        return {
            name: _Tally(np.concatenate([p[name].bits for p in parts]), np.concatenate([p[name].bases for p in parts]))
            for name in parts[0]
        }

    def padded(tally: _Tally, size: int) -> _Tally:
        room = (0, size - len(tally.bits))
        return _Tally(np.pad(tally.bits, room), np.pad(tally.bases, room))

    most = max(f.most for f in figures)
    positions = {}
    for name in figures[0].positions:
        parts = [padded(f.positions[name], most) for f in figures]
        positions[name] = _Tally(np.sum([p.bits for p in parts], 0), np.sum([p.bases for p in parts], 0))
    sums = {key: np.sum([r[key] for r in resampled.values()], 0) for key in next(iter(resampled.values()))}
    endless = joined(lambda f: f.endless)
    amounts = [f.amount for f in figures if f.amount]
    amount = Amount(sum(a.tokens for a in amounts), sum(a.words for a in amounts)) if amounts else None
    result = _summarise(joined(lambda f: f.blocks), endless, sums, figures[0].letters, amount)
    return result | {"context": _by_context(positions)}


def _by_context(positions: dict[str, _Tally]) -> list[dict[str, Any]]:
    """Bits per base in half-octave bins of the number of tokens read before, ``from`` and ``to`` included."""
    most = len(positions["markov"].bits)
    ends = np.unique(np.append(2 ** np.arange(0, math.log2(most), 0.5), most).astype(np.int64))
    rows = []
    for before, end in itertools.pairwise([0, *ends.tolist()]):
        bases = int(positions["markov"].bases[before:end].sum())
        if bases:
            bits = {name: float(tally.bits[before:end].sum() / bases) for name, tally in positions.items()}
            rows.append({"from": before + 1, "to": end, "bases": bases, **bits})
    return rows


def _interval(values: np.ndarray) -> list[float]:
    return [float(x) for x in np.quantile(values, [0.025, 0.975])]


def _letters(tokenizer: Tokenizer, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The letters (base codes or bytes) that tokens stand for, and the token that each belongs to; special tokens are one that is none."""
    if tokenizer.plain:
        return tokens, np.arange(len(tokens))
    count = np.maximum(tokenizer.bases[tokens], 1)
    owner = np.repeat(np.arange(len(tokens)), count)
    letters = np.full(len(owner), NO_LETTER, dtype=np.uint16)
    letters[tokenizer.bases[tokens][owner] > 0] = tokenizer.decode(tokens)
    return letters, owner


def _letters_of(store: TokenStore, split: str, source: str | None) -> Callable[[], Iterator[np.ndarray]]:
    """The letters of the runs of a split: of one source, or of all that are trained on."""
    runs = [r for r in store.runs(split, source) if source is not None or store.weight(r.source) > 0]
    return lambda: (_letters(store.tokenizer, piece)[0] for run in runs for piece in run.pieces())
