"""Labels that models contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier_training.evaluation import label_quality
from classifier_training.evaluation.label_quality import cross_fitted, find_label_issues, outlier_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _labelled(*, noise: float, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    true = random.integers(0, 4, 400)
    logits = random.normal(size=(400, 4))
    logits[np.arange(400), true] += 3
    labels = np.where(random.random(400) < noise, random.integers(0, 4, 400), true)
    shares = np.exp(logits)
    return labels, shares / shares.sum(axis=1, keepdims=True)


def test_planted_label_errors_come_first() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 3, 300)
    probabilities = np.full((300, 3), 0.05)
    probabilities[np.arange(300), true] = 0.9
    probabilities += random.uniform(0, 0.02, probabilities.shape)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = true.copy()
    labels[:12] = (labels[:12] + 1) % 3
    issues = find_label_issues(labels.astype(np.int64), probabilities.astype(np.float32))
    assert set(issues.rows.tolist()) == set(range(12))
    assert (np.diff(issues.quality[issues.rows]) >= 0).all()


def test_classes_that_do_not_occur_are_no_hindrance() -> None:
    probabilities = np.tile(np.array([0.05, 0.9, 0.05], dtype=np.float32), (6, 1))
    targets = np.array([1, 1, 1, 1, 0, 0], dtype=np.int64)
    issues = find_label_issues(targets, probabilities)
    assert set(issues.rows.tolist()) <= {4, 5}
    only = find_label_issues(np.array([1, 1], dtype=np.int64), probabilities[:2])
    assert only.rows.tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_as_many_labels_are_doubtful_as_cleanlab_counts(seed: int) -> None:
    count = pytest.importorskip("cleanlab.count")
    labels, probabilities = _labelled(noise=0.1, seed=seed)
    expected = count.num_label_issues(labels, probabilities)
    assert len(find_label_issues(labels, probabilities).rows) == pytest.approx(expected, abs=2)


def test_models_are_compared_with_themselves_alone() -> None:
    labels, probabilities = _labelled(noise=0.1)
    # The second half is of a model that is never sure.
    probabilities[200:] = 0.8 * 0.25 + 0.2 * probabilities[200:]
    judges = np.repeat([0, 1], 200)
    parts = [find_label_issues(labels[rows], probabilities[rows]) for rows in (slice(200), slice(200, 400))]
    found = find_label_issues(labels, probabilities, judges)
    assert set(found.rows.tolist()) == {*parts[0].rows.tolist(), *(parts[1].rows + 200).tolist()}
    assert (np.diff(found.quality[found.rows]) >= 0).all()


def test_features_that_know_the_labels_are_believed_less() -> None:
    labels, probabilities = _labelled(noise=0.1)
    # Whatever contradicts a label does so with little confidence.
    contradicts = probabilities.argmax(axis=1) != labels
    probabilities[contradicts] = 0.7 * 0.25 + 0.3 * probabilities[contradicts]
    judges = np.zeros(len(labels), dtype=np.int64)
    fair, biased = (len(find_label_issues(labels, probabilities, judges, biased=one).rows) for one in ([], [0]))
    assert fair < 0.3 * contradicts.sum()
    assert biased == contradicts.sum()


def test_what_is_not_judged_is_not_doubtful() -> None:
    labels, probabilities = _labelled(noise=0.1)
    probabilities[:50] = np.nan
    found = find_label_issues(labels, probabilities)
    assert np.isnan(found.quality[:50]).all()
    assert found.rows.min() >= 50


def test_probes_find_wrong_labels_that_they_were_not_fitted_to() -> None:
    random = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 60)
    features = random.normal(size=(180, 20)) + 3 * np.eye(3, 20)[true]
    labels = true.copy()
    wrong = random.choice(180, 10, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 3
    probabilities = cross_fitted(features, labels, list(range(180)), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    first = np.argsort(find_label_issues(labels, probabilities).quality)[:18]
    assert len(set(first.tolist()) & set(wrong.tolist())) >= 9


def test_a_group_is_never_judged_by_itself() -> None:
    random = np.random.default_rng(0)
    # Each image has four copies with the same, arbitrary label: only a probe that saw a copy can know it.
    features = np.repeat(random.normal(size=(60, 100)), 5, axis=0)
    labels = np.repeat(random.integers(0, 2, 60), 5)
    apart = cross_fitted(features, labels, np.repeat(np.arange(60), 5).tolist(), 2)
    leaking = cross_fitted(features, labels, list(range(300)), 2)
    assert (leaking.argmax(axis=1) == labels).mean() > 0.85
    assert (apart.argmax(axis=1) == labels).mean() < 0.75


def test_the_only_image_of_a_class_is_not_judged() -> None:
    features = np.random.default_rng(0).normal(size=(41, 5))
    labels = np.array([0, 1] * 20 + [2])
    probabilities = cross_fitted(features, labels, list(range(41)), 4)
    assert np.isnan(probabilities[40]).all()
    assert np.isfinite(probabilities[:40]).all()
    assert (probabilities[:40, 3] == 0).all()


def test_classes_of_fewer_images_than_folds_are_judged() -> None:
    targets = np.repeat([0, 1, 2], 3)
    features = np.eye(3)[targets] + np.random.default_rng(0).normal(0, 0.1, (9, 3))
    found = cross_fitted(features, targets, list(range(9)), 3)
    assert (found.argmax(axis=1) == targets).all()


def test_one_class_or_one_group_alone_cannot_be_judged() -> None:
    features = np.random.default_rng(0).normal(size=(8, 5))
    assert np.isnan(cross_fitted(features, np.zeros(8, dtype=np.int64), list(range(8)), 2)).all()
    assert np.isnan(cross_fitted(features, np.array([0, 1] * 4), [0] * 8, 2)).all()


def test_an_image_of_another_kind_is_an_outlier_and_a_copy_is_none() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(103, 8)) * 0.1 + np.eye(8)[0]
    features[100] = -np.eye(8)[0]
    features[101] = features[0]
    features[102] = -np.eye(8)[1]
    is_train = np.arange(103) < 100
    is_train[102] = True
    scores = outlier_scores(features, is_train)
    assert set(np.flatnonzero(scores > 0.5).tolist()) == {100, 102}
    assert scores.min() >= 0
    assert scores.max() < 1
    assert np.isnan(outlier_scores(features[:4], np.array([True, True, False, False]))).all()


def test_outliers_among_some_of_the_training_images_are_those_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features = random.normal(0, 0.1, (900, 8)) + 1
    features[890:] = random.normal(0, 1, (10, 8)) - 1
    is_train = np.arange(900) < 800
    every = outlier_scores(features, is_train)
    monkeypatch.setattr(label_quality, "MAX_COMPARED", 200)
    some = outlier_scores(features, is_train)
    assert set(np.argsort(-some)[:10]) == set(np.argsort(-every)[:10]) == set(range(890, 900))
    assert some[890:].min() > 0.5 > np.quantile(some[:890], 0.99)
