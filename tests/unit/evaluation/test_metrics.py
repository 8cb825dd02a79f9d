from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from classifier_training.core.errors import UserError
from classifier_training.core.metrics import goal_of
from classifier_training.core.types import softmax
from classifier_training.evaluation.metrics import (
    check_monitor,
    classification_metrics,
    confusion_counts,
    cross_entropies,
    metric_names,
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(200, 8)).astype(np.float32)
TARGETS = RANDOM.integers(0, 7, 200)  # class 7 never occurs
NAMES = tuple("abcdefgh")


def test_figures_are_scikit_learns() -> None:
    losses = cross_entropies(LOGITS, TARGETS)
    found = classification_metrics(LOGITS, TARGETS, losses, NAMES)
    predicted = LOGITS.argmax(1)
    assert found["acc_top1"] == pytest.approx(reference.accuracy_score(TARGETS, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = reference.balanced_accuracy_score(TARGETS, predicted)
    assert found["balanced_accuracy"] == pytest.approx(expected)
    assert found["macro_f1"] == pytest.approx(reference.f1_score(TARGETS, predicted, average="macro", zero_division=0))
    top5 = reference.top_k_accuracy_score(TARGETS, LOGITS, k=5, labels=np.arange(8))
    assert found["acc_top5"] == pytest.approx(top5)
    expected = reference.log_loss(TARGETS, softmax(LOGITS.astype(np.float64)), labels=np.arange(8))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert "acc_class_h" not in found
    assert found["acc_class_a"] == pytest.approx((predicted[TARGETS == 0] == 0).mean())
    assert set(found) < set(metric_names(NAMES))


def test_few_classes_have_no_top_five() -> None:
    found = classification_metrics(LOGITS[:, :3], TARGETS % 3, cross_entropies(LOGITS[:, :3], TARGETS % 3), NAMES[:3])
    assert "acc_top5" not in found
    assert "acc_top5" not in metric_names(NAMES[:5])


def test_confusion_counts_are_scikit_learns() -> None:
    expected = reference.confusion_matrix(TARGETS, LOGITS.argmax(1), labels=np.arange(8))
    assert (confusion_counts(TARGETS, LOGITS.argmax(1), 8) == expected).all()


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0], [0, 1e4]], dtype=np.float32)
    assert cross_entropies(logits, np.array([0, 0])).tolist() == [0, 1e4]
    assert softmax(logits).tolist() == [[1, 0], [0, 1]]


def test_a_monitor_must_be_a_metric_and_has_a_goal() -> None:
    check_monitor("val/acc_class_a", NAMES, TARGETS, setting="monitor")
    for right in ("val/ece", "val/matthews", "val/f1_class_a", "val/macro_auroc", "val/weighted_precision"):
        check_monitor(right, NAMES, TARGETS, setting="monitor")
    for wrong in ("val/acc_class_h", "val/auroc_class_h", "train/loss", "train/acc_top1", "val/nonsense"):
        with pytest.raises(UserError, match="there is no such metric"):
            check_monitor(wrong, NAMES, TARGETS, setting="monitor")
    with pytest.raises(UserError, match="there is no such metric"):
        check_monitor("val/macro_auroc", NAMES, np.zeros(5, int), setting="monitor")
    assert {goal_of(f"val/{name}") for name in ("loss", "brier", "ece", "calibrated_loss")} == {"min"}
    assert goal_of("val/cohen_kappa") == "max"
    assert goal_of("val/acc_class_x/loss") == "max"
    with pytest.raises(UserError) as caught:
        check_monitor("val/balanced_acuracy", NAMES, TARGETS, setting="monitor")
    assert caught.value.remedy == "monitor=val/balanced_accuracy"
