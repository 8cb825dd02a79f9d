from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from classifier_training.core.types import VAL, SplitResult
from classifier_training.evaluation.metrics import classification_metrics
from classifier_training.workflows.training.heads import score_error
from classifier_training.workflows.training.kept_weights import HALF, LESS, MORE, choose_share, interpolate


def run(monitor: str) -> Any:
    mode = "min" if monitor == "val/loss" else "max"
    return SimpleNamespace(monitor=monitor, monitor_mode=mode, class_names=("a", "b"))


def result(wrong: int, number: int = 100) -> SplitResult:
    """Predictions for as many images of either class, of which the first are wrong."""
    targets = np.arange(number) % 2
    predicted = np.where(np.arange(number) < wrong, 1 - targets, targets)
    logits = np.eye(2, dtype=np.float32)[predicted] * 4
    losses = np.where(predicted == targets, 0.02, 4.02).astype(np.float32)
    return SplitResult(
        VAL, logits, targets, np.arange(number), losses, classification_metrics(logits, targets, losses, ("a", "b"))
    )


def test_the_plain_mean_is_kept_unless_another_scores_clearly_higher() -> None:
    def chosen(*wrong: int, monitor: str = "val/balanced_accuracy") -> float:
        shares = (HALF, *LESS, *MORE)
        return choose_share(run(monitor), {share: result(number) for share, number in zip(shares, wrong, strict=True)})

    assert chosen(10, 10, 10, 10) == 0.5
    # One image of a hundred is no more than the standard error.
    assert chosen(10, 9, 12, 9) == 0.5
    assert chosen(10, 9, 4, 6) == 0.75
    assert chosen(10, 12, 4, 3) == 1.0
    assert chosen(10, 12, 14, 3, monitor="val/loss") == 1.0
    assert chosen(3, 4, 10, 12, monitor="val/loss") == 0.5


@pytest.mark.parametrize("metric", ["acc_class_b", "auroc_class_b", "macro_auroc"])
def test_a_resample_without_a_class_gives_no_metric_of_it(metric: str) -> None:
    targets = np.array([0] * 9 + [1])
    logits = np.eye(2, dtype=np.float32)[targets] + np.linspace(0, 1, 20, dtype=np.float32).reshape(10, 2)
    one = SplitResult(VAL, logits, targets, np.arange(10), np.ones(10, np.float32), {})
    assert np.isfinite(score_error(run(f"val/{metric}"), one))


def test_interpolation_takes_counters_from_the_second() -> None:
    before = {"weight": torch.tensor([0.0, 1.0]), "seen": torch.tensor(3)}
    after = {"weight": torch.tensor([1.0, 3.0]), "seen": torch.tensor(8)}
    found = interpolate(before, after, 0.25)
    assert found["weight"].tolist() == [0.25, 1.5]
    assert found["seen"] == 8
    assert torch.equal(interpolate(before, after, 1.0)["weight"], after["weight"])
