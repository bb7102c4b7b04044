"""Which species does a sequence come from? A linear probe on frozen embeddings, beside k-mer logistic regression.

Each class is cut into contiguous regions that go to train or test as a whole, so that no test sequence lies beside a
training sequence. Sequences are tiles of their region (they do not overlap), half of them on the other strand. Both methods get the same
sequences, the same standardisation and the same choice of regularisation, cross-validated over training regions. All of
this is done anew for every sequence length.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from titans_genomics.config import Config, SpeciesConfig
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.files import replacing, write_json
from titans_genomics.models.classifier import pool
from titans_genomics.progress import Progress
from titans_genomics.tasks.metrics import interval
from titans_genomics.tasks.sequences import batches, device_of, padded
from titans_genomics.tasks.species_draw import Draw, cut_regions, draw_sequences, read_stretches
from titans_genomics.tasks.weighted import of_confusion
from titans_genomics.training import check_model, load_model, with_vocabulary

STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
"""Inverse regularisation C that the cross-validation chooses from."""

BATCH_TOKENS = 16_384
"""Tokens that are read together, padding included; a longer sequence is read in pieces of so many."""


def species(config: Config, store: Path, model: Path, out: Path) -> dict[str, Any]:
    """Run the species task and write its figures, and the embeddings beside them.

    Parameters
    ----------
    config : Config
        The run; classes, lengths and sizes stand in ``config.species``.
    store : Path
        Token store folder; classes with a ``source`` take its test split.
    model : Path
        Output folder of ``train``.
    out : Path
        JSON to write; ``embeddings.npz`` goes beside it.

    Returns
    -------
    dict
        ``classes`` (names), ``kmer``, ``pooling``, ``chance`` and ``lengths``, for each length: ``length`` (bases); ``classes``, each with
        the ``regions`` and ``bases`` that have room for it; ``per_class``, ``train_sequences`` and ``test_sequences``; ``methods``
        ("titans" or "transformer", and "kmer"), each with the mean over seeds of ``accuracy``, ``mcc`` and ``macro_f1``, their 95% bootstrap
        intervals over test regions, the figures of each seed and the confusion matrix (rows: truth) summed over seeds;
        ``difference``: model minus k-mers, paired.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing or unreadable, a class has too little sequence, or the model belongs to another config.
    """
    settings = config.species
    if not settings.classes:
        raise ValueError("species.classes is empty: name two or more classes")
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    name = check_model(config, tokens, Path(model))["class"]
    stretches = [list(read_stretches(config, tokens, entry)) for entry in settings.classes]
    regions = {
        length: [
            cut_regions(settings, entry, own, length) for entry, own in zip(settings.classes, stretches, strict=True)
        ]
        for length in settings.length
    }
    draws = {length: draw_sequences(settings, found, length) for length, found in regions.items()}
    torch.set_flush_denormal(True)
    network = load_model(model, device_of(config))
    embeddings: dict[int, list[np.ndarray]] = {}
    with Progress(sum(d.tokens.size for of in draws.values() for d in of), "bases", "embedding sequences") as progress:
        for length, of in draws.items():
            embeddings[length] = [
                _embed(network, tokens.tokenizer, draw.tokens, settings.pooling, progress) for draw in of
            ]
    lengths = []
    with Progress(2 * len(draws) * len(settings.seeds), "probes", "fitting linear probes") as progress:
        for length, of in draws.items():
            figures = _measure(settings, config.seed, name, of, embeddings[length], progress)
            lengths.append(
                {
                    "length": length,
                    "classes": [
                        {"species": entry.species, "regions": len(own), "bases": int(sum(map(len, own)))}
                        for entry, own in zip(settings.classes, regions[length], strict=True)
                    ],
                    "per_class": len(of[0].label) // len(settings.classes),
                    "train_sequences": int((~of[0].test).sum()),
                    "test_sequences": int(of[0].test.sum()),
                    **figures,
                }
            )
    result = {
        "task": "species",
        "classes": [entry.species for entry in settings.classes],
        "kmer": settings.kmer,
        "pooling": settings.pooling,
        "chance": 1 / len(settings.classes),
        "lengths": lengths,
    }
    _save_embeddings(Path(out).with_name("embeddings.npz"), settings, draws, embeddings)
    write_json(Path(out), result)
    return result


def _measure(
    settings: SpeciesConfig, seed: int, name: str, draws: list[Draw], embeddings: list[np.ndarray], progress: Progress
) -> dict[str, Any]:
    """``methods`` and ``difference`` at one length: probes on the embeddings of model ``name`` and on k-mers."""
    classes = len(settings.classes)
    methods: dict[str, list[tuple[np.ndarray, float]]] = {name: [], "kmer": []}
    for draw, embedding in zip(draws, embeddings, strict=True):
        for method, features in ((name, embedding), ("kmer", kmers(draw.tokens, settings.kmer))):
            with threadpool_limits(1):  # threads of BLAS wait for one another longer than they work
                methods[method].append(_probe(features, draw))
            progress.update(1)
    resampled, result = {}, {}
    for method, fitted in methods.items():
        rng = np.random.default_rng(seed)  # the same regions for every method: paired
        matrices = [_by_region(draw, predicted, classes) for draw, (predicted, _) in zip(draws, fitted, strict=True)]
        resampled[method] = [
            _resample(m, draw, rng, settings.bootstrap) for m, draw in zip(matrices, draws, strict=True)
        ]
        result[method] = _summarise(matrices, resampled[method], [c for _, c in fitted], settings)
    return {"methods": result, "difference": _difference(result, resampled, name)}


# ------------------------------------------------------------------------------------------- features


@torch.inference_mode()
def _embed(model: Any, tokenizer: Tokenizer, sequences: np.ndarray, pooling: str, progress: Progress) -> np.ndarray:
    """One vector per sequence, (sequences, D) float32: the mean of the final hidden states, or the last of them.

    ``sequences``: base codes, (sequences, length) uint8. Memory use does not grow with their length.
    """
    device = next(model.parameters()).device
    encoded = [tokenizer.encode(sequence) for sequence in sequences]
    vectors: dict[int, np.ndarray] = {}
    for rows in batches(np.array([len(tokens) for tokens in encoded]), BATCH_TOKENS):
        tokens, sizes = padded([encoded[row] for row in rows])
        if tokens.shape[1] > BATCH_TOKENS:
            pooled = _in_pieces(model, tokens.to(device), pooling)
        else:
            hidden, _ = model.embed(tokens.to(device))
            pooled = pool(hidden.float(), sizes.to(device), pooling)
        vectors.update(zip(rows.tolist(), pooled.cpu().numpy(), strict=True))
        progress.update(len(rows) * sequences.shape[1])
    return np.stack([vectors[row] for row in range(len(encoded))])


def _in_pieces(model: Any, tokens: torch.Tensor, pooling: str) -> torch.Tensor:
    """What `pool` gives for sequences of one length, (B, T), read piece after piece with the state carried on: (B, D) float32."""
    total, state = 0, None
    for piece in tokens.split(BATCH_TOKENS, dim=1):
        hidden, state = model.embed(piece, state)
        total = total + hidden.sum(1, dtype=torch.float64)
    return (total / tokens.shape[1]).float() if pooling == "mean" else hidden[:, -1].float()


def kmers(tokens: np.ndarray, k: int) -> np.ndarray:
    """Frequencies of the k-mers of both strands, (sequences, 4**k) float64; k-mers with N are left out."""
    counts = np.zeros((len(tokens), 4**k))
    n = tokens.shape[1] - k + 1
    for row, sequence in zip(counts, tokens, strict=True):
        for strand in (sequence, reverse_complement(sequence)):
            codes = np.zeros(n, np.int64)
            good = np.ones(n, bool)
            for j in range(k):
                column = strand[j : j + n]
                codes = codes * 4 + (column & 3)
                good &= column < 4
            row += np.bincount(codes[good], minlength=4**k)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# --------------------------------------------------------------------------------------------- probes


def _probe(features: np.ndarray, draw: Draw) -> tuple[np.ndarray, float]:
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


def _by_region(draw: Draw, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix of each test region, (regions, classes, classes); rows are the truth."""
    _, region = np.unique(draw.region[draw.test], return_inverse=True)
    matrices = np.zeros((region.max() + 1, classes, classes))
    np.add.at(matrices, (region, draw.label[draw.test], predicted), 1)
    return matrices


