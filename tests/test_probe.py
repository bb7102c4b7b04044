"""Probes on frozen features: what scikit-learn says with the choice made on validation, and k-mers of mixed lengths."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from titans_genomics.data.alphabet import decode, encode, reverse_complement
from titans_genomics.data.labelled import Labelled
from titans_genomics.tasks import probe
from titans_genomics.tasks.metrics import metrics_of
from titans_genomics.tasks.species import kmers

METRICS = {"classification": "accuracy", "multilabel": "auroc", "regression": "r2"}


def labelled(targets, task="classification", classes=3, sequences=None):
    """A dataset with given targets; its sequences are single bases unless they matter."""
    n = len(targets)
    sequences = sequences if sequences is not None else [np.zeros(1, np.uint8)] * n
    return Labelled(
        name="made",
        task=task,
        classes=tuple(f"c{i}" for i in range(classes)),
        metric=METRICS[task],
        ids=[str(i) for i in range(n)],
        codes=np.concatenate(sequences),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        targets=targets,
        split=np.zeros(n, np.uint8),
        groups=None,
        copies=np.zeros(n, np.uint8),
        info={},
    )


def rows_of(n):
    """Training, validation and test rows, interleaved."""
    rows = np.arange(n)
    return rows[rows % 4 < 2], rows[rows % 4 == 2], rows[rows % 4 == 3]


def clouds(n=240, classes=3, width=8, spread=2.0, seed=0):
    """Features of classes that overlap, of unequal scale, and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    centres = rng.normal(size=(classes, width))
    features = (centres[label] + spread * rng.normal(size=(n, width))) * 10.0 ** rng.integers(-2, 3, width) + 5
    return features.astype(np.float32), label


# ------------------------------------------------------------------------------------------- linear


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_is_logistic_regression_with_the_strength_that_is_best_on_validation(classes):
    features, label = clouds(classes=classes)
    data, rows = labelled(label, classes=classes), rows_of(len(label))
    train, validation, test = rows
    found = probe.linear(features, data, rows)
    values, losses = [], []
    for strength in probe.STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000, tol=1e-8))
        said = model.fit(features[train], label[train]).predict_log_proba(features[validation])
        values.append(metrics_of("classification", said, label[validation])["accuracy"])
        losses.append(log_loss(label[validation], np.exp(said)))
        if min(losses[-probe.PATIENCE :]) > min(losses):
            break
    assert found.validation == max(values)
    assert found.chosen["C"] == probe.STRENGTHS[int(np.argmax(values))]
    model.set_params(logisticregression__C=found.chosen["C"]).fit(features[train], label[train])
    np.testing.assert_allclose(found.scores, model.predict_log_proba(features[test]), atol=2e-2)
    assert found.scores.dtype == np.float32
    assert found.parameters == (classes if classes > 2 else 1) * (features.shape[1] + 1)


def test_a_rare_class_does_not_end_the_search_at_strengths_that_always_say_the_other():
    features, label = clouds(classes=2, spread=0.4)
    kept = np.flatnonzero((label == 0) | (np.arange(len(label)) % 8 < 3))
    features, label = features[kept], label[kept]
    found = probe.linear(features, labelled(label, classes=2), rows_of(len(label)))
    assert found.validation == 1
    assert set(found.scores.argmax(1)) == {0, 1}


@pytest.mark.parametrize("method", ["linear", "neighbours"])
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_test_labels_are_never_looked_at(method, task):
    features, label = clouds()
    targets = {
        "classification": label,
        "multilabel": np.stack([label == 0, label > 0, label == 2], 1).astype(np.float32),
        "regression": features[:, :3] + label[:, None].astype(np.float32),
    }[task]
    rows = rows_of(len(label))
    other = targets.copy()
    other[rows[2]] = np.random.default_rng(1).permutation(other[rows[2]]) * 0
    fit = probe.linear if method == "linear" else lambda *given: probe.neighbours(*given, (1, 5))
    one, two = fit(features, labelled(targets, task), rows), fit(features, labelled(other, task), rows)
    np.testing.assert_array_equal(one.scores, two.scores)
    assert one.scores.shape == (len(rows[2]), 3)
    assert (one.validation, one.chosen) == (two.validation, two.chosen)


