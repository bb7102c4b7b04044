"""What is fitted on frozen features in seconds: a linear probe, nearest neighbours, and k-mer frequencies as the baseline.

All are fitted on the training rows only, and stay so: as in fine-tuning, the validation rows choose (the regularisation, the
number of neighbours, by the headline metric) and are not trained on afterwards. The test labels are never looked at.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import log_expit, log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from titans_genomics.compiling import kernel
from titans_genomics.data.labelled import Labelled
from titans_genomics.tasks.metrics import metrics_of

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse regularisation C, the strongest regularisation first; alpha of ridge regression is 1 / C."""

PATIENCE = 2
"""Strengths in a row with a higher loss on validation than one before them, after which still weaker ones are not tried."""

MOST_DENSE = 1 << 31
"""Bytes of k-mer frequencies above which they stay sparse."""

Features = np.ndarray | sparse.csr_matrix
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """What was chosen on validation, and what it says about the test rows.

    Attributes
    ----------
    scores : np.ndarray
        float32, (test rows, outputs): log-probabilities of the classes, logits of the labels, or values.
    validation : float
        The headline metric on the validation rows.
    chosen : dict
        What was chosen: "C" or "neighbours".
    parameters : int
        Numbers that were fitted; none for nearest neighbours.
    """

    scores: np.ndarray
    validation: float
    chosen: dict[str, Any]
    parameters: int


# -------------------------------------------------------------------------------------------- linear


def linear(features: Features, data: Labelled, rows: Rows) -> Fitted:
    """A linear model on standardised features: logistic regression (of several labels: one for each), or ridge regression.

    Parameters
    ----------
    features : (n, D) float32
        One row per sequence of ``data``; sparse rows are scaled but not centred, which changes nothing but the intercept.
    data : Labelled
        Targets, task and headline metric.
    rows : (train, validation, test)
        Row indices.

    Raises
    ------
    ValueError
        The headline metric is not defined on the validation rows.
    """
    train, validation, test = rows
    scaler = StandardScaler(with_mean=not sparse.issparse(features)).fit(features[train])
    x_train, x_validation = scaler.transform(features[train]), scaler.transform(features[validation])
    model = _MODELS[data.task](len(data.classes))
    best: tuple[float, float, Any] | None = None
    losses: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest regularisations, which rarely win
        for strength in STRENGTHS:
            model.fit(x_train, data.targets[train], strength)
            scores = model.scores(x_validation)
            value = _headline(data, scores, validation)
            if best is None or value > best[0]:  # of equals the strongest
                best = (value, strength, copy.deepcopy(model))
            losses.append(_loss(data.task, scores, data.targets[validation]))
            if len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses):
                break
    assert best is not None
    value, strength, model = best
    scores = model.scores(scaler.transform(features[test])).astype(np.float32)
    return Fitted(scores, value, {"C": strength}, model.parameters)


class _Classes:
    """Logistic regression over classes; one that the training rows lack keeps a small probability."""

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs
        self._model = _logistic()

    def fit(self, features: Features, targets: np.ndarray, strength: float) -> None:
        _need_two(targets, "class")
        self._model.set_params(C=strength).fit(features, targets)

    def scores(self, features: Features) -> np.ndarray:
        logits = self._model.decision_function(features)
        if logits.ndim == 1:  # two classes: those of the second
            logits = np.stack([np.zeros_like(logits), logits], 1)
        scores = np.full((features.shape[0], self._outputs), _UNSEEN)
        scores[:, self._model.classes_] = log_softmax(logits.astype(np.float64), axis=1)
        return scores

    @property
    def parameters(self) -> int:
        return self._model.coef_.size + self._model.intercept_.size


