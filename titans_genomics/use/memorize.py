"""A genome read once: what a model remembers of it is saved, and later readings begin with it.

Two ways of reading. "last": from the first base to the last, the memory carried on without end; what is saved is the state
after it. "mean": in stretches of the length that the model was trained on, each from the learned beginning; what is saved is
the mean of the memories after them, one step of Reptile (arXiv 1803.02999) on the learned beginning. A model that was trained
on short windows forgets next to nothing and drifts when it reads on, so that "mean" is the default (docs/using.md).
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from titans_genomics import __version__
from titans_genomics.data import alphabet
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.files import file_sha256, replacing
from titans_genomics.models.state import State, map_leaves, save_state, share
from titans_genomics.progress import Progress
from titans_genomics.tasks.sequences import Strands, advance, token_budget
from titans_genomics.training import next_token_nll, scored_bases
from titans_genomics.use.output import check_out
from titans_genomics.use.reader import MEMORY_KEY, PIECE, Reader
from titans_genomics.use.records import read_sequences

How = Literal["mean", "last"]

STRETCH = 1024
"""Tokens of a stretch where the run says nothing."""

_UNSCORED = "{}: holds no base A C G T behind its first, so nothing can be scored"

# Leaves of a state that hold a long-term memory: of the Titans memories, of MAC's open segment, of the recurrent models.
_MEMORY = re.compile(r"blocks\.\d+\.(memory|(memory\.)+(weights|anchor)\.\d+|segment_weights\.\d+)")


def memorize(
    reader: Reader,
    fasta: str | Path | Sequence[str | Path],
    out: str | Path,
    how: How = "mean",
    stretch: int | None = None,
    strands: Strands = "both",
    test: str | Path | None = None,
) -> dict[str, Any]:
    """Read genomes and save what the model remembers of them, for `open_run(..., memory=OUT)`.

    Parameters
    ----------
    reader : Reader
        Begins with `reader.start` where that is given, so that a memory can be added to.
    fasta : path or sequence of paths
        What is read, in this order: FASTA, GenBank, 2bit, FASTQ, BAM.
    out : path
        The memory, a safetensors file; written whole or not at all.
    how : "mean" or "last"
        The mean of the memories after every stretch, or the memory after the last base. "last" reads an EOS token behind every
        record, as training did.
    stretch : int, optional
        "mean": tokens of a stretch; default: the run's, or `STRETCH`. A shorter record is a stretch of its own, with less weight;
        a stretch of nothing but N is passed over.
    strands : "both" or "given"
        "both": also the other strand of every record.
    test : path, optional
        Another genome: its bits per base with and without the memory are measured too (`compare`).

    Returns
    -------
    dict
        What was read (``read``: path, sha256, records, bases of each file), ``bases``, ``how``, ``stretch``, ``strands``,
        ``change`` (norm of the memory's change relative to that of its beginning, by block), ``seconds``; ``test`` where given.

    Raises
    ------
    FileNotFoundError, ValueError
        Files that cannot be read or hold no base; a model without a long-term memory, or of text; a memory that is not finite.
    """
    reader.nucleotides("memorize")
    if how not in ("mean", "last"):
        raise ValueError(f"how {how!r}: must be mean or last")
    if strands not in ("both", "given"):
        raise ValueError(f"strands {strands!r}: must be both or given")
    if stretch is not None and stretch < 1:
        raise ValueError(f"stretch {stretch}: must be 1 token or more")
    begin = reader.start or reader.model.begin(1)
    if not any(_MEMORY.fullmatch(name) for name, _ in begin.leaves()):
        raise ValueError(
            f"{reader.folder}: the model {reader.name!r} has attention alone, and no memory that could be saved. "
            "Take one with a memory (--name titans)"
        )
    paths = [Path(fasta)] if isinstance(fasta, str | Path) else [Path(path) for path in fasta]
    for path in (*paths, *([Path(test)] if test is not None else [])):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    for path in paths:
        read_sequences(reader, path)  # what is wrong at a glance is said before the first is read through
    out = check_out(out, [*paths, test], "memory.safetensors")
    if test is not None:
        _check_scored(reader, test)
    size = stretch or reader.stretch or STRETCH
    found: list[dict[str, Any]] = []
    started = time.monotonic()
    torch.set_flush_denormal(True)
    with Progress(None, "tokens", "memorizing") as progress, torch.inference_mode():
        tokens = _rows(reader, paths, strands, found)
        state = _last(reader, tokens, progress) if how == "last" else _mean(reader, tokens, size, progress)
    if state is None:
        raise ValueError(f"{', '.join(map(str, paths))}: no base A C G T to read")
    _finite(state, how)
    about: dict[str, Any] = {
        "read": found,
        "bases": sum(file["bases"] for file in found),
        "how": how,
        "stretch": size if how == "mean" else None,
        "strands": strands,
        "change": _change(reader.model.begin(1).detach(), state.detach()),
    }
    header = {"model": reader.sha256, "folder": str(reader.folder), "name": reader.name, "version": __version__}
    _save(state, out, header | about)
    about = {"out": str(out), **about, "seconds": round(time.monotonic() - started, 3)}
    if test is not None:
        about["test"] = compare(reader, state, test, stretch)
    return about


def compare(
    reader: Reader, memory: State, fasta: str | Path, stretch: int | None = None, seed: int = 1
) -> dict[str, Any]:
    """Bits per base of a genome read with a memory and without.

    Both readings begin anew after every ``stretch`` tokens (None: the run's, or `STRETCH`), the one with ``memory``, the
    other as ``reader`` does. The strand given is read.

    Returns
    -------
    dict
        ``path``, ``bases`` (scored), ``stretch``, ``without`` and ``with`` (bits per base), ``gain`` (without - with) and
        ``gain_ci95``, a paired bootstrap over stretches (1,000 draws from ``seed``).

    Raises
    ------
    FileNotFoundError, ValueError
        The file cannot be read, or holds nothing that is scored.
    """
    size = stretch or reader.stretch or STRETCH
    bits: list[list[np.ndarray]] = [[], []]
    bases: list[np.ndarray] = []
    scored = scored_bases(reader.tokenizer).to(reader.device)
    with Progress(None, "tokens", f"comparing on {Path(fasta).name}") as progress, torch.inference_mode():
        rows = _rows(reader, [Path(fasta)])
        for batch in _batches(rows, size, 1, token_budget(reader.device), reader.tokenizer.scored):
            tokens = torch.from_numpy(batch.astype(np.int64)).to(reader.device)
            for own, begun in zip(bits, (reader, replace(reader, start=memory)), strict=True):
                own.append(_nll(reader.model, tokens, begun.state(len(batch)), scored) / math.log(2))
            bases.append(scored[tokens[:, 1:]].sum(1).cpu().numpy())
            progress.update(batch.size)
    weight = np.concatenate(bases) if bases else np.zeros(0)
    if not weight.sum():
        raise ValueError(_UNSCORED.format(fasta))
    without, having = (np.concatenate(own) for own in bits)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(weight), np.full(len(weight), 1 / len(weight)), size=1000)
    covered = drawn @ weight
    gains = (drawn @ (without - having))[covered > 0] / covered[covered > 0]
    return {
        "path": str(fasta),
        "bases": int(weight.sum()),
        "stretch": size,
        "without": float(without.sum() / weight.sum()),
        "with": float(having.sum() / weight.sum()),
        "gain": float((without - having).sum() / weight.sum()),
        "gain_ci95": [float(edge) for edge in np.quantile(gains, [0.025, 0.975])],
    }


# --------------------------------------------------------------------------------------------- reading


def _rows(
    reader: Reader, paths: Iterable[Path], strands: Strands = "given", found: list[dict[str, Any]] | None = None
) -> Iterator[np.ndarray]:
    """Tokens of each record, (tokens,), and of its other strand; ``found`` is filled with what each file held."""
    for path in paths:
        own = {"path": str(path), "records": 0, "bases": 0}
        if found is not None:
            own["sha256"] = file_sha256(path)  # another reading of the whole file
            found.append(own)
        for record in read_sequences(reader, path)[0]:
            if not (record.codes < alphabet.N).any():
                continue
            own["records"] += 1
            own["bases"] += len(record.codes)
            yield reader.tokenizer.encode(record.codes)
            if strands == "both":
                yield reader.tokenizer.encode(reverse_complement(record.codes))


def _check_scored(reader: Reader, fasta: str | Path) -> None:
    """Raise ValueError where nothing of a file can be scored; it is read no further than the first that can."""
    if not any(reader.tokenizer.scored[row[1:]].any() for row in _rows(reader, [Path(fasta)])):
        raise ValueError(_UNSCORED.format(fasta))


def _batches(
    rows: Iterable[np.ndarray], size: int, overlap: int, budget: int, scored: np.ndarray
) -> Iterator[np.ndarray]:
    """Windows of ``size + overlap`` tokens, (B, tokens), a new one every ``size`` tokens of each row; the rest of a row is alone.

    What holds no scored token behind the first ``overlap`` is left out.
    """
    most = max(1, budget // size)
    waiting: list[np.ndarray] = []
    for row in rows:
        for first in range(0, len(row), size):
            window = row[first : first + size + overlap]
            if not scored[window[overlap:]].any():
                continue
            if len(window) == size + overlap:
                waiting.append(window)
                if len(waiting) == most:
                    yield np.stack(waiting)
                    waiting = []
            else:
                yield window[None]
    if waiting:
        yield np.stack(waiting)


def _last(reader: Reader, rows: Iterable[np.ndarray], progress: Progress) -> State | None:
    """The state after all rows, an EOS token behind each; None: there are none."""
    state, read = reader.state(1), False
    for row in rows:
        tokens = torch.from_numpy(np.append(row, reader.tokenizer.eos).astype(np.int64))[None]
        for piece in tokens.split(PIECE, dim=1):
            _, state = reader.model.embed(piece.to(reader.device), state)
            progress.update(piece.shape[1])
        read = True
    return state if read else None


def _mean(reader: Reader, rows: Iterable[np.ndarray], size: int, progress: Progress) -> State | None:
    """The beginning, its memory the mean of those after every stretch, by tokens; None: there are none."""
    sums: dict[str, Tensor] = {}
    read = 0
    for batch in _batches(rows, size, 0, token_budget(reader.device), reader.tokenizer.scored):
        _, state = advance(reader.model, batch, reader.state(len(batch)), PIECE)
        for name, leaf in state.leaves():
            if _MEMORY.fullmatch(name) and not _is_anchor(name):
                assert isinstance(leaf, Tensor)
                own = leaf.double().sum(0, keepdim=True) * batch.shape[1]
                sums[name] = sums[name] + own if name in sums else own
        read += batch.size
        progress.update(batch.size)
    if not read:
        return None

    def averaged(name: str, leaf: Tensor | int) -> Tensor | int:
        """The beginning with the mean memory: also where the next chunk or segment looks for it."""
        same = name.replace(".anchor.", ".weights.").replace(".segment_weights.", ".memory.memory.weights.")
        return (sums[same] / read).to(leaf.dtype) if same in sums and isinstance(leaf, Tensor) else leaf

    # everything but the memory begins as the learned beginning does: no surprise, no open chunk, nothing attended to
    return map_leaves(averaged, reader.model.begin(1))


def _is_anchor(name: str) -> bool:
    """Whether a leaf repeats another at an earlier time: the weights that an open chunk or segment began with."""
    return ".anchor." in name or ".segment_weights." in name


def _nll(model: Any, tokens: Tensor, state: State | None, scored: Tensor) -> np.ndarray:
    """Nats of every row of tokens (B, T) behind its first, float64, (B,)."""
    total = np.zeros(len(tokens))
    for first in range(0, tokens.shape[1] - 1, PIECE):
        piece = tokens[:, first : first + PIECE + 1]
        logits, state = model(piece[:, :-1], state)
        total += next_token_nll(logits, piece[:, 1:], scored).double().sum(1).cpu().numpy()
    return total


# ---------------------------------------------------------------------------------------------- saving


def _finite(state: State, how: str) -> None:
    """Raise ValueError when the memory ran over."""
    for name, leaf in state.leaves():
        if isinstance(leaf, Tensor) and not leaf.isfinite().all():
            remedy = "read it with how 'mean'" if how == "last" else "give a shorter stretch"
            raise ValueError(f"the memory became NaN or infinite while it was read ({name}); {remedy}")


def _change(before: State, after: State) -> list[float]:
    """|M - M_0| / |M_0| of each block's memory; of memories that begin as zero, |M|."""
    values = dict(after.leaves())
    sums: dict[int, list[float]] = {}
    for name, leaf in before.leaves():
        if _MEMORY.fullmatch(name) and not _is_anchor(name):
            own = sums.setdefault(int(name.split(".")[1]), [0.0, 0.0])
            own[0] += float((values[name] - leaf).double().square().sum())
            own[1] += float(leaf.double().square().sum())
    return [math.sqrt(moved / (began or 1.0)) for moved, began in sums.values()]


def _save(state: State, path: Path, about: dict[str, Any]) -> None:
    """A state as `save_state` writes it, with ``about`` in its header too."""
    with replacing(path) as whole:
        try:
            save_state(state, whole)
            with safe_open(whole, "pt") as file:
                header = file.metadata() | {MEMORY_KEY: json.dumps(about)}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            whole.unlink()  # its tensors may be mapped from the file
            save_file(tensors, whole, header)
            share(whole)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None
