"""Labels that a network contradicts."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.workflows.evaluating.label_report import find_label_issues

pytest.importorskip("cleanlab")


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