class _Labels:
    """A logistic regression for each label; one that never or always holds in the training rows gets a constant."""

    def __init__(self, outputs: int) -> None:
        self._models = [_logistic() for _ in range(outputs)]
        self._constant: dict[int, float] = {}

    def fit(self, features: Features, targets: np.ndarray, strength: float) -> None:
        for column, model in enumerate(self._models):
            values = np.unique(targets[:, column])
            if len(values) == 1:
                self._constant[column] = -_UNSEEN if values[0] > 0 else _UNSEEN
            else:
                model.set_params(C=strength).fit(features, targets[:, column] > 0)

    def scores(self, features: Features) -> np.ndarray:
        return np.stack(
            [
                np.full(features.shape[0], self._constant[column])
                if column in self._constant
                else model.decision_function(features)
                for column, model in enumerate(self._models)
            ],
            1,
        )

    @property
    def parameters(self) -> int:
        fitted = [model for column, model in enumerate(self._models) if column not in self._constant]
        return sum(model.coef_.size + 1 for model in fitted)


class _Values:
    """Ridge regression."""

    def __init__(self, outputs: int) -> None:
        self._model = Ridge()

    def fit(self, features: Features, targets: np.ndarray, strength: float) -> None:
        self._model.set_params(alpha=1 / strength).fit(features, targets)

    def scores(self, features: Features) -> np.ndarray:
        return self._model.predict(features).reshape(features.shape[0], -1)

    @property
    def parameters(self) -> int:
        return self._model.coef_.size + np.size(self._model.intercept_)


_MODELS: dict[str, Any] = {"classification": _Classes, "multilabel": _Labels, "regression": _Values}
_UNSEEN = -20.0
"""Log-probability of a class that was not in training."""


def _logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=1000, warm_start=True)  # from the solution of the strength before


def _need_two(targets: np.ndarray, what: str) -> None:
    if len(np.unique(targets)) < 2:
        raise ValueError(f"the training rows have one {what} only; there is nothing to tell apart")


