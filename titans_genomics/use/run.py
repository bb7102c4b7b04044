"""A trained model in Python: `titans_genomics.load(RUN)`, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.models.state import State
from titans_genomics.tasks.sequences import Strands
from titans_genomics.training import next_token_nll, scored_bases
from titans_genomics.use.generate import usual_batch
from titans_genomics.use.memorize import How, memorize
from titans_genomics.use.reader import PIECE, Reader, open_run, usual_stretch
from titans_genomics.use.sampling import Sampling
from titans_genomics.use.sampling import stream as generated

Text = str | bytes | np.ndarray
"""A sequence: letters, or base codes uint8 (bases,), A=0 C=1 G=2 T=3 N=4."""


@dataclass(frozen=True)
class Piece:
    """What a model says of the next bases of a sequence.

    Attributes
    ----------
    start : int
        The first base, 0-based in the sequence.
    bits : np.ndarray
        float64, (bases,): -log2 of the probability of each base given those before it; NaN where it is not scored (N).
        The first base of the sequence counts as one of four equal letters. Bases of one token share its bits evenly; those of
        an overlapping k-mer stand at the base it begins with.
    state : State
        What the model remembers after the piece.
    """

    start: int
    bits: np.ndarray
    state: State


def load(
    run: str | Path, model: str = "titans", memory: str | Path | None = None, device: str | None = None
) -> TrainedModel:
    """A trained model of a run.

    Parameters
    ----------
    run : path
        results/RUN, or the folder of a model itself (results/RUN/train/NAME).
    model : str
        Its name in the run's config.
    memory : path, optional
        What `TrainedModel.memorize` wrote: every reading begins with it.
    device : str, optional
        "cpu" or "cuda"; default: the GPU where there is one.

    Raises
    ------
    FileNotFoundError, ValueError
        See `titans_genomics.use.reader.open_run`.

    Examples
    --------
    >>> import titans_genomics
    >>> model = titans_genomics.load("results/default")  # doctest: +SKIP
    >>> model.score(["ACGTACGT"])  # doctest: +SKIP
    """
    return TrainedModel(open_run(run, model, memory, device))


class TrainedModel:
    """A trained model, and what it can be asked.

    ``stretch`` in the methods: tokens after which the memory begins anew. None: as the run's evaluation had it; 0: never.

    Attributes
    ----------
    reader : Reader
        The model itself, its tokenizer, and the memory that readings begin with; what the functions of `titans_genomics.use` take.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __repr__(self) -> str:
        parameters = self.reader.model.parameter_count()
        memory = "" if self.reader.memory is None else f", in the light of {self.reader.memory['bases']:,} bases"
        return f"<{self.reader.name} of {self.reader.folder}, {parameters:,} parameters{memory}>"

    def stream(self, sequence: Text, stretch: int | None = None, piece: int = PIECE) -> Iterator[Piece]:
        """Read a sequence of any length, ``piece`` tokens at a time; memory use does not grow.

        Each token is read once, and its bits are those that the reading before it gives it, as in the run's evaluation.

        Raises
        ------
        ValueError
            An empty sequence, a letter that is no nucleotide, a stretch below 0 or a piece below 1.
        """
        reader = self.reader
        stretch = usual_stretch(reader, stretch)
        if piece < 1:
            raise ValueError(f"piece {piece}: must be 1 token or more")
        codes = reader.codes(sequence)
        if not len(codes):
            raise ValueError("the sequence is empty")
        tokens = reader.tokenizer.encode(codes)
        return self._pieces(tokens, stretch or len(tokens), piece)

    def _pieces(self, tokens: np.ndarray, stretch: int, piece: int) -> Iterator[Piece]:
        """`stream` of tokens (tokens,)."""
        reader = self.reader
        weights = scored_bases(reader.tokenizer)
        count = reader.tokenizer.bases
        first_base, before = 0, None  # logits (1, 1, V) of the token that comes next
        edges = sorted({*range(0, len(tokens), piece), *range(0, len(tokens), stretch), len(tokens)})
        state: State | None = None
        for first, last in pairwise(edges):
            if first % stretch == 0:
                state = reader.state(1)
            own = torch.from_numpy(tokens[None, first:last].astype(np.int64))
            with torch.inference_mode():
                logits, state = reader.model(own.to(reader.device), state)
                logits = logits.cpu()
                known = logits[:, :-1] if before is None else torch.cat([before, logits[:, :-1]], 1)
                nll = next_token_nll(known, own[:, 1:] if before is None else own, weights)[0].double().numpy()
            before = logits[:, -1:]
            sizes = count[tokens[first:last]]
            shared = nll / math.log(2) / np.maximum(sizes[len(sizes) - len(nll) :], 1)
            if first == 0:
                shared = np.concatenate([[8.0 if reader.tokenizer.text else 2.0], shared])
            shared[~reader.tokenizer.scored[tokens[first:last]]] = np.nan
            bits = np.repeat(shared, sizes)
            yield Piece(first_base, bits, state)
            first_base += len(bits)

    def bits(self, sequence: Text, stretch: int | None = None) -> np.ndarray:
        """Bits of every base, float64 (bases,); NaN where it is not scored. See `stream`."""
        return np.concatenate([piece.bits for piece in self.stream(sequence, stretch)])

    def score(self, sequences: Sequence[Text], strands: Strands = "both", stretch: int | None = None) -> np.ndarray:
        """Log-likelihood of sequences, nats: float64, shape (sequences,).

        The sum over the scored bases; "both": the mean over the sequence and its reverse complement.

        Raises
        ------
        ValueError
            As `stream`; both strands are asked for of text.
        """
        from titans_genomics.tasks.likelihood import log_likelihood

        stretch, codes = usual_stretch(self.reader, stretch), self._codes(sequences)
        short = [i for i, own in enumerate(codes) if not stretch or len(own) <= stretch]
        found = np.empty(len(codes))
        if self.reader.tokenizer.text and strands == "both":
            raise ValueError("text has no other strand: take strands 'given'")
        found[short] = log_likelihood(_Begun(self.reader), self.reader.tokenizer, [codes[i] for i in short], strands)
        for i in sorted(set(range(len(codes))) - set(short)):
            views = [codes[i], reverse_complement(codes[i])] if strands == "both" else [codes[i]]
            found[i] = -math.log(2) * np.mean([np.nansum(self.bits(view, stretch)) for view in views])
        return found

    def embed(
        self,
        sequences: Sequence[Text],
        layer: int | None = None,
        pooling: Literal["mean", "last"] = "mean",
        strands: Strands = "both",
        stretch: int | None = None,
    ) -> np.ndarray:
        """One vector per sequence: float32, shape (sequences, D). Layer 0 is the embedding of the tokens; None: the last block.

        Raises ValueError for an empty sequence, a layer that the model has not, a model of text.
        """
        from titans_genomics.use.embed import vectors

        codes = self._codes(sequences)
        layers = None if layer is None else [layer]
        found = vectors(self.reader, codes, layers=layers, pooling=pooling, strands=strands, stretch=stretch)
        assert isinstance(found, dict)
        return next(iter(found.values()))

    def generate(
        self,
        length: int,
        prompt: Text = "",
        count: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stretch: int | None = None,
    ) -> list[str]:
        """``count`` sequences of ``length`` new bases, letters A C G T, without the prompt.

        Raises ValueError for settings out of range, and for a prompt that cannot be gone on with.
        """
        if count < 1:
            raise ValueError(f"count {count}: must be 1 or more")
        how = Sampling(temperature, top_k, top_p, seed)
        prompts = [self.reader.codes(prompt)] * count
        rows: list[list[np.ndarray]] = [[] for _ in range(count)]
        most = usual_batch(self.reader)
        for first in range(0, count, most):
            numbers = range(first, min(first + most, count))
            for pieces in generated(self.reader, [prompts[n] for n in numbers], length, how, stretch, numbers):
                for n, own in zip(numbers, pieces, strict=True):
                    rows[n].append(own)
        return [decode(np.concatenate(row)) for row in rows]

    def memorize(
        self,
        fasta: str | Path | Sequence[str | Path],
        out: str | Path,
        how: How = "mean",
        stretch: int | None = None,
        strands: Strands = "both",
    ) -> TrainedModel:
        """Read genomes, save what is remembered of them to ``out``, and give the model that begins with it.

        See `titans_genomics.use.memorize.memorize` for parameters and errors.
        """
        memorize(self.reader, fasta, out, how, stretch, strands)
        return load(self.reader.folder, memory=out, device=str(self.reader.device))

    def _codes(self, sequences: Sequence[Text]) -> list[np.ndarray]:
        """Codes of each sequence, (bases,). Raises ValueError for one that is empty, or is no sequence."""
        if isinstance(sequences, str | bytes):
            raise ValueError("this is one sequence where a list of them is wanted: write [sequence]")
        codes = [self.reader.codes(sequence) for sequence in sequences]
        for i, own in enumerate(codes):
            if not len(own):
                raise ValueError(f"sequence {i} is empty")
        return codes


class _Begun:
    """The model as a function of tokens alone whose readings begin with the reader's memory."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.parameters = reader, reader.model.parameters

    def __call__(self, tokens: torch.Tensor, state: State | None) -> Any:
        return self.reader.model(tokens, self.reader.state(len(tokens)) if state is None else state)
