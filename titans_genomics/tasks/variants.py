"""Zero-shot variant scores: is the alternative sequence less likely to a model than the reference, and does its label say so too?

The score of a variant is log p(alternative) - log p(reference) in nats, the mean of both strands. Beside the models stand two
baselines that see no more than they do: the order-k Markov model of the training split, and for single-base substitutions the
type alone (transitions are the likelier ones). No method sees a label.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from titans_genomics import markov
from titans_genomics.config import Config, VariantSetConfig
from titans_genomics.data.alphabet import A, C, G, N, T, reverse_complement
from titans_genomics.data.store import TokenStore
from titans_genomics.files import replacing, write_json
from titans_genomics.progress import Progress
from titans_genomics.tasks.likelihood import GROUP_BASES, groups, log_likelihood
from titans_genomics.tasks.metrics import bootstrap, metrics_of, paired_difference
from titans_genomics.tasks.sequences import device_of
from titans_genomics.tasks.variant_sets import VariantSet, read_variants
from titans_genomics.training import check_model, load_model, with_vocabulary

METRICS = {"labels": ("auroc", "auprc"), "numbers": ("spearman", "pearson")}
DIRECTIONS = {
    "labels": "label 1 is the less likely variant: AUROC and AUPRC of -score for label 1; below 0.5, label 1 is the likelier one",
    "numbers": "a larger number goes with a likelier variant: correlation of score and number",
}


def variants(config: Config, store: Path, models: dict[str, Path], out: Path) -> dict[str, Any]:
    """Score the labelled sets of ``config.variants`` and write the figures, and the scores beside them.

    Parameters
    ----------
    config : Config
        The run.
    store : Path
        Token store folder; its training split fits the Markov model.
    models : dict
        Name to the output folder of ``train``.
    out : Path
        JSON to write; SET.parquet (id, label and the score of every method, nats) goes beside it for each set.

    Returns
    -------
    dict
        ``markov`` (order and smoothing that are best on validation); ``models`` (name to step, parameters and
        ``bases_per_second``); ``sets``: name to ``path``, ``variants``, ``kind``, ``labels`` (count of each, or the range of
        numbers), ``length`` (of the references, bases), ``direction`` (what a high figure means) and ``methods``: each with
        its metrics as ``value`` and ``ci95``, ``score`` (median of all, and of each label) and, but for the Markov model,
        ``difference_to_markov``, paired.

    Raises
    ------
    FileNotFoundError, ValueError
        A set is missing, or wrong in a way that the message names with file, row, column and remedy; a model is missing or
        belongs to another config or token store; tokens are those of text.
    """
    settings = config.variants
    if not settings.sets:
        raise ValueError("variants.sets is empty: name one or more labelled sets")
    read = {entry.key: read_variants(entry) for entry in settings.sets}
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    if tokens.tokenizer.text:
        raise ValueError("variants: bases are scored, but data.tokenizer.kind is that of text")
    described = {name: check_model(config, tokens, Path(folder)) for name, folder in models.items()}
    with Progress(1, "models", "fitting the Markov model") as progress:
        baseline, _ = markov.fit(
            lambda: _training_letters(tokens, "train"),
            lambda: _training_letters(tokens, "validation"),
            _orders(tokens),
        )
        progress.update(1)
    scores: dict[str, dict[str, np.ndarray]] = {key: {} for key in read}
    for key, own in read.items():
        scores[key]["markov"] = _markov_scores(baseline, own)
        by_type = _transitions(own)
        if by_type is not None:
            scores[key]["transitions"] = by_type
    torch.set_flush_denormal(True)
    speed = {}
    for name, folder in models.items():
        network = load_model(folder, device_of(config))
        total = sum(2 * sum(map(len, sequences)) for own in read.values() for sequences in (own.ref, own.alt))
        started = time.monotonic()
        with Progress(total, "bases", f"scoring variants with {name}") as progress:
            for key, own in read.items():
                both = log_likelihood(network, tokens.tokenizer, own.alt + own.ref, progress=progress)
                scores[key][name] = both[: len(own.alt)] - both[len(own.alt) :]
        speed[name] = total / (time.monotonic() - started)
    result = {
        "task": "variants",
        "markov": {"order": baseline.order, "smoothing": baseline.smoothing},
        "models": {
            name: {"step": d["step"], "parameters": d["parameters"], "bases_per_second": speed[name]}
            for name, d in described.items()
        },
        "sets": {
            entry.key: _summarise(entry, read[entry.key], scores[entry.key], settings.bootstrap, config.seed)
            for entry in settings.sets
        },
    }
    for key, own in read.items():
        _write_scores(Path(out).with_name(f"{key}.parquet"), own, scores[key])
    write_json(Path(out), result)
    return result


# ------------------------------------------------------------------------------------------- baselines


def _orders(store: TokenStore) -> range:
    """Orders of the Markov model that are tried: up to the longest whose contexts occur once on average, on both strands."""
    tokens = sum(len(run) for source in store.sources if store.weight(source) for run in store.runs("train", source))
    most = markov.MOST_ORDER[markov.BASES]
    return range(max((order for order in range(most + 1) if 4**order <= 2 * tokens), default=0) + 1)


def _training_letters(store: TokenStore, split: str) -> Iterator[np.ndarray]:
    """The bases of a split of all sources that are trained on."""
    for source in store.sources:
        if not store.weight(source):
            continue
        if store.tokenizer.plain:
            for run in store.runs(split, source):
                yield from run.pieces()
        else:
            for document in store.documents(split, source):
                yield store.tokenizer.decode(document)


def _markov_scores(model: markov.Markov, own: VariantSet) -> np.ndarray:
    """log p(alt) - log p(ref) of the Markov model, mean of both strands, nats, (variants,)."""
    return _markov_likelihood(model, own.alt) - _markov_likelihood(model, own.ref)


def _markov_likelihood(model: markov.Markov, sequences: list[np.ndarray]) -> np.ndarray:
    """Mean log-likelihood of both strands, nats, (sequences,)."""
    end = np.array([255], dtype=np.uint8)  # no base: the context begins anew behind it
    sizes = np.array([len(sequence) + 1 for sequence in sequences])
    found = np.empty(len(sequences))
    for group in groups(sizes, GROUP_BASES):
        starts = np.cumsum(sizes[group]) - sizes[group]
        total = np.zeros(len(group))
        for turn in (False, True):
            strand = [reverse_complement(sequences[i]) if turn else sequences[i] for i in group]
            bits = model.bits(np.concatenate([part for sequence in strand for part in (sequence, end)]))
            total += np.add.reduceat(np.nan_to_num(bits), starts)
        found[group] = -total / 2 * np.log(2)
    return found


def _transitions(own: VariantSet) -> np.ndarray | None:
    """1 for transitions, 0 for transversions, float64, (variants,); None unless every variant is one base in place of another."""
    found = []
    for ref, alt in zip(own.ref, own.alt, strict=True):
        at = np.flatnonzero(ref != alt) if len(ref) == len(alt) else ()
        if len(at) != 1 or N in (ref[at[0]], alt[at[0]]):
            return None
        found.append({int(ref[at[0]]), int(alt[at[0]])} in ({A, G}, {C, T}))
    return np.array(found, dtype=np.float64)


# --------------------------------------------------------------------------------------------- figures


def _summarise(
    entry: VariantSetConfig, own: VariantSet, scores: dict[str, np.ndarray], resamples: int, seed: int
) -> dict[str, Any]:
    """What `variants` says of one set."""
    values, counts = np.unique(own.label, return_counts=True)
    lengths = np.array([len(sequence) for sequence in own.ref])
    if own.kind == "labels":
        labels = {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}
    else:
        labels = {"min": float(values[0]), "max": float(values[-1])}
    return {
        "path": str(entry.path),
        "variants": len(own.ids),
        "kind": own.kind,
        "labels": labels,
        "length": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "direction": DIRECTIONS[own.kind],
        "methods": {name: _figures(own, name, scores, resamples, seed) for name in scores},
    }


def _figures(own: VariantSet, name: str, scores: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, Any]:
    """The figures of one method on one set."""
    task = "classification" if own.kind == "labels" else "regression"
    targets = own.label.astype(np.int64) if own.kind == "labels" else own.label[:, None]
    outputs = {method: _outputs(own.kind, values) for method, values in scores.items()}
    found = metrics_of(task, outputs[name], targets)
    spread = bootstrap(task, [outputs[name]], targets, resamples, seed)
    figures: dict[str, Any] = {
        metric: {"value": float(found[metric]), "ci95": spread.get(metric)}
        for metric in METRICS[own.kind]
        if metric in found
    }
    figures["score"] = {"median": float(np.median(scores[name]))}
    if own.kind == "labels":
        figures["score"] |= {f"median_{c}": float(np.median(scores[name][own.label == c])) for c in (0, 1)}
    headline = METRICS[own.kind][0]
    if name != "markov" and headline in found:
        difference = paired_difference(task, headline, [outputs[name]], [outputs["markov"]], targets, resamples, seed)
        figures["difference_to_markov"] = {"metric": headline} | difference
    return figures


def _outputs(kind: str, scores: np.ndarray) -> np.ndarray:
    """Scores as the metrics want them: values (variants, 1), or logits (variants, 2) of labels 0 and 1."""
    return scores[:, None] if kind == "numbers" else np.stack([scores, -scores], axis=1)


def _write_scores(path: Path, own: VariantSet, scores: dict[str, np.ndarray]) -> None:
    """SET.parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": own.ids, "label": own.label} | {f"score_{name}": values for name, values in scores.items()}
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pa.table(columns), temporary)
