"""Which species does a sequence come from? A linear probe on frozen embeddings, beside k-mer logistic regression.

Each class is cut into contiguous regions that go to train or test as a whole, so that no test sequence lies beside a
training sequence. Sequences are tiles of their region (they do not overlap), half of them on the other strand. Both methods get the same
sequences, the same standardisation and the same choice of regularisation, cross-validated over training regions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from titans_genomics.config import Config, DownstreamConfig, SourceConfig, SpeciesConfig
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.readers import read_records
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.progress import Progress
from titans_genomics.training import check_model, load_model, replacing, with_vocabulary, write_json

MOST_N = 0.1
"""Tiles with a larger share of N are left out."""

STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
"""Inverse regularisation C that the cross-validation chooses from."""

BATCH_TOKENS = 16_384


@dataclass
class _Draw:
    """The sequences of one seed."""

    tokens: np.ndarray  # (sequences, length) uint8
    label: np.ndarray  # (sequences,) class number
    region: np.ndarray  # (sequences,) number of the region, counted over all classes
    test: np.ndarray  # (sequences,) bool


def species(config: Config, store: Path, model: Path, out: Path) -> dict[str, Any]:
    """Run the species task and write its figures, and the embeddings beside them.

    Parameters
    ----------
    config : Config
        The run; classes and sizes stand in ``config.downstream``.
    store : Path
        Token store folder; classes with a ``source`` take its test split.
    model : Path
        Output folder of ``train``.
    out : Path
        JSON to write; ``embeddings.npz`` goes beside it.

    Returns
    -------
    dict
        ``classes``; ``methods`` ("titans" or "transformer", and "kmer"), each with the mean over seeds of ``accuracy``, ``mcc``
        and ``macro_f1``, their 95% bootstrap intervals over test regions, the figures of each seed and the confusion matrix
        (rows: truth) summed over seeds; ``difference``: model minus k-mers, paired.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing or unreadable, a class has too little sequence, or the model belongs to another config.
    """
    settings = config.downstream
    if not settings.species:
        raise ValueError("downstream.species is empty: name two or more classes")
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    name = check_model(config, tokens, Path(model))["class"]
    regions = [_regions(config, tokens, entry) for entry in settings.species]
    draws = [_draw(settings, regions, seed) for seed in settings.seeds]
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    network = load_model(model, device)
    embeddings = []
    with Progress(sum(d.tokens.size for d in draws), "bases", "embedding sequences") as progress:
        for draw in draws:
            embeddings.append(_embed(network, tokens.tokenizer, draw.tokens, settings.pooling, progress))
    methods: dict[str, list[tuple[np.ndarray, float]]] = {name: [], "kmer": []}
    with Progress(2 * len(draws), "probes", "fitting linear probes") as progress:
        for draw, embedding in zip(draws, embeddings, strict=True):
            for method, features in ((name, embedding), ("kmer", kmers(draw.tokens, settings.kmer))):
                methods[method].append(_probe(features, draw))
                progress.update(1)
    resampled, result_methods = {}, {}
    for method, fitted in methods.items():
        rng = np.random.default_rng(config.seed)  # the same regions for every method: paired
        matrices = [
            _by_region(draw, predicted, len(regions)) for draw, (predicted, _) in zip(draws, fitted, strict=True)
        ]
        resampled[method] = [
            _resample(m, draw, rng, settings.bootstrap) for m, draw in zip(matrices, draws, strict=True)
        ]
        result_methods[method] = _summarise(matrices, resampled[method], [c for _, c in fitted], settings)
    result = {
        "task": "species",
        "classes": [
            {"species": entry.species, "regions": len(r), "bases": int(sum(map(len, r)))}
            for entry, r in zip(settings.species, regions, strict=True)
        ],
        "length": settings.length,
        "train_sequences": int((~draws[0].test).sum()),
        "test_sequences": int(draws[0].test.sum()),
        "kmer": settings.kmer,
        "pooling": settings.pooling,
        "chance": 1 / len(regions),
        "methods": result_methods,
        "difference": _difference(result_methods, resampled, name),
    }
    _save_embeddings(Path(out).with_name("embeddings.npz"), settings, draws, embeddings)
    write_json(Path(out), result)
    return result


# ------------------------------------------------------------------------------------------ sequences


def _stretches(config: Config, store: TokenStore, entry: SpeciesConfig) -> Iterator[np.ndarray]:
    """The contigs or reads of a class as base codes; those of a source are its test split."""
    if entry.source is not None:
        for tokens in store.documents("test", entry.source):
            yield store.tokenizer.decode(tokens)
        return
    assert entry.path is not None
    source = SourceConfig(path=entry.path, species=entry.species)
    for _, codes in read_records(source, config.data, config.seed):
        if len(codes) >= config.data.min_contig:
            yield codes


def _regions(config: Config, store: TokenStore, entry: SpeciesConfig) -> list[np.ndarray]:
    """Contiguous regions of a class, each long enough for one sequence."""
    size, length = config.downstream.region, config.downstream.length
    found = []
    for stretch in _stretches(config, store, entry):
        pieces = (stretch[start : start + size] for start in range(0, len(stretch), size))
        found += [piece for piece in pieces if len(piece) >= length]
    if len(found) < 2:
        where = entry.path or f"the test split of source {entry.source}"
        raise ValueError(
            f"{where}: {entry.species} has {len(found)} region(s) of at least {length} bases, and train and test need one each; "
            "lower downstream.region or downstream.length, or give more sequence"
        )
    return found


def _draw(settings: DownstreamConfig, regions: list[list[np.ndarray]], seed: int) -> _Draw:
    """Sequences of one seed: regions to train or test, then tiles of the regions, then strands."""
    rng = np.random.default_rng(seed)
    counts = {True: round(settings.per_class * settings.test)}
    counts[False] = settings.per_class - counts[True]
    rows, labels, of_region, test = [], [], [], []
    first = 0
    for label, own in enumerate(regions):
        order = rng.permutation(len(own))
        held_out = min(max(1, round(len(own) * settings.test)), len(own) - 1)
        for is_test, chosen in ((True, order[:held_out]), (False, order[held_out:])):
            tiles = [(int(r), tile) for r in chosen for tile in _tiles(own[r], settings.length, rng)]
            if len(tiles) < counts[is_test]:
                raise ValueError(
                    f"downstream: {settings.species[label].species} has room for {len(tiles)} sequences of {settings.length} bases in "
                    f"its {'test' if is_test else 'training'} regions, {counts[is_test]} are asked for; lower downstream.per_class or "
                    "downstream.length, or give more sequence"
                )
            for i in rng.permutation(len(tiles))[: counts[is_test]]:
                region, tile = tiles[i]
                rows.append(reverse_complement(tile) if rng.random() < 0.5 else tile)
                labels.append(label)
                of_region.append(first + region)
                test.append(is_test)
        first += len(own)
    return _Draw(np.stack(rows), np.array(labels), np.array(of_region), np.array(test))


def _tiles(region: np.ndarray, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Pieces of a region that do not overlap, with few N, from a random start on."""
    start = int(rng.integers(0, len(region) % length + 1))
    tiles = [region[at : at + length] for at in range(start, len(region) - length + 1, length)]
    return [tile for tile in tiles if (tile >= 4).mean() <= MOST_N]