def test_sparse_and_dense_features_give_the_same_probe():
    rng = np.random.default_rng(3)
    features = (rng.random((240, 30)) * (rng.random((240, 30)) < 0.3)).astype(np.float32)
    label = (features[:, 0] + features[:, 1] + 0.5 * rng.normal(size=240) > features[:, 2] + 0.1).astype(np.int64)
    data, rows = labelled(label, classes=2), rows_of(240)
    dense, thin = probe.linear(features, data, rows), probe.linear(sparse.csr_matrix(features), data, rows)
    assert dense.chosen == thin.chosen
    np.testing.assert_allclose(dense.scores, thin.scores, atol=3e-2)


def test_a_class_that_training_lacks_keeps_a_small_probability():
    features, label = clouds(classes=3)
    rows = rows_of(len(label))
    rows = (rows[0][label[rows[0]] != 1], *rows[1:])
    for found in (
        probe.linear(features, labelled(label), rows),
        probe.neighbours(features, labelled(label), rows, (5,)),
    ):
        assert np.isfinite(found.scores).all()
        assert not (found.scores.argmax(1) == 1).any()


def test_each_label_has_a_regression_of_its_own_and_one_that_never_varies_a_constant():
    features, label = clouds()
    targets = np.stack([label == 0, label == 2, np.zeros_like(label), np.ones_like(label)], 1).astype(np.float32)
    data, rows = labelled(targets, "multilabel", 4), rows_of(len(label))
    found = probe.linear(features, data, rows)
    scaler = StandardScaler().fit(features[rows[0]])
    for column in (0, 1):
        model = LogisticRegression(C=found.chosen["C"], max_iter=5000)
        model.fit(scaler.transform(features[rows[0]]), targets[rows[0], column])
        expected = model.decision_function(scaler.transform(features[rows[2]]))
        np.testing.assert_allclose(found.scores[:, column], expected, atol=2e-2)
    assert (found.scores[:, 2] < -10).all()
    assert (found.scores[:, 3] > 10).all()


def test_regression_is_ridge_with_the_strength_that_is_best_on_validation():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(120, 40)).astype(np.float32)
    targets = (features[:, :2] + 2 * rng.normal(size=(120, 2))).astype(np.float32)
    data, rows = labelled(targets, "regression", 2), rows_of(120)
    train, validation, test = rows
    found = probe.linear(features, data, rows)
    models = {
        c: make_pipeline(StandardScaler(), Ridge(1 / c)).fit(features[train], targets[train]) for c in probe.STRENGTHS
    }
    values = {
        c: metrics_of("regression", m.predict(features[validation]), targets[validation])["r2"]
        for c, m in models.items()
    }
    assert found.chosen["C"] == max(values, key=values.get)
    assert found.validation == pytest.approx(max(values.values()), rel=1e-4)
    np.testing.assert_allclose(found.scores, models[found.chosen["C"]].predict(features[test]), atol=1e-3)


def test_a_metric_that_validation_cannot_give_is_an_error_that_says_what_to_do():
    features, label = clouds()
    targets = (label == 0).astype(np.float32)[:, None]
    rows = rows_of(len(label))
    rows = (rows[0], rows[1][label[rows[1]] == 0], rows[2])
    with pytest.raises(
        ValueError, match=r"made: auroc is not defined on the \d+ validation sequences.*downstream.validation"
    ):
        probe.linear(features, labelled(targets, "multilabel", 1), rows)


def test_one_class_in_training_is_an_error():
    features, label = clouds()
    with pytest.raises(ValueError, match="one class only"):
        probe.linear(features, labelled(np.zeros_like(label)), rows_of(len(label)))


# ----------------------------------------------------------------------------------- nearest neighbours