def _loss(task: str, scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy, or squared error: smooth along the path of strengths, as the headline metric is not."""
    if task == "classification":
        return -float(scores[np.arange(len(targets)), targets].mean())
    if task == "multilabel":
        return -float(log_expit(np.where(targets > 0, scores, -scores)).mean())
    return float(np.square(scores - targets).mean())


def _headline(data: Labelled, scores: np.ndarray, rows: np.ndarray) -> float:
    """The headline metric of some rows."""
    found = metrics_of(data.task, scores, data.targets[rows])
    if data.metric not in found:
        raise ValueError(
            f"{data.name}: {data.metric} is not defined on the {len(rows)} validation sequences (one class only?); "
            "raise downstream.validation, or choose another metric"
        )
    return found[data.metric]


# ----------------------------------------------------------------------------------- nearest neighbours


def neighbours(features: np.ndarray, data: Labelled, rows: Rows, counts: Sequence[int]) -> Fitted:
    """The k training sequences at the smallest cosine distance of standardised features vote; k is chosen on validation.

    Scores: log-probabilities of the classes, (votes + 1 / classes) / (k + 1); logits of the labels likewise; or mean values.
    Of two numbers of neighbours that are equally good the first wins. A number above that of training rows stands for all of them.

    Raises
    ------
    ValueError
        The headline metric is not defined on the validation rows.
    """
    train, validation, _ = rows
    scaler = StandardScaler().fit(features[train])
    # Of vectors of length one, the Euclidean distance orders as the cosine does, and its search is the fast one.
    unit = [normalize(scaler.transform(features[part])) for part in rows]
    counts = list(dict.fromkeys(min(count, len(train)) for count in counts))
    search = NearestNeighbors(n_neighbors=max(counts), algorithm="brute").fit(unit[0])
    near = search.kneighbors(unit[1], return_distance=False)
    values = [_headline(data, _votes(data, train, near[:, :k]), validation) for k in counts]
    best = int(np.argmax(values))
    near = search.kneighbors(unit[2], counts[best], return_distance=False)
    scores = _votes(data, train, near).astype(np.float32)
    return Fitted(scores, values[best], {"neighbours": counts[best]}, 0)


def _votes(data: Labelled, train: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Scores (rows, outputs) of what the neighbours ``near`` (rows, k; places in ``train``) are."""
    k = near.shape[1]
    targets = data.targets[train]
    if data.task == "classification":
        own = targets[near]
        votes = np.stack([(own == c).sum(1) for c in range(len(data.classes))], 1)
        return np.log((votes + 1 / len(data.classes)) / (k + 1))
    total = np.zeros((len(near), len(data.classes)))
    for column in range(k):  # one neighbour at a time: rows x k x outputs may be large
        total += targets[near[:, column]].reshape(total.shape)
    if data.task == "regression":
        return total / k
    share = (total + 0.5) / (k + 1)
    return np.log(share / (1 - share))


# ---------------------------------------------------------------------------------------------- k-mers


def kmer_features(data: Labelled, k: int, both: bool = True) -> Features:
    """k-mer frequencies of every sequence, dense when that is not too large: (n, columns) float32."""
    counts = kmer_frequencies(data.codes, data.offsets, k, both)
    return counts.toarray() if counts.shape[0] * counts.shape[1] * 4 <= MOST_DENSE else counts


def kmer_frequencies(codes: np.ndarray, offsets: np.ndarray, k: int, both: bool = True) -> sparse.csr_matrix:
    """How often each k-mer stands on both strands (or on the one given), as a share of all k-mers of the sequence.

    Parameters
    ----------
    codes : uint8
        Base codes of all sequences one after the other; k-mers with N are left out.
    offsets : (n + 1,) int64
        Where each sequence begins and ends in ``codes``.
    k : int
        1 to 8.
    both : bool
        Of both strands.

    Returns
    -------
    scipy.sparse.csr_matrix
        float32, (n, columns). Of one strand the columns are all k-mers. Of both, a k-mer and its reverse complement are equally frequent, so they share a column: the columns are
        the k-mers not above their reverse complements, in the order A C G T. A sequence shorter than k has a row of zeros.
    """
    assert 1 <= k <= 8
    words = np.arange(4**k)
    turned, left = np.zeros_like(words), words.copy()
    for _ in range(k):
        turned = 4 * turned + 3 - left % 4
        left //= 4
    if both:
        kept = np.flatnonzero(words <= turned)
        column = np.searchsorted(kept, np.minimum(words, turned)).astype(np.int32)
        twice = (kept == turned[kept]).astype(np.int64) + 1  # a palindrome stands on both strands at once
    else:
        kept, column, twice = words, words.astype(np.int32), np.full(4**k, 2, np.int64)
    most = int(np.minimum(np.maximum(np.diff(offsets) - k + 1, 0), len(kept)).sum())
    indices, values = np.empty(most, np.int32), np.empty(most, np.float32)
    ends = np.zeros(len(offsets), np.int64)
    _count(np.ascontiguousarray(codes), np.ascontiguousarray(offsets), k, column, twice, indices, values, ends)
    matrix = sparse.csr_matrix(
        (values[: ends[-1]], indices[: ends[-1]], ends), shape=(len(offsets) - 1, len(kept)), copy=False
    )
    matrix.sort_indices()
    return matrix


@kernel
def _count(codes, offsets, k, column, twice, indices, values, ends):
    """Fill the rows of a sparse matrix; ``ends[row + 1]`` is where a row ends in ``indices`` and ``values``."""
    counts = np.zeros(len(twice), np.int64)
    mask = 4**k - 1
    at = 0
    for row in range(len(offsets) - 1):
        first, word, clean, total = at, 0, 0, 0
        for i in range(offsets[row], offsets[row + 1]):
            base = codes[i]
            if base > 3:
                clean = 0
                continue
            word = (word * 4 + base) & mask
            clean += 1
            if clean >= k:
                own = column[word]
                if counts[own] == 0:
                    indices[at] = own
                    at += 1
                counts[own] += 1
                total += 1
        for i in range(first, at):
            own = indices[i]
            values[i] = counts[own] * twice[own] / (2 * total)
            counts[own] = 0
        ends[row + 1] = at
