"""A labelled dataset from its own files to the one form that everything downstream reads."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from titans_genomics.config import Config, DatasetConfig
from titans_genomics.config_downstream import METRICS
from titans_genomics.data.labelled.columns import Rows, read_rows
from titans_genomics.data.labelled.copies import NEAR_SHARE, find_copies, kmer_length
from titans_genomics.data.labelled.dataset import DATASET, SEQUENCES, Labelled, draw, held_out, save_labelled
from titans_genomics.data.labelled.layouts import read_sheets
from titans_genomics.data.labelled.official import locate
from titans_genomics.data.labelled.splits import subsample, units
from titans_genomics.data.labelled.values import read_codes, read_targets
from titans_genomics.data.splits import SPLITS, TEST, TRAIN, VALIDATION
from titans_genomics.suites import find, other_sizes


def prepare(config: Config, name: str, out: Path) -> dict[str, Any]:
    """Read a labelled dataset, check all of it, find test sequences that stand in train, and write it.

    Parameters
    ----------
    config : Config
        The run; the dataset is the one of that name in ``downstream.datasets``, else of a suite.
    name : str
        Of the dataset.
    out : path
        Folder to write, whole or not at all.

    Returns
    -------
    dict
        dataset.json.

    Raises
    ------
    FileNotFoundError, ValueError
        Something is missing or wrong; the line says where, and what to do.
    """
    settings, suite = find_dataset(config, name)
    layout, sheets, digest = read_sheets(settings)
    if settings.sha256 is not None and digest != settings.sha256:
        raise ValueError(
            f"{settings.path}: the SHA-256 checksum is {digest}, expected {settings.sha256} (downstream.datasets[].sha256). "
            "Copy or download it again, or correct the checksum"
        )
    rows = read_rows(sheets, settings, official=suite is not None)
    data, facts = _labelled(config, name, settings, rows)
    data = data.take(np.argsort(data.split, kind="stable"))
    reference, test = np.flatnonzero(data.split != TEST), np.flatnonzero(data.split == TEST)
    k = kmer_length(float(np.median(data.lengths)))
    data.copies[test] = find_copies(data.codes, data.offsets, reference, test, k, NEAR_SHARE)[0]
    source = {"path": str(settings.path), "layout": layout, "sha256": digest}
    if settings.test is not None:
        source["test"] = str(settings.test)
    data.info.update(_describe(data, k), suite=suite, source=source, **facts)
    data.info["warnings"] = rows.warnings + _warnings(data)
    if suite is not None and facts["limited_to"] is None:
        other = other_sizes(find(name)[0], data.info["sequences"])
        data.info["warnings"] += [other] if other else []
    with _whole(Path(out)) as folder:
        save_labelled(data, folder)
    return data.info


def find_dataset(config: Config, name: str) -> tuple[DatasetConfig, str | None]:
    """Where a dataset is and what its columns are, and the suite that it belongs to, if any.

    Raises FileNotFoundError and ValueError when there is none of that name, or it can neither be found nor downloaded.
    """
    for dataset in config.downstream.datasets:
        if dataset.key == name:
            return dataset, None
    try:
        found = [dataset for dataset in find(name) if dataset.name == name]
    except ValueError as error:
        own = ", ".join(dataset.key for dataset in config.downstream.datasets) or "none"
        raise ValueError(f"{error} (downstream.datasets has {own})") from None
    if not found:
        raise ValueError(f"{name}: a suite of several datasets; name one of them")
    return locate(found[0], config.downstream), found[0].suite


def _labelled(config: Config, name: str, settings: DatasetConfig, rows: Rows) -> tuple[Labelled, dict[str, Any]]:
    """The dataset in its splits, and what was done to get there."""
    codes, offsets, ambiguous = read_codes(rows, settings)
    task, classes, targets = read_targets(rows, settings)
    codes, offsets, cut = _cut(codes, offsets, settings.max_length)
    metric = settings.metric or METRICS[task][0]
    info = {
        "name": name,
        "suite": None,
        "task": task,
        "classes": list(classes),
        "metric": metric,
        "strands": settings.strands,
    }
    copies = np.zeros(len(rows.ids), dtype=np.uint8)
    split = rows.split.copy()
    data = Labelled(name, task, classes, metric, rows.ids, codes, offsets, targets, split, rows.groups, copies, info)
    if not (split == TRAIN).any():
        raise ValueError(
            f"{settings.path}: no training sequences; the split is {SPLITS[split[0]]} everywhere. Call a part of it train"
        )
    _, joined = units(data.same, data.groups)
    if not joined:
        rows.warnings.append(
            "identical sequences stand in many groups: groups are kept whole, copies of a sequence may stand on both sides of a split"
        )
    if not (split == TEST).any():
        own = np.flatnonzero(split == TRAIN)
        _check_classes(data, rows.where, own, "train, validation and test", 3)
        held = held_out(data, own, settings.test_share, np.random.default_rng([config.seed, TEST]))
        split[own[held]] = TEST  # of `data` too
        if not held.any():
            raise ValueError(
                f"{settings.path}: all sequences belong together (the same group, or the same sequence), so no test set can be held out. Give one as downstream.datasets[].test"
            )
        rows.warnings.append(
            f"no test set was given: {settings.test_share:g} of the training sequences were held out (seed {config.seed})"
        )
    limit = config.downstream.max_sequences
    if limit is not None and max(np.bincount(split)) > limit:
        parts = []
        for part in range(3):
            own = np.flatnonzero(split == part)
            strata = None if data.strata is None else data.strata[own]
            parts.append(own[subsample(strata, len(own), limit, np.random.default_rng([config.seed, 3 + part]))])
        kept = np.sort(np.concatenate(parts))
    else:
        limit, kept = None, np.arange(len(data))
    chosen = data.take(kept)
    _check_draws(config, chosen, lambda row: rows.where(int(kept[row])))
    facts = {"ambiguous_share": ambiguous, "cut": cut, "limited_to": limit}
    return chosen, facts


def _cut(codes: np.ndarray, offsets: np.ndarray, longest: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Sequences longer than ``longest`` cut to their middle, and how many they are."""
    lengths = np.diff(offsets)
    many = int((lengths > longest).sum()) if longest is not None else 0
    if not many:
        return codes, offsets, 0
    kept = np.minimum(lengths, longest)
    begin = offsets[:-1] + (lengths - kept) // 2
    pieces = [codes[one : one + n] for one, n in zip(begin.tolist(), kept.tolist(), strict=True)]
    return np.concatenate(pieces), np.concatenate([[0], np.cumsum(kept)]).astype(np.int64), many