@pytest.mark.parametrize("k", [1, 4, 7])
def test_neighbours_vote_as_in_scikit_learn(k):
    features, label = clouds()
    data, rows = labelled(label), rows_of(len(label))
    train, _, test = rows
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(k, metric="cosine", algorithm="brute"))
    share = model.fit(features[train], label[train]).predict_proba(features[test])
    found = probe.neighbours(features, data, rows, (k,))
    np.testing.assert_allclose(found.scores, np.log((share * k + 1 / 3) / (k + 1)), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.scores).sum(1), 1, rtol=1e-5)
    assert found.chosen == {"neighbours": k}


def test_the_number_of_neighbours_is_chosen_on_validation():
    features, label = clouds()
    data, rows = labelled(label), rows_of(len(label))
    each = {k: probe.neighbours(features, data, rows, (k,)) for k in (1, 5, 20)}
    found = probe.neighbours(features, data, rows, (1, 5, 20))
    best = max(each, key=lambda k: each[k].validation)
    assert found.chosen == {"neighbours": best}
    np.testing.assert_array_equal(found.scores, each[best].scores)


def test_more_neighbours_than_training_rows_stand_for_all_of_them():
    features, label = clouds(n=40)
    found = probe.neighbours(features, labelled(label), rows_of(40), (20, 500))
    assert found.chosen == {"neighbours": 20}
    assert np.ptp(found.scores, 0).max() == 0


# ---------------------------------------------------------------------------------------------- k-mers


def canonical(k):
    """Codes of the k-mers that are not above their reverse complements."""
    words = np.stack(np.unravel_index(np.arange(4**k), (4,) * k), 1).astype(np.uint8)
    turned = np.ravel_multi_index(tuple(reverse_complement(words).T.astype(int)), (4,) * k)
    return np.flatnonzero(np.arange(4**k) <= turned)


def stacked(sequences):
    return np.concatenate(sequences), np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_kmer_frequencies_are_those_of_both_strands(k):
    rng = np.random.default_rng(k)
    tokens = rng.choice(5, (6, 50), p=[0.3, 0.2, 0.2, 0.25, 0.05]).astype(np.uint8)
    found = probe.kmer_frequencies(*stacked(list(tokens)), k)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), kmers(tokens, k)[:, canonical(k)], rtol=1e-6)


def test_kmer_frequencies_of_the_strand_given():
    (row,) = probe.kmer_frequencies(*stacked([encode("AACGT")]), 2, both=False).toarray()
    assert {decode(np.array(divmod(i, 4), np.uint8)): value for i, value in enumerate(row) if value} == {
        "AA": 0.25, "AC": 0.25, "CG": 0.25, "GT": 0.25,
    }  # fmt: skip


def test_kmers_of_mixed_lengths_are_those_of_each_sequence_alone_on_either_strand():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 4, n).astype(np.uint8) for n in (1, 300, 4, 57, 3)] + [np.full(9, 4, np.uint8)]
    found = probe.kmer_frequencies(*stacked(sequences), 4).toarray()
    turned = probe.kmer_frequencies(*stacked([reverse_complement(s) for s in sequences]), 4).toarray()
    np.testing.assert_array_equal(found, turned)
    for row, sequence in zip(found, sequences, strict=True):
        np.testing.assert_array_equal(row, probe.kmer_frequencies(*stacked([sequence]), 4).toarray()[0])
    assert found.sum(1)[[0, 4, 5]].tolist() == [0, 0, 0]


def test_kmers_stay_sparse_where_they_would_be_too_large(monkeypatch):
    rng = np.random.default_rng(0)
    data = labelled(np.zeros(3), sequences=[rng.integers(0, 4, 40).astype(np.uint8) for _ in range(3)])
    dense = probe.kmer_features(data, 8)
    monkeypatch.setattr(probe, "MOST_DENSE", 1000)
    thin = probe.kmer_features(data, 8)
    assert isinstance(dense, np.ndarray)
    assert sparse.issparse(thin)
    np.testing.assert_array_equal(thin.toarray(), dense)
