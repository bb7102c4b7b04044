from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from scipy import stats
from scipy.special import softmax
from sklearn import metrics as sk

from titans_genomics.tasks import metrics as metrics_module
from titans_genomics.tasks.metrics import (
    METRICS,
    bootstrap,
    calibration,
    check_metric,
    confusion,
    interval,
    metrics_of,
    paired_difference,
    resamples_within,
)
from titans_genomics.tasks.weighted import of_confusion, parts


def classified(n, classes, seed, skill=1.0, ties=False):
    """Logits and targets, some of which the logits tell."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=n)
    scores = rng.normal(size=(n, classes)) + skill * np.eye(classes)[targets]
    return (np.round(scores * 2) / 2 if ties else scores).astype(np.float32), targets


def labelled(n, labels, seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, labels)) < rng.uniform(0.1, 0.6, size=labels)).astype(np.float32)
    return (rng.normal(size=(n, labels)) + targets - 0.5).round(1).astype(np.float32), targets


def measured(n, outputs, seed, ties=False):
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(n, outputs))
    scores = targets + rng.normal(size=(n, outputs))
    return tuple((x.round() if ties else x).astype(np.float32) for x in (scores, targets))


def sklearn_classification(scores, targets):
    guess, probability = scores.argmax(1), softmax(scores.astype(np.float64), axis=1).round(12)
    found = {
        "accuracy": sk.accuracy_score(targets, guess),
        "mcc": sk.matthews_corrcoef(targets, guess),
        "f1": sk.f1_score(targets, guess, average="macro"),
    }
    of = [1] if scores.shape[1] == 2 else [i for i in range(scores.shape[1]) if 0 < (targets == i).mean() < 1]
    found["auroc"] = np.mean([sk.roc_auc_score(targets == i, probability[:, i]) for i in of])
    found["auprc"] = np.mean([sk.average_precision_score(targets == i, probability[:, i]) for i in of])
    return found


# ---------------------------------------------------------------------------- against other libraries


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("n", [40, 1000])
def test_classification_is_that_of_sklearn(n, classes, ties):
    scores, targets = classified(n, classes, seed=classes, ties=ties)
    expected = sklearn_classification(scores, targets)
    found = metrics_of("classification", scores, targets)
    assert list(found) == list(METRICS["classification"])
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_is_that_of_torchmetrics(classes):
    scores, targets = classified(500, classes, seed=1)
    found = metrics_of("classification", scores, targets)
    logits, truth = torch.tensor(scores), torch.tensor(targets)
    options = {"task": "multiclass", "num_classes": classes}
    assert found["accuracy"] == pytest.approx(float(tm.accuracy(logits, truth, average="micro", **options)))
    assert found["mcc"] == pytest.approx(float(tm.matthews_corrcoef(logits, truth, **options)), abs=1e-6)
    assert found["f1"] == pytest.approx(float(tm.f1_score(logits, truth, average="macro", **options)), abs=1e-6)
    if classes > 2:
        assert found["auroc"] == pytest.approx(float(tm.auroc(logits, truth, **options)), abs=1e-5)
        assert found["auprc"] == pytest.approx(float(tm.average_precision(logits, truth, **options)), abs=1e-5)
    else:
        one = torch.tensor(softmax(scores, axis=1)[:, 1])
        assert found["auroc"] == pytest.approx(float(tm.auroc(one, truth, task="binary")), abs=1e-5)
        assert found["auprc"] == pytest.approx(float(tm.average_precision(one, truth, task="binary")), abs=1e-5)


def test_multilabel_is_that_of_sklearn_and_torchmetrics():
    scores, targets = labelled(300, 5, seed=2)
    found = metrics_of("multilabel", scores, targets)
    guess = (scores > 0).astype(int)
    each = range(5)
    assert found == pytest.approx(
        {
            "accuracy": (guess == targets).mean(),
            "mcc": np.mean([sk.matthews_corrcoef(targets[:, i], guess[:, i]) for i in each]),
            "f1": sk.f1_score(targets, guess, average="macro"),
            "auroc": sk.roc_auc_score(targets, scores, average="macro"),
            "auprc": sk.average_precision_score(targets, scores, average="macro"),
        }
    )
    options = {"task": "multilabel", "num_labels": 5}
    logits, truth = torch.tensor(scores), torch.tensor(targets).long()
    assert found["auroc"] == pytest.approx(float(tm.auroc(torch.sigmoid(logits.double()), truth, **options)), abs=1e-5)
    assert found["f1"] == pytest.approx(
        float(tm.f1_score(torch.tensor(guess), truth, average="macro", **options)), abs=1e-6
    )


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_is_that_of_sklearn_scipy_and_torchmetrics(outputs, ties):
    scores, targets = measured(200, outputs, seed=3, ties=ties)
    found = metrics_of("regression", scores, targets)
    each = range(outputs)
    assert found == pytest.approx(
        {
            "r2": sk.r2_score(targets, scores),
            "pearson": np.mean([stats.pearsonr(targets[:, i], scores[:, i]).statistic for i in each]),
            "spearman": np.mean([stats.spearmanr(targets[:, i], scores[:, i]).statistic for i in each]),
        },
        abs=1e-6,
    )
    spearman = tm.spearman_corrcoef(torch.tensor(scores).squeeze(1), torch.tensor(targets).squeeze(1))
    assert found["spearman"] == pytest.approx(float(spearman.mean()), abs=1e-4)


@pytest.mark.parametrize("task", METRICS)
def test_weights_stand_for_sequences_that_stand_there_more_often(task):
    make = {"classification": lambda: classified(60, 3, 4), "multilabel": lambda: labelled(60, 1, 4)}
    scores, targets = make.get(task, lambda: measured(60, 1, 4, ties=True))()
    weights = np.random.default_rng(5).integers(0, 4, size=60)
    found = [of(weights.astype(float)) for of in parts(task, scores, targets, METRICS[task])]
    drawn = np.repeat(np.arange(60), weights)
    expected = metrics_of(task, scores[drawn], targets[drawn])
    assert set(expected) == set(METRICS[task])
    for name, value in expected.items():
        assert np.mean([own[name] for own in found if name in own]) == pytest.approx(value, abs=1e-9)


# ----------------------------------------------------------------------------------- degenerate cases


@pytest.mark.parametrize("classes", [2, 3])
def test_one_class_in_test_leaves_accuracy_and_f1(classes):
    scores, _ = classified(30, classes, seed=6)
    targets = np.ones(30, dtype=np.int64)
    found = metrics_of("classification", scores, targets)
    assert set(found) == {"accuracy", "f1"}
    assert found["f1"] == pytest.approx(sk.f1_score(targets, scores.argmax(1), average="macro", zero_division=0))


def test_one_prediction_for_all_is_chance():
    scores, targets = np.tile(np.float32([[0.5, -1.0]]), (40, 1)), np.arange(40) % 2
    assert metrics_of("classification", scores, targets) == pytest.approx(
        {"accuracy": 0.5, "mcc": 0.0, "f1": 1 / 3, "auroc": 0.5, "auprc": 0.5}
    )


def test_class_that_test_lacks_is_left_out_of_macro_means():
    scores, targets = classified(80, 4, seed=7)
    targets[targets == 3] = 0
    assert (scores.argmax(1) == 3).any()
    assert metrics_of("classification", scores, targets) == pytest.approx(sklearn_classification(scores, targets))
    scores[:, 3] = -50
    expected = sklearn_classification(scores, targets)
    assert metrics_of("classification", scores, targets) == pytest.approx(expected, abs=1e-6)


def test_labels_without_positives_are_left_out():
    scores, targets = labelled(50, 3, seed=8)
    targets[:, 2] = 0
    scores[:, 2] = -1
    two = metrics_of("multilabel", scores[:, :2], targets[:, :2])
    found = metrics_of("multilabel", scores, targets)
    assert found.pop("accuracy") == pytest.approx((2 * two.pop("accuracy") + 1) / 3)
    assert found == pytest.approx(two)
    assert metrics_of("multilabel", scores[:, 2:], targets[:, 2:]) == {"accuracy": 1.0}


def test_constant_values_have_no_correlation():
    scores, targets = measured(20, 1, seed=9)
    assert set(metrics_of("regression", np.full((20, 1), 0.1), targets)) == {"r2"}
    assert metrics_of("regression", scores, np.full((20, 1), 0.1)) == {}


def test_probabilities_near_1_do_not_tie():
    scores = np.float32([[0, 60], [0, 50], [0, 55], [0, 70]])
    assert metrics_of("classification", scores, np.array([1, 0, 0, 1]))["auroc"] == 1.0
    three = np.concatenate([np.zeros((4, 1)), scores], axis=1)
    assert metrics_of("classification", three, np.array([2, 1, 1, 2]))["auroc"] > 0.9


def test_diverged_scores_are_an_error():
    scores, targets = classified(10, 2, seed=10)
    scores[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"sequence 7 .*diverged"):
        metrics_of("classification", scores, targets)


def test_metric_that_does_not_fit():
    check_metric("auroc", "multilabel")
    with pytest.raises(ValueError, match=r"metric r2 does not fit classification; choose one of accuracy, "):
        check_metric("r2", "classification")
    scores, targets = classified(10, 2, seed=10)
    with pytest.raises(ValueError, match="spearman does not fit classification"):
        paired_difference("classification", "spearman", [scores], [scores], targets, 10, 0)


# ------------------------------------------------------------------------------------------ bootstrap


def test_interval_of_accuracy_is_that_of_the_binomial():
    n, right = 400, 300
    targets = np.zeros(n, dtype=np.int64)
    targets[::2] = 1
    guess = np.where(np.arange(n) < right, targets, 1 - targets)
    scores = np.eye(2, dtype=np.float32)[guess]
    low, high = bootstrap("classification", [scores], targets, 4_000, 0)["accuracy"]
    expected = stats.binom(n, right / n).ppf([0.025, 0.975]) / n
    assert [low, high] == pytest.approx(expected, abs=0.006)


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for draw in range(120):
        rng = np.random.default_rng(draw)
        targets = rng.integers(2, size=150)
        guess = np.where(rng.random(150) < 0.8, targets, 1 - targets)
        low, high = bootstrap("classification", [np.eye(2)[guess]], targets, 100, draw)["accuracy"]
        held += low <= 0.8 <= high
    assert 0.87 <= held / 120 <= 0.99


@pytest.mark.parametrize("task", METRICS)
def test_bootstrap_is_that_of_resampled_sequences(task):
    n, times = 50, 60
    make = {"classification": lambda s: classified(n, 3, s), "multilabel": lambda s: labelled(n, 2, s)}
    made = make.get(task, lambda s: measured(n, 2, s))
    targets = made(11)[1]
    seeds = [made(seed)[0] for seed in (11, 12, 13)]
    found = bootstrap(task, seeds, targets, times, 13)
    assert set(found) == set(METRICS[task])
    rng, of_seeds = np.random.default_rng(13), np.random.default_rng((13, 3))
    rows = []
    for _ in range(times):
        drawn = rng.integers(n, size=n)  # one draw of sequences for all seeds
        chosen = [seeds[i] for i in of_seeds.integers(3, size=2)]
        rows.append([metrics_of(task, scores[drawn], targets[drawn]) for scores in chosen])
    for name, ends in found.items():
        expected = np.quantile([np.mean([own[name] for own in row]) for row in rows], [0.025, 0.975])
        assert ends == pytest.approx(expected, abs=1e-9)
    assert bootstrap(task, seeds, targets, times, 13) == found
    assert bootstrap(task, seeds, targets, times, 14) != found


def test_one_seed_has_the_interval_of_resampled_sequences():
    scores, targets = classified(80, 3, seed=30)
    found = bootstrap("classification", [scores], targets, 100, 4)["accuracy"]
    rng = np.random.default_rng(4)
    right = scores.argmax(1) == targets
    expected = [right[rng.integers(80, size=80)].mean() for _ in range(100)]
    assert found == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    assert bootstrap("classification", [scores] * 5, targets, 100, 4)["accuracy"] == pytest.approx(found)


def test_interval_spans_the_spread_of_seeds():
    """Of seeds with all but the same test sequences right the spread of the mean is that of the seeds, s / sqrt(S)."""
    n, seeds = 20_000, 20
    targets = np.arange(n) % 2
    skills = np.random.default_rng(31).uniform(0.6, 0.9, size=seeds)
    scores = [np.eye(2)[np.where(np.arange(n) % 1000 < 1000 * skill, targets, 1 - targets)] for skill in skills]
    low, high = bootstrap("classification", scores, targets, 400, 0)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * skills.std(ddof=1) / np.sqrt(seeds), rel=0.15)


@pytest.mark.parametrize("task", METRICS)
def test_copies_in_one_unit_count_once(task):
    n = 60
    make = {"classification": lambda s: classified(n, 3, s), "multilabel": lambda s: labelled(n, 2, s)}
    made = make.get(task, lambda s: measured(n, 2, s))
    (first, targets), (second, _) = made(32), made(33)
    copies = np.random.default_rng(37).permutation(np.repeat(np.arange(n), 4))
    fourfold = [first[copies], second[copies]]
    once = bootstrap(task, [first, second], targets, 100, 5)
    together = bootstrap(task, fourfold, targets[copies], 100, 5, units=copies * 7 + 3)
    for name, ends in once.items():
        assert together[name] == pytest.approx(ends, abs=1e-9)
    once = bootstrap(task, [first], targets, 100, 5)
    alone = bootstrap(task, fourfold[:1], targets[copies], 100, 5)
    for name, (low, high) in once.items():
        assert high - low > 1.4 * (alone[name][1] - alone[name][0])  # 2 in the limit
    metric = METRICS[task][0]
    once = paired_difference(task, metric, [first], [second], targets, 100, 5)
    together = paired_difference(task, metric, fourfold[:1], fourfold[1:], targets[copies], 100, 5, units=copies)
    assert together["ci95"] == pytest.approx(once["ci95"], abs=1e-9)


def test_units_of_one_sequence_each_are_no_units():
    (a, targets), (b, _) = classified(70, 3, seed=34), classified(70, 3, seed=35)
    each = np.arange(70)
    assert bootstrap("classification", [a, b], targets, 50, 6, units=each) == bootstrap(
        "classification", [a, b], targets, 50, 6
    )
    assert paired_difference("classification", "mcc", [a], [b], targets, 50, 6, units=each) == paired_difference(
        "classification", "mcc", [a], [b], targets, 50, 6
    )


def test_without_resamples_there_are_no_intervals():
    scores, targets = classified(30, 2, seed=15)
    assert bootstrap("classification", [scores], targets, 0, 0) == dict.fromkeys(METRICS["classification"])
    assert paired_difference("classification", "mcc", [scores], [scores], targets, 0, 0)["ci95"] is None


def test_metrics_that_are_not_defined_have_no_interval():
    scores, _ = classified(30, 2, seed=16)
    assert set(bootstrap("classification", [scores], np.zeros(30, dtype=int), 20, 0)) == {"accuracy", "f1"}


def test_resamples_without_a_class_do_not_count():
    scores, targets = classified(30, 2, seed=17)
    targets[:] = 0
    targets[4] = 1  # a third of the resamples lack it
    low, high = bootstrap("classification", [scores], targets, 100, 0)["auroc"]
    assert 0 <= low <= high <= 1


def test_large_test_sets_get_fewer_resamples(monkeypatch):
    assert resamples_within("classification", 5, 57_713, 3, 1000) == 1000
    assert resamples_within("multilabel", 5, 57_713, 919, 1000) == 100
    assert resamples_within("multilabel", 5, 57_713, 919, 20) == 20
    drawn = []
    original = np.bincount
    monkeypatch.setattr(metrics_module, "_WORK", 60 * 2 * 150)
    monkeypatch.setattr(metrics_module.np, "bincount", lambda *a, **k: drawn.append(1) or original(*a, **k))
    scores, targets = measured(60, 1, seed=18)
    bootstrap("regression", [scores, scores], targets, 1000, 0)
    assert len(drawn) == 150


def test_interval_leaves_out_what_is_not_a_number():
    assert interval(np.array([np.nan, 1.0, 2.0, 3.0])) == pytest.approx([1.05, 2.95])
    assert interval(np.array([np.nan])) is None


# --------------------------------------------------------------------------------- paired differences


def test_difference_of_a_model_to_itself_is_zero():
    scores, targets = classified(100, 3, seed=19)
    for metric in METRICS["classification"]:
        found = paired_difference("classification", metric, [scores], [scores], targets, 50, 0)
        assert found == {"difference": 0.0, "ci95": [0.0, 0.0]}


def test_difference_is_that_of_means_on_the_same_resamples():
    a, targets = classified(200, 2, seed=20, skill=2.0)
    b, c = (classified(200, 2, seed=20, skill=skill)[0] for skill in (1.0, 0.5))
    found = paired_difference("classification", "auroc", [a], [b, c], targets, 100, 3)
    each = [metrics_of("classification", scores, targets)["auroc"] for scores in (a, b, c)]
    assert found["difference"] == pytest.approx(each[0] - (each[1] + each[2]) / 2)
    assert found["ci95"][0] < found["difference"] < found["ci95"][1]
    apart = [bootstrap("classification", [scores], targets, 100, 3)["auroc"] for scores in (a, b)]
    paired = paired_difference("classification", "auroc", [a], [b], targets, 100, 3)["ci95"]
    assert paired[1] - paired[0] < (apart[0][1] - apart[0][0]) + (apart[1][1] - apart[1][0])
    turned = paired_difference("classification", "auroc", [b, c], [a], targets, 100, 3)
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert turned["ci95"] == pytest.approx([-found["ci95"][1], -found["ci95"][0]])


def test_models_share_resampled_sequences_and_seeds():
    """Every seed of b is right where that of a is, and on one sequence in ten more: seeds that differ widely cancel."""
    n = 1000
    targets = np.arange(n) % 2
    place = np.random.default_rng(36).permutation(n)
    a, b = (
        [np.eye(2)[np.where(place < most, targets, 1 - targets)] for most in range(least, least + 500, 100)]
        for least in (400, 500)
    )
    found = paired_difference("classification", "accuracy", b, a, targets, 200, 0)
    assert found["difference"] == pytest.approx(0.1)
    assert 0.08 < found["ci95"][0] < 0.1 < found["ci95"][1] < 0.12
    turned = paired_difference("classification", "accuracy", b[::-1], a, targets, 200, 0)  # seeds of others
    assert turned["ci95"][0] < -0.05 < 0.25 < turned["ci95"][1]


def test_models_that_differ_in_their_seeds_only_seldom_seem_to_differ():
    """Accuracies of 0.8 with a standard deviation over seeds of 0.05: resampled test sets alone part half of the pairs."""
    n, apart = 400, 0
    for draw in range(60):
        rng = np.random.default_rng(draw)
        targets = rng.integers(2, size=n)
        right = rng.random((10, n)) < 0.8 + 0.05 * rng.normal(size=(10, 1))
        scores = list(np.eye(2)[np.where(right, targets, 1 - targets)])
        low, high = paired_difference("classification", "accuracy", scores[:5], scores[5:], targets, 60, draw)["ci95"]
        apart += not low <= 0 <= high
    assert 0.01 <= apart / 60 <= 0.2


def test_difference_that_is_not_defined():
    scores, _ = classified(20, 2, seed=21)
    found = paired_difference("classification", "mcc", [scores], [scores], np.zeros(20, dtype=int), 10, 0)
    assert found == {"difference": None, "ci95": None}


# -------------------------------------------------------------------------- calibration and confusion


def test_calibrated_scores_have_no_calibration_error():
    rng = np.random.default_rng(22)
    logits = rng.normal(scale=2, size=(40_000, 3))
    probability = softmax(logits, axis=1)
    targets = (rng.random((40_000, 1)) > probability.cumsum(1)).sum(1).clip(max=2)
    found = calibration([logits], targets)
    assert found["ece"] < 0.01
    assert calibration([3 * logits], targets)["ece"] > 0.1  # too sure
    assert sum(row["count"] for row in found["bins"]) == 40_000
    assert [row["from"] for row in found["bins"]] == pytest.approx(np.arange(10) / 10)
    assert found["bins"][0] == {"from": 0.0, "to": 0.1, "count": 0, "confidence": None, "accuracy": None}


def test_calibration_error_is_that_of_torchmetrics():
    scores, targets = classified(500, 3, seed=23)
    expected = tm.calibration_error(
        torch.tensor(scores).double(), torch.tensor(targets), task="multiclass", num_classes=3, n_bins=10
    )
    assert calibration([scores], targets)["ece"] == pytest.approx(float(expected), abs=1e-6)
    for row in calibration([scores, scores], targets, bins=7)["bins"]:
        assert row["count"] % 2 == 0
        assert row["confidence"] is None or row["from"] < row["confidence"] <= row["to"]


def test_confusion_rows_sum_to_the_classes():
    (first, targets), (second, _) = classified(90, 4, seed=24), classified(90, 4, seed=25)
    found = confusion([first, second], targets, 5)
    assert found.sum(1).tolist() == np.bincount(targets, minlength=5).tolist()
    expected = [sk.confusion_matrix(targets, scores.argmax(1), labels=range(5)) for scores in (first, second)]
    assert np.array_equal(found, np.mean(expected, axis=0))


def test_metrics_of_many_confusion_matrices_at_once():
    made = [classified(50, 3, seed) for seed in range(6)]
    matrices = np.stack([confusion([scores], targets, 3) for scores, targets in made]).reshape(2, 3, 3, 3)
    found = of_confusion(matrices)
    for name, values in found.items():
        expected = [sklearn_classification(*own)[name] for own in made]
        assert values.ravel() == pytest.approx(expected)