def _check_classes(data: Labelled, where: Callable[[int], str], own: np.ndarray, needing: str, least: int) -> None:
    """Raise ValueError for a class with fewer than ``least`` different sequences among these rows."""
    if data.strata is None:
        if len(own) < least:
            raise ValueError(
                f"{where(int(own[0]))}: one of {len(own)} training sequences; {needing} need one each. Add sequences"
            )
        return
    different = np.unique(data.same[own] * len(data.classes) + data.targets[own])
    counts = np.bincount(different % len(data.classes), minlength=len(data.classes))
    few = np.flatnonzero(counts < least)
    if len(few):
        number = int(few[0])
        row = int(own[np.flatnonzero(data.targets[own] == number)[0]])
        hint = (
            ". If labels are numbers to be predicted, set downstream.datasets[].task: regression"
            if len(few) > 3 and data.classes[0].isdecimal()
            else ""
        )
        raise ValueError(
            f"{where(row)}: class {data.classes[number]!r} has {counts[number]} different training sequence(s), but {needing} need one each. "
            f"Add sequences, or join or remove the class{hint}"
        )


def _check_draws(config: Config, data: Labelled, where: Callable[[int], str]) -> None:
    """Raise ValueError when the validation of a seed leaves a class, or anything at all, without training sequences, or when
    the headline metric is not defined for the validation of a seed or for the test set, whatever is predicted."""
    settings = config.downstream
    more = ", or raise downstream.max_sequences" if settings.max_sequences is not None else ""
    fault = _undefined(data, np.flatnonzero(data.split == TEST))
    if fault is not None:
        raise ValueError(
            f"{data.name}: {data.metric} is not defined for the test set: {fault}. Give a test set with others too, or raise downstream.datasets[].test_share where it is held out{more}"
        )
    train = np.flatnonzero(data.split == TRAIN)
    own = (data.split == VALIDATION).any()
    if settings.protocol == "caduceus" and not own:
        _check_classes(data, where, train, "train and validation", 2)
    for seed in settings.seeds:
        train, validation, _ = draw(data, settings.protocol, settings.validation, seed)
        missing = [] if data.strata is None else np.setdiff1d(data.targets, data.targets[train])
        if not len(validation) or not len(train) or len(missing):
            what = (
                f"no training sequence of class {data.classes[missing[0]]!r}" if len(missing) else "no validation set"
            )
            raise ValueError(
                f"{data.name}: the draw of seed {seed} leaves {what}: what belongs together (downstream.datasets[].group, or the same sequence) is too large. "
                "Use smaller groups, or give the dataset a validation split"
            )
        fault = _undefined(data, validation)
        if fault is not None:
            which = "validation split" if own else f"validation of seed {seed}"
            remedy = (
                "Add others, or leave it out: then downstream.validation of train is held out"
                if own
                else "Raise downstream.validation, or give the dataset a validation split"
            )
            raise ValueError(f"{data.name}: {data.metric} is not defined for the {which}: {fault}. {remedy}{more}")


