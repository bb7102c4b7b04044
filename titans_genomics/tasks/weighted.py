"""Metrics of sequences with weights.

Unit weights give the metric itself. The weights of a resampled test set say how often each sequence was drawn: what
depends on the scores alone, such as their order, is found once, whatever the number of resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.special import logsumexp

Weighted = Callable[[np.ndarray], dict[str, float]]
"""From weights, float64 (n,), to metrics; NaN where one is not defined."""


def parts(task: str, scores: np.ndarray, targets: np.ndarray, wanted: Sequence[str]) -> Iterator[Weighted]:
    """The metrics of a task in parts, each made when it is asked for; a metric is the mean over the parts that have it.

    Parameters
    ----------
    task
        classification: one part has the metrics of the predicted classes, and one for each class (class 1 alone when
        there are two) those of the ranking. multilabel and regression: one part for each label or output.
    scores, targets
        As in `metrics.metrics_of`.
    wanted
        Names of the metrics.
    """
    if task != "classification":
        columns = targets.reshape(scores.shape)
        make = _label if task == "multilabel" else _values
        for i in range(scores.shape[1]):
            yield make(scores[:, i].astype(np.float64), columns[:, i].astype(np.float64), wanted)
        return
    classes = scores.shape[1]
    if _in_order(wanted, "accuracy", "mcc", "f1"):
        yield _classes(targets, scores.argmax(1), classes, wanted)
    if not _in_order(wanted, "auroc", "auprc"):
        return
    scores = scores.astype(np.float64)
    for i in [1] if classes == 2 else range(classes):
        # Log-odds against the rest: the order of the probabilities, without their ties near 0 and 1; float32, as the
        # last bits of a sum would part sequences that tie.
        odds = scores[:, i] - logsumexp(np.delete(scores, i, axis=1), axis=1)
        yield _ranking(odds.astype(np.float32), targets == i, wanted)


def of_confusion(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, Matthews correlation and macro F1 of confusion matrices.

    Parameters
    ----------
    matrices
        Shape (..., classes, classes), rows are the truth; counts, or sums of weights.

    Returns
    -------
    dict
        ``accuracy``, ``mcc`` and ``f1``, float64, shape (...); ``mcc`` is 0 when one class only is predicted, and NaN
        when one only is true. Classes that are neither true nor predicted do not count for ``f1``.
    """
    matrices = np.asarray(matrices, np.float64)
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    truth, guess = matrices.sum(-1), matrices.sum(-2)
    right, total = hits.sum(-1), truth.sum(-1)
    of_truth, of_guess = total**2 - (truth**2).sum(-1), total**2 - (guess**2).sum(-1)
    mcc = _divide(right * total - (truth * guess).sum(-1), np.sqrt(of_truth * of_guess), otherwise=0.0)
    f1 = _divide(2 * hits, truth + guess, otherwise=0.0)
    return {
        "accuracy": _divide(right, total),
        "mcc": np.where(of_truth > 0, mcc, np.nan),
        "f1": _divide(f1.sum(-1), (truth + guess > 0).sum(-1)),
    }


def _classes(truth: np.ndarray, guess: np.ndarray, classes: int, wanted: Sequence[str]) -> Weighted:
    """Metrics of predicted classes."""
    names = _in_order(wanted, "accuracy", "mcc", "f1")
    cell = truth * classes + guess

    def of(weights: np.ndarray) -> dict[str, float]:
        if not names:
            return {}
        found = of_confusion(np.bincount(cell, weights, classes**2).reshape(classes, classes))
        return {name: float(found[name]) for name in names}

    return of


def _label(scores: np.ndarray, truth: np.ndarray, wanted: Sequence[str]) -> Weighted:
    """Metrics of one label, 1 where the score is above 0; F1 is that of 1, not defined where 1 is neither true nor predicted."""
    guess = (scores > 0).astype(np.int64)
    two_classes = _classes(truth.astype(np.int64), guess, 2, _in_order(wanted, "accuracy", "mcc"))
    ranking = _ranking(scores, truth > 0, wanted)
    twice_both, sum_of_both = 2 * truth * guess, truth + guess

    def of(weights: np.ndarray) -> dict[str, float]:
        f1 = {"f1": float(_divide(twice_both @ weights, sum_of_both @ weights))} if "f1" in wanted else {}
        return two_classes(weights) | f1 | ranking(weights)

    return of


def _ranking(scores: np.ndarray, truth: np.ndarray, wanted: Sequence[str]) -> Weighted:
    """Area under the ROC curve and average precision of a score; NaN unless both kinds occur."""
    names = _in_order(wanted, "auroc", "auprc")
    if not names:
        return lambda weights: {}
    order = np.argsort(-scores, kind="stable")
    firsts = _firsts(scores[order])
    positive = truth[order].astype(np.float64)

    def of(weights: np.ndarray) -> dict[str, float]:
        weights = weights[order]
        hits, drawn = _sums(weights * positive, firsts), _sums(weights, firsts)
        hits_upto, upto = np.cumsum(hits), np.cumsum(drawn)
        all_hits, all_misses = hits_upto[-1], upto[-1] - hits_upto[-1]
        found = dict.fromkeys(names, np.nan)
        if all_hits > 0 and all_misses > 0:
            if "auroc" in names:  # positives above each negative, and half of those of the same score
                found["auroc"] = float((drawn - hits) @ (hits_upto - hits / 2) / (all_hits * all_misses))
            if "auprc" in names:
                found["auprc"] = float(hits @ _divide(hits_upto, upto, otherwise=0.0) / all_hits)
        return found

    return of


def _values(scores: np.ndarray, truth: np.ndarray, wanted: Sequence[str]) -> Weighted:
    """Metrics of one output of regression; NaN where the values that are compared do not differ."""
    ranks = [_ranks(scores), _ranks(truth)] if "spearman" in wanted else []

    def of(weights: np.ndarray) -> dict[str, float]:
        found = {}
        if "r2" in wanted:
            found["r2"] = float(1 - _divide(weights @ (truth - scores) ** 2, weights @ _centred(truth, weights) ** 2))
        if "pearson" in wanted:
            found["pearson"] = _correlation(scores, truth, weights)
        if "spearman" in wanted:
            found["spearman"] = _correlation(*(rank(weights) for rank in ranks), weights)
        return found

    return of


def _ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ranks among the sequences that weights draw; those of equal values share theirs."""
    order = np.argsort(values, kind="stable")
    firsts = _firsts(values[order])
    place = np.empty(len(values), np.int64)
    place[order] = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(values)))

    def of(weights: np.ndarray) -> np.ndarray:
        drawn = _sums(weights[order], firsts)
        return (np.cumsum(drawn) - drawn / 2)[place]

    return of


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    x, y = _centred(x, weights), _centred(y, weights)
    return float(_divide(weights @ (x * y), np.sqrt((weights @ x**2) * (weights @ y**2))))


def _centred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values less their mean; exactly 0 when all that are drawn are the same."""
    drawn = values[weights > 0]
    if (drawn == drawn[0]).all():
        return np.zeros(len(values))
    return values - weights @ values / weights.sum()


def _in_order(wanted: Sequence[str], *names: str) -> list[str]:
    return [name for name in names if name in wanted]


def _divide(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """Quotient; ``otherwise`` where ``below`` is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0)


def _firsts(ordered: np.ndarray) -> np.ndarray:
    """Where another value begins."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def _sums(values: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Sums of the stretches of values that begin at ``firsts``."""
    return values if len(firsts) == len(values) else np.add.reduceat(values, firsts)
