"""Labelled sequences: a dataset as it is prepared once, and drawn from for every seed.

sequences.parquet   id, sequence, target, split, group, copies; a row per sequence
dataset.json        what the dataset is and what was found in it
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from titans_genomics.data.alphabet import decode, encode
from titans_genomics.data.labelled.columns import flat, letters
from titans_genomics.data.labelled.copies import distinct
from titans_genomics.data.labelled.splits import hold_out, units
from titans_genomics.data.splits import TEST, TRAIN, VALIDATION

SEQUENCES, DATASET = "sequences.parquet", "dataset.json"


@dataclass(frozen=True)
class Labelled:
    """A labelled dataset.

    Attributes
    ----------
    name : str
    task : str
        "classification", "multilabel" or "regression".
    classes : tuple of str
        Names of the classes, or of the label columns: the outputs of a model.
    metric : str
        The headline metric.
    ids : list of str
        A name of each sequence.
    codes, offsets : numpy.ndarray
        Base codes (A 0, C 1, G 2, T 3, N 4) of all sequences one after the other, uint8, and where each begins, int64 (n + 1).
    targets : numpy.ndarray
        int64 (n,), the class; of the other tasks float32 (n, outputs).
    split : numpy.ndarray
        uint8 (n,): 0 train, 1 validation, 2 test.
    groups : numpy.ndarray or None
        int64 (n,): rows of one number stay together.
    copies : numpy.ndarray
        uint8 (n,), of test sequences: 2 stands verbatim in train or validation, on either strand; 1 at least half of it
        stands in one sequence there; 0 neither. Of the others 0.
    info : dict
        dataset.json.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    metric: str
    ids: list[str]
    codes: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    split: np.ndarray
    groups: np.ndarray | None
    copies: np.ndarray
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def sequence(self, i: int) -> np.ndarray:
        """Base codes of one sequence, uint8, shape (bases,)."""
        return self.codes[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Bases of each sequence, int64 (n,)."""
        return np.diff(self.offsets)

    @cached_property
    def same(self) -> np.ndarray:
        """int64 (n,), equal for sequences that are identical on either strand."""
        return distinct(self.codes, self.offsets)

    def take(self, rows: np.ndarray) -> Labelled:
        """The dataset of these rows, in their order."""
        pieces = [self.sequence(row) for row in rows.tolist()]
        taken = dataclasses.replace(
            self,
            ids=[self.ids[row] for row in rows.tolist()],
            codes=np.concatenate(pieces) if pieces else self.codes[:0],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64),
            targets=self.targets[rows],
            split=self.split[rows],
            groups=None if self.groups is None else self.groups[rows],
            copies=self.copies[rows],
        )
        if "same" in vars(self):  # which takes long to find out
            vars(taken)["same"] = self.same[rows]
        return taken

    @property
    def strata(self) -> np.ndarray | None:
        """The classes, where draws are made by class; None for the other tasks."""
        return self.targets if self.task == "classification" else None


def draw(data: Labelled, protocol: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, to choose by, and to test on.

    Parameters
    ----------
    data : Labelled
    protocol : str
        "caduceus": validation is the dataset's own, else ``share`` of train, by class; whole groups and identical sequences
        (on either strand) stay together. "hyenadna": all of train and validation is trained on, and choices are made on
        the test set.
    share : float
        Of the training sequences that is validation.
    seed : int
        Another seed, another validation set.

    Returns
    -------
    train, validation, test : numpy.ndarray
        int64 row numbers, ascending; of "hyenadna" the last two are the same, else no two have a row in common.
    """
    test = np.flatnonzero(data.split == TEST)
    if protocol == "hyenadna":
        return np.flatnonzero(data.split != TEST), test, test
    assert protocol == "caduceus", protocol
    train, validation = np.flatnonzero(data.split == TRAIN), np.flatnonzero(data.split == VALIDATION)
    if not len(validation):
        held = held_out(data, train, share, np.random.default_rng([seed, VALIDATION]))
        train, validation = train[~held], train[held]
    return train, validation, test


def held_out(data: Labelled, rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which of these rows are held out, bool (rows,): a share of each class, of what belongs together all or none."""
    groups = None if data.groups is None else data.groups[rows]
    unit, _ = units(data.same[rows], groups)
    return hold_out(unit, None if data.strata is None else data.strata[rows], share, rng)


# ---------------------------------------------------------------------------------------------- on disk


def save_labelled(data: Labelled, folder: Path) -> None:
    """Write a dataset's files into a folder."""
    buffers = [pa.py_buffer(data.offsets), pa.py_buffer(decode(data.codes).encode())]
    targets = pa.array(data.targets.reshape(-1))
    columns = {
        "id": pa.array(data.ids, pa.string()),
        "sequence": pa.LargeStringArray.from_buffers(len(data), *buffers),
        "target": targets if data.targets.ndim == 1 else pa.FixedSizeListArray.from_arrays(targets, len(data.classes)),
        "split": pa.array(data.split),
        "copies": pa.array(data.copies),
    }
    if data.groups is not None:
        columns["group"] = pa.array(data.groups)
    pq.write_table(pa.table(columns), folder / SEQUENCES, compression="zstd")
    (folder / DATASET).write_text(json.dumps(data.info, indent=2) + "\n")


def load_labelled(folder: Path) -> Labelled:
    """A prepared dataset.

    Raises
    ------
    FileNotFoundError, ValueError
        There is none in ``folder``, or it is damaged.
    """
    folder = Path(folder)
    for name in (DATASET, SEQUENCES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: no prepared dataset in this folder; run `titans-genomics downstream prepare` first"
            )
    try:
        info = json.loads((folder / DATASET).read_text())
        table = pq.read_table(folder / SEQUENCES)
        raw, offsets = letters(flat(table["sequence"]))
        targets = flat(table["target"])
        if pa.types.is_integer(targets.type):
            targets = targets.to_numpy()
        else:
            targets = targets.flatten().to_numpy().reshape(len(table), -1)
        return Labelled(
            name=info["name"],
            task=info["task"],
            classes=tuple(info["classes"]),
            metric=info["metric"],
            ids=table["id"].to_pylist(),
            codes=encode(raw.tobytes()),
            offsets=offsets,
            targets=targets,
            split=table["split"].to_numpy(),
            groups=table["group"].to_numpy() if "group" in table.column_names else None,
            copies=table["copies"].to_numpy(),
            info=info,
        )
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{folder}: damaged dataset ({' '.join(str(error).split())[:200]}). Prepare it again"
        ) from None