def _undefined(data: Labelled, rows: np.ndarray) -> str | None:
    """Why the headline metric of these rows is not defined, whatever is predicted; None when it is."""
    targets = data.targets[rows]
    same = (targets == targets[:1]).all(0)
    if data.task == "regression" and same.any():
        return f"the same value of {data.classes[int(same.argmax())]!r} in all of the {len(rows):,} sequences"
    if data.task == "multilabel" and data.metric == "f1" and not targets.any():
        return f"no label is 1 in any of the {len(rows):,} sequences"
    if data.metric in ("mcc", "auroc", "auprc") and same.all():
        what = f"class {data.classes[targets[0]]!r} alone" if data.task == "classification" else "the same labels"
        return f"{what} in all of the {len(rows):,} sequences"
    return None


# ------------------------------------------------------------------------------------------ description


def _describe(data: Labelled, k: int) -> dict[str, Any]:
    """Counts for dataset.json; ``k`` is that of the k-mers by which copies were found."""
    parts = {name: np.flatnonzero(data.split == number) for number, name in enumerate(SPLITS)}
    lengths = data.lengths
    train = data.same[parts["train"]]
    labels = np.unique(np.column_stack([data.same, data.targets.reshape(len(data), -1)]), axis=0)
    test = data.copies[parts["test"]]
    return {
        "sequences": {name: len(rows) for name, rows in parts.items()},
        "per_class": {name: _per_class(data, rows) for name, rows in parts.items()},
        "length": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "duplicates": len(train) - len(np.unique(train)),
        "contradicting": int((np.unique(labels[:, 0], return_counts=True)[1] > 1).sum()),
        "leaks": {
            "test": len(test),
            "verbatim": int((test == 2).sum()),
            "near": int((test >= 1).sum()),
            "verbatim_share": float((test == 2).mean()),
            "near_share": float((test >= 1).mean()),
            "k": k,
            "near_from": NEAR_SHARE,
        },
    }


def _per_class(data: Labelled, rows: np.ndarray) -> dict[str, int]:
    """Sequences of each class, or with each label; empty for regression."""
    if data.task == "regression":
        return {}
    targets = data.targets[rows]
    counts = np.bincount(targets, minlength=len(data.classes)) if targets.ndim == 1 else targets.sum(0)
    return dict(zip(data.classes, counts.astype(int).tolist(), strict=True))


def _warnings(data: Labelled) -> list[str]:
    found = []
    k, median = data.info["leaks"]["k"], data.info["length"]["median"]
    if median < 3 * k:
        found.append(
            f"half of the sequences have {median:g} bases or fewer: near copies of short sequences in train may be missed, as they share no {k} bases in a row"
        )
    if data.info["contradicting"]:
        found.append(f"{data.info['contradicting']:,} sequences stand there with different labels")
    for split, counts in data.info["per_class"].items():
        size = data.info["sequences"][split]
        same = [
            name
            for name, count in counts.items()
            if size and count in ((0, size) if data.task == "multilabel" else (0,))
        ]
        if same:
            what = "is the same for all sequences" if data.task == "multilabel" else "has no sequence"
            found.append(
                f"{same[0]!r} {what} of {split}" + (f", and so have {len(same) - 1} others" if len(same) > 1 else "")
            )
    return found


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A hidden sibling folder that takes the place of ``out`` when the block succeeds, and is removed when it fails.

    Where ``out`` holds the same already it stays as it is, times of its files included: what was made of it is not out of date.
    """
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    _settle(out, partial, old)
    if out.exists():
        foreign = [out.name] if not out.is_dir() else sorted({p.name for p in out.iterdir()} - {SEQUENCES, DATASET})
        foreign = [name for name in foreign if not name.startswith(".snakemake")]
        if foreign:
            raise ValueError(
                f"{out}: holds something other than a prepared dataset ({foreign[0]}); it would be replaced. Choose another folder or remove it"
            )
    partial.mkdir(parents=True)
    try:
        yield partial
        if not _same(partial, out):
            if out.exists():
                out.rename(old)
            partial.rename(out)
    finally:
        _settle(out, partial, old)


def _settle(out: Path, partial: Path, old: Path) -> None:
    """Remove what a replacement leaves; the old folder goes back to its place where the new one did not get there."""
    if old.exists() and not out.exists():
        old.rename(out)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def _same(one: Path, other: Path) -> bool:
    """Whether both folders hold the same dataset, byte for byte."""
    names = (SEQUENCES, DATASET)
    return all((other / name).is_file() and filecmp.cmp(one / name, other / name, shallow=False) for name in names)
