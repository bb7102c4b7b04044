"""What labelled sequences are, from what stands in their columns: base codes, classes and targets."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.compute as pc

from titans_genomics.config import DatasetConfig
from titans_genomics.config_downstream import METRICS
from titans_genomics.data.alphabet import IUPAC, N, encode
from titans_genomics.data.labelled.columns import Rows, as_numbers, as_text, letters
from titans_genomics.data.splits import SPLITS, TRAIN

_KEY = "downstream.datasets[]"
_LETTERS = "ACGTUN" + "".join(IUPAC)
_VALID = np.isin(np.arange(256), np.frombuffer((_LETTERS + _LETTERS.lower()).encode(), dtype=np.uint8))
_INTEGER = re.compile(r"[+-]?\d+(\.0*)?")


def read_codes(rows: Rows, settings: DatasetConfig) -> tuple[np.ndarray, np.ndarray, float]:
    """The sequences as base codes.

    Returns
    -------
    codes : numpy.ndarray
        uint8: of all sequences one after the other; IUPAC codes other than A C G T U N are N.
    offsets : numpy.ndarray
        int64 (n + 1).
    ambiguous : float
        Share of N in them.

    Raises
    ------
    ValueError
        Letters that are no nucleotide codes, or a larger share of ambiguous ones than ``max_ambiguous``.
    """
    raw, offsets = letters(rows.sequences)
    bad = np.flatnonzero(~_VALID[raw])
    if len(bad):
        row = int(np.searchsorted(offsets, bad[0], side="right")) - 1
        at = int(bad[0] - offsets[row])
        letter = rows.sequences[row].as_py()[at:].decode(errors="replace")[0]
        sequences = len(np.unique(np.searchsorted(offsets, bad, side="right")))
        raise ValueError(
            f"{rows.where(row)}: letter {at + 1} of the sequence is {letter!r}, no nucleotide (A C G T U N or an IUPAC code); "
            f"{len(bad):,} such letters in {sequences:,} sequences. Correct or remove them; write N for an unknown base"
        )
    codes = encode(raw.tobytes())
    unknown = codes == N
    share = float(unknown.mean())
    if share > settings.max_ambiguous:
        counts = np.add.reduceat(unknown, offsets[:-1], dtype=np.int64)
        most = int(counts.argmax())
        raise ValueError(
            f"{settings.path}: {unknown.sum():,} of {len(codes):,} letters ({share:.1%}) are not A, C, G or T, more than {_KEY}.max_ambiguous allows "
            f"({settings.max_ambiguous:g}); {rows.where(most)} has most, {counts[most]:,}. Raise the limit, or remove such sequences"
        )
    return codes, offsets, share


# --------------------------------------------------------------------------------------------- targets


def read_targets(rows: Rows, settings: DatasetConfig) -> tuple[str, tuple[str, ...], np.ndarray]:
    """The task, the names of the outputs, and the targets.

    Returns
    -------
    task : str
        "classification", "multilabel" or "regression".
    classes : tuple of str
        Names of the classes: sorted, by number when all are whole numbers. Of the other tasks the label columns.
    targets : numpy.ndarray
        int64 (n,), the class; or float32 (n, outputs).

    Raises
    ------
    ValueError
        Values that do not go with the task, classes that train lacks, a label that is the same for all of train, a metric
        of another task.
    """
    task = settings.task if settings.task != "auto" else _guess(rows, settings)
    if settings.metric is not None and settings.metric not in METRICS[task]:
        said = "" if settings.task == task else f" (found by its labels; {_KEY}.task overrides it)"
        raise ValueError(
            f"{settings.path}: {_KEY}.metric is {settings.metric}, which does not fit the task {task}{said}. Choose one of {', '.join(METRICS[task])}"
        )
    if task == "classification":
        return task, *_classes(rows, settings)
    return task, settings.label_columns, _values(rows, settings, task)


def _guess(rows: Rows, settings: DatasetConfig) -> str:
    if len(rows.labels) > 1:
        return "multilabel"
    if any(sheet.label is not None for sheet in rows.sheets):
        return "classification"
    numbers = as_numbers(rows.labels[0])
    return "regression" if isinstance(numbers, np.ndarray) and (numbers != np.rint(numbers)).any() else "classification"


def _classes(rows: Rows, settings: DatasetConfig) -> tuple[tuple[str, ...], np.ndarray]:
    encoded = pc.dictionary_encode(as_text(rows.labels[0]))
    names = encoded.dictionary.to_pylist()
    if all(_INTEGER.fullmatch(name) for name in names):
        if any("." in name for name in names):  # whole numbers that a table keeps with decimals
            names = [str(int(float(name))) for name in names]
        classes = sorted(set(names), key=lambda name: (int(name), name))
    else:
        classes = sorted(names)
    number = {name: index for index, name in enumerate(classes)}
    targets = np.array([number[name] for name in names], dtype=np.int64)[encoded.indices.to_numpy()]
    for row in _first_rows(targets, len(classes)):
        if not ((targets == targets[row]) & (rows.split == TRAIN)).any():
            raise ValueError(
                f"{rows.where(row)}: the label {classes[targets[row]]!r} stands in {SPLITS[rows.split[row]]} but not in train. "
                "Correct it, or add training sequences of that class"
            )
    if len(classes) < 2:
        raise ValueError(
            f"{settings.path}: every label is {classes[0]!r}; two classes are needed. Name the right column in {_KEY}.label"
        )
    return tuple(classes), targets


def _first_rows(targets: np.ndarray, classes: int) -> list[int]:
    """The first row of each class, in order of rows."""
    first = np.full(classes, len(targets))
    np.minimum.at(first, targets, np.arange(len(targets)))
    return sorted(first.tolist())


def _values(rows: Rows, settings: DatasetConfig, task: str) -> np.ndarray:
    columns = []
    for number, (name, column) in enumerate(zip(settings.label_columns, rows.labels, strict=True)):
        numbers = as_numbers(column)
        if not isinstance(numbers, np.ndarray):
            other = "classification" if len(rows.labels) == 1 else None
            raise _unfit(rows, number, name, numbers, f"{task} needs a finite number", other)
        if task == "multilabel":
            others = np.flatnonzero((numbers != 0) & (numbers != 1))
            if len(others):
                raise _unfit(rows, number, name, int(others[0]), "multilabel needs 0 or 1", "regression")
        columns.append(numbers)
    with np.errstate(over="ignore"):
        targets = np.stack(columns, axis=1).astype(np.float32)
    large = np.argwhere(~np.isfinite(targets))
    if len(large):
        row, number = large[0].tolist()
        raise _unfit(rows, number, settings.label_columns[number], row, "32-bit numbers end before; scale the labels")
    train = targets[rows.split == TRAIN]
    constant = (train == train[:1]).all(0) if len(train) else np.zeros(len(columns), dtype=bool)
    if constant.all():
        raise ValueError(
            f"{settings.path}: all training sequences have the same labels, there is nothing to learn. Name the right column in {_KEY}.label"
        )
    if constant.any():
        number = int(constant.argmax())
        raise ValueError(
            f"{settings.path}: column {settings.label_columns[number]!r} is {train[0, number]:g} for all training sequences, there is nothing to learn. "
            f"Remove it from {_KEY}.label"
        )
    return targets


def _unfit(rows: Rows, number: int, name: str, row: int, why: str, other: str | None = None) -> ValueError:
    """A label that does not go with the task; ``other`` is the task that it may go with."""
    value = rows.labels[number][row].as_py()
    shown = value.strip() if isinstance(value, str) else str(value)
    remedy = f"Correct it, or set {_KEY}.task: {other}" if other else "Correct it"
    return ValueError(f"{rows.where(row)}: column {name!r} is {shown!r}, but {why}. {remedy}")