# ------------------------------------------------------------------------------------------- features


def _embed(model: Any, tokenizer: Tokenizer, sequences: np.ndarray, pooling: str, progress: Progress) -> np.ndarray:
    """One vector per sequence, (sequences, D) float32: the mean of the final hidden states, or the last of them.

    ``sequences``: base codes, (sequences, length) uint8. Those of as many tokens are read together.
    """
    device = next(model.parameters()).device
    encoded = [tokenizer.encode(sequence) for sequence in sequences]
    sizes = np.array([len(tokens) for tokens in encoded])
    vectors: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size).tolist()
            batch = max(1, BATCH_TOKENS // size)
            for first in range(0, len(rows), batch):
                own = rows[first : first + batch]
                piece = torch.from_numpy(np.stack([encoded[row] for row in own]).astype(np.int64)).to(device)
                hidden, _ = model.embed(piece)
                pooled = hidden.mean(1) if pooling == "mean" else hidden[:, -1]
                vectors.update(zip(own, pooled.float().cpu().numpy(), strict=True))
                progress.update(len(own) * sequences.shape[1])
    return np.stack([vectors[row] for row in range(len(encoded))])


def kmers(tokens: np.ndarray, k: int) -> np.ndarray:
    """Frequencies of the k-mers of both strands, (sequences, 4**k) float64; k-mers with N are left out."""
    counts = np.zeros((len(tokens), 4**k))
    n = tokens.shape[1] - k + 1
    for strand in (tokens, reverse_complement(tokens)):
        codes = np.zeros((len(tokens), n), np.int64)
        good = np.ones((len(tokens), n), bool)
        for j in range(k):
            column = strand[:, j : j + n]
            codes = codes * 4 + (column & 3)
            good &= column < 4
        rows = np.broadcast_to(np.arange(len(tokens))[:, None], codes.shape)
        np.add.at(counts, (rows[good], codes[good]), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# --------------------------------------------------------------------------------------------- probes


def _probe(features: np.ndarray, draw: _Draw) -> tuple[np.ndarray, float]:
    """Predicted classes of the test sequences, and the C that was chosen."""
    train = ~draw.test
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    groups = draw.region[train]
    smallest = min(len(np.unique(groups[draw.label[train] == c])) for c in np.unique(draw.label))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest regularisations, which rarely win
        if smallest >= 2:
            grid = {"logisticregression__C": STRENGTHS}
            folds = StratifiedGroupKFold(min(5, smallest))
            probe = GridSearchCV(probe, grid, cv=folds, scoring=_log_likelihood, error_score="raise")
            probe.fit(features[train], draw.label[train], groups=groups)
            strength = float(probe.best_params_["logisticregression__C"])
        else:
            probe.fit(features[train], draw.label[train])
            strength = 1.0
    return probe.predict(features[draw.test]), strength


def _log_likelihood(probe: Any, features: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-probability of the true class; a class that the fold has not seen has a small one."""
    seen = probe.predict_proba(features)
    everything = np.zeros((len(labels), max(int(labels.max()), int(probe.classes_.max())) + 1))
    everything[:, probe.classes_] = seen
    return float(np.log(np.maximum(everything[np.arange(len(labels)), labels], 1e-6)).mean())


def _by_region(draw: _Draw, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix of each test region, (regions, classes, classes); rows are the truth."""
    _, region = np.unique(draw.region[draw.test], return_inverse=True)
    matrices = np.zeros((region.max() + 1, classes, classes))
    np.add.at(matrices, (region, draw.label[draw.test], predicted), 1)
    return matrices


def _resample(matrices: np.ndarray, draw: _Draw, rng: np.random.Generator, times: int) -> np.ndarray:
    """Confusion matrices of test sets whose regions are drawn with replacement within each class, (times, classes, classes)."""
    truth = matrices.sum(2).argmax(1)
    total = np.zeros((times, *matrices.shape[1:]))
    for c in range(matrices.shape[1]):
        own = matrices[truth == c]
        drawn = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), times)
        total += np.einsum("tr,rij->tij", drawn, own)
    return total


def scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, Matthews correlation (multi-class) and macro F1 of confusion matrices (..., classes, classes)."""
    confusion = np.asarray(confusion, dtype=float)
    total = confusion.sum((-1, -2))
    right = np.trace(confusion, axis1=-2, axis2=-1)
    truth, guess = confusion.sum(-1), confusion.sum(-2)
    spread = np.sqrt((total**2 - (truth**2).sum(-1)) * (total**2 - (guess**2).sum(-1)))
    above = right * total - (truth * guess).sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    f1 = 2 * hits / np.maximum(truth + guess, 1)
    return {
        "accuracy": right / total,
        "mcc": np.divide(above, spread, out=np.zeros_like(above), where=spread > 0),
        "macro_f1": f1.mean(-1),
    }


def _summarise(
    matrices: list[np.ndarray], resampled: list[np.ndarray], strengths: list[float], settings: DownstreamConfig
) -> dict[str, Any]:
    """Means over seeds with their intervals, each seed's figures, and the confusion matrix of all seeds."""
    each = [{key: float(v) for key, v in scores(m.sum(0)).items()} for m in matrices]
    spread = [scores(r) for r in resampled]
    result: dict[str, Any] = {}
    for key in each[0]:
        result[key] = float(np.mean([row[key] for row in each]))
        result[f"{key}_ci95"] = _interval(np.mean([s[key] for s in spread], 0))
    result["seeds"] = [
        {"seed": seed, **row, "C": c} for seed, row, c in zip(settings.seeds, each, strengths, strict=True)
    ]
    result["confusion"] = np.sum([m.sum(0) for m in matrices], 0).astype(int).tolist()
    return result


def _difference(methods: dict[str, Any], resampled: dict[str, list[np.ndarray]], name: str) -> dict[str, Any]:
    """Accuracy of the model minus that of the k-mers, on the same resampled test sets."""
    mean = {key: np.mean([scores(r)["accuracy"] for r in values], 0) for key, values in resampled.items()}
    return {
        "accuracy": methods[name]["accuracy"] - methods["kmer"]["accuracy"],
        "ci95": _interval(mean[name] - mean["kmer"]),
    }


def _interval(values: np.ndarray) -> list[float] | None:
    return [float(x) for x in np.quantile(values, [0.025, 0.975])] if len(values) else None


def _save_embeddings(path: Path, settings: DownstreamConfig, draws: list[_Draw], embeddings: list[np.ndarray]) -> None:
    """All sequences of all seeds: embedding, class, seed and whether it was a test sequence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            embedding=np.concatenate(embeddings).astype(np.float32),
            species=np.concatenate([d.label for d in draws]),
            names=np.array([entry.species for entry in settings.species]),
            seed=np.repeat(settings.seeds, [len(d.label) for d in draws]),
            test=np.concatenate([d.test for d in draws]),
        )