def _resample(matrices: np.ndarray, draw: Draw, rng: np.random.Generator, times: int) -> np.ndarray:
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
    found = of_confusion(confusion)
    return {"accuracy": found["accuracy"], "mcc": found["mcc"], "macro_f1": found["f1"]}


def _summarise(
    matrices: list[np.ndarray], resampled: list[np.ndarray], strengths: list[float], settings: SpeciesConfig
) -> dict[str, Any]:
    """Means over seeds with their intervals, each seed's figures, and the confusion matrix of all seeds."""
    each = [{key: float(v) for key, v in scores(m.sum(0)).items()} for m in matrices]
    spread = [scores(r) for r in resampled]
    result: dict[str, Any] = {}
    for key in each[0]:
        result[key] = float(np.mean([row[key] for row in each]))
        result[f"{key}_ci95"] = interval(np.mean([s[key] for s in spread], 0))
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
        "ci95": interval(mean[name] - mean["kmer"]),
    }


def _save_embeddings(
    path: Path, settings: SpeciesConfig, draws: dict[int, list[Draw]], embeddings: dict[int, list[np.ndarray]]
) -> None:
    """All sequences of all lengths and seeds: embedding, class, length, seed and whether it was a test sequence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [(length, seed, d) for length, of in draws.items() for seed, d in zip(settings.seeds, of, strict=True)]
    sizes = [len(d.label) for _, _, d in every]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            embedding=np.concatenate([e for of in embeddings.values() for e in of]).astype(np.float32),
            species=np.concatenate([d.label for _, _, d in every]),
            names=np.array([entry.species for entry in settings.classes]),
            length=np.repeat([length for length, _, _ in every], sizes),
            seed=np.repeat([seed for _, seed, _ in every], sizes),
            test=np.concatenate([d.test for _, _, d in every]),
        )
