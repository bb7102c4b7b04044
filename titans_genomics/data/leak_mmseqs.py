"""Near-duplicate sequence on both sides of a split, found by MMseqs2: slower than sketches, and down to lower identity.

Both sides are written as FASTA, in windows that are named by their place in the search's one coordinate, so that what
MMseqs2 aligns is turned back into stretches without tables. Windows overlap, so that a match that counts lies whole in
one of each side; alignments of neighbouring windows are joined again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from titans_genomics.config import LeaksConfig
from titans_genomics.data.leak_sums import Found, Search, fresh_bases
from titans_genomics.data.leaks import Leaks, Stretches
from titans_genomics.data.splits import SPLITS, TRAIN

PREFIX = "leaks-"
"""What the names of temporary folders begin with: a killed process leaves its own."""

_HELD_WINDOW = 2_000  # MMseqs2 gives few alignments of two windows: in short ones rearranged copies are found too
_TRAIN_WINDOW = 50_000  # below the 65,535 bases from which on MMseqs2 cuts sequences itself, without overlap
_OVERLAP = 10_000  # longest overlap of held-out windows, bases; longer matches are joined of shorter alignments
_TOGETHER = 1 << 28  # held-out bases searched at a time
_MANY = 20_000  # of a source of more held-out stretches a sample of so many is judged
_LEAST = 32  # windows of fewer bases are not searched: MMseqs2 fails where no sequence has a k-mer
_SHORTEST = 20  # no alignment is shorter, whatever the stretches
_SEEDS = ((1 << 28, 13), (1 << 63, 15))  # up to so many bases, k: the table of 13-mers has 0.5 GB, that of 15-mers 8 GB
_SLACK = 100  # alignments of neighbouring windows that are joined lie on diagonals at most this far apart, bases
_BLOCK = 1 << 25  # bytes of alignments that are read together
_COLUMNS = ("query", "target", "qstart", "qend", "tstart", "tend", "fident", "alnlen")
_LETTERS = np.frombuffer(b"ACGT" + b"N" * 252, dtype=np.uint8)


def find_program() -> tuple[str, str]:
    """Path and version of MMseqs2.

    Raises
    ------
    ValueError
        It is not installed, or does not run.
    """
    remedy = "Install it (`conda install -c bioconda mmseqs2` or `apt install mmseqs2`), or set data.split.leaks.tool to sketch"
    program = shutil.which("mmseqs")
    if program is None:
        raise ValueError(f"data.split.leaks.tool is mmseqs2, but there is no program mmseqs on PATH. {remedy}")
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, errors="replace", check=False)
        failed = _one_line(done.stderr or done.stdout) if done.returncode else ""
    except OSError as error:
        failed = str(error)
    if failed:
        raise ValueError(f"data.split.leaks.tool is mmseqs2, but {program} does not run ({failed}). {remedy}")
    return program, done.stdout.strip()


def find_leaks(
    stretches: Stretches, config: LeaksConfig, folder: Path, advance: Callable[[int], object] = lambda bases: None
) -> Leaks:
    """What of the validation and test stretches stands in train, in alignments of at least ``config.min_identity``.

    A match counts from ``config.min_length`` bases on, or from half the shorter of its two stretches where that is
    less. Of a source of very many held-out stretches (reads) a fixed sample is judged.

    Parameters
    ----------
    stretches
        All stretches of the run.
    config
        What counts.
    folder
        Where a temporary folder is made, of some bytes per base.
    advance
        Called with the bases just searched; all calls add up to about the bases of all stretches.

    Raises
    ------
    ValueError
        MMseqs2 is not installed, or fails.
    """
    return _Alignments(stretches, config, folder, advance).leaks(stretches.split)


def resolve(
    stretches: Stretches, config: LeaksConfig, folder: Path, advance: Callable[[int], object] = lambda bases: None
) -> tuple[np.ndarray, Leaks, np.ndarray]:
    """Move held-out stretches to train until of none more than ``max_share`` stands there.

    Each round searches only in what the round before it moved. Nothing may be left to hold out. Arguments and errors
    are those of ``find_leaks``.

    Returns
    -------
    tuple
        The new splits (int8, shape (stretches,)), what is still found with them, and the sorted numbers of all
        stretches that were moved.
    """
    return _Alignments(stretches, config, folder, advance).settled()


class _Rows(NamedTuple):
    """Alignments as columns: int64 stretches (sorted) and places in the one coordinate, bool, and float64 (0 to 1)."""

    held: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    train: np.ndarray
    train_start: np.ndarray
    train_stop: np.ndarray
    minus: np.ndarray
    identity: np.ndarray

    def take(self, chosen: np.ndarray) -> _Rows:
        return _Rows(*(column[chosen] for column in self))


class _Alignments(Search):
    """The alignments of the held-out side with train."""

    def __init__(
        self, stretches: Stretches, config: LeaksConfig, folder: Path, advance: Callable[[int], object]
    ) -> None:
        super().__init__(stretches, config)
        self.program, self.version = find_program()
        self.folder = folder
        self.k = next(k for most, k in _SEEDS if int(self.length.sum()) < most)
        train = self.sorted_split(stretches.split) == TRAIN
        self.scale = np.ones(len(stretches.sources), dtype=np.int64)
        count = np.bincount(self.source[~train], minlength=len(self.scale))
        share = np.minimum(_MANY / np.maximum(count, 1), 1.0)
        self.judged = ~train & (np.random.default_rng(0).random(len(train)) < share[self.source])
        self.rows: list[_Rows] = []
        self._search(self.judged, train, advance)

    def turn_to_train(self, numbers: np.ndarray) -> None:
        chosen = np.zeros(len(self.order), dtype=bool)
        chosen[numbers] = True
        chosen = chosen[self.order]
        self.judged &= ~chosen
        self._search(self.judged, chosen, lambda bases: None)

    def leaks(self, split: np.ndarray) -> Leaks:
        split = self.sorted_split(split)
        found = Found(len(split), int(self.offsets[-1]), self.contigs(split))
        if self.rows:
            rows = _Rows(*(np.concatenate(column) for column in zip(*self.rows, strict=True)))
            rows = rows.take(split[rows.held] != TRAIN)
            group = self.source[rows.held] * len(SPLITS) + split[rows.held]
            found.add(group=group, train_source=self.source[rows.train], **rows._asdict())
        return self.summary(split, found, "mmseqs2", self.version, self.k)

    def _search(self, held: np.ndarray, train: np.ndarray, advance: Callable[[int], object]) -> None:
        """Add what is found of these held-out stretches in these of train (both bool)."""
        with TemporaryDirectory(prefix=PREFIX, dir=self.folder, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            overlap = min(self.config.min_length, _OVERLAP)
            window = max(_HELD_WINDOW, 4 * overlap)
            written = self._write(folder / "train.fa", np.flatnonzero(train), _TRAIN_WINDOW, 2 * overlap, advance)
            for chosen in self._batches(np.flatnonzero(held)):
                bases = int(self.length[chosen].sum())
                if written and self._write(folder / "held.fa", chosen, window, overlap, lambda bases: None):
                    shortest = int(min(self.length[held].min(), self.length[train].min())) // 2
                    self._run(folder, max(min(overlap, shortest), _SHORTEST))
                    self._read(folder / "found.tsv")
                advance(bases)

    def _batches(self, held: np.ndarray) -> Sequence[np.ndarray]:
        number = np.cumsum(self.length[held]) // _TOGETHER
        return [own for own in np.split(held, np.flatnonzero(np.diff(number)) + 1) if len(own)]

    def _write(
        self, path: Path, chosen: np.ndarray, window: int, overlap: int, advance: Callable[[int], object]
    ) -> bool:
        """FASTA of the windows of these stretches, each named by its place. False if there is nothing to search."""
        some = False
        with path.open("wb") as handle:
            for stretch in chosen.tolist():
                begin, end = int(self.begin[stretch]), int(self.end[stretch])
                source = int(self.source[stretch])
                codes, offset = self.stretches.codes[source], int(self.offsets[source])
                at = begin
                while at < end:
                    stop = min(at + window, end)
                    own = codes[at - offset : stop - offset]
                    if np.count_nonzero(own < 4) >= _LEAST:
                        handle.write(b">%d\n" % at + _LETTERS[own].tobytes() + b"\n")
                        some = True
                    if stop == end:
                        break
                    at += window - overlap
                advance(end - begin)
        return some

    def _run(self, folder: Path, shortest: int) -> None:
        command = [
            *(self.program, "easy-search", "held.fa", "train.fa", "found.tsv", "work"),
            *("--search-type", "3", "--strand", "2", "-k", str(self.k)),
            *("--min-seq-id", str(self.config.min_identity), "--min-aln-len", str(shortest)),
            *("--threads", str(len(os.sched_getaffinity(0))), "-v", "1", "--format-output", ",".join(_COLUMNS)),
        ]
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise ValueError(
                f"data.split.leaks.tool mmseqs2: {self.program} ended with status {done.returncode} "
                f"({_one_line(done.stdout)}). Is there room in memory and on disk? Otherwise set data.split.leaks.tool to sketch"
            )

    def _read(self, path: Path) -> None:
        for values in _blocks(path):
            start, stop = np.sort([values["qstart"], values["qend"]], axis=0)
            train_start, train_stop = np.sort([values["tstart"], values["tend"]], axis=0)
            held = np.searchsorted(self.begin, values["query"], side="right") - 1
            train = np.searchsorted(self.begin, values["target"], side="right") - 1
            rows = _joined(
                _Rows(
                    held=held,
                    start=values["query"] + start - 1,  # theirs are 1-based and inclusive
                    stop=values["query"] + stop,
                    train=train,
                    train_start=values["target"] + train_start - 1,
                    train_stop=values["target"] + train_stop,
                    minus=(values["qstart"] > values["qend"]) != (values["tstart"] > values["tend"]),
                    identity=values["fident"],
                )
            )
            rows = rows.take(rows.stop - rows.start >= self.needed(rows.held, rows.train))
            apart = self.source[rows.train] * (int(self.offsets[-1]) + 1)
            self.rows.append(rows.take(fresh_bases(rows.start + apart, rows.stop + apart) > 0))


def _blocks(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """Columns of a file of alignments, some tens of megabytes at a time."""
    import pyarrow as pa
    from pyarrow import csv

    if path.stat().st_size == 0:
        return
    types = {name: pa.float64() if name == "fident" else pa.int64() for name in _COLUMNS}
    with csv.open_csv(
        path,
        csv.ReadOptions(column_names=_COLUMNS, block_size=_BLOCK),
        csv.ParseOptions(delimiter="\t"),
        csv.ConvertOptions(column_types=types),
    ) as reader:
        for batch in reader:
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in _COLUMNS}


def _joined(rows: _Rows) -> _Rows:
    """The alignments, those joined of which one goes on where others, of the windows before, end."""
    if not len(rows.held):
        return rows
    rows = rows.take(np.lexsort((rows.start, rows.minus, rows.train, rows.held)))
    first = np.where(rows.minus, rows.train_stop + rows.start, rows.train_start - rows.start)
    last = np.where(rows.minus, rows.train_start + rows.stop, rows.train_stop - rows.stop)
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in (rows.held, rows.train, rows.minus)])
    apart = np.concatenate([[0], np.cumsum(~same)]) * (int(rows.stop.max()) + 1)
    reached = (
        np.maximum.accumulate(rows.stop + apart) - apart
    )  # the one before may be cut by its train window, and lie in an earlier one
    goes_on = same & (rows.start[1:] <= reached[:-1]) & (np.abs(first[1:] - last[:-1]) <= _SLACK)
    at = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    length = rows.stop - rows.start
    return _Rows(
        held=rows.held[at],
        start=rows.start[at],
        stop=np.maximum.reduceat(rows.stop, at),
        train=rows.train[at],
        train_start=np.minimum.reduceat(rows.train_start, at),
        train_stop=np.maximum.reduceat(rows.train_stop, at),
        minus=rows.minus[at],
        identity=np.add.reduceat(rows.identity * length, at) / np.add.reduceat(length, at),
    )


def _one_line(text: str) -> str:
    """What a program said, its last lines as one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-4:])[-400:] or "it said nothing"
